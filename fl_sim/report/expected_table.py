"""Renders the numbers of an expected file as a Markdown table."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column of a results table.

    Attributes:
        label: Heading of the column.
        meaning: Explanation below the table, with the unit.
        digits: Number of decimals.
        scale: Factor; 100 turns a share into percent.
    """

    label: str
    meaning: str
    digits: int = 1
    scale: int = 100


COLUMNS = {
    "accuracy": Column("A_mix", "test accuracy in percent"),
    "protection.a_all": Column("A_all", "accuracy when no image is protected, in percent"),
    "protection.a_clean": Column(
        "A_clean", "accuracy when only the clean images are trained on, in percent"
    ),
    "protection.utility_gap": Column(
        "gap", "A_clean - A_mix in points; below 0, protected images add accuracy"
    ),
    "attack.accuracy_lost": Column(
        "lost to the attack", "accuracy if nobody attacks, minus A_mix, in points"
    ),
    "backdoor.start": Column("start", "success of the start model's backdoor in percent"),
    "backdoor.success": Column("success", "of a backdoor after the last round, in percent"),
    "backdoor.half_life": Column(
        "half-life", "first round from which on success is at most half of the start's", 1, 1
    ),
    "leakage.auc": Column("AUC", "of a membership attack; 0.5 is guessing", 3, 1),
    "leakage.clean_auc": Column("AUC, clean", "the same, among clean images", 3, 1),
    "leakage.protected_auc": Column("AUC, protected", "the same, among protected images", 3, 1),
    "detection.train_loss_auc": Column(
        "AUC of detection",
        "of detecting protected clients by their training losses; 0.5 is guessing",
        3,
        1,
    ),
    "rule.protected_share": Column(
        "protected share",
        "mean weight of a protected client in the aggregate; 1 is an equal share",
        2,
        1,
    ),
    "rule.attacker_share": Column("attacker share", "the same for an attacker", 2, 1),
    "epsilon.images": Column(
        "ε of images", "privacy budget of single images, at the client that spent most", 1, 1
    ),
    "epsilon.clients": Column("ε of clients", "privacy budget of whole clients", 1, 1),
    "epsilon.local": Column(
        "ε from the server", "privacy budget of images towards the server", 1, 1
    ),
    "fairness.worst_client": Column("worst client", "lowest accuracy of a client, in percent"),
}
# Shown only if an expected file lists them in `columns`.
ON_REQUEST = (
    "leakage.clean_auc",
    "leakage.protected_auc",
    "detection.train_loss_auc",
    "rule.protected_share",
    "rule.attacker_share",
)
WIDE = 8  # numbers that fit side by side
LONG = 20  # settings from which one axis becomes columns

Cells = dict[tuple[str, str], dict[str, Any]]


def render_table(content: dict[str, Any], of_runs: Sequence[str]) -> str:
    """Return the numbers of an expected file as a Markdown table with a legend.

    Args:
        content: The parsed file. Its field `columns`, if any, names the numbers to show.
        of_runs: Names of the numbers that runs have; a file with others is a study's.
    """
    entries = label_settings(content["numbers"])
    pairs = zip(entries, content["numbers"], strict=True)
    values = {labelled["settings"]: entry["settings"] for labelled, entry in pairs}
    cells = {(e["settings"], e["number"]): e for e in entries}
    names = list(dict.fromkeys(e["number"] for e in entries))
    shown = {name: name.replace("_", " ") for name in names}
    if set(names) <= set(of_runs):
        shown = {n: COLUMNS[n].label for n in _choose_columns(content, names, list(values), cells)}
    accuracies = set(shown) == {"accuracy", "protection.a_all"}
    if accuracies and len(values) >= LONG and _can_be_crossed(content["numbers"]):
        return _finish(_cross(content["numbers"]), content, shown)
    if len(shown) > max(WIDE, len(values)):
        rows = [[key, *(_format(n, cells.get((key, n))) for n in shown)] for key in values]
        table = [["", *shown.values()], *rows]
        return _finish([list(column) for column in zip(*table, strict=True)], content, shown)
    axes = [path.split(".")[-1] for path in content["numbers"][0]["settings"]]
    table = [[*axes, *shown.values()]]
    for setting, settings in values.items():
        numbers = [_format(name, cells.get((setting, name))) for name in shown]
        table.append([*map(str, settings.values()), *numbers])
    return _finish(table, content, shown)


def _choose_columns(
    content: dict[str, Any], names: list[str], settings: list[str], cells: Cells
) -> list[str]:
    """Return the numbers to show, in the order of `COLUMNS` or as the file names them."""
    if "columns" in content:
        return list(content["columns"])
    default = [n for n in COLUMNS if n in names and n not in ON_REQUEST]
    return [n for n in default if _is_informative(n, settings, cells)]


def _finish(table: list[list[str]], content: dict[str, Any], shown: dict[str, str]) -> str:
    """Return rows as Markdown, with a legend of the columns below."""
    lines = [f"| {' | '.join(row)} |" for row in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    legend = [f"Mean ± sample standard deviation over {len(content['seeds'])} seeds."]
    legend += [f"{label}: {COLUMNS[n].meaning}." for n, label in shown.items() if n in COLUMNS]
    return "\n".join([*lines, "", " ".join(legend)])


def _can_be_crossed(entries: list[dict[str, Any]]) -> bool:
    """Return whether there are two axes, the first of which does not influence A_all."""
    bounds: dict[Any, set[float]] = {}
    for entry in entries:
        if len(entry["settings"]) != 2:
            return False
        if entry["number"] == "protection.a_all":
            _, second = entry["settings"].values()
            bounds.setdefault(second, set()).add(entry["mean"])
    return all(len(entry) == 1 for entry in bounds.values())


def _cross(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Return the accuracies with the first axis as columns, the second as rows, and A_all last."""
    by_key = {(*entry["settings"].values(), entry["number"]): entry for entry in entries}
    firsts = list(dict.fromkeys(key[0] for key in by_key))
    seconds = list(dict.fromkeys(key[1] for key in by_key))
    table = [["A_mix", *firsts, "A_all"]]
    for second in seconds:
        row = [_format("accuracy", by_key.get((first, second, "accuracy"))) for first in firsts]
        bound = by_key.get((firsts[0], second, "protection.a_all"))
        table.append([str(second), *row, _format("protection.a_all", bound)])
    return table


def _is_informative(name: str, settings: list[str], cells: Cells) -> bool:
    """Return whether a number is neither 0 everywhere nor equal to the accuracy."""
    values = [cells[setting, name]["mean"] for setting in settings if (setting, name) in cells]
    accuracies = [cells[setting, "accuracy"]["mean"] for setting in settings]
    return name == "accuracy" or (any(values) and values != accuracies)


def _format(name: str, entry: dict[str, Any] | None) -> str:
    """Return mean and spread in the unit of the column, or a dash."""
    if entry is None:
        return "-"
    digits, scale = COLUMNS[name][2:] if name in COLUMNS else (3, 1)
    return f"{scale * entry['mean']:.{digits}f} ± {scale * entry['spread']:.{digits}f}"


def label_settings(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries with their settings as text."""
    return [
        entry | {"settings": ", ".join(_label_value(*item) for item in entry["settings"].items())}
        for entry in entries
    ]


def _label_value(path: str, value: Any) -> str:
    is_text = isinstance(value, str) and not value.lstrip("-")[:1].isdigit()
    return value if is_text else f"{path.split('.')[-1]} {value}"
