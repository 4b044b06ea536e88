"""Nodes that end or hang their process, or for which there is not enough memory: that costs a child, never a peer, and
a task that was in the same batch one retry.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.processes.cluster import TIMEOUT_S, Json, RealCluster, chain
from tests.processes.conftest import Connect
from tests.processes.nodes.hungry import ROWS_MAX

TASKS = 2000
BATCH = 32
POISON_DEATHS = 4
"""Once with others, then alone as often as `tasks.poison_limit` says."""
MAX_EXEC_S = 4.0
MAX_RETRIES = 2
ONCE = {"exit": 150, "segfault": 450, "kill": 750, "hang": 1050}
POISON = {"exit": 300, "segfault": 900}
GREEDY = {"tensor": 600, "bytes": 1200}
"""Far from each other: no two are in one batch."""


def definition(folder: Path) -> Json:
    """A node that ends its process for some tasks, then one that wants more memory than there is for others."""
    ways = {way: [number for number in (ONCE[way], POISON.get(way)) if number is not None] for way in ONCE}
    grim = {**ways, "once": [*ONCE.values()], "diary": str(folder / "ends")}
    made = chain("nodes.grim", grim, steps=2, max_exec_s=MAX_EXEC_S)
    hungry = {way: number + 1 for way, number in GREEDY.items()}
    made["graphs"][0]["nodes"][1] |= {"kind": "nodes.hungry", "args": {**hungry, "diary": str(folder / "memory")}}
    made["graphs"][0]["max_retries"] = MAX_RETRIES
    return made


def lost_executors(cluster: RealCluster) -> int:
    """How many children have ended with a batch, or were given up with one."""
    return sum(event["event"] == "error.executor" for peer in cluster.peers for event in peer.log)


def until(holds: Callable[[], bool]) -> None:
    """Events come a moment after what they tell of."""
    until_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until_s, "waited too long"
        time.sleep(0.01)


def has_torch(pid: int) -> bool:
    """Whether a process has torch in memory."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def oom_score(pid: int) -> int:
    """How readily the system kills a process when memory runs out."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_some_of_two_thousand_tasks_end_their_executors(cluster: RealCluster, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "ends").touch()
    client = connect(cluster.addresses)
    ns = client.load_graph(definition(tmp_path))
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    results, errors, retries = {}, {}, {}
    for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
        number = tasks.pop(task)
        retries[number] = response.retries
        if response.result is not None:
            results[number] = int(response.result["value"])
        else:
            assert response.error is not None, f"{number} is {response.status}"
            errors[number] = str(response.error.code)
    guilty = {*ONCE.values(), *POISON.values(), *GREEDY.values()}
    wrong = dict.fromkeys(POISON.values(), "poison") | dict.fromkeys(GREEDY.values(), "out_of_memory")
    assert not tasks
    assert errors == wrong
    assert results == {number: number + 2 for number in range(TASKS) if number not in wrong}

    # Each end was one of a process of its own, and all of them were the doing of these tasks.
    ends = [line.split() for line in (tmp_path / "ends").read_text().splitlines()]
    assert len({pid for _, _, pid in ends}) == len(ends)
    often = dict.fromkeys(ONCE.items(), 1)
    often |= dict.fromkeys(POISON.items(), POISON_DEATHS)
    assert Counter((way, int(number)) for way, number, _ in ends) == often
    until(lambda: lost_executors(cluster) >= len(ends))
    assert lost_executors(cluster) == len(ends)

    # What it cost: those to blame a retry per end but the last, those beside them in the first batch one.
    assert {retries[number] for number in ONCE.values()} == {1}
    assert {retries[number] for number in POISON.values()} == {POISON_DEATHS - 1}
    assert {retries[number] for number in GREEDY.values()} == {MAX_RETRIES}
    beside = [retries[number] for number in range(TASKS) if number not in guilty]
    assert max(beside) == 1
    assert sum(beside) <= (len(ONCE) + len(POISON)) * (BATCH - 1)

    # Batches that did not fit were halved, at no cost.
    said = [line.split() for line in (tmp_path / "memory").read_text().splitlines()]
    assert max(int(rows) for rows, what, _ in said if what == "wanted") > ROWS_MAX
    assert max(int(rows) for rows, what, _ in said if what == "had") <= ROWS_MAX

    assert all(peer.running for peer in cluster.peers)
    for peer in cluster.peers:
        assert not has_torch(peer.pid), "all of it is the children's"
        ready = [pid for pid in peer.children() if has_torch(pid)]
        assert all(oom_score(pid) > oom_score(peer.pid) for pid in ready), "children are to go first"
    assert any(has_torch(pid) for peer in cluster.peers for pid in peer.children()), "it would be seen"
