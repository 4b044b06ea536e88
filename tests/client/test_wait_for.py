"""wait_for: each task once, as they end, or as it stands."""

from threading import Thread
from typing import Any

import pytest

from scatterzmq.client import Client, TaskStatus
from scatterzmq.client.handles import Handle
from scatterzmq.core.messages import AskTasks, Attach, Clear, ResultRead
from scatterzmq.errors import ClusterError, ErrorCode, ErrorInfo
from scatterzmq.ids import TaskId

UNKNOWN = TaskId("T" + "1" * 32)


def test_tasks_are_handed_out_as_they_end(threaded: Any, x: Any, y: Any) -> None:
    threaded.hold_results = True
    with Client(threaded.connect) as client:
        tasks = [client.enqueue_task("double", x(i, i)) for i in range(4)]
        client.flush()
        waiting = client.wait_for(tasks, timeout=None)
        for index in (2, 0, 3, 1):
            threaded.posted.put(lambda index=index: threaded.finish([tasks[index]]))
            task, response = next(waiting)
            assert task == tasks[index]
            assert response.status is TaskStatus.READY
            assert y(response.result) == [2 * index, 2 * index]
        assert next(waiting, None) is None
        client.flush()
        assert all(client.get_status(task) is TaskStatus.DONE for task in tasks)


def test_duplicates_and_nothing(client: Client, x: Any) -> None:
    task = client.enqueue_task("double", x())
    assert [found for found, _ in client.wait_for([task, task, str(task)])] == [task]
    assert list(client.wait_for([])) == []
    assert [response.status for _, response in client.wait_for([task])] == [TaskStatus.DONE]


def test_unknown_tasks_are_handed_out_at_once(client: Client, peer: Any, x: Any) -> None:
    peer.hold_results = True
    task = client.enqueue_task("double", x())
    waiting = client.wait_for([task, UNKNOWN], timeout=None)
    found, response = next(waiting)
    assert (found, response.status, response.ns) == (UNKNOWN, TaskStatus.UNKNOWN, None)
    peer.finish([task])
    assert next(waiting)[0] == task
    assert not any(client._session._tasks[known].fingerprint == b"" for known in client._session._tasks)


def test_when_the_time_is_over_the_rest_is_handed_out_as_it_stands(client: Client, peer: Any, x: Any, y: Any) -> None:
    over = client.enqueue_task("double", x(1, 2))
    peer.hold_results = True
    busy, waits = (client.enqueue_task("double", x()) for _ in range(2))
    peer.tasks[busy].status = TaskStatus.BUSY
    peer.hold_accept = True
    pending = client.enqueue_task("double", x())
    found = list(client.wait_for([pending, waits, busy, over], timeout=0.0))
    assert [(task, response.status) for task, response in found] == [
        (over, TaskStatus.READY),
        (pending, TaskStatus.INIT),
        (waits, TaskStatus.WAIT),
        (busy, TaskStatus.BUSY),
    ]
    assert y(found[0][1].result) == [2, 4]
    assert all(response.result is None for _, response in found[1:])
    assert {response.ns for _, response in found} == {"double"}
    assert len(peer.of(AskTasks)) == 1
    assert not any(handle.watchers for handle in client._session._tasks.values())


def test_the_time_starts_again_after_each_task(client: Client, peer: Any, x: Any, monkeypatch: Any) -> None:
    peer.hold_results = True
    tasks = [client.enqueue_task("double", x()) for _ in range(3)]
    limits: list[float | None] = []
    receive = client._receive

    def received(box: Any, timeout_s: float | None) -> Any:
        if timeout_s == 7.0:
            limits.append(timeout_s)
            assert sum(len(read.ids) for read in peer.of(ResultRead)) == len(limits) - 1
            peer.finish([tasks[len(limits) - 1]])
        return receive(box, timeout_s)

    monkeypatch.setattr(client, "_receive", received)
    assert [task for task, _ in client.wait_for(tasks, timeout=7.0)] == tasks
    assert limits == [7.0, 7.0, 7.0]


def test_a_peer_that_says_nothing_at_all(client: Client, peer: Any, x: Any) -> None:
    peer.hold_results = True
    task = client.enqueue_task("double", x())
    peer.silent = (AskTasks, Attach)
    found = dict(client.wait_for([task, UNKNOWN], timeout=0.0))
    assert {response.status for response in found.values()} == {TaskStatus.WAIT}
    assert found[task].ns == "double"
    assert UNKNOWN not in client._session._tasks


def test_readings_are_told_together(client: Client, peer: Any, x: Any) -> None:
    tasks = [client.enqueue_task("double", x()) for _ in range(5)]
    peer.hold_results = True
    last = client.enqueue_task("double", x())
    assert len(list(client.wait_for([*tasks, last], timeout=0.0))) == 6
    assert peer.of(ResultRead) == [ResultRead(ids=tuple(tasks))]


def test_leaving_the_loop_early(client: Client, peer: Any, x: Any) -> None:
    first = client.enqueue_task("double", x())
    peer.hold_results = True
    second = client.enqueue_task("double", x())
    for task, _ in client.wait_for([first, second], timeout=None):
        assert task == first
        break
    assert client._session._tasks[second].watchers == ()
    assert peer.of(ResultRead) == [ResultRead(ids=(first,))]


def test_a_conflict_that_somebody_else_has_read_meanwhile(client: Client, peer: Any, x: Any, y: Any) -> None:
    over = client.enqueue_task("double", x())
    peer.hold_results = True
    twice = client.enqueue_task("double", x(1, 2), task_id=UNKNOWN)
    client.enqueue_task("double", x(3, 4), task_id=UNKNOWN)
    waiting = client.wait_for([over, twice], timeout=0.0)
    assert next(waiting)[0] == over
    assert client.get_response(twice).status is TaskStatus.ERROR
    assert [(task, response.status) for task, response in waiting] == [(twice, TaskStatus.WAIT)]
    peer.finish([twice])
    assert y(client.get_result(twice)) == [2, 4]


def test_what_is_over_does_not_make_anybody_wait(client: Client, x: Any, monkeypatch: Any) -> None:
    tasks = [client.enqueue_task("double", x()) for _ in range(3)]
    monkeypatch.setattr(client, "_receive", None)
    assert [task for task, _ in client.wait_for(tasks)] == tasks


def test_errors_are_handed_out_too(client: Client, peer: Any, x: Any) -> None:
    error = ErrorInfo(code=ErrorCode.GENERAL_EXCEPTION, message="boom")
    peer.fail = lambda _: error
    ((_, failed),) = client.wait_for([client.enqueue_task("double", x())])
    assert (failed.status, failed.error) == (TaskStatus.ERROR, error)
    peer.refuse = lambda _: (ErrorCode.REFUSED, "full")
    ((_, refused),) = client.wait_for([client.enqueue_task("double", x())])
    assert refused.error is not None
    assert (refused.error.code, refused.error.message) == (ErrorCode.REFUSED, "full")


def test_two_threads_wait_for_the_same_task(threaded: Any, x: Any, y: Any) -> None:
    threaded.hold_results = True
    with Client(threaded.connect) as client:
        task = client.enqueue_task("double", x(1, 2), wait=True)
        results: list[list[float]] = []
        threads = [
            Thread(target=lambda: results.extend(y(r.result) for _, r in client.wait_for([task], timeout=None)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        threaded.posted.put(lambda: threaded.finish([task]))
        for thread in threads:
            thread.join()
        assert results == [[2, 4], [2, 4]]


def test_clearing_tells_those_who_wait(client: Client, peer: Any, x: Any) -> None:
    peer.hold_results = True
    task = client.enqueue_task("double", x())
    waiting = client.wait_for([task], timeout=None)
    client._session.watch([task], box := client._calls.box())
    client.clear_task(task)
    told = box.get_nowait()
    assert isinstance(told, Handle)
    assert told.outcome is not None
    assert told.outcome.status is TaskStatus.UNKNOWN
    assert [response.status for _, response in waiting] == [TaskStatus.UNKNOWN]
    assert len(peer.of(Clear)) == 1


def test_closing_ends_a_wait(threaded: Any, x: Any) -> None:
    threaded.hold_results = True
    client = Client(threaded.connect)
    task = client.enqueue_task("double", x(), wait=True)
    waiting = client.wait_for([task], timeout=None)
    closer = Thread(target=client.close)
    threaded.posted.put(closer.start)
    with pytest.raises(ClusterError, match="closed"):
        next(waiting)
    closer.join()
