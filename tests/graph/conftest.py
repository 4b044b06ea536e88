"""A small set of node kinds, and short ways to write definitions."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from scatterzmq.graph.check import CallInfo, Checked, NodeInfo, UnknownKind, check
from scatterzmq.graph.formats import FieldFormat, Format
from scatterzmq.graph.reading import field_format

TEXT = FieldFormat("uint8", (None,))
STACK = FieldFormat("int", (None,))
FLAG = FieldFormat("bool", (1,))
PAIR = ["float", [2]]


def _fields(args: Mapping[str, object], name: str) -> Format:
    value = args.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"argument {name!r} is missing; give a format")
    return {field: field_format(info) for field, info in value.items()}


def _describe(kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
    """What a node of one of the kinds below is."""
    info = field_format(args.get("input", PAIR))
    ins: Format = {"value": info}
    outs: dict[str, Format] = {"out": {"value": info}}
    calls: tuple[CallInfo, ...] = ()
    match kind:
        case "step" | "noise":
            pass
        case "join":
            ins = {"left": info, "right": info}
        case "source":
            ins = {}
        case "branch":
            ins, outs = {"condition": FLAG}, {"then": {}, "else": {}}
        case "fail":
            ins, outs = {}, {}
        case "text":
            ins, outs = {"text": TEXT}, {"out": {"text": TEXT}}
        case "call":
            ins, outs = _fields(args, "args"), {"out": _fields(args, "ret")}
            calls = (CallInfo(graph=str(args["graph"]), args=ins, output="out"),)
        case "loop":
            ins, outs = {"stack": STACK}, {"inner": {"stack": STACK}, "out": {"stack": STACK}}
            calls = (CallInfo(graph=str(args["graph"]), args=ins, output="inner"),)
        case "either":  # calls one graph or the other
            calls = tuple(CallInfo(graph=name, args=ins, output="out") for name in ("one", "two"))
        case "differing":
            outs = {"out": {"value": info}, "other": {"value": FieldFormat("double", (2,))}}
        case "spaced":
            outs = {"the out": {"value": info}}
        case "odd":
            calls = (CallInfo(graph="main", args=ins, output="nowhere"),)
            return NodeInfo(input_format=ins, outputs=outs, pure=True, weight=float("nan"), load_cost=-1.0, calls=calls)
        case _:
            raise UnknownKind(f"unknown node kind {kind!r}")
    weight = float(args["weight"]) if isinstance(args.get("weight"), int) else 1.0  # type: ignore[arg-type]
    return NodeInfo(
        input_format=ins, outputs=outs, pure=kind != "noise", weight=weight, load_cost=2.0, calls=calls,
        thread_safe=kind != "noise", doc=f"A {kind}.",
    )  # fmt: skip


@pytest.fixture(scope="session")
def describe() -> Callable[[str, Mapping[str, object], str, str], NodeInfo]:
    return _describe


@pytest.fixture
def checked() -> Callable[[Any], Checked]:
    """Check a definition with the kinds above."""
    return lambda source: check(source, _describe)


@pytest.fixture
def step() -> Callable[..., dict[str, Any]]:
    """A node: step(name, "source:field", next node), with other keys as they are."""

    def make(name: str, source: str, target: str | None, *, kind: str = "step", **keys: Any) -> dict[str, Any]:
        return {"name": name, "kind": kind, "vmap": {"value": source}, "outs": {"out": target}, **keys}

    return make


@pytest.fixture
def caller() -> Callable[..., dict[str, Any]]:
    """A node that calls a graph with one field "value" and gets one back."""

    def make(name: str, source: str, target: str | None, graph: str, **keys: Any) -> dict[str, Any]:
        args = {"graph": graph, "args": {"value": PAIR}, "ret": {"value": PAIR}} | keys.pop("args", {})
        node = {"name": name, "kind": "call", "args": args, "vmap": {"value": source}, "outs": {"out": target}}
        return node | keys

    return make


@pytest.fixture
def graph() -> Callable[..., dict[str, Any]]:
    """A graph: graph(name, "result source", node, ...), float[2] "value" in and out; starts at its first node."""

    def make(name: str, result: str, *nodes: dict[str, Any], **keys: Any) -> dict[str, Any]:
        made = {
            "name": name,
            "input": nodes[0]["name"],
            "input_format": {"value": PAIR},
            "output_format": {"value": PAIR},
            "vmap": {"value": result},
            "nodes": list(nodes),
        }
        return made | keys

    return make


@pytest.fixture
def graph_set() -> Callable[..., dict[str, Any]]:
    """A definition whose entry is the first graph."""

    def make(*graphs: dict[str, Any], **keys: Any) -> dict[str, Any]:
        return {"entry": graphs[0]["name"], "graphs": list(graphs)} | keys

    return make
