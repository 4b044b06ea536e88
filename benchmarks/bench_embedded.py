"""The embedded cluster against a process pool, in one run on one machine. Every result is checked.

    python benchmarks/bench_embedded.py [--quick] [--rounds N] [--executors N]

W1  2,000 independent tasks, float32[16], y = 2x, one node        tasks/s
W2  1,000 tasks through a chain of 5 nodes (x2, +1, x2, +1, x2)   tasks/s
W3  W1's task one at a time, 5 ms apart, on an idle system        ms, p50 and p99
And what a first local() takes in a fresh process that has torch already, beside torch itself.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from queue import SimpleQueue
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scatterzmq import Client

Array = npt.NDArray[np.float32]
Runner = Callable[[list[Array]], list[Any]]

WIDTH = 16
CHUNK = 50
PAUSE_S = 0.005
CHAIN = (("mul", 2.0), ("add", 1.0), ("mul", 2.0), ("add", 1.0), ("mul", 2.0))


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many tasks each workload has."""

    w1: int
    w2: int
    w3: int


FULL, QUICK = Sizes(2000, 1000, 300), Sizes(400, 200, 60)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to run the workloads; None where it has no such way. All get the inputs and give results in order."""

    name: str
    w1: Runner | None
    w2: Runner | None
    one: Callable[[Array], Any] | None


# -- the work itself --------------------------------------------------------------------------------------------------


def inputs(count: int) -> list[Array]:
    """Different for each task, and small enough that every result is exact."""
    return list(np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH) % 4096)


def step(operation: str, constant: float, value: Array) -> Array:
    return value * np.float32(constant) if operation == "mul" else value + np.float32(constant)


def through_chain(value: Array) -> Array:
    for operation, constant in CHAIN:
        value = step(operation, constant, value)
    return value


def double(value: Array) -> Array:
    return step("mul", 2.0, value)


def check(results: Iterable[Any], wanted: Iterable[Array]) -> None:
    """Stop if anything is missing or wrong."""
    for index, (result, want) in enumerate(zip(results, wanted, strict=True)):
        if not np.array_equal(np.asarray(result), want):
            sys.exit(f"task {index}: expected {want}, got {result}")


# -- scatterzmq -------------------------------------------------------------------------------------------------------


def graph(ns: str, operations: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """A chain of constant_op nodes."""
    steps = list(operations)
    value = {"value": ["float", [WIDTH]]}
    nodes = [
        {
            "name": f"n{index}",
            "kind": "constant_op",
            "args": {"op": operation, "const": constant, "input": value["value"]},
            "vmap": {"value": f"n{index - 1}:value" if index else ":value"},
            "outs": {"out": f"n{index + 1}" if index + 1 < len(steps) else None},
        }
        for index, (operation, constant) in enumerate(steps)
    ]
    main = {"name": "main", "input": "n0", "input_format": value, "output_format": value, "nodes": nodes}
    return {"ns": ns, "entry": "main", "graphs": [main | {"vmap": {"value": f"n{len(steps) - 1}:value"}}]}


@contextmanager
def scatterzmq_contenders(executors: int) -> Iterator[list[Contender]]:
    import scatterzmq

    with scatterzmq.local(executors=executors) as client:
        one = client.load_graph(graph("w1", [("mul", 2.0)]))
        chain = client.load_graph(graph("w2", CHAIN))
        yield [
            Contender(
                "scatterzmq enqueue_task, wait_for",
                lambda values: enqueue_and_wait(client, one, values),
                lambda values: enqueue_and_wait(client, chain, values),
                lambda value: enqueue_and_wait(client, one, [value])[0],
            ),
            Contender(
                "scatterzmq map",
                lambda values: [result["value"] for result in client.map(one, as_items(values))],
                lambda values: [result["value"] for result in client.map(chain, as_items(values))],
                None,
            ),
            Contender("scatterzmq submit().result()", None, None, lambda value: submit_one(client, one, value)),
        ]


def as_items(values: Iterable[Array]) -> Iterator[Mapping[str, Array]]:
    return ({"value": value} for value in values)


def enqueue_and_wait(client: "Client", ns: str, values: list[Array]) -> list[Any]:
    tasks = [client.enqueue_task(ns, {"value": value}) for value in values]
    results = {}
    for task, response in client.wait_for(tasks):
        response.ok()
        assert response.result is not None
        results[task] = response.result["value"]
    return [results[task] for task in tasks]


def submit_one(client: "Client", ns: str, value: Array) -> Any:
    return client.submit(ns, value=value).result(timeout=10)["value"]


# -- what it cannot be quicker than -----------------------------------------------------------------------------------


@contextmanager
def bare_contenders() -> Iterator[list[Contender]]:
    """A thread that does the same with torch, and nothing else: all that is left if our own code took no time."""
    import torch

    jobs, results = SimpleQueue[Array | None](), SimpleQueue[Any]()

    def work() -> None:
        while (value := jobs.get()) is not None:
            results.put(torch.from_numpy(value).mul(2.0).numpy())

    def one(value: Array) -> Any:
        jobs.put(value)
        return results.get()

    thread = Thread(target=work)
    thread.start()
    try:
        yield [Contender("a bare thread with torch", None, None, one)]
    finally:
        jobs.put(None)
        thread.join()


# -- the process pool -------------------------------------------------------------------------------------------------


@contextmanager
def pool_contenders(workers: int) -> Iterator[list[Contender]]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(double, inputs(4 * workers)))  # start all processes
        yield [
            Contender(
                f"ProcessPoolExecutor({workers})",
                lambda values: [future.result() for future in [pool.submit(double, value) for value in values]],
                lambda values: chained(pool, values),
                lambda value: pool.submit(double, value).result(),
            ),
            Contender(
                f"ProcessPoolExecutor({workers}), chunks of {CHUNK}",
                lambda values: list(pool.map(double, values, chunksize=CHUNK)),
                None,
                None,
            ),
        ]


def chained(pool: ProcessPoolExecutor, values: list[Array]) -> list[Array]:
    """Each step is a call of its own, as it is for a graph; the next one is submitted when the last is done."""
    waiting: dict[Future[Array], tuple[int, int]] = {}
    for index, value in enumerate(values):
        waiting[pool.submit(step, *CHAIN[0], value)] = (index, 1)
    results: dict[int, Array] = {}
    while waiting:
        for future in as_completed(list(waiting)):
            index, done = waiting.pop(future)
            if done == len(CHAIN):
                results[index] = future.result()
            else:
                waiting[pool.submit(step, *CHAIN[done], future.result())] = (index, done + 1)
    return [results[index] for index in range(len(values))]


# -- measuring --------------------------------------------------------------------------------------------------------


def tasks_per_s(run: Runner, values: list[Array], expected: Callable[[Array], Array]) -> float:
    start = time.perf_counter()
    results = run(values)
    took = time.perf_counter() - start
    check(results, map(expected, values))
    return len(values) / took


def latencies_ms(run: Callable[[Array], Any], values: list[Array]) -> tuple[float, float]:
    """(p50, p99)"""
    took = []
    for value in values:
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        result = run(value)
        took.append((time.perf_counter() - start) * 1000)
        check([result], [double(value)])
    return median(took), quantiles(took, n=100, method="inclusive")[98]


def measure(contenders: list[Contender], sizes: Sizes, figures: dict[tuple[str, str], list[float]]) -> None:
    """One round. Contenders take turns, so that a slow moment of the machine does not hit only one of them."""

    def note(contender: Contender, what: str, figure: float) -> None:
        figures.setdefault((contender.name, what), []).append(figure)

    for contender in contenders:
        if contender.w1 is not None:
            contender.w1(inputs(CHUNK))
            note(contender, "W1", tasks_per_s(contender.w1, inputs(sizes.w1), double))
    for contender in contenders:
        if contender.w2 is not None:
            contender.w2(inputs(CHUNK))
            note(contender, "W2", tasks_per_s(contender.w2, inputs(sizes.w2), through_chain))
    for contender in contenders:
        if contender.one is not None:
            contender.one(inputs(1)[0])
            p50, p99 = latencies_ms(contender.one, inputs(sizes.w3))
            note(contender, "W3 p50", p50)
            note(contender, "W3 p99", p99)


STARTING = """
import time
times = [time.perf_counter()]
import torch
times.append(time.perf_counter())
import scatterzmq
client = scatterzmq.local()
times.append(time.perf_counter())
client.close()
print(times[1] - times[0], times[2] - times[1])
"""


def starts_s(count: int) -> tuple[float, float]:
    """(importing torch, importing scatterzmq and the first local()), medians over so many processes.

    Their modules are compiled before, as they are on every machine after the first time.
    """
    with TemporaryDirectory() as folder:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = folder
        command = [sys.executable, "-c", STARTING]
        told = [subprocess.run(command, env=env, capture_output=True, text=True, check=True) for _ in range(count + 1)]
    torch_s, local_s = zip(*[map(float, run.stdout.split()) for run in told[1:]], strict=True)
    return median(torch_s), median(local_s)


def show(names: list[str], figures: Mapping[tuple[str, str], list[float]]) -> None:
    """Medians, and in brackets how many times better than the plain process pool."""
    columns = {"W1": "W1 tasks/s", "W2": "W2 tasks/s", "W3 p50": "W3 p50 ms", "W3 p99": "W3 p99 ms"}
    base = next(name for name in names if name.startswith("ProcessPoolExecutor"))
    width = max(map(len, names))
    print(f"{'':{width}}" + "".join(f"{title:>20}" for title in columns.values()))
    for name in names:
        cells = []
        for what in columns:
            if (name, what) not in figures:
                cells.append("-")
                continue
            figure, other = median(figures[name, what]), median(figures[base, what])
            is_rate = not what.startswith("W3")
            ratio = figure / other if is_rate else other / figure
            cells.append(f"{figure:,.0f} ({ratio:.1f}x)" if is_rate else f"{figure:.2f} ({ratio:.1f}x)")
        print(f"{name:{width}}" + "".join(f"{cell:>20}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the embedded cluster with a process pool.")
    parser.add_argument("--quick", action="store_true", help="one small round: does it work at all")
    parser.add_argument("--rounds", type=int, default=5, help="medians are over this many (default: 5)")
    parser.add_argument("--executors", type=int, default=1, help="executors of the embedded peer (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the pool (default: 2)")
    options = parser.parse_args()
    sizes, rounds = (QUICK, 1) if options.quick else (FULL, options.rounds)
    torch_s, local_s = starts_s(rounds)
    figures: dict[tuple[str, str], list[float]] = {}
    with pool_contenders(options.workers) as pool:
        for _ in range(rounds):
            with scatterzmq_contenders(options.executors) as ours, bare_contenders() as bare:
                contenders = [*ours, *bare, *pool]
                measure(contenders, sizes, figures)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, rounds: {rounds}, {sizes}")
    show([contender.name for contender in contenders], figures)
    print(f"A first local(): {local_s:.2f} s, {local_s / torch_s:.2f} times as long as importing torch")


if __name__ == "__main__":
    main()
