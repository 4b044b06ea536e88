"""Which bytes the blobs of a definition have: read, written down, part of all digests, settled when it is loaded."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from scatterzmq.graph.blobs import BlobFound, contradicts, open_names, same_graphs, settle
from scatterzmq.graph.check import Checked, NodeInfo, check
from scatterzmq.graph.definition import to_json
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.graph.nodeinfo import BlobUse
from scatterzmq.graph.reading import parse, read

VALUE = {"value": FieldFormat("long", ())}
A, B = b"a" * 32, b"b" * 32


def describe(kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
    blobs = (BlobUse(name=str(args["blob"]), end_bytes=10),) if kind == "reader" else ()
    return NodeInfo(input_format=VALUE, outputs={"out": VALUE}, pure=True, weight=1.0, load_cost=1.0, blobs=blobs)


def source(*blobs: str, **extra: Any) -> dict[str, Any]:
    """A reader of each, one after another, and one at the end that reads nothing."""
    nodes = [{"kind": "reader", "args": {"blob": name}} for name in blobs] + [{"kind": "step", "args": {}}]
    made = [
        {**node, "name": f"n{at}", "vmap": {"value": f"n{at - 1}:value" if at else ":value"},
         "outs": {"out": f"n{at + 1}" if at + 1 < len(nodes) else None}}
        for at, node in enumerate(nodes)
    ]  # fmt: skip
    value = {"value": ["long", []]}
    graph = {
        "name": "main",
        "input": "n0",
        "input_format": value,
        "output_format": value,
        "vmap": {"value": f"n{len(nodes) - 1}:value"},
        "nodes": made,
    }
    return {"ns": "main", "entry": "main", "graphs": [graph], **extra}


def checked(*blobs: str, **extra: Any) -> Checked:
    return check(source(*blobs, **extra), describe)


def test_a_plan_says_what_is_settled() -> None:
    plan = checked("x", "y", "x", blobs={"x": A.hex()}).require()
    assert plan.blobs == {"x": A, "y": b""}
    assert checked().require().blobs == {}
    assert to_json(read(plan.definition)) == json.loads(plan.definition)
    assert read(plan.definition).blobs == {"x": A}
    assert "blobs" not in json.loads(checked("x").require().definition)


def test_other_bytes_are_another_definition_with_other_closures() -> None:
    """So no cached result is found again."""
    plans = [
        checked("x", "y", **extra).require() for extra in ({}, {"blobs": {"x": A.hex()}}, {"blobs": {"x": B.hex()}})
    ]
    assert len({plan.digest for plan in plans}) == 3
    graphs = [next(iter(plan.graphs.values())) for plan in plans]
    assert len({graph.closure for graph in graphs}) == 3
    for name, count in (("n0", 3), ("n1", 1), ("n2", 1)):
        nodes = [next(node for node in graph.nodes.values() if node.name == name) for graph in graphs]
        assert len({node.closure for node in nodes}) == count, name


@pytest.mark.parametrize("digest", [None, 3, "", "ab", "AB" * 32, A.hex() + "00", "g" * 64])
def test_what_is_no_digest_is_refused(digest: object) -> None:
    problems = parse(source("x", blobs={"x": digest})).problems
    assert len(problems) == 1
    assert problems[0].startswith("definition: key 'blobs.x': expected a digest, 64 digits of 0-9a-f (or leave it out)")
    assert parse(source("x", blobs=[])).problems


def test_open_names() -> None:
    assert open_names(checked("y", "x", blobs={"y": A.hex()})) == ("x",)
    assert open_names(check("{}", describe)) == ()


def test_what_was_found_is_put_in() -> None:
    before = checked("x", "y", blobs={"x": A.hex()})
    settled = settle(before, [BlobFound(name="y", blob_bytes=10, digest=B)])
    assert (settled.problems, settled.warnings) == ((), ())
    plan = check(settled.definition, describe).require()
    assert plan.blobs == {"x": A, "y": B}
    # It is written as every definition is: read again, it is the same.
    assert plan.definition == settled.definition


def test_what_was_not_found_is_a_warning_and_what_is_wrong_a_problem() -> None:
    found = [
        BlobFound(name="x", problem="blob 'x' is nowhere"),
        BlobFound(name="y", problem="blob 'y' differs", fatal=True),
        BlobFound(name="z", blob_bytes=9, digest=A),
    ]
    settled = settle(checked("x", "y", "z"), found)
    assert settled.warnings == ("main:main:n0: blob 'x' is nowhere; until then its tasks end as missing_blob",)
    assert settled.problems == (
        "main:main:n1: blob 'y' differs",
        "main:main:n2: blob 'z' has 9 bytes, and the node reads 10",
    )
    nothing = settle(checked("x"), found[:1])
    assert "blobs" not in json.loads(nothing.definition)


def test_same_graphs() -> None:
    one, two = checked("x").require(), checked("x", blobs={"x": A.hex()}).require()
    assert same_graphs(one, two)
    assert same_graphs(two, one)
    assert not same_graphs(one, checked("y").require())


def test_contradictions() -> None:
    assert contradicts({"x": A, "y": B}, {"x": A, "y": b"", "z": A}) == ""
    assert contradicts({"x": b"", "y": B}, {"x": A}) == ""
    assert contradicts({"x": A, "a": A}, {"x": B, "a": B}) == "a"
