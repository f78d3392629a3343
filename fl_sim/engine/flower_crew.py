"""Clients behind any grid of Flower's: its simulation engine, its deployment, a user's app."""

from collections.abc import Iterator
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid

from fl_sim.contracts import Failure, Update
from fl_sim.engine.crew import LocalCrew, Used
from fl_sim.engine.local_grid import LocalGrid
from fl_sim.engine.orders import Chunk, Done, Order, Task, settled
from fl_sim.engine.update_checks import failure, in_words, valid, with_usual_metrics
from fl_sim.engine.wire import from_reply, to_content
from fl_sim.engine.workshop import Workshop
from fl_sim.models import parameters

Answer = Update | Failure


class FlowerCrew(LocalCrew):
    """Sends each client a message of its own, and checks what comes back; scores by itself."""

    def __init__(self, workshop: Workshop, grid: Grid, foreign: bool = True) -> None:
        """Reach clients over `grid`.

        Args:
            workshop: what the server knows of the clients.
            grid: where they are.
            foreign: whether they run an app of the user's own, whose metrics nobody knows before.
        """
        super().__init__(workshop)
        self.grid, self.foreign = grid, foreign
        self.experiment = workshop.schedule.experiment.to_json()
        self.shapes = parameters.shapes(workshop.model)

    def train(self, order: Order, chunks: list[Chunk]) -> Iterator[tuple[int, Done]]:
        """Ask all clients at once, those that fail again as the policy says."""
        policy = self.workshop.policy
        waiting = {task.client: task for chunk in chunks for task in chunk}
        updates: dict[int, Update] = {}
        failures: list[Failure] = []
        for _ in range(1 + (policy.retries if policy.on_failure == "retry" else 0)):
            if not waiting:
                break
            answers = self._ask(order, list(waiting.values()))
            failures += [a for a in answers if isinstance(a, Failure)]
            updates |= {a.client: a for a in answers if isinstance(a, Update)}
            waiting = {
                client: replace(task, attempt=task.attempt + 1)
                for client, task in waiting.items()
                if client not in updates
            }
        for position, chunk in enumerate(chunks):
            clients = [task.client for task in chunk]
            own = [updates[client] for client in clients if client in updates]
            failed = [failure for failure in failures if failure.client in clients]
            yield position, settled(chunk, own, failed, order.adds_up)

    def used(self) -> Used:
        """Return the time of this process where clients are in it; nodes elsewhere say nothing."""
        if isinstance(self.grid, LocalGrid):
            return super().used()
        return "Flower's nodes do not say what they use"

    def _ask(self, order: Order, tasks: list[Task]) -> list[Answer]:
        nodes = sorted(self.grid.get_node_ids())
        sent: dict[int, Message] = {}
        for task in tasks:
            content = to_content(order, task, self.experiment, self.shapes)
            sent[task.client] = Message(content, nodes[task.client % len(nodes)], "train")
        timeout = self.workshop.policy.timeout
        replies: dict[str, Message] = {}
        repeated: set[str] = set()
        for reply in self.grid.send_and_receive(list(sent.values()), timeout=timeout):
            about = reply.metadata.reply_to_message_id
            repeated |= {about} & replies.keys()
            replies.setdefault(about, reply)
        names = {client: message.metadata.message_id for client, message in sent.items()}
        answers = [self._read(order, client, replies.get(name)) for client, name in names.items()]
        answers += [
            failure(order.round, client, "sent a second reply")
            for client, name in names.items()
            if name in repeated
        ]
        return with_usual_metrics(order.round, answers) if self.foreign else answers

    def _read(self, order: Order, client: int, reply: Message | None) -> Answer:
        """Return what a client sent, checked: whatever it is, it is no more than its failure."""
        if reply is None:
            return failure(order.round, client, "no reply")
        try:
            if reply.has_error():
                return failure(order.round, client, str(reply.error.reason or "no reason given"))
            asked = self.workshop.asked(order, client)
            update = from_reply(reply.content, order, client, asked.num_examples, self.shapes)
            return valid(update, asked)
        except ValueError as error:
            return failure(order.round, client, str(error))
        except Exception as error:
            return failure(order.round, client, in_words(error))
