"""Layouts on the wire: a list of [dtype code, rows, shape] if the rows are alike, else
[dtype code, rows, nil, ranks, sizes] with the rank of all rows or of each, and all sizes in a row.

Rules   Products of sizes are Python's whole numbers, which do not overflow, and are bounded before anything is made.
"""

from itertools import accumulate, pairwise
from math import prod

from ..graph.formats import DTYPE_BY_CODE, DType, Layout, Shape
from .columns import alike
from .refusal import Limits, Reject, WireError

_ELEMENTS_MAX = 1 << 40
"""Of one row, counting empty dimensions as one: torch multiplies all sizes and must not overflow."""


def pack_layout(layout: Layout) -> tuple[object, ...]:
    """What msgpack takes."""
    start = (layout.dtype.code, layout.rows)
    if layout.shape is not None:
        return (*start, layout.shape)
    ranks = [len(shape) for shape in layout.shapes]
    same = not ranks or ranks.count(ranks[0]) == len(ranks)
    sizes = [size for shape in layout.shapes for size in shape]
    return (*start, None, (ranks[0] if ranks else 0) if same else ranks, sizes)


def read_layout(parts: tuple[object, ...], limits: Limits, name: object) -> tuple[Layout, int, int]:
    """The layout, how many bytes that is, and how many of the parts say so. name: of what it is, for complaints.

    Raises WireError.
    """
    code, rows, shape = parts[:3]
    if type(code) is not int or code not in DTYPE_BY_CODE:
        raise WireError(Reject.DTYPE, f"unknown dtype of {name!r}")
    dtype = DTYPE_BY_CODE[code]
    if type(rows) is not int or not 0 <= rows <= limits.rows:
        raise WireError(Reject.ROWS, f"{name!r}: expected at most {limits.rows} rows")
    if shape is None:
        layout, nbytes = _read_ragged(parts, rows, dtype, limits)
        return layout, nbytes, 5
    dims = _checked_sizes(shape, limits.rank)
    _check_elements(dims)
    return Layout(dtype, rows, dims), rows * prod(dims) * dtype.itemsize, 3


def _read_ragged(parts: tuple[object, ...], rows: int, dtype: DType, limits: Limits) -> tuple[Layout, int]:
    if len(parts) < 5:
        raise WireError(Reject.COLUMN, "expected ranks and sizes")
    if rows and type(parts[3]) is int and parts[3] == 0 and parts[4] == ():
        # A few bytes stand for any number of single numbers: nothing is spelled out for each of them.
        return Layout(dtype, rows, ()), rows * dtype.itemsize
    ranks = (parts[3],) * rows if type(parts[3]) is int else _checked_sizes(parts[3], limits.items)
    if len(ranks) != rows or any(not 0 <= rank <= limits.rank for rank in set(ranks)):
        raise WireError(Reject.RANK, f"expected {rows} ranks of at most {limits.rank}")
    sizes = _checked_sizes(parts[4], limits.items)
    if len(sizes) != sum(ranks):
        raise WireError(Reject.SHAPE, f"{len(sizes)} sizes, the ranks need {sum(ranks)}")
    shapes: list[Shape]
    if set(ranks) == {1}:
        shapes = list(zip(sizes, strict=True))
        _check_elements((max(sizes),))
        return alike(dtype, shapes), sum(sizes) * dtype.itemsize
    shapes = [sizes[start:end] for start, end in pairwise(accumulate(ranks, initial=0))]
    for shape in set(shapes):
        _check_elements(shape)
    return alike(dtype, shapes), sum(map(prod, shapes)) * dtype.itemsize


def _checked_sizes(raw: object, count_max: int) -> Shape:
    if type(raw) is not tuple or set(map(type, raw)) - {int}:
        raise WireError(Reject.SHAPE, "expected a list of whole numbers")
    if len(raw) > count_max:
        raise WireError(Reject.RANK, f"{len(raw)} dimensions, allowed are {count_max}")
    if raw and min(raw) < 0:
        raise WireError(Reject.SHAPE, "a negative dimension")
    return raw


def _check_elements(shape: Shape) -> None:
    if prod(size or 1 for size in shape) > _ELEMENTS_MAX:
        raise WireError(Reject.SHAPE, "dimensions beyond every memory")
