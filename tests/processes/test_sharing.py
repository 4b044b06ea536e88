"""A second peer joins one that has more work than it can do: it takes half of it. Batches of more than a message may
carry are shared all the same.
"""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.processes.cluster import NAP, TIMEOUT_S, RealPeer, begun_in, chain, real_cluster
from tests.processes.conftest import Connect

pytestmark = pytest.mark.alone
LOAD_S = 60.0
"""What one peer alone would need for all of it."""
JOINS_WITHIN_S = 2.0
WINDOW_S = 4.0


def share_of(peer: RealPeer, diary: Path, from_s: float, to_s: float) -> float:
    """How much of all that was begun between two times its executors have begun."""
    by_pid = Counter(pid for at_s, _, pid in begun_in(diary) if from_s <= at_s < to_s)
    return sum(by_pid[pid] for pid in peer.children()) / by_pid.total()


@pytest.mark.parametrize("nap_ms", [5.0, 20.0])
def test_a_second_peer_takes_half_the_work_within_two_seconds(connect: Connect, diary: Path, nap_ms: float) -> None:
    """Of joining: of being a member, as the first one says, with an executor. (Before that its child imports torch.)"""
    tasks = int(1000 * LOAD_S / nap_ms)
    with real_cluster(1, "--executors", "1") as cluster:
        client = connect(cluster.addresses)
        ns = client.load_graph(chain(NAP, {"nap_ms": nap_ms, "diary": str(diary)}))
        for number in range(tasks):
            client.enqueue_task(ns, {"value": number})
        client.flush(timeout=TIMEOUT_S)
        second = cluster.add()
        cluster.peers[0].wait_for_event("peer.join")
        second.wait_for_event("tally.executor.start")
        started_s = time.monotonic()
        pause = threading.Event()
        until_s = started_s + JOINS_WITHIN_S + WINDOW_S
        pause.wait(max(0.0, until_s - time.monotonic()))
        share = share_of(second, diary, started_s + JOINS_WITHIN_S, until_s)
        assert len(begun_in(diary)) < tasks, "there was nothing left to share"
        client.close()
        for peer in cluster.peers:
            peer.kill()
    assert 0.35 <= share <= 0.65, f"{share:.0%}"


SWELL = "nodes.swell"
SWELL_TASKS = 160
"""Of 1 MiB each: twenty times as much as a message may carry."""


def test_results_of_more_than_a_message_may_carry_come_back(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two peers each gets some of the tasks; a batch of 64 comes to 64 MiB."""
    for key, value in {"message_bytes": "8MiB", "batch_bytes": "3MiB"}.items():
        monkeypatch.setenv(f"SCATTERZMQ_NETWORK_{key.upper()}", value)
    with real_cluster(2, "--executors", "1", "--batch-size", "64") as cluster:
        client = connect(cluster.addresses[0])
        inputs = {"value": ["float", []], "number": ["long", []]}
        result = {"value": ["float", [1 << 18]]}
        nodes = [
            {
                "name": "warm",
                "kind": NAP,
                "args": {"nap_ms": 20.0},
                "vmap": {"value": ":number"},
                "outs": {"out": "swell"},
            },
            {"name": "swell", "kind": SWELL, "args": {}, "vmap": {"value": ":value"}, "outs": {"out": None}},
        ]
        graph = {
            "name": "main",
            "input": "warm",
            "input_format": inputs,
            "output_format": result,
            "vmap": {"value": "swell:value"},
            "nodes": nodes,
        }
        ns = client.load_graph({"ns": "swell", "entry": "main", "graphs": [graph]})
        tasks = {
            client.enqueue_task(ns, {"value": float(number), "number": number}): number for number in range(SWELL_TASKS)
        }
        for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
            response.ok()
            assert response.result is not None
            found = response.result["value"]
            assert (found.shape, float(found[0]), float(found[-1])) == ((1 << 18,), tasks[task], tasks[task])
            client.clear_task(task)
        counters = client._run(client._calls.stats()).counters
        assert counters["returned"] > 0, "both had some"
        assert counters.get("rejected_total_bytes", 0) == 0
