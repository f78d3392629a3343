"""Protocol faults: replies that the server does not expect."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from clients._shared.wrapping import Wrapper
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Shard, Update
from fl_sim.models.parameters import flatten, load_flat

LAST = "faulty.last"  # name of the last round's update in the memory
CLAIM = 10**9  # number of images that a faulty client claims
Fault = Literal[
    "nan",
    "inf",
    "shape",
    "count",
    "stale",
    "twice",
    "huge",
    "double",
    "half",
    "complex",
    "sparse",
    "gradient",
    "loss",
    "metrics",
    "buffers",
    "extra",
    "fewer",
    "memory",
    "client",
    "update",
    "nothing",
    "raise",
    "exit",
]


@final
@dataclass(frozen=True)
class FaultyClient(Wrapper):
    """Train honestly, then violate the protocol in one way.

    Threat model: a broken or malicious participant, which the server must detect; it knows no other
    client.

    Source: this project; Inf is an attack of ByzFL (2025), https://arxiv.org/abs/2505.24802.

    Attributes:
        fault: Kind of fault. `nan`, `inf`: these values in every parameter. `shape`: a vector of
            the wrong length. `count`: a claim of 10^9 images. `stale`: the update of the client's
            last round. `twice`: the same update twice. `huge`: numbers whose squares overflow.
            `double`, `half`, `complex`, `sparse`, `gradient`: a vector of another type, or with its
            gradient. `loss`, `metrics`, `buffers`: values that are no numbers or out of range.
            `extra`, `fewer`: more vectors than the others send, or fewer. `memory`: a memory that
            cannot be stored. `client`: the number of another client. `update`, `nothing`: another
            object, or none. `raise`, `exit`: an exception whose message cannot be stored, or the
            end of the process.
        honest: Training before the fault.
    """

    fault: Fault = "nan"
    honest: Client = field(default_factory=SgdClient)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; then replace the parameters if the fault asks for it."""
        start = flatten(model)
        metrics = self.honest.train(model, shard, rng)
        if self.fault in ("nan", "inf"):
            load_flat(model, torch.full_like(start, float(self.fault)))
        if self.fault == "stale":
            trained = flatten(model) - start
            load_flat(model, start + shard.memory.get(LAST, trained))
            shard.memory[LAST] = trained
        return metrics

    def replies(self, update: Update, shard: Shard) -> Any:
        """Return the faulty update, or several."""
        sent = self.honest.replies(update, shard)
        if self.fault == "raise":
            raise OSError("the disk is gone \ud800\x1b[2J\nand more")
        if self.fault == "exit":
            raise SystemExit(3)
        if self.fault in ("twice", "nothing"):
            return sent + sent if self.fault == "twice" else ()
        return tuple(self._break(each) for each in sent)

    def _break(self, update: Update) -> Any:
        """Return an update with its fault."""
        if self.fault == "update":
            return {"delta": update.delta}
        if self.fault in OTHER:
            return _force(update, **OTHER[self.fault])
        if self.fault == "buffers":
            return _force(update, buffers={n: -1 - b for n, b in update.buffers.items()})
        change = CHANGES.get(self.fault)
        return update if change is None else _force(update, delta=change(_get_delta(update)))


def _force(update: Update, **fields: Any) -> Update:
    """Return an update with other fields of any type, bypassing the checks of its constructor."""
    made = copy(update)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _get_delta(update: Update) -> Tensor:
    assert update.delta is not None
    return update.delta


OTHER: dict[str, dict[str, Any]] = {
    "count": {"num_examples": CLAIM},
    "client": {"client": 99},
    "loss": {"loss": None},
    "metrics": {"metrics": {"train_loss": "low", "train_accuracy": "high"}},
    "extra": {"sent": {"stranger": torch.zeros(3)}},
    "fewer": {"sent": {}},
    "memory": {"memory": {"faulty": "a note"}},
}
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "shape": lambda delta: delta[:-1],
    "huge": lambda delta: torch.full_like(delta, 3.4e38),
    "double": lambda delta: torch.full_like(delta, 1e300, dtype=torch.float64),
    "half": lambda delta: delta.half(),
    "complex": lambda delta: delta * (1 + 1j),
    "sparse": lambda delta: delta.to_sparse(),
    "gradient": lambda delta: delta.clone().requires_grad_(True),
}
