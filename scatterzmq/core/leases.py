"""Leases: who may commit a batch, and until when.

Purpose   Lends batches of queued tasks to executors and takes them back.
Rules     1. A batch is lent once, to one executor, under one token; tokens only grow, also across takeovers.
          2. Only the token of a task's current lease commits it; every other one is fenced, whoever sends it.
          3. Time comes in as `now_ms` and never goes back; one deadline comes out.
Why       An executor that was paused does not know it. Safety rests on rule 2; expiry decides when others may try.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from ..ids import ExecutorId, PeerId, TaskId, Token
from .queues import Queue

Expectation: TypeAlias = tuple[Queue, float, int]
"""What a batch announced to a queue: the weight and the bytes that will probably land there."""


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """One batch on loan. expects: what was announced to the queues its tasks will land in next."""

    order: int
    token: Token
    executor: ExecutorId
    queue: Queue
    tasks: tuple[TaskId, ...]
    expires_ms: int
    expects: tuple[Expectation, ...]


@dataclass(slots=True)
class Leases:
    """All batches of one owner that are on loan: one per executor at most, so looking through them is cheap."""

    owner: PeerId
    epoch_n: int
    _seq: int = 0
    _held: dict[int, Lease] = field(default_factory=dict)

    def token(self) -> tuple[int, Token]:
        """The number and the token for the next batch."""
        self._seq += 1
        return self._seq, Token(self.epoch_n, self.owner, self._seq)

    def lend(self, lease: Lease) -> None:
        assert lease.order not in self._held
        self._held[lease.order] = lease

    def settle(self, order: int, executor: ExecutorId) -> Lease | None:
        """End a lease by its commit. None: fenced (expired, another executor's), and nothing has changed."""
        return None if self.held(order, executor) is None else self._held.pop(order)

    def held(self, order: int, executor: ExecutorId) -> Lease | None:
        """A lease that still holds; None if it is fenced."""
        lease = self._held.get(order)
        return lease if lease is not None and lease.executor == executor else None

    def renew(self, lease: Lease) -> None:
        """Put another version of a lease in the place of the one that holds."""
        assert lease.order in self._held
        self._held[lease.order] = lease

    def of(self, executor: ExecutorId) -> Lease | None:
        """What an executor holds; it holds at most one batch."""
        return next((lease for lease in self._held.values() if lease.executor == executor), None)

    def expire(self, now_ms: int) -> list[Lease]:
        """Take back everything overdue, oldest first."""
        overdue = [lease for lease in self._held.values() if lease.expires_ms <= now_ms]
        for lease in overdue:
            del self._held[lease.order]
        return overdue

    def deadline_ms(self) -> int | None:
        """Earliest moment at which `expire` does something; None if nothing is lent."""
        return min([lease.expires_ms for lease in self._held.values()], default=None)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._held.values())

    def check_invariants(self) -> None:
        executors = [lease.executor for lease in self]
        assert len(set(executors)) == len(executors), "an executor holds two batches"
        assert all(lease.token.seq <= self._seq and lease.token.n == self.epoch_n for lease in self)
