"""Copies: nothing is shown before they are there, and there are as many as there should be."""

from typing import Any

import pytest

from scatterzmq.core.members import Status
from scatterzmq.core.messages import Accepted, Attach, Cleared, Final, Moved, TaskStatus
from scatterzmq.core.peermessages import CopyKind, Drop, Replicate, Replicated, SyncDigest, VersionInfo
from scatterzmq.core.versions import Rank, Version
from scatterzmq.ids import PeerId
from tests.core.conftest import BOB, chain, graph, node
from tests.core.mesh import Mesh, Packet, Peer


def copies(peer: Peer) -> dict[str, Any]:
    return {copy.id: copy for copy in peer.core._state.copies}


def accepted(peer: Peer) -> list[Accepted]:
    return [send.message for send in peer.sent if isinstance(send.message, Accepted)]


def holder(mesh: Mesh, owner: int = 0) -> int:
    """Who has the copies of an owner's tasks."""
    (held,) = [peer.number for peer in mesh.peers if peer.number != owner and len(peer.core._state.copies)]
    return held


def of_kind(*kinds: CopyKind) -> Any:
    def drop(packet: Packet) -> list[Packet]:
        message = packet.message
        return [] if isinstance(message, Replicate) and message.kind in kinds else [packet]

    return drop


def of_fewer(tasks: int) -> Any:
    """Writes of fewer tasks get lost."""

    def drop(packet: Packet) -> list[Packet]:
        message = packet.message
        return [] if isinstance(message, Replicate) and len(message.ids) < tasks else [packet]

    return drop


def test_a_task_is_accepted_when_its_copy_is_there() -> None:
    mesh = Mesh(3, executors=0)
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1, 2)
    assert not accepted(mesh.peers[0])
    mesh.deliver()
    (told,) = accepted(mesh.peers[0])
    assert told.ids == tasks
    assert told.copies == 2
    assert told.rset == (mesh.peers[0].me, mesh.peers[holder(mesh)].me)
    assert copies(mesh.peers[holder(mesh)]).keys() == set(tasks)


def test_a_result_is_shown_when_its_copy_is_there() -> None:
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 4)
    mesh.deliver()
    mesh.hold(Replicate)
    mesh.run()
    assert mesh.outcome(0, task) is None
    assert mesh.peers[0].status(task) is TaskStatus.BUSY
    mesh.heal()
    mesh.run()
    assert mesh.results(0, [task]) == [5]
    assert copies(mesh.peers[1])[task].status is TaskStatus.READY


def test_who_attaches_to_an_end_that_is_not_shown_is_told_with_all_others() -> None:
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 4)
    mesh.hold(Replicate)
    mesh.run()
    from scatterzmq.core.messages import Attach

    mesh.peers[0].say(Attach(ids=(task,)), BOB)
    assert mesh.peers[0].outcome(task, BOB) is None
    mesh.heal()
    mesh.run()
    told = mesh.peers[0].outcome(task, BOB)
    assert told is not None
    assert told.value == 5


def test_an_error_is_shown_when_its_copy_is_there() -> None:
    mesh = Mesh(2, executors=[1, 0], tasks={"max_retries": 0})
    mesh.load(graph("main", "n:value", [node("n", "fail", ":value", None, wrong=[3])]))
    good, bad = mesh.submit(0, 1, 3)
    mesh.run()
    assert mesh.results(0, [good, bad]) == [1, None]
    copy = copies(mesh.peers[1])[bad]
    assert copy.status is TaskStatus.ERROR
    assert copy.last_error is not None


def test_a_lost_word_is_said_again() -> None:
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    mesh.drop(Replicate)
    tasks = mesh.submit(0, 1, 2)
    mesh.run()
    mesh.heal()
    mesh.wait(1000)
    assert mesh.results(0, tasks) == [2, 3]
    assert len(accepted(mesh.peers[0])) == 1


def test_a_lost_answer_is_asked_for_again_and_a_word_said_twice_counts_once() -> None:
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    mesh.drop(Replicated)
    (task,) = mesh.submit(0, 1)
    mesh.run()
    mesh.heal()
    mesh.duplicate(Replicate)
    mesh.wait(1000)
    mesh.run()
    assert mesh.results(0, [task]) == [2]
    assert len(copies(mesh.peers[1])) == 1


def test_words_that_overtake_each_other() -> None:
    """The end comes before the beginning: the beginning is old news."""
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    mesh.on_send = of_kind(CopyKind.ACCEPT)
    (task,) = mesh.submit(0, 1)
    mesh.run()
    assert copies(mesh.peers[1])[task].status is TaskStatus.READY
    mesh.on_send = lambda packet: [packet]
    mesh.wait(1000)
    assert copies(mesh.peers[1])[task].status is TaskStatus.READY
    assert mesh.results(0, [task]) == [2]
    assert len(accepted(mesh.peers[0])) == 1


def test_a_silent_holder_is_replaced() -> None:
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 2)
    silent = mesh.links[0].dst
    mesh.links.clear()
    mesh.drop(dst=silent)
    mesh.wait(1999)
    assert not accepted(mesh.peers[0])
    mesh.wait(1)
    (told,) = accepted(mesh.peers[0])
    assert told.ids == (task,)
    other = 3 - silent
    assert told.rset == (mesh.peers[0].me, mesh.peers[other].me)
    assert copies(mesh.peers[other])[task].version.n == 2
    assert not copies(mesh.peers[silent])


def test_a_replaced_holder_that_is_back_lets_go() -> None:
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    mesh.drop(Replicated)
    (task,) = mesh.submit(0, 2)
    mesh.deliver()
    replaced = holder(mesh)
    mesh._rules.clear()
    mesh.drop(src=replaced)
    mesh.wait(2000)
    assert [message.ids for message in mesh.said(Drop)] == [(task,)]
    assert not copies(mesh.peers[replaced])
    assert copies(mesh.peers[3 - replaced]).keys() == {task}


def test_without_anybody_else_there_is_one_copy_and_it_is_said() -> None:
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    mesh.drop(dst=1)
    (task,) = mesh.submit(0, 2)
    mesh.run()
    mesh.wait(2000)
    assert accepted(mesh.peers[0])[-1].copies == 1
    assert mesh.results(0, [task]) == [3]


def test_too_few_copies_are_refused_if_asked_for() -> None:
    mesh = Mesh(2, executors=0, cluster={"replicas": 3, "min_replicas": 3})
    mesh.load(chain(1))
    mesh.submit(0, 2)
    refused = mesh.peers[0].sent[-1].message
    assert "2 of 3 peers (cluster.min_replicas)" in refused.message  # type: ignore[union-attr]


def test_a_deletion_is_over_when_the_copies_are_gone() -> None:
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 2)
    mesh.run()
    mesh.hold(Replicate)
    mesh.peers[0].clear(task)
    assert not any(isinstance(send.message, Cleared) for send in mesh.peers[0].sent)
    mesh.heal()
    mesh.deliver()
    assert any(isinstance(send.message, Cleared) for send in mesh.peers[0].sent)
    assert not copies(mesh.peers[1])
    mesh.check_idle()


def test_what_was_deleted_does_not_come_back_by_an_old_word() -> None:
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    mesh.hold(Replicate)
    (task,) = mesh.submit(0, 2)
    late = list(mesh.held)
    mesh.heal()
    mesh.deliver()
    mesh.peers[0].clear(task)
    mesh.deliver()
    for packet in late:
        mesh.peers[1].receive(packet)
    assert not copies(mesh.peers[1])
    mesh.deliver()


def test_a_submission_that_comes_again_after_its_deletion_is_no_new_task() -> None:
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 2)
    mesh.deliver()
    mesh.peers[0].clear(task)
    mesh.deliver()
    mesh.peers[0].submit(2, ids=(task,))
    final = mesh.peers[0].last(Final)
    assert final.statuses == (TaskStatus.UNKNOWN,)
    assert not len(mesh.peers[0].core._state.ledger)


def test_tombstones_go_with_time() -> None:
    mesh = Mesh(2, executors=0, timing={"tombstone_s": 100.0})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 2)
    mesh.deliver()
    mesh.peers[0].clear(task)
    mesh.deliver()
    for peer in mesh.peers:
        assert peer.core._state.copies.version(task) is not None
    mesh.wait(100_000)
    for peer in mesh.peers:
        assert peer.core._state.copies.version(task) is None


def test_the_copies_find_out_what_they_lack_and_what_is_not_wanted() -> None:
    """Both are impossible as far as we know; if it happens all the same, it does not last."""
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    first, second = mesh.submit(0, 2, 3)
    mesh.deliver()
    held = holder(mesh)
    copy = copies(mesh.peers[held])[second]
    mesh.peers[held].core._state.copies.drop(first)
    record = mesh.peers[0].core._state.ledger.record(second)
    assert record is not None
    mesh.peers[0].core._state.replicas.dismiss(record)
    record.rset = (mesh.peers[0].me, mesh.peers[3 - held].me)
    mesh.peers[0].core._state.replicas.enroll((record,))
    mesh.wait(30_000)
    assert mesh.said(SyncDigest)
    assert copies(mesh.peers[held]).keys() == {first}
    assert copies(mesh.peers[3 - held]).keys() == {second}
    assert copy.id == second


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_as_many_copies_as_wanted(replicas: int) -> None:
    mesh = Mesh(4, executors=[1, 0, 0, 0], cluster={"replicas": replicas})
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1, 2, 3)
    mesh.run()
    assert mesh.results(0, tasks) == [3, 4, 5]
    assert sum(len(copies(peer)) for peer in mesh.peers) == 3 * (replicas - 1)
    assert accepted(mesh.peers[0])[0].copies == replicas


def test_large_submissions_go_in_pieces() -> None:
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    tasks = mesh.submit(0, *range(600))
    mesh.deliver()
    assert [len(message.ids) for message in mesh.said(Replicate)] == [256, 256, 88]
    assert [told.ids for told in accepted(mesh.peers[0])] == [tasks]
    assert isinstance(mesh.peers[0].me, PeerId)


def test_a_copy_does_not_count_whose_holder_is_gone_before_the_others_are_there() -> None:
    """Found by simulation: a holder died when it had kept one piece of two, and what it had was said to be there."""
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    mesh.on_send = of_fewer(256)
    tasks = mesh.submit(0, *range(300))
    mesh.deliver()
    assert len(copies(mesh.peers[1])) == 256
    assert not accepted(mesh.peers[0])
    mesh.kill(1)
    assert [(told.ids, told.copies, told.rset) for told in accepted(mesh.peers[0])] == [(tasks, 1, (mesh.peers[0].me,))]


def test_what_waits_gets_its_new_copies_before_what_is_only_repaired() -> None:
    """Else it goes on when its other pieces are there, and what stands in line for a repair counts as kept."""
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    mesh.submit(0, *range(600))
    mesh.deliver()
    first = holder(mesh)
    mesh.submit(0, 1)  # the next one's turn
    mesh.deliver()
    mesh.on_send = of_fewer(256)
    tasks = mesh.submit(0, *range(300))
    mesh.deliver()
    before = len(accepted(mesh.peers[0]))
    assert len(copies(mesh.peers[first])) == 600 + 256
    mesh.on_send = lambda packet: [packet] if len(getattr(packet.message, "ids", ())) < 256 else []
    mesh.kill(first)
    mesh.deliver()
    assert len(accepted(mesh.peers[0])) == before
    mesh.on_send = lambda packet: [packet]
    mesh.wait(1000)
    told = accepted(mesh.peers[0])[before:]
    assert [(answer.ids, answer.copies) for answer in told] == [(tasks, 2)]
    assert copies(mesh.peers[3 - first]).keys() >= set(tasks)


def test_of_a_record_that_is_gone_nothing_is_said_again() -> None:
    """Found by the simulator: somebody else knew it better, it was deleted there, and then an old word came again."""
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    mesh.drop(Replicate)
    first, second = mesh.submit(0, 2, 3)
    record = mesh.peers[0].core.state.ledger.record(first)
    assert record is not None
    mesh.peers[0].core._takeover.hand_off(record, Version(Rank.READY, 9, mesh.peers[1].me, 1, 1), mesh.peers[1].me)
    mesh.heal()
    mesh.wait(1000)
    assert copies(mesh.peers[1]).keys() == {second}


def test_copies_that_their_owner_does_not_know_go() -> None:
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    mesh.hold(Replicate)
    (task,) = mesh.submit(0, 2)
    late = list(mesh.held)
    mesh.heal()
    mesh.deliver()
    mesh.peers[0].clear(task)
    mesh.deliver()
    mesh.peers[1].core.state.copies._tombstones.clear()  # as if it had not heard of it
    for packet in late:
        mesh.peers[1].receive(packet)
    mesh.deliver()
    assert copies(mesh.peers[1])
    mesh.wait(30_000)
    assert not copies(mesh.peers[1])


def test_who_was_replaced_while_it_was_halted_does_not_keep_what_it_reads_when_it_goes_on() -> None:
    mesh = Mesh(3, executors=0, static=False)
    mesh.load(chain(1))
    halted = mesh.peers[1]
    mesh.hold(dst=1)
    halted.dead = True
    mesh.wait(1000)
    tasks = (*mesh.submit(0, 2), *mesh.submit(0, 3))  # one of these is written to each of the others
    mesh.wait(2000)
    assert mesh.peers[0].status_of[1] is Status.SUSPECT
    assert mesh.said(Replicate, dst=1)
    assert copies(mesh.peers[2]).keys() == set(tasks)
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    halted.dead = False
    mesh.heal()
    mesh.deliver()
    assert not copies(halted)


def test_who_submits_again_before_the_copies_are_there_is_not_told_too_early() -> None:
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    mesh.hold(Replicate)
    (task,) = mesh.submit(0, 2)
    mesh.peers[0].submit(2, ids=(task,))
    assert not accepted(mesh.peers[0])
    mesh.heal()
    mesh.deliver()
    assert [told.copies for told in accepted(mesh.peers[0])] == [2]
    mesh.peers[0].submit(2, ids=(task,))
    mesh.peers[1].submit(2, ids=(task,))
    assert [told.copies for told in accepted(mesh.peers[0])] == [2, 2]
    assert accepted(mesh.peers[1])[0].rset == (mesh.peers[0].me, mesh.peers[1].me)


def test_who_was_only_slow_is_asked_again() -> None:
    """Found by simulation: the only other peer stalled for `copy_s`, and the tasks stayed without a copy for ever."""
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    mesh.drop(Replicate)
    (task,) = mesh.submit(0, 1)
    mesh.wait(2000)
    assert accepted(mesh.peers[0])[-1].copies == 1
    mesh.heal()
    assert not copies(mesh.peers[1])
    mesh.wait(9999)
    assert not copies(mesh.peers[1])
    mesh.wait(1)
    assert copies(mesh.peers[1]).keys() == {task}
    assert len(mesh.peers[0].core.state.ledger.record(task).rset) == 2  # type: ignore[union-attr]


def test_who_is_replaced_keeps_its_copy_until_the_other_has_one() -> None:
    """Found by simulation: it was dropped at once, the owner died, and an accepted task was lost by one failure."""
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    slow = holder(mesh)
    mesh.drop(Replicated, src=slow)
    mesh.hold(Replicate, dst=3 - slow)
    mesh.peers[0].core.state.replicas.rewrite([mesh.peers[0].core.state.ledger.record(task)], mesh.now_ms)  # type: ignore[list-item]
    mesh.wait(2000)
    mesh.deliver()
    assert not mesh.said(Drop)
    assert copies(mesh.peers[slow]).keys() == {task}
    mesh.heal()
    mesh.deliver()
    assert mesh.said(Drop, dst=slow)
    assert not copies(mesh.peers[slow])
    assert copies(mesh.peers[3 - slow]).keys() == {task}


def test_who_is_replaced_by_nobody_keeps_its_copy() -> None:
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.drop(Replicated, src=1)
    mesh.peers[0].core.state.replicas.rewrite([mesh.peers[0].core.state.ledger.record(task)], mesh.now_ms)  # type: ignore[list-item]
    mesh.wait(2000)
    mesh.deliver()
    assert not mesh.said(Drop)
    assert copies(mesh.peers[1]).keys() == {task}


def test_an_end_is_shown_when_a_holder_that_came_meanwhile_has_it_too() -> None:
    """Found by simulation: the set had one more, which was named among the copies before it had any."""
    mesh = Mesh(3, executors=[1, 0, 0], static=False, cluster={"replicas": 3})
    mesh.load(chain(1))
    mesh.kill(2)
    (task,) = mesh.submit(0, 4)
    mesh.deliver()
    assert accepted(mesh.peers[0])[-1].copies == 2
    mesh.hold(Replicate)
    mesh.run()
    (end,) = [message for message in mesh.said(Replicate) if message.kind is CopyKind.FINAL]
    mesh.restart(2, executors=0)
    mesh.wait(1500)
    assert mesh.said(Replicate, dst=2)
    mesh.speak(1, 0, Replicated(mid=end.mid))
    assert mesh.outcome(0, task) is None
    mesh.heal()
    mesh.deliver()
    assert mesh.outcome(0, task) is not None
    assert mesh.peers[0].last(Final).copies == 3
    assert copies(mesh.peers[2])[task].status is TaskStatus.READY


def test_what_waits_for_two_holders_that_are_replaced_at_once_ends_once() -> None:
    """Acceptance and end of one task wait at the same time, and each for what the other has moved."""
    mesh = Mesh(4, executors=[1, 0, 0, 0], cluster={"replicas": 3})
    mesh.load(chain(1))
    mesh.drop(Replicate)
    (task,) = mesh.submit(0, 4)
    mesh.wait(500)
    mesh.run()
    mesh.wait(10_000)
    assert mesh.outcome(0, task) is None
    mesh.heal()
    mesh.wait(5_000)
    assert mesh.outcome(0, task) is not None
    assert [(answer.ids, answer.copies) for answer in accepted(mesh.peers[0])] == [((task,), 3)]
    assert sum(task in copies(peer) for peer in mesh.peers) == 2
    record = mesh.peers[0].core.state.ledger.record(task)
    assert record is not None
    assert not record.barriers


def test_what_is_given_up_while_it_is_accepted_is_accepted_for_its_owner() -> None:
    """Found by simulation: the client was told of copies of this peer's, which were dropped in the next moment."""
    mesh = Mesh(3, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(1, 2)
    (dst,) = [packet.dst for packet in mesh.log if isinstance(packet.message, Replicate)]
    mesh.links.clear()
    teller, owner = mesh.peers[dst], mesh.peers[2 - dst]
    better = VersionInfo(id=task, rank=Rank.LIVE, n=5, owner=owner.me, life=1, seq=1)
    mesh.speak(teller.number, 1, Replicated(mid=mesh.said(Replicate)[-1].mid, better=(better,)))
    assert mesh.peers[1].core.state.ledger.record(task) is None
    assert mesh.peers[1].last(Moved).owners == (owner.me,)
    assert [(told.rset, told.copies) for told in accepted(mesh.peers[1])] == [((owner.me, teller.me), 2)]


def test_a_holder_names_only_the_copies_that_it_knows_of() -> None:
    mesh = Mesh(3, executors=0, static=False, cluster={"replicas": 3})
    mesh.load(chain(1))
    mesh.hold(Replicate, dst=2)
    (task,) = mesh.submit(0, 2)
    mesh.deliver()
    assert not accepted(mesh.peers[0])
    mesh.peers[1].submit(2, ids=(task,))
    (told,) = accepted(mesh.peers[1])
    assert (told.copies, len(told.rset)) == (2, 3)


def test_ends_with_fewer_copies_are_told_apart_from_others() -> None:
    """Found by simulation: who asked for both was told of as many copies of the one as of the other."""
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    (safe,) = mesh.submit(0, 1)
    mesh.run()
    mesh.drop(Replicate)
    (alone,) = mesh.submit(0, 2)
    mesh.run()
    mesh.wait(4000)
    mesh.peers[0].say(Attach(ids=(safe, alone)), BOB)
    told = [send.message for send in mesh.peers[0].sent if send.to == BOB]
    assert [(final.ids, final.copies) for final in told if isinstance(final, Final)] == [((safe,), 2), ((alone,), 1)]


def test_a_copy_that_is_on_its_way_does_not_count() -> None:
    """Found by simulation: who asked while a record got its first copy was told that it had two."""
    mesh = Mesh(2, executors=[1, 0])
    mesh.load(chain(1))
    mesh.drop(Replicate)
    (task,) = mesh.submit(0, 1)
    mesh.run()
    mesh.wait(4000)
    mesh.heal()
    mesh.hold(Replicate)
    mesh.wait(8_500)
    assert len(mesh.peers[0].core.state.ledger.record(task).rset) == 2  # type: ignore[union-attr]
    mesh.peers[0].say(Attach(ids=(task,)), BOB)
    assert mesh.peers[0].last(Final).copies == 1
    mesh.heal()
    mesh.deliver()
    mesh.peers[0].say(Attach(ids=(task,)), BOB)
    assert mesh.peers[0].last(Final).copies == 2
