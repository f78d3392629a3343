"""RO-Crate metadata of results: their files, hashes, experiments, software and licence."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fl_sim.core.atomic_io import hash_file, read_json, write_json
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.results.folders import (
    AUDIT,
    AUDIT_FINDINGS,
    AUDIT_RECORDS,
    MODEL,
    RESULT,
    ROWS,
    read_result,
    run_folder,
)
from fl_sim.results.tables import SUMMARY, load_results

METADATA = "ro-crate-metadata.json"
SPECIFICATION = "https://w3id.org/ro/crate/1.2"
SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
NO_LICENCE = "No licence was stated: ask the author before these results are used again."
EXPERIMENT, ENVIRONMENT = "experiment.json", "environment.json"
PACKAGES = ("python", "torch", "numpy", "flwr")  # in the environment, beside fl_sim
FORMATS = {
    ".json": "application/json",
    ".npz": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
    ".safetensors": "application/octet-stream",
}
CONTENTS = {
    SUMMARY: "Settings, status and headline numbers of every run",
    ROWS: "Every number of every round, one per row",
    RESULT: "Headline numbers of the run, and the hashes of its files",
    MODEL: "Parameters of the trained model",
    AUDIT: "Summary of an audit for membership leakage",
    AUDIT_FINDINGS: "Findings of the audit",
    AUDIT_RECORDS: "Scores of every record in the audit",
    EXPERIMENT: "Experiment with all of its fields, from which fl-sim can run it again",
    ENVIRONMENT: "Versions of the software, and the machine",
    "failures.json": "Clients that sent no update",
    "samples.npz": "A few images, clean and as published, and records by client and class",
    "signals.parquet": "Loss and margin of every record under the trained model",
}
Entity = dict[str, Any]


def write_crate(path: Path, licence: str = "") -> Path:
    """Write `ro-crate-metadata.json` for a finished run, or all finished runs of an experiment.

    The same results give the same bytes, except for the dates, which are those of the files.

    Args:
        path: Folder of the run or of the experiment, which becomes the root of the crate.
        licence: Licence of the results: an identifier of SPDX such as `CC-BY-4.0`, or an address.

    Returns:
        Path of the file.

    Raises:
        RequestError: If no run has finished, or the licence is neither.
        DamagedFileError: If a file was changed since it was written.

    Source: RO-Crate Metadata Specification 1.2, https://w3id.org/ro/crate/1.2
    """
    legal = _describe_licence(licence)
    result = read_result(path)
    if result is None:
        root, entities = _describe_experiment(path)
    else:
        name = f"{result['experiment']}, run {result['run_id']}, seed {result['seed']}"
        run, entities = _describe_run(path, "", result)
        root = {**run, "name": name}
    about = {"about": {"@id": "./"}, "conformsTo": {"@id": SPECIFICATION}}
    descriptor = {"@id": METADATA, "@type": "CreativeWork", **about}
    root |= {"datePublished": root["dateCreated"], "license": _refer(legal)}
    distinct = {entity["@id"]: entity for entity in [descriptor, root, *entities, legal]}
    crate = {"@context": f"{SPECIFICATION}/context", "@graph": list(distinct.values())}
    write_json(path / METADATA, crate)
    return path / METADATA


def _describe_licence(licence: str) -> Entity:
    """Return the entity of a licence.

    Raises:
        FieldError: If it is neither an identifier nor an address.
    """
    if not licence:
        about = {"name": "No licence stated", "description": NO_LICENCE}
        return {"@id": "#no-licence", "@type": "CreativeWork", **about}
    is_address = licence.startswith(("https://", "http://")) and not re.search(r"\s", licence)
    if not is_address and not SPDX.fullmatch(licence):
        raise FieldError("--license", "an identifier such as CC-BY-4.0, or an address", licence)
    address = licence if is_address else f"https://spdx.org/licenses/{licence}"
    about = {"name": licence, "description": f"The results may be used under {licence}."}
    return {"@id": address, "@type": "CreativeWork", **about}


def _describe_experiment(path: Path) -> tuple[Entity, list[Entity]]:
    """Return the entity of an experiment's folder, and those of its files and finished runs."""
    results = load_results(path)
    if results.damaged:
        raise RequestError(f"damaged: {results.damaged[0]}")
    summary = read_json(path / SUMMARY)
    keys = {(e["run_id"], e["seed"]) for e in summary["cells"] + summary["controls"]}
    runs: list[Entity] = []
    files = [_describe_file(path, name) for name in (SUMMARY, ROWS)]
    entities = list(files)
    for run_id, seed in sorted(keys):
        folder = run_folder(path, run_id, seed)
        result = read_result(folder, (run_id, seed))
        if result is not None:
            run, parts = _describe_run(path, f"{folder.relative_to(path).as_posix()}/", result)
            runs.append(run)
            entities += [run, *parts]
    if not runs:
        raise RequestError(f"no finished run in {path}")
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": str(summary["experiment"]),
        "description": results.question or f"Runs of the experiment {summary['experiment']}.",
        "dateCreated": _read_time(path / SUMMARY),
        "hasPart": [*map(_refer, files), *map(_refer, runs)],
    }
    return root, entities


def _describe_run(root: Path, below: str, result: Mapping[str, Any]) -> tuple[Entity, list[Entity]]:
    """Return the entity of a run's folder, and those of its files, software and making.

    Args:
        root: Root of the crate.
        below: Path from there to the folder, with a slash at its end; empty for the root.
        result: Content of its `result.json`.
    """
    folder = root / below
    audit = (AUDIT, AUDIT_FINDINGS, AUDIT_RECORDS) if (folder / AUDIT).exists() else ()
    names = [*(result.get("files") or ()), RESULT, *audit]
    files = [_describe_file(root, f"{below}{name}") for name in dict.fromkeys(names)]
    environment = read_json(folder / ENVIRONMENT)
    software = list(_describe_software(environment))
    time = _read_time(folder / RESULT)
    script = quote(f"{below}{EXPERIMENT}", safe="/=")
    name = f"run {result['run_id']}, seed {result['seed']}"
    action = {
        "@id": f"#{result['run_id']}-{result['seed']}",
        "@type": "CreateAction",
        "name": f"{name} of {result['experiment']}",
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
        "endTime": time,
        "instrument": _refer(software[0]),
        "object": [_refer(file) for file in files if file["@id"] == script],
        "result": [_refer(file) for file in files if file["@id"] != script],
    }
    run = {
        "@id": below or "./",
        "@type": "Dataset",
        "name": name,
        "description": f"Results of one run of {result['experiment']} on {result['dataset']}.",
        "dateCreated": time,
        "hasPart": list(map(_refer, files)),
        "mentions": [_refer(action)],
    }
    return run, [*files, action, *software]


def _describe_file(root: Path, name: str) -> Entity:
    """Return the entity of a file, with its size in bytes and its SHA-256."""
    path = root / name
    return {
        "@id": quote(name, safe="/="),
        "@type": "File",
        "name": path.name,
        "description": CONTENTS.get(path.name, f"File {path.name} of the run"),
        "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
        "contentSize": str(path.stat().st_size),
        "sha256": hash_file(path),
    }


def _describe_software(environment: Mapping[str, Any]) -> Iterable[Entity]:
    """Yield the entity of fl_sim in the version that made a run, and those of what it needs."""
    needed = [
        {
            "@id": f"#{name}-{quote(str(environment[name]), safe='')}",
            "@type": "SoftwareApplication",
            "name": name,
            "version": str(environment[name]),
        }
        for name in PACKAGES
        if name in environment
    ]
    version, commit = str(environment.get("fl_sim", "unknown")), environment.get("commit")
    words = "-".join([version, *([str(commit)] if commit else []), *(n["version"] for n in needed)])
    yield {
        "@id": f"#fl_sim-{quote(words, safe='')}",
        "@type": "SoftwareApplication",
        "name": "fl_sim",
        "version": f"{version} ({commit})" if commit else version,
        "license": {"@id": "https://spdx.org/licenses/Apache-2.0"},
        "softwareRequirements": list(map(_refer, needed)),
    }
    yield from needed


def _refer(entity: Entity) -> Entity:
    return {"@id": entity["@id"]}


def _read_time(path: Path) -> str:
    """Return the time at which a file was written, as in ISO 8601, to the second and in UTC."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
