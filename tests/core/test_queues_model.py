"""The queue against a list that is searched and sorted anew each time."""

from dataclasses import dataclass
from itertools import accumulate

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scatterzmq.core.queues import Queue, _bucket
from scatterzmq.ids import TaskId
from tests.core.test_queues import make_queue

TASKS = [TaskId(f"T{number:032x}") for number in range(12)]


@dataclass(frozen=True)
class Waiting:
    priority: float
    seq: int
    weight: float
    nbytes: int
    length: int
    solo: bool

    @property
    def order(self) -> tuple[float, int]:
        return (-self.priority, self.seq)


class QueueMachine(RuleBasedStateMachine):
    """Weights are multiples of 1/4, so that the model's sums are exact."""

    queue: Queue

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[TaskId, Waiting] = {}
        self.expected: list[tuple[float, int]] = []
        self.seq = 0

    @initialize(batch_tokens=st.sampled_from([None, 64]))
    def make(self, batch_tokens: int | None) -> None:
        self.queue = make_queue(batch_tokens)

    @rule(
        task=st.sampled_from(TASKS),
        priority=st.sampled_from([0.5, 1.0, 1.0, 2.0]),
        weight=st.integers(-8, 64).map(lambda quarters: quarters / 4),
        nbytes=st.integers(0, 1000),
        length=st.integers(0, 40),
        solo=st.integers(0, 9).map(lambda die: die > 7),
        older=st.booleans(),
    )
    def push(
        self, task: TaskId, priority: float, weight: float, nbytes: int, length: int, solo: bool, older: bool
    ) -> None:
        self.remove(task)
        self.seq += 1
        seq = -self.seq if older else self.seq
        self.queue.push(task, priority=priority, weight=weight, nbytes=nbytes, padded_length=length, solo=solo, seq=seq)
        self.model[task] = Waiting(priority, seq, weight, nbytes, length, solo)

    @rule(task=st.sampled_from(TASKS))
    def remove(self, task: TaskId) -> None:
        assert self.queue.remove(task) == (self.model.pop(task, None) is not None)

    @rule(max_tasks=st.integers(1, 6), max_bytes=st.none() | st.integers(0, 2000))
    def pop_by_priority(self, max_tasks: int, max_bytes: int | None) -> None:
        batch = self.queue.pop_batch(max_tasks, None, max_bytes=max_bytes)
        assert list(batch) == self.within(max_bytes, self.most_urgent(max_tasks))
        self.forget(batch)

    @rule(max_tasks=st.integers(1, 6), max_tokens=st.integers(1, 120))
    def pop_within_budget(self, max_tasks: int, max_tokens: int) -> None:
        batch = self.queue.pop_batch(max_tasks, max_tokens)
        assert list(batch) == self.most_alike(max_tasks, max_tokens)
        lengths = [self.model[task].length for task in batch]
        if len(batch) > 1:
            assert len(lengths) * max(lengths) <= min(max_tokens, 2 * sum(lengths))
        self.forget(batch)

    @rule(weight=st.integers(0, 64).map(lambda quarters: quarters / 4), nbytes=st.integers(0, 1000))
    def expect(self, weight: float, nbytes: int) -> None:
        self.queue.expect(weight, nbytes)
        self.expected.append((weight, nbytes))

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def unexpect(self, data: st.DataObject) -> None:
        self.queue.unexpect(*self.expected.pop(data.draw(st.integers(0, len(self.expected) - 1))))

    @invariant()
    def the_counters_are_right(self) -> None:
        if not hasattr(self, "queue"):
            return
        waiting = self.model.values()
        assert self.queue.length == len(waiting)
        assert self.queue.weight == sum(task.weight for task in waiting)
        assert self.queue.pressure == sum(task.weight * task.nbytes for task in waiting)
        weight = sum(weight for weight, _ in self.expected)
        nbytes = sum(nbytes for _, nbytes in self.expected)
        assert self.queue.expected_pressure == weight * nbytes
        assert all((task in self.queue) == (task in self.model) for task in TASKS)
        self.queue.check_invariants()

    def most_urgent(self, max_tasks: int) -> list[TaskId]:
        order = sorted(self.model, key=lambda task: self.model[task].order)
        if not order or self.model[order[0]].solo:
            return order[:1]
        return [task for task in order if not self.model[task].solo][:max_tasks]

    def within(self, max_bytes: int | None, tasks: list[TaskId]) -> list[TaskId]:
        """The first of them that fit, and one in any case."""
        sums = accumulate(self.model[task].nbytes for task in tasks)
        return [
            task
            for place, (task, nbytes) in enumerate(zip(tasks, sums, strict=True))
            if not place or max_bytes is None or nbytes <= max_bytes
        ]

    def most_alike(self, max_tasks: int, max_tokens: int) -> list[TaskId]:
        """Bucket by bucket away from the most urgent task's; a bucket is left at the first task that does not fit."""
        taken = self.most_urgent(1)
        if not taken or self.model[taken[0]].solo:
            return taken
        first = self.bucket(taken[0])
        others = [task for task in self.most_urgent(len(self.model)) if task not in taken]
        buckets = sorted({self.bucket(task) for task in others}, key=lambda other: (abs(other - first), other))
        for bucket in buckets:
            for task in others:
                lengths = [self.model[each].length for each in (*taken, task)]
                if self.bucket(task) != bucket:
                    continue
                if len(taken) == max_tasks or len(lengths) * max(lengths) > min(max_tokens, 2 * sum(lengths)):
                    break
                taken.append(task)
        return taken

    def bucket(self, task: TaskId) -> int:
        return 0 if self.queue.node.batch_tokens is None else _bucket(self.model[task].length)

    def forget(self, batch: tuple[TaskId, ...]) -> None:
        for task in batch:
            del self.model[task]


TestQueueModel = QueueMachine.TestCase
TestQueueModel.settings = settings(max_examples=30, stateful_step_count=40, derandomize=True, deadline=None)
