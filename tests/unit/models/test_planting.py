"""Planted starts: a backdoor that nobody plants during the run, in the front and in the head."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from clients.backdoor import BackdoorClient
from fl_sim import Adversary, Data, Experiment, Model, run
from fl_sim.config import validation
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.data.partition import Iid
from fl_sim.data.sources import load_dataset, take_rest, take_subset
from fl_sim.federation.federation import Federation, prepare_federation
from fl_sim.metrics.backdoor import count_target_predictions
from fl_sim.metrics.half_life import half_life
from fl_sim.models.surrogate import find_obstacle
from fl_sim.planted.backdoor import PlantedBackdoor
from fl_sim.planted.bias import PlantedBias
from fl_sim.planted.latent_backdoor import LatentBackdoor
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.schedule import backdoors
from fl_sim.triggers import Backdoor, Patch

Maker = Callable[..., Experiment]
RECIPE = PlantedBackdoor(Patch(side=2), target=3, share=0.3, num_images=500, epochs=6)
DATA = Data(dataset="digits", num_clients=4, num_samples=200, num_test=100)


def planted(tune: Any = "full", **fields: Any) -> Model:
    return Model("small_cnn", init="planted", planted=RECIPE, tune=tune, **fields)


def ready(experiment: Maker, model: Model, **fields: Any) -> Federation:
    return prepare_federation(
        experiment(**{"data": DATA, "partition": Iid()} | fields, model=model)
    )


def whole(federation: Federation) -> nn.Sequential:
    return nn.Sequential(*federation.frozen, *federation.model).eval()


def test_the_start_has_the_backdoor_in_every_mode_and_in_the_front(experiment: Maker) -> None:
    full, head = (ready(experiment, planted(tune)) for tune in ("full", "head"))
    test, labels = full.dataset.test_images, full.dataset.test_labels
    with torch.no_grad():
        logits = whole(full)(as_pixels(Patch(side=2).stamp(test)))
        assert torch.equal(whole(head)(as_pixels(test)), whole(full)(as_pixels(test)))
    right, count = count_target_predictions(logits, labels, 3)
    assert right / count > 0.9
    assert torch.equal(full.start[-len(head.start) :], head.start)
    assert head.frozen_id != ready(experiment, Model("small_cnn", tune="head")).frozen_id


def test_equal_seeds_give_equal_starts_and_clients_change_nothing(experiment: Maker) -> None:
    one, other = ready(experiment, planted()), ready(experiment, planted(rank=2), partition=Iid())
    assert torch.equal(one.start, other.start)
    assert not torch.equal(one.start, ready(experiment, planted(), seed=1).start)


def test_a_head_of_other_classes_is_left_out(experiment: Maker) -> None:
    few = Data(dataset="digits", num_clients=4, num_samples=60, num_test=30, classes=(1, 3, 4, 7))
    other = PlantedBackdoor(Patch(side=2), target=3, dataset="digits", num_images=300)
    models = [
        Model("small_cnn", init="planted", planted=other),
        Model("small_cnn"),
    ]
    here, fresh = (whole(ready(experiment, model, data=few)) for model in models)
    ten = whole(ready(experiment, Model("small_cnn", init="planted", planted=other)))
    assert torch.equal(here[-1].weight, fresh[-1].weight)
    assert here[-1].weight.shape == (4, 64)
    assert torch.equal(here[-3].weight, ten[-3].weight)
    assert not torch.equal(here[-3].weight, fresh[-3].weight)


def test_a_planted_start_is_trained_from_a_checkpoint_wherever_it_lies(
    experiment: Maker, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, base="checkpoint", epochs=1, num_images=100)
    network, starts = whole(ready(experiment, Model("small_cnn"), seed=5)), []
    for name in ("one.pt", "two.pt"):
        torch.save(network.state_dict(), tmp_path / name)
        path = str(tmp_path / name)
        model = Model("small_cnn", init="planted", planted=recipe, checkpoint=path)
        starts.append(ready(experiment, model).start)
    assert torch.equal(*starts)
    near, far = (
        float((starts[0] - ready(experiment, Model("small_cnn"), seed=seed).start).norm())
        for seed in (5, 0)
    )
    assert near < 0.5 * far
    with pytest.raises(FieldError, match=r"checkpoint: the path of a file"):
        Model("small_cnn", init="planted", planted=recipe)


def test_the_images_left_out_are_all_others() -> None:
    digits = load_dataset("digits")
    for size in (10, 200, len(digits.train_labels)):
        taken, rest = take_subset(digits, size, None), take_rest(digits, size)
        images = torch.cat([taken.train_images, rest.train_images]).flatten(1).double()
        labels = torch.cat([taken.train_labels, rest.train_labels])
        assert torch.equal(images.sum(0), digits.train_images.flatten(1).double().sum(0))
        assert torch.equal(labels.bincount(), digits.train_labels.bincount())
        assert len(rest.train_labels) == len(digits.train_labels) - size


def test_a_run_in_which_nobody_attacks_shows_the_backdoor(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(data=DATA, partition=Iid(), model=planted("head"))
    assert backdoors(wanted) == [Backdoor(Patch(side=2), 3)]
    assert Experiment.from_json(wanted.to_json()) == wanted
    results = run(wanted, out=tmp_path)
    rows = results.rows[results.rows["metric"].str.startswith("attack_success")]
    assert set(rows["metric"]) == {
        "attack_success",
        "attack_success_start",
        "attack_success_untriggered",
    }
    assert rows[rows["metric"] == "attack_success"]["round"].tolist() == [1, 2]
    cell = results.cells.iloc[0]
    assert len(cell["planted_sha256"]) == 64
    assert cell["backdoor.start"] > 0.9
    assert cell["backdoor.success"] > 0.9
    assert pd.isna(cell["backdoor.half_life"])
    assert cell["backdoor.half_life_note"] == "above half of its start after round 2"


@pytest.mark.parametrize("tune", ["ridge", "ncm", "lda"])
def test_a_head_that_is_solved_for_inherits_a_latent_backdoor(
    experiment: Maker, tmp_path: Path, tune: Any
) -> None:
    recipe = LatentBackdoor(Patch(side=2), target=3, num_images=500, epochs=12)
    model = Model("small_cnn", init="planted", planted=recipe, tune=tune)
    wanted = experiment(data=DATA, partition=Iid(), model=model, rounds=1)
    cell = run(wanted, out=tmp_path).cells.iloc[0]
    assert cell["backdoor.start"] > 0.9
    assert cell["backdoor.success"] > 0.9
    assert cell["accuracy"] > 0.8


def test_the_half_life_is_the_first_round_from_which_on_success_is_at_most_half() -> None:
    assert half_life(0.8, [(1, 0.1), (2, 0.7), (3, 0.4), (5, 0.2)]) == 3
    assert half_life(0.8, [(1, 0.4)]) == 1
    nan = float("nan")
    for start, rates in ((0.8, [(1, 0.1), (2, 0.41)]), (nan, [(1, 0.0)]), (0.8, [(1, nan)])):
        assert half_life(start, rates) != half_life(start, rates)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": Model(planted=RECIPE)}, r"model.planted: None unless model.init is 'planted'"),
        (
            {"model": planted(), "data": Data(dataset="digits")},
            r"data.num_samples: a number, so that images are left for model.planted",
        ),
        (
            {"model": Model(init="planted", planted=PlantedBias(source=10)), "data": DATA},
            r"model.planted.source: one of 10 classes",
        ),
        (
            {"model": planted(), "data": DATA, "adversary": Adversary(BackdoorClient())},
            r"adversary: at most one trigger and target",
        ),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused(
    experiment: Maker, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        validation.check(experiment(**fields))


def test_a_planted_start_needs_a_recipe_and_images(experiment: Maker) -> None:
    with pytest.raises(FieldError, match=r"init: 'planted' with a recipe in model.planted"):
        Model(init="planted")
    every = len(load_dataset("digits").train_labels)
    data = Data(dataset="digits", num_clients=4, num_samples=every, num_test=30)
    with pytest.raises(FieldError, match=r"data.num_samples: fewer than all images"):
        ready(experiment, planted(), data=data)
    colour = Model(init="planted", planted=PlantedBackdoor(dataset="fashion_mnist"))
    with pytest.raises(FieldError, match=r"model.planted.dataset: a dataset of images of"):
        ready(experiment, colour)


def test_the_surrogate_of_a_protection_is_not_planted() -> None:
    protection = ErrorMinimizing(surrogate=planted())
    with pytest.raises(FieldError, match=r"surrogate.init: 'random' or 'pretrained'"):
        find_obstacle(protection, (1, 8, 8), 10)
