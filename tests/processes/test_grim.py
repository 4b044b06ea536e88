"""Nodes that end or hang their process cost a child, never a peer, and never a neighbour in the batch."""

from pathlib import Path
from typing import Any

import pytest

from tests.processes.cluster import TIMEOUT_S, RealCluster, chain
from tests.processes.conftest import Connect

TASKS = 64
GRIM = 13


def outcomes(connect: Connect, cluster: RealCluster, args: dict[str, Any], **keys: Any) -> dict[int, Any]:
    """What came of each value: a number, or the code of its error."""
    client = connect(cluster.addresses)
    ns = client.load_graph(chain("nodes.grim", args, **keys), replace=True)
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    ended: dict[int, Any] = {}
    for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
        assert response.status.complete, f"{tasks[task]} is {response.status}"
        error = response.error
        ended[tasks[task]] = int(response.result["value"]) if response.result is not None else error and error.code
    return ended


WELL = {number: number + 1 for number in range(TASKS)}


@pytest.mark.parametrize("way", ["exit", "segfault", "kill"])
def test_a_task_that_ends_its_executor_once_is_done_by_another(
    cluster: RealCluster, connect: Connect, tmp_path: Path, way: str
) -> None:
    assert outcomes(connect, cluster, {way: GRIM, "once": str(tmp_path)}) == WELL
    assert (tmp_path / way).exists(), "it has happened"
    assert all(peer.running for peer in cluster.peers)


@pytest.mark.parametrize("way", ["exit", "segfault"])
def test_a_task_that_always_ends_its_executor_is_poison(cluster: RealCluster, connect: Connect, way: str) -> None:
    assert outcomes(connect, cluster, {way: GRIM}) == WELL | {GRIM: "poison"}
    assert all(peer.running for peer in cluster.peers)


def test_a_task_that_hangs_once_is_done_by_another(cluster: RealCluster, connect: Connect, tmp_path: Path) -> None:
    assert outcomes(connect, cluster, {"hang": GRIM, "once": str(tmp_path)}, max_exec_s=2.0) == WELL
    assert (tmp_path / "hang").exists()
