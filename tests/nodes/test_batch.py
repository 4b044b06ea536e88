"""What a node gets and how it answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scatterzmq.errors import ErrorCode, FormatError
from scatterzmq.graph.formats import DTYPE_BY_CODE, FieldFormat, Layout
from scatterzmq.nodes import Batch, BatchError, CallSite, Flat, InputsChanged, Padded
from scatterzmq.nodes import batch as batches
from scatterzmq.wire.tensors import Column, from_tensor, from_tensors, to_tensors

FLOATS = FieldFormat("float", (2,))
RAGGED = FieldFormat("int", (None,))
TEXT = FieldFormat("uint8", (None,))
OUT = {"out": {"value": FLOATS}, "ragged": {"value": RAGGED}, "text": {"text": TEXT}, "none": {}}


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    """Three tasks."""
    values = {
        "value": [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0])],
        "ragged": [torch.tensor(row, dtype=torch.int32) for row in ([1, 2], [], [3])],
        "text": [torch.tensor(list(text.encode()), dtype=torch.uint8) for text in ("grün", "", "a")],
    }
    inputs = {"value": FLOATS, "ragged": RAGGED, "text": TEXT}
    site = CallSite(graph="other", args={"arg": FLOATS}, output="out")
    return make_batch(inputs, OUT, values, calls=(site,), token="7-P1-3", dead={12}, positions=[11, 12, 13])


def only(batch: Batch, field: str = "value") -> Column:
    """The column of the one answer."""
    ((_, _, columns, _),), rejections = batch.finish()
    assert rejections == []
    return columns[field]


def values(column: Column) -> list[object]:
    return [tensor.tolist() for tensor in to_tensors(column)]


# ---- inputs


def test_the_inputs_in_all_ways(batch: Batch) -> None:
    assert len(batch) == 3
    assert batch.task_ids[2] == "T" + "0" * 31 + "2"
    assert batch.uniform("value").tolist() == [[1, 2], [3, 4], [5, 6]]
    assert [row.tolist() for row in batch.rows("value")] == [[1, 2], [3, 4], [5, 6]]
    assert [row.tolist() for row in batch.rows("ragged")] == [[1, 2], [], [3]]
    padded, mask = batch.padded("ragged")
    assert padded.tolist() == [[1, 2], [0, 0], [3, 0]]
    assert padded.dtype is torch.int32
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    assert batch.shapes("ragged") == [(2,), (0,), (1,)]
    assert batch.shapes("value") == [(2,)] * 3
    assert batch.texts("text") == ["grün", "", "a"]
    assert batch.raw("text") == ["grün".encode(), b"", b"a"]
    assert batch.nbytes == 3 * 8 + 3 * 4 + 6


def test_padded_of_equal_shapes_is_the_uniform_tensor(batch: Batch) -> None:
    padded, mask = batch.padded("value")
    assert padded.data_ptr() == batch.uniform("value").data_ptr()
    assert mask.tolist() == [[True, True]] * 3


def test_uniform_shares_memory_with_the_column(make_batch: Callable[..., Batch]) -> None:
    column = from_tensor(torch.arange(4.0).view(2, 2))
    batch = make_batch({"value": FLOATS}, OUT, {"value": column})
    assert batch.uniform("value").data_ptr() == torch.frombuffer(column.data, dtype=torch.uint8).data_ptr()
    assert batch.uniform("value").data_ptr() == batch.rows("value")[0].data_ptr()


def test_flat_is_all_values_in_a_row(batch: Batch) -> None:
    assert batch.flat("ragged").tolist() == [1, 2, 3]
    assert batch.flat("value").tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.flat("ragged").data_ptr() == address(batch.column("ragged"))


def test_uniform_needs_a_format_without_null(batch: Batch) -> None:
    with pytest.raises(FormatError, match=r"ns:main:node: input 'ragged' is int\[null\].*use padded\(\) or rows\(\)"):
        batch.uniform("ragged")


@pytest.mark.parametrize("way", ["uniform", "padded", "rows", "shapes", "raw", "texts", "column"])
def test_an_unknown_input(batch: Batch, way: str) -> None:
    with pytest.raises(
        BatchError, match="ns:main:node: the node has no input 'nope'; its inputs are: value, ragged, text"
    ):
        getattr(batch, way)("nope")


def test_text_that_is_none_names_the_task(make_batch: Callable[..., Batch]) -> None:
    rows = [torch.tensor(row, dtype=torch.uint8) for row in ([65], [255])]
    batch = make_batch({"text": TEXT}, {}, {"text": rows})
    with pytest.raises(FormatError, match=r"input 'text' of task T0*1 \(row 1\) is no UTF-8"):
        batch.texts("text")


def test_tokens_and_life(batch: Batch) -> None:
    assert batch.fencing_token(0) == "7-P1-3"
    assert [batch.alive(row) for row in range(3)] == [True, False, True]


def test_alive_counts_rows_itself_by_default(make_batch: Callable[..., Batch]) -> None:
    dead: set[int] = set()
    batch = make_batch({}, {}, {}, 2, dead=dead)
    assert batch.alive(1)
    dead.add(1)
    assert [batch.alive(0), batch.alive(1)] == [True, False]


# ---- answers


def test_emit_a_tensor(batch: Batch) -> None:
    batch.emit("out", value=batch.uniform("value") * 2)
    ((output, rows, columns, call),), rejections = batch.finish()
    assert (output, rows, call, rejections) == ("out", (0, 1, 2), None, [])
    assert columns["value"].layout == Layout(FLOATS.dtype, 3, (2,))
    assert values(columns["value"]) == [[2, 4], [6, 8], [10, 12]]


def test_answers_in_any_mixture(batch: Batch) -> None:
    batch.emit("ragged", [2], value=[torch.tensor([7, 8], dtype=torch.int32)])
    batch.call("out", "other", torch.tensor([True, False, False]), arg=torch.ones(1, 2))
    batch.reject(1, "no", code="out_of_memory", final=True)
    answers, rejections = batch.finish()
    assert [(answer.output, answer.rows, answer.call) for answer in answers] == [
        ("ragged", (2,), None),
        ("out", (0,), "other"),
    ]
    assert values(answers[1].columns["arg"]) == [[1, 1]]
    assert [tuple(rejection) for rejection in rejections] == [((1,), "no", ErrorCode.OUT_OF_MEMORY, True, "")]


def test_rows_are_answered_in_the_order_given(batch: Batch) -> None:
    batch.emit("out", torch.tensor([2, 0]), value=torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    batch.emit("none", (1,))
    answers, _ = batch.finish()
    assert [answer.rows for answer in answers] == [(2, 0), (1,)]
    assert values(answers[0].columns["value"]) == [[1, 1], [2, 2]]


def test_no_rows_are_no_answer(batch: Batch) -> None:
    batch.emit("out", [], value=torch.zeros(0, 2))
    batch.emit("out", [], value=[])
    batch.emit("ragged", [], value=Flat(torch.zeros(0, dtype=torch.int32), []))
    batch.emit("ragged", [], value=Padded(torch.zeros(0, 4, dtype=torch.int32), shapes=[]))
    batch.reject([], "nobody")
    batch.emit("none")
    answers, rejections = batch.finish()
    assert [answer.output for answer in answers] == ["none"]
    assert rejections == []


def test_a_list_of_tensors_may_be_ragged(batch: Batch) -> None:
    rows = [torch.tensor(row, dtype=torch.int32) for row in ([1], [], [2, 3])]
    batch.emit("ragged", value=rows)
    rows[0].fill_(9)
    assert values(only(batch)) == [[1], [], [2, 3]]


def test_texts_can_be_emitted(batch: Batch) -> None:
    batch.emit("text", text=["grün", "", "ab"])
    column = only(batch, "text")
    assert [bytes(column.row(row)).decode() for row in range(3)] == ["grün", "", "ab"]


def test_texts_of_one_length_are_uniform(batch: Batch) -> None:
    batch.emit("text", text=[b"ab", b"cd", b"ef"])
    assert only(batch, "text").layout.shape == (2,)


def test_a_column_can_be_passed_on_and_is_copied(batch: Batch) -> None:
    column = batch.column("ragged")
    batch.emit("ragged", value=column)
    passed = only(batch)
    assert passed.layout == column.layout
    assert passed.data == column.data
    column.data[:] = bytes(len(column.data))
    assert values(passed) == [[1, 2], [], [3]]


@pytest.mark.usefixtures("as_if_large")
def test_flat_values_are_not_copied(batch: Batch) -> None:
    result = batch.flat("ragged") * 2
    place = result.data_ptr()
    batch.emit("ragged", value=Flat(result, batch.shapes("ragged")))
    del result
    column = only(batch)
    assert values(column) == [[2, 4], [], [6]]
    assert address(column) == place


def test_flat_values_of_equal_rows_are_uniform(batch: Batch) -> None:
    batch.emit("out", value=Flat(batch.flat("value"), [(2,), (2,), (2,)]))
    column = only(batch)
    assert column.layout.shape == (2,)
    assert address(column) != address(batch.column("value"))


def test_flat_values_with_a_tensor_of_shapes(batch: Batch) -> None:
    batch.emit("ragged", value=Flat(batch.flat("ragged"), torch.tensor([[1], [1], [1]])))
    assert only(batch).layout == Layout(RAGGED.dtype, 3, (1,))


def test_flat_values_in_inference_mode(batch: Batch) -> None:
    with torch.inference_mode():
        result = batch.flat("ragged") * 2
        batch.emit("ragged", value=Flat(result, batch.shapes("ragged")))
        result += 1
        assert values(only(batch)) == [[2, 4], [], [6]]


def test_fields_with_any_name(make_batch: Callable[..., Batch]) -> None:
    names = ["rows", "output", "graph", "self", "a-b"]
    formats = dict.fromkeys(names, FLOATS)
    site = CallSite(graph="g", args=formats, output="out")
    batch = make_batch({}, {"out": formats}, {}, 1, calls=(site,))
    batch.answer("out", {name: torch.full((1, 2), float(index)) for index, name in enumerate(names)}, call="g")
    (answer,), _ = batch.finish()
    assert {name: values(column) for name, column in answer.columns.items()} == {
        name: [[index, index]] for index, name in enumerate(names)
    }


@pytest.mark.parametrize("dtype", DTYPE_BY_CODE.values(), ids=lambda dtype: dtype.name)
def test_every_dtype_goes_in_and_out_bit_for_bit(make_batch: Callable[..., Batch], dtype: Any) -> None:
    form = FieldFormat(dtype.name, (None,))
    kind = getattr(torch, dtype.name)
    one = torch.tensor([1, 0, 1, 1, 0, 1] if dtype.name == "bool" else range(1, 7), dtype=torch.uint8)
    raw = [one.repeat_interleave(dtype.itemsize).view(kind)[:length] for length in (6, 2, 0)]
    batch = make_batch({"value": form}, {"out": {"value": form}}, {"value": raw})
    padded, mask = batch.padded("value")
    assert padded.dtype is kind
    batch.emit("out", value=Padded(padded, mask))
    column = only(batch)
    assert column.layout == batch.column("value").layout
    assert column.data == batch.column("value").data


# ---- what is wrong with an answer


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda batch: batch.emit("nope", value=0), "the node has no output 'nope'; its outputs are: out, rag"),
        (lambda batch: batch.emit("out"), "output 'out': fields missing: value; fields too many: none"),
        (lambda batch: batch.emit("none", x=1), "output 'none': fields missing: none; fields too many: x"),
        (lambda batch: batch.emit("none", [3]), "output 'none': there is no row 3 in a batch of 3"),
        (lambda batch: batch.emit("none", [-1]), "output 'none': there is no row -1 in a batch of 3"),
        (lambda batch: batch.emit("none", [0, 2, 0]), r"task T0* \(row 0\) is answered twice"),
        (lambda batch: batch.emit("none", [0.5]), r"rows must be whole numbers, got \[0.5\]"),
        (lambda batch: batch.emit("none", 1), "rows must be whole numbers, got 1"),
        (lambda batch: batch.emit("none", torch.tensor([True])), r"a bool tensor of rows needs shape \[3\], not \[1\]"),
        (lambda batch: batch.call("out", "nope", arg=0), "that it calls graph 'nope' coming back on 'out'"),
        (lambda batch: batch.call("none", "other"), r"calls graph 'other' coming back on 'none'"),
        (lambda batch: batch.call("out", "other", value=0), "call of 'other': fields missing: arg; fields too"),
        (lambda batch: batch.reject(3, "no"), "reject: there is no row 3 in a batch of 3"),
        (lambda batch: batch.reject(0, "no", code="nope"), "unknown error code 'nope'; known are memory_purge, "),
    ],
)  # fmt: skip
def test_answers_that_break_the_rules(batch: Batch, answer: Callable[[Batch], None], problem: str) -> None:
    with pytest.raises(BatchError, match=problem) as caught:
        answer(batch)
    assert str(caught.value).startswith("ns:main:node: ")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.zeros(3, 2, dtype=torch.float64), r"got float64\[3, 2\], where the first dimension is the rows"),
        (torch.zeros(3, 3), r"got float32\[3, 3\], where the first dimension is the rows"),
        (torch.zeros(3), r"got float32\[3\], where"),
        (torch.zeros(2, 2), r"got float32\[2, 2\], which has 2 rows"),
        (torch.tensor(1.0), "got a tensor without dimensions"),
        (torch.zeros(3, 2).to_sparse(), "sparse"),
        (torch.zeros(3, 2, device="meta"), "meta"),
        ([torch.zeros(2)], "got a list of 1"),
        ([torch.zeros(2), torch.zeros(3), torch.zeros(2)], r"got float32\[3\] at position 1 of the list"),
        ([torch.zeros(2), 1.0, torch.zeros(2)], "got a float at position 1 of the list"),
        (["a", "b", "c"], "got texts, which only uint8 fields with one dimension can hold"),
        (1.0, "got a float; give a Tensor"),
        (np.zeros((3, 2), np.float32), "got a ndarray; give a Tensor"),
        (Padded(torch.zeros(2, 2), shapes=[(2,), (2,)]), "got a Padded with 2 rows"),
        (Padded(torch.zeros(3, 2), shapes=[(2,), (1,), (2,)]), r"got float32\[1\] for row 1"),
        (Padded(torch.zeros(3, 2), shapes=[(1,), (1,), (1,)]), r"got float32\[1\]"),
        (Flat(torch.zeros(6), [(2,), (2,)]), "got a Flat with 2 rows"),
        (Flat(torch.zeros(2), [(2,), (-2,), (2,)]), "got a Flat with a negative size"),
        (Flat(torch.zeros(5), [(2,), (2,), (2,)]), r"got a Flat of float32\[5\], but its shapes have 6 values"),
        (Flat(torch.zeros(3, 2), [(2,), (2,), (2,)]), r"got a Flat of float32\[3, 2\], but"),
        (Flat(torch.zeros(6), [(2,), (1,), (3,)]), r"got float32\[1\] for row 1"),
        (Flat(torch.zeros(6, dtype=torch.int8), [(2,)] * 3), r"got int8\[2\] for row 0"),
        (from_tensors([torch.zeros(3)] * 3), r"got float32\[3\] for row 0"),
        (from_tensors([torch.zeros(2)]), "got a Column with 1 rows"),
    ],
)
def test_values_that_do_not_fit(batch: Batch, value: Any, problem: str) -> None:
    where = r"^ns:main:node: output 'out', field 'value': expected float32\[2\] for 3 rows, "
    with pytest.raises(FormatError, match=where.replace("float32", "float") + ".*" + problem):
        batch.emit("out", value=value)


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["a", b"b", 1], "got a int at position 2 of a list of texts"),
        (["a", "\ud800", "b"], "position 1 that is no UTF-8"),
    ],
)
def test_texts_that_are_none(batch: Batch, texts: Any, problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        batch.emit("text", text=texts)


def test_a_wrong_answer_answers_nothing(batch: Batch) -> None:
    with pytest.raises(FormatError):
        batch.emit("out", value=torch.zeros(3, 3))
    with pytest.raises(BatchError):
        batch.emit("none", [0, 9])
    batch.emit("out", value=torch.zeros(3, 2))
    assert values(only(batch)) == [[0, 0]] * 3


def test_twice_names_the_tasks(batch: Batch) -> None:
    batch.emit("none", [0, 2])
    with pytest.raises(BatchError, match=r"tasks T0* \(row 0\), T0*2 \(row 2\) had been answered before"):
        batch.emit("out", value=torch.zeros(3, 2))
    with pytest.raises(BatchError, match=r"reject: task T0*2 \(row 2\) had been answered before"):
        batch.reject(2, "no")


def test_all_rows_are_answered_once(make_batch: Callable[..., Batch]) -> None:
    def whole() -> Batch:
        return make_batch({}, {"out": {}}, {}, 3)

    batch = whole()
    batch.emit("out")
    with pytest.raises(BatchError, match=r"\(row 0\), .* \(row 1\), .* \(row 2\) had been answered before"):
        batch.emit("out")
    batch = whole()
    batch.emit("out", [1])
    with pytest.raises(BatchError, match=r"task T0*1 \(row 1\) had been answered before"):
        batch.emit("out")
    batch = whole()
    batch.reject(2, "no")
    with pytest.raises(BatchError, match=r"task T0*2 \(row 2\) had been answered before"):
        batch.emit("out")
    batch = whole()
    batch.emit("out", [2, 0, 1])
    with pytest.raises(BatchError, match=r"\(row 1\) had been answered before"):
        batch.reject(1, "no")
    assert [answer.rows for answer in batch.finish()[0]] == [(2, 0, 1)]


def test_never_names_the_tasks(batch: Batch) -> None:
    batch.emit("none", [1])
    with pytest.raises(BatchError, match=r"answered tasks T0* \(row 0\), T0*2 \(row 2\) on none of its outputs"):
        batch.finish()


def test_only_some_of_many_tasks_are_named(make_batch: Callable[..., Batch]) -> None:
    with pytest.raises(BatchError, match=r"\(row 4\) and 995 more on none"):
        make_batch({}, {}, {}, 1000).finish()


def test_a_rejection_tells_the_traceback_of_an_exception(batch: Batch) -> None:
    try:
        raise KeyError("gone")
    except KeyError as error:
        batch.reject([0, 1, 2], error)
    _, (rejection,) = batch.finish()
    assert rejection.rows == (0, 1, 2)
    assert rejection.message == "'gone'"
    assert rejection.traceback.rstrip().endswith("KeyError: 'gone'")


# ---- inputs are read-only


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    "write",
    [
        lambda batch: batch.uniform("value").add_(1),
        lambda batch: batch.uniform("value")[1].zero_(),
        lambda batch: batch.padded("value")[0].add_(1),
        lambda batch: batch.rows("value")[2].add_(1),
        lambda batch: batch.rows("ragged")[0].fill_(7),
        lambda batch: batch.flat("ragged").add_(1),
    ],
)
def test_writing_to_an_input_is_found(batch: Batch, write: Callable[[Batch], Tensor], mode: Any) -> None:
    with mode():
        batch.check_inputs()
        write(batch)
        with pytest.raises(InputsChanged, match=r"ns:main:node: the node changed its input '(value|ragged)' in place"):
            batch.check_inputs()
        batch.emit("none")
        with pytest.raises(InputsChanged):
            batch.finish()


def test_reading_and_copies_are_no_writes(batch: Batch) -> None:
    copy = batch.uniform("value").clone()
    copy += 1
    padded, _ = batch.padded("ragged")
    padded += 1  # a tensor of its own, made by padding
    batch.emit("out", value=copy)
    assert values(only(batch)) == [[2, 3], [4, 5], [6, 7]]
    assert values(batch.column("ragged")) == [[1, 2], [], [3]]


# ---- what is emitted belongs to the batch


def address(column: Column) -> int:
    return torch.frombuffer(column.data, dtype=torch.uint8).data_ptr()


@pytest.fixture
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is so small that it is copied without asking who holds it."""
    monkeypatch.setattr(batches, "_COPIED_NBYTES_MAX", -1)


@pytest.fixture(params=["small", "large"])
def either(request: pytest.FixtureRequest) -> None:
    if request.param == "large":
        request.getfixturevalue("as_if_large")


def test_a_small_tensor_is_copied_whoever_holds_it(batch: Batch) -> None:
    result = batch.uniform("value") * 2
    place = result.data_ptr()
    batch.emit("out", value=result)
    column = only(batch)
    assert address(column) != place
    assert values(column) == [[2, 4], [6, 8], [10, 12]]


@pytest.mark.usefixtures("as_if_large")
def test_a_fresh_tensor_is_not_copied(batch: Batch) -> None:
    result = batch.uniform("value") * 2
    place = result.data_ptr()
    batch.emit("out", value=result)
    del result
    column = only(batch)
    assert address(column) == place
    assert values(column) == [[2, 4], [6, 8], [10, 12]]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    "take",
    [
        lambda batch: batch.uniform("value"),
        lambda batch: batch.uniform("value").view(3, 2),
        lambda batch: batch.padded("value")[0],
        lambda batch: torch.from_numpy(batch.uniform("value").numpy()),
        lambda batch: torch.frombuffer(batch.column("value").data, dtype=torch.float32).view(3, 2),
        lambda batch: torch.as_strided(batch.rows("value")[0], (3, 2), (2, 1)),
    ],
)
def test_an_input_that_is_passed_on_is_copied(batch: Batch, take: Callable[[Batch], Tensor]) -> None:
    batch.emit("out", value=take(batch))
    column = only(batch)
    assert address(column) != address(batch.column("value"))
    batch.column("value").data[:] = bytes(24)
    assert values(column) == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.usefixtures("either")
def test_memory_that_the_node_keeps_is_copied(batch: Batch) -> None:
    buffer = torch.ones(3, 2)
    batch.emit("out", value=buffer)
    column = only(batch)
    buffer.zero_()
    assert values(column) == [[1, 1]] * 3


@pytest.mark.usefixtures("either")
def test_memory_of_a_numpy_array_is_copied(batch: Batch) -> None:
    array = np.ones((3, 2), np.float32)
    batch.emit("out", value=torch.from_numpy(array))
    column = only(batch)
    array[:] = 0
    assert values(column) == [[1, 1]] * 3


@pytest.mark.usefixtures("either")
def test_two_fields_never_share_memory(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch({}, {"out": {"a": FLOATS, "b": FLOATS}}, {}, 2)
    both = torch.ones(2, 2)
    batch.emit("out", a=both, b=both)
    del both
    (answer,), _ = batch.finish()
    assert address(answer.columns["a"]) != address(answer.columns["b"])


@pytest.mark.usefixtures("either")
def test_a_part_of_a_large_tensor_is_copied(batch: Batch) -> None:
    large = torch.arange(2000.0).view(1000, 2)
    place = large.data_ptr()
    batch.emit("out", value=large[:3])
    del large
    column = only(batch)
    assert address(column) != place
    assert values(column) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.usefixtures("either")
def test_without_a_count_of_users_everything_is_copied(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_storage_Use_Count")
    result = batch.uniform("value") * 2
    place = result.data_ptr()
    batch.emit("out", value=result)
    del result
    assert address(only(batch)) != place


def test_changing_what_was_emitted_is_found(batch: Batch) -> None:
    result = batch.uniform("value") * 2
    batch.emit("out", value=result)
    result += 1
    with pytest.raises(BatchError, match="changed the tensor of field 'value' after it had emitted it on 'out'"):
        batch.finish()


def test_changing_what_was_emitted_is_found_in_inference_mode_too(batch: Batch) -> None:
    result = torch.ones(3, 2)
    with torch.inference_mode():
        batch.emit("out", value=result)
        result += 1
        with pytest.raises(BatchError, match="changed the tensor of field 'value' after it had emitted it"):
            batch.finish()


@pytest.mark.usefixtures("either")
def test_an_inference_tensor_is_copied_when_it_is_emitted(batch: Batch) -> None:
    with torch.inference_mode():
        result = batch.uniform("value") * 2
        batch.emit("out", value=result)
        result += 1
        assert values(only(batch)) == [[2, 4], [6, 8], [10, 12]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Parameter(torch.ones(3, 2)),
        lambda: torch.ones(2, 3).T,
        lambda: torch.ones(1, 2).expand(3, 2),
        lambda: torch.ones(3, 2, requires_grad=True) * 1,
        lambda: torch.zeros(3, 2, dtype=torch.complex64).add(1j).conj().imag.neg(),
    ],
)
def test_unusual_tensors(batch: Batch, make: Callable[[], Tensor]) -> None:
    batch.emit("out", value=make())
    assert values(only(batch)) == [[1, 1]] * 3
