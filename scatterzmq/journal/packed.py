"""Entries as bytes: the body of a row, and the fields of a task.

Rules     1. Bodies are packed as records are on the wire (wire/schema.py): they may gain fields without a new format.
          2. Small tensors lie with their heads in the task's row; large ones are apart, in parts.
Why       Small ones cost a row and an index each if they are apart: half as many tasks per second (1 kB). Large ones
          would be written again with every change of the task, and parts bound what a read or a write holds twice.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..core.entries import DefinitionText, Deleted, Entry, Identity, Kept, Kind, Neighbour, Pointed
from ..core.values import Value
from ..graph.formats import DTYPE_BY_CODE, Layout, Shape
from ..wire.columns import Column
from ..wire.frames import packed, unpacked
from ..wire.refusal import Limits, Reject, WireError
from ..wire.schema import Codec, record

INLINE_BYTES_MAX = 4096
"""Of a tensor that lies in its task's row."""
PART_BYTES = 16 << 20
"""SQLite takes a gigabyte at most."""
_LIMITS = Limits()


class DamagedError(ValueError):
    """What is in a row was not written by us, or is not all there any more."""


_CODECS: Mapping[Kind, Codec] = MappingProxyType(
    {
        Kind.TASK: record(
            Kept, {"values": Codec(lambda _: None, lambda _, __: None)}
        ),  # they have a place of their own
        Kind.TOMBSTONE: record(Deleted),
        Kind.DEFINITION: record(DefinitionText),
        Kind.POINTER: record(Pointed),
        Kind.IDENTITY: record(Identity),
        Kind.NEIGHBOUR: record(Neighbour),
    }
)


def pack_body(kind: Kind, entry: Entry) -> bytes:
    """All of an entry but the values of a task."""
    return packed(_CODECS[kind].pack(entry))


def unpack_body(kind: int, body: object) -> Entry:
    """The entry; a task without values. Raises DamagedError."""
    try:
        entry: Entry = _CODECS[Kind(kind)].unpack(_unpacked(body), _LIMITS)
    except WireError as error:
        raise DamagedError(error.detail) from None
    except ValueError as error:
        raise DamagedError(str(error)) from None
    return entry


# ---- the fields of a task


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One field of a task. data: its bytes, None if they are apart. digest: of its content, b"" for none."""

    name: str
    layout: Layout
    digest: bytes
    data: bytes | None


def pack_fields(values: Mapping[str, Value], columns: Mapping[str, Column]) -> tuple[bytes, list[tuple[int, Column]]]:
    """What goes into the task's row, and what lies apart: (position of the field, its column)."""
    heads = []
    apart = []
    for place, (name, (block, row)) in enumerate(values.items()):
        column = columns[name]
        layout = column.layout
        assert layout.rows == 1, f"{layout.rows} rows of {name!r} beside one task"
        is_small = len(column.data) <= INLINE_BYTES_MAX
        if not is_small:
            apart.append((place, column))
        digest = block.digests[row] if block.digests else b""
        heads.append((name, layout.dtype.code, layout.row_shape(0), digest, column.data if is_small else None))
    return packed(heads), apart


def unpack_fields(packed: object) -> Iterator[Head]:
    """The fields in their order. Raises DamagedError."""
    for raw in _unpacked(packed):
        match raw:
            case (str() as name, int() as code, tuple() as sizes, bytes() as digest, bytes() | None as data, *_):
                layout = _layout(code, sizes)
            case _:
                raise DamagedError("a field of a task that is none")
        if data is not None and len(data) != layout.nbytes:
            raise DamagedError(f"{len(data)} bytes of {name!r}, its shape needs {layout.nbytes}")
        yield Head(name, layout, digest, data)


def _layout(code: int, sizes: tuple[object, ...]) -> Layout:
    shape: Shape = tuple([size for size in sizes if type(size) is int and size >= 0])
    if code not in DTYPE_BY_CODE or len(shape) != len(sizes):
        raise DamagedError("a field of a task without dtype or shape")
    return Layout(DTYPE_BY_CODE[code], 1, shape)


def cut(data: memoryview) -> Iterator[memoryview]:
    """The parts of a large tensor."""
    for start in range(0, len(data), PART_BYTES):
        yield data[start : start + PART_BYTES]


def joined(head: Head, parts: Iterable[object]) -> memoryview:
    """The bytes of a field that lay apart; one part is in memory twice at a time. Raises DamagedError."""
    nbytes = head.layout.nbytes
    made: bytes | bytearray = b"" if nbytes <= PART_BYTES else bytearray(nbytes)
    end = 0
    for part in parts:
        if type(part) is not bytes or end + len(part) > nbytes:
            raise DamagedError(f"a part of {head.name!r} that is none")
        if isinstance(made, bytearray):
            made[end : end + len(part)] = part
        else:
            made = part  # the only one: no copy
        end += len(part)
    if end != nbytes or len(made) != nbytes:
        raise DamagedError(f"{end} bytes of {head.name!r}, its shape needs {nbytes}")
    return memoryview(made)


# ---- msgpack


def _unpacked(raw: object) -> tuple[object, ...]:
    if type(raw) is not bytes:
        raise DamagedError(f"expected bytes, got {type(raw).__name__}")
    try:
        return unpacked(raw, _LIMITS, Reject.BODY)
    except WireError as error:
        raise DamagedError(error.detail) from None
