"""The desk: what clients ask for, and what they are told.

Purpose   Submissions, waiting, reading, clearing, cancelling, questions.
Rules     1. The same id with the same content is the same task, from whichever client; other content is a conflict
             and leaves the first task alone.
          2. Tasks of a submission are accepted in order as long as there is room (`record_bytes`); the rest waits its
             turn, and after `refuse_after_s` is refused. Nothing is dropped silently. What comes while the definition
             that it needs is on its way or being checked, as after a start, waits for that, and lets others pass; so
             does what needs one that is not here, until all members have been asked for it.
          3. Whoever attached to a task is told once how it ended; a task that is cleared ends as unknown.
          4. Results go `result_ttl_s` after the end unless they are cleared before.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile

from ..errors import ErrorCode
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
from .submissions import Waiting, full, misfit, uneven
from .travel import Travel
from .values import Block
from .versions import Rank, Version
from .writes import chunks

RECORDS_MIN = 1024
"""So many tasks fit into the smallest peer, as far as their inputs do."""

STALE = "stale:"
"""How the message of a refusal begins if the client should look the namespace up again."""


class Desk:
    """One peer's clients. waiting: submissions that are not accepted yet. left: clients that are gone, as far as any
    record names them. counters: tasks "accepted" and "refused", and "clients_refused" that mean another cluster.
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
        self.waiting: deque[Waiting] = deque()
        # In order of expiry, because all results are kept equally long. Unlike a dict, it stays quick to ask for the
        # first when those before it have been taken out.
        self._expiring: OrderedDict[TaskId, int] = OrderedDict()
        # How many records name a client; clients that left go unnamed only as their records go.
        self._attached: Counter[ClientId] = Counter()
        # Tasks whose copies are on their way. Who submits one of them again is not told before they are there.
        self._accepting: dict[TaskId, None] = {}
        self.left: set[ClientId] = set()
        self.counters = {"accepted": 0, "refused": 0, "clients_refused": 0}

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
        entry = Waiting(sender, message, blocks, columns, nbytes, until_ms)
        wrong = uneven(message, blocks)
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
        early: list[Waiting] = []
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

    def _is_early(self, entry: Waiting) -> bool:
        """Whether it will be known only in a while if these tasks can be accepted."""
        is_coming = self._definitions.is_coming(entry.message.ns, entry.message.digest)
        return is_coming or (entry.lookup is not None and self._definitions.is_looking(entry.lookup))

    def _fitting(self, entry: Waiting) -> int:
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
        taken, tasks = self._ledger.kept_nbytes + self._copies.nbytes, len(self._ledger) + len(self._copies)
        return full(nbytes, taken, self._state.settings.store.record_bytes, tasks)

    def _accept(self, entry: Waiting, stop: int) -> None:
        """Accept the rows up to `stop`, or none of them as long as it may turn out that their definition is loaded."""
        message, blocks = entry.message, entry.blocks
        plan = self._plans.current(message.ns)
        if plan is None or plan.digest != message.digest:
            self._stale(entry, self._plans.why_none(message.ns) if plan is None else "has another definition now")
            return
        wrong = misfit(plan.graphs[plan.entry].input_format, blocks)
        if wrong:
            self._refuse(entry, len(message.ids), f"namespace {message.ns!r}: {wrong}")
            return
        rset = self._replicas.choose()
        if why := self._unkept(rset):
            self._refuse(entry, len(message.ids), f"namespace {message.ns!r}: {why}")
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
            is_here = self._is_here(message, row)
            if is_here is not None:
                (attached if is_here else conflicts).append(task)
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

    def _stale(self, entry: Waiting, what: str) -> None:
        """Refuse it, but ask all members first whether they know better."""
        if entry.lookup is None:
            entry.lookup = self._definitions.look_up()
        else:
            self._refuse(entry, len(entry.message.ids), f"{STALE} namespace {entry.message.ns!r} {what}")

    def _accepted(self, sender: ClientId, mid: int, attached: tuple[TaskId, ...], created: tuple[Record, ...]) -> None:
        """The copies are there: the client may rely on it. Of what was handed off meanwhile `rset` says where it is."""
        if gone := self._disk_gone():
            created = self._undo(sender, mid, created, gone)
        for record in created:
            self._accepting.pop(record.id, None)
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

    def _unkept(self, rset: Sequence[PeerId]) -> str:
        """Why these peers are not enough to keep a task; "" if they are."""
        replicas_min = self._state.settings.cluster.min_replicas
        if len(rset) < replicas_min:
            return f"only {len(rset)} of {replicas_min} peers (cluster.min_replicas) are there to keep copies"
        return self._disk_gone() if len(rset) == 1 else ""

    def _disk_gone(self) -> str:
        """Why this peer cannot keep what nobody else does; "" if it can, or has no disk."""
        journal = self._state.journal
        if journal is None or not journal.failed:
            return ""
        return (
            f"this peer cannot write its journal any more ({journal.failed}), and no other peer is there to keep "
            "copies; make room and start it again"
        )

    def _are_durable(self, records: Sequence[Record | None]) -> bool:
        """Whether all of these are on disk, with all their copies. A disk that has failed is not relied on any more."""
        there = [record for record in records if record is not None and self._ledger.record(record.id) is record]
        return self._has_disk and len(there) == len(records) and all(record.durable for record in there)

    @property
    def _has_disk(self) -> bool:
        return self._state.journal is not None and not self._state.journal.failed

    def _undo(self, sender: ClientId, mid: int, created: tuple[Record, ...], gone: str) -> tuple[Record, ...]:
        """The disk has failed before these were on it: refuse those that nobody else has heard of. Returns those that
        may be accepted; what had copies and is alone now is that as soon as it has some again.
        """
        alone = [record for record in created if self._ledger.record(record.id) is record and len(record.rset) == 1]
        refused = tuple([record.id for record in alone if self._is_unheard_of(record)])
        if refused:
            self.counters["refused"] += len(refused)
            self._out.send(sender, Refused(mid=mid, ids=refused, code=ErrorCode.REFUSED, message=gone))
            self._forget(refused, _nothing)
            # What is submitted here again is not taken for the same life of it.
            self._state.begin_above(max(record.epoch_n for record in alone))
        not_now = frozenset([record.id for record in alone])
        return tuple([record for record in created if record.id not in not_now])

    def _is_unheard_of(self, record: Record) -> bool:
        """Whether nobody but this peer knows of a record, or ever did."""
        return len(record.rset) == 1 and record.id not in self._ledger.heard_of

    def _refuse(self, entry: Waiting, stop: int, reason: str) -> None:
        """Refuse the rows up to `stop`, but for those that are here: their client has only not heard of it."""
        message, rows = entry.message, range(entry.start, stop)
        entry.nbytes -= sum([entry.row_nbytes(row) for row in rows])
        here = {row for row in rows if self._is_here(message, row)}
        entry.start = stop
        attached = [message.ids[row] for row in rows if row in here]
        self._accepted(entry.sender, message.mid, tuple(filter(self._is_sure, attached)), ())
        self.attach(entry.sender, attached)
        self._reject(entry, [message.ids[row] for row in rows if row not in here], ErrorCode.REFUSED, reason)

    def _is_here(self, message: Submit, row: int) -> bool | None:
        """Whether a submitted task is here, or was and is deleted. False: another one has its id; None: neither."""
        known = self._ledger.record(message.ids[row]) or self._copies.copy(message.ids[row])
        if known is not None:
            return known.submit_digest == message.submit_digests[row]
        return self._copies.is_dead(message.ids[row], message.nonce) or None

    def _reject(self, entry: Waiting, ids: Iterable[TaskId], code: ErrorCode, reason: str) -> None:
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
        if self._state.journal is None:
            self._tell({client: ended})
        elif ended:
            self._state.journal.when_kept(lambda durable: self._tell_again(client, ended, is_on_disk=durable))
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
        elif self._state.journal is None:
            self._show_copy(client, copy, durable=False)
        else:
            self._state.journal.when_kept(lambda durable: self._show_copy(client, copy, durable=durable))
        return True

    def _show_copy(self, client: ClientId, copy: Copy, *, durable: bool) -> None:
        """Tell how a task of another owner ended. durable: it is on this peer's disk, and may be on no other one."""
        if self._copies.copy(copy.id) is copy:
            copies = 1 if durable else self._known_copies(copy)
            self._out.send(client, *final_of_copy(copy, copies, durable=durable))
        else:  # it has changed hands meanwhile
            self.attach(client, (copy.id,))

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
        """Forget tasks for a client, wherever they are in their lives: also what is submitted here and waits its turn.
        `then` is called when the copies have forgotten them, too.
        """
        self._forget(ids, then, is_wish=True)

    def _forget(self, ids: Iterable[TaskId], then: Callable[[], None], *, is_wish: bool = False) -> None:
        """is_wish: of their client, who wants them nowhere, and may submit them again because an answer got lost. What
        goes for another reason, and nobody else has heard of, is not remembered: it may have been accepted elsewhere.
        """
        ids = dict.fromkeys(ids)
        records = self._known(ids)
        self._claims.revoke(records)
        told: dict[ClientId, list[TaskId]] = {}
        for record in records:
            for client in record.clients:
                if client not in self.left:
                    told.setdefault(client, []).append(record.id)
            if not record.phase.ended:
                self._out.report("error.task.ghost", task=record.id, node=record.place)
            is_unheard_of = self._is_unheard_of(record)
            self.release(record)
            if not is_unheard_of or (is_wish and self._state.may_repeat):
                version = Version(Rank.DELETED, record.epoch_n, self._state.me, self._state.life, record.change + 1)
                self._copies.bury(record.id, record.nonce, version, self._state.now_ms)
        self._clear_copies(ids)
        for entry in self.waiting if is_wish else ():
            version = Version(Rank.DELETED, self._state.first_n, self._state.me, self._state.life, 0)
            for task in entry.open_among(ids):
                self._copies.bury(task, entry.message.nonce, version, self._state.now_ms)
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

    def _tell_again(self, client: ClientId, records: Sequence[Record], *, is_on_disk: bool) -> None:
        """Tell what is on this peer's disk by now. Nobody may have to wait for copies that replace others."""
        there = [record for record in records if self._ledger.record(record.id) is record]
        self._tell({client: there}, is_on_disk=is_on_disk)
        if len(there) < len(records):
            self.attach(client, [record.id for record in records if record not in there])

    def _tell(self, by_client: Mapping[ClientId, list[Record]], *, is_on_disk: bool = False) -> None:
        """is_on_disk: at this peer. Unless all others are known to have it on disk, too, that is one durable copy."""
        for client, records in by_client.items():
            if client in self.left:
                continue
            groups: dict[tuple[bytes, int, bool], list[Record]] = {}
            for record in records:
                durable = (record.durable or is_on_disk) and self._has_disk
                copies = record.copies if record.durable or not durable else 1
                groups.setdefault((record.plan.digest, copies, durable), []).append(record)
            for (_, copies, durable), group in groups.items():
                for chunk in chunks(group):  # what is too long for one message would never arrive
                    self._out.send(client, *final_of_records(chunk, copies, durable=durable))

    def expire(self) -> None:
        """Forget results whose time is over."""
        now_ms = self._state.now_ms
        self._forget(list(takewhile(lambda task: self._expiring[task] <= now_ms, self._expiring)), _nothing)

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
        reports = shortened([self._report(task) for task in message.ids])
        doubtful = self._members.may_lack_some(self._state.now_ms)
        self._out.send(sender, TaskReports(mid=message.mid, reports=reports, doubtful=doubtful))

    def _report(self, task: TaskId) -> TaskReport:
        record = self._ledger.record(task)
        if record is None:
            copy = self._copies.copy(task)
            if copy is None:
                return TaskReport(id=task, status=TaskStatus.UNKNOWN)
            status, retries = copy.standing, copy.errors + copy.restarts
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
