"""`run --nearest K`: for each text the texts whose vectors are most alike, by cosine."""

from collections.abc import Iterator, Mapping
from typing import IO, Any

from ..errors import FormatError
from .args import UsageError
from .io import Answer, Failure, Read, as_array, described, json_line

_ROWS = 1024  # of the table of similarities at a time: 1024 x all stays small for what fits into memory anyway


class NearestWriter:
    """Collects texts and vectors; finds and writes the neighbours at the end. `lines`: JSON lines instead of text."""

    def __init__(self, stream: IO[str], count: int, *, lines: bool) -> None:
        self._stream = stream
        self._count = count
        self._lines = lines
        self._texts: list[str | None] = []
        self._answers: list[Any] = []

    def listen(self, items: Iterator[Read]) -> Iterator[Read]:
        """Hand the items on and remember their texts."""
        for place, item in items:
            value = None if isinstance(item, FormatError) else next(iter(item.values()), None)
            if not isinstance(item, FormatError) and not isinstance(value, str):
                raise UsageError(f"--nearest compares texts, but {place} of the input is none")
            self._texts.append(value)
            yield place, item

    def write(self, answer: Answer) -> None:
        self._answers.append(as_array(next(iter(answer.values()))) if isinstance(answer, Mapping) else answer)

    def finish(self) -> None:
        found = self._neighbours()
        for index, answer in enumerate(self._answers):
            self._stream.write(self._shown(self._texts[index], answer, found.get(index, [])))
        self._stream.flush()

    def _shown(self, text: str | None, answer: Any, found: list[tuple[float, str]]) -> str:
        failed = isinstance(answer, Failure)
        if self._lines:
            near = [{"text": other, "cosine": round(cosine, 6)} for cosine, other in found]
            shown = {"error": described(answer)} if failed else {"text": text, "nearest": near}
            return json_line(shown)
        if failed:
            return f"{text or ''}\n  error: {described(answer)['message']}\n"
        return "".join([f"{text}\n", *(f"  {cosine:6.3f}  {other}\n" for cosine, other in found)])

    def _neighbours(self) -> dict[int, list[tuple[float, str]]]:
        """Index of each item with a vector -> (cosine, text) of the nearest, best first, ties in input order."""
        import numpy as np

        indices = [index for index, answer in enumerate(self._answers) if isinstance(answer, np.ndarray)]
        if not indices:
            return {}
        vectors = np.stack([self._answers[index] for index in indices]).astype(np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        found = {}
        for start in range(0, len(indices), _ROWS):
            table = vectors[start : start + _ROWS] @ vectors.T
            for row, cosines in enumerate(table):
                cosines[start + row] = -np.inf  # not its own neighbour
                best = np.argsort(-cosines, kind="stable")[: min(self._count, len(indices) - 1)]
                found[indices[start + row]] = [(float(cosines[k]), self._texts[indices[k]] or "") for k in best]
        return found
