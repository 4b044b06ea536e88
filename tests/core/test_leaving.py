"""A peer leaves: what it had goes to others, and its clients with it."""

import pytest

from scatterzmq.core.events import Event, GraphChecked
from scatterzmq.core.ledger import Phase
from scatterzmq.core.members import Status
from scatterzmq.core.messages import Attach, Final, Goodbye, Moved, Refused, Release, Released, TaskStatus
from scatterzmq.core.peermessages import Bye, HandedOver, Handover, Replicate
from scatterzmq.ids import TaskId
from tests.core.conftest import BOB, chain
from tests.core.mesh import Mesh
from tests.core.test_replicas import accepted, copies, holder
from tests.core.test_takeover import records


def test_waiting_tasks_and_results_are_handed_over() -> None:
    mesh = Mesh(3, executors=[1, 0, 0], static=False, executor={"batch_size": 1})
    mesh.load(chain(1))
    done, running, waiting = mesh.submit(0, 1, 2, 3)
    mesh.deliver()
    mesh.peers[0].step()
    mesh.deliver()
    heir = holder(mesh)
    mesh.leave(0)
    mesh.deliver()
    assert not mesh.peers[0].has_left  # a batch runs
    mesh.peers[0].step()
    mesh.deliver()
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 0
    assert mesh.results(0, [done, running]) == [2, 3]
    assert records(mesh, heir).keys() == {done, running, waiting}
    assert mesh.peers[heir].status(waiting) is TaskStatus.WAIT
    assert mesh.peers[heir].report(waiting).retries == 0
    assert mesh.peers[0].last(Moved).owners == (mesh.peers[heir].me,)
    assert copies(mesh.peers[3 - heir]).keys() == {done, running, waiting}
    assert mesh.peers[heir].core.state.members.status(mesh.peers[0].me) is Status.LEFT


def test_nothing_new_is_begun() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, executor={"batch_size": 1})
    mesh.load(chain(1))
    mesh.submit(0, 1, 2)
    mesh.deliver()
    mesh.leave(0)
    assert isinstance(mesh.peers[0].sent[-1].message, Goodbye)
    mesh.peers[0].submit(5, client=BOB)
    assert isinstance(mesh.peers[0].sent[-1].message, Goodbye)
    assert mesh.peers[0].sent[-1].to == BOB
    mesh.peers[0].step()
    assert not mesh.peers[0].running
    mesh.leave(0)  # once more changes nothing
    mesh.deliver()
    assert mesh.peers[0].left is not None


def test_a_batch_that_does_not_end_is_not_waited_for_for_ever() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, timing={"drain_s": 5.0})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.leave(0)
    mesh.wait(4999)
    assert not mesh.peers[0].has_left
    mesh.wait(1)
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 0
    assert records(mesh, 1).keys() == {task}


def test_words_about_handing_over_get_lost() -> None:
    mesh = Mesh(2, executors=0, static=False)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.drop(HandedOver)
    mesh.drop(Replicate, src=1)  # which would say it, too
    mesh.leave(0)
    mesh.deliver()
    assert not mesh.peers[0].has_left
    mesh.heal()
    mesh.wait(1000)
    assert len(mesh.said(Handover)) == 2
    assert mesh.peers[0].left is not None
    assert records(mesh, 1).keys() == {task}


def test_who_is_handed_something_dies() -> None:
    mesh = Mesh(3, executors=0, static=False)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    heir = holder(mesh)
    mesh.drop(Handover)
    mesh.leave(0)
    mesh.deliver()
    mesh.heal()
    mesh.kill(heir)
    mesh.wait(3000)
    assert records(mesh, 3 - heir).keys() == {task}
    assert mesh.peers[0].left is not None


def test_of_two_who_are_handed_something_one_dies() -> None:
    mesh = Mesh(3, executors=0, static=False)
    mesh.load(chain(1))
    tasks: list[TaskId] = []
    while len(heirs := {record.rset[1] for record in records(mesh, 0).values()}) < 2:
        tasks += mesh.submit(0, len(tasks))
        mesh.deliver()
    mesh.drop(Handover)
    mesh.leave(0)
    mesh.deliver()
    assert len(mesh.said(Handover)) == len(heirs)
    mesh.kill(1)
    handed = [task for word in mesh.said(Handover, dst=2) for task in word.ids]
    assert len(handed) == len(set(handed)), "the other one has been told"
    mesh.heal()
    mesh.wait(3000)
    assert records(mesh, 2).keys() == set(tasks)
    assert mesh.peers[0].left is not None


def test_a_task_without_a_copy_gets_one_first() -> None:
    mesh = Mesh(2, executors=0, static=False, cluster={"replicas": 2})
    mesh.load(chain(1))
    mesh.drop(dst=1)
    (task,) = mesh.submit(0, 1)
    mesh.wait(2000)
    assert accepted(mesh.peers[0])[-1].copies == 1
    mesh.heal()
    mesh.leave(0)
    mesh.wait(2000)
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 0
    assert records(mesh, 1).keys() == {task}


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_a_result_of_a_definition_that_was_replaced_goes_to_who_has_never_had_that(is_taken_over: bool) -> None:
    """Whoever gets a copy asks its owner for the definition. That one had forgotten it, so nobody could take the copy:
    half a minute went by, and then the result was gone.
    """
    mesh = Mesh(2, executors=[1, 0], static=False)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.run()
    mesh.load(chain(2))
    owner, other = (1, 0) if is_taken_over else (0, 1)
    mesh.kill(other)
    mesh.wait(1000)
    mesh.restart(other, executors=0)
    mesh.wait(2000)
    mesh.leave(owner)
    mesh.wait(1000)
    assert mesh.peers[owner].left is not None
    assert records(mesh, other).keys() == {task}
    assert records(mesh, other)[task].result is not None


def test_with_one_copy_of_each_task_there_is_an_heir_all_the_same() -> None:
    """Found by simulation: a leaver waited for half a minute, and took its tasks along."""
    mesh = Mesh(3, executors=0, static=False, cluster={"replicas": 1})
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.deliver()
    mesh.drop(Handover)
    mesh.leave(0)
    mesh.deliver()
    heir = holder(mesh)
    mesh.heal()
    mesh.kill(heir)  # with the only copy of what it was to take
    mesh.wait(3000)
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 0
    assert records(mesh, 3 - heir).keys() == set(tasks)
    assert not copies(mesh.peers[3 - heir])


def test_the_last_one_says_what_is_lost() -> None:
    mesh = Mesh(1, executors=[1], static=False, executor={"batch_size": 1})
    mesh.load(chain(1))
    mesh.submit(0, 1, 2, 3)
    mesh.peers[0].step()
    mesh.leave(0)
    mesh.peers[0].submit(4, client=BOB)
    assert "there is no other one" in mesh.peers[0].last(Refused).message
    mesh.peers[0].step()
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 1


def test_what_waits_for_room_is_refused() -> None:
    mesh = Mesh(1, executors=0, static=False, store={"record_bytes": 16})
    mesh.load(chain(1))
    first, second, third = mesh.submit(0, 1, 2, 3)
    mesh.leave(0)
    assert mesh.peers[0].last(Refused).ids == (third,)
    assert {first, second} == records(mesh, 0).keys()


def test_nobody_takes_it_and_time_is_over() -> None:
    mesh = Mesh(2, executors=0, static=False, timing={"drain_s": 1.0})
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.deliver()
    mesh.drop(HandedOver)
    mesh.drop(Replicate, src=1)  # which would say it, too
    mesh.leave(0)
    mesh.wait(11_000)
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 1


def test_clients_of_the_leaver_find_their_results() -> None:
    mesh = Mesh(2, executors=[0, 1], static=False)
    mesh.load(chain(1))
    mesh.hold(dst=1)
    (task,) = mesh.submit(0, 1)
    mesh.heal()
    mesh.leave(0)
    mesh.deliver()
    mesh.peers[1].say(Attach(ids=(task,)), BOB)
    mesh.run()
    final = mesh.peers[1].last(Final)
    assert final.ids == (task,)
    assert final.statuses == (TaskStatus.READY,)


def test_a_copy_that_is_still_being_written_is_waited_for() -> None:
    """Found by simulation: the write was lost, the holder said "handed over" of what it never had, and it was gone."""
    mesh = Mesh(2, executors=0, static=False)
    mesh.load(chain(1))
    (kept,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.drop(Replicate, src=0)
    (task,) = mesh.submit(0, 2)
    mesh.leave(0)
    mesh.deliver()
    assert records(mesh, 1).keys() == {kept}
    assert not mesh.peers[0].has_left
    mesh.heal()
    mesh.wait(1000)  # the write is repeated, and after it comes the handover
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 0
    assert records(mesh, 1).keys() == {kept, task}


def test_an_end_that_is_still_being_written_is_waited_for() -> None:
    """Found by simulation: the holder began the task again, then gave way to the end, whose owner had let go of it."""
    mesh = Mesh(2, executors=[1, 0], static=False)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.hold(Replicate, src=0)
    mesh.leave(0)
    mesh.run()
    assert mesh.peers[0].status(task) is TaskStatus.BUSY  # its end is not shown yet
    assert not mesh.said(Handover)
    mesh.drop(Bye)  # nobody adopts it because it has no owner
    mesh.heal()
    mesh.run()
    assert mesh.peers[0].left is not None
    assert records(mesh, 1)[task].phase is Phase.READY


def test_a_task_that_ends_while_it_is_handed_over_is_handed_over_with_its_end() -> None:
    mesh = Mesh(2, executors=0, static=False)
    mesh.load(chain(1))
    task, other = mesh.submit(0, 1, 2)
    mesh.deliver()
    mesh.hold(HandedOver)
    mesh.drop(Replicate, src=1)  # which would say it, too
    mesh.leave(0)
    mesh.deliver()
    assert records(mesh, 1).keys() == {task, other}
    mesh.peers[0].cancel(task)
    mesh.deliver()
    assert records(mesh, 1).keys() == {other}  # it has given way to the end
    mesh.heal()
    mesh.drop(Bye)
    mesh.deliver()
    assert [told.ids for told in mesh.said(Handover)] == [(task, other), (task,)]
    assert mesh.peers[0].left is not None
    assert records(mesh, 1)[task].phase is Phase.CANCELLED


def test_who_cannot_own_a_task_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: its executors have not checked the definition yet."""
    mesh = Mesh(2, executors=0, static=False)
    checks: list[Event] = []
    hear = mesh.peers[1].tell
    late = lambda event: checks.append(event) if isinstance(event, GraphChecked) else hear(event)  # noqa: E731
    monkeypatch.setattr(mesh.peers[1], "tell", late)
    mesh.load(chain(1), on=[0])
    task, cleared = mesh.submit(0, 1, 2)
    mesh.deliver()
    mesh.leave(0)
    mesh.deliver()
    assert mesh.said(HandedOver)[0].lacking == (task, cleared)
    mesh.peers[0].clear(cleared)
    for check in checks:
        hear(check)
    mesh.wait(1000)
    left = mesh.peers[0].left
    assert left is not None
    assert left.lost == 0
    assert records(mesh, 1).keys() == {task}


def test_peers_that_all_leave_do_not_wait_for_each_other() -> None:
    mesh = Mesh(3, executors=0, static=False)
    mesh.load(chain(1))
    mesh.submit(0, 1, 2)
    mesh.submit(1, 3)
    mesh.deliver()
    for number in range(3):
        mesh.leave(number)
    mesh.deliver()
    lost = [peer.left.lost for peer in mesh.peers if peer.left is not None]
    assert len(lost) == 3
    assert sum(lost) >= 3, "what nobody has any more is told"


def test_of_three_two_leave_and_the_third_has_everything() -> None:
    mesh = Mesh(3, executors=0, static=False)
    mesh.load(chain(1))
    tasks = [*mesh.submit(0, 1, 2), *mesh.submit(1, 3)]
    mesh.deliver()
    mesh.leave(0)
    mesh.leave(1)
    mesh.deliver()
    left = [peer.left for peer in mesh.peers[:2]]
    assert [one is not None and one.lost for one in left] == [0, 0]
    assert records(mesh, 2).keys() == set(tasks)


def test_a_client_lets_a_peer_go() -> None:
    mesh = Mesh(2, executors=0, static=False)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.peers[0].say(Release(mid=3))
    mesh.deliver()
    assert mesh.peers[0].last(Released).mid == 3
    assert mesh.peers[0].has_left
    assert records(mesh, 1).keys() == {task}


def test_who_was_handed_nothing_gets_nothing() -> None:
    mesh = Mesh(2, executors=0)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.deliver()
    mesh.leave(0)  # the word to its holder is under way
    mid = mesh.said(Handover)[-1].mid
    mesh.links.clear()
    mesh.speak(1, 0, HandedOver(mid=mid + 1, lacking=()))
    assert records(mesh, 0).keys() == {task}
    assert not mesh.peers[0].has_left
