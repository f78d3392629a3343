"""Where clients are trained: all that a worker needs, and how it works a chunk off."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Client, Failure, SgdConfig, Shard, Update
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.experiment import FailurePolicy
from fl_sim.federation.federation import Federation
from fl_sim.federation.shards import ClientShards
from fl_sim.models.batches import min_batch_size
from fl_sim.models.features import to_trainable
from fl_sim.models.parameters import ModelTensors
from fl_sim.models.scoring import compute_logits
from fl_sim.schedule import Schedule
from fl_sim.training import batched_clients, faults
from fl_sim.training.batched_clients import BatchBuffer
from fl_sim.training.batched_layers import can_batch
from fl_sim.training.faults import NO_FAULTS, Faults
from fl_sim.training.momentum import can_update_mean, update_running_mean
from fl_sim.training.tasks import (
    Chunk,
    ChunkBuffers,
    ChunkResult,
    ClientTask,
    RoundConfig,
    Tensors,
    finish_chunk,
)
from fl_sim.training.timeouts import time_limit
from fl_sim.training.update_checks import (
    ExpectedUpdate,
    check_replies,
    describe_error,
    make_failure,
)

OnUpdate = Callable[[RoundConfig, Update], None]


@dataclass(eq=False)
class ClientTrainer:
    """Trains clients, one after another or many small ones as one batch.

    Attributes:
        shards: The records of all clients.
        model: The network that is trained; parameters and buffers are loaded before each use.
        faults: Failures to inject, for tests.
        batch: The records that clients are trained on as one batch at the moment.
    """

    shards: ClientShards
    model: nn.Sequential
    faults: Faults = NO_FAULTS
    batch_buffer: BatchBuffer = field(default_factory=BatchBuffer)
    _buffers: ChunkBuffers | None = None
    _delta_out: Tensor | None = None  # where the next client's update is to be written

    @property
    def schedule(self) -> Schedule:
        """The behaviour of each client in each round."""
        return self.shards.schedule

    @property
    def policy(self) -> FailurePolicy:
        """The policy for clients that fail."""
        return self.schedule.experiment.failures

    @cached_property
    def can_batch_clients(self) -> bool:
        """Whether the model is one of which many can be trained as one batch."""
        return can_batch(self.model)

    @cached_property
    def model_buffers(self) -> ModelTensors:
        """Where the model keeps what is loaded before each client."""
        return ModelTensors(self.model)

    @property
    def min_batch_size(self) -> int:
        """Fewest records on which the model can be trained at once."""
        return min_batch_size(self.model, to_trainable(self.shards.inputs[:1]))

    def describe_expected_update(self, config: RoundConfig, client: int) -> ExpectedUpdate:
        """Return what `client` is asked, and what it may send: by what the server knows."""
        size, honest = self.shards.sizes[client], self.schedule.experiment.client
        trains = len(self.shards.owners[client]) > 0
        sends = honest.sent_shapes(config.received) if trains else {}
        return ExpectedUpdate(config, client, size, sends, trains)

    def estimate_steps(self, client: int, round_num: int) -> float:
        """Return the steps of a client in round `number`; 1 where it does not say."""
        behaviour = self.schedule.behaviour(client, round_num)
        try:
            return float(behaviour.num_steps(self.shards.sizes[client]))
        except KeyboardInterrupt:
            raise
        except BaseException:  # a client's own, which is found out when it is its turn
            return 1.0

    def train_chunk(
        self,
        config: RoundConfig,
        chunk: Chunk,
        on_update: OnUpdate | None = None,
    ) -> ChunkResult:
        """Train the clients of a chunk; clients that fail are retried as the policy says.

        Args:
            config: The settings of the round.
            chunk: The clients, and their factors.
            on_update: Called with each update before they are added up. Its delta may be
                overwritten by the next chunk.
        """
        updates: list[Update] = []
        failures: list[Failure] = []
        together = self._train_batched(config, chunk)
        # What a worker of Ray returns may still be on its way when the next chunk begins.
        reuses = config.sum_updates and not together and not faults.in_worker
        buffers = self._buffers_for(config, chunk) if reuses else None
        for position, task in enumerate(chunk):
            self._delta_out = None if buffers is None else buffers.rows[position]
            for answer in together.get(task.client) or self._train_with_retries(config, task):
                (updates if isinstance(answer, Update) else failures).append(answer)  # type: ignore[arg-type]
        self._delta_out = None
        if on_update is not None:
            for update in updates:
                on_update(config, update)
        return finish_chunk(chunk, updates, failures, config.sum_updates, buffers)

    def _buffers_for(self, config: RoundConfig, chunk: Chunk) -> ChunkBuffers:
        """Return room for a chunk's updates: they are gone once it is added up."""
        if self._buffers is None or len(self._buffers.rows) < len(chunk):
            self._buffers = ChunkBuffers.of(len(chunk), len(config.parameters))
        return self._buffers

    def _train_batched(
        self, config: RoundConfig, chunk: Chunk
    ) -> dict[int, list[Update | Failure]]:
        """Return the answers of the clients that can be trained as cohorts, by client."""
        if not config.batch_clients or self.policy.timeout is not None:
            return {}
        kinds: dict[SgdConfig, list[ClientTask]] = {}
        for task in chunk:
            sgd = self._try_sgd_config(config, task)
            struck = self.faults.draw(self.shards.seed, config.round, task.client, task.attempt)
            if sgd is not None and not struck:
                kinds.setdefault(sgd, []).append(task)
        return {
            own.client: self._check_batched(config, own)
            for sgd, tasks in kinds.items()
            for own in self._train_as_batch(config, tuple(tasks), sgd)
        }

    def _try_sgd_config(self, config: RoundConfig, task: ClientTask) -> SgdConfig | None:
        """Return how a client trains in a cohort; None where it would fail, which it does alone."""
        try:
            sgd = self._sgd_config(config, task.client)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a client's own, which is found out when it is its turn
            return None
        usable = not (sgd and sgd.worker_momentum) or can_update_mean(config.parameters, task.state)
        return sgd if usable else None

    def _check_batched(self, config: RoundConfig, update: Update) -> list[Update | Failure]:
        """Return what a client of a cohort sends, checked: mostly what was trained."""
        client = update.client
        behaviour = self.schedule.behaviour(client, config.round)
        if type(behaviour).replies is Client.replies:
            return check_replies((update,), self.describe_expected_update(config, client))
        try:
            replies = behaviour.replies(update, self.shards.shard(client, config.round))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return [make_failure(config.round, client, describe_error(error))]
        return check_replies(replies, self.describe_expected_update(config, client))

    def _sgd_config(self, config: RoundConfig, client: int) -> SgdConfig | None:
        """Return how a client trains in a cohort; None where it has to be trained by itself."""
        if not (
            config.batch_clients and self.can_batch_clients and len(self.shards.owners[client])
        ):
            return None
        sgd = self.schedule.behaviour(client, config.round).sgd_config(config.round)
        return sgd and replace(sgd, mu=sgd.mu or config.proximal_mu)

    def _train_as_batch(self, config: RoundConfig, chunk: Chunk, sgd: SgdConfig) -> list[Update]:
        clients, round_num = [task.client for task in chunk], config.round
        self.model_buffers.load(config.parameters, config.buffers)
        trained = batched_clients.train_batched(
            self.model, self.shards, self.batch_buffer, config.parameters, sgd, round_num, clients
        )
        losses = self._compute_initial_losses(config, sgd, clients, trained.losses)
        deltas = trained.parameters.sub_(config.parameters)
        memories = [task.state for task in chunk]
        if sgd.worker_momentum:
            memories = [dict(memory) for memory in memories]
            for k, memory in enumerate(memories):
                deltas[k] = update_running_mean(sgd.worker_momentum, deltas[k], memory)
        return [
            Update(
                client=task.client,
                delta=deltas[k],
                buffers=config.buffers,
                num_examples=self.shards.sizes[task.client],
                metrics={"train_loss": trained.losses[k], "train_accuracy": trained.accuracies[k]},
                loss=losses[k],
                memory=memories[k],
            )
            for k, task in enumerate(chunk)
        ]

    def _compute_initial_losses(
        self, config: RoundConfig, sgd: SgdConfig, clients: list[int], in_training: list[float]
    ) -> list[float]:
        """Return the loss of the model as it came on each shard, where the rule asks for it.

        Where training is a single step, it began there: that loss is known already.
        """
        if not config.needs_losses:
            return [float("nan")] * len(clients)
        return [
            known
            if sgd.is_full_gradient_step(self.shards.sizes[client])
            else self.compute_loss(self.shards.shard(client, config.round))
            for client, known in zip(clients, in_training, strict=True)
        ]

    def _train_with_retries(
        self, config: RoundConfig, task: ClientTask
    ) -> Iterator[Update | Failure]:
        """Yield the failures of a client, and its update if one comes."""
        retries = self.policy.retries if self.policy.on_failure == "retry" else 0
        for attempt in range(task.attempt, max(retries, task.attempt) + 1):
            try:
                with time_limit(self.policy.timeout):
                    answers = self.attempt(config, _with_attempt(task, attempt))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: a client cannot end the run
                yield make_failure(config.round, task.client, describe_error(error))
                continue
            yield from answers
            if any(isinstance(answer, Update) for answer in answers):
                return

    def attempt(self, config: RoundConfig, task: ClientTask) -> list[Update | Failure]:
        """Return what a client sends at one attempt, checked; the first answer counts."""
        client = task.client
        self.faults.inject(self.shards.seed, config.round, client, task.attempt)
        behaviour = self.schedule.behaviour(client, config.round)
        shard, sgd = self.shards.shard(client, config.round), self._sgd_config(config, client)
        if sgd is not None:
            (update,) = self._train_as_batch(config, (task,), sgd)
        else:
            update, shard = self.train_client(config, task, behaviour, shard)
        update = replace(update, num_examples=self.shards.sizes[client])
        update = self.faults.corrupt(update, self.shards.seed, config.round, task.attempt)
        return check_replies(
            behaviour.replies(update, shard), self.describe_expected_update(config, client)
        )

    def train_client(
        self, config: RoundConfig, task: ClientTask, behaviour: Client, shard: Shard
    ) -> tuple[Update, Shard]:
        """Return the update of one client, and its shard with what it now remembers."""
        round_num, client = config.round, task.client
        self.model_buffers.load(config.parameters, config.buffers)
        shard = replace(
            shard,
            proximal_mu=config.proximal_mu,
            received=_copy(config.received),
            memory=_copy(task.state),
        )
        loss = self.compute_loss(shard) if config.needs_losses and len(shard) else float("nan")
        rng = generator(self.shards.seed, "round", round_num, "client", client)
        metrics = {"train_loss": float("nan"), "train_accuracy": float("nan")}
        if len(shard):
            with seed_torch(self.shards.seed, "round", round_num, "layers", client):  # of dropout
                metrics = behaviour.train(self.model, shard, rng)
        delta = self.model_buffers.subtract(config.parameters, self._delta_out)
        update = Update(
            client=client,
            delta=delta,
            buffers=self.model_buffers.copy_buffers(),
            num_examples=len(shard),
            metrics=metrics,
            loss=loss,
            sent=shard.sent,
            memory=shard.memory,
        )
        return update, shard

    def compute_loss(self, shard: Shard) -> float:
        """Return the mean loss of the model as it is on a shard."""
        scores = compute_logits(self.model, shard.inputs)
        return float(functional.cross_entropy(scores, shard.labels))


def make_trainer(federation: Federation, faults: Faults = NO_FAULTS) -> ClientTrainer:
    """Return a trainer of a federation's clients, with a copy of the model of its own."""
    return ClientTrainer(federation.shards, deepcopy(federation.model), faults)


def _with_attempt(task: ClientTask, attempt: int) -> ClientTask:
    return task if task.attempt == attempt else replace(task, attempt=attempt)


def _copy(tensors: Tensors) -> Tensors:
    """Return tensors that a client may write into."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
