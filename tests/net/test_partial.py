"""Messages in pieces of many senders at once: bounded together, and somebody always gets through."""

from collections import Counter
from collections.abc import Iterator

import pytest

from scatterzmq.core.messages import Submit
from scatterzmq.ids import ClientId, PeerId, TaskId
from scatterzmq.net import partial
from scatterzmq.net.fragments import pieces
from scatterzmq.net.partial import Partial
from scatterzmq.net.reactor import Reactor
from scatterzmq.net.routing import Origin, of_client
from scatterzmq.wire.columns import Column
from scatterzmq.wire.refusal import Limits, WireError
from tests.net.conftest import ALICE, BOB, Caller, Station, Stranger, World, peer_id
from tests.test_network import column, replicate

MIB = 1 << 20
LIMITS = Limits(total_bytes=8 * MIB)
CARLA = ClientId("C" + "c" * 32)
MEMBER = peer_id(7)


class Sender:
    """Says one long message after another, a piece at a time. through: how many have arrived whole."""

    def __init__(self, room: "Room", sender: PeerId | ClientId, lane: bytes = b"b", *, mib: int = 8) -> None:
        self.room = room
        self.origin = Origin(sender, 0)
        self.name = sender.to_bytes() + lane
        self.whole = [bytes(100), bytes(mib * MIB - 1000)]
        self.number = self.through = 0
        self.left: list[list[bytes | memoryview]] = []

    def say(self, count: int = 1) -> None:
        for _ in range(count):
            if not self.left:
                self.number += 1
                self.left = list(pieces(self.whole, self.number))
            if self.room.partial.take(self.name, self.origin, self.left.pop(0)) is not None:
                self.through += 1
            assert self.room.partial.nbytes <= self.room.bytes_max

    def again(self) -> None:
        """It was not answered: from the beginning."""
        self.left = []


class Room:
    """What a peer holds of messages in pieces, with a clock of its own."""

    def __init__(self, bytes_max: int) -> None:
        self.now_s = 0.0
        self.bytes_max = bytes_max
        self.reactor = Reactor(clock=lambda: self.now_s)
        self.counters: Counter[str] = Counter()
        self.partial = Partial(self.reactor, LIMITS, bytes_max, lambda sender: sender == MEMBER, self.counters)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.reactor.step()


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room(12 * MIB)
    yield made
    made.partial.close()
    made.reactor.close()


def test_all_of_them_count_together_and_nothing_is_left(room: Room) -> None:
    senders = [Sender(room, ClientId(f"C{number:032x}"), mib=3) for number in range(1, 5)]
    for _ in range(3):
        for sender in senders:
            sender.say()
    assert [sender.through for sender in senders] == [1, 1, 1, 1]
    assert (room.partial.nbytes, len(room.partial), room.counters["crowded"]) == (0, 0, 0)


def test_a_message_that_is_whole_needs_no_room(room: Room) -> None:
    Sender(room, ALICE).say(7)
    frames = [b"head", b"body"]
    assert room.partial.take(b"other", Origin(BOB, 0), frames) is frames
    assert room.partial.take(b"other", Origin(BOB, 0), []) == []
    assert len(room.partial) == 1


def test_where_there_is_no_room_the_first_comes_through(room: Room) -> None:
    first, second, third = (Sender(room, client) for client in (ALICE, BOB, CARLA))
    for _ in range(len(pieces(first.whole, 1))):
        for sender in (first, second, third):
            sender.say()
    assert (first.through, second.through, third.through) == (1, 0, 0)
    assert room.counters["crowded"] == 2
    assert room.counters["stray"] > 0
    second.again()
    second.say(8)
    third.again()
    third.say(8)
    assert (second.through, third.through) == (1, 1)


def test_any_number_of_senders_get_through_one_after_another(room: Room) -> None:
    """However they take turns: nobody can keep all the others from it."""
    waiting = [Sender(room, ClientId(f"C{number:032x}")) for number in range(1, 31)]
    while waiting:
        for sender in waiting:
            sender.again()
        for _ in range(8):
            for sender in waiting:
                sender.say()
        left = [sender for sender in waiting if not sender.through]
        assert len(left) < len(waiting), "nobody got through in a round"
        waiting = left


def test_members_are_not_dropped_for_strangers(room: Room) -> None:
    strangers = [Sender(room, client) for client in (ALICE, BOB, CARLA)]
    for stranger in strangers:
        stranger.say(4)
    assert room.partial.nbytes == 12 * MIB
    member = Sender(room, MEMBER)
    member.say(5)
    assert room.counters["crowded"] == 2
    for _ in range(20):
        for stranger in strangers:
            stranger.say()
        member.say()
    assert member.through == 3


def test_of_members_the_first_comes_through_too(room: Room) -> None:
    control, bulk = Sender(room, MEMBER, b"c"), Sender(room, MEMBER, b"b")
    for _ in range(8):
        control.say()
        bulk.say()
    assert (control.through, bulk.through) == (1, 0)
    assert room.counters["crowded"] == 1


def test_those_who_dawdle_go_first(room: Room) -> None:
    slow, quick = Sender(room, ALICE), Sender(room, BOB)
    slow.say(5)
    room.wait(20.0)
    slow.say()
    room.wait(20.0)
    quick.say(8)
    assert (quick.through, room.counters["crowded"]) == (1, 1)
    slow.say(2)
    assert slow.through == 0
    slow.again()
    slow.say(8)
    assert slow.through == 1, "but while there is room, it may take its time"


def test_nobody_waits_for_what_does_not_come(room: Room) -> None:
    silent, alive = Sender(room, ALICE), Sender(room, BOB)
    silent.say(2)
    alive.say(2)
    room.wait(partial.PIECES_S - 1)
    alive.say()
    room.wait(1 + partial.LOOK_EVERY_S)
    assert (len(room.partial), room.partial.nbytes, room.counters["stalled"]) == (1, 3 * MIB, 1)
    room.wait(partial.PIECES_S)
    assert (len(room.partial), room.partial.nbytes) == (0, 0)
    assert not room.reactor.step(), "nothing is looked for where nothing is"
    silent.again()
    silent.say(8)
    assert silent.through == 1


def test_what_is_broken_off_needs_no_room(room: Room) -> None:
    sender = Sender(room, ALICE)
    sender.say(5)
    with pytest.raises(WireError):
        room.partial.take(sender.name, sender.origin, [b"szmf"])
    assert (len(room.partial), room.partial.nbytes) == (0, 0)
    sender.again()
    sender.say(3)
    frames = [b"whole"]
    assert room.partial.take(sender.name, sender.origin, frames) is frames
    assert (len(room.partial), room.partial.nbytes, room.counters["interrupted"]) == (0, 0, 2)


# ---- with sockets


def submit(nbytes: int) -> tuple[Submit, dict[str, Column]]:
    task = TaskId("T" + "1" * 32)
    message = Submit(
        mid=1, ns="n", digest=bytes(32), nonce=bytes(8), ids=(task,), submit_digests=(bytes(16),), digests={}
    )
    return message, {"value": column(1, width=nbytes)}


def test_hostile_senders_and_good_ones_at_once(world: World) -> None:
    """Many that never finish take all there is; in the middle of it a member and a client say something long."""
    here, there = Station(world, 1, message_bytes="8MiB", partial_bytes="12MiB"), Station(world, 2)
    here.meet(there)
    hostile = [Stranger(world, here, of_client(ClientId(f"C{number:032x}")) + b"b") for number in range(1, 9)]
    begun = pieces([bytes(100), bytes(7 * MIB)], 1)[:5]
    held: list[int] = []
    world.ticks.append(lambda: held.append(here.links._partial.nbytes))

    def attack() -> None:
        before = here.links.counters["crowded"]
        for part in begun:
            for stranger in hostile:
                stranger.say(*part)
        world.until(lambda: here.links.counters["crowded"] > before)

    attack()
    there.links.send(here.me.id, 1, replicate(), {"value": column(width=2 * MIB), "other": column()})
    attack()
    world.until(lambda: replicate() in here.heard())
    attack()
    world.clock.ahead_s += partial.PATIENCE_S + 10  # by now the others dawdle
    caller = Caller(world, ALICE, here)
    message, columns = submit(6 * MIB)
    caller.say(message, columns)
    world.until(lambda: message in here.heard())
    assert 8 * MIB < max(held) <= 12 * MIB
