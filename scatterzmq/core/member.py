"""One member, as another peer sees it.

Rules     1. A member is ALIVE while there is no reason for doubt: it is heard, it hears us, it is not on probation.
          2. Three turns between ALIVE and anything else within a minute put it on probation: it must be beyond doubt
             for 5 s before it counts again; twice as long each time, up to 5 min.
Why       A member that comes and goes would cost a repair each time it goes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ..frozen import frozen
from ..ids import PeerId
from .peermessages import Contact, Heartbeat

TURNS, TURNS_WITHIN_MS = 3, 60_000
TRIAL_MIN_MS, TRIAL_MAX_MS = 5_000, 300_000
DEATHS_TOLD_MS = 30_000
"""Heartbeats name who died within this time."""


class Status(StrEnum):
    """What a peer thinks of a member. ALIVE may get work and copies, SUSPECT may not; DEAD and LEFT are gone.

    UNKNOWN: known from an earlier life of ours, not greeted since; it may well be alive.
    """

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"
    UNKNOWN = "unknown"

    __hash__ = str.__hash__


LINKED = frozenset((Status.ALIVE, Status.SUSPECT))


@frozen(kw_only=False)
class Change:
    """A member is something else from now on.

    heal: it is ALIVE, and was known before and gone (dead, replaced, or known from an earlier life of ours): both sides
    may hold what the other does not know to be over.
    """

    peer: PeerId
    status: Status
    incarnation: int = 0
    heal: bool = False


@frozen(kw_only=False)
class Pulse:
    """What other machines have to say in a heartbeat."""

    idle: int = 0
    queues: int = 0
    pointers: bytes = b""
    usable: bool = False


@dataclass(slots=True, eq=False)
class Member:
    """contact: of its newest life. nonce: of that life; None if only its contact is known. since_ms: of its status.

    silent: not heard for a while. misses_us: it says that it does not hear us. heard_ms: last sign of life.
    beat: number of its last heartbeat; missing, dead: what that said of others.
    returns: it was gone before, and is to be compared with when it is ALIVE.
    leaving: it has said that it is about to leave.
    trial_ms: length of its probation, 0 if it is on none; trial_end_ms: when that ends; None while it is in doubt.
    """

    contact: Contact
    nonce: bytes | None = None
    status: Status = Status.UNKNOWN
    since_ms: int = 0
    heard_ms: int = 0
    silent: bool = False
    misses_us: bool = False
    beat: int = -1
    missing: frozenset[PeerId] = frozenset()
    dead: Mapping[PeerId, int] = field(default_factory=dict)
    returns: bool = False
    leaving: bool = False
    trial_ms: int = 0
    trial_end_ms: int | None = None
    _turns: tuple[int, ...] = ()
    _tried_ms: int = 0
    _last_trial_ms: int = 0

    @property
    def id(self) -> PeerId:
        return self.contact.id

    @property
    def address(self) -> str:
        return self.contact.address

    @property
    def is_linked(self) -> bool:
        return self.status in LINKED

    @property
    def is_heard(self) -> bool:
        """It is there now, for whatever happened before."""
        return self.status in LINKED and not self.silent and not self.misses_us

    def begin(self, contact: Contact, nonce: bytes, now_ms: int) -> None:
        """It has been greeted, in this life for the first time or again."""
        if contact.incarnation != self.contact.incarnation:
            self.beat = -1
        self.contact, self.nonce = contact, nonce
        self.heard_ms = now_ms
        self.silent = self.misses_us = self.leaving = False
        self.missing, self.dead = frozenset(), {}

    def turn(self, status: Status, now_ms: int) -> None:
        """It is something else from now on."""
        if Status.ALIVE in (self.status, status) and self.status is not Status.UNKNOWN:
            self._turns = (*self._turns, now_ms)[-TURNS:]
        self.status, self.since_ms = status, now_ms

    def deserved(self, now_ms: int) -> Status:
        """ALIVE or SUSPECT, as this linked member deserves it now."""
        if self.silent or self.misses_us:
            self.trial_end_ms = None
            return Status.SUSPECT
        if self.status is Status.ALIVE:
            return Status.ALIVE
        if not self.trial_ms and len(self._turns) == TURNS and self._turns[0] > now_ms - TURNS_WITHIN_MS:
            again = self._last_trial_ms and now_ms - self._tried_ms <= TRIAL_MAX_MS
            self.trial_ms = min(2 * self._last_trial_ms, TRIAL_MAX_MS) if again else TRIAL_MIN_MS
        if self.trial_ms and self.trial_end_ms is None:
            self.trial_end_ms = now_ms + self.trial_ms
        if self.trial_end_ms is not None and now_ms < self.trial_end_ms:
            return Status.SUSPECT
        if self.trial_ms:
            self._last_trial_ms, self._tried_ms = self.trial_ms, now_ms
            self.trial_ms, self.trial_end_ms = 0, None
            self._turns = ()
        return Status.ALIVE

    def died_lately(self, now_ms: int) -> bool:
        """Whether heartbeats tell of its death."""
        return self.status is Status.DEAD and now_ms - self.since_ms <= DEATHS_TOLD_MS

    def may_be_there(self, since_ms: int) -> bool:
        """Whether it may be there without a link: it was not seen yet, or has been given up for silence since then."""
        is_given_up = self.status is Status.DEAD and self.silent and self.since_ms > since_ms
        return is_given_up or self.status is Status.UNKNOWN

    def check_invariants(self) -> None:
        if self.status is Status.ALIVE:
            assert not self.silent, "a silent member counts as alive"
            assert not self.misses_us, "a member that does not hear us counts as alive"
            assert not self.trial_ms, "a member on probation counts as alive"
        if self.status is Status.SUSPECT:
            assert self.silent or self.misses_us or self.trial_end_ms is not None, "a suspect without a reason"


@frozen(kw_only=False)
class Hearsay:
    """What living members say of others. anyone: whether there is any to say something."""

    anyone: bool
    missing: frozenset[PeerId]
    dead: Mapping[PeerId, int]

    def accuses(self, member: Member) -> bool:
        """Somebody holds this life of it to be dead."""
        return self.dead.get(member.id, -1) >= member.contact.incarnation

    def witnesses(self, member: Member) -> bool:
        """Somebody else does not hear it, either."""
        return member.id in self.missing or self.accuses(member)


def heartbeat(seq: int, pulse: Pulse, linked: Sequence[Member], died: Sequence[Member]) -> Heartbeat:
    """What is published of all members; linked and died: those that it may name."""
    return Heartbeat(
        seq=seq,
        idle=pulse.idle,
        missing=tuple([member.id for member in linked if member.silent]),
        dead=tuple([member.id for member in died]),
        dead_incarnations=tuple([member.contact.incarnation for member in died]),
        queues=pulse.queues,
        pointers=pulse.pointers,
        usable=pulse.usable,
    )


def hearsay(living: Iterable[Member]) -> Hearsay:
    """Collect it. O(what they say)."""
    anyone = False
    missing: set[PeerId] = set()
    dead: dict[PeerId, int] = {}
    for member in living:
        anyone = True
        missing |= member.missing
        for peer, incarnation in member.dead.items():
            dead[peer] = max(incarnation, dead.get(peer, -1))
    return Hearsay(anyone, frozenset(missing), dead)
