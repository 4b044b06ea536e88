"""Peers start again with what is on their disks: nothing that was accepted is lost, nothing deleted comes back."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest

from scatterzmq.core.actions import Action
from scatterzmq.core.copies import info
from scatterzmq.core.events import Event, ExecutorStarted, GraphChecked, Restored
from scatterzmq.core.ledger import Phase
from scatterzmq.core.members import Status
from scatterzmq.core.messages import (
    AskTasks,
    Attach,
    Cancel,
    Clear,
    Cleared,
    Final,
    Moved,
    Refused,
    ResultRead,
    TaskReports,
    TaskStatus,
)
from scatterzmq.core.peermessages import Handover, Inquire, Known, Replicate, Replicated, Sync, VersionInfo
from scatterzmq.core.replicas import record_version
from scatterzmq.core.state import LIFE_BITS
from scatterzmq.core.versions import Rank
from scatterzmq.ids import ExecutorId, TaskId
from scatterzmq.settings import Settings
from tests.core.conftest import BOB, chain
from tests.core.mesh import Mesh, Peer
from tests.core.test_journal import BATCH, SYNC, finals, hold, told
from tests.core.test_replicas import accepted, copies, holder
from tests.core.test_takeover import records

GRACE = {"grace_s": 20.0}


def outcomes(peer: Peer, tasks: Sequence[TaskId]) -> list[int | None]:
    """What BOB is told who asks here."""
    peer.say(Attach(ids=tuple(tasks)), BOB)
    ends = [peer.outcomes.get((BOB, task), [])[-1:] for task in tasks]
    return [end[0].value if end else None for end in ends]


def restoring(mesh: Mesh) -> list[bool]:
    return [peer.core.state.restoring for peer in mesh.peers]


# ---- alone


def rebooted(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> tuple[Peer, GraphChecked]:
    """A lone peer that has just started again, and the check of its only definition, which is not through yet."""
    held: list[GraphChecked] = []
    hear = Peer.tell

    def hear_later(peer: Peer, event: Event) -> tuple[Action, ...]:
        if isinstance(event, GraphChecked):
            held.append(event)
            return ()
        return hear(peer, event)

    mesh.crash(0)
    with monkeypatch.context() as patch:
        patch.setattr(Peer, "tell", hear_later)
        peer = mesh.reboot(0)
    assert not peer.core.state.restoring
    (checked,) = held
    return peer, checked


def test_who_submits_before_a_definition_has_been_checked_again_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor checks it, which has just been started, too. Tasks of other namespaces need not wait for that."""
    mesh = Mesh(1, executors=0, static=False, journal=SYNC, tasks={"refuse_after_s": 1.0})
    mesh.load(chain(1))
    peer, checked = rebooted(mesh, monkeypatch)
    early = mesh.submit(0, 7)
    mesh.load(chain(1), ns="other")
    others = mesh.submit(0, 8, ns="other")
    mesh.wait(2000)
    deadline_ms = peer.core.deadline_ms()
    assert deadline_ms is None or deadline_ms > peer.now_ms
    assert records(mesh, 0).keys() == {*others}
    peer.tell(checked)
    mesh.run()
    assert mesh.results(0, [*early, *others]) == [8, 9]


def test_who_submits_is_refused_once_a_definition_turns_out_to_be_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(1, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    peer, checked = rebooted(mesh, monkeypatch)
    tasks = mesh.submit(0, 7)
    peer.tell(replace(checked, plan=None, problems=("no such kind here",)))
    refused = peer.last(Refused)
    assert (refused.ids, refused.message) == (tasks, "stale: namespace 'main' cannot run: no such kind here")


def test_a_lone_peer_goes_on_with_what_it_had() -> None:
    mesh = Mesh(1, executors=1, static=False, journal=SYNC)
    plan = mesh.load(chain(1))
    done, cleared = mesh.submit(0, 7, 8)
    mesh.run()
    waiting = mesh.submit(0, 9)
    mesh.peers[0].clear(cleared)
    mesh.crash(0)
    peer = mesh.reboot(0)
    assert peer.incarnation == 2
    assert not peer.core.state.restoring
    assert records(mesh, 0).keys() == {done, *waiting}
    assert peer.core.state.plans.current("main") is not None
    assert peer.core.state.plans.current("main").digest == plan.digest  # type: ignore[union-attr]
    mesh.run()
    assert outcomes(peer, [done, *waiting]) == [8, 10]
    assert outcomes(peer, [cleared]) == [None]
    record = peer.core.state.ledger.record(done)
    assert record is not None
    assert record.epoch_n == (2 << 20) + 1
    assert record.durable
    peer.clear(done, *waiting)
    mesh.check_idle()
    assert not peer.disk.tasks()


def test_a_definition_that_nobody_uses_goes() -> None:
    mesh = Mesh(1, executors=0, static=False, journal=SYNC)
    old = mesh.load(chain(1))
    new = mesh.load(chain(2))
    assert ("definition", old.digest) in mesh.peers[0].disk.tables
    mesh.crash(0)
    peer = mesh.reboot(0)
    assert ("definition", old.digest) not in peer.disk.tables
    assert ("definition", new.digest) in peer.disk.tables


def test_in_batch_mode_the_last_moment_is_lost_and_nothing_else() -> None:
    mesh = Mesh(1, executors=1, static=False, journal=BATCH)
    mesh.load(chain(1))
    first = mesh.submit(0, 7)
    mesh.run()
    mesh.peers[0].disk.sync()
    last = mesh.submit(0, 8)
    mesh.run()
    mesh.crash(0)
    peer = mesh.reboot(0)
    mesh.run()
    assert outcomes(peer, first) == [8]
    assert outcomes(peer, last) == [None]


def test_nothing_is_said_to_anybody_before_it_is_on_disk_who_this_is() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    before = [packet for packet in mesh.log if packet.src == 0]
    mesh.peers[0].disk.tables["dummy"] = None
    peer = Peer(mesh.settings, me=mesh.peers[0].me, number=0, incarnation=2, static=False, mesh=mesh)
    peer.disk.tables = mesh.peers[0].disk.tables
    peer.disk.holding = True
    mesh.peers[0] = peer
    peer.boot()
    mesh.wait(500)
    assert [packet for packet in mesh.log if packet.src == 0] == before
    peer.say(Attach(ids=tasks), BOB)
    assert not peer.sent
    peer.write_all()
    mesh.wait(3000)
    assert mesh.peers[1].core.state.members.incarnation(peer.me) == 2
    assert not peer.core.state.restoring


# ---- with others


def test_an_owner_that_is_back_at_once_owns_its_tasks_again() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    peer = mesh.reboot(0, executors=1)
    mesh.run()
    mesh.wait(2000)
    assert records(mesh, 0).keys() == {task}
    assert not records(mesh, 1)
    assert copies(mesh.peers[1])[task].version.n == (2 << 20) + 1
    assert outcomes(peer, [task]) == [8]


def test_an_owner_that_was_replaced_does_not_own_its_tasks_any_more() -> None:
    mesh = Mesh(2, executors=[0, 0], static=False, journal=SYNC)
    mesh.load(chain(1))
    live, dead = mesh.submit(0, 7, 8)
    mesh.deliver()
    mesh.crash(0)
    mesh.wait(10_000)
    assert records(mesh, 1).keys() == {live, dead}
    mesh.peers[1].clear(dead)
    mesh.reboot(0)
    mesh.wait(3000)
    assert restoring(mesh) == [False, False]
    assert records(mesh, 1).keys() == {live}
    assert not records(mesh, 0)
    assert dead not in mesh.peers[0].disk.tasks()
    mesh.wait(3000)
    mesh.gossip()
    mesh.run()
    assert outcomes(mesh.peers[1], [live]) == [8]
    assert copies(mesh.peers[0]).keys() == {live}


def test_clients_wait_until_a_peer_knows_what_became_of_its_tasks() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.run()
    mesh.crash(0, 1)
    peer = mesh.reboot(0, executors=0)
    submitted = mesh.submit(0, 9)
    for message in (
        Attach(ids=(task,)),
        ResultRead(ids=(task,)),
        AskTasks(mid=1, ids=(task,)),
        Clear(mid=2, ids=(TaskId("T" + "f" * 32),)),
    ):
        peer.say(message, BOB)
    mesh.wait(19_000)
    assert not peer.sent
    assert peer.core.state.members.status(mesh.peers[1].me) is Status.UNKNOWN
    mesh.wait(2000)
    assert not peer.core.state.restoring
    assert [report.status for report in peer.last(TaskReports).reports] == [TaskStatus.DONE]
    assert told(peer, Cleared)
    assert finals(peer)[0].ids == (task,)
    assert accepted(peer)[-1].ids == submitted
    assert records(mesh, 0).keys() == {task, *submitted}


def test_of_clients_who_wait_each_finds_what_came_before_worked_off() -> None:
    """A task is to be cancelled, and then to be gone: when it goes, its end has been seen to."""
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0, 1)
    peer = mesh.reboot(0)
    peer.say(Attach(ids=(task,)), BOB)
    peer.say(Cancel(mid=1, ids=(task,)), BOB)
    peer.say(Clear(mid=2, ids=(task,)), BOB)
    mesh.wait(25_000)
    assert [final.statuses for final in finals(peer)] == [(TaskStatus.UNKNOWN,)]
    assert told(peer, Cleared)
    assert not records(mesh, 0)


def test_what_waits_to_be_cleared_is_no_conflict_for_what_waits_to_be_accepted() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0, 1)
    peer = mesh.reboot(0)
    peer.say(Clear(mid=1, ids=(task,)), BOB)
    peer.submit(8, ids=(task,), nonce=b"another")
    mesh.wait(25_000)
    assert not told(peer, Refused)
    assert accepted(peer)[-1].ids == (task,)


def test_what_is_deleted_while_its_submission_waits_stays_deleted() -> None:
    """Its client had it accepted by another peer meanwhile, and then sent to everybody that it should be deleted."""
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    mesh.crash(0, 1)
    peer = mesh.reboot(0)
    deleted, wanted = mesh.submit(0, 8, 9)
    peer.clear(deleted)
    mesh.wait(25_000)
    assert told(peer, Cleared)
    assert records(mesh, 0).keys() == {wanted}
    assert peer.disk.tasks().keys() == {wanted}
    mesh.crash(0)
    peer = mesh.reboot(0)
    peer.submit(8, 9, ids=[deleted, wanted])
    mesh.wait(25_000)
    assert records(mesh, 0).keys() == {wanted}


def test_submissions_wait_for_the_restoration_however_long() -> None:
    """Longer than they would wait for room."""
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing=GRACE, tasks={"refuse_after_s": 1.0})
    mesh.load(chain(1))
    mesh.crash(0, 1)
    peer = mesh.reboot(0)
    submitted = mesh.submit(0, 9)
    mesh.wait(25_000)
    assert accepted(peer)[-1].ids == submitted


def test_too_many_requests_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scatterzmq.core.restoring.DEFERRED_MAX", 2)
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    mesh.crash(0, 1)
    peer = mesh.reboot(0)
    for mid in range(4):
        peer.say(Clear(mid=mid, ids=()), BOB)
    mesh.wait(25_000)
    assert len(told(peer, Cleared)) == 2


def test_the_question_is_repeated_until_it_is_answered() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    mesh.drop(Known)
    mesh.reboot(0)
    mesh.wait(3500)
    assert restoring(mesh)[0]
    asked = [message for message in mesh.said(Inquire) if not message.ids]
    assert len(asked) >= 3
    mesh.heal()
    mesh.wait(3000)
    assert not restoring(mesh)[0]
    assert records(mesh, 0).keys() == {task}


def test_who_dies_while_it_is_waited_for_is_not_waited_for() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    mesh.drop(Known)
    mesh.reboot(0)
    mesh.kill(1)
    mesh.wait(100)
    assert not restoring(mesh)[0]
    assert records(mesh, 0).keys() == {task}


def test_who_falls_silent_while_it_is_waited_for_is_waited_for_no_longer_than_the_grace() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=SYNC, timing={"grace_s": 4.0})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    mesh.drop(Known)
    mesh.reboot(0)
    mesh.crash(1)
    mesh.wait(5000)
    assert not restoring(mesh)[0]
    mesh.heal()
    mesh.wait(2000)
    assert records(mesh, 0).keys() == {task}


def test_an_owner_that_restarts_slowly_is_not_taken_for_dead() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0, 1)
    mesh.reboot(1)
    mesh.wait(15_000)
    assert not records(mesh, 1)
    assert copies(mesh.peers[1]).keys() == {task}
    mesh.reboot(0)
    mesh.wait(3000)
    assert restoring(mesh) == [False, False]
    assert records(mesh, 0).keys() == {task}
    assert not records(mesh, 1)


def test_an_owner_that_does_not_come_back_is_taken_for_dead_in_the_end() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0, 1)
    mesh.reboot(1)
    mesh.wait(22_000)
    assert records(mesh, 1).keys() == {task}
    mesh.reboot(0)
    mesh.wait(3000)
    assert records(mesh, 1).keys() == {task}
    assert not records(mesh, 0)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("apart_ms", [0, 8000])
def test_all_restart_in_any_order_and_nothing_is_lost(order: tuple[int, ...], apart_ms: int) -> None:
    mesh = Mesh(3, executors=[1, 1, 0], static=False, journal=SYNC, timing=GRACE)
    mesh.load(chain(1))
    tasks = [task for number in range(3) for task in mesh.submit(number, number, number + 10)]
    mesh.deliver()
    mesh.step(0)
    mesh.deliver()
    promised = {task for peer in mesh.peers for answer in accepted(peer) for task in answer.ids}
    assert promised == set(tasks)
    assert all(answer.durable for peer in mesh.peers for answer in accepted(peer))
    mesh.crash(0, 1, 2)
    for number in order:
        mesh.reboot(number)
        mesh.wait(apart_ms)
    mesh.wait(3000)
    mesh.run()
    mesh.wait(40_000)
    mesh.run()
    assert restoring(mesh) == [False] * 3
    owners = [number for task in tasks for number in range(3) if task in records(mesh, number)]
    assert len(owners) == len(tasks), "each has exactly one owner"
    for place, task in enumerate(tasks):
        assert outcomes(mesh.peers[owners[place]], [task]) == [place // 2 + 10 * (place % 2) + 1]


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("mode", [SYNC, BATCH])
def test_whenever_the_power_fails_nothing_durable_is_lost(mode: object, at: int) -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, journal=mode, timing=GRACE)  # type: ignore[arg-type]
    mesh.load(chain(2))
    for peer in mesh.peers:
        peer.disk.sync()
    tasks = mesh.submit(0, 1, 2)
    for _ in range(at):
        mesh.deliver(1)
        if not mesh.links and mesh.peers[0].running:
            mesh.peers[0].step()
    durable = [task for answer in accepted(mesh.peers[0]) if answer.durable for task in answer.ids]
    shown = [task for final in finals(mesh.peers[0]) if final.durable for task in final.ids]
    assert not durable or mode is SYNC
    mesh.crash(0, 1)
    for number in (1, 0):
        mesh.reboot(number, executors=0)
    mesh.wait(3000)
    known = {task for number in (0, 1) for task in records(mesh, number)}
    assert known >= set(durable)
    ended = {task for peer in mesh.peers for task, kept in peer.disk.tasks().items() if kept.status is not None}
    assert ended >= set(shown)
    mesh.peers[0].tell(ExecutorStarted(executor=ExecutorId("E" + "0" * 32)))
    mesh.run()
    for task in durable:
        (owner,) = [number for number in (0, 1) if task in records(mesh, number)]
        if owner == 0:
            assert outcomes(mesh.peers[0], [task]) == [tasks.index(task) + 3]


# ---- what a disk has forgotten


def test_what_only_the_holder_remembers_is_owned_there() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=BATCH)
    mesh.load(chain(1))
    for peer in mesh.peers:
        peer.disk.sync()
    tasks = mesh.submit(0, 7, 8)
    mesh.deliver()
    assert [answer.durable for answer in accepted(mesh.peers[0])] == [False]
    mesh.crash(0)
    mesh.reboot(0)
    mesh.wait(3000)
    assert records(mesh, 1).keys() == set(tasks)
    assert not records(mesh, 0)
    assert mesh.said(Handover, src=0)
    assert copies(mesh.peers[0]).keys() == set(tasks)


def test_a_result_that_only_the_holder_has_is_not_computed_again() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    hold(mesh, 0)
    mesh.run()  # the holder knows the result, the owner's disk does not
    assert copies(mesh.peers[1])[task].status is TaskStatus.READY
    mesh.crash(0)
    peer = mesh.reboot(0)
    mesh.wait(3000)
    assert records(mesh, 1).keys() == {task}
    assert not peer.ran
    assert outcomes(peer, [task]) == [8]
    assert outcomes(mesh.peers[1], [task]) == [8]


def test_what_nobody_claims_at_first_is_handed_over_again() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=BATCH)
    mesh.load(chain(1))
    for peer in mesh.peers:
        peer.disk.sync()
    tasks = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    mesh.drop(Handover)
    mesh.reboot(0)
    mesh.wait(3000)
    assert not records(mesh, 1)
    mesh.heal()
    mesh.wait(31_000)
    assert records(mesh, 1).keys() == set(tasks)


def test_of_several_who_remember_one_owns_it() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=BATCH, cluster={"replicas": 3})
    mesh.load(chain(1))
    for peer in mesh.peers:
        peer.disk.sync()
    tasks = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    mesh.reboot(0)
    mesh.wait(3000)
    assert sorted(len(records(mesh, number)) for number in range(3)) == [0, 0, 1]
    assert mesh.said(Sync)
    owner = next(number for number in range(3) if records(mesh, number))
    assert records(mesh, owner).keys() == set(tasks)


def test_who_remembers_it_best_owns_it_also_when_another_was_first() -> None:
    """Found by simulation: the first one heard of the later word when it asked around, left the task to the owner that
    had forgotten that word, and whoever had it was always second.
    """
    mesh = Mesh(3, executors=0, static=False, journal=BATCH, cluster={"replicas": 3})
    mesh.load(chain(1))
    for peer in mesh.peers:
        peer.disk.sync()
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.drop(Replicate, dst=1)
    mesh.peers[0].cancel(task)
    mesh.deliver()
    assert copies(mesh.peers[1])[task].status is None
    assert copies(mesh.peers[2])[task].status is not None
    mesh.crash(0)
    mesh.heal()
    mesh.drop(Sync)
    mesh.reboot(0, executors=0)
    mesh.wait(3000)
    mesh.heal()
    for number in (1, 2):
        mesh.speak(number, 0, Sync(versions=(info(task, copies(mesh.peers[number])[task].version),)))
    assert [len(records(mesh, number)) for number in range(3)] == [0, 0, 1]
    assert records(mesh, 2)[task].phase is Phase.CANCELLED


def test_if_the_first_who_remembers_dies_the_next_one_owns_it() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=BATCH, cluster={"replicas": 3})
    mesh.load(chain(1))
    for peer in mesh.peers:
        peer.disk.sync()
    tasks = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    mesh.drop(Handover)
    mesh.reboot(0)
    mesh.wait(3000)
    (first,) = {packet.dst for packet in mesh.log if isinstance(packet.message, Handover)}
    mesh.heal()
    mesh.kill(first)
    mesh.wait(40_000)
    assert records(mesh, 3 - first).keys() == set(tasks)


def test_a_copy_here_gives_way_to_what_this_peer_owned_itself_and_has_forgotten() -> None:
    """It took a task over, wrote that to a third peer, and its disk has lost it."""
    mesh = Mesh(3, executors=0, static=False, journal=BATCH)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    for peer in mesh.peers:
        peer.disk.sync()
    heir = holder(mesh)
    mesh.kill(0)
    mesh.wait(3000)
    third = 3 - heir
    assert copies(mesh.peers[third])[task].version.owner == mesh.peers[heir].me
    mesh.crash(heir)
    mesh.reboot(heir)
    mesh.wait(5000)
    assert [sorted(records(mesh, number)) for number in (heir, third)] == [[], [task]]


def test_a_definition_that_the_disk_does_not_have_is_fetched() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    plan = mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(0)
    tables = mesh.peers[0].disk.tables
    del tables["definition", plan.digest]
    del tables["pointer", "main"]
    mesh.reboot(0)
    mesh.wait(3000)
    assert records(mesh, 0).keys() == {task}
    assert ("definition", plan.digest) in mesh.peers[0].disk.tables


def test_a_restart_after_the_disk_has_failed_finds_what_is_known_elsewhere() -> None:
    mesh = Mesh(2, executors=[1, 0], static=False, journal=SYNC)
    mesh.load(chain(1))
    mesh.peers[0].disk.full = True
    tasks = mesh.submit(0, 7)
    mesh.run()
    assert mesh.results(0, tasks) == [8]
    mesh.crash(0)
    mesh.peers[0].disk.full = False
    mesh.reboot(0)
    mesh.wait(3000)
    assert outcomes(mesh.peers[1], tasks) == [8]
    assert records(mesh, 1).keys() == set(tasks)


@pytest.mark.parametrize("away_s", [10, 23 * 3600], ids=["for a while", "for nearly as long as it is remembered"])
def test_deleted_stays_deleted_when_the_holder_was_away(away_s: int) -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.crash(1)
    mesh.wait(10_000)
    mesh.peers[0].clear(task)
    mesh.deliver()
    mesh.wait(1_000 * away_s)
    mesh.reboot(1)
    mesh.wait(40_000)
    assert not any(records(mesh, number) or copies(mesh.peers[number]) for number in (0, 1))
    assert not any(peer.disk.tasks() for peer in mesh.peers)


def test_deleted_stays_deleted_when_everybody_restarts() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.drop(Replicate, dst=1)
    mesh.peers[0].clear(task)  # the holder does not hear of it
    mesh.crash(0, 1)
    mesh.heal()
    for number in (1, 0):
        mesh.reboot(number)
    mesh.wait(40_000)
    assert not any(records(mesh, number) or copies(mesh.peers[number]) for number in (0, 1))
    assert mesh.said(Final) == []


def test_an_empty_journal_is_restored_at_once() -> None:
    mesh = Mesh(1, executors=0, static=False, journal=SYNC)
    assert restoring(mesh) == [False]
    settings = Settings.of({"journal": SYNC})
    peer = Peer(settings, me=mesh.peers[0].me, number=0, static=False, mesh=mesh)
    assert peer.core.state.restoring
    assert peer.core.deadline_ms() is None
    peer.tell(Restored(contacts=(mesh.peers[0].contact,)))  # that is itself
    assert not peer.core.state.restoring


# ---- what an earlier life has left behind


def a_later_life(mesh: Mesh) -> None:
    """Peer 0 starts again, with what was on its disk."""
    mesh.deliver()
    mesh.crash(0)
    mesh.reboot(0, executors=0)
    mesh.wait(3000)


def of_an_earlier_life(mesh: Mesh, task: TaskId) -> VersionInfo:
    """A word of peer 0's life before, in an epoch above all that begin in this one: it had adopted the task."""
    return VersionInfo(id=task, rank=Rank.LIVE, n=9 << LIFE_BITS, owner=mesh.peers[0].me, life=1, seq=1)


def test_an_epoch_of_an_earlier_life_may_be_above_all_of_this_one_and_is_told_from_it() -> None:
    """Found by simulation: what peer 0 had forgotten was given up to it, and nobody owned the task any more."""
    mesh = Mesh(3, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    a_later_life(mesh)
    mesh.drop(Replicate, dst=2)
    (task,) = mesh.submit(1, 7)
    mesh.wait(10_000)
    assert copies(mesh.peers[0]).keys() == {task}
    mesh.speak(2, 0, Sync(versions=(of_an_earlier_life(mesh, task),)))
    assert [told.ids for told in mesh.said(Handover, src=0, dst=2)] == [(task,)]
    assert copies(mesh.peers[0]).keys() == {task}


def test_a_task_that_an_earlier_life_knew_better_goes_to_who_remembers() -> None:
    mesh = Mesh(3, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    a_later_life(mesh)
    told, kept = mesh.submit(0, 7, 9)
    mesh.deliver()
    mesh.speak(1, 0, Sync(versions=(of_an_earlier_life(mesh, told),)))
    assert mesh.said(Handover, src=0, dst=1)[-1].ids == (told,)
    assert mesh.peers[0].last(Moved).owners == (mesh.peers[1].me,)
    mesh.drop(Replicate)
    (replicated,) = mesh.submit(0, 8)
    write = mesh.said(Replicate)[-1]
    teller = next(number for number in (1, 2) if mesh.peers[number].me in write.rset)
    mesh.speak(teller, 0, Replicated(mid=write.mid, better=(of_an_earlier_life(mesh, replicated),)))
    assert mesh.said(Handover, src=0, dst=teller)[-1].ids == (replicated,)
    assert records(mesh, 0).keys() == {kept}


def test_an_owner_s_later_word_is_no_reason_to_give_a_task_up() -> None:
    """A holder answers an old write with what it has heard since."""
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    mesh.hold(Replicate)
    mesh.peers[0].cancel(task)
    record = records(mesh, 0)[task]
    same = info(task, record_version(record, mesh.peers[0].core.state.members.me))
    mesh.speak(1, 0, Replicated(mid=mesh.said(Replicate)[-1].mid, better=(same,)))
    assert records(mesh, 0) == {task: record}
    assert not mesh.peers[0].core.state.replicas.busy


def test_two_lives_that_come_to_one_epoch_are_not_taken_for_one() -> None:
    mesh = Mesh(2, executors=0, static=False, journal=SYNC)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    a_later_life(mesh)
    record, copy = records(mesh, 0)[task], copies(mesh.peers[1])[task]
    assert record_version(record, mesh.peers[0].core.state.members.me) == copy.version
    assert copy.version.life == 2
    before = mesh.peers[1].core.state.copies.summed(mesh.peers[0].me)
    mesh.peers[1].core.state.copies._put(replace(copy, version=copy.version._replace(life=1)), copy.values)
    assert mesh.peers[1].core.state.copies.summed(mesh.peers[0].me) != before
    mesh.wait(31_000)
    assert copies(mesh.peers[1])[task].version.life == 2
