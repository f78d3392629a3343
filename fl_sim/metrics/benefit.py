"""Gains of clients from the federation, relative to training alone on their own shard.

Clients of which either accuracy is NaN (not defined) are left out of the statistics.
"""

from collections.abc import Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Row
from fl_sim.contracts.validity import mark_undefined
from fl_sim.metrics._shared.defined import mean, note_left_out, select_defined
from fl_sim.metrics.contribution import correlation_row
from fl_sim.metrics.fairness import spread


def collaboration_gains(
    together: Float[Tensor, " k"], alone: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Return each client's accuracy under the federation's model minus that of its own model.

    0 if both are equally good; NaN if either is NaN.
    """
    return together.double() - alone.double()


def mean_gain(together: Float[Tensor, " k"], alone: Float[Tensor, " k"]) -> float:
    """Return the mean collaboration gain (MCG); 0 for a model as good as the clients' own.

    Source: CYCle, https://arxiv.org/abs/2501.12344.
    """
    return mean(collaboration_gains(together, alone))


def gain_spread(together: Float[Tensor, " k"], alone: Float[Tensor, " k"]) -> float:
    """Return the collaboration gain spread (CGS): the population standard deviation; 0 is even.

    Source: CYCle, https://arxiv.org/abs/2501.12344.
    """
    return spread(collaboration_gains(together, alone))


def worse_off_share(together: Float[Tensor, " k"], alone: Float[Tensor, " k"]) -> float:
    """Return the share of clients, from 0 to 1, whose own model is better than the federation's.

    Source: Yu et al. (2020), Salvaging federated learning by local adaptation,
    https://arxiv.org/abs/2002.04758.
    """
    return mean((select_defined(collaboration_gains(together, alone)) < 0).double())


def benefit_rows(
    round_num: int,
    clients: Sequence[int],
    together: Float[Tensor, " m"],
    alone: Float[Tensor, " m"],
) -> Iterator[Row]:
    """Yield each client's accuracy alone and its gain, and statistics of the gains.

    `fairness_collaboration_alone` correlates the accuracies of clients alone and together.
    """
    gains = collaboration_gains(together, alone)
    for name, values in (("alone_accuracy", alone), ("client_benefit", gains)):
        for client, value in zip(clients, values.tolist(), strict=True):
            yield mark_undefined(Row(round_num, name, value, client))
    rows = [
        Row(round_num, "fairness_benefit_mean", mean_gain(together, alone)),
        Row(round_num, "fairness_benefit_spread", gain_spread(together, alone)),
        Row(round_num, "fairness_worse_off", worse_off_share(together, alone)),
        correlation_row(round_num, "alone", alone, together),
    ]
    yield from map(mark_undefined, note_left_out(rows, gains.isnan(), "clients"))
