"""The driver of a client's core: performs what it asks for, and tells it what happened.

Rules   1. One thread at a time is in here. Deliveries run callbacks of users, which may say more: that must be posted,
           and never come in from within.
        2. Nothing here decides anything: that is the core's.
"""

import time
from collections.abc import Callable, Mapping
from itertools import count
from math import inf
from types import MappingProxyType
from typing import Protocol, assert_never

from .core import clientevents
from .core.client import ClientCore
from .core.clientevents import (
    ClientEvent,
    Connect,
    Disconnect,
    GiveUp,
    Heard,
    LetGo,
    PeerDown,
    PeerUp,
    Said,
    SayTo,
)
from .core.events import TimerFired
from .core.messages import Contact, ToClient, ToPeer
from .driver import Deliver
from .ids import PeerId
from .wire.columns import Column, gather

NO_COLUMNS: Mapping[str, Column] = MappingProxyType({})


class PeerLinks(Protocol):
    """Links to peers. Nothing here waits, and whatever is sent may get lost."""

    def send(self, peer: PeerId, message: ToPeer, columns: Mapping[str, Column], /) -> None: ...

    def connect(self, contact: Contact, /) -> None: ...

    def disconnect(self, peer: PeerId, /) -> None: ...


class ClientDriver:
    """One client's driver. deliver, lost: as of client/link.py Inbox."""

    def __init__(
        self,
        core: ClientCore,
        deliver: Deliver,
        lost: Callable[[str], None],
        links: PeerLinks,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._deliver = deliver
        self._lost = lost
        self._links = links
        self._clock = clock
        self._parcels: dict[int, Mapping[str, Column]] = {0: NO_COLUMNS}
        self._numbers = count(1)

    def said(self, message: ToPeer, columns: Mapping[str, Column]) -> None:
        """The user's side says something."""
        self._handle(Said(message=message, parcel=self._keep(columns)))

    def heard(self, peer: PeerId, message: ToClient, columns: Mapping[str, Column]) -> None:
        """A peer said something."""
        parcel = self._keep(columns)
        self._handle(Heard(peer=peer, message=message, parcel=parcel))
        if parcel:
            del self._parcels[parcel]

    def link(self, peer: PeerId, *, up: bool) -> None:
        """A link was made, or broke, or could not be made."""
        self._handle(PeerUp(peer=peer) if up else PeerDown(peer=peer))

    def tick(self) -> None:
        """Do what is due by the clock."""
        deadline_ms = self._core.deadline_ms()
        if deadline_ms is not None and deadline_ms <= self._now_ms():
            self._handle(TimerFired())

    def due_s(self) -> float:
        """When something happens by itself, by the clock; inf for never."""
        deadline_ms = self._core.deadline_ms()
        return inf if deadline_ms is None else deadline_ms / 1000

    def _keep(self, columns: Mapping[str, Column]) -> int:
        if not columns:
            return 0
        parcel = next(self._numbers)
        self._parcels[parcel] = columns
        return parcel

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _handle(self, event: ClientEvent) -> None:
        for action in self._core.handle(event, self._now_ms()):
            match action:
                case SayTo(peer=peer, message=message, parcel=parcel):
                    self._links.send(peer, message, self._parcels[parcel])
                case clientevents.Deliver(message=answer, parcel=parcel, rows=rows):
                    self._deliver(answer, _rows(self._parcels[parcel], rows))
                case LetGo(parcel=parcel):
                    del self._parcels[parcel]
                case Connect(contact=contact):
                    self._links.connect(contact)
                case Disconnect(peer=peer):
                    self._links.disconnect(peer)
                case GiveUp(reason=reason):
                    self._lost(reason)
                case _:
                    assert_never(action)


def _rows(columns: Mapping[str, Column], rows: tuple[int, ...] | None) -> Mapping[str, Column]:
    if rows is None:
        return columns
    return {name: gather([(column, row) for row in rows]) for name, column in columns.items() if rows}
