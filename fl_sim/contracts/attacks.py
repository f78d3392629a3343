"""Signals first: what models say about records, before any attack looks at it.

The one signal is the margin, phi = log p - log(1 - p) of the true class. It holds the others:
the confidence is sigmoid(phi), the loss is softplus(-phi). Axis letters: `m` models, `n` audited
records, `z` population records, `r` rounds, `k` clients.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

View = Literal["client", "server", "nobody"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What a server sees round by round, where no secure aggregation hides the updates.

    Attributes:
        client_margin: of each record under the model that each client sent back; NaN where it sent
            none in that round.
        global_margin: of each record under the model that was sent out in that round.
        suspects: the client that each record is suspected to be with.
        cosine: between each client's update and minus the gradient of each record's loss at
            the model that was sent out; None where it was not computed.
        head_rank: of the head of each client's update, NaN where it took more than one step; None
            where it was not computed.
    """

    client_margin: Float[Tensor, "r k n"]
    global_margin: Float[Tensor, "r n"]
    suspects: Int64[Tensor, " n"]
    cosine: Float[Tensor, "r k n"] | None = None
    head_rank: Float[Tensor, "r k"] | None = None

    def of_suspects(self, signal: Float[Tensor, "r k n"]) -> Float[Tensor, "r n"]:
        """Return each record's signal at the client that is suspected."""
        rounds, _, records = signal.shape
        return signal.gather(1, self.suspects.expand(rounds, 1, records)).squeeze(1)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an attacker holds about one target model. Its members are not in here.

    Attributes:
        target: margin of each audited record under the target.
        references: margins under models of the attacker's own.
        reference_members: which record each of them was trained on.
        population: margins, under the target, of records that nobody trained on or audits.
        reference_population: the same under the references.
        trajectory: what the server saw of the training; None for any other attacker.
        gradient_norm: of each audited record's loss by the target's head; None where unknown.
        correct: whether the target is right about each audited record; None where unknown.
    """

    target: Float[Tensor, " n"]
    references: Float[Tensor, "m n"]
    reference_members: Bool[Tensor, "m n"]
    population: Float[Tensor, " z"]
    reference_population: Float[Tensor, "m z"]
    trajectory: Trajectory | None = None
    gradient_norm: Float[Tensor, " n"] | None = None
    correct: Bool[Tensor, " n"] | None = None

    @property
    def inside(self) -> Float[Tensor, "m n"]:
        """Margins under references that were trained on the record; NaN elsewhere.

        NaN also where a margin is infinite, from a probability that was rounded to 1: a mean or
        a deviation with it would say nothing.
        """
        return self._margins(self.reference_members)

    @property
    def outside(self) -> Float[Tensor, "m n"]:
        """Margins under references that were not trained on the record; NaN elsewhere.

        NaN also where a margin is infinite: see `inside`.
        """
        return self._margins(~self.reference_members)

    def count_references(self, inside: bool) -> Int64[Tensor, " n"]:
        """Return how many IN, or OUT, references with a finite margin each record has."""
        held = self.reference_members if inside else ~self.reference_members
        return (held & self.references.isfinite()).sum(0)

    def median_count(self, inside: bool) -> int:
        """Return how many IN, or OUT, references the typical (median) record has."""
        counts = self.count_references(inside)
        return int(counts.median()) if counts.numel() else 0

    def _margins(self, held: Bool[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        margins = self.references.double()
        return margins.masked_fill(~(held & margins.isfinite()), torch.nan)


@dataclass(frozen=True, eq=False)
class Signals:
    """Margins of all records under all models, and which model was trained on which record."""

    margin: Float[Tensor, "m n"]
    members: Bool[Tensor, "m n"]
    population: Float[Tensor, "m z"]

    def __len__(self) -> int:
        return len(self.margin)

    def usable_references(self, target: int, among: Sequence[int] | None = None) -> list[int]:
        """Return the models that may serve as references against `target`.

        All of `among` (None: every model) but the target, and but a model that was trained on
        exactly the records that the target was not: no attacker has that.
        """
        mirrored = (self.members == ~self.members[target]).all(1)
        chosen = range(len(self)) if among is None else among
        return [i for i in chosen if i != target and not bool(mirrored[i])]

    def evidence(self, target: int, references: Sequence[int] | None = None) -> Evidence:
        """Return what an attacker on model `target` holds; None: all other models, see `others`."""
        chosen = torch.tensor(
            self.usable_references(target) if references is None else references, dtype=torch.int64
        )
        return Evidence(
            target=self.margin[target],
            references=self.margin[chosen],
            reference_members=self.members[chosen],
            population=self.population[target],
            reference_population=self.population[chosen],
        )

    def records(self, chosen: Tensor) -> "Signals":
        """Return the same models on some of the records."""
        return Signals(self.margin[:, chosen], self.members[:, chosen], self.population)


class MembershipAttack(ABC):
    """Scores records: the higher, the more likely a member. A pure function of the evidence.

    The orientation is fixed: an AUC below 0.5 is a finding, and nobody flips it.

    `view` says who can do it: any `client`, who holds the global model; the `server`, which sees
    each update on its own (not under secure aggregation). `calibrated` says that scores mean the
    same for every record and model, so that a threshold carries over from one model to another.
    `tier` is that of the audits which try it: 0 free, 1 with a few reference models or a replay, 2
    with many.
    """

    view: ClassVar[View] = "client"
    calibrated: ClassVar[bool] = False
    tier: ClassVar[int] = 0

    @classmethod
    def variants(cls) -> "dict[str, MembershipAttack]":
        """Return the attacks that an audit tries, by the names under which it reports them."""
        return {cls.__name__: cls()}

    @abstractmethod
    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return a score for each audited record, in float64; NaN where it cannot be told.

        Infinite scores are as good as others; a record without enough to go by has none.
        """

    def missing(self, evidence: Evidence) -> str:
        """Return what the evidence lacks for this attack, or nothing."""
        return ""


def missing_references(evidence: Evidence, inside: int, outside: int) -> str:
    """Return what is missing of IN and OUT references, where the typical record lacks any.

    Also where no record has enough of both. Where most records have them, the attack is made, and
    the scores of the others are NaN.
    """
    got_in, got_out = evidence.median_count(inside=True), evidence.median_count(inside=False)
    told = (evidence.count_references(inside=True) >= inside) & (
        evidence.count_references(inside=False) >= outside
    )
    count = int(told.sum())
    if got_in >= inside and got_out >= outside and count:
        return ""
    few = f"; {count} of {len(told)} records have them" if count else ""
    need = f"needs {inside} IN and {outside} OUT references a record"
    return f"{need}; got {got_in} and {got_out}{few}"


def missing_population(evidence: Evidence) -> str:
    """Return whether there is no population with a margin to compare with, or nothing."""
    return "needs a population; got none" if bool(evidence.population.isnan().all()) else ""


def margin_of(
    logits: Float[Tensor, "*m n y"], labels: Int64[Tensor, " n"]
) -> Float[Tensor, "*m n"]:
    """Return the logit-scaled confidence log p - log(1 - p) of the true class.

    From the logits themselves: log(1 - p) loses all digits where the model is sure.

    Source: Carlini et al. (2022), section 4.3, https://arxiv.org/abs/2112.03570.
    """
    place = labels[:, None].expand(*logits.shape[:-1], 1)
    own = logits.gather(-1, place).squeeze(-1)
    return own - logits.scatter(-1, place, -torch.inf).logsumexp(-1)


def confidence(margin: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the probability of the true class, in float64."""
    return margin.double().sigmoid()


def loss(margin: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the cross-entropy, in float64."""
    return functional.softplus(-margin.double())


def draw_paired_members(
    num_models: int, num_records: int, rng: torch.Generator
) -> Bool[Tensor, "m n"]:
    """Return who is trained on what: one model of a pair on a random half, the other on the rest.

    Source: the shadow models of Carlini et al. (2022), section 5.1,
    https://arxiv.org/abs/2112.03570.
    """
    pairs = -(-num_models // 2)
    halves = torch.rand(pairs, num_records, generator=rng).argsort(1) < num_records // 2
    return torch.stack([halves, ~halves], 1).flatten(0, 1)[:num_models]
