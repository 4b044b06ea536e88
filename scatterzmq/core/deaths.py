"""Deaths: whether this machine is to blame for the ends of its executors.

Rules     1. Executors that die of TASKS_MIN different tasks within SPAN_MS, while no batch ends, die of their machine:
             of a device or a driver that fails whatever runs on it.
          2. Batches that have tasks in common may have died of one of these: they count once.
          3. Then this peer claims nothing for a while. After that one executor tries: if it dies, too, the next while
             is twice as long; a batch that ends, ends all of it.
          4. That holds only while another peer can work (core/gossip.py). Where all are in trouble, it is the tasks
             that kill, and all go on, so that they come to their end.
"""

from collections.abc import Iterable

from ..ids import TaskId
from .outbox import Outbox

TASKS_MIN = 3
SPAN_MS = 600_000
FIRST_MS = 30_000
LONGEST_MS = 600_000


class Deaths:
    """What the executors of one peer have died of since a batch ended the last time."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._blamed: list[tuple[int, frozenset[TaskId]]] = []
        self._rest_ms = 0
        self._until_ms: int | None = None

    def died(self, tasks: Iterable[TaskId], now_ms: int) -> None:
        """An executor has died at work on these tasks."""
        if self._until_ms is not None:
            return
        self._blame(frozenset(tasks), now_ms)
        if self._rest_ms or len(self._blamed) >= TASKS_MIN:
            self._rest_ms = min(2 * self._rest_ms, LONGEST_MS) or FIRST_MS
            self._until_ms = now_ms + self._rest_ms
            message = f"{WARNING}: it takes no tasks for {self._rest_ms // 1000} s while another peer can"
            self._out.report("warning.executor.deaths", message=message)

    def _blame(self, tasks: frozenset[TaskId], now_ms: int) -> None:
        blamed = [known for known in self._blamed if known[0] > now_ms - SPAN_MS]
        same = next((known for known in blamed if known[1] & tasks), None)
        if same is not None:
            blamed.remove(same)
            tasks &= same[1]
        self._blamed = [*blamed, (now_ms, tasks)]

    def went_well(self) -> None:
        """A batch has ended."""
        if self._blamed:
            self._blamed, self._rest_ms, self._until_ms = [], 0, None

    @property
    def is_machine(self) -> bool:
        """Whether it seems to be the machine."""
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


WARNING = "executors here die whatever they work on, so look at this machine's devices and drivers"
