"""Fragments: a message that is too long for one ZeroMQ message goes as a run of several.

    [0] head       "szmf", number of the message, number of the piece; in the first piece the sizes of all frames
    [1...]         the bytes that come next, of one frame or several

Rules   1. A lane carries one run at a time. Whatever does not fit in (another number, a piece missing or twice, a whole
           message in between) ends it, and what had come of it is dropped.
        2. Sizes are checked against the limits before anything is kept, and nothing is kept beyond them.
Why     A message of 256 MiB in one piece would hold up all others for as long, and both ends would need to have it
        whole before its size could be refused.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

from ..wire.frames import Frame, Scattered
from ..wire.refusal import Limits, Reject, WireError
from .options import COPIED_BYTES, PIECE_BYTES

MAGIC = b"szmf"
_HEAD = struct.Struct(">4sII")
_NUMBER_MAX = 0xFFFFFFFF

Parts: TypeAlias = list[bytes | memoryview]
"""The frames of one ZeroMQ message."""


def nbytes(frames: Sequence[Frame | Scattered]) -> int:
    """Of all frames together."""
    return sum(_sizes(frames))


def _sizes(frames: Sequence[Frame | Scattered]) -> list[int]:
    return [_size(frame) if isinstance(frame, memoryview | tuple) else len(frame) for frame in frames]


def _size(frame: memoryview | tuple[memoryview, ...]) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else sum(map(len, frame))


def pieces(frames: Sequence[Scattered], number: int, total: int | None = None) -> list[Parts]:
    """A message as ZeroMQ messages: itself if it is short enough, else the pieces of it. Nothing is copied but parts of
    frames that are not worth being sent from where they lie.

    total: its bytes, for whoever knows them.
    """
    if (nbytes(frames) if total is None else total) <= PIECE_BYTES:
        return [[b"".join(frame) if isinstance(frame, tuple) else frame for frame in frames]]
    made: list[Parts] = []
    part: Parts = []
    room = PIECE_BYTES
    for data in chain.from_iterable(map(_parts, frames)):
        view, start = memoryview(data).cast("B"), 0
        while start < len(view):
            taken = view[start : start + room]
            part.append(taken)
            start += len(taken)
            room -= len(taken)
            if not room:
                made.append(part)
                part, room = [], PIECE_BYTES
    if part:
        made.append(part)
    sizes = _sizes(frames)
    heads = [_HEAD.pack(MAGIC, number & _NUMBER_MAX, index) for index in range(len(made))]
    heads[0] += struct.pack(f">{len(sizes)}Q", *sizes)
    return [[head, *part] for head, part in zip(heads, made, strict=True)]


def _parts(frame: Scattered) -> Sequence[bytes | memoryview]:
    if not isinstance(frame, tuple):
        return (frame,)
    return frame if sum(map(len, frame)) >= COPIED_BYTES * len(frame) else (b"".join(frame),)


def is_piece(first: Frame) -> bool:
    """Whether a ZeroMQ message that begins with this frame is a piece of a longer one."""
    return bytes(first[:4]) == MAGIC


class Assembler:
    """Puts the pieces of one lane together.

    nbytes: of what is kept of the run that is under way.
    counters: "interrupted" runs that were dropped, and "stray" pieces that belong to none.
    """

    def __init__(self, limits: Limits, counters: Counter[str]) -> None:
        self._limits = limits
        self._counters = counters
        self._frames: list[bytearray] = []
        self._sizes: tuple[int, ...] = ()
        self._number = 0
        self._next = 0
        self.nbytes = 0

    @property
    def is_open(self) -> bool:
        """In the middle of a run."""
        return bool(self._sizes)

    def take(self, parts: Sequence[Frame]) -> Sequence[Frame] | None:
        """Take in a ZeroMQ message. The frames of a message if it is whole now. Raises WireError."""
        if not parts or not is_piece(parts[0]):
            self.interrupt()
            return parts
        head = bytes(parts[0])
        if len(head) < _HEAD.size:
            self.interrupt()
            raise WireError(Reject.ENVELOPE, "the head of a piece is too short")
        _, number, index = _HEAD.unpack_from(head)
        if index == 0:
            self.interrupt()
            self._begin(number, head[_HEAD.size :])
        elif not self.is_open or number != self._number or index != self._next or len(head) > _HEAD.size:
            self.interrupt()
            self._counters["stray"] += 1
            return None
        self._next = index + 1
        return self._put(parts[1:])

    def interrupt(self) -> None:
        """Nothing more comes of the message that is under way, if there is one."""
        if self.is_open:
            self._counters["interrupted"] += 1
            self._forget()

    def _forget(self) -> None:
        self._frames, self._sizes, self.nbytes = [], (), 0

    def _begin(self, number: int, raw: bytes) -> None:
        limits = self._limits
        count, rest = divmod(len(raw), 8)
        if rest or not 2 <= count <= limits.frames:
            raise WireError(Reject.FRAME_COUNT, f"{count} frames in pieces, allowed are 2 to {limits.frames}")
        sizes = struct.unpack(f">{count}Q", raw)
        if sum(sizes) > limits.total_bytes:
            raise WireError(Reject.TOTAL_BYTES, f"{sum(sizes)} bytes in pieces, allowed are {limits.total_bytes}")
        self._number, self._sizes, self._frames = number, sizes, [bytearray()]

    def _put(self, parts: Sequence[Frame]) -> Sequence[Frame] | None:
        if not any(len(part) for part in parts):
            self.interrupt()
            raise WireError(Reject.NBYTES, "a piece of nothing")
        for part in parts:
            start = 0
            while start < len(part):
                frame = self._frames[-1]
                taken = part[start : start + self._sizes[len(self._frames) - 1] - len(frame)]
                frame += taken
                self.nbytes += len(taken)
                start += len(taken)
                if not self._turn_page() and start < len(part):
                    self.interrupt()
                    raise WireError(Reject.NBYTES, "pieces of more than was announced")
        if not self._turn_page():
            whole = [memoryview(frame).toreadonly() for frame in self._frames]
            self._forget()
            return whole
        return None

    def _turn_page(self) -> bool:
        """Go on to the frame that is not full. False if all are."""
        while len(self._frames[-1]) == self._sizes[len(self._frames) - 1]:
            if len(self._frames) == len(self._sizes):
                return False
            self._frames.append(bytearray())
        return True
