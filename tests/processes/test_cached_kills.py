"""Five hundred tasks wait for the result of one, and something happens to whoever is to bring it: all get it, and it
is computed once more at most.
"""

import json
import os
import signal
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import scatterzmq
from scatterzmq.client.handles import checked_inputs
from scatterzmq.core.cache import cache_key
from scatterzmq.core.values import Block
from scatterzmq.graph.check import check
from scatterzmq.ids import BlockId, PeerId, TaskId
from scatterzmq.nodes.registry import Registry
from scatterzmq.wire.columns import row_digests
from tests.processes.cluster import NODES, TIMEOUT_S, RealCluster, RealPeer, chain
from tests.processes.conftest import Connect

PEERS = 4
WAITERS = 500


def until(holds: Callable[[], bool]) -> None:
    """Ask until it holds; each question takes its time."""
    until_s = monotonic() + TIMEOUT_S
    while not holds():
        assert monotonic() < until_s, "waited too long"


class Scene:
    """Four peers, with a client at each of the first three. The task that computes is the first one's, the key the
    last one's, and the waiting tasks are everybody's but the last one's.
    """

    def __init__(self, cluster: RealCluster, connect: Connect, folder: Path) -> None:
        while len(cluster.addresses) < PEERS:
            cluster.add()
        cluster.until_joined()
        self.peers = [peer for peer in cluster.peers if peer.running]
        self.folder = folder
        self.clients = [connect(peer.address) for peer in self.peers[:-1]]
        definition = chain("nodes.held", {"folder": str(folder)})
        definition["graphs"][0] |= {"cache": True, "max_retries": 0}
        self.ns = self.clients[0].load_graph(definition, replace=True)
        plan = check(json.dumps(definition), Registry(("nodes",)).describe).require()
        for client in self.clients:
            until(lambda client=client: self._sees_all(client, plan.digest))  # type: ignore[misc]
        closure = plan.graphs[plan.entry].closure
        info = self.clients[0]._session.infos[self.ns]
        self.value = next(value for value in range(1000) if self._owner(closure, info, value) == self.peers[-1].id)

    def _sees_all(self, client: "scatterzmq.Client", digest: bytes) -> bool:
        infos = client._run(client._calls.infos())
        return len(client.peers()) == PEERS and self.ns in infos and infos[self.ns].digest == digest

    def _owner(self, closure: bytes, info: Any, value: int) -> str:
        column = checked_inputs(info, {"value": value})["value"]
        block = Block(BlockId(PeerId(self.peers[0].id), 1), column.layout, len(column.data), row_digests(column))
        key = cache_key(closure, [(":value", (block, 0))])
        assert key is not None
        ids = [PeerId(peer.id) for peer in self.peers]
        return max(ids, key=lambda id_: blake2b(id_.to_bytes() + key, digest_size=8).digest())

    def begin(self) -> tuple[TaskId, dict[TaskId, "scatterzmq.Client"]]:
        """The task that computes, and those that wait."""
        leader = self.clients[0].enqueue_task(self.ns, {"value": self.value}, wait=True)
        until(lambda: bool(self.begun()))
        waiting: dict[TaskId, scatterzmq.Client] = {}
        for number in range(WAITERS):
            client = self.clients[number % len(self.clients)]
            waiting[client.enqueue_task(self.ns, {"value": self.value})] = client
        for client in self.clients:
            client.flush(timeout=TIMEOUT_S)
        for task, client in list(waiting.items())[-len(self.clients) :]:
            until(lambda task=task, client=client: client.get_status(task) == "deferred")  # type: ignore[misc]
        assert len(self.begun()) == 1
        return leader, waiting

    def begun(self) -> list[int]:
        """The processes that began to compute, in order."""
        try:
            lines = (self.folder / "diary").read_text().splitlines()
        except FileNotFoundError:
            return []
        assert all(line.split()[0] == str(self.value) for line in lines)
        return [int(line.split()[1]) for line in lines]

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def finish(self, waiting: dict[TaskId, "scatterzmq.Client"]) -> None:
        """All of them get the result."""
        for client in self.clients:
            mine = [task for task, other in waiting.items() if other is client]
            for task, response in client.wait_for(mine, timeout=TIMEOUT_S):
                response.ok()
                assert response.result is not None, f"{task} is {response.status}"
                assert int(response.result["value"]) == self.value + 1


@pytest.fixture
def scene(cluster: RealCluster, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.syspath_prepend(str(NODES))
    return Scene(cluster, connect, tmp_path)


def ends(client: "scatterzmq.Client", tasks: Iterable[str]) -> list[Any]:
    return [response for _, response in client.wait_for(list(tasks), timeout=TIMEOUT_S)]


def test_nothing_happens(scene: Scene) -> None:
    leader, waiting = scene.begin()
    scene.let_go()
    scene.finish(waiting | {leader: scene.clients[0]})
    assert len(scene.begun()) == 1


def test_the_leader_fails(scene: Scene) -> None:
    """Its error is nobody else's."""
    leader, waiting = scene.begin()
    (scene.folder / "fail").touch()
    scene.let_go()
    scene.finish(waiting)
    (response,) = ends(scene.clients[0], [leader])
    assert (response.status, response.error.code) == ("error", "general_exception")
    assert len(scene.begun()) == 2


@pytest.mark.parametrize("how", ["clear_task", "cancel"])
def test_the_leader_is_given_up(scene: Scene, how: str) -> None:
    leader, waiting = scene.begin()
    getattr(scene.clients[0], how)(leader)
    until(lambda: len(scene.begun()) == 2)
    scene.let_go()
    scene.finish(waiting)
    assert len(scene.begun()) == 2


def test_the_leader_s_executor_is_killed(scene: Scene) -> None:
    """Which costs the task itself a second run, and nobody else one."""
    leader, waiting = scene.begin()
    os.kill(scene.begun()[0], signal.SIGKILL)
    until(lambda: len(scene.begun()) == 2)
    scene.let_go()
    scene.finish(waiting | {leader: scene.clients[0]})
    assert len(scene.begun()) == 2
    assert all(peer.running for peer in scene.peers)


def killed(peer: RealPeer, scene: Scene) -> None:
    peer.kill()
    ids = [other.id for other in scene.peers if other is not peer]
    until(lambda: all(member.id in ids for client in scene.clients for member in client.peers()))


def test_the_leader_s_owner_is_killed(scene: Scene) -> None:
    """With its executor, and with a third of those who wait: others own them then."""
    leader, waiting = scene.begin()
    killed(scene.peers[0], scene)
    until(lambda: len(scene.begun()) == 2)
    scene.let_go()
    scene.finish(waiting | {leader: scene.clients[0]})
    assert len(scene.begun()) == 2


def test_the_owner_of_the_key_is_killed(scene: Scene) -> None:
    leader, waiting = scene.begin()
    killed(scene.peers[-1], scene)
    scene.let_go()
    scene.finish(waiting | {leader: scene.clients[0]})
    assert len(scene.begun()) <= 2


def test_the_owner_of_the_key_is_killed_as_the_result_comes(scene: Scene) -> None:
    """Whoever has the result already keeps it, and all others get it from the next owner, or compute it."""
    leader, waiting = scene.begin()
    scene.let_go()
    scene.peers[-1].kill()
    scene.finish(waiting | {leader: scene.clients[0]})
    assert len(scene.begun()) <= 2
