"""The reactor: one thread that owns all sockets of a peer or client, and waits for all of them at once.

Purpose   Calls whoever is concerned when something can be read or written, when a time has come, and when another
          thread has something to say.
Rules     1. All of it runs in the thread of `run`, one after another; only `call` and `stop` come from elsewhere.
          2. It sleeps until something happens: there is no polling, and no idle round.
          3. A callback must not wait, and takes a bounded share of what there is: it is called again for the rest.
          4. A forked child must not use it: sockets do not survive that.
Why       ZeroMQ's sockets belong to one thread. With everything in one place nothing needs a lock.
"""

import os
import socket
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import ceil, inf
from queue import Empty, SimpleQueue
from typing import TypeAlias

import zmq

from .options import Context, Socket, context

WAIT_MAX_S = 3600.0
"""Nobody waits longer at once; operating systems refuse a hundred years."""

Source: TypeAlias = Socket | int
"""A socket, or the number of an open file."""
Callback: TypeAlias = Callable[[], None]


class Alarm:
    """Something to be done at a time, unless it is cancelled. Without anything to do it is not set."""

    def __init__(self, what: Callback | None = None) -> None:
        self._what = what

    @property
    def is_set(self) -> bool:
        """Still to come."""
        return self._what is not None

    def cancel(self) -> None:
        self._what = None

    def ring(self) -> None:
        what, self._what = self._what, None
        if what is not None:
            what()


class Reactor:
    """The loop. clock: of `due_s` and `later`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.context: Context = context()
        self.clock = clock
        self._pid = os.getpid()
        self._readers: dict[Source, Callback] = {}
        self._writers: dict[Source, Callback] = {}
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._calls: SimpleQueue[Callback] = SimpleQueue()
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self._owned: set[socket.socket] = {self._bell, self._button}
        self._is_rung = False
        self._is_stopping = False
        self._is_closed = False
        self._poller = zmq.Poller()
        self._poller.register(self._bell.fileno(), zmq.POLLIN)

    # ---- from any thread

    def call(self, what: Callback) -> None:
        """Run something in the reactor's thread soon, in the order of the calls. After `close` nothing is run."""
        self.check_process()
        self._calls.put(what)
        if not self._is_rung:
            self._is_rung = True
            try:
                self._button.send(b"\0")
            except BlockingIOError:
                pass  # it rings already
            except OSError:
                assert self._is_closed, "the bell is gone, and the reactor is not"

    def stop(self) -> None:
        """Let `run` return after the round that it is in."""
        self._is_stopping = True
        self.call(_nothing)

    def check_process(self) -> None:
        assert os.getpid() == self._pid, "a forked process cannot use its parent's sockets"

    # ---- in its thread

    def watch(self, source: Source, ready: Callback, *, writable: bool = False) -> None:
        """Call `ready` whenever something can be read from `source` (writable: written to), until `unwatch`.

        A source has one callback for either direction; another one replaces it.
        """
        (self._writers if writable else self._readers)[source] = ready
        self._register(source)

    def unwatch(self, source: Source, *, writable: bool | None = None) -> None:
        """No more calls for this direction (None: for both). Unknown sources are none."""
        if writable is not True:
            self._readers.pop(source, None)
        if writable is not False:
            self._writers.pop(source, None)
        self._register(source)

    def later(self, delay_s: float, what: Callback) -> Alarm:
        """Call `what` once, after a time."""
        alarm = Alarm(what)
        heappush(self._alarms, (self.clock() + delay_s, next(self._numbers), alarm))
        return alarm

    def own(self, sock: socket.socket) -> None:
        """Close this socket of the system with the reactor, unless it is disowned before."""
        self._owned.add(sock)

    def disown(self, sock: socket.socket) -> None:
        self._owned.discard(sock)

    def run(self, due_s: Callable[[], float], tick: Callback) -> None:
        """Run until `stop`. due_s: when `tick` has something to do at the latest, by the clock; inf for never.

        tick: called once in every round, when everything that was ready has been dealt with.
        """
        while not self._is_stopping:
            self.step(due_s() - self.clock(), tick)

    def step(self, timeout_s: float = 0.0, tick: Callback | None = None) -> bool:
        """One round: wait for something, at most so long, and deal with it. False if there was nothing."""
        self.check_process()
        wait_s = max(0.0, min(timeout_s, WAIT_MAX_S, self._until_alarm_s()))  # less than nothing were for ever
        # Whoever is called may close others, and open new ones under their numbers.
        ready = [
            (source, watching, events & (way | zmq.POLLERR), watching.get(source))
            for source, events in self._poller.poll(ceil(wait_s * 1000))
            for watching, way in ((self._readers, zmq.POLLIN), (self._writers, zmq.POLLOUT))
        ]
        for source, watching, has_happened, callback in ready:
            if has_happened and callback is not None and watching.get(source) is callback:
                callback()
        rang = self._ring_alarms()
        called = self._make_calls()
        if tick is not None:
            tick()
        return bool(ready) or rang or called

    def close(self, linger_s: float = 0.0) -> None:
        """Close all sockets. In the thread of `run`, after it; or in any, if it never ran.

        linger_s: how long to wait at most for what has been sent to leave, a goodbye for example.
        """
        if self._is_closed or os.getpid() != self._pid:
            return
        self._is_closed = True
        self._readers.clear()
        self._writers.clear()
        self._alarms.clear()
        self.context.destroy(ceil(linger_s * 1000))
        for sock in self._owned:
            sock.close()

    # ---- inside

    def _register(self, source: Source) -> None:
        events = (zmq.POLLIN if source in self._readers else 0) | (zmq.POLLOUT if source in self._writers else 0)
        if events:
            self._poller.register(source, events)
        elif source in self._poller:
            self._poller.unregister(source)

    def _until_alarm_s(self) -> float:
        while self._alarms and not self._alarms[0][2].is_set:
            heappop(self._alarms)
        return self._alarms[0][0] - self.clock() if self._alarms else inf

    def _ring_alarms(self) -> bool:
        rang = False
        now_s = self.clock()
        while self._alarms and self._alarms[0][0] <= now_s:
            heappop(self._alarms)[2].ring()
            rang = True
        return rang

    def _make_calls(self) -> bool:
        """Run what other threads have asked for until now."""
        if self._is_rung:
            # In this order: whoever calls after the second line rings again, whoever called before it is served here.
            _silence(self._bell)
            self._is_rung = False
        made = False
        for _ in range(self._calls.qsize()):
            try:
                what = self._calls.get_nowait()
            except Empty:
                break
            what()
            made = True
        return made


def _silence(bell: socket.socket) -> None:
    try:
        while bell.recv(64):
            pass
    except BlockingIOError:
        pass


def _nothing() -> None:
    """There is nobody to be called."""
