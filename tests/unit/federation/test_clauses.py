"""Clauses of a layout: who protects what, in which rounds, with which noise, against the masks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_sim import Absent, Data, Experiment, Participation, Protects
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.data.layout import Layout, assign_clauses
from fl_sim.federation.federation import Federation, load_experiment_dataset, prepare_federation
from fl_sim.federation.pool import list_noise_parts
from fl_sim.models.features import to_trainable
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.schedule import Schedule

Maker = Callable[..., Experiment]
NOISE = RandomNoise(radius=16 / 255)
WEAK = RandomNoise(radius=4 / 255)


def ready(experiment: Maker, *clauses: Protects, **fields: Any) -> Federation:
    usual: dict[str, Any] = {"protection": NOISE, "rounds": 8}
    return prepare_federation(experiment(layout=clauses, **(usual | fields)))


def protected_in(federation: Federation, client: int, round_num: int) -> Tensor:
    """Return the mask of a client's protected images."""
    mask = federation.shard(client, round_num).protected
    assert mask is not None
    return mask


def test_clauses_for_all_clients_are_a_layout(experiment: Maker) -> None:
    named = ready(experiment, Protects(fraction=0.5, first_round=2))
    drawn = prepare_federation(
        experiment(layout=Layout(0.5, first_round=2), protection=NOISE, rounds=8)
    )
    assert torch.equal(named.pool.protected, drawn.pool.protected)
    assert torch.equal(named.inputs, drawn.inputs)
    assert torch.equal(named.pool.audited, drawn.pool.audited)
    for round_num in (1, 2):
        one, two = (each.shard(3, round_num).inputs for each in (named, drawn))
        assert torch.equal(one, two)
        one, two = (protected_in(each, 3, round_num) for each in (named, drawn))
        assert torch.equal(one, two)


def test_two_of_four_clients_protect_seventy_percent(experiment: Maker) -> None:
    federation = ready(experiment, Protects(num_clients=2, fraction=0.7))
    totals = federation.class_counts.sum(1)
    shares = federation.protected_counts / totals
    assert sorted((shares > 0).tolist()) == [False, False, True, True]
    assert shares[shares > 0].tolist() == pytest.approx([0.7, 0.7], abs=0.03)
    whole = experiment(layout=Layout(0.5, "clients"), protection=NOISE)
    expected = prepare_federation(whole).protected_counts > 0
    assert torch.equal(shares > 0, expected)  # the clients that a layout by clients draws


def test_clients_protect_named_classes_in_named_rounds_and_leave_off(experiment: Maker) -> None:
    clause = Protects(clients=(1, 2), classes=(3, 4), first_round=3, last_round=5)
    federation = ready(experiment, clause)
    pool = federation.pool
    of_class = (pool.labels == 3) | (pool.labels == 4)
    expected = ((pool.clients == 1) | (pool.clients == 2)) & of_class
    assert torch.equal(pool.protected, expected)
    for round_num in range(1, 9):
        shard = federation.shard(1, round_num)
        noisy = expected[shard.sample_ids] & (3 <= round_num <= 5)
        assert torch.equal(protected_in(federation, 1, round_num), noisy)
        differs = (pool.find_images((0,)) != pool.clean_images).flatten(1).any(1)
        assert torch.equal(differs, expected)
        clean = federation.clean_inputs[shard.sample_ids]
        changed = (shard.inputs != to_trainable(clean)).flatten(1).any(1)
        assert torch.equal(changed, noisy)
        assert not protected_in(federation, 0, round_num).any()


def test_a_client_may_protect_with_other_noise_later(experiment: Maker) -> None:
    first = Protects(clients=(0,), last_round=3)
    later = Protects(clients=(0,), first_round=5, radius=4 / 255)
    federation = ready(experiment, first, later)
    clean = federation.shard(0, 4)
    assert not protected_in(federation, 0, 4).any()
    for round_num, radius in ((1, 16 / 255), (3, 16 / 255), (5, 4 / 255)):
        change = as_pixels(federation.shard(0, round_num).inputs) - as_pixels(clean.inputs)
        assert float(change.abs().max()) == pytest.approx(radius, abs=1e-6)
    published = federation.inputs[federation.pool.clients == 0]  # the noise of the last clause
    change = (published.int() - federation.clean_inputs[federation.pool.clients == 0].int()).abs()
    assert int(change.max()) == 4


@pytest.mark.parametrize(
    ("provenance", "owners"), [("shared", []), ("owner", [(0,)]), ("client", [(0,), (2,)])]
)
def test_noise_is_made_by_all_by_the_named_clients_or_by_each(
    experiment: Maker, provenance: Any, owners: list[tuple[int, ...]]
) -> None:
    asked = experiment(protection=NOISE, layout=Protects(clients=(0, 2), provenance=provenance))
    listed = list_noise_parts(asked, load_experiment_dataset(asked))
    assert listed
    parts = [part for part in listed if part.owner]
    assert [part.owner for part in parts] == owners
    clients = prepare_federation(asked).pool.clients
    for part in parts:
        held = {0, 2} if provenance == "owner" else set(part.owner)
        assert set(clients[part.rows].tolist()) == held


def test_controls_leave_out_what_any_clause_protects(experiment: Maker) -> None:
    clauses = (Protects(clients=(0,), fraction=0.5), Protects(clients=(1,), first_round=2))
    asked = experiment(protection=NOISE, layout=clauses)
    controls = asked.controls()
    assert set(controls) == {"all", "clean"}
    assert controls["all"] == experiment()
    withheld = prepare_federation(controls["clean"])
    protected = prepare_federation(asked).pool.protected
    assert torch.equal(withheld.trained, withheld.pool.members & ~protected)
    weaker = replace(asked, layout=(replace(clauses[0], protection=WEAK), clauses[1]))
    assert weaker.controls()["clean"].run_id == controls["clean"].run_id
    assert weaker.run_id != asked.run_id
    everything = experiment(protection=NOISE, layout=Protects())
    assert set(everything.controls()) == {"all"}


def test_clauses_survive_json_and_have_paths(experiment: Maker) -> None:
    clauses = (Protects(clients=(0, 1), protection=WEAK), Protects((2,)))
    asked = experiment(protection=NOISE, layout=clauses, rounds=9)
    changed = asked.with_values([("layout.1.first_round", 5), ("layout.1.fraction", 0.3)])
    assert Experiment.from_json(changed.to_json()) == changed
    assert changed.layout[1] == Protects((2,), first_round=5, fraction=0.3)  # type: ignore[index]


def test_clients_are_drawn_among_those_that_no_clause_names() -> None:
    clauses = [Protects(num_clients=2), Protects(clients=(0, 1)), Protects(num_clients=1)]
    for seed in range(5):
        drawn, named, more = assign_clauses(clauses, 5, seed)
        assert named == (0, 1)
        assert sorted((*drawn, *more)) == [2, 3, 4]


@pytest.mark.parametrize(
    ("clauses", "message"),
    [
        ([Protects((4,))], r"layout.0.clients: numbers below data.num_clients = 4; got "),
        ([Protects(num_clients=5)], r"layout.0.num_clients: at most 4 clients that no clause"),
        ([Protects((1,), first_round=9)], r"layout.0.first_round: at most rounds = 8; got 9"),
        (
            [Protects((1, 2)), Protects((2, 3), first_round=4, protection=WEAK)],
            r"layout.1: one kind of noise for a client in a round; got 'two for client 2 in round ",
        ),
    ],
)
def test_clauses_that_cannot_be_carried_out_are_refused(
    experiment: Maker, clauses: list[Protects], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        experiment(protection=NOISE, layout=tuple(clauses), rounds=8)


def test_clauses_do_not_meet_in_other_rounds_or_classes(experiment: Maker) -> None:
    apart = (Protects((1,), last_round=3), Protects((1,), first_round=4, protection=WEAK))
    classes = (Protects((1,), classes=(0,)), Protects((1,), classes=(1,), protection=WEAK))
    for clauses in (apart, classes):
        experiment(protection=NOISE, layout=clauses, rounds=8)


def test_a_clause_needs_a_protection(experiment: Maker) -> None:
    with pytest.raises(FieldError, match=r"layout.0.protection: a protection, here or in"):
        experiment(layout=Protects((1,)))


def test_clients_are_away_in_their_rounds_and_return(experiment: Maker) -> None:
    absences = (Absent((1,), first_round=2, last_round=3), Absent(num_clients=2, first_round=5))
    data = Data(dataset="digits", num_clients=6, num_samples=120, num_test=30)
    asked = experiment(participation=Participation(absences=absences), rounds=6, data=data)
    schedule = Schedule(asked)
    away = [schedule.away(i) for i in range(1, 7)]
    assert away[:4] == [frozenset(), frozenset({1}), frozenset({1}), frozenset()]
    assert len(away[4]) == 2
    assert 1 not in away[4]
    assert away[4] == away[5]
    for round_num, absent in enumerate(away, 1):
        assert schedule.choose_clients(round_num, list(range(6))) == sorted({*range(6)} - absent)
    assert Experiment.from_json(asked.to_json()) == asked
    for wrong, message in (
        (Absent((6,)), r"absences.0.clients: below data.num_clients = 6; got 6"),
        (Absent((1,), first_round=7), r"absences.0.first_round: at most rounds = 6; got 7"),
    ):
        with pytest.raises(FieldError, match=message):
            replace(asked, participation=Participation(absences=(wrong,)))
