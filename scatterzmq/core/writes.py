"""Writes: what an owner tells the holders of its copies, in how large pieces, and what they would know by it."""

from collections.abc import Iterator, Sequence

from .copies import Copy
from .ledger import Phase, Record
from .messages import TaskStatus
from .peermessages import CopyKind, Replicate
from .values import Value, known_digests
from .versions import Version

WRITE_TASKS_MAX = 256
WRITE_NBYTES_MAX = 4 << 20
"""Of one message: large enough to amortise it, small enough not to hold up what comes behind it."""


def chunks(records: Sequence[Record]) -> Sequence[Sequence[Record]]:
    """Pieces that make one message each."""
    return (records,) if len(records) == 1 else tuple(_chunks(records))


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    start = nbytes = 0
    for place, record in enumerate(records):
        nbytes += _message_nbytes(record)
        if place > start and (place - start >= WRITE_TASKS_MAX or nbytes > WRITE_NBYTES_MAX):
            yield records[start:place]
            start, nbytes = place, _message_nbytes(record)
    yield records[start:]


def _message_nbytes(record: Record) -> int:
    """What a record adds to a message, roughly. Texts of errors count more: the part that holds them is bounded closer
    than the tensors beside it.
    """
    error = record.error
    texts = 0 if error is None else len(error.message) + len(error.traceback)
    return record.kept_nbytes + _TEXT_WEIGHT * texts


_TEXT_WEIGHT = 16
"""A body may have 1 MiB, and a character up to 4 bytes: so texts alone end a message at 256 Ki characters."""


def replicate(
    mid: int, kind: CopyKind, records: Sequence[Record], now_ms: int
) -> tuple[Replicate, dict[str, tuple[Value, ...]]]:
    """The message about records of one definition, set and epoch, and the rows beside it."""
    first = records[0]
    if kind is CopyKind.ACCEPT:
        rows = [{name[1:]: value for name, value in record.input.items()} for record in records]
    elif kind is CopyKind.FINAL:
        rows = [record.result for record in records if record.result is not None]
    else:
        rows = []
    names = rows[0].keys() if rows else ()
    values = {name: tuple([row[name] for row in rows]) for name in names}
    ended = kind is CopyKind.FINAL
    message = Replicate(
        mid=mid,
        kind=kind,
        ns=first.plan.ns,
        digest=first.plan.digest,
        n=first.epoch_n,
        rset=first.rset,
        ids=tuple([record.id for record in records]),
        nonces=tuple([record.nonce for record in records]),
        submit_digests=tuple([record.submit_digest for record in records]),
        seqs=tuple([record.change for record in records]),
        caching=tuple([record.caching for record in records]),
        errors=tuple([record.errors for record in records]),
        restarts=tuple([record.restarts for record in records]),
        crashes=tuple([record.crashes for record in records]),
        solo=tuple([record.solo for record in records]),
        last_errors=tuple([record.error for record in records]),
        statuses=tuple([ENDS[record.phase] for record in records]) if ended else (),
        durations_ms=tuple([record.duration_ms(now_ms) for record in records]) if ended else (),
        digests=known_digests(values) if first.plan.digests else {},
    )
    return message, values


def copy_of(record: Record, version: Version, now_ms: int) -> Copy:
    """What a holder would know of a record, with its values. version: which account of it that is."""
    is_over = record.phase.ended
    values = record.result or {} if is_over else {name[1:]: value for name, value in record.input.items()}
    return Copy(
        id=record.id,
        ns=record.plan.ns,
        digest=record.plan.digest,
        nonce=record.nonce,
        submit_digest=record.submit_digest,
        version=version,
        rset=record.rset,
        caching=record.caching,
        errors=record.errors,
        restarts=record.restarts,
        crashes=record.crashes,
        solo=record.solo,
        last_error=record.error,
        since_ms=record.accepted_ms,
        values=dict(values),
        status=ENDS[record.phase] if is_over else None,
        duration_ms=record.duration_ms(now_ms) if is_over else 0,
    )


ENDS = {Phase.READY: TaskStatus.READY, Phase.ERROR: TaskStatus.ERROR, Phase.CANCELLED: TaskStatus.ERROR}
