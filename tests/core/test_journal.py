"""The journal: what must be on disk before what is said, and what a disk that fails changes."""

import pytest

from scatterzmq.core.actions import Persist
from scatterzmq.core.entries import DefinitionText, Deleted, Forgotten, Identity, Kept, Neighbour, Pointed
from scatterzmq.core.events import Persisted, PersistFailed
from scatterzmq.core.messages import (
    Accepted,
    AskTasks,
    Attach,
    Cleared,
    Final,
    GraphLoaded,
    LoadGraph,
    Refused,
    TaskStatus,
)
from scatterzmq.core.peermessages import CopyKind, Drop, Replicate, Replicated, Sync
from scatterzmq.errors import ErrorCode
from scatterzmq.ids import ExecutorId, TaskId
from tests.core.conftest import BOB, chain, graph, node
from tests.core.mesh import Mesh, Peer
from tests.core.test_replicas import accepted, copies, holder

SYNC, BATCH = {"mode": "sync"}, {"mode": "batch"}


def told(peer: Peer, kind: type) -> list[object]:
    return [send.message for send in peer.sent if isinstance(send.message, kind)]


def refusals(peer: Peer) -> list[Refused]:
    return [send.message for send in peer.sent if isinstance(send.message, Refused)]


def finals(peer: Peer) -> list[Final]:
    return [send.message for send in peer.sent if isinstance(send.message, Final)]


def lone(mode: object = SYNC, executors: int = 0, **sections: object) -> Mesh:
    mesh = Mesh(1, executors=executors, static=False, journal=mode, **sections)  # type: ignore[arg-type]
    mesh.load(chain(1))
    return mesh


def hold(mesh: Mesh, *numbers: int) -> None:
    for number in numbers:
        mesh.peers[number].disk.holding = True


# ---- before


def test_without_a_journal_nothing_is_written() -> None:
    mesh = Mesh(2, static=False)
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.run()
    assert not any(peer.disk.writes for peer in mesh.peers)
    assert all(peer.core.state.journal is None for peer in mesh.peers)


def test_who_it_is_and_what_is_loaded_is_kept() -> None:
    mesh = Mesh(2, static=False, journal=SYNC)
    plan = mesh.load(chain(1))
    for peer in mesh.peers:
        tables = peer.disk.tables
        assert tables["identity"] == Identity(peer=peer.me, incarnation=1)
        assert tables["definition", plan.digest] == DefinitionText(digest=plan.digest, definition=plan.definition)
        assert isinstance(tables["pointer", "main"], Pointed)
        other = mesh.peers[1 - peer.number]
        assert tables["neighbour", other.me] == Neighbour(contact=other.contact)
    mesh.kill(1)
    mesh.wait(1000)
    assert ("neighbour", mesh.peers[1].me) not in mesh.peers[0].disk.tables


def test_a_definition_is_loaded_when_it_is_on_disk() -> None:
    mesh = lone()
    hold(mesh, 0)
    peer = mesh.peers[0]
    before = len(told(peer, GraphLoaded))
    peer.say(LoadGraph(mid=9, definition=peer.plans["main"].definition, replace=True))
    assert len(told(peer, GraphLoaded)) == before + 1  # it is there already
    mesh.load(chain(2))
    assert len(told(peer, GraphLoaded)) == before + 1
    peer.write_all()
    assert len(told(peer, GraphLoaded)) == before + 2


@pytest.mark.parametrize("mode", [SYNC, BATCH])
def test_a_task_is_accepted_when_it_is_on_disk(mode: object) -> None:
    mesh = lone(mode)
    hold(mesh, 0)
    peer = mesh.peers[0]
    (task,) = mesh.submit(0, 7)
    assert not accepted(peer)
    assert peer.status(task) is TaskStatus.WAIT
    peer.write_all()
    (answer,) = accepted(peer)
    assert (answer.ids, answer.copies, answer.durable) == ((task,), 1, mode is SYNC)
    assert peer.disk.writes == 3  # definition, identity, task
    assert len(peer.disk.tasks()) == (1 if mode is SYNC else 0)


@pytest.mark.parametrize("mode", [SYNC, BATCH])
def test_a_result_is_shown_when_it_is_on_disk(mode: object) -> None:
    mesh = lone(mode, executors=1)
    peer = mesh.peers[0]
    (task,) = mesh.submit(0, 7)
    hold(mesh, 0)
    mesh.run()
    assert mesh.outcome(0, task) is None
    assert peer.status(task) is TaskStatus.BUSY
    peer.write_all()
    assert mesh.results(0, [task]) == [8]
    assert finals(peer)[-1].durable is (mode is SYNC)
    peer.disk.sync()
    kept = peer.disk.tasks()[task]
    assert (kept.status, [number for _, number in (kept.values or {}).values()]) == (TaskStatus.READY, [8])


def asked_before_it_is_written(mode: object) -> tuple[TaskId, Peer]:
    """A task that has ended, and a holder that knows, is asked, and does not have it on disk yet."""
    mesh = Mesh(2, executors=[1, 0], static=False, journal=mode)  # type: ignore[arg-type]
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    hold(mesh, 1)
    mesh.run()
    keeper = mesh.peers[1]
    keeper.say(Attach(ids=(task,)), BOB)
    return task, keeper


@pytest.mark.parametrize("mode", [SYNC, BATCH])
def test_a_holder_tells_of_an_end_when_it_is_on_its_own_disk(mode: object) -> None:
    """So nobody hears after a restart that what was on disk is not, because a holder answers in the owner's place."""
    task, keeper = asked_before_it_is_written(mode)
    assert copies(keeper)[task].status is TaskStatus.READY
    assert not finals(keeper)
    keeper.write_all()
    (final,) = finals(keeper)
    assert final.ids == (task,)
    assert (final.copies, final.durable) == ((1, True) if mode is SYNC else (2, False))


def test_what_is_deleted_before_a_holder_has_told_of_it_is_unknown() -> None:
    task, keeper = asked_before_it_is_written(SYNC)
    keeper.mesh.peers[0].clear(task)
    keeper.mesh.deliver()
    keeper.write_all()
    assert [final.statuses for final in finals(keeper)] == [(TaskStatus.UNKNOWN,)]


def test_an_end_stays_durable_while_another_one_becomes_its_holder() -> None:
    """As after a start, when every record gets new copies."""
    mesh = Mesh(3, executors=[1, 0, 0], static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.run()
    owner, gone = mesh.peers[0], holder(mesh)
    hold(mesh, 3 - gone)
    mesh.kill(gone)
    mesh.deliver()
    owner.say(Attach(ids=(task,)), BOB)
    mesh.peers[3 - gone].write_all()
    mesh.deliver()
    owner.say(Attach(ids=(task,)), BOB)
    assert [(final.copies, final.durable) for final in finals(owner)] == [(2, True), (1, True), (2, True)]


def test_of_two_copies_of_which_one_is_on_disk_one_is_durable() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, journal=SYNC)
    mesh.load(chain(1))
    mesh.peers[1].disk.full = True
    (task,) = mesh.submit(0, 7)
    mesh.run()
    mesh.peers[0].say(Attach(ids=(task,)), BOB)
    assert [(final.copies, final.durable) for final in finals(mesh.peers[0])] == [(2, False), (1, True)]


def test_what_is_deleted_before_an_owner_has_told_of_it_again_is_unknown() -> None:
    mesh = lone(executors=1)
    peer = mesh.peers[0]
    (task,) = mesh.submit(0, 7)
    mesh.run()
    hold(mesh, 0)
    mesh.submit(0, 8)
    peer.say(Attach(ids=(task,)), BOB)
    peer.clear(task)
    assert len(finals(peer)) == 1
    peer.write_all()
    assert {send.to: send.message.statuses for send in peer.sent if isinstance(send.message, Final)}[BOB] == (
        TaskStatus.UNKNOWN,
    )


def test_a_deletion_is_said_when_it_is_on_disk() -> None:
    mesh = lone()
    peer = mesh.peers[0]
    (task,) = mesh.submit(0, 7)
    hold(mesh, 0)
    peer.clear(task)
    assert not told(peer, Cleared)
    assert not finals(peer)
    peer.write_all()
    assert told(peer, Cleared)
    assert not peer.disk.tasks()


def test_disk_and_copies_are_written_at_the_same_time_and_both_are_waited_for() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    owner, other = mesh.peers
    hold(mesh, 0)
    mesh.submit(0, 7)
    mesh.deliver()
    assert copies(other)
    assert not accepted(owner)
    owner.write_all()
    assert [answer.durable for answer in accepted(owner)] == [True]
    hold(mesh, 1)
    mesh.submit(0, 8)
    mesh.deliver()
    assert len(copies(other)) == 2
    assert len(accepted(owner)) == 1
    other.write_all()
    mesh.deliver()
    assert [answer.durable for answer in accepted(owner)] == [True, True]
    assert owner.disk.tasks().keys() == other.disk.tasks().keys()


def test_a_repeated_write_is_answered_when_the_first_one_is_on_disk() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    hold(mesh, 1)
    mesh.submit(0, 7)
    mesh.deliver()
    mesh.wait(1500)
    assert len(mesh.said(Replicate, src=0)) == 2
    assert not mesh.said(Replicated)
    mesh.peers[1].write_all()
    mesh.deliver()
    assert [answer.durable for answer in mesh.said(Replicated)] == [True, True]


def test_an_answer_for_an_earlier_life_is_not_given_to_the_next_one() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    hold(mesh, 1)
    mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    mesh.reboot(0, executors=0)
    assert len(mesh.said(Replicate)) == 2  # one in each life, and the same number
    mesh.peers[1].write_all()
    mesh.deliver()
    assert len(mesh.said(Replicated, src=1)) == 1


def test_a_record_is_durable_only_where_all_its_copies_are() -> None:
    """The holder has no journal."""
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    mesh.on_send = lambda packet: () if isinstance(packet.message, Replicated) else (packet,)
    mesh.submit(0, 7)
    mesh.deliver()
    (message,) = mesh.said(Replicate)
    mesh.speak(1, 0, Replicated(mid=message.mid, durable=False))
    mesh.on_send = lambda packet: (packet,)
    mesh.speak(1, 0, Replicated(mid=message.mid, durable=False))
    assert [answer.durable for answer in accepted(mesh.peers[0])] == [False]


def test_a_crash_mark_is_on_disk_without_the_input() -> None:
    mesh = lone(executors=1)
    peer = mesh.peers[0]
    (task,) = mesh.submit(0, 7)
    seen: list[Persist] = []
    hold(mesh, 0)
    peer.lose(ExecutorId("E" + "0" * 32))
    seen += peer.disk.held
    peer.write_all()
    marks = [entry for action in seen for entry in action.entries if isinstance(entry, Kept)]
    assert marks
    assert all(mark.values is None for mark in marks)
    kept = peer.disk.tasks()[task]
    assert kept.solo
    assert [number for _, number in (kept.values or {}).values()] == [7]


def test_a_mark_at_the_holder_leaves_the_input_where_it_is() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.peers[0].lose(ExecutorId("E" + "0" * 32))
    mesh.deliver()
    assert [message for message in mesh.said(Replicate) if message.kind is CopyKind.MARK]
    kept = mesh.peers[1].disk.tasks()[task]
    assert kept.solo
    assert [number for _, number in (kept.values or {}).values()] == [7]


def test_tombstones_are_kept_until_they_lapse() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing={"tombstone_s": 30.0})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.peers[0].clear(task)
    mesh.deliver()
    for peer in mesh.peers:
        assert not peer.disk.tasks()
        assert ("tombstone", task) in peer.disk.tables
    mesh.wait(31_000)
    assert not any(("tombstone", task) in peer.disk.tables for peer in mesh.peers)


def test_a_copy_that_is_not_wanted_is_forgotten_on_disk() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    other = mesh.peers[1]
    mesh.speak(0, 1, Drop(ids=(task, task)))
    assert task not in copies(other)
    assert not other.disk.tasks()
    writes = other.disk.writes
    other.core.state.copies.drop(task)
    mesh.wait(1000)
    assert other.disk.writes == writes


def test_who_takes_a_task_over_keeps_it_as_its_own() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    heir = mesh.peers[holder(mesh)]
    mesh.kill(0)
    mesh.wait(2000)
    kept = heir.disk.tasks()[task]
    assert kept.version.owner == heir.me
    assert kept.version.n > 1 << 20  # above all of earlier lives, had there been any
    third = mesh.peers[3 - heir.number]
    assert third.disk.tasks()[task].version.owner == heir.me


def test_the_last_one_to_leave_loses_nothing() -> None:
    mesh = lone()
    mesh.submit(0, 7)
    mesh.leave(0)
    assert mesh.peers[0].left is not None
    assert mesh.peers[0].left.lost == 0
    mesh = lone({"mode": "off"})
    mesh.submit(0, 7)
    mesh.leave(0)
    assert mesh.peers[0].left is not None
    assert mesh.peers[0].left.lost == 1


# ---- disks that fail


def test_a_lone_peer_with_a_full_disk_refuses_what_is_new_and_goes_on_with_the_rest() -> None:
    mesh = lone(executors=1)
    peer = mesh.peers[0]
    (task,) = mesh.submit(0, 7)
    peer.disk.full = True
    mesh.run()
    assert mesh.results(0, [task]) == [8]
    assert finals(peer)[-1].durable is False
    assert [report.context["reason"] for report in peer.reports if report.name == "error.journal.failed"] == [
        "no space left on device"
    ]
    mesh.submit(0, 9)
    (refusal,) = refusals(peer)
    assert refusal.code is ErrorCode.REFUSED
    assert "no space left on device" in refusal.message
    writes = peer.disk.writes
    peer.disk.full = False  # it is never tried again
    peer.clear(task)
    assert told(peer, Cleared)
    assert peer.disk.writes == writes
    assert mesh.submit(0, 10)
    assert len(refusals(peer)) == 2


def test_a_task_that_a_full_disk_does_not_take_is_not_accepted() -> None:
    mesh = lone()
    peer = mesh.peers[0]
    peer.disk.full = True
    (task,) = mesh.submit(0, 7)
    assert not accepted(peer)
    assert [refusal.ids for refusal in refusals(peer)] == [(task,)]
    assert not list(peer.core.state.ledger)
    mesh.check_idle()


def test_a_task_that_others_may_have_accepted_is_not_refused() -> None:
    """Found by simulation: an owner that was cut off refused and deleted what somebody else had accepted meanwhile."""
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    peer = mesh.peers[0]
    hold(mesh, 0)
    mesh.drop(Replicated)
    (task,) = mesh.submit(0, 7)
    mesh.wait(2000)  # its holder does not answer, and there is nobody else
    peer.tell(PersistFailed(write=peer.disk.held[0].write, reason="broken"))
    assert [record.rset for record in peer.core.state.ledger] == [(peer.me,)]
    assert not accepted(peer)
    assert not refusals(peer)
    peer.submit(7, ids=(task,))
    assert not accepted(peer)
    mesh.wait(10_000)  # its holder is asked again
    peer.submit(7, ids=(task,))
    assert not accepted(peer)
    mesh.heal()
    mesh.wait(2000)
    peer.submit(7, ids=(task,))
    assert [(answer.ids, answer.copies, answer.durable) for answer in accepted(peer)] == [((task,), 2, False)]


def test_what_is_refused_is_not_deleted_where_it_was_accepted() -> None:
    """Found by simulation: its client had gone to another peer with it, when the first one did not answer."""
    mesh = Mesh(2, executors=1, static=False, journal=SYNC, cluster={"replicas": 1})
    mesh.load(chain(1))
    first = mesh.peers[0]
    (task,) = mesh.submit(1, 7)
    mesh.run()
    hold(mesh, 0)
    first.submit(7, ids=(task,))
    epoch_n = first.core.state.ledger.record(task).epoch_n  # type: ignore[union-attr]
    first.tell(PersistFailed(write=first.disk.held[0].write, reason="broken"))
    assert [refusal.ids for refusal in refusals(first)] == [(task,)]
    assert first.core.state.first_n > epoch_n, "submitted here again it would be taken for what was refused"
    mesh.peers[1].core._takeover.healed(first.me)
    mesh.peers[1].say(AskTasks(mid=1, ids=()))  # any event lets it speak
    mesh.deliver()
    assert mesh.said(Sync)
    assert mesh.results(1, [task]) == [8]
    assert mesh.peers[1].core.state.ledger.record(task) is not None


def test_everything_under_way_goes_on_when_the_disk_fails() -> None:
    mesh = lone(executors=1)
    peer = mesh.peers[0]
    first, second = mesh.submit(0, 7, 8)
    hold(mesh, 0)
    mesh.run()
    peer.clear(second)
    held = list(peer.disk.held)
    assert len(held) == 2
    peer.tell(PersistFailed(write=held[0].write, reason=""))
    assert mesh.results(0, [first]) == [8]
    assert told(peer, Cleared)
    peer.tell(PersistFailed(write=held[1].write, reason="again"))
    peer.tell(Persisted(write=held[1].write))
    assert sum(report.name == "error.journal.failed" for report in peer.reports) == 1
    peer.clear(first)
    mesh.check_idle()


def test_an_owner_with_a_full_disk_relies_on_the_copies() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    mesh.peers[0].disk.full = True
    mesh.submit(0, 7)
    mesh.deliver()
    mesh.submit(0, 8)
    mesh.deliver()
    assert [(answer.copies, answer.durable) for answer in accepted(mesh.peers[0])] == [(2, False), (2, False)]
    assert not refusals(mesh.peers[0])


def test_an_owner_looks_for_a_holder_with_a_disk() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    mesh.peers[1].disk.full = True
    for number in range(4):
        mesh.submit(0, number)
        mesh.deliver()
    owner = mesh.peers[0]
    assert [(answer.copies, answer.durable) for answer in accepted(owner)] == [(2, True)] * 4
    assert len(copies(mesh.peers[2])) == 4
    assert not copies(mesh.peers[1])
    assert sum(answer.failed for answer in mesh.said(Replicated)) == 1  # it is not asked again
    mesh.kill(2)
    mesh.wait(3000)
    assert len(copies(mesh.peers[1])) == 4  # better than nobody
    mesh.submit(0, 9)
    mesh.deliver()
    assert (accepted(owner)[-1].copies, accepted(owner)[-1].durable) == (2, False)
    mesh.kill(1)
    mesh.wait(3000)
    mesh.submit(0, 10)
    assert (accepted(owner)[-1].copies, accepted(owner)[-1].durable) == (1, True)


def test_a_deletion_is_not_moved_to_another_holder() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.peers[holder(mesh)].disk.full = True
    mesh.peers[0].clear(task)
    mesh.deliver()
    assert told(mesh.peers[0], Cleared)
    assert not any(copies(peer) for peer in mesh.peers)


def test_with_three_copies_a_holder_without_a_disk_comes_last() -> None:
    mesh = Mesh(4, executors=0, static=False, journal=SYNC, cluster={"replicas": 3})
    mesh.load(chain(1))
    mesh.peers[1].disk.full = True
    for number in range(6):
        mesh.submit(0, number)
        mesh.deliver()
    mesh.kill(2)
    mesh.wait(3000)
    mesh.submit(0, 7)
    mesh.deliver()
    last = accepted(mesh.peers[0])[-1]
    assert (last.copies, last.durable) == (3, False)
    assert last.rset[1:] == (mesh.peers[3].me, mesh.peers[1].me)


def test_a_holder_that_comes_meanwhile_without_a_disk_is_told() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=SYNC, cluster={"replicas": 3})
    mesh.load(chain(1))
    mesh.kill(2)
    mesh.hold(Replicate)
    mesh.submit(0, 7)
    mesh.deliver()
    mid = mesh.said(Replicate)[-1].mid
    mesh.restart(2, executors=0).disk.full = True
    mesh.wait(1500)
    mesh.speak(1, 0, Replicated(mid=mid, durable=True))
    assert not accepted(mesh.peers[0])
    mesh.heal()
    mesh.deliver()
    assert [(answer.copies, answer.durable) for answer in accepted(mesh.peers[0])] == [(3, False)]


def test_a_failure_is_kept_as_well() -> None:
    mesh = Mesh(1, executors=1, static=False, journal=SYNC, tasks={"max_retries": 0})
    mesh.load(graph("main", "n:value", [node("n", "fail", ":value", None, wrong=[3])]))
    (task,) = mesh.submit(0, 3)
    mesh.run()
    kept = mesh.peers[0].disk.tasks()[task]
    assert kept.status is TaskStatus.ERROR
    assert kept.last_error is not None
    assert kept.values == {}


def test_what_is_forgotten_is_forgotten_before_the_tombstone_is_written() -> None:
    mesh = lone()
    peer = mesh.peers[0]
    (task,) = mesh.submit(0, 7)
    hold(mesh, 0)
    peer.clear(task)
    (action,) = peer.disk.held
    forgotten, deleted = action.entries
    assert forgotten == Forgotten(id=task)
    assert isinstance(deleted, Deleted)
    assert deleted.id == task
    assert action.sync
    assert isinstance(accepted(peer)[0], Accepted)
