"""The course of a run, seen again: what each client's update says about each audited record.

A finished run keeps no updates. Since the same experiment gives the same bits, it is run once
more, and a witness scores the audited records under each model that a client sends back.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fl_sim.attacks.gradient_inversion import gradient_rank
from fl_sim.attacks.gradient_norm import HeadInputs
from fl_sim.attacks.signals import Trajectory, margin_of
from fl_sim.audit.subject import Subject, stored
from fl_sim.contracts import Update
from fl_sim.engine.crew import LocalCrew
from fl_sim.engine.environment import changed_since
from fl_sim.engine.federation import Federation, federation
from fl_sim.engine.finish import sha256_of
from fl_sim.engine.loop import State
from fl_sim.engine.orders import Chunk, Done, Order, Tensors, settled
from fl_sim.engine.progress import Listener, Progress
from fl_sim.engine.replay import states
from fl_sim.engine.scores import logits
from fl_sim.models import parameters
from fl_sim.tensor_files import write_tensors

COURSE = "audit_course.safetensors"
MOST_ROUNDS, FEWEST_ROUNDS = 10, 2
FORWARDS = 300_000  # records x clients x rounds, of networks that are more than a head


class Witness(LocalCrew):
    """Trains as ever, and scores records under each client's model in the rounds it watches."""

    def __init__(self, ours: Federation, rows: Int64[Tensor, " n"], watched: set[int]) -> None:
        """Watch the records `rows` of the pool, in the rounds `watched`."""
        super().__init__(ours.workshop)
        self.ours, self.watched = ours, watched
        self.inputs, self.labels = ours.inputs[rows], ours.pool.labels[rows]
        self.client_margin: list[Tensor] = []
        self.global_margin: list[Tensor] = []
        self.cosine: list[Tensor] = []
        self.head_rank: list[Tensor] = []

    def train(self, order: Order, chunks: list[Chunk]) -> Iterator[tuple[int, Done]]:
        """Work the chunks off; sums are made only after each update has been seen."""
        watching = order.round in self.watched
        if watching:
            self._open(order)
        for position, chunk in enumerate(chunks):
            done = self.workshop.work(replace(order, adds_up=False), chunk)
            for update in done.updates if watching else []:
                self._see(order, update)
            yield position, settled(chunk, done.updates, done.failures, order.adds_up)

    def _open(self, order: Order) -> None:
        """Score the records under the model that is sent out."""
        scores, features = self._scored(order.parameters, order.buffers)
        self.global_margin.append(margin_of(scores, self.labels))
        unknown = torch.full((self.ours.num_clients, len(self.labels)), torch.nan)
        self.client_margin.append(unknown.clone())
        self.cosine.append(unknown)
        self.head_rank.append(unknown[:, 0].clone())
        error = scores.double().softmax(1)
        error[torch.arange(len(self.labels)), self.labels] -= 1
        self._error, self._features = error, features

    def _see(self, order: Order, update: Update) -> None:
        """Score the records under a client's model, and its update against their gradients."""
        assert update.delta is not None
        scores, _ = self._scored(order.parameters + update.delta, update.buffers)
        self.client_margin[-1][update.client] = margin_of(scores, self.labels)
        if self._features is not None:
            cosine = head_cosine(update.delta, self._error, self._features)
            self.cosine[-1][update.client] = cosine.float()
            if self._took_one_step(order.round, update.client):
                weight, _ = head_of(update.delta, self._error.shape[1], self._features.shape[1])
                self.head_rank[-1][update.client] = gradient_rank(weight)

    def _took_one_step(self, number: int, client: int) -> bool:
        behaviour = self.workshop.schedule.behaviour(client, number)
        return behaviour.num_steps(self.workshop.sizes[client]) == 1

    def _scored(
        self, values: Float[Tensor, " p"], buffers: Tensors
    ) -> tuple[Float[Tensor, "n y"], Float[Tensor, "n d"] | None]:
        model = self.ours.model
        parameters.load_flat(model, values)
        parameters.load_buffers(model, buffers)
        if not ends_in_a_head(model):
            return logits(model, self.inputs), None
        collector = HeadInputs(model)
        scores = logits(model, self.inputs)
        features = collector.taken()
        return scores, None if features is None else features.flatten(1).double()


def ends_in_a_head(model: nn.Module) -> bool:
    """Return whether the last parameters are weight and bias of a linear layer."""
    owners = [module for module in model.modules() if list(module.parameters(recurse=False))]
    return bool(owners) and isinstance(owners[-1], nn.Linear) and owners[-1].bias is not None


def head_cosine(
    delta: Float[Tensor, " p"], error: Float[Tensor, "n y"], features: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Return the cosine of an update's head with minus the gradient of each record's loss.

    The gradient of a linear head is the outer product of error and feature, so no gradient has to
    be made.
    """
    weight, bias = head_of(delta, error.shape[1], features.shape[1])
    along = -(error * (features @ weight.T + bias)).sum(1)
    length = torch.hypot(weight.norm(), bias.norm())
    lengths: Tensor = error.norm(dim=1) * (features.square().sum(1) + 1).sqrt() * length
    return along / lengths.clamp(min=1e-30)


def head_of(
    delta: Float[Tensor, " p"], classes: int, dim: int
) -> tuple[Float[Tensor, "y d"], Float[Tensor, " y"]]:
    """Return weight and bias of the head at the end of an update."""
    head = delta[-classes * (dim + 1) :].double()
    return head[: classes * dim].view(classes, dim), head[classes * dim :]


def course(subject: Subject, listen: Listener) -> tuple[Trajectory | None, str]:
    """Return what a server saw of the run; or nothing, and why.

    Kept in `audit_course.safetensors`, and read back where it is there.
    """
    path, key = subject.folder / COURSE, str(subject.result["params_sha256"])
    if subject.made_with:
        return None, f"the run cannot be replayed: {not_by_itself(subject.made_with)}"
    kept = stored(path, key)
    if kept is None:
        witness, reached = _replayed(subject, listen)
        if reached != key:
            changed = changed_since(subject.folder, str(subject.result["engine"]))
            return None, f"the replay did not give the run's model: {changed}"
        kept = _keep(path, key, witness)
    suspects, cosine, rank = subject.records.clients, kept.get("cosine"), kept.get("head_rank")
    return Trajectory(kept["client_margin"], kept["global_margin"], suspects, cosine, rank), ""


def not_by_itself(made_with: dict[str, str]) -> str:
    """Return in words what changed a run's result beside its experiment."""
    words = {
        "faults": "failures were injected ({})",
        "client_app": "a ClientApp of its own trained the clients ({})",
    }
    return ", and ".join(words.get(k, k + " was {}").format(v) for k, v in made_with.items())


def _keep(path: Path, key: str, witness: Witness) -> dict[str, Tensor]:
    """Keep what a witness saw, and return it."""
    tensors = {
        "client_margin": torch.stack(witness.client_margin),
        "global_margin": torch.stack(witness.global_margin),
    }
    cosine = torch.stack(witness.cosine)
    if not bool(cosine.isnan().all()):
        tensors |= {"cosine": cosine, "head_rank": torch.stack(witness.head_rank)}
    write_tensors(path, tensors, {"key": key})
    return tensors


def witnessed(
    ours: Federation,
    rows: Int64[Tensor, " n"],
    watched: set[int],
    cohort: bool = False,
    after: Callable[[State], None] = lambda state: None,
) -> Witness:
    """Run a federation before a witness, and return that.

    Args:
        ours: the federation.
        rows: records of the pool that are scored.
        watched: rounds in which they are.
        cohort: whether small models are trained many at once, as in the run.
        after: called with the state after each round.
    """
    witness = Witness(ours, rows, watched)
    for state in states(ours, witness, cohort):
        after(state)
    return witness


def _replayed(subject: Subject, listen: Listener) -> tuple[Witness, str]:
    """Run the rounds again before a witness; return it, and the hash of the final model."""
    experiment, reached = subject.experiment, ""
    total, clients = experiment.rounds, experiment.clients_per_round

    def after(state: State) -> None:
        nonlocal reached
        label = "the run again, before a witness"
        listen(Progress(str(subject.folder), label, state.round, total, clients, float("nan")))
        if state.round == total:
            reached = sha256_of(state)

    ours = federation(experiment.to_json())
    cohort = bool(subject.result.get("cohort", False))
    witness = witnessed(ours, subject.audited, watched_rounds(subject), cohort, after)
    return witness, reached


def watched_rounds(subject: Subject) -> set[int]:
    """Return the rounds that are scored: evenly spread, the last one among them."""
    experiment = subject.experiment
    most = MOST_ROUNDS
    if experiment.model.tune != "head":
        a_round = max(1, len(subject.audited) * experiment.clients_per_round)
        most = max(FEWEST_ROUNDS, min(MOST_ROUNDS, FORWARDS // a_round))
    count = min(most, experiment.rounds)
    return {round((i + 1) * experiment.rounds / count) for i in range(count)}
