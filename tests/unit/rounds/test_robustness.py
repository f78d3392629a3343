"""Corrupted and attacked test images: rows, closed forms and equal bits on every path."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl_sim import Data
from fl_sim.backends.base import InProcessBackend
from fl_sim.config import validation
from fl_sim.contracts import Row
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.data.partition import Iid
from fl_sim.experiment import Adversarial, Corruptions, Evaluation, Experiment, Model
from fl_sim.federation.federation import Federation, prepare_federation
from fl_sim.metrics.robustness import adversarial_rows, corruption_rows
from fl_sim.rounds.loop import create_state, run_rounds
from fl_sim.rounds.measure import record_round
from fl_sim.rounds.robustness import choose_images, compute_corrupted, measure_robustness
from fl_sim.rounds.server import RuleServer
from fl_sim.rounds.state import State
from fl_sim.training.client_trainer import make_trainer
from strategies.fedavg import FedAvg
from tests.unit.rounds.test_evaluation import outcome_of

Maker = Callable[..., Experiment]
RADIUS = 16 / 255


def train(experiment: Experiment) -> tuple[Federation, InProcessBackend, State, list[Row]]:
    federation = prepare_federation(experiment)
    backend = InProcessBackend(make_trainer(federation))
    state = create_state(federation, RuleServer(FedAvg(), len(federation.start)))
    rows = [row for outcome in run_rounds(federation, state, backend) for row in outcome.rows]
    return federation, backend, state, rows


def by_metric(rows: list[Row], metric: str) -> list[Row]:
    return [row for row in rows if row.metric == metric]


def attack(
    federation: Federation, backend: InProcessBackend, state: State, settings: Adversarial
) -> list[Row]:
    evaluation = Evaluation(adversarial=settings)
    asked = replace(federation, experiment=replace(federation.experiment, evaluation=evaluation))
    record = record_round(asked, backend, outcome_of(state))
    return list(measure_robustness(asked, backend, state, record))


Trained = tuple[Federation, InProcessBackend, State]


@pytest.fixture(scope="module")
def linear(experiment: Maker) -> Trained:
    """A linear model of two classes, whose worst case has a closed form."""
    data = replace(experiment().data, classes=(3, 8), num_samples=120, num_test=60)
    federation, backend, state, _ = train(
        experiment(data=data, rounds=5, model=Model(backbone="linear"))
    )
    return federation, backend, state


def compute_worst_margins(federation: Federation, model: nn.Module, radius: float) -> Tensor:
    """Return the smallest margin of each test image within the radius.

    With weights w of the margin, each pixel moves by the radius against the sign of its weight,
    as far as [0, 1] allows.
    """
    images = as_pixels(federation.dataset.test_images).double()
    labels = federation.dataset.test_labels
    network = deepcopy(model).double()
    zero = torch.zeros_like(images[:1]).requires_grad_(True)
    logits = network(zero)
    (weights,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], zero)
    offset = (logits[0, 0] - logits[0, 1]).detach()
    signed = torch.where(labels == 0, 1.0, -1.0).double().view(-1, 1, 1, 1)
    worst = (images - radius * (signed * weights).sign()).clamp(0, 1)
    return signed.flatten() * ((worst * weights).sum((1, 2, 3)) + offset)


@pytest.mark.parametrize("kind", ["pgd", "apgd"])
def test_an_attack_on_a_linear_model_reaches_the_closed_form(linear: Trained, kind: str) -> None:
    federation, backend, state = linear
    for radius in (RADIUS, 60 / 255):
        settings = Adversarial(radius=radius, attack=kind, steps=20)  # type: ignore[arg-type]
        rows = attack(federation, backend, state, settings)
        backend.trainer.model_tensors.load(state.parameters, state.buffers)
        expected = float(
            (compute_worst_margins(federation, backend.trainer.model, radius) > 0).double().mean()
        )
        accuracy, drop = rows
        assert accuracy.metric == "adversarial_accuracy"
        assert accuracy.value == pytest.approx(expected, abs=1e-12)
        assert accuracy.low <= accuracy.value <= accuracy.high
        assert drop.value > 0


def test_everything_is_lost_at_a_radius_of_all_pixels(linear: Trained) -> None:
    assert attack(*linear, Adversarial(radius=1.0, steps=20))[0].value == 0


def test_auto_pgd_is_no_weaker_than_plain_steps(experiment: Maker) -> None:
    federation, backend, state, _ = train(experiment(rounds=4))
    found = {
        kind: attack(federation, backend, state, Adversarial(radius=0.1, attack=kind))[0].value  # type: ignore[arg-type]
        for kind in ("pgd", "apgd")
    }
    assert found["apgd"] <= found["pgd"] + 1 / 60


def test_rows_come_when_they_are_asked_for(experiment: Maker) -> None:
    evaluation = Evaluation(
        corruptions=Corruptions(("fog", "contrast"), severity=4),
        adversarial=Adversarial(num_images=20, steps=2, every=2),
    )
    *_, rows = train(experiment(evaluation=evaluation, rounds=3))
    per_corruption = by_metric(rows, "corruption_accuracy")
    assert [(row.round, row.group) for row in per_corruption] == [(3, "contrast"), (3, "fog")]
    assert [row.round for row in by_metric(rows, "adversarial_accuracy")] == [2, 3]
    *_, bare = train(experiment(rounds=3))
    others = [row for row in rows if not row.metric.startswith(("corruption", "adversarial"))]
    assert [keep(row) for row in others] == [keep(row) for row in bare]


def keep(row: Row) -> tuple[object, ...]:
    """Return a row without measured times, as text so that NaN equals NaN."""
    value = "" if row.metric in TIMES else str(row.value)
    return (row.round, row.metric, row.client, row.group, value, row.valid, row.note)


TIMES = ("seconds", "cpu_seconds", "peak_mib")


def test_a_frozen_front_is_attacked_too_and_its_features_are_those_of_corrupted_images(
    experiment: Maker,
) -> None:
    whole, front = (
        train(experiment(model=Model(tune=tune, norm="group"), rounds=2))  # type: ignore[arg-type]
        for tune in ("full", "head")
    )
    (fog,) = Corruptions(("fog",)).build()
    corrupted = compute_corrupted(whole[0], fog)
    assert corrupted.dtype == torch.uint8
    assert torch.equal(front[0].compute_inputs(corrupted), compute_corrupted(front[0], fog))
    assert attack(*front[:3], Adversarial(radius=1.0))[0].value < 0.2


def test_corrupted_images_depend_on_the_seed_only(experiment: Maker) -> None:
    (noise,) = Corruptions(("gaussian_noise",)).build()
    first, again, other = (
        compute_corrupted(prepare_federation(experiment(seed=seed, rounds=rounds)), noise)
        for seed, rounds in ((0, 1), (0, 2), (1, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_attacked_images_are_drawn_by_the_seed(experiment: Maker) -> None:
    federation = prepare_federation(experiment())
    assert torch.equal(choose_images(federation, None), torch.arange(60))
    some = choose_images(federation, 25)
    assert len(some) == 25
    assert set(choose_images(federation, 10).tolist()) <= set(some.tolist())


def test_a_diverged_model_has_no_robustness(linear: Trained) -> None:
    federation, backend, state = linear
    broken = replace(state, parameters=torch.full_like(state.parameters, 1e38))
    rows = attack(federation, backend, broken, Adversarial())
    assert [(row.valid, row.note) for row in rows] == [(False, "the model diverged")] * 2
    logits = {"fog": torch.full((4, 2), torch.nan)}
    rows = list(corruption_rows(1, torch.zeros(4, 2), logits, torch.zeros(4).long()))
    assert all(math.isnan(row.value) and row.note == "the model diverged" for row in rows)


def test_corruption_rows_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    right, half = torch.eye(2)[labels], torch.eye(2)[[0, 1, 1, 0]]
    rows = list(corruption_rows(1, right, {"fog": half, "contrast": right}, labels))
    assert [(row.metric, row.group, row.value) for row in rows] == [
        ("corruption_accuracy", "fog", 0.5),
        ("corruption_accuracy", "contrast", 1.0),
        ("corruption_mean_accuracy", "all", 0.75),
        ("corruption_drop", "all", 0.25),
    ]
    *_, drop = corruption_rows(1, 1 - right, {"fog": right}, labels)
    assert (drop.valid, drop.note) == (False, "no clean image is classified correctly")


def test_a_corruption_that_changes_no_image_has_no_number(experiment: Maker) -> None:
    names = ("brightness", "defocus_blur")  # the radius of the disc is below half a pixel here
    asked = Evaluation(corruptions=Corruptions(names))
    *_, rows = train(experiment(evaluation=asked))
    bright, blurred = by_metric(rows, "corruption_accuracy")
    assert (blurred.group, blurred.valid) == ("defocus_blur", False)
    assert math.isnan(blurred.value)
    assert "changes no image" in blurred.note
    assert by_metric(rows, "corruption_mean_accuracy")[0].value == bright.value


@pytest.mark.parametrize("shape", [(40, 1, 1), (40, 1, 5)])
def test_corruptions_that_fail_on_small_images_are_refused(
    experiment: Maker, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, shape), np.arange(40) % 2
    both = {"train_images": images.astype(np.uint8), "test_images": images.astype(np.uint8)}
    np.savez(tmp_path / "own.npz", **both, train_labels=labels, test_labels=labels)
    data = Data(dataset="npz", path=str(tmp_path / "own.npz"), num_clients=2)
    for name in ("defocus_blur", *(["elastic_transform"] if shape[2] == 1 else [])):
        asked = Evaluation(corruptions=Corruptions((name,)))
        wanted = experiment(data=data, model=Model("mlp"), partition=Iid(), evaluation=asked)
        with pytest.raises(FieldError, match=rf"^evaluation.corruptions.names: .*{name}"):
            validation.check(wanted)


def test_more_attacked_images_than_there_are_are_refused(experiment: Maker) -> None:
    wanted = experiment(evaluation=Evaluation(adversarial=Adversarial(num_images=10**6)))
    with pytest.raises(FieldError, match=r"^evaluation.adversarial.num_images: at most"):
        validation.check(wanted)


def test_an_attack_without_gradients_gives_no_number() -> None:
    seen, masked = (list(adversarial_rows(1, 8, 4, count, 10)) for count in (0, 1))
    assert [row.value for row in seen] == [0.4, 0.4]
    assert all(math.isnan(row.value) and not row.valid for row in masked)
    assert masked[0].note.startswith("no gradient on 12%")


def test_a_saturated_model_is_recognised_as_masked(linear: Trained) -> None:
    federation, backend, state = linear
    saturated = replace(state, parameters=1e4 * state.parameters)
    rows = attack(federation, backend, saturated, Adversarial())
    assert not rows[0].valid
    assert "no gradient" in rows[0].note


def test_mistakes_are_named() -> None:
    for make, field in (
        (lambda: Corruptions(("fogg",)), "names"),
        (lambda: Corruptions(("fog", "fog")), "names"),
        (lambda: Corruptions(severity=6), "severity"),
        (lambda: Adversarial(radius=0.0), "radius"),
        (lambda: Adversarial(steps=0), "steps"),
        (lambda: Evaluation(every=2, adversarial=Adversarial(every=3)), "adversarial.every"),
    ):
        with pytest.raises(FieldError, match=f"^{field}: "):
            make()  # type: ignore[no-untyped-call]
    with pytest.raises(FieldError, match="did you mean 'fog'"):
        Corruptions(("fogg",))


def test_defaults_leave_the_json_of_earlier_experiments(experiment: Maker) -> None:
    assert set(experiment().describe()["evaluation"]) == {
        "class",
        "every",
        "contributions",
        "alone",
    }
    asked = experiment(evaluation=Evaluation(corruptions=Corruptions(), adversarial=Adversarial()))
    assert Experiment.from_json(asked.to_json()) == asked
