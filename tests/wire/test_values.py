"""What a user gives: lists, numbers, texts, arrays and tensors, as one row."""

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch

from scatterzmq.errors import FormatError
from scatterzmq.graph.formats import DTYPE_BY_CODE, FieldFormat
from scatterzmq.wire.tensors import from_value, to_tensor

WHOLE = ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
SMALL = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
POWERS = "float8_e8m0fnu"  # of two, and nothing else
FLOATS = ["float16", "float32", "float64", *SMALL]
ARRAYS = [dtype.name for dtype in DTYPE_BY_CODE.values() if dtype.name not in (*SMALL, POWERS)]


def given(value: Any, dtype: Any, *shape: Any) -> Any:
    column = from_value(value, FieldFormat(dtype, shape), "value")
    assert column.layout.rows == 1
    assert not column.data.readonly
    return to_tensor(column)[0]


def refused(message: Any, value: Any, dtype: Any, *shape: Any) -> None:
    with pytest.raises(FormatError) as caught:
        from_value(value, FieldFormat(dtype, shape), "value")
    text = str(caught.value)
    assert text.startswith(f"field 'value': expected {FieldFormat(dtype, shape)}, ")
    assert message in text
    assert "\n" not in text


# ---- lists and numbers


@pytest.mark.parametrize("name", [dtype.name for dtype in DTYPE_BY_CODE.values() if dtype.name != POWERS])
def test_lists_become_the_fields_dtype(name: Any) -> None:
    for numbers in ([0, 1, 1], [False, True, True], [0.0, 1.0, 1.0], [np.float32(0), np.int8(1), np.bool_(True)]):
        tensor = given(numbers, name, 3)
        assert tensor.dtype is getattr(torch, name)
        assert tensor.to(torch.complex128).tolist() == [0, 1, 1]
    assert given([[[1, 0]], [[0, 1]]], name, 2, None, 2).to(torch.complex64).tolist() == [[[1, 0]], [[0, 1]]]
    assert given((1, (0)), name, None).shape == (2,)
    assert given(1, name).to(torch.complex64).item() == 1
    assert given(np.int64(1), name).shape == ()
    assert given([], name, None).shape == (0,)
    assert given([[], []], name, 2, 0).shape == (2, 0)


def test_powers_of_two_have_neither_zero_nor_sign() -> None:
    assert given([1, 2.0, 3.0, 2.0**-127, 1e-300], POWERS, 5).to(torch.float64).tolist() == [1, 2, 4, 2**-127, 2**-127]
    assert given([math.nan], POWERS, 1).to(torch.float64).isnan().all()
    for number in (0, -1.0, -0.0, math.inf, -math.inf, 1e39):
        refused(f"at position 1; that is out of the range of {POWERS}", [1.0, number], POWERS, 2)


@pytest.mark.parametrize("name", FLOATS)
def test_floats_round_as_torch_rounds(name: Any) -> None:
    numbers = [0.1, -0.1, 1 / 3, 100.3, -0.0, 1e-3, 7e-8, 239.9]
    expected = torch.tensor(numbers, dtype=torch.float64).to(getattr(torch, name))
    assert torch.equal(given(numbers, name, 8).view(torch.uint8), expected.view(torch.uint8))
    assert given([math.nan], name, 1).to(torch.float64).isnan().all()


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16", "float8_e5m2"])
def test_infinity_is_a_number(name: Any) -> None:
    assert given([math.inf, -math.inf], name, 2).to(torch.float64).tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("float16", 1e5),
        ("float32", 1e39),
        ("float32", -(10**39)),
        ("float64", 10**400),
        ("bfloat16", 3.4e38),
        ("bfloat16", 10**400),
        ("float8_e4m3fn", 1000.0),
        ("float8_e4m3fn", math.inf),
        ("float8_e4m3fnuz", 1000.0),
        ("float8_e5m2", 1e6),
        ("float8_e5m2fnuz", -math.inf),
        ("complex64", 1e39),
        ("complex64", 1e39j),
        ("complex128", 10**400),
    ],
)
def test_floats_out_of_range_are_refused(name: Any, number: Any) -> None:
    refused(f"at position 1; that is out of the range of {name}", [0.5, number], name, 2)
    refused("out of the range", number, name)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_at_the_limits(name: Any) -> None:
    limits = torch.iinfo(getattr(torch, name))
    assert given([limits.min, limits.max], name, 2).tolist() == [limits.min, limits.max]
    refused(f"got {limits.max + 1} at position 1; that is out of the range of {name}", [0, limits.max + 1], name, 2)
    refused(f"got {limits.min - 1} at position 0; that is out of the range", [limits.min - 1, 0.0], name, 2)
    refused("got a int at position 0; that is out of the range", [10**5000], name, 1)
    refused("got 1.5 at position 1; that is no whole number", [1.0, 1.5], name, 2)
    refused("got nan at position 0; that is no whole number", [math.nan], name, 1)
    refused("got inf at position 0; that is no whole number", [math.inf], name, 1)
    assert given([3.0, np.float64(4)], name, 2).tolist() == [3, 4]


def test_large_integers_are_exact() -> None:
    assert given([2**63 + 1, 0], "uint64", 2).tolist() == [2**63 + 1, 0]
    assert given([2**53 + 1], "int64", 1).tolist() == [2**53 + 1]


def test_bools() -> None:
    assert given([True, 0, 1.0], "bool", 3).tolist() == [True, False, True]
    refused("got 2 at position 0; that is out of the range of bool", [2], "bool", 1)
    refused("got -1 at position 1; that is out of the range of bool", [1, -1], "bool", 2)
    refused("got 0.5 at position 0; that is no whole number", [0.5], "bool", 1)


def test_complex_numbers() -> None:
    assert given([1 + 2j, 3, True], "complex64", 3).tolist() == [1 + 2j, 3, 1]
    assert given(np.complex64(1j), "complex128").item() == 1j
    refused("got 1j at position 1; float32 has no imaginary part", [1, 1j], "float32", 2)
    refused("int8 has no imaginary part", 1j, "int8")
    refused("bfloat16 has no imaginary part", [1j], "bfloat16", 1)


@pytest.mark.parametrize("name", ["float32", "int32", "bfloat16", "complex64", "bool"])
@pytest.mark.parametrize("odd", ["1", None, b"1", {}, object(), [1], np.datetime64(1, "s"), np.str_("1")])
def test_what_is_no_number_is_refused(name: Any, odd: Any) -> None:
    refused(f"got a {type(odd).__name__} at position 1; that is no number", [1, odd], name, 2)


def test_lists_must_fit_the_shape() -> None:
    refused("got a list of shape [2]", [1, 2], "float", 3)
    refused("got a list of shape [2]", [1, 2], "float", 2, None)
    refused("got a list of shape [1, 2]", [[1, 2]], "float", 2, 2)
    refused("got a list with more than 1 levels", [[[1, 2]]], "float", 2)
    refused("got a ragged list", [[1, 2], [3]], "float", 2, None)
    refused("got a ragged list", [[1, 2], 3], "float", 2, None)
    refused("got a list of shape [3]", [1, [2, 3], 4], "float", 2)
    refused("got a single number, shape []", 1.0, "float", 1)
    refused("got a list of shape [1]", [1.0], "float")
    refused("got a list of shape [0]", [], "float", 0, 3)


def test_a_list_that_contains_itself_is_refused() -> None:
    endless: list[Any] = [1]
    endless[0] = endless
    refused("more than 2 levels", endless, "float", 1, 1)


@pytest.mark.parametrize("ready", [torch.zeros(2), torch.tensor(1.0), np.zeros(2)])
def test_lists_of_tensors_and_arrays_are_refused(ready: Any) -> None:
    refused(f"got a list of {type(ready).__name__}; stack them", [ready, ready], "float", 2, None)
    refused(f"got a list of {type(ready).__name__}; stack them", (ready,), "float", 1)


# ---- texts and bytes


def test_texts_are_their_utf8_bytes() -> None:
    assert bytes(given("Grüße", "uint8", None).numpy()) == "Grüße".encode()
    assert given("", "uint8", None).shape == (0,)
    assert given(b"\xff\0", "uint8", None).tolist() == [255, 0]
    assert given(bytearray(b"ab"), "uint8", 2).tolist() == [97, 98]
    assert given(np.str_("a"), "uint8", None).tolist() == [97]


def test_texts_elsewhere_are_refused() -> None:
    refused("got a string; only uint8", "1", "float", None)
    refused("got a string; only uint8", "1", "uint8")
    refused("got bytes; only uint8", b"1", "int8", None)
    refused("got bytes; only uint8", b"1", "uint8", None, None)
    refused("got a string of uint8[3]", "abc", "uint8", 2)
    refused("no UTF-8", "\ud800", "uint8", None)


# ---- arrays


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("order", ["<", ">", "="])
def test_arrays_are_bit_exact_in_any_byte_order(name: Any, order: Any) -> None:
    size = np.dtype(name).itemsize
    raw = bytes([1, 0] * 3 * size) if name == "bool" else bytes(range(250, 256)) * size
    array = np.frombuffer(raw, np.dtype(name).newbyteorder(order)).reshape(2, 3)
    native = array if array.dtype.isnative else array.byteswap().view(np.dtype(name))
    for view, expected in ((array, native), (array.T, native.T), (array[:, ::2], native[:, ::2])):
        column = from_value(view, FieldFormat(name, view.shape), "value")
        assert bytes(column.data) == expected.tobytes()
        assert column.layout.shape == view.shape


def test_arrays_without_dimensions_or_numbers() -> None:
    assert given(np.array(5), "int64").item() == 5
    assert given(np.array(True), "bool").item() is True
    assert given(np.zeros((0, 3), np.float32), "float", None, 3).shape == (0, 3)
    assert given(np.zeros((3, 0), ">f4"), "float", 3, None).shape == (3, 0)
    assert given(np.array([3]), "int64", 1).tolist() == [3]  # bytearray(array) would make three zero bytes


def test_arrays_are_copied() -> None:
    array = np.zeros(2, np.float32)
    column = from_value(array, FieldFormat("float", (2,)), "value")
    array[0] = 1
    assert bytes(column.data) == bytes(8)
    tensor = torch.zeros(2)
    column = from_value(tensor, FieldFormat("float", (2,)), "value")
    tensor[0] = 1
    assert bytes(column.data) == bytes(8)
    raw = bytearray(2)
    column = from_value(raw, FieldFormat("uint8", (2,)), "value")
    raw[0] = 1
    assert bytes(column.data) == bytes(2)


def test_arrays_are_never_converted() -> None:
    refused("got float64[2]; arrays are never converted; use .astype('float32')", np.zeros(2), "float", 2)
    refused("got float64[2, 3]; arrays", np.zeros((2, 3)), "float", 2, None)
    refused("got int64[]", np.array(1), "int32")
    refused("got float32[3]; the shape must be", np.zeros(3, np.float32), "float", 2)
    refused("got float32[1, 2]; the shape must be", np.zeros((1, 2), np.float32), "float", 2)
    refused("got uint8[2]", np.zeros(2, np.uint8), "bool", 2)
    refused("got float16[2]", np.zeros(2, ">f2"), "bfloat16", 2)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array([b"a"]),
        np.array([None]),
        np.array([object()]),
        np.array([1], "M8[s]"),
        np.zeros(1, [("x", "f4")]),
        np.zeros(1, "V4"),
        np.zeros(1, np.longdouble),
        np.zeros(1, ">f8").astype(object),
    ],
    ids=lambda array: array.dtype.name,
)
def test_arrays_of_other_things_are_refused(array: Any) -> None:
    refused(f"got {array.dtype.name}[1]", array, "float64", 1)


def test_masked_arrays_and_odd_bools_are_refused() -> None:
    masked = np.ma.masked_array(np.zeros(2, np.float32), [False, True])
    refused("got a MaskedArray of float32[2]", masked, "float", 2)
    refused("neither 0 nor 1", np.array([0, 2], np.uint8).view(bool), "bool", 2)
    assert given(np.ones((1, 2), np.float32).view(np.matrix), "float", 1, 2).tolist() == [[1, 1]]


# ---- tensors and the rest


def test_tensors_are_never_converted() -> None:
    refused("got float64[2]; tensors are never converted; use .to(torch.float32)", torch.zeros(2).double(), "float", 2)
    refused("got float16[2]; tensors", torch.zeros(2).half(), "bfloat16", 2)
    refused("got float32[2, 3]; the shape must be", torch.zeros(2, 3), "float", 2)
    refused("got float32[]; the shape", torch.tensor(1.0), "float", 1)


@pytest.mark.parametrize("odd", [None, {}, {1}, range(3), memoryview(b"a"), object()])
def test_other_values_are_refused(odd: Any) -> None:
    refused(f"got a value of type {type(odd).__name__}; give a number", odd, "uint8", None)


def test_the_message_is_whole() -> None:
    with pytest.raises(FormatError) as caught:
        from_value(np.zeros((2, 3)), FieldFormat("float", (2, None)), "value")
    assert str(caught.value) == (
        "field 'value': expected float[2, null], got float64[2, 3]; arrays are never converted; use .astype('float32')"
    )


def test_packed_values_are_little_endian() -> None:
    column = from_value([1.5, -2.0], FieldFormat("float", (2,)), "value")
    assert bytes(column.data) == struct.pack("<2f", 1.5, -2.0)
    assert bytes(from_value([258], FieldFormat("int", (1,)), "value").data) == b"\2\1\0\0"
