"""Messages to frames and back.

    [0] envelope   msgpack list: magic, version, kind, number of frames, from whom, to whom, sequence
    [1] body       msgpack list: the message's fields by position (wire/schema.py), the heads of the columns
    [2...]         the bytes of each column, little-endian, contiguous

A column's head is [name, dtype code, rows, frame index, shape, ...], its layout (wire/layouts.py) with the index of its
frame in between.

Rules   1. Every check comes before the memory it protects: counts and sizes of frames first, then the envelope, the
           body, the heads, and the bytes last.
        2. Whatever bytes come, `decode` returns a message or raises WireError.
        3. Columns are views of their frames: whoever keeps a column keeps its frame.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import msgpack

from ..core.peermessages import AnyMessage
from ..frozen import frozen
from ..graph.formats import Layout
from ..ids import ClientId, PeerId
from .columns import Apart, Column
from .layouts import pack_layout, read_layout
from .refusal import Limits, Reject, WireError
from .rows import check_rows
from .schema import INT_MAX, check_depth, knows, pack, unpack
from .tensors import only_bools

Frame: TypeAlias = bytes | bytearray | memoryview
Scattered: TypeAlias = bytes | memoryview | tuple[memoryview, ...]
"""A frame to be sent, in one piece or in several."""

MAGIC = b"szmq"
MAJOR = 1
"""Changes when an older peer could not read the rest; others are refused."""
MINOR = 0
"""Grows with every field or kind that is added."""
ENVELOPE_BYTES = 256
_NO_COLUMNS: Mapping[str, Column | Apart] = MappingProxyType({})


@frozen()
class Envelope:
    """From whom to whom. An incarnation tells apart the lives of a peer; `seq` counts the messages of a link.

    kind, frames: set by `encode`.
    """

    src: PeerId | ClientId | None = None
    src_incarnation: int = 0
    dst: PeerId | ClientId | None = None
    dst_incarnation: int = 0
    seq: int = 0
    kind: int = 0
    frames: int = 0


_NOBODY = Envelope()


def encode(
    message: AnyMessage, columns: Mapping[str, Column | Apart] = _NO_COLUMNS, envelope: Envelope = _NOBODY
) -> list[bytes | memoryview]:
    """The frames of a message. Columns are not copied but where they lie apart: they must not change until the frames
    are sent.
    """
    return [
        *_heads(message, columns, envelope),
        *[column.joined().data if isinstance(column, Apart) else column.data for column in columns.values()],
    ]


def encode_apart(message: AnyMessage, columns: Mapping[str, Column | Apart], envelope: Envelope) -> list[Scattered]:
    """The same, but what lies apart stays so."""
    return [
        *_heads(message, columns, envelope),
        *[tuple(column.datas) if isinstance(column, Apart) else column.data for column in columns.values()],
    ]


def _heads(message: AnyMessage, columns: Mapping[str, Column | Apart], envelope: Envelope) -> tuple[bytes, bytes]:
    """The first two frames."""
    kind, values = pack(message)
    heads = [head_of(name, column.layout, index) for index, (name, column) in enumerate(columns.items())]
    address = (
        _pack_address(envelope.src),
        envelope.src_incarnation,
        _pack_address(envelope.dst),
        envelope.dst_incarnation,
        envelope.seq,
    )
    first = packed((MAGIC, MAJOR, MINOR, kind, 2 + len(heads), *address))
    return first, packed((values, heads))


def decode(frames: Sequence[Frame], limits: Limits) -> tuple[AnyMessage, dict[str, Column]]:
    """The message of these frames and the columns beside it. Raises WireError, and nothing else."""
    return decode_opened(open_envelope(frames, limits), frames, limits)


def decode_opened(envelope: Envelope, frames: Sequence[Frame], limits: Limits) -> tuple[AnyMessage, dict[str, Column]]:
    """The same for frames whose envelope has been opened."""
    body = unpacked(frames[1], limits, Reject.BODY)
    if len(body) < 2 or type(body[1]) is not tuple:
        raise WireError(Reject.BODY, "expected [fields, heads of columns]")
    check_depth(body[2:], limits)
    message = unpack(envelope.kind, body[0], limits)
    heads = body[1]
    if len(heads) != len(frames) - 2:
        raise WireError(Reject.FRAME_COUNT, f"{len(heads)} columns in {len(frames) - 2} frames")
    columns: dict[str, Column] = {}
    for index, head in enumerate(heads):
        name, layout = read_head(head, index, frames[2 + index], limits)
        if name in columns:
            raise WireError(Reject.NAME, "two columns of the same name")
        columns[name] = Column(layout, memoryview(frames[2 + index]).cast("B"))
    check_rows(message, {name: column.layout.rows for name, column in columns.items()})
    return message, columns


def open_envelope(frames: Sequence[Frame], limits: Limits) -> Envelope:
    """Check sizes and the first frame only: enough to see whom a message is for. Raises WireError."""
    if not 2 <= len(frames) <= limits.frames:
        raise WireError(Reject.FRAME_COUNT, f"{len(frames)} frames, allowed are 2 to {limits.frames}")
    sizes = [_nbytes(frame) for frame in frames]
    if sum(sizes) > limits.total_bytes:
        raise WireError(Reject.TOTAL_BYTES, f"{sum(sizes)} bytes, allowed are {limits.total_bytes}")
    if sizes[0] > ENVELOPE_BYTES:
        raise WireError(Reject.ENVELOPE, f"{sizes[0]} bytes, allowed are {ENVELOPE_BYTES}")
    if sizes[1] > limits.body_bytes:
        raise WireError(Reject.BODY_BYTES, f"{sizes[1]} bytes, allowed are {limits.body_bytes}")
    parts = unpacked(frames[0], limits, Reject.ENVELOPE)
    if not parts or parts[0] != MAGIC:
        raise WireError(Reject.MAGIC, "this is no message of scatterzmq")
    if len(parts) < 2 or type(parts[1]) is not int or parts[1] != MAJOR:
        raise WireError(Reject.VERSION, f"expected wire version {MAJOR}")
    if len(parts) < 10:
        raise WireError(Reject.ENVELOPE, f"{len(parts)} fields, expected 10")
    numbers = [_size(parts[place]) for place in (2, 3, 4, 6, 8, 9)]
    _, kind, count, src_incarnation, dst_incarnation, seq = numbers
    if not knows(kind):
        raise WireError(Reject.KIND, f"unknown kind {kind}")
    if count != len(frames):
        raise WireError(Reject.FRAME_COUNT, f"{len(frames)} frames, announced were {count}")
    check_depth(parts[10:], limits)
    return Envelope(
        src=_unpack_address(parts[5]),
        src_incarnation=src_incarnation,
        dst=_unpack_address(parts[7]),
        dst_incarnation=dst_incarnation,
        seq=seq,
        kind=kind,
        frames=count,
    )


# ---- msgpack


def packed(values: object) -> bytes:
    """As msgpack."""
    # Texts may come from exceptions of users and hold halves of characters: better a "?" than a lost message.
    raw: bytes = msgpack.packb(values, unicode_errors="replace")
    return raw


def unpacked(frame: Frame, limits: Limits, reason: Reject) -> tuple[object, ...]:
    """The list that these bytes are. Raises WireError with that reason if they are none."""
    try:
        values = msgpack.unpackb(
            frame, use_list=False, max_array_len=limits.items, max_map_len=0, max_ext_len=0, strict_map_key=True
        )
    except msgpack.StackError:
        raise WireError(Reject.DEPTH, "lists in lists, too deep to read") from None
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(reason, str(error) or type(error).__name__) from None
    if type(values) is not tuple:
        raise WireError(reason, f"expected a list, got {type(values).__name__}")
    return values


def _nbytes(frame: Frame) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def _size(raw: object) -> int:
    if type(raw) is not int or not 0 <= raw <= INT_MAX:
        raise WireError(Reject.ENVELOPE, "expected a whole number that is not negative")
    return raw


def _pack_address(id_: PeerId | ClientId | None) -> bytes | None:
    return None if id_ is None else id_.PREFIX.encode() + id_.to_bytes()


def _unpack_address(raw: object) -> PeerId | ClientId | None:
    if raw is None:
        return None
    if type(raw) is bytes and len(raw) == 17:
        if raw[:1] == b"P":
            return PeerId.from_bytes(raw[1:])
        if raw[:1] == b"C":
            return ClientId.from_bytes(raw[1:])
    raise WireError(Reject.ENVELOPE, "expected the id of a peer or client")


# ---- heads of columns


def head_of(name: str, layout: Layout, index: int) -> tuple[object, ...]:
    """The head of a column whose bytes are this frame."""
    code, rows, *shape = pack_layout(layout)
    return (name, code, rows, index, *shape)


def read_head(head: object, index: int, frame: Frame, limits: Limits) -> tuple[str, Layout]:
    """Name and layout of the column that this frame holds. Raises WireError unless head and frame fit together."""
    name, layout = read_layout_of(head, index, _nbytes(frame), limits)
    check_numbers(name, layout, frame)
    return name, layout


def read_layout_of(head: object, index: int, nbytes: int, limits: Limits) -> tuple[str, Layout]:
    """The same for so many bytes that have not been looked at."""
    if type(head) is not tuple or len(head) < 5:
        raise WireError(Reject.COLUMN, "expected [name, dtype, rows, frame, shape, ...]")
    name, code, rows, place, *shape = head
    if type(name) is not str or not 0 < len(name) <= limits.name_chars:
        raise WireError(Reject.NAME, f"expected a text of 1 to {limits.name_chars} characters")
    if type(place) is not int or place != index:
        raise WireError(Reject.FRAME_INDEX, f"{name!r}: expected frame {index}")
    layout, needed, known = read_layout((code, rows, *shape), limits, name)
    if nbytes != needed:
        raise WireError(Reject.NBYTES, f"{name!r}: {nbytes} bytes, its shape needs {needed}")
    check_depth(head[known + 2 :], limits)
    return name, layout


def check_numbers(name: str, layout: Layout, data: Frame) -> None:
    """Raises WireError if bytes of this column are no numbers of its dtype."""
    if layout.dtype.name == "bool" and not only_bools(data):
        raise WireError(Reject.BOOL, f"{name!r} holds bytes other than 0 and 1")
