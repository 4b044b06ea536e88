"""Which keys a task that leads others may wait for: those strictly below its own, so that nobody waits in a circle."""

from types import SimpleNamespace
from typing import Any

import pytest

from scatterzmq.core import travel
from scatterzmq.core.ledger import Lead
from scatterzmq.settings import Settings
from tests.core.conftest import World, chain, graph, node


def calling() -> Any:
    """The plan of graphs: top calls mid and side, mid calls low; round calls itself."""
    world = World(Settings())
    world.start(1)
    value = {"value": ":value"}
    top = graph(
        "top",
        "round:value",
        [
            node("mid", "call", value, "side", graph="mid"),
            node("side", "call", "mid:value", "round", graph="side"),
            node("round", "call", "side:value", None, graph="round"),
        ],
    )
    mid = graph("mid", "low:value", [node("n", "add", value, "low"), node("low", "call", value, None, graph="low")])
    turns = [
        node("n", "add", value, "down"),
        node("down", "down", "n:value", {"back": None, "out": None}, graph="round"),
    ]
    graphs = [
        top,
        mid,
        graph("round", "down:value", turns),
        chain(1, name="low"),
        chain(1, name="side"),
    ]
    return world.load(*graphs)


@pytest.fixture
def plan() -> Any:
    return calling()


def unit(plan: Any, name: str) -> Lead:
    """A graph ("mid"), or a node of it ("mid.low")."""
    graph_name, _, node_name = name.partition(".")
    graph = next(graph for graph in plan.graphs.values() if graph.name == graph_name)
    return Lead(graph, next((node for node in graph.nodes.values() if node.name == node_name), None))


def may_wait(plan: Any, asked: str, *leads: str) -> bool:
    record: Any = SimpleNamespace(plan=plan, leads={name.encode(): unit(plan, name) for name in leads})
    it = unit(plan, asked)
    return travel._may_wait(record, it.graph, it.node)


@pytest.mark.parametrize(
    ("lead", "below"),
    [
        ("top", "mid"),
        ("top", "low"),
        ("top", "top.side"),
        ("top", "low.n0"),
        ("top.mid", "mid"),
        ("top.mid", "low"),
        ("top.mid", "mid.n"),
        ("top.mid", "low.n0"),
        ("top.round", "round.down"),
        ("round", "round.n"),
        ("round.down", "round.n"),
    ],
)
def test_it_waits_for_what_lies_below_and_never_the_other_way_round(plan: Any, lead: str, below: str) -> None:
    assert may_wait(plan, below, lead)
    assert not may_wait(plan, lead, below)


@pytest.mark.parametrize(
    ("lead", "other"),
    [("mid", "side"), ("top.mid", "top.side"), ("mid.n", "mid.low"), ("mid.n", "low.n0"), ("low", "side.n0")],
)
def test_neither_waits_for_the_other(plan: Any, lead: str, other: str) -> None:
    """Nobody who computes the one needs the other; but who starts over may meet both, in any order."""
    assert not may_wait(plan, other, lead)
    assert not may_wait(plan, lead, other)


@pytest.mark.parametrize(("lead", "other"), [("round", "round"), ("round", "round.down"), ("round.down", "round")])
def test_in_a_recursion_it_computes(plan: Any, lead: str, other: str) -> None:
    assert not may_wait(plan, other, lead)


def test_who_leads_a_key_does_not_wait_for_one_beside_it() -> None:
    """Another one may lead that and wait for this one."""
    plan = calling()
    assert not may_wait(plan, "side", "mid")
    assert not may_wait(plan, "mid", "side")


def test_every_key_it_leads_counts(plan: Any) -> None:
    assert may_wait(plan, "mid")
    assert may_wait(plan, "low", "top", "mid")
    assert not may_wait(plan, "low", "top", "side")
