"""Messages to frames and back: round trips, and every reason for refusing."""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import msgpack
import pytest

from scatterzmq.core.messages import Definition, ExecutorStats, LoadGraph, Stats, Submit, TaskStatus
from scatterzmq.core.peermessages import AnyMessage
from scatterzmq.core.versions import Rank, Version
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.formats import DTYPE_BY_CODE, DTYPES, Layout
from scatterzmq.ids import ClientId, PeerId, TaskId
from scatterzmq.wire import frames as wire
from scatterzmq.wire.columns import Apart, Column
from scatterzmq.wire.frames import Envelope, encode, encode_apart, open_envelope
from scatterzmq.wire.refusal import Limits, Reject, WireError
from scatterzmq.wire.schema import NUMBERS, _codec, record

LIMITS = Limits()
PEER, CLIENT = PeerId("P" + "ab" * 16), ClientId("C" + "cd" * 16)


def decode(frames: Any, limits: Limits) -> Any:
    """As in wire/frames.py, for tests that know which kind comes out."""
    return wire.decode(frames, limits)


def same(one: Column, other: Column) -> bool:
    return one.layout == other.layout and bytes(one.data) == bytes(other.data)


# ---- what goes well


def test_round_trip(label: str, examples: Any) -> None:
    message, columns = examples[label]
    back, beside = decode(encode(message, columns), LIMITS)
    assert type(back) is type(message)
    assert back == message
    assert list(beside) == list(columns)
    assert all(same(beside[name], columns[name]) for name in columns)


def test_every_kind_has_a_number_and_an_example(examples: Any) -> None:
    assert set(NUMBERS) == set(get_args(AnyMessage))
    assert len(set(NUMBERS.values())) == len(NUMBERS)
    assert {type(message) for message, _ in examples.values()} == set(NUMBERS)


def test_types_come_back_exactly(examples: Any) -> None:
    final, _ = decode(encode(*examples["Final"]), LIMITS)
    assert type(final.ids[0]) is TaskId
    assert type(final.statuses[0]) is TaskStatus
    assert type(final.errors[1].code) is ErrorCode
    assert type(final.retries) is tuple
    stats, _ = decode(encode(*examples["Stats"]), LIMITS)
    assert type(stats.queues[0].weight) is float


def test_whole_numbers_in_float_fields_arrive_as_floats(examples: Any) -> None:
    stats = examples["Stats"][0]
    queue = type(stats.queues[0])(id="", name="", queue_length=0, listeners=0, weight=3)
    sent = Stats(mid=1, queues=(queue,), executors=(), tasks={})
    assert decode(encode(sent), LIMITS)[0] == sent


def test_columns_are_views_of_their_frames(examples: Any) -> None:
    frames = [bytearray(frame) for frame in encode(*examples["Submit"])]
    _, columns = decode(frames, LIMITS)
    frames[2][0] = 77
    assert columns["x"].data[0] == 77
    message, columns = examples["Submit"]
    assert encode(message, columns)[2] is columns["x"].data


def test_what_lies_apart_goes_in_one_piece_or_as_it_lies(examples: Any) -> None:
    message, columns = examples["Submit"]
    apart = {
        name: Apart(column.layout, [column.row(row) for row in range(column.layout.rows)])
        for name, column in columns.items()
    }
    frames = encode(message, columns, Envelope(seq=7))
    assert encode(message, apart, Envelope(seq=7)) == frames
    scattered = encode_apart(message, apart, Envelope(seq=7))
    assert scattered == [*frames[:2], *[tuple(column.datas) for column in apart.values()]]
    assert encode_apart(message, columns, Envelope(seq=7)) == frames


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda data: memoryview(data).cast("b")])
def test_frames_may_be_any_bytes(make: Callable[[bytes], Any], examples: Any) -> None:
    message, columns = examples["Submit"]
    back, beside = decode([make(bytes(frame)) for frame in encode(message, columns)], LIMITS)
    assert back == message
    assert beside["x"].data.format == "B"
    assert all(same(beside[name], columns[name]) for name in columns)


@pytest.mark.parametrize("dtype", DTYPE_BY_CODE.values(), ids=lambda dtype: dtype.name)
def test_columns_of_every_dtype(dtype: Any) -> None:
    for layout in (
        Layout(dtype, 2, ()),
        Layout(dtype, 2, (3, 1)),
        Layout(dtype, 2, (0, 5)),
        Layout(dtype, 2, (1,) * 8),
        Layout(dtype, 2, None, ((3,), (2,))),
        Layout(dtype, 2, None, ((), (2, 2))),
        Layout(dtype, 2, None, ((0, 3), (2, 0))),
    ):
        column = Column(layout, memoryview(bytes(index % 2 for index in range(layout.nbytes))))
        assert same(decode(encode(submit(2), {"x": column}), LIMITS)[1]["x"], column)
    empty = Column(Layout(dtype, 0, None, ()), memoryview(b""))
    assert decode(encode(submit(0), {"x": empty}), LIMITS)[1]["x"].layout == empty.layout


def submit(count: int, *, ns: str = "n") -> Submit:
    ids = tuple(TaskId(f"T{index:032x}") for index in range(count))
    return Submit(mid=1, ns=ns, digest=bytes(32), nonce=bytes(8), ids=ids, submit_digests=(bytes(16),) * count)


def test_rows_that_are_alike_arrive_uniform() -> None:
    ragged = Column(Layout(DTYPES["uint8"], 2, None, ((2,), (2,))), memoryview(b"abcd"))
    assert decode(encode(submit(2), {"x": ragged}), LIMITS)[1]["x"].layout == Layout(DTYPES["uint8"], 2, (2,))


def test_envelope() -> None:
    sent = Envelope(src=PEER, src_incarnation=3, dst=CLIENT, dst_incarnation=1 << 60, seq=9)
    frames = encode(submit(1), {"x": Column(Layout(DTYPES["int8"], 1, ()), memoryview(b"a"))}, sent)
    assert open_envelope(frames, LIMITS) == Envelope(
        src=PEER, src_incarnation=3, dst=CLIENT, dst_incarnation=1 << 60, seq=9, kind=NUMBERS[Submit], frames=3
    )
    assert len(frames[0]) <= 128
    nobody = open_envelope(encode(submit(1)), LIMITS)
    assert (nobody.src, nobody.dst, nobody.seq) == (None, None, 0)


def test_a_newer_peer_may_send_more(forged: Any) -> None:
    def longer(body: list[Any]) -> None:
        body.append({})
        body[-1] = ["new"]
        body[0].append([["new"]])
        body[0][6].append("new")
        body[1][0].append(["new"])
        body[1][1].append(7)

    frames = forged("Submit", envelope=lambda parts: parts.extend(["new", [1]]), body=longer)
    message, columns = decode(frames, LIMITS)
    assert message.cache is False
    assert list(columns) == ["x", "text"]

    def nested(body: list[Any]) -> None:
        body[0][1].append("new")
        body[0][1][3][1][0].append("new")

    assert decode(forged("GraphLoaded", body=nested), LIMITS)[0].info.inputs["x"].shape == (2, None)


def test_an_older_peer_may_send_less(forged: Any) -> None:
    message, _ = decode(forged("LoadGraph", body=lambda body: body[0].pop()), LIMITS)
    assert message == LoadGraph(mid=1, definition="{}", replace=False)
    accepted, _ = decode(forged("Accepted", body=lambda body: body[0].pop()), LIMITS)
    assert accepted.rset == ()
    stats, _ = decode(forged("Stats", body=lambda body: body[0].__delitem__(slice(4, None))), LIMITS)
    assert (stats.counters, stats.cache_bytes) == ({}, 0)


def test_halves_of_characters_do_not_stop_a_message() -> None:
    back, _ = decode(encode(Definition(mid=1, definition="a\udc80b")), LIMITS)
    assert back == Definition(mid=1, definition="a?b")


# ---- what is refused

Change = dict[str, Callable[[list[Any]], object]]


def field(index: int, value: object) -> Change:
    return {"body": lambda body: body[0].__setitem__(index, value)}


def head(place: int, value: object, *, column: int = 0) -> Change:
    return {"body": lambda body: body[1][column].__setitem__(place, value)}


def address(place: int, value: object) -> Change:
    return {"envelope": lambda parts: parts.__setitem__(place, value)}


def frame(index: int, value: bytes) -> Change:
    return {"frames": lambda frames: frames.__setitem__(index, value)}


def form(value: object) -> Change:
    return {"body": lambda body: body[0][1].__setitem__(3, [["x"], [value]])}


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels - 1):
        nested = [nested]
    return nested


REFUSED: dict[str, tuple[Reject, str, Change]] = {
    "no frames": (Reject.FRAME_COUNT, "0 frames, allowed", {"frames": lambda frames: frames.clear()}),
    "no body": (Reject.FRAME_COUNT, "1 frames, allowed", {"frames": lambda frames: frames.__delitem__(slice(1, 9))}),
    "too many frames": (Reject.FRAME_COUNT, "allowed", {"frames": lambda frames: frames.extend([b""] * 300)}),
    "a frame more than announced": (
        Reject.FRAME_COUNT,
        "announced were 4",
        {"frames": lambda frames: frames.append(b"")},
    ),
    "a frame less than announced": (Reject.FRAME_COUNT, "announced were 4", {"frames": lambda frames: frames.pop()}),
    "a column less than frames": (Reject.FRAME_COUNT, "1 columns in 2", {"body": lambda body: body[1].pop()}),
    "a column more than frames": (
        Reject.FRAME_COUNT,
        "3 columns in 2",
        {"body": lambda body: body[1].append(["z", 2, 2, 2, [0]])},
    ),
    "too large": (Reject.TOTAL_BYTES, "allowed are", frame(2, bytes(5000))),
    "envelope too large": (Reject.ENVELOPE, "allowed are 256", frame(0, bytes(257))),
    "envelope is no msgpack": (Reject.ENVELOPE, "", frame(0, b"\xc1")),
    "envelope is cut off": (Reject.ENVELOPE, "incomplete", {"frames": lambda f: f.__setitem__(0, f[0][:-1])}),
    "envelope is empty": (Reject.ENVELOPE, "", frame(0, b"")),
    "envelope goes on": (Reject.ENVELOPE, "extra", {"frames": lambda f: f.__setitem__(0, f[0] + b"\0")}),
    "envelope is no list": (Reject.ENVELOPE, "expected a list, got int", frame(0, b"\1")),
    "envelope is short": (Reject.ENVELOPE, "9 fields", {"envelope": lambda parts: parts.pop()}),
    "envelope is of somebody else": (Reject.MAGIC, "no message of scatterzmq", address(0, b"smzq")),
    "envelope begins with a text": (Reject.MAGIC, "no message", address(0, "szmq")),
    "envelope is an empty list": (Reject.MAGIC, "no message", frame(0, b"\x90")),
    "version 2": (Reject.VERSION, "expected wire version 1", address(1, 2)),
    "version true": (Reject.VERSION, "expected wire version 1", address(1, True)),
    "no version": (Reject.VERSION, "expected", {"envelope": lambda parts: parts.__delitem__(slice(1, 99))}),
    "minor version is a text": (Reject.ENVELOPE, "whole number", address(2, "0")),
    "kind is a text": (Reject.ENVELOPE, "whole number", address(3, "Submit")),
    "kind is true": (Reject.ENVELOPE, "whole number", address(3, True)),
    "kind is a list": (Reject.ENVELOPE, "whole number", address(3, [])),
    "kind 0": (Reject.KIND, "unknown kind 0", address(3, 0)),
    "kind between": (Reject.KIND, "unknown kind 32", address(3, 32)),
    "negative sequence": (Reject.ENVELOPE, "not negative", address(9, -1)),
    "huge incarnation": (Reject.ENVELOPE, "whole number", address(6, 1 << 63)),
    "incarnation is a fraction": (Reject.ENVELOPE, "whole number", address(8, 1.0)),
    "sender is a text": (Reject.ENVELOPE, "id of a peer", address(5, "P" + "a" * 16)),
    "sender is short": (Reject.ENVELOPE, "id of a peer", address(5, b"P" + bytes(15))),
    "receiver is a task": (Reject.ENVELOPE, "id of a peer", address(7, b"T" + bytes(16))),
    "new part of the envelope too deep": (Reject.DEPTH, "32 deep", {"envelope": lambda parts: parts.append(deep(33))}),
    "body too large": (Reject.BODY_BYTES, "allowed are 2000", frame(1, bytes(2001))),
    "body is no msgpack": (Reject.BODY, "", frame(1, b"\xc1")),
    "body is empty": (Reject.BODY, "", frame(1, b"")),
    "body is a text": (Reject.BODY, "expected a list, got str", frame(1, b"\xa1a")),
    "body is a map": (Reject.BODY, "map", frame(1, b"\x81\xa1a\1")),
    "body has a map in it": (Reject.BODY, "map", field(6, {"x": [b"x" * 32]})),
    "body has an extension": (Reject.BODY, "ext", field(1, msgpack.ExtType(5, b"x"))),
    "body has a time": (Reject.BODY, "ext", field(1, msgpack.Timestamp(1))),
    "body promises a huge list": (Reject.BODY, "max_array_len", frame(1, b"\xdd\xff\xff\xff\xff")),
    "body promises a huge text": (Reject.BODY, "", frame(1, b"\x92\xdb\xff\xff\xff\xff")),
    "body promises huge bytes": (Reject.BODY, "", frame(1, b"\x92\xc6\xff\xff\xff\xff")),
    "body with a text that is no UTF-8": (Reject.BODY, "utf-8", frame(1, b"\x92\xa1\xff\x90")),
    "body without columns": (Reject.BODY, "heads of columns", {"body": lambda body: body.pop()}),
    "columns are no list": (Reject.BODY, "heads of columns", {"body": lambda body: body.__setitem__(1, 1)}),
    "body nests without end": (Reject.DEPTH, "too deep", frame(1, b"\x91" * 1500 + b"\x90")),
    "new part of the body too deep": (Reject.DEPTH, "32 deep", {"body": lambda body: body.append(deep(33))}),
    "new field too deep": (Reject.DEPTH, "32 deep", {"body": lambda body: body[0].append(deep(33))}),
    "new part of a column too deep": (Reject.DEPTH, "32 deep", {"body": lambda body: body[1][0].append(deep(33))}),
    "fields are no list": (Reject.FIELD, "expected a list", {"body": lambda body: body.__setitem__(0, 1)}),
    "field is missing": (
        Reject.MISSING,
        "Submit.submit_digests",
        {"body": lambda body: body[0].__delitem__(slice(5, 9))},
    ),
    "number is true": (Reject.FIELD, "Submit.mid: expected a whole number", field(0, True)),
    "number is a fraction": (Reject.FIELD, "Submit.mid", field(0, 2.0)),
    "number is negative": (Reject.FIELD, "Submit.mid", field(0, -1)),
    "number is too large": (Reject.FIELD, "Submit.mid", field(0, 1 << 63)),
    "text is bytes": (Reject.FIELD, "Submit.ns: expected a text, got bytes", field(1, b"n")),
    "text is nothing": (Reject.FIELD, "Submit.ns: expected a text, got NoneType", field(1, None)),
    "bytes are text": (Reject.FIELD, "Submit.digest: expected bytes", field(2, "d" * 32)),
    "ids are a list": (Reject.FIELD, "Submit.ids", field(4, [bytes(16), bytes(16)])),
    "ids are cut off": (Reject.FIELD, "Submit.ids", field(4, bytes(31))),
    "too many ids": (Reject.FIELD, "Submit.ids", field(4, bytes(16 * 101))),
    "digests are bytes": (Reject.FIELD, "Submit.submit_digests: expected a list", field(5, bytes(32))),
    "digest is a text": (Reject.FIELD, "Submit.submit_digests: expected bytes", field(5, [b"s" * 16, "t" * 16])),
    "mapping is a list": (Reject.FIELD, "Submit.digests: expected .keys, values.", field(6, ["x"])),
    "mapping lacks a value": (Reject.FIELD, "Submit.digests", field(6, [["x", "y"], [[bytes(32)] * 2]])),
    "mapping has a number as key": (Reject.FIELD, "Submit.digests: expected a key", field(6, [[1], [[bytes(32)] * 2]])),
    "mapping has a long key": (Reject.FIELD, "255 characters", field(6, [["x" * 256], [[bytes(32)] * 2]])),
    "mapping has a key twice": (Reject.FIELD, "same key", field(6, [["x", "x"], [[bytes(32)] * 2] * 2])),
    "flag is a number": (Reject.FIELD, "Submit.cache: expected true", field(7, 1)),
    "digest too short": (Reject.MISMATCH, "not 32 bytes", field(2, b"d" * 31)),
    "nonce too long": (Reject.MISMATCH, "not 8 bytes", field(3, bytes(9))),
    "submit digest too long": (Reject.MISMATCH, "not 16 bytes", field(5, [bytes(16), bytes(17)])),
    "content digest too short": (Reject.MISMATCH, "not 32 bytes", field(6, [["x"], [[bytes(32), b""]]])),
    "fewer digests than tasks": (Reject.MISMATCH, "1 submit_digests, expected 2", field(5, [bytes(16)])),
    "fewer content digests": (Reject.MISMATCH, "1 digests of x, expected 2", field(6, [["x"], [[bytes(32)]]])),
    "fewer tasks than rows": (Reject.MISMATCH, "expected 1", field(4, bytes(16))),
    "head is a text": (Reject.COLUMN, "expected .name", {"body": lambda body: body[1].__setitem__(0, "x")}),
    "head is short": (Reject.COLUMN, "expected .name", {"body": lambda body: body[1][0].pop()}),
    "head of rows of different lengths is short": (
        Reject.COLUMN,
        "ranks and sizes",
        {"body": lambda body: body[1][1].pop()},
    ),
    "column without name": (Reject.NAME, "1 to 255", head(0, "")),
    "column with a long name": (Reject.NAME, "1 to 255", head(0, "x" * 256)),
    "column with a number as name": (Reject.NAME, "1 to 255", head(0, 7)),
    "columns of the same name": (Reject.NAME, "same name", head(0, "text")),
    "dtype 0": (Reject.DTYPE, "unknown dtype of 'x'", head(1, 0)),
    "dtype 21": (Reject.DTYPE, "unknown dtype", head(1, 21)),
    "dtype true": (Reject.DTYPE, "unknown dtype", head(1, True)),
    "dtype by name": (Reject.DTYPE, "unknown dtype", head(1, "int16")),
    "dtype is a list": (Reject.DTYPE, "unknown dtype", head(1, [])),
    "negative rows": (Reject.ROWS, "at most 100 rows", head(2, -2)),
    "too many rows": (Reject.ROWS, "at most 100 rows", head(2, 101)),
    "rows are a fraction": (Reject.ROWS, "at most 100 rows", head(2, 2.0)),
    "rows are true": (Reject.ROWS, "at most 100 rows", head(2, True)),
    "another column's frame": (Reject.FRAME_INDEX, "expected frame 0", head(3, 1)),
    "frame of the column before": (Reject.FRAME_INDEX, "expected frame 1", head(3, 0, column=1)),
    "no frame of this message": (Reject.FRAME_INDEX, "expected frame 0", head(3, -1)),
    "frame false": (Reject.FRAME_INDEX, "expected frame 0", head(3, False)),
    "shape is a number": (Reject.SHAPE, "list of whole numbers", head(4, 2)),
    "shape with a fraction": (Reject.SHAPE, "list of whole numbers", head(4, [2.0])),
    "shape with a flag": (Reject.SHAPE, "list of whole numbers", head(4, [True, 2])),
    "shape with an open dimension": (Reject.SHAPE, "list of whole numbers", head(4, [None])),
    "negative dimension": (Reject.SHAPE, "negative", head(4, [-2])),
    "two negative dimensions": (Reject.SHAPE, "negative", head(4, [-1, -2])),
    "nine dimensions": (Reject.RANK, "9 dimensions", head(4, [1] * 8 + [2])),
    "dimensions that overflow": (Reject.SHAPE, "beyond", head(4, [1 << 62, 1 << 62, 1 << 62])),
    "dimensions that overflow around zero": (Reject.SHAPE, "beyond", head(4, [1 << 40, 1 << 40, 0])),
    "dimensions that wrap to the right size": (Reject.SHAPE, "beyond", head(4, [(1 << 63) + 2])),
    "shape larger than the frame": (Reject.NBYTES, "8 bytes, its shape needs 12", head(4, [3])),
    "shape smaller than the frame": (Reject.NBYTES, "8 bytes, its shape needs 4", head(4, [1])),
    "more rows than the frame": (Reject.NBYTES, "8 bytes, its shape needs 12", head(2, 3)),
    "frame is cut off": (Reject.NBYTES, "7 bytes", frame(2, bytes(7))),
    "frame is longer": (Reject.NBYTES, "4 bytes, its shape needs 3", frame(3, b"abcd")),
    "ranks are a text": (Reject.SHAPE, "list of whole numbers", head(5, "1", column=1)),
    "rank nine": (Reject.RANK, "2 ranks of at most 8", head(5, 9, column=1)),
    "negative rank": (Reject.RANK, "2 ranks of at most 8", head(5, -1, column=1)),
    "rank nine in a list": (Reject.RANK, "2 ranks of at most 8", head(5, [9, 1], column=1)),
    "rank missing": (Reject.RANK, "2 ranks of at most 8", head(5, [1], column=1)),
    "rank true": (Reject.SHAPE, "list of whole numbers", head(5, True, column=1)),
    "more sizes than ranks": (Reject.SHAPE, "3 sizes, the ranks need 2", head(6, [3, 0, 0], column=1)),
    "fewer sizes than ranks": (Reject.SHAPE, "1 sizes, the ranks need 2", head(6, [3], column=1)),
    "negative size": (Reject.SHAPE, "negative", head(6, [4, -1], column=1)),
    "size beyond memory": (Reject.SHAPE, "beyond", head(6, [3, 1 << 50], column=1)),
    "sizes beyond memory": (
        Reject.SHAPE,
        "beyond",
        {"body": lambda body: body[1][1].__setitem__(slice(5, 7), [[1, 3], [3, 1 << 40, 1 << 40, 0]])},
    ),
    "sizes of more bytes": (Reject.NBYTES, "3 bytes, its shape needs 4", head(6, [3, 1], column=1)),
    "sizes of more bytes in more dimensions": (
        Reject.NBYTES,
        "3 bytes, its shape needs 6",
        {"body": lambda body: body[1][1].__setitem__(slice(5, 7), [2, [1, 3, 3, 1]])},
    ),
    "bool of 2": (
        Reject.BOOL,
        "'x' holds bytes other",
        {"body": lambda body: body[1][0].__setitem__(slice(0, 5), ["x", 1, 2, 0, [4]])},
    ),
}


def small(**limits: int) -> Limits:
    return Limits(**{"frames": 20, "total_bytes": 5000, "body_bytes": 2000, "items": 100, "rows": 100} | limits)


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, forged: Any) -> None:
    reason, detail, change = REFUSED[what]
    with pytest.raises(WireError) as caught:
        decode(forged("Submit", **change), small())
    assert caught.value.reason is reason
    assert re.search(detail, caught.value.detail)


OTHERS: dict[str, tuple[str, Reject, str, Change]] = {
    "status unknown": ("Final", Reject.FIELD, "Final.statuses: expected a TaskStatus", field(2, ["ready", "gone"])),
    "status a number": ("Final", Reject.FIELD, "Final.statuses: expected a TaskStatus", field(2, ["ready", 1])),
    "status a list": ("Final", Reject.FIELD, "Final.statuses: expected a TaskStatus", field(2, ["ready", []])),
    "error code unknown": ("Refused", Reject.FIELD, "Refused.code: expected a ErrorCode", field(2, "bad")),
    "error of a class": ("Final", Reject.FIELD, "ErrorInfo.code", field(3, [None, ["os.system", "", ""]])),
    "error is short": ("Final", Reject.MISSING, "Final.errors: ErrorInfo.message", field(3, [None, ["poison"]])),
    "place of an error": ("Final", Reject.FIELD, "ErrorContext.task", field(3, [None, ["poison", "", "", [None, 1]]])),
    "retries true": ("Final", Reject.FIELD, "Final.retries: expected a whole", field(4, [0, True])),
    "negative retries": ("Final", Reject.FIELD, "Final.retries: expected a whole", field(4, [0, -1])),
    "retries too large": ("Final", Reject.FIELD, "Final.retries: expected a whole", field(4, [0, 1 << 63])),
    "fewer retries": ("Final", Reject.MISMATCH, "1 retries, expected 2", field(4, [0])),
    "fewer durations": ("Final", Reject.MISMATCH, "1 durations_ms, expected 2", field(5, [0])),
    "fewer errors": ("Final", Reject.MISMATCH, "1 errors, expected 2", field(3, [None])),
    "more statuses": ("Final", Reject.MISMATCH, "3 statuses, expected 2", field(2, ["ready", "error", "error"])),
    "more results than rows": ("Final", Reject.MISMATCH, "1 rows of 'y', expected 2", field(2, ["ready", "done"])),
    "rows without results": ("Final", Reject.MISMATCH, "1 rows of 'y', expected 0", field(2, ["error", "unknown"])),
    "bool of 2": ("Final", Reject.BOOL, "'y' holds bytes other than 0 and 1", frame(2, b"\1\2")),
    "tensors beside what has none": (
        "Attach",
        Reject.MISMATCH,
        "Attach: columns .'x'., expected none",
        {
            "envelope": lambda parts: parts.__setitem__(4, 3),
            "body": lambda body: body[1].append(["x", 2, 1, 0, [1]]),
            "frames": lambda frames: frames.append(b"a"),
        },
    ),
    "id is short": ("Stats", Reject.FIELD, "ExecutorStats.id: expected 16 bytes", field(2, [[bytes(15), "", []]])),
    "id is a text": ("Stats", Reject.FIELD, "ExecutorStats.id: expected 16 bytes", field(2, [["E" * 16, "", []]])),
    "weight is whole": ("Stats", Reject.FIELD, "QueueStats.weight", field(1, [["", "", 1, 1, 1]])),
    "weight is no number": ("Stats", Reject.FIELD, "QueueStats.weight", field(1, [["", "", 1, 1, float("nan")]])),
    "weight without end": ("Stats", Reject.FIELD, "QueueStats.weight", field(1, [["", "", 1, 1, float("inf")]])),
    "texts with a number": ("Stats", Reject.FIELD, "ExecutorStats.loaded", field(2, [[bytes(16), "", ["a", 1]]])),
    "counter is a text": ("Stats", Reject.FIELD, "Stats.tasks", field(3, [["a"], ["1"]])),
    "record is a number": ("Namespaces", Reject.FIELD, "Namespaces.infos: expected a list", field(1, [7])),
    "format is a text": ("GraphLoaded", Reject.FIELD, "NamespaceInfo.inputs: expected .dtype", form("float")),
    "format of torch": ("GraphLoaded", Reject.FIELD, "unknown dtype", form(["qint8", [1]])),
    "format with nine dimensions": ("GraphLoaded", Reject.FIELD, "expected .dtype, shape", form(["float", [1] * 9])),
    "format with a fraction": ("GraphLoaded", Reject.FIELD, "expected a whole number", form(["float", [1.0]])),
    "format with a negative dimension": ("GraphLoaded", Reject.FIELD, "expected a whole number", form(["float", [-1]])),
    "layout without a shape": (
        "Grant by name",
        Reject.FIELD,
        "Payload.layout: expected .dtype, rows, shape",
        {"body": lambda body: body[0][10][0].__setitem__(2, [2, 1])},
    ),
    "format with a list as dtype": ("GraphLoaded", Reject.FIELD, "expected .dtype, shape", form([[], [1]])),
}


@pytest.mark.parametrize("what", OTHERS)
def test_refused_in_other_kinds(what: str, forged: Any) -> None:
    kind, reason, detail, change = OTHERS[what]
    with pytest.raises(WireError) as caught:
        decode(forged(kind, **change), small())
    assert caught.value.reason is reason
    assert re.search(detail, caught.value.detail)


def test_every_reason_is_tested() -> None:
    tested = {reason for reason, *_ in REFUSED.values()} | {reason for _, reason, *_ in OTHERS.values()}
    assert tested == set(Reject)


def test_lists_are_as_long_as_allowed(forged: Any) -> None:
    frames = forged("GraphRefused", body=lambda body: body[0].__setitem__(1, ["p"] * 100))
    assert len(decode(frames, small())[0].problems) == 100
    frames = forged("GraphRefused", body=lambda body: body[0].__setitem__(1, ["p"] * 101))
    with pytest.raises(WireError, match="max_array_len"):
        decode(frames, small())


def test_limits_are_inclusive() -> None:
    column = Column(Layout(DTYPES["uint8"], 2, (1,) * 8), memoryview(b"ab"))
    frames = encode(submit(2), {"x" * 255: column})
    sizes = [len(frame) for frame in frames]
    exact = Limits(frames=3, total_bytes=sum(sizes), body_bytes=sizes[1], rows=2, items=10)
    assert decode(frames, exact)[0] == submit(2)
    for name in ("frames", "total_bytes", "body_bytes", "rows"):
        less = {entry.name: getattr(exact, entry.name) for entry in fields(exact)} | {name: getattr(exact, name) - 1}
        with pytest.raises(WireError):
            decode(frames, Limits(**less))


def test_unknown_new_fields_may_be_as_deep_as_allowed(forged: Any) -> None:
    frames = forged("Clear", body=lambda body: body[0].append(deep(32)))
    assert decode(frames, LIMITS)[0].mid == 3


def test_an_error_says_where_and_why() -> None:
    error = WireError(Reject.SHAPE, "a negative dimension")
    assert str(error) == "shape: a negative dimension"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("hint", [tuple[int, int], dict, set[int], complex, ExecutorStats | int])
def test_a_field_that_cannot_be_sent_is_found_at_import(hint: object) -> None:
    with pytest.raises((AssertionError, ValueError)):
        _codec(hint)


def test_a_named_tuple_is_packed_like_a_record_and_may_gain_fields() -> None:
    codec = record(Version)
    version = Version(int(Rank.READY), 3, PeerId("P" + "0" * 32), 1, 7)
    packed = codec.pack(version)
    assert isinstance(packed, list)
    read = msgpack.unpackb(msgpack.packb(packed), use_list=False)
    assert codec.unpack(read, Limits()) == version
    assert codec.unpack((*read, "later"), Limits()) == version
    with pytest.raises(WireError):
        codec.unpack(read[:-1], Limits())
