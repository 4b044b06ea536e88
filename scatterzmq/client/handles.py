"""Handles: what a client remembers of a task, and the batches in which tasks leave it."""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import urandom
from typing import NamedTuple, Protocol, TypeAlias

from ..core.messages import NamespaceInfo, Submit, ToClient
from ..errors import ClusterError, ErrorInfo, FormatError
from ..ids import TaskId
from ..wire.columns import Column, join, row_digests
from ..wire.tensors import from_value
from .response import Outcome

BATCH_TASKS_MAX = 256
BATCH_NBYTES_MAX = 1 << 20
"""Tasks are sent at the latest when so many, or so many bytes of inputs, have gathered: more gains nothing."""

Columns: TypeAlias = Mapping[str, Column]


class Box(Protocol):
    """Whoever waits for something. `put` never blocks, may be called from any thread, and gets a ClusterError last."""

    def put(self, item: "Item", /) -> None: ...


@dataclass(slots=True, eq=False)
class Handle:
    """One task that this client waits for or knows the end of. Changed by the session only, under its lock.

    ns: "" for a task that another client submitted.
    inputs: field -> one row; None once accepted. nbytes: of all of them.
    fingerprint: over namespace and inputs; b"" for a task that another client submitted.
    watchers: told once, when the outcome is known.
    private: nobody but this client knows the id, so the task is cleared as soon as its outcome is here.
    seq: counts enqueueings. pending: not accepted yet. sent: on its way to the peer.
    read: the result has been handed out. abandoned: nobody wants the outcome any more.
    refused: it was never accepted, so nobody but this client knows of it.
    conflict: the same id was enqueued once more with other inputs, and nobody has been told yet.
    renewals: how often the namespace was redefined before the task was accepted.
    """

    id: TaskId
    ns: str
    inputs: Columns | None
    nbytes: int
    fingerprint: bytes
    watchers: tuple[Box, ...]
    private: bool = False
    seq: int = 0
    pending: bool = False
    sent: bool = False
    read: bool = False
    abandoned: bool = False
    refused: bool = False
    outcome: Outcome | None = None
    conflict: ErrorInfo | None = None
    renewals: int = 0


Item: TypeAlias = ToClient | Handle | ClusterError | bool
"""What waiting parties are told: an answer, a task that has ended, the end of everything, or just that it is time."""


@dataclass(slots=True, eq=False)
class Buffer:
    """Tasks of one namespace that wait to be sent together."""

    info: NamespaceInfo
    handles: list[Handle] = field(default_factory=list)
    nbytes: int = 0


class Batch(NamedTuple):
    """Tasks that leave together. `inputs` is held here because a handle lets go of its own."""

    info: NamespaceInfo
    ids: tuple[TaskId, ...]
    fingerprints: tuple[bytes, ...]
    inputs: tuple[Columns, ...]
    cache: bool

    def message(self, mid: int, nonce: bytes) -> tuple[Submit, Columns]:
        """The batch as it goes over the link."""
        info, inputs = self.info, self.inputs
        columns = (
            inputs[0] if len(inputs) == 1 else {name: join([each[name] for each in inputs]) for name in info.inputs}
        )
        submit = Submit(
            mid=mid,
            ns=info.ns,
            digest=info.digest,
            nonce=nonce,
            ids=self.ids,
            submit_digests=self.fingerprints,
            digests={name: row_digests(column) for name, column in columns.items()}
            if self.cache and info.digests
            else {},
            cache=self.cache,
        )
        return submit, columns


class FreshIds:
    """Random ids that nobody has had before, drawn many at a time."""

    def __init__(self) -> None:
        self._ids: deque[TaskId] = deque()

    def take(self) -> TaskId:
        try:
            return self._ids.popleft()
        except IndexError:
            drawn = urandom(16 * BATCH_TASKS_MAX).hex()
            self._ids.extend([TaskId("T" + drawn[start : start + 32]) for start in range(32, len(drawn), 32)])
            return TaskId("T" + drawn[:32])


class Kept:
    """Which read outcomes a client still has: the latest ones, bounded in number and bytes."""

    def __init__(self, tasks_max: int, nbytes_max: int) -> None:
        self._tasks_max = tasks_max
        self._nbytes_max = nbytes_max
        self._nbytes = 0
        self._tasks: OrderedDict[TaskId, int] = OrderedDict()

    def add(self, task: TaskId, nbytes: int) -> Sequence[TaskId]:
        """Keep one more; returns those to let go of, the oldest ones."""
        tasks = self._tasks
        tasks[task] = nbytes
        self._nbytes += nbytes
        if len(tasks) <= self._tasks_max and self._nbytes <= self._nbytes_max:
            return ()
        gone = []
        while len(tasks) > self._tasks_max or (self._nbytes > self._nbytes_max and len(tasks) > 1):
            oldest, nbytes = tasks.popitem(last=False)
            self._nbytes -= nbytes
            gone.append(oldest)
        return gone

    def drop(self, task: TaskId) -> None:
        self._nbytes -= self._tasks.pop(task, 0)


def checked_inputs(info: NamespaceInfo, fields: object) -> dict[str, Column]:
    """One row per input field of a namespace. Raises FormatError naming the field, what it wants and what it got."""
    formats = info.inputs
    if not isinstance(fields, (dict, Mapping)):  # a dict is a Mapping, but told at once
        kind = type(fields).__name__
        raise FormatError(f"namespace {info.ns!r}: expected a dict with {_listed(info)}, got {kind}")
    if fields.keys() != formats.keys():
        raise FormatError(_wrong_fields(info, fields))
    columns = {}
    for name, wanted in formats.items():
        columns[name] = from_value(fields[name], wanted, name)
    return columns


def misfit(info: NamespaceInfo, inputs: Columns) -> str | None:
    """Why inputs that were checked against an older definition cannot go to this one; None if they can."""
    if inputs.keys() != info.inputs.keys():
        return _wrong_fields(info, inputs)
    for name, wanted in info.inputs.items():
        layout = inputs[name].layout
        if not wanted.accepts(layout.dtype, layout.row_shape(0)):
            return f"field {name!r}: expected {wanted}, got {layout.dtype.name}{list(layout.row_shape(0))}"
    return None


def _wrong_fields(info: NamespaceInfo, fields: Mapping[str, object]) -> str:
    missing = sorted(info.inputs.keys() - fields.keys())
    unknown = sorted(map(str, fields.keys() - info.inputs.keys()))
    kinds = (("missing", missing), ("unknown", unknown))
    wrong = [f"{what} {', '.join(map(repr, names))}" for what, names in kinds if names]
    return f"namespace {info.ns!r}: {' and '.join(wrong)} in the input; expected {_listed(info)}"


def _listed(info: NamespaceInfo) -> str:
    return ", ".join(f"{name!r} {wanted}" for name, wanted in info.inputs.items()) or "no fields"
