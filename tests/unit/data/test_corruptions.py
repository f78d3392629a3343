"""Single corruptions against their definitions."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from fl_sim.core.image_filters import gaussian_blur, warp_affine
from fl_sim.core.seeding import generator
from fl_sim.data.corruptions.blur import DefocusBlur, MotionBlur, ZoomBlur, make_disc
from fl_sim.data.corruptions.digital import ElasticTransform, Pixelate
from fl_sim.data.corruptions.noise import GaussianNoise, ImpulseNoise, ShotNoise
from fl_sim.data.corruptions.weather import Brightness, Contrast, Fog

GREY = torch.full((20, 1, 32, 32), 0.5)


def spot() -> Tensor:
    """Return an image with one white pixel near its centre."""
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 16, 16] = 1
    return image


def rng() -> torch.Generator:
    return generator(0, "corruption")


def test_a_gaussian_blur_is_scipys() -> None:
    images = torch.rand(2, 3, 20, 24, generator=rng())
    for sigma in (0.7, 1.6):
        reach = int(np.ceil(3 * sigma))
        expected = gaussian_filter(
            images.numpy(), (0, 0, sigma, sigma), mode="mirror", radius=(0, 0, reach, reach)
        )
        found = gaussian_blur(images, sigma)
        torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_noise_has_the_moments_of_its_kind() -> None:
    gauss = GaussianNoise(severity=2).corrupt(GREY, rng()) - GREY
    assert float(gauss.std()) == pytest.approx(0.08, rel=0.03)
    shot = ShotNoise(severity=3).corrupt(GREY, rng())
    assert float(shot.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(shot.var()) == pytest.approx(0.5 / 50, rel=0.05)
    impulse = ImpulseNoise(severity=5).corrupt(GREY, rng())
    for value in (0.0, 1.0):
        assert float((impulse == value).double().mean()) == pytest.approx(0.085, abs=0.007)


def test_blurs_keep_the_light_and_spread_it() -> None:
    disc = make_disc(2.0)
    assert float(disc.sum()) == pytest.approx(1)
    assert torch.equal(disc, disc.T)
    for own in (DefocusBlur(), MotionBlur()):
        seen = own.corrupt(spot(), rng())
        assert float(seen.sum()) == pytest.approx(1, abs=1e-4)
        assert float(seen.max()) < 0.6
    moved = MotionBlur(severity=5).corrupt(spot(), rng())[0, 0]
    rows, columns = moved.nonzero().T
    assert columns.max() - columns.min() >= rows.max() - rows.min()  # within 45 degrees


def test_zoom_leaves_the_centre_and_reaches_the_largest_magnification() -> None:
    seen = ZoomBlur(severity=5).corrupt(spot(), rng())
    assert float(seen[0, 0].flatten().argmax()) == 16 * 33 + 16
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 16, 26] = 1  # 10 pixels from the centre: seen out to 15
    columns = ZoomBlur(severity=5).corrupt(image, rng())[0, 0, 16].nonzero().flatten()
    assert int(columns.min()) >= 25
    assert int(columns.max()) in (31, 32)


def test_identity_maps_change_nothing() -> None:
    images = torch.rand(2, 3, 9, 11, generator=rng())
    same = warp_affine(images, torch.eye(2, 3).expand(2, 2, 3))
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)


def test_elastic_displacements_have_their_size_and_are_smooth() -> None:
    ramp = torch.linspace(0, 1, 32).expand(50, 1, 32, 32)
    moved = (ElasticTransform(severity=3).corrupt(ramp, rng()) - ramp)[..., 6:26, 6:26] * 31
    assert float(moved.std()) == pytest.approx(1.0, rel=0.15)
    steps = moved.diff(dim=3)
    assert float(steps.std()) < 0.5 * float(moved.std())


def test_pixels_become_coarse() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4) / 16
    seen = Pixelate(severity=3).corrupt(image, rng())[0, 0]
    assert torch.equal(seen[:2, :2], image[0, 0, :2, :2].mean().expand(2, 2))


def test_light_raises_the_value_and_keeps_the_hue() -> None:
    pixel = torch.tensor([0.6, 0.3, 0.0]).view(1, 3, 1, 1)
    seen = Brightness(severity=2).corrupt(pixel, rng()).flatten()
    torch.testing.assert_close(seen, torch.tensor([0.8, 0.4, 0.0]))
    black = Brightness(severity=2).corrupt(torch.zeros(1, 3, 1, 1), rng())
    torch.testing.assert_close(black, torch.full((1, 3, 1, 1), 0.2))


def test_contrast_shrinks_around_the_mean() -> None:
    image = torch.rand(3, 3, 8, 8, generator=rng())
    seen = Contrast(severity=2).corrupt(image, rng())
    torch.testing.assert_close(seen.mean((2, 3)), image.mean((2, 3)))
    torch.testing.assert_close(seen.std((2, 3)), image.std((2, 3)) / 2)


def test_fog_is_a_smooth_veil_that_keeps_the_brightest_value() -> None:
    image = torch.zeros(4, 1, 32, 32)
    image[:, :, 0, 0] = 0.8
    seen = Fog(severity=4).corrupt(image, rng())
    assert float(seen.max()) <= 0.8 + 1e-6
    veil = seen[:, 0, 1:, 1:]
    assert float(veil.mean()) == pytest.approx(0.8 * 0.5 / 1.8, abs=0.05)
    assert float(veil.diff(dim=2).abs().mean()) < 0.1 * float(veil.mean())
