"""Links of a peer to other peers: what is sent, who is believed, and what is told when something breaks."""

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.core.events import LinkDown
from scatterzmq.core.messages import AskMembers, Cleared, Contact
from scatterzmq.core.peermessages import AskQueues, Bye, Heartbeat, Unwelcome
from scatterzmq.ids import ClientId
from scatterzmq.net import fragments, lanes, links, options, partial, routing
from scatterzmq.net.fragments import pieces
from scatterzmq.net.monitor import Change
from scatterzmq.network import FromPeer
from scatterzmq.wire.frames import Envelope, encode
from tests.net.conftest import ALICE, Station, Stranger, World, no_files_left, peer_id, peer_name
from tests.test_network import column, replicate


@pytest.fixture
def two(world: World) -> tuple[Station, Station]:
    here, there = Station(world, 1), Station(world, 2)
    here.meet(there)
    for station in (here, there):
        station.posted.clear()
    return here, there


def from_peers(station: Station) -> list[FromPeer]:
    return station.got(FromPeer)


# ---- sending


def test_a_message_says_from_whom_and_for_whom_it_is(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    here.links.send(there.me.id, there.me.incarnation, AskQueues(), {})
    world.until(lambda: from_peers(there))
    (came,) = from_peers(there)
    assert (came.sender, came.incarnation, came.to_incarnation) == (here.me.id, 1, 1)
    assert came.message == AskQueues()
    assert not came.columns


@pytest.mark.parametrize("nbytes", [100, 100_000, 300_000, 20 << 20])
def test_columns_of_any_size_arrive(world: World, two: tuple[Station, Station], nbytes: int) -> None:
    here, there = two
    sent = column(width=nbytes // 3)
    sent.data[:] = random.Random(1).randbytes(len(sent.data))
    here.links.send(there.me.id, 1, replicate(), {"value": sent, "other": column()})
    world.until(lambda: from_peers(there))
    (came,) = from_peers(there)
    assert came.message == replicate()
    assert came.columns["value"].data == sent.data
    assert came.columns["value"].layout == sent.layout
    assert came.columns["value"].data.readonly
    assert came.columns["other"].data == column().data
    assert here.links.counters["sent_bytes"] >= len(sent.data)
    assert there.links.counters["received_bytes"] >= len(sent.data)


def test_what_was_sent_is_counted_and_what_has_no_link_too(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    before = here.links.counters["sent"]
    here.links.send(there.me.id, 1, AskQueues(), {})
    here.links.send(peer_id(9), 1, AskQueues(), {})
    assert here.links.counters["sent"] == before + 1
    assert here.links.counters["unlinked"] == 1


@pytest.mark.parametrize("width", [1, 100_000, 1_000_000])
def test_the_size_of_a_message_is_found_out_once(
    world: World, two: tuple[Station, Station], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    here, there = two
    summed: list[int] = []

    def watched(frames: Sequence[Any]) -> int:
        total = fragments.nbytes(frames)
        summed.append(total)
        return total

    here.links.send(there.me.id, 1, AskQueues(), {})  # by now both lanes are there
    here.links.send(there.me.id, 1, replicate(), {"value": column(width=width)})
    world.until(lambda: len(from_peers(there)) == 2)
    for module in (links, lanes):
        monkeypatch.setattr(module, "nbytes", watched)
    here.links.send(there.me.id, 1, replicate(), {"value": column(width=width)})
    assert [total for total in summed if total >= 3 * width] == summed[:1]


def test_messages_of_one_lane_keep_their_order(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    for number in range(300):
        here.links.send(there.me.id, 1, Heartbeat(seq=number, idle=0), {})
    world.until(lambda: len(from_peers(there)) == 300)
    assert [came.message.seq for came in from_peers(there) if isinstance(came.message, Heartbeat)] == list(range(300))


@pytest.mark.parametrize(("messages", "nbytes"), [(3, 1 << 30), (64, 1 << 20)])
def test_a_round_takes_a_bounded_share(
    world: World, two: tuple[Station, Station], monkeypatch: pytest.MonkeyPatch, messages: int, nbytes: int
) -> None:
    here, there = two
    monkeypatch.setattr(links, "DRAINED_MAX", messages)
    monkeypatch.setattr(links, "DRAINED_BYTES_MAX", nbytes)
    here.links.send(there.me.id, 1, replicate(), {"value": column(width=8 << 20)})
    for _ in range(10):
        here.links.send(there.me.id, 1, AskQueues(), {})
    world.until(lambda: here.reactor.step() or not here.links.waiting_bytes)
    seen = [there.links.counters["received_bytes"]]
    while len(from_peers(there)) < 11:
        here.reactor.step()
        there.reactor.step(0.01)
        seen.append(there.links.counters["received_bytes"])
    assert max(after - before for before, after in pairwise(seen)) < min(messages * 1.1, nbytes / (1 << 20) + 1.1) * (
        1 << 20
    )


PUT_BY = """
from scatterzmq.core.peermessages import Bye, Heartbeat
from tests.net.conftest import Station, World

world = World()
here, one, other = Station(world, 1), Station(world, 2), Station(world, 3)
here.meet(one)
here.meet(other)
here.posted.clear()
for seq in range(3):
    one.links.publish(Heartbeat(seq=seq, idle=0))
assert here.links._subscriber.poll(20_000)  # by that, its first frame is at hand
for seq in range(3):
    other.links.publish(Heartbeat(seq=seq, idle=0))
here.links.close(one.me.id)
here.links.publish(Bye())
world.until(lambda: len([message for message in here.heard() if isinstance(message, Heartbeat)]) == 3)
world.until(lambda: here.links.rejected["sender"])
assert {posted.sender for posted in here.posted} == {other.me.id}
world.close()
"""


def test_a_link_may_be_closed_while_its_publications_wait() -> None:
    """libzmq ends the process if a connection is let go of which a first frame was looked at: so in one of its own."""
    root = str(Path(__file__).parent.parent.parent)
    ended = subprocess.run([sys.executable, "-W", "error", "-c", PUT_BY], capture_output=True, text=True, cwd=root)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_goodbye_is_sent_before_the_end(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    here.links.publish(Bye())
    here.links.close_all()
    here.reactor.close(linger_s=0.5)
    world.reactors.remove(here.reactor)
    world.until(lambda: Bye() in there.heard())


def test_whoever_has_left_is_told(world: World, two: tuple[Station, Station]) -> None:
    here, _ = two
    here.links.left(3)
    assert here.lost == [3]


# ---- dialing


def test_whoever_is_at_an_address_is_greeted(world: World) -> None:
    here, there = Station(world, 1), Station(world, 2)
    here.links.dial(there.me.address, here.hello())
    world.until(lambda: from_peers(there))
    (came,) = from_peers(there)
    assert (came.sender, came.to_incarnation, came.message) == (here.me.id, 0, here.hello())
    there.links.dial(here.me.address, Unwelcome(reason="no"))
    world.until(lambda: from_peers(here))
    assert here.heard() == [Unwelcome(reason="no")]


def test_each_greeting_has_a_connection_of_its_own_and_none_is_kept(world: World) -> None:
    here, there = Station(world, 1), Station(world, 2)
    for count in range(1, 4):
        here.links.dial(there.me.address, here.hello())
        world.until(lambda count=count: len(from_peers(there)) == count)  # type: ignore[misc]
        assert len(here.links._dialed) == 1
    world.clock.ahead_s += links.DIAL_S + 1
    world.step()
    assert not here.links._dialed


def test_greetings_to_nobody_do_not_pile_up(world: World) -> None:
    here = Station(world, 1)
    for number in range(300):
        here.links.dial(f"tcp://127.0.0.1:{30000 + number}", here.hello())
    assert len(here.links._dialed) == 256
    assert len([one for one in here.reactor.context._sockets if not one.closed]) < 2 * 256
    world.clock.ahead_s += links.DIAL_S + 1
    world.step()
    assert not here.links._dialed


def test_addresses_that_are_none_are_counted(world: World) -> None:
    here = Station(world, 1)
    for address in ("", "mesh://1", "tcp://nowhere", "ipc://x"):
        here.links.dial(address, here.hello())
        here.links.open(Contact(id=peer_id(9), incarnation=1, address=address))
    assert here.links.counters["address"] == 8
    here.links.send(peer_id(9), 1, AskQueues(), {})
    assert here.links.counters["unlinked"] == 1


# ---- publications


def test_publications_reach_all_that_have_a_link(world: World) -> None:
    stations = [Station(world, number) for number in range(3)]
    for index, one in enumerate(stations):
        for other in stations[:index]:
            one.meet(other)
    for one in stations:
        one.posted.clear()
    stations[0].links.publish(Heartbeat(seq=1, idle=0))
    world.until(lambda: all(other.posted for other in stations[1:]))
    world.settle()
    for other in stations[1:]:
        (came,) = from_peers(other)
        assert (came.sender, came.incarnation, came.to_incarnation) == (stations[0].me.id, 1, 0)
        assert came.message == Heartbeat(seq=1, idle=0)
    assert not stations[0].posted, "nobody hears itself"


def test_whoever_has_no_link_is_not_heard(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    there.links.close(here.me.id)
    here.links.publish(Heartbeat(seq=2, idle=0))
    here.links.send(there.me.id, 1, AskQueues(), {})
    world.until(lambda: there.heard())
    world.settle()
    assert there.heard() == [AskQueues()]


def test_publications_of_others_on_the_same_port_are_not_believed(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    there.links._links[peer_id(9)] = there.links._links.pop(here.me.id)  # as if another peer published there
    here.links.publish(Heartbeat(seq=1, idle=0))
    world.until(lambda: there.links.rejected["sender"])
    assert not there.heard()


def test_what_is_published_and_no_message_is_counted(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    envelope = Envelope(src=here.me.id, src_incarnation=1)
    for frames in ([b"x"], [b"szmf", b"y"], encode(Cleared(mid=1), {}, envelope), encode(AskQueues(), {}, envelope)):
        here.links._publisher.send_multipart(frames)
    world.until(lambda: there.posted)
    assert there.links.rejected == {"frame_count": 1, "envelope": 1, "role": 1}
    assert there.heard() == [AskQueues()]


def test_who_does_not_publish_is_linked_nevertheless(world: World) -> None:
    here, there = Station(world, 1), Station(world, 2)
    here.links.open(replace(there.me, gossip_port=0))
    here.links.send(there.me.id, 1, AskQueues(), {})
    world.until(lambda: from_peers(there))
    assert not here.links._subscribed
    here.links.close(there.me.id)
    here.links.close(there.me.id)


def test_a_link_that_is_opened_again_leaves_one_subscription(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    for _ in range(3):
        there.links.open(here.me)
    assert list(there.links._subscribed.values()) == [1]
    # another life of it, at the same port, before the old one is closed
    there.links.open(replace(here.me, id=peer_id(7)))
    assert list(there.links._subscribed.values()) == [2]
    there.links.close(here.me.id)
    world.until(lambda: here.links.publish(Heartbeat(seq=2, idle=0)) or there.links.rejected["sender"])  # type: ignore[func-returns-value]
    there.links.close(peer_id(7))
    assert not there.links._subscribed


def test_a_publication_that_is_too_long_is_not_sent(world: World, two: tuple[Station, Station]) -> None:
    here, _ = two
    here.links.publish(Heartbeat(seq=1, idle=0, missing=tuple(peer_id(number) for number in range(80_000))))
    assert here.links.counters["long"] == 1


# ---- what breaks


def test_the_end_of_a_process_is_told_as_refused(world: World, two: tuple[Station, Station]) -> None:
    here, there = two
    world.until(lambda: here.links._links[there.me.id].lanes.is_up)
    world.kill(there.reactor)
    world.until(lambda: LinkDown(peer=there.me.id, refused=True) in here.posted)
    assert here.posted[0] == LinkDown(peer=there.me.id, refused=False)


def test_a_link_to_nobody_is_told_as_refused_until_it_is_closed(world: World) -> None:
    here, gone = Station(world, 1), Station(world, 2)
    world.kill(gone.reactor)
    here.links.open(gone.me)
    world.until(lambda: here.posted)
    assert here.posted[0] == LinkDown(peer=gone.me.id, refused=True)
    here.links.close(gone.me.id)
    here.posted.clear()
    world.settle()
    assert not here.posted


def test_a_peer_without_files_left_lives_on_and_opens_its_links_later(world: World) -> None:
    one, other = Station(world, 1), Station(world, 2)
    with no_files_left():
        one.links.dial(other.me.address, one.hello())
        one.links.open(other.me)
        assert one.links.counters["files"] == 2
        one.links.send(other.me.id, 1, Bye(), {})
        one.links.open(replace(other.me, id=peer_id(3)))
        one.links.close(peer_id(3))
    world.settle()
    assert other.posted == []
    world.clock.ahead_s += links.OPEN_AGAIN_S
    world.step()
    one.links.send(other.me.id, 1, Bye(), {})
    world.until(lambda: other.heard() == [Bye()])
    one.links.send(peer_id(3), 1, Bye(), {})
    assert one.links.counters["unlinked"] == 2, "before there was a link, and to whom none is wanted any more"


def test_without_a_file_for_the_bulk_lane_only_what_is_large_is_lost(
    world: World, two: tuple[Station, Station]
) -> None:
    one, other = two
    with no_files_left():
        one.links.send(other.me.id, 1, replicate(), {"value": column(width=100_000)})
        assert one.links.counters["files"] == 1
        one.links.send(other.me.id, 1, Bye(), {})
        world.until(lambda: other.heard()[-1:] == [Bye()])
    one.links.send(other.me.id, 1, replicate(), {"value": column(width=100_000)})
    world.until(lambda: other.heard()[-1:] == [replicate()])


def test_what_is_told_of_a_link_that_was_closed_meanwhile_is_dropped(world: World) -> None:
    here, gone = Station(world, 1), Station(world, 2)
    here.links.open(gone.me)
    lanes = here.links._links[gone.me.id].lanes
    here.links._changed(gone.me.id, lanes, Change.DOWN)
    here.links.open(gone.me)
    here.reactor.step()
    assert not here.posted


def test_nothing_that_waited_for_a_dead_peer_reaches_the_next_one_on_its_port(world: World) -> None:
    here, old = Station(world, 1), Station(world, 2)
    here.meet(old)
    here.posted.clear()
    world.kill(old.reactor)
    for _ in range(50):
        here.links.send(old.me.id, 1, AskQueues(), {})
        here.links.send(old.me.id, 1, replicate(), {"value": column(width=200_000)})
    world.until(lambda: LinkDown(peer=old.me.id, refused=True) in here.posted)
    new = Station(world, 3, port=old.port)
    world.until(lambda: here.links._links[old.me.id].lanes.is_up)
    here.links.send(old.me.id, 1, Heartbeat(seq=1, idle=0), {})
    world.until(lambda: from_peers(new))
    world.settle()
    (came,) = from_peers(new)
    assert came.message == Heartbeat(seq=1, idle=0)
    assert came.to_incarnation == links.NOBODY, "and what comes later says that it is for somebody else"


# ---- who is believed


def valid(**changes: Any) -> list[bytes]:
    envelope: dict[str, Any] = {
        "src": peer_id(5),
        "src_incarnation": 1,
        "dst": peer_id(1),
        "dst_incarnation": 1,
    } | changes
    return [bytes(frame) for frame in encode(AskQueues(), {}, Envelope(**envelope))]


def test_a_message_must_be_of_whose_connection_it_is(world: World) -> None:
    here = Station(world, 1)
    other = Stranger(world, here, peer_name(5) + b"c")
    for changes in ({"src": peer_id(6)}, {"src_incarnation": 2}, {"src": None}, {"src": ClientId("C" + "5" * 32)}):
        other.say(*valid(**changes))
    other.say(*valid())
    world.until(lambda: here.posted)
    assert here.links.rejected == {"sender": 4}
    assert [(came.sender, came.incarnation) for came in from_peers(here)] == [(peer_id(5), 1)]


@pytest.mark.parametrize(
    "name", [b"x", b"P", peer_name(5), b"C" + bytes(16), b"X" + bytes(25), peer_name(5) + bytes(9)]
)
def test_connections_of_others_are_not_heard(world: World, name: bytes) -> None:
    here = Station(world, 1)
    Stranger(world, here, name).say(*valid())
    world.until(lambda: here.links.rejected)
    assert here.links.rejected == {"routing_id": 1}
    assert not here.posted


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b""], "frame_count"),
        ([b"x", b"y"], "envelope"),
        ([os.urandom(300), b"y"], "envelope"),
        ([valid()[0], b"\xc1"], "body"),
        ([valid()[0].replace(b"szmq", b"szmp"), valid()[1]], "magic"),
        ([valid()[0].replace(b"szmq\x01", b"szmq\x02"), valid()[1]], "version"),
        ([*valid(), b"more"], "frame_count"),
        ([valid()[0]] * 259, "frame_count"),
        ([b"szmf"], "envelope"),
        ([b"szmf" + bytes(8) + b"\xff" * 16, b"x"], "total_bytes"),
        ([bytes(frame) for frame in encode(Cleared(mid=1), {}, Envelope(src=peer_id(5), src_incarnation=1))], "role"),
        (
            [bytes(frame) for frame in encode(AskMembers(mid=1), {}, Envelope(src=peer_id(5), src_incarnation=1))],
            "role",
        ),
    ],
)
def test_what_is_no_message_is_counted_and_nothing_else(world: World, frames: list[bytes], reason: str) -> None:
    here = Station(world, 1)
    other = Stranger(world, here, peer_name(5) + b"c")
    other.say(*frames)
    other.say(*valid())
    world.until(lambda: here.posted)
    assert here.links.rejected == {reason: 1}
    assert [came.message for came in from_peers(here)] == [AskQueues()]


def test_a_frame_that_is_too_long_costs_the_connection(world: World) -> None:
    here = Station(world, 1)
    other = Stranger(world, here, peer_name(5) + b"c")
    other.say(valid()[0], bytes(2 << 20))
    other.say(*valid())
    world.settle()
    assert not here.links.rejected
    Stranger(world, here, peer_name(5) + b"c").say(*valid())
    world.until(lambda: here.posted)


def test_any_garbage_is_survived(world: World) -> None:
    here = Station(world, 1)
    other = Stranger(world, here, peer_name(5) + b"c")
    chance = random.Random(7)
    good = valid()
    for _ in range(500):
        frames = [bytearray(frame) for frame in good]
        for _ in range(chance.randrange(1, 4)):
            frame = chance.choice(frames)
            if frame:
                frame[chance.randrange(len(frame))] = chance.randrange(256)
        other.say(*frames[: chance.randrange(1, 4)])
    other.say(*good)
    world.until(lambda: sum(here.links.rejected.values()) + len(here.posted) >= 501)
    assert len(here.links.rejected) > 3


def test_another_life_of_a_peer_is_told_apart(world: World) -> None:
    here = Station(world, 1, incarnation=7)
    for incarnation in (1, 2):
        other = Stranger(world, here, peer_name(5, incarnation) + b"c")
        other.say(*valid(src_incarnation=incarnation, dst_incarnation=3))
        world.until(lambda: here.posted)
        (came,) = from_peers(here)
        assert (came.incarnation, came.to_incarnation) == (incarnation, 3)
        here.posted.clear()


def test_whoever_comes_back_takes_its_own_place(world: World) -> None:
    here = Station(world, 1)
    for count in (1, 2, 3):
        Stranger(world, here, peer_name(5) + b"c").say(*valid())  # the one before is still there
        world.until(lambda count=count: len(here.posted) == count)  # type: ignore[misc]
    assert not here.links.rejected


def test_pieces_that_stop_coming_are_forgotten(world: World) -> None:
    here = Station(world, 1)
    other = Stranger(world, here, peer_name(5) + b"b")
    envelope = Envelope(src=peer_id(5), src_incarnation=1)
    parts = pieces(encode(replicate(), {"value": column(width=1 << 20)}, envelope), 1)
    other.say(*parts[0])
    world.until(lambda: here.links._partial)
    world.clock.ahead_s += partial.PIECES_S - 1
    other.say(*parts[1])
    world.settle()
    assert here.links._partial
    world.clock.ahead_s += partial.PIECES_S + 1
    world.step()
    assert not here.links._partial
    assert (here.links.counters["interrupted"], here.links.counters["stalled"]) == (1, 1)
    for part in parts:
        other.say(*part)
    world.until(lambda: here.posted)
    assert not here.links._partial


def test_many_messages_in_pieces_leave_nothing_behind(world: World) -> None:
    here = Station(world, 1)
    stranger = Stranger(world, here, routing.of_client(ALICE) + b"b")
    frames = [bytes(options.PIECE_BYTES), b"x"]
    for number in range(20):
        for part in pieces(frames, number):
            stranger.say(*part)
    world.until(lambda: here.links.rejected.total() == 20)
    assert len(here.reactor._alarms) <= 2


def test_routing_ids_say_who_it_is() -> None:
    assert routing.read(routing.of_peer(peer_id(3), 2**40) + b"c") == routing.Origin(peer_id(3), 2**40)
    assert routing.read(routing.of_peer(peer_id(3), 1) + b"d1234") == routing.Origin(peer_id(3), 1)
    assert routing.read(routing.of_client(ALICE) + b"b") == routing.Origin(ALICE, 0)
