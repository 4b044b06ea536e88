"""Claims: which executor of this peer works on which of its tasks.

Purpose   Lends batches to idle executors, takes results and failures back, and gives hung executors up.
Rules     1. An idle executor never stays idle while a queue has tasks (late binding: it claims when it is free), unless
             their node may not run beside itself.
          2. Own tasks come first; core/borrowing.py has the rest.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from ..ids import ExecutorId, QueueId
from .actions import AbandonExecutor, BatchOrder, RunBatch
from .batches import Batches
from .events import BatchExpected, BatchFinished, Emitted
from .executors import Executors
from .fetches import Fetches
from .leases import Lease
from .ledger import Record
from .queues import Queue, QueueKey
from .sizes import fitting
from .state import State
from .strategy import NodeView
from .values import Block


class Claims:
    """The executors of this peer and their leases on its tasks."""

    def __init__(self, state: State, executors: Executors, batches: Batches, fetches: Fetches) -> None:
        self._state = state
        self._leases = state.leases
        self._plans = state.plans
        self._blocks = state.blocks
        self._out = state.out
        self._executors = executors
        self._batches = batches
        self._fetches = fetches
        self.counters = {"batches": 0, "fenced": 0}

    # ---- executors go

    def lost(self, executor: ExecutorId, reason: str, *, crashed: bool) -> None:
        """An executor is gone. Its tasks go back to the step they were lent for."""
        at_work = self._executors.at_work_on(executor)
        if not self._executors.remove(executor):
            return
        self._out.report("tally.executor.stop", executor=executor, reason=reason)
        if crashed:
            queue = None if at_work is None else self._plans.find(at_work)
            about = {} if queue is None else {"node": queue.plan.place(queue.node)}
            self._out.report("error.executor", executor=executor, message=reason, **about)
        lease = self._leases.of(executor)
        if lease is not None:
            self._leases.settle(lease.order, executor)
            crashed = not self._fetches.forget(lease.order) and crashed  # it was not at work yet
            if crashed:
                self._executors.deaths.died(self._state.now_ms)
            self._batches.take_back(lease, reason, crashed=crashed, counted=crashed)

    def expired(self, lease: Lease) -> None:
        """An executor ran past its time: give it up. (What it waits for may come late, which is not its fault.)"""
        if self._fetches.forget(lease.order):
            self._executors.release(lease.executor, None)
            self._batches.take_back(lease, INPUTS_LATE, crashed=False, counted=True)
            return
        self._executors.remove(lease.executor)
        self._out.work(AbandonExecutor(executor=lease.executor))
        place = lease.queue.plan.place(lease.queue.node)
        self._out.report("tally.executor.reclaim", executor=lease.executor, node=place)
        self._out.report("error.executor", executor=lease.executor, message=RAN_TOO_LONG, node=place)
        self._executors.deaths.died(self._state.now_ms)
        self._batches.take_back(lease, RAN_TOO_LONG, crashed=True, counted=True)

    # ---- lending

    def dispatch(self) -> None:
        """Lend batches until no executor is idle or no task waits that could run now."""
        if self._state.leaving:
            return
        idle = self._executors.idle
        while idle and (queues := self._open()):
            executor = next(iter(idle))
            self._lend(executor, queues[0] if len(queues) == 1 else self._pick(executor, queues))

    def _open(self) -> list[Queue]:
        """The queues with tasks of which another batch may run now."""
        may_run = self._executors.may_run
        return [
            queue
            for queue in self._plans.waiting.values()
            if queue.runs and (queue.node.thread_safe or may_run(queue.key, queue.node))  # most are, and not looked up
        ]

    def _pick(self, executor: ExecutorId, queues: list[Queue]) -> Queue:
        key = self._executors.choose(executor, [self.view(queue) for queue in queues])
        return next(queue for queue in queues if queue.key == key)

    def view(self, queue: Queue) -> NodeView:
        """The numbers of a queue and its node, here and at other peers."""
        length, weight, pressure, expected_pressure, claimants, loaded = self._state.gossip.view(queue.key)
        return NodeView(
            key=queue.key,
            length=queue.length + length,
            weight=queue.weight + weight,
            pressure=queue.pressure + pressure,
            expected_pressure=queue.expected_pressure + expected_pressure,
            load_cost=queue.node.load_cost,
            claimants=self.claimants(queue) + claimants,
            loaded=self.loaded(queue) + loaded,
        )

    def _lend(self, executor: ExecutorId, queue: Queue) -> None:
        node = queue.node
        # A task that waits alone is nothing to share.
        records = self._batches.draw(queue, self._batches.own_size(queue) if queue.length > 1 else 1)
        if not records:
            return
        max_exec_ms = self._batches.max_exec_ms(node)
        until_ms = self._state.now_ms + max_exec_ms
        lease = self._batches.lend(queue, records, executor, expires_ms=until_ms, until_ms=until_ms)
        self._executors.occupy(executor, queue.key)
        self.counters["batches"] += 1
        inputs = self._batches.inputs(queue, records)
        lacking = self._blocks.lacking(inputs) if self._blocks.any_away else None
        batch = BatchOrder(
            order=lease.order,
            plan=queue.plan,
            node=node,
            token=lease.token,
            tasks=lease.tasks,
            inputs=self._blocks.inputs(inputs) if self._blocks.any_away else inputs,
            max_exec_ms=max_exec_ms,
            solo=records[0].solo,
        )
        if lacking:
            self._fetches.run(executor, batch, dict.fromkeys(lacking), partial(self._begins, lease.order, executor))
        else:
            self._executors.begins(executor, self._state.now_ms)
            self._out.work(RunBatch(executor=executor, order=batch))

    def _begins(self, order: int, executor: ExecutorId, _: Iterable[Block]) -> None:
        """A batch that has waited for its inputs begins to run; its driver sees to them while it does."""
        lease = self._leases.held(order, executor)
        assert lease is not None
        self._executors.begins(executor, self._state.now_ms)
        until_ms = self._state.now_ms + self._batches.max_exec_ms(lease.queue.node)
        self._leases.put(replace(lease, expires_ms=until_ms, until_ms=until_ms))

    def expected(self, event: BatchExpected) -> None:
        """A node knows better what will come of its batch."""
        lease = self._leases.held(event.order, event.executor)
        if lease is not None:
            self._batches.expect(lease, event.outputs)

    # ---- taking back

    def finished(self, event: BatchFinished) -> None:
        """An executor is through with a batch."""
        blocks = self._blocks.admit(blocks_of(event.emitted), kept=False)
        lease = self._leases.settle(event.order, event.executor)
        if lease is None:
            self.counters["fenced"] += 1
        else:
            self._executors.measured(event, lease.queue, len(lease.tasks), self._state.now_ms)
            self._executors.release(event.executor, event.loaded)
            event = fitting(event, blocks, lease.queue.node.name, self._state.row_bytes_max)
            self._batches.settle(lease, event.emitted, event.failed, event.missing)
        self._blocks.settle(blocks)

    def revoke(self, records: Iterable[Record]) -> None:
        """Tasks are cleared or cancelled: take them out of their queues and batches."""
        self._batches.revoke(records)

    # ---- looking

    def idle_count(self) -> int:
        """Executors of this peer that have nothing to do."""
        return len(self._executors.idle)

    def claimants(self, queue: Queue) -> int:
        """Executors that have tasks of a queue, here and at other peers."""
        return self._batches.claimants[queue.key]

    def loaded(self, queue: Queue) -> int:
        """Executors of this peer that have a node loaded."""
        return self._executors.loaded[queue.key]

    def executors(self) -> dict[ExecutorId, tuple[QueueKey | None, frozenset[tuple[bytes, QueueId]]]]:
        """Executor -> (the queue it works for now, what it has loaded)."""
        return {
            executor: (slot.own if slot.busy else None, slot.loaded)
            for executor, slot in sorted(self._executors.slots.items())
        }

    def check_invariants(self) -> None:
        assert self._state.leaving or not (self._executors.idle and self._open()), "an executor idles while tasks wait"


RAN_TOO_LONG = "the node ran longer than its max_exec_s and its executor was given up"
INPUTS_LATE = "its inputs lie with another peer and did not come within max_exec_s"


def blocks_of(emitted: tuple[Emitted, ...]) -> dict[Block, None]:
    """Every block of an answer once, in order."""
    blocks: dict[Block, None] = {}
    for part in emitted:
        for values in part.fields.values():
            for block, _ in values:
                blocks[block] = None
    return blocks
