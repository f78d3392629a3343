"""Parameters and buffers as Flower's records, and back."""

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

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


def pack_buffers(buffers: dict[str, Tensor]) -> bytes:
    """Return buffers as bytes (safetensors)."""
    return save(buffers)


def unpack_buffers(content: bytes) -> dict[str, Tensor]:
    """Return what `pack_buffers` packed.

    Raises:
        ValueError: for bytes that it did not.
    """
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"wrong buffers: {error}") from None


def order_record(experiment: str, number: int, client: int, buffers: bytes) -> ConfigRecord:
    """Return what a node has to know: any node can then serve any client."""
    return ConfigRecord(
        {"experiment": experiment, "round": number, "client": client, BUFFERS: buffers}
    )
