"""Access to private parts of Flower, all in one place.

Written for flwr 1.41 and 1.42; tests/unit/flower/test_compat.py checks each new release.
"""

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fl_sim.backends import loopback
from fl_sim.core.device import share_gpus, show_gpus
from fl_sim.core.errors import RequestError
from fl_sim.core.seeding import derive_seed


def ensure_node_identity() -> None:
    """Give this process the identity that Flower's messages require, unless it has one."""
    if TaskIdentity._run_id is None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def assign_message_id(message: Message) -> None:
    """Give a message the id that Flower's SuperLink would assign."""
    message.metadata.__dict__["_message_id"] = str(uuid.uuid4())


def get_handlers(app: ClientApp) -> dict[str, Callable[..., Any]]:
    """Return the functions by which an app handles messages, by type of message."""
    return dict(app._registered_funcs) | ({"client_fn": app._call} if app._call else {})


@contextmanager
def seed_globals(seed: int, *labels: str | int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators in the block, and restore them afterwards.

    Flower's strategies draw from these.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    number = derive_seed(seed, *labels)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def simulate(
    main: Callable[[Grid], None],
    client_app: ClientApp,
    num_nodes: int,
    num_workers: int,
    gpus: Sequence[int] = (),
) -> None:
    """Run `main` with a grid of Flower's simulation engine, on Ray, and raise its errors.

    The workers share GPUs of this machine, which are given by their numbers.

    Raises:
        RequestError: If Ray cannot start on this machine.
    """
    import ray  # a second to import
    from flwr.simulation import run_simulation

    cause = loopback.find_start_problem()
    if cause:
        raise RequestError(f"Ray cannot start: {cause}")
    # Flower would share a running Ray, and wait for cores that our workers occupy.
    ray.shutdown()
    server_app, failures = ServerApp(), []

    @server_app.main()
    def run(grid: Grid, context: Any) -> None:
        try:
            main(grid)
        except BaseException as error:
            failures.append(error)

    backend: Any = {
        "client_resources": {"num_cpus": 1, "num_gpus": share_gpus(len(gpus), num_workers)},
        "init_args": {
            "num_cpus": num_workers,
            "num_gpus": len(gpus),
            "log_to_driver": False,
            "logging_level": "ERROR",
            "include_dashboard": False,
        },
    }
    try:
        with loopback.listen_on_loopback(), show_gpus(gpus):
            run_simulation(server_app, client_app, num_supernodes=num_nodes, backend_config=backend)
    finally:
        ray.shutdown()  # Flower leaves its Ray running
    if failures:
        raise failures[0]
