"""A client's peers: which there are, which can be reached, and which one is its home.

Rules   1. A peer is usable while its link is up and it answers. One that does not answer a few questions in a row is
           silent: as good as down until something comes from it.
        2. Home is one usable peer. It stays until it is not usable any more; what has no better address goes there.
        3. Whether all peers have been asked is known only when home has said who there is, and links to them are up, or
           could not be made.
Why     Silence is counted in questions, not in time, so that a halt of this process is no silence of others.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from ..ids import PeerId
from ..settings import TimingSettings
from .clientevents import ClientAction, Connect, Disconnect, SayTo
from .messages import AskMembers, Contact, MemberList

PINGS_MAX = 5
"""Questions in a row that a peer may leave open."""
MEMBERS_MS = 5_000
"""Between two questions who there is; also between two to a silent peer, and how long a link may take to be made."""
GONE_MAX = 1000
"""Peers that are remembered to be gone."""
LOST_MS = 30_000
"""So long without any usable peer, and the cluster is out of reach."""


@dataclass(slots=True, eq=False)
class _Peer:
    """pings: questions left open since something came. next_ping_ms: when to ask the next one.
    trying_until_ms: its link is being made, and worth waiting for until then.
    leaving: it has said goodbye, and its link is not down: it may be handing over what it has.
    """

    contact: Contact | None = None
    up: bool = False
    pings: int = 0
    next_ping_ms: int = 0
    trying_until_ms: int = 0
    leaving: bool = False

    @property
    def usable(self) -> bool:
        return self.up and self.pings <= PINGS_MAX

    @property
    def silent(self) -> bool:
        return self.up and self.pings > PINGS_MAX


class Peers:
    """See the module. static: who is up is all there is, and nobody ever falls silent.

    changed: peers that have become usable (True) or not (False), in order, until somebody takes them.
    """

    def __init__(self, timing: TimingSettings, *, static: bool) -> None:
        self._ask_ms = max(int(timing.ask_s * 1000), 1)
        self._static = static
        self._peers: dict[PeerId, _Peer] = {}
        self._gone: OrderedDict[PeerId, None] = OrderedDict()
        self._needs: Counter[PeerId] = Counter()
        self._listed = False
        self._refresh_ms = 0
        self._lost_ms: int | None = None
        self.home: PeerId | None = None
        self.changed: list[tuple[PeerId, bool]] = []

    # ---- questions

    def usable(self, peer: PeerId | None) -> bool:
        known = None if peer is None else self._peers.get(peer)
        return known is not None and known.usable

    def is_missing(self, peer: PeerId) -> bool:
        """Whether this is a member that cannot be asked now."""
        known = self._peers.get(peer)
        return known is not None and not known.usable

    def may_know(self, holders: Iterable[PeerId]) -> bool:
        """Whether somebody may know the tasks of these holders who cannot be asked: a member that does not answer, is
        leaving, or cannot be reached; a holder that nobody has told of yet.
        """
        if any(map(self._is_out_of_reach, self._peers.values())):
            return True
        return any(peer not in self._peers and peer not in self._gone for peer in holders)

    def everybody(self) -> tuple[PeerId, ...]:
        """All usable peers, home first."""
        return tuple(
            sorted((id_ for id_, peer in self._peers.items() if peer.usable), key=lambda id_: id_ != self.home)
        )

    def settled(self, now_ms: int) -> bool:
        """Whether `everybody` is everybody that can be asked."""
        if self.home is None:
            return False
        return self._static or (self._listed and all(peer.trying_until_ms <= now_ms for peer in self._peers.values()))

    def deadline_ms(self) -> int | None:
        if self._static:
            return self._lost_ms
        times = [self._refresh_ms if self._lost_ms is None else self._lost_ms]
        times += [peer.next_ping_ms for id_, peer in self._peers.items() if self._is_pinged(id_, peer)]
        times += [peer.trying_until_ms for peer in self._peers.values() if peer.trying_until_ms]
        return min(times)

    def is_lost(self, now_ms: int) -> bool:
        return self._lost_ms is not None and self._lost_ms <= now_ms

    # ---- what happens

    def began(self, now_ms: int) -> None:
        """The first event is here: from now on somebody should be there."""
        self._lost_ms = now_ms + LOST_MS

    def link_up(self, id_: PeerId, now_ms: int) -> None:
        peer = self._peers.setdefault(id_, _Peer())
        peer.up, peer.leaving, peer.trying_until_ms = True, False, 0
        self._hear(peer, now_ms)
        self._change(id_, True, now_ms)

    def link_down(self, id_: PeerId, now_ms: int) -> None:
        peer = self._peers.get(id_)
        if peer is not None:
            was_usable = peer.usable
            # Maybe only the link broke, and who is there is the only one that knows some task.
            peer.trying_until_ms = now_ms + MEMBERS_MS if peer.up else 0
            peer.up = peer.leaving = False
            if was_usable:
                self._change(id_, False, now_ms)

    def leaves(self, id_: PeerId, now_ms: int) -> None:
        """A peer says goodbye: nothing more is asked of it, but it may still say something."""
        peer = self._peers.get(id_)
        if peer is not None and peer.up:
            peer.up, peer.leaving = False, True
            self._change(id_, False, now_ms)

    def heard(self, id_: PeerId, now_ms: int) -> None:
        """Something came from a peer."""
        peer = self._peers.get(id_)
        if peer is not None and peer.up:
            was_silent = peer.silent
            self._hear(peer, now_ms)
            if was_silent:
                self._change(id_, True, now_ms)

    def listed(self, sender: PeerId, message: MemberList, now_ms: int) -> list[ClientAction]:
        """Home says who there is."""
        if sender != self.home or self._static:
            return []
        self._listed = True
        self._refresh_ms = now_ms + MEMBERS_MS
        actions: list[ClientAction] = []
        for contact in message.members:
            peer = self._peers.get(contact.id)
            if peer is None:
                peer = self._peers[contact.id] = _Peer(trying_until_ms=now_ms + MEMBERS_MS)
            if peer.contact != contact:
                known, peer.contact = peer.contact, contact
                if known is not None or not peer.up:  # the first links are the driver's own
                    actions.append(Connect(contact=contact))
        members = [contact.id for contact in message.members]
        for id_ in [id_ for id_, peer in self._peers.items() if not peer.up and id_ not in members]:
            del self._peers[id_]
            self._gone[id_] = None
            if len(self._gone) > GONE_MAX:
                self._gone.popitem(last=False)
            actions.append(Disconnect(peer=id_))
        return actions

    def expire(self, now_ms: int, number: int) -> list[ClientAction]:
        """Ask what is due; `number` is for the questions."""
        if self._static:
            return []
        asked: list[PeerId] = []
        for id_, peer in self._peers.items():
            if peer.trying_until_ms <= now_ms:
                peer.trying_until_ms = 0
            if self._is_pinged(id_, peer) and peer.next_ping_ms <= now_ms:
                asked.append(id_)
                was_usable = peer.usable
                peer.pings += 1
                peer.next_ping_ms = now_ms + (MEMBERS_MS if peer.silent else self._ask_ms)
                if was_usable and peer.silent:
                    self._change(id_, False, now_ms)
        if self.home is not None and self._refresh_ms <= now_ms:
            self._refresh_ms = now_ms + (MEMBERS_MS if self._listed else self._ask_ms)
            if self.home not in asked:
                asked.append(self.home)
        return [SayTo(peer=id_, message=AskMembers(mid=number)) for id_ in asked]

    def list_anew(self, now_ms: int) -> None:
        """Who there is has to be known as it is from now on: home is asked again."""
        self._listed = False
        self._refresh_ms = now_ms

    def need(self, id_: PeerId, more: int) -> None:
        """Something is expected of a peer, in so many more cases."""
        self._needs[id_] += more
        if not self._needs[id_]:
            del self._needs[id_]

    def needs(self) -> Counter[PeerId]:
        """A copy, for checks."""
        return Counter(self._needs)

    def check_invariants(self) -> None:
        assert all(count > 0 for count in self._needs.values())
        assert (self.home is None) == (not self.everybody())
        assert self.home is None or self.usable(self.home)
        assert (self.home is None) == (self._lost_ms is not None)
        assert not self.changed, "a change that nobody was told of"

    def _is_out_of_reach(self, peer: _Peer) -> bool:
        return not peer.usable and (peer.up or peer.leaving or not self._static)

    def _is_pinged(self, id_: PeerId, peer: _Peer) -> bool:
        return peer.silent or (peer.up and id_ in self._needs)

    def _hear(self, peer: _Peer, now_ms: int) -> None:
        peer.pings = 0
        peer.next_ping_ms = now_ms + self._ask_ms

    def _change(self, id_: PeerId, usable: bool, now_ms: int) -> None:
        self.changed.append((id_, usable))
        if self.home is not None and self.usable(self.home):
            return
        self.home = next(iter(self.everybody()), None)
        self._lost_ms = now_ms + LOST_MS if self.home is None else None
        self.list_anew(now_ms)
