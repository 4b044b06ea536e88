"""Copies of blobs between peers with real files, over a network that loses words: made again when a holder is gone."""

import random

import pytest

from scatterzmq.blobs import keeping
from scatterzmq.core.blobkeepers import AGAIN_MS, SETTLE_MS
from scatterzmq.core.blobmessages import AskBlob, BlobsKept, KeepBlobs
from tests.blobs.blobworld import LONG, Flight, Peer, World, blob_id

SHORT = b"a few bytes"
BLOB = blob_id("a", LONG)


def holders(world: World, data: bytes = LONG) -> list[int]:
    return [peer.index for peer in world.peers if peer.index not in world.cut and peer.blob("a") == data]


def held(peer: Peer) -> list[int]:
    """Gets how many copies there are."""
    told: list[int] = []
    peer.keeping.holds(BLOB, told.append)
    return told


def test_whoever_writes_one_is_told_how_many_copies_there_are(world: World) -> None:
    me = world.peer(a=LONG)
    world.peer(), world.peer()
    told = held(me)
    world.run(until=lambda: told)
    assert told == [2]
    assert len(holders(world)) == 2


def test_with_nobody_there_it_is_the_only_one(world: World) -> None:
    assert held(world.peer(a=LONG)) == [1]


def test_words_that_are_lost_or_doubled(world: World) -> None:
    chance = random.Random(5)
    world.tamper = lambda flight: [flight] * chance.choice((0, 1, 1, 1, 2))
    me = world.peer(a=LONG)
    for _ in range(3):
        world.peer()
    told = held(me)
    world.run(until=lambda: told)
    assert told == [2]
    world.run()
    assert len(holders(world)) == 2
    said = len(world.flights)
    world.run(1000.0)
    assert len(world.flights) == said


def test_another_keeps_it_when_one_cannot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    me, others = world.peer(a=LONG), [world.peer() for _ in range(2)]
    first = next(peer for peer in others if peer.id == me.keepers._order(BLOB.digest)[0])

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(first.files, "begin", full)
    told = held(me)
    world.run(until=lambda: told)
    assert told == [2]
    assert first.index not in holders(world)
    refused = [flight.word for flight in world.flights if isinstance(flight.word, BlobsKept) and flight.word.refused]
    assert refused == [BlobsKept(kept=(), refused=(BLOB.digest,))]


def test_a_writer_does_not_wait_for_ever(world: World) -> None:
    me, other = world.peer(a=LONG), world.peer()

    def coming(flight: Flight) -> list[Flight]:
        """It says for ever that it is on its way."""
        if isinstance(flight.word, KeepBlobs):
            word = BlobsKept(kept=(), coming=(BLOB.digest,))
            world.later(0.1, lambda: me.keeping.told(other.id, word))
        return []

    world.tamper = coming
    told = held(me)
    world.run(2 * keeping.KEEP_S, until=lambda: told)
    assert told == [1]
    assert world.now_s <= keeping.KEEP_S + AGAIN_MS / 1000


def test_a_copy_is_made_again_when_a_holder_dies(world: World) -> None:
    """And again, and by whoever is left."""
    me = world.peer(a=LONG)
    for _ in range(4):
        world.peer()
    told = held(me)
    world.run(until=lambda: told)
    for _ in range(3):
        victim = holders(world)[0]
        died_s = world.now_s
        world.kill(victim)
        world.run(until=lambda: len(holders(world)) == 2)
        assert died_s + SETTLE_MS / 1000 <= world.now_s < died_s + SETTLE_MS / 1000 + 1.0
    world.kill(holders(world)[0])
    world.run()
    assert len(holders(world)) == 1  # there is nobody else


def test_many_are_fetched_one_after_another(world: World) -> None:
    me = world.peer()
    world.peer()
    for number in range(20):
        data = b"%d" % number * 1000
        me.put(f"b{number}", data)
        me.keeping.holds(blob_id(f"b{number}", data))
    most = 0

    def tamper(flight: Flight) -> list[Flight]:
        nonlocal most
        most = max(most, len(world.peers[1].exchange._fetches))
        return [flight]

    world.tamper = tamper
    world.run(until=lambda: world.peers[1].exchange.counters["fetched"] == 20)
    assert most == 1
    words = [flight.word for flight in world.flights]
    assert len([word for word in words if isinstance(word, KeepBlobs)]) <= 2
    assert len([word for word in words if isinstance(word, BlobsKept)]) <= 2 + 20


def test_other_bytes_of_that_name_are_no_copy(world: World) -> None:
    me, other = world.peer(a=LONG), world.peer(a=SHORT)
    told = held(me)
    world.run(until=lambda: told)
    assert told == [2]
    assert other.blob("a") == SHORT
    assert other.files.find(BLOB) not in (None, "a")


def test_what_is_here_is_not_sent(world: World) -> None:
    me, _ = world.peer(a=LONG), world.peer(a=LONG)
    told = held(me)
    world.run(until=lambda: told)
    assert told == [2]
    assert not [flight for flight in world.flights if isinstance(flight.word, AskBlob)]


def test_a_fetch_that_cannot_begin_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them, one after another, without going deeper and deeper."""
    monkeypatch.setattr("scatterzmq.blobs.exchange.FETCHES_MAX", 0)
    me, other = world.peer(), world.peer()
    blobs = tuple([blob_id(f"{number}", b"%d" % number) for number in range(2000)])
    for at in range(0, len(blobs), 64):
        other.keeping.asked(me.id, KeepBlobs(blobs=blobs[at : at + 64]))
    world.run()
    refused = [flight.word for flight in world.flights if isinstance(flight.word, BlobsKept) and flight.word.refused]
    assert len(refused) == 2000


def test_after_the_end_nothing_is_said(world: World) -> None:
    me, other = world.peer(a=LONG), world.peer()
    me.keeping.close()
    me.keeping.holds(BLOB)
    me.keeping.linked(other.id, up=False)
    world.run()
    assert not world.flights


@pytest.mark.parametrize("way", ["taken", "nobody there", "no answer"])
def test_who_leaves_waits_for_somebody_who_has_it_but_not_for_long(world: World, way: str) -> None:
    me = world.peer(a=LONG)
    me.keepers._copies = 1
    held(me)
    if way != "nobody there":
        world.peer()
    if way == "no answer":
        world.tamper = lambda _: []
    lost: list[int] = []
    for _ in range(2):  # asked twice, it is said twice
        me.keeping.leave(lost.append)
    world.run(until=lambda: lost)
    assert lost == [int(way == "no answer")] * 2
    assert holders(world) == ([0, 1] if way == "taken" else [0])
    assert world.now_s <= keeping.LEAVE_S + AGAIN_MS / 1000
