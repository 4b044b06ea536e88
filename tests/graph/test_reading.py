"""Reading definitions: what is taken as it comes, and one clear line for each thing that cannot be."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.errors import GraphError
from scatterzmq.graph.reading import field_format, parse, read
from scatterzmq.ids import OUTPUT_QUEUE, GraphId, NodeId, QueueId

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def small(graph_set: Make, graph: Make, step: Make) -> dict[str, Any]:
    return graph_set(graph("main", "b:value", step("a", ":value", "b"), step("b", "a:value", None)))


def test_text_and_dict_tuples_and_lists_are_the_same(small: dict[str, Any]) -> None:
    written = json.dumps(small)
    small["graphs"][0]["input_format"] = {"value": ("float", (2,))}
    small["graphs"] = tuple(small["graphs"])
    assert read(written) == read(small) == read("\ufeff" + written)


def test_the_namespace_is_the_entrys_name_unless_given(small: dict[str, Any]) -> None:
    assert read(small).ns == "main"
    assert read(small | {"ns": None}).ns == "main"
    assert read(small | {"ns": "other"}).ns == "other"


def test_the_entry_may_be_a_graph_id(small: dict[str, Any]) -> None:
    definition = read(small | {"ns": "test", "entry": str(GraphId.of("test", "main"))})
    assert definition.entry == "main"
    assert definition == read(small | {"ns": "test"})


def test_ids_follow_from_names_or_are_given(small: dict[str, Any]) -> None:
    graph = read(small).graphs[0]
    assert graph.id == GraphId.of("main", "main")
    assert [node.id for node in graph.nodes] == [NodeId.of("main", "main", name) for name in "ab"]
    assert [node.queue for node in graph.nodes] == [QueueId.of("main", "main", name) for name in "ab"]
    small["graphs"][0]["graph_id"] = "G" + "AB" * 16  # Upper case is fine, too.
    small["graphs"][0]["nodes"][0] |= {"node_id": "N" + "1" * 32, "qin": "Q" + "2" * 32}
    graph = read(small).graphs[0]
    assert graph.id == "G" + "ab" * 16
    assert graph.nodes[0].id == "N" + "1" * 32
    assert graph.nodes[0].queue == "Q" + "2" * 32


def test_an_id_that_is_given_as_it_would_follow_changes_nothing(small: dict[str, Any]) -> None:
    before = read(small)
    small["graphs"][0]["nodes"][0]["node_id"] = str(NodeId.of("main", "main", "a"))
    assert read(small) == before


def test_an_edge_may_name_a_node_a_queue_or_the_end(small: dict[str, Any]) -> None:
    before = read(small)
    nodes = small["graphs"][0]["nodes"]
    nodes[0]["outs"] = {"out": str(QueueId.of("main", "main", "b"))}
    nodes[1]["outs"] = {"out": str(OUTPUT_QUEUE)}
    assert read(small) == before
    assert before.graphs[0].nodes[0].outs == {"out": "b"}
    assert before.graphs[0].nodes[1].outs == {"out": None}
    nodes[0]["outs"] = {"out": "Q" + "F" * 32}
    assert read(small).graphs[0].nodes[0].outs == {"out": "Q" + "f" * 32}


def test_what_is_null_is_the_same_as_what_is_not_there(small: dict[str, Any]) -> None:
    before = read(small)
    small["graphs"][0] |= {"cache": None, "is_block": None, "description": None, "graph_id": None, "max_retries": None}
    small["graphs"][0]["nodes"][0] |= {"args": None, "node_id": None, "qin": None, "batch_size": None, "cache": None}
    small["graphs"][0]["nodes"][1] |= {"args": {"const": None}}
    assert read(small) == before


def test_settings_of_graphs_and_nodes_are_read(small: dict[str, Any]) -> None:
    small["graphs"][0] |= {"cache": True, "is_block": 1, "max_retries": 0, "payload_copies": 2, "description": "about"}
    small["graphs"][0]["nodes"][0] |= {"max_exec_s": 1, "batch_size": 4, "batch_tokens": 4096, "cache": True}
    graph = read(small).graphs[0]
    assert (graph.cache, graph.is_block, graph.max_retries, graph.payload_copies) == (True, True, 0, 2)
    assert graph.description == "about"
    node = graph.nodes[0]
    assert (node.max_exec_s, node.batch_size, node.batch_tokens, node.cache) == (1.0, 4, 4096, True)


def test_what_is_read_belongs_to_nobody_else(small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0]["args"] = {"list": [1, [2]]}
    definition = read(small)
    small["graphs"][0]["nodes"][0]["args"]["list"][1].append(3)
    assert definition.graphs[0].nodes[0].args == {"list": [1, [2]]}


def test_unknown_keys_are_warnings(small: dict[str, Any]) -> None:
    small["author"] = "me"
    small["graphs"][0]["Cache"] = True
    small["graphs"][0]["nodes"][1]["out"] = {}
    parsed = parse(small)
    assert parsed.problems == ()
    assert parsed.warnings == (
        "definition: unknown key 'author' is ignored",
        "main:main: unknown key 'Cache' is ignored; did you mean 'cache'?",
        "main:main:b: unknown key 'out' is ignored; did you mean 'outs'?",
    )


def test_a_key_given_twice_is_a_warning_and_the_last_one_counts(small: dict[str, Any]) -> None:
    text = json.dumps(small).replace('{"value": "a:value"}', '{"value": ":value", "value": "a:value"}')
    parsed = parse(text)
    assert parsed.warnings == ("graphs[0].nodes[1].vmap: key 'value' is given more than once; the last one counts",)
    assert parsed.definition == read(small)


def test_sizes_are_taken_as_scattermind_takes_them() -> None:
    assert field_format(["float", [2.0, "3", None, 0]]).shape == (2, 3, None, 0)
    assert field_format(("uint8", ())).shape == ()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("float", "expected [dtype, shape]"),
        (["float"], "expected [dtype, shape]"),
        (["float", [1], 2], "expected [dtype, shape]"),
        ({"float": [1]}, "expected [dtype, shape]"),
        (None, "got null"),
        ([None, [1]], "expected the name of a dtype, got null"),
        (["floaty", [1]], "did you mean 'float'?"),
        (["float", 3], "expected a shape like [2, null], got 3"),
        (["float", "2"], "expected a shape"),
        (["float", [-1]], "expected a dimension of at least 0, or null, got -1"),
        (["float", [1.5]], "got 1.5"),
        (["float", [True]], "got true"),
        (["float", [[1]]], "got a list"),
        (["float", [1e30]], "expected a dimension"),
        (["float", [1 << 60]], "expected a dimension"),
        (["float", ["9" * 5000]], "expected a dimension"),
        (["float", [1] * 100], "100 dimensions; at most 16"),
    ],
)
def test_a_wrong_format_is_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        field_format(value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON: Expecting value at line 1, column 1"),
        ("{", "not JSON"),
        ('{"entry": "a",}', "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested too deeply; at most 64 levels"),
        ("9" * 5000, "definition"),
        ("null", "expected an object with 'entry' and 'graphs', got null"),
        ("[]", "got a list"),
        ('"main"', "got 'main'"),
        ("NaN", "nan is not a number"),
        ('{"entry": NaN, "graphs": [Infinity, 1e999]}', "inf is not a number"),
        ('{"entry": "\\ud800"}', "surrogate"),
        ('{"\\udc00": 1}', "surrogate"),
    ],
)
def test_a_text_that_is_no_definition_is_refused(text: str, reason: str) -> None:
    with pytest.raises(GraphError) as caught:
        read(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000


class _Thing:
    pass


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (_Thing(), "graphs[0].nodes[0].args.x: a _Thing cannot be part of a definition"),
        ({1, 2}, "args.x: a set cannot"),
        (b"abc", "args.x: a bytes cannot"),
        ({1: 2}, "args.x: key 1 is not text"),
        ({None: 2}, "args.x: key null is not text"),
        ([[float("nan")]], "args.x[0][0]: nan is not a number"),
        (1 << 5000, "args.x: a number of 5001 bits is too large"),
    ],
)
def test_python_objects_that_are_no_json_are_refused(small: dict[str, Any], value: object, reason: str) -> None:
    small["graphs"][0]["nodes"][0]["args"] = {"x": value}
    with pytest.raises(GraphError) as caught:
        read(small)
    assert reason in str(caught.value)


def test_a_definition_that_holds_itself_is_refused(small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0]["args"] = small
    with pytest.raises(GraphError, match="nested too deeply"):
        read(small)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ((), 5, "definition: expected an object with 'entry' and 'graphs', got 5"),
        (("entry",), None, "definition: key 'entry' must not be null"),
        (("entry",), 5, "definition: key 'entry': expected text, got 5"),
        (("entry",), "nope", "definition: entry graph 'nope' is not there; the graphs are 'main'"),
        (("entry",), "G" + "0" * 32, f"definition: entry graph 'G{'0' * 32}' is not there"),
        (("ns",), "a b", "definition: namespace name 'a b' must not contain ' '"),
        (("ns",), ["x"], "definition: key 'ns': expected text, got a list"),
        (("graphs",), {}, "definition: key 'graphs': expected a list, got an object"),
        (("graphs",), [], "definition: key 'graphs': the list is empty"),
        (("graphs", 0), "main", "main:graphs[0]: expected an object, got 'main'"),
        (("graphs", 0, "name"), None, "main:graphs[0]: key 'name' must not be null"),
        (("graphs", 0, "name"), "a:b", "main:graphs[0]: graph name 'a:b' must not contain ':'"),
        (("graphs", 0, "graph_id"), "N" + "0" * 32, "main:main: key 'graph_id': invalid GraphId 'N000"),
        (("graphs", 0, "graph_id"), 17, "main:main: key 'graph_id': expected an id like G"),
        (("graphs", 0, "input"), 3, "main:main: key 'input': expected text, got 3"),
        (("graphs", 0, "input_format"), [], "main:main: key 'input_format': expected an object, got a list"),
        (("graphs", 0, "input_format"), {"value": 1}, "main:main: input_format of 'value': expected [dtype, shape]"),
        (
            ("graphs", 0, "input_format"),
            {"a b": ["int", []]},
            "main:main: input_format of 'a b': field name 'a b' must",
        ),
        (("graphs", 0, "output_format"), None, "main:main: key 'output_format' must not be null"),
        (("graphs", 0, "vmap"), "b:value", "main:main: key 'vmap': expected an object, got 'b:value'"),
        (("graphs", 0, "vmap"), {"value": "b"}, "main:main: vmap of 'value': 'b' is not 'node:field' or ':field'"),
        (("graphs", 0, "vmap"), {"": "b:value"}, "main:main: vmap of '': field name is empty"),
        (("graphs", 0, "cache"), "yes", "main:main: key 'cache': expected true or false, got 'yes'"),
        (("graphs", 0, "is_block"), 2, "main:main: key 'is_block': expected true or false, got 2"),
        (
            ("graphs", 0, "max_retries"),
            -1,
            "main:main: key 'max_retries': expected a whole number from 0 to 1000",
        ),
        (("graphs", 0, "max_retries"), True, "main:main: key 'max_retries': expected a whole number"),
        (("graphs", 0, "payload_copies"), 0, "main:main: key 'payload_copies': expected a whole number from 1"),
        (("graphs", 0, "nodes"), None, "main:main: key 'nodes' must not be null"),
        (("graphs", 0, "nodes"), {}, "main:main: key 'nodes': expected a list, got an object"),
        (("graphs", 0, "nodes", 0), [], "main:main:nodes[0]: expected an object, got a list"),
        (("graphs", 0, "nodes", 0, "name"), "", "main:main:nodes[0]: node name is empty"),
        (("graphs", 0, "nodes", 0, "name"), 1, "main:main:nodes[0]: key 'name': expected text, got 1"),
        (("graphs", 0, "nodes", 1, "name"), "a", "main:main:a: there are two nodes of this name"),
        (("graphs", 0, "nodes", 0, "kind"), None, "main:main:a: key 'kind' must not be null"),
        (("graphs", 0, "nodes", 0, "kind"), "", "main:main:a: key 'kind' is empty"),
        (("graphs", 0, "nodes", 0, "kind"), ["x"], "main:main:a: key 'kind': expected text, got a list"),
        (("graphs", 0, "nodes", 0, "args"), [], "main:main:a: key 'args': expected an object, got a list"),
        (("graphs", 0, "nodes", 0, "node_id"), "x", "main:main:a: key 'node_id': invalid NodeId 'x'"),
        (
            ("graphs", 0, "nodes", 0, "qin"),
            str(OUTPUT_QUEUE),
            "main:main:a: qin Q8a82aef7da2c4b49bf7ba25d42e99391",
        ),
        (("graphs", 0, "nodes", 0, "outs"), "b", "main:main:a: key 'outs': expected an object, got 'b'"),
        (("graphs", 0, "nodes", 0, "outs"), {"out": 1}, "main:main:a: key 'outs.out': expected the name of a node"),
        (("graphs", 0, "nodes", 0, "outs"), {"a b": "b"}, "main:main:a: output name 'a b' must not contain ' '"),
        (("graphs", 0, "nodes", 0, "vmap"), {"value": 1}, "main:main:a: vmap of 'value': 1 is not 'node:field'"),
        (("graphs", 0, "nodes", 0, "batch_size"), 0, "main:main:a: key 'batch_size': expected a whole number from 1"),
        (("graphs", 0, "nodes", 0, "batch_tokens"), 1.5, "main:main:a: key 'batch_tokens': expected a whole number"),
        (("graphs", 0, "nodes", 0, "max_exec_s"), 0, "main:main:a: key 'max_exec_s': expected seconds, more than 0"),
        (("graphs", 0, "nodes", 0, "max_exec_s"), "1", "main:main:a: key 'max_exec_s': expected seconds"),
        (("graphs", 0, "nodes", 0, "max_exec_s"), True, "main:main:a: key 'max_exec_s': expected seconds"),
        (("graphs", 0, "nodes", 0, "cache"), [], "main:main:a: key 'cache': expected true or false, got a list"),
    ],
)
def test_each_wrong_value_gives_one_line_with_its_place(
    small: dict[str, Any], path: tuple[str | int, ...], value: object, line: str
) -> None:
    whole: Any = {"": small}
    target, key = whole, ""
    for part in path:
        target, key = target[key], part  # type: ignore[assignment]
    target[key] = value
    parsed = parse(whole[""])
    assert [problem for problem in parsed.problems if problem.startswith(line)], parsed.problems
    assert "\n" not in "".join(parsed.problems)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("entry",), "definition: key 'entry' is missing"),
        (("graphs",), "definition: key 'graphs' is missing"),
        (("graphs", 0, "name"), "main:graphs[0]: key 'name' is missing"),
        (("graphs", 0, "input"), "main:main: key 'input' is missing"),
        (("graphs", 0, "input_format"), "main:main: key 'input_format' is missing"),
        (("graphs", 0, "output_format"), "main:main: key 'output_format' is missing"),
        (("graphs", 0, "vmap"), "main:main: key 'vmap' is missing"),
        (("graphs", 0, "nodes"), "main:main: key 'nodes' is missing"),
        (("graphs", 0, "nodes", 0, "name"), "main:main:nodes[0]: key 'name' is missing"),
        (("graphs", 0, "nodes", 0, "kind"), "main:main:a: key 'kind' is missing"),
    ],
)
def test_each_missing_key_gives_one_line_with_its_place(
    small: dict[str, Any], path: tuple[str | int, ...], line: str
) -> None:
    target: Any = small
    for part in path[:-1]:
        target = target[part]
    del target[path[-1]]
    assert line in parse(small).problems


def test_all_problems_are_told_at_once(small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0] |= {"kind": 1, "batch_size": -1}
    small["graphs"][0]["nodes"][1] |= {"outs": 1}
    small["graphs"].append({"name": "other"})
    problems = parse(small).problems
    assert len(problems) == 3 + 5
    with pytest.raises(GraphError, match="the graph definition has 8 problems:") as caught:
        read(small)
    assert str(caught.value).splitlines()[1:] == list(problems)


def test_ids_and_names_must_be_unique(small: dict[str, Any], graph: Make, step: Make) -> None:
    queue, node = str(QueueId.of("main", "main", "a")), str(NodeId.of("main", "main", "a"))
    small["graphs"] += [
        graph("second", "x:value", step("x", ":value", None, qin=queue)),
        graph("third", "x:value", step("x", ":value", None, node_id=node)),
        graph("fourth", "x:value", step("x", ":value", None), graph_id=str(GraphId.of("main", "main"))),
        graph("main", "x:value", step("x", ":value", None)),
    ]
    assert parse(small).problems == (
        f"main:second:x: qin {queue} is that of main:main:a already; each needs its own",
        f"main:third:x: node_id {node} is that of main:main:a already; each needs its own",
        f"main:fourth: graph_id {GraphId.of('main', 'main')} is that of main:main already; each needs its own",
        "main:main: there are two graphs of this name; rename one",
    )


def test_there_is_a_limit_to_how_much_is_looked_at(small: dict[str, Any]) -> None:
    nodes = small["graphs"][0]["nodes"]
    small["graphs"][0]["nodes"] = nodes * 10_000
    assert parse(small).problems == (
        "definition: 20000 nodes are too many for one namespace; at most 16384 are allowed",
    )
    small["graphs"] = [{}] * 2000
    assert parse(small).problems == (
        "definition: 2000 graphs are too many for one namespace; at most 1024 are allowed",
    )


def test_many_problems_are_cut_short_in_the_error(small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"] = [{"name": f"n{number}"} for number in range(100)]
    with pytest.raises(GraphError) as caught:
        read(small)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the graph definition has 100 problems:"
    assert lines[-1] == "... and 50 more"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
PATHS: list[tuple[str | int, ...]] = [
    *[(key,) for key in ("ns", "entry", "graphs")],
    *[("graphs", 0, key) for key in ("name", "graph_id", "input", "input_format", "output_format", "vmap", "nodes")],
    *[("graphs", 0, key) for key in ("description", "cache", "is_block", "max_retries", "payload_copies")],
    *[("graphs", 0, "nodes", 0, key) for key in ("name", "kind", "args", "node_id", "qin", "outs", "vmap")],
    *[("graphs", 0, "nodes", 0, key) for key in ("cache", "max_exec_s", "batch_size", "batch_tokens")],
    ("graphs", 0, "vmap", "value"),
    ("graphs", 0, "nodes", 0, "vmap", "value"),
    ("graphs", 0, "nodes", 0, "outs", "out"),
    ("graphs", 0, "input_format", "value"),
]


@settings(derandomize=True, deadline=None, database=None)
@given(changes=st.lists(st.tuples(st.sampled_from(PATHS), JSON), min_size=1, max_size=3))
def test_anything_may_come_in_and_nothing_but_a_list_of_problems_comes_out(
    changes: list[tuple[tuple[str | int, ...], object]],
) -> None:
    pair = ["float", [2]]
    node = {"name": "a", "kind": "step", "vmap": {"value": ":value"}, "outs": {"out": None}}
    graph = {"name": "main", "input": "a", "input_format": {"value": pair}, "output_format": {"value": pair}}
    whole: Any = {"entry": "main", "graphs": [graph | {"vmap": {"value": "a:value"}, "nodes": [node]}]}
    for path, value in changes:
        target = whole
        for part in path[:-1]:
            found = target.get(part) if isinstance(target, dict) else None
            target = target[0] if isinstance(target, list) and target else found
        if isinstance(target, dict):
            target[path[-1]] = value
    parsed = parse(whole)
    assert all(line and "\n" not in line and len(line) < 2000 for line in parsed.problems + parsed.warnings)
    assert parsed.definition is not None or parsed.problems
