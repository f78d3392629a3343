"""Forward passes in bfloat16, with inputs, outputs, parameters and gradients in single precision.

bfloat16 has the range of single precision and 8 bits of accuracy. On processors that multiply it
(AVX-512 BF16, AMX) a network takes about half the time; on others it is several times as slow.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


def call_in_bfloat16(
    network: Callable[[Tensor], Tensor], inputs: Float[Tensor, "n ..."]
) -> Float[Tensor, "n ..."]:
    """Return the outputs of a network whose products are computed in bfloat16."""
    kind = inputs.device.type
    changes: AbstractContextManager[Any]
    if torch.compiler.is_compiling():
        changes = nullcontext()
    elif torch._C._functorch.is_functorch_wrapped_tensor(inputs):
        changes = _OneType()
    else:
        changes = _Depthwise() if kind == "cpu" else nullcontext()
    with torch.autocast(kind, torch.bfloat16), changes:
        return network(inputs).float()


class _OneType(TorchFunctionMode):
    """Gives layers that autocast leaves with operands of two types a single one.

    `torch.func` cannot differentiate them otherwise. Its convolutions of many clients are grouped
    ones, and no longer depthwise.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch."""
        attention = functional.scaled_dot_product_attention
        if func not in (functional.layer_norm, functional.batch_norm, attention):
            return func(*args, **(kwargs or {}))
        inputs = args[0]
        if func is attention:
            args = *(operand.bfloat16() for operand in args[:3]), *args[3:]
        else:
            args = inputs.float(), *args[1:]
        with torch.autocast(inputs.device.type, enabled=False):
            outputs = func(*args, **(kwargs or {}))
        # Without `torch.func`, batch normalisation keeps the type of its inputs.
        return outputs.to(inputs.dtype) if func is functional.batch_norm else outputs


class _Depthwise(TorchFunctionMode):
    """Replaces depthwise convolutions by `DepthwiseConvolution`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch."""
        if func is torch.conv2d and not kwargs and len(args) == 7:
            maps, weight, bias, stride, padding, dilation, groups = args
            is_depthwise = 1 < groups == len(weight) == maps.shape[1] and bias is None
            if is_depthwise and dilation == (1, 1) and isinstance(padding, tuple):
                maps, weight = maps.bfloat16(), weight.bfloat16()
                return DepthwiseConvolution.apply(maps, weight, stride, padding)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class DepthwiseConvolution(torch.autograd.Function):
    """A depthwise convolution in bfloat16 with fast gradients on a CPU.

    oneDNN has none for two of them. For kernels above 3 x 3, or above the maps, the gradient by the
    weight is put together from those of windows of 3 x 3 on padded maps, which it has; with a
    stride, the gradient by the inputs is computed in single precision. Both are 5 to 100 times as
    fast as oneDNN's reference code.
    """

    @staticmethod
    def forward(
        ctx: Any,
        maps: Float[Tensor, "n c h w"],
        weight: Float[Tensor, "c 1 i j"],
        stride: Pair,
        padding: Pair,
    ) -> Float[Tensor, "n c h2 w2"]:
        """Return the convolution of maps, each with a kernel of its own."""
        ctx.save_for_backward(maps, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(maps, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients by the maps and by the weight."""
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        maps, weight = ctx.saved_tensors
        by_maps = by_weight = None
        if ctx.needs_input_grad[0]:
            operands = gradient, maps, weight
            if ctx.stride != (1, 1):
                shaped = torch.empty_like(maps, dtype=torch.float32)  # its values do not matter
                operands = gradient.float(), shaped, weight.float()
            by_maps = _differentiate(*operands, ctx.stride, ctx.padding, 0).to(maps.dtype)
        if ctx.needs_input_grad[1]:
            by_weight = _differentiate_by_weight(gradient, maps, weight, ctx.stride, ctx.padding)
        return by_maps, by_weight, None, None


def _differentiate_by_weight(
    gradient: Float[Tensor, "n c h2 w2"],
    maps: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "c 1 i j"],
    stride: Pair,
    padding: Pair,
) -> Float[Tensor, "c 1 i j"]:
    if max(weight.shape[2:]) <= min(3, *maps.shape[2:]):
        return _differentiate(gradient, maps, weight, stride, padding, 1)
    padded = functional.pad(maps, [padding[1], padding[1], padding[0], padding[0]])
    by_weight = torch.zeros_like(weight)
    sizes = zip(weight.shape[2:], maps.shape[2:], gradient.shape[2:], stride, padding, strict=True)
    for top, left in product(*(_list_windows(*sides) for sides in sizes)):
        window = by_weight[:, :, top : top + 3, left : left + 3]
        ends = [
            start + step * (length - 1) + size
            for start, step, length, size in zip(
                (top, left), stride, gradient.shape[2:], window.shape[2:], strict=True
            )
        ]
        seen = padded[:, :, top : ends[0], left : ends[1]]
        seen = seen.contiguous(memory_format=torch.channels_last)
        window.copy_(_differentiate(gradient, seen, torch.empty_like(window), stride, (0, 0), 1))
    return by_weight


def _list_windows(side: int, map_side: int, out_side: int, stride: int, padding: int) -> list[int]:
    """Return the starts of windows of 3 along one side of a kernel.

    They hold all of its places that ever lie on the map; the gradient of the others is zero.
    """
    first = max(0, padding - stride * (out_side - 1))
    last = min(side - 1, padding + map_side - 1)
    return sorted({*range(first, max(first + 1, last - 1), 3), max(first, last - 2)})


def _differentiate(
    gradient: Tensor, maps: Tensor, weight: Tensor, stride: Pair, padding: Pair, operand: int
) -> Tensor:
    """Return the gradient by the maps (operand 0) or by the weight (operand 1)."""
    wanted = [operand == 0, operand == 1, False]
    result: Tensor = torch.ops.aten.convolution_backward(
        *(gradient, maps, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight)), wanted
    )[operand]
    return result
