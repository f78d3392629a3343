"""Images read off the gradients of adapters, against their definition on digits."""

import pytest
import torch
from torch import Tensor, nn

from fl_sim.attacks.adapter_imprint import (
    Adapter,
    imprint,
    recover_from_adapters,
    recover_inputs,
)
from fl_sim.attacks.gradient_inversion import compute_gradient
from fl_sim.contracts import Dataset
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch

BATCH, BLOCKS, RANK = 12, 4, 33


def build(digits: Dataset, front: str, planted: bool) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a network of blocks with adapters, and the client's images and labels."""
    pixels = as_pixels(digits.train_images).flatten(1).double()
    own, public = pixels[:BATCH], pixels[BATCH:]
    stages: list[nn.Module] = []
    with seed_torch(0, front):
        for _ in range(BLOCKS):
            hidden = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).requires_grad_(False)
            stages += [nn.Identity() if front == "transparent" else hidden, Adapter(64, RANK)]
        model = nn.Sequential(*stages, nn.Linear(64, 10)).double()
    if planted:
        inputs, passed = [], public
        for stage in model:
            if isinstance(stage, Adapter):
                inputs.append(passed)
            passed = stage(passed)
        adapters = [stage for stage in model if isinstance(stage, Adapter)]
        imprint(adapters, [i.detach() for i in inputs], generator(0, "imprint"))
    return model, own, digits.train_labels[:BATCH]


def largest_error(images: Tensor, candidates: Tensor) -> Tensor:
    """Return the largest error in a pixel of the most alike candidate of each image."""
    return torch.cdist(images, candidates, p=torch.inf).min(1).values


def test_a_transparent_front_gives_the_images_away(digits: Dataset) -> None:
    model, images, labels = build(digits, "transparent", planted=True)
    found = recover_from_adapters(model, compute_gradient(model, images, labels))
    assert float((largest_error(images, found) < 0.01).double().mean()) >= 0.75


@pytest.mark.parametrize(("front", "planted"), [("ordinary", True), ("transparent", False)])
def test_an_ordinary_front_or_honest_adapters_give_nothing(
    digits: Dataset, front: str, planted: bool
) -> None:
    model, images, labels = build(digits, front, planted)
    found = recover_from_adapters(model, compute_gradient(model, images, labels))
    assert not len(found) or float(largest_error(images, found).min()) > 0.1


def test_neighbouring_rows_differ_by_the_images_between_their_edges() -> None:
    """Fowl et al. (2022), equation 5: rows of weight g_i x_i, summed over images above the edge."""
    rng = generator(0, "rows")
    images = torch.rand(4, 6, generator=rng, dtype=torch.float64)
    factors = torch.tensor([0.5, -2.0, 0.3, 1.0], dtype=torch.float64)
    # Images 0; 1 and 2; none; 3 lie between the edges of five rows.
    above = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    bias = above.double() @ factors
    weight = (above.double() * factors) @ images
    found = recover_inputs(weight, bias)
    mixed = (factors[1:3] @ images[1:3]) / factors[1:3].sum()
    assert torch.allclose(found, torch.stack([images[0], mixed, images[3]]), atol=1e-12)


def test_honest_adapters_start_as_the_identity() -> None:
    inputs = torch.rand(3, 8, generator=generator(0, "inputs"))
    assert torch.equal(Adapter(8, 2)(inputs), inputs)


def test_imprinting_hardly_changes_the_network(digits: Dataset) -> None:
    plain, images, _ = build(digits, "transparent", planted=False)
    planted, *_ = build(digits, "transparent", planted=True)
    assert torch.allclose(plain(images), planted(images), atol=1e-3)
