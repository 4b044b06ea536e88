"""Peers that are processes of their own against a process pool, in one run on one machine. Every result is checked.

    python -m benchmarks.bench_mesh [--quick] [--rounds N] [--peers N]

W1  2,000 independent tasks, float32[16], y = 2x, one node        tasks/s
W2  1,000 tasks through a chain of 5 nodes (x2, +1, x2, +1, x2)   tasks/s
W3  W1's task one at a time, 5 ms apart, on an idle system        ms, p50 and p99
W4  tasks of 4 MiB through 2 nodes (x2, +1), 4 MiB back           MB/s of input and output

Each task has two copies (W4: one, as the pool has). Peers are left alone for a while first: each starts an executor in
reserve some seconds after its first one, and importing torch takes a core of two for as long. benchmarks/kill_demo.py
is for what happens when a peer dies, benchmarks/bench_cache.py for the same work many times.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bench_embedded import (
    CHAIN,
    FULL,
    QUICK,
    Array,
    Contender,
    check,
    enqueue_and_wait,
    graph,
    measure,
    pool_contenders,
    show,
)

if TYPE_CHECKING:
    from scatterzmq import Client

LARGE_ELEMENTS = 1 << 20
LARGE_TASKS, LARGE_TASKS_QUICK = 100, 8
MB = 1e6
SETTLE_S, SETTLE_QUICK_S = 20.0, 0.0
"""Until all peers have an executor in reserve."""


@contextmanager
def mesh(peers: int, copies: int, **config: Any) -> Iterator["Client"]:
    import scatterzmq

    with scatterzmq.local(peers=peers, processes=True, cluster_replicas=copies, **config) as client:
        yield client


@contextmanager
def mesh_contenders(peers: int, settle_s: float) -> Iterator[list[Contender]]:
    with mesh(peers, 2) as client:
        one = client.load_graph(graph("w1", [("mul", 2.0)]))
        chain = client.load_graph(graph("w2", CHAIN))
        time.sleep(settle_s)
        yield [
            Contender(
                f"scatterzmq, {peers} peers",
                partial(enqueue_and_wait, client, one),
                partial(enqueue_and_wait, client, chain),
                lambda value: enqueue_and_wait(client, one, [value])[0],
            )
        ]


# -- large tensors ----------------------------------------------------------------------------------------------------


def large_inputs(count: int) -> list[Array]:
    return [np.full(LARGE_ELEMENTS, index, dtype=np.float32) for index in range(count)]


def large_graph() -> dict[str, Any]:
    """As `graph`, with 4 MiB per value."""
    made = graph("w4", [("mul", 2.0), ("add", 1.0)])
    text: dict[str, Any] = _resized(made)
    return text


def _resized(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _resized(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return ["float", [LARGE_ELEMENTS]] if value[:1] == ["float"] else [_resized(entry) for entry in value]
    return value


def doubled(value: Array) -> Array:
    return value * np.float32(2.0)


def increased(value: Array) -> Array:
    return value + np.float32(1.0)


def large_by_mesh(client: "Client", ns: str, values: list[Array]) -> float:
    """MB/s."""
    began = time.perf_counter()
    results = enqueue_and_wait(client, ns, values)
    took = time.perf_counter() - began
    check(results, [increased(doubled(value)) for value in values])
    return 2 * sum(value.nbytes for value in values) / took / MB


def large_by_pool(pool: ProcessPoolExecutor, values: list[Array]) -> float:
    """MB/s; the second step is submitted when the first is back."""
    began = time.perf_counter()
    firsts = [pool.submit(doubled, value) for value in values]
    results = [second.result() for second in [pool.submit(increased, first.result()) for first in firsts]]
    took = time.perf_counter() - began
    check(results, [increased(doubled(value)) for value in values])
    return 2 * sum(value.nbytes for value in values) / took / MB


def measure_large(peers: int, workers: int, count: int, rounds: int, settle_s: float) -> tuple[float, float]:
    """Medians: ours, the pool's."""
    ours, theirs = [], []
    values = large_inputs(count)
    with mesh(peers, 1) as client, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        ns = client.load_graph(large_graph())
        large_by_mesh(client, ns, values[:4])
        large_by_pool(pool, values[:4])
        time.sleep(settle_s)
        for _ in range(rounds):
            ours.append(large_by_mesh(client, ns, values))
            theirs.append(large_by_pool(pool, values))
    return median(ours), median(theirs)


def show_large(figures: tuple[float, float]) -> None:
    ours, theirs = figures
    print(f"W4: {ours:,.0f} MB/s, the pool {theirs:,.0f} MB/s ({ours / theirs:.1f}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare peers in processes of their own with a process pool.")
    parser.add_argument("--quick", action="store_true", help="one small round: does it work at all")
    parser.add_argument("--rounds", type=int, default=5, help="medians are over this many (default: 5)")
    parser.add_argument("--peers", type=int, default=2, help="peers, with one executor each (default: 2)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the pool (default: 2)")
    options = parser.parse_args()
    sizes, rounds, settle_s = (QUICK, 1, SETTLE_QUICK_S) if options.quick else (FULL, options.rounds, SETTLE_S)
    figures: dict[tuple[str, str], list[float]] = {}
    with pool_contenders(options.workers) as pool, mesh_contenders(options.peers, settle_s) as ours:
        contenders = [*ours, *pool]
        for _ in range(rounds):
            measure(contenders, sizes, figures)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, rounds: {rounds}, {sizes}")
    show([contender.name for contender in contenders], figures)
    count = LARGE_TASKS_QUICK if options.quick else LARGE_TASKS
    show_large(measure_large(options.peers, options.workers, count, rounds, settle_s))


if __name__ == "__main__":
    main()
