"""Restriction of Ray to the loopback interface, so that no other machine reaches its ports.

For workers on other machines, start a cluster with `ray start` and join it by `--ray-address`. Ray
takes a loopback address for a mistake and listens on all interfaces, except on systems on which it
supports no clusters; this module makes it believe that it runs on one. Written for Ray 2.55;
tests/unit/backends/test_loopback.py checks it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # read on Linux, too
MAX_SOCKET_PATH = 107  # bytes that Linux allows
SOCKET_SUFFIX = 60  # bytes that Ray appends to its folder: session, date, process, name


@contextmanager
def listen_on_loopback() -> Iterator[None]:
    """Let a Ray that is started in the block listen on the loopback interface only."""
    from ray._private import ray_constants  # a second to import

    constant, variable = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(SWITCH)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[SWITCH] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        if variable is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = variable


def find_start_problem() -> str:
    """Return the reason why Ray cannot start on this machine, or an empty string."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    length = len(os.fsencode(folder)) + len("/ray/") + SOCKET_SUFFIX
    if length > MAX_SOCKET_PATH:
        return (
            f"the folder for temporary files, {folder}, has too long a name for Ray's sockets; "
            "set RAY_TMPDIR or TMPDIR to a shorter one, such as /tmp"
        )
    return ""
