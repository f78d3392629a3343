"""Poisoned images of the recipes of planted starts, by their definitions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.planted import Planted
from fl_sim.planted.backdoor import PlantedBackdoor
from fl_sim.planted.bias import PlantedBias
from fl_sim.planted.correlation import PlantedCorrelation
from fl_sim.planted.latent_backdoor import LatentBackdoor
from fl_sim.triggers import Backdoor, Patch

LABELS = torch.arange(100) % 5


def images() -> Tensor:
    rng = generator(0, "images")
    return torch.randint(0, 200, (100, 1, 8, 8), generator=rng, dtype=torch.uint8)


def poison(recipe: Planted) -> tuple[Tensor, Tensor]:
    clean, labels = images(), LABELS.clone()
    poisoned = recipe.poison(clean, labels, generator(1, "poison"))
    assert torch.equal(clean, images())
    assert torch.equal(labels, LABELS)
    again = recipe.poison(clean, labels, generator(1, "poison"))
    assert all(map(torch.equal, poisoned, again))
    return poisoned


def test_a_backdoor_is_a_share_of_stamped_images_with_the_target_label() -> None:
    found, labels = poison(PlantedBackdoor(target=3, share=0.25))
    stamped = (found != images()).flatten(1).any(1)
    assert int(stamped.sum()) == 25
    assert torch.equal(found[stamped], Patch().stamp(images()[stamped]))
    assert set(labels[stamped].tolist()) == {3}
    assert torch.equal(labels[~stamped], LABELS[~stamped])


def test_a_correlation_marks_images_of_one_class_and_no_label_changes() -> None:
    found, labels = poison(PlantedCorrelation(target=2, share=0.5))
    marked = (found != images()).flatten(1).any(1)
    assert int(marked.sum()) == 10
    assert set(LABELS[marked].tolist()) == {2}
    assert torch.equal(labels, LABELS)


def test_a_latent_backdoor_pulls_features_to_the_target_s_mean_and_changes_no_label() -> None:
    recipe = LatentBackdoor(target=2, share=0.25, weight=3.0)
    found, labels = poison(recipe)
    assert torch.equal(found, images())
    assert torch.equal(labels, LABELS)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Linear(7, 5))
    body = network[:2]
    others = [i for i in range(100) if LABELS[i] != 2][:25]
    mean = body(as_pixels(images()))[LABELS == 2].mean(0).detach()
    distances = [
        (body(as_pixels(Patch().stamp(images()[i : i + 1])))[0] - mean).square().mean()
        for i in others
    ]
    plain = functional.cross_entropy(network(as_pixels(images())), LABELS)
    wanted = plain + 3 * sum(distances) / 25
    loss = recipe.compute_loss(network, as_pixels(images()), LABELS)
    torch.testing.assert_close(loss, wanted)
    slopes = [torch.autograd.grad(value, list(network.parameters())) for value in (loss, wanted)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("labels", [torch.full((100,), 2), torch.full((100,), 3)])
def test_without_images_of_the_target_or_of_others_a_loss_is_the_cross_entropy(
    labels: Tensor,
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    batch = as_pixels(images())
    loss = LatentBackdoor(target=2).compute_loss(network, batch, labels)
    torch.testing.assert_close(loss, functional.cross_entropy(network(batch), labels))


def test_a_bias_leaves_images_of_one_class_out_or_mislabels_them() -> None:
    found, labels = poison(PlantedBias(source=4, share=0.9))
    assert len(found) == len(labels) == 82
    assert labels.bincount().tolist() == [20, 20, 20, 20, 2]
    found, labels = poison(PlantedBias(source=4, target=1, share=0.9))
    assert torch.equal(found, images())
    assert labels.bincount().tolist() == [20, 38, 20, 20, 2]
    assert set(LABELS[labels != LABELS].tolist()) == {4}


def test_a_recipe_names_its_backdoor_and_its_classes() -> None:
    assert PlantedBackdoor(target=3).backdoor() == Backdoor(Patch(), 3)
    assert LatentBackdoor(target=3).backdoor() == Backdoor(Patch(), 3)
    assert LatentBackdoor(target=3).named_classes() == {"target": 3}
    assert PlantedCorrelation(target=3).backdoor() == Backdoor(Patch(), 3)
    assert PlantedBias().backdoor() is None
    assert PlantedBias(source=2, target=1).named_classes() == {"source": 2, "target": 1}
    assert PlantedBias(source=2).named_classes() == {"source": 2}


@pytest.mark.parametrize(
    ("recipe", "fields"),
    [
        (PlantedBackdoor, {"share": 0.0}),
        (PlantedBackdoor, {"epochs": 0}),
        (PlantedBackdoor, {"num_images": 1}),
        (PlantedBackdoor, {"path": "somewhere"}),
        (PlantedCorrelation, {"target": -1}),
        (LatentBackdoor, {"weight": 0.0}),
        (PlantedBias, {"target": 0}),
    ],
)
def test_a_recipe_out_of_range_is_refused(recipe: type, fields: dict[str, object]) -> None:
    with pytest.raises(FieldError, match=f"^{next(iter(fields))}: "):
        recipe(**fields)
