"""The ledger: every task this peer owns, what phase it is in, and how it got there.

Purpose   One record per task; the only place that changes a phase.
Rules     1. A phase changes only along TRANSITIONS; anything else is our bug, and the assertion tells the task's story.
          2. Ended is ended: nothing leaves READY, ERROR or CANCELLED but being forgotten.
          3. BUSY has a token, no other phase has one; WAIT is in exactly one queue, no other phase is in any; REST
             waits for a moment (core/backoff.py).
          4. Counts per phase are kept as records move, never found by looking through them.
Why       The input stays with the record until the task has ended, so any step can fail and start over.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from sys import intern
from typing import TYPE_CHECKING, TypeAlias

from ..errors import ErrorCode, ErrorInfo
from ..graph.plan import GraphPlan, NodePlan, Plan
from ..ids import ClientId, PeerId, TaskId, Token
from .messages import TaskStatus
from .outbox import Outbox
from .values import Value

if TYPE_CHECKING:
    from .replicas import Barrier

STORY_LENGTH_MAX = 12
"""Entries of a story: enough for the last few hops, and it bounds the memory of a task that retries for ever."""


RECORD_NBYTES = 2048
"""Memory that a record takes besides its tensors, roughly."""


class Phase(StrEnum):
    """Where a task is in its life."""

    INIT = "init"
    REST = "rest"
    WAIT = "wait"
    BUSY = "busy"
    DEFER = "defer"
    READY = "ready"
    ERROR = "error"
    CANCELLED = "cancelled"

    # Enum hashes its members in Python; this is looked up several times per step of every task.
    __hash__ = str.__hash__

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset((Phase.READY, Phase.ERROR, Phase.CANCELLED))


class Cause(StrEnum):
    """Why a phase changes."""

    REST = "rest"
    WAKE = "wake"
    QUEUE = "queue"
    CLAIM = "claim"
    DEFER = "defer"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"

    __hash__ = str.__hash__


_WORDS = {cause: cause.value for cause in Cause}
"""For stories. Asking an enum's member for its value takes two calls."""

TRANSITIONS: dict[tuple[Phase, Cause], Phase] = {
    (Phase.INIT, Cause.QUEUE): Phase.WAIT,  # accepted, or has rested: into a queue
    (Phase.INIT, Cause.DEFER): Phase.DEFER,  # accepted: another task computes the same key
    (Phase.INIT, Cause.FINISH): Phase.READY,  # accepted: a cache hit
    (Phase.INIT, Cause.FAIL): Phase.ERROR,  # accepted: a graph that can only fail
    (Phase.INIT, Cause.REST): Phase.REST,  # taken over
    (Phase.REST, Cause.WAKE): Phase.INIT,  # tried again
    (Phase.REST, Cause.CANCEL): Phase.CANCELLED,
    (Phase.WAIT, Cause.CLAIM): Phase.BUSY,
    (Phase.WAIT, Cause.REST): Phase.REST,  # its step lacks an input
    (Phase.WAIT, Cause.FAIL): Phase.ERROR,  # its step lacks an input for good
    (Phase.WAIT, Cause.CANCEL): Phase.CANCELLED,
    (Phase.BUSY, Cause.QUEUE): Phase.WAIT,  # committed, or to be tried again
    (Phase.BUSY, Cause.REST): Phase.REST,  # its executor is gone, or an input
    (Phase.BUSY, Cause.DEFER): Phase.DEFER,  # committed: the next thing is being computed elsewhere
    (Phase.BUSY, Cause.FINISH): Phase.READY,
    (Phase.BUSY, Cause.FAIL): Phase.ERROR,
    (Phase.BUSY, Cause.CANCEL): Phase.CANCELLED,
    (Phase.DEFER, Cause.QUEUE): Phase.WAIT,  # promoted or released to compute
    (Phase.DEFER, Cause.REST): Phase.REST,  # got a value, and has lost another one
    (Phase.DEFER, Cause.DEFER): Phase.DEFER,  # got one value, waits for the next
    (Phase.DEFER, Cause.FINISH): Phase.READY,
    (Phase.DEFER, Cause.FAIL): Phase.ERROR,
    (Phase.DEFER, Cause.CANCEL): Phase.CANCELLED,
}

CacheKey: TypeAlias = bytes


@dataclass(slots=True, eq=False)
class Frame:
    """One running graph of a task.

    values: name in the frame (":field" or "node:field") -> value; each counts as one use of its block. Never changed in
    place, only replaced: at first it is the task's input itself, so that one that waits to begin has it once.
    caller / output: the node that called this graph and the output on which it comes back; None for the entry graph.
    graph_key / node_key: cache keys that get this graph's result when it ends (of the graph, of the calling node).
    """

    graph: GraphPlan
    values: Mapping[str, Value]
    caller: NodePlan | None = None
    output: str = ""
    graph_key: CacheKey | None = None
    node_key: CacheKey | None = None


@dataclass(slots=True, eq=False)
class Lead:
    """What a task computes for others: a cached graph, or (unless None) a cached node of it."""

    graph: GraphPlan
    node: NodePlan | None


@dataclass(slots=True, eq=False)
class Record:
    """One task. Private to the core; mutable.

    input: the entry graph's frame values. seq: age, smaller is older. nonce: of the submission that created it.
    stack: running graphs, innermost last. node: where it waits or runs.
    node_key: cache key of that step, if it leads it.
    nbytes: of its newest fields. kept_nbytes: of its input, or of its result once it has ended.
    rset, epoch_n, change: who has copies, and which of its versions this is (core/versions.py).
    shown: it has ended and everybody may know, because the copies do. durable: what was written last is on disk, too.
    barriers: what waits for its copies (core/replicas.py). moving: writes under way to holders that may be new.
    errors / restarts / crashes: causes counted apart; users see the sum.
    """

    id: TaskId
    plan: Plan
    seq: int
    nonce: bytes
    submit_digest: bytes
    input: dict[str, Value]
    clients: tuple[ClientId, ...]
    accepted_ms: int
    caching: bool
    rset: tuple[PeerId, ...]
    epoch_n: int
    phase: Phase = Phase.INIT
    stack: list[Frame] = field(default_factory=list)
    node: NodePlan | None = None
    node_key: CacheKey | None = None
    token: Token | None = None
    weight: float = 1.0
    nbytes: int = 0
    kept_nbytes: int = 0
    solo: bool = False
    errors: int = 0
    restarts: int = 0
    crashes: int = 0
    error: ErrorInfo | None = None
    waits_for: CacheKey | None = None
    leads: dict[CacheKey, Lead] | None = None
    result: dict[str, Value] | None = None
    ended_ms: int = 0
    read: bool = False
    change: int = 0
    shown: bool = False
    durable: bool = False
    barriers: tuple["Barrier", ...] = ()
    moving: int = 0
    story: tuple[str, ...] = ()
    story_ms: tuple[int, ...] = ()

    @property
    def copies(self) -> int:
        """How many have it for sure: while others become its holders, one."""
        return 1 if self.moving else len(self.rset)

    @property
    def retries(self) -> int:
        """How often it started over, for whatever reason."""
        return self.errors + self.restarts

    @property
    def status(self) -> TaskStatus:
        if self.phase is Phase.READY and self.read:
            return TaskStatus.DONE
        if not self.shown and self.phase in _ENDED:
            return TaskStatus.BUSY
        return _STATUS[self.phase]

    @property
    def place(self) -> str:
        """ "ns:graph:node" where it waits or runs; "" elsewhere."""
        return "" if self.node is None or self.phase.ended else self.plan.place(self.node)

    def duration_ms(self, now_ms: int) -> int:
        return (self.ended_ms if self.phase.ended else now_ms) - self.accepted_ms

    def tell(self, now_ms: int, what: str, detail: str = "") -> None:
        """Add a line to the story, dropping the oldest but the first."""
        # Tuples of nothing but texts and numbers are none of the garbage collector's business, and there are many.
        story, story_ms = self.story, self.story_ms
        if len(story) >= STORY_LENGTH_MAX:
            story, story_ms = (story[0], *story[2:]), (story_ms[0], *story_ms[2:])
        # Very many tasks tell the same: one text for all of them.
        self.story = (*story, intern(f"{what} {detail}") if detail else what)
        self.story_ms = (*story_ms, now_ms)

    def told(self) -> tuple[str, ...]:
        """The story as text, one line per entry, times in ms since it was accepted."""
        return tuple(
            f"+{at_ms - self.accepted_ms} ms {what}" for at_ms, what in zip(self.story_ms, self.story, strict=True)
        )


_STATUS = {
    Phase.INIT: TaskStatus.INIT,
    Phase.REST: TaskStatus.WAIT,
    Phase.WAIT: TaskStatus.WAIT,
    Phase.BUSY: TaskStatus.BUSY,
    Phase.DEFER: TaskStatus.DEFERRED,
    Phase.READY: TaskStatus.READY,
    Phase.ERROR: TaskStatus.ERROR,
    Phase.CANCELLED: TaskStatus.ERROR,
}


class Ledger:
    """All records of one owner. kept_nbytes: of all their inputs and results. out: told of every change; None: not.

    heard_of: those without a copy of which others know all the same (had one, or were told), and may keep something.
    record: the record of a task, or None if there is no such task (any more). next_seq: the age of the next record.
    Both are built-ins, as they are called several times per task.
    """

    def __init__(self, out: Outbox | None = None) -> None:
        self._out = out
        self._records: dict[TaskId, Record] = {}
        self._counts: Counter[Phase] = Counter()
        self._read = 0
        self.record: Callable[[TaskId], Record | None] = self._records.get
        self.next_seq: Callable[[], int] = count(1).__next__
        self.kept_nbytes = 0
        self.heard_of: set[TaskId] = set()  # not a field of the record: there are few of these, and very many records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def add(self, record: Record) -> None:
        assert record.id not in self._records
        self._records[record.id] = record
        self._counts[record.phase] += 1
        self.kept_nbytes += record.kept_nbytes

    def remove(self, record: Record) -> None:
        del self._records[record.id]
        self._counts[record.phase] -= 1
        self.kept_nbytes -= record.kept_nbytes
        if record.read:
            self._read -= 1
        self.heard_of.discard(record.id)

    def keeps(self, record: Record, nbytes: int) -> None:
        """The record holds so many bytes from now on."""
        self.kept_nbytes += nbytes - record.kept_nbytes
        record.kept_nbytes = nbytes

    def move(self, record: Record, cause: Cause, now_ms: int, detail: str = "") -> None:
        """Change the phase. An illegal change is our bug: AssertionError with the story."""
        target = TRANSITIONS.get((record.phase, cause))
        assert target is not None, f"{record.id}: {cause} in phase {record.phase}: " + "; ".join(record.told())
        counts = self._counts
        counts[record.phase] -= 1
        counts[target] += 1
        record.phase = target
        record.tell(now_ms, _WORDS[cause], detail)
        if self._out is not None:
            about = {"task": record.id, "phase": target.value, "cause": cause.value, "node": record.place}
            self._out.report("debug.task", **about, **({"detail": detail} if detail else {}))

    def mark_read(self, record: Record) -> bool:
        """The user has seen the result. False if that was known, or there is no result."""
        if record.phase is not Phase.READY or record.read:
            return False
        record.read = True
        self._read += 1
        return True

    def counts(self) -> dict[str, int]:
        """Tasks per status, as users see it."""
        totals: Counter[str] = Counter()
        for phase, number in self._counts.items():
            totals[_STATUS[phase]] += number
        totals[TaskStatus.READY] -= self._read
        totals[TaskStatus.DONE] += self._read
        return {status: totals[status] for status in TaskStatus if totals[status]}

    def check_invariants(self) -> None:
        by_phase = Counter(record.phase for record in self)
        assert all(by_phase[phase] == self._counts[phase] for phase in Phase)
        assert self._read == sum(record.read for record in self)
        assert self.kept_nbytes == sum(record.kept_nbytes for record in self)
        assert self.heard_of <= self._records.keys()
        for record in self:
            check_record(record)


def check_record(record: Record) -> None:
    """Assert what holds of every record between events."""
    assert (record.token is not None) == (record.phase is Phase.BUSY), record.told()
    assert (record.waits_for is not None) == (record.phase is Phase.DEFER), record.told()
    assert (record.result is not None) == (record.phase is Phase.READY), record.told()
    assert not (record.phase.ended and record.stack), record.told()
    assert record.stack or record.phase.ended or record.phase is Phase.REST, record.told()
    assert not (record.phase.ended and record.input), record.told()
    if record.phase is Phase.ERROR or record.phase is Phase.CANCELLED:
        assert record.error is not None
        assert (record.error.code is ErrorCode.CANCELLED) == (record.phase is Phase.CANCELLED)
