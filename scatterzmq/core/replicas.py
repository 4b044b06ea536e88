"""Replicas: who else keeps what this peer must not lose, and what may be shown when.

Purpose   Writes accepted tasks, ends and deletions to the copies, and only then lets them be shown.
Rules     1. A write is over when every holder of the record's stored set has kept it; then what waits for it goes on.
          2. A write is repeated until it is answered. A holder that is gone, or silent for `copy_s`, is replaced:
             another set, the next epoch, the whole record. Fewer copies than wanted are never hidden: `rset` says it.
             Whatever waited for the old set waits for the new one: else more copies would be named than there are.
          3. A holder that knows better wins: the record is lost to its new owner (`take_lost`).
          4. Records with fewer copies than wanted are repaired, oldest first, as soon as there is somebody.
          5. Without other peers there is nothing to write, and nothing ever waits.
Why       Showing first and copying then shows results that the surviving copy does not have.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TypeAlias

from ..frozen import frozen
from ..ids import PeerId, TaskId
from .blocks import Blocks
from .copies import version_of
from .ledger import Ledger, Phase, Record
from .members import Members
from .outbox import Outbox
from .peermessages import Contact, CopyKind, Drop, Replicate, Replicated
from .values import Value
from .versions import Rank, Version, fingerprint, growth, rank_of_error, total
from .writes import WRITE_TASKS_MAX, chunks, replicate

REPAIRS_MAX = 2
"""Repair writes under way at once, so that repairs do not stand in the way of new work."""

SETTLE_MS = 1000
"""How long a newcomer must have been there before it gets old records: many peers start at about the same time."""

FORGIVEN_MS = 10_000
"""So long after a holder was too slow it is worth another try, if records have too few copies without it."""

Then: TypeAlias = Callable[[], None]


@dataclass(slots=True, eq=False)
class Barrier:
    """What goes on when so many writes are over. durable: all that have answered so far have it on disk.

    records: what it is about. is_noted: they know that something waits for them (`Record.barriers`).
    """

    left: int
    then: Then
    records: Sequence[Record]
    durable: bool = True
    is_noted: bool = False


@dataclass(slots=True, eq=False)
class _Write:
    """One message on its way to the holders in `waiting`. moved: records that some of these may not have yet."""

    records: Sequence[Record]
    message: Replicate
    values: dict[str, tuple[Value, ...]]
    waiting: dict[PeerId, None]
    since_ms: int
    sent_ms: int
    barrier: Barrier
    is_repair: bool
    moved: tuple[Record, ...]


@frozen(kw_only=False)
class Lost:
    """A record that somebody else knows better. teller: who says so. barrier: waits until it has been given up."""

    record: Record
    version: Version
    teller: PeerId
    barrier: Barrier


class Replicas:
    """The copies of all records that one peer owns.

    repairs: records that shall get more copies. lost: records that somebody else knows better, until they are taken.
    """

    def __init__(
        self,
        me: PeerId,
        members: Members,
        ledger: Ledger,
        blocks: Blocks,
        out: Outbox,
        *,
        wanted: int,
        ask_ms: int,
        copy_ms: int,
    ) -> None:
        self._me = me
        self._blocks = blocks
        self._members = members
        self._ledger = ledger
        self._out = out
        self._wanted = wanted
        self._ask_ms = ask_ms
        self._copy_ms = copy_ms
        self._mids = count(1)
        self._writes: dict[int, _Write] = {}
        self._held_by: dict[PeerId, dict[TaskId, Record]] = {}
        self._totals: dict[PeerId, int] = {}
        self._short: dict[TaskId, Record] = {}
        self.repairs: deque[Record] = deque()
        self._repairing = 0
        self._turn = 0
        self._newcomer_ms: int | None = None
        self._due_ms: int | None = None
        self.lost: list[Lost] = []
        self.counters = {"writes": 0, "copies_replaced": 0, "repaired": 0}

    # ---- sets

    def choose(self, without: Iterable[PeerId] = ()) -> tuple[PeerId, ...]:
        """A set for new records: this peer and those who shall have copies."""
        if self._wanted == 1:
            return (self._me,)
        avoided = frozenset(without)
        self._turn += 1
        partners = [peer for peer in self._members.partners(self._turn) if peer not in avoided]
        return (self._me, *partners[: self._wanted - 1])

    def enroll(self, records: Sequence[Record]) -> None:
        """Records of this peer begin, all with the same set."""
        if not records:
            return
        holders = records[0].rset[1:]
        added = {record.id: record for record in records}
        number = sum(map(self._number, records)) if holders else 0
        for peer in holders:
            self._held_by.setdefault(peer, {}).update(added)
            self._count(peer, number)
        if len(holders) + 1 < self._wanted:
            self._short.update(added)

    def dismiss(self, record: Record) -> None:
        """A record of this peer is gone."""
        for peer in record.rset[1:]:
            held = self._held_by[peer]
            del held[record.id]
            self._count(peer, -self._number(record))
            if not held:
                del self._held_by[peer], self._totals[peer]
        self._short.pop(record.id, None)

    def _number(self, record: Record) -> int:
        return fingerprint(record.id, record.epoch_n, self._members.me.incarnation, record.change)

    def _count(self, peer: PeerId, number: int) -> None:
        self._totals[peer] = total((self._totals.get(peer, 0), number))

    @property
    def has_holders(self) -> bool:
        """Whether anybody has copies."""
        return bool(self._held_by)

    def holders(self) -> tuple[PeerId, ...]:
        """Who has copies, in order of their ids."""
        return tuple(sorted(self._held_by))

    def held_by(self, peer: PeerId) -> list[Record]:
        """Records of which a peer should have copies."""
        return list(self._held_by.get(peer, {}).values())

    def summed(self, peer: PeerId) -> tuple[int, int]:
        """How many copies a peer should have, and the sum over their versions."""
        return len(self._held_by.get(peer, ())), self._totals.get(peer, 0)

    def is_whole(self, record: Record) -> bool:
        """Whether a record of this peer has all its copies."""
        return len(record.rset) >= self._wanted and not record.moving

    # ---- writes

    def write(self, kind: CopyKind, records: Sequence[Record], now_ms: int, then: Then) -> None:
        """Bring something about records to all their copies; `then` is called when it is there, maybe at once."""
        for record in records:
            if len(record.rset) > 1:
                break
        else:
            then()  # rule 5
            return
        barrier = self._barrier(records, then)
        self._start(kind, records, now_ms, barrier)
        self._close(barrier)

    def _barrier(self, records: Sequence[Record], then: Then) -> Barrier:
        """Open for the one who has made it; `_close` ends that."""
        return Barrier(1, then, records)

    def _close(self, barrier: Barrier) -> None:
        """All that it has to wait for is known, for now."""
        if barrier.left > 1:
            barrier.is_noted = True
            for record in barrier.records:
                record.barriers = (*record.barriers, barrier)
        self._pass(barrier)

    def _start(
        self, kind: CopyKind, records: Iterable[Record], now_ms: int, barrier: Barrier, *, is_repair: bool = False
    ) -> None:
        groups: dict[tuple[object, ...], list[Record]] = {}
        for record in records:
            if len(record.rset) > 1:
                groups.setdefault((record.plan.digest, record.rset, record.epoch_n), []).append(record)
        for group in groups.values():
            self._changed(group)
            for chunk in chunks(group):
                self._send(kind, chunk, now_ms, barrier, is_repair=is_repair)

    def _changed(self, records: Sequence[Record]) -> None:
        """The next version of records with the same set; those deleted are not counted any more."""
        grown = 0
        for record in records:
            record.change += 1
            if self._ledger.record(record.id) is record:
                grown += growth(record.id)
        for peer in records[0].rset[1:] if grown else ():
            self._count(peer, grown)

    def _send(
        self, kind: CopyKind, records: Sequence[Record], now_ms: int, barrier: Barrier, *, is_repair: bool
    ) -> None:
        mid = next(self._mids)
        message, values = replicate(mid, kind, records, now_ms)
        waiting = dict.fromkeys(records[0].rset[1:])
        for column in values.values():
            for value in column:  # it may have to be sent again when the record does not need it any more
                self._blocks.hold(value)
        barrier.left += 1
        self.counters["writes"] += 1
        moved = tuple([record for record in records if record.change == 1 or record.moving])
        for record in moved:
            record.moving += 1
        self._writes[mid] = _Write(records, message, values, waiting, now_ms, now_ms, barrier, is_repair, moved)
        self._repairing += is_repair
        for peer in waiting:
            self._members.tell(peer, message, values)
        self._due(now_ms + min(self._ask_ms, self._copy_ms))

    def answered(self, sender: PeerId, message: Replicated, now_ms: int) -> None:
        """A holder has kept what it was told, or knows better."""
        if not message.mid:
            records = [self._ledger.record(task) for task in message.lacking]
            self.rewrite([record for record in records if record is not None and sender in record.rset], now_ms)
        write = self._writes.get(message.mid)
        if write is None or sender not in write.waiting:
            return
        del write.waiting[sender]
        concerned = {record.id: record for record in write.records}
        again = []
        for known in message.better:
            record = concerned.get(known.id)
            if record is None or self._ledger.record(known.id) is not record:
                continue
            version = version_of(known)
            if version.beats(record_version(record, self._members.me)):
                write.barrier.left += 1
                self.lost.append(Lost(record, version, sender, write.barrier))
            elif version.owner != self._me:  # else a later word of ours has come before this one
                again.append(record)
        for task in message.lacking:
            record = concerned.get(task)
            if record is not None and self._ledger.record(task) is record:
                again.append(record)
        self._rewrite(again, now_ms, write.barrier, is_repair=write.is_repair)
        if not write.waiting:
            self._end(message.mid)

    def _rewrite(self, records: Iterable[Record], now_ms: int, barrier: Barrier, *, is_repair: bool) -> None:
        """Write records whole, as they are now."""
        live: list[Record] = []
        ended: list[Record] = []
        for record in records:
            (ended if record.phase.ended else live).append(record)
        self._start(CopyKind.ACCEPT, live, now_ms, barrier, is_repair=is_repair)
        self._start(CopyKind.FINAL, ended, now_ms, barrier, is_repair=is_repair)

    def rewrite(self, records: Iterable[Record], now_ms: int) -> None:
        """Write records whole; nobody waits for it."""
        records = tuple(records)
        barrier = self._barrier(records, _nothing)
        self._rewrite(records, now_ms, barrier, is_repair=False)
        self._close(barrier)

    def _end(self, mid: int) -> None:
        write = self._writes.pop(mid)
        for column in write.values.values():
            self._blocks.release(column)
        self._repairing -= write.is_repair
        for record in write.moved:
            record.moving -= 1
        self._pass(write.barrier)

    def _pass(self, barrier: Barrier) -> None:
        barrier.left -= 1
        if barrier.left:
            return
        for record in barrier.records if barrier.is_noted else ():
            others = record.barriers
            record.barriers = () if len(others) == 1 else tuple([other for other in others if other is not barrier])
        barrier.then()

    def _joint(self, records: Iterable[Record], *barriers: Barrier) -> Barrier:
        """The sets of these records are to be others: one barrier for all that waits for them, open as from `_barrier`.

        Only writes are waited for by it, and nothing ever joins it, so there is no circle.
        """
        waiting = dict.fromkeys(other for record in records for other in record.barriers) | dict.fromkeys(barriers)
        for other in waiting:
            other.left += 1
        if len(waiting) == 1:
            return next(iter(waiting))
        joint = Barrier(1, _nothing, ())
        joint.then = partial(self._joined, joint, tuple(waiting))
        return joint

    def _joined(self, joint: Barrier, waiting: Sequence[Barrier]) -> None:
        for barrier in waiting:
            barrier.durable &= joint.durable
            self._pass(barrier)

    def take_lost(self) -> list[Lost]:
        """Records that somebody else knows better, since the last call. Each is to be let go."""
        lost, self.lost = self.lost, []
        return lost

    def let_go(self, lost: Lost) -> None:
        """The record has been given up: what waited for it goes on."""
        self._pass(lost.barrier)

    # ---- holders come and go

    def joined(self, now_ms: int) -> None:
        """There is a new member."""
        if self._short and self._newcomer_ms is None:
            self._newcomer_ms = now_ms + SETTLE_MS
            self._due(self._newcomer_ms)

    def gone(self, peer: PeerId, now_ms: int) -> None:
        """A member is gone for good: what it held needs another copy, and nobody waits for it.

        What waits, be it for others only, goes on when none of its records counts on that copy: those that still stand
        in line for their repair then get another one now.
        """
        asked = [write.barrier for write in self._writes.values() if peer in write.waiting]
        joint = self._joint(self.held_by(peer), *asked)
        self._replace_in_writes(peer, now_ms)
        self.repairs.extend(self._held_by.get(peer, {}).values())
        self._repair(now_ms)
        waited = [record for record in self.held_by(peer) if record.barriers]
        self._reassign(waited, peer)
        self._rewrite(waited, now_ms, joint, is_repair=False)
        self._pass(joint)

    def _replace_in_writes(self, peer: PeerId, now_ms: int) -> None:
        for mid, write in list(self._writes.items()):
            if peer in write.waiting:
                self._replace(mid, write, peer, now_ms)

    def _replace(self, mid: int, write: _Write, peer: PeerId, now_ms: int) -> None:
        """A holder does not answer: another one instead, which gets the whole record."""
        del write.waiting[peer]
        if write.message.kind is not CopyKind.DELETE:
            mine = [record for record in write.records if self._ledger.record(record.id) is record]
            moved = [record for record in mine if peer in record.rset]
            self._reassign(moved, peer)
            joint = self._joint(moved, write.barrier)
            joint.then = partial(_one_after_another, joint.then, partial(self._unwanted, peer, tuple(moved)))
            if moved and self._members.is_alive(peer) and self._newcomer_ms is None:
                # It may have been the only one there is: nobody will come whose coming starts a repair.
                self._newcomer_ms = now_ms + FORGIVEN_MS
                self._due(self._newcomer_ms)
            self._rewrite(mine, now_ms, joint, is_repair=write.is_repair)
            self._pass(joint)
            write.waiting.clear()  # what they were told is in what they are told now
        if not write.waiting:
            self._end(mid)

    def _reassign(self, records: Sequence[Record], peer: PeerId) -> None:
        """Other copies in the place of those at `peer`."""
        if not records:
            return
        self.counters["copies_replaced"] += len(records)
        rset = self.choose(without=(peer,))
        for record in records:
            self._move(record, rset)

    def _unwanted(self, peer: PeerId, records: Sequence[Record]) -> None:
        """Others have the copies now: who was replaced may forget its own. Not earlier, it may be the only one."""
        there = [record for record in records if self._ledger.record(record.id) is record]
        gone = [record.id for record in records if record not in there]
        ids = gone + [record.id for record in there if len(record.rset) > 1 and peer not in record.rset]
        if ids:  # also if it is only suspected: it may be halted, and read the write when it goes on
            self._members.tell(peer, Drop(ids=tuple(ids)))

    def _move(self, record: Record, rset: tuple[PeerId, ...]) -> None:
        Replicas.dismiss(self, record)  # it is not gone: heirs of this class are not to believe so
        record.durable = False
        if len(rset) == 1 < len(record.rset):
            self._ledger.heard_of.add(record.id)
        record.rset = rset
        record.epoch_n += 1
        record.change = 0
        self.enroll((record,))

    def _repair(self, now_ms: int) -> None:
        """Give the oldest records with too few copies the ones they lack."""
        while self.repairs and self._repairing < REPAIRS_MAX:
            chunk: list[Record] = []
            while self.repairs and len(chunk) < WRITE_TASKS_MAX:
                record = self.repairs.popleft()
                if self._ledger.record(record.id) is record and self._needs(record):
                    chunk.append(record)
            if not chunk:
                return
            rset = self.choose()
            for record in chunk:
                self._move(record, rset)
            if len(rset) == 1:
                self._out.report("warning.copies", tasks=len(chunk), copies=1, wanted=self._wanted)
                continue
            self._write_moved(chunk, now_ms, is_repair=True)
            self.counters["repaired"] += len(chunk)

    def share(self, records: Iterable[Record], now_ms: int) -> None:
        """Give these records copies now, as far as there is somebody to keep them."""
        rset = self.choose()
        lonely = [record for record in records if len(record.rset) == 1]
        if len(rset) > 1 and lonely:
            for record in lonely:
                self._move(record, rset)
            self._write_moved(lonely, now_ms, is_repair=False)

    def want_heirs(self) -> None:
        """This peer leaves: where one copy is enough, each record needs another one for somebody to take it."""
        self._wanted = max(self._wanted, 2)
        self._short = {record.id: record for record in self._ledger if len(record.rset) < self._wanted}

    def _write_moved(self, records: Sequence[Record], now_ms: int, *, is_repair: bool) -> None:
        barrier = self._barrier(records, _nothing)
        joint = self._joint(records, barrier)
        self._rewrite(records, now_ms, joint, is_repair=is_repair)
        self._pass(joint)
        self._close(barrier)

    def _needs(self, record: Record) -> bool:
        """Whether a record lacks copies that it could have."""
        holders = [peer for peer in record.rset[1:] if self._members.keeps_copies(peer)]
        return len(holders) < self._wanted - 1

    # ---- time

    def tick(self, now_ms: int) -> None:
        """Repeat and replace what is due."""
        if self._due_ms is None or self._due_ms > now_ms:
            return
        self._due_ms = None
        for mid, write in list(self._writes.items()):
            late = now_ms - write.since_ms >= self._copy_ms
            for peer in list(write.waiting):
                if late and peer in write.waiting:
                    self._replace(mid, write, peer, now_ms)
            if mid in self._writes:
                self._repeat(mid, write, now_ms)
        if self._newcomer_ms is not None:
            if self._newcomer_ms <= now_ms:
                self._newcomer_ms = None
                if len(self.choose()) > 1:
                    self.repairs.extend(self._short.values())
            else:
                self._due(self._newcomer_ms)
        self._repair(now_ms)

    def _repeat(self, mid: int, write: _Write, now_ms: int) -> None:
        """Say a write again when it is time. Of records that are gone nothing is said: others may have deleted them."""
        if now_ms - write.sent_ms >= self._ask_ms:
            write.sent_ms = now_ms
            if write.message.kind is not CopyKind.DELETE:
                mine = [record for record in write.records if self._ledger.record(record.id) is record]
                if len(mine) < len(write.records):
                    self._rewrite(mine, now_ms, write.barrier, is_repair=write.is_repair)
                    self._end(mid)
                    return
            for peer in write.waiting:
                self._members.tell(peer, write.message, write.values)
        self._due(min(write.sent_ms + self._ask_ms, write.since_ms + self._copy_ms))

    def repair(self, now_ms: int) -> None:
        """Go on with repairs as far as there is room for them; after every event that leaves any."""
        self._repair(now_ms)

    def deadline_ms(self) -> int | None:
        return self._due_ms

    def _due(self, at_ms: int) -> None:
        if self._due_ms is None or at_ms < self._due_ms:
            self._due_ms = at_ms

    @property
    def busy(self) -> bool:
        """Whether something has not reached its copies yet."""
        return bool(self._writes or self.repairs)

    def values_held(self) -> Iterator[Value]:
        """Everything that counts as a use of a block, for checks."""
        for write in self._writes.values():
            for column in write.values.values():
                yield from column

    def check_invariants(self) -> None:
        held: dict[PeerId, dict[TaskId, Record]] = {}
        for record in self._ledger:
            assert record.rset[0] == self._me, record.told()
            assert len(set(record.rset)) == len(record.rset), record.told()
            for peer in record.rset[1:]:
                held.setdefault(peer, {})[record.id] = record
            assert (record.id in self._short) == (len(record.rset) < self._wanted), record.told()
            assert all(barrier.left and barrier.is_noted for barrier in record.barriers), record.told()
        assert held == self._held_by
        for peer, records in held.items():
            life = self._members.me.incarnation
            numbers = [fingerprint(record.id, record.epoch_n, life, record.change) for record in records.values()]
            assert self.summed(peer) == (len(records), total(numbers))
        assert self._totals.keys() == held.keys()
        assert self._repairing == sum(write.is_repair for write in self._writes.values())
        # By record, not by task: one that was handed off may be here again while the old one's writes are under way.
        moving = Counter(id(record) for write in self._writes.values() for record in write.moved)
        assert all(record.moving == moving[id(record)] for record in self._ledger)
        assert all(write.waiting for write in self._writes.values())


def _nothing() -> None:
    """Nobody waits for this write."""


def record_version(record: Record, me: Contact) -> Version:
    """What its owner knows of a record."""
    if not record.phase.ended:
        rank = Rank.LIVE
    elif record.phase is Phase.READY:
        rank = Rank.READY
    else:
        assert record.error is not None
        rank = rank_of_error(record.error.code)
    return Version(rank, record.epoch_n, me.id, me.incarnation, record.change)


def _one_after_another(first: Then, second: Then) -> None:
    first()
    second()
