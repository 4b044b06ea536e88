"""What goes to an executor and what comes back: batches with their bytes, which the core never sees (driver.py)."""

from collections.abc import Mapping
from dataclasses import field

from ..core.actions import BatchOrder
from ..core.events import RowsFailed
from ..frozen import frozen
from ..ids import ExecutorId, GraphId, QueueId
from ..wire.columns import Apart, Column


@frozen(eq=False)
class Work:
    """A batch to run.

    rows: the order's positions that take part (the others lost an input); row i of each column is position rows[i].
    columns: field -> data, all with len(rows) rows.
    apart: the same for further fields, only for executors that copy what they are given.
    dead: positions cleared or taken over meanwhile; grows from another thread (`Batch.alive` reads it).
    """

    order: BatchOrder
    rows: tuple[int, ...]
    columns: Mapping[str, Column]
    apart: Mapping[str, Apart] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)


@frozen(eq=False)
class EmittedColumns:
    """As core/events.py Emitted, with bytes. digests: field -> content digest per row, where the plan wants them."""

    output: str
    rows: tuple[int, ...]
    columns: Mapping[str, Column | Apart]
    digests: Mapping[str, tuple[bytes, ...]]
    call: GraphId | None = None


@frozen(eq=False)
class Done:
    """A batch that has run: each position of its work is in exactly one of emitted and failed."""

    executor: ExecutorId
    order: int
    emitted: tuple[EmittedColumns, ...]
    failed: tuple[RowsFailed, ...]
    loaded: tuple[tuple[bytes, QueueId], ...] | None = None
