"""Which fields their owner needs itself: those that become part of a result, or of a cached value."""

from typing import Any

from scatterzmq.core.needed import ALL, needed
from scatterzmq.graph.check import check
from tests.core.conftest import chain, describe, graph, node


def names(*graphs: dict[str, Any]) -> set[tuple[str, str]]:
    plan = check({"graphs": list(graphs), "entry": graphs[0]["name"]}, describe).require()
    return {(plan.graphs[graph].name, field) for graph, field in needed(plan)}


def test_the_last_of_a_chain() -> None:
    assert names(chain(3)) == {("main", ALL), ("main", "n2:value")}


def test_an_input_that_comes_out_again() -> None:
    inner = graph("inner", ":value", [node("n", "add", ":value", None)])
    top = graph("main", "call:value", [node("call", "call", ":value", None, graph="inner")])
    assert names(top, inner) == {("main", ALL), ("main", "call:value"), ("inner", ALL), ("inner", ":value")}


def test_what_a_called_graph_gives_is_needed_if_its_caller_s_is() -> None:
    call = node("call", "call", ":value", "end", graph="inner")
    end = node("end", "add", "call:value", None)
    assert ("inner", "n1:value") not in names(graph("main", "end:value", [call, end]), chain(2, "inner"))
    assert ("inner", "n1:value") in names(graph("main", "call:value", [call, end]), chain(2, "inner"))
    cached = graph("main", "end:value", [call | {"cache": True}, end])
    assert {("inner", "n1:value"), ("main", "call:value")} <= names(cached, chain(2, "inner"))


def test_through_several_calls() -> None:
    outer = graph("outer", "call:value", [node("call", "call", ":value", None, graph="inner")])
    top = graph("main", "call:value", [node("call", "call", ":value", None, graph="outer")])
    assert ("inner", "n0:value") in names(top, outer, chain(1, "inner"))


def test_recursion() -> None:
    down = graph("main", "down:value", [node("down", "down", ":value", {"out": None, "back": None}, graph="main")])
    assert names(down) == {("main", ALL), ("main", "down:value")}


def test_cached_graphs_and_nodes() -> None:
    nodes = [node("n0", "add", ":value", "n1", cache=True), node("n1", "add", "n0:value", "n2")]
    top = graph("main", "n2:value", [*nodes, node("n2", "call", "n1:value", None, graph="kept")])
    found = names(top, chain(2, "kept", cache=True))
    assert {("main", "n0:value"), ("kept", "n1:value")} <= found
    assert ("main", "n1:value") not in found
    assert ("kept", "n0:value") not in found
