"""What a peer accepts: submissions that add up and fit, as long as there is room for them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from scatterzmq.core import desk
from scatterzmq.core.messages import Accepted, Refused, TaskStatus
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import TaskId

MakeWorld = Callable[..., Any]
SOME = TaskId("T" + "9" * 32)
INT64 = DTYPES["int64"]


@pytest.fixture
def world(make_world: MakeWorld, build: Any) -> Any:
    """Whose graph takes whole numbers in two lists of any length, and gives the first one."""
    made = make_world()
    lists = {"value": ["long", [None]]}
    nodes = [build.node("n", "length", ":value", None)]
    made.load(build.graph("main", "n:value", nodes, input_format=lists, output_format=lists, cache=True))
    return made


def submit(world: Any, change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    """Two tasks whose message and blocks have been changed on the way."""
    say = world.say

    def changed(message: Any, client: Any, blocks: Any) -> None:
        world.say = say
        message, blocks = change(message, blocks)
        for block in world.stored.keys() - {block.id for block in blocks.values()}:
            del world.stored[block]
            world.kept.discard(block)
        say(message, client, blocks)

    world.say = changed
    world.submit(1, 2, lengths=[1, 1])


def relaid(blocks: Any, layout: Layout) -> Any:
    return {"value": replace(blocks["value"], layout=layout)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda message, blocks: (replace(message, ids=(*message.ids, SOME)), blocks),
            "a submission of 3 tasks has 2 submit_digests, 2 digests of 'value', 2 rows of 'value'",
        ),
        (
            lambda message, blocks: (replace(message, submit_digests=()), blocks),
            "a submission of 2 tasks has 0 submit_digests",
        ),
        (
            lambda message, blocks: (replace(message, digests={"value": (b"1",)}), blocks),
            "a submission of 2 tasks has 1 digests of 'value'",
        ),
        (lambda message, blocks: (message, {}), "namespace 'main': expected the fields ['value'], got []"),
        (
            lambda message, blocks: (message, {"other": blocks["value"]}),
            "namespace 'main': expected the fields ['value'], got ['other']",
        ),
        (
            lambda message, blocks: (message, relaid(blocks, Layout(INT64, 2, ()))),
            "namespace 'main': field 'value': expected long[null], got int64[]",
        ),
        (
            lambda message, blocks: (message, relaid(blocks, Layout(INT64, 2, None, ((1,), (1, 1))))),
            "namespace 'main': field 'value': expected long[null], got int64[1, 1]",
        ),
        (
            lambda message, blocks: (message, relaid(blocks, Layout(DTYPES["float64"], 2, (1,)))),
            "namespace 'main': field 'value': expected long[null], got float64[1]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_as_a_whole(world: Any, change: Any, message: str) -> None:
    """Clients see to it that it never happens; but the next one may not be ours."""
    submit(world, change)
    refused = world.last(Refused)
    assert (refused.code, refused.message) == (ErrorCode.REFUSED, message)
    assert not [send for send in world.sent if isinstance(send.message, Accepted)]
    assert world.stored == {}
    good = world.submit(1, 2, lengths=[1, 2])
    world.drain()
    assert world.results(good) == [1, 2]


def test_nothing_submitted_nothing_said(world: Any) -> None:
    before = len(world.sent)
    submit(world, lambda message, blocks: (replace(message, ids=(), submit_digests=(), digests={}), {}))
    assert len(world.sent) == before


def test_a_task_that_is_here_needs_no_room(make_world: MakeWorld, build: Any) -> None:
    world = make_world(store={"record_bytes": 16})
    world.load(build.chain(1))
    tasks = world.submit(1, 2)
    world.submit(2, 1, ids=tasks[::-1])
    assert world.last(Accepted).ids == tasks[::-1]
    world.submit(3, 1, ids=(SOME, tasks[0]))
    assert world.last(Accepted).ids == tasks[::-1], "in order: nobody overtakes"
    world.wait(20_000)
    assert world.last(Refused).ids == (SOME,)
    assert world.last(Accepted).ids == tasks[:1]


def test_tasks_are_bounded_however_small(make_world: MakeWorld, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record takes more memory than the number in it."""
    monkeypatch.setattr(desk, "RECORDS_MIN", 3)
    world = make_world(store={"record_bytes": 1000})
    world.load(build.chain(1))
    tasks = world.submit(1, 2, 3, 4, 5)
    assert world.last(Accepted).ids == tasks[:3]
    world.drain()
    world.clear(*tasks[:1])
    assert world.last(Accepted).ids == tasks[3:4]
    world.wait(20_000)
    refused = world.last(Refused)
    assert refused.ids == tasks[4:]
    assert "inputs and results of 3 tasks, each with some memory of its own" in refused.message
    assert world.status(tasks[3]) is TaskStatus.BUSY


def test_a_submission_that_waits_may_be_repeated(make_world: MakeWorld, build: Any) -> None:
    """Clients repeat it until they hear something: its inputs are kept once, and its turn is the first one's."""
    world = make_world(store={"record_bytes": 16})
    world.load(build.chain(1))
    first = world.submit(1, 2)
    waiting = world.submit(3, 4)
    stored = len(world.stored)
    for _ in range(3):
        world.submit(3, 4, ids=waiting)
    assert len(world.stored) == stored
    world.core.check_invariants()
    world.drain()
    world.clear(*first)
    accepted = [send.message.ids for send in world.sent if isinstance(send.message, Accepted)]
    assert accepted == [first, waiting]
    world.drain()
    assert world.results(waiting) == [4, 5]
