"""Leases: who may commit a batch, and until when.

Purpose   Lends batches of queued tasks to executors, of this peer or of others, and takes them back.
Rules     1. A batch is lent once, to one executor, under one token; tokens only grow, also across takeovers.
          2. Only the token of a task's current lease commits it; every other one is fenced, whoever sends it.
          3. Time comes in as `now_ms` and never goes back; one deadline comes out.
          4. A lease of another peer's executor runs out unless it is renewed, and not even that keeps it for ever.
Why       An executor that was paused does not know it. Safety rests on rule 2; expiry decides when others may try.
          There is a deadline to be told after every event, and leases by the hundred: hence a heap. Entries of leases
          that were settled or renewed are skipped when they come up, and swept before they outnumber the others.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..frozen import frozen
from ..ids import ExecutorId, PeerId, TaskId, Token
from .queues import Queue

Expectation: TypeAlias = tuple[Queue, float, int]
"""What a batch announced to a queue: the weight and the bytes that will probably land there."""

_STALE_MIN = 64


@frozen(eq=False, kw_only=False)
class Lease:
    """One batch on loan. expects: what was announced to the queues its tasks will land in next.

    holder: the peer whose executor has it; None for an executor of this peer.
    until_ms: renewing does not help beyond that.
    """

    order: int
    token: Token
    executor: ExecutorId
    queue: Queue
    tasks: tuple[TaskId, ...]
    expires_ms: int
    expects: tuple[Expectation, ...]
    holder: PeerId | None
    until_ms: int


@dataclass(slots=True)
class Leases:
    """All batches of one owner that are on loan."""

    owner: PeerId
    epoch_n: int
    _seq: int = 0
    _held: dict[int, Lease] = field(default_factory=dict)
    _own: dict[ExecutorId, Lease] = field(default_factory=dict)
    _times: list[tuple[int, int]] = field(default_factory=list)

    def token(self) -> tuple[int, Token]:
        """The number and the token for the next batch."""
        self._seq += 1
        return self._seq, Token(self.epoch_n, self.owner, self._seq)

    def lend(self, lease: Lease) -> None:
        assert lease.order not in self._held
        self._held[lease.order] = lease
        if lease.holder is None:
            assert lease.executor not in self._own, "an executor holds two batches"
            self._own[lease.executor] = lease
        heapq.heappush(self._times, (lease.expires_ms, lease.order))

    def settle(self, order: int, executor: ExecutorId, holder: PeerId | None = None) -> Lease | None:
        """End a lease by its commit. None: fenced (expired, another executor's), and nothing has changed."""
        lease = self.held(order, executor, holder)
        if lease is not None:
            self._drop(lease)
        return lease

    def held(self, order: int, executor: ExecutorId, holder: PeerId | None = None) -> Lease | None:
        """A lease that still holds; None if it is fenced."""
        lease = self._held.get(order)
        return lease if lease is not None and lease.executor == executor and lease.holder == holder else None

    def is_lent(self, order: int, task: TaskId) -> bool:
        """Whether a batch with this task is on loan under this number."""
        lease = self._held.get(order)
        return lease is not None and task in lease.tasks

    def put(self, lease: Lease) -> None:
        """Put another version of a lease in the place of the one that holds."""
        before = self._held[lease.order]
        self._held[lease.order] = lease
        if lease.holder is None:
            self._own[lease.executor] = lease
        if lease.expires_ms != before.expires_ms:
            heapq.heappush(self._times, (lease.expires_ms, lease.order))
            if len(self._times) > 2 * len(self._held) + _STALE_MIN:
                self._sweep()

    def renew(self, lease: Lease, expires_ms: int) -> None:
        """Let a lease hold longer, within its bounds."""
        self.put(replace(lease, expires_ms=min(expires_ms, lease.until_ms)))

    def of(self, executor: ExecutorId) -> Lease | None:
        """What an executor of this peer holds; it holds at most one batch."""
        return self._own.get(executor)

    def of_peer(self, holder: PeerId) -> list[Lease]:
        """What the executors of another peer hold, oldest first."""
        return [lease for lease in self._held.values() if lease.holder == holder]

    def expire(self, now_ms: int) -> list[Lease]:
        """Take back everything overdue, in order of expiry."""
        overdue = []
        while (deadline_ms := self.deadline_ms()) is not None and deadline_ms <= now_ms:
            lease = self._held[self._times[0][1]]
            self._drop(lease)
            overdue.append(lease)
        return overdue

    def deadline_ms(self) -> int | None:
        """Earliest moment at which `expire` does something; None if nothing is lent."""
        times, held = self._times, self._held
        while times:
            expires_ms, order = times[0]
            lease = held.get(order)
            if lease is not None and lease.expires_ms == expires_ms:
                return expires_ms
            heapq.heappop(times)
        return None

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._held.values())

    def check_invariants(self) -> None:
        own = {lease.executor: lease for lease in self if lease.holder is None}
        assert own == self._own
        assert len(own) == sum(lease.holder is None for lease in self), "an executor holds two batches"
        assert all(lease.token.seq <= self._seq and lease.token.n == self.epoch_n for lease in self)
        assert all(lease.expires_ms <= lease.until_ms for lease in self)
        assert {entry for entry in self._times if self._is_live(entry)} == {(it.expires_ms, it.order) for it in self}
        assert len(self._times) <= 2 * len(self._held) + _STALE_MIN

    def _is_live(self, entry: tuple[int, int]) -> bool:
        lease = self._held.get(entry[1])
        return lease is not None and lease.expires_ms == entry[0]

    def _drop(self, lease: Lease) -> None:
        del self._held[lease.order]
        if lease.holder is None:
            del self._own[lease.executor]
        if len(self._times) > 2 * len(self._held) + _STALE_MIN:
            self._sweep()

    def _sweep(self) -> None:
        self._times = sorted((lease.expires_ms, lease.order) for lease in self)
