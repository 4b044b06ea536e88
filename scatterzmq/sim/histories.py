"""Histories: what one process may only ever do in one direction, compared with what it did before.

Rules   1. Epochs of a task that a process owns grow, also from what it knew of another owner to its own.
        2. Of copies that an owner has written the better one stays.
        3. Accounts of what went wrong with a task grow, as long as one process owns it; but for crashes, which count
           only those in a row.
        4. Only the lease under which a task was lent last ends its being lent, and once.
Why     A core checks that it is consistent now; these are about what was, which it does not keep.
"""

from typing import Any, TypeAlias

from ..core.batches import Batches
from ..core.copies import Copies, Copy
from ..core.journaled import JournaledCopies
from ..core.leases import Lease
from ..core.ledger import Record
from ..core.peer import PeerCore
from ..ids import PeerId, TaskId, Token

Epoch: TypeAlias = tuple[int, PeerId, int]
"""n, owner, and the life in which it began: as they are compared (core/versions.py)."""
Life: TypeAlias = tuple[TaskId, bytes]
"""A task and its nonce: an id may be given again, to another task."""


class History:
    """Of one life of a process. watching: what is lent and copied, too.

    was: the last epoch of each task that it owned. adopted: that of copies it has let go in the event under way: what
    it forgets for good (their owner does not want them there) may come back with a submission that is repeated.
    """

    def __init__(self, core: PeerCore, life: int, *, watching: bool) -> None:
        self._me = core.state.me
        self._life = life
        self._was: dict[Life, Epoch] = {}
        self._adopted: dict[Life, Epoch] = {}
        self._accounts: dict[Record, tuple[int, int, int]] = {}
        self._lent: dict[TaskId, Token] = {}
        if watching:
            self._watch(core)

    def _watch(self, core: PeerCore) -> None:
        copies: Any = core.state.copies
        copies.__class__ = WatchedJournaledCopies if isinstance(copies, JournaledCopies) else WatchedCopies
        copies.history = self
        batches: Any = core._batches  # noqa: SLF001 -- nothing else says what commits
        batches.__class__ = WatchedBatches
        batches.history = self

    # ---- records

    def begun(self, record: Record) -> None:
        """Owned from now on."""
        before = self._adopted.get((record.id, record.nonce))
        assert before is None or before[0] < record.epoch_n, f"{record.id}: adopted in {record.epoch_n} after {before}"
        self._grows(record)

    def touched(self, record: Record) -> None:
        """Something has happened to a record that is owned."""
        self._grows(record, may_stay=True)
        now = (record.errors, record.restarts, record.crashes)
        errors, restarts, crashes = self._accounts.get(record, (0, 0, 0))
        assert now[0] >= errors, f"{record.id}: {errors} errors, and now {now[0]}"
        assert now[1] >= restarts, f"{record.id}: {restarts} restarts, and now {now[1]}"
        assert now[2] >= crashes or now[2] == 0, f"{record.id}: {crashes} crashes in a row, and now {now[2]}"
        self._accounts[record] = now
        if record.token is not None:
            self._lent[record.id] = record.token

    def handled(self) -> None:
        """The event is over."""
        if self._adopted:
            self._adopted.clear()

    def removed(self, record: Record) -> None:
        self._was[record.id, record.nonce] = (record.epoch_n, self._me, self._life)
        self._accounts.pop(record, None)
        self._lent.pop(record.id, None)

    def _grows(self, record: Record, *, may_stay: bool = False) -> None:
        now = (record.epoch_n, self._me, self._life)
        before = self._was.get((record.id, record.nonce))
        if before is not None and not (before[0] < now[0] or (may_stay and before == now)):
            raise AssertionError(f"{record.id}: in epoch {now[0]}, after one that was {before[0]}")
        self._was[record.id, record.nonce] = now

    # ---- leases

    def committed(self, task: TaskId, token: Token) -> None:
        last = self._lent.pop(task, None)
        assert last == token, f"{task}: committed under {token}, lent under {last}"

    # ---- copies

    def replaces(self, before: Copy, after: Copy) -> None:
        if before.stands_in or after.stands_in:
            return
        assert not before.version.beats(after.version), f"{after.id}: {before.version} gives way to {after.version}"

    def let_go(self, copy: Copy) -> None:
        self._adopted[copy.id, copy.nonce] = copy.version[1:4]


class WatchedBatches(Batches):
    """Batches whose commits are seen."""

    history: History

    def _committer(self, lease: Lease, task: TaskId) -> Record | None:
        record = super()._committer(lease, task)
        if record is not None:
            self.history.committed(task, lease.token)
        return record


class WatchedCopies(Copies):
    """Copies that are seen to come and to go."""

    history: History

    def _put(self, copy: Copy, values: Any) -> None:
        before = self.copy(copy.id)
        if before is not None:
            self.history.replaces(before, copy)
        super()._put(copy, values)

    def _remove(self, task: TaskId) -> None:
        copy = self.copy(task)
        if copy is not None:
            self.history.let_go(copy)
        super()._remove(task)


class WatchedJournaledCopies(WatchedCopies, JournaledCopies):
    """The same of a process with a journal."""
