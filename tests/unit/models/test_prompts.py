"""Visual prompt tuning against its definition: tokens that blocks see beside those of the image."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import seed_torch
from fl_sim.experiment import Model
from fl_sim.models.networks import NETWORKS
from fl_sim.models.prompts import Prompted, add_prompts
from fl_sim.models.tuning import build_network

WIDTH, TOKENS, PROMPTS = 8, 5, 3


def blocks(count: int = 2) -> list[nn.Module]:
    with seed_torch(0, "blocks"):
        layer = [
            nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True) for _ in range(count)
        ]
    return [each.double() for each in layer]


def tokens() -> Tensor:
    with seed_torch(0, "tokens"):
        return torch.randn(2, TOKENS, WIDTH).double()


def prompted(deep: bool) -> list[Any]:
    with seed_torch(0, "prompts"):
        return list(add_prompts(blocks(), tokens(), PROMPTS, deep).double())


def between(inputs: Tensor, prompts: Tensor) -> Tensor:
    """Return tokens with prompts after the first, the place of a class token, as in the paper."""
    several = prompts.expand(len(inputs), -1, -1)
    return torch.cat([inputs[:, :1], several, inputs[:, 1:]], 1)


def without(outputs: Tensor) -> Tensor:
    return torch.cat([outputs[:, :1], outputs[:, 1 + PROMPTS :]], 1)


def test_shallow_prompts_enter_once_and_go_through_all_blocks() -> None:
    (unit,) = prompted(deep=False)
    hidden = between(tokens(), unit.prompts)
    for block in blocks():
        hidden = block(hidden)
    torch.testing.assert_close(unit(tokens()), without(hidden))


def test_deep_prompts_replace_those_of_the_block_before() -> None:
    hidden = tokens()
    for unit, block in zip(prompted(deep=True), blocks(), strict=True):
        hidden = without(block(between(hidden, unit.prompts)))
    torch.testing.assert_close(nn.Sequential(*prompted(deep=True))(tokens()), hidden)
    first, second = prompted(deep=True)
    assert not torch.equal(first.prompts, second.prompts)


def test_only_prompts_are_trained_and_they_reach_the_output() -> None:
    (unit,) = prompted(deep=False)
    assert [n for n, p in unit.named_parameters() if p.requires_grad] == ["prompts"]
    (slope,) = torch.autograd.grad(unit(tokens()).square().sum(), [unit.prompts])
    assert bool((slope.abs().sum(1) > 0).all())
    assert float(unit.prompts.detach().abs().max()) <= (3 / WIDTH) ** 0.5


class Mixer(nn.Module):
    """A block for one number of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(TOKENS, TOKENS).double()

    def forward(self, inputs: Tensor) -> Tensor:
        mixed: Tensor = self.mix(inputs.mT).mT
        return mixed


def test_networks_without_tokens_or_with_a_fixed_number_are_refused() -> None:
    with pytest.raises(FieldError, match=r"any number of tokens \(this one fails"):
        add_prompts([Mixer()], tokens(), PROMPTS, deep=False)
    with pytest.raises(
        FieldError, match=r"images, tokens, width\]; those of this one pass on \[5, 2"
    ):
        add_prompts(blocks(), tokens().transpose(0, 1), PROMPTS, deep=False)
    with pytest.raises(FieldError, match=r"this one pass on \[2, 512\] for two images"):
        build_network(Model("small_cnn", tune="prompt"), (1, 16, 16), 10, 0)


def test_a_last_block_that_pools_tokens_gets_no_prompts() -> None:
    *units, pooling = add_prompts([*blocks(), Mean()], tokens(), PROMPTS, deep=True)
    assert [isinstance(unit, Prompted) for unit in units] == [True, True]
    assert isinstance(pooling, Mean)
    with pytest.raises(FieldError, match="any number of tokens"):
        add_prompts([Mean()], tokens(), PROMPTS, deep=False)


def network(*_: Any) -> nn.Sequential:
    """Return a small transformer: patches of 4 x 4 pixels, three blocks, a mean, and a head."""
    patches = nn.Sequential(nn.Conv2d(3, WIDTH, 4, stride=4), nn.Flatten(2), Swapped())
    return nn.Sequential(patches, *[b.float() for b in blocks(3)], Mean(), nn.Linear(WIDTH, 5))


class Swapped(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mT


class Mean(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean(1)


@pytest.mark.parametrize(("deep", "count"), [(False, 1), (True, 2)])
def test_a_model_says_how_many_prompts_and_whether_they_are_deep(
    monkeypatch: pytest.MonkeyPatch, deep: bool, count: int
) -> None:
    monkeypatch.setitem(NETWORKS, "tokens", network)
    model = Model("tokens", tune="prompt", prompts=4, deep_prompts=deep, blocks=2)
    cut = build_network(model, (3, 8, 8), 5, 0)
    trained = {n: tuple(p.shape) for n, p in cut.trained.named_parameters() if p.requires_grad}
    head = f"{len(cut.trained) - 1}"
    wanted = {f"{i}.prompts": (4, WIDTH) for i in range(count)}
    assert trained == wanted | {f"{head}.weight": (5, WIDTH), f"{head}.bias": (5,)}
    assert len(cut.frozen) == 2
    assert sum(isinstance(module, Prompted) for module in cut.trained) == count
    with pytest.raises(FieldError, match="prompts: at least 1"):
        Model(prompts=0)
