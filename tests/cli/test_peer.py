"""`scatterzmq peer`: what keeps it from starting, in one line, and which settings its options stand for."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scatterzmq import runtime
from scatterzmq.cli import main, peer
from scatterzmq.cli.args import Parser
from scatterzmq.config import load
from scatterzmq.core.messages import Contact
from scatterzmq.ids import PeerId
from scatterzmq.settings import MIB

QUIET = ["--no-zeroconf", "--port", "0", "--no-welcome"]


def settings_of(*words: str) -> Any:
    parser = Parser()
    peer.add_to(parser.add_subparsers())
    options = parser.parse_args(["peer", *words])
    return load(options.config, {}, peer._flags(options), flag_names=peer._FLAG_NAMES)


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a peer says that does not start."""

    def said(*words: str, code: int = 1) -> str:
        assert main(["peer", *QUIET, *words]) == code
        captured = capsys.readouterr()
        assert not captured.out
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        return lines[0].removeprefix("scatterzmq: ")

    return said


def test_options_are_settings() -> None:
    settings = settings_of(
        *("--cluster", "c", "--bind", "10.0.0.1", "--insecure-lan", "--port", "7", "--advertise", "host"),
        *("--join", "tcp://a:1", "--join", "tcp://b:2", "--no-zeroconf", "--executors", "3", "--batch-size", "9"),
        *("--allow", "nodes", "--health-port", "80", "--device", "cuda:1", "--json"),
        *("--record", "peer.rec"),
    )
    network = settings.network
    assert (settings.cluster.name, network.bind, network.port, network.advertise) == ("c", "10.0.0.1", 7, "host")
    assert network.join == ("tcp://a:1", "tcp://b:2")
    assert network.insecure_lan
    assert not network.zeroconf
    executor = settings.executor
    assert (executor.count, executor.batch_size, executor.device, executor.kind) == (3, 9, "cuda:1", "process")
    assert (settings.plugins.allow, settings.health.port) == (("nodes",), 80)
    assert settings.events.listeners == ("stdout-json",)
    assert settings.events.record == "peer.rec"


def test_a_folder_for_data_means_a_journal() -> None:
    assert settings_of().journal.mode == "off"
    assert settings_of("--data-dir", "d").journal.mode == "batch"
    assert settings_of("--data-dir", "d", "--journal", "sync").journal.mode == "sync"


def test_memory_is_shared_out() -> None:
    settings = settings_of("--max-memory", "1000MiB")
    parts = (settings.store.bytes, settings.store.record_bytes, settings.cache.bytes)
    assert parts == (250 * MIB, 250 * MIB, 50 * MIB)
    assert sum(parts) + settings.executor.node_memory_bytes == 1000 * MIB


def test_a_graph_that_is_none(complaint: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "graph.json"
    assert complaint("--graph", str(file)).startswith(f"--graph {file}: cannot be read: ")
    file.write_text('{"ns": "x"')
    assert complaint("--graph", str(file)).startswith(f"--graph {file}: definition: not JSON: ")
    file.write_text(json.dumps({"graphs": [{}], "entry": 5}))
    assert complaint("--graph", str(file)).endswith(f"(and 1 more: scatterzmq graph check {file})")
    empty = tmp_path / "folder"
    empty.mkdir()
    assert complaint("--graph", str(empty)) == f"--graph {empty}: there is no .json file in this folder"


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["--device", "nosuch"], "executor.device: expected cpu, cuda, cuda:N or mps, got 'nosuch'"),
        (["--port", "99999"], "--port: network.port: expected at most 65535, got 99999"),
        (["--bind", "0.0.0.0"], "--bind: network.bind: '0.0.0.0' is open to everybody who can reach it"),
        (["--join", "a:b"], "network.join: expected tcp://host or tcp://host:port, got 'a:b'"),
        (["--journal", "sync"], "--journal: journal.dir: expected a folder"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
        (["--record", "/nowhere/f"], "events.record: /nowhere/f: cannot be opened: No such file or directory"),
    ],
)
def test_what_keeps_it_from_starting(complaint: Callable[..., str], words: list[str], start: str) -> None:
    assert complaint(*words).startswith(start)


class Told:
    """Stands for a peer that has something to tell."""

    contact = Contact(id=PeerId("P" + "0" * 32), incarnation=1, address="tcp://host:7411")

    def __init__(self, _settings: Any, *, events: Any, **_options: Any) -> None:
        self._events = events

    def run(self) -> int:
        self._events.emit("peer.join", {"peer": "P1"})
        return 0

    def leave(self) -> None:
        """Nobody asks it to."""


def test_every_event_says_whose_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Several peers may write to one file."""
    monkeypatch.setattr(runtime, "PeerProcess", Told)
    assert main(["peer", *QUIET, "--json", "--name", "alpha"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "alpha"
    assert main(["peer", *QUIET]) == 0
    assert f" [{socket.gethostname()}] peer.join peer=P1" in capsys.readouterr().out


def test_wrong_usage(complaint: Callable[..., str]) -> None:
    assert "expected a size such as 8GiB, got 'lots'" in complaint("--max-memory", "lots", code=2)


def test_the_help_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peer", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert "example:" in lines
