"""A client's core on its own: events by hand, and everything that it asked for."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from scatterzmq.core.client import ClientCore
from scatterzmq.core.clientevents import (
    ClientAction,
    ClientEvent,
    Deliver,
    Heard,
    LetGo,
    PeerDown,
    PeerUp,
    Said,
    SayTo,
)
from scatterzmq.core.events import TimerFired
from scatterzmq.core.messages import (
    Accepted,
    Contact,
    Final,
    MemberList,
    Refused,
    Submit,
    TaskStatus,
    ToClient,
    ToPeer,
)
from scatterzmq.errors import ErrorCode
from scatterzmq.ids import PeerId, TaskId
from scatterzmq.settings import TimingSettings

T = TypeVar("T")
A, B, C = (PeerId("P" + letter * 32) for letter in "abc")
READY, ERROR, UNKNOWN = TaskStatus.READY, TaskStatus.ERROR, TaskStatus.UNKNOWN
PARCEL = 77


def tasks(*numbers: int) -> tuple[TaskId, ...]:
    return tuple([TaskId(f"T{number:032x}") for number in numbers])


def submit(mid: int, *numbers: int) -> Submit:
    ids = tasks(*numbers)
    return Submit(
        mid=mid, ns="n", digest=b"d" * 32, nonce=b"nonce..%d" % mid, ids=ids, submit_digests=(b"s" * 16,) * len(ids)
    )


def final(*ends: tuple[TaskId, TaskStatus]) -> Final:
    """How tasks ended, in one message."""
    count = len(ends)
    return Final(
        ids=tuple([task for task, _ in ends]),
        ns="n",
        statuses=tuple([status for _, status in ends]),
        errors=(None,) * count,
        retries=tuple(range(count)),
        durations_ms=tuple(range(10, 10 + count)),
    )


def contact(peer: PeerId, incarnation: int = 1) -> Contact:
    return Contact(id=peer, incarnation=incarnation, address=f"tcp://{peer[:3]}:{incarnation}")


class ClientWorld:
    """static: as for the core. ups: peers whose links are up from the start; all of them are members."""

    def __init__(self, *ups: PeerId, static: bool = True, now_ms: int = 1000, **timing: float) -> None:
        self.core = ClientCore(TimingSettings(**timing), static=static)
        self.now_ms = now_ms
        self.actions: list[ClientAction] = []
        self.core.check_invariants()
        for peer in ups:
            self.tell(PeerUp(peer=peer))
        if ups and not static:
            self.wait(0)
            self.members(ups[0], *ups)
        self.take()

    # ---- events

    def tell(self, event: ClientEvent) -> None:
        self.actions += self.core.handle(event, self.now_ms)
        self.core.check_invariants()

    def say(self, message: ToPeer, parcel: int = 0) -> None:
        self.tell(Said(message=message, parcel=parcel))

    def hear(self, peer: PeerId, message: ToClient, parcel: int = 0) -> None:
        self.tell(Heard(peer=peer, message=message, parcel=parcel))

    def up(self, peer: PeerId) -> None:
        self.tell(PeerUp(peer=peer))

    def down(self, peer: PeerId) -> None:
        self.tell(PeerDown(peer=peer))

    def members(self, peer: PeerId, *members: PeerId) -> None:
        """A peer says who there is."""
        self.hear(peer, MemberList(mid=0, members=tuple([contact(member) for member in members])))

    def accept(
        self, peer: PeerId, number: int, *ids: TaskId, rset: tuple[PeerId, ...] = (), durable: bool = False
    ) -> None:
        self.hear(peer, Accepted(mid=number, ids=ids, copies=max(len(rset), 1), durable=durable, rset=rset))

    def refuse(self, peer: PeerId, number: int, *ids: TaskId, message: str = "full") -> None:
        self.hear(peer, Refused(mid=number, ids=ids, code=ErrorCode.REFUSED, message=message))

    def accepted(
        self, peer: PeerId, *numbers: int, rset: tuple[PeerId, ...] = (), durable: bool = False
    ) -> tuple[TaskId, ...]:
        """Submit tasks to a peer, and have them accepted there. Home is where it was before."""
        home = self.core._state.peers.home
        if home is not None and home != peer:
            self.down(home)
        self.say(submit(1, *numbers))
        (said,) = self.said(Submit, peer)
        self.accept(peer, said.message.mid, *tasks(*numbers), rset=rset, durable=durable)
        if home is not None and home != peer:
            self.up(home)
            self.down(peer)
            self.up(peer)
        self.take()
        return tasks(*numbers)

    def wait(self, ms: int) -> None:
        """Let time pass, with every timer on the way."""
        until_ms = self.now_ms + ms
        while (deadline_ms := self.core.deadline_ms()) is not None and deadline_ms <= until_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            self.tell(TimerFired())
            assert self.core.deadline_ms() != deadline_ms, "a timer that changes nothing"
        self.now_ms = until_ms

    # ---- what it asked for

    def take(self) -> list[Any]:
        actions, self.actions = self.actions, []
        return actions

    def said(self, kind: type[Any], to: PeerId | None = None) -> list[Any]:
        """What was sent of this kind (to this peer); the rest is forgotten."""
        return [
            action
            for action in self.take()
            if isinstance(action, SayTo) and isinstance(action.message, kind) and to in (None, action.peer)
        ]

    def targets(self, kind: type[Any]) -> list[tuple[PeerId, tuple[TaskId, ...]]]:
        """To whom messages of this kind went, and about which tasks; the rest is forgotten."""
        return [(action.peer, action.message.ids) for action in self.said(kind)]

    def told(self) -> list[ToClient]:
        """What the user's side was told; the rest is forgotten."""
        return [action.message for action in self.take() if isinstance(action, Deliver)]

    def ends(self) -> dict[TaskId, TaskStatus]:
        """How tasks ended, as the user's side was told; the rest is forgotten."""
        found = [message for message in self.told() if isinstance(message, Final)]
        return {task: status for message in found for task, status in zip(message.ids, message.statuses, strict=True)}

    def let_go(self) -> list[int]:
        return [action.parcel for action in self.take() if isinstance(action, LetGo)]


def of(kind: Callable[..., T], actions: Iterable[Any]) -> list[T]:
    """Those of one kind."""
    return [action for action in actions if isinstance(action, kind)]  # type: ignore[arg-type]
