"""One small message of each kind, with every field set and one or two columns where it has some."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgpack
import pytest

from scatterzmq.core.messages import (
    Accepted,
    AskDefinition,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    Cancel,
    Cancelled,
    Clear,
    Cleared,
    Definition,
    ExecutorStats,
    Final,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    Message,
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
)
from scatterzmq.errors import ErrorCode, ErrorContext, ErrorInfo
from scatterzmq.graph.formats import DTYPES, FieldFormat, Layout
from scatterzmq.ids import ExecutorId, TaskId
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import encode

Columns: TypeAlias = Mapping[str, Column]
Edit: TypeAlias = Callable[[list[Any]], None]

ONE, TWO = TaskId("T" + "01" * 16), TaskId("T" + "fe" * 16)
EXECUTOR = ExecutorId("E" + "23" * 16)
INFO = NamespaceInfo(
    ns="n",
    digest=b"d" * 32,
    entry="main",
    inputs={"x": FieldFormat("float", (2, None))},
    outputs={},
    digests=True,
    description="Straße",
)
ERROR = ErrorInfo(
    code=ErrorCode.GENERAL_EXCEPTION, message="boom", traceback="line", context=ErrorContext(task=ONE, node="node_0")
)


def _columns() -> Columns:
    return {
        "x": Column(Layout(DTYPES["int16"], 2, (2,)), memoryview(bytearray(b"\1\0\2\0\3\0\4\0"))),
        "text": Column(Layout(DTYPES["uint8"], 2, None, ((3,), (0,))), memoryview(bytearray(b"abc"))),
    }


def _examples() -> dict[str, tuple[Message, Columns]]:
    result: Columns = {"y": Column(Layout(DTYPES["bool"], 1, (1, 2)), memoryview(bytearray(b"\1\0")))}
    report = TaskReport(
        id=ONE, status=TaskStatus.ERROR, ns="n", retries=3, error=ERROR, duration_ms=7, place="n:g:o", story=("a", "b")
    )
    queue = QueueStats(
        id="Q", name="n:g:o", queue_length=1, listeners=2, weight=1.0, pressure=2.5, expected_pressure=0.5, claimants=4
    )
    messages: list[tuple[Message, Columns]] = [
        (LoadGraph(mid=1, definition="{}", replace=True), {}),
        (
            Submit(
                mid=2,
                ns="n",
                digest=b"d" * 32,
                nonce=b"8bytes!!",
                ids=(ONE, TWO),
                submit_digests=(b"s" * 16, b"t" * 16),
                digests={"x": (b"x" * 32, b"y" * 32)},
                cache=False,
            ),
            _columns(),
        ),
        (Attach(ids=(ONE,)), {}),
        (ResultRead(ids=(ONE, TWO)), {}),
        (Clear(mid=3, ids=(ONE,)), {}),
        (Cancel(mid=4, ids=(TWO,)), {}),
        (AskTasks(mid=5, ids=(ONE, TWO)), {}),
        (AskNamespaces(mid=6, ns="n"), {}),
        (AskDefinition(mid=7, ns="n"), {}),
        (AskStats(mid=8), {}),
        (GraphLoaded(mid=9, info=INFO, warnings=("w",)), {}),
        (GraphRefused(mid=10, problems=("p", "q"), warnings=("w",)), {}),
        (Accepted(mid=11, ids=(ONE, TWO), copies=2, durable=True), {}),
        (Refused(mid=12, ids=(TWO,), code=ErrorCode.REFUSED, message="full"), {}),
        (
            Final(
                ids=(ONE, TWO),
                ns="n",
                statuses=(TaskStatus.READY, TaskStatus.ERROR),
                errors=(None, ERROR),
                retries=(0, 3),
                durations_ms=(5, 70000),
                copies=2,
                durable=True,
            ),
            result,
        ),
        (Cleared(mid=13), {}),
        (Cancelled(mid=14), {}),
        (TaskReports(mid=15, reports=(report,)), {}),
        (Namespaces(mid=16, infos=(INFO,)), {}),
        (Definition(mid=17, definition="{}"), {}),
        (
            Stats(
                mid=18,
                queues=(queue,),
                executors=(ExecutorStats(id=EXECUTOR, place="", loaded=("n:g:o",)),),
                tasks={"wait": 1},
                counters={"c": 2},
                record_bytes=3,
                cache_entries=4,
                cache_bytes=5,
            ),
            {},
        ),
    ]
    return {type(message).__name__: (message, columns) for message, columns in messages}


@pytest.fixture
def examples() -> dict[str, tuple[Message, Columns]]:
    """Name of the kind -> message and columns."""
    return _examples()


@pytest.fixture
def forged() -> Callable[..., list[bytes]]:
    """The frames of an example after edits: `envelope` and `body` change the decoded lists, `frames` the raw ones."""

    def forge(
        kind: str, *, envelope: Edit | None = None, body: Edit | None = None, frames: Edit | None = None
    ) -> list[bytes]:
        message, columns = _examples()[kind]
        raw: list[Any] = [bytes(frame) for frame in encode(message, columns)]
        for index, edit in enumerate((envelope, body)):
            if edit is not None:
                values = msgpack.unpackb(raw[index])
                edit(values)
                raw[index] = msgpack.packb(values)
        if frames is not None:
            frames(raw)
        return raw

    return forge
