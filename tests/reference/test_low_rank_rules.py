"""Aggregation of low-rank changes against its definition: the mean of the clients' weights."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clients.sgd import SgdClient
from fl_sim import Data, Evaluation, Experiment, Model, Participation, run
from fl_sim.backends.base import InProcessBackend
from fl_sim.config.validation import check
from fl_sim.core.errors import FieldError
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.models.low_rank import find_low_rank
from fl_sim.models.parameters import ModelTensors
from fl_sim.rounds.loop import run_rounds
from fl_sim.rounds.state import RoundOutcome
from fl_sim.runs.single_run import make_initial_state
from fl_sim.training.client_trainer import make_trainer
from strategies.fedavg import FedAvg
from strategies.fedex_lora import FedExLoRA
from strategies.flora import FLoRA
from strategies.server_momentum import ServerMomentum

Maker = Callable[..., Experiment]
LORA = Model("mlp", tune="lora", rank=2, alpha=6.0)
# Long steps, so that the factors move far enough for their means to be off.
FAST: dict[str, Any] = {"model": LORA, "client": SgdClient(learning_rate=0.1, local_epochs=3)}
CONVOLUTIONS = Model("small_cnn", tune="lora", rank=2)


def outcomes(experiment: Experiment) -> tuple[Federation, list[RoundOutcome]]:
    """Return the outcomes of all rounds, with the state that each of them ended with."""
    federation = load_federation(experiment.to_json())
    state = make_initial_state(federation)
    rounds = []
    for outcome in run_rounds(federation, state, InProcessBackend(make_trainer(federation))):
        outcome.state = type(state)(**vars(state))
        rounds.append(outcome)
    return federation, rounds


def weights_of(
    federation: Federation, parameters: Tensor, buffers: dict[str, Tensor]
) -> list[Tensor]:
    """Return the weights of all adapted layers, in float64, with their low-rank changes."""
    model = federation.model
    ModelTensors(model).load(parameters, buffers)
    return [
        layer.base_weight.detach().double()
        + (layer.scaling * layer.up.double() @ layer.down.double())
        .view_as(layer.base_weight)
        .detach()
        for layer in find_low_rank(model).values()
    ]


def mean_of_clients(federation: Federation, outcome: RoundOutcome, by_size: bool) -> list[Tensor]:
    """Return the mean of the weights that the clients ended with."""
    deltas, sizes = outcome.round_updates.deltas, outcome.round_updates.weights
    assert deltas is not None
    shares = sizes / sizes.sum() if by_size else torch.full_like(sizes, 1 / len(sizes))
    totals: list[Any] = [0.0] * len(find_low_rank(federation.model))
    for share, delta in zip(shares.tolist(), deltas, strict=True):
        config = outcome.config
        weights = weights_of(federation, config.parameters + delta, config.buffers)
        totals = [total + share * weight for total, weight in zip(totals, weights, strict=True)]
    return totals


@pytest.mark.parametrize("model", [LORA, CONVOLUTIONS], ids=lambda model: model.backbone)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("cls", [FedExLoRA, FLoRA])
def test_the_global_weights_are_the_mean_of_the_clients_weights(
    experiment: Maker, cls: Any, weighted: bool, model: Model
) -> None:
    wanted = experiment(**FAST | {"model": model}, strategy=cls(weighted=weighted))
    federation, rounds = outcomes(wanted)
    for outcome in rounds:
        mean = mean_of_clients(federation, outcome, weighted)
        found = weights_of(federation, outcome.state.parameters, outcome.state.buffers)
        for own, other in zip(found, mean, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-6)


def test_means_of_the_factors_alone_are_off(experiment: Maker) -> None:
    federation, (outcome,) = outcomes(experiment(**FAST, strategy=FedExLoRA(), rounds=1))
    mean = mean_of_clients(federation, outcome, by_size=True)
    plain = weights_of(federation, outcome.state.parameters, outcome.config.buffers)
    assert max(float((a - b).abs().max()) for a, b in zip(plain, mean, strict=True)) > 1e-4


def test_fedex_goes_on_from_the_mean_factors_and_flora_from_new_ones(experiment: Maker) -> None:
    plain, fedex, flora = (
        outcomes(experiment(model=LORA, strategy=rule, rounds=1))
        for rule in (FedAvg(), FedExLoRA(), FLoRA())
    )
    end = plain[1][0].state.parameters
    torch.testing.assert_close(fedex[1][0].state.parameters, end)
    (layer,) = find_low_rank(flora[0].model).values()
    ModelTensors(flora[0].model).load(flora[0].start, flora[0].start_buffers)
    before = layer.down.detach().clone()
    state = flora[1][0].state
    ModelTensors(flora[0].model).load(state.parameters, state.buffers)
    assert not layer.up.any()
    bound = layer.down[0].numel() ** -0.5
    assert 0.8 * bound < float(layer.down.detach().abs().max()) <= bound * (1 + 1e-5)
    assert not torch.allclose(layer.down, before, atol=bound / 10)
    head = layer.down.numel() + layer.up.numel()
    torch.testing.assert_close(state.parameters[head:], end[head:])


def test_products_with_a_frozen_factor_have_an_exact_mean(experiment: Maker) -> None:
    """FFA-LoRA: mean(B) A is mean(B A), so that a plain mean is exact, at half of the bytes."""
    both, up = (Model("mlp", tune="lora", lora_train=train) for train in ("both", "up"))
    federation, (outcome,) = outcomes(experiment(model=up, rounds=1, evaluation=ALL))
    mean = mean_of_clients(federation, outcome, by_size=True)
    state = outcome.state
    for own, other in zip(weights_of(federation, state.parameters, {}), mean, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)
    assert len(state.parameters) < len(load_federation(experiment(model=both).to_json()).start)


ALL = Evaluation(contributions="leave_one_out")  # keeps the updates of a linear rule apart


def test_frozen_weights_go_down_and_not_up(experiment: Maker) -> None:
    for model in (LORA, CONVOLUTIONS):
        federation, (outcome,) = outcomes(experiment(model=model, strategy=FedExLoRA(), rounds=1))
        bytes_of = {r.metric: r.value for r in outcome.rows if r.metric.startswith("bytes")}
        base = sum(layer.base_weight.nbytes for layer in find_low_rank(federation.model).values())
        assert bytes_of["bytes_down"] - bytes_of["bytes_up"] == 4 * base
        assert set(outcome.round_updates.updates[0].buffers) == {
            name for name in outcome.state.buffers if not name.endswith("weight")
        }
    plain = outcomes(experiment(model=LORA, strategy=FedAvg(), rounds=1))[1][0]
    assert plain.state.buffers == {}


@pytest.mark.parametrize("rule", [FedExLoRA(), FLoRA()], ids=["fedex", "flora"])
def test_the_bits_of_a_flower_grid_are_those_of_the_local_engine(
    experiment: Maker, tmp_path: Path, rule: Any
) -> None:
    from fl_sim.flower import client_app

    wanted = experiment(model=CONVOLUTIONS, strategy=rule)
    local, grid = (
        run(wanted, out=tmp_path / name, controls=False, **options).cells.params_sha256[0]
        for name, options in (("local", {}), ("grid", {"client_app": client_app.app}))
    )
    assert local == grid


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing to add to": ({"model": Model("mlp")}, "model.tune: 'lora'"),
    "a frozen factor": (
        {"model": Model("mlp", tune="lora", lora_train="up")},
        "model.tune: 'lora', with model.lora_train='both'",
    ),
    "a wrapper": (
        {"model": LORA, "strategy": ServerMomentum(rule=FedExLoRA())},
        "strategy.rule: one that does not change frozen weights",
    ),
    "contributions": ({"model": LORA, "evaluation": ALL}, "evaluation.contributions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_do_is_refused(experiment: Maker, name: str) -> None:
    fields, message = REFUSED[name]
    with pytest.raises(FieldError, match=message):
        check(experiment(**({"strategy": FLoRA()} | fields)))


def test_few_of_many_clients_start_from_the_present_frozen_weights(experiment: Maker) -> None:
    data = Data(dataset="digits", num_clients=8, num_samples=200, num_test=60)
    wanted = experiment(
        model=LORA, strategy=FLoRA(), data=data, participation=Participation(2), rounds=3
    )
    federation, rounds = outcomes(wanted)
    for before, after in pairwise(rounds):
        assert all(
            torch.equal(after.config.buffers[name], value)
            for name, value in before.state.buffers.items()
        )
        assert any(
            not torch.equal(federation.start_buffers[name], value)
            for name, value in before.state.buffers.items()
        )
