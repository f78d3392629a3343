"""Centred clipping and norm bounding against slow versions of their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.core.seeding import generator
from strategies.centered_clipping import CenteredClipping
from strategies.norm_bounding import NormBounding

ROWS = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])


@pytest.mark.parametrize("iterations", [1, 3])
@given(seed=st.integers(0, 10**6), threshold=st.floats(0.1, 5.0))
def test_centred_clipping_is_its_definition_over_rounds(
    iterations: int, seed: int, threshold: float
) -> None:
    rounds = torch.randn(4, 5, 6, generator=generator(seed, "centred")).double()
    rule = CenteredClipping(threshold=threshold, num_iterations=iterations)
    state, point = rule.initial_state(6), np.zeros(6)
    for updates in rounds:
        for _ in range(iterations):
            apart = updates.numpy() - point
            shrunk = [row * min(1, threshold / np.linalg.norm(row)) for row in apart]
            point = point + np.mean(shrunk, axis=0)
        state, step = rule.aggregate(state, updates, torch.ones(5))
        np.testing.assert_allclose(step.numpy(), point, rtol=1e-11, atol=1e-12)


def test_centred_clipping_with_room_enough_is_the_mean() -> None:
    rule = CenteredClipping(threshold=1e9)
    step = rule.aggregate(rule.initial_state(3), ROWS, torch.tensor([1.0, 5.0, 9.0]))[1]
    torch.testing.assert_close(step, torch.tensor([4.0, 5, 6]))


def test_an_update_at_the_last_step_pulls_nowhere() -> None:
    rule = CenteredClipping()
    step = rule.aggregate(rule.initial_state(3), torch.zeros(2, 3), torch.ones(2))[1]
    assert step.tolist() == [0.0, 0.0, 0.0]


@given(lie=st.floats(-(2.0**100), 2.0**100, width=32))
def test_one_liar_moves_centred_clipping_by_its_share_of_the_threshold(lie: float) -> None:
    honest = torch.randn(9, 4, generator=generator(0, "centred"))
    rule = CenteredClipping(threshold=2.0)
    start = rule.initial_state(4)
    quiet = rule.aggregate(start, torch.cat([honest, torch.zeros(1, 4)]), torch.ones(10))[1]
    loud = rule.aggregate(start, torch.cat([honest, torch.full((1, 4), lie)]), torch.ones(10))[1]
    assert float((loud - quiet).norm()) <= 2.0 / 10 + 1e-6


@given(seed=st.integers(0, 10**6), threshold=st.one_of(st.none(), st.floats(0.1, 5.0)))
def test_norm_bounding_is_its_definition(seed: int, threshold: float | None) -> None:
    rng = generator(seed, "bounded")
    updates = torch.randn(6, 8, generator=rng).double()
    weights = torch.randint(1, 20, (6,), generator=rng).double()
    step = NormBounding(threshold=threshold).aggregate(None, updates, weights)[1]
    rows = updates.numpy()
    norms = [float(np.linalg.norm(row)) for row in rows]
    bound = float(np.median(norms)) if threshold is None else threshold
    # Sun et al. (2019): divided by max(1, norm / bound).
    shrunk = [row / max(1, norm / bound) for row, norm in zip(rows, norms, strict=True)]
    expected = np.average(shrunk, axis=0, weights=weights.numpy())
    np.testing.assert_allclose(step.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_the_example_of_byzfls_documentation() -> None:
    clipped = [
        [0.53452248, 1.06904497, 1.60356745],
        [0.91168461, 1.13960576, 1.36752692],
        [1.00514142, 1.14873305, 1.29232469],
    ]
    step = NormBounding(threshold=2.0).aggregate(None, ROWS.double(), torch.ones(3))[1]
    np.testing.assert_allclose(step.numpy(), np.mean(clipped, axis=0), rtol=0, atol=1e-8)


@given(lie=st.floats(-(2.0**100), 2.0**100, width=32))
def test_one_liar_moves_norm_bounding_by_its_share_of_the_bound(lie: float) -> None:
    honest = torch.randn(8, 4, generator=generator(0, "bounded"))
    updates = torch.cat([honest, torch.full((1, 4), lie)])
    step = NormBounding(threshold=3.0).aggregate(None, updates, torch.ones(9))[1]
    alone = NormBounding(threshold=3.0).aggregate(None, honest, torch.ones(8))[1]
    assert float((step - alone * 8 / 9).norm()) <= 3.0 / 9 + 1e-6


def test_updates_of_nothing_give_a_step_of_nothing() -> None:
    step = NormBounding().aggregate(None, torch.zeros(3, 4), torch.ones(3))[1]
    assert step.tolist() == [0.0] * 4


@pytest.mark.parametrize("cls", [CenteredClipping, NormBounding])
def test_a_threshold_of_zero_is_refused(cls: type) -> None:
    with pytest.raises(ValueError, match=r"^threshold: "):
        cls(threshold=0.0)
