"""Identity of a run: the experiment, and everything else that changes its result."""

import re
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from clients.alie import AlieClient
from clients.optimal_alie import OptimalAlieClient
from fl_sim import Adversary, Experiment, run
from fl_sim.audit.server_view import record_server_view
from fl_sim.audit.session import audit
from fl_sim.audit.target_run import load_target
from fl_sim.core.atomic_io import write_json
from fl_sim.core.device import use_device
from fl_sim.core.errors import RequestError
from fl_sim.federation.federation import load_federation
from fl_sim.flower import client_app
from fl_sim.rounds.loop import run_rounds
from fl_sim.runs.outputs import hash_state
from fl_sim.runs.profiler import PhaseTimer, profile
from fl_sim.runs.replay import replay
from fl_sim.runs.run_options import RunOptions
from fl_sim.runs.runner import sweep
from fl_sim.runs.single_run import make_backend, make_initial_state
from fl_sim.runs.variant import code_digest, describe_variant
from fl_sim.training.faults import Faults
from strategies.trimmed_mean import TrimmedMean

Maker = Callable[..., Experiment]
HALF = Faults(nan=0.5)
SCALE = 2.0


def final_hash(experiment: Experiment, out: Path, **options: Any) -> str:
    results = run(experiment, out=out, controls=False, **options)
    assert results.complete, results.cells.error.tolist()
    return str(results.cells.params_sha256[0])


def an_app(factor: float) -> ClientApp:
    """Return an app whose clients return the received model, times a factor."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = client_app.train(message, context)
        arrays = reply.content["arrays"]
        assert isinstance(arrays, ArrayRecord)
        scaled = [factor * array for array in arrays.to_numpy_ndarrays()]
        reply.content["arrays"] = ArrayRecord(
            {key: torch.tensor(own) for key, own in zip(arrays, scaled, strict=True)}
        )
        return reply

    return app


def test_a_run_with_faults_is_not_returned_for_a_clean_one(
    experiment: Maker, tmp_path: Path
) -> None:
    clean = final_hash(experiment(), tmp_path)
    struck = final_hash(experiment(), tmp_path, faults=HALF)
    assert struck != clean
    assert final_hash(experiment(), tmp_path, resume=True) == clean
    assert final_hash(experiment(), tmp_path, resume=True, faults=HALF) == struck


def test_a_sweep_keeps_clean_cells_and_those_with_faults_apart(
    experiment: Maker, tmp_path: Path
) -> None:
    axes = {"client.learning_rate": [0.01, 0.1]}
    swept = [
        sweep(experiment(), axes, out=tmp_path, **how).cells.params_sha256.tolist()
        for how in ({"faults": HALF}, {}, {"faults": HALF})
    ]
    assert swept[0] == swept[2]
    assert not set(swept[0]) & set(swept[1])


def test_a_result_names_its_faults_and_client_app(experiment: Maker, tmp_path: Path) -> None:
    cells = run(experiment(), out=tmp_path, controls=False, faults=HALF).cells
    assert cells["made_with.faults"][0] == "nan:0.5"
    assert cells.run_id[0] != experiment().run_id
    clean = run(experiment(), out=tmp_path, controls=False).cells
    assert clean.run_id[0] == experiment().run_id
    assert "made_with.faults" not in clean


def test_another_client_app_is_another_run(experiment: Maker, tmp_path: Path) -> None:
    ours = final_hash(experiment(), tmp_path)
    theirs = final_hash(experiment(), tmp_path, client_app=an_app(0.5))
    other = final_hash(experiment(), tmp_path, client_app=an_app(0.25))
    assert len({ours, theirs, other}) == 3
    assert final_hash(experiment(), tmp_path, resume=True) == ours
    assert final_hash(experiment(), tmp_path, resume=True, client_app=an_app(0.5)) == theirs


def test_a_hash_of_code_covers_its_behaviour() -> None:
    def scaled(by: Any) -> Callable[[Any], Any]:
        return lambda value: value * by

    def two(value: Any) -> Any:
        # a comment changes nothing
        return SCALE * value

    apart = [scaled(1), scaled(2), scaled(torch.ones(2)), scaled(torch.zeros(2)), two, len]
    assert len({code_digest(own) for own in apart}) == len(apart)
    assert code_digest(scaled(2)) == code_digest(scaled(2))
    assert code_digest(scaled({"a", "b"})) == code_digest(scaled({"b", "a"}))
    assert describe_variant(Faults(), None) == {}


def test_faults_do_not_leak_into_cached_objects(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment()
    federation = load_federation(wanted.to_json())
    before = [hash_state(outcome.state) for outcome in replay(federation)]
    run(wanted, out=tmp_path, controls=False, faults=HALF)
    again = load_federation(wanted.to_json())
    after = [hash_state(outcome.state) for outcome in replay(again)]
    assert after == before
    struck = make_backend(again, RunOptions(faults=HALF))
    outcomes = run_rounds(again, make_initial_state(again), struck)
    assert [hash_state(outcome.state) for outcome in outcomes] != before


def test_faults_of_a_client_app_are_refused() -> None:
    with pytest.raises(RequestError, match="not on a ClientApp"):
        RunOptions(faults=HALF, client_app=client_app.app)


def test_an_audit_names_injected_failures_as_the_cause(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment()
    results = run(wanted, out=tmp_path, controls=False, faults=HALF)
    folder = results.path / str(results.cells.run_id[0]) / "seed=0"
    findings = audit(folder, tier=1, references=2)
    notes = " ".join(map(str, findings["note"]))
    assert "failures were injected (nan:0.5)" in notes
    assert "another machine" not in notes
    replays = run(wanted, out=tmp_path, controls=False)
    seen, why = record_server_view(
        load_target(only(replays.path, wanted.run_id)), lambda progress: None
    )
    assert seen is not None, why


def only(root: Path, run_id: str) -> Path:
    return root / run_id / "seed=0"


def test_attackers_get_the_same_information_in_a_profiled_run(experiment: Maker) -> None:
    attack = Adversary(OptimalAlieClient(evaluations=4), num_clients=1)
    wanted = experiment(strategy=TrimmedMean(num_byzantine=1), adversary=attack)
    federation = load_federation(wanted.to_json())
    found = []
    for timed in (False, True):
        *_, last = replay(federation, callbacks=(PhaseTimer(),) if timed else ())
        found.append(hash_state(last.state))
    assert found[0] == found[1]
    plain = replace(attack, client=AlieClient())
    other = load_federation(replace(wanted, adversary=plain).to_json())
    *_, last = replay(other)
    assert hash_state(last.state) != found[0]


def module_with(source: str, **names: Any) -> Callable[..., Any]:
    """Return the function `f` of a user's module, executed from text."""
    module = types.ModuleType("users_own")
    vars(module).update(names)
    exec(source, vars(module))
    return cast("Callable[..., Any]", vars(module)["f"])


@pytest.mark.parametrize(
    "source",
    [
        "class C:\n  K = {}\ndef f(): return C.K",
        "class C:\n  @staticmethod\n  def s(): return {}\ndef f(): return C.s()",
        "class C:\n  @property\n  def s(self): return {}\ndef f(): return C().s",
        "class B:\n  def s(self): return {}\nclass C(B): pass\ndef f(): return C().s()",
        "class C:\n  __slots__ = 'a',\n  def __init__(c): c.a = {}\nc = C()\ndef f(): return c",
        "import types\nnames = types.SimpleNamespace(a={})\ndef f(): return names.a",
        "import functools\nlarger = functools.partial(max, {})\ndef f(): return larger(0)",
        "import functools\n@functools.lru_cache\ndef g(): return {}\ndef f(): return g()",
        "import torch\nT = torch.full((2,), {}, dtype=torch.bfloat16)\ndef f(): return T",
        "import numpy\nrng = numpy.random.default_rng({})\ndef f(): return rng.random()",
        "from fractions import Fraction\nhalf = Fraction({}, 7)\ndef f(): return half",
        "def f(values=[[range({})]]): return values",
        "def f():\n  def g(): return {}\n  return g",
    ],
)
def test_everything_that_an_app_uses_is_in_its_hash(source: str) -> None:
    first, again, other = (module_with(source.format(n)) for n in (1, 1, 2))
    assert code_digest(first) == code_digest(again) != code_digest(other)


def test_modules_of_the_users_own_are_in_the_hash_of_an_app() -> None:
    helpers = [types.ModuleType("users_helper") for _ in range(2)]
    for number, helper in enumerate(helpers):
        vars(helper)["FACTOR"] = number
    apart = [module_with("def f(): return helper.FACTOR", helper=own) for own in helpers]
    assert code_digest(apart[0]) != code_digest(apart[1])
    assert code_digest([[1], 2]) != code_digest([[1, 2]])


def test_a_chain_of_objects_of_any_length_has_a_hash() -> None:
    chain: list[Any] = []
    for _ in range(10_000):
        chain = [chain]
    chain[0].append(chain)
    assert code_digest(chain) == code_digest(chain)


def test_an_app_that_counts_its_calls_is_still_one_run(experiment: Maker, tmp_path: Path) -> None:
    app, calls = ClientApp(), list[int]()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        calls.append(1)
        return client_app.train(message, context)

    results = run(experiment(), (0, 1), out=tmp_path, controls=False, client_app=app)
    names = {str(own) for own in results.cells["made_with.client_app"]}
    assert len(names) == 1
    assert results.complete


def test_a_profile_times_at_least_one_round(experiment: Maker) -> None:
    with pytest.raises(RequestError, match="rounds: at least 1; got 0"):
        profile(experiment(), 0, RunOptions())


def test_a_run_of_another_kind_of_device_is_not_continued_unasked(
    experiment: Maker, tmp_path: Path
) -> None:
    results = run(experiment(rounds=1), out=tmp_path, controls=False)
    assert list(results.cells["device"]) == ["cpu"]
    folder = results.path / str(results.cells.run_id[0]) / "seed=0"
    words = f"{folder} was made on cpu, and this is meta: give --device cpu, or --mix-devices"
    with use_device(torch.device("meta")):
        with pytest.raises(RequestError, match=re.escape(words)):
            run(experiment(rounds=1), out=tmp_path, controls=False, resume=True)
        kept = run(
            experiment(rounds=1), out=tmp_path, controls=False, resume=True, mix_devices=True
        )
    assert kept.complete
    assert list(kept.cells["device"]) == ["cpu"]
    write_json(folder / "environment.json", {"device": "cpu and cuda"})
    words = "was made on cpu and cuda, and this is cpu: give --mix-devices to go on from it"
    with pytest.raises(RequestError, match=re.escape(words)):
        run(experiment(rounds=1), out=tmp_path, controls=False, resume=True)
