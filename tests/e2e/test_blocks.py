"""Blocks: a graph that runs in one go gives what it gives in single steps, and shows as one queue."""

from typing import Any

import pytest
import torch

TASKS = 20
ONE, ROW, FLAG = ["float", [1]], ["float", [None]], ["bool", [1]]


@pytest.fixture
def mixed(build: Any, plugin: Any) -> Any:
    """Branches, a call, open dimensions, tasks that fail: blocks or not."""
    kind = plugin("""
        class Judge(Node):
            pure = True

            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"flag": FieldFormat("bool", (1,))}}

            def execute(self, batch):
                value = batch.uniform("value")
                if (value == 13).any():
                    raise ValueError("thirteen")
                for row in (value[:, 0] == 7).nonzero().view(-1).tolist():
                    batch.reject(row, "seven", final=True)
                rest = value[:, 0] != 7
                batch.emit("out", rest, flag=value[rest] > 9)
    """).__name__

    def make(*blocks: str) -> Any:
        def scale(name: str, const: float, source: str, outs: str | None) -> Any:
            args = {"op": "mul", "const": const, "input": ROW}
            return build.node(name, "constant_op", {"value": source}, outs, args)

        form = {"number": ONE, "row": ROW}
        inner = [
            build.node("judge", kind, {"value": ":number"}, "which"),
            build.node("which", "if_op", {"condition": "judge:flag"}, {"then": "large", "else": "join"}),
            build.node("large", "constant_op", {"value": ":number"}, "join", {"op": "add", "const": 0, "input": ONE}),
            build.call("join", "leaf", {"row": ":row"}, "last", {"row": ROW}, {"row": ROW}),
            scale("last", 10, "join:row", None),
        ]
        main = [
            scale("before", 2, ":row", "inner"),
            build.call("inner", "inner", {"number": ":number", "row": "before:value"}, "after", form, {"row": ROW}),
            scale("after", -1, "inner:row", None),
        ]
        graphs = build.graphs(
            build.graph("main", form, {"row": ROW}, {"row": "after:value"}, main),
            build.graph("inner", form, {"row": ROW}, {"row": "last:value"}, inner),
            build.graph("leaf", {"row": ROW}, {"row": ROW}, {"row": "s:value"}, [scale("s", 0.5, ":row", None)]),
        )
        for graph in graphs["graphs"]:
            graph["is_block"] = graph["name"] in blocks
        return kind, graphs

    return make


@pytest.mark.parametrize("batch_size", [1, 5, 20, 50])
@pytest.mark.parametrize("blocks", [(), ("leaf",), ("inner", "leaf"), ("main", "inner", "leaf")], ids=len)
def test_blocks_give_the_same(start: Any, mixed: Any, finish: Any, blocks: tuple[str, ...], batch_size: int) -> None:
    kind, definition = mixed(*blocks)
    client = start(batch_size=batch_size, executors=2, max_retries=1, plugins=[kind])
    ns = client.load_graph(definition)
    rows = [torch.arange(float(index % 5)) + index for index in range(TASKS)]
    tasks = [client.enqueue(ns, {"number": torch.tensor([float(i)]), "row": row}) for i, row in enumerate(rows)]
    for index, (response, row) in enumerate(zip(finish(client, tasks).values(), rows, strict=True)):
        if index in {7, 13}:
            message = "seven" if index == 7 else "ValueError: thirteen"
            assert (response.status, response.error.message) == ("error", message)
            assert response.retries == (0 if index == 7 else 1)
            assert response.error.context.node == ("inner:judge" if "main" in blocks else "judge")
        else:
            assert torch.equal(response.result["row"], row * -10)
            assert (response.retries, response.error) == (0, None)
    names = {stats.name for stats in client.get_queue_stats()}
    assert len([name for name in names if name.split(":")[1] in blocks]) == len(blocks)
    if "main" in blocks:
        assert "main:main:before" in names


def test_a_cached_block_runs_once(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    module = plugin("""
        ran = []

        class Count(Node):
            pure = True

            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                ran.append(len(batch))
                batch.emit("out", value=batch.uniform("value") + 1)
    """)
    client = start(plugins=[module.__name__], executors=2)
    graph = build.line([1], module.__name__, module.__name__, is_block=True, cache=True)
    ns = client.load_graph(build.graphs(graph))
    tasks = [client.enqueue_task(ns, {"value": [index % 2]}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        assert response.result["value"].item() == index % 2 + 2
    assert sum(module.ran) == 4


def test_a_loop_inside_a_block(start: Any, build: Any, finish: Any) -> None:
    stack = ["int", [None]]
    form = {"stack": stack}
    nodes = [
        build.loop("loop", "levels", ":stack", init=4, inner="twice", out="twice"),
        build.node("twice", "constant_op", {"value": "loop:stack"}, None, {"op": "mul", "const": 2, "input": stack}),
    ]
    client = start(batch_size=7)
    graph = build.graph("levels", form, form, {"stack": "twice:value"}, nodes, is_block=True)
    ns = client.load_graph(build.graphs(graph))
    counts = [index % 9 + 1 for index in range(TASKS)]
    tasks = [client.enqueue_task(ns, {"stack": [3, count]}) for count in counts]
    for response, count in zip(finish(client, tasks).values(), counts, strict=True):
        assert response.result["stack"].tolist() == [3 * 2**count, 0]


def test_a_block_that_leads_to_no_end_for_some(start: Any, build: Any, finish: Any) -> None:
    """The same words as without a block."""
    client = start(max_retries=1)
    messages = {}
    for block in (False, True):
        nodes = [
            build.node("check", "if_op", {"condition": ":value"}, {"then": None, "else": "refuse"}),
            build.node("refuse", "assertion_error", {}, {}, {"msg": "no"}),
        ]
        form = {"value": FLAG}
        graph = build.graph("main", form, form, {"value": ":value"}, nodes, is_block=block)
        ns = client.load_graph(build.graphs(graph, ns=f"block_{block}"))
        tasks = [client.enqueue_task(ns, {"value": [index % 2 == 0]}) for index in range(6)]
        responses = list(finish(client, tasks).values())
        assert [response.status for response in responses] == ["ready", "error"] * 3
        messages[block] = {
            (response.error.code, response.error.message, response.error.context.node, response.retries)
            for response in responses[1::2]
        }
    assert messages[True] == messages[False] == {("general_exception", "no", "refuse", 1)}
