"""Replicas and copies of a peer with a journal.

Rules     1. Disk and copies are written at the same time, and what waits goes on when both have it.
          2. Durable means that it is still there when all peers have lost their power. An owner says so of a record
             when it and all holders of its copies have it on disk; a holder that tells of an end in the owner's place,
             when it has that on its own, and so does an owner while others become the holders.
          3. A holder whose disk has failed is replaced, as long as there is another one.
Why       Apart from core/replicas.py and core/copies.py, so that a peer without a journal pays nothing for it.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from ..ids import PeerId, TaskId
from .copies import Copies, Copy
from .entries import Deleted, Forgotten, Kept, Lapsed
from .journal import Journal
from .ledger import Record
from .peermessages import CopyKind, Replicated
from .replicas import Barrier, Replicas, Then, record_version
from .values import Value
from .versions import Version
from .writes import copy_of


class JournaledReplicas(Replicas):
    """What an owner with a journal does to lose nothing."""

    def __init__(self, journal: Journal, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._journal = journal
        self._failed: dict[PeerId, None] = {}

    def choose(self, without: Iterable[PeerId] = ()) -> tuple[PeerId, ...]:
        """Those whose disks have failed come last."""
        avoided = tuple(without)
        rset = super().choose(avoided)
        if not self._failed or not any(peer in self._failed for peer in rset):
            return rset
        good = super().choose((*avoided, *self._failed))
        return (*good, *[peer for peer in rset if peer not in good])[: self._wanted]

    def dismiss(self, record: Record) -> None:
        super().dismiss(record)
        self._journal.note(Forgotten(id=record.id))

    def write(self, kind: CopyKind, records: Sequence[Record], now_ms: int, then: Then) -> None:
        barrier = self._barrier(records, then)
        self._start(kind, records, now_ms, barrier)
        self._close(barrier)

    def _barrier(self, records: Sequence[Record], then: Then) -> Barrier:
        barrier = Barrier(1, then, records)
        barrier.then = partial(self._over, records, barrier, then)
        return barrier

    def _over(self, records: Sequence[Record], barrier: Barrier, then: Then) -> None:
        for record in records:
            record.durable = barrier.durable
        then()

    def _start(
        self, kind: CopyKind, records: Iterable[Record], now_ms: int, barrier: Barrier, *, is_repair: bool = False
    ) -> None:
        records = tuple(records)
        super()._start(kind, records, now_ms, barrier, is_repair=is_repair)
        if kind is not CopyKind.DELETE:
            for record in records:
                copy = copy_of(record, record_version(record, self._members.me), now_ms)
                self._journal.note(_kept(copy, is_same=kind is CopyKind.MARK))
        barrier.left += 1
        self._journal.when_kept(partial(self._written, barrier))

    def _written(self, barrier: Barrier, durable: bool) -> None:
        barrier.durable &= durable
        self._pass(barrier)

    def answered(self, sender: PeerId, message: Replicated, now_ms: int) -> None:
        write = self._writes.get(message.mid)
        if write is not None and sender in write.waiting:
            if message.failed:
                self._failed[sender] = None
                others = [peer for peer in self._members.alive() if peer not in self._failed]
                is_delete = write.message.kind is CopyKind.DELETE
                if not is_delete and any(peer not in write.message.rset for peer in others):
                    self._replace(message.mid, write, sender, now_ms)
                    return
            write.barrier.durable &= message.durable
        super().answered(sender, message, now_ms)

    def gone(self, peer: PeerId, now_ms: int) -> None:
        self._failed.pop(peer, None)
        super().gone(peer, now_ms)


class JournaledCopies(Copies):
    """What a holder with a journal does to lose nothing."""

    def __init__(self, journal: Journal, *args: Any) -> None:
        super().__init__(*args)
        self._journal = journal

    def restore(self, entry: Kept | Deleted, now_ms: int) -> None:
        """What was here before this peer started."""
        if isinstance(entry, Deleted):
            super().bury(entry.id, entry.nonce, entry.version, now_ms)
            return
        assert entry.values is not None
        super()._put(_copy(entry, now_ms), dict(entry.values))

    def drop(self, task: TaskId) -> None:
        if self.copy(task) is not None:
            super().drop(task)
            self._journal.note(Forgotten(id=task))

    def bury(self, task: TaskId, nonce: bytes, version: Version, now_ms: int) -> None:
        is_here = self.copy(task) is not None
        super().bury(task, nonce, version, now_ms)
        if is_here:
            self._journal.note(Forgotten(id=task))
        self._journal.note(Deleted(id=task, nonce=nonce, version=self._tombstones[task].version))

    def _lapse(self) -> TaskId:
        task = super()._lapse()
        self._journal.note(Lapsed(id=task))
        return task

    def _put(self, copy: Copy, values: dict[str, Value]) -> None:
        known = self.copy(copy.id)
        is_same = known is not None and values is known.values
        super()._put(copy, values)
        self._journal.note(_kept(copy, is_same=is_same))


def _kept(copy: Copy, *, is_same: bool) -> Kept:
    return Kept(
        id=copy.id,
        ns=copy.ns,
        digest=copy.digest,
        nonce=copy.nonce,
        submit_digest=copy.submit_digest,
        version=copy.version,
        rset=copy.rset,
        caching=copy.caching,
        errors=copy.errors,
        restarts=copy.restarts,
        crashes=copy.crashes,
        solo=copy.solo,
        last_error=copy.last_error,
        status=copy.status,
        duration_ms=copy.duration_ms,
        values=None if is_same else dict(copy.values),
    )


def _copy(entry: Kept, now_ms: int) -> Copy:
    return Copy(
        id=entry.id,
        ns=entry.ns,
        digest=entry.digest,
        nonce=entry.nonce,
        submit_digest=entry.submit_digest,
        version=entry.version,
        rset=entry.rset,
        caching=entry.caching,
        errors=entry.errors,
        restarts=entry.restarts,
        crashes=entry.crashes,
        solo=entry.solo,
        last_error=entry.last_error,
        since_ms=now_ms,
        status=entry.status,
        duration_ms=entry.duration_ms,
    )
