"""Formats: which names there are, what fits what, and how many bytes rows take."""

import pytest

from scatterzmq.graph.formats import DTYPE_BY_CODE, DTYPES, FieldFormat, Layout

SCATTERMIND = (
    "bfloat16 bool cdouble cfloat complex128 complex64 double float float16 float32 float64 half int int16 int32 int64 "
    "int8 long short uint8"
)


def test_every_name_of_scattermind_is_known() -> None:
    assert set(SCATTERMIND.split()) <= DTYPES.keys()


@pytest.mark.parametrize(
    ("alias", "name", "itemsize"),
    [
        ("half", "float16", 2),
        ("float", "float32", 4),
        ("double", "float64", 8),
        ("short", "int16", 2),
        ("int", "int32", 4),
        ("long", "int64", 8),
        ("cfloat", "complex64", 8),
        ("cdouble", "complex128", 16),
    ],
)
def test_an_alias_is_the_same_dtype(alias: str, name: str, itemsize: int) -> None:
    assert DTYPES[alias] is DTYPES[name]
    assert DTYPES[name].itemsize == itemsize


def test_codes_on_the_wire_never_change() -> None:
    assert {dtype.name: code for code, dtype in DTYPE_BY_CODE.items()} == {
        "bool": 1, "uint8": 2, "int8": 3, "int16": 4, "int32": 5, "int64": 6, "float16": 7, "float32": 8,
        "float64": 9, "bfloat16": 10, "complex64": 11, "complex128": 12, "uint16": 13, "uint32": 14, "uint64": 15,
        "float8_e4m3fn": 16, "float8_e5m2": 17, "float8_e4m3fnuz": 18, "float8_e5m2fnuz": 19,
        "float8_e8m0fnu": 20,
    }  # fmt: skip


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown dtype 'floaty'; known are .*float32"):
        FieldFormat("floaty", (1,))


def test_a_negative_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"negative dimension in shape \[2, -1\]"):
        FieldFormat("float", (2, -1))


@pytest.mark.parametrize(
    ("shape", "given", "fits"),
    [
        ((), (), True),
        ((), (1,), False),
        ((2, None), (2, 0), True),
        ((2, None), (2, 7), True),
        ((2, None), (3, 7), False),
        ((2, None), (2,), False),
        ((0,), (0,), True),
    ],
)
def test_a_tensor_fits_if_its_rank_and_fixed_sizes_do(
    shape: tuple[int | None, ...], given: tuple[int, ...], fits: bool
) -> None:
    info = FieldFormat("float", shape)
    assert info.accepts(DTYPES["float32"], given) is fits
    assert not info.accepts(DTYPES["float64"], given)


@pytest.mark.parametrize(
    ("left", "right", "fits"),
    [
        (("float", (2, None)), ("float32", (None, 3)), True),
        (("float", (2,)), ("float", (2,)), True),
        (("float", (2,)), ("float", (3,)), False),
        (("float", (None,)), ("float", (3,)), True),
        (("float", (2,)), ("float", (2, 1)), False),
        (("float", (2,)), ("double", (2,)), False),
    ],
)
def test_formats_match_when_dtype_rank_and_fixed_sizes_agree(
    left: tuple[str, tuple[int | None, ...]], right: tuple[str, tuple[int | None, ...]], fits: bool
) -> None:
    one, other = FieldFormat(*left), FieldFormat(*right)
    assert one.compatible(other) is fits
    assert other.compatible(one) is fits


def test_a_format_is_shown_as_it_is_written() -> None:
    info = FieldFormat("float", (2, None))
    assert str(info) == "float[2, null]"
    assert info.to_json() == ["float", [2, None]]
    assert not info.is_uniform
    assert FieldFormat("float", ()).is_uniform
    assert info == FieldFormat("float", (2, None)) != FieldFormat("float32", (2, None))


def test_one_task_of_a_uniform_field_has_a_known_layout() -> None:
    assert FieldFormat("float", (2, 3)).row_layout == Layout(DTYPES["float32"], 1, (2, 3))
    assert FieldFormat("float", (2, None)).row_layout is None


def test_rows_of_one_shape_take_rows_times_shape() -> None:
    layout = Layout(DTYPES["int16"], 5, (2, 3))
    assert layout.nbytes == 60
    assert layout.row_nbytes(4) == 12
    assert layout.row_shape(4) == (2, 3)
    assert Layout(DTYPES["int16"], 0, (2, 3)).nbytes == 0
    assert Layout(DTYPES["int16"], 5, ()).nbytes == 10


def test_rows_of_different_shapes_are_summed() -> None:
    layout = Layout(DTYPES["float32"], 3, None, ((2,), (0,), (5,)))
    assert layout.nbytes == 28
    assert [layout.row_nbytes(row) for row in range(3)] == [8, 0, 20]
    assert layout.row_shape(2) == (5,)
