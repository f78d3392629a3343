"""Child process of one engine: `python -m benchmarks.child COMMANDS REPLIES JOB`."""

import importlib
import json
import os
import sys
from typing import Any

from benchmarks.pacer import Pacer
from benchmarks.tree import become_reaper


def main() -> None:
    """Run the job, one round per turn, until the parent closes the pipe."""
    commands, replies, job = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    become_reaper()
    if extra := os.environ.get("BENCHMARKS_EXTRA"):
        sys.path.append(extra)  # last, so that nothing of ours is replaced
    module, _, function = job["call"].partition(":")
    run: Any = getattr(importlib.import_module(module), function)
    run(Pacer(commands, replies, job["rounds_per_turn"]), **job["arguments"])


if __name__ == "__main__":
    main()
