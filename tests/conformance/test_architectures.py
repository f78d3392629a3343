"""Networks of torchvision and timm: each way of tuning works, or is refused with its reason."""

import warnings
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.experiment import Model
from fl_sim.models import foundation
from fl_sim.models.stages import Row, count_layers
from fl_sim.models.tuning import build_network, list_trained_parameters

TUNES = ("full", "head", "last_block", "norm", "bias", "lora")
SMALL = (  # name, and side of its inputs
    *("squeezenet1_1@32", "resnet34@32", "regnet_y_400mf@32", "shufflenet_v2_x0_5@32"),
    *("mnasnet0_5@32", "mobilenet_v3_small@32"),
    *("timm:resnet10t@32", "timm:mobilenetv3_small_050@32"),
    *("timm:test_resnet@32", "timm:test_efficientnet@32", "timm:ghostnet_050@32"),
    *("timm:test_efficientnet_ln@32", "timm:test_efficientnet_evos@32", "timm:test_byobnet@32"),
    *("timm:test_convnext@32", "timm:test_convnext2@32", "timm:test_convnext3@32"),
    *("timm:test_mambaout@32", "timm:test_nfnet@32", "timm:test_vit@32", "timm:test_vit2@32"),
    *("timm:test_vit3@32", "timm:test_vit4@32", "timm:efficientvit_b0@32"),
)
LARGE = (
    *("alexnet@64", "vgg11@32", "mobilenet_v2@32", "efficientnet_b0@32", "googlenet@32"),
    *("inception_v3@96", "densenet121@32", "convnext_tiny@32", "swin_t@32", "swin_v2_t@32"),
    *("vit_b_32@64", "maxvit_t@224", "timm:deit_tiny_distilled_patch16_224@32"),
    *("timm:convnext_atto@32", "timm:mixer_s32_224@32", "timm:swin_tiny_patch4_window7_224@56"),
    *("timm:xcit_nano_12_p16_224@32", "timm:pvt_v2_b0@32", "timm:mobilevit_xxs@64"),
    *("timm:eva02_tiny_patch14_224@28", "timm:edgenext_xx_small@32", "timm:poolformer_s12@32"),
    *("timm:tf_efficientnet_lite0@32", "timm:cait_xxs24_224@32"),
    *("timm:vit_small_patch16_dinov3@32", "timm:vit_base_patch32_clip_224@64"),
    *("timm:vit_small_patch14_dinov2@28", "timm:levit_128s@224", "timm:twins_svt_small@224"),
    *("timm:vit_tiny_patch16_224@32", "timm:cspresnet50@32"),
    *("timm:beit_base_patch16_224@32", "timm:coat_tiny@32"),
)


def check(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check all ways of tuning a network; it is built once."""
    name, _, pixels = spec.partition("@")
    model = Model(name, pixels=int(pixels))
    with warnings.catch_warnings(action="ignore"), seed_torch(0, spec):
        row = foundation.build_row(model, 10)
    with torch.no_grad():
        for parameter in row.stages[-1].parameters():  # a head that starts at zero shows nothing
            parameter.normal_(0, 0.1, generator=generator(0, "head"))
    images = torch.rand(2, 3, 32, 32, generator=generator(0, "images"))
    whole = deepcopy(row.stages).eval()
    with torch.no_grad():
        expected = whole(images)
    monkeypatch.setattr(foundation, "build_row", lambda *_: Row(deepcopy(row.stages), row.obstacle))
    for tune in TUNES:
        try:
            cut = build_network(Model(name, tune=tune, pixels=int(pixels)), (3, 32, 32), 10, 0)
        except FieldError as error:
            check_reason(row, tune, error)
            continue
        with torch.no_grad():
            features = cut.frozen(images)
        assert isinstance(features, Tensor)
        cut.trained.eval()
        close = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
        torch.testing.assert_close(cut.trained(features).detach(), expected, **close)
        kept = {id(parameter) for parameter in cut.frozen.parameters()}
        assert not kept & {id(p) for p in cut.trained.parameters() if p.requires_grad}
        check_step(cut.trained, features)


def check_step(trained: torch.nn.Module, features: Tensor) -> None:
    """Check that a step of training moves parameters."""
    parameters = [parameter for parameter, _ in list_trained_parameters(trained)]
    logits = trained(features)
    loss = functional.cross_entropy(logits, torch.tensor([1, 2]))
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert any(g is not None and bool((g != 0).any()) for g in gradients)


def check_reason(row: Row, tune: str, error: FieldError) -> None:
    """Check that the reason for a refusal holds."""
    assert error.field == "model.tune"
    if row.obstacle:
        assert row.obstacle in error.allowed
        assert tune in ("last_block", "lora")
    elif "nothing of the kind" in error.allowed:
        names = [name for name, _ in row.stages[:-1].named_parameters()]
        assert tune == "norm" or (tune == "bias" and not any(n.endswith("bias") for n in names))
    else:
        assert tune in ("last_block", "lora")
        assert sum(count_layers(stage) >= 2 for stage in row.stages[:-1]) < 2


@pytest.mark.parametrize("spec", SMALL)
def test_every_tune_works_or_is_refused(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(spec, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("spec", LARGE)
def test_every_tune_of_the_zoo_works_or_is_refused(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(spec, monkeypatch)
