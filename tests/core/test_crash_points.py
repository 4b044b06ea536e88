"""Every step of everything that must reach the copies, with every party gone at that step.

A script is carried out message by message; after the k-th something is lost: the owner, a holder of copies, the peer
that works on a batch, or the client. Whatever its client had been told by then must hold.
"""

from collections.abc import Callable, Iterator

import pytest

from scatterzmq.core.events import ClientLost
from scatterzmq.core.messages import Accepted, Attach, Cancel, Clear, Cleared, TaskStatus
from scatterzmq.ids import TaskId
from tests.core.conftest import ALICE, BOB, chain
from tests.core.mesh import Mesh

OWNER, SETTLE_S = 0, 8
VICTIMS = ("owner", "holder", "worker", "client")


class Scene:
    """Peer 0 owns, without executors; the others have one each."""

    def __init__(self) -> None:
        self.mesh = Mesh(4, executors=[0, 1, 1, 1], static=False, gossiping=True, executor={"batch_size": 2})
        self.mesh.load(chain(2))
        for peer in self.mesh.peers:
            peer.checking = False  # once at the end: there are thousands of events
        self.tasks: tuple[TaskId, ...] = ()

    def submit(self) -> None:
        self.tasks = self.mesh.submit(OWNER, 1, 2)

    def steps(self) -> Iterator[None]:
        """Message by message, batch by batch, until nothing moves."""
        while True:
            if self.mesh.deliver(1):
                yield
                continue
            busy = [peer for peer in self.mesh.peers if peer.running and not peer.dead]
            if not busy:
                return
            busy[0].step()
            yield

    def told(self) -> tuple[set[TaskId], bool]:
        """Which tasks the client knows to be accepted, and whether it knows them to be cleared."""
        sent = [send.message for send in self.mesh.peers[OWNER].sent if send.to == ALICE]
        accepted = {task for message in sent if isinstance(message, Accepted) for task in message.ids}
        return accepted, any(isinstance(message, Cleared) for message in sent)

    def lose(self, victim: str) -> None:
        mesh = self.mesh
        if victim == "client":
            mesh.peers[OWNER].tell(ClientLost(client=ALICE))
            return
        if victim == "owner":
            mesh.kill(OWNER)
            return
        if victim == "holder":
            chosen = [peer.number for peer in mesh.peers[1:] if len(peer.core.state.copies)]
        else:
            chosen = [peer.number for peer in mesh.peers[1:] if peer.running]
        if chosen:
            mesh.kill(chosen[0])

    def settle(self) -> None:
        for _ in range(SETTLE_S):
            self.mesh.run()
            self.mesh.wait(1_000)
        self.mesh.run()

    def ends(self, task: TaskId) -> list[tuple[TaskStatus, int | None]]:
        """How a task ended, as all who live say; () if nobody knows it."""
        ends: list[tuple[TaskStatus, int | None]] = []
        for peer in self.mesh.peers:
            if not peer.dead and not peer.has_left:
                peer.outcomes.pop((BOB, task), None)
                peer.say(Attach(ids=(task,)), BOB)
                said = peer.outcomes.get((BOB, task), [])
                ends += [(end.status, end.value) for end in said if end.status is not TaskStatus.UNKNOWN]
        return ends


def accept(scene: Scene) -> Iterator[None]:
    scene.submit()
    yield from scene.steps()


def clear(scene: Scene) -> Iterator[None]:
    scene.submit()
    for _ in scene.steps():
        pass
    scene.mesh.peers[OWNER].say(Clear(mid=99, ids=scene.tasks), ALICE)
    yield from scene.steps()


def clear_early(scene: Scene) -> Iterator[None]:
    scene.submit()
    for _ in range(6):
        scene.mesh.deliver(1)
    scene.mesh.peers[OWNER].say(Clear(mid=99, ids=scene.tasks), ALICE)
    yield from scene.steps()


def cancel(scene: Scene) -> Iterator[None]:
    scene.submit()
    for _ in range(6):
        scene.mesh.deliver(1)
    scene.mesh.peers[OWNER].say(Cancel(mid=99, ids=scene.tasks), ALICE)
    yield from scene.steps()


def crash(scene: Scene) -> Iterator[None]:
    """An executor dies of the batch; the mark of it is on its way."""
    scene.submit()
    scene.mesh.deliver()
    worker = next(peer for peer in scene.mesh.peers if peer.running)
    worker.lose(next(iter(worker.running)))
    yield from scene.steps()


def leave(scene: Scene) -> Iterator[None]:
    scene.submit()
    scene.mesh.deliver()
    scene.mesh.leave(OWNER)
    yield from scene.steps()


SCRIPTS: dict[str, Callable[[Scene], Iterator[None]]] = {
    script.__name__: script for script in (accept, clear, clear_early, cancel, crash, leave)
}
ENDS = {(TaskStatus.READY, 3), (TaskStatus.READY, 4)}


def play(script: Callable[[Scene], Iterator[None]], victim: str, after: int) -> bool:
    """False if the script is over before."""
    scene = Scene()
    moves = script(scene)
    for _ in range(after):
        if next(moves, "over") == "over":
            return False
    accepted, cleared = scene.told()
    scene.lose(victim)
    scene.settle()
    for place, task in enumerate(scene.tasks):
        ends = scene.ends(task)
        if cleared:
            assert not ends, f"deleted, and back as {ends}"
        elif task in accepted and script is cancel:
            assert len(set(ends)) == 1, ends
        elif task in accepted and script not in (clear, clear_early):
            assert set(ends) == {(TaskStatus.READY, place + 3)}, ends
        assert set(ends) <= {(TaskStatus.READY, place + 3), (TaskStatus.ERROR, None)}, ends
    for peer in scene.mesh.peers:
        if not peer.dead and not peer.has_left:
            assert not list(peer.core.state.leases)
            assert not peer.core.state.replicas.busy
            peer.core.check_invariants()
    return True


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_that_was_told_is_taken_back(name: str, victim: str) -> None:
    points = 0
    while play(SCRIPTS[name], victim, points):
        points += 1
    assert points > 2, "a script with so few steps shows nothing"
