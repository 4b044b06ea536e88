"""Lanes: what arrives, what is dropped and when, and what they tell of the other side."""

import errno
import gc
import os
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import zmq

from scatterzmq.net import lanes, monitor, options
from scatterzmq.net.addresses import Address
from scatterzmq.net.fragments import Assembler
from scatterzmq.net.lanes import BULK_IDLE_S, CONTROL_BYTES, Lanes, Outbox, receive
from scatterzmq.net.monitor import Change, Probe
from scatterzmq.net.routing import BULK, CONTROL
from scatterzmq.wire.refusal import Limits
from tests.net.conftest import Wire, World

SMALL: list[bytes | memoryview] = [b"envelope", b"body"]
LARGE: list[bytes | memoryview] = [b"envelope", b"body", bytes(CONTROL_BYTES)]


class Receiver:
    """A bare ROUTER. heard: (lane, frames) of whole messages."""

    def __init__(self, world: World, port: int = 0, rcvhwm: int | None = None) -> None:
        self.world = world
        self.reactor = world.reactor()
        self.socket = options.router(self.reactor.context)
        if rcvhwm is not None:
            self.socket.set(zmq.RCVHWM, rcvhwm)
            self.socket.set(zmq.RCVBUF, 1 << 17)
        self.socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        endpoint = self.socket.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.address = Address("127.0.0.1", int(endpoint.rstrip(b"\0").rpartition(b":")[2]))
        self.counters: Counter[str] = Counter()
        self.heard: list[tuple[bytes, Sequence[Any]]] = []
        self.names: list[bytes] = []
        self.assemblers: dict[bytes, Assembler] = {}
        world.kept.append(self)

    def listen(self) -> None:
        self.reactor.watch(self.socket, self._read)

    def _read(self) -> None:
        name, *parts = receive(self.socket, bulk=True)
        self.names.append(bytes(name))
        assembler = self.assemblers.setdefault(bytes(name), Assembler(Limits(), self.counters))
        frames = assembler.take(parts)
        if frames is not None:
            self.heard.append((bytes(name)[-1:], frames))

    def bodies(self) -> list[bytes]:
        return [bytes(frames[1]) for _, frames in self.heard]


class Sender:
    def __init__(self, world: World, to: Address, *, outbox_bytes: int = 1 << 28, **options: Any) -> None:
        self.reactor = world.reactor()
        self.counters: Counter[str] = Counter()
        self.changes: list[Change] = []
        self.lanes = Lanes(
            self.reactor,
            to,
            b"me",
            outbox_bytes=outbox_bytes,
            counters=self.counters,
            limits=options.pop("limits", Limits()),
            changed=self.changes.append,
            **options,
        )
        world.kept.append(self)


@pytest.fixture
def nobody() -> Address:
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", free.getsockname()[1])


def test_small_messages_go_over_control_and_large_ones_over_bulk(world: World) -> None:
    there = Receiver(world)
    there.listen()
    here = Sender(world, there.address)
    column = memoryview(os.urandom(20 << 20))
    sent = [SMALL, LARGE, [*SMALL, column, b"", b"end"]]
    for frames in sent:
        assert here.lanes.send(frames)
    world.until(lambda: len(there.heard) == 3)
    assert [lane for lane, _ in there.heard] == [CONTROL, BULK, BULK]
    assert [[bytes(frame) for frame in frames] for _, frames in there.heard] == [
        [bytes(frame) for frame in frames] for frames in sent
    ]
    assert set(there.names) == {b"me" + CONTROL, b"me" + BULK}
    assert not here.counters
    assert not there.counters
    assert here.changes == [Change.UP]
    assert here.lanes.is_up


def test_a_small_message_does_not_wait_for_a_large_one(world: World) -> None:
    there = Receiver(world, rcvhwm=1)
    here = Sender(world, there.address)
    world.until(lambda: here.lanes.is_up)
    here.lanes.send([*SMALL, bytes(100 << 20)])
    world.until(lambda: here.lanes.waiting_bytes < 99 << 20)
    here.lanes.send(SMALL)
    there.listen()
    world.until(lambda: there.heard)
    assert there.heard[0][0] == CONTROL
    assert here.lanes.waiting_bytes > 50 << 20


def test_nobody_listens(world: World, nobody: Address) -> None:
    here = Sender(world, nobody)
    here.lanes.send(SMALL)
    here.lanes.send(LARGE)
    world.until(lambda: Change.REFUSED in here.changes)
    assert set(here.changes) == {Change.REFUSED}
    world.until(lambda: not here.lanes.waiting_bytes)
    assert here.counters["cut"] == 2
    assert not here.lanes.is_up


def test_the_end_of_a_process_is_told_at_once(world: World) -> None:
    there = Receiver(world)
    here = Sender(world, there.address)
    world.until(lambda: here.lanes.is_up)
    world.kill(there.reactor)
    world.until(lambda: Change.REFUSED in here.changes)
    assert here.changes[:3] == [Change.UP, Change.DOWN, Change.REFUSED]


def test_a_lost_connection_to_a_living_process_is_no_refusal(world: World) -> None:
    there = Receiver(world)
    there.listen()
    wire = Wire(world, there.address.port)
    here = Sender(world, wire.address)
    world.until(lambda: here.lanes.is_up)
    wire.cut()
    world.until(lambda: here.changes == [Change.UP, Change.DOWN, Change.UP])
    here.lanes.send(SMALL)
    world.until(lambda: there.heard)


def test_nothing_of_an_old_queue_goes_to_the_next_process_on_the_port(world: World) -> None:
    there = Receiver(world, rcvhwm=1)  # and it reads nothing
    here = Sender(world, there.address)
    world.until(lambda: here.lanes.is_up)
    old = [b"envelope", b"old", bytes(100_000)]
    while here.lanes.waiting_bytes < 1 << 20:
        here.lanes.send(old)
        here.lanes.send([b"envelope", b"old", bytes(300_000)])
    world.kill(there.reactor)
    other = Receiver(world, there.address.port)
    other.listen()
    world.until(lambda: here.changes.count(Change.UP) == 2)
    here.lanes.send([b"envelope", b"new"])
    here.lanes.send([b"envelope", b"new", bytes(300_000)])
    world.until(lambda: len(other.heard) >= 2)
    world.settle()
    assert other.bodies() == [b"new", b"new"]
    assert here.counters["cut"] > 0


@pytest.mark.parametrize("is_flushed_first", [False, True])
def test_that_a_connection_was_lost_is_noticed_before_anything_goes_over_the_next(
    world: World, is_flushed_first: bool
) -> None:
    there = Receiver(world, rcvhwm=1)
    here = Sender(world, there.address)
    world.until(lambda: here.lanes.is_up)
    while not here.lanes.waiting_bytes:
        here.lanes.send([b"envelope", b"old", bytes(100_000)])
    world.kill(there.reactor)
    other = Receiver(world, there.address.port)
    other.listen()
    control = here.lanes._control
    while not control._socket.poll(10, zmq.POLLOUT):  # a thread that was busy meanwhile
        other.reactor.step()
    if is_flushed_first:
        control.flush()
    here.lanes.send([b"envelope", b"new"])
    world.until(lambda: other.heard)
    world.settle()
    assert other.bodies() == [b"new"]


def test_a_bulk_lane_that_never_got_there_does_not_bring_old_words_to_the_next_process(world: World) -> None:
    there = Receiver(world)
    here = Sender(world, there.address)
    world.until(lambda: here.lanes.is_up)
    here.lanes.send([b"envelope", b"old", bytes(300_000)])
    world.kill(there.reactor)
    other = Receiver(world, there.address.port)
    other.listen()
    bulk = here.lanes._bulk
    assert bulk is not None
    while not bulk._socket.poll(10, zmq.POLLOUT):
        other.reactor.step()
    bulk.flush()
    here.lanes.send([b"envelope", b"new", bytes(300_000)])
    world.until(lambda: other.heard)
    world.settle()
    assert other.bodies() == [b"new"]


def test_what_waits_is_bounded_and_dropped_whole(world: World) -> None:
    there = Receiver(world, rcvhwm=1)
    here = Sender(world, there.address, outbox_bytes=3 << 20)
    world.until(lambda: here.lanes.is_up)
    message = [b"envelope", b"body", bytes(2_500_000)]
    sent = [here.lanes.send(message) for _ in range(100)]
    assert True in sent
    assert False in sent
    assert here.lanes.waiting_bytes <= 3 << 20
    assert here.counters["full"] == sent.count(False)
    there.listen()
    world.until(lambda: not here.lanes.waiting_bytes)
    world.until(lambda: len(there.heard) == sent.count(True))
    assert here.lanes.send(message), "there is room again"
    world.until(lambda: len(there.heard) == sent.count(True) + 1)
    assert {len(frames[2]) for _, frames in there.heard} == {2_500_000}
    assert not there.counters


def test_what_is_larger_than_the_outbox_goes_alone() -> None:
    outbox = Outbox(100)
    assert outbox.put([[bytes(300)]])
    assert not outbox.put([[b"x"]])
    sent: list[Any] = []
    outbox.send(sent.append)
    assert (len(sent), len(outbox), outbox.bytes) == (1, 0, 0)
    assert outbox.put([[b"x"]])
    assert outbox.put([[b"y" * 99]])
    assert not outbox.put([[b"z"]])
    outbox.clear()
    assert (len(outbox), outbox.bytes) == (0, 0)


def test_what_is_beyond_the_limits_is_not_sent(world: World) -> None:
    there = Receiver(world)
    here = Sender(world, there.address, limits=Limits(total_bytes=2000, frames=4))
    assert not here.lanes.send([*SMALL, bytes(2000)])
    assert not here.lanes.send([*SMALL, b"", b"", b""])
    assert here.counters["long"] == 2


def test_writing_is_watched_only_while_something_waits(world: World) -> None:
    there = Receiver(world, rcvhwm=1)
    here = Sender(world, there.address)
    world.until(lambda: here.lanes.is_up)
    assert not here.reactor._writers
    while not here.lanes.waiting_bytes:
        here.lanes.send([b"envelope", b"body", bytes(250_000)])
    assert len(here.reactor._writers) == 1
    there.listen()
    world.until(lambda: not here.lanes.waiting_bytes)
    assert not here.reactor._writers
    assert not here.lanes.waiting_bytes


def has_bulk(sender: Sender) -> bool:
    return sender.lanes._bulk is not None


def test_the_bulk_lane_is_closed_when_it_has_nothing_to_do(world: World) -> None:
    there = Receiver(world)
    there.listen()
    here = Sender(world, there.address)
    assert not has_bulk(here)
    for _ in range(2):
        there.heard.clear()
        here.lanes.send(LARGE)
        world.until(lambda: there.heard)
        world.clock.ahead_s += BULK_IDLE_S / 2
        world.settle(2)
        here.lanes.send(LARGE)
        world.clock.ahead_s += BULK_IDLE_S / 2 + 1
        world.settle(2)
        assert has_bulk(here), "it was used in between"
        world.clock.ahead_s += BULK_IDLE_S
        world.until(lambda: not has_bulk(here))
    assert here.lanes.is_up


def test_clients_keep_both_lanes(world: World) -> None:
    there = Receiver(world)
    here = Sender(world, there.address, both=True, heard=lambda frames: None)
    world.until(lambda: here.lanes.is_up)
    here.lanes.send(LARGE)
    world.clock.ahead_s += 3 * BULK_IDLE_S
    world.settle(2)
    assert has_bulk(here)


def test_answers_come_back_over_both_and_bad_pieces_are_counted(world: World) -> None:
    heard: list[Any] = []
    there = Receiver(world)
    there.listen()
    here = Sender(world, there.address, both=True, heard=heard.append)
    here.lanes.send(SMALL)
    here.lanes.send(LARGE)
    world.until(lambda: len(there.heard) == 2)
    there.socket.send_multipart([b"me" + CONTROL, b"a", b"b"])
    there.socket.send_multipart([b"me" + BULK, b"c", b"d"])
    there.socket.send_multipart([b"me" + BULK, b"szmf", b"what?"])
    world.until(lambda: len(heard) == 2 and here.counters["wire"] == 1)
    assert sorted(heard) == [[b"a", b"b"], [b"c", b"d"]]


def test_reading_stops_after_a_while_so_that_others_have_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "DRAINED_MAX", 2)
    heard: list[Any] = []
    there = Receiver(world)
    there.listen()
    here = Sender(world, there.address, heard=heard.append)
    here.lanes.send(SMALL)
    world.until(lambda: there.heard)
    for _ in range(5):
        there.socket.send_multipart([b"me" + CONTROL, b"a", b"b"])
    seen = []
    world.until(lambda: seen.append(len(heard)) or len(heard) == 5)  # type: ignore[func-returns-value]
    assert all(after - before <= 2 for before, after in zip([0, *seen], seen, strict=False))


def test_whoever_listens_may_close_its_lanes_meanwhile(world: World) -> None:
    heard: list[Any] = []
    there = Receiver(world)
    there.listen()

    def take(frames: Any) -> None:
        heard.append(frames)
        here.lanes.close()

    here = Sender(world, there.address, heard=take)
    here.lanes.send(SMALL)
    world.until(lambda: there.heard)
    for _ in range(5):
        there.socket.send_multipart([b"me" + CONTROL, b"a", b"b"])
    world.until(lambda: heard)
    world.settle()
    assert len(heard) == 1
    assert not here.lanes.send(SMALL)
    here.lanes.close()


def test_a_closed_link_leaves_nothing_behind(world: World, nobody: Address) -> None:
    there = Receiver(world)
    here = Sender(world, there.address, both=True)
    there.listen()
    here.lanes.send(LARGE)
    world.until(lambda: here.lanes.is_up and there.heard)
    away = Sender(world, nobody, both=True)
    away.lanes.send(SMALL)
    world.settle(3)
    for sender in (here, away):
        sender.lanes.close()
        assert not sender.reactor._writers
        assert len(sender.reactor._readers) == 0
        sender.reactor.step()
        assert not [alarm for _, _, alarm in sender.reactor._alarms if alarm.is_set]
        gc.collect()
        assert not [one for one in sender.reactor.context._sockets if not one.closed]


def test_names_are_looked_up_elsewhere(world: World, nobody: Address) -> None:
    here = Sender(world, Address("localhost", nobody.port))
    world.until(lambda: Change.REFUSED in here.changes)
    there = Receiver(world)
    there.listen()
    here = Sender(world, Address("localhost", there.address.port))
    here.lanes.send(SMALL)
    world.until(lambda: there.heard)


@pytest.mark.parametrize(
    ("refusing", "refused"),
    [((), False), (("127.0.0.1",), True), (("127.0.0.1", "127.0.0.2"), True), (("127.0.0.1", "there"), False)],
)
def test_a_name_is_refused_if_all_that_it_stands_for_refuse(
    world: World, nobody: Address, monkeypatch: pytest.MonkeyPatch, refusing: tuple[str, ...], refused: bool
) -> None:
    there = Receiver(world).address
    places = tuple([there if host == "there" else Address(host, nobody.port) for host in refusing])
    monkeypatch.setattr(monitor, "resolved", lambda address: places)
    told: list[int] = []
    probe = Probe(world.reactor(), Address("some.name", 1), lambda: told.append(1))
    probe.start()
    world.until(lambda: not probe.is_under_way)
    assert bool(told) == refused
    probe.start()
    probe.stop()
    world.settle()
    assert bool(told) == refused, "it was told to be quiet"


def test_a_probe_that_gets_no_answer_gives_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(socket.socket):
        def connect_ex(self, address: Any, /) -> int:
            return errno.EINPROGRESS

    refused: list[int] = []
    monkeypatch.setattr(socket, "socket", Silent)
    reactor = world.reactor()
    probe = Probe(reactor, Address("127.0.0.1", 1), lambda: refused.append(1))
    probe.start()
    first = probe._socket
    probe.start()
    assert probe._socket is first, "one is enough"
    reactor.unwatch(first.fileno(), writable=True)  # type: ignore[union-attr]
    world.clock.ahead_s += 6
    world.step()
    assert probe._socket is None
    assert not refused


@pytest.mark.parametrize(
    ("result", "is_self", "refused"),
    [
        (errno.ECONNREFUSED, False, 1),
        (0, False, 0),
        (0, True, 1),
        (errno.EHOSTUNREACH, False, 0),
        (errno.ENETUNREACH, False, 0),
        (errno.ETIMEDOUT, False, 0),
        (errno.ECONNRESET, False, 0),
    ],
)
def test_only_a_refusal_is_one(
    world: World, monkeypatch: pytest.MonkeyPatch, result: int, is_self: bool, refused: int
) -> None:
    class Trying(socket.socket):
        def connect_ex(self, address: Any, /) -> int:
            return result

        def getpeername(self) -> Any:
            return self.getsockname() if is_self else None

    told: list[int] = []
    monkeypatch.setattr(socket, "socket", Trying)
    probe = Probe(world.reactor(), Address("127.0.0.1", 1), lambda: told.append(1))
    probe.start()
    assert len(told) == refused
    assert probe._socket is None


def test_a_probe_under_way_is_closed_with_its_reactor(world: World, nobody: Address) -> None:
    reactor = world.reactor()
    probe = Probe(reactor, nobody, lambda: None)
    probe.start()
    tried = probe._socket
    world.kill(reactor)
    assert tried is None or tried.fileno() == -1
