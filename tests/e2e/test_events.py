"""What happens in an embedded cluster is told to listeners that the settings name."""

import json
from pathlib import Path

import pytest

import scatterzmq

DEFINITION = {
    "ns": "events",
    "entry": "main",
    "graphs": [
        {
            "name": "main",
            "input": "double",
            "input_format": {"value": ["float", [1]]},
            "output_format": {"value": ["float", [1]]},
            "vmap": {"value": "double:value"},
            "nodes": [
                {
                    "name": "double",
                    "kind": "constant_op",
                    "args": {"op": "mul", "const": 2.0, "input": ["float", [1]]},
                    "vmap": {"value": ":value"},
                    "outs": {"out": None},
                }
            ],
        }
    ],
}


def told(path: Path) -> list[tuple[str, str]]:
    return [(line["event"], line["source"]) for line in map(json.loads, path.read_text("utf-8").splitlines())]


def test_a_cluster_tells_what_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events"
    with scatterzmq.local(executors=2, events_listeners=[f"file:{path}"]) as client:
        client.submit(client.load_graph(DEFINITION), value=[1]).result(30)
    events = told(path)
    assert events[:2] == [("tally.executor.start", "")] * 2
    assert ("tally.node.load", "") in events
    assert ("tally.node.unload", "") in events
    assert events[-2:] == [("tally.executor.stop", "")] * 2
    assert not [name for name, _ in events if name.startswith(("debug", "measure"))]
    assert capsys.readouterr().out == ""


def test_each_of_several_peers_says_who_it_is(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with scatterzmq.local(peers=2, events_listeners=[f"file:{path}"], events_disable=["tally.node"]) as client:
        client.submit(client.load_graph(DEFINITION), value=[1]).result(30)
    events = told(path)
    assert {name for name, _ in events} >= {"tally.executor.start", "peer.join"}
    assert {source for _, source in events} == {"local-0", "local-1"}


def test_the_life_of_each_task_is_told_to_whoever_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with scatterzmq.local(
        events_listeners=[f"file:{path}"], events_disable=["tally"], events_measure_s=0.1, executors=1
    ) as client:
        client.submit(client.load_graph(DEFINITION), value=[1]).result(30)
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    moves = [line["context"] for line in lines if line["event"] == "debug.task"]
    assert [move["phase"] for move in moves] == ["wait", "busy", "ready"]
    assert len({move["task"] for move in moves}) == 1
    assert [move["node"] for move in moves] == ["events:main:double", "events:main:double", ""]


def test_a_listener_that_is_none_is_refused() -> None:
    with pytest.raises(scatterzmq.ConfigError, match=r"^events\.listeners: unknown 'stderr'"):
        scatterzmq.local(events_listeners=["stderr"])


def test_there_is_no_health_endpoint() -> None:
    with pytest.raises(scatterzmq.ConfigError, match=r"^local: health\.port: 7412: an embedded cluster has no health"):
        scatterzmq.local(health_port=7412)
