"""Answers: the clients that talk to a peer, and what goes back to them over their own connections.

Rules   1. A client is there from its first message until its connection is gone, too much waits for it, or it has not
           been heard for a minute. It asks every second while it waits for anything, so it comes back if it is there.
        2. Large answers go over its bulk lane, if it has one.
Why     A ROUTER does not say when a slow client can take more, so whoever waits is tried again after a while, and ever
        less often while nothing goes.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import zmq

from ..core.blobmessages import BlobWord
from ..core.messages import Contact, ToClient
from ..driver import ClientJoined, ClientLeft
from ..ids import ClientId
from ..wire.columns import Apart, Column
from ..wire.frames import Envelope, encode_apart
from .fragments import Parts, nbytes, pieces
from .lanes import CONTROL_BYTES, Outbox
from .options import Socket
from .reactor import Alarm, Reactor
from .routing import BULK, CONTROL, is_bulk, of_client

SILENT_S = 60.0
LOOK_EVERY_S = 10.0
CLIENTS_MAX = 16_384
"""Anybody can be any number of clients; beyond it, who has been silent for longest is let go."""
RETRY_S = (0.005, 0.1)
"""Between two tries to send to slow clients: at first, and at most."""


class ClientGoneError(ConnectionError):
    """There is no connection to this client any more."""


@dataclass(slots=True, eq=False)
class _Client:
    """outboxes: by lane."""

    id: ClientId
    name: bytes
    heard_s: float
    outboxes: dict[bytes, Outbox] = field(default_factory=dict)

    @property
    def waiting_bytes(self) -> int:
        return sum([outbox.bytes for outbox in self.outboxes.values()])


class Answers:
    """All clients of one peer. counters: "clients" that came, and "clients_slow", "clients_gone", "clients_silent" and
    "clients_many" that were let go.

    post: gets ClientJoined and ClientLeft. outbox_bytes: may wait for one client. bytes_max: of one message.
    """

    def __init__(
        self,
        reactor: Reactor,
        router: Socket,
        me: Contact,
        outbox_bytes: int,
        post: Callable[[ClientJoined | ClientLeft], None],
        counters: Counter[str],
        bytes_max: int,
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._me = me
        self._outbox_bytes = outbox_bytes
        self._post = post
        self._bytes_max = bytes_max
        self._counters = counters
        # Who was heard last comes last.
        self._clients: dict[ClientId, _Client] = {}
        # Those for whom something waits.
        self._waiting: dict[ClientId, _Client] = {}
        self._left: list[ClientId] = []
        self._numbers = count(1)
        self._retry = Alarm()
        self._retry_s = RETRY_S[0]
        self._look = Alarm()

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def waiting_bytes(self) -> int:
        return sum([client.waiting_bytes for client in self._waiting.values()])

    def heard(self, client: ClientId) -> None:
        """A message of this client came in and is about to be passed on."""
        self.tell_left()
        known = self._clients.get(client)
        if known is not None:
            known.heard_s = self._reactor.clock()
            self._clients[client] = self._clients.pop(client)
            return
        if len(self._clients) >= CLIENTS_MAX:
            self._let_go(next(iter(self._clients.values())), "clients_many")
        self._counters["clients"] += 1
        joined = _Client(client, of_client(client), self._reactor.clock())
        self._clients[client] = joined
        if not self._look.is_set:
            self._look = self._reactor.later(LOOK_EVERY_S, self._look_around)
        deliver = partial(self._deliver, joined)
        self._post(ClientJoined(client=client, deliver=deliver, deliver_apart=deliver))

    def say(self, client: ClientId, message: ToClient | BlobWord, columns: Mapping[str, Column]) -> None:
        """Say something unasked by the core; nothing to a client that is not there."""
        known = self._clients.get(client)
        if known is not None:
            self._deliver(known, message, columns)

    def tell_left(self) -> None:
        """Pass on who was let go. Not at once: that happens while the peer is in the middle of an answer."""
        left, self._left = self._left, []
        for client in left:
            self._post(ClientLeft(client=client))

    def close(self) -> None:
        self._retry.cancel()
        self._look.cancel()
        self._clients.clear()
        self._waiting.clear()

    # ---- sending

    def _deliver(self, client: _Client, message: ToClient | BlobWord, columns: Mapping[str, Column | Apart]) -> None:
        if self._clients.get(client.id) is not client:
            return
        number = next(self._numbers)
        envelope = Envelope(src=self._me.id, src_incarnation=self._me.incarnation, dst=client.id, seq=number)
        frames = encode_apart(message, columns, envelope)
        total = nbytes(frames)
        if total > self._bytes_max:
            self._counters["long"] += 1
            return
        self._counters["sent"] += 1
        self._counters["sent_bytes"] += total
        parts = pieces(frames, number, total)
        try:
            if total > CONTROL_BYTES:
                try:
                    self._send(client, BULK, parts)
                except ClientGoneError:
                    self._send(client, CONTROL, parts)  # it has no such lane
            else:
                self._send(client, CONTROL, parts)
        except ClientGoneError:
            self._let_go(client, "clients_gone")

    def _send(self, client: _Client, lane: bytes, parts: list[Parts]) -> None:
        outbox = client.outboxes.get(lane)
        start = 0
        if not outbox:
            start = self._put_all(client.name + lane, parts)
            if start == len(parts):
                return
        if outbox is None:
            outbox = client.outboxes[lane] = Outbox(self._outbox_bytes)
        # With nothing waiting, a message that is too large for the outbox still goes through it.
        if client.waiting_bytes and client.waiting_bytes + sum(map(nbytes, parts[start:])) > self._outbox_bytes:
            self._let_go(client, "clients_slow")
            return
        outbox.put(parts[start:])
        self._waiting[client.id] = client
        if not self._retry.is_set:
            self._retry_s = RETRY_S[0]
            self._retry = self._reactor.later(self._retry_s, self._try_again)

    def _put_all(self, routing_id: bytes, parts: list[Parts]) -> int:
        """How many pieces have left before there was no more room. Raises ClientGoneError."""
        for index, part in enumerate(parts):
            try:
                self._put(routing_id, part)
            except zmq.Again:
                return index
        return len(parts)

    def _put(self, routing_id: bytes, part: Parts) -> None:
        try:
            self._router.send_multipart([routing_id, *part], zmq.NOBLOCK, copy=not is_bulk(routing_id))
        except zmq.Again:
            raise
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            raise ClientGoneError(routing_id) from None

    def _try_again(self) -> None:
        before = self.waiting_bytes
        for client in list(self._waiting.values()):
            try:
                for lane, outbox in client.outboxes.items():
                    outbox.send(partial(self._put, client.name + lane))
            except ClientGoneError:
                self._let_go(client, "clients_gone")
            if not client.waiting_bytes:
                self._waiting.pop(client.id, None)
        after = self.waiting_bytes
        self._retry_s = RETRY_S[0] if after < before else min(2 * self._retry_s, RETRY_S[1])
        if after:
            self._retry = self._reactor.later(self._retry_s, self._try_again)

    # ---- leaving

    def _let_go(self, client: _Client, why: str) -> None:
        if self._clients.get(client.id) is client:
            del self._clients[client.id]
            self._waiting.pop(client.id, None)
            self._counters[why] += 1
            self._left.append(client.id)
            self._reactor.call(self.tell_left)

    def _look_around(self) -> None:
        until_s = self._reactor.clock() - SILENT_S
        for client in [client for client in self._clients.values() if client.heard_s <= until_s]:
            self._let_go(client, "clients_silent")
        if self._clients:
            self._look = self._reactor.later(LOOK_EVERY_S, self._look_around)
