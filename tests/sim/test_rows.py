"""What can break in a cluster of equals, row by row: for each story a test that tells it.

Rows whose story is told where the machine in question is tested are only named here; so that none gets lost, a test
looks each of them up. "also" names what the story says about one machine alone. What only real processes can show
(14, 17, 27 and 28 in part: a child that hangs or is killed by the system, a disk, a socket's queue) is shown by
tests/e2e/test_hangs.py and the tests of the drivers; here stands what the core does about it.

    row  what happens                               told by
     1   owner dies before it has answered          sim.test_rows:test_row_01_an_owner_dies_before_it_has_answered
     2   owner dies when the copy is there          sim.test_rows:test_row_02_an_owner_dies_between_the_copy_and_the_answer
     3   owner dies in the middle of a task         sim.test_rows:test_row_03_an_owner_dies_between_two_steps
     4   owner dies, its answer to a commit is lost sim.test_rows:test_row_04_an_owner_dies_before_it_has_confirmed_a_result
         also                                       core.test_borrowing:test_a_lost_confirmation_does_not_apply_a_commit_twice
     5   owner dies before its client knows the end sim.test_rows:test_row_05_an_owner_dies_before_the_client_knows_the_end
     6   a holder of copies dies                    sim.test_scenarios:test_a_holder_of_copies_dies_and_another_one_gets_them
     7   owner and holder lose power                sim.test_disks:test_everything_comes_back_after_a_power_failure
         also                                       core.test_restoring:test_in_batch_mode_the_last_moment_is_lost_and_nothing_else
     8   owner and worker are cut apart             core.test_working_together:test_a_peer_that_is_cut_off_loses_its_batches_and_does_no_harm
         also                                       core.test_borrowing:test_who_is_cut_off_loses_its_lease_and_is_fenced
     9   owner and holder are cut apart             sim.test_scenarios:test_a_split_ends_in_one_outcome_per_handle
         also                                       sim.test_rows:test_row_09_both_sides_of_a_split_have_a_result
    10   two do not hear each other, a third both   sim.test_rows:test_row_10_a_third_peer_hears_both
    11   one hears the other, and not back          core.test_members:test_a_one_way_link_makes_both_suspects
         also                                       core.test_members:test_a_one_way_link_between_two_ends_in_death_on_both_sides_and_heals
    12   an owner wakes up that was taken for dead  sim.test_rows:test_row_12_an_owner_wakes_up_that_was_taken_for_dead
    13   a worker wakes up that was given up        sim.test_scenarios:test_an_executor_that_slept_through_its_lease_changes_nothing
    14   a node hangs                               core.test_borrowing:test_an_executor_that_hangs_is_given_up_and_the_owner_told
         also                                       e2e.test_hangs:test_a_task_that_hangs_every_executor_is_poison
    15   clocks jump                                sim.test_rows:test_row_15_clocks_jump
         also                                       core.test_members:test_who_was_halted_blames_nobody
    16   messages are lost, doubled, overtaken      core.test_borrowing:test_everything_may_come_twice
         also                                       core.test_replicas:test_words_that_overtake_each_other
         also                                       core.test_gossip:test_a_gap_is_asked_for_until_it_is_filled
    17   an executor is killed                      sim.test_rows:test_row_17_an_executor_is_killed_and_its_peer_lives_on
    18   a task kills whoever runs it               sim.test_scenarios:test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not
    19   who has tensors of a task dies             sim.test_rows:test_row_19_the_tensors_of_half_the_tasks_die_with_a_peer
         also                                       core.test_lending:test_restarts_for_holders_that_vanish_are_bounded
         also                                       sim.test_payloads:test_row_19_half_of_what_is_under_way_dies_with_a_peer
    20   the owner of a cache key dies              core.test_cache_owners:test_an_owner_that_dies_is_replaced_at_once
    21   who computes for others gives up           core.test_cache_owners:test_when_the_leader_is_given_up_the_next_one_leads
         also                                       core.test_cache_owners:test_errors_are_not_passed_on_and_two_leaders_are_enough
    22   a client dies, another one asks            sim.test_rows:test_row_22_a_client_dies_and_another_one_asks
         also                                       core.test_peer:test_results_go_when_their_time_is_over
    23   everybody restarts                         core.test_restoring:test_all_restart_in_any_order_and_nothing_is_lost
         also                                       core.test_restoring:test_an_owner_that_restarts_slowly_is_not_taken_for_dead
    24   a peer returns with what it knew long ago  core.test_restoring:test_deleted_stays_deleted_when_the_holder_was_away
         also                                       core.test_restoring:test_an_owner_that_was_replaced_does_not_own_its_tasks_any_more
    25   two clusters on one network                core.test_members:test_two_clusters_never_mix
    26   peers of different versions                core.test_members:test_peers_that_speak_more_than_this_one_are_welcome
         also                                       wire.test_frames:test_a_newer_peer_may_send_more
         also                                       wire.test_frames:test_an_older_peer_may_send_less
    27   a disk is full                             core.test_journal:test_an_owner_looks_for_a_holder_with_a_disk
         also                                       core.test_journal:test_a_lone_peer_with_a_full_disk_refuses_what_is_new_and_goes_on_with_the_rest
         also                                       sim.test_disks:test_disks_get_full
    28   something is too large                     core.test_submissions:test_what_does_not_fit_is_refused_as_a_whole
         also                                       core.test_replicas:test_large_submissions_go_in_pieces
         also                                       wire.test_frames:test_limits_are_inclusive
    29   wrong bytes                                sim.test_rows:test_row_29_broken_frames_come_between_all_others
         also                                       wire.test_columns:test_row_digests_tell_dtype_shape_and_bytes_apart
         also                                       sim.test_payloads:test_row_29_what_is_fetched_comes_with_wrong_bits
    30   a peer comes and goes                      sim.test_rows:test_row_30_a_peer_comes_and_goes
         also                                       core.test_members:test_probation_grows_with_each_time_and_ends_growing
    31   a graph changes while tasks run            core.test_definitions:test_tasks_go_on_with_the_definition_they_came_with
         also                                       core.test_cache:test_a_redefined_graph_never_gets_an_old_value_and_equal_text_shares
    32   who has just come knows nobody             core.test_members:test_responsibilities_wait_until_a_peer_has_looked_around
         also                                       core.test_cache_owners:test_who_joins_owns_keys_that_are_being_computed
"""
# ruff: noqa: E501 -- the table

import re
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import pytest

from scatterzmq.core.ledger import Cause, Phase
from scatterzmq.core.messages import Attach, TaskStatus
from scatterzmq.core.peermessages import CopyKind, Replicate, Replicated
from scatterzmq.ids import TaskId
from scatterzmq.sim.clients import Handle
from scatterzmq.sim.process import Process
from scatterzmq.sim.world import World
from tests.core.conftest import ALICE, chain
from tests.core.mesh import Mesh
from tests.core.test_replicas import holder
from tests.sim.test_scenarios import ends, new_world, owner

READY = TaskStatus.READY
ROWS_MAX = 32


def table() -> dict[int, list[str]]:
    """Row -> the tests that tell its story, from the docstring."""
    rows: dict[int, list[str]] = {}
    row = 0
    for line in (__doc__ or "").splitlines():
        told = re.fullmatch(r"\s+(\d+|also)\s.*?(\w+\.test_\w+:test_\w+)", line)
        if told is not None:
            row = row if told[1] == "also" else int(told[1])
            rows.setdefault(row, []).append(told[2])
    return rows


def cut(world: World, left: str, right: str) -> None:
    """Neither hears the other."""
    world.network.cut(left, right)
    world.network.cut(right, left)


def claims(world: World) -> int:
    """How often a task has been lent, in the whole world."""
    return world.checkers.rows[Phase.WAIT, Cause.CLAIM]


def holder_of(world: World, task: TaskId) -> Process:
    """Whoever has the first copy."""
    record = owner(world, task).state.ledger.record(task)
    assert record is not None
    (found,) = [process for process in world.alive() if process.id == record.rset[1]]
    return found


def one_account_each(world: World, tasks: Iterable[TaskId]) -> None:
    """Every task has one owner, which has all its copies, and everybody knows everybody."""
    world.checkers.agreed()
    world.checkers.deletions_heard()
    for task in tasks:
        owner(world, task)


def asked_anew(world: World, task: TaskId) -> int | None:
    """What a client is told that asks everybody, and takes the first answer."""
    client = world.add_client()
    client.handles[task] = Handle(task, is_accepted=True)
    client.watch()
    world.run(2_000)
    outcome = client.handles[task].outcome
    assert outcome is not None
    assert outcome.status is READY
    return outcome.value


def ran(mesh: Mesh) -> Counter[tuple[str, int]]:
    """How often each node was run on each input."""
    return Counter([one for peer in mesh.peers for one in peer.ran])


# ---- the stories


def test_row_01_an_owner_dies_before_it_has_answered() -> None:
    """Copies do not get through, so the client has no answer when the owner dies. It asks another peer with the same
    id, and the tasks run there.
    """
    world = new_world(3)
    for other in ("peer1", "peer2"):
        world.network.clog("peer0", other)
    tasks = world.submit("chain", 1, 2, 3, at=0)
    world.run(100)
    assert not any(world.clients[0].handles[task].is_accepted for task in tasks)
    world.crash(world.peer(0))
    world.run(10_000)
    assert ends(world, tasks) == [READY] * 3
    world.network.heal_all()
    world.start(0)
    world.run(60_000)
    one_account_each(world, tasks)


def test_row_02_an_owner_dies_between_the_copy_and_the_answer() -> None:
    """The holder adopts what its owner never said to have accepted, while the client submits the same task to a third
    peer, which does not hear from the holder yet: for a moment there are two owners. One of them gives up, and the
    client is told one result.
    """
    world = new_world(3, executors=(0, 1, 1), exec_ms=3_000.0)
    world.network.cut("peer0", world.clients[0].address)
    for value in range(4):
        world.submit("chain", value, at=0)
    tasks = list(world.checkers.facts)
    world.run(50)
    assert {holder_of(world, task).place for task in tasks} == {1, 2}
    assert not any(world.clients[0].handles[task].is_accepted for task in tasks)
    for way in (("peer1", "peer2"), ("peer2", "peer1")):
        world.network.clog(*way)
    world.network.heal("peer0", world.clients[0].address)  # so that the client notices
    world.crash(world.peer(0))
    world.run(2_000)
    owners = [sum(process.state.ledger.record(task) is not None for process in world.alive()) for task in tasks]
    assert sorted(owners) == [1, 1, 2, 2], "the client came to the holder with two of them"
    world.network.heal_all()
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 4
    one_account_each(world, tasks)


def test_row_03_an_owner_dies_between_two_steps() -> None:
    """Steps are not copied: whoever adopts the task starts it over from its input, and counts that. What the worker of
    the dead owner still brings is let go.
    """
    mesh = Mesh(3, static=False, executors=[0, 1, 1], gossiping=True)
    mesh.load(chain(3))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    (worker,) = [peer.number for peer in mesh.peers if peer.running]
    mesh.step(worker)
    mesh.deliver()
    heir = holder(mesh)
    (worker,) = [peer.number for peer in mesh.peers if peer.running]
    mesh.kill(0)
    mesh.step(worker)
    mesh.wait(8_000)
    mesh.run()
    mesh.peers[heir].say(Attach(ids=(task,)), ALICE)
    outcome = mesh.outcome(heir, task)
    assert outcome is not None
    assert (outcome.value, outcome.retries) == (10, 1)
    assert ran(mesh) == {("n0", 7): 2, ("n1", 8): 2, ("n2", 9): 1}


def test_row_04_an_owner_dies_before_it_has_confirmed_a_result() -> None:
    """A worker has brought the last result, the copies know the end, and the owner dies before it can say so, to the
    worker or to the client. The heir has the result, and nothing runs again.
    """
    mesh = Mesh(3, static=False, executors=[0, 1, 1], gossiping=True)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 7)
    mesh.deliver()
    (worker,) = [peer.number for peer in mesh.peers if peer.running]
    mesh.hold(Replicated, dst=0)
    mesh.step(worker)
    mesh.deliver()
    assert [message.kind for message in mesh.said(Replicate, src=0)] == [CopyKind.ACCEPT, CopyKind.FINAL]
    assert mesh.outcome(0, task) is None
    heir = holder(mesh)
    mesh.kill(0)
    mesh.heal()
    mesh.wait(8_000)
    mesh.run()
    mesh.peers[heir].say(Attach(ids=(task,)), ALICE)
    outcome = mesh.outcome(heir, task)
    assert outcome is not None
    assert (outcome.value, outcome.retries) == (8, 0)
    assert ran(mesh) == {("n0", 7): 1}


def test_row_05_an_owner_dies_before_the_client_knows_the_end() -> None:
    """Everything is done, but nothing reaches the client; then the owner dies. The client asks again where its tasks
    are, and those with the copies tell it. Nothing runs again.
    """
    world = new_world(3)
    tasks = world.submit("chain", 1, 2, 3, at=0)
    world.run(10)
    client = world.clients[0]
    assert all(client.handles[task].is_accepted for task in tasks)
    for address in world.addresses:
        world.network.cut(address, client.address)
    world.run(3_000)
    before = claims(world)
    assert ends(world, tasks) == [None] * 3
    world.crash(world.peer(0))
    world.network.heal_all()
    world.run(10_000)
    assert ends(world, tasks) == [READY] * 3
    assert claims(world) == before == 9


def test_row_09_both_sides_of_a_split_have_a_result() -> None:
    """The node throws dice, and both sides of a split have run it. The client keeps what it was told first; when the
    sides meet, one of the two results is the task's for everybody.
    """
    world = new_world(2, exec_ms=3_000.0, namespaces=("dice",))
    tasks = world.submit("dice", *range(8), at=0)
    world.run(500)
    cut(world, "peer0", "peer1")
    world.run(60_000)
    sides = [process.state.ledger.record(task) for task in tasks for process in world.alive()]
    assert all(record is not None and record.phase is Phase.READY for record in sides)
    shown = [world.clients[0].handles[task].outcome for task in tasks]
    world.network.heal_all()
    world.run(60_000)
    assert [world.clients[0].handles[task].outcome for task in tasks] == shown
    one_account_each(world, tasks)
    for task in tasks[:2]:
        assert asked_anew(world, task) == asked_anew(world, task)


def test_row_10_a_third_peer_hears_both() -> None:
    """An owner does not reach the holder of its copies, a third peer reaches both and says that both live. The owner
    judges for itself: it puts another one in the holder's place; nobody takes anything over.
    """
    world = new_world(3, exec_ms=2_000.0)
    tasks = [task for value in range(4) for task in world.submit("chain", value, at=0)]
    world.run(100)
    lost = holder_of(world, tasks[0])
    third = next(process for process in world.alive() if process.id not in (lost.id, world.peer(0).id))
    cut(world, "peer0", lost.address)
    more = [task for value in range(4) for task in world.submit("chain", 100 + value, at=0)]
    world.run(4_000)
    client = world.clients[0]
    assert all(client.handles[task].is_accepted for task in more), "new tasks wait no longer than it takes to replace"
    world.run(30_000)
    assert ends(world, tasks + more) == [READY] * 8
    assert {owner(world, task).place for task in tasks + more} == {0}
    assert {holder_of(world, task).id for task in tasks + more} == {third.id}
    world.network.heal_all()
    world.run(60_000)
    one_account_each(world, tasks + more)


def test_row_12_an_owner_wakes_up_that_was_taken_for_dead() -> None:
    """An owner stops for a minute. Its tasks are taken over and end. When it wakes up it has results to offer itself,
    and gives everything up: its copies are of an older epoch.
    """
    world = new_world(3, exec_ms=2_000.0, namespaces=("dice",))
    tasks = world.submit("dice", *range(4), at=0)
    world.run(500)
    zombie = world.peer(0)
    zombie.pause()
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 4
    told = [world.clients[0].handles[task].outcome for task in tasks]
    assert len(zombie.state.ledger) == 4, "it does not know yet"
    zombie.resume()
    world.run(40_000)
    assert not len(zombie.state.ledger)
    one_account_each(world, tasks)
    values = [asked_anew(world, task) for task in tasks]
    assert values == [outcome and outcome.value for outcome in told]


def test_row_15_clocks_jump() -> None:
    """The clock of each peer jumps by some minutes while tasks run. Nobody is taken for dead for it, and every task
    ends; batches on loan may be lent once more.
    """
    world = new_world(3, executors=(0, 1, 1), exec_ms=3_000.0)
    tasks = world.submit("chain", 1, 2, 3, 4, at=0)
    for place in (0, 1, 2):
        world.run(1_000)
        world.peer(place).clock.jump(300_000)
        world.peer(place).jumped()
    world.run(40_000)
    assert ends(world, tasks) == [READY] * 4
    assert not any(process.reports["peer.suspect"] + process.reports["peer.dead"] for process in world.alive())
    assert not world.checkers.deaths, "no executor was given up"
    one_account_each(world, tasks)


def test_row_17_an_executor_is_killed_and_its_peer_lives_on() -> None:
    """The system kills an executor in the middle of a batch. Its peer is as alive as before; the tasks of the batch go
    on, each alone, and lose nothing but this step.
    """
    world = new_world(2, executors=(0, 1), exec_ms=2_000.0)
    tasks = world.submit("chain", 1, 2, 3, 4, at=0)
    world.run(1_000)
    worker = world.peer(1)
    (executor,) = [executor for executor, running in worker.executors.items() if running is not None]
    running = worker.executors[executor]
    assert running is not None
    assert len(running.order.tasks) == 4
    worker.lose_executor(executor, crashed=True)
    world.run(100)
    records = [world.peer(0).state.ledger.record(task) for task in tasks]
    assert [record and (record.solo, record.restarts, record.errors) for record in records] == [(True, 1, 0)] * 4
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 4
    assert not any(process.reports["peer.suspect"] for process in world.alive())


def test_row_19_the_tensors_of_half_the_tasks_die_with_a_peer() -> None:
    """A worker dies with what it has computed and not handed over. Its tasks are lent again, that is counted apart
    from their own errors, and all of them end. (Small tensors between two steps lie at the owner, and nowhere else.)
    """
    world = new_world(3, executors=(0, 2, 2), exec_ms=2_000.0, sections={"executor": {"batch_size": 1}})
    tasks = [task for value in range(8) for task in world.submit("chain", value, at=0)]
    world.run(1_500)
    lent = [running.order.tasks for running in world.peer(1).executors.values() if running is not None]
    assert lent
    world.crash(world.peer(1))
    world.run(1_000)
    records = [record for task in tasks if (record := world.peer(0).state.ledger.record(task)) is not None]
    assert {record.id for record in records if record.restarts} == {task for batch in lent for task in batch}
    world.run(90_000)
    assert ends(world, tasks) == [READY] * 8
    assert not any(record.errors for record in records)


def test_row_22_a_client_dies_and_another_one_asks() -> None:
    """A client dies while its tasks run. They go on; who asks for them under their ids is told, before and after."""
    world = new_world(2, exec_ms=2_000.0)
    tasks = world.submit("chain", 1, 2, at=0)
    world.run(500)
    world.replace_client(world.clients[0])
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 2
    world.replace_client(world.clients[0])
    for handle in world.clients[0].handles.values():
        handle.outcome = None
    world.clients[0].watch()
    world.run(6_000)
    assert ends(world, tasks) == [READY] * 2
    assert claims(world) == 6


def test_row_29_broken_frames_come_between_all_others() -> None:
    """Every other message is followed by a broken copy of itself. Each of those is refused before a core sees it, or
    is the same message once more; results are right. (Bytes that were changed on their way are found by the
    encryption of a link, content by its digest where a key of the cache depends on it, and what was fetched by its
    checksum.)
    """
    world = new_world(2, faults={"garbage": 0.5}, namespaces=("cached", "lists"))
    tasks = [task for ns in ("cached", "lists") for value in range(8) for task in world.submit(ns, value, at=0)]
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 16
    assert sum(world.rejected.values()) > 20
    assert len(world.rejected) >= 4, "broken in more than one way"


@pytest.mark.parametrize("seed", [1, 7])
def test_row_30_a_peer_comes_and_goes(seed: int) -> None:
    """A holder of copies is cut off and back every few seconds. It is put on probation: after the first times nothing
    is moved there any more, and what comes meanwhile has nothing to do with it. What it has taken over while it was
    alone (with seed 7, where it notices before it hears the others again) has two owners until its probation is over.
    """
    world = new_world(3, seed=seed)
    tasks = [task for value in range(10) for task in world.submit("chain", value, at=0)]
    world.run(3_000)
    flapping = holder_of(world, tasks[0])
    others = [process for process in world.alive() if process is not flapping]
    moved, meanwhile = [], []
    for turn in range(10):
        for other in others:
            cut(world, flapping.address, other.address)
        world.run(6_000)
        world.network.heal_all()
        world.run(6_000)
        submitted = world.submit("chain", *range(4), at=0)
        tasks += submitted
        meanwhile += submitted if turn > 3 else []
        world.run(1_000)
        moved.append(world.peer(0).state.replicas.counters["repaired"])
    assert moved[-1] == moved[3], "while it comes and goes there is no more to repair"
    assert {owner(world, task).place for task in meanwhile} == {0}
    assert not any(world.holds(flapping, task) for task in meanwhile)
    world.run(400_000)
    one_account_each(world, tasks)


# ---- the table


@pytest.mark.parametrize("row", range(1, ROWS_MAX + 1))
def test_every_row_is_told(row: int) -> None:
    for name in table()[row]:
        module, _, test = name.partition(":")
        found: Any = getattr(import_module(f"tests.{module}"), test)
        assert callable(found)


def test_the_table_names_all_that_is_told_here() -> None:
    named = {
        name.partition(":")[2] for names in table().values() for name in names if name.startswith("sim.test_rows:")
    }
    told: dict[str, Callable[[], None]] = {name: it for name, it in globals().items() if name.startswith("test_row_")}
    assert named == told.keys()
    assert len(table()) == ROWS_MAX
