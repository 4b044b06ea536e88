"""Rows as bytes: collecting, joining, cutting, and their identity."""

from typing import Any

import pytest

from scatterzmq.graph.formats import DTYPES, FieldFormat, Layout
from scatterzmq.wire import columns
from scatterzmq.wire.columns import Apart, Column, alike, fingerprint, gather, gather_apart, join, row_digests, split
from scatterzmq.wire.tensors import from_value

BYTE = DTYPES["uint8"]
WORD = DTYPES["int16"]


def column(rows: Any, shape: Any = None, shapes: Any = (), dtype: Any = BYTE, data: Any = None) -> Any:
    layout = Layout(dtype, rows, shape, shapes)
    if data is None:
        data = bytes(index % 251 for index in range(layout.nbytes))
    return Column(layout, memoryview(bytearray(data)))


def texts(*given: Any) -> Any:
    return join([from_value(text, FieldFormat("uint8", (None,)), "text") for text in given])


def rows_of(some: Any) -> Any:
    return [bytes(some.row(index)) for index in range(some.layout.rows)]


def test_column_refuses_bytes_that_do_not_fill_the_layout() -> None:
    with pytest.raises(AssertionError, match="5 bytes, but the layout needs 6"):
        column(2, (3,), data=b"12345")
    with pytest.raises(AssertionError, match="3 bytes, but the layout needs 4"):
        column(2, None, ((1,), (3,)), data=b"123")
    with pytest.raises(AssertionError, match="1 shapes for 2 rows"):
        column(2, None, ((1,),))


@pytest.mark.parametrize("index", [-1, 2])
def test_row_out_of_range(index: Any) -> None:
    with pytest.raises(AssertionError, match="of 2"):
        column(2, (3,)).row(index)


def test_rows_are_views() -> None:
    some = column(2, (2,), dtype=WORD)
    some.row(1)[0] = 99
    assert some.data[4] == 99
    ragged = column(3, None, ((2,), (0,), (1, 1)), dtype=WORD)
    assert [len(ragged.row(index)) for index in range(3)] == [4, 0, 2]
    ragged.row(2)[1] = 77
    assert ragged.data[5] == 77


def test_gather_of_everything_in_order_is_the_same_column() -> None:
    for some in (column(3, (2,)), texts("a", "bc", "def")):
        assert gather([(some, 0), (some, 1), (some, 2)]) is some


def test_gather_of_neighbours_shares_memory() -> None:
    some = column(4, (2,))
    part = gather([(some, 1), (some, 2)])
    assert part.layout == Layout(BYTE, 2, (2,))
    some.data[2] = 200
    assert part.data[0] == 200


def test_gather_of_neighbours_of_different_lengths() -> None:
    some = texts("a", "bc", "de", "f")
    assert rows_of(gather([(some, 0), (some, 1)])) == [b"a", b"bc"]
    alike_part = gather([(some, 1), (some, 2)])
    assert alike_part.layout == Layout(BYTE, 2, (2,))
    assert rows_of(alike_part) == [b"bc", b"de"]


def test_gather_copies_rows_in_any_order() -> None:
    some = column(3, (2,), dtype=WORD)
    part = gather([(some, 2), (some, 0), (some, 2)])
    assert part.layout == Layout(WORD, 3, (2,))
    assert rows_of(part) == [rows_of(some)[index] for index in (2, 0, 2)]
    some.data[0] = 200
    assert part.data[4] == 0
    assert not part.data.readonly


def test_gather_looks_at_all_rows_not_only_at_the_ends() -> None:
    some, other = column(3, (2,)), column(1, (2,), data=b"xy")
    assert rows_of(gather([(some, 0), (some, 2), (some, 2)])) == [b"\0\1", b"\4\5", b"\4\5"]
    assert rows_of(gather([(some, 0), (other, 0), (some, 2)])) == [b"\0\1", b"xy", b"\4\5"]


def test_gather_of_one_row() -> None:
    some, text = column(3, (2,)), texts("a", "bc")
    part = gather([(some, 1)])
    assert (part.layout, bytes(part.data)) == (Layout(BYTE, 1, (2,)), b"\2\3")
    assert part.data.obj is some.data.obj
    assert gather([(part, 0)]) is part
    assert (gather([(text, 1)]).layout, bytes(gather([(text, 1)]).data)) == (Layout(BYTE, 1, (2,)), b"bc")


def test_gather_from_several_columns() -> None:
    left, right = column(2, (2,)), column(1, (2,), data=b"xy")
    assert rows_of(gather([(right, 0), (left, 1), (right, 0)])) == [b"xy", b"\2\3", b"xy"]
    other = column(1, (1, 2), data=b"zz")
    mixed = gather([(left, 0), (other, 0)])
    assert mixed.layout == Layout(BYTE, 2, None, ((2,), (1, 2)))
    assert rows_of(mixed) == [b"\0\1", b"zz"]


@pytest.mark.parametrize("given", [("abc", "x", "yz"), ("ab", "cd")])
def test_rows_that_lie_apart_are_columns_where_they_lie(given: Any) -> None:
    whole = [texts(text) for text in given]
    apart = gather_apart([(one, 0) for one in whole])
    assert isinstance(apart, Apart)
    rows = apart.rows()
    assert [(row.layout, row.data.obj) for row in rows] == [(one.layout, one.data.obj) for one in whole]
    assert join(rows).layout == apart.layout


def test_gather_of_ragged_rows_that_are_alike_is_uniform() -> None:
    one, two = texts("abc", "d"), texts("x", "efg")
    part = gather([(one, 0), (two, 1)])
    assert part.layout == Layout(BYTE, 2, (3,))
    assert bytes(part.data) == b"abcefg"


def test_gather_and_join_refuse_mixed_dtypes_and_nothing() -> None:
    with pytest.raises(AssertionError, match="different dtypes"):
        gather([(column(1, (2,)), 0), (column(1, (2,), dtype=WORD), 0)])
    with pytest.raises(AssertionError, match="different dtypes"):
        join([column(1, (2,)), column(1, (2,), dtype=WORD)])
    with pytest.raises(AssertionError, match="at least one row"):
        gather([])
    with pytest.raises(AssertionError, match="at least one column"):
        join([])


def test_gather_of_empty_rows() -> None:
    nothing = column(3, (0, 4))
    assert gather([(nothing, 2), (nothing, 0)]).layout == Layout(BYTE, 2, (0, 4))
    assert gather([(nothing, 1)]).layout == Layout(BYTE, 1, (0, 4))
    blank = texts("", "a", "")
    assert rows_of(gather([(blank, 2), (blank, 1), (blank, 0)])) == [b"", b"a", b""]


def test_join() -> None:
    one, two = column(2, (2,)), column(1, (2,), data=b"xy")
    assert join([one]) is one
    assert join([one, two]).layout == Layout(BYTE, 3, (2,))
    assert bytes(join([one, two]).data) == b"\0\1\2\3xy"
    mixed = join([one, texts("abc", "d")])
    assert mixed.layout == Layout(BYTE, 4, None, ((2,), (2,), (3,), (1,)))
    assert rows_of(mixed) == [b"\0\1", b"\2\3", b"abc", b"d"]


def test_join_ignores_the_shape_of_columns_without_rows() -> None:
    none, one = column(0, (7,)), column(1, (2,))
    assert join([none, one]) is one
    assert join([none, column(0, (3,))]) is none
    assert join([texts("ab"), none, texts("cd")]).layout == Layout(BYTE, 2, (2,))


def test_join_becomes_uniform_when_all_rows_are_alike() -> None:
    ragged = Column(Layout(BYTE, 1, None, ((2,),)), memoryview(bytearray(b"ab")))
    assert join([ragged, texts("cd")]).layout == Layout(BYTE, 2, (2,))


def test_split_by_bytes_in_whole_rows() -> None:
    some = column(5, (2,), dtype=WORD)
    assert [piece.layout.rows for piece in split(some, 8)] == [2, 2, 1]
    assert [piece.layout.rows for piece in split(some, 11)] == [2, 2, 1]
    assert [piece.layout.rows for piece in split(some, 12)] == [3, 2]
    assert [piece.layout.rows for piece in split(some, 1)] == [1] * 5
    assert [piece.layout.rows for piece in split(some, 1000)] == [5]
    assert b"".join(bytes(piece.data) for piece in split(some, 8)) == bytes(some.data)


def test_split_ragged() -> None:
    pieces = split(texts("abc", "d", "ef", "", "ghijkl", "m"), 3)
    assert [rows_of(piece) for piece in pieces] == [[b"abc"], [b"d", b"ef", b""], [b"ghijkl"], [b"m"]]
    assert pieces[0].layout == Layout(BYTE, 1, (3,))


def test_split_copies_and_handles_no_bytes() -> None:
    some = column(2, (2,))
    piece = split(some, 100)[0]
    some.data[0] = 99
    assert piece.data[0] == 0
    assert not piece.data.readonly
    assert split(column(0, (2,)), 10) == []
    assert split(column(0, None, ()), 10) == []
    assert [piece.layout.rows for piece in split(column(3, (0,)), 1)] == [3]


def test_alike() -> None:
    assert alike(BYTE, [(1,), (1,)]) == Layout(BYTE, 2, (1,))
    assert alike(BYTE, [(1,), (2,)]) == Layout(BYTE, 2, None, ((1,), (2,)))
    assert alike(BYTE, []) == Layout(BYTE, 0, None, ())


def test_row_digests_tell_dtype_shape_and_bytes_apart() -> None:
    same = b"\0" * 8
    different = [
        column(1, (8,), data=same),
        column(1, (8,), dtype=DTYPES["int8"], data=same),
        column(1, (4,), dtype=WORD, data=same),
        column(1, (2, 4), data=same),
        column(1, (4, 2), data=same),
        column(1, (8, 1), data=same),
        column(1, (8,), data=b"\0" * 7 + b"\1"),
        column(1, (0,), data=b""),
        column(1, (0, 8), data=b""),
    ]
    digests = [row_digests(some)[0] for some in different]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 for digest in digests)


def test_row_digests_do_not_depend_on_the_neighbours() -> None:
    ragged = texts("ab", "cde", "ab")
    first, second, third = row_digests(ragged)
    assert first == third != second
    assert row_digests(texts("ab", "xy"))[0] == first
    assert row_digests(column(0, (2,))) == ()


def test_row_digest_is_fixed() -> None:
    # Digests of different peers meet in cache keys: they may never change.
    some = column(1, (2,), dtype=WORD, data=b"\1\2\3\4")
    assert row_digests(some)[0].hex() == "f4725effc071963d38e7e9bfc8aaff31a2fbbb9891dc1764841696c4ce45def5"


@pytest.mark.parametrize("rows", [1, 2])
def test_fingerprints_of_large_and_small_fields_are_made_alike(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {name: Column(Layout(DTYPES["uint8"], rows, (3000,)), memoryview(bytes(3000 * rows))) for name in "xy"}
    fed = [fingerprint("ns", fields, row) for row in range(rows)]
    monkeypatch.setattr(columns, "_JOINED_NBYTES_MAX", 6000)
    assert [fingerprint("ns", fields, row) for row in range(rows)] == fed


def test_fingerprint() -> None:
    one, two = texts("a", "bb"), texts("ccc", "d")
    base = fingerprint("ns", {"x": one, "y": two}, 0)
    assert len(base) == 16
    assert fingerprint("ns", {"y": two, "x": one}, 0) == base
    others = [
        fingerprint("nt", {"x": one, "y": two}, 0),
        fingerprint("ns", {"x": one, "y": two}, 1),
        fingerprint("ns", {"x": two, "y": one}, 0),
        fingerprint("ns", {"x": one, "z": two}, 0),
        fingerprint("ns", {"x": one}, 0),
        fingerprint("n", {"sx": one, "y": two}, 0),
        fingerprint("ns", {}, 0),
    ]
    assert len({base, *others}) == 8


def test_fingerprint_is_fixed() -> None:
    # A client and the peers of other versions compare them when a task is sent again.
    assert fingerprint("ns", {"x": texts("a")}, 0).hex() == "e90a9f47b2e68df49f439b545def0125"
