"""Which fields are in a task's frame at which node, and which of them somebody downstream still reads.

Nodes and the names in a frame are numbered; a set of names is an int with one bit per name, so that a step of the
analysis is one operation however many names there are. The graph may have cycles: all answers are fixpoints.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush


@dataclass(frozen=True, slots=True)
class Way:
    """An edge that tasks can take.

    may / must: names it can put / always puts into the frame. kills: names of which it makes an older value useless.
    """

    source: int
    target: int
    may: int
    must: int
    kills: int


@dataclass(frozen=True)
class Flow:
    """One graph, without what no task can reach. Tasks start at node 0.

    Number the nodes in the order in which tasks tend to reach them: then each is looked at about once.
    start: names that are in the frame at first. reads: per node, the names it reads; the graph's end is a node too and
    reads the outputs.
    """

    start: int
    reads: Sequence[int]
    ways: Sequence[Way]

    @cached_property
    def may_have(self) -> list[int]:
        """Per node, the names that some task has on arrival."""
        return self._onward(lambda here, way: here | way.may)

    @cached_property
    def must_have(self) -> list[int]:
        """Per node, the names that every task has on arrival."""
        # The names that some task lacks spread just like those that some task has.
        every = self.start
        for way in self.ways:
            every |= way.may | way.must
        lacking = self._onward(lambda here, way: here & ~way.must, every & ~self.start)
        return [every & ~names for names in lacking]

    @cached_property
    def live(self) -> list[int]:
        """Per node, the names that it or a node after it reads before they are put there anew."""
        live = list(self.reads)
        arriving: list[list[Way]] = [[] for _ in self.reads]
        for way in self.ways:
            arriving[way.target].append(way)
        todo = _Agenda(range(-len(live) + 1, 1))  # Last node first.
        for number in todo:
            for way in arriving[-number]:
                new = live[way.source] | (live[-number] & ~way.kills)
                if new != live[way.source]:
                    live[way.source] = new
                    todo.add(-way.source)
        return live

    @cached_property
    def drops(self) -> list[int]:
        """Per way, the names that may be in the frame of a task that leaves by it and that nobody reads any more."""
        live = self.live
        kept = self._onward(lambda here, way: (here | way.may) & live[way.target])
        return [(kept[way.source] | way.may) & ~live[way.target] for way in self.ways]

    def _onward(self, step: Callable[[int, Way], int], start: int | None = None) -> list[int]:
        """The least sets for which each way's target has what `step` makes of its source's."""
        leaving: list[list[Way]] = [[] for _ in self.reads]
        for way in self.ways:
            leaving[way.source].append(way)
        have = [0] * len(self.reads)
        have[0] = self.start if start is None else start
        todo = _Agenda(range(len(have)))
        for node in todo:
            for way in leaving[node]:
                new = have[way.target] | step(have[node], way)
                if new != have[way.target]:
                    have[way.target] = new
                    todo.add(way.target)
        return have


class _Agenda:
    """Numbers to look at, smallest first, each at most once at a time."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._heap = list(numbers)
        self._waiting = set(self._heap)
        heapify(self._heap)

    def __iter__(self) -> "_Agenda":
        return self

    def __next__(self) -> int:
        if not self._heap:
            raise StopIteration
        number = heappop(self._heap)
        self._waiting.remove(number)
        return number

    def add(self, number: int) -> None:
        if number not in self._waiting:
            self._waiting.add(number)
            heappush(self._heap, number)
