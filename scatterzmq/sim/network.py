"""The network: what becomes of a message between two addresses.

Rules   1. A link keeps order and loses nothing, as TCP does, unless a fault says otherwise.
           So do requests of clients, always: their order is all that tells a late one from a new one.
        2. What is on its way when a link closes, or when the process at its end is another one, is lost; with
           "stale_queue" whoever is at the address gets it (ZMQ hands a queue to the next process on a port).
        3. Every message is real frames, made by the real codec.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..wire.frames import Frame
from ..wire.refusal import Limits
from .forge import forge

if TYPE_CHECKING:
    from .world import World

Frames: TypeAlias = Sequence[Frame]
Way: TypeAlias = tuple[str, str]
"""(from, to): addresses."""

DELAY_US = (100, 1501)
"""From ... to, and not quite so much."""
TAIL_US = 400_000
"""Mean of the tail of slow messages."""
FORGED = 0.7
"""Of the broken messages."""
LIMITS = Limits(total_bytes=1 << 20, body_bytes=1 << 18)
"""Smaller than real ones, so that what is too large is cheap to make."""


class Station(Protocol):
    """Whoever can be at an address."""

    address: str

    def arrive(self, frames: Frames) -> None: ...

    def broken(self, address: str, *, refused: bool) -> None:
        """A link to an address broke, or nobody is there."""
        ...


@dataclass(slots=True, eq=False)
class Link:
    """One direction. may_mix: it keeps no order when a fault says so. last_us: arrival of the last message.

    parked: on its way to an address where nobody is.
    """

    way: Way
    may_mix: bool = False
    is_open: bool = True
    resets: int = 0
    last_us: int = 0
    parked: list[Frames] = field(default_factory=list)


class Network:
    """All links, and what is wrong with them.

    counters: messages sent, delivered, lost (by cause).
    """

    def __init__(self, world: "World", seed: int, rates: dict[str, float]) -> None:
        self.rates = rates
        self.counters: Counter[str] = Counter()
        self.cuts: Counter[Way] = Counter()
        self.stations: dict[str, Station] = {}
        self.clogged: dict[Way, list[tuple[Link, Frames, Station | None, int]]] = {}
        self._world = world
        self._chance = Random(f"{seed}:net")
        self._dice = {kind: Random(f"{seed}:net:{kind}") for kind in ("loss", "dup", "delay", "reorder", "garbage")}
        self._links: dict[Way, list[Link]] = {}

    def link(self, source: str, target: str) -> Link:
        """A new link."""
        made = _link(source, target)
        self._links.setdefault(made.way, []).append(made)
        return made

    def close(self, link: Link) -> None:
        """What is still in its queue is lost."""
        if link.is_open:
            link.is_open = False
            self._links[link.way].remove(link)
            link.parked.clear()

    # ---- messages

    def send(self, link: Link, frames: Frames) -> None:
        """One message; it may arrive once, twice or never."""
        self.counters["sent"] += 1
        self._world.trace.frames(link.way, frames)
        if not self.rates:
            self._on_its_way(link, frames)
            return
        if self._happens("loss"):
            self.counters["lost"] += 1
            return
        self._on_its_way(link, frames)
        if link.may_mix and self._happens("dup"):
            self._on_its_way(link, frames)
        if self._happens("garbage"):
            dice = self._dice["garbage"]
            forged = forge(dice, frames, LIMITS) if dice.random() < FORGED else None
            self._on_its_way(link, forged or garble(dice, [bytes(frame) for frame in frames]))

    def _on_its_way(self, link: Link, frames: Frames) -> None:
        arrival_us = self._soon()
        if self._happens("delay"):
            arrival_us += int(self._dice["delay"].expovariate(1.0 / TAIL_US))
        if link.may_mix and self._happens("reorder"):
            arrival_us += self._dice["reorder"].randint(0, 50_000)
        else:
            arrival_us = max(arrival_us, link.last_us + 1)
            link.last_us = arrival_us
        target = self.stations.get(link.way[1])
        self._world.at(arrival_us, self._arrive, link, frames, target, link.resets)

    def _happens(self, kind: str) -> bool:
        rate = self.rates.get(kind, 0.0)
        if rate and self._dice[kind].random() < rate:
            self._world.fired[kind] += 1
            return True
        return False

    def _arrive(self, link: Link, frames: Frames, target: Station | None, resets: int) -> None:
        way = link.way
        if not link.is_open or resets != link.resets or self.cuts[way]:
            self.counters["lost"] += 1
            return
        if way in self.clogged:
            self.clogged[way].append((link, frames, target, resets))
            return
        station = self.stations.get(way[1])
        if station is not None and (station is target or self._hands_over()):
            self.counters["delivered"] += 1
            station.arrive(frames)
        elif station is None and self._hands_over():
            link.parked.append(frames)
        else:
            self.counters["lost"] += 1

    def _hands_over(self) -> bool:
        if "stale_queue" in self.rates:
            self._world.fired["stale_queue"] += 1
            return True
        return False

    # ---- stations

    def settle(self, station: Station) -> None:
        """Somebody is at an address from now on."""
        assert station.address not in self.stations
        self.stations[station.address] = station
        for link in self._to(station.address):
            parked, link.parked = link.parked, []
            for frames in parked:
                self._on_its_way(link, frames)

    def vanish(self, station: Station) -> None:
        """Somebody is gone. Those with a link there notice, unless they are cut off."""
        del self.stations[station.address]
        for link in [link for way in self._links for link in self._links[way] if way[0] == station.address]:
            self.close(link)
        for link in self._to(station.address):
            link.last_us = 0
            self._notify(link)

    def reset(self, left: str, right: str) -> None:
        """The connection of two breaks; both notice."""
        for way in ((left, right), (right, left)):
            for link in self._links.get(way, ()):
                link.resets += 1
                link.parked.clear()
                self._world.at(self._soon(), self._broken, way, False)

    def dial(self, source: str, target: str, frames: Frames) -> None:
        """A message to whoever is at an address; a caller hears if nobody is."""
        link = _link(source, target)
        if target not in self.stations and not self._deaf((source, target)):
            self._world.at(self._soon(), self._broken, link.way, True)
        else:
            self.send(link, frames)

    def _to(self, address: str) -> list[Link]:
        return [link for way in self._links if way[1] == address for link in self._links[way]]

    def _notify(self, link: Link) -> None:
        self._world.at(self._soon(), self._broken, link.way, False)
        self._world.at(self._soon() + self._chance.randint(50_000, 300_000), self._broken, link.way, True)

    def _broken(self, way: Way, refused: bool) -> None:
        source, target = way
        station = self.stations.get(source)
        if station is not None and not self._deaf(way) and not (refused and target in self.stations):
            station.broken(target, refused=refused)

    def is_through(self, source: str, target: str) -> bool:
        """Whether what one says reaches the other."""
        return not self._deaf((source, target))

    def _deaf(self, way: Way) -> bool:
        """Cut off, whichever way: then nobody can tell death from silence."""
        return bool(self.cuts[way] or self.cuts[way[1], way[0]] or way in self.clogged)

    def _soon(self) -> int:
        return self._world.now_us + self._chance.randrange(*DELAY_US)

    # ---- what is wrong with ways

    def cut(self, source: str, target: str) -> None:
        self.cuts[source, target] += 1

    def heal(self, source: str, target: str) -> None:
        if self.cuts[source, target]:
            self.cuts[source, target] -= 1

    def clog(self, source: str, target: str) -> None:
        """Hold everything back."""
        self.clogged.setdefault((source, target), [])

    def unclog(self, source: str, target: str) -> None:
        for link, frames, target_station, resets in self.clogged.pop((source, target), []):
            self._world.at(self._world.now_us, self._arrive, link, frames, target_station, resets)

    def heal_all(self) -> None:
        self.cuts.clear()
        for way in list(self.clogged):
            self.unclog(*way)


def _link(source: str, target: str) -> Link:
    """Requests of clients keep their order: a client repeats them itself, and says what it regrets after them."""
    return Link((source, target), may_mix=source.startswith("peer"))


def garble(chance: Random, frames: list[bytes]) -> list[bytes]:
    """Frames that are no message any more (or, rarely, still the same one)."""
    at = chance.randrange(len(frames))
    match chance.randrange(5):
        case 0:
            return frames[:-1]
        case 1:
            return [*frames, b""]
        case 2:
            frames[at] = frames[at][: chance.randrange(len(frames[at]) + 1)]
        case 3:
            frames[at] = frames[at] + bytes([chance.randrange(256)])
        case _:
            frames[0] = bytes([chance.randrange(256) for _ in range(chance.randrange(40))])
    return frames
