"""Tests of experiment files, and of the values of `--set`."""

from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp import strategy as flower
from hypothesis import given
from hypothesis import strategies as st

from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim.config.experiment_file import parse_value, read
from fl_sim.config.sweeps import plan_cells, refuse_overwrites
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.serialization import label
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavgm import FedAvgM
from strategies.krum import Krum

FILE = '''
"""A question?"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="small",
    data=Data(dataset="digits", num_clients=4),
    protection=RandomNoise(),
    layout=Layout(fraction=0.5),
    client=SgdClient(),
    strategy=FedAvg(),
)
'''


def written(folder: Path, text: str = FILE, name: str = "small.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("16/255", 16 / 255),
        ("8/255", 8 / 255),
        ("1/3", 1 / 3),
        ("true", True),
        ("False", False),
        ("none", None),
        ("None", None),
        ("clients", "clients"),
        ("efficientnet_lite0", "efficientnet_lite0"),
        ("1/0", "1/0"),
        ("", ""),
        ("/data/here", "/data/here"),
        ("Krum", Krum()),
        ("FedAvgM", FedAvgM()),
        ("SignFlipClient", SignFlipClient()),
        ("ErrorMinimizing", ErrorMinimizing()),
        ("Iid", Iid()),
        ("strategies.krum.Krum", Krum()),
        ("fl_sim.data.partition.Iid", Iid()),
    ],
)
def test_a_text_means_what_a_reader_expects(text: str, value: Any) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@given(st.integers(0, 255), st.integers(1, 255))
def test_a_fraction_is_the_nearest_float(numerator: int, denominator: int) -> None:
    assert parse_value(f"{numerator}/{denominator}") == numerator / denominator


@given(st.integers(-(10**6), 10**6))
def test_whole_numbers_stay_whole(number: int) -> None:
    assert parse_value(str(number)) == number
    assert type(parse_value(str(number))) is int


def test_flowers_strategies_are_named_by_their_path() -> None:
    assert type(parse_value("flwr.serverapp.strategy.FedMedian")) is flower.FedMedian


@pytest.mark.parametrize(
    "text",
    ["fl_sim.config.experiment_file.read", "strategies.none.Such", "flwr.serverapp.ServerApp"],
)
def test_a_path_to_something_else_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"not a part of an experiment"):
        parse_value(text)


def test_a_class_that_needs_arguments_is_refused_as_a_request() -> None:
    with pytest.raises(RequestError, match=r"QFedAvg"):
        parse_value("flwr.serverapp.strategy.QFedAvg")


def test_a_file_is_read_without_overrides(tmp_path: Path) -> None:
    content = read(written(tmp_path))
    assert content.experiment.name == "small"
    assert (dict(content.axes), content.seeds) == ({}, (0,))


@pytest.mark.parametrize(
    ("axes", "field", "path"),
    [
        ('{"client": [SgdClient()]}', "client.momentum", "client"),
        ('{"how": {"fast": {"client": SgdClient()}, "as it is": {}}}', "client.momentum", "client"),
        ('{"how": {"fast": {"client.momentum": 0.5}}}', "client.momentum", "client.momentum"),
    ],
)
def test_an_override_that_an_axis_would_undo_is_refused(
    tmp_path: Path, axes: str, field: str, path: str
) -> None:
    file = written(tmp_path, f"{FILE}AXES = {axes}\n")
    content = read(file, [f"{field}=0.1"])
    with pytest.raises(RequestError, match=rf"sets {path}, and would undo {field} of --set"):
        refuse_overwrites(content.axes, {field: "--set"})


def test_an_override_of_what_an_axis_starts_from_is_kept(tmp_path: Path) -> None:
    file = written(tmp_path, f'{FILE}AXES = {{"client.momentum": [0.1, 0.2]}}\n')
    overrides = ["client=SgdClient", "client.learning_rate=0.5"]
    content = read(file, overrides)
    refuse_overwrites(content.axes, {own.partition("=")[0]: "--set" for own in overrides})
    assert content.experiment.client.learning_rate == 0.5
    assert list(content.axes) == ["client.momentum"]


def test_overrides_change_fields_one_after_another(tmp_path: Path) -> None:
    overrides = [
        "protection.radius=16/255",
        "layout.fraction=0.25",
        "strategy=Krum",
        "strategy.num_byzantine=0",
        "data.num_samples=none",
        "layout.unit=clients",
        "client.learning_rate=1e-2",
    ]
    experiment = read(written(tmp_path), overrides).experiment
    assert experiment.protection is not None
    assert experiment.protection.radius == 16 / 255
    assert (experiment.layout.fraction, experiment.layout.unit) == (0.25, "clients")
    assert experiment.strategy == Krum(num_byzantine=0)
    assert experiment.data.num_samples is None
    assert experiment.client == SgdClient(learning_rate=0.01)


def test_a_value_may_contain_an_equals_sign(tmp_path: Path) -> None:
    experiment = read(written(tmp_path), ["data.path=/tmp/a=b"]).experiment
    assert experiment.data.path == "/tmp/a=b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("layout.fraction", "--set takes field=value"),
        ("layout.fractoin=0.5", "layout.fractoin: Layout has fraction"),
        ("layout.fraction=1.5", "layout.fraction: between 0 and 1; got 1.5"),
        ("protection.radius=16.0", "protection.radius: .*such as 16/255; got 16.0"),
        ("nothing.at.all=1", "nothing: Experiment has name"),
        ("=1", "Experiment has name"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(written(tmp_path), [override])


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("data.num_clients=many", "num_clients"),
        ("strategy=SgdClient", "strategy"),
        ("strategy=NoSuchRule", "strategy"),
        ("layout.unit=images", "unit"),
        ("data.num_clients=2.5", "num_clients"),
        ("client=none", "client"),
    ],
)
def test_an_override_of_a_wrong_type_is_refused_by_name(
    tmp_path: Path, override: str, field: str
) -> None:
    # jaxtyping, where it is on, is quicker than our own check, which is a FieldError.
    with pytest.raises(RequestError, match=field):
        read(written(tmp_path), [override])


def test_an_overridden_axis_is_no_longer_swept(tmp_path: Path) -> None:
    axes = 'AXES = {"layout.fraction": [0.0, 1.0], "rounds": [1, 2]}\nSEEDS = (3, 4)\n'
    content = read(written(tmp_path, FILE + axes), ["layout.fraction=0.75"])
    assert dict(content.axes) == {"rounds": [1, 2]}
    assert content.seeds == (3, 4)
    assert content.experiment.layout.fraction == 0.75


def test_json_is_an_experiment_file(tmp_path: Path) -> None:
    experiment = read(written(tmp_path), ["seed=5"]).experiment
    path = written(tmp_path, experiment.to_json(), "experiment.json")
    content = read(path, ["rounds=3"])
    assert content.experiment == experiment.with_value("rounds", 3)
    assert content.seeds == (5,)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.py", "", "names no EXPERIMENT"),
        ("other.py", "EXPERIMENT = 3", "names no EXPERIMENT"),
        ("broken.py", "EXPERIMENT = (", "broken.py:1: "),
        ("axes.py", FILE + "AXES = [1]", "AXES maps field paths"),
        ("torn.json", '{"class": ', "is not JSON"),
        ("list.json", "[]", "expected a Experiment"),
        ("notes.txt", "hello", "no Python file, nor JSON"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        read(written(tmp_path, text, name))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no experiment file .*nowhere.py"):
        read(tmp_path / "nowhere.py")


def test_reading_a_file_leaves_the_search_path_alone(tmp_path: Path) -> None:
    import sys

    before = list(sys.path)
    read(written(tmp_path))
    with pytest.raises(RequestError):
        read(written(tmp_path, "(", "broken.py"))
    assert sys.path == before


@pytest.mark.parametrize("step", [1, -1])
def test_the_order_of_overrides_does_not_matter(tmp_path: Path, step: int) -> None:
    path = written(tmp_path)
    embeddings = ["model.tune=zero_shot", "model.class_embeddings=f.npy"]
    model = read(path, embeddings[::step]).experiment.model
    assert (model.tune, model.class_embeddings) == ("zero_shot", "f.npy")
    planted = ["model.init=planted", "model.planted=PlantedBackdoor", "model.planted.epochs=2"]
    model = read(path, planted[::step]).experiment.model
    assert (model.init, label(model.planted)) == ("planted", "PlantedBackdoor(epochs=2)")
    with pytest.raises(FieldError, match=r"^model.class_embeddings: the path of a file"):
        read(path, ["model.tune=zero_shot", "rounds=2"][::step])
    with pytest.raises(FieldError, match=r"^model.depth: Model has"):
        read(path, ["model.tune=zero_shot", "model.depth=2"][::step])
    axes = {"head": {"zero": {"model.tune": "zero_shot", "model.class_embeddings": "f.npy"}}}
    assert len(plan_cells(read(path).experiment, axes, None).cells) == 1


def test_the_small_size_lowers_steps_wherever_noise_is_named(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(
        "from clients.sgd import SgdClient\n"
        "from fl_sim import Data, Experiment\n"
        "from fl_sim.data.layout import Protects\n"
        "from fl_sim.protections.error_minimizing import ErrorMinimizing\n"
        "from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing as Rem\n"
        "from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing as Sem\n"
        "from strategies.fedavg import FedAvg\n"
        "EXPERIMENT = Experiment(name='small', data=Data('digits'), protection=Sem(transforms=1),\n"
        "    layout=(Protects((0,)), Protects((1,), protection=Rem())),\n"
        "    client=SgdClient(), strategy=FedAvg())\n"
        "AXES = {'protection': [Rem(), ErrorMinimizing()], 'how': {'SEM': {'protection': Sem()}}}\n"
    )
    content = read(path, ["protection.noise_steps=7"], small=True)
    sem: Any = content.experiment.protection
    steps = (sem.surrogate_steps, sem.noise_steps, sem.transforms, sem.adversary_steps)
    assert steps == (500, 7, 1, 5)  # as overridden, and no more than they were
    rem: Any = content.experiment.named_clauses[1].protection
    assert (rem.surrogate_steps, rem.transforms) == (500, 3)
    axes: Any = content.axes
    assert [p.max_passes if hasattr(p, "max_passes") else p for p in axes["protection"]] == [
        rem,
        60,
    ]
    assert axes["how"]["SEM"]["protection"].surrogate_steps == 500
