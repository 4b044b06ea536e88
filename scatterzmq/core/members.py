"""Members: who else is there, in which of its lives, and whether it can be relied on.

Purpose   Greets peers that are seen, refuses strangers, and says who may get work and copies.
Rules     1. Discovery only ever says `seen`; a member is whoever has greeted and been greeted.
          2. Nothing but greetings is accepted from anybody who is no member, or for another life of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from ..ids import PeerId
from ..settings import Settings
from .actions import Dial, OpenLink
from .outbox import Outbox
from .peermessages import BetweenPeers, Bye, Contact, Heartbeat, Hello, Unwelcome, Welcome, WrongIncarnation
from .values import Value

PROTO_MIN = PROTO_MAX = 1


class Status(StrEnum):
    """What a peer thinks of a member. ALIVE may get work and copies, SUSPECT may not; DEAD and LEFT are gone."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Change:
    """A member is something else from now on."""

    peer: PeerId
    status: Status


@dataclass(slots=True, eq=False)
class _Member:
    contact: Contact
    status: Status = Status.ALIVE


class Members:
    """All members that one peer knows, without itself.

    me: contact of this peer. nonce: drawn at boot. static: nobody ever fails (peers in one process), so there are no
    heartbeats and no timers.
    """

    def __init__(self, me: Contact, nonce: bytes, settings: Settings, out: Outbox, *, static: bool = False) -> None:
        self.me = me
        self._nonce = nonce
        self._settings = settings
        self._out = out
        self._static = static
        self._cluster = blake2b(settings.cluster.name.encode(), digest_size=8).digest()
        self._members: dict[PeerId, _Member] = {}
        self._changes: list[Change] = []
        self.counters = {"dropped": 0}

    # ---- questions

    def alive(self) -> tuple[PeerId, ...]:
        """Members that may get work and copies, in order of their ids."""
        return tuple(sorted(peer for peer, member in self._members.items() if member.status is Status.ALIVE))

    def is_alive(self, peer: PeerId) -> bool:
        member = self._members.get(peer)
        return member is not None and member.status is Status.ALIVE

    def status(self, peer: PeerId) -> Status | None:
        """None for somebody who never was a member."""
        member = self._members.get(peer)
        return None if member is None else member.status

    def partners(self) -> tuple[PeerId, ...]:
        """Members that should hold copies for this peer, the preferred first; others follow in case these fail."""
        return tuple(sorted(self.alive(), key=lambda peer: _score(self.me.id, peer), reverse=True))

    def contacts(self) -> tuple[Contact, ...]:
        """This peer and everybody that is alive or suspect."""
        here = [member.contact for _, member in sorted(self._members.items()) if member.status in _LINKED]
        return (self.me, *here)

    # ---- talking

    def tell(self, peer: PeerId, message: BetweenPeers, values: Mapping[str, tuple[Value, ...]] | None = None) -> None:
        """Send to a member; nothing happens if it is gone."""
        member = self._members.get(peer)
        if member is not None and member.status in _LINKED:
            self._out.tell(peer, member.contact.incarnation, message, values)

    def seen(self, address: str, now_ms: int) -> None:
        """Discovery has seen somebody."""
        if address != self.me.address and all(m.contact.address != address for m in self._members.values()):
            self._out.work(Dial(address=address, message=self._hello()))

    def received(
        self, sender: PeerId, incarnation: int, to_incarnation: int, message: BetweenPeers, now_ms: int
    ) -> bool:
        """Take a message in. True if it is for the other machines, and acceptable."""
        match message:
            case Hello():
                self._greeted(message)
                self._out.tell(sender, message.me.incarnation, self._welcome())
                return False
            case Welcome():
                self._greeted(message)
                for contact in message.members:
                    self.seen(contact.address, now_ms)
                return False
            case Unwelcome() | Heartbeat() | Bye() | WrongIncarnation():
                return False
        member = self._members.get(sender)
        if member is None or member.contact.incarnation != incarnation or to_incarnation != self.me.incarnation:
            self.counters["dropped"] += 1
            return False
        return True

    def link_down(self, peer: PeerId, now_ms: int, *, refused: bool) -> None:
        """A link broke."""

    # ---- time

    def expire(self, now_ms: int) -> None:
        """Do what is due."""

    def deadline_ms(self) -> int | None:
        return None

    def take_changes(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def check_invariants(self) -> None:
        assert self.me.id not in self._members, "a peer is no member of its own view"

    def _greeted(self, message: Hello | Welcome) -> None:
        contact = message.me
        if contact.id != self.me.id and contact.id not in self._members:
            self._members[contact.id] = _Member(contact)
            self._out.work(OpenLink(peer=contact.id, address=contact.address))
            self._changes.append(Change(contact.id, Status.ALIVE))

    def _hello(self) -> Hello:
        return Hello(me=self.me, nonce=self._nonce, cluster=self._cluster, proto_min=PROTO_MIN, proto_max=PROTO_MAX)

    def _welcome(self) -> Welcome:
        return Welcome(
            me=self.me,
            nonce=self._nonce,
            cluster=self._cluster,
            proto_min=PROTO_MIN,
            proto_max=PROTO_MAX,
            members=self.contacts()[1:],
        )


_LINKED = frozenset((Status.ALIVE, Status.SUSPECT))


def _score(owner: PeerId, peer: PeerId) -> bytes:
    """Rendezvous hashing: every peer ranks every other differently, and always the same."""
    return blake2b(owner.to_bytes() + peer.to_bytes(), digest_size=8).digest()
