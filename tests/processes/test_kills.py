"""Two thousand tasks, and in the middle of them a peer is killed, halted, or asked to leave."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import scatterzmq
from tests.processes.cluster import NAP, RealCluster, RealPeer, chain
from tests.processes.conftest import Connect

TASKS = 2000
NAP_MS = 2.0
RERUN_S = 3.0


def home_of(client: "scatterzmq.Client", cluster: RealCluster) -> RealPeer:
    """The peer that this client talks to."""
    home = client.peers()[0].id
    return next(peer for peer in cluster.peers if peer.id == home)


def run_through(client: "scatterzmq.Client", diary: Path, accident: Callable[[], None]) -> float:
    """All tasks, with an accident when a third is through; checks every result. Returns when the accident happened."""
    ns = client.load_graph(chain(NAP, {"nap_ms": NAP_MS, "diary": str(diary)}), replace=True)
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    client.flush(timeout=60.0)
    happened_s = 0.0
    ended: dict[str, int] = {}
    for task, response in client.wait_for(list(tasks), timeout=60.0):
        response.ok()
        assert response.result is not None, f"{task} is {response.status} after {len(ended)} others"
        assert task not in ended
        ended[task] = int(response.result["value"])
        if len(ended) == TASKS // 3:
            happened_s = time.monotonic()
            accident()
    assert ended == {task: number + 1 for task, number in tasks.items()}
    return happened_s


def rerun_after_s(diary: Path, happened_s: float, pids: Sequence[int]) -> float | None:
    """How long after the accident the first task was begun again that one of these processes had begun before; None if
    none was: it may just have been between two batches.
    """
    begun: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for line in diary.read_text().splitlines():
        time_s, number, pid = line.split()
        begun[int(number)].append((float(time_s), int(pid)))
    again = []
    for times in begun.values():
        if any(pid in pids for _, pid in times):
            again += [at_s for at_s, pid in times if at_s > happened_s and pid not in pids]
    return min(again) - happened_s if again else None


@pytest.mark.parametrize("role", ["the peer that the client talks to", "another", "the third"])
def test_a_peer_is_killed(cluster: RealCluster, connect: Connect, diary: Path, role: str) -> None:
    client = connect(cluster.addresses)
    home = home_of(client, cluster)
    others = [peer for peer in cluster.peers if peer.running and peer is not home]
    victim = {"the peer that the client talks to": home, "another": others[0], "the third": others[1]}[role]
    pids = victim.children()
    happened_s = run_through(client, diary, victim.kill)
    cluster.add()
    after_s = rerun_after_s(diary, happened_s, pids)
    noticed = [event for peer in cluster.peers for event in peer.log if event["event"].startswith("peer.")]
    assert after_s is None or after_s <= RERUN_S, f"{after_s} s after {happened_s}: {noticed}"


def test_a_peer_is_halted_and_goes_on(cluster: RealCluster, connect: Connect, diary: Path) -> None:
    client = connect(cluster.addresses)
    home = home_of(client, cluster)
    run_through(client, diary, home.halt)
    home.go_on()
    run_through(client, diary, lambda: None)


def test_a_peer_leaves(cluster: RealCluster, connect: Connect, diary: Path) -> None:
    client = connect(cluster.addresses)
    home = home_of(client, cluster)
    run_through(client, diary, home.terminate)
    assert home.wait() == 0
    cluster.add()


def test_a_child_is_killed(cluster: RealCluster, connect: Connect, diary: Path) -> None:
    client = connect(cluster.addresses)
    home = home_of(client, cluster)

    def accident() -> None:
        pid = int(diary.read_text().splitlines()[-1].split()[2])
        os.kill(pid, signal.SIGKILL)

    run_through(client, diary, accident)
    assert home.running
