"""Flower ClientApp that trains any client of any experiment.

A node has no state of its own: each message contains the experiment, the round and the client's
state, so that any node can serve any client, on every engine, with the same bits.
"""

from functools import lru_cache
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_sim.contracts import Update
from fl_sim.core import process, user_modules
from fl_sim.core.device import CPU, move, use_device
from fl_sim.federation.federation import load_federation
from fl_sim.flower.records import TASK_KEY, decode_task, encode_reply
from fl_sim.models import parameters
from fl_sim.training.client_trainer import make_trainer
from fl_sim.training.update_checks import describe_error

app = ClientApp()
_make_cached_trainer = lru_cache(maxsize=2)(make_trainer)  # preparing a federation takes seconds


class ClientFailedError(RuntimeError):
    """A client has no usable update to send."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client that the message names; reply with its update and metrics."""
    process.configure_process()
    user_modules.declare(*str(context.run_config.get("plugins", "")).split(), source="plugins")
    task: Any = message.content.config_records[TASK_KEY]
    # A message of an earlier version names no device.
    with use_device(task.get("device", "cpu"), deterministic=bool(task.get("deterministic"))):
        return _train(message, str(task["experiment"]))


def _train(message: Message, experiment: str) -> Message:
    federation = load_federation(experiment)
    shapes = parameters.parameter_shapes(federation.model)
    config, task = decode_task(message.content, shapes)
    try:
        first = move(_make_cached_trainer(federation).attempt(config, task)[0], CPU)
    except (KeyboardInterrupt, Exception):
        raise
    except BaseException as error:  # SystemExit would take the node with it
        raise ClientFailedError(describe_error(error)) from None
    if not isinstance(first, Update):
        raise ClientFailedError(first.cause)
    return Message(encode_reply(first, shapes), reply_to=message)
