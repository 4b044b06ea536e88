"""Batches: tasks of this peer that are lent out together, to whichever executor.

Purpose   Takes batches out of queues, and takes results, failures and batches back.
Rules     1. A batch's answer counts only under its lease, and for a task only while the task has its token.
          2. Every position of a batch is settled once: answered, failed, lost an input, or gone meanwhile.
          3. Tasks whose executor died run alone until a step succeeds; `poison_limit` such deaths make them poison.
          4. Nobody is to blame for the end of a peer: its tasks go back as they were, only counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from ..errors import ErrorCode
from ..graph.plan import GraphPlan, NodePlan
from ..ids import ExecutorId, PeerId, TaskId, Token
from .actions import RowsCancelled
from .events import Emitted, RowsFailed
from .executors import Executors, subtract
from .leases import Expectation, Lease
from .ledger import Cause, Phase, Record
from .peermessages import RowsRevoked
from .queues import Queue, QueueKey
from .shares import US_PER_S, share
from .state import State
from .travel import PURGED, Failure, Travel
from .values import Value


class Batches:
    """All batches of this peer's tasks. claimants: executors, here and elsewhere, that have tasks of a queue."""

    def __init__(self, state: State, travel: Travel, executors: Executors) -> None:
        self._state = state
        self._executors = executors
        self._leases = state.leases
        self._ledger = state.ledger
        self._plans = state.plans
        self._travel = travel
        self.claimants: Counter[QueueKey] = Counter()

    # ---- lending

    def size(self, queue: Queue, *, task_us: int, tasks_min: int, tasks_max: int) -> int:
        """How many tasks of a queue an executor gets, here or elsewhere (core/shares.py)."""
        if not task_us or tasks_min >= tasks_max:
            return tasks_max
        hints, pace = self._state.gossip, queue.pace
        rate = hints.rate(queue.key)
        if pace.task_us:
            rate += self._executors.able(queue.node) * US_PER_S / pace.task_us
        waiting = queue.length + hints.waiting(queue.key)
        return share(waiting, rate, task_us=task_us, tasks_min=tasks_min, tasks_max=tasks_max)

    def own_size(self, queue: Queue) -> int:
        """How many tasks an executor of this peer gets, here or elsewhere."""
        tasks_max = self._state.settings.executor.batch_size if queue.node.batch_size is None else queue.node.batch_size
        tasks_min = queue.pace.tasks_min(tasks_max)
        return self.size(queue, task_us=queue.pace.task_us, tasks_min=tasks_min, tasks_max=tasks_max)

    def draw(self, queue: Queue, tasks_max: int, near: PeerId | None = None) -> list[Record]:
        """Take the next batch out of a queue. Tasks that lack an input fail; so there may be none left.

        near: the peer that it is for; None: we are.
        """
        needed = queue.needed
        # Whoever gives a node a size of its own knows what its rows are.
        bytes_max = self._state.settings.executor.batch_bytes if queue.node.batch_size is None else None
        records = []
        for task in queue.pop_batch(tasks_max, queue.node.batch_tokens, near, bytes_max):
            record = self._ledger.record(task)
            assert record is not None
            assert record.phase is Phase.WAIT
            if record.stack[-1].values.keys() >= needed:
                records.append(record)
            else:
                self._travel.failed(record, _lacks(record, queue.needed))
        return records

    def inputs(self, queue: Queue, records: list[Record]) -> dict[str, tuple[Value, ...]]:
        """What the node gets: its field -> one value per task."""
        inputs = {}
        for name, source in queue.sources.items():
            inputs[name] = tuple([record.stack[-1].values[source] for record in records])
        return inputs

    def lend(
        self,
        queue: Queue,
        records: list[Record],
        executor: ExecutorId,
        *,
        expires_ms: int,
        until_ms: int,
        holder: PeerId | None = None,
    ) -> Lease:
        """Lend tasks (just drawn) to an executor."""
        order, token = self._leases.token()
        weight, nbytes, tasks = queue.node.weight * len(records), 0, []
        for record in records:
            self._ledger.move(record, Cause.CLAIM, self._state.now_ms)
            record.token = token
            weight += record.weight
            nbytes += record.nbytes
            tasks.append(record.id)
        lease = Lease(
            order=order,
            token=token,
            executor=executor,
            queue=queue,
            tasks=tuple(tasks),
            expires_ms=expires_ms,
            # As long as the node says nothing else: all tasks, as large as they are, by its first output.
            expects=self._announced(queue, dict.fromkeys([*queue.node.outputs][:1], (weight, nbytes))),
            holder=holder,
            until_ms=until_ms,
        )
        self._leases.lend(lease)
        self.claimants[queue.key] = self.claimants.get(queue.key, 0) + 1
        self._plans.touched[queue.key] = None
        return lease

    def max_exec_ms(self, node: NodePlan) -> int:
        """How long one batch of a node may take."""
        return node.max_exec_ms or int(self._state.settings.executor.max_exec_s * 1000)

    def expect(self, lease: Lease, outputs: Mapping[str, tuple[float, int]]) -> None:
        """A node knows better what will come of its batch."""
        _unexpect(lease)
        self._leases.put(replace(lease, expects=self._announced(lease.queue, outputs)))

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

    # ---- taking back

    def settle(
        self,
        lease: Lease,
        emitted: Iterable[Emitted],
        failed: Iterable[RowsFailed],
        missing: Iterable[int],
        *,
        more: bool = False,
    ) -> None:
        """Take the answer of a batch whose lease has just been settled. Each position is in it at most once.

        more: it is a part of the answer, and the lease still holds for the rest.
        """
        if not more:
            self._end(lease)
        node = lease.queue.node
        graph = lease.queue.plan.graphs[node.graph]
        open_rows = dict(enumerate(lease.tasks))
        for part in emitted:
            self._apply(lease, node, graph, part, open_rows)
        for rows_failed in failed:
            for row in rows_failed.rows:
                record = self._committer(lease, open_rows.pop(row))
                if record is not None:
                    self._travel.failed(record, _failure(rows_failed, lease.executor))
        for row in missing:
            record = self._committer(lease, open_rows.pop(row))
            if record is None:
                continue
            values = [value for values in self.inputs(lease.queue, [record]).values() for value in values]
            loss = self._state.blocks.loss(values)
            if loss is not None:
                self._travel.lost(record, loss)
            elif lease.holder is None:
                self._travel.failed(record, PURGED)
            else:  # gone there; here, its inputs may well be left
                self._travel.reclaimed(record, PURGED)
        for task in () if more else open_rows.values():
            record = self._committer(lease, task)
            if record is not None:
                message = f"the executor did not answer for this task at {record.place}"
                self._travel.failed(record, Failure(code=ErrorCode.UNKNOWN, message=message, executor=lease.executor))

    def _apply(
        self, lease: Lease, node: NodePlan, graph: GraphPlan, emitted: Emitted, open_rows: dict[int, TaskId]
    ) -> None:
        travel = self._travel
        called = None if emitted.call is None else lease.queue.plan.graphs[emitted.call]
        columns = tuple(emitted.fields.items())
        for index, row in enumerate(emitted.rows):
            record = self._committer(lease, open_rows.pop(row))
            if record is None:
                continue
            fields: dict[str, Value] = {}
            for name, column in columns:
                fields[name] = column[index]
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

    def take_back(self, lease: Lease, reason: str, *, crashed: bool, counted: bool) -> None:
        """A batch comes back undone, its lease settled. Its tasks go back to the step they were lent for.

        crashed: the work may be to blame. counted: as a restart of its tasks.
        """
        self._end(lease)
        failure = Failure(code=ErrorCode.DEFUNCT_EXECUTOR, message=reason, executor=lease.executor)
        for task in lease.tasks:
            record = self._committer(lease, task)
            if record is None:
                continue
            if crashed:
                record.crashes += record.solo
                record.solo = True
                self._state.crash_marked(record, partial(self._crashed, record, failure))
            else:
                self._travel.reclaimed(record, failure if counted else None)

    def _crashed(self, record: Record, failure: Failure) -> None:
        """A task whose executor died, with that on its account."""
        if record.crashes >= self._state.settings.tasks.poison_limit:
            message = f"its executor died {record.crashes} times in a row while it ran alone; last: {failure.message}"
            self._travel.failed(record, replace(failure, code=ErrorCode.POISON, message=message))
        else:
            self._travel.reclaimed(record, failure)

    def _end(self, lease: Lease) -> None:
        self._plans.touched[lease.queue.key] = None
        subtract(self.claimants, (lease.queue.key,))
        if lease.expects:
            _unexpect(lease)

    def revoke(self, records: Iterable[Record]) -> None:
        """Tasks are cleared or cancelled: take them out of their queues and batches, and wherever they rest."""
        running: dict[Token, set[TaskId]] = {}
        for record in records:
            if record.phase is Phase.WAIT:
                assert record.node is not None
                queue = self._plans.queue(record.plan, record.node)
                queue.remove(record.id)
            elif record.phase is Phase.REST:
                self._travel.resting.drop(record)
            elif record.token is not None:
                running.setdefault(record.token, set()).add(record.id)
                record.token = None
        for lease in self._leases if running else ():
            tasks = running.get(lease.token, ())
            rows = tuple([row for row, task in enumerate(lease.tasks) if task in tasks])
            if not rows:
                continue
            if lease.holder is None:
                self._state.out.work(RowsCancelled(executor=lease.executor, order=lease.order, rows=rows))
            else:
                message = RowsRevoked(order=lease.order, executor=lease.executor, rows=rows)
                self._state.members.tell(lease.holder, message)

    def check_invariants(self) -> None:
        assert self.claimants == Counter(lease.queue.key for lease in self._leases)
        tokens = {lease.token: lease for lease in self._leases}
        for record in self._ledger:
            if record.token is not None:
                assert record.id in tokens[record.token].tasks


def _lacks(record: Record, needed: frozenset[str]) -> Failure:
    missing = sorted(needed - record.stack[-1].values.keys())
    message = f"{record.place} needs {', '.join(missing)}, which is not made on this task's way through the graph"
    return Failure(code=ErrorCode.GENERAL_EXCEPTION, message=message)


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
