"""Reference models: shadow heads on a frozen backbone, replays of the run otherwise."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from fl_sim.attacks._shared.shadow_heads import Heads, HeadTraining, train_heads
from fl_sim.attacks.gradient_norm import HeadInputs
from fl_sim.audit.target_run import TargetRun, load_model, load_stored, score_records
from fl_sim.contracts.attacks import Signals, draw_paired_members
from fl_sim.core.atomic_io import read_table
from fl_sim.core.device import call_on_device
from fl_sim.core.errors import RequestError
from fl_sim.core.seeding import derive_seed, generator
from fl_sim.core.tensor_files import write_tensors
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.models.parameters import load_flat
from fl_sim.models.scoring import compute_logits
from fl_sim.results import run_folder
from fl_sim.runs.progress import Listener
from fl_sim.runs.runner import run
from fl_sim.training.faults import NO_FAULTS, Faults

Kind = Literal["none", "heads", "replays"]
DEFAULT_COUNTS: dict[int, dict[Kind, int]] = {
    1: {"heads": 16, "replays": 4},
    2: {"heads": 64, "replays": 16},
}
SIGNALS = "audit.safetensors"
REPLAYS = "replays"
MAX_SEED = 2**31


@dataclass(frozen=True)
class ReferencePlan:
    """Kind and number of an audit's reference models.

    Attributes:
        kind: `heads` are trained centrally on random halves of the pool's cached features;
            `replays` are runs of the same experiment with other seeds, which distribute and hold
            out other records.
        count: Number of models.
    """

    kind: Kind
    count: int


def plan_references(target_run: TargetRun, tier: int, count: int | None) -> ReferencePlan:
    """Return the kind and number of references for a run and a tier.

    Raises:
        RequestError: If references cannot be made.
    """
    if tier == 0:
        return ReferencePlan("none", 0)
    model = target_run.experiment.model
    kind: Kind = "heads" if model.tune == "head" else "replays"
    if kind == "replays" and "client_app" in target_run.made_with:
        raise RequestError(
            f"{target_run.folder}: a ClientApp of its own trained the clients, so the run cannot "
            "be replayed for references; --tier 0 needs none"
        )
    if kind == "replays" and model.tune != "full" and model.init == "random":
        raise RequestError(
            "a random front that is frozen differs from seed to seed, so the run cannot be "
            "replayed for references; --tier 0 needs none"
        )
    return ReferencePlan(kind, DEFAULT_COUNTS[tier][kind] if count is None else count)


def make_reference_signals(
    target_run: TargetRun, plan: ReferencePlan, listen: Listener, note: Callable[[str], None]
) -> Signals:
    """Return the margins of all records under the target, model 0, and its references.

    They are stored in `audit.safetensors`, and read back for the same audit.
    """
    path = target_run.folder / SIGNALS
    key = json.dumps([target_run.result["params_sha256"], plan.kind, plan.count])
    stored = load_stored(path, key)
    if stored is not None:
        return Signals(stored["margin"], stored["members"], stored["population"])
    target = torch.tensor(target_run.signals["member"].to_numpy(bool))
    margin, members = [target_run.margin[None]], [target[None]]
    population = [target_run.population[None]]
    if plan.kind != "none":
        note(f"{plan.count} {plan.kind}")
        make = _train_heads if plan.kind == "heads" else _run_replays
        references = make(target_run, plan.count, listen)
        margin.append(references.margin)
        members.append(references.members)
        population.append(references.population)
    signals = Signals(torch.cat(margin), torch.cat(members), torch.cat(population))
    tensors = {"margin": signals.margin, "members": signals.members}
    write_tensors(path, {**tensors, "population": signals.population}, {"key": key})
    return signals


def _train_heads(target_run: TargetRun, count: int, listen: Listener) -> Signals:
    """Return the signals of heads, trained like the federation's on random halves of the pool."""
    federation = load_federation(target_run.experiment.to_json())
    load_model(federation, target_run.folder)
    features = _compute_head_inputs(federation, federation.inputs)
    test = _compute_head_inputs(federation, federation.test_inputs)
    labels, seed = federation.pool.labels, target_run.experiment.seed
    members = draw_paired_members(count, len(labels), generator(seed, "audit", "members"))
    classes = federation.dataset.num_classes
    rounds = int(target_run.result.get("rounds", target_run.experiment.rounds))
    training = plan_head_training(target_run.experiment, int(federation.trained.sum()), rounds)
    orders, start = derive_seed(seed, "audit", "heads"), _read_first_head(federation)
    heads = call_on_device(train_heads, features, labels, members, classes, training, orders, start)
    return Signals(
        call_on_device(Heads.margins, heads, features, labels),
        members,
        call_on_device(Heads.margins, heads, test, federation.dataset.test_labels),
    )


def _read_first_head(federation: Federation) -> Heads:
    """Return the head of the first global model."""
    load_flat(federation.model, federation.start)
    (*_, layer) = (module for module in federation.model.modules() if isinstance(module, nn.Linear))
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    return Heads(weight[None].cpu(), bias[None].cpu())


def _compute_head_inputs(federation: Federation, inputs: Tensor) -> Tensor:
    collector = HeadInputs(federation.model)
    compute_logits(federation.model, inputs)
    inputs_of_head = collector.collect()
    assert inputs_of_head is not None
    return inputs_of_head.flatten(1).contiguous()


def plan_head_training(
    experiment: Experiment, num_images: int | None = None, num_rounds: int | None = None
) -> HeadTraining:
    """Return settings that train a head centrally as the federation trains it.

    A step of all clients together is a step on all their batches: the batch size is multiplied by
    their number, and the epochs of all rounds are added up. Anything that a client does beside
    plain SGD is left out; a client without SGD gets the defaults of `HeadTraining`. If rounds are
    counted in local steps, the epochs follow from `num_images`, the number of training images of
    all clients. `num_rounds` is the number of rounds of a run that was stopped before the last.
    """
    default, sgd = HeadTraining(), experiment.client.sgd_config(1)
    share = experiment.clients_per_round / experiment.num_clients
    local_epochs: float = sgd.local_epochs if sgd else 1
    if sgd and sgd.local_steps is not None and num_images:
        num_seen = sgd.local_steps * sgd.batch_size * experiment.data.num_clients
        local_epochs = num_seen / num_images
    return HeadTraining(
        learning_rate=sgd.learning_rate if sgd else default.learning_rate,
        momentum=sgd.momentum if sgd else default.momentum,
        weight_decay=sgd.weight_decay if sgd else default.weight_decay,
        batch_size=experiment.clients_per_round * (sgd.batch_size if sgd else default.batch_size),
        epochs=max(1, round((num_rounds or experiment.rounds) * local_epochs * share)),
    )


def _run_replays(target_run: TargetRun, count: int, listen: Listener) -> Signals:
    """Return the signals of replays with other seeds, each of which holds out other records."""
    margin, members, population = [], [], []
    federation = load_federation(target_run.experiment.to_json())
    injected = target_run.made_with.get("faults")
    faults = Faults.parse(injected) if injected else NO_FAULTS
    for i in range(count):
        seed = derive_seed(target_run.experiment.seed, "audit", "replay", i) % MAX_SEED
        experiment = replace(target_run.experiment, seed=seed)
        root = target_run.folder / REPLAYS
        outcome = run(
            experiment, [seed], out=root, controls=False, resume=True, listen=listen, faults=faults
        )
        if not outcome.complete:
            raise RequestError(f"a replay of the run failed; its folder is {outcome.path}")
        folder = run_folder(outcome.path, str(outcome.cells["run_id"].iloc[0]), seed)
        load_model(federation, folder)
        model, test_labels = federation.model, federation.dataset.test_labels
        margin.append(score_records(model, federation.inputs, federation.pool.labels)[0])
        population.append(score_records(model, federation.test_inputs, test_labels)[0])
        signals = read_table(folder / "signals.parquet").sort_values("sample_id")
        members.append(torch.tensor(signals["member"].to_numpy(bool)))
    return Signals(torch.stack(margin), torch.stack(members), torch.stack(population))
