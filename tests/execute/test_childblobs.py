"""A node in a child needs a blob that is not here: the control process is asked for it, and works on meanwhile."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from scatterzmq.core.events import ExecutorLost
from scatterzmq.errors import ErrorCode
from scatterzmq.execute.work import Done, Work
from scatterzmq.graph.blobs import BlobFound
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
    with world(tmp_path_factory.mktemp("blobs"), fetching, find) as made:
        yield made


def find(names: Sequence[str], then: Callable[[Sequence[BlobFound]], None]) -> None:
    """Everything is there, but for what is nowhere."""
    then([BlobFound(name=name, problem="no such blob") if name == "nowhere" else found(name) for name in names])


def found(name: str) -> BlobFound:
    return BlobFound(name=name, blob_bytes=4, digest=blake2b(name.encode(), digest_size=32).digest())


def constant(children: World, name: str) -> Work:
    return children.work(children.plan(definition(name)), "n", {})


def definition(name: str) -> dict[str, Any]:
    ret = ["float", [1]]
    node = {"name": "n", "kind": "load_constant", "args": {"data": f"0:4:{name}", "ret": ret}, "vmap": {}}
    value = {"value": ret}
    graph = {"name": "main", "input": "n", "input_format": value, "output_format": value, "vmap": {"value": "n:value"}}
    return {"ns": name, "entry": "main", "graphs": [{**graph, "nodes": [{**node, "outs": {"out": None}}]}]}


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


def test_blobs_are_settled_when_a_client_loads_a_graph(children: World, fetching: Fetching) -> None:
    """The control process finds them, and the child that runs it asks for the right one."""
    plan = children.check(definition("settled"), settles=True).plan
    assert plan is not None
    assert plan.blobs == {"settled": found("settled").digest}
    before = children.check(definition("settled")).plan
    assert before is not None
    assert before.blobs == {"settled": b""}
    (folder(children) / "settled").write_bytes(pack("<f", 4.0))
    children.pool.run(children.executor(), children.work(plan, "n", {}))
    children.loop.until(lambda: "settled" in fetching.names)
    assert fetching.digests[-1] == found("settled").digest
    fetching.thens[-1]("", "settled")  # whoever fetched it has looked at it
    assert numbers(children.take(Done).emitted[0].columns["value"]) == [4.0]


def test_a_blob_that_is_nowhere_is_a_warning(children: World) -> None:
    answer = children.check(definition("nowhere"), settles=True)
    assert answer.plan is not None
    assert answer.plan.blobs == {"nowhere": b""}
    assert answer.warnings == ("nowhere:main:n: no such blob; until then its tasks end as missing_blob",)
