"""Files in and out: JSON lines, lines of text, arrays of numpy. Read and written as they come, never held as a whole.

A line that cannot be read is an answer of its own (`Failure`), so that one bad line never costs the others.

JSON out is strict, so that any program can read it: numbers that JSON does not have are the texts "NaN", "Infinity" and
"-Infinity". All of these are read as numbers, too, also without the quotes, as Python writes them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isfinite, isinf, isnan
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeAlias

from ..errors import FormatError, ScatterError, TaskError
from .args import UsageError

INPUT_SUFFIXES = (".jsonl", ".json", ".txt", ".npy")
OUTPUT_SUFFIXES = (".jsonl", ".json", ".npy")

Item: TypeAlias = dict[str, Any]
"""field -> what a user gives for it"""

_TOO_LARGE = re.compile(r"[eE]\+?0*[1-9]\d\d|\d{309}")
"""What a number has that could be read as infinity."""


class Place(NamedTuple):
    """Where in its file an item is: its line, from 1, or the index of its row in an array."""

    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result for the item at this place."""

    place: Place
    error: ScatterError


Read: TypeAlias = tuple[Place, Item | FormatError]
"""What was read at a place: an item, or why it is none."""
Answer: TypeAlias = Mapping[str, Any] | Failure
"""What one item came to: its result (field -> tensor), or why there is none."""


def read_items(stream: IO[bytes], suffix: str, inputs: frozenset[str]) -> Iterator[Read]:
    """The items of an open file. `inputs` are the fields of the graph; .txt and .npy need that to be one.

    Raises UsageError if the file cannot be meant for the graph.
    """
    if suffix not in {".txt", ".npy"}:
        return _read_lines(stream, _fields, skip_empty=True)
    if len(inputs) != 1:
        raise UsageError(
            f"a {suffix} file holds one field, this graph takes {', '.join(sorted(inputs)) or 'none'}: use .jsonl"
        )
    field = next(iter(inputs))
    if suffix == ".npy":
        return _array_items(stream, field)
    return _read_lines(stream, lambda text: {field: text}, skip_empty=False)


def _read_lines(stream: IO[bytes], convert: Callable[[str], Item], *, skip_empty: bool) -> Iterator[Read]:
    for number, raw in enumerate(stream, 1):
        if skip_empty and not raw.strip():
            continue
        place = Place("line", number)
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            yield place, convert(text.removesuffix("\n").removesuffix("\r"))
        except UnicodeDecodeError as error:
            yield place, FormatError(f"not UTF-8: {error.reason} at byte {error.start + 1}")
        except FormatError as error:
            yield place, error


def _fields(text: str) -> Item:
    """One line of JSON. Raises FormatError."""
    hint = "; write one object per line"
    # Asking for each number costs time, so it is done only where it may matter.
    number = _finite if _TOO_LARGE.search(text) else None
    try:
        item = json.loads(text, object_pairs_hook=_object, parse_float=number)
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error.msg} at column {error.colno}{hint}") from None
    except RecursionError:
        raise FormatError("not JSON that can be read: nested too deeply") from None
    except FormatError:
        raise
    except ValueError as error:  # a whole number of thousands of digits
        raise FormatError(f"not JSON that can be read: {error}") from None
    if not isinstance(item, dict):
        shown = text.strip()
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        raise FormatError(f"expected an object of fields, got {shown}{hint}")
    return item


def _object(pairs: list[tuple[str, Any]]) -> Item:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"{twice!r:.80} is given more than once; leave one of them out")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise FormatError(f"{text:.40} is beyond the largest number; write Infinity if that is meant")
    return number


def _array_items(stream: IO[bytes], field: str) -> Iterator[Read]:
    import numpy as np

    name = stream.name
    if stream.read(6) != b"\x93NUMPY":
        raise FormatError(f"{name} is no .npy file; make one with numpy.save, or use .jsonl")
    try:
        rows = np.load(name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{name} holds no array of numbers that can be read: {error}") from error
    if not rows.ndim:
        raise FormatError(f"{name}: expected an array with a row per item, got a single number")
    for index in range(len(rows)):
        yield Place("row", index), {field: np.array(rows[index])}


def count_items(path: str, suffix: str) -> int | None:
    """How many items a file holds, for a progress bar; None where only reading it would tell."""
    if path == "-" or suffix == ".npy":
        return None
    with Path(path).open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def opened(path: str, standard: IO[Any], mode: str) -> AbstractContextManager[IO[Any]]:
    """The file, or the standard stream for "-", which stays open. Raises ScatterError."""
    if path == "-":
        return nullcontext(standard)
    try:
        if "b" in mode:
            return Path(path).open(mode)
        return Path(path).open(mode, encoding="utf-8", errors="backslashreplace", newline="\n")
    except OSError as error:
        what = "read" if "r" in mode else "write"
        raise ScatterError(f"cannot {what} {path!r}: {error.strerror or error}; check the path") from error


class Writer(Protocol):
    """Takes the answers in input order."""

    def write(self, answer: Answer) -> None: ...

    def finish(self) -> None: ...


class JsonWriter:
    """One JSON object per answer. `texts` are the fields shown as strings."""

    def __init__(self, stream: IO[str], texts: frozenset[str], *, flush: bool) -> None:
        self._stream = stream
        self._texts = texts
        self._flush = flush

    def write(self, answer: Answer) -> None:
        if isinstance(answer, Mapping):
            shown: Any = {field: plain(value, field in self._texts) for field, value in answer.items()}
        else:
            shown = {"error": described(answer)}
        self._stream.write(json_line(shown))
        if self._flush:
            self._stream.flush()

    def finish(self) -> None:
        self._stream.flush()


class ArrayWriter:
    """One array with a row per answer, written row by row; the number of rows goes into the header at the end.

    A failed task's row is NaN (0 where the type has none), so that row i stays the answer to item i.
    """

    def __init__(self, stream: IO[bytes], complaints: IO[str]) -> None:
        self._stream = stream
        self._complaints = complaints
        self._rows = 0
        self._like: Any = None

    def write(self, answer: Answer) -> None:
        self._rows += 1
        if isinstance(answer, Mapping):
            self._append(as_array(next(iter(answer.values()))))
            return
        self._complaints.write(json_line({"item": self._rows, "error": described(answer)}))
        if self._like is not None:
            self._append(self._filler())

    def _append(self, row: Any) -> None:
        if self._like is None:
            self._like = row
            self._header(0)
            for _ in range(self._rows - 1):  # all before this one have failed
                self._stream.write(self._filler().tobytes())
        if row.shape != self._like.shape:
            raise FormatError(
                f"result {self._rows} has shape {list(row.shape)}, the first one {list(self._like.shape)}: "
                "rows of an array are alike, use .jsonl"
            )
        self._stream.write(row.tobytes())

    def _filler(self) -> Any:
        import numpy as np

        return np.full_like(self._like, np.nan if np.issubdtype(self._like.dtype, np.inexact) else 0)

    def _header(self, rows: int) -> None:
        """numpy leaves room in the header for the first dimension to grow."""
        from numpy.lib import format as npy

        header = {
            "descr": npy.dtype_to_descr(self._like.dtype),
            "fortran_order": False,
            "shape": (rows, *self._like.shape),
        }
        npy.write_array_header_1_0(self._stream, header)

    def finish(self) -> None:
        if self._like is None:
            import numpy as np

            self._like = np.full((), np.nan, np.float32)
            self._header(0)
            for _ in range(self._rows):
                self._stream.write(self._like.tobytes())
        end = self._stream.tell()
        self._stream.seek(0)
        self._header(self._rows)
        self._stream.seek(end)


def as_array(tensor: Any) -> Any:
    """The tensor as an array. Raises FormatError for an element type that numpy does not have."""
    try:
        return tensor.numpy()
    except TypeError as error:
        raise FormatError(f"{tensor.dtype} has no form in a .npy file: use .jsonl") from error


def plain(tensor: Any, is_text: bool) -> object:
    """What JSON can say of a tensor. Short floats get the fewest digits that read back as the same number."""
    name = str(tensor.dtype).rpartition(".")[2]
    if is_text:
        return bytes(tensor.numpy()).decode("utf-8", "backslashreplace")
    if name.startswith("complex"):
        return _pairs(tensor.tolist())
    if name in {"float16", "float32"}:
        values = tensor.numpy()
        return _nested([float(str(value)) for value in values.ravel()], values.shape)
    return tensor.tolist()


def _pairs(value: Any) -> object:
    return [_pairs(entry) for entry in value] if isinstance(value, list) else [value.real, value.imag]


def _nested(flat: Sequence[float], shape: Sequence[int]) -> object:
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return list(flat)
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nested(flat[start * step : (start + 1) * step], shape[1:]) for start in range(shape[0])]


def json_line(value: object) -> str:
    """A line of strict JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_strict(value), ensure_ascii=False) + "\n"


def _strict(value: object) -> object:
    """With texts instead of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def described(failure: Failure) -> dict[str, object]:
    """An error as an object for JSON: code, message, and where and how it happened as far as is known."""
    place, error = failure.place, failure.error
    where: dict[str, object] = {place.unit: place.number}
    if isinstance(error, TaskError) and error.error is not None:
        info = error.error
        places = ("executor", "task", "graph", "node")
        context = {name: known for name in places if (known := getattr(info.context, name)) is not None}
        more = {"traceback": info.traceback} if info.traceback else {}
        return {"code": str(info.code), "message": info.message, **more, **where, "context": context}
    if isinstance(error, FormatError):
        return {"code": "invalid_input", "message": f"{place}: {error}", **where}
    return {"code": "unknown", "message": str(error), **where}
