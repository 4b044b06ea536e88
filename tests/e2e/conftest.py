"""Whole clusters in this process, short ways to write graphs, and nodes that wait until the test lets them go on."""

import itertools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from importlib import import_module, invalidate_caches
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

import scatterzmq

TIMEOUT_S = 60.0
"""Only matters when something is wrong."""

Json = dict[str, Any]

HEADER = """
    from queue import SimpleQueue
    from threading import Semaphore

    import torch
    from scatterzmq.nodes import Batch, CallSite, FieldFormat, Node, NodeArgs, Padded, Resources
"""

GATE = """
    entered = SimpleQueue()
    gate = Semaphore(0)
    ran = []

    def open():
        gate.release(100_000)

    class Gate(Node):
        pure = True
        thread_safe = True

        def __init__(self, args):
            self.factor = args.float("factor", default=2.0)

        def inputs(self):
            return {"value": FieldFormat("float", (1,))}

        def outputs(self):
            return {"out": {"value": FieldFormat("float", (1,))}}

        def execute(self, batch):
            entered.put(list(batch.task_ids))
            assert gate.acquire(timeout=60)
            ran.extend(task for row, task in enumerate(batch.task_ids) if batch.alive(row))
            batch.emit("out", value=batch.uniform("value") * self.factor)
"""


class Build:
    """Definitions, short. A node reads `reads` (field=source) and leaves by `outs` (a node's name for "out" alone)."""

    def node(
        self,
        name: str,
        kind: str,
        reads: Mapping[str, str] | None = None,
        outs: Mapping[str, str | None] | str | None = None,
        args: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> Json:
        ways = {"out": outs} if outs is None or isinstance(outs, str) else dict(outs)
        return {"name": name, "kind": kind, "args": dict(args or {}), "vmap": dict(reads or {}), "outs": ways, **keys}

    def graph(
        self, name: str, inputs: Json, outputs: Json, vmap: Mapping[str, str], nodes: Iterable[Json], **keys: Any
    ) -> Json:
        listed = list(nodes)
        return {
            "name": name,
            "input": listed[0]["name"],
            "input_format": inputs,
            "output_format": outputs,
            "vmap": dict(vmap),
            "nodes": listed,
            **keys,
        }

    def graphs(self, *graphs: Json, ns: str | None = None) -> Json:
        """The first one is the entry."""
        names = {"entry": graphs[0]["name"], "graphs": list(graphs)}
        return names if ns is None else {"ns": ns, **names}

    def line(self, shape: Any, *steps: Any, name: str = "main", dtype: str = "float", **keys: Any) -> Json:
        """A graph value -> value whose nodes come one after another: ("add", 1), ("mul", 2), "square", or a node's
        kind. They are called s0, s1, ...
        """
        info = [dtype, list(shape)]
        nodes = []
        for index, step in enumerate(steps):
            kind, args = str(step), {}
            if step == "square":
                kind, args = "mat_square", {"size": shape[0]}
            elif isinstance(step, tuple):
                kind, args = "constant_op", {"op": step[0], "const": step[1], "input": info}
            source = f"s{index - 1}:value" if index else ":value"
            following = f"s{index + 1}" if index < len(steps) - 1 else None
            nodes.append(self.node(f"s{index}", kind, {"value": source}, following, args))
        last = f"s{len(steps) - 1}:value"
        return self.graph(name, {"value": info}, {"value": info}, {"value": last}, nodes, **keys)

    def call(self, name: str, graph: str, reads: Mapping[str, str], outs: str | None, args: Json, ret: Json) -> Json:
        return self.node(name, "call", reads, outs, {"graph": graph, "args": args, "ret": ret})

    def loop(self, name: str, graph: str, source: str, init: int, inner: str | None, out: str | None) -> Json:
        args = {"graph": graph, "init": init}
        return self.node(name, "for_loop", {"stack": source}, {"inner": inner, "out": out}, args)


@pytest.fixture
def build() -> Build:
    return Build()


@pytest.fixture
def peers() -> int:
    """How many peers `start` starts. Modules that run with several have a fixture of their own."""
    return 1


@pytest.fixture
def start(peers: int) -> Iterator[Callable[..., scatterzmq.Client]]:
    """As scatterzmq.local, closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda **config: stack.enter_context(scatterzmq.local(**({"peers": peers} | config)))


@pytest.fixture
def finish() -> Callable[..., dict[str, scatterzmq.Response]]:
    """Wait for all tasks; their responses in the order of the tasks."""

    def wait(client: scatterzmq.Client, tasks: Iterable[str]) -> dict[str, scatterzmq.Response]:
        listed = list(tasks)
        responses = dict(client.wait_for(listed, timeout=TIMEOUT_S))
        assert len(responses) == len(set(listed))
        assert all(response.status.complete for response in responses.values()), responses
        return {task: responses[scatterzmq.TaskId(task)] for task in listed}

    return wait


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Ask until it holds."""

    def wait(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline

    return wait


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package for this test's own modules."""
    name = re.sub(r"\W", "_", f"plugins_{tmp_path.name}")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        del sys.modules[module]


@pytest.fixture
def plugin(package: str, tmp_path: Path) -> Callable[[str], ModuleType]:
    """Write a module with a node; its name is the node's kind."""
    numbers = itertools.count()

    def write(source: str, *, header: str = HEADER) -> ModuleType:
        name = f"node_{next(numbers)}"
        (tmp_path / package / f"{name}.py").write_text(dedent(header) + dedent(source), encoding="utf-8")
        invalidate_caches()
        return import_module(f"{package}.{name}")

    return write


@pytest.fixture
def gated(start: Any, plugin: Callable[[str], ModuleType]) -> Iterator[Any]:
    """A module with a node that tells `entered` its tasks and waits at the gate; `ran`: the tasks that got through.

    gate.release() lets one batch through, open() all. It is opened before clusters are closed.
    The kind multiplies value float[1] by `factor` (2).
    """
    module = plugin(GATE)
    yield module
    module.open()
