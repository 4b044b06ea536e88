"""Neighbours: several peers in one process. Each has its own core, store and executors, all driven by one thread.

Purpose   What `local(peers=N)` runs: everything that peers of a cluster do, without a socket.
Rules     1. What one says to another, and to a client, goes through the bytes of the wire, in order, and arrives when
             whoever spoke is through with what it was doing.
          2. They are fixed from the start and know each other before anybody asks anything of them.
Why       Users get the behaviour of a cluster, and tests the real cores, without anything that has to be set up.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic
from typing import TypeAlias

from .client.link import Member
from .clientdriver import ClientDriver
from .core.client import ClientCore
from .core.events import PeerSeen
from .core.messages import Contact, ToClient, ToPeer
from .core.outbox import told_per_task
from .core.peer import PeerCore
from .core.peermessages import AnyMessage, BetweenPeers, Hello, Unwelcome
from .driver import WAIT_MAX_S, At, ClientJoined, ClientLeft, Deliver, Driver, FromExecutor, Incoming, Posted
from .execute.blobs import BlobStore
from .execute.output import NodeOutput
from .execute.pool import Pool
from .execute.store import PayloadStore
from .execute.threads import ThreadExecutor
from .ids import ClientId, PeerId
from .measures import Reporter, Wants
from .network import FromPeer
from .plugins import node_strategy, queue_strategy
from .settings import Settings
from .wire.columns import Apart, Column
from .wire.frames import Envelope, decode, encode, open_envelope
from .wire.refusal import Limits

LIMITS = Limits(frames=1 << 20, total_bytes=1 << 50, body_bytes=1 << 40, items=1 << 31, rows=1 << 31)
"""Within one process everything is ours, and no message too large that fits into memory."""
Columns: TypeAlias = Mapping[str, Column | Apart]
Arrive: TypeAlias = Callable[[Envelope, AnyMessage, Mapping[str, Column]], None]
LOCAL_INCARNATION = 1


class _Air:
    """What is on its way, as frames. Nothing arrives while somebody is still speaking."""

    def __init__(self) -> None:
        self._flying: deque[tuple[Arrive, list[memoryview]]] = deque()

    def send(self, arrive: Arrive, message: AnyMessage, columns: Columns, envelope: Envelope) -> None:
        # As from a socket: whoever gets a frame cannot write to it.
        frames = [memoryview(frame).toreadonly() for frame in encode(message, columns, envelope)]
        self._flying.append((arrive, frames))

    def land(self) -> None:
        while self._flying:
            arrive, frames = self._flying.popleft()
            arrive(open_envelope(frames, LIMITS), *decode(frames, LIMITS))


@dataclass(slots=True, eq=False)
class _Place:
    """One peer."""

    contact: Contact
    driver: Driver
    pool: Pool

    def from_peer(self, envelope: Envelope, message: AnyMessage, columns: Mapping[str, Column]) -> None:
        assert isinstance(envelope.src, PeerId)
        assert isinstance(message, BetweenPeers)
        self.driver.take(
            FromPeer(
                sender=envelope.src,
                incarnation=envelope.src_incarnation,
                to_incarnation=envelope.dst_incarnation,
                message=message,
                columns=columns,
            )
        )

    def from_client(self, envelope: Envelope, message: AnyMessage, columns: Mapping[str, Column]) -> None:
        assert isinstance(envelope.src, ClientId)
        assert isinstance(message, ToPeer)
        self.driver.take(Incoming(sender=envelope.src, message=message, columns=columns))


class _Network:
    """The links of one peer. Everybody can be reached from the start; publications need an open link."""

    def __init__(self, air: _Air, me: Contact, places: list[_Place]) -> None:
        self._air = air
        self._me = me
        self._places = places
        self._open: dict[PeerId, None] = {}

    def send(self, peer: PeerId, incarnation: int, message: BetweenPeers, columns: Columns, /) -> None:
        for place in self._places:
            if place.contact.id == peer:
                self._fly(place, incarnation, message, columns)

    def publish(self, message: BetweenPeers, /) -> None:
        for place in self._places:
            if place.contact.id in self._open:
                self._fly(place, place.contact.incarnation, message, {})

    def dial(self, address: str, greeting: Hello | Unwelcome, /) -> None:
        for place in self._places:
            if place.contact.address == address:
                self._fly(place, 0, greeting, {})

    def open(self, contact: Contact, /) -> None:
        self._open[contact.id] = None

    def close(self, peer: PeerId, /) -> None:
        self._open.pop(peer, None)

    def left(self, lost: int, /) -> None:
        """Nobody asks a neighbour to leave."""

    def _fly(self, place: _Place, incarnation: int, message: BetweenPeers, columns: Columns) -> None:
        me, them = self._me, place.contact
        envelope = Envelope(src=me.id, src_incarnation=me.incarnation, dst=them.id, dst_incarnation=incarnation)
        self._air.send(place.from_peer, message, columns, envelope)


class _Links:
    """The links of one client."""

    def __init__(self, air: _Air, client: ClientId, places: list[_Place]) -> None:
        self._air = air
        self._client = client
        self._places = {place.contact.id: place for place in places}

    def send(self, peer: PeerId, message: ToPeer, columns: Mapping[str, Column], /) -> None:
        place = self._places[peer]
        envelope = Envelope(src=self._client, dst=peer, dst_incarnation=place.contact.incarnation)
        self._air.send(place.from_client, message, columns, envelope)

    def connect(self, contact: Contact, /) -> None:
        """All links are there."""

    def disconnect(self, peer: PeerId, /) -> None:
        """They stay."""


class Neighbours:
    """Drives all of them; to be used as one driver, and as the pool of all their executors.

    post: gets what executors post, from whichever thread. errand, output: as for Pool. emit, wants, counted: as for
    Driver, with a source; what all of them have in common is counted by the first.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        blobs: BlobStore,
        post: Callable[[At], None],
        errand: Callable[[ThreadExecutor], None] | None,
        emit: Callable[..., None] | None = None,
        wants: Wants = lambda _: False,
        counted: Callable[[], Mapping[str, int]] = dict,
        output: NodeOutput | None = None,
    ) -> None:
        self._settings = settings
        self._wants = wants
        self._counted = counted
        self._air = _Air()
        self._places: list[_Place] = []
        self._clients: dict[ClientId, ClientDriver] = {}
        for index in range(count):
            name = f"local-{index}"
            report = None if emit is None else partial(emit, source=name)
            pool = Pool(settings, blobs, partial(_post_at, post, index), errand, report=report, output=output)
            self._places.append(self._settle(index, name, pool, report))
        members = [Member(id=place.contact.id, name=place.contact.name, status="alive") for place in self._places]
        self.members: tuple[Member, ...] = tuple(members)

    # ---- as a driver

    def start(self) -> None:
        """Start the executors, and make everybody known to everybody."""
        for place in self._places:
            place.driver.start()
        for index, place in enumerate(self._places):
            for other in self._places[:index]:
                place.driver.take(PeerSeen(address=other.contact.address))
        self._air.land()

    def take(self, posted: Posted | At) -> None:
        match posted:
            case At(place=index, posted=answer):
                self._places[index].driver.take(answer)
            case Incoming(sender=sender, message=message, columns=columns):
                self._clients[sender].said(message, columns)
            case ClientJoined(client=client, deliver=deliver):
                self._join(client, deliver)
            case ClientLeft(client=client):
                del self._clients[client]
                for place in self._places:
                    place.driver.take(posted)
        self._air.land()

    def tick(self) -> None:
        for place in self._places:
            place.driver.tick()
        for client in list(self._clients.values()):
            client.tick()
        self._air.land()

    def due_s(self) -> float:
        times = [place.driver.due_s() for place in self._places]
        times += [client.due_s() for client in self._clients.values()]
        return min(times)

    def wait_s(self) -> float | None:
        due_s = self.due_s()
        return None if due_s == inf else min(max(0.0, due_s - monotonic()), WAIT_MAX_S)

    def stopped(self) -> None:
        for place in self._places:
            place.driver.stopped()

    # ---- as a pool

    def rouse(self) -> bool:
        return any(place.pool.rouse() for place in self._places)

    def run_pending(self) -> bool:
        return any(place.pool.run_pending() for place in self._places)

    def stop(self, timeout_s: float) -> None:
        until_s = monotonic() + timeout_s
        for place in self._places:
            place.pool.stop(max(0.0, until_s - monotonic()))

    # ---- inside

    def _settle(self, index: int, name: str, pool: Pool, report: Reporter | None) -> _Place:
        settings, id_ = self._settings, PeerId("P" + os.urandom(16).hex())
        contact = Contact(id=id_, incarnation=LOCAL_INCARNATION, address=f"neighbour:{index}", name=name)
        core = PeerCore(
            contact,
            settings,
            node_strategy=node_strategy(settings),
            queue_strategy=queue_strategy(settings),
            nonce=os.urandom(16),
            static=True,
            tells=told_per_task(self._wants),
        )
        network = _Network(self._air, contact, self._places)
        driver = Driver(
            core,
            PayloadStore(settings.store, id_),
            pool,
            report=report,
            wants=self._wants,
            counted=dict if index else self._counted,
            network=network,
        )
        return _Place(contact, driver, pool)

    def _join(self, client: ClientId, deliver: Deliver) -> None:
        core = ClientCore(self._settings.timing, static=True)
        first = len(self._clients) % len(self._places)  # the one that is up first is its home
        driver = self._clients[client] = ClientDriver(core, deliver, _gone, _Links(self._air, client, self._places))
        for place in self._places[first:] + self._places[:first]:
            answer = partial(self._to_client, client, place.contact)
            place.driver.take(ClientJoined(client=client, deliver=answer))
            driver.link(place.contact.id, up=True)

    def _to_client(self, client: ClientId, sender: Contact, message: ToClient, columns: Mapping[str, Column]) -> None:
        envelope = Envelope(src=sender.id, src_incarnation=sender.incarnation, dst=client)
        self._air.send(self._from_peer, message, columns, envelope)

    def _from_peer(self, envelope: Envelope, message: AnyMessage, columns: Mapping[str, Column]) -> None:
        assert isinstance(envelope.src, PeerId)
        assert isinstance(envelope.dst, ClientId)
        assert isinstance(message, ToClient)
        client = self._clients.get(envelope.dst)
        if client is not None:
            client.heard(envelope.src, message, columns)


def _post_at(post: Callable[[At], None], place: int, posted: FromExecutor) -> None:
    post(At(place, posted))


def _gone(reason: str) -> None:
    raise AssertionError(f"neighbours never go: {reason}")
