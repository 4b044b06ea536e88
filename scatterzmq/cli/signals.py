"""Signals that ask a process to end: SIGTERM and SIGINT."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_ending(call: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call this for each of them, instead of what was done before. In the main thread only: no other gets signals."""

    def came(number: int, _: FrameType | None) -> None:
        call(signal.Signals(number))

    before = {number: signal.signal(number, came) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
