"""Borrowing: executors of this peer that work on other peers' tasks.

Purpose   Claims batches for executors for which nothing waits here, and has their owners learn what came of them.
Rules     1. Own work comes first, also while a claim is under way; what is granted then goes back.
          2. Claims, commits and batches that come back undone are said again until they are answered or the owner is
             gone. An owner that is gone has restarted its tasks elsewhere: nothing for it is of use any more.
          3. An owner that had nothing is not asked again for that queue before it says something new of it, or asks for
             help. Where many are idle, few ask (core/nudges.py).
          4. An executor is free once it is through, whether its owner knows of the results or not; where it asks the
             same owner next, both are said in one message.
          5. Large results stay here for their owner (core/payloads.py); inputs that lie elsewhere are fetched before a
             batch begins (core/fetches.py).
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import accumulate

from ..graph.plan import Plan
from ..ids import ExecutorId, PeerId, QueueId, TaskId, Token
from .actions import AbandonExecutor, BatchOrder, RowsCancelled, RunBatch
from .claims import INPUTS_LATE, RAN_TOO_LONG, Claims, blocks_of
from .commits import Told, commit_of
from .events import BatchFinished
from .executors import Executors
from .fetches import Fetches
from .grants import Read, read
from .members import Status
from .nudges import precedence
from .payloads import Payloads
from .peermessages import (
    Claim,
    Commit,
    Committed,
    Grant,
    Nudge,
    QueueStates,
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
class _Ask:
    """A claim under way. sent: false until it has left. until_ms: it is not waited for any longer."""

    message: Claim
    owner: PeerId
    key: QueueKey
    until_ms: int
    again_ms: int = 0
    sent: bool = False


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
        self, state: State, executors: Executors, claims: Claims, payloads: Payloads, fetches: Fetches
    ) -> None:
        self._state = state
        self._members = state.members
        self._plans = state.plans
        self._blocks = state.blocks
        self._out = state.out
        self._executors = executors
        self._claims = claims
        self._payloads = payloads
        self._fetches = fetches
        self._inline_bytes = state.settings.store.inline_bytes
        self._batch_bytes = batch_bytes(state.settings.network, state.row_bytes_max)
        self._asks: dict[ExecutorId, _Ask] = {}
        self._loans: dict[int, _Loan] = {}
        self._answers: dict[tuple[PeerId, ExecutorId, int], _Answer] = {}
        self._unsent: list[_Answer] = []
        # (owner, queue) -> by how much it is longer than its owner said last, and when that is forgotten: no word of
        # others is sure to come
        self._since: dict[tuple[PeerId, QueueKey], tuple[int, int]] = {}
        # (owner, queue) for which it is our turn to ask, whoever else is idle; counts for one event
        self._sure: dict[tuple[PeerId, QueueKey], None] = {}
        self._number = 0
        self._renew_ms: int | None = None
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._lease_ms = int(state.settings.timing.lease_s * 1000)
        self.counters = {"claims": 0, "borrowed": 0, "returned": 0, "surrendered": 0, "borrowed_in_vain": 0}

    @property
    def busy(self) -> bool:
        """Whether other peers' tasks run here, or their owners do not know yet what came of them."""
        return bool(self._loans or self._answers)

    # ---- claiming

    def dispatch(self, *, look: bool) -> None:
        """Find work for idle executors, and send what has come of earlier work. look: something may have changed."""
        idle = self._executors.idle
        leaving = self._state.leaving
        for executor, ask in list(self._asks.items()):
            if leaving or executor not in idle or not self._members.is_heard(ask.owner):
                del self._asks[executor]
        if look and not leaving:
            for executor in [executor for executor in idle if executor not in self._asks]:
                if not self._ask(executor):
                    break
        self._sure = {}
        if self._unsent or self._asks:
            self._flush()

    def _ask(self, executor: ExecutorId) -> bool:
        """Claim something for an executor. False if there is nothing for anybody."""
        returning = frozenset(answer.owner for answer in self._unsent if answer.message.executor == executor)
        found = self._found(returning)
        if not found:
            return False
        views = []
        for key, owners in found.items():
            queue = self._plans.find(key)
            assert queue is not None
            view = self._claims.view(queue)
            views.append(view if view.length else replace(view, length=sum(length for _, length in owners)))
        key = self._executors.choose(executor, views)
        self._number += 1
        owner = self._owner(executor, key, found[key], returning)
        queue = self._plans.find(key)
        assert queue is not None
        size = queue.node.batch_size or self._state.settings.executor.batch_size
        message = Claim(claim=self._number, executor=executor, digest=key[0], queue=key[1], tasks_max=size)
        self._asks[executor] = _Ask(message, owner, key, self._state.now_ms + self._lease_ms)
        self.counters["claims"] += 1
        return True

    def _found(self, returning: frozenset[PeerId]) -> dict[QueueKey, list[tuple[PeerId, int]]]:
        """Queues for which a batch could run here -> owners to ask, and how many tasks each is believed to have left.

        returning: owners that are told something now anyway.
        """
        gossip = self._state.gossip
        keys = dict.fromkeys(gossip.queues())
        for (_, key), (more, _) in self._since.items():
            if more > 0:
                keys[key] = None
        found = {}
        for key in keys:
            queue = self._plans.find(key)
            if queue is None or not self._may_run(queue):
                continue
            said = [owner for owner, _ in gossip.owners(key)]
            longer = [owner for (owner, other), (more, _) in self._since.items() if other == key and more > 0]
            owners = [
                (owner, left)
                for owner in dict.fromkeys((*said, *longer))
                if (left := self._left(owner, key)) > 0
                and (owner in returning or (owner, key) in self._sure or self._is_our_turn(owner, queue))
            ]
            if owners:
                found[key] = owners
        return found

    def _may_run(self, queue: Queue) -> bool:
        """Whether a batch of this node may run here, also when all that was asked for has come."""
        if not self._executors.may_run(queue.key, queue.node):
            return False
        return queue.node.thread_safe or all(ask.key != queue.key for ask in self._asks.values())

    def _left(self, owner: PeerId, key: QueueKey) -> int:
        """How many tasks an owner is believed to have beyond those that are asked for; 0 if it is not to be asked."""
        if not self._members.is_heard(owner):
            return 0
        asked = [ask.message.tasks_max for ask in self._asks.values() if (ask.owner, ask.key) == (owner, key)]
        return self._believed(owner, key) - sum(asked)

    def _believed(self, owner: PeerId, key: QueueKey) -> int:
        """How long a queue of an owner is believed to be."""
        said = next((length for other, length in self._state.gossip.owners(key) if other == owner), 0)
        return said + self._since.get((owner, key), (0, 0))[0]

    def _correct(self, owner: PeerId, key: QueueKey, length: int) -> None:
        """Something has happened to a queue, of which its owner has not spoken yet."""
        more = self._since.get((owner, key), (0, 0))[0] + max(length, 0) - self._believed(owner, key)
        self._since[owner, key] = (more, self._state.now_ms + self._lease_ms)

    def _is_our_turn(self, owner: PeerId, queue: Queue) -> bool:
        """Whether this peer is among the few that should ask, of all that have nothing to do."""
        size = queue.node.batch_size or self._state.settings.executor.batch_size
        few = 2 * -(-self._believed(owner, queue.key) // size)
        others = [peer for peer, _ in self._state.gossip.idle_peers() if peer != owner]
        if len(others) < few:
            return True
        mine = precedence(owner, queue.key, self._state.me)
        return sum(precedence(owner, queue.key, peer) < mine for peer in others) < few

    def _owner(
        self, executor: ExecutorId, key: QueueKey, owners: list[tuple[PeerId, int]], returning: frozenset[PeerId]
    ) -> PeerId:
        """Whom to ask: who hears from us anyway, else the better one of two drawn by length."""
        for owner, _ in owners:
            if owner in returning:
                return owner
        seed = self._state.me.to_bytes() + executor.to_bytes() + key[1].to_bytes() + self._number.to_bytes(8, "big")
        digest = blake2b(seed, digest_size=16).digest()
        return max(_drawn(owners, digest[:8]), _drawn(owners, digest[8:]))[1]

    def nudge(self, owner: PeerId, message: Nudge) -> None:
        """Tasks wait there which nobody takes. Of no use to who has no time now: its owner will say so again."""
        if self.idle_count():
            key = (message.digest, message.queue)
            self._sure[owner, key] = None
            self._correct(owner, key, max(self._believed(owner, key), 1))

    def told(self, owner: PeerId, message: QueueStates) -> None:
        """What an owner says of its queues is all that is believed of them."""
        if message.full:
            self._since = {known: news for known, news in self._since.items() if known[0] != owner}
        for state in message.states:
            self._since.pop((owner, (state.digest, state.queue)), None)

    def _flush(self) -> None:
        """Send what is to be said for the first time, claims with commits where they go to the same owner."""
        unsent, self._unsent = self._unsent, []
        for answer in unsent:
            self._say(answer)
        for ask in self._asks.values():
            if not ask.sent:
                self._say_claim(ask)

    def _say_claim(self, ask: _Ask) -> None:
        ask.sent = True
        ask.again_ms = self._state.now_ms + self._ask_ms
        self._members.tell(ask.owner, ask.message)

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
                ask = self._asks.get(message.executor)
                claim = None
                if ask is not None and ask.owner == answer.owner:
                    claim = ask.message
                    ask.sent = True
                    ask.again_ms = answer.again_ms
                message = replace(message, claim=claim)
        self._members.tell(answer.owner, message, answer.values)

    # ---- at work

    def granted(self, owner: PeerId, message: Grant, blocks: Mapping[str, Block]) -> None:
        """A batch (or none) for an executor that asked."""
        key = (message.digest, message.queue)
        ask = self._asks.get(message.executor)
        if ask is None or (ask.owner, ask.key, ask.message.claim) != (owner, key, message.claim):
            self._unasked(owner, message)
            return
        del self._asks[message.executor]
        queue = self._plans.find(key)
        self._correct(owner, key, self._believed(owner, key) - len(message.ids) if message.ids else 0)
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
            self._out.work(RunBatch(executor=message.executor, order=batch))

    def _begins(self, loan: _Loan, max_exec_ms: int, blocks: Iterable[Block]) -> None:
        """A batch that has waited for its inputs begins to run."""
        for block in blocks:
            self._blocks.hold((block, 0))
            loan.blocks += (block,)
        loan.expires_ms = self._state.now_ms + max_exec_ms

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
        self._executors.release(event.executor, event.loaded)
        self._end(loan)
        if loan.fenced:
            self.counters["borrowed_in_vain"] += 1
            self._blocks.settle(blocks)
        else:
            node = loan.plan.queues[loan.key[1]]
            event = fitting(event, blocks, node.name, self._state.row_bytes_max)
            told = commit_of(event, loan.number, loan.plan, node, needed, self._inline_bytes)
            if told.stays and not is_short(told, self._batch_bytes):
                told = commit_of(event, loan.number, loan.plan, node, needed)
            self._payloads.hold(loan.owner, told.stays)
            first, *rest = pieces(told, self._batch_bytes)
            self._promise(loan, first.message, first.values, blocks, told.stays, rest)
            for queue, tasks in _lands_in(loan.plan, loan.key, event):
                key = (loan.key[0], queue)
                self._correct(loan.owner, key, self._believed(loan.owner, key) + tasks)
        return True

    def lost(self, executor: ExecutorId, reason: str, *, crashed: bool) -> None:
        """An executor is gone; core/claims.py sees to the rest."""
        self._asks.pop(executor, None)
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
            self._payloads.answered(answer.stays, fenced=message.fenced)
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
        for executor in [executor for executor, ask in self._asks.items() if ask.owner == owner]:
            del self._asks[executor]
        for loan in [loan for loan in self._loans.values() if loan.owner == owner]:
            self._fence(loan)
        for key in [key for key in self._answers if key[0] == owner]:
            self._drop_answer(key)
        self._since = {key: news for key, news in self._since.items() if key[0] != owner}

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
            self._out.report("tally.executor.reclaim", executor=loan.executor)
            self._out.report("error.executor", executor=loan.executor, message=RAN_TOO_LONG)
            self._undone(loan, RAN_TOO_LONG, crashed=True)
        for executor, ask in list(self._asks.items()):
            if ask.until_ms <= now_ms:  # what it was granted, if it was, has run out by now
                del self._asks[executor]
                self._correct(ask.owner, ask.key, 0)
            elif ask.again_ms <= now_ms:
                self._say_claim(ask)
        for answer in self._answers.values():
            if answer.again_ms <= now_ms and answer not in self._unsent:
                self._say(answer)
        self._since = {key: news for key, news in self._since.items() if news[1] > now_ms}
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
        for ask in self._asks.values():
            yield min(ask.again_ms, ask.until_ms)
        for answer in self._answers.values():
            yield answer.again_ms
        for _, forget_ms in self._since.values():
            yield forget_ms
        if self._renew_ms is not None:
            yield self._renew_ms

    # ---- looking

    def idle_count(self) -> int:
        """Executors that have nothing to do and nothing coming."""
        return len(self._executors.idle) - len(self._asks)

    def blocks_held(self) -> Iterable[Block]:
        """Every use of a block by a batch that runs or by an answer, for checks."""
        for loan in self._loans.values():
            yield from loan.blocks
        for answer in self._answers.values():
            yield from answer.blocks

    def check_invariants(self) -> None:
        assert not self._unsent
        assert self._asks.keys() <= self._executors.idle.keys(), "a claim for an executor that is at work"
        assert all(ask.sent for ask in self._asks.values())
        own = {lease.executor for lease in self._state.leases if lease.holder is None}
        here = [loan.executor for loan in self._loans.values()]
        assert len(set(here)) == len(here), "an executor has two batches of others"
        assert not own & set(here), "an executor has a batch of ours and one of others"
        assert own | set(here) == self._executors.slots.keys() - self._executors.idle.keys()
        for loan in self._loans.values():
            assert loan.fenced or self._members.status(loan.owner) in (Status.ALIVE, Status.SUSPECT)
        assert not self._sure
        assert self._renew_ms is not None or all(loan.fenced for loan in self._loans.values())


def _drawn(owners: list[tuple[PeerId, int]], lot: bytes) -> tuple[int, PeerId]:
    """(length, owner) of one of them, the longer queue the more likely."""
    ends = list(accumulate(length for _, length in owners))
    owner, length = owners[bisect(ends, int.from_bytes(lot, "big") % ends[-1])]
    return length, owner


def _lands_in(plan: Plan, key: QueueKey, event: BatchFinished) -> Iterator[tuple[QueueId, int]]:
    """The queues in which the tasks of a batch wait next, and how many, as far as its answer says."""
    node = plan.queues[key[1]]
    for part in event.emitted:
        if part.call is not None:
            yield plan.graphs[part.call].first_queue, len(part.rows)
        elif part.output in node.outputs and (following := node.outputs[part.output].next) is not None:
            yield following, len(part.rows)
