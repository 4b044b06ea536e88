"""Scripts first, then the bounds on garbage and the queue by length. The fixtures check the invariants after a test."""

from collections.abc import Iterator

import pytest

from scatterzmq.core.queues import Queue, _bucket
from scatterzmq.graph.plan import GraphPlan, NodePlan, Plan
from scatterzmq.ids import GraphId, NodeId, PeerId, QueueId, TaskId


def make_queue(batch_tokens: int | None) -> Queue:
    graph = GraphId.of("ns", "main")
    node = NodePlan(
        id=NodeId.of("ns", "main", "node"),
        name="node",
        graph=graph,
        queue=QueueId.of("ns", "main", "node"),
        kind="kind",
        args={},
        inputs={},
        input_format={},
        outputs={},
        weight=1.0,
        load_cost=1.0,
        pure=True,
        cache=False,
        closure=b"",
        batch_tokens=batch_tokens,
    )
    main = GraphPlan(
        id=graph,
        name="main",
        description="",
        first=node.id,
        first_queue=node.queue,
        input_format={},
        output_format={},
        outputs={},
        nodes={node.id: node},
        pure=True,
        cache=False,
        is_block=False,
        closure=b"",
        below=frozenset(),
    )
    plan = Plan(
        ns="ns",
        entry=graph,
        digest=b"digest",
        definition="",
        graphs={graph: main},
        queues={node.queue: node},
        digests=False,
    )
    return Queue(plan, node)


@pytest.fixture
def queue() -> Iterator[Queue]:
    made = make_queue(None)
    yield made
    made.check_invariants()


@pytest.fixture
def by_length() -> Iterator[Queue]:
    made = make_queue(1024)
    yield made
    made.check_invariants()


def task(number: int) -> TaskId:
    return TaskId(f"T{number:032x}")


def push(queue: Queue, *numbers: int, priority: float = 1.0, length: int = 0, solo: bool = False) -> None:
    """Tasks of weight 2 and 10 bytes; their number is their age."""
    for number in numbers:
        queue.push(task(number), priority=priority, weight=2.0, nbytes=10, padded_length=length, solo=solo, seq=number)


def pop(queue: Queue, max_tasks: int = 100, max_tokens: int | None = None) -> list[int]:
    return [int(popped[1:], 16) for popped in queue.pop_batch(max_tasks, max_tokens)]


def test_the_key_tells_plans_apart(queue: Queue) -> None:
    assert queue.key == (b"digest", QueueId.of("ns", "main", "node"))


def test_an_empty_queue_has_nothing_to_do(queue: Queue) -> None:
    assert pop(queue) == []
    assert (queue.length, queue.weight, queue.pressure, queue.expected_pressure) == (0, 0.0, 0.0, 0.0)


def test_higher_priority_first_then_the_older_task(queue: Queue) -> None:
    push(queue, 3, 1, 2)
    push(queue, 9, 8, priority=5.0)
    push(queue, 0, priority=0.5)
    assert pop(queue) == [8, 9, 1, 2, 3, 0]


def test_a_batch_has_at_most_as_many_tasks_as_asked_for(queue: Queue) -> None:
    push(queue, 1, 2, 3)
    assert pop(queue, max_tasks=2) == [1, 2]
    assert pop(queue, max_tasks=2) == [3]


@pytest.mark.parametrize("max_tokens", [None, 1024])
def test_a_batch_stays_within_its_bytes(max_tokens: int | None) -> None:
    """The first task goes however large it is; what comes after one that does not fit waits with it."""
    queue = make_queue(max_tokens)
    for number, nbytes in enumerate((500, 60, 41, 20, 10)):
        queue.push(task(number), priority=1.0, weight=1.0, nbytes=nbytes, padded_length=5, solo=False, seq=number)

    def pop_bytes(max_tasks: int = 10) -> list[int]:
        return [int(popped[1:], 16) for popped in queue.pop_batch(max_tasks, max_tokens, max_bytes=100)]

    assert [pop_bytes(), pop_bytes(), pop_bytes(2), pop_bytes(), pop_bytes()] == [[0], [1], [2, 3], [4], []]
    queue.check_invariants()


def test_the_counters_follow_every_step(queue: Queue) -> None:
    push(queue, 1, 2, 3)
    assert (queue.length, queue.weight, queue.pressure) == (3, 6.0, 60.0)
    assert queue.remove(task(2))
    assert (queue.length, queue.weight, queue.pressure) == (2, 4.0, 40.0)
    pop(queue, max_tasks=1)
    assert (queue.length, queue.weight, queue.pressure) == (1, 2.0, 20.0)


def test_adding_and_taking_leaves_no_crumbs(queue: Queue) -> None:
    """With floats, 0.1 + 0.2 + 0.3 - 0.2 - 0.1 - 0.3 is not 0, and a huge weight swallows the small ones."""
    for number, weight in enumerate((0.1, 1e15, 0.2, 0.3)):
        queue.push(task(number), priority=1.0, weight=weight, nbytes=7, padded_length=0, solo=False, seq=number)
    queue.remove(task(1))
    assert queue.weight == pytest.approx(0.6, abs=1e-5)
    assert queue.pressure == pytest.approx(4.2, abs=1e-4)
    queue.remove(task(2))
    queue.remove(task(0))
    pop(queue)
    assert (queue.weight, queue.pressure) == (0.0, 0.0)


def test_expected_pressure_is_total_weight_times_total_bytes(queue: Queue) -> None:
    queue.expect(1.5, 100)
    queue.expect(0.1, 10)
    assert queue.expected_pressure == pytest.approx(1.6 * 110, rel=1e-5)
    queue.unexpect(1.5, 100)
    assert queue.expected_pressure == pytest.approx(0.1 * 10, rel=1e-5)
    queue.unexpect(0.1, 10)
    assert queue.expected_pressure == 0.0


def test_taking_back_more_than_announced_is_a_bug(queue: Queue) -> None:
    queue.expect(1.0, 10)
    with pytest.raises(AssertionError, match="node: more was taken back"):
        queue.unexpect(1.0, 11)


def test_a_removed_task_is_gone_at_once(queue: Queue) -> None:
    push(queue, 1, 2)
    assert task(1) in queue
    assert queue.remove(task(1))
    assert task(1) not in queue
    assert not queue.remove(task(1))
    assert pop(queue) == [2]
    assert not queue.remove(task(2))


def test_a_task_that_comes_back_has_only_its_new_place(queue: Queue) -> None:
    push(queue, 1, 2, 3, 4)
    queue.remove(task(1))
    push(queue, 1, priority=0.5)
    assert pop(queue) == [2, 3, 4, 1]


def test_a_task_that_comes_back_to_the_same_place_is_handed_out_once(queue: Queue) -> None:
    push(queue, 1, 2, 3)
    queue.remove(task(1))
    push(queue, 1)
    assert pop(queue) == [1, 2, 3]
    assert pop(queue) == []


@pytest.mark.parametrize("max_tokens", [None, 1000])
def test_a_task_that_comes_back_further_down_has_only_its_new_place(by_length: Queue, max_tokens: int | None) -> None:
    push(by_length, 1, 2, 3, 4, length=100)
    by_length.remove(task(2))
    push(by_length, 2, priority=0.5, length=100)
    assert pop(by_length, 3, max_tokens) == [1, 3, 4]
    assert pop(by_length, 3, max_tokens) == [2]


def test_a_removed_task_decides_nothing_any_more(by_length: Queue) -> None:
    push(by_length, 0, length=1000)
    push(by_length, 1, solo=True)
    push(by_length, 2, length=10)
    push(by_length, 3, length=1000)
    by_length.remove(task(0))
    by_length.remove(task(1))
    assert pop(by_length, max_tasks=1, max_tokens=1000) == [2]
    assert pop(by_length, max_tasks=1, max_tokens=1000) == [3]


def test_a_task_waits_once(queue: Queue) -> None:
    push(queue, 1)
    with pytest.raises(AssertionError, match="waits in node already"):
        push(queue, 1)


def test_a_priority_that_cannot_be_ordered_is_a_bug_and_changes_nothing(queue: Queue) -> None:
    with pytest.raises(AssertionError, match="not a number"):
        push(queue, 1, priority=float("nan"))
    assert queue.length == 0


def test_a_batch_of_no_tasks_is_a_bug(queue: Queue) -> None:
    with pytest.raises(AssertionError, match="batch of 0 tasks"):
        queue.pop_batch(0, None)


def test_a_solo_task_is_alone_wherever_it_stands(queue: Queue) -> None:
    push(queue, 1, 2, 5)
    push(queue, 3, 4, solo=True)
    push(queue, 0, solo=True, priority=9.0)
    assert pop(queue) == [0]
    assert pop(queue) == [1, 2, 5]
    assert pop(queue) == [3]
    assert pop(queue, max_tokens=100) == [4]


def test_a_solo_task_does_not_join_a_batch_within_a_budget(by_length: Queue) -> None:
    push(by_length, 1, 4, length=10)
    push(by_length, 2, length=10, solo=True)
    push(by_length, 3, length=12)
    assert pop(by_length, max_tokens=1000) == [1, 4, 3]
    assert pop(by_length, max_tokens=1000) == [2]


def test_stale_entries_never_outnumber_the_waiting_tasks(queue: Queue) -> None:
    """Also when nothing ever comes up to be skipped: the removed ones lie below one urgent task."""
    push(queue, 0, priority=9.0)
    for number in range(1, 100):
        push(queue, number)
        queue.remove(task(number))
        assert sum(map(len, queue._heaps.values())) <= 2 * queue.length
    assert pop(queue) == [0]


def test_stale_entries_are_swept_when_the_live_ones_leave(queue: Queue) -> None:
    push(queue, *range(10), priority=9.0)
    push(queue, *range(10, 19))
    for number in range(10, 19):
        queue.remove(task(number))
    assert pop(queue, max_tasks=5) == [0, 1, 2, 3, 4]
    assert sum(map(len, queue._heaps.values())) == 5


def test_a_sweep_leaves_a_heap(queue: Queue) -> None:
    """What is left of a heap without some of its entries is none by itself."""
    order = [number * 37 % 100 for number in range(100)]
    push(queue, *order)
    for number in range(100):
        if number % 7:
            queue.remove(task(number))
            queue.check_invariants()
    assert pop(queue) == list(range(0, 100, 7))


def test_a_sweep_keeps_order_and_buckets(by_length: Queue) -> None:
    push(by_length, *range(20), length=100)
    push(by_length, *range(20, 24), length=10)
    for number in range(2, 23):
        by_length.remove(task(number))
    assert pop(by_length, max_tokens=200) == [0, 1]
    assert pop(by_length, max_tokens=200) == [23]


def test_a_budget_bounds_tasks_times_the_longest(by_length: Queue) -> None:
    push(by_length, 1, 2, 3, 4, 5, length=100)
    assert pop(by_length, max_tokens=399) == [1, 2, 3]
    assert pop(by_length, max_tokens=200) == [4, 5]


def test_a_longer_task_makes_all_others_longer(by_length: Queue) -> None:
    push(by_length, 1, 2, 3, length=96)
    push(by_length, 4, length=111)
    assert pop(by_length, max_tokens=4 * 111 - 1) == [1, 2, 3]


def test_one_task_always_fits(by_length: Queue) -> None:
    push(by_length, 1, 2, length=5000)
    assert pop(by_length, max_tokens=10) == [1]
    assert pop(by_length, max_tokens=10) == [2]


def test_the_most_urgent_task_decides_which_lengths_come_along(by_length: Queue) -> None:
    push(by_length, 1, 3, 5, length=10)
    push(by_length, 0, 2, 4, 6, length=1000)
    assert pop(by_length, max_tasks=3, max_tokens=100_000) == [0, 2, 4]
    assert pop(by_length, max_tasks=3, max_tokens=100_000) == [1, 3, 5]
    assert pop(by_length, max_tasks=3, max_tokens=100_000) == [6]


def test_the_nearest_lengths_fill_up(by_length: Queue) -> None:
    for number, length in enumerate((64, 30, 50, 140, 80)):
        push(by_length, number, length=length)
    assert pop(by_length, max_tasks=3, max_tokens=1000) == [0, 4, 2]
    assert pop(by_length, max_tasks=3, max_tokens=1000) == [1, 3]


def test_at_least_half_of_what_is_padded_is_data(by_length: Queue) -> None:
    """One long and many short tasks: padding every short one to the long one would cost a hundredfold."""
    push(by_length, 0, length=1000)
    push(by_length, *range(1, 10), length=10)
    assert pop(by_length, max_tokens=100_000) == [0, 1]
    assert pop(by_length, max_tokens=100_000) == [2, 3, 4, 5, 6, 7, 8, 9]


def test_removed_tasks_do_not_come_along(by_length: Queue) -> None:
    push(by_length, *range(8), length=100)
    for number in (0, 2, 7):
        by_length.remove(task(number))
    assert pop(by_length, max_tokens=1000) == [1, 3, 4, 5, 6]


def test_without_a_budget_lengths_do_not_matter(by_length: Queue) -> None:
    for number, length in enumerate((64, 30, 50, 90, 80, 0)):
        push(by_length, number, length=length)
    by_length.remove(task(3))
    assert pop(by_length, max_tasks=4) == [0, 1, 2, 4]
    assert pop(by_length) == [5]


def test_a_queue_that_is_not_kept_by_length_still_keeps_to_a_budget(queue: Queue) -> None:
    for number, length in enumerate((10, 15, 12, 11)):
        push(queue, number, length=length)
    assert pop(queue, max_tokens=45) == [0, 1, 2]
    assert pop(queue, max_tokens=45) == [3]


@pytest.mark.parametrize("length", [*range(40), 1000, 4095, 4096, 1 << 40])
def test_buckets_follow_each_other_and_are_few(length: int) -> None:
    assert _bucket(length + 1) - _bucket(length) in (0, 1)
    assert _bucket(length) <= 4 * length.bit_length()
    assert _bucket(length + length // 4 + 1) > _bucket(length), "lengths in one bucket are similar"


def test_a_long_queue_is_not_looked_through(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tasks out of 2,000: no more than ten entries leave the heap, and it is not rebuilt."""
    push(queue, *range(2000))
    heap = queue._heaps[0]
    monkeypatch.setattr("heapq.heapify", None)
    assert pop(queue, max_tasks=10) == list(range(10))
    assert queue._heaps[0] is heap
    assert len(heap) == 1990


# ---- where inputs lie

HERE, THERE = (PeerId(f"P{number:032x}") for number in (1, 2))


def push_at(queue: Queue, at: PeerId | None, *numbers: int, priority: float = 1.0) -> None:
    for number in numbers:
        queue.push(
            task(number),
            priority=priority,
            weight=1.0,
            nbytes=1,
            padded_length=0,
            solo=False,
            seq=number,
            lies_at=at,
        )


def take(queue: Queue, count: int, near: PeerId | None = None) -> list[int]:
    return [int(popped[1:], 16) for popped in queue.pop_batch(count, None, near)]


def test_tasks_go_first_to_who_has_their_inputs(queue: Queue) -> None:
    push_at(queue, HERE, 0, 3, 6)
    push_at(queue, THERE, 1, 4, 7)
    push_at(queue, None, 2, 5, 8)
    assert take(queue, 2, THERE) == [1, 4]
    assert take(queue, 2) == [2, 5], "our own executors first get what is here"
    assert take(queue, 2, THERE) == [7, 8], "then what is here, which needs no third one"
    assert take(queue, 5, THERE) == [0, 3, 6]


def test_who_made_something_once_is_forgotten(queue: Queue) -> None:
    for number in range(20):
        push_at(queue, PeerId(f"P{number:032x}"), number)
    while take(queue, 3):
        pass
    assert not queue._heaps


def test_priority_counts_for_more(queue: Queue) -> None:
    push_at(queue, HERE, 1, 2)
    push_at(queue, THERE, 3, priority=2.0)
    push_at(queue, None, 4, priority=0.5)
    assert take(queue, 4, HERE) == [3, 1, 2, 4]


def test_tasks_that_lie_elsewhere_do_not_wait_for_ever(queue: Queue) -> None:
    push_at(queue, HERE, 0)
    push_at(queue, None, *range(1, 20))
    taken = [take(queue, 1)[0] for _ in range(8)]
    assert taken == [1, 2, 3, 4, 5, 6, 7, 0], "every eighth batch goes by age"


def test_tasks_that_are_taken_out_leave_nothing_behind_at_their_peer(queue: Queue) -> None:
    push_at(queue, HERE, 0, 1, 2)
    push_at(queue, None, 3)
    assert queue.remove(task(0))
    assert take(queue, 1, HERE) == [1]
    assert queue.remove(task(2))
    assert take(queue, 9, HERE) == [3]
    assert take(queue, 9, HERE) == []


def test_solo_tasks_go_alone_wherever_their_inputs_lie(queue: Queue) -> None:
    push_at(queue, HERE, 1)
    queue.push(task(0), priority=1.0, weight=1.0, nbytes=1, padded_length=0, solo=True, seq=0, lies_at=HERE)
    assert take(queue, 5, HERE) == [0]
    assert take(queue, 5, HERE) == [1]
