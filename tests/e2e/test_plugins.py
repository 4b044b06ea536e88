"""Nodes of one's own: every way to read a batch and to answer it, and what a node is told of its tasks."""

from typing import Any

import pytest
import torch

TASKS = 20
batches = pytest.mark.parametrize("batch_size", [1, 5, 20, 50])
ONE = ["float", [1]]
ROW = ["float", [None]]

SORTER = """
    class Sorter(Node):
        pure = True

        def __init__(self, args):
            self.limit = args.float("limit", default=10)

        def inputs(self):
            return {"number": FieldFormat("float", (1,)), "values": FieldFormat("float", (None,))}

        def outputs(self):
            form = {"values": FieldFormat("float", (None,)), "way": FieldFormat("uint8", (None,))}
            return {"low": form, "high": form, "called": {"values": FieldFormat("float", (None,))}}

        def calls(self):
            return (CallSite(graph="worker", args={"values": FieldFormat("float", (None,))}, output="called"),)

        def execute(self, batch):
            number = batch.uniform("number")[:, 0]
            padded, mask = batch.padded("values")
            assert padded.shape == mask.shape and not padded[~mask].any()
            rows = batch.rows("values")
            low, high, called = number % 5 < 2, number % 5 == 2, number % 5 == 3
            if low.any():
                batch.emit("low", low, values=Padded(padded[low] + 1, mask=mask[low]), way=["low"] * int(low.sum()))
            chosen = high.nonzero().view(-1).tolist()
            batch.emit("high", chosen, values=[rows[row] * 2 for row in chosen], way=["hi"] * len(chosen))
            chosen = called.nonzero().view(-1)
            shapes = [rows[row].shape for row in chosen]
            batch.call("called", "worker", chosen, values=Padded(padded[chosen], shapes=shapes))
            for row in (number % 5 == 4).nonzero().view(-1).tolist():
                batch.reject(row, f"rejected {number[row].item():g}", final=True)
"""


@pytest.mark.parametrize("executors", [1, 2, 3])
@batches
def test_a_batch_is_split_between_outputs_calls_and_rejections(
    start: Any, build: Any, plugin: Any, finish: Any, batch_size: int, executors: int
) -> None:
    kind = plugin(SORTER).__name__
    client = start(batch_size=batch_size, executors=executors, plugins=[kind])
    nodes = [
        build.node(
            "sort",
            kind,
            {"number": ":number", "values": ":values"},
            {"low": None, "high": "third", "called": None},
        ),
        build.node("third", "constant_op", {"value": ":number"}, None, {"op": "add", "const": 100, "input": ONE}),
    ]
    formats = {"number": ONE, "values": ROW}
    negate = {"op": "mul", "const": -1, "input": ROW}
    ns = client.load_graph(
        build.graphs(
            build.graph("main", formats, {"values": ROW}, {"values": "sort:values"}, nodes),
            build.graph(
                "worker",
                {"values": ROW},
                {"values": ROW},
                {"values": "negate:value"},
                [build.node("negate", "constant_op", {"value": ":values"}, None, negate)],
            ),
        )
    )
    given = [torch.arange(float(index % 4)) + index for index in range(TASKS)]
    tasks = [client.enqueue(ns, {"number": torch.tensor([float(i)]), "values": row}) for i, row in enumerate(given)]
    for index, (response, row) in enumerate(zip(finish(client, tasks).values(), given, strict=True)):
        if index % 5 == 4:
            assert (response.status, response.error.message) == ("error", f"rejected {index}")
            continue
        expected = {0: row + 1, 1: row + 1, 2: row * 2, 3: -row}[index % 5]
        assert torch.equal(response.result["values"], expected)
        assert response.retries == 0


@pytest.mark.parametrize("shape", [[3], [None], [None, 2], [2, None, None]])
def test_every_way_to_read_gives_the_same_and_every_way_to_answer_too(
    start: Any, build: Any, plugin: Any, finish: Any, shape: list[int | None]
) -> None:
    kind = plugin("""
        class Ways(Node):
            def __init__(self, args):
                self.info = args.info("info")
                self.read = args.str("read")
                self.answer = args.str("answer")

            def inputs(self):
                return {"value": self.info}

            def outputs(self):
                return {"out": {"value": self.info}}

            def read_all(self, batch):
                if self.read == "uniform":
                    return list(batch.uniform("value"))
                if self.read == "padded":
                    padded, mask = batch.padded("value")
                    assert padded.shape == mask.shape and mask.dtype is torch.bool
                    return [row[tuple(map(slice, size))] for row, size in zip(padded, batch.shapes("value"))]
                return batch.rows("value")

            def execute(self, batch):
                rows = [row * 3 for row in self.read_all(batch)]
                shapes = [row.shape for row in rows]
                if self.answer == "rows":
                    batch.emit("out", value=rows)
                elif self.answer == "halves":
                    middle = len(rows) // 2
                    batch.emit("out", range(middle, len(rows)), value=rows[middle:])
                    batch.emit("out", list(range(middle)), value=rows[:middle])
                elif self.answer == "stacked":
                    batch.emit("out", value=torch.stack(rows))
                elif self.answer == "single":
                    for row, value in enumerate(rows):
                        batch.emit("out", [row], value=value[None])
                else:
                    largest = [max(sizes) for sizes in zip(*shapes)]
                    padded = torch.full((len(rows), *largest), 77.0)
                    for row, value in enumerate(rows):
                        padded[row][tuple(map(slice, value.shape))] = value
                    batch.emit("out", value=Padded(padded, shapes=shapes))
    """).__name__
    client = start(plugins=[kind], batch_size=6)
    uniform = None not in shape
    given = [
        torch.randn([size if size is not None else (index * 3 + at) % 4 for at, size in enumerate(shape)])
        for index in range(TASKS)
    ]
    expected: dict[str, torch.Tensor] = {}
    for read in ("rows", "padded", *(["uniform"] if uniform else [])):
        for answer in ("rows", "halves", "single", "shapes", *(["stacked"] if uniform else [])):
            info = ["float", shape]
            node = build.node("w", kind, {"value": ":value"}, None, {"info": info, "read": read, "answer": answer})
            graph = build.graph("main", {"value": info}, {"value": info}, {"value": "w:value"}, [node])
            ns = client.load_graph(build.graphs(graph, ns=f"{read}_{answer}"))
            expected |= {client.enqueue(ns, {"value": value}): value * 3 for value in given}
    for task, response in finish(client, expected).items():
        response.ok()
        assert torch.equal(response.result["value"], expected[task]), response.ns


def test_answers_are_kept_as_they_were_emitted(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    """A buffer that the node uses again, a view of its weights, the input itself: nothing changes afterwards."""
    kind = plugin("""
        class Sharing(Node):
            def __init__(self, args):
                self.buffer = torch.zeros(64, 1)

            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                form = FieldFormat("float", (1,))
                return {"out": {"value": form, "same": form, "weight": form}}

            def execute(self, batch):
                self.buffer.fill_(-9)
                part = self.buffer[: len(batch)]
                part.copy_(batch.uniform("value") * 2)
                batch.emit("out", value=part, same=batch.uniform("value"), weight=part[:1].expand(len(batch), 1))
    """).__name__
    client = start(plugins=[kind], batch_size=1, executors=2)
    form = {"value": ONE, "same": ONE, "weight": ONE}
    plus = [
        build.node("share", kind, {"value": ":value"}, "plus"),
        build.node("plus", "constant_op", {"value": "share:same"}, None, {"op": "add", "const": 1, "input": ONE}),
    ]
    vmap = {"value": "share:value", "same": "share:same", "weight": "share:weight"}
    ns = client.load_graph(build.graphs(build.graph("main", {"value": ONE}, form, vmap, plus)))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        values = {name: value.item() for name, value in response.result.items()}
        assert values == {"value": 2 * index, "same": index, "weight": 2 * index}


def test_tokens_tell_a_later_attempt_from_an_earlier_one(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    module = plugin("""
        tokens = {}

        class Tokens(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                for row, task in enumerate(batch.task_ids):
                    tokens.setdefault(task, []).append(batch.fencing_token(row))
                    if len(tokens[task]) < 3:
                        batch.reject(row, "again")
                    else:
                        batch.emit("out", [row], value=batch.rows("value")[row][None])
    """)
    client = start(plugins=[module.__name__], executors=2, batch_size=3)
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(TASKS)]
    for task, response in finish(client, tasks).items():
        tokens = module.tokens[task]
        assert (response.retries, len(tokens)) == (2, 3)
        assert tokens == sorted(set(tokens))
        assert all(isinstance(token, str) for token in tokens)


def test_what_a_node_keeps(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    """A folder per node, kept while it is unloaded; loaded once for all executors; unloaded at the end."""
    module = plugin("""
        log = []
        folders = []

        class Keeper(Node):
            def __init__(self, args):
                self.place = args.place
                self.loaded = False

            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def load_cost(self):
                return 60.0

            def load(self, resources):
                assert not self.loaded
                self.loaded = True
                assert resources.device.type == "cpu"
                folder = resources.scratch
                folders.append(folder)
                earlier = (folder / "note").read_text() if (folder / "note").exists() else ""
                (folder / "note").write_text(earlier + "x")
                log.append(("load", self.place, earlier))

            def unload(self):
                assert self.loaded
                self.loaded = False
                log.append(("unload", self.place))

            def execute(self, batch):
                assert self.loaded
                batch.emit("out", value=batch.uniform("value") + 1)
    """)
    client = start(plugins=[module.__name__], executor_node_memory_bytes=100, executors=2)
    for ns in ("one", "two"):
        client.load_graph(build.graphs(build.line([1], module.__name__), ns=ns))
    assert module.log == []
    for ns in ("one", "one", "two", "one"):
        finish(client, [client.enqueue_task(ns, {"value": [1]})])
    client.close()
    assert module.log == [
        ("load", "one:main:s0", ""),
        ("unload", "one:main:s0"),
        ("load", "two:main:s0", ""),
        ("unload", "two:main:s0"),
        ("load", "one:main:s0", "x"),
        ("unload", "one:main:s0"),
    ]
    assert len(set(module.folders)) == 2
    assert not any(folder.exists() for folder in module.folders), "without a folder of blobs nothing is left behind"


def test_batches_are_bounded_by_tasks_and_by_padded_elements(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    """batch_tokens: tasks times the longest along the first null dimension; one task always fits."""
    module = plugin("""
        seen = []
        entered = SimpleQueue()
        gate = Semaphore(0)

        class Sizes(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (None,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (None,))}}

            def execute(self, batch):
                seen.append([len(row) for row in batch.rows("value")])
                entered.put(None)
                assert gate.acquire(timeout=60)
                batch.emit("out", value=batch.rows("value"))
    """)
    client = start(plugins=[module.__name__], batch_size=50)
    graph = build.line([None], module.__name__)
    graph["nodes"][0].update(batch_size=6, batch_tokens=40)
    ns = client.load_graph(build.graphs(graph))
    lengths = [1, 30, 2, 31, 1, 2, 100, 3, 2, 1, 2, 19, 20, 1, 1, 0, 29, 2, 1, 3]
    tasks = [client.enqueue(ns, {"value": torch.ones(length)}) for length in [5, *lengths]]
    module.entered.get(timeout=60)
    client.flush()
    module.gate.release(100_000)
    responses = finish(client, tasks).values()
    assert [len(response.result["value"]) for response in responses] == [5, *lengths]
    assert sorted(length for batch in module.seen for length in batch) == sorted([5, *lengths])
    for batch in module.seen:
        assert len(batch) <= 6
        assert len(batch) == 1 or len(batch) * max(batch) <= 40, module.seen
    assert len(module.seen) <= 13, "similar lengths go together"


def test_a_method_may_print_and_run_without_gradients(
    start: Any, build: Any, plugin: Any, finish: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    module = plugin("""
        class Model(Node):
            def __init__(self, args):
                self.layer = torch.nn.Linear(1, 1)
                torch.nn.init.constant_(self.layer.weight, 2.0)
                torch.nn.init.constant_(self.layer.bias, 1.0)

            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                assert not torch.is_grad_enabled()
                batch.emit("out", value=self.layer(batch.uniform("value")))
    """)
    client = start(plugins=[module.__name__], executors=2)
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(TASKS)]
    for index, response in enumerate(finish(client, tasks).values()):
        assert response.result["value"].item() == 2 * index + 1
        assert not response.result["value"].requires_grad


@pytest.mark.parametrize("base", ["NodeStrategy", "QueueStrategy"])
@pytest.mark.parametrize("raises", [False, True])
def test_strategies_of_ones_own(start: Any, build: Any, plugin: Any, finish: Any, base: str, raises: bool) -> None:
    """One that raises is put aside; everything goes on."""
    bodies = {
        "NodeStrategy": (
            "prefer(self, left, right)",
            "left.length < right.length",
            "want_to_switch(self, own, other)",
            "True",
        ),
        "QueueStrategy": ("priority(self, weight, retries)", "-weight", "unused(self)", "0"),
    }
    one, first, two, second = bodies[base]
    if raises:
        first = "1 / 0"
    module = plugin(
        f"""
        asked = []

        class Mine({base}):
            def {one}:
                asked.append(1)
                return {first}

            def {two}:
                return {second}
    """,
        header=f"from scatterzmq.core.strategy import {base}\n",
    )
    section = "node" if base == "NodeStrategy" else "queue"
    client = start(plugins=[module.__name__], batch_size=2, executors=2, **{f"strategy_{section}": module.__name__})
    ns = client.load_graph(build.graphs(build.line([1], ("add", 1), ("add", 10), ("add", 100))))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(TASKS)]
    assert [response.result["value"].item() for response in finish(client, tasks).values()] == [
        index + 111 for index in range(TASKS)
    ]
    assert module.asked
