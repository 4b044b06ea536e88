"""Graphs that call graphs: constants out of blobs, nesting, recursion, loops that end."""

import struct
from typing import Any

import pytest
import torch

import scatterzmq

TASKS = 20
core = pytest.mark.parametrize("executors", [1, 2, 3])
batches = pytest.mark.parametrize("batch_size", [1, 5, 20, 50])

MATRIX = ["float", [2, 2]]
STACK = ["int", [None]]
STACKS = {"stack": STACK}


@core
@batches
def test_a_called_graph_gives_its_result_to_the_caller(
    start: Any, build: Any, finish: Any, batch_size: int, executors: int
) -> None:
    """main adds 1, has the matrix squared and turned by a constant out of a blob, and halves what comes back."""
    client = start(batch_size=batch_size, executors=executors)
    quarter_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    with client.open_blob("constants/turn") as blob:
        assert blob.write(b"something before it") == "0:19:constants/turn"
        place = blob.write_tensor(quarter_turn)
    add = {"op": "add", "const": 1, "input": MATRIX}
    halve = {"op": "mul", "const": 0.5, "input": MATRIX}
    turned = [
        build.node("turn", "load_constant", {}, "square", {"data": place, "ret": MATRIX}),
        build.node("square", "mat_square", {"value": ":mat"}, "product", {"size": 2}),
        build.node(
            "product",
            "bin_op",
            {"left": "square:value", "right": "turn:value"},
            None,
            {"op": "mul", "input": MATRIX},
        ),
    ]
    main = [
        build.node("plus", "constant_op", {"value": ":value"}, "turned", add),
        build.call("turned", "turned", {"mat": "plus:value"}, "half", {"mat": MATRIX}, {"product": MATRIX}),
        build.node("half", "constant_op", {"value": "turned:product"}, None, halve),
    ]
    ns = client.load_graph(
        build.graphs(
            build.graph("main", {"value": MATRIX}, {"value": MATRIX}, {"value": "half:value"}, main),
            build.graph("turned", {"mat": MATRIX}, {"product": MATRIX}, {"product": "product:value"}, turned),
        )
    )
    inputs = [torch.tensor([[float(index), 1.0], [2.0, -index]]) for index in range(TASKS)]
    tasks = [client.enqueue(ns, {"value": value}) for value in inputs]
    for response, value in zip(finish(client, tasks).values(), inputs, strict=True):
        plus = value + 1
        assert torch.equal(response.result["value"], plus @ plus * quarter_turn / 2)
        assert (response.retries, response.error) == (0, None)


@pytest.fixture(params=[1, 2], ids="peers={}".format)
def peers(request: Any) -> Any:
    return request.param


def test_one_graph_is_called_by_several_nodes_and_graphs(start: Any, build: Any, finish: Any) -> None:
    """main calls outer and inner, outer calls inner twice: each frame keeps its own fields."""
    info = ["float", [1]]

    def calls(name: str, graph: str, source: str, outs: str | None) -> Any:
        return build.call(name, graph, {"value": source}, outs, {"value": info}, {"value": info})

    outer = [calls("a", "inner", ":value", "b"), calls("b", "inner", "a:value", None)]
    main = [
        calls("one", "outer", ":value", "two"),
        calls("two", "inner", ":value", "sum"),
        build.node("sum", "bin_op", {"left": "one:value", "right": "two:value"}, None, {"op": "mul", "input": info}),
    ]
    client = start(batch_size=3, executors=2)
    ns = client.load_graph(
        build.graphs(
            build.graph("main", {"value": info}, {"value": info}, {"value": "sum:value"}, main),
            build.graph("outer", {"value": info}, {"value": info}, {"value": "b:value"}, outer),
            build.line([1], ("mul", 3), ("add", 1), name="inner"),
        )
    )
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        assert response.result["value"].item() == (3 * (3 * index + 1) + 1) * (3 * index + 1)


@core
@batches
def test_a_loop_runs_its_body_as_often_as_the_stack_says(
    start: Any, build: Any, finish: Any, plugin: Any, batch_size: int, executors: int
) -> None:
    """The way to iterate that the definition of the kind names: `inner` leads to a call of the graph with the loop."""
    body = plugin("""
        rounds = {}

        class Count(Node):
            def inputs(self):
                return {"stack": FieldFormat("int", (None,))}

            def outputs(self):
                return {"out": {"stack": FieldFormat("int", (None,))}}

            def execute(self, batch):
                for task, stack in zip(batch.task_ids, batch.rows("stack")):
                    rounds.setdefault(task, []).append(stack.tolist())
                batch.emit("out", stack=batch.rows("stack"))
    """)
    client = start(batch_size=batch_size, executors=executors, plugins=[body.__name__])
    loop = [
        build.loop("loop", "body", ":stack", init=3, inner="again", out=None),
        build.call("again", "loop", {"stack": "loop:stack"}, None, STACKS, STACKS),
    ]
    ns = client.load_graph(
        build.graphs(
            build.graph("loop", STACKS, STACKS, {"stack": "loop:stack"}, loop),
            build.graph(
                "body",
                STACKS,
                STACKS,
                {"stack": "count:stack"},
                [build.node("count", body.__name__, {"stack": ":stack"}, None)],
            ),
        )
    )
    stacks: list[list[int]] = [[], [0], [1], [2], [5], [-4], [7, 3], [1, 2, 4], [0, 0], [9, 9, 1]]
    tasks = [client.enqueue_task(ns, {"stack": stack}) for stack in stacks * 2]
    for response, stack in zip(finish(client, tasks).values(), stacks * 2, strict=True):
        top = [3] if not stack else [*stack[:-1], stack[-1] - 1]
        assert response.result["stack"].tolist() == top
        expected = [[*top[:-1], left] for left in range(top[-1], 0, -1)]
        assert body.rounds.get(response.task, []) == expected


@core
@batches
def test_a_value_is_computed_on_the_way_back_from_a_recursion(
    start: Any, build: Any, finish: Any, batch_size: int, executors: int
) -> None:
    """The loop calls its own graph; every level then doubles the whole stack that has come back."""
    nodes = [
        build.loop("loop", "levels", ":stack", init=4, inner="twice", out="twice"),
        build.node("twice", "constant_op", {"value": "loop:stack"}, None, {"op": "mul", "const": 2, "input": STACK}),
    ]
    client = start(batch_size=batch_size, executors=executors)
    ns = client.load_graph(build.graphs(build.graph("levels", STACKS, STACKS, {"stack": "twice:value"}, nodes)))
    counts = [index % 11 for index in range(TASKS)]
    tasks = [client.enqueue_task(ns, {"stack": [3, count]}) for count in counts]
    empty = client.enqueue_task(ns, {"stack": []})
    for response, count in zip(finish(client, tasks).values(), counts, strict=True):
        levels = max(1, count)
        end = -2 if count == 0 else 0
        assert response.result["stack"].tolist() == [3 * 2**levels, end]
    # [] becomes [4] and calls; then [3], [2], [1] call, and [0] leaves: no element survives but the counter.
    assert finish(client, [empty])[empty].result["stack"].tolist() == [0]


def test_a_deep_recursion_needs_no_stack_of_ours(start: Any, build: Any, finish: Any) -> None:
    nodes = [
        build.loop("loop", "deep", ":stack", init=1, inner="plus", out="plus"),
        build.node("plus", "constant_op", {"value": "loop:stack"}, None, {"op": "add", "const": 1, "input": STACK}),
    ]
    client = start()
    ns = client.load_graph(build.graphs(build.graph("deep", STACKS, STACKS, {"stack": "plus:value"}, nodes)))
    tasks = [client.enqueue_task(ns, {"stack": [0, depth]}) for depth in (400, 1, 250)]
    values = [response.result["stack"].tolist() for response in finish(client, tasks).values()]
    assert values == [[400, 400], [1, 1], [250, 250]]


def test_a_blob_that_is_not_there_fails_for_good(start: Any, build: Any, finish: Any) -> None:
    client = start()
    node = build.node("constant", "load_constant", {}, None, {"data": "0:16:nowhere", "ret": MATRIX})
    graph = build.graph("main", {"value": MATRIX}, {"value": MATRIX}, {"value": "constant:value"}, [node])
    ns = client.load_graph(build.graphs(graph))
    (response,) = finish(client, [client.enqueue_task(ns, {"value": [[1, 2], [3, 4]]})]).values()
    assert (response.status, response.error.code, response.retries) == ("error", "missing_blob", 0)
    assert "nowhere" in response.error.message


def test_cached_results_do_not_outlive_other_bytes(start: Any, build: Any, finish: Any, tmp_path: Any) -> None:
    """A file was replaced by hand, and its graph was loaded again. Whoever has the old one keeps it until then."""
    client = start(blobs={"dir": str(tmp_path)})
    node = build.node("constant", "load_constant", {}, None, {"data": "0:4:w", "ret": ["float", [1]]}, cache=True)
    value = {"value": ["float", [1]]}
    graphs = build.graphs(build.graph("main", value, value, {"value": "constant:value"}, [node]))

    def put(number: float) -> None:
        (tmp_path / "new").write_bytes(struct.pack("<f", number))
        (tmp_path / "new").rename(tmp_path / "w")

    def results() -> set[float]:
        tasks = [client.enqueue_task("main", {"value": [1]}) for _ in range(5)]
        return {response.result["value"].item() for response in finish(client, tasks).values()}

    put(1.0)
    client.load_graph(graphs)
    assert results() == {1.0}
    put(2.0)
    assert results() == {1.0}
    with pytest.raises(scatterzmq.GraphError, match="its blob 'w' had other bytes then"):
        client.load_graph(graphs)
    client.load_graph(graphs, replace=True)
    assert results() == {2.0}


def test_a_place_beyond_the_end_is_refused_with_the_graph(start: Any, build: Any) -> None:
    client = start()
    with client.open_blob("few") as blob:
        blob.write(b"few")
    node = build.node("constant", "load_constant", {}, None, {"data": "0:16:few", "ret": MATRIX})
    graph = build.graph("main", {"value": MATRIX}, {"value": MATRIX}, {"value": "constant:value"}, [node])
    with pytest.raises(scatterzmq.GraphError, match="main:constant: blob 'few' has 3 bytes, and the node reads 16"):
        client.load_graph(build.graphs(graph))


def test_a_blob_is_read_by_graphs_loaded_before_and_after_it(start: Any, build: Any, finish: Any) -> None:
    """Two constants of one blob, kept apart by their offsets; bfloat16 bit for bit."""
    client = start()
    values = [torch.tensor([1.5, -0.0, float("nan")], dtype=torch.bfloat16), torch.tensor([7, 8, 9], dtype=torch.int8)]
    with client.open_blob("two") as blob:
        places = [blob.write_tensor(value) for value in values]
    infos = [["bfloat16", [3]], ["int8", [3]]]
    nodes = [
        build.node("one", "load_constant", {}, "two", {"data": places[0], "ret": infos[0]}),
        build.node("two", "load_constant", {}, None, {"data": places[1], "ret": infos[1]}),
    ]
    outputs = {"one": infos[0], "two": infos[1]}
    vmap = {"one": "one:value", "two": "two:value"}
    ns = client.load_graph(build.graphs(build.graph("two", {"go": ["bool", []]}, outputs, vmap, nodes)))
    (response,) = finish(client, [client.enqueue_task(ns, {"go": True})]).values()
    assert torch.equal(response.result["one"].view(torch.int16), values[0].view(torch.int16))
    assert torch.equal(response.result["two"], values[1])
