"""Deaths: whether this machine may be to blame for the ends of its executors.

Rules     1. When LIMIT executors have died within SPAN_MS, and no batch has ended between, this peer claims nothing for
             a while. After that one executor tries: if it dies, too, the next while is twice as long; a batch that
             ends, ends all of it.
          2. That holds only while another peer can work (core/gossip.py). Where all are in trouble, it is the tasks
             that kill, and all go on, so that these come to their end.
Why       A device or a driver may fail whatever runs on it, and who fails at once always has time for more: it would
          take all tasks there are, and they would be held to be poison. One task that kills counts as well: LIMIT is
          below what makes it poison, so that another peer has the last word about it, if one has time for it.
"""

from .outbox import Outbox

LIMIT = 3
SPAN_MS = 600_000
FIRST_MS = 30_000
LONGEST_MS = 600_000


class Deaths:
    """How many executors of one peer have died since a batch ended the last time."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._died_ms: list[int] = []
        self._rest_ms = 0
        self._until_ms: int | None = None

    def died(self, now_ms: int) -> None:
        """An executor has died at work."""
        if self._until_ms is not None:
            return
        self._died_ms = [died_ms for died_ms in self._died_ms if died_ms > now_ms - SPAN_MS] + [now_ms]
        if self._rest_ms or len(self._died_ms) >= LIMIT:
            self._rest_ms = min(2 * self._rest_ms, LONGEST_MS) or FIRST_MS
            self._until_ms = now_ms + self._rest_ms
            self._out.report("warning.executor.deaths", message=WARNING, rest_s=self._rest_ms / 1000)

    def went_well(self) -> None:
        """A batch has ended."""
        if self._died_ms:
            self._died_ms, self._rest_ms, self._until_ms = [], 0, None

    @property
    def suspects(self) -> bool:
        """Whether it may be this machine."""
        return self._rest_ms > 0

    @property
    def is_resting(self) -> bool:
        """Whether not even one executor should try."""
        return self._until_ms is not None

    def awake_max(self, executors: int) -> int:
        """How many of its executors should work, as long as others can."""
        if self._until_ms is not None:
            return 0
        return 1 if self._rest_ms else executors

    def expire(self, now_ms: int) -> None:
        """Let one try again in time."""
        if self._until_ms is not None and self._until_ms <= now_ms:
            self._until_ms = None

    def deadline_ms(self) -> int | None:
        return self._until_ms


WARNING = (
    "executors die here one after another, so as long as other peers can work this one takes no tasks for a while; if "
    "it is not always the same node, look at this machine's devices and drivers"
)
