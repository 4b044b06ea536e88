"""Block graphs: rows part, meet again, go round and call each other, and every row ends once and right."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from scatterzmq.errors import ErrorCode
from scatterzmq.execute import block as block_module
from scatterzmq.execute.block import cut
from scatterzmq.graph.check import check
from scatterzmq.nodes import FieldFormat

NUMBER = FieldFormat("float", (1,))


@pytest.fixture
def kinds(bench: Any) -> Any:
    """test.add: by args.by, fails on values in args.bad. test.less: than args.than -> then/else. All log their runs."""

    def add(node: Any, batch: Any) -> Any:
        value = batch.uniform("value")
        name = node.args.place.rpartition(":")[2]
        bench.log.append(f"{name} {sorted(int(one) for one in value)}")
        if set(value.flatten().tolist()) & set(node.args.list_int("bad", default=[])):
            raise ValueError(f"bad at {name}")
        value = value + node.args.int("by", default=1)
        if node.args.bool("turned", default=False):
            batch.emit("out", list(range(len(batch)))[::-1], value=value.flip(0))
        else:
            batch.emit("out", value=value)

    def less(node: Any, batch: Any) -> Any:
        value = batch.uniform("value")
        bench.log.append(f"{node.args.place.rpartition(':')[2]} {sorted(int(one) for one in value)}")
        is_less = value[:, 0] < node.args.int("than")
        batch.emit("then", is_less, value=value[is_less])
        batch.emit("else", ~is_less, value=value[~is_less])

    def turn(node: Any, batch: Any) -> Any:
        value = batch.uniform("value")
        bench.log.append(f"turn {sorted(int(one) for one in value)}")
        counts = node.counts
        for task in batch.task_ids:
            counts[task] = counts.get(task, 0) + 1
        is_done = torch.tensor([counts[task] > int(one) for task, one in zip(batch.task_ids, value, strict=True)])
        batch.emit("again", ~is_done)
        batch.emit("done", is_done)

    quiet = {
        "execute": lambda self, batch: type(self).act(self, batch),
        "load": lambda *_: None,
        "unload": lambda *_: None,
    }
    bench.kind(
        "add", add, inputs=lambda self: {"value": NUMBER}, outputs=lambda self: {"out": {"value": NUMBER}}, **quiet
    )
    bench.kind(
        "less",
        less,
        inputs=lambda self: {"value": NUMBER},
        outputs=lambda self: {"then": {"value": NUMBER}, "else": {"value": NUMBER}},
        **quiet,
    )
    bench.kind(
        "turn",
        turn,
        inputs=lambda self: {"value": NUMBER},
        outputs=lambda self: {"again": {}, "done": {}},
        counts={},
        **quiet,
    )


def graph(name: Any, nodes: Any, result: Any, **extra: Any) -> Any:
    """nodes: (name, kind, args, where `value` comes from, outs); the first one is where it begins."""
    form = {"value": ["float", [1]]}
    return {
        "name": name,
        "description": "",
        "input": nodes[0][0],
        "input_format": form,
        "output_format": form,
        "vmap": {"value": result},
        "is_block": True,
        "nodes": [
            {"name": name, "kind": kind, "args": args, "vmap": {"value": vmap}, "outs": outs}
            for name, kind, args, vmap, outs in nodes
        ],
        **extra,
    }


def to(node: Any) -> Any:
    return {"out": node}


def numbers(*values: Any) -> Any:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1)


def run(bench: Any, graphs: Any, values: Any) -> Any:
    plan = bench.plan(graphs)
    entry = plan.graphs[plan.entry]
    work = bench.work(plan, len(values), node=entry.nodes[entry.first].name, value=numbers(*values))
    return bench.worker().run(work)


def result(done: Any) -> Any:
    """Position -> value."""
    assert len(done.emitted) <= 1
    found = {}
    for part in done.emitted:
        assert part.output == ""
        assert part.call is None
        for position, row in zip(part.rows, range(len(part.rows)), strict=True):
            value = torch.frombuffer(part.columns["value"].row(row), dtype=torch.float32)
            assert position not in found
            found[position] = value.item()
    return found


def test_a_chain_runs_each_node_once_with_all_rows(bench: Any, kinds: Any) -> None:
    nodes = [("a", "test.add", {}, ":value", to("b")), ("b", "test.add", {"by": 10}, "a:value", to(None))]
    done = run(bench, graph("main", nodes, "b:value"), [1, 2, 3])
    assert result(done) == {0: 12, 1: 13, 2: 14}
    assert bench.log == ["a [1, 2, 3]", "b [2, 3, 4]"]
    assert done.emitted[0].rows == (0, 1, 2)


def test_positions_need_not_be_all(bench: Any, kinds: Any) -> None:
    plan = bench.plan(graph("main", [("a", "test.add", {}, ":value", to(None))], "a:value"))
    full = bench.work(plan, 5, node="a", value=numbers(*range(5)))
    work = type(full)(order=full.order, rows=(1, 4), columns=bench.work(plan, 2, node="a", value=numbers(1, 4)).columns)
    assert result(bench.worker().run(work)) == {1: 2, 4: 5}


BRANCH = [
    ("if", "test.less", {"than": 3}, ":value", {"then": "a", "else": "b"}),
    ("a", "test.add", {"by": 10}, "if:value", to("end")),
    ("b", "test.add", {"by": 20}, ":value", to("b2")),
    ("b2", "test.add", {"by": 0}, "b:value", to("end")),
    ("end", "test.add", {"by": 0}, ":value", to(None)),
]


def test_branches_run_apart_and_meet_as_one_batch(bench: Any, kinds: Any) -> None:
    done = run(bench, graph("main", BRANCH, "end:value"), [1, 5, 2, 4])
    assert result(done) == {0: 1, 1: 5, 2: 2, 3: 4}
    assert bench.log == ["if [1, 2, 4, 5]", "b [4, 5]", "a [1, 2]", "b2 [24, 25]", "end [1, 2, 4, 5]"]


def test_nodes_may_answer_in_any_order(bench: Any, kinds: Any) -> None:
    nodes = [("a", "test.add", {"turned": True}, ":value", to("b")), ("b", "test.add", {}, "a:value", to(None))]
    assert result(run(bench, graph("main", nodes, "b:value"), [1, 2, 3])) == {0: 3, 1: 4, 2: 5}


def test_fields_that_nobody_reads_any_more_are_dropped_on_the_way(
    bench: Any, kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {}
    arrive = block_module.BlockRun._arrive

    def watch(self: Any, frame: Any, node_id: Any, segment: Any) -> None:
        held[frame.graph.nodes[node_id].name] = set(segment.columns)
        arrive(self, frame, node_id, segment)

    monkeypatch.setattr(block_module.BlockRun, "_arrive", watch)
    nodes: list[Any] = [
        ("a", "test.add", {}, ":value", to("b")),
        ("b", "test.add", {}, "a:value", to("c")),
        ("c", "test.add", {}, "b:value", to("d")),
        ("d", "test.add", {}, "a:value", to(None)),
    ]
    run(bench, graph("main", nodes, "d:value"), [1])
    assert held == {"a": {":value"}, "b": {"a:value"}, "c": {"a:value", "b:value"}, "d": {"a:value"}}


def test_the_order_of_the_nodes_in_the_file_does_not_matter(bench: Any, kinds: Any) -> None:
    nodes = [BRANCH[0], *reversed(BRANCH[1:])]
    done = run(bench, graph("main", nodes, "end:value"), [1, 5, 2, 4])
    assert result(done) == {0: 1, 1: 5, 2: 2, 3: 4}
    assert bench.log[-1] == "end [1, 2, 4, 5]"
    assert len(bench.log) == 5


def test_fields_that_only_some_rows_have_survive_where_the_ways_meet(bench: Any, kinds: Any) -> None:
    """After the meeting point each row reads what its own branch has made before."""
    nodes = [
        ("if", "test.less", {"than": 3}, ":value", {"then": "a", "else": "b"}),
        ("a", "test.add", {"by": 100}, ":value", to("mid")),
        ("b", "test.add", {"by": 200}, ":value", to("mid")),
        ("mid", "test.less", {"than": 3}, ":value", {"then": "a2", "else": "b2"}),
        ("a2", "test.add", {"by": 1}, "a:value", to("end")),
        ("b2", "test.add", {"by": 2}, "b:value", to("end")),
        ("end", "test.add", {"by": 0}, ":value", to("last")),
        ("last", "test.add", {"by": 0}, "end:value", to(None)),
    ]
    main = graph("main", nodes, "last:value")
    assert result(run(bench, main, [1, 5, 2, 4])) == {0: 1, 1: 5, 2: 2, 3: 4}
    assert "mid [1, 2, 4, 5]" in bench.log
    assert "a2 [101, 102]" in bench.log
    assert "b2 [204, 205]" in bench.log


def test_rows_go_round_until_each_is_done_and_leave_together(bench: Any, kinds: Any) -> None:
    nodes: list[Any] = [
        ("a", "test.add", {}, ":value", to("turn")),
        ("turn", "test.turn", {}, ":value", {"again": "b", "done": "end"}),
        ("b", "test.add", {}, "a:value", to("a")),
        ("end", "test.add", {}, "a:value", to(None)),
    ]
    done = run(bench, graph("main", nodes, "end:value"), [0, 3, 1])
    assert result(done) == {0: 2, 1: 5, 2: 3}
    assert bench.log == [
        *("a [0, 1, 3]", "turn [0, 1, 3]", "b [2, 4]"),
        *("a [1, 3]", "turn [1, 3]", "b [4]"),
        *("a [3]", "turn [3]", "b [4]"),
        *("a [3]", "turn [3]", "end [1, 2, 4]"),
    ]


# ---- calls


def call(graph: Any) -> Any:
    form = {"value": ["float", [1]]}
    return {"graph": graph, "args": form, "ret": form}


def test_a_call_comes_back_with_the_result_as_the_fields_of_the_caller(bench: Any, kinds: Any) -> None:
    main = [
        ("a", "test.add", {"by": 1}, ":value", to("c")),
        ("c", "call", call("inner"), "a:value", to("b")),
        ("b", "test.add", {"by": 1000}, "c:value", to(None)),
    ]
    inner = [("x", "test.add", {"by": 10}, ":value", to("y")), ("y", "test.add", {"by": 100}, "x:value", to(None))]
    done = run(bench, [graph("main", main, "b:value"), graph("inner", inner, "y:value")], [1, 2])
    assert result(done) == {0: 1112, 1: 1113}
    assert bench.log == ["a [1, 2]", "x [2, 3]", "y [12, 13]", "b [112, 113]"]


def test_rows_that_part_inside_of_a_call_meet_again_after_it(bench: Any, kinds: Any) -> None:
    main = [
        ("c", "call", call("inner"), ":value", to("b")),
        ("b", "test.add", {"by": 0}, ":value", to("d")),
        ("d", "test.add", {"by": 0}, "c:value", to(None)),
    ]
    inner = [
        ("if", "test.less", {"than": 3}, ":value", {"then": "x", "else": None}),
        ("x", "test.add", {"by": 100}, ":value", to("if2")),
        ("if2", "test.less", {"than": 1000}, ":value", {"then": None, "else": None}),
    ]
    done = run(bench, [graph("main", main, "d:value"), graph("inner", inner, ":value")], [4, 1, 5, 2])
    assert result(done) == {0: 4, 1: 1, 2: 5, 3: 2}
    assert bench.log[-2:] == ["b [1, 2, 4, 5]", "d [1, 2, 4, 5]"]


def test_frames_keep_what_the_caller_had(bench: Any, kinds: Any) -> None:
    """Both graphs have a node "a"; each sees its own."""
    main = [
        ("a", "test.add", {"by": 1}, ":value", to("c")),
        ("c", "call", call("inner"), ":value", to("b")),
        ("b", "test.add", {"by": 0}, "a:value", to(None)),
    ]
    inner = [("a", "test.add", {"by": 50}, ":value", to(None))]
    done = run(bench, [graph("main", main, "b:value"), graph("inner", inner, "a:value")], [1, 2])
    assert result(done) == {0: 2, 1: 3}


def recursion() -> Any:
    """`down` calls itself with one less until that is 0."""
    main = [
        ("c", "call", call("down"), ":value", to("end")),
        ("end", "test.add", {"by": 0}, "c:value", to(None)),
    ]
    down = [
        ("if", "test.less", {"than": 1}, ":value", {"then": None, "else": "less"}),
        ("less", "test.add", {"by": -1}, ":value", to("rec")),
        ("rec", "call", call("down"), "less:value", to(None)),
    ]
    return [graph("main", main, "end:value"), graph("down", down, "if:value")]


def test_recursion_comes_back_through_all_frames(bench: Any, kinds: Any) -> None:
    done = run(bench, recursion(), [0, 3, 1])
    # The result of `down` is what its own `if` saw, so each frame gives back the value it was called with.
    assert result(done) == {0: 0, 1: 3, 2: 1}
    assert bench.log[-1] == "end [0, 1, 3]"
    assert [line for line in bench.log if line.startswith("if")] == ["if [0, 1, 3]", "if [0, 2]", "if [1]", "if [0]"]


def test_for_loop_runs_to_its_end(bench: Any) -> None:
    """The loop as graphs spell it: `inner` leads to a call of the graph that holds the loop."""
    form = {"stack": ["int", [None]]}
    loop = {
        "name": "main",
        "description": "",
        "input": "loop",
        "input_format": form,
        "output_format": form,
        "vmap": {"stack": ":stack"},
        "is_block": True,
        "nodes": [
            {
                "name": "loop",
                "kind": "for_loop",
                "args": {"graph": "body", "init": 3},
                "vmap": {"stack": ":stack"},
                "outs": {"inner": "next", "out": None},
            },
            {
                "name": "next",
                "kind": "call",
                "args": {"graph": "main", "args": form, "ret": form},
                "vmap": {"stack": "loop:stack"},
                "outs": {"out": None},
            },
        ],
    }
    body = {
        **loop,
        "name": "body",
        "input": "pass",
        "vmap": {"stack": ":stack"},
        "nodes": [
            {"name": "pass", "kind": "test.pass", "args": {}, "vmap": {"stack": ":stack"}, "outs": {"out": None}},
        ],
    }
    seen = []

    def act(node: Any, batch: Any) -> Any:
        seen.append([row.tolist() for row in batch.rows("stack")])
        batch.emit("out")

    stack = {"stack": FieldFormat("int", (None,))}
    bench.kind("pass", act, inputs=lambda self: stack, outputs=lambda self: {"out": {}})
    plan = bench.plan([loop, body])
    work = bench.work(
        plan, 2, node="loop", stack=[torch.tensor([], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)]
    )
    done = bench.worker().run(work)
    assert done.failed == ()
    assert seen == [[[3], [1]], [[2]], [[1]]]
    assert sorted(done.emitted[0].rows) == [0, 1]


def test_a_recursion_without_end_fails_for_good(bench: Any, kinds: Any, monkeypatch: Any, failures: Any) -> None:
    monkeypatch.setattr(block_module, "DEPTH_MAX", 5)
    done = run(bench, recursion(), [3, 50])
    assert result(done) == {0: 3}
    assert "does the recursion end?" in failures(done)[1][1]
    assert done.failed[0].final


def test_a_result_that_does_not_fit_the_called_graph_fails_its_row(bench: Any, failures: Any) -> None:
    ragged = FieldFormat("float", (None,))

    def act(node: Any, batch: Any) -> Any:
        batch.emit("out", value=[row[: int(row[0])] for row in batch.rows("value")])

    bench.kind("cut", act, inputs=lambda self: {"value": ragged}, outputs=lambda self: {"out": {"value": ragged}})
    main = graph(
        "main", [("c", "call", {**call("inner"), "ret": {"value": ["float", [2]]}}, ":value", to(None))], "c:value"
    )
    main["output_format"] = {"value": ["float", [2]]}
    main["nodes"][0]["args"]["args"] = main["input_format"] = {"value": ["float", [3]]}
    inner = graph("inner", [("x", "test.cut", {}, ":value", to(None))], "x:value")
    inner.update(input_format={"value": ["float", [3]]}, output_format={"value": ["float", [2]]})
    plan = bench.plan([main, inner])
    work = bench.work(plan, 3, node="c", value=torch.tensor([[2.0, 0, 0], [1.0, 0, 0], [2.0, 1, 1]]))
    done = bench.worker().run(work)
    assert [part.rows for part in done.emitted] == [(0, 2)]
    assert failures(done) == {
        1: (
            ErrorCode.GENERAL_EXCEPTION,
            "output of graph ns:inner: field 'value': expected float[2], got float32[1]",
        )
    }


# ---- failures


def test_a_row_fails_alone_and_names_the_inner_node(bench: Any, kinds: Any, failures: Any) -> None:
    nodes = [("a", "test.add", {}, ":value", to("b")), ("b", "test.add", {"bad": [4]}, "a:value", to(None))]
    done = run(bench, graph("main", nodes, "b:value"), [1, 2, 3, 4])
    assert result(done) == {0: 3, 1: 4, 3: 6}
    assert failures(done) == {2: (ErrorCode.GENERAL_EXCEPTION, "ValueError: bad at b")}
    assert done.failed[0].node == "b"


def test_in_a_called_graph_the_failure_names_the_graph_too(bench: Any, kinds: Any, failures: Any) -> None:
    main = [("c", "call", call("inner"), ":value", to(None))]
    inner = [("x", "test.add", {"bad": [2]}, ":value", to(None))]
    done = run(bench, [graph("main", main, "c:value"), graph("inner", inner, "x:value")], [1, 2])
    assert result(done) == {0: 2}
    assert done.failed[0].rows == (1,)
    assert done.failed[0].node == "inner:x"


def test_all_rows_may_fail(bench: Any, kinds: Any, failures: Any) -> None:
    nodes = [("a", "test.add", {"bad": [1, 2]}, ":value", to("b")), ("b", "test.add", {}, "a:value", to(None))]
    done = run(bench, graph("main", nodes, "b:value"), [1, 2])
    assert done.emitted == ()
    assert set(failures(done)) == {0, 1}
    assert not any(line.startswith("b") for line in bench.log)


def test_a_field_that_was_not_made_on_a_rows_way_fails_that_row(bench: Any, kinds: Any, failures: Any) -> None:
    nodes = [
        ("if", "test.less", {"than": 3}, ":value", {"then": "a", "else": "b"}),
        ("a", "test.add", {}, ":value", to("b")),
        ("b", "test.add", {}, "a:value", to(None)),
    ]
    done = run(bench, graph("main", nodes, "b:value"), [1, 5])
    assert result(done) == {0: 3}
    assert failures(done)[1][1] == (
        "ns:main:b lacks 'value' (from 'a:value'): the node that makes it was not on this task's way"
    )


def test_a_result_that_was_not_made_on_a_rows_way_fails_that_row(bench: Any, kinds: Any, failures: Any) -> None:
    nodes = [
        ("if", "test.less", {"than": 3}, ":value", {"then": "a", "else": None}),
        ("a", "test.add", {}, ":value", to(None)),
    ]
    done = run(bench, graph("main", nodes, "a:value"), [1, 5])
    assert result(done) == {0: 2}
    assert failures(done)[1][1] == (
        "graph ns:main ended without 'value' (from 'a:value'): the node that makes it was not on this task's way"
    )


def test_cleared_rows_go_no_further(bench: Any, kinds: Any, failures: Any) -> None:
    plan = bench.plan(
        graph("main", [("a", "test.add", {}, ":value", to("b")), ("b", "test.add", {}, "a:value", to(None))], "b:value")
    )
    work = bench.work(plan, 3, node="a", value=numbers(1, 2, 3))
    work.dead.add(1)
    done = bench.worker().run(work)
    assert result(done) == {0: 3, 2: 5}
    assert failures(done)[1][0] == ErrorCode.CANCELLED
    assert bench.log == ["a [1, 3]", "b [2, 4]"]


def test_when_all_rows_are_cleared_on_the_way_nothing_is_left(bench: Any, kinds: Any, failures: Any) -> None:
    nodes = [
        ("if", "test.less", {"than": 3}, ":value", {"then": "a", "else": "b"}),
        ("a", "test.add", {}, ":value", to("b")),
        ("b", "test.add", {}, ":value", to(None)),
    ]
    plan = bench.plan(graph("main", nodes, "b:value"))
    work = bench.work(plan, 3, node="if", value=numbers(1, 2, 5))
    work.dead.update((0, 1))
    done = bench.worker().run(work)
    assert result(done) == {2: 6}
    assert failures(done)[0] == failures(done)[1] == (ErrorCode.CANCELLED, "nobody waits for this task any more")


# ---- sizes of batches


def test_inner_nodes_keep_to_their_batch_size(bench: Any, kinds: Any) -> None:
    main = graph(
        "main", [("a", "test.add", {}, ":value", to("b")), ("b", "test.add", {}, "a:value", to(None))], "b:value"
    )
    main["nodes"][0]["batch_size"] = 2
    done = run(bench, main, [1, 2, 3, 4, 5])
    assert result(done) == {0: 3, 1: 4, 2: 5, 3: 6, 4: 7}
    assert bench.log == ["a [1, 2]", "a [3, 4]", "a [5]", "b [2, 3, 4, 5, 6]"]


def test_inner_nodes_keep_to_their_batch_tokens(bench: Any) -> None:
    sizes = []
    ragged = FieldFormat("float", (None,))

    def act(node: Any, batch: Any) -> Any:
        sizes.append([len(row) for row in batch.rows("value")])
        batch.emit("out", value=batch.rows("value"))

    bench.kind("same", act, inputs=lambda self: {"value": ragged}, outputs=lambda self: {"out": {"value": ragged}})
    main = graph("main", [("a", "test.same", {}, ":value", to(None))], "a:value")
    main["input_format"] = main["output_format"] = {"value": ["float", [None]]}
    main["nodes"][0]["batch_tokens"] = 6
    plan = bench.plan(main)
    rows = [torch.full((length,), float(length)) for length in (3, 1, 7, 2, 3)]
    done = bench.worker().run(bench.work(plan, 5, node="a", value=rows))
    assert sizes == [[1, 2], [3, 3], [7]]
    found = done.emitted[0]
    lengths = {position: found.columns["value"].layout.row_shape(row)[0] for row, position in enumerate(found.rows)}
    assert lengths == {0: 3, 1: 1, 2: 7, 3: 2, 4: 3}


@given(
    st.lists(st.integers(0, 20), max_size=30),
    st.integers(1, 8),
    st.none() | st.integers(1, 60),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_cut_keeps_both_limits_and_loses_nothing(lengths: Any, rows_max: Any, tokens_max: Any) -> None:
    pieces = cut(lengths, rows_max, tokens_max)
    assert sorted(row for piece in pieces for row in piece) == list(range(len(lengths)))
    for piece in pieces:
        assert len(piece) <= rows_max
        if tokens_max is not None and len(piece) > 1:
            assert len(piece) * max(lengths[row] for row in piece) <= tokens_max


# ---- against a plain interpreter of one row


def alone(main: Any, value: Any) -> Any:
    """The result of the graph for one value; None if it fails."""
    nodes = {node["name"]: node for node in main["nodes"]}
    frame = {":value": value}
    name = main["input"]
    while name is not None:
        node = nodes[name]
        source = frame.get(node["vmap"]["value"])
        if source is None or source in node["args"].get("bad", []):
            return None
        if node["kind"] == "test.less":
            output = "then" if source < node["args"]["than"] else "else"
            frame[f"{name}:value"] = source
        elif node["kind"] == "call":
            if source == 1:
                return None
            output = "out"
            frame[f"{name}:value"] = source
        else:
            output = "out"
            frame[f"{name}:value"] = source + node["args"]["by"]
        name = node["outs"][output]
    return frame.get(main["vmap"]["value"])


@st.composite
def graphs(draw: Any) -> Any:
    """Any acyclic graph of sums, branches and calls, with nodes that fail for some values and small batches."""
    count = draw(st.integers(1, 8))
    names = [f"n{number}" for number in range(count)]
    nodes = []
    for number, name in enumerate(names):
        following = st.sampled_from([*names[number + 1 : number + 4], None])
        source = draw(st.sampled_from([":value", *(f"{before}:value" for before in names[:number])]))
        kind = draw(st.sampled_from(["test.less", "test.add", "call"]))
        if kind == "test.less":
            args, outs = {"than": draw(st.integers(0, 5))}, {"then": draw(following), "else": draw(following)}
        elif kind == "test.add":
            args, outs = {"by": number + 1, "bad": draw(st.lists(st.integers(0, 5), max_size=1))}, to(draw(following))
            args["turned"] = draw(st.booleans())
        else:
            args, outs = call("inner"), to(draw(following))
        nodes.append((name, kind, args, source, outs))
    main = graph("main", nodes, draw(st.sampled_from([":value", *(f"{name}:value" for name in names)])))
    for node in main["nodes"]:
        size = draw(st.sampled_from([None, 1, 2]))
        if size is not None:
            node["batch_size"] = size
    return main


@given(main=graphs(), values=st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_rows_get_together_what_each_would_get_alone(bench: Any, kinds: Any, main: Any, values: Any) -> None:
    checked = check({"ns": "ns", "entry": "main", "graphs": [main, inner_graph()]}, bench.registry.describe)
    assume(checked.plan is not None)
    done = run(bench, [main, inner_graph()], values)
    expected = {position: alone(main, value) for position, value in enumerate(values)}
    assert result(done) == {position: value for position, value in expected.items() if value is not None}
    failed = [row for part in done.failed for row in part.rows]
    assert sorted(failed) == [position for position, value in expected.items() if value is None]


def inner_graph() -> Any:
    """Gives back its value, but fails for 1: rows part inside of it and leave it by different nodes."""
    nodes = [
        ("if", "test.less", {"than": 3}, ":value", {"then": "x", "else": None}),
        ("x", "test.add", {"bad": [1]}, ":value", to(None)),
    ]
    return graph("inner", nodes, "if:value")
