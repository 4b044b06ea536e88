"""Links of a client: who is at an address, and what becomes of it when that changes."""

from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any

import pytest
import zmq

from scatterzmq.core.greetings import cluster_tag
from scatterzmq.core.messages import AskNamespaces, Contact, MemberList, Namespaces, ToClient
from scatterzmq.core.peermessages import Bye
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.net import clientlinks
from scatterzmq.net.clientlinks import REFUSED, SILENT, ClientLinks
from scatterzmq.net.reactor import Reactor
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import Envelope, encode

from .conftest import no_files_left
from .scripted import ScriptedPeer

LONG_S = 20.0


class World:
    """Links with a driver that takes notes, and peers; all in this thread.

    links: (letter of the peer, whether up) as they were told. heard: (letter, message).
    """

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.changes = 0
        self.told: list[tuple[str, bool]] = []
        self.heard_: list[tuple[str, ToClient]] = []
        self.peers: list[ScriptedPeer] = []
        self.links = ClientLinks(self.reactor, self.changed, outbox_bytes=1 << 20, cluster="mine")
        self.links.start(self)

    def changed(self) -> None:
        self.changes += 1

    def heard(self, peer: PeerId, message: ToClient, columns: Mapping[str, Column]) -> None:
        assert not columns
        self.heard_.append((peer[1], message))

    def link(self, peer: PeerId, *, up: bool) -> None:
        self.told.append((peer[1], up))

    def peer(self, letter: str, **options: Any) -> ScriptedPeer:
        peer = ScriptedPeer(letter, **options)
        self.peers.append(peer)
        return peer

    def until(self, done: Callable[[], object]) -> None:
        """Go on until something holds."""
        deadline = monotonic() + LONG_S
        while not done():
            assert monotonic() < deadline, f"it never happens; links {self.told}, problems {self.links.problems()}"
            self.reactor.step(0.005)
            for peer in self.peers:
                peer.step()

    def until_told(self, *told: tuple[str, bool]) -> None:
        """Go on until just these have been told."""
        self.until(lambda: len(self.told) >= len(told))
        assert self.told == list(told)
        self.told.clear()

    def through(self) -> None:
        """Go on until everything that is on its way has arrived."""
        done: list[bool] = []
        self.links.when_through(lambda: done.append(True))
        self.until(lambda: done)

    def close(self) -> None:
        self.links.close()
        self.reactor.close()
        for peer in self.peers:
            peer.close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(clientlinks, "ASK_AGAIN_S", 0.02)
    made = World()
    yield made
    made.close()


def client_of(peer: ScriptedPeer) -> ClientId:
    (client,) = peer.clients
    return client


# ---- who is there


def test_a_link_is_up_when_the_peer_has_said_who_it_is(world: World) -> None:
    peer = world.peer("a", silent=True)
    world.links.seed(peer.address)
    world.until(lambda: peer.asked >= 3)
    assert world.told == []
    assert world.links.problems() == ((peer.address, SILENT),)
    assert not world.links.members
    peer.silent = False
    world.until_told(("a", True))
    assert world.links.is_connected
    assert world.changes == 1
    assert world.links.problems() == ()
    asked = peer.asked
    world.through()
    assert peer.asked == asked + 1, "nobody asks on"


def test_the_answer_is_passed_on(world: World) -> None:
    peer = world.peer("a")
    other = Contact(id=PeerId("P" + "b" * 32), incarnation=4, address="tcp://127.0.0.1:1", name="peer-b")
    peer.others = (other,)
    world.links.seed(peer.address)
    world.until(lambda: world.heard_)
    ((letter, message),) = world.heard_
    assert letter == "a"
    assert isinstance(message, MemberList)
    assert message.members == (peer.contact, other)
    assert [(member.name, member.status, member.address) for member in world.links.members] == [
        ("peer-a", "alive", peer.address),
        ("peer-b", "suspect", "tcp://127.0.0.1:1"),
    ]


def test_what_is_said_names_the_life_it_is_for(world: World) -> None:
    peer = world.peer("a", incarnation=7, answer=lambda *_: Namespaces(mid=1, infos=()))
    world.links.seed(peer.address)
    world.until_told(("a", True))
    world.links.send(peer.id, AskNamespaces(mid=1), {})
    world.until(lambda: ("a", Namespaces(mid=1, infos=())) in world.heard_)
    ((envelope, message),) = peer.heard
    assert message == AskNamespaces(mid=1)
    assert (envelope.src, envelope.dst, envelope.dst_incarnation) == (client_of(peer), peer.id, 7)


def test_a_peer_that_comes_late_is_found(world: World) -> None:
    first = world.peer("a")
    port = first.port
    first.close()
    world.links.seed(f"tcp://127.0.0.1:{port}")
    world.until(lambda: world.links.problems() == ((f"tcp://127.0.0.1:{port}", REFUSED),))
    world.peer("b", port=port)
    world.until_told(("b", True))


def test_another_life_at_the_same_port_is_another_link(world: World) -> None:
    first = world.peer("a", incarnation=1)
    world.links.seed(first.address)
    world.until_told(("a", True))
    first.close()
    world.until_told(("a", False))
    assert not world.links.is_connected
    world.links.send(first.id, AskNamespaces(mid=1), {})
    again = world.peer("a", port=first.port, incarnation=2)
    world.until_told(("a", True))
    world.links.send(first.id, AskNamespaces(mid=2), {})
    world.through()
    assert [(envelope.dst_incarnation, message) for envelope, message in again.heard] == [(2, AskNamespaces(mid=2))]


def test_another_peer_at_the_same_port_is_known_as_such(world: World) -> None:
    first = world.peer("a")
    world.links.seed(first.address)
    world.until_told(("a", True))
    first.close()
    world.until_told(("a", False))
    second = world.peer("b", port=first.port)
    world.until_told(("b", True))
    world.links.send(first.id, AskNamespaces(mid=1), {})
    world.links.send(second.id, AskNamespaces(mid=2), {})
    world.through()
    assert [message for _, message in second.heard] == [AskNamespaces(mid=2)]
    assert world.links.counters["unlinked"] == 1


def test_a_peer_that_is_somewhere_else_is_not_linked_where_it_was_said_to_be(world: World) -> None:
    peer = world.peer("a")
    absent = Contact(id=PeerId("P" + "b" * 32), incarnation=1, address=peer.address)
    world.links.connect(absent)
    world.until_told(("a", True), ("b", False))


def test_that_nobody_listens_is_told(world: World) -> None:
    gone = world.peer("b")
    gone.close()
    world.links.connect(gone.contact)
    world.until(lambda: world.told)
    assert world.told[0] == ("b", False)


def test_the_driver_is_not_called_from_within_what_it_asks_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = world.peer("a")
    world.links.seed(peer.address)
    world.until_told(("a", True))
    world.through()
    peer.close()
    lanes = world.links._places[peer.address].lanes
    assert lanes is not None
    assert lanes._control._monitor is not None
    assert lanes._control._monitor._events.poll(int(LONG_S * 1000)), "the loss can be seen now"

    def full(_: object) -> None:
        raise zmq.Again

    monkeypatch.setattr(lanes._control, "_put", full)
    world.links.send(peer.id, AskNamespaces(mid=1), {})
    assert not lanes.is_up, "and has been seen"
    assert world.told == []
    world.until_told(("a", False))


# ---- several ways


def test_two_addresses_of_one_peer_are_one_link(world: World) -> None:
    peer = world.peer("a")
    alias = f"tcp://127.0.0.2:{peer.port}"
    peer._router.bind(alias)
    world.links.seed(peer.address)
    world.links.seed(alias)
    names = {place.client for place in world.links._places.values()}
    assert len(names) == 2, "a name of its own each, or one would take the answers away from the other"
    world.until_told(("a", True))
    world.until(lambda: len(world.links._places) == 1)
    world.through()
    assert world.told == []
    assert world.links.counters["sender"] == 0, "what the other way brings is no stranger's"
    assert peer.clients.keys() <= names  # who is quick is the only way before the other one has said anything


def test_a_peer_that_moved_is_followed(world: World) -> None:
    before = world.peer("a", incarnation=1)
    world.links.seed(before.address)
    world.until_told(("a", True))
    after = world.peer("a", incarnation=2)
    world.links.connect(after.contact)
    world.until_told(("a", False), ("a", True))
    world.links.send(after.id, AskNamespaces(mid=1), {})
    world.through()
    assert (len(before.heard), len(after.heard)) == (0, 1)
    world.until(lambda: list(world.links._places) == [after.address])


def test_an_earlier_life_does_not_take_the_place_of_a_later_one(world: World) -> None:
    now = world.peer("a", incarnation=2)
    world.links.seed(now.address)
    world.until_told(("a", True))
    ghost = world.peer("a", incarnation=1)
    world.links.connect(ghost.contact)
    world.until(lambda: ghost.asked)
    world.until(lambda: list(world.links._places) == [now.address])
    assert world.told == []


def test_a_lost_peer_is_looked_for_at_its_own_address_too(world: World) -> None:
    peer = world.peer("a")
    real = world.peer("a")
    told = peer.contact
    peer.others = (Contact(id=told.id, incarnation=1, address=real.address),)  # how it would be known behind a gateway
    world.links.seed(peer.address)
    world.until_told(("a", True))
    world.through()
    peer.close()
    world.until(lambda: ("a", True) in world.told)
    assert real.asked


def test_who_is_told_to_be_gone_is_not_tried_any_more(world: World) -> None:
    peer, other = world.peer("a"), world.peer("b")
    world.links.seed(peer.address)
    world.until_told(("a", True))  # else the seed may be dropped, as there is a link to the other one
    world.links.connect(other.contact)
    world.until_told(("b", True))
    other.close()
    world.until(lambda: world.told)
    world.links.disconnect(other.id)
    assert list(world.links._places) == [peer.address]
    world.links.disconnect(other.id)
    world.through()


def test_a_client_without_files_left_lives_on_and_tries_its_links_later(world: World) -> None:
    peer, other = world.peer("a"), world.peer("b")
    with no_files_left():
        world.links.seed(peer.address)
        world.links.connect(other.contact)
        assert world.links.counters["files"] == 2
    assert world.links.problems() == ()
    world.until_told(("b", True))


# ---- seeds


def test_other_seeds_are_dropped_once_there_is_a_link(world: World) -> None:
    dead = world.peer("d")
    dead.close()
    silent = world.peer("s", silent=True)
    peer = world.peer("a", silent=True)
    for address in (dead.address, silent.address, peer.address, "nonsense", "tcp://"):
        world.links.seed(address)
    assert world.links.counters["address"] == 2
    world.until(lambda: silent.asked and peer.asked and dict(world.links.problems())[dead.address] == REFUSED)
    peer.silent = False
    world.until_told(("a", True))
    world.until(lambda: list(world.links._places) == [peer.address])
    world.links.seed(silent.address)
    assert list(world.links._places) == [peer.address], "there is no need for seeds now"


def test_there_are_not_more_seeds_than_can_be_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clientlinks, "SEEDS_MAX", 3)
    for number in range(5):
        world.links.seed(f"tcp://127.0.0.1:{number + 1}")
        world.links.seed("tcp://127.0.0.1:1")
    assert len(world.links._places) == 3


# ---- what comes in


def test_garbage_and_strangers_words_are_counted_and_dropped(world: World) -> None:
    peer = world.peer("a", incarnation=5)
    world.links.seed(peer.address)
    world.until_told(("a", True))
    world.through()
    world.heard_.clear()
    client, message = client_of(peer), Namespaces(mid=1, infos=())
    peer.send(client, [b"garbage"])
    peer.send(client, [b"garbage", b"more"])
    peer.send(client, encode(message, {}, Envelope(src=peer.id, src_incarnation=5, dst=client))[:1])
    peer.say(client, message, dst=ClientId("C" + "f" * 32))
    peer.say(client, message, dst=None)
    peer.say(client, message, src=ClientId("C" + "f" * 32))
    peer.say(client, message, src=PeerId("P" + "f" * 32))
    peer.say(client, message, src_incarnation=4)
    peer.send(client, encode(Bye(), {}, Envelope(src=peer.id, src_incarnation=5, dst=client)))
    peer.say(client, message)
    world.until(lambda: world.heard_)
    world.through()
    assert [heard for heard in world.heard_ if not isinstance(heard[1], MemberList)] == [("a", message)]
    counters = world.links.counters
    assert (counters["receiver"], counters["sender"], counters["role"]) == (3, 2, 1)
    assert sum(counters.values()) == 9, counters
    assert world.told == []


def test_an_old_answer_does_not_say_who_is_there(world: World) -> None:
    peer = world.peer("a", silent=True)
    world.links.seed(peer.address)
    world.until(lambda: peer.asked)
    client = client_of(peer)
    peer.say(client, MemberList(mid=0, members=()))
    peer.say(client, MemberList(mid=1 << 40, members=()))
    asked = peer.asked
    world.until(lambda: peer.asked >= asked + 2)
    assert world.told == []
    assert world.links.counters["sender"] == 2


def test_everything_is_through_without_any_link(world: World) -> None:
    done: list[bool] = []
    world.links.when_through(lambda: done.append(True))
    assert done


def test_nobody_waits_for_a_peer_that_goes(world: World) -> None:
    peer = world.peer("a")
    world.links.seed(peer.address)
    world.until_told(("a", True))
    peer.silent = True
    done: list[bool] = []
    world.links.when_through(lambda: done.append(True))
    asked = peer.asked
    world.until(lambda: peer.asked > asked)
    assert not done
    peer.close()
    world.until(lambda: done)


# ---- other clusters


def test_a_peer_of_another_cluster_turns_us_away_once(world: World) -> None:
    peer = world.peer("a", refusal="this is cluster 'theirs', another one than yours")
    world.links.seed(peer.address)
    world.until(lambda: world.links.refusals())
    assert peer.tags == [cluster_tag("mine")]
    assert world.links.refusals() == world.links.problems() == ((peer.address, peer.refusal),)
    assert (world.told, world.changes, world.links.is_connected) == ([], 1, False)
    world.reactor.later(0.1, lambda: world.told.append(("later", True)))
    world.until(lambda: world.told)
    assert peer.asked == 1, "it would say the same again"
    assert not peer.heard


def test_others_are_tried_as_long_as_anybody_may_take_us(world: World) -> None:
    foreign, slow = world.peer("a", refusal="no"), world.peer("b", silent=True)
    for peer in (foreign, slow):
        world.links.seed(peer.address)
    world.until(lambda: foreign.asked and slow.asked and ("no" in dict(world.links.problems()).values()))
    assert world.links.refusals() == ()
    slow.silent = False
    world.until_told(("b", True))


def test_whoever_comes_after_a_stranger_is_asked_anew(world: World) -> None:
    before = world.peer("a", refusal="no")
    world.links.seed(before.address)
    world.until(lambda: world.links.refusals())
    before.close()
    world.until(lambda: not world.links.refusals())
    world.peer("b", port=before.port)
    world.until_told(("b", True))


def test_a_refusal_is_not_taken_at_any_length(world: World) -> None:
    peer = world.peer("a", refusal="x" * 100_000)
    world.links.seed(peer.address)
    world.until(lambda: world.links.refusals())
    assert len(world.links.refusals()[0][1]) == 500


def test_peers_say_how_long_a_message_may_be(world: World) -> None:
    assert world.links.message_bytes == 256 << 20
    peer = world.peer("a")
    world.links.seed(peer.address)
    world.until_told(("a", True))
    world.links.connect(peer.contact)
    peer.say(client_of(peer), MemberList(mid=0, members=(peer.contact,), message_bytes=4 << 20))
    world.until(lambda: world.links.message_bytes == 4 << 20)
