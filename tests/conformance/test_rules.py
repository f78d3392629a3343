"""Every aggregation rule, found by walking its package, keeps the contract of a rule."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, LinearRule, RoundContext
from fl_sim.core.errors import FieldError
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import construct, describe, field_values
from fl_sim.core.sums import weighted_sum
from fl_sim.rounds.loop import State
from fl_sim.rounds.server import RuleServer
from fl_sim.runs.checkpoint import load_state, save_state
from fl_sim.runs.run_log import RunLog
from strategies._shared.closed_form import ClosedFormRule
from strategies.fltrust import FLTrust
from strategies.q_fedavg import QFedAvg
from strategies.scaffold import SCAFFOLD

RULES = [cls() for cls in discover("strategies", AggregationRule)]
SIZE = 7

DIVIDES = "a step is divided by the root of its own square: the size of updates cancels"
SHORTENS = "what is shortened depends on the distance from zero"
DIRECTION = "what counts is the angle at zero"
NOISY = "noise is added, which depends on the size of updates alone"
BENDS = "steps shorten with the square of the updates: q FedAvg's estimate of curvature"
OWN_LENGTH = "a step has a length of its own, whatever that of the updates"
STEPS = "clients took different numbers of steps, so coefficients do not sum to one"
SYBILS = "clients that are alike are taken for one person"
PRIVATE = "clips at a fixed length and adds noise of a fixed size"
DRIFT = "the mean counts once more through h, which is what clients drifted"
PIVOT = "what counts is the distance from the server's own update"
FIXED_LENGTH = "updates are clipped at a fixed length"
CLIPS_FROM_THE_LAST_STEP = "moves at most `threshold` away from the last step, zero at first"

# Laws that a paper's rule does not have: property -> class name -> why. A rule that is not
# named here is held to all of them.
EXCEPTIONS: dict[str, dict[str, str]] = {
    "left out": {
        "CAF": "how far others are weighed down depends on what sticks out most, before it is out",
    },
    "unanimous": {
        "CenteredClipping": CLIPS_FROM_THE_LAST_STEP,
        "DifferentialPrivacy": PRIVATE,
        "DifferentialPrivacyAdaptiveClipping": PRIVATE,
        "FLAME": NOISY,
        "FLTrust": OWN_LENGTH,
        "FedAdagrad": DIVIDES,
        "FedAdam": DIVIDES,
        "FedMGDAPlus": OWN_LENGTH,
        "FedNova": STEPS,
        "FedYogi": DIVIDES,
        "FoolsGold": SYBILS,
        "QFedAvg": BENDS,
        "StaticClipping": FIXED_LENGTH,
        "FedDyn": DRIFT,
    },
    "order": {
        "DifferentialPrivacy": PRIVATE,
        "DifferentialPrivacyAdaptiveClipping": PRIVATE,
    },
    "translation": {
        "AdaptiveRobustClipping": SHORTENS,
        "CenteredClipping": CLIPS_FROM_THE_LAST_STEP,
        "DifferentialPrivacy": PRIVATE,
        "DifferentialPrivacyAdaptiveClipping": PRIVATE,
        "FLAME": DIRECTION,
        "FLTrust": DIRECTION,
        "FedAdagrad": DIVIDES,
        "FedAdam": DIVIDES,
        "FedMGDAPlus": DIRECTION,
        "FedNova": STEPS,
        "FedYogi": DIVIDES,
        "FoolsGold": DIRECTION,
        "NormBounding": SHORTENS,
        "QFedAvg": BENDS,
        "SignGuard": SHORTENS,
        "StaticClipping": FIXED_LENGTH,
        "FedDyn": DRIFT,
        "MoNNA": PIVOT,
    },
    "scale": {
        "CenteredClipping": CLIPS_FROM_THE_LAST_STEP,
        "DifferentialPrivacy": PRIVATE,
        "DifferentialPrivacyAdaptiveClipping": PRIVATE,
        "FLAME": NOISY,
        "FLTrust": OWN_LENGTH,
        "FedAdagrad": DIVIDES,
        "FedAdam": DIVIDES,
        "FedMGDAPlus": OWN_LENGTH,
        "FedYogi": DIVIDES,
        "QFedAvg": BENDS,
        "StaticClipping": FIXED_LENGTH,
        "MoNNA": PIVOT,
    },
    "shares": {
        "AdaptiveRobustClipping": "wraps the median, which is used coordinate by coordinate",
        "Bucketing": "wraps the median, which is used coordinate by coordinate",
        "Bulyan": "another mean in each coordinate",
        "CoordinateMedian": "another update in each coordinate",
        "DifferentialPrivacy": PRIVATE,
        "DifferentialPrivacyAdaptiveClipping": PRIVATE,
        "FLAME": NOISY,
        "FedAdagrad": DIVIDES,
        "FedAdam": DIVIDES,
        "FedYogi": DIVIDES,
        "NearestNeighborMixing": "wraps the median, which is used coordinate by coordinate",
        "StaticClipping": "wraps the median, which is used coordinate by coordinate",
        "TrimmedMean": "another mean in each coordinate",
        "Meamed": "another mean in each coordinate",
    },
}


def name_of(rule: AggregationRule) -> str:
    return type(rule).__name__


def lawful(law: str) -> list[Any]:
    """Return the rules that claim an invariance, as parameters of a test."""
    return [
        pytest.param(rule, id=name_of(rule))
        for rule in RULES
        if name_of(rule) not in EXCEPTIONS[law] and law not in rule.exceptions
    ]


every_rule = pytest.mark.parametrize("rule", RULES, ids=name_of)


def drawn(rule: AggregationRule, seed: int, spare: int = 4) -> tuple[Tensor, Tensor]:
    """Return updates that are whole numbers, so that moving them is exact, and weights."""
    count = max(rule.min_updates, 3) + spare
    rng = generator(seed, "updates", name_of(rule))
    updates = torch.randint(-1000, 1000, (count, SIZE), generator=rng).double()
    return updates, torch.randint(1, 50, (count,), generator=rng).double()


def known(updates: Tensor) -> RoundContext:
    """Return a context with all optional fields: steps, losses and the server's own training."""
    clients = torch.arange(len(updates))
    steps, losses = 1.0 + clients % 3, 1.0 + clients / 8
    own = torch.linspace(-500, 500, updates.shape[1]).round().to(updates.dtype)
    return RoundContext(clients, len(updates), 2, 0, steps.double(), losses.double(), reference=own)


def reordered(context: RoundContext, order: Tensor) -> RoundContext:
    changed: Any = {n: getattr(context, n)[order] for n in ("clients", "local_steps", "losses")}
    return dataclasses.replace(context, **changed)


def first_decision(
    rule: AggregationRule, updates: Tensor, weights: Tensor, context: RoundContext | None = None
) -> AggregationResult:
    state = rule.initial_state(updates.shape[1])
    return rule.decide(state, updates, weights, context or known(updates))


def first_step(rule: AggregationRule, updates: Tensor, weights: Tensor) -> Tensor:
    return first_decision(rule, updates, weights).step


def test_there_are_rules() -> None:
    assert {"FedAvg", "FedAvgM", "Krum", "MultiKrum", "TrimmedMean", "CoordinateMedian"} <= {
        name_of(rule) for rule in RULES
    }


def test_no_exception_names_a_rule_that_is_gone() -> None:
    named = {name for law in EXCEPTIONS.values() for name in law}
    assert named <= {name_of(rule) for rule in RULES}


@pytest.mark.parametrize("rule", lawful("unanimous"))
@given(seed=st.integers(0, 10**6))
def test_a_rule_agrees_with_unanimous_clients(rule: AggregationRule, seed: int) -> None:
    updates, weights = drawn(rule, seed)
    same = updates[:1].expand_as(updates).contiguous()
    torch.testing.assert_close(first_step(rule, same, weights), updates[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", lawful("order"))
@given(seed=st.integers(0, 10**6))
def test_a_rule_ignores_the_order_of_clients(rule: AggregationRule, seed: int) -> None:
    updates, weights = drawn(rule, seed)
    order = torch.randperm(len(updates), generator=generator(seed, "order"))
    context = reordered(known(updates), order)
    shuffled = first_decision(rule, updates[order], weights[order], context)
    expected = first_decision(rule, updates, weights)
    torch.testing.assert_close(shuffled.step, expected.step, rtol=1e-12, atol=1e-9)
    for one, other in zip(told(shuffled), told(expected), strict=True):
        torch.testing.assert_close(one, other[order], rtol=1e-5, atol=1e-6)


def told(decision: AggregationResult) -> list[Tensor]:
    return [n for n in (decision.shares, decision.scales) if n is not None]


@every_rule
@given(seed=st.integers(0, 10**6))
def test_a_rule_says_what_became_of_each_update(rule: AggregationRule, seed: int) -> None:
    updates, weights = drawn(rule, seed)
    decision = first_decision(rule, updates, weights)
    assert decision.shares is not None
    for numbers in told(decision):
        assert (numbers.dtype, numbers.shape) == (torch.float64, (len(updates),))
        assert bool(numbers.isfinite().all())
        assert bool((numbers >= 0).all())


@pytest.mark.parametrize("rule", lawful("shares"))
@given(seed=st.integers(0, 10**6))
def test_shares_of_scaled_updates_give_the_step(rule: Any, seed: int) -> None:
    updates, weights = drawn(rule, seed)
    decision = first_decision(rule, updates, weights)
    assert decision.shares is not None
    scales = torch.ones(len(updates)) if decision.scales is None else decision.scales
    rate = getattr(rule, "server_learning_rate", 1.0)
    step = rate * (decision.shares * scales) @ updates
    torch.testing.assert_close(decision.step, step, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("rule", lawful("left out"))
def test_an_update_that_is_left_out_does_not_matter(rule: AggregationRule) -> None:
    updates, weights = drawn(rule, 7, spare=12)
    updates[3] = 10**6
    decision = first_decision(rule, updates, weights)
    assert decision.shares is not None
    if float(decision.shares[3]) == 0:
        updates[3] *= 2
        again = first_decision(rule, updates, weights)
        torch.testing.assert_close(again.step, decision.step, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", lawful("translation"))
@given(seed=st.integers(0, 10**6), shift=st.integers(-(10**4), 10**4))
def test_a_rule_moves_with_its_updates(rule: AggregationRule, seed: int, shift: int) -> None:
    updates, weights = drawn(rule, seed)
    moved = first_step(rule, updates + shift, weights)
    expected = first_step(rule, updates, weights) + shift
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("rule", lawful("scale"))
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([-8.0, -1.0, 0.0, 2**-20, 0.5, 1024.0]))
def test_a_rule_scales_with_its_updates(rule: AggregationRule, seed: int, factor: float) -> None:
    updates, weights = drawn(rule, seed)
    scaled = first_step(rule, factor * updates, weights)
    expected = factor * first_step(rule, updates, weights)
    torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_rule
def test_a_step_has_the_type_and_length_of_the_updates(
    rule: AggregationRule, dtype: torch.dtype
) -> None:
    updates, weights = drawn(rule, 0)
    step = first_step(rule, updates.to(dtype), weights)
    assert (step.dtype, step.shape) == (dtype, (SIZE,))
    assert bool(step.isfinite().all())


@every_rule
def test_single_precision_costs_no_more_than_the_rounding_of_the_result(
    rule: AggregationRule,
) -> None:
    updates, weights = drawn(rule, 1)
    double, single = (first_step(rule, u, weights) for u in (updates, updates.float()))
    # The updates are exact in float32, and sums are in float64: one rounding is left.
    torch.testing.assert_close(single.double(), double, rtol=2**-24, atol=0)


@every_rule
def test_too_few_updates_are_refused(rule: AggregationRule) -> None:
    for count in range(rule.min_updates):
        with pytest.raises(ValueError, match=rf"at least {rule.min_updates} .*got {count}"):
            first_step(rule, torch.ones(count, SIZE), torch.ones(count))


@pytest.mark.parametrize(
    "rule", [pytest.param(r, id=name_of(r)) for r in RULES if r.max_updates is not None]
)
def test_too_many_updates_are_refused(rule: AggregationRule) -> None:
    most = dataclasses.replace(rule, num_byzantine=4).max_updates  # type: ignore[call-arg, type-var]
    assert most is not None
    updates = torch.ones(most + 1, SIZE)
    with pytest.raises(ValueError, match=rf"at most {most} .*got {most + 1}"):
        first_step(dataclasses.replace(rule, num_byzantine=4), updates, torch.ones(most + 1))  # type: ignore[call-arg, type-var]


@every_rule
def test_as_many_updates_as_needed_are_enough(rule: AggregationRule) -> None:
    count = rule.min_updates
    rng = generator(0, "enough")
    step = first_step(rule, torch.randn(count, SIZE, generator=rng), torch.ones(count))
    assert bool(step.isfinite().all())


@every_rule
def test_updates_weights_and_state_are_left_as_they_were(rule: AggregationRule) -> None:
    updates, weights = drawn(rule, 2)
    state = first_decision(rule, updates, weights).state
    before = pickle.dumps((updates, weights, state))
    rule.decide(state, updates, weights, known(updates))
    assert pickle.dumps((updates, weights, state)) == before


@every_rule
def test_a_step_shares_no_memory_with_the_updates(rule: AggregationRule) -> None:
    updates, weights = drawn(rule, 2)
    before = updates.clone()
    first_step(rule, updates, weights).fill_(7.0)
    assert torch.equal(updates, before)


@every_rule
def test_state_survives_a_checkpoint_bit_by_bit(rule: AggregationRule, tmp_path: Path) -> None:
    updates, weights = drawn(rule, 3)
    state = first_decision(rule, updates, weights).state
    kept, log = RuleServer(rule, SIZE), RunLog(tmp_path / "log.jsonl")
    kept.load_state_dict(state)
    save_state(tmp_path, State(1, torch.zeros(SIZE), {}, kept), "a run", log.mark)
    restored = RuleServer(rule, SIZE)
    first = State(0, torch.zeros(SIZE), {}, restored)
    assert load_state(tmp_path, first, "a run", log).round == 1
    went_on, resumed = (
        rule.decide(s, updates.flip(0), weights, known(updates)).step
        for s in (state, restored.state)
    )
    assert torch.equal(went_on, resumed)


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_a_rule_says_how_many_attackers_it_is_to_survive(rule: AggregationRule) -> None:
    number = field_values(rule).get("num_byzantine")
    assert rule.num_attackers() == number
    assert rule.with_num_attackers(3).num_attackers() == (None if number is None else 3)


ROBUST = [rule for rule in RULES if rule.num_attackers() is not None]


@pytest.mark.parametrize("rule", ROBUST, ids=name_of)
def test_a_rule_survives_as_many_attackers_as_it_says(rule: Any) -> None:
    strong = dataclasses.replace(rule, num_byzantine=2)
    honest = torch.randn(strong.min_updates, SIZE, generator=generator(4, "honest"))
    lies = torch.stack([torch.full((SIZE,), 1e6), torch.full((SIZE,), -1e6)])
    for attack in (lies, lies.abs(), -lies.abs(), lies.flip(0)):
        updates = torch.cat([attack[:1], honest, attack[1:]])
        step = first_step(strong, updates, torch.ones(len(updates)))
        assert bool((step >= honest.min(0).values - 1e-6).all())
        assert bool((step <= honest.max(0).values + 1e-6).all())


@pytest.mark.parametrize(
    "rule", [pytest.param(r, id=name_of(r)) for r in RULES if isinstance(r, LinearRule)]
)
def test_a_linear_rule_may_be_fed_one_update_at_a_time(rule: LinearRule) -> None:
    updates, weights = drawn(rule, 5)
    coefficients = rule.coefficients(weights, known(updates))
    total = torch.zeros(SIZE, dtype=torch.float64)
    for coefficient, update in zip(coefficients, updates, strict=True):
        total += weighted_sum(coefficient[None], update[None])
    _, step = rule.finish(rule.initial_state(SIZE), total)
    torch.testing.assert_close(step, first_step(rule, updates, weights), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    "rule", [pytest.param(r, id=name_of(r)) for r in RULES if r.coordinatewise]
)
def test_a_coordinatewise_rule_may_be_given_some_coordinates_at_a_time(
    rule: AggregationRule,
) -> None:
    updates, weights = drawn(rule, 6)
    assert rule.initial_state(SIZE) is None
    whole = first_step(rule, updates, weights)
    for part in (slice(0, 1), slice(2, 5), slice(5, SIZE)):
        assert torch.equal(first_step(rule, updates[:, part], weights), whole[part])


@every_rule
def test_a_rule_pickles(rule: AggregationRule) -> None:
    assert pickle.loads(pickle.dumps(rule)) == rule


@every_rule
def test_a_rule_is_described_and_constructed_again(rule: AggregationRule) -> None:
    text = json.dumps(describe(rule))
    assert construct(json.loads(text), AggregationRule) == rule


WRAPPERS: list[Any] = [
    pytest.param(r, id=name_of(r))
    for r in RULES
    if isinstance(getattr(r, "rule", None), AggregationRule)
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_asks_for_what_the_wrapped_rule_needs(wrapper: Any) -> None:
    around = {
        inner: dataclasses.replace(wrapper, rule=inner)
        for inner in (QFedAvg(), FLTrust(), SCAFFOLD())
    }
    assert [rule.needs_losses for rule in around.values()] == [True, False, False]
    assert [rule.root_samples for rule in around.values()] == [0, 100, 0]
    scaffold = around[SCAFFOLD()]
    state = scaffold.initial_state(5)
    control = state["rule"] if isinstance(state, dict) else state
    assert torch.equal(control, torch.zeros(5).double())
    control += torch.arange(5)
    assert torch.equal(scaffold.broadcast(state)["control"], control.float())


@pytest.mark.parametrize("inner", RULES, ids=name_of)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_takes_any_rule(wrapper: Any, inner: AggregationRule) -> None:
    if isinstance(wrapper, ClosedFormRule) and inner.tune:  # a head is solved once
        with pytest.raises(FieldError, match="a rule that aggregates, since this one solves"):
            dataclasses.replace(wrapper, rule=inner)
        return
    rule = dataclasses.replace(wrapper, rule=inner)
    updates, weights = drawn(rule, 8)
    sent = {"control": torch.ones_like(updates)}
    context = dataclasses.replace(known(updates), sent=sent)
    decision = first_decision(rule, updates, weights, context)
    assert decision.step.shape == (SIZE,)
    assert bool(decision.step.isfinite().all())
    for numbers in told(decision):
        assert numbers.shape == (len(updates),)
        assert bool((numbers >= 0).all())


@pytest.mark.parametrize("rule", ROBUST, ids=name_of)
def test_a_majority_of_attackers_has_its_way(rule: Any) -> None:
    honest = torch.randn(rule.min_updates, SIZE, generator=generator(5, "honest"))
    lies = torch.full((len(honest) + 1 + rule.num_byzantine, SIZE), 1e6)
    step = first_step(rule, torch.cat([honest, lies]), torch.ones(len(honest) + len(lies)))
    assert float(step.min()) > 1e4
