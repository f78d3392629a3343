"""Record of a round, the input of the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim.contracts.nouns import Update
from fl_sim.contracts.rules import AggregationResult


@dataclass(frozen=True, eq=False)
class Triggered:
    """Logits of the test images with a backdoor's trigger, and its target class."""

    logits: Float[Tensor, "t y"]
    target: int


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """Scores of the global model after a round, and the ground truth about clients and records.

    The pool is the audited part of all records: equal numbers of members (trained on) and
    non-members (held out) per client, class and protected status, which an attack therefore cannot
    use. Logits are empty in rounds without evaluation.

    Attributes:
        class_counts, protected_counts: Images of each client by class, and with noise.
        updates: Updates in client order.
        attackers: Clients that misbehave in this round.
        decision: Result of the rule, in the order of `updates`; None without one.
        personal: Accuracy by class of clients' personal models after the last round, by client;
            NaN for a class without test images.
        triggered: Scores with the trigger, if the experiment has a backdoor.
        domains: Domain of each client, if the experiment has a domain shift.
        test_clients: Client that owns each test image, or -1, if clients are tested on their own.
        domain_logits: Logits of the test images as each domain has them, in the order of domains.
        pool_features: Inputs of the head, if only the head is trained.
        cpu_seconds: Processor time of all processes of the run; NaN if unknown, see `cpu_note`.
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
    domains: Int64[Tensor, " k"] | None = None
    domain_logits: Float[Tensor, "m t y"] | None = None
    test_clients: Int64[Tensor, " t"] | None = None
    cpu_seconds: float = float("nan")
    cpu_note: str = "the processor time was not measured"

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.class_counts)

    @property
    def tested(self) -> Bool[Tensor, " y"]:
        """Classes with at least one test image, as a boolean vector."""
        return self.test_labels.bincount(minlength=self.class_counts.shape[1]) > 0
