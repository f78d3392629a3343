"""Ports that are open during a run can be reached from this machine only."""

import ipaddress
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_sim import Experiment, run
from fl_sim.backends import loopback
from fl_sim.runs.progress import Progress

Maker = Callable[..., Experiment]
LISTENING = "0A"


def address_of(word: str) -> str:
    """Return an address out of /proc/net/tcp: words of four bytes, in the machine's order."""
    words = [bytes.fromhex(word[i : i + 8])[::-1] for i in range(0, len(word), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def sockets_of(pids: set[int]) -> set[str]:
    """Return the numbers of the sockets that processes hold."""
    found = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def descendants() -> set[int]:
    """Return this process and all that it has started, and those in turn."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue
        parents[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def listening() -> list[str]:
    """Return the addresses on which this process and its children listen."""
    ours, found = sockets_of(descendants()), []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            own = line.split()
            if own[3] == LISTENING and own[9] in ours:
                found.append(address_of(own[1].split(":")[0]))
    return found


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.fixture(autouse=True)
def no_ray_left() -> Iterator[None]:
    """Leave no worker behind."""
    yield
    import ray

    ray.shutdown()


@pytest.mark.ray
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_ray_listens_to_this_machine_alone(experiment: Maker, tmp_path: Path, engine: Any) -> None:
    seen: list[str] = []

    def look(progress: Progress) -> None:
        seen.extend(listening())

    results = run(
        experiment(rounds=1), out=tmp_path, controls=False, engine=engine, workers=1, listen=look
    )
    assert results.complete, results.cells.error.tolist()
    assert seen, "nothing listens: nothing was tested"
    assert [address for address in seen if not is_loopback(address)] == []


def test_addresses_are_read() -> None:
    assert address_of("0100007F") == "127.0.0.1"
    assert is_loopback(address_of("0000000000000000FFFF00000100007F"))
    assert not is_loopback(address_of("00000000000000000000000000000000"))


@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_a_folder_with_too_long_a_name_is_told_at_once(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/" + 80 * "x")
    results = run(experiment(rounds=1), out=tmp_path, controls=False, engine=engine)
    assert "too long a name for Ray's sockets" in results.cells.error[0]
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert loopback.find_start_problem() == ""
