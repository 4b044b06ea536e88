"""Tasks of different shapes in one tensor: zero-padded at the end, with a mask or shapes that tell what is real.

Nothing here goes through single elements in Python, and through rows only in lists of shapes. Masks and sizes are
numpy's, which is quicker than torch with arrays as small as these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FormatError
from ..graph.formats import DType, FieldFormat, Layout, Shape
from ..wire.tensors import Column, check_bool, plain, tensor_dtype, to_flat

Sizes: TypeAlias = NDArray[np.int64]
"""[rows, dimensions]"""
Mask: TypeAlias = NDArray[np.bool_]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Elements are moved as whole numbers of their size: numpy knows no bfloat16 and no float8."""


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """An answer whose rows have different shapes: a tensor [rows, *largest], real values first in every dimension.

    Give exactly one of
    mask: bool tensor shaped as the tensor, or as its first dimensions when the others are full.
    shapes: of each row, as a sequence or as an int tensor [rows, dimensions].
    """

    tensor: Tensor
    mask: Tensor | None = None
    shapes: Sequence[Sequence[int]] | Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """An answer whose rows have different shapes: all their values in one dimension, one row after another.

    shapes: of each row, as a sequence or as an int tensor [rows, dimensions].
    """

    tensor: Tensor
    shapes: Sequence[Sequence[int]] | Tensor


def pad(column: Column) -> Tensor:
    """The rows of a ragged column as [rows, *largest], zero-padded at the end."""
    values = to_flat(column)
    sizes = _sizes(column.layout.shapes)
    largest = _largest(column.layout)
    padded = torch.zeros((len(sizes), *largest), dtype=values.dtype)
    _bits(padded)[box(sizes, largest)] = _bits(values)
    return padded


def mask_of(layout: Layout) -> Tensor:
    """Where a padded tensor of these rows has real values: bool [rows, *largest]."""
    if layout.shape is not None:
        return torch.ones((layout.rows, *layout.shape), dtype=torch.bool)
    return torch.from_numpy(box(_sizes(layout.shapes), _largest(layout)))


def box(sizes: Sizes, largest: Sequence[int]) -> Mask:
    """[rows, *largest], true at the first `sizes[row, d]` places of each dimension d."""
    rows = len(sizes)
    mask = np.ones((rows, *(1 for _ in largest)), np.bool_)
    for dim, size in enumerate(largest):
        inside = np.arange(size) < sizes[:, dim, None]
        mask = mask & inside.reshape(rows, *(size if other == dim else 1 for other in range(len(largest))))
    return mask


def unpad(value: Padded, form: FieldFormat) -> Column:
    """The real values, copied. `form` tells which sizes a row without any value has.

    Raises FormatError for a mask that is no box at the start, and for shapes that the tensor cannot hold.
    """
    if (value.mask is None) == (value.shapes is None):
        raise FormatError("a Padded needs either a mask or shapes")
    tensor = plain(value.tensor)
    if not tensor.dim():
        raise FormatError("a Padded needs a tensor [rows, ...]")
    dtype = tensor_dtype(tensor)
    rows, *largest = tensor.shape
    if value.mask is not None:
        mask, sizes = _checked_mask(value.mask, tensor, form)
    else:
        sizes = _checked_shapes(cast("Sequence[Sequence[int]] | Tensor", value.shapes), rows, largest)
        mask = box(sizes, largest)
    if not rows:
        return Column(Layout(dtype, 0, tuple(size or 0 for size in form.shape)), memoryview(bytearray()))
    shapes = cast(list[Shape], [tuple(shape) for shape in sizes.tolist()])
    return Column(layout_of(dtype, shapes), _bytes(_bits(tensor)[mask], dtype))


def layout_of(dtype: DType, shapes: Sequence[Shape]) -> Layout:
    """Of rows with these shapes, uniform if they are all the same (at least one)."""
    if shapes.count(shapes[0]) == len(shapes):
        return Layout(dtype, len(shapes), shapes[0])
    return Layout(dtype, len(shapes), None, tuple(shapes))


def _checked_mask(given: Tensor, tensor: Tensor, form: FieldFormat) -> tuple[Mask, Sizes]:
    """The mask in full and the sizes it stands for."""
    if given.dtype is not torch.bool or not given.dim() or given.shape != tensor.shape[: given.dim()]:
        got = f"{str(given.dtype).removeprefix('torch.')}{list(given.shape)}"
        raise FormatError(f"the mask of a padded tensor {list(tensor.shape)} must be bool of that shape, got {got}")
    rows, *largest = tensor.shape
    mask = plain(given).numpy()
    mask = np.broadcast_to(mask.reshape(*mask.shape, *(1 for _ in range(tensor.dim() - mask.ndim))), tensor.shape)
    sizes = np.zeros((rows, len(largest)), np.int64)
    for dim in range(len(largest)):
        others = tuple(other + 1 for other in range(len(largest)) if other != dim)
        sizes[:, dim] = mask.any(axis=others).sum(axis=1)
    if len(form.shape) == len(largest) and None in form.shape:
        # A row without any value shows no sizes: those that the format fixes are still there.
        empty = (sizes == 0).any(axis=1)
        for dim, size in enumerate(form.shape):
            if size is not None:
                sizes[empty, dim] = largest[dim]
    if not np.array_equal(mask, box(sizes, largest)):
        raise FormatError("the mask of a padded tensor must be true for the first values of each dimension only")
    return mask, sizes


def _checked_shapes(shapes: Sequence[Sequence[int]] | Tensor, rows: int, largest: list[int]) -> Sizes:
    if isinstance(shapes, Tensor):
        sizes = plain(shapes).to(torch.int64).numpy()
    else:
        if any(len(shape) != len(largest) for shape in shapes):
            raise FormatError(
                f"each shape of a Padded needs {len(largest)} sizes, as its tensor has dimensions per row"
            )
        sizes = _sizes(shapes).reshape(len(shapes), len(largest))
    if sizes.shape != (rows, len(largest)):
        raise FormatError(f"a Padded with {rows} rows of {len(largest)} dimensions got shapes {list(sizes.shape)}")
    if ((sizes < 0) | (sizes > np.array(largest, np.int64))).any():
        raise FormatError(f"a shape of a Padded does not fit in its tensor {[rows, *largest]}")
    return sizes


def _sizes(shapes: Sequence[Sequence[int]]) -> Sizes:
    return np.array(shapes, np.int64)


def _largest(layout: Layout) -> list[int]:
    return [max(sizes) for sizes in zip(*layout.shapes, strict=True)]


def _bits(tensor: Tensor) -> NDArray[Any]:
    """The same memory as whole numbers, where there are such of that size."""
    kind = _BITS.get(tensor.itemsize)
    return (tensor if kind is None else tensor.view(kind)).numpy()


def _bytes(values: NDArray[Any], dtype: DType) -> memoryview:
    if not values.size:
        return memoryview(bytearray())
    data = values.reshape(-1).view(np.uint8).data
    if dtype.name == "bool":
        check_bool(data)
    return data
