"""The client's calls against a scripted peer."""

import subprocess
import sys
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from scatterzmq.client import Client, TaskStatus
from scatterzmq.core.messages import (
    AskNamespaces,
    AskTasks,
    Attach,
    Clear,
    Final,
    LoadGraph,
    ResultRead,
    Submit,
)
from scatterzmq.errors import (
    ClusterError,
    ErrorCode,
    ErrorInfo,
    FormatError,
    GraphError,
    TaskError,
    Timeout,
)
from scatterzmq.ids import TaskId

OWN = TaskId("T" + "1" * 32)
OTHER = TaskId("T" + "2" * 32)
REFUSED = (ErrorCode.REFUSED, "too large")
FAILED = ErrorInfo(code=ErrorCode.GENERAL_EXCEPTION, message="boom", traceback="Traceback: here")


def test_a_result_comes_back_as_a_tensor(client: Client, x: Any, y: Any) -> None:
    task = client.enqueue_task("double", x(1, 2))
    assert task.startswith("T")
    assert len(task) == 33
    assert y(client.get_result(task)) == [2, 4]
    assert client.get_namespace(task) == "double"


def test_lists_and_tensors_are_inputs_too(client: Client, y: Any) -> None:
    for value in ([1, 2], (1.0, 2.0), torch.tensor([1.0, 2.0])):
        assert y(client.get_result(client.enqueue("double", {"x": value}))) == [2, 4]


def test_the_status_is_the_one_before_the_reading(client: Client, peer: Any, x: Any) -> None:
    task = client.enqueue_task("double", x())
    assert client.get_status(task) is TaskStatus.READY
    first = client.get_response(task)
    assert (first.ns, first.status, first.retries, first.error) == ("double", TaskStatus.READY, 1, None)
    assert (first.duration, first.copies, first.durable) == (1.5, 1, False)
    assert peer.tasks[task].status is TaskStatus.DONE
    assert client.get_response(task).status is TaskStatus.DONE
    assert client.get_status(task) is TaskStatus.DONE
    assert peer.of(ResultRead) == [ResultRead(ids=(task,))]


def test_a_result_is_the_readers_own(client: Client, x: Any, y: Any) -> None:
    task = client.enqueue_task("double", x(1, 2))
    result = client.get_result(task)
    assert result is not None
    result["y"].zero_()
    assert y(client.get_result(task)) == [2, 4]


def test_one_response_has_one_result(client: Client, x: Any) -> None:
    response = client.get_response(client.enqueue_task("double", x()))
    assert response.result is response.result


def test_cleared_tasks_are_unknown(client: Client, x: Any) -> None:
    task = client.enqueue_task("double", x())
    client.clear_task(task)
    assert client.get_status(task) is TaskStatus.UNKNOWN
    assert client.get_namespace(task) is None
    response = client.get_response(task)
    assert (response.ns, response.result, response.copies) == (None, None, 0)
    with pytest.raises(TaskError, match="is unknown"):
        response.ok()


def test_unknown_tasks(client: Client) -> None:
    assert client.get_status(OWN) is TaskStatus.UNKNOWN
    assert client.get_result(OWN) is None
    client.clear_task(OWN)
    client.cancel(OWN)
    with pytest.raises(ValueError, match="nonsense"):
        client.get_status("nonsense")


def test_a_failed_task(client: Client, peer: Any, x: Any) -> None:
    peer.fail = lambda _: FAILED
    task = client.enqueue_task("double", x())
    response = client.get_response(task)
    assert response.status is TaskStatus.ERROR
    assert response.error == FAILED
    assert client.get_result(task) is None
    with pytest.raises(TaskError, match=r"boom.*\nTraceback: here"):
        response.ok()
    client.flush()  # a task that failed was accepted all the same


def test_results_and_errors_in_one_message(client: Client, peer: Any, x: Any, y: Any) -> None:
    peer.fail = lambda numbers: FAILED if numbers[0] in (1, 2) else None
    peer.hold_accept = True
    tasks = [client.enqueue_task("double", x(i, i)) for i in range(5)]
    client._session.push()
    peer.accept()
    results = [client.get_result(task) for task in tasks]
    assert [result and y(result) for result in results] == [[0, 0], None, None, [6, 6], [8, 8]]


def test_a_result_that_is_due_but_does_not_come(client: Client, peer: Any, x: Any) -> None:
    task = client.enqueue_task("double", x(1, 2), wait=True)
    client._session._tasks.clear()  # as if another client had enqueued it
    peer.silent = (Attach,)
    with pytest.raises(Timeout, match="did not come within"):
        client.get_response(task)
    assert not client._session._tasks


def test_a_task_that_is_not_over(client: Client, peer: Any, x: Any) -> None:
    peer.hold_results = True
    task = client.enqueue_task("double", x())
    assert client.get_status(task) is TaskStatus.WAIT
    response = client.get_response(task)
    assert (response.status, response.result, response.ns) == (TaskStatus.WAIT, None, "double")
    response.ok()
    peer.tasks[task].status = TaskStatus.BUSY
    assert client.get_status(task) is TaskStatus.BUSY
    client.cancel(task)
    error = client.get_response(task).error
    assert error is not None
    assert error.code is ErrorCode.CANCELLED


def test_tasks_of_another_client(peer: Any, client: Client, x: Any, y: Any) -> None:
    task = client.enqueue_task("double", x(1, 2), wait=True)
    other = Client(peer.connect)
    assert other.get_status(task) is TaskStatus.READY
    assert y(other.get_result(task)) == [2, 4]
    assert other.get_namespace(task) == "double"
    other.clear_task(task)
    assert other.get_status(task) is TaskStatus.UNKNOWN
    peer.inbox = client._session


def test_attaching_waits_for_the_end(threaded: Any, x: Any, y: Any) -> None:
    threaded.hold_results = True
    with Client(threaded.connect) as client:
        task = client.enqueue_task("double", x(1, 2), wait=True)
        del client._session._tasks[task]  # as if another client had enqueued it
        assert client.get_response(task).status is TaskStatus.WAIT
        assert task not in client._session._tasks
        results: list[Any] = []
        waiter = Thread(target=lambda: results.extend(client.wait_for([task], timeout=None)))
        waiter.start()
        while len(threaded.of(Attach)) < 2:
            client.namespaces()
        threaded.posted.put(lambda: threaded.finish([task]))
        waiter.join()
        assert [(found, y(response.result)) for found, response in results] == [(task, [2, 4])]


def test_a_task_cleared_elsewhere_becomes_unknown(client: Client, peer: Any, x: Any) -> None:
    task = client.enqueue_task("double", x())
    del peer.tasks[task]
    peer.final([task])
    assert client.get_status(task) is TaskStatus.UNKNOWN
    assert client.get_result(task) is None


def test_the_first_outcome_stays(client: Client, peer: Any, x: Any, y: Any) -> None:
    task = client.enqueue_task("double", x(1, 2))
    peer.tasks[task].error = FAILED
    peer.tasks[task].status = TaskStatus.ERROR
    peer.final([task])
    assert y(client.get_result(task)) == [2, 4]


def test_only_the_latest_read_results_are_kept(peer: Any, x: Any, y: Any) -> None:
    with Client(peer.connect, window=3) as client:
        tasks = [client.enqueue_task("double", x(i, i)) for i in range(5)]
        for task in tasks:
            client.get_result(task)
        assert len(client._session._tasks) == 3
        assert y(client.get_result(tasks[0])) == [0, 0]
        assert peer.of(Attach) == [Attach(ids=(tasks[0],))]
        assert len(client._session._tasks) == 3
        assert client.get_response(tasks[0]).status is TaskStatus.DONE


# ---- checks at the call


def test_wrong_inputs_raise_at_the_call(client: Client, x: Any) -> None:
    with pytest.raises(GraphError, match=r"'half' is not loaded; loaded are: double"):
        client.enqueue_task("half", x())
    with pytest.raises(GraphError, match="namespace 'rare' is loaded, but cannot run: no such kind here"):
        client.enqueue_task("rare", x())
    with pytest.raises(FormatError, match=r"'x': expected float32\[2\], got float32\[3\]"):
        client.enqueue_task("double", x(1, 2, 3))
    with pytest.raises(FormatError, match=r"missing 'x' and unknown 'z' .* expected 'x' float32\[2\]"):
        client.enqueue_task("double", {"z": [1, 2]})
    for value, kind in ((5, "int"), (None, "NoneType"), ("abc", "str"), ([1], "list")):
        with pytest.raises(FormatError, match=f"^namespace 'double': expected a dict with 'x' .*, got {kind}$"):
            client.enqueue_task("double", value)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="never converted"):
        client.enqueue_task("double", {"x": np.array([1.0, 2.0])})
    with pytest.raises(ValueError, match=r"invalid TaskId 5: expected 'T' and 32 hex digits"):
        client.get_status(5)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=r"^wait_for: expected several ids of tasks, got the one text 'T0'"):
        client.wait_for("T0")
    with pytest.raises(GraphError, match=r"^cannot read graph file "):
        client.load_graph("a\0b")
    with pytest.raises(FormatError, match="invalid TaskId 'mine'"):
        client.enqueue_task("double", x(), task_id="mine")
    assert not client._session._pending


def test_a_namespace_is_looked_up_once(client: Client, peer: Any, x: Any) -> None:
    for _ in range(3):
        client.enqueue_task("double", x())
    assert len(peer.of(AskNamespaces)) == 1


def test_digests_go_along_where_they_are_wanted(client: Client, peer: Any, redefined: Any, x: Any) -> None:
    client.enqueue_task("double", x(1, 2))
    assert peer.of(Submit)[-1].digests == {}
    peer.next_info = redefined(digests=True)
    client.load_graph({}, replace=True)
    client.enqueue_task("double", x(1, 2))
    submit = peer.of(Submit)[-1]
    assert [len(digest) for digest in submit.digests["x"]] == [32]
    assert (len(submit.nonce), len(submit.submit_digests[0])) == (8, 16)


# ---- graphs


def test_a_loaded_graph_counts_at_once(client: Client, peer: Any, make_namespace: Any, redefined: Any, x: Any) -> None:
    client.enqueue_task("double", x(1, 2))
    peer.next_info = redefined(inputs=make_namespace(shape=(3,)).inputs)
    assert client.load_graph({"ns": "double"}, replace=True) == "double"
    assert peer.of(LoadGraph) == [LoadGraph(mid=peer.of(LoadGraph)[0].mid, definition='{"ns": "double"}', replace=True)]
    client.enqueue_task("double", x(1, 2, 3))
    with pytest.raises(FormatError):
        client.enqueue_task("double", x(1, 2))


def test_graph_files(client: Client, peer: Any, make_namespace: Any, tmp_path: Any) -> None:
    peer.next_info = make_namespace("filed")
    (tmp_path / "graph.json").write_text('{"a": 1}')
    assert client.load_graph(tmp_path / "graph.json") == "filed"
    assert client.load_graph(str(tmp_path / "graph.json")) == "filed"
    assert {load.definition for load in peer.of(LoadGraph)} == {'{"a": 1}'}
    with pytest.raises(GraphError, match=r"cannot read graph file .*none.json': No such file"):
        client.load_graph(tmp_path / "none.json")
    with pytest.raises(GraphError, match="no JSON"):
        client.load_graph({"a": object()})
    with pytest.raises(GraphError, match="not int"):
        client.load_graph(3)  # type: ignore[arg-type]


def test_all_problems_of_a_graph_are_told(client: Client, peer: Any) -> None:
    peer.problems = ("graph a: no nodes", "graph b: no end")
    with pytest.raises(GraphError, match="2 problems:\n  graph a: no nodes\n  graph b: no end"):
        client.load_graph({})


def test_namespaces_and_formats(client: Client) -> None:
    assert client.namespaces() == {"double"}
    assert client.entry_graph_name("double") == "double:main"
    assert client.main_inputs("double") == {"x"}
    assert client.main_outputs("double") == {"y"}
    assert client.output_format("double", "y") == ("float32", (2,))
    assert client.graph_to_json("double") == {"ns": "double"}
    for call in (client.entry_graph_name, client.main_inputs, client.main_outputs, client.graph_to_json):
        with pytest.raises(GraphError, match="'half' is not loaded"):
            call("half")
    with pytest.raises(GraphError, match="no output field 'z'; it has: y"):
        client.output_format("double", "z")


def test_the_cache_is_cleared_by_namespace(client: Client, peer: Any, x: Any) -> None:
    """As it is defined now, and when what was enqueued before has been accepted."""
    client.enqueue_task("double", x())
    peer.infos["double"] = replace(peer.infos["double"], cached=(b"origin-1", b"origin-2"))
    assert client.clear_cache("double") == 2
    assert client.clear_cache() == -1
    assert peer.kinds().index("Submit") < peer.kinds().index("ClearCache")
    with pytest.raises(GraphError, match="'half' is not loaded"):
        client.clear_cache("half")


def test_the_cluster(client: Client, peer: Any, x: Any) -> None:
    assert client.get_queue_stats()[0].name == "double:main:node"
    assert not client.has_any_tasks()
    peer.hold_results = True
    client.enqueue_task("double", x())
    assert client.has_any_tasks()
    assert client.get_healthcheck() == ("127.0.0.1", "localhost", 7412)
    assert [member.name for member in client.peers()] == ["fake"]
    assert client.open_blob("b") == "blob b"  # type: ignore[comparison-overlap]


# ---- time-outs and ends


def test_silence_is_a_timeout(client: Client, peer: Any, x: Any) -> None:
    task = client.enqueue_task("double", x())
    peer.silent = (AskTasks, Clear)
    with pytest.raises(Timeout, match=r"no answer within 0.02 s"):
        client.get_status(OTHER)
    with pytest.raises(Timeout, match="clearing task"):
        client.clear_task(task)
    assert client.get_status(task) is TaskStatus.READY
    assert not client._session._replies


def test_a_late_answer_is_ignored(client: Client, peer: Any) -> None:
    peer.silent = (AskTasks,)
    with pytest.raises(Timeout):
        client.get_status(OTHER)
    peer.silent = ()
    peer.answer(peer.of(AskTasks)[0], {})
    assert client.get_status(OTHER) is TaskStatus.UNKNOWN


def test_a_closed_client(peer: Any, x: Any) -> None:
    closings: list[int] = []
    client = Client(peer.connect, on_close=lambda: closings.append(1))
    task = client.enqueue_task("double", x())
    client.close()
    client.close()
    assert (peer.closed, closings) == (1, [1])
    for call in (
        lambda: client.enqueue_task("double", x()),
        lambda: client.get_status(OTHER),
        lambda: client.get_response(task),
        lambda: list(client.wait_for([task])),
        lambda: client.clear_task(task),
        lambda: client.submit("double", **x()),
        lambda: client.map("double", []),
        lambda: client.load_graph({}),
        client.flush,
        client.namespaces,
        client.peers,
        client.get_healthcheck,
        client.has_any_tasks,
        lambda: client.open_blob("b"),
    ):
        with pytest.raises(ClusterError, match="closed"):
            call()


def test_closing_sends_off_what_was_enqueued(peer: Any, x: Any) -> None:
    with Client(peer.connect) as client:
        client.enqueue_task("double", x())
        peer.hold_accept = True
        tasks = [client.enqueue_task("double", x()) for _ in range(3)]
        client._session.push()
        peer.accept()
    assert all(task in peer.tasks for task in tasks)


def test_closing_tells_of_tasks_that_were_never_accepted(peer: Any, x: Any) -> None:
    peer.hold_accept = True
    client = Client(peer.connect, request_timeout=0.01)
    client.enqueue_task("double", x())
    with pytest.raises(Timeout, match="1 tasks were not accepted"):
        client.close()
    assert peer.closed == 1
    client.close()


def test_an_error_in_the_with_block_is_the_one_that_is_seen(peer: Any, x: Any) -> None:
    peer.refuse = lambda _: REFUSED
    client = Client(peer.connect)
    client.enqueue_task("double", x())
    with pytest.raises(KeyError), client:
        raise KeyError
    assert peer.closed == 1


def test_a_lost_link_ends_every_wait(threaded: Any, x: Any) -> None:
    threaded.hold_results = True
    client = Client(threaded.connect)
    task = client.enqueue_task("double", x(), wait=True)
    future = client.submit("double", **x())
    threaded.posted.put(lambda: threaded.inbox.lost("the peer has gone; start another"))
    with pytest.raises(ClusterError, match="the peer has gone"):
        list(client.wait_for([task], timeout=None))
    with pytest.raises(ClusterError, match="the peer has gone"):
        future.result(1)
    with pytest.raises(ClusterError, match="the peer has gone"):
        client.get_status(task)
    client.close()


def test_a_link_that_cannot_send_is_lost(peer: Any, x: Any) -> None:
    client = Client(peer.connect)
    peer.closed = True
    with pytest.raises(ClusterError, match="fake peer is closed"):
        client.enqueue_task("double", x())


def test_nothing_needs_torch_before_a_tensor_is_looked_at() -> None:
    code = "import sys, scatterzmq.client; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_threads_use_one_client(threaded: Any, x: Any, y: Any) -> None:
    with Client(threaded.connect, window=16) as client:
        results: dict[int, list[float]] = {}

        def work(number: int) -> None:
            tasks = {client.enqueue_task("double", x(number, i)): i for i in range(20)}
            for task, response in client.wait_for(tasks):
                assert response.result is not None
                results[number * 100 + tasks[task]] = y(response.result)
                client.clear_task(task)

        threads = [Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {n * 100 + i: [2 * n, 2 * i] for n in range(4) for i in range(20)}
        assert not client._session._tasks
        assert not threaded.tasks


def test_a_peer_in_the_callers_thread(pumped: Any, x: Any, y: Any) -> None:
    with Client(pumped.connect) as client:
        tasks = [client.enqueue_task("double", x(i, i)) for i in range(3)]
        assert [y(response.result) for _, response in client.wait_for(tasks)] == [[0, 0], [2, 2], [4, 4]]
        assert client.get_status(tasks[0]) is TaskStatus.DONE
        future = client.submit("double", **x(1, 2))
        assert future.done()
        assert y(future.result()) == [2, 4]
        assert [y(result) for result in client.map("double", [x(i, i) for i in range(3)])] == [[0, 0], [2, 2], [4, 4]]
    assert pumped.closed == 1


def test_a_node_that_runs_long_in_the_callers_thread(pumped: Any, x: Any) -> None:
    with Client(pumped.connect) as client:
        client.namespaces()
        task = client.enqueue_task("double", x())
        for _ in range(3):
            pumped.send(ResultRead(ids=()), {})
        client._drive(lambda: False, 0.0)
        assert pumped.posted.empty()
        assert [response.status for _, response in client.wait_for([task], timeout=0.0)] == [TaskStatus.READY]


def test_a_peer_in_the_callers_thread_that_has_nothing_to_say(pumped: Any, x: Any) -> None:
    pumped.hold_results = True
    with Client(pumped.connect, request_timeout=0.01) as client:
        task = client.enqueue_task("double", x())
        assert [response.status for _, response in client.wait_for([task], timeout=0.01)] == [TaskStatus.WAIT]
        pumped.silent = (AskTasks,)
        with pytest.raises(Timeout):
            client.get_status(OTHER)
    assert Final not in pumped.seen


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_the_result_of_a_lone_task_has_its_shape(client: Client, peer: Any, make_namespace: Any, shape: Any) -> None:
    peer.infos["double"] = make_namespace(shape=shape)
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    response = client.get_response(client.enqueue_task("double", {"x": value}))
    assert response.result is not None
    assert response.result["y"].shape == shape
    assert torch.equal(response.result["y"], torch.as_tensor(value * 2))


def test_one_thread_runs_the_peer_for_others_too(pumped: Any, x: Any, y: Any) -> None:
    """Whoever follows is told when its task is over, though the other thread goes on waiting within the peer."""

    def pump(_: float | None) -> bool:
        message, columns = pumped.posted.get()
        if columns is None:
            pumped.finish(message)
        else:
            pumped.answer(message, columns)
        return True

    pumped.hold_results = True
    pumped.pump = pump
    client = Client(pumped.connect)
    tasks = [client.enqueue_task("double", x(i, i), wait=True) for i in range(2)]
    results: dict[str, list[float]] = {}

    def work(task: TaskId) -> None:
        results.update((task, y(response.result)) for task, response in client.wait_for([task], timeout=None))

    leader, follower = (Thread(target=work, args=(task,), daemon=True) for task in tasks)
    leader.start()
    while not client._pumping.locked():
        pass
    follower.start()
    while not client._followers:
        pass
    pumped.posted.put((tasks[1:], None))
    follower.join(5)
    assert results == {tasks[1]: [2, 2]}
    assert leader.is_alive()
    pumped.posted.put((tasks[:1], None))
    leader.join(5)
    assert results[tasks[0]] == [0, 0]
    client.close()
