"""Waking idle peers: as many as there are batches for them, each once, and others if those do not come."""

from typing import Any

import pytest

from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.nudges import by_precedence, precedence
from scatterzmq.core.peermessages import Claim, Commit, Grant, Nudge, Surrender
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import ExecutorId, PeerId
from tests.core.conftest import chain, graph, node
from tests.core.mesh import Mesh


def made(peers: int, *, owner: int = 0, batch: int = 2, **sections: Any) -> Mesh:
    """Peer 0 owns tasks and has `owner` executors; the others have one each, and believe nothing by themselves."""
    sections = {"cluster": {"replicas": 1}, "executor": {"batch_size": batch}} | sections
    return Mesh(peers + 1, executors=[owner] + [1] * peers, **sections)


def idle(mesh: Mesh, *numbers: int, executors: int = 1) -> None:
    """Peer 0 believes these to be idle."""
    mesh.peers[0].beliefs.idle = {mesh.peers[number].me: executors for number in numbers}


def nudged(mesh: Mesh) -> list[int]:
    return [packet.dst for packet in mesh.log if isinstance(packet.message, Nudge)]


def preferred(mesh: Mesh, plan: Plan) -> list[int]:
    """The peers in the order in which they are told of the only queue."""
    (queue,) = plan.queues
    by_id = {peer.me: peer.number for peer in mesh.peers[1:]}
    return [by_id[peer] for peer in by_precedence(mesh.peers[0].me, (plan.digest, queue), dict.fromkeys(by_id, 1))]


def test_as_many_are_told_as_there_are_batches() -> None:
    mesh = made(5)
    plan = mesh.load(chain(1))
    idle(mesh, 1, 2, 3, 4, 5)
    mesh.submit(0, 1, 2, 3)
    assert nudged(mesh) == preferred(mesh, plan)[:2]
    (queue,) = plan.queues
    assert mesh.said(Nudge)[0] == Nudge(digest=plan.digest, queue=queue)


def test_each_is_told_once() -> None:
    mesh = made(2)
    mesh.load(chain(1))
    mesh.drop(Nudge)
    idle(mesh, 1, 2)
    for value in range(8):
        mesh.submit(0, value)
    assert sorted(nudged(mesh)) == [1, 2]


def test_those_on_their_way_count() -> None:
    mesh = made(3)
    plan = mesh.load(chain(1))
    mesh.drop(Nudge)
    idle(mesh, 1, 2, 3)
    for value, expected in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        mesh.submit(0, value)
        assert nudged(mesh) == preferred(mesh, plan)[:expected]


def test_a_peer_with_many_idle_executors_is_one() -> None:
    mesh = made(2)
    mesh.load(chain(1))
    idle(mesh, 1, 2, executors=4)
    mesh.submit(0, *range(8))
    assert len(nudged(mesh)) == 1
    mesh.submit(0, 8)
    assert len(nudged(mesh)) == 2


def test_nobody_is_told_while_own_executors_do_it() -> None:
    mesh = made(2, owner=2)
    mesh.load(chain(1))
    idle(mesh, 1, 2)
    mesh.submit(0, *range(4))
    assert nudged(mesh) == []
    mesh.submit(0, 4)
    assert len(nudged(mesh)) == 1


def test_others_are_told_of_what_may_not_run_here() -> None:
    """Own executors are idle, but the node is not thread-safe and one works at it."""
    mesh = made(1, owner=2, batch=1)
    mesh.load(graph("main", "n:value", [node("n", "alone", ":value", None)]))
    idle(mesh, 1)
    tasks = mesh.submit(0, 1, 2)
    assert nudged(mesh) == [1]
    mesh.deliver()
    assert [mesh.peers[0].status(task) for task in tasks] == [TaskStatus.BUSY] * 2


def test_the_nudged_do_the_work_though_they_believe_nothing() -> None:
    mesh = made(3)
    mesh.load(chain(1))
    idle(mesh, 1, 2, 3)
    tasks = mesh.submit(0, *range(6))
    mesh.run()
    assert mesh.results(0, tasks) == list(range(1, 7))
    assert [len(peer.ran) for peer in mesh.peers] == [0, 2, 2, 2]
    assert len(mesh.said(Claim)) == 3


def test_a_lost_nudge_wakes_somebody_else_after_a_while() -> None:
    mesh = made(2)
    plan = mesh.load(chain(1))
    first, second = preferred(mesh, plan)
    mesh.drop(Nudge, dst=first)
    idle(mesh, 1, 2)
    tasks = mesh.submit(0, 1)
    mesh.wait(999)
    assert nudged(mesh) == [first]
    mesh.wait(1)
    assert nudged(mesh) == [first, second]
    mesh.run()
    assert mesh.results(0, tasks) == [2]


def test_a_peer_is_told_again_in_the_end() -> None:
    mesh = made(1, timing={"lease_s": 5.0})
    mesh.load(chain(1))
    mesh.drop(Nudge)
    idle(mesh, 1)
    tasks = mesh.submit(0, 1)
    mesh.wait(5_999)
    assert nudged(mesh) == [1]
    mesh.heal()
    mesh.wait(1)
    assert nudged(mesh) == [1, 1]
    mesh.run()
    assert mesh.results(0, tasks) == [2]
    assert mesh.peers[0].core._nudges.deadline_ms() is None


def test_a_peer_that_says_something_else_is_told_again() -> None:
    mesh = made(1)
    mesh.load(chain(1))
    mesh.drop(Nudge)
    idle(mesh, 1)
    mesh.submit(0, 1)
    idle(mesh, 1, executors=2)
    mesh.submit(0, 2)
    assert nudged(mesh) == [1, 1]
    idle(mesh)
    mesh.submit(0, 3)
    idle(mesh, 1)
    mesh.submit(0, 4)
    assert nudged(mesh) == [1, 1, 1]


def test_who_got_something_is_not_told_before_it_is_through() -> None:
    mesh = made(1)
    mesh.load(chain(1))
    idle(mesh, 1)
    tasks = mesh.submit(0, *range(4))
    mesh.deliver()
    assert len(mesh.peers[1].running) == 1
    mesh.submit(0, 4)
    assert nudged(mesh) == [1]
    mesh.step(1)
    mesh.drop(Nudge)
    mesh.deliver()
    assert mesh.said(Commit)[-1].claim is None, "it does not know that there is more"
    assert nudged(mesh) == [1, 1]
    mesh.heal()
    mesh.wait(16_000)
    mesh.run()
    assert mesh.results(0, tasks) == [1, 2, 3, 4]


def test_who_is_believed_to_be_busy_and_comes_back_with_nothing_to_do() -> None:
    mesh = made(1)
    mesh.load(chain(1))
    idle(mesh, 1)
    tasks = mesh.submit(0, *range(3))
    mesh.deliver()
    idle(mesh)
    mesh.submit(0)
    mesh.run()
    assert mesh.results(0, tasks) == [1, 2, 3]


def test_who_came_in_vain_is_told_of_what_comes_later() -> None:
    mesh = made(1, owner=1, batch=1)
    mesh.load(chain(1))
    idle(mesh, 1)
    first = mesh.submit(0, 1, 2)
    assert nudged(mesh) == [1]
    mesh.peers[0].step()
    mesh.deliver()
    assert mesh.said(Grant)[-1].ids == ()
    second = mesh.submit(0, 3)
    assert nudged(mesh) == [1, 1]
    mesh.run()
    assert mesh.results(0, (*first, *second)) == [2, 3, 4]


def test_whoever_is_not_alive_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = made(2)
    plan = mesh.load(chain(1))
    idle(mesh, 1, 2)
    first, second = preferred(mesh, plan)
    monkeypatch.setattr(mesh.peers[0].core._state.members, "is_alive", lambda peer: peer != mesh.peers[first].me)
    mesh.submit(0, 1)
    assert nudged(mesh) == [second]
    mesh.peers[0].core._lending.gone(mesh.peers[second].me, on_purpose=False)
    assert mesh.peers[0].core._nudges._beliefs == {}


def test_who_may_have_nothing_does_not_go_round_in_circles() -> None:
    """Claims that are refused are no reason to nudge."""
    mesh = made(1)
    plan = mesh.load(chain(1))
    (queue,) = plan.queues
    executor = ExecutorId("E" + "9" * 32)
    mesh.drop(dst=1)
    idle(mesh, 1)
    mesh.submit(0, 1)
    mesh.speak(1, 0, Claim(claim=1, executor=executor, digest=plan.digest, queue=queue, tasks_max=0))
    assert nudged(mesh) == [1]


def test_several_queues() -> None:
    mesh = made(3)
    mesh.load(chain(1), ns="a")
    mesh.load(chain(1), ns="b")
    idle(mesh, 1, 2, 3)
    mesh.submit(0, 1, ns="a")
    mesh.submit(0, 2, ns="b")
    mesh.submit(0, 3, ns="b")
    mesh.submit(0, 4, ns="b")
    assert len(set(nudged(mesh))) == 3
    assert len(nudged(mesh)) == 3
    mesh.run()
    assert mesh.said(Surrender) == []


def test_everybody_agrees_who_comes_first() -> None:
    peers = [PeerId(f"P{number:032x}") for number in range(1, 6)]
    mesh = made(1)
    plan = mesh.load(chain(2))
    orders = [
        by_precedence(owner, (plan.digest, queue), dict.fromkeys(peers, 1)) for owner in peers for queue in plan.queues
    ]
    assert all(sorted(order) == peers for order in orders)
    assert len({tuple(order) for order in orders}) > 5, "and it is not always the same ones"
    owner, key = peers[0], (plan.digest, next(iter(plan.queues)))
    assert orders[0] == sorted(peers, key=lambda peer: precedence(owner, key, peer))
