"""submit and map: futures, bounded streams, and nothing left behind."""

import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, as_completed, wait
from contextlib import suppress
from threading import Thread, current_thread
from typing import Any

import pytest

from scatterzmq.client import Client
from scatterzmq.client.futures import TaskFuture
from scatterzmq.core.messages import Cancel, Clear, Final, ResultRead, Submit, TaskStatus
from scatterzmq.errors import (
    ClusterError,
    ConfigError,
    ErrorCode,
    ErrorInfo,
    FormatError,
    GraphError,
    ScatterError,
    TaskError,
    Timeout,
)

FAILED = ErrorInfo(code=ErrorCode.GENERAL_EXCEPTION, message="boom")
TIMEOUT_S = 30.0
"""Only matters when something is wrong."""


def test_a_future_gives_the_result_and_leaves_nothing(client: Client, peer: Any, x: Any, y: Any) -> None:
    future = client.submit("double", **x(1, 2))
    assert y(future.result(0)) == [2, 4]
    assert future.result() is future.result()
    assert future.exception() is None
    assert not peer.tasks
    assert not client._session._tasks
    assert [clear.ids for clear in peer.of(Clear)] == [(future.task,)]
    assert peer.of(ResultRead) == []
    assert not future.cancel()


def test_who_waits_for_a_future_clears_its_task(client: Client, peer: Any, x: Any) -> None:
    """Whoever brings the answer sends nothing but new tasks before it tells the thread that waits."""
    sent: list[tuple[type, Thread]] = []
    send, here = peer.send, current_thread()

    def noted(message: Any, columns: Any) -> None:
        sent.append((type(message), current_thread()))
        send(message, columns)

    def ended(future: TaskFuture) -> None:
        with suppress(TaskError):
            future.result(TIMEOUT_S)

    def waiting(future: TaskFuture) -> Thread:
        thread = Thread(target=ended, args=(future,))
        thread.start()
        while future not in client._session.carriers:
            assert thread.is_alive()
        return thread

    client.main_inputs("double")  # now it has met the namespace
    peer.send, peer.hold_results = noted, True
    future = client.submit("double", **x(1, 2))
    thread = waiting(future)
    peer.finish([future.task])
    thread.join(TIMEOUT_S)
    assert sent == [(Submit, here), (Clear, thread)]
    assert client._session.carriers == set()

    future = client.submit("double", **x(1, 2))
    with pytest.raises(Timeout):
        future.result(0)
    peer.finish([future.task])
    assert sent[2:] == [(Submit, here), (Clear, here)]

    peer.hold_accept = True
    first, second = (client.submit("double", **x(1, number)) for number in range(2))
    assert sent[4:] == [(Submit, here)], "the second one waits until the first one is accepted"
    thread = waiting(first)
    status, ids = (TaskStatus.ERROR,), (first.task,)
    peer.deliver(Final(ids=ids, ns="double", statuses=status, errors=(FAILED,), retries=(0,), durations_ms=(0,)))
    thread.join(TIMEOUT_S)
    assert sent[5:] == [(Clear, here), (Submit, here)]
    assert second.cancel()


def test_as_completed_and_wait(threaded: Any, x: Any, y: Any) -> None:
    with Client(threaded.connect) as client:
        futures: dict[Future[Any], int] = {client.submit("double", **x(i, i)): i for i in range(5)}
        for future in as_completed(futures, timeout=5):
            assert y(future.result()) == [2 * futures[future]] * 2
        done, rest = wait(futures, timeout=5)
        assert (len(done), len(rest)) == (5, 0)


def test_a_failed_future(client: Client, peer: Any, x: Any) -> None:
    peer.fail = lambda _: FAILED
    future = client.submit("double", **x())
    with pytest.raises(TaskError, match="boom"):
        future.result()
    assert isinstance(future.exception(), TaskError)
    peer.refuse = lambda _: (ErrorCode.REFUSED, "full")
    with pytest.raises(TaskError, match="full"):
        client.submit("double", **x()).result()
    client.flush()
    assert not client._session._tasks
    with pytest.raises(GraphError):
        client.submit("half", **x())
    with pytest.raises(FormatError):
        client.submit("double")


def test_a_future_takes_its_time(client: Client, peer: Any, x: Any) -> None:
    peer.hold_results = True
    future = client.submit("double", **x())
    with pytest.raises(Timeout, match=r"has not ended within 0.001 s"):
        future.result(0.001)
    with pytest.raises(TimeoutError):
        future.exception(0)


def test_cancelling_ends_the_task(client: Client, peer: Any, x: Any) -> None:
    peer.hold_results = True
    future = client.submit("double", **x())
    called: list[bool] = []
    future.add_done_callback(lambda done: called.append(done.cancelled()))
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    assert called == [True]
    with pytest.raises(CancelledError):
        future.result()
    assert list(as_completed([future], timeout=0)) == [future]
    assert [message.ids for message in peer.of(Cancel)] == [(future.task,)]
    assert not peer.tasks
    assert not client._session._tasks


def test_cancelling_before_acceptance(client: Client, peer: Any, x: Any) -> None:
    peer.hold_accept = True
    sent, buffered, kept = (client.submit("double", **x()) for _ in range(3))
    assert sent.cancel()
    assert buffered.cancel()
    assert peer.of(Cancel) == []
    peer.accept()
    assert [submit.ids for submit in peer.of(Submit)] == [(sent.task,), (kept.task,)]
    assert kept.result(0)
    assert not peer.tasks
    peer.hold_accept = peer.hold_results = True
    late = client.submit("double", **x())
    late.cancel()
    peer.accept()
    assert [message.ids for message in peer.of(Cancel)] == [(sent.task,), (late.task,)]
    assert not peer.tasks
    assert not client._session._tasks
    client.flush()


def test_an_outcome_that_comes_while_cancelling(client: Client, peer: Any, x: Any) -> None:
    peer.hold_results = True
    for end in (lambda task: peer.finish([task]), lambda _: client._session.lost("gone")):
        future = client.submit("double", **x())
        Future.cancel(future)
        end(future.task)
        assert future.cancelled()


def test_callbacks_run_in_the_thread_that_brings_the_answer(threaded: Any, x: Any) -> None:
    threaded.hold_results = True
    with Client(threaded.connect, window=1) as client:
        first = client.submit("double", **x())
        errors: list[str] = []
        seconds: list[Future[Any]] = []

        def callback(_: Any) -> None:
            seconds.extend(client.submit("double", **x()) for _ in range(3))  # more than the window, without waiting
            try:
                seconds[0].result()
            except ScatterError as error:
                errors.append(str(error))
            try:
                client.namespaces()
            except ScatterError as error:
                errors.append(str(error))

        first.add_done_callback(callback)
        client.flush()
        threaded.hold_results = False
        threaded.posted.put(lambda: threaded.finish([first.task]))
        first.result(5)
        assert client.namespaces() == {"double"}  # after the callback, which runs in the same thread
        assert len(wait(seconds, timeout=5).done) == 3
        assert ["would wait in a callback" in error for error in errors] == [True, True]


def test_a_delivery_within_a_delivery(client: Client, peer: Any, x: Any) -> None:
    """This peer answers within `send`, so what a callback submits is over before the callback goes on."""
    peer.hold_results = True
    first = client.submit("double", **x())
    within: list[bool] = []

    def callback(_: Any) -> None:
        within.append(client._session.in_delivery)
        peer.hold_results = False
        assert client.submit("double", **x()).done()
        within.append(client._session.in_delivery)

    first.add_done_callback(callback)
    peer.finish([first.task])
    assert within == [True, True]
    assert not client._session.in_delivery


def test_closing_ends_futures(peer: Any, x: Any) -> None:
    peer.hold_results = True
    client = Client(peer.connect)
    future = client.submit("double", **x())
    client.close()
    with pytest.raises(ClusterError, match="closed"):
        future.result(0)
    assert not future.cancel()


# ---- map


def test_map_keeps_the_order(threaded: Any, x: Any, y: Any) -> None:
    with Client(threaded.connect) as client:
        results = list(client.map("double", [x(i, i) for i in range(600)], window=100))
        assert [y(result) for result in results] == [[2 * i, 2 * i] for i in range(600)]
        client.flush()
        assert client.namespaces()
        assert not threaded.tasks
        assert not client._session._tasks


def test_map_takes_items_only_when_there_is_room(client: Client, peer: Any, x: Any, y: Any) -> None:
    taken: list[int] = []

    def items() -> Iterator[dict[str, Any]]:
        for number in range(10):
            taken.append(number)
            if number == 3:
                assert len(peer.tasks) == 3
                peer.finish(list(peer.tasks)[:1])
            yield x(number, number)

    peer.hold_results = True
    results = client.map("double", items(), window=4)
    assert taken == []
    assert y(next(results)) == [0, 0]
    assert taken == [0, 1, 2, 3]
    results.close()  # type: ignore[attr-defined]
    assert not peer.tasks
    assert not client._session._tasks


def test_map_hands_out_before_it_takes_more(client: Client, x: Any, y: Any) -> None:
    def endless() -> Iterator[dict[str, Any]]:
        number = 0
        while number < 3:
            yield x(number, number)
            number += 1
        raise AssertionError("taken too early")

    results = client.map("double", endless())
    assert [y(next(results)) for _ in range(3)] == [[0, 0], [2, 2], [4, 4]]
    assert not client._session._tasks


def test_map_without_order(client: Client, peer: Any, x: Any, y: Any) -> None:
    peer.hold_results = True

    def items() -> Iterator[dict[str, Any]]:
        for number in range(3):
            yield x(number, number)
        peer.finish(list(peer.tasks)[::-1])

    assert [y(result) for result in client.map("double", items(), ordered=False)] == [[4, 4], [2, 2], [0, 0]]


def test_map_raises_at_the_place_of_the_error(client: Client, peer: Any, x: Any, y: Any) -> None:
    peer.fail = lambda numbers: FAILED if numbers[0] == 1 else None
    results = client.map("double", [x(0, 0), x(1, 1), x(2, 2)])
    assert y(next(results)) == [0, 0]
    with pytest.raises(TaskError, match="boom"):
        next(results)
    assert not client._session._tasks
    assert not peer.tasks


def test_map_hands_out_errors(client: Client, peer: Any, x: Any, y: Any) -> None:
    peer.fail = lambda numbers: FAILED if numbers[0] == 1 else None
    items: list[Any] = [x(0, 0), x(1, 1), {"x": "text"}, 5, x(2, 2)]
    first, failed, misfit, none, last = client.map("double", items, return_exceptions=True)
    assert (y(first), y(last)) == ([0, 0], [4, 4])
    assert isinstance(failed, TaskError)
    assert isinstance(misfit, FormatError)
    assert isinstance(none, FormatError)
    results = client.map("double", items[2:])
    with pytest.raises(FormatError):
        next(results)


def test_map_checks_at_the_call(client: Client) -> None:
    with pytest.raises(GraphError, match="'half' is not loaded"):
        client.map("half", [])
    with pytest.raises(ConfigError, match="at least 1"):
        client.map("double", [], window=0)
    assert list(client.map("double", [])) == []


def test_map_with_a_bar(client: Client, x: Any, capsys: Any, monkeypatch: Any) -> None:
    assert len(list(client.map("double", [x(), x()], progress=True))) == 2
    captured = capsys.readouterr()
    assert "2/2" in captured.err
    assert captured.out == ""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ConfigError, match=r"pip install 'scatterzmq\[cli\]'"):
        client.map("double", [x()], progress=True)


def test_map_on_a_lost_link(peer: Any, x: Any) -> None:
    peer.hold_results = True
    client = Client(peer.connect)

    def items() -> Iterator[dict[str, Any]]:
        yield x()
        client._session.lost("gone")

    with pytest.raises(ClusterError, match="gone"):
        list(client.map("double", items()))
    client.close()
