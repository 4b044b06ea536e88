"""Who is a member, and who is alive: greetings, lives, silence, witnesses, refusals, pauses, and coming back."""

from dataclasses import replace
from typing import Any, cast

import pytest

from scatterzmq.core import members as members_module
from scatterzmq.core.actions import BatchOrder, CloseLink, Dial, OpenLink, Publish, RowsCancelled, RunBatch, Tell
from scatterzmq.core.dials import Dials
from scatterzmq.core.members import Change, Members, Pulse, Status
from scatterzmq.core.outbox import Outbox
from scatterzmq.core.peermessages import (
    AskQueues,
    Bye,
    Contact,
    Heartbeat,
    Hello,
    Unwelcome,
    Welcome,
    WrongIncarnation,
)
from scatterzmq.core.punctual import Punctual
from scatterzmq.ids import ExecutorId
from scatterzmq.settings import Settings
from tests.core.circle import Circle, One, peer_id

ALIVE, SUSPECT, DEAD, LEFT = Status.ALIVE, Status.SUSPECT, Status.DEAD, Status.LEFT


def circle(n: int, **sections: Any) -> Circle:
    made = Circle(n, **sections)
    made.meet()
    return made


def dials(one: One, number: int, since_ms: int = 0) -> list[int]:
    """When it said hello to the address of another."""
    address = one.circle[number].address
    return [at for at, action in one.said(Hello) if action.address == address and at >= since_ms]


# ---- greetings


def test_two_greet_and_are_members() -> None:
    both = Circle(2)
    both[0].seen(1)
    assert both[0].members.alive() == ()
    both.run(10)
    for one, other in ((both[0], both[1]), (both[1], both[0])):
        assert one.members.alive() == (other.id,)
        assert one.members.is_alive(other.id)
        assert one.members.contacts() == (one.contact, other.contact)
        assert one.links == {other.id: other.address}
        assert [change for _, change in one.changes] == [Change(other.id, ALIVE, 1, heal=False)]
        assert one.reported("peer.join") == [
            {"peer": other.id, "peer_name": other.contact.name, "address": other.address}
        ]
    assert both[0].members.status(peer_id(7)) is None
    assert both[0].members.incarnation(peer_id(7)) == 0
    assert not both[0].members.is_alive(peer_id(7))


def test_whoever_knows_one_gets_to_know_all() -> None:
    all_of_them = circle(6)
    for one in all_of_them.ones:
        assert len(one.members.alive()) == 5
        assert not one.reported("peer.suspect")
    assert all(not dials(one, other, since_ms=200) for one in all_of_them.ones for other in range(6))


def test_groups_that_started_apart_merge() -> None:
    """One of each meets one of the other: that is enough."""
    both = Circle(6)
    for number in (1, 2):
        both[number].seen(0)
    for number in (4, 5):
        both[number].seen(3)
    both.run(1000)
    assert not both.agree()
    both[1].seen(5)
    both.run(20)
    assert both.agree()


@pytest.mark.parametrize("static", [False, True])
def test_peers_that_all_see_each_other_at_once(static: bool) -> None:
    crowd = Circle(5, static=static)
    for one in crowd.ones:
        for number in range(5):
            one.seen(number)
    crowd.run(20)
    assert crowd.agree()


def test_a_greeting_that_nobody_heard_of_is_made_up_for() -> None:
    """0 and 1 never greet each other, until somebody tells them of each other."""
    three = Circle(3)
    three.cut((0, 1))
    for number in (0, 1):
        three[number].seen(2)
    three.run(50)
    three[0].members._dials.drop(three[1].address)
    three[1].members._dials.drop(three[0].address)
    three[0].members._is_next_known = three[1].members._is_next_known = False
    three.heal()
    three.run(5000)
    assert not three.agree()
    three.run(20_000)
    assert three.agree()


def test_a_welcome_that_got_lost_is_asked_for_again() -> None:
    both = Circle(2)
    both.cut((1, 0), both=False)
    both[0].seen(1)
    both.run(50)
    assert both[0].members.alive() == ()
    assert both[1].members.alive() == (both[0].id,)
    both.heal()
    both.run(1000)
    assert both.agree()


def test_nobody_greets_itself() -> None:
    one = Circle(1)[0]
    one.seen(0)
    assert not one.actions
    hello = one.members._greetings.hello()
    assert not one.receive(one.id, 1, hello, 0)
    assert one.members.counters == {"dropped": 1, "refused": 0}
    assert one.members.contacts() == (one.contact,)
    assert not one.actions


def test_an_address_that_nobody_answers_at_is_tried_less_and_less_often() -> None:
    one = Circle(2)[0]
    one.circle[1].gone = True
    one.seen(1)
    one.circle.run(130_000)
    assert dials(one, 1) == [0, 1000, 3000, 7000, 15_000, 31_000, 61_000, 91_000, 121_000]
    one.seen(1)
    one.circle.run(5000)
    assert dials(one, 1, 122_000) == [130_000, 131_000, 133_000]


def test_the_addresses_to_try_are_bounded() -> None:
    """Those that discovery named stay longest, and of these the ones that were tried least."""
    dials = Dials(1000, 3)
    for address in "abcd":
        dials.name(address, 0)
    assert [dials.is_named(address) for address in "abcd"] == [False, True, True, True]
    dials.name("b", 0)
    dials.name("e", 0)
    assert [dials.is_named(address) for address in "bcde"] == [True, False, True, True]
    for now_ms, address in enumerate("bxd"):
        dials.want(address, now_ms)
    assert dials.take_due(2) == ["b", "x", "d"]
    dials.want("y", 3)
    assert [address in dials for address in "bxdy"] == [True, False, True, True]
    dials.want("e", 4)
    assert dials.take_due(1002) == ["b", "d", "e"]
    dials.want("z", 1003)
    assert [address in dials for address in "bdez"] == [False, True, True, True]
    dials.check_invariants()


def test_what_is_seen_where_a_member_is_says_nothing_new() -> None:
    both = circle(2)
    before = len(both[0].actions)
    both[0].seen(1)
    assert len(both[0].actions) == before
    assert both[0].members._dials.is_named(both[1].address)


def test_a_greeting_again_changes_nothing() -> None:
    both = circle(2)
    links = len(both[0].said(OpenLink))
    hello = both[1].members._greetings.hello()
    both[0].receive(both[1].id, 1, hello, 0)
    assert len(both[0].said(OpenLink)) == links
    assert [change.status for _, change in both[0].changes] == [ALIVE]
    assert len(both[0].said(Welcome)) == 2


def test_a_member_that_has_moved_gets_a_new_link() -> None:
    both = circle(2)
    moved = replace(both[1].contact, address="mesh://elsewhere")
    hello = replace(both[1].members._greetings.hello(), me=moved)
    both[0].receive(both[1].id, 1, hello, 0)
    assert both[0].links == {both[1].id: "mesh://elsewhere"}
    assert both[0].members.contacts()[1] == moved
    assert [change.status for _, change in both[0].changes] == [ALIVE]


# ---- refusals


def refusal(one: One, sender: Contact, **different: Any) -> str:
    """Why a peer refuses this greeting; "" if it does not."""
    theirs = Members(sender, bytes(15) + b"x", one.settings, Outbox())
    hello = replace(theirs._greetings.hello(), **different)
    before = len(one.said(Unwelcome))
    assert not one.receive(sender.id, sender.incarnation, hello, 0)
    said = one.said(Unwelcome)[before:]
    if not said:
        return ""
    (_, action) = said[0]
    assert isinstance(action, Dial)
    assert action.address == sender.address
    assert one.links.get(sender.id) != sender.address
    return str(action.message.reason)  # type: ignore[union-attr]


def stranger(number: int = 9, incarnation: int = 1) -> Contact:
    return Contact(id=peer_id(number), incarnation=incarnation, address=f"mesh://{number}")


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"cluster": bytes(8)}, "this is cluster 'default', another one than yours"),
        ({"proto_min": 2, "proto_max": 3}, "speaks versions 1 to 1 of the protocol, not 2 to 3"),
        ({"proto_min": 0, "proto_max": 0}, "not 0 to 0"),
    ],
)
def test_strangers_are_refused(different: dict[str, Any], reason: str) -> None:
    one = Circle(1)[0]
    assert reason in refusal(one, stranger(), **different)
    assert one.members.contacts() == (one.contact,)
    assert one.members.counters["refused"] == 1
    warned = one.reported("warning.peer.refused")
    assert [(warning["peer"], warning["address"]) for warning in warned] == [(peer_id(9), "mesh://9")]
    assert reason in warned[0]["reason"]


def test_a_refusal_is_reported_once_a_minute() -> None:
    one = Circle(1)[0]
    for _ in range(3):
        assert refusal(one, stranger(), cluster=bytes(8))
    assert refusal(one, stranger(), proto_min=2, proto_max=2)
    assert len(one.reported("warning.peer.refused")) == 2
    one.circle.run(60_000)
    assert refusal(one, stranger(), cluster=bytes(8))
    assert len(one.reported("warning.peer.refused")) == 3
    assert one.members.counters["refused"] == 5


def test_peers_that_speak_more_than_this_one_are_welcome() -> None:
    one = Circle(1)[0]
    assert refusal(one, stranger(), proto_min=0, proto_max=9) == ""
    assert one.members.is_alive(peer_id(9))


def test_no_more_than_peers_max() -> None:
    crowd = Circle(3, cluster={"peers_max": 3})
    crowd.meet()
    assert "there are 3 peers already" in refusal(crowd[0], stranger())
    hello = crowd[1].members._greetings.hello()
    crowd[0].receive(crowd[1].id, 1, hello, 0)
    assert crowd[0].members.counters["refused"] == 1, "a member may greet again"
    crowd.kill(1)
    assert refusal(crowd[0], stranger()) == ""


def test_two_clusters_never_mix() -> None:
    both = Circle(1, cluster={"name": "one"})
    both.add(settings=Settings.of({"cluster": {"name": "two"}}))
    for one in both.ones:
        one.seen(1 - one.number)
    both.run(100_000)
    for one in both.ones:
        assert one.members.alive() == ()
        assert one.reported("warning.peer.refused")
        assert one.reported("warning.peer.unwelcome")[0]["reason"].startswith("this is cluster")
        assert len(one.reported("warning.peer.unwelcome")) == 2, "once a minute"
    assert len(both[0].said(Hello)) < 10


def test_a_copied_data_directory_is_found() -> None:
    """Two processes claim one id and one life: the second is refused everywhere, also by the first."""
    both = circle(2)
    twin = both[1].contact
    assert "there is another peer" in refusal(both[0], replace(twin, address="mesh://twin"))
    assert both[0].members.contacts()[1] == twin
    assert "there is another peer" in refusal(both[1], replace(twin, address="mesh://twin"))
    both.kill(1)
    assert "there is another peer" in refusal(both[0], replace(twin, address="mesh://twin")), "dead or not"
    assert both[0].status(1) is DEAD


def test_a_twin_at_the_same_address_is_not_told() -> None:
    one = Circle(1)[0]
    assert refusal(one, one.contact) == ""
    assert refusal(one, replace(one.contact, address="")) == ""
    assert one.members.counters["refused"] == 2


def test_whoever_refuses_us_is_no_good() -> None:
    three = circle(3)
    assert not three[0].receive(three[1].id, 1, Unwelcome(reason="full"), 0)
    assert three[0].status(1) is SUSPECT
    assert three[0].members.suspects() == (three[1].id,)
    assert three[0].reported("peer.suspect")[0]["reason"] == "it has refused this peer"
    assert not three[0].receive(three[1].id, 1, Unwelcome(reason="full"), 0)
    assert not three[0].receive(three[1].id, 2, Unwelcome(reason="of another life"), 0)
    assert len(three[0].reported("peer.suspect")) == 1
    three.run(10)
    assert three[0].status(1) is ALIVE, "it has answered"


def test_greetings_that_contradict_their_envelope_are_dropped() -> None:
    both = circle(2)
    hello = both[1].members._greetings.hello()
    both[0].receive(peer_id(7), 1, hello, 0)
    both[0].receive(both[1].id, 2, hello, 0)
    both[0].receive(both[1].id, 1, hello, 5)  # for another life of ours
    assert both[0].members.counters == {"dropped": 3, "refused": 0}
    assert both[0].members.alive() == (both[1].id,)


# ---- lives


def test_nothing_from_whom_nobody_knows() -> None:
    one = circle(2)[0]
    actions = len(one.actions)
    assert not one.receive(peer_id(9), 1, AskQueues())
    assert not one.receive(peer_id(9), 1, Heartbeat(seq=1, idle=0))
    assert one.members.counters["dropped"] == 2
    assert len(one.actions) == actions


def test_what_a_member_says_goes_through() -> None:
    both = circle(2)
    assert both[0].receive(both[1].id, 1, AskQueues())
    assert both[0].receive(both[1].id, 1, AskQueues(), 0), "published: for whoever we are"
    both[0].do(lambda: both[0].members.tell(both[1].id, AskQueues()))
    both.run(1)
    assert [message for _, _, message in both[1].accepted if isinstance(message, AskQueues)] == [AskQueues()]
    assert both[0].said(AskQueues)[0][1].incarnation == 1
    both[0].do(lambda: both[0].members.tell(peer_id(9), AskQueues()))
    assert len(both[0].said(AskQueues)) == 1


def test_a_new_life_takes_the_place_of_the_old_one() -> None:
    both = circle(2)
    both.kill(1, refused=False)
    again = both.restart(1, incarnation=2)
    again.seen(0)
    closed = len(both[0].said(CloseLink))
    both.run(5)
    assert [change for _, change in both[0].changes] == [
        Change(again.id, ALIVE, 1),
        Change(again.id, DEAD, 1),
        Change(again.id, ALIVE, 2, heal=True),
    ]
    assert both[0].reported("peer.dead")[0]["reason"] == "it lives again, as 2"
    assert len(both[0].said(OpenLink)) == 2, "what is queued for the old life goes with its link"
    assert len(both[0].said(CloseLink)) == closed, "one change of a link per event"
    assert both.agree()
    both[0].do(lambda: both[0].members.tell(again.id, AskQueues()))
    assert both[0].said(AskQueues)[0][1].incarnation == 2


def test_the_old_life_is_not_heard_any_more() -> None:
    both = circle(2)
    hello = both[1].members._greetings.hello()
    both.kill(1, refused=False)
    both.restart(1, incarnation=2).seen(0)
    both.run(5)
    changes = len(both[0].changes)
    dropped = both[0].members.counters["dropped"]
    assert not both[0].receive(both[1].id, 1, AskQueues())
    assert not both[0].receive(both[1].id, 1, hello, 0)
    assert not both[0].receive(both[1].id, 1, Bye())
    assert both[0].members.counters == {"dropped": dropped + 3, "refused": 0}
    assert len(both[0].changes) == changes


def test_what_is_meant_for_another_life_is_answered() -> None:
    """A message that was under way when its receiver died reaches the next process at that address."""
    both = circle(2)
    dropped = both[0].members.counters["dropped"]
    assert not both[0].receive(both[1].id, 1, AskQueues(), 5)
    assert both[0].members.counters["dropped"] == dropped + 1
    assert [action.incarnation for _, action in both[0].said(WrongIncarnation)] == [1]
    both.run(5)
    assert len(dials(both[1], 0, since_ms=100)) == 1, "the receiver greets again"
    assert not both[0].receive(both[1].id, 1, WrongIncarnation(), 5)
    assert len(both[0].said(WrongIncarnation)) == 1, "no answer to an answer"
    assert both.agree()


def test_a_life_that_was_not_greeted_is_greeted() -> None:
    both = circle(2)
    assert not both[0].receive(both[1].id, 2, Heartbeat(seq=1, idle=0), 0)
    assert dials(both[0], 1) == [100]
    assert not both[0].receive(both[1].id, 2, Heartbeat(seq=2, idle=0), 0)
    assert dials(both[0], 1) == [100], "not more often than once a second"


def test_whoever_has_the_address_of_another_has_taken_its_place() -> None:
    """A process without memory starts where another one died: nobody need wait for the silence to grow."""
    three = circle(3)
    old = three[1]
    three.kill(1, refused=False)
    new = three.restart(1, id=peer_id(11), incarnation=5)
    new.seen(0)
    three.run(10)
    for number in (0, 2):
        assert three[number].members.status(old.id) is DEAD
        assert three[number].reported("peer.dead")[0]["reason"] == f"{new.id} has its address now"
        assert three[number].links[new.id] == old.address
        assert old.id not in three[number].links
    assert three.agree()
    three.run(60_000)
    assert three.agree()
    assert not dials(three[0], 1, since_ms=200)


# ---- heartbeats


def beats(one: One) -> list[tuple[int, Heartbeat]]:
    said = [(at, action.message) for at, action in one.said(Heartbeat) if isinstance(action, Publish)]
    return [(at, message) for at, message in said if isinstance(message, Heartbeat)]


def test_heartbeats_once_a_second_while_there_is_somebody() -> None:
    both = Circle(2)
    both.run(5000)
    assert not beats(both[0])
    both[0].seen(1)
    both.run(3500)
    assert [at for at, _ in beats(both[0])] == [5002, 6002, 7002, 8002]
    assert [beat.seq for _, beat in beats(both[0])] == [1, 2, 3, 4]
    one = both[0]
    one.do(lambda: one.members.expire(9002, Pulse(3, 7, b"pointers")))
    assert beats(one)[-1][1] == Heartbeat(seq=5, idle=3, queues=7, pointers=b"pointers")
    assert [message.seq for _, _, message in both[1].accepted if isinstance(message, Heartbeat)] == [1, 2, 3, 4]


def test_an_old_heartbeat_says_nothing() -> None:
    both = circle(2)
    assert both[0].receive(both[1].id, 1, Heartbeat(seq=10, idle=0), 0)
    both.kill(1, refused=False)
    both.run(2400)
    assert not both[0].receive(both[1].id, 1, Heartbeat(seq=10, idle=0), 0)
    assert not both[0].receive(both[1].id, 1, Heartbeat(seq=9, idle=0), 0)
    both.run(200)
    assert both[0].status(1) is SUSPECT


def test_a_new_life_counts_its_heartbeats_anew() -> None:
    both = circle(2)
    both.run(10_000)
    both.kill(1, refused=False)
    both.restart(1, incarnation=2).seen(0)
    both.run(5000)
    assert both.agree()
    assert not both[0].reported("peer.suspect")


# ---- silence


def silence(number: int, by: One) -> dict[Status, int]:
    """For how long a peer was silent when another one made something of it."""
    last = max(at for at, sender, _ in by.accepted if sender == by.circle[number].id)
    return {status: at - last for at, status in by.became(number) if at > last}


def test_silence_makes_a_suspect_and_a_sign_of_life_clears_it() -> None:
    three = circle(3)
    three.run(3000)
    three.kill(1, refused=False)
    three.run(2600)
    assert silence(1, three[0]) == {SUSPECT: 2500}
    assert not three[0].members.is_alive(three[1].id)
    assert three[1].id in three[0].links
    assert three[0].reported("peer.suspect") == [
        {"peer": three[1].id, "peer_name": "peer 1", "reason": "it is silent", "silent_ms": 2500}
    ]
    three.ones[1].gone = False
    three.run(20)
    for one in three.ones:
        assert one.members.alive() == tuple(sorted(other.id for other in three.ones if other is not one))
    assert three[0].reported("peer.alive") == [{"peer": three[1].id, "peer_name": "peer 1"}]
    assert not any(change.heal for one in three.ones for _, change in one.changes)


def test_who_is_silent_for_all_is_dead() -> None:
    three = circle(3)
    three.run(3000)
    three.kill(2, refused=False)
    three.run(6000)
    for number in (0, 1):
        one = three[number]
        assert silence(2, one) == {SUSPECT: 2500, DEAD: 5000}
        assert three[2].id not in one.links
        assert one.reported("peer.dead")[0] == {
            "peer": three[2].id,
            "peer_name": "peer 2",
            "reason": "it is silent, and others miss it, too",
            "silent_ms": 5000,
        }
        one.do(lambda one=one: one.members.tell(three[2].id, AskQueues()))  # type: ignore[misc]
        assert not one.said(AskQueues)
        missing = [at for at, beat in beats(one) if beat.missing]
        died = [at for at, beat in beats(one) if beat.dead]
        assert all(beat.missing == (three[2].id,) for at, beat in beats(one) if at in missing)
        assert all(
            (beat.dead, beat.dead_incarnations) == ((three[2].id,), (1,)) for at, beat in beats(one) if at in died
        )
        assert max(missing) < min(died)
    three.run(40_000)
    assert not beats(three[0])[-1][1].dead, "only those who died lately"


def test_of_two_the_other_is_dead_after_two_dials_without_an_answer() -> None:
    both = circle(2)
    both.run(3000)
    both.kill(1, refused=False)
    both.run(6000)
    assert silence(1, both[0]) == {SUSPECT: 2500, DEAD: 5000}
    assert both[0].reported("peer.dead")[0]["reason"] == "it is silent, and it does not answer"
    last = both[0].became(1)[-1][0]
    assert dials(both[0], 1)[:2] == [last - 2500, last - 1500]


def test_whom_it_gave_up_for_silence_may_be_there_for_a_while() -> None:
    both = circle(2, timing={"grace_s": 60.0})
    one = both[0]
    both.run(3000)
    assert not one.members.may_lack_some(one.now_ms)
    both.kill(1, refused=False)
    both.run(20_000)
    assert one.status(1) is DEAD
    assert one.members.may_lack_some(one.now_ms)
    both.run(60_000)
    assert not one.members.may_lack_some(one.now_ms)


def test_who_has_just_started_may_lack_everybody() -> None:
    one = Circle(1)[0]
    one.do(lambda: one.members.awake(0))
    assert one.members.may_lack_some(0)
    assert not one.members.may_lack_some(members_module.ELECTED_AFTER_MS)
    one.members.expect(stranger())
    assert one.members.may_lack_some(members_module.ELECTED_AFTER_MS)


def test_who_has_just_started_may_lack_others_than_those_it_has_met() -> None:
    """Found by simulation (seed 1004799): two that had just started had met each other, and nobody else yet."""
    both = circle(2)
    one = both[0]
    assert one.status(1) is ALIVE
    assert one.members.may_lack_some(one.now_ms)
    both.run(3000)
    assert not one.members.may_lack_some(one.now_ms)


def test_whom_discovery_has_named_and_who_does_not_answer_may_be_there_for_a_while() -> None:
    """Found by simulation (seed 1000058): a peer that could not be reached had the task, and was told to be nobody."""
    both = circle(2, timing={"grace_s": 60.0})
    one = both[0]
    both.run(3000)
    one.do(lambda: one.members.seen("mesh://1", one.now_ms))
    assert not one.members.may_lack_some(one.now_ms), "that is a member"
    one.do(lambda: one.members.seen("mesh://9", one.now_ms))
    both.run(30_000)
    assert one.members.may_lack_some(one.now_ms)
    one.do(lambda: one.members.seen("mesh://9", one.now_ms))
    both.run(30_000)
    assert not one.members.may_lack_some(one.now_ms), "however often it is named"
    assert refusal(one, replace(stranger(), address="mesh://9")) == ""
    assert not one.members.may_lack_some(one.now_ms)


def test_whom_nobody_lacks_who_listens_nowhere() -> None:
    three = circle(3)
    three.run(3000)
    three.kill(2)
    assert three[0].status(2) is DEAD
    assert not three[0].members.may_lack_some(three.now_ms)


def test_of_two_silence_without_two_dials_is_not_enough() -> None:
    both = circle(2, timing={"ask_s": 4.0})
    both.run(3000)
    both.kill(1, refused=False)
    both.run(20_000)
    assert silence(1, both[0]) == {SUSPECT: 2500, DEAD: 2500 + 2 * 4000}


def test_whom_another_one_hears_is_not_dead() -> None:
    """A bridge: 0 and 1 do not hear each other, 2 hears both."""
    three = circle(3)
    three.cut((0, 1))
    three.run(60_000)
    assert three[0].status(1) is three[1].status(0) is SUSPECT
    assert three[0].status(2) is three[2].status(0) is three[2].status(1) is ALIVE
    assert not any(one.reported("peer.dead") for one in three.ones)
    three.heal()
    three.run(31_000)
    assert three.agree()
    assert not any(change.heal for one in three.ones for _, change in one.changes)


def test_a_one_way_link_makes_both_suspects() -> None:
    """0 hears 1, but 1 does not hear 0."""
    three = circle(3)
    three.cut((0, 1), both=False)
    three.run(10_000)
    assert three[1].reported("peer.suspect")[0]["reason"] == "it is silent"
    assert three[0].reported("peer.suspect")[0]["reason"] == "it does not hear this peer"
    assert three[0].status(1) is three[1].status(0) is SUSPECT
    three.run(60_000)
    assert three[0].status(1) is three[1].status(0) is SUSPECT
    assert not any(beat.missing for _, beat in beats(three[0])), "0 does hear 1"
    three.heal()
    three.run(31_000)
    assert three.agree()


def test_a_one_way_link_between_two_ends_in_death_on_both_sides_and_heals() -> None:
    both = circle(2)
    both.cut((0, 1), both=False)
    both.run(30_000)
    assert both[0].status(1) is both[1].status(0) is DEAD
    both.heal()
    both.run(31_000)
    assert both.agree()
    assert both[0].changes[-1][1] == Change(both[1].id, ALIVE, 1, heal=True)
    assert both[1].changes[-1][1] == Change(both[0].id, ALIVE, 1, heal=True)


def test_nobody_listens_at_its_address_means_dead_at_once() -> None:
    three = circle(3)
    three.kill(2)
    for number in (0, 1):
        assert three[number].became(2)[-1] == (three.now_ms, DEAD)
        assert three[number].reported("peer.dead")[0]["reason"] == "nobody listens at its address"
    three[0].link_down(2, refused=True)
    three[0].do(lambda: three[0].members.link_down(peer_id(9), three.now_ms, refused=True))
    assert len(three[0].reported("peer.dead")) == 1


def test_a_broken_link_is_tried_again() -> None:
    both = circle(2)
    both[0].link_down(1, refused=False)
    assert dials(both[0], 1) == [100]
    both.run(10_000)
    assert dials(both[0], 1) == [100], "it has answered"
    assert both.agree()
    assert not both[0].reported("peer.suspect")


def test_what_others_say_kills_nobody_who_is_heard() -> None:
    three = circle(3)
    for seq in range(100, 110):
        dead = Heartbeat(seq=seq, idle=0, missing=(three[1].id,), dead=(three[1].id,), dead_incarnations=(1,))
        three[0].receive(three[2].id, 1, dead, 0)
        three.run(1000)
    assert three[0].became(1) == [(1, ALIVE)]


def test_whom_another_one_holds_to_be_dead_has_less_time() -> None:
    three = circle(3)
    three.run(3000)
    three.kill(1, refused=False)
    dead = Heartbeat(seq=100, idle=0, dead=(three[1].id,), dead_incarnations=(1,))
    three[0].receive(three[2].id, 1, dead, 0)
    three.run(5500)
    assert silence(1, three[0]) == {SUSPECT: 1500, DEAD: 5000}


def test_the_death_of_another_life_accuses_nobody() -> None:
    three = circle(3)
    three.run(3000)
    three.kill(1, refused=False)
    dead = Heartbeat(seq=100, idle=0, dead=(three[1].id, peer_id(9)), dead_incarnations=(0, 4))
    three[0].receive(three[2].id, 1, dead, 0)
    three.run(2600)
    assert silence(1, three[0]) == {SUSPECT: 2500}


def test_a_suspect_is_no_witness() -> None:
    """2 misses 1, but 0 does not trust 2."""
    four = circle(4)
    four.run(3000)
    four.cut((0, 1), (2, 1), (2, 0))
    four.run(4000)
    assert four[0].status(2) is four[0].status(1) is SUSPECT
    four.run(30_000)
    assert four[0].status(1) is SUSPECT, "3 hears it"


def test_what_a_former_life_said_of_others_is_forgotten() -> None:
    three = circle(3)
    missing = Heartbeat(seq=100, idle=0, missing=(three[1].id,), dead=(peer_id(9),), dead_incarnations=(1,))
    three[0].receive(three[2].id, 1, missing, 0)
    three.kill(2, refused=False)
    three.restart(2, incarnation=2).seen(0)
    three.run(1)
    assert three[0].members.incarnation(three[2].id) == 2, "greeted, and has said nothing yet"
    said = three[0].members._hearsay()
    assert (said.missing, said.dead) == (frozenset(), {})


def test_a_member_that_holds_us_to_be_dead_is_a_suspect() -> None:
    both = circle(3)
    dead = Heartbeat(seq=100, idle=0, dead=(both[0].id,), dead_incarnations=(1,))
    both[0].receive(both[1].id, 1, dead, 0)
    assert both[0].status(1) is SUSPECT
    assert dials(both[0], 1) == [100]
    dead = Heartbeat(seq=101, idle=0, dead=(both[0].id,), dead_incarnations=(0,))
    both[0].receive(both[1].id, 1, dead, 0)
    assert both[0].status(1) is ALIVE, "it was another life"


def test_both_sides_of_a_split_go_on_and_meet_again() -> None:
    five = circle(5)
    five.split((0, 1), (2, 3, 4))
    five.run(10_000)
    assert five[0].members.alive() == (five[1].id,)
    assert five[2].members.alive() == (five[3].id, five[4].id)
    five.run(120_000)
    five.heal()
    five.run(31_000)
    assert five.agree()
    for one in five.ones:
        healed = [change.peer for _, change in one.changes if change.heal]
        others = (2, 3, 4) if one.number < 2 else (0, 1)
        assert sorted(healed) == [five[number].id for number in others]
        assert not [change for _, change in one.changes if change.heal and change.status is not ALIVE]
    five.run(300_000)
    five.cut((0, 4))
    five.run(3000)
    five.heal()
    five.run(20_000)
    assert five[0].changes[-2:] == [(five[0].changes[-2][0], Change(five[4].id, SUSPECT, 1)), five[0].changes[-1]]
    assert five[0].changes[-1][1] == Change(five[4].id, ALIVE, 1, heal=False), "a suspect is not compared with"


def test_all_others_silent_at_once_is_a_split_too() -> None:
    five = circle(5)
    five.split((0,), (1, 2, 3, 4))
    five.run(10_000)
    assert [five[0].status(number) for number in (1, 2, 3, 4)] == [DEAD] * 4
    assert [five[number].status(0) for number in (1, 2, 3, 4)] == [DEAD] * 4


# ---- leaving


def test_who_leaves_is_not_dead_and_does_not_come_back() -> None:
    three = circle(3)
    hello = three[2].members._greetings.hello()
    three[2].do(three[2].members.leave)
    three.run(10)
    for number in (0, 1):
        assert three[number].became(2)[-1][1] is LEFT
        assert three[2].id not in three[number].links
        assert three[number].reported("peer.leave") == [{"peer": three[2].id, "peer_name": "peer 2"}]
        assert not three[number].reported("peer.dead")
    assert three[2].members.deadline_ms() is None
    assert not three[0].receive(three[2].id, 1, hello, 0)
    assert not three[0].receive(three[2].id, 1, AskQueues())
    assert three[0].status(2) is LEFT
    three.run(60_000)
    assert three[0].status(2) is LEFT
    assert not dials(three[0], 2, since_ms=200)


def test_who_has_left_does_nothing_more() -> None:
    both = circle(2)
    one = both[1]
    one.do(one.members.leave)
    actions = len(one.actions)
    one.seen(0)
    one.receive(both[0].id, 1, AskQueues())
    one.receive(both[0].id, 1, both[0].members._greetings.hello(), 0)
    one.link_down(0, refused=True)
    one.do(lambda: one.members.expire(both.now_ms))
    both.run(60_000)
    assert len(one.actions) == actions


def test_a_new_life_of_one_that_left_is_welcome() -> None:
    both = circle(2)
    both[1].do(both[1].members.leave)
    both.run(10)
    both.kill(1)
    both.restart(1, incarnation=2).seen(0)
    both.run(10)
    assert both.agree()
    assert both[0].changes[-1][1] == Change(both[1].id, ALIVE, 2, heal=True)
    assert not both[0].reported("peer.dead")


def test_where_discovery_has_seen_somebody_somebody_may_be_again() -> None:
    both = circle(2)
    both[0].seen(1)
    both[1].do(both[1].members.leave)
    both.run(10)
    both.kill(1)
    both.restart(1, id=peer_id(5))
    both.run(5000)
    assert both[0].members.alive() == (peer_id(5),)


# ---- pauses


def test_who_was_halted_blames_nobody() -> None:
    three = circle(3)
    three.run(3000)
    three.sleep(0)
    three.run(20_000)
    assert three[1].status(0) is three[2].status(0) is DEAD
    three.wake(0)
    three.run(100)
    pause_ms = three[0].members.take_pause_ms()
    assert 20_000 <= pause_ms <= 21_000
    assert three[0].members.take_pause_ms() == 0
    for number in (1, 2):
        assert DEAD not in [status for _, status in three[0].became(number)]
    assert {report["reason"] for report in three[0].reported("peer.suspect")} == {"it does not hear this peer"}
    three.run(5000)
    assert three.agree()
    for number in (1, 2):
        assert three[number].changes[-1][1] == Change(three[0].id, ALIVE, 1, heal=True)
    assert three[1].members.take_pause_ms() == 0


def test_a_halt_of_a_clock_with_an_early_call_after_it_is_found_too() -> None:
    """After a halt the first thing a driver does may be to hand a message over, before it looks at its timers."""
    three = circle(3)
    three.run(3500)
    three.sleep(0)
    three.run(4000)
    three.ones[0].asleep = []  # what was on its way to it is lost
    three.wake(0)
    one = three[0]
    one.receive(three[1].id, 1, AskQueues())
    one.timer()
    assert [status for _, status in one.became(2)] == [ALIVE]
    assert one.members.take_pause_ms() > 0


def test_no_halt_is_told_while_nothing_is_due() -> None:
    one = Circle(1)[0]
    one.circle.run(1)
    one.circle.now_ms = one.circle.before_ms = 500_000
    one.do(lambda: one.members.expire(500_000))
    assert one.members.take_pause_ms() == 0
    slow = circle(2, timing={"heartbeat_s": 3.0, "suspect_s": 10.0, "dead_s": 20.0})
    slow.run(60_000)
    assert slow[0].members.take_pause_ms() == 0
    assert slow.agree()


def test_what_a_peer_sleeps_through_counts_once() -> None:
    clock = Punctual(beat_ms=1000, pause_ms=2000)
    clock.last_ms = 100_000
    assert clock.slept_ms(100_900, 101_000) == 0
    assert clock.slept_ms(104_000, 101_000) == 3000
    assert clock.slept_ms(104_249, 101_000) == 0, "within what machines do"
    assert clock.slept_ms(104_749, 101_000) == 500, "the rest has been counted"
    assert clock.take_pause_ms() == 3100


def test_who_is_late_is_patient() -> None:
    """Its own timers come 600 ms late, again and again."""
    three = circle(3)
    one = three[0]
    three.run(3000)
    three.kill(2, refused=False)
    one.asleep = []
    for _ in range(4):
        due_ms = one.members.deadline_ms()
        assert due_ms is not None
        three.run(due_ms - three.now_ms + 600)
        three.wake(0)
        one.do(lambda: one.members.expire(three.now_ms))
        three.sleep(0)
    assert one.members.clock.factor == 5
    assert one.members.take_pause_ms() == 0, "late, but not halted"
    assert three[1].status(2) is SUSPECT
    assert one.status(2) is ALIVE
    three.wake(0)
    three.run(30_000)
    assert one.members.clock.factor == 1
    assert one.status(2) is DEAD


# ---- coming and going


def blink(some: Circle, number: int, ms: int) -> None:
    """A peer is silent for so long."""
    some.cut(*[(number, other.number) for other in some.ones if other.number != number])
    some.run(ms)
    some.heal()
    some.run(1500)


def test_a_member_that_comes_and_goes_is_on_probation() -> None:
    three = circle(3)
    three.run(1000)
    one = three[0]
    blink(three, 2, 3000)
    assert one.status(2) is ALIVE
    blink(three, 2, 3000)
    assert one.status(2) is SUSPECT
    assert one.reported("warning.peer.flapping") == [{"peer": three[2].id, "seconds": 5}]
    assert three[2].id in one.links
    assert three[2].id not in one.members.alive()
    assert not beats(one)[-1][1].missing, "it is heard"
    three.run(5000)
    assert three.agree()
    (went, _), (came, _) = one.became(2)[-2:]
    assert came - went > 5000


def test_probation_grows_with_each_time_and_ends_growing() -> None:
    three = circle(3)
    one = three[0]
    seconds: list[int] = []
    for _ in range(8):
        while len(one.reported("warning.peer.flapping")) == len(seconds):
            blink(three, 2, 3000)
        seconds.append(one.reported("warning.peer.flapping")[-1]["seconds"])
        three.run(seconds[-1] * 1000)
        assert one.status(2) is ALIVE
    assert seconds == [5, 10, 20, 40, 80, 160, 300, 300]
    three.run(400_000)
    while len(one.reported("warning.peer.flapping")) == len(seconds):
        blink(three, 2, 3000)
    assert one.reported("warning.peer.flapping")[-1]["seconds"] == 5


def test_probation_begins_anew_with_new_doubts() -> None:
    three = circle(3)
    one = three[0]
    for _ in range(2):
        blink(three, 2, 3000)
    assert one.status(2) is SUSPECT
    blink(three, 2, 3000)
    three.run(3000)
    assert one.status(2) is SUSPECT
    three.run(2000)
    assert one.status(2) is ALIVE
    assert len(one.reported("warning.peer.flapping")) == 1


def test_turns_long_ago_do_not_count() -> None:
    three = circle(3)
    for _ in range(5):
        blink(three, 2, 3000)
        three.run(60_000)
    assert not three[0].reported("warning.peer.flapping")


def test_a_dead_member_on_probation_is_compared_with_when_it_is_alive() -> None:
    three = circle(3)
    for _ in range(2):
        blink(three, 2, 8000)
        three.run(4000)
    one = three[0]
    three.run(20_000)
    assert one.status(2) is ALIVE
    assert one.reported("warning.peer.flapping")
    statuses = [(change.status, change.heal) for _, change in one.changes if change.peer == three[2].id]
    assert statuses[-3:] == [(DEAD, False), (SUSPECT, False), (ALIVE, True)]


# ---- after a restart


def test_who_was_known_before_is_not_dead_for_a_while() -> None:
    one = Circle(1)[0]
    one.members.expect(stranger())
    one.members.expect(stranger(incarnation=7))
    one.members.expect(one.contact)
    assert one.members.status(peer_id(9)) is Status.UNKNOWN
    assert one.members.alive() == ()
    one.circle.run(59_999)
    assert one.members.status(peer_id(9)) is Status.UNKNOWN
    assert one.said(Hello)[0] == (0, Dial(address="mesh://9", message=one.members._greetings.hello()))
    one.circle.run(1)
    assert one.members.status(peer_id(9)) is DEAD
    assert [change for _, change in one.changes] == [Change(peer_id(9), DEAD, 1)]
    assert one.reported("peer.dead")[0]["reason"] == "not seen since this peer started"
    assert not one.said(CloseLink)


def test_before_it_runs_a_peer_wants_to_greet_whom_it_knew() -> None:
    members = Members(stranger(1), bytes(16), Settings(), Outbox())
    assert members.deadline_ms() is None
    members.expect(stranger(2))
    assert members.deadline_ms() == 0
    members.check_invariants()
    members.awake(1000)
    assert members.deadline_ms() == 0
    members.expire(1000)
    assert members.deadline_ms() == 2000


@pytest.mark.parametrize("incarnation", [1, 3])
def test_who_was_known_before_and_answers_is_compared_with(incarnation: int) -> None:
    both = Circle(1)
    both.add(incarnation=incarnation)
    both[0].members.expect(replace(both[1].contact, incarnation=1))
    both.run(100)
    assert both.agree()
    changes = [change for _, change in both[0].changes]
    assert changes[-1] == Change(both[1].id, ALIVE, incarnation, heal=True)
    assert [change.status for change in changes[:-1]] == ([] if incarnation == 1 else [DEAD])


def test_who_was_known_before_and_talks_is_greeted() -> None:
    both = Circle(2)
    both.cut((0, 1), both=False)
    both[0].members.expect(both[1].contact)
    both.run(2500)
    both.heal()
    assert not both[0].receive(both[1].id, 1, AskQueues())
    both.run(10)
    assert both.agree()


def test_what_members_tell_of_whom_this_peer_knows() -> None:
    """Told of: itself, one that it has, one that left, an old life, a new life, a dead one, a stranger."""
    four = circle(4)
    one = four[0]
    four[3].do(four[3].members.leave)
    four.run(10)
    four.kill(2)
    four.run(500)
    told = (
        one.contact,
        four[1].contact,
        four[3].contact,
        replace(four[2].contact, incarnation=0),
        replace(four[3].contact, incarnation=2, address="mesh://new"),
        replace(stranger(), address="mesh://stranger"),
        replace(stranger(10), address=one.address),
        replace(stranger(11), address=""),
        replace(four[1].contact, incarnation=0, address="mesh://old"),
    )
    welcome = replace(four[1].members._greetings.welcome(told))
    before = len(one.said(Hello))
    one.receive(four[1].id, 1, welcome)
    assert [action.address for _, action in one.said(Hello)[before:]] == ["mesh://new", "mesh://stranger"]
    welcome = replace(four[1].members._greetings.welcome((four[2].contact,)))
    four.run(2700)
    before = len(one.said(Hello))
    one.receive(four[1].id, 1, welcome)
    assert [action.address for _, action in one.said(Hello)[before:]] == [four[2].address]


# ---- alone


def test_a_peer_that_is_alone_says_so_once() -> None:
    both = Circle(2)
    both.run(29_999)
    assert not both[0].reported("warning.peer.alone")
    both.run(1)
    assert both[0].reported("warning.peer.alone") == [{"seconds": 30}]
    both.run(300_000)
    both[0].seen(1)
    both.run(40_000)
    assert len(both[0].reported("warning.peer.alone")) == 1
    both.kill(1)
    both.run(30_000)
    assert len(both[0].reported("warning.peer.alone")) == 2


def test_a_peer_that_found_somebody_in_time_says_nothing() -> None:
    both = Circle(2)
    both.run(29_000)
    both[0].seen(1)
    both.run(100_000)
    assert not both[0].reported("warning.peer.alone")


@pytest.mark.parametrize("extra", [{"static": True}, {"address": ""}])
def test_who_cannot_be_reached_is_alone_on_purpose(extra: dict[str, Any]) -> None:
    some = Circle()
    one = some.add(**extra)
    assert one.members.deadline_ms() is None
    some.run(100_000)
    assert not one.reports


def test_responsibilities_wait_until_a_peer_has_looked_around() -> None:
    both = Circle(2)
    members = both[0].members
    assert not members.may_elect(0)
    assert not members.may_elect(2999)
    assert members.may_elect(3000)
    both[0].seen(1)
    both.run(10)
    assert members.may_elect(10)
    assert not Members(stranger(), bytes(16), Settings(), Outbox()).may_elect(99_999)
    assert Members(stranger(), bytes(16), Settings(), Outbox(), static=True).may_elect(0)


# ---- static


def test_peers_in_one_process_have_no_timers() -> None:
    some = Circle(3, static=True)
    some[0].seen(1)
    some[2].seen(1)
    some.run(10)
    assert some.agree()
    assert all(one.members.deadline_ms() is None for one in some.ones)
    sent = sum(len(one.actions) for one in some.ones)
    some.run(1_000_000)
    some[0].do(lambda: some[0].members.expire(some.now_ms))
    assert sum(len(one.actions) for one in some.ones) == sent
    assert some.agree()


def test_even_there_it_is_believed_that_one_is_gone() -> None:
    some = Circle(3, static=True)
    some.meet()
    some[0].seen(1)
    some.kill(1)
    assert some.agree()
    assert some[0].status(1) is DEAD
    some[2].do(some[2].members.leave)
    some.run(10)
    assert some[0].status(2) is LEFT
    assert not [at for at in dials(some[0], 1) if at > 0]
    assert some[0].members.deadline_ms() is None


# ---- partners


def test_partners_are_ranked_by_each_peer_for_itself() -> None:
    crowd = circle(8)
    ranked = {one.number: one.members.partners() for one in crowd.ones}
    assert len({partners[0] for partners in ranked.values()}) > 3, "not all choose the same"
    for one in crowd.ones:
        assert sorted(ranked[one.number]) == list(one.members.alive())
        first, second, *rest = ranked[one.number]
        assert one.members.partners(1) == (second, first, *rest)
        assert one.members.partners(2) == ranked[one.number]
    gone = next(one for one in crowd.ones if one.id != ranked[0][0] and one.number)
    crowd.kill(gone.number)
    assert crowd[0].members.partners() == tuple(peer for peer in ranked[0] if peer != gone.id)


@pytest.mark.parametrize(("peers", "width"), [(1, 0), (2, 1), (3, 2), (9, 2), (10, 4), (99, 4), (100, 8)])
def test_copies_go_to_a_small_group(peers: int, width: int) -> None:
    one = Circle(1)[0]
    for number in range(1, peers):
        assert refusal(one, stranger(number)) == ""
    firsts = {one.members.partners(turn)[:1] for turn in range(50)}
    assert len(firsts) == max(width, 1)
    assert len({one.members.partners(turn)[width:] for turn in range(50)}) == 1


# ---- bounds


def test_those_that_are_gone_are_forgotten_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "GONE_MAX", 3)
    one = Circle(1, cluster={"peers_max": 2})[0]
    for number in range(1, 7):
        assert refusal(one, stranger(number)) == ""
        one.do(lambda number=number: one.members.link_down(peer_id(number), 0, refused=True))  # type: ignore[misc]
    assert [one.members.status(peer_id(number)) for number in range(1, 7)] == [None] * 3 + [DEAD] * 3
    assert len(one.members._dials._dials) == 4


def test_a_message_costs_the_same_however_many_members_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when it changes something do all members have to be looked at."""
    crowd = circle(30)
    looked: list[int] = []
    find_next = Members._find_next

    def counted(self: Members) -> Any:
        looked.append(1)
        return find_next(self)

    monkeypatch.setattr(Members, "_find_next", counted)
    monkeypatch.setattr(Members, "check_invariants", lambda self: None)
    crowd.run(3000)
    looked.clear()
    before = sum(len(one.accepted) for one in crowd.ones)
    crowd.run(10_000)
    heard = sum(len(one.accepted) for one in crowd.ones) - before
    assert heard >= 30 * 29 * 10
    assert len(looked) <= 30 * 10 * 3, f"{len(looked)} times for {heard} messages"


# ---- all at once


def cut_something(some: Circle, number: int) -> None:
    chance = some.chance
    match chance.choice(["pair", "one way", "split", "nothing", "heal"]):
        case "pair":
            some.cut((number, chance.randrange(len(some.ones))))
        case "one way":
            some.cut((number, chance.randrange(len(some.ones))), both=False)
        case "split":
            at = 1 + chance.randrange(len(some.ones) - 1)
            some.split(tuple(range(at)), tuple(range(at, len(some.ones))))
        case "heal":
            some.heal()


def trouble(some: Circle, number: int) -> None:
    """Something happens to a process."""
    chance, one = some.chance, some[number]
    if one.gone:
        knows_itself = chance.random() < 0.5
        new = some.restart(
            number,
            incarnation=one.incarnation + 1,
            id=one.id if knows_itself else peer_id(len(some.everybody) + 50),
        )
        new.seen(chance.randrange(len(some.ones)))
        return
    match chance.choice(["kill", "sleep", "leave", "link", "nothing", "nothing"]):
        case "kill":
            some.kill(number, refused=chance.random() < 0.5)
        case "sleep":
            some.sleep(number)
            some.run(chance.randrange(15_000))
            some.wake(number)
        case "leave":
            one.do(one.members.leave)
            one.gone = True
        case "link":
            one.link_down(chance.randrange(len(some.ones)), refused=False)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_in_the_end_all_agree(seed: int) -> None:
    """Losses, delays, splits, halts, deaths and restarts in any order; then a minute of peace."""
    some = Circle(3 + seed % 4, seed=seed)
    chance = some.chance
    for one in some.ones[1:]:
        one.seen(0)
    for _ in range(25):
        number = chance.randrange(len(some.ones))
        some.loss = chance.choice([0.0, 0.0, 0.1, 0.4])
        some.jitter_ms = chance.choice([0, 5, 800])
        cut_something(some, number)
        trouble(some, number)
        some.run(chance.randrange(6000))
    some.heal()
    some.jitter_ms = 0
    here = [one for one in some.ones if not one.gone]
    for one in here:
        one.seen(here[0].number)
    some.run(60_000)
    for _ in range(40):  # probation lasts longer for the worst of them
        if not some.agree():
            some.run(10_000)
    assert some.agree()


def test_the_same_seed_gives_the_same_story() -> None:
    def story() -> list[Any]:
        some = Circle(5, seed=3)
        some.meet()
        some.loss = 0.3
        some.jitter_ms = 400
        some.run(30_000)
        return [(one.actions, one.changes) for one in some.ones]

    assert story() == story()


def test_a_tell_of_a_welcome_comes_after_the_link_is_open() -> None:
    both = Circle(2)
    hello = both[1].members._greetings.hello()
    actions = both[0].do(lambda: both[0].members.received(both[1].id, 1, 0, hello, 0))
    assert [type(action) for action in actions[:2]] == [OpenLink, Tell]


def test_what_is_said_last_goes_before_the_link_is_closed() -> None:
    out = Outbox()
    out.link(CloseLink(peer=peer_id(1)))
    out.work(Dial(address="mesh://2", message=Unwelcome(reason="full")))
    out.tell(peer_id(1), 1, Bye())
    out.link(OpenLink(contact=Contact(id=peer_id(2), incarnation=1, address="mesh://2")))
    assert [type(action) for action in out.take()] == [OpenLink, Tell, CloseLink, Dial]
    assert out.take() == ()


def test_a_batch_begins_before_others_are_told() -> None:
    out = Outbox()
    executor, order = ExecutorId("E" + "1" * 32), cast(BatchOrder, None)
    out.tell(peer_id(1), 1, Bye())
    out.work(RowsCancelled(executor=executor, order=1, rows=(0,)))
    out.work(RunBatch(executor=executor, order=order))
    assert [type(action) for action in out.take()] == [RunBatch, Tell, RowsCancelled]
    assert out.take() == ()
