"""Blobs between peers: what comes is what was there, whatever the network does and whoever lies."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.blobs import exchange
from scatterzmq.core.blobmessages import PIECE_BYTES, AskBlob, BlobKept, BlobPiece, NoBlob
from tests.blobs.blobworld import Flight, World

LONG = random.Random(7).randbytes(6 * PIECE_BYTES + 12345)
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
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
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
        fetch = me.exchange._fetches["a"]
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
    outcomes = me.want("a/b")
    world.run(until=lambda: outcomes)
    assert outcomes[0].startswith("blob 'a/b' is not here, nor at any of 2 other peers; write it with open_blob(), or")
    assert exchange.GRACE_S <= world.now_s < exchange.GRACE_S + 0.1
    world.peers[1].put("a/b", b"late")
    again = me.want("a/b")
    world.run(until=lambda: again)
    assert again == [""]
    assert me.blob("a/b") == b"late"


def test_whoever_comes_soon_is_asked_too(world: World) -> None:
    me = world.peer()
    outcomes = me.want("a")
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
    assert outcomes[0].startswith("blob 'a' is not here")
    assert world.now_s <= exchange.SEEK_S + exchange.ASK_AGAIN_S


@pytest.mark.parametrize("way", ["cut off", "silent", "without it"])
def test_another_goes_on_where_one_has_stopped(world: World, way: str) -> None:
    me = world.peer()
    first, _ = world.peer(a=LONG), world.peer(a=LONG)
    pieces: list[Flight] = []

    def tamper(flight: Flight) -> list[Flight]:
        if flight.sender != 1 or not flight.data:
            return [flight] if flight.sender != 2 or pieces or me.exchange._fetches["a"].source else []
        pieces.append(flight)
        if len(pieces) > 3 and way == "without it":
            return [Flight(sender=1, to=0, word=NoBlob(name="a"))]
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
    "another digest": lambda flight: flight.changed(digest=b"\0" * 32),
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
    assert outcomes[0].startswith("blob 'a' is not here")
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
    assert outcomes[0].startswith("blob 'a' is not here")


def test_two_blobs_of_one_name_are_not_mixed(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG), world.peer(a=OTHER)

    def tamper(flight: Flight) -> list[Flight]:
        if flight.sender == 1 and flight.data and isinstance(flight.word, BlobPiece) and flight.word.offset:
            world.cut.add(1)
        return [] if flight.sender == 2 and not asked_for(world, 1) else [flight]

    world.tamper = tamper
    outcomes = me.want("a")
    world.run(until=lambda: outcomes)
    assert outcomes == [""]
    assert me.blob("a") == OTHER


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


HOSTILE = ["../secret", "/etc/passwd", "a/../../secret", ".scratch/x", "pkg/scatterzmq/data.json", "", "a\\b", "link"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_leads_nowhere(world: World, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    me, other = world.peer(), world.peer()
    (other.folder / "link").symlink_to(tmp_path / "secret")
    other.put(".scratch/x", b"secret")
    me.exchange._say(other.id, AskBlob(name=name, offset=0, bytes_max=PIECE_BYTES))
    world.run()
    assert [flight.word for flight in world.flights if flight.sender == 1] == [NoBlob(name=name)]
    before = sorted(tmp_path.rglob("*"))
    outcomes = me.want(name)
    other.exchange.spread(name, 1, lambda _: None)
    world.run(until=lambda: outcomes)
    world.run()
    assert outcomes[0]
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "arriving") == before


def test_much_asked_for_by_one_is_bounded(world: World) -> None:
    me = world.peer(a=LONG)
    other = world.peer()
    me.files.piece("a", 0, 0)
    for _ in range(100):
        other.exchange._say(me.id, AskBlob(name="a", offset=0, bytes_max=1 << 40))
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
        other.exchange._say(me.id, AskBlob(name="a", offset=0, bytes_max=0))
    world.run()
    answers = [flight.word for flight in world.flights if isinstance(flight.word, BlobPiece)]
    assert [bool(answer.digest) for answer in answers] == [False, False, True]


def test_many_blobs_at_once_are_bounded(world: World) -> None:
    me = world.peer()
    world.peer()
    outcomes = [me.want(f"b{number}") for number in range(exchange.FETCHES_MAX + 1)]
    assert outcomes[-1] == [
        f"blob 'b{exchange.FETCHES_MAX}': {exchange.FETCHES_MAX} others are being fetched; " + ("ask again later")
    ]
    world.run()
    assert all(outcomes)


# ---- copies


def spread(world: World, copies: int) -> list[int]:
    kept: list[int] = []
    world.peers[0].exchange.spread("a", copies, kept.append)
    world.run(until=lambda: kept)
    return kept


def test_others_keep_copies(world: World) -> None:
    world.peer(a=LONG)
    for _ in range(3):
        world.peer()
    chance = random.Random(5)
    world.tamper = lambda flight: [flight] * chance.choice((0, 1, 1, 1, 2))
    assert spread(world, 2) == [2]
    assert [peer.blob("a") == LONG for peer in world.peers] == [True, True, True, False]
    world.run()


def test_another_keeps_it_when_one_cannot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.peer(a=b"data"), world.peer(), world.peer(), world.peer()
    world.cut.add(3)

    def tamper(flight: Flight) -> list[Flight]:
        if flight.to == 1:
            return [Flight(sender=1, to=0, word=BlobKept(name="a", is_kept=False, problem="full"))]
        return [flight]

    world.tamper = tamper
    assert spread(world, 1) == [1]
    assert world.peers[2].blob("a") == b"data"


def test_with_nobody_there_nobody_keeps_it(world: World) -> None:
    world.peer(a=b"data")
    assert spread(world, 1) == [0]


def test_who_is_silent_is_not_waited_for(world: World) -> None:
    world.peer(a=b"data"), world.peer(), world.peer()
    world.tamper = lambda flight: [flight] if flight.to != 1 else []
    assert spread(world, 1) == [1]
    assert world.peers[2].blob("a") == b"data"


def test_the_end(world: World) -> None:
    me = world.peer()
    world.peer(a=LONG)
    outcomes = me.want("a")
    world.run(until=me.left_over)
    me.exchange.close()
    assert outcomes == ["blob 'a' could not be fetched: the peer stops"]
    world.run()
    assert not me.left_over()
