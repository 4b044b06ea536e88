"""Responses: how a task ended or where it stands, with its result as tensors once somebody looks at them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..core.messages import Final, TaskReport, TaskStatus
from ..errors import ErrorInfo, TaskError
from ..ids import TaskId
from ..wire.columns import Column
from ..wire.tensors import row_tensor

if TYPE_CHECKING:
    import torch

Result: TypeAlias = "dict[str, torch.Tensor]"
"""output field -> one task's tensor"""

_READY, _ERROR, _UNKNOWN = TaskStatus.READY, TaskStatus.ERROR, TaskStatus.UNKNOWN
"""As names of this module: reaching through the enum class costs more than the comparison."""


class Rows:
    """The results that came with one Final message: field -> column, shared by its tasks.

    row_nbytes: what one of them weighs on average.
    """

    __slots__ = ("_columns", "row_nbytes")

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        self.row_nbytes = 0
        for column in columns.values():
            self.row_nbytes += len(column.data) // (column.layout.rows or 1)

    def result(self, row: int) -> Result:
        """One task's result, in memory of its own: the user may write into it, and the peer's copy stays as it is."""
        result = {}
        for name, column in self._columns.items():
            result[name] = row_tensor(column, row)
        return result


class Outcome(NamedTuple):
    """How one task ended: entry `place` of a Final message, row `row` of its results; without one `rows` is None."""

    final: Final
    place: int
    rows: Rows | None
    row: int

    @property
    def status(self) -> TaskStatus:
        return self.final.statuses[self.place]

    @property
    def error(self) -> ErrorInfo | None:
        return self.final.errors[self.place]

    @property
    def failure(self) -> TaskError | None:
        """What a caller who wants the result gets instead; None if there is one."""
        if self.rows is not None:
            return None
        return TaskError(self.final.ids[self.place], self.error if self.status is TaskStatus.ERROR else None)


class LazyResult:
    """A result that is turned into tensors at the first look, in the thread that looks."""

    __slots__ = ("_result", "_row", "_rows")

    def __init__(self, rows: Rows | None, row: int) -> None:
        self._rows = rows
        self._row = row
        self._result: Result | None = None

    def tensors(self) -> "Result | None":
        rows = self._rows
        if rows is not None:
            self._result = rows.result(self._row)
            self._rows = None  # lets go of the rest of the batch
        return self._result


@dataclass(slots=True, eq=False)
class Response:
    """A task as it stood when it was asked for. Nothing to change: it is not frozen only because there is one per task,
    and freezing triples what making one costs.

    task: its id. ns: its namespace; None if the task is unknown.
    status: before this reading, so "ready" the first time and "done" later.
    duration: seconds from its acceptance to its end (so far, if it has not ended).
    retries: how often it was started again. error: the last error, also of a task that succeeded in a later try.
    copies, durable: how many peers hold it; whether it is on disk as well, and safe if all of them lose their power.
    """

    task: TaskId
    ns: str | None
    status: TaskStatus
    duration: float
    retries: int
    error: ErrorInfo | None
    copies: int
    durable: bool
    lazy: LazyResult | None = field(default=None, repr=False)

    @property
    def result(self) -> "Result | None":
        """Output field -> tensor, in memory of the caller's own; None if there is no result (yet)."""
        lazy = self.lazy
        return None if lazy is None else lazy.tensors()

    def ok(self) -> None:
        """Raise TaskError, with place and remote traceback, if the task ended in an error or is unknown."""
        if self.status is _ERROR or self.status is _UNKNOWN:
            raise TaskError(self.task, self.error if self.status is _ERROR else None)


def ended(task: TaskId, ns: str | None, outcome: Outcome, *, read: bool) -> Response:
    """The response of a task that has ended. `read`: its result was read before."""
    final, place, rows, row = outcome
    status = final.statuses[place]
    known = status is not _UNKNOWN
    return Response(
        task,
        (final.ns or ns) if known else None,
        TaskStatus.DONE if read and status is _READY else status,
        final.durations_ms[place] / 1000.0,
        final.retries[place],
        final.errors[place],
        final.copies if known else 0,
        final.durable,
        None if rows is None else LazyResult(rows, row),
    )


def standing(report: TaskReport, *, copies: int = 1, durable: bool = False) -> Response:
    """The response of a task of which only a report is known."""
    return Response(
        task=report.id,
        ns=report.ns,
        status=report.status,
        duration=report.duration_ms / 1000.0,
        retries=report.retries,
        error=report.error,
        copies=0 if report.status is TaskStatus.UNKNOWN else copies,
        durable=durable,
    )


def local_end(task: TaskId, ns: str, status: TaskStatus, error: ErrorInfo | None) -> Outcome:
    """The outcome of a task that the client itself knows to be over: refused, or cleared."""
    final = Final(ids=(task,), ns=ns, statuses=(status,), errors=(error,), retries=(0,), durations_ms=(0,), copies=0)
    return Outcome(final, 0, None, 0)
