"""Block graphs: rows part, meet again, go round and call each other, and every row ends once and right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.errors import ErrorCode
from scatterzmq.execute import block as block_module
from scatterzmq.execute.block import cut
from scatterzmq.nodes import FieldFormat

NUMBER = FieldFormat("float", (1,))
BOOL = FieldFormat("bool", (1,))


@pytest.fixture()
def kinds(bench):
    """test.add (by args.by; fails on values in args.bad), test.less (than args.than -> then/else), with a log of runs."""

    def add(node, batch):
        value = batch.uniform("value")
        name = node.args.place.rpartition(":")[2]
        bench.log.append(f"{name} {sorted(int(one) for one in value)}")
        if set(value.flatten().tolist()) & set(node.args.list_int("bad", default=[])):
            raise ValueError(f"bad at {name}")
        batch.emit("out", value=value + node.args.int("by", default=1))

    def less(node, batch):
        value = batch.uniform("value")
        bench.log.append(f"{node.args.place.rpartition(':')[2]} {sorted(int(one) for one in value)}")
        is_less = value[:, 0] < node.args.int("than")
        batch.emit("then", is_less, value=value[is_less])
        batch.emit("else", ~is_less, value=value[~is_less])

    quiet = {"execute": lambda self, batch: type(self).act(self, batch), "load": lambda *_: None, "unload": lambda *_: None}
    bench.kind("add", add, inputs=lambda self: {"value": NUMBER}, outputs=lambda self: {"out": {"value": NUMBER}}, **quiet)
    bench.kind(
        "less",
        less,
        inputs=lambda self: {"value": NUMBER},
        outputs=lambda self: {"then": {"value": NUMBER}, "else": {"value": NUMBER}},
        **quiet,
    )


def graph(name, nodes, result, **extra):
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
            {"name": name, "kind": kind, "args": args, "vmap": {} if vmap is None else {VMAP.get(kind, "value"): vmap}, "outs": outs}
            for name, kind, args, vmap, outs in nodes
        ],
        **extra,
    }


VMAP = {}


def to(node):
    return {"out": node}


def numbers(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1)


def run(bench, graphs, values, first=None, dead=()):
    plan = bench.plan(graphs)
    entry = plan.graphs[plan.entry]
    work = bench.work(plan, len(values), node=entry.nodes[entry.first].name, value=numbers(*values))
    work.dead.update(dead)
    return bench.worker().run(work)


def result(done):
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


def test_a_chain_runs_each_node_once_with_all_rows(bench, kinds):
    nodes = [("a", "test.add", {}, ":value", to("b")), ("b", "test.add", {"by": 10}, "a:value", to(None))]
    done = run(bench, graph("main", nodes, "b:value"), [1, 2, 3])
    assert result(done) == {0: 12, 1: 13, 2: 14}
    assert bench.log == ["a [1, 2, 3]", "b [2, 3, 4]"]
    assert done.emitted[0].rows == (0, 1, 2)


def test_positions_need_not_be_all(bench, kinds):
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


def test_branches_run_apart_and_meet_as_one_batch(bench, kinds):
    done = run(bench, graph("main", BRANCH, "end:value"), [1, 5, 2, 4])
    assert result(done) == {0: 1, 1: 5, 2: 2, 3: 4}
    assert bench.log == ["if [1, 2, 4, 5]", "b [4, 5]", "b2 [24, 25]", "a [1, 2]", "end [1, 2, 4, 5]"]


def test_the_order_of_the_nodes_in_the_file_does_not_matter(bench, kinds):
    nodes = [BRANCH[0], *reversed(BRANCH[1:])]
    done = run(bench, graph("main", nodes, "end:value"), [1, 5, 2, 4])
    assert result(done) == {0: 1, 1: 5, 2: 2, 3: 4}
    assert bench.log[-1] == "end [1, 2, 4, 5]"
    assert len(bench.log) == 5


def test_fields_that_only_some_rows_have_survive_where_the_ways_meet(bench, kinds):
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


def test_rows_go_round_until_each_is_done(bench, kinds):
    nodes = [
        ("up", "test.add", {"by": 0}, ":value", to("more")),
        ("more", "test.less", {"than": 5}, "up:value", {"then": "step", "else": "end"}),
        ("step", "test.add", {"by": 1}, "more:value", to("again")),
        ("again", "test.less", {"than": 5}, "step:value", {"then": "step2", "else": "end"}),
        ("step2", "test.add", {"by": 1}, "again:value", to("back")),
        ("back", "test.less", {"than": 100}, "step2:value", {"then": "more2", "else": "end"}),
        ("more2", "test.less", {"than": 5}, "step2:value", {"then": "step", "else": "end"}),
        ("end", "test.add", {"by": 0}, ":value", to(None)),
    ]
    done = run(bench, graph("main", nodes, "end:value"), [0, 3, 9])
    assert result(done) == {0: 0, 1: 3, 2: 9}
    ends = [line for line in bench.log if line.startswith("end")]
    assert ends == ["end [0, 3, 9]"]  # nobody leaves alone while others are still going round


def test_a_loop_over_one_field(bench, kinds):
    """`step` reads its own earlier value: the newest one counts."""
    nodes = [
        ("first", "test.add", {"by": 0}, ":value", to("step")),
        ("step", "test.add", {"by": 1}, "keep:value", to("keep")),
        ("keep", "test.less", {"than": 5}, "step:value", {"then": "step", "else": None}),
    ]
    nodes[0] = ("keep0", "test.add", {"by": 0}, ":value", to("step0"))
    nodes.insert(1, ("step0", "test.add", {"by": 1}, "keep0:value", to("enter")))
    nodes.insert(2, ("enter", "test.less", {"than": 100}, "step0:value", {"then": "keep", "else": "keep"}))
    nodes[-1] = ("keep", "test.less", {"than": 5}, "step0:value", {"then": "step", "else": None})
    nodes[-1] = ("keep", "test.less", {"than": 5}, "step:value", {"then": "step", "else": None})
    nodes[2] = ("enter", "test.less", {"than": 100}, "step0:value", {"then": "pre", "else": "pre"})
    nodes.append(("pre", "test.add", {"by": 0}, "step0:value", to("step")))
    del nodes[:]
    nodes += [
        ("begin", "test.less", {"than": 0}, ":value", {"then": "loop", "else": "loop"}),
        ("loop", "test.add", {"by": 1}, "begin:value", to("test")),
        ("test", "test.less", {"than": 5}, "loop:value", {"then": "begin2", "else": None}),
        ("begin2", "test.add", {"by": 0}, "test:value", to("loop2")),
        ("loop2", "test.add", {"by": 1}, "begin2:value", to("test2")),
        ("test2", "test.less", {"than": 5}, "loop2:value", {"then": "carry", "else": "carry"}),
        ("carry", "test.less", {"than": 5}, "loop2:value", {"then": "begin3", "else": None}),
        ("begin3", "test.add", {"by": 0}, "carry:value", to("loop2b")),
        ("loop2b", "test.add", {"by": 0}, "begin3:value", to(None)),
    ]
    done = run(bench, graph("main", nodes, ":value"), [0, 9])
    assert result(done) == {0: 0, 1: 9}
