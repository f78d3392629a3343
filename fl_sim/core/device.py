"""The device that networks and noise are computed on: a processor, or an accelerator.

A run chooses its device with `use_device`. Code that computes enters `on_device`, in which new
tensors are made there, so that plug-ins name no device; on a CPU it does nothing. Everything else,
such as the server, the tables and the files, stays on the CPU.
"""

import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils.weak import WeakTensorKeyDictionary

from fl_sim.core.errors import FieldError, require
from fl_sim.core.portable import is_portable

Value = TypeVar("Value")
P = ParamSpec("P")
CPU = torch.device("cpu")
FORMS = "auto, cpu, cuda, cuda:0, cuda:0,1 or mps"
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Two buffers of 4 MiB, without which cuBLAS may add up in another order every time.
CUBLAS_WORKSPACE = ":4096:8"

_current: ContextVar[torch.device] = ContextVar("device", default=CPU)
_assigned: torch.device | None = None  # to this process, if it is one of several on several devices
_kept: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
_new_tensors: ContextVar[torch.device] = ContextVar("device of new tensors", default=CPU)


class DeviceMemory(NamedTuple):
    """An accelerator of this machine, with its memory in bytes."""

    device: torch.device
    name: str
    free: int
    total: int


def count_devices() -> dict[str, int]:
    """Return the number of accelerators of this machine by kind; a kind without any is left out."""
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    return {kind: count for kind, count in counts.items() if count}


def resolve_devices(name: str) -> tuple[torch.device, ...]:
    """Return the devices that a name stands for: `auto`, `cpu`, `cuda`, `cuda:0,1` or `mps`.

    `auto` is the first accelerator of this machine, or the CPU without any; `cuda` is `cuda:0`. In
    a process that was assigned a device, every name but `cpu` stands for that one.

    Raises:
        FieldError: For another name, or a device that this machine does not have.
    """
    if is_portable():
        require(name in ("auto", "cpu"), "device", "auto or cpu in the portable mode", name)
        return (CPU,)
    if name == str(current_device()):
        return (current_device(),)
    if _assigned is not None and name != "cpu":
        return (_assigned,)
    counts = count_devices()
    if name == "auto":
        name = next(iter(counts), "cpu")
    if name == "cpu":
        return (CPU,)
    match = re.fullmatch(r"(cuda|mps)(?::([0-9]{1,3}(?:,[0-9]{1,3})*))?", name)
    if match is None:
        raise FieldError("device", FORMS, name)
    kind, numbers = match[1], [int(number) for number in (match[2] or "0").split(",")]
    have = [f"{k}:{','.join(map(str, range(count)))}" for k, count in counts.items()]
    if max(numbers) >= counts.get(kind, 0) or len({*numbers}) < len(numbers):
        allowed = f"auto, cpu or {' or '.join(have)}" if have else "auto or cpu on this machine"
        raise FieldError("device", allowed, name)
    return tuple(torch.device(kind, number) for number in numbers)


def assign_device(device: torch.device) -> None:
    """Let this process, one of several, compute on one device whatever devices they all have."""
    global _assigned
    _assigned = device


def share_gpus(num_gpus: int, workers: int) -> float:
    """Return the share of GPUs of each worker: a whole one, or as even a fraction as there is."""
    return 1 / math.ceil(workers / num_gpus) if num_gpus else 0.0


@contextmanager
def show_gpus(numbers: Sequence[int]) -> Iterator[None]:
    """Let processes that are started in the block find these GPUs alone; an empty list: all."""
    before = os.environ.get(VISIBLE)
    known = before.split(",") if before else list(map(str, range(torch.cuda.device_count())))
    if numbers:
        os.environ[VISIBLE] = ",".join(known[number] for number in numbers)
    try:
        yield
    finally:
        os.environ.pop(VISIBLE, None)
        os.environ.update({} if before is None else {VISIBLE: before})


def current_device() -> torch.device:
    """Return the device of the innermost `use_device`, or the CPU outside of any."""
    return _current.get()


@contextmanager
def use_device(name: str | torch.device | None, *, deterministic: bool = True) -> Iterator[None]:
    """Compute on a device inside the block, by default with deterministic algorithms.

    On an accelerator, single precision is IEEE's and not TF32. An operation that has no
    deterministic algorithm there causes a warning. On a CPU no setting changes: its algorithms are
    deterministic already.

    Args:
        name: The device, or a name of `resolve_devices`, of which the first device is used; None
            keeps the surrounding device.
        deterministic: Use deterministic algorithms, which can be slower.

    Raises:
        FieldError: For a device that this machine does not have.
    """
    if name is None:
        yield
        return
    device = resolve_devices(name)[0] if isinstance(name, str) else name
    token = _current.set(device)
    before = torch.get_deterministic_debug_mode()
    try:
        if device.type != "cpu":
            _configure(device, deterministic)
        yield
    finally:
        _current.reset(token)
        if device.type != "cpu":
            torch.set_deterministic_debug_mode(before)


def _configure(device: torch.device, deterministic: bool) -> None:
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False  # it chooses algorithms by their time


def device_key() -> tuple[str, ...]:
    """Return the parts that a cache key needs beside its inputs: none on a CPU.

    Two kinds of device give results that differ in their last bits.
    """
    kind = current_device().type
    return () if kind == "cpu" else (kind,)


class NewTensors(TorchFunctionMode):
    """Makes new tensors on a device.

    Draws from a generator of the CPU are drawn there and then moved: all devices draw the same
    numbers.
    """

    def __init__(self, device: torch.device) -> None:
        """Make new tensors on `device`."""
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch."""
        named = dict(kwargs or {})
        if isinstance(named.get("generator"), torch.Generator) and named["generator"].device == CPU:
            return self._draw(func, args, named)
        if named.get("device") is None and func in _device_constructors():
            named["device"] = self.device
        return func(*args, **named)

    def _draw(self, func: Any, args: Any, named: dict[str, Any]) -> Any:
        if func in _device_constructors():
            device = named.pop("device", None) or self.device
            return func(*args, **named, device=CPU).to(device)
        if not (args and isinstance(args[0], Tensor)) or args[0].device == CPU:
            return func(*args, **named)
        drawn = func(*move(args, CPU), **move(named, CPU))
        if func.__name__.endswith("_"):  # in place
            return args[0].copy_(drawn)
        return drawn.to(args[0].device)


@contextmanager
def on_device(device: torch.device | None = None) -> Iterator[None]:
    """Make new tensors on a device inside the block, by default on the current one."""
    wanted = current_device() if device is None else device
    if wanted == new_tensors_device():
        yield
        return
    token = _new_tensors.set(wanted)
    try:
        with NewTensors(wanted):
            yield
    finally:
        _new_tensors.reset(token)


def new_tensors_device() -> torch.device:
    """Return the device of the innermost `on_device`, or the CPU outside of any."""
    return _new_tensors.get()


def move(value: Value, device: torch.device) -> Value:
    """Return a value with all of its tensors on a device.

    Tuples, lists, dicts and dataclasses are searched for tensors; one that holds none elsewhere
    is returned itself. A network on another device is copied.
    """
    moved: Value = _move(value, device, {})
    return moved


def _move(value: Any, device: torch.device, known: dict[int, Tensor]) -> Any:
    """Return a value on a device; a tensor that occurs twice is moved once."""
    if isinstance(value, Tensor):
        if id(value) not in known:
            known[id(value)] = value.to(device)
        return known[id(value)]
    if isinstance(value, nn.Module):
        return value if device_of(value) == device else deepcopy(value).to(device)
    if isinstance(value, Mapping):
        moved = {key: _move(item, device, known) for key, item in value.items()}
        return moved if _differ(moved.values(), value.values()) else value
    if isinstance(value, list | tuple):
        items = [_move(item, device, known) for item in value]
        if not _differ(items, value):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        changed = {name: _move(part, device, known) for name, part in parts.items()}
        return replace(value, **changed) if _differ(changed.values(), parts.values()) else value
    return value


def _differ(some: Any, others: Any) -> bool:
    return any(one is not other for one, other in zip(some, others, strict=True))


def call_on_device(
    function: Callable[..., Value], *args: Any, device: torch.device | None = None, **kwargs: Any
) -> Value:
    """Return the result of a function that computes on a device, by default the current one.

    Its arguments are moved there, and its result is moved back to the CPU, unless the call is
    inside of `on_device` already.
    """
    wanted = current_device() if device is None else device
    if wanted == new_tensors_device():
        return function(*args, **kwargs)
    with on_device(wanted):
        return move(function(*move(args, wanted), **move(kwargs, wanted)), CPU)


def computes_on_device(function: Callable[P, Value]) -> Callable[P, Value]:
    """Decorate a function so that it is called with `call_on_device`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Value:
        return call_on_device(function, *args, **kwargs)  # type: ignore[arg-type]

    return call


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a network, as that of its first parameter or buffer."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), new_tensors_device())


def keep_on_device(tensor: Tensor) -> Tensor:
    """Return a tensor on the current device, moved there once for all calls with it.

    A large one, which would take more than a quarter of the free memory, is returned itself. The
    values must not change between two calls.
    """
    device = current_device()
    if tensor.device == device:
        return tensor
    if tensor not in _kept or _kept[tensor].device != device:
        if tensor.nbytes > free_memory(device) // 4:
            return tensor
        _kept[tensor] = tensor.to(device)
    return _kept[tensor]


def cache_tensors(maxsize: int) -> Callable[[Callable[P, Value]], Callable[P, Value]]:
    """Cache a function that returns tensors, as `functools.lru_cache`, on each device apart.

    Arguments have to be hashable, and the result must not be changed.
    """

    def decorate(function: Callable[P, Value]) -> Callable[P, Value]:
        @lru_cache(maxsize)
        def compute(device: torch.device, *args: P.args, **kwargs: P.kwargs) -> Value:
            return function(*args, **kwargs)

        @wraps(function)
        def look_up(*args: P.args, **kwargs: P.kwargs) -> Value:
            return compute(new_tensors_device(), *args, **kwargs)  # type: ignore[arg-type]

        return look_up

    return decorate


def has_float64(device: torch.device) -> bool:
    """Return whether a device computes in double precision."""
    return device.type != "mps"


def free_memory(device: torch.device) -> int:
    """Return the bytes of an accelerator that are free, or that PyTorch holds in reserve."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    module: Any = torch.get_device_module(device)
    free, _ = module.mem_get_info(device)
    return int(free + module.memory_reserved(device) - module.memory_allocated(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a device is used up."""
    # On MPS, PyTorch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)


def empty_cache(device: torch.device) -> None:
    """Give the memory that PyTorch holds in reserve back to an accelerator."""
    if device.type != "cpu":
        module: Any = torch.get_device_module(device)
        module.empty_cache()


def measure_peak(device: torch.device, step: Callable[[], object]) -> int:
    """Return the bytes of an accelerator that a step needs at its peak.

    On MPS, which reports no peak, they are those that PyTorch takes for it beyond what it holds.
    """
    if device.type == "mps":
        empty_cache(device)
        before = torch.mps.driver_allocated_memory()
        step()
        return torch.mps.driver_allocated_memory() - before
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    step()
    return torch.accelerator.max_memory_allocated(device) - before


def list_accelerators() -> list[DeviceMemory]:
    """Return the accelerators of this machine, with their names and memory."""
    found = [
        DeviceMemory(device, torch.cuda.get_device_name(device), *torch.cuda.mem_get_info(device))
        for number in range(torch.cuda.device_count())
        for device in (torch.device("cuda", number),)
    ]
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        used = torch.mps.driver_allocated_memory()
        found.append(DeviceMemory(torch.device("mps", 0), "Apple GPU", total - used, total))
    return found


def name_accelerator(device: torch.device) -> str:
    """Return the name of an accelerator's model, or an empty string if it is unknown."""
    return next((found.name for found in list_accelerators() if found.device == device), "")


def describe_device(device: torch.device) -> str:
    """Return a device in words, such as `cuda:0, NVIDIA H200`."""
    if device.type == "cpu":
        return "cpu" if count_devices() else "cpu, since this machine has no accelerator"
    return ", ".join(filter(None, [str(device), name_accelerator(device)]))
