"""Several peers in one process: the same results, kept twice, and nothing left when they are gone."""

import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import scatterzmq
from scatterzmq import ClusterError
from scatterzmq.eventstream import EventStream

ONE = {"value": ["float", [1]]}
several = pytest.mark.parametrize("peers", [2, 3, 5])


def values(responses: Any) -> list[float]:
    for response in responses.values():
        response.ok()
    return [response.result["value"].item() for response in responses.values()]


@several
def test_results_are_right_and_kept_twice(start: Any, build: Any, finish: Any) -> None:
    client = start()
    ns = client.load_graph(build.graphs(build.line([1], ("mul", 2), ("add", 1), ("mul", 3))))
    tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(300)]
    responses = finish(client, tasks)
    assert values(responses) == [(2 * number + 1) * 3 for number in range(300)]
    assert {response.copies for response in responses.values()} == {2}
    assert not client.has_any_tasks()


@several
def test_everybody_is_there(start: Any, peers: int) -> None:
    members = start().peers()
    assert [(member.name, member.status) for member in members] == [(f"local-{n}", "alive") for n in range(peers)]
    assert len({member.id for member in members}) == peers


@several
def test_events_that_nobody_was_told_of_are_counted_once(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventStream, "dropped", lambda _: 7)
    client = start()
    assert client._run(client._calls.stats()).counters["events_dropped"] == 7


def test_one_peer_is_what_it_always_was(start: Any) -> None:
    (member,) = start(peers=1).peers()
    assert member.name == "local"


@several
def test_every_call_of_a_client_works(start: Any, build: Any, finish: Any) -> None:
    client = start()
    definition = build.graphs(build.line([1], ("add", 1)), ns="first")
    assert client.load_graph(definition) == "first"
    assert client.namespaces() == {"first"}
    assert client.main_inputs("first") == client.main_outputs("first") == {"value"}
    assert client.graph_to_json("first")["entry"] == "main"
    task = client.enqueue_task("first", {"value": [1]}, wait=True)
    assert client.get_namespace(task) == "first"
    assert values(finish(client, [task])) == [2.0]
    assert client.get_status(task) == "done"
    assert client.get_result(task)["value"].item() == 2.0
    client.clear_task(task)
    assert client.get_status(task) == "unknown"
    assert client.get_response(task).status == "unknown"
    assert client.submit("first", value=[5]).result(timeout=60)["value"].item() == 6.0
    assert [result["value"].item() for result in client.map("first", ({"value": [n]} for n in range(600)))] == [
        float(n + 1) for n in range(600)
    ]
    (queue,) = client.get_queue_stats()
    assert queue.queue_length == 0
    with client.open_blob("ones") as blob:
        blob.write(b"1234")


@several
def test_many_questions_at_once(start: Any, build: Any) -> None:
    """More tasks than one message asks for, and some that nobody knows."""
    client = start()
    ns = client.load_graph(build.graphs(build.line([1], ("add", 1))))
    tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(2500)]
    strangers = [scatterzmq.TaskId(f"T{number:032x}") for number in range(1500)]
    found = dict(client.wait_for([*tasks, *strangers], timeout=60))
    assert {found[task].status for task in tasks} == {"ready"}
    assert {found[task].status for task in strangers} == {"unknown"}


@several
def test_a_task_that_waits_can_be_cancelled_or_cleared(
    start: Any, build: Any, gated: Any, finish: Any, until: Any, peers: int
) -> None:
    client = start(plugins=[gated.__name__], batch_size=1)
    ns = client.load_graph(build.graphs(build.line([1], gated.__name__)))
    futures = [client.submit(ns, value=[number]) for number in range(2 * peers)]
    last = client.enqueue_task(ns, {"value": [99]}, wait=True)
    assert futures[-1].cancel()
    client.clear_task(last)
    gated.open()
    assert [future.result(timeout=60)["value"].item() for future in futures[:-1]] == [
        2.0 * number for number in range(2 * peers - 1)
    ]
    assert futures[-1].cancelled()
    assert client.get_status(last) == "unknown"
    until(lambda: not client.has_any_tasks())


@several
def test_all_peers_work(start: Any, build: Any, gated: Any, finish: Any, peers: int) -> None:
    """Though one client gives all tasks to one of them."""
    client = start(plugins=[gated.__name__], batch_size=1)
    ns = client.load_graph(build.graphs(build.line([1], gated.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(4 * peers)]
    client.flush()
    for _ in range(peers):
        gated.entered.get(timeout=60)
    gated.open()
    assert values(finish(client, tasks)) == [2.0 * number for number in range(4 * peers)]


@several
def test_errors_come_with_their_traceback(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    module = plugin("""
        class Wrong(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                raise ValueError("this is wrong")
    """)
    client = start(plugins=[module.__name__], max_retries=1)
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(40)]
    for response in finish(client, tasks).values():
        assert (response.status, response.retries) == ("error", 1)
        assert "this is wrong" in response.error.message
        assert "in execute" in response.error.traceback


@pytest.mark.parametrize("peers", [2])
def test_they_run_in_the_thread_of_whoever_waits(start: Any, build: Any, finish: Any) -> None:
    client = start(executor_kind="inline")
    ns = client.load_graph(build.graphs(build.line([1], ("add", 1), ("mul", 2))))
    tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(50)]
    assert values(finish(client, tasks)) == [2.0 * number + 2 for number in range(50)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scatterzmq")]


@several
def test_large_tensors_go_round(start: Any, build: Any, finish: Any) -> None:
    """More than the volatile store holds at once."""
    client = start(store_bytes=1 << 20)
    ns = client.load_graph(build.graphs(build.line([50_000], ("add", 1), ("add", 1))))
    tasks = [client.enqueue_task(ns, {"value": [float(number)] * 50_000}) for number in range(12)]
    for number, response in enumerate(finish(client, tasks).values()):
        assert set(response.result["value"].tolist()) == {number + 2.0}


def test_more_peers_than_there_may_be(start: Any) -> None:
    with pytest.raises(scatterzmq.ConfigError, match="at most 3"):
        start(peers=4, cluster_peers_max=3)


@pytest.mark.parametrize("peers", [2])
def test_a_peer_that_broke_says_so(start: Any, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    client = start()
    client.load_graph(build.graphs(build.line([1], ("add", 1))))
    monkeypatch.setattr(client._session.link._peer._driver, "take", lambda posted: 1 // 0)
    with pytest.raises(ClusterError, match="the embedded peer failed: ZeroDivisionError"):
        client.namespaces()
    client.close()
    assert [entry.exc_type for entry in seen] == [ZeroDivisionError]


@pytest.mark.parametrize("config", [{}, {"executors": 2}, {"executor_kind": "inline"}], ids=str)
def test_nothing_is_left_of_fifty_in_a_row(build: Any, config: dict[str, Any]) -> None:
    def use() -> None:
        with scatterzmq.local(peers=2, **config) as client:
            ns = client.load_graph(build.graphs(build.line([8], ("add", 1), ("mul", 2))))
            tasks = [client.enqueue_task(ns, {"value": [number] * 8}) for number in range(6)]
            assert len(dict(client.wait_for(tasks, timeout=60))) == 6
            results: list[Any] = [client.get_result(task) for task in tasks]
            assert [result["value"][0].item() for result in results] == [2.0 * n + 2 for n in range(6)]
            client.clear_task(tasks[0])
            client.enqueue_task(ns, {"value": [9] * 8})

    def files() -> int:
        folder = Path("/proc/self/fd")
        return len(os.listdir(folder)) if folder.is_dir() else 0

    for _ in range(3):
        use()
    gc.collect()
    threads, descriptors = threading.active_count(), files()
    for _ in range(50):
        use()
    gc.collect()
    assert (threading.active_count(), files()) == (threads, descriptors)
