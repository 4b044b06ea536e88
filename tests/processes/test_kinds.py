"""A plug-in that only one of two peers allows; the client talks to the other one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import scatterzmq
from scatterzmq.errors import GraphError
from scatterzmq.ids import TaskId
from tests.processes.bare import counters
from tests.processes.cluster import NAP, TIMEOUT_S, RealCluster, RealPeer, begun_in, chain
from tests.processes.conftest import Connect

pytestmark = pytest.mark.alone
TASKS = 200


@pytest.fixture
def cluster() -> Iterator[RealCluster]:
    """The first peer allows what naps, the second one does not."""
    cluster = RealCluster("--executors", "1")
    try:
        cluster.add(allow=(NAP,))
        cluster.add(allow=())
        cluster.until_joined()
        yield cluster
    finally:
        cluster.close()


def pids_of(*peers: RealPeer) -> set[int]:
    return {pid for peer in peers for pid in peer.children()}


def ended(client: "scatterzmq.Client", tasks: dict[TaskId, int]) -> dict[TaskId, int]:
    """What came of tasks, when all have ended."""
    results = {}
    for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
        response.ok()
        assert response.result is not None
        results[task] = int(response.result["value"])
    return results


def test_a_graph_is_used_through_a_peer_that_cannot_run_it(cluster: RealCluster, connect: Connect, diary: Path) -> None:
    able, other = cluster.peers
    client = connect(other.address)
    with pytest.raises(GraphError, match=r"none of the 2 peers has all .* missing are 'nodes.held' at 2: install and"):
        client.load_graph(chain("nodes.held", ns="nobody"))
    ns = client.load_graph(chain(NAP, {"nap_ms": 1.0, "diary": str(diary)}))
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    assert ended(client, tasks) == {task: number + 1 for task, number in tasks.items()}
    assert counters(other.address)["accepted"] == TASKS
    assert {pid for _, _, pid in begun_in(diary)} <= pids_of(able)


def test_when_the_only_one_is_killed_that_can_run_a_graph_its_tasks_wait_until_it_is_back(
    cluster: RealCluster, connect: Connect, diary: Path
) -> None:
    able, other = cluster.peers
    client = connect(other.address)
    ns = client.load_graph(chain(NAP, {"nap_ms": 20.0, "diary": str(diary)}))
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    client.flush(timeout=TIMEOUT_S)
    next(iter(client.wait_for(list(tasks), timeout=TIMEOUT_S)))
    able.kill()
    other.wait_for_event("peer.dead")
    more = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS, TASKS + 10)}
    client.flush(timeout=TIMEOUT_S)
    again = cluster.add(port=able.port, allow=(NAP,))
    tasks |= more
    assert ended(client, tasks) == {task: number + 1 for task, number in tasks.items()}
    pids = {pid for _, _, pid in begun_in(diary)}
    assert pids & pids_of(again)
    assert not pids & pids_of(other)
