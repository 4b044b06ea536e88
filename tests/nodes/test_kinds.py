"""The kinds that come with scatterzmq."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from scatterzmq.errors import ErrorCode, GraphError
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.nodes.registry import BUILT_IN, Registry

TEXT = FieldFormat("uint8", (None,))


def text(*values: str) -> list[Tensor]:
    return [torch.tensor(list(value.encode()), dtype=torch.uint8) for value in values]


def ints(*values: Sequence[int]) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.int32) for value in values]


# ---- constant_op


@pytest.mark.parametrize(
    ("op", "const", "info", "value", "expected"),
    [
        ("add", 2, ["float", [2]], [1.5, -1.0], [3.5, 1.0]),
        ("mul", 2.5, ["double", [2]], [2.0, -1.0], [5.0, -2.5]),
        ("mul", 3, ["int", [2]], [2, -1], [6, -3]),
        ("add", -1, ["uint8", [2]], [2, 7], [1, 6]),
        ("mul", 0.5, ["half", [2]], [2.0, 4.0], [1.0, 2.0]),
        ("add", 1, ["bfloat16", [2]], [2.0, 4.0], [3.0, 5.0]),
        ("mul", 2, ["cfloat", [2]], [1j, 2.0], [2j, 4.0]),
        # float32 computes with the number rounded to float32, bfloat16 with a number that is more exact than itself.
        ("mul", 0.1, ["float", [2]], [1.0, 3.0], [0.10000000149011612, 0.30000001192092896]),
        ("mul", 1e300, ["float", [2]], [1.0, -1.0], [math.inf, -math.inf]),
        ("mul", 2.1, ["bfloat16", [2]], [100.0, 1.0], [210.0, 2.09375]),
    ],
)
def test_constant_op(runner: Any, op: str, const: float, info: list[Any], value: Any, expected: Any) -> None:
    node = runner.node("constant_op", {"op": op, "const": const, "input": info})
    dtype = getattr(torch, FieldFormat(info[0], ()).dtype.name)
    ran = runner.run(node, {"value": [torch.tensor(value, dtype=dtype), torch.tensor(value, dtype=dtype)]})
    assert ran.field("out", "value") == [expected, expected]
    assert ran.rows("out")[1]["value"].dtype is dtype


def test_constant_op_with_open_dimensions(runner: Any) -> None:
    node = runner.node("constant_op", {"op": "add", "const": 1, "input": ["float", [None, 2]]})
    values = [torch.zeros(2, 2), torch.zeros(0, 2), torch.ones(1, 2)]
    ran = runner.run(node, {"value": values})
    assert ran.field("out", "value") == [[[1, 1], [1, 1]], [], [[2, 2]]]
    assert [tuple(row["value"].shape) for row in ran.rows("out").values()] == [(2, 2), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"op": "sub"}, "argument 'op': expected one of add, mul, got 'sub'"),
        ({"const": 0.5, "input": ["int", [1]]}, "'const': expected a whole number that int32 can hold"),
        ({"const": 300, "input": ["uint8", [1]]}, "'const': expected a whole number that uint8 can hold"),
        ({"input": ["bool", [1]]}, "'input': expected a dtype that torch can add"),
        ({"input": ["float8_e5m2", [1]]}, "'input': expected a dtype that torch can add"),
        ({"const": None}, "argument 'const' is missing: expected a number"),
        ({"const": float("inf"), "input": ["int", [1]]}, "'const': expected a whole number"),
    ],
)
def test_constant_op_finds_wrong_arguments_early(args: Mapping[str, object], problem: str) -> None:
    full = {"op": "add", "const": 1, "input": ["float", [1]], **args}
    with pytest.raises(GraphError, match=problem):
        Registry().create("constant_op", full, ns="ns", place="ns:main:node")


# ---- bin_op, mat_square


@pytest.mark.parametrize(("op", "expected"), [("add", [4.0, 6.0]), ("mul", [3.0, 8.0])])
def test_bin_op(runner: Any, op: str, expected: list[float]) -> None:
    node = runner.node("bin_op", {"op": op, "input": ["float", [2]]})
    ran = runner.run(node, {"left": [torch.tensor([1.0, 2.0])], "right": [torch.tensor([3.0, 4.0])]})
    assert ran.field("out", "value") == [expected]


def test_bin_op_with_open_dimensions(runner: Any) -> None:
    node = runner.node("bin_op", {"op": "mul", "input": ["int", [None]]})
    values = {"left": ints([1, 2], [], [3]), "right": ints([2, 2], [], [4])}
    assert runner.run(node, values).field("out", "value") == [[2, 4], [], [12]]


def test_bin_op_needs_a_dtype_that_torch_computes_in() -> None:
    args = {"op": "add", "input": ["float8_e5m2", [1]]}
    with pytest.raises(GraphError, match="'input': expected a dtype that torch can add numbers in"):
        Registry().create("bin_op", args, ns="ns", place="ns:main:node")


def test_bin_op_fails_only_the_tasks_whose_shapes_differ(runner: Any) -> None:
    node = runner.node("bin_op", {"op": "add", "input": ["int", [None]]})
    left = ints([1, 2, 3], [4], [5, 6, 7, 8, 9], [])
    right = ints([1, 1, 1], [1], [1], [])
    ran = runner.run(node, {"left": left, "right": right})
    assert {row: values["value"].tolist() for row, values in ran.rows("out").items()} == {0: [2, 3, 4], 1: [5], 3: []}
    (rejection,) = ran.rejections
    assert rejection.rows == (2,)
    assert rejection.code is ErrorCode.GENERAL_EXCEPTION
    assert rejection.message == "left and right must have the same shape, got [5] and [1]"


def test_bin_op_when_no_shapes_agree(runner: Any) -> None:
    node = runner.node("bin_op", {"op": "add", "input": ["int", [None]]})
    ran = runner.run(node, {"left": ints([1], [2, 3]), "right": ints([], [2])})
    assert ran.answers == []
    assert [rejection.rows for rejection in ran.rejections] == [(0,), (1,)]


def test_mat_square(runner: Any) -> None:
    node = runner.node("mat_square", {"size": 2})
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    ran = runner.run(node, {"value": [matrix, torch.eye(2)]})
    assert ran.field("out", "value") == [[[7, 10], [15, 22]], [[1, 0], [0, 1]]]
    with pytest.raises(GraphError, match="'size': expected a size of at least 0, got -1"):
        runner.node("mat_square", {"size": -1})


# ---- load_constant


class FakeBlobs:
    def __init__(self, constant: Tensor) -> None:
        self.constant = constant
        self.asked: list[tuple[str, FieldFormat | None]] = []

    def tensor(self, data: str, form: FieldFormat | None = None) -> Tensor:
        self.asked.append((data, form))
        return self.constant


@pytest.mark.parametrize("count", [1, 3])
def test_load_constant(runner: Any, count: int) -> None:
    blobs = FakeBlobs(torch.tensor([1.0, 2.0]))
    node = runner.node("load_constant", {"data": "64:8:weights/a:b.bin", "ret": ["float", [2]]}, blobs)
    assert blobs.asked == [("64:8:weights/a:b.bin", FieldFormat("float", (2,)))]
    assert node.load_cost() == 8.0
    ran = runner.run(node, {}, count)
    assert ran.field("out", "value") == [[1.0, 2.0]] * count
    # The payload is no window on the node's own memory.
    blobs.constant.zero_()
    assert ran.field("out", "value") == [[1.0, 2.0]] * count
    node.unload()
    node.unload()


# ---- str_concat


def test_str_concat(runner: Any) -> None:
    node = runner.node("str_concat", {"delimiter": "ß"})
    ran = runner.run(node, {"left": text("grün", "", "a"), "right": text("rot", "", "bc")})
    assert ran.texts("out", "value") == ["grünßrot", "ß", "aßbc"]


def test_str_concat_passes_bytes_that_are_no_text(runner: Any) -> None:
    node = runner.node("str_concat", {"delimiter": ""})
    broken = [torch.tensor([255, 0, 128], dtype=torch.uint8)]
    assert runner.run(node, {"left": broken, "right": broken}).field("out", "value") == [[255, 0, 128, 255, 0, 128]]


# ---- if_op, call, for_loop, assertion_error


@pytest.mark.parametrize("conditions", [[True, False, False, True], [True], [False, False]])
def test_if_op_splits_the_batch(runner: Any, conditions: list[bool]) -> None:
    ran = runner.run(runner.node("if_op"), {"condition": [torch.tensor([one]) for one in conditions]})
    assert sorted(ran.rows("then")) == [row for row, one in enumerate(conditions) if one]
    assert sorted(ran.rows("else")) == [row for row, one in enumerate(conditions) if not one]
    assert all(answer.columns == {} and answer.call is None for answer in ran.answers)


def test_call_hands_its_inputs_to_the_graph(runner: Any) -> None:
    args = {
        "graph": "other",
        "args": {"rows": ["float", [2]], "output": ["int", [None]]},
        "ret": {"graph": ["float", [1]]},
    }
    node = runner.node("call", args)
    (site,) = node.calls()
    assert (site.graph, site.args, site.output) == ("other", node.inputs(), "out")
    assert node.outputs() == {"out": {"graph": FieldFormat("float", (1,))}}
    assert node.pure is True
    values = {"rows": [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], "output": ints([1], [2, 3])}
    ran = runner.run(node, values)
    assert [(answer.output, answer.rows, answer.call) for answer in ran.answers] == [("out", (0, 1), "other")]
    assert ran.field("out", "rows") == [[1, 2], [3, 4]]
    assert ran.field("out", "output") == [[1], [2, 3]]


def test_for_loop_counts_down(runner: Any) -> None:
    node = runner.node("for_loop", {"graph": "body", "init": 3})
    stacks = ints([], [3], [1], [7, 2], [7, 1], [0])
    before = [stack.tolist() for stack in stacks]
    ran = runner.run(node, {"stack": stacks})
    calls = {answer.output: answer.call for answer in ran.answers}
    assert calls == {"inner": "body", "out": None}
    assert {row: values["stack"].tolist() for row, values in ran.rows("inner").items()} == {0: [3], 1: [2], 3: [7, 1]}
    assert {row: values["stack"].tolist() for row, values in ran.rows("out").items()} == {2: [0], 4: [7, 0], 5: [-1]}
    assert {values["stack"].dtype for values in ran.rows("inner").values()} == {torch.int32}
    assert [stack.tolist() for stack in stacks] == before


@pytest.mark.parametrize(("init", "output"), [(1, "inner"), (0, "out"), (-5, "out")])
def test_for_loop_starts_empty_stacks(runner: Any, init: int, output: str) -> None:
    node = runner.node("for_loop", {"graph": "body", "init": init})
    ran = runner.run(node, {"stack": ints([], [])})
    assert ran.field(output, "stack") == [[init], [init]]
    assert len(ran.answers) == 1


def test_for_loop_leaves_its_input_alone_when_all_stacks_are_alike(runner: Any) -> None:
    node = runner.node("for_loop", {"graph": "body", "init": 1})
    batch = runner.batch(node, {"stack": ints([5], [6])})
    kept = batch.column("stack")
    before = bytes(kept.data)
    node.execute(batch)
    batch.finish()
    assert bytes(kept.data) == before


def test_for_loop_stays_at_the_lowest_number(runner: Any) -> None:
    node = runner.node("for_loop", {"graph": "body", "init": 1})
    assert runner.run(node, {"stack": ints([-(2**31)])}).field("out", "stack") == [[-(2**31)]]


def test_for_loop_needs_a_number_that_fits(runner: Any) -> None:
    with pytest.raises(GraphError, match=r"'init': expected a whole number from -2147483648 to 2147483647"):
        runner.node("for_loop", {"graph": "body", "init": 2**31})


def test_for_loop_says_what_it_calls(runner: Any) -> None:
    node = runner.node("for_loop", {"graph": "body", "init": 1})
    (site,) = node.calls()
    assert (site.graph, site.output) == ("body", "inner")
    assert site.args == node.inputs()


def test_assertion_error_fails_each_task(runner: Any) -> None:
    ran = runner.run(runner.node("assertion_error", {"msg": "value was not true"}), {}, 3)
    (rejection,) = ran.rejections
    assert rejection.rows == (0, 1, 2)
    assert rejection.message == "value was not true"
    assert rejection.final is False
    lines = rejection.traceback.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "ValueError: value was not true"


# ---- test_cache


def test_test_cache_remembers_what_it_has_seen(runner: Any) -> None:
    node = runner.node("test_cache", {"postfix": "-again", "seed": "1"})
    assert runner.run(node, {"text": text("a", "b", "a")}).texts("out", "text") == ["a", "b", "a-again"]
    node.unload()
    anew = runner.node("test_cache", {"postfix": "-2", "seed": "1"})
    assert runner.run(anew, {"text": text("b", "c")}).texts("out", "text") == ["b-2", "c"]
    other = runner.node("test_cache", {"postfix": "-3", "seed": "2"})
    assert runner.run(other, {"text": text("a")}).texts("out", "text") == ["a"]


def test_test_cache_of_another_node_remembers_nothing(runner: Any) -> None:
    args = {"postfix": "-again", "seed": "1"}
    runner.run(runner.node("test_cache", args), {"text": text("a")})
    runner.memory = {}
    assert runner.run(runner.node("test_cache", args), {"text": text("a")}).texts("out", "text") == ["a"]


# ---- all


ARGS: dict[str, dict[str, object]] = {
    "assertion_error": {"msg": "no"},
    "bin_op": {"op": "add", "input": ["float", [2]]},
    "call": {"graph": "g", "args": {}, "ret": {}},
    "constant_op": {"op": "add", "const": 1, "input": ["float", [2]]},
    "for_loop": {"graph": "g", "init": 3},
    "if_op": {},
    "load_constant": {"data": "0:8:a.bin", "ret": ["float", [2]]},
    "mat_square": {"size": 2},
    "str_concat": {"delimiter": "-"},
    "test_cache": {"postfix": "-", "seed": "1"},
}


@pytest.mark.parametrize("kind", sorted(ARGS))
def test_every_kind_describes_itself(kind: str) -> None:
    info = Registry().describe(kind, ARGS[kind], "ns", "ns:main:node")
    assert info.pure is True
    assert info.weight == 1.0
    assert info.load_cost == (8.0 if kind == "load_constant" else 1.0)
    assert len(info.calls) == (kind in ("call", "for_loop"))
    assert info.doc.endswith(".")


@pytest.mark.parametrize("kind", sorted(ARGS))
def test_every_kind_tells_all_arguments_that_are_missing(kind: str) -> None:
    try:
        Registry().describe(kind, {}, "ns", "ns:main:node")
        told = []
    except GraphError as error:
        told = str(error).splitlines()
    assert [line.partition(" is missing: ")[0] for line in sorted(told)] == [
        f"ns:main:node: argument {name!r}" for name in sorted(ARGS[kind])
    ]


@pytest.mark.parametrize("kind", sorted(ARGS))
def test_no_kind_leaves_arguments_unused(kind: str) -> None:
    from scatterzmq.nodes import NodeArgs

    args = NodeArgs({**ARGS[kind], "nonsense": 1}, "ns", "ns:main:node")
    Registry().resolve(kind)(args)
    assert args.unused() == ("nonsense",)


def test_all_built_in_kinds_can_be_found() -> None:
    for kind in BUILT_IN:
        assert Registry().resolve(kind) is Registry().resolve(kind)
