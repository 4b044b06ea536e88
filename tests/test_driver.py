"""The driver between a real core, a real store, and executors that only take notes."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest

from scatterzmq.core.actions import Action, Persist
from scatterzmq.core.entries import Kept
from scatterzmq.core.events import ExecutorLost, ExecutorStarted, GraphChecked, Persisted, Restored, RowsFailed
from scatterzmq.core.messages import (
    Accepted,
    AskStats,
    AskTasks,
    Attach,
    Cancel,
    Clear,
    Final,
    GraphLoaded,
    LoadGraph,
    Refused,
    Stats,
    Submit,
    TaskReports,
    ToClient,
    ToPeer,
)
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.core.values import Value
from scatterzmq.driver import WAIT_MAX_S, ClientJoined, ClientLeft, Driver, Incoming
from scatterzmq.errors import ErrorCode
from scatterzmq.execute.store import PayloadStore
from scatterzmq.execute.work import Done, EmittedColumns, Work
from scatterzmq.graph.check import NodeInfo, check
from scatterzmq.graph.formats import DTYPES, FieldFormat, Layout
from scatterzmq.ids import ClientId, ExecutorId, PeerId, TaskId
from scatterzmq.settings import Settings
from scatterzmq.wire.columns import Apart, Column

ME = PeerId("P" + "0" * 32)
ALICE = ClientId("C" + "a" * 32)
BOB = ClientId("C" + "b" * 32)
VALUE = {"value": FieldFormat("long", (None,))}


def describe(kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
    return NodeInfo(input_format=VALUE, outputs={"out": VALUE}, pure=True, weight=1.0, load_cost=1.0, thread_safe=True)


def definition(ns: str, *batch_sizes: int, apart: bool = False, **extra: Any) -> str:
    """value -> n0 -> n1 -> ... -> value. apart: all read the input, and the result is what n0 made."""
    last = len(batch_sizes) - 1
    nodes = [
        {
            "name": f"n{at}",
            "kind": "add",
            "args": {},
            "vmap": {"value": f"n{at - 1}:value" if at and not apart else ":value"},
            "outs": {"out": f"n{at + 1}" if at < last else None},
            "batch_size": size,
        }
        for at, size in enumerate(batch_sizes)
    ]
    formats = {"value": ["long", [None]]}
    graph = {
        "name": "main", "input": "n0", "nodes": nodes, "vmap": {"value": f"n{0 if apart else last}:value"},
        "input_format": formats, "output_format": formats,
    }  # fmt: skip
    return check({"ns": ns, "entry": "main", "graphs": [graph | extra]}, describe).require().definition


def column(*rows: int, width: int = 1) -> Column:
    """Each row `width` times the same number, 8 bytes each."""
    data = bytearray(struct.pack(f"<{len(rows) * width}q", *[row for row in rows for _ in range(width)]))
    return Column(Layout(DTYPES["int64"], len(rows), (width,)), memoryview(data))


def numbers(of: Column) -> list[int]:
    width = of.layout.row_shape(0)[0]
    return list(struct.unpack(f"<{len(of.data) // 8}q", of.data))[::width]


@dataclass
class Executors:
    """What the driver asks for. running: executor -> its batch; checks are answered by the test.

    later: whether others come only after a while.
    """

    count: int
    later: bool = False
    copies_inputs: bool = False
    running: dict[ExecutorId, Work] = field(default_factory=dict)
    checks: list[tuple[int, str]] = field(default_factory=list)
    replaced: list[ExecutorId] = field(default_factory=list)
    retired: list[bytes] = field(default_factory=list)
    cancelled: list[tuple[ExecutorId, int, tuple[int, ...]]] = field(default_factory=list)
    made: int = 0

    def _new(self) -> ExecutorId:
        self.made += 1
        return ExecutorId(f"E{self.made:032x}")

    def start(self) -> tuple[ExecutorId, ...]:
        return tuple(self._new() for _ in range(self.count))

    def run(self, executor: ExecutorId, work: Work) -> None:
        assert executor not in self.running
        assert all(values.layout.rows == len(work.rows) for values in work.columns.values())
        self.running[executor] = work

    def cancel(self, executor: ExecutorId, order: int, rows: tuple[int, ...]) -> None:
        self.cancelled.append((executor, order, rows))

    def replace(self, executor: ExecutorId) -> ExecutorId | None:
        self.replaced.append(executor)
        return None if self.later else self._new()

    def check(self, request: int, definition: str, *, settles: bool) -> None:
        self.checks.append((request, definition))

    def retire(self, digest: bytes) -> None:
        self.retired.append(digest)


class World:
    """A driver with its surroundings. heard: what each client was told."""

    def __init__(
        self, executors: int = 1, *, paper: "Paper | None" = None, wanted: Sequence[str] = (), **sections: Any
    ) -> None:
        settings = Settings.of(sections)
        strategies: Any = {"node_strategy": SimpleNodeStrategy(), "queue_strategy": SimpleQueueStrategy()}
        self.now_s = 1.0
        self.core = PeerCore(ME, settings, **strategies)
        self.store = PayloadStore(settings.store, ME)
        self.executors = Executors(executors)
        self.reports: list[tuple[str, Mapping[str, Any]]] = []
        self.heard: list[tuple[ToClient, Mapping[str, Column]]] = []
        self.driver = Driver(
            self.core,
            self.store,
            self.executors,
            report=lambda name, context: self.reports.append((name, context)),
            wants=lambda name: name in wanted,
            journal=paper,
            clock=lambda: self.now_s,
        )
        self.plans: dict[str, bytes] = {}
        self.count = 0
        self.driver.take(ClientJoined(client=ALICE, deliver=lambda *told: self.heard.append(told)))
        self.driver.start()

    def say(self, message: ToPeer, columns: Mapping[str, Column] | None = None) -> None:
        self.take(Incoming(sender=ALICE, message=message, columns=columns or {}))

    def take(self, posted: Any) -> None:
        self.driver.take(posted)
        self.check()

    def check(self) -> None:
        self.core.check_invariants()
        self.store.check_invariants()

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.driver.tick()
        self.check()

    def load(self, ns: str, *batch_sizes: int, **extra: Any) -> None:
        text = definition(ns, *batch_sizes, **extra)
        self.say(LoadGraph(mid=1, definition=text, replace=True))
        (request, asked) = self.executors.checks.pop()
        assert asked == text
        plan = check(asked, describe).require()
        self.plans[ns] = plan.digest
        self.take(GraphChecked(request=request, plan=plan))

    def submit(self, *values: int, ns: str = "main", width: int = 1, **changes: Any) -> list[TaskId]:
        ids = [TaskId(f"T{self.count + at:032x}") for at in range(len(values))]
        self.count += len(values)
        message = Submit(
            mid=2,
            ns=ns,
            digest=self.plans[ns],
            nonce=b"nonce...",
            ids=tuple(ids),
            submit_digests=tuple(f"{ns}{value}".encode() for value in values),
        )
        self.say(replace(message, **changes), {"value": column(*values, width=width)})
        return ids

    def finish(self, executor: ExecutorId | None = None, *, failed: tuple[RowsFailed, ...] = ()) -> Done:
        """Run the batch of an executor: every value grows by one."""
        executor = executor or next(iter(self.executors.running))
        done = self.done(executor, self.executors.running.pop(executor), failed)
        self.take(done)
        return done

    def done(self, executor: ExecutorId, work: Work, failed: tuple[RowsFailed, ...] = ()) -> Done:
        bad = {row for part in failed for row in part.rows}
        at = [index for index, row in enumerate(work.rows) if row not in bad]
        values = work.columns["value"]
        grown = [numbers(values)[index] + 1 for index in at]
        made = {"value": column(*grown, width=values.layout.row_shape(0)[0])}
        rows = tuple(work.rows[index] for index in at)
        emitted = (EmittedColumns(output="out", rows=rows, columns=made, digests={}),) if at else ()
        return Done(executor=executor, order=work.order.order, emitted=emitted, failed=failed)

    def rest(self) -> bool:
        """Let time pass until the next task that rests is tried again. False: none rests."""
        deadline_ms = self.core._travel.resting.deadline_ms()
        if deadline_ms is not None:
            self.wait((deadline_ms + 1) / 1000 - self.now_s)
        return deadline_ms is not None

    def drain(self) -> None:
        """Run batches until nobody has one, and no task rests."""
        while self.executors.running or self.rest():
            if self.executors.running:
                self.finish()

    def place(self, executor: ExecutorId) -> str:
        order = self.executors.running[executor].order
        return order.plan.place(order.node)

    def told(self, kind: type[Any]) -> list[Any]:
        return [message for message, _ in self.heard if isinstance(message, kind)]

    def results(self) -> dict[TaskId, int]:
        found: dict[TaskId, int] = {}
        for message, columns in self.heard:
            if isinstance(message, Final) and columns:
                ready = [task for task, status in zip(message.ids, message.statuses, strict=True) if status == "ready"]
                found |= zip(ready, numbers(columns["value"]), strict=True)
        return found

    def report(self, task: TaskId) -> Any:
        self.say(AskTasks(mid=3, ids=(task,)))
        return self.told(TaskReports)[-1].reports[0]


def with_two_waiting(store_bytes: int, **extra: Any) -> tuple[World, list[TaskId]]:
    """Two tasks that wait between n0 and n1, while both executors are busy elsewhere; then room is made for them.

    Their values are 8 bytes each, and the store was trimmed to `store_bytes` when the second came.
    """
    world = World(executors=2, store={"bytes": store_bytes})
    world.load("main", 1, 2, **extra)
    world.load("other", 1)
    tasks = world.submit(10) + world.submit(20)
    world.submit(1, 2, ns="other", width=100)
    first, second = world.executors.running
    world.finish(first)
    world.finish(second)
    assert [world.place(executor) for executor in (first, second)] == ["other:main:n0"] * 2
    world.finish(first)
    return world, tasks


def test_every_action_is_performed() -> None:
    assert World().driver._performs.keys() == set(get_args(Action))


@pytest.mark.parametrize("copies_inputs", [False, True])
def test_nodes_never_get_the_memory_that_a_task_keeps(copies_inputs: bool) -> None:
    """Unless what they get is a copy anyway."""
    world = World()
    world.executors.copies_inputs = copies_inputs
    world.load("main", 3)
    (busy,) = world.submit(7)
    kept = [input_of(world, task) for task in (busy, *world.submit(8), *world.submit(9))]
    (work,) = world.executors.running.values()
    (given,) = work.columns.values()
    assert bytes(given.data) == bytes(kept[0].data)
    assert (given.data.obj is kept[0].data.obj) == copies_inputs
    world.finish()
    (work,) = world.executors.running.values()
    if not copies_inputs:
        assert [bytes(column.data) for column in work.columns.values()] == [bytes(kept[1].data) + bytes(kept[2].data)]
        assert not work.apart
        return
    assert not work.columns
    (apart,) = work.apart.values()
    assert [data.obj for data in apart.datas] == [column.data.obj for column in kept[1:]], "nothing is copied twice"


def input_of(world: World, task: TaskId) -> Column:
    record = world.core.state.ledger.record(task)
    assert record is not None
    return world.store.collect(tuple(record.input.values()))


def test_a_task_from_its_client_to_its_client() -> None:
    world = World()
    world.load("main", 8, 8)
    assert isinstance(world.heard[0][0], GraphLoaded)
    tasks = world.submit(1, 2, 3)
    assert world.told(Accepted)[0].ids == tuple(tasks)
    world.drain()
    assert world.results() == dict(zip(tasks, [3, 4, 5], strict=True))
    world.say(Clear(mid=3, ids=tuple(tasks)))
    assert len(world.store) == 0


def test_results_of_several_batches_may_be_handed_over_as_they_lie() -> None:
    world = World()
    world.load("main", 1)
    told: list[Mapping[str, Column | Apart]] = []
    heard = [joined.deliver for joined in world.driver._clients.values()]
    world.driver.take(
        ClientJoined(client=ALICE, deliver=heard[0], deliver_apart=lambda _, columns: told.append(columns))
    )
    tasks = world.submit(1, 2)
    world.drain()
    world.say(Attach(ids=tuple(tasks)))
    result = told[-1]["value"]
    assert isinstance(result, Apart)
    assert numbers(result.joined()) == [2, 3]


def test_own_results_cost_no_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but us has any use for them, however large they are."""
    world = World(store={"inline_bytes": 0})
    put, shared = world.store.put, []

    def noted(*args: Any, **how: Any) -> Any:
        shared.append(how.get("shared", False))
        return put(*args, **how)

    monkeypatch.setattr(type(world.store), "put", lambda _, *args, **how: noted(*args, **how))
    world.load("main", 2, 2)
    world.submit(1, 2, width=1000)
    world.drain()
    assert shared == [False] * 3


def test_a_node_may_write_to_its_input() -> None:
    """What is kept for a restart is not what the node gets."""
    world = World()
    world.load("main", 8)
    (task,) = world.submit(5)
    (work,) = world.executors.running.values()
    work.columns["value"].data[:] = bytes(8)
    failed = RowsFailed(rows=(0,), code=ErrorCode.GENERAL_EXCEPTION, message="no")
    world.finish(failed=(failed,))
    world.drain()
    assert world.results() == {task: 6}


def test_a_batch_goes_on_without_the_rows_that_lost_an_input() -> None:
    world, tasks = with_two_waiting(8)
    (work,) = [work for work in world.executors.running.values() if work.order.node.name == "n1"]
    assert (work.order.tasks, work.rows) == (tuple(tasks), (1,))
    assert numbers(work.columns["value"]) == [21]
    world.drain()
    assert {task: world.results()[task] for task in tasks} == dict(zip(tasks, [12, 22], strict=True))
    assert [world.report(task).retries for task in tasks] == [1, 0]
    assert world.report(tasks[0]).error.code is ErrorCode.MEMORY_PURGE


def test_a_batch_that_lost_all_inputs_is_not_run() -> None:
    world, tasks = with_two_waiting(0)
    while world.rest():
        pass
    assert {work.order.node.name for work in world.executors.running.values()} == {"n0"}
    world.drain()
    assert {task: world.results()[task] for task in tasks} == dict(zip(tasks, [12, 22], strict=True))
    assert [world.report(task).retries for task in tasks] == [1, 1]


def test_a_result_that_was_evicted_on_the_way_is_made_again() -> None:
    """No batch needs it, so only the core can tell."""
    world, tasks = with_two_waiting(8, apart=True)
    world.drain()
    assert {task: world.results()[task] for task in tasks} == dict(zip(tasks, [11, 21], strict=True))
    assert [world.report(task).retries for task in tasks] == [1, 0]


def test_a_store_without_room_ends_in_an_error_and_not_in_a_hang() -> None:
    world, tasks = with_two_waiting(0, max_retries=0)
    world.drain()
    reports = [world.report(task) for task in tasks]
    assert [(report.status, report.error.code) for report in reports] == [("error", "memory_purge")] * 2


def test_evictions_are_told_when_their_time_is_over() -> None:
    world = World(store={"mode": "time", "ttl_s": 5.0}, executor={"max_exec_s": 1000.0})
    world.load("main", 1, 2, apart=True)
    world.load("other", 1)
    (task,) = world.submit(10)
    world.submit(1, ns="other", width=100)
    world.finish()
    assert world.place(next(iter(world.executors.running))) == "other:main:n0"
    assert world.driver.wait_s() == 5.0
    world.wait(4.9)
    assert len(world.store) == 3, "two inputs, and the value that waits"
    world.wait(0.1)
    assert len(world.store) == 2
    world.drain()
    assert world.results()[task] == 11
    assert world.report(task).retries == 1


def test_an_executor_that_hangs_is_replaced_and_its_late_answer_ignored() -> None:
    world = World(executor={"max_exec_s": 10.0})
    world.load("main", 2)
    (task,) = world.submit(1)
    ((hung, work),) = world.executors.running.items()
    assert world.driver.wait_s() == 10.0
    world.wait(10.0)
    assert world.executors.replaced == [hung]
    late = world.done(hung, world.executors.running.pop(hung))
    world.take(late)
    assert world.results() == {}
    (other,) = world.executors.running
    assert other != hung
    world.drain()
    world.take(late)
    assert world.results() == {task: 2}
    assert world.report(task).retries == 1
    world.say(Clear(mid=3, ids=(task,)))
    assert len(world.store) == 0, "nothing is pinned any more"
    assert work.dead == set(), "its thread is told by whoever runs it"


@pytest.mark.parametrize("kind", [Clear, Cancel])
def test_a_running_batch_learns_of_the_tasks_that_nobody_wants(kind: Any) -> None:
    world = World()
    world.load("main", 4)
    tasks = world.submit(1, 2, 3)
    (work,) = world.executors.running.values()
    world.say(kind(mid=3, ids=(tasks[0], tasks[2])))
    assert work.dead == {0, 2}
    world.drain()
    assert world.results() == {tasks[1]: 3}


def test_tasks_cleared_after_their_batch_was_lost_are_nobodys() -> None:
    """The rows of a batch that could not run are settled before anybody can cancel them."""
    world, tasks = with_two_waiting(0)
    world.say(Clear(mid=3, ids=tuple(tasks)))
    world.drain()
    assert not world.results().keys() & set(tasks)
    assert len(world.store) == 2, "results of the others"


def test_what_runs_keeps_its_inputs_until_it_is_done() -> None:
    """Trimming and freeing pass over what a batch works on."""
    world = World(store={"bytes": 0})
    world.load("main", 4, 4)
    (task,) = world.submit(1)
    world.finish()
    assert world.store.volatile_bytes == 8
    world.say(Clear(mid=3, ids=(task,)))
    assert len(world.store) == 1
    world.finish()
    assert len(world.store) == 0


def test_who_asks_is_told_what_the_store_holds_between_two_steps() -> None:
    world = World()
    world.load("main", 4, 4)
    world.submit(1, 2)
    world.finish()
    world.say(AskStats(mid=4))
    world.drain()
    world.say(AskStats(mid=5))
    assert [said.counters["store_bytes"] for said in world.told(Stats)] == [16, 0]


def test_who_left_is_told_nothing_and_may_leave_twice() -> None:
    world = World()
    world.load("main", 1)
    tasks = world.submit(1)
    before = len(world.heard)
    world.take(ClientLeft(client=ALICE))
    world.take(ClientLeft(client=ALICE))
    world.take(ClientLeft(client=BOB))
    world.drain()
    world.say(AskTasks(mid=3, ids=tuple(tasks)))
    assert len(world.heard) == before


def test_reports_are_passed_on() -> None:
    world = World()
    world.load("main", 1)
    world.submit(1)
    failed = RowsFailed(rows=(0,), code=ErrorCode.GENERAL_EXCEPTION, message="no")
    world.finish(failed=(failed,))
    names = [name for name, _ in world.reports]
    assert names == ["tally.executor.start", "error.task.retry"]
    assert world.reports[1][1]["message"] == "no"


def test_nobody_need_listen_to_reports() -> None:
    world = World()
    world.driver._report = None
    world.load("main", 1)
    world.submit(1)
    world.finish(failed=(RowsFailed(rows=(0,), code=ErrorCode.GENERAL_EXCEPTION, message="no"),))
    world.drain()
    assert len(world.results()) == 1


def test_a_plan_that_nobody_runs_on_is_retired() -> None:
    world = World()
    world.load("main", 1)
    old = world.plans["main"]
    world.load("main", 2)
    assert world.executors.retired == [old]


def test_there_is_nothing_to_wait_for_or_not_for_too_long() -> None:
    world = World(tasks={"result_ttl_s": 1e9})
    world.load("main", 1)
    assert world.driver.wait_s() is None
    world.submit(1)
    world.drain()
    assert world.driver.wait_s() == WAIT_MAX_S
    world.now_s += 2e9
    assert world.driver.wait_s() == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": (TaskId("T" + "1" * 32),)}, "a submission of 1 tasks has 2 submit_digests, 2 rows of 'value'"),
        ({"digests": {"value": (b"1",)}}, "a submission of 2 tasks has 1 digests of 'value'"),
        ({"digests": {"other": ()}}, "a submission of 2 tasks has 0 digests of 'other'"),
    ],
)
def test_a_submission_that_does_not_add_up_is_refused(changes: Any, message: str) -> None:
    world = World()
    world.load("main", 2)
    world.submit(1, 2, **changes)
    (refused,) = world.told(Refused)
    assert (refused.code, refused.message) == (ErrorCode.REFUSED, message)
    assert len(world.store) == 0


def test_a_submission_without_rows_harms_nobody() -> None:
    world = World()
    world.load("main", 2)
    world.submit()
    world.submit(ids=(TaskId("T" + "1" * 32),), submit_digests=(b"1",))
    (refused,) = world.told(Refused)
    assert refused.message == "namespace 'main': expected the fields ['value'], got []"
    assert len(world.store) == 0


def test_columns_beside_other_messages_are_not_stored() -> None:
    world = World()
    world.say(AskTasks(mid=1, ids=()), {"value": column(1)})
    assert len(world.store) == 0


def test_an_executor_that_starts_later_gets_what_waits() -> None:
    world = World(executors=0)
    world.load("main", 2)
    (task,) = world.submit(1)
    executor = world.executors._new()
    world.take(ExecutorStarted(executor=executor))
    world.drain()
    assert world.results() == {task: 2}


def test_an_executor_that_crashes_costs_its_batch_another_run() -> None:
    world = World(executors=2, store={"bytes": 0})
    world.load("main", 2)
    (task,) = world.submit(1)
    (executor,) = world.executors.running
    work = world.executors.running.pop(executor)
    world.take(ExecutorLost(executor=executor, reason="killed by signal 11", crashed=True))
    assert world.report(task).retries == 1
    world.take(world.done(executor, work))  # it was still on its way
    assert world.results() == {}
    world.drain()
    assert world.results() == {task: 2}


def test_the_end_of_an_executor_that_was_given_up_is_no_news() -> None:
    world = World(executor={"max_exec_s": 1.0})
    world.executors.later = True
    world.load("main", 1)
    (task,) = world.submit(1)
    (hung,) = world.executors.running
    del world.executors.running[hung]
    world.wait(1.1)
    assert world.executors.replaced == [hung]
    assert not world.executors.running, "the other one is not there yet"
    world.take(ExecutorLost(executor=hung, reason="killed", crashed=True))
    world.take(ExecutorStarted(executor=world.executors._new()))
    world.drain()
    assert world.results() == {task: 2}


def test_executors_hear_of_positions_that_nobody_wants_any_more() -> None:
    world = World()
    world.load("main", 2)
    tasks = world.submit(1, 2)
    (executor,) = world.executors.running
    world.say(Cancel(mid=1, ids=(tasks[1],)))
    order = world.executors.running[executor].order.order
    assert world.executors.cancelled == [(executor, order, (1,))]


class Paper:
    """A journal that is written by the test. It has nothing in the beginning but one task's tombstone."""

    def __init__(self) -> None:
        self.written: list[tuple[Persist, Sequence[Mapping[str, Column]]]] = []
        self.stored: list[Value] = []

    def restored(self, put: Callable[[Column, tuple[bytes, ...]], Value]) -> Restored:
        self.stored.append(put(column(7), (b"digest",)))
        return Restored()

    def write(self, persist: Persist, columns: Sequence[Mapping[str, Column]]) -> None:
        assert len(columns) == len(persist.entries)
        self.written.append((persist, columns))


def test_what_is_accepted_is_in_the_journal_first() -> None:
    paper = Paper()
    world = World(journal={"mode": "sync", "dir": "paper"}, paper=paper)
    assert world.store.collect(paper.stored[:1]).data == column(7).data
    while len(paper.written) < 2:
        world.take(Persisted(write=len(paper.written)))
        if not world.plans:
            world.load("main", 1)
    (task,) = world.submit(1)
    persist, columns = paper.written[-1]
    (kept,) = persist.entries
    assert isinstance(kept, Kept)
    assert numbers(columns[0]["value"]) == [1]
    assert not world.told(Accepted)
    world.take(Persisted(write=persist.write))
    (accepted,) = world.told(Accepted)
    assert accepted.ids == (task,)
    assert accepted.durable


def test_queues_are_measured_if_somebody_listens() -> None:
    world = World(wanted=["measure.queue.length"], events={"measure_s": 2.0})
    world.load("main", 1)
    world.submit(1, 2, 3)
    world.wait(0.0)
    told = [(name, context["value"]) for name, context in world.reports if name.startswith("measure")]
    assert told == [("measure.queue.length", 2)]
    assert world.driver.due_s() == world.now_s + 2.0
    deaf = World(events={"measure_s": 2.0})
    assert deaf.driver.due_s() > deaf.now_s + 2.0


def test_the_end_of_its_executors_is_told_once() -> None:
    world = World(executors=2)
    world.driver.stopped()
    world.driver.stopped()
    stops = [context for name, context in world.reports if name == "tally.executor.stop"]
    assert [context["reason"] for context in stops] == ["the peer ends"] * 2
    assert world.driver.executors_count == 0
