"""Punctual: how far this peer may trust its own clock when it finds others silent.

Rules     1. While this peer did not run, nobody was silent: what its own timer was late by is nobody's silence.
          2. A peer that is late again and again gives others more time (1 to 8 times), and less so when it is better.
          3. A halt of more than `pause_ms` is told: others may have taken over what this peer thinks it owns.
Why       After SIGSTOP, a swapped-out or a suspended machine would otherwise hold everybody else to be dead.
"""

from dataclasses import dataclass

FACTOR_MAX = 8


@dataclass(slots=True, eq=False)
class Punctual:
    """factor: by which this peer lengthens its patience. last_ms: when it ran last.

    paused_ms: for how long it has been halted, until somebody asks.
    """

    beat_ms: int
    pause_ms: int
    factor: int = 1
    last_ms: int = 0
    paused_ms: int = 0

    def slept_ms(self, now_ms: int, beat_due_ms: int) -> int:
        """Called whenever this peer runs (where nobody expects heartbeats it may sleep, and only `last_ms` is noted):
        for how long it should have run before, but did not. beat_due_ms: when its next heartbeat is due.
        """
        last, self.last_ms = self.last_ms, now_ms
        late = now_ms - max(last, beat_due_ms)
        if late < self.beat_ms // 4:
            return 0  # within what machines do all the time; not worth looking at every member
        if now_ms - last > self.pause_ms:
            self.paused_ms += now_ms - last
        return late

    def beaten(self, late_ms: int) -> None:
        """A heartbeat has been sent that was late by so much."""
        if late_ms > self.beat_ms // 2:
            self.factor = min(self.factor + 1, FACTOR_MAX)
        else:
            self.factor = max(self.factor - 1, 1)

    def take_pause_ms(self) -> int:
        """How long this peer has been halted since the last call; 0: it was not."""
        paused, self.paused_ms = self.paused_ms, 0
        return paused

    def check_invariants(self) -> None:
        assert 1 <= self.factor <= FACTOR_MAX
