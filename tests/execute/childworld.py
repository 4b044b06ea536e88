"""A pool of real children with a small loop around it, and kinds of nodes that misbehave."""

import json
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

from scatterzmq.core.actions import BatchOrder
from scatterzmq.core.events import BatchExpected, ExecutorLost, ExecutorStarted, GraphChecked
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.execute.childprocess import ChildProcess
from scatterzmq.execute.children import ChildPool, Fetch, FindBlobs
from scatterzmq.execute.work import Done, Work
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.graph.plan import NodePlan, Plan
from scatterzmq.ids import ExecutorId, PeerId, TaskId, Token
from scatterzmq.settings import Settings
from scatterzmq.wire.columns import Apart, Column, alike

TIMEOUT_S = 120.0
"""Only matters when something is wrong: starting a child takes seconds on a busy machine."""

Posted = BatchExpected | Done | GraphChecked | ExecutorStarted | ExecutorLost
Json = dict[str, Any]
_Event = TypeVar("_Event", BatchExpected, Done, GraphChecked, ExecutorStarted, ExecutorLost)

ACT = """
    import ctypes, os, subprocess, sys, time
    import torch
    from scatterzmq.nodes import FieldFormat, Node

    def socket_of_batches():
        return int(sys.argv[1])

    class Act(Node):
        "Does what its argument says, with value float[1]."
        pure = True

        def __init__(self, args):
            self.do = args.str("do")

        def inputs(self):
            return {"value": FieldFormat("float", (1,))}

        def outputs(self):
            return {"out": {"value": FieldFormat("float", (1,))}}

        def expected(self, batch):
            return {"out": (float(len(batch)), 7)}

        def execute(self, batch):
            value = batch.uniform("value") * 2
            emitted = getattr(self, self.do)(batch)
            batch.emit("out", value=value if emitted is None else torch.full_like(value, float(emitted)))

        def double(self, batch):
            pass

        def pid(self, batch):
            return os.getpid()

        def threads(self, batch):
            return torch.get_num_threads()

        def exit(self, batch):
            os._exit(3)

        def by_value(self, batch):
            value = batch.uniform("value")
            if (value == -1).any():
                os._exit(3)
            if (value == -2).any():
                self.hang(batch)

        def segfault(self, batch):
            ctypes.string_at(0)

        def hang(self, batch):
            print("entered")
            ctypes.PyDLL(None).sleep(1000)  # and nobody else gets Python's lock

        def wait(self, batch):
            print("entered")
            while batch.alive(len(batch) - 1):
                time.sleep(0.001)
            return [batch.alive(row) for row in range(len(batch))].count(True)

        def junk(self, batch):
            os.write(socket_of_batches(), b"nothing that makes sense")
            time.sleep(1000)

        def close(self, batch):
            os.close(socket_of_batches())
            time.sleep(1000)

        def interrupt(self, batch):
            raise KeyboardInterrupt

        def quit(self, batch):
            sys.exit(5)

        def say(self, batch):
            print("one")
            print("two")
            os.write(2, b"raw\\n")

        def flood(self, batch):
            for number in range(50_000):
                print(number)
            os.write(1, b"x" * 100 + b"\\n" + 5_000 * b"y\\n")

        def start_another(self, batch):
            print(subprocess.Popen(["sleep", "1000"]).pid)
            time.sleep(1000)
"""
DIES = "import os\nos._exit(4)\n"
HANGS = "import time\ntime.sleep(1000)\n"
KINDS = "childkinds"


def write_kinds(folder: Path) -> None:
    """The kinds childkinds.act, .dies and .hangs."""
    package = folder / KINDS
    package.mkdir()
    (package / "__init__.py").touch()
    for name, source in (("act", dedent(ACT)), ("dies", DIES), ("hangs", HANGS)):
        (package / f"{name}.py").write_text(source, encoding="utf-8")


class Loop:
    """What the control process waits with."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, fd: int, ready: Callable[[], None], /) -> None:
        self._selector.register(fd, selectors.EVENT_READ, ready)

    def unwatch(self, fd: int, /) -> None:
        self._selector.unregister(fd)

    def until(self, holds: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
        """Go round until it holds."""
        until_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < until_s, "waited in vain"
            for key, _ in self._selector.select(0.05):
                key.data()

    def turn(self, timeout_s: float) -> None:
        """Go round once, waiting that long for something to happen."""
        for key, _ in self._selector.select(timeout_s):
            key.data()

    def close(self) -> None:
        self._selector.close()


class World:
    """A pool with its loop. posted, reports, lines (place, line), despair: all that came, in order."""

    def __init__(
        self,
        blobs: BlobStore,
        fetch: Fetch | None = None,
        find: FindBlobs | None = None,
        **sections: Mapping[str, object],
    ) -> None:
        self.loop = Loop()
        self.posted: list[Posted] = []
        self.reports: list[tuple[str, Mapping[str, str | int | float]]] = []
        self.lines: list[tuple[str, str]] = []
        self.despair: list[str] = []
        self.settings = Settings.of({"plugins": {"allow": [KINDS]}, **sections})
        self.pool = ChildPool(
            self.settings,
            self.loop,
            self.posted.append,
            blobs,
            report=self._report,
            reserve_after_s=0.0,
            fetch=fetch,
            find=find,
            hopeless=self.despair.append,
        )
        self._numbers = 0
        self._plans: dict[str, Plan] = {}

    def _report(self, name: str, context: Mapping[str, str | int | float]) -> None:
        if name == "output.node":
            assert {*context} == {"executor", "node", "line"}
            self.lines.append((str(context["node"]), str(context["line"])))
        else:
            self.reports.append((name, context))

    def take(self, kind: type[_Event]) -> _Event:
        """Wait for the next event of a kind and take it out of `posted`."""
        found: list[_Event] = []

        def look() -> bool:
            found.extend([event for event in self.posted if isinstance(event, kind)][:1])
            return bool(found)

        self.loop.until(look)
        self.posted.remove(found[0])
        return found[0]

    def executor(self) -> ExecutorId:
        """One that is ready; waits for it."""
        self.loop.until(lambda: self.pool._executors)
        return next(iter(self.pool._executors))

    def child(self, executor: ExecutorId) -> ChildProcess:
        return self.pool._executors[executor]

    def reserve(self) -> ChildProcess:
        """The child that is ready to replace another; waits for it."""

        def ready() -> list[ChildProcess]:
            children = self.pool._children.values()
            return [child for child in children if child.is_usable and child.executor not in self.pool._executors]

        self.loop.until(ready)
        return ready()[0]

    def check(self, definition: Json | str, *, settles: bool = False) -> GraphChecked:
        self._numbers += 1
        text = definition if isinstance(definition, str) else json.dumps(definition)
        self.pool.check(self._numbers, text, settles=settles)
        answer = self.take(GraphChecked)
        assert answer.request == self._numbers
        return answer

    def plan(self, definition: Json) -> Plan:
        """The plan as the control process makes it."""
        text = json.dumps(definition)
        if text not in self._plans:
            answer = self.check(text)
            assert answer.plan is not None, answer.problems
            self._plans[text] = answer.plan
        return self._plans[text]

    def work(self, plan: Plan, node: str, columns: Mapping[str, Column], rows: Sequence[int] | None = None) -> Work:
        """A batch; without `rows` of all positions."""
        self._numbers += 1
        count = next(iter(columns.values())).layout.rows if columns else 1
        taken = range(count) if rows is None else rows
        order = BatchOrder(
            order=self._numbers,
            plan=plan,
            node=node_of(plan, node),
            tasks=tuple(TaskId(f"T{number:032x}") for number in range(max(taken) + 1)),
            token=Token(1, PeerId("P" + "2" * 32), self._numbers),
            inputs={},
            max_exec_ms=60_000,
        )
        return Work(order=order, rows=tuple(taken), columns=columns)

    def act(self, do: str, rows: int = 1) -> Work:
        """A batch for childkinds.act."""
        return self.work(self.plan(acting(do)), "n", {"value": floats([[float(row)] for row in range(rows)])})

    def run(self, work: Work, executor: ExecutorId | None = None) -> Done:
        """Its answer."""
        self.pool.run(executor or self.executor(), work)
        done = self.take(Done)
        assert done.order == work.order.order
        return done

    def close(self) -> None:
        self.pool.stop(10.0)
        self.loop.close()


@contextmanager
def world(
    folder: Path, fetch: Fetch | None = None, find: FindBlobs | None = None, **sections: Mapping[str, object]
) -> Iterator[World]:
    """A pool that has been started."""
    with BlobStore(folder) as blobs:
        made = World(blobs, fetch, find, **sections)
        made.pool.start()
        try:
            yield made
        finally:
            made.close()


def node_of(plan: Plan, name: str) -> NodePlan:
    return next(node for graph in plan.graphs.values() for node in graph.nodes.values() if node.name == name)


def acting(do: str) -> Json:
    return one({"kind": f"{KINDS}.act", "args": {"do": do}, "vmap": {"value": ":value"}, "outs": {"out": None}}, 1)


def one(node: Json, size: int | None) -> Json:
    """A graph value float[size] -> value of one node "n"."""
    value = {"value": ["float", [size]]}
    graph = {"name": "main", "input": "n", "input_format": value, "output_format": value, "vmap": {"value": "n:value"}}
    return {"ns": "ns", "entry": "main", "graphs": [{**graph, "nodes": [{"name": "n", **node}]}]}


def floats(rows: Sequence[Sequence[float]]) -> Column:
    """A column float[null]; uniform if the rows are alike."""
    data = bytearray()
    for row in rows:
        data += memoryview(bytearray(4 * len(row))).cast("f") if not row else _packed(row)
    return Column(alike(DTYPES["float"], [(len(row),) for row in rows]), memoryview(data))


def _packed(row: Sequence[float]) -> bytes:
    from struct import pack

    return pack(f"<{len(row)}f", *row)


def texts(*values: str) -> Column:
    raws = [value.encode() for value in values]
    return Column(alike(DTYPES["uint8"], [(len(raw),) for raw in raws]), memoryview(bytearray(b"".join(raws))))


def column(dtype: str, rows: int, shape: tuple[int, ...], data: bytes) -> Column:
    return Column(Layout(DTYPES[dtype], rows, shape), memoryview(bytearray(data)))


def whole(column: Column | Apart) -> Column:
    return column.joined() if isinstance(column, Apart) else column


def numbers(column: Column | Apart) -> list[float]:
    return [float(number) for number in whole(column).data.cast("f")]


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


NEGATE = one(
    {
        "kind": "constant_op",
        "args": {"op": "mul", "const": -1, "input": ["float", [None]]},
        "vmap": {"value": ":value"},
        "outs": {"out": None},
    },
    None,
)
