"""Audits from start to finish: they read a run, make references, attack, and write findings."""

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.audit.findings import HEADLINE, AttackContext, run_attacks
from fl_sim.audit.references import make_reference_signals, plan_references
from fl_sim.audit.server_view import record_server_view
from fl_sim.audit.target_run import TargetRun, load_target
from fl_sim.core import process
from fl_sim.core.atomic_io import write_table
from fl_sim.core.errors import RequestError, require
from fl_sim.core.precision import use_precision
from fl_sim.metrics.membership import Finding, rank_records
from fl_sim.results import read_result
from fl_sim.results.folders import AUDIT, AUDIT_FINDINGS, AUDIT_RECORDS, MODEL, RESULT, seal_audit
from fl_sim.runs.progress import Listener


def find_run_folders(path: Path) -> list[Path]:
    """Return the finished runs in a folder of a run, a setting, an experiment, or all results.

    Raises:
        RequestError: If there are none.
    """
    if (path / "result.json").exists() or (path / "experiment.json").exists():
        return [path]
    levels, names = ("seed=*", "*/seed=*", "*/*/seed=*"), (RESULT, MODEL)
    folders = [folder for level in levels for folder in path.glob(level)]
    finished = [f for f in folders if any((f / name).exists() for name in names)]
    if not finished:
        raise RequestError(f"no finished run in {path}")
    return sorted(finished)


def audit(
    folder: str | Path,
    tier: int = 1,
    references: int | None = None,
    *,
    listen: Listener = lambda progress: None,
    note: Callable[[str], None] = lambda step: None,
) -> pd.DataFrame:
    """Audit a finished run for membership leakage, and return a table with one row per finding.

    Writes `audit.parquet` (findings), `audit_records.parquet` (scores and ranks of each record),
    `audit.safetensors` (margins under all models), `audit_course.safetensors` (the view of the
    server) and, last, `audit.json` into the run's folder. Finished references are stored, so that
    an interrupted audit can be continued.

    Args:
        folder: Folder of the run.
        tier: Strength of the attacks: 0 uses the model alone, 1 a few reference models, 2 many.
        references: Number of reference models; None to choose it by tier and run.
        listen: Called after each round of a replay.
        note: Called with the name of each step.

    Raises:
        RequestError: For a run that is unfinished or cannot be audited.
    """
    with use_precision((read_result(Path(folder)) or {}).get("precision")):
        return _audit(Path(folder), tier, references, listen, note)


def _audit(
    folder: Path,
    tier: int,
    references: int | None,
    listen: Listener,
    note: Callable[[str], None],
) -> pd.DataFrame:
    require(tier in (0, 1, 2), "tier", "0, 1 or 2", tier)
    enough = references is None or references >= 2
    require(enough, "references", "at least 2", references)
    process.configure_process()
    started = time.time()
    note("reading the run")
    target_run = load_target(folder)
    plan = plan_references(target_run, tier, references)
    signals = make_reference_signals(target_run, plan, listen, note)
    trajectory, no_trajectory = None, ""
    if tier > 0:
        note("replaying the run")
        trajectory, no_trajectory = record_server_view(target_run, listen)
    note("attacking")
    audited, norms = target_run.audited, target_run.gradient_norm
    seed = target_run.experiment.seed
    context = AttackContext(
        signals=signals.records(audited),
        records=target_run.records,
        gradient_norm=None if norms is None else norms[audited],
        correct=torch.tensor(target_run.signals["correct"].to_numpy(bool))[audited],
        template=Finding("", "", float("nan"), seed=seed, references=plan.kind),
        num_classes=target_run.num_classes,
        start=target_run.start[audited],
        start_correct=target_run.start_correct[audited],
        trajectory=trajectory,
        no_trajectory=no_trajectory,
    )
    findings, scores = run_attacks(context, tier)
    table = pd.DataFrame(findings, columns=list(Finding._fields))
    (target_run.folder / AUDIT).unlink(missing_ok=True)  # it describes the old tables
    write_table(target_run.folder / AUDIT_FINDINGS, table)
    write_table(target_run.folder / AUDIT_RECORDS, _tabulate_records(target_run, context, scores))
    areas = [f for f in findings if (f.metric, f.group, f.client) == ("auc", "all", -1)]
    summary = {
        "run_id": target_run.result["run_id"],
        "seed": seed,
        "params_sha256": target_run.result["params_sha256"],
        "tier": tier,
        "references": plan.kind,
        "num_references": plan.count,
        "population": "test images",
        "pool": "members and outsiders matched by client, class and protected status",
        "headline": HEADLINE[tier],  # the headline attack was chosen in advance
        "attacks": {f.attack: f._asdict() for f in areas},
        "wall_seconds": time.time() - started,
    }
    seal_audit(target_run.folder, summary)
    return table


def _tabulate_records(
    target_run: TargetRun, context: AttackContext, scores: dict[str, Float[Tensor, " n"]]
) -> pd.DataFrame:
    """Return a row per audited record and attack: its score, and its rank among non-members."""
    audited = target_run.signals[target_run.signals["audited"]]
    columns = audited[["sample_id", "client", "label", "protected", "member"]]
    outside = ~context.records.members
    tables = [
        columns.assign(attack=name, score=score.numpy(), rank=rank_records(score, outside).numpy())
        for name, score in scores.items()
    ]
    return pd.concat(tables, ignore_index=True)
