"""What a peer's control process and its executor children say to each other.

    msgpack [kind, fields by position, heads of columns, their bytes]

A column's bytes are themselves, or nil for shared memory of its own, in order; or their number where they come next in
the scratch, whose handle comes last.

Rules   1. Two channels. On `work` everything about batches, in order; on `aside` what must not wait for a batch. As a
           child has one batch at a time, each side has read the scratch of the other one when that is used again.
        2. Whatever bytes come, `opened` returns a word or raises ValueError or OSError: a child may be out of its mind.
        3. Both ends are the same code, so nothing here has a version.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from ..core.events import RowsFailed
from ..frozen import frozen
from ..graph.formats import Layout
from ..graph.nodeinfo import Described
from ..ids import GraphId, PeerId, QueueId, TaskId, Token
from ..settings import BlobSettings, ExecutorSettings, PluginSettings
from ..wire.columns import Apart, Column
from ..wire.frames import check_numbers, head_of, packed, read_head, read_layout_of, unpacked
from ..wire.refusal import Limits, Reject
from ..wire.schema import Codec, record
from .sharedmemory import (
    HANDLES_MAX,
    SCRATCH_NBYTES_MAX,
    BadPacket,
    Packet,
    Scratch,
    scratch_bytes,
    share,
    shared_bytes,
)

IN_LINE_NBYTES_MAX = 1 << 16
"""Of all columns of a message together: up to here copying takes less time than sharing."""
_SHARED_NBYTES_MIN = 1 << 12
_APART_NBYTES_MIN = 1 << 18
"""Of a row on average, to be worth memory of its own."""

NO_COLUMNS: tuple[tuple[str, Column], ...] = ()
_LIMITS = Limits(items=1 << 26, rows=1 << 24, rank=64, name_chars=1 << 16)


# ---- to a child


@frozen()
class Begin:
    """The first word on `work`. path: sys.path. threads: of torch; None for as many as it likes."""

    executor: ExecutorSettings
    plugins: PluginSettings
    blobs: BlobSettings
    path: tuple[str, ...]
    threads: int | None


@frozen()
class UsePlan:
    """Batches of this definition will come."""

    digest: bytes
    definition: str


@frozen()
class DropPlan:
    """No more of them."""

    digest: bytes


class Run(NamedTuple):
    """As execute/work.py Work and its order. Its columns come beside it."""

    order: int
    digest: bytes
    queue: QueueId
    tasks: tuple[TaskId, ...]
    token: Token
    solo: bool
    max_exec_ms: int
    rows: tuple[int, ...]
    joined: tuple[tuple[int, Token], ...] = ()


@frozen()
class CancelRows:
    """On `aside`. Nobody wants these positions of a batch any more."""

    order: int
    rows: tuple[int, ...]


@frozen()
class Describe:
    """On `aside`. Say what the nodes of a definition are."""

    request: int
    definition: str


@frozen()
class BlobFetched:
    """On `aside`. Answer to FetchBlob. problem: why it is not there; else "". place: path below the folder of blobs."""

    request: int
    problem: str
    place: str = ""


# ---- from a child


@frozen()
class Ready:
    """torch is there, and so is the device."""


@frozen()
class Unfit:
    """It cannot be an executor, and ends. for_good: no other one could, with these settings on this machine."""

    reason: str
    for_good: bool


@frozen()
class Guess:
    weight: float
    nbytes: int


@frozen()
class Expected:
    """As core/events.py BatchExpected."""

    order: int
    outputs: Mapping[str, Guess]


class Part(NamedTuple):
    """As execute/work.py EmittedColumns. Its columns are called "0:field" for the first part, and so on."""

    output: str
    rows: tuple[int, ...]
    digests: Mapping[str, tuple[bytes, ...]]
    call: GraphId | None


@frozen()
class LoadedNode:
    digest: bytes
    queue: QueueId


class Finished(NamedTuple):
    """As execute/work.py Done."""

    order: int
    parts: tuple[Part, ...]
    failed: tuple[RowsFailed, ...]
    loaded: tuple[LoadedNode, ...] | None


@frozen()
class Told:
    """Something worth telling listeners, as core/actions.py Report; texts and figures of its context apart."""

    name: str
    texts: Mapping[str, str]
    figures: Mapping[str, float]


@frozen()
class Manifest:
    """On `aside`. All nodes of a definition that anybody asks for. problem: why there is no answer; else ""."""

    request: int
    nodes: tuple[Described, ...]
    problem: str = ""


@frozen()
class FetchBlob:
    """On `aside`. A node needs a blob. digest: of its bytes; b"" if that is not settled."""

    request: int
    name: str
    digest: bytes


ToChild: TypeAlias = Begin | UsePlan | DropPlan | Run | CancelRows | Describe | BlobFetched
FromChild: TypeAlias = Ready | Unfit | Expected | Finished | Told | Manifest | FetchBlob
Word: TypeAlias = ToChild | FromChild

_KINDS: tuple[type[Word], ...] = (
    *(Begin, UsePlan, DropPlan, Run, CancelRows, Describe),
    *(Ready, Unfit, Expected, Finished, Manifest),
    *(BlobFetched, FetchBlob, Told),
)
_NUMBERS: Mapping[type[Word], int] = MappingProxyType({kind: number for number, kind in enumerate(_KINDS)})


# ---- the two words of every batch, by hand, in a fifth of the time


def _pack_run(run: Run) -> object:
    return (*run[:2], run.queue, "".join(run.tasks), *run[4:])


def _unpack_run(raw: Any, _: Limits) -> Run:
    """What we say ourselves is not checked."""
    order, digest, queue, tasks, (n, owner, seq), solo, max_exec_ms, rows, joined = raw
    return Run(
        order,
        digest,
        QueueId(queue),
        tuple([TaskId(tasks[start : start + _ID_CHARS]) for start in range(0, len(tasks), _ID_CHARS)]),
        Token(n, PeerId(owner), seq),
        solo,
        max_exec_ms,
        rows,
        tuple([(start, Token(n, PeerId(owner), seq)) for start, (n, owner, seq) in joined]),
    )


_ID_CHARS = 33
_FAILED = record(RowsFailed)
_LOADED = record(LoadedNode)


def _pack_finished(word: Finished) -> object:
    parts = [(part.output, part.rows, [*part.digests.items()], part.call) for part in word.parts]
    loaded = None if word.loaded is None else [_LOADED.pack(node) for node in word.loaded]
    return word.order, parts, [_FAILED.pack(failed) for failed in word.failed], loaded


def _unpack_finished(raw: object, limits: Limits) -> Finished:
    match raw:
        case (int() as order, tuple() as parts, tuple() as failed, (tuple() | None) as loaded):
            return Finished(
                order,
                tuple([_unpack_part(part) for part in parts]),
                tuple([_FAILED.unpack(entry, limits) for entry in failed]),
                None if loaded is None else tuple([_LOADED.unpack(entry, limits) for entry in loaded]),
            )
    raise BadPacket("expected [order, parts, failed, loaded]")


def _unpack_part(raw: object) -> Part:
    match raw:
        case (str() as output, tuple() as rows, tuple() as pairs, (str() | None) as call):
            if set(map(type, rows)) - {int}:
                raise BadPacket("rows that are no numbers")
            digests = dict([_unpack_digests(pair) for pair in pairs])
            return Part(output, rows, digests, None if call is None else GraphId.parse(call))
    raise BadPacket("expected [output, rows, digests, call]")


def _unpack_digests(raw: object) -> tuple[str, tuple[bytes, ...]]:
    match raw:
        case (str() as name, tuple() as digests) if not set(map(type, digests)) - {bytes}:
            return name, digests
    raise BadPacket("expected [field, digests]")


_BY_HAND: Mapping[type[Word], Codec] = MappingProxyType(
    {Run: Codec(_pack_run, _unpack_run), Finished: Codec(_pack_finished, _unpack_finished)}
)
_CODECS = tuple([_BY_HAND.get(kind) or record(kind) for kind in _KINDS])


# ---- packets


def wrapped(
    word: Word, columns: Sequence[tuple[str, Column | Apart]] = NO_COLUMNS, scratch: Scratch | None = None
) -> Packet:
    """A word as a packet. scratch: for its columns, unless there is none. Raises OSError if there is no memory."""
    number = _NUMBERS[type(word)]
    heads = [head_of(name, column.layout, index) for index, (name, column) in enumerate(columns)]
    sizes = [sum(map(len, _pieces(column))) for _, column in columns]
    nbytes = sum(sizes)
    beside: list[memoryview | int | None]
    with ExitStack() as undo:
        packet = Packet(b"")
        undo.callback(packet.close)
        if scratch is not None and columns:
            scratch.use(nbytes if nbytes > IN_LINE_NBYTES_MAX else 0)
        if IN_LINE_NBYTES_MAX < nbytes <= SCRATCH_NBYTES_MAX and scratch is not None:
            packet.handles.append(scratch.put(chain.from_iterable([_pieces(column) for _, column in columns])))
            beside = [*sizes]
        else:
            beside = [_in_one_piece(column).data for _, column in columns]
            if nbytes > IN_LINE_NBYTES_MAX:
                _share(beside, packet.handles)
        packet.body = packed((number, _CODECS[number].pack(word), heads, beside))
        undo.pop_all()
    return packet


def _share(beside: list[memoryview | int | None], handles: list[int]) -> None:
    """Put the large ones of these into shared memory."""
    for index, data in enumerate(beside):
        if isinstance(data, memoryview) and len(data) >= _SHARED_NBYTES_MIN and len(handles) < HANDLES_MAX:
            handles.append(share(data))
            beside[index] = None


def _pieces(column: Column | Apart) -> Sequence[memoryview]:
    return column.datas if isinstance(column, Apart) else (column.data,)


def _in_one_piece(column: Column | Apart) -> Column:
    return column.joined() if isinstance(column, Apart) else column


def opened(packet: Packet) -> tuple[Word, list[tuple[str, Column]]]:
    """The word of a packet, and its columns. Raises ValueError, or OSError; the packet is closed in any case."""
    word, columns = _opened(packet, _scratch_column)
    return word, [(name, _in_one_piece(column)) for name, column in columns]


def opened_apart(packet: Packet) -> tuple[Word, list[tuple[str, Column | Apart]]]:
    """The same, but large rows have memory of their own each: one can be let go of without the others."""
    return _opened(packet, _scratch_rows)


def _opened(packet: Packet, read: "_Read") -> tuple[Word, list[tuple[str, Column | Apart]]]:
    try:
        values = unpacked(packet.body, _LIMITS, Reject.BODY)
        match values:
            case (int() as number, fields, tuple() as heads, tuple() as beside) if len(heads) == len(beside):
                pass
            case _:
                raise BadPacket("expected [kind, fields, heads, bytes]")
        if not 0 <= number < len(_KINDS):
            raise BadPacket(f"unknown word {number}")
        word: Word = _CODECS[number].unpack(fields, _LIMITS)
        return word, _columns(heads, beside, packet.handles, read)
    finally:
        packet.close()


def _columns(
    heads: Sequence[object], beside: Sequence[object], handles: Sequence[int], read: "_Read"
) -> list[tuple[str, Column | Apart]]:
    shared = iter(handles)
    columns: list[tuple[str, Column | Apart]] = []
    offset = 0
    for index, (head, raw) in enumerate(zip(heads, beside, strict=True)):
        match raw:
            case int() as nbytes if raw is not True and raw is not False:
                name, layout = read_layout_of(head, index, nbytes, _LIMITS)
                column = read(layout, _there(handles[-1:]), offset)
                for data in _pieces(column):
                    check_numbers(name, layout, data)
                columns.append((name, column))
                offset += nbytes
            case bytes() | None:
                data = shared_bytes(_there(shared)) if raw is None else memoryview(bytearray(raw))
                name, layout = read_head(head, index, data, _LIMITS)
                columns.append((name, Column(layout, data)))
            case _:
                raise BadPacket(f"a column of {type(raw).__name__}")
    return columns


_Read: TypeAlias = Callable[[Layout, int, int], Column | Apart]
"""(layout, handle of a scratch, where in it) -> what is there"""


def _scratch_column(layout: Layout, handle: int, offset: int) -> Column:
    return Column(layout, scratch_bytes(handle, offset, layout.nbytes))


def _scratch_rows(layout: Layout, handle: int, offset: int) -> Column | Apart:
    if layout.rows < 2 or layout.nbytes < layout.rows * _APART_NBYTES_MIN:
        return _scratch_column(layout, handle, offset)
    datas = []
    for row in range(layout.rows):
        datas.append(scratch_bytes(handle, offset, layout.row_nbytes(row)))
        offset += len(datas[-1])
    return Apart(layout, datas)


def _there(handles: Iterable[int]) -> int:
    handle = next(iter(handles), None)
    if handle is None:
        raise BadPacket("a column that is not there")
    return handle
