"""Everything scatterzmq raises on purpose.

    ScatterError
    ├── GraphError     (ValueError)       a definition that cannot run, or an unknown namespace
    ├── FormatError    (ValueError)       an input or an id that does not have the form it must have
    ├── ConfigError    (ValueError)       a setting that does not exist or cannot have this value
    ├── BlobError      (ValueError)       a blob that must not be opened so, or does not hold what it is used as
    │   └── MissingBlob                   a blob, or a part of one, that is not there
    ├── TaskError                         a task ended in an error (raised by `Response.ok()` and futures)
    ├── ClusterError   (ConnectionError)  no peer can be reached, or it is closed
    └── Timeout        (TimeoutError)     a bounded wait ran out

Each message says what is wrong, where, and what to do.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class ScatterError(Exception):
    """Base of all errors of scatterzmq."""


class GraphError(ScatterError, ValueError):
    """A graph definition that cannot run, or a namespace that is not loaded."""


class FormatError(ScatterError, ValueError):
    """A tensor that does not match the format of its field, or a text that is no id."""


class ConfigError(ScatterError, ValueError):
    """A setting that does not exist, has the wrong type, or is out of range."""


class BlobError(ScatterError, ValueError):
    """A blob that must not be opened so, or does not hold what it is used as."""


class MissingBlob(BlobError):  # noqa: N818 -- as ErrorCode.MISSING_BLOB
    """A blob, a part of one, or a tensor in it that is not there."""


class ClusterError(ScatterError, ConnectionError):
    """The cluster cannot be reached, or the client is closed."""


class Timeout(ScatterError, TimeoutError):  # noqa: N818 -- the name is part of the interface
    """A bounded wait ran out; the work itself goes on."""


class ErrorCode(StrEnum):
    """Why a task was started again, or gave up."""

    MEMORY_PURGE = "memory_purge"
    OUT_OF_MEMORY = "out_of_memory"
    DEFUNCT_EXECUTOR = "defunct_executor"
    GENERAL_EXCEPTION = "general_exception"
    UNCAUGHT_EXECUTOR = "uncaught_executor"  # in scattermind's results; nothing here ends a task with it
    CONNECTION = "connection"
    UNKNOWN = "unknown"
    # Final without a retry:
    POISON = "poison"
    CANCELLED = "cancelled"
    CONFLICT = "conflict"
    REFUSED = "refused"
    MISSING_BLOB = "missing_blob"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorContext:
    """Where an error happened; None where it does not apply."""

    executor: str | None = None
    task: str | None = None
    graph: str | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """The last error of a task. `traceback` is the remote text; "" if there is none."""

    code: ErrorCode
    message: str
    traceback: str = ""
    context: ErrorContext = field(default_factory=ErrorContext)

    def __str__(self) -> str:
        places = (("graph", self.context.graph), ("node", self.context.node), ("executor", self.context.executor))
        where = ", ".join(f"{kind} {name}" for kind, name in places if name)
        return f"{self.code}: {self.message}" + (f" ({where})" if where else "")


class TaskError(ScatterError):
    """A task ended in an error, or is not known (any more).

    Attributes:
        task: id of the task.
        error: what happened, with the remote traceback as text; None for an unknown task.
    """

    def __init__(self, task: str, error: ErrorInfo | None) -> None:
        self.task = task
        self.error = error
        if error is None:
            text = f"task {task} is unknown: it never was, was cleared, or its result has expired"
        else:
            text = f"task {task} failed: {error}"
            if error.traceback:
                text += f"\n{error.traceback}"
        super().__init__(text)
