"""Flower grid in this process: no Ray, no sockets, one client after another."""

import traceback
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_sim.flower import compat
from fl_sim.training.update_checks import describe_error

CLIENT_APP_RAISED = 2  # Flower's error code for an exception in a ClientApp


class LocalGrid(Grid):
    """Passes each message to a ClientApp and collects the replies, in order.

    Node ids are client numbers. An error of the app becomes an error reply, as on every engine.
    """

    def __init__(self, app: ClientApp, num_nodes: int) -> None:
        """Create a grid of `num_nodes` nodes that run `app`."""
        compat.ensure_node_identity()
        self.app = app
        self.contexts = [self._context(node, num_nodes) for node in range(num_nodes)]

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids."""
        return list(range(len(self.contexts)))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies to the messages, in order."""
        return [self._reply(message) for message in messages]

    def _reply(self, message: Message) -> Message:
        compat.assign_message_id(message)
        try:
            reply = self.app(message, self.contexts[message.metadata.dst_node_id])
            if isinstance(reply, Message):
                return reply
            reason = f"sent no message: {type(reply).__name__}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: an app cannot end the run
            traceback.clear_frames(error.__traceback__)
            reason = describe_error(error)
        return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message)

    @staticmethod
    def _context(node: int, num_nodes: int) -> Context:
        config: Any = {"partition-id": node, "num-partitions": num_nodes}
        return Context(
            run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={}
        )

    # The rest of the interface is for asynchronous apps, which this grid does not run.

    @property
    def run(self) -> Any:
        """None: without a SuperLink, there is no record of a run."""
        return None

    def set_run(self, run: Any) -> None:
        """Ignore the record of a run."""

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Return a message, built by its constructor."""
        return Message(*args, **kwargs)

    def get_nodes(self) -> Any:
        """Return the node ids."""
        return self.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: replies come from `send_and_receive`."""
        raise RuntimeError("LocalGrid answers at once; use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: replies come from `send_and_receive`."""
        raise RuntimeError("LocalGrid answers at once; use send_and_receive")
