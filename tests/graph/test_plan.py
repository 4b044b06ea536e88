"""Plans: what a checked definition becomes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from scatterzmq.graph.check import Checked
from scatterzmq.graph.plan import GraphPlan, NodePlan, Plan
from scatterzmq.ids import GraphId, NodeId, QueueId

Make = Callable[..., dict[str, Any]]
Check = Callable[[Any], Checked]


@pytest.fixture
def calling(graph_set: Make, graph: Make, step: Make, caller: Make) -> dict[str, Any]:
    """main: a -> c (calls inner) -> b -> end. inner: x -> y -> end."""
    nodes = (step("a", ":value", "c"), caller("c", "a:value", "b", "inner"), step("b", "c:value", None))
    inner = graph("inner", "y:value", step("x", ":value", "y"), step("y", "x:value", None))
    return graph_set(graph("main", "b:value", *nodes), inner, ns="test")


def node_of(plan: Plan, graph: str, node: str) -> NodePlan:
    return graph_of(plan, graph).nodes[NodeId.of(plan.ns, graph, node)]


def graph_of(plan: Plan, graph: str) -> GraphPlan:
    return plan.graphs[GraphId.of(plan.ns, graph)]


def test_names_become_ids_and_edges_queues(checked: Check, calling: dict[str, Any]) -> None:
    plan = checked(calling).require()
    assert plan.ns == "test"
    assert plan.entry == GraphId.of("test", "main")
    assert list(plan.graphs) == [GraphId.of("test", "main"), GraphId.of("test", "inner")]
    main = graph_of(plan, "main")
    assert (main.first, main.first_queue) == (NodeId.of("test", "main", "a"), QueueId.of("test", "main", "a"))
    assert [node.name for node in main.nodes.values()] == ["a", "c", "b"]
    assert node_of(plan, "main", "a").outputs["out"].next == QueueId.of("test", "main", "c")
    assert node_of(plan, "main", "b").outputs["out"].next is None
    assert node_of(plan, "main", "b").inputs == {"value": "c:value"}
    assert main.outputs == {"value": "b:value"}
    assert plan.queues == {node.queue: node for graph in plan.graphs.values() for node in graph.nodes.values()}
    assert plan.qualified(main.id) == "test:main"
    assert plan.place(node_of(plan, "inner", "y")) == "test:inner:y"


def test_fixed_ids_are_kept(checked: Check, calling: dict[str, Any]) -> None:
    queue, node = QueueId("Q" + "1" * 32), NodeId("N" + "2" * 32)
    calling["graphs"][0]["nodes"][1] |= {"qin": str(queue), "node_id": str(node)}
    plan = checked(calling).require()
    assert node_of(plan, "main", "a").outputs["out"].next == queue
    assert plan.queues[queue].id == node


def test_settings_and_costs_are_carried(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][0] |= {"max_retries": 3, "payload_copies": 2, "description": "about"}
    calling["graphs"][0]["nodes"][0] |= {"batch_size": 4, "batch_tokens": 64, "max_exec_s": 0.0001, "cache": True}
    calling["graphs"][0]["nodes"][0]["args"] = {"weight": 5}
    plan = checked(calling).require()
    main, node = graph_of(plan, "main"), node_of(plan, "main", "a")
    assert (main.max_retries, main.payload_copies, main.description) == (3, 2, "about")
    assert (node.batch_size, node.batch_tokens, node.max_exec_ms, node.cache) == (4, 64, 1, True)
    assert (node.kind, dict(node.args), node.weight, node.load_cost) == ("step", {"weight": 5}, 5.0, 2.0)
    other = node_of(plan, "main", "b")
    assert (other.batch_size, other.batch_tokens, other.max_exec_ms, other.cache) == (None, None, None, False)


def test_a_block_is_as_thread_safe_as_all_that_it_runs(checked: Check, calling: dict[str, Any]) -> None:
    for graph in calling["graphs"]:
        graph["is_block"] = True
    assert node_of(checked(calling).require(), "main", "a").thread_safe
    calling["graphs"][1]["nodes"][1]["kind"] = "noise"
    plan = checked(calling).require()
    assert not node_of(plan, "main", "a").thread_safe, "the block goes on to a node of the graph that it calls"
    for graph in calling["graphs"]:
        graph["is_block"] = False
    plan = checked(calling).require()
    assert node_of(plan, "main", "a").thread_safe
    assert not node_of(plan, "inner", "y").thread_safe


def test_the_first_open_dimension_is_the_one_to_batch_by(
    checked: Check, graph_set: Make, graph: Make, step: Make
) -> None:
    open_pair = {"input": ["float", [2, None, None]]}
    form = {"value": ["float", [2, None, 7]]}
    definition = graph("main", ":value", step("a", ":value", None, args=open_pair), input_format=form)
    plan = checked(graph_set(definition | {"output_format": form})).require()
    assert (node_of(plan, "main", "a").padded_field, node_of(plan, "main", "a").padded_dim) == ("value", 1)
    plan = checked(graph_set(graph("main", "a:value", step("a", ":value", None)))).require()
    assert node_of(plan, "main", "a").padded_field is None


def test_each_field_is_freed_where_its_last_reader_leaves(checked: Check, calling: dict[str, Any]) -> None:
    plan = checked(calling).require()
    drops = {node.name: node.outputs["out"].drop for node in plan.queues.values()}
    assert drops == {"a": (":value",), "c": ("a:value",), "b": ("c:value",), "x": (":value",), "y": ("x:value",)}


def test_a_field_lives_through_a_call_if_it_is_read_after_it(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][0]["nodes"][2] |= {"kind": "join", "vmap": {"left": "c:value", "right": "a:value"}}
    plan = checked(calling).require()
    drops = {node.name: node.outputs["out"].drop for node in graph_of(plan, "main").nodes.values()}
    assert drops == {"a": (":value",), "c": (), "b": ("a:value", "c:value")}


def test_fields_that_a_call_brings_and_nobody_wants_are_freed(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][1]["vmap"] |= {"more": "x:value"}
    calling["graphs"][1]["output_format"] |= {"more": ["float", [2]]}
    plan = checked(calling).require()
    assert node_of(plan, "main", "c").outputs["out"].drop == ("a:value", "c:more")


def test_a_field_that_a_call_may_not_bring_anew_is_kept(
    checked: Check, graph_set: Make, graph: Make, step: Make
) -> None:
    """Node x calls graph one, which gives "more", in a first round and graph two, which does not, in the next."""
    inputs = {"flag": ["bool", [1]], "value": ["float", [2]]}
    branch = {"name": "y", "kind": "branch", "vmap": {"condition": ":flag"}, "outs": {"then": "x", "else": None}}
    nodes = (step("x", ":value", "y", kind="either"), branch)
    main = graph("main", "x:more", *nodes, input_format=inputs)
    one = graph("one", "s:value", step("s", ":value", None))
    two = graph("two", "s:value", step("s", ":value", None))
    one["vmap"]["more"] = ":value"
    plan = checked(graph_set(main, one, two)).require()
    drops = {output.name: output.drop for output in node_of(plan, "main", "y").outputs.values()}
    assert drops == {"then": (), "else": (":flag", ":value")}
    two["vmap"]["more"] = ":value"
    plan = checked(graph_set(main, one, two)).require()
    assert "x:more" not in node_of(plan, "main", "x").outputs["out"].drop


@pytest.mark.parametrize(
    ("path", "value", "digests"),
    [
        (("graphs", 0, "description"), "x", False),
        (("graphs", 0, "cache"), True, True),
        (("graphs", 1, "cache"), True, True),
        (("graphs", 1, "nodes", 0, "cache"), True, True),
    ],
)
def test_digests_are_wanted_if_anything_caches(
    checked: Check, calling: dict[str, Any], path: tuple[str | int, ...], value: object, digests: bool
) -> None:
    _put(calling, path, value)
    assert checked(calling).require().digests is digests


def _put(target: Any, path: tuple[str | int, ...], value: object) -> None:
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value


def closures(plan: Plan) -> dict[str, bytes]:
    made = {graph.name: graph.closure for graph in plan.graphs.values()}
    made.update({f"{plan.graphs[node.graph].name}:{node.name}": node.closure for node in plan.queues.values()})
    return made


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        (("ns",), "elsewhere", set()),
        (("graphs", 0, "description"), "about", set()),
        (("graphs", 0, "graph_id"), "G" + "1" * 32, set()),
        (("graphs", 0, "cache"), True, set()),
        (("graphs", 0, "max_retries"), 1, set()),
        (("graphs", 0, "nodes", 0, "node_id"), "N" + "1" * 32, set()),
        (("graphs", 0, "nodes", 0, "qin"), "Q" + "1" * 32, set()),
        (("graphs", 0, "nodes", 0, "batch_size"), 3, set()),
        (("graphs", 0, "nodes", 0, "args"), {"const": 1}, {"main", "main:a"}),
        (("graphs", 0, "nodes", 0, "kind"), "noise", {"main", "main:a"}),
        (("graphs", 0, "nodes", 2, "vmap"), {"value": ":value"}, {"main"}),
        (("graphs", 0, "nodes", 0, "outs"), {"out": "b"}, {"main", "main:c"}),
        (("graphs", 1, "nodes", 0, "args"), {"const": 1}, {"main", "main:c", "inner", "inner:x"}),
        (("graphs", 1, "nodes", 1, "vmap"), {"value": ":value"}, {"main", "main:c", "inner"}),
        (("graphs", 1, "vmap"), {"value": "x:value"}, {"main", "main:c", "inner"}),
        (("graphs", 1, "nodes", 0, "batch_size"), 3, set()),
    ],
)
def test_a_closure_changes_exactly_where_results_can(
    checked: Check, calling: dict[str, Any], path: tuple[str | int, ...], value: object, changed: set[str]
) -> None:
    before = closures(checked(calling).require())
    if path == ("graphs", 0, "nodes", 0, "outs"):  # Leave node c out.
        calling["graphs"][0]["nodes"][2]["vmap"] = {"value": ":value"}
    _put(calling, path, value)
    after = closures(checked(calling).require())
    gone = {name for name in before if name not in after}
    assert {name for name in after if after[name] != before[name]} | gone == changed | (gone - changed)
    assert changed <= {name for name in before if after.get(name) != before[name]}
    assert {len(closure) for closure in before.values()} == {32}


def test_graphs_of_equal_text_share_closures_whatever_they_are_called(
    checked: Check, graph_set: Make, graph: Make, step: Make, caller: Make
) -> None:
    main = graph("main", "b:value", caller("a", ":value", "b", "one"), caller("b", "a:value", None, "two"))
    definition = graph_set(main, *(graph(name, "x:value", step("x", ":value", None)) for name in ("one", "two")))
    found = closures(checked(definition).require())
    assert found["one"] == found["two"]
    assert found["one:x"] == found["two:x"]
    definition["graphs"][2]["nodes"][0]["args"] = {"const": 1}
    found = closures(checked(definition).require())
    assert found["one"] != found["two"]


def test_closures_of_graphs_that_call_each_other_depend_on_all_of_them(
    checked: Check, graph_set: Make, graph: Make, step: Make, caller: Make
) -> None:
    definition = graph_set(
        graph("main", "a:value", caller("a", ":value", None, "ping")),
        graph("ping", "a:value", step("s", ":value", "a"), caller("a", "s:value", None, "pong")),
        graph("pong", "a:value", step("s", ":value", "a"), caller("a", "s:value", None, "ping")),
    )
    before = closures(checked(definition).require())
    assert before == closures(checked(copy.deepcopy(definition)).require())
    assert before["ping"] != before["pong"]
    definition["graphs"][2]["nodes"][0]["args"] = {"const": 1}
    after = closures(checked(definition).require())
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"main", "main:a", "ping", "ping:a", "pong", "pong:a", "pong:s"}
    definition["graphs"].reverse()
    definition["entry"] = "main"
    assert closures(checked(definition).require()) == after


def test_a_closure_is_the_same_for_ever(checked: Check, calling: dict[str, Any]) -> None:
    """Peers of other versions share the cache."""
    plan = checked(calling).require()
    assert graph_of(plan, "main").closure.hex()[:12] == "3bbadb6ce99f"
    assert node_of(plan, "main", "a").closure.hex()[:12] == "fbf23abf8278"
