"""Tasks of different shapes in one tensor: zero-padded at the end, with a mask or shapes that tell what is real.

Nothing here goes through single elements or rows in Python but for the lists of shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..errors import FormatError
from ..graph.formats import FieldFormat, Layout, Shape
from ..wire.tensors import Column, from_tensor, plain, tensor_dtype, to_tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Elements are moved as whole numbers of their size: torch cannot select by mask in every dtype (float8, uint16)."""


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


def pad(column: Column) -> Tensor:
    """The rows of a ragged column as [rows, *largest], zero-padded at the end."""
    layout = column.layout
    sizes = _as_sizes(layout.shapes)
    largest = _largest(sizes)
    flat = to_tensor(Column(Layout(layout.dtype, layout.nbytes // layout.dtype.itemsize, ()), column.data))
    padded = torch.zeros((layout.rows, *largest), dtype=flat.dtype)
    _bits(padded).masked_scatter_(box(sizes, largest), _bits(flat))
    return padded


def mask_of(layout: Layout) -> Tensor:
    """Where a padded tensor of these rows has real values: bool [rows, *largest]."""
    if layout.shape is not None:
        return torch.ones((layout.rows, *layout.shape), dtype=torch.bool)
    sizes = _as_sizes(layout.shapes)
    return box(sizes, _largest(sizes))


def box(sizes: Tensor, largest: Sequence[int]) -> Tensor:
    """Bool [rows, *largest], true at the first `sizes[row, d]` places of each dimension d. sizes: int [rows, dims]."""
    mask = torch.ones((len(sizes), *largest), dtype=torch.bool)
    for dim, size in enumerate(largest):
        inside = torch.arange(size) < sizes[:, dim, None]
        mask &= inside.view(len(sizes), *(size if other == dim else 1 for other in range(len(largest))))
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
        assert value.shapes is not None
        sizes = _checked_shapes(value.shapes, rows, largest)
        mask = None
    shapes = cast(list[Shape], [tuple(size) for size in sizes.tolist()])
    if all(shape == shapes[0] for shape in shapes):
        shape = shapes[0] if shapes else tuple(size or 0 for size in form.shape)
        full = tensor[(slice(None), *(slice(size) for size in shape))]
        return Column(Layout(dtype, rows, shape), from_tensor(full.clone(memory_format=torch.contiguous_format)).data)
    flat = _bits(tensor)[box(sizes, largest) if mask is None else mask]
    return Column(Layout(dtype, rows, None, tuple(shapes)), from_tensor(flat.view(tensor.dtype)).data)


def _checked_mask(mask: Tensor, tensor: Tensor, form: FieldFormat) -> tuple[Tensor, Tensor]:
    """The mask in full and the sizes it stands for."""
    if mask.dtype is not torch.bool or not mask.dim() or mask.shape != tensor.shape[: mask.dim()]:
        got = f"{str(mask.dtype).removeprefix('torch.')}{list(mask.shape)}"
        raise FormatError(f"the mask of a padded tensor {list(tensor.shape)} must be bool of that shape, got {got}")
    mask = plain(mask)
    mask = mask.view(*mask.shape, *(1 for _ in range(tensor.dim() - mask.dim()))).expand(tensor.shape)
    rows, *largest = mask.shape
    sizes = torch.zeros((rows, len(largest)), dtype=torch.int64)
    for dim in range(len(largest)):
        others = [other + 1 for other in range(len(largest)) if other != dim]
        sizes[:, dim] = (mask.any(others) if others else mask).sum(1)
    if len(form.shape) == len(largest) and None in form.shape:
        # A row without any value shows no sizes: those that the format fixes are still there.
        empty = (sizes == 0).any(1)
        for dim, size in enumerate(form.shape):
            if size is not None:
                sizes[empty, dim] = largest[dim]
    if not torch.equal(mask, box(sizes, largest)):
        raise FormatError("the mask of a padded tensor must be true for the first values of each dimension only")
    return mask, sizes


def _checked_shapes(shapes: Sequence[Sequence[int]] | Tensor, rows: int, largest: list[int]) -> Tensor:
    if isinstance(shapes, Tensor):
        sizes = plain(shapes).to(torch.int64)
    else:
        if any(len(shape) != len(largest) for shape in shapes):
            raise FormatError(
                f"each shape of a Padded needs {len(largest)} sizes, as its tensor has dimensions per row"
            )
        sizes = _as_sizes(shapes).view(len(shapes), len(largest))
    if sizes.shape != (rows, len(largest)):
        raise FormatError(f"a Padded with {rows} rows of {len(largest)} dimensions got shapes {list(sizes.shape)}")
    if rows and bool(((sizes < 0) | (sizes > torch.tensor(largest, dtype=torch.int64))).any()):
        raise FormatError(f"a shape of a Padded does not fit in its tensor {[rows, *largest]}")
    return sizes


def _as_sizes(shapes: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([list(shape) for shape in shapes], dtype=torch.int64)


def _largest(sizes: Tensor) -> list[int]:
    return cast(list[int], sizes.amax(0).tolist()) if len(sizes) else []


def _bits(tensor: Tensor) -> Tensor:
    """The same memory as whole numbers, where torch has them in that size."""
    kind = _BITS.get(tensor.itemsize)
    return tensor if kind is None else tensor.view(kind)
