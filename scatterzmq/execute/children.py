"""The executors of a peer whose control process never imports torch: a child process each.

Purpose   Starts children, hands them batches, and replaces them: whatever kills one, or hangs in one, costs that child.
Rules     1. All of it runs in one thread, that of the watcher, and nothing here waits (but `stop`).
          2. One child more than there are executors is kept ready, as importing torch takes seconds; it is started when
             the others have been at work for a while. That costs its memory (about 250 MB with torch for CPUs, half of
             it shared with the others) and no memory of a device.
          3. A child that cannot start is tried again after waits that grow, and so is one that ends by itself again and
             again without a batch. Where the settings ask for what this machine has not got, none is tried again, and
             whoever has started this is told; unless there was one that could: then it may come back.
          4. Every check is answered: by a child, or because that child died or took too long.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import TypeAlias, assert_never

from ..core.events import BatchExpected, ExecutorLost, ExecutorStarted, GraphChecked, RowsFailed
from ..errors import ConfigError, ErrorCode
from ..graph.blobs import BlobFound, open_names
from ..graph.check import check as check_definition
from ..graph.manifest import describe_from
from ..graph.nodeinfo import Describe as DescribeNode
from ..ids import ExecutorId
from ..settings import Settings
from ..wire.columns import Apart, Column
from .blobs import BlobStore
from .childbatches import done_of, event_of, run_of
from .childprocess import ChildProcess, described_end
from .childwire import (
    Begin,
    BlobFetched,
    CancelRows,
    Describe,
    DropPlan,
    Expected,
    FetchBlob,
    Finished,
    FromChild,
    Manifest,
    Ready,
    Told,
    Unfit,
    UsePlan,
)
from .common import check_failed, graph_settled
from .oom import oom_kills
from .poller import Poller, Watcher
from .work import Done, Work

__all__ = ["ChildPool", "Post", "Watcher"]

Post: TypeAlias = Callable[[BatchExpected | Done | GraphChecked | ExecutorStarted | ExecutorLost], None]
Reporter: TypeAlias = Callable[[str, Mapping[str, str | int | float]], None]
Fetch: TypeAlias = Callable[[str, bytes, Callable[[str, str], None]], None]
"""(name of a blob, digest or b"", gets why it is not there or "", and where it lies below the folder of blobs)"""
FindBlobs: TypeAlias = Callable[[Sequence[str], Callable[[Sequence[BlobFound]], None]], None]
"""(names, gets what is there)"""

_START_S = 300.0
"""How long a child may take to start: torch from a slow disk takes a minute."""
_CHECK_S = 300.0
"""How long a check may take, with the wait for a child and whatever plug-ins do when they are imported."""
_WAIT_S, _WAIT_S_MAX = 1.0, 60.0
"""After the first failure, and after many."""
_FAILURES_MAX = 3
"""Of starts in a row; then nobody who waits for a check is kept waiting."""
_RESERVE_AFTER_S = 5.0
_STEADY_S = 10.0
"""Who lived that long after its start did not end because of it."""
_KILLED_S = 5.0
"""How long the system may take to end what was killed."""


@dataclass(slots=True, eq=False)
class _Check:
    """A definition to be checked, by a child or (None) by the first that is ready. settles: see CheckGraph."""

    definition: str
    until_s: float
    settles: bool
    child: ChildProcess | None = None


class ChildPool:
    """Executors in children, as driver.py wants them. Raises ConfigError where the system does not offer it.

    post: gets all answers, in the watcher's thread; also while a method of this is called.
    blobs: their folder is the children's, too. report: gets what is worth telling, and what nodes print. fetch: sees
    to it that a blob is in their folder. find: finds out what blobs there are anywhere.
    reserve_after_s: when one in reserve is started, after the first that was ready. hopeless: gets the reason why there
    will never be an executor.
    """

    def __init__(
        self,
        settings: Settings,
        watcher: Watcher,
        post: Post,
        blobs: BlobStore,
        *,
        report: Reporter | None = None,
        reserve_after_s: float = _RESERVE_AFTER_S,
        fetch: Fetch | None = None,
        find: FindBlobs | None = None,
        hopeless: Callable[[str], None] | None = None,
    ) -> None:
        if not (hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")):
            raise ConfigError("executor.kind: 'process' needs Linux; use 'thread'")
        self._settings = settings
        self._watcher = watcher
        self._post = post
        self._blobs = blobs
        self._report = report
        self._fetch = fetch
        self._find = find
        self._hopeless = hopeless
        self._was_ready = False
        self._poller = Poller(self._due)
        self._executors: dict[ExecutorId, ChildProcess] = {}
        # All that are not given up, oldest first; and those that are, until their processes have ended.
        self._children: dict[int, ChildProcess] = {}
        self._leaving: dict[int, ChildProcess] = {}
        self._checks: dict[int, _Check] = {}
        self._reserve_after_s = reserve_after_s
        self._reserve_at_s = inf
        self._failures = 0
        self._start_at_s = 0.0
        self._oom_kills = oom_kills()
        self._is_stopping = False

    # ---- what the driver calls

    @property
    def copies_inputs(self) -> bool:
        return True

    def start(self) -> tuple[ExecutorId, ...]:
        self._watcher.watch(self._poller.fileno(), self._ready)
        self._fill()
        return ()

    def run(self, executor: ExecutorId, work: Work) -> None:
        child = self._executors.get(executor)
        if child is None:
            return  # its ExecutorLost is on its way to the core
        assert child.work is None, "an executor has one batch at a time"
        plan = work.order.plan
        try:
            if plan.digest not in child.plans:
                child.tell(UsePlan(digest=plan.digest, definition=plan.definition))
                child.plans.add(plan.digest)
            # What is known to have ended before it got the batch did not end because of it.
            if child.tell(*run_of(work)):
                child.work = work
        except OSError as error:
            message = f"there is no memory to hand the batch to its executor: {error}"
            failed = (RowsFailed(rows=work.rows, code=ErrorCode.OUT_OF_MEMORY, message=message),)
            self._post(Done(executor=executor, order=work.order.order, emitted=(), failed=failed))

    def cancel(self, executor: ExecutorId, order: int, rows: tuple[int, ...]) -> None:
        child = self._executors.get(executor)
        if child is not None and child.work is not None and child.work.order.order == order:
            child.tell_aside(CancelRows(order=order, rows=rows))

    def replace(self, executor: ExecutorId) -> None:
        """Kill it: it may hang in a system call, or hold Python's lock for ever."""
        child = self._executors.get(executor)
        if child is not None:
            self._give_up(child, "its batch took too long")
            self._fill()

    def check(self, request: int, definition: str, *, settles: bool = False) -> None:
        self._checks[request] = _Check(definition, monotonic() + _CHECK_S, settles)
        self._hand_out_checks()
        self._plan()

    def retire(self, digest: bytes) -> None:
        for child in self._children.values():
            if digest in child.plans:
                child.plans.discard(digest)
                child.tell(DropPlan(digest=digest))

    def stop(self, timeout_s: float) -> None:
        """Let all finish what they do, within that time, and end them. Nothing is left behind, and nothing else may be
        called any more.
        """
        if self._is_stopping:
            return
        self._is_stopping = True
        for child in [*self._children.values()]:
            if child.is_ready:
                child.finish()
            else:
                child.kill("the peer stops")
        self._wait_for_all(monotonic() + timeout_s)
        for child in [*self._children.values()]:
            child.kill("the peer stops, and it does not")
        self._wait_for_all(monotonic() + _KILLED_S)
        self._watcher.unwatch(self._poller.fileno())
        self._poller.close()

    def _wait_for_all(self, until_s: float) -> None:
        while (self._children or self._leaving) and (left_s := until_s - monotonic()) > 0:
            self._poller.run(left_s)

    # ---- what children say

    def heard(self, child: ChildProcess, word: FromChild, columns: Sequence[tuple[str, Column | Apart]], /) -> None:
        match word:
            case Ready():
                self._started(child)
            case Unfit(reason=reason, for_good=for_good):
                child.unfit, child.is_hopeless = reason, for_good
            case Expected():
                if child.work is None or child.work.order.order != word.order:
                    child.distrust("it expects something of a batch that it does not have")
                else:
                    self._post(event_of(word, child.executor))
            case Finished():
                self._finished(child, word, columns)
            case Told(name=name, texts=texts, figures=figures):
                self._tell(name, {**texts, **figures, "executor": child.executor})
            case Manifest():
                self._described(child, word)
            case FetchBlob():
                self._fetch_blob(child, word)
            case _:
                assert_never(word)

    def _fetch_blob(self, child: ChildProcess, word: FetchBlob) -> None:
        def then(problem: str, place: str) -> None:
            try:  # in vain if the child is gone
                child.tell_aside(BlobFetched(request=word.request, problem=problem, place=place))
            except OSError as error:
                child.kill(f"there is no memory to tell it of a blob: {error}")

        if self._fetch is None:
            then("", word.name)  # there is nowhere else to look
        else:
            self._fetch(word.name, word.digest, then)

    def printed(self, child: ChildProcess, line: str, /) -> None:
        """Past its sys.stdout, or by whatever it has started: nobody knows for which node."""
        self._tell("output.node", {"executor": child.executor, "node": "", "line": line})

    def _started(self, child: ChildProcess) -> None:
        if child.is_ready:
            child.distrust("it is ready once more")
            return
        child.is_ready, child.ready_s = True, monotonic()
        self._was_ready = True
        if self._reserve_at_s == inf:
            self._reserve_at_s = child.ready_s + self._reserve_after_s
        self._fill()

    def _finished(self, child: ChildProcess, word: Finished, columns: Sequence[tuple[str, Column | Apart]]) -> None:
        if child.work is None:
            child.distrust("an answer to a batch that it does not have")
            return
        try:
            done = done_of(word, columns, child.work, child.executor)
        except ValueError as error:
            child.distrust(f"{error}")
            return
        child.work = None
        child.has_worked = True
        self._failures = 0
        self._post(done)

    # ---- checks

    def _hand_out_checks(self) -> None:
        """Best to one that is no executor, then to one without a batch; all of them can do it beside a batch."""
        ready = [child for child in self._children.values() if child.is_usable]
        if not ready:
            return
        child = min(ready, key=lambda child: (child.executor in self._executors, child.work is not None))
        for request, check in [*self._checks.items()]:
            if check.child is None:
                check.child = child
                try:
                    child.tell_aside(Describe(request=request, definition=check.definition))
                except OSError as error:
                    self._answer(request, check_failed(request, f"there is no memory to hand it over: {error}"))

    def _described(self, child: ChildProcess, word: Manifest) -> None:
        request = word.request
        check = self._checks.get(request)
        if check is None or check.child is not child:
            return  # it took too long
        if word.problem:
            self._answer(request, check_failed(request, word.problem))
        else:
            self._settle(request, check, describe_from(word.nodes))

    def _settle(self, request: int, check: _Check, describe: DescribeNode) -> None:
        """Now that it is known what the nodes are, find out what blobs they name."""
        checked = check_definition(check.definition, describe)
        names = open_names(checked) if check.settles and self._find is not None else ()
        if not names:
            self._answer(request, graph_settled(request, checked, describe, ()))
            return
        assert self._find is not None, "looked at"
        del self._checks[request]  # this is for no child any more, and every search ends
        self._find(names, lambda found: self._post(graph_settled(request, checked, describe, found)))

    def _checks_of(self, child: ChildProcess) -> list[int]:
        """What it was asked for and has not answered."""
        return sorted(request for request, check in self._checks.items() if check.child is child)

    def _answer(self, request: int, answer: GraphChecked) -> None:
        del self._checks[request]
        self._post(answer)

    def _checks_due(self, now_s: float) -> None:
        for request, check in [*self._checks.items()]:
            if check.until_s > now_s:
                continue
            child = check.child
            what = "no executor has become ready" if child is None else "the executor has not answered"
            self._answer(request, check_failed(request, f"{what} within {_CHECK_S:g} s"))
            if child is not None and child.work is None:
                child.kill("a check of a definition hangs in it")  # it may hold what the next one needs

    # ---- coming and going

    def _fill(self) -> None:
        """Have as many executors as there should be, and one in reserve; as far as that is possible now."""
        count = self._settings.executor.count
        for child in [*self._children.values()]:
            if len(self._executors) >= count or self._is_stopping:
                break
            if child.is_usable and child.executor not in self._executors:
                self._executors[child.executor] = child
                self._post(ExecutorStarted(executor=child.executor))
        while len(self._children) < self._wanted() and monotonic() >= self._start_at_s and not self._is_stopping:
            try:
                child = ChildProcess(self._poller, self, self._begin())
            except OSError as error:
                self._failed(f"{error}")
            else:
                self._children[child.pid] = child
        self._hand_out_checks()
        self._plan()

    def _wanted(self) -> int:
        """The one in reserve must not keep the first ones waiting."""
        return self._settings.executor.count + (monotonic() >= self._reserve_at_s)

    def _begin(self) -> Begin:
        settings = self._settings
        return Begin(
            executor=settings.executor,
            plugins=settings.plugins,
            blobs=replace(settings.blobs, dir=str(self._blobs.folder())),
            path=tuple(sys.path),
            threads=threads_per_child(settings.executor.count),
        )

    def _give_up(self, child: ChildProcess, reason: str) -> None:
        """Nobody waits for this one any more."""
        self._children.pop(child.pid)
        self._executors.pop(child.executor, None)
        self._leaving[child.pid] = child
        child.kill(reason)
        self._fail_checks(child, reason)

    def _fail_checks(self, child: ChildProcess, reason: str) -> None:
        for request in self._checks_of(child):
            self._answer(request, check_failed(request, f"the executor that checked it died of it: {reason}"))

    def ended(self, child: ChildProcess, reason: str, /) -> None:
        if self._leaving.pop(child.pid, None) is not None:
            return
        del self._children[child.pid]
        was_executor = self._executors.pop(child.executor, None) is not None
        if self._is_stopping:
            return
        reason = self._with_memory(reason)
        may_have_reasons = child.has_worked or child.work is not None or bool(self._checks_of(child))
        self._fail_checks(child, reason)
        if not child.is_ready and child.is_hopeless and not self._was_ready:
            self._despair(child.unfit)
        elif not child.is_ready:
            self._failed(child.unfit or (f"{reason}: {child.last_line}" if child.last_line else reason))
        elif not may_have_reasons and monotonic() < child.ready_s + _STEADY_S:
            self._failed(reason)
        elif not was_executor:
            self._tell("warning.executor.reserve", {"reason": reason})
        if was_executor:
            self._post(ExecutorLost(executor=child.executor, reason=reason, crashed=child.work is not None))
        self._fill()

    def _with_memory(self, reason: str) -> str:
        before, self._oom_kills = self._oom_kills, oom_kills()
        is_oom = reason == described_end(-signal.SIGKILL) and self._oom_kills > before
        return f"out of memory: {reason}" if is_oom else reason

    def _failed(self, reason: str) -> None:
        """A child did not come to be of use."""
        wait_s = min(_WAIT_S * 2.0**self._failures, _WAIT_S_MAX)
        self._failures = min(self._failures + 1, 16)
        self._start_at_s = monotonic() + wait_s
        self._tell("warning.executor.start", {"reason": reason, "retry_s": wait_s})
        if self._failures >= _FAILURES_MAX:
            for request in [request for request, check in self._checks.items() if check.child is None]:
                self._answer(request, check_failed(request, f"no executor can be started: {reason}"))

    def _despair(self, reason: str) -> None:
        """There will be no executor here."""
        if self._start_at_s == inf:
            return  # said already, of another child
        self._start_at_s = inf
        for request in [*self._checks]:
            self._answer(request, check_failed(request, f"no executor can be started: {reason}"))
        if self._hopeless is not None:
            self._hopeless(reason)

    def _tell(self, name: str, context: Mapping[str, str | float]) -> None:
        if self._report is not None:
            self._report(name, context)

    # ---- time

    def _ready(self) -> None:
        """The watcher: something has happened."""
        self._poller.run()
        self._plan()

    def _due(self) -> None:
        now_s = monotonic()
        for child in [*self._children.values()]:
            if not child.is_ready and now_s >= child.started_s + _START_S:
                child.kill(f"it was not ready within {_START_S:g} s")
            elif child.silent_s is not None and now_s >= child.silent_s:
                child.kill("it has closed its connection")
        self._checks_due(now_s)
        self._fill()

    def _plan(self) -> None:
        """Have `_due` called when there is something for it."""
        due_s = min([check.until_s for check in self._checks.values()], default=inf)
        for child in self._children.values():
            if not child.is_ready:
                due_s = min(due_s, child.started_s + _START_S)
            if child.silent_s is not None:
                due_s = min(due_s, child.silent_s)
        if len(self._children) < self._wanted():
            due_s = min(due_s, self._start_at_s)
        elif monotonic() < self._reserve_at_s:
            due_s = min(due_s, self._reserve_at_s)
        self._poller.plan(None if due_s == inf or self._is_stopping else due_s)


def threads_per_child(count: int) -> int | None:
    """torch takes all cores in each process. Several that do so are in each other's way: with twice as many threads as
    cores each waits for others that do not run.
    """
    return None if count == 1 else max(1, len(os.sched_getaffinity(0)) // count)
