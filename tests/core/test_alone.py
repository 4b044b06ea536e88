"""Nodes that are not thread-safe: one batch at a time, however many executors there are; and how large batches are."""

from collections.abc import Callable
from typing import Any

import pytest

from scatterzmq.core.messages import TaskStatus

MakeWorld = Callable[..., Any]


@pytest.fixture
def world(make_world: MakeWorld, build: Any) -> Any:
    """Three executors, and namespaces with the node: for one batch at a time (alone), for many (many)."""
    made = make_world(executors=3, executor={"batch_size": 1, "max_exec_s": 10.0})
    for ns, kind in (("alone", "alone"), ("many", "add")):
        made.load(build.graph("main", "n:value", [build.node("n", kind, ":value", None, by=1)]), ns=ns)
    return made


def running(world: Any) -> list[str]:
    return sorted(order.plan.ns for order in world.running.values())


def test_a_second_batch_waits_outside(world: Any) -> None:
    """Behind a lock it would use up its time, and be taken for one that hangs."""
    tasks = world.submit(1, 2, 3, ns="alone")
    assert running(world) == ["alone"]
    assert [world.status(task) for task in tasks] == [TaskStatus.BUSY, TaskStatus.WAIT, TaskStatus.WAIT]
    for _ in tasks:
        world.wait(6_000)
        world.step()
    assert world.results(tasks) == [2, 3, 4]
    assert [world.outcome(task).retries for task in tasks] == [0, 0, 0]


def test_the_others_do_something_else_meanwhile(world: Any) -> None:
    world.submit(1, 2, ns="alone")
    world.submit(1, 2, 3, ns="many")
    assert running(world) == ["alone", "many", "many"]
    world.step(next(executor for executor, order in world.running.items() if order.plan.ns == "many"))
    assert running(world) == ["alone", "many", "many"]
    world.drain()


def test_an_executor_finds_other_work_when_its_node_is_taken(world: Any, build: Any) -> None:
    """It worked for that node last, and would go on there."""
    nodes = [
        build.node("fork", "branch", ":value", {"even": "left", "odd": "right"}, batch_size=2),
        build.node("left", "add", "fork:value", "end", by=1),
        build.node("right", "add", "fork:value", "end", by=2),
        build.node("end", "add", ":value", None, by=0),
    ]
    world.load(build.graph("main", "end:value", nodes), ns="ways")
    world.submit(1, ns="alone")
    (last,) = world.running
    world.step()
    world.submit(*range(20), ns="alone")
    world.submit(1, 2, ns="ways")
    (taken, forking) = world.running
    assert last not in world.running
    world.step(forking)
    assert world.running[last].node.name in ("left", "right")
    assert running(world) == ["alone", "ways", "ways"]
    assert taken in world.running
    world.drain()


@pytest.mark.parametrize("how", ["lost", "hung"])
def test_the_next_batch_goes_on_when_the_executor_is_gone(world: Any, how: str) -> None:
    tasks = world.submit(1, 2, ns="alone")
    (executor,) = world.running
    if how == "lost":
        world.lose(executor)
    else:
        world.wait(10_000)
    (other,) = world.running
    assert other != executor
    world.drain()
    assert world.results(tasks) == [2, 3]


@pytest.mark.parametrize(("own", "rows"), [(None, [2, 2, 1]), (3, [3, 2])])
def test_a_batch_is_bounded_in_bytes_unless_its_node_says_how_many(
    make_world: MakeWorld, build: Any, own: int | None, rows: list[int]
) -> None:
    world = make_world(executors=1, executor={"batch_bytes": 20})  # a value has 8
    more = {} if own is None else {"batch_size": own}
    world.load(build.graph("main", "n:value", [build.node("n", "add", ":value", None, by=1, **more)]))
    tasks = world.submit(*range(5))
    seen = []
    while world.running:
        seen += [len(order.tasks) for order in world.running.values()]
        world.step()
    assert seen == rows
    assert world.results(tasks) == [1, 2, 3, 4, 5]
