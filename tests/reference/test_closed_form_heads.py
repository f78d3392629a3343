"""Closed-form heads against pooled solutions, scikit-learn, AFL's recursion, FedCOF's formula."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from clients.poisoned_statistics import PoisonedStatisticsClient
from clients.statistics import StatisticsClient
from fl_sim.contracts import Client, RoundContext, Shard
from fl_sim.core.seeding import generator
from fl_sim.models.closed_form import StatisticsHead, split_parameters
from fl_sim.models.parameters import flatten, load_flat, parameter_shapes
from fl_sim.rounds.server import make_context
from strategies._shared.closed_form import Moments, Regression, decompose, shrink_by_oas
from strategies.fedcof import FedCOF
from strategies.lda import LinearDiscriminant
from strategies.ncm import NearestClassMean
from strategies.ridge import RidgeHead

WIDTH, CLASSES, NUM = 12, 4, 240
RULES: list[Any] = [NearestClassMean(), RidgeHead(), RidgeHead(regularization=0.1)]
RULES += [LinearDiscriminant(), LinearDiscriminant(shrinkage=0.2)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=str)


def draw_features(num: int = NUM, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = generator(seed, "features")
    labels = torch.arange(num) % CLASSES
    centres = torch.randn(CLASSES, WIDTH, generator=rng)
    mix = torch.randn(WIDTH, WIDTH, generator=rng) / 2
    features = centres[labels] + torch.randn(num, WIDTH, generator=rng) @ mix + 1
    return features, labels


def head_for(rule: Any) -> StatisticsHead:
    return StatisticsHead(WIDTH, CLASSES, rule.tune in ("ridge", "lda"))


def send(rule: Any, features: Tensor, labels: Tensor, client: Client | None = None) -> Tensor:
    """Return the update of a client with these examples."""
    model = torch.nn.Sequential(head_for(rule))
    shard = Shard(0, features, labels, torch.arange(len(labels)), CLASSES)
    (client or StatisticsClient()).train(model, shard, generator(0, "client"))
    return flatten(model)


def solve(rule: Any, updates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the head that the server solves."""
    shapes = parameter_shapes(torch.nn.Sequential(head_for(rule)))
    context = replace(RoundContext.anonymous(len(updates)), shapes=shapes)
    step = rule.decide(rule.initial_state(updates.shape[1]), updates, weights, context).step
    parts = split_parameters(rule.solve(step, shapes, int(weights.sum())), shapes)
    assert not any(bool(parts[name].any()) for name in ("counts", "sums", "squares"))
    return parts["weight"], parts["bias"]


def solve_parts(
    rule: Any, features: Tensor, labels: Tensor, parts: list[Tensor]
) -> tuple[Any, Any]:
    updates = torch.stack([send(rule, features[rows], labels[rows]) for rows in parts])
    return solve(rule, updates, torch.tensor([float(len(rows)) for rows in parts]).double())


def pooled(rule: Any, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return solve_parts(rule, features, labels, [torch.arange(len(labels))])


def by_class(labels: Tensor, count: int) -> list[Tensor]:
    return list(labels.argsort(stable=True).chunk(count))


def singles(labels: Tensor, count: int) -> list[Tensor]:
    return list(torch.arange(len(labels)).split(1))


def unequal(labels: Tensor, count: int) -> list[Tensor]:
    sizes = [1] * (count - 1) + [len(labels) - count + 1]
    return list(torch.arange(len(labels)).split(sizes))


def shuffled(labels: Tensor, count: int) -> list[Tensor]:
    return list(torch.randperm(len(labels), generator=generator(1, "parts")).chunk(count))


def in_turn(labels: Tensor, count: int) -> list[Tensor]:
    return [torch.arange(start, len(labels), count) for start in range(count)]


@every_rule
@pytest.mark.parametrize("cut", [by_class, singles, unequal, shuffled, in_turn])
def test_any_partition_gives_the_pooled_head(
    rule: Any, cut: Callable[[Tensor, int], list[Tensor]]
) -> None:
    features, labels = draw_features()
    weight, bias = pooled(rule, features, labels)
    for got, expected in zip(
        solve_parts(rule, features, labels, cut(labels, 7)), (weight, bias), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=15)
@given(owners=st.lists(st.integers(0, 5), min_size=40, max_size=40))
def test_ridge_is_invariant_to_the_partition(owners: list[int]) -> None:
    features, labels = draw_features(40)
    owner = torch.tensor(owners)
    parts = [(owner == each).nonzero().squeeze(1) for each in owner.unique()]
    rule = RidgeHead(regularization=0.05)
    for got, expected in zip(
        solve_parts(rule, features, labels, parts), pooled(rule, features, labels), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_ridge_is_that_of_scikit_learn_up_to_the_scale_of_logits() -> None:
    features, labels = draw_features()
    weight, bias = pooled(RidgeHead(regularization=0.1), features, labels)
    x, y = features.double().numpy(), np.eye(CLASSES)[labels.numpy()]
    variance = float(np.trace(np.cov(x.T, bias=True))) / WIDTH
    theirs = Ridge(alpha=0.1 * variance * NUM).fit(x, y)
    scale = float(weight.norm() / np.linalg.norm(theirs.coef_))
    np.testing.assert_allclose(weight.numpy(), scale * theirs.coef_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(bias.numpy(), scale * theirs.intercept_, rtol=1e-8, atol=1e-8)


def test_the_estimated_error_of_ridge_is_about_that_of_leaving_one_out() -> None:
    features, labels = draw_features(60)
    rule = RidgeHead()
    statistics = split_parameters(
        send(rule, features, labels), parameter_shapes(torch.nn.Sequential(head_for(rule)))
    )
    moments = Moments.of(statistics, 60)
    assert moments is not None
    regression = Regression.of(moments)
    penalty = 0.3 * float(regression.values.mean())
    x, y = features.double().numpy(), np.eye(CLASSES)[labels.numpy()]
    guesses = cross_val_predict(Ridge(alpha=60 * penalty), x, y, cv=LeaveOneOut())
    error = float(((y - guesses) ** 2).sum(1).mean())
    estimate = float(regression.estimate_errors(torch.tensor([penalty]).double()))
    assert estimate == pytest.approx(error, rel=0.1)
    chosen = regression.choose_penalty()
    errors = regression.estimate_errors(torch.tensor([chosen, chosen * 30, chosen / 30]).double())
    assert int(errors.argmin()) == 0


def test_nearest_class_mean_decides_as_scikit_learn() -> None:
    features, labels = draw_features()
    weight, bias = pooled(NearestClassMean(), features, labels)
    x = draw_features(seed=0)[0].double() + 0.1
    theirs = NearestCentroid().fit(features.numpy(), labels.numpy()).predict(x.numpy())
    assert ((x @ weight.T + bias).argmax(1).numpy() == theirs).all()


def test_the_discriminant_is_that_of_scikit_learn() -> None:
    features, labels = draw_features()
    weight, bias = pooled(LinearDiscriminant(shrinkage=0.0), features, labels)
    x = features.double().numpy()
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x, labels.numpy())
    np.testing.assert_allclose(weight.numpy(), theirs.coef_, rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), theirs.intercept_, rtol=1e-6)


def test_oracle_approximating_shrinkage_is_that_of_scikit_learn() -> None:
    features = draw_features(30)[0].double()
    centred = features - features.mean(0)
    values, _ = decompose(centred.T @ centred / 30)
    theirs = OAS(assume_centered=True).fit(centred.numpy())
    assert shrink_by_oas(values, 30) == pytest.approx(theirs.shrinkage_, rel=1e-9)


def test_afl_without_regularisation_gives_the_same_head_with_a_thousand_clients() -> None:
    """AFL's absolute aggregation of local solutions, by its recursion, as the definition."""
    features, labels = draw_features(2000)
    parts = in_turn(labels, 1000)  # two images each, fewer than features
    x = torch.cat([features.double(), torch.ones(2000, 1).double()], 1)
    y = torch.nn.functional.one_hot(labels, CLASSES).double()
    gamma, eye = 1.0, torch.eye(WIDTH + 1).double()
    total, solution = torch.zeros_like(eye), torch.zeros(WIDTH + 1, CLASSES).double()
    for rows in parts:
        own = x[rows].T @ x[rows] + gamma * eye
        local = torch.linalg.solve(own, x[rows].T @ y[rows])
        solution = torch.linalg.solve(total + own, total @ solution + own @ local)
        total = total + own
    expected = torch.linalg.solve(total - 1000 * gamma * eye, total @ solution)
    weight, bias = solve_parts(RidgeHead(regularization=0.0), features, labels, parts)
    head = torch.cat([weight, bias[:, None]], 1)
    scale = head.norm() / expected.norm()
    torch.testing.assert_close(head / scale, expected.T, rtol=1e-8, atol=1e-8)
    joint = pooled(RidgeHead(regularization=0.0), features, labels)
    torch.testing.assert_close(weight, joint[0], rtol=1e-8, atol=1e-8)


def test_fewer_images_than_features_give_least_squares_of_smallest_norm() -> None:
    features, labels = draw_features(8)
    weight, _ = pooled(RidgeHead(regularization=0.0), features, labels)
    x = features.double()
    y = torch.nn.functional.one_hot(labels, CLASSES).double()
    expected = (torch.linalg.pinv(x - x.mean(0)) @ (y - y.mean(0))).T
    torch.testing.assert_close(
        weight / weight.norm(), expected / expected.norm(), rtol=1e-6, atol=1e-8
    )


def test_fedcof_estimates_the_covariance_from_class_means_by_the_papers_formula() -> None:
    features, labels = draw_features()
    parts = shuffled(labels, 9)
    weight, bias = solve_parts(FedCOF(shrinkage=0.3), features, labels, parts)
    x, covariance, freedom = features.double(), torch.zeros(WIDTH, WIDTH).double(), 0
    class_means = torch.stack([x[labels == c].mean(0) for c in range(CLASSES)])
    for c in range(CLASSES):
        held = [rows[labels[rows] == c] for rows in parts if bool((labels[rows] == c).any())]
        for rows in held:
            away = x[rows].mean(0) - class_means[c]
            covariance += len(rows) * torch.outer(away, away)
        freedom += len(held) - 1
    covariance /= freedom
    shrunk = 0.7 * covariance + 0.3 * covariance.trace() / WIDTH * torch.eye(WIDTH).double()
    expected = torch.linalg.solve(shrunk, class_means.T).T
    torch.testing.assert_close(weight, expected, rtol=1e-8, atol=1e-8)
    shares = labels.bincount().double() / NUM
    offset = shares.log() - (expected * class_means).sum(1) / 2
    torch.testing.assert_close(bias, offset, rtol=1e-8, atol=1e-8)


def test_the_estimated_covariance_of_fedcof_is_unbiased() -> None:
    spread = []
    for seed in range(40):
        rng = generator(seed, "spread")
        features, labels = 3 * torch.randn(NUM, WIDTH, generator=rng), torch.arange(NUM) % CLASSES
        rule, parts = FedCOF(shrinkage=1.0), in_turn(labels, 15)
        weight, _ = solve_parts(rule, features, labels, parts)
        means = torch.stack([features[labels == c].double().mean(0) for c in range(CLASSES)])
        spread.append(float((means * weight).sum() / weight.square().sum()))
    assert np.mean(spread) == pytest.approx(9, rel=0.05)


@pytest.mark.parametrize("forgery", ["rotated", "negated"])
@pytest.mark.parametrize("rule", [RidgeHead(), NearestClassMean(), LinearDiscriminant()], ids=str)
def test_poisoned_statistics_move_the_unprotected_head_and_not_the_clipped_one(
    rule: Any, forgery: Any
) -> None:
    features, labels = draw_features()
    parts, weights = shuffled(labels, 10), torch.full((10,), 24.0).double()
    attack = PoisonedStatisticsClient(forgery=forgery, factor=100.0)

    def accuracy(rule: Any, attacked: bool) -> float:
        sent = [
            send(rule, features[rows], labels[rows], attack if attacked and i == 0 else None)
            for i, rows in enumerate(parts)
        ]
        weight, bias = solve(rule, torch.stack(sent), weights)
        return float(((features.double() @ weight.T + bias).argmax(1) == labels).double().mean())

    clean = accuracy(rule, attacked=False)
    assert accuracy(rule, attacked=True) < clean - 0.3
    defence = replace(rule, clip=1.0)
    assert accuracy(defence, attacked=False) > clean - 0.05
    assert accuracy(defence, attacked=True) > clean - 0.1


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), clip=st.floats(0.1, 30), length=st.floats(0.01, 100))
def test_one_image_changes_clipped_statistics_by_at_most_the_stated_sensitivity(
    seed: int, clip: float, length: float
) -> None:
    rng = generator(seed, "neighbours")
    features = length * torch.randn(9, WIDTH, generator=rng).double()
    labels = torch.randint(CLASSES, (9,), generator=rng)
    client, head = StatisticsClient(clipping_norm=clip), StatisticsHead(WIDTH, CLASSES, True)
    clipped = client.clip_features(features)
    with_it = head.compute_statistics(clipped, labels)
    without = head.compute_statistics(clipped[1:], labels[1:])
    change = 0.0
    for name, bound in (("counts", 1.0), ("sums", clip), ("squares", clip**2)):
        difference = float((9 * with_it[name] - 8 * without[name]).norm()) / bound
        assert difference <= 1 + 1e-9
        change += difference**2
    assert change**0.5 <= 3**0.5 + 1e-9


def test_noise_on_statistics_has_the_stated_deviation_and_counts_as_one_release() -> None:
    features, labels = draw_features(50)
    client = StatisticsClient(clipping_norm=2.0, noise_multiplier=1.5)
    rule, quiet = RidgeHead(), StatisticsClient(clipping_norm=2.0)
    head = StatisticsHead(200, CLASSES, True)
    wide = features.repeat(1, 17)[:, :200]
    shard = Shard(0, wide, labels, torch.arange(50), CLASSES)
    noisy, plain = (torch.nn.Sequential(head_for_width(head)) for _ in range(2))
    client.train(noisy, shard, generator(0, "noise"))
    quiet.train(plain, replace(shard, memory={}), generator(0, "noise"))
    shapes = parameter_shapes(noisy)
    difference = split_parameters(flatten(noisy) - flatten(plain), shapes)
    for name, bound in (("sums", 2.0), ("squares", 4.0)):
        expected = 1.5 * 3**0.5 * bound / 50
        assert float(difference[name].std()) == pytest.approx(expected, rel=0.1)
    released = client.releases(50, shard.memory)
    assert released is not None
    assert (released.protects, released.releases[0].count) == ("images", 1)
    assert released.releases[0].noise_multiplier == 1.5
    assert rule.releases(()) is None


def head_for_width(like: StatisticsHead) -> StatisticsHead:
    return StatisticsHead(like.in_features, like.out_features, second_moments=True)


def test_noise_leaves_a_usable_head() -> None:
    features, labels = draw_features(2000)
    client = StatisticsClient(clipping_norm=6.0, noise_multiplier=0.5)
    for rule in (RidgeHead(), LinearDiscriminant(), NearestClassMean()):
        update = send(rule, features, labels, client)
        weight, bias = solve(rule, update[None], torch.tensor([2000.0]).double())
        right = (features.double() @ weight.T + bias).argmax(1) == labels
        assert float(right.double().mean()) > 0.5


def test_a_class_that_nobody_holds_has_the_mean_of_all() -> None:
    features, labels = draw_features()
    labels = labels.clamp(max=CLASSES - 2)
    weight, bias = pooled(LinearDiscriminant(shrinkage=0.5), features, labels)
    assert bool(weight.isfinite().all())
    decided = (features.double() @ weight.T + bias).argmax(1)
    assert int(decided.max()) < CLASSES - 1


def test_statistics_of_no_example_give_a_head_of_zero() -> None:
    rule = RidgeHead()
    shapes = parameter_shapes(torch.nn.Sequential(head_for(rule)))
    size = sum(torch.Size(shape).numel() for shape in shapes.values())
    solved = rule.solve(-torch.ones(size).double(), shapes, 10)
    assert not bool(solved.any())


def test_without_statistics_a_rule_is_the_one_it_wraps() -> None:
    parameters = torch.arange(6.0)
    shapes = {"0.weight": (2, 2), "0.bias": (2,)}
    assert torch.equal(RidgeHead().solve(parameters, shapes, 10), parameters)
    context = make_context([0, 1], [1, 1], 2, 1, 0)
    updates, weights = torch.rand(2, 6), torch.ones(2).double()
    step = FedCOF().decide(None, updates, weights, replace(context, shapes=shapes)).step
    torch.testing.assert_close(step, updates.mean(0))


def test_a_smaller_head_is_loaded_from_its_vector() -> None:
    head = torch.nn.Sequential(StatisticsHead(3, 2, second_moments=True))
    vector = torch.arange(float(len(flatten(head)))).double()
    load_flat(head, vector)
    parts = split_parameters(vector, parameter_shapes(head))
    assert parts["squares"].shape == (6,)
    assert parts["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
