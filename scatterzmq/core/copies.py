"""Copies: what this peer keeps of tasks that other peers own, and which tasks are deleted.

Purpose   Takes copies in, says what is known better, and remembers deleted tasks.
Rules     1. Of two accounts of a task the better one stays (core/versions.py), in whichever order they come.
          2. A deleted task stays deleted as long as its tombstone stands; only its own nonce is dead, so the same id
             may be used again.
          3. Nothing here decides who owns a task: a copy waits until its owner, or core/takeover.py, says something.
             What gives way to a better account stays, as a *stand-in* for a copy of that one, until its owner does not
             want it: it may have no copies yet.
          4. A copy's tensors count as uses of their blocks, and are kept; so is its definition.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from ..errors import ErrorInfo
from ..frozen import frozen
from ..ids import ClientId, PeerId, TaskId
from .blocks import Blocks
from .messages import TaskStatus
from .peermessages import CopyKind, Replicate, VersionInfo
from .plans import Plans
from .values import Block, Value
from .versions import Rank, Version, fingerprint, rank_of_error, total

TOMBSTONES_MAX = 1_000_000
"""The oldest go first. About 300 bytes each."""


@dataclass(slots=True, eq=False)
class Copy:
    """A task of another owner, as it said last.

    values: input fields of a live task, result fields of a ready one. status: None while it lives.
    since_ms: when this peer first heard of it. clients: have asked here how it ends.
    """

    id: TaskId
    ns: str
    digest: bytes
    nonce: bytes
    submit_digest: bytes
    version: Version
    rset: tuple[PeerId, ...]
    caching: bool
    errors: int
    restarts: int
    crashes: int
    solo: bool
    last_error: ErrorInfo | None
    since_ms: int
    values: dict[str, Value] = field(default_factory=dict)
    nbytes: int = 0
    status: TaskStatus | None = None
    duration_ms: int = 0
    clients: tuple[ClientId, ...] = ()

    @property
    def owner(self) -> PeerId:
        return self.version.owner

    @property
    def stands_in(self) -> bool:
        """Whether this is not what its owner says of the task, but what was known before it was heard of that owner."""
        return self.version.change == 0

    @property
    def standing(self) -> TaskStatus:
        """Where the task is, as far as is known here. What is better than a ready account is ready, too; what is better
        than any other one may be anything.
        """
        if self.status is None or (self.stands_in and self.version.rank != Rank.READY):
            return TaskStatus.WAIT
        return self.status


@frozen(kw_only=False)
class _Tombstone:
    nonce: bytes
    version: Version
    until_ms: int


@dataclass(slots=True)
class Kept:
    """What became of a Replicate. better: what is known instead of it. lacking: marks of tasks that are not here."""

    better: list[VersionInfo] = field(default_factory=list)
    lacking: list[TaskId] = field(default_factory=list)


class Copies:
    """All copies that one peer holds, and all tombstones. nbytes: of their tensors.

    copy: the copy of a task, or None; a built-in, as it is asked for every task that is submitted.
    """

    def __init__(self, blocks: Blocks, plans: Plans, tombstone_ms: int) -> None:
        self._blocks = blocks
        self._plans = plans
        self._tombstone_ms = tombstone_ms
        self._copies: dict[TaskId, Copy] = {}
        self.copy: Callable[[TaskId], Copy | None] = self._copies.get
        self._by_owner: dict[PeerId, dict[TaskId, Copy]] = {}
        self._totals: dict[PeerId, int] = {}
        self._tombstones: OrderedDict[TaskId, _Tombstone] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[Copy]:
        return iter(self._copies.values())

    def owners(self) -> tuple[PeerId, ...]:
        """Whose tasks there are copies of, in order of their ids."""
        return tuple(sorted(self._by_owner))

    def of(self, owner: PeerId) -> list[Copy]:
        """Copies of one owner's tasks, the oldest first."""
        return list(self._by_owner.get(owner, {}).values())

    def summed(self, owner: PeerId) -> tuple[int, int]:
        """How many copies of an owner's tasks there are, and the sum over their versions."""
        return len(self._by_owner.get(owner, ())), self._totals.get(owner, 0)

    def version(self, task: TaskId) -> Version | None:
        """What is known of a task; None if nothing is."""
        copy = self._copies.get(task)
        if copy is not None:
            return copy.version
        tombstone = self._tombstones.get(task)
        return None if tombstone is None else tombstone.version

    def is_dead(self, task: TaskId, nonce: bytes) -> bool:
        """Whether this very task was deleted."""
        tombstone = self._tombstones.get(task)
        return tombstone is not None and tombstone.nonce == nonce

    # ---- changes

    def keep(
        self,
        owner: PeerId,
        message: Replicate,
        blocks: Mapping[str, Block],
        now_ms: int,
        owned: Mapping[TaskId, Version],
        *,
        life: int,
    ) -> Kept:
        """Take in what an owner says of its tasks, except where something better is known.

        owned: tasks that this peer itself owns, better than the sender knows them. life: of the owner.
        """
        kept = Kept()
        ready = 0
        for place, task in enumerate(message.ids):
            row = place
            if message.kind is CopyKind.FINAL:
                has_result = message.statuses[place] in _WITH_RESULT
                row = ready if has_result else -1
                ready += has_result
            version = version_in(message, place, owner, life)
            known = self._copies.get(task)
            tombstone = self._tombstones.get(task)
            if task in owned:
                kept.better.append(info(task, owned[task]))
            elif tombstone is not None and tombstone.nonce == message.nonces[place] and tombstone.version > version:
                kept.better.append(info(task, tombstone.version))
            elif known is not None and known.version.beats(version):
                kept.better.append(info(task, known.version))
            elif message.kind is CopyKind.DELETE:
                self.bury(task, message.nonces[place], version, now_ms)
            elif message.kind is CopyKind.MARK:
                if known is None:
                    kept.lacking.append(task)
                else:
                    self._put(self._made(message, place, version, known.since_ms), known.values)
            elif known is None or version.beats(known.version):
                values = {} if row < 0 else {name: (block, row) for name, block in blocks.items()}
                since_ms = now_ms if known is None else known.since_ms
                self._put(self._made(message, place, version, since_ms), values)
        return kept

    def stand_in(self, copy: Copy, better: Version, others: Iterable[PeerId]) -> None:
        """Keep this for a better account, which is not here. others: who should take the task over before this peer.

        What its owner writes has at least one change, so anything that it says replaces this.
        """
        version = Version(copy.version.rank, better.n, better.owner, better.life, 0)
        self._put(replace(copy, version=version, rset=tuple(dict.fromkeys(others)), clients=()), copy.values)

    def attach(self, task: TaskId, client: ClientId) -> None:
        """A client asks here how a task ends."""
        copy = self._copies[task]
        if client not in copy.clients:
            copy.clients = (*copy.clients, client)

    def drop(self, task: TaskId) -> None:
        """Let go of a copy; nothing happens if there is none."""
        self._remove(task)

    def _remove(self, task: TaskId) -> None:
        copy = self._copies.pop(task, None)
        if copy is not None:
            owned = self._by_owner[copy.owner]
            del owned[task]
            self._count(copy, -1)
            if not owned:
                del self._by_owner[copy.owner], self._totals[copy.owner]
            self.nbytes -= copy.nbytes
            self._blocks.release(copy.values.values())
            self._plans.release(copy.digest)

    def bury(self, task: TaskId, nonce: bytes, version: Version, now_ms: int) -> None:
        """The task is deleted, whatever anybody says who has not heard of it."""
        self._remove(task)
        before = self._tombstones.pop(task, None)
        if before is not None and before.nonce == nonce:
            version = max(version, before.version)
        self._tombstones[task] = _Tombstone(nonce, version, now_ms + self._tombstone_ms)
        if len(self._tombstones) > TOMBSTONES_MAX:
            self._lapse()

    def expire(self, now_ms: int) -> None:
        """Forget tombstones whose time is over."""
        while self._tombstones and next(iter(self._tombstones.values())).until_ms <= now_ms:
            self._lapse()

    def _lapse(self) -> TaskId:
        """The oldest tombstone goes. Returns whose it was."""
        return self._tombstones.popitem(last=False)[0]

    def deadline_ms(self) -> int | None:
        return next(iter(self._tombstones.values())).until_ms if self._tombstones else None

    def values_held(self) -> Iterator[Value]:
        """Everything that counts as a use of a block, for checks."""
        for copy in self:
            yield from copy.values.values()

    def check_invariants(self) -> None:
        assert self.nbytes == sum(copy.nbytes for copy in self)
        by_owner: dict[PeerId, dict[TaskId, Copy]] = {}
        for copy in self:
            by_owner.setdefault(copy.owner, {})[copy.id] = copy
            assert (copy.status is None) == (copy.version.rank == Rank.LIVE)
        assert by_owner == self._by_owner
        for owner, copies in by_owner.items():
            numbers = [_number(copy) for copy in copies.values()]
            assert self.summed(owner) == (len(copies), total(numbers))
        assert self._totals.keys() == by_owner.keys()
        assert all(stone.version.rank == Rank.DELETED for stone in self._tombstones.values())

    # ---- inside

    def _made(self, message: Replicate, place: int, version: Version, since_ms: int) -> Copy:
        task = message.ids[place]
        known = self._copies.get(task)
        ended = message.kind is CopyKind.FINAL
        return Copy(
            id=task,
            ns=message.ns,
            digest=message.digest,
            nonce=message.nonces[place],
            submit_digest=message.submit_digests[place],
            version=version,
            rset=message.rset,
            caching=message.caching[place],
            errors=message.errors[place],
            restarts=message.restarts[place],
            crashes=message.crashes[place],
            solo=message.solo[place],
            last_error=message.last_errors[place],
            since_ms=since_ms,
            status=message.statuses[place] if ended else None,
            duration_ms=message.durations_ms[place] if ended else 0,
            clients=() if known is None else known.clients,
        )

    def _put(self, copy: Copy, values: dict[str, Value]) -> None:
        copy.values = dict(values)
        for value in values.values():
            self._blocks.hold(value)
            self._blocks.keep(value)
        self._plans.keep(copy.digest)
        self._remove(copy.id)
        copy.nbytes = sum([block.row_nbytes(row) for block, row in values.values()])
        self.nbytes += copy.nbytes
        self._copies[copy.id] = copy
        self._by_owner.setdefault(copy.owner, {})[copy.id] = copy
        self._count(copy, 1)

    def _count(self, copy: Copy, sign: int) -> None:
        self._totals[copy.owner] = total((self._totals.get(copy.owner, 0), sign * _number(copy)))


def _number(copy: Copy) -> int:
    version = copy.version
    return fingerprint(copy.id, version.n, version.life, version.change)


def info(task: TaskId, version: Version) -> VersionInfo:
    """A version as it is sent."""
    rank, n, owner, life, change = version
    return VersionInfo(id=task, rank=rank, n=n, owner=owner, life=life, seq=change)


def version_of(message: VersionInfo) -> Version:
    """A version as it is compared."""
    return Version(message.rank, message.n, message.owner, message.life, message.seq)


def version_in(message: Replicate, place: int, owner: PeerId, life: int) -> Version:
    """The version of the task at a place of a Replicate."""
    return Version(_rank(message, place), message.n, owner, life, message.seqs[place])


_WITH_RESULT = frozenset((TaskStatus.READY, TaskStatus.DONE))


def _rank(message: Replicate, place: int) -> Rank:
    match message.kind:
        case CopyKind.DELETE:
            return Rank.DELETED
        case CopyKind.FINAL:
            if message.statuses[place] in _WITH_RESULT:
                return Rank.READY
            error = message.last_errors[place]
            return Rank.FAILED if error is None else rank_of_error(error.code)
        case CopyKind.ACCEPT | CopyKind.MARK:
            return Rank.LIVE
        case _:
            assert_never(message.kind)
