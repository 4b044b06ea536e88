"""Checks between graphs: calls, purity and caching, blocks."""

from collections.abc import Callable
from typing import Any

import pytest

from scatterzmq.graph.check import Checked
from scatterzmq.graph.plan import GraphPlan, Plan

Make = Callable[..., dict[str, Any]]
Check = Callable[[Any], Checked]


def graphs_of(plan: Plan | None) -> dict[str, GraphPlan]:
    assert plan is not None
    return {graph.name: graph for graph in plan.graphs.values()}


@pytest.fixture
def calling(graph_set: Make, graph: Make, step: Make, caller: Make) -> dict[str, Any]:
    """main: c (calls inner) -> end. inner: a -> end."""
    main = graph("main", "c:value", caller("c", ":value", None, "inner"))
    return graph_set(main, graph("inner", "a:value", step("a", ":value", None)))


def test_a_call_that_fits_has_nothing_to_say(checked: Check, calling: dict[str, Any]) -> None:
    found = checked(calling)
    assert (found.problems, found.warnings) == ((), ())
    graphs = graphs_of(found.plan)
    assert graphs["main"].below == {graphs["inner"].id}
    assert graphs["inner"].below == frozenset()
    (node,) = graphs["main"].nodes.values()
    assert node.calls == (graphs["inner"].id,)


def test_what_a_graph_gives_are_the_fields_of_its_vmap(checked: Check, calling: dict[str, Any]) -> None:
    """scattermind never looks at the output_format of a called graph."""
    calling["graphs"][1]["output_format"] = {"something": ["bool", []]}
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == (
        "main:inner: vmap and output_format differ in 'something', 'value'; callers get the fields of vmap",
    )
    assert {name: str(info) for name, info in graphs_of(found.plan)["inner"].output_format.items()} == {
        "value": "float[2]"
    }


def test_a_called_graph_may_claim_another_format_than_it_gives(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][1]["output_format"] = {"value": ["bool", []]}
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == (
        "main:inner: result 'value' is bool[] by output_format, but 'a:value' gives float[2]; callers get the latter",
    )
    assert str(graphs_of(found.plan)["inner"].output_format["value"]) == "float[2]"


def test_a_graph_that_is_not_there_cannot_be_called(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][1]["name"] = "inside"
    assert checked(calling).problems == (
        "main:main:c: calls graph 'inner', which is not there; the graphs are 'inside', 'main'",
    )


def test_arguments_must_cover_and_fit_the_called_graphs_input(checked: Check, calling: dict[str, Any]) -> None:
    inputs = calling["graphs"][1]["input_format"]
    inputs["more"] = ["int", []]
    assert checked(calling).problems == (
        "main:main:c: calls graph 'inner' without its input 'more'; it passes 'value'",
    )
    del inputs["more"]
    inputs["value"] = ["float", [3]]
    calling["graphs"][1]["nodes"][0]["args"] = {"input": ["float", [None]]}
    assert checked(calling).problems == (
        "main:main:c: calls graph 'inner' with 'value' as float[2], but that takes float[3]; make them agree",
    )


def test_more_arguments_than_the_called_graph_takes_are_a_warning(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][0]["nodes"][0]["args"]["args"]["more"] = ["float", [2]]
    calling["graphs"][0]["nodes"][0]["vmap"]["more"] = ":value"
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == ("main:main:c: passes 'more' to graph 'inner', which has no such input",)


def test_what_comes_back_must_fit_what_is_expected(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][0]["nodes"][0]["args"]["ret"]["value"] = ["double", [2]]
    calling["graphs"][0]["output_format"]["value"] = ["double", [2]]
    assert checked(calling).problems == (
        "main:main:c: expects 'value' of graph 'inner' as double[2], but that gives float[2]; make them agree",
    )


def test_a_field_that_does_not_come_back_is_a_problem_only_if_it_is_read(
    checked: Check, calling: dict[str, Any]
) -> None:
    ret = calling["graphs"][0]["nodes"][0]["args"]["ret"]
    ret["other"] = ["float", [2]]
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == ("main:main:c: expects 'other' of graph 'inner', which gives 'value'",)
    calling["graphs"][0]["vmap"]["value"] = "c:other"
    (problem,) = checked(calling).problems
    assert problem == (
        "main:main: result 'value' comes from 'c:other', a field that node 'c' does not give (it expects it of graph"
        " 'inner', whose vmap does not have it); the fields are 'value'"
    )


def test_a_field_that_comes_back_may_be_read_though_it_is_not_expected(checked: Check, calling: dict[str, Any]) -> None:
    """scattermind puts all fields of the called graph into the caller's frame."""
    calling["graphs"][0]["nodes"][0]["args"]["ret"] = {}
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == (
        "main:main: result 'value' comes from 'c:value', which the called graph gives but 'c' omits",
    )
    calling["graphs"][0]["output_format"] = {"value": ["bool", [2]]}
    (problem,) = checked(calling).problems
    assert problem.startswith("main:main: result 'value' is bool[2], but 'c:value' gives float[2]")


def test_a_cached_graph_must_be_pure_through_all_it_calls(
    checked: Check, calling: dict[str, Any], graph: Make, step: Make
) -> None:
    calling["graphs"][0]["cache"] = True
    assert checked(calling).problems == ()
    calling["graphs"][1]["nodes"][0]["kind"] = "noise"
    plan = checked(calling | {"graphs": _uncached(calling)}).plan
    assert [node.pure for graph in graphs_of(plan).values() for node in graph.nodes.values()] == [False, False]
    assert checked(calling).problems == (
        (
            "main:main: cannot be cached: it calls graph 'inner', which is not pure;"
            ' remove "cache" or use pure nodes only'
        ),
    )
    calling["graphs"][1]["cache"] = True
    assert checked(calling).problems[1] == (
        "main:inner: cannot be cached: node 'a' is not pure; remove \"cache\" or use pure nodes only"
    )


def test_purity_is_that_of_the_called_graph_not_of_the_calling_one(
    checked: Check, calling: dict[str, Any], step: Make
) -> None:
    calling["graphs"][1]["cache"] = True
    calling["graphs"][0]["nodes"].append(step("n", ":value", "c", kind="noise"))
    calling["graphs"][0]["input"] = "n"
    calling["graphs"][0]["nodes"][0]["cache"] = True
    found = checked(calling)
    assert found.problems == ()
    graphs = graphs_of(found.plan)
    assert (graphs["main"].pure, graphs["inner"].pure) == (False, True)
    assert {node.name: node.pure for node in graphs["main"].nodes.values()} == {"c": True, "n": False}


def test_a_node_that_is_not_pure_cannot_be_cached(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][1]["nodes"][0] |= {"kind": "noise", "cache": True}
    calling["graphs"][0]["nodes"][0]["cache"] = True
    assert checked(calling).problems == (
        "main:main:c: cannot be cached: it calls graph 'inner', which is not pure; remove \"cache\" from the node",
        "main:inner:a: cannot be cached: kind 'noise' is not pure; remove \"cache\" from the node",
    )


def test_recursion_is_held_to_be_pure(checked: Check, calling: dict[str, Any], caller: Make) -> None:
    inner = calling["graphs"][1]
    inner["nodes"][0]["outs"] = {"out": "again"}
    inner["nodes"].append(caller("again", "a:value", None, "main"))
    calling["graphs"][0]["cache"] = True
    found = checked(calling)
    assert found.problems == ()
    graphs = graphs_of(found.plan)
    both = {graphs["main"].id, graphs["inner"].id}
    assert graphs["main"].below == graphs["inner"].below == both
    inner["nodes"][0]["kind"] = "noise"
    assert len(checked(calling).problems) == 1
    assert not any(graph.pure for graph in graphs_of(checked(calling | {"graphs": _uncached(calling)}).plan).values())


def _uncached(definition: dict[str, Any]) -> list[dict[str, Any]]:
    return [graph | {"cache": False} for graph in definition["graphs"]]


def test_an_impure_node_that_never_runs_does_not_matter(checked: Check, calling: dict[str, Any], step: Make) -> None:
    calling["graphs"][0]["cache"] = True
    calling["graphs"][0]["nodes"].append(step("n", ":value", None, kind="noise", cache=True))
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == (
        "main:main:n: no way leads here from input node 'c'; it will never run",
        "main:main:n: cannot be cached: kind 'noise' is not pure; remove \"cache\" from the node",
    )


def test_a_loop_iterates_through_the_graph_that_holds_it(checked: Check, graph_set: Make, step: Make) -> None:
    """for_loop as the table of kinds describes it."""
    stack = {"stack": ["int", [None]]}
    loop = {"name": "loop", "kind": "loop", "args": {"graph": "body"}, "vmap": {"stack": ":stack"}}
    again = {"name": "again", "kind": "call", "args": {"graph": "main", "args": stack, "ret": stack}}
    main = {
        "name": "main", "input": "loop", "input_format": stack, "output_format": stack,
        "vmap": {"stack": "loop:stack"},
        "nodes": [
            loop | {"outs": {"inner": "again", "out": None}},
            again | {"vmap": {"stack": "loop:stack"}, "outs": {"out": None}},
        ],
    }  # fmt: skip
    body = main | {
        "name": "body",
        "input": "text",
        "vmap": {"stack": ":stack"},
        "nodes": [
            {"name": "text", "kind": "branch", "vmap": {"condition": ":go"}, "outs": {"then": None, "else": None}}
        ],
        "input_format": stack,
    }
    found = checked(graph_set(main, body))
    assert [problem.split(": ")[0] for problem in found.problems] == ["main:body:text"]
    body["nodes"] = [step("text", ":stack", None, args={"input": ["int", [None]]})]
    found = checked(graph_set(main, body))
    assert (found.problems, found.warnings) == ((), ())
    graphs = graphs_of(found.plan)
    assert graphs["main"].below == {graphs["main"].id, graphs["body"].id}
    nodes = {node.name: node for node in graphs["main"].nodes.values()}
    # The stack is still to be read after the loop's call has come back.
    assert nodes["loop"].outputs["inner"].drop == (":stack",)
    assert nodes["loop"].outputs["out"].drop == (":stack",)
    assert nodes["again"].outputs["out"].drop == ("again:stack",)


def test_retries_are_those_of_the_entry_graph(checked: Check, calling: dict[str, Any]) -> None:
    for graph in calling["graphs"]:
        graph["max_retries"] = 2
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == (
        "main:inner: 'max_retries' has no effect on a called graph; that of the entry graph counts",
    )


def test_a_block_calls_nothing_but_blocks(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][0]["is_block"] = True
    assert checked(calling).problems == (
        (
            "main:main:c: calls graph 'inner' from inside a block, but that is no block; set \"is_block\" there, or"
            " take it off 'main'"
        ),
    )
    calling["graphs"][1]["is_block"] = True
    assert checked(calling).problems == ()
    calling["graphs"][0]["is_block"] = False
    assert checked(calling).problems == ()


def test_a_block_cannot_call_what_is_not_there(checked: Check, calling: dict[str, Any]) -> None:
    calling["graphs"][0]["is_block"] = True
    del calling["graphs"][1]
    (problem,) = checked(calling).problems
    assert "which is not there" in problem


def test_settings_without_effect_inside_a_block_are_warnings(
    checked: Check, calling: dict[str, Any], step: Make
) -> None:
    main, inner = calling["graphs"]
    inner |= {"is_block": True, "cache": True}
    inner["nodes"][0] |= {"outs": {"out": "b"}, "batch_size": 3, "max_exec_s": 1}
    inner["nodes"].append(step("b", "a:value", None, batch_size=3, batch_tokens=9, max_exec_s=1, cache=True))
    found = checked(calling)
    assert found.problems == ()
    assert found.warnings == (
        'main:inner:b: "cache" has no effect inside a block; cache the block itself',
        "main:inner:b: 'batch_size' has no effect inside a block; set it at its input node 'a'",
        "main:inner:b: 'batch_tokens' has no effect inside a block; set it at its input node 'a'",
        "main:inner:b: 'max_exec_s' has no effect inside a block; set it at its input node 'a'",
    )
    main["is_block"] = True
    assert checked(calling).warnings[0] == ("main:main:c: graph 'inner' is cached, but not where a block calls it")


def test_only_the_first_queue_of_a_block_is_one(checked: Check, calling: dict[str, Any], step: Make) -> None:
    inner = calling["graphs"][1]
    inner["is_block"] = True
    inner["nodes"][0]["outs"] = {"out": "b"}
    inner["nodes"].append(step("b", "a:value", None, cache=True))
    plan = checked(calling).require()
    assert sorted(plan.place(node) for node in plan.queues.values()) == ["main:inner:a", "main:main:c"]
    nodes = {node.name: node for node in graphs_of(plan)["inner"].nodes.values()}
    assert nodes["a"].outputs["out"].next == nodes["b"].queue
    assert not nodes["b"].cache
    assert not plan.digests


def test_calls_may_nest_deeper_than_the_stack(
    checked: Check, graph_set: Make, graph: Make, step: Make, caller: Make
) -> None:
    depth = 500
    graphs = [
        graph(f"g{number}", "c:value", caller("c", ":value", None, f"g{number + 1}", args={"ret": {}}))
        for number in range(depth)
    ]
    found = checked(graph_set(*graphs, graph(f"g{depth}", "a:value", step("a", ":value", None))))
    assert found.problems == ()
    assert len(graphs_of(found.plan)["g0"].below) == depth
