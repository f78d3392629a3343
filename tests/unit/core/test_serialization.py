"""Tests of the conversion of experiments to JSON and back."""

import copy
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from hypothesis import given
from hypothesis import strategies as st

from clients.fedprox import FedProxClient
from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim.contracts import AggregationRule, Client
from fl_sim.core import serialization
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.serialization import construct, describe, find_class, label, with_value
from fl_sim.countermeasures.cut_out import CutOut
from fl_sim.data.layout import Layout
from fl_sim.experiment import Experiment, Model
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.sparsity_masking import SparsityMasking
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg
from strategies.krum import MultiKrum
from strategies.trimmed_mean import TrimmedMean

FLOWER = [getattr(flower, name) for name in flower.__all__ if name not in ("Strategy", "Result")]
PLAIN = [cls for cls in FLOWER if "DifferentialPrivacy" not in cls.__name__]
FIXED = [cls for cls in FLOWER if cls.__name__.endswith("FixedClipping")]
ADAPTIVE = [cls for cls in FLOWER if cls.__name__.endswith("AdaptiveClipping")]


def named(cls: Any, **fields: Any) -> dict[str, Any]:
    return {"class": f"{cls.__module__}.{cls.__qualname__}", **fields}


def through_json(value: Any) -> Any:
    return construct(json.loads(json.dumps(describe(value))), object)


@given(
    rate=st.floats(1e-6, 10, exclude_min=True),
    epochs=st.integers(1, 9),
    smoothing=st.floats(-0.9, 0.9),
)
def test_what_was_described_is_constructed_again(
    rate: float, epochs: int, smoothing: float
) -> None:
    inner = SgdClient(learning_rate=rate, local_epochs=epochs, label_smoothing=smoothing)
    for client in (inner, SignFlipClient(scale=rate, honest=FedProxClient(sgd=inner))):
        assert through_json(client) == client


def test_an_added_field_is_described_only_where_it_is_not_at_its_default() -> None:
    @dataclasses.dataclass(frozen=True)
    class Grown:
        old: int = 1
        new: int = serialization.omit_if_default(2)

    assert set(describe(Grown())) == {"class", "old"}
    assert describe(Grown(new=3))["new"] == 3


def test_a_description_names_the_class_and_every_field() -> None:
    assert describe(MultiKrum(num_byzantine=2)) == {
        "class": "strategies.krum.MultiKrum",
        "num_byzantine": 2,
        "num_selected": None,
    }


def test_missing_fields_take_their_defaults() -> None:
    assert construct(named(TrimmedMean), AggregationRule) == TrimmedMean()


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, lambda: 1, 1j, b"bytes"],
    ids=["object", "set", "function", "complex", "bytes"],
)
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(RequestError, match=r"cannot hold a"):
        describe(value)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "builtins.object",
        "pathlib.Path",
        "torch.nn.Linear",
        "flwr.serverapp.ServerApp",
        "flwr.serverapp.strategy.Strategy.start",
        "flwr.serverapp.strategy.strategy_utils.log",
        "flwr.serverapp.strategy.NoSuchStrategy",
        "fl_sim.config.experiment_file.read",
        "fl_sim.core.serialization.find_class",
        "fl_sim.core.cache.Path",
        "fl_sim.runs.runner.ProcessPoolExecutor",
        "fl_sim.core.serialization.importlib",
        "fl_sim.no_such_module.Thing",
        "fl_sim.contracts.Client",
        "fl_sim.protections.error_minimizing.RandomNoise",
        "strategies.krum.weighted_sum",
        "fl_sim",
        "fl_sim.",
        ".fl_sim.experiment.Model",
        "fl_sim..experiment.Model",
        "fl_simulator.experiment.Model",
        "",
        "...",
    ],
)
def test_only_parts_of_an_experiment_can_be_named(path: str) -> None:
    with pytest.raises(RequestError, match=r"not a part of an experiment|is not allowed"):
        find_class(path)
    with pytest.raises(RequestError):
        construct({"class": path}, object)


def test_naming_a_class_does_not_start_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fl-sim", "--help"])
    monkeypatch.delitem(sys.modules, "fl_sim.__main__", raising=False)
    with pytest.raises(RequestError, match=r"not a part of an experiment"):
        find_class("fl_sim.__main__.main")


@pytest.mark.parametrize("content", [{}, {"class": 3}, {"class": None}, {"fraction": 0.5}])
def test_a_description_without_a_class_is_refused(content: Any) -> None:
    with pytest.raises(RequestError, match=r"the name of its class"):
        construct(content, Layout)


@pytest.mark.parametrize("content", [None, 3, "FedAvg", [], [named(FedAvg)]])
def test_what_is_no_description_is_refused(content: Any) -> None:
    with pytest.raises(RequestError, match=r"expected a AggregationRule"):
        construct(content, AggregationRule)


def test_a_part_of_another_kind_is_refused() -> None:
    with pytest.raises(RequestError, match=r"expected a Client, got FedAvg"):
        construct(named(FedAvg), Client)
    with pytest.raises(RequestError, match=r"honest"):
        construct(named(SignFlipClient, honest=named(FedAvg)), Client)


def test_an_unknown_field_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        FieldError, match=r"num_trimed: TrimmedMean has num_byzantine; no field 'num_trimed'"
    ):
        construct(named(TrimmedMean, num_trimed=2), AggregationRule)
    with pytest.raises(FieldError, match=r"wrong: FedMedian has fraction_train"):
        construct({"class": "flwr.serverapp.strategy.FedMedian", "wrong": 1}, Strategy)


def test_a_missing_argument_is_a_request_that_is_wrong() -> None:
    with pytest.raises(RequestError, match=r"QFedAvg"):
        construct({"class": "flwr.serverapp.strategy.QFedAvg"}, Strategy)


WRONG_TYPES: list[tuple[type, str, Any]] = [
    (Layout, "fraction", "half"),
    (Layout, "fraction", True),
    (Layout, "fraction", None),
    (Layout, "fraction", []),
    (Layout, "unit", "images"),
    (Layout, "withheld", 1),
    (TrimmedMean, "num_byzantine", 1.5),
    (TrimmedMean, "num_byzantine", True),
    (MultiKrum, "num_selected", "all"),
    (Model, "pixels", 64.5),
    (Model, "tune", None),
    (ErrorMinimizing, "form", "classes"),
]


@pytest.mark.parametrize(("cls", "name", "value"), WRONG_TYPES)
def test_a_value_of_a_wrong_type_is_refused_by_name(cls: type, name: str, value: Any) -> None:
    # jaxtyping, where it is on, is quicker than our own check, which is a FieldError.
    with pytest.raises(RequestError, match=name):
        construct(named(cls, **{name: value}), object)


@pytest.mark.parametrize(("cls", "name", "value"), WRONG_TYPES)
def test_the_error_says_the_field_what_is_allowed_and_what_came(
    cls: type, name: str, value: Any
) -> None:
    wrong: Any = cls()
    object.__setattr__(wrong, name, value)  # past the constructor
    with pytest.raises(FieldError) as caught:
        serialization.check_types(wrong)
    assert caught.value.field == name
    assert caught.value.got == value
    assert str(caught.value) == f"{name}: {caught.value.allowed}; got {value!r}"
    assert caught.value.allowed.startswith("expected ")


def test_allowed_words_are_listed() -> None:
    wrong = Layout()
    object.__setattr__(wrong, "unit", "images")
    with pytest.raises(FieldError, match=r"expected one of 'samples', 'clients', 'classes'; got"):
        serialization.check_types(wrong)


def test_a_wrong_type_deep_inside_is_named_with_its_path() -> None:
    wrong, honest = SignFlipClient(), SgdClient()
    object.__setattr__(honest, "batch_size", 0.5)
    object.__setattr__(wrong, "honest", honest)
    with pytest.raises(FieldError, match=r"^honest.batch_size: expected int; got 0.5$"):
        serialization.check_types(wrong)


def test_fields_are_checked_again_only_if_their_values_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked = []
    original = serialization._check_field

    def count(name: str, value: Any, hint: Any) -> None:
        checked.append(name)
        original(name, value, hint)

    @dataclasses.dataclass(frozen=True)
    class Holder:
        part: object

        def __post_init__(self) -> None:
            serialization.check_types(self)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Slotted:
        number: int = 0

    monkeypatch.setattr(serialization, "_check_field", count)
    outer = Holder(Holder(Holder(Slotted())))
    assert checked.count("part") == 3
    assert vars(outer) == {"part": outer.part}
    inner: Any = outer.part
    object.__setattr__(inner.part.part, "number", 0.5)
    with pytest.raises(FieldError, match=r"^part.part.part.number: expected int; got 0.5$"):
        dataclasses.replace(outer)


def test_a_value_that_is_set_after_the_check_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Late(SgdClient):  # type: ignore[misc]  # final
        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "batch_size", 0.5)

    with pytest.raises(FieldError, match=r"^honest.batch_size: expected int; got 0.5$"):
        SignFlipClient(honest=Late())
    copied = copy.copy(SgdClient())
    object.__setattr__(copied, "batch_size", 0.5)
    with pytest.raises(FieldError, match=r"^honest.batch_size: expected int; got 0.5$"):
        SignFlipClient(honest=copied)


def test_a_nested_field_is_changed_in_a_copy() -> None:
    before = SignFlipClient(honest=FedProxClient(mu=0.5))
    after = with_value(before, "honest.sgd.learning_rate", 0.25)
    expected = FedProxClient(mu=0.5, sgd=SgdClient(learning_rate=0.25))
    assert after == SignFlipClient(honest=expected)
    assert before == SignFlipClient(honest=FedProxClient(mu=0.5))


def test_a_whole_part_is_changed() -> None:
    assert with_value(SignFlipClient(), "honest", FedProxClient()).honest == FedProxClient()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("honest.sgd.rate", r"^honest.sgd.rate: SgdClient has learning_rate, .*; no field 'rate'"),
        (
            "honst",
            r"^honst: SignFlipClient has scale, honest; no field 'honst'; did you mean 'honest'\?",
        ),
        ("scale.size", r"^scale.size: 1.0 has no fields; no field 'size'"),
        ("honest.sgd.momentum", r"^honest.sgd.momentum: in \[0, 1\); got 1.5"),
        ("honest.mu", r"^honest.mu: at least 0; got -1.5"),
        ("", r"SignFlipClient has scale, honest"),
        ("honest.", r"FedProxClient|SgdClient|honest"),
    ],
)
def test_a_wrong_path_or_value_is_named_in_full(path: str, message: str) -> None:
    value = -1.5 if path.endswith("mu") else 1.5
    with pytest.raises(RequestError, match=message):
        with_value(SignFlipClient(honest=FedProxClient()), path, value)


def test_a_part_that_is_missing_or_needs_more_is_told(
    experiment: Callable[..., Experiment],
) -> None:
    with pytest.raises(RequestError, match=r"adversary\.client: None \(set the whole part first\)"):
        with_value(experiment(), "adversary.client", "SignFlipClient")
    with pytest.raises(RequestError, match=r"client is missing; write Adversary\(client=\.\.\.\)"):
        with_value(experiment(), "adversary", "Adversary")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (FedAvg(), "FedAvg"),
        (TrimmedMean(num_byzantine=2), "TrimmedMean(num_byzantine=2)"),
        (ErrorMinimizing(radius=16 / 255), "ErrorMinimizing(radius=16/255)"),
        (FedProxClient(sgd=SgdClient(momentum=0.5)), "FedProxClient(sgd=SgdClient(momentum=0.5))"),
        (ErrorMinimizing(step_size=3.2 / 255), "ErrorMinimizing(step_size=0.01255)"),
        (SparsityMasking(share=1.0), "SparsityMasking(share=1.0)"),
        (StableErrorMinimizing(random_radius=0.0), "StableErrorMinimizing(random_radius=0.0)"),
        (0.5, 0.5),
        ("clients", "clients"),
        (None, None),
    ],
    ids=repr,
)
def test_a_label_names_what_is_not_default(value: Any, words: Any) -> None:
    assert label(value) == words


def test_a_label_of_flowers_strategies_is_their_class() -> None:
    assert label(flower.FedMedian()) == "FedMedian"


def arguments_of(cls: type) -> dict[str, Any]:
    """Return values other than the defaults for the numbers that a strategy takes."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        if isinstance(default, float):
            # Cyclic boosting takes whole shares only.
            arguments[name] = 0.0 if cls is flower.FedXgbCyclic else 0.375
        elif isinstance(default, int):
            arguments[name] = default + 2
    if "client_learning_rate" in inspect.signature(cls).parameters:
        arguments["client_learning_rate"] = 0.25
    return arguments


@pytest.mark.parametrize("cls", PLAIN, ids=lambda cls: cls.__name__)
def test_flowers_strategies_are_described_and_constructed_again(cls: type) -> None:
    arguments = arguments_of(cls)
    text = describe(cls(**arguments))
    assert {name: text[name] for name in arguments} == arguments
    again = construct(json.loads(json.dumps(text)), Strategy)
    assert type(again) is cls
    assert describe(again) == text


def test_no_strategy_of_flower_is_forgotten() -> None:
    assert len(FLOWER) == len(PLAIN) + len(FIXED) + len(ADAPTIVE)
    assert len(FIXED) == len(ADAPTIVE) == 2


@pytest.mark.parametrize("cls", FIXED, ids=lambda cls: cls.__name__)
def test_flowers_privacy_wrappers_are_described_with_what_they_wrap(cls: Any) -> None:
    needed = {"noise_multiplier": 0.5, "num_sampled_clients": 40, "clipping_norm": 2.0}
    text = describe(cls(flower.FedAvgM(server_momentum=0.9), **needed))
    assert {name: text[name] for name in needed} == needed
    assert text["strategy"]["class"] == "flwr.serverapp.strategy.FedAvgM"
    assert text["strategy"]["server_momentum"] == 0.9
    again = construct(json.loads(json.dumps(text)), Strategy)
    assert type(again) is cls
    assert describe(again) == text


@pytest.mark.parametrize("cls", ADAPTIVE, ids=lambda cls: cls.__name__)
def test_a_strategy_that_forgets_its_arguments_is_refused(cls: Any) -> None:
    """Flower's adaptive clipping stores values computed from its arguments instead of them."""
    adaptive = cls(flower.FedAvg(), noise_multiplier=0.5, num_sampled_clients=40)
    with pytest.raises(RequestError, match=rf"strategy: {cls.__name__} does not keep its"):
        describe(adaptive)


def test_what_flower_itself_refuses_is_a_request_that_is_wrong() -> None:
    with pytest.raises(RequestError, match=r"beta"):
        construct({"class": "flwr.serverapp.strategy.FedTrimmedAvg", "beta": 0.5}, Strategy)


def test_a_field_of_flowers_strategies_can_be_changed() -> None:
    before = flower.FedAvgM(server_momentum=0.9)
    after = with_value(before, "server_learning_rate", 0.5)
    assert (after.server_learning_rate, after.server_momentum) == (0.5, 0.9)
    assert before.server_learning_rate == 1.0


def test_every_field_of_every_described_class_is_in_its_description() -> None:
    for value in (SgdClient(), ErrorMinimizing(), Model(), Layout()):
        fields = dataclasses.fields(value)
        names = {f.name for f in fields if not f.metadata.get("omit_default")}
        assert set(describe(value)) == {"class", *names}


def test_one_value_stands_for_itself_where_several_are_meant() -> None:
    client = with_value(SgdClient(), "countermeasures", CutOut())
    assert client == SgdClient(countermeasures=(CutOut(),))
    assert with_value(client, "countermeasures", None) == SgdClient()
    assert label(client.countermeasures) == "CutOut"
    assert label(()) == "none"
