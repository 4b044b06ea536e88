"""Leases: who holds what until when, told in no time however many there are."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scatterzmq.core.leases import Lease, Leases
from scatterzmq.core.queues import Queue
from scatterzmq.ids import ExecutorId, PeerId, TaskId

ME, OTHER = PeerId(f"P{1:032x}"), PeerId(f"P{2:032x}")


def executor(number: int) -> ExecutorId:
    return ExecutorId(f"E{number:032x}")


def lend(leases: Leases, number: int = 1, *, expires_ms: int = 10, until_ms: int = 100, holder: Any = None) -> Lease:
    order, token = leases.token()
    lease = Lease(
        order=order,
        token=token,
        executor=executor(number),
        queue=cast(Queue, SimpleNamespace()),
        tasks=(),
        expires_ms=expires_ms,
        expects=(),
        holder=holder,
        until_ms=until_ms,
    )
    leases.lend(lease)
    leases.check_invariants()
    return lease


def test_the_holder_is_part_of_the_lease() -> None:
    leases = Leases(ME, 1)
    mine, other = lend(leases), lend(leases, holder=OTHER)
    assert leases.held(mine.order, executor(1)) is mine
    assert leases.held(other.order, executor(1)) is None
    assert leases.held(other.order, executor(1), OTHER) is other
    assert leases.held(other.order, executor(2), OTHER) is None
    assert leases.settle(mine.order, executor(1), OTHER) is None
    assert leases.of(executor(1)) is mine
    assert leases.of_peer(OTHER) == [other]
    assert leases.settle(mine.order, executor(1)) is mine
    assert leases.of(executor(1)) is None
    assert list(leases) == [other]
    leases.check_invariants()


def test_an_executor_of_this_peer_has_one_batch() -> None:
    leases = Leases(ME, 1)
    lend(leases)
    with pytest.raises(AssertionError, match="two batches"):
        lend(leases)


def test_an_executor_of_another_peer_may_have_several() -> None:
    leases = Leases(ME, 1)
    assert [lend(leases, holder=OTHER).order for _ in range(3)] == [1, 2, 3]
    assert len(leases.of_peer(OTHER)) == 3


def test_renewing_is_bounded() -> None:
    leases = Leases(ME, 1)
    lease = lend(leases, holder=OTHER)
    leases.renew(lease, 50)
    assert leases.deadline_ms() == 50
    leases.renew(lease, 500)
    assert leases.deadline_ms() == 100
    assert leases.expire(99) == []
    assert [lease.order for lease in leases.expire(100)] == [1]
    assert leases.deadline_ms() is None
    leases.check_invariants()


def test_those_overdue_come_by_time() -> None:
    leases = Leases(ME, 1)
    for number, expires_ms in enumerate((30, 10, 20, 40)):
        lend(leases, number, expires_ms=expires_ms)
    assert [lease.expires_ms for lease in leases.expire(30)] == [10, 20, 30]
    assert leases.deadline_ms() == 40


def test_what_was_settled_long_ago_is_not_remembered() -> None:
    """An hour of batches with a limit of an hour each."""
    leases = Leases(ME, 1)
    for _ in range(1_000):
        lease = lend(leases, expires_ms=3_600_000, until_ms=3_600_000)
        leases.settle(lease.order, executor(1))
    assert len(leases._times) < 100
    held = lend(leases, holder=OTHER, until_ms=10_000)
    for time in range(20, 5_000):
        leases.renew(held, time)
    assert len(leases._times) < 100
    leases.check_invariants()


@given(
    st.lists(st.tuples(st.sampled_from(["lend", "settle", "renew", "expire", "put"]), st.integers(0, 200)), max_size=60)
)
def test_the_deadline_is_that_of_a_plain_search(steps: list[tuple[str, int]]) -> None:
    leases = Leases(ME, 1)
    plain: dict[int, Lease] = {}
    now_ms = 0
    for step, number in steps:
        chosen = [*plain.values()][number % len(plain)] if plain else None
        if step == "lend":
            lease = lend(leases, number, expires_ms=now_ms + number, until_ms=now_ms + 150 + number, holder=OTHER)
            plain[lease.order] = lease
        elif step == "expire":
            now_ms += number // 4
            overdue = sorted(lease.order for lease in plain.values() if lease.expires_ms <= now_ms)
            assert sorted(lease.order for lease in leases.expire(now_ms)) == overdue
            plain = {order: lease for order, lease in plain.items() if order not in overdue}
        elif chosen is not None and step == "settle":
            assert leases.settle(chosen.order, chosen.executor, OTHER) is plain.pop(chosen.order)
        elif chosen is not None and step == "put":
            plain[chosen.order] = replace(chosen, expects=())
            leases.put(plain[chosen.order])
        elif chosen is not None:
            leases.renew(chosen, now_ms + number)
            held = leases.held(chosen.order, chosen.executor, OTHER)
            assert held is not None
            plain[chosen.order] = held
            assert held.expires_ms == min(now_ms + number, chosen.until_ms)
        assert leases.deadline_ms() == min((lease.expires_ms for lease in plain.values()), default=None)
        leases.check_invariants()


def test_a_task_is_on_loan_with_its_batch() -> None:
    leases = Leases(ME, 1)
    task, another = TaskId(f"T{1:032x}"), TaskId(f"T{2:032x}")
    lease = lend(leases)
    leases.put(replace(lease, tasks=(task,)))
    assert leases.is_lent(lease.order, task)
    assert not leases.is_lent(lease.order, another)
    assert not leases.is_lent(lease.order + 1, task)
