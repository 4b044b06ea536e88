"""W6: 500 tasks of 20 ms on two peers, one of which is killed with -9 when a third is done; and a process pool, where
that happens to a worker.

    python -m benchmarks.bench_kill [--quick] [--rounds N]

Each peer is a process of its own with one executor, and each task has two copies. Every result is checked. The one that
is killed is the peer that owns the tasks, and in another round the one that only works for it.
"""

import argparse
import multiprocessing
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import scatterzmq
from benchmarks.kill_demo import KIND, definition, owner, rerun_s
from scatterzmq.processes import LocalPeers
from scatterzmq.settings import Settings

TASKS, NAP_MS = 500, 20.0
QUICK_TASKS, QUICK_NAP_MS = 90, 10.0
PEERS = 2
WARM_UP = 64
TIMEOUT_S = 60.0
"""Without any task that ends: what is left then is stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """done: tasks with the right result. lost: ended without one. stuck: did not end. took_s: until all had ended, or
    nothing happened any more. rerun_s: after the kill, when the first task was begun again; None: none had to be.
    """

    done: int
    lost: int
    stuck: int
    took_s: float
    rerun_s: float | None = None


def measure_peers(tasks: int, nap_ms: float, *, kill_owner: bool) -> Figures:
    settings = Settings.of({"plugins": {"allow": [KIND]}})
    peers = LocalPeers(settings, PEERS, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        diary = Path(folder) / "diary"
        try:
            peers.start()
            with scatterzmq.connect(peers.addresses) as client:
                ns = client.load_graph(definition(nap_ms, diary))
                list(client.map(ns, ({"value": -number} for number in range(1, WARM_UP + 1))))
                return _job(client, ns, peers, tasks, diary, kill_owner=kill_owner)
        finally:
            peers.close()


def _job(
    client: "scatterzmq.Client", ns: str, peers: LocalPeers, tasks: int, diary: Path, *, kill_owner: bool
) -> Figures:
    began_s = time.monotonic()
    numbers = {client.enqueue_task(ns, {"value": number}): number for number in range(tasks)}
    done = lost = 0
    ended_s = killed_s = began_s
    for task, response in client.wait_for(list(numbers), timeout=TIMEOUT_S):
        if response.result is not None:
            assert int(response.result["value"]) == numbers[task] + 1, f"task {numbers[task]} has a wrong result"
            done += 1
        elif response.status.complete:
            lost += 1
        else:
            continue
        ended_s = time.monotonic()
        if done == tasks // 3 and killed_s == began_s:
            has_tasks = owner(peers)
            victim = has_tasks if kill_owner else next(peer for peer in peers.peers if peer is not has_tasks)
            killed_s = time.monotonic()
            victim.kill()
    again_s = rerun_s(diary.read_text().splitlines(), killed_s)
    return Figures(
        done=done,
        lost=lost,
        stuck=tasks - done - lost,
        took_s=ended_s - began_s,
        rerun_s=None if again_s is None else again_s - killed_s,
    )


def nap(number: int, nap_ms: float) -> int:
    time.sleep(nap_ms / 1000)
    return number + 1


def measure_pool(tasks: int, nap_ms: float) -> Figures:
    done = lost = 0
    with ProcessPoolExecutor(PEERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(nap, range(2 * PEERS), [nap_ms] * 2 * PEERS))
        began_s = time.monotonic()
        futures: dict[Future[int], int] = {pool.submit(nap, number, nap_ms): number for number in range(tasks)}
        for future in as_completed(futures, timeout=TIMEOUT_S):
            try:
                assert future.result() == futures[future] + 1
                done += 1
            except BrokenProcessPool:
                lost += 1
            if done == tasks // 3 and not lost:
                os.kill(_worker(), signal.SIGKILL)
    return Figures(done=done, lost=lost, stuck=tasks - done - lost, took_s=time.monotonic() - began_s)


def _worker() -> int:
    pid = multiprocessing.active_children()[0].pid
    assert pid is not None
    return pid


def line(name: str, figures: Sequence[Figures]) -> str:
    """Medians of the times, and the worst of everything else."""
    done = min([one.done for one in figures])
    lost, stuck = max([one.lost for one in figures]), max([one.stuck for one in figures])
    again = [one.rerun_s for one in figures if one.rerun_s is not None]
    took_s = median([one.took_s for one in figures])
    rerun = f", the first task is run again {max(again):.2f} s after the kill" if again else ""
    return f"{name}: {took_s:.2f} s, done {done}, lost {lost}, stuck {stuck}{rerun}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the end of a peer costs, and that of a pool's worker.")
    parser.add_argument("--quick", action="store_true", help="one small round: does it work at all")
    parser.add_argument("--rounds", type=int, default=3, help="medians are over this many (default: 3)")
    options = parser.parse_args()
    tasks, nap_ms, rounds = (QUICK_TASKS, QUICK_NAP_MS, 1) if options.quick else (TASKS, NAP_MS, options.rounds)
    measured: dict[str, Callable[[], Figures]] = {
        "owner killed": lambda: measure_peers(tasks, nap_ms, kill_owner=True),
        "other killed": lambda: measure_peers(tasks, nap_ms, kill_owner=False),
        "ProcessPoolExecutor, worker killed": lambda: measure_pool(tasks, nap_ms),
    }
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {tasks} tasks of {nap_ms:g} ms, {PEERS} peers")
    for name, measure in measured.items():
        print(f"W6, {line(name, [measure() for _ in range(rounds)])}")


if __name__ == "__main__":
    main()
