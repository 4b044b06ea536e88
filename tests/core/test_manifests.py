"""Kinds of nodes that not every peer has: graphs are loaded and tasks kept by all, and run by those who can."""

from collections.abc import Mapping
from typing import Any

import pytest

from scatterzmq.core.actions import CheckGraph
from scatterzmq.core.events import GraphChecked
from scatterzmq.core.messages import (
    AskDefinition,
    AskNamespaces,
    Definition,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    Namespaces,
    Refused,
    TaskStatus,
)
from scatterzmq.core.peermessages import AskManifest, Claim, Commit, Manifest, Nudge
from scatterzmq.errors import GraphError
from scatterzmq.graph.blobs import pinned
from scatterzmq.graph.check import check
from scatterzmq.graph.plan import Plan
from tests.core.conftest import chain, describe, graph, node
from tests.core.mesh import Mesh, Peer

RARE = "dice"


def make_plan(*more: dict[str, Any], kind: str = RARE, **extra: Any) -> Plan:
    """Two nodes, of which the first is of a kind that not all have."""
    first, last = node("n0", kind, ":value", "n1", **extra), node("n1", "add", "n0:value", None, by=1)
    return check({"graphs": [graph("main", "n1:value", [first, last]), *more], "entry": "main"}, describe).require()


def lacking(mesh: Mesh, *numbers: int, kind: str = RARE) -> None:
    for number in numbers:
        mesh.peers[number].lacking |= {kind}


def load(mesh: Mesh, at: int, plan: Plan, *, replace: bool = False) -> None:
    for peer in mesh.peers:
        peer.plans[plan.ns] = plan
    peer = mesh.peers[at]
    peer.say(LoadGraph(mid=peer.mid(), definition=plan.definition, replace=replace))
    mesh.deliver()


def told(peer: Peer) -> list[Any]:
    """What its clients were answered about definitions."""
    return [send.message for send in peer.sent if isinstance(send.message, GraphLoaded | GraphRefused)]


def namespaces(peer: Peer) -> Namespaces:
    peer.say(AskNamespaces(mid=1))
    peer.mesh.deliver()
    answer: Namespaces = peer.last(Namespaces)
    return answer


def ran(mesh: Mesh) -> list[int]:
    """Which peers have run anything of the rare kind."""
    return [peer.number for peer in mesh.peers if any(name == "n0" for name, _ in peer.ran)]


# ---- loading and running


def test_where_nobody_lacks_anything_nobody_is_asked() -> None:
    mesh = Mesh(3)
    load(mesh, 0, make_plan())
    assert [type(message) for message in told(mesh.peers[0])] == [GraphLoaded]
    assert not mesh.said(AskManifest)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_graph_is_loaded_and_used_through_any_peer_as_long_as_one_has_its_kinds(at: int) -> None:
    mesh = Mesh(3, gossiping=True)
    lacking(mesh, 0, 2)
    plan = make_plan()
    load(mesh, at, plan)
    assert [type(message) for message in told(mesh.peers[at])] == [GraphLoaded]
    for peer in mesh.peers:
        answer = namespaces(peer)
        assert [info.digest for info in answer.infos] == [plan.digest]
        assert answer.unusable == ({} if peer.number == 1 else {"main": "main:main:n0: dice is not installed"})
    tasks = mesh.submit(at, *range(20))
    mesh.run()
    assert mesh.results(at, tasks) == [number + 1 for number in range(20)]
    assert ran(mesh) == [1]
    assert {commit.claim.queue for commit in mesh.said(Commit, src=0) if commit.claim} == set()
    assert not mesh.said(Claim, src=0)
    assert not mesh.said(Claim, src=2)
    mesh.check_idle()


def test_a_client_that_repeats_itself_is_answered_once_all_the_same() -> None:
    mesh = Mesh(2)
    lacking(mesh, 0)
    mesh.hold(AskManifest)
    plan, peer = make_plan(), mesh.peers[0]
    for _ in range(2):
        peer.say(LoadGraph(mid=7, definition=plan.definition))
    mesh.heal()
    mesh.deliver()
    assert [message.mid for message in told(peer)] == [7]
    assert len(mesh.said(Manifest)) == 1


def test_which_bytes_its_blobs_have_is_settled_by_who_can_run_it() -> None:
    mesh = Mesh(2)
    lacking(mesh, 0)
    helper = mesh.peers[1]

    def settling(request: int, definition: str) -> GraphChecked:
        return Peer.checked(helper, request, pinned(definition, {"weights": b"\1" * 32}))

    helper.checked = settling  # type: ignore[method-assign]
    load(mesh, 0, make_plan(blob="weights"))
    current = mesh.peers[0].core._state.plans.current("main")
    assert current is not None
    assert current.blobs == {"weights": b"\1" * 32}
    assert [message.settles for message in mesh.said(AskManifest)] == [True]


# ---- refusals


def test_what_nobody_has_is_refused_with_what_is_missing_where() -> None:
    mesh = Mesh(3)
    lacking(mesh, 0, 1, 2)
    lacking(mesh, 1, kind="add")
    load(mesh, 0, make_plan())
    (refused,) = told(mesh.peers[0])
    first, own = refused.problems
    assert "none of the 3 peers has all kinds of nodes of this graph; missing are 'add' at 1, 'dice' at 3:" in first
    assert "plugins.allow" in first
    assert own == "main:main:n0: dice is not installed"
    assert namespaces(mesh.peers[0]) == Namespaces(mid=1, infos=())
    assert {peer.core.deadline_ms() for peer in mesh.peers} == {None}


def test_a_lone_peer_refuses_at_once() -> None:
    mesh = Mesh(1)
    lacking(mesh, 0)
    load(mesh, 0, make_plan())
    assert [message.problems for message in told(mesh.peers[0])] == [("main:main:n0: dice is not installed",)]


def test_what_is_wrong_besides_is_refused_without_asking() -> None:
    mesh = Mesh(2)
    lacking(mesh, 0)
    wrong = make_plan().definition.replace('"kind":"add"', '"kind":"nothing"')
    mesh.peers[0].say(LoadGraph(mid=1, definition=wrong))
    mesh.deliver()
    (refused,) = told(mesh.peers[0])
    assert len(refused.problems) == 2
    assert not mesh.said(AskManifest)


def test_what_only_who_has_the_kinds_finds_wrong_is_what_the_client_hears() -> None:
    mesh = Mesh(3)
    lacking(mesh, 0, 2)

    def picky(kind: str, args: Mapping[str, object], ns: str, place: str) -> Any:
        if kind == RARE:
            raise GraphError(f"{place}: it has seven sides")
        return describe(kind, args, ns, place)

    mesh.peers[1].describe = picky  # type: ignore[method-assign]
    load(mesh, 0, make_plan())
    assert [message.problems for message in told(mesh.peers[0])] == [("main:main:n0: it has seven sides",)]
    assert len(mesh.said(AskManifest)) == 2, "another one might have known better"


def test_more_nodes_than_a_message_can_tell_of_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scatterzmq.core.manifests.DEFINITION_BYTES_MAX", 100)
    mesh = Mesh(2)
    lacking(mesh, 0)
    load(mesh, 0, make_plan())
    (refused,) = told(mesh.peers[0])
    assert refused.problems[0].startswith("it has more nodes than a message between peers can tell of")


# ---- whom to tell of what waits


@pytest.mark.parametrize("is_nudged", [True, False])
@pytest.mark.parametrize("at", range(8))
def test_of_many_idle_peers_the_one_that_can_run_a_task_takes_it_at_once(at: int, is_nudged: bool) -> None:
    """Else it would leave it to those that cannot, and they would be told before it, one after another."""
    mesh = Mesh(8, gossiping=True)
    if not is_nudged:
        mesh.drop(Nudge)
    able = (at + 3) % 8
    lacking(mesh, *[number for number in range(8) if number != able])
    load(mesh, at, make_plan())
    tasks = mesh.submit(at, 7)
    mesh.run()
    assert mesh.now_ms == 0
    assert mesh.results(at, tasks) == [8]
    assert {packet.dst for packet in mesh.log if isinstance(packet.message, Nudge)} <= {able}
    assert ran(mesh) == [able]


# ---- owners that cannot run what they own


def test_who_cannot_run_a_task_takes_it_over_and_others_run_it() -> None:
    """The only one that can dies, and comes again: nothing is lost meanwhile, and nothing hangs."""
    mesh = Mesh(2, static=False, gossiping=True)
    lacking(mesh, 1)
    load(mesh, 0, make_plan())
    tasks = mesh.submit(0, *range(8))
    mesh.deliver()
    mesh.kill(0)
    mesh.wait(20_000)
    peer = mesh.peers[1]
    assert not peer.running
    for task in tasks:
        record = peer.core.state.ledger.record(task)
        assert record is not None
        assert record.status is TaskStatus.WAIT
    mesh.restart(0)
    mesh.wait(2_000)
    mesh.run()
    mesh.wait(2_000)
    results = [peer.core.state.ledger.record(task) for task in tasks]
    assert all(record is not None and record.status is TaskStatus.READY for record in results)
    assert ran(mesh) == [0]


def test_who_has_no_copy_runs_what_a_holder_took_over_that_cannot() -> None:
    mesh = Mesh(3, executors=[0, 1, 1], static=False, gossiping=True)
    lacking(mesh, 1, 2)
    load(mesh, 0, make_plan())
    tasks = mesh.submit(0, 1, 2)
    mesh.deliver()
    (holder,) = [peer for peer in mesh.peers[1:] if peer.core.state.copies.copy(tasks[0]) is not None]
    other = next(peer for peer in mesh.peers[1:] if peer is not holder)
    other.lacking = frozenset()
    load(mesh, other.number, make_plan())
    mesh.kill(0)
    mesh.wait(2_000)
    mesh.run()
    mesh.wait(2_000)
    record = holder.core.state.ledger.record(tasks[0])
    assert record is not None
    assert record.status is TaskStatus.READY
    assert ran(mesh) == [other.number]


def test_what_nobody_there_can_run_is_kept_until_somebody_comes() -> None:
    """The loader died before it could say what the nodes are: then there are copies, and no plan."""
    mesh = Mesh(2, static=False, gossiping=True)
    lacking(mesh, 1)
    mesh.drop(AskManifest)
    plan, peer = make_plan(), mesh.peers[1]
    load(mesh, 0, plan)
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.kill(0)
    mesh.wait(20_000)
    assert peer.core.state.copies.copy(task) is not None
    answer = namespaces(peer)
    assert answer.infos == ()
    assert answer.unusable == {"main": "main:main:n0: dice is not installed"}
    peer.say(AskDefinition(mid=2, ns="main"))
    assert peer.last(Definition).definition == plan.definition
    mesh.submit(1, 8)
    mesh.deliver()
    assert peer.last(Refused).message == ("stale: namespace 'main' cannot run: main:main:n0: dice is not installed")
    mesh.heal()
    mesh.restart(0)
    mesh.wait(2_000)
    mesh.run()
    mesh.wait(2_000)
    record = peer.core.state.ledger.record(task)
    assert record is not None
    assert record.status is TaskStatus.READY
    assert [info.ns for info in namespaces(peer).infos] == ["main"]


def test_a_peer_that_starts_again_alone_keeps_what_it_cannot_run() -> None:
    mesh = Mesh(2, static=False, gossiping=True, journal={"mode": "sync"}, timing={"grace_s": 1.0})
    lacking(mesh, 0)
    load(mesh, 0, make_plan())
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0, 1)
    peer = mesh.reboot(0)
    assert peer.lacking == frozenset()
    lacking(mesh, 0)
    peer.dead = True
    peer = mesh.reboot(0)
    mesh.wait(5_000)
    mesh.reboot(1)
    mesh.wait(5_000)
    mesh.run()
    mesh.wait(5_000)
    record = peer.core.state.ledger.record(task)
    assert record is not None
    assert record.status is TaskStatus.READY


# ---- what gets lost


def test_the_next_one_is_asked_when_one_does_not_answer() -> None:
    mesh = Mesh(3, static=False)
    lacking(mesh, 0)
    mesh.drop(AskManifest, dst=1)
    load(mesh, 0, make_plan())
    assert told(mesh.peers[0]) == []
    mesh.wait(1_100)
    assert [type(message) for message in told(mesh.peers[0])] == [GraphLoaded]


def test_who_does_not_answer_is_asked_again() -> None:
    mesh = Mesh(2, static=False)
    lacking(mesh, 0)
    mesh.drop(Manifest)
    load(mesh, 0, make_plan())
    mesh.wait(3_500)
    assert len(mesh.said(AskManifest)) == 4
    mesh.heal()
    mesh.wait(1_000)
    assert [type(message) for message in told(mesh.peers[0])] == [GraphLoaded]


def test_when_the_last_one_is_gone_that_has_not_answered_nobody_can() -> None:
    mesh = Mesh(4, static=False)
    lacking(mesh, 0, 2)
    mesh.drop(AskManifest, dst=1)
    mesh.drop(AskManifest, dst=3)
    load(mesh, 0, make_plan())
    mesh.wait(1_100)
    assert len(mesh.said(Manifest, src=2)) == 1
    for number in (2, 3):  # one that has answered, and one of two that have not
        mesh.kill(number)
        assert told(mesh.peers[0]) == []
    mesh.kill(1)
    (refused,) = told(mesh.peers[0])
    assert "none of the 2 peers" in refused.problems[0]


def test_whoever_comes_while_others_are_asked_is_asked_too() -> None:
    mesh = Mesh(2, static=False)
    mesh.kill(1)
    lacking(mesh, 0)
    other = mesh.restart(1)
    lacking(mesh, 1)
    mesh.drop(AskManifest)
    load(mesh, 0, make_plan())
    mesh.peers[0].core._definitions._manifests.alive(other.me)  # it was a suspect for a moment
    mesh.heal()
    mesh.wait(1_100)
    assert [type(message) for message in told(mesh.peers[0])] == [GraphRefused]


def held_checks(peer: Peer) -> list[CheckGraph]:
    """From now on its executors say nothing of what they are to check."""
    held: list[CheckGraph] = []
    perform = peer.perform

    def hold(action: Any) -> None:
        if isinstance(action, CheckGraph):
            held.append(action)
        else:
            perform(action)

    peer.perform = hold  # type: ignore[method-assign]
    return held


def test_what_is_asked_again_while_it_is_checked_is_checked_once() -> None:
    mesh = Mesh(2, static=False)
    lacking(mesh, 0)
    held = held_checks(mesh.peers[1])
    load(mesh, 0, make_plan())
    mesh.wait(2_500)
    assert len(mesh.said(AskManifest)) == 3
    (action,) = held
    mesh.peers[1].tell(mesh.peers[1].checked(action.request, action.definition))
    mesh.deliver()
    assert len(mesh.said(Manifest)) == 1
    assert [type(message) for message in told(mesh.peers[0])] == [GraphLoaded]


def test_another_life_of_who_asked_is_not_answered() -> None:
    """It may ask something else under the same number."""
    mesh = Mesh(2, static=False, journal={"mode": "sync"})
    lacking(mesh, 0)
    held = held_checks(mesh.peers[1])
    load(mesh, 0, make_plan())
    mesh.crash(0)
    mesh.reboot(0)
    (action,) = held
    mesh.peers[1].tell(mesh.peers[1].checked(action.request, action.definition))
    assert not mesh.said(Manifest)


# ---- what is not as it should be


def test_answers_that_nobody_waits_for_change_nothing() -> None:
    mesh = Mesh(3, static=False)
    lacking(mesh, 0, 2)
    mesh.drop(AskManifest)
    load(mesh, 0, make_plan())
    mesh.wait(0)
    mesh.speak(1, 0, Manifest(mid=99))
    mesh.speak(1, 0, Manifest(mid=1, problems=("no",), lacking=("dice",)))
    mesh.speak(1, 0, Manifest(mid=1, problems=("no",), lacking=("dice",)))
    assert told(mesh.peers[0]) == []
    mesh.speak(2, 0, Manifest(mid=1, problems=("no",), lacking=("dice",)))
    (refused,) = told(mesh.peers[0])
    assert "'dice' at 3" in refused.problems[0]


def test_an_answer_that_makes_no_plan_is_none() -> None:
    mesh = Mesh(2, static=False)
    lacking(mesh, 0)
    mesh.drop(AskManifest)
    load(mesh, 0, make_plan())
    mesh.speak(1, 0, Manifest(mid=1))
    (refused,) = told(mesh.peers[0])
    assert "has left it out" in refused.problems[0]


def test_an_answer_about_other_bytes_is_none() -> None:
    mesh = Mesh(2)
    lacking(mesh, 1)
    mesh.drop(AskManifest)
    plan, peer = make_plan(blob="weights"), mesh.peers[1]
    load(mesh, 0, plan)
    nodes = check(plan.definition, describe).manifest()
    mesh.speak(0, 1, Manifest(mid=1, nodes=nodes, blobs={"weights": b"\1" * 32}))
    assert peer.core._state.plans.plan(plan.digest) is None
    assert peer.core._state.plans.is_checked(plan.digest)


def test_what_is_not_used_any_more_is_not_asked_for() -> None:
    mesh = Mesh(2, static=False)
    lacking(mesh, 1)
    mesh.drop(AskManifest)
    load(mesh, 0, make_plan())
    peer = mesh.peers[1]
    assert peer.core._definitions._manifests.is_asking(make_plan().digest)
    load(mesh, 0, check({"graphs": [chain(1)], "entry": "main"}, describe).require(), replace=True)
    mesh.wait(1_100)
    assert not peer.core._definitions._manifests.is_asking(make_plan().digest)
    assert len(mesh.said(AskManifest)) == 1
    late = Manifest(mid=1, nodes=check(make_plan().definition, describe).manifest())
    mesh.speak(0, 1, late)
    assert peer.core._state.plans.plan(make_plan().digest) is None


def test_what_turns_out_to_be_unusable_when_nobody_uses_it_is_not_asked_for() -> None:
    mesh = Mesh(2)
    lacking(mesh, 1)
    peer = mesh.peers[1]
    held = held_checks(peer)
    load(mesh, 0, make_plan())
    load(mesh, 0, check({"graphs": [chain(1)], "entry": "main"}, describe).require(), replace=True)
    peer.tell(peer.checked(held[0].request, held[0].definition))
    assert not mesh.said(AskManifest)


def test_what_is_told_of_a_namespace_is_brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scatterzmq.core.manifests.BRIEF_CHARS", 10)
    mesh = Mesh(2)
    lacking(mesh, 0)
    load(mesh, 0, make_plan())
    assert namespaces(mesh.peers[0]).unusable == {"main": "main:main:..."}


# ---- a check that fails for another reason


def unable(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its executors cannot check anything."""

    def failing(request: int, _: str) -> GraphChecked:
        return GraphChecked(request=request, plan=None, problems=("no executor", "can be started"))

    monkeypatch.setattr(peer, "checked", failing)


def test_who_cannot_check_a_definition_keeps_it_and_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(2)
    plan, peer = make_plan(), mesh.peers[1]
    unable(peer, monkeypatch)
    load(mesh, 0, plan)
    assert [type(message) for message in told(mesh.peers[0])] == [GraphLoaded]
    reports = [report.context for report in peer.reports if report.name == "warning.graph.unusable"]
    assert reports == [{"digest": plan.digest.hex(), "problems": "no executor\ncan be started"}]
    answer = namespaces(peer)
    assert [info.digest for info in answer.infos] == [plan.digest]
    assert answer.unusable == {"main": "no executor; can be started"}
    monkeypatch.undo()
    load(mesh, 1, plan)
    assert namespaces(peer).unusable == {}
    load(mesh, 0, check({"graphs": [chain(2)], "entry": "main"}, describe).require(), replace=True)
    assert peer.retired == [plan.digest]


def test_who_loses_a_kind_tells_of_it_when_it_checks_again() -> None:
    mesh = Mesh(2)
    plan = make_plan()
    load(mesh, 0, plan)
    lacking(mesh, 1)
    load(mesh, 1, plan)
    assert [type(message) for message in told(mesh.peers[1])] == [GraphLoaded]
    assert namespaces(mesh.peers[1]).unusable.keys() == {"main"}
