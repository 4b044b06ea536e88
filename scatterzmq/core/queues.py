"""Queues: tasks that wait for one node at their owner, and which of them make the next batch.

Rules     1. A task waits in a queue at most once.
          2. Highest priority first, the older task first among equals; a solo task is handed out alone.
          3. With a budget of padded elements the first task decides, and tasks of similar length join it: the batch
             stays within the budget, and at least half of what is padded is data (one task always fits).
          4. With a budget of bytes the first tasks that fit into it make the batch (one always fits).
          5. The counters are exact at any time, and no operation looks at every waiting task.
          6. Of tasks of equal priority, those whose inputs lie with whoever takes the batch go first, then those whose
             inputs are here; but every few batches age alone counts, so that none waits for ever. Tasks are kept apart
             by where their inputs lie, so it takes a look at the top of one heap per peer.
Why       Removing from the middle of a heap costs a search, so `remove` only forgets the task: its entry turns
          stale and is skipped when it comes up. Stale entries never outnumber the waiting tasks.
          Adding and taking floats leaves crumbs; the counters are therefore whole numbers (of 2**-20).
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from operator import itemgetter
from typing import TypeAlias

from ..graph.plan import NodePlan, Plan
from ..ids import PeerId, QueueId, TaskId
from .pace import Pace

QueueKey: TypeAlias = tuple[bytes, QueueId]
"""(digest of the plan, queue id)"""

# One plain tuple per task, the same object in heap and index: small, quick to compare, and `is` tells stale from live.
_Entry: TypeAlias = tuple[float, int, TaskId, float, int, int]
"""(-priority, seq, task, weight, nbytes, padded_length); compares in the order in which tasks are handed out"""

_WEIGHT_UNITS = float(1 << 20)
_TASK = itemgetter(2)
_SOLO = -1
"""The bucket of tasks that are handed out alone."""
_BY_AGE_EVERY = 8
"""Every so many batches age alone counts."""
_Bucket: TypeAlias = int | PeerId
"""Where a task is kept: by its length, or with the peer that has its inputs."""


@dataclass(slots=True, eq=False)
class Queue:
    """The tasks that wait for one node.

    touched: gets the key of this queue whenever its numbers change. filled: has this queue as long as tasks are in it.
    pace: how long batches of the node take here, whoever owns the tasks. runs: whether its node can run here.
    results_stay: those of the last batch for others were large, and stayed here (or would have).
    sources: what a batch takes from the frame, by field. needed: the names there, each once.
    """

    plan: Plan
    node: NodePlan
    touched: dict[QueueKey, None] = field(default_factory=dict)
    filled: "dict[QueueKey, Queue]" = field(default_factory=dict)
    key: QueueKey = field(init=False)
    pace: Pace = field(default_factory=Pace, init=False)
    sources: dict[str, str] = field(init=False)
    needed: frozenset[str] = field(init=False)
    runs: bool = field(default=False, init=False)
    results_stay: bool = field(default=False, init=False)
    _by_length: bool = field(init=False)
    _waiting: dict[TaskId, _Entry] = field(default_factory=dict, init=False)
    _heaps: dict[_Bucket, list[_Entry]] = field(default_factory=lambda: defaultdict(list), init=False)
    _stale_count: int = field(default=0, init=False)
    _batches: int = field(default=0, init=False)
    _weight: int = field(default=0, init=False)
    _pressure: int = field(default=0, init=False)
    _expected_weight: int = field(default=0, init=False)
    _expected_nbytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.key = (self.plan.digest, self.node.queue)
        graph = self.plan.graphs[self.node.graph]
        # A block graph takes its whole input.
        self.sources = {name: f":{name}" for name in graph.input_format} if graph.is_block else dict(self.node.inputs)
        self.needed = frozenset(self.sources.values())
        self._by_length = self.node.batch_tokens is not None

    @property
    def length(self) -> int:
        return len(self._waiting)

    @property
    def weight(self) -> float:
        """Sum of the waiting tasks' weights."""
        return self._weight / _WEIGHT_UNITS

    @property
    def pressure(self) -> float:
        """Sum of weight * bytes over the waiting tasks."""
        return self._pressure / _WEIGHT_UNITS

    @property
    def expected_pressure(self) -> float:
        """Total weight * total bytes that running batches have announced."""
        return self._expected_weight * self._expected_nbytes / _WEIGHT_UNITS

    def __contains__(self, task: TaskId) -> bool:
        return task in self._waiting

    def push(
        self,
        task: TaskId,
        *,
        priority: float,
        weight: float,
        nbytes: int,
        padded_length: int,
        solo: bool,
        seq: int,
        lies_at: PeerId | None = None,
    ) -> None:
        """Let a task wait. O(log length).

        seq: its age; smaller is older. nbytes: of its newest fields.
        padded_length: its size along the dimension that batches are padded in; 0 if there is none.
        lies_at: the peer that keeps its inputs; None if they are here.
        """
        assert task not in self._waiting, f"rule 1: {task} waits in {self.node.name} already"
        assert priority == priority, f"the priority of {task} is not a number, which no heap can order"
        units = int(weight * _WEIGHT_UNITS)
        entry = (-priority, seq, task, weight, nbytes, padded_length)
        self._waiting[task] = entry
        self._weight += units
        self._pressure += units * nbytes
        bucket: _Bucket = _SOLO if solo else _bucket(padded_length) if self._by_length else lies_at or 0
        heapq.heappush(self._heaps[bucket], entry)
        self.filled[self.key] = self
        self.touched[self.key] = None

    def remove(self, task: TaskId) -> bool:
        """Take one task out, wherever it stands; False if it does not wait here. O(1) amortised."""
        entry = self._waiting.get(task)
        if entry is None:
            return False
        self._stale_count += 1
        self._forget([entry])
        return True

    def pop_batch(
        self, max_tasks: int, max_tokens: int | None, near: PeerId | None = None, max_bytes: int | None = None
    ) -> tuple[TaskId, ...]:
        """The next batch, () if nothing waits. O(batch log length).

        max_tokens: bounds tasks * longest padded_length (rule 3). Only the queue of a node with `batch_tokens` is kept
            by length; any other fills its batches in order of priority, within the budget.
        near: the peer that takes it; None: we do. (Where tasks are kept by length, that counts for more.)
        max_bytes: of their newest fields (rule 4).
        """
        assert max_tasks > 0, f"a batch of {max_tasks} tasks"
        first = self._first_bucket()
        if first is None:
            return ()
        if first == _SOLO:
            taken = [heapq.heappop(self._heaps[_SOLO])]
        elif max_tokens is None:
            taken = self._take_by_priority(max_tasks, near, max_bytes)
        else:
            assert isinstance(first, int), "kept by where its inputs lie, and taken by length"
            taken = self._take_by_length(first, max_tasks, max_tokens, max_bytes)
        self._forget(taken)
        return tuple(map(_TASK, taken))

    def expect(self, weight: float, nbytes: int) -> None:
        """A running batch announces tasks for this queue: their total weight and bytes."""
        self._expected_weight += int(weight * _WEIGHT_UNITS)
        self._expected_nbytes += nbytes
        self.touched[self.key] = None

    def unexpect(self, weight: float, nbytes: int) -> None:
        """The batch has ended: take back exactly what it announced."""
        self._expected_weight -= int(weight * _WEIGHT_UNITS)
        self._expected_nbytes -= nbytes
        self.touched[self.key] = None
        assert self._expected_nbytes >= 0, f"{self.node.name}: more was taken back than announced"

    def check_invariants(self) -> None:
        """Recount everything. O(length)."""
        waiting = self._waiting
        assert (self.key in self.filled) == bool(waiting)
        weights = {task: int(entry[3] * _WEIGHT_UNITS) for task, entry in waiting.items()}
        assert self._weight == sum(weights.values())
        assert self._pressure == sum(weights[task] * entry[4] for task, entry in waiting.items())
        assert all(entry[2] == task for task, entry in waiting.items())
        live = [entry[2] for heap in self._heaps.values() for entry in heap if waiting.get(entry[2]) is entry]
        assert sorted(live) == sorted(waiting), "every waiting task is in exactly one heap"
        assert self._stale_count == sum(map(len, self._heaps.values())) - len(live)
        assert self._stale_count <= len(waiting)
        for bucket, heap in self._heaps.items():
            assert all(heap[(at - 1) // 2] <= heap[at] for at in range(1, len(heap))), f"bucket {bucket} is no heap"
            assert bucket == _SOLO or not self._by_length or all(_bucket(entry[5]) == bucket for entry in heap)

    def _first_bucket(self) -> _Bucket | None:
        """The bucket with the most urgent task on top (no longer stale)."""
        first: _Bucket | None = None
        head: _Entry | None = None
        for bucket, heap in self._heaps.items():
            while heap and self._waiting.get(heap[0][2]) is not heap[0]:
                self._drop_stale(heap)
            if heap and (head is None or heap[0] < head):
                first, head = bucket, heap[0]
        return first

    def _take_by_priority(self, max_tasks: int, near: PeerId | None, max_bytes: int | None) -> list[_Entry]:
        waiting = self._waiting
        heaps = []
        for bucket, heap in self._heaps.items():
            if bucket != _SOLO and heap:
                heaps.append(heap)
        preferred: list[list[_Entry]] = []
        if len(heaps) > 1 and not self._by_length:
            self._batches += 1
            if self._batches % _BY_AGE_EVERY:
                preferred = [self._heaps[bucket] for bucket in (near or 0, 0) if bucket in self._heaps]
        taken: list[_Entry] = []
        room = inf if max_bytes is None else max_bytes
        while heaps and len(taken) < max_tasks:
            heap = heaps[0] if len(heaps) == 1 else self._next_heap(heaps, preferred)
            if waiting.get(heap[0][2]) is heap[0]:
                room -= heap[0][4]
                if taken and room < 0:
                    break
                taken.append(heapq.heappop(heap))
            else:
                self._drop_stale(heap)
            if not heap:
                heaps = list(filter(None, heaps))
        # Peers come and go, and each that ever made something would leave a heap.
        empty = []
        for bucket, heap in self._heaps.items():
            if not heap:
                empty.append(bucket)
        for bucket in empty:
            del self._heaps[bucket]
        return taken

    def _next_heap(self, heaps: list[list[_Entry]], preferred: list[list[_Entry]]) -> list[_Entry]:
        """The heap with the best task on top; among equally good ones a preferred one."""
        best = min(heaps)  # lists compare by their first entries, the tops
        return next((heap for heap in preferred if heap and heap[0][0] <= best[0][0]), best)

    def _take_by_length(self, first: int, max_tasks: int, max_tokens: int, max_bytes: int | None) -> list[_Entry]:
        taken: list[_Entry] = []
        room = inf if max_bytes is None else max_bytes
        longest = total = 0
        for heap in self._nearest_heaps(first):
            while heap and len(taken) < max_tasks:
                entry = heap[0]
                if self._waiting.get(entry[2]) is not entry:
                    self._drop_stale(heap)
                    continue
                padded = (len(taken) + 1) * max(longest, entry[5])
                if taken and (padded > max_tokens or padded > 2 * (total + entry[5]) or entry[4] > room):
                    break
                taken.append(heapq.heappop(heap))
                room -= entry[4]
                longest = max(longest, entry[5])
                total += entry[5]
            if len(taken) == max_tasks or (len(taken) + 1) * longest > max_tokens:
                break
        return taken

    def _nearest_heaps(self, first: int) -> Iterator[list[_Entry]]:
        """The first bucket's heap, then the others by distance, the shorter before the longer one."""
        yield self._heaps[first]
        lengths = [bucket for bucket in self._heaps if isinstance(bucket, int)]
        others = sorted(bucket for bucket in lengths if bucket not in (first, _SOLO))
        for bucket in sorted(others, key=lambda other: abs(other - first)):
            yield self._heaps[bucket]

    def _forget(self, entries: list[_Entry]) -> None:
        weight = pressure = 0
        for _, _, task, task_weight, nbytes, _ in entries:
            del self._waiting[task]
            units = int(task_weight * _WEIGHT_UNITS)
            weight += units
            pressure += units * nbytes
        self._weight -= weight
        self._pressure -= pressure
        self.touched[self.key] = None
        if not self._waiting:
            self.filled.pop(self.key, None)
        if self._stale_count > len(self._waiting):
            self._sweep()

    def _drop_stale(self, heap: list[_Entry]) -> None:
        heapq.heappop(heap)
        self._stale_count -= 1

    def _sweep(self) -> None:
        """Rebuild the heaps without stale entries: as many go as stay, so each has paid for it when it turned stale."""
        for bucket, heap in list(self._heaps.items()):
            live = [entry for entry in heap if self._waiting.get(entry[2]) is entry]
            if live:
                heapq.heapify(live)
                self._heaps[bucket] = live
            else:
                del self._heaps[bucket]
        self._stale_count = 0


def _bucket(padded_length: int) -> int:
    """Which heap: one per length below 8, above that four per power of two, so that lengths in one differ by < 25 %."""
    shift = max(padded_length.bit_length() - 3, 0)
    return (shift << 2) + (padded_length >> shift)
