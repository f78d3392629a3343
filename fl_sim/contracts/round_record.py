"""The record of a round: everything that the metrics see."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim.contracts.nouns import Update
from fl_sim.contracts.rules import AggregationResult


@dataclass(frozen=True, eq=False)
class Triggered:
    """Scores of the test images with a backdoor's trigger, and the class it asks for."""

    logits: Float[Tensor, "t y"]
    target: int


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """What the metrics see after a round: scores of the global model, and who is who.

    The pool is the audited part of all records: as many members (trained on) as outsiders
    (held out) in each client, class and protected status, on which membership attacks are
    honest. `class_counts` and `protected_counts` are about everything that a client holds.
    `decision` is what the rule did with each of the updates, which are in client order;
    `attackers` are the clients that misbehave in this round; `triggered` is there where any of the
    run's has a backdoor; `personal` has the accuracy by class of clients' own models after the
    last round, where they have any: NaN for a class that no test image has. In rounds that are not
    evaluated there are no logits, and only metrics that need none are asked. `pool_features` is
    what a head is given, where the head alone is trained. `cpu_seconds` is the processor time of
    all processes of the run in this round, NaN where it is not known, as `cpu_note` says.
    """

    round: int
    test_logits: Float[Tensor, "t y"]
    test_labels: Int64[Tensor, " t"]
    pool_logits: Float[Tensor, "n y"]
    pool_labels: Int64[Tensor, " n"]
    pool_clients: Int64[Tensor, " n"]
    members: Bool[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    class_counts: Int64[Tensor, "k y"]
    protected_counts: Int64[Tensor, " k"]
    updates: tuple[Update, ...]
    attackers: frozenset[int]
    decision: AggregationResult | None
    personal: Mapping[int, Float[Tensor, " y"]]
    num_failures: int
    seconds: float
    bytes_down: int
    bytes_up: int
    triggered: Triggered | None = None
    pool_features: Float[Tensor, "n d"] | None = None
    cpu_seconds: float = float("nan")
    cpu_note: str = "the processor time was not measured"

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.class_counts)

    @property
    def tested(self) -> Bool[Tensor, " y"]:
        """Whether there is a test image of each class."""
        return self.test_labels.bincount(minlength=self.class_counts.shape[1]) > 0
