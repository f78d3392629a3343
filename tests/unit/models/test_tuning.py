"""The trained part of a network, and the parts that stay frozen."""

import pickle
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clients.sgd import SgdClient
from fl_sim.contracts import Shard
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.experiment import Model
from fl_sim.models import foundation, parameters
from fl_sim.models.foundation import LITE0
from fl_sim.models.low_rank import LowRank
from fl_sim.models.networks import NETWORKS
from fl_sim.models.stages import Row
from fl_sim.models.tuning import (
    FrozenBatchNorm,
    Network,
    build_network,
    calibrate,
    list_trained_parameters,
)

SHAPE = (1, 28, 28)
BACKBONES = ("small_cnn", "resnet18", LITE0, "mobilenet_v3_small")
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def fresh(model: Model, seed: int = 0) -> Network:
    return build_network(model, SHAPE, 10, seed)


keep = cache(fresh)


def network(backbone: str, tune: Any, **fields: Any) -> Network:
    """Return a copy of the network, which is built once."""
    return deepcopy(keep(Model(backbone, tune=tune, **fields)))


def sizes(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def grey(count: int = 4, side: int = 28) -> Tensor:
    return torch.rand(count, 1, side, side, generator=generator(0, "grey"))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))


def whole(cut: Network) -> nn.Sequential:
    return nn.Sequential(*cut.frozen, *cut.trained)


@every_backbone
def test_tuning_the_head_trains_the_last_linear_layer_alone(backbone: str) -> None:
    cut = network(backbone, "head")
    assert [type(layer) for layer in cut.trained] == [nn.Linear]
    assert cut.trained[0].out_features == 10
    assert sizes(cut.frozen) > 0


@every_backbone
def test_tuning_everything_freezes_nothing(backbone: str) -> None:
    cut = network(backbone, "full")
    assert len(cut.frozen) == 0
    assert all(parameter.requires_grad for parameter in cut.trained.parameters())


@every_backbone
def test_the_last_block_is_more_than_the_head_and_less_than_everything(backbone: str) -> None:
    head, block, full = (
        sizes(network(backbone, tune).trained) for tune in ("head", "last_block", "full")
    )
    assert head < block < full


@every_backbone
def test_the_last_block_holds_a_convolution_or_a_layer_before_the_head(backbone: str) -> None:
    trained = network(backbone, "last_block").trained
    layers = [m for m in trained.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) >= 2
    assert isinstance(layers[-1], nn.Linear)


@pytest.mark.parametrize("backbone", ["tiny_cnn", "cifar_vgg16", "wrn34_10"])
def test_a_normalisation_is_of_one_block_with_the_layer_before_it(backbone: str) -> None:
    cut = network(backbone, "last_block")
    assert any(isinstance(module, nn.Conv2d) for module in cut.trained.modules())
    assert not isinstance(cut.trained[0], nn.BatchNorm2d)


def test_the_last_block_of_lite0_starts_before_its_head_convolution() -> None:
    trained = network(LITE0, "last_block").trained
    kernels = {m.kernel_size for m in trained.modules() if isinstance(m, nn.Conv2d)}
    assert kernels & {(3, 3), (5, 5)}  # a depthwise convolution, not 1 x 1 alone


@every_backbone
def test_a_cut_does_not_change_the_function(backbone: str) -> None:
    expected = whole(network(backbone, "full")).eval()(grey())
    for tune in ("head", "last_block"):
        cut = network(backbone, tune)
        found = cut.trained.eval()(cut.frozen(grey()))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@every_backbone
def test_frozen_layers_stay_frozen(backbone: str) -> None:
    cut = network(backbone, "head")
    assert not any(parameter.requires_grad for parameter in cut.frozen.parameters())
    assert not any(module.training for module in cut.frozen.modules())


@every_backbone
def test_a_seed_makes_the_same_network_whatever_was_drawn_before(backbone: str) -> None:
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        states.append(whole(fresh(Model(backbone))).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = parameters.flatten(fresh(Model(backbone), seed=1).trained)
    assert not torch.equal(parameters.flatten(network(backbone, "full").trained), other)


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    fresh(Model("small_cnn"))
    assert torch.equal(torch.get_rng_state(), state)


def trained_a_little(cut: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state of the trained part before and after a round of a client."""
    before = {name: value.clone() for name, value in cut.trained.state_dict().items()}
    inputs = cut.frozen(grey(12)) if len(cut.frozen) else grey(12)
    shard = Shard(0, inputs, torch.arange(12) % 10, torch.arange(12), 10)
    SgdClient(batch_size=4).train(cut.trained, shard, generator(0, "client"))
    return before, cut.trained.state_dict()


@pytest.mark.parametrize("tune", ["last_block", "full"])
def test_statistics_of_pretraining_survive_training(tune: Any) -> None:
    cut = network(LITE0, tune, init="pretrained", pixels=32)
    norms = [m for m in cut.trained.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(type(norm) is FrozenBatchNorm for norm in norms)
    before, after = trained_a_little(cut)
    statistics = [name for name in before if "running" in name or "batches" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    weights = [name for name in before if name not in statistics]
    assert all(not torch.equal(before[name], after[name]) for name in weights)


def test_statistics_of_a_random_start_are_learned() -> None:
    before, after = trained_a_little(network("small_cnn", "full"))
    statistics = [name for name in before if "running" in name]
    assert len(statistics) == 4
    assert all(not torch.equal(before[name], after[name]) for name in statistics)


def test_a_frozen_norm_normalises_by_its_statistics_in_every_mode() -> None:
    norm = FrozenBatchNorm(2)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    maps = torch.full((3, 2, 2, 2), 5.0)
    assert norm.train() is norm
    assert not norm.training
    torch.testing.assert_close(norm(maps), torch.full_like(maps, 2.0), rtol=1e-4, atol=0)


def test_pretrained_layers_learn_more_slowly_than_the_head() -> None:
    cut = network(LITE0, "last_block", init="pretrained", backbone_rate=0.125)
    rates = [rate for _, rate in list_trained_parameters(cut.trained)]
    assert len(rates) == len(list(cut.trained.parameters()))
    assert rates == [0.125] * (len(rates) - 2) + [1.0, 1.0]


@every_backbone
def test_a_random_start_learns_everywhere_alike(backbone: str) -> None:
    trained = network(backbone, "full").trained
    assert {rate for _, rate in list_trained_parameters(trained)} == {1.0}


@pytest.mark.parametrize("copied", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_network_learns_as_fast(copied: Any) -> None:
    trained = network(LITE0, "last_block", init="pretrained", backbone_rate=0.125).trained
    rates = [rate for _, rate in list_trained_parameters(copied(trained))]
    assert rates == [rate for _, rate in list_trained_parameters(trained)]


def test_freezing_statistics_keeps_every_tensor_and_its_name() -> None:
    norm = nn.BatchNorm2d(3, eps=0.01, momentum=0.3).double()
    norm(torch.rand(4, 3, 2, 2).double())
    frozen = FrozenBatchNorm.from_batch_norm(norm)
    assert type(norm) is nn.BatchNorm2d
    ours, theirs = frozen.state_dict(keep_vars=True), norm.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in theirs)
    maps = torch.rand(4, 3, 2, 2).double()
    assert torch.equal(frozen(maps), norm.eval()(maps))
    assert not frozen.training


def test_the_rate_is_a_share_of_the_clients() -> None:
    """A tenth of the rate gives a tenth of the first step."""
    moves = []
    for rate in (1.0, 0.125):
        cut = network(LITE0, "last_block", init="pretrained", backbone_rate=rate, pixels=32)
        shard = Shard(0, cut.frozen(grey(4)), torch.arange(4), torch.arange(4), 10)
        before = parameters.flatten(cut.trained[:-1])
        SgdClient(learning_rate=0.01, momentum=0.0).train(cut.trained, shard, generator(0, "c"))
        moves.append(parameters.flatten(cut.trained[:-1]) - before)
    # Differences of weights near 1 keep about seven digits of them.
    torch.testing.assert_close(moves[1], 0.125 * moves[0], rtol=1e-2, atol=1e-6)


def test_a_network_in_one_piece_has_no_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
    monkeypatch.setitem(NETWORKS, "in_one_piece", lambda *a: nn.Sequential(body, nn.Linear(4, 10)))
    with pytest.raises(FieldError, match=r"model.tune: 'full' or 'head' for in_one_piece"):
        network("in_one_piece", "last_block")


def to_bytes(images: Tensor) -> Tensor:
    return (images * 255).to(torch.uint8)


def test_a_random_front_is_calibrated_to_zero_mean_and_unit_variance() -> None:
    front, published = network("small_cnn", "head").frozen, to_bytes(grey(512))
    calibrate(front, published)
    images = as_pixels(published)
    assert not any(module.training for module in front.modules())
    assert isinstance(front[2], nn.BatchNorm2d)
    normed = front[2](front[1](front[0](images)))
    torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(normed.var((0, 2, 3)), torch.ones(16), rtol=1e-2, atol=0)


def test_calibration_does_not_depend_on_what_was_seen_before() -> None:
    fronts = [network("small_cnn", "head").frozen for _ in range(2)]
    calibrate(fronts[1], to_bytes(1 - grey(30)))
    for front in fronts:
        calibrate(front, to_bytes(grey(30)))
    assert torch.equal(fronts[0](grey()), fronts[1](grey()))


@pytest.mark.parametrize("tune", ["norm", "bias", "lora"])
@pytest.mark.parametrize("backbone", ["small_cnn", "resnet18", LITE0])
def test_a_few_parameters_are_trained_and_the_rest_stays(backbone: str, tune: str) -> None:
    init = "pretrained" if backbone == LITE0 else "random"
    cut = network(backbone, tune, init=init, pixels=32 if backbone == LITE0 else None)
    trained = {n: p for n, p in cut.trained.named_parameters() if p.requires_grad}
    assert 0 < sum(p.numel() for p in trained.values()) < 0.35 * sizes(whole(cut))
    assert all(rate == 1.0 for _, rate in list_trained_parameters(cut.trained))
    before = {name: p.detach().clone() for name, p in cut.trained.named_parameters()}
    inputs = cut.frozen(grey(8)).detach() if len(cut.frozen) else (grey(8) * 255).byte()
    shard = Shard(0, inputs, torch.arange(8), torch.arange(8), 10)
    SgdClient(batch_size=4).train(cut.trained, shard, generator(0, "client"))
    moved = {n for n, p in cut.trained.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= set(trained)
    assert any(name.endswith("weight") for name in moved) or tune == "bias"


@pytest.mark.parametrize("backbone", ["mlp", "small_cnn", "lenet", "cifar_vgg16"])
def test_low_rank_changes_reach_a_layer_that_is_a_stage_by_itself(backbone: str) -> None:
    cut = network(backbone, "lora", rank=2)
    assert isinstance(cut.trained[0], LowRank)
    names = {n for n, p in cut.trained.named_parameters() if p.requires_grad}
    assert {"0.down", "0.up"} <= names
    assert not {"0.layer.weight", "0.layer.bias"} & names


@pytest.mark.parametrize("tune", ["norm", "lora"])
def test_a_part_that_a_network_does_not_have_is_refused(tune: str) -> None:
    """Otherwise the head alone would be trained, silently."""
    backbone = {"norm": "mlp", "lora": "normalised"}[tune]

    def normalised(*_: Any) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, 2, 3), Scale(), nn.Flatten(), nn.Linear(2, 10))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "normalised", normalised)
        with pytest.raises(FieldError, match=f"'full' or 'head' for {backbone}, which has nothing"):
            network(backbone, tune)


def test_low_rank_changes_start_at_nothing_and_add_a_product() -> None:
    full, lora = network("resnet18", "last_block"), network("resnet18", "lora", rank=2)
    maps = full.frozen.eval()(grey())
    full.trained.eval(), lora.trained.eval()
    assert torch.allclose(full.trained(maps), lora.trained(lora.frozen.eval()(grey())), atol=1e-5)
    (layer,) = [m for n, m in lora.trained.named_modules() if n.endswith("0.conv2")][:1]
    with torch.no_grad():
        layer.up.normal_()
    change = (layer.up @ layer.down).view_as(layer.layer.weight)
    inputs = torch.randn(1, layer.layer.in_channels, 5, 5)
    wanted = torch.nn.functional.conv2d(inputs, layer.layer.weight + change, padding=1)
    assert torch.allclose(layer(inputs), wanted, atol=1e-5)
    assert int(torch.linalg.matrix_rank(change.view(len(change), -1))) == 2


def test_pretrained_weights_come_with_the_network_that_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are two networks named resnet18: ours for small images, and torchvision's."""
    asked: list[tuple[str, bool]] = []

    def row(model: Model, classes: int) -> Row:
        asked.append((model.backbone, model.init == "pretrained"))
        return Row(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, classes)))

    monkeypatch.setattr(foundation, "build_row", row)
    build_network(Model("resnet18", init="pretrained"), (1, 28, 28), 10, 0)
    assert asked == [("resnet18", True)]
    build_network(Model("resnet18"), (1, 28, 28), 10, 0)
    assert len(asked) == 1
    with pytest.raises(FieldError, match="'batch' for resnet18"):
        build_network(Model("resnet18", init="pretrained", norm="group"), (1, 28, 28), 10, 0)
