"""An expected file as a table in Markdown."""

from collections.abc import Sequence
from typing import Any

SHOWN = {
    "accuracy": "A_mix",
    "protection.a_all": "A_all",
    "protection.a_clean": "A_clean",
    "protection.utility_gap": "gap",
    "leakage.auc": "AUC",
    "epsilon.images": "ε of images",
    "epsilon.clients": "ε of clients",
    "epsilon.local": "ε from the server",
    "fairness.worst_client": "worst client",
}
WIDE = 8  # numbers that have room side by side
LONG = 20  # settings from which on two axes are crossed

Cells = dict[tuple[str, str], dict[str, Any]]


def markdown(content: dict[str, Any], of_runs: Sequence[str]) -> str:
    """Return the numbers of an expected file as a Markdown table; shares in percent.

    Args:
        content: of the file.
        of_runs: names of the numbers that runs have; a file with others is a study's.
    """
    entries = keyed(content["numbers"])
    settings = list(dict.fromkeys(e["settings"] for e in entries))
    cells = {(e["settings"], e["number"]): e for e in entries}
    names = list(dict.fromkeys(e["number"] for e in entries))
    shown = {name: name.replace("_", " ") for name in names}
    if set(names) <= set(of_runs):
        shown = {n: SHOWN[n] for n in SHOWN if n in names and _says_something(n, settings, cells)}
    accuracies = set(shown) == {"accuracy", "protection.a_all"}
    if accuracies and len(settings) >= LONG and _can_be_crossed(content["numbers"]):
        return _finished(_crossed(content["numbers"]), content, "A_mix. ")
    rows = [[own, *(_shown(name, cells.get((own, name))) for name in shown)] for own in settings]
    table = [["settings", *shown.values()], *rows]
    if len(shown) > max(WIDE, len(settings)):
        table = [list(column) for column in zip(*table, strict=True)]
    return _finished(table, content)


def _finished(table: list[list[str]], content: dict[str, Any], shown: str = "") -> str:
    lines = [f"| {' | '.join(row)} |" for row in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    about = f"Mean ± sample standard deviation over {len(content['seeds'])} seeds, "
    about += f"{content['hardware']}, {content['minutes']} minutes; `{content['command']}`."
    return "\n".join([*lines, "", shown + about])


def _can_be_crossed(entries: list[dict[str, Any]]) -> bool:
    """Return whether there are two axes, and the first has no influence on A_all."""
    bounds: dict[Any, set[float]] = {}
    for own in entries:
        if len(own["settings"]) != 2:
            return False
        if own["number"] == "protection.a_all":
            _, second = own["settings"].values()
            bounds.setdefault(second, set()).add(own["mean"])
    return all(len(own) == 1 for own in bounds.values())


def _crossed(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Return the accuracies of two axes: the noise across, what it is tried against down.

    The last column is A_all.
    """
    found = {(*own["settings"].values(), own["number"]): own for own in entries}
    firsts = list(dict.fromkeys(key[0] for key in found))
    seconds = list(dict.fromkeys(key[1] for key in found))
    table = [["", *firsts, "A_all"]]
    for second in seconds:
        row = [_shown("accuracy", found.get((first, second, "accuracy"))) for first in firsts]
        bound = found.get((firsts[0], second, "protection.a_all"))
        table.append([str(second), *row, _shown("protection.a_all", bound)])
    return table


def _says_something(name: str, settings: list[str], cells: Cells) -> bool:
    """Return whether a number is neither 0 everywhere nor the accuracy once more."""
    values = [cells[own, name]["mean"] for own in settings if (own, name) in cells]
    accuracies = [cells[own, "accuracy"]["mean"] for own in settings]
    return name == "accuracy" or (any(values) and values != accuracies)


def _shown(name: str, entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    if name.startswith("epsilon"):
        return f"{entry['mean']:.1f} ± {entry['spread']:.1f}"
    if name not in SHOWN or name == "leakage.auc":
        return f"{entry['mean']:.3f} ± {entry['spread']:.3f}"
    return f"{100 * entry['mean']:.1f} ± {100 * entry['spread']:.1f}"


def keyed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries with their settings in words."""
    return [
        entry | {"settings": ", ".join(_words(*item) for item in entry["settings"].items())}
        for entry in entries
    ]


def _words(path: str, value: Any) -> str:
    says_enough = isinstance(value, str) and not value.lstrip("-")[:1].isdigit()
    return value if says_enough else f"{path.split('.')[-1]} {value}"
