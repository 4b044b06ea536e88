"""Tensors to bytes and back, bit for bit."""

import random
import subprocess
import sys
from typing import Any

import pytest
import torch

from scatterzmq.errors import FormatError
from scatterzmq.graph.formats import DTYPE_BY_CODE, DTYPES, FieldFormat, Layout
from scatterzmq.wire.columns import Column
from scatterzmq.wire.tensors import (
    bytes_of,
    from_tensor,
    from_tensors,
    from_value,
    only_bools,
    plain,
    row_tensor,
    to_tensor,
    to_tensors,
)

ALL = [dtype.name for dtype in DTYPE_BY_CODE.values()]
SHAPES = [(1,), (3,), (0,), (3, 2), (0, 2), (2, 0), (2, 3, 1, 2), (2, 1, 0, 5)]


def noise(name: Any, shape: Any) -> Any:
    """A tensor of random bytes: NaNs with payloads, negative zeros, denormals and all."""
    dtype = getattr(torch, name)
    raw = torch.zeros(shape, dtype=dtype).reshape(-1).view(torch.uint8).numel()
    rng = random.Random(f"{name}{shape}")
    data = bytearray(rng.choices(range(2 if name == "bool" else 256), k=raw))
    return torch.frombuffer(data, dtype=dtype).view(shape) if raw else torch.empty(shape, dtype=dtype)


def bits(tensor: Any) -> Any:
    fresh = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return bytes(fresh.reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_stacked_round_trip_is_bit_exact(name: Any, shape: Any) -> None:
    tensor = noise(name, shape)
    column = from_tensor(tensor)
    assert column.layout == Layout(DTYPES[name], shape[0], shape[1:])
    assert (column.data.format, column.data.ndim, column.data.contiguous) == ("B", 1, True)
    back = to_tensor(column)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert bits(back) == bits(tensor) == bytes(column.data)


@pytest.mark.parametrize("name", ALL)
def test_rows_round_trip_is_bit_exact(name: Any) -> None:
    alike = [noise(name, (2, 3)), noise(name, (3, 2)).t(), noise(name, (2, 3))]
    column = from_tensors(alike)
    assert column.layout == Layout(DTYPES[name], 3, (2, 3))
    assert [bits(row) for row in to_tensors(column)] == [bits(row) for row in alike]
    ragged = [noise(name, (2, 3)), noise(name, (4,)), noise(name, ()), noise(name, (0,))]
    column = from_tensors(ragged)
    assert column.layout == Layout(DTYPES[name], 4, None, ((2, 3), (4,), (), (0,)))
    back = to_tensors(column)
    assert [row.shape for row in back] == [row.shape for row in ragged]
    assert [bits(row) for row in back] == [bits(row) for row in ragged]
    assert all(row.dtype is getattr(torch, name) for row in back)


@pytest.mark.parametrize("name", ALL)
def test_one_tensor_is_bit_exact(name: Any) -> None:
    for tensor in (noise(name, (2, 3)), noise(name, ()), noise(name, (3, 2)).t(), noise(name, (0, 4))):
        column = from_value(tensor, FieldFormat(name, tuple(tensor.shape)), "value")
        assert column.layout == Layout(DTYPES[name], 1, tuple(tensor.shape))
        assert bytes(column.data) == bits(tensor)
        assert bits(to_tensor(column)[0]) == bits(tensor)


def test_scalars_stack_to_rows_without_dimensions() -> None:
    column = from_tensors([torch.tensor(1.5), torch.tensor(-0.0)])
    assert column.layout == Layout(DTYPES["float32"], 2, ())
    assert to_tensor(column).shape == (2,)
    assert to_tensors(column)[1].shape == ()


def test_contiguous_tensors_share_memory() -> None:
    tensor = torch.zeros(3, 2)
    column = from_tensor(tensor)
    tensor[1, 0] = 1.0
    assert bytes(column.row(1)) == b"\0\0\x80\x3f\0\0\0\0"
    back = to_tensor(column)
    back[0, 0] = 5.0
    assert tensor[0, 0] == 5.0
    to_tensors(column)[2][1] = 7.0
    assert tensor[2, 1] == 7.0


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4).t(),
        torch.arange(12.0).view(3, 4)[:, ::2],
        torch.arange(3.0).expand(4, 3),
        torch.arange(16.0).view(1, 2, 2, 4).to(memory_format=torch.channels_last),
        torch.arange(12.0).view(3, 4)[1:2, 2:3],
        torch.arange(12.0)[4:5:2].expand(1),
        torch.arange(12.0).view(3, 4)[1:],
        torch.arange(12.0)[3::9][:1],
    ],
    ids=["transposed", "strided", "expanded", "channels_last", "single", "step", "offset", "single_strided"],
)
def test_other_memory_orders_are_copied_in_order(tensor: Any) -> None:
    column = from_tensor(tensor)
    assert bytes(column.data) == bits(tensor)
    assert torch.equal(to_tensor(column), tensor)


def test_gradients_are_left_behind() -> None:
    weights = torch.nn.Parameter(torch.ones(2, 2))
    assert not plain(weights * 2).requires_grad
    assert not to_tensor(from_tensor(weights * 2)).requires_grad
    assert torch.equal(to_tensor(from_tensors([weights, weights * 3])), torch.stack([weights, weights * 3]).detach())
    assert bytes(from_value(weights, FieldFormat("float", (2, 2)), "w").data) == bits(weights)


def test_conjugate_and_negative_views_are_carried_out() -> None:
    conjugate = torch.tensor([1 + 2j, 3 - 4j]).conj()
    negative = conjugate.imag
    assert conjugate.is_conj()
    assert negative.is_neg()
    assert to_tensor(from_tensor(conjugate)).tolist() == [1 - 2j, 3 + 4j]
    assert to_tensor(from_tensor(negative)).tolist() == [-2.0, 4.0]
    assert to_tensor(from_tensors([conjugate, conjugate.resolve_conj()])).tolist() == [[1 - 2j, 3 + 4j]] * 2
    ragged = to_tensors(from_tensors([conjugate, conjugate[:1]]))
    assert [row.tolist() for row in ragged] == [[1 - 2j, 3 + 4j], [1 - 2j]]
    one = torch.tensor([1 + 2j]).conj().imag  # contiguous: nothing but the sign stands between it and its memory
    assert to_tensor(from_tensor(one)).tolist() == [-2.0]
    value = from_value(negative, FieldFormat("float", (2,)), "value")
    assert to_tensor(value).tolist() == [[-2.0, 4.0]]


def nested() -> Any:
    make: Any = torch.nested.nested_tensor
    return make([torch.zeros(2), torch.zeros(3)])


def quantized() -> Any:
    with pytest.warns(UserWarning, match="deprecated"):
        return torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)


NO_BYTES: dict[str, tuple[Any, str]] = {
    "sparse_coo": (lambda: torch.zeros(3).to_sparse(), "sparse_coo tensor has no plain rows"),
    "mkldnn": (lambda: torch.zeros(3).to_mkldnn(), "_mkldnn tensor has no plain rows"),
    "meta": (lambda: torch.zeros(3, device="meta"), "device 'meta' has no numbers"),
    "quantized": (quantized, "no field can hold torch.qint8"),
    "nested": (nested, "a nested tensor has no plain rows"),
    "complex32": (lambda: torch.zeros(3, dtype=torch.complex32), "no field can hold torch.complex32"),
}


@pytest.mark.parametrize("kind", NO_BYTES)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_tensors_without_plain_bytes_are_refused(kind: Any) -> None:
    make, message = NO_BYTES[kind]
    tensor = make()
    with pytest.raises(FormatError, match=message):
        from_tensor(tensor)
    with pytest.raises(FormatError, match=message):
        from_tensors([tensor])
    with pytest.raises(FormatError, match="field 'value': expected float32"):
        from_value(tensor, FieldFormat("float32", (3,)), "value")


def test_batches_need_rows_and_one_dtype() -> None:
    with pytest.raises(FormatError, match="has no dimension"):
        from_tensor(torch.tensor(1.0))
    with pytest.raises(FormatError, match="one dtype, but they have float32, float64"):
        from_tensors([torch.zeros(2), torch.zeros(2, dtype=torch.float64)])
    with pytest.raises(AssertionError, match="at least one row"):
        from_tensors([])


def test_mixed_kinds_of_rows() -> None:
    with pytest.raises(FormatError, match="device 'meta'"):
        from_tensors([torch.zeros(2), torch.zeros(2, device="meta")])
    with pytest.raises(FormatError, match="sparse_coo"):
        from_tensors([torch.zeros(2), torch.zeros(2).to_sparse()])


def test_bools_that_are_neither_are_refused() -> None:
    odd = torch.tensor([0, 2, 1], dtype=torch.uint8).view(torch.bool)
    with pytest.raises(FormatError, match="neither 0 nor 1"):
        from_tensor(odd)
    with pytest.raises(FormatError, match=r"field 'mask': expected bool.3., but a bool is neither 0 nor 1"):
        from_value(odd, FieldFormat("bool", (3,)), "mask")
    assert only_bools(b"\0\1\1")
    assert not only_bools(memoryview(b"\0\1\2"))
    assert only_bools(b"")


def test_read_only_memory_is_copied() -> None:
    column = Column(Layout(DTYPES["float32"], 2, (1,)), memoryview(b"\0\0\x80\x3f\0\0\0\x40"))
    tensor = to_tensor(column)  # torch would warn, and warnings are errors
    assert tensor.tolist() == [[1.0], [2.0]]
    tensor[0] = 9.0
    assert bytes(column.row(0)) == b"\0\0\x80\x3f"


@pytest.mark.parametrize("name", ["int16", "float32", "float64", "complex128"])
def test_memory_at_odd_addresses(name: Any) -> None:
    nbytes = DTYPES[name].itemsize * 3
    raw = memoryview(bytearray(range(nbytes + 1)))[1:]
    tensor = to_tensor(Column(Layout(DTYPES[name], 3, ()), raw))
    assert tensor.data_ptr() % DTYPES[name].itemsize == 0
    assert bits(tensor) == bytes(raw)


def test_no_rows() -> None:
    assert to_tensor(Column(Layout(DTYPES["int8"], 0, (2,)), memoryview(b""))).shape == (0, 2)
    assert to_tensors(Column(Layout(DTYPES["int8"], 0, (2,)), memoryview(b""))) == []
    assert to_tensors(Column(Layout(DTYPES["int8"], 0, None, ()), memoryview(b""))) == []
    with pytest.raises(AssertionError, match="no single tensor"):
        to_tensor(Column(Layout(DTYPES["int8"], 2, None, ((1,), (0,))), memoryview(b"a")))


def test_torch_is_not_imported_for_lists_and_texts() -> None:
    script = (
        "import sys; from scatterzmq.wire import frames, tensors;"
        "from scatterzmq.graph.formats import FieldFormat as F;"
        "tensors.from_value([1.0], F('float', (1,)), 'x'); tensors.from_value('a', F('uint8', (None,)), 'x');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_bytes_of_a_tensor_are_those_of_its_column() -> None:
    tensor = torch.tensor([[1.5, -0.0], [float("nan"), 4.0]])
    assert bytes_of(tensor, DTYPES["float"]) == from_tensor(tensor).data
    assert bytes_of(tensor.T, DTYPES["float"]) == from_tensor(tensor.T.contiguous()).data
    with pytest.raises(FormatError, match="sparse"):
        bytes_of(tensor.to_sparse(), DTYPES["float"])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_bit_exact_and_in_memory_of_its_own(name: Any, shape: Any) -> None:
    stacked = noise(name, shape)
    column = from_tensor(stacked)
    for row in range(shape[0]):
        tensor = row_tensor(column, row)
        assert (tensor.dtype, tensor.shape) == (stacked.dtype, stacked.shape[1:])
        assert bits(tensor) == bits(stacked[row])
        tensor.zero_()  # may be written to
        assert bits(row_tensor(column, row)) == bits(stacked[row])


def test_a_row_among_others_of_its_own_shape() -> None:
    column = from_tensors([torch.ones(2, 1), torch.arange(3.0), torch.empty(0, 4)])
    assert row_tensor(column, 0).tolist() == [[1], [1]]
    assert row_tensor(column, 1).tolist() == [0, 1, 2]
    assert row_tensor(column, 2).shape == (0, 4)


def test_a_row_of_a_received_frame_at_an_odd_address() -> None:
    column = Column(Layout(DTYPES["float64"], 1, (1,)), memoryview(b"_" + bytes(8))[1:])
    tensor = row_tensor(column, 0)
    assert not tensor.data_ptr() % 8
    assert tensor.tolist() == [0.0]
