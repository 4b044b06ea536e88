"""The desk: what clients ask for, and what they are told.

Purpose   Submissions, waiting, reading, clearing, cancelling, questions.
Rules     1. The same id with the same content is the same task, from whichever client; other content is a conflict
             and leaves the first task alone.
          2. Tasks of a submission are accepted in order as long as there is room (`record_bytes`); the rest waits its
             turn, and after `refuse_after_s` is refused. Nothing is dropped silently. What comes while the definition
             that it needs is on its way or being checked, as after a start, waits for that, and lets others pass.
          3. Whoever attached to a task is told once how it ended; a task that is cleared ends as unknown.
          4. Results go `result_ttl_s` after the end unless they are cleared before.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from ..errors import ErrorCode
from ..graph.formats import Format
from ..ids import ClientId, PeerId, TaskId
from .claims import Claims
from .copies import Copy, info
from .definitions import Definitions
from .finals import final_of_copy, final_of_records
from .ledger import RECORD_NBYTES, Record
from .messages import (
    Accepted,
    AskTasks,
    Final,
    Goodbye,
    Moved,
    Refused,
    Submit,
    TaskReport,
    TaskReports,
    TaskStatus,
)
from .peermessages import CopyKind, SyncBetter
from .sizes import row_too_large, shortened
from .state import State
from .travel import Travel
from .values import Block
from .versions import Rank, Version
from .writes import chunks

RECORDS_MIN = 1024
"""So many tasks fit into the smallest peer, as far as their inputs do."""

STALE = "stale:"
"""How the message of a refusal begins if the client should look the namespace up again."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A submission for which there is no room yet.

    columns: the blocks with their names in the frame of the graph.
    start: its first row that is neither accepted nor refused. nbytes: of the rows from there.
    """

    sender: ClientId
    message: Submit
    blocks: Mapping[str, Block]
    columns: list[tuple[str, Block]]
    nbytes: int
    until_ms: int
    start: int = 0

    def row_nbytes(self, row: int) -> int:
        return sum([block.row_nbytes(row) for block in self.blocks.values()])

    def is_repeated(self, sender: ClientId, message: Submit) -> bool:
        """Whether the client just says it again: then it must not take room twice."""
        return self.sender == sender and self.message.nonce == message.nonce and self.message.ids == message.ids


class Desk:
    """One peer's clients. waiting: submissions that are not accepted yet. left: clients that are gone, as far as any
    record names them.
    """

    def __init__(self, state: State, definitions: Definitions, travel: Travel, claims: Claims) -> None:
        self._state = state
        self._settings = state.settings.tasks
        self._ledger = state.ledger
        self._plans = state.plans
        self._definitions = definitions
        self._blocks = state.blocks
        self._out = state.out
        self._travel = travel
        self._claims = claims
        self._members = state.members
        self._copies = state.copies
        self._replicas = state.replicas
        self.waiting: deque[_Waiting] = deque()
        # In order of expiry, because all results are kept equally long. Unlike a dict, it stays quick to ask for the
        # first when those before it have been taken out.
        self._expiring: OrderedDict[TaskId, int] = OrderedDict()
        # How many records name a client; clients that left go unnamed only as their records go.
        self._attached: Counter[ClientId] = Counter()
        # Tasks whose copies are on their way. Who submits one of them again is not told before they are there.
        self._accepting: dict[TaskId, None] = {}
        self.left: set[ClientId] = set()
        self.counters = {"accepted": 0, "refused": 0}

    # ---- submissions

    def submit(self, sender: ClientId, message: Submit, blocks: Mapping[str, Block]) -> None:
        """Let it take its turn. The blocks are stored and kept; they are freed if nothing of them is accepted."""
        self._blocks.admit(blocks.values(), kept=True)
        if self._state.leaving and self._members.alive():
            self._out.send(sender, Goodbye())
            self._blocks.settle(blocks.values())
            return
        if self.waiting and any(entry.is_repeated(sender, message) for entry in self.waiting):
            self._blocks.settle(blocks.values())
            return
        until_ms = self._state.now_ms + int(self._settings.refuse_after_s * 1000)
        columns, nbytes = [], 0
        for name, block in blocks.items():
            columns.append((f":{name}", block))
            nbytes += block.nbytes
        entry = _Waiting(sender, message, blocks, columns, nbytes, until_ms)
        wrong = _uneven(message, blocks)
        if not wrong:
            wrong = row_too_large(blocks.values(), len(message.ids), self._state.row_bytes_max)
        if self._state.leaving:
            wrong = "this peer is leaving, and there is no other one to submit to"
        if wrong:
            self._reject(entry, message.ids, ErrorCode.REFUSED, wrong)
            self._blocks.settle(blocks.values())
        else:
            self.waiting.append(entry)

    def turn_away(self) -> None:
        """This peer leaves: its clients are to go elsewhere, with what waits for room, too."""
        others = self._members.alive()
        for entry in self.waiting:
            if not others:
                self._refuse(entry, len(entry.message.ids), "this peer is leaving; enqueue the task again")
            self._blocks.settle(entry.blocks.values())
        self.waiting.clear()
        if others:
            for client in self._attached:
                if client not in self.left:
                    self._out.send(client, Goodbye())

    def admit_waiting(self) -> None:
        """Accept what there is room for, in order of arrival; refuse what has waited too long or can never fit."""
        bytes_max = self._state.settings.store.record_bytes
        early: list[_Waiting] = []
        while self.waiting and not self._state.restoring:
            first = self.waiting[0]
            if self._is_early(first):
                early.append(self.waiting.popleft())
                continue
            rows = len(first.message.ids)
            stop = self._fitting(first)
            if stop > first.start or stop == rows:
                self._accept(first, stop)
            elif first.until_ms <= self._state.now_ms:
                self._refuse(first, rows, self._full(first.nbytes))
            elif first.row_nbytes(first.start) > bytes_max:
                self._refuse(first, first.start + 1, self._full(first.row_nbytes(first.start)))
            else:
                break
            if first.start == rows:
                self.waiting.popleft()
                self._blocks.settle(first.blocks.values())
        self.waiting.extendleft(reversed(early))

    def _is_early(self, entry: _Waiting) -> bool:
        """Whether it will be known only in a while if these tasks can be accepted."""
        return self._definitions.is_coming(entry.message.ns, entry.message.digest)

    def _fitting(self, entry: _Waiting) -> int:
        """The row up to which there is room. Room is bounded twice: many a record has next to no bytes of tensors."""
        bytes_max = self._state.settings.store.record_bytes
        room_nbytes = bytes_max - self._ledger.kept_nbytes - self._copies.nbytes
        room = max(bytes_max // RECORD_NBYTES, RECORDS_MIN) - len(self._ledger) - len(self._copies)
        rows = len(entry.message.ids)
        if entry.nbytes <= room_nbytes and rows - entry.start <= room:
            return rows
        for row in range(entry.start, rows):
            if self._ledger.record(entry.message.ids[row]) is None:  # else it has its room already
                room_nbytes -= entry.row_nbytes(row)
                room -= 1
                if room_nbytes < 0 or room < 0:
                    return row
        return rows

    def _full(self, nbytes: int) -> str:
        taken = self._ledger.kept_nbytes + self._copies.nbytes
        return (
            f"no room for {nbytes} bytes of input: {taken} of {self._state.settings.store.record_bytes} bytes "
            f"(store.record_bytes) are taken by inputs and results of {len(self._ledger) + len(self._copies)} tasks, "
            "each with some memory of its own; clear finished tasks or raise the setting"
        )

    def _accept(self, entry: _Waiting, stop: int) -> None:
        """Accept the rows up to `stop`."""
        message, blocks = entry.message, entry.blocks
        plan = self._plans.current(message.ns)
        if plan is None or plan.digest != message.digest:
            what = "is not loaded" if plan is None else "has another definition now"
            self._refuse(entry, len(message.ids), f"{STALE} namespace {message.ns!r} {what}")
            return
        wrong = _misfit(plan.graphs[plan.entry].input_format, blocks)
        if wrong:
            self._refuse(entry, len(message.ids), f"namespace {message.ns!r}: {wrong}")
            return
        rset, replicas_min = self._replicas.choose(), self._state.settings.cluster.min_replicas
        if len(rset) < replicas_min:
            few = f"{len(rset)} of {replicas_min} peers (cluster.min_replicas) are there to keep copies"
            self._refuse(entry, len(message.ids), f"namespace {message.ns!r}: only {few}")
            return
        if len(rset) == 1 and self._state.journal is not None and self._is_disk_gone:
            self._refuse(entry, len(message.ids), f"namespace {message.ns!r}: {self._disk_gone()}")
            return
        conflicts, attached, created = list[TaskId](), list[TaskId](), list[Record]()
        clients = (entry.sender,)  # shared by all of them
        for row in range(entry.start, stop):
            task, digest = message.ids[row], message.submit_digests[row]
            fields, nbytes = {}, 0
            for name, block in entry.columns:
                fields[name] = (block, row)
                nbytes += block.row_nbytes(row)
            entry.nbytes -= nbytes
            known = self._ledger.record(task) or self._copies.copy(task)
            if known is not None:
                (attached if known.submit_digest == digest else conflicts).append(task)
                continue
            if self._copies.is_dead(task, message.nonce):
                attached.append(task)  # a repeated submission comes after its own deletion
                continue
            record = Record(
                id=task,
                plan=plan,
                seq=self._ledger.next_seq(),
                nonce=message.nonce,
                submit_digest=digest,
                input=fields,
                clients=clients,
                accepted_ms=self._state.now_ms,
                caching=message.cache,
                rset=rset,
                epoch_n=self._state.first_n,
                kept_nbytes=nbytes,
            )
            for value in fields.values():
                self._blocks.hold(value)
            self._ledger.add(record)
            created.append(record)
        entry.start = stop
        self._replicas.enroll(created)
        self._plans.enter(plan, len(created))
        self._accepting.update(dict.fromkeys([record.id for record in created]))
        if conflicts:
            self._reject(entry, conflicts, ErrorCode.CONFLICT, _CONFLICT)
        self._attached[entry.sender] += len(created)
        self.counters["accepted"] += len(created)
        sure = tuple(filter(self._is_sure, attached))
        then = partial(self._accepted, entry.sender, message.mid, sure, tuple(created))
        self._replicas.write(CopyKind.ACCEPT, created, self._state.now_ms, then)
        for record in created:
            self._travel.begin(record)
        if attached:
            self.attach(entry.sender, attached)

    def _accepted(self, sender: ClientId, mid: int, attached: tuple[TaskId, ...], created: tuple[Record, ...]) -> None:
        """The copies are there: the client may rely on it. Of what was handed off meanwhile `rset` says where it is."""
        durable = False
        if self._state.journal is not None and self._is_disk_gone:
            created = self._undo(sender, mid, created)
        for record in created:
            self._accepting.pop(record.id, None)
        if self._state.journal is not None:
            durable = self._are_durable([*created, *[self._ledger.record(task) for task in attached]])
        groups: dict[tuple[tuple[PeerId, ...], int], list[TaskId]] = {}
        for record in created:
            groups.setdefault((record.rset, len(record.rset)), []).append(record.id)
        for task in attached:
            groups.setdefault(self._kept(task), []).append(task)
        for (rset, copies), ids in groups.items():
            self._out.send(sender, Accepted(mid=mid, ids=tuple(ids), copies=copies, durable=durable, rset=rset))

    def _kept(self, task: TaskId) -> tuple[tuple[PeerId, ...], int]:
        """Where a task is that was submitted again, and on how many peers."""
        record, copy = self._ledger.record(task), self._copies.copy(task)
        if copy is not None:
            return copy.rset, self._known_copies(copy)
        return ((self._state.me,), 1) if record is None else (record.rset, record.copies)

    def _known_copies(self, copy: Copy) -> int:
        """A holder knows of its own copy and of the owner."""
        return 1 + self._members.is_alive(copy.owner)

    def _is_sure(self, task: TaskId) -> bool:
        """Whether a task that was submitted again has the copies it should; else its client asks once more."""
        record, copy = self._ledger.record(task), self._copies.copy(task)
        if copy is not None:
            return copy.status is not None or self._members.is_alive(copy.owner)
        if record is None or task not in self._accepting:
            return True
        return len(record.rset) > 1 and not record.barriers

    @property
    def _is_disk_gone(self) -> bool:
        return self._state.journal is not None and bool(self._state.journal.failed)

    def _disk_gone(self) -> str:
        assert self._state.journal is not None
        return (
            f"this peer cannot write its journal any more ({self._state.journal.failed}), and no other peer is there "
            "to keep copies; make room and start it again"
        )

    def _are_durable(self, records: Sequence[Record | None]) -> bool:
        """Whether all of these are on disk, with all their copies. A disk that has failed is not relied on any more."""
        there = [record for record in records if record is not None and self._ledger.record(record.id) is record]
        return not self._is_disk_gone and len(there) == len(records) and all(record.durable for record in there)

    def _undo(self, sender: ClientId, mid: int, created: tuple[Record, ...]) -> tuple[Record, ...]:
        """The disk has failed before these were on it: refuse those that nobody else has heard of. Returns those that
        may be accepted; what had copies and is alone now is that as soon as it has some again.
        """
        alone = [record for record in created if self._ledger.record(record.id) is record and len(record.rset) == 1]
        refused = tuple([record.id for record in alone if self._is_unheard_of(record)])
        if refused:
            self.counters["refused"] += len(refused)
            self._out.send(sender, Refused(mid=mid, ids=refused, code=ErrorCode.REFUSED, message=self._disk_gone()))
            self.clear(refused, _nothing)
        gone = frozenset([record.id for record in alone])
        return tuple([record for record in created if record.id not in gone])

    def _is_unheard_of(self, record: Record) -> bool:
        """Whether nobody but this peer knows of a record, or ever did."""
        return len(record.rset) == 1 and record.epoch_n == self._state.first_n and not record.heard_of

    def _refuse(self, entry: _Waiting, stop: int, reason: str) -> None:
        """Refuse the rows up to `stop`."""
        refused = range(entry.start, stop)
        entry.nbytes -= sum([entry.row_nbytes(row) for row in refused])
        entry.start = stop
        self._reject(entry, [entry.message.ids[row] for row in refused], ErrorCode.REFUSED, reason)

    def _reject(self, entry: _Waiting, ids: Iterable[TaskId], code: ErrorCode, reason: str) -> None:
        rejected = tuple(ids)
        if rejected:
            self.counters["refused"] += len(rejected)
            self._out.send(entry.sender, Refused(mid=entry.message.mid, ids=rejected, code=code, message=reason))

    # ---- one task

    def attach(self, client: ClientId, ids: Iterable[TaskId]) -> None:
        """Tell a client how tasks end; at once where they have."""
        ended, unknown = [], []
        for task in ids:
            record = self._ledger.record(task)
            if record is None:
                if not self._attach_to_copy(client, task):
                    unknown.append(task)
            elif record.shown:
                ended.append(record)
            elif client not in record.clients:
                record.clients = (*record.clients, client)
                self._attached[client] += 1
        self._tell({client: ended})
        if unknown:
            self._out.send(client, Final.unknown(unknown))

    def _attach_to_copy(self, client: ClientId, task: TaskId) -> bool:
        """Tell a client of a task that another peer owns. False if there is no copy of it."""
        copy = self._copies.copy(task)
        if copy is None:
            return False
        if copy.status is None or copy.stands_in:
            self._copies.attach(task, client)
            self.moved((client,), task, copy.owner)
        else:
            self._out.send(client, *final_of_copy(copy, self._known_copies(copy)))
        return True

    def unknown(self, clients: Iterable[ClientId], task: TaskId) -> None:
        """Tell clients that a task is not known any more."""
        for client in clients:
            self._out.send(client, Final.unknown([task]))

    def moved(self, clients: Iterable[ClientId], task: TaskId, owner: PeerId) -> None:
        """Tell clients who owns a task."""
        for client in clients:
            self._out.send(client, Moved(ids=(task,), owners=(owner,)))

    def adopted(self, record: Record) -> None:
        """A record has come from an owner that is gone."""
        for client in record.clients:
            self._attached[client] += 1
        if record.phase.ended:
            self._expiring[record.id] = self._state.now_ms + int(self._settings.result_ttl_s * 1000)

    def release(self, record: Record) -> None:
        """Let go of a record without telling anybody. It must not be in a queue, nor hold a token."""
        for client in record.clients:
            self._detach(client, 1)
        self._expiring.pop(record.id, None)
        self._accepting.pop(record.id, None)
        self._replicas.dismiss(record)
        self._travel.forget(record)

    def read(self, ids: Iterable[TaskId]) -> None:
        for task in ids:
            record = self._ledger.record(task)
            if record is not None:
                self._ledger.mark_read(record)

    def unknown_of(self, ids: Iterable[TaskId]) -> tuple[TaskId, ...]:
        """Those of these tasks of which nothing is known here, not even that they were deleted."""
        known, copies = self._ledger.record, self._copies.version
        return tuple([task for task in ids if known(task) is None and copies(task) is None])

    def clear(self, ids: Iterable[TaskId], then: Callable[[], None]) -> None:
        """Forget tasks, wherever they are in their lives; `then` is called when the copies have, too."""
        ids = tuple(dict.fromkeys(ids))
        records = self._known(ids)
        self._claims.revoke(records)
        told: dict[ClientId, list[TaskId]] = {}
        for record in records:
            for client in record.clients:
                if client not in self.left:
                    told.setdefault(client, []).append(record.id)
            if not record.phase.ended:
                self._out.report("error.task.ghost", task=record.id, node=record.place)
            self.release(record)
            if not self._is_unheard_of(record):
                version = Version(Rank.DELETED, record.epoch_n, self._state.me, self._state.life, record.change + 1)
                self._copies.bury(record.id, record.nonce, version, self._state.now_ms)
        self._clear_copies(ids)
        self._replicas.write(CopyKind.DELETE, records, self._state.now_ms, partial(self._cleared, told, then))

    def _cleared(self, told: Mapping[ClientId, list[TaskId]], then: Callable[[], None]) -> None:
        for client, tasks in told.items():
            self._out.send(client, Final.unknown(tasks))
        then()

    def _clear_copies(self, ids: Iterable[TaskId]) -> None:
        """Tasks of other owners: deleted here, and wherever this is heard of."""
        for task in ids:
            copy = self._copies.copy(task)
            if copy is not None:
                version = Version(Rank.DELETED, copy.version.n + 1, self._state.me, self._state.life, 0)
                self._copies.bury(task, copy.nonce, version, self._state.now_ms)
                self.unknown(copy.clients, task)
                for peer in copy.rset:
                    self._members.tell(peer, SyncBetter(versions=(info(task, version),)))

    def cancel(self, ids: Iterable[TaskId]) -> None:
        """End tasks that have not ended."""
        records = [record for record in self._known(ids) if not record.phase.ended]
        self._claims.revoke(records)
        for record in records:
            self._travel.cancel(record)

    def _known(self, ids: Iterable[TaskId]) -> list[Record]:
        """The records of these tasks, each once, without those that are not there."""
        found = [self._ledger.record(task) for task in dict.fromkeys(ids)]
        return [record for record in found if record is not None]

    def _detach(self, client: ClientId, records: int) -> None:
        """So many records that named a client are gone."""
        self._attached[client] -= records
        if not self._attached[client]:
            del self._attached[client]
            self.left.discard(client)

    def ended(self, records: list[Record]) -> None:
        """Tell everybody who attached how tasks ended."""
        expires_ms = self._state.now_ms + int(self._settings.result_ttl_s * 1000)
        for record in records:
            self._expiring[record.id] = expires_ms
        self._replicas.write(CopyKind.FINAL, records, self._state.now_ms, partial(self._show, records))

    def _show(self, records: Iterable[Record]) -> None:
        """Tell everybody who attached how tasks ended: the copies know it, too."""
        by_client: dict[ClientId, list[Record]] = {}
        for record in records:
            if self._ledger.record(record.id) is not record:
                continue  # cleared or handed off meanwhile
            record.shown = True
            for client in record.clients:
                by_client.setdefault(client, []).append(record)
        self._tell(by_client)

    def _tell(self, by_client: Mapping[ClientId, list[Record]]) -> None:
        for client, records in by_client.items():
            if client in self.left:
                continue
            groups: dict[tuple[bytes, int], list[Record]] = {}
            for record in records:
                groups.setdefault((record.plan.digest, record.copies), []).append(record)
            for group in groups.values():
                durable = self._state.journal is not None and self._are_durable(group)
                for chunk in chunks(group):  # what is too long for one message would never arrive
                    self._out.send(client, *final_of_records(chunk, durable=durable))

    def expire(self) -> None:
        """Forget results whose time is over."""
        now_ms = self._state.now_ms
        self.clear(list(takewhile(lambda task: self._expiring[task] <= now_ms, self._expiring)), _nothing)

    def deadline_ms(self) -> int | None:
        """When `expire` or `admit_waiting` has something to do by itself."""
        expiry_ms = next(iter(self._expiring.values()), None)
        if not self.waiting or self._state.restoring:
            return expiry_ms
        refusal_ms = next((entry.until_ms for entry in self.waiting if not self._is_early(entry)), None)
        return refusal_ms if expiry_ms is None else expiry_ms if refusal_ms is None else min(expiry_ms, refusal_ms)

    def heard(self, client: ClientId) -> None:
        """A client says something, so it is there (again): a link broke, and it has made another."""
        self.left.discard(client)

    def lost(self, client: ClientId) -> None:
        """A client left: its tasks go on, their results are kept as for any other."""
        if client in self._attached:
            self.left.add(client)

    # ---- questions

    def tasks(self, sender: ClientId, message: AskTasks) -> None:
        reports = [self._report(task) for task in message.ids]
        self._out.send(sender, TaskReports(mid=message.mid, reports=shortened(reports)))

    def _report(self, task: TaskId) -> TaskReport:
        record = self._ledger.record(task)
        if record is None:
            copy = self._copies.copy(task)
            if copy is None:
                return TaskReport(id=task, status=TaskStatus.UNKNOWN)
            status = TaskStatus.WAIT if copy.status is None or copy.stands_in else copy.status
            retries = copy.errors + copy.restarts
            return TaskReport(
                id=task, status=status, ns=copy.ns, retries=retries, error=copy.last_error, duration_ms=copy.duration_ms
            )
        return TaskReport(
            id=task,
            status=record.status,
            ns=record.plan.ns,
            retries=record.retries,
            error=record.error,
            duration_ms=record.duration_ms(self._state.now_ms),
            place=record.place,
            story=record.told(),
        )

    def waiting_blocks(self) -> list[Block]:
        """Blocks of submissions that are not accepted yet, for checks."""
        return [block for entry in self.waiting for block in entry.blocks.values()]

    def check_invariants(self) -> None:
        assert self._expiring.keys() == {record.id for record in self._ledger if record.phase.ended}
        assert list(self._expiring.values()) == sorted(self._expiring.values())
        assert self._attached == Counter(client for record in self._ledger for client in record.clients)
        assert self.left <= self._attached.keys()


def _nothing() -> None:
    """Nobody waits for this."""


_CONFLICT = "this task id is taken by a task with other inputs; use a new id, or clear that task first"


def _uneven(message: Submit, blocks: Mapping[str, Block]) -> str:
    """What is wrong with the numbers of a submission; "" if everything is there once per task."""
    tasks = len(message.ids)
    wrong = []
    if len(message.submit_digests) != tasks:
        wrong.append(f"{len(message.submit_digests)} submit_digests")
    for name, digests in message.digests.items():
        if len(digests) != tasks:
            wrong.append(f"{len(digests)} digests of {name!r}")
    for name, block in blocks.items():
        if block.layout.rows != tasks:
            wrong.append(f"{block.layout.rows} rows of {name!r}")
    return f"a submission of {tasks} tasks has {', '.join(wrong)}" if wrong else ""


def _misfit(formats: Format, blocks: Mapping[str, Block]) -> str:
    """What is wrong with the inputs of a submission; "" if they fit. Clients check it too; not all need be ours."""
    if blocks.keys() != formats.keys():
        return f"expected the fields {sorted(formats)}, got {sorted(blocks)}"
    for name, wanted in formats.items():
        layout = blocks[name].layout
        for shape in set(layout.shapes) if layout.shape is None else (layout.shape,):
            if not wanted.accepts(layout.dtype, shape):
                return f"field {name!r}: expected {wanted}, got {layout.dtype.name}{list(shape)}"
    return ""
