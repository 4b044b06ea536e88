"""Events: everything that can happen to a peer. `PeerCore.handle(event, now_ms)` is the only way in."""

from collections.abc import Mapping
from dataclasses import field
from typing import TypeAlias

from ..errors import ErrorCode
from ..frozen import frozen
from ..graph.nodeinfo import Described
from ..graph.plan import Plan
from ..ids import BlockId, ClientId, ExecutorId, GraphId, PeerId, QueueId
from .entries import Entry
from .messages import ToPeer
from .peermessages import BetweenPeers, Contact
from .values import Block, Value


@frozen()
class MessageReceived:
    """A client said something. `blocks`: field -> the rows that came beside a Submit, stored (and kept) already."""

    sender: ClientId
    message: ToPeer
    blocks: Mapping[str, Block] = field(default_factory=dict)


@frozen()
class ClientLost:
    """A client left or its link broke: nothing more is sent to it."""

    client: ClientId


@frozen()
class PeerReceived:
    """A peer said something. incarnation: the sender's; to_incarnation: whom of us it meant (0: whoever we are).

    blocks: column beside the message -> its rows, stored already (and kept, for those in KEPT_BESIDE).
    """

    sender: PeerId
    incarnation: int
    to_incarnation: int
    message: BetweenPeers
    blocks: Mapping[str, Block] = field(default_factory=dict)


@frozen()
class PeerSeen:
    """Discovery has seen an address where a peer may be. Nothing more is known, and it may be old or our own."""

    address: str


@frozen()
class LinkDown:
    """A link broke. refused: nobody listens at that address any more, so the process is gone."""

    peer: PeerId
    refused: bool


@frozen()
class LeaveRequested:
    """Whoever runs this peer wants it to hand its tasks over and go."""


@frozen()
class ExecutorStarted:
    """An executor is ready for its first batch."""

    executor: ExecutorId


@frozen()
class ExecutorLost:
    """An executor is gone, and whatever it was doing with it.

    crashed: the work may have caused it (signal, exit), so the tasks of its batch come under suspicion.
    """

    executor: ExecutorId
    reason: str
    crashed: bool


@frozen()
class GraphChecked:
    """The answer to the action CheckGraph. Exactly one of plan and problems says something.

    lacking: kinds of nodes that cannot run here, if nothing else is wrong (graph/check.py).
    manifest: what its nodes are, for a peer that lacks some of their kinds.
    """

    request: int
    plan: Plan | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    manifest: tuple[Described, ...] = ()


@frozen()
class Emitted:
    """What one `emit` (or `call`) of a node answered, for the batch positions `rows`.

    output: name of the node's output; "" when a whole block graph ran, then `fields` are that graph's result.
    fields: output field -> one Value per row, in the order of `rows`.
    call: the graph to run next with `fields` as its input, whose result comes back on `output`.
    """

    output: str
    rows: tuple[int, ...]
    fields: Mapping[str, tuple[Value, ...]]
    call: GraphId | None = None


@frozen()
class RowsFailed:
    """Batch positions that failed for one reason. `final`: not to be tried again."""

    rows: tuple[int, ...]
    code: ErrorCode
    message: str
    traceback: str = ""
    final: bool = False
    node: str = ""


@frozen()
class BatchExpected:
    """A node is about to run a batch and says what will come of it: output -> (weight, bytes) that leave there."""

    executor: ExecutorId
    order: int
    outputs: Mapping[str, tuple[float, int]]


@frozen()
class BatchFinished:
    """An executor is through with a batch. Each position is in exactly one of emitted, failed, missing.

    missing: positions with an input that is no longer stored.
    loaded: the nodes this executor's process has loaded now, as (plan digest, queue); None if unchanged.
    """

    executor: ExecutorId
    order: int
    emitted: tuple[Emitted, ...]
    failed: tuple[RowsFailed, ...] = ()
    missing: tuple[int, ...] = ()
    loaded: tuple[tuple[bytes, QueueId], ...] | None = None


@frozen()
class BlocksEvicted:
    """Volatile blocks have left the store, though somebody may still need them."""

    ids: tuple[BlockId, ...]


@frozen()
class Restored:
    """What the journal has; with a journal, the first event of all, even if that is empty.

    entries: Kept (all values stored, and kept), Deleted, DefinitionText, Pointed. contacts: Neighbours.
    """

    entries: tuple[Entry, ...] = ()
    contacts: tuple[Contact, ...] = ()


@frozen()
class Persisted:
    """A Persist is done, and so are all before it."""

    write: int


@frozen()
class PersistFailed:
    """A Persist could not be done, and no other one should be tried."""

    write: int
    reason: str


@frozen()
class TimerFired:
    """`deadline_ms()` has come."""


Event: TypeAlias = (
    MessageReceived
    | PeerReceived
    | PeerSeen
    | LinkDown
    | LeaveRequested
    | ClientLost
    | ExecutorStarted
    | ExecutorLost
    | GraphChecked
    | BatchExpected
    | BatchFinished
    | BlocksEvicted
    | Restored
    | Persisted
    | PersistFailed
    | TimerFired
)
