"""A scripted peer in memory: accepts, refuses, computes y = 2 x, and can be told to hold things back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from scatterzmq.client import Client, Inbox, Member
from scatterzmq.core.messages import (
    Accepted,
    AskDefinition,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    CacheCleared,
    Cancel,
    Cancelled,
    Clear,
    ClearCache,
    Cleared,
    Definition,
    Final,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    NamespaceInfo,
    Namespaces,
    QueueStats,
    Refused,
    ResultRead,
    Stats,
    Submit,
    TaskReport,
    TaskReports,
    TaskStatus,
    ToClient,
    ToPeer,
)
from scatterzmq.errors import ClusterError, ErrorCode, ErrorInfo
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.ids import PeerId, TaskId
from scatterzmq.wire.tensors import Column, from_tensors, gather, to_tensors

PEER = PeerId("P" + "0" * 32)


def namespace(ns: str = "double", shape: tuple[int | None, ...] = (2,), digest: bytes = b"one") -> NamespaceInfo:
    formats = {"x": FieldFormat("float32", shape)}
    outputs = {"y": FieldFormat("float32", shape)}
    return NamespaceInfo(ns=ns, digest=digest, entry=f"{ns}:main", inputs=formats, outputs=outputs, digests=False)


@dataclass(eq=False)
class Task:
    status: TaskStatus
    digest: bytes
    column: Column
    error: ErrorInfo | None = None


@dataclass(eq=False)
class FakePeer:
    """hold_accept / hold_results: tasks stay where they are until `accept` / `finish`. silent: message kinds that are
    swallowed. refuse: decides about a task with these numbers. fail: the same for its end.
    """

    hold_accept: bool = False
    hold_results: bool = False
    silent: tuple[type, ...] = ()
    refuse: Callable[[Sequence[float]], tuple[ErrorCode, str] | None] = lambda _: None
    fail: Callable[[Sequence[float]], ErrorInfo | None] = lambda _: None
    infos: dict[str, NamespaceInfo] = field(default_factory=lambda: {"double": namespace()})
    next_info: NamespaceInfo | None = None
    problems: tuple[str, ...] = ()
    seen: list[ToPeer] = field(default_factory=list)
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    held: list[tuple[Submit, Mapping[str, Column]]] = field(default_factory=list)
    closed: int = 0
    inbox: Inbox | None = None

    def connect(self, inbox: Inbox) -> "FakePeer":
        self.inbox = inbox
        return self

    # ---- the link

    def send(self, message: ToPeer, columns: Mapping[str, Column], /) -> None:
        if self.closed:
            raise ClusterError("the fake peer is closed")
        self.answer(message, columns)

    def close(self) -> None:
        self.closed += 1

    def open_blob(self, name: str, /) -> Any:
        return f"blob {name}"

    def peers(self) -> Sequence[Member]:
        return [Member(id=PEER, name="fake", status="alive")]

    def healthcheck(self) -> tuple[str, str, int] | None:
        return ("127.0.0.1", "localhost", 7412)

    # ---- the peer

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.seen]

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.seen if isinstance(message, kind)]

    def deliver(self, message: ToClient, columns: Mapping[str, Column] | None = None) -> None:
        assert self.inbox is not None
        self.inbox(message, columns or {})

    def answer(self, message: ToPeer, columns: Mapping[str, Column]) -> None:
        self.seen.append(message)
        if isinstance(message, self.silent):
            return
        match message:
            case Submit():
                self.submit(message, columns)
            case AskNamespaces(mid=mid, ns=ns):
                infos = tuple(i for i in self.infos.values() if ns in (None, i.ns))
                self.deliver(Namespaces(mid=mid, infos=infos, unusable={"rare": "no such kind here"}))
            case LoadGraph(mid=mid) if self.next_info is not None:
                self.infos[self.next_info.ns] = self.next_info
                self.deliver(GraphLoaded(mid=mid, info=self.next_info))
            case LoadGraph(mid=mid):
                self.deliver(GraphRefused(mid=mid, problems=self.problems))
            case Attach(ids=ids):
                self.final([task for task in ids if task not in self.tasks or self.tasks[task].status.complete])
            case ResultRead(ids=ids):
                for task in ids:
                    if task in self.tasks and self.tasks[task].status is TaskStatus.READY:
                        self.tasks[task].status = TaskStatus.DONE
            case Clear(mid=mid, ids=ids):
                for task in ids:
                    self.tasks.pop(task, None)
                self.deliver(Cleared(mid=mid))
            case Cancel(mid=mid, ids=ids):
                self.deliver(Cancelled(mid=mid))
                error = ErrorInfo(code=ErrorCode.CANCELLED, message="cancelled")
                self.fail_tasks([t for t in ids if t in self.tasks and not self.tasks[t].status.complete], error)
            case _:
                self.inform(message)

    def inform(self, message: ToPeer) -> None:
        match message:
            case AskTasks(mid=mid, ids=ids):
                self.deliver(TaskReports(mid=mid, reports=tuple(map(self.report, ids))))
            case AskDefinition(mid=mid, ns=ns):
                self.deliver(Definition(mid=mid, definition='{"ns": "double"}' if ns in self.infos else None))
            case ClearCache(mid=mid, origins=origins):
                self.deliver(CacheCleared(mid=mid, values=-1 if origins is None else len(origins)))
            case AskStats(mid=mid):
                counts: dict[str, int] = {}
                for record in self.tasks.values():
                    counts[record.status] = counts.get(record.status, 0) + 1
                queue = QueueStats(id="Q" + "0" * 32, name="double:main:node", queue_length=3, listeners=1)
                self.deliver(Stats(mid=mid, queues=(queue,), executors=(), tasks=counts))

    def submit(self, message: Submit, columns: Mapping[str, Column]) -> None:
        if self.hold_accept:
            self.held.append((message, columns))
            return
        info = self.infos.get(message.ns)
        if info is None or info.digest != message.digest:
            text = "stale: the namespace was redefined"
            self.deliver(Refused(mid=message.mid, ids=message.ids, code=ErrorCode.REFUSED, message=text))
            return
        accepted = []
        for row, task in enumerate(message.ids):
            column = gather([(columns["x"], row)])
            verdict = self.refuse(to_tensors(column)[0].flatten().tolist())
            known = self.tasks.get(task)
            if known is not None and known.digest != message.submit_digests[row]:
                verdict = (ErrorCode.CONFLICT, "other inputs")
            if verdict is not None:
                self.deliver(Refused(mid=message.mid, ids=(task,), code=verdict[0], message=verdict[1]))
                continue
            if known is None:
                self.tasks[task] = Task(TaskStatus.WAIT, message.submit_digests[row], column)
            accepted.append(task)
        if accepted:
            self.deliver(Accepted(mid=message.mid, ids=tuple(accepted), copies=1, durable=False))
        if not self.hold_results:
            self.finish(accepted)

    def accept(self, count: int | None = None) -> None:
        """Let held submissions in."""
        self.hold_accept = False
        held, self.held = self.held[:count], self.held[count:] if count is not None else []
        for message, columns in held:
            self.submit(message, columns)
        self.hold_accept = bool(self.held)

    def finish(self, tasks: Sequence[TaskId]) -> None:
        tasks = [task for task in tasks if task in self.tasks]
        for task in tasks:
            record = self.tasks[task]
            record.error = self.fail(to_tensors(record.column)[0].flatten().tolist())
            record.status = TaskStatus.ERROR if record.error else TaskStatus.READY
        self.final(tasks)

    def fail_tasks(self, tasks: Sequence[TaskId], error: ErrorInfo) -> None:
        for task in tasks:
            self.tasks[task].status, self.tasks[task].error = TaskStatus.ERROR, error
        self.final(tasks)

    def final(self, tasks: Sequence[TaskId]) -> None:
        if not tasks:
            return
        reports = [self.report(task) for task in tasks]
        ready = [task for task in tasks if self.report(task).status in (TaskStatus.READY, TaskStatus.DONE)]
        columns = {}
        if ready:
            columns["y"] = from_tensors([to_tensors(self.tasks[task].column)[0] * 2 for task in ready])
        message = Final(
            ids=tuple(tasks),
            ns=next((report.ns for report in reports if report.ns), ""),
            statuses=tuple(report.status for report in reports),
            errors=tuple(report.error for report in reports),
            retries=tuple(report.retries for report in reports),
            durations_ms=tuple(report.duration_ms for report in reports),
        )
        self.deliver(message, columns)

    def report(self, task: TaskId) -> TaskReport:
        record = self.tasks.get(task)
        if record is None:
            return TaskReport(id=task, status=TaskStatus.UNKNOWN)
        return TaskReport(id=task, status=record.status, ns="double", retries=1, error=record.error, duration_ms=1500)


class ThreadedPeer(FakePeer):
    """The same with a thread of its own, as a real peer has."""

    def connect(self, inbox: Inbox) -> FakePeer:
        self.posted: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = Thread(target=self.run)
        self.thread.start()
        return super().connect(inbox)

    def run(self) -> None:
        while (step := self.posted.get()) is not None:
            step()

    def send(self, message: ToPeer, columns: Mapping[str, Column], /) -> None:
        self.posted.put(lambda: self.answer(message, columns))

    def close(self) -> None:
        super().close()
        self.posted.put(None)
        self.thread.join()


class PumpedPeer(FakePeer):
    """Without a thread: works only while somebody pumps."""

    def connect(self, inbox: Inbox) -> FakePeer:
        self.posted: SimpleQueue[tuple[ToPeer, Mapping[str, Column]]] = SimpleQueue()
        return super().connect(inbox)

    def send(self, message: ToPeer, columns: Mapping[str, Column], /) -> None:
        self.posted.put((message, columns))

    def pump(self, timeout_s: float | None, /) -> bool:
        if self.posted.empty():
            assert timeout_s is not None, "would be for ever"
            return False
        self.answer(*self.posted.get())
        return True


@pytest.fixture
def peer() -> FakePeer:
    """Answers within `send`."""
    return FakePeer()


@pytest.fixture
def threaded() -> ThreadedPeer:
    return ThreadedPeer()


@pytest.fixture
def pumped() -> PumpedPeer:
    return PumpedPeer()


@pytest.fixture
def client(peer: FakePeer) -> Iterator[Client]:
    """A client with short time-outs, so that a test of one is quick."""
    made = Client(peer.connect, request_timeout=0.02, room_timeout=0.02)
    yield made
    peer.hold_accept = False
    peer.silent = ()
    peer.accept()
    made.close()


@pytest.fixture
def redefined() -> Callable[..., NamespaceInfo]:
    """Another definition of the namespace; keyword arguments are fields of its info."""
    return lambda **changes: replace(namespace(digest=b"two"), **changes)


@pytest.fixture
def make_namespace() -> Callable[..., NamespaceInfo]:
    return namespace


@pytest.fixture
def x() -> Callable[..., dict[str, Any]]:
    """Inputs with the numbers."""
    return lambda *numbers: {"x": np.array(numbers or (1.0, 2.0), np.float32)}


@pytest.fixture
def y() -> Callable[[Any], list[float]]:
    """The numbers of a result."""

    def numbers(result: Any) -> list[float]:
        assert isinstance(result["y"], torch.Tensor)
        values: list[float] = result["y"].tolist()
        return values

    return numbers
