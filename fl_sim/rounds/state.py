"""The state of a run after a round, and the outcome of a round."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, Failure, Row
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.server import Server
from fl_sim.training.tasks import RoundConfig, Tensors


@dataclass
class State:
    """The state of a run after a round: everything that a checkpoint stores.

    Attributes:
        round: Number of the last round, 0 before the first.
        parameters: Parameters of the global model, `[p]`.
        buffers: Buffers of the global model, by name.
        server: The server, with the state of its rule.
        client_states: The tensors that each client keeps between rounds, by name.
        batch_clients: Whether clients that allow it are trained together as one batch.
        watched: The metric of `Experiment.stop` after each evaluated round.
    """

    round: int
    parameters: Float[Tensor, " p"]
    buffers: Tensors
    server: Server
    client_states: dict[int, Tensors] = field(default_factory=dict)
    batch_clients: bool = False
    watched: list[float] = field(default_factory=list)


@dataclass(eq=False)
class RoundOutcome:
    """The outcome of a round.

    Attributes:
        state: The state after the round.
        config: The settings of the round, with the parameters that it started from.
        round_updates: The updates that were aggregated; `round_updates.updates` lists them.
        result: The result of the aggregation rule; None for a Flower strategy.
        failures: The failures of the round, including absent clients.
        seconds: Wall-clock time of training and aggregation.
        cpu_seconds: CPU time of all processes; NaN if unknown.
        cpu_note: The reason why the CPU time is unknown, or an empty string.
        rows: The measurements of the round.
    """

    state: State
    config: RoundConfig
    round_updates: RoundUpdates
    result: AggregationResult | None
    failures: list[Failure] = field(default_factory=list)
    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    cpu_note: str = "the processor time was not measured"
    rows: list[Row] = field(default_factory=list)
