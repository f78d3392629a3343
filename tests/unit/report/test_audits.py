"""The audit's part of the page, from audit files made without running anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta

from fl_sim.core.atomic_io import write_json, write_table
from fl_sim.core.seeding import generator
from fl_sim.metrics.membership import Finding, Records, assess, assess_shift
from fl_sim.report import page, tables
from fl_sim.report.advice import add_advice
from fl_sim.report.grid import build_grid
from fl_sim.report.sections.audits import build_audits, describe_audits
from fl_sim.report.sections.leakage import RocCurve
from fl_sim.results import Results

ATTACKS = {"loss": 0.2, "LiRA online": 1.0}


@pytest.fixture
def audited(make_results: Callable[..., Results], sweep: Any) -> Results:
    """A sweep with one audited run of two; half of the records are protected."""
    results = make_results(sweep(axes={"layout.fraction": [0.0, 0.5]}))
    folders = sorted(path.parent for path in results.path.glob("*/seed=0/signals.parquet"))
    write_audit(folders[0])
    return results


def write_audit(folder: Path) -> None:
    grid = torch.cartesian_prod(*(torch.arange(size) for size in (5, 4, 2, 2, 3)))
    own = Records(grid[:, 0].clone(), grid[:, 1].clone(), grid[:, 2] == 1, grid[:, 3] == 1)
    findings, tables_ = [], []
    for name, strength in ATTACKS.items():
        noise = torch.randn(len(own), generator=generator(0, name), dtype=torch.float64)
        scores = noise + strength * own.members
        about = Finding(name, "", 0.0, num_references=16 * (name != "loss"), references="heads")
        findings += [*assess(scores, own, about, {0.01: 2.0}), *assess_shift(scores, own, about)]
        tables_.append(
            pd.DataFrame({"attack": name, "score": scores.numpy(), "member": own.members.numpy()})
        )
    findings.append(
        Finding("FedMIA", "auc", float("nan"), valid=False, note="needs <updates>; got none")
    )
    findings.append(Finding("source inference", "source_accuracy", 0.4, 0.3, 0.5))
    write_table(folder / "audit.parquet", pd.DataFrame(findings, columns=list(Finding._fields)))
    write_table(folder / "audit_records.parquet", pd.concat(tables_))
    summary = {"headline": "LiRA online", "num_references": 16, "references": "heads"}
    write_json(folder / "audit.json", summary)


@pytest.mark.usefixtures("blank_figures")
def test_a_page_without_audits_has_no_section_of_them(
    make_results: Callable[..., Results], sweep: Any
) -> None:
    results = make_results(sweep())
    assert build_audits(build_grid(results)) is None
    assert 'id="audit"' not in page.write_page(results).read_text()


def test_the_page_shows_what_was_audited(audited: Results) -> None:
    text = page.write_page(audited).read_text()
    assert "Audited leakage" in text
    assert "LiRA online" in text
    assert "16 heads" in text
    assert "Source inference" in text
    assert "needs &lt;updates&gt;; got none" in text
    for name in ("audit_auc", "audit_roc", "audit_two_by_two", "audit_clients"):
        assert (audited.path / "figures" / f"{name}.svg").stat().st_size > 1000


def test_numbers_of_the_table_are_those_of_the_findings(audited: Results) -> None:
    section = build_audits(build_grid(audited))
    assert section is not None
    made = section.components[1]
    assert made.kind == "table"
    (row,) = [r for r in made.rows if any(cell.text == "LiRA online" for cell in r)]
    (folder,) = (path.parent for path in audited.path.glob("*/seed=0/audit.json"))
    findings = pd.read_parquet(folder / "audit.parquet")
    chosen = findings.query("attack == 'LiRA online' and metric == 'auc' and client == -1")
    value = chosen[chosen.group == "all"]["value"].item()
    assert any(cell.text == f"{value:.3f}" for cell in row)
    assert any(cell.extra == "headline" for cell in row)


def test_the_curve_counts_hits_at_every_threshold() -> None:
    scores = np.array([3.0, 2.0, 2.0, 1.0, 0.0])
    members = np.array([True, True, False, False, True])
    curve = RocCurve.from_scores(scores, members)
    assert curve.num_members == 3
    assert curve.true_positives.tolist() == [0, 1, 2, 2, 3]
    assert curve.false_positive_rates.tolist() == [0, 0, 0.5, 1, 1]
    assert beta.ppf(0.975, 3, 1) == pytest.approx(0.9916, abs=1e-4)


def test_the_terminal_lists_the_attacks(audited: Results) -> None:
    (folder,) = (path.parent for path in audited.path.glob("*/seed=0/audit.json"))
    made = tables.build_audit_table("a run", pd.read_parquet(folder / "audit.parquet"))
    assert made.row_count == 3
    assert [str(cell) for cell in made.columns[0].cells] == ["loss", "LiRA online", "FedMIA"]


def test_it_opens_with_a_verdict_and_a_figure_of_intervals(audited: Results) -> None:
    grid = build_grid(audited)
    section = build_audits(grid)
    assert section is not None
    (folder,) = (path.parent for path in audited.path.glob("*/seed=0/audit.json"))
    findings = pd.read_parquet(folder / "audit.parquet")
    row = findings.query("attack == 'LiRA online' and metric == 'auc' and client == -1").iloc[0]
    bounds = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    verdict = f"Membership leaks: LiRA online reaches an AUC of {bounds}, where guessing has 0.5."
    assert section.paragraphs[0] == describe_audits(grid) == verdict
    assert section.components[0].kind == "drawing"


def test_what_is_grey_says_what_would_help() -> None:
    note = "needs 4 IN and 4 OUT references per record; got 2 and 2"
    assert "more references" in add_advice(note)
    assert add_advice("another reason") == "another reason"
