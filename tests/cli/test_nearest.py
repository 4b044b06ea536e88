"""`run --nearest K`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

VECTORS = {"cat": [1.0, 0.0], "lion": [2.0, 0.2], "car": [0.0, 3.0], "nothing": [0.0, 0.0]}


@pytest.fixture
def texts(client: Any, tmp_path: Path) -> Path:
    def vector(item: dict[str, str]) -> dict[str, torch.Tensor]:
        if item["x"] not in VECTORS:
            raise ZeroDivisionError("never heard of it")
        return {"y": torch.tensor(VECTORS[item["x"]])}

    client.function = vector
    client.outputs = {"y": ("float", (2,))}
    path = tmp_path / "in.txt"
    path.write_text("cat\ncar\nlion\n")
    return path


def test_each_text_gets_its_nearest_ones_best_first(cli: Any, texts: Path) -> None:
    ran = cli("run", "graph.json", "--input", texts, "--nearest", 1)
    assert ran == (0, "cat\n   0.995  lion\ncar\n   0.100  lion\nlion\n   0.995  cat\n", "")


def test_there_are_never_more_neighbours_than_texts(cli: Any, texts: Path) -> None:
    ran = cli("run", "graph.json", "--input", texts, "--nearest", 9)
    assert ran.out.splitlines()[:3] == ["cat", "   0.995  lion", "   0.000  car"]
    assert len(ran.out.splitlines()) == 9


def test_failed_texts_are_nobodys_neighbours(cli: Any, texts: Path) -> None:
    texts.write_text("cat\ndragon\nlion\nnothing\n")
    ran = cli("run", "graph.json", "--input", texts, "--nearest", 5)
    assert ran.code == 1
    assert ran.out.splitlines()[3:5] == ["dragon", "  error: never heard of it"]
    assert ran.out.count("dragon") == 1
    assert ran.out.splitlines()[-3:] == ["nothing", "   0.000  cat", "   0.000  lion"]


def test_a_file_gets_json_lines(cli: Any, texts: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"x": "cat"}\nbad\n{"x": "lion"}\n{"x": "cat"}\n')
    ran = cli("run", "graph.json", "--input", source, "--nearest", 1, "--output", tmp_path / "out.jsonl")
    assert ran.code == 1
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found[0] == {"text": "cat", "nearest": [{"text": "cat", "cosine": 1.0}]}
    assert found[1]["error"]["line"] == 2
    assert found[2]["text"] == "lion"


def test_one_text_alone_has_no_neighbours(cli: Any, texts: Path) -> None:
    texts.write_text("cat\n")
    assert cli("run", "graph.json", "--input", texts, "--nearest", 2) == (0, "cat\n", "")


def test_a_graph_without_vectors_is_wrong_usage(cli: Any, client: Any, texts: Path) -> None:
    client.outputs = {"y": ("int64", (2,))}
    ran = cli("run", "graph.json", "--input", texts, "--nearest", 2)
    assert (ran.code, ran.err) == (
        2,
        "scatterzmq: --nearest needs a graph with one text in and one vector out; 'main' has x -> y\n",
    )


def test_items_that_are_no_texts_are_wrong_usage(cli: Any, texts: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"x": "cat"}\n{"x": 1}\n')
    ran = cli("run", "graph.json", "--input", source, "--nearest", 2)
    assert (ran.code, ran.err) == (2, "scatterzmq: --nearest compares texts, but line 2 of the input is none\n")
