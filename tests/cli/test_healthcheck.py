"""`scatterzmq healthcheck`: 0 if a peer answers that has an executor, else 1 and one line."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.health import Health, HealthBoard, HealthServer, info_of

WAIT_S = 20.0


@pytest.fixture
def board() -> HealthBoard:
    return HealthBoard()


@pytest.fixture
def port(board: HealthBoard) -> Iterator[int]:
    """Of a peer's endpoint."""
    server = HealthServer(board, info_of(), "127.0.0.1", 0)
    yield server.address[1]
    server.close()


def test_a_peer_with_executors_is_well(cli: Any, board: HealthBoard, port: int) -> None:
    board.update(Health(executors=1))
    assert cli("healthcheck", "--port", port) == (0, f"127.0.0.1:{port}: 1 executor\n", "")
    board.update(Health(executors=2))
    assert cli("healthcheck", "--port", port, "--host", "localhost") == (0, f"localhost:{port}: 2 executors\n", "")


def test_a_peer_without_executors_is_not(cli: Any, port: int) -> None:
    assert cli("healthcheck", "--port", port) == (
        1,
        "",
        f"scatterzmq: 127.0.0.1:{port}: the peer has no executor that is ready\n",
    )


def test_the_port_may_be_that_of_the_settings(
    cli: Any, board: HealthBoard, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.update(Health(executors=1))
    file = tmp_path / "peer.toml"
    file.write_text(f'[health]\nport = {port}\nbind = "0.0.0.0"\n[network]\ninsecure_lan = true\n')
    assert cli("healthcheck", "--config", file) == (0, f"127.0.0.1:{port}: 1 executor\n", "")
    monkeypatch.setenv("SCATTERZMQ_HEALTH_PORT", str(port))
    assert cli("healthcheck").code == 0


def test_without_a_port_there_is_nobody_to_ask(cli: Any, tmp_path: Path) -> None:
    code, out, err = cli("healthcheck")
    assert (code, out) == (1, "")
    assert err == "scatterzmq: no port to ask at: give --port, or set health.port (SCATTERZMQ_HEALTH_PORT)\n"
    (tmp_path / "peer.toml").write_text("[health]\nport = 'x'\n")
    code, out, err = cli("healthcheck", "--config", tmp_path / "peer.toml")
    assert (code, out) == (1, "")
    assert err == f"scatterzmq: {tmp_path}/peer.toml: health.port: expected a whole number, got 'x'\n"


def test_nobody_answers(cli: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    code, out, err = cli("healthcheck", "--port", port)
    assert (code, out) == (1, "")
    assert err == f"scatterzmq: 127.0.0.1:{port}: no peer answers: [Errno 111] Connection refused\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n{}", "what answers is no peer (HTTP 404)"),
        (b'HTTP/1.1 500 x\r\n\r\n{"executors": 1}', "what answers is no peer (HTTP 500)"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "what answers is no peer (HTTP 200)"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 60_000, "what answers is no peer (HTTP 200)"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"executors": true}', "what answers is no peer (HTTP 200)"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff", "what answers is no peer (HTTP 200)"),
        (b"SSH-2.0\r\n", "no peer answers: SSH-2.0"),
        (b"", "no peer answers: Remote end closed connection without response"),
    ],
)
def test_something_else_answers(cli: Any, answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            one, _ = listening.accept()
            with one:
                one.recv(4096)
                one.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        code, out, err = cli("healthcheck", "--port", port)
        thread.join(WAIT_S)
    assert (code, out) == (1, "")
    assert err == f"scatterzmq: 127.0.0.1:{port}: {said}\n"
