"""A real accelerator against the CPU; selected by `pytest -m gpu`, on machines that have one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_sim import Experiment, Model, run
from fl_sim.contracts import AggregationRule
from fl_sim.core.device import call_on_device, resolve_devices, use_device
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from tests.conformance import test_rules

pytestmark = pytest.mark.gpu

RULES = [cls() for cls in discover("strategies", AggregationRule)]
NETWORKS = {
    "small_cnn": Model("small_cnn", norm="group"),
    "BatchNorm": Model("small_cnn"),
    "mlp": Model("mlp"),
    "LoRA": Model("small_cnn", tune="lora", norm="group"),
}


def train(experiment: Experiment, out: Path, device: str) -> Any:
    """Return the results of a run without controls."""
    results = run(experiment, out=out, controls=False, device=device)
    assert results.complete, results.cells.get("error")
    return results


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_gives_the_same_bits(
    name: str, experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    hashes = {
        train(experiment(model=NETWORKS[name]), tmp_path / out, "auto").cells.params_sha256[0]
        for out in ("once", "again")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_loss_after_a_step_is_that_of_the_cpu(
    name: str, experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    step = experiment(model=NETWORKS[name], rounds=1)
    losses = []
    for device in ("cpu", "auto"):
        rows = train(step, tmp_path / device, device).rows
        losses.append(float(rows[(rows.metric == "loss") & (rows.client == -1)].value.iloc[0]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_gives_the_same_as_on_the_cpu(rule: AggregationRule) -> None:
    rng = generator(0, "updates")
    updates = torch.randn(max(rule.min_updates, 3) + 4, 5000, generator=rng)
    weights = torch.randint(1, 50, (len(updates),), generator=rng).double()
    context, state = test_rules.known(updates), rule.initial_state(updates.shape[1])
    expected = rule.decide(state, updates, weights, context)
    with use_device(resolve_devices("auto")[0]):
        found = call_on_device(rule.decide, state, updates, weights, context)
    torch.testing.assert_close(found.step, expected.step, rtol=1e-6, atol=1e-7)
    if expected.shares is not None and found.shares is not None:
        assert torch.equal(found.shares == 0, expected.shares == 0)
