"""Takeover: tasks change their owner when it is gone, and copies that went apart find together again.

Purpose   Adopts the tasks of owners that are gone, gives up records that others know better, compares after a split.
Rules     1. The next living member of a record's stored set adopts it, in the next epoch; nobody's view of the cluster
             decides. Members further down wait for a `sync_s` before they conclude that those in front lack it.
          2. Whoever is about to adopt asks all members first. Somebody may know better: a deletion, an end, a newer
             owner. Silence for INQUIRY_MS is no answer: a split must not stop either side; the merge puts it right.
          3. A live task starts over from its input; one that has ended keeps its end.
          4. Safety does not rest on any of this: copies refuse old epochs, and a client latches the first end it sees.
          5. Whoever gives way keeps what it has as a stand-in (core/copies.py): the better account may be the only one.
             Its owner says when it is not wanted: when that one has its copies.
          6. What this peer has given up may come back to it, and is then in an epoch above all that it was in here:
             the better account may be of a lower one, and copies of what is forgotten here may still be elsewhere.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from ..errors import ErrorCode
from ..ids import PeerId, TaskId
from .claims import Claims
from .copies import Copies, Copy, info, version_in, version_of
from .definitions import Definitions
from .desk import Desk
from .ledger import Phase, Record
from .members import Status
from .messages import TaskStatus
from .peermessages import (
    AskSync,
    CopyKind,
    Drop,
    HandedOver,
    Handover,
    Inquire,
    Known,
    Replicate,
    Replicated,
    Sync,
    SyncBetter,
    SyncDigest,
    VersionInfo,
)
from .replicas import Replicas, record_version
from .state import State
from .travel import Failure, Travel
from .values import Block
from .versions import Rank, Version
from .writes import copy_of

INQUIRY_MS = 1000
TASKS_PER_MESSAGE = 512
HEIR_MS = 3 * INQUIRY_MS
"""So long who is left a task is the only one: until it has asked around. Others find it when they ask around later."""


@dataclass(slots=True, eq=False)
class _Inquiry:
    """Copies that are to be adopted when everybody has said what they know, or has had the time to.

    better: what is known of them elsewhere, and who says so. is_disowned: their owner is there, but does not know them.
    """

    copies: Sequence[Copy]
    waiting: dict[PeerId, None]
    until_ms: int
    is_disowned: bool
    better: dict[TaskId, tuple[Version, PeerId]] = field(default_factory=dict)


@dataclass(slots=True)
class _Answer:
    """To a Sync. behind: records of which the sender should have a copy, and has an older one."""

    better: list[VersionInfo] = field(default_factory=list)
    behind: list[Record] = field(default_factory=list)
    unwanted: list[TaskId] = field(default_factory=list)


class Takeover:
    """What one peer does about tasks that change hands."""

    def __init__(self, state: State, travel: Travel, claims: Claims, desk: Desk, definitions: Definitions) -> None:
        self._state = state
        self._members = state.members
        self._ledger = state.ledger
        self._copies: Copies = state.copies
        self._replicas: Replicas = state.replicas
        self._travel = travel
        self._claims = claims
        self._desk = desk
        self._definitions = definitions
        definitions.ready.append(lambda _: self.reconsider())
        self._mids = count(1)
        self._inquiries: dict[int, _Inquiry] = {}
        self._asked: dict[TaskId, None] = {}
        self._patience_ms: int | None = None
        self._compare_ms: int | None = None
        self._compared: dict[PeerId, None] = {}
        self._reclaims = False
        # Task -> to whom it was left, what that one has of it, and until when nobody is told who has nothing better.
        self._heirs: OrderedDict[TaskId, tuple[PeerId, Version, int]] = OrderedDict()
        self.counters = {"takeovers": 0, "handed_off": 0}

    # ---- owners go

    def gone(self, peer: PeerId) -> None:
        """A member is gone: adopt what it owned and what waited for it to be adopted."""
        self._claim_orphans()
        for mid, inquiry in list(self._inquiries.items()):
            inquiry.waiting.pop(peer, None)
            self._conclude(mid, inquiry)

    def reclaim(self) -> None:
        """This peer has started again, and has heard whom it could hear: own again what it owned, and what others did
        who are not there any more.
        """
        self._reclaims = True
        self._claim_orphans()

    @property
    def is_reclaiming(self) -> bool:
        """Whether it is still to be seen what becomes of tasks that this peer owned in an earlier life."""
        mine = self._copies.of(self._state.me)
        return any(copy.id in self._asked or not self._state.plans.is_checked(copy.digest) for copy in mine)

    def _claim_orphans(self) -> None:
        self.reconsider()
        self._be_patient(*self._copies.owners())

    def _be_patient(self, *owners: PeerId) -> None:
        """If one of these is gone, look in a while whether others have adopted what it owned."""
        if self._patience_ms is None and any(self._is_orphan(owner) for owner in owners):
            self._patience_ms = self._state.now_ms + int(self._state.settings.timing.sync_s * 1000)

    def reconsider(self, *, patient: bool = True) -> None:
        """Adopt copies whose owner is gone; unless `patient`, also those that others should have adopted by now."""
        for owner in self._copies.owners():
            if self._is_orphan(owner):
                mine = [copy for copy in self._copies.of(owner) if not patient or self._is_next(copy)]
                mine = [copy for copy in mine if copy.id not in self._asked and self._can_adopt(copy)]
                for start in range(0, len(mine), TASKS_PER_MESSAGE):
                    self._inquire(owner, mine[start : start + TASKS_PER_MESSAGE])

    def _is_orphan(self, owner: PeerId) -> bool:
        if owner == self._state.me:  # in an earlier life
            return self._reclaims
        return self._members.status(owner) not in _MAYBE_THERE

    def _is_next(self, copy: Copy) -> bool:
        """Whether nobody in front of this peer in the copy's set is there."""
        me = self._state.me
        before = copy.rset[: copy.rset.index(me)] if me in copy.rset else copy.rset
        return not any(self._members.status(peer) in _MAYBE_THERE for peer in before)

    def _can_adopt(self, copy: Copy) -> bool:
        return self._state.plans.plan(copy.digest) is not None

    def _inquire(self, owner: PeerId, copies: Sequence[Copy], *, is_disowned: bool = False) -> None:
        others = self._members.alive()
        mid = next(self._mids)
        inquiry = _Inquiry(copies, dict.fromkeys(others), self._state.now_ms + INQUIRY_MS, is_disowned)
        self._inquiries[mid] = inquiry
        self._asked.update((copy.id, None) for copy in copies)
        message = Inquire(mid=mid, owner=owner, ids=tuple([copy.id for copy in copies]))
        for peer in others:
            self._members.tell(peer, message)
        self._conclude(mid, inquiry)

    def inquired(self, sender: PeerId, message: Inquire) -> None:
        """Somebody is about to adopt tasks: say what is known of them."""
        if not message.ids:
            self._sync(sender, (), self._copies.of(sender))
        versions = [info(task, version) for task in message.ids if (version := self._version(task)) is not None]
        self._members.tell(sender, Known(mid=message.mid, versions=tuple(versions)))

    def known(self, sender: PeerId, message: Known) -> None:
        """An answer to an inquiry."""
        inquiry = self._inquiries.get(message.mid)
        if inquiry is None or sender not in inquiry.waiting:
            return
        del inquiry.waiting[sender]
        for told in message.versions:
            better = (version_of(told), sender)
            inquiry.better[told.id] = max(better, inquiry.better.get(told.id, better))
        self._conclude(message.mid, inquiry)

    def _conclude(self, mid: int, inquiry: _Inquiry) -> None:
        if inquiry.waiting and self._state.now_ms < inquiry.until_ms:
            return
        del self._inquiries[mid]
        adopted = []
        for copy in inquiry.copies:
            self._asked.pop(copy.id, None)
            is_nobody_s = inquiry.is_disowned or self._is_orphan(copy.owner)
            if self._copies.copy(copy.id) is not copy or not is_nobody_s or not self._can_adopt(copy):
                continue
            better = inquiry.better.get(copy.id)
            if better is not None and better[0].beats(copy.version):
                self._give_way(copy, *better)
            else:
                adopted.append(copy)
        self._adopt(adopted, counted=not inquiry.is_disowned)

    def _give_way(self, copy: Copy, better: Version, teller: PeerId) -> None:
        """Somebody knows better than a copy here."""
        if better.rank == Rank.DELETED:
            self._desk.unknown(copy.clients, copy.id)
            self._copies.bury(copy.id, copy.nonce, better, self._state.now_ms)
            return
        if self._is_forgotten(better):
            better = self._disowned(copy.id, copy.version.n, better, teller)
        if better.owner != copy.owner:  # else it is an older word of that owner, which will say the new one here, too
            self._desk.moved(copy.clients, copy.id, better.owner)
            self._stand_in(copy, better, teller)
        self._be_patient(better.owner)

    def _stand_in(self, copy: Copy, better: Version, teller: PeerId) -> None:
        self._copies.stand_in(copy, better, (better.owner, teller, self._state.me))

    def _disowned(self, task: TaskId, n: int, forgotten: Version, teller: PeerId) -> Version:
        """What this peer has forgotten is to be the teller's. Returns what to stand in for: less than that one has."""
        self._disown(teller, {task: forgotten})
        n = min(n, forgotten.n - 1)
        return Version(Rank.LIVE, n, teller, self._members.incarnation(teller), 0)

    def _is_forgotten(self, version: Version) -> bool:
        """Whether a version that is better than what is known here is this peer's own word: said in an earlier life,
        or before the task was given up to somebody who is gone with it.
        """
        return version.rank != Rank.DELETED and version.owner == self._state.me

    def _disown(self, holder: PeerId, forgotten: Mapping[TaskId, Version]) -> None:
        """What this peer does not know any more is owned by the first who remembers it, as long as that one is there,
        unless somebody else knows better: then that comes out when it asks around.

        Who remembers a later word of this peer's is told at once: the first one leaves it to this peer to repeat that.
        """
        now_ms = self._state.now_ms
        while self._heirs and next(iter(self._heirs.values()))[2] <= now_ms:
            self._heirs.popitem(last=False)
        given = []
        for task, version in forgotten.items():
            heir, known, _ = self._heirs.get(task, (holder, version, 0))
            if heir == holder or version.beats(known) or not self._members.is_alive(heir):
                self._heirs[task] = (holder, version, now_ms + HEIR_MS)
                self._heirs.move_to_end(task)
                given.append(task)
        if given:
            self._members.tell(holder, Handover(mid=0, ids=tuple(given)))

    def _adopt(self, copies: Sequence[Copy], *, counted: bool = True) -> None:
        """Own these tasks from now on. counted: as a restart of those that live."""
        live: list[Record] = []
        ended: list[Record] = []
        rset = self._replicas.choose()
        for copy in copies:
            record = self._record(copy, rset)
            self._copies.drop(copy.id)
            self._ledger.add(record)
            if len(rset) == 1:
                self._ledger.heard_of.add(record.id)
            self._replicas.enroll((record,))
            self._desk.adopted(record)
            (ended if record.phase.ended else live).append(record)
        if not copies:
            return
        self.counters["takeovers"] += len(copies)
        self._state.out.report("tally.task.takeover", tasks=len(copies), owner=copies[0].owner)
        now_ms = self._state.now_ms
        self._replicas.write(CopyKind.FINAL, ended, now_ms, _nothing)
        self._replicas.write(CopyKind.ACCEPT, live, now_ms, _nothing)
        for record in live:
            if counted:
                self._travel.taken_over(record, _OWNER_GONE)
            else:
                self._travel.begin(record)

    def _record(self, copy: Copy, rset: tuple[PeerId, ...]) -> Record:
        plan = self._state.plans.plan(copy.digest)
        assert plan is not None
        self._state.plans.enter(plan)
        for value in copy.values.values():
            self._state.blocks.hold(value)
        record = Record(
            id=copy.id,
            plan=plan,
            seq=self._ledger.next_seq(),
            nonce=copy.nonce,
            submit_digest=copy.submit_digest,
            input={},
            clients=copy.clients,
            accepted_ms=copy.since_ms,
            caching=copy.caching,
            rset=rset,
            epoch_n=max(copy.version.n, self._state.first_n) + 1,
            errors=copy.errors,
            restarts=copy.restarts,
            crashes=copy.crashes,
            solo=copy.solo,
            error=copy.last_error,
            kept_nbytes=copy.nbytes,
        )
        if copy.status is None:
            record.input = {f":{name}": value for name, value in copy.values.items()}
            return record
        record.shown = True
        record.ended_ms = copy.since_ms + copy.duration_ms
        if copy.status is TaskStatus.ERROR:
            assert record.error is not None
            record.phase = Phase.CANCELLED if record.error.code is ErrorCode.CANCELLED else Phase.ERROR
        else:
            record.phase = Phase.READY
            record.result = dict(copy.values)
        return record

    # ---- others know better

    def replicated(self, sender: PeerId, message: Replicate, blocks: Mapping[str, Block]) -> None:
        """An owner says what is to be kept of its tasks."""
        owned: dict[TaskId, Version] = {}
        life = self._members.incarnation(sender)
        for place, task in enumerate(message.ids):
            record = self._ledger.record(task)
            if record is not None:
                mine, theirs = self._mine(record), version_in(message, place, sender, life)
                if mine.beats(theirs):
                    owned[task] = mine
                else:
                    self.hand_off(record, theirs, sender)
        if not self._definitions.has(message.digest):
            self._definitions.want(message.digest, sender)
            return  # no copy without its definition; the owner repeats this until it is answered
        kept = self._copies.keep(sender, message, blocks, self._state.now_ms, owned, life=life)
        answer = Replicated(
            mid=message.mid,
            better=tuple(kept.better),
            lacking=tuple(kept.lacking),
        )
        self._answer(sender, answer)

    def _answer(self, sender: PeerId, answer: Replicated) -> None:
        """Now, or when it is on disk; then only if it is still the same life of the sender that is to hear it."""
        journal = self._state.journal
        if journal is None:
            self._members.tell(sender, answer)
            return
        incarnation = self._members.incarnation(sender)

        def written(durable: bool) -> None:
            if self._members.incarnation(sender) == incarnation:
                told = replace(answer, durable=durable, failed=bool(journal.failed))
                self._members.tell(sender, told)

        journal.when_kept(written)

    def hand_off(self, record: Record, version: Version, teller: PeerId) -> None:
        """Give up a record: somebody else owns it in a later epoch, or it has ended or was deleted there.

        teller: who says so, and knows it. If the task was just being accepted here, it is kept there.
        """
        if self._ledger.record(record.id) is not record:
            return
        self.counters["handed_off"] += 1
        self._state.begin_above(record.epoch_n)
        self._claims.revoke((record,))
        if version.rank == Rank.DELETED:
            self._desk.release(record)
            self._copies.bury(record.id, record.nonce, version, self._state.now_ms)
            self._desk.unknown(record.clients, record.id)
            return
        copy = copy_of(record, self._mine(record), self._state.now_ms)
        for value in copy.values.values():
            self._state.blocks.hold(value)
        self._state.plans.keep(copy.digest)
        self._desk.release(record)
        if self._is_forgotten(version):
            version = self._disowned(record.id, record.epoch_n, version, teller)
        record.rset = tuple(dict.fromkeys((version.owner, teller)))
        self._desk.moved(record.clients, record.id, version.owner)
        self._stand_in(copy, version, teller)
        self._state.blocks.release(copy.values.values())
        self._state.plans.release(copy.digest)
        self._be_patient(version.owner)

    def take_lost(self) -> bool:
        """Give up what the copies' holders know better. False if there was nothing."""
        lost = self._replicas.take_lost()
        for one in lost:
            self.hand_off(one.record, one.version, one.teller)
            self._replicas.let_go(one)
        return bool(lost)

    def _version(self, task: TaskId) -> Version | None:
        record = self._ledger.record(task)
        if record is not None:
            return self._mine(record)
        return self._copies.version(task)

    def _mine(self, record: Record) -> Version:
        """What is said of a record to somebody who may know of another one."""
        if len(record.rset) == 1:
            self._ledger.heard_of.add(record.id)
        return record_version(record, self._members.me)

    # ---- after a split

    def healed(self, peer: PeerId) -> None:
        """A member that was held to be dead is back: compare everything. It may not have noticed that it was away, so
        it is asked for its part: of what it was told before some may be deleted here.
        """
        self._sync(peer, self._ledger, self._copies)
        self._members.tell(peer, Inquire(mid=0, owner=self._state.me, ids=()))

    def compare(self) -> None:
        """Let every holder of copies find out whether it has what it should have, and ask owners that do not."""
        for peer in self._replicas.holders():
            count, total = self._replicas.summed(peer)
            self._members.tell(peer, SyncDigest(count=count, total=total))
        for owner in self._copies.owners():
            if owner not in self._compared:
                self._sync(owner, (), self._copies.of(owner))
        self._compared.clear()

    def compared(self, sender: PeerId, message: SyncDigest) -> None:
        """An owner says what should be here. What is under way makes a difference, too; then this is for nothing."""
        self._compared[sender] = None
        if (message.count, message.total) != self._copies.summed(sender):
            self._members.tell(sender, AskSync())
            self._sync(sender, (), self._copies.of(sender))

    def asked(self, sender: PeerId) -> None:
        """A holder has not what it should have."""
        self._sync(sender, self._replicas.held_by(sender), ())

    def _sync(self, peer: PeerId, records: Iterable[Record], copies: Iterable[Copy]) -> None:
        versions = [info(record.id, self._mine(record)) for record in records]
        versions += [info(copy.id, copy.version) for copy in copies]
        for start in range(0, len(versions), TASKS_PER_MESSAGE):
            self._members.tell(peer, Sync(versions=tuple(versions[start : start + TASKS_PER_MESSAGE])))

    def synced(self, sender: PeerId, message: Sync) -> None:
        """Somebody says what it has: answer what is known better here, and give up what it knows better."""
        answer = _Answer()
        lacking: list[TaskId] = []
        forgotten: dict[TaskId, Version] = {}
        for told in message.versions:
            theirs = version_of(told)
            record = self._ledger.record(told.id)
            if record is not None:
                self._compare(record, theirs, sender, answer)
                continue
            mine = self._copies.version(told.id)
            if mine is not None and not theirs.beats(mine):
                if mine.beats(theirs):
                    answer.better.append(info(told.id, mine))
            elif self._is_forgotten(theirs):
                forgotten[told.id] = theirs
            elif mine is None and theirs.owner == sender:
                lacking.append(told.id)
        if answer.better:
            self._members.tell(sender, SyncBetter(versions=tuple(answer.better)))
        if lacking:
            self._members.tell(sender, Replicated(mid=0, lacking=tuple(lacking)))
        if answer.unwanted:
            self._members.tell(sender, Drop(ids=tuple(answer.unwanted)))
        self._disown(sender, forgotten)
        self._replicas.rewrite(answer.behind, self._state.now_ms)

    def _compare(self, record: Record, theirs: Version, sender: PeerId, answer: "_Answer") -> None:
        """What another peer knows of a task of this one's."""
        mine = self._mine(record)
        if theirs.beats(mine):
            self.hand_off(record, theirs, sender)
            return
        if theirs.owner != self._state.me:
            answer.better.append(info(record.id, mine))
        if sender not in record.rset and self._replicas.is_whole(record):
            answer.unwanted.append(record.id)  # once it has given way, if it has to
        if sender in record.rset and mine.beats(theirs):
            answer.behind.append(record)

    def bettered(self, sender: PeerId, message: SyncBetter) -> None:
        """Somebody knows better than this peer said it does. Of a copy whose owner is somebody else that owner is asked
        at once, who may have deleted it by now.
        """
        hearsay: dict[PeerId, list[Copy]] = {}
        for told in message.versions:
            version = version_of(told)
            record = self._ledger.record(told.id)
            copy = self._copies.copy(told.id)
            if record is not None and version.beats(self._mine(record)):
                self.hand_off(record, version, sender)
            elif copy is not None and version.beats(copy.version):
                self._give_way(copy, version, sender)
                left = self._copies.copy(told.id)
                if left is not None and left.owner != sender:
                    hearsay.setdefault(left.owner, []).append(left)
        for owner, copies in hearsay.items():
            self._sync(owner, (), copies)

    def dropped(self, sender: PeerId, message: Drop) -> None:
        """The owner does not want these copies here any more."""
        for task in message.ids:
            copy = self._copies.copy(task)
            if copy is not None and copy.owner == sender:
                self._desk.moved(copy.clients, task, sender)
                self._copies.drop(task)

    # ---- leaving

    def handed_over(self, sender: PeerId, message: Handover) -> None:
        """An owner leaves and hands its tasks over, or (mid 0) says that it does not know them any more."""
        if message.mid and self._state.leaving:
            self._members.tell(sender, HandedOver(mid=message.mid, lacking=message.ids, leaving=True))
            return
        copies = [self._copies.copy(task) for task in dict.fromkeys(message.ids)]
        mine = [copy for copy in copies if copy is not None and copy.owner == sender and self._can_adopt(copy)]
        if not message.mid:
            disowned = [copy for copy in mine if copy.id not in self._asked]
            if disowned:
                self._inquire(sender, disowned, is_disowned=True)
            return
        self._adopt(mine, counted=False)
        lacking = tuple([task for task in message.ids if self._lacks(task, sender)])
        self._members.tell(sender, HandedOver(mid=message.mid, lacking=lacking))

    def _lacks(self, task: TaskId, owner: PeerId) -> bool:
        """Whether nothing is known here of a task, or nothing that could be adopted."""
        copy = self._copies.copy(task)
        return self._version(task) is None if copy is None else copy.owner == owner

    # ---- time

    def expire(self) -> None:
        """End inquiries whose time is over, and waiting for others to adopt."""
        now_ms = self._state.now_ms
        for mid, inquiry in list(self._inquiries.items()):
            if inquiry.until_ms <= now_ms:
                self._conclude(mid, inquiry)
        if self._patience_ms is not None and self._patience_ms <= now_ms:
            self._patience_ms = None
            self.reconsider(patient=False)
        if self._compare_ms is not None and self._compare_ms <= now_ms:
            self._compare_ms = None
            self.compare()

    def plan_comparison(self) -> None:
        """Compare copies from time to time, as long as there are any; after every event."""
        if self._compare_ms is None and (self._replicas.has_holders or len(self._copies)):
            self._compare_ms = self._state.now_ms + int(self._state.settings.timing.sync_s * 1000)

    def deadline_ms(self) -> int | None:
        if not self._inquiries and self._patience_ms is None:
            return self._compare_ms  # most of the time, and this is asked after every event
        times = [inquiry.until_ms for inquiry in self._inquiries.values()]
        times += [time for time in (self._patience_ms, self._compare_ms) if time is not None]
        return min(times, default=None)

    def check_invariants(self) -> None:
        asked = {copy.id for inquiry in self._inquiries.values() for copy in inquiry.copies}
        assert asked == self._asked.keys()
        for copy in self._copies:
            assert self._ledger.record(copy.id) is None, "a task has one account at each peer"


_MAYBE_THERE = frozenset((Status.ALIVE, Status.SUSPECT, Status.UNKNOWN))
_OWNER_GONE = Failure(
    code=ErrorCode.CONNECTION, message="the peer that owned it is gone; it starts over from its input"
)


def _nothing() -> None:
    """Nobody waits for this write."""
