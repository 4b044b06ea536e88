"""Members: who else is there, in which of its lives, and whether it can be relied on.

Purpose   Greets peers that are seen, refuses strangers, and says who may get work and copies.
Rules     1. Discovery only ever says `seen`; a member is whoever has greeted and been greeted.
          2. Nothing but greetings is accepted from anybody who is no member, from another life of a member, or for
             another life of ours. Of two lives of one id the one with the higher incarnation is the living one.
          3. Silence makes a suspect, and so does a member that says it misses us. A suspect that is heard is alive.
          4. Silence alone kills nobody: another living member must miss it, too. Where there is none to be asked, dials
             without an answer must do. Nobody listening at its address kills at once. What others say never kills
             who is heard here.
          5. Who was dead and is back is compared with (`Change.heal`); who has left never comes back in that life.
Why       Members may be wrong about each other, and differently so: what must not go wrong is fenced by epochs and
          tokens elsewhere. Here it is about soon and seldom: soon without the dead, seldom without the living.
"""

from collections.abc import Mapping

from ..ids import PeerId
from ..settings import Settings
from .actions import CloseLink, Dial, OpenLink
from .dials import Dials
from .greetings import Greetings, Refusal
from .member import Change, Hearsay, Member, Pulse, Status, hearsay, heartbeat
from .outbox import Outbox
from .partners import Partners
from .peermessages import BetweenPeers, Bye, Contact, Heartbeat, Hello, Unwelcome, Welcome, WrongIncarnation
from .punctual import Punctual
from .values import Value

__all__ = ["Change", "Members", "Pulse", "Status"]

ALONE_MS = 30_000
"""A peer that has found nobody for so long says so."""
ELECTED_AFTER_MS = 3_000
"""A peer that has found nobody for so long may be the only one."""
WARN_EVERY_MS = 60_000
"""Warnings of one kind are reported once within this time."""
INTRODUCE_EVERY = 10
"""Heartbeats between two introductions: each tells one member of all others, in case it missed somebody's greeting."""
GONE_MAX = 1024
"""Members that are gone are remembered, so many of them."""


class Members:
    """All members that one peer knows, without itself.

    me: contact of this peer. nonce: drawn at boot. static: nobody ever fails (peers in one process), so there are no
    heartbeats and no timers; it is only believed who says so. linked_count: how many hear what is published.
    changes: what has changed, in order, until it is taken. clock: knows when this peer was halted.
    """

    def __init__(self, me: Contact, nonce: bytes, settings: Settings, out: Outbox, *, static: bool = False) -> None:
        timing = settings.timing
        self.me = me
        self.counters = {"dropped": 0, "refused": 0}
        self._out = out
        self._static = static
        self._greetings = Greetings(me, nonce, settings.cluster)
        self._peers_max = settings.cluster.peers_max
        self._beat_every_ms = int(timing.heartbeat_s * 1000)
        self._suspect_ms = int(timing.suspect_s * 1000)
        self._dead_ms = int(timing.dead_s * 1000)
        self._grace_ms = int(timing.grace_s * 1000)
        self._ask_ms = int(timing.ask_s * 1000)
        self._here: dict[PeerId, Member] = {}
        self._gone: dict[PeerId, Member] = {}
        self._dials = Dials(self._ask_ms, 2 * self._peers_max)
        self.clock = Punctual(self._beat_every_ms, int(timing.pause_s * 1000))
        self.changes: list[Change] = []
        self._partners = Partners(me)
        self._warned: dict[str, int] = {}
        self._booted_ms: int | None = None
        self.linked_count = 0
        self._beat_ms: int | None = None
        self._beats = 0
        self._alone_ms: int | None = None
        self._has_left = False
        self._next_ms: int | None = None
        self._next_of: Member | None = None
        self._is_next_known = True

    # ---- questions

    def alive(self) -> tuple[PeerId, ...]:
        """Members that may get work and copies, in order of their ids."""
        return tuple(sorted([peer for peer, member in self._here.items() if member.status is Status.ALIVE]))

    def is_alive(self, peer: PeerId) -> bool:
        member = self._here.get(peer)
        return member is not None and member.status is Status.ALIVE

    def is_heard(self, peer: PeerId) -> bool:
        """Whether a member is there now, on probation or not: enough for what costs a lease at most if it fails."""
        member = self._here.get(peer)
        return member is not None and member.is_heard

    def status(self, peer: PeerId) -> Status | None:
        """None for somebody who never was a member."""
        member = self._find(peer)
        return None if member is None else member.status

    def incarnation(self, peer: PeerId) -> int:
        """Which life of a member is known; 0 for somebody who never was one."""
        member = self._find(peer)
        return 0 if member is None else member.contact.incarnation

    def partners(self, turn: int = 0) -> tuple[PeerId, ...]:
        """Members that should hold copies for this peer, the preferred first; others follow in case these fail.

        turn: a number that changes from batch to batch spreads them over a small group.
        """
        able = tuple([self._here[peer].contact for peer in self.alive() if not self._here[peer].leaving])
        return self._partners.ranked(able, turn)

    def keeps_copies(self, peer: PeerId) -> bool:
        """Whether what a member holds still counts: until it is gone, or has said that it goes."""
        member = self._here.get(peer)
        return member is not None and member.is_linked and not member.leaving

    def leaves(self, peer: PeerId) -> None:
        """A member has just said that it is about to leave: it gets no more copies."""
        self._here[peer].leaving = True

    def contacts(self) -> tuple[Contact, ...]:
        """This peer and everybody that is alive or suspect."""
        return (self.me, *[member.contact for member in self._linked()])

    def suspects(self) -> tuple[PeerId, ...]:
        """Those of them that are suspects."""
        return tuple([member.contact.id for member in self._linked() if member.status is Status.SUSPECT])

    def may_elect(self, now_ms: int) -> bool:
        """Whether this peer has looked around long enough to say who is responsible for something."""
        return self._static or self._beat_ms is not None or self._is_settled(now_ms)

    def may_lack_some(self, now_ms: int) -> bool:
        """Whether members may be there that are not linked: whom it has met already may have just started, too.
        O(members that are gone).
        """
        others, since_ms = (*self._here.values(), *self._gone.values()), now_ms - self._grace_ms
        is_early = not (self._static or self._is_settled(now_ms)) or self._dials.any_named(since_ms)
        return is_early or any(one.may_be_there(since_ms) for one in others)

    def _is_settled(self, now_ms: int) -> bool:
        return self._booted_ms is not None and now_ms - self._booted_ms >= ELECTED_AFTER_MS

    # ---- talking

    def tell(self, peer: PeerId, message: BetweenPeers, values: Mapping[str, tuple[Value, ...]] | None = None) -> None:
        """Send to a member; nothing happens if it is gone."""
        member = self._here.get(peer)
        if member is not None and member.is_linked:
            self._out.tell(peer, member.contact.incarnation, message, values)

    def contact(self, peer: PeerId) -> Contact | None:
        """How a member is reached, or was."""
        member = self._find(peer)
        return None if member is None else member.contact

    def expect(self, contact: Contact) -> None:
        """This was a member of ours in an earlier life. It is dead only `grace_s` after this one began."""
        if contact.id != self.me.id and self._find(contact.id) is None:
            self._here[contact.id] = Member(contact, returns=True)
            self._want(contact.address, 0)

    def seen(self, address: str, now_ms: int) -> None:
        """Discovery has seen somebody."""
        self.awake(now_ms)
        if address not in ("", self.me.address) and not self._has_left:
            self._want(address, now_ms)
            self._dials.name(address, now_ms)
            self._dial(now_ms)

    def received(
        self, sender: PeerId, incarnation: int, to_incarnation: int, message: BetweenPeers, now_ms: int
    ) -> bool:
        """Take a message in. True if it is for the other machines, and acceptable."""
        self.awake(now_ms)
        if self._has_left:
            return False
        is_ours = to_incarnation in (0, self.me.incarnation)
        member = self._find(sender)
        is_known = member is not None and member.is_linked and member.contact.incarnation == incarnation
        if isinstance(message, Hello | Welcome):
            if is_ours and (message.me.id, message.me.incarnation) == (sender, incarnation):
                self._greeted(message, member, now_ms)
            else:
                self.counters["dropped"] += 1
            return False
        if isinstance(message, Unwelcome):
            self._warn("unwelcome", "warning.peer.unwelcome", now_ms, peer=sender, reason=message.reason)
            if is_known and member is not None and not member.misses_us:
                self._doubt(member, "it has refused this peer", now_ms, misses_us=True)
            return False
        if member is None or not is_known:
            self.counters["dropped"] += 1
            if member is not None and incarnation >= member.contact.incarnation and member.status is not Status.LEFT:
                self._greet(member, now_ms)  # it counts on us, and does not know how it stands here
            return False
        return self._from_member(member, message, now_ms, is_ours=is_ours)

    def link_down(self, peer: PeerId, now_ms: int, *, refused: bool) -> None:
        """A link broke."""
        self.awake(now_ms)
        member = self._here.get(peer)
        if member is None or not member.is_linked or self._has_left:
            return
        if refused:
            self._bury(member, "nobody listens at its address", now_ms)
        else:
            self._greet(member, now_ms)

    def leave(self) -> None:
        """Say goodbye. From now on nobody is greeted and nothing is accepted."""
        self._out.publish(Bye())
        self._has_left = True
        self._is_next_known = False

    # ---- time

    def awake(self, now_ms: int) -> None:
        """To be called first whenever this peer runs: whatever it slept through is nobody's silence."""
        if now_ms == self.clock.last_ms and self._booted_ms is not None:
            return  # it has just been called
        if self._booted_ms is None:
            self._booted_ms = now_ms
            self._begin_alone(now_ms)
            self._is_next_known = False
        if self._beat_ms is None:
            self.clock.last_ms = now_ms
            return
        slept_ms = self.clock.slept_ms(now_ms, self._beat_ms)
        if slept_ms:
            for member in self._here.values():
                member.heard_ms = min(now_ms, member.heard_ms + slept_ms)
            self._is_next_known = False

    def take_pause_ms(self) -> int:
        """For how long this peer was halted (more than `pause_s`) since the last call, 0 if it was not: others may
        hold it to be dead, and own its tasks."""
        return self.clock.take_pause_ms()

    def expire(self, now_ms: int, pulse: Pulse | None = None) -> None:
        """Do what is due. pulse: what a heartbeat says beside what is known here."""
        self.awake(now_ms)
        if self._static or self._has_left:
            return
        self._is_next_known = False
        self._review(now_ms)
        if self._beat_ms is not None and self._beat_ms <= now_ms:
            self.clock.beaten(now_ms - self._beat_ms)
            self._beat_ms = now_ms + self._beat_every_ms
            self._beat(pulse or Pulse(), now_ms)
        if self._alone_ms is not None and self._alone_ms <= now_ms:
            self._alone_ms = None
            self._out.report("warning.peer.alone", seconds=ALONE_MS // 1000)
        self._dial(now_ms)

    def deadline_ms(self) -> int | None:
        if not self._is_next_known:
            self._next_ms, self._next_of = self._find_next()
            self._is_next_known = True
        return self._next_ms

    def take_changes(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes, self.changes = self.changes, []
        return changes

    def check_invariants(self) -> None:
        assert self._find(self.me.id) is None, "a peer is no member of its own view"
        assert self.me.address not in self._dials, "a peer dials itself"
        assert not self._here.keys() & self._gone.keys()
        assert len(self._gone) <= GONE_MAX
        linked = self._linked()
        assert len(linked) == self.linked_count < self._peers_max
        assert (self._beat_ms is not None) == bool(linked and not self._static)
        for member in [*self._here.values(), *self._gone.values()]:
            assert self._find(member.id) is member
            assert (member.id in self._gone) == (member.status in (Status.DEAD, Status.LEFT))
            member.check_invariants()
        self._dials.check_invariants()
        self.clock.check_invariants()
        if self._is_next_known:
            assert self._next_ms == self._find_next()[0], "the deadline is not that of what is to be done"

    # ---- greetings

    def _greeted(self, message: Hello | Welcome, member: Member | None, now_ms: int) -> None:
        contact = message.me
        is_over = member is not None and (
            contact.incarnation < member.contact.incarnation
            or (contact.incarnation == member.contact.incarnation and member.status is Status.LEFT)
        )
        if is_over or self._greetings.is_own(message):
            self.counters["dropped"] += 1
            return
        others = self.linked_count - (member is not None and member.is_linked)
        refusal = self._greetings.refusal(message, member, others)
        if refusal is not None:
            self._refuse(contact, refusal, now_ms)
            return
        is_new = self._accept(message, member, now_ms)
        if isinstance(message, Hello):
            self.tell(contact.id, self._welcome(contact.id, ()))
            return
        for told in message.members:
            self._told_of(told, now_ms)
        self._dial(now_ms)
        if is_new:
            welcome = self._welcome(contact.id, message.members)
            if welcome.members:  # groups that started apart meet here
                self.tell(contact.id, welcome)

    def _refuse(self, contact: Contact, refusal: Refusal, now_ms: int) -> None:
        self.counters["refused"] += 1
        who = {"peer": contact.id, "address": contact.address}
        self._warn(refusal.kind, "warning.peer.refused", now_ms, **who, reason=refusal.reason)
        if contact.address not in ("", self.me.address):
            self._out.work(Dial(address=contact.address, message=Unwelcome(reason=refusal.reason)))

    def _accept(self, message: Hello | Welcome, member: Member | None, now_ms: int) -> bool:
        """Whoever has greeted is a member. True: it was none until now, or not in this life."""
        contact = message.me
        for other in self._linked():
            if other is not member and other.address == contact.address != "":
                self._bury(other, f"{contact.id} has its address now", now_ms)
        if member is not None and member.is_linked and contact.incarnation == member.contact.incarnation:
            if contact.address != member.address:
                self._dials.drop(member.address)
                self._out.link(OpenLink(contact=contact))
            member.contact = contact
            if isinstance(message, Welcome):
                member.misses_us = False  # it has answered
            self._heard(member, now_ms)
            self._settle(member, now_ms)
            return False
        if member is None:
            member = Member(contact)
        elif contact.incarnation > member.contact.incarnation:
            if member.id in self._here:
                self._bury(member, f"it lives again, as {contact.incarnation}", now_ms)
            self._vacated(member.address, now_ms)
        member.begin(contact, message.nonce, now_ms)
        self._gone.pop(contact.id, None)
        self._here[contact.id] = member
        self._dials.drop(contact.address)
        self._out.link(OpenLink(contact=contact))
        self._out.report("peer.join", peer=contact.id, peer_name=contact.name, address=contact.address)
        self._settle(member, now_ms)
        return True

    def _welcome(self, peer: PeerId, told: tuple[Contact, ...]) -> Welcome:
        """With all members but the one it is for, and those that it has told of itself."""
        known = {contact.id: contact.incarnation for contact in told}
        others = [member.contact for member in self._linked() if member.id != peer]
        return self._greetings.welcome(
            tuple([contact for contact in others if known.get(contact.id, -1) < contact.incarnation])
        )

    def _told_of(self, contact: Contact, now_ms: int) -> None:
        """A member says that there is another one."""
        known = self._find(contact.id)
        if contact.id == self.me.id:
            return
        if known is not None:
            if contact.incarnation < known.contact.incarnation:
                return
            is_settled = known.is_linked or known.status is Status.LEFT
            if contact.incarnation == known.contact.incarnation and is_settled:
                return
        self._want(contact.address, now_ms)

    def _greet(self, member: Member, now_ms: int) -> None:
        """Ask a member for a sign of life, or to be greeted anew, and not over the link that there may be."""
        self._want(member.address, now_ms, member)
        self._dial(now_ms)

    def _want(self, address: str, now_ms: int, member: Member | None = None) -> None:
        if address in ("", self.me.address):
            return
        others = [other for other in self._here.values() if other is not member]
        if any(other.is_linked and other.address == address for other in others):
            return
        if self._static:
            self._out.work(Dial(address=address, message=self._greetings.hello()))
        else:
            self._dials.want(address, now_ms)
            self._is_next_known = False

    def _vacated(self, address: str, now_ms: int) -> None:
        """A member is not there any more; somebody else may be, where discovery has named the address."""
        self._dials.drop(address)
        if self._dials.is_named(address) and not self._static:
            self._want(address, now_ms + self._ask_ms)

    def _dial(self, now_ms: int) -> None:
        for address in self._dials.take_due(now_ms):
            self._out.work(Dial(address=address, message=self._greetings.hello()))
            self._is_next_known = False

    # ---- signs of life

    def _from_member(self, member: Member, message: BetweenPeers, now_ms: int, *, is_ours: bool) -> bool:
        if isinstance(message, Heartbeat):
            if message.seq <= member.beat:
                self.counters["dropped"] += 1
                return False  # an old one says nothing about now
            member.beat = message.seq
        self._heard(member, now_ms)
        match message:
            case WrongIncarnation():
                self._greet(member, now_ms)
                return False
            case _ if not is_ours:
                self.counters["dropped"] += 1
                self.tell(member.id, WrongIncarnation())
                return False
            case Bye():
                self._end(member, Status.LEFT, now_ms)
                self._vacated(member.address, now_ms)
                self._out.report("peer.leave", peer=member.id, peer_name=member.contact.name)
                return False
            case Heartbeat():
                self._heartbeat(member, message, now_ms)
        return True

    def _heard(self, member: Member, now_ms: int) -> None:
        member.heard_ms = now_ms
        if member is self._next_of:
            self._is_next_known = False
        if member.silent:
            member.silent = False
            self._settle(member, now_ms)
        if member.address in self._dials and not member.misses_us:
            self._dials.drop(member.address)
            self._is_next_known = False

    def _heartbeat(self, member: Member, message: Heartbeat, now_ms: int) -> None:
        missing = frozenset(message.missing)
        dead = dict(zip(message.dead, message.dead_incarnations, strict=False))
        if (missing, dead) != (member.missing, member.dead):
            member.missing, member.dead = missing, dead
            self._is_next_known = False
        misses_us = self.me.id in missing or dead.get(self.me.id) == self.me.incarnation
        if misses_us and not member.misses_us:
            self._doubt(member, "it does not hear this peer", now_ms, misses_us=True)
        elif member.misses_us and not misses_us:
            member.misses_us = False
            self._settle(member, now_ms)

    # ---- judgement

    def _hearsay(self) -> Hearsay:
        return hearsay([member for member in self._here.values() if member.status is Status.ALIVE])

    def _review(self, now_ms: int) -> None:
        """Judge everybody whose time has come. O(members)."""
        said = self._hearsay()
        for member in list(self._here.values()):
            due_ms = self._due_ms(member, said)
            if due_ms is None or due_ms > now_ms or member.silent:
                continue
            if member.status is Status.UNKNOWN:
                self._bury(member, "not seen since this peer started", now_ms)
            elif self._suspect_at(member, said) <= now_ms:
                self._doubt(member, "it is silent", now_ms, silent=True)
            else:
                self._settle(member, now_ms)  # its probation is over
        said = self._hearsay()
        for member in [member for member in self._here.values() if member.silent]:
            due_ms = self._due_ms(member, said)
            if due_ms is not None and due_ms <= now_ms:
                reason = "others miss it, too" if said.witnesses(member) else "it does not answer"
                self._bury(member, f"it is silent, and {reason}", now_ms)

    def _due_ms(self, member: Member, said: Hearsay) -> int | None:
        """When this member is to be judged, if nothing else happens."""
        if member.status is Status.UNKNOWN:
            return None if self._booted_ms is None else self._booted_ms + self._grace_ms
        if not member.silent:
            suspect_at = self._suspect_at(member, said)
            return suspect_at if member.trial_end_ms is None else min(suspect_at, member.trial_end_ms)
        dead_at = member.heard_ms + self._dead_ms * self.clock.factor
        if said.witnesses(member):
            return dead_at
        failed_ms = self._dials.failed_ms(member.address)
        return None if said.anyone or failed_ms is None else max(dead_at, failed_ms)

    def _suspect_at(self, member: Member, said: Hearsay) -> int:
        # Whom others hold to be dead has until its next heartbeat, or a little longer.
        patience_ms = min(self._suspect_ms, 3 * self._beat_every_ms // 2) if said.accuses(member) else self._suspect_ms
        return member.heard_ms + patience_ms * self.clock.factor

    def _doubt(
        self, member: Member, reason: str, now_ms: int, *, silent: bool = False, misses_us: bool = False
    ) -> None:
        member.silent |= silent
        member.misses_us |= misses_us
        self._settle(member, now_ms, reason)
        self._greet(member, now_ms)

    def _settle(self, member: Member, now_ms: int, reason: str = "it comes and goes") -> None:
        """Let a member be what it deserves to be."""
        self._is_next_known = False
        trial_ms = member.trial_ms
        status = member.deserved(now_ms)
        if member.trial_ms > trial_ms:
            self._out.report("warning.peer.flapping", peer=member.id, seconds=member.trial_ms // 1000)
        if status is member.status:
            return
        if status is Status.SUSPECT:
            silent_ms = now_ms - member.heard_ms
            self._out.report(
                "peer.suspect", peer=member.id, peer_name=member.contact.name, reason=reason, silent_ms=silent_ms
            )
        elif member.status is Status.SUSPECT:
            self._out.report("peer.alive", peer=member.id, peer_name=member.contact.name)
        self._turn(member, status, now_ms)

    def _bury(self, member: Member, reason: str, now_ms: int) -> None:
        silent_ms = now_ms - member.heard_ms
        self._out.report("peer.dead", peer=member.id, peer_name=member.contact.name, reason=reason, silent_ms=silent_ms)
        self._end(member, Status.DEAD, now_ms)
        if member.address not in self._dials and not self._static:
            self._want(member.address, now_ms + self._ask_ms)

    def _end(self, member: Member, status: Status, now_ms: int) -> None:
        if member.is_linked:
            self._out.link(CloseLink(peer=member.id))
        member.returns = True
        del self._here[member.id]
        self._gone[member.id] = member
        if len(self._gone) > GONE_MAX:
            del self._gone[next(iter(self._gone))]
        self._turn(member, status, now_ms)

    def _turn(self, member: Member, status: Status, now_ms: int) -> None:
        member.turn(status, now_ms)
        heal = member.returns and status is Status.ALIVE
        if heal:
            member.returns = False
        self.changes.append(Change(member.id, status, member.contact.incarnation, heal))
        self._count(now_ms)

    def _count(self, now_ms: int) -> None:
        """Heartbeats are for members; without any, this peer is alone."""
        self._is_next_known = False
        self.linked_count = sum([member.is_linked for member in self._here.values()])
        if self.linked_count and self._beat_ms is None and not self._static:
            self._beat_ms, self._alone_ms = now_ms, None
        elif self._beat_ms is not None and not self.linked_count:
            self._beat_ms = None
            self._begin_alone(now_ms)

    def _begin_alone(self, now_ms: int) -> None:
        # Whom nobody can reach is alone on purpose.
        self._alone_ms = now_ms + ALONE_MS if self.me.address and not self._static else None

    # ---- what is due

    def _beat(self, pulse: Pulse, now_ms: int) -> None:
        self._beats += 1
        died = [member for _, member in sorted(self._gone.items()) if member.died_lately(now_ms)]
        linked = self._linked()
        self._out.publish(heartbeat(self._beats, pulse, linked, died))
        turn, rest = divmod(self._beats, INTRODUCE_EVERY)
        if rest == 0 and len(linked) > 1:
            peer = linked[turn % len(linked)].id
            self.tell(peer, self._welcome(peer, ()))

    def _find_next(self) -> tuple[int | None, Member | None]:
        """The next deadline, and the member that it is about, if it is. O(members)."""
        if self._static or self._has_left:
            return None, None
        times = [self._dials.deadline_ms(), self._beat_ms, self._alone_ms]
        next_ms = min([time for time in times if time is not None], default=None)
        next_of = None
        said = self._hearsay()
        for member in self._here.values():
            due_ms = self._due_ms(member, said)
            if due_ms is not None and (next_ms is None or due_ms < next_ms):
                next_ms, next_of = due_ms, member
        return next_ms, next_of

    # ---- looking

    def _find(self, peer: PeerId) -> Member | None:
        return self._here.get(peer) or self._gone.get(peer)

    def _linked(self) -> list[Member]:
        """Alive or suspect, in order of their ids."""
        return [member for _, member in sorted(self._here.items()) if member.is_linked]

    def _warn(self, kind: str, name: str, now_ms: int, **context: str) -> None:
        """Report, but each kind only now and then."""
        if now_ms - self._warned.get(kind, -WARN_EVERY_MS) >= WARN_EVERY_MS:
            self._warned[kind] = now_ms
            self._out.report(name, **context)
