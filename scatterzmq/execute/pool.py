"""The executors of an embedded peer: all that share one process, one set of loaded nodes and one registry.

What runs and checks nodes is imported when the executors start, in the peer's thread, and when a definition is checked:
whoever starts a peer need not wait for it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from ..core.events import BatchExpected, GraphChecked
from ..ids import ExecutorId
from ..settings import Settings
from .blobs import BlobStore
from .common import LookUp, check_failed, found_here, graph_checked, new_executor_id
from .device import parse_device
from .output import LineBudget, Lines, NodeOutput
from .threads import InlineExecutor, ThreadExecutor
from .work import Done, Work

if TYPE_CHECKING:
    from ..nodes.registry import Registry
    from .loaded import LoadedNodes, Reporter

Post: TypeAlias = Callable[[BatchExpected | Done | GraphChecked], None]


class Pool:
    """Executors by id. Answers are posted, from whichever thread has them.

    errand: what an idle thread does when it is roused; None: there are no threads, and everything runs in the one that
        calls `run_pending`.
    report: told of nodes that are loaded and unloaded, in whichever thread does so.
    output: catches what nodes print, for `report`; None: they print as everybody does.
    look_up: finds out what blobs there are; None: what there is in `blobs`.
    """

    def __init__(
        self,
        settings: Settings,
        blobs: BlobStore,
        post: Post,
        errand: Callable[[ThreadExecutor], None] | None,
        *,
        report: "Reporter | None" = None,
        output: NodeOutput | None = None,
        look_up: LookUp | None = None,
    ) -> None:
        self._post = post
        self._look_up = look_up or partial(found_here, blobs)
        self._errand = errand
        self._report = report
        self._settings = settings
        self._blobs = blobs
        self._output = output
        self._device = parse_device(settings.executor.device)
        self._registry: Registry | None = None
        self._nodes: LoadedNodes | None = None
        self._executors: dict[ExecutorId, ThreadExecutor | InlineExecutor] = {}
        # Changed as a whole, as other threads look through it.
        self._threads: tuple[ThreadExecutor, ...] = ()
        self._checks: list[threading.Thread] = []
        self._pending_checks: deque[tuple[int, str, bool]] = deque()
        self._numbers = count(1)

    @property
    def copies_inputs(self) -> bool:
        return False

    @property
    def registry(self) -> "Registry":
        """The kinds of nodes, once it has been started."""
        assert self._registry is not None, "started"
        return self._registry

    def start(self) -> tuple[ExecutorId, ...]:
        from ..nodes.registry import Registry
        from .loaded import LoadedNodes

        settings = self._settings
        self._registry = Registry(settings.plugins.allow)
        self._nodes = LoadedNodes(self._registry, self._blobs, settings.executor, self._device, self._report)
        return tuple(self._start_one() for _ in range(settings.executor.count))

    def run(self, executor: ExecutorId, work: Work) -> None:
        self._executors[executor].submit(work)
        threads = self._threads
        if len(threads) > 1:
            chosen = [thread for thread in threads if thread.executor == executor]
            self._threads = (*[thread for thread in threads if thread.executor != executor], *chosen)

    def cancel(self, executor: ExecutorId, order: int, rows: tuple[int, ...]) -> None:
        """Threads of one process see it in their work."""

    def rouse(self) -> bool:
        """Have an idle thread run the errand; False if none is idle. From any thread.

        Best the one that had a batch least recently: it is the one to which the core will lend the next.
        """
        for executor in self._threads:  # noqa: SIM110 -- any() costs two more calls, and a lone task waits for this
            if executor.rouse():
                return True
        return False

    def run_pending(self) -> bool:
        """Run one batch or check that waits for the caller's thread; False if there is none (inline only)."""
        if self._pending_checks:
            self._check(*self._pending_checks.popleft())
            return True
        return any(
            executor.run_pending() for executor in self._executors.values() if isinstance(executor, InlineExecutor)
        )

    def replace(self, executor: ExecutorId) -> ExecutorId:
        """A thread cannot be ended from outside: it is left alone, and what it answers later is ignored."""
        self._executors.pop(executor).abandon()
        self._threads = tuple([thread for thread in self._threads if thread.executor != executor])
        return self._start_one()

    def check(self, request: int, definition: str, *, settles: bool = False) -> None:
        """In a thread of its own, so that neither the peer nor a busy executor delays it, or with `run_pending`."""
        if self._errand is None:
            self._pending_checks.append((request, definition, settles))
            return
        self._checks = [thread for thread in self._checks if thread.is_alive()]
        arguments = request, definition, settles
        thread = threading.Thread(target=self._check, args=arguments, name="scatterzmq-check", daemon=True)
        self._checks.append(thread)
        thread.start()

    def retire(self, digest: bytes) -> None:
        assert self._nodes is not None, "started"
        self._nodes.retire(digest)

    def stop(self, timeout_s: float) -> None:
        """End all threads that can be ended within the time, and unload all nodes. A thread that does not come back
        is left behind (it is a daemon).
        """
        until_s = time.monotonic() + timeout_s
        for executor in self._executors.values():
            executor.stop(0.0)  # first all are told, then waited for
        for executor in self._executors.values():
            executor.stop(max(0.0, until_s - time.monotonic()))
        for thread in self._checks:
            thread.join(max(0.0, until_s - time.monotonic()))
        if self._nodes is not None:
            self._nodes.close()

    def _start_one(self) -> ExecutorId:
        from .worker import Worker

        assert self._nodes is not None, "started"
        executor = new_executor_id()
        worker = Worker(executor, self._nodes, self._lines(executor), announce=self._post)
        number = next(self._numbers)
        if self._errand is None:
            self._executors[executor] = InlineExecutor(executor, worker, self._post)
        else:
            thread = ThreadExecutor(executor, worker, self._post, self._errand, number)
            self._executors[executor] = thread
            self._threads = (*self._threads, thread)
        return executor

    def _lines(self, executor: ExecutorId) -> Lines | None:
        output, report = self._output, self._report
        if output is None or report is None:
            return None
        budget = LineBudget()

        def tell(place: str, line: str) -> None:
            for passed in budget.passed(line):
                report("output.node", {"executor": executor, "node": place, "line": passed})

        return lambda place: output.lines_of(partial(tell, place))

    def _check(self, request: int, definition: str, settles: bool) -> None:
        from .failure import attempt

        answers: list[GraphChecked] = []
        look_up = self._look_up if settles else None
        failure = attempt(lambda: answers.append(graph_checked(request, definition, self.registry.describe, look_up)))
        if failure is None:
            self._post(answers[0])
            return
        self._post(check_failed(request, failure.message))
        if failure.interrupt:
            raise KeyboardInterrupt
