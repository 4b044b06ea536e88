"""`scatterzmq graph check | show`, with the real checker."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VALUE = {"value": ["float", [2]]}


def node(name: str, source: str, after: str | None, **changes: Any) -> dict[str, Any]:
    args = {"op": "mul", "const": 2.0, "input": VALUE["value"]}
    made = {"name": name, "kind": "constant_op", "args": args, "vmap": {"value": source}, "outs": {"out": after}}
    return made | changes


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A graph file of these nodes; the result comes from the last one."""

    def make(*nodes: dict[str, Any]) -> Path:
        last = f"{nodes[-1]['name']}:value"
        main = {"name": "main", "input": nodes[0]["name"], "input_format": VALUE, "output_format": VALUE}
        graph = main | {"vmap": {"value": last}, "nodes": list(nodes)}
        path = tmp_path / "graph.json"
        path.write_text(json.dumps({"ns": "demo", "entry": "main", "graphs": [graph]}))
        return path

    return make


def test_a_sound_file_is_ok(cli: Any, write: Any) -> None:
    path = write(node("a", ":value", "b"), node("b", "a:value", None))
    assert cli("graph", "check", path) == (0, f"{path}: ok, graphs: 1, nodes: 2\n", "")
    ran = cli("graph", "check", path, "--json")
    assert (ran.code, json.loads(ran.out)) == (0, {"ok": True, "problems": [], "warnings": []})


def test_all_problems_come_at_once_one_per_line_with_graph_and_node(cli: Any, write: Any) -> None:
    path = write(node("a", ":value", "b", kind="nonsense"), node("b", "a:value", "nowhere"))
    ran = cli("graph", "check", path)
    assert (ran.code, ran.err) == (1, "")
    found = [line for line in ran.out.splitlines() if line.startswith(f"{path}: error: demo:main:")]
    assert len(found) == 2
    assert any("demo:main:a" in line and "nonsense" in line for line in found)
    assert any("demo:main:b" in line and "nowhere" in line for line in found)
    report = json.loads(cli("graph", "check", path, "--json").out)
    assert not report["ok"]
    assert len(report["problems"]) == len(found)


def test_warnings_alone_are_no_failure(cli: Any, write: Any) -> None:
    path = write(node("a", ":value", None) | {"colour": "red"})
    ran = cli("graph", "check", path)
    assert ran.code == 0
    assert ran.out.splitlines()[0].startswith(f"{path}: warning: ")
    assert "colour" in ran.out
    assert ran.out.splitlines()[-1] == f"{path}: ok, graphs: 1, nodes: 1"


@pytest.mark.parametrize("action", ["check", "show"])
def test_a_file_that_is_not_there_is_one_line(cli: Any, tmp_path: Path, action: str) -> None:
    ran = cli("graph", action, tmp_path / "none.json")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("scatterzmq: ")
    assert "none.json" in ran.err
    assert ran.err.count("\n") == 1


def test_what_is_no_json_is_a_problem(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text("{")
    ran = cli("graph", "check", path)
    assert ran.code == 1
    assert ran.out.startswith(f"{path}: error: ")


def test_only_modules_that_are_allowed_are_imported(
    cli: Any, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cli_kinds").mkdir()
    (tmp_path / "cli_kinds" / "same.py").write_text(
        "from scatterzmq.nodes import FieldFormat, Node\n"
        "class Same(Node):\n"
        "    def inputs(self): return {'value': FieldFormat('float', (2,))}\n"
        "    def outputs(self): return {'out': self.inputs()}\n"
        "    def execute(self, batch): batch.emit('out', value=batch.uniform('value'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = write(node("a", ":value", None, kind="cli_kinds.same", args={}))
    refused = cli("graph", "check", path)
    assert refused.code == 1
    assert "cli_kinds.same" in refused.out
    assert cli("graph", "check", path, "--allow", "cli_kinds").code == 0
    assert "cli_kinds.same" in cli("graph", "show", path, "--allow", "cli_kinds").out


def test_show_draws_the_tree(cli: Any, write: Any) -> None:
    ran = cli("graph", "show", write(node("first", ":value", "second"), node("second", "first:value", None)))
    assert (ran.code, ran.err) == (0, "")
    places = [ran.out.index(text) for text in ("namespace demo", "graph main", "node first", "node second")]
    assert places == sorted(places)
    assert "constant_op" in ran.out


def test_show_shows_what_there_is_of_a_broken_file(cli: Any, write: Any) -> None:
    ran = cli("graph", "show", write(node("first", ":value", "nowhere")))
    assert ran.code == 1
    assert "first" in ran.out
    assert "error: " in ran.out
