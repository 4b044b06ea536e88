"""Executors: who of this peer's executors is free, what each has loaded, and which node it takes next.

Rules     1. An executor is idle or at work on one batch, of this peer or of another.
          2. A node that is not thread-safe is worked at by one executor at a time: a second one would only wait, and be
             held to hang.
          3. A strategy that fails is reported once and replaced.
          4. Where it may be the machine that kills executors, they rest (core/deaths.py), and are not idle.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..graph.plan import NodePlan
from ..ids import ExecutorId, QueueId
from .deaths import Deaths
from .events import BatchFinished
from .outbox import Outbox
from .queues import Queue, QueueKey
from .strategy import NodeStrategy, NodeView, SimpleNodeStrategy, StrategyFailed, choose


@dataclass(slots=True, eq=False)
class Slot:
    """One executor: the queue it works for (or did last), whether it does now (since when), and what its process has
    loaded."""

    own: QueueKey | None = None
    busy: bool = False
    since_ms: int = 0
    loaded: frozenset[tuple[bytes, QueueId]] = frozenset()


class Executors:
    """The executors of one peer. loaded / at_work: how many have a node loaded / work at it now.

    resting: those that have nothing to do, and shall not. touched: gets the queues of which others are to be told
    something new.
    """

    def __init__(self, out: Outbox, strategy: NodeStrategy, touched: dict[QueueKey, None]) -> None:
        self._touched = touched
        self._out = out
        self._strategy = strategy
        self.slots: dict[ExecutorId, Slot] = {}
        self.idle: dict[ExecutorId, None] = {}
        self.resting: dict[ExecutorId, None] = {}
        self.deaths = Deaths(out)
        self.loaded: Counter[QueueKey] = Counter()
        self.at_work: Counter[QueueKey] = Counter()

    def started(self, executor: ExecutorId) -> None:
        assert executor not in self.slots
        self.slots[executor] = Slot()
        self.idle[executor] = None
        self._out.report("tally.executor.start", executor=executor)

    def remove(self, executor: ExecutorId) -> bool:
        """It is gone. False if it was already."""
        slot = self.slots.pop(executor, None)
        if slot is None:
            return False
        self.idle.pop(executor, None)
        self.resting.pop(executor, None)
        self._touch(slot.loaded)
        subtract(self.loaded, slot.loaded)
        if slot.busy:
            assert slot.own is not None
            subtract(self.at_work, (slot.own,))
        return True

    def limit(self, *, others_work: bool) -> None:
        """Let executors rest, or wake them up. others_work: whether another peer can run what these leave."""
        most = len(self.slots)
        if others_work:
            most = self.deaths.awake_max(most)
        awake = most - self._awake
        for executor in [*self.resting][: max(awake, 0)]:
            del self.resting[executor]
            self.idle[executor] = None
        for executor in [*self.idle][: max(-awake, 0)]:
            del self.idle[executor]
            self.resting[executor] = None

    @property
    def _awake(self) -> int:
        return len(self.slots) - len(self.resting)

    @property
    def usable(self) -> bool:
        """Whether there are any that are not suspected to die of whatever they get."""
        return bool(self.slots) and not self.deaths.is_resting

    def at_work_on(self, executor: ExecutorId) -> QueueKey | None:
        """Whose batch it has; None if it is idle or gone."""
        slot = self.slots.get(executor)
        return slot.own if slot is not None and slot.busy else None

    def occupy(self, executor: ExecutorId, key: QueueKey) -> None:
        """It begins with a batch."""
        slot = self.slots[executor]
        slot.own, slot.busy = key, True
        del self.idle[executor]
        self.at_work[key] = self.at_work.get(key, 0) + 1

    def release(self, executor: ExecutorId, loaded: tuple[tuple[bytes, QueueId], ...] | None) -> None:
        """It is through with its batch. loaded: what its process has loaded now; None if that is as before."""
        slot = self.slots[executor]
        assert slot.busy
        assert slot.own is not None
        slot.busy = False
        self.idle[executor] = None
        subtract(self.at_work, (slot.own,))
        if loaded is not None:
            self._touch(slot.loaded)
            self._touch(loaded)
            subtract(self.loaded, slot.loaded)
            slot.loaded = frozenset(loaded)
            self.loaded.update(slot.loaded)

    def begins(self, executor: ExecutorId, now_ms: int) -> None:
        """What its batch needs is there: it is at work from now on."""
        self.slots[executor].since_ms = now_ms

    def measured(self, event: BatchFinished, queue: Queue, tasks: int, now_ms: int) -> None:
        """It is through with so many tasks of a queue, alive. Who fails may do so early, and is not measured."""
        self.deaths.went_well()
        if not (event.failed or event.missing):
            queue.pace.note(tasks, now_ms - self.slots[event.executor].since_ms)
            self._touched[queue.key] = None

    def _touch(self, keys: Iterable[QueueKey]) -> None:
        self._touched.update(dict.fromkeys(sorted(keys)))

    def may_run(self, key: QueueKey, node: NodePlan) -> bool:
        """Whether another batch of a node may run beside those that do (rule 2)."""
        return node.thread_safe or not self.at_work[key]

    def able(self, node: NodePlan) -> int:
        """How many executors can work for a node at the same time."""
        return self._awake if node.thread_safe else min(self._awake, 1)

    def choose(self, executor: ExecutorId, views: Sequence[NodeView]) -> QueueKey:
        """Which of several queues with tasks an executor works for next."""
        if len(views) == 1:
            return views[0].key
        last = self.slots[executor].own
        own = next((view for view in views if view.key == last), None)
        try:
            chosen = choose(self._strategy, views, own)
        except StrategyFailed as failed:
            self._out.report("warning.strategy.node", message=str(failed))
            self._strategy = SimpleNodeStrategy()
            chosen = choose(self._strategy, views, own)
        assert chosen is not None
        return chosen.key

    def check_invariants(self) -> None:
        assert not self.idle.keys() & self.resting.keys()
        assert self.idle | self.resting == {executor: None for executor, slot in self.slots.items() if not slot.busy}
        assert self.at_work == Counter(slot.own for slot in self.slots.values() if slot.busy)
        assert self.loaded == Counter(key for slot in self.slots.values() for key in sorted(slot.loaded))


def subtract(counts: Counter[QueueKey], keys: Iterable[QueueKey]) -> None:
    """Count each key once less. What is at zero goes, so that old definitions leave nothing behind."""
    for key in keys:
        left = counts[key] - 1
        if left:
            counts[key] = left
        else:
            counts.pop(key)  # `del` of a Counter is no built-in
