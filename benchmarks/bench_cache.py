"""The same work many times: computed once for all of a cluster, against Dask in the same run. Every result is checked.

    python -m benchmarks.bench_cache [--quick] [--rounds N] [--peers N]

1,000 tasks with 10 distinct inputs, each computation 50 ms, submitted at once. Ours: peers that are processes of their
own, with one executor each and two copies of each task; all tasks go to one of them, so others come to have the keys,
and to compute, by what peers say to each other. Dask: two workers of one thread, `pure=True`; needs `distributed`.

seconds        until all results are there, median of the rounds; theirs and ours in turns
computations   in a round; more than 10 would be a mistake, and ends the benchmark
owner          CPU of the peer that owns the tasks, per task that did not compute: for all that it does for it, which is
               to accept it, have it copied, let it wait, and hand out its result
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scatterzmq import Client

NAP, NAP_MS = "benchmarks.demo_nap", 50.0
TASKS, INPUTS, PEERS, WORKERS = 1000, 10, 3, 2
ROUNDS, ROUNDS_QUICK = 15, 2
WARM_UP_S = 60.0


def cached_graph(diary: Path) -> dict[str, Any]:
    """A node that takes 50 ms per task, each in a batch of its own, and writes down what it computes."""
    value = {"value": ["long", []]}
    node = {
        "name": "nap",
        "kind": NAP,
        "args": {"nap_ms": NAP_MS, "diary": str(diary)},
        "vmap": {"value": ":value"},
        "outs": {"out": None},
        "batch_size": 1,
    }
    main = {"name": "main", "input": "nap", "input_format": value, "output_format": value, "nodes": [node]}
    return {"ns": "cached", "entry": "main", "graphs": [main | {"vmap": {"value": "nap:value"}, "cache": True}]}


def inputs(first: int) -> list[int]:
    return [first + index % INPUTS for index in range(TASKS)]


def check(results: Sequence[int], numbers: Iterable[int]) -> None:
    assert list(results) == [number + 1 for number in numbers]


# -- ours -------------------------------------------------------------------------------------------------------------


class Ours:
    """diary: where each computation is written down, by the process that does it."""

    def __init__(self, client: "Client", diary: Path) -> None:
        self._client = client
        self._diary = diary
        self._ns = client.load_graph(cached_graph(diary))

    def warm_up(self, peers: int) -> None:
        """Until each peer's executor has computed something: starting one takes seconds."""
        until_s = time.monotonic() + WARM_UP_S
        first = 0
        computing: set[str] = set()
        while len(computing) < peers:
            assert time.monotonic() < until_s, f"only {len(computing)} of {peers} executors compute"
            first -= INPUTS
            self._results(range(first, first + INPUTS))
            computing |= {line.split()[2] for line in self._diary.read_text().splitlines()}

    def round(self, numbers: Sequence[int]) -> tuple[float, int]:
        """Seconds, and computations."""
        self._diary.write_text("")
        began = time.perf_counter()
        results = self._results(numbers)
        took_s = time.perf_counter() - began
        check(results, numbers)
        return took_s, len(self._diary.read_text().splitlines())

    def _results(self, numbers: Iterable[int]) -> list[int]:
        tasks = [self._client.enqueue_task(self._ns, {"value": number}) for number in numbers]
        results = {}
        for task, response in self._client.wait_for(tasks, timeout=60.0):
            response.ok()
            assert response.result is not None
            results[task] = int(response.result["value"])
        return [results[task] for task in tasks]


@contextmanager
def ours(peers: int) -> Iterator[Ours]:
    import scatterzmq

    with (
        tempfile.TemporaryDirectory() as folder,
        scatterzmq.local(peers=peers, processes=True, plugins=[NAP]) as client,
    ):
        made = Ours(client, Path(folder) / "diary")
        made.warm_up(peers)
        yield made


def peer_pids() -> list[int]:
    """The control processes of the peers: children of this one."""
    children = [
        pid for thread in Path("/proc/self/task").iterdir() for pid in (thread / "children").read_text().split()
    ]
    return [int(pid) for pid in children if b"scatterzmq\0peer" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def cpu_s(pid: int) -> float:
    """What a process has used of a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- theirs -----------------------------------------------------------------------------------------------------------


def nap(number: int) -> int:
    time.sleep(NAP_MS / 1000)
    return number + 1


@contextmanager
def dask() -> Iterator[Callable[[Sequence[int]], float]]:
    """One round: seconds."""
    distributed: Any = import_module("distributed")
    with (
        distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):

        def round_(numbers: Sequence[int]) -> float:
            began = time.perf_counter()
            results = client.gather(client.map(nap, numbers, pure=True))
            took_s = time.perf_counter() - began
            check(results, numbers)
            return took_s

        round_(inputs(-TASKS))
        yield round_


@contextmanager
def nobody() -> Iterator[None]:
    yield None


# -- both -------------------------------------------------------------------------------------------------------------


def measure(peers: int, rounds: int) -> None:
    has_dask = find_spec("distributed") is not None
    mine: list[float] = []
    theirs: list[float] = []
    with ours(peers) as cluster, dask() if has_dask else nobody() as other:
        pids = peer_pids()
        before_s = {pid: cpu_s(pid) for pid in pids}
        for number in range(rounds):
            numbers = inputs(number * INPUTS)
            if other is not None:
                theirs.append(other(numbers))
            took_s, computations = cluster.round(numbers)
            assert computations == INPUTS, f"{computations} computations of {INPUTS} inputs"
            mine.append(took_s)
        busiest_s = max(cpu_s(pid) - before_s[pid] for pid in pids)
    duplicates = rounds * (TASKS - INPUTS)
    print(f"ours    {median(mine):.3f} s, best {min(mine):.3f} s; {INPUTS} computations in every round")
    if theirs:
        ratio = median([our / their for our, their in zip(mine, theirs, strict=True)])
        print(f"Dask    {median(theirs):.3f} s, best {min(theirs):.3f} s")
        print(f"ratio   {ratio:.2f} (median), {min(mine) / min(theirs):.2f} (of the best)")
    else:
        print("Dask    not measured: `pip install distributed` to compare")
    print(f"owner   {busiest_s / duplicates * 1e6:.0f} us of CPU per duplicate")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare cached tasks on peers with Dask.")
    parser.add_argument("--quick", action="store_true", help=f"{ROUNDS_QUICK} rounds: does it work at all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"medians are over this many (default: {ROUNDS})")
    parser.add_argument("--peers", type=int, default=PEERS, help=f"with one executor each (default: {PEERS})")
    options = parser.parse_args()
    rounds = ROUNDS_QUICK if options.quick else options.rounds
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.peers} peers, rounds: {rounds}")
    measure(options.peers, rounds)


if __name__ == "__main__":
    main()
