"""A tensor as bytes of a blob: a small header that describes it, then its elements. Nothing in it is ever executed.

8 bytes  magic
1 byte   number of the dtype (graph/formats.py), 1 byte rank, 6 bytes zero
8 bytes  per dimension, unsigned, little-endian; padded with zeros to a multiple of 64
elements, contiguous, little-endian
"""

import struct
from math import prod
from typing import TYPE_CHECKING

from ..errors import BlobError, FormatError
from ..graph.formats import DTYPE_BY_CODE, DTYPES, DType, FieldFormat, Layout, Shape
from ..wire.tensors import Column, check_bool, from_tensor, from_value, plain, to_tensor

if TYPE_CHECKING:
    import numpy as np
    import torch

ALIGNMENT = 64
"""Records start at multiples of it, and so do their elements: torch's kernels are fastest there."""
RANK_MAX = 8

_MAGIC = b"\x93SZTNSR\n"
_HEAD = struct.Struct("<8sBB6x")


def encode_tensor(tensor: "torch.Tensor | np.ndarray", place: str) -> tuple[bytes, memoryview]:
    """Header and elements. place: what errors name. Raises FormatError for what cannot be written so."""
    import numpy as np
    import torch

    if not isinstance(tensor, (np.ndarray, torch.Tensor)):
        raise FormatError(f"{place}: expected a tensor or an ndarray, got {type(tensor).__name__}; see torch.tensor()")
    try:
        if isinstance(tensor, torch.Tensor):
            column = from_tensor(plain(tensor).unsqueeze(0))
        elif tensor.dtype.name in DTYPES:
            column = from_value(tensor, FieldFormat(tensor.dtype.name, tensor.shape), "tensor")
        else:
            raise FormatError(f"no field can hold an array of {tensor.dtype.name}; convert it with .astype()")
    except FormatError as error:
        raise FormatError(f"{place}: {error}") from None
    shape = column.layout.row_shape(0)
    if len(shape) > RANK_MAX:
        raise FormatError(f"{place}: {len(shape)} dimensions are too many; at most {RANK_MAX} can be written")
    head = _HEAD.pack(_MAGIC, column.layout.dtype.code, len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    return head + bytes(-len(head) % ALIGNMENT), column.data


def decode_tensor(data: memoryview, format: FieldFormat | None, place: str) -> "torch.Tensor":  # noqa: A002
    """The tensor of a record, sharing its memory; without a header the bytes are the elements of a fixed `format`.

    data: writable (torch warns otherwise). place: what errors name. Raises BlobError for anything that does not fit.
    """
    if data[: len(_MAGIC)] == _MAGIC:
        dtype, shape, elements = _parse(data, place)
        if format is not None and not format.accepts(dtype, shape):
            raise BlobError(f"{place}: expected {format}, it holds {FieldFormat(dtype.name, shape)}")
    elif format is None:
        raise BlobError(f"{place}: no tensor was written there with write_tensor(); give the offset:length it returned")
    else:
        dtype, shape, elements = format.dtype, tuple(size or 0 for size in format.shape), data
        if not format.is_uniform or prod(shape) * dtype.itemsize != len(data):
            raise BlobError(f"{place}: expected {format}, it holds {len(data)} bytes without a header")
    if dtype.name == "bool":
        check_bool(elements)
    return to_tensor(Column(Layout(dtype, 1, shape), elements))[0]


def _parse(data: memoryview, place: str) -> tuple[DType, Shape, memoryview]:
    if len(data) >= _HEAD.size:
        _, code, rank = _HEAD.unpack_from(data)
        head = _HEAD.size + 8 * rank
        dtype = DTYPE_BY_CODE.get(code)
        if dtype is not None and rank <= RANK_MAX and len(data) >= head:
            shape: Shape = struct.unpack_from(f"<{rank}Q", data, _HEAD.size)
            start = head + -head % ALIGNMENT
            if len(data) == start + prod(shape) * dtype.itemsize:
                return dtype, shape, data[start:]
    raise BlobError(
        f"{place}: the record of a tensor there is damaged or cut; give the offset:length it was written as"
    )
