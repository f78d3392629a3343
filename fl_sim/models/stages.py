"""Splits any network into a sequence of stages, by tracing its own forward pass.

`torch.fx` records the calls that the forward pass makes to the network's children. Wherever a
single tensor is passed on, the network can be cut, and the calls between two such places become a
stage. Nothing is written anew: a stage is a child of the network, or its traced calls, so that all
stages in a row give the outputs of the network.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode

PREFIX = "network."  # of names in a trace
Value = Any  # of a node of the graph: a tensor, a number, or a tuple of them


class UnsplittableError(ValueError):
    """A network cannot be split; the message gives the reason."""


NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class Row:
    """A network as a row of stages, the head last.

    Attributes:
        stages: The stages.
        obstacle: Reason why the network could not be split further; empty if it could.
        has_head: Whether the last stage is the head, rather than the whole network.
        tensors: Weights and buffers under the names of the network of its package, not copied.
    """

    stages: nn.Sequential
    obstacle: str = ""
    has_head: bool = True
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def list_blocks(self) -> list[int]:
        """Return the place of the first stage of each block, without the head.

        A block is a stage of several layers, such as a residual or attention block, with all
        stages up to the next block. In a network of plain layers, each layer is a block.
        """
        body = list(self.stages)[:-1]
        large = [i for i, stage in enumerate(body) if count_layers(stage) >= 2]
        if len(large) >= 2:
            return large
        # A normalisation belongs to the layer before it.
        return [
            i
            for i, stage in enumerate(body)
            if any(True for _ in stage.parameters()) and not is_norm(stage)
        ]


class Head(nn.Identity):
    """Marks the place of the head while the network is traced, and the end of what is before it."""


class WithHead(nn.Module):
    """A network that returns features, with a linear head on top.

    Attributes:
        body: The network.
        head: The head.
        head_names: Names of the head in the network of its package, which may have two heads and
            return their mean.
    """

    def __init__(
        self, body: nn.Module, width: int, num_classes: int, head_names: Sequence[str] = ("head",)
    ) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, num_classes)
        self.head_names = tuple(head_names)

    def forward(self, images: Value) -> Value:  # also what stands for images while it is traced
        """Return the logits of images."""
        return self.head(self.body(images))

    def own_names(self) -> dict[str, str]:
        """Return the name here of each tensor, by its name in the network of its package.

        A body with a tensor of the head's name keeps the names of here.
        """
        names = {name: f"body.{name}" for name in self.body.state_dict()}
        ends = self.head.state_dict()
        heads = {f"{name}.{end}": f"head.{end}" for name in self.head_names for end in ends}
        return {n: n for n in self.state_dict()} if names.keys() & heads.keys() else names | heads

    def rename_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors that have the names of the package under the names of here."""
        own = self.own_names()
        return {own.get(name, name): value for name, value in state.items()}


def name_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers under the names of the network of its package, not copied."""
    tensors = network.state_dict(keep_vars=True)
    if not isinstance(network, WithHead):
        return tensors
    return {name: tensors[own] for name, own in network.own_names().items()}


def find_head(network: nn.Module) -> str:
    """Return the name of the last linear layer or 1 x 1 convolution, in order of registration.

    Raises:
        UnsplittableError: If there is none.
    """
    names = [str(name) for name, module in network.named_modules() if _is_linear(module)]
    if not names:
        raise UnsplittableError("it has no linear layer and no 1 x 1 convolution for a head")
    return names[-1]


@torch.no_grad()
def find_called_head(network: nn.Module, images: Tensor) -> str:
    """Return the name of the linear layer or 1 x 1 convolution that is called last for images.

    Raises:
        UnsplittableError: If none is called.
    """
    called: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, module in network.named_modules()
        if _is_linear(module)
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise UnsplittableError("it calls no linear layer and no 1 x 1 convolution for a head")
    return called[-1]


def make_images(*shape: int) -> Float[Tensor, "2 c h w"]:
    """Return two images of this shape, of different pixels, for a trial."""
    return torch.linspace(0, 1, 2 * math.prod(shape)).view(2, *shape)


def make_head(layer: nn.Module, num_classes: int) -> nn.Module:
    """Return a new layer like `layer` with `num_classes` outputs."""
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(layer.in_channels, num_classes, 1)
    return nn.Linear(int(layer.in_features), num_classes)  # type: ignore[arg-type]


def split(
    network: nn.Module, head_name: str, image_shape: tuple[int, int, int]
) -> tuple[list[nn.Module], str]:
    """Return the stages of a network in order, the head last, and the reason for there being few.

    Each child that is called by itself is a stage, and so are all other calls between two of them.
    A head after which something is called, such as a pooling, is a sequence with it. A network
    that cannot be traced is split before its head, if that is called last, or is one stage.

    Args:
        network: Network; it is changed.
        head_name: Name of its head.
        image_shape: Channels, height and width of its inputs.

    Returns:
        The stages, and an empty string if the network could be traced.
    """
    head = network.get_submodule(head_name)
    network.set_submodule(head_name, Head())
    modes = {module: module.training for module in network.modules()}
    try:
        stages = _trace(network.eval(), image_shape).make_stages()
    except UnsplittableError as error:
        return _split_head(network, head_name, head, image_shape), str(error)
    except Exception as error:  # the forward pass of a foreign network may raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        obstacle = f"its forward pass cannot be traced ({cause[:120]})"
        return _split_head(network, head_name, head, image_shape), obstacle
    finally:
        for module, mode in modes.items():
            module.training = mode
    place = next(i for i, stage in enumerate(stages) if isinstance(stage, Head))
    before, rest = stages[: place + 1], stages[place + 1 :]
    return [*before, nn.Sequential(head, *rest) if rest else head], ""


@torch.no_grad()
def _split_head(
    network: nn.Module, head_name: str, head: nn.Module, image_shape: tuple[int, int, int]
) -> list[nn.Module]:
    """Return all before the head and the head, or the whole network if it returns anything else.

    Args:
        network: Network in evaluation mode, without its head.
        head_name: Name of the head's place.
        head: The head.
        image_shape: Channels, height and width of the inputs.
    """
    images = make_images(*image_shape)
    network.set_submodule(head_name, head)
    expected = network(images)
    network.set_submodule(head_name, Head())
    # It may read the head's weight, or return anything that the head cannot take.
    with contextlib.suppress(Exception):
        if torch.equal(head(network(images)), expected):
            return [network, head]
    network.set_submodule(head_name, head)
    return [network]


def count_layers(module: nn.Module) -> int:
    """Return the number of layers with a weight that is a matrix or a kernel."""
    return sum(
        any(p.dim() > 1 and n.endswith("weight") for n, p in each.named_parameters(recurse=False))
        for each in module.modules()
    )


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: one of torch's, or one named so that scales vectors."""
    if isinstance(module, NORMS):
        return True
    parameters = list(module.parameters())
    own = len(list(module.parameters(recurse=False)))
    is_vector = all(parameter.dim() <= 1 for parameter in parameters)
    return "norm" in type(module).__name__.lower() and 0 < own == len(parameters) and is_vector


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    )


class _Tracer(fx.Tracer):
    """Traces the containers of blocks and of the head; all other modules are recorded as calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether the calls within a module are not recorded one by one."""
        if isinstance(m, Head):
            return True
        network = self.root.network
        body = network.body if isinstance(network, WithHead) else network
        if m is network or m is body or type(m) is nn.Sequential:
            return False
        return not any(_is_chain(each) or isinstance(each, Head) for each in m.modules())


def _is_chain(module: nn.Module) -> bool:
    """Return whether a module is a list with at least two blocks: children with several layers."""
    blocks = [child for child in module.children() if count_layers(child) >= 2]
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(blocks) >= 2


class _Caller(nn.Module):
    """Calls a network on images alone, so that its other arguments have their default values."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Value) -> Value:
        """Return the outputs of the network."""
        return self.network(images)


def _trace(network: nn.Module, image_shape: tuple[int, int, int]) -> "_Trace":
    """Return the calls of the forward pass, with numbers that follow from the image size folded.

    Such numbers are equal for batches of two sizes. They are found with tensors that have no data.
    """
    caller = _Caller(network)
    graph = _Tracer().trace(caller)
    first = _Recorder(fx.GraphModule(caller, graph)).record(2, image_shape)
    if any(map(_is_number, first.values())):
        second = _Recorder(fx.GraphModule(caller, graph)).record(3, image_shape)
        _fold_numbers(graph, first, second)
    return _Trace(network, caller, graph, first)


@contextlib.contextmanager
def _silence_torch() -> Iterator[None]:
    """Keep torch from logging a traceback of an error that is raised, too, and reported."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _Recorder(fx.Interpreter):
    """Records the value of each node of a graph, by its name."""

    def record(self, batch: int, image_shape: tuple[int, int, int]) -> dict[str, Value]:
        """Return the values for a batch of images, as tensors without data."""
        self.values: dict[str, Value] = {}
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.no_grad(), mode, _silence_torch():
            self.run(mode.from_tensor(torch.zeros(batch, *image_shape)))
        return self.values

    def run_node(self, n: fx.Node) -> Value:
        """Return the value of a node, and record it."""
        value = self.values[n.name] = super().run_node(n)
        return value


def _fold_numbers(graph: fx.Graph, first: dict[str, Value], second: dict[str, Value]) -> None:
    """Replace nodes whose values are numbers, and equal, by these numbers, in place."""
    for node in list(graph.nodes):
        value = first[node.name]
        if node.op in ("placeholder", "output") or not _is_number(value):
            continue
        if value == second[node.name]:
            for user in list(node.users):
                replace = partial(_replace, node, value)
                user.args = fx.map_arg(user.args, replace)
                user.kwargs = fx.map_arg(user.kwargs, replace)


def _replace(old: fx.Node, value: Value, node: fx.Node) -> Value:
    return value if node is old else node


def _is_number(value: Value) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_number, value))
    return isinstance(value, bool | int | float | torch.dtype | torch.device)


@dataclass(frozen=True, eq=False)
class _Trace:
    """The calls of a network's forward pass.

    Attributes:
        network: The network.
        caller: Module that the names in the graph belong to.
        graph: The calls.
        values: The value of each node for some images, by name.
    """

    network: nn.Module
    caller: nn.Module
    graph: fx.Graph
    values: dict[str, Value]

    def make_stages(self) -> list[nn.Module]:
        """Return the stages, in order.

        Raises:
            UnsplittableError: If the network does not return one tensor, or cannot be cut before
                its head.
        """
        nodes = self._list_dependent()
        if sum(map(self._is_head, nodes)) > 1:
            raise UnsplittableError("it calls its last linear layer more than once")
        result = nodes[-1].args[0]
        if not (isinstance(result, fx.Node) and isinstance(self.values[result.name], Tensor)):
            raise UnsplittableError("it does not return one tensor of images")
        stages, start, source = [], 1, nodes[0]
        for i in range(1, len(nodes) - 1):
            passed = self._find_passed(nodes, i)
            if passed is not None:
                stages.append(self._make_stage(source, nodes[start : i + 1], passed))
                start, source = i + 1, passed
        if not any(isinstance(stage, Head) for stage in stages):
            raise UnsplittableError("more than one tensor reaches its last linear layer")
        return stages

    def _is_head(self, node: fx.Node) -> bool:
        """Return whether a node is a call of the head."""
        is_call = node.op == "call_module"
        return is_call and isinstance(self.caller.get_submodule(str(node.target)), Head)

    def _list_dependent(self) -> list[fx.Node]:
        """Return the nodes that depend on the images: the images first, the output last."""
        dependent: dict[fx.Node, None] = {}
        for node in self.graph.nodes:
            is_input = node.op == "placeholder"
            if is_input or any(each in dependent for each in node.all_input_nodes):
                dependent[node] = None
        return list(dependent)

    def _find_passed(self, nodes: list[fx.Node], last: int) -> fx.Node | None:
        """Return the only tensor that is used after node `last`, or None if there is no cut."""
        after = nodes[last + 1]
        if "call_module" not in (nodes[last].op, after.op) and after.op != "output":
            return None
        before, later = set(nodes[: last + 1]), nodes[last + 1 :]
        passed = {each for node in later for each in node.all_input_nodes if each in before}
        is_tensor = all(isinstance(self.values[each.name], Tensor) for each in passed)
        return passed.pop() if len(passed) == 1 and is_tensor else None

    def _make_stage(self, source: fx.Node, nodes: list[fx.Node], passed: fx.Node) -> nn.Module:
        """Return the module that computes the tensor `passed` from the tensor `source`."""
        only = nodes[0]
        if nodes == [passed] and only.args[:1] == (source,) and not only.kwargs:
            if only.op == "call_module" and len(only.args) == 1:
                return self.network.get_submodule(str(only.target).removeprefix(PREFIX))
            if only.target is torch.flatten and only.args[1:] == (1,):
                return nn.Flatten()
        graph = fx.Graph()
        copies = {source: graph.placeholder("inputs")}

        def copy(node: fx.Node) -> fx.Node:
            if node not in copies:
                copies[node] = graph.node_copy(node, copy)
                if node.op in ("call_module", "get_attr"):
                    copies[node].target = self._name(str(node.target))
            return copies[node]

        for node in nodes:
            copy(node)
        graph.output(copy(passed))
        return fx.GraphModule(self.network, graph, "Stage")

    def _name(self, target: str) -> str:
        """Return the name of an attribute in the network; move constants of the trace there."""
        if not target.startswith(PREFIX):
            setattr(self.network, target, getattr(self.caller, target))
        return target.removeprefix(PREFIX)
