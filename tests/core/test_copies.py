"""The corners of copies, takeovers and leaving: words that nobody says as long as all goes well."""

from dataclasses import replace
from typing import Any

import pytest

from scatterzmq.core import copies as copies_module
from scatterzmq.core.events import ClientLost
from scatterzmq.core.messages import AskMembers, Attach, Clear, Cleared, Final, MemberList, Moved, Refused, TaskStatus
from scatterzmq.core.peermessages import CopyKind, Handover, Replicate, Replicated, Sync, SyncBetter, VersionInfo
from scatterzmq.core.travel import RESTARTS_MAX
from scatterzmq.core.versions import Rank, Version
from scatterzmq.errors import ErrorCode, ErrorInfo
from scatterzmq.ids import TaskId
from tests.core.conftest import ALICE, BOB, chain
from tests.core.mesh import Mesh
from tests.core.test_replicas import accepted, copies, holder
from tests.core.test_takeover import records

STRANGE = TaskId("T" + "9" * 32)


def made(n: int, **how: Any) -> Mesh:
    mesh = Mesh(n, executors=0, **how)
    mesh.load(chain(1))
    return mesh


def is_busy(mesh: Mesh) -> bool:
    """Whether something of the owner has not reached its copies."""
    return mesh.peers[0].core.state.replicas.busy


def known(mesh: Mesh, task: TaskId, by: int, *, n: int, rank: Rank = Rank.LIVE) -> VersionInfo:
    return VersionInfo(id=task, rank=rank, n=n, owner=mesh.peers[by].me, life=1, seq=1)


def test_answers_about_tasks_that_nobody_asked_about_or_that_are_worse() -> None:
    mesh = made(2)
    mesh.hold(Replicate)
    (task,) = mesh.submit(0, 1)
    mid = mesh.said(Replicate)[-1].mid
    better = (known(mesh, STRANGE, 1, n=9), known(mesh, task, 1, n=0))
    mesh.speak(1, 0, Replicated(mid=mid, better=better, lacking=(task, STRANGE)))
    assert len(mesh.said(Replicate)) == 2
    mesh.heal()
    mesh.deliver()
    assert accepted(mesh.peers[0])[0].copies == 2
    assert copies(mesh.peers[1]).keys() == {task}


def test_who_knows_better_twice_in_one_word_takes_the_task_once() -> None:
    mesh = made(2)
    mesh.hold(Replicate)
    (task,) = mesh.submit(0, 1)
    better = known(mesh, task, 1, n=5)
    mesh.speak(1, 0, Replicated(mid=mesh.said(Replicate)[-1].mid, better=(better, better)))
    assert mesh.peers[0].last(Moved).owners == (mesh.peers[1].me,)
    assert not records(mesh, 0)


def test_a_deletion_that_holders_do_not_hear_of_ends_all_the_same() -> None:
    mesh = made(3, cluster={"replicas": 3})
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.drop(Replicate)
    mesh.peers[0].clear(task)
    mesh.wait(2_000)
    assert not is_busy(mesh)


def test_what_was_to_be_repaired_may_be_gone_by_then() -> None:
    mesh = made(3, static=False)
    tasks = mesh.submit(0, *range(700))
    mesh.deliver()
    mesh.hold(Replicate)
    mesh.kill(holder(mesh))
    assert is_busy(mesh)
    mesh.peers[0].clear(*tasks)
    mesh.heal()
    mesh.wait(3_000)
    assert not is_busy(mesh)
    assert not records(mesh, 0)


def test_a_newcomer_that_goes_at_once_gets_nothing() -> None:
    mesh = made(2, static=False)
    mesh.kill(1)
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.restart(1, executors=0)
    mesh.kill(1)
    mesh.wait(3_000)
    record = mesh.peers[0].core.state.ledger.record(task)
    assert record is not None
    assert record.rset == (mesh.peers[0].me,)


def test_each_write_is_repeated_in_its_own_time() -> None:
    mesh = made(2)
    mesh.drop(Replicate)
    mesh.submit(0, 1)
    mesh.wait(500)
    mesh.submit(0, 2)
    mesh.wait(500)
    assert len(mesh.said(Replicate)) == 3
    mesh.wait(500)
    assert len(mesh.said(Replicate)) == 4


def test_an_old_word_of_an_owner_is_answered_with_what_is_known_since() -> None:
    mesh = made(2)
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    (first,) = [packet for packet in mesh.log if isinstance(packet.message, Replicate)]
    mesh.peers[0].cancel(task)
    mesh.deliver()
    mesh.peers[1].receive(first)
    mesh.deliver()
    assert mesh.said(Replicated)[-1].better[0].rank == Rank.CANCELLED


def test_what_an_owner_says_last_is_kept_although_it_is_worth_less() -> None:
    """An end that the infrastructure caused gives way to whoever still runs the task, but not to its owner's old word:
    its holders would own the task and run it again.
    """
    mesh = made(2)
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    record = records(mesh, 0)[task]
    first = mesh.said(Replicate)[-1]
    error = ErrorInfo(code=ErrorCode.CONNECTION, message="", traceback="")
    end = {"last_errors": (error,), "statuses": (TaskStatus.ERROR,), "durations_ms": (1,), "digests": {}}
    lost = replace(first, mid=77, kind=CopyKind.FINAL, seqs=(record.change + 1,), **end)
    mesh.speak(0, 1, lost)
    assert mesh.said(Replicated)[-1].better == ()
    assert copies(mesh.peers[1])[task].version.rank == Rank.LOST
    mesh.peers[1].receive(next(packet for packet in mesh.log if packet.message is first))
    mesh.deliver()
    assert mesh.said(Replicated)[-1].better[0].rank == Rank.LOST


def test_a_mark_of_a_task_that_is_not_here_is_answered_with_that() -> None:
    mesh = made(2)
    mesh.submit(0, 1)
    mesh.deliver()
    mark = replace(mesh.said(Replicate)[0], kind=CopyKind.MARK, mid=77, ids=(STRANGE,), digests={})
    mesh.speak(0, 1, mark)
    assert mesh.said(Replicated)[-1].lacking == (STRANGE,)
    assert STRANGE not in copies(mesh.peers[1])


def test_who_clears_is_told_what_was_not_there_to_clear() -> None:
    mesh = made(3)
    owned, copied, deleted = mesh.submit(0, 1, 2, 3)
    mesh.deliver()
    mesh.peers[0].clear(deleted)
    mesh.deliver()
    held = mesh.peers[holder(mesh)]
    held.say(Clear(mid=5, ids=(copied, STRANGE)), BOB)
    mesh.peers[0].say(Clear(mid=6, ids=(owned, deleted, STRANGE)), BOB)
    mesh.deliver()
    assert held.last(Cleared) == Cleared(mid=5, unknown=(STRANGE,))
    assert mesh.peers[0].last(Cleared) == Cleared(mid=6, unknown=(STRANGE,))


def test_who_attaches_twice_is_told_once() -> None:
    mesh = made(2)
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    for _ in range(2):
        mesh.peers[1].say(Attach(ids=(task,)), BOB)
    assert copies(mesh.peers[1])[task].clients == (BOB,)


def test_the_better_of_two_deletions_stays_and_tombstones_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies_module, "TOMBSTONES_MAX", 2)
    mesh = made(2)
    tasks = mesh.submit(0, 1, 2, 3)
    mesh.deliver()
    mesh.peers[1].clear(tasks[0])  # which the owner hears of, too
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    held = mesh.peers[1].core.state.copies
    assert [task for task in tasks if held.version(task) is None]
    assert mesh.peers[0].core.state.blocks.gone() == frozenset()


def test_a_deletion_said_twice_is_the_better_of_both() -> None:
    mesh = made(2)
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.duplicate(Replicate)
    mesh.peers[0].clear(task)
    mesh.deliver()
    version = mesh.peers[1].core.state.copies.version(task)
    assert version is not None
    assert version.rank == Rank.DELETED


def test_comparisons() -> None:
    mesh = made(2)
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.speak(1, 0, Sync(versions=(known(mesh, STRANGE, 0, n=1),)))
    assert mesh.said(Handover)[-1].ids == (STRANGE,)
    before = len(mesh.said(Replicate))
    mesh.speak(1, 0, Sync(versions=(known(mesh, task, 0, n=0),)))
    assert len(mesh.said(Replicate)) == before + 1
    mesh.deliver()
    mesh.speak(1, 0, Sync(versions=(known(mesh, task, 1, n=7),)))
    assert not records(mesh, 0)
    assert mesh.peers[0].last(Moved).owners == (mesh.peers[1].me,)


def test_who_hears_of_another_owner_asks_that_one_at_once() -> None:
    """Found by simulation: a copy of what was deleted stayed for one more `sync_s`."""
    mesh = made(3)
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    held = holder(mesh)
    owner = mesh.peers[3 - held]
    record = mesh.peers[0].core.state.ledger.record(task)
    assert record is not None
    deletion = Version(Rank.DELETED, 8, owner.me, 1, 1)
    owner.core.state.copies.bury(task, record.nonce, deletion, mesh.now_ms)
    mesh.speak(0, held, SyncBetter(versions=(known(mesh, task, owner.number, n=8),)))
    assert mesh.peers[held].core.state.copies.version(task) == deletion


def test_of_two_holders_the_first_adopts() -> None:
    mesh = made(4, static=False, cluster={"replicas": 3})
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    record = mesh.peers[0].core.state.ledger.record(task)
    assert record is not None
    first = record.rset[1]
    mesh.kill(0)
    mesh.wait(5_000)
    owners = [peer.me for peer in mesh.peers[1:] if peer.core.state.ledger.record(task) is not None]
    assert owners == [first]


def test_a_task_that_was_taken_over_too_often_is_given_up() -> None:
    mesh = made(2, static=False)
    (task,) = mesh.submit(0, 1)
    record = mesh.peers[0].core.state.ledger.record(task)
    assert record is not None
    record.restarts = RESTARTS_MAX
    mesh.links.clear()
    mesh.wait(1_000)  # said again, with that on its account
    held = copies(mesh.peers[1])[task]
    held.restarts = RESTARTS_MAX
    mesh.kill(0)
    mesh.wait(6_000)
    mesh.peers[1].say(Attach(ids=(task,)), ALICE)
    final = mesh.peers[1].last(Final)
    assert final.statuses == (TaskStatus.ERROR,)


def test_who_waits_for_room_at_a_leaver_goes_elsewhere() -> None:
    mesh = made(2, static=False, store={"record_bytes": 16})
    tasks = mesh.submit(0, 1, 2, 3)
    mesh.deliver()
    mesh.peers[0].tell(ClientLost(client=ALICE))
    mesh.leave(0)
    mesh.deliver()
    refused = [send for send in mesh.peers[0].sent if isinstance(send.message, Refused)]
    assert not refused, "whoever it is submits it to another one"
    assert records(mesh, 1).keys() == set(tasks[:2])


def test_who_is_there() -> None:
    mesh = made(2)
    mesh.peers[0].say(AskMembers(mid=3))
    listed = mesh.peers[0].last(MemberList)
    assert {contact.id for contact in listed.members} == {peer.me for peer in mesh.peers}
