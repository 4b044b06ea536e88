"""The board on which a peer writes how it is, and from which its endpoint reads.

Rules   The peer replaces what stands there as a whole; whoever reads sees the old or the new, never half of each.
Why     A probe must neither wait for the peer nor hold it up, least of all when the peer is in trouble.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

SILENCE_MAX_S = 10.0
"""A loop that writes nothing for so long hangs; longer than a garbage collection or a halted machine may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """executors: that are ready or at work. is_restored: its journal is read, or it has none. is_leaving: it takes no
    new work.
    """

    executors: int = 0
    is_restored: bool = False
    is_leaving: bool = False

    def missing(self) -> tuple[str, ...]:
        """Why it is not ready for work; nothing if it is."""
        reasons = (
            (not self.is_restored, "its journal is not read yet"),
            (self.executors < 1, "no executor is ready"),
            (self.is_leaving, "it is leaving"),
        )
        return tuple(reason for holds, reason in reasons if holds)


class HealthBoard:
    """`update` is for the peer's loop, at least every few seconds; the rest is for any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._health = Health()
        self._heard_s: float | None = None

    def update(self, health: Health) -> None:
        """How it is now; and the loop answers."""
        self._health = health
        self._heard_s = self._clock()

    @property
    def health(self) -> Health:
        return self._health

    def silence_s(self) -> float:
        """How long the loop has not answered; nothing before it has begun, because reading a journal may take long."""
        heard_s = self._heard_s
        return 0.0 if heard_s is None else max(0.0, self._clock() - heard_s)
