"""From and to tensors, bit for bit, and from whatever else a user gives as one row.

torch is imported by the functions that make or take tensors, never by importing this module.
"""

import struct
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FormatError
from ..graph.formats import DTYPE_BY_CODE, DTYPES, DType, FieldFormat, Layout, Shape
from .columns import Column, alike, fingerprint, gather, join, row_digests, split

if TYPE_CHECKING:
    import torch

__all__ = [
    "Column", "bytes_of", "check_bool", "fingerprint", "from_tensor", "from_tensors", "from_value", "gather", "join",
    "only_bools", "plain", "row_digests", "row_tensor", "split", "tensor_dtype", "to_flat", "to_tensor", "to_tensors",
]  # fmt: skip

assert sys.byteorder == "little", "columns are little-endian and share memory with torch"


# ---- tensors


def to_tensor(column: Column) -> "torch.Tensor":
    """A uniform column as one tensor [rows, *shape]. Shares memory unless that is read-only or not aligned."""
    layout = column.layout
    assert layout.shape is not None, "rows of different shapes are no single tensor"
    return to_flat(column).view(layout.rows, *layout.shape)


def to_tensors(column: Column) -> "list[torch.Tensor]":
    """One tensor per row. Shares memory as `to_tensor` does."""
    layout = column.layout
    if layout.shape is not None:
        return list(to_tensor(column).unbind(0))
    import torch

    flat = to_flat(column)
    sizes = [prod(shape) for shape in layout.shapes]
    parts = torch.split(flat, sizes) if sizes else ()
    # A view costs more than all the rest, and most rows of different lengths are texts.
    return [part if len(shape) == 1 else part.view(shape) for part, shape in zip(parts, layout.shapes, strict=True)]


def row_tensor(column: Column, row: int) -> "torch.Tensor":
    """One row in memory of its own. Copied as bytes, which takes a fraction of the time of a tensor's `clone`."""
    import torch

    layout = column.layout
    kind = _to_torch()[layout.dtype.name]
    shape = layout.shapes[row] if layout.shape is None else layout.shape
    data = bytearray(column.data if layout.rows == 1 else column.row(row))
    if not data:
        return torch.empty(shape, dtype=kind)
    flat = torch.frombuffer(data, dtype=kind)
    return flat if len(shape) == 1 else flat.view(shape)


def from_tensor(stacked: "torch.Tensor") -> Column:
    """A tensor [rows, *shape] as a uniform column, bit for bit.

    Shares memory with a contiguous tensor on the CPU, else copies. Raises FormatError for a tensor without
    plain bytes (sparse, nested, quantized, meta), of an unknown dtype, or without a dimension for the rows.
    """
    dtype = tensor_dtype(stacked)
    dense = plain(stacked)  # first: the others have no shape to ask for
    if not dense.dim():
        raise FormatError(
            "a batch is a tensor [rows, ...], but this one has no dimension; give it one with .reshape(1)"
        )
    shape = tuple(dense.shape)
    return Column(Layout(dtype, shape[0], shape[1:]), _memory(dense, dtype))


def from_tensors(tensors: "Sequence[torch.Tensor]") -> Column:
    """One row per tensor, copied; uniform if all shapes are equal. Raises FormatError as `from_tensor`, or if their
    dtypes differ.
    """
    import torch

    assert tensors, "a column needs a dtype, so at least one row"
    dtype = tensor_dtype(tensors[0])
    kinds = {(tensor.dtype, tensor.device.type, tensor.layout, tensor.is_nested) for tensor in tensors}
    if len({kind[0] for kind in kinds}) > 1:
        found = sorted({str(kind[0]).removeprefix("torch.") for kind in kinds})
        raise FormatError(f"all rows of a field need one dtype, but they have {', '.join(found)}; convert them")
    with torch.no_grad():
        parts = tensors if kinds == {(tensors[0].dtype, "cpu", torch.strided, False)} else [plain(t) for t in tensors]
        layout = alike(dtype, [tuple(tensor.shape) for tensor in parts])
        if layout.shape is not None:
            whole = torch.stack(tuple(parts))
        else:
            whole = torch.cat([part.reshape(-1) for part in parts])
    return Column(layout, _memory(plain(whole), dtype))


def tensor_dtype(tensor: "torch.Tensor") -> DType:
    """Raises FormatError for a dtype that no field can have (quantized ones, for example)."""
    dtype = _from_torch().get(tensor.dtype)
    if dtype is None:
        raise FormatError(f"no field can hold {tensor.dtype}; convert the tensor to one of {', '.join(_to_torch())}")
    return dtype


def plain(tensor: "torch.Tensor") -> "torch.Tensor":
    """The same numbers without gradient, on the CPU, with conjugation and negation carried out.

    Raises FormatError for a tensor whose numbers do not lie in memory one by one.
    """
    import torch

    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise FormatError(f"a {kind} tensor has no plain rows of numbers; make it dense first (.to_dense())")
    if tensor.is_meta:
        raise FormatError("a tensor on the device 'meta' has no numbers; compute it on a real device")
    if tensor.is_cpu and not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg()):
        return tensor  # there is nothing to be left behind or carried out, as nearly always
    return tensor.detach().cpu().resolve_conj().resolve_neg()


def bytes_of(tensor: "torch.Tensor", dtype: DType) -> memoryview:
    """The numbers of a tensor of this dtype as a column holds them. Shares memory and raises as `from_tensor`."""
    return _memory(plain(tensor), dtype)


def only_bools(data: bytes | bytearray | memoryview) -> bool:
    """Whether each byte is 0 or 1, as a bool must be: what torch does with others is undefined."""
    return not len(data) or int(np.frombuffer(data, np.uint8).max()) <= 1


def check_bool(data: bytes | bytearray | memoryview) -> None:
    """Raises FormatError unless `only_bools`."""
    if not only_bools(data):
        raise FormatError("a bool is neither 0 nor 1 in memory; compare with != 0 to get proper ones")


def _memory(tensor: "torch.Tensor", dtype: DType) -> memoryview:
    """The memory of a plain tensor, copied only if it is not contiguous."""
    if not tensor.numel():
        return memoryview(bytearray())
    if dtype.name in _CODES and tensor.is_contiguous():
        data = tensor.numpy().data.cast("B")  # numpy knows the dtype: half as long as the same with tensors
    else:
        import torch

        # A single number counts as contiguous whatever its stride, but only the stride 1 can be viewed as bytes.
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        data = flat.view(torch.uint8).numpy().data
    if dtype.name == "bool":
        check_bool(data)
    return data


def to_flat(column: Column) -> "torch.Tensor":
    """All numbers of all rows in one dimension. Shares memory as `to_tensor` does."""
    import torch

    dtype = column.layout.dtype
    kind = _to_torch()[dtype.name]
    if not column.data:
        return torch.empty(0, dtype=kind)
    flat = torch.frombuffer(bytearray(column.data) if column.data.readonly else column.data, dtype=kind)
    if flat.data_ptr() % dtype.itemsize:
        # A received frame may begin anywhere; vector instructions crash on numbers at odd addresses.
        flat = torch.frombuffer(bytearray(column.data), dtype=kind)
    return flat


@cache
def _to_torch() -> "Mapping[str, torch.dtype]":
    import torch

    # The names are our own list, never text that came from outside.
    return {dtype.name: getattr(torch, dtype.name) for dtype in DTYPE_BY_CODE.values()}


@cache
def _from_torch() -> "Mapping[torch.dtype, DType]":
    return {_to_torch()[dtype.name]: dtype for dtype in DTYPE_BY_CODE.values()}


# ---- what a user gives

_NUMPY = {np.dtype(name): DTYPES[name] for name in (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128",
    "uint16", "uint32", "uint64",
)}  # fmt: skip
_CODES = {
    "bool": "B", "uint8": "B", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint16": "H", "uint32": "I",
    "uint64": "Q", "float16": "e", "float32": "f", "float64": "d", "complex64": "f", "complex128": "d",
}  # fmt: skip
"""dtype -> how the struct module calls it, which rounds as IEEE says and refuses what is out of range"""
_COMPLEX = frozenset(("complex64", "complex128"))
_WHOLE = frozenset(name for name in _CODES if "int" in name or name == "bool")
_INTEGERS = frozenset({int, bool, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64})
_REALS = _INTEGERS | {float, np.float16, np.float32, np.float64}
_PLAIN: Mapping[str, frozenset[type]] = {
    name: frozenset() if name in _COMPLEX else _INTEGERS if name in _WHOLE else _REALS for name in _CODES
} | {"bool": frozenset({bool})}
"""dtype -> types of numbers that struct converts to it rightly by itself"""
_SCALARS = (int, float, complex, np.generic)


def from_value(value: object, format: FieldFormat, field: str) -> Column:  # noqa: A002 -- the word users know
    """One row from what a user gives, always a private copy.

    value: a number or a list of (lists of) numbers, converted to the format's dtype if that can hold them; a string
        (its UTF-8 bytes) or bytes, for uint8 fields; an ndarray or a Tensor, never converted.
    Raises FormatError with field, expected and actual.
    """
    shape: Shape
    data: bytearray
    if isinstance(value, np.ndarray):
        shape, data = _from_array(value, format, field)
    elif isinstance(value, (list, tuple)):
        shape, numbers = _flattened(value, format, field)
        if shape != format.shape:
            _check_shape(format, field, shape, "a list of shape ")
        data = _packed(numbers, format, field)
    elif isinstance(value, (str, bytes, bytearray)):
        data = _from_text(value, format, field)
        shape = (len(data),)
    elif isinstance(value, _SCALARS):
        shape = ()
        _check_shape(format, field, shape, "a single number, shape ")
        data = _packed([value], format, field)
    elif "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        shape, data = _from_one_tensor(value, format, field)
    else:
        what = type(value).__name__
        raise _refused(
            format, field, f"a value of type {what}", "give a number, a list, a string, an ndarray or a Tensor"
        )
    return Column(format.row_layout or Layout(format.dtype, 1, shape), memoryview(data))


def _from_array(array: "np.ndarray[Any, Any]", want: FieldFormat, field: str) -> tuple[Shape, bytearray]:
    dtype = _NUMPY.get(array.dtype)  # other byte orders are no keys of it
    masked = type(array) is not np.ndarray and hasattr(array, "mask")
    native = array.dtype.newbyteorder("=") if dtype is None else array.dtype
    if dtype is None and native in _NUMPY:
        dtype, array = _NUMPY[native], array.byteswap().view(native)
    shape = array.shape
    if dtype is not want.dtype or masked:
        kind = f"a {type(array).__name__} of " if masked else ""
        advice = f"arrays are never converted; use .astype({want.dtype.name!r})"
        raise _refused(want, field, f"{kind}{_sized(array.dtype.name, shape)}", advice)
    if shape != want.shape:
        _check_shape(want, field, shape, dtype.name)
    data = bytearray(array.data)
    if dtype.name == "bool" and not only_bools(data):
        raise _refused(want, field, "a bool that is neither 0 nor 1 in memory", "compare with != 0 to get proper ones")
    return shape, data


def _from_one_tensor(tensor: "torch.Tensor", want: FieldFormat, field: str) -> tuple[Shape, bytearray]:
    name = str(tensor.dtype).removeprefix("torch.")
    nested = tensor.is_nested  # then it has no shape to ask for
    shape = () if nested else tuple(tensor.shape)
    if DTYPES.get(name) != want.dtype:
        advice = f"tensors are never converted; use .to(torch.{want.dtype.name})"
        raise _refused(want, field, _sized(name, shape), advice)
    if not nested:
        _check_shape(want, field, shape, name)
    try:
        return shape, bytearray(_memory(plain(tensor), want.dtype))
    except FormatError as error:
        raise FormatError(f"field {field!r}: expected {want}, but {error}") from None


def _from_text(value: str | bytes | bytearray, want: FieldFormat, field: str) -> bytearray:
    what = "a string" if isinstance(value, str) else "bytes"
    if want.dtype.name != "uint8" or len(want.shape) != 1:
        raise _refused(want, field, what, "only uint8 fields with one dimension hold text or bytes")
    try:
        data = bytearray(value, "utf-8") if isinstance(value, str) else bytearray(value)
    except UnicodeEncodeError as error:
        raise _refused(
            want, field, f"a string that is no UTF-8 ({error.reason})", "remove the lone surrogates"
        ) from None
    _check_shape(want, field, (len(data),), f"{what} of uint8")
    return data


def _flattened(value: Sequence[object], want: FieldFormat, field: str) -> tuple[Shape, Sequence[object]]:
    """Shape and numbers of nested lists."""
    shape = [len(value)]
    level: Sequence[Any] = value
    while level and isinstance(level[0], (list, tuple)):
        lengths = {len(part) if isinstance(part, (list, tuple)) else None for part in level}
        if len(lengths) > 1 or len(shape) > len(want.shape):
            got = "a ragged list" if len(lengths) > 1 else f"a list with more than {len(want.shape)} levels"
            raise _refused(want, field, got, "all lists of a level must have the same length")
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    if level and hasattr(level[0], "shape") and not isinstance(level[0], np.generic):
        raise _refused(want, field, f"a list of {type(level[0]).__name__}", "stack them into one first")
    return tuple(shape), level


def _packed(numbers: Sequence[Any], want: FieldFormat, field: str) -> bytearray:
    """The numbers in the format's dtype, all at once if they are plain; else one by one, which finds a misfit."""
    dtype = want.dtype
    code = _CODES.get(dtype.name)
    if code is None:
        return _packed_by_torch(numbers, want, field)
    if _PLAIN[dtype.name].issuperset(map(type, numbers)):
        data = bytearray(len(numbers) * dtype.itemsize)
        try:
            struct.pack_into(f"<{len(numbers)}{code}", data, 0, *numbers)
        except (struct.error, OverflowError):
            pass  # one is out of range: found below, with its place
        else:
            return data
    packed = bytearray()
    for place, number in enumerate(numbers):
        try:
            exact = _converted(number, dtype)
            packed += (
                struct.pack(f"<{code}", exact)
                if type(exact) is not complex
                else struct.pack(f"<2{code}", exact.real, exact.imag)
            )
        except (ValueError, OverflowError, struct.error) as error:
            raise _misfit(number, place, error, want, field) from None
    return packed


def _packed_by_torch(numbers: Sequence[Any], want: FieldFormat, field: str) -> bytearray:
    """For the floats that only torch knows."""
    import torch

    reals = []
    for place, number in enumerate(numbers):
        try:
            reals.append(_converted(number, want.dtype))
        except (ValueError, OverflowError) as error:
            raise _misfit(number, place, error, want, field) from None
    kind = _to_torch()[want.dtype.name]
    given = torch.tensor(reals, dtype=torch.float64)
    rounded = given.to(kind)
    # Beyond the largest number torch makes infinity, NaN or the largest number of it, by dtype and version.
    back = rounded.to(torch.float64)
    lost = (given.abs() > torch.finfo(kind).max) & ~(given.isinf() & back.isinf())
    lost |= (given <= 0) & (back > 0)  # float8_e8m0fnu has neither zero nor signs
    if lost.any():
        place = int(lost.nonzero()[0])
        raise _misfit(numbers[place], place, OverflowError(), want, field)
    return bytearray(_memory(rounded, want.dtype))


def _converted(number: Any, dtype: DType) -> int | float | complex:
    """A Python number of the dtype's family. Raises ValueError with the reason, or OverflowError."""
    if isinstance(number, np.generic):
        number = number.item()
    if not isinstance(number, (int, float, complex)):
        raise ValueError("that is no number")
    if dtype.name in _COMPLEX:
        return complex(number)
    if isinstance(number, complex):
        raise ValueError(f"{dtype.name} has no imaginary part")
    if dtype.name not in _WHOLE:
        return float(number)
    if isinstance(number, float) and not number.is_integer():
        raise ValueError("that is no whole number")
    if dtype.name == "bool" and number not in (0, 1):
        raise OverflowError
    return int(number)


# ---- what is wrong


def _check_shape(want: FieldFormat, field: str, shape: Shape, what: str) -> None:
    if shape == want.shape:
        return
    fits = len(shape) == len(want.shape)
    if not fits or any(size is not None and size != have for size, have in zip(want.shape, shape, strict=True)):
        raise _refused(
            want, field, _sized(what, shape), "the shape must be that of one task, without a batch dimension"
        )


def _misfit(number: object, place: int, error: Exception, want: FieldFormat, field: str) -> FormatError:
    shown = repr(number) if isinstance(number, (float, complex)) else f"a {type(number).__name__}"
    if isinstance(number, int) and number.bit_length() <= 128:  # longer ones may not even be convertible to text
        shown = repr(number)
    why = str(error) if type(error) is ValueError else f"that is out of the range of {want.dtype.name}"
    return _refused(want, field, f"{shown} at position {place}", why)


def _refused(want: FieldFormat, field: str, got: str, advice: str) -> FormatError:
    return FormatError(f"field {field!r}: expected {want}, got {got}; {advice}")


def _sized(what: str, shape: Sequence[int]) -> str:
    return f"{what}{list(shape)}"
