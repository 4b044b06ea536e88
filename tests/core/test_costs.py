"""What must not grow with what has been, nor cost more with what is there."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from scatterzmq.core.actions import RowsCancelled
from scatterzmq.core.ledger import Ledger
from scatterzmq.core.messages import Attach, Cancel, Final, TaskStatus
from scatterzmq.ids import ClientId
from tests.core.conftest import chain
from tests.core.mesh import Mesh

MakeWorld = Callable[..., Any]
BOB = ClientId("C" + "b" * 32)


def finals(world: Any) -> list[Any]:
    return [send for send in world.sent if isinstance(send.message, Final)]


def test_definitions_that_have_gone_leave_nothing_behind(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    for length in range(1, 10):
        world.load(build.chain(length), replace=True)
        world.submit(1)
        world.drain()
    core = world.core
    assert {digest for digest, _ in core._executors.loaded} == {world.plans["main"].digest}
    assert len(core._batches.claimants) == 0


def test_results_whose_time_is_over_go_in_one_message(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"result_ttl_s": 1.0})
    world.load(build.chain(1))
    tasks = world.submit(*range(10))
    world.drain()
    world.wait(2000)
    assert [send.message.ids for send in finals(world)] == [tasks, tasks]


def test_many_rows_of_a_batch_are_cancelled_in_one(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2, executor={"batch_size": 4})
    world.load(build.chain(1))
    tasks = world.submit(*range(8))
    actions = world.say(Cancel(mid=1, ids=tasks[1:6]))
    assert [action for action in actions if isinstance(action, RowsCancelled)] == [
        RowsCancelled(executor=executor, order=order, rows=rows)
        for executor, order, rows in zip(world.running, (1, 2), ((1, 2, 3), (0, 1)), strict=True)
    ]


def test_a_client_that_leaves_is_not_looked_for_in_every_record(
    make_world: MakeWorld, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    world.load(build.chain(1))
    tasks = world.submit(1, 2)
    world.say(Attach(ids=tasks), BOB)
    world.checking = False
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "__iter__", lambda self: pytest.fail("looks through all records"))
        world.leave()
        world.leave()
    world.drain()
    world.core.check_invariants()
    assert [world.outcome(task) for task in tasks] == [None, None]
    assert [world.outcome(task, BOB).status for task in tasks] == [TaskStatus.READY] * 2
    world.clear(*tasks, client=BOB)
    assert {send.to for send in finals(world)} == {BOB}
    assert world.core._desk.left == set(), "nobody is remembered for ever"


def test_the_next_result_to_expire_is_found_at_once(make_world: MakeWorld, build: Any) -> None:
    """Taking the first out again and again must not make the next one ever harder to find."""
    world = make_world()
    world.load(build.chain(1))
    world.checking = False
    tasks = world.submit(*range(20))
    world.drain()
    world.clear(*tasks[:19])
    # An ordered dictionary has links; a plain one looks through the gaps.
    assert type(world.core._desk._expiring).__name__ == "OrderedDict"
    assert world.core.deadline_ms() == 3_600_000


def steps_of(what: Callable[[], object]) -> int:
    """How many steps the interpreter takes in the core: a scan shows, however quick the machine is."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if "scatterzmq/core/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        what()
    finally:
        sys.settrace(before)
    return steps


def steps_with(waiting: int) -> dict[str, int]:
    """With so many tasks waiting at one of two peers: steps of all that brings more in, or takes some out."""
    mesh = Mesh(2, executors=0, executor={"batch_size": 8})
    owner, other = mesh.peers
    mesh.load(chain(3))
    owner.checking = other.checking = False
    for _ in range(waiting // 100):
        mesh.submit(0, *range(100))
        mesh.deliver()

    def submit() -> None:
        mesh.submit(0, *range(8))
        mesh.deliver()

    def claim_there() -> None:
        mesh.gossip()
        mesh.deliver()

    steps = {"submit": steps_of(submit), "claim here": steps_of(lambda: owner.start(1))}
    other.start(1)
    steps["claim there"] = steps_of(claim_there)
    assert [len(order.tasks) for peer in mesh.peers for order in peer.running.values()] == [8, 8]

    def finish() -> None:
        owner.step()
        other.step()
        mesh.deliver()

    steps["finish, and claim again"] = steps_of(finish)
    cancelled = next(reversed(owner.core._state.ledger._records))
    steps["cancel"] = steps_of(lambda: owner.cancel(cancelled))
    steps["clear"] = steps_of(lambda: owner.clear(cancelled))
    steps["deadline"] = steps_of(owner.core.deadline_ms)
    assert len(owner.core._state.ledger) >= waiting
    return steps


def test_nothing_costs_more_when_very_many_tasks_wait() -> None:
    """O(log n), and that in heaps, which are not written in Python."""
    few, many = steps_with(200), steps_with(4000)
    assert few["claim there"] > 1000, "steps are not counted"
    assert {what: many[what] for what in few if many[what] > 1.2 * few[what]} == {}, few


def test_tasks_with_the_same_story_share_its_texts(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=0)
    world.load(build.chain(1))
    first, second = [world.core._state.ledger.record(task) for task in world.submit(1, 2)]
    assert first.story == second.story == ("queue n0",)
    assert first.story[0] is second.story[0]
