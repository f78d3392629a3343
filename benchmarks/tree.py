"""CPU time and memory of a process and its descendants, read from Linux's /proc.

The root becomes the reaper of its orphans (`become_reaper`), so daemons such as Ray's stay in its
tree. CPU time is the sum of the processes' CPU clocks, in nanoseconds by the kernel; a process that
has ended counts with its last reading. Memory is the sum of all anonymous memory plus the largest
file-backed and the largest shared part of any one process, because libraries and Ray's object store
are mapped by several processes but exist only once.
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
INTERVAL = 0.2  # seconds between two readings, which cost CPU time themselves
GONE = (FileNotFoundError, ProcessLookupError, PermissionError, OSError)


class Memory(NamedTuple):
    """Resident memory of one process, in KiB."""

    anonymous: int
    file: int
    shared: int


def become_reaper() -> None:
    """Keep orphaned descendants in the tree of this process, and end it with its parent."""
    control = ctypes.CDLL(None, use_errno=True).prctl
    control(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    control(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def list_processes(root: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for process in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        with contextlib.suppress(*GONE):
            _, _, rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")
            children.setdefault(int(rest.split()[1]), []).append(process)
    ids, waiting = [], [root] if Path(f"/proc/{root}").exists() else []
    while waiting:
        ids.append(waiting.pop())
        waiting += children.get(ids[-1], [])
    return ids


def read_cpu_seconds(process: int) -> float | None:
    """Return the CPU time of one process so far; None if it has ended."""
    try:
        clock: int = (~process << 3) | 2  # the id of its CPU clock, as from clock_getcpuclockid
        return float(time.clock_gettime(clock))
    except OSError:
        return None


def read_memory(process: int) -> Memory | None:
    """Return the resident memory of one process; None if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except GONE:
        return None
    sizes = {
        key: int(rest.split()[0])
        for key, _, rest in (line.partition(":") for line in lines)
        if key in ("RssAnon", "RssFile", "RssShmem")
    }
    if len(sizes) < 3:  # a zombie has none
        return None
    return Memory(sizes["RssAnon"], sizes["RssFile"], sizes["RssShmem"])


class ProcessTree:
    """The process `root` and its descendants."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.cpu_by_process: dict[int, float] = {}
        self.peak_mib = 0.0

    def cpu_seconds(self) -> float:
        """Return the CPU time of the tree so far, in seconds."""
        for process in list_processes(self.root):
            used = read_cpu_seconds(process)
            if used is not None:
                self.cpu_by_process[process] = used
        return sum(self.cpu_by_process.values())

    def resident_mib(self) -> float:
        """Return the resident memory of the tree, in MiB."""
        parts = [part for part in map(read_memory, list_processes(self.root)) if part is not None]
        if not parts:
            return 0.0
        anonymous, file, shared = zip(*parts, strict=True)
        return float(sum(anonymous) + max(file) + max(shared)) / 1024

    @contextlib.contextmanager
    def watch_memory(self) -> Iterator[None]:
        """Keep `peak_mib` up to date, in a thread of this process."""
        done = threading.Event()

        def watch() -> None:
            while True:
                self.peak_mib = max(self.peak_mib, self.resident_mib())
                if done.wait(INTERVAL):
                    break
                self.cpu_seconds()  # for processes that end before the next reading

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def pause(self) -> None:
        """Stop every process of the tree until `resume`."""
        stopped: set[int] = set()
        while fresh := set(list_processes(self.root)) - stopped:
            self._signal(fresh, signal.SIGSTOP)
            stopped |= fresh

    def resume(self) -> None:
        """Continue every process of the tree."""
        self._signal(set(list_processes(self.root)), signal.SIGCONT)

    def kill(self) -> None:
        """End every process of the tree."""
        self.pause()  # so that no process starts another meanwhile
        self._signal(set(list_processes(self.root)), signal.SIGKILL)

    @staticmethod
    def _signal(ids: set[int], number: signal.Signals) -> None:
        for process in ids:
            with contextlib.suppress(*GONE):
                os.kill(process, number)
