"""The round as Flower's own strategies see it: a grid of its clients, and their replies."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fl_sim.contracts import Update
from fl_sim.core.errors import RunFailedError
from fl_sim.flower.records import NUM_EXAMPLES, Shapes, find_arrays, to_record

MAX_LOOKUPS = 4  # times that a strategy may list the nodes; Flower's wait for ever


class ClientRoster(Grid):
    """A grid whose nodes are the clients of a round, from which a strategy chooses."""

    def __init__(self, clients: list[int]) -> None:
        self.clients = clients
        self.num_lookups = 0

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients.

        Raises:
            RunFailedError: If the strategy waits for more clients than there are.
        """
        self.num_lookups += 1
        if self.num_lookups > MAX_LOOKUPS:
            raise RunFailedError(f"the strategy waits for more than {len(self.clients)} clients")
        return self.clients

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a strategy configures a round; the loop sends its messages")

    run = property(_refuse)
    set_run = create_message = get_nodes = _refuse
    push_messages = pull_messages = send_and_receive = _refuse


def make_replies(
    updates: list[Update], received: Iterable[Tensor], instructions: list[Message], shapes: Shapes
) -> list[Message]:
    """Return checked updates as the replies that a Flower strategy aggregates.

    Args:
        updates: Updates in client order.
        received: Parameters of each client after training, `[p]`.
        instructions: Messages of the strategy to its clients.
        shapes: Shapes of the parameters, by name.
    """
    by_client = {message.metadata.dst_node_id: message for message in instructions}
    replies = []
    for update, parameters in zip(updates, received, strict=True):
        key, _ = find_arrays(by_client[update.client].content)
        metrics = MetricRecord({**update.metrics, NUM_EXAMPLES: update.num_examples})
        content = RecordDict({key: to_record(parameters, shapes), "metrics": metrics})
        replies.append(Message(content, reply_to=by_client[update.client]))
    return replies
