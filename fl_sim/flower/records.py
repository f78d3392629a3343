"""Conversion of parameters, tasks and updates to Flower's records, and back."""

import math
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord as ArrayRecord
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fl_sim.contracts import Update
from fl_sim.core.device import current_device
from fl_sim.models.parameters import select_statistics
from fl_sim.training.tasks import ClientTask, RoundConfig

Shapes = dict[str, tuple[int, ...]]
TASK_KEY = "fl_sim"  # key of the record with the experiment, the round and the client
BUFFERS = "buffers"
NUM_EXAMPLES = "num-examples"  # claimed by Flower's clients; the server has its own count


def to_record(parameters: Float[Tensor, " p"], shapes: Shapes) -> ArrayRecord:
    """Return flat parameters as named arrays."""
    pieces = parameters.split([int(np.prod(shape)) for shape in shapes.values()])
    named = zip(shapes.items(), pieces, strict=True)
    return ArrayRecord({name: piece.reshape(shape) for (name, shape), piece in named})


def from_record(
    record: ArrayRecord, shapes: Shapes, dtype: torch.dtype = torch.float32
) -> Float[Tensor, " p"]:
    """Return named arrays as flat parameters of a type; strategies may compute in float64.

    Raises:
        ValueError: If names, shapes or types are not those of the model.
    """
    arrays = _read_arrays(record, shapes)
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise ValueError(f"wrong type of {name}: {array.dtype}, not float32")
    flat = [torch.from_numpy(array).reshape(-1) for array in arrays.values()]
    return torch.cat(flat).to(dtype)


def read_update(record: ArrayRecord, shapes: Shapes, dtype: torch.dtype) -> Float[Tensor, " p"]:
    """Return the named arrays of a client, which have to be of a type, as flat parameters.

    Raises:
        ValueError: If names, shapes or types are not those of the model.
    """
    arrays = _read_arrays(record, shapes)
    wanted = np.dtype(str(dtype).removeprefix("torch."))
    for name, array in arrays.items():
        if array.dtype != wanted:
            raise ValueError(f"wrong type of {name}: {array.dtype}, not {wanted}")
    return torch.cat([torch.from_numpy(array).reshape(-1) for array in arrays.values()])


def _read_arrays(record: ArrayRecord, shapes: Shapes) -> dict[str, Any]:
    """Return the arrays by name, checked by themselves: a record's own metadata is forgeable."""
    if list(record) != list(shapes):
        raise ValueError(f"wrong keys: {sorted(set(record) ^ set(shapes))[:3]}")
    arrays = {name: array.numpy() for name, array in record.items()}
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise ValueError(f"wrong shape of {name}: {array.shape}, not {shapes[name]}")
    return arrays


def find_arrays(content: RecordDict) -> tuple[str, ArrayRecord]:
    """Return the only record of arrays in a message, with its key.

    Raises:
        ValueError: If there is none, or more than one.
    """
    records = list(content.array_records.items())
    if len(records) != 1:
        raise ValueError(f"wrong content: {len(records)} records of arrays, not one")
    return records[0]


def pack(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors as bytes (safetensors)."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def unpack(content: object) -> dict[str, Tensor]:
    """Return the tensors that `pack` turned into bytes.

    Raises:
        ValueError: For other content.
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
    """Return the message to one client, complete, so that any node can serve any client."""
    fields: Any = {
        "experiment": experiment,
        "round": config.round,
        "client": task.client,
        "attempt": task.attempt,
        "needs_losses": config.needs_losses,
        "batch_clients": config.batch_clients,
        "device": current_device().type,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "double": config.parameters.dtype == torch.float64,
        BUFFERS: pack(config.buffers),
        "received": pack(config.received),
        "memory": pack(task.state),
    }
    arrays = to_record(config.parameters, shapes)
    flower_config = ConfigRecord(dict(config.flower_config))
    return RecordDict({"arrays": arrays, "config": flower_config, TASK_KEY: ConfigRecord(fields)})


def decode_task(content: RecordDict, shapes: Shapes) -> tuple[RoundConfig, ClientTask]:
    """Return the settings of the round and the task that `encode_task` was given."""
    record = content.config_records[TASK_KEY]
    config = RoundConfig(
        round=int(str(record["round"])),
        parameters=from_record(
            find_arrays(content)[1], shapes, torch.float64 if record["double"] else torch.float32
        ),
        buffers=unpack(record[BUFFERS]),
        received=unpack(record["received"]),
        needs_losses=bool(record["needs_losses"]),
        batch_clients=bool(record["batch_clients"]),
        flower_config=dict(content.config_records.get("config", ConfigRecord())),
    )
    client, attempt = int(str(record["client"])), int(str(record["attempt"]))
    return config, ClientTask(client, state=unpack(record["memory"]), attempt=attempt)


def encode_reply(update: Update, shapes: Shapes) -> RecordDict:
    """Return the reply of one of this project's clients: its update, not its parameters.

    Adding an update to the parameters and subtracting them again would lose bits.
    """
    assert update.delta is not None
    extras: Any = {
        BUFFERS: pack(update.buffers),
        "sent": pack(update.sent),
        "memory": pack(update.memory),
        "loss": update.loss,
        "is_update": True,
    }
    metrics = MetricRecord({**update.metrics, NUM_EXAMPLES: update.num_examples})
    arrays = to_record(update.delta, shapes)
    return RecordDict({"arrays": arrays, "metrics": metrics, BUFFERS: ConfigRecord(extras)})


def decode_reply(
    content: RecordDict, config: RoundConfig, client: int, num_examples: int, shapes: Shapes
) -> Update:
    """Return the update in a reply of this project's app, or of a user's, which sends parameters.

    Args:
        content: Content of the reply.
        config: Settings of the round; a user's app may leave the buffers as they were sent.
        client: Number of the client that was asked.
        num_examples: The server's count of its examples; a client's claim is forgeable.
        shapes: Shapes of the model's parameters, by name.

    Raises:
        ValueError: If the content has another form.
    """
    received = read_update(find_arrays(content)[1], shapes, config.parameters.dtype)
    extras = content.config_records.get(BUFFERS, ConfigRecord())
    delta = received if extras.get("is_update") else received - config.parameters
    return Update(
        client=client,
        delta=delta,
        buffers=unpack(extras[BUFFERS]) if BUFFERS in extras else select_statistics(config.buffers),
        num_examples=num_examples,
        metrics=_read_metrics(content),
        loss=_to_float(extras.get("loss", math.nan)),
        sent=unpack(extras["sent"]) if "sent" in extras else {},
        memory=unpack(extras["memory"]) if "memory" in extras else {},
    )


def _read_metrics(content: RecordDict) -> dict[str, float]:
    """Return the scalar metrics of a reply, without its number of examples.

    Raises:
        ValueError: If there is not exactly one record of metrics, with a number of examples.
    """
    records = list(content.metric_records.values())
    if len(records) != 1:
        raise ValueError(f"wrong content: {len(records)} records of metrics, not one")
    if NUM_EXAMPLES not in records[0]:
        raise ValueError(f"wrong metrics: no {NUM_EXAMPLES}")
    return {
        name: _to_float(value)
        for name, value in records[0].items()
        if isinstance(value, int | float) and name != NUM_EXAMPLES
    }


def _to_float(value: object) -> float:
    """Return a number as a float; an integer beyond its range as Inf.

    Raises:
        ValueError: If it is not a number.
    """
    if not isinstance(value, int | float):
        raise ValueError(f"wrong loss: {type(value).__name__}, no number")
    try:
        return float(value)
    except OverflowError:
        return math.inf
