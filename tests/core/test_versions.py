"""Versions compare so that accounts of a task that went apart find together, however they meet."""

from functools import reduce
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatterzmq.core.versions import Rank, Version, fingerprint, growth, rank_of_error, total
from scatterzmq.errors import ErrorCode
from scatterzmq.ids import PeerId, TaskId

A, B = PeerId("P" + "a" * 32), PeerId("P" + "b" * 32)

versions = st.builds(
    Version,
    st.sampled_from(list(Rank)),
    st.integers(0, 3),
    st.sampled_from([A, B]),
    st.integers(1, 2),
    st.integers(0, 3),
)


@given(st.lists(versions, min_size=2, max_size=4))
def test_the_merge_does_not_depend_on_order_or_repetition(several: list[Version]) -> None:
    merged = {reduce(max, order) for order in permutations(several + several[:1])}
    assert len(merged) == 1


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Version(Rank.READY, 1, A, 1, 1), Version(Rank.LIVE, 9, B, 1, 9)),  # finished work beats a newer owner
        (Version(Rank.DELETED, 1, A, 1, 1), Version(Rank.READY, 9, B, 1, 9)),
        (Version(Rank.LIVE, 1, A, 1, 1), Version(Rank.LOST, 9, B, 1, 9)),  # no error of the infrastructure
        (Version(Rank.READY, 1, A, 1, 1), Version(Rank.CANCELLED, 1, B, 1, 1)),
        (Version(Rank.CANCELLED, 1, A, 1, 1), Version(Rank.FAILED, 1, B, 1, 1)),
        (Version(Rank.LIVE, 2, A, 1, 0), Version(Rank.LIVE, 1, B, 1, 9)),
        (Version(Rank.LIVE, 1, B, 1, 0), Version(Rank.LIVE, 1, A, 1, 9)),
        (Version(Rank.LIVE, 1, A, 1, 2), Version(Rank.LIVE, 1, A, 1, 1)),
        (Version(Rank.LIVE, 1, A, 2, 0), Version(Rank.LIVE, 1, A, 1, 9)),  # two lives may come to one number
        (Version(Rank.DELETED, 1, A, 1, 1), Version(Rank.READY, 1, A, 1, 2)),
    ],
)
def test_which_account_is_better(better: Version, worse: Version) -> None:
    assert better > worse
    assert better.beats(worse)
    assert not worse.beats(better)


def test_what_an_owner_says_last_in_an_epoch_holds() -> None:
    """Also that it gives up for want of executors, which gives way to whoever else still runs it."""
    lost, live = Version(Rank.LOST, 3, A, 1, 2), Version(Rank.LIVE, 3, A, 1, 1)
    assert lost.beats(live)
    assert not live.beats(lost)
    assert not live.beats(live)
    assert Version(Rank.LIVE, 2, B, 1, 1).beats(lost)


def test_the_rank_of_an_error_says_who_is_to_blame() -> None:
    assert rank_of_error(ErrorCode.CANCELLED) is Rank.CANCELLED
    assert rank_of_error(ErrorCode.POISON) is Rank.FAILED
    assert rank_of_error(ErrorCode.GENERAL_EXCEPTION) is Rank.FAILED
    assert rank_of_error(ErrorCode.CONNECTION) is Rank.LOST
    assert rank_of_error(ErrorCode.DEFUNCT_EXECUTOR) is Rank.LOST


@given(st.lists(st.tuples(st.integers(0, 1 << 127), st.integers(1, 9), st.integers(0, 9)), max_size=5, unique=True))
def test_sums_are_undone_by_what_was_added(entries: list[tuple[int, int, int]]) -> None:
    numbers = [fingerprint(TaskId(f"T{number:032x}"), n, 1, change) for number, n, change in entries]
    whole = total(numbers)
    for number in reversed(numbers):
        whole = total((whole, -number))
    assert whole == 0


def test_fingerprints_differ() -> None:
    task = TaskId("T" + "5" * 32)
    several = {fingerprint(task, n, life, change) for n in range(9) for life in range(9) for change in range(9)}
    assert len(several) == 729
    assert fingerprint(TaskId("T" + "6" * 32), 1, 1, 1) != fingerprint(task, 1, 1, 1)


@given(st.integers(0, 1 << 127), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_a_change_adds_the_same_to_a_sum_every_time(number: int, n: int, life: int, change: int) -> None:
    task = TaskId(f"T{number:032x}")
    before, after = (fingerprint(task, n, life, count) for count in (change, change + 1))
    assert total((before, growth(task))) == after
