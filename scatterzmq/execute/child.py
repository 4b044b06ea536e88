"""An executor in a process of its own: `python -m scatterzmq.execute.child`, started by children.py only.

Purpose   Runs batches for a peer's control process, one at a time, and says what nodes are. What happens in here costs
          this process at most.
Rules     1. Batches run in the main thread, which waits for them at the socket itself: a lone one changes threads
             nowhere. Another thread hears what cannot wait, and is there to see the control process go.
          2. It ends with the control process: the socket closes, and the system kills it if nobody here notices.
          3. Everything that nodes write to stdout or stderr goes to the control process.
"""

import faulthandler
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from ..core.events import BatchExpected, GraphChecked, RowsFailed
from ..errors import ConfigError, ErrorCode, MissingBlob, ScatterError
from ..graph.manifest import described
from ..graph.plan import Plan
from ..ids import ExecutorId
from ..settings import Settings
from ..wire.columns import Apart, Column
from .blobs import BlobStore
from .childbatches import expected_of, finished_of, work_of
from .childwire import (
    Begin,
    BlobFetched,
    CancelRows,
    Describe,
    DropPlan,
    FetchBlob,
    Manifest,
    Ready,
    Run,
    Told,
    Unfit,
    UsePlan,
    Word,
    opened,
    wrapped,
)
from .common import graph_checked
from .failure import attempt
from .linux import die_with_parent, keep_freed_memory
from .output import NodeOutput
from .pool import Pool
from .sharedmemory import Channel, Scratch
from .work import Done, Work

_OOM_SCORE_EXTRA, _OOM_SCORE_MAX = 500, 1000
_FREED_NBYTES_KEPT = 128 << 20
"""Some batches as large as they usually may be, with what nodes need for them."""


class Child:
    """The process. Raises OSError when the control process is gone."""

    def __init__(self, work: Channel, aside: Channel) -> None:
        self._work = work
        self._aside = aside
        self._telling_aside = threading.Lock()
        self._plans: dict[bytes, Plan | str] = {}
        self._marking = threading.Lock()
        self._running: Work | None = None
        self._last_order = -1
        self._cancelled: dict[int, set[int]] = {}
        self._pool: Pool | None = None
        self._executor: ExecutorId | None = None
        self._fetching: dict[int, Future[BlobFetched]] = {}
        self._requests = count(1)
        self._output = NodeOutput()
        self._scratch = Scratch()

    def run(self) -> int:
        """All there is to do; the exit code."""
        begin, _ = self._next() or (None, ())
        if not isinstance(begin, Begin):
            return 2
        sys.path[:] = begin.path
        folder = None if begin.blobs.dir is None else Path(begin.blobs.dir)
        blobs = BlobStore(folder, begin.blobs.packages, fetch=self._fetch)
        try:
            self._start(begin, blobs)
        except (ScatterError, ImportError, OSError, RuntimeError) as error:  # RuntimeErrors are torch's, of devices
            reason = " ".join(f"{error}".split()) or type(error).__name__
            self._tell(Unfit(reason=reason, for_good=isinstance(error, ConfigError)))
            return 1
        threading.Thread(target=self._listen_aside, name="scatterzmq-aside", daemon=True).start()
        self._tell(Ready())
        while (heard := self._next()) is not None:
            self._hear(*heard)
            del heard  # its columns are not to live until the next word comes
        self._output.remove()
        assert self._pool is not None, "started"
        self._pool.stop(0.0)
        return 0

    def _start(self, begin: Begin, blobs: BlobStore) -> None:
        """Import all that a batch needs."""
        import torch

        if begin.threads is not None:
            torch.set_num_threads(begin.threads)
        torch.set_grad_enabled(False)
        settings = Settings(
            executor=replace(begin.executor, count=1, kind="inline"), plugins=begin.plugins, blobs=begin.blobs
        )
        self._pool = Pool(settings, blobs, self._answered, None, report=self._report, output=self._output)
        (self._executor,) = self._pool.start()
        self._output.install()

    def _next(self) -> tuple[Word, Sequence[tuple[str, Column]]] | None:
        packet = self._work.receive()
        return None if packet is None else opened(packet)

    def _tell(self, word: Word, columns: Sequence[tuple[str, Column | Apart]] = ()) -> None:
        self._work.send(wrapped(word, columns))

    # ---- batches, in the main thread

    def _hear(self, word: Word, columns: Sequence[tuple[str, Column]]) -> None:
        assert self._pool is not None, "started"
        match word:
            case UsePlan():
                self._use_plan(word)
            case DropPlan(digest=digest):
                self._plans.pop(digest, None)
                self._pool.retire(digest)
            case Run():
                self._run(word, columns)

    def _use_plan(self, word: UsePlan) -> None:
        pool = self._pool
        assert pool is not None, "started"
        checked: list[GraphChecked] = []
        failure = attempt(lambda: checked.append(graph_checked(0, word.definition, pool.registry.describe)))
        if failure is not None:
            self._plans[word.digest] = failure.message
        elif checked[0].plan is None:
            self._plans[word.digest] = "; ".join(checked[0].problems)
        elif checked[0].plan.digest != word.digest:
            self._plans[word.digest] = "it has another digest here"
        else:
            self._plans[word.digest] = checked[0].plan

    def _run(self, word: Run, columns: Sequence[tuple[str, Column]]) -> None:
        assert self._pool is not None, "started"
        assert self._executor is not None, "started"
        plan = self._plans.get(word.digest, "it has not come")
        if isinstance(plan, str):
            message = f"this executor cannot run the definition that others could: {plan}"
            self._answer_failed(word.order, word.rows, ErrorCode.GENERAL_EXCEPTION, message)
            return
        with self._marking:
            work = work_of(word, columns, plan, self._cancelled.pop(word.order, set()))
            self._running, self._last_order = work, word.order
            self._cancelled = {order: rows for order, rows in self._cancelled.items() if order > word.order}
        self._pool.run(self._executor, work)
        try:
            self._pool.run_pending()
        except KeyboardInterrupt:  # a node raised it; its rows have failed
            return
        finally:
            self._running = None

    def _answered(self, posted: BatchExpected | Done | GraphChecked) -> None:
        match posted:
            case Done():
                self._finish(posted)
            case BatchExpected():
                self._tell(expected_of(posted))

    def _finish(self, done: Done) -> None:
        try:
            packet = wrapped(*finished_of(done), self._scratch)
        except (MemoryError, OSError) as error:  # all that can be shared is in use, or all descriptors are
            rows = [row for part in done.emitted for row in part.rows]
            rows += [row for failed in done.failed for row in failed.rows]
            message = f"there is no memory to hand the results over: {error}"
            self._answer_failed(done.order, tuple(rows), ErrorCode.OUT_OF_MEMORY, message)
        else:
            self._work.send(packet)

    def _answer_failed(self, order: int, rows: tuple[int, ...], code: ErrorCode, message: str) -> None:
        assert self._executor is not None, "started"
        failed = (RowsFailed(rows=rows, code=code, message=message),)
        self._tell(*finished_of(Done(executor=self._executor, order=order, emitted=(), failed=failed)))

    def _report(self, name: str, context: Mapping[str, str | int | float]) -> None:
        texts = {key: value for key, value in context.items() if isinstance(value, str)}
        figures = {key: float(value) for key, value in context.items() if not isinstance(value, str)}
        with suppress(OSError):  # nobody is there any more, and this child ends
            self._tell(Told(name=name, texts=texts, figures=figures))

    # ---- all else, in another thread

    def _listen_aside(self) -> None:
        try:
            while (packet := self._aside.receive()) is not None:
                word, _ = opened(packet)
                if isinstance(word, CancelRows):
                    self._cancel(word)
                elif isinstance(word, BlobFetched):
                    self._fetching.pop(word.request).set_result(word)
                elif isinstance(word, Describe):
                    # In a thread of its own: importing a plug-in may take any time.
                    threading.Thread(target=self._describe, args=(word,), daemon=True).start()
        finally:
            end_all()

    def _fetch(self, name: str, digest: bytes) -> str:
        """Ask the control process for a blob and wait for it, in whichever thread needs it; where it lies."""
        request = next(self._requests)
        answer: Future[BlobFetched] = Future()
        self._fetching[request] = answer
        self._tell_aside(FetchBlob(request=request, name=name, digest=digest))
        fetched = answer.result()  # it comes, or this process is killed
        if fetched.problem:
            raise MissingBlob(fetched.problem)
        return fetched.place

    def _cancel(self, word: CancelRows) -> None:
        with self._marking:
            if self._running is not None and self._running.order.order == word.order:
                self._running.dead.update(word.rows)
            elif word.order > self._last_order:
                self._cancelled.setdefault(word.order, set()).update(word.rows)

    def _describe(self, word: Describe) -> None:
        failure = attempt(partial(self._tell_manifest, word))
        if failure is not None:
            self._tell_aside(Manifest(request=word.request, nodes=(), problem=failure.message))

    def _tell_manifest(self, word: Describe) -> None:
        assert self._pool is not None, "started"
        nodes = described(word.definition, self._pool.registry.describe)
        self._tell_aside(Manifest(request=word.request, nodes=nodes))

    def _tell_aside(self, word: Word) -> None:
        with self._telling_aside:
            self._aside.send(wrapped(word))


def end_all() -> None:
    """End this process and what nodes have started, at once: nobody is there any more who would want it."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """arguments: descriptors of both sockets, and the process id of whoever starts this one."""
    try:
        work, aside, parent = [int(argument) for argument in arguments]
    except ValueError:
        sys.stderr.write("scatterzmq.execute.child is started by peers; to start one: python -m scatterzmq peer\n")
        return 2
    die_with_parent()
    if os.getppid() != parent:
        return 1  # it died before it could be told of
    _be_first_to_go()
    keep_freed_memory(_FREED_NBYTES_KEPT)
    # Whoever ends a peer with all its processes (Ctrl-C, systemd) means the peer, which lets batches finish.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    child = Child(Channel(socket.socket(fileno=work)), Channel(socket.socket(fileno=aside)))
    try:
        return child.run()
    except (BrokenPipeError, ConnectionResetError):
        return 1


def _be_first_to_go() -> None:
    """When memory runs out the system shall kill this process rather than the peer."""
    path = Path("/proc/self/oom_score_adj")
    try:
        score = int(path.read_text())
        path.write_text(str(min(score + _OOM_SCORE_EXTRA, _OOM_SCORE_MAX)))
    except (OSError, ValueError):
        return  # not here; then it is left to the system


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Without going through what Python does at its end: nodes' threads may run, and torch takes its time.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
