"""Peers and a client that exchange blobs in virtual time, over a network that does what a test wants of it."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import TypeAlias, TypeVar

from scatterzmq.blobs.arrivals import Arrivals
from scatterzmq.blobs.exchange import Exchange
from scatterzmq.blobs.files import ARRIVING, BlobFiles
from scatterzmq.blobs.keeping import Keeping
from scatterzmq.blobs.names import Meaning, Names
from scatterzmq.blobs.outside import Failed, beside, bytes_beside
from scatterzmq.blobs.service import hand_on
from scatterzmq.core.blobkeepers import BlobKeepers
from scatterzmq.core.blobmessages import (
    DIGEST_BYTES,
    PIECE_BYTES,
    BlobBetweenPeers,
    BlobId,
    BlobWord,
    BlobWritten,
    WriteBlob,
)
from scatterzmq.errors import BlobError
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import decode, encode
from scatterzmq.wire.refusal import Limits

T = TypeVar("T")
CLIENT = ClientId("C" + "c" * 32)
TRAVEL_S = 0.01
LONG = random.Random(7).randbytes(6 * PIECE_BYTES + 12345)


def blob_id(name: str, data: bytes) -> BlobId:
    return BlobId(name=name, digest=blake2b(data, digest_size=DIGEST_BYTES).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A word on its way. sender: index of the peer."""

    sender: int
    to: int
    word: BlobWord
    data: bytes | None = None

    def changed(self, **fields: object) -> "Flight":
        """With other fields in the word."""
        return replace(self, word=replace(self.word, **fields))  # type: ignore[arg-type]


Tamper: TypeAlias = Callable[[Flight], list[Flight]]


class Alarm:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class World:
    """All peers, linked with each other unless they are in `cut`. tamper: what becomes of a word between peers.
    travel_s: how long it takes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 0.0
        self.peers: list[Peer] = []
        self.cut: set[int] = set()
        self.tamper: Tamper = lambda flight: [flight]
        self.travel_s: Callable[[], float] = lambda: TRAVEL_S
        self.flights: list[Flight] = []
        self._due: list[tuple[float, int, Alarm, Callable[[], None]]] = []
        self._numbers = count()

    def peer(self, **blobs: bytes) -> "Peer":
        """One more, with these blobs."""
        made = Peer(self, len(self.peers))
        for other in self.peers:
            other.keeping.linked(made.id, up=True)
            made.keeping.linked(other.id, up=True)
        self.peers.append(made)
        for name, data in blobs.items():
            made.put(name, data)
        return made

    def kill(self, index: int) -> None:
        """Everybody notices."""
        self.cut.add(index)
        for other in self.peers:
            if other.index not in self.cut:
                other.keeping.linked(self.peers[index].id, up=False)

    def later(self, delay_s: float, what: Callable[[], None]) -> Alarm:
        alarm = Alarm()
        heappush(self._due, (self.now_s + delay_s, next(self._numbers), alarm, what))
        return alarm

    def run(self, for_s: float = 100.0, until: Callable[[], object] = lambda: False) -> None:
        """Let time pass, so long or until something holds."""
        end_s = self.now_s + for_s
        turns = 0
        while self._due and self._due[0][0] <= end_s and not until():
            turns = turns + 1 if self._due[0][0] == self.now_s else 0
            assert turns < 10_000, "time stands still"
            self.now_s, _, alarm, what = heappop(self._due)
            if not alarm.is_cancelled:
                what()
        if not until():
            self.now_s = end_s

    def fly(self, flight: Flight) -> None:
        self.flights.append(flight)
        if flight.sender in self.cut or flight.to in self.cut:
            return
        for arriving in self.tamper(flight):
            self.later(self.travel_s(), lambda arriving=arriving: self._arrive(arriving))  # type: ignore[misc]

    def _arrive(self, flight: Flight) -> None:
        beside_it = {} if flight.data is None else beside(flight.data)
        word, columns = decode([bytes(frame) for frame in encode(flight.word, beside_it)], Limits())
        assert isinstance(word, BlobBetweenPeers)
        self.peers[flight.to].hear(self.peers[flight.sender].id, word, columns)


class Peer:
    """One machine with what it has around it (blobs/outside.py). told: what clients heard."""

    def __init__(self, world: World, index: int) -> None:
        self.index = index
        self.id = PeerId(f"P{index:032x}")
        self.folder = world.folder / f"{index}"
        self.folder.mkdir()
        self.told: list[BlobWritten] = []
        self.files = BlobFiles(lambda: self.folder)
        self.places: list[str] = []
        self.exchange = Exchange(self.files, self)
        self.names = Names(self.files, self)
        self._world = world
        self.keepers = BlobKeepers(self.id, 2)
        self.keeping = Keeping(self.keepers, self.exchange, self)
        self.arrivals = Arrivals(self.files, self.names, self.keeping, self)

    def hear(self, peer: PeerId, word: BlobBetweenPeers, columns: Mapping[str, Column]) -> None:
        hand_on(self.names, self.exchange, self.keeping, peer, word, columns)
        self.keepers.check_invariants()

    def put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def blob(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def left_over(self) -> list[str]:
        """Files of blobs that are not all there."""
        folder = self.folder / ARRIVING
        return [path.name for path in folder.iterdir()] if folder.exists() else []

    def want(self, name: str, data: bytes = LONG) -> list[str]:
        """Gets the outcome."""
        outcomes: list[str] = []

        def then(problem: str, place: str) -> None:
            outcomes.append(problem)
            self.places.append(place)

        self.exchange.want(blob_id(name, data), then)
        return outcomes

    def look(self, name: str, *, is_new: bool = False) -> list[Meaning]:
        """Gets what it means."""
        meanings: list[Meaning] = []
        self.names.look(name, meanings.append, is_new=is_new)
        return meanings

    def write(self, word: WriteBlob, data: bytes = b"") -> None:
        """As a client does."""
        self.arrivals.heard(CLIENT, word, beside(data))

    # ---- outside

    def peers(self) -> tuple[PeerId, ...]:
        return tuple([peer.id for peer in self._world.peers if peer is not self and peer.index not in self._world.cut])

    def say(self, to: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column], /) -> None:
        if isinstance(to, ClientId):
            assert isinstance(word, BlobWritten)
            self.told.append(word)
        else:
            index = int(to[1:], 16)
            data = bytes(bytes_beside(columns)) if columns else None
            self._world.fly(Flight(sender=self.index, to=index, word=word, data=data))

    def clock(self) -> float:
        return self._world.now_s

    def later(self, delay_s: float, what: Callable[[], None], /) -> Alarm:
        return self._world.later(delay_s, what)

    def work(self, what: Callable[[], T], then: Callable[[T | Failed], None], /) -> None:
        def run() -> None:
            outcome: T | Failed
            try:
                outcome = what()
            except (BlobError, OSError) as error:
                outcome = error
            self._world.later(0.001, lambda: then(outcome))

        self._world.later(0.0, run)
