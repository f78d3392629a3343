"""The page of results that is served while they are written."""

import http.client
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from urllib.parse import urlsplit

import pytest

from fl_sim.core.atomic_io import read_json, write_json
from fl_sim.core.errors import RequestError
from fl_sim.report import watch
from fl_sim.report.content import Content

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.02)
    monkeypatch.setattr(watch, "MIN_BUILD_PAUSE", 0.05)
    monkeypatch.setattr(watch, "BUILD_SHARE", 1e9)


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Leave pages empty, which takes less time, and list those that were built."""
    built: list[Path] = []

    def read(path: Path) -> Content:
        built.append(path)
        return Content("toy", [], complete=True, question="")

    monkeypatch.setattr(watch, "read_content", read)
    return built


@contextmanager
def serving(path: Path, until_finished: bool = False) -> Iterator[int]:
    """Serve a folder in a thread, and give the port."""
    addresses: Queue[str] = Queue()
    stop = threading.Event()
    thread = threading.Thread(
        target=watch.serve, args=(path, 0, until_finished, addresses.put, stop)
    )
    thread.start()
    try:
        address = urlsplit(addresses.get(timeout=10))
        assert address.hostname == "127.0.0.1"
        yield address.port or 0
        if until_finished:
            thread.join(10)
            assert not thread.is_alive()
    finally:
        stop.set()
        thread.join(10)


def get(port: int, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {} if host is None else {"Host": host}
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, text


def wait_for(port: int, words: str) -> str:
    """Return the page as soon as it has some words."""
    for _ in range(500):
        _, text = get(port)
        if words in text:
            return text
        threading.Event().wait(0.02)
    raise AssertionError(f"{words!r} is not on the page")


@pytest.fixture
def results(make_results: Callable, sweep: type) -> Path:
    return make_results(sweep(axes={"layout.fraction": [0.0, 0.5]})).path


def mark_unfinished(path: Path, place: int) -> dict:
    """Let a run of a summary be unfinished, and return the summary before."""
    before = read_json(path / "summary.json")
    cells = [dict(cell) for cell in before["cells"]]
    kept = ("experiment", "run_id", "seed", "seeds", "settings", "label")
    unfinished = {name: cells[place][name] for name in kept}
    cells[place] = {**unfinished, "status": "failed", "error": "not finished"}
    write_json(path / "summary.json", {**before, "cells": cells})
    return before


def test_the_page_follows_the_results(results: Path) -> None:
    before = mark_unfinished(results, 1)
    with serving(results) as port:
        first = wait_for(port, "1 of 2 runs have finished; this page shows others as they come")
        version = json.loads(get(port, "/state")[1])["version"]
        assert f'data-version="{version}"' in first
        write_json(results / "summary.json", before)
        second = wait_for(port, "2 of 2 runs have finished.")
    assert "Key numbers" in first
    assert f'data-version="{version}"' not in second


def test_it_is_built_only_when_something_changed(results: Path, empty: list[Path]) -> None:
    with serving(results) as port:
        wait_for(port, "2 of 2")
        for _ in range(10):
            get(port, "/state")
            threading.Event().wait(0.02)
    assert empty == [results]


def test_it_is_not_built_while_nobody_looks_on(
    results: Path, empty: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = watch.LivePage(results)
    monkeypatch.setattr(watch, "ATTENTION", -1.0)
    live.refresh()
    assert (live.version, empty) == (0, [])


def test_before_there_are_results_the_page_waits(tmp_path: Path) -> None:
    with serving(tmp_path / "soon") as port:
        assert "There are no results yet" in get(port)[1]
    assert not (tmp_path / "soon").exists()


@pytest.mark.usefixtures("empty")
def test_the_rounds_of_runs_that_go_on_are_shown_without_a_new_page(results: Path) -> None:
    line = {"label": "fraction 0.5, seed 1", "round": 3, "rounds": 8}
    for name, content in (("a", json.dumps(line)), ("b", '{"label": "cut'), ("c", "")):
        (results / name / "seed=1").mkdir(parents=True)
        (results / name / "seed=1/progress.jsonl").write_text(f"{{}}\n{content}")
    (results / "d/seed=1").mkdir(parents=True)
    (results / "d/seed=1/progress.jsonl").symlink_to("removed")  # listed, but no longer there
    with serving(results) as port:
        wait_for(port, "2 of 2 runs have finished.")
        found = json.loads(get(port, "/state")[1])
        assert found["state"] == "2 of 2 runs have finished. fraction 0.5, seed 1: round 3 of 8."
        (results / "a/seed=1/result.json").touch()
        later = json.loads(get(port, "/state")[1])
    assert later == {"version": found["version"], "state": "2 of 2 runs have finished."}


@pytest.mark.usefixtures("empty")
def test_other_hosts_and_paths_are_refused(results: Path) -> None:
    with serving(results) as port:
        assert get(port, host=f"localhost:{port}")[0] == 200
        for host in ("example.org", f"example.org:{port}", "127.0.0.1:1", "", f"[::1]:{port}"):
            assert get(port, host=host)[0] == 403, host
        assert get(port, "/summary.json")[0] == 404
        assert get(port, "/../summary.json")[0] == 404


def test_the_page_asks_nobody_but_its_own_server(results: Path) -> None:
    with serving(results) as port:
        text = wait_for(port, "2 of 2")
    policy = re.search(r'Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'self'" in policy[1]
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    assert re.findall(r"fetch\(([^,]*)", text) == ['"state"']


@pytest.mark.usefixtures("empty")
def test_it_ends_with_the_sweep(results: Path) -> None:
    before = mark_unfinished(results, 0)
    assert not watch.is_over(results)
    with serving(results, until_finished=True) as port:
        wait_for(port, "1 of 2")
        write_json(results / "summary.json", before)
    assert watch.is_over(results)


def test_a_summary_that_is_older_than_the_sweep_is_not_its_end(results: Path) -> None:
    (results / ".lock").write_text("{}")
    os.utime(results / ".lock", (100, 100))
    assert watch.is_over(results)
    os.utime(results / "summary.json", (50, 50))
    assert not watch.is_over(results)


@pytest.mark.usefixtures("empty")
def test_a_port_in_use_is_a_wrong_request(results: Path) -> None:
    with serving(results) as port, pytest.raises(RequestError, match=f"--port: cannot use {port}"):
        watch.serve(results, port, False, print)
