"""The embedded cluster: `scatterzmq.local()` starts a peer in this process and gives a client of it.

The peer is the same core and driver as everywhere; its executors are threads, or the caller's own thread while it
waits (`executor.kind` "inline", so that a debugger works in nodes).
"""

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from shutil import rmtree
from sys import maxsize
from tempfile import mkdtemp
from threading import TIMEOUT_MAX
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .client.client import Client
from .client.endings import end_with
from .client.link import BlobWriter, Inbox, Link, Member
from .core.messages import ResultRead, Submit, ToPeer
from .core.outbox import told_per_task
from .core.peer import PeerCore
from .driver import At, ClientJoined, ClientLeft, Driver, Incoming, Posted
from .errors import ClusterError, ConfigError
from .eventstream import Event, event_stream
from .execute.blobs import BlobStore
from .execute.device import parse_device
from .execute.output import NodeOutput
from .execute.pool import Pool
from .execute.store import PayloadStore
from .execute.threads import ThreadExecutor
from .execute.work import Done
from .ids import ClientId, PeerId, TaskId
from .plugins import node_strategy, queue_strategy
from .settings import Settings
from .wire.columns import Column

if TYPE_CHECKING:
    from .neighbours import Neighbours
    from .processes import LocalPeers

_CONNECT_S = 30.0
"""For peers of this machine to answer, which have just said that they are there."""

_SHORT_NAMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "batch_size": ("executor", "batch_size"),
        "executors": ("executor", "count"),
        "device": ("executor", "device"),
        "store_bytes": ("store", "bytes"),
        "inline_bytes": ("store", "inline_bytes"),
        "cache": ("cache", "enabled"),
        "max_retries": ("tasks", "max_retries"),
        "strategy": ("strategy", "node"),
        "plugins": ("plugins", "allow"),
    }
)
"""Arguments of `local` that stand for one setting."""


def local(
    peers: int = 1,
    *,
    processes: bool = False,
    executors: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    store_bytes: int | None = None,
    inline_bytes: int | None = None,
    cache: bool | None = None,
    max_retries: int | None = None,
    strategy: str | None = None,
    plugins: Sequence[str] | None = None,
    **config: Any,
) -> Client:
    """Start an embedded cluster. Returns its client; closing the client (or leaving `with`) ends the cluster.

    peers: so many peers share the work; each has executors and stores of its own, and results are kept on two of them.
    processes: each peer is a process of its own (and each of its executors another one), which takes seconds to start
    but none of them can end this one; they end with it.
    executors: how many batches a peer may run at once. device: where they run. plugins: modules that graphs may use.
    strategy: of nodes. Any other setting is given as section_key=value (`tasks_result_ttl_s=60.0`) or as a whole
    section (`store={"mode": "time"}`); see settings.py. Raises ConfigError.
    """
    given = {
        "executors": executors,
        "batch_size": batch_size,
        "device": device,
        "store_bytes": store_bytes,
        "inline_bytes": inline_bytes,
        "cache": cache,
        "max_retries": max_retries,
        "strategy": strategy,
        "plugins": plugins,
    }
    config |= {name: value for name, value in given.items() if value is not None}
    if isinstance(peers, bool) or not isinstance(peers, int) or peers < 1:
        raise ConfigError(f"local: peers: expected a whole number of at least 1, got {peers!r}")
    if peers == 1:
        config.setdefault("cluster_replicas", 1)  # nobody else could keep a copy
    settings = _settings(config, "process" if processes else "thread")
    if peers > settings.cluster.peers_max:
        raise ConfigError(
            f"local: peers: expected at most {settings.cluster.peers_max} (cluster.peers_max), got {peers}"
        )
    if processes:
        return _in_processes(settings, peers)
    peer = _Peer(settings, peers)
    peer.start()
    client = Client(peer.connect, window=settings.tasks.window, on_close=peer.close)
    end_with(client, peer)
    return client


def _in_processes(settings: Settings, count: int) -> Client:
    """The client of peers in processes of their own. Events of theirs go to listeners here."""
    from .processes import LocalPeers
    from .remote import connected

    node_strategy(settings), queue_strategy(settings), parse_device(settings.executor.device)  # what can be said here
    with ExitStack() as started:
        events = event_stream(settings, complain=_complain)
        started.callback(events.close)
        if settings.blobs.dir is None:  # one for all of them; a peer that is killed removes nothing
            folder = mkdtemp(prefix="scatterzmq-")
            started.callback(rmtree, folder, ignore_errors=True)
            settings = replace(settings, blobs=replace(settings.blobs, dir=folder))

        def told(event: Event) -> None:
            events.emit(event.name, event.context, source=event.source)

        peers = LocalPeers(settings, count, told)
        started.callback(peers.close)
        peers.start()
        ending = _Ending(peers, started.pop_all())
    try:
        client = connected(
            peers.addresses,
            cluster=settings.cluster.name,
            timeout_s=_CONNECT_S,
            window=settings.tasks.window,
            outbox_bytes=settings.network.outbox_bytes,
            on_close=ending.close,
        )
    except BaseException:
        ending.close()
        raise
    end_with(client, ending)
    return client


class _Ending:
    """What ends the peers of a client in processes of their own, and all that goes with them."""

    def __init__(self, peers: "LocalPeers", stack: ExitStack) -> None:
        self._stack = stack
        self._process = os.getpid()

    def close(self) -> None:
        if self._process == os.getpid():
            self._stack.close()

    def release(self) -> None:
        """As `close`, without waiting. Meanwhile the process may end: the peers see that, too."""
        threading.Thread(target=self.close, name="scatterzmq-peers-end", daemon=True).start()


def _settings(config: Mapping[str, Any], kind: str) -> Settings:
    """kind: of executors, unless the configuration says another one."""
    sections: dict[str, dict[str, Any]] = {
        "blobs": {"packages": ("*",)},
        "events": {"listeners": ()},
        "executor": {"kind": kind},
    }
    known = set(Settings.__dataclass_fields__)
    for name, value in config.items():
        section, _, key = name.partition("_")
        if name in _SHORT_NAMES and not isinstance(value, Mapping):
            section, key = _SHORT_NAMES[name]
            sections.setdefault(section, {})[key] = value
        elif name in known:
            if not isinstance(value, Mapping):
                raise ConfigError(f"local: {name}: expected a section of settings such as {{...}}, got {value!r}")
            sections.setdefault(name, {}).update(value)
        elif section in known and key:
            sections.setdefault(section, {})[key] = value
        else:
            names = ", ".join(sorted({*_SHORT_NAMES, *known}))
            raise ConfigError(f"local: unknown argument {name!r}; known are {names}, and section_key for any setting")
    settings = Settings.of(sections, "local")
    possible = ("process", "thread") if kind == "process" else ("thread", "inline")
    if settings.executor.kind not in possible:
        given = settings.executor.kind
        raise ConfigError(
            f"local: executor.kind: expected {' or '.join(possible)} with processes={kind == 'process'}, got {given!r}"
        )
    if settings.journal.mode != "off":
        raise ConfigError(f"local: journal.mode: {settings.journal.mode!r}: an embedded cluster keeps nothing on disk")
    if settings.health.port:
        raise ConfigError(f"local: health.port: {settings.health.port}: an embedded cluster has no health endpoint")
    if settings.events.record is not None:
        raise ConfigError(f"local: events.record: {settings.events.record}: only `scatterzmq peer` is recorded")
    return settings


class _Peer:
    """An embedded peer. `inline`: no thread of its own; whoever waits runs it through the link's `pump`.

    One thread at a time drives it: its own, or an executor's that is idle or has just posted a result and can go on
    with the next batch at once: a lone task crosses two threads instead of three. Who finds another one driving leaves
    what it posted to that one, which looks again before it goes. Clients' threads never drive: Ctrl-C could interrupt
    them anywhere.
    Whatever ends it, its own thread cleans up after it: so it may be closed from any thread, nodes' too.
    """

    def __init__(self, settings: Settings, count: int = 1) -> None:
        self._process = os.getpid()
        self.inline = settings.executor.kind == "inline"
        self._inbox: SimpleQueue[Any] = SimpleQueue()  # of what the driver takes
        self._reads = _Reads(self._inbox)
        self._inboxes: dict[ClientId, Inbox] = {}
        self._driving = threading.Lock()
        self._driving_thread = 0
        self._bell = _Bell()
        self._alarm_s = 0.0
        self._over = ""
        folder = settings.blobs.dir
        self.blobs = BlobStore(None if folder is None else Path(folder), settings.blobs.packages)
        self._events = event_stream(settings, complain=_complain)
        # Inline, prints stay what they are: a debugger's, too.
        self._output = NodeOutput() if self._events.wants("output.node") and not self.inline else None
        self._pool: Pool | Neighbours
        self._driver: Driver | Neighbours
        try:
            self._make(settings, count)
        except BaseException:
            self._events.close()
            raise
        self._thread = threading.Thread(target=self._run, name="scatterzmq-peer", daemon=True)

    def _make(self, settings: Settings, count: int) -> None:
        errand = None if self.inline else self._roused
        report = self._events.emit if settings.events.listeners else None
        wants = self._events.wants
        if count == 1:
            id_ = PeerId("P" + os.urandom(16).hex())
            self.members: Sequence[Member] = (Member(id=id_, name="local", status="alive"),)
            self._pool = Pool(settings, self.blobs, self._answered, errand, report=report, output=self._output)
            strategies = node_strategy(settings), queue_strategy(settings)
            core = PeerCore(
                id_,
                settings,
                node_strategy=strategies[0],
                queue_strategy=strategies[1],
                static=True,
                tells=told_per_task(wants),
            )
            store = PayloadStore(settings.store, id_)
            self._driver = Driver(core, store, self._pool, report=report, wants=wants, counted=self._counted)
        else:
            from .neighbours import Neighbours  # with the code of the wire, which a lone peer never needs

            neighbours = Neighbours(
                *(settings, count, self.blobs, self._answered, errand),
                emit=report,
                wants=wants,
                counted=self._counted,
                output=self._output,
            )
            self._driver = self._pool = neighbours
            self.members = neighbours.members

    def _counted(self) -> Mapping[str, int]:
        return {"events_dropped": self._events.dropped()}

    def start(self) -> None:
        if self._output is not None:
            self._output.install()
        if self.inline:
            self._driver.start()
        else:
            self._thread.start()

    def connect(self, inbox: Inbox) -> Link:
        """The way of one client to this peer."""
        client = ClientId("C" + os.urandom(16).hex())
        self._inboxes[client] = inbox
        self.post(ClientJoined(client=client, deliver=inbox))
        return (_InlineLink if self.inline else _Link)(self, client)

    def post(self, posted: Posted) -> None:
        """Hand something to the peer's thread. Raises ClusterError when there is none any more."""
        if self._over:
            raise ClusterError(self._over)
        if self._process != os.getpid():
            raise ClusterError("this process was forked off and has no peer: use scatterzmq.local() in here")
        if isinstance(posted, Incoming):
            if isinstance(posted.message, ResultRead):
                self._reads.add(posted.sender, posted.message.ids)
                return
            if not isinstance(posted.message, Submit):
                self._reads.tell()
        self._inbox.put(posted)
        self._call_somebody()

    def _call_somebody(self) -> None:
        """Something was posted: see that a thread takes it in.

        Who drives looks again before it goes. Else an executor that is idle is best, as it can run at once the batch
        that may come of it. It becomes busy, or is replaced, only by somebody who drives, and so looks again as well.
        """
        if not (self._driving.locked() or self._pool.rouse()):
            self._bell.ring()

    def _answered(self, posted: Posted | At) -> None:
        """From an executor's thread, which goes on as the peer's once it is through with its batch."""
        self._inbox.put(posted)
        done = posted.posted if isinstance(posted, At) else posted
        if isinstance(done, Done) and not self.inline:
            self._drive(items_max=_ITEMS_PER_RESULT)
        else:
            self._bell.ring()

    def _roused(self, executor: ThreadExecutor) -> None:
        """In the thread of an executor that was idle."""
        self._drive(executor)

    def leave(self, client: ClientId) -> None:
        if self._inboxes.pop(client, None) is not None:
            self._reads.tell()
            self._inbox.put(ClientLeft(client=client))
            self._call_somebody()

    def pump(self, timeout_s: float | None) -> bool:
        """Do one piece of work in the caller's thread: take in what was posted, else run a batch, else wait."""
        if self._inbox.empty() and self._pool.run_pending():
            return True
        times = [time for time in (timeout_s, self._driver.wait_s()) if time is not None]
        try:
            posted = self._inbox.get(timeout=min(times, default=None))
        except Empty:
            posted = None
        try:
            if posted is not None:
                self._driver.take(posted)
            self._driver.tick()
        except BaseException as error:
            self._fail(error)
            raise
        return posted is not None

    def close(self) -> None:
        """End everything; what is under way is dropped. Waits for the end, but not in a thread that it waits for."""
        self.release()
        if not self.inline and threading.get_ident() not in (self._thread.ident, self._driving_thread):
            self._thread.join(2 * _STOP_TIMEOUT_S)

    def release(self) -> None:
        """As `close`, without waiting for anything that runs."""
        self._over = self._over or "the embedded cluster is closed; start another with scatterzmq.local()"
        if not self.inline:
            self._bell.ring()
        elif self._process == os.getpid():
            self._clean_up()

    def _clean_up(self) -> None:
        self._pool.stop(_STOP_TIMEOUT_S)
        if self._output is not None:
            self._output.remove()
        self._driver.stopped()
        self.blobs.close()
        self._events.close()

    def _fail(self, error: BaseException) -> None:
        """The last line of defence: neither a bug of ours nor a callback that exits may leave anybody waiting."""
        self._over = f"the embedded peer failed: {type(error).__name__}: {error}; please report this"
        for inbox in list(self._inboxes.values()):
            inbox.lost(self._over)
        self._bell.ring()

    def _run(self) -> None:
        """The peer's thread: take in whatever is posted until it is over."""
        try:
            with self._driving:
                self._driver.start()
            while not self._over:
                self._drive(due=monotonic() >= self._alarm_s)
                self._bell.wait(self._alarm_s)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            with self._driving:  # whoever drives sees that it is over; nobody begins to
                self._clean_up()

    def _drive(self, executor: ThreadExecutor | None = None, *, due: bool = False, items_max: int = maxsize) -> None:
        """Take in all that is posted, unless another thread is at it.

        executor: whose thread this is; with a batch it has other work, and leaves the rest to the peer's own thread.
        due: do what the clock asks for, too, after that other thread if need be.
        items_max: leave the rest to the peer's own thread after so many, for the same reason.
        """
        inbox = self._inbox
        while (due or not inbox.empty()) and not self._over and self._driving.acquire(blocking=due):
            self._driving_thread = threading.get_ident()
            try:
                while items_max and not (inbox.empty() or self._over):
                    items_max -= 1
                    self._driver.take(inbox.get_nowait())
                    if executor is not None and executor.busy:
                        items_max = 0
                if due:
                    due = False
                    self._driver.tick()
                    self._alarm_s = inf
                self._plan_alarm()
            except BaseException as error:
                self._fail(error)
                raise
            finally:
                self._driving_thread = 0
                self._driving.release()
            if not items_max:
                if not inbox.empty():
                    self._bell.ring()
                return

    def _plan_alarm(self) -> None:
        """Have the peer's own thread wake up when something is due by the clock; it may find that nothing is."""
        due_s = self._driver.due_s()
        if due_s < self._alarm_s:
            self._alarm_s = due_s
            if self._driving_thread != self._thread.ident:
                self._bell.ring()


def _complain(line: str) -> None:
    """A listener of events is switched off."""
    warnings.warn(line, RuntimeWarning, stacklevel=2)


class _Reads:
    """What clients have read, and the driver has not been told yet. It changes nothing but a status, so it is told
    before whatever might show that, or when there is much of it: no task has to wait for what was read before it.
    """

    def __init__(self, inbox: "SimpleQueue[Any]") -> None:
        self._inbox = inbox
        self._lock = threading.Lock()  # nobody's question comes before what another thread is about to tell
        self._ids: dict[ClientId, list[TaskId]] = {}

    def add(self, client: ClientId, ids: Sequence[TaskId]) -> None:
        with self._lock:
            read = self._ids.setdefault(client, [])
            read.extend(ids)
            is_much = len(read) >= _READS_MAX
        if is_much:
            self.tell()

    def tell(self) -> None:
        with self._lock:
            for client, read in self._ids.items():
                self._inbox.put(Incoming(sender=client, message=ResultRead(ids=tuple(read)), columns={}))
            self._ids.clear()


_READS_MAX = 256
"""So many results that one client has read are told at the latest."""


class _Bell:
    """Wakes one thread. Rung twice, it wakes it once; rung before anybody waits, it is heard."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        # Two may ring at once, but only one can end the silence.
        try:  # noqa: SIM105 -- suppress() costs four calls, and a lone task waits for this
            self._silence.release()
        except RuntimeError:
            pass

    def wait(self, until_s: float) -> None:
        """Wait for the bell, at most until then (by the monotonic clock; inf: for ever)."""
        wait_s = min(max(until_s - monotonic(), 0.0), TIMEOUT_MAX)
        self._silence.acquire(timeout=-1 if until_s == inf else wait_s)


_ITEMS_PER_RESULT = 16
"""How much an executor takes in for the peer after a batch, while it may have its next batch already."""

_STOP_TIMEOUT_S = 5.0
"""How long closing waits for a batch that runs; a thread that does not come back is left behind (it is a daemon)."""


class _Link:
    """One client's way to the embedded peer: objects are handed over as they are."""

    def __init__(self, peer: _Peer, client: ClientId) -> None:
        self._peer = peer
        self._client = client

    def send(self, message: ToPeer, columns: Mapping[str, Column], /) -> None:
        self._peer.post(Incoming(sender=self._client, message=message, columns=columns))

    def close(self) -> None:
        self._peer.leave(self._client)

    def open_blob(self, name: str, /) -> BlobWriter:
        return self._peer.blobs.open_blob(name)

    def peers(self) -> Sequence[Member]:
        return self._peer.members

    def healthcheck(self) -> tuple[str, str, int] | None:
        return None


class _InlineLink(_Link):
    def pump(self, timeout_s: float | None, /) -> bool:
        return self._peer.pump(timeout_s)
