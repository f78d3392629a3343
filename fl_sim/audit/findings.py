"""Attacks on a run, and what they found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.attacks.rmia import Rmia
from fl_sim.attacks.source_inference import excess_accuracy, predict_sources
from fl_sim.contracts.attacks import Evidence, MembershipAttack, Signals, Trajectory
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.metrics._shared.intervals import clopper_pearson
from fl_sim.metrics._shared.pools import Records
from fl_sim.metrics._shared.roc import MAX_FPRS, auc
from fl_sim.metrics.membership import (
    Finding,
    assess,
    assess_dispersion,
    assess_shift,
    mark_finding,
)

NUM_REHEARSALS = 8  # reference models that are attacked themselves, to set `a` and thresholds
STEPS = tuple(i / 10 for i in range(11))  # of RMIA's `a`

HEADLINE = ("loss", "RMIA online", "LiRA online")  # by tier, fixed in advance


def find_attacks(tier: int) -> dict[str, MembershipAttack]:
    """Return the attacks of a tier and of those below it, cheap ones first."""
    found = discover("fl_sim.attacks", MembershipAttack)  # type: ignore[type-abstract]
    chosen = sorted((cls for cls in found if cls.tier <= tier), key=lambda cls: cls.tier)
    return {name: attack for cls in chosen for name, attack in cls.variants().items()}


@dataclass(frozen=True, eq=False)
class AttackContext:
    """What attacks are tried on.

    Attributes:
        signals: of the audited records; model 0 is the target.
        records: who they are, and which of them are members.
        gradient_norm: under the target; None where unknown.
        correct: whether the target is right; None where unknown.
        about: what all findings share.
        num_classes: that the model tells apart.
        trajectory: what the server saw; None where that is not known, as `no_trajectory` says.
        unseen: why there is no trajectory.
    """

    signals: Signals
    records: Records
    gradient_norm: Float[Tensor, " n"] | None
    correct: Bool[Tensor, " n"] | None
    template: Finding
    num_classes: int
    trajectory: Trajectory | None = None
    no_trajectory: str = ""

    @property
    def references(self) -> list[int]:
        """The models of the attacker."""
        return list(range(1, len(self.signals)))

    def target_evidence(self) -> Evidence:
        """Return the evidence against the target."""
        evidence = self.signals.evidence(0, self.references)
        return replace(
            evidence,
            gradient_norm=self.gradient_norm,
            correct=self.correct,
            trajectory=self.trajectory,
        )

    def reference_evidence(self) -> Iterator[tuple[int, Evidence]]:
        """Yield reference models in the place of the target, without anything about that."""
        for own in self.references[:NUM_REHEARSALS]:
            others = self.signals.usable_references(own, self.references)
            if len(others) >= 2:
                yield own, self.signals.evidence(own, others)


def run_attacks(
    context: AttackContext, tier: int
) -> tuple[list[Finding], dict[str, Float[Tensor, " n"]]]:
    """Return the findings of a tier's attacks, and the scores of the records by attack."""
    findings: list[Finding] = []
    scores: dict[str, Tensor] = {}
    for name, plain in find_attacks(tier).items():
        template = context.template._replace(attack=name, view=plain.view)
        if plain.calibrated:
            template = template._replace(num_references=len(context.references))
        else:
            template = template._replace(references="none")
        missing = plain.missing(context.target_evidence())
        if missing:
            note = (
                context.no_trajectory
                if plain.view == "server" and context.no_trajectory
                else missing
            )
            findings.append(template._replace(metric="auc", valid=False, note=note))
            continue
        own = tune_rmia(context, plain)
        scores[name] = own.scores(context.target_evidence())
        found = list(assess(scores[name], context.records, template, set_thresholds(context, own)))
        findings += found
        findings += assess_dispersion([f for f in found if f.client >= 0], template)
        findings += assess_shift(scores[name], context.records, template)
    if context.trajectory is not None:
        findings += infer_sources(context, context.trajectory)
        findings += count_records(context, context.trajectory)
    return [mark_finding(finding) for finding in findings], scores


def infer_sources(context: AttackContext, trajectory: Trajectory) -> Iterator[Finding]:
    """Yield how often a record's client is found, and by how much more than for held-out ones."""
    there = ~trajectory.client_margin[-1].isnan().any(1)
    who = there.nonzero().squeeze(1)
    if len(who) < 2:
        return
    found = who[
        predict_sources(
            trajectory.client_margin[-1][there], generator(context.template.seed, "audit", "ties")
        )
    ]
    chosen = there[trajectory.suspects]
    right = found == trajectory.suspects
    inside, outside = chosen & context.records.members, chosen & ~context.records.members
    template = context.template._replace(
        attack="source inference",
        view="server",
        references="none",
        num_members=int(inside.sum()),
        num_outsiders=int(outside.sum()),
    )
    for name, own in (("accuracy", inside), ("held_out_accuracy", outside)):
        correct, count = int(right[own].sum()), int(own.sum())
        low, high = clopper_pearson(correct, count)
        value = correct / count if count else float("nan")
        note = "" if count else "empty pool"
        yield template._replace(
            metric=f"source_{name}", value=value, low=low, high=high, valid=not note, note=note
        )
    value = float(excess_accuracy(right[inside].double(), right[outside].double()))
    yield template._replace(metric="source_excess", value=value)


def count_records(context: AttackContext, trajectory: Trajectory) -> Iterator[Finding]:
    """Yield, for clients that take one step a round, how many records that step gives away.

    The rank of a head's gradient is the number of its records, up to the number of classes less
    one, which softmax cannot exceed. Where it is below, the value may be read: the rows of the
    update span the records' features; of a single record they are its features.

    Source: see `fl_sim.attacks.gradient_inversion.gradient_rank`.
    """
    if trajectory.head_rank is None:
        return
    template = context.template._replace(attack="head rank", view="server", references="none")
    for client, ranks in enumerate(trajectory.head_rank.T):
        seen = ranks[~ranks.isnan()]
        if len(seen):
            rank = float(seen.min())
            told = rank < context.num_classes - 1
            note = "" if told else "as high as it can be: that many records or more"
            yield template._replace(
                metric="head_rank", value=rank, client=client, valid=told, note=note
            )


def tune_rmia(context: AttackContext, plain: MembershipAttack) -> MembershipAttack:
    """Return offline RMIA with the `a` that works best on the references; others as they are."""
    if not (isinstance(plain, Rmia) and plain.references == "offline"):
        return plain
    rehearsals = list(context.reference_evidence())
    if not rehearsals:
        return plain

    def worth(a: float) -> float:
        trial, total = replace(plain, a=a), 0.0
        for model, evidence in rehearsals:
            scores, members = trial.scores(evidence), context.signals.members[model]
            told = ~scores.isnan()
            area = auc(scores[members & told], scores[~members & told])
            total += area if area == area else 0.0  # NaN for the same models whatever `a`
        return total

    return replace(plain, a=max(STEPS, key=worth))


def set_thresholds(
    context: AttackContext, own: MembershipAttack, rates: Sequence[float] = MAX_FPRS
) -> dict[float, float]:
    """Return scores above which a record is accused, by nominal rate, set on the references.

    Only for attacks whose scores mean the same for every model; and only where there are enough
    outsiders of references for the rate.
    """
    if not own.calibrated:
        return {}
    outside = [
        own.scores(evidence)[~context.signals.members[model]]
        for model, evidence in context.reference_evidence()
    ]
    if not outside:
        return {}
    scores = torch.cat(outside)
    ordered = scores[~scores.isnan()].sort(descending=True).values
    # The smallest score that at most rate x n outsiders exceed.
    return {
        rate: float(ordered[int(rate * len(ordered))]) for rate in rates if rate * len(ordered) >= 3
    }
