"""Experiment files and experiment.json."""

import json
import random
from pathlib import Path
from typing import Any, ClassVar, final

from fl_sim import Experiment
from fl_sim.config import experiment_file, validation
from fl_sim.config.sweeps import expand_cells
from fl_sim.core.errors import RequestError
from tests.fuzz.families import Family
from tests.fuzz.judge import call, expect, normalise_json
from tests.fuzz.mutations import mutate_json, mutate_text

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def _try_file(path: Path) -> bool:
    """Read a file as `fl-sim sweep` does, without running it; sweep those that are refused."""
    try:
        content = experiment_file.read(path)
        for cell in expand_cells(
            content.experiment, content.axes, content.seeds, skip=content.skip
        )[:3]:
            validation.check(cell.experiment)
    except RequestError:
        out = path.parent / "runs"
        called = call("sweep", str(path), "--out", str(out))
        expect(called.code == 2, f"refused when read, exit code {called.code} when swept")
        expect(not out.exists(), "refused, and something was written")
        raise
    again = Experiment.from_json(content.experiment.to_json())
    expect(again.to_json() == content.experiment.to_json(), "another experiment after JSON")
    return True


@final
class ExperimentFiles(Family):
    """The Python files of `experiments/`, with changed lines, names and numbers."""

    name: ClassVar[str] = "experiment files"

    def __init__(self, folder: Path) -> None:
        """Read the corpus."""
        super().__init__(folder)
        self.corpus = [path.read_text() for path in sorted(EXPERIMENTS.glob("*.py"))]

    def attempt(self, rng: random.Random) -> bool:
        """Change one file."""
        path = self.folder / "input" / "fuzzed.py"
        path.write_bytes(mutate_text(rng, rng.choice(self.corpus)))
        return _try_file(path)


@final
class ExperimentJson(Family):
    """The JSON of experiments, with changed leaves, keys and bytes."""

    name: ClassVar[str] = "experiment.json"

    def __init__(self, folder: Path) -> None:
        """Describe the experiments of `experiments/`."""
        super().__init__(folder)
        texts = {p: p.read_text() for p in sorted(EXPERIMENTS.glob("*.py"))}
        files = [p for p, text in texts.items() if "\nEXPERIMENT" in text]
        self.corpus = [experiment_file.read(path).experiment.describe() for path in files[:12]]

    def attempt(self, rng: random.Random) -> bool:
        """Change one description; an accepted one must give the experiment it describes."""
        path = self.folder / "input" / "experiment.json"
        path.write_bytes(mutate_json(rng, rng.choice(self.corpus)))
        accepted = _try_file(path)
        pairs: list[tuple[str, Any]] = []
        stated = json.loads(
            path.read_text(), object_pairs_hook=lambda value: _collect_pairs(pairs, value)
        )
        parsed = normalise_json(experiment_file.read(path).experiment.describe())
        expect(
            _is_part(normalise_json(stated), parsed),
            "the experiment says something else than its JSON",
        )
        return accepted


def _collect_pairs(
    collected: list[tuple[str, Any]], pairs: list[tuple[str, Any]]
) -> dict[str, Any]:
    expect(len({key for key, _ in pairs}) == len(pairs), "a key that came twice was accepted")
    collected += pairs
    return dict(pairs)


def _is_part(stated: Any, parsed: Any) -> bool:
    """Return whether `parsed` contains `stated`; a short name stands for its class."""
    if isinstance(stated, dict) and isinstance(parsed, dict):
        named = ("class", *parsed)
        return all(
            key in named and _is_part(value, parsed.get(key, value))
            for key, value in stated.items()
        )
    if isinstance(stated, list) and isinstance(parsed, list):
        return len(stated) == len(parsed) and all(map(_is_part, stated, parsed))
    if isinstance(parsed, list):
        return parsed in ([], [stated]) if stated is None else len(parsed) == 1
    if isinstance(stated, str) and isinstance(parsed, dict):
        return "class" in parsed
    return bool(stated == parsed) and isinstance(stated, bool) == isinstance(parsed, bool)
