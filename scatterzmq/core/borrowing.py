"""Borrowing: executors of this peer that work on other peers' tasks.

Purpose   Runs what others grant to executors that have asked (core/asking.py), and has owners learn what came of it.
Rules     1. Own work comes first, also while a claim is under way; what is granted then goes back.
          2. Commits and batches that come back undone are said again until they are answered or the owner is gone. An
             owner that is gone has restarted its tasks elsewhere: nothing for it is of use any more.
          3. An executor is free once it is through, whether its owner knows of the results or not; where it asks the
             same owner next, both are said in one message.
          4. Large results stay here for their owner (core/payloads.py); inputs that lie elsewhere are fetched before a
             batch begins (core/fetches.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from ..graph.plan import NodePlan, Plan
from ..ids import ExecutorId, PeerId, QueueId, TaskId, Token
from .actions import AbandonExecutor, BatchOrder, RowsCancelled, RunBatch
from .asking import Asking
from .claims import INPUTS_LATE, RAN_TOO_LONG, blocks_of
from .commits import Told, commit_of
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
from .queues import Queue, QueueKey
from .sizes import batch_bytes, fitting, is_short, pieces
from .state import State
from .values import Block, Value

MAX_EXEC_MS_MAX = 1_000_000_000_000
TTL_MS_MIN = 30


@dataclass(slots=True, eq=False)
class _Loan:
    """A batch of another peer that runs here, as our batch number `order` and the owner's `number`.

    blocks: its inputs. fenced: nobody wants its results any more.
    """

    order: int
    executor: ExecutorId
    owner: PeerId
    number: int
    key: QueueKey
    plan: Plan
    tasks: tuple[TaskId, ...]
    blocks: tuple[Block, ...]
    expires_ms: int
    ttl_ms: int
    fenced: bool = False


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
        self._loans: dict[int, _Loan] = {}
        self._answers: dict[tuple[PeerId, ExecutorId, int], _Answer] = {}
        self._unsent: list[_Answer] = []
        self._renew_ms: int | None = None
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self.counters = {"borrowed": 0, "returned": 0, "surrendered": 0, "borrowed_in_vain": 0}

    @property
    def busy(self) -> bool:
        """Whether other peers' tasks run here, or their owners do not know yet what came of them."""
        return bool(self._loans or self._answers)

    # ---- claiming

    def dispatch(self, *, look: bool) -> None:
        """Find work for idle executors, and send what has come of earlier work. look: something may have changed."""
        self._asking.dispatch(self._returning, look=look)
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
        if queue is None or found is None or not self._executors.may_run(key, queue.node):
            self._give_back(owner, message)
        else:
            self._begin(owner, queue, message, found)

    def _begin(self, owner: PeerId, queue: Queue, message: Grant, found: Read) -> None:
        order, _ = self._state.leases.token()
        now_ms = self._state.now_ms
        max_exec_ms = min(max(message.max_exec_ms, 1), MAX_EXEC_MS_MAX)
        loan = _Loan(
            order=order,
            executor=message.executor,
            owner=owner,
            number=message.order,
            key=queue.key,
            plan=queue.plan,
            tasks=message.ids,
            blocks=tuple(found.here),
            expires_ms=now_ms + max_exec_ms,
            ttl_ms=max(message.ttl_ms, TTL_MS_MIN),
        )
        self._loans[order] = loan
        for block in loan.blocks:
            self._blocks.hold((block, 0))
        self._plans.enter(queue.plan)
        self._executors.occupy(message.executor, queue.key)
        self._renew_soon(loan.ttl_ms)
        self.counters["borrowed"] += 1
        batch = BatchOrder(
            order=order,
            plan=queue.plan,
            node=queue.node,
            token=Token(self._members.incarnation(owner), owner, message.order),
            tasks=message.ids,
            inputs=found.inputs,
            max_exec_ms=max_exec_ms,
            solo=message.solo,
        )
        if found.lacking:
            begins = partial(self._begins, loan, max_exec_ms)
            self._fetches.run(message.executor, batch, found.lacking, begins, owner)
        else:
            self._executors.begins(message.executor, now_ms)
            self._out.work(RunBatch(executor=message.executor, order=batch))

    def _begins(self, loan: _Loan, max_exec_ms: int, blocks: Iterable[Block]) -> None:
        """A batch that has waited for its inputs begins to run."""
        for block in blocks:
            self._blocks.hold((block, 0))
            loan.blocks += (block,)
        loan.expires_ms = self._state.now_ms + max_exec_ms
        self._executors.begins(loan.executor, self._state.now_ms)

    def _unasked(self, owner: PeerId, message: Grant) -> None:
        """A grant for an executor that found something else meanwhile, or that we have taken already."""
        known = (owner, message.executor, message.order) in self._answers or any(
            (loan.owner, loan.executor, loan.number) == (owner, message.executor, message.order)
            for loan in self._loans.values()
        )
        if message.ids and not known:
            self._give_back(owner, message)

    def _give_back(self, owner: PeerId, message: Grant) -> None:
        """Said once: if it gets lost, the lease runs out."""
        self.counters["surrendered"] += 1
        surrender = Surrender(executor=message.executor, order=message.order, reason="", crashed=False)
        self._members.tell(owner, surrender)

    def finished(self, event: BatchFinished) -> bool:
        """An executor is through with a batch. False if it was none of another peer."""
        loan = self._loans.get(event.order)
        if loan is None or loan.executor != event.executor:
            return False
        blocks = self._blocks.admit(blocks_of(event.emitted), kept=False)
        needed = self._plans.needed(loan.plan)  # which may go with the batch
        node = loan.plan.queues[loan.key[1]]
        self._executors.measured(event, self._plans.queue(loan.plan, node), len(loan.tasks), self._state.now_ms)
        self._executors.release(event.executor, event.loaded)
        self._end(loan)
        if loan.fenced:
            self.counters["borrowed_in_vain"] += 1
            self._blocks.settle(blocks)
        else:
            event = fitting(event, blocks, node.name, self._state.row_bytes_max)
            told = commit_of(event, loan.number, loan.plan, node, needed, self._inline_bytes)
            if told.stays and not is_short(told, self._batch_bytes):
                told = commit_of(event, loan.number, loan.plan, node, needed)
            self._payloads.hold(loan.owner, told.stays)
            first, *rest = pieces(told, self._batch_bytes)
            self._promise(loan, first.message, first.values, blocks, told.stays, rest)
            for queue, tasks in _lands_in(loan.plan, node, event):
                key = (loan.key[0], queue)
                self._asking.correct(loan.owner, key, self._asking.believed(loan.owner, key) + tasks)
        return True

    def lost(self, executor: ExecutorId, reason: str, *, crashed: bool) -> None:
        """An executor is gone; core/claims.py sees to the rest."""
        self._asking.asks.pop(executor, None)
        for loan in [loan for loan in self._loans.values() if loan.executor == executor]:
            self._undone(loan, reason, crashed=crashed)

    def _undone(self, loan: _Loan, reason: str, *, crashed: bool) -> None:
        crashed = not self._fetches.forget(loan.order) and crashed  # it was not at work yet
        self._end(loan)
        if not loan.fenced:
            message = Surrender(executor=loan.executor, order=loan.number, reason=reason, crashed=crashed)
            self.counters["surrendered"] += 1
            self._promise(loan, message, {}, [], [], [])

    def _end(self, loan: _Loan) -> None:
        del self._loans[loan.order]
        self._blocks.settle(loan.blocks)
        self._plans.release(loan.plan.digest)

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
        self._answers[loan.owner, loan.executor, loan.number] = answer
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
            for loan in [loan for loan in self._loans.values() if (loan.owner, loan.number) == (owner, number)]:
                self._fence(loan)
            for key in [key for key in self._answers if (key[0], key[2]) == (owner, number)]:
                self._drop_answer(key)

    def revoked(self, owner: PeerId, message: RowsRevoked) -> None:
        """Tasks of a batch are not wanted any more."""
        for loan in self._loans.values():
            if (loan.owner, loan.executor, loan.number) == (owner, message.executor, message.order):
                unwanted = frozenset(message.rows)
                rows = tuple([row for row in range(len(loan.tasks)) if row in unwanted])
                if rows:
                    self._out.work(RowsCancelled(executor=loan.executor, order=loan.order, rows=rows))

    def gone(self, owner: PeerId) -> None:
        """A member is dead or has left."""
        self._asking.gone(owner)
        for loan in [loan for loan in self._loans.values() if loan.owner == owner]:
            self._fence(loan)
        for key in [key for key in self._answers if key[0] == owner]:
            self._drop_answer(key)

    def _fence(self, loan: _Loan) -> None:
        if self._fetches.forget(loan.order):
            self._end(loan)
            self._executors.release(loan.executor, None)
        elif not loan.fenced:
            loan.fenced = True
            rows = tuple(range(len(loan.tasks)))
            self._out.work(RowsCancelled(executor=loan.executor, order=loan.order, rows=rows))

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
        for loan in [loan for loan in self._loans.values() if loan.expires_ms <= now_ms]:
            if self._fetches.is_waiting(loan.order):
                self._executors.release(loan.executor, None)
                self._undone(loan, INPUTS_LATE, crashed=False)
                continue
            self._executors.remove(loan.executor)
            self._out.work(AbandonExecutor(executor=loan.executor))
            place = loan.plan.place(loan.plan.queues[loan.key[1]])
            self._out.report("tally.executor.reclaim", executor=loan.executor, node=place)
            self._out.report("error.executor", executor=loan.executor, message=RAN_TOO_LONG, node=place)
            self._undone(loan, RAN_TOO_LONG, crashed=True)
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
        for loan in self._loans.values():
            if not loan.fenced:
                held.setdefault(loan.owner, []).append((loan.number, loan.executor))
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
        return min(self._times(), default=None)

    def _times(self) -> Iterator[int]:
        for loan in self._loans.values():
            yield loan.expires_ms
        yield from self._asking.times()
        for answer in self._answers.values():
            yield answer.again_ms
        if self._renew_ms is not None:
            yield self._renew_ms

    # ---- looking

    def blocks_held(self) -> Iterable[Block]:
        """Every use of a block by a batch that runs or by an answer, for checks."""
        for loan in self._loans.values():
            yield from loan.blocks
        for answer in self._answers.values():
            yield from answer.blocks

    def check_invariants(self) -> None:
        assert not self._unsent
        own = {lease.executor for lease in self._state.leases if lease.holder is None}
        here = [loan.executor for loan in self._loans.values()]
        assert len(set(here)) == len(here), "an executor has two batches of others"
        assert not own & set(here), "an executor has a batch of ours and one of others"
        assert own | set(here) == self._executors.slots.keys() - self._executors.idle.keys()
        for loan in self._loans.values():
            assert loan.fenced or self._members.status(loan.owner) in (Status.ALIVE, Status.SUSPECT)
        self._asking.check_invariants()
        assert self._renew_ms is not None or all(loan.fenced for loan in self._loans.values())


def _lands_in(plan: Plan, node: NodePlan, event: BatchFinished) -> Iterator[tuple[QueueId, int]]:
    """The queues in which the tasks of a batch wait next, and how many, as far as its answer says."""
    for part in event.emitted:
        if part.call is not None:
            yield plan.graphs[part.call].first_queue, len(part.rows)
        elif part.output in node.outputs and (following := node.outputs[part.output].next) is not None:
            yield following, len(part.rows)
