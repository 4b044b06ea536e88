"""Sizes: what one message may carry, and what becomes of what is larger.

Rules     1. What one task has at one step goes in one message. A row that is larger could be made and never be sent on:
             it fails where it was made, for good, saying so.
          2. A batch is lent with as many tasks as one message may carry, one at least; what comes of it goes in as many
             messages as it needs, each said when the one before has been answered.
Why       A message that is longer than its receiver takes in is dropped there. Whoever waits for it would wait for
          ever, and the same message would be said again and again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..errors import ErrorCode
from ..settings import NetworkSettings
from .commits import Told
from .events import BatchFinished, Emitted, RowsFailed
from .messages import TaskReport
from .peermessages import FailedPart, Part
from .values import Block, Value

GRANT_TASKS_MAX = 4096
"""Of one batch on loan: ids and digests of so many fit into the body of a message."""
TEXT_CHARS_MAX = 128 << 10
"""Of tracebacks in one message: its body may have 1 MiB, and a character up to 4 bytes."""


DEFINITION_BYTES_MAX = 1_000_000
"""Of a graph definition, which is the body of a message."""
REPORTED_CHARS_MAX = 64 << 10
"""Of texts in an answer to a client; what is beyond is cut short."""
_CHARS_AT_LEAST = 64


def too_long(definition: str) -> str:
    """Why no message can carry a definition; "" if one can."""
    nbytes = len(definition.encode(errors="replace"))
    if nbytes <= DEFINITION_BYTES_MAX:
        return ""
    return (
        f"the definition has {nbytes} bytes, and may have {DEFINITION_BYTES_MAX} to be sent over a network: put data "
        "into blobs, or graphs into several namespaces"
    )


def listed(lines: tuple[str, ...]) -> tuple[str, ...]:
    """As many lines as one message may carry, and how many there are beyond."""
    left = REPORTED_CHARS_MAX
    for at, line in enumerate(lines):
        left -= len(line)
        if left < 0:
            return (*lines[:at], f"{line[:_CHARS_AT_LEAST]}... and {len(lines) - at - 1} more")
    return lines


def shortened(reports: Iterable[TaskReport]) -> tuple[TaskReport, ...]:
    """Reports that fit into one message: beyond a number of characters without stories and tracebacks."""
    left = REPORTED_CHARS_MAX
    made = []
    for report in reports:
        error = report.error
        left -= sum(map(len, report.story)) + (0 if error is None else len(error.message) + len(error.traceback))
        if left >= 0 or error is None:
            made.append(report if left >= 0 else replace(report, story=()))
        else:
            brief = replace(error, message=error.message[:_CHARS_AT_LEAST], traceback="")
            made.append(replace(report, error=brief, story=()))
    return tuple(made)


def row_too_large(blocks: Iterable[Block], rows: int, bytes_max: int | None) -> str:
    """Why not each row of these columns can be copied to other peers; "" if it can."""
    columns = list(blocks)
    if bytes_max is None or fits_whole(columns, bytes_max):
        return ""
    largest = max([sum([block.row_nbytes(row) for block in columns]) for row in range(rows)])
    return too_large("the input", largest, bytes_max, "send it in parts") if largest > bytes_max else ""


def batch_bytes(network: NetworkSettings, row_bytes_max: int | None) -> int:
    """Of the tensors of one message about a batch."""
    return network.batch_bytes if row_bytes_max is None else min(network.batch_bytes, row_bytes_max)


def row_sizes(columns: Mapping[str, tuple[Value, ...]], rows: int) -> list[int]:
    """The bytes of each row in all columns together."""
    sizes = [0] * rows
    for values in columns.values():
        for at, (block, row) in enumerate(values):
            sizes[at] += block.row_nbytes(row)
    return sizes


def fits_whole(blocks: Iterable[Block], bytes_max: int) -> bool:
    """Whether all rows of these blocks together are no more: then there is nothing to look at one by one."""
    return sum([block.nbytes for block in blocks]) <= bytes_max


def too_large(what: str, nbytes: int, bytes_max: int, todo: str = "return less for each task") -> str:
    """What is said of a row that is."""
    return (
        f"{what} has {nbytes} bytes for one task, and a message between peers may carry {bytes_max}: {todo}, or raise "
        "network.message_bytes at all peers"
    )


def fitting(event: BatchFinished, blocks: Iterable[Block], node: str, bytes_max: int | None) -> BatchFinished:
    """What came of a batch, without the rows that are too large: those have failed. None: nothing is."""
    if bytes_max is None or fits_whole(blocks, bytes_max):
        return event
    emitted: list[Emitted] = []
    failed = list(event.failed)
    for part in event.emitted:
        sizes = row_sizes(part.fields, len(part.rows))
        largest = max(sizes, default=0)
        if largest <= bytes_max:
            emitted.append(part)
            continue
        left = [at for at, size in enumerate(sizes) if size <= bytes_max]
        over = tuple([row for row, size in zip(part.rows, sizes, strict=True) if size > bytes_max])
        name, nbytes = _largest_field(part, sizes.index(largest))
        what = f"what node {node} returned ({nbytes} bytes of it in field {name!r})"
        message = too_large(what, largest, bytes_max)
        failed.append(RowsFailed(rows=over, code=ErrorCode.GENERAL_EXCEPTION, message=message, final=True))
        if left:
            fields = {name: tuple([values[at] for at in left]) for name, values in part.fields.items()}
            emitted.append(replace(part, rows=tuple([part.rows[at] for at in left]), fields=fields))
    return replace(event, emitted=tuple(emitted), failed=tuple(failed))


def _largest_field(part: Emitted, at: int) -> tuple[str, int]:
    sizes = {name: values[at][0].row_nbytes(values[at][1]) for name, values in part.fields.items()}
    name = max(sizes, key=lambda name: sizes[name])
    return name, sizes[name]


def is_short(told: Told, bytes_max: int) -> bool:
    """Whether a commit may go in one message."""
    blocks = dict.fromkeys([value[0] for values in told.values.values() for value in values])
    return fits_whole(blocks, bytes_max) and sum([_chars(failed) for failed in told.message.failed]) <= TEXT_CHARS_MAX


def pieces(told: Told, bytes_max: int) -> list[Told]:
    """A commit as messages of which each carries no more than so many bytes, or one row.

    Of what is cut nothing may stay with its maker: a block is named whole, by one part.
    """
    if is_short(told, bytes_max):
        return [told]
    message = told.message
    cut = [_piece(told, spans) for spans in _spans(told, bytes_max)]
    cut += [Told(replace(message, parts=(), failed=some), {}, []) for some in _failed(message.failed)]
    last = len(cut) - 1
    for at, piece in enumerate(cut):
        missing = message.missing if at == last else ()
        piece.message = replace(piece.message, missing=missing, piece=at, more=at < last)
    return cut


_Span = tuple[int, int, int]
"""(part, its first row, the row behind its last)"""


def _spans(told: Told, bytes_max: int) -> list[list[_Span]]:
    made: list[list[_Span]] = []
    current: list[_Span] = []
    taken = 0
    for place, part in enumerate(told.message.parts):
        assert not part.stays, "a commit is cut of which something stays here"
        start = 0
        columns = {name: told.values[f"{place}:{name}"] for name in part.fields}
        for at, size in enumerate(row_sizes(columns, len(part.rows))):
            if taken + size > bytes_max and (current or at > start):
                made.append([*current, (place, start, at)] if at > start else current)
                current, taken, start = [], 0, at
            taken += size
        current.append((place, start, len(part.rows)))
    return [*made, current] if current else made


def _piece(told: Told, spans: list[_Span]) -> Told:
    parts: list[Part] = []
    values: dict[str, tuple[Value, ...]] = {}
    for number, (place, start, stop) in enumerate(spans):
        part = told.message.parts[place]
        digests = {name: known[start:stop] for name, known in part.digests.items()}
        parts.append(replace(part, rows=part.rows[start:stop], digests=digests))
        values |= {f"{number}:{name}": told.values[f"{place}:{name}"][start:stop] for name in part.fields}
    return Told(replace(told.message, parts=tuple(parts), failed=()), values, [])


def _failed(failed: tuple[FailedPart, ...]) -> list[tuple[FailedPart, ...]]:
    made: list[list[FailedPart]] = []
    chars = TEXT_CHARS_MAX
    for one in failed:
        chars += _chars(one)
        if chars > TEXT_CHARS_MAX:
            made.append([])
            chars = _chars(one)
        made[-1].append(one)
    return [tuple(some) for some in made]


def _chars(failed: FailedPart) -> int:
    return len(failed.message) + len(failed.traceback)
