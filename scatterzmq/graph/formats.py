"""Formats: which dtype and shape a field has, and how many rows of it lie in memory. No torch, no numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int, ...]
OpenShape: TypeAlias = tuple[int | None, ...]


class DType(NamedTuple):
    """An element type. `code` is its number on the wire and never changes; `name` is torch's."""

    name: str
    code: int
    itemsize: int


_DTYPES = (
    DType("bool", 1, 1),
    DType("uint8", 2, 1),
    DType("int8", 3, 1),
    DType("int16", 4, 2),
    DType("int32", 5, 4),
    DType("int64", 6, 8),
    DType("float16", 7, 2),
    DType("float32", 8, 4),
    DType("float64", 9, 8),
    DType("bfloat16", 10, 2),
    DType("complex64", 11, 8),
    DType("complex128", 12, 16),
    DType("uint16", 13, 2),
    DType("uint32", 14, 4),
    DType("uint64", 15, 8),
    DType("float8_e4m3fn", 16, 1),
    DType("float8_e5m2", 17, 1),
    DType("float8_e4m3fnuz", 18, 1),
    DType("float8_e5m2fnuz", 19, 1),
    DType("float8_e8m0fnu", 20, 1),
)
_ALIASES = {
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "cfloat": "complex64",
    "cdouble": "complex128",
}
_CANONICAL = {dtype.name: dtype for dtype in _DTYPES}

DTYPES: Mapping[str, DType] = MappingProxyType(
    _CANONICAL | {alias: _CANONICAL[name] for alias, name in _ALIASES.items()}
)
"""Every name a definition may use, aliases included -> dtype."""
DTYPE_BY_CODE: Mapping[int, DType] = MappingProxyType({dtype.code: dtype for dtype in _DTYPES})


@dataclass(frozen=True)
class FieldFormat:
    """What a field holds: `dtype_name` as the definition spells it, `shape` with None where tasks may differ."""

    dtype_name: str
    shape: OpenShape

    def __post_init__(self) -> None:
        if self.dtype_name not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype_name!r}; known are {', '.join(sorted(DTYPES))}")
        if any(size is not None and size < 0 for size in self.shape):
            raise ValueError(f"negative dimension in shape {list(self.shape)}")

    @cached_property
    def dtype(self) -> DType:
        return DTYPES[self.dtype_name]

    @cached_property
    def is_uniform(self) -> bool:
        """True if every task has the same shape, so that a batch is one tensor."""
        return None not in self.shape

    @cached_property
    def row_layout(self) -> "Layout | None":
        """How one task's tensor lies in memory; None if tasks may differ."""
        shape = tuple(size for size in self.shape if size is not None)
        return Layout(self.dtype, 1, shape) if self.is_uniform else None

    def accepts(self, dtype: DType, shape: Sequence[int]) -> bool:
        """Whether one task's tensor fits."""
        if dtype != self.dtype or len(shape) != len(self.shape):
            return False
        if shape == self.shape:  # what nearly always suffices where tasks do not differ
            return True
        return all(want is None or want == have for want, have in zip(self.shape, shape, strict=True))

    def compatible(self, other: "FieldFormat") -> bool:
        """Whether a value of the one may be used as the other: same dtype and rank, each dimension equal or open."""
        return (
            self.dtype == other.dtype
            and len(self.shape) == len(other.shape)
            and all(a is None or b is None or a == b for a, b in zip(self.shape, other.shape, strict=True))
        )

    def to_json(self) -> list[object]:
        return [self.dtype_name, list(self.shape)]

    def __str__(self) -> str:
        dims = ", ".join("null" if size is None else str(size) for size in self.shape)
        return f"{self.dtype_name}[{dims}]"


Format: TypeAlias = Mapping[str, FieldFormat]
"""field name -> what it holds"""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one field of a batch lie in one buffer: one after another, contiguous, little-endian.

    shape: of every row when they are alike, else None and `shapes` has one per row.
    """

    dtype: DType
    rows: int
    shape: Shape | None
    shapes: tuple[Shape, ...] = ()

    def row_shape(self, row: int) -> Shape:
        return self.shapes[row] if self.shape is None else self.shape

    def row_nbytes(self, row: int) -> int:
        return prod(self.row_shape(row)) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole buffer. O(1) when uniform, else O(rows)."""
        if self.shape is not None:
            return self.rows * prod(self.shape) * self.dtype.itemsize
        return sum(prod(shape) for shape in self.shapes) * self.dtype.itemsize
