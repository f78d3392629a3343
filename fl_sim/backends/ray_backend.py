"""Backend of warm Ray workers, on this machine or a cluster, which outlive a run.

A worker receives the data once per run and the model once per round, through Ray's object store,
which holds one copy per machine. Chunks of clients are sent to workers, the longest first; each
worker holds one chunk in reserve, so that it never waits, and results stream back.

A worker that dies or hangs is replaced, and its chunks are trained again. The chunk at which it was
working is split into single clients, so that a client that takes its worker down is identified:
the loss of a worker over a single client is that client's failure, unless a whole machine was lost.
The loss of a worker over several clients is a failure of no client (`NO_CLIENT`).
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
from fl_sim.backends.ray_pool import Call, WorkerHandle
from fl_sim.backends.ray_worker import pack_trainer
from fl_sim.contracts import Failure, Update
from fl_sim.core.device import CPU
from fl_sim.core.errors import RunFailedError
from fl_sim.models.scoring import BATCH
from fl_sim.training.client_trainer import ClientTrainer
from fl_sim.training.tasks import NO_CLIENT, Chunk, ChunkResult, RoundConfig, Tensors, finish_chunk

REPLY_TIMEOUT = 10.0  # seconds for an idle worker to report its CPU time
CALLS_PER_WORKER = 2  # chunks that a worker holds: the one it works at, and the next
KILL_GRACE = 5.0  # seconds after the time limit of its clients at which a worker is killed
DIED = "its worker died"
HUNG = "its worker hung, and was killed"
LOST = "its machine was lost"
NOT_STARTED = ""  # the call was next in line: no client of it is to blame
INFRASTRUCTURE_ERRORS = (  # errors that no client can cause
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)

Outcome = ChunkResult | str  # a result, or the reason why the call was lost


@dataclass(eq=False)
class PartialChunk:
    """A chunk whose clients are trained one by one, since a worker was lost over it.

    Attributes:
        chunk: The clients of the chunk.
        waiting: Clients that have neither delivered nor finally failed.
        updates: Updates that have come in, by client.
        failures: Failures so far.
    """

    chunk: Chunk
    waiting: set[int]
    updates: dict[int, Update] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


class RayBackend(Backend):
    """Trains chunks of clients on Ray workers."""

    def __init__(
        self,
        trainer: ClientTrainer,
        evaluation_inputs: dict[str, Tensor],
        num_workers: int,
        address: str | None,
        devices: tuple[torch.device, ...] = (CPU,),
    ) -> None:
        """Start Ray and its workers, which share devices, unless an earlier run has.

        Raises:
            RequestError: If no cluster answers at `address`.
        """
        self.workers = ray_pool.get_workers(num_workers, address, devices)
        self.trainer, self.evaluation_inputs = trainer, evaluation_inputs
        self.policy = trainer.policy
        self.package = ray.put(pack_trainer(trainer, evaluation_inputs))
        self.finished: deque[tuple[int, ChunkResult]] = deque()

    def train(self, config: RoundConfig, chunks: list[Chunk]) -> Iterator[tuple[int, ChunkResult]]:
        """Send the chunks to workers, and yield the results in order of completion."""
        # Clients of a split chunk send their deltas, which are summed when the chunk is complete:
        # a sum of sums would have other bits.
        config_refs = {False: ray.put(config)}  # by whether the call is for a single client
        queue = deque(Call(position, chunk) for position, chunk in enumerate(chunks))
        partial_chunks: dict[int, PartialChunk] = {}
        try:
            while queue or any(worker.calls for worker in self.workers):
                self._submit_chunks(queue, config, config_refs)
                for call, outcome in self._wait_for_outcomes():
                    self._record_outcome(config, call, outcome, partial_chunks, queue)
                while self.finished:
                    yield self.finished.popleft()
        finally:
            # Only busy if the round was interrupted: stop work whose results nothing will read.
            for worker in self.workers:
                if worker.calls:
                    ray_pool.restart(worker)

    def _submit_chunks(
        self, queue: deque[Call], config: RoundConfig, config_refs: dict[bool, Any]
    ) -> None:
        """Fill up the calls of every worker that is ready, first those with fewest."""
        for limit in range(1, CALLS_PER_WORKER + 1):
            for worker in self.workers:
                ready = ray_pool.poll_ready(worker, self.package)
                # A single client of a lost chunk has a worker to itself. Otherwise the next call
                # could kill the worker before it has sent the result, and this client is blamed.
                alone = any(call.single_client for call in [*worker.calls, *list(queue)[:1]])
                if ready and queue and len(worker.calls) < (1 if alone else limit):
                    call = queue.popleft()
                    if call.single_client and True not in config_refs:
                        config_refs[True] = ray.put(replace(config, sum_updates=False))
                    config_ref = config_refs[call.single_client]
                    call.ref = worker.actor.train_chunk.remote(config_ref, call.tasks)
                    call.started = time.monotonic()
                    worker.calls.append(call)

    def _wait_for_outcomes(self) -> list[tuple[Call, Outcome]]:
        """Wait for a worker; return the calls that ended, with their results or causes of loss."""
        # Workers run their calls in order, so only the first of each can end.
        refs = {worker.calls[0].ref: worker for worker in self.workers if worker.calls}
        if not refs:
            ray_pool.wait_until_one_ready(self.workers)
            return []
        # Also wake up when a worker becomes ready, to give it work.
        pending = [worker.pending for worker in self.workers if worker.pending is not None]
        done, _ = ray.wait([*refs, *pending], num_returns=1, timeout=self._compute_time_left())
        outcomes: list[tuple[Call, Outcome]] = []
        for ref in [ref for ref in done if ref in refs]:
            worker = refs[ref]
            try:
                outcomes.append((worker.calls[0], ray.get(ref)))
                worker.calls.pop(0)
                if worker.calls:
                    worker.calls[0].started = time.monotonic()
            except ray.exceptions.RayTaskError as error:
                # The trainer turns every error of a client into a failure: this is a bug of ours.
                raise RunFailedError(f"a worker failed: {error.cause}") from error
            except ray.exceptions.RayError as error:
                outcomes += self._replace(worker, LOST if _is_infrastructure_error(error) else DIED)
        return outcomes or self._kill_hung_workers()

    def _replace(self, worker: WorkerHandle, cause: str) -> list[tuple[Call, Outcome]]:
        """Replace a worker; return the calls that it held, the first of which was lost."""
        calls = worker.calls
        ray_pool.restart(worker)
        return [(call, NOT_STARTED if k else cause) for k, call in enumerate(calls)]

    def _compute_time_left(self) -> float | None:
        if self.policy.timeout is None:
            return None
        calls = [worker.calls[0] for worker in self.workers if worker.calls]
        deadline = min(call.started + self._compute_time_limit(call) for call in calls)
        return max(0.01, deadline - time.monotonic())

    def _compute_time_limit(self, call: Call) -> float:
        """Return the seconds after which the worker itself hangs, not just one of its clients."""
        assert self.policy.timeout is not None
        attempts = 1 + (self.policy.retries if self.policy.on_failure == "retry" else 0)
        return self.policy.timeout * attempts * len(call.tasks) + KILL_GRACE

    def _kill_hung_workers(self) -> list[tuple[Call, Outcome]]:
        """Kill workers that are past their limit; return the calls that they held."""
        outcomes: list[tuple[Call, Outcome]] = []
        for worker in [worker for worker in self.workers if worker.calls and self.policy.timeout]:
            call = worker.calls[0]
            if time.monotonic() - call.started > self._compute_time_limit(call):
                outcomes += self._replace(worker, HUNG)
        return outcomes

    def _record_outcome(
        self,
        config: RoundConfig,
        call: Call,
        outcome: Outcome,
        partial_chunks: dict[int, PartialChunk],
        queue: deque[Call],
    ) -> None:
        """Record a result, or queue the clients of a lost call again.

        They go to the front of the queue: the rest of the round may be waiting for them.
        """
        partial = partial_chunks.get(call.position)
        if isinstance(outcome, ChunkResult) and partial is None:
            self.finished.append((call.position, outcome))
            return
        if outcome == NOT_STARTED:
            queue.appendleft(Call(call.position, call.tasks, call.single_client))
            return
        if partial is None:
            partial = PartialChunk(call.tasks, {task.client for task in call.tasks})
            partial_chunks[call.position] = partial
        if isinstance(outcome, str) and (len(call.tasks) > 1 or outcome == LOST):
            cause = f"{outcome.replace('its', 'a')} over {len(call.tasks)} clients"
            partial.failures.append(Failure(config.round, NO_CLIENT, cause))
            queue.extendleft(Call(call.position, (task,), True) for task in call.tasks)
            return
        self._record_client(config, call, outcome, partial, queue)
        if not partial.waiting:
            del partial_chunks[call.position]
            # In client order, as in a chunk that was trained at once: the sum has the same bits.
            updates = [partial.updates[client] for client in sorted(partial.updates)]
            result = finish_chunk(partial.chunk, updates, partial.failures, config.sum_updates)
            self.finished.append((call.position, result))

    def _record_client(
        self,
        config: RoundConfig,
        call: Call,
        outcome: Outcome,
        partial: PartialChunk,
        queue: deque[Call],
    ) -> None:
        """Record the result of a client that was trained alone, or its failure and its retry."""
        (task,) = call.tasks
        if isinstance(outcome, ChunkResult):
            partial.updates |= {update.client: update for update in outcome.updates}
            partial.failures += outcome.failures
        else:
            partial.failures.append(Failure(config.round, task.client, outcome))
            if self.policy.on_failure == "retry" and task.attempt < self.policy.retries:
                retry = replace(task, attempt=task.attempt + 1)
                queue.appendleft(Call(call.position, (retry,), True))
                return
        partial.waiting.discard(task.client)

    def score(
        self, values: Float[Tensor, " p"], buffers: Tensors, inputs: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Score the sets in whole batches, spread over the workers."""
        local, values_ref = InProcessBackend(self.trainer), ray.put(values)
        ready = self._find_ready_workers()
        scores: dict[str, Tensor] = {}
        for name, rows in inputs.items():
            # Workers hold only the sets that they were sent; others are scored in this process.
            if not ready or not len(rows) or self.evaluation_inputs.get(name) is not rows:
                scores |= local.score(values, buffers, {name: rows})
                continue
            ranges = _split_into_batches(len(rows), len(ready))
            calls = [
                (worker, worker.actor.score.remote(values_ref, buffers, name, part))
                for worker, part in zip(ready, ranges, strict=False)
            ]
            parts = []
            for (worker, ref), part in zip(calls, ranges, strict=True):
                try:
                    parts.append(ray.get(ref))
                except ray.exceptions.RayError:  # score the part of a lost worker here
                    ray_pool.restart(worker)
                    parts.append(local.score(values, buffers, {name: rows[part]})[name])
            scores[name] = torch.cat(parts)
        return scores

    def cpu_seconds(self) -> CpuSeconds:
        """Return the CPU time of this process and of each worker, if all workers answer."""
        try:
            refs = [worker.actor.cpu_seconds.remote() for worker in self._find_ready_workers()]
            of_workers: list[tuple[str, float]] = ray.get(refs, timeout=REPLY_TIMEOUT)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            return "a worker did not say what it had used"
        return {"this process": process_time(), **dict(of_workers)}

    def peak_memory(self) -> int:
        """Return the bytes of this process and its workers; shared memory counts in each."""
        try:
            refs = [worker.actor.peak_memory.remote() for worker in self._find_ready_workers()]
            of_workers: list[int] = ray.get(refs)
            return super().peak_memory() + sum(of_workers)
        except ray.exceptions.RayError:
            return super().peak_memory()

    def memory_note(self) -> str:
        """Return the limits that the memory of the workers' devices has set, in words."""
        try:
            refs = [worker.actor.memory_note.remote() for worker in self._find_ready_workers()]
            notes: list[str] = ray.get(refs)
        except ray.exceptions.RayError:
            return ""
        return "; ".join(sorted({note for note in notes if note}))

    def _find_ready_workers(self) -> list[WorkerHandle]:
        return [worker for worker in self.workers if ray_pool.poll_ready(worker, self.package)]


def _is_infrastructure_error(error: Exception) -> bool:
    """Return whether a call was lost for a reason that no client can cause."""
    return isinstance(error, INFRASTRUCTURE_ERRORS) or "node has died" in str(error)


def _split_into_batches(count: int, parts: int) -> list[slice]:
    """Return slices of whole batches: the bits of a score depend on its batch."""
    batches = -(-count // BATCH)
    step = -(-batches // max(1, parts)) * BATCH
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def is_inside_worker() -> bool:
    """Return whether this process is a Ray worker."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
