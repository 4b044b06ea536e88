"""The reactor: what it calls, when, in which thread, and that it sleeps otherwise."""

import os
import select
import socket
import threading
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
import zmq

from scatterzmq.net import reactor as module
from scatterzmq.net.reactor import WAIT_MAX_S, Reactor

TIMEOUT_S = 20.0


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    made = Reactor()
    yield made
    made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


class Running:
    """A reactor in a thread of its own. ticks: how often it had a round."""

    def __init__(self, due_s: float = inf) -> None:
        self.reactor = Reactor()
        self.due_s = due_s
        self.ticks = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.reactor.run(lambda: self.due_s, self._tick)
        self.reactor.close()

    def _tick(self) -> None:
        self.ticks += 1

    def ask(self, what: Any = lambda: None) -> Any:
        """What `what` gives in the reactor's thread."""
        done, answers = threading.Event(), []

        def run() -> None:
            answers.append(what())
            done.set()

        self.reactor.call(run)
        assert done.wait(TIMEOUT_S)
        return answers[0]

    def stop(self) -> None:
        self.reactor.stop()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.stop()


def test_calls_of_other_threads_run_in_its_thread_and_in_order(running: Running) -> None:
    assert running.ask(threading.get_ident) == running.thread.ident
    made: list[tuple[int, int]] = []
    everything = threading.Event()

    def caller(name: int) -> None:
        for index in range(2000):
            running.reactor.call(lambda index=index: made.append((name, index)))  # type: ignore[misc]

    threads = [threading.Thread(target=caller, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.reactor.call(everything.set)
    assert everything.wait(TIMEOUT_S)
    assert len(made) == 8000
    for name in range(4):
        assert [index for who, index in made if who == name] == list(range(2000))


def test_a_call_from_within_is_made_in_a_later_round(reactor: Reactor) -> None:
    made: list[str] = []

    def first() -> None:
        reactor.call(lambda: made.append("second"))
        made.append("first")

    reactor.call(first)
    assert reactor.step()
    assert made == ["first"]
    assert reactor.step()
    assert made == ["first", "second"]
    assert not reactor.step()


def test_a_call_while_the_bell_is_silenced_rings_again_or_is_made(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def silenced(bell: socket.socket) -> None:
        reactor.call(lambda: made.append("meanwhile"))
        bell.recv(64)

    monkeypatch.setattr(module, "_silence", silenced)
    reactor.call(lambda: made.append("before"))
    reactor.step()
    assert made == ["before", "meanwhile"]
    reactor.call(lambda: made.append("after"))
    assert select.select([reactor._bell], [], [], 0)[0], "it would sleep through this"
    monkeypatch.undo()
    reactor.step()
    assert made[2:] == ["after"]


def test_it_sleeps_while_nothing_happens(running: Running) -> None:
    running.ask()
    before = running.ask(lambda: running.ticks)
    after = running.ask(lambda: running.ticks)
    assert after - before == 1, "one round per ring, and none in between"


def test_it_wakes_when_something_is_due() -> None:
    made = Running(due_s=0.0)
    until = threading.Event()
    made.ask(lambda: made.reactor.later(0.01, until.set))
    assert until.wait(TIMEOUT_S)
    made.due_s = inf
    made.stop()
    assert made.ticks > 1


def test_what_is_due_never_is_waited_for_in_portions(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def poll(wait_ms: int) -> list[Any]:
        waits.append(wait_ms)
        return []

    monkeypatch.setattr(reactor._poller, "poll", poll)
    reactor.step(inf)
    reactor.step(-inf)
    reactor.step(0.0001)
    assert waits == [WAIT_MAX_S * 1000, 0, 1], "rounded up: to wake too early is to wake twice"
    rung: list[int] = []
    reactor.later(-1.0, lambda: rung.append(1))
    reactor.step(inf)
    assert waits[3:] == [0], "what is overdue is not waited for, and not for ever"
    assert rung == [1]


def test_a_stop_before_it_runs_is_not_lost(reactor: Reactor) -> None:
    reactor.stop()
    reactor.run(lambda: inf, lambda: None)


def test_files_are_watched_both_ways(reactor: Reactor, pipe: tuple[socket.socket, socket.socket]) -> None:
    left, right = pipe
    made: list[str] = []
    reactor.watch(left.fileno(), lambda: made.append(f"read {left.recv(10)!r}"))
    assert not reactor.step()
    right.send(b"a")
    reactor.step()
    assert made == ["read b'a'"]
    reactor.watch(left.fileno(), lambda: made.append("writable"), writable=True)
    reactor.step()
    assert made == ["read b'a'", "writable"]
    reactor.unwatch(left.fileno(), writable=True)
    right.send(b"b")
    reactor.step()
    assert made[2:] == ["read b'b'"]
    reactor.unwatch(left.fileno())
    right.send(b"c")
    assert not reactor.step()
    reactor.unwatch(left.fileno())


def test_the_end_of_a_file_wakes_who_reads_it(reactor: Reactor) -> None:
    reading, writing = os.pipe()
    ended: list[bytes] = []
    reactor.watch(reading, lambda: ended.append(os.read(reading, 10)))
    os.close(writing)
    reactor.step(TIMEOUT_S)
    assert ended == [b""]
    reactor.unwatch(reading)
    os.close(reading)


def test_a_callback_may_stop_watching_others_that_are_ready(reactor: Reactor) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    made: list[int] = []

    def called(index: int) -> None:
        made.append(index)
        for left, _ in pairs:
            reactor.unwatch(left.fileno())

    for index, (left, right) in enumerate(pairs):
        reactor.watch(left.fileno(), lambda index=index: called(index))  # type: ignore[misc]
        right.send(b"x")
    reactor.step()
    assert len(made) == 1
    assert not reactor.step()
    for left, right in pairs:
        left.close()
        right.close()


def test_a_socket_that_is_closed_by_another_callback_is_not_called(reactor: Reactor) -> None:
    receiving = [reactor.context.socket(zmq.PULL) for _ in range(2)]
    made: list[int] = []

    def called() -> None:
        made.append(1)
        for one in receiving:
            reactor.unwatch(one)
            one.close(0)

    for one in receiving:
        port = one.bind_to_random_port("tcp://127.0.0.1")
        with reactor.context.socket(zmq.PUSH) as sending:
            sending.connect(f"tcp://127.0.0.1:{port}")
            sending.send(b"x")
            assert one.poll(int(TIMEOUT_S * 1000))
        reactor.watch(one, called)
    reactor.step(TIMEOUT_S)
    assert made == [1]
    assert not reactor.step()


def test_alarms_ring_in_order_unless_cancelled() -> None:
    now = [0.0]
    reactor = Reactor(clock=lambda: now[0])
    rung: list[str] = []
    reactor.later(2.0, lambda: rung.append("late"))
    early = reactor.later(1.0, lambda: rung.append("early"))
    cancelled = reactor.later(1.5, lambda: rung.append("never"))
    reactor.later(0.0, lambda: rung.append("now"))
    reactor.step()
    assert rung == ["now"]
    cancelled.cancel()
    assert [early.is_set, cancelled.is_set] == [True, False]
    now[0] = 5.0
    assert reactor.step()
    assert rung == ["now", "early", "late"]
    assert [early.is_set, cancelled.is_set] == [False, False]
    assert not reactor.step()
    reactor.close()


def test_after_its_end_calls_are_not_made(reactor: Reactor) -> None:
    reactor.close()
    reactor.call(lambda: pytest.fail("too late"))
    reactor.stop()
    reactor.close()


def test_a_forked_child_must_not_use_it(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    for use in (reactor.step, lambda: reactor.call(lambda: None)):
        with pytest.raises(AssertionError, match="forked"):
            use()
    reactor.close()
    monkeypatch.undo()
    assert not reactor.context.closed, "it is the parent's"
