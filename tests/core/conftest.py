"""A world for one core: a clock, a store and executors made of plain Python, checked after every event."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from scatterzmq.core.actions import (
    AbandonExecutor,
    Action,
    BatchOrder,
    CheckGraph,
    FreeBlocks,
    KeepBlocks,
    Report,
    RetirePlan,
    RowsCancelled,
    RunBatch,
    Send,
)
from scatterzmq.core.events import (
    BatchFinished,
    BlocksEvicted,
    ClientLost,
    Emitted,
    Event,
    ExecutorLost,
    ExecutorStarted,
    GraphChecked,
    MessageReceived,
    RowsFailed,
    TimerFired,
)
from scatterzmq.core.messages import (
    AskTasks,
    Cancel,
    Clear,
    Final,
    LoadGraph,
    Submit,
    TaskReport,
    TaskReports,
    TaskStatus,
    ToPeer,
)
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.core.values import Block, Value
from scatterzmq.errors import ErrorCode, ErrorInfo
from scatterzmq.graph.check import CallInfo, NodeInfo, UnknownKind, check
from scatterzmq.graph.formats import DTYPES, FieldFormat, Layout
from scatterzmq.graph.nodeinfo import BlobUse
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import BlockId, ClientId, ExecutorId, PeerId, TaskId
from scatterzmq.settings import Settings

ME = PeerId("P" + "0" * 32)
ALICE = ClientId("C" + "a" * 32)
BOB = ClientId("C" + "b" * 32)
NUMBER = FieldFormat("long", ())
VALUE = {"value": NUMBER}


def describe(kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
    """The kinds of this world; every value is one whole number."""
    outputs: dict[str, dict[str, FieldFormat]] = {"out": VALUE}
    inputs = VALUE
    calls: tuple[CallInfo, ...] = ()
    match kind:
        case "branch":
            outputs = {"even": VALUE, "odd": VALUE}
        case "call":
            calls = (CallInfo(graph=str(args["graph"]), args=VALUE, output="out"),)
        case "down":
            outputs = {"back": VALUE, "out": VALUE}
            calls = (CallInfo(graph=str(args["graph"]), args=VALUE, output="back"),)
        case "sum":
            inputs = {"left": NUMBER, "right": NUMBER}
        case "if":
            outputs = {"then": {}, "else": {}}
        case "maybe":
            outputs = {"made": VALUE, "none": {}}
        case "length":
            inputs = {"value": FieldFormat("long", (None,))}
            outputs = {"out": inputs}
        case "add" | "fail" | "dice" | "alone":
            pass
        case _:
            raise ValueError(f"unknown kind {kind}")
    return NodeInfo(
        input_format=inputs,
        outputs=outputs,
        pure=kind != "dice",
        weight=1.0,
        load_cost=1.0,
        calls=calls,
        thread_safe=kind != "alone",
        blobs=(BlobUse(name=str(args["blob"])),) if "blob" in args else (),
    )


def node(
    name: str, kind: str, source: str | Mapping[str, str], to: str | Mapping[str, str | None] | None, **extra: Any
) -> dict[str, Any]:
    """A node of a definition: where it reads from and where it leads to."""
    args = {key: extra.pop(key) for key in ("graph", "by", "wrong", "blob") if key in extra}
    vmap = {"value": source} if isinstance(source, str) else dict(source)
    outs = dict(to) if isinstance(to, Mapping) else {"out": to}
    return {"name": name, "kind": kind, "vmap": vmap, "outs": outs, "args": args} | extra


def graph(name: str, result: str, nodes: Sequence[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    """A graph of a definition from value to value."""
    formats = {"value": ["long", []]}
    return {
        "name": name,
        "input": nodes[0]["name"],
        "input_format": formats,
        "output_format": formats,
        "vmap": {"value": result},
        "nodes": list(nodes),
    } | extra


def chain(length: int, name: str = "main", **extra: Any) -> dict[str, Any]:
    """value -> +1 -> ... -> value, in `length` nodes."""
    nodes = [
        node(f"n{at}", "add", f"n{at - 1}:value" if at else ":value", f"n{at + 1}" if at + 1 < length else None, by=1)
        for at in range(length)
    ]
    return graph(name, f"n{length - 1}:value", nodes, **extra)


@dataclass(frozen=True)
class Outcome:
    status: TaskStatus
    value: int | None
    error: ErrorInfo | None
    retries: int


@dataclass
class World:
    """One peer's surroundings.

    ran: (node name, input) for every row that was executed. checking: all invariants after every event; a test with
    thousands of events on one task may check at its end only. lacking: kinds that are not installed here.
    """

    settings: Settings
    me: PeerId = ME
    core: PeerCore = field(init=False)
    now_ms: int = 0
    stored: dict[BlockId, list[int]] = field(default_factory=dict)
    kept: set[BlockId] = field(default_factory=set)
    running: dict[ExecutorId, BatchOrder] = field(default_factory=dict)
    cancelled_rows: dict[int, set[int]] = field(default_factory=dict)
    sent: list[Send] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    abandoned: list[ExecutorId] = field(default_factory=list)
    retired: list[bytes] = field(default_factory=list)
    ran: list[tuple[str, int]] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    outcomes: dict[tuple[ClientId, TaskId], list[Outcome]] = field(default_factory=dict)
    counter: int = 0
    tasks: int = 0
    mids: int = 0
    checking: bool = True
    digesting: bool = True
    tells: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.core = PeerCore(
            self.me,
            self.settings,
            node_strategy=SimpleNodeStrategy(),
            queue_strategy=SimpleQueueStrategy(),
            tells=self.tells,
        )

    # ---- events

    def tell(self, event: Event) -> tuple[Action, ...]:
        actions = self.core.handle(event, self.now_ms)
        for action in actions:
            self.perform(action)
        if self.checking:
            self.core.check_invariants()
        return actions

    def say(
        self, message: ToPeer, client: ClientId = ALICE, blocks: Mapping[str, Block] | None = None
    ) -> tuple[Action, ...]:
        return self.tell(MessageReceived(sender=client, message=message, blocks=blocks or {}))

    def mid(self) -> int:
        self.mids += 1
        return self.mids

    def start(self, count: int = 1) -> list[ExecutorId]:
        executors = [ExecutorId("E" + f"{len(self.running) + at:032x}") for at in range(count)]
        for executor in executors:
            self.tell(ExecutorStarted(executor=executor))
        return executors

    def load(self, *graphs: dict[str, Any], replace: bool = False, **extra: Any) -> Plan:
        text = check({"graphs": list(graphs), "entry": graphs[0]["name"]} | extra, describe).require().definition
        self.say(LoadGraph(mid=self.mid(), definition=text, replace=replace))
        plan = check(text, describe).require()
        self.plans[plan.ns] = plan
        return plan

    def submit(
        self,
        *values: int,
        ns: str = "main",
        ids: Sequence[TaskId] | None = None,
        client: ClientId = ALICE,
        cache: bool = True,
        lengths: Sequence[int] = (),
        number: bool = False,
        nonce: bytes = b"nonce...",
    ) -> tuple[TaskId, ...]:
        if ids is None:
            ids = tuple(TaskId("T" + f"{self.tasks + at:032x}") for at in range(len(values)))
            self.tasks += len(values)
        block = self.put(values, kept=True)
        if lengths:
            shapes = tuple((length,) for length in lengths)
            block = replace(block, layout=replace(block.layout, shape=None, shapes=shapes))
        message = Submit(
            mid=self.mid(),
            ns=ns,
            digest=self.plans[ns].digest,
            nonce=nonce,
            ids=tuple(ids),
            submit_digests=tuple(_digest(f"{ns}{value}")[:16] for value in values),
            digests={"value": tuple(_digest(value) for value in values)},
            cache=cache,
        )
        blocks = {"value": block}
        if number:
            blocks["number"] = self.put(values, kept=True)
        self.say(message, client, blocks)
        return tuple(ids)

    def clear(self, *tasks: TaskId, client: ClientId = ALICE) -> None:
        self.say(Clear(mid=self.mid(), ids=tasks), client)

    def cancel(self, *tasks: TaskId) -> None:
        self.say(Cancel(mid=self.mid(), ids=tasks))

    def report(self, task: TaskId) -> TaskReport:
        self.say(AskTasks(mid=self.mid(), ids=(task,)))
        report: TaskReport = self.last(TaskReports).reports[0]
        return report

    def status(self, task: TaskId) -> TaskStatus:
        return self.report(task).status

    def wait(self, ms: int) -> None:
        """Let time pass, with every timer on the way."""
        until = self.now_ms + ms
        while True:
            deadline = self.core.deadline_ms()
            if deadline is None or deadline > until:
                break
            self.now_ms = max(self.now_ms, deadline)
            self.tell(TimerFired())
            assert self.core.deadline_ms() != deadline, "a timer that changes nothing"
        self.now_ms = until

    def rest(self) -> bool:
        """Let time pass until the next task that rests is tried again. False: none rests."""
        deadline_ms = self.core._travel.resting.deadline_ms()
        if deadline_ms is not None:
            self.wait(deadline_ms - self.now_ms)
        return deadline_ms is not None

    def lose(self, executor: ExecutorId, *, crashed: bool = True) -> None:
        self.running.pop(executor, None)
        self.tell(ExecutorLost(executor=executor, reason="killed", crashed=crashed))

    # ---- actions

    def checked(self, request: int, definition: str) -> GraphChecked:
        """What an executor says of a definition."""
        checked = check(definition, self.describe)
        return GraphChecked(
            request=request,
            plan=checked.plan,
            problems=checked.problems,
            warnings=checked.warnings,
            lacking=checked.lacking,
            manifest=checked.manifest(),
        )

    def describe(self, kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
        if kind in self.lacking:
            raise UnknownKind(f"{place}: {kind} is not installed")
        return describe(kind, args, ns, place)

    def perform(self, action: Action) -> None:
        match action:
            case RunBatch(executor=executor, order=order):
                assert executor not in self.running
                self.running[executor] = order
                for values in order.inputs.values():
                    assert len(values) == len(order.tasks)
            case Send():
                self.sent.append(action)
                if isinstance(action.message, Final):
                    self._ended(action, action.message)
            case KeepBlocks(ids=ids):
                assert not self.kept & set(ids), "kept twice"
                self.kept |= set(ids)
            case FreeBlocks(ids=ids):
                for block in ids:
                    self.stored.pop(block, None)
                    self.kept.discard(block)
            case RowsCancelled(order=order_number, rows=rows):
                self.cancelled_rows.setdefault(order_number, set()).update(rows)
            case AbandonExecutor(executor=executor):
                self.abandoned.append(executor)
                self.running.pop(executor, None)
            case CheckGraph(request=request, definition=definition):
                self.tell(self.checked(request, definition))
            case RetirePlan(digest=digest):
                self.retired.append(digest)
            case Report():
                self.reports.append(action)

    def _ended(self, send: Send, final: Final) -> None:
        rows = iter(send.values.get("value", ()))
        for at, task in enumerate(final.ids):
            status = final.statuses[at]
            value = None
            if status in (TaskStatus.READY, TaskStatus.DONE):
                block, row = next(rows)
                assert block.id in self.kept, "a result that may be evicted"
                value = self.stored[block.id][row]
            outcome = Outcome(status, value, final.errors[at], final.retries[at])
            self.outcomes.setdefault((send.to, task), []).append(outcome)
        assert next(rows, None) is None

    # ---- executors

    def step(
        self, executor: ExecutorId | None = None, *, act: Callable[[BatchOrder], BatchFinished] | None = None
    ) -> BatchOrder:
        """Run the batch of an executor (the first that has one) and tell the core."""
        if executor is None:
            executor = next(iter(self.running))
        order = self.running.pop(executor)
        self.tell((act or (lambda given: self.execute(executor, given)))(order))
        return order

    def drain(self, batches_max: int = 10_000) -> int:
        """Run batches until nobody has one, and no task rests. Returns how many there were."""
        batches = 0
        while self.running or self.rest():
            if self.running:
                self.step()
                batches += 1
            assert batches <= batches_max, "it does not end"
        return batches

    def execute(self, executor: ExecutorId, order: BatchOrder) -> BatchFinished:
        rows = range(len(order.tasks))
        missing = tuple(
            row for row in rows if any(values[row][0].id not in self.stored for values in order.inputs.values())
        )
        answers: dict[tuple[str, str | None], list[tuple[int, int]]] = {}
        failed = []
        for row in rows:
            if row in missing:
                continue
            inputs = {name: self.read(values[row]) for name, values in order.inputs.items()}
            output, call, value = self.compute(order, inputs)
            self.ran.append((order.node.name, next(iter(inputs.values()))))
            if output == "error":
                failed.append(RowsFailed(rows=(row,), code=ErrorCode.GENERAL_EXCEPTION, message=f"wrong {value}"))
            else:
                answers.setdefault((output, call), []).append((row, value))
        emitted = []
        for (output, call), pairs in answers.items():
            called = None if call is None else next(g.id for g in order.plan.graphs.values() if g.name == call)
            fields = {}
            if order.node.kind != "if" and output != "none":
                block = self.put([value for _, value in pairs])
                if order.node.kind == "length":
                    block = replace(block, layout=replace(block.layout, shape=None, shapes=((1,),) * len(pairs)))
                fields = {"value": tuple((block, at) for at in range(len(pairs)))}
            emitted.append(Emitted(output=output, rows=tuple(row for row, _ in pairs), fields=fields, call=called))
        loaded = ((order.plan.digest, order.node.queue),)
        return BatchFinished(
            executor=executor,
            order=order.order,
            emitted=tuple(emitted),
            failed=tuple(failed),
            missing=missing,
            loaded=loaded,
        )

    def compute(self, order: BatchOrder, inputs: Mapping[str, int]) -> tuple[str, str | None, int]:
        """(output or "error", graph to call, value)"""
        args = order.node.args
        if order.plan.graphs[order.node.graph].is_block:
            return "", None, inputs["value"] + len(order.plan.graphs[order.node.graph].nodes)
        match order.node.kind:
            case "add" | "dice" | "alone":
                return "out", None, inputs["value"] + int(str(args.get("by", 0)))
            case "sum":
                return "out", None, inputs["left"] + inputs["right"]
            case "maybe":
                visits = sum(name == order.node.name for name, _ in self.ran)
                return ("made" if visits < 2 else "none"), None, inputs["value"] + visits
            case "length":
                return "out", None, inputs["value"]
            case "if":
                return ("then" if inputs["value"] > 0 else "else"), None, 0
            case "branch":
                return ("odd" if inputs["value"] % 2 else "even"), None, inputs["value"]
            case "call":
                return "out", str(args["graph"]), inputs["value"]
            case "down":
                value = inputs["value"]
                return ("back", str(args["graph"]), value - 1) if value > 0 else ("out", None, value)
            case "fail":
                wrong = args.get("wrong")
                assert isinstance(wrong, (list, tuple))
                return ("error" if inputs["value"] in wrong else "out"), None, inputs["value"]
        raise AssertionError(order.node.kind)

    # ---- the store

    def put(self, values: Sequence[int], *, kept: bool = False) -> Block:
        self.counter += 1
        block = Block(
            BlockId(self.me, self.counter),
            Layout(DTYPES["int64"], len(values), ()),
            8 * len(values),
            tuple(_digest(value) for value in values) if self.digesting else (),
            checksum_of(values),
        )
        self.stored[block.id] = list(values)
        if kept:
            self.kept.add(block.id)
        return block

    def read(self, value: Value) -> int:
        return self.stored[value[0].id][value[1]]

    def evict(self) -> None:
        """Lose everything that is not kept."""
        lost = sorted(self.stored.keys() - self.kept)
        for block in lost:
            del self.stored[block]
        self.tell(BlocksEvicted(ids=tuple(lost)))

    # ---- what was said

    def last(self, kind: type[Any]) -> Any:
        return next(send.message for send in reversed(self.sent) if isinstance(send.message, kind))

    def outcome(self, task: TaskId, client: ClientId = ALICE) -> Outcome | None:
        """How a task ended for a client; it is told once."""
        told = self.outcomes.get((client, task), [])
        assert len(told) <= 1, "told twice"
        return told[0] if told else None

    def results(self, tasks: Sequence[TaskId]) -> list[int | None]:
        outcomes = [self.outcome(task) for task in tasks]
        return [None if outcome is None else outcome.value for outcome in outcomes]

    def leave(self) -> None:
        self.tell(ClientLost(client=ALICE))


def checksum_of(values: Sequence[int]) -> bytes:
    """As a driver computes it for what others may fetch, and for what was fetched."""
    return hashlib.blake2b(",".join(map(str, values)).encode(), digest_size=16).digest()


def _digest(value: int | str) -> bytes:
    return hashlib.blake2b(str(value).encode(), digest_size=32).digest()


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Makes a world; keyword arguments are sections of settings."""

    def make(executors: int = 1, *, tells: tuple[str, ...] = (), **sections: Mapping[str, object]) -> World:
        world = World(Settings.of(sections), tells=frozenset(tells))
        world.start(executors)
        return world

    return make


@pytest.fixture
def build() -> Any:
    """The builders of definitions: build.chain, build.graph, build.node."""

    class Build:
        chain = staticmethod(chain)
        graph = staticmethod(graph)
        node = staticmethod(node)

    return Build
