"""Measurement of a round: its record, and the rows that the metrics compute from it."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.backends.base import Backend
from fl_sim.contracts import Metric, RoundRecord, Row, Triggered
from fl_sim.contracts.validity import mark_undefined
from fl_sim.core.plugins import discover
from fl_sim.core.user_modules import cache_by_modules
from fl_sim.experiment import CLOSED_FORM
from fl_sim.federation.federation import Federation, build_start
from fl_sim.metrics.accuracy import class_accuracies
from fl_sim.metrics.backdoor import rate_row
from fl_sim.models.closed_form import count_start_traffic, count_traffic
from fl_sim.models.parameters import select_statistics
from fl_sim.models.scoring import compute_logits
from fl_sim.rounds.callbacks import Callback
from fl_sim.rounds.evaluation import evaluate_last_round
from fl_sim.rounds.privacy import measure_privacy
from fl_sim.rounds.robustness import measure_robustness
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.rounds.stopping import is_over, stop_rows, watch
from fl_sim.schedule import backdoors, inherited_backdoor
from fl_sim.training.tasks import Tensors

NO_HOOKS = Callback()


@cache_by_modules
def load_metrics() -> tuple[Metric, ...]:
    """Return an instance of every metric."""
    classes = discover("fl_sim.metrics", Metric)  # type: ignore[type-abstract]
    return tuple(cls() for cls in classes)


def measure_round(
    federation: Federation, backend: Backend, outcome: RoundOutcome, hooks: Callback = NO_HOOKS
) -> list[Row]:
    """Return the rows of all metrics; those that need scores only in evaluated rounds."""
    experiment, round_num = federation.experiment, outcome.state.round
    scored = round_num % experiment.evaluation.every == 0 or round_num == experiment.rounds
    wanted = [metric for metric in load_metrics() if scored or not metric.needs_scores]
    hooks.on_phase_start("evaluation")
    record = record_round(federation, backend, outcome, scored)
    hooks.on_phase_start("metrics")
    rows = [row for metric in wanted for row in metric.rows(record)]
    if scored:
        watch(experiment, outcome.state, rows)
        if round_num < experiment.rounds and is_over(experiment, round_num, outcome.state.watched):
            personal = measure_personal_models(federation, backend, outcome.state)
            record = replace(record, personal=personal)
            rows = [row for metric in wanted for row in metric.rows(record)]
    rows += measure_start(federation) if round_num == 1 else []
    rows += measure_privacy(federation, outcome.state, by_client=scored)
    if scored:
        rows += measure_robustness(federation, backend, outcome.state, record)
    rows += evaluate_last_round(federation, outcome, record)
    rows += stop_rows(experiment, outcome.state)
    return [mark_undefined(row) for row in rows]


def measure_start(federation: Federation) -> list[Row]:
    """Return the success rate of the backdoor that the start model has, as a row of round 1.

    The whole planted model is scored, with its own head, which a closed form replaces.
    """
    experiment, dataset = federation.experiment, federation.dataset
    backdoor = inherited_backdoor(experiment)
    if backdoor is None:
        return []
    logits = compute_logits(build_start(experiment), backdoor.trigger.stamp(dataset.test_images))
    return [rate_row(1, "attack_success_start", logits, dataset.test_labels, backdoor.target)]


def record_round(
    federation: Federation, backend: Backend, outcome: RoundOutcome, scored: bool = True
) -> RoundRecord:
    """Score the test set and the audit pool, and return the record of the round."""
    state, updates = outcome.state, outcome.round_updates.updates
    pool, round_num = federation.pool, state.round
    selected = pool.audited & scored
    sets = federation.evaluation_inputs if scored else {}
    scores = backend.score(state.parameters, state.buffers, sets)
    no_scores = torch.empty(0, federation.dataset.num_classes)
    heads_only = federation.experiment.model.tune in ("head", *CLOSED_FORM)
    buffers, statistics = state.buffers, select_statistics(state.buffers)
    size_down, size_up = count_traffic(federation.model) or (
        4 * len(state.parameters) + sum(tensor.nbytes for tensor in tensors.values())
        for tensors in (buffers, statistics)
    )
    if round_num == 1 and (tune := federation.experiment.model.warm_start):
        down, up = count_start_traffic(federation.model, tune)
        size_down, size_up = size_down + down, size_up + up
    return RoundRecord(
        round=round_num,
        test_logits=scores.get("test", no_scores),
        test_labels=federation.dataset.test_labels if scored else no_scores[:, 0].long(),
        pool_logits=scores.get("pool", no_scores),
        pool_labels=pool.labels[selected],
        pool_clients=pool.clients[selected],
        members=pool.members[selected],
        protected=pool.protected[selected],
        class_counts=federation.class_counts,
        protected_counts=federation.count_protected(round_num),
        updates=tuple(updates),
        attackers=federation.schedule.attackers(round_num),
        decision=outcome.result,
        personal=measure_personal_models(federation, backend, state)
        if round_num == federation.experiment.rounds
        else {},
        num_failures=len(outcome.failures),
        seconds=outcome.seconds,
        bytes_down=size_down * (len(updates) + len(outcome.failures)),
        bytes_up=size_up * len(updates),
        triggered=_score_triggered(federation, scores),
        domains=federation.domains,
        domain_logits=_stack_domains(federation, scores),
        test_clients=federation.test_clients if scored else None,
        cpu_seconds=outcome.cpu_seconds,
        cpu_note=outcome.cpu_note,
        pool_features=sets["pool"].flatten(1) if scored and heads_only else None,
    )


def _stack_domains(federation: Federation, scores: Tensors) -> Float[Tensor, "m t y"] | None:
    """Return the logits of the test images as each domain has them, if there are domains."""
    names = federation.domain_names
    return torch.stack([scores[name] for name in names]) if names and scores else None


def _score_triggered(federation: Federation, scores: Tensors) -> Triggered | None:
    """Return the scores of the test images that carry the attackers' trigger, if there is one."""
    for _, target in backdoors(federation.experiment):
        return Triggered(scores["triggered"], target) if "triggered" in scores else None
    return None


def measure_personal_models(
    federation: Federation, backend: Backend, state: State
) -> dict[int, Float[Tensor, " y"]]:
    """Return the accuracies by class of the personal models, for each client that has one.

    If clients are tested on the images of their own owners, all classes have the accuracy on
    these. NaN for a class without test images, and for all classes if a client's model diverged
    or cannot be loaded from the client's state.
    """
    accuracies, model = {}, backend.trainer.model
    for client, client_state in sorted(state.client_states.items()):
        behaviour = federation.schedule.behaviour(client, state.round)
        backend.trainer.model_tensors.load(state.parameters, state.buffers)
        try:
            has_own = behaviour.load_personal_model(model, client_state)
        except Exception:  # of any class: an attacker may have forged its state
            accuracies[client] = torch.full((federation.dataset.num_classes,), torch.nan).double()
            continue
        if has_own:
            scores = compute_logits(model, federation.find_test_inputs(client))
            labels, owners = federation.dataset.test_labels, federation.test_clients
            accuracies[client] = class_accuracies(scores, labels)
            if owners is not None and bool(torch.isfinite(scores).all()):
                right = (scores.argmax(1) == labels)[owners == client]
                accuracies[client].fill_(float(right.double().mean()))
    return accuracies
