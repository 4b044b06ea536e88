"""What nodes print: stands in for sys.stdout and hands the lines of nodes to callbacks, all else to the terminal.

Only threads inside `lines_of` are affected; everybody else writes to the stream that was there before.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TextIO, TypeAlias

Lines: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Of an executor: (place "ns:graph:node"); what its thread prints within is told as lines of that node."""

_LINE_CHARS_MAX = 8192  # longer lines come in pieces, so that a node without newlines cannot fill the memory


_LINES_MAX, _LINES_PER_S = 1_000, 100
_CHARS_MAX, _CHARS_PER_S = 1 << 20, 1 << 17


class LineBudget:
    """Lets so many lines pass and no more, so that whoever prints in a loop costs others nothing."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._filled_s = clock_s()
        self._lines: float = _LINES_MAX
        self._chars: float = _CHARS_MAX
        self._left_out = 0

    def passed(self, line: str) -> tuple[str, ...]:
        """The line, unless there are too many; after a gap a line about that first."""
        now_s = self._clock_s()
        elapsed_s, self._filled_s = now_s - self._filled_s, now_s
        self._lines = min(_LINES_MAX, self._lines + elapsed_s * _LINES_PER_S)
        self._chars = min(_CHARS_MAX, self._chars + elapsed_s * _CHARS_PER_S)
        if self._lines < 1 or self._chars < len(line):
            self._left_out += 1
            return ()
        self._lines -= 1
        self._chars -= len(line)
        return (*self.rest(), line)

    def rest(self) -> tuple[str, ...]:
        """A line about those that were left out since the last one, if there were any."""
        left_out, self._left_out = self._left_out, 0
        return (f"({left_out} lines more, left out)",) if left_out else ()


class NodeOutput:
    """Takes over sys.stdout between `install` and `remove`."""

    def __init__(self) -> None:
        self._stream: _Stream | None = None

    def install(self) -> None:
        """Stand in for sys.stdout. A second call changes nothing."""
        if self._stream is None:
            self._stream = _Stream(sys.stdout)
            sys.stdout = self._stream

    def remove(self) -> None:
        """Put back what was there. If somebody took over sys.stdout after us, we only let everything pass from now."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        stream.closed_by_owner = True
        if sys.stdout is stream:
            below: Any = stream
            while isinstance(below, _Stream) and below.closed_by_owner:
                below = below.below
            sys.stdout = below

    @contextmanager
    def lines_of(self, emit: Callable[[str], None]) -> Iterator[None]:
        """Each line that this thread prints in here goes to `emit`, in this thread and without the newline."""
        stream = self._stream
        if stream is None:
            yield
            return
        sink = _Sink(emit)
        outer = getattr(stream.of_thread, "sink", None)
        stream.of_thread.sink = sink
        try:
            yield
        finally:
            stream.of_thread.sink = outer
            sink.finish()


class _Sink:
    """Cuts what one node prints into lines."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._rest = ""

    def write(self, text: str) -> None:
        *lines, rest = (self._rest + text).split("\n")
        for line in lines:
            self._emit(self._cut(line))
        self._rest = self._cut(rest)

    def _cut(self, line: str) -> str:
        """What is left of a line after as many full pieces as there are."""
        while len(line) > _LINE_CHARS_MAX:
            self._emit(line[:_LINE_CHARS_MAX])
            line = line[_LINE_CHARS_MAX:]
        return line

    def finish(self) -> None:
        if self._rest:
            self._emit(self._rest)
            self._rest = ""


class _Stream:
    """Like the stream below, except for threads that run a node."""

    def __init__(self, below: TextIO) -> None:
        self.below = below
        self.of_thread = threading.local()
        self.closed_by_owner = False

    def write(self, text: str) -> int:
        sink = getattr(self.of_thread, "sink", None)
        if sink is None:
            return self.below.write(text)
        sink.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if getattr(self.of_thread, "sink", None) is None:
            self.below.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)
