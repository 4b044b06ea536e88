"""What a core tells listeners of its tasks, and of its queues whoever asks."""

from collections.abc import Callable
from typing import Any

MakeWorld = Callable[..., Any]


def told(world: Any, name: str) -> list[dict[str, Any]]:
    return [dict(report.context) for report in world.reports if report.name == name]


def test_every_change_of_a_task_is_told_if_that_is_wanted(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tells=("debug.task",))
    world.load(build.chain(2))
    (task,) = world.submit(5)
    world.drain()
    assert [(change["phase"], change["cause"]) for change in told(world, "debug.task")] == [
        *[("wait", "queue"), ("busy", "claim")] * 2,
        ("ready", "finish"),
    ]
    first, *_, last = told(world, "debug.task")
    assert first == {"task": task, "phase": "wait", "cause": "queue", "node": "main:main:n0", "detail": "n0"}
    assert last == {"task": task, "phase": "ready", "cause": "finish", "node": ""}


def test_else_nothing_is_told_of_it(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(2))
    world.submit(5)
    world.drain()
    assert not [report for report in world.reports if ".task" in report.name]


def test_an_error_says_where_it_was(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 1})
    world.load(build.graph("main", "n:value", [build.node("n", "fail", ":value", None, wrong=[5])]))
    (task,) = world.submit(5)
    (executor,) = world.running
    world.drain()
    (retry,), (final,) = told(world, "error.task.retry"), told(world, "error.task.final")
    assert retry == final
    assert (final["task"], final["node"], final["executor"]) == (task, "main:main:n", executor)


def test_an_executor_that_dies_says_of_what(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    world.submit(5)
    (executor,) = world.running
    world.lose(executor, crashed=True)
    (error,) = told(world, "error.executor")
    assert error == {"executor": executor, "message": "killed", "node": "main:main:n0"}


def test_a_cleared_task_says_where_it_was(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    (task,) = world.submit(5)
    world.clear(task)
    assert told(world, "error.task.ghost") == [{"task": task, "node": "main:main:n0"}]


def test_the_numbers_of_its_queues(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executor={"batch_size": 1})
    world.load(build.chain(2))
    world.submit(1, 2, 3)
    assert {queue.name: queue.queue_length for queue in world.core.queues()} == {"main:main:n0": 2, "main:main:n1": 0}
