"""Executors that die one after another: when it may be the machine, for how long that is believed, and what follows."""

import pytest

from scatterzmq.core.actions import Report
from scatterzmq.core.deaths import FIRST_MS, LIMIT, LONGEST_MS, SPAN_MS, Deaths
from scatterzmq.core.events import ExecutorStarted
from scatterzmq.core.outbox import Outbox
from scatterzmq.ids import ExecutorId
from scatterzmq.settings import Settings
from tests.core.conftest import chain
from tests.core.mesh import Mesh, Peer


class Ward:
    """The deaths of one peer's executors, and what it says of them."""

    def __init__(self) -> None:
        self.out = Outbox()
        self.deaths = Deaths(self.out)

    def die(self, at_ms: int = 0) -> int:
        """Returns how many of four executors should go on."""
        self.deaths.died(at_ms)
        return self.deaths.awake_max(4)

    def rests_s(self) -> list[object]:
        """What it has said since it was asked last."""
        reports = [action for action in self.out.take() if isinstance(action, Report)]
        assert {report.name for report in reports} <= {"warning.executor.deaths"}
        return [report.context["rest_s"] for report in reports]


def test_the_third_death_in_a_row_is_one_too_many() -> None:
    ward = Ward()
    assert [ward.die() for _ in range(LIMIT)] == [4, 4, 0]
    assert ward.deaths.deadline_ms() == FIRST_MS
    assert ward.rests_s() == [30]


def test_what_ended_between_or_long_ago_counts_for_nothing() -> None:
    ward = Ward()
    ward.deaths.went_well()
    assert [ward.die(), ward.die()] == [4, 4]
    ward.deaths.went_well()
    assert [ward.die(), ward.die(at_ms=1)] == [4, 4]
    assert [ward.die(at_ms=SPAN_MS), ward.die(at_ms=SPAN_MS)] == [4, 0]


def test_it_comes_before_a_task_is_poison() -> None:
    """So that another peer can have the last word."""
    assert 1 + Settings().tasks.poison_limit > LIMIT


def test_one_tries_again_and_each_time_that_it_dies_it_is_twice_as_long() -> None:
    ward = Ward()
    for _ in range(LIMIT):
        ward.die()
    now_ms, spans = 0, []
    for _ in range(7):
        until_ms = ward.deaths.deadline_ms()
        assert until_ms is not None
        spans.append(until_ms - now_ms)
        ward.die(at_ms=until_ms - 1)  # one that was at work still: nothing new
        ward.deaths.expire(until_ms - 1)
        assert ward.deaths.deadline_ms() == until_ms
        now_ms = until_ms
        ward.deaths.expire(now_ms)
        assert (ward.deaths.awake_max(4), ward.deaths.is_resting, ward.deaths.suspects) == (1, False, True)
        ward.die(at_ms=now_ms)
    assert spans == [FIRST_MS, *[FIRST_MS << turn for turn in range(1, 5)], LONGEST_MS, LONGEST_MS]
    assert ward.rests_s() == [30, 60, 120, 240, 480, 600, 600, 600]
    ward.deaths.went_well()
    assert (ward.deaths.awake_max(4), ward.deaths.deadline_ms(), ward.deaths.suspects) == (4, None, False)


def kill_executors(peer: Peer, count: int = 1) -> None:
    """Some that are at work at a peer die, and then others start."""
    for _ in range(count):
        peer.lose(next(iter(peer.running)))
    for _ in range(count):
        peer.counter += 1
        peer.tell(ExecutorStarted(executor=ExecutorId(f"E{1_000 + peer.counter:032x}")))
    peer.mesh.deliver()


@pytest.fixture
def ill() -> Mesh:
    """The first peer has four executors, of which three have died; the second one has one that is at work."""
    return made_ill(4, 1)


def made_ill(*executors: int, lacking: str = "") -> Mesh:
    mesh = Mesh(len(executors), executors=executors, static=False, gossiping=True, executor={"batch_size": 1})
    for other in mesh.peers[1:]:
        other.lacking = frozenset((lacking,))
    mesh.load(chain(1))
    mesh.wait(2_000)  # heartbeats
    mesh.submit(0, *range(20))
    mesh.wait(100)
    kill_executors(mesh.peers[0], LIMIT)
    return mesh


def warned(peer: Peer) -> int:
    return sum(report.name == "warning.executor.deaths" for report in peer.reports)


def test_who_is_ill_takes_nothing_and_the_last_one_goes_on(ill: Mesh) -> None:
    peer, other = ill.peers
    assert warned(peer) == 1
    assert len(peer.running) == 1, "what was begun is not given up"
    assert peer.core._claims.idle_count() == 0
    ill.wait(1_000)
    assert not other.core._gossip.others_work()
    kill_executors(peer)
    assert not peer.running
    ill.submit(1, 1, 2)
    ill.deliver()
    assert not peer.running
    ill.step(1)
    ill.deliver()
    assert other.running, "it has work for ever"
    ill.wait(FIRST_MS - 2_000)
    assert not peer.running
    ill.wait(2_000)
    assert len(peer.running) == 1, "one tries"
    assert other.core._gossip.others_work()
    peer.step()
    ill.deliver()
    assert len(peer.running) == 4, "it was well"


def test_the_only_one_that_can_run_what_waits_goes_on() -> None:
    """Others work, but lack a kind."""
    mesh = made_ill(4, 1, lacking="add")
    peer, other = mesh.peers
    assert warned(peer) == 1
    mesh.wait(1_000)
    assert not other.running
    assert len(peer.running) == 4
    peer.clear(*[record.id for record in peer.core.state.ledger])
    mesh.wait(1_000)
    assert peer.core._gossip.others_work(), "nothing waits that they could not run"
    assert not other.core._gossip.others_work(), "who is ill is no help, whatever it could run"


def test_who_tries_and_goes_is_followed_by_another_one(ill: Mesh) -> None:
    peer, _ = ill.peers
    kill_executors(peer)
    ill.wait(FIRST_MS)
    (executor,) = peer.running
    peer.lose(executor, crashed=False)
    ill.deliver()
    assert len(peer.running) == 1
    assert executor not in peer.running


def test_who_works_still_and_ends_well_wakes_all(ill: Mesh) -> None:
    peer, _ = ill.peers
    peer.step()
    ill.deliver()
    assert len(peer.running) == 4


def test_who_rests_may_be_lost(ill: Mesh) -> None:
    peer, _ = ill.peers
    peer.lose(next(iter(peer.core._executors.resting)), crashed=False)
    assert len(peer.core._executors.resting) == 2


def test_who_is_alone_goes_on(ill: Mesh) -> None:
    peer, _ = ill.peers
    ill.kill(1)
    ill.wait(1)
    assert len(peer.running) == 4
    assert peer.core._executors.deaths.is_resting


@pytest.mark.parametrize("executors", [(4,), (4, 0)])
def test_without_executors_elsewhere_nobody_rests(executors: tuple[int, ...]) -> None:
    mesh = made_ill(*executors)
    assert warned(mesh.peers[0]) == 1
    assert len(mesh.peers[0].running) == 4


def test_what_dies_with_tasks_of_others_counts_as_well() -> None:
    mesh = Mesh(2, executors=(1, 4), static=False, gossiping=True, executor={"batch_size": 1})
    mesh.load(chain(1))
    mesh.wait(2_000)
    mesh.submit(0, *range(20))
    mesh.wait(500)
    peer = mesh.peers[1]
    assert len(peer.running) == 4
    kill_executors(peer, LIMIT)
    assert warned(peer) == 1
    mesh.wait(500)
    assert len(peer.running) <= 1


def test_hung_executors_count_as_well() -> None:
    mesh = Mesh(1, executors=LIMIT, executor={"batch_size": 1, "max_exec_s": 5.0})
    mesh.load(chain(1))
    mesh.submit(0, *range(20))
    mesh.wait(5_000)
    assert warned(mesh.peers[0]) == 1
