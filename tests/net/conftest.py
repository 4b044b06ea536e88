"""Peers with real sockets on loopback, all in the test's thread: each has a reactor of its own, and they take turns."""

import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
import zmq

from scatterzmq.core.messages import Contact, ToPeer
from scatterzmq.core.peermessages import Bye, Hello
from scatterzmq.driver import ClientJoined
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.net import options
from scatterzmq.net.addresses import Address
from scatterzmq.net.lanes import Lanes
from scatterzmq.net.links import PeerLinks, listen
from scatterzmq.net.reactor import Reactor
from scatterzmq.net.routing import of_client, of_peer
from scatterzmq.settings import Settings
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import Envelope, decode, encode
from scatterzmq.wire.refusal import Limits

TIMEOUT_S = 20.0
"""A test that waits so long has failed."""
ALICE, BOB = (ClientId("C" + letter * 32) for letter in "ab")


def peer_id(number: int) -> PeerId:
    return PeerId(f"P{number:032x}")


class Clock:
    """Runs as fast as the real one, but can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class World:
    """Whoever is in a test. `until` lets all of them run until something holds."""

    def __init__(self) -> None:
        self.reactors: list[Reactor] = []
        self.clock = Clock()
        self.ticks: list[Callable[[], None]] = []
        self.kept: list[object] = []

    def reactor(self) -> Reactor:
        made = Reactor(clock=self.clock)
        self.reactors.append(made)
        return made

    def until(self, holds: Callable[[], Any]) -> None:
        until_s = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < until_s, "waited too long"
            if not self.step():
                self.step(0.001)

    def step(self, wait_s: float = 0.0) -> bool:
        """Everybody's turn. False if nobody had anything to do."""
        busy = [reactor.step(wait_s) for reactor in list(self.reactors)]
        for tick in self.ticks:
            tick()
        return any(busy)

    def settle(self, rounds: int = 20) -> None:
        """Whatever was on its way on this machine has arrived."""
        for _ in range(rounds):
            self.step(0.002)

    def kill(self, reactor: Reactor) -> None:
        """As the end of a process does: all its sockets are closed."""
        self.reactors.remove(reactor)
        reactor.close()

    def close(self) -> None:
        for one in self.kept:
            if isinstance(one, Wire):
                one.close()
        for reactor in list(self.reactors):
            self.kill(reactor)


class Station:
    """One peer without a core: notes what its links tell. posted: everything but ClientJoined."""

    def __init__(self, world: World, number: int, *, incarnation: int = 1, port: int = 0, **network: Any) -> None:
        self.world = world
        self.reactor = world.reactor()
        settings = Settings.of({"network": {"port": port, **network}})
        listening = listen(self.reactor, settings.network)
        self.me = Contact(
            id=peer_id(number),
            incarnation=incarnation,
            address=f"tcp://127.0.0.1:{listening.port}",
            gossip_port=listening.gossip_port,
        )
        self.port = listening.port
        self.posted: list[Any] = []
        self.clients: dict[ClientId, Callable[..., None]] = {}
        self.lost: list[int] = []
        self.links = PeerLinks(self.reactor, listening, self.me, settings, self._take, self.lost.append)

    def _take(self, posted: Any) -> None:
        if isinstance(posted, ClientJoined):
            self.clients[posted.client] = posted.deliver
        self.posted.append(posted)

    def got(self, kind: type) -> list[Any]:
        return [one for one in self.posted if isinstance(one, kind)]

    def heard(self) -> list[Any]:
        """All messages that came in."""
        return [one.message for one in self.posted if hasattr(one, "message")]

    def hello(self) -> Hello:
        return Hello(me=self.me, nonce=b"n" * 16, cluster=b"c" * 8, proto_min=1, proto_max=1)

    def meet(self, other: "Station") -> None:
        """Greet each other, and open links both ways. Says Bye() for want of anything else."""
        self.links.dial(other.me.address, self.hello())
        other.links.dial(self.me.address, other.hello())
        self.world.until(lambda: self.hello() in other.heard() and other.hello() in self.heard())
        self.links.open(other.me)
        other.links.open(self.me)

        def hear_each_other() -> bool:
            """Subscribing takes a moment."""
            for one in (self, other):
                one.links.publish(Bye())
            return Bye() in self.heard() and Bye() in other.heard()

        self.world.until(hear_each_other)
        self.world.settle()


class Caller:
    """A client without a core. heard: (message, columns) of what came back."""

    def __init__(self, world: World, client: ClientId, to: Station, *, both: bool = True, bytes_max: int = 1 << 28):
        self.reactor = world.reactor()
        self.client = client
        self.to = to.me
        self.counters: Counter[str] = Counter()
        self.heard: list[tuple[Any, Mapping[str, Column]]] = []
        self.lanes = Lanes(
            self.reactor,
            Address("127.0.0.1", to.port),
            of_client(client),
            outbox_bytes=bytes_max,
            counters=self.counters,
            limits=Limits(),
            heard=lambda frames: self.heard.append(decode(frames, Limits())),
            both=both,
        )

    def say(self, message: ToPeer, columns: Mapping[str, Column] | None = None, **envelope: Any) -> None:
        to: dict[str, Any] = {"src": self.client, "dst": self.to.id, "dst_incarnation": self.to.incarnation} | envelope
        self.lanes.send(encode(message, columns or {}, Envelope(**to)))


class Stranger:
    """A bare DEALER that says whatever it likes."""

    def __init__(self, world: World, to: Station, routing_id: bytes, *, is_slow: bool = False) -> None:
        self.reactor = world.reactor()
        self.socket = options.dealer(self.reactor.context, routing_id or b"?", bulk=False)
        if not routing_id:
            self.socket.set(zmq.ROUTING_ID, b"")
        if is_slow:
            self.socket.set(zmq.RCVHWM, 1)
            self.socket.set(zmq.RCVBUF, 1 << 17)
        self.socket.connect(to.me.address)
        world.kept.append(self)

    def say(self, *frames: Any) -> None:
        self.socket.send_multipart([bytes(frame) for frame in frames])


class Wire:
    """A port that leads to another one, until somebody cuts it."""

    def __init__(self, world: World, port: int) -> None:
        self.reactor = world.reactor()
        self.target = port
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen()
        self.address = Address("127.0.0.1", self.listening.getsockname()[1])
        self.ends: list[socket.socket] = []
        self.reactor.watch(self.listening.fileno(), self._accept)
        world.kept.append(self)

    def _accept(self) -> None:
        coming, _ = self.listening.accept()
        going = socket.create_connection(("127.0.0.1", self.target))
        for one, other in ((coming, going), (going, coming)):
            self.ends.append(one)
            self.reactor.watch(one.fileno(), partial(self._carry, one, other))

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        try:
            data = one.recv(1 << 16)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._cut(one)
            self._cut(other)

    def _cut(self, end: socket.socket) -> None:
        if end in self.ends:
            self.ends.remove(end)
            self.reactor.unwatch(end.fileno())
            end.close()

    def cut(self) -> None:
        for end in list(self.ends):
            self._cut(end)

    def close(self) -> None:
        self.cut()
        self.listening.close()


def peer_name(number: int, incarnation: int = 1) -> bytes:
    return of_peer(peer_id(number), incarnation)


def blocking(socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(int(TIMEOUT_S * 1000)), "waited too long"
    return socket.recv_multipart()


@contextmanager
def no_files_left() -> Iterator[None]:
    """This process may open no more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for file in taken:
            os.close(file)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()
