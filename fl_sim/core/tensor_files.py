"""Tensors in safetensors files that carry a SHA-256 of their content; nothing is unpickled."""

import errno
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fl_sim.core.atomic_io import SEAL, DamagedFileError, write_atomically


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, durable: bool = True
) -> None:
    """Write tensors so that the file is there whole or not at all.

    Args:
        path: of the file; its folder must exist.
        tensors: by name, of any shape and type.
        about: what the file says of them.
        durable: also wait until it is on the disk.

    Raises:
        OSError: where it cannot be written; what was there before stays.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with write_atomically(path, durable=durable) as partial:
            save_file(whole, partial, {**metadata, SEAL: hash_tensors(whole, metadata)})
    except SafetensorError as error:  # the disk may be full
        raise OSError(errno.EIO, str(error), str(path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, and what it says of them.

    Raises:
        DamagedFileError: where it is missing, torn, or does not fit the hash that it carries.
    """
    tensors, metadata = read_unsealed(path)
    seal = metadata.pop(SEAL, "")
    if not seal:
        raise DamagedFileError(path, "carries no hash of its content")
    if seal != hash_tensors(tensors, metadata):
        raise DamagedFileError(path, "was changed since it was written")
    return tensors, metadata


def read_unsealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and notes of a file as they are, for one that carries no hash.

    Raises:
        DamagedFileError: where it is missing or torn.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise DamagedFileError(path, "is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        is_empty = path.is_file() and path.stat().st_size == 0
        cause = "is empty" if is_empty else f"is torn: {error}"
        raise DamagedFileError(path, " ".join(cause.split())) from None


def hash_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a hash of tensors (name, type, shape and content) and of what is said of them."""
    sha = hashlib.sha256("".join(metadata[name] for name in sorted(metadata)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
