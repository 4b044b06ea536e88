"""Files in and out: JSON lines, lines of text, arrays of numpy. Read and written as they come, never held as a whole.

A line that cannot be read is an answer of its own (`BadItem`), so that one bad line never costs the others.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from ..errors import FormatError, ScatterError, TaskError
from .args import UsageError

INPUT_SUFFIXES = (".jsonl", ".json", ".txt", ".npy")
OUTPUT_SUFFIXES = (".jsonl", ".json", ".npy")

Item: TypeAlias = dict[str, Any]
"""field -> what a user gives for it"""


@dataclass(frozen=True, slots=True)
class BadItem:
    """An input that is no item; `line` counts from 1."""

    line: int
    message: str


Answer: TypeAlias = Mapping[str, Any] | BadItem | ScatterError
"""What one item came to: its result (field -> tensor), or why there is none."""


def read_items(stream: IO[bytes], suffix: str, inputs: frozenset[str]) -> Iterator[Item | BadItem]:
    """The items of an open file. `inputs` are the fields of the graph; .txt and .npy need that to be one.

    Raises UsageError if the file cannot be meant for the graph.
    """
    if suffix not in {".txt", ".npy"}:
        return _json_items(stream)
    if len(inputs) != 1:
        raise UsageError(
            f"a {suffix} file holds one field, this graph takes {', '.join(sorted(inputs)) or 'none'}: use .jsonl"
        )
    field = next(iter(inputs))
    return _text_items(stream, field) if suffix == ".txt" else _array_items(stream, field)


def _json_items(stream: IO[bytes]) -> Iterator[Item | BadItem]:
    for line, raw in enumerate(stream, 1):
        if not raw.strip():
            continue
        try:
            item = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:  # what is no JSON, and what is no UTF-8
            yield BadItem(line, f"line {line} is not JSON: {error}")
            continue
        if isinstance(item, dict):
            yield item
        else:
            yield BadItem(line, f"line {line}: expected an object of fields, got {json.dumps(item)[:40]}")


def _text_items(stream: IO[bytes], field: str) -> Iterator[Item | BadItem]:
    for line, raw in enumerate(stream, 1):
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield BadItem(line, f"line {line} is not UTF-8: {error}")
            continue
        yield {field: text.removesuffix("\n").removesuffix("\r")}


def _array_items(stream: IO[bytes], field: str) -> Iterator[Item]:
    import numpy as np

    name = stream.name
    try:
        rows = np.load(name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{name} is no array that can be read: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.ndim == 0:
        raise FormatError(f"{name}: expected one array with a row per task")
    for index in range(len(rows)):
        yield {field: np.array(rows[index])}


def count_items(path: str, suffix: str) -> int | None:
    """How many items a file holds, for a progress bar; None where only reading it would tell."""
    if path == "-" or suffix == ".npy":
        return None
    with Path(path).open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def opened(path: str, standard: IO[Any], mode: str) -> AbstractContextManager[IO[Any]]:
    """The file, or the standard stream for "-", which stays open."""
    if path == "-":
        return nullcontext(standard)
    if "b" in mode:
        return Path(path).open(mode)
    return Path(path).open(mode, encoding="utf-8", errors="backslashreplace", newline="\n")


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
        self._stream.write(json.dumps(shown, ensure_ascii=False) + "\n")
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
        self._complaints.write(json.dumps({"item": self._rows, "error": described(answer)}, ensure_ascii=False) + "\n")
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


def described(failure: BadItem | ScatterError) -> dict[str, object]:
    """An error as an object for JSON: code, message, and where and how it happened as far as is known."""
    if isinstance(failure, BadItem):
        return {"code": "invalid_input", "message": failure.message, "line": failure.line}
    if isinstance(failure, TaskError) and failure.error is not None:
        info = failure.error
        places = ("executor", "task", "graph", "node")
        context = {place: where for place in places if (where := getattr(info.context, place)) is not None}
        more = {"traceback": info.traceback} if info.traceback else {}
        return {"code": str(info.code), "message": info.message, **more, "context": context}
    return {"code": "invalid_input" if isinstance(failure, FormatError) else "unknown", "message": str(failure)}
