"""Checks of client updates, the same on every engine.

The server relies only on its own knowledge: which client it asked for what, how many examples the
client holds, and which vectors the experiment's client sends beside its update. Nothing is inferred
from replies. A reply that cannot be used is a `Failure` of the client that was asked; a valid one
becomes a plain update with its norm and the server's count of examples.

A tensor counts as finite if its Euclidean norm, as PyTorch computes it in the tensor's own type, is
a finite number. A vector whose sum of squares overflows in float32 (longer than about 1.8e19) is
therefore refused like NaN and Inf, so that the sums of no rule can overflow.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fl_sim.contracts import Failure, Update
from fl_sim.models.parameters import select_statistics
from fl_sim.training.tasks import RoundConfig, Tensors

MAX_VALUE = float(torch.finfo(torch.float32).max)  # of a loss or metric
MAX_METRICS = 100
USUAL_METRICS = ("train_accuracy", "train_loss")  # of this project's clients
MAX_BATCH_COUNT = 2**31  # in the counter of a BatchNorm layer
NOT_FINITE = "parameters are not finite"
MAX_CAUSE_LENGTH = 300  # characters
MAX_STATE_BYTES = 1 << 32  # of the state that a client keeps
STORABLE_TYPES = frozenset(  # types of tensors in a client's state that a checkpoint can store
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.bfloat16, torch.float16, torch.float32, torch.float64}
)


class InvalidUpdateError(ValueError):
    """A reply cannot be used; the message gives the reason."""


@dataclass(frozen=True, eq=False)
class ExpectedUpdate:
    """The update that the server asked of one client, as far as the server knows it.

    Attributes:
        config: The settings of the round.
        client: Number of the client that was expected.
        num_examples: The server's count of the client's examples; a client's claim is forgeable.
            A client without examples has no loss.
        sends: Shape of each vector, by name, that the experiment's client sends beside its update.
        trains: False for attackers beside the clients that hold images: they have no loss.
        norm: Norm of the update, if the server has made the update and computed it; else None.
    """

    config: RoundConfig
    client: int
    num_examples: int
    sends: Mapping[str, tuple[int, ...]]
    trains: bool = True
    norm: float | None = None


def check_replies(replies: Any, expected: ExpectedUpdate) -> list[Update | Failure]:
    """Return the first reply if it can be used, and a failure for each reply that cannot.

    Args:
        replies: The return value of `Client.replies`, of any type.
        expected: What the server asked for.
    """
    round_num, client = expected.config.round, expected.client
    if not isinstance(replies, tuple | list) or not replies:
        return [make_failure(round_num, client, "no reply")]
    answers: list[Update | Failure] = []
    try:
        answers.append(check_update(replies[0], expected))
    except InvalidUpdateError as error:
        answers.append(make_failure(round_num, client, str(error)))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a forged subclass may raise anything when it is read
        answers.append(make_failure(round_num, client, describe_error(error)))
    if len(replies) > 1:
        answers.append(make_failure(round_num, client, "sent a second reply"))
    return answers


def check_update(update: Any, expected: ExpectedUpdate) -> Update:
    """Return a client's update in plain form, of exact types.

    Raises:
        InvalidUpdateError: If it cannot be used.
    """
    if not isinstance(update, Update):
        raise InvalidUpdateError(f"sent no update: {type(update).__name__}")
    config = expected.config
    if type(update.client) is not int or update.client != expected.client:
        raise InvalidUpdateError(f"answered as client {update.client!r}, not {expected.client}")
    like = config.parameters
    shape = tuple(like.shape)
    norm = _check_vector("the update", update.delta, shape, like, expected.norm)
    has_loss = config.needs_losses and expected.num_examples > 0 and expected.trains
    return Update(
        client=expected.client,
        delta=update.delta,
        buffers=_check_buffers(update.buffers, select_statistics(config.buffers)),
        num_examples=expected.num_examples,
        metrics=_check_metrics(update.metrics),
        norm=norm,
        loss=_check_loss(update.loss) if has_loss else math.nan,
        sent=_check_sent(update.sent, expected),
        memory=_check_memory(update.memory),
    )


def require_common_metrics(
    round_num: int, answers: list[Update | Failure]
) -> list[Update | Failure]:
    """Fail the clients whose metrics have unusual names: Flower refuses a mixture.

    This is for apps and strategies of users, which declare their metrics nowhere. If two sets of
    names are equally frequent, `USUAL_METRICS` wins, then the first in alphabetical order.
    """
    names = Counter(tuple(sorted(a.metrics)) for a in answers if isinstance(a, Update))
    if len(names) <= 1:
        return answers
    usual = min(names, key=lambda group: (-names[group], group != USUAL_METRICS, group))
    return [
        make_failure(round_num, a.client, f"wrong metrics: {sorted(a.metrics)}")
        if isinstance(a, Update) and tuple(sorted(a.metrics)) != usual
        else a
        for a in answers
    ]


def check_metrics(round_num: int, update: Update, loss_name: str) -> Update | Failure:
    """Return an update, or its client's failure if a metric is not a number.

    A loss that a strategy weighs by must not be negative, either. A client without examples has
    nothing to measure and no weight, so its metrics are not checked.

    Args:
        round_num: Number of the round.
        update: A valid update.
        loss_name: Name of the metric that a strategy weighs by, or an empty string.
    """
    for name, value in update.metrics.items():
        wrong = not math.isfinite(value) or (name == loss_name and value < 0)
        if update.num_examples and wrong:
            return make_failure(round_num, update.client, f"wrong metrics: {name} is {value}")
    return update


def compute_norm(values: Tensor) -> float:
    """Return the Euclidean norm of a tensor in its own type; Inf or NaN if it is not finite."""
    return float(torch.linalg.vector_norm(values))


def is_finite(values: Tensor) -> bool:
    """Return whether the norm of a tensor, in its own type, is finite."""
    return math.isfinite(compute_norm(values))


def find_buffer_fault(name: str, values: Tensor) -> str:
    """Return the reason why the values of a buffer are invalid, or an empty string.

    Floats have to be finite. The statistics of batch normalisation have PyTorch's names:
    `running_var` must not be negative, and `num_batches_tracked` is a count.
    """
    statistic = name.rpartition(".")[2]
    if values.is_floating_point() and not is_finite(values):
        return f"buffer {name} is not finite"
    if statistic == "running_var" and bool((values < 0).any()):
        return f"buffer {name} is negative: {float(values.min()):.3g}"
    if statistic == "num_batches_tracked" and not 0 <= int(values) <= MAX_BATCH_COUNT:
        return f"buffer {name} is no count of batches: {int(values)}"
    return ""


def make_failure(round_num: int, client: int, cause: str) -> Failure:
    """Return a failure whose cause is one short line that can be printed and stored anywhere.

    Causes quote text of clients. Characters that cannot be printed, such as lone surrogates and
    control characters, become the replacement character.
    """
    line = (cause.splitlines() or [""])[0][:MAX_CAUSE_LENGTH]
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return Failure(round_num, client, plain)


def describe_error(error: BaseException) -> str:
    """Return the type and message of an error of a client, whose message may raise in turn."""
    try:
        return f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"{type.__dict__['__name__'].__get__(type(error))}: (its message cannot be read)"


def _check_vector(
    what: str, values: Any, shape: tuple[int, ...], like: Tensor, norm: float | None = None
) -> float:
    """Return the norm of a dense, finite tensor of the given shape, computed unless it is given.

    Raises:
        InvalidUpdateError: For anything else.
    """
    _check_kind(what, values, like)
    if tuple(values.shape) != shape:
        raise InvalidUpdateError(f"wrong shape of {what}: {tuple(values.shape)}, not {shape}")
    norm = compute_norm(values) if norm is None else norm
    if not math.isfinite(norm):
        raise InvalidUpdateError(f"{NOT_FINITE}: {what} has length {norm}")
    return norm


def _check_kind(what: str, values: Any, like: Tensor) -> None:
    """Raise unless `values` is a dense tensor, without gradient, of the type of `like`."""
    if not isinstance(values, Tensor):
        raise InvalidUpdateError(f"wrong shape of {what}: {type(values).__name__}, no tensor")
    if values.layout != torch.strided or values.device != like.device or values.is_neg():
        kind = f"{values.layout} on {values.device}"
        raise InvalidUpdateError(f"wrong type of {what}: {kind}, no dense tensor on {like.device}")
    if values.dtype != like.dtype:
        raise InvalidUpdateError(f"wrong type of {what}: {values.dtype}, not {like.dtype}")
    if values.requires_grad:
        raise InvalidUpdateError(f"wrong type of {what}: it requires a gradient")


def _check_mapping(what: str, values: Any) -> Mapping[Any, Any]:
    if not isinstance(values, Mapping):
        raise InvalidUpdateError(f"wrong {what}: {type(values).__name__}, no mapping")
    return values


def _check_buffers(buffers: Any, wanted: Tensors) -> Tensors:
    """Return the buffers in the order in which they were sent to the client."""
    if buffers is wanted and not wanted:
        return {}
    values = _check_mapping("buffers", buffers)
    if set(values) != set(wanted):
        raise InvalidUpdateError("wrong buffers: other names, shapes or types than were sent")
    for name, like in wanted.items():
        _check_kind(f"buffer {name}", values[name], like)
        if values[name].shape != like.shape:
            raise InvalidUpdateError("wrong buffers: other names, shapes or types than were sent")
        cause = find_buffer_fault(name, values[name])
        if cause:
            raise InvalidUpdateError(cause)
    return {name: values[name] for name in wanted}


def _check_sent(sent: Any, expected: ExpectedUpdate) -> Tensors:
    """Return the vectors beside the update: exactly those that the experiment's client sends."""
    vectors = _check_mapping("vectors beside the update", sent)
    if not vectors and not expected.sends:
        return {}
    unknown = [name for name in vectors if name not in expected.sends]
    if unknown:
        raise InvalidUpdateError(f"sent {unknown[0]!r}, which Client.sent_shapes does not name")
    for name, shape in expected.sends.items():
        if name not in vectors:
            raise InvalidUpdateError(f"sent no {name!r} beside the update")
        _check_vector(repr(name), vectors[name], tuple(shape), expected.config.parameters)
    return {name: vectors[name] for name in expected.sends}


def _check_loss(loss: Any) -> float:
    """Return the loss of the global model on the client's shard, a cross-entropy."""
    value = _to_float("the loss", loss)
    if not 0 <= value <= MAX_VALUE:
        raise InvalidUpdateError(f"the loss is no cross-entropy: {value:.3g}")
    return value


def _check_metrics(metrics: Any) -> dict[str, float]:
    """Return the metrics as floats; NaN stands for a metric that was not measured."""
    metrics = _check_mapping("metrics", metrics)
    if len(metrics) > MAX_METRICS:
        raise InvalidUpdateError(f"wrong metrics: {len(metrics)} of them, at most {MAX_METRICS}")
    return {
        _check_name("metric", name): _check_metric(name, value) for name, value in metrics.items()
    }


def _check_metric(name: str, value: Any) -> float:
    number = _to_float(f"wrong metrics: {name}", value)
    if abs(number) > MAX_VALUE:  # False for NaN, which is allowed
        raise InvalidUpdateError(f"wrong metrics: {name} is {number:.3g}")
    return number


def _to_float(what: str, value: Any) -> float:
    """Return a number of Python or NumPy as a float; an integer beyond its range as Inf."""
    if isinstance(value, float):
        return float(value)
    if not isinstance(value, Real):
        raise InvalidUpdateError(f"{what} is no number: {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _check_name(what: str, name: Any) -> str:
    if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_CAUSE_LENGTH:
        raise InvalidUpdateError(f"wrong name of a {what}: {str(name)[:20]!r}")
    return name


def _check_memory(memory: Any) -> Tensors:
    """Return the state that the client keeps, in storable form; its values are not checked."""
    state, total_size = dict[str, Tensor](), 0
    for name, values in _check_mapping("memory", memory).items():
        what = f"what it keeps as {_check_name('tensor', name)!r}"
        if not isinstance(values, Tensor):
            raise InvalidUpdateError(f"{what} is no tensor: {type(values).__name__}")
        if values.layout != torch.strided or values.dtype not in STORABLE_TYPES:
            raise InvalidUpdateError(f"{what} cannot be stored: {values.dtype}, {values.layout}")
        total_size += values.numel() * values.element_size()
        if total_size > MAX_STATE_BYTES:  # an expanded tensor is small only until it is stored
            cause = f"{total_size} bytes, at most {MAX_STATE_BYTES}"
            raise InvalidUpdateError(f"{what} is too much: {cause}")
        state[name] = values.detach().cpu().contiguous()
    return state
