"""Membership attacks, and the signals of models about records that they score.

The signal is the margin, phi = log p - log(1 - p) of the true class. Others follow from it: the
confidence is sigmoid(phi), the loss is softplus(-phi). Axis letters: `m` models, `n` audited
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

from fl_sim.core.serialization import TypeChecked

View = Literal["client", "server", "nobody"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Signals that a server observes in each round, without secure aggregation.

    Attributes:
        client_margin: Margin of each record under each client's trained model; NaN if it sent none.
        global_margin: Margin of each record under the global model before that round.
        suspects: Client that is suspected of holding each record.
        cosine: Cosine between each client's update and minus the gradient of each record's loss
            at the global model before the round; None if it was not computed.
        head_rank: Rank of the head in each client's update, NaN if the client took more than one
            step; None if it was not computed.
    """

    client_margin: Float[Tensor, "r k n"]
    global_margin: Float[Tensor, "r n"]
    suspects: Int64[Tensor, " n"]
    cosine: Float[Tensor, "r k n"] | None = None
    head_rank: Float[Tensor, "r k"] | None = None

    def of_suspects(self, signal: Float[Tensor, "r k n"]) -> Float[Tensor, "r n"]:
        """Return the signal of each record at its suspected client."""
        rounds, _, records = signal.shape
        return signal.gather(1, self.suspects.expand(rounds, 1, records)).squeeze(1)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Knowledge of an attacker about one target model, without the target's members.

    Attributes:
        target: Margin of each audited record under the target.
        references: Margins of audited records under reference models, which the attacker trained.
        reference_members: Whether each reference was trained on each record.
        population: Margins under the target of records that are neither trained on nor audited.
        reference_population: Margins of these records under the references.
        trajectory: Signals of the training that the server observes; None for other attackers.
        gradient_norm: Norm of the gradient of each audited record's loss by the target's head;
            None if unknown.
        correct: Whether the target classifies each audited record correctly; None if unknown.
        start: Margin of each audited record under the model that training started from, which
            every client received; None if unknown.
    """

    target: Float[Tensor, " n"]
    references: Float[Tensor, "m n"]
    reference_members: Bool[Tensor, "m n"]
    population: Float[Tensor, " z"]
    reference_population: Float[Tensor, "m z"]
    trajectory: Trajectory | None = None
    gradient_norm: Float[Tensor, " n"] | None = None
    correct: Bool[Tensor, " n"] | None = None
    start: Float[Tensor, " n"] | None = None

    @property
    def inside(self) -> Float[Tensor, "m n"]:
        """Margins under references that were trained on the record (IN); NaN elsewhere.

        Infinite margins, from a probability that was rounded to 1, are NaN too, since they would
        make any mean or deviation infinite.
        """
        return self._margins(self.reference_members)

    @property
    def outside(self) -> Float[Tensor, "m n"]:
        """Margins under references that were not trained on the record (OUT); NaN elsewhere.

        Infinite margins are NaN too, as in `inside`.
        """
        return self._margins(~self.reference_members)

    def count_references(self, inside: bool) -> Int64[Tensor, " n"]:
        """Return the number of IN, or OUT, references with a finite margin per record."""
        chosen = self.reference_members if inside else ~self.reference_members
        return (chosen & self.references.isfinite()).sum(0)

    def median_count(self, inside: bool) -> int:
        """Return the number of IN, or OUT, references of the median record."""
        counts = self.count_references(inside)
        return int(counts.median()) if counts.numel() else 0

    def _margins(self, chosen: Bool[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        margins = self.references.double()
        return margins.masked_fill(~(chosen & margins.isfinite()), torch.nan)


@dataclass(frozen=True, eq=False)
class Signals:
    """Margins of all records under all models, and the members of each model."""

    margin: Float[Tensor, "m n"]
    members: Bool[Tensor, "m n"]
    population: Float[Tensor, "m z"]

    def __len__(self) -> int:
        return len(self.margin)

    def usable_references(self, target: int, among: Sequence[int] | None = None) -> list[int]:
        """Return the models of `among` (None: all) that may serve as references against `target`.

        Excluded are the target, and models trained on exactly the records that the target was not
        trained on, which no attacker could have.
        """
        mirrored = (self.members == ~self.members[target]).all(1)
        chosen = range(len(self)) if among is None else among
        return [i for i in chosen if i != target and not bool(mirrored[i])]

    def evidence(self, target: int, references: Sequence[int] | None = None) -> Evidence:
        """Return the evidence against `target`; None: with all `usable_references`."""
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
        """Return the signals of the same models about some of the records."""
        return Signals(self.margin[:, chosen], self.members[:, chosen], self.population)


class MembershipAttack(TypeChecked, ABC):
    """Scores records by a pure function of the evidence; higher means more likely a member.

    The orientation is fixed: an AUC below 0.5 is a finding, and is not flipped.

    Attributes:
        view: Attacker that can run it: any `client`, which has the global model, or the `server`,
            which sees single updates (not under secure aggregation).
        calibrated: Whether scores are comparable across records and models, so that a threshold
            from one model applies to another.
        tier: Tier of the audits that try it: 0 is free, 1 needs a few reference models or a
            replay, 2 needs many.
        label: Name in an audit's report, if there is one variant; the class's name if empty.
    """

    view: ClassVar[View] = "client"
    calibrated: ClassVar[bool] = False
    tier: ClassVar[int] = 0
    label: ClassVar[str] = ""

    @classmethod
    def variants(cls) -> "dict[str, MembershipAttack]":
        """Return the variants that an audit tries, by the names in its report."""
        return {cls.label or cls.__name__: cls()}

    @abstractmethod
    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return a score for each audited record, in float64.

        A score may be infinite; it is NaN for a record with too little evidence.
        """

    def missing(self, evidence: Evidence) -> str:
        """Return a text about evidence that this attack lacks, or an empty string."""
        return ""


def missing_references(evidence: Evidence, inside: int, outside: int) -> str:
    """Return a text about missing references, or an empty string if there are enough.

    References are missing if the median record, or every record, has fewer than `inside` IN or
    `outside` OUT ones. If only some records lack them, these are scored NaN.
    """
    got_in, got_out = evidence.median_count(inside=True), evidence.median_count(inside=False)
    enough = evidence.count_references(inside=True) >= inside
    enough &= evidence.count_references(inside=False) >= outside
    count = int(enough.sum())
    if got_in >= inside and got_out >= outside and count:
        return ""
    few = f"; {count} of {len(enough)} records have them" if count else ""
    need = f"needs {inside} IN and {outside} OUT references per record"
    return f"{need}; got {got_in} and {got_out}{few}"


def missing_population(evidence: Evidence) -> str:
    """Return a text if no population record has a margin, else an empty string."""
    return "needs a population; got none" if bool(evidence.population.isnan().all()) else ""


def margin_of(
    logits: Float[Tensor, "*m n y"], labels: Int64[Tensor, " n"]
) -> Float[Tensor, "*m n"]:
    """Return the logit-scaled confidence log p - log(1 - p) of the true class.

    It is computed from the logits, since log(1 - p) loses all digits as p approaches 1.

    Source: Carlini et al. (2022), section 4.3, https://arxiv.org/abs/2112.03570.
    """
    place = labels[:, None].expand(*logits.shape[:-1], 1)
    true_logit = logits.gather(-1, place).squeeze(-1)
    return true_logit - logits.scatter(-1, place, -torch.inf).logsumexp(-1)


def confidence(margin: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the probability of the true class from its margin, in float64."""
    return margin.double().sigmoid()


def loss(margin: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return the cross-entropy from the margin, in float64."""
    return functional.softplus(-margin.double())


def draw_paired_members(
    num_models: int, num_records: int, rng: torch.Generator
) -> Bool[Tensor, "m n"]:
    """Return members of models in pairs: one has a random half of the records, the other the rest.

    Source: the shadow models of Carlini et al. (2022), section 5.1,
    https://arxiv.org/abs/2112.03570.
    """
    pairs = -(-num_models // 2)
    halves = torch.rand(pairs, num_records, generator=rng).argsort(1) < num_records // 2
    return torch.stack([halves, ~halves], 1).flatten(0, 1)[:num_models]
