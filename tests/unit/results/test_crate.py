"""RO-Crate metadata, checked against what the specification 1.2 requires."""

import hashlib
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from fl_sim import Experiment, Layout, run
from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.errors import RequestError
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.results import Results
from fl_sim.results.crate import METADATA, write_crate

Entities = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(
    experiment: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory
) -> Results:
    wanted = experiment(rounds=1, protection=RandomNoise(), layout=Layout(fraction=0.5))
    return run(wanted, seeds=[0, 1], out=tmp_path_factory.mktemp("runs"))


def read(path: Path) -> Entities:
    """Return the entities of a crate, after the checks that hold for every crate."""
    content = json.loads((path / METADATA).read_text("utf-8"))
    assert content["@context"] == "https://w3id.org/ro/crate/1.2/context"
    graph = content["@graph"]
    entities: Entities = {entity["@id"]: entity for entity in graph}
    assert len(entities) == len(graph)
    assert all(entity.keys() >= {"@id", "@type"} for entity in graph)
    for entity in graph:  # flat: whatever an entity holds is a value or a reference
        for value in entity.values():
            for item in value if isinstance(value, list) else [value]:
                assert isinstance(item, str) or item.keys() == {"@id"}
    descriptor = entities[METADATA]
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.2"}
    assert descriptor["about"] == {"@id": "./"}
    root = entities["./"]
    assert root["@type"] == "Dataset"
    assert all(root[name] for name in ("name", "description", "license"))
    assert datetime.fromisoformat(root["datePublished"]).tzinfo is not None
    legal = entities[root["license"]["@id"]]
    assert legal["name"]
    assert legal["description"]
    reached, waiting = set(), ["./"]
    while waiting:
        parts = entities[waiting.pop()].get("hasPart", [])
        waiting += [part["@id"] for part in parts]
        reached |= {part["@id"] for part in parts}
    data = {e["@id"] for e in graph if e["@type"] in ("File", "Dataset")} - {"./"}
    assert data == reached
    for name in data:
        file = path / unquote(name)
        if entities[name]["@type"] == "Dataset":
            assert name.endswith("/")
            assert file.is_dir()
        else:
            content = file.read_bytes()
            assert entities[name]["sha256"] == hashlib.sha256(content).hexdigest()
            assert entities[name]["contentSize"] == str(len(content))
            assert "/" in entities[name]["encodingFormat"]
    return entities


def test_the_crate_of_an_experiment_has_every_finished_run(results: Results) -> None:
    assert write_crate(results.path, "CC-BY-4.0") == results.path / METADATA
    entities = read(results.path)
    assert entities["./"]["name"] == "test"
    assert entities["./"]["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    folders = {p.parent.relative_to(results.path) for p in results.path.glob("*/*/result.json")}
    assert len(folders) == 6  # two seeds of the run and of two controls
    assert {f"{folder.as_posix()}/" for folder in folders} == {
        part["@id"] for part in entities["./"]["hasPart"] if part["@id"].endswith("/")
    }
    actions = [e for e in entities.values() if e["@type"] == "CreateAction"]
    assert len(actions) == 6
    for action in actions:
        (script,) = action["object"]
        assert entities[script["@id"]]["name"] == "experiment.json"
        names = {entities[file["@id"]]["name"] for file in action["result"]}
        assert names >= {"result.json", "rows.parquet", "model.safetensors", "environment.json"}
        maker = entities[action["instrument"]["@id"]]
        assert maker["name"] == "fl_sim"
        needed = {entities[each["@id"]]["name"] for each in maker["softwareRequirements"]}
        assert needed == {"python", "torch", "numpy", "flwr"}


def test_the_same_results_give_the_same_bytes_but_for_dates(results: Results) -> None:
    before = write_crate(results.path).read_bytes()
    assert write_crate(results.path).read_bytes() == before
    os.utime(results.path / "summary.json", (0, 0))
    after = json.loads(write_crate(results.path).read_bytes())["@graph"][1]
    assert after["datePublished"] == after["dateCreated"] == "1970-01-01T00:00:00+00:00"
    dates = {"datePublished": "", "dateCreated": ""}
    assert {**after, **dates} == {**json.loads(before)["@graph"][1], **dates}
    assert not list(results.path.rglob("*.partial"))


def test_a_single_run_is_a_crate_of_its_own(results: Results) -> None:
    folder = min(results.path.glob("*/seed=1"))
    write_crate(folder, "https://example.org/terms")
    entities = read(folder)
    assert entities["./"]["name"] == f"test, run {folder.parent.name}, seed 1"
    assert entities["./"]["license"] == {"@id": "https://example.org/terms"}
    assert {"experiment.json", "result.json", "model.safetensors"} <= set(entities)


def test_without_a_licence_the_crate_says_so(results: Results) -> None:
    write_crate(results.path)
    entities = read(results.path)
    assert "No licence was stated" in entities["#no-licence"]["description"]


def test_a_licence_that_is_no_identifier_is_refused(results: Results, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--license: an identifier such as CC-BY-4\.0"):
        write_crate(results.path, "free for all")
    with pytest.raises(RequestError, match="no results in"):
        write_crate(tmp_path)


def test_a_changed_file_leaves_the_earlier_crate(results: Results) -> None:
    folder = min(results.path.glob("*/seed=0"))
    before = write_crate(folder).read_bytes()
    file = folder / "failures.json"
    kept = file.read_bytes()
    file.write_text("[{}]")
    try:
        with pytest.raises(DamagedFileError, match=r"failures\.json"):
            write_crate(folder)
        with pytest.raises(RequestError, match=r"failures\.json"):
            write_crate(results.path)
    finally:
        file.write_bytes(kept)
    assert (folder / METADATA).read_bytes() == before
