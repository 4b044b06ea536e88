"""The client, for threads: every call blocks its caller only, and many threads may use one client."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from os import PathLike
from queue import Empty, SimpleQueue
from threading import Condition, Lock
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeAlias

from ..core.messages import QueueStats, TaskStatus
from ..errors import ClusterError, GraphError, ScatterError
from ..graph.formats import OpenShape
from ..ids import TaskId
from .calls import Calls, Steps, T, Waiting, must_not_wait, task_id
from .futures import Bar, Flow, TaskFuture, check_items, progress_bar
from .handles import Item, checked_inputs
from .link import BlobWriter, Connect, Member, Pumped
from .response import Response, Result
from .session import Session

CLOSED = "this client is closed; make a new one"
GRACE_ROUNDS = 64
"""With the peer in the caller's thread, a node that ran past a time-out is not silence: so many more rounds are run
without waiting, as long as there is something to do.
"""

Queue: TypeAlias = "SimpleQueue[Item]"


class Client:
    """Enqueues tasks and gets their results. Made by `local()` or `connect()`; a context manager.

    window: tasks that may wait to be accepted; enqueueing another one waits for room. cache: False computes everything.
    request_timeout: seconds after which a question to the peer fails with Timeout.
    room_timeout: the same for a task that finds the window full.
    on_close: called once, at the end of `close`.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        window: int = 4096,
        cache: bool = True,
        on_close: Callable[[], None] | None = None,
        request_timeout: float = 10.0,
        room_timeout: float = 30.0,
    ) -> None:
        self._session = Session(connect, window=window, cache=cache)
        self._request_timeout_s = request_timeout
        self._room_timeout_s = room_timeout
        self._calls: Calls[Queue] = self.calls_with(SimpleQueue)
        link = self._session.link
        self._pumped = link if isinstance(link, Pumped) else None
        self._pumping = Lock()
        self._turns = Condition()
        self._followers = 0
        self._on_close = on_close
        self._closing = Lock()

    # ---- graphs

    def load_graph(self, definition: Mapping[str, Any] | str | PathLike[str], *, replace: bool = False) -> str:
        """Load a graph definition, a dict or the path of a JSON file; returns its namespace.

        replace: allow another definition for a namespace that is loaded; tasks that run keep the old one.
        Raises GraphError with everything that is wrong.
        """
        return self._run(self._calls.load(definition, replace))

    def namespaces(self) -> set[str]:
        """The namespaces that are loaded."""
        return set(self._run(self._calls.infos()))

    def entry_graph_name(self, ns: str) -> str:
        """ "ns:graph" of the graph where tasks begin. Raises GraphError for an unknown namespace, like all calls."""
        entry = self._run(self._calls.info(ns)).entry
        return entry if ":" in entry else f"{ns}:{entry}"

    def main_inputs(self, ns: str) -> set[str]:
        """The fields that a task needs."""
        return set(self._run(self._calls.info(ns)).inputs)

    def main_outputs(self, ns: str) -> set[str]:
        """The fields of a result."""
        return set(self._run(self._calls.info(ns)).outputs)

    def output_format(self, ns: str, field: str) -> tuple[str, OpenShape]:
        """dtype and shape of a field of the result; None in the shape: differs from task to task."""
        return field_format(self._run(self._calls.info(ns)).outputs, ns, field)

    def graph_to_json(self, ns: str) -> dict[str, Any]:
        """The definition of a namespace, as `load_graph` takes it."""
        return self._run(self._calls.definition(ns))

    # ---- tasks

    def enqueue_task(
        self, ns: str, fields: Mapping[str, object], *, task_id: str | None = None, wait: bool = False
    ) -> TaskId:
        """Enqueue a task; returns its id at once, before it is accepted (see `flush`).

        fields: one str, list, number, ndarray or Tensor per input field; without a batch dimension.
        task_id: an id of your own ("T" and 32 hex digits): enqueued again with the same fields it is the same task.
        wait: return when the task is accepted. Raises TaskError if it is refused.
        Raises GraphError, FormatError, and Timeout if the cluster has been full for too long.
        """
        session = self._session
        own = None if task_id is None else TaskId.parse(task_id)
        info = session.infos.get(ns) if isinstance(ns, str) else None
        handle = None if info is None else session.enqueue(info, checked_inputs(info, fields), own)
        if handle is None:
            handle = self._run(self._calls.enqueue(ns, fields, own))
        if wait:
            self._run(self._calls.confirm(handle))
        return handle.id

    def enqueue(self, ns: str, fields: Mapping[str, object]) -> TaskId:
        """`enqueue_task` under its short name."""
        return self.enqueue_task(ns, fields)

    def flush(self, timeout: float | None = 10.0) -> None:
        """Return when everything enqueued so far is accepted. Raises Timeout, or TaskError if a task was refused and
        nobody has been told yet.
        """
        self._run(self._calls.flush(timeout))

    def get_namespace(self, task: str) -> str | None:
        """The namespace of a task; None if it is unknown."""
        return self._run(self._calls.namespace(task_id(task)))

    def get_status(self, task: str) -> TaskStatus:
        """Where a task is."""
        return self._run(self._calls.status(task_id(task)))

    def get_result(self, task: str) -> "Result | None":
        """The result as tensors by field; None if there is none (yet). Reading it makes the task `done`."""
        return self.get_response(task).result

    def get_response(self, task: str) -> Response:
        """The task as it stands, with result and error. Reading it makes a `ready` task `done`."""
        return self._run(self._calls.response(task_id(task)))

    def wait_for(self, tasks: Iterable[str], *, timeout: float | None = 10.0) -> Iterator[tuple[TaskId, Response]]:
        """Hand out tasks as they complete, each once. The timeout starts again after each; when it runs out the rest is
        handed out as it stands. None: wait for ever.
        """
        return self._completed(Waiting(self._calls, tasks, timeout))

    def clear_task(self, task: str) -> None:
        """Forget everything about a task, wherever it is; then it is unknown."""
        self._run(self._calls.clear(task_id(task)))

    def cancel(self, task: str) -> None:
        """End a task with the error `cancelled`, unless it has ended."""
        self._run(self._calls.cancel(task_id(task)))

    def submit(self, ns: str, /, **fields: object) -> TaskFuture:
        """Enqueue a task; returns a concurrent.futures.Future of its result. Raises as `enqueue_task`."""
        session = self._session
        future = TaskFuture(session, self._help)
        info = session.infos.get(ns) if isinstance(ns, str) else None
        handle = None if info is None else session.enqueue(info, checked_inputs(info, fields), watcher=future)
        if handle is None:
            handle = self._run(self._calls.enqueue(ns, fields, watcher=future))
        future.attach(handle)
        if self._pumped is not None and not session.in_delivery:
            # as_completed and wait know nothing of a peer that runs in this thread, so the future must be done already.
            self._drive(future.done, self._request_timeout_s)
        return future

    def map(
        self,
        ns: str,
        items: Iterable[Mapping[str, object]],
        *,
        window: int = 1024,
        progress: bool = False,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> "Iterator[Any]":
        """The results of many tasks, one per item; an item is a dict of fields.

        window: items under way at most; the next one is taken from `items` only when there is room.
        progress: show a bar (needs rich). ordered: results in the order of the items, else as they come.
        return_exceptions: hand out errors in place of results; else the first one is raised and the rest is dropped.
        """
        check_items(items)
        self._run(self._calls.info(ns))
        flow = Flow(self._calls, ns, window=window, ordered=ordered, return_exceptions=return_exceptions)
        return self._mapped(flow, iter(items), progress_bar(ns, items if progress else None))

    # ---- the cluster

    def open_blob(self, name: str) -> BlobWriter:
        """Write a blob that nodes can read: `with client.open_blob(name) as blob: blob.write_tensor(…)`."""
        self._must_be_open()
        return self._session.link.open_blob(name)

    def clear_cache(self, ns: str | None = None) -> int:
        """Forget the cached results of a namespace (None: of all) at all peers; returns how many there were.

        Those of equal graphs in other namespaces are the same, so they go as well; those of definitions that it had
        before stay. What is being computed meanwhile is kept. Raises GraphError for an unknown namespace.
        """
        return self._run(self._calls.clear_cache(ns))

    def get_queue_stats(self) -> tuple[QueueStats, ...]:
        """Each queue: its length, who listens, how urgent it is."""
        return self._run(self._calls.stats()).queues

    def has_any_tasks(self) -> bool:
        """Whether any task has not ended yet, whoever enqueued it."""
        self._run(self._calls.accepted(None, self._request_timeout_s))
        return any_open(self._run(self._calls.stats()).tasks)

    def get_healthcheck(self) -> tuple[str, str, int] | None:
        """(address, host, port) of the health endpoint; None if there is none."""
        self._must_be_open()
        return self._session.link.healthcheck()

    def peers(self) -> tuple[Member, ...]:
        """The peers that are alive or suspect."""
        self._must_be_open()
        return tuple(self._session.link.peers())

    def close(self) -> None:
        """Send off what was enqueued, then let go of everything; whoever still waits gets a ClusterError.

        Raises, after that, what a `flush` would have raised: a task that was not accepted is no secret.
        """
        if not self._closing.acquire(blocking=False):
            return
        failure: ScatterError | None = None
        fault = self._session.fault
        if fault is None:
            try:
                self._run(self._calls.flush(self._request_timeout_s))
                self._session.tell_reads()
            except ScatterError as error:
                failure = error
        elif self._session.pending_count:
            failure = ClusterError(*fault.args)
        try:
            self._session.end(ClusterError(CLOSED))
            self._tell_followers()
            self._session.link.close()
        finally:
            if self._on_close is not None:
                self._on_close()
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ScatterError:
            if error is None:
                raise

    # ---- for the asynchronous client

    def calls_with(self, box: Callable[[], Any]) -> Calls[Any]:
        """The calls of this client for somebody who waits in another way."""
        return Calls(self._session, box, request_timeout_s=self._request_timeout_s, room_timeout_s=self._room_timeout_s)

    def pump_once(self, timeout_s: float | None, done: Callable[[], bool]) -> bool | None:
        """Run the peer in this thread for one piece of work, or let another thread that is at it do one; then the
        caller looks again whether it is `done`. False if nothing was done here, None if the peer has its own thread.
        """
        if self._pumped is None:
            return None
        if not self._pumping.acquire(blocking=False):
            self._follow(timeout_s, done)
            return False
        try:
            # The thread before may just have done what this one would wait for.
            return not done() and self._pumped.pump(timeout_s)
        finally:
            self._pumping.release()
            if self._followers:
                self._tell_followers()

    def _follow(self, timeout_s: float | None, done: Callable[[], bool]) -> None:
        """Wait until the thread that runs the peer has done a piece of work."""
        with self._turns:
            self._followers += 1  # before looking: from here on the other thread tells
            try:
                if self._pumping.locked() and not done():
                    self._turns.wait(timeout_s)
            finally:
                self._followers -= 1

    def _tell_followers(self) -> None:
        with self._turns:
            self._turns.notify_all()

    # ---- waiting

    def _run(self, steps: Steps[T]) -> T:
        """Carry out a call, blocking where it waits."""
        try:
            wait = next(steps)
            while True:
                wait = steps.send(self._receive(wait.box, wait.timeout_s))
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            steps.close()

    def _receive(self, box: Queue, timeout_s: float | None) -> Item | None:
        """What comes into the box; None when the time has run out. Raises ClusterError if the session has ended."""
        if box.empty():
            if self._session.deliverer and self._session.in_delivery:
                raise must_not_wait()
            if self._pumped is not None:
                self._drive(lambda: not box.empty(), timeout_s)
                timeout_s = 0.0
        item: Item
        try:
            item = box.get(timeout=timeout_s)
        except Empty:
            return None
        if isinstance(item, ClusterError):
            raise ClusterError(*item.args)
        return item

    def _help(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        """Do what this thread can do for what it is about to wait for."""
        if self._pumped is not None:
            self._drive(done, timeout_s)

    def _drive(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        """Run the peer in this thread until something holds or the time is over."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        grace = GRACE_ROUNDS
        while not done() and self._session.fault is None:
            left_s = None if deadline is None else max(0.0, deadline - monotonic())
            worked = self.pump_once(left_s, done)
            if left_s == 0.0:
                grace -= 1
                if not worked or not grace:
                    return

    def _completed(self, waiting: "Waiting[Queue]") -> Iterator[tuple[TaskId, Response]]:
        try:
            waiting.start()
            while True:
                while (item := waiting.ready()) is not None:
                    yield item
                if not waiting.left:
                    return
                box, timeout_s = waiting.wait()
                came = self._receive(box, timeout_s)
                if came is None:
                    self._run(waiting.give_up())
                else:
                    waiting.arrived(came)
        finally:
            waiting.close()

    def _mapped(self, flow: "Flow[Queue]", items: Iterator[Mapping[str, object]], bar: Bar) -> Iterator[Any]:
        more = True
        with closing(flow), bar as advance:
            while more or not flow.is_empty:
                while not flow.box.empty():
                    flow.arrived(self._receive(flow.box, 0.0))
                if flow.is_ready:
                    advance()
                    yield flow.take()
                elif more and flow.has_room:
                    try:
                        item = next(items)
                    except StopIteration:
                        more = False
                    else:
                        self._run(flow.offer(item))
                else:
                    flow.arrived(self._receive(flow.box, None))

    def _must_be_open(self) -> None:
        fault = self._session.fault
        if fault is not None:
            raise ClusterError(*fault.args)


def field_format(outputs: Mapping[str, Any], ns: str, field: str) -> tuple[str, OpenShape]:
    """Raises GraphError for a field that the result does not have."""
    if not isinstance(field, str) or field not in outputs:
        known = ", ".join(sorted(outputs)) or "none"
        raise GraphError(f"namespace {ns!r} has no output field {field!r:.80}; it has: {known}")
    return outputs[field].dtype_name, outputs[field].shape


def any_open(tasks: Mapping[str, int]) -> bool:
    """Whether any status that is not the end of a task has a task."""
    return any(number and not TaskStatus(status).complete for status, number in tasks.items())
