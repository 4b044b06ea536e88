"""Peers of this machine as processes of their own, started and ended from here.

Purpose   What `scatterzmq.local(processes=True)` runs on: some times `scatterzmq peer`, joined to one cluster.
Rules     1. None outlives whoever started it. The stdin of each is a pipe from here, and it leaves at the end of that.
          2. Closing asks them to leave, then to go at once, then kills them.
          3. Settings go by a file that only this user can read, and that is gone when all have started. The settings in
             the environment are for others: these peers have all of theirs from whoever starts them.
          4. Whatever they print is read, or they would stand still. The last complaints are kept: where a peer does not
             start, they are the reason.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from time import monotonic, time
from typing import IO, TypeAlias

from .config import PREFIX
from .errors import ClusterError
from .eventstream import Context, Event
from .settings import NetworkSettings, Settings

START_S = 120.0
"""How long a peer may take to start, which is mostly importing: more than any machine needs."""
LEAVE_S = 3.0
"""How long peers may take to leave, which is a goodbye when nothing runs; what does is dropped with them."""
GO_S = 8.0
"""How long they may take to end their executors, then."""
COMPLAINTS_MAX = 20
"""Lines of stderr that are kept of a peer, and cut at LINE_CHARS_MAX."""
LINE_CHARS_MAX = 500

_STARTED, _JOINED = "tally.peer.start", "peer.join"

Told: TypeAlias = Callable[[Event], None]
"""Gets what happens in a peer, in a thread of that peer. `source` is the peer's name."""


class StartedPeer:
    """One process. id, address: "" until it has started. joined: the peers that it has met so far.
    is_over: it has ended, and everything it said has been read.

    news: notified at everything that is new of it. told: gets its events.
    """

    def __init__(self, name: str, args: Sequence[str], news: threading.Condition, told: Told | None) -> None:
        self.name = name
        self.id = ""
        self.address = ""
        self.joined: set[str] = set()
        self.is_over = False
        self._is_ending = False
        self._news = news
        self._told = told
        self._complaints: deque[str] = deque(maxlen=COMPLAINTS_MAX)
        self._process = subprocess.Popen(  # noqa: S603 -- it is ourselves
            [*_command(), "--json", "--end-with-parent", "--name", name, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in this terminal is for this process, which then ends them in order
        )
        self._reading_errors = threading.Thread(target=self._read_errors, name="scatterzmq-peer-errors", daemon=True)
        self._reading = threading.Thread(target=self._read, name="scatterzmq-peer-events", daemon=True)
        self._reading_errors.start()
        self._reading.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """Why it does not run: its own last words, or its exit code."""
        code = self._process.poll()
        last = [line.removeprefix(f"{__package__}: ") for line in self._complaints if line.strip()]
        return last[-1] if last else f"it ended with exit code {code}"

    def ask_to_leave(self) -> None:
        """Asked twice it goes at once."""
        self._is_ending = True
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, until_s: float) -> None:
        """Wait for its end, up to that time of the monotonic clock."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until_s - monotonic()))

    def close(self) -> None:
        """Let go of an ended one."""
        self._reading.join()
        self._reading_errors.join()

    # ---- in threads of their own

    def _read(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdin, self._process.stdout as stream:
            for line in stream:
                self._take(line)
            self._reading_errors.join()
            self._process.wait()
        if self._told is not None and self.address and not self._is_ending:
            self._told(_event("error.peer.ended", self.name, {"peer": self.id, "message": self.said()}))
        with self._news:
            self.is_over = True
            self._news.notify_all()

    def _take(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            event = _event(said["event"], self.name, said["context"], said["clock_ms"])
        except (ValueError, LookupError, TypeError, AttributeError):
            self._complaints.append(_shortened(line))  # a library that prints
            return
        if event.name == _STARTED:
            self.id, self.address = str(event.context["peer"]), str(event.context["address"])
        elif event.name == _JOINED:
            self.joined.add(str(event.context["peer"]))
        with self._news:
            self._news.notify_all()
        if self._told is not None:
            self._told(event)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            _keep_lines(stream, self._complaints)


class LocalPeers:
    """So many peers with the same settings, on loopback, that know each other once `start` is through.

    told: gets what happens in them, from several threads. Has to be closed, whatever happens.
    """

    def __init__(self, settings: Settings, count: int, told: Told | None = None) -> None:
        self.peers: list[StartedPeer] = []
        self._settings = _for_processes(settings)
        self._count = count
        self._told = told
        self._news = threading.Condition()
        self._closing = threading.Lock()
        self._pid = os.getpid()

    @property
    def addresses(self) -> list[str]:
        """Of those that run."""
        return [peer.address for peer in self.peers if peer.address and peer.is_running]

    def start(self) -> None:
        """Start them all, and wait until each has met each. Raises ClusterError, in the words of the peer."""
        until_s = monotonic() + START_S
        with ExitStack() as failed:
            failed.callback(self.close)
            with _file_of(self._settings) as file:
                for number in range(self._count):
                    # The first is joined by all others, which start at the same time.
                    join = ["--join", self.peers[0].address] if number else []
                    args = ["--config", file, *join]
                    self.peers.append(StartedPeer(f"local-{number}", args, self._news, self._told))
                    if not number:
                        self._wait(until_s, lambda peer: bool(peer.address))
                self._wait(until_s, lambda peer: bool(peer.address))
            self._wait(until_s, lambda peer: len(peer.joined) >= self._count - 1)
            failed.pop_all()

    def close(self) -> None:
        """End them all. Waits for it, from any thread; nothing happens the second time, or in a forked process."""
        if self._pid != os.getpid():
            return
        with self._closing:
            for limit_s in (LEAVE_S, GO_S):
                running = [peer for peer in self.peers if peer.is_running]
                for peer in running:
                    peer.ask_to_leave()
                until_s = monotonic() + limit_s
                for peer in running:
                    peer.wait(until_s)
            for peer in self.peers:
                peer.kill()
            for peer in self.peers:
                peer.close()

    def _wait(self, until_s: float, is_so: Callable[[StartedPeer], bool]) -> None:
        """Until something holds for all. Raises ClusterError if one ends before, or it takes too long."""
        with self._news:
            for number, peer in enumerate(self.peers):
                while not is_so(peer):
                    where = f"peer {number + 1} of {self._count}"
                    if peer.is_over:
                        raise ClusterError(f"local: {where} did not start: {peer.said()}")
                    if not self._news.wait(until_s - monotonic()):
                        raise ClusterError(f"local: {where} did not start in {START_S:g} s; is the machine busy?")


def _for_processes(settings: Settings) -> Settings:
    """They are for nobody else, and the events that are waited for here are told, whatever else is not."""
    wanted = tuple(f"!{name}" for name in (_STARTED, _JOINED))
    return replace(
        settings,
        network=NetworkSettings(
            port=0,
            zeroconf=False,
            outbox_bytes=settings.network.outbox_bytes,
            message_bytes=settings.network.message_bytes,
            partial_bytes=settings.network.partial_bytes,
            batch_bytes=settings.network.batch_bytes,
        ),
        events=replace(settings.events, disable=(*settings.events.disable, *wanted)),
    )


@contextmanager
def _file_of(settings: Settings) -> Iterator[str]:
    """The settings as a file that only this user can read, for the length of the block."""
    handle, path = tempfile.mkstemp(prefix="scatterzmq-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(settings), file)
        yield path
    finally:
        os.unlink(path)


def _command() -> list[str]:
    return [sys.executable, "-P", "-m", __package__, "peer"]


def _environment() -> dict[str, str]:
    """Of this process, without settings; modules are found as here, plug-ins above all."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def _event(name: str, source: str, context: Context, clock_ms: int | None = None) -> Event:
    """clock_ms: all processes of a machine have the same clock."""
    now_ms = int(monotonic() * 1000) if clock_ms is None else clock_ms
    return Event(name=name, time_ms=int(time() * 1000), clock_ms=now_ms, source=source, context=context)


def _keep_lines(stream: IO[bytes], kept: "deque[str]") -> None:
    for line in stream:
        kept.append(_shortened(line))


def _shortened(line: bytes) -> str:
    return line[:LINE_CHARS_MAX].decode(errors="replace").rstrip()
