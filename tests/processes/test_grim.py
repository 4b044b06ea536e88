"""Nodes that end or hang their process, or for which there is not enough memory: that costs a child, never a peer, and
a task that was in the same batch one retry.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import TIMEOUT_S, Json, RealCluster, begun_in, chain, real_cluster
from tests.processes.conftest import Connect
from tests.processes.nodes.hungry import ROWS_MAX

pytestmark = pytest.mark.alone
WAVES = (range(1200), range(1200, 1600), range(1600, 2000))
"""Each is submitted when the one before has ended: together they would end more executors than there are."""
BATCH = 32
EXECUTORS = 2
ENDS_PER_WAVE = 4
"""At most; so with one executor more there is one that begins again what these had begun."""
POISON_DEATHS = 4
"""Once with others, then alone as often as `tasks.poison_limit` says."""
MAX_EXEC_S = 4.0
RERUN_S = 3.0
MAX_RETRIES = 2
ONCE = {"exit": 150, "segfault": 450, "kill": 750, "hang": 1050}
POISON = {"exit": 1300, "segfault": 1700}
GREEDY = {"tensor": 1450, "bytes": 1850}
"""Far from each other: no two are in one batch."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RealCluster]:
    """Three peers with more executors than a wave ends."""
    with real_cluster(3, "--executors", str(EXECUTORS)) as cluster:
        yield cluster


def definition(folder: Path) -> Json:
    """A node that ends its process for some tasks, then one that wants more memory than there is for others."""
    ways = {way: [number for number in (ONCE[way], POISON.get(way)) if number is not None] for way in ONCE}
    grim = {**ways, "once": [*ONCE.values()], "diary": str(folder / "ends")}
    made = chain("nodes.grim", grim, steps=2, max_exec_s=MAX_EXEC_S)
    hungry = {way: number + 1 for way, number in GREEDY.items()}
    made["graphs"][0]["nodes"][1] |= {"kind": "nodes.hungry", "args": {**hungry, "diary": str(folder / "memory")}}
    made["graphs"][0]["max_retries"] = MAX_RETRIES
    return made


def count(cluster: RealCluster, name: str) -> int:
    """How many events of that name there have been."""
    return sum(event["event"] == name for peer in cluster.peers for event in peer.log)


def lost_executors(cluster: RealCluster) -> int:
    """How many children have ended with a batch, or were given up with one."""
    return count(cluster, "error.executor")


def executors(cluster: RealCluster) -> int:
    """How many are there now."""
    return count(cluster, "tally.executor.start") - lost_executors(cluster)


def until(holds: Callable[[], bool]) -> None:
    """Events come a moment after what they tell of."""
    until_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until_s, "waited too long"
        time.sleep(0.01)


def rerun_after_s(begun: list[tuple[float, int, int]], way: str, pid: int, died_s: float) -> float | None:
    """How long after the end of a process the first task of the batch that it had was begun again; None if none was.
    What hangs has its time first.
    """
    began_s = max(at_s for at_s, _, whose in begun if whose == pid)
    batch = {number for at_s, number, whose in begun if (at_s, whose) == (began_s, pid)}
    again = [at_s for at_s, number, _ in begun if number in batch and at_s > died_s]
    return min(again) - died_s - (MAX_EXEC_S if way == "hang" else 0.0) if again else None


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
    results, errors, retries = {}, {}, {}
    for wave in WAVES:
        until(lambda: executors(cluster) > ENDS_PER_WAVE)
        tasks = {client.enqueue_task(ns, {"value": number}): number for number in wave}
        for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
            number = tasks.pop(task)
            retries[number] = response.retries
            if response.result is not None:
                results[number] = int(response.result["value"])
            else:
                assert response.error is not None, f"{number} is {response.status}"
                errors[number] = str(response.error.code)
        assert not tasks
    numbers = [number for wave in WAVES for number in wave]
    guilty = {*ONCE.values(), *POISON.values(), *GREEDY.values()}
    wrong = dict.fromkeys(POISON.values(), "poison") | dict.fromkeys(GREEDY.values(), "out_of_memory")
    assert errors == wrong
    assert results == {number: number + 2 for number in numbers if number not in wrong}

    # Each end was one of a process of its own, and all of them were the doing of these tasks.
    ends = [line.split() for line in (tmp_path / "ends").read_text().splitlines()]
    assert len({pid for _, _, pid, _ in ends}) == len(ends)
    often = dict.fromkeys(ONCE.items(), 1)
    often |= dict.fromkeys(POISON.items(), POISON_DEATHS)
    assert Counter((way, int(number)) for way, number, *_ in ends) == often
    until(lambda: lost_executors(cluster) >= len(ends))
    assert lost_executors(cluster) == len(ends)

    # What was begun with them was soon begun again, but for those that had ended as poison.
    begun = begun_in(tmp_path / "begun")
    reruns = [(way, number, rerun_after_s(begun, way, int(pid), float(at_s))) for way, number, pid, at_s in ends]
    assert [way for way, _, after_s in reruns if after_s is None] == [*POISON]
    assert all(after_s <= RERUN_S for _, _, after_s in reruns if after_s is not None), reruns

    # What it cost: those to blame a retry per end but the last, those beside them in the first batch one.
    assert {retries[number] for number in ONCE.values()} == {1}
    assert {retries[number] for number in POISON.values()} == {POISON_DEATHS - 1}
    assert {retries[number] for number in GREEDY.values()} == {MAX_RETRIES}
    beside = [retries[number] for number in numbers if number not in guilty]
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
