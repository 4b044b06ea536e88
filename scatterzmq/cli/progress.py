"""A progress bar on stderr, if someone is looking and rich is installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

_EVERY_S = 0.1  # drawing more often costs more than it shows


class Bar:
    """Counts finished items; `bar` is None where nobody looks."""

    def __init__(self, bar: Any, total: int | None) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=total)
        self._done = 0
        self._drawn = 0.0

    def step(self) -> None:
        self._done += 1
        if self._bar is not None and monotonic() - self._drawn >= _EVERY_S:
            self.draw()

    def draw(self) -> None:
        if self._bar is not None:
            self._drawn = monotonic()
            self._bar.update(self._task, completed=self._done)


@contextmanager
def progress(total: int | None, *, wanted: bool) -> Iterator[Bar]:
    """A bar for the length of the block."""
    drawer = _drawer() if wanted and sys.stderr.isatty() else None
    if drawer is None:
        yield Bar(None, total)
        return
    with drawer:
        bar = Bar(drawer, total)
        try:
            yield bar
        finally:
            bar.draw()


def _drawer() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
    except ImportError:
        return None
    return Progress(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True))
