"""A task's whole life on one peer, as scripts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest

from scatterzmq.core import writes
from scatterzmq.core.events import BatchExpected, BatchFinished, Event, MessageReceived, RowsFailed, TimerFired
from scatterzmq.core.messages import (
    Accepted,
    AskDefinition,
    AskNamespaces,
    AskStats,
    Attach,
    Cancelled,
    Clear,
    Cleared,
    Definition,
    Final,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    Namespaces,
    Refused,
    ResultRead,
    Stats,
    TaskStatus,
)
from scatterzmq.errors import ErrorCode
from scatterzmq.ids import ClientId, ExecutorId, TaskId

BOB = ClientId("C" + "b" * 32)
SOME = TaskId("T" + "9" * 32)

MakeWorld = Callable[..., Any]


def test_every_event_has_somebody_who_takes_it(make_world: MakeWorld) -> None:
    assert make_world().core._takes.keys() == set(get_args(Event))


# ---- the way through a graph


def test_a_chain_runs_to_its_end_and_leaves_nothing(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(3))
    tasks = world.submit(10, 20, 30)
    world.drain()
    assert world.results(tasks) == [13, 23, 33]
    world.clear(*tasks)
    assert world.stored == {}


def test_a_batch_per_node_and_one_final_for_all(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(3))
    world.submit(*range(20))
    assert world.drain() == 3
    assert len([send for send in world.sent if isinstance(send.message, Final)]) == 1


@pytest.mark.parametrize("again", [False, True])
def test_results_that_are_too_much_for_one_message_are_told_in_several(
    make_world: MakeWorld, build: Any, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    world = make_world()
    world.load(build.chain(1))
    tasks = world.submit(*range(20))
    monkeypatch.setattr(writes, "WRITE_NBYTES_MAX", 8 * 5)
    world.drain()
    assert world.results(tasks) == list(range(1, 21))
    if again:
        world.sent.clear()
        world.say(Attach(ids=tuple(tasks)), client=BOB)
    finals = [send.message for send in world.sent if isinstance(send.message, Final)]
    assert [len(final.ids) for final in finals] == [5, 5, 5, 5]


def test_intermediate_values_go_as_soon_as_nobody_needs_them(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(3))
    world.submit(1)
    world.step()
    world.step()
    # The input (for a restart) and the value that the last node waits for.
    assert len(world.stored) == 2


def test_a_value_stays_while_a_later_node_reads_it(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [
        build.node("a", "add", ":value", "b", by=1),
        build.node("b", "add", "a:value", "c", by=10),
        build.node("c", "sum", {"left": "a:value", "right": "b:value"}, None),
    ]
    world.load(build.graph("main", "c:value", nodes))
    tasks = world.submit(0, 5)
    world.drain()
    assert world.results(tasks) == [1 + 11, 6 + 16]


def test_a_branch_splits_the_batch(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": None}),
        build.node("plus", "add", "fork:value", None, by=100),
    ]
    world.load(build.graph("main", "fork:value", nodes))
    tasks = world.submit(1, 2, 3, 4)
    world.drain()
    assert world.results(tasks) == [1, 2, 3, 4]
    assert sorted(value for name, value in world.ran if name == "plus") == [2, 4]


def test_a_call_comes_back_to_its_node(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    main = build.graph(
        "main",
        "last:value",
        [
            build.node("go", "call", ":value", "last", graph="inner"),
            build.node("last", "add", "go:value", None, by=1),
        ],
    )
    world.load(main, build.chain(2, name="inner"))
    tasks = world.submit(5)
    world.drain()
    assert world.results(tasks) == [8]


def test_a_deep_recursion_returns_through_all_its_frames(make_world: MakeWorld, build: Any) -> None:
    """Three thousand frames close in one event: neither steps nor frames may use Python's stack."""
    world = make_world()
    down = build.graph(
        "main", "down:value", [build.node("down", "down", ":value", {"back": None, "out": None}, graph="main")]
    )
    world.load(down)
    world.checking = False
    tasks = world.submit(3000)
    world.drain()
    world.core.check_invariants()
    assert world.results(tasks) == [0]
    assert len(world.ran) == 3001


def test_a_block_runs_in_one_go(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    main = build.graph("main", "go:value", [build.node("go", "call", ":value", None, graph="inner")])
    world.load(main, build.chain(4, name="inner", is_block=True))
    tasks = world.submit(1, 2)
    assert world.drain() == 2
    assert world.results(tasks) == [5, 6]


def test_a_result_that_does_not_fit_its_format_is_an_error(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 0})
    plan = world.load(build.chain(1))
    (task,) = world.submit(1)

    def wide(order: Any) -> Any:
        done = world.execute(executor, order)
        block, _ = done.emitted[0].fields["value"][0]
        wider = replace(block, layout=replace(block.layout, shape=(2,)))
        world.stored[wider.id] = world.stored[block.id]
        return replace(done, emitted=(replace(done.emitted[0], fields={"value": ((wider, 0),)}),))

    executor = next(iter(world.running))
    world.step(act=wide)
    outcome = world.outcome(task)
    assert outcome.status is TaskStatus.ERROR
    assert "expected long[], got int64[2]" in outcome.error.message
    assert plan.ns in outcome.error.context.graph


def test_a_node_whose_input_was_not_made_on_the_way_fails_the_task(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 1})
    nodes = [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": "last"}),
        build.node("plus", "add", "fork:value", "last", by=100),
        build.node("last", "add", "plus:value", None, by=1),
    ]
    world.load(build.graph("main", "last:value", nodes))
    even, odd = world.submit(2, 3)
    world.drain()
    assert world.outcome(even).value == 103
    assert world.outcome(odd).error.code is ErrorCode.GENERAL_EXCEPTION
    assert "main:main:last needs plus:value" in world.outcome(odd).error.message
    assert world.outcome(odd).retries == 1


def test_a_graph_that_ends_without_an_output_fails_the_task(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 0})
    nodes = [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": None}),
        build.node("plus", "add", "fork:value", None, by=100),
    ]
    world.load(build.graph("main", "plus:value", nodes))
    even, odd = world.submit(2, 3)
    world.drain()
    assert world.outcome(even).value == 102
    assert "ended without 'value' (from 'plus:value')" in world.outcome(odd).error.message


def test_a_node_without_fields_only_shows_the_way(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [
        build.node("fork", "if", ":value", {"then": "plus", "else": "less"}),
        build.node("plus", "add", ":value", "end", by=1),
        build.node("less", "add", ":value", "end", by=-1),
        build.node("end", "add", ":value", None, by=0),
    ]
    world.load(build.graph("main", "end:value", nodes))
    tasks = world.submit(3, -3)
    world.drain()
    assert world.results(tasks) == [3, -3]
    assert sorted(name for name, _ in world.ran) == ["end", "end", "fork", "fork", "less", "plus"]
    world.clear(*tasks)
    assert world.stored == {}


def test_a_node_visited_again_replaces_its_value(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [
        build.node("plus", "add", ":value", "fork", by=1),
        build.node("fork", "branch", "plus:value", {"even": None, "odd": "plus"}),
    ]
    world.load(build.graph("main", "fork:value", nodes))
    (task,) = world.submit(1)
    world.drain()
    assert world.outcome(task).value == 2


def test_a_value_that_is_still_needed_may_be_replaced(make_world: MakeWorld, build: Any) -> None:
    """The node makes a value twice and then only points the way, so its last value must survive the third visit."""
    world = make_world()
    nodes = [
        build.node("some", "maybe", ":value", {"made": "fork", "none": None}),
        build.node("fork", "branch", "some:value", {"even": "some", "odd": "some"}),
    ]
    world.load(build.graph("main", "some:value", nodes))
    (task,) = world.submit(10)
    world.drain()
    assert world.outcome(task).value == 11
    world.clear(task)
    assert world.stored == {}


def test_a_failing_restart_while_it_waits_in_a_queue_keeps_others(make_world: MakeWorld, build: Any) -> None:
    """All tasks of a claim lack an input: nothing is lent, and the executor takes the next queue."""
    world = make_world(tasks={"max_retries": 0}, executor={"batch_size": 2})
    nodes = [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": "last"}),
        build.node("plus", "add", "fork:value", "last", by=100),
        build.node("last", "add", "plus:value", None, by=1),
    ]
    world.load(build.graph("main", "last:value", nodes))
    tasks = world.submit(1, 3, 2, 4)
    world.drain()
    assert world.results(tasks) == [None, None, 103, 105]


def test_a_value_that_was_not_made_on_this_way_needs_no_dropping(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [
        build.node("a", "branch", ":value", {"even": "x", "odd": "b"}),
        build.node("x", "add", "a:value", "b", by=1),
        build.node("b", "if", ":value", {"then": "c", "else": "d"}),
        build.node("c", "add", "x:value", "d", by=1),
        build.node("d", "add", ":value", None, by=5),
    ]
    world.load(build.graph("main", "d:value", nodes))
    tasks = world.submit(2, -3, -4)
    world.drain()
    assert world.results(tasks) == [7, 2, 1]
    world.clear(*tasks)
    assert world.stored == {}


LENGTHS = {"value": ["long", [None]]}


def test_batches_of_similar_length(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=0)
    node = build.node("n", "length", ":value", None, batch_tokens=8)
    world.load(build.graph("main", "n:value", [node], input_format=LENGTHS, output_format=LENGTHS))
    tasks = world.submit(*range(6), lengths=[4, 1, 4, 1, 1, 9])
    world.start(1)
    batches = []
    while world.running:
        batches.append(sorted(tasks.index(task) for task in world.step().tasks))
    assert sorted(batches) == [[0, 2], [1, 3, 4], [5]]
    assert world.results(tasks) == list(range(6))


def test_a_missing_input_has_no_length(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 0})
    nodes = [
        build.node("fork", "if", ":other", {"then": "more", "else": "last"}),
        build.node("more", "length", ":value", "last"),
        build.node("last", "length", "more:value", None, batch_tokens=8),
    ]
    nodes[0]["vmap"] = {"value": ":number"}
    formats = LENGTHS | {"number": ["long", []]}
    world.load(build.graph("main", "last:value", nodes, input_format=formats, output_format=LENGTHS))
    tasks = world.submit(0, 1, lengths=[1, 1], number=True)
    world.drain()
    assert world.results(tasks) == [None, 1]


# ---- failures


def test_one_bad_task_leaves_its_neighbours_alone(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.graph("main", "f:value", [build.node("f", "fail", ":value", None, wrong=[2])]))
    tasks = world.submit(1, 2, 3)
    world.drain()
    assert world.results(tasks) == [1, None, 3]
    bad = world.outcome(tasks[1])
    assert (bad.status, bad.retries, bad.error.code) == (TaskStatus.ERROR, 10, ErrorCode.GENERAL_EXCEPTION)
    assert [world.outcome(task).retries for task in tasks] == [0, 10, 0]
    assert world.ran.count(("f", 2)) == 11


def test_a_graph_may_limit_its_retries(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [build.node("f", "fail", ":value", None, wrong=[2])]
    world.load(build.graph("main", "f:value", nodes, max_retries=2))
    (task,) = world.submit(2)
    world.drain()
    assert world.outcome(task).retries == 2


def test_a_final_failure_is_not_tried_again(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    (task,) = world.submit(2)

    def rejects(order: Any) -> Any:
        failed = RowsFailed(
            rows=(0,), code=ErrorCode.GENERAL_EXCEPTION, message="no", traceback="tb", final=True, node="x"
        )
        return BatchFinished(executor=executor, order=order.order, emitted=(), failed=(failed,))

    executor = next(iter(world.running))
    world.step(act=rejects)
    outcome = world.outcome(task)
    assert (outcome.status, outcome.retries) == (TaskStatus.ERROR, 0)
    assert (outcome.error.traceback, outcome.error.context.node) == ("tb", "x")
    assert outcome.error.context.executor == executor
    assert outcome.error.context.task == task


def test_a_task_that_succeeds_later_shows_its_last_error(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(2))
    (task,) = world.submit(1)
    world.step()
    world.evict()
    world.drain()
    outcome = world.outcome(task)
    assert (outcome.status, outcome.value, outcome.retries) == (TaskStatus.READY, 3, 1)
    assert outcome.error.code is ErrorCode.MEMORY_PURGE


def test_a_store_that_keeps_nothing_ends_in_memory_purge(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(2))
    tasks = world.submit(*range(5))
    while world.running or world.rest():
        world.step()
        world.evict()
    assert {world.outcome(task).error.code for task in tasks} == {ErrorCode.MEMORY_PURGE}
    assert {world.outcome(task).retries for task in tasks} == {10}


def test_a_result_that_was_evicted_on_the_way_is_no_result(make_world: MakeWorld, build: Any) -> None:
    """The first node makes the graph's output; by the time the second one is through, it has been evicted."""
    world = make_world()
    nodes = [build.node("a", "add", ":value", "b", by=1), build.node("b", "if", ":value", {"then": None, "else": None})]
    world.load(build.graph("main", "a:value", nodes))
    (task,) = world.submit(5)
    world.step()
    world.evict()
    world.drain()
    outcome = world.outcome(task)
    assert (outcome.value, outcome.retries, outcome.error.code) == (6, 1, ErrorCode.MEMORY_PURGE)


def test_a_row_without_an_answer_is_an_error_of_that_task(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 0})
    world.load(build.chain(1))
    tasks = world.submit(1, 2)

    def forgets(order: Any) -> Any:
        done = world.execute(executor, order)
        first = done.emitted[0]
        return replace(done, emitted=(replace(first, rows=(0,), fields={"value": first.fields["value"][:1]}),))

    executor = next(iter(world.running))
    world.step(act=forgets)
    assert world.results(tasks) == [2, None]
    assert world.outcome(tasks[1]).error.code is ErrorCode.UNKNOWN


# ---- executors


def test_several_executors_share_the_work(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=3, executor={"batch_size": 4})
    world.load(build.chain(1))
    tasks = world.submit(*range(20))
    assert len(world.running) == 3
    world.drain()
    assert world.results(tasks) == [value + 1 for value in range(20)]


def test_a_lost_executor_costs_one_restart_of_that_step(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2)
    world.load(build.chain(2))
    (task,) = world.submit(1)
    world.step()
    world.lose(next(iter(world.running)))
    world.drain()
    assert world.outcome(task).value == 3
    assert world.outcome(task).retries == 1
    assert world.ran.count(("n0", 1)) == 1, "the finished step is not repeated"


def test_an_executor_that_leaves_in_peace_costs_nothing(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2)
    world.load(build.chain(1))
    (task,) = world.submit(1)
    world.lose(next(iter(world.running)), crashed=False)
    world.drain()
    assert (world.outcome(task).value, world.outcome(task).retries) == (2, 0)


def test_an_executor_that_is_lost_with_a_ghost(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2)
    world.load(build.chain(1))
    ghost, task = world.submit(1, 2)
    world.clear(ghost)
    world.lose(next(iter(world.running)))
    world.drain()
    assert world.outcome(task).value == 3


def test_an_idle_executor_may_be_lost_and_an_unknown_one_too(make_world: MakeWorld) -> None:
    world = make_world(executors=2)
    for executor in ("E" + f"{1:032x}", "E" + "f" * 32):
        world.lose(ExecutorId(executor))


@pytest.mark.parametrize("crashed", [True, False])
def test_the_end_of_an_executor_is_told(make_world: MakeWorld, *, crashed: bool) -> None:
    world = make_world()
    (executor,) = [report.context["executor"] for report in world.reports if report.name == "tally.executor.start"]
    world.reports.clear()
    world.lose(ExecutorId(str(executor)), crashed=crashed)
    assert [(report.name, dict(report.context)) for report in world.reports] == [
        ("tally.executor.stop", {"executor": executor, "reason": "killed"}),
        *[("error.executor", {"executor": executor, "message": "killed"})][: int(crashed)],
    ]


def test_a_task_that_kills_its_executors_is_poison(make_world: MakeWorld, build: Any) -> None:
    """Its neighbours were lent with it once; from then on it runs alone."""
    world = make_world(executors=5)
    world.load(build.chain(1))
    tasks = world.submit(1, 2, 3)
    deaths = 0
    while world.running or world.rest():
        executor = next(iter(world.running))
        order = world.running[executor]
        if tasks[1] in order.tasks:
            assert order.solo == (deaths > 0)
            assert len(order.tasks) == 1 or deaths == 0
            world.lose(executor)
            deaths += 1
        else:
            world.step(executor)
    assert deaths == 4
    assert world.results(tasks) == [2, None, 4]
    assert world.outcome(tasks[1]).error.code is ErrorCode.POISON
    assert [world.outcome(task).retries for task in tasks] == [1, 3, 1]


def test_a_step_that_succeeds_clears_the_suspicion(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=9)
    world.load(build.chain(3))
    (task,) = world.submit(1)
    for _ in range(2):
        world.lose(next(iter(world.running)))
        world.rest()
    world.step()
    for _ in range(3):
        assert not next(iter(world.running.values())).solo or _ > 0
        world.lose(next(iter(world.running)))
        world.rest()
    world.drain()
    assert world.outcome(task).value == 4


def test_a_hung_executor_is_given_up(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2, executor={"max_exec_s": 5.0})
    world.load(build.chain(1))
    (task,) = world.submit(1)
    hung, order = next(iter(world.running.items()))
    assert world.core.deadline_ms() == 5000
    world.wait(4999)
    assert not world.abandoned
    world.wait(1)
    assert world.abandoned == [hung]
    told = [report for report in world.reports if ".executor." in f"{report.name}."][-2:]
    assert [report.name for report in told] == ["tally.executor.reclaim", "error.executor"]
    assert {(report.context["executor"], report.context["node"]) for report in told} == {(hung, "main:main:n0")}
    world.drain()
    assert (world.outcome(task).value, world.outcome(task).retries) == (2, 1)
    world.tell(world.execute(hung, order))
    world.say(AskStats(mid=1))
    assert world.last(Stats).counters["fenced"] == 1


def test_a_node_may_set_its_own_time(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.graph("main", "a:value", [build.node("a", "add", ":value", None, max_exec_s=2.0)]))
    world.submit(1)
    assert world.core.deadline_ms() == 2000


def test_a_timer_that_fires_early_changes_nothing(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    world.submit(1)
    assert world.tell(TimerFired()) == ()


def test_a_hundred_restarts_that_nobody_is_to_blame_for_are_enough(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=200)
    down = build.node("down", "down", ":value", {"back": None, "out": None}, graph="main")
    world.load(build.graph("main", "down:value", [down]))
    (task,) = world.submit(150)
    for _ in range(100):
        world.lose(next(iter(world.running)))
        world.rest()
        world.step()
    world.lose(next(iter(world.running)))
    assert world.outcome(task).error.code is ErrorCode.DEFUNCT_EXECUTOR
    assert world.outcome(task).retries == 100


# ---- which node, which task


def test_tasks_that_have_come_far_go_first(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executor={"batch_size": 1})
    nodes = [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": "last"}),
        build.node("plus", "add", "fork:value", "last", by=1),
        build.node("last", "add", "fork:value", None, by=1),
    ]
    world.load(build.graph("main", "last:value", nodes))
    world.submit(1, 2, 3)
    world.drain()
    at_last = [value for name, value in world.ran if name == "last"]
    assert sorted(at_last) == [1, 2, 3]


def test_a_strategy_that_raises_is_reported_and_replaced(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executor={"batch_size": 1})

    class Broken:
        def prefer(self, left: object, right: object) -> bool:
            raise RuntimeError("no idea")

        want_to_switch = prefer

        def priority(self, weight: float, retries: int) -> float:
            raise RuntimeError("no idea either")

    world.core._executors._strategy = Broken()
    world.core._travel._strategy = Broken()
    world.load(build.chain(3))
    tasks = world.submit(1, 2)
    world.drain()
    assert world.results(tasks) == [4, 5]
    names = [report.name for report in world.reports if report.name.startswith("warning")]
    assert sorted(names) == ["warning.strategy.node", "warning.strategy.queue"]


def test_numbers_of_queues_and_executors(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executor={"batch_size": 2})
    world.load(build.chain(2))
    world.submit(1, 2, 3)
    world.say(AskStats(mid=7))
    stats = world.last(Stats)
    first, second = stats.queues
    assert (first.name, first.queue_length, first.claimants, first.pressure) == ("main:main:n0", 1, 1, 8.0)
    assert (second.name, second.queue_length, second.expected_pressure) == ("main:main:n1", 0, (2 + 2) * 16.0)
    assert stats.tasks == {"wait": 1, "busy": 2}
    assert stats.executors[0].place == "main:main:n0"
    assert stats.record_bytes == 24
    world.step()
    world.say(AskStats(mid=8))
    assert world.last(Stats).executors[0].loaded == ("main:main:n0",)
    assert world.last(Stats).queues[0].listeners == 1
    world.drain()
    world.say(AskStats(mid=9))
    assert all(queue.expected_pressure == 0 and queue.claimants == 0 for queue in world.last(Stats).queues)


def test_a_node_may_say_itself_what_will_come_of_its_batch(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2)
    nodes = [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": "less"}),
        build.node("plus", "add", "fork:value", None, by=1),
        build.node("less", "add", "fork:value", None, by=-1),
    ]
    world.load(build.graph("main", "fork:value", nodes))
    world.submit(1, 2, 3)
    executor, order = next(iter(world.running.items()))

    def pressures() -> list[float]:
        world.say(AskStats(mid=1))
        return [queue.expected_pressure for queue in world.last(Stats).queues]

    assert pressures() == [0, 6.0 * 24, 0], "as long as it says nothing: everything to the first output"
    said = {"odd": (4.0, 16), "even": (2.0, 8), "nowhere": (9.0, 9)}
    world.tell(BatchExpected(executor=executor, order=order.order, outputs=said))
    assert pressures() == [0, 2.0 * 8, 4.0 * 16]
    world.tell(BatchExpected(executor=ExecutorId("E" + "f" * 32), order=order.order, outputs={}))
    assert pressures() == [0, 2.0 * 8, 4.0 * 16], "from another executor"
    world.step(executor)
    world.drain()
    assert pressures() == [0, 0, 0]


# ---- clients


def test_a_second_client_may_attach_at_any_time(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    early, late = world.submit(1, 2)
    world.say(Attach(ids=(early, SOME)), BOB)
    world.say(Attach(ids=(early,)), BOB)
    assert world.outcome(SOME, BOB).status is TaskStatus.UNKNOWN
    world.drain()
    world.say(Attach(ids=(late,)), BOB)
    assert [world.outcome(task, BOB).value for task in (early, late)] == [2, 3]


def test_the_same_id_with_the_same_input_is_the_same_task(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    world.submit(1, ids=[SOME])
    world.submit(1, ids=[SOME], client=BOB)
    world.drain()
    assert world.ran == [("n0", 1)]
    assert world.outcome(SOME).value == world.outcome(SOME, BOB).value == 2
    world.submit(1, ids=[SOME], client=BOB)
    assert [outcome.value for outcome in world.outcomes[BOB, SOME]] == [2, 2]


def test_the_same_id_with_another_input_is_a_conflict_and_harms_nobody(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    world.submit(1, ids=[SOME])
    world.submit(2, ids=[SOME], client=BOB)
    refused = world.last(Refused)
    assert (refused.ids, refused.code) == ((SOME,), ErrorCode.CONFLICT)
    world.drain()
    assert world.outcome(SOME).value == 2
    world.clear(SOME)
    assert world.stored == {}


def test_a_namespace_that_is_not_loaded_or_has_changed_is_refused(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    old = world.load(build.chain(1))
    world.load(build.chain(2), replace=True)
    world.plans["main"] = old
    world.submit(1)
    assert world.last(Refused).message == "stale: namespace 'main' has another definition now"
    world.plans["other"] = old
    world.submit(1, ns="other")
    assert "is not loaded" in world.last(Refused).message
    assert world.stored == {}


def test_reading_makes_it_done_and_it_can_be_read_again(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    task, other = world.submit(1, 2)
    world.say(ResultRead(ids=(task,)))
    assert world.status(task) is TaskStatus.BUSY
    world.drain()
    world.say(ResultRead(ids=(task, task, SOME)))
    assert (world.status(task), world.status(other)) == (TaskStatus.DONE, TaskStatus.READY)
    world.say(Attach(ids=(task,)), BOB)
    assert world.outcome(task, BOB) is not None
    assert world.outcome(task, BOB).status is TaskStatus.DONE
    world.say(AskStats(mid=1))
    assert world.last(Stats).tasks == {"ready": 1, "done": 1}
    world.clear(task, other)


def test_a_ghost_is_dropped_quietly_wherever_it_is(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executor={"batch_size": 2})
    world.load(build.chain(2))
    tasks = world.submit(1, 2, 3)
    world.clear(tasks[1], tasks[2], SOME)
    assert isinstance(world.sent[-1].message, Final | Cleared)
    assert world.cancelled_rows == {1: {1}}
    world.drain()
    assert world.results(tasks) == [3, None, None]
    assert [world.status(task) for task in tasks[1:]] == [TaskStatus.UNKNOWN] * 2
    assert [world.outcome(task).status for task in tasks[1:]] == [TaskStatus.UNKNOWN] * 2
    world.clear(tasks[0])
    assert world.stored == {}


def test_a_ghost_may_fail_or_lose_its_inputs_or_be_forgotten(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    tasks = world.submit(1, 2, 3, 4)
    world.clear(*tasks[:3])

    def answer(order: Any) -> Any:
        done = world.execute(executor, order)
        fields = {"value": done.emitted[0].fields["value"][3:]}
        failed = RowsFailed(rows=(0,), code=ErrorCode.UNKNOWN, message="too late")
        return replace(
            done, emitted=(replace(done.emitted[0], rows=(3,), fields=fields),), failed=(failed,), missing=(1,)
        )

    executor = next(iter(world.running))
    world.step(act=answer)
    assert world.outcome(tasks[3]).value == 5
    world.clear(tasks[3])
    assert world.stored == {}


def test_cancel_ends_at_once_and_only_what_has_not_ended(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executor={"batch_size": 1})
    world.load(build.chain(1))
    tasks = world.submit(1, 2, 3)
    world.step()
    world.cancel(*tasks, SOME)
    assert isinstance(world.last(Cancelled), Cancelled)
    assert world.outcome(tasks[0]).value == 2
    for task in tasks[1:]:
        outcome = world.outcome(task)
        assert (outcome.status, outcome.error.code) == (TaskStatus.ERROR, ErrorCode.CANCELLED)
    assert "at main:main:n0" in world.outcome(tasks[1]).error.message
    world.drain()
    assert world.ran.count(("n0", 3)) == 0
    world.clear(*tasks)
    assert world.stored == {}


def test_a_lost_client_is_told_nothing_and_its_tasks_go_on(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    (task,) = world.submit(1)
    world.submit(2, client=BOB)
    world.leave()
    sent = len(world.sent)
    world.drain()
    assert [send.to for send in world.sent[sent:]] == [BOB]
    world.say(Attach(ids=(task,)), BOB)
    assert world.outcome(task, BOB).value == 2


def test_a_client_that_goes_without_tasks_is_not_remembered(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    world.leave()
    assert not world.core._desk.left
    (task,) = world.submit(1)
    world.drain()
    assert world.results([task]) == [2]


def test_results_go_when_their_time_is_over(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"result_ttl_s": 60.0})
    world.load(build.chain(1))
    first, second = world.submit(1, 2)
    world.drain()
    world.clear(first)
    assert world.core.deadline_ms() == 60_000
    world.wait(59_999)
    assert world.status(second) is TaskStatus.READY
    world.wait(1)
    assert world.status(second) is TaskStatus.UNKNOWN
    assert world.outcomes[world.sent[-2].to, second][-1].status is TaskStatus.UNKNOWN
    assert world.stored == {}
    is_dead = [world.core.state.copies.is_dead(task, b"nonce...") for task in (first, second)]
    assert is_dead == [True, False], "what went by itself, and nobody else has heard of, is not remembered"
    assert world.core.deadline_ms() == 86_400_000  # no longer are deletions remembered
    world.wait(86_400_000)
    assert world.core.deadline_ms() is None


@pytest.mark.parametrize("may_repeat", [True, False], ids=["between processes", "in one process"])
def test_what_is_submitted_again_after_it_was_deleted_stays_deleted(
    make_world: MakeWorld, build: Any, *, may_repeat: bool
) -> None:
    """The answer to the first submission got lost on its way to the client, the end did not. (In one process nothing
    gets lost, and nothing is left of what was deleted.)"""
    world = make_world()
    if not may_repeat:
        world.core.state.row_bytes_max = None
    world.load(build.chain(1))
    (task,) = world.submit(1)
    world.drain()
    world.clear(task)
    world.submit(1, ids=[task])
    assert bool(world.running) is not may_repeat
    world.drain()
    assert world.status(task) is (TaskStatus.UNKNOWN if may_repeat else TaskStatus.READY)


def test_what_is_deleted_while_it_waits_for_room_stays_deleted(make_world: MakeWorld, build: Any) -> None:
    """Its client may have had it accepted somewhere else meanwhile, which is not known here."""
    world = make_world(store={"record_bytes": 16})
    world.load(build.chain(1))
    first = world.submit(1, 2)
    ghost, wanted = world.submit(3, 4)
    world.clear(ghost)
    assert world.last(Cleared).unknown == (ghost,)
    world.drain()
    world.clear(*first)
    world.drain()
    assert world.results([ghost, wanted]) == [None, 5]
    world.submit(3, 4, ids=[ghost, wanted])
    world.drain()
    assert world.status(ghost) is TaskStatus.UNKNOWN


def test_what_waits_for_room_is_not_deleted_with_a_result_whose_time_is_over(make_world: MakeWorld, build: Any) -> None:
    world = make_world(store={"record_bytes": 16}, tasks={"result_ttl_s": 5.0, "refuse_after_s": 10.0})
    world.load(build.chain(1))
    first, second = world.submit(1, 2)
    world.drain()
    third = TaskId("T" + "a" * 32)
    world.submit(3, 1, ids=[third, first], nonce=b"another.", client=BOB)
    world.wait(5000)
    world.drain()
    statuses = [world.status(task) for task in (first, second, third)]
    assert statuses == [TaskStatus.READY, TaskStatus.UNKNOWN, TaskStatus.READY]


def test_a_full_peer_accepts_what_fits_lets_the_rest_wait_and_then_refuses(make_world: MakeWorld, build: Any) -> None:
    """A submission is as large as its client happened to make it: each of its tasks counts for itself."""
    world = make_world(store={"record_bytes": 24}, tasks={"refuse_after_s": 10.0})
    world.load(build.chain(1))
    first = world.submit(1, 2)
    second = world.submit(3, 4)
    third = world.submit(5)
    accepted = [send.message.ids for send in world.sent if isinstance(send.message, Accepted)]
    assert accepted == [first, second[:1]]
    world.drain()
    world.clear(first[0])
    assert world.last(Accepted).ids == second[1:]
    world.wait(10_000)
    refused = world.last(Refused)
    assert (refused.ids, refused.code) == (third, ErrorCode.REFUSED)
    assert "store.record_bytes" in refused.message
    world.drain()
    assert world.results(second) == [4, 5]
    many = world.submit(*range(4))
    world.clear(*first, *second)
    world.drain()
    world.clear(*many[:3])
    world.drain()
    assert world.results(many[3:]) == [4]


def test_what_can_never_fit_is_refused_at_once(make_world: MakeWorld, build: Any) -> None:
    world = make_world(store={"record_bytes": 7})
    world.load(build.chain(1))
    tasks = world.submit(1, 2)
    refused = [send.message.ids for send in world.sent if isinstance(send.message, Refused)]
    assert refused == [tasks[:1], tasks[1:]]
    assert world.stored == {}
    assert world.core.deadline_ms() is None


# ---- definitions


def test_a_definition_may_be_loaded_twice_but_not_changed_by_accident(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    plan = world.load(build.chain(1))
    world.load(build.chain(1))
    assert world.last(GraphLoaded).info.digest == plan.digest
    world.load(build.chain(2))
    assert "replace=True" in world.last(GraphRefused).problems[0]
    world.say(AskNamespaces(mid=1))
    (info,) = world.last(Namespaces).infos
    assert (info.ns, info.entry, info.digest) == ("main", "main:main", plan.digest)
    world.say(AskNamespaces(mid=1, ns="nowhere"))
    assert world.last(Namespaces).infos == ()


def test_tasks_under_way_finish_on_the_definition_they_started_with(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    old = world.load(build.chain(2))
    before = world.submit(1)
    world.step()
    world.load(build.chain(5), replace=True)
    assert world.retired == []
    after = world.submit(1)
    world.drain()
    assert world.results(before + after) == [3, 6]
    assert world.retired == [], "who gets a copy of a result may ask for its definition"
    world.say(Clear(mid=1, ids=before))
    assert world.retired == [old.digest]
    world.tell(MessageReceived(sender=BOB, message=AskStats(mid=1)))
    assert {queue.name for queue in world.last(Stats).queues} == {f"main:main:n{at}" for at in range(5)}


def test_a_definition_that_nobody_uses_goes_at_once(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    old = world.load(build.chain(2))
    world.load(build.chain(3), replace=True)
    assert world.retired == [old.digest]


def test_a_wrong_definition_is_refused_with_all_its_problems(make_world: MakeWorld) -> None:
    world = make_world()
    world.say(LoadGraph(mid=3, definition="{}"))
    refused = world.last(GraphRefused)
    assert refused.mid == 3
    assert refused.problems


def test_the_definition_can_be_read_back(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    plan = world.load(build.chain(2))
    world.say(AskDefinition(mid=1, ns="main"))
    assert world.last(Definition).definition == plan.definition
    world.say(AskDefinition(mid=1, ns="nowhere"))
    assert world.last(Definition).definition is None


def test_two_namespaces_side_by_side(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1), ns="one")
    world.load(build.chain(2), ns="two")
    tasks = world.submit(1, ns="one") + world.submit(1, ns="two")
    world.drain()
    assert world.results(tasks) == [2, 3]
    world.say(Attach(ids=tasks), BOB)
    assert [world.outcome(task, BOB).value for task in tasks] == [2, 3]


def test_a_task_tells_its_story(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.chain(2))
    (task,) = world.submit(1)
    world.wait(5)
    world.step()
    report = world.report(task)
    assert (report.place, report.ns, report.duration_ms) == ("main:main:n1", "main", 5)
    assert report.story == ("+0 ms queue n0", "+0 ms claim", "+5 ms queue n1", "+5 ms claim")
    world.evict()
    while world.running or world.rest():
        world.step()
        world.evict()
    assert len(world.report(task).story) == 12
    assert world.report(task).story[0] == "+0 ms queue n0"


def test_time_never_goes_back(make_world: MakeWorld) -> None:
    world = make_world()
    world.now_ms = 5
    world.tell(TimerFired())
    world.now_ms = 4
    with pytest.raises(AssertionError, match="time went back"):
        world.tell(TimerFired())
