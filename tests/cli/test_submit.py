"""`scatterzmq submit` and `run --join`: a job on a cluster that runs elsewhere."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scatterzmq
from tests.test_remote import Peer, definition, until

LONG_S = 60.0
"""Only matters when something is wrong."""

GATE = """
import time
from pathlib import Path
from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

class Gate(Node):
    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self.folder = Path(args.str("folder"))

    def inputs(self):
        return {"value": FieldFormat("float", (1,))}

    def outputs(self):
        return {"out": {"value": FieldFormat("float", (1,))}}

    def execute(self, batch: Batch) -> None:
        (self.folder / "entered").touch()
        while not (self.folder / "open").exists():
            time.sleep(0.002)
        batch.emit("out", value=batch.uniform("value"))
"""
"""A node that waits for a file."""


@pytest.fixture
def peer(running: Callable[..., Peer]) -> Peer:
    return running()


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text('{"value": [1]}\n7\n{"value": [2]}\n{"valu": [2]}\n')
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(definition()))
    return path


def loaded(peer: Peer) -> None:
    with scatterzmq.connect(peer.address) as client:
        client.load_graph(definition())


def test_items_go_to_a_namespace_that_is_loaded_there(cli: Any, peer: Peer, items: Path) -> None:
    loaded(peer)
    ran = cli("submit", "main", "--input", items, "--join", peer.address)
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, ran.err) == (1, "")
    assert [answer.get("value") for answer in answers] == [[2.0], None, [3.0], None]
    assert [answers[index]["error"]["code"] for index in (1, 3)] == ["invalid_input"] * 2


def test_one_of_several_addresses_is_enough(cli: Any, peer: Peer, tmp_path: Path, running: Callable[..., Peer]) -> None:
    loaded(peer)
    gone = running()
    gone.stop()
    (tmp_path / "in.jsonl").write_text('{"value": [1]}\n' * 200)
    joins = ["--join", gone.address, "--join", peer.address]
    ran = cli("submit", "main", "--input", tmp_path / "in.jsonl", *joins, "--output", tmp_path / "out.jsonl")
    assert ran == (0, "", "")
    assert (tmp_path / "out.jsonl").read_text() == '{"value": [2.0]}\n' * 200


def test_an_unknown_namespace_is_told_what_is_there(cli: Any, peer: Peer, items: Path) -> None:
    loaded(peer)
    ran = cli("submit", "mian", "--input", items, "--join", peer.address)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("scatterzmq: namespace 'mian' is not loaded; loaded are: main.")
    assert ran.err.count("\n") == 1


def test_nobody_is_there(cli: Any, peer: Peer, items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.stop()
    connect = scatterzmq.connect
    monkeypatch.setitem(vars(scatterzmq), "connect", lambda *args, **keys: connect(*args, timeout_s=0.2, **keys))
    ran = cli("submit", "main", "--input", items, "--join", peer.address)
    assert (ran.code, ran.out) == (1, "")
    assert f"{peer.address} (nobody listens there)" in ran.err
    assert ran.err.count("\n") == 1


def test_the_cluster_is_found_by_its_name(cli: Any, client: Any, items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def connect(*args: Any, **keys: Any) -> Any:
        asked.append((args, keys))
        return client

    client.inputs = frozenset({"value"})
    client.function = lambda item: {}
    monkeypatch.setitem(vars(scatterzmq), "connect", connect)
    cli("submit", "main", "--input", items, "--cluster", "ours")
    cli("submit", "main", "--input", items)
    assert asked == [((None,), {"cluster": name, "cache": True}) for name in ("ours", None)]


def test_run_loads_the_graph_there(cli: Any, peer: Peer, graph: Path, items: Path) -> None:
    ran = cli("run", graph, "--input", items, "--join", peer.address)
    assert [json.loads(line).get("value") for line in ran.out.splitlines()] == [[2.0], None, [3.0], None]
    assert (ran.code, ran.err) == (1, "")
    with scatterzmq.connect(peer.address) as client:
        assert client.namespaces() == {"main"}
        assert client.get_queue_stats()[0].name == "main:main:add"


def test_run_does_not_replace_another_graph(cli: Any, peer: Peer, graph: Path, items: Path) -> None:
    loaded(peer)
    graph.write_text(json.dumps(definition(const=2.0)))
    ran = cli("run", graph, "--input", items, "--join", peer.address)
    assert (ran.code, ran.out) == (1, "")
    assert "main" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    ["--peers 2", "--executors 2", "--batch-size 3", "--max-retries 0", "--device cpu", "--allow a"],
)
def test_options_for_peers_of_this_process_are_for_none_elsewhere(
    cli: Any, graph: Path, items: Path, option: str
) -> None:
    ran = cli("run", graph, "--input", items, "--join", "tcp://127.0.0.1:1", *option.split())
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"scatterzmq: {option.split(maxsplit=1)[0]} is for peers in this process")


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_job_may_be_kept_out_of_the_cache(cli: Any, peer: Peer, graph: Path, items: Path, command: str) -> None:
    cached = definition()
    cached["graphs"][0]["cache"] = True
    graph.write_text(json.dumps(cached))
    what = (graph,) if command == "run" else ("main",)
    with scatterzmq.connect(peer.address) as client:
        client.load_graph(graph)
        for options, entries in ((("--no-cache",), 0), ((), 2), (("--no-cache",), 2)):
            ran = cli(command, *what, "--input", items, "--join", peer.address, *options)
            assert (ran.code, len(ran.out.splitlines())) == (1, 4)
            assert client._run(client._calls.stats()).cache_entries == entries
        assert client.clear_cache("main") == 2


INTERRUPTIBLE = (
    "import signal, sys; from scatterzmq.cli import main; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main(sys.argv[1:]))"
)
"""The command, also where whoever started the tests has it ignore interrupts, as a shell does in the background."""


def test_an_interrupt_takes_the_tasks_back(
    running: Callable[..., Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"gates_{tmp_path.name}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "gate.py").write_text(GATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    peer = running(plugins={"allow": [package]}, executor={"kind": "thread", "batch_size": 1})
    graph = definition()
    graph["graphs"][0]["nodes"][0] |= {"kind": f"{package}.gate", "args": {"folder": str(tmp_path)}}
    with scatterzmq.connect(peer.address) as client:
        client.load_graph(graph)
        (tmp_path / "in.jsonl").write_text('{"value": [1]}\n' * 50)
        command = [sys.executable, "-c", INTERRUPTIBLE, "submit", "main", "--join", peer.address]
        submitting = subprocess.Popen(
            [*command, "--input", str(tmp_path / "in.jsonl")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        try:
            until((tmp_path / "entered").exists)
            submitting.send_signal(signal.SIGINT)
            out, err = submitting.communicate(timeout=LONG_S)
            assert (submitting.returncode, out, err.decode()) == (130, b"", "scatterzmq: interrupted\n")
            until(lambda: client.get_queue_stats()[0].queue_length == 0)  # though the gate is shut
        finally:
            (tmp_path / "open").touch()
            submitting.kill()
            submitting.communicate()
        until(lambda: not client.has_any_tasks())


@pytest.mark.parametrize("command", ["submit main --input", "status", "release all"])
def test_commands_for_another_cluster_are_turned_away(
    cli: Any, running: Callable[..., Peer], items: Path, command: str
) -> None:
    peer = running(cluster={"name": "blue"})
    loaded(peer)
    words = [*command.split(), *([items] if command.endswith("--input") else [])]
    ran = cli(*words, "--join", peer.address, "--cluster", "red")
    assert (ran.code, ran.out) == (1, "")
    assert f"{peer.address} says: this is cluster 'blue', another one than yours" in ran.err
    assert ran.err.count("\n") == 1
    named = cli("status", "--join", peer.address, "--cluster", "blue")
    assert (named.code, named.err) == (0, "")
