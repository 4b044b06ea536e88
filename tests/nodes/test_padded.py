"""Padding, masks and shapes."""

from collections.abc import Sequence
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scatterzmq.errors import FormatError
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.nodes import Padded
from scatterzmq.nodes.padded import box, mask_of, pad, unpad
from scatterzmq.wire.tensors import from_tensors, to_tensors

OPEN = FieldFormat("float", (None,))


def rows_of(shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Rows with numbers from 1 on, all different."""
    rows = []
    start = 1
    for shape in shapes:
        rows.append(torch.arange(start, start + prod(shape), dtype=torch.float32).view(tuple(shape)))
        start += prod(shape)
    return rows


@st.composite
def many_shapes(draw: st.DrawFn) -> list[tuple[int, ...]]:
    dims = draw(st.integers(1, 3))
    return draw(st.lists(st.tuples(*(st.integers(0, 3) for _ in range(dims))), min_size=1, max_size=5))


@settings(max_examples=60, deadline=None)
@given(shapes=many_shapes())
def test_padding_is_undone_by_the_shapes(shapes: list[tuple[int, ...]]) -> None:
    rows = rows_of(shapes)
    column = from_tensors(rows)
    if column.layout.shape is None:
        padded = pad(column)
        mask = mask_of(column.layout)
        assert padded.shape == mask.shape == (len(rows), *(max(sizes) for sizes in zip(*shapes, strict=True)))
        for row, one, inside in zip(rows, padded, mask, strict=True):
            assert torch.equal(one[tuple(map(slice, row.shape))], row)
            assert int(inside.sum()) == row.numel()
            assert bool((one[~inside] == 0).all())
        form = FieldFormat("float", (None,) * len(shapes[0]))
        again = unpad(Padded(padded, shapes=shapes), form)
        assert again.layout == column.layout
        assert again.data == column.data
        by_mask = unpad(Padded(padded, mask), form)
        assert by_mask.data == column.data
        kept = [shape if 0 not in shape else None for shape in shapes]
        assert all(want is None or want == by_mask.layout.row_shape(row) for row, want in enumerate(kept))


def test_what_lies_in_the_padding_is_never_seen() -> None:
    tensor = torch.full((2, 3), float("nan"))
    tensor[0, :1] = 1.0
    column = unpad(Padded(tensor, shapes=torch.tensor([[1], [0]])), OPEN)
    assert [row.tolist() for row in to_tensors(column)] == [[1.0], []]


def test_equal_shapes_smaller_than_the_tensor() -> None:
    tensor = torch.arange(12.0).view(2, 3, 2)
    column = unpad(Padded(tensor, shapes=[(2, 1), (2, 1)]), FieldFormat("float", (None, None)))
    assert column.layout.shape == (2, 1)
    assert [row.tolist() for row in to_tensors(column)] == [[[0], [2]], [[6], [8]]]


def test_what_is_unpadded_is_a_copy() -> None:
    tensor = torch.ones(2, 2)
    for value in (Padded(tensor, shapes=[(2,), (2,)]), Padded(tensor, shapes=[(2,), (1,)])):
        column = unpad(value, OPEN)
        before = bytes(column.data)
        tensor += 1
        assert bytes(column.data) == before


def test_a_mask_of_the_first_dimensions() -> None:
    tensor = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    column = unpad(Padded(tensor, mask), FieldFormat("float", (None, 2)))
    assert column.layout.shapes == ((2, 2), (0, 2))
    assert [row.tolist() for row in to_tensors(column)] == [[[0, 1], [2, 3]], []]


def test_an_empty_row_has_the_sizes_that_the_format_fixes() -> None:
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    mask[0, :, :1] = True
    assert unpad(Padded(torch.zeros(2, 2, 3), mask), FieldFormat("float", (2, None))).layout.shapes == ((2, 1), (2, 0))


@pytest.mark.parametrize(
    "mask",
    [
        [[False, True], [True, True]],
        [[True, True], [False, True]],
    ],
)
def test_a_mask_with_a_hole_is_refused(mask: list[list[bool]]) -> None:
    with pytest.raises(FormatError, match="must be true for the first values of each dimension only"):
        unpad(Padded(torch.zeros(2, 2), torch.tensor(mask)), OPEN)


def test_a_mask_that_is_no_box_is_refused() -> None:
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    mask[0, 1, 1] = False
    with pytest.raises(FormatError, match="first values of each dimension only"):
        unpad(Padded(torch.zeros(1, 2, 2), mask), FieldFormat("float", (None, None)))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Padded(torch.zeros(2, 2)), "either a mask or shapes"),
        (Padded(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), [(2,), (2,)]), "either a mask or shapes"),
        (Padded(torch.tensor(1.0), shapes=[]), r"needs a tensor \[rows, ...\]"),
        (Padded(torch.zeros(2, 2), torch.ones(2, 2)), r"must be bool of that shape, got float32\[2, 2\]"),
        (
            Padded(torch.zeros(2, 2), torch.ones(2, 3, dtype=torch.bool)),
            r"must be bool of that shape, got bool\[2, 3\]",
        ),
        (Padded(torch.zeros(2, 2), torch.tensor(True)), r"must be bool of that shape, got bool\[\]"),
        (Padded(torch.zeros(2, 2), shapes=[(1,)]), r"2 rows of 1 dimensions got shapes \[1, 1\]"),
        (Padded(torch.zeros(2, 2), shapes=[(1, 1), (1, 1)]), "needs 1 sizes"),
        (Padded(torch.zeros(2, 2), shapes=torch.ones(2, 2)), r"got shapes \[2, 2\]"),
        (Padded(torch.zeros(2, 2), shapes=[(1,), (3,)]), r"does not fit in its tensor \[2, 2\]"),
        (Padded(torch.zeros(2, 2), shapes=[(1,), (-1,)]), r"does not fit in its tensor \[2, 2\]"),
    ],
)
def test_a_padded_that_makes_no_sense(value: Padded, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        unpad(value, OPEN)


def test_a_box_of_many_rows() -> None:
    mask = box(np.array([[1, 2], [0, 2], [2, 0]]), [2, 2])
    assert mask.astype(int).tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
