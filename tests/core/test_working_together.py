"""Several peers with everything they have: membership, gossip, claims, copies. What one of them could not do alone."""

from typing import Any

from scatterzmq.core.members import Status
from scatterzmq.core.messages import Attach, TaskStatus
from scatterzmq.core.peermessages import Claim, Commit, Grant, Nudge, Surrender
from scatterzmq.ids import TaskId
from tests.core.conftest import chain
from tests.core.mesh import Mesh, Peer


def made(*executors: int, batch: int = 2, static: bool = False, **sections: Any) -> Mesh:
    """Peers with so many executors each."""
    return Mesh(
        len(executors),
        executors=executors,
        static=static,
        gossiping=True,
        executor={"batch_size": batch},
        **sections,
    )


def counters(peer: Peer) -> dict[str, int]:
    return dict(peer.core._lending.counters | peer.core._asking.counters | peer.core._borrowing.counters)


def owners(mesh: Mesh, task: TaskId) -> list[int]:
    return [peer.number for peer in mesh.peers if not peer.dead and peer.core.state.ledger.record(task) is not None]


def test_a_peer_without_executors_has_its_work_done_at_once() -> None:
    """No timer is needed for it: nudges and claims follow each other."""
    mesh = made(0, 1, 1)
    mesh.load(chain(4))
    tasks = mesh.submit(0, *range(10))
    mesh.run()
    assert mesh.now_ms == 0
    assert mesh.results(0, tasks) == [value + 4 for value in range(10)]


def test_the_work_is_shared() -> None:
    mesh = made(1, 1, 1)
    mesh.load(chain(2))
    tasks = mesh.submit(0, *range(60))
    mesh.run()
    assert mesh.results(0, tasks) == [value + 2 for value in range(60)]
    assert min(len(peer.ran) for peer in mesh.peers) >= 20


def test_everybody_works_for_everybody() -> None:
    mesh = made(1, 2, 1)
    mesh.load(chain(3))
    tasks = {number: mesh.submit(number, *range(number * 100, number * 100 + 7)) for number in range(3)}
    mesh.run()
    for number, ids in tasks.items():
        assert mesh.results(number, ids) == [number * 100 + value + 3 for value in range(7)]
        mesh.peers[number].clear(*ids)
    mesh.wait(1_000)
    mesh.check_idle()


def test_few_are_disturbed_by_little_work() -> None:
    """8 idle peers, and one task now and then: what is said about it does not grow with the cluster."""
    mesh = made(0, *[1] * 8, cluster={"replicas": 1}, static=True)
    mesh.load(chain(1))
    for value in range(10):
        (task,) = mesh.submit(0, value)
        mesh.run()
        assert mesh.results(0, [task]) == [value + 1]
    assert len(mesh.said(Nudge)) <= 2 * 10
    assert len(mesh.said(Claim)) <= 3 * 10


def test_idle_peers_do_not_ask_around() -> None:
    mesh = made(1, 1, 1)
    mesh.load(chain(1))
    mesh.submit(0, 1, 2, 3, 4, 5)
    mesh.run()
    mesh.wait(5_000)
    said = len(mesh.said(Claim)) + len(mesh.said(Nudge))
    mesh.wait(60_000)
    assert len(mesh.said(Claim)) + len(mesh.said(Nudge)) == said


def test_batches_of_a_peer_that_dies_go_back_at_once() -> None:
    mesh = made(0, 1, 0, tasks={"poison_limit": 1})
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.deliver()
    assert len(mesh.peers[1].running) == 1
    mesh.kill(1)
    assert mesh.peers[0].status_of[1] is Status.DEAD
    reports = [mesh.peers[0].report(task) for task in tasks]
    assert [(report.status, report.retries) for report in reports] == [(TaskStatus.WAIT, 1)] * 2
    (executor,) = mesh.peers[2].start(1)
    mesh.wait(3_000)
    assert mesh.peers[2].running[executor].tasks == tasks, "together: nobody is suspected"
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]


def test_a_peer_that_starts_anew_is_another_one() -> None:
    mesh = made(0, 1, 0)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.deliver()
    mesh.kill(1)
    mesh.restart(1)
    mesh.wait(5_000)
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]
    assert [mesh.outcome(0, task).retries for task in tasks] == [1, 1]  # type: ignore[union-attr]


def test_tasks_of_an_owner_that_dies_are_done_by_its_heir() -> None:
    mesh = made(0, 1, 1)
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1, 2, 3)
    mesh.deliver()
    assert sum(len(peer.running) for peer in mesh.peers) == 2
    mesh.kill(0)
    mesh.wait(2_000)
    mesh.run()
    mesh.wait(2_000)
    mesh.run()
    for task, value in zip(tasks, (3, 4, 5), strict=True):
        (heir,) = owners(mesh, task)
        peer = mesh.peers[heir]
        peer.say(Attach(ids=(task,)))
        assert peer.results([task]) == [value]
    assert sum(counters(peer)["borrowed_in_vain"] for peer in mesh.peers[1:]) == 2


def test_a_peer_that_is_cut_off_loses_its_batches_and_does_no_harm() -> None:
    mesh = made(0, 1, 0)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.deliver()
    mesh.drop(src=1)
    mesh.drop(dst=1)
    mesh.wait(20_000)
    assert mesh.peers[0].status_of == {1: Status.DEAD, 2: Status.ALIVE}
    assert mesh.peers[0].status(tasks[0]) is TaskStatus.WAIT
    mesh.step(1)
    mesh.peers[2].start(1)
    mesh.wait(5_000)
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]
    mesh.heal()
    mesh.wait(20_000)
    assert mesh.peers[0].status_of == {1: Status.ALIVE, 2: Status.ALIVE}
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]
    assert counters(mesh.peers[0])["committed"] == 1
    more = mesh.submit(0, 5, 6, 7, 8, 9)
    mesh.run()
    assert mesh.results(0, more) == [6, 7, 8, 9, 10]


def test_a_peer_that_leaves_finishes_what_it_has_borrowed() -> None:
    mesh = made(0, 1, 0)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2, 3, 4)
    mesh.deliver()
    mesh.leave(1)
    mesh.run()
    assert mesh.results(0, tasks[:2]) == [2, 3]
    assert mesh.peers[1].left is not None
    assert mesh.peers[0].status(tasks[2]) is TaskStatus.WAIT
    assert mesh.said(Commit)[-1].claim is None
    assert mesh.said(Surrender) == []


def test_what_is_granted_to_a_peer_that_has_begun_to_leave_goes_back() -> None:
    mesh = made(0, 2, 0)
    mesh.load(chain(1))
    mesh.wait(1_000)
    tasks = mesh.submit(0, 1, 2)
    mesh.deliver()
    assert len(mesh.peers[1].running) == 1
    mesh.hold(Grant)
    more = mesh.submit(0, 3, 4)
    mesh.deliver()
    assert mesh.peers[0].status(more[0]) is TaskStatus.BUSY
    mesh.leave(1)
    mesh.heal()
    mesh.deliver()
    assert len(mesh.peers[1].running) == 1
    assert mesh.peers[0].status(more[0]) is TaskStatus.WAIT
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]
    assert mesh.peers[0].report(more[0]).retries == 0


def test_what_a_peer_did_not_get_before_it_left_is_not_counted_as_lost() -> None:
    mesh = made(0, 1, 0)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.hold(Grant)
    mesh.deliver()
    mesh.leave(1)
    mesh.heal()
    mesh.deliver()
    assert mesh.peers[1].left is not None
    assert mesh.peers[0].status(tasks[0]) is TaskStatus.WAIT
    assert mesh.peers[0].report(tasks[0]).retries == 0
