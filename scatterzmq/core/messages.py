"""The words: what clients and peers say to each other. One frozen dataclass per kind; all batched.

Rules   1. A request with a `mid` is answered once under the same `mid`; a repeated request gets the same answer.
        2. Tensors are never part of a message object. They travel beside it as columns by field name (one row per
           task): out of the core as `Send.values`, into the core as `MessageReceived.blocks`.
        3. Fields are only ever added at the end, with a default (wire/schema.py numbers the kinds).
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Self, TypeAlias

from ..errors import ErrorCode, ErrorInfo
from ..frozen import frozen
from ..graph.formats import Format
from ..ids import ExecutorId, PeerId, TaskId

ORIGIN_BYTES = 8
"""So much of a closure begins the key of a cached value: enough to tell from which graph or node it is."""


class TaskStatus(StrEnum):
    """Where a task is, as users see it."""

    INIT = "init"
    WAIT = "wait"
    BUSY = "busy"
    READY = "ready"
    DONE = "done"
    DEFERRED = "deferred"
    ERROR = "error"
    UNKNOWN = "unknown"

    __hash__ = str.__hash__  # Enum's own is written in Python, and there is one look-up per task

    @property
    def complete(self) -> bool:
        """Nothing more will happen to the task by itself."""
        return self in _COMPLETE


_COMPLETE = frozenset((TaskStatus.READY, TaskStatus.DONE, TaskStatus.ERROR, TaskStatus.UNKNOWN))


@frozen()
class NamespaceInfo:
    """What a client must know of a namespace to submit to it.

    digests: whether inputs need content digests (something in there caches).
    outputs: the fields of a result with their formats.
    cached: where keys of its cached graphs and nodes come from (core/cache.py `origins_of`).
    """

    ns: str
    digest: bytes
    entry: str
    inputs: Format
    outputs: Format
    digests: bool
    description: str = ""
    cached: tuple[bytes, ...] = ()


@frozen()
class Contact:
    """How to reach a member, and which of its lives is meant.

    gossip_port: where it publishes, at the host of its address; 0 if it does not.
    """

    id: PeerId
    incarnation: int
    address: str
    name: str = ""
    gossip_port: int = 0


# ---- client -> peer


@frozen()
class LoadGraph:
    """Check a definition (JSON text) and make it the current one of its namespace."""

    mid: int
    definition: str
    replace: bool = False


@frozen()
class Submit:
    """New tasks of one namespace. Beside it: input field -> column, whose row i belongs to ids[i].

    ns, digest: the namespace, and the digest of the plan that the inputs were checked against.
    nonce: 8 bytes, made once per batch and repeated when the batch is sent again.
    submit_digests: per task 16 bytes over namespace and inputs; they decide whether a repeated id is the same task.
    digests: input field -> content digest per task (see core/values.py); empty if nothing in the namespace caches.
    cache: False keeps these tasks out of the cache.
    """

    mid: int
    ns: str
    digest: bytes
    nonce: bytes
    ids: tuple[TaskId, ...]
    submit_digests: tuple[bytes, ...]
    digests: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    cache: bool = True


@frozen()
class Attach:
    """Tell this client how these tasks end (at once for those that have ended, or are unknown)."""

    ids: tuple[TaskId, ...]


@frozen()
class ResultRead:
    """The user has seen these results: `ready` becomes `done`."""

    ids: tuple[TaskId, ...]


@frozen()
class Clear:
    """Forget everything about these tasks."""

    mid: int
    ids: tuple[TaskId, ...]


@frozen()
class Cancel:
    """End these tasks as cancelled unless they have ended."""

    mid: int
    ids: tuple[TaskId, ...]


@frozen()
class AskTasks:
    """Where are these tasks?"""

    mid: int
    ids: tuple[TaskId, ...]


@frozen()
class AskNamespaces:
    """Which namespaces are loaded? `ns` asks for one only."""

    mid: int
    ns: str | None = None


@frozen()
class AskDefinition:
    """The definition of a namespace's current plan."""

    mid: int
    ns: str


@frozen()
class AskStats:
    """Queues, executors, tasks, cache of this peer."""

    mid: int


@frozen()
class ClearCache:
    """Forget the cached values of keys with these origins (None: all). What is being computed goes on."""

    mid: int
    origins: tuple[bytes, ...] | None = None


@frozen()
class Release:
    """Hand your tasks over and leave the cluster. Whoever asks twice gets the same answer."""

    mid: int


@frozen()
class AskMembers:
    """Who belongs to the cluster? Also a way to ask whether the receiver is there.

    cluster: 8 bytes that stand for the name of the one that is meant; b"" for whichever the receiver belongs to.
    """

    mid: int
    cluster: bytes = b""


# ---- peer -> client


@frozen()
class GraphLoaded:
    mid: int
    info: NamespaceInfo
    warnings: tuple[str, ...] = ()


@frozen()
class GraphRefused:
    """All problems of a definition, one line each."""

    mid: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@frozen()
class Accepted:
    """These tasks are kept on `copies` peers (`durable`: also on disk). Comes once per id, in any grouping.

    rset: these peers, the owner first.
    """

    mid: int
    ids: tuple[TaskId, ...]
    copies: int
    durable: bool
    rset: tuple[PeerId, ...] = ()


@frozen()
class Refused:
    """These tasks were not accepted: nothing is kept of them."""

    mid: int
    ids: tuple[TaskId, ...]
    code: ErrorCode
    message: str


@frozen()
class Final:
    """How tasks ended. Everything is by position: entry i is about ids[i]. Beside it: result field -> column
    with one row per task that has a result (ready or done), in the order of those tasks.

    ns: of all of them ("" where statuses say unknown).
    statuses: ready, done, error or unknown.
    errors: the last error of a task, also of one that succeeded in a later try; None if there was none.
    retries / durations_ms: count; acceptance to end.
    """

    ids: tuple[TaskId, ...]
    ns: str
    statuses: tuple[TaskStatus, ...]
    errors: tuple[ErrorInfo | None, ...]
    retries: tuple[int, ...]
    durations_ms: tuple[int, ...]
    copies: int = 1
    durable: bool = False

    @classmethod
    def unknown(cls, ids: Sequence[TaskId]) -> Self:
        """Nobody knows these tasks."""
        count = len(ids)
        return cls(
            ids=tuple(ids),
            ns="",
            statuses=(TaskStatus.UNKNOWN,) * count,
            errors=(None,) * count,
            retries=(0,) * count,
            durations_ms=(0,) * count,
        )


@frozen()
class Moved:
    """These tasks are owned by another peer (now): ask there how they end. Entry i is about ids[i]."""

    ids: tuple[TaskId, ...]
    owners: tuple[PeerId, ...]


@frozen()
class Goodbye:
    """This peer leaves: submit elsewhere, and ask others for the tasks it had."""


@frozen()
class Released:
    """The peer is about to leave."""

    mid: int


@frozen()
class Cleared:
    """These tasks are gone, wherever they are known from here. unknown: those of which the sender knows nothing."""

    mid: int
    unknown: tuple[TaskId, ...] = ()


@frozen()
class Cancelled:
    """The cancel has been applied; the tasks' ends come as Final."""

    mid: int


@frozen()
class CacheCleared:
    """So many values have been forgotten."""

    mid: int
    values: int


@frozen()
class TaskReport:
    """One task as it stands now.

    ns: None for an unknown task. place: "ns:graph:node" of its queue or batch; "" elsewhere.
    """

    id: TaskId
    status: TaskStatus
    ns: str | None = None
    retries: int = 0
    error: ErrorInfo | None = None
    duration_ms: int = 0
    place: str = ""
    story: tuple[str, ...] = ()


@frozen()
class TaskReports:
    """What the sender knows of tasks.

    doubtful: others may be there, who know more: the sender has just started, has seen somebody who has not answered
        yet, or took some for dead that were only silent.
    """

    mid: int
    reports: tuple[TaskReport, ...]
    doubtful: bool = False


@frozen()
class Namespaces:
    """What is loaded. unusable: namespaces of which nothing can run at the sender -> why; those that others can run are
    among infos as well.
    """

    mid: int
    infos: tuple[NamespaceInfo, ...]
    unusable: Mapping[str, str] = field(default_factory=dict)


@frozen()
class Definition:
    """`definition` is None if the namespace is not loaded."""

    mid: int
    definition: str | None


@frozen()
class QueueStats:
    """One queue, as users see it. `listeners`: executors that have its node loaded."""

    id: str
    name: str
    queue_length: int
    listeners: int
    weight: float = 0.0
    pressure: float = 0.0
    expected_pressure: float = 0.0
    claimants: int = 0


@frozen()
class ExecutorStats:
    """One executor: the place it works at ("" when idle) and the places it has loaded."""

    id: ExecutorId
    place: str
    loaded: tuple[str, ...]


@frozen()
class Stats:
    """A peer's numbers. `tasks`: status -> how many; `counters`: everything that only grows.

    unusable: as in Namespaces.
    """

    mid: int
    queues: tuple[QueueStats, ...]
    executors: tuple[ExecutorStats, ...]
    tasks: Mapping[str, int]
    counters: Mapping[str, int] = field(default_factory=dict)
    record_bytes: int = 0
    cache_entries: int = 0
    cache_bytes: int = 0
    unusable: Mapping[str, str] = field(default_factory=dict)


@frozen()
class MemberList:
    """The sender and all members that it holds to be alive or suspects to be gone. suspects: those of the latter.

    message_bytes: no message may have more. refusal: why the receiver is turned away; then nobody is named.
    """

    mid: int
    members: tuple[Contact, ...]
    suspects: tuple[PeerId, ...] = ()
    message_bytes: int = 0
    refusal: str = ""


ToPeer: TypeAlias = (
    LoadGraph
    | Submit
    | Attach
    | ResultRead
    | Clear
    | Cancel
    | AskTasks
    | AskNamespaces
    | AskDefinition
    | AskStats
    | AskMembers
    | Release
    | ClearCache
)
ToClient: TypeAlias = (
    GraphLoaded
    | GraphRefused
    | Accepted
    | Refused
    | Final
    | Moved
    | Goodbye
    | Cleared
    | Released
    | Cancelled
    | TaskReports
    | Namespaces
    | Definition
    | Stats
    | MemberList
    | CacheCleared
)
Message: TypeAlias = ToPeer | ToClient
