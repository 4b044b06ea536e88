"""Nodes one after another: every task gets its own result, whatever the batches and executors."""

import time
from typing import Any

import numpy as np
import pytest
import torch

from scatterzmq import TaskStatus

TASKS = 20
core = pytest.mark.parametrize("executors", [1, 2, 3])
batches = pytest.mark.parametrize("batch_size", [1, 5, 20, 50])


@core
@batches
def test_every_task_gets_its_own_result_and_can_be_forgotten(
    start: Any, build: Any, batch_size: int, executors: int
) -> None:
    client = start(batch_size=batch_size, executors=executors)
    began = time.monotonic()
    ns = client.load_graph(build.graphs(build.line([2, 2], ("mul", 2), ("add", 1), "square", ("add", -3))))
    assert ns == "main"
    inputs = [np.array([[index, 1], [0, -index]], np.float32) for index in range(TASKS)]
    tasks = [client.enqueue_task(ns, {"value": value}) for value in inputs]
    assert len(set(tasks)) == TASKS
    seen = dict(client.wait_for(tasks, timeout=60))
    took_s = time.monotonic() - began
    assert seen.keys() == set(tasks)
    for task, value in zip(tasks, inputs, strict=True):
        response = seen[task]
        inner = 2 * value + 1
        assert (response.status, response.ns, response.retries, response.error) == (TaskStatus.READY, ns, 0, None)
        assert 0 <= response.duration <= took_s + 0.001
        response.ok()
        assert response.result is not None
        assert response.result.keys() == {"value"}
        assert response.result["value"].tolist() == (inner @ inner - 3).tolist()
        assert client.get_status(task) == "done"
        client.clear_task(task)
        assert (client.get_namespace(task), client.get_status(task), client.get_result(task)) == (None, "unknown", None)
    assert not client.has_any_tasks()


@core
@batches
def test_open_dimensions_come_out_as_they_went_in(
    start: Any, build: Any, finish: Any, batch_size: int, executors: int
) -> None:
    """[null, 3]: also rows without any value, and neighbours of very different lengths."""
    info = ["float", [None, 3]]
    nodes = [
        build.node("scale", "constant_op", {"value": ":left"}, "sum", {"op": "mul", "const": 10, "input": info}),
        build.node(
            "sum", "bin_op", {"left": "scale:value", "right": ":right"}, "product", {"op": "add", "input": info}
        ),
        build.node("product", "bin_op", {"left": "sum:value", "right": ":left"}, None, {"op": "mul", "input": info}),
    ]
    formats = {"left": info, "right": info}
    client = start(batch_size=batch_size, executors=executors)
    graph = build.graph("open", formats, {"value": info}, {"value": "product:value"}, nodes)
    ns = client.load_graph(build.graphs(graph))
    lengths = [(index * 7) % 5 if index != 9 else 40 for index in range(TASKS)]
    pairs = [
        (torch.full((length, 3), float(index)), torch.arange(3.0 * length).view(length, 3))
        for index, length in enumerate(lengths)
    ]
    tasks = [client.enqueue(ns, {"left": left, "right": right}) for left, right in pairs]
    for response, (left, right) in zip(finish(client, tasks).values(), pairs, strict=True):
        assert torch.equal(response.result["value"], (left * 10 + right) * left)


@pytest.fixture(params=[1, 3], ids="peers={}".format)
def peers(request: Any) -> Any:
    return request.param


def test_shapes_that_differ_fail_only_the_tasks_that_have_them(start: Any, build: Any, finish: Any) -> None:
    info = ["int64", [None]]
    node = build.node("sum", "bin_op", {"left": ":left", "right": ":right"}, None, {"op": "add", "input": info})
    graph = build.graph("sum", {"left": info, "right": info}, {"value": info}, {"value": "sum:value"}, [node])
    client = start(max_retries=1)
    ns = client.load_graph(build.graphs(graph))
    tasks = [client.enqueue_task(ns, {"left": [1] * (index % 4), "right": [2, 2]}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        if index % 4 == 2:
            assert response.result["value"].tolist() == [3, 3]
            assert response.retries == 0
        else:
            assert response.status == "error"
            assert response.retries == 1
            assert "same shape" in response.error.message


def test_a_field_can_be_read_by_many_and_the_input_be_the_result(start: Any, build: Any, finish: Any) -> None:
    """value is read by three nodes and also is a result itself, unchanged."""
    info = ["float", [2]]
    nodes = [
        build.node("double", "constant_op", {"value": ":value"}, "both", {"op": "mul", "const": 2, "input": info}),
        build.node(
            "both", "bin_op", {"left": ":value", "right": "double:value"}, "twice", {"op": "add", "input": info}
        ),
        build.node(
            "twice", "bin_op", {"left": "both:value", "right": "both:value"}, None, {"op": "mul", "input": info}
        ),
    ]
    outputs = dict.fromkeys(("same", "double", "square"), info)
    vmap = {"same": ":value", "double": "double:value", "square": "twice:value"}
    client = start()
    ns = client.load_graph(build.graphs(build.graph("shared", {"value": info}, outputs, vmap, nodes)))
    tasks = [client.enqueue_task(ns, {"value": [index, -1]}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        found = {name: value.tolist() for name, value in response.result.items()}
        assert found == {"same": [index, -1], "double": [2 * index, -2], "square": [9 * index**2, 9]}


def test_what_a_result_is_read_into_is_the_readers_own(start: Any, build: Any, finish: Any) -> None:
    client = start()
    ns = client.load_graph(build.graphs(build.line([2], ("add", 1))))
    given = np.zeros(2, np.float32)
    first, second = (client.enqueue_task(ns, {"value": given}) for _ in range(2))
    given[:] = 99  # too late to matter
    responses = finish(client, [first, second])
    responses[first].result["value"].fill_(-5)
    assert client.get_result(second)["value"].tolist() == [1, 1]
    assert client.get_result(first)["value"].tolist() == [1, 1]


def test_namespaces_are_side_by_side(start: Any, build: Any, finish: Any) -> None:
    """Same names of graphs and nodes, also mixed in time."""
    client = start(batch_size=4, executors=2)
    for factor in (2, 3, 5):
        ns = client.load_graph(build.graphs(build.line([1], ("mul", factor), ("mul", factor)), ns=f"by_{factor}"))
        assert ns == f"by_{factor}"
    expected = {
        client.enqueue_task(f"by_{factor}", {"value": [index]}): (f"by_{factor}", float(index * factor**2))
        for index in range(TASKS)
        for factor in (2, 3, 5)
    }
    for task, response in finish(client, expected).items():
        assert (response.ns, response.result["value"].item()) == expected[task]
        assert client.get_namespace(task) == response.ns


@pytest.mark.parametrize("strategy", ["simple", "dedicated"])
def test_strategies_differ_in_order_only(start: Any, build: Any, finish: Any, strategy: str) -> None:
    client = start(strategy=strategy, executors=3, batch_size=3)
    ns = client.load_graph(build.graphs(build.line([1], *[("add", 2**index) for index in range(6)])))
    tasks = [client.enqueue_task(ns, {"value": [100 * index]}) for index in range(40)]
    values = [response.result["value"].item() for response in finish(client, tasks).values()]
    assert values == [100 * index + 63 for index in range(40)]


def test_a_graph_with_a_fixed_id_queues_and_output_queue(start: Any, build: Any, finish: Any) -> None:
    """Edges by queue id, the reserved queue for the end, entry by graph id."""
    definition = build.graphs(build.line([1], ("add", 1), ("mul", 3)))
    graph = definition["graphs"][0]
    graph["graph_id"] = definition["entry"] = "G" + "ab" * 16
    graph["nodes"][1]["qin"] = "Q" + "cd" * 16
    graph["nodes"][0]["outs"] = {"out": "Q" + "cd" * 16}
    graph["nodes"][1]["outs"] = {"out": "Q8a82aef7da2c4b49bf7ba25d42e99391"}
    client = start()
    definition["ns"] = "by_id"
    ns = client.load_graph(definition)
    assert client.entry_graph_name(ns) == "by_id:main"
    (response,) = finish(client, [client.enqueue_task(ns, {"value": [1]})]).values()
    assert response.result["value"].tolist() == [6]
    assert {stats.name: stats.id for stats in client.get_queue_stats()}["by_id:main:s1"] == "Q" + "cd" * 16
