"""One node on one batch: run it, and if that fails find the rows that are to blame.

Rules   1. Every row ends in exactly one answer or failure, whatever the node does.
           Nothing of a run that failed is used.
        2. A batch that fails is run again in halves, until the guilty rows are alone; all others keep their results.
        3. What is run again gets its own copy of the inputs, so that no run can spoil those of another.
Why     A failed batch costs about log2(rows) more runs per guilty row; a failed neighbour a whole new attempt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import NamedTuple

import torch

from ..core.events import RowsFailed
from ..errors import ErrorCode
from ..frozen import frozen
from ..graph.formats import Format
from ..ids import TaskId
from ..nodes.batch import Answer, Batch, Rejection
from ..wire.tensors import Column, gather
from .failure import Failure, attempt, printable
from .loaded import Loaded

MESSAGE_CHARS_MAX = 2_000
CANCELLED = Failure(code=ErrorCode.CANCELLED, message="nobody waits for this task any more")


@dataclass(slots=True, eq=False)
class Outcome:
    """What became of the rows of a batch at one node: each is in exactly one entry, under its position."""

    answers: list[Answer] = field(default_factory=list)
    failed: list[RowsFailed] = field(default_factory=list)


@frozen(eq=False)
class Rows:
    """Some rows of a batch.

    positions: what results call each row. columns: field -> data, one row per position.
    """

    positions: tuple[int, ...]
    tasks: Sequence[TaskId]
    columns: Mapping[str, Column]

    def part(self, start: int, stop: int) -> "Rows":
        """Rows start to stop with columns of their own."""
        return Rows(
            positions=self.positions[start:stop],
            tasks=self.tasks[start:stop],
            columns={name: _copied(column, start, stop) for name, column in self.columns.items()},
        )

    def select(self, indices: Sequence[int]) -> "Rows":
        """One or more of the rows."""
        return Rows(
            positions=tuple(self.positions[index] for index in indices),
            tasks=[self.tasks[index] for index in indices],
            columns={name: gather([(column, index) for index in indices]) for name, column in self.columns.items()},
        )


class Setting(NamedTuple):
    """What a run needs to know of the place where it happens. A tuple, as one is made per batch.

    node: what failures name as the node inside of a block, "" elsewhere. token, joined: see nodes/batch.py.
    dead: positions of tasks that nobody waits for any more.
    in_time: whether there is time for another run. free_memory: called after memory ran out; with True it may also
        unload other nodes, and then says whether it did.
    distrust: the node has written to its inputs before.
    """

    loaded: Loaded
    node: str
    token: str
    joined: tuple[tuple[int, str], ...]
    dead: set[int]
    device: torch.device
    in_time: Callable[[], bool]
    free_memory: Callable[[bool], bool]
    distrust: bool


class NodeRun:
    """Runs some rows through a node. writes: the node wrote to its inputs. interrupted: by KeyboardInterrupt."""

    def __init__(self, setting: Setting, rows: Rows) -> None:
        self.outcome = Outcome()
        self.writes = False
        self.interrupted = False
        self._setting = setting
        self._rows = rows

    def run(self) -> Outcome:
        """Once per object."""
        rows = self._rows
        wrong = misfits(rows.columns, self._setting.loaded.inputs, len(rows.positions))
        if wrong:
            for index, problem in wrong.items():
                message = f"{self._setting.loaded.place}: {problem}"
                self._fail(
                    rows.positions[index : index + 1], Failure(code=ErrorCode.GENERAL_EXCEPTION, message=message)
                )
            fit = [index for index in range(len(rows.positions)) if index not in wrong]
            rows = self._rows = rows.select(fit) if fit else Rows(positions=(), tasks=(), columns={})
        if rows.positions:
            self._search(0, len(rows.positions), None, is_suspect=False)
        if self.outcome.failed:
            self.outcome.failed = _merged(self.outcome.failed)
        return self.outcome

    def _search(self, start: int, stop: int, blame: Failure | None, *, is_suspect: bool) -> bool:
        """Run rows start to stop; True if some of them failed.

        blame: why the run with these and other rows failed, None for the first run.
        is_suspect: all other rows of that run are well, so the guilty are in here: no need to run all of them again.
        """
        if not (is_suspect and stop - start > 1):
            failure = self._run_once(start, stop, is_first=blame is None)
            if failure is None:
                return False
            blame = failure
        assert blame is not None
        if stop - start == 1 or blame.whole or not self._setting.in_time():
            self._fail(self._rows.positions[start:stop], blame)
            return True
        middle = (start + stop) // 2
        first = self._search(start, middle, blame, is_suspect=False)
        # Half as many rows need half as much memory, which says nothing about the other half.
        is_suspect = not first and blame.code != ErrorCode.OUT_OF_MEMORY
        second = self._search(middle, stop, blame, is_suspect=is_suspect)
        return first or second

    def _run_once(self, start: int, stop: int, *, is_first: bool) -> Failure | None:
        is_shared = is_first and not self._setting.distrust
        rows = self._rows if is_shared else self._rows.part(start, stop)
        failure = self._answered(rows, is_shared=is_shared)
        if failure is not None and failure.code == ErrorCode.OUT_OF_MEMORY:
            is_last = stop - start == 1
            if self._setting.free_memory(is_last) and not failure.whole:
                failure = self._answered(self._rows.part(start, stop), is_shared=False)
        if failure is not None and failure.interrupt:
            self.interrupted = True
        return failure

    def _answered(self, rows: Rows, *, is_shared: bool) -> Failure | None:
        """Run exactly these rows and take down the answers, if nothing goes wrong."""
        loaded = self._setting.loaded
        batch = self._batch(rows)
        found: list[tuple[list[Answer], list[Rejection]]] = []
        execute = partial(_execute, loaded, batch, found)
        failure = attempt(execute)
        if failure is not None:
            changed = attempt(batch.check_inputs)
            self.writes = self.writes or changed is not None
            # Inputs that we share with others are spoiled now: running on them again would give wrong results.
            return replace(failure, whole=True) if changed is not None and is_shared else failure
        answers, rejections = found[0]
        positions = rows.positions
        if positions == tuple(range(len(positions))):  # nearly always: the rows are all of the batch
            self.outcome.answers += answers
        else:
            for output, indices, columns, call in answers:
                self.outcome.answers.append(Answer(output, _renamed(indices, positions), columns, call))
        for rejection in rejections:
            self._reject(_renamed(rejection.rows, positions), rejection)
        return None

    def _batch(self, rows: Rows) -> Batch:
        setting, loaded = self._setting, self._setting.loaded
        return Batch(
            place=loaded.place,
            task_ids=rows.tasks,
            inputs=loaded.inputs,
            outputs=loaded.outputs,
            columns=rows.columns,
            calls=loaded.calls,
            token=setting.token,
            joined=setting.joined,
            dead=setting.dead,
            positions=rows.positions,
            device=setting.device,
        )

    def expected(self) -> dict[str, tuple[float, int]]:
        """What the node says will come of these rows; what is no proper answer is left out. Before `run`."""
        said: list[object] = []
        rows = self._rows
        node = self._setting.loaded.node
        attempt(lambda: said.append(node.expected(self._batch(rows.part(0, len(rows.positions))))))
        return _expectations(said[0]) if said else {}

    def _reject(self, positions: tuple[int, ...], rejection: Rejection) -> None:
        self.outcome.failed.append(
            RowsFailed(
                rows=positions,
                code=rejection.code,
                message=printable(rejection.message, MESSAGE_CHARS_MAX),
                traceback=printable(rejection.traceback, 8 * MESSAGE_CHARS_MAX),
                final=rejection.final,
                node=self._setting.node,
            )
        )

    def _fail(self, positions: tuple[int, ...], failure: Failure) -> None:
        self.outcome.failed.append(rows_failed(positions, failure, self._setting.node))


def _expectations(said: object) -> dict[str, tuple[float, int]]:
    """Only what is an output with a weight and bytes: a guess is not worth failing for."""
    found = {}
    for output, guess in said.items() if isinstance(said, Mapping) else ():
        match guess:
            case (int() | float() as weight, int() as nbytes) if 0 <= weight < inf and nbytes >= 0:
                found[str(output)] = (float(weight), nbytes)
    return found


def rows_failed(positions: tuple[int, ...], failure: Failure, node: str = "") -> RowsFailed:
    """The failure as an event names it."""
    return RowsFailed(
        rows=positions,
        code=failure.code,
        message=failure.message,
        traceback=failure.traceback,
        final=failure.code == ErrorCode.MISSING_BLOB,
        node=node,
    )


def _merged(failures: list[RowsFailed]) -> list[RowsFailed]:
    """Rows with the same failure together: a traceback is long, and often the same for all."""
    alike: dict[RowsFailed, list[int]] = {}
    for failure in failures:
        alike.setdefault(replace(failure, rows=()), []).extend(failure.rows)
    return [replace(failure, rows=tuple(rows)) for failure, rows in alike.items()]


def misfits(columns: Mapping[str, Column], formats: Format, rows: int) -> dict[int, str]:
    """Row -> what is wrong with it. Formats match when a graph is checked, but for null where a size is expected."""
    wrong: dict[int, str] = {}
    for name, form in formats.items():
        layout = columns[name].layout
        if layout.shape is not None:
            # The comparison is what nearly always suffices.
            same = layout.shape == form.shape and layout.dtype == form.dtype
            if not same and not form.accepts(layout.dtype, layout.shape):
                problem = f"field {name!r}: expected {form}, got {layout.dtype.name}{list(layout.shape)}"
                return dict.fromkeys(range(rows), problem)
            continue
        bad = {shape for shape in set(layout.shapes) if not form.accepts(layout.dtype, shape)}
        for row in [row for row, shape in enumerate(layout.shapes) if shape in bad] if bad else ():
            got = f"{layout.dtype.name}{list(layout.shapes[row])}"
            wrong.setdefault(row, f"field {name!r}: expected {form}, got {got}")
    return wrong


def _execute(loaded: Loaded, batch: Batch, found: list[tuple[list[Answer], list[Rejection]]]) -> None:
    if torch.is_grad_enabled():  # threads of executors have done that for good (threads.py)
        with torch.set_grad_enabled(False):  # torch.no_grad() takes twice as long to say the same
            _execute(loaded, batch, found)
        return
    loaded.node.execute(batch)
    found.append(batch.finish())


def _renamed(indices: tuple[int, ...], positions: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([positions[index] for index in indices])


def _copied(column: Column, start: int, stop: int) -> Column:
    part = gather([(column, index) for index in range(start, stop)])
    return Column(part.layout, memoryview(bytearray(part.data)))
