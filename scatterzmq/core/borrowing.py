"""Borrowing: executors of this peer that work on other peers' tasks.

Purpose   Runs what others grant to executors that have asked (core/asking.py), and has owners learn what came of it.
Rules     1. Own work comes first, also while a claim is under way; what is granted then goes back.
          2. Commits and batches that come back undone are said again until they are answered or the owner is gone. An
             owner that is gone has restarted its tasks elsewhere: nothing for it is of use any more.
          3. An executor is free once it is through, whether its owner knows of the results or not; where it asks the
             same owner next, both are said in one message.
          4. What several owners grant one executor is run together, as one batch of several loans: with what there is
             after FILL_MS at the latest. Each owner is told what came of its own tasks, as if it were alone.
          5. Large results stay here for their owner (core/payloads.py); inputs that lie elsewhere are fetched before a
             batch begins (core/fetches.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ..graph.plan import NodePlan, Plan
from ..ids import ExecutorId, PeerId, QueueId, TaskId, Token
from .actions import AbandonExecutor, BatchOrder, RowsCancelled, RunBatch
from .asking import Asking
from .claims import INPUTS_LATE, RAN_TOO_LONG, blocks_of
from .commits import Needed, Told, any_stays, commit_of, part_of
from .events import BatchFinished
from .executors import Executors
from .fetches import Fetches
from .grants import Read, read
from .members import Status
from .payloads import Payloads
from .peermessages import (
    Commit,
    Committed,
    Grant,
    Renew,
    Renewed,
    RowsRevoked,
    Surrender,
)
from .queues import Queue
from .sizes import batch_bytes, fitting, is_short, pieces
from .state import State
from .values import Block, Value

MAX_EXEC_MS_MAX = 1_000_000_000_000
TTL_MS_MIN = 30

FILL_MS = 20
"""A part of a batch waits so long for the others: some ways to and fro, and little beside what a batch takes that is
worth filling.
"""


@dataclass(slots=True, eq=False)
class _Loan:
    """Tasks that an owner has lent, under its `number`. start: position of the first one in its batch.

    inputs, lacking: as they came (core/grants.py). fenced: nobody wants the results any more.
    """

    batch: "_Batch"
    owner: PeerId
    number: int
    token: Token
    tasks: tuple[TaskId, ...]
    ttl_ms: int
    inputs: Mapping[str, tuple[Value, ...]]
    lacking: Mapping[Block, None]
    start: int = 0
    fenced: bool = False


@dataclass(slots=True, eq=False)
class _Batch:
    """What an executor runs for others, as our batch number `order`. blocks: inputs that are here.

    due_ms: when it begins without what has not come yet. begun: it was given to its executor.
    """

    order: int
    executor: ExecutorId
    queue: Queue
    solo: bool
    max_exec_ms: int
    due_ms: int
    expires_ms: int
    loans: list[_Loan] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    begun: bool = False

    def begin(self, now_ms: int) -> BatchOrder:
        """All loans as one batch."""
        tasks: list[TaskId] = []
        for loan in self.loans:
            loan.start = len(tasks)
            tasks += loan.tasks
        names = self.loans[0].inputs
        first, *others = self.loans
        self.expires_ms = now_ms + self.max_exec_ms
        return BatchOrder(
            order=self.order,
            plan=self.queue.plan,
            node=self.queue.node,
            token=first.token,
            joined=tuple([(loan.start, loan.token) for loan in others]),
            tasks=tuple(tasks),
            inputs={name: tuple([value for loan in self.loans for value in loan.inputs[name]]) for name in names},
            max_exec_ms=self.max_exec_ms,
            solo=self.solo,
        )


@dataclass(slots=True, eq=False)
class _Answer:
    """What an owner is to know of a batch. values, blocks: what goes with it. stays: blocks that do not.

    rest: pieces to be said when this one has been answered.
    """

    owner: PeerId
    message: Commit | Surrender
    again_ms: int
    values: Mapping[str, tuple[Value, ...]]
    blocks: list[Block]
    ttl_ms: int
    stays: list[Block]
    rest: list[Told]


class Borrowing:
    """What this peer's executors have of others."""

    def __init__(
        self, state: State, executors: Executors, asking: Asking, payloads: Payloads, fetches: Fetches
    ) -> None:
        self._state = state
        self._asking = asking
        self._members = state.members
        self._plans = state.plans
        self._blocks = state.blocks
        self._out = state.out
        self._executors = executors
        self._payloads = payloads
        self._fetches = fetches
        self._inline_bytes = state.settings.store.inline_bytes
        self._batch_bytes = batch_bytes(state.settings.network, state.row_bytes_max)
        self._batches: dict[int, _Batch] = {}
        self._filling: dict[ExecutorId, _Batch] = {}
        self._answers: dict[tuple[PeerId, ExecutorId, int], _Answer] = {}
        self._unsent: list[_Answer] = []
        self._renew_ms: int | None = None
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self.counters = {"borrowed": 0, "joined": 0, "returned": 0, "surrendered": 0, "borrowed_in_vain": 0}

    @property
    def busy(self) -> bool:
        """Whether other peers' tasks run here, or their owners do not know yet what came of them."""
        return bool(self._batches or self._answers)

    # ---- claiming

    def dispatch(self, *, look: bool) -> None:
        """Find work for idle executors, and send what has come of earlier work. look: something may have changed."""
        self._asking.dispatch(self._returning, self._filling, look=look)
        for batch in list(self._filling.values()):
            if batch.executor not in self._asking.asks or batch.due_ms <= self._state.now_ms:
                self._begin(batch)
        if self._unsent or self._asking.asks:
            self._flush()

    def _returning(self, executor: ExecutorId) -> frozenset[PeerId]:
        """The owners that are told now what came of an executor's work."""
        return frozenset(answer.owner for answer in self._unsent if answer.message.executor == executor)

    def _flush(self) -> None:
        """Send what is to be said for the first time, claims with commits where they go to the same owner."""
        unsent, self._unsent = self._unsent, []
        for answer in unsent:
            self._say(answer)
        self._asking.flush()

    def _say(self, answer: _Answer) -> None:
        """Tell an owner what came of a batch."""
        answer.again_ms = self._state.now_ms + self._ask_ms
        message = answer.message
        if isinstance(message, Commit):
            if any(self._blocks.any_gone(values) for values in answer.values.values()):
                reason = "its results were evicted before its owner had them"
                message = Surrender(executor=message.executor, order=message.order, reason=reason, crashed=False)
                self._forget(answer)
                answer.message, answer.values, answer.blocks, answer.rest = message, {}, [], []
            else:
                message = replace(message, claim=self._asking.claim(message.executor, answer.owner))
        self._members.tell(answer.owner, message, answer.values)

    # ---- at work

    def granted(self, owner: PeerId, message: Grant, blocks: Mapping[str, Block]) -> None:
        """A batch (or none) for an executor that asked."""
        key = (message.digest, message.queue)
        if not self._asking.answered(owner, message):
            self._unasked(owner, message)
            return
        queue = self._plans.find(key)
        if not message.ids:
            return
        found = None if queue is None else read(queue, message, blocks, self._payloads)
        if queue is None or found is None or not self._may_take(queue, message):
            self._give_back(owner, message)
        else:
            self._take(owner, queue, message, found)

    def _may_take(self, queue: Queue, message: Grant) -> bool:
        batch = self._filling.get(message.executor)
        if batch is None:
            return self._executors.may_run(queue.key, queue.node)
        return not (batch.solo or message.solo)

    def _take(self, owner: PeerId, queue: Queue, message: Grant, found: Read) -> None:
        """Tasks for an executor. They wait for those that others may grant, and are as good as begun."""
        batch = self._filling.get(message.executor)
        if batch is None:
            batch = self._open(queue, message)
        loan = _Loan(
            batch=batch,
            owner=owner,
            number=message.order,
            token=Token(self._members.incarnation(owner), owner, message.order),
            tasks=message.ids,
            ttl_ms=max(message.ttl_ms, TTL_MS_MIN),
            inputs=found.inputs,
            lacking=found.lacking,
        )
        batch.loans.append(loan)
        batch.max_exec_ms = min(batch.max_exec_ms, max(message.max_exec_ms, 1))
        self._hold(batch, found.here)
        self._renew_soon(loan.ttl_ms)
        self.counters["borrowed"] += 1
        if message.solo:
            self._begin(batch)

    def _open(self, queue: Queue, message: Grant) -> _Batch:
        order, _ = self._state.leases.token()
        max_exec_ms = min(max(message.max_exec_ms, 1), MAX_EXEC_MS_MAX)
        due_ms = self._state.now_ms + FILL_MS
        batch = _Batch(order, message.executor, queue, message.solo, max_exec_ms, due_ms, due_ms + max_exec_ms)
        self._batches[order] = self._filling[batch.executor] = batch
        self._plans.enter(queue.plan)
        self._executors.occupy(batch.executor, queue.key)
        return batch

    def _begin(self, batch: _Batch) -> None:
        """Run what there is; what comes later goes back."""
        del self._filling[batch.executor]
        self._asking.asks.pop(batch.executor, None)
        order = batch.begin(self._state.now_ms)
        self.counters["joined"] += len(order.joined)
        lacking = {block: loan.owner for loan in batch.loans for block in loan.lacking}
        if lacking:
            self._fetches.run(batch.executor, order, lacking, partial(self._begins, batch))
        else:
            self._begins(batch, ())
            self._out.work(RunBatch(executor=batch.executor, order=order))

    def _begins(self, batch: _Batch, blocks: Iterable[Block]) -> None:
        """A batch begins to run. blocks: that it has waited for."""
        self._hold(batch, blocks)
        batch.begun = True
        batch.expires_ms = self._state.now_ms + batch.max_exec_ms
        self._executors.begins(batch.executor, self._state.now_ms)

    def _hold(self, batch: _Batch, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self._blocks.hold((block, 0))
            batch.blocks.append(block)

    def _loans(self) -> list[_Loan]:
        return [loan for batch in self._batches.values() for loan in batch.loans]

    def _unasked(self, owner: PeerId, message: Grant) -> None:
        """A grant for an executor that found something else meanwhile, or that we have taken already."""
        known = (owner, message.executor, message.order) in self._answers or any(
            (loan.owner, loan.batch.executor, loan.number) == (owner, message.executor, message.order)
            for loan in self._loans()
        )
        if message.ids and not known:
            self._give_back(owner, message)

    def _give_back(self, owner: PeerId, message: Grant) -> None:
        """Said once: if it gets lost, the lease runs out."""
        self.counters["surrendered"] += 1
        surrender = Surrender(executor=message.executor, order=message.order, reason="", crashed=False)
        self._members.tell(owner, surrender)

    def finished(self, event: BatchFinished) -> bool:
        """An executor is through with a batch. False if it was none of others."""
        batch = self._batches.get(event.order)
        if batch is None or batch.executor != event.executor:
            return False
        blocks = self._blocks.admit(blocks_of(event.emitted), kept=False)
        needed = self._plans.needed(batch.queue.plan)  # which may go with the batch
        tasks = sum([len(loan.tasks) for loan in batch.loans])
        self._executors.measured(event, batch.queue, tasks, self._state.now_ms)
        self._executors.release(event.executor, event.loaded)
        self._end(batch)
        event = fitting(event, blocks, batch.queue.node.name, self._state.row_bytes_max)
        if event.emitted:
            plan, node = batch.queue.plan, batch.queue.node
            batch.queue.results_stay = any_stays(event, plan, node, needed, self._inline_bytes)
        for loan in batch.loans:
            if loan.fenced:
                self.counters["borrowed_in_vain"] += 1
            else:
                part = event if len(batch.loans) == 1 else part_of(event, loan.start, len(loan.tasks))
                self._done(loan, part, needed)
        self._blocks.settle(blocks)
        return True

    def _done(self, loan: _Loan, event: BatchFinished, needed: Needed) -> None:
        """event: what came of this loan's tasks."""
        queue = loan.batch.queue
        plan, node = queue.plan, queue.node
        blocks = list(blocks_of(event.emitted))
        for block in blocks:
            self._blocks.hold((block, 0))
        told = commit_of(event, loan.number, plan, node, needed, self._inline_bytes)
        if told.stays and not is_short(told, self._batch_bytes):
            told = commit_of(event, loan.number, plan, node, needed)
        self._payloads.hold(loan.owner, told.stays)
        first, *rest = pieces(told, self._batch_bytes)
        self._promise(loan, first.message, first.values, blocks, told.stays, rest)
        for following, tasks in _lands_in(plan, node, event):
            key = (plan.digest, following)
            self._asking.correct(loan.owner, key, self._asking.believed(loan.owner, key) + tasks)

    def lost(self, executor: ExecutorId, reason: str, *, crashed: bool) -> None:
        """An executor is gone; core/claims.py sees to the rest."""
        self._asking.asks.pop(executor, None)
        for batch in [batch for batch in self._batches.values() if batch.executor == executor]:
            self._undone(batch, reason, crashed=crashed)

    def _undone(self, batch: _Batch, reason: str, *, crashed: bool) -> None:
        self._fetches.forget(batch.order)
        self._end(batch)
        crashed = crashed and batch.begun  # else it was not at work yet
        if crashed:
            self._executors.deaths.died(self._state.now_ms)
        for loan in batch.loans:
            if not loan.fenced:
                message = Surrender(executor=batch.executor, order=loan.number, reason=reason, crashed=crashed)
                self.counters["surrendered"] += 1
                self._promise(loan, message, {}, [], [], [])

    def _end(self, batch: _Batch) -> None:
        del self._batches[batch.order]
        self._filling.pop(batch.executor, None)
        self._blocks.settle(batch.blocks)
        self._plans.release(batch.queue.plan.digest)

    def _promise(
        self,
        loan: _Loan,
        message: Commit | Surrender,
        values: Mapping[str, tuple[Value, ...]],
        blocks: list[Block],
        stays: list[Block],
        rest: list[Told],
    ) -> None:
        """Have an owner told, until it says that it knows."""
        answer = _Answer(loan.owner, message, 0, values, blocks, loan.ttl_ms, stays, rest)
        self._answers[loan.owner, loan.batch.executor, loan.number] = answer
        self._unsent.append(answer)

    def committed(self, owner: PeerId, message: Committed) -> None:
        """An owner knows."""
        key = (owner, message.executor, message.order)
        answer = self._answers.get(key)
        if answer is None or (isinstance(answer.message, Commit) and answer.message.piece != message.piece):
            return
        if answer.rest and not message.fenced:
            following = answer.rest.pop(0)
            answer.message, answer.values = following.message, following.values
            self._unsent.append(answer)
        else:
            del self._answers[key]
            self._forget(answer)
            is_undone = isinstance(answer.message, Surrender)  # after a commit that the owner may or may not have had
            self._payloads.answered(answer.stays, fenced=message.fenced or is_undone)
            if isinstance(answer.message, Commit):
                self.counters["borrowed_in_vain" if message.fenced else "returned"] += 1

    def _forget(self, answer: _Answer) -> None:
        self._blocks.settle(answer.blocks)

    # ---- what owners want back

    def renewed(self, owner: PeerId, message: Renewed) -> None:
        """Some batches are not ours (any more)."""
        for number in message.fenced:
            for loan in [loan for loan in self._loans() if (loan.owner, loan.number) == (owner, number)]:
                self._fence(loan)
            for key in [key for key in self._answers if (key[0], key[2]) == (owner, number)]:
                self._drop_answer(key)

    def revoked(self, owner: PeerId, message: RowsRevoked) -> None:
        """Tasks of a batch are not wanted any more."""
        for loan in self._loans():
            if (loan.owner, loan.batch.executor, loan.number) == (owner, message.executor, message.order):
                unwanted = frozenset(message.rows)
                self._cancel(loan, [row for row in range(len(loan.tasks)) if row in unwanted])

    def _cancel(self, loan: _Loan, rows: Iterable[int]) -> None:
        """Nobody wants these of its tasks any more."""
        batch = loan.batch
        positions = tuple([loan.start + row for row in rows])
        if positions and batch.begun:
            self._out.work(RowsCancelled(executor=batch.executor, order=batch.order, rows=positions))

    def gone(self, owner: PeerId) -> None:
        """A member is dead or has left."""
        self._asking.gone(owner)
        for loan in [loan for loan in self._loans() if loan.owner == owner]:
            self._fence(loan)
        for key in [key for key in self._answers if key[0] == owner]:
            self._drop_answer(key)

    def _fence(self, loan: _Loan) -> None:
        batch = loan.batch
        if loan.fenced:
            return
        loan.fenced = True
        if batch.begun:
            self._cancel(loan, range(len(loan.tasks)))
        elif batch.executor in self._filling and len(batch.loans) > 1:
            batch.loans.remove(loan)
        else:  # its inputs may come from nowhere now
            self._executors.release(batch.executor, None)
            self._undone(batch, "other tasks of its batch are not wanted any more", crashed=False)

    def _drop_answer(self, key: tuple[PeerId, ExecutorId, int]) -> None:
        answer = self._answers.pop(key)
        self._unsent = [other for other in self._unsent if other is not answer]
        self._forget(answer)
        self._payloads.answered(answer.stays, fenced=True)
        self.counters["borrowed_in_vain"] += isinstance(answer.message, Commit)

    # ---- time

    def expire(self) -> None:
        """Say again what was not answered, renew, and give up executors that ran past their time."""
        now_ms = self._state.now_ms
        for batch in [batch for batch in self._batches.values() if batch.expires_ms <= now_ms]:
            if not batch.begun:
                self._executors.release(batch.executor, None)
                self._undone(batch, INPUTS_LATE, crashed=False)
                continue
            self._executors.remove(batch.executor)
            self._out.work(AbandonExecutor(executor=batch.executor))
            place = batch.queue.plan.place(batch.queue.node)
            self._out.report("tally.executor.reclaim", executor=batch.executor, node=place)
            self._out.report("error.executor", executor=batch.executor, message=RAN_TOO_LONG, node=place)
            self._undone(batch, RAN_TOO_LONG, crashed=True)
        self._asking.expire()
        for answer in self._answers.values():
            if answer.again_ms <= now_ms and answer not in self._unsent:
                self._say(answer)
        if self._renew_ms is not None and self._renew_ms <= now_ms:
            self._renew()

    def _renew(self) -> None:
        """Renew what runs, and what is finished without its owner knowing."""
        held: dict[PeerId, list[tuple[int, ExecutorId]]] = {}
        self._renew_ms = None
        for loan in self._loans():
            if not loan.fenced:
                held.setdefault(loan.owner, []).append((loan.number, loan.batch.executor))
                self._renew_soon(loan.ttl_ms)
        for (owner, executor, number), answer in self._answers.items():
            if isinstance(answer.message, Commit):
                held.setdefault(owner, []).append((number, executor))
                self._renew_soon(answer.ttl_ms)
        for owner, batches in held.items():
            orders = tuple([number for number, _ in batches])
            self._members.tell(owner, Renew(orders=orders, executors=tuple([executor for _, executor in batches])))

    def _renew_soon(self, ttl_ms: int) -> None:
        due_ms = self._state.now_ms + ttl_ms // 3
        self._renew_ms = due_ms if self._renew_ms is None else min(self._renew_ms, due_ms)

    def deadline_ms(self) -> int | None:
        if not (self._batches or self._answers or self._asking.any_times):
            return self._renew_ms  # most of the time, and this is asked after every event
        return min(self._times(), default=None)

    def _times(self) -> Iterator[int]:
        for batch in self._batches.values():
            yield batch.expires_ms
        for batch in self._filling.values():
            yield batch.due_ms
        yield from self._asking.times()
        for answer in self._answers.values():
            yield answer.again_ms
        if self._renew_ms is not None:
            yield self._renew_ms

    # ---- looking

    def blocks_held(self) -> Iterable[Block]:
        """Every use of a block by a batch that runs or by an answer, for checks."""
        for batch in self._batches.values():
            yield from batch.blocks
        for answer in self._answers.values():
            yield from answer.blocks

    def check_invariants(self) -> None:
        assert not self._unsent
        own = {lease.executor for lease in self._state.leases if lease.holder is None}
        here = [batch.executor for batch in self._batches.values()]
        assert len(set(here)) == len(here), "an executor has two batches of others"
        assert not own & set(here), "an executor has a batch of ours and one of others"
        free = self._executors.idle | self._executors.resting
        assert own | set(here) == self._executors.slots.keys() - free.keys()
        assert self._filling.keys() <= self._asking.asks.keys() <= self._executors.idle.keys() | self._filling.keys()
        for batch in self._batches.values():
            assert batch.loans
            assert batch.begun or not any(loan.fenced for loan in batch.loans)
        for loan in self._loans():
            assert loan.fenced or self._members.status(loan.owner) in (Status.ALIVE, Status.SUSPECT)
        self._asking.check_invariants()
        assert self._renew_ms is not None or all(loan.fenced for loan in self._loans())


def _lands_in(plan: Plan, node: NodePlan, event: BatchFinished) -> Iterator[tuple[QueueId, int]]:
    """The queues in which the tasks of a batch wait next, and how many, as far as its answer says."""
    for part in event.emitted:
        if part.call is not None:
            yield plan.graphs[part.call].first_queue, len(part.rows)
        elif part.output in node.outputs and (following := node.outputs[part.output].next) is not None:
            yield following, len(part.rows)
