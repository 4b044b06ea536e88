"""How many tasks an executor takes at once, and how its pace is measured."""

from itertools import pairwise

import pytest

from scatterzmq.core.pace import Pace
from scatterzmq.core.shares import BATCH_MS_MIN, share


def part(waiting: int, rate: float, *, task_us: int = 10_000, tasks_min: int = 2, tasks_max: int = 32) -> int:
    return share(waiting, rate, task_us=task_us, tasks_min=tasks_min, tasks_max=tasks_max)


@pytest.mark.parametrize(
    ("waiting", "rate", "expected"),
    [
        (10_000, 1000.0, 32),  # 10 s of work for all, and a full batch takes 0.32 s here
        (320, 1000.0, 32),  # as long
        (310, 1000.0, 31),
        (100, 1000.0, 10),
        (11, 1000.0, 2),
        (1, 1000.0, 2),  # no less than is worth it
        (20, 100.0, 20),  # nobody else is known
        (20, 0.0, 20),  # ... not even ourselves
        (20, 50.0, 20),  # others believe we are slower
    ],
)
def test_a_share_is_in_proportion_to_speed(waiting: int, rate: float, expected: int) -> None:
    assert part(waiting, rate) == expected


def test_shares_of_all_add_up() -> None:
    """Executors of different speed that come at once take what there is, and are through together."""
    paces = [1_000 * (1 + at) for at in range(10)]
    rate = sum(1e6 / task_us for task_us in paces)
    taken = [part(500, rate, task_us=task_us, tasks_min=1, tasks_max=400) for task_us in paces]
    assert 500 <= sum(taken) < 500 + len(paces)
    times = [tasks * task_us for tasks, task_us in zip(taken, paces, strict=True)]
    assert max(times) - min(times) <= max(paces)


def test_a_batch_is_cut_only_when_it_would_take_longer_than_all_the_rest() -> None:
    for waiting in range(1, 2000, 7):
        took = part(waiting, 1000.0, tasks_min=1)
        all_take_ms, full_takes_ms = waiting, 32 * 10
        assert (took < 32) == (all_take_ms <= full_takes_ms - 10)


def test_batches_shrink_one_by_one() -> None:
    waiting, taken = 1000, []
    while waiting > 0:
        taken.append(min(part(waiting, 400.0, tasks_min=1), waiting))
        waiting -= taken[-1]
    assert taken[:10] == [32] * 10
    assert all(after <= before for before, after in pairwise(taken))
    assert taken[-1] == 1


# ---- pace


def paced(*batches: tuple[int, int]) -> Pace:
    pace = Pace()
    for tasks, ms in batches:
        pace.note(tasks, ms)
    return pace


def test_who_has_measured_nothing_takes_full_batches() -> None:
    assert (Pace().task_us, Pace().one_more_ms, Pace().tasks_min(32)) == (0, 0.0, 32)


def test_batches_of_one_size_are_taken_to_be_all_work() -> None:
    pace = paced(*[(32, 320)] * 10)
    assert pace.task_us == 10_000
    assert pace.one_more_ms == pytest.approx(10.0)
    assert pace.tasks_min(32) == 2
    assert pace.tasks_min(1) == 1


def test_short_tasks_are_not_worth_cutting() -> None:
    pace = paced(*[(32, BATCH_MS_MIN)] * 3)
    assert pace.tasks_min(32) == 32
    assert pace.tasks_min(100) == 32
    assert paced((32, 0)).tasks_min(32) == 32
    assert paced((32, 0)).task_us == 1


def test_long_tasks_go_one_by_one() -> None:
    assert paced((4, 4000)).tasks_min(4) == 1


def test_where_small_batches_take_as_long_as_full_ones_none_is_cut_any_more() -> None:
    pace = paced(*[(32, 100)] * 8)
    assert pace.tasks_min(32) == 6
    pace.note(6, 100)
    assert pace.one_more_ms < 0.4
    assert pace.tasks_min(32) == 32
    pace.note(5, 150)  # even longer, by chance
    assert pace.one_more_ms == 0.0


def test_a_part_that_every_batch_takes_is_told_apart() -> None:
    pace = paced(*[(size, 50 + 5 * size) for size in (1, 32, 32, 10, 4, 20)])
    assert pace.one_more_ms == pytest.approx(5.0, abs=0.3)
    assert pace.tasks_min(32) == 3


def test_the_first_batch_counts_until_there_is_another_one() -> None:
    """It may have loaded a model."""
    pace = paced((8, 30_000))
    assert pace.task_us == 3_750_000
    pace.note(8, 80)
    assert pace.task_us == 10_000
    assert pace.one_more_ms == pytest.approx(10.0)
    pace.note(8, 160)
    assert 10_000 < pace.task_us < 20_000


def test_an_executor_that_changes_its_speed_is_believed_soon() -> None:
    pace = paced(*[(32, 320)] * 20)
    for _ in range(8):
        pace.note(32, 3200)
    assert pace.task_us > 75_000


def test_what_others_are_told_changes_seldom() -> None:
    pace = paced((10, 100), (10, 100))
    told = set()
    for at in range(50):
        pace.note(10, 100 + (at * 7) % 40 - 20)
        told.add(pace.task_us)
    assert told == {10_000}
