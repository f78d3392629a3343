"""Every plug-in runs on another device, here a simulated one, without naming it.

A plug-in that leaves a tensor on the CPU fails by its name.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.alie import AlieClient
from clients.ditto import DittoClient
from clients.dp_sgd import DpSgdClient
from clients.sgd import SgdClient
from clients.statistics import StatisticsClient
from fl_sim import Adversary, Data, Evaluation, Experiment, run
from fl_sim.attacks.gradient_inversion import GradientInversion, compute_gradient
from fl_sim.attacks.memorisation import measure_memorisation
from fl_sim.attacks.model_inversion import PriorGuidedInversion, train_generator
from fl_sim.audit.findings import find_attacks
from fl_sim.audit.session import audit
from fl_sim.contracts import (
    AggregationResult,
    AggregationRule,
    Augmentation,
    Client,
    Countermeasure,
    Dataset,
    Filter,
    InformedRule,
    Protection,
    RoundContext,
    Shard,
    WorstCase,
)
from fl_sim.core.device import (
    CPU,
    call_on_device,
    keep_on_device,
    move,
    new_tensors_device,
    on_device,
)
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.data.layout import Layout
from fl_sim.experiment import Adversarial, Model
from fl_sim.models.parameters import flatten
from fl_sim.models.tuning import build_network
from fl_sim.protections.autoregressive import Autoregressive
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.rounds.accumulator import find_stack_device
from strategies.krum import MultiKrum
from strategies.ridge import RidgeHead
from tests.conformance import test_clients, test_countermeasures, test_protections, test_rules
from tests.simulated_device import DeviceTensor, WrongDeviceError, simulate_device

RULES = [cls() for cls in discover("strategies", AggregationRule)]
CLIENTS = [cls() for cls in discover("clients", Client)]
COUNTERMEASURES = [cls() for cls in discover("fl_sim.countermeasures", Countermeasure)]


def name_of(part: Any) -> str:
    return type(part).__name__


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_a_rule_gives_the_same_on_a_device(rule: AggregationRule) -> None:
    updates, weights = test_rules.drawn(rule, 0)
    context, state = test_rules.known(updates), rule.initial_state(updates.shape[1])
    expected = rule.decide(state, updates, weights, context)
    with simulate_device():
        found = call_on_device(rule.decide, state, updates, weights, context)
    check_equal(found, expected)


def check_equal(found: AggregationResult, expected: AggregationResult) -> None:
    """Check that steps agree to 1e-6 and selections exactly, and that all is on the CPU."""
    torch.testing.assert_close(found.step, expected.step, rtol=1e-6, atol=1e-9)
    for one, other in ((found.shares, expected.shares), (found.scales, expected.scales)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
            assert torch.equal(one == 0, other == 0)


@pytest.fixture(scope="module")
def shard(digits: Dataset) -> Shard:
    return Shard(2, digits.train_images[:12], digits.train_labels[:12], torch.arange(12), 10)


def start(client: Client) -> nn.Sequential:
    """Return a network; PyTorch's gradient of a group normalisation breaks simulated tensors."""
    if isinstance(client, DpSgdClient):
        return build_network(Model("mlp"), (1, 8, 8), 10, seed=0).trained
    return test_clients.fresh(client)


def train(client: Client, shard: Shard) -> tuple[Tensor, dict[str, float]]:
    """Return the parameters, on the CPU, and the metrics after training on the current device."""
    model = start(client)
    with on_device():
        model.to(new_tensors_device())
        moved = replace(move(shard, new_tensors_device()), memory={}, sent={})
        metrics = client.train(model, moved, generator(0, "client"))
        return flatten(model).cpu(), metrics


@pytest.mark.parametrize("client", CLIENTS, ids=name_of)
def test_a_client_trains_alike_on_a_device(client: Client, shard: Shard) -> None:
    expected, expected_metrics = train(client, shard)
    with simulate_device():
        found, metrics = train(client, shard)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert metrics == pytest.approx(expected_metrics, nan_ok=True, rel=1e-5)


def shorten(protection: Any) -> Protection:
    """Return a protection that takes fewer steps still, with a search that ends at once."""
    short: Protection = protection
    if isinstance(protection, Autoregressive):
        short = replace(protection, response=0.0)
    return short


PROTECTIONS = [
    pytest.param(
        shorten(protection),
        id=test_protections.name_of(protection),
        marks=[pytest.mark.slow] if hasattr(protection, "surrogate") else [],
    )
    for protection in test_protections.ALL
]


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_a_protection_gives_the_same_pixels_on_a_device(
    protection: Protection, digits: Dataset
) -> None:
    images, labels = digits.train_images[:40], digits.train_labels[:40]
    expected = protection.protect(images, labels, torch.arange(40), 5)
    with simulate_device():
        found = call_on_device(protection.protect, images, labels, torch.arange(40), 5)
    # A sign step may turn at a gradient of about zero.
    change = (found.int() - expected.int()).abs()
    assert float((change <= 1).double().mean()) > 0.95


def counter(own: Countermeasure, images: Tensor) -> Tensor:
    """Return images after a countermeasure, made where the images are."""
    rng, labels = generator(0, "counter"), torch.arange(len(images)) % 4
    if isinstance(own, Filter):
        return own.filter(images, labels, rng)
    batch, targets = images / 255, functional.one_hot(labels, 4).float()
    if isinstance(own, WorstCase):
        model = test_countermeasures.network((3, 12, 9)).to(images.device)
        return own.find_worst(model, batch, targets, rng)
    assert isinstance(own, Augmentation)
    return own.augment(batch, targets, rng)[0]


@pytest.mark.parametrize("own", COUNTERMEASURES, ids=name_of)
def test_a_countermeasure_gives_the_same_on_a_device(own: Countermeasure) -> None:
    images = test_countermeasures.images_of(6, (3, 12, 9))
    expected = counter(own, images)
    with simulate_device():
        found = call_on_device(counter, own, images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@final
@dataclass(frozen=True)
class OnTheCpu(InformedRule):
    """A rule that makes a tensor on the CPU on purpose."""

    def decide(
        self, state: Any, updates: Tensor, weights: Tensor, context: RoundContext
    ) -> AggregationResult:
        """Return the mean plus zeros of the CPU."""
        left_behind = torch.zeros(updates.shape[1], device="cpu")
        return AggregationResult(state, updates.mean(0) + left_behind)


def test_a_plug_in_that_leaves_a_tensor_behind_fails() -> None:
    with pytest.raises(WrongDeviceError, match="add: one tensor on the device") as caught:
        test_a_rule_gives_the_same_on_a_device(OnTheCpu())
    assert "decide" in [entry.name for entry in caught.traceback]


MIXED = {
    "strategy": MultiKrum(0),
    "adversary": Adversary(AlieClient(), num_clients=1),
    "evaluation": Evaluation(
        adversarial=Adversarial(steps=2), contributions="leave_one_out", alone=SgdClient()
    ),
    "protection": LinearSeparable(),
    "layout": Layout(0.5),
}
LONG = ("a sum, with every attack of an audit", "a stack, with all measurements")
LOOPS: dict[str, dict[str, Any]] = {
    "a sum, with every attack of an audit": {},
    "a stack, with all measurements": MIXED,
    "batches of clients that keep a state": {"client": DittoClient(), "rounds": 2},
    "features": {"model": Model("small_cnn", tune="head")},
    "statistics": {
        "model": Model("small_cnn", tune="ridge"),
        "client": StatisticsClient(),
        "strategy": RidgeHead(),
    },
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in LOOPS],
)
def test_a_run_gives_the_same_on_a_device(
    name: str, experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    data = Data(dataset="digits", num_clients=3, num_samples=90, num_test=40)
    tiny = experiment(**({"data": data, "model": Model("mlp"), "rounds": 1} | LOOPS[name]))
    tier = 2 if name.endswith("audit") else None
    expected, expected_findings = run_once(tiny, tmp_path / "cpu", tier)
    with simulate_device() as device:
        found, findings = run_once(tiny, tmp_path / "device", tier)
    assert (expected["device"], found["device"]) == ("cpu", device.type)
    exact = tiny.model.tune != "head"  # features are extracted in larger batches
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert not exact or found["params_sha256"] == expected["params_sha256"]
    if tier is not None:
        assert {*find_attacks(2)} <= {*findings["attack"]}
        pd.testing.assert_frame_equal(findings, expected_findings, rtol=1e-5)


def run_once(experiment: Experiment, out: Path, tier: int | None) -> tuple[Any, Any]:
    """Return the cell of a run, and the findings of an audit of it."""
    results = run(experiment, out=out, controls=False)
    cell = results.cells.iloc[0]
    assert results.complete, cell.get("error")
    folder = results.path / str(cell.run_id) / f"seed={experiment.seed}"
    return cell, None if tier is None else audit(folder, tier, 2)


def test_a_stack_that_does_not_fit_stays_on_the_cpu() -> None:
    with simulate_device(free=1000) as device:
        assert find_stack_device(100) == device
        assert find_stack_device(1000) == CPU
        assert keep_on_device(torch.zeros(1000)).device == CPU
        kept = torch.zeros(10)
        assert keep_on_device(kept) is keep_on_device(kept)
        assert isinstance(keep_on_device(kept), DeviceTensor)


def test_attacks_on_a_network_run_on_a_device(digits: Dataset) -> None:
    images, labels = digits.train_images[:4] / 255, digits.train_labels[:4]
    model = build_network(Model("mlp"), (1, 8, 8), 10, seed=0).trained
    attack, search = GradientInversion(steps=3), PriorGuidedInversion(40, 2, 1, steps=2, crops=2)

    def attack_all() -> list[Tensor]:
        gradient = compute_gradient(model, images, labels)
        prior = train_generator(images, 0, epochs=1, latent=4)
        scores = measure_memorisation(model, torch.cat([images] * 2)[:, :, :8, :8], 1, 0)
        reconstructed = attack.reconstruct(model, gradient, (4, 1, 8, 8), 10, 0)
        return [reconstructed, search.reconstruct(model, prior, 10, 0)[0], torch.tensor(scores)]

    expected = attack_all()
    with simulate_device():
        found = attack_all()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
