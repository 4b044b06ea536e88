"""Long messages in pieces, and what is made of pieces that nobody sane would send."""

import os
import random
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatterzmq.net import fragments
from scatterzmq.net.fragments import MAGIC, Assembler, is_piece, nbytes, pieces
from scatterzmq.net.options import PIECE_BYTES
from scatterzmq.wire.frames import Scattered
from scatterzmq.wire.refusal import Limits, Reject, WireError

SMALL = [b"envelope", b"body"]


def long(*sizes: int, seed: int = 0) -> list[bytes | memoryview]:
    made: list[bytes | memoryview] = list(SMALL)
    return made + [memoryview(random.Random(seed + size).randbytes(size)) for size in sizes]


def assembler(**limits: int) -> Assembler:
    return Assembler(Limits(**limits), Counter())


def joined(parts: Sequence[Sequence[Any]], into: Assembler) -> list[list[bytes]]:
    whole = [into.take(part) for part in parts]
    return [[bytes(frame) for frame in frames] for frames in whole if frames is not None]


def head(number: int, index: int, *sizes: int) -> bytes:
    return struct.pack(">4sII", MAGIC, number, index) + struct.pack(f">{len(sizes)}Q", *sizes)


def test_short_messages_pass_as_they_are() -> None:
    message = long(PIECE_BYTES - 12)
    assert pieces(message, 1) == [message]
    assert assembler().take(message) is message


@pytest.mark.parametrize(
    "sizes", [(PIECE_BYTES,), (PIECE_BYTES * 3 - 12,), (0, 5, 2 * PIECE_BYTES, 0, 0), (700_000,) * 5]
)
def test_long_ones_come_out_as_they_went_in(sizes: tuple[int, ...]) -> None:
    message = long(*sizes)
    parts = pieces(message, 7)
    assert len(parts) == -(-nbytes(message) // PIECE_BYTES)
    assert all(is_piece(part[0]) and nbytes(part[1:]) <= PIECE_BYTES for part in parts)
    into = assembler()
    assert joined(parts, into) == [[bytes(frame) for frame in message]]
    assert not into.is_open


@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=8),
    st.integers(1, 9),
    st.lists(st.integers(1, 30), min_size=1, max_size=60),
)
def test_whoever_cuts_differently_is_understood(sizes: list[int], number: int, cuts: list[int]) -> None:
    """Pieces may be cut anywhere: across frames, in the middle of them, into several parts."""
    frames = [os.urandom(size) for size in sizes]
    rest = b"".join(frames)
    if not rest:
        return
    into, whole, index = assembler(), None, 0
    while rest:
        size = cuts[index % len(cuts)]
        part = [
            head(number, index, *sizes) if index == 0 else head(number, index),
            rest[: size // 2],
            rest[size // 2 : size],
        ]
        rest = rest[size:]
        whole = into.take(part)
        index += 1
        assert (whole is not None) == (not rest)
    assert whole is not None
    assert [bytes(frame) for frame in whole] == frames


def test_nothing_is_copied_on_the_way_out() -> None:
    column = memoryview(bytearray(3 * PIECE_BYTES))
    parts = pieces([*SMALL, column], 1)
    assert all(
        part.obj is column.obj for each in parts for part in each[1:] if isinstance(part, memoryview) and len(part) > 8
    )


def test_what_lies_scattered_is_one_frame() -> None:
    """Sent from where it lies if its parts are large, else joined first; short messages have no pieces."""
    large = [memoryview(bytearray([number]) * (PIECE_BYTES - number)) for number in range(3)]
    small = [memoryview(bytearray([number % 251]) * 1000) for number in range(2000)]
    message: list[Scattered] = [*SMALL, tuple(large), tuple(small), tuple(small[:2])]
    whole = [*SMALL, b"".join(large), b"".join(small), b"".join(small[:2])]
    assert nbytes(message) == nbytes(whole)
    parts = pieces(message, 3)
    assert joined(parts, assembler()) == [whole]
    own = {id(view.obj) for each in parts for view in each if isinstance(view, memoryview)}
    assert own >= {id(data.obj) for data in large}
    assert own.isdisjoint([id(data.obj) for data in small])
    assert pieces([*SMALL, tuple(small[:2])], 4) == [[*SMALL, whole[-1]]]


def run() -> list[Any]:
    return pieces(long(PIECE_BYTES * 3), 5)


@pytest.mark.parametrize(
    ("spoil", "interrupted", "stray"),
    [
        (lambda parts: [parts[0], parts[2], parts[3]], 1, 2),
        (lambda parts: [parts[0], parts[1], parts[1], parts[2], parts[3]], 1, 3),
        (lambda parts: [parts[1], parts[2], parts[3]], 0, 3),
        (lambda parts: [parts[0], SMALL, parts[1]], 1, 1),
        (lambda parts: [parts[0], pieces(long(PIECE_BYTES), 6)[1]], 1, 1),
        (lambda parts: [parts[0], [parts[1][0] + b"12345678", *parts[1][1:]]], 1, 1),
    ],
)
def test_a_run_that_is_interrupted_is_dropped(spoil: Any, interrupted: int, stray: int) -> None:
    counters: Counter[str] = Counter()
    into = Assembler(Limits(), counters)
    whole = joined(spoil(run()), into)
    assert whole in ([], [[bytes(frame) for frame in SMALL]])
    assert (counters["interrupted"], counters["stray"]) == (interrupted, stray)
    assert not into.is_open
    assert len(joined(run(), into)) == 1, "what comes after is not affected"


def test_a_new_run_ends_the_one_before() -> None:
    counters: Counter[str] = Counter()
    into = Assembler(Limits(), counters)
    assert joined([*run()[:2], *pieces(long(PIECE_BYTES), 6)], into) == [[bytes(frame) for frame in long(PIECE_BYTES)]]
    assert counters["interrupted"] == 1


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([MAGIC], Reject.ENVELOPE),
        ([head(1, 0), b"x"], Reject.FRAME_COUNT),
        ([head(1, 0, 5), b"x"], Reject.FRAME_COUNT),
        ([head(1, 0, 1, 1) + b"x", b"x"], Reject.FRAME_COUNT),
        ([head(1, 0, *[1] * 11), b"x"], Reject.FRAME_COUNT),
        ([head(1, 0, 600, 401), b"x"], Reject.TOTAL_BYTES),
        ([head(1, 0, 2**64 - 1, 2**64 - 1), b"x"], Reject.TOTAL_BYTES),
        ([head(1, 0, 2, 2)], Reject.NBYTES),
        ([head(1, 0, 2, 2), b"", b""], Reject.NBYTES),
        ([head(1, 0, 2, 2), b"12345"], Reject.NBYTES),
        ([head(1, 0, 0, 0), b"1"], Reject.NBYTES),
    ],
)
def test_hostile_pieces_are_refused(parts: list[bytes], reason: Reject) -> None:
    into = assembler(frames=10, total_bytes=1000)
    with pytest.raises(WireError) as caught:
        into.take(parts)
    assert caught.value.reason is reason
    assert not into.is_open


def test_a_piece_too_many_bytes_ends_a_run_that_had_begun() -> None:
    into = assembler()
    assert into.take([head(1, 0, 2, 2), b"123"]) is None
    with pytest.raises(WireError):
        into.take([head(1, 1), b"45"])
    assert not into.is_open


def test_memory_grows_with_what_came_and_not_with_what_was_announced() -> None:
    into = assembler()
    into.take([head(1, 0, 16, 200 << 20), b"x" * 100])
    assert sum(map(len, into._frames)) == 100


@given(st.lists(st.lists(st.binary(max_size=40), max_size=4), max_size=6))
def test_whatever_comes_is_a_message_or_refused(garbage: list[list[bytes]]) -> None:
    into = assembler(frames=10, total_bytes=1000)
    for parts in garbage:
        for first in ([], [MAGIC + bytes(8)], [head(1, 0, 2, 3)]):
            try:
                into.take([*first, *parts])
            except WireError:
                assert not into.is_open
            assert sum(map(len, into._frames)) <= 1000


def test_numbers_wrap() -> None:
    parts = pieces(long(PIECE_BYTES), 2**32 + 3)
    assert fragments._HEAD.unpack_from(parts[1][0]) == (MAGIC, 3, 1)
    assert len(joined(parts, assembler())) == 1
