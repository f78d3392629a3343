"""Tests of the cost of a process tree: orphans and ended processes count, shared memory once."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.tree import ProcessTree, list_processes, read_cpu_seconds

ROOT = Path(__file__).parents[2]
BURN = """
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
ORPHAN = f"""{BURN}
import os, subprocess, sys
from benchmarks.tree import become_reaper
become_reaper()
middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
leaf = {BURN!r} + "burn(0.5); print(time.process_time(), flush=True); time.sleep(60)"
subprocess.run([sys.executable, "-c", middle, leaf])
time.sleep(60)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python process that prints a line when it is ready; end its tree afterwards."""
    begun = []

    def begin(code: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-c", code], **pipes, text=True, env=environment
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        ProcessTree(process.pid).kill()
        process.communicate()


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_time_of_orphans_counts(start: Start) -> None:
    root = start(ORPHAN)
    used = float(read_line(root))
    assert used >= 0.5
    assert len(list_processes(root.pid)) == 2
    own = read_cpu_seconds(root.pid)
    assert own is not None
    assert ProcessTree(root.pid).cpu_seconds() == pytest.approx(used + own, abs=0.05)


def test_the_time_of_ended_processes_counts(start: Start) -> None:
    code = f"""{BURN}
import subprocess, sys
child = {BURN!r} + "burn(0.5); print(time.process_time(), flush=True); input()"
subprocess.run([sys.executable, "-c", child])
print("over", flush=True)
time.sleep(60)
"""
    root = start(code)
    used = float(read_line(root))
    tree = ProcessTree(root.pid)
    with tree.watch_memory():
        while sum(tree.cpu_by_process.values()) < used:
            time.sleep(0.01)
        assert root.stdin is not None
        print(file=root.stdin, flush=True)  # the child ends
        assert read_line(root) == "over"
    assert list_processes(root.pid) == [root.pid]
    own = read_cpu_seconds(root.pid)
    assert own is not None
    assert tree.cpu_seconds() == pytest.approx(used + own, abs=0.05)


def test_memory_is_that_of_the_whole_tree(start: Start) -> None:
    hold = """
import os, time
block = bytearray(b"x") * (60 << 20)
os.write(1, b"held" + bytes([10]))  # in one piece: both write into one pipe
time.sleep(60)
"""
    code = f"""
import subprocess, sys, time
children = [subprocess.Popen([sys.executable, "-c", {hold!r}]) for _ in range(2)]
time.sleep(60)
"""
    root = start(code)
    assert [read_line(root), read_line(root)] == ["held", "held"]
    tree = ProcessTree(root.pid)
    with tree.watch_memory():
        pass
    assert 120 < tree.peak_mib < 180


def test_a_paused_tree_uses_no_time(start: Start) -> None:
    root = start(f"{BURN}print('go', flush=True); burn(60)")
    assert read_line(root) == "go"
    tree = ProcessTree(root.pid)
    tree.pause()
    while ") T " not in Path(f"/proc/{root.pid}/stat").read_text():  # a signal takes a moment
        time.sleep(0.01)
    before = tree.cpu_seconds()
    time.sleep(0.3)
    assert tree.cpu_seconds() == before
    tree.resume()
    deadline = time.monotonic() + 20
    while tree.cpu_seconds() - before < 0.02:
        assert time.monotonic() < deadline


def test_an_ended_tree_costs_no_more(start: Start) -> None:
    root = start("")
    root.wait()
    assert list_processes(root.pid) == []
    assert ProcessTree(root.pid).cpu_seconds() == 0
    assert ProcessTree(root.pid).resident_mib() == 0
