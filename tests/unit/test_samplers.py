"""Choice of a round's clients by a plug-in."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
import torch

from fl_sim import Absent, Experiment, Participation
from fl_sim.contracts import NO_SAMPLING
from fl_sim.core.errors import FieldError, RunFailedError
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.federation.federation import prepare_federation
from fl_sim.samplers import Sampler
from fl_sim.samplers.cyclic import Cyclic
from fl_sim.schedule import Schedule

Maker = Callable[..., Experiment]
SAMPLERS = [cls() for cls in discover("fl_sim.samplers", Sampler)]  # type: ignore[type-abstract]


@dataclass(frozen=True)
class Fixed(Sampler):
    """Ask certain clients, whoever is available."""

    clients: tuple[int, ...] = ()

    def choose(
        self, round_num: int, available: Sequence[int], count: int, rng: torch.Generator
    ) -> Iterable[int]:
        if self.clients == (-1,):
            raise LookupError("nobody")
        return self.clients


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda each: type(each).__name__)
def test_a_sampler_is_a_pure_choice_of_available_clients(sampler: Sampler) -> None:
    before = torch.get_rng_state()
    for round_num in range(1, 12):
        for available in ((3,), (0, 2, 5), tuple(range(9))):
            for count in (1, 2, 9):
                chosen, again = (
                    list(sampler.choose(round_num, available, count, generator(1, "test")))
                    for _ in range(2)
                )
                assert chosen == again
                assert set(chosen) <= set(available)
                assert 1 <= len(set(chosen)) == len(chosen) <= count
    assert torch.equal(torch.get_rng_state(), before)


def test_clients_are_asked_in_turn_and_the_absent_are_passed_over(experiment: Maker) -> None:
    absent = Absent((1,), first_round=3, last_round=3)
    plan = Participation(2, sampling=Cyclic(), absences=(absent,))
    asked = experiment(participation=plan, rounds=4)
    assert Experiment.from_json(asked.to_json()) == asked
    named = experiment(rounds=4).with_values(
        [("participation.sampling", "Cyclic"), ("participation.clients_per_round", 2)]
    )
    assert named.participation.sampling == Cyclic()
    with pytest.raises(FieldError, match=r"one of 'fixed', 'poisson' or Sampler: one of Cyclic"):
        asked.with_value("participation.sampling", "uniform")
    federation = prepare_federation(asked)
    schedule = Schedule(asked)
    chosen = [schedule.choose_clients(i, federation.clients_with_data) for i in range(1, 5)]
    assert chosen == [[0, 1], [2, 3], [2, 3], [2, 3]]
    assert federation.max_clients_per_round == 2
    assert federation.draws[0] == NO_SAMPLING


@pytest.mark.parametrize(
    ("clients", "cause"),
    [
        ((0, 9), r"Fixed chose \[0, 9\]; wanted from 1 to 2 different clients of \[0, 1, 2, 3\]"),
        ((0, 0), "Fixed chose"),
        ((0, 1, 2), "Fixed chose"),
        ((), "Fixed chose"),
        ((-1,), "Fixed raised LookupError: nobody"),
    ],
)
def test_wrong_choices_end_the_run(experiment: Maker, clients: tuple[int, ...], cause: str) -> None:
    plan = Participation(2, sampling=Fixed(clients))
    with pytest.raises(RunFailedError, match=f"round 3: {cause}"):
        Schedule(experiment(participation=plan)).choose_clients(3, [0, 1, 2, 3])
