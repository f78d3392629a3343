"""Ray that listens to this machine alone: nobody else can reach its ports.

Whoever wants workers on other machines starts a cluster with `ray start`, and joins it by
`--ray-address`. Ray takes any loopback address for a mistake and listens on all interfaces,
unless it was told that there are no clusters here; that is what this module tells it. Written for
Ray 2.55; tests/unit/backends/test_loopback.py guards it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # of its name, but read on every system
MAX_SOCKET_PATH = 107  # bytes of a path that Linux takes for a socket
SOCKET_SUFFIX = 60  # bytes that Ray puts behind its folder: session, date, process, name


@contextmanager
def listen_on_loopback() -> Iterator[None]:
    """Let a Ray that is started in the block listen on the loopback interface alone."""
    from ray._private import ray_constants  # a second to import

    before, told = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(SWITCH)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[SWITCH] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if told is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = told


def find_start_problem() -> str:
    """Return why Ray could not start on this machine, or nothing."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    length = len(os.fsencode(folder)) + len("/ray/") + SOCKET_SUFFIX
    if length > MAX_SOCKET_PATH:
        return (
            f"the folder for temporary files, {folder}, has too long a name for Ray's sockets; "
            "set RAY_TMPDIR or TMPDIR to a shorter one, such as /tmp"
        )
    return ""
