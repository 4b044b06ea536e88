"""Large results that stay where they were made, in a network: what dies, leaves, is lost or damaged, and what of that
costs a task anything. A number is large here.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from scatterzmq.core.ledger import Record
from scatterzmq.core.messages import TaskStatus
from scatterzmq.ids import TaskId
from scatterzmq.sim.world import World
from tests.sim.test_scenarios import claims, ends, new_world, owned_elsewhere

READY = TaskStatus.READY


def large(peers: int, batch_size: int = 1, **options: Any) -> World:
    sections = {"store": {"inline_bytes": 0}, "executor": {"batch_size": batch_size}, "tasks": {"max_retries": 1000}}
    return new_world(peers, sections=sections, namespaces=("long", "branches", "lists"), **options)


def submit(world: World, ns: str, count: int = 8) -> list[TaskId]:
    return [task for value in range(count) for task in world.submit(ns, value, at=0)]


def until_kept(world: World, count: int) -> None:
    """Until peer 1 keeps so many blocks for peer 0."""
    for _ in range(300):
        if len(world.peer(1).core.payloads.kept_for(world.peer(0).id)) >= count:
            return
        world.run(100)
    raise AssertionError("it keeps nothing")


def records(world: World, tasks: list[TaskId]) -> list[Record]:
    found = [world.peer(0).state.ledger.record(task) for task in tasks]
    return [record for record in found if record is not None]


def counted(world: World, name: str) -> int:
    return sum(process.core.counters()[name] for process in world.alive())


def forget(world: World, tasks: list[TaskId]) -> None:
    """Nothing is left of them anywhere, a while after they have been cleared."""
    world.clear(*tasks)
    world.run(100_000)
    for process in world.alive():
        assert not process.core.payloads.blocks_held()
        assert not len(process.store)


def test_what_is_large_stays_where_it_was_made() -> None:
    world = large(3, executors=(0, 1, 1), exec_ms=20.0)
    tasks = submit(world, "branches", 40)
    world.run(20_000)
    assert ends(world, tasks) == [READY] * 40
    assert counted(world, "rows_granted_by_name") > 50
    assert counted(world, "payloads_lost") == counted(world, "payloads_wrong") == 0
    assert not any(record.errors or record.restarts for record in records(world, tasks))
    forget(world, tasks)


def test_row_19_half_of_what_is_under_way_dies_with_a_peer() -> None:
    """Results of earlier steps lie with the peer that made them. It dies: their tasks start over, which is counted
    apart from errors of their own; and nobody waits for it.
    """
    world = large(3, executors=(0, 1, 1), exec_ms=400.0)
    tasks = submit(world, "long")
    until_kept(world, 1)
    world.crash(world.peer(1))
    world.run(120_000)
    assert ends(world, tasks) == [READY] * 8
    assert any(record.restarts for record in records(world, tasks))
    assert not any(record.errors for record in records(world, tasks))


def test_a_peer_that_leaves_with_what_it_has_made_costs_no_retry() -> None:
    world = large(3, executors=(0, 1, 1), exec_ms=400.0)
    tasks = submit(world, "long")
    until_kept(world, 1)
    leaver = world.peer(1)
    leaver.leave()
    world.run(120_000)
    assert leaver.has_left
    assert ends(world, tasks) == [READY] * 8
    assert not any(record.errors or record.restarts for record in records(world, tasks))


def test_what_is_evicted_costs_a_retry() -> None:
    world = large(2, executors=(0, 1), exec_ms=400.0)
    tasks = submit(world, "long", 6)
    until_kept(world, 2)  # one of them is at work
    world.peer(1).evict(1.0, Random(1))
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 6
    assert any(record.errors for record in records(world, tasks))
    forget(world, tasks)


def test_row_29_what_is_fetched_comes_with_wrong_bits() -> None:
    """Nobody computes with it: it is found by its checksum, and counts as lost there."""
    world = large(3, executors=(1, 1, 1), exec_ms=40.0, faults={"damage": 0.5})
    tasks = submit(world, "branches", 40)
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 40
    assert counted(world, "payloads_wrong")
    forget(world, tasks)


def test_a_maker_that_only_its_owner_reaches_stops_nobody() -> None:
    """The owner fetches for those that do not."""
    world = large(3, executors=(0, 1, 0), exec_ms=400.0)
    tasks = submit(world, "long", 4)
    until_kept(world, 1)
    world.peer(1).lose_executor(next(iter(world.peer(1).executors)), crashed=False)
    world.peer(1)._executors = 0
    for way in (("peer1", "peer2"), ("peer2", "peer1")):
        world.network.cut(*way)
    world.peer(2)._start_executor()
    world.run(60_000)
    assert ends(world, tasks) == [READY] * 4
    assert counted(world, "payloads_fetched")
    assert not any(record.errors or record.restarts for record in records(world, tasks))


def test_words_of_payloads_that_get_lost_cost_time_only() -> None:
    world = large(3, executors=(1, 1, 1), exec_ms=40.0, faults={"loss": 0.3})
    tasks = submit(world, "lists", 20)
    world.run(120_000)
    world.heal()
    world.run(10_000)
    assert ends(world, tasks) == [READY] * 20
    assert not any(record.errors for record in records(world, tasks))
    forget(world, tasks)


# ---- cached values


def forgets(world: World) -> None:
    """Others have taken the room of its values."""
    owners = world.peer(0).core._travel.owners
    assert owners is not None
    owners._cache.clear()


def dies(world: World) -> None:
    world.crash(world.peer(0))


def is_out_of_reach(world: World) -> None:
    """For whoever needs the values; the third peer hears both, so that nobody is held to be dead."""
    for other in ("peer1", "peer2"):
        if other != world.peer(owned_elsewhere(world)[1]).address:
            world.network.cut("peer0", other)
            world.network.cut(other, "peer0")


LOSSES: dict[str, tuple[Callable[[World], None], int]] = {
    "it has forgotten it": (forgets, 500),
    "it dies": (dies, 500),
    "it is out of reach": (is_out_of_reach, 20_000),
}
"""How a value is lost, and within how many milliseconds the tasks that need it have ended all the same."""


@pytest.mark.parametrize("how", LOSSES)
def test_a_cached_value_that_its_holder_has_lost_is_a_miss(how: str) -> None:
    """It is computed once more, for all that need it; that costs no retry, and its new holder is found from then on."""
    lose, within_ms = LOSSES[how]
    sections = {"store": {"inline_bytes": 0}}
    world = new_world(3, namespaces=("cached",), sections=sections, exec_ms=20.0)
    value, place = owned_elsewhere(world)
    world.submit("cached", value, at=0)
    world.run(3_000)
    lose(world)
    tasks = world.submit("cached", value, value, at=3 - place)
    world.run(within_ms)
    assert ends(world, tasks) == [READY] * 2
    assert claims(world) <= 2 * 6, "the steps of one task, before and after"
    assert counted(world, "cache_lost") <= 2, "a graph and another one in it, once each"
    found = [process.state.ledger.record(task) for process in world.alive() for task in tasks]
    assert not any(record.errors or record.restarts for record in found if record is not None)
    steps = claims(world)
    tasks = world.submit("cached", value, at=place)
    world.run(500)
    assert (ends(world, tasks), claims(world)) == ([READY], steps)
