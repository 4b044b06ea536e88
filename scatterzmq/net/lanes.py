"""Lanes: what goes from here to one peer, over one or two connections of its own.

Purpose   `Lanes` sends messages to one address: small ones over the lane "control", large ones over "bulk", so that a
          sign of life never waits behind a gigabyte. Between the two the order is not kept.
Rules     1. Nothing here waits, and whatever is sent may get lost: with its connection, or because too much waits.
          2. What waits is bounded in bytes; a message is dropped whole, never in part.
          3. What waits when a connection is lost, or nobody listens, is dropped: the next process on that port is not
             meant. What is said after that goes to whoever comes next, and says itself whom it means.
Why       A DEALER that may queue without bounds delivers old words to strangers, and fills the memory for the dead.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import zmq

from ..wire.frames import Frame, Scattered
from ..wire.refusal import Limits, WireError
from .addresses import Address
from .fragments import Assembler, Parts, nbytes, pieces
from .monitor import Change, Monitor
from .options import COPIED_BYTES, OutOfFilesError, Socket, dealer
from .reactor import Alarm, Reactor
from .routing import BULK, CONTROL

CONTROL_BYTES = 256 << 10
"""Of a message that still goes over the control lane."""
BULK_IDLE_S = 60.0
DRAINED_MAX = 64
"""ZeroMQ messages taken from one socket per round."""

Heard: TypeAlias = Callable[[Sequence[Frame]], None]


def receive(socket: Socket, *, bulk: bool) -> Sequence[bytes | memoryview]:
    """The frames of the next ZeroMQ message, or what is left of it. bulk: large ones may be among them.

    Raises zmq.Again if there is none.
    """
    if not bulk:
        return socket.recv_multipart(zmq.NOBLOCK)  # half the time of the same without copies
    frames = []
    for frame in socket.recv_multipart(zmq.NOBLOCK, copy=False):
        data = frame.buffer
        # Large ones stay where they are. Small ones are copied: many lie in one buffer, which they would hold.
        frames.append(data.toreadonly() if data.nbytes >= COPIED_BYTES else bytes(data))
    return frames


@dataclass(slots=True, eq=False)
class Outbox:
    """ZeroMQ messages that wait, oldest first. bytes_max: beyond it nothing more is taken, except into an empty one:
    what is larger by itself could never be sent otherwise."""

    bytes_max: int
    waiting: deque[Parts] = field(default_factory=deque)
    bytes: int = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def put(self, parts: Sequence[Parts]) -> bool:
        """All pieces of one message, or none of them."""
        added = sum(map(nbytes, parts))
        if self.waiting and self.bytes + added > self.bytes_max:
            return False
        self.waiting.extend(parts)
        self.bytes += added
        return True

    def send(self, send: Callable[[Parts], None]) -> None:
        """Send what can be sent. `send` raises zmq.Again when it is enough."""
        while self.waiting:
            try:
                send(self.waiting[0])
            except zmq.Again:
                return
            self.bytes -= nbytes(self.waiting.popleft())

    def clear(self) -> None:
        self.waiting.clear()
        self.bytes = 0


class Lane:
    """One connection to one address. Of use by itself where one lane is enough; two are `Lanes`.

    name: the routing id by which the other side knows it; two lanes must not have the same one at the same time.
    outbox: where messages wait; may be shared by nobody. heard: gets the frames of what comes back (None: nothing is
    read). changed: gets what becomes of the connection; without it, that is not watched. before: called before anything
    that has waited is sent, to drop it if there is a reason to.
    counters: "full" and "long" messages were dropped here, "interrupted" ones and "wire" (no messages of ours) came in
    broken; "cut" ones waited when the connection was lost. Raises OutOfFilesError.
    """

    def __init__(
        self,
        reactor: Reactor,
        address: Address,
        name: bytes,
        *,
        bulk: bool,
        outbox_bytes: int,
        counters: Counter[str],
        limits: Limits,
        heard: Heard | None = None,
        changed: Callable[[Change], None] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.counters = counters
        self._reactor = reactor
        self._is_bulk = bulk
        self._heard = heard
        self._changed = changed
        self._before = before
        self._limits = limits
        self._numbers = count(1)
        self._outbox = Outbox(outbox_bytes)
        self._assembler = Assembler(limits, counters)
        self._is_closed = False
        self._monitor = None
        with ExitStack() as failing:
            self._socket = failing.enter_context(dealer(reactor.context, name, bulk=bulk, is_heard=heard is not None))
            if changed is not None:
                self._monitor = Monitor(reactor, self._socket, address, self._change)
                failing.callback(self._monitor.close)
            self._socket.connect(str(address))
            failing.pop_all()
        if heard is not None:
            reactor.watch(self._socket, self._read)

    @property
    def is_up(self) -> bool:
        """Whether the connection is there, as far as it is watched."""
        return self._monitor is not None and self._monitor.is_up

    @property
    def waiting_bytes(self) -> int:
        return self._outbox.bytes

    def send(self, frames: Sequence[Scattered], total: int | None = None) -> bool:
        """Send a message, now or when there is room. False if it was dropped here; True promises nothing.

        total: its bytes, for whoever knows them.
        """
        if self._is_closed:
            return False
        self._reactor.check_process()
        total = nbytes(frames) if total is None else total
        if total > self._limits.total_bytes or len(frames) > self._limits.frames:
            self.counters["long"] += 1
            return False
        parts = pieces(frames, next(self._numbers), total)
        if not self._outbox and len(parts) == 1:  # nearly always
            try:
                self._put(parts[0])
            except zmq.Again:
                pass
            else:
                return True
        self.look()
        if not self._outbox.put(parts):
            self.counters["full"] += 1
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Send what waits, as far as that is possible."""
        if self._is_closed:
            return
        self.look()
        self._outbox.send(self._put)
        if self._outbox and not self._is_closed:
            self._reactor.watch(self._socket, self.flush, writable=True)
        else:
            self._reactor.unwatch(self._socket, writable=True)

    def look(self) -> None:
        """Take notice of what has become of the connection, before anything old goes to somebody new."""
        if self._before is not None:
            self._before()
        if self._monitor is not None:
            self._monitor.look()

    def drop(self) -> None:
        """Forget what waits."""
        if self._outbox:
            self.counters["cut"] += len(self._outbox)
            self._outbox.clear()
        self._assembler.interrupt()

    def close(self) -> None:
        """Nothing is sent or heard any more; what waits is lost."""
        if self._is_closed:
            return
        self._is_closed = True
        self._outbox.clear()
        self._reactor.unwatch(self._socket)
        if self._monitor is not None:
            self._monitor.close()
        self._socket.close(0)

    def _put(self, parts: Parts) -> None:
        self._socket.send_multipart(parts, zmq.NOBLOCK, copy=not self._is_bulk)

    def _read(self) -> None:
        assert self._heard is not None
        for _ in range(DRAINED_MAX):
            if self._is_closed:
                return
            try:
                frames = self._assembler.take(receive(self._socket, bulk=self._is_bulk))
            except zmq.Again:
                return
            except WireError:
                self.counters["wire"] += 1
                continue
            if frames is not None:
                self._heard(frames)

    def _change(self, change: Change) -> None:
        assert self._changed is not None
        if change is not Change.UP:
            self.drop()
        self._changed(change)


class Lanes:
    """The way to one peer: a control lane, and a bulk lane while there is something for it.

    name: routing id without the byte of the lane. both: keep the bulk lane open at all times, since the other side may
    have something large to say, too. heard, changed, counters: as for Lane; `changed` is about the control lane.
    outbox_bytes: of each lane. Raises OutOfFilesError; without a file for the bulk lane ("files"), only what belongs
    there is dropped.
    """

    def __init__(
        self,
        reactor: Reactor,
        address: Address,
        name: bytes,
        *,
        outbox_bytes: int,
        counters: Counter[str],
        limits: Limits,
        heard: Heard | None = None,
        changed: Callable[[Change], None] | None = None,
        both: bool = False,
    ) -> None:
        self.address = address
        self._reactor = reactor
        self._name = name
        self._outbox_bytes = outbox_bytes
        self._counters = counters
        self._limits = limits
        self._heard = heard
        self._changed = changed
        self._both = both
        self._is_closed = False
        self._bulk: Lane | None = None
        self._used_s = 0.0
        self._idle = Alarm()
        self._control = self._open(bulk=False)
        if both:
            try:
                self._bulk = self._open(bulk=True)
            except OutOfFilesError:
                self._control.close()
                raise

    @property
    def is_up(self) -> bool:
        return self._control.is_up

    @property
    def waiting_bytes(self) -> int:
        """Of messages that have not left yet."""
        return self._control.waiting_bytes + (self._bulk.waiting_bytes if self._bulk is not None else 0)

    def send(self, frames: Sequence[Scattered], total: int | None = None) -> bool:
        """As Lane.send, over the lane that it belongs to."""
        if self._is_closed:
            return False
        total = nbytes(frames) if total is None else total
        if total <= CONTROL_BYTES:
            return self._control.send(frames, total)
        if self._bulk is None:
            try:
                self._bulk = self._open(bulk=True)
            except OutOfFilesError:
                self._counters["files"] += 1
                return False
        self._used_s = self._reactor.clock()
        if not self._both and not self._idle.is_set:
            self._idle = self._reactor.later(BULK_IDLE_S, self._rest)
        return self._bulk.send(frames, total)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._idle.cancel()
        self._control.close()
        if self._bulk is not None:
            self._bulk.close()

    def _open(self, *, bulk: bool) -> Lane:
        return Lane(
            self._reactor,
            self.address,
            self._name + (BULK if bulk else CONTROL),
            bulk=bulk,
            outbox_bytes=self._outbox_bytes,
            counters=self._counters,
            limits=self._limits,
            heard=self._heard,
            changed=None if bulk else self._control_changed,  # both lead to the same process
            before=self._control.look if bulk else None,
        )

    def _control_changed(self, change: Change) -> None:
        if change is not Change.UP and self._bulk is not None:
            self._bulk.drop()  # even if it never got there
        if self._changed is not None:
            self._changed(change)

    def _rest(self) -> None:
        """Close the bulk lane if nothing has needed it for a while."""
        bulk = self._bulk
        if bulk is None:
            return
        idle_s = self._reactor.clock() - self._used_s
        if idle_s >= BULK_IDLE_S and not bulk.waiting_bytes:
            bulk.close()
            self._bulk = None
        else:
            self._idle = self._reactor.later(max(1.0, BULK_IDLE_S - idle_s), self._rest)
