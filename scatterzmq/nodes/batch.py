"""A batch: what a node gets for some tasks at once, and what it answers.

Rules:
* Inputs are read-only. They share memory with the payload store, so a write in place is found and fails the batch.
* Every row is answered exactly once: emitted on an output, handed to a called graph, or rejected.
* What is emitted belongs to the batch from then on. Its memory becomes the payload if nobody else holds it, else (and
  if it is small) it is copied: a payload never changes.
"""

import operator
import traceback
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from math import prod
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from ..errors import ErrorCode, FormatError, ScatterError
from ..graph.formats import DType, FieldFormat, Format, Layout, Shape
from ..ids import TaskId
from ..wire.tensors import Column, bytes_of, from_tensors, plain, tensor_dtype, to_flat
from .base import CallSite
from .padded import Flat, Padded, layout_of, mask_of, pad, unpad

Rows: TypeAlias = Sequence[int] | Tensor
"""Batch positions, as numbers or as a bool tensor with one element per row of the batch."""
FieldValue: TypeAlias = Tensor | Padded | Flat | Column | Sequence[Tensor] | Sequence[str] | Sequence[bytes]

_SHOWN_TASKS = 5
_CPU = torch.device("cpu")
_COPIED_NBYTES_MAX = 4096
"""Up to here a copy takes less time than finding out whether one is needed, or a handle on the memory of one's own."""


class BatchError(ScatterError, ValueError):
    """A node broke the rules of its batch."""


class InputsChanged(BatchError):  # noqa: N818 -- says what happened
    """A node wrote to an input. The same inputs must not be run again."""


class Answer(NamedTuple):
    """Rows that leave on `output` with these fields. `call`: a graph to run first, with the fields as its input."""

    output: str
    rows: tuple[int, ...]
    columns: Mapping[str, Column]
    call: str | None


class Rejection(NamedTuple):
    """Rows that failed on their own. `traceback` is "" unless an exception was given."""

    rows: tuple[int, ...]
    message: str
    code: ErrorCode
    final: bool
    traceback: str


class _Stacked(NamedTuple):
    """An emitted tensor with the version it had: torch counts the writes to it. layout: of its rows.

    data: its numbers, copied when it was emitted; None if it may be large.
    """

    tensor: Tensor
    version: int
    layout: Layout
    data: memoryview | None


class _Pending(NamedTuple):
    output: str
    rows: tuple[int, ...]
    values: Mapping[str, "_Stacked | Column"]
    call: str | None


class Batch:
    """The claimed tasks of one node.

    place: "ns:graph:node", for messages. inputs, outputs, calls: as the node stated them.
    columns: input field -> data, one row per task. token: see `fencing_token`; joined: (position, token) where tasks
        begin that have another one, by another owner.
    dead: positions (see `positions`) of tasks that were cleared or taken over; may grow from another thread.
    positions: what `dead` calls each row; by default its number.
    """

    def __init__(
        self,
        *,
        place: str,
        task_ids: Sequence[TaskId],
        inputs: Format,
        outputs: Mapping[str, Format],
        columns: Mapping[str, Column],
        calls: Sequence[CallSite] = (),
        token: str = "",
        joined: Sequence[tuple[int, str]] = (),
        dead: Container[int] = (),
        positions: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.place = place
        self.task_ids = tuple(task_ids)
        self.device = device if isinstance(device, torch.device) else torch.device(device)
        self._inputs = inputs
        self._outputs = outputs
        self._columns = columns
        self._calls = calls
        self._token = token
        self._joined = joined
        self._dead = dead
        self._positions = range(len(self.task_ids)) if positions is None else positions
        self._flat: dict[str, Tensor] = {}
        self._answered = bytearray(len(self.task_ids))
        self._pending: list[_Pending] = []
        self._rejections: list[Rejection] = []
        for column in columns.values():
            assert column.layout.rows == len(self.task_ids), "a row for each task"

    def __len__(self) -> int:
        """How many tasks."""
        return len(self.task_ids)

    # ---- inputs

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs."""
        return sum(len(column.data) for column in self._columns.values())

    def uniform(self, field: str) -> Tensor:
        """[tasks, *shape]. Raises FormatError for a field whose format has null dimensions. Read-only."""
        column = self._column(field)
        layout = column.layout
        if not self._inputs[field].is_uniform:
            raise FormatError(
                f"{self.place}: input {field!r} is {self._inputs[field]}: tasks may differ in the null dimensions, "
                "so it is not uniform; use padded() or rows()"
            )
        assert layout.shape is not None, "inputs match their format"
        return self._shared(field, column).view(layout.rows, *layout.shape)

    def padded(self, field: str) -> tuple[Tensor, Tensor]:
        """([tasks, *largest], bool mask of that shape), zero-padded at the end; see `shapes` for sizes. Read-only."""
        column = self._column(field)
        layout = column.layout
        mask = mask_of(layout).to(self.device)
        if layout.shape is not None:
            return self.flat(field).view(layout.rows, *layout.shape), mask
        return pad(column).to(self.device), mask

    def flat(self, field: str) -> Tensor:
        """All tasks' values in one dimension, one task after another; see `shapes`. Read-only."""
        return self._shared(field, self._column(field))

    def rows(self, field: str) -> list[Tensor]:
        """One tensor per task, in task order. Read-only."""
        shapes = self.shapes(field)
        parts = self.flat(field).split_with_sizes([prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def shapes(self, field: str) -> list[Shape]:
        """The shape of each task's tensor."""
        layout = self._column(field).layout
        return [layout.shape] * layout.rows if layout.shape is not None else list(layout.shapes)

    def column(self, field: str) -> Column:
        """All tasks' bytes at once, which can be answered as they are. Read-only."""
        return self._column(field)

    def raw(self, field: str) -> list[bytes]:
        """Each task's bytes: of a text, its UTF-8."""
        column = self._column(field)
        return [bytes(column.row(row)) for row in range(len(self))]

    def texts(self, field: str) -> list[str]:
        """Each task's text, of a field uint8[null]. Raises FormatError for bytes that are no UTF-8."""
        texts = []
        for row, data in enumerate(self.raw(field)):
            try:
                texts.append(data.decode())
            except UnicodeDecodeError as error:
                raise FormatError(
                    f"{self.place}: input {field!r} of {self._named([row])} is no UTF-8: {error}"
                ) from None
        return texts

    def fencing_token(self, row: int) -> str:
        """To pass to stores outside, so that they can tell a task's newer attempt from an older one."""
        assert 0 <= row < len(self), f"row {row} of {len(self)}"
        position = self._positions[row]
        return next((token for start, token in reversed(self._joined) if start <= position), self._token)

    def alive(self, row: int) -> bool:
        """False when the task was cleared or taken over: nobody waits for its answer any more."""
        return self._positions[row] not in self._dead

    # ---- answers

    def emit(self, output: str, /, rows: Rows | None = None, **fields: FieldValue) -> None:
        """Answer rows (default: all) on an output; each field is a Tensor [rows, *shape], a list of Tensors, a Padded,
        a Flat, or for uint8[null] a list of texts.

        Raises BatchError for an unknown output, for fields that are missing or too many, and for a row answered before;
        FormatError for a value that does not match the format.
        """
        self.answer(output, fields, rows)

    def call(self, output: str, graph: str, /, rows: Rows | None = None, **fields: FieldValue) -> None:
        """As emit, but first run a graph of the namespace with the fields as input; its result leaves on `output`."""
        self.answer(output, fields, rows, graph)

    def answer(
        self, output: str, fields: Mapping[str, FieldValue], rows: Rows | None = None, call: str | None = None
    ) -> None:
        """As emit and call, for fields whose names are not known when the node is written."""
        formats = self._outputs.get(output) if call is None else None
        if formats is None:
            formats = self._formats(output, call)
        where = f"output {output!r}" if call is None else f"call of {call!r}"
        if fields.keys() != formats.keys():
            missing = ", ".join(sorted(formats.keys() - fields.keys())) or "none"
            extra = ", ".join(sorted(fields.keys() - formats.keys())) or "none"
            raise BatchError(f"{self.place}: {where}: fields missing: {missing}; fields too many: {extra}")
        if rows is None and not self._pending and not self._rejections:
            numbers = tuple(range(len(self._answered)))  # nothing has been answered yet: nothing to look for
        else:
            numbers = self._numbers(rows, where)
        values = {}
        for field, value in fields.items():
            try:
                values[field] = _taken(value, formats[field], len(numbers))
            except FormatError as error:
                expected = f"expected {formats[field]} for {len(numbers)} rows"
                raise FormatError(f"{self.place}: {where}, field {field!r}: {expected}, {error}") from None
        self._mark(numbers)
        if numbers:
            self._pending.append(_Pending(output, numbers, values, call))

    def reject(
        self,
        row: int | Rows,
        message: str | BaseException,
        code: str = ErrorCode.GENERAL_EXCEPTION,
        final: bool = False,
    ) -> None:
        """Fail one row (or several for the same reason), and no other. An exception also tells its traceback.

        final: trying again would not help.
        """
        try:
            known_code = ErrorCode(code)
        except ValueError:
            raise BatchError(f"{self.place}: unknown error code {code!r}; known are {', '.join(ErrorCode)}") from None
        numbers = self._numbers([row] if isinstance(row, int) else row, "reject")
        self._mark(numbers)
        trace = "".join(traceback.format_exception(message)) if isinstance(message, BaseException) else ""
        if numbers:
            self._rejections.append(Rejection(numbers, str(message), known_code, final, trace))

    # ---- the executor's side

    def check_inputs(self) -> None:
        """Raises InputsChanged if the node wrote to an input: to be asked however `execute` ended."""
        for field, tensor in self._flat.items():
            if tensor._version:  # noqa: SLF001 -- torch has no public name for its count of writes
                raise InputsChanged(
                    f"{self.place}: the node changed its input {field!r} in place; inputs are read-only, "
                    "so change a copy (.clone())"
                )

    def finish(self) -> tuple[list[Answer], list[Rejection]]:
        """All answers, when `execute` has returned.

        Raises BatchError naming the tasks that were not answered, InputsChanged if the node wrote to an input, and
        BatchError if it wrote to something after emitting it.
        """
        self.check_inputs()
        if not all(self._answered):
            missing = [row for row, answered in enumerate(self._answered) if not answered]
            raise BatchError(f"{self.place}: the node answered {self._named(missing)} on none of its outputs")
        answers = []
        for pending in self._pending:
            columns = {}
            for field, value in pending.values.items():
                if isinstance(value, Column):
                    columns[field] = value
                    continue
                if value.tensor._version != value.version:  # noqa: SLF001
                    raise BatchError(
                        f"{self.place}: the node changed the tensor of field {field!r} after it had emitted it on "
                        f"{pending.output!r}; emit a copy (.clone())"
                    )
                data = value.data
                if data is None:
                    data = _payload(value.tensor, value.layout.dtype)
                columns[field] = Column(value.layout, data)
            answers.append(Answer(pending.output, pending.rows, columns, pending.call))
        return answers, self._rejections

    # ---- inside

    def _column(self, field: str) -> Column:
        column = self._columns.get(field)
        if column is None:
            known = ", ".join(self._columns) or "none"
            raise BatchError(f"{self.place}: the node has no input {field!r}; its inputs are: {known}")
        return column

    def _shared(self, field: str, column: Column) -> Tensor:
        """All values of an input. Whatever is handed out is a view of this tensor: writes to a view count for all."""
        tensor = self._flat.get(field)
        if tensor is None:
            if torch.is_inference_mode_enabled():
                with torch.inference_mode(False):  # tensors made in that mode do not count the writes to them
                    return self._shared(field, column)
            tensor = to_flat(column)
            if self.device != _CPU:
                tensor = tensor.to(self.device)
            self._flat[field] = tensor
        return tensor

    def _formats(self, output: str, call: str | None) -> Format:
        if output not in self._outputs:
            known = ", ".join(self._outputs) or "none"
            raise BatchError(f"{self.place}: the node has no output {output!r}; its outputs are: {known}")
        for site in self._calls:
            if site.graph == call and site.output == output:
                return site.args
        raise BatchError(
            f"{self.place}: the node does not say in calls() that it calls graph {call!r} coming back on {output!r}"
        )

    def _numbers(self, rows: Rows | None, where: str) -> tuple[int, ...]:
        """The rows as positions, each of them still to be answered."""
        if rows is None:
            numbers: Sequence[int] = range(len(self))
        elif isinstance(rows, Tensor) and rows.dtype is torch.bool:
            if rows.shape != (len(self),):
                raise BatchError(
                    f"{self.place}: {where}: a bool tensor of rows needs shape [{len(self)}], not {list(rows.shape)}"
                )
            numbers = cast(list[int], rows.nonzero().view(-1).tolist())
        else:
            try:
                numbers = [operator.index(row) for row in (rows.tolist() if isinstance(rows, Tensor) else rows)]
            except TypeError:
                raise BatchError(f"{self.place}: {where}: rows must be whole numbers, got {rows!r}") from None
        answered = self._answered
        count = len(answered)
        for row in numbers:
            if not 0 <= row < count:
                raise BatchError(f"{self.place}: {where}: there is no row {row} in a batch of {count}")
        twice = [row for row in numbers if answered[row]]
        if twice:
            raise BatchError(f"{self.place}: {where}: {self._named(twice)} had been answered before")
        if rows is not None and len(set(numbers)) != len(numbers):
            again = [row for row, times in Counter(numbers).items() if times > 1]
            raise BatchError(f"{self.place}: {where}: {self._named(again)} is answered twice")
        return tuple(numbers)

    def _mark(self, numbers: Sequence[int]) -> None:
        if len(numbers) == len(self._answered):
            self._answered = bytearray(b"\1") * len(numbers)  # they are all different, so they are all
            return
        for row in numbers:
            self._answered[row] = 1

    def _named(self, rows: Sequence[int]) -> str:
        names = [f"{self.task_ids[row]} (row {row})" for row in rows[:_SHOWN_TASKS]]
        more = f" and {len(rows) - _SHOWN_TASKS} more" if len(rows) > _SHOWN_TASKS else ""
        return f"task{'s' if len(rows) > 1 else ''} {', '.join(names)}{more}"


# ---- what a node answers, as columns


def _taken(value: object, form: FieldFormat, count: int) -> "_Stacked | Column":
    """The value checked against its format. Raises FormatError that says what was got."""
    if isinstance(value, Tensor):
        return _taken_tensor(value, form, count)
    if isinstance(value, Padded):
        column = unpad(value, form)
        if column.layout.rows != count:
            raise FormatError(f"got a Padded with {column.layout.rows} rows")
        _check_layout(column.layout, form)
        return column
    if isinstance(value, Flat):
        return _taken_flat(value, form, count)
    if isinstance(value, Column):
        if value.layout.rows != count:
            raise FormatError(f"got a Column with {value.layout.rows} rows")
        _check_layout(value.layout, form)
        return Column(value.layout, memoryview(bytearray(value.data)))
    if not isinstance(value, (list, tuple)):
        raise FormatError(f"got a {type(value).__name__}; give a Tensor, a list of Tensors, or a Padded")
    if len(value) != count:
        raise FormatError(f"got a list of {len(value)}")
    if value and isinstance(value[0], (str, bytes)):
        return _taken_texts(value, form)
    for row, tensor in enumerate(value):
        if not isinstance(tensor, Tensor):
            raise FormatError(f"got a {type(tensor).__name__} at position {row} of the list")
        if not form.accepts(tensor_dtype(tensor), tensor.shape):
            raise FormatError(f"got {_described(tensor)} at position {row} of the list")
    return from_tensors(value) if value else _nothing(form)


def _taken_tensor(tensor: Tensor, form: FieldFormat, count: int) -> "_Stacked | Column":
    whole = tuple(tensor.shape)
    if not whole:
        raise FormatError("got a tensor without dimensions; a batch is one tensor [rows, ...]")
    if whole[0] != count:
        raise FormatError(f"got {_described(tensor)}, which has {whole[0]} rows")
    shape, dtype = whole[1:], tensor_dtype(tensor)
    # The comparison is what nearly always suffices.
    if shape == form.shape and dtype == form.dtype:
        layout = form.row_layout if count == 1 else None
    elif form.accepts(dtype, shape):
        layout = None
    else:
        raise FormatError(f"got {_described(tensor)}, where the first dimension is the rows")
    return _held(tensor, layout or Layout(dtype, count, shape))


def _taken_flat(value: Flat, form: FieldFormat, count: int) -> "_Stacked | Column":
    given = value.shapes.tolist() if isinstance(value.shapes, Tensor) else value.shapes
    shapes = [tuple(shape) for shape in given]
    if len(shapes) != count:
        raise FormatError(f"got a Flat with {len(shapes)} rows")
    if any(size < 0 for shape in shapes for size in shape):
        raise FormatError("got a Flat with a negative size in its shapes")
    if value.tensor.dim() != 1 or len(value.tensor) != sum(map(prod, shapes)):
        raise FormatError(
            f"got a Flat of {_described(value.tensor)}, but its shapes have {sum(map(prod, shapes))} values"
        )
    if not shapes:
        return _nothing(form)
    layout = layout_of(tensor_dtype(value.tensor), shapes)
    _check_layout(layout, form)
    return _held(value.tensor, layout)


def _held(tensor: Tensor, layout: Layout) -> "_Stacked | Column":
    """The tensor until the end of the batch, or a copy at once if torch would not tell of writes to it."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_inference():
        return Column(layout, bytes_of(_copy(plain(tensor)), layout.dtype))
    version = tensor._version  # noqa: SLF001
    if tensor.nbytes <= _COPIED_NBYTES_MAX:
        return _Stacked(tensor, version, layout, memoryview(bytearray(bytes_of(tensor, layout.dtype))))
    # Our own handle on the memory: at the end it shows whether the node kept another. As a view of a tensor that
    # counts the writes to it, it counts them too, even if it is made in inference mode.
    return _Stacked(tensor.detach(), version, layout, None)


def _taken_texts(texts: Sequence[object], form: FieldFormat) -> Column:
    if form.dtype.name != "uint8" or len(form.shape) != 1:
        raise FormatError("got texts, which only uint8 fields with one dimension can hold")
    parts = []
    for row, text in enumerate(texts):
        if not isinstance(text, (str, bytes)):
            raise FormatError(f"got a {type(text).__name__} at position {row} of a list of texts")
        try:
            parts.append(text.encode() if isinstance(text, str) else text)
        except UnicodeEncodeError as error:
            raise FormatError(f"got a text at position {row} that is no UTF-8 ({error.reason})") from None
    shapes = [(len(part),) for part in parts]
    layout = layout_of(form.dtype, shapes)
    _check_layout(layout, form)
    return Column(layout, memoryview(bytearray().join(parts)))


def _nothing(form: FieldFormat) -> Column:
    return Column(Layout(form.dtype, 0, tuple(size or 0 for size in form.shape)), memoryview(bytearray()))


def _check_layout(layout: Layout, form: FieldFormat) -> None:
    shapes = (layout.shape,) if layout.shape is not None else layout.shapes
    if layout.dtype == form.dtype and form.shape == (None,) and all(len(shape) == 1 for shape in shapes):
        return  # what texts and sequences of numbers are: checked at once
    for row, shape in enumerate(shapes):
        if not form.accepts(layout.dtype, shape):
            raise FormatError(f"got {layout.dtype.name}{list(shape)} for row {row}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _payload(tensor: Tensor, dtype: DType) -> memoryview:
    """The tensor's numbers in memory that nobody else holds."""
    return bytes_of(tensor if _is_ours(tensor) else _copy(tensor), dtype)


def _is_ours(tensor: Tensor) -> bool:
    """Whether this tensor is all of its memory and nobody else holds that: no input, no weight, no buffer of the node,
    no second answer, no array of numpy's.
    """
    users: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001
    if users is None or not tensor.is_cpu:
        return False
    storage = tensor.untyped_storage()
    # Memory that torch did not allocate cannot be resized. One of the two users is the tensor, one is `storage`.
    return storage.resizable() and storage.nbytes() == tensor.nbytes and users(storage._cdata) == 2  # noqa: SLF001


def _copy(tensor: Tensor) -> Tensor:
    return tensor.cpu() if not tensor.is_cpu else tensor.clone(memory_format=torch.contiguous_format)
