"""Two hundred rounds in which clients crash, hang and send NaN: no loss, and no leak."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from clients.sgd import SgdClient
from fl_sim import Evaluation, Experiment, FailurePolicy, Model, run
from fl_sim.runs.progress import Progress
from fl_sim.training.faults import Faults
from strategies.fedavg import FedAvg

ROUNDS, CLIENTS, RETRIES = 200, 4, 1
FAULTS = Faults(crash=0.1, nan=0.05, hang=0.01)
CAUSES = {
    "crash": "CrashError: injected",
    "nan": "parameters are not finite: the update has length nan",
    "hang": "TimedOutError: no reply within 0.5 s",
}


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1024**2


@pytest.fixture(scope="module")
def long_run(
    experiment: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pd.DataFrame, pd.DataFrame, list[float]]:
    """Return the failures and rows of a run full of faults, and its memory after each round."""
    memory: list[float] = []

    def listen(progress: Progress) -> None:
        memory.append(resident_mib())

    wanted = experiment(
        model=Model("small_cnn", tune="head"),
        client=SgdClient(learning_rate=0.01),
        strategy=FedAvg(),
        failures=FailurePolicy("retry", retries=RETRIES, timeout=0.5),
        evaluation=Evaluation(every=20),
        rounds=ROUNDS,
    )
    out = tmp_path_factory.mktemp("long")
    results = run(wanted, out=out, controls=False, faults=FAULTS, listen=listen)
    assert results.complete, results.cells.error.tolist()
    return results.failures, results.rows, memory


def expected() -> tuple[Counter[tuple[int, int, str]], Counter[int]]:
    """Return every expected fault, and the number of remaining updates by round."""
    faults: Counter[tuple[int, int, str]] = Counter()
    valid: Counter[int] = Counter()
    for number in range(1, ROUNDS + 1):
        for client in range(CLIENTS):
            for attempt in range(RETRIES + 1):
                kind = FAULTS.draw(0, number, client, attempt)
                if not kind:
                    valid[number] += 1
                    break
                faults[number, client, CAUSES[kind]] += 1
    return faults, valid


@pytest.mark.slow
def test_every_fault_is_a_row(
    long_run: tuple[pd.DataFrame, pd.DataFrame, list[float]],
) -> None:
    failures, _, _ = long_run
    columns = failures[["round", "client", "cause"]].itertuples(index=False, name=None)
    assert Counter(columns) == expected()[0]


@pytest.mark.slow
def test_no_valid_update_is_lost_or_counted_twice(
    long_run: tuple[pd.DataFrame, pd.DataFrame, list[float]],
) -> None:
    _, rows, _ = long_run
    counted = rows[rows.metric == "num_updates"].set_index("round").value.astype(int)
    assert counted.to_dict() == dict(expected()[1])
    reported = rows[rows.metric == "train_loss"].groupby("round").client
    assert reported.nunique().to_dict() == reported.size().to_dict() == dict(expected()[1])


@pytest.mark.slow
def test_memory_stays_flat(
    long_run: tuple[pd.DataFrame, pd.DataFrame, list[float]],
) -> None:
    _, _, memory = long_run
    assert memory[-1] < 1.05 * memory[19]
