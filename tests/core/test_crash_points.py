"""Every step of everything that must reach the copies, with every party gone at that step.

A script is carried out message by message; after the k-th something is lost: the owner, a holder of copies, the peer
that works on a batch, its executor alone, or the client. Whatever its client had been told by then must hold. (What the
journal adds has its own points, in test_restoring.py.)
"""

from collections.abc import Callable, Iterator

import pytest

from scatterzmq.core.events import ClientLost
from scatterzmq.core.messages import Accepted, Attach, Cancel, Clear, Cleared, TaskStatus
from scatterzmq.ids import TaskId
from tests.core.conftest import ALICE, BOB, chain
from tests.core.mesh import Mesh, Peer

OWNER, SETTLE_S = 0, 8
VICTIMS = ("owner", "holder", "worker", "executor", "client")
POINTS = 3
"""In so many steps of a script at least there is the party that gets lost."""


class Scene:
    """Peer 0 owns, without executors; the others have one each. rset: who has the tasks, as their owner last knew."""

    def __init__(self, replicas: int) -> None:
        sections = {"executor": {"batch_size": 2}, "cluster": {"replicas": replicas}}
        self.mesh = Mesh(4, executors=[0, 1, 1, 1], static=False, gossiping=True, **sections)
        self.mesh.load(chain(2))
        for peer in self.mesh.peers:
            peer.checking = False  # once at the end: there are thousands of events
        self.tasks: tuple[TaskId, ...] = ()
        self.rset: list[int] = []

    def submit(self) -> None:
        self.tasks = self.mesh.submit(OWNER, 1, 2)

    def submit_and_begin(self) -> Peer:
        """Until an executor works on them. Returns its peer."""
        self.submit()
        while not (busy := [peer for peer in self.mesh.peers if peer.running]):
            assert self.mesh.deliver(1)
        self.look()
        return busy[0]

    def steps(self) -> Iterator[None]:
        """Message by message, batch by batch, until nothing moves; before the first one, too."""
        yield
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
        sent = [send.message for peer in self.mesh.peers for send in peer.sent if send.to == ALICE]
        accepted = {task for message in sent if isinstance(message, Accepted) for task in message.ids}
        return accepted, any(isinstance(message, Cleared) for message in sent)

    def look(self) -> None:
        """Who has them now. The last one that owned them stays known when they are deleted."""
        for peer in self.mesh.peers:
            record = None if peer.dead or not self.tasks else peer.core.state.ledger.record(self.tasks[0])
            if record is not None:
                self.rset = [int(str(member)[1:], 16) - 1 for member in record.rset]

    def lose(self, victim: str) -> bool:
        """False if there is nobody like that just now."""
        mesh = self.mesh
        alive = [number for number in self.rset if not mesh.peers[number].dead]
        busy = [peer for peer in mesh.peers if peer.running and not peer.dead]
        match victim:
            case "client" if alive:
                mesh.peers[alive[0]].tell(ClientLost(client=ALICE))
            case "owner" if self.rset and self.rset[0] in alive:
                mesh.kill(self.rset[0])
            case "holder" if self.rset and set(alive) - {self.rset[0]}:
                mesh.kill(next(number for number in alive if number != self.rset[0]))
            case "worker" if busy:
                mesh.kill(busy[0].number)
            case "executor" if busy:
                busy[0].lose(next(iter(busy[0].running)))
            case _:
                return False
        return True

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
        scene.look()
    scene.mesh.peers[OWNER].say(Clear(mid=99, ids=scene.tasks), ALICE)
    yield from scene.steps()


def clear_early(scene: Scene) -> Iterator[None]:
    scene.submit_and_begin()
    scene.mesh.peers[OWNER].say(Clear(mid=99, ids=scene.tasks), ALICE)
    yield from scene.steps()


def cancel(scene: Scene) -> Iterator[None]:
    scene.submit_and_begin()
    scene.mesh.peers[OWNER].say(Cancel(mid=99, ids=scene.tasks), ALICE)
    yield from scene.steps()


def crash(scene: Scene) -> Iterator[None]:
    """An executor dies of the batch; the mark of it is on its way. Then others hear that there is work again."""
    worker = scene.submit_and_begin()
    worker.lose(next(iter(worker.running)))
    yield from scene.steps()
    scene.mesh.wait(300)
    yield from scene.steps()


def leave(scene: Scene) -> Iterator[None]:
    scene.submit_and_begin()
    scene.mesh.leave(OWNER)
    yield from scene.steps()


def repair(scene: Scene) -> Iterator[None]:
    """Of three who have the tasks one dies: another one gets copies."""
    scene.submit_and_begin()
    scene.mesh.kill(scene.rset[1])
    yield from scene.steps()


def takeover(scene: Scene) -> Iterator[None]:
    """Of three who have the tasks the owner dies."""
    scene.submit_and_begin()
    scene.mesh.kill(OWNER)
    yield from scene.steps()


SCRIPTS: dict[str, Callable[[Scene], Iterator[None]]] = {
    script.__name__: script for script in (accept, clear, clear_early, cancel, crash, leave, repair, takeover)
}
IDLE = {("clear", "worker"), ("clear", "executor")}
"""When all has ended nobody is at work."""


def play(script: Callable[[Scene], Iterator[None]], victim: str, after: int) -> bool | None:
    """Whether somebody was lost after so many steps; None if the script is over before."""
    scene = Scene(replicas=3 if script in (repair, takeover) else 2)
    moves = script(scene)
    for _ in range(after + 1):
        if next(moves, "over") == "over":
            return None
        scene.look()
    accepted, cleared = scene.told()
    if not scene.lose(victim):
        return False
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
    struck: list[bool] = []
    while (lost := play(SCRIPTS[name], victim, len(struck))) is not None:
        struck.append(lost)
    assert sum(struck) >= (0 if (name, victim) in IDLE else POINTS), f"{sum(struck)} of {len(struck)}"
