"""Which bytes a name means: the same for all who ask, or an error that says who has what."""

import random
from pathlib import Path

import pytest

from scatterzmq.blobs import names
from scatterzmq.blobs.files import Named
from scatterzmq.core.blobmessages import AskBlobName, BlobNamed
from tests.blobs.blobworld import Flight, World, blob_id

DATA = b"some bytes"


def named(data: bytes = DATA) -> Named:
    return Named(len(data), blob_id("a", data).digest)


def test_what_somebody_has(world: World) -> None:
    me = world.peer()
    world.peer(), world.peer(a=DATA), world.peer(a=DATA)
    (meaning,) = looked(world, me.look("a"))
    assert (meaning.named, meaning.is_known) == (named(), True)
    assert world.now_s < names.ASK_AGAIN_S
    assert not me.names._looks


def looked(world: World, meanings: list[names.Meaning]) -> list[names.Meaning]:
    world.run(until=lambda: meanings)
    return meanings


def test_what_is_here_is_asked_for_all_the_same(world: World) -> None:
    me = world.peer(a=DATA)
    assert looked(world, me.look("a"))[0].named == named()
    world.peer(a=b"other")
    (meaning,) = looked(world, me.look("a"))
    assert meaning.named is None
    assert meaning.is_known
    other = world.peers[1].id
    assert meaning.problem.startswith(
        f"blob 'a' is not the same everywhere: 10 bytes ({named()[1].hex()[:8]}…) at this"
    )
    assert f"at this peer; 5 bytes ({named(b'other')[1].hex()[:8]}…) at {other}; use another name" in meaning.problem


def test_many_who_differ_are_not_all_listed(world: World) -> None:
    me = world.peer(a=DATA)
    for _ in range(5):
        world.peer(a=b"other")
    assert " and 2 more; use" in looked(world, me.look("a"))[0].problem


def test_whatever_is_lost_or_doubled(world: World) -> None:
    chance = random.Random(5)
    world.tamper = lambda flight: [flight] * chance.choice((0, 0, 1, 2))
    me = world.peer()
    world.peer(a=DATA), world.peer()
    for _ in range(20):
        meaning = looked(world, me.look("a"))[0]
        assert meaning.named == named() or "is not here" in meaning.problem
    assert not me.names._looks


def test_nobody_has_it(world: World) -> None:
    me = world.peer()
    world.peer(), world.peer()
    (meaning,) = looked(world, me.look("a/b"))
    assert meaning == names.Meaning(
        "a/b",
        None,
        "blob 'a/b' is not here, nor at any of 2 other peers; write it with open_blob(), or put the file below "
        "blobs.dir of one peer",
    )
    assert names.GRACE_S <= world.now_s < names.GRACE_S + 0.1


def test_whoever_comes_soon_is_asked_too(world: World) -> None:
    me = world.peer()
    meanings = me.look("a")
    world.run(2.0)
    world.peer(a=DATA)
    assert looked(world, meanings)[0].named == named()


@pytest.mark.parametrize(("has_it", "wait_s"), [(True, names.FIND_S), (False, names.SEEK_S)])
def test_who_is_silent_is_not_waited_for_long(world: World, has_it: bool, wait_s: float) -> None:
    me = world.peer(**({"a": DATA} if has_it else {}))
    world.peer()
    world.tamper = lambda _: []
    (meaning,) = looked(world, me.look("a"))
    assert (meaning.named is not None) == has_it
    assert wait_s <= world.now_s <= wait_s + names.ASK_AGAIN_S


def test_who_reads_it_is_waited_for(world: World) -> None:
    """Making a digest may take longer than silence is borne."""
    me = world.peer()
    world.peer(a=DATA)

    def tamper(flight: Flight) -> list[Flight]:
        if isinstance(flight.word, BlobNamed) and world.now_s < 3 * names.SEEK_S:
            return [Flight(sender=1, to=0, word=BlobNamed(name="a", is_here=True))]
        return [flight]

    world.tamper = tamper
    assert looked(world, me.look("a"))[0].named == named()
    assert world.now_s >= 3 * names.SEEK_S


def test_who_is_reading_says_so(world: World) -> None:
    me, other = world.peer(), world.peer(a=DATA)
    for _ in range(2):
        me.say(other.id, AskBlobName(name="a"), {})
    world.run()
    answers = [flight.word for flight in world.flights if flight.sender == 1]
    assert answers == [
        BlobNamed(name="a", is_here=True),
        BlobNamed(name="a", is_here=True, blob_bytes=10, digest=named().digest),
    ]


def test_all_who_ask_are_answered_when_it_is_read(world: World) -> None:
    me, you, other = world.peer(), world.peer(), world.peer()
    both = me.look("a", is_new=True), you.look("a", is_new=True)
    world.run(until=lambda: all(both))
    assert [meanings[0].is_known for meanings in both] == [False, False]  # nobody took the looking for having it
    assert not other.names._reading


def test_what_is_read_for_others_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SERVED_MAX", 3)
    me, other = world.peer(), world.peer()
    for number in range(5):
        me.say(other.id, AskBlobName(name=f"{number}"), {})
    world.run()
    assert len([flight for flight in world.flights if flight.sender == 1]) == 3
    assert not other.names._reading


def test_a_new_name(world: World) -> None:
    """Whether anybody has it, whatever it is."""
    me = world.peer()
    assert not looked(world, me.look("a", is_new=True))[0].is_known
    assert world.now_s == 0.0
    world.peer(), world.peer(a=DATA)
    assert looked(world, me.look("a", is_new=True))[0].is_known
    assert not looked(world, me.look("b", is_new=True))[0].is_known
    assert world.now_s < names.ASK_AGAIN_S
    world.tamper = lambda _: []
    assert not looked(world, me.look("a", is_new=True))[0].is_known
    assert world.now_s < 2 * names.FIND_S


def test_who_takes_long_to_look_need_not_have_it(world: World) -> None:
    """Found on a busy machine: a new name was refused, as looking for its file took another peer a second."""
    me = world.peer()
    world.peer()

    def tamper(flight: Flight) -> list[Flight]:
        is_looking = isinstance(flight.word, BlobNamed) and world.now_s < 3 * names.ASK_AGAIN_S
        return [flight.changed(is_here=True)] if is_looking else [flight]

    world.tamper = tamper
    assert not looked(world, me.look("a", is_new=True))[0].is_known
    assert world.now_s >= 3 * names.ASK_AGAIN_S


def test_a_new_name_that_is_being_read_is_taken(world: World) -> None:
    me = world.peer()
    world.peer()

    def tamper(flight: Flight) -> list[Flight]:
        return [flight.changed(is_here=True)] if isinstance(flight.word, BlobNamed) else [flight]

    world.tamper = tamper
    assert looked(world, me.look("a", is_new=True))[0].is_known


@pytest.mark.parametrize("name", ["../secret", ".scratch/x", "", "link"])
def test_a_hostile_name_means_nothing(world: World, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    me, other = world.peer(), world.peer()
    for peer in (me, other):
        (peer.folder / "link").symlink_to(tmp_path / "secret")
        peer.put(".scratch/x", b"secret")
    me.say(other.id, AskBlobName(name=name), {})
    (meaning,) = looked(world, me.look(name))
    assert meaning.named is None
    assert meaning.is_known  # refused, and not only missing
    world.run()
    assert [flight.word for flight in world.flights if flight.sender == 1] == [BlobNamed(name=name, is_here=False)]


def test_a_file_that_grows_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    me = world.peer(a=DATA)
    digest = me.files._digests.made

    def grow(handle: int) -> bytes:
        made = digest(handle)
        me.put("a", DATA + DATA)
        return made

    monkeypatch.setattr(me.files._digests, "made", grow)
    (meaning,) = looked(world, me.look("a"))
    assert meaning.problem == "blob 'a' is still being written; load the graph when it is closed"


def test_the_end(world: World) -> None:
    me = world.peer()
    world.peer()
    looking, starting = me.look("a"), me.look("b")
    world.run(0.0)
    me.names.close()
    assert looking[0].problem == "blob 'a' could not be looked for: the peer stops"
    world.run()
    assert (len(looking), len(starting)) == (1, 1)
