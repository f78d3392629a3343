"""Reference models: shadow heads where the backbone is frozen, replays of the run elsewhere."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from fl_sim.atomic_io import read_table
from fl_sim.attacks.gradient_norm import HeadInputs
from fl_sim.attacks.shadow_heads import Heads, HeadTraining, train_heads
from fl_sim.attacks.signals import Signals, paired_members
from fl_sim.audit.subject import Subject, load_model, scored, stored
from fl_sim.engine.faults import NO_FAULTS, Faults
from fl_sim.engine.federation import Federation, federation
from fl_sim.engine.progress import Listener
from fl_sim.engine.scores import logits
from fl_sim.errors import RequestError
from fl_sim.experiment import Experiment
from fl_sim.models.parameters import load_flat
from fl_sim.results import run_folder
from fl_sim.runner import run
from fl_sim.seeding import generator, seed_for
from fl_sim.tensor_files import write_tensors

Kind = Literal["none", "heads", "replays"]
USUAL: dict[int, dict[Kind, int]] = {
    1: {"heads": 16, "replays": 4},
    2: {"heads": 64, "replays": 16},
}
SIGNALS = "audit.safetensors"
REPLAYS = "replays"
MAX_SEED = 2**31


@dataclass(frozen=True)
class Plan:
    """Which reference models an audit wants.

    Attributes:
        kind: `heads` are trained centrally on random halves of the pool's cached features;
            `replays` are runs of the same experiment from other seeds, which share out and hold
            out the records anew.
        count: how many.
    """

    kind: Kind
    count: int


def plan(subject: Subject, tier: int, count: int | None) -> Plan:
    """Return the references that suit a run and a tier.

    Raises:
        RequestError: where references cannot be made.
    """
    if tier == 0:
        return Plan("none", 0)
    model = subject.experiment.model
    kind: Kind = "heads" if model.tune == "head" else "replays"
    if kind == "replays" and "client_app" in subject.made_with:
        raise RequestError(
            f"{subject.folder}: a ClientApp of its own trained the clients, so the run cannot be "
            "replayed for references; --tier 0 needs none"
        )
    if kind == "replays" and model.tune != "full" and model.init == "random":
        raise RequestError(
            "a random front that is frozen differs from seed to seed, so the run cannot be "
            "replayed for references; --tier 0 needs none"
        )
    return Plan(kind, USUAL[tier][kind] if count is None else count)


def reference_signals(
    subject: Subject, wanted: Plan, listen: Listener, note: Callable[[str], None]
) -> Signals:
    """Return the margins of all records under the target, model 0, and its references.

    Kept in `audit.safetensors`; read back where the same audit was made before.
    """
    path = subject.folder / SIGNALS
    key = json.dumps([subject.result["params_sha256"], wanted.kind, wanted.count])
    kept = stored(path, key)
    if kept is not None:
        return Signals(kept["margin"], kept["members"], kept["population"])
    target = torch.tensor(subject.signals["member"].to_numpy(bool))
    margin, members, population = [subject.margin[None]], [target[None]], [subject.population[None]]
    if wanted.kind != "none":
        note(f"{wanted.count} {wanted.kind}")
        make = _heads if wanted.kind == "heads" else _replays
        found = make(subject, wanted.count, listen)
        margin.append(found.margin)
        members.append(found.members)
        population.append(found.population)
    signals = Signals(torch.cat(margin), torch.cat(members), torch.cat(population))
    tensors = {"margin": signals.margin, "members": signals.members}
    write_tensors(path, {**tensors, "population": signals.population}, {"key": key})
    return signals


def _heads(subject: Subject, count: int, listen: Listener) -> Signals:
    """Train heads on random halves of the pool, each as hard as the federation trained its own."""
    ours = federation(subject.experiment.to_json())
    load_model(ours, subject.folder)
    features, test = _head_inputs(ours, ours.inputs), _head_inputs(ours, ours.test_inputs)
    labels, seed = ours.pool.labels, subject.experiment.seed
    members = paired_members(count, len(labels), generator(seed, "audit", "members"))
    classes = ours.dataset.num_classes
    how = head_training(subject.experiment, int(ours.trained.sum()))
    orders = seed_for(seed, "audit", "heads")
    heads = train_heads(features, labels, members, classes, how, orders, _first_head(ours))
    return Signals(
        heads.margins(features, labels), members, heads.margins(test, ours.dataset.test_labels)
    )


def _first_head(ours: Federation) -> Heads:
    """Return the head of the first round, which every client was sent."""
    load_flat(ours.model, ours.start)
    (*_, layer) = (module for module in ours.model.modules() if isinstance(module, nn.Linear))
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    return Heads(weight[None], bias[None])


def _head_inputs(ours: Federation, inputs: Tensor) -> Tensor:
    collector = HeadInputs(ours.model)
    logits(ours.model, inputs)
    taken = collector.taken()
    assert taken is not None
    return taken.flatten(1).contiguous()


def head_training(experiment: Experiment, num_images: int | None = None) -> HeadTraining:
    """Return how a head is trained centrally as the federation trains it.

    A step of all clients at once is a step on all their batches: their number times the batch
    size, for as many epochs as all rounds together. What a client does beside plain descent is
    left out; one that is none at all is taken for `HeadTraining`'s defaults. Where rounds are
    counted in local steps, epochs follow from `num_images`, which all clients train on.
    """
    usual, settings = HeadTraining(), experiment.client.descent(1)
    share = experiment.clients_per_round / experiment.num_clients
    local_epochs: float = settings.local_epochs if settings else 1
    if settings and settings.local_steps is not None and num_images:
        seen = settings.local_steps * settings.batch_size * experiment.data.num_clients
        local_epochs = seen / num_images
    return HeadTraining(
        learning_rate=settings.learning_rate if settings else usual.learning_rate,
        momentum=settings.momentum if settings else usual.momentum,
        weight_decay=settings.weight_decay if settings else usual.weight_decay,
        batch_size=experiment.clients_per_round
        * (settings.batch_size if settings else usual.batch_size),
        epochs=max(1, round(experiment.rounds * local_epochs * share)),
    )


def _replays(subject: Subject, count: int, listen: Listener) -> Signals:
    """Run the experiment from other seeds; each of the records is held out by about as many."""
    margin, members, population = [], [], []
    ours = federation(subject.experiment.to_json())
    struck = subject.made_with.get("faults")
    faults = Faults.read(struck) if struck else NO_FAULTS
    for i in range(count):
        seed = seed_for(subject.experiment.seed, "audit", "replay", i) % MAX_SEED
        own = replace(subject.experiment, seed=seed)
        root = subject.folder / REPLAYS
        outcome = run(
            own, [seed], out=root, controls=False, resume=True, listen=listen, faults=faults
        )
        if not outcome.complete:
            raise RequestError(f"a replay of the run failed; its folder is {outcome.path}")
        folder = run_folder(outcome.path, str(outcome.cells["run_id"].iloc[0]), seed)
        load_model(ours, folder)
        margin.append(scored(ours.model, ours.inputs, ours.pool.labels)[0])
        population.append(scored(ours.model, ours.test_inputs, ours.dataset.test_labels)[0])
        held = read_table(folder / "signals.parquet").sort_values("sample_id")
        members.append(torch.tensor(held["member"].to_numpy(bool)))
    return Signals(torch.stack(margin), torch.stack(members), torch.stack(population))
