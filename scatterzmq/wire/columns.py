"""Columns: the rows of one field of a batch as bytes.

Everything between the user's tensors and the node's tensors is a `Column`: copied, cut, joined, stored and sent
without looking at its numbers. No torch, no numpy; wire/tensors.py makes columns and turns them into tensors.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from math import prod

from xxhash import xxh3_128, xxh3_128_digest

from ..graph.formats import DType, Layout, Shape

_JOINED_NBYTES_MAX = 4096
"""Up to here a copy of a task's fields takes less time than feeding them to a digest one by one."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Column:
    """Rows of one field, one after another.

    data: C-contiguous, format "B", little-endian, as long as the layout says. Writable memory wherever scatterzmq
        makes it; read-only where it is a received frame (then `to_tensor` copies).
    ends: where each row ends in `data`; exists only for rows of different shapes, which no multiplication finds.
    """

    layout: Layout
    data: memoryview
    ends: tuple[int, ...] = field(init=False, repr=False)

    def __init__(self, layout: Layout, data: memoryview) -> None:
        # Written out, as several are made per task, and a generated one would call a check of its own in addition.
        put = object.__setattr__
        put(self, "layout", layout)
        put(self, "data", data)
        if layout.shape is not None:
            nbytes = layout.rows * prod(layout.shape) * layout.dtype.itemsize
        else:
            itemsize = layout.dtype.itemsize
            ends = tuple(accumulate(prod(shape) * itemsize for shape in layout.shapes))
            assert len(ends) == layout.rows, f"{len(ends)} shapes for {layout.rows} rows"
            put(self, "ends", ends)
            nbytes = ends[-1] if ends else 0
        assert len(data) == nbytes, f"{len(data)} bytes, but the layout needs {nbytes}"

    def row(self, index: int) -> memoryview:
        """The bytes of one row. O(1), no copy."""
        layout = self.layout
        assert 0 <= index < layout.rows, f"row {index} of {layout.rows}"
        if layout.shape is not None:
            nbytes = len(self.data) // layout.rows
            return self.data[nbytes * index : nbytes * (index + 1)]
        return self.data[self.start(index) : self.ends[index]]

    def start(self, index: int) -> int:
        """Where a row begins in `data`; for index == rows, where the last one ends."""
        if self.layout.shape is None:
            return self.ends[index - 1] if index else 0
        return len(self.data) // self.layout.rows * index if index else 0


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """A column that does not lie in one piece. datas: the bytes of its rows, in order."""

    layout: Layout
    datas: Sequence[memoryview]

    def joined(self) -> Column:
        return Column(self.layout, memoryview(bytearray().join(self.datas)))

    def rows(self) -> "list[Column]":
        """Each row as a column of its own. No copy."""
        dtype, shape_of = self.layout.dtype, self.layout.row_shape
        return [Column(Layout(dtype, 1, shape_of(row)), data) for row, data in enumerate(self.datas)]


# ---- rows


def gather(parts: Sequence[tuple[Column, int]]) -> Column:
    """The rows (column, index) in one column.

    Without a copy where they are all rows of one column in order (then it is that column) or neighbours in one.
    """
    found = gather_apart(parts)
    return found.joined() if isinstance(found, Apart) else found


def gather_apart(parts: Sequence[tuple[Column, int]]) -> Column | Apart:
    """As `gather`, but what would have to be copied stays where it is."""
    assert parts, "a column needs a dtype, so at least one row"
    first, start = parts[0]
    if len(parts) == 1:  # a task on its own
        return first if first.layout.rows == 1 else _part(first, start, start + 1)
    stop = start + len(parts)
    # The last row alone tells nearly always that they are no neighbours.
    if parts[-1] == (first, stop - 1) and list(parts) == [(first, index) for index in range(start, stop)]:
        return first if len(parts) == first.layout.rows else _part(first, start, stop)
    dtype, shape = first.layout.dtype, first.layout.shape
    rows = []
    for column, index in parts:
        layout = column.layout
        assert layout.dtype == dtype, "rows of different dtypes in one column"
        if layout.shape != shape:
            shape = None
        rows.append(column.data if layout.rows == 1 else column.row(index))
    if shape is not None:
        return Apart(Layout(dtype, len(parts), shape), rows)
    return Apart(alike(dtype, [column.layout.row_shape(index) for column, index in parts]), rows)


def join(columns: Sequence[Column]) -> Column:
    """All rows of several columns, one column after another. A single column comes back as it is."""
    assert columns, "a column needs a dtype, so at least one column"
    # Columns without rows say nothing about the shape of the others.
    filled = [column for column in columns if column.layout.rows] or [columns[0]]
    first = filled[0].layout
    assert all(column.layout.dtype == first.dtype for column in columns), "columns of different dtypes in one"
    if len(filled) == 1:
        return filled[0]
    data = memoryview(bytearray().join([column.data for column in filled]))
    if first.shape is not None and all(column.layout.shape == first.shape for column in filled):
        return Column(Layout(first.dtype, sum(column.layout.rows for column in filled), first.shape), data)
    shapes = [column.layout.row_shape(row) for column in filled for row in range(column.layout.rows)]
    return Column(alike(first.dtype, shapes), data)


def split(column: Column, piece_nbytes: int) -> list[Column]:
    """Consecutive pieces of whole rows, each at most `piece_nbytes` or one row.

    Every piece is a copy, so that letting go of one frees its memory. No rows: no pieces.
    """
    pieces = []
    start = 0
    rows = column.layout.rows
    for row in range(1, rows + 1):
        if row == rows or column.start(row + 1) - column.start(start) > piece_nbytes:
            part = _part(column, start, row)
            pieces.append(Column(part.layout, memoryview(bytearray(part.data))))
            start = row
    return pieces


def alike(dtype: DType, shapes: Sequence[Shape]) -> Layout:
    """The layout of rows with these shapes: uniform if they are all the same (one or more rows)."""
    if shapes and all(shape == shapes[0] for shape in shapes):
        return Layout(dtype, len(shapes), shapes[0])
    return Layout(dtype, len(shapes), None, tuple(shapes))


def _part(column: Column, start: int, stop: int) -> Column:
    layout = column.layout
    if layout.shape is not None:
        nbytes = len(column.data) // layout.rows
        return Column(Layout(layout.dtype, stop - start, layout.shape), column.data[nbytes * start : nbytes * stop])
    return Column(alike(layout.dtype, layout.shapes[start:stop]), column.data[column.start(start) : column.start(stop)])


# ---- identity


def row_digests(column: Column) -> tuple[bytes, ...]:
    """Per row 32 bytes that are equal exactly if dtype, shape and bytes are (blake2b)."""
    layout = column.layout
    heads = {
        shape: blake2b(_head(layout.dtype, shape), digest_size=32) for shape in layout.shapes or (layout.shape or (),)
    }
    digests = []
    for row in range(layout.rows):
        digest = heads[layout.row_shape(row)].copy()
        digest.update(column.row(row))
        digests.append(digest.digest())
    return tuple(digests)


def fingerprint(ns: str, columns: Mapping[str, Column], row: int) -> bytes:
    """16 bytes over the namespace and one task's fields, whatever their order. Tells resent tasks from others;
    not made to withstand somebody who wants two tasks to look the same.
    """
    parts: list[bytes | memoryview] = [_text(ns)]
    nbytes = 0
    for name in sorted(columns):
        column = columns[name]
        layout = column.layout
        data = column.data if layout.rows == 1 else column.row(row)
        shape = layout.shapes[row] if layout.shape is None else layout.shape
        parts += (_named_head(name, layout.dtype, shape), data)
        nbytes += len(data)
    if nbytes <= _JOINED_NBYTES_MAX:
        return xxh3_128_digest(b"".join(parts))
    digest = xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.digest()


@lru_cache(maxsize=1024)  # a client computes one fingerprint per task, and its tasks look much alike
def _named_head(name: str, dtype: DType, shape: Shape) -> bytes:
    return _text(name) + _head(dtype, shape)


def _head(dtype: DType, shape: Shape) -> bytes:
    """Says where the bytes after it end, so that no two rows run into the same bytes."""
    return struct.pack(f"<BB{len(shape)}Q", dtype.code, len(shape), *shape)


@lru_cache(maxsize=1024)  # of a few namespaces and fields
def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, "little") + raw
