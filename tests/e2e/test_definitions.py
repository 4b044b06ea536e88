"""Definitions: what is refused and how it is told, what can be read back, and what loading again means."""

import json
from pathlib import Path
from typing import Any

import pytest

from scatterzmq import ClusterError, GraphError

ONE = {"value": ["float", [1]]}


def test_all_problems_are_told_at_once(start: Any, build: Any) -> None:
    """Each with its graph and node."""
    nodes = [
        build.node(
            "first", "constant_op", {"value": ":valeu"}, "second", {"op": "add", "const": 1, "input": ["float", [1]]}
        ),
        build.node(
            "second",
            "constant_op",
            {"value": "first:value"},
            "nowhere",
            {"op": "pow", "const": 1, "input": ["float", [1]]},
        ),
        build.node("third", "no_such_kind", {}, None),
        build.node("fourth", "call", {}, None, {"graph": "missing", "args": {}, "ret": {}}),
        build.node("fifth", "constant_op", {"value": ":value"}, {}, {"op": "mul", "input": ["float", [1]]}),
    ]
    nodes[0]["outs"] = {"out": "second"}
    for node, following in zip(nodes, ("second", "nowhere", "fourth", "fifth", None), strict=True):
        if following:
            node["outs"] = {"out": following}
    broken = build.graph("main", ONE, {"result": ["float", [1]]}, {"result": "first:value"}, nodes)
    client = start()
    with pytest.raises(GraphError) as raised:
        client.load_graph(build.graphs(broken))
    assert isinstance(raised.value, ValueError)
    lines = str(raised.value).splitlines()
    for place, words in (
        ("main:main:first", "valeu"),
        ("main:main:second", "op"),
        ("main:main:second", "nowhere"),
        ("main:main:third", "no_such_kind"),
    ):
        assert any(place in line and words in line for line in lines), (place, words, lines)
    assert client.namespaces() == set()


ADD = {"op": "add", "const": 1, "input": ["float", [1]]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph, node: node.update(name="a:b"), "'a:b'"),
        (lambda graph, node: node.update(kind="nothing"), "nothing"),
        (lambda graph, node: node.update(kind="os.path"), "os.path"),
        (lambda graph, node: node["outs"].update(out="gone"), "gone"),
        (lambda graph, node: node["outs"].clear(), "unconnected"),
        (lambda graph, node: node["vmap"].clear(), "'value'"),
        (lambda graph, node: node["vmap"].update(value="s9:value"), "s9"),
        (lambda graph, node: node["vmap"].update(value="value"), "value"),
        (lambda graph, node: node["args"].pop("const"), "'const' is missing"),
        (lambda graph, node: node["args"].update(const="many"), "'const'"),
        (lambda graph, node: node["args"].update(input=["floot", [1]]), "floot"),
        (lambda graph, node: graph.update(input="gone"), "gone"),
        (lambda graph, node: graph["input_format"].update(value=["float", [2]]), "float[1]"),
        (lambda graph, node: graph["input_format"].update(value=["int", [1]]), "int[1]"),
        (lambda graph, node: graph["output_format"].update(value=["float", [1, 1]]), "float[1, 1]"),
        (lambda graph, node: graph["output_format"].update(more=["float", [1]]), "more"),
        (lambda graph, node: graph["vmap"].update(value="s1:other"), "other"),
        (lambda graph, node: graph["nodes"].append(dict(node)), "two nodes"),
        (lambda graph, node: graph["nodes"].clear(), "s0"),
        (lambda graph, node: graph.update(max_retries=-1), "max_retries"),
        (lambda graph, node: node.update(qin="Q12"), "Q12"),
        (lambda graph, node: node.update(batch_size=0), "batch_size"),
        (lambda graph, node: node.update(qin="Q8a82aef7da2c4b49bf7ba25d42e99391"), "Q8a82aef7da2c4b49bf7ba25d42e99391"),
        (lambda graph, node: graph.pop("name"), "name"),
    ],
)
def test_a_wrong_definition_is_refused_with_the_reason(start: Any, build: Any, change: Any, words: str) -> None:
    definition = build.graphs(build.line([1], ("add", 1), ("add", 1)))
    graph = definition["graphs"][0]
    change(graph, graph["nodes"][0])
    client = start()
    with pytest.raises(GraphError) as raised:
        client.load_graph(definition)
    assert words in str(raised.value), str(raised.value)
    assert client.namespaces() == set()
    assert client.load_graph(build.graphs(build.line([1], ("add", 1)))) == "main"


@pytest.mark.parametrize(
    "definition", [{}, {"graphs": []}, {"entry": "main", "graphs": []}, {"entry": 1, "graphs": [1]}, []]
)
def test_what_is_no_definition_at_all(start: Any, definition: Any) -> None:
    with pytest.raises(GraphError):
        start().load_graph(definition)


def test_a_definition_comes_from_a_file(start: Any, build: Any, finish: Any, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    client = start()
    for load in (str(path), path):
        path.write_text(json.dumps(build.graphs(build.line([1], ("add", 1)))), encoding="utf-8")
        assert client.load_graph(load) == "main"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(GraphError, match="JSON"):
        client.load_graph(path)
    with pytest.raises(GraphError, match="nowhere"):
        client.load_graph(tmp_path / "nowhere.json")


def test_what_is_loaded_can_be_asked(start: Any, build: Any) -> None:
    client = start()
    assert client.namespaces() == set()
    text = ["uint8", [None]]
    node = build.node("join", "str_concat", {"left": ":one", "right": ":two"}, None, {"delimiter": "-"})
    graph = build.graph("entry", {"one": text, "two": text}, {"joined": text}, {"joined": "join:value"}, [node])
    client.load_graph(build.graphs(graph, ns="asked"))
    client.load_graph(build.graphs(build.line([2, None], ("add", 1))))
    assert client.namespaces() == {"asked", "main"}
    assert client.entry_graph_name("asked") == "asked:entry"
    assert (client.main_inputs("asked"), client.main_outputs("asked")) == ({"one", "two"}, {"joined"})
    assert client.output_format("asked", "joined") == ("uint8", (None,))
    assert client.output_format("main", "value") == ("float", (2, None))
    assert {stats.name for stats in client.get_queue_stats()} == {"asked:entry:join", "main:main:s0"}


def test_a_definition_read_back_is_the_same(start: Any, build: Any, finish: Any) -> None:
    """Loading it again, in whatever order of keys, is no second copy; elsewhere it gives the same results."""
    definition = build.graphs(build.line([1], ("add", 1), ("mul", 2), max_retries=3, description="two steps"))
    definition["graphs"][0]["nodes"][0].update(batch_size=3, batch_tokens=50, max_exec_s=9.5, qin="Q" + "1f" * 16)
    client = start()
    ns = client.load_graph(definition)
    back = client.graph_to_json(ns)
    assert client.load_graph(back) == ns
    assert client.load_graph(json.loads(json.dumps(back, sort_keys=True))) == ns
    assert client.load_graph(definition) == ns
    other = start()
    other.load_graph(back)
    assert other.graph_to_json(ns) == back
    assert {stats.id for stats in other.get_queue_stats()} == {stats.id for stats in client.get_queue_stats()}
    (response,) = finish(other, [other.enqueue_task(ns, {"value": [4]})]).values()
    assert response.result["value"].item() == 10


def test_a_namespace_is_redefined_only_if_asked_to(start: Any, build: Any, finish: Any, gated: Any) -> None:
    """Tasks that run finish on the definition they started with, at every step."""
    client = start(batch_size=2, plugins=[gated.__name__])
    before = build.graphs(build.line([1], gated.__name__, ("add", 1)))
    after = build.graphs(build.line([1], gated.__name__, ("add", 1000)))
    ns = client.load_graph(before)
    old = [client.enqueue_task(ns, {"value": [index]}) for index in range(5)]
    gated.entered.get(timeout=60)
    with pytest.raises(GraphError, match="replace=True"):
        client.load_graph(after)
    assert client.graph_to_json(ns)["graphs"][0]["nodes"][1]["args"]["const"] == 1
    assert client.load_graph(after, replace=True) == ns
    new = [client.enqueue_task(ns, {"value": [index]}) for index in range(5)]
    gated.open()
    responses = finish(client, [*old, *new])
    assert [responses[task].result["value"].item() for task in old] == [2 * index + 1 for index in range(5)]
    assert [responses[task].result["value"].item() for task in new] == [2 * index + 1000 for index in range(5)]
    for task in [*old, *new]:
        client.clear_task(task)
    assert len(client.get_queue_stats()) == 2, "the old definition goes with its last task"


def test_the_way_back_to_an_older_definition(start: Any, build: Any, finish: Any, gated: Any) -> None:
    client = start(plugins=[gated.__name__])
    one, two = (build.graphs(build.line([1], gated.__name__, ("add", number))) for number in (1, 2))
    expected = {}
    for definition, number in ((one, 1), (two, 2), (one, 1), (two, 2)):
        ns = client.load_graph(definition, replace=True)
        expected[client.enqueue_task(ns, {"value": [0]}, wait=True)] = number
    gated.open()
    for task, response in finish(client, expected).items():
        assert response.result["value"].item() == expected[task]


def test_new_inputs_of_a_namespace_count_at_once(start: Any, build: Any, finish: Any) -> None:
    client = start()
    ns = client.load_graph(build.graphs(build.line([1], ("add", 1))))
    client.load_graph(build.graphs(build.line([2], ("add", 1))), replace=True)
    with pytest.raises(ValueError, match="expected float"):
        client.enqueue_task(ns, {"value": [1]})
    (response,) = finish(client, [client.enqueue_task(ns, {"value": [1, 2]})]).values()
    assert response.result["value"].tolist() == [2, 3]


def test_a_graph_file_imports_no_code(start: Any, build: Any, plugin: Any, package: str) -> None:
    """Only what the settings allow, by whole parts of names; without asking nothing is imported."""
    module = plugin("""
        class Fine(Node):
            pure = True

            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                batch.emit("out", value=batch.uniform("value"))
    """)
    kind = module.__name__
    definition = build.graphs(build.line([1], kind))
    for allowed in ([], [package[:-1]], [kind + "_"], ["scatterzmq"]):
        with pytest.raises(GraphError, match=r"plugins\.allow"):
            start(plugins=allowed).load_graph(definition)
    for allowed in ([package], [kind], ["other", package]):
        assert start(plugins=allowed).load_graph(definition) == "main"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "exactly one subclass of Node, found none"),
        ("class A(Node): ...\nclass B(Node): ...", "exactly one subclass of Node, found A, B"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("raise SystemExit", "SystemExit"),
        ("class A(Node):\n    def inputs(self): return 1", "A"),
        (
            "class A(Node):\n    inputs = outputs = execute = lambda self: 7",
            "must return output names with formats",
        ),
    ],
)
def test_a_module_that_is_no_plug_in(
    start: Any, build: Any, package: str, tmp_path: Path, source: str, words: str
) -> None:
    (tmp_path / package / "bad.py").write_text(f"from scatterzmq.nodes import Node\n{source}\n", encoding="utf-8")
    with pytest.raises(GraphError) as raised:
        start(plugins=[package]).load_graph(build.graphs(build.line([1], f"{package}.bad")))
    assert words in str(raised.value), str(raised.value)


def test_a_closed_client_says_so(start: Any, build: Any) -> None:
    client = start()
    ns = client.load_graph(build.graphs(build.line([1], ("add", 1))))
    client.close()
    client.close()
    for ask in (
        client.namespaces,
        client.peers,
        lambda: client.enqueue_task(ns, {"value": [1]}),
        lambda: client.submit(ns, value=[1]),
    ):
        with pytest.raises(ClusterError, match="closed"):
            ask()
