"""How tasks gather, leave, are accepted, refused and sent again."""

from threading import Thread
from typing import Any

import pytest

from scatterzmq.client import Client, TaskStatus
from scatterzmq.client.handles import BATCH_NBYTES_MAX, BATCH_TASKS_MAX
from scatterzmq.client.session import RENEWALS_MAX
from scatterzmq.core.messages import Accepted, AskNamespaces, Clear, Submit
from scatterzmq.errors import ErrorCode, TaskError, Timeout
from scatterzmq.ids import TaskId
from scatterzmq.wire.tensors import to_tensors

OWN = "T" + "1" * 32
REFUSED = (ErrorCode.REFUSED, "too large")


def sizes(peer: Any) -> list[int]:
    return [len(submit.ids) for submit in peer.of(Submit)]


def test_a_lone_task_leaves_at_once(client: Client, peer: Any, x: Any) -> None:
    for _ in range(3):
        client.enqueue_task("double", x())
    assert sizes(peer) == [1, 1, 1]


def test_tasks_gather_while_others_are_on_their_way(client: Client, peer: Any, x: Any) -> None:
    peer.hold_accept = True
    tasks = [client.enqueue_task("double", x(i, i)) for i in range(5)]
    assert sizes(peer) == [1]
    peer.accept()
    assert sizes(peer) == [1, 4]
    assert [task for submit in peer.of(Submit) for task in submit.ids] == tasks
    assert [to_tensors(peer.tasks[task].column)[0].tolist() for task in tasks] == [[i, i] for i in range(5)]
    client.flush()


def test_a_full_batch_leaves(client: Client, peer: Any, x: Any) -> None:
    peer.hold_accept = True
    for _ in range(1 + 2 * BATCH_TASKS_MAX + 3):
        client.enqueue_task("double", x())
    assert sizes(peer) == [1, BATCH_TASKS_MAX, BATCH_TASKS_MAX]
    peer.accept()
    assert sizes(peer) == [1, BATCH_TASKS_MAX, BATCH_TASKS_MAX, 3]


def test_a_heavy_batch_leaves(client: Client, peer: Any, make_namespace: Any) -> None:
    numbers = BATCH_NBYTES_MAX // 4 // 2
    peer.infos["double"] = make_namespace(shape=(None,))
    peer.hold_accept = True
    for _ in range(3):
        client.enqueue_task("double", {"x": [0.0] * numbers})
    assert sizes(peer) == [1, 2]


def test_a_heavy_task_leaves_alone_and_after_those_before_it(client: Client, peer: Any, make_namespace: Any) -> None:
    """It may be refused for its size, and no other with it."""
    peer.infos["double"] = make_namespace(shape=(None,))
    peer.hold_accept = True
    light, heavy = {"x": [0.0]}, {"x": [0.0] * (BATCH_NBYTES_MAX // 4)}
    tasks = [client.enqueue_task("double", inputs) for inputs in (light, light, light, heavy, light)]
    peer.accept()
    assert sizes(peer) == [1, 2, 1, 1]
    assert [task for submit in peer.of(Submit) for task in submit.ids] == tasks


def test_rows_of_different_shapes_leave_together(client: Client, peer: Any, make_namespace: Any, y: Any) -> None:
    peer.infos["double"] = make_namespace(shape=(None,))
    peer.hold_accept = True
    tasks = [client.enqueue_task("double", {"x": [1.0] * size}) for size in (3, 1, 2)]
    peer.accept()
    assert sizes(peer) == [1, 2]
    assert [y(client.get_result(task)) for task in tasks] == [[2, 2, 2], [2], [2, 2]]


def test_namespaces_have_buffers_of_their_own(client: Client, peer: Any, make_namespace: Any, x: Any) -> None:
    peer.infos["other"] = make_namespace("other")
    peer.hold_accept = True
    for ns in ("double", "other", "double", "other"):
        client.enqueue_task(ns, x())
    peer.accept()
    assert [(submit.ns, len(submit.ids)) for submit in peer.of(Submit)] == [("double", 1), ("other", 2), ("double", 1)]


def test_partial_acceptance(client: Client, peer: Any, x: Any) -> None:
    peer.hold_accept = True
    tasks = [client.enqueue_task("double", x()) for _ in range(4)]
    (first, _), *_ = peer.held
    client._session.push()
    (second, _) = peer.held[1]
    peer.deliver(Accepted(mid=first.mid, ids=first.ids, copies=1, durable=False))
    peer.deliver(Accepted(mid=second.mid, ids=second.ids[:2], copies=1, durable=False))
    assert list(client._session._pending) == tasks[3:]
    with pytest.raises(Timeout, match=r"1 tasks were not accepted within 0.01 s"):
        client.flush(timeout=0.01)
    peer.held.clear()
    peer.deliver(Accepted(mid=second.mid, ids=second.ids[1:], copies=1, durable=False))
    client.flush()
    assert client._session._pending_nbytes == 0
    assert all(client._session._tasks[task].inputs is None for task in tasks)
    assert client._session._unanswered == 0


def test_flush_waits_only_for_what_was_enqueued_before(threaded: Any, x: Any) -> None:
    threaded.hold_accept = True
    with Client(threaded.connect) as client:
        first = client.enqueue_task("double", x())
        flusher = Thread(target=client.flush)
        flusher.start()
        second = client.enqueue_task("double", x())
        client._session.push()
        threaded.posted.put(lambda: threaded.accept(1))
        flusher.join()
        assert first in threaded.tasks
        threaded.posted.put(threaded.accept)
        client.flush()
        assert second in threaded.tasks


def test_a_full_window_makes_enqueueing_wait(peer: Any, x: Any) -> None:
    peer.hold_accept = True
    client = Client(peer.connect, window=2, room_timeout=0.01)
    for _ in range(2):
        client.enqueue_task("double", x())
    with pytest.raises(Timeout, match=r"none of 2 waiting tasks was accepted .* the cluster is full"):
        client.enqueue_task("double", x())
    assert not client._session._room
    peer.accept()
    client.enqueue_task("double", x())
    client.close()


def test_room_wakes_who_waits_for_it(threaded: Any, x: Any) -> None:
    threaded.hold_accept = True
    with Client(threaded.connect, window=2) as client:
        for _ in range(2):
            client.enqueue_task("double", x())
        waiter = Thread(target=lambda: client.enqueue_task("double", x()))
        waiter.start()
        threaded.posted.put(threaded.accept)
        waiter.join()
        client.flush()
        assert len(threaded.tasks) == 3


def test_bytes_fill_the_window_too(client: Client, peer: Any, make_namespace: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("scatterzmq.client.session.WINDOW_NBYTES", 100)
    peer.infos["double"] = make_namespace(shape=(None,))
    peer.hold_accept = True
    client.enqueue_task("double", {"x": [0.0] * 30})  # more than the window alone is let through when it is alone
    with pytest.raises(Timeout):
        client.enqueue_task("double", {"x": [0.0]})


def test_wait_returns_when_the_task_is_accepted(client: Client, peer: Any, x: Any) -> None:
    task = client.enqueue_task("double", x(), wait=True)
    assert task in peer.tasks
    peer.hold_accept = True
    with pytest.raises(Timeout, match="was not accepted"):
        client.enqueue_task("double", x(), wait=True)
    pending = client.enqueue_task("double", x())
    assert client.get_status(pending) is TaskStatus.INIT
    assert client.get_response(pending).status is TaskStatus.INIT
    with pytest.raises(Timeout, match="cannot be ended yet"):
        client.clear_task(pending)


# ---- refusals


def test_flush_raises_a_refusal_once(client: Client, peer: Any, x: Any) -> None:
    peer.refuse = lambda numbers: REFUSED if numbers[0] < 0 else None
    client.enqueue_task("double", x())
    refused = client.enqueue_task("double", x(-1, 0))
    client.enqueue_task("double", x(-2, 0))
    with pytest.raises(TaskError, match="refused: too large") as raised:
        client.flush()
    assert raised.value.task == refused
    client.flush()
    assert client.get_status(refused) is TaskStatus.ERROR


def test_whoever_reads_a_refusal_has_been_told(client: Client, peer: Any, x: Any) -> None:
    peer.refuse = lambda _: REFUSED
    for tell in (
        client.get_response,
        client.get_status,
        client.clear_task,
        lambda task: list(client.wait_for([task])),
    ):
        tell(client.enqueue_task("double", x()))
        client.flush()
    with pytest.raises(TaskError, match="too large"):
        client.enqueue_task("double", x(), wait=True)
    client.flush()


def test_closing_tells_of_a_refusal(peer: Any, x: Any) -> None:
    peer.refuse = lambda _: REFUSED
    with pytest.raises(TaskError, match="too large"), Client(peer.connect) as client:
        client.enqueue_task("double", x())
    assert peer.closed == 1


def test_a_refused_task_may_be_tried_again(client: Client, peer: Any, x: Any, y: Any) -> None:
    peer.refuse = lambda _: REFUSED
    task = client.enqueue_task("double", x(1, 2), task_id=OWN)
    assert client.get_response(task).status is TaskStatus.ERROR
    peer.refuse = lambda _: None
    client.enqueue_task("double", x(1, 2), task_id=OWN)
    assert y(client.get_result(task)) == [2, 4]


def test_another_try_is_not_forgotten_with_the_first(peer: Any, x: Any) -> None:
    with Client(peer.connect, window=1) as client:
        peer.refuse = lambda _: REFUSED
        client.get_response(client.enqueue_task("double", x(), task_id=OWN))
        peer.refuse = lambda _: None
        client.enqueue_task("double", x(), task_id=OWN)
        client.get_result(client.enqueue_task("double", x()))
        assert client._session.handle(TaskId(OWN)) is not None


# ---- the same id again


def test_the_same_task_again_is_the_same_task(client: Client, peer: Any, x: Any) -> None:
    assert client.enqueue_task("double", x(1, 2), task_id=OWN) == OWN
    assert client.enqueue_task("double", x(1, 2), task_id=OWN, wait=True) == OWN
    assert sizes(peer) == [1]


def test_other_inputs_are_a_conflict(client: Client, peer: Any, x: Any, y: Any) -> None:
    client.enqueue_task("double", x(1, 2), task_id=OWN)
    client.enqueue_task("double", x(3, 4), task_id=OWN)
    with pytest.raises(TaskError, match=r"conflict: .* other inputs"):
        client.flush()
    assert y(client.get_result(OWN)) == [2, 4]
    client.enqueue_task("double", x(3, 4), task_id=OWN)
    ((_, response),) = client.wait_for([OWN])
    assert response.error is not None
    assert response.error.code is ErrorCode.CONFLICT
    client.flush()
    with pytest.raises(TaskError, match="conflict"):
        client.enqueue_task("double", x(3, 4), task_id=OWN, wait=True)
    assert y(client.get_result(OWN)) == [2, 4]


def test_the_conflict_with_another_client(client: Client, peer: Any, x: Any) -> None:
    client.enqueue_task("double", x(1, 2), task_id=OWN, wait=True)
    other = Client(peer.connect)
    other.enqueue_task("double", x(3, 4), task_id=OWN)
    response = other.get_response(OWN)
    assert response.error is not None
    assert response.error.code is ErrorCode.CONFLICT
    other.enqueue_task("double", x(1, 2), task_id=OWN, wait=True)
    peer.inbox = client._session


def test_a_cleared_id_may_be_used_again(client: Client, peer: Any, x: Any, y: Any) -> None:
    client.enqueue_task("double", x(1, 2), task_id=OWN)
    client.clear_task(OWN)
    client.enqueue_task("double", x(3, 4), task_id=OWN)
    assert y(client.get_result(OWN)) == [6, 8]


def test_a_task_attached_to_first_can_be_submitted(client: Client, peer: Any, x: Any, y: Any) -> None:
    peer.hold_results = True
    other = Client(peer.connect)
    other.enqueue_task("double", x(1, 2), task_id=OWN, wait=True)
    peer.inbox = client._session
    client._session.watch([TaskId(OWN)], box := client._calls.box())
    client.enqueue_task("double", x(1, 2), task_id=OWN, wait=True)
    assert client.get_namespace(OWN) == "double"
    peer.finish([TaskId(OWN)])
    assert box.get_nowait() is client._session.handle(TaskId(OWN))
    assert y(client.get_result(OWN)) == [2, 4]


def test_an_old_answer_does_not_end_a_new_task(client: Client, peer: Any, x: Any, y: Any) -> None:
    """Asked for an unknown task, then enqueued it: the answer to the question comes after that."""
    peer.hold_accept = True
    client.enqueue_task("double", x(1, 2), task_id=OWN)
    peer.final([TaskId(OWN)])
    assert list(client._session._pending) == [OWN]
    peer.accept()
    assert y(client.get_result(OWN)) == [2, 4]


# ---- a namespace that is redefined meanwhile


def test_loading_a_graph_comes_after_what_was_enqueued(client: Client, peer: Any, redefined: Any, x: Any) -> None:
    peer.hold_accept = True
    for _ in range(3):
        client.enqueue_task("double", x())
    peer.next_info = redefined()
    client.load_graph({}, replace=True)
    assert peer.kinds()[-3:] == ["Submit", "Submit", "LoadGraph"]


def test_a_stale_submission_is_sent_again(client: Client, peer: Any, redefined: Any, x: Any, y: Any) -> None:
    client.enqueue_task("double", x())
    peer.hold_accept = True
    tasks = [client.enqueue_task("double", x(i, i)) for i in range(3)]
    peer.infos["double"] = redefined(digests=True)
    peer.accept()
    client.flush()
    assert [y(client.get_result(task)) for task in tasks] == [[0, 0], [2, 2], [4, 4]]
    last = peer.of(Submit)[-1]
    assert last.digest == b"two"
    assert last.digests
    assert client._session._unanswered == 0
    asked = len(peer.of(AskNamespaces))
    client.enqueue_task("double", x())
    assert len(peer.of(AskNamespaces)) == asked


def test_inputs_that_do_not_fit_any_more_are_refused(
    client: Client, peer: Any, make_namespace: Any, redefined: Any, x: Any
) -> None:
    client.enqueue_task("double", x())
    peer.infos["double"] = redefined(inputs=make_namespace(shape=(3,)).inputs)
    task = client.enqueue_task("double", x())
    with pytest.raises(TaskError, match=r"redefined: field 'x': expected float32\[3\], got float32\[2\]") as raised:
        client.flush()
    assert raised.value.task == task


def test_a_namespace_that_has_gone(client: Client, peer: Any, x: Any) -> None:
    client.enqueue_task("double", x())
    peer.infos.clear()
    client.enqueue_task("double", x())
    with pytest.raises(TaskError, match="'double' is not loaded any more, or cannot run"):
        client.flush()


def test_a_namespace_that_never_settles(client: Client, peer: Any, x: Any) -> None:
    peer.refuse = lambda _: (ErrorCode.REFUSED, "stale: again")
    client.enqueue_task("double", x())
    with pytest.raises(TaskError, match="redefined 10 times"):
        client.flush()
    assert len(peer.of(Submit)) == 1 + RENEWALS_MAX


def test_private_tasks_are_resent_too(client: Client, peer: Any, redefined: Any, x: Any, y: Any) -> None:
    client.enqueue_task("double", x())
    peer.infos["double"] = redefined()
    assert y(client.submit("double", **x(1, 2)).result(0)) == [2, 4]
    assert len(peer.of(Clear)) == 1
