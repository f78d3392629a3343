"""Parameters and buffers as Flower's records, and back."""

import math
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fl_sim.contracts import Update
from fl_sim.training.tasks import ClientTask, RoundConfig

Shapes = dict[str, tuple[int, ...]]
TASK_KEY = "fl_sim"  # key of the record that tells a node which client it is, and of what run
BUFFERS = "buffers"
NUM_EXAMPLES = "num-examples"  # what Flower's clients claim; the server counts for itself


def to_record(parameters: Float[Tensor, " p"], shapes: Shapes) -> ArrayRecord:
    """Return flat parameters as named arrays."""
    pieces = parameters.split([int(np.prod(shape)) for shape in shapes.values()])
    named = zip(shapes.items(), pieces, strict=True)
    return ArrayRecord({name: piece.reshape(shape) for (name, shape), piece in named})


def from_record(record: ArrayRecord, shapes: Shapes) -> Float[Tensor, " p"]:
    """Return named arrays as flat parameters, in float32; a strategy may compute in float64.

    Raises:
        ValueError: for other names, shapes or types than the model has.
    """
    arrays = _arrays(record, shapes)
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise ValueError(f"wrong type of {name}: {array.dtype}, not float32")
    flat = [torch.from_numpy(array).reshape(-1) for array in arrays.values()]
    return torch.cat(flat).float()


def read_update(record: ArrayRecord, shapes: Shapes) -> Float[Tensor, " p"]:
    """Return named arrays of a client as flat parameters: a client sends float32.

    Raises:
        ValueError: for other names, shapes or types than the model has.
    """
    arrays = _arrays(record, shapes)
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ValueError(f"wrong type of {name}: {array.dtype}, not float32")
    return torch.cat([torch.from_numpy(array).reshape(-1) for array in arrays.values()])


def _arrays(record: ArrayRecord, shapes: Shapes) -> dict[str, Any]:
    """Return the arrays themselves, by name: what a record says about them is only a claim."""
    if list(record) != list(shapes):
        raise ValueError(f"wrong keys: {sorted(set(record) ^ set(shapes))[:3]}")
    arrays = {name: array.numpy() for name, array in record.items()}
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise ValueError(f"wrong shape of {name}: {array.shape}, not {shapes[name]}")
    return arrays


def find_arrays(content: RecordDict) -> tuple[str, ArrayRecord]:
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


def encode_task(
    config: RoundConfig, task: ClientTask, experiment: str, shapes: Shapes
) -> RecordDict:
    """Return what one client is sent: any node can then serve any client."""
    about: Any = {
        "experiment": experiment,
        "round": config.round,
        "client": task.client,
        "attempt": task.attempt,
        "needs_losses": config.needs_losses,
        "batch_clients": config.batch_clients,
        BUFFERS: pack(config.buffers),
        "received": pack(config.received),
        "memory": pack(task.state),
    }
    arrays = to_record(config.parameters, shapes)
    flower_config = ConfigRecord(dict(config.flower_config))
    return RecordDict({"arrays": arrays, "config": flower_config, TASK_KEY: ConfigRecord(about)})


def decode_task(content: RecordDict, shapes: Shapes) -> tuple[RoundConfig, ClientTask]:
    """Return what `encode_task` was given."""
    about = content.config_records[TASK_KEY]
    config = RoundConfig(
        round=int(str(about["round"])),
        parameters=from_record(find_arrays(content)[1], shapes),
        buffers=unpack(about[BUFFERS]),
        received=unpack(about["received"]),
        needs_losses=bool(about["needs_losses"]),
        batch_clients=bool(about["batch_clients"]),
        flower_config=dict(content.config_records.get("config", ConfigRecord())),
    )
    client, attempt = int(str(about["client"])), int(str(about["attempt"]))
    return config, ClientTask(client, state=unpack(about["memory"]), attempt=attempt)


def encode_reply(update: Update, shapes: Shapes) -> RecordDict:
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
    metrics = MetricRecord({**update.metrics, NUM_EXAMPLES: update.num_examples})
    arrays = to_record(update.delta, shapes)
    return RecordDict({"arrays": arrays, "metrics": metrics, BUFFERS: ConfigRecord(about)})


def decode_reply(
    content: RecordDict, config: RoundConfig, client: int, num_examples: int, shapes: Shapes
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
    received = read_update(find_arrays(content)[1], shapes)
    about = content.config_records.get(BUFFERS, ConfigRecord())
    delta = received if about.get("is_update") else received - config.parameters
    return Update(
        client=client,
        delta=delta,
        buffers=unpack(about[BUFFERS]) if BUFFERS in about else config.buffers,
        num_examples=num_examples,
        metrics=_read_metrics(content),
        loss=_to_float(about.get("loss", math.nan)),
        sent=unpack(about["sent"]) if "sent" in about else {},
        memory=unpack(about["memory"]) if "memory" in about else {},
    )


def _read_metrics(content: RecordDict) -> dict[str, float]:
    """Return the metrics of a reply, without what it claims to hold; lists of numbers are none.

    Raises:
        ValueError: where there is not one record of them, with a number of examples.
    """
    found = list(content.metric_records.values())
    if len(found) != 1:
        raise ValueError(f"wrong content: {len(found)} records of metrics, not one")
    if NUM_EXAMPLES not in found[0]:
        raise ValueError(f"wrong metrics: no {NUM_EXAMPLES}")
    return {
        name: _to_float(value)
        for name, value in found[0].items()
        if isinstance(value, int | float) and name != NUM_EXAMPLES
    }


def _to_float(value: object) -> float:
    """Return a number as a float.

    Raises:
        ValueError: for what is none.
    """
    if not isinstance(value, int | float):
        raise ValueError(f"wrong loss: {type(value).__name__}, no number")
    try:
        return float(value)
    except OverflowError:
        return math.inf
