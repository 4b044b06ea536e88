"""Clocks of simulated processes: each starts somewhere, runs at its own rate, and may jump forward."""

from dataclasses import dataclass

RATE_ONE = 1024
"""The rate of a clock that is right."""


@dataclass(slots=True)
class PeerClock:
    """base_us: time of the world when it started. offset_ms: what it showed then, and all jumps since."""

    base_us: int
    offset_ms: int = 0
    rate: int = RATE_ONE

    def now_ms(self, world_us: int) -> int:
        return self.offset_ms + (world_us - self.base_us) * self.rate // (RATE_ONE * 1000)

    def world_us(self, at_ms: int) -> int:
        """The first moment at which this clock shows at least `at_ms`."""
        return self.base_us - (-(at_ms - self.offset_ms) * RATE_ONE * 1000 // self.rate)

    def jump(self, ms: int) -> None:
        self.offset_ms += ms
