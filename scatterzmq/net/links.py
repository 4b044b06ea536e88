"""Links of a peer: to all others, and to the clients that talk to it.

Purpose   What the driver of a peer that runs on its own gets as its `Network`.
Rules     1. Peers talk over connections that the speaker has made (net/lanes.py); their ROUTER only receives. Clients
             are answered over the connections that they have made (net/answers.py).
          2. Nothing here waits; whatever is sent may get lost. Nothing that comes in raises: what is no message for us
             is counted by reason, in `rejected`, and dropped.
          3. A message says whom it is from and for. Its sender must be whose connection it is. What is for another peer
             came to this port by mistake: the core hears that from peers, and clients find out by asking.
          4. Publications are hints, from those with an open link only.
Why       Two processes that send to each other over one pair of ROUTERs lose messages whenever one of them starts
          again; with a connection per direction each side knows how its own one is.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TypeAlias

import zmq

from ..core.blobmessages import BlobBetweenPeers, BlobWord, WriteBlob
from ..core.events import LinkDown
from ..core.messages import Contact, ToPeer
from ..core.peermessages import AnyMessage, BetweenPeers, Hello, Unwelcome
from ..driver import Incoming, Posted
from ..ids import ClientId, PeerId
from ..network import FromPeer
from ..settings import Settings
from ..wire.columns import Apart, Column
from ..wire.frames import Envelope, Frame, decode_opened, encode, encode_apart, open_envelope
from ..wire.refusal import Limits, WireError
from .addresses import Address, endpoint
from .answers import Answers
from .fragments import nbytes
from .lanes import Lane, Lanes, receive
from .listening import Listening, listen
from .monitor import Change
from .options import FRAME_BYTES_MAX, OutOfFilesError, subscriber
from .partial import Partial
from .reactor import Alarm, Reactor
from .routing import DIAL, Origin, is_bulk, of_peer, read

__all__ = ["Listening", "PeerLinks", "listen"]

NOBODY = -1
"""Stands for "meant for another process" in FromPeer.to_incarnation."""
DRAINED_MAX = 64
DRAINED_BYTES_MAX = 16 << 20
"""Taken in from one socket per round; then others have their turn."""
DIAL_S = 10.0
"""How long a connection is kept on which somebody was greeted."""
OPEN_AGAIN_S = 1.0
"""Where there was no file left for a link."""

BlobHeard: TypeAlias = Callable[[PeerId | ClientId, BlobWord, Mapping[str, Column]], None]


class _Link:
    """To one peer. publishes: the endpoint where it does, "" if it does not."""

    def __init__(self, lanes: Lanes, publishes: str) -> None:
        self.lanes = lanes
        self.publishes = publishes


class PeerLinks:
    """All links of one peer; a `Network`. Everything is called, and calls back, in the reactor's thread.

    take: gets what comes in, as for Driver.take. left: gets how many tasks were lost when the peer has left.
    counters: of messages and bytes; what was dropped here, by reason ("files": none was left for a connection).
    rejected: what came in and was not for us.
    """

    def __init__(
        self,
        reactor: Reactor,
        listening: Listening,
        me: Contact,
        settings: Settings,
        take: Callable[[Posted], None],
        left: Callable[[int], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._reactor = reactor
        self._me = me
        self._take = take
        self._left = left
        self._hear_of_blob: BlobHeard | None = None
        self._hear_of_links: Callable[[PeerId, bool], None] = _nobody_hears
        self._limits = Limits(total_bytes=settings.network.message_bytes)
        self._outbox_bytes = settings.network.outbox_bytes
        self._dials_max = 2 * settings.cluster.peers_max
        self._name = of_peer(me.id, me.incarnation)
        self._router = listening.router
        self._publisher = listening.publisher
        self._subscriber = subscriber(reactor.context)
        self._subscribed: Counter[str] = Counter()
        self._answers = Answers(
            reactor, self._router, me, self._outbox_bytes, take, self.counters, self._limits.total_bytes
        )
        self._links: dict[PeerId, _Link] = {}
        self._put_off: dict[PeerId, Alarm] = {}
        self._dialed: dict[str, tuple[Lane, Alarm]] = {}
        self._partial = Partial(
            reactor, self._limits, settings.network.partial_bytes, self._links.__contains__, self.counters
        )
        self._numbers = count(1)
        reactor.watch(self._router, self._read)
        reactor.watch(self._subscriber, self._read_published)

    @property
    def clients_count(self) -> int:
        return len(self._answers)

    @property
    def waiting_bytes(self) -> int:
        """Of messages that have not left yet."""
        return self._answers.waiting_bytes + sum([link.lanes.waiting_bytes for link in self._links.values()])

    # ---- blobs, of which the core knows nothing

    def peers(self) -> tuple[PeerId, ...]:
        """To whom there is a link."""
        return tuple(self._links)

    def hear_of_blobs(self, heard: BlobHeard) -> None:
        """Who gets the words about blobs, of linked peers and of clients."""
        self._hear_of_blob = heard

    def hear_of_links(self, changed: Callable[[PeerId, bool], None], /) -> None:
        """Who is told that there is a link to somebody from now on (True), in a life of its own, or none any more."""
        self._hear_of_links = changed

    def say_of_blob(self, to: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column], /) -> None:
        if isinstance(to, ClientId):
            self._answers.say(to, word, columns)
        else:
            self.send(to, 0, word, columns)

    # ---- the network

    def send(
        self, peer: PeerId, incarnation: int, message: BetweenPeers | BlobWord, columns: Mapping[str, Column | Apart], /
    ) -> None:
        link = self._links.get(peer)
        if link is None:
            self.counters["unlinked"] += 1
            return
        frames = encode_apart(message, columns, self._envelope(peer, incarnation))
        link.lanes.send(frames, self._count_sent(nbytes(frames)))

    def publish(self, message: BetweenPeers, /) -> None:
        frames = encode(message, {}, self._envelope(None, 0))
        total = nbytes(frames)
        if total > FRAME_BYTES_MAX:
            self.counters["long"] += 1
            return
        self._count_sent(total)
        self._publisher.send_multipart(frames, zmq.NOBLOCK)

    def dial(self, address: str, greeting: Hello | Unwelcome, /) -> None:
        """Always over a new connection: the one that there is may be what is wrong."""
        self._hang_up(address)
        parsed = Address.parse(address)
        if parsed is None:
            self.counters["address"] += 1
            return
        if len(self._dialed) >= self._dials_max:
            self._hang_up(next(iter(self._dialed)))
        number = next(self._numbers)
        try:
            lane = Lane(
                self._reactor,
                parsed,
                self._name + DIAL + (number & 0xFFFFFFFF).to_bytes(4, "big"),
                bulk=False,
                outbox_bytes=self._outbox_bytes,
                counters=self.counters,
                limits=self._limits,
            )
        except OutOfFilesError:
            self.counters["files"] += 1
            return  # as if it had got lost
        self._dialed[address] = lane, self._reactor.later(DIAL_S, lambda: self._hang_up(address))
        frames = encode(greeting, {}, self._envelope(None, 0))
        lane.send(frames, self._count_sent(nbytes(frames)))

    def open(self, contact: Contact, /) -> None:
        peer = contact.id
        self.close(peer)
        parsed = Address.parse(contact.address)
        if parsed is None:
            self.counters["address"] += 1
            return
        try:
            lanes = Lanes(
                self._reactor,
                parsed,
                self._name,
                outbox_bytes=self._outbox_bytes,
                counters=self.counters,
                limits=self._limits,
                changed=lambda change: self._changed(peer, lanes, change),
            )
        except OutOfFilesError:
            self.counters["files"] += 1
            self._put_off[peer] = self._reactor.later(OPEN_AGAIN_S, partial(self.open, contact))
            return
        publishes = endpoint(parsed.host, contact.gossip_port) if contact.gossip_port else ""
        self._links[peer] = _Link(lanes, publishes)
        if publishes:
            self._subscribed[publishes] += 1
            if self._subscribed[publishes] == 1:
                self._subscriber.connect(publishes)
        self._hear_of_links(peer, True)

    def close(self, peer: PeerId, /) -> None:
        put_off = self._put_off.pop(peer, None)
        if put_off is not None:
            put_off.cancel()
        link = self._links.pop(peer, None)
        if link is None:
            return
        self._hear_of_links(peer, False)
        link.lanes.close()
        if link.publishes:
            self._subscribed[link.publishes] -= 1
            if not self._subscribed[link.publishes]:
                del self._subscribed[link.publishes]
                self._put_by()
                self._subscriber.disconnect(link.publishes)

    def left(self, lost: int, /) -> None:
        self._left(lost)

    def counted(self) -> dict[str, int]:
        """`counters` as "network_...", and `rejected` as "rejected_...", by reason; and what waits now."""
        named = {f"network_{name}": number for name, number in self.counters.items()}
        named["network_waiting_bytes"] = self.waiting_bytes
        return named | {f"rejected_{reason}": number for reason, number in self.rejected.items()}

    def close_all(self) -> None:
        """Nothing comes in any more; what has been sent to peers is still on its way as long as the reactor lingers."""
        self._reactor.unwatch(self._router)
        self._reactor.unwatch(self._subscriber)
        self._answers.close()
        self._partial.close()
        for alarm in [*[alarm for _, alarm in self._dialed.values()], *self._put_off.values()]:
            alarm.cancel()

    # ---- links

    def _envelope(self, to: PeerId | None, incarnation: int) -> Envelope:
        return Envelope(
            src=self._me.id,
            src_incarnation=self._me.incarnation,
            dst=to,
            dst_incarnation=incarnation,
            seq=next(self._numbers),
        )

    def _count_sent(self, total: int) -> int:
        """A message of so many bytes leaves."""
        self.counters["sent"] += 1
        self.counters["sent_bytes"] += total
        return total

    def _hang_up(self, address: str) -> None:
        dialed = self._dialed.pop(address, None)
        if dialed is not None:
            lane, alarm = dialed
            alarm.cancel()
            lane.close()

    def _changed(self, peer: PeerId, lanes: Lanes, change: Change) -> None:
        """Passed on a little later: this may be in the middle of sending something."""
        if change is Change.UP:
            return

        def tell() -> None:
            link = self._links.get(peer)
            if link is not None and link.lanes is lanes:
                self._take(LinkDown(peer=peer, refused=change is Change.REFUSED))

        self._reactor.call(tell)

    # ---- what comes in

    def _read(self) -> None:
        taken_bytes = 0
        for _ in range(DRAINED_MAX):
            try:
                routing_id = self._router.recv(zmq.NOBLOCK)
                parts = receive(self._router, bulk=is_bulk(routing_id))
            except zmq.Again:
                return
            self._come_in(routing_id, parts)
            taken_bytes += nbytes(parts)
            if taken_bytes >= DRAINED_BYTES_MAX:
                return

    def _come_in(self, routing_id: bytes, parts: Sequence[Frame]) -> None:
        self.counters["received_bytes"] += nbytes(parts)
        origin = read(routing_id)
        if origin is None:
            self.rejected["routing_id"] += 1
            return
        try:
            frames = self._partial.take(routing_id, origin, parts)
            if frames is None:
                return
            envelope = open_envelope(frames, self._limits)
            if (envelope.src, envelope.src_incarnation) != (origin.id, origin.incarnation):
                self.rejected["sender"] += 1
                return
            message, columns = decode_opened(envelope, frames, self._limits)
        except WireError as error:
            self.rejected[error.reason] += 1
            return
        self.counters["received"] += 1
        self._pass_on(origin, envelope, message, columns)

    def _pass_on(self, origin: Origin, envelope: Envelope, message: AnyMessage, columns: Mapping[str, Column]) -> None:
        is_me = envelope.dst is None or envelope.dst == self._me.id
        if isinstance(origin.id, ClientId):
            if not is_me or envelope.dst_incarnation not in (0, self._me.incarnation):
                self.rejected["receiver"] += 1
            elif isinstance(message, WriteBlob) and self._hear_of_blob is not None:
                self._answers.heard(origin.id)
                self._hear_of_blob(origin.id, message, columns)
            elif not isinstance(message, ToPeer):
                self.rejected["role"] += 1
            else:
                self._answers.heard(origin.id)
                self._take(Incoming(sender=origin.id, message=message, columns=columns))
        elif isinstance(message, BlobBetweenPeers):
            if is_me and origin.id in self._links and self._hear_of_blob is not None:
                self._hear_of_blob(origin.id, message, columns)
            else:
                self.rejected["receiver"] += 1
        elif not isinstance(message, BetweenPeers):
            self.rejected["role"] += 1
        else:
            to_incarnation = envelope.dst_incarnation if is_me else NOBODY
            self._take(_from_peer(envelope, origin.id, to_incarnation, message, columns))

    def _put_by(self) -> None:
        """Take in what is there of publications, to be read later. libzmq 4.3.5 ends the process ("Assertion failed:
        !_more") if a connection is let go of which it has the first frame at hand, as it has after waiting for any.
        """
        while True:
            try:
                frames = receive(self._subscriber, bulk=False)
            except zmq.Again:
                return
            self._reactor.call(partial(self._published, frames))

    def _read_published(self) -> None:
        for _ in range(DRAINED_MAX):
            try:
                self._published(receive(self._subscriber, bulk=False))
            except zmq.Again:
                return

    def _published(self, frames: Sequence[Frame]) -> None:
        self.counters["received_bytes"] += nbytes(frames)
        try:
            envelope = open_envelope(frames, self._limits)
            message, columns = decode_opened(envelope, frames, self._limits)
        except WireError as error:
            self.rejected[error.reason] += 1
            return
        source = envelope.src
        if not isinstance(source, PeerId) or source not in self._links:
            self.rejected["sender"] += 1
        elif not isinstance(message, BetweenPeers):
            self.rejected["role"] += 1
        else:
            self.counters["received"] += 1
            self._take(_from_peer(envelope, source, 0, message, columns))


def _from_peer(
    envelope: Envelope, sender: PeerId, to_incarnation: int, message: BetweenPeers, columns: Mapping[str, Column]
) -> FromPeer:
    return FromPeer(
        sender=sender,
        incarnation=envelope.src_incarnation,
        to_incarnation=to_incarnation,
        message=message,
        columns=columns,
    )


def _nobody_hears(_peer: PeerId, _up: bool) -> None:
    pass
