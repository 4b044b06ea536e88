"""A circle: several peers' `Members`, joined by links that take a millisecond, under one clock.

After every call all invariants are checked. A timer must change something, and never fires early: one millisecond
before, it would change nothing.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scatterzmq.core.actions import Action, CloseLink, Dial, OpenLink, Publish, Report, Tell
from scatterzmq.core.members import Change, Members, Status
from scatterzmq.core.outbox import Outbox
from scatterzmq.core.peermessages import BetweenPeers, Contact
from scatterzmq.ids import PeerId
from scatterzmq.settings import Settings

LATENCY_MS = 1


def peer_id(number: int) -> PeerId:
    return PeerId(f"P{number + 1:032x}")


@dataclass(eq=False)
class One:
    """One peer. changes: (time, change). accepted: (time, sender, message) of what went through to other machines."""

    circle: "Circle"
    number: int
    id: PeerId
    incarnation: int
    settings: Settings
    address: str
    nonce: bytes
    static: bool = False
    links: dict[PeerId, str] = field(default_factory=dict)
    changes: list[tuple[int, Change]] = field(default_factory=list)
    reports: list[tuple[int, Report]] = field(default_factory=list)
    actions: list[tuple[int, Action]] = field(default_factory=list)
    accepted: list[tuple[int, PeerId, BetweenPeers]] = field(default_factory=list)
    asleep: list[Callable[[], None]] | None = None
    gone: bool = False

    def __post_init__(self) -> None:
        self.out = Outbox()
        self.contact = Contact(
            id=self.id, incarnation=self.incarnation, address=self.address, name=f"peer {self.number}"
        )
        self.members = Members(self.contact, self.nonce, self.settings, self.out, static=self.static)

    @property
    def now_ms(self) -> int:
        return self.circle.now_ms

    def status(self, number: int) -> Status | None:
        return self.members.status(self.circle.ones[number].id)

    def seen(self, number: int) -> None:
        self.do(lambda: self.members.seen(self.circle.ones[number].address, self.now_ms))

    def link_down(self, number: int, *, refused: bool) -> None:
        peer = self.circle.ones[number].id
        self.do(lambda: self.members.link_down(peer, self.now_ms, refused=refused))

    def receive(
        self, sender: PeerId, incarnation: int, message: BetweenPeers, to_incarnation: int | None = None
    ) -> bool:
        to = self.incarnation if to_incarnation is None else to_incarnation
        answer: list[bool] = []
        self.do(lambda: answer.append(self.members.received(sender, incarnation, to, message, self.now_ms)))
        if answer[0]:
            self.accepted.append((self.now_ms, sender, message))
        return answer[0]

    def do(self, call: Callable[[], Any]) -> list[Action]:
        call()
        self.members.check_invariants()
        self.changes += [(self.now_ms, change) for change in self.members.take_changes()]
        actions = list(self.out.take())
        for action in actions:
            self.actions.append((self.now_ms, action))
            self.perform(action)
        return actions

    def perform(self, action: Action) -> None:
        match action:
            case Tell(to=to, incarnation=incarnation, message=message):
                assert to in self.links, f"nothing can be told to {to}, there is no link"
                self.circle.send(self, self.links[to], incarnation, message)
            case Publish(message=message):
                for address in self.links.values():
                    self.circle.send(self, address, 0, message)
            case Dial(address=address, message=message):
                self.circle.send(self, address, 0, message)
            case OpenLink(contact=contact):
                self.links[contact.id] = contact.address
            case CloseLink(peer=peer):
                del self.links[peer]
            case Report():
                self.reports.append((self.now_ms, action))

    def timer(self) -> None:
        """Time for `expire`; and it was not before."""
        members, now_ms = self.members, self.now_ms
        due_ms = members.deadline_ms()
        if due_ms == now_ms and now_ms - 1 > self.circle.before_ms:
            members.expire(now_ms - 1)
            assert self.out.take() == (), "it changed something before its deadline"
            assert members.take_changes() == []
            assert members.deadline_ms() == due_ms
        self.do(lambda: members.expire(now_ms))
        assert members.deadline_ms() != due_ms, "a timer that changes nothing"

    def reported(self, name: str) -> list[dict[str, Any]]:
        return [dict(report.context) for _, report in self.reports if report.name == name]

    def became(self, number: int) -> list[tuple[int, Status]]:
        """When a peer became what."""
        peer = self.circle.ones[number].id
        return [(at, change.status) for at, change in self.changes if change.peer == peer]

    def said(self, kind: type[Any]) -> list[tuple[int, Any]]:
        """What it sent, of one kind, and when."""
        return [(at, action) for at, action in self.actions if isinstance(getattr(action, "message", action), kind)]


class Circle:
    """n peers that do not know each other yet (`meet` makes them). loss: part of all messages that get lost."""

    def __init__(self, n: int = 0, *, static: bool = False, seed: int = 0, **sections: Any) -> None:
        self.now_ms = self.before_ms = 0
        self.settings = Settings.of(sections)
        self.static = static
        self.chance = random.Random(seed)
        self.loss = 0.0
        self.jitter_ms = 0
        self.cuts: set[tuple[int, int]] = set()
        self.ones: list[One] = []
        self.everybody: list[One] = []
        self._packets: list[tuple[int, int, One, str, int, BetweenPeers]] = []
        self._seq = 0
        for _ in range(n):
            self.add()

    def add(self, **extra: Any) -> One:
        number = extra.pop("number", len(self.ones))
        given: dict[str, Any] = {
            "id": peer_id(number),
            "incarnation": 1,
            "address": f"mesh://{number}",
            "settings": self.settings,
            "nonce": len(self.everybody).to_bytes(16, "big"),
            "static": self.static,
        } | extra
        one = One(self, number, **given)
        self.everybody.append(one)
        if number == len(self.ones):
            self.ones.append(one)
        else:
            self.ones[number] = one
        one.do(lambda: one.members.awake(self.now_ms))
        return one

    def __getitem__(self, number: int) -> One:
        return self.ones[number]

    def meet(self) -> None:
        """Everybody sees the first."""
        for one in self.ones[1:]:
            one.seen(0)
        self.run(100)
        assert self.agree()

    def agree(self) -> bool:
        """Whether everybody that runs holds everybody else that runs to be alive, and nobody else."""
        here = [one for one in self.ones if not one.gone]
        return all(one.members.alive() == tuple(sorted(other.id for other in here if other is not one)) for one in here)

    # ---- trouble

    def cut(self, *pairs: tuple[int, int], both: bool = True) -> None:
        for src, dst in pairs:
            self.cuts.add((src, dst))
            if both:
                self.cuts.add((dst, src))

    def split(self, *groups: tuple[int, ...]) -> None:
        for group in groups:
            for other in groups:
                if other is not group:
                    self.cut(*((a, b) for a in group for b in other), both=False)

    def heal(self) -> None:
        self.cuts.clear()
        self.loss = 0.0

    def kill(self, number: int, *, refused: bool = True) -> None:
        one = self.ones[number]
        one.gone = True
        for other in self.ones:
            if refused and not other.gone and one.id in other.links:
                other.link_down(number, refused=True)

    def restart(self, number: int, **extra: Any) -> One:
        assert self.ones[number].gone
        return self.add(number=number, **extra)

    def sleep(self, number: int) -> None:
        """It is halted: messages wait, timers do not fire."""
        self.ones[number].asleep = []

    def wake(self, number: int) -> None:
        one = self.ones[number]
        waiting, one.asleep = one.asleep, None
        assert waiting is not None
        for receive in waiting:
            receive()

    # ---- time

    def send(self, src: One, address: str, to_incarnation: int, message: BetweenPeers) -> None:
        if self.loss and self.chance.random() < self.loss:
            return
        at = self.now_ms + LATENCY_MS + (self.chance.randrange(self.jitter_ms) if self.jitter_ms else 0)
        self._seq += 1
        heapq.heappush(self._packets, (at, self._seq, src, address, to_incarnation, message))

    def _deliver(self) -> None:
        _, _, src, address, to_incarnation, message = heapq.heappop(self._packets)
        for one in self.ones:
            if one.address == address and not one.gone and (src.number, one.number) not in self.cuts:

                def receive(one: One = one) -> None:
                    one.receive(src.id, src.incarnation, message, to_incarnation)

                if one.asleep is None:
                    receive()
                else:
                    one.asleep.append(receive)

    def run(self, ms: int) -> None:
        """Let time pass."""
        until = self.now_ms + ms
        while True:
            timers = [
                (due, one.number)
                for one in self.ones
                if not one.gone and one.asleep is None and (due := one.members.deadline_ms()) is not None
            ]
            due_ms, number = min(timers, default=(until + 1, 0))
            packet_ms = self._packets[0][0] if self._packets else until + 1
            at = min(max(due_ms, self.now_ms), packet_ms)
            if at > until:
                break
            if at > self.now_ms:
                self.before_ms, self.now_ms = self.now_ms, at
            if packet_ms <= due_ms:
                self._deliver()
            else:
                self.ones[number].timer()
        self.before_ms = self.now_ms = until
