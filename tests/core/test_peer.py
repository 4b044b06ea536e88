"""A task's whole life on one peer, as scripts."""

from typing import Any

from scatterzmq.core.messages import Final, TaskStatus


def test_a_chain_runs_to_its_end(make_world: Any, build: Any) -> None:
    world = make_world()
    world.load(build.chain(3))
    tasks = world.submit(10, 20, 30)
    world.drain()
    assert world.results(tasks) == [13, 23, 33]
    world.clear(*tasks)
    assert world.stored == {}


def test_one_batch_per_node_and_one_final(make_world: Any, build: Any) -> None:
    world = make_world()
    world.load(build.chain(3))
    world.submit(*range(20))
    assert world.drain() == 3
    assert len([send for send in world.sent if isinstance(send.message, Final)]) == 1


def test_status_follows_the_task(make_world: Any, build: Any) -> None:
    world = make_world(executor={"batch_size": 1})
    world.load(build.chain(1))
    first, second = world.submit(1, 2)
    assert (world.status(first), world.status(second)) == (TaskStatus.BUSY, TaskStatus.WAIT)
    world.drain()
    assert world.status(second) is TaskStatus.READY
