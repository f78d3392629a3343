"""Files of runs and of `fl-sim protect`: results, checkpoints, cache, manifests."""

import json
import math
import os
import random
import shutil
from pathlib import Path
from typing import Any, ClassVar, final
from unittest import mock

import numpy as np
from PIL import Image

from fl_sim import load_results, run
from fl_sim.data.layout import Layout
from fl_sim.federation import federation
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.results import Results
from fl_sim.runs.progress import Progress
from tests.fuzz.families import Family, small_experiment
from tests.fuzz.judge import call, expect
from tests.fuzz.mutations import mutate_bytes, mutate_json


def _damage(rng: random.Random, root: Path) -> str:
    """Change, empty, replace or delete one file below a folder, and return a description."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".html")
    path, draw = rng.choice(files), rng.random()
    if draw < 0.1:
        path.unlink()
        return f"{path.name} deleted"
    if draw < 0.2:
        other = rng.choice(files)
        path.write_bytes(other.read_bytes())
        return f"{path.name} replaced by {other.name}"
    if draw < 0.4 and path.suffix == ".json":
        path.write_bytes(mutate_json(rng, json.loads(path.read_text())))
        return f"{path.name} with other values"
    path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    return f"{path.name} with other bytes"


def _is_same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@final
class ResultFiles(Family):
    """The files of a finished run, damaged, then reported or resumed."""

    name: ClassVar[str] = "result files"

    def __init__(self, folder: Path) -> None:
        """Run a small experiment for two seeds."""
        super().__init__(folder)
        self.experiment = small_experiment()
        self.clean = run(self.experiment, [0, 1], out=folder / "clean", controls=False)
        self.file = folder / "experiment.json"
        self.file.write_text(self.experiment.to_json())

    def attempt(self, rng: random.Random) -> bool:
        """Damage one file; numbers still reported as finished must be the right ones."""
        out = self.folder / "input" / "runs"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.folder / "clean", out)
        what, draw = _damage(rng, out), rng.random()
        if draw < 0.1:  # a page takes seconds
            called = call("report", str(out / "fuzz"))
        elif draw < 0.2:
            path, options = str(self.file), ("--seeds", "0,1", "--no-controls", "--resume")
            called = call("run", path, *options, "--out", str(out), "--progress", "none")
        elif draw < 0.6:
            return self._compare(load_results(out / "fuzz"), what)
        else:
            results = run(self.experiment, [0, 1], out=out, controls=False, resume=True)
            return self._compare(results, what)
        return called.code != 2 and self._compare(load_results(out / "fuzz"), what)

    def _compare(self, results: Results, what: str) -> bool:
        """Compare finished cells with the clean run; return whether all cells are finished."""
        clean = self.clean.cells
        for cell in results.cells.to_dict("records"):
            if cell["status"] != "finished":
                continue
            (wanted,) = clean[clean.seed == cell["seed"]].to_dict("records")
            for name in ("params_sha256", "accuracy", "loss", "leakage.auc", "fairness.jain"):
                expect(_is_same(cell.get(name), wanted[name]), f"{what}: {name} is another")
        return results.complete


@final
class Checkpoints(Family):
    """The checkpoints and the log of an interrupted run, damaged, then resumed."""

    name: ClassVar[str] = "checkpoints"

    def __init__(self, folder: Path) -> None:
        """Run three rounds, and copy the files after the second."""
        super().__init__(folder)
        self.experiment = small_experiment(rounds=3)

        def keep(progress: Progress) -> None:
            if progress.round == 2:
                shutil.copytree(folder / "whole", folder / "broken", dirs_exist_ok=True)

        clean = run(self.experiment, out=folder / "whole", controls=False, listen=keep)
        self.wanted = clean.cells.params_sha256[0]

    def attempt(self, rng: random.Random) -> bool:
        """Damage one file, and resume."""
        out = self.folder / "input" / "runs"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.folder / "broken", out)
        what = _damage(rng, out)
        results = run(self.experiment, out=out, controls=False, resume=True)
        if results.complete:
            expect(results.cells.params_sha256[0] == self.wanted, f"{what}: another hash")
        else:
            expect(bool(results.cells.error[0]), f"{what}: not finished, and no reason given")
        return results.complete


@final
class CacheFiles(Family):
    """Noise in the cache, damaged, then used by another run."""

    name: ClassVar[str] = "cache"

    def __init__(self, folder: Path) -> None:
        """Run a protected experiment, so that its noise is in the cache."""
        super().__init__(folder)
        self.experiment = small_experiment(
            protection=LinearSeparable(radius=16 / 255), layout=Layout(0.5)
        )
        self.wanted = self._hash(folder / "cache")

    def _hash(self, cache: Path) -> str:
        out = self.folder / "input" / "runs"
        federation._cached_federation.cache_clear()  # prepared from the cache as it was
        with mock.patch.dict(os.environ, {"FL_SIM_CACHE": str(cache)}):
            results = run(self.experiment, out=out, controls=False)
        expect(results.complete, f"not finished: {results.cells.to_dict('records')}")
        return str(results.cells.params_sha256[0])

    def attempt(self, rng: random.Random) -> bool:
        """Damage one file of the cache; the run must end with the same model."""
        cache = self.folder / "input" / "cache"
        shutil.copytree(self.folder / "cache", cache)
        what = _damage(rng, cache)
        expect(self._hash(cache) == self.wanted, f"{what}: another model")
        return True


@final
class Manifests(Family):
    """A folder made by `fl-sim protect`, with a forged or damaged manifest or image."""

    name: ClassVar[str] = "manifests"

    def __init__(self, folder: Path) -> None:
        """Protect a few images."""
        super().__init__(folder)
        draw = np.random.default_rng(0)
        for label in ("a", "b"):
            (folder / "images" / label).mkdir(parents=True)
            for i in range(4):
                pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / label / f"{i}.png")
        made = folder / "protected"
        called = call("protect", str(folder / "images"), "--method", "lsp", "--out", str(made))
        assert called.code == 0, called

    def attempt(self, rng: random.Random) -> bool:
        """Check the changed folder, with the originals or without."""
        out = self.folder / "input" / "protected"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.folder / "protected", out)
        what = self._change(rng, out)
        images = [str(self.folder / "images")] if rng.random() < 0.5 else []
        called = call("protect", *images, "--check", str(out))
        if called.code == 0 and images:
            same = all(
                results.read_bytes()
                == (self.folder / "protected" / results.relative_to(out)).read_bytes()
                for results in out.rglob("*.png")
            )
            expect(same, f"{what}: an image was changed, and the check passed")
        return called.code == 0

    def _change(self, rng: random.Random, out: Path) -> str:
        if rng.random() < 0.3:
            return _damage(rng, out)
        path = out / "manifest.json"
        content = json.loads(path.read_text())
        if rng.random() < 0.3:
            entry = rng.choice(content["images"])
            entry[rng.choice(list(entry))] = rng.choice(("../../x", "/etc/passwd", "a", -1, None))
            path.write_text(json.dumps(content))
        else:
            path.write_bytes(mutate_json(rng, content))
        return "manifest.json with other values"
