"""Local training of a chunk of clients, and the retries of those that fail.

A client runs code of a user or an attacker: whatever it raises is a failure of that client, and
never ends the run. Hence the many `except BaseException`, which also stop a SystemExit.
"""

import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Client, Failure, SgdConfig, Shard, Update
from fl_sim.core.compilation import is_compilation_on
from fl_sim.core.device import (
    CPU,
    device_of,
    empty_cache,
    has_float64,
    is_out_of_memory,
    move,
    on_device,
)
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.experiment import FailurePolicy
from fl_sim.federation.federation import Federation
from fl_sim.federation.shards import ClientShards
from fl_sim.models.batches import min_batch_size
from fl_sim.models.features import to_trainable
from fl_sim.models.parameters import ModelTensors, select_statistics
from fl_sim.models.scoring import compute_logits
from fl_sim.models.tuning import TrainedPart
from fl_sim.schedule import Schedule
from fl_sim.training import batched_clients, faults
from fl_sim.training.batched_clients import BatchBuffer, can_batch
from fl_sim.training.faults import NO_FAULTS, Faults
from fl_sim.training.momentum import can_update_mean, update_running_mean
from fl_sim.training.tasks import Chunk, ChunkResult, ClientTask, RoundConfig, Tensors, finish_chunk
from fl_sim.training.timeouts import time_limit
from fl_sim.training.update_checks import (
    ExpectedUpdate,
    check_replies,
    describe_error,
    make_failure,
)

LOG = logging.getLogger("fl_sim")
OnUpdate = Callable[[RoundConfig, Update], None]


@dataclass(eq=False)
class ClientTrainer:
    """Trains clients, one after another or many as one batch.

    Attributes:
        shards: The records of all clients.
        model: The network that is trained; parameters and buffers are loaded before each use.
        faults: Failures to inject, for tests.
        batch_buffer: Memory for the records of clients that are trained as one batch.
        max_batch: Most clients that the device's memory holds as one batch; None: no limit is
            known.
    """

    shards: ClientShards
    model: nn.Sequential
    faults: Faults = NO_FAULTS
    batch_buffer: BatchBuffer = field(default_factory=BatchBuffer)
    max_batch: int | None = None
    _config: tuple[RoundConfig, RoundConfig] | None = None  # as given, and on the device
    _deltas: Tensor | None = None  # reused by one chunk after another: fresh pages cost time
    _total: Tensor | None = None  # reused likewise
    _delta_out: Tensor | None = None  # receives the next client's update, if not None

    def __post_init__(self) -> None:
        # Copies and pickles of a network are not compiled.
        model = self.model
        if isinstance(model, TrainedPart) and model.is_compiled and not model._compiled_call_impl:
            model.compile()

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
        """True if many models of this kind can be trained as one batch."""
        with on_device(self.device):
            return can_batch(self.model, self.shards.inputs)

    @cached_property
    def device(self) -> torch.device:
        """The device of the model and the records, on which clients are trained."""
        return device_of(self.model)

    @cached_property
    def model_tensors(self) -> ModelTensors:
        """Loads parameters and buffers into the model in place."""
        return ModelTensors(self.model)

    @property
    def min_batch_size(self) -> int:
        """Smallest number of records on which the model can take a step."""
        with on_device(self.device):
            return min_batch_size(self.model, to_trainable(self.shards.inputs[:1]))

    def describe_expected_update(self, config: RoundConfig, client: int) -> ExpectedUpdate:
        """Return the server's own knowledge of what `client` is asked and may send."""
        size, honest = self.shards.sizes[client], self.schedule.experiment.client
        trains = len(self.shards.owners[client]) > 0
        sends = honest.sent_shapes(config.received) if trains else {}
        return ExpectedUpdate(config, client, size, sends, trains)

    def estimate_steps(self, client: int, round_num: int) -> float:
        """Return the number of steps of a client in a round; 1 if its code does not give one."""
        behaviour = self.schedule.behaviour(client, round_num)
        try:
            return float(behaviour.num_steps(self.shards.sizes[client]))
        except KeyboardInterrupt:
            raise
        except BaseException:  # the client will fail alike when it is trained
            return 1.0

    def train_chunk(
        self, config: RoundConfig, chunk: Chunk, on_update: OnUpdate | None = None
    ) -> ChunkResult:
        """Train the clients of a chunk; failed clients are retried as the policy says.

        Args:
            config: The settings of the round.
            chunk: The clients, and the factors of their updates.
            on_update: Called with each update, on the CPU, before the updates are summed. The next
                chunk may overwrite its delta.

        Returns:
            The result, whose tensors are on the device of the model.
        """
        with on_device(self.device):
            return self._train_chunk(self._bring(config), self._bring_tasks(chunk), on_update)

    def _bring(self, config: RoundConfig) -> RoundConfig:
        """Return the settings of a round on the device, moved once for all its chunks."""
        if self.device == CPU or config.parameters.device == self.device:
            return config
        if self._config is None or self._config[0] is not config:
            self._config = config, move(config, self.device)
        return self._config[1]

    def _bring_tasks(self, chunk: Chunk) -> Chunk:
        """Return the clients of a chunk with their states on the device."""
        return chunk if self.device == CPU else move(chunk, self.device)

    def _train_chunk(
        self, config: RoundConfig, chunk: Chunk, on_update: OnUpdate | None
    ) -> ChunkResult:
        updates: list[Update] = []
        failures: list[Failure] = []
        batched = self._train_batched(config, chunk)
        # Not in a Ray worker: the object store may still read a result when the next chunk begins.
        reuse = config.sum_updates and not batched and not faults.in_worker
        deltas, total = self._get_sum_buffers(config, chunk) if reuse else (None, None)
        for position, task in enumerate(chunk):
            self._delta_out = None if deltas is None else deltas[position]
            for answer in batched.get(task.client) or self._train_with_retries(config, task):
                (updates if isinstance(answer, Update) else failures).append(answer)  # type: ignore[arg-type]
        self._delta_out = None
        if on_update is not None:
            for update in updates:
                on_update(move(config, CPU), move(update, CPU))
        if not has_float64(self.device):
            updates, deltas, total = move(updates, CPU), None, None
        return finish_chunk(chunk, updates, failures, config.sum_updates, deltas, total)

    def _get_sum_buffers(self, config: RoundConfig, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Return memory for the deltas of a chunk and for their sum in float64."""
        size = len(config.parameters)
        if self._deltas is None or self._total is None or len(self._deltas) < len(chunk):
            self._deltas = torch.empty(len(chunk), size, dtype=config.parameters.dtype)
            self._total = torch.empty(size, dtype=torch.float64)
        return self._deltas, self._total

    def _train_batched(
        self, config: RoundConfig, chunk: Chunk
    ) -> dict[int, list[Update | Failure]]:
        """Train those clients of a chunk that can be batched; return their answers by client."""
        # A time limit is for a single client, and a batch has no time per client.
        if not config.batch_clients or self.policy.timeout is not None:
            return {}
        tasks_by_config: dict[SgdConfig, list[ClientTask]] = {}
        for task in chunk:
            sgd = self._try_sgd_config(config, task)
            fault = self.faults.draw(self.shards.seed, config.round, task.client, task.attempt)
            if sgd is not None and not fault:
                tasks_by_config.setdefault(sgd, []).append(task)
        return {
            update.client: self._check_batched(config, update)
            for sgd, tasks in tasks_by_config.items()
            for update in self._train_in_parts(config, tuple(tasks), sgd)
        }

    def _train_in_parts(
        self, config: RoundConfig, chunk: Chunk, sgd: SgdConfig
    ) -> Iterator[Update]:
        """Yield the updates of clients, of which as many as fit into memory are one batch.

        A batch that does not fit is halved. A client that does not fit by itself gets no update
        here: it is trained alone, and fails as the policy says.
        """
        while chunk:
            part = chunk[: self.max_batch]
            updates = self._try_batch(config, part, sgd)
            if updates is None and len(part) > 1:
                self.limit_batch(len(part) // 2)
                continue
            yield from updates or ()
            chunk = chunk[len(part) :]

    def _try_batch(self, config: RoundConfig, chunk: Chunk, sgd: SgdConfig) -> list[Update] | None:
        """Return the updates of clients in one batch; None if it does not fit into memory."""
        try:
            return self._train_as_batch(config, chunk, sgd)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        empty_cache(self.device)  # nothing refers to the tensors of the batch any more
        return None

    def limit_batch(self, count: int) -> None:
        """Train at most `count` clients as one batch from now on."""
        self.max_batch = count
        LOG.warning("%s", self.memory_note)

    @property
    def memory_note(self) -> str:
        """The limit that the device's memory sets, in words; empty if there is none."""
        if self.max_batch is None:
            return ""
        return f"clients in one batch: at most {self.max_batch}, for the device's memory"

    def _try_sgd_config(self, config: RoundConfig, task: ClientTask) -> SgdConfig | None:
        """Return a client's settings in a batch; None if it fails, as it will alone."""
        try:
            sgd = self._sgd_config(config, task.client)
        except KeyboardInterrupt:
            raise
        except BaseException:  # the client will fail alike when it is trained alone
            return None
        usable = not (sgd and sgd.worker_momentum) or can_update_mean(config.parameters, task.state)
        return sgd if usable else None

    def _check_batched(self, config: RoundConfig, update: Update) -> list[Update | Failure]:
        """Return the checked replies of a client that was trained in a batch."""
        client = update.client
        behaviour = self.schedule.behaviour(client, config.round)
        expected = self.describe_expected_update(config, client)
        if type(behaviour).replies is Client.replies:
            return check_replies((update,), replace(expected, norm=update.norm))
        try:
            replies = behaviour.replies(update, self.shards.shard(client, config.round))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return [make_failure(config.round, client, describe_error(error))]
        return check_replies(replies, expected)

    def _sgd_config(self, config: RoundConfig, client: int) -> SgdConfig | None:
        """Return a client's settings in a batch; None if it has to be trained alone."""
        has_data = len(self.shards.owners[client]) > 0
        if not (config.batch_clients and self.can_batch_clients and has_data):
            return None
        sgd = self.schedule.behaviour(client, config.round).sgd_config(config.round)
        return sgd and replace(sgd, mu=sgd.mu or config.proximal_mu)

    def _train_as_batch(self, config: RoundConfig, chunk: Chunk, sgd: SgdConfig) -> list[Update]:
        """Train clients with equal settings as one batch; return their updates, unchecked."""
        clients, round_num = [task.client for task in chunk], config.round
        self.model_tensors.load(config.parameters, config.buffers)
        trained = batched_clients.train_batched(
            self.model, self.shards, self.batch_buffer, config.parameters, sgd, round_num, clients
        )
        losses = self._compute_initial_losses(config, sgd, clients, trained.losses)
        deltas = trained.parameters.sub_(config.parameters)
        states = [task.state for task in chunk]
        if sgd.worker_momentum:
            states = [dict(state) for state in states]
            for k, state in enumerate(states):
                deltas[k] = update_running_mean(sgd.worker_momentum, deltas[k], state)
        norms = torch.linalg.vector_norm(deltas, dim=1).tolist()  # one wait for an accelerator
        return [
            Update(
                client=task.client,
                delta=deltas[k],
                buffers=select_statistics(config.buffers),
                num_examples=self.shards.sizes[task.client],
                norm=norms[k],
                metrics={"train_loss": trained.losses[k], "train_accuracy": trained.accuracies[k]},
                loss=losses[k],
                memory=states[k],
            )
            for k, task in enumerate(chunk)
        ]

    def _compute_initial_losses(
        self, config: RoundConfig, sgd: SgdConfig, clients: list[int], train_losses: list[float]
    ) -> list[float]:
        """Return the loss of the global model on each client's shard; NaN if it is not needed.

        A single full-batch step starts from the global model, so its training loss is that loss.
        """
        if not config.needs_losses:
            return [float("nan")] * len(clients)
        return [
            loss
            if sgd.is_full_gradient_step(self.shards.sizes[client])
            else self.compute_loss(self.shards.shard(client, config.round))
            for client, loss in zip(clients, train_losses, strict=True)
        ]

    def _train_with_retries(
        self, config: RoundConfig, task: ClientTask
    ) -> Iterator[Update | Failure]:
        """Yield the failures of a client, and its update if an attempt succeeds."""
        retries = self.policy.retries if self.policy.on_failure == "retry" else 0
        for attempt in range(task.attempt, max(retries, task.attempt) + 1):
            try:
                with time_limit(self.policy.timeout):
                    answers = self.attempt(config, replace(task, attempt=attempt))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                yield make_failure(config.round, task.client, describe_error(error))
                continue
            yield from answers
            if any(isinstance(answer, Update) for answer in answers):
                return

    def attempt(self, config: RoundConfig, task: ClientTask) -> list[Update | Failure]:
        """Train a client once, and return its checked replies; the first answer counts."""
        with on_device(self.device):
            return self._attempt(self._bring(config), task)

    def _attempt(self, config: RoundConfig, task: ClientTask) -> list[Update | Failure]:
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
        """Train one client alone; return its unchecked update, and its shard with its new state.

        Both are on the device of the model.
        """
        with on_device(self.device):
            if self.device != CPU:
                config = self._bring(config)
                (task,), shard = self._bring_tasks((task,)), move(shard, self.device)
            return self._train_client(config, task, behaviour, shard)

    def _train_client(
        self, config: RoundConfig, task: ClientTask, behaviour: Client, shard: Shard
    ) -> tuple[Update, Shard]:
        round_num, client = config.round, task.client
        self.model_tensors.load(config.parameters, config.buffers)
        received, memory = _copy(config.received), _copy(task.state)
        shard = replace(shard, proximal_mu=config.proximal_mu, received=received, memory=memory)
        loss = self.compute_loss(shard) if config.needs_losses and len(shard) else float("nan")
        rng = generator(self.shards.seed, "round", round_num, "client", client)
        metrics = {"train_loss": float("nan"), "train_accuracy": float("nan")}
        if len(shard):
            with seed_torch(self.shards.seed, "round", round_num, "layers", client):  # of dropout
                metrics = behaviour.train(self.model, shard, rng)
        delta = self.model_tensors.subtract(config.parameters, self._delta_out)
        update = Update(
            client=client,
            delta=delta,
            buffers=self.model_tensors.copy_buffers(),
            num_examples=len(shard),
            metrics=metrics,
            loss=loss,
            sent=shard.sent,
            memory=shard.memory,
        )
        return update, shard

    def compute_loss(self, shard: Shard) -> float:
        """Return the mean cross-entropy of the current model on a shard."""
        scores = compute_logits(self.model, shard.inputs)
        return float(functional.cross_entropy(scores, shard.labels))


def make_trainer(federation: Federation, faults: Faults = NO_FAULTS) -> ClientTrainer:
    """Return a trainer of a federation's clients that has its own copy of the model."""
    model: Any = deepcopy(federation.model)
    model.is_compiled = is_compilation_on()
    return ClientTrainer(federation.shards, model, faults)


def _copy(tensors: Tensors) -> Tensors:
    """Return copies, which a client may overwrite."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
