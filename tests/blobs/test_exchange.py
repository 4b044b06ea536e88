"""Blobs between peers: what comes is what was there, whatever the network does and whoever lies."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.blobs import exchange
from scatterzmq.core.blobmessages import PIECE_BYTES, AskBlob, BlobPiece, NoBlob
from scatterzmq.execute.blobfiles import SEALED
from tests.blobs.blobworld import LONG, Flight, World, blob_id

DIGEST = blob_id("a", LONG).digest
OTHER = LONG[:-1] + b"!"


def asked_for(world: World, peer: int) -> list[int]:
    """Offsets that this peer was asked for."""
    return [
        flight.word.offset
        for flight in world.flights
        if flight.to == peer and isinstance(flight.word, AskBlob) and flight.word.bytes_max
    ]


@pytest.mark.parametrize("data", [b"", b"short", LONG, LONG[: 2 * PIECE_BYTES]], ids=len)
def test_a_blob_is_fetched(world: World, data: bytes) -> None:
    world.peer()
    world.peer(a=data)
    me = world.peers[0]
    outcomes = me.want("a", data)
    world.run(until=lambda: outcomes)
    assert (outcomes, me.places) == ([""], ["a"])
    assert me.blob("a") == data
    assert (me.folder / "a").stat().st_mode & 0o777 == 0o444
    assert not me.left_over()
    assert world.now_s < exchange.ASK_AGAIN_S
    world.run()
    assert not me.exchange._fetches


def test_all_who_wait_are_told(world: World) -> None:
    me = world.peer()
    world.peer().put("model/a.bin", LONG)
    outcomes = [me.want("model/a.bin") for _ in range(3)]
    world.run(until=lambda: all(outcomes))
    assert outcomes == [[""]] * 3
    assert me.blob("model/a.bin") == LONG
    assert len(asked_for(world, 1)) == 7
    later = me.want("model/a.bin")
    world.run(until=lambda: later)
    assert later == [""]
    assert len(asked_for(world, 1)) == 7


def test_what_is_on_its_way_is_bounded(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)
    most = 0

    def tamper(flight: Flight) -> list[Flight]:
        nonlocal most
        fetch = me.exchange._fetches[DIGEST]
        most = max(most, len(fetch.under_way) + fetch.writing)
        return [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert most == exchange.WINDOW


def test_words_that_are_lost_or_doubled(world: World) -> None:
    me = world.peer()
    for _ in range(2):
        world.peer(a=LONG)
    chance = random.Random(3)
    world.tamper = lambda flight: [flight] * chance.choice((0, 1, 1, 2))
    outcomes = me.want("a")
    world.run(1000.0, until=lambda: outcomes)
    assert outcomes == [""]
    assert me.blob("a") == LONG
    assert not me.left_over()


def test_an_answer_that_comes_late_is_no_lie(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)

    def tamper(flight: Flight) -> list[Flight]:
        return [Flight(sender=1, to=0, word=flight.word, data=b""), flight] if flight.data else [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert not me.exchange.counters["lies"]


def test_nobody_has_it(world: World) -> None:
    me = world.peer()
    world.peer(), world.peer()
    outcomes = me.want("a/b", b"late")
    world.run(until=lambda: outcomes)
    assert outcomes[0].startswith("blob 'a/b' with the bytes that its graph was loaded with (")
    assert outcomes[0].endswith("is not here, nor at any of 2 other peers; put that file below blobs.dir of one peer")
    assert exchange.GRACE_S <= world.now_s < exchange.GRACE_S + 0.1
    world.peers[1].put("a/b", b"late")
    again = me.want("a/b", b"late")
    world.run(until=lambda: again)
    assert again == [""]
    assert me.blob("a/b") == b"late"


def test_whoever_comes_soon_is_asked_too(world: World) -> None:
    me = world.peer()
    outcomes = me.want("a", b"here")
    world.run(2.0)
    world.peer(a=b"here")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]


def test_nobody_answers(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)
    world.tamper = lambda flight: []
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert "is not here, nor at any of 1 other peers" in outcomes[0]
    assert world.now_s <= exchange.SEEK_S + exchange.ASK_AGAIN_S


@pytest.mark.parametrize("way", ["cut off", "silent", "without it"])
def test_another_goes_on_where_one_has_stopped(world: World, way: str) -> None:
    me = world.peer()
    first, _ = world.peer(a=LONG), world.peer(a=LONG)
    pieces: list[Flight] = []

    def tamper(flight: Flight) -> list[Flight]:
        if flight.sender != 1 or not flight.data:
            return [flight] if flight.sender != 2 or pieces or me.exchange._fetches[DIGEST].source else []
        pieces.append(flight)
        if len(pieces) > 3 and way == "without it":
            return [Flight(sender=1, to=0, word=NoBlob(name="a", digest=DIGEST))]
        if len(pieces) > 3 and way == "silent":
            return []
        if len(pieces) > 3:
            world.cut.add(1)
        return [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""], first
    assert me.blob("a") == LONG
    from_second = set(asked_for(world, 2))
    assert from_second
    assert not from_second & {flight.word.offset for flight in pieces[:3] if isinstance(flight.word, BlobPiece)}
    assert not me.left_over()


LIES: dict[str, Callable[[Any], Flight]] = {
    "wrong bytes": lambda flight: Flight(sender=1, to=0, word=flight.word, data=b"\0" * len(flight.data)),
    "another length": lambda flight: Flight(sender=1, to=0, word=flight.word, data=flight.data[:-1]),
    "longer by one": lambda flight: Flight(sender=1, to=0, word=flight.word, data=flight.data + b"!"),
    "another size": lambda flight: flight.changed(blob_bytes=1 << 62),
}


@pytest.mark.parametrize("lie", LIES)
def test_who_lies_is_left(world: World, lie: str) -> None:
    me = world.peer()
    world.peer(a=LONG), world.peer(a=LONG)

    def tamper(flight: Flight) -> list[Flight]:
        if flight.sender == 1 and flight.data:
            assert me.blob("a") is None
            return [LIES[lie](flight)]
        # The liar is chosen first.
        return [] if flight.sender == 2 and not asked_for(world, 1) else [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert me.blob("a") == LONG
    assert me.exchange.counters["digest" if lie == "wrong bytes" else "lies"] == 1
    assert not me.left_over()


def test_who_goes_on_where_a_liar_stopped_is_not_blamed(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG), world.peer(a=LONG)

    def tamper(flight: Flight) -> list[Flight]:
        if flight.sender == 1 and flight.data:
            world.cut.add(1)
            return [LIES["wrong bytes"](flight)]
        return [] if flight.sender == 2 and not asked_for(world, 1) else [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert me.exchange.counters["digest"] == 1
    assert me.blob("a") == LONG


def test_only_a_liar_has_it(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)
    world.tamper = lambda flight: [LIES["wrong bytes"](flight) if flight.data else flight]
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert "is not here, nor at any of 1 other peers" in outcomes[0]
    assert me.blob("a") is None
    assert not me.left_over()


def test_a_blob_without_an_end_takes_no_memory(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)

    def tamper(flight: Flight) -> list[Flight]:
        return [flight.changed(blob_bytes=1 << 62)] if isinstance(flight.word, BlobPiece) else [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert "is not here, nor at any of 1 other peers" in outcomes[0]


def test_other_bytes_of_that_name_are_not_taken(world: World) -> None:
    """They are not even sent."""
    me = world.peer()
    world.peer(a=OTHER), world.peer(a=LONG)
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert me.blob("a") == LONG
    assert not asked_for(world, 1)
    assert world.peers[1].files.counters["other"]


def test_other_bytes_here_are_not_taken_and_stay(world: World) -> None:
    me = world.peer(a=OTHER)
    world.peer(a=LONG)
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert me.blob("a") == OTHER
    assert me.places == [f"{SEALED}/{DIGEST.hex()}"]
    assert me.blob(me.places[0]) == LONG
    again = me.want("a")
    world.run(until=lambda: again)
    assert me.places[1] == me.places[0]
    # It is served from there, too.
    third = world.peer()
    world.cut.add(1)
    outcomes = third.want("a")
    world.run(until=lambda: outcomes)
    assert third.blob("a") == LONG


@pytest.mark.parametrize("name", ["a", "sealed"])
def test_a_file_that_goes_bad_is_fetched_from_another(world: World, name: str) -> None:
    """On this disk. Whoever had it is asked again, and the bad one is nobody's."""
    me = world.peer(**({"a": OTHER} if name == "sealed" else {}))
    world.peer(a=LONG), world.peer()
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    bad = me.folder / me.places[0]
    bad.chmod(0o644)
    bad.write_bytes(b"bad" + LONG[3:])
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert me.blob(me.places[1]) == LONG
    assert me.files.counters["other"] >= 1
    assert me.exchange.counters["fetched"] == 2


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    me = world.peer()
    world.peer(a=LONG)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scatterzmq.blobs.files.Arriving.write", full)
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == ["blob 'a' cannot be stored: [Errno 28] No space left on device"]
    world.run()
    assert not me.left_over()


def test_it_is_written_here_meanwhile(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)

    def tamper(flight: Flight) -> list[Flight]:
        if flight.data and me.blob("a") is None:
            me.put("a", b"mine")
        return [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert me.blob("a") == b"mine"
    assert me.blob(me.places[0]) == LONG


HOSTILE = ["../secret", "/etc/passwd", "a/../../secret", ".scratch/x", "pkg/scatterzmq/data.json", "", "a\\b", "link"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_leads_nowhere(world: World, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    me, other = world.peer(), world.peer()
    (other.folder / "link").symlink_to(tmp_path / "secret")
    other.put(".scratch/x", b"secret")
    me.exchange._say(other.id, AskBlob(name=name, digest=DIGEST, offset=0, bytes_max=PIECE_BYTES))
    world.run()
    assert [flight.word for flight in world.flights if flight.sender == 1] == [NoBlob(name=name, digest=DIGEST)]
    before = sorted(tmp_path.rglob("*"))
    outcomes = me.want(name)
    world.run(until=lambda: outcomes)
    world.run()
    assert outcomes[0]
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "arriving") == before


def test_much_asked_for_by_one_is_bounded(world: World) -> None:
    me = world.peer(a=LONG)
    other = world.peer()
    me.files.find(blob_id("a", LONG))
    for _ in range(100):
        other.exchange._say(me.id, AskBlob(name="a", digest=DIGEST, offset=0, bytes_max=1 << 40))
    world.run()
    pieces = [flight for flight in world.flights if flight.sender == 0]
    assert len(pieces) == exchange.SERVED_MAX
    assert {len(flight.data or b"") for flight in pieces} == {PIECE_BYTES}
    assert me.exchange.counters["busy"] == 100 - exchange.SERVED_MAX
    assert not +me.exchange._serving


def test_whoever_makes_a_digest_says_so(world: World) -> None:
    me = world.peer(a=LONG)
    other = world.peer()
    for _ in range(3):
        other.exchange._say(me.id, AskBlob(name="a", digest=DIGEST, offset=0, bytes_max=0))
    world.run()
    answers = [flight.word for flight in world.flights if isinstance(flight.word, BlobPiece)]
    assert [answer.is_reading for answer in answers] == [True, True, False]


def test_many_blobs_at_once_are_bounded(world: World) -> None:
    me = world.peer()
    world.peer()
    outcomes = [me.want(f"b{number}", b"%d" % number) for number in range(exchange.FETCHES_MAX + 1)]
    assert outcomes[-1] == [
        f"blob 'b{exchange.FETCHES_MAX}': {exchange.FETCHES_MAX} others are being fetched; " + ("ask again later")
    ]
    world.run()
    assert all(outcomes)


def test_the_end(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)
    outcomes = me.want("a")
    world.run(until=me.left_over)
    me.exchange.close()
    assert outcomes == ["blob 'a' could not be fetched: the peer stops"]
    world.run()
    assert not me.left_over()
