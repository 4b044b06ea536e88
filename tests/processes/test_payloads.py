"""Results that stay where they were made, between real peers; one of them dies with some, or leaves."""

from collections.abc import Callable, Iterator

import pytest

import scatterzmq
from tests.processes.bare import counters
from tests.processes.cluster import NAP, RealCluster, RealPeer, chain, real_cluster
from tests.processes.conftest import Connect

TASKS, STEPS = 400, 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    """Three peers for which every tensor is large."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SCATTERZMQ_STORE_INLINE_BYTES", "0")
        environment.setenv("SCATTERZMQ_EXECUTOR_BATCH_SIZE", "8")
        with real_cluster(3, "--executors", "1") as cluster:
            yield cluster


@pytest.mark.parametrize("accident", [None, RealPeer.kill, RealPeer.terminate], ids=["none", "death", "leaving"])
def test_results_are_right_wherever_their_inputs_lie(
    cluster: RealCluster, connect: Connect, accident: Callable[[RealPeer], None] | None
) -> None:
    cluster.until_joined()
    home = next(peer for peer in cluster.peers if peer.running)  # owns the tasks, and counts what it grants
    client = connect(home.address)
    ns = client.load_graph(chain(NAP, {"nap_ms": 1.0}, steps=STEPS), replace=True)
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    ended: dict[scatterzmq.TaskId, int] = {}
    for task, response in client.wait_for(list(tasks), timeout=60.0):
        response.ok()
        assert response.result is not None
        ended[task] = int(response.result["value"])
        if accident is not None and len(ended) == TASKS // 4:
            accident(next(peer for peer in cluster.peers if peer.running and peer is not home))
    assert ended == {task: number + STEPS for task, number in tasks.items()}
    counted = counters(home.address)
    assert counted["rows_granted_by_name"] > 0
    assert counted.get("payloads_wrong", 0) == 0
    if accident is not None:
        cluster.add()
