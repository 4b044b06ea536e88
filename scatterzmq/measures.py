"""Measures: the numbers of a peer's queues, told to listeners every so often.

Rules     1. Told is what has changed since it was told last; a queue that is gone is told to be empty first.
          2. Whoever has no listener for them makes none of these (driver.py): nobody wakes up or looks at anything.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from .core.peer import PeerCore

Reporter: TypeAlias = Callable[[str, Mapping[str, str | int | float]], None]
Wants: TypeAlias = Callable[[str], bool]
"""Whether anybody is told of events of this name."""

NUMBERS: Mapping[str, str] = {
    "measure.queue.length": "queue_length",
    "measure.queue.weight": "weight",
    "measure.queue.pressure": "pressure",
    "measure.queue.expected_pressure": "expected_pressure",
    "measure.queue.listeners": "listeners",
    "measure.queue.claimants": "claimants",
}
"""Event -> the number that it tells (core/messages.py QueueStats)."""


class Measures:
    """Of the queues of one core."""

    def __init__(self, core: PeerCore, report: Reporter, wants: Wants, every_s: float) -> None:
        self._core = core
        self._report = report
        self._names = [name for name in NUMBERS if wants(name)]
        self._every_s = every_s
        self._last: dict[tuple[str, str], float] = {}
        self._due_s = 0.0

    def due_s(self) -> float:
        """When they are told again, by the clock."""
        return self._due_s

    def tick(self, now_s: float) -> None:
        """Tell them if it is time."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + self._every_s
        now: dict[tuple[str, str], float] = dict.fromkeys(self._last, 0)
        for queue in self._core.queues():
            for name in self._names:
                key = (name, queue.name)  # of several definitions of a namespace, all together
                now[key] = now.get(key, 0) + getattr(queue, NUMBERS[name])
        for (name, place), value in now.items():
            if self._last.get((name, place), 0) != value:
                self._report(name, {"node": place, "value": value})
        self._last = {key: value for key, value in now.items() if value}
