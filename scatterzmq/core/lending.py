"""Lending: batches of this peer's tasks for the executors of other peers.

Purpose   Answers claims with grants, commits once, renewals, and batches that come back undone.
Rules     1. A claim with a number that was answered gets the same answer: the same batch if it is still on loan, else
             nothing. A smaller number is an echo.
          2. A commit is applied once, under (peer, executor, order) of a lease that holds. Repeated, it is confirmed;
             any other one is fenced and changes nothing.
          3. A lease is renewed by its holder and runs out else; it goes at once with its holder. Its tasks go on as
             they were: the end of a peer is nobody's crash.
          4. Own executors are served first; then claims, in the order in which they came.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..ids import ExecutorId, PeerId
from .batches import Batches
from .commits import check
from .grants import bytes_beside, sent
from .leases import Lease
from .ledger import Record
from .nudges import Nudges
from .peermessages import Claim, Commit, Committed, Grant, Renew, Renewed, Surrender
from .queues import Queue
from .sizes import GRANT_TASKS_MAX, batch_bytes, fits_whole
from .state import State
from .travel import Travel
from .values import Block, Value

BORROWERS_MAX = 1024
"""Executors of one peer that are remembered: as many as it may have."""

LOANS_MAX = 4
"""Batches on loan to one executor of another peer. It works on one; others are those whose commits are on their way.
So many commits are remembered, too."""

_GRACE = 2
"""A lease is kept up for so many times its length beyond `max_exec`: its holder gives its executor up by itself, and
knows better what happened."""


@dataclass(slots=True, eq=False)
class _Borrower:
    """An executor of another peer. claim / order: its last claim, and the batch it got for it (0: none).

    orders: on loan to it. done: committed by it lately.
    """

    claim: int = -1
    order: int = 0
    orders: dict[int, None] = field(default_factory=dict)
    done: tuple[int, ...] = ()


class Lending:
    """What this peer has lent to others."""

    def __init__(self, state: State, travel: Travel, batches: Batches, nudges: Nudges) -> None:
        self._state = state
        self._leases = state.leases
        self._members = state.members
        self._travel = travel
        self._batches = batches
        self._nudges = nudges
        self._borrowers: dict[PeerId, dict[ExecutorId, _Borrower]] = {}
        self._asked: list[tuple[PeerId, Claim]] = []
        self._put_back = False
        self._batch_bytes = batch_bytes(state.settings.network, state.row_bytes_max)
        self._lease_ms = int(state.settings.timing.lease_s * 1000)
        self.counters = {
            "granted": 0,
            "committed": 0,
            "commits_fenced": 0,
            "commits_wrong": 0,
            "lapsed": 0,
            "rows_granted": 0,
            "rows_granted_by_name": 0,
        }

    # ---- claims

    def claim(self, peer: PeerId, message: Claim) -> None:
        """An executor of another peer wants tasks: answered by `answer`, when own executors have theirs."""
        self._asked.append((peer, message))

    def answer(self) -> bool:
        """Grant what was claimed. True: tasks were found to lack something, and have gone back into queues."""
        if not self._asked:
            return False
        asked, self._asked = self._asked, []
        self._put_back = False
        for peer, message in asked:
            borrower = self._borrower(peer, message.executor)
            if message.claim < borrower.claim:
                continue
            if message.claim > borrower.claim:
                borrower.claim = message.claim
                borrower.order = 0
                self._lend(peer, borrower, message)
            self._grant(peer, borrower, message)
        return self._put_back

    def _borrower(self, peer: PeerId, executor: ExecutorId) -> _Borrower:
        known = self._borrowers.setdefault(peer, {})
        borrower = known.get(executor)
        if borrower is None:
            while len(known) >= BORROWERS_MAX:
                del known[next(iter(known))]
            borrower = known[executor] = _Borrower()
        return borrower

    def _lend(self, peer: PeerId, borrower: _Borrower, message: Claim) -> None:
        """Lend a batch for a new claim, if there is one."""
        may_have = self._members.is_heard(peer) and len(borrower.orders) < LOANS_MAX and message.tasks_max > 0
        if not may_have or self._state.leaving:
            return
        queue = self._state.plans.find((message.digest, message.queue))
        if queue is None or not queue.length:
            self._nudges.claimed(peer, granted=False)
            return
        node = queue.node
        tasks_max = message.tasks_max if node.batch_size is None else min(message.tasks_max, node.batch_size)
        size = self._batches.size(queue, task_us=message.task_us, tasks_min=message.tasks_min, tasks_max=tasks_max)
        drawn = self._batches.draw(queue, min(size, GRANT_TASKS_MAX), near=peer)
        records = [record for record in drawn if self._is_whole(queue, record)]
        records = self._light_enough(queue, records, peer)
        self._nudges.claimed(peer, granted=bool(records))
        if not records:
            return
        now_ms = self._state.now_ms
        max_exec_ms = self._batches.max_exec_ms(node)
        wait_ms = max_exec_ms if self._state.blocks.any_away else 0  # it may wait as long for its inputs first
        lease = self._batches.lend(
            queue,
            records,
            message.executor,
            holder=peer,
            expires_ms=now_ms + self._lease_ms,
            until_ms=now_ms + wait_ms + max_exec_ms + _GRACE * self._lease_ms,
        )
        borrower.order = lease.order
        borrower.orders[lease.order] = None
        self.counters["granted"] += 1

    def _is_whole(self, queue: Queue, record: Record) -> bool:
        """Whether a task (just drawn) has all it needs; else it starts over. An executor here would find out itself."""
        if not self._state.blocks.any_lost:
            return True
        values = [value for values in self._batches.inputs(queue, [record]).values() for value in values]
        loss = self._state.blocks.loss(values)
        if loss is None:
            return True
        self._travel.lost(record, loss)
        self._put_back = True
        return False

    def _light_enough(self, queue: Queue, records: list[Record], peer: PeerId) -> list[Record]:
        """The first of these that one message can carry. The others go back; so do those that no message can: they are
        for executors here.
        """
        inputs = self._batches.inputs(queue, records)
        if fits_whole(dict.fromkeys([value[0] for values in inputs.values() for value in values]), self._batch_bytes):
            return records
        taken: list[Record] = []
        room = self._batch_bytes
        row_max = self._state.row_bytes_max
        for record, nbytes in zip(records, bytes_beside(self._state.blocks, peer, inputs, len(records)), strict=True):
            if (taken and nbytes > room) or (row_max is not None and nbytes > row_max):
                self._travel.put_back(record)
            else:
                taken.append(record)
                room -= nbytes
        return taken

    def _grant(self, peer: PeerId, borrower: _Borrower, message: Claim) -> None:
        lease = self._leases.held(borrower.order, message.executor, peer)
        given = None if lease is None else self._given(lease)
        if lease is None or given is None:
            empty = Grant(claim=message.claim, executor=message.executor, digest=message.digest, queue=message.queue)
            self._members.tell(peer, empty)
            return
        records, inputs = given
        queue = lease.queue
        made = sent(self._state.blocks, peer, inputs, digests=queue.plan.digests)
        self.counters["rows_granted"] += len(records) * len(inputs)
        self.counters["rows_granted_by_name"] += made.named
        grant = Grant(
            claim=message.claim,
            executor=message.executor,
            digest=queue.key[0],
            queue=queue.key[1],
            order=lease.order,
            ids=lease.tasks,
            ttl_ms=self._lease_ms,
            max_exec_ms=self._batches.max_exec_ms(queue.node),
            solo=records[0].solo,
            digests=made.digests,
            payloads=tuple(made.payloads),
            places=tuple(made.places),
        )
        self._members.tell(peer, grant, made.beside)

    def _given(self, lease: Lease) -> tuple[list[Record], dict[str, tuple[Value, ...]]] | None:
        """The tasks of a lease, and their inputs; None if one of them has gone meanwhile: then all come back."""
        found = [self._state.ledger.record(task) for task in lease.tasks]
        records = [record for record in found if record is not None and record.token is lease.token]
        if len(records) == len(found):
            inputs = self._batches.inputs(lease.queue, records)
            if not any(self._state.blocks.any_gone(values) for values in inputs.values()):
                return records, inputs
        self._settle(lease)
        self._batches.take_back(lease, "", crashed=False, counted=False)
        self._put_back = True
        return None

    # ---- what comes back

    def commit(self, peer: PeerId, message: Commit, blocks: Mapping[str, Block]) -> None:
        """Results of a batch, or a piece of them."""
        lease = self._leases.held(message.order, message.executor, peer)
        fenced = False
        if lease is None:
            known = self._borrowers.get(peer, {}).get(message.executor)
            fenced = known is None or message.order not in known.done
            self.counters["commits_fenced"] += fenced
        else:
            self._apply(lease, message, blocks)
        answer = Committed(executor=message.executor, order=message.order, fenced=fenced, piece=message.piece)
        self._members.tell(peer, answer)
        if message.claim is not None:
            self.claim(peer, message.claim)

    def _apply(self, lease: Lease, message: Commit, blocks: Mapping[str, Block]) -> None:
        if message.more:  # the same piece twice changes nothing: its tasks have lost their tokens
            self._leases.renew(lease, self._state.now_ms + self._lease_ms)
        else:
            borrower = self._settle(lease)
            borrower.done = (*borrower.done, lease.order)[-LOANS_MAX:]
            self.counters["committed"] += 1
        uses, plan = self._state.blocks, lease.queue.plan
        checked = check(lease, message, blocks, needed=self._state.plans.needed(plan), uses=uses)
        self.counters["commits_wrong"] += checked.wrong
        for block, (copy, start) in checked.away.items():
            uses.admit_away(block, copy, start)
        self._batches.settle(lease, checked.emitted, checked.failed, checked.missing, more=message.more)
        uses.settle(checked.away)

    def renew(self, peer: PeerId, message: Renew) -> None:
        """Batches are still being worked on."""
        fenced = []
        for order, executor in zip(message.orders, message.executors, strict=False):
            lease = self._leases.held(order, executor, peer)
            if lease is None:
                fenced.append(order)
            else:
                self._leases.renew(lease, self._state.now_ms + self._lease_ms)
        self._members.tell(peer, Renewed(fenced=tuple(fenced)))

    def surrender(self, peer: PeerId, message: Surrender) -> None:
        """A batch comes back undone."""
        lease = self._leases.held(message.order, message.executor, peer)
        if lease is not None:
            self._settle(lease)
            self._batches.take_back(lease, message.reason, crashed=message.crashed, counted=message.crashed)
        self._members.tell(peer, Committed(executor=message.executor, order=message.order, fenced=lease is None))

    def expired(self, lease: Lease) -> None:
        """Nobody has renewed a lease, which is settled already."""
        assert lease.holder is not None
        self._forget_order(lease)
        self.counters["lapsed"] += 1
        self._batches.take_back(lease, f"{lease.holder} has not been heard for too long", crashed=False, counted=True)

    def gone(self, peer: PeerId, *, on_purpose: bool) -> None:
        """A member is dead, or has left on purpose: what its executors had goes back."""
        for lease in self._leases.of_peer(peer):
            self._settle(lease)
            self._batches.take_back(lease, f"{peer} is gone", crashed=False, counted=not on_purpose)
        self._borrowers.pop(peer, None)
        self._nudges.gone(peer)
        self._asked = [(asker, message) for asker, message in self._asked if asker != peer]

    def _settle(self, lease: Lease) -> _Borrower:
        self._leases.settle(lease.order, lease.executor, lease.holder)
        return self._forget_order(lease)

    def _forget_order(self, lease: Lease) -> _Borrower:
        assert lease.holder is not None
        self._nudges.returned(lease.holder)
        borrower = self._borrower(lease.holder, lease.executor)
        borrower.orders.pop(lease.order, None)
        return borrower

    def check_invariants(self) -> None:
        assert not self._asked, "a claim that was not answered"
        on_loan = {(lease.holder, lease.executor, lease.order) for lease in self._leases if lease.holder is not None}
        for peer, known in self._borrowers.items():
            assert len(known) <= BORROWERS_MAX
            for executor, borrower in known.items():
                assert len(borrower.orders) <= LOANS_MAX
                assert len(borrower.done) <= LOANS_MAX
                assert all((peer, executor, order) in on_loan for order in borrower.orders)
