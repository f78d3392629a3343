"""The audited run: its model, and what that says about each record."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from fl_sim.attacks.gradient_norm import HeadInputs, head_gradient_norm
from fl_sim.contracts.attacks import margin_of
from fl_sim.core.atomic_io import DamagedFileError, read_bytes, read_table
from fl_sim.core.errors import RequestError
from fl_sim.core.tensor_files import read_tensors, read_unsealed
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation, hash_user_files, load_federation
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
        folder: where it lies.
        experiment: what it was.
        result: its `result.json`.
        signals: its `signals.parquet`, by sample id.
        margin: of every record of the pool under its final model.
        population: margins of the test images, which nobody trains on.
        gradient_norm: of every record, by the head; None where the model has no head.
        num_classes: that the model tells apart.
    """

    folder: Path
    experiment: Experiment
    result: dict[str, Any]
    signals: pd.DataFrame
    margin: Float[Tensor, " n"]
    population: Float[Tensor, " z"]
    gradient_norm: Float[Tensor, " n"] | None
    num_classes: int

    @property
    def made_with(self) -> dict[str, str]:
        """What changed the run's result beside its experiment, such as injected failures."""
        return dict(self.result.get("made_with", {}))

    @property
    def audited(self) -> Int64[Tensor, " a"]:
        """The sample ids on which members and outsiders are matched."""
        return torch.tensor(self.signals["audited"].to_numpy(bool)).nonzero().squeeze(1)

    @property
    def records(self) -> Records:
        """Who the audited records are."""
        own = self.signals[self.signals["audited"]]
        return Records(
            clients=torch.tensor(own["client"].to_numpy(), dtype=torch.int64),
            labels=torch.tensor(own["label"].to_numpy(), dtype=torch.int64),
            protected=torch.tensor(own["protected"].to_numpy(bool)),
            members=torch.tensor(own["member"].to_numpy(bool)),
        )


def load_target(folder: Path) -> TargetRun:
    """Read a finished run and score its records.

    Raises:
        RequestError: for what is no finished run, has no outsiders, or does not fit its data.
    """
    result = read_result(folder)
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if result is None or missing:
        lacking = missing[0] if missing else RESULT
        raise RequestError(f"{folder} is no finished run: {lacking} is missing")
    experiment = read_experiment(folder, result)
    signals = read_table(folder / "signals.parquet", columns=COLUMNS).sort_values("sample_id")
    if not bool((signals["audited"] & ~signals["member"]).any()):
        raise RequestError(f"{folder} has no outsiders to compare with: data.held_out was 0")
    data_sha256 = hash_user_files(experiment)
    if result.get("data_sha256", data_sha256) != data_sha256:
        place = experiment.data.path
        raise RequestError(f"{folder}: the data in {place} changed since the run")
    federation = load_federation(experiment.to_json())
    load_model(federation, folder, result.get("params_sha256"))
    margin, norms = score_records(federation.model, federation.inputs, federation.pool.labels)
    _check_margins(margin, signals, folder)
    population, _ = score_records(
        federation.model, federation.test_inputs, federation.dataset.test_labels
    )
    classes = federation.dataset.num_classes
    return TargetRun(folder, experiment, result, signals, margin, population, norms, classes)


def read_experiment(folder: Path, result: dict[str, Any]) -> Experiment:
    """Return what a finished run was a run of.

    Raises:
        DamagedFileError: for another run's experiment, or for what is none.
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
        DamagedFileError: where they are not those whose hash is `sha256`.
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
    """Return margins, and the norms of gradients by the head."""
    collector = HeadInputs(model)
    scores = compute_logits(model, inputs)
    features = collector.collect()
    norms = None if features is None else head_gradient_norm(scores, labels, features.flatten(1))
    return margin_of(scores, labels), norms


def load_stored(path: Path, key: str) -> dict[str, Tensor] | None:
    """Return the tensors that an audit kept, made from `key`; None where there are none.

    A file that was changed since it was written is made anew, with a warning that names it.
    """
    if not path.exists():
        return None
    try:
        tensors, note = read_tensors(path)
    except DamagedFileError as error:
        LOG.warning("%s; it is made anew", error)
        return None
    return tensors if note.get("key") == key else None


def _check_margins(margin: Float[Tensor, " n"], signals: pd.DataFrame, folder: Path) -> None:
    """Refuse a model that no longer says of its records what it said in the run."""
    then = torch.tensor(signals["margin"].to_numpy(), dtype=torch.float32)
    if len(then) != len(margin) or not torch.allclose(margin, then, TOLERANCE, TOLERANCE):
        raise RequestError(
            f"{folder}: the model's margins are not those of signals.parquet; the code or the "
            "data have changed since the run"
        )
