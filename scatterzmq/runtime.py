"""A peer as a process of its own: put together from its settings, run, and ended in order.

Purpose   The one place that knows all the parts of a peer: core, driver, sockets, children, journal, discovery, events.
Rules     1. One thread, the process's main one, runs the reactor: sockets, the core, whatever children say. The journal
             and discovery have threads of their own and hand over what they have with `Reactor.call`.
          2. Whatever is started is ended, in the opposite order, however the peer ends.
          3. Nothing is decided here about tasks or members.
"""

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Protocol

from .blobs.service import BlobService
from .core.events import GraphChecked, LeaveRequested, PeerSeen
from .core.messages import Contact, GraphLoaded, GraphRefused, LoadGraph, Release, ToClient
from .core.outbox import told_per_task
from .core.peer import PeerCore
from .driver import ClientJoined, Driver, Executors, Incoming, Posted
from .errors import ConfigError
from .execute.blobs import BlobStore
from .execute.children import ChildPool
from .execute.device import named_device
from .execute.memory import FreedMemory
from .execute.output import NodeOutput
from .execute.pool import Pool
from .execute.store import PayloadStore
from .execute.threads import ThreadExecutor
from .health import Health, HealthBoard, serve
from .ids import ClientId, PeerId
from .net.discovery import Discovery
from .net.interfaces import advertised
from .net.links import PeerLinks, listen
from .net.reactor import Reactor
from .plugins import node_strategy, queue_strategy
from .settings import Settings
from .wire.columns import Column

if TYPE_CHECKING:
    from .journal import SqliteJournal

STOP_TIMEOUT_S = 5.0
"""How long children may take to end when the peer does."""
FILES_PER_PEER = 16
"""Sockets of two lanes each way, their monitors, and one for what is published."""
FILES_BESIDES = 4096
"""Children, journal, clients with two connections each, and everything else that is open."""
HEALTH_EVERY_S = 0.5
FREED_BYTES_KEPT = 256 << 20
"""Of memory that tensors were in, for the next ones."""
QUIET_S = 5.0
"""How often to look whether it is still of use."""
GOODBYE_S = 0.5
"""For the last words to leave."""
INCARNATION_BITS = 31
EXIT_LOST = 3


class Events(Protocol):
    """Where events go. From any thread."""

    def emit(self, name: str, context: Mapping[str, str | int | float], /) -> None:
        """A dotted name, and what it is about."""
        ...

    def wants(self, name: str, /) -> bool:
        """Whether anybody is told of events of this name."""
        ...

    def dropped(self) -> int:
        """How many nobody was told of, because there were too many."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFile:
    """A definition (JSON text) to be loaded at the start, and where it comes from."""

    source: str
    definition: str


class PeerProcess:
    """One peer. `run` returns when it has left; `contact` is how others reach it.

    events: gets them all. version_file: see health/info.py. Raises ConfigError for what cannot be set up.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        graphs: Sequence[GraphFile],
        events: Events,
        version_file: str | None = None,
    ) -> None:
        self._settings = settings
        self._events = events
        self._emit = events.emit
        self._lost: int | None = None
        self._unfit = ""
        self._is_leaving = False
        self._memory = FreedMemory(FREED_BYTES_KEPT)
        self._board = HealthBoard()
        with ExitStack() as started:
            self._health = serve(self._board, settings.health, events.emit, version_file=version_file)
            if self._health is not None:
                started.callback(self._health.close)
            self.reactor = Reactor()
            started.callback(self.reactor.close, GOODBYE_S)
            journal = self._open_journal(started)
            listening = listen(self.reactor, settings.network)
            self.contact = Contact(
                id=PeerId("P" + os.urandom(16).hex()) if journal is None else journal.peer,
                incarnation=_drawn_incarnation() if journal is None else journal.incarnation,
                address=str(advertised(settings.network, listening.port)),
                name=name,
                gossip_port=listening.gossip_port,
            )
            core = self._core(started)
            self.links = PeerLinks(self.reactor, listening, self.contact, settings, self._take, self._left)
            started.callback(self.links.close_all)
            pool = self._pool(started)
            self.driver = Driver(
                core,
                PayloadStore(settings.store, self.contact.id, 0 if journal is None else journal.incarnation),
                pool,
                report=events.emit,
                wants=events.wants,
                counted=self._counted,
                network=self.links,
                journal=journal,
            )
            self._discovery = Discovery(settings.network, self._warn_of_discovery)
            started.callback(self._discovery.close)
            self._graphs = graphs
            self._ending = started.pop_all()

    def run(self) -> int:
        """Be a peer until somebody asks it to leave. Returns the exit code: 0, or 3 if tasks were lost with it.

        Raises ConfigError if it has left because its settings ask for what this machine has not got.
        """
        with self._ending:
            self._make_room_for_files()
            self._look_after_memory()
            self.driver.start()
            self._load_graphs()
            self._discovery.start(self.contact, self._settings.cluster.name, self._seen)
            self._emit("tally.peer.start", {"peer": self.contact.id, "address": self.contact.address})
            if self._health is not None:
                self._look_after_health()
            self.reactor.run(self.driver.due_s, self.driver.tick)
            self.driver.stopped()
        if self._lost:
            self._emit("error.peer.lost", {"tasks": self._lost})
        self._emit("tally.peer.stop", {"peer": self.contact.id})
        if self._unfit:
            raise ConfigError(self._unfit)
        return EXIT_LOST if self._lost else 0

    def leave(self) -> None:
        """Hand everything over and go; asked twice, go at once. From any thread, and from signal handlers."""
        self.reactor.call(self._leave)

    def leave_at_end_of(self, file: int) -> None:
        """Leave when nobody holds the other end of this open file any more: whoever started the peer is gone."""

        def read() -> None:
            if not os.read(file, 4096):
                self.reactor.unwatch(file)
                self._leave()

        self.reactor.watch(file, read)

    # ---- inside, in the reactor's thread

    def _leave(self) -> None:
        if self._is_leaving:
            self.reactor.stop()
            return
        self._is_leaving = True
        self._after_blobs(LeaveRequested())

    def _after_blobs(self, posted: LeaveRequested | Incoming) -> None:
        """What makes this peer leave waits until others have the blobs that only it has; not for long."""

        def leave(lost: int) -> None:
            if lost:
                self._emit("warning.blobs.lost", {"blobs": lost})
            self.driver.take(posted)

        self._blobs.leave(leave)

    def _give_up(self, reason: str) -> None:
        """It will never have an executor: what it has been given meanwhile is for others."""
        self._unfit = reason
        if not self._is_leaving:
            self.reactor.call(self._leave)

    def _left(self, lost: int) -> None:
        self._lost = lost
        self.reactor.stop()

    def _take(self, posted: Posted) -> None:
        if isinstance(posted, Incoming) and isinstance(posted.message, Release):
            self._after_blobs(posted)
        else:
            self.driver.take(posted)

    def _take_answer(self, posted: Posted) -> None:
        if isinstance(posted, GraphChecked) and posted.plan is not None:
            self._blobs.keep(posted.plan.blobs)
        self._take(posted)

    def _make_room_for_files(self) -> None:
        """Without it a peer goes on with the links that it can have; somebody should know why."""
        needed = FILES_BESIDES + FILES_PER_PEER * self._settings.cluster.peers_max
        allowed = _raised_file_limit(needed)
        if allowed < needed:
            message = f"connections may fail: raise the hard limit of open files to {needed} (ulimit -Hn)"
            self._emit("warning.files", {"allowed": allowed, "needed": needed, "message": message})

    def _look_after_health(self) -> None:
        """Say how the peer is, from time to time: who does not say it any more hangs."""
        driver = self.driver
        health = Health(
            executors=driver.executors_count,
            is_restored=not driver.is_restoring,
            is_leaving=self._is_leaving or driver.is_leaving,
        )
        self._board.update(health)
        self.reactor.later(HEALTH_EVERY_S, self._look_after_health)

    def _look_after_memory(self) -> None:
        self._memory.look(self.links.counters["received_bytes"] + self.links.counters["sent_bytes"])
        self.reactor.later(QUIET_S, self._look_after_memory)

    def _load_graphs(self) -> None:
        """The peer is a client of its own for the definitions it was started with. An executor checks each first."""
        client = ClientId("C" + os.urandom(16).hex())
        self.driver.take(ClientJoined(client=client, deliver=self._graph_answered))
        for mid, graph in enumerate(self._graphs):
            message = LoadGraph(mid=mid, definition=graph.definition)
            self._emit("tally.graph.check", {"file": graph.source})
            self.driver.take(Incoming(sender=client, message=message, columns={}))

    def _graph_answered(self, message: ToClient, _columns: Mapping[str, Column]) -> None:
        if isinstance(message, GraphRefused):
            problems = "; ".join(message.problems)
            self._emit("warning.graph.refused", {"file": self._graphs[message.mid].source, "problems": problems})
        elif isinstance(message, GraphLoaded):
            context = {"file": self._graphs[message.mid].source, "ns": message.info.ns}
            self._emit("tally.graph.load", context)

    # ---- from other threads

    def _seen(self, address: str) -> None:
        self.reactor.call(partial(self._take, PeerSeen(address=address)))

    def _warn_of_discovery(self, message: str) -> None:
        self.reactor.call(partial(self._emit, "warning.discovery", {"message": message}))

    def _post(self, posted: Posted) -> None:
        self.reactor.call(partial(self._take_answer, posted))

    # ---- parts

    def _core(self, started: ExitStack) -> PeerCore:
        """With a recorder beside it if that is wanted."""
        settings, nonce, tells = self._settings, os.urandom(16), told_per_task(self._events.wants)
        make: Callable[..., PeerCore] = PeerCore
        if settings.events.record is not None:
            from . import __version__
            from .recording import Beginning, RecordedCore, Recorder

            beginning = Beginning(
                program=__version__, time_s=time(), settings=settings, me=self.contact, nonce=nonce, tells=tells
            )
            recorder = Recorder(settings.events, beginning, self._emit)
            started.callback(recorder.close)
            make = partial(RecordedCore, record=recorder.add)
        return make(
            self.contact,
            settings,
            node_strategy=node_strategy(settings),
            queue_strategy=queue_strategy(settings),
            nonce=nonce,
            tells=tells,
        )

    def _pool(self, started: ExitStack) -> Executors:
        """What runs batches: children, or threads of this process."""
        settings = self._settings
        named_device(settings.executor.device)  # whether it is here is for whoever has torch
        folder = None if settings.blobs.dir is None else Path(settings.blobs.dir)
        packages = settings.blobs.packages
        blobs = BlobStore(folder, packages, fetch=lambda name, digest: service.fetch(name, digest))
        started.callback(blobs.close)
        copies = settings.cluster.replicas
        service = BlobService(self.contact.id, blobs.folder, packages, self.links, self.reactor, copies)
        self.links.hear_of_blobs(service.heard)
        self._blobs = service
        pool: ChildPool | Pool
        if settings.executor.kind == "process":
            pool = ChildPool(
                *(settings, self.reactor, self._take_answer, blobs),
                report=self._emit,
                fetch=service.want,
                find=service.find,
                hopeless=self._give_up,
            )
        else:
            output = self._output(started)
            pool = Pool(
                *(settings, blobs, self._post, _no_errand), report=self._emit, output=output, look_up=service.look_up
            )
        started.callback(pool.stop, STOP_TIMEOUT_S)
        started.callback(service.close)  # before executors are: they may wait for it
        return pool

    def _output(self, started: ExitStack) -> NodeOutput | None:
        """What catches the prints of nodes, if anybody is told of them."""
        if not self._events.wants("output.node"):
            return None
        output = NodeOutput()
        output.install()
        started.callback(output.remove)
        return output

    def _counted(self) -> Mapping[str, int]:
        """What others than the core have counted."""
        return {**self.links.counted(), **self._blobs.counted(), "events_dropped": self._events.dropped()}

    def _open_journal(self, started: ExitStack) -> "SqliteJournal | None":
        """With a journal, the peer is who it was before."""
        journal = self._settings.journal
        if journal.mode == "off":
            return None
        from .journal import open_journal

        assert journal.dir is not None, "settings without a folder are refused"
        opened = open_journal(Path(journal.dir), "sync" if journal.mode == "sync" else "batch", self._post)
        started.callback(opened.close)
        return opened


def _no_errand(_executor: ThreadExecutor) -> None:
    """Threads only run batches here."""


def _drawn_incarnation() -> int:
    """No other process that was ever reached at this address had it, as good as certainly."""
    return 1 + int.from_bytes(os.urandom(8)) % ((1 << INCARNATION_BITS) - 1)


def _raised_file_limit(needed: int) -> int:
    """How many files this process may open, after asking for as many as are needed. A full mesh needs many sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    return allowed
