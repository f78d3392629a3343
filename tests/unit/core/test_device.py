"""Names of devices, and what is made and moved on them; `meta` stands for an accelerator."""

import os
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fl_sim.core import device
from fl_sim.core.device import (
    CPU,
    call_on_device,
    current_device,
    device_key,
    move,
    on_device,
    resolve_devices,
    use_device,
)
from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator, seed_torch

META = torch.device("meta")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "count_devices", dict)


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Give `meta` a generator of its own, and return what is called on it."""
    calls: list[object] = []
    module = SimpleNamespace(
        get_rng_state=lambda: "before", set_rng_state=calls.append, manual_seed=calls.append
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    return calls


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert resolve_devices("auto") == resolve_devices("cpu") == (CPU,)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "numbers"), [("auto", [0]), ("cuda", [0]), ("cuda:1", [1]), ("cuda:0,1", [0, 1])]
)
def test_a_name_gives_devices(name: str, numbers: list[int]) -> None:
    assert resolve_devices(name) == tuple(torch.device("cuda", number) for number in numbers)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("cuda:2", "device: auto, cpu or cuda:0,1; got 'cuda:2'"),
        ("cuda:1,1", "device: auto, cpu or cuda:0,1; got 'cuda:1,1'"),
        ("mps", "device: auto, cpu or cuda:0,1; got 'mps'"),
        ("gpu", "device: auto, cpu, cuda, cuda:0, cuda:0,1 or mps; got 'gpu'"),
        ("cuda:", "device: auto, cpu, cuda, .* got 'cuda:'"),
    ],
)
def test_a_wrong_name_says_what_there_is(name: str, allowed: str) -> None:
    with pytest.raises(FieldError, match=allowed):
        resolve_devices(name)


@pytest.mark.usefixtures("two_gpus")
def test_a_process_that_was_assigned_a_device_has_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "_assigned", None)
    device.assign_device(torch.device("cuda", 1))
    assert resolve_devices("cuda:0,1") == resolve_devices("auto") == (torch.device("cuda", 1),)
    assert resolve_devices("cpu") == (CPU,)


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_missing_is_refused() -> None:
    with pytest.raises(FieldError, match="device: auto or cpu on this machine; got 'cuda'"):
        resolve_devices("cuda")


def test_on_a_cpu_nothing_is_entered_and_no_setting_changes() -> None:
    before = dict(os.environ), torch.get_deterministic_debug_mode()
    with use_device("cpu"), on_device():
        assert torch._C._len_torch_function_stack() == 0  # type: ignore[attr-defined]
        assert device_key() == ()
        assert (dict(os.environ), torch.get_deterministic_debug_mode()) == before


def test_a_device_is_used_inside_its_block_alone() -> None:
    with use_device(META):
        assert current_device() == META
        assert torch.are_deterministic_algorithms_enabled()
        assert device_key() == ("meta",)
        with use_device("cpu"):
            assert current_device() == CPU
        with use_device(None):
            assert current_device() == META
    assert current_device() == CPU
    assert not torch.are_deterministic_algorithms_enabled()
    with use_device(META, deterministic=False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_new_tensors_are_made_on_the_device_and_cpu_ones_inside_of_it() -> None:
    with use_device(META):
        assert torch.zeros(1).device == CPU
        with on_device():
            made = (torch.zeros(1), torch.tensor([1]), torch.randn(2, generator=generator(0)))
            assert {tensor.device for tensor in made} == {META}
            assert torch.zeros(1, device="cpu").device == CPU
            with on_device(CPU):
                assert torch.zeros(1).device == CPU
                assert torch.randn(2, generator=generator(0)).device == CPU


def test_numbers_are_drawn_on_the_cpu() -> None:
    """On the way to a device the same generator is used, and left in the same state."""
    mode = device.NewTensors(CPU)  # as an accelerator would, but one whose numbers can be read
    chances = torch.full((50,), 0.5)
    drawn, expected = list[Tensor](), list[Tensor]()
    for numbers in (drawn, expected):
        rng = generator(3, "draws")
        if numbers is drawn:
            mode.__enter__()
        numbers += [torch.randn(4, generator=rng), torch.randperm(9, generator=rng)]
        numbers += [torch.bernoulli(chances, generator=rng)]
        numbers += [torch.zeros(3).uniform_(2, 4, generator=rng)]
        numbers += [torch.multinomial(chances, 3, generator=rng), torch.rand(1, generator=rng)]
        if numbers is drawn:
            mode.__exit__(None, None, None)
    assert all(map(torch.equal, drawn, expected))


@dataclass(frozen=True)
class Part:
    values: Tensor
    name: str = "a part"


def test_all_tensors_of_a_value_are_moved() -> None:
    part = Part(torch.zeros(2))
    value = {"list": [part, 1], "tuple": (torch.ones(1), "text")}
    moved = move(value, META)
    assert moved["list"][0].values.device == moved["tuple"][0].device == META  # type: ignore[attr-defined, index]
    assert moved["list"][0].name == "a part"  # type: ignore[attr-defined]
    assert move(value, CPU) is value
    assert move(part, CPU) is part


def test_a_function_gets_its_arguments_on_the_device_and_returns_to_the_cpu() -> None:
    seen: list[torch.device] = []

    def look(given: Tensor) -> Tensor:
        seen[:] = [given.device, torch.ones(2).device]
        return torch.ones(2, device="cpu")

    assert call_on_device(look, torch.zeros(2)).tolist() == [1.0, 1.0]
    assert seen == [CPU, CPU]
    with use_device(META):
        assert call_on_device(look, torch.zeros(2)).tolist() == [1.0, 1.0]
    assert seen == [META, META]


def test_the_generator_of_a_device_is_seeded_and_restored(fake_module: list[object]) -> None:
    with seed_torch(0, "layers"):
        expected = torch.initial_seed()
    assert not fake_module
    with use_device(META), on_device(), seed_torch(0, "layers"):
        assert fake_module == [expected]
    assert fake_module == [expected, "before"]
