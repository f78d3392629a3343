"""Any client as a Flower ClientApp.

A node has no state of its own: each message names the experiment, the round and the client,
so that any node can serve any client, on every engine, with the same bits.
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_sim import process
from fl_sim.contracts import Update
from fl_sim.engine.federation import federation
from fl_sim.engine.update_checks import in_words
from fl_sim.engine.wire import ORDER, from_content, to_reply
from fl_sim.models import parameters

app = ClientApp()


class ClientFailedError(RuntimeError):
    """A client has nothing to send that could be used."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client that the message names; reply with its update and metrics."""
    process.settle()
    ours = federation(str(message.content.config_records[ORDER]["experiment"]))
    shapes = parameters.shapes(ours.model)
    order, task = from_content(message.content, shapes)
    try:
        first = ours.workshop.answers(order, task)[0]
    except (KeyboardInterrupt, Exception):
        raise
    except BaseException as error:  # SystemExit would take the node with it
        raise ClientFailedError(in_words(error)) from None
    if not isinstance(first, Update):
        raise ClientFailedError(first.cause)
    return Message(to_reply(first, shapes), reply_to=message)
