"""Our rules against what ByzFL 0.0.11 gave on one matrix; `fixtures/byzfl.json` says how.

Known differences, and how the comparison deals with them:
- ByzFL's Krum and Multi-Krum sum over n - f - 1 neighbours, the paper and ours over n - f - 2:
  ours is asked to survive one more for the same neighbours, and to keep as many updates.
- ByzFL's geometric median starts at zero and takes three steps; here it took two thousand.
- ByzFL's centred clipping and ours start at zero.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_sim.contracts import AggregationRule
from strategies.arc import AdaptiveRobustClipping
from strategies.centered_clipping import CenteredClipping
from strategies.fedavg import FedAvg
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum, MultiKrum
from strategies.median import CoordinateMedian
from strategies.nnm import NearestNeighborMixing
from strategies.norm_bounding import NormBounding
from strategies.trimmed_mean import TrimmedMean

PEER: dict[str, Any] = json.loads(
    (Path(__file__).parent / "fixtures" / "byzfl.json").read_text(encoding="utf-8")
)
ROWS = torch.tensor(PEER["rows"], dtype=torch.float64)


def step_of(rule: AggregationRule) -> Tensor:
    return rule.aggregate(rule.initial_state(ROWS.shape[1]), ROWS, torch.ones(len(ROWS)))[1]


@pytest.mark.parametrize(
    ("name", "rule", "tolerance"),
    [
        ("Average", FedAvg(), 1e-12),
        ("Median", CoordinateMedian(), 1e-12),
        ("TrMean", TrimmedMean(num_byzantine=2), 1e-12),
        ("Krum_f3", Krum(num_byzantine=2), 1e-12),
        ("MultiKrum_f3", MultiKrum(num_byzantine=2, num_selected=8), 1e-12),
        ("GeometricMedian", GeometricMedian(weighted=False), 1e-6),
        ("CenteredClipping", CenteredClipping(threshold=5.0, num_iterations=3), 1e-12),
    ],
)
def test_a_step_is_byzfls(name: str, rule: AggregationRule, tolerance: float) -> None:
    expected = torch.tensor(PEER[name], dtype=torch.float64)
    torch.testing.assert_close(step_of(rule), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("NNM", NearestNeighborMixing(num_byzantine=2, rule=FedAvg())),
        ("ARC", AdaptiveRobustClipping(num_byzantine=2, rule=FedAvg())),
        ("Clipping", NormBounding(threshold=8.0)),
    ],
)
def test_what_is_averaged_is_byzfls(name: str, rule: AggregationRule) -> None:
    expected = torch.tensor(PEER[name], dtype=torch.float64).mean(0)
    torch.testing.assert_close(step_of(rule), expected, rtol=0, atol=1e-12)


def test_mixed_medians_are_medians_of_byzfls_mixtures() -> None:
    mixed = torch.tensor(PEER["NNM"], dtype=torch.float64)
    expected = mixed.quantile(0.5, dim=0)
    torch.testing.assert_close(step_of(NearestNeighborMixing(num_byzantine=2)), expected)
