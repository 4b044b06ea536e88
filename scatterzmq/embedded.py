"""The embedded cluster: `scatterzmq.local()` starts a peer in this process and gives a client of it.

The peer is the same core and driver as everywhere; its executors are threads, or the caller's own thread while it
waits (`executor.kind` "inline", so that a debugger works in nodes).
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any

from .client.client import Client
from .client.link import BlobWriter, Inbox, Link, Member
from .core.messages import ToPeer
from .core.peer import PeerCore
from .driver import ClientJoined, ClientLeft, Driver, Incoming, Posted
from .errors import ClusterError, ConfigError
from .execute.blobs import BlobStore
from .execute.pool import Pool
from .execute.store import PayloadStore
from .ids import ClientId, PeerId
from .plugins import node_strategy, queue_strategy
from .settings import Settings
from .wire.columns import Column

_SHORT_NAMES: Mapping[str, tuple[str, str]] = MappingProxyType({
    "batch_size": ("executor", "batch_size"),
    "executors": ("executor", "count"),
    "device": ("executor", "device"),
    "store_bytes": ("store", "bytes"),
    "inline_bytes": ("store", "inline_bytes"),
    "cache": ("cache", "enabled"),
    "max_retries": ("tasks", "max_retries"),
    "strategy": ("strategy", "node"),
    "plugins": ("plugins", "allow"),
})
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

    executors: how many batches may run at once. device: where they run. plugins: modules that graphs may use.
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
    if peers != 1 or processes:
        asked = "processes=True" if processes else f"peers={peers!r}"
        raise ConfigError(f"local: {asked}: this version embeds one peer; for more workers use executors=N")
    settings = _settings(config)
    peer = _Peer(settings)
    peer.start()
    return Client(peer.connect, window=settings.tasks.window, on_close=peer.close)


def _settings(config: Mapping[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {"blobs": {"packages": ("*",)}}
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
    return Settings.of(sections, "local")


class _Peer:
    """An embedded peer. `inline`: no thread of its own; whoever waits runs it through the link's `pump`."""

    def __init__(self, settings: Settings) -> None:
        self.id = PeerId("P" + os.urandom(16).hex())
        self.inline = settings.executor.kind == "inline"
        self._inbox: SimpleQueue[Posted | None] = SimpleQueue()
        self._inboxes: dict[ClientId, Inbox] = {}
        self._closed = ""
        strategies = node_strategy(settings), queue_strategy(settings)
        folder = settings.blobs.dir
        self.blobs = BlobStore(None if folder is None else Path(folder), settings.blobs.packages)
        self._pool = Pool(settings, self.blobs, self._inbox.put, inline=self.inline)
        core = PeerCore(self.id, settings, node_strategy=strategies[0], queue_strategy=strategies[1])
        self._driver = Driver(core, PayloadStore(settings.store, self.id), self._pool)
        self._thread = threading.Thread(target=self._run, name="scatterzmq-peer", daemon=True)

    def start(self) -> None:
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
        if self._closed:
            raise ClusterError(self._closed)
        self._inbox.put(posted)

    def leave(self, client: ClientId) -> None:
        if self._inboxes.pop(client, None) is not None and not self._closed:
            self._inbox.put(ClientLeft(client=client))

    def pump(self, timeout_s: float | None) -> bool:
        """Do one piece of work in the caller's thread: take in what was posted, else run a batch, else wait."""
        driver = self._driver
        try:
            posted = self._inbox.get_nowait()
        except Empty:
            if self._pool.run_pending():
                return True
            posted = self._await(timeout_s)
        if posted is not None:
            driver.take(posted)
        driver.tick()
        return posted is not None

    def close(self) -> None:
        """End everything; what is under way is dropped."""
        if self._closed:
            return
        self._closed = "the embedded cluster is closed; start another with scatterzmq.local()"
        if not self.inline:
            self._inbox.put(None)
            self._thread.join()
        self._pool.stop(_STOP_TIMEOUT_S)
        self.blobs.close()

    def _await(self, timeout_s: float | None) -> Posted | None:
        times = [time for time in (timeout_s, self._driver.wait_s()) if time is not None]
        try:
            return self._inbox.get(timeout=min(times, default=None))
        except Empty:
            return None

    def _run(self) -> None:
        """The peer's thread: take in whatever is posted until None comes."""
        try:
            self._driver.start()
            while True:
                try:
                    posted = self._inbox.get(timeout=self._driver.wait_s())
                except Empty:
                    self._driver.tick()
                    continue
                if posted is None:
                    return
                self._driver.take(posted)
                self._driver.tick()
        except Exception as error:  # the last line of defence: a bug of ours must not leave anybody waiting
            self._closed = f"the embedded peer failed: {type(error).__name__}: {error}; please report this"
            for inbox in list(self._inboxes.values()):
                inbox.lost(self._closed)
            raise


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
        return (Member(id=self._peer.id, name="local", status="alive"),)

    def healthcheck(self) -> tuple[str, str, int] | None:
        return None


class _InlineLink(_Link):
    def pump(self, timeout_s: float | None, /) -> bool:
        return self._peer.pump(timeout_s)
