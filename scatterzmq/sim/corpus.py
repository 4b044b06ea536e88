"""Graphs to run in a simulation, and the kinds of nodes they are made of: functions of whole numbers."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

from ..graph.check import Checked, check
from ..graph.formats import FieldFormat
from ..graph.nodeinfo import CallInfo, NodeInfo, UnknownKind
from ..graph.plan import Plan

Data: TypeAlias = int | tuple[int, ...]
"""One task's value of one field: a number, or a list of them (dimension open)."""

NUMBER = FieldFormat("long", ())
LIST = FieldFormat("long", (None,))
_ONE = {"value": NUMBER}
_MANY = {"value": LIST}


def describe(kind: str, args: Mapping[str, object], _ns: str, _place: str) -> NodeInfo:
    """What the kinds of the corpus are, for the checker of definitions. What they do says oracle.py."""
    inputs = _ONE
    outputs: dict[str, dict[str, FieldFormat]] = {"out": _ONE}
    calls: tuple[CallInfo, ...] = ()
    match kind:
        case "mix" | "alone" | "wrong" | "bomb" | "dice":
            pass
        case "branch":
            outputs = {"even": _ONE, "odd": _ONE}
        case "loop":
            outputs = {"again": _ONE, "done": _ONE}
        case "down":
            outputs = {"back": _ONE, "out": _ONE}
            calls = (CallInfo(graph=str(args["graph"]), args=_ONE, output="back"),)
        case "call":
            calls = (CallInfo(graph=str(args["graph"]), args=_ONE, output="out"),)
        case "sum":
            inputs = {"left": NUMBER, "right": NUMBER}
        case "spread":
            outputs = {"out": _MANY}
        case "grow":
            inputs = _MANY
            outputs = {"out": _MANY}
        case "fold":
            inputs = _MANY
        case _:
            raise ValueError(f"unknown kind {kind}")
    return NodeInfo(
        input_format=inputs,
        outputs=outputs,
        pure=kind != "dice",
        weight=1.0,
        load_cost=1.0,
        calls=calls,
        thread_safe=kind != "alone",
    )


def node(
    name: str, kind: str, source: str | Mapping[str, str], to: str | Mapping[str, str | None] | None, **extra: Any
) -> dict[str, Any]:
    """A node of a definition: where it reads from and where it leads to. graph, by: its arguments."""
    args = {key: extra.pop(key) for key in ("graph", "by") if key in extra}
    vmap = {"value": source} if isinstance(source, str) else dict(source)
    outs = dict(to) if isinstance(to, Mapping) else {"out": to}
    return {"name": name, "kind": kind, "vmap": vmap, "outs": outs, "args": args} | extra


def graph(name: str, result: str, nodes: Sequence[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    """A graph of a definition, from one number to one number."""
    formats = {"value": ["long", []]}
    return {
        "name": name,
        "input": nodes[0]["name"],
        "input_format": formats,
        "output_format": formats,
        "vmap": {"value": result},
        "nodes": list(nodes),
    } | extra


def chain(length: int, name: str = "chain", kind: str = "mix", **extra: Any) -> dict[str, Any]:
    """A graph of `length` nodes one after another."""
    nodes = [
        node(f"n{at}", kind, f"n{at - 1}:value" if at else ":value", f"n{at + 1}" if at + 1 < length else None, by=at)
        for at in range(length)
    ]
    return graph(name, f"n{length - 1}:value", nodes, **extra)


def _chain() -> list[dict[str, Any]]:
    return [chain(3)]


def _long() -> list[dict[str, Any]]:
    """One batch at a time per node."""
    return [chain(8, "long", "alone")]


def _branches() -> list[dict[str, Any]]:
    nodes = [
        node("start", "mix", ":value", "fork", by=1),
        node("fork", "branch", "start:value", {"even": "dial", "odd": "detour"}),
        node("detour", "mix", "fork:value", "dial", by=2),
        node("dial", "loop", "fork:value", {"again": "detour", "done": "end"}),
        node("end", "sum", {"left": "dial:value", "right": "start:value"}, None),
    ]
    return [graph("branches", "end:value", nodes)]


def _recursion() -> list[dict[str, Any]]:
    nodes = [
        node("down", "down", ":value", {"back": "up", "out": "up"}, graph="recursion"),
        node("up", "mix", "down:value", None, by=5),
    ]
    return [graph("recursion", "up:value", nodes)]


def _calls() -> list[dict[str, Any]]:
    """What two of the graphs make is to be at two places."""
    top = [
        node("first", "call", ":value", "second", graph="inner"),
        node("second", "call", "first:value", "last", graph="middle"),
        node("last", "sum", {"left": "first:value", "right": "second:value"}, None),
    ]
    middle = [node("there", "mix", ":value", "back", by=6), node("back", "call", "there:value", None, graph="inner")]
    twice: dict[str, Any] = {"payload_copies": 2}
    return [
        graph("calls", "last:value", top, **twice),
        graph("middle", "back:value", middle),
        chain(2, "inner", **twice),
    ]


def _shared() -> list[dict[str, Any]]:
    return [chain(2, "up", cache=True), graph("down", "n:value", [node("n", "mix", ":value", None, by=9, cache=True)])]


def _cached() -> list[dict[str, Any]]:
    """A cached graph of cached graphs and a cached node."""
    top = [
        node("first", "call", ":value", "second", graph="up", cache=True),
        node("second", "call", "first:value", "last", graph="down"),
        node("last", "sum", {"left": "first:value", "right": "second:value"}, None),
    ]
    return [graph("cached", "last:value", top, cache=True), *_shared()]


def _crossed() -> list[dict[str, Any]]:
    """Two cached graphs in this order or in that: leaders that wait for each other if nobody took care."""
    top = [
        node("fork", "branch", ":value", {"even": "up", "odd": "down"}),
        node("up", "call", "fork:value", "back", graph="up"),
        node("back", "call", "fork:value", "end", graph="down"),
        node("down", "call", "fork:value", "forth", graph="down"),
        node("forth", "call", "fork:value", "end", graph="up"),
        node("end", "sum", {"left": ":value", "right": "fork:value"}, None),
    ]
    return [graph("crossed", "end:value", top), *_shared()]


def _block() -> list[dict[str, Any]]:
    """Run whole by one executor."""
    return [chain(3, "block", is_block=True)]


def _lists() -> list[dict[str, Any]]:
    """Tensors of different lengths."""
    nodes = [
        node("spread", "spread", ":value", "grow"),
        node("grow", "grow", "spread:value", "fold"),
        node("fold", "fold", "grow:value", None),
    ]
    return [graph("lists", "fold:value", nodes)]


def _wrong() -> list[dict[str, Any]]:
    """Every fourth value fails for good."""
    nodes = [
        node("start", "mix", ":value", "risk", by=1),
        node("risk", "wrong", "start:value", "end"),
        node("end", "mix", "risk:value", None, by=2),
    ]
    return [graph("wrong", "end:value", nodes, max_retries=1)]


def _bomb() -> list[dict[str, Any]]:
    """Every fourth value kills whoever computes it."""
    nodes = [node("fuse", "bomb", ":value", "end"), node("end", "mix", "fuse:value", None, by=2)]
    return [graph("bomb", "end:value", nodes)]


def _dice() -> list[dict[str, Any]]:
    """The result differs from run to run, in its last three bits."""
    return [
        graph("dice", "end:value", [node("start", "mix", ":value", "end"), node("end", "dice", "start:value", None)])
    ]


def _holes() -> list[dict[str, Any]]:
    """Half of the tasks come to a node that needs what was not made on their way, and fail."""
    nodes = [
        node("start", "mix", ":value", "fork", by=1, cache=True),
        node("fork", "branch", "start:value", {"even": "extra", "odd": "end"}),
        node("extra", "mix", "fork:value", "end", by=2),
        node("end", "sum", {"left": "extra:value", "right": "start:value"}, None),
    ]
    return [graph("holes", "end:value", nodes, max_retries=1)]


def _deadend() -> list[dict[str, Any]]:
    """Half of the tasks come to the end of the graph without its result, and fail; what led them there is cached."""
    nodes = [
        node("fork", "branch", ":value", {"even": "end", "odd": None}, by=1, cache=True),
        node("end", "mix", "fork:value", None, by=2),
    ]
    return [graph("deadend", "end:value", nodes, max_retries=1)]


def _early() -> list[dict[str, Any]]:
    """The result is there before the last node, for which equal tasks wait for each other; it may be lost meanwhile."""
    nodes = [node("first", "mix", ":value", "last", by=1), node("last", "mix", "first:value", None, by=2, cache=True)]
    return [graph("early", "first:value", nodes)]


CORPUS: Mapping[str, Callable[[], list[dict[str, Any]]]] = MappingProxyType(
    {
        "chain": _chain,
        "long": _long,
        "branches": _branches,
        "recursion": _recursion,
        "calls": _calls,
        "cached": _cached,
        "crossed": _crossed,
        "block": _block,
        "lists": _lists,
        "wrong": _wrong,
        "bomb": _bomb,
        "dice": _dice,
        "holes": _holes,
        "deadend": _deadend,
        "early": _early,
    }
)
"""Namespace -> its graphs, the entry first."""

RARE = ("deadend", "holes")
"""Those in which many tasks fail, of which there need not be many."""

EVICTED = "early"
"""The one that is about what is lost while a task waits."""


@lru_cache(maxsize=64)  # checking takes longer than most runs, and plans do not change
def plan_of(ns: str) -> Plan:
    """The plan of a namespace of the corpus."""
    graphs = CORPUS[ns]()
    return check({"ns": ns, "entry": graphs[0]["name"], "graphs": graphs}, describe).require()


@lru_cache(maxsize=256)
def checked(definition: str, lacking: str = "") -> Checked:
    """What an executor says of a definition, where a kind may not be installed."""

    def describe_here(kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
        if kind == lacking:
            raise UnknownKind(f"{place}: {kind} is not installed")
        return describe(kind, args, ns, place)

    return check(definition, describe_here)
