"""The view of the server: the scores of each audited record under each client's update.

A finished run keeps no updates. Since the same experiment gives the same bits, it is run once
more, and a callback scores the audited records under each model that a client returns.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fl_sim.attacks.gradient_inversion import gradient_rank
from fl_sim.attacks.gradient_norm import HeadInputs
from fl_sim.audit.target_run import TargetRun, load_stored
from fl_sim.contracts import Update
from fl_sim.contracts.attacks import Trajectory, margin_of
from fl_sim.core.tensor_files import write_tensors
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.models import parameters
from fl_sim.models.scoring import compute_logits
from fl_sim.rounds.callbacks import Callback
from fl_sim.runs.environment import describe_changes
from fl_sim.runs.outputs import hash_state
from fl_sim.runs.progress import Listener, Progress
from fl_sim.runs.replay import replay
from fl_sim.training.tasks import RoundConfig, Tensors

SERVER_VIEW = "audit_course.safetensors"
REPLAY = "replay"  # label of its progress
MAX_ROUNDS, MIN_ROUNDS = 10, 2
MAX_FORWARDS = 300_000  # records x clients x rounds, for networks that are more than a head


class UpdateRecorder(Callback):
    """Scores records under the model of each client, in chosen rounds."""

    def __init__(self, federation: Federation, rows: Int64[Tensor, " n"], rounds: set[int]) -> None:
        """Prepare to score the records `rows` of the pool in `rounds`."""
        self.federation, self.rounds = federation, rounds
        self.inputs, self.labels = federation.inputs[rows], federation.pool.labels[rows]
        self.client_margin: list[Tensor] = []
        self.global_margin: list[Tensor] = []
        self.cosine: list[Tensor] = []
        self.head_rank: list[Tensor] = []

    def on_round_start(self, config: RoundConfig) -> None:
        """Score the records under the global model."""
        if config.round in self.rounds:
            self._record_global_model(config)

    def on_client_update(self, config: RoundConfig, update: Update) -> None:
        """Score the records under the client's model."""
        if config.round in self.rounds:
            self._record_update(config, update)

    def _record_global_model(self, config: RoundConfig) -> None:
        """Score the records under the global model of a round."""
        scores, features = self._score(config.parameters, config.buffers)
        self.global_margin.append(margin_of(scores, self.labels))
        unknown = torch.full((self.federation.num_clients, len(self.labels)), torch.nan)
        self.client_margin.append(unknown.clone())
        self.cosine.append(unknown)
        self.head_rank.append(unknown[:, 0].clone())
        error = scores.double().softmax(1)  # the gradient of the loss by the logits
        error[torch.arange(len(self.labels)), self.labels] -= 1
        self._error, self._features = error, features

    def _record_update(self, config: RoundConfig, update: Update) -> None:
        """Score the records under a client's model, and compare its update with their gradients."""
        assert update.delta is not None
        scores, _ = self._score(config.parameters + update.delta, update.buffers)
        self.client_margin[-1][update.client] = margin_of(scores, self.labels)
        if self._features is not None:
            cosine = compute_head_cosine(update.delta, self._error, self._features)
            self.cosine[-1][update.client] = cosine.float()
            if self._took_one_step(config.round, update.client):
                weight, _ = split_head(update.delta, self._error.shape[1], self._features.shape[1])
                self.head_rank[-1][update.client] = gradient_rank(weight)

    def _took_one_step(self, round_num: int, client: int) -> bool:
        behaviour = self.federation.schedule.behaviour(client, round_num)
        return behaviour.num_steps(self.federation.shards.sizes[client]) == 1

    def _score(
        self, values: Float[Tensor, " p"], buffers: Tensors
    ) -> tuple[Float[Tensor, "n y"], Float[Tensor, "n d"] | None]:
        model = self.federation.model
        parameters.load_flat(model, values)
        parameters.load_buffers(model, buffers)
        if not ends_in_head(model):
            return compute_logits(model, self.inputs), None
        collector = HeadInputs(model)
        scores = compute_logits(model, self.inputs)
        features = collector.collect()
        return scores, None if features is None else features.flatten(1).double()


def ends_in_head(model: nn.Module) -> bool:
    """Return whether the last parameters are weight and bias of a linear layer."""
    owners = [module for module in model.modules() if list(module.parameters(recurse=False))]
    return bool(owners) and isinstance(owners[-1], nn.Linear) and owners[-1].bias is not None


def compute_head_cosine(
    delta: Float[Tensor, " p"], error: Float[Tensor, "n y"], features: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Return the cosine between an update of the head and minus each record's gradient.

    The gradient of a linear head is the outer product of error and features, so it is not formed.
    """
    weight, bias = split_head(delta, error.shape[1], features.shape[1])
    along = -(error * (features @ weight.T + bias)).sum(1)
    length = torch.hypot(weight.norm(), bias.norm())
    lengths: Tensor = error.norm(dim=1) * (features.square().sum(1) + 1).sqrt() * length
    return along / lengths.clamp(min=1e-30)


def split_head(
    delta: Float[Tensor, " p"], classes: int, dim: int
) -> tuple[Float[Tensor, "y d"], Float[Tensor, " y"]]:
    """Return the weight and bias of the head at the end of an update."""
    head = delta[-classes * (dim + 1) :].double()
    return head[: classes * dim].view(classes, dim), head[classes * dim :]


def record_server_view(target_run: TargetRun, listen: Listener) -> tuple[Trajectory | None, str]:
    """Return the trajectory of a run, or None and the reason why it is unavailable.

    It is stored in `audit_course.safetensors`, and read back if that exists.
    """
    path, key = target_run.folder / SERVER_VIEW, str(target_run.result["params_sha256"])
    changes = {k: v for k, v in target_run.made_with.items() if k != "precision"}
    if changes:
        return None, f"the run cannot be replayed: {explain_unavailable(changes)}"
    tensors = load_stored(path, key)
    if tensors is None:
        recorder, model_hash = _replay(target_run, listen)
        if model_hash != key:
            changed = describe_changes(target_run.folder, str(target_run.result["engine"]))
            return None, f"the replay did not give the run's model: {changed}"
        tensors = _save(path, key, recorder)
    margins = tensors["client_margin"], tensors["global_margin"]
    cosine, rank = tensors.get("cosine"), tensors.get("head_rank")
    return Trajectory(*margins, target_run.records.clients, cosine, rank), ""


def explain_unavailable(made_with: dict[str, str]) -> str:
    """Return in words the changes of a run's result beside its experiment."""
    words = {
        "faults": "failures were injected ({})",
        "client_app": "a ClientApp of its own trained the clients ({})",
    }
    return ", and ".join(words.get(k, k + " was {}").format(v) for k, v in made_with.items())


def _save(path: Path, key: str, recorder: UpdateRecorder) -> dict[str, Tensor]:
    """Store the recorded scores, and return them by name."""
    tensors = {
        "client_margin": torch.stack(recorder.client_margin),
        "global_margin": torch.stack(recorder.global_margin),
    }
    cosine = torch.stack(recorder.cosine)
    if not bool(cosine.isnan().all()):
        tensors |= {"cosine": cosine, "head_rank": torch.stack(recorder.head_rank)}
    write_tensors(path, tensors, {"key": key})
    return tensors


def _replay(target_run: TargetRun, listen: Listener) -> tuple[UpdateRecorder, str]:
    """Run the rounds again; return the recorder and the hash of the final model."""
    experiment, folder = target_run.experiment, str(target_run.folder)
    federation = load_federation(experiment.to_json())
    recorder = UpdateRecorder(federation, target_run.audited, choose_rounds(target_run))
    batch_clients = bool(target_run.result.get("cohort", False))
    for outcome in replay(federation, batch_clients, (recorder,)):
        round_num, clients = outcome.state.round, experiment.clients_per_round
        listen(Progress(folder, REPLAY, round_num, experiment.rounds, clients, float("nan")))
    return recorder, hash_state(outcome.state)


def choose_rounds(target_run: TargetRun) -> set[int]:
    """Return the rounds that are scored: evenly spaced, with the last one."""
    experiment = target_run.experiment
    max_rounds = MAX_ROUNDS
    if experiment.model.tune != "head":
        per_round = max(1, len(target_run.audited) * experiment.clients_per_round)
        max_rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, MAX_FORWARDS // per_round))
    rounds = int(target_run.result.get("rounds", experiment.rounds))  # fewer if it was stopped
    count = min(max_rounds, rounds)
    return {round((i + 1) * rounds / count) for i in range(count)}
