"""The endpoint itself: a few answers over HTTP, from one thread that nobody can keep busy for long.

Purpose   /healthz says whether the peer's loop answers, /readyz whether it can work, /api/info what it is.
Rules     1. It reads the board and nothing else; it never waits for the peer.
          2. One request per connection, of a few kilobytes, within a few seconds. When there are too many connections,
             the oldest goes: somebody who opens many and says nothing cannot lock out a probe.
          3. A port that is taken is a warning: a peer works without an endpoint.
Why       http.server waits for a slow client, or has a thread for each: both are at the mercy of whoever connects.
"""

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeAlias

from ..settings import HealthSettings
from .board import SILENCE_MAX_S, HealthBoard
from .info import Info, info_of

CONNECTIONS_MAX = 32
REQUEST_BYTES_MAX = 4096
LEFT_OVER_BYTES_MAX = 1 << 18
CONNECTION_TIMEOUT_S = 5.0
BREATH_S = 0.1
"""What it waits when no connection can be taken, because the process has too many files open."""

Answer: TypeAlias = tuple[HTTPStatus, Mapping[str, Any]]
Reporter: TypeAlias = Callable[[str, Mapping[str, str | int | float]], None]


def serve(
    board: HealthBoard, settings: HealthSettings, report: Reporter, *, version_file: str | None = None
) -> "HealthServer | None":
    """The endpoint that the settings ask for; None if they ask for none, or it cannot be had.

    Raises ConfigError if there is no such file.
    """
    info = info_of(version_file)
    if not settings.port:
        return None
    try:
        return HealthServer(board, info, settings.bind, settings.port)
    except OSError as error:
        address = f"{settings.bind}:{settings.port}"
        report("warning.health.port", {"address": address, "message": error.strerror or str(error)})
        return None


@dataclass(slots=True, eq=False)
class _Connection:
    """Reads a request, writes its answer, then waits until the other side has closed."""

    socket: socket.socket
    until_s: float
    received: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None


class HealthServer:
    """Answers from the moment it is made until `close`. Raises OSError if the port cannot be had."""

    def __init__(
        self, board: HealthBoard, info: Info, bind: str, port: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._board = board
        self._info = info
        self._clock = clock
        host = bind.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=CONNECTIONS_MAX)
        self._listening.setblocking(False)
        self._ears, self._bell = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        self._selector.register(self._ears, selectors.EVENT_READ, None)
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._over = threading.Event()
        self.address: tuple[str, int] = (bind, self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="scatterzmq-health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more answers. A second call changes nothing."""
        if not self._over.is_set():
            self._over.set()
            self._bell.send(b"!")
            self._thread.join(CONNECTION_TIMEOUT_S)
            self._bell.close()
            self._ears.close()

    # ---- the thread

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                for key, _ in self._selector.select(self._wait_s()):
                    if key.fileobj is self._listening:
                        self._accept()
                    elif isinstance(key.data, _Connection) and key.data in self._connections:
                        self._go_on(key.data)
                self._expire()
        finally:
            for connection in list(self._connections):
                self._drop(connection)
            self._listening.close()
            self._selector.close()

    def _wait_s(self) -> float | None:
        oldest = next(iter(self._connections), None)
        return None if oldest is None else max(0.0, oldest.until_s - self._clock())

    def _expire(self) -> None:
        now_s = self._clock()
        for connection in [one for one in self._connections if one.until_s <= now_s]:
            self._drop(connection)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listening.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            self._over.wait(BREATH_S)
            return
        accepted.setblocking(False)
        if len(self._connections) >= CONNECTIONS_MAX:
            self._drop(next(iter(self._connections)))
        connection = _Connection(accepted, self._clock() + CONNECTION_TIMEOUT_S)
        self._connections[connection] = None
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _go_on(self, connection: _Connection) -> None:
        try:
            is_over = self._read(connection) if not connection.answer else self._write(connection)
        except BlockingIOError:
            return
        except OSError:
            is_over = True
        if is_over:
            self._drop(connection)

    def _read(self, connection: _Connection) -> bool:
        """True when there is nothing more to come."""
        read = connection.socket.recv(REQUEST_BYTES_MAX)
        if not read:
            return True
        connection.received += read
        if connection.answer is not None:
            # It was answered; what else it says must be taken, or the answer is lost on its way. Within reason.
            return len(connection.received) > LEFT_OVER_BYTES_MAX
        answer = self._answer_to(bytes(connection.received))
        if answer is None:
            return False
        connection.answer = memoryview(answer)
        self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
        return self._write(connection)

    def _write(self, connection: _Connection) -> bool:
        assert connection.answer is not None
        connection.answer = connection.answer[connection.socket.send(connection.answer) :]
        if not connection.answer:
            connection.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
        return False

    # ---- answers

    def _answer_to(self, received: bytes) -> bytes | None:
        """All bytes of the answer; None while the request is not complete."""
        head, end, _ = received.replace(b"\r\n", b"\n").partition(b"\n\n")
        if not end:
            if len(received) < REQUEST_BYTES_MAX:
                return None
            return _encoded(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _said("expected a short request"), b"")
        method, _, rest = head.partition(b"\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not (version.startswith(b"HTTP/1.") and target.startswith(b"/")):
            return _encoded(HTTPStatus.BAD_REQUEST, _said("expected a request such as GET /healthz HTTP/1.1"), b"")
        route = _ROUTES.get(target.partition(b"?")[0])
        if route is None:
            return _encoded(HTTPStatus.NOT_FOUND, _said(f"there are {_PATHS}"), method)
        if method not in (b"GET", b"HEAD"):
            return _encoded(HTTPStatus.METHOD_NOT_ALLOWED, _said("expected GET or HEAD"), method)
        return _encoded(*route(self._board, self._info), method)


def _healthz(board: HealthBoard, _: Info) -> Answer:
    silence_s = board.silence_s()
    if silence_s <= SILENCE_MAX_S:
        return HTTPStatus.OK, {"status": "ok"}
    return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "silent", "reasons": [f"no answer for {silence_s:.0f} s"]}


def _readyz(board: HealthBoard, info: Info) -> Answer:
    status, said = _healthz(board, info)
    if status is not HTTPStatus.OK:
        return status, said
    missing = board.health.missing()
    if missing:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready", "reasons": list(missing)}
    return HTTPStatus.OK, {"status": "ready"}


def _info(board: HealthBoard, info: Info) -> Answer:
    return HTTPStatus.OK, {**asdict(info), "executors": board.health.executors}


def _said(error: str) -> Mapping[str, Any]:
    return {"error": error}


_ROUTES: Mapping[bytes, Callable[[HealthBoard, Info], Answer]] = MappingProxyType(
    {b"/healthz": _healthz, b"/readyz": _readyz, b"/api/info": _info}
)
_PATHS = ", ".join(path.decode() for path in _ROUTES)


def _encoded(status: HTTPStatus, content: Mapping[str, Any], method: bytes) -> bytes:
    body = json.dumps(content).encode() + b"\n"
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == b"HEAD" else body)
