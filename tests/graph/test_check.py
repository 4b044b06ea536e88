"""Checks within one graph: which faults refuse a definition, which are warnings, and what is said about them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.errors import GraphError
from scatterzmq.graph.check import Checked, check, plan_from_text
from scatterzmq.graph.manifest import describe_from
from scatterzmq.graph.nodeinfo import Described
from scatterzmq.graph.show import show
from scatterzmq.ids import QueueId

Make = Callable[..., dict[str, Any]]
Check = Callable[[Any], Checked]


@pytest.fixture
def small(graph_set: Make, graph: Make, step: Make) -> dict[str, Any]:
    return graph_set(graph("main", "b:value", step("a", ":value", "b"), step("b", "a:value", None)))


def branching(graph: Make, step: Make, result: str = ":value") -> dict[str, Any]:
    """branch -> a -> end or branch -> b -> end"""
    branch = {"name": "x", "kind": "branch", "vmap": {"condition": ":flag"}, "outs": {"then": "a", "else": "b"}}
    inputs = {"flag": ["bool", [1]], "value": ["float", [2]]}
    nodes = (branch, step("a", ":value", None), step("b", ":value", None))
    return graph("main", result, *nodes, input_format=inputs)


def test_a_sound_definition_has_a_plan_and_nothing_to_say(checked: Check, small: dict[str, Any]) -> None:
    found = checked(small)
    assert found.plan is found.require() is not None
    assert (found.problems, found.warnings) == ((), ())
    assert found.definition is not None
    assert set(found.infos) == {("main", "a"), ("main", "b")}


def test_a_plan_comes_of_its_own_text(describe: Any, small: dict[str, Any]) -> None:
    plan = check(small, describe).require()
    again = plan_from_text(plan.definition, describe)
    assert (again.digest, again.definition) == (plan.digest, plan.definition)
    with pytest.raises(GraphError, match="not JSON"):
        plan_from_text("{", describe)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("input",), "c", "main:main: input node 'c' is not there; the nodes are 'a', 'b'"),
        (("nodes", 0, "kind"), "stop", "main:main:a: unknown node kind 'stop'"),
        (("nodes", 0, "args"), {"input": 3}, 'main:main:a: expected [dtype, shape] like ["float", [2, null]], got 3'),
        (
            ("nodes", 0, "outs"),
            {"out": "bb"},
            (
                "main:main:a: output 'out' leads to 'bb', which is no node of this graph; did you mean 'b'? (null leads"
                " to the graph's end)"
            ),
        ),
        (
            ("nodes", 0, "outs"),
            {"out": "Q" + "0" * 32},
            (
                f"main:main:a: output 'out' leads to queue Q{'0' * 32}, which belongs to no node of this graph; name a"
                " node of it, or null for the graph's end"
            ),
        ),
        (
            ("nodes", 0, "outs"),
            None,
            "main:main:a: output 'out' is left unconnected; name the next node in 'outs', or null for the graph's end",
        ),
        (("nodes", 0, "vmap"), {}, "main:main:a: input 'value' is not connected; say in 'vmap' where it comes from"),
        (
            ("nodes", 0, "vmap"),
            {"value": ":value", "more": ":value"},
            "main:main:a: vmap has 'more', which is no input of this kind of node; the inputs are 'value'",
        ),
        (
            ("nodes", 0, "vmap"),
            {"value": ":valu"},
            "main:main:a: input 'value' comes from ':valu', which is no input of the graph; did you mean 'value'?",
        ),
        (
            ("nodes", 1, "vmap"),
            {"value": "c:value"},
            (
                "main:main:b: input 'value' comes from 'c:value', but there is no such node in this graph; the nodes"
                " are 'a', 'b'"
            ),
        ),
        (
            ("nodes", 1, "vmap"),
            {"value": "a:other"},
            (
                "main:main:b: input 'value' comes from 'a:other', a field that node 'a' does not give; the fields are"
                " 'value'"
            ),
        ),
        (
            ("nodes", 0, "vmap"),
            {"value": "b:value"},
            (
                "main:main:a: input 'value' comes from 'b:value', but no way leads here that brings it; connect node"
                " 'b' before this, or take another source"
            ),
        ),
        (
            ("nodes", 0, "args"),
            {"input": ["float", [3]]},
            (
                "main:main:a: input 'value' is float[3], but ':value' gives float[2]; dtype, number of dimensions and"
                " fixed sizes must agree"
            ),
        ),
        (
            ("nodes", 1, "args"),
            {"input": ["double", [2]]},
            (
                "main:main:b: input 'value' is double[2], but 'a:value' gives float[2]; dtype, number of dimensions and"
                " fixed sizes must agree"
            ),
        ),
        (
            ("output_format",),
            {"value": ["float", [2, 1]]},
            (
                "main:main: result 'value' is float[2, 1], but 'b:value' gives float[2]; dtype, number of dimensions"
                " and fixed sizes must agree"
            ),
        ),
        (
            ("output_format",),
            {"other": ["float", [2]]},
            "main:main: vmap and output_format differ in 'other', 'value'; the results of the entry graph need both",
        ),
        (
            ("vmap",),
            {"value": "b:out"},
            "main:main: result 'value' comes from 'b:out', a field that node 'b' does not give; the fields are 'value'",
        ),
    ],
)
def test_each_fault_is_told_with_its_place_and_what_to_do(
    checked: Check, small: dict[str, Any], path: tuple[str | int, ...], value: object, line: str
) -> None:
    target: Any = small["graphs"][0]
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    found = checked(small)
    assert found.plan is None
    assert line in found.problems
    with pytest.raises(GraphError):
        found.require()


def test_all_problems_are_found_at_once_each_at_its_place(
    checked: Check, graph_set: Make, graph: Make, step: Make
) -> None:
    found = checked(
        graph_set(
            graph("main", "b:value", step("a", ":x", "b"), step("b", "a:y", "c"), step("c", "b:value", None, kind="?")),
            graph("other", "d:z", step("d", ":value", "e"), {"name": "e"}),
        )
    )
    assert [problem.split(": ")[0] for problem in found.problems] == [
        "main:other:e",
        "main:main:c",
        "main:main:a",
        "main:main:b",
        "main:other",
    ]


def test_what_could_not_be_read_is_told_once(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0] |= {"kind": None, "outs": 3}
    assert checked(small).problems == (
        "main:main:a: key 'kind' must not be null",
        "main:main:a: key 'outs': expected an object, got 3",
    )
    small["graphs"][0]["nodes"][0] = 7
    assert checked(small).problems == ("main:main:nodes[0]: expected an object, got 7",)


WIRING = (
    "main:main: input node 'nod' is not there; the nodes are 'a', 'b'",
    "main:main:a: output 'out' leads to 'nope', which is no node of this graph",
    "main:main:b: input 'value' comes from 'ghost:x', but there is no such node in this graph",
)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("max_retries", -1, "main:main: key 'max_retries': expected a whole number from 0 to 1000, got -1"),
        ("cache", "perhaps", "main:main: key 'cache': expected true or false, got 'perhaps'"),
        ("input_format", {"value": ["flot", [2]]}, "main:main: input_format of 'value': unknown dtype 'flot'; did you"),
        ("output_format", None, "main:main: key 'output_format' must not be null"),
        ("vmap", {"value": 7}, "main:main: vmap of 'value': "),
    ],
)
def test_a_key_of_a_graph_that_cannot_be_read_hides_nothing_else(
    checked: Check, small: dict[str, Any], key: str, value: object, line: str
) -> None:
    """It hid all that is wrong with the wiring of the graph, so that people mended a file one problem at a time."""
    graph = small["graphs"][0] | {"input": "nod", key: value}
    graph["nodes"][0]["outs"] = {"out": "nope"}
    graph["nodes"][1]["vmap"] = {"value": "ghost:x"}
    told = checked({**small, "graphs": [graph]}).problems
    assert len(told) == 4
    assert all(any(one.startswith(start) for one in told) for start in (line, *WIRING))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input", 5),
        ("input_format", {"value": ["flot", [2]]}),
        ("input_format", None),
        ("output_format", {"value": 3}),
        ("vmap", {"value": "b:"}),
        ("vmap", 3),
        ("nodes", 3),
    ],
)
def test_of_a_key_of_a_graph_that_cannot_be_read_nothing_follows(
    checked: Check, small: dict[str, Any], key: str, value: object
) -> None:
    found = checked({**small, "graphs": [small["graphs"][0] | {key: value}]})
    assert len(found.problems) == 1
    assert found.warnings == ()


def test_a_key_of_a_node_that_cannot_be_read_hides_nothing_else(checked: Check, small: dict[str, Any]) -> None:
    first, second = small["graphs"][0]["nodes"]
    first |= {"batch_size": -1, "outs": {"out": "bee"}}
    second |= {"kind": 5, "vmap": {"value": "ghost:x"}, "outs": {"out": "Q" + "1" * 32}}
    told = checked(small).problems
    assert [problem.partition(";")[0] for problem in told] == [
        "main:main:a: key 'batch_size': expected a whole number from 1 to 65536, got -1",
        "main:main:b: key 'kind': expected text, got 5",
        "main:main:a: output 'out' leads to 'bee', which is no node of this graph",
        f"main:main:b: output 'out' leads to queue Q{'1' * 32}, which belongs to no node of this graph",
        "main:main:b: input 'value' comes from 'ghost:x', but there is no such node in this graph",
    ]


@pytest.mark.parametrize("key", ["outs", "vmap", "kind", "args"])
def test_of_a_key_of_a_node_that_cannot_be_read_nothing_follows(
    checked: Check, small: dict[str, Any], key: str
) -> None:
    small["graphs"][0]["nodes"][0][key] = 3
    found = checked(small)
    assert len(found.problems) == 1
    assert found.warnings == ()


def test_of_a_called_graph_with_an_unread_key_nothing_follows(
    checked: Check, graph_set: Make, graph: Make, step: Make, caller: Make
) -> None:
    for key in ("input_format", "vmap"):
        callee = graph("sub", "s:value", step("s", ":value", None), **{key: 3})
        found = checked(graph_set(graph("main", "c:value", caller("c", ":value", None, "sub")), callee))
        assert len(found.problems) == 1
        assert found.warnings == ()


def test_formats_match_through_open_dimensions_and_aliases(
    checked: Check, graph_set: Make, graph: Make, step: Make
) -> None:
    wide = step("a", ":value", "b", args={"input": ["float32", [None]]})
    found = checked(graph_set(graph("main", "b:value", wide, step("b", "a:value", None))))
    assert (found.problems, found.warnings) == ((), ())


def test_an_unreachable_node_is_a_warning_whatever_is_wrong_with_it(checked: Check, small: dict[str, Any]) -> None:
    """scattermind runs such a file."""
    small["graphs"][0]["nodes"] += [
        {"name": "c", "kind": "call", "vmap": {"value": "nowhere:value", "x": "a:z"}, "outs": {"out": "Q" + "1" * 32}},
        {"name": "d", "kind": "call", "args": {"graph": "none", "args": {"v": ["int", []]}, "ret": {}}},
        {"name": "e", "kind": "join", "vmap": {"left": ":other", "third": ":value"}},
    ]
    found = checked(small)
    assert found.problems == ()
    assert found.plan is not None
    assert [node.name for graph in found.plan.graphs.values() for node in graph.nodes.values()] == ["a", "b"]
    assert {warning.split(": ")[0] for warning in found.warnings} == {"main:main:c", "main:main:d", "main:main:e"}
    assert "main:main:c: no way leads here from input node 'a'; it will never run" in found.warnings
    assert (
        "main:main:e: output 'out' is left unconnected; name the next node in 'outs', or null for the graph's end"
        in (found.warnings)
    )


def test_where_a_definition_is_refused_unreachable_parts_are_told_as_problems_too(
    checked: Check, small: dict[str, Any]
) -> None:
    """The fault may be just what hides the way to them."""
    small["graphs"][0]["nodes"][0]["outs"] = {"out": "bee"}
    small["graphs"][0]["nodes"][1]["vmap"] = {}
    problems = checked(small).problems
    assert [problem.split(": ")[0] for problem in problems] == ["main:main:a", "main:main:b"]


def test_an_unknown_kind_is_refused_even_where_no_task_comes(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"].append({"name": "c", "kind": "os.path"})
    assert checked(small).problems == ("main:main:c: unknown node kind 'os.path'",)


def test_what_is_only_lacking_here_is_said_apart(checked: Check, small: dict[str, Any]) -> None:
    """Another machine may have it, unless something else is wrong as well."""
    assert checked(small).lacking == ()
    assert checked({"graphs": 3}).lacking == ()
    nodes = small["graphs"][0]["nodes"]
    nodes += [{"name": "c", "kind": "b.kind"}, {"name": "d", "kind": "a.kind"}, {"name": "e", "kind": "b.kind"}]
    found = checked(small)
    assert found.lacking == ("a.kind", "b.kind")
    assert found.manifest() == ()
    nodes.append({"name": "f", "kind": "fail", "outs": {"out": "nowhere"}})
    assert checked(small).lacking == ()


def test_a_manifest_is_all_that_is_needed_to_make_the_same_plan(checked: Check, small: dict[str, Any]) -> None:
    found = checked(small)
    assert found.plan is not None
    manifest = found.manifest()
    assert {(one.place, one.info and one.info.doc) for one in manifest} == {("main:main:a", ""), ("main:main:b", "")}
    again = check(found.plan.definition, describe_from(manifest)).require()
    assert again.digest == found.plan.digest
    assert {queue: node.closure for queue, node in again.queues.items()} == {
        queue: node.closure for queue, node in found.plan.queues.items()
    }
    lacking = describe_from([Described(place="main:main:a", info=None, error="no", lacking=True), *manifest[1:]])
    assert check(found.plan.definition, lacking).lacking == ("step",)


def test_an_edge_to_a_missing_node_is_refused_even_where_no_task_comes(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"].append({"name": "c", "kind": "fail", "outs": {"out": "d"}})
    (problem,) = checked(small).problems
    assert problem.startswith("main:main:c: output 'out' leads to 'd', which is no node of this graph")


def test_a_graph_that_is_never_called_may_have_faults(
    checked: Check, small: dict[str, Any], graph: Make, step: Make
) -> None:
    small["graphs"].append(graph("spare", "x:none", step("x", ":none", None)))
    found = checked(small)
    assert found.problems == ()
    assert len(found.warnings) == 3
    assert "main:spare: no graph that runs calls it; it is left out" in found.warnings
    assert found.plan is not None
    assert [each.name for each in found.plan.graphs.values()] == ["main"]


def test_an_output_that_the_kind_does_not_have_is_a_warning(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0]["outs"]["extra"] = "b"
    found = checked(small)
    assert found.problems == ()
    assert found.warnings == (
        "main:main:a: outs has 'extra', which this kind of node does not have; the outputs are 'out'",
    )


def test_a_field_that_only_some_ways_bring_is_a_warning(
    checked: Check, graph_set: Make, graph: Make, step: Make
) -> None:
    found = checked(graph_set(branching(graph, step, result="a:value")))
    assert found.problems == ()
    assert found.warnings == (
        "main:main: result 'value' comes from 'a:value', which tasks on some ways here do not have; they will fail",
    )
    assert checked(graph_set(branching(graph, step))).warnings == ()


def test_a_loop_may_read_what_its_last_round_made(checked: Check, graph_set: Make, graph: Make, step: Make) -> None:
    definition = branching(graph, step)
    definition["nodes"][1] = step("a", ":value", "x")
    definition["nodes"][2] = step("b", "a:value", None)
    found = checked(graph_set(definition))
    assert found.problems == ()
    assert len(found.warnings) == 1
    assert "main:main:b: input 'value' comes from 'a:value', which tasks on some ways" in found.warnings[0]


def test_a_graph_that_nobody_leaves_is_a_warning(checked: Check, graph_set: Make, graph: Make, step: Make) -> None:
    found = checked(graph_set(graph("main", "nowhere:value", step("a", ":value", "a"))))
    assert found.problems == ()
    assert found.warnings[0] == "main:main: no way leads to the end of the graph; no task will ever leave it"
    assert found.plan is not None


def test_an_edge_to_a_queue_of_another_graph_is_refused(
    checked: Check, graph_set: Make, graph: Make, step: Make, caller: Make
) -> None:
    queue = str(QueueId.of("main", "other", "b"))
    nodes = (caller("c", ":value", "a", "other"), step("a", ":value", queue))
    other = graph("other", "b:value", step("b", ":value", None))
    (problem,) = checked(graph_set(graph("main", "a:value", *nodes), other)).problems
    assert problem.startswith(
        f"main:main:a: output 'out' leads to queue {queue}, which belongs to no node of this graph"
    )


def test_a_node_kind_that_talks_nonsense_is_refused(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0]["kind"] = "odd"
    assert checked(small).problems == (
        (
            "main:main:a: weight nan and load cost -1.0 must be finite, and the cost not below 0"
            " (this is how its kind is made)"
        ),
        (
            "main:main:a: calls graph 'main' to return by output 'nowhere', which it does not have"
            " (this is how its kind is made)"
        ),
    )


def test_a_node_kind_with_wrong_names_is_refused(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0] |= {"kind": "spaced", "outs": {}}
    (problem,) = checked(small).problems
    assert problem.startswith("main:main:a: output name 'the out' must not contain ' '")


def test_a_field_that_has_another_format_on_some_ways_is_a_warning(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0] |= {"kind": "differing", "outs": {"out": "b", "other": "b"}}
    found = checked(small)
    assert found.problems == ()
    assert found.warnings == (
        ("main:main:b: input 'value' is float[2], but 'a:value' gives float[2] or double[2];"
        " tasks with another format will fail"),
    )  # fmt: skip


def test_without_its_entry_all_of_a_definition_is_checked(checked: Check, small: dict[str, Any]) -> None:
    small["entry"] = "mian"
    small["graphs"][0]["vmap"] = {}
    assert checked(small).problems == ("definition: entry graph 'mian' is not there; did you mean 'main'?",)
    small["graphs"][0]["nodes"][0]["vmap"] = {}
    assert len(checked(small).problems) == 2


def test_several_reasons_of_one_node_are_several_problems(small: dict[str, Any]) -> None:
    def describe(kind: str, args: Any, ns: str, place: str) -> Any:
        raise GraphError(f"{place}: one\nand more of it\n{place}: two")

    assert check(small, describe).problems[:4] == (
        "main:main:a: one and more of it",
        "main:main:a: two",
        "main:main:b: one and more of it",
        "main:main:b: two",
    )


def test_the_place_is_not_repeated_if_the_reason_has_it(small: dict[str, Any]) -> None:
    def describe(kind: str, args: object, ns: str, place: str) -> Any:
        raise ValueError(f"{place}: bad\nkind")

    assert check(small, describe).problems == ("main:main:a: bad kind", "main:main:b: bad kind")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["", "a", "b", "main", ":value", "a:value", "call"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["value", "out", "graph", "args", "ret", "input", "name"]), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = ["name", "kind", "args", "node_id", "qin", "outs", "vmap", "cache"]
GRAPH_KEYS = ["name", "input", "input_format", "output_format", "vmap", "nodes", "cache", "is_block"]


@settings(derandomize=True, deadline=None, database=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(KEYS), JSON), max_size=3),
    graph_changes=st.lists(st.tuples(st.sampled_from(GRAPH_KEYS), JSON), max_size=2),
    kinds=st.lists(
        st.sampled_from(["step", "noise", "join", "call", "loop", "branch", "odd", "?"]), min_size=2, max_size=2
    ),
)
def test_a_check_never_raises(
    describe: Any,
    changes: list[tuple[int, str, object]],
    graph_changes: list[tuple[str, object]],
    kinds: list[str],
) -> None:
    pair = ["float", [2]]
    nodes: list[dict[str, Any]] = [
        {"name": "a", "kind": kinds[0], "args": {"graph": "main", "args": {"value": pair}, "ret": {"value": pair}}},
        {"name": "b", "kind": kinds[1], "args": {"graph": "none"}, "outs": {"out": None}},
    ]
    nodes[0] |= {"vmap": {"value": ":value"}, "outs": {"out": "b"}}
    graph: dict[str, Any] = {"name": "main", "input": "a", "input_format": {"value": pair}, "nodes": nodes}
    graph |= {"output_format": {"value": pair}, "vmap": {"value": "a:value"}}
    for number, key, value in changes:
        nodes[number][key] = value
    graph |= dict(graph_changes)
    found = check({"entry": "main", "graphs": [graph]}, describe)
    assert (found.plan is None) == bool(found.problems)
    assert show(found)
    assert all(line and "\n" not in line and len(line) < 2000 for line in found.problems + found.warnings)


def test_batch_tokens_without_a_null_dimension_is_a_warning(checked: Check, small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0]["batch_tokens"] = 64
    found = checked(small)
    assert found.plan is not None
    assert found.warnings == (
        "main:main:a: 'batch_tokens' has no effect, as no input has a null dimension; use 'batch_size'",
    )
    small["graphs"][0]["nodes"][0]["args"] = {"input": ["float", [None]]}
    assert checked(small).warnings == ()
