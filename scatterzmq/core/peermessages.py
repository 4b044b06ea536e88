"""The words that peers say to each other, beside those of clients (core/messages.py). The same rules hold.

Rules     1. Nothing is answered by remembering replies: every request may come twice and says enough of itself that its
             second coming changes nothing and gets the same answer.
          2. What is by position is about `ids[i]`; columns beside a message have one row per task, unless it says else.
          3. Times on the wire are durations. Clocks of two machines are never compared.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import TypeAlias

from ..errors import ErrorCode, ErrorInfo
from ..frozen import frozen
from ..graph.nodeinfo import Described
from ..ids import ExecutorId, GraphId, PeerId, QueueId, TaskId
from .blobmessages import BlobWord
from .cachemessages import CacheAbort, CacheAsk, CacheFetch, CacheLost, CachePut, CacheRenew, CacheTell
from .messages import Contact as Contact  # noqa: PLC0414 - a word between peers, too, and read from here
from .messages import Message, TaskStatus
from .payloadmessages import Fetch, Fetched, FreePayloads, Gone, HeldPayloads, Payload, Places

# ---- membership


@frozen()
class Hello:
    """The first word to a peer; nothing else is accepted before it has been answered.

    me: the sender. nonce: 16 bytes drawn at boot, which tell two processes with one id and incarnation apart.
    cluster: 8 bytes that stand for the cluster's name. proto_min / proto_max: versions of this protocol it speaks.
    """

    me: Contact
    nonce: bytes
    cluster: bytes
    proto_min: int
    proto_max: int


@frozen()
class Welcome:
    """Answer to Hello: as a Hello, with every member that the sender knows to be alive."""

    me: Contact
    nonce: bytes
    cluster: bytes
    proto_min: int
    proto_max: int
    members: tuple[Contact, ...] = ()


@frozen()
class Unwelcome:
    """Answer to Hello: the sender will not talk, and why."""

    reason: str


@frozen()
class Heartbeat:
    """Published once per interval. seq: counts them. idle: executors without work.

    missing: members that the sender has not heard for a while (so who finds itself in here is not heard).
    dead / dead_incarnations: members that the sender has lately judged dead, by position.
    queues: version of the sender's queue states. pointers: digest over all its namespace pointers (8 bytes).
    usable: it has executors, and they do not die of whatever they get.
    """

    seq: int
    idle: int
    missing: tuple[PeerId, ...] = ()
    dead: tuple[PeerId, ...] = ()
    dead_incarnations: tuple[int, ...] = ()
    queues: int = 0
    pointers: bytes = b""
    usable: bool = False


@frozen()
class Bye:
    """The sender has left on purpose; it owns nothing any more."""


@frozen()
class WrongIncarnation:
    """A message was meant for another life of this peer: greet again."""


# ---- hints about queues


@frozen()
class QueueState:
    """One queue of one owner. loaded / claimants: executors of the sender with that node loaded / lent to.

    task_us: what a task takes each of its executors; 0: it has had none. lacking: they cannot run it.
    """

    digest: bytes
    queue: QueueId
    length: int
    weight: float
    pressure: float
    expected_pressure: float
    claimants: int
    loaded: int
    task_us: int = 0
    lacking: bool = False


@frozen()
class QueueStates:
    """Published on change, at most a few times per second; whole when sent as an answer to AskQueues.

    version: grows by one per publication. full: everything that is not in here is empty.
    """

    version: int
    full: bool
    idle: int
    states: tuple[QueueState, ...]


@frozen()
class AskQueues:
    """The receiver's heartbeat shows a version of its queue states that the sender has missed."""


@frozen()
class Nudge:
    """To a peer with an idle executor: tasks wait here that nobody takes. A hint."""

    digest: bytes
    queue: QueueId


# ---- definitions


@frozen()
class Pointer:
    """Which definition a namespace names: the highest (counter, by) wins."""

    ns: str
    counter: int
    by: PeerId
    digest: bytes


@frozen()
class Pointers:
    """All (or new) pointers of the sender. mid: of the question that they answer; 0 for none."""

    pointers: tuple[Pointer, ...]
    mid: int = 0


@frozen()
class AskPointers:
    """The receiver's heartbeat shows pointers that the sender does not have.

    mid: answer with it, even if there are none; 0: only if there are.
    """

    mid: int = 0


@frozen()
class AskPlans:
    """Send me these definitions."""

    digests: tuple[bytes, ...]


@frozen()
class PlanText:
    """One definition (JSON text). mid: not 0 if the receiver is to acknowledge it (PlanKept)."""

    mid: int
    digest: bytes
    definition: str


@frozen()
class PlanKept:
    mid: int


# ---- copies of records


class CopyKind(StrEnum):
    """What a copy is told. ACCEPT: a live task, with its input. MARK: the same without the input, which the receiver
    has. FINAL: an ended task, with its result. DELETE: it never was."""

    ACCEPT = "accept"
    MARK = "mark"
    FINAL = "final"
    DELETE = "delete"

    __hash__ = str.__hash__


@frozen()
class Replicate:
    """The sender owns these tasks of one definition in epoch n; keep a copy. The same message may come twice.

    mid: of the write; answered by Replicated. rset: who is to have copies, the owner first.
    nonces / submit_digests / caching: as submitted. seqs: counts the changes of each record in its epoch.
    errors, restarts, crashes, solo: accounts. last_errors: by position.
    statuses / durations_ms: of ended tasks (FINAL), else ().
    digests: field -> content digest per row of the columns; empty if nothing caches.
    Beside it: ACCEPT: input field -> column. FINAL: result field -> column with one row per ready task, in order.
    """

    mid: int
    kind: CopyKind
    ns: str
    digest: bytes
    n: int
    rset: tuple[PeerId, ...]
    ids: tuple[TaskId, ...]
    nonces: tuple[bytes, ...]
    submit_digests: tuple[bytes, ...]
    seqs: tuple[int, ...]
    caching: tuple[bool, ...]
    errors: tuple[int, ...]
    restarts: tuple[int, ...]
    crashes: tuple[int, ...]
    solo: tuple[bool, ...]
    last_errors: tuple[ErrorInfo | None, ...]
    statuses: tuple[TaskStatus, ...] = ()
    durations_ms: tuple[int, ...] = ()
    digests: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)


@frozen()
class VersionInfo:
    """What somebody knows of a task, as it compares: rank (core/versions.py), epoch (n, owner, life of it), seq."""

    id: TaskId
    rank: int
    n: int
    owner: PeerId
    life: int
    seq: int


@frozen()
class Replicated:
    """A write has been kept, but for the tasks named here.

    better: what the sender knows better. lacking: tasks that a MARK was about and that the sender does not have.
    durable: it is on disk. failed: nothing is written to the sender's disk any more; better choose somebody else.
    """

    mid: int
    durable: bool = False
    better: tuple[VersionInfo, ...] = ()
    lacking: tuple[TaskId, ...] = ()
    failed: bool = False


@frozen()
class Inquire:
    """The sender is about to take these tasks over from `owner`: who knows better?

    No ids: the sender has started again, or held the receiver to be dead, and asks for all that the receiver has of its
    own (it is `owner`); that comes as Sync, and then Known.
    """

    mid: int
    owner: PeerId
    ids: tuple[TaskId, ...]


@frozen()
class Known:
    """Answer to Inquire: what the sender knows of those tasks that it knows anything of."""

    mid: int
    versions: tuple[VersionInfo, ...]


@frozen()
class Sync:
    """What the sender holds of these tasks, its own or copies. The receiver answers with what it knows better
    (Replicate for its own, SyncBetter otherwise); equal or worse needs no answer."""

    versions: tuple[VersionInfo, ...]


@frozen()
class SyncBetter:
    """The sender knows these tasks better than the receiver said it does."""

    versions: tuple[VersionInfo, ...]


@frozen()
class SyncDigest:
    """From an owner: how many copies of its tasks the receiver should hold, and the sum over their versions."""

    count: int
    total: int


@frozen()
class AskSync:
    """The receiver's SyncDigest does not match: say in Sync what should be here."""


@frozen()
class Drop:
    """From an owner: copies of these tasks are not wanted there any more."""

    ids: tuple[TaskId, ...]


@frozen()
class Handover:
    """The owner leaves: the receiver, which has copies, owns these from now on. Answered by HandedOver.

    mid: 0 if the sender does not leave, but does not know these tasks any more. Nobody answers that; who has a copy
    asks around whether somebody knows better, and owns them if not.
    """

    mid: int
    ids: tuple[TaskId, ...]


@frozen()
class HandedOver:
    """lacking: tasks of which the sender has no copy, so it cannot own them; the rest are its own now.

    leaving: it leaves itself and takes nothing.
    """

    mid: int
    lacking: tuple[TaskId, ...] = ()
    leaving: bool = False


# ---- claims


@frozen()
class Claim:
    """An executor of the sender is free and wants tasks of this queue.

    claim: grows with each claim of that executor; the same number gets the same grant.
    tasks_min: fewer are not worth it. task_us: what a task takes it; 0: not known (core/shares.py).
    """

    claim: int
    executor: ExecutorId
    digest: bytes
    queue: QueueId
    tasks_max: int
    tasks_min: int = 1
    task_us: int = 0


@frozen()
class Grant:
    """Answer to Claim: a batch on loan under the number `order`, or nothing (no ids).

    ttl_ms: renew before it is over.
    payloads, places: inputs that lie with other peers, or with the receiver itself.
    Beside it: field of the node (for a block: of the graph's input) -> column of all rows that `places` does not place.
    digests: field -> content digest per row of its column.
    """

    claim: int
    executor: ExecutorId
    digest: bytes
    queue: QueueId
    order: int = 0
    ids: tuple[TaskId, ...] = ()
    ttl_ms: int = 0
    max_exec_ms: int = 0
    solo: bool = False
    digests: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    payloads: tuple[Payload, ...] = ()
    places: tuple[Places, ...] = ()


@frozen()
class Part:
    """As core/events.py Emitted. Its fields lie beside the message as columns "place:field", where place counts the
    parts of a message, with one row per row of the part. digests: field -> per row.

    stays: field -> blocks of the sender whose rows, one block after another, are those of the part; it keeps them for
    the receiver. Such a field is in `fields`, too, if a second copy comes with the message.
    """

    output: str
    rows: tuple[int, ...]
    fields: tuple[str, ...]
    call: GraphId | None = None
    digests: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    stays: Mapping[str, tuple[Payload, ...]] = field(default_factory=dict)


@frozen()
class FailedPart:
    """As core/events.py RowsFailed."""

    rows: tuple[int, ...]
    code: ErrorCode
    message: str
    traceback: str
    final: bool
    node: str


@frozen()
class Commit:
    """The results of a batch. Repeated until it is answered. claim: what the executor wants next, if anything.

    piece, more: of what is too much for one message the next piece is said when this one has been answered.
    """

    executor: ExecutorId
    order: int
    parts: tuple[Part, ...]
    failed: tuple[FailedPart, ...] = ()
    missing: tuple[int, ...] = ()
    claim: Claim | None = None
    piece: int = 0
    more: bool = False


@frozen()
class Committed:
    """A commit has been applied (or was before); fenced: it came too late and changed nothing."""

    executor: ExecutorId
    order: int
    fenced: bool
    piece: int = 0


@frozen()
class Renew:
    """The sender's executors are still at work on these batches."""

    orders: tuple[int, ...]
    executors: tuple[ExecutorId, ...]


@frozen()
class Renewed:
    """Answer to Renew: these are not lent to the receiver (any more); all others hold."""

    fenced: tuple[int, ...]


@frozen()
class RowsRevoked:
    """Tasks of a batch on loan that were cleared, cancelled or taken over."""

    order: int
    executor: ExecutorId
    rows: tuple[int, ...]


@frozen()
class Surrender:
    """A batch comes back undone: its executor is gone. Answered by Committed. crashed: the work may be to blame."""

    executor: ExecutorId
    order: int
    reason: str
    crashed: bool


@frozen()
class AskManifest:
    """What are the nodes of this definition? The sender lacks some of their kinds. settles: as in CheckGraph."""

    mid: int
    definition: str
    settles: bool


@frozen()
class Manifest:
    """Answer to AskManifest: nodes, or the problems that a check has found. lacking: kinds, if nothing else is wrong.

    blobs: what is settled of them.
    """

    mid: int
    nodes: tuple[Described, ...] = ()
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


BetweenPeers: TypeAlias = (
    Hello
    | Welcome
    | Unwelcome
    | Heartbeat
    | Bye
    | WrongIncarnation
    | QueueStates
    | AskQueues
    | Nudge
    | Pointers
    | AskPointers
    | AskPlans
    | PlanText
    | PlanKept
    | Replicate
    | Replicated
    | Inquire
    | Known
    | Sync
    | SyncBetter
    | SyncDigest
    | AskSync
    | Drop
    | Handover
    | HandedOver
    | Claim
    | Grant
    | Commit
    | Committed
    | Renew
    | Renewed
    | RowsRevoked
    | Surrender
    | CacheAsk
    | CacheTell
    | CachePut
    | CacheAbort
    | CacheRenew
    | CacheFetch
    | CacheLost
    | Fetch
    | Fetched
    | Gone
    | FreePayloads
    | HeldPayloads
    | AskManifest
    | Manifest
)

AnyMessage: TypeAlias = Message | BetweenPeers | BlobWord

KEPT_BESIDE = (Replicate, CachePut, CacheTell)
"""Columns beside these are stored as kept, others may be evicted."""
