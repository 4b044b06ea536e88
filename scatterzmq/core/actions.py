"""Actions: everything a peer's core may ask its driver for. Requests, not facts; all are comparable values."""

from collections.abc import Mapping
from dataclasses import field
from typing import TypeAlias

from ..frozen import frozen
from ..graph.plan import NodePlan, Plan
from ..ids import BlockId, ClientId, ExecutorId, PeerId, TaskId, Token
from .entries import Entry
from .messages import Contact, ToClient
from .peermessages import BetweenPeers, Hello, Unwelcome
from .values import Value


@frozen()
class Send:
    """Send a message to a client. `values`: field -> rows that travel beside it; the driver collects their bytes."""

    to: ClientId
    message: ToClient
    values: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)


@frozen()
class Tell:
    """Send a message to a peer over its link. It may get lost. values: as for Send.

    incarnation: which life of the peer is meant; 0 before that is known.
    """

    to: PeerId
    incarnation: int
    message: BetweenPeers
    values: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)


@frozen()
class Publish:
    """Tell all peers with an open link; each may miss it."""

    message: BetweenPeers


@frozen()
class Dial:
    """Say hello (or why not) to whoever is at an address, linked or not. What comes back comes as PeerReceived."""

    address: str
    message: Hello | Unwelcome


@frozen()
class OpenLink:
    """From now on this peer is reached so (a new link, if there was another)."""

    contact: Contact

    @property
    def peer(self) -> PeerId:
        return self.contact.id


@frozen()
class CloseLink:
    """Nothing is sent to this peer any more; what is on its way there is dropped."""

    peer: PeerId


@frozen()
class Left:
    """The peer has left: nothing more is to be done. lost: unfinished tasks that nobody could take."""

    lost: int


@frozen()
class BatchOrder:
    """A batch for an executor.

    order: number of the claim, unique for this peer.
    node: the node to run; where its graph is a block, the whole graph runs, beginning there.
    token: authority to commit this batch. tasks: by batch position.
    joined: (position, token) where tasks begin that are lent by another owner, under another token.
    inputs: the node's field (for a block: the graph's input field) -> one Value per position.
    max_exec_ms: after this the core gives the executor up.
    """

    order: int
    plan: Plan
    node: NodePlan
    tasks: tuple[TaskId, ...]
    token: Token
    inputs: Mapping[str, tuple[Value, ...]]
    max_exec_ms: int
    solo: bool = False
    joined: tuple[tuple[int, Token], ...] = ()


@frozen()
class RunBatch:
    """Run a batch. Comes back as BatchFinished, as ExecutorLost, or not at all (then its lease runs out)."""

    executor: ExecutorId
    order: BatchOrder


@frozen()
class AbandonExecutor:
    """An executor ran past `max_exec_ms`: take its process or thread away and start another (ExecutorStarted)."""

    executor: ExecutorId


@frozen()
class CheckGraph:
    """Have an executor check a definition (JSON text); comes back as GraphChecked with the same request.

    settles: find out which bytes its blobs have where it does not say so; the plan is of the definition with that.
    """

    request: int
    definition: str
    settles: bool = False


@frozen()
class KeepBlocks:
    """These blocks are part of a record or a cached value now: never evict them."""

    ids: tuple[BlockId, ...]


@frozen()
class FreeBlocks:
    """Nobody needs these blocks any more."""

    ids: tuple[BlockId, ...]


@frozen()
class RowsCancelled:
    """Tasks of a running batch that were cleared or taken over: `Batch.alive(row)` turns false."""

    executor: ExecutorId
    order: int
    rows: tuple[int, ...]


@frozen()
class RetirePlan:
    """No task uses this plan any more: its nodes may be unloaded."""

    digest: bytes


@frozen()
class Persist:
    """Write entries to the journal, with the rows of their values (which stay stored until the answer). Comes back as
    Persisted when all of it, and all before it, is written (sync: is on disk for good), or as PersistFailed.

    write: grows by one each. The first one has the identity of this life: nothing may be sent to anybody before it is
    written.
    """

    write: int
    entries: tuple[Entry, ...]
    sync: bool


@frozen()
class Report:
    """Something worth telling listeners: a dotted name and a context (executor, task, graph, node, ...)."""

    name: str
    context: Mapping[str, str | int | float]


Action: TypeAlias = (
    Send
    | Tell
    | Publish
    | Dial
    | OpenLink
    | CloseLink
    | Left
    | RunBatch
    | AbandonExecutor
    | CheckGraph
    | KeepBlocks
    | FreeBlocks
    | RowsCancelled
    | RetirePlan
    | Persist
    | Report
)
