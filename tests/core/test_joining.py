"""Batches that are filled from several owners: run as one, and each owner is told of its own tasks as if it were alone.

Peers 0, 2 and 3 own tasks; peer 1 has the executors.
"""

from typing import Any

import pytest

from scatterzmq.core.actions import BatchOrder, RowsCancelled
from scatterzmq.core.borrowing import FILL_MS
from scatterzmq.core.commits import part_of
from scatterzmq.core.events import BatchFinished, Emitted, RowsFailed, TimerFired
from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.peermessages import Claim, Commit, Grant, Surrender
from scatterzmq.core.queues import Queue
from scatterzmq.core.values import Block
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, ExecutorId, PeerId, TaskId
from tests.core.conftest import chain, graph, node
from tests.core.mesh import Mesh, Peer

PEER = PeerId("P" + "1" * 32)
FIRST = ExecutorId("E" + "0" * 32)


def queue_at(mesh: Mesh, number: int, name: str = "n0") -> Queue:
    return next(queue for queue in mesh.peers[number].core._state.plans.queues() if queue.node.name == name)


def measure(queue: Queue, tasks: int, ms: int) -> None:
    """Batches of a node are known to take so long."""
    queue.pace.note(tasks, ms)
    queue.touched[queue.key] = None


def made(*graphs: dict[str, Any], batch_size: int = 6, executors: int = 1, **sections: Any) -> Mesh:
    """Peer 1 has measured the node before."""
    sections = {"cluster": {"replicas": 1}, "executor": {"batch_size": batch_size}} | sections
    mesh = Mesh(4, executors=(0, executors, 0, 0), **sections)
    mesh.load(*(graphs or (chain(1),)))
    for queue in mesh.peers[1].core._state.plans.queues():
        measure(queue, 6, 1)
    return mesh


def given(
    mesh: Mesh, *shares: int, name: str = "n0", believed: tuple[int, ...] | None = None
) -> list[tuple[TaskId, ...]]:
    """So many tasks for the owners, of which peer 1 hears, and asks for them."""
    tasks = [
        mesh.submit(owner, *range(10 * owner, 10 * owner + share))
        for owner, share in zip((0, 2, 3), shares, strict=False)
    ]
    key = queue_at(mesh, 0, name).key
    for owner, length in zip((0, 2, 3), believed or shares, strict=False):
        mesh.peers[1].believe(mesh.peers[owner], key, length)
    mesh.peers[1].tell(TimerFired())
    return tasks


def asked(mesh: Mesh) -> dict[int, int]:
    """Owner -> how many tasks it was asked for last."""
    return {packet.dst: packet.message.tasks_max for packet in mesh.log if isinstance(packet.message, Claim)}


def running(mesh: Mesh) -> BatchOrder:
    return mesh.peers[1].running[FIRST]


def statuses(mesh: Mesh, owner: int, tasks: tuple[TaskId, ...]) -> set[TaskStatus]:
    return {mesh.peers[owner].status(task) for task in tasks}


def borrowing(peer: Peer) -> dict[str, int]:
    counters: dict[str, int] = peer.core._borrowing.counters
    return counters


def test_a_batch_is_filled_from_several_owners() -> None:
    mesh = made()
    tasks = given(mesh, 1, 2, 3)
    assert sum(asked(mesh).values()) == 6
    mesh.deliver()
    order = running(mesh)
    assert sorted(order.tasks) == sorted(task for share in tasks for task in share)
    owners = [order.token.owner, *[token.owner for _, token in order.joined]]
    assert sorted(owners) == [mesh.peers[owner].me for owner in (0, 2, 3)]
    for start, token in ((0, order.token), *order.joined):
        assert mesh.peers[[peer.me for peer in mesh.peers].index(token.owner)].status(order.tasks[start]) == "busy"
    assert mesh.run() == 1
    for owner, share in zip((0, 2, 3), tasks, strict=True):
        assert mesh.results(owner, share) == [10 * owner + at + 1 for at in range(len(share))]
        mesh.peers[owner].clear(*share)
    assert borrowing(mesh.peers[1])["joined"] == 2
    assert borrowing(mesh.peers[1])["returned"] == 3
    mesh.deliver()
    mesh.check_idle()


def test_who_has_enough_is_asked_alone() -> None:
    mesh = made()
    given(mesh, 0, 6, 0)
    assert asked(mesh) == {2: 6}


def test_three_owners_at_most() -> None:
    mesh = Mesh(5, executors=(0, 1, 0, 0, 0), cluster={"replicas": 1}, executor={"batch_size": 9})
    mesh.load(chain(1))
    queue = queue_at(mesh, 1)
    measure(queue, 9, 1)
    for owner in (0, 2, 3, 4):
        mesh.submit(owner, 1)
        mesh.peers[1].believe(mesh.peers[owner], queue.key, 1)
    mesh.peers[1].tell(TimerFired())
    assert len(asked(mesh)) == 3
    mesh.deliver()
    mesh.peers[1].step()
    assert len(mesh.said(Claim)) + len([commit for commit in mesh.said(Commit) if commit.claim]) == 4


@pytest.mark.parametrize("why", ["unknown", "long", "tokens", "stays"])
def test_who_is_asked_alone(why: str) -> None:
    """Nothing is known yet; one task is enough for now; a budget of elements; large results."""
    mesh = made()
    queue = queue_at(mesh, 1)
    if why == "unknown":
        queue.pace.task_us = 0
        queue.touched[queue.key] = None
    elif why == "long":
        measure(queue, 1, 10_000)
        mesh.peers[1].beliefs.rates[queue.key] = 100.0
    elif why == "tokens":
        mesh.load(chain(1) | {"nodes": [chain(1)["nodes"][0] | {"batch_tokens": 8}]})
        measure(queue_at(mesh, 1), 6, 1)
    else:
        queue.results_stay = True
    given(mesh, 2, 2, 2)
    assert len(asked(mesh)) == 1


def test_a_part_that_does_not_come_is_not_waited_for_long() -> None:
    mesh = made()
    (ours, theirs) = given(mesh, 3, 3)
    mesh.hold(Grant, src=2)
    mesh.deliver()
    assert not mesh.peers[1].running
    assert mesh.peers[1].core.deadline_ms() == mesh.now_ms + FILL_MS
    mesh.wait(FILL_MS)
    assert running(mesh).tasks == ours
    mesh.heal()
    mesh.deliver()
    assert statuses(mesh, 2, theirs) == {TaskStatus.WAIT}
    assert [surrender.crashed for surrender in mesh.said(Surrender)] == [False]
    mesh.run(gossip=True)
    assert None not in mesh.results(0, ours)
    assert None not in mesh.results(2, theirs)
    assert mesh.peers[2].report(theirs[0]).retries == 0


def test_who_has_nothing_after_all_delays_nobody() -> None:
    mesh = made()
    (ours, _) = given(mesh, 3, 0, believed=(3, 3))
    mesh.deliver()
    assert running(mesh).tasks == ours


def test_an_owner_that_dies_while_its_part_runs() -> None:
    mesh = made()
    (ours, _) = given(mesh, 3, 3)
    mesh.deliver()
    order = running(mesh)
    cancelled: list[RowsCancelled] = []
    perform = mesh.peers[1].perform
    mesh.peers[1].perform = lambda action: (  # type: ignore[method-assign]
        cancelled.append(action) if isinstance(action, RowsCancelled) else perform(action)
    )
    mesh.peers[1].core._borrowing.gone(mesh.peers[2].me)
    mesh.peers[1].tell(TimerFired())
    (word,) = cancelled
    assert [order.tasks[row] for row in word.rows] == [task for task in order.tasks if task not in ours]
    mesh.drop(src=1, dst=2)
    mesh.run()
    assert None not in mesh.results(0, ours)
    assert borrowing(mesh.peers[1])["borrowed_in_vain"] == 1


def test_an_owner_that_dies_before_its_part_runs() -> None:
    mesh = made()
    (ours, theirs, _) = given(mesh, 2, 2, 2)
    mesh.hold(Grant, src=3)
    mesh.deliver()
    mesh.peers[1].core._borrowing.gone(mesh.peers[2].me)
    mesh.wait(FILL_MS)
    assert running(mesh).tasks == ours
    mesh.peers[1].core.check_invariants()
    assert theirs


def test_all_owners_die_before_their_parts_run() -> None:
    mesh = made()
    given(mesh, 2, 2, 2)
    mesh.hold(Grant, src=3)
    mesh.deliver()
    for owner in (0, 2):
        mesh.peers[1].core._borrowing.gone(mesh.peers[owner].me)
    mesh.peers[1].tell(TimerFired())
    assert not mesh.peers[1].running
    mesh.heal()
    mesh.deliver()
    assert len(running(mesh).tasks) == 2


def test_an_executor_that_dies_makes_every_task_solo_and_is_on_no_account() -> None:
    mesh = made()
    tasks = given(mesh, 3, 3)
    mesh.deliver()
    mesh.peers[1].lose(FIRST, crashed=True)
    mesh.deliver()
    assert [surrender.crashed for surrender in mesh.said(Surrender)] == [True, True]
    for owner, share in zip((0, 2), tasks, strict=True):
        records = [mesh.peers[owner].core._state.ledger.record(task) for task in share]
        assert [(record.solo, record.crashes) for record in records if record is not None] == [(True, 0)] * 3
    mesh.peers[1].start()
    mesh.gossip()
    mesh.run(gossip=True)
    for owner, share in zip((0, 2), tasks, strict=True):
        assert None not in mesh.results(owner, share)


def test_an_executor_that_dies_while_it_waits_for_the_rest_is_no_crash_of_theirs() -> None:
    mesh = made()
    given(mesh, 3, 3)
    mesh.hold(Grant, src=2)
    mesh.deliver()
    mesh.peers[1].lose(FIRST, crashed=True)
    mesh.deliver()
    assert [surrender.crashed for surrender in mesh.said(Surrender)] == [False]


def test_a_solo_task_runs_alone() -> None:
    mesh = made()
    tasks = given(mesh, 1, 1)
    for owner, share in zip((0, 2), tasks, strict=True):
        record = mesh.peers[owner].core._state.ledger.record(share[0])
        assert record is not None
        queue = queue_at(mesh, owner)
        queue.remove(share[0])
        record.solo = True
        queue.push(share[0], priority=1.0, weight=1.0, nbytes=8, padded_length=0, solo=True, seq=1)
    mesh.deliver()
    assert len(running(mesh).tasks) == 1
    assert running(mesh).solo
    assert len(mesh.said(Surrender)) == 1
    mesh.run(gossip=True)
    for owner, share in zip((0, 2), tasks, strict=True):
        assert None not in mesh.results(owner, share)


def test_a_solo_task_does_not_join_others() -> None:
    mesh = made()
    (ours, (theirs,)) = given(mesh, 1, 1)
    record = mesh.peers[2].core._state.ledger.record(theirs)
    assert record is not None
    queue = queue_at(mesh, 2)
    queue.remove(theirs)
    record.solo = True
    queue.push(theirs, priority=1.0, weight=1.0, nbytes=8, padded_length=0, solo=True, seq=1)
    mesh.hold(Grant, src=2)
    mesh.deliver()
    mesh.heal()
    mesh.deliver()
    assert running(mesh).tasks == ours
    assert len(mesh.said(Surrender)) == 1


def test_tasks_that_nobody_wants_are_cancelled_by_their_position_in_the_batch() -> None:
    mesh = made()
    tasks = given(mesh, 2, 2)
    mesh.deliver()
    order = running(mesh)
    seen: list[RowsCancelled] = []
    perform = mesh.peers[1].perform
    mesh.peers[1].perform = lambda action: (  # type: ignore[method-assign]
        seen.append(action) if isinstance(action, RowsCancelled) else perform(action)
    )
    for owner, share in zip((0, 2), tasks, strict=True):
        mesh.peers[owner].clear(share[1])
        mesh.deliver()
        assert [order.tasks[row] for row in seen[-1].rows] == [share[1]]
    mesh.run()
    assert [None not in mesh.results(owner, share[:1]) for owner, share in zip((0, 2), tasks, strict=True)] == [
        True
    ] * 2


def test_failures_are_those_of_their_owner() -> None:
    mesh = made(
        graph("main", "n0:value", [node("n0", "fail", ":value", None, wrong=[1, 20])]), tasks={"max_retries": 0}
    )
    tasks = given(mesh, 2, 2)
    mesh.deliver()
    assert mesh.run() == 1
    assert mesh.results(0, tasks[0]) == [0, None]
    assert mesh.results(2, tasks[1]) == [None, 21]


def test_who_leaves_runs_what_it_has() -> None:
    mesh = made()
    (ours, theirs) = given(mesh, 3, 3)
    mesh.hold(Grant, src=2)
    mesh.deliver()
    mesh.peers[1].core._state.leaving = True
    mesh.peers[1].tell(TimerFired())
    assert running(mesh).tasks == ours
    mesh.heal()
    mesh.deliver()
    assert statuses(mesh, 2, theirs) == {TaskStatus.WAIT}


def test_large_results_are_noticed() -> None:
    """The next batch has one owner, so that they can stay."""
    mesh = made(chain(2), store={"inline_bytes": 0})
    given(mesh, 3, 3)
    mesh.deliver()
    mesh.peers[1].step()
    assert queue_at(mesh, 1).results_stay


def test_small_results_again_let_batches_be_joined_again() -> None:
    mesh = made(chain(2))
    queue_at(mesh, 1).results_stay = True
    given(mesh, 3, 3)
    mesh.deliver()
    mesh.peers[1].step()
    assert not queue_at(mesh, 1).results_stay


def test_a_part_of_an_answer() -> None:
    block = Block(BlockId(PEER, 1), Layout(DTYPES["int64"], 5, ()), 40)
    value = [(block, row) for row in range(5)]
    event = BatchFinished(
        executor=FIRST,
        order=1,
        emitted=(
            Emitted(output="a", rows=(4, 0), fields={"x": (value[4], value[0])}),
            Emitted(output="b", rows=(1,), fields={"x": (value[1],)}),
        ),
        failed=(RowsFailed(rows=(2,), code=ErrorCode.UNKNOWN, message="m"),),
        missing=(3,),
    )
    first, second = part_of(event, 0, 2), part_of(event, 2, 3)
    assert [(part.output, part.rows, part.fields["x"]) for part in first.emitted] == [
        ("a", (0,), (value[0],)),
        ("b", (1,), (value[1],)),
    ]
    assert (first.failed, first.missing) == ((), ())
    assert [(part.output, part.rows, part.fields["x"]) for part in second.emitted] == [("a", (2,), (value[4],))]
    assert [failed.rows for failed in second.failed] == [(0,)]
    assert second.missing == (1,)
