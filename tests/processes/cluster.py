"""Peers as processes of their own: started, killed, halted and ended by the tests, and none left behind."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
"""Only matters when something is wrong."""
NODES = Path(__file__).parent
ROOT = NODES.parent.parent
NAP = "benchmarks.demo_nap"
"""Kind of a node that takes its time, and writes down what it begins."""
Json = dict[str, Any]


class RealPeer:
    """One process. log: its events so far. address, id: known once it has started.

    args: as for the command. at: what to put before it to run it on another host. folder: where it runs.
    """

    def __init__(self, args: Sequence[str], *, at: Sequence[str] = (), folder: Path | None = None) -> None:
        command = [*at, sys.executable, "-m", "scatterzmq", "peer", "--json", "--end-with-parent", *args]
        paths = [str(NODES), str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.args = list(args)
        self.log: list[Json] = []
        self.errors: list[str] = []
        self._news: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
        self._more = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,
            cwd=folder,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()
        started = self.wait_for_event("tally.peer.start")
        self.address: str = started["context"]["address"]
        self.id: str = started["context"]["peer"]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def has_said(self, name: str) -> bool:
        """Whether there has been an event of that name."""
        return any(event["event"] == name for event in self.log)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds of its log."""
        with self._more:
            if not self._more.wait_for(holds, TIMEOUT_S):
                raise AssertionError(f"{what} in vain; it said {self.log[-20:]} {self.errors[-20:]}")

    def met(self) -> set[str]:
        """Ids of all peers that it has ever had as members."""
        return {event["context"]["peer"] for event in self.log if event["event"] == "peer.join"}

    def wait_for_event(self, name: str, fits: Callable[[Json], bool] = lambda _: True) -> Json:
        """The next event of that name, or one that was there already and has not been waited for."""
        until_s = time.monotonic() + TIMEOUT_S
        while True:
            try:
                event = self._news.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                event = None
            if event is None:
                raise AssertionError(f"no {name} of a peer; it said {self.log[-20:]} {self.errors[-20:]}")
            if event["event"] == name and fits(event):
                return event

    def kill(self) -> None:
        """As the power would."""
        self._signal(signal.SIGKILL)
        self._process.wait(TIMEOUT_S)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._signal(signal.SIGINT)

    def halt(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait(TIMEOUT_S)

    def children(self) -> list[int]:
        """Pids of its executors."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def close(self) -> None:
        """End it if it still runs, and everything that was held of it."""
        if self.running:
            self.go_on()
            self.terminate()
            try:
                self._process.wait(TIMEOUT_S / 2)
            except subprocess.TimeoutExpired:
                self.kill()
        for reader in self._readers:
            reader.join(TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            with self._more:
                self.log.append(event)
                self._more.notify_all()
            self._news.put(event)
        self._news.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self.errors += [line.decode(errors="replace").rstrip() for line in self._process.stderr]


class RealCluster:
    """Several peers at loopback that know each other."""

    def __init__(self, *args: str) -> None:
        self._args = args
        self.peers: list[RealPeer] = []

    def add(self, *more: str, port: int = 0, allow: Sequence[str] = ("nodes", NAP)) -> RealPeer:
        """One more peer, which joins those that are there. port: to come back where it was. allow: its plug-ins."""
        joins = [word for peer in self.peers if peer.running for word in ("--join", peer.address)]
        allowed = [word for module in allow for word in ("--allow", module)]
        peer = RealPeer(["--no-zeroconf", "--port", str(port), *allowed, *self._args, *joins, *more])
        self.peers.append(peer)
        return peer

    @property
    def addresses(self) -> list[str]:
        return [peer.address for peer in self.peers if peer.running]

    def until_joined(self) -> None:
        """Wait until every peer that runs has met all others, and has an executor: before that it does no work."""
        running = [peer for peer in self.peers if peer.running]
        ids = {peer.id for peer in running}
        for peer in running:
            peer.until(lambda peer=peer: ids - {peer.id} <= peer.met(), "waited for members")  # type: ignore[misc]
            peer.until(lambda peer=peer: peer.has_said("tally.executor.start"), "waited for an executor")  # type: ignore[misc]

    def close(self) -> None:
        for peer in self.peers:
            if peer.running:
                peer.go_on()
                peer.terminate()
        for peer in self.peers:
            peer.close()


@contextmanager
def real_cluster(count: int, *args: str) -> Iterator[RealCluster]:
    """So many peers that know each other, each with an executor that is ready."""
    cluster = RealCluster(*args)
    try:
        for _ in range(count):
            cluster.add()
        cluster.until_joined()
        yield cluster
    finally:
        cluster.close()


def begun_in(diary: Path) -> list[tuple[float, int, int]]:
    """(when, task, pid) of each begin that naps have written down; a line that is just being written is left out."""
    lines = diary.read_text().splitlines(keepends=True) if diary.exists() else []
    return [
        (float(time_s), int(number), int(pid))
        for time_s, number, pid in [line.split() for line in lines if line.endswith("\n")]
    ]


def chain(kind: str, args: Json | None = None, *, ns: str = "main", steps: int = 1, **keys: Any) -> Json:
    """Nodes of one kind one after another, on one whole number."""
    value = {"value": ["long", []]}
    nodes = [
        {
            "name": f"n{at}",
            "kind": kind,
            "args": args or {},
            "vmap": {"value": f"n{at - 1}:value" if at else ":value"},
            "outs": {"out": f"n{at + 1}" if at < steps - 1 else None},
            **keys,
        }
        for at in range(steps)
    ]
    graph = {
        "name": "main",
        "input": "n0",
        "input_format": value,
        "output_format": value,
        "vmap": {"value": f"n{steps - 1}:value"},
        "nodes": nodes,
    }
    return {"ns": ns, "entry": "main", "graphs": [graph]}
