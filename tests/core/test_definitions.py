"""Definitions among peers: who has them, which one holds, and how what is missing comes."""

from collections.abc import Mapping
from typing import Any

import pytest

from scatterzmq.core.actions import CheckGraph
from scatterzmq.core.events import GraphChecked, TimerFired
from scatterzmq.core.members import Status
from scatterzmq.core.messages import (
    AskDefinition,
    AskNamespaces,
    Clear,
    Definition,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    Namespaces,
    Refused,
)
from scatterzmq.core.peermessages import (
    AskPlans,
    AskPointers,
    BetweenPeers,
    PlanKept,
    PlanText,
    Pointer,
    Pointers,
)
from scatterzmq.graph.check import check
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import PeerId
from tests.core.conftest import ALICE, BOB, chain, describe, graph, node
from tests.core.mesh import Mesh, Peer


def make_plan(length: int = 1, ns: str = "main") -> Plan:
    graphs = [chain(length)]
    return check({"graphs": graphs, "entry": "main", "ns": ns}, describe).require()


def load(mesh: Mesh, at: int, plan: Plan, *, replace: bool = False) -> None:
    """Load at one peer; nothing is delivered yet."""
    peer = mesh.peers[at]
    peer.plans[plan.ns] = plan
    peer.say(LoadGraph(mid=peer.mid(), definition=plan.definition, replace=replace))


def answers(peer: Peer) -> list[type[Any]]:
    """What its clients were told of their definitions."""
    return [type(send.message) for send in peer.sent if isinstance(send.message, GraphLoaded | GraphRefused)]


def namespaces(peer: Peer, ns: str | None = None) -> dict[str, bytes]:
    """As it knows them after all members have answered it."""
    peer.say(AskNamespaces(mid=1, ns=ns))
    peer.mesh.deliver()
    return {info.ns: info.digest for info in peer.last(Namespaces).infos}


def told(peer: Peer, *kinds: type[Any]) -> list[Any]:
    """What its clients were answered."""
    return [send.message for send in peer.sent if isinstance(send.message, kinds)]


def definition(peer: Peer, ns: str = "main") -> str | None:
    peer.say(AskDefinition(mid=1, ns=ns))
    peer.mesh.deliver()
    text: str | None = peer.last(Definition).definition
    return text


def warnings(peer: Peer, name: str) -> list[Mapping[str, str | int | float]]:
    return [report.context for report in peer.reports if report.name == name]


def tell(mesh: Mesh, src: int, dst: int, message: BetweenPeers) -> None:
    """Have a peer say something that it would not."""
    sender = mesh.peers[src].core._state
    sender.members.tell(mesh.peers[dst].me, message)
    for action in sender.out.take():
        mesh.peers[src].perform(action)
    mesh.deliver()


def change_status(mesh: Mesh, of: int, status: Status, at: int) -> None:
    """A peer thinks differently of another from now on."""
    members = mesh.peers[at].core._state.members
    peer = mesh.peers[of].me
    members._here[peer].misses_us = status is not Status.ALIVE
    members._settle(members._here[peer], mesh.now_ms)
    assert members.status(peer) is status
    mesh.peers[at].tell(TimerFired())


def load_apart(mesh: Mesh, at: int, plan: Plan) -> None:
    """Load at one of two peers, of which the other hears nothing."""
    peer = mesh.peers[at]
    other = peer.core._state.members._here[mesh.peers[1 - at].me]
    peer.checking = False
    other.status = Status.SUSPECT
    load(mesh, at, plan)
    other.status = Status.ALIVE
    peer.checking = True


# ---- loading


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_what_is_loaded_at_one_peer_is_known_to_all(peers: int) -> None:
    mesh = Mesh(peers)
    plan = make_plan()
    load(mesh, 0, plan)
    mesh.deliver()
    for peer in mesh.peers:
        assert namespaces(peer) == namespaces(peer, "main") == {"main": plan.digest}
        assert namespaces(peer, "other") == {}
        assert definition(peer) == plan.definition
        assert definition(peer, "other") is None
    assert len(mesh.said(PlanText)) == len(mesh.said(PlanKept)) == peers - 1
    assert not mesh.said(AskPlans), "it comes unasked"
    assert {peer.core.deadline_ms() for peer in mesh.peers} == {None}
    assert len({peer.core._definitions.digest for peer in mesh.peers}) == 1
    mesh.peers[-1].plans["main"] = plan
    tasks = mesh.submit(peers - 1, 1)
    mesh.run()
    assert mesh.results(peers - 1, tasks) == [2]


def test_a_lone_peer_tells_its_client_at_once() -> None:
    mesh = Mesh(1)
    load(mesh, 0, make_plan())
    assert answers(mesh.peers[0]) == [GraphLoaded]
    assert mesh.log == []
    assert mesh.peers[0].core.deadline_ms() is None


@pytest.mark.parametrize(("peers", "replicas", "acks"), [(2, 2, 1), (4, 2, 1), (4, 3, 2), (3, 5, 2), (3, 1, 0)])
def test_the_client_is_told_when_enough_peers_have_it(peers: int, replicas: int, acks: int) -> None:
    mesh = Mesh(peers, cluster={"replicas": replicas})
    mesh.hold(PlanKept)
    load(mesh, 0, make_plan())
    mesh.deliver()
    for _ in range(acks):
        assert answers(mesh.peers[0]) == []
        mesh.links.append(mesh.held.pop())
        mesh.deliver()
    assert answers(mesh.peers[0]) == [GraphLoaded]
    mesh.heal()
    mesh.deliver()
    assert answers(mesh.peers[0]) == [GraphLoaded]
    assert mesh.peers[0].core.deadline_ms() is None


@pytest.mark.parametrize("lost", [PlanText, PlanKept, Pointers])
def test_a_definition_is_repeated_until_it_is_kept(lost: type[Any]) -> None:
    mesh = Mesh(2)

    def offers() -> list[PlanText]:
        return [message for message in mesh.said(PlanText) if message.mid]

    mesh.drop(lost)
    plan = make_plan()
    load(mesh, 0, plan)
    mesh.wait(3500)
    assert answers(mesh.peers[0]) == []
    assert len(offers()) == 4
    mesh.heal()
    mesh.wait(1000)
    assert answers(mesh.peers[0]) == [GraphLoaded]
    assert namespaces(mesh.peers[1]) == {"main": plan.digest}
    mesh.duplicate()
    load(mesh, 0, plan)
    mesh.wait(5000)
    assert len(offers()) == 6
    mesh.wait(10_000)
    assert {peer.core.deadline_ms() for peer in mesh.peers} == {None}


def test_who_is_gone_is_not_waited_for() -> None:
    mesh = Mesh(3, cluster={"replicas": 3})
    load_plan = make_plan()
    mesh.drop(dst=2)
    load(mesh, 0, load_plan)
    mesh.deliver()
    assert answers(mesh.peers[0]) == []
    change_status(mesh, 2, Status.SUSPECT, at=0)
    assert answers(mesh.peers[0]) == [GraphLoaded]
    assert mesh.peers[0].core.deadline_ms() is None


def test_who_comes_while_a_definition_is_spread_gets_it_too() -> None:
    mesh = Mesh(3, cluster={"replicas": 3})
    change_status(mesh, 2, Status.SUSPECT, at=0)
    mesh.drop(dst=1)
    load(mesh, 0, make_plan())
    mesh.deliver()
    assert namespaces(mesh.peers[2]) == {}
    mesh.hold(PlanKept, src=2)
    change_status(mesh, 2, Status.ALIVE, at=0)
    mesh.deliver()
    assert namespaces(mesh.peers[2]) == {"main": make_plan().digest}
    change_status(mesh, 1, Status.SUSPECT, at=0)
    assert answers(mesh.peers[0]) == [], "the new one has not said that it has it"
    mesh.heal()
    mesh.deliver()
    assert answers(mesh.peers[0]) == [GraphLoaded]
    assert mesh.peers[0].core.deadline_ms() is None


def test_the_same_definition_again_is_fine_and_another_is_not_unless_it_replaces() -> None:
    mesh = Mesh(3)
    one, two = make_plan(1), make_plan(2)
    load(mesh, 0, one)
    mesh.deliver()
    load(mesh, 1, one)
    mesh.deliver()
    assert answers(mesh.peers[1]) == [GraphLoaded]
    load(mesh, 1, two)
    mesh.deliver()
    assert answers(mesh.peers[1]) == [GraphLoaded, GraphRefused]
    assert "replace=True" in mesh.peers[1].last(GraphRefused).problems[0]
    assert namespaces(mesh.peers[2]) == {"main": one.digest}
    load(mesh, 1, two, replace=True)
    mesh.deliver()
    assert answers(mesh.peers[1])[2:] == [GraphLoaded]
    for peer in mesh.peers:
        assert namespaces(peer) == {"main": two.digest}
        assert peer.retired == [one.digest]


def test_a_wrong_definition_goes_nowhere() -> None:
    mesh = Mesh(2)
    mesh.peers[0].say(LoadGraph(mid=1, definition="{}"))
    assert answers(mesh.peers[0]) == [GraphRefused]
    assert mesh.peers[0].last(GraphRefused).problems
    assert mesh.links == mesh.peers[0].core._definitions._pointers == type(mesh.links)() or not mesh.links


# ---- which one holds


def test_of_two_definitions_loaded_at_once_one_holds_everywhere_and_the_other_is_told() -> None:
    mesh = Mesh(3)
    one, two = make_plan(1), make_plan(2)
    load(mesh, 0, one)
    load(mesh, 1, two)
    mesh.deliver()
    for peer in mesh.peers:
        assert namespaces(peer) == {"main": two.digest}, "the one of the peer with the higher id"
    assert answers(mesh.peers[0]) == [GraphRefused]
    assert "at the same time" in mesh.peers[0].last(GraphRefused).problems[0]
    assert answers(mesh.peers[1]) == [GraphLoaded]
    expected = {"ns": "main", "by": mesh.peers[1].me, "digest": two.digest.hex()}
    assert [warnings(peer, "warning.namespace.redefined") for peer in mesh.peers] == [[expected], [], []]
    mesh.wait(10_000)
    assert not any(peer.core._state.plans.is_used(one.digest) for peer in mesh.peers), "offered in vain"
    assert {peer.core.deadline_ms() for peer in mesh.peers} == {None}


def test_the_same_definition_loaded_at_two_peers_at_once_is_no_trouble() -> None:
    mesh = Mesh(3)
    for at in (0, 1):
        load(mesh, at, make_plan())
    mesh.deliver()
    assert [answers(peer) for peer in mesh.peers] == [[GraphLoaded], [GraphLoaded], []]
    assert [pointer.by for peer in mesh.peers for pointer in peer.core._definitions._pointers.values()] == [
        mesh.peers[1].me
    ] * 3
    assert {report.name for peer in mesh.peers for report in peer.reports} == {"peer.join", "tally.executor.start"}


def test_what_was_overtaken_is_not_spread_any_more() -> None:
    """Its client was told already, as enough peers had it; the other definition under way is not touched."""
    mesh = Mesh(4)
    mesh.drop(dst=3)
    load(mesh, 0, make_plan(1))
    load(mesh, 0, make_plan(1, "other"))
    mesh.deliver()
    load(mesh, 1, make_plan(2), replace=True)
    mesh.deliver()
    assert answers(mesh.peers[0]) == [GraphLoaded] * 2
    mesh.log.clear()
    mesh.wait(1500)
    assert [message.digest for message in mesh.said(PlanText, src=0)] == [make_plan(1, "other").digest]


def test_groups_that_were_apart_agree_when_they_meet() -> None:
    """More changes on one side count for more; the other side hears of it, and is told that its own is gone."""
    mesh = Mesh(2)
    plans = [make_plan(length) for length in (1, 2, 3)]
    mesh.drop()
    for at in (0, 1):
        change_status(mesh, 1 - at, Status.SUSPECT, at=at)
    load(mesh, 0, plans[0])
    load(mesh, 0, plans[1], replace=True)
    load(mesh, 1, plans[2])
    load(mesh, 1, make_plan(1, "other"))
    assert [answers(peer) for peer in mesh.peers] == [[GraphLoaded] * 2] * 2
    mesh.heal()
    for at in (0, 1):
        change_status(mesh, 1 - at, Status.ALIVE, at=at)
    mesh.deliver()
    for peer in mesh.peers:
        assert namespaces(peer) == {"main": plans[1].digest, "other": make_plan(1, "other").digest}
    assert [len(warnings(peer, "warning.namespace.redefined")) for peer in mesh.peers] == [0, 1]


def test_equal_pointers_to_different_definitions_are_settled_too() -> None:
    """A peer that has lost its memory may use a number twice."""
    mesh = Mesh(3)
    plans = sorted((make_plan(length) for length in (1, 2)), key=lambda plan: plan.digest)
    for at, plan in enumerate(plans):
        pointer = Pointer(ns="main", counter=1, by=PeerId("P" + "9" * 32), digest=plan.digest)
        tell(mesh, 2, at, Pointers(pointers=(pointer,)))
        tell(mesh, 2, at, PlanText(mid=0, digest=plan.digest, definition=plan.definition))
    for peer in mesh.peers[:2]:
        tell(mesh, peer.number, 1 - peer.number, Pointers(pointers=(*peer.core._definitions._pointers.values(),)))
    assert [namespaces(peer) for peer in mesh.peers[:2]] == [{"main": plans[1].digest}] * 2


def test_who_says_an_old_pointer_gets_the_new_one() -> None:
    mesh = Mesh(2)
    one, two = make_plan(1), make_plan(2)
    load(mesh, 0, one)
    mesh.deliver()
    (old,) = mesh.peers[0].core._definitions._pointers.values()
    mesh.drop(dst=1)
    load(mesh, 0, two, replace=True)
    mesh.deliver()
    mesh.heal()
    tell(mesh, 1, 0, Pointers(pointers=(old,)))
    assert namespaces(mesh.peers[1]) == {"main": two.digest}


def test_a_gap_shows_in_the_heartbeat() -> None:
    mesh = Mesh(2)
    load_apart(mesh, 0, make_plan())
    here, there = (peer.core._definitions for peer in mesh.peers)
    assert there.digest == b""
    assert len(here.digest) == 8
    for definitions, peer, heard in ((here, 0, there.digest), (there, 1, here.digest)):
        definitions.heard(mesh.peers[1 - peer].me, heard)
        mesh.peers[peer].tell(TimerFired())
    mesh.deliver()
    assert namespaces(mesh.peers[1]) == {"main": make_plan().digest}
    assert here.digest == there.digest
    assert len(mesh.said(AskPointers)) == 1
    there.heard(mesh.peers[0].me, here.digest)
    mesh.peers[1].tell(TimerFired())
    assert not mesh.links


# ---- what is missing


def test_a_definition_that_comes_back_may_be_loaded_still_and_others_are_told_so() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, gossiping=True)
    old = make_plan(1)
    load(mesh, 0, old)
    mesh.submit(0, 1)
    mesh.run()
    load(mesh, 0, make_plan(2), replace=True)
    mesh.peers[0].clear(*[record.id for record in mesh.peers[0].core.state.ledger])
    mesh.wait(2_000)
    assert mesh.peers[0].core.state.plans.plan(old.digest) is None
    load(mesh, 0, old, replace=True)
    mesh.wait(2_000)
    (key,) = [queue.key for queue in mesh.peers[0].core.state.plans.queues()]
    assert mesh.peers[1].core.state.gossip.view(key)[-1] == 1, "an executor has its node loaded"


def test_who_joins_gets_everything() -> None:
    mesh = Mesh(3)
    mesh.kill(2)
    plans = [make_plan(at + 1, f"ns{at}") for at in range(3)]
    for plan in plans:
        load(mesh, 0, plan)
    mesh.deliver()
    mesh.restart(2)
    assert namespaces(mesh.peers[2]) == {plan.ns: plan.digest for plan in plans}
    assert len(mesh.said(AskPlans)) == 1, "all in one"
    load(mesh, 2, plans[0])
    mesh.deliver()
    assert answers(mesh.peers[2]) == [GraphLoaded]


def test_the_next_one_is_asked_for_what_does_not_come() -> None:
    mesh = Mesh(4)
    plan = make_plan()
    mesh.drop(dst=3)
    load(mesh, 0, plan)
    mesh.deliver()
    mesh.heal()
    mesh.drop(PlanText)
    tell(mesh, 2, 3, Pointers(pointers=(*mesh.peers[2].core._definitions._pointers.values(),)))
    for question in (AskNamespaces(mid=1), AskDefinition(mid=1, ns="main")):
        mesh.peers[3].say(question)
    assert mesh.peers[3].core._definitions.is_coming("main", plan.digest)
    assert not mesh.peers[3].core._definitions.is_coming("main", b"")
    mesh.log.clear()
    mesh.wait(2500)
    assert [packet.dst for packet in mesh.log if isinstance(packet.message, AskPlans)] == [0, 1]
    change_status(mesh, 1, Status.SUSPECT, at=3)
    change_status(mesh, 2, Status.SUSPECT, at=3)
    mesh.wait(1000)
    assert [packet.dst for packet in mesh.log if isinstance(packet.message, AskPlans)] == [0, 1, 0]
    assert not told(mesh.peers[3], Namespaces, Definition)
    mesh.heal()
    mesh.wait(1000)
    assert [type(answer) for answer in told(mesh.peers[3], Namespaces, Definition)] == [Definition, Namespaces]
    assert namespaces(mesh.peers[3]) == {"main": plan.digest}
    assert not mesh.peers[3].core._definitions.is_coming("main", plan.digest)


def test_nobody_is_asked_while_nobody_is_there() -> None:
    mesh = Mesh(2)
    plan = make_plan()
    mesh.drop(PlanText)
    load(mesh, 0, plan)
    mesh.deliver()
    change_status(mesh, 0, Status.SUSPECT, at=1)
    mesh.wait(5000)
    peer = mesh.peers[1]
    assert peer.core.deadline_ms() is None
    mesh.heal()
    change_status(mesh, 0, Status.ALIVE, at=1)
    mesh.deliver()
    assert namespaces(peer) == {"main": plan.digest}


# ---- asked for what is not here


def unheard_of(peers: int = 3, **sections: Any) -> tuple[Mesh, Plan, Peer]:
    """A mesh in which a definition is loaded, and its last peer has not heard of it yet."""
    mesh = Mesh(peers, **sections)
    plan = make_plan()
    mesh.hold(PlanText, Pointers, dst=peers - 1)
    load(mesh, 0, plan)
    mesh.deliver()
    assert answers(mesh.peers[0]) == [GraphLoaded]
    mesh.peers[-1].plans["main"] = plan
    return mesh, plan, mesh.peers[-1]


def test_who_has_not_heard_of_a_namespace_asks_before_it_says_so() -> None:
    """A client that was told "loaded" may go on anywhere."""
    mesh, plan, peer = unheard_of()
    tasks = mesh.submit(2, 1)
    peer.say(AskNamespaces(mid=7, ns="main"))
    peer.say(AskDefinition(mid=8, ns="main"))
    mesh.deliver()
    assert not told(peer, Refused, Namespaces, Definition)
    assert peer.core._desk.waiting
    assert len(mesh.said(AskPointers, src=2)) == 2, "what came meanwhile waits for the next round, which has not begun"
    mesh.heal()
    mesh.run()
    assert mesh.results(2, tasks) == [2]
    assert [info.digest for info in peer.last(Namespaces).infos] == [plan.digest]
    assert peer.last(Definition).definition == plan.definition
    assert len(mesh.said(AskPointers, src=2)) == 4, "all that waited for the second round shared it"
    assert peer.core._definitions._lookups.deadline_ms() is None


def test_who_hears_of_a_definition_by_the_question_need_not_hear_of_it_otherwise() -> None:
    mesh, plan = Mesh(3), make_plan()
    peer = mesh.peers[2]
    mesh.drop(PlanText, Pointers, dst=2)
    load(mesh, 0, plan)
    mesh.deliver()
    mesh.heal()
    mesh.hold(PlanText, dst=2)
    peer.say(AskNamespaces(mid=7, ns="main"))
    mesh.deliver()
    assert not told(peer, Namespaces)
    mesh.heal()
    mesh.deliver()
    assert [info.digest for info in peer.last(Namespaces).infos] == [plan.digest]


def test_who_submits_to_a_newer_definition_than_is_here_waits_for_it() -> None:
    mesh = Mesh(3)
    load(mesh, 0, make_plan(1))
    mesh.deliver()
    mesh.hold(PlanText, Pointers, dst=2)
    load(mesh, 0, make_plan(2), replace=True)
    mesh.deliver()
    mesh.peers[2].plans["main"] = make_plan(2)
    tasks = mesh.submit(2, 1)
    mesh.deliver()
    assert not told(mesh.peers[2], Refused)
    mesh.heal()
    mesh.run()
    assert mesh.results(2, tasks) == [3]


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_nobody_knows_is_refused_when_all_have_answered_or_are_gone_or_silent(is_gone: bool) -> None:
    mesh = Mesh(3)
    peer = mesh.peers[2]
    peer.plans["main"] = make_plan()
    mesh.drop(AskPointers, dst=0)
    (task,) = mesh.submit(2, 1)
    peer.say(AskNamespaces(mid=7, ns="main"))
    mesh.deliver()
    assert not told(peer, Refused, Namespaces)
    if is_gone:
        change_status(mesh, 0, Status.SUSPECT, at=2)
        mesh.deliver()
    else:
        mesh.wait(900)
        assert not told(peer, Refused, Namespaces)
        mesh.wait(1100)
    assert [refused.ids for refused in told(peer, Refused)] == [(task,)]
    assert [answer.infos for answer in told(peer, Namespaces)] == [()]
    assert peer.core.deadline_ms() is None


def test_a_late_answer_is_no_answer_to_the_next_question() -> None:
    mesh, _, peer = unheard_of()
    peer.say(AskNamespaces(mid=7, ns="main"))
    mesh.wait(1100)
    assert [answer.infos for answer in told(peer, Namespaces)] == [()]
    mesh.drop(AskPointers)
    peer.say(AskNamespaces(mid=8, ns="other"))
    mesh.heal()
    mesh.deliver()
    assert [message.mid for message in mesh.said(Pointers, src=1, dst=2)] == [1]
    assert len(told(peer, Namespaces)) == 1
    mesh.wait(1100)
    assert len(told(peer, Namespaces)) == 2


def test_questions_wait_so_long_and_so_many_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scatterzmq.core.definitions.QUESTIONS_MAX", 2)
    mesh = Mesh(2, timing={"wait_s": 5.0})
    mesh.drop(PlanText)
    load(mesh, 0, make_plan())
    mesh.deliver()
    peer = mesh.peers[1]
    for mid in range(3):
        peer.say(AskNamespaces(mid=mid, ns="main"))
    assert [answer.mid for answer in told(peer, Namespaces)] == [2]
    mesh.wait(4900)
    assert len(told(peer, Namespaces)) == 1
    mesh.wait(200)
    assert [answer.mid for answer in told(peer, Namespaces)] == [2, 0, 1]


def test_what_was_checked_too_late_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(2)
    one, two, peer = make_plan(1), make_plan(2), mesh.peers[1]
    held = []
    hear = peer.tell
    monkeypatch.setattr(
        peer, "tell", lambda event: held.append(event) if isinstance(event, GraphChecked) else hear(event)
    )
    load(mesh, 0, one)
    mesh.deliver()
    load(mesh, 0, two, replace=True)
    mesh.deliver()
    peer.say(AskNamespaces(mid=1))
    assert not told(peer, Namespaces)
    monkeypatch.undo()
    for event in held:
        peer.tell(event)
    assert namespaces(peer) == {"main": two.digest}
    assert peer.core._state.plans.plan(one.digest) is None


def test_texts_that_are_not_what_they_say_are_refused() -> None:
    mesh = Mesh(2)
    plan, peer = make_plan(), mesh.peers[1]
    pointer = Pointer(ns="main", counter=1, by=mesh.peers[0].me, digest=plan.digest)
    mesh.drop(AskPlans)
    tell(mesh, 0, 1, Pointers(pointers=(pointer,)))
    for text in ("{}", "\N{SNOWMAN}"):
        tell(mesh, 0, 1, PlanText(mid=1, digest=plan.digest, definition=text))
    assert len(warnings(peer, "warning.peer.definition")) == 2
    assert mesh.said(PlanKept) == []
    assert peer.core._state.plans.text(plan.digest) is None


def test_a_definition_that_is_written_differently_cannot_run() -> None:
    """Its digest fits its text, but checking makes another text of it: what it would be run as has another name."""
    from scatterzmq.graph.definition import definition_digest

    mesh = Mesh(2)
    text = make_plan().definition + " "
    digest = definition_digest(text)
    pointer = Pointer(ns="main", counter=1, by=mesh.peers[0].me, digest=digest)
    tell(mesh, 0, 1, Pointers(pointers=(pointer,)))
    tell(mesh, 0, 1, PlanText(mid=1, digest=digest, definition=text))
    assert len(warnings(mesh.peers[1], "warning.graph.unusable")) == 1
    assert namespaces(mesh.peers[1]) == {}


# ---- for copies of tasks, and for those who help out


def test_definitions_that_only_tasks_need_are_fetched_kept_and_dropped() -> None:
    mesh = Mesh(2)
    plan, peer = make_plan(), mesh.peers[1]
    definitions, plans = peer.core._definitions, peer.core._state.plans
    here: list[bytes] = []
    ready: list[bytes] = []
    definitions.here.append(here.append)
    definitions.ready.append(ready.append)
    load_apart(mesh, 0, plan)
    assert not definitions.has(plan.digest)
    definitions.want(plan.digest, mesh.peers[0].me)
    definitions.want(plan.digest, mesh.peers[0].me)
    peer.tell(TimerFired())
    mesh.deliver()
    assert here == ready == [plan.digest]
    assert definitions.has(plan.digest)
    assert plans.plan(plan.digest) is not None
    assert namespaces(peer) == {}
    plans.keep(plan.digest)
    mesh.wait(60_000)
    assert definitions.has(plan.digest), "a copy of a task needs it"
    plans.release(plan.digest)
    peer.tell(TimerFired())
    assert not definitions.has(plan.digest)
    assert peer.retired == [plan.digest]
    definitions.want(plan.digest, mesh.peers[0].me)
    peer.tell(TimerFired())
    mesh.deliver()
    assert definitions.has(plan.digest)
    mesh.wait(10_000)
    assert not definitions.has(plan.digest), "nobody came for it"


def test_what_does_not_come_is_given_up() -> None:
    mesh = Mesh(2)
    peer = mesh.peers[1]
    peer.core._definitions.want(b"?" * 32, mesh.peers[0].me)
    peer.tell(TimerFired())
    mesh.wait(20_000)
    assert len(mesh.said(AskPlans)) == 10
    assert peer.core.deadline_ms() is None
    assert not peer.core._state.plans.is_used(b"?" * 32)
    peer.core._state.plans.keep(b"!" * 32)
    assert peer.core._state.plans.text(b"!" * 32) is None
    peer.core._state.plans.release(b"!" * 32)
    peer.tell(TimerFired())
    assert peer.retired == [], "it was never there"


def test_tasks_go_on_with_the_definition_they_came_with() -> None:
    mesh = Mesh(2)
    one, two = make_plan(1), make_plan(2)
    load(mesh, 0, one)
    mesh.deliver()
    mesh.peers[1].plans["main"] = one
    (task,) = mesh.submit(1, 1)
    load(mesh, 0, two, replace=True)
    mesh.deliver()
    assert namespaces(mesh.peers[1]) == {"main": two.digest}
    assert mesh.peers[1].retired == []
    mesh.run()
    assert mesh.results(1, [task]) == [2]
    assert mesh.peers[1].retired == []
    mesh.peers[1].say(Clear(mid=1, ids=(task,)))
    assert mesh.peers[1].retired == [one.digest]


def test_two_clients_of_one_peer() -> None:
    """The second replaces what the first is loading: the first is told."""
    mesh = Mesh(2)
    one, two = make_plan(1), make_plan(2)
    load(mesh, 0, one)
    mesh.peers[0].say(LoadGraph(mid=7, definition=two.definition, replace=True), BOB)
    mesh.deliver()
    told = [(send.to, type(send.message)) for send in mesh.peers[0].sent]
    assert told == [(ALICE, GraphRefused), (BOB, GraphLoaded)]
    assert warnings(mesh.peers[0], "warning.namespace.redefined") == []


# ---- which bytes its blobs have


def reading(blobs: Mapping[str, bytes], *names: str, by: int = 1) -> Plan:
    """A graph whose nodes read these blobs; `blobs` says which bytes they have."""
    nodes = [
        node(f"n{at}", "add", f"n{at - 1}:value" if at else ":value", f"n{at + 1}" if at + 1 < len(names) else None,
             by=by, blob=name)
        for at, name in enumerate(names)
    ]  # fmt: skip
    graphs = [graph("main", f"n{len(names) - 1}:value", nodes)]
    digests = {name: digest.hex() for name, digest in blobs.items()}
    return check({"graphs": graphs, "entry": "main", "ns": "main", "blobs": digests}, describe).require()


A, B = b"a" * 32, b"b" * 32


def test_only_what_a_client_loads_is_to_be_settled() -> None:
    mesh = Mesh(2)
    asked: list[bool] = []
    for peer in mesh.peers:
        perform = peer.perform

        def noting(action: Any, perform: Any = perform) -> None:
            if isinstance(action, CheckGraph):
                asked.append(action.settles)
            perform(action)

        peer.perform = noting  # type: ignore[method-assign]
    load(mesh, 0, make_plan())
    mesh.deliver()
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        ({}, {"x": A}, "after"),
        ({"x": A}, {"x": A, "y": B}, "after"),
        ({"x": A}, {}, "before"),
        ({"x": A}, {"y": B}, "before"),
        ({"x": A}, {"x": B, "y": A}, "x"),
        ({"x": A, "y": B}, {"x": B, "y": A}, "x"),
    ],
    ids=["nothing known", "more known", "nothing known any more", "another known", "other bytes", "all other"],
)
def test_a_definition_that_is_loaded_again_when_its_blobs_are(
    before: dict[str, bytes], after: dict[str, bytes], holds: str
) -> None:
    """What is known may grow, and nothing else."""
    mesh = Mesh(3)
    plans = {"before": reading(before, "x", "y"), "after": reading(after, "x", "y")}
    assert plans["before"].digest != plans["after"].digest
    load(mesh, 0, plans["before"])
    mesh.deliver()
    load(mesh, 1, plans["after"])
    mesh.deliver()
    if holds == "x":
        assert answers(mesh.peers[1]) == [GraphRefused]
        assert "its blob 'x' had other bytes then" in mesh.peers[1].last(GraphRefused).problems[0]
        load(mesh, 1, plans["after"], replace=True)
        mesh.deliver()
        holds = "after"
    assert answers(mesh.peers[1])[-1] is GraphLoaded
    assert mesh.peers[1].last(GraphLoaded).info.digest == plans[holds].digest
    for peer in mesh.peers:
        assert namespaces(peer) == {"main": plans[holds].digest}


def test_other_nodes_are_another_definition_whatever_is_known_of_blobs() -> None:
    mesh = Mesh(2)
    load(mesh, 0, reading({}, "x"))
    mesh.deliver()
    load(mesh, 0, reading({"x": A}, "x", by=2))
    mesh.deliver()
    assert answers(mesh.peers[0]) == [GraphLoaded, GraphRefused]
    assert "loaded with another definition" in mesh.peers[0].last(GraphRefused).problems[0]
