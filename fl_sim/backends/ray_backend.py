"""Warm workers of Ray, on this machine or a cluster: they outlive a run, and may die in it.

A worker gets the data once, and the model once a round, through Ray's object store, which
holds one copy a machine. It is handed chunks of clients, the longest first, one ahead of the
one that it is at; results stream back. A worker that dies or hangs is replaced, and what it had
is trained again: the clients of a chunk one by one, so that one that takes its worker down is
found out. That of a client by itself is the client's failure, unless a whole machine was lost;
any other loss is a row of its own, about nobody.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import process_time
from typing import Any

import ray
import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.backends import ray_pool
from fl_sim.backends.base import Backend, CpuSeconds, InProcessBackend
from fl_sim.backends.ray_pool import Call
from fl_sim.backends.ray_worker import pack_trainer
from fl_sim.contracts import Failure, Update
from fl_sim.core.errors import RunFailedError
from fl_sim.models.scoring import BATCH
from fl_sim.training.client_trainer import ClientTrainer
from fl_sim.training.tasks import NO_CLIENT, Chunk, ChunkResult, RoundConfig, Tensors, finish_chunk

REPLY_TIMEOUT = 10.0  # seconds for an idle worker to say what it used
CALLS_PER_WORKER = 2  # chunks that a worker holds: the one it is at, and the next
KILL_GRACE = 5.0  # seconds beyond a client's limit after which its worker is killed
DIED = "its worker died"
HUNG = "its worker hung, and was killed"
LOST = "its machine was lost"
INFRASTRUCTURE_ERRORS = (
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)


@dataclass(eq=False)
class PartialChunk:
    """A chunk whose clients are trained one by one, since a worker died over it."""

    chunk: Chunk
    waiting: set[int]
    updates: dict[int, Update] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


class RayBackend(Backend):
    """Trains chunks of clients on workers of Ray."""

    def __init__(
        self, trainer: ClientTrainer, examined: dict[str, Tensor], workers: int, address: str | None
    ) -> None:
        """Start Ray and its workers, unless an earlier run of this process has.

        Raises:
            RequestError: where no cluster answers at `address`.
        """
        self.workers = ray_pool.get_workers(workers, address)
        self.trainer, self.evaluation_inputs = trainer, examined
        self.policy = trainer.policy
        self.package = ray.put(pack_trainer(trainer, examined))
        self.finished: deque[tuple[int, ChunkResult]] = deque()

    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Hand out the chunks, and yield them as they come."""
        orders = {False: ray.put(config)}
        queue = deque(Call(position, chunk) for position, chunk in enumerate(chunks))
        halves: dict[int, PartialChunk] = {}
        try:
            while queue or any(worker.calls for worker in self.workers):
                self._submit_chunks(queue, config, orders)
                for call, answer in self._wait_for_results():
                    self._record_result(config, call, answer, halves, queue)
                while self.finished:
                    yield self.finished.popleft()
        finally:
            for worker in self.workers:
                if worker.calls:  # broken off: nobody waits for what they are at
                    ray_pool.restart(worker)

    def _submit_chunks(
        self, queue: deque[Call], config: RoundConfig, orders: dict[bool, Any]
    ) -> None:
        """Give every worker that is ready something to do.

        Clients that are trained alone are added up here, when their chunk is whole again.
        """
        for full in range(1, CALLS_PER_WORKER + 1):
            for worker in self.workers:
                ready = ray_pool.poll_ready(worker, self.package)
                if ready and queue and len(worker.calls) < full:
                    call = queue.popleft()
                    if call.single_client and True not in orders:
                        orders[True] = ray.put(replace(config, sum_updates=False))
                    call.ref = worker.actor.train_chunk.remote(
                        orders[call.single_client], call.tasks
                    )
                    call.started = time.monotonic()
                    worker.calls.append(call)

    def _wait_for_results(self) -> list[tuple[Call, ChunkResult | str]]:
        """Wait for a worker, and return what came: results, or why there are none."""
        refs = {worker.calls[0].ref: worker for worker in self.workers if worker.calls}
        if not refs:
            ray_pool.wait_until_one_ready(self.workers)
            return []
        starting = [worker.pending for worker in self.workers if worker.pending is not None]
        came, _ = ray.wait([*refs, *starting], num_returns=1, timeout=self._compute_time_left())
        found: list[tuple[Call, ChunkResult | str]] = []
        for ref in [ref for ref in came if ref in refs]:
            worker = refs[ref]
            try:
                found.append((worker.calls[0], ray.get(ref)))
                worker.calls.pop(0)
                if worker.calls:
                    worker.calls[0].started = time.monotonic()
            except ray.exceptions.RayTaskError as error:
                raise RunFailedError(f"a worker failed: {error.cause}") from error
            except ray.exceptions.RayError as error:
                cause = LOST if _is_infrastructure_error(error) else DIED
                found += [(call, cause if k == 0 else "") for k, call in enumerate(worker.calls)]
                ray_pool.restart(worker)
        return found or self._kill_hung_workers()

    def _compute_time_left(self) -> float | None:
        if self.policy.timeout is None:
            return None
        deadlines = [
            h.calls[0].started + self._compute_time_limit(h.calls[0])
            for h in self.workers
            if h.calls
        ]
        return max(0.01, min(deadlines) - time.monotonic())

    def _compute_time_limit(self, call: Call) -> float:
        """Return the seconds after which a worker has hung, not just its client."""
        assert self.policy.timeout is not None
        tries = 1 + (self.policy.retries if self.policy.on_failure == "retry" else 0)
        return self.policy.timeout * tries * len(call.tasks) + KILL_GRACE

    def _kill_hung_workers(self) -> list[tuple[Call, ChunkResult | str]]:
        """Kill workers that are past their limit, and return what they had."""
        found: list[tuple[Call, ChunkResult | str]] = []
        for worker in [worker for worker in self.workers if worker.calls and self.policy.timeout]:
            if time.monotonic() - worker.calls[0].started > self._compute_time_limit(
                worker.calls[0]
            ):
                found += [(call, HUNG if k == 0 else "") for k, call in enumerate(worker.calls)]
                ray_pool.restart(worker)
        return found

    def _record_result(
        self,
        config: RoundConfig,
        call: Call,
        answer: ChunkResult | str,
        halves: dict[int, PartialChunk],
        queue: deque[Call],
    ) -> None:
        """Book a result, or what to do again: first what is longest overdue."""
        half = halves.get(call.position)
        if isinstance(answer, ChunkResult) and half is None:
            self.finished.append((call.position, answer))
            return
        if answer == "":  # it was next in line, and had no part in it
            queue.appendleft(Call(call.position, call.tasks, call.single_client))
            return
        if half is None:
            half = halves[call.position] = PartialChunk(call.tasks, {t.client for t in call.tasks})
        if isinstance(answer, str) and (len(call.tasks) > 1 or answer == LOST):
            told = f"{answer.replace('its', 'a')} over {len(call.tasks)} clients"
            half.failures.append(Failure(config.round, NO_CLIENT, told))
            queue.extendleft(Call(call.position, (task,), True) for task in call.tasks)
            return
        self._record_client_result(config, call, answer, half, queue)
        if not half.waiting:
            del halves[call.position]
            own = [half.updates[c] for c in sorted(half.updates)]
            result = finish_chunk(half.chunk, own, half.failures, config.sum_updates)
            self.finished.append((call.position, result))

    def _record_client_result(
        self,
        config: RoundConfig,
        call: Call,
        answer: ChunkResult | str,
        half: PartialChunk,
        queue: deque[Call],
    ) -> None:
        """Book what became of one client that is trained by itself."""
        (task,) = call.tasks
        if isinstance(answer, ChunkResult):
            half.updates |= {update.client: update for update in answer.updates}
            half.failures += answer.failures
        else:
            half.failures.append(Failure(config.round, task.client, answer))
            if self.policy.on_failure == "retry" and task.attempt < self.policy.retries:
                again = replace(task, attempt=task.attempt + 1)
                queue.appendleft(Call(call.position, (again,), True))
                return
        half.waiting.discard(task.client)

    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, wanted: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Score the sets in whole batches, spread over the workers."""
        here, known = InProcessBackend(self.trainer), ray.put(values)
        ready = [worker for worker in self.workers if ray_pool.poll_ready(worker, self.package)]
        found: dict[str, Tensor] = {}
        for name, inputs in wanted.items():
            if not ready or not len(inputs) or self.evaluation_inputs.get(name) is not inputs:
                found |= here.score(values, buffers, {name: inputs})
                continue
            ranges = _split_into_batches(len(inputs), len(ready))
            asked = [
                (worker, worker.actor.score.remote(known, buffers, name, rows))
                for worker, rows in zip(ready, ranges, strict=False)
            ]
            parts = []
            for (worker, answer), rows in zip(asked, ranges, strict=True):
                try:
                    parts.append(ray.get(answer))
                except ray.exceptions.RayError:  # whoever had it, it is done here
                    ray_pool.restart(worker)
                    parts.append(here.score(values, buffers, {name: inputs[rows]})[name])
            found[name] = torch.cat(parts)
        return found

    def cpu_seconds(self) -> CpuSeconds:
        """Return the time of this process and of each worker, as long as all answer."""
        ready = [worker for worker in self.workers if ray_pool.poll_ready(worker, self.package)]
        try:
            asked = [worker.actor.cpu_seconds.remote() for worker in ready]
            theirs: list[tuple[str, float]] = ray.get(asked, timeout=REPLY_TIMEOUT)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            return "a worker did not say what it had used"
        return {"this process": process_time(), **dict(theirs)}

    def peak_memory(self) -> int:
        """Return the bytes of this process and its workers; what they share counts in each."""
        ready = [worker for worker in self.workers if ray_pool.poll_ready(worker, self.package)]
        try:
            theirs: list[int] = ray.get([worker.actor.peak_memory.remote() for worker in ready])
            return super().peak_memory() + sum(theirs)
        except ray.exceptions.RayError:
            return super().peak_memory()


def _is_infrastructure_error(error: Exception) -> bool:
    """Return whether a call was lost through no fault of its client's."""
    return isinstance(error, INFRASTRUCTURE_ERRORS) or "node has died" in str(error)


def _split_into_batches(count: int, parts: int) -> list[slice]:
    """Return slices of whole batches: the bits of a score depend on its batch."""
    batches = -(-count // BATCH)
    step = -(-batches // max(1, parts)) * BATCH
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def is_inside_worker() -> bool:
    """Return whether this process is a worker of Ray itself."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
