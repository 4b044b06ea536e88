"""Owners die, and their tasks go on; what went apart in a split finds together again."""

from typing import Any

import pytest

from scatterzmq.core.events import Event, TimerFired
from scatterzmq.core.members import ELECTED_AFTER_MS
from scatterzmq.core.messages import AskTasks, Attach, Cancel, Final, Moved, TaskReports, TaskStatus
from scatterzmq.core.peermessages import Drop, Handover, Inquire, Known, Replicate, Sync, SyncBetter, SyncDigest
from scatterzmq.core.versions import Rank, Version
from scatterzmq.ids import TaskId
from tests.core.conftest import ALICE, BOB, chain, graph, node
from tests.core.mesh import Mesh
from tests.core.test_replicas import accepted, copies, holder


def records(mesh: Mesh, number: int) -> dict[str, Any]:
    return {record.id: record for record in mesh.peers[number].core._state.ledger}


def test_the_holder_of_a_copy_adopts_a_task_and_runs_it() -> None:
    mesh = Mesh(3, static=False, executors=[0, 1, 1])
    mesh.load(chain(2))
    mesh.hold(dst=0)
    tasks = mesh.submit(0, 1, 2)
    mesh.heal()
    mesh.deliver()
    heir = holder(mesh)
    for peer in mesh.peers:
        peer.running.clear()
    mesh.kill(0)
    mesh.wait(2000)
    assert records(mesh, heir).keys() == set(tasks)
    mesh.peers[heir].say(Attach(ids=tasks), ALICE)
    mesh.run()
    mesh.wait(20_000)
    mesh.run()
    assert mesh.results(heir, tasks) == [3, 4]
    outcome = mesh.outcome(heir, tasks[0])
    assert outcome is not None
    assert outcome.retries == 1
    assert copies(mesh.peers[3 - heir]).keys() == set(tasks)


def test_a_result_outlives_its_owner() -> None:
    mesh = Mesh(3, static=False, executors=[1, 0, 0])
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.run()
    heir = holder(mesh)
    mesh.peers[heir].say(Attach(ids=(task,)), BOB)  # the copy answers, while its owner lives and after
    told = mesh.peers[heir].outcome(task, BOB)
    assert told is not None
    assert told.value == 8
    mesh.kill(0)
    mesh.wait(2000)
    mesh.peers[heir].say(Attach(ids=(task,)), ALICE)
    assert mesh.results(heir, [task]) == [8]
    assert mesh.peers[heir].status(task) is TaskStatus.READY
    assert copies(mesh.peers[3 - heir]).keys() == {task}


def test_a_failure_outlives_its_owner() -> None:
    mesh = Mesh(2, static=False, executors=[1, 0], tasks={"max_retries": 0})
    mesh.load(graph("main", "n:value", [node("n", "fail", ":value", None, wrong=[3])]))
    failed, cancelled = mesh.submit(0, 3, 4)
    mesh.peers[0].cancel(cancelled)
    mesh.run()
    mesh.kill(0)
    mesh.wait(6000)
    mesh.peers[1].say(Attach(ids=(failed, cancelled)), ALICE)
    codes = [mesh.outcome(1, task).error.code for task in (failed, cancelled)]  # type: ignore[union-attr]
    assert codes == ["general_exception", "cancelled"]


def test_a_copy_says_where_its_owner_is() -> None:
    mesh = Mesh(2, static=False, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    other = mesh.peers[1]
    other.say(Attach(ids=(task,)), BOB)
    assert other.last(Moved).owners == (mesh.peers[0].me,)
    other.say(AskTasks(mid=1, ids=(task,)), BOB)
    (report,) = other.last(TaskReports).reports
    assert (report.status, report.ns) == (TaskStatus.WAIT, "main")
    other.say(Cancel(mid=2, ids=(task,)), BOB)
    assert mesh.peers[0].status(task) is TaskStatus.WAIT


def test_who_misses_somebody_says_so_of_what_it_does_not_know() -> None:
    mesh = Mesh(2, static=False, executors=0)
    mesh.wait(ELECTED_AFTER_MS)  # who has just started misses everybody
    for misses in (False, True):
        mesh.peers[0].say(AskTasks(mid=1, ids=(TaskId("T" + "7" * 32),)), BOB)
        told = mesh.peers[0].last(TaskReports)
        assert (told.reports[0].status, told.doubtful) == (TaskStatus.UNKNOWN, misses)
        mesh.hold(src=1)
        mesh.wait(10_000)


def test_the_client_of_a_copy_is_told_after_the_takeover() -> None:
    mesh = Mesh(2, static=False, executors=[0, 1])
    mesh.load(chain(1))
    mesh.peers[1].running.clear()
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.peers[1].running.clear()
    mesh.peers[1].say(Attach(ids=(task,)), BOB)
    mesh.kill(0)
    mesh.wait(6000)
    mesh.run()
    told = mesh.peers[1].outcome(task, BOB)
    assert told is not None
    assert told.value == 8


def test_who_deletes_a_copy_deletes_the_task() -> None:
    mesh = Mesh(3, static=False, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.peers[holder(mesh)].clear(task)
    mesh.deliver()
    assert not records(mesh, 0)
    assert mesh.peers[0].last(Final).statuses == (TaskStatus.UNKNOWN,)
    assert not any(copies(peer) for peer in mesh.peers)


def test_a_deletion_that_somebody_knows_of_stops_the_takeover() -> None:
    """The copy at the heir is older than the deletion, which only the third peer has heard of."""
    mesh = Mesh(3, static=False, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    heir = holder(mesh)
    third = 3 - heir
    mesh.drop(dst=heir)
    mesh.submit(0, 8)
    mesh.wait(2000)  # the heir is replaced for the second task, not for the first
    record = mesh.peers[0].core._state.ledger.record(task)
    assert record is not None
    mesh.peers[0].clear(task)
    mesh.deliver()
    copy = copies(mesh.peers[heir])[task]
    deletion = mesh.peers[0].core._state.copies.version(task)
    assert deletion is not None
    mesh.peers[third].core._state.copies.bury(task, copy.nonce, deletion, mesh.now_ms)
    mesh.heal()
    mesh.kill(0)
    mesh.wait(2000)
    assert mesh.said(Inquire, src=heir)
    assert mesh.said(Known, src=third)
    assert task not in records(mesh, heir)
    assert task not in copies(mesh.peers[heir])


def test_an_inquiry_that_nobody_answers_does_not_stop_the_takeover() -> None:
    mesh = Mesh(3, static=False, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    heir = holder(mesh)
    mesh.drop(Inquire)
    mesh.kill(0)
    mesh.wait(999)
    assert not records(mesh, heir)
    mesh.wait(1)
    assert records(mesh, heir).keys() == {task}


def test_two_owners_of_one_task_become_one() -> None:
    """A client submitted twice, to peers that did not know of each other."""
    mesh = Mesh(2, static=False, executors=0)
    mesh.load(chain(1))
    mesh.drop(Replicate)
    (task,) = mesh.submit(0, 7)
    mesh.peers[1].submit(7, ids=(task,))
    mesh.deliver()
    assert records(mesh, 0)
    assert records(mesh, 1)
    mesh.heal()
    mesh.wait(2000)
    assert sorted(len(records(mesh, number)) for number in (0, 1)) == [0, 1]
    assert [len(copies(peer)) for peer in mesh.peers] != [0, 0]
    loser = 0 if records(mesh, 1) else 1
    assert mesh.peers[loser].last(Moved).owners == (mesh.peers[1 - loser].me,)


def test_after_a_split_the_better_account_holds() -> None:
    mesh = Mesh(2, static=False, executors=[1, 1], cluster={"replicas": 1})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.run()
    mesh.peers[1].submit(7, ids=(task,))
    mesh.peers[1].core._takeover.healed(mesh.peers[0].me)
    mesh.peers[1].say(AskTasks(mid=1, ids=()))  # any event lets it speak
    mesh.deliver()
    assert mesh.said(Sync)
    assert mesh.said(SyncBetter)
    assert records(mesh, 0).keys() == {task}
    assert not records(mesh, 1)


def test_who_was_held_to_be_dead_is_asked_what_it_has() -> None:
    """Found by the simulator: a peer was halted, compared what it had, and only then read what it was told before."""
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.drop(Replicate)
    mesh.peers[0].clear(task)
    mesh.heal()
    assert copies(mesh.peers[1]).keys() == {task}
    mesh.peers[0].core._takeover.healed(mesh.peers[1].me)
    mesh.peers[0].say(AskTasks(mid=1, ids=()))  # any event lets it speak
    mesh.deliver()
    assert not copies(mesh.peers[1])


def fewest(mesh: Mesh, task: TaskId, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on: how many peers know of a task after each event."""
    counts = []
    for peer in mesh.peers:
        handle = peer.core.handle

        def handled(event: Event, now_ms: int, *, handle: Any = handle) -> Any:
            actions = handle(event, now_ms)
            counts.append(sum(task in {**records(mesh, other.number), **copies(other)} for other in mesh.peers))
            return actions

        monkeypatch.setattr(peer.core, "handle", handled)
    return counts


def split(mesh: Mesh) -> TaskId:
    """A task of peer 0's, which two parts of the cluster come to own: peer 0 alone, and the others."""
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.drop(src=0)
    mesh.drop(dst=0)
    mesh.wait(15_000)
    assert [task in records(mesh, peer.number) for peer in mesh.peers].count(True) == 2
    return task


@pytest.mark.parametrize("n", [2, 3])
def test_when_a_split_heals_nobody_is_ever_alone_with_a_task(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is better had no copies there, and who was worse forgot the task at once: then one crash lost it."""
    mesh = Mesh(n, static=False, executors=0)
    task = split(mesh)
    mesh.heal()
    counts = fewest(mesh, task, monkeypatch)
    mesh.wait(70_000)
    assert min(counts) == 2
    owners = [peer.number for peer in mesh.peers if task in records(mesh, peer.number)]
    assert len(owners) == 1
    assert sum(task in copies(peer) for peer in mesh.peers) == 1
    assert all(not copy.stands_in for peer in mesh.peers for copy in copies(peer).values())


def test_who_has_given_way_owns_the_task_again_if_nobody_else_has_it() -> None:
    mesh = Mesh(2, static=False, executors=0)
    task = split(mesh)
    mesh.heal()
    mesh.drop(Replicate)
    while len(owners := [peer.number for peer in mesh.peers if records(mesh, peer.number)]) > 1:
        mesh.wait(500)
    (owner,) = owners
    other = mesh.peers[1 - owner]
    assert copies(other)[task].stands_in
    other.say(Attach(ids=(task,)), BOB)
    assert other.last(Moved).owners == (mesh.peers[owner].me,)
    mesh.kill(owner)
    mesh.wait(10_000)
    assert records(mesh, other.number).keys() == {task}
    other.start(1)
    mesh.run()
    assert mesh.peers[other.number].outcome(task, BOB).value == 8  # type: ignore[union-attr]


def in_a_later_epoch(mesh: Mesh) -> tuple[TaskId, int, int]:
    """A task that peer 0 gives up to one who has its result from an epoch before, that one, and who has a copy of it as
    it was at peer 0.
    """
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    record, held = records(mesh, 0)[task], holder(mesh)
    replicas = mesh.peers[0].core.state.replicas
    replicas._move(record, record.rset)
    replicas.rewrite((record,), mesh.now_ms)
    mesh.peers[0].say(AskTasks(mid=1, ids=()))  # any event lets it speak
    mesh.deliver()
    assert copies(mesh.peers[held])[task].version.n == record.epoch_n == 2
    other = 3 - held
    better = Version(Rank.READY, 1, mesh.peers[other].me, 1, 2)
    mesh.peers[0].core._takeover.hand_off(record, better, better.owner)
    return task, other, held


def test_what_was_given_up_is_adopted_in_an_epoch_that_it_was_not_in_here() -> None:
    """Found by simulation: the result was of an earlier epoch. The later one then came twice."""
    mesh = Mesh(3, static=False, executors=0)
    task, other, held = in_a_later_epoch(mesh)
    mesh.drop(Inquire)
    mesh.kill(other)
    mesh.wait(10_000)
    record = records(mesh, 0)[task]
    assert record.epoch_n > 2
    assert copies(mesh.peers[held])[task].version.n == record.epoch_n


def test_what_was_given_up_and_is_forgotten_begins_in_an_epoch_that_it_was_not_in_here() -> None:
    mesh = Mesh(3, static=False, executors=0)
    task, other, _ = in_a_later_epoch(mesh)
    mesh.speak(other, 0, Drop(ids=(task,)))
    mesh.deliver()
    assert not copies(mesh.peers[0])
    mesh.peers[0].submit(7, ids=(task,))
    assert records(mesh, 0)[task].epoch_n > 2


def test_what_somebody_stands_in_for_does_not_come_back_from_there_when_it_is_deleted() -> None:
    """It is in its first epoch, and has no copies: else nobody would have heard of it."""
    mesh = Mesh(2, static=False, executors=0, cluster={"replicas": 1})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.peers[1].submit(7, ids=(task,))
    mesh.drop(Drop)
    mesh.peers[1].core._takeover.healed(mesh.peers[0].me)
    mesh.peers[1].say(AskTasks(mid=1, ids=()))  # any event lets it speak
    mesh.deliver()
    (owner,) = [peer.number for peer in mesh.peers if task in records(mesh, peer.number)]
    assert copies(mesh.peers[1 - owner])[task].stands_in
    mesh.peers[owner].clear(task)
    mesh.wait(70_000)
    assert not any(records(mesh, peer.number) or copies(peer) for peer in mesh.peers)


def test_an_end_that_gave_way_is_not_shown_unless_nobody_knows_better() -> None:
    mesh = Mesh(2, static=False, executors=[1, 0], cluster={"replicas": 1})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.run()
    record = records(mesh, 0)[task]
    better = Version(Rank.READY, record.epoch_n + 1, mesh.peers[1].me, 1, 3)
    mesh.peers[0].core._takeover.hand_off(record, better, mesh.peers[1].me)
    mesh.peers[0].say(Attach(ids=(task,)), BOB)
    mesh.peers[0].say(AskTasks(mid=1, ids=(task,)), BOB)
    assert mesh.peers[0].last(Moved).owners == (mesh.peers[1].me,)
    assert mesh.peers[0].outcome(task, BOB) is None
    assert [report.status for report in mesh.peers[0].last(TaskReports).reports] == [TaskStatus.READY]
    mesh.kill(1)
    mesh.wait(10_000)
    told = mesh.peers[0].outcome(task, BOB)
    assert told is None or told.value == 8
    assert records(mesh, 0).keys() == {task}
    mesh.peers[0].say(Attach(ids=(task,)), BOB)
    assert mesh.peers[0].outcome(task, BOB).value == 8  # type: ignore[union-attr]


def test_what_is_not_ready_and_gave_way_to_something_better_waits_as_far_as_is_known() -> None:
    """The better account has not come; it may be of another end."""
    mesh = Mesh(2, static=False, executors=0, cluster={"replicas": 1})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.peers[0].cancel(task)
    record = records(mesh, 0)[task]
    assert record.phase.ended
    better = Version(Rank.READY, record.epoch_n + 1, mesh.peers[1].me, 1, 3)
    mesh.peers[0].core._takeover.hand_off(record, better, mesh.peers[1].me)
    mesh.peers[0].say(AskTasks(mid=1, ids=(task,)), BOB)
    assert [report.status for report in mesh.peers[0].last(TaskReports).reports] == [TaskStatus.WAIT]


@pytest.mark.parametrize("at", range(8))
def test_an_owner_that_dies_at_any_moment_loses_nothing_that_was_accepted(at: int) -> None:
    """After so many messages the owner is gone. What its client had been told holds."""
    mesh = Mesh(3, static=False, executors=[1, 1, 1])
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1, 2, 3)
    for _ in range(at):
        mesh.deliver(1)
        if not mesh.links and mesh.peers[0].running:
            mesh.peers[0].step()
    promised = [task for told in accepted(mesh.peers[0]) for task in told.ids]
    before = mesh.results(0, tasks)
    mesh.kill(0)
    mesh.wait(6000)
    mesh.run()
    mesh.wait(30_000)
    mesh.run()
    for task in promised:
        values = []
        for peer in mesh.peers[1:]:
            peer.say(Attach(ids=(task,)), BOB)
            told = peer.outcomes.get((BOB, task), [])
            values += [outcome.value for outcome in told if outcome.status is not TaskStatus.UNKNOWN]
        index = tasks.index(task)
        assert set(values) == {index + 3}
        assert before[index] in (None, index + 3)


def given_up(mesh: Mesh) -> tuple[TaskId, int]:
    """A task that peer 0 has given up to one who does not know of it, and that one. Others still have copies, and peer
    0 has lost what it kept until that one did not want it.
    """
    (task,) = mesh.submit(0, 4)
    mesh.deliver()
    record = records(mesh, 0)[task]
    (other,) = [peer for peer in mesh.peers if peer.me not in record.rset]
    mesh.peers[0].core._takeover.hand_off(record, Version(Rank.LIVE, 9, other.me, 1, 1), other.me)
    mesh.peers[0].core.state.copies.drop(task)
    return task, other.number


def test_what_was_given_up_to_somebody_who_lost_it_is_owned_by_who_still_has_a_copy() -> None:
    """Found by simulation: the owner that had given it up said that the last copy was not wanted."""
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    task, other = given_up(mesh)
    held = 3 - other
    mesh.wait(40_000)
    assert records(mesh, held).keys() == {task}
    assert records(mesh, held)[task].restarts == 0
    assert not records(mesh, 0)
    assert not records(mesh, other)


def test_the_deletion_of_what_was_adopted_is_remembered_also_by_who_has_it_alone() -> None:
    """Others had it."""
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    task, other = given_up(mesh)
    held = mesh.peers[3 - other]
    held.core.state.replicas._wanted = 1
    mesh.wait(40_000)
    record = records(mesh, held.number)[task]
    assert record.rset == (held.me,)
    held.clear(task)
    assert held.core.state.copies.is_dead(task, record.nonce)


def test_who_was_halted_compares_with_others_what_it_has() -> None:
    """They may have held it to be dead, and own its tasks."""
    mesh = Mesh(2, executors=0, static=False)
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.deliver()
    mesh.now_ms += 1000
    mesh.peers[0].tell(TimerFired())
    assert not mesh.said(SyncDigest)
    mesh.now_ms += 5000
    mesh.peers[0].tell(TimerFired())
    assert [digest.count for digest in mesh.said(SyncDigest, src=0, dst=1)] == [1]


def test_old_copies_of_what_was_given_up_go() -> None:
    mesh = Mesh(4, executors=0, cluster={"replicas": 3})
    mesh.load(chain(1))
    task, other = given_up(mesh)
    mesh.drop(Replicate)
    mesh.peers[other].submit(4, ids=(task,))
    record = records(mesh, other)[task]
    mesh.peers[other].core.state.replicas._wanted = 1  # with copies of its own it would not need these
    mesh.peers[other].core.state.replicas._move(record, (mesh.peers[other].me,))
    assert sum(task in copies(peer) for peer in mesh.peers) == 2
    mesh.wait(100_000)  # one of them is the first to hear that it may own the task; the other one hears of it later
    assert not any(task in copies(peer) for peer in mesh.peers)
    assert not any(records(mesh, number) for number in range(4) if number != other)
    assert records(mesh, other)[task] is record


def test_who_may_own_a_task_is_told_again_and_asks_once() -> None:
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    task, other = given_up(mesh)
    held = 3 - other
    mesh.hold(Inquire)
    for _ in range(2):
        mesh.speak(0, held, Handover(mid=0, ids=(task,)))
    assert len(mesh.said(Inquire, dst=0)) == 1
    mesh.heal()
    mesh.deliver()
    assert records(mesh, held).keys() == {task}
