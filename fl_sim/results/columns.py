"""Data dictionary of the results: the meaning of each column of `cells` and of `rows`."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Column(NamedTuple):
    """A column, or a family of them.

    Attributes:
        table: `cells`, with one row per cell and seed, or `rows`, with one row per number.
        name: Name of the column, in which `<group>_`, `<rate>` and `<what>` are placeholders.
        meaning: Its meaning and unit.
    """

    table: str
    name: str
    meaning: str


_ATTACK = "membership attack by margin on the final model"
_GROUP = "<group>_: of the protected, clean or mixed only; without, of all"

CELLS = {
    "experiment": "name of the experiment, and of its folder",
    "run_id": "name of the run: a hash of everything but the seed",
    "seed": "seed of the run",
    "seeds": "all seeds of this cell",
    "label": "the settings in words",
    "settings.<what>": "value of an axis of the sweep, in words, by field path",
    "status": "finished, failed, or damaged: its files were changed since they were written",
    "error": "error of a run that failed",
    "rounds": "number of rounds",
    "dataset": "name of the dataset",
    "origin": "folder or package that its files come from",
    "data_notes": "remarks about the data, such as files that could not be used",
    "side_by_side": "number of runs that shared the machine: more make `seconds` larger",
    "num_parameters": "number of values that are trained and sent, or of a solved head and "
    "statistics",
    "num_frozen": "number of values of the network that are neither trained nor sent: each client "
    "loads them once before it starts",
    "cohort": "whether many clients were trained as one batch",
    "engine": "engine that trained the clients: local, ray or flower",
    "device": "kind of device that it ran on: cpu, cuda or mps",
    "precision": "precision of the networks: float32, tf32 or bf16",
    "memory_note": "limit of the clients that were trained as one batch, where a device's memory "
    "held no more",
    "wall_seconds": "wall-clock time of the run in seconds, under whatever load there was",
    "accuracy": "share of test images that the final model gets right, 0 to 1 (A_mix)",
    "best_accuracy": "highest accuracy of any round",
    "loss": "mean cross-entropy of the final model on the test set, in nats",
    "model_sha256": "SHA-256 of the files of a network: weights, a checkpoint, or your own code",
    "plugins_sha256": "SHA-256 of each module of your own whose plug-ins took part",
    "protection_sha256": "the same for the networks that noise is made with",
    "planted_data_sha256": "SHA-256 of the files of model.planted.dataset",
    "planted_sha256": "SHA-256 of the weights and buffers of a planted start",
    "params_sha256": "SHA-256 of the final parameters: same experiment, same hash",
    "failures": "one entry per client that sent no update: round, client, cause",
    "leakage.shift_auc": "AUC of telling members from non-members without the model; 0.5: no shift",
    "leakage.<group>_auc": f"area under the ROC curve, {_ATTACK}; 0.5 is chance. {_GROUP}",
    "leakage.<group>_balanced_accuracy": f"best balanced accuracy, {_ATTACK}. {_GROUP}",
    "leakage.<group>_tpr_at_<rate>": f"true positive rate at this false positive rate, {_ATTACK}",
    "leakage.<group>_<what>_low": "lower bound of the 95 % interval of that number",
    "leakage.<group>_<what>_high": "upper bound of the 95 % interval of that number",
    "leakage.<group>_<what>_valid": "whether that number should be read",
    "leakage.<group>_<what>_note": "reason why it should not be read, or a limitation",
    "fairness.<what>": "statistic over clients of their accuracy; leakage_: of the attack's AUC, "
    "and with a group before it, over the clients of that group; the glossary defines each",
    "calibration.calibration_error": "mean gap between the confidence and the accuracy of the "
    "final model on the test images, in 15 bins; 0 is best",
    "calibration.brier_score": "mean squared distance of its probabilities from the labels, 0 to 2",
    "robustness.corruption_mean_accuracy": "accuracy of the final model on corrupted test images, "
    "mean over the corruptions of evaluation.corruptions",
    "robustness.adversarial_accuracy": "accuracy of the final model on test images attacked as "
    "evaluation.adversarial says",
    "robustness.<what>_drop": "accuracy lost by that: as a share of the clean one (corruption), or "
    "in absolute terms, on the same images (adversarial)",
    "rule.<group>_share": "share of these clients in the step of the global model, mean of rounds",
    "detection.<group>_auc": "AUC of telling protected clients from others by this signal",
    "epsilon.<group>": "privacy spent by the end, of clients or of images, at the stated delta",
    "cost.seconds": "wall-clock seconds of all rounds, evaluation left out",
    "cost.cpu_seconds": "processor seconds of all rounds, which depend little on the load",
    "cost.bytes_down": "bytes that clients received over all rounds",
    "cost.bytes_up": "bytes that clients sent over all rounds",
    "cost.<what>_mib": "highest memory of the process in MiB, as measured (peak) or predicted",
    "backdoor.success": "share of test images with the trigger that the final model assigns to the "
    "target class; of other classes",
    "backdoor.untriggered": "the same share without the trigger",
    "backdoor.start": "the same share, with the trigger, of a start model with a planted backdoor",
    "backdoor.half_life": "first evaluated round from which on a planted backdoor's success is at "
    "most half of that of the start",
    "backdoor.half_life_note": "reason why there is no half-life",
    "attack.a_<what>": "accuracy of the control in which nobody attacks (honest); _best: of the "
    "best round",
    "attack.accuracy_<what>": "A_honest minus the accuracy of the run (lost); _best: of the best "
    "rounds",
    "attack.recovery_rounds": "rounds after the last attack until accuracy is within two points of "
    "A_honest",
    "attack.recovery_rounds_note": "reason why accuracy has not recovered",
    "protection.a_<what>": "accuracy of the control without protection (all), of that on "
    "the clean part alone (clean), or of the run itself (mix); _best: of the best round",
    "protection.utility_gap": "A_clean - A_mix: accuracy lost by adding protected images",
    "protection.extraction_ratio": "(A_mix - A_clean) / (A_all - A_clean)",
}
ROWS = {
    "run_id": "name of the run",
    "seed": "seed of the run",
    "round": "number of the round, from 1",
    "metric": "name of the metric; `fl-sim list metrics` has the definitions",
    "value": "the number",
    "client": "client that the number is about; -1: the whole federation",
    "group": "subset of records or clients that the number is about",
    "low": "lower bound of a 95 % interval; NaN where there is none",
    "high": "upper bound of a 95 % interval; NaN where there is none",
    "valid": "whether the number should be read",
    "note": "reason why it should not be read, or a limitation",
    "is_control": "whether the run is a control, with which protected runs are compared",
    "settings.<what>": "value of an axis of the sweep; control: which control the run is",
}


def list_columns() -> list[Column]:
    """Return every column of both tables, those of `cells` first."""
    tables = {"cells": CELLS, "rows": ROWS}
    return [Column(table, *column) for table in tables for column in tables[table].items()]


def find_meaning(table: str, name: str) -> str | None:
    """Return the meaning of a column, or None if it has no description.

    >>> find_meaning("cells", "cost.bytes_up")
    'bytes that clients sent over all rounds'
    """
    meanings = CELLS if table == "cells" else ROWS
    fitting = (text for pattern, text in meanings.items() if _matches(pattern, name))
    return meanings.get(name) or next(fitting, None)


def find_undescribed(table: str, names: Iterable[str]) -> list[str]:
    """Return the columns of a table that have no description."""
    return [name for name in names if find_meaning(table, name) is None]


def _matches(pattern: str, name: str) -> bool:
    text = re.escape(pattern).replace("<group>_", r"(?:\w+_)?").replace("<group>", r"\w+")
    text = text.replace("<rate>", r"[\d.]+").replace("<what>", r"[\w.]+")
    return re.fullmatch(text, name) is not None
