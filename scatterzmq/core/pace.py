"""Pace: how long batches of a node take the executors of this peer.

Rules     1. A batch takes some time however small it is, and then so much per task: a line through what was measured,
             by least squares, where each batch counts less than the one after it.
          2. Batches of one size say nothing of the slope. As long as there are no others all time is taken to be the
             tasks'; so where a smaller batch takes as long as a full one, that is found out by the first one.
          3. The first batch may have had to load the node: it counts until there is a second one.
          4. `task_us` is what others are told: it changes when it is wrong by a quarter, so that it is seldom told.
"""

from dataclasses import dataclass

from .shares import BATCH_MS_MIN

_FADES = 0.75
"""What a batch counts when the next one comes."""
_ORIGIN = 0.02
"""What a batch of no tasks that takes no time counts (rule 2)."""
_TOLERANCE = 1.25


@dataclass(slots=True)
class Pace:
    """task_us: what a task takes in batches as they are, at least 1; 0: not known yet."""

    task_us: int = 0
    _batches: int = 0
    _weight: float = 0.0
    _tasks: float = 0.0
    _ms: float = 0.0
    _tasks_tasks: float = 0.0
    _tasks_ms: float = 0.0

    def note(self, tasks: int, ms: int) -> None:
        """A batch has taken so long."""
        fades = _FADES if self._batches != 1 else 0.0
        self._batches += 1
        self._weight = self._weight * fades + 1
        self._tasks = self._tasks * fades + tasks
        self._ms = self._ms * fades + ms
        self._tasks_tasks = self._tasks_tasks * fades + tasks * tasks
        self._tasks_ms = self._tasks_ms * fades + tasks * ms
        task_us = max(round(1000 * self._ms / self._tasks), 1)
        if not self.task_us / _TOLERANCE <= task_us <= self.task_us * _TOLERANCE:
            self.task_us = task_us

    @property
    def one_more_ms(self) -> float:
        """How much longer a batch takes with one more task."""
        if not self._batches:
            return 0.0
        weight = self._weight + _ORIGIN
        slope = weight * self._tasks_ms - self._tasks * self._ms
        slope /= weight * self._tasks_tasks - self._tasks * self._tasks
        return min(max(slope, 0.0), self._ms / self._tasks)

    def tasks_min(self, tasks_max: int) -> int:
        """How many tasks a batch should have at least, if there are so many; a full one where nothing is known."""
        one_more_ms = self.one_more_ms
        if one_more_ms * tasks_max <= BATCH_MS_MIN:
            return tasks_max
        return max(int(BATCH_MS_MIN / one_more_ms), 1)
