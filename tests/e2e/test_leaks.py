"""What is left when a cluster is closed: nothing."""

import gc
import os
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scatterzmq

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
STATM = Path("/proc/self/statm")


def descriptors() -> list[str]:
    """Open files and sockets; empty where the system does not tell."""
    folder = Path("/proc/self/fd")
    found = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        try:
            found.append(str(entry.readlink()))
        except OSError:  # the one that lists them
            continue
    return sorted(found)


def resident_mib() -> float:
    return int(STATM.read_text().split()[1]) * PAGE_BYTES / 2**20 if STATM.exists() else 0.0


def scratch_folders() -> set[str]:
    return set(os.listdir(tempfile.gettempdir()))


@pytest.fixture
def use(build: Any) -> Any:
    """A whole life of a cluster, with a blob, a result, an error, a deferred task and one that nobody reads."""

    def run(**config: Any) -> Any:
        info = ["float", [256]]
        with scatterzmq.local(max_retries=1, **config) as client:
            with client.open_blob("ones") as blob:
                place = blob.write(b"\0" * 1024)
            constant = build.node("constant", "load_constant", {}, "sum", {"data": place, "ret": info})
            reads = {"left": "constant:value", "right": ":value"}
            total = build.node("sum", "bin_op", reads, None, {"op": "add", "input": info})
            graph = build.graph("main", {"value": info}, {"value": info}, {"value": "sum:value"}, [constant, total])
            graph["cache"] = True
            ns = client.load_graph(build.graphs(graph))
            failing = build.node("no", "assertion_error", {}, {}, {"msg": "no"})
            bad = client.load_graph(build.graphs(build.graph("bad", {}, {}, {}, [failing])))
            tasks = [client.enqueue_task(ns, {"value": [index % 3] * 256}) for index in range(6)]
            tasks.append(client.enqueue_task(bad, {}))
            statuses = [response.status for _, response in client.wait_for(tasks, timeout=60)]
            assert sorted(statuses) == ["error"] + ["ready"] * 6
            client.enqueue_task(ns, {"value": [9] * 256})
            return weakref.ref(client)

    return run


@pytest.mark.parametrize("config", [{}, {"executors": 3}, {"executor_kind": "inline"}], ids=str)
def test_nothing_is_left_behind(use: Any, config: dict[str, Any]) -> None:
    use(**config)  # whatever libraries open once
    gc.collect()
    threads, files, folders = set(threading.enumerate()), descriptors(), scratch_folders()
    client = use(**config)
    gc.collect()
    assert set(threading.enumerate()) == threads
    assert descriptors() == files
    assert client() is None, "something still holds the client"
    assert scratch_folders() <= folders


def test_a_hundred_in_a_row(use: Any) -> None:
    """Threads and files not one more; memory roughly the same."""
    for _ in range(20):
        use()
    gc.collect()
    threads, files, before_mib = threading.active_count(), len(descriptors()), resident_mib()
    for _ in range(100):
        use()
    gc.collect()
    assert threading.active_count() == threads
    assert len(descriptors()) == files
    assert resident_mib() - before_mib < 8.0


def test_forgotten_tasks_leave_no_memory(build: Any) -> None:
    """A cluster that runs for long: 200 MB through a client that reads and clears."""
    with scatterzmq.local() as client:
        ns = client.load_graph(build.graphs(build.line([250_000], ("add", 1))))
        value = np.zeros(250_000, np.float32)

        def run(count: int) -> None:
            for _ in range(count):
                for task, response in client.wait_for([client.enqueue_task(ns, {"value": value})], timeout=60):
                    assert response.status == "ready"
                    client.clear_task(task)

        run(20)
        before_mib = resident_mib()
        run(200)
        assert resident_mib() - before_mib < 30.0


def test_the_old_standard_output_is_back(use: Any) -> None:
    stream = sys.stdout
    use()
    assert sys.stdout is stream
