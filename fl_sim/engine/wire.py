"""Parameters and buffers as Flower's records, and back."""

from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fl_sim.contracts import Update
from fl_sim.engine.orders import Order, Task

Shapes = dict[str, tuple[int, ...]]
ORDER = "fl_sim"  # key of the record that tells a node which client it is, and of what run
BUFFERS = "buffers"


def to_record(parameters: Float[Tensor, " p"], shapes: Shapes) -> ArrayRecord:
    """Return flat parameters as named arrays."""
    pieces = parameters.split([int(np.prod(shape)) for shape in shapes.values()])
    named = zip(shapes.items(), pieces, strict=True)
    return ArrayRecord({name: piece.reshape(shape) for (name, shape), piece in named})


def from_record(record: ArrayRecord, shapes: Shapes) -> Float[Tensor, " p"]:
    """Return named arrays as flat parameters.

    Raises:
        ValueError: for other names, shapes or types than the model has.
    """
    if list(record) != list(shapes):
        raise ValueError(f"wrong keys: {sorted(set(record) ^ set(shapes))[:3]}")
    for name, array in record.items():
        if tuple(array.shape) != shapes[name]:
            raise ValueError(f"wrong shape of {name}: {tuple(array.shape)}, not {shapes[name]}")
        if not array.dtype.startswith("float"):
            raise ValueError(f"wrong type of {name}: {array.dtype}, not float32")
    arrays = [torch.from_numpy(array.numpy()).reshape(-1) for array in record.values()]
    return torch.cat(arrays).float()


def the_arrays(content: RecordDict) -> tuple[str, ArrayRecord]:
    """Return the one record of arrays in a message, with its key.

    Raises:
        ValueError: where there is none, or more than one.
    """
    found = list(content.array_records.items())
    if len(found) != 1:
        raise ValueError(f"wrong content: {len(found)} records of arrays, not one")
    return found[0]


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors as bytes (safetensors)."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def unpack(content: object) -> dict[str, Tensor]:
    """Return what `pack` packed.

    Raises:
        ValueError: for bytes that it did not.
    """
    if not isinstance(content, bytes):
        raise ValueError("wrong buffers: no bytes")
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"wrong buffers: {error}") from None


def to_content(order: Order, task: Task, experiment: str, shapes: Shapes) -> RecordDict:
    """Return what one client is sent: any node can then serve any client."""
    about: Any = {
        "experiment": experiment,
        "round": order.round,
        "client": task.client,
        "attempt": task.attempt,
        "needs_losses": order.needs_losses,
        "cohort": order.cohort,
        BUFFERS: pack(order.buffers),
        "received": pack(order.received),
        "memory": pack(task.memory),
    }
    arrays = to_record(order.parameters, shapes)
    config = ConfigRecord(dict(order.config))
    return RecordDict({"arrays": arrays, "config": config, ORDER: ConfigRecord(about)})


def from_content(content: RecordDict, shapes: Shapes) -> tuple[Order, Task]:
    """Return what `to_content` was given."""
    about = content.config_records[ORDER]
    order = Order(
        round=int(str(about["round"])),
        parameters=from_record(the_arrays(content)[1], shapes),
        buffers=unpack(about[BUFFERS]),
        received=unpack(about["received"]),
        needs_losses=bool(about["needs_losses"]),
        cohort=bool(about["cohort"]),
        config=dict(content.config_records.get("config", ConfigRecord())),
    )
    client, attempt = int(str(about["client"])), int(str(about["attempt"]))
    return order, Task(client, memory=unpack(about["memory"]), attempt=attempt)


def to_reply(update: Update, shapes: Shapes) -> RecordDict:
    """Return what one client of ours sends back: its update, not its parameters.

    A difference that is added to the start and subtracted again would lose bits.
    """
    assert update.delta is not None
    about: Any = {
        BUFFERS: pack(update.buffers),
        "sent": pack(update.sent),
        "memory": pack(update.memory),
        "loss": update.loss,
        "is_update": True,
    }
    metrics = MetricRecord({"num-examples": update.num_examples, **update.metrics})
    arrays = to_record(update.delta, shapes)
    return RecordDict({"arrays": arrays, "metrics": metrics, BUFFERS: ConfigRecord(about)})


def from_reply(
    content: RecordDict, order: Order, client: int, num_examples: int, shapes: Shapes
) -> Update:
    """Return what a client sent, by our app or a user's own, which sends parameters.

    Args:
        content: of the reply.
        order: what was asked; a user's app may leave its buffers as they were sent.
        client: who was asked.
        num_examples: the server's own count: what a client claims is forgeable.
        shapes: what the parameters must look like.

    Raises:
        ValueError: for content that has another form.
    """
    received = from_record(the_arrays(content)[1], shapes)
    about = content.config_records.get(BUFFERS, ConfigRecord())
    delta = received if about.get("is_update") else received - order.parameters
    (record,) = content.metric_records.values()
    metrics = {k: float(v) for k, v in record.items() if isinstance(v, int | float)}
    metrics.pop("num-examples")
    return Update(
        client=client,
        delta=delta,
        buffers=unpack(about[BUFFERS]) if BUFFERS in about else order.buffers,
        num_examples=num_examples,
        metrics=metrics,
        loss=float(str(about.get("loss", "nan"))),
        sent=unpack(about["sent"]) if "sent" in about else {},
        memory=unpack(about["memory"]) if "memory" in about else {},
    )
