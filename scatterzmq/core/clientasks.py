"""A client's open questions: each is sent until it is answered, whatever gets lost, and whoever goes.

Rules   1. A question keeps its number however often it is sent and wherever it moves; nothing else has this number.
        2. It is repeated to the same peer, ever more slowly. When that peer is not usable any more, whoever asks says
           where it goes next; with nobody to go to it stays and waits.
        3. An answer of the wrong kind is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

from ..ids import PeerId
from ..settings import TimingSettings
from .alarms import Alarms
from .clientevents import ClientAction, Deliver, SayTo
from .clientpeers import Peers
from .messages import (
    Accepted,
    AskDefinition,
    AskNamespaces,
    AskStats,
    AskTasks,
    CacheCleared,
    Cancel,
    Cancelled,
    Clear,
    ClearCache,
    Cleared,
    Definition,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    Namespaces,
    Refused,
    Stats,
    Submit,
    TaskReports,
)

REPEAT_MS_MAX = 5_000
Askable: TypeAlias = (
    LoadGraph | Submit | Clear | Cancel | AskTasks | AskNamespaces | AskDefinition | AskStats | ClearCache
)
Answer: TypeAlias = (
    GraphLoaded
    | GraphRefused
    | Accepted
    | Refused
    | Cleared
    | Cancelled
    | TaskReports
    | Namespaces
    | Definition
    | Stats
    | CacheCleared
)
_ANSWERS: Mapping[type[Any], tuple[type[Any], ...]] = MappingProxyType(
    {
        LoadGraph: (GraphLoaded, GraphRefused),
        Submit: (Accepted, Refused),
        Clear: (Cleared,),
        Cancel: (Cancelled,),
        AskTasks: (TaskReports,),
        AskNamespaces: (Namespaces,),
        AskDefinition: (Definition,),
        AskStats: (Stats,),
        ClearCache: (CacheCleared,),
    }
)


@dataclass(slots=True, eq=False)
class Ask:
    """peer: who is asked; None while there is nobody."""

    number: int
    errand: "Errand"
    message: Askable
    parcel: int
    peer: PeerId | None = None
    interval_ms: int = 0


class Errand(Protocol):
    """Somebody who asks."""

    def answered(self, ask: Ask, peer: PeerId, message: Answer, /) -> None:
        """The answer, or a part of it: then it is not closed yet."""
        ...

    def stranded(self, ask: Ask, /) -> None:
        """Its peer is not usable (any more): move it, or close it. Comes again with each peer that becomes usable."""
        ...


@dataclass(slots=True, eq=False)
class ClientState:
    """What the machines of one client share. now_ms: time of the event that is being handled."""

    timing: TimingSettings
    peers: Peers
    out: list[ClientAction] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)
    numbers: "count[int]" = field(default_factory=lambda: count(1))
    now_ms: int = 0


class Asks:
    """All open questions of one client."""

    def __init__(self, state: ClientState) -> None:
        self._state = state
        self._asks: dict[int, Ask] = {}
        self._ask_ms = max(int(state.timing.ask_s * 1000), 1)

    def send(self, errand: Errand, message: Askable, peer: PeerId | None, parcel: int = 0) -> Ask:
        """Ask a peer; None: the errand is stranded until there is one."""
        number = next(self._state.numbers)
        ask = Ask(number, errand, replace(message, mid=number), parcel)
        self._asks[number] = ask
        self.move(ask, peer)
        return ask

    def move(self, ask: Ask, peer: PeerId | None) -> None:
        """Ask somebody else from now on."""
        self._need(ask, -1)
        ask.peer = peer
        ask.interval_ms = self._ask_ms
        self._need(ask, 1)
        self._state.alarms.drop(ask.number)
        self._say(ask)

    def close(self, ask: Ask) -> None:
        """It is answered, or nobody wants to know any more."""
        del self._asks[ask.number]
        self._need(ask, -1)
        self._state.alarms.drop(ask.number)

    def is_open(self, number: int) -> bool:
        return number in self._asks

    def answered(self, peer: PeerId, message: Answer) -> None:
        ask = self._asks.get(message.mid)
        if ask is not None and isinstance(message, _ANSWERS[type(ask.message)]):
            ask.errand.answered(ask, peer, message)

    def expire(self, number: int) -> None:
        """Ask again, if this is the number of a question."""
        ask = self._asks.get(number)
        if ask is not None:
            ask.interval_ms = min(2 * ask.interval_ms, max(REPEAT_MS_MAX, self._ask_ms))
            self._say(ask)

    def peer_changed(self, peer: PeerId, usable: bool) -> None:
        """A peer has become usable, or is not any more. A new link starts empty, so what was asked is asked again."""
        for ask in list(self._asks.values()):
            if ask.peer == peer and usable:
                self._say(ask)
            elif ask.peer == peer or (ask.peer is None and usable):
                ask.errand.stranded(ask)

    def parcels(self) -> list[int]:
        """Those of all open questions."""
        return [ask.parcel for ask in self._asks.values() if ask.parcel]

    def deliver(self, message: Answer, mid: int) -> None:
        """Hand an answer to the user's side, under the number that it knows."""
        self._state.out.append(Deliver(message=replace(message, mid=mid)))

    def check_invariants(self) -> None:
        for number, ask in self._asks.items():
            assert ask.number == number
            assert (ask.peer is not None) == (number in self._state.alarms)
            assert ask.peer is None or self._state.peers.usable(ask.peer)

    def open(self) -> list[Ask]:
        """All open questions, for checks."""
        return list(self._asks.values())

    def _say(self, ask: Ask) -> None:
        if ask.peer is not None:
            self._state.out.append(SayTo(peer=ask.peer, message=ask.message, parcel=ask.parcel))
            self._state.alarms.set(ask.number, self._state.now_ms + ask.interval_ms)

    def _need(self, ask: Ask, more: int) -> None:
        if ask.peer is not None:
            self._state.peers.need(ask.peer, more)


class Question:
    """Anything that any peer can answer alone: asked at home."""

    def __init__(self, state: ClientState, asks: Asks, message: LoadGraph | AskNamespaces | AskDefinition) -> None:
        self._state = state
        self._asks = asks
        self._mid = message.mid
        asks.send(self, message, state.peers.home)

    def answered(self, ask: Ask, peer: PeerId, message: Answer) -> None:
        self._asks.close(ask)
        self._asks.deliver(message, self._mid)

    def stranded(self, ask: Ask) -> None:
        self._asks.move(ask, self._state.peers.home)
