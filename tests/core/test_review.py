"""Scratch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scatterzmq.core.events import BatchFinished, ClientLost, MessageReceived, TimerFired
from scatterzmq.core.messages import (
    Accepted, AskStats, Attach, Cancel, Clear, Final, LoadGraph, Refused, Stats, Submit, TaskStatus,
)
from scatterzmq.core.actions import FreeBlocks
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import ClientId, TaskId

MakeWorld = Callable[..., Any]


@pytest.mark.parametrize("how", ["clear", "cancel"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_leader_and_waiters_go_at_once(make_world: MakeWorld, build: Any, how: str, count: int) -> None:
    world = make_world()
    world.load(build.chain(1, cache=True))
    tasks = world.submit(*[1] * 4)
    getattr(world, how)(*tasks[:count])
    world.drain()
    assert world.results(tasks)[count:] == [2] * (4 - count)
    world.clear(*tasks)
    world.drain()
    assert world.core._state.cache.leaders() == {}


def test_leaders_that_start_over_never_wait_in_a_circle(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2, cache={"bytes": 0}, executor={"batch_size": 1})
    inner = [build.graph(name, "n:value", [build.node("n", "add", ":value", None, by=0)], cache=True) for name in "gh"]
    inner[1]["nodes"][0]["args"]["by"] = 1
    inner[0]["nodes"][0]["args"]["by"] = -1
    mains = []
    main = build.graph("main", "last:value", [
        build.node("fork", "branch", ":value", {"even": "e1", "odd": "o1"}),
        build.node("e1", "call", ":value", "e2", graph="g"),
        build.node("e2", "call", "e1:value", "last", graph="h"),
        build.node("o1", "call", ":value", "o2", graph="h"),
        build.node("o2", "call", "o1:value", "last", graph="g"),
        build.node("last", "add", ":value", None, by=0),
    ])
    world.load(main, *inner)
    even, odd = world.submit(2, 1)
    # even: g(2) -> 1, h(1) -> 2. odd: h(1) -> 2, g(2) -> 1
    places = {even: "main:h:n", odd: "main:g:n"}
    while at := [task for task in places if world.report(task).place != places[task]]:
        for executor in [e for e, order in world.running.items() if order.tasks[0] in at]:
            world.step(executor)
    world.evict()
    world.drain()
    assert [world.status(task) for task in (even, odd)] == ["ready", "ready"]


def test_a_task_that_lacks_an_input_may_come_to_wait_for_a_key(make_world: MakeWorld, build: Any) -> None:
    world = make_world(cache={"bytes": 0}, executor={"batch_size": 1}, tasks={"max_retries": 1})
    main = build.graph("main", "last:value", [
        build.node("first", "add", ":value", "fork", by=0, cache=True),
        build.node("fork", "branch", "first:value", {"even": "plus", "odd": "last"}),
        build.node("plus", "add", "fork:value", "last", by=100),
        build.node("last", "add", "plus:value", None, by=1),
    ])
    world.load(main)
    (one,) = world.submit(3)
    world.step()
    (two,) = world.submit(3)
    world.drain()
    assert world.outcome(one).status is TaskStatus.ERROR
    assert world.outcome(two).status is TaskStatus.ERROR


def test_cached_nothing_is_bounded(make_world: MakeWorld, build: Any) -> None:
    world = make_world(cache={"bytes": 8000})
    main = build.graph("main", ":value", [build.node("fork", "if", ":value", {"then": None, "else": None}, cache=True)])
    world.load(main)
    world.checking = False
    tasks = world.submit(*range(1000))
    world.drain()
    world.core.check_invariants()
    assert len(world.core._state.cache) < 100


def bad_submit(world, change, values=(1, 2)):
    block = world.put(values, kept=True)
    message = Submit(mid=world.mid(), ns="main", digest=world.plans["main"].digest, nonce=b"nonce...",
        ids=tuple(TaskId("T" + f"{at + 900:032x}") for at in range(len(values))),
        submit_digests=tuple(f"{v}".encode() for v in values))
    message, blocks = change(message, {"value": block})
    for one in world.stored.keys() - {b.id for b in blocks.values()}: world.perform(FreeBlocks(ids=(one,)))
    world.say(message, blocks=blocks)
    world.drain()


CHANGES = {
    "rows": lambda m, b: (replace(m, ids=(*m.ids, TaskId("T" + "7" * 32)), submit_digests=(*m.submit_digests, b"x")), b),
    "few ids": lambda m, b: (replace(m, ids=m.ids[:1], submit_digests=m.submit_digests[:1]), b),
    "digests": lambda m, b: (replace(m, submit_digests=m.submit_digests[:1]), b),
    "no field": lambda m, b: (m, {}),
    "field": lambda m, b: (m, {"other": b["value"]}),
    "more": lambda m, b: (m, {"value": b["value"], "other": b["value"]}),
    "shape": lambda m, b: (m, {"value": replace(b["value"], layout=Layout(DTYPES["int64"], 2, (3,)))}),
    "dtype": lambda m, b: (m, {"value": replace(b["value"], layout=Layout(DTYPES["float64"], 2, ()))}),
    "ragged": lambda m, b: (m, {"value": replace(b["value"], layout=Layout(DTYPES["int64"], 2, None, ((), (1,))))}),
    "content": lambda m, b: (replace(m, digests={"value": (b"1",)}), b),
    "none": lambda m, b: (replace(m, ids=(), submit_digests=()), {}),
}

@pytest.mark.parametrize("name", CHANGES)
def test_a_bad_submission_is_refused(make_world: MakeWorld, build: Any, name: str) -> None:
    world = make_world()
    world.load(build.chain(1, cache=True))
    if name == "more":
        return
    bad_submit(world, CHANGES[name])
    print(name, [s.message for s in world.sent if isinstance(s.message, (Refused, Final))])
    if name != "none":
        assert world.last(Refused).code is ErrorCode.REFUSED
    assert world.stored == {}


def test_a_lost_client_is_not_looked_for_in_every_record(make_world: MakeWorld, build: Any, monkeypatch) -> None:
    world = make_world()
    world.load(build.chain(1))
    world.submit(*range(10))
    world.checking = False
    monkeypatch.setattr(type(world.core._state.ledger), "__iter__", lambda self: pytest.fail("looked through all"))
    world.leave()
    monkeypatch.undo()
    world.drain()
    assert not world.outcomes


def test_counters_do_not_grow_with_every_definition(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    for length in range(1, 20):
        world.load(build.chain(length), replace=True)
        tasks = world.submit(1)
        world.drain()
        world.clear(*tasks)
    assert len(world.core._claims._loaded) < 20
    assert len(world.core._claims._claimants) < 20


def test_expired_results_are_told_in_one(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"result_ttl_s": 1.0})
    world.load(build.chain(1))
    world.submit(*range(10))
    world.drain()
    before = len([s for s in world.sent if isinstance(s.message, Final)])
    world.wait(2000)
    assert len([s for s in world.sent if isinstance(s.message, Final)]) == before + 1


def test_where_a_result_is_missing_after_a_call(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 0})
    main = build.graph("main", "plus:value", [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": "go"}),
        build.node("plus", "add", "fork:value", None, by=1),
        build.node("go", "call", ":value", None, graph="inner"),
    ])
    world.load(main, build.chain(1, name="inner"))
    (task,) = world.submit(1)
    world.drain()
    context = world.outcome(task).error.context
    assert (context.graph, context.node) == ("main:main", "go")


def test_a_promoted_waiter_leads_in_its_own_namespace(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    inner = build.chain(1, cache=True)
    world.load(inner, ns="one")
    world.load(inner, ns="two")
    (one,) = world.submit(1, ns="one")
    (two,) = world.submit(1, ns="two")
    world.clear(one)
    record = world.core._state.ledger.record(two)
    assert [lead.graph.id in record.plan.graphs for lead in record.leads.values()] == [True]
