"""Random lives: whatever happens in whatever order, every task ends as a direct evaluation says."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scatterzmq.core.events import ClientLost, ExecutorStarted
from scatterzmq.core.messages import Attach, TaskStatus
from scatterzmq.errors import ErrorCode
from scatterzmq.ids import ClientId, ExecutorId, TaskId

ALICE = ClientId("C" + "a" * 32)
VALUES = st.integers(0, 6)
NOT_ITS_FAULT = (ErrorCode.MEMORY_PURGE, ErrorCode.POISON)
"""A good task fails only for evictions or executors that die, more often than the settings allow."""


def result_of(value: int) -> int:
    """What the graph of the machine makes of a value that is not 5."""
    return value + 1 + 10 + 2 + 1


class PeerMachine(RuleBasedStateMachine):
    """Namespace `entry`: calls `main` (5 always fails; else +1, by a branch), then `tail` (+10, calls `inner` for +2,
    +1). Namespace `cross`: two cached graphs, called in this order or in that; the result is the input.
    """

    made: Any

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[TaskId, int] = {}
        self.crossing: set[TaskId] = set()
        self.gone: set[TaskId] = set()
        self.stopped: set[TaskId] = set()

    @initialize(
        executors=st.integers(1, 3),
        batch=st.integers(1, 4),
        cache=st.booleans(),
        defer=st.booleans(),
        node=st.booleans(),
        cache_bytes=st.sampled_from([0, 16, 1024]),
    )
    def begin(self, executors: int, batch: int, cache: bool, defer: bool, node: bool, cache_bytes: int) -> None:
        make_world, build = self.made
        self.world = make_world(
            executors=executors,
            executor={"batch_size": batch, "max_exec_s": 20.0},
            cache={"use_defer": defer, "bytes": cache_bytes},
            tasks={"max_retries": 200},
        )
        self.executors = self.clients = 100
        main = build.graph(
            "main",
            "fork:value",
            [
                build.node("gate", "fail", ":value", "plus", wrong=[5]),
                build.node("plus", "add", "gate:value", "fork", by=1, cache=node),
                build.node("fork", "branch", "plus:value", {"even": None, "odd": None}),
            ],
        )
        tail = build.graph(
            "tail",
            "one:value",
            [
                build.node("ten", "alone", ":value", "two", by=10),
                build.node("two", "call", "ten:value", "one", graph="inner"),
                build.node("one", "add", "two:value", None, by=1),
            ],
        )
        inner = build.graph("inner", "n:value", [build.node("n", "add", ":value", None, by=2)], cache=cache)
        entry = build.graph(
            "entry",
            "second:value",
            [
                build.node("first", "call", ":value", "second", graph="main", cache=node),
                build.node("second", "call", "first:value", None, graph="tail"),
            ],
            cache=cache,
            max_retries=1,
        )
        self.world.load(entry, main, tail, inner)
        self.world.load(*self.cross(build, cache))

    def cross(self, build: Any, cache: bool) -> list[dict[str, Any]]:
        cross = build.graph(
            "cross",
            "end:value",
            [
                build.node("fork", "branch", ":value", {"even": "up", "odd": "down"}),
                build.node("up", "call", ":value", "back", graph="up"),
                build.node("back", "call", "up:value", "end", graph="down"),
                build.node("down", "call", ":value", "forth", graph="down"),
                build.node("forth", "call", "down:value", "end", graph="up"),
                build.node("end", "add", ":value", None, by=0),
            ],
        )
        up = build.graph("up", "n:value", [build.node("n", "add", ":value", None, by=1)], cache=True)
        down = build.graph("down", "n:value", [build.node("n", "add", ":value", None, by=-1, cache=cache)], cache=True)
        return [cross, up, down]

    @rule(values=st.lists(VALUES, min_size=1, max_size=4))
    def submit(self, values: list[int]) -> None:
        for task, value in zip(self.world.submit(*values, ns="entry"), values, strict=True):
            self.inputs[task] = value

    @rule(values=st.lists(VALUES, min_size=1, max_size=4))
    def submit_crossing(self, values: list[int]) -> None:
        for task, value in zip(self.world.submit(*values, ns="cross"), values, strict=True):
            self.inputs[task] = value
            self.crossing.add(task)

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def run_batch(self, data: st.DataObject) -> None:
        self.world.step(data.draw(st.sampled_from(sorted(self.world.running))))

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def lose_executor(self, data: st.DataObject) -> None:
        self.world.lose(data.draw(st.sampled_from(sorted(self.world.running))), crashed=data.draw(st.booleans()))
        self.start_executor()

    def start_executor(self) -> None:
        self.executors += 1
        self.world.tell(ExecutorStarted(executor=ExecutorId(f"E{self.executors:032x}")))

    @rule()
    def evict(self) -> None:
        self.world.evict()

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        tasks = data.draw(st.lists(st.sampled_from(sorted(self.inputs)), min_size=1, max_size=4))
        self.world.clear(*tasks)
        self.gone.update(tasks)

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        tasks = data.draw(st.lists(st.sampled_from(sorted(self.inputs)), min_size=1, max_size=4))
        open_tasks = [task for task in tasks if task not in self.gone and not self.world.status(task).complete]
        self.world.cancel(*tasks)
        self.stopped.update(open_tasks)

    @precondition(lambda self: self.inputs)
    @rule(data=st.data())
    def watch_for_a_while(self, data: st.DataObject) -> None:
        self.clients += 1
        client = ClientId(f"C{self.clients:032x}")
        self.world.say(Attach(ids=(data.draw(st.sampled_from(sorted(self.inputs))),)), client)
        if data.draw(st.booleans()):
            self.world.tell(ClientLost(client=client))

    @rule(ms=st.integers(0, 8000))
    def wait(self, ms: int) -> None:
        """Executors that hang for too long are given up and replaced."""
        before = len(self.world.abandoned)
        self.world.wait(ms)
        for _ in self.world.abandoned[before:]:
            self.start_executor()

    @invariant()
    def nobody_idles_while_tasks_wait(self) -> None:
        if hasattr(self, "world"):
            self.world.core.check_invariants()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.drain()
        for task, value in self.inputs.items():
            self.check(task, value)
        self.world.clear(*self.inputs)
        assert self.world.kept == self.world.stored.keys(), "only cached values are left, and they are kept"

    def check(self, task: TaskId, value: int) -> None:
        told = self.world.outcomes[ALICE, task]
        first, last = told[0], told[-1]
        if task in self.stopped and first.status is TaskStatus.ERROR:
            assert first.error is not None
            assert first.error.code is ErrorCode.CANCELLED
        elif task in self.gone and first.status is TaskStatus.UNKNOWN:
            assert len(told) == 1
        elif value == 5 and task not in self.crossing:
            assert first.error is not None
            assert first.error.code in (ErrorCode.GENERAL_EXCEPTION, *NOT_ITS_FAULT)
        elif first.status is TaskStatus.ERROR:
            assert first.error is not None
            assert first.error.code in NOT_ITS_FAULT
        else:
            assert first.value == (value if task in self.crossing else result_of(value))
        if task in self.gone:
            assert last.status is TaskStatus.UNKNOWN


def test_random_lives(make_world: Any, build: Any) -> None:
    class Bound(PeerMachine):
        made = (make_world, build)

    run_state_machine_as_test(
        Bound, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
    )
