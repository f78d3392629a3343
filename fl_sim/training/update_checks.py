"""The one check of what a client sends, the same on every engine.

The server judges by what it knows itself: whom it asked and what, how many examples the client
holds, and which vectors the experiment's own client sends beside its update. Nothing is inferred
from replies. What cannot be used is a `Failure` of the client that was asked; what passes is an
update in plain form, with its length and the server's own count of examples.

Finite means one thing here: the Euclidean length of a tensor, as PyTorch computes it in the
tensor's own type, is a finite number. A vector whose sum of squares overflows in float32 (longer
than about 1.8e19) is refused with those of NaN and Inf, so that no rule's sums can overflow.
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
from fl_sim.training.tasks import RoundConfig, Tensors

MAX_VALUE = float(torch.finfo(torch.float32).max)  # loss or metric; a network computes in float32
MAX_METRICS = 100
USUAL_METRICS = ("train_accuracy", "train_loss")  # of this project's clients
MAX_BATCH_COUNT = 2**31  # in the counter of a BatchNorm layer
NOT_FINITE = "parameters are not finite"
MAX_CAUSE_LENGTH = 300  # characters
MAX_MEMORY_BYTES = 1 << 32  # bytes of what a client keeps
STORABLE_TYPES = frozenset(  # types of what a client may keep: a checkpoint has to hold it
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.bfloat16, torch.float16, torch.float32, torch.float64}
)


class InvalidUpdateError(ValueError):
    """A reply cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class ExpectedUpdate:
    """What the server asked of one client, and what it may expect back.

    Attributes:
        order: of the round.
        client: who was asked.
        num_examples: the server's own count: what a client claims is forgeable. Who holds
            nothing has no loss to tell.
        sends: the shape of each vector, by name, that the experiment's client sends beside its
            update.
        trains: False for attackers beside the clients that hold images: there is no loss to tell.
    """

    config: RoundConfig
    client: int
    num_examples: int
    sends: Mapping[str, tuple[int, ...]]
    trains: bool = True


def check_replies(replies: Any, asked: ExpectedUpdate) -> list[Update | Failure]:
    """Return the first of a client's replies if it can be used, and a failure for what cannot.

    Args:
        replies: what `Client.replies` gave, whatever it is.
        asked: what the server knows.
    """
    round_num, client = asked.config.round, asked.client
    if not isinstance(replies, tuple | list) or not replies:
        return [make_failure(round_num, client, "no reply")]
    found: list[Update | Failure] = []
    try:
        found.append(check_update(replies[0], asked))
    except InvalidUpdateError as error:
        found.append(make_failure(round_num, client, str(error)))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what it sent looks like what was wanted, and is not
        found.append(make_failure(round_num, client, describe_error(error)))
    if len(replies) > 1:
        found.append(make_failure(round_num, client, "sent a second reply"))
    return found


def check_update(update: Any, asked: ExpectedUpdate) -> Update:
    """Return a client's update in plain form.

    Raises:
        InvalidUpdateError: where it cannot be used, saying why.
    """
    if not isinstance(update, Update):
        raise InvalidUpdateError(f"sent no update: {type(update).__name__}")
    config = asked.config
    if type(update.client) is not int or update.client != asked.client:
        raise InvalidUpdateError(f"answered as client {update.client!r}, not {asked.client}")
    norm = _check_vector(
        "the update", update.delta, tuple(config.parameters.shape), config.parameters
    )
    return Update(
        client=asked.client,
        delta=update.delta,
        buffers=_check_buffers(update.buffers, config.buffers),
        num_examples=asked.num_examples,
        metrics=_check_metrics(update.metrics),
        norm=norm,
        loss=_check_loss(update.loss) if _expects_loss(asked) else math.nan,
        sent=_check_sent(update.sent, asked),
        memory=_check_memory(update.memory),
    )


def _expects_loss(asked: ExpectedUpdate) -> bool:
    return asked.config.needs_losses and asked.num_examples > 0 and asked.trains


def require_common_metrics(
    round_num: int, answers: list[Update | Failure]
) -> list[Update | Failure]:
    """Fail clients whose metrics have other names than most: Flower refuses a mixture.

    For apps and strategies that are not this project's, which say nowhere what they need. Where
    two sets of names are as frequent, `USUAL_METRICS` wins, then what sorts first.
    """
    names = Counter(tuple(sorted(a.metrics)) for a in answers if isinstance(a, Update))
    if len(names) <= 1:
        return answers
    usual = min(names, key=lambda own: (-names[own], own != USUAL_METRICS, own))
    return [
        make_failure(round_num, a.client, f"wrong metrics: {sorted(a.metrics)}")
        if isinstance(a, Update) and tuple(sorted(a.metrics)) != usual
        else a
        for a in answers
    ]


def check_metrics(round_num: int, update: Update, loss_name: str) -> Update | Failure:
    """Return an update, or its client's failure where a metric is not a number.

    Nor may a loss that a strategy weighs by be negative. Who holds nothing has nothing to
    measure, and counts for nothing.

    Args:
        number: of the round.
        update: of a client that trained.
        loss_name: the metric that a strategy weighs by; "" for none.
    """
    for name, value in update.metrics.items():
        wrong = not math.isfinite(value) or (name == loss_name and value < 0)
        if update.num_examples and wrong:
            return make_failure(round_num, update.client, f"wrong metrics: {name} is {value}")
    return update


def compute_norm(values: Tensor) -> float:
    """Return the Euclidean length of a tensor in its own type; Inf or NaN where it has none."""
    return float(torch.linalg.vector_norm(values))


def is_finite(values: Tensor) -> bool:
    """Return whether a tensor is finite: so is its length in its own type."""
    return math.isfinite(compute_norm(values))


def find_buffer_fault(name: str, values: Tensor) -> str:
    """Return why the values of a buffer are out of range, or nothing.

    Floats are finite. The statistics of batch normalisation are known by PyTorch's names:
    `running_var` is not negative, and `num_batches_tracked` counts.
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

    Causes hold what clients wrote. What is not printable, lone surrogates and control characters
    among it, becomes the replacement character.
    """
    line = (cause.splitlines() or [""])[0][:MAX_CAUSE_LENGTH]
    plain = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )
    return Failure(round_num, client, plain)


def describe_error(error: BaseException) -> str:
    """Return the type and the message of what a client raised; its message may raise in turn."""
    try:
        return f"{type(error).__name__}: {error}"
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"{type.__dict__['__name__'].__get__(type(error))}: (its message cannot be read)"


def _check_vector(what: str, values: Any, shape: tuple[int, ...], like: Tensor) -> float:
    """Return the length of a dense, finite tensor of the wanted shape.

    Raises:
        InvalidUpdateError: for anything else.
    """
    _check_kind(what, values, like)
    if tuple(values.shape) != shape:
        raise InvalidUpdateError(f"wrong shape of {what}: {tuple(values.shape)}, not {shape}")
    found = compute_norm(values)
    if not math.isfinite(found):
        raise InvalidUpdateError(f"{NOT_FINITE}: {what} has length {found}")
    return found


def _check_kind(what: str, values: Any, like: Tensor) -> None:
    """Raise unless `values` is a dense tensor without gradient, of the type and place of `like`."""
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
    """Return the buffers, in the order in which they were sent out."""
    if buffers is wanted and not wanted:
        return {}
    own = _check_mapping("buffers", buffers)
    if set(own) != set(wanted):
        raise InvalidUpdateError("wrong buffers: other names, shapes or types than were sent")
    for name, like in wanted.items():
        _check_kind(f"buffer {name}", own[name], like)
        if own[name].shape != like.shape:
            raise InvalidUpdateError("wrong buffers: other names, shapes or types than were sent")
        cause = find_buffer_fault(name, own[name])
        if cause:
            raise InvalidUpdateError(cause)
    return {name: own[name] for name in wanted}


def _check_sent(sent: Any, asked: ExpectedUpdate) -> Tensors:
    """Return the vectors beside the update: those that the experiment's client sends, no others."""
    own = _check_mapping("vectors beside the update", sent)
    if not own and not asked.sends:
        return {}
    strangers = [name for name in own if name not in asked.sends]
    if strangers:
        raise InvalidUpdateError(f"sent {strangers[0]!r}, which Client.sends does not name")
    for name, shape in asked.sends.items():
        if name not in own:
            raise InvalidUpdateError(f"sent no {name!r} beside the update")
        _check_vector(repr(name), own[name], tuple(shape), asked.config.parameters)
    return {name: own[name] for name in asked.sends}


def _check_loss(loss: Any) -> float:
    """Return the loss of the received model, which is a cross-entropy."""
    value = _to_float("the loss", loss)
    if not 0 <= value <= MAX_VALUE:
        raise InvalidUpdateError(f"the loss is no cross-entropy: {value:.3g}")
    return value


def _check_metrics(metrics: Any) -> dict[str, float]:
    """Return the metrics as floats; NaN stands for what was not measured."""
    own = _check_mapping("metrics", metrics)
    if len(own) > MAX_METRICS:
        raise InvalidUpdateError(f"wrong metrics: {len(own)} of them, at most {MAX_METRICS}")
    return {_check_name("metric", name): _check_metric(name, value) for name, value in own.items()}


def _check_metric(name: str, value: Any) -> float:
    number = _to_float(f"wrong metrics: {name}", value)
    if abs(number) > MAX_VALUE:  # NaN is not
        raise InvalidUpdateError(f"wrong metrics: {name} is {number:.3g}")
    return number


def _to_float(what: str, value: Any) -> float:
    """Return a number as a float; only NumPy's and Python's own are numbers."""
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
    """Return what the client keeps, as it can be stored: nobody but the client reads the values."""
    kept, size = dict[str, Tensor](), 0
    for name, values in _check_mapping("memory", memory).items():
        what = f"what it keeps as {_check_name('tensor', name)!r}"
        if not isinstance(values, Tensor):
            raise InvalidUpdateError(f"{what} is no tensor: {type(values).__name__}")
        if values.layout != torch.strided or values.dtype not in STORABLE_TYPES:
            raise InvalidUpdateError(f"{what} cannot be stored: {values.dtype}, {values.layout}")
        size += values.numel() * values.element_size()
        if size > MAX_MEMORY_BYTES:  # an expanded tensor takes no room before it is stored
            raise InvalidUpdateError(
                f"{what} is too much: {size} bytes, at most {MAX_MEMORY_BYTES}"
            )
        kept[name] = values.detach().cpu().contiguous()
    return kept
