"""What a node is unless it says otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scatterzmq.graph.formats import FieldFormat, Format
from scatterzmq.nodes import Batch, Node, NodeArgs, Resources

FLOATS = FieldFormat("float", (2,))


class Plain(Node):
    def inputs(self) -> Format:
        return {"a": FLOATS}

    def outputs(self) -> dict[str, Format]:
        return {"first": {}, "second": {}}

    def execute(self, batch: Batch) -> None:
        batch.emit("second")


def plain() -> Plain:
    return Plain(NodeArgs({}, "ns", "ns:main:node"))


def test_defaults() -> None:
    node = plain()
    assert (node.pure, node.weight, node.load_cost(), node.thread_safe) == (False, 1.0, 1.0, False)
    assert list(node.calls()) == []


def test_all_tasks_are_expected_at_the_first_output(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch({"a": FLOATS}, {}, {"a": [torch.zeros(2)] * 3})
    assert plain().expected(batch) == {"first": (3.0, 24)}


def test_nothing_is_expected_of_a_node_without_outputs(make_batch: Callable[..., Batch], runner: Any) -> None:
    assert runner.node("assertion_error", {"msg": ""}).expected(make_batch({}, {}, {}, 2)) == {}


def test_scratch_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    made: list[Path] = []

    def make() -> Path:
        made.append(tmp_path)
        return tmp_path

    resources = Resources(blobs=None, make_scratch=make, device=torch.device("cpu"), memory={})  # type: ignore[arg-type]
    assert made == []
    assert resources.scratch == tmp_path
    assert made == [tmp_path]
