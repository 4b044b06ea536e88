"""The kernel kills an executor because memory has run out: that costs what any other end of one costs, and is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import scatterzmq
from tests.processes.cluster import TIMEOUT_S, RealPeer, chain
from tests.processes.conftest import Connect
from tests.processes.memorygroup import MemoryGroup, memory_group

LIMIT_BYTES = 1 << 30
"""Twice what a peer takes with an executor, and another one in reserve or on its way."""
EAT_BYTES = 2 << 30
TASKS = 128
GREEDY = 70
DEATHS = 4
"""Once with others, then alone as often as `tasks.poison_limit` says."""


@pytest.fixture
def memory_limit() -> Iterator[MemoryGroup]:
    """What needs it runs where such groups can be made only."""
    with memory_group(LIMIT_BYTES) as group:
        yield group


@pytest.fixture
def peer(memory_limit: MemoryGroup) -> Iterator[RealPeer]:
    """All of it is in the group."""
    peer = RealPeer(["--no-zeroconf", "--port", "0", "--executors", "1", "--allow", "nodes"], at=memory_limit.inside())
    try:
        yield peer
    finally:
        peer.close()


def run(client: "scatterzmq.Client", ns: str) -> dict[int, "scatterzmq.Response"]:
    """How each task ended."""
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    return {tasks[task]: response for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S)}


def test_a_task_that_fills_memory_costs_executors_and_nothing_else(
    memory_limit: MemoryGroup, peer: RealPeer, connect: Connect, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    client = connect(peer.address)
    glutton = {"greedy": GREEDY, "eat_bytes": EAT_BYTES, "diary": str(diary)}
    ended = run(client, client.load_graph(chain("nodes.glutton", glutton)))
    error = ended.pop(GREEDY).error
    assert error is not None
    assert error.code == "poison"
    assert "out of memory: killed by signal 9" in error.message
    assert {number: int(response.result["value"]) for number, response in ended.items() if response.result} == {
        number: number + 1 for number in range(TASKS) if number != GREEDY
    }

    # It was the kernel, each time, and it has killed nothing else.
    pids = diary.read_text().split()
    assert len(set(pids)) == len(pids) == memory_limit.kills() == DEATHS
    lost = [event["context"]["message"] for event in peer.log if event["event"] == "error.executor"]
    assert len(lost) == DEATHS
    assert all(message.startswith("out of memory: killed by signal 9") for message in lost), lost

    # The peer goes on.
    assert peer.running
    ns = client.load_graph(chain("nodes.glutton", {**glutton, "greedy": -1}, ns="modest"))
    assert {int(response.result["value"]) for response in run(client, ns).values() if response.result} == {
        number + 1 for number in range(TASKS)
    }
