"""Peers that come back: one after the other, and all of them at once with a journal."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import scatterzmq
from tests.processes.cluster import NAP, TIMEOUT_S, chain, real_cluster
from tests.processes.conftest import Connect

TASKS = 2000


def submit(client: "scatterzmq.Client", tasks: int, nap_ms: float) -> dict[str, int]:
    ns = client.load_graph(chain(NAP, {"nap_ms": nap_ms}), replace=True)
    ids = {str(client.enqueue_task(ns, {"value": number})): number for number in range(tasks)}
    client.flush(timeout=TIMEOUT_S)
    return ids


def collect(client: "scatterzmq.Client", tasks: dict[str, int]) -> Iterator[int]:
    """The values of the tasks as they end, each checked."""
    ended: dict[str, int] = {}
    for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
        response.ok()
        assert response.result is not None, f"{task} is {response.status} after {len(ended)} others"
        ended[str(task)] = int(response.result["value"])
        yield len(ended)
    assert ended == {task: number + 1 for task, number in tasks.items()}


def test_rolling_kills_under_load(connect: Connect) -> None:
    """Each of three in turn is killed, started again 4 s later, and the next one is killed 6 s after that."""
    with real_cluster(3) as cluster:
        client = connect(cluster.addresses)
        tasks = submit(client, 2 * TASKS, 25.0)
        over = threading.Event()
        began_again: list[str] = []

        def kill_all() -> None:
            for peer in list(cluster.peers):
                peer.kill()
                over.wait(4.0)
                began_again.append(cluster.add(port=peer.port).id)
                if over.wait(6.0):
                    return

        killer = threading.Thread(target=kill_all)
        killer.start()
        try:
            for _ in collect(client, tasks):
                pass
        finally:
            in_time = len(began_again)
            over.set()
            killer.join()
        assert in_time == 3, "the job was over before the third one was back"


@pytest.mark.parametrize("mode", ["sync", "batch"])
def test_all_are_killed_and_come_back_with_their_journals(connect: Connect, tmp_path: Path, mode: str) -> None:
    def arguments(number: int) -> list[str]:
        return ["--data-dir", str(tmp_path / str(number)), "--journal", mode]

    with real_cluster(0) as cluster:
        peers = [cluster.add(*arguments(number)) for number in range(3)]
        client = connect(cluster.addresses)
        tasks = submit(client, 300, 10.0)
        done = next(count for count in collect(client, tasks) if count == 50)
        assert done == 50
        for peer in peers:
            peer.kill()
        ports = [peer.port for peer in peers]
        for number in (2, 0, 1):
            others = [word for port in ports for word in ("--join", f"tcp://127.0.0.1:{port}")]
            cluster.add(*arguments(number), *others, port=ports[number])
        again = connect(cluster.addresses)
        for _ in collect(again, tasks):
            pass


def test_a_peer_alone_says_so_and_another_takes_half_of_the_work(connect: Connect) -> None:
    with real_cluster(1) as cluster:
        client = connect(cluster.addresses)
        first = submit(client, 20, 1.0)
        (response,) = [response for _, response in client.wait_for(list(first)[:1])]
        assert response.copies == 1
        cluster.add()
        cluster.peers[1].wait_for_event("tally.executor.start")
        second = submit(client, 1000, 5.0)
        for _ in collect(client, second):
            pass
        assert client.get_response(next(iter(second))).copies == 2


def test_a_peer_leaves_when_it_is_told_to(connect: Connect) -> None:
    with real_cluster(2) as cluster:
        client = connect(cluster.addresses)
        tasks = submit(client, 200, 5.0)
        leaving = cluster.peers[0]
        leaving.terminate()
        for _ in collect(client, tasks):
            pass
        assert leaving.wait() == 0
        leaving_last = cluster.peers[1]
        leaving_last.interrupt()
        assert leaving_last.wait() == 0
