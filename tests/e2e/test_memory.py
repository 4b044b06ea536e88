"""A store that is too small: results or memory_purge errors, never a wrong result, a crash or a hang."""

from typing import Any

import numpy as np
import pytest

TASKS = 20


def held_over(build: Any, shape: list[int], steps: int = 2) -> Any:
    """value + 1 lies in the store, unused, while `steps` other nodes run; then both are added."""
    info = ["float", shape]
    nodes = [build.node("held", "constant_op", {"value": ":value"}, "s0", {"op": "add", "const": 1, "input": info})]
    for step in range(steps):
        source = f"s{step - 1}:value" if step else ":value"
        args = {"op": "mul", "const": 2, "input": info}
        nodes.append(
            build.node(
                f"s{step}", "constant_op", {"value": source}, f"s{step + 1}" if step < steps - 1 else "sum", args
            )
        )
    reads = {"left": "held:value", "right": f"s{steps - 1}:value"}
    nodes.append(build.node("sum", "bin_op", reads, None, {"op": "add", "input": info}))
    graph = build.graph("main", {"value": info}, {"value": info}, {"value": "sum:value"}, nodes)
    return build.graphs(graph)


@pytest.mark.parametrize("executors", [1, 3])
@pytest.mark.parametrize("shape", [[1, 1], [2, 2], [3, 3], [6, 6]])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 20])
def test_each_task_ends_with_its_result_or_for_want_of_memory(
    start: Any, build: Any, finish: Any, batch_size: int, shape: list[int], executors: int
) -> None:
    """4 to 144 bytes per tensor, in a store of 200."""
    client = start(store_bytes=200, batch_size=batch_size, executors=executors)
    ns = client.load_graph(held_over(build, shape))
    tasks = [client.enqueue_task(ns, {"value": np.full(shape, index, np.float32)}) for index in range(TASKS)]
    done = 0
    for index, response in enumerate(finish(client, tasks).values()):
        if response.status == "ready":
            assert response.result["value"].tolist() == np.full(shape, 5 * index + 1).tolist()
            done += 1
        else:
            assert (response.status, response.retries, response.result) == ("error", 10, None)
        if response.error is None:
            assert response.retries == 0
        else:
            assert response.error.code == "memory_purge"
            assert 1 <= response.retries <= 10
    if shape == [1, 1]:
        assert done == TASKS, "all fit at once"
    assert not client.has_any_tasks()
    for task in tasks:
        client.clear_task(task)


@pytest.mark.parametrize("max_retries", [0, 4])
def test_what_can_never_be_held_is_given_up(start: Any, build: Any, finish: Any, max_retries: int) -> None:
    """256 bytes do not fit into 200; smaller neighbours of another namespace go on."""
    client = start(store_bytes=200, max_retries=max_retries)
    large, small = held_over(build, [8, 8]), held_over(build, [1])
    large["ns"], small["ns"] = "large", "small"
    for definition in (large, small):
        client.load_graph(definition)
    for index in range(5):
        tasks = [
            client.enqueue_task("large", {"value": np.ones((8, 8), np.float32)}),
            client.enqueue_task("small", {"value": [index]}),
        ]
        lost, kept = finish(client, tasks).values()
        assert (lost.status, lost.error.code, lost.retries) == ("error", "memory_purge", max_retries)
        assert "store is too small" in lost.error.message
        assert kept.result["value"].item() == 5 * index + 1


@pytest.mark.parametrize("nested", [False, True])
def test_a_result_that_was_lost_on_the_way_is_no_result(start: Any, build: Any, finish: Any, nested: bool) -> None:
    """What the graph, or a called one, gives back was made by an early node and did not stay."""
    info = ["float", [64]]
    form = {"early": info, "late": info}
    add = {"op": "add", "const": 1, "input": info}
    nodes = [
        build.node("early", "constant_op", {"value": ":value"}, "late", add),
        build.node("late", "constant_op", {"value": ":value"}, None, add),
    ]
    inner = build.graph("inner", {"value": info}, form, {"early": "early:value", "late": "late:value"}, nodes)
    graphs = [inner]
    if nested:
        call = build.call("call", "inner", {"value": ":value"}, None, {"value": info}, form)
        vmap = {"early": "call:early", "late": "call:late"}
        graphs = [build.graph("main", {"value": info}, form, vmap, [call]), inner]
    client = start(store_bytes=200, max_retries=2)
    ns = client.load_graph(build.graphs(*graphs))
    (response,) = finish(client, [client.enqueue_task(ns, {"value": np.ones(64, np.float32)})]).values()
    assert (response.status, response.error.code, response.retries) == ("error", "memory_purge", 2)


def test_inputs_and_results_need_no_room_in_the_store(start: Any, build: Any, finish: Any) -> None:
    client = start(store_bytes=0)
    ns = client.load_graph(build.graphs(build.line([64], ("add", 1))))
    tasks = [client.enqueue_task(ns, {"value": np.full(64, index, np.float32)}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        assert (response.status, response.retries) == ("ready", 0)
        assert response.result["value"].tolist() == [index + 1] * 64


def test_a_cached_value_outlives_the_store(start: Any, build: Any, finish: Any) -> None:
    """What the cache keeps is bounded by its own bytes."""
    client = start(store_bytes=200, batch_size=1)
    graph = build.line([40], ("add", 1), ("mul", 2))
    graph["cache"] = True
    for node in graph["nodes"]:
        node["cache"] = True
    ns = client.load_graph(build.graphs(graph))
    tasks = [client.enqueue_task(ns, {"value": np.full(40, index % 5, np.float32)}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        assert response.result["value"].tolist() == [2 * (index % 5) + 2] * 40


def test_tensors_held_for_a_time_only(start: Any, build: Any, gated: Any, finish: Any, until: Any) -> None:
    """store.mode time: what waits longer than ttl_s is gone, and the task starts over, which is counted."""
    client = start(store={"mode": "time", "ttl_s": 0.02}, batch_size=1, plugins=[gated.__name__])
    info = ["float", [1]]
    nodes = [
        build.node("held", "constant_op", {"value": ":value"}, "gate", {"op": "add", "const": 1, "input": info}),
        build.node("gate", gated.__name__, {"value": ":value"}, "sum"),
        build.node("sum", "bin_op", {"left": "held:value", "right": "gate:value"}, None, {"op": "add", "input": info}),
    ]
    graph = build.graph("main", {"value": info}, {"value": info}, {"value": "sum:value"}, nodes, max_retries=1)
    ns = client.load_graph(build.graphs(graph))
    task = client.enqueue_task(ns, {"value": [5]}, wait=True)
    gated.entered.get(timeout=60)
    began = client.get_response(task).duration
    until(lambda: client.get_response(task).duration > began + 0.1)
    gated.gate.release()
    gated.entered.get(timeout=60)
    assert client.get_response(task).retries == 1
    assert client.get_response(task).error.code == "memory_purge"
    gated.open()
    (response,) = finish(client, [task]).values()
    assert response.status in {"ready", "error"}
    assert response.status == "error" or response.result["value"].item() == 16


def test_a_full_peer_refuses_in_the_end_and_says_why(start: Any, build: Any, finish: Any) -> None:
    """Inputs and results are bounded by store.record_bytes: room comes from clearing."""
    client = start(store_record_bytes=1000, tasks_refuse_after_s=0.0)
    ns = client.load_graph(build.graphs(build.line([100], ("add", 1))))
    first, second = (client.enqueue_task(ns, {"value": np.zeros(100, np.float32)}, wait=True) for _ in range(2))
    finish(client, [first, second])
    third = client.enqueue_task(ns, {"value": np.ones(100, np.float32)})
    (response,) = finish(client, [third]).values()
    assert (response.status, response.error.code) == ("error", "refused")
    assert "record_bytes" in response.error.message
    client.clear_task(first)
    fourth = client.enqueue_task(ns, {"value": np.ones(100, np.float32)})
    assert finish(client, [fourth])[fourth].result["value"].tolist() == [2] * 100


def test_enqueueing_waits_for_room(start: Any, build: Any, finish: Any) -> None:
    """The window is full of tasks that wait to be accepted; they come in one by one as others are cleared."""
    client = start(store_record_bytes=1000, tasks_refuse_after_s=60.0)
    ns = client.load_graph(build.graphs(build.line([100], ("add", 1))))
    tasks = [client.enqueue_task(ns, {"value": np.full(100, index, np.float32)}) for index in range(6)]
    seen: dict[str, float] = {}
    while len(seen) < len(tasks):
        for task, response in client.wait_for([task for task in tasks if task not in seen], timeout=60):
            assert response.result is not None
            seen[task] = response.result["value"][0].item()
            client.clear_task(task)
            break
    assert [seen[task] for task in tasks] == [index + 1 for index in range(6)]
