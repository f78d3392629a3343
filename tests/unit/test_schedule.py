"""Tests of the schedule: a pure function of the experiment and its seed."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clients.alie import AlieClient
from clients.backdoor import BackdoorClient
from clients.fedprox import FedProxClient
from clients.free_rider import FreeRiderClient
from clients.ipm import IpmClient
from clients.label_flip import LabelFlipClient
from clients.model_replacement import ModelReplacementClient
from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from clients.unique_feature import UniqueFeatureClient
from fl_sim import Adversary, AvailabilityWindow, Data, Experiment, Model, Participation
from fl_sim.config import validation
from fl_sim.contracts import Client, Draw, Shard
from fl_sim.core.errors import FieldError
from fl_sim.core.serialization import label
from fl_sim.data.layout import Layout
from fl_sim.experiment import Evaluation
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.schedule import Schedule, backdoors
from fl_sim.triggers import Backdoor, Patch
from strategies.fedavg import FedAvg
from strategies.fltrust import FLTrust

Maker = Callable[..., Experiment]
COUNT, ROUNDS = 10, 20
ALL_CLIENTS = list(range(COUNT))
seeds = st.integers(0, 10**6)
rounds = st.integers(1, ROUNDS)


def experiment(*adversaries: Adversary, **fields: Any) -> Experiment:
    usual: dict[str, Any] = {
        "name": "test",
        "client": SgdClient(local_epochs=3),
        "strategy": FedAvg(),
        "data": Data(dataset="digits", num_clients=COUNT),
        "rounds": ROUNDS,
        "adversary": adversaries or None,
    }
    return Experiment(**(usual | fields))


def schedule(*adversaries: Adversary, **fields: Any) -> Schedule:
    return Schedule(experiment(*adversaries, **fields))


def flipping(**fields: Any) -> Adversary:
    return Adversary(LabelFlipClient(), **fields)


def protected(fraction: float, **fields: Any) -> dict[str, Any]:
    return {"protection": RandomNoise(), "layout": Layout(fraction, "clients"), **fields}


# Who is asked


@given(seed=seeds, number=rounds, size=st.integers(1, COUNT))
def test_as_many_are_asked_as_declared_each_once_in_order(
    seed: int, number: int, size: int
) -> None:
    script = schedule(seed=seed, participation=Participation(clients_per_round=size))
    asked = script.choose_clients(number, ALL_CLIENTS)
    assert len(set(asked)) == len(asked) == size
    assert asked == sorted(asked)
    assert asked == script.choose_clients(number, ALL_CLIENTS)


@given(seed=seeds, number=rounds, able=st.sets(st.sampled_from(ALL_CLIENTS)))
def test_clients_without_data_are_skipped_and_change_no_other_draw(
    seed: int, number: int, able: set[int]
) -> None:
    script = schedule(seed=seed, participation=Participation(clients_per_round=4))
    asked = set(script.choose_clients(number, sorted(able)))
    assert asked <= able
    assert len(asked) == min(4, len(able))
    assert set(script.choose_clients(number, ALL_CLIENTS)) & able <= asked


@given(seed=seeds, number=rounds, able=st.sets(st.sampled_from(ALL_CLIENTS), min_size=1))
def test_clients_that_are_drawn_one_by_one_are_able_and_there(
    seed: int, number: int, able: set[int]
) -> None:
    plan = Participation(clients_per_round=4, stays=(AvailabilityWindow(3, 5),), sampling="poisson")
    script = schedule(seed=seed, participation=plan)
    asked = script.choose_clients(number, sorted(able))
    assert asked == sorted(set(asked) & able)
    assert 3 not in asked or number >= 5
    draw = script.describe_draw(number, sorted(able))
    assert draw == Draw(len(able - ({3} if number < 5 else set())), 4, "poisson")
    if draw.rate == 1:
        assert len(asked) == draw.eligible


def test_poisson_draws_are_independent_with_the_same_rate() -> None:
    """Counts of a binomial: mean 4 and variance 2.4 of ten; no client depends on another."""
    plan = Participation(clients_per_round=4, sampling="poisson")
    script = schedule(participation=plan, rounds=4000)
    drawn = torch.zeros(4000, COUNT)
    for number in range(1, 4001):
        drawn[number - 1, script.choose_clients(number, ALL_CLIENTS)] = 1
    counts = drawn.sum(1)
    assert float(counts.mean()) == pytest.approx(4, abs=0.1)
    assert float(counts.var()) == pytest.approx(2.4, abs=0.2)
    assert float((drawn.mean(0) - 0.4).abs().max()) < 0.035
    apart = drawn.T.corrcoef() - torch.eye(COUNT)
    assert float(apart.abs().max()) < 0.065


def test_fixed_sampling_does_not_change_run_ids() -> None:
    described = schedule().experiment.describe()["participation"]
    assert "sampling" not in described
    drawn = experiment(participation=Participation(sampling="poisson"))
    assert Experiment.from_json(drawn.to_json()) == drawn


def test_each_client_is_asked_sooner_or_later() -> None:
    script = schedule(participation=Participation(clients_per_round=2))
    asked = [client for i in range(1, 200) for client in script.choose_clients(i, ALL_CLIENTS)]
    counts = torch.tensor(asked).bincount(minlength=COUNT)
    assert int(counts.min()) >= 20


def test_clients_arrive_depart_and_come_back() -> None:
    stays = (
        AvailabilityWindow(3, first_round=5),
        AvailabilityWindow(4, last_round=8),
        AvailabilityWindow(5, 2, 3),
        AvailabilityWindow(5, 6, 6),
    )
    script = schedule(participation=Participation(stays=stays))
    there = {
        c: [i for i in range(1, 11) if c in script.choose_clients(i, ALL_CLIENTS)]
        for c in ALL_CLIENTS
    }
    assert there[3] == [5, 6, 7, 8, 9, 10]
    assert there[4] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert there[5] == [2, 3, 6]
    assert there[0] == list(range(1, 11))


# Who does not deliver


@given(seed=seeds, number=rounds, some=st.sets(st.sampled_from(ALL_CLIENTS)))
def test_no_client_is_absent_by_default(seed: int, number: int, some: set[int]) -> None:
    assert schedule(seed=seed).find_absent(number, sorted(some)) == {}


@given(seed=seeds, number=rounds, some=st.sets(st.sampled_from(ALL_CLIENTS)))
def test_an_absence_does_not_depend_on_who_else_was_asked(
    seed: int, number: int, some: set[int]
) -> None:
    plan = Participation(drop_out=0.4, speed_spread=0.8, deadline=1.3)
    script = schedule(seed=seed, participation=plan)
    everybody = script.find_absent(number, ALL_CLIENTS)
    assert script.find_absent(number, sorted(some)) == {
        client: cause for client, cause in everybody.items() if client in some
    }


def test_clients_drop_out_as_often_as_declared() -> None:
    script = schedule(participation=Participation(drop_out=0.3))
    lost = [len(script.find_absent(i, ALL_CLIENTS)) for i in range(1, 301)]
    assert sum(lost) / 3000 == pytest.approx(0.3, abs=0.03)  # 3.6 standard errors
    assert len(set(lost)) > 1
    assert set(script.find_absent(1, ALL_CLIENTS).values()) <= {"dropped out"}


@given(seed=seeds, number=rounds, deadline=st.floats(0.3, 3))
def test_the_slow_are_late_in_every_round(seed: int, number: int, deadline: float) -> None:
    plan = Participation(speed_spread=0.5, deadline=deadline)
    script = schedule(seed=seed, participation=plan)
    slow = {c for c in ALL_CLIENTS if float(script.times[c]) > deadline}
    assert script.find_absent(number, ALL_CLIENTS) == dict.fromkeys(
        sorted(slow), "past the deadline"
    )
    assert float(script.times.quantile(0.5)) == pytest.approx(1)


def test_speeds_are_spread_as_declared() -> None:
    data = Data(dataset="digits", num_clients=4000)
    times = schedule(data=data, participation=Participation(speed_spread=0.7)).times
    assert float(times.log().std()) == pytest.approx(0.7, rel=0.05)
    assert bool((schedule().times == 1).all())


# Who attacks


@given(seed=seeds, count=st.integers(0, COUNT), number=rounds)
def test_a_fixed_pool_is_the_same_in_every_round(seed: int, count: int, number: int) -> None:
    script = schedule(flipping(num_clients=count), seed=seed)
    assert len(script.attackers(number)) == count
    assert script.attackers(number) == script.attackers(1)


@given(seed=seeds, count=st.integers(1, COUNT - 1))
def test_more_attackers_are_the_same_and_others(seed: int, count: int) -> None:
    few, more = (
        schedule(flipping(num_clients=n), seed=seed).attackers(1) for n in (count, count + 1)
    )
    assert few < more


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, range(1, 21)),
        ({"first_round": 10, "last_round": 15}, range(10, 16)),
        ({"first_round": 18}, range(18, 21)),
        ({"first_round": 7, "last_round": 7}, [7]),
        ({"every": 5}, [1, 6, 11, 16]),
        ({"first_round": 3, "last_round": 12, "every": 4}, [3, 7, 11]),
    ],
)
def test_attacks_come_in_their_rounds_only(fields: dict[str, int], expected: list[int]) -> None:
    script = schedule(flipping(num_clients=2, **fields))
    assert [i for i in range(1, 21) if script.attackers(i)] == list(expected)


def test_one_client_attacks_by_default() -> None:
    assert len(schedule(flipping()).attackers(1)) == 1
    assert len(schedule(flipping(share=0.3)).attackers(1)) == 3
    assert schedule(flipping(clients=(2, 7))).attackers(1) == {2, 7}
    assert schedule().attackers(1) == frozenset()


@given(seed=seeds, number=rounds, size=st.integers(1, COUNT))
def test_drawn_anew_they_are_a_fixed_number_of_those_who_are_asked(
    seed: int, number: int, size: int
) -> None:
    adversary = flipping(num_clients=2, drawn="each_round")
    script = schedule(adversary, seed=seed, participation=Participation(clients_per_round=size))
    attackers = script.attackers(number)
    assert attackers <= set(script.choose_clients(number, ALL_CLIENTS))
    assert len(attackers) == min(2, size)


def test_drawn_anew_they_change() -> None:
    script = schedule(flipping(num_clients=2, drawn="each_round"))
    assert len({script.attackers(i) for i in range(1, 21)}) > 5


@given(seed=seeds, count=st.integers(0, 4), fraction=st.sampled_from([0.4, 0.6]))
def test_attackers_overlap_with_those_who_protect_or_do_not(
    seed: int, count: int, fraction: float
) -> None:
    script = {
        among: schedule(flipping(num_clients=count, among=among), seed=seed, **protected(fraction))
        for among in ("protected", "clean")
    }
    layout = Layout(fraction, "clients")
    clients = torch.arange(COUNT)
    marked = layout.choose_protected(clients, clients >= 0, clients, COUNT, COUNT, seed)
    guarded = set(clients[marked].tolist())
    assert script["protected"].attackers(1) <= guarded
    assert not script["clean"].attackers(1) & guarded
    assert len(script["clean"].attackers(1)) == count


@pytest.mark.parametrize("among", ["all", "protected", "clean"])
def test_the_controls_have_the_same_attackers(among: Any) -> None:
    whole = experiment(flipping(num_clients=3, among=among), **protected(0.5))
    expected = Schedule(whole).attackers(1)
    attackers = {name: Schedule(c).attackers(1) for name, c in whole.controls().items()}
    assert attackers == {"all": expected, "clean": expected, "honest": frozenset()}
    assert Schedule(whole.with_value("layout.fraction", 0.3)).attackers(1) == expected


def test_in_the_control_of_an_attack_everything_else_is_the_same() -> None:
    plan = Participation(
        clients_per_round=COUNT + 2, stays=(AvailabilityWindow(1, 2), AvailabilityWindow(COUNT))
    )
    attack = flipping(num_clients=3, beside=True)
    honest = experiment(attack, participation=plan).controls()["honest"]
    few = Participation(clients_per_round=COUNT, stays=(AvailabilityWindow(1, 2),))
    assert honest == experiment(participation=few)
    assert honest.run_id == experiment(participation=few).run_id
    assert experiment().controls() == experiment(flipping(num_clients=0)).controls() == {}


# What they do


def test_without_a_choice_an_attacker_wraps_the_experiments_client() -> None:
    script = schedule(flipping(clients=(1,)), client=FedProxClient(mu=0.5))
    assert script.behaviour(1, 1) == LabelFlipClient(honest=FedProxClient(mu=0.5))
    assert script.behaviour(2, 1) == FedProxClient(mu=0.5)


def test_what_an_attacker_wraps_by_choice_stays() -> None:
    own = LabelFlipClient(honest=SgdClient(local_epochs=7))
    assert schedule(Adversary(own, clients=(1,))).behaviour(1, 1) == own


def test_a_nest_is_filled_where_it_ends() -> None:
    nest = SignFlipClient(honest=LabelFlipClient("random"))
    expected = SignFlipClient(honest=LabelFlipClient("random", honest=SgdClient(local_epochs=3)))
    assert schedule(Adversary(nest, clients=(1,))).behaviour(1, 1) == expected


@final
@dataclass(frozen=True)
class Around(Client):
    """A user's wrapper, with a field of another name."""

    attack: Client = field(default_factory=lambda: BackdoorClient(target=3))

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        return self.attack.train(model, shard, rng)


def test_a_backdoor_is_found_in_a_field_of_any_name() -> None:
    wrapped = ModelReplacementClient(honest=Around())
    assert backdoors(experiment(Adversary(wrapped))) == [Backdoor(Patch(), 3)]
    paths = [path for path, _ in wrapped.walk("adversary.client")]
    assert paths[1:] == [
        f"adversary.client.{path}" for path in ("honest", "honest.attack", "honest.attack.honest")
    ]


def test_what_colludes_is_found_in_a_field_of_any_name() -> None:
    with pytest.raises(FieldError, match=r"adversary: .*; got 'Around around AlieClient"):
        schedule(Adversary(Around(AlieClient()))).check()


def test_the_later_attack_wraps_the_earlier_where_they_meet() -> None:
    script = schedule(
        flipping(clients=(1, 2), last_round=5),
        Adversary(SignFlipClient(), clients=(2, 3), first_round=4),
    )
    honest = SgdClient(local_epochs=3)
    flip = LabelFlipClient(honest=honest)
    assert script.behaviour(2, 3) == flip
    assert script.behaviour(2, 4) == SignFlipClient(honest=flip)
    assert script.behaviour(2, 6) == SignFlipClient(honest=honest)
    assert script.behaviour(1, 4) == flip
    assert script.behaviour(3, 3) == honest
    assert script.attackers(4) == {1, 2, 3}


def test_what_colludes_wraps_all_others() -> None:
    script = schedule(Adversary(AlieClient(), clients=(2,)), flipping(clients=(2,)))
    expected = AlieClient(honest=LabelFlipClient(honest=SgdClient(local_epochs=3)))
    assert script.behaviour(2, 1) == expected
    script.check()


def test_a_free_rider_wraps_no_client() -> None:
    script = schedule(flipping(clients=(2,)), Adversary(FreeRiderClient(), clients=(2,)))
    assert script.behaviour(2, 1) == FreeRiderClient()


def test_protection_starts_when_declared() -> None:
    script = schedule(protection=RandomNoise(), layout=Layout(0.5, first_round=5))
    assert [script.active_clauses(i) for i in (1, 4, 5, 6)] == [(), (), (0,), (0,)]
    assert schedule().active_clauses(1) == (0,)


# What is refused


@pytest.mark.parametrize(
    ("adversaries", "message"),
    [
        ([Adversary(AlieClient(), 2), Adversary(IpmClient(), 2)], "IpmClient around AlieClient"),
        ([Adversary(SignFlipClient(honest=AlieClient()))], "SignFlipClient around AlieClient"),
    ],
)
def test_what_colludes_cannot_be_wrapped(adversaries: list[Adversary], message: str) -> None:
    with pytest.raises(FieldError, match=f"adversary: .*; got '{message}"):
        schedule(*adversaries).check()


def test_two_that_collude_may_take_turns() -> None:
    schedule(
        Adversary(AlieClient(), 2, last_round=5), Adversary(IpmClient(), 2, first_round=6)
    ).check()


def test_a_round_without_available_clients_is_refused() -> None:
    stays = tuple(AvailabilityWindow(client, last_round=12) for client in ALL_CLIENTS)
    with pytest.raises(FieldError, match=r"participation.stays: .*; got 'none in round 13'"):
        schedule(participation=Participation(stays=stays)).check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_clients": 2, "share": 0.2}, "clients: one of num_clients, share and clients"),
        ({"num_clients": -1}, "num_clients: at least 0"),
        ({"share": 1.5}, "share: between 0 and 1"),
        ({"clients": (-1,)}, "clients: numbers from 0"),
        ({"clients": (1,), "drawn": "each_round"}, "clients: none where they are drawn"),
        ({"among": "clean", "drawn": "each_round"}, "among: 'all' where clients are drawn"),
        ({"first_round": 0}, "first_round: at least 1"),
        ({"first_round": 5, "last_round": 4}, "last_round: at least first_round = 5"),
        ({"every": 0}, "every: at least 1"),
    ],
)
def test_a_contradictory_adversary_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        flipping(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drop_out": 1.0}, r"drop_out: in \[0, 1\)"),
        ({"speed_spread": -0.1}, "speed_spread: at least 0"),
        ({"deadline": 0.0}, "deadline: above 0"),
    ],
)
def test_a_contradictory_participation_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        Participation(**fields)


def test_clients_that_are_not_there_are_refused_by_the_fields_path() -> None:
    with pytest.raises(FieldError, match=r"^adversary.1.clients: below data.num_clients = 10"):
        experiment(flipping(), flipping(clients=(3, 10)))
    with pytest.raises(FieldError, match=r"^adversary.num_clients: at most 4 protected clients"):
        experiment(adversary=flipping(num_clients=5, among="protected"), **protected(0.4))
    with pytest.raises(FieldError, match=r"^adversary.among: 'all' unless layout.unit is"):
        experiment(adversary=flipping(among="clean"), protection=RandomNoise(), layout=Layout(0.4))
    with pytest.raises(FieldError, match=r"participation.stays: clients below 10; got 10"):
        experiment(participation=Participation(stays=(AvailabilityWindow(10),)))


@pytest.mark.parametrize(
    ("adversaries", "fields", "message"),
    [
        ([Adversary(BackdoorClient(target=10))], {}, r"adversary.client.target: one of 10 classes"),
        (
            [Adversary(ModelReplacementClient(honest=BackdoorClient(target=10)))],
            {},
            r"adversary.client.honest.target: one of 10 classes",
        ),
        (
            [Adversary(BackdoorClient(target=1)), Adversary(BackdoorClient(target=2))],
            {},
            "adversary: at most one trigger and target",
        ),
    ],
)
def test_backdoors_that_cannot_work_are_refused_before_any_work(
    adversaries: list[Adversary], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        validation.check(experiment(*adversaries, **fields))


@final
@dataclass(frozen=True)
class Painting(Client):
    """A user's client that changes images in training."""

    needs_images: ClassVar[bool] = True

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("client", [BackdoorClient(), UniqueFeatureClient()], ids=repr)
def test_a_change_of_images_does_without_the_whole_network(client: Client) -> None:
    attacked = experiment(adversary=Adversary(client), model=Model(tune="head"))
    validation.check(attacked)
    validation.check(replace(attacked, adversary=None, client=client))
    message = rf"model.tune: 'full', so that {type(client).__name__} meets images"
    changes: list[dict[str, Any]] = [
        {"evaluation": Evaluation(alone=client)},
        {"client": client, "strategy": FLTrust(num_root_samples=10)},
    ]
    for fields in changes:
        with pytest.raises(FieldError, match=message):
            validation.check(replace(attacked, **fields))


def test_a_client_that_needs_images_in_training_is_refused_where_there_are_none() -> None:
    attacked = experiment(Adversary(Painting()), model=Model(tune="head"))
    with pytest.raises(FieldError, match=r"model.tune: 'full', so that Painting meets images"):
        validation._refuse_hidden_images(attacked)


# As JSON and on the command line


def test_one_adversary_several_and_none_survive_json() -> None:
    for adversary in (
        None,
        flipping(num_clients=2, first_round=3),
        (flipping(clients=(1, 2)), Adversary(AlieClient(), share=0.2, drawn="each_round")),
        (),
    ):
        plan = Participation(stays=(AvailabilityWindow(2, 3, 4),), drop_out=0.1)
        whole = experiment(adversary=adversary, participation=plan)
        assert Experiment.from_json(whole.to_json()) == whole


def test_fields_of_one_and_of_several_are_set_by_path() -> None:
    one = experiment(adversary=flipping()).with_value("adversary.first_round", 5)
    assert isinstance(one.adversary, Adversary)
    assert one.adversary.first_round == 5
    several = experiment(flipping(), flipping()).with_value("adversary.1.client.share", 0.5)
    assert [a.client for a in several.adversaries] == [
        LabelFlipClient(),
        LabelFlipClient(share=0.5),
    ]
    with pytest.raises(FieldError, match=r"adversary.2: a place below 2"):
        several.with_value("adversary.2.every", 2)


@pytest.mark.parametrize(
    ("adversary", "words"),
    [
        (flipping(), "LabelFlipClient, 1 client"),
        (flipping(num_clients=2), "LabelFlipClient, 2 clients"),
        (
            flipping(clients=(3, 5), first_round=10, last_round=15),
            "LabelFlipClient, clients 3 and 5, rounds 10 to 15",
        ),
        (
            flipping(share=0.2, first_round=4, last_round=4),
            "LabelFlipClient, 20 % of the clients, round 4",
        ),
        (
            flipping(num_clients=2, among="clean", first_round=3),
            "LabelFlipClient, 2 clean clients, from round 3",
        ),
        (
            flipping(num_clients=3, drawn="each_round", every=2),
            "LabelFlipClient, 3 clients anew each round, every 2 rounds",
        ),
    ],
)
def test_an_adversary_in_words(adversary: Adversary, words: str) -> None:
    assert str(adversary) == words


def test_participation_in_words() -> None:
    plan = Participation(
        stays=(AvailabilityWindow(3, last_round=12), AvailabilityWindow(4, 2)), drop_out=0.1
    )
    words = "client 3, rounds 1 to 12 + client 4, rounds 2 to the end"
    assert label(plan) == f"Participation(drop_out=0.1, stays={words})"
    assert label((flipping(), flipping(share=0.5))) == (
        "LabelFlipClient, 1 client + LabelFlipClient, 50 % of the clients"
    )
