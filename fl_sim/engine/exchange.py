"""One round of messages: instructions out, checked updates and failures back."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl_sim.contracts import Failure, Update
from fl_sim.engine.wire import (
    BUFFERS,
    ORDER,
    Shapes,
    from_record,
    order_record,
    pack_buffers,
    the_arrays,
    to_record,
    unpack_buffers,
)
from fl_sim.errors import RunFailedError
from fl_sim.experiment import FailurePolicy

PATIENCE = 4  # times that a strategy may look who is there; Flower's would look for ever


class Roll(Grid):
    """The clients of a round, as the nodes that a strategy may choose from."""

    def __init__(self, clients: list[int]) -> None:
        self.clients = clients
        self.asked = 0

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients.

        Raises:
            RunFailedError: for a strategy that waits for more clients than there are.
        """
        self.asked += 1
        if self.asked > PATIENCE:
            raise RunFailedError(f"the strategy waits for more than {len(self.clients)} clients")
        return self.clients

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a strategy configures a round; the loop sends its messages")

    run = property(_refuse)
    set_run = create_message = get_nodes = _refuse
    push_messages = pull_messages = send_and_receive = _refuse


Buffers = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Exchange:
    """Sends a round's instructions over a grid and checks what comes back.

    Attributes:
        grid: any grid of Flower's interface.
        experiment: the run as JSON, for the nodes.
        shapes: what the parameters must look like.
        shard_sizes: examples of each client, as the server knows them.
        policy: what to do about failures.
    """

    grid: Grid
    experiment: str
    shapes: Shapes
    shard_sizes: list[int]
    policy: FailurePolicy

    def updates(
        self, number: int, instructions: list[Message], buffers: Buffers
    ) -> tuple[list[Update], list[Failure]]:
        """Return the valid updates in client order, and who failed.

        Raises:
            RunFailedError: for any failure under the policy `raise`, or with too few updates.
        """
        waiting = {message.metadata.dst_node_id: message for message in instructions}
        received: dict[int, Update] = {}
        failures: list[Failure] = []
        attempts = 1 + (self.policy.retries if self.policy.on_failure == "retry" else 0)
        for _ in range(attempts):
            answers = self._ask(number, waiting, buffers)
            failures += [a for a in answers if isinstance(a, Failure)]
            received |= {a.client: a for a in answers if isinstance(a, Update)}
            waiting = {c: m for c, m in waiting.items() if c not in received}
            if not waiting:
                break
        self._judge(number, received, failures)
        return [received[client] for client in sorted(received)], failures

    def _ask(
        self, number: int, waiting: dict[int, Message], buffers: Buffers
    ) -> list[Update | Failure]:
        nodes = sorted(self.grid.get_node_ids())
        packed = pack_buffers(buffers)
        sent: dict[int, Message] = {}
        for client, instruction in sorted(waiting.items()):
            order = order_record(self.experiment, number, client, packed)
            content = RecordDict({**instruction.content, ORDER: order})
            sent[client] = Message(content, nodes[client % len(nodes)], "train")
        replies = {
            reply.metadata.reply_to_message_id: reply
            for reply in self.grid.send_and_receive(list(sent.values()))
        }
        answers = [
            self._read(number, client, replies.get(message.metadata.message_id), buffers)
            for client, message in sent.items()
        ]
        return self._same_metrics(number, answers)

    def _read(
        self, number: int, client: int, reply: Message | None, buffers: Buffers
    ) -> Update | Failure:
        if reply is None:
            return Failure(number, client, "no reply")
        if reply.has_error():
            cause = (reply.error.reason or "no reason given").splitlines()[0]
            return Failure(number, client, cause)
        try:
            return self._checked(client, reply.content, buffers)
        except (ValueError, KeyError, TypeError) as error:
            return Failure(number, client, str(error))

    def _checked(self, client: int, content: RecordDict, sent: Buffers) -> Update:
        parameters = from_record(the_arrays(content)[1], self.shapes)
        buffers = _buffers(content, sent)
        floats = [parameters, *(b for b in buffers.values() if b.is_floating_point())]
        if not all(bool(values.isfinite().all()) for values in floats):
            raise ValueError("parameters are not finite")
        (metrics,) = content.metric_records.values()
        values = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
        values.pop("num-examples")
        # The server's own count: what a client claims is forgeable.
        return Update(client, parameters, buffers, self.shard_sizes[client], values)

    def _same_metrics(self, number: int, answers: list[Update | Failure]) -> list[Update | Failure]:
        """Fail clients whose metrics have other names than most: strategies refuse a mixture."""
        names = Counter(tuple(sorted(a.metrics)) for a in answers if isinstance(a, Update))
        if len(names) <= 1:
            return answers
        usual = names.most_common(1)[0][0]
        return [
            Failure(number, a.client, f"wrong metrics: {sorted(a.metrics)}")
            if isinstance(a, Update) and tuple(sorted(a.metrics)) != usual
            else a
            for a in answers
        ]

    def _judge(self, number: int, received: dict[int, Update], failures: list[Failure]) -> None:
        if failures and self.policy.on_failure == "raise":
            first = failures[0]
            raise RunFailedError(f"round {number}, client {first.client}: {first.cause}")
        if len(received) < self.policy.min_updates:
            cause = f"; client {failures[0].client}: {failures[0].cause}" if failures else ""
            raise RunFailedError(
                f"round {number}: {len(received)} valid updates, failures.min_updates is "
                f"{self.policy.min_updates}{cause}"
            )


def _buffers(content: RecordDict, sent: Buffers) -> Buffers:
    """Return the buffers of a reply; a user's own app may leave them as they were sent.

    Raises:
        ValueError: for other names or shapes than were sent.
    """
    record = content.config_records.get(BUFFERS)
    if record is None:
        return sent
    packed = record[BUFFERS]
    received = unpack_buffers(packed) if isinstance(packed, bytes) else {}
    shapes = [{n: (b.shape, b.dtype) for n, b in own.items()} for own in (received, sent)]
    if shapes[0] != shapes[1]:
        raise ValueError("wrong buffers: other names, shapes or types than were sent")
    return received


def as_replies(updates: list[Update], instructions: list[Message], shapes: Shapes) -> list[Message]:
    """Return checked updates as the replies that a Flower strategy aggregates."""
    by_client = {message.metadata.dst_node_id: message for message in instructions}
    replies = []
    for update in updates:
        key, _ = the_arrays(by_client[update.client].content)
        arrays: ArrayRecord = to_record(_delta(update), shapes)
        metrics = MetricRecord({"num-examples": update.num_examples, **update.metrics})
        content = RecordDict({key: arrays, "metrics": metrics})
        replies.append(Message(content, reply_to=by_client[update.client]))
    return replies


def _delta(update: Update) -> torch.Tensor:
    assert update.delta is not None
    return update.delta
