"""A node in a child needs a blob that is not here: the control process is asked for it, and works on meanwhile."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest

from scatterzmq.core.events import ExecutorLost
from scatterzmq.errors import ErrorCode
from scatterzmq.execute.work import Done, Work
from tests.execute.childworld import World, numbers, world


class Fetching:
    """Notes what is asked for. thens: answers to be given."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.digests: list[bytes] = []
        self.thens: list[Callable[[str, str], None]] = []

    def __call__(self, name: str, digest: bytes, then: Callable[[str, str], None]) -> None:
        self.names.append(name)
        self.digests.append(digest)
        self.thens.append(then)


@pytest.fixture(scope="module")
def fetching() -> Fetching:
    return Fetching()


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory, fetching: Fetching) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("blobs"), fetching) as made:
        yield made


def constant(children: World, name: str) -> Work:
    ret = ["float", [1]]
    node = {"name": "n", "kind": "load_constant", "args": {"data": f"0:4:{name}", "ret": ret}, "vmap": {}}
    value = {"value": ret}
    graph = {"name": "main", "input": "n", "input_format": value, "output_format": value, "vmap": {"value": "n:value"}}
    plan = {"ns": name, "entry": "main", "graphs": [{**graph, "nodes": [{**node, "outs": {"out": None}}]}]}
    return children.work(children.plan(plan), "n", {})


def folder(children: World) -> Path:
    return children.pool._blobs.folder()


def test_a_blob_is_fetched(children: World, fetching: Fetching) -> None:
    children.pool.run(children.executor(), constant(children, "there"))
    children.loop.until(lambda: "there" in fetching.names)
    (folder(children) / "there").write_bytes(pack("<f", 2.5))
    fetching.thens[-1]("", "there")
    done = children.take(Done)
    assert numbers(done.emitted[0].columns["value"]) == [2.5]


def test_a_blob_that_is_nowhere_is_a_missing_one(children: World, fetching: Fetching) -> None:
    children.pool.run(children.executor(), constant(children, "nowhere"))
    children.loop.until(lambda: "nowhere" in fetching.names)
    fetching.thens[-1]("blob 'nowhere' is nowhere", "")
    (failed,) = children.take(Done).failed
    assert failed.code is ErrorCode.MISSING_BLOB
    assert "blob 'nowhere' is nowhere" in failed.message


def test_a_child_that_is_killed_meanwhile_costs_nothing_else(children: World, fetching: Fetching) -> None:
    executor = children.executor()
    pid = children.child(executor).pid
    children.pool.run(executor, constant(children, "late"))
    children.loop.until(lambda: "late" in fetching.names)
    os.kill(pid, signal.SIGKILL)
    assert children.take(ExecutorLost).executor == executor
    fetching.thens[-1]("", "late")  # nobody is there to hear it
    (folder(children) / "late").write_bytes(pack("<f", 1.5))
    children.pool.run(children.executor(), constant(children, "late"))
    children.loop.until(lambda: fetching.names.count("late") == 2)
    fetching.thens[-1]("", "late")
    done = children.take(Done)
    assert numbers(done.emitted[0].columns["value"]) == [1.5]
