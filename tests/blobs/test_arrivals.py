"""Blobs that clients write: pieces that come twice, too early, or never, and writers that are gone."""

import random
from hashlib import blake2b

import pytest

from scatterzmq.blobs import arrivals
from scatterzmq.core.blobmessages import DIGEST_BYTES, PIECE_BYTES, BlobWritten, WriteBlob
from tests.blobs.blobworld import Peer, World

WRITER = b"w" * 16
DATA = random.Random(1).randbytes(2 * PIECE_BYTES + 10)


def word(offset: int = 0, *, last: bool = False, data: bytes = DATA, writer: bytes = WRITER) -> WriteBlob:
    digest = blake2b(data, digest_size=DIGEST_BYTES).digest() if last else b""
    return WriteBlob(writer=writer, name="a", offset=offset, last=last, digest=digest)


def pieces(data: bytes = DATA) -> list[tuple[WriteBlob, bytes]]:
    """All words of a blob, after the first."""
    offsets = range(0, len(data), PIECE_BYTES)
    made = [(word(offset), data[offset : offset + PIECE_BYTES]) for offset in offsets]
    return [*made, (word(len(data), last=True, data=data), b"")]


def begun(world: World) -> Peer:
    peer = world.peer()
    peer.write(word())
    world.run(until=lambda: peer.told)
    assert peer.told == [BlobWritten(writer=WRITER, blob_bytes=0)]
    return peer


@pytest.mark.parametrize("chances", [(1,), (0, 1, 1, 2)], ids=["once", "lost and doubled"])
def test_a_blob_is_written(world: World, chances: tuple[int, ...]) -> None:
    peer = begun(world)
    chance = random.Random(2)
    for _ in range(50):
        for piece, data in pieces():
            for _ in range(chance.choice(chances)):
                peer.write(piece, data)
                world.run(0.005)
        if peer.told[-1].is_sealed:
            break
    assert peer.told[-1] == BlobWritten(writer=WRITER, blob_bytes=len(DATA), is_sealed=True, copies=1)
    assert peer.blob("a") == DATA
    assert not peer.left_over()
    peer.write(*pieces()[-1])
    assert peer.told[-1].is_sealed


def test_what_comes_too_early_is_not_taken(world: World) -> None:
    peer = begun(world)
    for piece, data in reversed(pieces()):
        peer.write(piece, data)
    world.run(1.0)
    assert peer.told[-1].blob_bytes == PIECE_BYTES
    assert peer.blob("a") is None


def test_what_did_not_come_as_it_was_sent_is_no_blob(world: World) -> None:
    peer = begun(world)
    (first, data), *rest = pieces()
    peer.write(first, b"!" + data[1:])
    for piece, data in rest:
        peer.write(piece, data)
    world.run(1.0)
    assert peer.told[-1].problem == "blob 'a' has not come as it was sent; write it anew"
    assert peer.blob("a") is None
    assert not peer.left_over()


def test_the_client_hears_of_it_when_there_are_copies(world: World) -> None:
    peer = world.peer()
    others = world.peer(), world.peer()
    peer.write(word())
    world.run(until=lambda: peer.told)
    for piece, data in pieces():
        peer.write(piece, data)
    world.run(until=lambda: peer.blob("a") is not None)
    assert not any(other.blob("a") for other in others)
    peer.write(*pieces()[-1])
    assert not peer.told[-1].is_sealed  # but it hears something
    world.run(until=lambda: peer.told[-1].is_sealed)
    assert peer.told[-1].copies == 2
    assert sorted([other.blob("a") or b"" for other in others]) == [b"", DATA]


def test_one_of_that_name_elsewhere(world: World) -> None:
    peer = world.peer()
    world.peer(), world.peer(a=b"other")
    peer.write(word())
    world.run(until=lambda: peer.told)
    assert peer.told[-1].problem.startswith("blob 'a' is there already and blobs are written once")


def test_words_without_a_beginning(world: World) -> None:
    peer = world.peer()
    peer.write(*pieces()[-1])
    assert peer.told[-1].problem == "blob 'a' has no beginning at this peer; write it anew"
    assert not peer.arrivals._writings


def test_it_is_given_up(world: World) -> None:
    peer = begun(world)
    peer.write(*pieces()[0])
    world.run(1.0)
    peer.write(WriteBlob(writer=WRITER, name="a", offset=PIECE_BYTES, last=True))
    world.run(1.0)
    assert peer.told[-1].problem == "blob 'a' was given up"
    assert not peer.left_over()
    peer.write(word(writer=b"x" * 16))
    world.run(3.0)
    assert peer.told[-1] == BlobWritten(writer=b"x" * 16, blob_bytes=0)


def test_a_writer_that_is_gone_is_forgotten(world: World) -> None:
    peer = begun(world)
    world.run(arrivals.FORGET_S / 2)
    peer.write(*pieces()[0])
    world.run(arrivals.FORGET_S - 1)
    assert peer.left_over()
    world.run(2.0)
    assert not peer.left_over()
    assert not peer.arrivals._writings


def test_one_alarm_is_enough_for_all_words_of_a_writer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = begun(world)
    with monkeypatch.context() as patch:
        patch.setattr(peer, "later", lambda *_: pytest.fail("another one"))
        for piece, data in pieces():
            peer.write(piece, data)
    world.run(arrivals.FORGET_S + 1)
    assert not peer.arrivals._writings


def test_writers_are_bounded(world: World) -> None:
    peer = world.peer()
    for number in range(arrivals.WRITERS_MAX + 1):
        peer.write(WriteBlob(writer=number.to_bytes(16, "big"), name=f"b{number}", offset=0))
    assert "others are being written; try again later" in peer.told[-1].problem
    peer.arrivals.close()
    world.run(1.0)
    assert not peer.left_over()


def test_what_is_held_for_one_is_bounded(world: World) -> None:
    peer = begun(world)
    piece = bytes(PIECE_BYTES)
    for number in range(100):
        peer.write(word(number * PIECE_BYTES), piece)  # and the disk does nothing
    (writing,) = peer.arrivals._writings.values()
    assert writing.taken <= arrivals.HELD_BYTES_MAX + PIECE_BYTES
    world.run(1.0)
    assert writing.written == writing.taken


def test_a_disk_that_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = begun(world)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scatterzmq.blobs.files.Arriving.write", full)
    peer.write(*pieces()[0])
    world.run(1.0)
    assert peer.told[-1].problem == "blob 'a' cannot be stored: [Errno 28] No space left on device"
    assert not peer.left_over()


def write_all(peer: Peer, data: bytes, writer: bytes) -> None:
    for piece, part in pieces(data):
        peer.write(WriteBlob(writer=writer, name="a", offset=piece.offset, last=piece.last, digest=piece.digest), part)


@pytest.mark.parametrize("other", [DATA[::-1], DATA], ids=["other bytes", "the same"])
def test_two_of_one_name_at_once(world: World, other: bytes) -> None:
    """At two peers: at most one of them is there in the end, or both if they are the same."""
    one, two = world.peer(), world.peer()
    world.peer()
    for peer, writer in ((one, WRITER), (two, b"x" * 16)):
        peer.write(word(writer=writer))
    world.run(until=lambda: one.told and two.told)
    assert [peer.told[-1].problem for peer in (one, two)] == ["", ""]  # neither has found the other
    write_all(one, DATA, WRITER)
    write_all(two, other, b"x" * 16)
    world.run(until=lambda: all(peer.told[-1].is_sealed or peer.told[-1].problem for peer in (one, two)))
    world.run()
    sealed = [peer.told[-1].is_sealed for peer in (one, two)]
    left = {peer.blob("a") for peer in world.peers} - {None}
    if other == DATA:
        assert (sealed, left) == ([True, True], {DATA})
    else:
        assert sum(sealed) <= 1
        assert len(left) == sum(sealed)
        problems = {peer.told[-1].problem for peer in (one, two)} - {""}
        assert problems == {
            "blob 'a' was written by somebody else at the same time, with other bytes; choose another name"
        }


def test_the_later_of_two_of_one_name_gives_up(world: World) -> None:
    one, two = world.peer(), world.peer()
    for peer, writer in ((one, WRITER), (two, b"x" * 16)):
        peer.write(word(writer=writer))
    world.run(until=lambda: one.told and two.told)
    write_all(one, DATA, WRITER)
    world.run(until=lambda: one.told[-1].is_sealed)
    write_all(two, b"other", b"x" * 16)
    world.run(until=lambda: two.told[-1].problem)
    assert "is there already" in two.told[-1].problem
    world.run()
    assert {peer.blob("a") for peer in world.peers} == {DATA}
