"""What can go wrong, one at a time and on purpose, on real cores, the real codec and a simulated network."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from scatterzmq.core.actions import BatchOrder
from scatterzmq.core.cache import cache_key
from scatterzmq.core.messages import Accepted, TaskReport, TaskStatus
from scatterzmq.core.peermessages import Replicate, Replicated
from scatterzmq.core.values import Block
from scatterzmq.core.versions import Rank, Version
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, TaskId
from scatterzmq.sim.checkers import Violation
from scatterzmq.sim.clients import Handle, Outcome
from scatterzmq.sim.options import Options
from scatterzmq.sim.payload import column_of
from scatterzmq.sim.process import Process
from scatterzmq.sim.world import World
from scatterzmq.wire.columns import row_digests
from tests.core.conftest import chain
from tests.core.mesh import Mesh

Make = Callable[..., World]


def new_world(peers: int, **options: Any) -> World:
    """A world whose peers know each other; keyword arguments are options."""
    usual = {"seed": 1, "executors": (1,) * peers, "check_every": 1, "namespaces": ("chain", "long")}
    given: dict[str, Any] = usual | options
    world = World(Options(peers=peers, **given))
    world.begin()
    world.run(3_000)
    return world


@pytest.fixture
def make() -> Make:
    return new_world


def ends(world: World, tasks: list[TaskId]) -> list[TaskStatus | None]:
    handles = [world.handle(task) for task in tasks]
    return [None if handle.outcome is None else handle.outcome.status for handle in handles]


def owner(world: World, task: TaskId) -> Process:
    (found,) = [process for process in world.alive() if process.state.ledger.record(task) is not None]
    return found


def test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies(make: Make) -> None:
    world = make(3, exec_ms=2_000.0)
    tasks = world.submit("chain", 1, 2, 3, at=0)
    world.run(500)
    assert world.clients[0].handles[tasks[0]].is_accepted
    world.crash(owner(world, tasks[0]))
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 3
    assert not any(world.checkers.facts[task].lost for task in tasks)


def statuses(world: World, task: TaskId, within_ms: int) -> list[TaskStatus]:
    """Where a task is, as a client is told in so much time."""
    before = world.checkers.counters.copy()
    world.clients[0].ask(task)
    world.run(within_ms)
    return [status for status in TaskStatus for _ in range((world.checkers.counters - before)[f"status {status}"])]


def test_an_end_is_not_shown_to_who_asks_before_the_copies_have_it(make: Make) -> None:
    """Its owner dies with it."""
    world = make(2, executors=(1, 0))
    tasks = world.submit("chain", 1, at=0)
    world.run(10)
    assert world.handle(tasks[0]).is_accepted
    world.network.cut("peer0", "peer1")
    world.run(200)
    record = owner(world, tasks[0]).state.ledger.record(tasks[0])
    assert record is not None
    assert record.phase.ended
    first = statuses(world, tasks[0], 100)
    world.crash(world.peer(0))
    world.network.heal_all()
    assert statuses(world, tasks[0], 10_000) == [TaskStatus.WAIT]
    assert first == [TaskStatus.BUSY]
    world.start(0)
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY]


def test_who_asks_is_not_told_that_a_task_is_unknown_whose_owner_is_halted(make: Make) -> None:
    """Found by simulation, of a task that is waited for and of one that has ended."""
    world = make(2, executors=(0, 1), sections={"cluster": {"replicas": 1}})
    done = world.submit("chain", 1, at=0)
    world.run(2_000)
    assert ends(world, done) == [TaskStatus.READY]
    world.peer(1).pause()
    tasks = world.submit("chain", 2, at=0)
    world.run(100)
    world.peer(0).pause()
    world.peer(1).resume()
    world.run(20_000)
    assert statuses(world, tasks[0], 10_000) == [TaskStatus.WAIT]
    assert statuses(world, done[0], 10_000) == [TaskStatus.READY]
    world.peer(0).resume()
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY]


def test_a_holder_of_copies_dies_and_another_one_gets_them(make: Make) -> None:
    world = make(3)
    tasks = world.submit("chain", 1, 2, at=0)
    world.run(2_000)
    record = world.peer(0).state.ledger.record(tasks[0])
    assert record is not None
    world.crash(next(process for process in world.alive() if process.id == record.rset[1]))
    world.run(20_000)
    assert len(record.rset) == 2
    world.crash(world.peer(0))
    world.run(20_000)
    assert owner(world, tasks[0]).state.ledger.record(tasks[0]) is not None


def test_a_split_ends_in_one_outcome_per_handle(make: Make) -> None:
    world = make(2, exec_ms=3_000.0)
    tasks = world.submit("chain", 1, at=0)
    world.run(500)
    for way in (("peer0", "peer1"), ("peer1", "peer0")):
        world.network.cut(*way)
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY]
    world.network.heal_all()
    world.run(60_000)
    owner(world, tasks[0])  # just one


def test_two_owners_that_meet_do_not_go_on_both(make: Make) -> None:
    world = make(2, exec_ms=60_000.0)
    tasks = world.submit("chain", 1, at=0)
    world.run(500)
    for way in (("peer0", "peer1"), ("peer1", "peer0")):
        world.network.cut(*way)
    world.run(30_000)
    owners = [process.state.ledger.record(tasks[0]) for process in world.alive()]
    assert all(record is not None and record.token is not None for record in owners), "each side may lend it"
    world.network.heal_all()
    healed_us = world.now_us
    world.run(35_000)
    world.checkers.lent_once(healed_us)
    assert world.checkers.counters["leases in one view"] == 1
    world.run(400_000)
    assert ends(world, tasks) == [TaskStatus.READY]


def test_a_client_that_gave_up_connects_anew(make: Make) -> None:
    """Found by simulation: it kept its links, of which its new core knew nothing."""
    world = make(1)
    client = world.clients[0].address
    for way in (("peer0", client), (client, "peer0")):
        world.network.cut(*way)
    tasks = world.submit("chain", 1, at=0)
    world.crash(world.peer(0))
    world.start(0)
    world.run(60_000)
    assert world.counters["clients that gave up"]
    world.network.heal_all()
    world.run(10_000)
    assert ends(world, tasks) == [TaskStatus.READY]


def test_an_executor_that_slept_through_its_lease_changes_nothing(make: Make) -> None:
    world = make(2, executors=(0, 1), exec_ms=1_000.0)
    tasks = world.submit("chain", 1, at=0)
    world.run(700)
    world.peer(1).pause()
    world.run(30_000)
    world.peer(1).resume()
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY]


def test_a_process_that_starts_at_once_at_the_same_address_is_somebody_else(make: Make) -> None:
    world = make(3, faults={"stale_queue": 1.0})
    tasks = world.submit("chain", 1, 2, at=1)
    world.run(5)
    world.crash(world.peer(1))
    world.start(1)
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 2


def test_who_leaves_takes_nothing_along(make: Make) -> None:
    world = make(2, exec_ms=5_000.0)
    tasks = world.submit("long", 1, 2, 3, at=0)
    world.run(1_000)
    leaver = world.peer(0)
    leaver.leave()
    world.run(200_000)
    assert leaver.has_left
    assert ends(world, tasks) == [TaskStatus.READY] * 3


def test_a_deleted_task_stays_deleted_when_a_copy_comes_back(make: Make) -> None:
    world = make(3)
    tasks = world.submit("chain", 1, at=0)
    world.run(2_000)
    record = world.peer(0).state.ledger.record(tasks[0])
    assert record is not None
    holder = next(process for process in world.alive() if process.id == record.rset[1])
    holder.pause()
    world.clear(*tasks)
    world.run(20_000)
    holder.resume()
    world.run(60_000)
    assert not any(world.holds(process, tasks[0]) for process in world.alive())


def test_one_value_is_computed_once_for_all(make: Make) -> None:
    world = make(3, namespaces=("cached",))
    tasks = [task for at in range(3) for task in world.submit("cached", 7, 7, at=at)]
    world.run(10_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 6
    claims = sum(count for (_, cause), count in world.checkers.rows.items() if cause == "claim")
    assert claims <= 6, "the nodes of one task, once each"


def owned_elsewhere(world: World) -> tuple[int, int]:
    """A value, and which peer owns the key of its result: not the first one."""
    plan = world.plan("cached")
    owners = world.peer(0).core._travel.owners
    assert owners is not None
    for value in range(100):
        block = Block(BlockId(world.peer(0).id, 0), Layout(DTYPES["int64"], 1, ()), 8, row_digests(column_of([value])))
        key = cache_key(plan.graphs[plan.entry].closure, [(":value", (block, 0))])
        assert key is not None
        place = next(place for place in range(3) if world.peer(place).id == owners.owner(key))
        if place:
            return value, place
    raise AssertionError("all keys are the first peer's")


def claims(world: World) -> int:
    """Steps that were begun; a task of the cached graphs takes six."""
    return sum(count for (_, cause), count in world.checkers.rows.items() if cause == "claim")


@pytest.mark.parametrize("who", ["the owner of the key", "the owner of the leader", "the executor of the leader"])
def test_five_hundred_tasks_wait_for_one_and_somebody_dies(make: Make, who: str) -> None:
    """All get the result, and it is computed once more at most."""
    world = make(3, namespaces=("cached",), exec_ms=1_000.0)
    value, place = owned_elsewhere(world)
    tasks = world.submit("cached", value, at=0)
    world.run(300)
    for _ in range(5):
        tasks += world.submit("cached", *[value] * 50, at=0) + world.submit("cached", *[value] * 50, at=3 - place)
    world.run(300)
    assert world.peer(0).state.ledger.counts() == {TaskStatus.BUSY: 1, TaskStatus.DEFERRED: 250}
    if who == "the owner of the key":
        world.crash(world.peer(place))
    elif who == "the owner of the leader":
        world.crash(world.peer(0))
    else:
        (executor,) = [executor for executor, running in world.peer(0).executors.items() if running is not None]
        world.peer(0).lose_executor(executor, crashed=True)
    world.run(120_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 501
    assert claims(world) <= 2 * 6


def test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not(make: Make) -> None:
    world = make(2, namespaces=("bomb",))
    tasks = world.submit("bomb", 0, 1, 2, 3, at=0)
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 3 + [TaskStatus.ERROR]
    assert world.checkers.deaths[tasks[3]] == 4


def joined(make: Make) -> tuple[World, list[TaskId]]:
    """An executor that works on a batch of three owners."""
    world = make(4, executors=(0, 1, 0, 0), exec_ms=2_000.0, namespaces=("chain",))
    world.submit("chain", 1, at=0)
    world.run(30_000)
    world.submit("chain", 2, at=0)
    world.run(1_000)
    tasks = [task for place in (0, 2, 3) for task in world.submit("chain", 3 + place, 13 + place, at=place)]
    for _ in range(1_000):
        world.run(10)
        if any(running.order.joined for running in world.peer(1).executors.values() if running is not None):
            return world, tasks
    raise AssertionError("each owner's tasks are run by themselves")


def test_an_owner_dies_while_its_part_of_a_batch_runs(make: Make) -> None:
    world, tasks = joined(make)
    (running,) = [running for running in world.peer(1).executors.values() if running is not None]
    dead = next(process for process in world.alive() if process.id == running.order.joined[0][1].owner)
    others = [task for task in tasks if owner(world, task) is not dead]
    assert len(others) == 4
    world.crash(dead)
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 6
    for task in others:
        record = owner(world, task).state.ledger.record(task)
        assert record is not None
        assert record.restarts == 0, "their part counts"


def test_an_executor_dies_with_parts_of_several_owners(make: Make) -> None:
    """All of its tasks run alone then, at each owner, and none of them is poison."""
    world, tasks = joined(make)
    ((executor, running),) = world.peer(1).executors.items()
    assert running is not None
    world.peer(1).lose_executor(executor, crashed=True)
    world.run(100)
    for task in running.order.tasks:
        record = owner(world, task).state.ledger.record(task)
        assert record is not None
        assert record.solo
        assert record.crashes == 0
    world.run(120_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 6


def test_a_client_that_lost_its_link_is_told(make: Make) -> None:
    world = make(1, exec_ms=2_000.0)
    tasks = world.submit("chain", 1, at=0)
    world.run(500)
    world.network.reset("peer0", world.clients[0].address)
    world.run(30_000)
    assert ends(world, tasks) == [TaskStatus.READY]


def test_what_is_deleted_on_one_side_of_a_split_stays_deleted(make: Make) -> None:
    """The other side has never heard of the deletion, and has come to later epochs than the one in which it was."""
    world = make(3, exec_ms=100_000.0)
    (task,) = world.submit("chain", 1, at=0)
    world.run(500)
    client = world.clients[0]
    for there in ("peer1", "peer2"):
        for here in ("peer0", client.address):
            world.network.cut(here, there)
            world.network.cut(there, here)
    world.run(20_000)
    (heir,) = [process for process in world.alive()[1:] if process.state.ledger.record(task) is not None]
    world.crash(next(process for process in world.alive()[1:] if process is not heir))
    world.run(5_000)
    record, elsewhere = (process.state.ledger.record(task) for process in (world.peer(0), heir))
    assert record is not None
    assert elsewhere is not None
    assert elsewhere.epoch_n > record.epoch_n
    world.clear(task)
    world.run(1_000)
    client.is_dead = True  # it would tell the other side as soon as it could
    world.network.vanish(client)
    world.network.heal_all()
    world.run(60_000)
    assert not any(world.holds(process, task) for process in world.alive())


def test_what_a_client_cleared_may_stay_where_only_that_client_knew_of_it(make: Make) -> None:
    """As long as the client is there, or a holder knows somebody who has deleted the task, it has to go."""
    world = make(3, exec_ms=100_000.0)
    (task,) = world.submit("chain", 1, at=0)
    world.run(5_000)
    record = world.peer(0).state.ledger.record(task)
    assert record is not None
    stranger = next(process for process in world.alive() if process.id not in record.rset)
    holder = next(process for process in world.alive() if process.id == record.rset[1])
    deletion = Version(Rank.DELETED, record.epoch_n, stranger.id, 1, 2)
    facts = world.checkers.facts[task]
    facts.is_cleared = facts.is_deleted = True
    facts.deleters.add(stranger.name)
    stranger.state.copies.bury(task, record.nonce, deletion, 0)
    with pytest.raises(Violation, match="have deleted"):
        world.checkers.agreed()
    facts.submitter.is_dead = True
    world.checkers.agreed()
    assert list(world.checkers.left_over) == [task]
    holder.state.copies.bury(task, record.nonce, deletion, 0)
    with pytest.raises(Violation, match="have deleted"):
        world.checkers.agreed()


def test_a_task_that_is_there_may_count_as_unknown_only_if_too_much_has_failed_at_once(make: Make) -> None:
    """Found by simulation (seed 3000600): its owner was halted when its other holder died and started again, which then
    knew of nobody. Each on its own is what the second copy is for.
    """
    world = make(2, executors=(0, 0))
    (task,) = world.submit("chain", 1, at=0)
    world.run(500)
    client, keeper = world.clients[0], world.peer(0)
    handle = Handle(task, is_accepted=True, outcome=Outcome(TaskStatus.UNKNOWN))

    def is_excused() -> bool:
        try:
            world.checkers.latched(client, handle)
        except Violation:
            return False
        return True

    assert not is_excused()
    keeper.pause()
    assert not is_excused(), "the other one is there"
    keeper.resume()
    world.crash(world.peer(1))
    assert not is_excused(), "the owner is there"
    report = TaskReport(id=task, status=TaskStatus.UNKNOWN)
    with pytest.raises(Violation, match="is said to be unknown"):
        world.checkers.reported(client, report, None)
    keeper.pause()
    assert is_excused()
    world.checkers.reported(client, report, TaskStatus.UNKNOWN)
    keeper.resume()
    world.network.cut(client.address, keeper.address)
    assert is_excused()
    world.checkers.facts[task].copies = 3
    assert not is_excused(), "another one should have it"
    world.checkers.facts[task].copies = 2
    world.checkers.failures.clear()
    assert not is_excused(), "a new copy was to be made meanwhile"
    world.checkers.facts[task].copies = 1
    assert not is_excused(), "whoever was there misses it"


def test_who_gives_way_after_a_split_still_has_the_task_when_the_better_owner_dies(make: Make) -> None:
    """Neither side of the split had a copy on the other one."""
    world = make(2, executors=(0, 0))
    (task,) = world.submit("chain", 1, at=0)
    world.run(500)
    world.network.cut("peer0", "peer1")
    world.network.cut("peer1", "peer0")
    world.run(20_000)
    assert all(process.state.ledger.record(task) is not None for process in world.alive())
    world.network.heal_all()
    while len(owners := [process for process in world.alive() if process.state.ledger.record(task) is not None]) == 2:
        world.run(1)
    world.crash(owners[0])
    (other,) = world.alive()
    assert world.holds(other, task)
    world.run(10_000)
    assert other.state.ledger.record(task) is not None


def test_whom_a_task_has_killed_is_known_to_the_next_owner(make: Make) -> None:
    world = make(3, executors=(0, 1, 0), exec_ms=500.0, namespaces=("bomb",))
    (task,) = world.submit("bomb", 3, at=0)
    while world.checkers.deaths[task] < 3:
        world.run(10)
    world.run(10)  # it is told, and tells the holder
    world.crash(owner(world, task))
    world.run(60_000)
    assert ends(world, [task]) == [TaskStatus.ERROR]
    assert world.checkers.deaths[task] == 4


def broken_machine(world: World) -> None:
    """Whatever peer1 runs kills its executor, soon; the other peers take their time."""
    broken = world.peer(1)

    def fate(process: Process, order: BatchOrder, work: Random) -> tuple[str, int]:
        assert order.tasks
        assert work
        return ("crash", 10_000) if process is broken else ("", 2_000_000)

    world.faults.fate = fate  # type: ignore[method-assign]


def test_good_tasks_survive_a_machine_that_kills_all_executors(make: Make) -> None:
    """It would take them again and again, as it is the only one that has time."""
    world = make(2, namespaces=("chain",), sections={"executor": {"batch_size": 1}})
    broken_machine(world)
    tasks = world.submit("chain", *range(8), at=0)
    world.run(120_000)
    assert ends(world, tasks) == [TaskStatus.READY] * 8
    assert world.peer(1).reports["warning.executor.deaths"]
    assert not world.peer(0).reports["warning.executor.deaths"]


def test_tasks_that_kill_executors_everywhere_are_not_held_up(make: Make) -> None:
    """All peers have the same trouble: it is not their machines."""
    world = make(3, namespaces=("bomb",), sections={"executor": {"batch_size": 1}})
    tasks = world.submit("bomb", *([3] * 20), at=0)
    world.run(60_000)
    assert ends(world, tasks) == [TaskStatus.ERROR] * 20
    assert [world.peer(at).reports["warning.executor.deaths"] > 0 for at in range(3)] == [True] * 3


def test_an_answer_to_an_earlier_life_counts_for_nothing() -> None:
    """It has the number of a question of this life."""
    mesh = Mesh(2, static=False, executors=0)
    mesh.load(chain(1))
    mesh.hold(Replicated, dst=0)
    mesh.submit(0, 1)
    mesh.deliver()
    mesh.kill(0)
    again = mesh.restart(0)
    mesh.wait(5_000)
    mesh.drop(Replicate, src=0)
    mesh.submit(0, 2)
    mesh.deliver()
    assert [said.mid for said in mesh.said(Replicate, src=0)] == [1, 1]
    mesh.heal()
    mesh.deliver()
    assert not any(isinstance(send.message, Accepted) for send in again.sent)
    mesh.wait(1_000)
    assert any(isinstance(send.message, Accepted) for send in again.sent)


def test_the_only_one_that_has_a_kind_dies_and_its_tasks_wait_until_it_is_back(make: Make) -> None:
    """Those that lack it accept them, own them and hand them on all the same."""
    world = make(3, exec_ms=2_000.0, lacking={0: "mix", 2: "mix"})
    own = world.submit("chain", 1, 2, at=0)
    theirs = world.submit("chain", 3, 4, at=1)
    world.run(1_500)
    world.crash(world.peer(1))
    world.run(30_000)
    assert ends(world, [*own, *theirs]) == [None] * 4
    assert not any(running for process in world.alive() for running in process.executors.values())
    world.start(1)
    world.run(60_000)
    assert ends(world, [*own, *theirs]) == [TaskStatus.READY] * 4
    assert world.said["AskManifest"]
