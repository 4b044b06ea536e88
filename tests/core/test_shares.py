"""How many tasks an executor takes at once, and how its pace is measured."""

from itertools import pairwise
from typing import Any

import pytest

from scatterzmq.core.pace import Pace
from scatterzmq.core.peermessages import Claim, Commit, Grant, Nudge
from scatterzmq.core.queues import Queue
from scatterzmq.core.shares import BATCH_MS_MIN, share
from scatterzmq.ids import ExecutorId
from tests.core.conftest import chain, graph, node
from tests.core.mesh import Mesh


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
    assert pace.tasks_min(32) == 10
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
    pace = paced(*[(32, 500)] * 8)
    assert pace.tasks_min(32) == 6
    pace.note(6, 500)
    assert pace.one_more_ms < 2.0
    assert pace.tasks_min(32) == 32
    pace.note(5, 800)  # even longer, by chance
    assert pace.one_more_ms == 0.0


def test_a_part_that_every_batch_takes_is_told_apart() -> None:
    pace = paced(*[(size, 50 + 5 * size) for size in (1, 32, 32, 10, 4, 20)])
    assert pace.one_more_ms == pytest.approx(5.0, abs=0.3)
    assert pace.tasks_min(32) == 19


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


# ---- at peers

E1, E2 = (ExecutorId(f"E{number:032x}") for number in (101, 102))


def made(*executors: int, batch_size: int = 8, **sections: Any) -> Mesh:
    return Mesh(
        len(executors), executors=executors, cluster={"replicas": 1}, executor={"batch_size": batch_size}, **sections
    )


def queue_at(mesh: Mesh, number: int, name: str = "n0") -> Queue:
    return next(queue for queue in mesh.peers[number].core._state.plans.queues() if queue.node.name == name)


def claim(mesh: Mesh, executor: ExecutorId = E1, **numbers: int) -> int:
    """Peer 1 claims from peer 0: how many it gets."""
    key = queue_at(mesh, 0).key
    message = Claim(**{"claim": 1, "tasks_max": 8} | numbers, executor=executor, digest=key[0], queue=key[1])
    mesh.speak(1, 0, message)
    return len(mesh.said(Grant, src=0)[-1].ids)


def test_a_claim_gets_its_share_of_what_waits_anywhere() -> None:
    mesh = made(0, 0, 0)
    mesh.load(chain(1))
    mesh.submit(0, *range(20))
    mesh.drop(dst=1)
    key, beliefs = queue_at(mesh, 0).key, mesh.peers[0].beliefs
    beliefs.rates[key] = 1000.0
    assert claim(mesh, task_us=10_000) == 2
    assert claim(mesh, claim=2, task_us=10_000, tasks_min=3) == 3
    beliefs.lengths[key] = {mesh.peers[2].me: 30}
    assert claim(mesh, claim=3, task_us=10_000) == 5


def test_executors_of_the_owner_have_their_share() -> None:
    mesh = made(2, 0)
    mesh.load(chain(1))
    mesh.submit(0, *range(60))
    mesh.drop(dst=1)
    assert queue_at(mesh, 0).length == 44
    assert claim(mesh, task_us=10_000) == 8
    queue_at(mesh, 0).pace.task_us = 500  # both together do 4000 per second
    assert claim(mesh, claim=2, task_us=10_000) == 1
    assert claim(mesh, claim=3, task_us=5_000) == 2


def test_a_claim_of_which_nothing_is_known_gets_a_full_batch() -> None:
    mesh = made(0, 0)
    mesh.load(chain(1))
    mesh.submit(0, *range(20))
    mesh.drop(dst=1)
    mesh.peers[0].beliefs.rates[queue_at(mesh, 0).key] = 1000.0
    assert claim(mesh, tasks_min=1) == 8
    assert claim(mesh, claim=2, task_us=10_000, tasks_min=99) == 8


def test_own_executors_share_what_waits() -> None:
    mesh = made(2)
    mesh.load(chain(1))
    peer = mesh.peers[0]
    tasks = list(mesh.submit(0, *range(8)))
    assert [len(order.tasks) for order in peer.running.values()] == [8], "nothing is known yet"
    mesh.now_ms += 400
    mesh.step(0)
    assert queue_at(mesh, 0).pace.task_us == 50_000
    tasks += mesh.submit(0, *range(6))
    assert [len(order.tasks) for order in peer.running.values()] == [3, 2]
    mesh.run()
    assert None not in mesh.results(0, tasks)


def test_executors_that_cannot_work_beside_each_other_do_not_wait_for_each_other() -> None:
    mesh = made(2)
    mesh.load(graph("main", "n0:value", [node("n0", "alone", ":value", None)]))
    mesh.submit(0, *range(8))
    mesh.now_ms += 400
    mesh.step(0)
    mesh.submit(0, *range(6))
    assert [len(order.tasks) for order in mesh.peers[0].running.values()] == [6]


def test_a_borrower_says_how_fast_it_is() -> None:
    mesh = made(0, 1, batch_size=4)
    mesh.load(chain(1))
    mesh.submit(0, *range(12))
    mesh.gossip()
    mesh.deliver()
    mesh.now_ms += 400
    mesh.step(1)
    mesh.deliver()
    mesh.now_ms += 200
    mesh.step(1)
    claims = [commit.claim for commit in mesh.said(Commit) if commit.claim is not None]
    assert [(claim.tasks_min, claim.task_us) for claim in claims] == [(1, 100_000), (2, 50_000)]
    (first,) = mesh.said(Claim)
    assert (first.tasks_min, first.task_us) == (4, 0)


def test_batches_that_fail_are_not_measured() -> None:
    mesh = made(1)
    mesh.load(graph("main", "n:value", [node("n", "fail", ":value", None, wrong=[3])]))
    mesh.submit(0, 1, 2, 3)
    mesh.now_ms += 30
    mesh.step(0)
    assert queue_at(mesh, 0, "n").pace.task_us == 0


def test_more_are_told_where_each_gets_less() -> None:
    mesh = made(0, 0, 0, 0)
    mesh.load(chain(1))
    for peer in mesh.peers[1:]:
        mesh.peers[0].beliefs.idle[peer.me] = 1
    pace = queue_at(mesh, 0).pace
    mesh.submit(0, *range(4))
    mesh.deliver()
    assert len(mesh.said(Nudge)) == 1
    pace.note(8, 800)
    mesh.peers[0].beliefs.rates[queue_at(mesh, 0).key] = 30.0
    mesh.submit(0, 4)
    mesh.deliver()
    assert len(mesh.said(Nudge)) == 3
