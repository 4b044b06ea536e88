"""Bare clients: a socket that says whatever it likes to one peer, and hears what that one answers."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import zmq

from scatterzmq.core.messages import AskMembers, AskNamespaces, AskStats, MemberList, Namespaces, Stats, ToPeer
from scatterzmq.core.peermessages import AnyMessage, Hello
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.net.routing import of_client
from scatterzmq.wire.frames import Envelope, decode, encode
from scatterzmq.wire.refusal import Limits
from tests.processes.cluster import TIMEOUT_S


class Bare:
    """A DEALER. me: who it says it is. routing_id: what its connection says, which may be something else."""

    def __init__(
        self, context: "zmq.Context[Any]", address: str, me: ClientId, routing_id: bytes, *, is_slow: bool
    ) -> None:
        self._me = me
        self._socket = context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.routing_id = routing_id
        if is_slow:
            self._socket.rcvhwm = 1
            self._socket.set(zmq.RCVBUF, 1 << 17)
        self._monitor = self._socket.get_monitor_socket(zmq.Event.DISCONNECTED)
        self._socket.connect(address)

    def send(self, *frames: bytes) -> None:
        assert self._socket.poll(int(TIMEOUT_S * 1000), zmq.POLLOUT), "waited too long"
        self._socket.send_multipart(frames)

    def say(self, message: ToPeer | Hello, src: PeerId | None = None, incarnation: int = 0) -> None:
        self.send(*map(bytes, encode(message, {}, Envelope(src=src or self._me, src_incarnation=incarnation))))

    def hear(self) -> AnyMessage:
        assert self._socket.poll(int(TIMEOUT_S * 1000), zmq.POLLIN), "there is no answer"
        return decode(self._socket.recv_multipart(), Limits())[0]

    def has_heard(self) -> bool:
        """Whether there is anything more."""
        return bool(self._socket.poll(0))

    def until_hung_up(self) -> None:
        """Wait until the other side has ended the connection; another one is made at once."""
        assert self._monitor.poll(int(TIMEOUT_S * 1000)), "it has not hung up"

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()


@contextmanager
def bare(address: str, routing_id: bytes | None = None, *, is_slow: bool = False) -> Iterator[Bare]:
    me = ClientId("C" + os.urandom(16).hex())
    with zmq.Context() as context:
        made = Bare(context, address, me, routing_id or of_client(me) + b"c", is_slow=is_slow)
        try:
            yield made
        finally:
            made.close()


def view(address: str) -> dict[str, str]:
    """Who this peer holds to be there: name -> status."""
    with bare(address) as client:
        client.say(AskMembers(mid=1))
        said = client.hear()
    assert isinstance(said, MemberList)
    return {member.name: "suspect" if member.id in said.suspects else "alive" for member in said.members}


def stats(address: str) -> Stats:
    """What this peer says of itself."""
    with bare(address) as client:
        client.say(AskStats(mid=1))
        said = client.hear()
    assert isinstance(said, Stats)
    return said


def namespaces(address: str) -> set[str]:
    """What this peer can run."""
    with bare(address) as client:
        client.say(AskNamespaces(mid=1))
        said = client.hear()
    assert isinstance(said, Namespaces)
    return {info.ns for info in said.infos}


def counters(address: str) -> Mapping[str, int]:
    return stats(address).counters
