"""What goes in comes out, bit for bit; what does not fit is refused at the call."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from scatterzmq import FormatError, GraphError

BITS = {
    "bfloat16": torch.bfloat16,
    "bool": torch.bool,
    "cdouble": torch.complex128,
    "cfloat": torch.complex64,
    "complex128": torch.complex128,
    "complex64": torch.complex64,
    "double": torch.float64,
    "float": torch.float32,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "half": torch.float16,
    "int": torch.int32,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "int8": torch.int8,
    "long": torch.int64,
    "short": torch.int16,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e8m0fnu": torch.float8_e8m0fnu,
}
CASTABLE = sorted(name for name in BITS if not name.startswith(("float8", "uint16", "uint32", "uint64")))

MIRROR = """
    class Mirror(Node):
        def __init__(self, args):
            self.info = args.info("info")
            self.way = args.str("way")

        def inputs(self):
            return {"value": self.info}

        def outputs(self):
            return {"out": {"value": self.info}}

        def execute(self, batch):
            value = getattr(batch, self.way)("value")
            if self.way == "padded":
                value = Padded(*value)
            batch.emit("out", value=value)
"""


def mirror(build: Any, kind: str, dtype: str, shape: Sequence[int | None], way: str) -> Any:
    info = [dtype, list(shape)]
    node = build.node("mirror", kind, {"value": ":value"}, None, {"info": info, "way": way})
    graph = build.graph("main", {"value": info}, {"value": info}, {"value": "mirror:value"}, [node])
    return build.graphs(graph)


def noise(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Every bit pattern may occur: NaNs with payloads, infinities, subnormals."""
    generator = torch.Generator().manual_seed(seed)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).view(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def test_every_dtype_crosses_bit_for_bit(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    """Of equal shapes, of different ones, empty, and without dimensions; padded, as rows, and stacked."""
    kind = plugin(MIRROR).__name__
    client = start(plugins=[kind], batch_size=4)
    expected: dict[str, tuple[str, torch.Tensor]] = {}
    for dtype, known in BITS.items():
        for name, way, shape, sizes in (
            ("stacked", "uniform", (2, 3), [(2, 3)] * 3),
            ("single", "uniform", (), [()] * 2),
            ("listed", "rows", (None, 2), [(1, 2), (0, 2), (5, 2)]),
            ("padded", "padded", (None, None), [(1, 4), (3, 2), (2, 1), (0, 0)]),
        ):
            ns = client.load_graph(mirror(build, kind, dtype, shape, way) | {"ns": f"{dtype}_{name}"})
            for seed, size in enumerate(sizes):
                value = noise(known, size, seed)
                expected[client.enqueue(ns, {"value": value})] = (ns, value)
    for task, response in finish(client, expected).items():
        ns, value = expected[task]
        assert response.error is None, (ns, response.error)
        result = response.result["value"]
        assert (result.dtype, result.shape) == (value.dtype, value.shape), ns
        assert bits(result) == bits(value), ns


@pytest.mark.parametrize("dtype", CASTABLE)
def test_numbers_and_lists_are_cast_to_the_dtype(start: Any, build: Any, finish: Any, dtype: str) -> None:
    given: Any = [True, False] if dtype == "bool" else [1, 100]
    client = start()
    graph = build.graph(
        "main",
        {"value": [dtype, [2]], "one": [dtype, []]},
        {"value": [dtype, [2]], "one": [dtype, []]},
        {"value": ":value", "one": ":one"},
        [build.node("nothing", "if_op", {"condition": ":go"}, {"then": None, "else": None})],
    )
    graph["input_format"]["go"] = ["bool", [1]]
    ns = client.load_graph(build.graphs(graph))
    fields = {"value": given, "one": given[0], "go": [True]}
    (response,) = finish(client, [client.enqueue_task(ns, fields)]).values()
    assert torch.equal(response.result["value"], torch.tensor(given, dtype=BITS[dtype]))
    assert torch.equal(response.result["one"], torch.tensor(given[0], dtype=BITS[dtype]))


def test_names_that_mean_the_same_dtype_fit(start: Any, build: Any, finish: Any) -> None:
    info, same = ["float", [2]], ["float32", [2]]
    node = build.node("plus", "constant_op", {"value": ":value"}, None, {"op": "add", "const": 1, "input": same})
    client = start()
    ns = client.load_graph(
        build.graphs(build.graph("main", {"value": info}, {"value": info}, {"value": "plus:value"}, [node]))
    )
    assert client.output_format(ns, "value") == ("float", (2,))
    (response,) = finish(client, [client.enqueue_task(ns, {"value": np.ones(2, np.float32)})]).values()
    assert response.result["value"].dtype is torch.float32


def test_memory_laid_out_in_other_ways(start: Any, build: Any, finish: Any) -> None:
    """Transposed, strided, read-only, big-endian, with gradients: what counts are the values."""
    client = start()
    ns = client.load_graph(build.graphs(build.line([2, 3], ("add", 0))))
    base = np.arange(6, dtype=np.float32)
    locked = base.reshape(2, 3).copy()
    locked.flags.writeable = False
    given: list[Any] = [
        base.reshape(3, 2).T,
        torch.from_numpy(base.reshape(3, 2)).T,
        np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2],
        locked,
        base.astype(">f4").reshape(2, 3),
        torch.from_numpy(base).view(2, 3).requires_grad_(),
    ]
    tasks = [client.enqueue_task(ns, {"value": value}) for value in given]
    for response, value in zip(finish(client, tasks).values(), given, strict=True):
        expected = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        assert response.result["value"].tolist() == expected.tolist()


def test_texts_are_bytes_of_utf8(start: Any, build: Any, finish: Any) -> None:
    text = ["uint8", [None]]
    node = build.node("join", "str_concat", {"left": ":left", "right": ":right"}, None, {"delimiter": " · "})
    client = start(batch_size=4)
    graph = build.graph("main", {"left": text, "right": text}, {"value": text}, {"value": "join:value"}, [node])
    ns = client.load_graph(build.graphs(graph))
    words = ["", "a", "zwölf", "東京", "\N{SNOWMAN}\N{GRINNING FACE}", "nul\0byte", "two\nlines", "x" * 5000]
    tasks = {client.enqueue_task(ns, {"left": word, "right": word[::-1]}): word for word in words}
    for task, response in finish(client, tasks).items():
        word = tasks[task]
        value = response.result["value"]
        assert value.dtype is torch.uint8
        assert bytes(value.numpy()).decode() == f"{word} · {word[::-1]}"
    given: list[Any] = [b"raw", bytearray(b"raw"), np.frombuffer(b"raw", np.uint8), torch.tensor([114, 97, 119]).byte()]
    tasks = {client.enqueue_task(ns, {"left": value, "right": [33]}): "" for value in given}
    for response in finish(client, tasks).values():
        assert bytes(response.result["value"].numpy()).decode() == "raw · !"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (np.zeros((2, 3)), "float64[2, 3]"),
        (torch.zeros(2, 3, dtype=torch.int64), "int64[2, 3]"),
        (np.zeros((3, 3), np.float32), "float32[3, 3]"),
        (np.zeros((2, 3, 1), np.float32), "float32[2, 3, 1]"),
        (np.zeros(2, np.float32), "float32[2]"),
        ([[1, 2], [3]], ""),
        ([1, 2], "[2]"),
        (7, "[]"),
        ("text", ""),
        (None, ""),
        ({"a": 1}, ""),
        (object(), ""),
        ([["x"], ["y"]], ""),
    ],
)
def test_a_value_that_does_not_fit_is_refused_at_the_call(start: Any, build: Any, value: Any, got: str) -> None:
    """Field, what is expected and what it got; nothing is enqueued."""
    client = start()
    ns = client.load_graph(build.graphs(build.line([2, None], ("add", 1))))
    for enqueue in (
        lambda: client.enqueue_task(ns, {"value": value}),
        lambda: client.submit(ns, value=value),
        lambda: list(client.map(ns, [{"value": value}])),
    ):
        with pytest.raises(FormatError, match=re.escape("expected float[2, null], got ")) as raised:
            enqueue()
        assert isinstance(raised.value, ValueError)
        assert "'value'" in str(raised.value)
        assert got in str(raised.value)
    assert not client.has_any_tasks()


@pytest.mark.parametrize("fields", [{}, {"value": [[1], [2]], "more": 1}, {"valeu": [[1], [2]]}])
def test_fields_that_are_missing_or_too_many_are_named(start: Any, build: Any, fields: Any) -> None:
    client = start()
    ns = client.load_graph(build.graphs(build.line([2, None], ("add", 1))))
    with pytest.raises(FormatError, match="'value'") as raised:
        client.enqueue_task(ns, fields)
    for name in fields.keys() ^ {"value"}:
        assert repr(name) in str(raised.value)


def test_an_unknown_namespace_is_named_with_those_that_are_there(start: Any, build: Any) -> None:
    client = start()
    with pytest.raises(GraphError, match=r"'nowhere'.*none"):
        client.enqueue_task("nowhere", {})
    client.load_graph(build.graphs(build.line([1], ("add", 1)), ns="here"))
    for ask in (client.main_inputs, client.main_outputs, client.entry_graph_name, client.graph_to_json, client.submit):
        with pytest.raises(GraphError, match=r"'nowhere'.*here"):
            ask("nowhere")
    with pytest.raises(GraphError, match="no output field 'other'"):
        client.output_format("here", "other")
