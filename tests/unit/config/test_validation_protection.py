"""Tests of errors and warnings about noise that cannot be made or will be weak."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fl_sim import Data, Experiment, cli
from fl_sim.config import validation
from fl_sim.core.errors import FieldError, RequestWarning
from fl_sim.data.layout import Layout
from fl_sim.protections.error_maximizing import ErrorMaximizing
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.neural_tangent import NeuralTangent
from fl_sim.publish.publish import publish
from fl_sim.publish.request import Request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six grey images of 12 x 12 in three class folders."""
    rng = np.random.default_rng(0)
    for index in range(6):
        path = tmp_path / "in" / f"class {index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    return tmp_path / "in"


@pytest.mark.parametrize("kind", [ErrorMinimizing, ErrorMaximizing])
def test_a_run_warns_of_class_wise_noise_of_few_images(
    experiment: Callable[..., Experiment], kind: Any
) -> None:
    weak = experiment(protection=kind(form="class"), layout=Layout(fraction=0.5))
    with pytest.warns(RequestWarning, match=r"^protection.pass_steps: .* 200 images takes 1 step"):
        validation.check(weak)


@pytest.mark.parametrize(
    "fields",
    [
        {"protection": ErrorMinimizing(form="class", pass_steps=78)},
        {"protection": ErrorMinimizing(form="sample")},
        {"protection": ErrorMinimizing(form="class"), "layout": Layout(fraction=0.0)},
    ],
)
def test_a_run_without_weak_noise_warns_of_nothing(
    experiment: Callable[..., Experiment], fields: dict[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RequestWarning)
        validation.check(experiment(**({"layout": Layout(fraction=0.5)} | fields)))


def test_owners_have_fewer_images_than_all_together(experiment: Callable[..., Experiment]) -> None:
    """1,000 images are enough for shared noise; a quarter of them is not."""
    data = Data(dataset="digits", num_clients=4, num_samples=1000, num_test=60)
    fields = {"protection": ErrorMinimizing(form="class"), "data": data}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RequestWarning)
        validation.check(experiment(layout=Layout(fraction=0.5), **fields))
    own = experiment(layout=Layout(fraction=0.5, provenance="client"), **fields)
    with pytest.warns(RequestWarning, match="250 images"):
        validation.check(own)


def test_a_run_refuses_patches_with_fewer_corners_than_classes(
    experiment: Callable[..., Experiment],
) -> None:
    wrong = experiment(protection=LinearSeparable(patch=8), layout=Layout(fraction=0.5))
    with pytest.raises(FieldError, match=r"protection.patch: so small that 2\^1, .* 10 classes"):
        validation.check(wrong)
    validation.check(experiment(protection=LinearSeparable(patch=4), layout=Layout(fraction=0.5)))


def test_a_surrogate_that_cannot_be_built_is_named_by_its_own_field(
    experiment: Callable[..., Experiment],
) -> None:
    """Its backbone comes with batch normalisation; the default of this protection has none."""
    wrong = replace(NeuralTangent().surrogate, backbone="efficientnet_lite0")
    unfit = experiment(protection=NeuralTangent(surrogate=wrong), layout=Layout(fraction=0.5))
    with pytest.raises(FieldError, match=r"^protection.surrogate.norm: 'batch'"):
        validation.check(unfit)


def test_images_that_noise_cannot_be_made_for_are_refused_before_anything_is_written(
    folder: Path,
) -> None:
    out = folder.parent / "out"
    with pytest.raises(FieldError, match=r"^patch: so small that .* 3 classes; got 12"):
        publish(Request(folder, out, LinearSeparable(patch=12)), lambda *_: None)
    assert not out.exists()


def test_publishing_warns_of_class_wise_noise_of_few_images(folder: Path) -> None:
    weak = ErrorMinimizing(form="class", max_passes=1, surrogate_steps=1)
    with pytest.warns(RequestWarning, match=r"^pass_steps: class-wise noise of 6 images"):
        publish(Request(folder, folder.parent / "out", weak), lambda *_: None)


def test_the_command_line_says_a_warning_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[Any] = []
    monkeypatch.setattr(cli, "SHOW", lambda *given: others.append(given))
    cli._warn(RequestWarning("pass_steps: too few"), RequestWarning, "file.py", 3)
    cli._warn("something else", UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "warning: pass_steps: too few\n"
    assert others == [("something else", UserWarning, "file.py", 3, None, None)]
