"""What must fit together in a message: lists by position, digests of one length, columns with a row per task.

One function per kind that has such lists says what it has (`Shape`); one function compares.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..core.messages import Final, Moved, Submit, TaskStatus
from ..core.peermessages import (
    AnyMessage,
    AskPlans,
    CacheAbort,
    CacheAnswer,
    CacheAsk,
    CachePut,
    CacheRenew,
    CacheTell,
    Commit,
    CopyKind,
    Grant,
    Heartbeat,
    Hello,
    PlanText,
    Pointers,
    QueueStates,
    Renew,
    Replicate,
    Welcome,
)
from .refusal import Reject, WireError

NONCE, SUBMIT_DIGEST, DIGEST, CLUSTER, BOOT_NONCE = 8, 16, 32, 8, 16
"""Lengths of the byte strings that identify something."""


@dataclass(frozen=True, slots=True)
class Shape:
    """count: tasks (or whatever the message is about). lists: name -> its length, which must be `count`.
    sizes: byte strings with the length each must have. rows: how many each column has; None: columns may not be there.
    named: column -> rows, for exactly these columns.
    """

    count: int = 0
    lists: Mapping[str, int] = field(default_factory=dict)
    sizes: Iterable[tuple[Iterable[bytes], int]] = ()
    rows: int | None = None
    named: Mapping[str, int] | None = None


def _lengths(message: Any, *names: str) -> dict[str, int]:
    return {name: len(getattr(message, name)) for name in names}


def _digests(digests: Mapping[str, tuple[bytes, ...]]) -> tuple[dict[str, int], list[tuple[Iterable[bytes], int]]]:
    """Lengths of content digests by field, and what their own length must be."""
    lists = {f"digests of {name}": len(values) for name, values in digests.items()}
    return lists, [(values, DIGEST) for values in digests.values()]


def _submit(message: Submit) -> Shape:
    lists, sizes = _digests(message.digests)
    sizes += [((message.digest,), DIGEST), ((message.nonce,), NONCE), (message.submit_digests, SUBMIT_DIGEST)]
    count = len(message.ids)
    return Shape(count, lists | _lengths(message, "submit_digests"), sizes, count)


def _final(message: Final) -> Shape:
    lists = _lengths(message, "statuses", "errors", "retries", "durations_ms")
    return Shape(len(message.ids), lists, (), _ready(message.statuses))


def _ready(statuses: tuple[TaskStatus, ...]) -> int:
    return statuses.count(TaskStatus.READY) + statuses.count(TaskStatus.DONE)


def _replicate(message: Replicate) -> Shape:
    count = len(message.ids)
    lists = _lengths(
        message,
        *("nonces", "submit_digests", "seqs", "caching", "errors", "restarts", "crashes", "solo", "last_errors"),
    )
    if message.kind is CopyKind.FINAL:
        lists |= _lengths(message, "statuses", "durations_ms")
    beside = {CopyKind.ACCEPT: count, CopyKind.FINAL: _ready(message.statuses)}.get(message.kind)
    digests, sizes = _digests(message.digests)
    if any(length != beside for length in digests.values()):
        raise WireError(Reject.MISMATCH, f"content digests for {beside} rows")
    sizes += [
        ((message.digest,), DIGEST),
        (message.nonces, NONCE),
        (message.submit_digests, SUBMIT_DIGEST),
    ]
    return Shape(count, lists, sizes, beside)


def _grant(message: Grant) -> Shape:
    lists, sizes = _digests(message.digests)
    return Shape(len(message.ids), lists, [*sizes, ((message.digest,), DIGEST)], len(message.ids))


def _commit(message: Commit) -> Shape:
    named: dict[str, int] = {}
    sizes: list[tuple[Iterable[bytes], int]] = []
    for place, part in enumerate(message.parts):
        named |= {f"{place}:{name}": len(part.rows) for name in part.fields}
        lists, lengths = _digests(part.digests)
        sizes += lengths
        if any(length != len(part.rows) for length in lists.values()):
            raise WireError(Reject.MISMATCH, f"content digests for {len(part.rows)} rows")
    return Shape(sizes=sizes, named=named)


def _value(message: CacheTell | CachePut) -> Shape:
    hit = not isinstance(message, CacheTell) or message.answer is CacheAnswer.HIT
    lists, sizes = _digests(message.digests)
    return Shape(1, lists, [*sizes, ((message.key,), DIGEST)], 1 if hit else None)


def _keys(message: CacheAsk | CacheAbort | CacheRenew) -> Shape:
    lists = _lengths(message, "keys")
    if isinstance(message, CacheAsk):
        lists |= _lengths(message, "may_wait")
    return Shape(len(message.ids), lists, [(message.keys, DIGEST)])


def _greeting(message: Hello | Welcome) -> Shape:
    return Shape(sizes=[((message.nonce,), BOOT_NONCE), ((message.cluster,), CLUSTER)])


def _heartbeat(message: Heartbeat) -> Shape:
    return Shape(len(message.dead), _lengths(message, "dead_incarnations"))


def _renew(message: Renew) -> Shape:
    return Shape(len(message.orders), _lengths(message, "executors"))


_SHAPES: Mapping[type[Any], Callable[[Any], Shape]] = MappingProxyType(
    {
        Submit: _submit,
        Final: _final,
        Replicate: _replicate,
        Grant: _grant,
        Commit: _commit,
        CacheTell: _value,
        CachePut: _value,
        CacheAsk: _keys,
        CacheAbort: _keys,
        CacheRenew: _keys,
        Hello: _greeting,
        Welcome: _greeting,
        Heartbeat: _heartbeat,
        Renew: _renew,
        Moved: lambda message: Shape(len(message.ids), _lengths(message, "owners")),
        AskPlans: lambda message: Shape(sizes=[(message.digests, DIGEST)]),
        PlanText: lambda message: Shape(sizes=[((message.digest,), DIGEST)]),
        Pointers: lambda message: Shape(sizes=[([pointer.digest for pointer in message.pointers], DIGEST)]),
        QueueStates: lambda message: Shape(sizes=[([state.digest for state in message.states], DIGEST)]),
    }
)


def check_rows(message: AnyMessage, rows: Mapping[str, int]) -> None:
    """What is by position must have the same length, in the message and in the columns beside it (field -> rows).

    Raises WireError.
    """
    describe = _SHAPES.get(type(message))
    shape = Shape() if describe is None else describe(message)
    for values, size in shape.sizes:
        if set(map(len, values)) - {size}:
            raise WireError(Reject.MISMATCH, f"a digest or nonce that is not {size} bytes long")
    for name, length in shape.lists.items():
        if length != shape.count:
            raise WireError(Reject.MISMATCH, f"{length} {name} for {shape.count} tasks")
    if shape.named is not None:
        if rows != shape.named:
            raise WireError(Reject.MISMATCH, f"columns {dict(rows)}, expected {dict(shape.named)}")
    elif rows and shape.rows is None:
        raise WireError(Reject.MISMATCH, f"{type(message).__name__} has no tensors beside it")
    else:
        for name, length in rows.items():
            if length != shape.rows:
                raise WireError(Reject.MISMATCH, f"{length} rows of {name!r}, expected {shape.rows}")
