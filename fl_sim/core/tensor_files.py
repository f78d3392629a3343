"""Reads and writes safetensors files that carry a SHA-256 of their content."""

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
    """Write tensors to a file atomically.

    Args:
        path: Path of the file; its folder must exist.
        tensors: Tensors of any shape and type, by name.
        metadata: Texts that are stored with the tensors.
        durable: Wait until the file is on the disk.

    Raises:
        OSError: If the file cannot be written; an earlier file at `path` stays as it is.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with write_atomically(path, durable=durable) as partial:
            save_file(whole, partial, {**metadata, SEAL: hash_tensors(whole, metadata)})
    except SafetensorError as error:  # the disk may be full
        raise OSError(errno.EIO, str(error), str(path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a file.

    Raises:
        DamagedFileError: If it is missing, truncated, or does not match the hash that it carries.
    """
    tensors, metadata = read_unsealed(path)
    seal = metadata.pop(SEAL, "")
    if not seal:
        raise DamagedFileError(path, "carries no hash of its content")
    if seal != hash_tensors(tensors, metadata):
        raise DamagedFileError(path, "was changed since it was written")
    return tensors, metadata


def read_unsealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a file without checking a hash.

    Raises:
        DamagedFileError: If it is missing or truncated.
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
    """Return a SHA-256 of tensors (name, type, shape and content) and metadata."""
    sha = hashlib.sha256("".join(metadata[name] for name in sorted(metadata)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
