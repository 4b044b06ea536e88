"""`scatterzmq.connect()`: a client of a cluster that runs elsewhere.

Purpose   Puts together what a client consists of: what users hold (client/), the core that knows of many peers and its
          driver (core/client.py, clientdriver.py), links to them (net/clientlinks.py), and discovery.
Rules     1. One thread has the sockets and the driver; users' threads post to it. Answers are delivered in it, with the
             callbacks of users' futures: closing does not wait for one that hangs.
          2. There is discovery only while no peer can be reached: members are told by members.
          3. A forked child has no client: sockets and threads stay with the parent.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf

from .blobs.sender import BlobSender
from .client.client import Client
from .client.endings import end_with
from .client.link import BlobWriter, Inbox, Link, Member
from .clientdriver import ClientDriver
from .core.blobmessages import BlobWritten, WriteBlob
from .core.client import ClientCore
from .core.messages import GraphRefused, LoadGraph, Refused, Submit, ToClient, ToPeer
from .core.sizes import too_long
from .errors import ClusterError, ConfigError, ErrorCode
from .ids import PeerId
from .net.clientlinks import ClientLinks
from .net.discovery import Discovery
from .net.reactor import Reactor
from .settings import ClusterSettings, NetworkSettings, TimingSettings, row_bytes
from .wire.columns import Column

OUTBOX_BYTES = NetworkSettings().outbox_bytes
GOODBYE_S = 0.3
"""How long closing waits for peers to take in what was said last."""
STOP_S = 2.0
"""How long closing waits for the client's thread, which may be in a callback; it is a daemon."""


def connect(
    address: str | Sequence[str] | None = None,
    *,
    cluster: str | None = None,
    timeout_s: float = 10.0,
    window: int = 4096,
    cache: bool = True,
    key: str | None = None,
) -> Client:
    """Connect to a running cluster. Returns its client when a peer has answered; closing it leaves the cluster alone.

    address: "tcp://host:port" (7411 without a port) of any peer, or several of which one must be there; None looks for
    peers on the local network. From there on all peers are known, and any may fail.
    cluster: the name of the one that is meant; peers of another one turn this client away. None takes whichever is at
    the address, and without an address the one of peers that were given no name ("default").
    timeout_s: for the first answer. window: tasks that may wait to be accepted; enqueueing another one waits for room.
    cache: False keeps the tasks of this client out of the cache: everything is computed, and nothing kept for others.
    Raises ConfigError, and ClusterError, which says what was tried, if nobody answers.
    """
    if key is not None:
        raise ConfigError("connect: key: this version does not encrypt anything yet; leave it out")
    addresses = (address,) if isinstance(address, str) else tuple(address or ())
    if address is not None and not addresses:
        raise ConfigError('connect: expected an address such as "tcp://host:7411", a list of them or None, got none')
    if window < 1:
        raise ConfigError(f"connect: window: expected at least 1, got {window}")
    return connected(addresses, cluster=cluster, timeout_s=timeout_s, window=window, cache=cache)


def connected(
    addresses: Sequence[str],
    *,
    cluster: str | None,
    timeout_s: float,
    window: int,
    cache: bool = True,
    outbox_bytes: int = OUTBOX_BYTES,
    on_close: Callable[[], None] | None = None,
) -> Client:
    """As `connect`. outbox_bytes: of messages that wait for one slow peer. on_close: called when it is closed."""
    connection = Connection(addresses, cluster, outbox_bytes)
    client = Client(connection.open, window=window, cache=cache, on_close=on_close)
    try:
        if not connection.wait(timeout_s):
            reason = connection.why_not(timeout_s)
            connection.fail(reason)
            raise ClusterError(reason)
    except BaseException:
        connection.close()
        raise
    end_with(client, connection)
    return client


def name_of(cluster: str | None) -> str:
    """Of the cluster to look for, where there is no address."""
    return ClusterSettings().name if cluster is None else cluster


def refused_by_all(refusals: Sequence[tuple[str, str]], addresses: Sequence[str]) -> Sequence[tuple[str, str]]:
    """The refusals, (address, reason), once nobody at these addresses (or found without any) may say otherwise."""
    return refusals if len(refusals) >= max(1, len(addresses)) else ()


def turned_away(refusals: Iterable[tuple[str, str]], cluster: str | None) -> str:
    """What peers say that are of another cluster, and what to do. refusals: (address, reason)."""
    said = "; ".join(f"{address} says: {reason}" for address, reason in refusals)
    return f"no peer of cluster {cluster!r} was found: {said}; name the cluster that is meant, or another address"


def nobody_answers(
    addresses: Sequence[str], cluster: str | None, timeout_s: float, problems: Iterable[tuple[str, str]], warning: str
) -> str:
    """What was tried in vain, and what to do. addresses: that were given; problems: at each that was tried."""
    tried = ", ".join(f"{address} ({problem})" for address, problem in problems)
    if addresses:
        tried = tried or ", ".join(f"{address} (no such host)" for address in addresses)
        todo = "see that a peer runs there (scatterzmq peer) and can be reached from here"
    else:
        tried = tried or f"nobody of cluster {name_of(cluster)!r} was found on the local network"
        tried += f"; {warning}" if warning else ""
        todo = 'name a peer by its address, as "tcp://host:7411"'
    return f"no peer has answered in {timeout_s:g} s: {tried}; {todo}"


def _too_large(message: Submit, columns: Mapping[str, Column], nbytes: int, bytes_max: int) -> Refused:
    """Instead of an answer: this would never arrive. Such a task is alone in its message."""
    name = max(columns, key=lambda name: columns[name].data.nbytes)
    problem = (
        f"its inputs have {nbytes} bytes, {columns[name].data.nbytes} of them in field {name!r}, and a task may have "
        f"{bytes_max} that is sent over a network: send it in parts, or raise network.message_bytes at all peers"
    )
    return Refused(mid=message.mid, ids=message.ids, code=ErrorCode.REFUSED, message=problem)


class Connection:
    """One client's way to the cluster (client/link.py Link), with the thread that has it. Arguments: as for
    `connected`.
    """

    def __init__(self, addresses: Sequence[str], cluster: str | None, outbox_bytes: int) -> None:
        self._addresses = addresses
        self._cluster = cluster
        self._network = NetworkSettings(join=tuple(addresses), zeroconf=not addresses, outbox_bytes=outbox_bytes)
        self._warning = ""
        self._pid = os.getpid()
        self._over = ""
        self._first = threading.Event()
        self._tried: tuple[tuple[str, str], ...] = ()
        self._refusals: Sequence[tuple[str, str]] = ()
        self._discovery: Discovery | None = self._new_discovery()  # raises ConfigError
        self._reactor = Reactor()
        self._links = ClientLinks(
            self._reactor, self._changed, outbox_bytes=self._network.outbox_bytes, cluster=cluster
        )
        self._links.hear_of_blobs(self._heard_of_blob)
        self._blobs: dict[bytes, BlobSender] = {}
        self._thread = threading.Thread(target=self._run, name="scatterzmq-client", daemon=True)

    def open(self, inbox: Inbox) -> Link:
        """Begin to look for peers. Answers go to the inbox."""
        self._inbox = inbox
        core = ClientCore(TimingSettings())
        self._driver = ClientDriver(core, self._deliver, self.fail, self._links)
        self._links.start(self._driver)
        self._thread.start()
        return self

    def wait(self, timeout_s: float) -> bool:
        """Wait for the first peer. False if none has answered in time."""
        return self._first.wait(timeout_s) and not self._over and not self._refusals

    def why_not(self, timeout_s: float) -> str:
        """What was tried, and what to do."""
        if self._over:
            return self._over
        if self._refusals:
            return turned_away(self._refusals, self._cluster)
        done = threading.Event()
        self._reactor.call(partial(self._note_tried, done))
        done.wait(STOP_S)
        return nobody_answers(self._addresses, self._cluster, timeout_s, self._tried, self._warning)

    # ---- as the link of a client

    def send(self, message: ToPeer, columns: Mapping[str, Column], /) -> None:
        self._must_be_open()
        if isinstance(message, LoadGraph) and (problem := too_long(message.definition)):
            self._reactor.call(partial(self._deliver, GraphRefused(mid=message.mid, problems=(problem,)), {}))
            return
        if isinstance(message, Submit):
            nbytes = sum([column.data.nbytes for column in columns.values()])
            bytes_max = row_bytes(self._links.message_bytes)
            if nbytes > bytes_max:
                self._reactor.call(partial(self._deliver, _too_large(message, columns, nbytes, bytes_max), {}))
                return
        self._reactor.call(partial(self._driver.said, message, columns))

    def peers(self) -> Sequence[Member]:
        return self._links.members

    def healthcheck(self) -> tuple[str, str, int] | None:
        return None

    def open_blob(self, name: str, /) -> BlobWriter:
        self._must_be_open()
        home = self._links.home()
        if home is None:
            raise ClusterError(f"blob {name!r}: no peer can be reached; try again later")
        sender = BlobSender(name, partial(self._say_of_blob, home), self._forget_blob)
        self._blobs[sender.writer] = sender
        return sender.begin()

    def _must_be_open(self) -> None:
        if self._over:
            raise ClusterError(self._over)
        if self._pid != os.getpid():
            raise ClusterError("this process was forked off and has no connection: call scatterzmq.connect() in here")

    def _say_of_blob(self, home: PeerId, word: WriteBlob, columns: Mapping[str, Column], /) -> None:
        self._must_be_open()
        if threading.get_ident() == self._thread.ident:
            raise ClusterError(f"blob {word.name!r}: callbacks must not wait, so write it in a thread of your own")
        self._reactor.call(partial(self._links.send, home, word, columns))

    def _forget_blob(self, sender: BlobSender) -> None:
        self._blobs.pop(sender.writer, None)

    def _heard_of_blob(self, answer: BlobWritten) -> None:
        sender = self._blobs.get(answer.writer)
        if sender is not None:
            sender.heard(answer)

    def close(self) -> None:
        """Let peers take in what was said last, and end. Does not wait long for anything."""
        if self._pid != os.getpid():
            return
        waits = threading.get_ident() != self._thread.ident
        if waits and not self._over and self._thread.is_alive():
            through = threading.Event()
            self._reactor.call(partial(self._links.when_through, through.set))
            through.wait(GOODBYE_S)
        self.release()
        if waits:
            self._thread.join(STOP_S)

    def release(self) -> None:
        """As `close`, without waiting for anything."""
        self._over = self._over or "this client is closed; connect again with scatterzmq.connect()"
        if self._pid == os.getpid():
            self._reactor.stop()

    def fail(self, reason: str) -> None:
        """Nothing will come any more."""
        self._over = self._over or reason
        self._inbox.lost(reason)
        self._reactor.stop()

    # ---- in its thread

    def _run(self) -> None:
        try:
            self._search()
            self._reactor.run(self._due_s, self._tick)
        except BaseException as error:
            self.fail(f"the client's thread failed: {type(error).__name__}: {error}; please report this")
            raise
        finally:
            self._first.set()
            for sender in [*self._blobs.values()]:
                sender.fail(f"blob {sender.name!r}: {self._over or 'the client is closed'}")
            if self._discovery is not None:
                self._discovery.close()
            self._links.close()
            self._reactor.close()

    def _due_s(self) -> float:
        # The core counts how long nobody can be reached from its first event on, and connecting has its own time-out.
        return self._driver.due_s() if self._first.is_set() else inf

    def _tick(self) -> None:
        if self._first.is_set() and not self._over:
            self._driver.tick()

    def _deliver(self, message: ToClient, columns: Mapping[str, Column]) -> None:
        if not self._over:
            self._inbox(message, columns)

    def _changed(self) -> None:
        if self._links.is_connected:
            self._first.set()
            if self._discovery is not None:
                self._discovery.stop()
                self._discovery = None
        elif not self._first.is_set():
            self._refusals = refused_by_all(self._links.refusals(), self._addresses)
            if self._refusals:
                self._first.set()
        elif self._discovery is None:
            self._discovery = self._new_discovery()
            self._search()

    def _search(self) -> None:
        assert self._discovery is not None
        self._discovery.start(None, name_of(self._cluster), self._seen)

    def _new_discovery(self) -> Discovery:
        return Discovery(self._network, self._warn, where="connect")

    def _note_tried(self, done: threading.Event) -> None:
        self._tried = self._links.problems()
        done.set()

    # ---- from discovery's threads

    def _seen(self, address: str) -> None:
        self._reactor.call(partial(self._links.seed, address))

    def _warn(self, line: str) -> None:
        self._warning = line
