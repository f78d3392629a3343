"""A simulated accelerator, with which no test needs a real one.

Its tensors compute on the CPU but claim to be on the device `meta`, and refuse what CUDA refuses:
operands on two devices, a generator of the CPU, and conversion to NumPy. It says nothing about
rounding or speed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from fl_sim.core.device import use_device

SIMULATED = torch.device("meta")
MEMORY = 1 << 40
# CUDA takes these with tensors of the CPU: copies, and single numbers.
COPIES = frozenset({"copy_", "_to_copy"})
PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__})
SUBSCRIPTS = frozenset({Tensor.__getitem__, Tensor.__setitem__})
FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor})
INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
MODULE = SimpleNamespace(  # one for all tests: PyTorch looks it up once
    get_rng_state=torch.get_rng_state,
    set_rng_state=torch.set_rng_state,
    manual_seed=torch.default_generator.manual_seed,
    mem_get_info=lambda device: (MEMORY, MEMORY),
    memory_reserved=lambda device: 0,
    memory_allocated=lambda device: 0,
    synchronize=lambda *device: None,
)


class WrongDeviceError(RuntimeError):
    """An operation that an accelerator refuses."""


class DeviceTensor(Tensor):
    """A tensor on the simulated device, whose numbers are in `inner`."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        """Wrap a tensor of the CPU."""
        made: Self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=SIMULATED,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({self.inner!r})"

    def tolist(self) -> Any:
        """Return the numbers, as on any device."""
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse, as on any device but the CPU."""
        raise WrongDeviceError("a tensor on the device cannot be converted to numpy")

    __array__ = __dlpack__ = numpy  # type: ignore[assignment]

    def data_ptr(self) -> int:
        """Return the address of the numbers."""
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on tensors of the device."""
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Makes tensors on the simulated device if the device `meta` is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromData(TorchFunctionMode):
    """Moves tensors that are made of Python's numbers, which no operation makes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        wanted = named.get("device")
        if func in FROM_DATA and wanted is not None and torch.device(wanted) == SIMULATED:
            return func(*args, **(named | {"device": "cpu"})).to(SIMULATED)
        if func in SUBSCRIPTS and isinstance(args[0], DeviceTensor):
            args = (args[0], tree_map(_to_index, args[1], is_leaf=_is_list), *args[2:])
        if func in PRODUCTS and [value.dim() for value in args] == [1, 2]:
            # PyTorch would reshape its result in place, which a wrapper cannot follow.
            return func(args[0].unsqueeze(0), args[1]).squeeze(0)
        return func(*args, **named)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    far = [value for value in flat if isinstance(value, DeviceTensor)]
    near = [v for v in flat if isinstance(v, Tensor) and not isinstance(v, DeviceTensor)]
    name = func._schema.name.partition("::")[2]
    wanted = kwargs.get("device")
    wants_far = wanted is not None and torch.device(wanted) == SIMULATED
    _check(name, args, far, near, wants_far=wants_far, generators=_find_generators(flat))
    if name in COPIES or name == "index":
        out_far = isinstance(args[0], DeviceTensor) if wanted is None else wants_far
    else:
        out_far = wants_far or (bool(far) and wanted is None) or (bool(far) and wants_far)
    plain_args, plain_kwargs = tree_map(_unwrap, args), tree_map(_unwrap, kwargs)
    if wanted is not None:
        plain_kwargs["device"] = torch.device("cpu")
    known = {id(value.inner): value for value in far}  # results in place keep their wrapper

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or not out_far:
            return value
        same = known.get(id(value))
        has_kept_shape = same is not None and same.shape == value.shape
        return same if has_kept_shape else DeviceTensor(value)  # squeeze_ changes the shape

    return tree_map(wrap, func(*plain_args, **plain_kwargs))


def _check(
    name: str,
    args: Any,
    far: list[DeviceTensor],
    near: list[Tensor],
    *,
    wants_far: bool,
    generators: list[torch.Generator],
) -> None:
    """Raise for operands that an accelerator does not take together."""
    if generators and (far or wants_far):
        raise WrongDeviceError(f"{name}: a generator of the CPU cannot draw on the device")
    if not far or name in COPIES:
        return
    if name in INDEXING:
        if not isinstance(args[0], DeviceTensor):
            raise WrongDeviceError(f"{name}: a tensor on the CPU, and indices on the device")
        if name != "index" and not isinstance(args[2], DeviceTensor) and args[2].dim() > 0:
            raise WrongDeviceError(f"{name}: a tensor on the device, and values on the CPU")
    elif any(value.dim() > 0 for value in near):
        raise WrongDeviceError(f"{name}: one tensor on the device, and another on the CPU")


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _to_index(value: Any) -> Any:
    """Return a list of positions as a tensor; PyTorch would make one without numbers."""
    return torch.tensor(value, device="cpu").to(SIMULATED) if _is_list(value) else value


def _find_generators(flat: list[Any]) -> list[torch.Generator]:
    return [value for value in flat if isinstance(value, torch.Generator)]


def _unwrap(value: Any) -> Any:
    return value.inner if isinstance(value, DeviceTensor) else value


@contextmanager
def simulate_device(free: int = MEMORY) -> Iterator[torch.device]:
    """Compute on the simulated device inside the block, with `free` bytes of memory."""
    with (
        mock.patch.object(torch, SIMULATED.type, MODULE, create=True),
        mock.patch.object(MODULE, "mem_get_info", return_value=(free, MEMORY)),
        _Factories(),
        _FromData(),
        use_device(SIMULATED, deterministic=False),
    ):
        yield SIMULATED
