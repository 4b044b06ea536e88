"""A task's life as its user sees it: status by status, ids, reading, cancelling, and clearing at any moment."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scatterzmq import TaskError, TaskId, TaskStatus

OWN = "T" + "0123456789abcdef" * 2


@pytest.fixture
def client(start: Any, gated: Any) -> Any:
    return start(batch_size=4, plugins=[gated.__name__])


@pytest.fixture
def ns(client: Any, build: Any, gated: Any) -> Any:
    """value float[1]: add 1 behind the gate's node, which doubles it."""
    return client.load_graph(build.graphs(build.line([1], gated.__name__, ("add", 1))))


def enqueue(client: Any, ns: str, count: int) -> list[TaskId]:
    return [client.enqueue_task(ns, {"value": [index]}) for index in range(count)]


def check_quiet(client: Any) -> None:
    """Nothing is left that could still happen."""
    assert not client.has_any_tasks()
    for stats in client.get_queue_stats():
        assert (stats.queue_length, stats.claimants, stats.pressure, stats.expected_pressure) == (0, 0, 0, 0), stats


def test_the_statuses_of_a_life(client: Any, ns: str, gated: Any, finish: Any) -> None:
    first = client.enqueue_task(ns, {"value": [1]})
    assert gated.entered.get(timeout=60) == [first]
    second = client.enqueue_task(ns, {"value": [2]})
    assert (client.get_status(first), client.get_status(second)) == ("busy", "wait")
    early = client.get_response(second)
    assert (early.status, early.result, early.error, early.retries) == ("wait", None, None, 0)
    assert early.duration >= 0
    assert client.get_result(first) is None
    assert client.has_any_tasks()
    gated.open()
    for task, response in client.wait_for([first, second], timeout=60):
        assert response.status is TaskStatus.READY
        assert client.get_status(task) is TaskStatus.DONE
    for task, expected in ((first, 3), (second, 5)):
        again = client.get_response(task)
        assert (again.status, again.result["value"].item()) == ("done", expected)
        assert client.get_result(task)["value"].item() == expected
        client.clear_task(task)
        gone = client.get_response(task)
        assert (gone.status, gone.ns, gone.result, gone.error) == ("unknown", None, None, None)
        with pytest.raises(TaskError, match=task):
            gone.ok()
    check_quiet(client)


def test_a_status_does_not_read(client: Any, ns: str, gated: Any, until: Any) -> None:
    """Only handing out the result makes a task done."""
    gated.open()
    task = client.enqueue_task(ns, {"value": [1]}, wait=True)
    until(lambda: client.get_status(task).complete)
    assert client.get_namespace(task) == ns
    assert client.get_status(task) == "ready"
    assert client.get_response(task).status == "ready"
    assert client.get_status(task) == "done"


def test_what_nobody_enqueued_is_unknown(client: Any, ns: str) -> None:
    assert (client.get_status(OWN), client.get_namespace(OWN), client.get_result(OWN)) == ("unknown", None, None)
    assert [(task, response.status) for task, response in client.wait_for([OWN])] == [(OWN, "unknown")]
    client.clear_task(OWN)
    client.cancel(OWN)
    for text in ("", "T12", "G" + OWN[1:], OWN + "0", OWN[:-1] + "x"):
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            client.get_status(text)


def test_tasks_cleared_while_they_wait_never_run(client: Any, ns: str, gated: Any, finish: Any) -> None:
    blocker = client.enqueue_task(ns, {"value": [0]})
    gated.entered.get(timeout=60)
    tasks = enqueue(client, ns, 12)
    ghosts, others = tasks[::2], tasks[1::2]
    for ghost in ghosts:
        client.clear_task(ghost)
        assert (client.get_status(ghost), client.get_namespace(ghost)) == ("unknown", None)
        assert client.get_result(ghost) is None
    gated.open()
    responses = dict(client.wait_for([*tasks, blocker], timeout=60))
    assert {task for task, response in responses.items() if response.status == "unknown"} == set(ghosts)
    for index, task in enumerate(tasks):
        if index % 2:
            assert responses[task].result["value"].item() == 2 * index + 1
    assert sorted(gated.ran) == sorted([blocker, *others])
    check_quiet(client)


def test_some_of_a_running_batch_are_cleared(client: Any, ns: str, gated: Any, finish: Any) -> None:
    """Their neighbours do not notice, and the node may know that nobody waits for them."""
    blocker = client.enqueue_task(ns, {"value": [0]})
    gated.entered.get(timeout=60)
    tasks = enqueue(client, ns, 4)
    client.flush()
    gated.gate.release()
    assert sorted(gated.entered.get(timeout=60)) == sorted(tasks)
    for ghost in tasks[::2]:
        client.clear_task(ghost)
        assert client.get_status(ghost) == "unknown"
    gated.open()
    responses = finish(client, [*tasks, blocker])
    assert [responses[task].status for task in tasks] == ["unknown", "ready"] * 2
    assert [responses[task].result["value"].item() for task in tasks[1::2]] == [3, 7]
    assert sorted(gated.ran) == sorted([blocker, *tasks[1::2]])
    check_quiet(client)


def test_a_running_task_is_cleared_and_enqueued_again(client: Any, ns: str, gated: Any, finish: Any) -> None:
    """The answer of the first attempt is nobody's, above all not the second task's."""
    client.enqueue_task(ns, {"value": [1]}, task_id=OWN)
    gated.entered.get(timeout=60)
    client.clear_task(OWN)
    client.enqueue_task(ns, {"value": [10]}, task_id=OWN, wait=True)
    gated.open()
    assert finish(client, [OWN])[OWN].result["value"].item() == 21
    assert gated.ran == [OWN]
    check_quiet(client)


def test_whoever_waits_for_a_cleared_task_is_told(client: Any, ns: str, gated: Any) -> None:
    task = client.enqueue_task(ns, {"value": [1]}, wait=True)
    gated.entered.get(timeout=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: dict(client.wait_for([task], timeout=60)))
        client.clear_task(task)
        assert waiting.result(timeout=60)[task].status == "unknown"


def test_an_id_of_ones_own(client: Any, ns: str, gated: Any, finish: Any) -> None:
    """The same inputs are the same task, at any time of its life; other inputs are a conflict that harms nobody."""
    assert client.enqueue_task(ns, {"value": [3]}, task_id=OWN) == OWN
    gated.entered.get(timeout=60)
    assert client.enqueue_task(ns, {"value": [3]}, task_id=OWN, wait=True) == OWN
    with pytest.raises(TaskError, match="other inputs") as raised:
        client.enqueue_task(ns, {"value": [4]}, task_id=OWN, wait=True)
    assert raised.value.error is not None
    assert raised.value.error.code == "conflict"
    gated.open()
    (response,) = finish(client, [OWN]).values()
    assert response.result["value"].item() == 7
    assert client.enqueue_task(ns, {"value": [3]}, task_id=OWN, wait=True) == OWN
    assert client.get_result(OWN)["value"].item() == 7
    assert gated.ran.count(OWN) == 1
    client.clear_task(OWN)
    client.enqueue_task(ns, {"value": [4]}, task_id=OWN)
    assert finish(client, [OWN])[OWN].result["value"].item() == 9
    with pytest.raises(ValueError, match="'mine'"):
        client.enqueue_task(ns, {"value": [4]}, task_id="mine")


def test_a_conflict_is_not_silent_without_waiting_for_it(client: Any, ns: str, gated: Any, finish: Any) -> None:
    gated.open()
    client.enqueue_task(ns, {"value": [3]}, task_id=OWN)
    client.enqueue_task(ns, {"value": [4]}, task_id=OWN)
    with pytest.raises(TaskError, match="other inputs"):
        client.flush()
    client.flush()
    assert finish(client, [OWN])[OWN].result["value"].item() == 7


@pytest.mark.parametrize("when", ["waits", "runs", "ended"])
def test_a_cancelled_task_is_an_error_for_good(client: Any, ns: str, gated: Any, finish: Any, when: str) -> None:
    blocker = client.enqueue_task(ns, {"value": [0]})
    assert gated.entered.get(timeout=60) == [blocker]
    waits = client.enqueue_task(ns, {"value": [1]}, wait=True)
    task = {"waits": waits, "runs": blocker, "ended": blocker}[when]
    if when == "ended":
        gated.open()
        finish(client, [blocker])
    client.cancel(task)
    client.cancel(task)
    gated.open()
    responses = finish(client, [waits, blocker])
    other = waits if task is blocker else blocker
    assert responses[other].status.complete
    assert responses[other].error is None
    if when == "ended":
        assert responses[task].status == "done"
    else:
        assert (responses[task].status, responses[task].error.code) == ("error", "cancelled")
        assert responses[task].retries == 0
        assert task not in gated.ran
        with pytest.raises(TaskError, match="cancelled"):
            responses[task].ok()
    client.clear_task(task)
    assert client.get_status(task) == "unknown"
    check_quiet(client)


def test_when_the_time_is_over_the_rest_comes_as_it_stands(client: Any, ns: str, gated: Any, finish: Any) -> None:
    tasks = enqueue(client, ns, 6)
    first = set(gated.entered.get(timeout=60))
    seen = dict(client.wait_for(tasks, timeout=0.05))
    assert seen.keys() == set(tasks)
    assert {response.status for task, response in seen.items() if task in first} == {"busy"}
    assert {response.status for task, response in seen.items() if task not in first} == {"wait"}
    assert all(response.result is None for response in seen.values())
    gated.open()
    values = [response.result["value"].item() for response in finish(client, tasks).values()]
    assert values == [1, 3, 5, 7, 9, 11]


def test_two_clients_of_one_task(client: Any, ns: str, gated: Any, finish: Any) -> None:
    """wait_for may be asked for the same task twice, one after the other or at the same time."""
    tasks = enqueue(client, ns, 8)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(lambda: dict(client.wait_for(tasks, timeout=60))) for _ in range(3)]
        gated.entered.get(timeout=60)
        gated.open()
        for found in waiting:
            responses = found.result(timeout=60)
            assert [responses[task].result["value"].item() for task in tasks] == [2 * index + 1 for index in range(8)]


def test_results_go_when_their_time_is_over(start: Any, build: Any, until: Any) -> None:
    client = start(tasks_result_ttl_s=0.02)
    ns = client.load_graph(build.graphs(build.line([1], ("add", 1))))
    task = client.enqueue_task(ns, {"value": [1]}, wait=True)
    until(lambda: client.get_status(task) == "unknown")
    assert client.get_result(task) is None
