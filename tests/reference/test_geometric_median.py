"""The geometric median against a direct Weiszfeld loop, its first-order condition, and ByzFL."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_sim.core.distances import gram_matrix
from fl_sim.core.seeding import generator
from strategies.geometric_median import GeometricMedian, run_weiszfeld

ROWS = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])


def median_of(updates: Tensor, weights: Tensor | None = None, **fields: object) -> Tensor:
    rule = GeometricMedian(**fields)  # type: ignore[arg-type]
    counts = torch.ones(len(updates)) if weights is None else weights
    return rule.aggregate(None, updates, counts)[1]


def by_definition(updates: Tensor, weights: Tensor, smoothing: float, steps: int) -> Tensor:
    """Pillutla et al. (2022), algorithm 2, on the vectors themselves."""
    rows, shares = updates.double().numpy(), (weights / weights.sum()).double().numpy()
    point = np.average(rows, axis=0, weights=shares)
    for _ in range(steps):
        apart = np.sqrt(((rows - point) ** 2).sum(1))
        point = np.average(rows, axis=0, weights=shares / np.maximum(smoothing, apart))
    return torch.from_numpy(point)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 50])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_steps_in_gram_space_are_steps(steps: int, seed: int, count: int) -> None:
    rng = generator(seed, "weiszfeld")
    updates = torch.randn(count, 9, generator=rng).double()
    weights = torch.randint(1, 30, (count,), generator=rng).double()
    found = median_of(updates, weights, smoothing=0.1, num_iterations=steps)
    expected = by_definition(updates, weights, 0.1, steps)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@given(seed=st.integers(0, 10**6))
def test_at_the_median_the_pulls_cancel(seed: int) -> None:
    rng = generator(seed, "pulls")
    updates = torch.randn(9, 20, generator=rng).double()
    weights = torch.randint(1, 10, (9,), generator=rng).double()
    apart = updates - median_of(updates, weights)
    pulls = weights[:, None] * apart / apart.norm(dim=1, keepdim=True)
    assert float(pulls.sum(0).norm() / weights.sum()) < 1e-8


def test_the_example_of_byzfls_documentation() -> None:
    # ByzFL: three steps from zero, smoothing 0.1. Zero is an update here that does not count.
    points = torch.cat([torch.zeros(1, 3), ROWS])
    shares = torch.tensor([0, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64)
    start = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    found = run_weiszfeld(gram_matrix(points), shares, start, 0.1, 3) @ points.double()
    expected = torch.tensor([3.78788764, 4.78788764, 5.78788764], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-9)
    torch.testing.assert_close(median_of(ROWS), ROWS[1], rtol=1e-6, atol=0)


def test_on_a_line_it_is_the_weighted_median() -> None:
    line = torch.tensor([[0.0], [1.0], [10.0]])
    assert median_of(line).item() == pytest.approx(1.0, abs=1e-5)
    heavy = torch.tensor([1.0, 1.0, 3.0])
    assert median_of(line, heavy).item() == pytest.approx(10.0, abs=1e-5)
    assert median_of(line, heavy, weighted=False).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("lie", [1e3, 1e6, 1e12, 1e18, 1e30])
@pytest.mark.parametrize("liars", [1, 3, 5])
def test_fewer_than_half_of_the_clients_bound_the_step(liars: int, lie: float) -> None:
    honest = torch.randn(11 - liars, 8, generator=generator(0, "honest"))
    updates = torch.cat([torch.full((liars, 8), lie), honest])
    centre = honest.mean(0)
    radius = float((honest - centre).norm(dim=1).max())
    bound = 2 * len(honest) / (len(honest) - liars) * radius
    assert float((median_of(updates) - centre).norm()) < bound


@pytest.mark.parametrize("liars", [1, 3])
def test_how_far_away_a_lie_is_hardly_matters(liars: int) -> None:
    honest = torch.randn(11 - liars, 8, generator=generator(1, "honest")).double()
    far, farther = (
        median_of(torch.cat([torch.full((liars, 8), lie).double(), honest])) for lie in (1e8, 1e30)
    )
    torch.testing.assert_close(far, farther, rtol=0, atol=1e-6)


def test_more_than_half_of_the_clients_have_their_way() -> None:
    honest = torch.randn(5, 8, generator=generator(0, "honest"))
    updates = torch.cat([torch.full((6, 8), 1e6), honest])
    torch.testing.assert_close(median_of(updates), updates[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("field", ["smoothing", "num_iterations"])
def test_values_out_of_range_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        GeometricMedian(**{field: 0.0 if field == "smoothing" else 0})
