"""Executors in this process: a thread of its own, or whichever thread calls `run_pending`.

Both do one thing after another and wait without polling. What a node raises stays inside of the worker.
"""

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..ids import ExecutorId
from .work import Done, Work

if TYPE_CHECKING:
    from .worker import Worker


class _Roused(Enum):
    ROUSED = 0


class ThreadExecutor:
    """Runs batches in a daemon thread of its own.

    busy: whether it has a batch; false just before the result is posted. Whoever submits gives it one at a time.
    post: called with each result, from that thread. number: for the thread's name.
    errand: called with this executor, from that thread, when it is roused.
    """

    def __init__(
        self,
        executor: ExecutorId,
        worker: "Worker",
        post: Callable[[Done], None],
        errand: "Callable[[ThreadExecutor], None]" = lambda _: None,
        number: int = 0,
    ) -> None:
        self.executor = executor
        self._worker = worker
        self._post = post
        self._errand = errand
        self._jobs: SimpleQueue[Work | _Roused | None] = SimpleQueue()
        self._current: Work | None = None
        self.busy = False
        self._is_roused = False
        self._stopping = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._loop, name=f"scatterzmq-executor-{number}", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Run a batch after what was submitted before."""
        self.busy = True
        self._jobs.put(work)

    def rouse(self) -> bool:
        """Have the thread run its errand (once, however often it is roused before it comes to it); False if it is busy
        with batches. From any thread.
        """
        if self.busy:
            return False
        if not self._is_roused:
            self._is_roused = True
            self._jobs.put(_Roused.ROUSED)
        return True

    def stop(self, timeout_s: float | None = None) -> bool:
        """Finish what runs, drop what waits, and end; False if that took longer than `timeout_s`."""
        self._stopping = True
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """The thread hangs in a node and cannot be ended: nobody waits for it any more, and nothing of it is posted."""
        self._abandoned = True
        self._stopping = True
        self._jobs.put(None)
        current = self._current
        if current is not None:
            # A node that asks `Batch.alive` stops by itself.
            current.dead.update(current.rows)
        self._worker.abandon()

    def _loop(self) -> None:
        import torch

        torch.set_grad_enabled(False)  # in this thread only, where all is inference; saying so per batch takes longer
        while (job := self._jobs.get()) is not None and not self._stopping:
            if job is _Roused.ROUSED:
                self._is_roused = False  # first: who rouses it from here on must be heard
                self._errand(self)
                continue
            self._current = job
            done = self._worker.run(job)
            self._current = None
            if self._abandoned:
                return
            self.busy = False
            self._post(done)


class InlineExecutor:
    """Runs batches in the thread that calls `run_pending`: for debuggers, and for callers that wait anyway."""

    def __init__(self, executor: ExecutorId, worker: "Worker", post: Callable[[Done], None]) -> None:
        self.executor = executor
        self._worker = worker
        self._post = post
        self._jobs: deque[Work] = deque()

    def submit(self, work: Work) -> None:
        """Run a batch with the next `run_pending`."""
        self._jobs.append(work)

    def run_pending(self) -> bool:
        """Run what was submitted, oldest first, until nothing is left; whether there was anything.

        A KeyboardInterrupt that ended a batch is raised again after the batch has been posted as failed.
        """
        ran = False
        while self._jobs:
            ran = True
            job = self._jobs.popleft()
            self._post(self._worker.run(job))
            if self._worker.interrupted:
                raise KeyboardInterrupt
        return ran

    def stop(self, timeout_s: float | None = None) -> bool:
        """Drop what waits. Never has to wait itself."""
        self._jobs.clear()
        return True

    def abandon(self) -> None:
        """As for a thread; here nothing can hang without the caller."""
        self._jobs.clear()
