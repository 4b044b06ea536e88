"""Clients of a peer: who is there, what reaches them, and who is let go."""

from typing import Any

import pytest
import zmq

from scatterzmq.core.messages import AskMembers, Clear, Cleared, Final, Submit, TaskStatus
from scatterzmq.driver import ClientJoined, ClientLeft, Incoming
from scatterzmq.ids import ClientId, TaskId
from scatterzmq.net import answers
from scatterzmq.net.lanes import CONTROL_BYTES
from scatterzmq.net.routing import BULK, of_client
from scatterzmq.wire.frames import Envelope, encode
from tests.net.conftest import ALICE, BOB, Caller, Station, Stranger, World, peer_id
from tests.test_network import column

TASKS = tuple([TaskId(f"T{number:032x}") for number in range(3)])
FINAL = Final(
    ids=TASKS,
    ns="n",
    statuses=(TaskStatus.READY,) * 3,
    errors=(None,) * 3,
    retries=(0,) * 3,
    durations_ms=(1,) * 3,
)
SUBMIT = Submit(mid=1, ns="n", digest=b"d" * 32, nonce=b"n" * 8, ids=TASKS, submit_digests=(b"s" * 16,) * 3)


@pytest.fixture
def peer(world: World) -> Station:
    return Station(world, 1)


def joined(world: World, peer: Station, caller: Caller) -> Any:
    """Its `deliver`."""
    peer.clients.pop(caller.client, None)
    caller.say(AskMembers(mid=1))
    world.until(lambda: caller.client in peer.clients)
    return peer.clients[caller.client]


def test_the_first_message_makes_a_client(world: World, peer: Station) -> None:
    caller = Caller(world, ALICE, peer)
    caller.say(AskMembers(mid=1))
    caller.say(SUBMIT, {"value": column(width=7)})
    world.until(lambda: len(peer.got(Incoming)) == 2)
    assert [type(one) for one in peer.posted] == [ClientJoined, Incoming, Incoming]
    first, second = peer.got(Incoming)
    assert (first.sender, first.message) == (ALICE, AskMembers(mid=1))
    assert (second.message, second.columns["value"].data) == (SUBMIT, column(width=7).data)
    assert peer.links.clients_count == 1


def test_each_client_gets_its_own_answers(world: World, peer: Station) -> None:
    callers = [Caller(world, client, peer) for client in (ALICE, BOB)]
    for mid, caller in enumerate(callers):
        joined(world, peer, caller)(Cleared(mid=mid), {})
    world.until(lambda: all(caller.heard for caller in callers))
    assert [caller.heard for caller in callers] == [[(Cleared(mid=0), {})], [(Cleared(mid=1), {})]]


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("nbytes", [100, CONTROL_BYTES, 20 << 20])
def test_results_of_any_size_arrive(world: World, peer: Station, nbytes: int, both: bool) -> None:
    caller = Caller(world, ALICE, peer, both=both)
    sent = column(width=nbytes // 3 + 1)
    sent.data[-5:] = b"12345"
    joined(world, peer, caller)(FINAL, {"value": sent})
    world.until(lambda: caller.heard)
    ((message, columns),) = caller.heard
    assert message == FINAL
    assert columns["value"].data == sent.data
    assert not caller.counters


def test_large_requests_come_over_the_bulk_lane(world: World, peer: Station) -> None:
    caller = Caller(world, ALICE, peer)
    caller.say(SUBMIT, {"value": column(width=7 << 20)})
    world.until(lambda: peer.got(Incoming))
    assert peer.got(Incoming)[0].columns["value"].data == column(width=7 << 20).data


def test_what_is_for_another_peer_is_dropped(world: World, peer: Station) -> None:
    caller = Caller(world, ALICE, peer)
    caller.say(AskMembers(mid=1), dst=peer_id(2))
    caller.say(AskMembers(mid=2), dst_incarnation=7)
    caller.say(AskMembers(mid=3), dst=None, dst_incarnation=0)
    world.until(lambda: peer.got(Incoming))
    assert peer.links.rejected == {"receiver": 2}
    assert [one.message for one in peer.got(Incoming)] == [AskMembers(mid=3)], "whoever it is may be asked"


def test_words_of_peers_are_not_for_clients_to_say(world: World, peer: Station) -> None:
    stranger = Stranger(world, peer, of_client(ALICE) + b"c")
    stranger.say(*encode(Cleared(mid=1), {}, Envelope(src=ALICE)))
    stranger.say(*encode(peer.hello(), {}, Envelope(src=ALICE)))
    stranger.say(*encode(AskMembers(mid=1), {}, Envelope(src=BOB)))
    world.until(lambda: sum(peer.links.rejected.values()) == 3)
    assert peer.links.rejected == {"role": 2, "sender": 1}
    assert not peer.posted


def test_a_client_that_is_gone_is_let_go(world: World, peer: Station) -> None:
    caller = Caller(world, ALICE, peer)
    deliver = joined(world, peer, caller)
    world.kill(caller.reactor)

    def told() -> bool:
        deliver(Cleared(mid=1), {})
        return bool(peer.got(ClientLeft))

    world.until(told)
    assert [one.client for one in peer.got(ClientLeft)] == [ALICE]
    assert peer.links.counters["clients_gone"] == 1
    assert peer.links.clients_count == 0
    deliver(Cleared(mid=1), {})
    world.settle()
    assert len(peer.got(ClientLeft)) == 1


def test_a_client_that_comes_back_is_a_new_one(world: World, peer: Station) -> None:
    first = Caller(world, ALICE, peer)
    old = joined(world, peer, first)
    world.kill(first.reactor)
    world.until(lambda: old(Cleared(mid=1), {}) or peer.links.clients_count == 0)
    second = Caller(world, ALICE, peer)
    deliver = joined(world, peer, second)
    kinds = [type(one) for one in peer.posted]
    assert kinds == [ClientJoined, Incoming, ClientLeft, ClientJoined, Incoming], "in this order"
    old(Cleared(mid=2), {})
    deliver(Cleared(mid=3), {})
    world.until(lambda: second.heard)
    assert second.heard == [(Cleared(mid=3), {})]


def test_its_leaving_is_told_before_its_return(peer: Station) -> None:
    peer.links._answers.heard(ALICE)
    peer.links._answers._let_go(peer.links._answers._clients[ALICE], "clients_slow")
    peer.links._answers.heard(ALICE)
    assert [type(one) for one in peer.posted] == [ClientJoined, ClientLeft, ClientJoined]
    peer.reactor.step()
    assert len(peer.posted) == 3


def test_a_silent_client_is_let_go_and_a_speaking_one_is_not(world: World, peer: Station) -> None:
    silent, speaking = Caller(world, ALICE, peer), Caller(world, BOB, peer)
    joined(world, peer, silent)
    joined(world, peer, speaking)
    for count in range(8):
        world.clock.ahead_s += answers.LOOK_EVERY_S
        before = len(peer.got(Incoming))
        speaking.say(AskMembers(mid=count))
        world.until(lambda before=before: len(peer.got(Incoming)) > before)  # type: ignore[misc]
    assert [one.client for one in peer.got(ClientLeft)] == [ALICE]
    assert peer.links.counters["clients_silent"] == 1
    joined(world, peer, silent)


def test_of_too_many_clients_the_most_silent_is_let_go(
    world: World, peer: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "CLIENTS_MAX", 2)
    callers = [Caller(world, client, peer) for client in (ALICE, BOB)]
    for caller in callers:
        joined(world, peer, caller)
    heard = len(peer.got(Incoming))
    callers[0].say(AskMembers(mid=2))
    world.until(lambda: len(peer.got(Incoming)) > heard)
    joined(world, peer, Caller(world, ClientId("C" + "c" * 32), peer))
    world.until(lambda: peer.got(ClientLeft))
    assert [one.client for one in peer.got(ClientLeft)] == [BOB]
    assert (peer.links.clients_count, peer.links.counters["clients_many"]) == (2, 1)


class Slow:
    """A client that does not read."""

    def __init__(self, world: World, peer: Station) -> None:
        self.world = world
        self.stranger = Stranger(world, peer, of_client(ALICE) + b"c", is_slow=True)
        self.peer = peer
        self.stranger.say(*encode(AskMembers(mid=1), {}, Envelope(src=ALICE)))
        world.until(lambda: ALICE in peer.clients)
        self.deliver = peer.clients[ALICE]

    def read_all(self) -> int:
        """ZeroMQ messages until the peer has nothing more to say."""
        count = 0
        while self.peer.links.waiting_bytes or self.stranger.socket.poll(100):
            self.world.step()
            while self.stranger.socket.poll(0):
                self.stranger.socket.recv_multipart(zmq.NOBLOCK)
                count += 1
        return count


def test_answers_wait_for_a_slow_client_and_others_do_not(world: World, peer: Station) -> None:
    slow, quick = Slow(world, peer), Caller(world, BOB, peer)
    deliver = joined(world, peer, quick)
    sent = 0
    while not peer.links.waiting_bytes:
        slow.deliver(FINAL, {"value": column(width=50_000)})
        sent += 1
    for _ in range(20):
        slow.deliver(FINAL, {"value": column(width=50_000)})
    deliver(Cleared(mid=1), {})
    world.until(lambda: quick.heard)
    assert peer.links.waiting_bytes > 1_000_000
    assert peer.links.counted()["network_waiting_bytes"] == peer.links.waiting_bytes
    assert slow.read_all() == sent + 20
    assert not peer.got(ClientLeft)
    assert not peer.links._answers._retry.is_set, "nothing waits, and nothing is tried"


def test_a_client_for_which_too_much_waits_is_let_go(world: World) -> None:
    peer = Station(world, 1, outbox_bytes=2 << 20)
    slow = Slow(world, peer)
    most = 0
    for _ in range(10_000):
        slow.deliver(FINAL, {"value": column(width=60_000)})
        most = max(most, peer.links.waiting_bytes)
        if not peer.links.clients_count:
            break
    assert 1 << 20 < most <= 2 << 20
    assert peer.links.waiting_bytes == 0
    assert not peer.got(ClientLeft), "not in the middle of an answer"
    world.until(lambda: peer.got(ClientLeft))
    assert peer.links.counters["clients_slow"] == 1
    slow.read_all()
    slow.stranger.say(*encode(AskMembers(mid=1), {}, Envelope(src=ALICE)))
    world.until(lambda: len(peer.got(ClientJoined)) == 2)


def test_an_answer_larger_than_the_outbox_still_goes(world: World) -> None:
    peer = Station(world, 1, outbox_bytes=1 << 20)
    slow = Slow(world, peer)
    slow.deliver(FINAL, {"value": column(width=40 << 20)})
    assert peer.links.waiting_bytes > 1 << 20
    assert slow.read_all() > 100


def test_a_slow_client_that_dies_is_let_go(world: World, peer: Station) -> None:
    slow = Slow(world, peer)
    while not peer.links.waiting_bytes:
        slow.deliver(FINAL, {"value": column(width=50_000)})
    world.kill(slow.stranger.reactor)
    world.until(lambda: peer.got(ClientLeft))
    assert peer.links.waiting_bytes == 0


def test_tries_become_seldom_while_nothing_goes(world: World, peer: Station) -> None:
    slow = Slow(world, peer)
    while not peer.links.waiting_bytes:
        slow.deliver(FINAL, {"value": column(width=50_000)})
    for _ in range(12):
        world.clock.ahead_s += 1
        world.step()
    assert peer.links._answers._retry_s == answers.RETRY_S[1]
    slow.read_all()


def test_an_answer_beyond_the_limits_is_not_sent(world: World, peer: Station) -> None:
    caller = Caller(world, ALICE, peer)
    deliver = joined(world, peer, caller)
    peer.links._answers._bytes_max = 1000
    deliver(FINAL, {"value": column(width=1000)})
    assert peer.links.counters["long"] == 1


def test_a_client_whose_bulk_lane_breaks_gets_large_answers_over_the_other(world: World, peer: Station) -> None:
    caller = Caller(world, ALICE, peer)
    deliver = joined(world, peer, caller)
    bulk = caller.lanes._bulk
    assert bulk is not None
    bulk.close()
    sent: list[int] = []

    def arrived() -> bool:
        if not sent or peer.links.counters["sent"] < 50:
            deliver(FINAL, {"value": column(width=400_000)})
            sent.append(1)
        return bool(caller.heard)

    world.until(arrived)
    assert not peer.got(ClientLeft)
    assert BULK not in peer.links._answers._clients[ALICE].outboxes


def test_fifty_clients(world: World, peer: Station) -> None:
    from scatterzmq.ids import ClientId

    callers = [Caller(world, ClientId(f"C{number:032x}"), peer, both=number % 2 == 0) for number in range(50)]
    for caller in callers:
        caller.say(Clear(mid=1, ids=TASKS))
    world.until(lambda: len(peer.clients) == 50)
    for caller in callers:
        peer.clients[caller.client](FINAL, {"value": column(width=1000)})
    world.until(lambda: all(caller.heard for caller in callers))
    for caller in callers[::2]:
        world.kill(caller.reactor)
    world.until(
        lambda: [tell(Cleared(mid=1), {}) for tell in peer.clients.values()] and len(peer.got(ClientLeft)) == 25
    )
    assert peer.links.clients_count == 25
