"""What supervisors see of a peer: its health endpoint, and a start that fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.cli import main
from tests.processes.cluster import TIMEOUT_S, chain, real_cluster


def ask(port: int, path: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < until_s
        pause.wait(0.05)


def test_a_peer_says_how_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "version").write_text("v1.2\nabc\n2026-01-31\n")
    port = free_port()
    args = ["--executors", "2", "--version-file", str(tmp_path / "version")]
    args += ["--data-dir", str(tmp_path / "data"), "--health-port", str(port)]
    with real_cluster(1, *args) as cluster:
        (peer,) = cluster.peers
        wait_until(lambda: ask(port, "/api/info")[1]["executors"] == 2)
        wait_until(lambda: ask(port, "/readyz") == (200, {"status": "ready"}))
        assert ask(port, "/healthz") == (200, {"status": "ok"})
        status, info = ask(port, "/api/info")
        assert (status, info["executors"], info["app_version"], info["app_commit"]) == (200, 2, "v1.2", "abc")
        assert main(["healthcheck", "--port", str(port)]) == 0
        os.kill(peer.children()[0], signal.SIGKILL)
        wait_until(lambda: ask(port, "/api/info")[1]["executors"] == 1)
        wait_until(lambda: ask(port, "/api/info")[1]["executors"] == 2)
        peer.terminate()
        assert peer.wait() == 0
        assert main(["healthcheck", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"scatterzmq: 127.0.0.1:{port}: no peer answers: [Errno 111] Connection refused\n"


def test_a_taken_health_port_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with real_cluster(1, "--health-port", str(port)) as cluster:
            names = [event["event"] for event in cluster.peers[0].log]
    assert "warning.health.port" in names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_boot_a_failed_start_waits_to_be_stopped(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "scatterzmq", "peer", "--boot", "--config", "none.toml"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert process.poll() is None
            os.kill(process.pid, number)
            rest = process.communicate(timeout=TIMEOUT_S)[1]
        finally:
            process.kill()
    assert line == (
        "scatterzmq: cannot start, and stays because of --boot: none.toml: cannot be read: No such file or directory\n"
    )
    assert (process.returncode, rest) == (1, "")


def test_a_device_that_is_not_here_ends_the_peer_with_one_line(tmp_path: Path) -> None:
    """Its executors were once started again for ever, and nobody was told why nothing was done."""
    (tmp_path / "graph.json").write_text(
        json.dumps(chain("constant_op", {"op": "add", "const": 1, "input": ["long", []]}))
    )
    command = [sys.executable, "-m", "scatterzmq", "peer", "--port", "0", "--no-zeroconf", "--no-welcome", "--json"]
    command += ["--device", "cuda:63", "--executors", "2", "--graph", str(tmp_path / "graph.json")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 1
    assert ended.stderr.startswith("scatterzmq: executor.device: 'cuda:63' is not here, torch sees ")
    assert ended.stderr.count("\n") == 1
    events = [json.loads(line)["event"] for line in ended.stdout.splitlines()]
    assert events == ["tally.graph.check", "tally.peer.start", "warning.graph.refused", "tally.peer.stop"]
