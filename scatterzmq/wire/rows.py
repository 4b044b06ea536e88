"""What must fit together in a message: lists by position, digests of one length, columns with a row per task.

One function per kind that has such things says what it has (`Shape`); one function compares.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any, TypeAlias

from ..core.blobmessages import (
    DIGEST_BYTES,
    AskBlob,
    BlobNamed,
    BlobPiece,
    BlobsKept,
    BlobWritten,
    KeepBlobs,
    NoBlob,
    WriteBlob,
)
from ..core.cachemessages import (
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
from ..core.messages import (
    ORIGIN_BYTES,
    AskMembers,
    ClearCache,
    Final,
    GraphLoaded,
    Moved,
    NamespaceInfo,
    Namespaces,
    Submit,
    TaskStatus,
)
from ..core.payloadmessages import Fetched, Payload
from ..core.peermessages import (
    AnyMessage,
    AskPlans,
    Claim,
    Commit,
    CopyKind,
    Grant,
    Heartbeat,
    Hello,
    Manifest,
    Nudge,
    PlanText,
    Pointers,
    QueueStates,
    Renew,
    Replicate,
    Welcome,
)
from ..frozen import frozen
from .refusal import Reject, WireError

NONCE, SUBMIT_DIGEST, DIGEST, CLUSTER, BOOT_NONCE, POINTERS, CHECKSUM, WRITER = 8, 16, 32, 8, 16, 8, 16, 16
"""Lengths of the byte strings that identify something. POINTERS: of the digest over all of a peer's pointers."""

Lists: TypeAlias = dict[str, tuple[int, int]]
Sizes: TypeAlias = list[tuple[Iterable[bytes], int]]


@frozen(kw_only=False)
class Shape:
    """lists: name -> its length, and what that must be. sizes: byte strings, and the length each must have.
    columns: how many rows each column has, or name -> rows of exactly these columns; None: there may be none.
    others: columns (with `columns` a number) that have another number of rows; those of 0 are not there.
    digested: columns with content digests, which must be there.
    problem: what else does not fit; "" if all does.
    """

    lists: Lists = field(default_factory=dict)
    sizes: Sizes = field(default_factory=list)
    columns: int | Mapping[str, int] | None = None
    others: Mapping[str, int] = field(default_factory=dict)
    digested: Iterable[str] = ()
    problem: str = ""


def _lengths(message: Any, count: int, *names: str) -> Lists:
    return {name: (len(getattr(message, name)), count) for name in names}


def _digests(digests: Mapping[str, tuple[bytes, ...]], rows: int) -> tuple[Lists, Sizes]:
    """Content digests by field, one per row."""
    lists = {f"digests of {name}": (len(values), rows) for name, values in digests.items()}
    return lists, [(values, DIGEST) for values in digests.values()]


def _plan(*digests: bytes) -> Shape:
    """Nothing but digests of definitions."""
    return Shape(sizes=[(digests, DIGEST)])


def _submit(message: Submit) -> Shape:
    tasks = len(message.ids)
    lists, sizes = _digests(message.digests, tasks)
    sizes += [((message.digest,), DIGEST), ((message.nonce,), NONCE), (message.submit_digests, SUBMIT_DIGEST)]
    return Shape(lists | _lengths(message, tasks, "submit_digests"), sizes, tasks, digested=message.digests)


def _final(message: Final) -> Shape:
    lists = _lengths(message, len(message.ids), "statuses", "errors", "retries", "durations_ms")
    return Shape(lists, columns=_ready(message.statuses))


def _ready(statuses: tuple[TaskStatus, ...]) -> int:
    return statuses.count(TaskStatus.READY) + statuses.count(TaskStatus.DONE)


_ENDED = frozenset((TaskStatus.READY, TaskStatus.DONE, TaskStatus.ERROR))


def _replicate(message: Replicate) -> Shape:
    tasks = len(message.ids)
    columns = {CopyKind.ACCEPT: tasks, CopyKind.FINAL: _ready(message.statuses)}.get(message.kind)
    lists = _lengths(
        message,
        tasks,
        *("nonces", "submit_digests", "seqs", "caching", "errors", "restarts", "crashes", "solo", "last_errors"),
    )
    lists |= _lengths(message, tasks if message.kind is CopyKind.FINAL else 0, "statuses", "durations_ms")
    contents, sizes = _digests(message.digests, columns or 0)
    sizes += [((message.digest,), DIGEST), (message.nonces, NONCE), (message.submit_digests, SUBMIT_DIGEST)]
    problem = ""
    if not message.rset or len(set(message.rset)) < len(message.rset):
        problem = f"{len(message.rset)} holders of copies, expected the owner and others, each once"
    elif not _ENDED.issuperset(message.statuses):
        problem = "a result of a task that has not ended"
    return Shape(lists | contents, sizes, columns, digested=message.digests, problem=problem)


def _grant(message: Grant) -> Shape:
    tasks, payloads = len(message.ids), len(message.payloads)
    lists, sizes = _named(message.payloads)
    others: dict[str, int] = {}
    problem = ""
    known = [payload.layout.rows for payload in message.payloads]
    for places in message.places:
        lists |= {
            f"payloads of {places.field}": (len(places.payloads), tasks),
            f"rows of {places.field}": (len(places.rows), tasks),
        }
        others[places.field] = places.payloads.count(payloads)
        layouts = [*known, others[places.field]]
        if any(
            source >= len(layouts) or row >= layouts[source]
            for source, row in zip(places.payloads, places.rows, strict=False)
        ):
            problem = f"a row of {places.field!r} that is nowhere"
    for name, values in message.digests.items():
        contents, digests = _digests({name: values}, others.get(name, tasks))
        lists |= contents
        sizes += digests
    sizes.append(((message.digest,), DIGEST))
    if len(others) < len(message.places):
        problem = "the places of a field twice"
    return Shape(lists, sizes, tasks, others=others, digested=message.digests, problem=problem)


def _named(payloads: Iterable[Payload]) -> tuple[Lists, Sizes]:
    """Blocks that do not come along."""
    lists: Lists = {}
    sizes: Sizes = []
    for payload in payloads:
        sizes += [(payload.digests, DIGEST), ((payload.checksum,), CHECKSUM)]
        if payload.digests:
            lists[f"digests of block {payload.counter}"] = len(payload.digests), payload.layout.rows
    return lists, sizes


def _commit(message: Commit) -> Shape:
    """Which rows there are, and that each has one result, is for the owner to see: it knows the batch."""
    lists: Lists = {}
    sizes: Sizes = [] if message.claim is None else [((message.claim.digest,), DIGEST)]
    columns: dict[str, int] = {}
    digested: list[str] = []
    for place, part in enumerate(message.parts):
        columns |= {f"{place}:{name}": len(part.rows) for name in part.fields}
        named = {f"{place}:{name}": values for name, values in part.digests.items()}
        part_lists, part_sizes = _digests(named, len(part.rows))
        lists |= part_lists
        sizes += part_sizes
        digested += named
        for name, payloads in part.stays.items():
            rows = sum([payload.layout.rows for payload in payloads])
            stay_lists, stay_sizes = _named(payloads)
            lists |= {f"rows of {place}:{name}": (rows, len(part.rows))} | stay_lists
            sizes += stay_sizes
    return Shape(lists, sizes, columns, digested=digested)


def _value(message: CacheTell | CachePut) -> Shape:
    hit = message.answer is CacheAnswer.HIT if isinstance(message, CacheTell) else not message.held
    lists, sizes = _digests(message.digests, 1)
    return Shape(lists, [*sizes, ((message.key,), CACHE_KEY_BYTES)], 1 if hit else None, digested=message.digests)


def _infos(*infos: NamespaceInfo) -> Shape:
    origins = [origin for info in infos for origin in info.cached]
    return Shape(sizes=[([info.digest for info in infos], DIGEST), (origins, ORIGIN_BYTES)])


def _keys(message: CacheAsk | CacheAbort | CacheRenew) -> Shape:
    names = ("keys", "may_wait") if isinstance(message, CacheAsk) else ("keys",)
    return Shape(_lengths(message, len(message.ids), *names), [(message.keys, CACHE_KEY_BYTES)])


def _blobs(*digests: bytes) -> Shape:
    return Shape(sizes=[(digests, DIGEST_BYTES)])


def _piece(message: BlobPiece | WriteBlob) -> Shape:
    """Of the whole, a new blob has no digest before it ends. There may be no bytes in the column."""
    sizes: Sizes = []
    if isinstance(message, WriteBlob):
        sizes.append(((message.writer,), WRITER))
    if message.digest or isinstance(message, BlobPiece):
        sizes.append(((message.digest,), DIGEST_BYTES))
    return Shape(sizes=sizes, columns={"data": 1})


def _greeting(message: Hello | Welcome) -> Shape:
    return Shape(sizes=[((message.nonce,), BOOT_NONCE), ((message.cluster,), CLUSTER)])


def _ask_members(message: AskMembers) -> Shape:
    return Shape(sizes=[((message.cluster,), CLUSTER)] if message.cluster else [])


def _heartbeat(message: Heartbeat) -> Shape:
    """Who has no definitions yet may say nothing of them."""
    pointers = (message.pointers,) if message.pointers else ()
    return Shape(_lengths(message, len(message.dead), "dead_incarnations"), [(pointers, POINTERS)])


_SHAPES: Mapping[type[Any], Callable[[Any], Shape]] = MappingProxyType(
    {
        Submit: _submit,
        Final: _final,
        GraphLoaded: lambda message: _infos(message.info),
        Namespaces: lambda message: _infos(*message.infos),
        ClearCache: lambda message: Shape(sizes=[(message.origins or (), ORIGIN_BYTES)]),
        Hello: _greeting,
        Welcome: _greeting,
        AskMembers: _ask_members,
        Heartbeat: _heartbeat,
        QueueStates: lambda message: _plan(*[state.digest for state in message.states]),
        Nudge: lambda message: _plan(message.digest),
        Pointers: lambda message: _plan(*[pointer.digest for pointer in message.pointers]),
        AskPlans: lambda message: _plan(*message.digests),
        PlanText: lambda message: _plan(message.digest),
        Manifest: lambda message: Shape(sizes=[(message.blobs.values(), DIGEST_BYTES)]),
        Replicate: _replicate,
        Claim: lambda message: _plan(message.digest),
        Grant: _grant,
        Commit: _commit,
        Fetched: lambda message: Shape(columns={"rows": message.rows}),
        Renew: lambda message: Shape(_lengths(message, len(message.orders), "executors")),
        CacheAsk: _keys,
        CacheTell: _value,
        CachePut: _value,
        CacheAbort: _keys,
        CacheRenew: _keys,
        CacheFetch: lambda message: Shape(sizes=[((message.key,), CACHE_KEY_BYTES)]),
        CacheLost: lambda message: Shape(
            _lengths(message, len(message.holders), "keys"), [(message.keys, CACHE_KEY_BYTES)]
        ),
        AskBlob: lambda message: _blobs(message.digest),
        BlobNamed: lambda message: _blobs(*filter(None, [message.digest])),
        NoBlob: lambda message: _blobs(message.digest),
        KeepBlobs: lambda message: _blobs(*[blob.digest for blob in message.blobs]),
        BlobsKept: lambda message: _blobs(*message.kept, *message.coming, *message.refused),
        BlobPiece: _piece,
        WriteBlob: _piece,
        BlobWritten: lambda message: Shape(sizes=[((message.writer,), WRITER)]),
        Moved: lambda message: Shape(_lengths(message, len(message.ids), "owners")),
    }
)
_NOTHING = Shape()


def check_rows(message: AnyMessage, rows: Mapping[str, int]) -> None:
    """What belongs together must have the same length, in the message and in the columns beside it (name -> rows).

    Raises WireError.
    """
    describe = _SHAPES.get(type(message))
    shape = _NOTHING if describe is None else describe(message)
    problem = shape.problem or _uneven(shape) or _misplaced(shape, rows)
    if problem:
        raise WireError(Reject.MISMATCH, f"{type(message).__name__}: {problem}")


def _uneven(shape: Shape) -> str:
    """What is wrong in the message itself."""
    for values, size in shape.sizes:
        if set(map(len, values)) - {size}:
            return f"a digest or nonce that is not {size} bytes long"
    for name, (length, expected) in shape.lists.items():
        if length != expected:
            return f"{length} {name}, expected {expected}"
    return ""


def _misplaced(shape: Shape, rows: Mapping[str, int]) -> str:
    """What is wrong with the columns beside it."""
    if shape.columns is None:
        if rows:
            return f"columns {sorted(rows)}, expected none"
    elif isinstance(shape.columns, int):
        for name, length in (dict.fromkeys(shape.others, 0) | dict(rows)).items():
            expected = shape.others.get(name, shape.columns)
            if length != expected:
                return f"{length} rows of {name!r}, expected {expected}"
    elif rows != shape.columns:
        return f"columns {dict(rows)}, expected {dict(shape.columns)}"
    lacking = [name for name in shape.digested if name not in rows]
    return f"digests of {lacking[0]!r}, which is not there" if lacking else ""
