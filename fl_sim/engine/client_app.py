"""Any client as a Flower ClientApp.

A node has no state of its own: each message names the experiment, the round and the client,
so that any node can serve any client, on every engine, with the same bits.
"""

from dataclasses import replace

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_sim.engine.federation import federation
from fl_sim.engine.wire import (
    BUFFERS,
    ORDER,
    from_record,
    pack_buffers,
    the_arrays,
    to_record,
    unpack_buffers,
)
from fl_sim.models import parameters
from fl_sim.seeding import generator, torch_seeded

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client that the message names; reply with its parameters and metrics."""
    torch.set_num_threads(1)  # reductions depend on it, so it is the same everywhere
    order = message.content.config_records[ORDER]
    ours = federation(str(order["experiment"]))
    number, client = int(str(order["round"])), int(str(order["client"]))
    key, arrays = the_arrays(message.content)
    shapes = parameters.shapes(ours.model)
    parameters.load_flat(ours.model, from_record(arrays, shapes))
    parameters.load_buffers(ours.model, unpack_buffers(_bytes(order)))
    shard = replace(ours.shard(client), round=number, proximal_mu=_proximal_mu(message))
    rng = generator(ours.experiment.seed, "round", number, "client", client)
    with torch_seeded(ours.experiment.seed, "round", number, "layers", client):  # of dropout
        metrics = ours.behaviour(client).train(ours.model, shard, rng)
    content = RecordDict(
        {
            key: to_record(parameters.flat(ours.model), shapes),
            "metrics": MetricRecord({"num-examples": len(shard), **metrics}),
            BUFFERS: ConfigRecord({BUFFERS: pack_buffers(parameters.buffers(ours.model))}),
        }
    )
    return Message(content, reply_to=message)


def _proximal_mu(message: Message) -> float:
    """Return the weight that Flower's FedProx sends for its clients to apply."""
    config = message.content.config_records.get("config", ConfigRecord())
    return float(str(config.get("proximal-mu", 0.0)))


def _bytes(order: ConfigRecord) -> bytes:
    content = order[BUFFERS]
    assert isinstance(content, bytes)
    return content
