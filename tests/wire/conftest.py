"""Small messages of each kind, with every field set and one or two columns where it has some.

Named after the kind; where a kind has several shapes, the others follow as "Kind shape".
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import msgpack
import pytest

from scatterzmq.core.blobmessages import (
    AskBlob,
    AskBlobName,
    BlobId,
    BlobNamed,
    BlobPiece,
    BlobsKept,
    BlobWritten,
    KeepBlobs,
    NoBlob,
    WriteBlob,
)
from scatterzmq.core.cachemessages import (
    CACHE_KEY_BYTES,
    CacheAbort,
    CacheAnswer,
    CacheAsk,
    CacheFetch,
    CacheLost,
    CachePut,
    CacheRenew,
    CacheTell,
)
from scatterzmq.core.messages import (
    Accepted,
    AskDefinition,
    AskMembers,
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
    ExecutorStats,
    Final,
    Goodbye,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    MemberList,
    Moved,
    NamespaceInfo,
    Namespaces,
    QueueStats,
    Refused,
    Release,
    Released,
    ResultRead,
    Stats,
    Submit,
    TaskReport,
    TaskReports,
    TaskStatus,
)
from scatterzmq.core.payloadmessages import Fetch, Fetched, FreePayloads, Gone, HeldPayloads, Payload, Places
from scatterzmq.core.peermessages import (
    AnyMessage,
    AskManifest,
    AskPlans,
    AskPointers,
    AskQueues,
    AskSync,
    Bye,
    Claim,
    Commit,
    Committed,
    Contact,
    CopyKind,
    Drop,
    FailedPart,
    Grant,
    HandedOver,
    Handover,
    Heartbeat,
    Hello,
    Inquire,
    Known,
    Manifest,
    Nudge,
    Part,
    PlanKept,
    PlanText,
    Pointer,
    Pointers,
    QueueState,
    QueueStates,
    Renew,
    Renewed,
    Replicate,
    Replicated,
    RowsRevoked,
    Surrender,
    Sync,
    SyncBetter,
    SyncDigest,
    Unwelcome,
    VersionInfo,
    Welcome,
    WrongIncarnation,
)
from scatterzmq.errors import ErrorCode, ErrorContext, ErrorInfo
from scatterzmq.graph.formats import DTYPES, FieldFormat, Layout
from scatterzmq.graph.nodeinfo import BlobUse, CallInfo, Described, NodeInfo
from scatterzmq.ids import ExecutorId, GraphId, PeerId, QueueId, TaskId
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import encode

Columns: TypeAlias = Mapping[str, Column]
Example: TypeAlias = tuple[AnyMessage, Columns]
Edit: TypeAlias = Callable[[list[Any]], None]

ONE, TWO = TaskId("T" + "01" * 16), TaskId("T" + "fe" * 16)
EXECUTOR, OTHER_EXECUTOR = ExecutorId("E" + "23" * 16), ExecutorId("E" + "32" * 16)
HERE, THERE = PeerId("P" + "04" * 16), PeerId("P" + "05" * 16)
QUEUE, GRAPH = QueueId("Q" + "06" * 16), GraphId("G" + "07" * 16)
CONTACT = Contact(id=HERE, incarnation=1, address="tcp://a:1", name="a", gossip_port=2)
VERSION = VersionInfo(id=TWO, rank=2, n=3, owner=THERE, life=5, seq=4)
CLAIM = Claim(claim=8, executor=EXECUTOR, digest=b"d" * 32, queue=QUEUE, tasks_max=32, tasks_min=2, task_us=9000)
X_DIGESTS = (b"x" * 32, b"y" * 32)
PAYLOAD = Payload(
    maker=THERE,
    counter=1 << 40,
    layout=Layout(DTYPES["float32"], 2, (3, 1)),
    checksum=b"c" * 16,
    digests=X_DIGESTS,
)
RAGGED = Payload(
    maker=HERE,
    counter=7,
    layout=Layout(DTYPES["uint8"], 2, None, ((2,), (5,))),
    checksum=b"d" * 16,
)
INFO = NamespaceInfo(
    ns="n",
    digest=b"d" * 32,
    entry="main",
    inputs={"x": FieldFormat("float", (2, None))},
    outputs={},
    digests=True,
    description="Straße",
    cached=(b"origin-1",),
)
NODE = Described(
    place="n:m:a",
    info=NodeInfo(
        input_format={"x": FieldFormat("float", (None,))},
        outputs={"out": {"y": FieldFormat("long", (2,))}},
        pure=True,
        weight=1.5,
        load_cost=2.5,
        calls=(CallInfo(graph="m", args={}, output="out"),),
        thread_safe=True,
        doc="A node.",
        blobs=(BlobUse(name="weights", end_bytes=8),),
        arguments=("a",),
        unused=("b",),
    ),
    error="none",
    lacking=True,
    unknown=True,
)
ERROR = ErrorInfo(
    code=ErrorCode.GENERAL_EXCEPTION, message="boom", traceback="line", context=ErrorContext(task=ONE, node="node_0")
)


def _columns() -> Columns:
    return {
        "x": Column(Layout(DTYPES["int16"], 2, (2,)), memoryview(bytearray(b"\1\0\2\0\3\0\4\0"))),
        "text": Column(Layout(DTYPES["uint8"], 2, None, ((3,), (0,))), memoryview(bytearray(b"abc"))),
    }


def _one_row() -> Columns:
    return {"y": Column(Layout(DTYPES["bool"], 1, (1, 2)), memoryview(bytearray(b"\1\0")))}


def _members() -> list[Example]:
    return [
        (AskMembers(mid=19, cluster=b"c" * 8), {}),
        (AskMembers(mid=20), {}),
        (MemberList(mid=19, members=(CONTACT,), suspects=(THERE,), message_bytes=1 << 28), {}),
        (MemberList(mid=19, members=(), refusal="another cluster"), {}),
    ]


def _with_clients() -> list[Example]:
    report = TaskReport(
        id=ONE, status=TaskStatus.ERROR, ns="n", retries=3, error=ERROR, duration_ms=7, place="n:g:o", story=("a", "b")
    )
    queue = QueueStats(
        id="Q", name="n:g:o", queue_length=1, listeners=2, weight=1.0, pressure=2.5, expected_pressure=0.5, claimants=4
    )
    return [
        (LoadGraph(mid=1, definition="{}", replace=True), {}),
        (
            Submit(
                mid=2,
                ns="n",
                digest=b"d" * 32,
                nonce=b"8bytes!!",
                ids=(ONE, TWO),
                submit_digests=(b"s" * 16, b"t" * 16),
                digests={"x": X_DIGESTS},
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
        *_members(),
        (Goodbye(), {}),
        (GraphLoaded(mid=9, info=INFO, warnings=("w",)), {}),
        (GraphRefused(mid=10, problems=("p", "q"), warnings=("w",)), {}),
        (Accepted(mid=11, ids=(ONE, TWO), copies=2, durable=True, rset=(HERE, THERE)), {}),
        (Moved(ids=(ONE, TWO), owners=(HERE, THERE)), {}),
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
            _one_row(),
        ),
        (Cleared(mid=13, unknown=(TWO,)), {}),
        (Cancelled(mid=14), {}),
        (TaskReports(mid=15, reports=(report,), doubtful=True), {}),
        (Namespaces(mid=16, infos=(INFO,), unusable={"n": "no such kind"}), {}),
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
                unusable={"n": "no such kind"},
            ),
            {},
        ),
    ]


def _membership() -> list[Example]:
    state = QueueState(
        digest=b"d" * 32,
        queue=QUEUE,
        length=5,
        weight=1.0,
        pressure=2.5,
        expected_pressure=0.5,
        claimants=2,
        loaded=1,
        task_us=300_000,
        lacking=True,
    )
    pointer = Pointer(ns="n", counter=3, by=THERE, digest=b"d" * 32)
    return [
        (Release(mid=20), {}),
        (Released(mid=20), {}),
        (Hello(me=CONTACT, nonce=b"n" * 16, cluster=b"c" * 8, proto_min=1, proto_max=2), {}),
        (
            Welcome(
                me=CONTACT,
                nonce=b"n" * 16,
                cluster=b"c" * 8,
                proto_min=1,
                proto_max=2,
                members=(Contact(id=THERE, incarnation=7, address="tcp://b:1"),),
            ),
            {},
        ),
        (Unwelcome(reason="another cluster"), {}),
        (
            Heartbeat(
                seq=9,
                idle=1,
                missing=(HERE, THERE),
                dead=(THERE,),
                dead_incarnations=(300,),
                queues=4,
                pointers=b"8bytes!!",
                usable=True,
            ),
            {},
        ),
        (Bye(), {}),
        (WrongIncarnation(), {}),
        (QueueStates(version=4, full=True, idle=2, states=(state,)), {}),
        (AskQueues(), {}),
        (Nudge(digest=b"d" * 32, queue=QUEUE), {}),
        (Pointers(pointers=(pointer,)), {}),
        (AskPointers(), {}),
        (AskPlans(digests=X_DIGESTS), {}),
        (PlanText(mid=5, digest=b"d" * 32, definition="{}"), {}),
        (PlanKept(mid=5), {}),
        (AskManifest(mid=6, definition="{}", settles=True), {}),
        (
            Manifest(
                mid=6,
                nodes=(NODE,),
                blobs={"weights": b"b" * 32},
                problems=("n:m:a: no such kind",),
                warnings=("n:m:a: too big",),
                lacking=("a.b",),
            ),
            {},
        ),
    ]


def _replicate(kind: CopyKind) -> Replicate:
    ended = kind is CopyKind.FINAL
    digests: Mapping[CopyKind, Mapping[str, tuple[bytes, ...]]] = {
        CopyKind.ACCEPT: {"x": X_DIGESTS},
        CopyKind.FINAL: {"y": (b"y" * 32,)},
    }
    return Replicate(
        mid=6,
        kind=kind,
        ns="n",
        digest=b"d" * 32,
        n=2,
        rset=(HERE, THERE),
        ids=(ONE, TWO),
        nonces=(b"8bytes!!", b"bytes!!8"),
        submit_digests=(b"s" * 16, b"t" * 16),
        seqs=(1, 2000),
        caching=(True, False),
        errors=(0, 1),
        restarts=(2, 0),
        crashes=(0, 3),
        solo=(False, True),
        last_errors=(None, ERROR),
        statuses=(TaskStatus.READY, TaskStatus.ERROR) if ended else (),
        durations_ms=(5, 70000) if ended else (),
        digests=digests.get(kind, {}),
    )


def _copies() -> list[Example]:
    return [
        (_replicate(CopyKind.ACCEPT), _columns()),
        (_replicate(CopyKind.MARK), {}),
        (_replicate(CopyKind.FINAL), _one_row()),
        (_replicate(CopyKind.DELETE), {}),
        (Replicated(mid=6, durable=True, better=(VERSION,), lacking=(ONE,), failed=True), {}),
        (Inquire(mid=7, owner=THERE, ids=(ONE, TWO)), {}),
        (Known(mid=7, versions=(VERSION,)), {}),
        (Sync(versions=(VERSION,)), {}),
        (SyncBetter(versions=(VERSION,)), {}),
        (SyncDigest(count=2, total=1 << 62), {}),
        (AskSync(), {}),
        (Drop(ids=(ONE,)), {}),
        (Handover(mid=8, ids=(ONE, TWO)), {}),
        (HandedOver(mid=8, leaving=True), {}),
    ]


def _claims() -> list[Example]:
    parts = (
        Part(output="o", rows=(2, 0), fields=("x", "text"), digests={"x": X_DIGESTS}),
        Part(output="p", rows=(5,), fields=("y",), call=GRAPH),
        Part(output="q", rows=(7, 8), fields=()),
        Part(output="r", rows=(9, 10), fields=(), stays={"z": (PAYLOAD,)}),
    )
    failed = FailedPart(
        rows=(1, 3), code=ErrorCode.GENERAL_EXCEPTION, message="boom", traceback="line", final=True, node="node_0"
    )
    nothing = Grant(claim=8, executor=EXECUTOR, digest=b"d" * 32, queue=QUEUE)
    beside = {f"0:{name}": column for name, column in _columns().items()}
    beside |= {f"1:{name}": column for name, column in _one_row().items()}
    return [
        (CLAIM, {}),
        (
            replace(
                nothing,
                order=11,
                ids=(ONE, TWO),
                ttl_ms=15000,
                max_exec_ms=600000,
                solo=True,
                digests={"x": X_DIGESTS},
            ),
            _columns(),
        ),
        (nothing, {}),
        (
            replace(
                nothing,
                order=12,
                ids=(ONE, TWO),
                ttl_ms=15000,
                max_exec_ms=600000,
                digests={"y": (b"y" * 32,)},
                payloads=(PAYLOAD, RAGGED),
                places=(
                    Places(field="x", payloads=(0, 1), rows=(1, 0)),
                    Places(field="y", payloads=(2, 0), rows=(0, 0)),
                ),
            ),
            _one_row(),
        ),
        (
            Commit(executor=EXECUTOR, order=11, parts=parts, failed=(failed,), missing=(4, 6), claim=CLAIM),
            beside,
        ),
        (Commit(executor=EXECUTOR, order=11, parts=(), failed=(failed,), piece=3, more=True), {}),
        (Committed(executor=EXECUTOR, order=11, fenced=True, piece=3), {}),
        (Renew(orders=(11, 12), executors=(EXECUTOR, OTHER_EXECUTOR)), {}),
        (Renewed(fenced=(12,)), {}),
        (RowsRevoked(order=11, executor=EXECUTOR, rows=(0, 3)), {}),
        (Surrender(executor=EXECUTOR, order=11, reason="killed", crashed=True), {}),
    ]


def _cache() -> list[Example]:
    key = b"k" * CACHE_KEY_BYTES
    keys, ids = (key, b"l" * CACHE_KEY_BYTES), (ONE, TWO)
    digests = {"y": (b"y" * 32,)}
    return [
        (ClearCache(mid=9, origins=(b"origin-1", b"origin-2")), {}),
        (ClearCache(mid=9), {}),
        (CacheCleared(mid=14, values=3), {}),
        (CacheAsk(keys=keys, ids=ids, may_wait=(True, False)), {}),
        (CacheTell(key=key, id=ONE, answer=CacheAnswer.HIT, ttl_ms=9, output="o", digests=digests), _one_row()),
        (CacheTell(key=key, id=ONE, answer=CacheAnswer.LEAD, ttl_ms=10000), {}),
        (CacheTell(key=key, id=ONE, answer=CacheAnswer.WAIT, ttl_ms=10000), {}),
        (CacheTell(key=key, id=ONE, answer=CacheAnswer.COMPUTE), {}),
        (CacheTell(key=key, id=ONE, answer=CacheAnswer.HELD, holders=(HERE, THERE), copy=True), {}),
        (CachePut(key=key, id=ONE, output="o", digests=digests), _one_row()),
        (CachePut(key=key, id=ONE, output="o", held=True), {}),
        (CacheAbort(keys=keys, ids=ids), {}),
        (CacheRenew(keys=keys, ids=ids), {}),
        (CacheFetch(key=key, id=ONE), {}),
        (CacheLost(keys=keys, holders=(HERE, THERE)), {}),
    ]


def _payloads() -> list[Example]:
    return [
        (Fetch(maker=THERE, counters=(1, 300)), {}),
        (Fetched(maker=THERE, counter=300, rows=2), {"rows": _columns()["x"]}),
        (Gone(maker=THERE, counters=(1,)), {}),
        (FreePayloads(counters=(1, 1 << 40)), {}),
        (HeldPayloads(counters=(300,)), {}),
    ]


def _blobs() -> list[Example]:
    writer, digest = b"w" * 16, b"d" * 32
    data = {"data": Column(Layout(DTYPES["uint8"], 1, (3,)), memoryview(bytearray(b"abc")))}
    return [
        (AskBlobName(name="a/b"), {}),
        (BlobNamed(name="a/b", is_here=True, blob_bytes=6, digest=digest), {}),
        (AskBlob(name="a/b", digest=digest, offset=3, bytes_max=9), {}),
        (BlobPiece(name="a/b", digest=digest, offset=3, blob_bytes=6, is_reading=True), data),
        (NoBlob(name="a/b", digest=digest), {}),
        (KeepBlobs(blobs=(BlobId(name="a/b", digest=digest),)), {}),
        (BlobsKept(kept=(digest,), coming=(digest[::-1],), refused=(digest,)), {}),
        (WriteBlob(writer=writer, name="a/b", offset=3, last=True, digest=digest), data),
        (BlobWritten(writer=writer, blob_bytes=6, is_sealed=True, copies=2, problem="p"), {}),
    ]


def _shape(message: AnyMessage) -> str:
    """What tells apart the examples of one kind."""
    match message:
        case Replicate():
            return message.kind
        case CacheTell():
            return message.answer
        case CachePut(held=True):
            return "held"
        case AskMembers() | MemberList():
            return "of any cluster" if isinstance(message, AskMembers) else "of a refusal"
        case Grant(ids=()):
            return "of nothing"
        case Grant(payloads=(_, *_)):
            return "by name"
        case Commit(parts=()):
            return "of failures"
    return ""


def _examples() -> dict[str, Example]:
    examples: dict[str, Example] = {}
    groups = (_with_clients, _membership, _copies, _claims, _cache, _payloads, _blobs)
    for message, columns in [example for group in groups for example in group()]:
        kind = type(message).__name__
        examples[f"{kind} {_shape(message)}" if kind in examples else kind] = message, columns
    return examples


@pytest.fixture(scope="session")
def examples() -> dict[str, Example]:
    """Name of the example -> message and columns."""
    return _examples()


@pytest.fixture(params=list(_examples()))
def label(request: pytest.FixtureRequest) -> str:
    """Names of all examples in turn."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
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
