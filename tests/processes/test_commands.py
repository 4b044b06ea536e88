"""What README.md says of several machines: a peer on each, found without being told where, and used by commands."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.cluster import TIMEOUT_S, RealPeer, chain
from tests.processes.lan import Lan, lan

ITEMS = 200


@pytest.fixture
def network() -> Iterator[Lan]:
    with lan(3) as network:
        yield network


@pytest.fixture
def peers(network: Lan, tmp_path: Path) -> Iterator[list[RealPeer]]:
    """One on each of two hosts; the graph is given to the first."""
    args = {"op": "add", "const": 1, "input": ["long", []]}
    (tmp_path / "pipeline.json").write_text(json.dumps(chain("constant_op", args, ns="example")))
    graph = ["--graph", str(tmp_path / "pipeline.json")]
    made: list[RealPeer] = []
    try:
        for number, more in enumerate((graph, [])):
            args_ = ["--bind", "0.0.0.0", "--insecure-lan", "--name", f"host{number}", *more]
            made.append(RealPeer(args_, namespace=network.hosts[number]))
        for peer in made:
            peer.wait_for_event("peer.join")
        made[0].wait_for_event("tally.graph.load", lambda event: event["context"]["ns"] == "example")
        yield made
    finally:
        for peer in made:
            peer.close()


def command(network: Lan, *args: str) -> str:
    """What a command on the third host writes."""
    within = ["ip", "netns", "exec", network.hosts[2]]
    words = [*within, sys.executable, "-m", "scatterzmq", *args]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, env=os.environ, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout


def test_two_machines_in_two_commands(network: Lan, peers: list[RealPeer], tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("".join(f'{{"value": {number}}}\n' for number in range(ITEMS)))
    answers = command(network, "submit", "example", "--input", str(tmp_path / "items.jsonl"))
    assert [json.loads(line)["value"] for line in answers.splitlines()] == [number + 1 for number in range(ITEMS)]
    view = json.loads(command(network, "status", "--json"))
    assert [(peer["name"], peer["status"]) for peer in view["peers"]] == [("host0", "alive"), ("host1", "alive")]
    assert view["counters"]["finished"] == ITEMS
    assert [queue["name"] for queue in view["queues"]] == ["example:main:n0"]
    said = command(network, "release", "host0", "--join", peers[1].address)
    assert said == f"host0 ({peers[0].id}) has left\n"
    assert peers[0].wait() == 0
    answers = command(network, "submit", "example", "--input", str(tmp_path / "items.jsonl"))
    assert len(answers.splitlines()) == ITEMS
