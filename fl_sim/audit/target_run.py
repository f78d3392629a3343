"""The audited run: its model, and the scores of each record under it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from fl_sim.attacks.gradient_norm import HeadInputs, head_gradient_norm
from fl_sim.contracts.attacks import margin_of
from fl_sim.core.atomic_io import DamagedFileError, read_bytes, read_table
from fl_sim.core.errors import RequestError
from fl_sim.core.tensor_files import read_tensors, read_unsealed
from fl_sim.core.user_modules import find_changed
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation, find_change, hash_files, load_federation
from fl_sim.metrics._shared.pools import Records
from fl_sim.models import parameters
from fl_sim.models.scoring import compute_logits
from fl_sim.results import MODEL, RESULT, read_result
from fl_sim.runs.outputs import hash_parameters

LOG = logging.getLogger("fl_sim")
NEEDED = ("experiment.json", "model.safetensors", "signals.parquet")
COLUMNS = ("sample_id", "client", "label", "member", "audited", "protected", "margin", "correct")
TOLERANCE = 1e-3  # of margins now with those of the run; other machines round otherwise


@dataclass(frozen=True, eq=False)
class TargetRun:
    """A finished run, read back.

    Attributes:
        folder: Folder of the run.
        experiment: Experiment of the run.
        result: Content of its `result.json`.
        signals: Content of its `signals.parquet`, by sample id.
        margin: Margin of every record of the pool under the final model.
        start: Margin of every record of the pool under the model before the first round.
        start_correct: Whether the model before the first round classifies each record correctly.
        population: Margins of the test images, which no client trains on.
        gradient_norm: Norm of every record's gradient in the head; None if there is no head.
        num_classes: Number of classes.
    """

    folder: Path
    experiment: Experiment
    result: dict[str, Any]
    signals: pd.DataFrame
    margin: Float[Tensor, " n"]
    start: Float[Tensor, " n"]
    start_correct: Bool[Tensor, " n"]
    population: Float[Tensor, " z"]
    gradient_norm: Float[Tensor, " n"] | None
    num_classes: int

    @property
    def made_with(self) -> dict[str, str]:
        """Changes of the run's result beside its experiment, such as injected failures."""
        return dict(self.result.get("made_with", {}))

    @property
    def audited(self) -> Int64[Tensor, " a"]:
        """Sample ids of the audited records, in which members and non-members are matched."""
        return torch.tensor(self.signals["audited"].to_numpy(bool)).nonzero().squeeze(1)

    @property
    def records(self) -> Records:
        """Clients, labels, protection and membership of the audited records."""
        table = self.signals[self.signals["audited"]]
        return Records(
            clients=torch.tensor(table["client"].to_numpy(), dtype=torch.int64),
            labels=torch.tensor(table["label"].to_numpy(), dtype=torch.int64),
            protected=torch.tensor(table["protected"].to_numpy(bool)),
            members=torch.tensor(table["member"].to_numpy(bool)),
        )


def load_target(folder: Path) -> TargetRun:
    """Read a finished run and score its records.

    Raises:
        RequestError: For a run that is unfinished, has no non-members, or does not fit its data.
    """
    result = read_result(folder)
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if result is None or missing:
        lacking = missing[0] if missing else RESULT
        raise RequestError(f"{folder} is not a finished run: {lacking} is missing")
    experiment = read_experiment(folder, result)
    signals = read_table(folder / "signals.parquet", columns=COLUMNS).sort_values("sample_id")
    if not bool((signals["audited"] & ~signals["member"]).any()):
        raise RequestError(f"{folder} has no non-members to compare with: data.held_out was 0")
    hashes = hash_files(experiment)
    places = {
        "data_sha256": f"the data in {experiment.data.path}",
        "planted_data_sha256": "the images of model.planted",
        "model_sha256": f"the files of {experiment.model.checkpoint or experiment.model.backbone}",
        "protection_sha256": "the files of the protection's network",
    }
    differing = find_change(result, hashes, places)
    if differing:
        raise RequestError(f"{folder}: {places[differing]} changed since the run")
    changed = find_changed(result.get("plugins_sha256", ""), hashes.get("plugins_sha256", ""))
    if changed:
        raise RequestError(f"{folder}: the module {changed[0]} changed since the run")
    federation = load_federation(experiment.to_json())
    start, start_correct = _score_start(federation)
    load_model(federation, folder, result.get("params_sha256"))
    margin, norms = score_records(federation.model, federation.inputs, federation.pool.labels)
    _check_margins(margin, signals, folder)
    dataset = federation.dataset
    population, _ = score_records(federation.model, federation.test_inputs, dataset.test_labels)
    classes = dataset.num_classes
    return TargetRun(
        folder,
        experiment,
        result,
        signals,
        margin,
        start,
        start_correct,
        population,
        norms,
        classes,
    )


def _score_start(
    federation: Federation,
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return the margins under the first global model, and whether it classifies correctly."""
    parameters.load_flat(federation.model, federation.start)
    parameters.load_buffers(federation.model, federation.start_buffers)
    logits, labels = compute_logits(federation.model, federation.inputs), federation.pool.labels
    return margin_of(logits, labels), logits.argmax(1) == labels


def read_experiment(folder: Path, result: dict[str, Any]) -> Experiment:
    """Return the experiment of a finished run.

    Raises:
        DamagedFileError: For a file of another run, or without an experiment.
    """
    path = folder / "experiment.json"
    try:
        experiment = Experiment.from_json(read_bytes(path).decode())
    except DamagedFileError:
        raise
    except ValueError as error:
        raise DamagedFileError(path, f"is no experiment: {error}") from None
    names = (result.get("run_id"), result.get("seed"))
    if "made_with" not in result and names != (experiment.run_id, experiment.seed):
        raise DamagedFileError(path, "is of another run than result.json")
    return experiment


def load_model(federation: Federation, folder: Path, sha256: str | None = None) -> None:
    """Load the final parameters and buffers of a run into its network.

    Raises:
        DamagedFileError: If their hash is not `sha256`.
    """
    path = folder / MODEL
    tensors, _ = read_unsealed(path)
    values = tensors.pop("parameters", torch.zeros(0))
    if sha256 is not None and hash_parameters(values, tensors) != sha256:
        raise DamagedFileError(path, "is not the model that the run ended with")
    parameters.load_flat(federation.model, values)
    parameters.load_buffers(federation.model, tensors)


def score_records(
    model: nn.Module, inputs: Shaped[Tensor, "n ..."], labels: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"] | None]:
    """Return margins, and norms of the gradients in the head, or None if there is no head."""
    collector = HeadInputs(model)
    scores = compute_logits(model, inputs)
    features = collector.collect()
    norms = None if features is None else head_gradient_norm(scores, labels, features.flatten(1))
    return margin_of(scores, labels), norms


def load_stored(path: Path, key: str) -> dict[str, Tensor] | None:
    """Return the tensors that an audit stored under `key`, or None if there are none.

    A damaged file counts as missing, with a warning.
    """
    if not path.exists():
        return None
    try:
        tensors, note = read_tensors(path)
    except DamagedFileError as error:
        LOG.warning("%s; it is made again", error)
        return None
    return tensors if note.get("key") == key else None


def _check_margins(margin: Float[Tensor, " n"], signals: pd.DataFrame, folder: Path) -> None:
    """Raise a `RequestError` if the model does not give its records the margins of the run."""
    recorded = torch.tensor(signals["margin"].to_numpy(), dtype=torch.float32)
    if len(recorded) != len(margin) or not torch.allclose(margin, recorded, TOLERANCE, TOLERANCE):
        raise RequestError(
            f"{folder}: the model's margins are not those of signals.parquet; the code or the "
            "data have changed since the run"
        )
