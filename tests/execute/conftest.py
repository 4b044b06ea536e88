"""Plans of small graphs with nodes of the test's own, and work for them."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from scatterzmq.core.actions import BatchOrder
from scatterzmq.core.events import BatchExpected
from scatterzmq.errors import ErrorCode
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.execute.loaded import LoadedNodes
from scatterzmq.execute.output import NodeOutput
from scatterzmq.execute.work import Done, Work
from scatterzmq.execute.worker import Worker
from scatterzmq.graph.check import check
from scatterzmq.graph.plan import NodePlan, Plan
from scatterzmq.ids import ExecutorId, PeerId, TaskId, Token
from scatterzmq.nodes import Batch, FieldFormat, Format, Node, NodeArgs, Resources
from scatterzmq.nodes.registry import Registry
from scatterzmq.settings import ExecutorSettings
from scatterzmq.wire.tensors import Column, from_tensor, from_tensors, to_tensors

VALUE = FieldFormat("float", (2,))
EXECUTOR = ExecutorId("E" + "1" * 32)


class Scripted(Node):
    """value float[2] -> out.value; what it does is up to the test."""

    log: list[str]
    act: Callable[["Scripted", Batch], None]
    cost = 1.0

    def __init__(self, args: NodeArgs) -> None:
        self.args = args

    def inputs(self) -> Format:
        return {"value": VALUE}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"value": VALUE}}

    def load_cost(self) -> float:
        return self.args.float("cost", default=1.0)

    def load(self, resources: Resources) -> None:
        self.log.append(f"load {self.args.place}")

    def unload(self) -> None:
        self.log.append(f"unload {self.args.place}")

    def execute(self, batch: Batch) -> None:
        self.log.append(f"run {len(batch)}")
        type(self).act(self, batch)


class Bench:
    """Everything a test of the executor needs. log: what the scripted nodes went through, in order."""

    def __init__(self, folder: Path) -> None:
        self.announced: list[BatchExpected] = []
        self.registry = Registry()
        self.blobs = BlobStore(folder)
        self.log: list[str] = []
        self.reports: list[tuple[str, Mapping[str, str | int | float]]] = []
        self.printed: list[tuple[str, str]] = []
        self.output = NodeOutput()
        self.clock_s = 0.0
        self._orders = 0

    def kind(
        self, name: str, act: Callable[[Scripted, Batch], None], base: type[Node] = Scripted, **members: object
    ) -> str:
        """Make a node kind of what its `execute` does."""
        self.registry._found[f"test.{name}"] = type(name, (base,), {"log": self.log, "act": act, **members})
        return f"test.{name}"

    def plan(self, graphs: Sequence[Mapping[str, object]] | Mapping[str, object], ns: str = "ns") -> Plan:
        listed = [graphs] if isinstance(graphs, Mapping) else list(graphs)
        return check({"ns": ns, "entry": listed[0]["name"], "graphs": listed}, self.registry.describe).require()

    def one(self, kind: str, args: Mapping[str, object] | None = None, ns: str = "ns") -> Plan:
        """A graph of one scripted node, called "n"."""
        return self.plan(chain([("n", kind, args or {})]), ns)

    def nodes(self, budget: int = 1 << 30) -> LoadedNodes:
        settings = ExecutorSettings(node_memory_bytes=budget)
        return LoadedNodes(self.registry, self.blobs, settings, torch.device("cpu"), self._report)

    def worker(self, nodes: LoadedNodes | None = None, executor: ExecutorId = EXECUTOR) -> Worker:
        return Worker(
            executor, nodes or self.nodes(), self._lines, lambda: self.clock_s, announce=self.announced.append
        )

    def _lines(self, place: str) -> AbstractContextManager[None]:
        return self.output.lines_of(lambda line: self.printed.append((place, line)))

    def work(
        self, plan: Plan, rows: int, node: str = "n", **fields: torch.Tensor | list[torch.Tensor] | Column
    ) -> Work:
        """A batch with all positions. Without fields: `value` float[rows, 2], row i being [i, i]."""
        if not fields:
            fields = {"value": torch.arange(rows, dtype=torch.float32).repeat(2, 1).T.contiguous()}
        self._orders += 1
        order = BatchOrder(
            order=self._orders,
            plan=plan,
            node=node_of(plan, node),
            tasks=tuple(TaskId(f"T{number:032x}") for number in range(rows)),
            token=Token(1, PeerId("P" + "2" * 32), self._orders),
            inputs={},
            max_exec_ms=1000,
        )
        return Work(
            order=order, rows=tuple(range(rows)), columns={name: column(value) for name, value in fields.items()}
        )

    def _report(self, name: str, context: Mapping[str, str | int | float]) -> None:
        self.reports.append((name, context))


def column(value: torch.Tensor | list[torch.Tensor] | Column) -> Column:
    if isinstance(value, Column):
        return value
    return from_tensor(value) if isinstance(value, torch.Tensor) else from_tensors(value)


def node_of(plan: Plan, name: str) -> NodePlan:
    return next(node for graph in plan.graphs.values() for node in graph.nodes.values() if node.name == name)


def chain(nodes: Sequence[tuple[str, str, Mapping[str, object]]], **extra: object) -> dict[str, object]:
    """A graph "main" of nodes value -> value, one after the other: (name, kind, args)."""
    names = [name for name, _, _ in nodes]
    return {
        "name": "main",
        "description": "",
        "input": names[0],
        "input_format": {"value": ["float", [2]]},
        "output_format": {"value": ["float", [2]]},
        "vmap": {"value": f"{names[-1]}:value"},
        "nodes": [
            {
                "name": name,
                "kind": kind,
                "args": dict(args),
                "vmap": {"value": f"{before}:value"},
                "outs": {"out": after},
            }
            for (name, kind, args), before, after in zip(nodes, ["", *names], [*names[1:], None], strict=False)
        ],
        **extra,
    }


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # Going through all objects of a process with torch and a test suite in it takes longer than most tests.
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)
    return Bench(tmp_path)


@pytest.fixture
def answers() -> Callable[[Done], dict[int, tuple[str, list[float]]]]:
    """Position -> (output, its value) of all that was emitted; each position once."""

    def of(done: Done) -> dict[int, tuple[str, list[float]]]:
        found: dict[int, tuple[str, list[float]]] = {}
        for part in done.emitted:
            column = part.columns["value"]
            assert isinstance(column, Column), "threads hand over what they have made"
            values = to_tensors(column)
            for position, value in zip(part.rows, values, strict=True):
                assert position not in found, f"{position} is emitted twice"
                found[position] = (part.output, value.tolist())
        return found

    return of


@pytest.fixture
def failures() -> Callable[[Done], dict[int, tuple[ErrorCode, str]]]:
    """Position -> (code, message) of all that failed; each position once."""

    def of(done: Done) -> dict[int, tuple[ErrorCode, str]]:
        found: dict[int, tuple[ErrorCode, str]] = {}
        for part in done.failed:
            for position in part.rows:
                assert position not in found, f"{position} failed twice"
                found[position] = (part.code, part.message)
        return found

    return of
