"""Actions: everything a peer's core may ask its driver for. Requests, not facts; all are comparable values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..graph.plan import NodePlan, Plan
from ..ids import BlockId, ClientId, ExecutorId, TaskId, Token
from .messages import ToClient
from .values import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a message to a client. `values`: field -> rows that travel beside it; the driver collects their bytes."""

    to: ClientId
    message: ToClient
    values: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """A batch for an executor.

    order: number of the claim, unique for this peer.
    node: the node to run; where its graph is a block, the whole graph runs, beginning there.
    token: authority to commit this batch. tasks: by batch position.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBatch:
    """Run a batch. Comes back as BatchFinished, as ExecutorLost, or not at all (then its lease runs out)."""

    executor: ExecutorId
    order: BatchOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonExecutor:
    """An executor ran past `max_exec_ms`: take its process or thread away and start another (ExecutorStarted)."""

    executor: ExecutorId


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckGraph:
    """Have an executor check a definition (JSON text); comes back as GraphChecked with the same request."""

    request: int
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBlocks:
    """These blocks are part of a record or a cached value now: never evict them."""

    ids: tuple[BlockId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeBlocks:
    """Nobody needs these blocks any more."""

    ids: tuple[BlockId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsCancelled:
    """Tasks of a running batch that were cleared or taken over: `Batch.alive(row)` turns false."""

    executor: ExecutorId
    order: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetirePlan:
    """No task uses this plan any more: its nodes may be unloaded."""

    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something worth telling listeners: a dotted name and a context (executor, task, graph, node, ...)."""

    name: str
    context: Mapping[str, str | int | float]


Action: TypeAlias = (
    Send | RunBatch | AbandonExecutor | CheckGraph | KeepBlocks | FreeBlocks | RowsCancelled | RetirePlan | Report
)
