"""The endpoint: its answers, and that whoever connects cannot hurt it."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.health import Health, HealthBoard, HealthServer, Info, serve
from scatterzmq.health.board import SILENCE_MAX_S
from scatterzmq.health.server import CONNECTION_TIMEOUT_S, CONNECTIONS_MAX, LEFT_OVER_BYTES_MAX, REQUEST_BYTES_MAX
from scatterzmq.settings import HealthSettings

WAIT_S = 20.0
INFO = Info(version="scatterzmq/0", start_date="2026-01-31T00:00:00+00:00", app_commit="abc")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class World:
    """An endpoint on a port that is free, with clocks that stand still."""

    def __init__(self, stack: ExitStack) -> None:
        self.loop_clock, self.clock = Clock(), Clock()
        self.board = HealthBoard(clock=self.loop_clock)
        self.server = HealthServer(self.board, INFO, "127.0.0.1", 0, clock=self.clock)
        self._stack = stack
        stack.callback(self.server.close)

    def connect(self) -> socket.socket:
        made = socket.create_connection(self.server.address, timeout=WAIT_S)
        return self._stack.enter_context(made)

    def peers(self) -> list[Any]:
        """Whom it is connected to; who is just going has no address any more."""
        found = []
        for held in list(self.server._connections):
            with suppress(OSError):
                found.append(held.socket.getpeername())
        return found

    def say(self, request: bytes) -> tuple[bytes, Mapping[str, str], bytes]:
        """(status line, headers, body) of the answer."""
        with self.connect() as one:
            one.sendall(request)
            return parsed(everything(one))

    def ask(self, path: str) -> tuple[int, Any]:
        connection = HTTPConnection(*self.server.address, timeout=WAIT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def everything(one: socket.socket) -> bytes:
    parts = []
    while part := one.recv(65536):
        parts.append(part)
    return b"".join(parts)


def parsed(answer: bytes) -> tuple[bytes, Mapping[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    return status, dict(line.decode().split(": ", 1) for line in lines), body


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)
    assert not [thread for thread in threading.enumerate() if thread.name == "scatterzmq-health"]


# ---- answers


def test_it_lives_while_the_loop_answers(world: World) -> None:
    assert world.ask("/healthz") == (200, {"status": "ok"})
    world.board.update(Health())
    world.loop_clock.now_s += SILENCE_MAX_S
    assert world.ask("/healthz")[0] == 200
    world.loop_clock.now_s += 2
    said = {"status": "silent", "reasons": ["no answer for 12 s"]}
    assert world.ask("/healthz") == (503, said)
    world.board.update(Health(executors=1, is_restored=True))
    assert world.ask("/healthz")[0] == 200
    world.loop_clock.now_s += SILENCE_MAX_S + 2
    assert world.ask("/readyz") == (503, said)


def test_it_is_ready_when_it_can_work(world: World) -> None:
    reasons = ["its journal is not read yet", "no executor is ready"]
    assert world.ask("/readyz") == (503, {"status": "not ready", "reasons": reasons})
    world.board.update(Health(is_restored=True))
    assert world.ask("/readyz") == (503, {"status": "not ready", "reasons": reasons[1:]})
    world.board.update(Health(executors=1, is_restored=True))
    assert world.ask("/readyz") == (200, {"status": "ready"})
    world.board.update(Health(executors=1, is_restored=True, is_leaving=True))
    assert world.ask("/readyz") == (503, {"status": "not ready", "reasons": ["it is leaving"]})


def test_it_says_what_it_is(world: World) -> None:
    world.board.update(Health(executors=3))
    assert world.ask("/api/info?x=1") == (
        200,
        {
            "version": "scatterzmq/0",
            "start_date": "2026-01-31T00:00:00+00:00",
            "executors": 3,
            "app_version": None,
            "app_commit": "abc",
            "deploy_date": None,
        },
    )


def test_head_has_the_same_head(world: World) -> None:
    status, headers, body = world.say(b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert (status, body) == (b"HTTP/1.1 200 OK", b"")
    other = world.say(b"GET /healthz HTTP/1.0\n\n")
    assert (other[0], other[1]) == (status, headers)
    assert headers["Content-Length"] == str(len(other[2]))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /healthz/ HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /../healthz HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405 Method Not Allowed"),
        (b"get /healthz HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /healthz\r\n\r\n", b"400 Bad Request"),
        (b"GET http://x/healthz HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET /healthz HTTP/2\r\n\r\n", b"400 Bad Request"),
        (b"\x00\xff\n\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01" + b"x" * REQUEST_BYTES_MAX, b"431 Request Header Fields Too Large"),
        (b"GET /healthz HTTP/1.1\r\n" + b"x" * REQUEST_BYTES_MAX, b"431 Request Header Fields Too Large"),
    ],
)
def test_everything_else_is_refused(world: World, request_: bytes, status: bytes) -> None:
    line, headers, body = world.say(request_)
    assert line == b"HTTP/1.1 " + status
    assert set(json.loads(body)) == {"error"}
    assert headers.get("Allow") == ("GET, HEAD" if status.startswith(b"405") else None)
    assert headers["Connection"] == "close"


# ---- whoever connects


def test_a_request_may_come_in_pieces(world: World) -> None:
    with world.connect() as one:
        for piece in (b"GET /hea", b"lthz HTTP/1.1\r", b"\nHost: x\r\n\r", b"\n"):
            one.sendall(piece)
        assert parsed(everything(one))[0] == b"HTTP/1.1 200 OK"


def test_who_sends_more_than_a_request_still_gets_the_answer(world: World) -> None:
    status, _, _ = world.say(b"POST /healthz HTTP/1.1\r\n\r\n" + b"x" * (LEFT_OVER_BYTES_MAX // 2))
    assert status == b"HTTP/1.1 405 Method Not Allowed"


def test_who_goes_on_after_the_answer_is_heard_out(world: World) -> None:
    """Else the answer would be lost on its way to somebody who is still sending."""
    with world.connect() as one:
        one.sendall(b"POST /healthz HTTP/1.1\r\n\r\n")
        assert parsed(everything(one))[0] == b"HTTP/1.1 405 Method Not Allowed"
        one.sendall(b"x" * 10)
        assert world.ask("/healthz")[0] == 200  # by then it has read the rest
        assert one.getsockname() in world.peers()


def test_who_never_stops_is_cut_off(world: World) -> None:
    def talk(one: socket.socket) -> None:
        while True:
            one.sendall(b"x" * 65536)

    with world.connect() as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            talk(one)
    assert world.ask("/healthz")[0] == 200


def test_who_says_nothing_is_dropped_in_time(world: World) -> None:
    with world.connect() as one:
        one.sendall(b"GET /hea")
        assert world.ask("/healthz")[0] == 200
        world.clock.now_s += CONNECTION_TIMEOUT_S
        assert world.ask("/healthz")[0] == 200  # which also wakes it
        assert one.recv(1) == b""


def test_who_says_nothing_locks_out_nobody(world: World) -> None:
    silent = [world.connect() for _ in range(3 * CONNECTIONS_MAX)]
    for one in silent[:-1:7]:
        one.sendall(b"GET ")
    assert world.ask("/healthz")[0] == 200
    assert len(world.server._connections) <= CONNECTIONS_MAX
    assert silent[0].recv(1) == b"", "the oldest went"


def test_who_goes_without_a_word_is_forgotten(world: World) -> None:
    for _ in range(2 * CONNECTIONS_MAX):
        world.connect().close()
    with world.connect() as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert everything(one).startswith(b"HTTP/1.1 200")


def test_too_many_open_files_end_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = threading.Event()

    class Refusing:
        """The listening socket, which cannot take a connection at first."""

        def __init__(self, real: socket.socket) -> None:
            self._real = real

        def accept(self) -> tuple[socket.socket, Any]:
            if not refused.is_set():
                refused.set()
                raise OSError(24, "Too many open files")
            return self._real.accept()

    real = world.server._listening
    monkeypatch.setattr(world.server, "_accept", _accept_with(world.server, Refusing(real)))
    assert world.ask("/healthz")[0] == 200
    assert refused.is_set()


def _accept_with(server: HealthServer, listening: Any) -> Callable[[], None]:
    usual = server._accept

    def accept() -> None:
        real, server._listening = server._listening, listening
        try:
            usual()
        finally:
            server._listening = real

    return accept


def test_closing_ends_everything(world: World) -> None:
    before = len(os.listdir("/proc/self/fd"))
    open_ = world.connect()
    world.server.close()
    world.server.close()
    assert everything(open_) == b""
    with pytest.raises(ConnectionRefusedError):
        world.connect()
    open_.close()
    assert len(os.listdir("/proc/self/fd")) <= before - 4


# ---- by settings


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def test_without_a_port_there_is_none() -> None:
    assert serve(HealthBoard(), HealthSettings(), _nobody) is None


def _nobody(name: str, context: Mapping[str, str | int | float]) -> None:
    raise AssertionError((name, context))


def test_settings_say_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("v1\n")
    server = serve(HealthBoard(), HealthSettings(port=free_port()), _nobody, version_file=str(tmp_path / "v"))
    assert server is not None
    try:
        connection = HTTPConnection(*server.address, timeout=WAIT_S)
        connection.request("GET", "/api/info")
        assert json.loads(connection.getresponse().read())["app_version"] == "v1"
        connection.close()
    finally:
        server.close()


def test_a_taken_port_is_a_warning() -> None:
    told: list[tuple[str, Mapping[str, str | int | float]]] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve(HealthBoard(), HealthSettings(port=port), lambda name, context: told.append((name, context)))
    assert server is None
    ((name, context),) = told
    assert (name, context["address"]) == ("warning.health.port", f"127.0.0.1:{port}")
    assert str(context["message"]).startswith("Address already in use")


def test_a_port_can_be_had_again_at_once() -> None:
    port = free_port()
    for _ in range(2):
        server = serve(HealthBoard(), HealthSettings(port=port), _nobody)
        assert server is not None
        with socket.create_connection(server.address, timeout=WAIT_S) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert parsed(everything(one))[0] == b"HTTP/1.1 200 OK"
        server.close()


def test_a_file_of_versions_that_is_not_there_is_an_error_all_the_same() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        serve(HealthBoard(), HealthSettings(), _nobody, version_file="none")
