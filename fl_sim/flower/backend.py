"""Backend of clients behind a Flower grid: its simulation, its deployment, or a user's own app."""

import time
from collections.abc import Iterator
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid as Grid

from fl_sim.backends.base import Backend, CpuSeconds, InProcessBackend
from fl_sim.contracts import Failure, Update
from fl_sim.flower.local_grid import LocalGrid
from fl_sim.flower.records import decode_reply, encode_task
from fl_sim.models import parameters
from fl_sim.training.client_trainer import ClientTrainer, OnUpdate
from fl_sim.training.tasks import Chunk, ChunkResult, ClientTask, RoundConfig, finish_chunk
from fl_sim.training.update_checks import (
    check_update,
    describe_error,
    make_failure,
    require_common_metrics,
)

Answer = Update | Failure


def wait_for_nodes(grid: Grid) -> None:
    """Wait until nodes have registered: Flower starts the server before them."""
    deadline = time.time() + 120
    while not list(grid.get_node_ids()):
        if time.time() > deadline:
            raise RuntimeError("no node registered within two minutes")
        time.sleep(0.1)


class FlowerBackend(InProcessBackend):
    """Sends each client its own message and checks the reply; scores in this process."""

    def __init__(self, trainer: ClientTrainer, grid: Grid, foreign: bool = True) -> None:
        """Create a backend for the clients behind `grid`.

        Args:
            trainer: The server's own knowledge of the clients.
            grid: Sends messages to the nodes.
            foreign: Whether nodes run a user's own app, whose metrics are not known in advance.
        """
        super().__init__(trainer)
        self.grid, self.foreign = grid, foreign
        self.experiment = trainer.schedule.experiment.to_json()
        self.shapes = parameters.parameter_shapes(trainer.model)

    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Ask all clients at once; those that fail are asked again as the policy says."""
        policy = self.trainer.policy
        waiting = {task.client: task for chunk in chunks for task in chunk}
        updates: dict[int, Update] = {}
        failures: list[Failure] = []
        for _ in range(1 + (policy.retries if policy.on_failure == "retry" else 0)):
            if not waiting:
                break
            answers = self._ask(config, list(waiting.values()))
            failures += [a for a in answers if isinstance(a, Failure)]
            updates |= {a.client: a for a in answers if isinstance(a, Update)}
            waiting = {
                client: replace(task, attempt=task.attempt + 1)
                for client, task in waiting.items()
                if client not in updates
            }
        for position, chunk in enumerate(chunks):
            clients = [task.client for task in chunk]
            delivered = [updates[client] for client in clients if client in updates]
            failed = [failure for failure in failures if failure.client in clients]
            yield position, finish_chunk(chunk, delivered, failed, config.sum_updates)

    def watch(self, on_update: OnUpdate | None) -> None:
        """Refuse a callback: updates are made in other processes."""
        Backend.watch(self, on_update)

    def cpu_seconds(self) -> CpuSeconds:
        """Return the CPU time of this process if the clients run in it; other nodes report none."""
        if isinstance(self.grid, LocalGrid):
            return super().cpu_seconds()
        return "Flower's nodes do not say what they use"

    def _ask(self, config: RoundConfig, tasks: list[ClientTask]) -> list[Answer]:
        nodes = sorted(self.grid.get_node_ids())
        sent: dict[int, Message] = {}
        for task in tasks:
            content = encode_task(config, task, self.experiment, self.shapes)
            sent[task.client] = Message(content, nodes[task.client % len(nodes)], "train")
        timeout = self.trainer.policy.timeout
        replies: dict[str, Message] = {}  # the first to each message, by its id
        repeated: set[str] = set()
        for reply in self.grid.send_and_receive(list(sent.values()), timeout=timeout):
            message_id = reply.metadata.reply_to_message_id
            repeated |= {message_id} & replies.keys()
            replies.setdefault(message_id, reply)
        ids = {client: message.metadata.message_id for client, message in sent.items()}
        answers = [self._read(config, client, replies.get(i)) for client, i in ids.items()]
        answers += [
            make_failure(config.round, client, "sent a second reply")
            for client, message_id in ids.items()
            if message_id in repeated
        ]
        return require_common_metrics(config.round, answers) if self.foreign else answers

    def _read(self, config: RoundConfig, client: int, reply: Message | None) -> Answer:
        """Return a client's checked update; any fault in its reply is a failure of that client."""
        if reply is None:
            return make_failure(config.round, client, "no reply")
        try:
            if reply.has_error():
                cause = str(reply.error.reason or "no reason given")
                return make_failure(config.round, client, cause)
            expected = self.trainer.describe_expected_update(config, client)
            update = decode_reply(reply.content, config, client, expected.num_examples, self.shapes)
            return check_update(update, expected)
        except ValueError as error:
            return make_failure(config.round, client, str(error))
        except Exception as error:
            return make_failure(config.round, client, describe_error(error))
