"""What nodes print: events if anybody listens, else it goes where it always went."""

# ruff: noqa: T201 -- printing is what is tested here

import json
import sys
from pathlib import Path
from typing import Any

import pytest

CHATTY = """
    class Chatty(Node):
        def inputs(self):
            return {"value": FieldFormat("float", (1,))}

        def outputs(self):
            return {"out": {"value": FieldFormat("float", (1,))}}

        def load(self, resources):
            print("loading")

        def execute(self, batch):
            print("of", len(batch), end="")
            batch.emit("out", value=batch.uniform("value"))
"""


def run(start: Any, build: Any, plugin: Any, finish: Any, **settings: Any) -> None:
    module = plugin(CHATTY)
    client = start(plugins=[module.__name__], **settings)
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    finish(client, [client.enqueue_task(ns, {"value": [1.0]})])
    print("said by the caller")
    client.close()


@pytest.mark.parametrize(("peers", "source"), [(1, [""]), (2, ["local-0", "local-1"])])
def test_they_are_events_of_the_node(
    start: Any, build: Any, plugin: Any, finish: Any, capsys: Any, tmp_path: Path, peers: int, source: list[str]
) -> None:
    before, file = sys.stdout, tmp_path / "events"
    run(start, build, plugin, finish, peers=peers, events_listeners=[f"file:{file}"])
    events = [json.loads(line) for line in file.read_text().splitlines()]
    told = [event for event in events if event["event"] == "output.node"]
    assert [event["context"]["line"] for event in told] == ["loading", "of 1"]
    assert {event["context"]["node"] for event in told} == {"main:main:s0"}
    executors = {event["context"]["executor"]: event["source"] for event in events if "start" in event["event"]}
    for event in told:
        assert event["source"] in source
        assert executors[event["context"]["executor"]] == event["source"]
    assert capsys.readouterr().out == "said by the caller\n"
    assert sys.stdout is before


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"events_listeners": ["file:{}"], "events_disable": ["output"]},
        {"events_listeners": ["file:{}"], "executor_kind": "inline"},
    ],
    ids=["nobody listens", "not to this", "inline, for debuggers"],
)
def test_or_they_stay_what_they_are(
    start: Any, build: Any, plugin: Any, finish: Any, capsys: Any, tmp_path: Path, settings: Any
) -> None:
    before, file = sys.stdout, tmp_path / "events"
    listeners = [name.format(file) for name in settings.get("events_listeners", ())]
    run(start, build, plugin, finish, **(settings | {"events_listeners": listeners}))
    assert capsys.readouterr().out == "loading\nof 1said by the caller\n"
    assert "output.node" not in (file.read_text() if listeners else "")
    assert sys.stdout is before
