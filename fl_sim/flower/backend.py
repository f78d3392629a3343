"""Clients behind any grid of Flower's: its simulation engine, its deployment, a user's app."""

from collections.abc import Iterator
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid

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


class FlowerBackend(InProcessBackend):
    """Sends each client a message of its own, and checks what comes back; scores by itself."""

    def __init__(self, trainer: ClientTrainer, grid: Grid, foreign: bool = True) -> None:
        """Reach clients over `grid`.

        Args:
            workshop: what the server knows of the clients.
            grid: where they are.
            foreign: whether they run an app of the user's own, whose metrics nobody knows before.
        """
        super().__init__(trainer)
        self.grid, self.foreign = grid, foreign
        self.experiment = trainer.schedule.experiment.to_json()
        self.shapes = parameters.parameter_shapes(trainer.model)

    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Ask all clients at once, those that fail again as the policy says."""
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
            own = [updates[client] for client in clients if client in updates]
            failed = [failure for failure in failures if failure.client in clients]
            yield position, finish_chunk(chunk, own, failed, config.sum_updates)

    def watch(self, on_update: OnUpdate | None) -> None:
        """Refuse to show updates: they are made elsewhere."""
        Backend.watch(self, on_update)

    def cpu_seconds(self) -> CpuSeconds:
        """Return the time of this process where clients are in it; nodes elsewhere say nothing."""
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
        replies: dict[str, Message] = {}
        repeated: set[str] = set()
        for reply in self.grid.send_and_receive(list(sent.values()), timeout=timeout):
            about = reply.metadata.reply_to_message_id
            repeated |= {about} & replies.keys()
            replies.setdefault(about, reply)
        names = {client: message.metadata.message_id for client, message in sent.items()}
        answers = [self._read(config, client, replies.get(name)) for client, name in names.items()]
        answers += [
            make_failure(config.round, client, "sent a second reply")
            for client, name in names.items()
            if name in repeated
        ]
        return require_common_metrics(config.round, answers) if self.foreign else answers

    def _read(self, config: RoundConfig, client: int, reply: Message | None) -> Answer:
        """Return what a client sent, checked: whatever it is, it is no more than its failure."""
        if reply is None:
            return make_failure(config.round, client, "no reply")
        try:
            if reply.has_error():
                return make_failure(
                    config.round, client, str(reply.error.reason or "no reason given")
                )
            asked = self.trainer.describe_expected_update(config, client)
            update = decode_reply(reply.content, config, client, asked.num_examples, self.shapes)
            return check_update(update, asked)
        except ValueError as error:
            return make_failure(config.round, client, str(error))
        except Exception as error:
            return make_failure(config.round, client, describe_error(error))
