"""Where clients are trained: all that a worker needs, and how it works a chunk off."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from jaxtyping import Bool, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Client, Descent, Failure, Shard, Update
from fl_sim.engine import cohort, faults
from fl_sim.engine.cohort import Batch
from fl_sim.engine.faults import Faults
from fl_sim.engine.orders import Chunk, Done, Order, Room, Task, Tensors, settled
from fl_sim.engine.scores import logits
from fl_sim.engine.stacks import is_row_of_layers
from fl_sim.engine.timeouts import time_limit
from fl_sim.engine.update_checks import Asked, checked, failure, in_words
from fl_sim.experiment import FailurePolicy
from fl_sim.models.batches import least_batch
from fl_sim.models.features import trainable
from fl_sim.models.parameters import Slots
from fl_sim.momentum import fits, running_mean
from fl_sim.schedule import Schedule
from fl_sim.seeding import generator, torch_seeded


@dataclass(eq=False)
class Workshop:
    """Trains clients, one after another or a cohort at once.

    Attributes:
        schedule: who behaves how in which round.
        model: a workbench; parameters and buffers are loaded before each use.
        inputs, clean_inputs, labels: of the records that anybody trains on; `clean_inputs` are
            those before any protection, the same tensor where nobody starts to protect late.
        protected: which of them carry noise, from the round on in which protection begins.
        owners: each client's rows of them: of attackers beside the clients that share the
            images, what they train on.
        num_classes: of the labels.
        faults: failures to inject, for tests.
        batch: the records that a cohort is trained on at the moment.
    """

    schedule: Schedule
    model: nn.Sequential
    inputs: Shaped[Tensor, "n ..."]
    clean_inputs: Shaped[Tensor, "n ..."]
    labels: Int64[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    owners: list[Int64[Tensor, " _"]]
    num_classes: int
    faults: Faults = field(default_factory=Faults)
    batch: Batch = field(default_factory=Batch)
    _room: Room | None = None
    _row: Tensor | None = None  # where the next client's update is to be written

    @property
    def policy(self) -> FailurePolicy:
        """What happens to a client that fails."""
        return self.schedule.experiment.failures

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.schedule.experiment.seed

    @cached_property
    def sizes(self) -> list[int]:
        """Number of examples of each client, as the server counts them.

        Attackers beside the clients that hold any count as much as these do on average.
        """
        holders = self.owners[: self.schedule.experiment.data.num_clients]
        sizes = [len(own) for own in holders]
        mean = round(sum(sizes) / max(1, sum(map(bool, sizes))))
        return sizes + [mean] * (len(self.owners) - len(holders))

    @cached_property
    def allows_cohorts(self) -> bool:
        """Whether the model is one of which many can be trained as one batch."""
        return is_row_of_layers(self.model)

    def round_inputs(self, number: int) -> Shaped[Tensor, "n ..."]:
        """Return the inputs of all records in round `number`."""
        return self.inputs if self.schedule.protects(number) else self.clean_inputs

    def shard(self, client: int, number: int = 1) -> Shard:
        """Return what `client` trains on in round `number`."""
        own = self.owners[client]
        # Several times as fast as inputs[own], for images.
        inputs = trainable(self.round_inputs(number).index_select(0, own))
        noisy = self.protected.index_select(0, own) & self.schedule.protects(number)
        return Shard(
            client, inputs, self.labels[own], own, self.num_classes, number, protected=noisy
        )

    @cached_property
    def slots(self) -> Slots:
        """Where the model keeps what is loaded before each client."""
        return Slots(self.model)

    @property
    def least_batch(self) -> int:
        """Fewest records on which the model can be trained at once."""
        return least_batch(self.model, trainable(self.inputs[:1]))

    def asked(self, order: Order, client: int) -> Asked:
        """Return what `client` is asked, and what it may send: by what the server knows."""
        size, honest = self.sizes[client], self.schedule.experiment.client
        trains = len(self.owners[client]) > 0
        sends = honest.sends(order.received) if trains else {}
        return Asked(order, client, size, sends, trains)

    def cost(self, client: int, number: int) -> float:
        """Return the steps of a client in round `number`; 1 where it does not say."""
        behaviour = self.schedule.behaviour(client, number)
        try:
            return float(behaviour.num_steps(self.sizes[client]))
        except KeyboardInterrupt:
            raise
        except BaseException:  # a client's own, which is found out when it is its turn
            return 1.0

    def work(self, order: Order, chunk: Chunk) -> Done:
        """Train the clients of a chunk; what fails is tried again as the policy says."""
        updates: list[Update] = []
        failures: list[Failure] = []
        together = self._together(order, chunk)
        # What a worker of Ray returns may still be on its way when the next chunk begins.
        reuses = order.adds_up and not together and not faults.in_worker
        room = self._room_for(order, chunk) if reuses else None
        for position, task in enumerate(chunk):
            self._row = None if room is None else room.rows[position]
            for answer in together.get(task.client) or self._tries(order, task):
                (updates if isinstance(answer, Update) else failures).append(answer)  # type: ignore[arg-type]
        self._row = None
        return settled(chunk, updates, failures, order.adds_up, room)

    def _room_for(self, order: Order, chunk: Chunk) -> Room:
        """Return room for a chunk's updates: they are gone once it is added up."""
        if self._room is None or len(self._room.rows) < len(chunk):
            self._room = Room.of(len(chunk), len(order.parameters))
        return self._room

    def _together(self, order: Order, chunk: Chunk) -> dict[int, list[Update | Failure]]:
        """Return the answers of the clients that can be trained as cohorts, by client."""
        if not order.cohort or self.policy.timeout is not None:
            return {}
        kinds: dict[Descent, list[Task]] = {}
        for task in chunk:
            settings = self._tried_descent(order, task)
            struck = self.faults.drawn(self.seed, order.round, task.client, task.attempt)
            if settings is not None and not struck:
                kinds.setdefault(settings, []).append(task)
        return {
            own.client: self._cohort_answers(order, own)
            for settings, tasks in kinds.items()
            for own in self._cohort(order, tuple(tasks), settings)
        }

    def _tried_descent(self, order: Order, task: Task) -> Descent | None:
        """Return how a client trains in a cohort; None where it would fail, which it does alone."""
        try:
            settings = self._descent(order, task.client)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a client's own, which is found out when it is its turn
            return None
        usable = not (settings and settings.worker_momentum) or fits(order.parameters, task.memory)
        return settings if usable else None

    def _cohort_answers(self, order: Order, update: Update) -> list[Update | Failure]:
        """Return what a client of a cohort sends, checked: mostly what was trained."""
        client = update.client
        behaviour = self.schedule.behaviour(client, order.round)
        if type(behaviour).replies is Client.replies:
            return checked((update,), self.asked(order, client))
        try:
            replies = behaviour.replies(update, self.shard(client, order.round))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return [failure(order.round, client, in_words(error))]
        return checked(replies, self.asked(order, client))

    def _descent(self, order: Order, client: int) -> Descent | None:
        """Return how a client trains in a cohort; None where it has to be trained by itself."""
        if not (order.cohort and self.allows_cohorts and len(self.owners[client])):
            return None
        settings = self.schedule.behaviour(client, order.round).descent(order.round)
        return settings and replace(settings, mu=settings.mu or order.proximal_mu)

    def _cohort(self, order: Order, chunk: Chunk, settings: Descent) -> list[Update]:
        clients, number = [task.client for task in chunk], order.round
        self.slots.load(order.parameters, order.buffers)
        trained = cohort.train(self, order.parameters, settings, number, clients)
        losses = self._losses(order, settings, clients, trained.losses)
        deltas = trained.parameters.sub_(order.parameters)
        memories = [task.memory for task in chunk]
        if settings.worker_momentum:
            memories = [dict(memory) for memory in memories]
            for k, memory in enumerate(memories):
                deltas[k] = running_mean(settings.worker_momentum, deltas[k], memory)
        return [
            Update(
                client=task.client,
                delta=deltas[k],
                buffers=order.buffers,
                num_examples=self.sizes[task.client],
                metrics={"train_loss": trained.losses[k], "train_accuracy": trained.accuracies[k]},
                loss=losses[k],
                memory=memories[k],
            )
            for k, task in enumerate(chunk)
        ]

    def _losses(
        self, order: Order, settings: Descent, clients: list[int], in_training: list[float]
    ) -> list[float]:
        """Return the loss of the model as it came on each shard, where the rule asks for it.

        Where training is a single step, it began there: that loss is known already.
        """
        if not order.needs_losses:
            return [float("nan")] * len(clients)
        return [
            known
            if settings.takes_all_at_once(self.sizes[client])
            else self.loss(self.shard(client, order.round))
            for client, known in zip(clients, in_training, strict=True)
        ]

    def _tries(self, order: Order, task: Task) -> Iterator[Update | Failure]:
        """Yield the failures of a client, and its update if one comes."""
        retries = self.policy.retries if self.policy.on_failure == "retry" else 0
        for attempt in range(task.attempt, max(retries, task.attempt) + 1):
            try:
                with time_limit(self.policy.timeout):
                    answers = self.answers(order, _at(task, attempt))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: a client cannot end the run
                yield failure(order.round, task.client, in_words(error))
                continue
            yield from answers
            if any(isinstance(answer, Update) for answer in answers):
                return

    def answers(self, order: Order, task: Task) -> list[Update | Failure]:
        """Return what a client sends at one attempt, checked; the first answer counts."""
        client = task.client
        self.faults.strike(self.seed, order.round, client, task.attempt)
        behaviour = self.schedule.behaviour(client, order.round)
        shard, settings = self.shard(client, order.round), self._descent(order, client)
        if settings is not None:
            (update,) = self._cohort(order, (task,), settings)
        else:
            update, shard = self.trained(order, task, behaviour, shard)
        update = replace(update, num_examples=self.sizes[client])
        update = self.faults.spoil(update, self.seed, order.round, task.attempt)
        return checked(behaviour.replies(update, shard), self.asked(order, client))

    def trained(
        self, order: Order, task: Task, behaviour: Client, shard: Shard
    ) -> tuple[Update, Shard]:
        """Return the update of one client, and its shard with what it now remembers."""
        number, client = order.round, task.client
        self.slots.load(order.parameters, order.buffers)
        shard = replace(
            shard,
            proximal_mu=order.proximal_mu,
            received=_copied(order.received),
            memory=_copied(task.memory),
        )
        loss = self.loss(shard) if order.needs_losses and len(shard) else float("nan")
        rng = generator(self.seed, "round", number, "client", client)
        metrics = {"train_loss": float("nan"), "train_accuracy": float("nan")}
        if len(shard):
            with torch_seeded(self.seed, "round", number, "layers", client):  # of dropout
                metrics = behaviour.train(self.model, shard, rng)
        delta = self.slots.change_from(order.parameters, self._row)
        update = Update(
            client=client,
            delta=delta,
            buffers=self.slots.buffers(),
            num_examples=len(shard),
            metrics=metrics,
            loss=loss,
            sent=shard.sent,
            memory=shard.memory,
        )
        return update, shard

    def loss(self, shard: Shard) -> float:
        """Return the mean loss of the model as it is on a shard."""
        scores = logits(self.model, shard.inputs)
        return float(functional.cross_entropy(scores, shard.labels))


def _at(task: Task, attempt: int) -> Task:
    return task if task.attempt == attempt else replace(task, attempt=attempt)


def _copied(tensors: Tensors) -> Tensors:
    """Return tensors that a client may write into."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
