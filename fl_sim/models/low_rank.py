"""Low-rank adaptation (LoRA): frozen layers, each plus a trained product of two thin matrices."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fl_sim.core.errors import require


class LowRank(nn.Module):
    """A linear layer or convolution with a frozen weight plus a product of two thin matrices.

    It starts equal to the layer that it wraps, since the second factor starts at zero. The change
    is computed from the layer's inputs, as W x + s B (A x), so that no gradient of the size of W is
    needed. A layer with a forward pass of its own, and code that reads `weight`, get the adapted
    weight W + s B A instead. All other attributes are those of the wrapped layer.

    Source: Hu et al. (2022), LoRA, section 4.1, https://arxiv.org/abs/2106.09685. Convolutions as
    in peft: A is a convolution to `rank` channels, B one of 1 x 1.

    Attributes:
        layer: The wrapped layer, which is frozen.
        down: The factor A, `[rank, inputs]`, where `inputs` counts those of one output value.
        up: The factor B, `[outputs, rank]`.
        scaling: The factor s.
        sends_base: Whether the frozen weight belongs to the global model, since the server adds
            to it.
    """

    weight_name: ClassVar[str] = "weight"

    def __init__(
        self, layer: nn.Module, rank: int, scaling: float = 1.0, train_down: bool = True
    ) -> None:
        """Wrap `layer`; A is drawn from torch's global generator, and frozen unless `train_down`.

        Source of a frozen A: Sun et al. (2024), FFA-LoRA, https://arxiv.org/abs/2403.12313.
        """
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.scaling, self.sends_base = scaling, False
        base = self.base_weight
        outputs, inputs = base.shape[0], base[0].numel()
        self.down = nn.Parameter(base.new_empty(rank, inputs), requires_grad=train_down)
        self.up = nn.Parameter(base.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    @property
    def base_weight(self) -> Tensor:
        """The frozen weight W."""
        weight: Tensor = getattr(self.layer, self.weight_name)
        return weight

    @property
    def weight(self) -> Tensor:
        """The adapted weight W + s B A."""
        base = self.base_weight
        return base + self.scaling * (self.up @ self.down).view_as(base)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Return the output of the layer with the adapted weight."""
        layer: Any = self.layer
        if type(layer).forward is nn.Linear.forward:
            return self._add_change(layer(inputs), inputs)
        if type(layer).forward is nn.Conv2d.forward:
            down = self.down.view(len(self.down), *layer.weight.shape[1:])
            hidden = layer._conv_forward(inputs, down, None) * self.scaling
            change = functional.conv2d(hidden, self.up[:, :, None, None])
            return layer(inputs) + change  # type: ignore[no-any-return]
        output: Tensor = functional_call(layer, {"weight": self.weight}, (inputs,))
        return output

    def _add_change(
        self, output: Float[Tensor, "*n o"], inputs: Float[Tensor, "*n i"]
    ) -> Float[Tensor, "*n o"]:
        """Return the output of a frozen linear map plus the low-rank change of it."""
        hidden = functional.linear(inputs, self.down).reshape(-1, len(self.down))
        # One call that adds in place of a product, a scaled copy and a sum of the outputs' size.
        flat = output.reshape(-1, len(self.up))
        total = torch.addmm(flat, hidden, self.up.T, alpha=self.scaling)
        return total.view_as(output)


class LowRankAttention(LowRank):
    """Multi-head attention with a low-rank change of the common projection to query, key and value.

    PyTorch's attention reads its weights without calling a layer. Plain self-attention is therefore
    computed here; with masks, attention weights or other keys, PyTorch's code gets the adapted
    weight.

    Source: as `LowRank`, for `nn.MultiheadAttention` with a common `in_proj_weight`, as in peft.
    """

    weight_name: ClassVar[str] = "in_proj_weight"

    @property
    def in_proj_weight(self) -> Tensor:
        """The adapted weight of the projection."""
        return self.weight

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output and the attention weights, as `nn.MultiheadAttention` does."""
        layer: Any = self.layer
        own_keys = query is key is value and query.dim() == 3
        bare = all(option is None or option is False for option in (*arguments, *options.values()))
        bare &= "need_weights" in options and layer.bias_k is None and not layer.add_zero_attn
        if not (own_keys and bare):
            weights = {"in_proj_weight": self.weight}
            output: tuple[Tensor, Tensor | None] = functional_call(
                layer, weights, (query, key, value, *arguments), options
            )
            return output
        tokens = query if layer.batch_first else query.transpose(0, 1)
        base = functional.linear(tokens, layer.in_proj_weight, layer.in_proj_bias)
        projected = self._add_change(base, tokens).unflatten(-1, (3, layer.num_heads, -1))
        dropout = layer.dropout if self.training else 0.0
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)
        attend = functional.scaled_dot_product_attention
        mixed = attend(queries, keys, values, dropout_p=dropout)
        joined = layer.out_proj(mixed.transpose(1, 2).flatten(2))
        return (joined if layer.batch_first else joined.transpose(0, 1)), None


def add_low_rank(
    module: nn.Module,
    rank: int,
    scaling: float = 1.0,
    train_down: bool = True,
    names: Sequence[str] = (),
) -> None:
    """Freeze a module, and adapt its linear layers, attention and ungrouped convolutions, in place.

    Args:
        module: The module.
        rank: Rank of each change.
        scaling: Factor of each change.
        train_down: Whether the first factors are trained, too.
        names: Ends of the names of the layers to adapt, at a dot; all if there are none. The names
            are those of the uncut network, if they were noted.

    Raises:
        FieldError: If no layer that can be adapted has one of the names.
    """
    module.requires_grad_(False)
    whole_names, missing = [], set(names)
    for path, owner in list(module.named_modules()):
        for name, child in list(owner.named_children()):
            adapter = _find_adapter(child)
            if adapter is None:
                continue
            whole = str(getattr(child, "source_name", f"{path}.{name}"))
            ends = {end for end in names if f".{whole}".endswith(f".{end}")}
            whole_names.append(whole)
            missing -= ends
            if ends or not names:
                setattr(owner, name, adapter(child, rank, scaling, train_down))
    examples = ", ".join(whole_names[-3:]) or "none here"
    allowed = f"ends of names of layers in the trained blocks, such as {examples}"
    require(not missing, "model.lora_layers", allowed, tuple(names))


def _find_adapter(layer: nn.Module) -> type[LowRank] | None:
    """Return the class that adapts a layer; None if it cannot be adapted."""
    if isinstance(layer, nn.MultiheadAttention):
        return LowRankAttention if layer.in_proj_weight is not None else None
    ungrouped = isinstance(layer, nn.Conv2d) and layer.groups == 1
    return LowRank if ungrouped or isinstance(layer, nn.Linear) else None


def send_base(module: nn.Module) -> None:
    """Make the frozen weights below low-rank changes a part of the global model, in place."""
    for layer in find_low_rank(module).values():
        layer.sends_base = layer.down.requires_grad


def find_low_rank(module: nn.Module) -> dict[str, LowRank]:
    """Return the adapted layers of a module by name, in its order."""
    return {name: m for name, m in module.named_modules() if isinstance(m, LowRank)}
