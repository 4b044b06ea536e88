"""Tasks that rest before they are tried again."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from scatterzmq.core.backoff import FIRST_MS, LACKING_MS, LONGEST_MS, Resting, span_ms
from scatterzmq.core.ledger import Phase
from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.payloadmessages import Fetched
from scatterzmq.ids import TaskId
from tests.core.conftest import World, chain
from tests.core.mesh import Mesh
from tests.core.test_payloads import Trio
from tests.core.test_replicas import holder

MakeWorld = Callable[..., Any]
MANY = 100


def phases(world: World) -> list[Phase]:
    return [record.phase for record in world.core.state.ledger]


def resting(world: World) -> int:
    return phases(world).count(Phase.REST)


def evicted(make_world: MakeWorld, tasks: int = MANY, **sections: Any) -> tuple[Any, tuple[TaskId, ...]]:
    """Tasks whose first result has been evicted, as their executor has just found out."""
    world = make_world(executor={"batch_size": tasks}, **sections)
    world.load(chain(2))
    submitted = world.submit(*range(tasks))
    world.step()
    world.evict()
    world.step()
    return world, submitted


def test_spans_double_up_to_half_a_minute() -> None:
    spans = [span_ms(restarts) for restarts in range(1, 101)]
    assert spans[:4] == [100, 200, 400, 800]
    assert spans[8:11] == [25_600, LONGEST_MS, LONGEST_MS]
    assert spans[-1] == LONGEST_MS == 30_000


def test_what_was_evicted_is_tried_again_within_a_tenth_of_a_second(make_world: MakeWorld) -> None:
    """Not all in one instant: they would meet a store that is full again."""
    world, tasks = evicted(make_world)
    left = []
    for _ in range(10):
        left.append(resting(world))
        world.wait(LACKING_MS // 10)
    assert left[0] == MANY
    assert all(0 < before - after < MANY // 4 for before, after in pairwise(left))
    assert resting(world) == 0
    world.drain()
    assert world.results(tasks) == [value + 2 for value in range(MANY)]


def test_evictions_do_not_make_a_task_wait_longer_each_time(make_world: MakeWorld) -> None:
    world, (task,) = evicted(make_world, tasks=1)
    for retries in range(1, 10):
        assert world.report(task).retries == retries
        world.wait(LACKING_MS)
        world.step()
        world.evict()
        world.step()
    assert world.report(task).retries == 10


def test_users_are_told_that_it_waits_and_why(make_world: MakeWorld) -> None:
    world, (task,) = evicted(make_world, tasks=1)
    report = world.report(task)
    assert (report.status, report.place) == (TaskStatus.WAIT, "")
    assert report.story[-2:] == ("+0 ms restart memory_purge", "+0 ms rest for up to 100 ms")
    assert world.core.state.ledger.counts() == {TaskStatus.WAIT: 1}
    assert not world.core.state.plans.waiting, "nobody can claim it"


@pytest.mark.parametrize("how", ["clear", "cancel"])
def test_a_task_that_rests_may_be_stopped(make_world: MakeWorld, how: str) -> None:
    world, tasks = evicted(make_world, tasks=3)
    getattr(world, how)(tasks[0], tasks[2])
    assert resting(world) == 1
    world.drain()
    assert world.results(tasks) == [None, 3, None]
    assert world.core._travel.resting.deadline_ms() is None


def test_a_lost_executor_is_nothing_to_wait_for_until_it_happens_again(make_world: MakeWorld) -> None:
    """The first time a batch goes back as it was. Later it takes ever longer, in the same place."""
    world = make_world(executors=20, tasks={"poison_limit": 100})
    world.load(chain(2))
    (task,) = world.submit(1)
    world.step()
    for restarts in range(1, 12):
        world.lose(next(iter(world.running)))
        begun_ms = world.now_ms
        if restarts == 1:
            assert world.status(task) is TaskStatus.BUSY
            continue
        assert world.report(task).place == "main:main:n1"
        world.rest()
        assert begun_ms < world.now_ms <= begun_ms + span_ms(restarts - 1)
    assert world.now_ms > 1_000
    world.drain()
    assert world.results([task]) == [3]
    assert world.ran == [("n0", 1), ("n1", 2)]


def test_the_tasks_of_a_dead_owner_start_over_at_their_own_pace() -> None:
    mesh = Mesh(2, static=False, executors=0)
    mesh.load(chain(1))
    mesh.submit(0, *range(MANY))
    mesh.deliver()
    heir = mesh.peers[holder(mesh)]
    mesh.kill(0)
    assert phases(heir) == [Phase.REST] * MANY
    mesh.wait(FIRST_MS // 2)
    assert 0 < resting(heir) < MANY
    mesh.wait(FIRST_MS // 2)
    assert resting(heir) == 0


def test_tasks_whose_tensors_are_gone_with_a_peer_do_not_start_over_in_one_instant() -> None:
    trio = Trio(*range(30), executor={"batch_size": 99})
    trio.mesh.drop(Fetched)
    trio.start(0)
    trio.mesh.kill(1)
    trio.mesh.step(0)
    assert resting(trio.owner) == 30
    trio.mesh.wait(FIRST_MS // 2)
    assert 0 < resting(trio.owner) < 30
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [value + 3 for value in range(30)]


def test_tasks_whose_tensors_have_left_do_not_start_over_in_one_instant() -> None:
    trio = Trio(*range(30), executor={"batch_size": 99})
    trio.mesh.leave(1)
    trio.mesh.deliver()
    trio.maker.dead = True
    trio.start(2)
    assert resting(trio.owner) == 30
    trio.mesh.wait(FIRST_MS // 2)
    assert 0 < resting(trio.owner) < 30
    assert not any(record.restarts for record in trio.owner.core.state.ledger), "nobody has failed them"


def test_who_leaves_hands_over_what_rests() -> None:
    mesh = Mesh(2, static=False, executors=[1, 0])
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1, 2)
    mesh.deliver()
    owner, heir = mesh.peers
    owner.step()
    owner.evict()
    owner.step()
    assert resting(owner) == 2
    mesh.leave(0)
    mesh.deliver()
    assert owner.has_left
    assert phases(heir) == [Phase.WAIT] * 2, "it does not know of any reason to wait"
    assert {record.id for record in heir.core.state.ledger} == set(tasks)


def test_the_same_task_rests_for_another_time_each_time(make_world: MakeWorld) -> None:
    world = make_world(executors=0)
    world.load(chain(1))
    (task,) = world.submit(1)
    record = world.core.state.ledger.record(task)
    due = []
    for retries in range(20):
        record.errors = retries
        place = Resting()
        place.add(record, 1_000, LACKING_MS)
        due.append(place.deadline_ms())
        assert place.take_due(1_000) == []
        assert place.take_due(1_000 + LACKING_MS) == [record]
    assert len(set(due)) > 10
