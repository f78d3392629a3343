"""Every countermeasure, found by walking its package, keeps the contract of its kind."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.fedprox import FedProxClient
from clients.sgd import SgdClient
from fl_sim import Experiment, Model
from fl_sim.config.validation import check
from fl_sim.contracts import Augmentation, Countermeasure, Filter, Shard, WorstCase
from fl_sim.core.errors import FieldError
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.core.serialization import construct, describe
from fl_sim.models.architectures import ARCHITECTURES

ALL = [cls() for cls in discover("fl_sim.countermeasures", Countermeasure)]
SHAPES = ((1, 8, 8), (3, 12, 9))
every_one = pytest.mark.parametrize("own", ALL, ids=lambda own: type(own).__name__)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def images_of(count: int, shape: tuple[int, int, int]) -> Tensor:
    rng = generator(0, "images")
    return torch.randint(0, 256, (count, *shape), generator=rng, dtype=torch.uint8)


def network(shape: tuple[int, int, int]) -> nn.Sequential:
    with seed_torch(0, "network"):
        return ARCHITECTURES["small_cnn"](shape, 4, "batch")


def applied(own: Countermeasure, images: Tensor, seed: int = 3) -> Tensor:
    """Return the images after the countermeasure, as floats in [0, 1]."""
    rng, labels = generator(seed, "apply"), torch.arange(len(images)) % 4
    if isinstance(own, Filter):
        filtered = own.filter(images, labels, rng)
        assert filtered.dtype == torch.uint8
        return filtered / 255
    batch, targets = images / 255, functional.one_hot(labels, 4).float()
    if isinstance(own, WorstCase):
        return own.find_worst(network(images.shape[1:]), batch, targets, rng)
    assert isinstance(own, Augmentation)
    augmented, mixed = own.augment(batch, targets, rng)
    torch.testing.assert_close(mixed.sum(1), torch.ones(len(images)))
    assert float(mixed.min()) >= 0
    return augmented


@every_shape
@every_one
def test_shape_is_kept_and_pixels_stay_legal(own: Countermeasure, shape: Any) -> None:
    out = applied(own, images_of(10, shape))
    assert out.shape == (10, *shape)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1


@every_one
def test_colour_images_are_changed(own: Countermeasure) -> None:
    images = images_of(10, SHAPES[1])
    assert not torch.equal(applied(own, images), images / 255)


@every_shape
@every_one
def test_the_same_generator_gives_the_same_images(own: Countermeasure, shape: Any) -> None:
    images = images_of(10, shape)
    assert torch.equal(applied(own, images), applied(own, images))


@every_one
def test_one_image_is_enough(own: Countermeasure) -> None:
    assert applied(own, images_of(1, SHAPES[0])).shape == (1, *SHAPES[0])


@every_one
def test_what_is_passed_in_is_left_as_it_was(own: Countermeasure) -> None:
    images = images_of(6, SHAPES[1])
    before = images.clone()
    applied(own, images)
    assert torch.equal(images, before)


@every_one
def test_global_generators_are_neither_used_nor_moved(own: Countermeasure) -> None:
    images = images_of(6, SHAPES[1])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = applied(own, images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(applied(own, images), first)


@pytest.mark.parametrize("own", [own for own in ALL if isinstance(own, WorstCase)], ids=str)
def test_the_model_is_left_as_it_was(own: WorstCase) -> None:
    images, targets = images_of(6, SHAPES[0]) / 255, torch.eye(4)[torch.arange(6) % 4]
    model = network(SHAPES[0]).train()
    model[1].eval()
    next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    own.find_worst(model, images, targets, generator(0, "worst"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert all(parameter.grad is None for parameter in model.parameters())


@every_one
def test_a_client_trains_with_it_and_goes_to_json_and_back(own: Countermeasure) -> None:
    client = SgdClient(countermeasures=(own,), batch_size=8)
    assert construct(json.loads(json.dumps(describe(client))), SgdClient) == client
    labels, ids = torch.arange(20) % 4, torch.arange(20)
    shard = Shard(0, images_of(20, SHAPES[0]), labels, ids, 4)
    metrics = client.train(network(SHAPES[0]), shard, generator(0, "client"))
    assert metrics["train_loss"] > 0
    assert set(metrics) == {"train_loss", "train_accuracy"}


@every_one
def test_cached_features_are_refused(own: Countermeasure) -> None:
    shard = Shard(0, torch.rand(8, 5), torch.arange(8) % 4, torch.arange(8), 4)
    client = SgdClient(countermeasures=(own,))
    with pytest.raises(ValueError, match=r"client.countermeasures: they need images"):
        client.train(nn.Sequential(nn.Linear(5, 4)), shard, generator(0, "client"))


def test_a_frozen_front_is_refused_before_any_work(experiment: Callable[..., Experiment]) -> None:
    client = SgdClient(countermeasures=(ALL[0],))
    for path, whole in {"client": client, "client.sgd": FedProxClient(sgd=client)}.items():
        check(experiment(client=whole))
        frozen = experiment(client=whole, model=Model(tune="head"))
        with pytest.raises(FieldError, match=rf"^{path}.countermeasures: none where a part"):
            check(frozen)
