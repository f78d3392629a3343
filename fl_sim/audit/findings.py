"""Attacks on a run, and their findings."""

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
from fl_sim.metrics.membership import Finding, assess, assess_dispersion, assess_shift, mark_finding

NUM_REHEARSALS = 8  # reference models that are attacked to set `a` and thresholds
STEPS = tuple(i / 10 for i in range(11))  # of RMIA's `a`

NAN = float("nan")
HEADLINE = ("loss", "RMIA online", "LiRA online")  # by tier, fixed in advance


def find_attacks(tier: int) -> dict[str, MembershipAttack]:
    """Return the attacks of a tier and of lower ones by name, cheap ones first."""
    classes = discover("fl_sim.attacks", MembershipAttack)  # type: ignore[type-abstract]
    chosen = sorted((cls for cls in classes if cls.tier <= tier), key=lambda cls: cls.tier)
    return {name: attack for cls in chosen for name, attack in cls.variants().items()}


@dataclass(frozen=True, eq=False)
class AttackContext:
    """Knowledge that attacks are given.

    Attributes:
        signals: Signals of the audited records; model 0 is the target.
        records: Clients, labels and membership of the audited records.
        gradient_norm: Norm of each record's gradient under the target; None if unknown.
        correct: Whether the target classifies each record correctly; None if unknown.
        template: Finding with the fields that all findings share.
        num_classes: Number of classes.
        start: Margin of each record under the model before the first round; None if unknown.
        start_correct: Whether that model classifies each record correctly; None if unknown.
        trajectory: Models and updates that the server received; None if they are unknown.
        no_trajectory: Reason why there is no trajectory, or an empty string.
    """

    signals: Signals
    records: Records
    gradient_norm: Float[Tensor, " n"] | None
    correct: Bool[Tensor, " n"] | None
    template: Finding
    num_classes: int
    start: Float[Tensor, " n"] | None = None
    start_correct: Bool[Tensor, " n"] | None = None
    trajectory: Trajectory | None = None
    no_trajectory: str = ""

    @property
    def references(self) -> list[int]:
        """Indices of the reference models."""
        return list(range(1, len(self.signals)))

    def target_evidence(self) -> Evidence:
        """Return the evidence against the target."""
        evidence = self.signals.evidence(0, self.references)
        return replace(
            evidence,
            gradient_norm=self.gradient_norm,
            correct=self.correct,
            start=self.start,
            trajectory=self.trajectory,
        )

    def reference_evidence(self) -> Iterator[tuple[int, Evidence]]:
        """Yield reference models as targets, each with evidence from the other references alone."""
        for model in self.references[:NUM_REHEARSALS]:
            others = self.signals.usable_references(model, self.references)
            if len(others) >= 2:
                yield model, self.signals.evidence(model, others)


def run_attacks(
    context: AttackContext, tier: int
) -> tuple[list[Finding], dict[str, Float[Tensor, " n"]]]:
    """Return the findings of a tier's attacks, and the score of each record by attack."""
    findings: list[Finding] = []
    scores: dict[str, Tensor] = {}
    for name, plain in find_attacks(tier).items():
        template = context.template._replace(attack=name, view=plain.view, references="none")
        if plain.calibrated:
            kind, count = context.template.references, len(context.references)
            template = template._replace(references=kind, num_references=count)
        missing = plain.missing(context.target_evidence())
        if missing:
            reason = context.no_trajectory if plain.view == "server" else ""
            findings.append(template._replace(metric="auc", valid=False, note=reason or missing))
            continue
        tuned = tune_rmia(context, plain)
        found = tuned.scores(context.target_evidence())
        if plain.view == "server" and not _varies(found):
            note = "the updates of this run give every record the same score"
            findings.append(template._replace(metric="auc", value=NAN, valid=False, note=note))
            continue
        scores[name] = found
        thresholds = set_thresholds(context, tuned)
        results = list(assess(scores[name], context.records, template, thresholds))
        findings += results
        findings += assess_dispersion([f for f in results if f.client >= 0], template)
        findings += assess_shift(scores[name], context.records, template)
    if context.start_correct is not None:
        findings.append(assess_start(context.start_correct, context.template))
    if context.trajectory is not None:
        findings += infer_sources(context, context.trajectory)
        findings += count_records(context, context.trajectory)
    return [mark_finding(finding) for finding in findings], scores


def _varies(scores: Float[Tensor, " n"]) -> bool:
    """Return whether any two of the scores differ."""
    known = scores[~scores.isnan()]
    return len(known) == 0 or bool((known != known[0]).any())


def assess_start(correct: Bool[Tensor, " n"], template: Finding) -> Finding:
    """Return the accuracy of the model before the first round on the audited records.

    At chance level, its margins say nothing about how hard a record is; see `StartReference`.
    """
    right, count = int(correct.sum()), len(correct)
    low, high = clopper_pearson(right, count)
    value = right / count if count else float("nan")
    return template._replace(
        attack="start", metric="start_accuracy", value=value, low=low, high=high, references="none"
    )


def infer_sources(context: AttackContext, trajectory: Trajectory) -> Iterator[Finding]:
    """Yield the accuracy of finding a record's client, and its excess over held-out records."""
    known = ~trajectory.client_margin[-1].isnan().any(1)
    clients = known.nonzero().squeeze(1)
    if len(clients) < 2:
        return
    ties = generator(context.template.seed, "audit", "ties")
    accused = clients[predict_sources(trajectory.client_margin[-1][known], ties)]
    chosen = known[trajectory.suspects]
    right = accused == trajectory.suspects
    inside, outside = chosen & context.records.members, chosen & ~context.records.members
    template = context.template._replace(
        attack="source inference",
        view="server",
        references="none",
        num_members=int(inside.sum()),
        num_outsiders=int(outside.sum()),
    )
    for name, pool in (("accuracy", inside), ("held_out_accuracy", outside)):
        correct, count = int(right[pool].sum()), int(pool.sum())
        low, high = clopper_pearson(correct, count)
        value = correct / count if count else float("nan")
        note = "" if count else "empty pool"
        yield template._replace(
            metric=f"source_{name}", value=value, low=low, high=high, valid=not note, note=note
        )
    value = float(excess_accuracy(right[inside].double(), right[outside].double()))
    yield template._replace(metric="source_excess", value=value)


def count_records(context: AttackContext, trajectory: Trajectory) -> Iterator[Finding]:
    """Yield the number of records in a step, for each client that takes one step per round.

    The rank of a head's gradient is the number of its records, but at most the number of classes
    minus one, because of softmax. A lower rank is valid: then the rows of the update span the
    features of the records; with a single record they are multiples of its features.

    Source: see `fl_sim.attacks.gradient_inversion.gradient_rank`.
    """
    if trajectory.head_rank is None:
        return
    template = context.template._replace(attack="head rank", view="server", references="none")
    for client, ranks in enumerate(trajectory.head_rank.T):
        measured = ranks[~ranks.isnan()]
        if len(measured):
            rank = float(measured.min())
            valid = rank < context.num_classes - 1
            note = "" if valid else "as high as it can be: that many records or more"
            yield template._replace(
                metric="head_rank", value=rank, client=client, valid=valid, note=note
            )


def tune_rmia(context: AttackContext, plain: MembershipAttack) -> MembershipAttack:
    """Return offline RMIA with the `a` that is best on the references; other attacks unchanged."""
    if not (isinstance(plain, Rmia) and plain.references == "offline"):
        return plain
    rehearsals = list(context.reference_evidence())
    if not rehearsals:
        return plain

    def sum_areas(a: float) -> float:
        trial, total = replace(plain, a=a), 0.0
        for model, evidence in rehearsals:
            scores, members = trial.scores(evidence), context.signals.members[model]
            defined = ~scores.isnan()
            area = auc(scores[members & defined], scores[~members & defined])
            total += area if area == area else 0.0  # NaN for the same models at any `a`
        return total

    return replace(plain, a=max(STEPS, key=sum_areas))


def set_thresholds(
    context: AttackContext, tuned: MembershipAttack, rates: Sequence[float] = MAX_FPRS
) -> dict[float, float]:
    """Return thresholds of the score by nominal false positive rate, set on the references.

    There are none for attacks whose scores are not comparable between models, nor for rates that
    the references have too few non-members for.
    """
    if not tuned.calibrated:
        return {}
    outside = [
        tuned.scores(evidence)[~context.signals.members[model]]
        for model, evidence in context.reference_evidence()
    ]
    if not outside:
        return {}
    scores = torch.cat(outside)
    ordered = scores[~scores.isnan()].sort(descending=True).values
    # The smallest score that at most rate x n non-members exceed.
    return {r: float(ordered[int(r * len(ordered))]) for r in rates if r * len(ordered) >= 3}
