"""Claims: which executor works on what.

Purpose   Lends batches to idle executors, takes results and failures back, and gives hung executors up.
Rules     1. An idle executor never stays idle while a queue has tasks (late binding: it claims when it is free). But a
             node that is not thread-safe has one batch at a time: a second one would only wait, and be held to hang.
          2. A batch's answer counts only under its lease, and for a task only while the task has its token.
          3. Every position of a batch is settled once: answered, failed, lost an input, or gone meanwhile.
          4. Tasks whose executor died run alone until a step succeeds; `poison_limit` such deaths make them poison.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..errors import ErrorCode
from ..graph.plan import GraphPlan, NodePlan
from ..ids import ExecutorId, QueueId, TaskId, Token
from .actions import AbandonExecutor, BatchOrder, RowsCancelled, RunBatch
from .events import BatchExpected, BatchFinished, Emitted, RowsFailed
from .leases import Expectation, Lease
from .ledger import Cause, Phase, Record
from .queues import Queue, QueueKey
from .state import State
from .strategy import NodeStrategy, NodeView, SimpleNodeStrategy, StrategyFailed, choose
from .travel import PURGED, Failure, Travel
from .values import Block, Value


@dataclass(slots=True, eq=False)
class _Slot:
    """One executor: the queue it works for, and what its process has loaded."""

    own: QueueKey | None = None
    busy: bool = False
    loaded: frozenset[tuple[bytes, QueueId]] = field(default_factory=frozenset)


class Claims:
    """The executors of this peer and their leases."""

    def __init__(self, state: State, travel: Travel, strategy: NodeStrategy) -> None:
        self._state = state
        self._leases = state.leases
        self._ledger = state.ledger
        self._plans = state.plans
        self._blocks = state.blocks
        self._out = state.out
        self._travel = travel
        self._strategy = strategy
        self._slots: dict[ExecutorId, _Slot] = {}
        self._idle: dict[ExecutorId, None] = {}
        self._loaded: Counter[QueueKey] = Counter()
        self._claimants: Counter[QueueKey] = Counter()
        self.counters = {"batches": 0, "fenced": 0}

    # ---- executors come and go

    def started(self, executor: ExecutorId) -> None:
        assert executor not in self._slots
        self._slots[executor] = _Slot()
        self._idle[executor] = None
        self._out.report("tally.executor.start", executor=executor)

    def lost(self, executor: ExecutorId, reason: str, *, crashed: bool) -> None:
        """An executor is gone. Its tasks go back to the step they were lent for."""
        slot = self._slots.pop(executor, None)
        if slot is None:
            return
        self._idle.pop(executor, None)
        self._touch(slot.loaded)
        _subtract(self._loaded, slot.loaded)
        self._out.report("tally.executor.stop", executor=executor, reason=reason)
        lease = self._leases.of(executor)
        if lease is not None:
            self._leases.settle(lease.order, executor)
            self._take_back(lease, reason, crashed=crashed)

    def expire(self) -> None:
        """Give up executors that ran past their time."""
        for lease in self._leases.expire(self._state.now_ms):
            slot = self._slots.pop(lease.executor)
            self._touch(slot.loaded)
            _subtract(self._loaded, slot.loaded)
            self._out.work(AbandonExecutor(executor=lease.executor))
            self._out.report("tally.executor.reclaim", executor=lease.executor)
            reason = "the node ran longer than its max_exec_s and its executor was given up"
            self._take_back(lease, reason, crashed=True)

    # ---- lending

    def dispatch(self) -> None:
        """Lend batches until no executor is idle or no task waits that could run now."""
        while self._idle and (queues := self._open()):
            executor = next(iter(self._idle))
            self._lend(executor, self._pick(self._slots[executor], queues))

    def _open(self) -> list[Queue]:
        """The queues with tasks of which another batch may run now."""
        return [queue for queue in self._plans.waiting() if queue.node.thread_safe or not self._claimants[queue.key]]

    def _pick(self, slot: _Slot, queues: list[Queue]) -> Queue:
        if len(queues) == 1:
            return queues[0]
        views = [self._view(queue) for queue in queues]
        own_queue = self._plans.find(slot.own) if slot.own is not None else None
        is_free = own_queue is not None and (own_queue in queues or not own_queue.length)
        own = self._view(own_queue) if own_queue is not None and is_free else None
        try:
            chosen = choose(self._strategy, views, own)
        except StrategyFailed as failed:
            self._out.report("warning.strategy.node", message=str(failed))
            self._strategy = SimpleNodeStrategy()
            chosen = choose(self._strategy, views, own)
        assert chosen is not None
        queue = self._plans.find(chosen.key)
        assert queue is not None
        assert queue.length
        return queue

    def _view(self, queue: Queue) -> NodeView:
        return NodeView(
            key=queue.key,
            length=queue.length,
            weight=queue.weight,
            pressure=queue.pressure,
            expected_pressure=queue.expected_pressure,
            load_cost=queue.node.load_cost,
            claimants=self._claimants[queue.key],
            loaded=self._loaded[queue.key],
        )

    def _lend(self, executor: ExecutorId, queue: Queue) -> None:
        node = queue.node
        size = self._state.settings.executor.batch_size if node.batch_size is None else node.batch_size
        tasks = queue.pop_batch(size, node.batch_tokens)
        self._plans.emptied(queue)
        graph = queue.plan.graphs[node.graph]
        sources = _sources(graph, node)
        needed = set(sources.values())
        records = []
        for task in tasks:
            record = self._ledger.record(task)
            assert record is not None
            assert record.phase is Phase.WAIT
            if record.stack[-1].values.keys() >= needed:
                records.append(record)
            else:
                self._travel.failed(record, _lacks(record, sources))
        if not records:
            return
        order, token = self._leases.token()
        for record in records:
            self._ledger.move(record, Cause.CLAIM, self._state.now_ms)
            record.token = token
        max_exec_ms = node.max_exec_ms or int(self._state.settings.executor.max_exec_s * 1000)
        claimed = tuple([record.id for record in records])
        lease = self._lease(order, executor, queue, records, self._state.now_ms + max_exec_ms)
        self._leases.lend(lease)
        slot = self._slots[executor]
        slot.own, slot.busy = queue.key, True
        del self._idle[executor]
        self._claimants[queue.key] += 1
        self.counters["batches"] += 1
        inputs = {
            name: tuple([record.stack[-1].values[source] for record in records]) for name, source in sources.items()
        }
        batch = BatchOrder(
            order=order,
            plan=queue.plan,
            node=node,
            token=token,
            tasks=claimed,
            inputs=inputs,
            max_exec_ms=max_exec_ms,
            solo=records[0].solo,
        )
        self._out.work(RunBatch(executor=executor, order=batch))

    def _lease(self, order: int, executor: ExecutorId, queue: Queue, records: list[Record], expires_ms: int) -> Lease:
        # As long as the node says nothing else: all tasks, as large as they are, by its first output.
        weight = sum([record.weight for record in records]) + queue.node.weight * len(records)
        nbytes = sum([record.nbytes for record in records])
        expects = self._announced(queue, dict.fromkeys([*queue.node.outputs][:1], (weight, nbytes)))
        token = records[0].token
        assert token is not None
        return Lease(
            order=order,
            token=token,
            executor=executor,
            queue=queue,
            tasks=tuple([record.id for record in records]),
            expires_ms=expires_ms,
            expects=expects,
        )

    def _announced(self, queue: Queue, outputs: Mapping[str, tuple[float, int]]) -> tuple[Expectation, ...]:
        """Tell the queues behind some outputs what will come."""
        plan, node = queue.plan, queue.node
        expects = []
        if not plan.graphs[node.graph].is_block:
            for output, (weight, nbytes) in outputs.items():
                way = node.outputs.get(output)
                if way is not None and way.next is not None:
                    lands_in = self._plans.queue(plan, plan.queues[way.next])
                    lands_in.expect(weight, nbytes)
                    expects.append((lands_in, weight, nbytes))
        return tuple(expects)

    def expected(self, event: BatchExpected) -> None:
        """A node knows better what will come of its batch."""
        lease = self._leases.held(event.order, event.executor)
        if lease is not None:
            _unexpect(lease)
            self._leases.renew(replace(lease, expects=self._announced(lease.queue, event.outputs)))

    # ---- taking back

    def finished(self, event: BatchFinished) -> None:
        """An executor is through with a batch."""
        blocks = self._blocks.admit(_blocks_of(event.emitted), kept=False)
        lease = self._leases.settle(event.order, event.executor)
        if lease is None:
            self.counters["fenced"] += 1
        else:
            self._end_lease(lease)
            slot = self._slots[event.executor]
            slot.busy = False
            self._idle[event.executor] = None
            if event.loaded is not None:
                self._touch(slot.loaded)
                _subtract(self._loaded, slot.loaded)
                slot.loaded = frozenset(event.loaded)
                self._loaded.update(slot.loaded)
                self._touch(slot.loaded)
            self._settle(lease, event)
        self._blocks.settle(blocks)

    def _settle(self, lease: Lease, event: BatchFinished) -> None:
        node = lease.queue.node
        graph = lease.queue.plan.graphs[node.graph]
        open_rows = dict(enumerate(lease.tasks))
        for emitted in event.emitted:
            self._apply(lease, node, graph, emitted, open_rows)
        for failed in event.failed:
            for row in failed.rows:
                record = self._committer(lease, open_rows.pop(row))
                if record is not None:
                    self._travel.failed(record, _failure(failed, event.executor))
        for row in event.missing:
            record = self._committer(lease, open_rows.pop(row))
            if record is not None:
                self._travel.failed(record, PURGED)
        for task in open_rows.values():
            record = self._committer(lease, task)
            if record is not None:
                message = f"the executor did not answer for this task at {record.place}"
                self._travel.failed(record, Failure(code=ErrorCode.UNKNOWN, message=message, executor=event.executor))

    def _apply(
        self, lease: Lease, node: NodePlan, graph: GraphPlan, emitted: Emitted, open_rows: dict[int, TaskId]
    ) -> None:
        travel = self._travel
        called = None if emitted.call is None else lease.queue.plan.graphs[emitted.call]
        names = tuple(emitted.fields)
        columns = tuple(emitted.fields.values())
        for index, row in enumerate(emitted.rows):
            record = self._committer(lease, open_rows.pop(row))
            if record is None:
                continue
            fields: dict[str, Value] = {name: column[index] for name, column in zip(names, columns, strict=True)}
            if called is not None:
                travel.called(record, node, emitted.output, called, fields)
            elif graph.is_block:
                travel.block_finished(record, graph, fields)
            else:
                travel.emitted(record, node, emitted.output, fields)

    def _committer(self, lease: Lease, task: TaskId) -> Record | None:
        """The record, its token taken away, if this lease may commit it; None for a ghost."""
        record = self._ledger.record(task)
        if record is None or record.token is not lease.token:
            return None
        record.token = None
        return record

    def _take_back(self, lease: Lease, reason: str, *, crashed: bool) -> None:
        self._end_lease(lease)
        for task in lease.tasks:
            record = self._committer(lease, task)
            if record is None:
                continue
            if crashed and record.solo:
                record.crashes += 1
            if record.crashes >= self._state.settings.tasks.poison_limit:
                message = f"its executor died {record.crashes} times in a row while it ran alone; last: {reason}"
                self._travel.failed(record, Failure(code=ErrorCode.POISON, message=message, executor=lease.executor))
                continue
            record.solo = record.solo or crashed
            failure = Failure(code=ErrorCode.DEFUNCT_EXECUTOR, message=reason, executor=lease.executor)
            self._travel.reclaimed(record, failure if crashed else None)

    def _end_lease(self, lease: Lease) -> None:
        self._touch((lease.queue.key,))
        _subtract(self._claimants, (lease.queue.key,))
        _unexpect(lease)

    def revoke(self, records: Iterable[Record]) -> None:
        """Tasks are cleared or cancelled: take them out of their queues and batches."""
        running: dict[Token, set[TaskId]] = {}
        for record in records:
            if record.phase is Phase.WAIT:
                assert record.node is not None
                queue = self._plans.queue(record.plan, record.node)
                queue.remove(record.id)
                self._plans.emptied(queue)
            elif record.token is not None:
                running.setdefault(record.token, set()).add(record.id)
                record.token = None
        for lease in self._leases if running else ():
            tasks = running.get(lease.token, ())
            rows = tuple([row for row, task in enumerate(lease.tasks) if task in tasks])
            if rows:
                self._out.work(RowsCancelled(executor=lease.executor, order=lease.order, rows=rows))

    # ---- looking

    def _touch(self, keys: Iterable[QueueKey]) -> None:
        """What is told of the executors of these nodes is about to change."""
        for key in sorted(keys):
            self._plans.touched[key] = None

    def idle_count(self) -> int:
        return len(self._idle)

    def claimants(self, queue: Queue) -> int:
        return self._claimants[queue.key]

    def loaded(self, queue: Queue) -> int:
        return self._loaded[queue.key]

    def executors(self) -> dict[ExecutorId, tuple[QueueKey | None, frozenset[tuple[bytes, QueueId]]]]:
        """Executor -> (the queue it works for now, what it has loaded)."""
        return {
            executor: (slot.own if slot.busy else None, slot.loaded) for executor, slot in sorted(self._slots.items())
        }

    def check_invariants(self) -> None:
        assert self._idle.keys() == {executor for executor, slot in self._slots.items() if not slot.busy}
        assert {lease.executor for lease in self._leases} == self._slots.keys() - self._idle.keys()
        assert not (self._idle and self._open()), "an executor idles while tasks wait"
        claimants = Counter(lease.queue.key for lease in self._leases)
        assert self._claimants == claimants
        assert self._loaded == Counter(key for slot in self._slots.values() for key in sorted(slot.loaded))
        tokens = {lease.token: lease for lease in self._leases}
        for record in self._ledger:
            if record.token is not None:
                assert record.id in tokens[record.token].tasks


def _sources(graph: GraphPlan, node: NodePlan) -> dict[str, str]:
    """What a batch at this node takes from the frame: a block graph takes its whole input."""
    if graph.is_block:
        return {name: f":{name}" for name in graph.input_format}
    return dict(node.inputs)


def _lacks(record: Record, sources: dict[str, str]) -> Failure:
    missing = sorted(source for source in sources.values() if source not in record.stack[-1].values)
    message = f"{record.place} needs {', '.join(missing)}, which is not made on this task's way through the graph"
    return Failure(code=ErrorCode.GENERAL_EXCEPTION, message=message)


def _subtract(counts: Counter[QueueKey], keys: Iterable[QueueKey]) -> None:
    """Count each key once less. What is at zero goes, so that old definitions leave nothing behind."""
    for key in keys:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def _unexpect(lease: Lease) -> None:
    for queue, weight, nbytes in lease.expects:
        queue.unexpect(weight, nbytes)


def _failure(failed: RowsFailed, executor: ExecutorId) -> Failure:
    return Failure(
        code=failed.code,
        message=failed.message,
        traceback=failed.traceback,
        final=failed.final,
        node=failed.node,
        executor=executor,
    )


def _blocks_of(emitted: tuple[Emitted, ...]) -> dict[Block, None]:
    """Every block of an answer once, in order."""
    return {value[0]: None for part in emitted for values in part.fields.values() for value in values}
