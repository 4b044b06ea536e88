"""A peer that does as it is told: a ROUTER, without anything behind it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import zmq

from scatterzmq.core.messages import AskMembers, Contact, MemberList, ToClient, ToPeer
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.wire.frames import Envelope, decode, encode, open_envelope
from scatterzmq.wire.refusal import Limits

Answer: TypeAlias = Callable[["ScriptedPeer", Envelope, ToPeer], ToClient | None]


class ScriptedPeer:
    """Answers who asks for members, unless it is silent, and notes everything else; `answer` may answer that.

    others: contacts that it tells besides its own. asked: how often it was asked for members. tags: of the clusters
    that were meant. refusal: what it turns everybody away with.
    heard: (envelope, message) of the rest. clients: who has said anything, and over which connection.
    """

    def __init__(
        self,
        letter: str,
        *,
        port: int = 0,
        incarnation: int = 1,
        silent: bool = False,
        answer: Answer | None = None,
        refusal: str = "",
    ) -> None:
        self.id = PeerId("P" + letter * 32)
        self.incarnation = incarnation
        self.silent = silent
        self.answer = answer
        self.refusal = refusal
        self.tags: list[bytes] = []
        self.others: tuple[Contact, ...] = ()
        self.asked = 0
        self.heard: list[tuple[Envelope, ToPeer]] = []
        self.clients: dict[ClientId, bytes] = {}
        self._context: zmq.Context[Any] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.router_handover = True
        self._router.bind(f"tcp://127.0.0.1:{port or '*'}")
        endpoint = self._router.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.port = int(endpoint.decode().rstrip("\0").rpartition(":")[2])

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def contact(self) -> Contact:
        return Contact(id=self.id, incarnation=self.incarnation, address=self.address, name=f"peer-{self.id[1]}")

    @property
    def is_closed(self) -> bool:
        return self._router.closed

    def wait(self, timeout_s: float) -> None:
        """Until something has come."""
        self._router.poll(int(timeout_s * 1000))

    def step(self) -> None:
        """Take in what has come."""
        while not self.is_closed and self._router.poll(0):
            routing_id, *frames = self._router.recv_multipart()
            envelope = open_envelope(frames, Limits())
            message, _ = decode(frames, Limits())
            assert isinstance(envelope.src, ClientId)
            assert isinstance(message, ToPeer)
            self.clients[envelope.src] = routing_id
            if not isinstance(message, AskMembers):
                self.heard.append((envelope, message))
            else:
                self.asked += 1
                self.tags.append(message.cluster)
            if self.silent:
                continue
            answer: ToClient | None
            if isinstance(message, AskMembers) and self.refusal:
                answer = MemberList(mid=message.mid, members=(), refusal=self.refusal)
            elif isinstance(message, AskMembers):
                others = tuple([contact.id for contact in self.others])
                answer = MemberList(mid=message.mid, members=(self.contact, *self.others), suspects=others)
            else:
                answer = None if self.answer is None else self.answer(self, envelope, message)
            if answer is not None:
                self.say(envelope.src, answer)

    def say(self, client: ClientId, message: ToClient, **envelope: Any) -> None:
        """Send to a client; what the envelope says may be otherwise than it should."""
        fields: dict[str, Any] = {"src": self.id, "src_incarnation": self.incarnation, "dst": client} | envelope
        self.send(client, encode(message, {}, Envelope(**fields)))

    def send(self, client: ClientId, frames: Any) -> None:
        self._router.send_multipart([self.clients[client], *frames])

    def close(self) -> None:
        self._router.close()
        self._context.term()
