"""Processes full of clients: many at work at once, many killed in mid-wait, many that are halted and do not read."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import scatterzmq
from scatterzmq.core.messages import Attach, Stats
from tests.processes.bare import bare, stats
from tests.processes.cluster import NAP, ROOT, TIMEOUT_S, RealCluster, chain, real_cluster
from tests.processes.conftest import Connect

pytestmark = pytest.mark.alone
MIB = 1 << 20
PROCESSES, CLIENTS = 5, 10
"""Clients of each process."""
OUTBOX_BYTES = 4 * MIB
KILLED, HALTED, RUDE = 3, 2, 2
"""Processes that are killed, and halted; clients of each peer that ask and do not read."""
RESULT_TTL_S = 5.0
RATE_S = 3.0
PIPE_BYTES = 64 * MIB
"""What libzmq may hold for one client: 64 messages (net/options.py ROUTER) of 1 MiB."""
SLACK_BYTES = 200 * MIB
"""What else a peer may come to hold while it does a job: memory that is free, and not given back."""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Two peers that keep little for those who do not read, and nothing for long."""
    config = tmp_path_factory.mktemp("crowds") / "peer.toml"
    config.write_text(f"[network]\noutbox_bytes = {OUTBOX_BYTES}\n[tasks]\nresult_ttl_s = {RESULT_TTL_S}\n")
    with real_cluster(2, "--config", str(config)) as cluster:
        yield cluster


# ---- processes


HEAD = f"""
import json, sys, threading
import scatterzmq
from tests.processes.cluster import NAP, chain

def clients(addresses):
    return [scatterzmq.connect(addresses) for _ in range({CLIENTS})]

def say(what):
    print(json.dumps(what), flush=True)

def works(client, first, ended):
    numbers = {{client.enqueue_task("main", {{"value": first + at}}): first + at for at in range(20)}}
    for task, response in client.wait_for(list(numbers), timeout={TIMEOUT_S}):
        response.ok()
        ended[task] = numbers[task]
"""


class Process:
    """Clients of their own. They say something in lines of JSON, and wait for lines."""

    def __init__(self, text: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HEAD + dedent(text), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def processes(count: int, text: str, *args: str) -> Iterator[list[Process]]:
    """So many, each with its number as the first argument."""
    with ExitStack() as stack:
        made = []
        for number in range(count):
            made.append(Process(text, str(number), *args))
            stack.callback(made[-1].close)
        yield made


# ---- how peers are


def rss_bytes(cluster: RealCluster) -> list[int]:
    """What each peer has in memory."""
    texts = [Path(f"/proc/{peer.pid}/status").read_text() for peer in cluster.peers]
    return [1024 * int(text.partition("VmRSS:")[2].split()[0]) for text in texts]


def grown_bytes(cluster: RealCluster, before: list[int]) -> int:
    """How much more the one has that has grown most."""
    return max(now - was for now, was in zip(rss_bytes(cluster), before, strict=True))


def summed(cluster: RealCluster, number: Callable[[Stats], int]) -> int:
    """Over all peers: whoever did it has counted it."""
    return sum(number(stats(peer.address)) for peer in cluster.peers)


def counted(cluster: RealCluster, name: str) -> int:
    return summed(cluster, lambda said: said.counters.get(name, 0))


def until(holds: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until_s, f"waited too long: {what}"


def swelling() -> dict[str, Any]:
    """One number in, one MiB out."""
    one, many = {"value": ["float", []]}, {"value": ["float", [1 << 18]]}
    definition = chain("nodes.swell", ns="swell")
    definition["graphs"][0] |= {"input_format": one, "output_format": many}
    return definition


def all_right(client: "scatterzmq.Client", tasks: Mapping[str, int]) -> None:
    """Each has ended once, with what it should."""
    ended = {}
    for task, response in client.wait_for(list(tasks), timeout=TIMEOUT_S):
        response.ok()
        assert response.result is not None
        ended[str(task)] = int(response.result["value"])
    assert ended == {task: number + 1 for task, number in tasks.items()}


def job(client: "scatterzmq.Client", *, first: int = 0, tasks: int = 20) -> None:
    all_right(client, {str(client.enqueue_task("main", {"value": first + at})): first + at for at in range(tasks)})


# ---- tests


def test_five_processes_of_ten_clients_each(crowded: RealCluster, connect: Connect) -> None:
    """All at once. What they were told is compared here: they have no torch, and need none to wait for tasks."""
    text = """
    mine = clients(sys.argv[2:])
    say("ready")
    sys.stdin.readline()
    ended = {}
    threads = [threading.Thread(target=works, args=(client, 1000 * int(sys.argv[1]) + 20 * at, ended))
               for at, client in enumerate(mine)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say(ended)
    say("torch" in sys.modules)
    """
    client = connect(crowded.addresses)
    client.load_graph(chain(NAP, {"nap_ms": 0.1}))
    before = counted(crowded, "network_clients")
    with processes(PROCESSES, text, *crowded.addresses) as others:
        assert [other.hear() for other in others] == ["ready"] * PROCESSES
        assert counted(crowded, "network_clients") - before >= PROCESSES * CLIENTS
        for other in others:
            other.go_on()
        tasks: dict[str, int] = {}
        for other in others:
            tasks |= other.hear()
        assert [other.hear() for other in others] == [False] * PROCESSES
        assert len(tasks) == PROCESSES * CLIENTS * 20
        all_right(client, tasks)


def test_clients_that_are_killed_in_mid_wait_leave_nothing_behind(crowded: RealCluster, connect: Connect) -> None:
    """With hundreds of results that nobody has read or ever will, and tasks that have not ended. Three times: memory
    that is free is not always given back, but then it is there for the next ones.
    """
    text = """
    mine = clients(sys.argv[2:])
    for client in mine:
        for at in range(4): client.enqueue_task("swell", {"value": at})
        for at in range(20): client.enqueue_task("slow", {"value": at})
    for client in mine: client.flush(timeout=60.0)
    say("ready")
    sys.stdin.readline()
    """
    results, naps = KILLED * CLIENTS * 4, KILLED * CLIENTS * 20
    client = connect(crowded.addresses)
    client.load_graph(chain(NAP, {"nap_ms": 0.1}))
    client.load_graph(chain(NAP, {"nap_ms": 15.0}, ns="slow"))
    client.load_graph(swelling())
    job(client)
    until(lambda: not kept(crowded), "whatever was here before")
    before = rss_bytes(crowded)
    for _ in range(3):
        gone, finished = counted(crowded, "network_clients_gone"), counted(crowded, "finished")
        with processes(KILLED, text, *crowded.addresses) as others:
            assert [other.hear() for other in others] == ["ready"] * KILLED
            until(lambda finished=finished: counted(crowded, "finished") - finished >= results, "results")  # type: ignore[misc]
            for other in others:
                other.kill()
        assert under_way(crowded), "they were killed when all was over"
        job(client)
        until(lambda gone=gone: counted(crowded, "network_clients_gone") - gone >= KILLED * CLIENTS, "they are gone")  # type: ignore[misc]
        until(lambda: not under_way(crowded), "their tasks end")
        assert counted(crowded, "finished") - finished == results + naps + 20
        until(lambda: not kept(crowded), "records go")
        assert counted(crowded, "network_waiting_bytes") == 0
    assert grown_bytes(crowded, before) < 2 * results * MIB


def test_a_job_goes_on_beside_clients_that_do_not_read(crowded: RealCluster, connect: Connect) -> None:
    """Halted ones to which results are due, and rude ones that ask for gigabytes."""
    text = """
    mine = clients(sys.argv[2:])
    for client in mine:
        for at in range(6): client.enqueue_task("swell", {"value": at})
    for client in mine: client.flush(timeout=60.0)
    say("ready")
    sys.stdin.readline()
    """
    results = HALTED * CLIENTS * 6
    client = connect(crowded.addresses)
    client.load_graph(chain(NAP, {"nap_ms": 0.1}))
    client.load_graph(swelling())
    until(lambda: not kept(crowded), "whatever was here before")
    job(client)
    finished = counted(crowded, "finished")
    with ExitStack() as stack:
        others = stack.enter_context(processes(HALTED, text, *crowded.addresses))
        assert [other.hear() for other in others] == ["ready"] * HALTED
        for other in others:
            other.signal(signal.SIGSTOP)
        mine = [client.enqueue_task("swell", {"value": float(at)}) for at in range(20)]
        until(lambda: counted(crowded, "finished") - finished >= results + 20, "all results are there")
        undisturbed = tasks_in(client, RATE_S)
        before, slow = rss_bytes(crowded), counted(crowded, "network_clients_slow")
        waiting = 0
        rude = [stack.enter_context(bare(peer.address, is_slow=True)) for peer in crowded.peers for _ in range(RUDE)]
        for turn in range(50):
            for one in rude:
                one.say(Attach(ids=(*mine[turn % 20 :: 2], *mine[: turn % 20 : 2])))  # nothing that lies together
            waiting = max(waiting, counted(crowded, "network_waiting_bytes"))
        beside = tasks_in(client, RATE_S)
        grown = grown_bytes(crowded, before)
        slow = counted(crowded, "network_clients_slow") - slow
    assert beside >= undisturbed / 2
    assert 0 < waiting <= len(rude) * OUTBOX_BYTES
    assert slow, "none of them was so slow"
    assert grown < RUDE * (PIPE_BYTES + OUTBOX_BYTES) + SLACK_BYTES


def tasks_in(client: "scatterzmq.Client", limit_s: float) -> int:
    """How many tasks are done in that time, one small job after another."""
    until_s, done = time.monotonic() + limit_s, 0
    while time.monotonic() < until_s:
        job(client, first=done)
        done += 20
    return done


def kept(cluster: RealCluster) -> int:
    return summed(cluster, lambda said: sum(said.tasks.values()) + said.record_bytes)


def under_way(cluster: RealCluster) -> int:
    ended = {"ready", "done", "error", "cancelled"}
    return summed(cluster, lambda said: sum(tasks for status, tasks in said.tasks.items() if status not in ended))
