"""Calls: what each call of a client does, written once for threads and for asyncio.

A call is a generator. Where it has to wait it yields a `Wait` and gets back what came, or None when the time ran out;
client.py blocks there, aio.py awaits. Whatever ends the wait early (ClusterError, cancellation) closes the generator,
so everything is withdrawn in `finally`.
"""

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from logging import getLogger
from os import PathLike
from threading import TIMEOUT_MAX
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from ..core.messages import (
    AskDefinition,
    AskNamespaces,
    AskStats,
    AskTasks,
    CacheCleared,
    Cancel,
    Clear,
    ClearCache,
    Definition,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    NamespaceInfo,
    Namespaces,
    Stats,
    TaskReport,
    TaskReports,
    TaskStatus,
    ToClient,
    ToPeer,
)
from ..errors import ClusterError, FormatError, GraphError, ScatterError, Timeout
from ..graph.definition import file_text
from ..graph.names import check_name
from ..ids import TaskId
from .handles import Box, Handle, Item, checked_inputs
from .response import Response, standing
from .session import Session

T = TypeVar("T")
B = TypeVar("B", bound="Readable")

LOAD_TIMEOUT_S = 120.0
"""Checking a definition may import torch and plug-ins, which takes a while the first time."""


class Readable(Box, Protocol):
    """A box whose items the caller can wait for, in its own way."""

    def empty(self) -> bool: ...

    def get_nowait(self) -> Item: ...


class Wait(NamedTuple):
    """A call waits for something in its box, at most so long (None: for ever)."""

    box: Any
    timeout_s: float | None


Steps: TypeAlias = Generator[Wait, Item | None, T]


class Calls(Generic[B]):
    """All calls on one session. `box` makes the kind of box that the caller can wait for."""

    def __init__(
        self, session: Session, box: Callable[[], B], *, request_timeout_s: float, room_timeout_s: float
    ) -> None:
        self.session = session
        self.box = box
        self._timeout_s = request_timeout_s
        self._room_timeout_s = room_timeout_s

    # ---- questions

    def ask(self, make: Callable[..., ToPeer], what: str, timeout_s: float | None = None) -> Steps[ToClient]:
        """Send one message and wait for its answer. Raises Timeout, saying what was asked."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        box = self.box()
        mid = self.session.request(make, box)
        answer = None
        try:
            answer = yield Wait(box, limit_s)
        finally:
            if answer is None:
                self.session.withdraw(box, mid)
        if answer is None:
            raise Timeout(f"no answer within {limit_s:g} s to the question for {what}; the peer is busy, or gone")
        assert not isinstance(answer, (bool, Handle)), "an answer is a message"
        return answer  # type: ignore[return-value]  # the box never hands out a ClusterError: it is raised

    def infos(self) -> Steps[dict[str, NamespaceInfo]]:
        """All loaded namespaces, as they are now."""
        answer = yield from self.ask(AskNamespaces, "the namespaces")
        assert isinstance(answer, Namespaces)
        self.session.learn(answer.infos)
        return {info.ns: info for info in answer.infos}

    def info(self, ns: str) -> Steps[NamespaceInfo]:
        """One namespace as it is now. Raises GraphError, naming those that are loaded."""
        check_ns(ns)
        answer = yield from self.ask(partial(AskNamespaces, ns=ns), f"namespace {ns!r}")
        assert isinstance(answer, Namespaces)
        if not answer.infos and ns in answer.unusable:
            raise GraphError(f"namespace {ns!r:.200} is loaded, but cannot run: {answer.unusable[ns]}")
        if not answer.infos:
            loaded = ", ".join(sorted((yield from self.infos()))) or "none"
            raise GraphError(f"namespace {ns!r:.200} is not loaded; loaded are: {loaded}. Use load_graph first")
        self.session.learn(answer.infos)
        return answer.infos[0]

    def stats(self) -> Steps[Stats]:
        answer = yield from self.ask(AskStats, "statistics")
        assert isinstance(answer, Stats)
        return answer

    def clear_cache(self, ns: str | None) -> Steps[int]:
        yield from self.accepted(None, self._timeout_s)  # tasks enqueued before may still get what is there
        origins = None if ns is None else (yield from self.info(ns)).cached
        answer = yield from self.ask(partial(ClearCache, origins=origins), "clearing the cache")
        assert isinstance(answer, CacheCleared)
        return answer.values

    def definition(self, ns: str) -> Steps[dict[str, Any]]:
        check_ns(ns)
        answer = yield from self.ask(partial(AskDefinition, ns=ns), f"the definition of {ns!r}")
        assert isinstance(answer, Definition)
        if answer.definition is None:
            yield from self.info(ns)  # says what is loaded instead
            raise GraphError(f"namespace {ns!r} was loaded only just now; ask again")
        definition: dict[str, Any] = json.loads(answer.definition)
        return definition

    def load(self, definition: Mapping[str, Any] | str | PathLike[str], replace: bool) -> Steps[str]:
        text = definition_text(definition)
        yield from self.accepted(None, self._timeout_s)  # tasks enqueued before belong to the definition before
        make = partial(LoadGraph, definition=text, replace=replace)
        answer = yield from self.ask(make, "a check of the graph", max(LOAD_TIMEOUT_S, self._timeout_s))
        if isinstance(answer, GraphRefused):
            problems = answer.problems
            raise GraphError(
                problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *problems])
            )
        assert isinstance(answer, GraphLoaded)
        for warning in answer.warnings:
            getLogger("scatterzmq").warning("%s", warning)
        self.session.learn([answer.info])
        return answer.info.ns

    # ---- tasks

    def enqueue(
        self, ns: str, fields: Mapping[str, object], task: TaskId | None = None, watcher: Box | None = None
    ) -> Steps[Handle]:
        """The way of a task whose namespace is not known yet, or that finds the window full."""
        session = self.session
        check_ns(ns)
        info = session.infos.get(ns)
        if info is None:
            info = yield from self.info(ns)
        inputs = checked_inputs(info, fields)
        handle = session.enqueue(info, inputs, task, watcher)
        if handle is not None:
            return handle
        box = self.box()
        try:
            while (handle := session.enqueue(info, inputs, task, watcher, box)) is None:
                if (yield Wait(box, self._room_timeout_s)) is None:
                    raise Timeout(
                        f"none of {session.pending_count} waiting tasks was accepted for {self._room_timeout_s:g} s; "
                        "the cluster is full: read and clear results, or add peers"
                    )
        finally:
            session.withdraw(box)
        return handle

    def accepted(self, seq: int | None, timeout_s: float | None) -> Steps[bool]:
        """Wait until everything enqueued up to `seq` (None: so far) is accepted or refused; False: it took too long."""
        box = self.box()
        if self.session.barrier(seq, box):
            return True
        try:
            return (yield Wait(box, timeout_s)) is not None
        finally:
            self.session.withdraw(box)

    def flush(self, timeout_s: float | None) -> Steps[None]:
        timeout_s = seconds("flush", timeout_s)
        if not (yield from self.accepted(None, timeout_s)):
            count = self.session.pending_count
            raise Timeout(f"{count} tasks were not accepted within {timeout_s:g} s; they stay on their way")
        refusal = self.session.refusal()
        if refusal is not None:
            raise refusal

    def confirm(self, handle: Handle) -> Steps[None]:
        """Wait until one task is accepted. Raises TaskError if it is refused, or Timeout."""
        if not (yield from self.accepted(handle.seq, self._timeout_s)):
            raise Timeout(f"task {handle.id} was not accepted within {self._timeout_s:g} s; it stays on its way")
        error = handle.conflict
        if error is None and handle.refused and handle.outcome is not None:
            error = handle.outcome.error
        if error is not None:
            response = self.session.read(handle)
            assert response is not None, "it was refused"
            response.ok()

    def arrived(self, task: TaskId) -> Steps[Handle | None]:
        """What is known of a task, which has been accepted if it is this client's (or stays pending too long)."""
        handle = self.session.handle(task)
        if handle is not None and handle.pending:
            yield from self.accepted(handle.seq, self._timeout_s)
            handle = self.session.handle(task)
        return handle

    def reports(self, tasks: Sequence[TaskId]) -> Steps[dict[TaskId, TaskReport]]:
        make = partial(AskTasks, ids=tuple(tasks))
        answer = yield from self.ask(make, f"the status of {len(tasks)} tasks")
        assert isinstance(answer, TaskReports)
        return {report.id: report for report in answer.reports}

    def status(self, task: TaskId) -> Steps[TaskStatus]:
        handle = yield from self.arrived(task)
        if handle is not None:
            if handle.pending:
                return TaskStatus.INIT
            if handle.outcome is not None:
                self.session.told(task)
                status = handle.outcome.status
                return TaskStatus.DONE if handle.read and status is TaskStatus.READY else status
        return (yield from self.reports([task]))[task].status

    def namespace(self, task: TaskId) -> Steps[str | None]:
        handle = yield from self.arrived(task)
        if handle is not None and handle.ns:
            return handle.ns
        return (yield from self.reports([task]))[task].ns

    def response(self, task: TaskId) -> Steps[Response]:
        session = self.session
        yield from self.arrived(task)
        box = self.box()
        waiting, over = session.watch([task], box)
        try:
            response = session.read(over[0] if over else waiting[task])
            if response is None:
                response = (yield from self.as_it_stands(waiting, box))[task]
        finally:
            if waiting:
                session.withdraw(box, handles=waiting.values())
            session.tell_reads()
        return response

    def as_it_stands(self, handles: Mapping[TaskId, Handle], box: Box) -> Steps[dict[TaskId, Response]]:
        """Responses of watched tasks, ended or not. An end that a report tells of is waited for."""
        reports = yield from self.reports(list(handles))
        responses = {}
        for task, handle in handles.items():
            report = reports[task]
            due = report.status.complete and report.status is not TaskStatus.UNKNOWN and not handle.pending
            while due and handle.outcome is None:
                if (yield Wait(box, self._timeout_s)) is None:
                    raise Timeout(f"the result of task {task} did not come within {self._timeout_s:g} s; ask again")
            response = self.session.read(handle)
            if response is None:
                response = first_steps(handle) if handle.pending else standing(report)
            responses[task] = response
        return responses

    def clear(self, task: TaskId) -> Steps[None]:
        session = self.session
        handle = session.handle(task)
        if handle is not None and handle.pending:
            yield from self._settled(task)
        yield from self.ask(partial(Clear, ids=(task,)), f"clearing task {task}")
        session.forget(task)

    def cancel(self, task: TaskId) -> Steps[None]:
        yield from self._settled(task)
        yield from self.ask(partial(Cancel, ids=(task,)), f"cancelling task {task}")

    def _settled(self, task: TaskId) -> Steps[None]:
        handle = yield from self.arrived(task)
        if handle is not None and handle.pending:
            raise Timeout(f"task {task} has not been accepted within {self._timeout_s:g} s, so it cannot be ended yet")


class Waiting(Generic[B]):
    """One `wait_for`: hands out each task once, as they end; at the latest as it stands when the time has run out.

    Who drives it hands out what is `ready`, and as long as something is `left` waits as `wait` says; what comes goes to
    `arrived`, and when nothing does, `give_up` is run. At the end there is `close`.

    left: the tasks whose ends have not come yet.
    """

    def __init__(self, calls: Calls[B], tasks: Iterable[str], timeout_s: float | None) -> None:
        self._calls = calls
        self._session = calls.session
        self._timeout_s = seconds("wait_for", timeout_s)
        self._box = calls.box()
        self.left: dict[TaskId, Handle] = {}
        self._over: deque[Handle] = deque()
        self._rest: list[tuple[TaskId, Response]] = []
        if isinstance(tasks, str):
            raise FormatError(
                f"wait_for: expected several ids of tasks, got the one text {tasks!r:.80}; put it in a list"
            )
        if not isinstance(tasks, Iterable):
            raise FormatError(f"wait_for: expected a list of ids of tasks, got {type(tasks).__name__}")
        # A set that keeps the order; asking for the type here saves a call per task.
        self._tasks = list(dict.fromkeys([task if type(task) is TaskId else task_id(task) for task in tasks]))

    def start(self) -> None:
        self.left, over = self._session.watch(self._tasks, self._box)
        self._over.extend(over)

    def ready(self) -> tuple[TaskId, Response] | None:
        """A task that can be handed out without waiting; None if there is none."""
        over, box = self._over, self._box
        while over or not box.empty():
            if not over:
                self.arrived(box.get_nowait())
                continue
            handle = over.popleft()
            response = self._session.read(handle)
            if response is not None:
                return handle.id, response
            # It was over because of a conflict, which somebody else has read in the meantime.
            waiting, again = self._session.watch([handle.id], box)
            self.left |= waiting
            over.extend(again)
        return self._rest.pop() if self._rest else None

    def wait(self) -> Wait:
        """What to wait for now that nothing is ready."""
        self._session.tell_reads()  # before a wait of unknown length
        return Wait(self._box, self._timeout_s)

    def arrived(self, item: Item) -> None:
        """Something came into the box."""
        if isinstance(item, ClusterError):
            raise ClusterError(*item.args)
        assert isinstance(item, Handle), "a watcher is told of tasks"
        if self.left.pop(item.id, None) is not None:
            self._over.append(item)

    def give_up(self) -> Steps[None]:
        """The time has run out: hand out the rest as it stands."""
        session = self._session
        try:
            responses = yield from self._calls.as_it_stands(self.left, self._box)
        except Timeout:
            # The peer does not even say where they are: then as far as this client knows.
            responses = {task: session.read(handle) or first_steps(handle) for task, handle in self.left.items()}
        session.withdraw(self._box, handles=self.left.values())
        self._rest = list(responses.items())[::-1]
        self.left = {}

    def close(self) -> None:
        if self.left:
            self._session.withdraw(self._box, handles=self.left.values())
        self._session.tell_reads()


def first_steps(handle: Handle) -> Response:
    """A task of which no peer has said anything yet."""
    status = TaskStatus.INIT if handle.pending else TaskStatus.WAIT
    return standing(TaskReport(id=handle.id, status=status, ns=handle.ns or None), copies=0 if handle.pending else 1)


def seconds(call: str, timeout: float | None) -> float | None:
    """How long a call waits; None for ever. Raises FormatError for what is no time."""
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)) or not timeout >= 0:  # nor NaN
        raise FormatError(f"{call}: timeout: expected seconds, or None for no limit, got {timeout!r:.80}")
    return None if timeout > TIMEOUT_MAX else timeout


def check_ns(ns: str) -> None:
    """Raises GraphError for what can name no namespace: peers would not know what to do with it."""
    try:
        check_name(ns, "namespace")
    except ValueError as error:
        raise GraphError(f"{error}") from None


def task_id(task: str) -> TaskId:
    """Raises FormatError, showing the text, if it is no id of a task."""
    return task if isinstance(task, TaskId) else TaskId.parse(task)


def definition_text(definition: Mapping[str, Any] | str | PathLike[str]) -> str:
    """A definition as JSON text: from a dict, or from the file with this path. Raises GraphError."""
    if isinstance(definition, Mapping):
        try:
            return json.dumps(definition, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise GraphError(f"the graph definition is no JSON: {error}; use dicts, lists, texts and numbers") from None
    if not isinstance(definition, (str, PathLike)):
        raise GraphError(f"a graph definition is a dict or the path of a JSON file, not {type(definition).__name__}")
    text = file_text(definition)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise GraphError(f"graph file {str(definition)!r} is not JSON: {error.msg} at {where}") from None
    except (ValueError, RecursionError):
        pass  # the check says it better
    return text


def must_not_wait() -> ScatterError:
    """For a call that would wait within the callback of a future."""
    return ScatterError(
        "this call would wait in a callback of a future, which runs in the thread that brings the answers; "
        "move the call to another thread"
    )
