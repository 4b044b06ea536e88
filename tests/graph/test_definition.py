"""Definitions: written out and read in again they are the same, and their digest says whether they mean the same."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.errors import GraphError
from scatterzmq.graph.definition import GraphSetDef, canonical_text, definition_digest, file_text, to_json
from scatterzmq.graph.reading import read
from scatterzmq.ids import OUTPUT_QUEUE, GraphId, NodeId, QueueId

Make = Callable[..., dict[str, Any]]

NAMES = st.text("ab1.-ß日\x01", min_size=1, max_size=4)
# Names that look like ids are legal, and must not be taken for them on the way back.
ODD_NAMES = NAMES | st.sampled_from(["Q" + "a" * 32, "G" + "b" * 32, str(OUTPUT_QUEUE), str(GraphId.of("main", "x"))])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("a\n\"ß😀", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\n", max_size=2), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
FORMATS = st.dictionaries(
    NAMES,
    st.tuples(
        st.sampled_from(["float", "float32", "bool", "bfloat16"]), st.lists(st.none() | st.integers(0, 9), max_size=3)
    ),
    max_size=3,
)


@st.composite
def graphs(draw: st.DrawFn, name: str) -> dict[str, Any]:
    names = draw(st.lists(ODD_NAMES, min_size=1, max_size=4, unique=True))
    sources = st.builds(lambda node, field: f"{node}:{field}", st.sampled_from([*names, ""]), NAMES)
    vmaps = st.dictionaries(NAMES, sources, max_size=3)
    nodes = []
    for node in names:
        made: dict[str, Any] = {"name": node, "kind": draw(NAMES), "vmap": draw(vmaps)}
        # Edges by name: never by one that would be taken for a queue.
        targets = [target for target in names if len(target) != 33]
        made["outs"] = draw(st.dictionaries(NAMES, st.none() | st.sampled_from([*targets, "elsewhere"]), max_size=3))
        made["args"] = draw(st.dictionaries(NAMES, VALUES, max_size=3))
        made |= draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "node_id": st.just("N"),
                    "qin": st.just("Q"),
                    "cache": st.booleans(),
                    "max_exec_s": st.floats(0.001, 1000),
                    "batch_size": st.integers(1, 99),
                    "batch_tokens": st.integers(1, 99),
                },
            )
        )
        nodes.append(made)
    rest = st.fixed_dictionaries(
        {"input": st.sampled_from(names), "input_format": FORMATS, "output_format": FORMATS, "vmap": vmaps},
        optional={
            "graph_id": st.just("G"),
            "description": st.text('a\n"ß😀', max_size=4),
            "cache": st.booleans(),
            "is_block": st.booleans(),
            "max_retries": st.integers(0, 9),
            "payload_copies": st.integers(1, 3),
        },
    )
    return {"name": name, "nodes": nodes} | draw(rest)


@st.composite
def sources(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(ODD_NAMES, min_size=1, max_size=3, unique=True))
    made: dict[str, Any] = {"entry": draw(st.sampled_from(names)), "graphs": [draw(graphs(name)) for name in names]}
    numbers = itertools.count(1)
    for item in (item for graph in made["graphs"] for item in (graph, *graph["nodes"])):
        for key in ("graph_id", "node_id", "qin"):
            if key in item:
                item[key] += f"{next(numbers):032x}"
    return made | draw(st.fixed_dictionaries({}, optional={"ns": NAMES}))


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same value with keys in another order and lists as tuples."""
    if isinstance(value, dict):
        items = list(value.items())
        rng.shuffle(items)
        return {key: shuffled(item, rng) for key, item in items}
    return tuple(shuffled(item, rng) for item in value) if isinstance(value, list) else value


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(source=sources(), seed=st.integers(0, 9))
def test_written_out_and_read_in_again_it_is_the_same(source: dict[str, Any], seed: int) -> None:
    definition = read(source)
    text = canonical_text(definition)
    assert text.isascii()
    again: list[GraphSetDef] = [
        read(to_json(definition)),
        read(to_json(definition, with_ids=True)),
        read(text),
        read(json.dumps(to_json(definition, with_ids=True))),
        read(shuffled(to_json(definition), random.Random(seed))),
    ]
    for other in again:
        assert other == definition
        assert canonical_text(other) == text


@pytest.fixture
def small(graph_set: Make, graph: Make, step: Make) -> dict[str, Any]:
    nodes = (step("a", ":value", "b", args={"const": 1, "op": "add"}), step("b", "a:value", None))
    return graph_set(graph("main", "b:value", *nodes))


def digest(source: dict[str, Any]) -> bytes:
    return definition_digest(canonical_text(read(source)))


def test_ids_that_follow_from_names_are_written_only_on_demand(small: dict[str, Any]) -> None:
    plain: Any = to_json(read(small))
    assert "graph_id" not in plain["graphs"][0]
    assert plain["graphs"][0]["nodes"][0]["outs"] == {"out": "b"}
    full: Any = to_json(read(small), with_ids=True)
    assert full["graphs"][0]["graph_id"] == str(GraphId.of("main", "main"))
    first, second = full["graphs"][0]["nodes"]
    assert first["node_id"] == str(NodeId.of("main", "main", "a"))
    assert first["qin"] == str(QueueId.of("main", "main", "a"))
    assert first["outs"] == {"out": second["qin"]}
    assert second["outs"] == {"out": str(OUTPUT_QUEUE)}


def test_ids_survive_a_change_of_names(small: dict[str, Any]) -> None:
    full: Any = to_json(read(small), with_ids=True)
    full["graphs"][0]["nodes"][1]["name"] = "renamed"
    full["graphs"][0]["vmap"] = {"value": "renamed:value"}
    definition = read(full)
    assert definition.graphs[0].nodes[0].outs == {"out": "renamed"}
    assert definition.graphs[0].nodes[1].id == NodeId.of("main", "main", "b")


def test_names_that_look_like_ids_are_not_taken_for_them(graph_set: Make, graph: Make, step: Make) -> None:
    node, name = "Q" + "a" * 32, "G" + "b" * 32
    queue, main = str(QueueId.of("ns", name, node)), str(GraphId.of("ns", name))
    nodes = (step("a", ":value", queue), step(node, "a:value", None))
    other = graph("other", ":value", step("a", ":value", None, qin=node), graph_id=name)
    definition = read({"ns": "ns", "entry": main, "graphs": [graph(name, ":value", *nodes), other]})
    assert definition.entry == name
    assert definition.graphs[0].nodes[0].outs == {"out": node}
    written: Any = to_json(definition)
    assert written["entry"] == main
    assert written["graphs"][0]["nodes"][0]["outs"] == {"out": queue}
    assert read(written) == definition


def test_what_is_written_out_belongs_to_the_reader(small: dict[str, Any]) -> None:
    small["graphs"][0]["nodes"][0]["args"]["deep"] = {"list": [1]}
    definition = read(small)
    written: Any = to_json(definition)
    written["graphs"][0]["nodes"][0]["args"]["deep"]["list"].append(2)
    written["graphs"][0]["vmap"].clear()
    assert definition == read(small)


def test_equal_meaning_gives_an_equal_digest(small: dict[str, Any]) -> None:
    before = digest(small)
    assert len(before) == 32
    assert digest(shuffled(small, random.Random(1))) == before
    assert digest(small | {"ns": "main"}) == before
    small["graphs"][0] |= {"cache": False, "is_block": None, "description": "", "comment": "unknown"}
    small["graphs"][0]["nodes"][0] |= {"batch_size": None, "args": {"op": "add", "const": 1, "none": None}}
    assert digest(small) == before


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("ns",), "other"),
        (("graphs", 0, "description"), "about"),
        (("graphs", 0, "cache"), True),
        (("graphs", 0, "is_block"), True),
        (("graphs", 0, "max_retries"), 3),
        (("graphs", 0, "payload_copies"), 1),
        (("graphs", 0, "graph_id"), "G" + "0" * 32),
        (("graphs", 0, "input_format"), {"value": ["float", [3]]}),
        (("graphs", 0, "nodes", 0, "kind"), "noise"),
        (("graphs", 0, "nodes", 0, "args"), {"const": 2, "op": "add"}),
        (("graphs", 0, "nodes", 0, "args"), {"const": True, "op": "add"}),
        (("graphs", 0, "nodes", 0, "args"), {"const": 1.0, "op": "add"}),
        (("graphs", 0, "nodes", 0, "outs"), {"out": None}),
        (("graphs", 0, "nodes", 0, "qin"), "Q" + "0" * 32),
        (("graphs", 0, "nodes", 0, "batch_size"), 3),
        (("graphs", 0, "nodes", 0, "batch_tokens"), 3),
        (("graphs", 0, "nodes", 0, "max_exec_s"), 3),
        (("graphs", 0, "nodes", 0, "cache"), True),
        (("graphs", 0, "nodes", 1, "vmap"), {"value": ":value"}),
    ],
)
def test_any_other_change_gives_another_digest(
    small: dict[str, Any], path: tuple[str | int, ...], value: object
) -> None:
    before = digest(small)
    target: Any = small
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    assert digest(small) != before


def test_the_digest_is_the_same_for_ever(small: dict[str, Any]) -> None:
    """It names plans in the cluster and on disk: peers of other versions must come to the same."""
    assert canonical_text(read(small)) == (
        '{"entry":"main","graphs":[{"cache":false,"description":"","input":"a","input_format":{"value":["float",[2]]},'
        '"is_block":false,"name":"main","nodes":[{"args":{"const":1,"op":"add"},"cache":false,"kind":"step","name":"a",'
        '"outs":{"out":"b"},"vmap":{"value":":value"}},{"args":{},"cache":false,"kind":"step","name":"b",'
        '"outs":{"out":null},"vmap":{"value":"a:value"}}],"output_format":{"value":["float",[2]]},'
        '"vmap":{"value":"b:value"}}],"ns":"main"}'
    )
    assert digest(small).hex()[:12] == "9f1bc62f3b9a"


def test_look_ups_by_name(small: dict[str, Any]) -> None:
    definition = read(small)
    main = definition.graph("main")
    assert main is not None
    assert main.node("b") is main.nodes[1]
    assert main.node("c") is None
    assert definition.graph("other") is None
    assert [(graph.name, node.name) for graph, node in definition.nodes()] == [("main", "a"), ("main", "b")]


def test_a_file_is_read_as_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    assert file_text(tmp_path / "a.json") == "{}"
    (tmp_path / "b.json").write_bytes(b"\xff")
    with pytest.raises(GraphError, match=r"cannot read graph file '.*b.json': .*it must be JSON in UTF-8"):
        file_text(tmp_path / "b.json")
    with pytest.raises(GraphError, match=r"cannot read graph file '.*c.json': No such file or directory"):
        file_text(str(tmp_path / "c.json"))
    with pytest.raises(GraphError, match="cannot read graph file"):
        file_text(tmp_path)
    with pytest.raises(GraphError, match="cannot read graph file"):
        file_text("a\0b")
