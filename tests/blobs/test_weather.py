"""Blobs in all weathers, by seeds: words are lost, doubled, late and damaged while holders die and others come.

Whatever happens, nobody ever has other bytes under a name and digest, every wait ends, and when the weather is good
again whoever asks gets each blob that somebody still has, of which there are as many copies then as there should be.
"""

from pathlib import Path
from random import Random

import pytest

from scatterzmq.core.blobmessages import PIECE_BYTES
from tests.blobs.blobworld import Flight, Peer, World, blob_id

COPIES = 2
BLOBS = {
    name: Random(name).randbytes(size) for name, size in {"a": 2 * PIECE_BYTES + 9, "b": 7, "c": PIECE_BYTES}.items()
}


class Weather:
    """Bad until it ends. struck: how often what happened."""

    def __init__(self, world: World, seed: int) -> None:
        self._chance = Random(seed)
        self._rates = {what: self._chance.choice((0.0, rate)) for what, rate in RATES.items()}
        self._slow_s = self._chance.choice((0.0, 0.05, 1.0))
        self.struck = dict.fromkeys(RATES, 0)
        world.tamper = self._tamper
        world.travel_s = lambda: 0.01 + self._chance.random() * self._slow_s

    def end(self) -> None:
        self._rates = dict.fromkeys(RATES, 0.0)
        self._slow_s = 0.0

    def _tamper(self, flight: Flight) -> list[Flight]:
        if self._strikes("lost"):
            return []
        if flight.data and self._strikes("damaged"):
            flight = Flight(sender=flight.sender, to=flight.to, word=flight.word, data=bytes(len(flight.data)))
        return [flight] * (1 + self._strikes("doubled"))

    def _strikes(self, what: str) -> bool:
        strikes = self._chance.random() < self._rates[what]
        self.struck[what] += strikes
        return strikes


RATES = {"lost": 0.25, "doubled": 0.25, "damaged": 0.05}


def there(world: World) -> list[Peer]:
    return [peer for peer in world.peers if peer.index not in world.cut]


def having(world: World, name: str) -> list[Peer]:
    """Who has it; nobody has other bytes of that name."""
    found = [peer for peer in world.peers if peer.blob(name) is not None]
    assert all(peer.blob(name) == BLOBS[name] for peer in found)
    return [peer for peer in found if peer.index not in world.cut]


def want(peer: Peer, name: str) -> list[str]:
    """As its nodes do: what has come is kept. Gets the outcome."""
    outcomes: list[str] = []
    blob = blob_id(name, BLOBS[name])

    def then(problem: str, _place: str) -> None:
        outcomes.append(problem)
        if not problem:
            peer.keeping.holds(blob)

    peer.exchange.want(blob, then)
    return outcomes


def through(world: World, seed: int) -> dict[str, int]:
    """One run; how often what struck."""
    chance = Random(f"{seed} lives")
    weather = Weather(world, seed)
    for _ in range(4):
        world.peer()
    asked: list[tuple[Peer, list[str]]] = []
    for name, data in BLOBS.items():
        home = chance.choice(world.peers)
        home.put(name, data)
        home.keeping.holds(blob_id(name, data))
    for _ in range(12):
        world.run(chance.expovariate(1.0))
        name = chance.choice(sorted(BLOBS))
        if chance.random() < 0.6:
            peer = chance.choice(there(world))
            asked.append((peer, want(peer, name)))
        elif chance.random() < 0.5 and len(there(world)) > 2:
            world.kill(chance.choice(having(world, name) or there(world)).index)  # most likely while it is asked
        else:
            world.peer()
        having(world, name)
    world.run(300.0)
    assert all(len(outcomes) == 1 for peer, outcomes in asked if peer.index not in world.cut), "every wait ends, once"
    weather.end()
    world.run(300.0)
    for name in BLOBS:
        if not having(world, name):
            continue  # all who had it died before anybody else did
        assert len(having(world, name)) >= COPIES
        last = [want(peer, name) for peer in there(world)]
        world.run(300.0)
        assert last == [[""]] * len(there(world))
    assert not any(peer.left_over() for peer in there(world))
    assert not any(peer.exchange._fetches for peer in there(world))
    return weather.struck


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_blobs_are_right_and_nobody_waits_for_ever(tmp_path: Path, seed: int) -> None:
    through(World(tmp_path), seed)
