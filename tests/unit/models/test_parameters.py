"""Parameters as one flat vector and back, and the buffers that are sent with it."""

import pytest
import torch
from torch import Tensor, nn

from fl_sim.core.seeding import generator
from fl_sim.experiment import Model
from fl_sim.models.architectures import ARCHITECTURES
from fl_sim.models.parameters import (
    copy_buffers,
    flatten,
    load_buffers,
    load_flat,
    parameter_shapes,
)
from fl_sim.models.tuning import FrozenBatchNorm, build_network


def made(backbone: str = "small_cnn", seed: int = 0) -> nn.Sequential:
    return build_network(Model(backbone), (3, 16, 16), 10, seed).trained


def drawn(like: Tensor) -> Tensor:
    return torch.randn(len(like), generator=generator(0, "vector"))


@pytest.mark.parametrize("backbone", ARCHITECTURES)
def test_a_vector_that_is_loaded_is_read_back(backbone: str) -> None:
    model = made(backbone)
    vector = drawn(flatten(model))
    load_flat(model, vector)
    assert torch.equal(flatten(model), vector)


def test_loading_its_own_vector_changes_nothing() -> None:
    model = made()
    before = [parameter.clone() for parameter in model.parameters()]
    load_flat(model, flatten(model))
    assert all(map(torch.equal, before, model.parameters()))


def test_the_vector_is_in_the_order_of_the_shapes() -> None:
    model = made()
    pieces = flatten(model).split(
        [torch.Size(shape).numel() for shape in parameter_shapes(model).values()]
    )
    named = dict(model.named_parameters())
    for (name, shape), piece in zip(parameter_shapes(model).items(), pieces, strict=True):
        assert torch.equal(piece.view(shape), named[name])


def test_the_vector_is_a_copy() -> None:
    for model in (made(), nn.Linear(3, 2, bias=False)):
        vector = flatten(model)
        before = vector.clone()
        flatten(model).zero_()
        assert torch.equal(flatten(model), before)
        load_flat(model, before + 1)
        assert torch.equal(vector, before)


def test_loading_copies_from_the_vector() -> None:
    model = made()
    vector = drawn(flatten(model))
    before = vector.clone()
    load_flat(model, vector)
    with torch.no_grad():
        model[1].weight.zero_()
    assert torch.equal(vector, before)


def test_the_layout_in_memory_does_not_matter() -> None:
    plain, last = made(), made().to(memory_format=torch.channels_last)
    assert not last[1].weight.is_contiguous()
    assert torch.equal(flatten(plain), flatten(last))
    vector = drawn(flatten(plain))
    for model in (plain, last):
        load_flat(model, vector)
    assert torch.equal(plain[1].weight, last[1].weight)
    assert last[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(flatten(last), vector)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_vector_of_another_length_is_refused(change: int) -> None:
    model = made()
    with pytest.raises((RuntimeError, ValueError)):
        load_flat(model, torch.zeros(len(flatten(model)) + change))


def test_frozen_parameters_are_not_sent() -> None:
    model = made()
    whole = len(flatten(model))
    model[1].requires_grad_(False)
    frozen = sum(parameter.numel() for parameter in model[1].parameters())
    assert len(flatten(model)) == whole - frozen
    assert not any(name.startswith("1.") for name in parameter_shapes(model))
    before = model[1].weight.clone()
    load_flat(model, torch.zeros(whole - frozen))
    assert torch.equal(model[1].weight, before)


def test_statistics_are_sent_separately_by_name() -> None:
    assert sorted(copy_buffers(made())) == [
        f"{layer}.{name}"
        for layer in (2, 5)
        for name in ("num_batches_tracked", "running_mean", "running_var")
    ]


def test_constants_are_not_sent() -> None:
    model = build_network(Model("small_cnn", norm="group"), (3, 16, 16), 10, 0).trained
    assert dict(model.named_buffers())  # the mean and deviation of the first layer
    assert copy_buffers(model) == {}


def test_frozen_statistics_are_not_sent() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), FrozenBatchNorm(2))
    assert {name.split(".")[0] for name in copy_buffers(model)} == {"0"}


def test_buffers_that_are_loaded_are_read_back_as_copies() -> None:
    one, other = made(), made()
    one.train()(torch.rand(4, 3, 16, 16, generator=generator(0, "images")))
    values = copy_buffers(one)
    load_buffers(other, values)
    again = copy_buffers(other)
    assert all(torch.equal(values[name], again[name]) for name in values)
    values["2.running_mean"].fill_(99.0)
    assert float(copy_buffers(other)["2.running_mean"].max()) < 99
    assert float(copy_buffers(one)["2.running_mean"].max()) < 99
    assert copy_buffers(other)["2.num_batches_tracked"].item() == 1
