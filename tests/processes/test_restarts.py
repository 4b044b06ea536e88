"""Peers that come back: one after the other, and all of them at once with a journal."""

import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import scatterzmq
from scatterzmq.errors import ClusterError
from tests.processes.cluster import NAP, TIMEOUT_S, RealCluster, begun_in, chain, real_cluster
from tests.processes.conftest import Connect

TASKS = 2000
ROLLING_NAP_MS = 5.0
ACCEPTED, PENDING, WINDOW = 300, 50, 512
ORDERS = {"sync": [(2, 0, 1), (0, 1, 2), (1, 2, 0)], "batch": [(2, 1, 0)]}
Tasks = dict[str, int]
"""By id: what they are of."""


def submit(client: "scatterzmq.Client", tasks: int, nap_ms: float) -> Tasks:
    ns = client.load_graph(chain(NAP, {"nap_ms": nap_ms}), replace=True)
    ids = {str(client.enqueue_task(ns, {"value": number})): number for number in range(tasks)}
    client.flush(timeout=TIMEOUT_S)
    return ids


def collect(client: "scatterzmq.Client", tasks: Tasks) -> Iterator[int]:
    """The values of the tasks as they end, each checked."""
    ended: Tasks = {}
    for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
        response.ok()
        assert response.result is not None, f"{task} is {response.status} after {len(ended)} others"
        ended[str(task)] = int(response.result["value"])
        yield len(ended)
    assert ended == {task: number + 1 for task, number in tasks.items()}


def test_rolling_kills_under_load(connect: Connect) -> None:
    """Each of three in turn is killed, started again 4 s later, and the next one is killed 6 s after that. Tasks that
    were there before, and others that come as long as that goes on.
    """
    with real_cluster(3) as cluster:
        client = connect(cluster.addresses)
        tasks = submit(client, TASKS, ROLLING_NAP_MS)
        with ThreadPoolExecutor(1) as thread:
            killing = thread.submit(kill_in_turn, cluster)
            under_way: deque[tuple[int, Future[Any]]] = deque()
            for number in itertools.count():
                under_way.append((number, client.submit("main", value=number)))
                if len(under_way) == TASKS:
                    check(*under_way.popleft())
                    if killing.done():
                        break
            killing.result()
        for left in under_way:
            check(*left)
        for _ in collect(client, tasks):
            pass


def kill_in_turn(cluster: RealCluster) -> None:
    pause = threading.Event()
    for peer in list(cluster.peers):
        peer.kill()
        pause.wait(4.0)
        cluster.add(port=peer.port)
        pause.wait(6.0)


def check(number: int, future: "Future[Any]") -> None:
    assert int(future.result(TIMEOUT_S)["value"]) == number + 1


class Journaled:
    """Three peers with journals, which are killed together and started again where they were, in any order."""

    def __init__(self, cluster: RealCluster, folder: Path, mode: str) -> None:
        self._cluster = cluster
        self._args = [["--data-dir", str(folder / str(number)), "--journal", mode] for number in range(3)]
        self._peers = [cluster.add(*args) for args in self._args]
        cluster.until_joined()

    @property
    def addresses(self) -> list[str]:
        return [peer.address for peer in self._peers]

    def kill(self) -> None:
        """At once: none of them sees another one go."""
        for peer in self._peers:
            os.kill(peer.pid, signal.SIGKILL)

    def wait(self) -> None:
        for peer in self._peers:
            peer.wait()

    def start(self, order: Sequence[int]) -> None:
        joins = [word for address in self.addresses for word in ("--join", address)]
        ports = [peer.port for peer in self._peers]
        for number in order:
            self._peers[number] = self._cluster.add(*self._args[number], *joins, port=ports[number])


def killed_in_mid_submission(client: "scatterzmq.Client", ns: str, peers: Journaled) -> tuple[Tasks, Tasks]:
    """What the client knows to be accepted after all that they ever said, and what it had enqueued besides."""
    tasks: Tasks = {}
    numbers = itertools.count(1000)

    def enqueue() -> None:
        number = next(numbers)
        tasks[str(client.enqueue_task(ns, {"value": number}))] = number

    while len(tasks) - client._session.pending_count < ACCEPTED:
        enqueue()
    peers.kill()
    while client._session.pending_count < PENDING:  # what they had answered may be on its way yet
        enqueue()
    peers.wait()
    pending = {str(task) for task in list(client._session._pending)}
    accepted = {task: number for task, number in tasks.items() if task not in pending}
    return accepted, {task: tasks[task] for task in pending}


def forget(client: "scatterzmq.Client") -> None:
    """As if its process had been killed: it never says anything again."""
    client._session.end(ClusterError("it is gone"))
    with pytest.raises(ClusterError, match="it is gone"):
        client.close()


@pytest.mark.parametrize("mode", ["sync", "batch"])
def test_all_are_killed_while_tasks_come_and_started_again_in_any_order(
    connect: Connect, tmp_path: Path, diary: Path, mode: str
) -> None:
    """Who enqueued is gone as well, so all that is there has been on disk. What had ended is not run again. Each peer
    tells of all of it.
    """
    with real_cluster(0) as cluster:
        peers = Journaled(cluster, tmp_path, mode)
        owner, *holders = peers.addresses
        for order in ORDERS[mode]:
            client = connect(owner, window=WINDOW)
            ns = client.load_graph(chain(NAP, {"nap_ms": 20.0, "diary": str(diary)}), replace=True)
            ended = {str(client.enqueue_task(ns, {"value": number})): number for number in range(50)}
            for _ in collect(client, ended):
                pass
            assert {client.get_response(task).durable for task in ended} == {mode == "sync"}
            accepted, _ = killed_in_mid_submission(client, ns, peers)
            forget(client)
            runs = len(begun_in(diary))
            peers.start(order)
            again, *others = [connect(address, timeout_s=TIMEOUT_S) for address in (owner, *holders)]
            tasks = ended | accepted
            for client in (again, *others):
                for _ in collect(client, tasks):
                    pass
            assert {again.get_response(task).durable for task in tasks} == {mode == "sync"}
            assert not {number for _, number, _ in begun_in(diary)[runs:]} & {*ended.values()}
            assert {number for _, number, _ in begun_in(diary)[runs:]} & {*accepted.values()}, "there was nothing to do"
            for task in tasks:
                again.clear_task(task)


def test_who_enqueues_while_all_are_killed_and_started_again_goes_on(connect: Connect, tmp_path: Path) -> None:
    """It says again what nobody had accepted, and its tasks end once."""
    with real_cluster(0) as cluster:
        peers = Journaled(cluster, tmp_path, "sync")
        client = connect(peers.addresses, window=WINDOW)
        ns = client.load_graph(chain(NAP, {"nap_ms": 2.0}))
        accepted, others = killed_in_mid_submission(client, ns, peers)
        peers.start((1, 0, 2))
        for _ in collect(client, accepted | others):
            pass


def test_a_peer_alone_says_so_and_two_keep_a_copy_each(connect: Connect) -> None:
    with real_cluster(1) as cluster:
        client = connect(cluster.addresses)
        first = submit(client, 20, 1.0)
        (response,) = [response for _, response in client.wait_for(list(first)[:1])]
        assert response.copies == 1
        cluster.add()
        cluster.until_joined()
        second = submit(client, 1000, 5.0)
        for _ in collect(client, second):
            pass
        assert client.get_response(next(iter(second))).copies == 2


def test_the_last_one_to_leave_says_how_many_tasks_are_lost(connect: Connect) -> None:
    """It finishes the one that runs, and has nobody to give the others to."""
    with real_cluster(1, "--executors", "1", "--batch-size", "1") as cluster:
        (last,) = cluster.peers
        submit(connect(last.address), 20, 500.0)
        last.terminate()
        said = last.wait_for_event("error.peer.lost")
        assert last.wait() == 3
        assert 0 < said["context"]["tasks"] < 20


def test_a_peer_leaves_when_it_is_told_to(connect: Connect) -> None:
    with real_cluster(2) as cluster:
        leaving = cluster.peers[0]
        client = connect(leaving.address)
        tasks = submit(client, 200, 20.0)
        leaving.terminate()
        for _ in collect(client, tasks):
            pass
        assert leaving.wait() == 0
        leaving_last = cluster.peers[1]
        leaving_last.interrupt()
        assert leaving_last.wait() == 0
