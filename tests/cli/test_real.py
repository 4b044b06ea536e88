"""`scatterzmq run` on an embedded peer, nothing faked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TEXT, PAIR = ["uint8", [None]], ["float", [2]]


def graph_file(folder: Path, fields: dict[str, Any], node: dict[str, Any]) -> Path:
    """One node between input and output."""
    result = {"value": next(iter(fields.values()))}
    main = {"name": "main", "input": "n", "input_format": fields, "output_format": result, "vmap": {"value": "n:value"}}
    nodes = [{"name": "n", "outs": {"out": None}, "vmap": {field: f":{field}" for field in fields}} | node]
    path = folder / "graph.json"
    path.write_text(json.dumps({"ns": "demo", "entry": "main", "graphs": [main | {"nodes": nodes}]}))
    return path


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    args = {"op": "mul", "const": 2.0, "input": PAIR}
    return graph_file(tmp_path, {"value": PAIR}, {"kind": "constant_op", "args": args})


def test_json_lines_with_every_kind_of_bad_one(cli: Any, doubling: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    given = ['{"value": [1, 2]}', "{", '{"value": [1]}', '{"valu": [1, 2]}', '{"value": "text"}', '{"value": [0.1, 3]}']
    source.write_text("\n".join(given))
    ran = cli("run", doubling, "--input", source)
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, ran.err) == (1, "")
    assert [answer.get("value") for answer in answers] == [[2.0, 4.0], None, None, None, None, [0.2, 6.0]]
    assert all(answer["error"]["code"] == "invalid_input" for answer in answers[1:5])
    assert "value" in answers[2]["error"]["message"]
    assert "float[2]" in answers[2]["error"]["message"]
    assert "valu" in answers[3]["error"]["message"]


def test_many_more_items_than_the_window(cli: Any, doubling: Path, tmp_path: Path) -> None:
    rows = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    np.save(tmp_path / "in.npy", rows)
    ran = cli("run", doubling, "--input", tmp_path / "in.npy", "--output", tmp_path / "out.npy", "--window", 16)
    assert ran == (0, "", "")
    assert np.array_equal(np.load(tmp_path / "out.npy", allow_pickle=False), rows * 2)


def test_texts_in_and_out(cli: Any, tmp_path: Path) -> None:
    args = {"delimiter": "-"}
    graph = graph_file(tmp_path, {"left": TEXT, "right": TEXT}, {"kind": "str_concat", "args": args})
    source = tmp_path / "in.jsonl"
    source.write_text('{"left": "ä", "right": ""}\n{"left": "b", "right": "c"}\n')
    ran = cli("run", graph, "--input", source, "--executors", 2, "--batch-size", 1)
    assert ran == (0, '{"value": "ä-"}\n{"value": "b-c"}\n', "")


def test_a_node_that_raises_is_an_error_with_its_place(cli: Any, tmp_path: Path) -> None:
    node = {"kind": "assertion_error", "args": {"msg": "not today"}, "vmap": {}}
    path = graph_file(tmp_path, {"value": PAIR}, node)
    definition = json.loads(path.read_text())
    definition["graphs"][0]["vmap"] = {"value": ":value"}
    path.write_text(json.dumps(definition))
    (tmp_path / "in.jsonl").write_text('{"value": [1, 2]}\n')
    ran = cli("run", path, "--input", tmp_path / "in.jsonl", "--max-retries", 0)
    assert ran.code == 1
    error = json.loads(ran.out)["error"]
    assert error["code"] == "general_exception"
    assert "not today" in error["message"]
    assert (error["context"]["graph"], error["context"]["node"]) == ("demo:main", "n")


def test_several_peers_do_the_same(cli: Any, doubling: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"value": [1, 2]}\n{"value": [3, 4]}\n')
    ran = cli("run", doubling, "--input", tmp_path / "in.jsonl", "--peers", 2)
    assert ran.code == 0, ran.err
    assert [json.loads(line)["value"] for line in ran.out.splitlines()] == [[2.0, 4.0], [6.0, 8.0]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--peers", "1000"], "at most 128"),
        (["--device", "nonsense"], "nonsense"),
        (["--executors", "100000"], "at most 1024"),
    ],
)
def test_what_cannot_be_is_one_line(
    cli: Any, doubling: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "in.jsonl").write_text("")
    ran = cli("run", doubling, "--input", tmp_path / "in.jsonl", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert expected in ran.err


def test_a_graph_that_cannot_run_is_one_line(cli: Any, doubling: Path, tmp_path: Path) -> None:
    doubling.write_text(doubling.read_text().replace("constant_op", "nonsense"))
    (tmp_path / "in.jsonl").write_text('{"value": [1, 2]}\n')
    ran = cli("run", doubling, "--input", tmp_path / "in.jsonl")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "demo:main:n" in ran.err
