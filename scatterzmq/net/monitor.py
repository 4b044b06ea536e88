"""The monitor: what libzmq tells of one connecting socket, and whether anybody listens where it connects to.

Rules   1. A link is up when the handshake is done, and down when its connection is lost.
        2. "Refused" is said only if the system at that address says that nobody listens there: then the process is
           gone. Silence is no refusal: a cut cable is not the end of a peer.
Why     libzmq tells that a connection could not be made, but not why, so we try one of our own and look.
"""

import errno
import socket
import threading
from collections.abc import Callable
from enum import StrEnum
from functools import partial

import zmq
from zmq.utils.monitor import recv_monitor_message

from .addresses import Address
from .options import OutOfFilesError, Socket, opening
from .reactor import Alarm, Reactor
from .seeds import ip_of, resolved

PROBE_S = 5.0
EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Change(StrEnum):
    """What became of a link. A refusal may come again and again, whenever it is tried."""

    UP = "up"
    DOWN = "down"
    REFUSED = "refused"


class Monitor:
    """Watches a socket that connects to one address; to be made before it connects.

    changed: called in the reactor's thread. is_up: whether the link is there.
    """

    def __init__(self, reactor: Reactor, watched: Socket, address: Address, changed: Callable[[Change], None]) -> None:
        self.is_up = False
        self._reactor = reactor
        self._watched = watched
        self._changed = changed
        self._probe = Probe(reactor, address, self._refused)
        self._is_closed = False
        with opening():
            self._events: Socket = watched.get_monitor_socket(EVENTS)
        reactor.watch(self._events, self.look)

    def look(self) -> None:
        """Tell what has happened until now, if anything has."""
        while not self._is_closed:
            try:
                event = recv_monitor_message(self._events, zmq.NOBLOCK)["event"]
            except zmq.Again:
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_up = True
                self._probe.stop()
                self._changed(Change.UP)
                continue
            if self.is_up:
                self.is_up = False
                self._changed(Change.DOWN)
            if not self._is_closed:
                self._probe.start()

    def close(self) -> None:
        """To be called before the socket is closed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._probe.stop()
        self._reactor.unwatch(self._events)
        self._watched.disable_monitor()
        self._events.close(0)

    def _refused(self) -> None:
        if not self.is_up and not self._is_closed:
            self._changed(Change.REFUSED)


class Probe:
    """Tries whether anybody listens at an address. Names are looked up in a thread, since that has to wait.

    refused: called in the reactor's thread if nobody does, at none of the addresses that a name stands for.
    """

    def __init__(self, reactor: Reactor, address: Address, refused: Callable[[], None]) -> None:
        self._reactor = reactor
        self._address = address
        self._refused = refused
        self._socket: socket.socket | None = None
        self._alarm = Alarm()
        self._asked: object | None = None

    @property
    def is_under_way(self) -> bool:
        return self._socket is not None or self._asked is not None

    def start(self) -> None:
        """Try once; one that is under way is enough."""
        if self.is_under_way:
            return
        ip = ip_of(self._address)
        if ip is None:
            self._asked = asked = object()
            threading.Thread(target=self._ask, args=(asked,), name="scatterzmq-probe", daemon=True).start()
            return
        try:
            with opening():
                tried = socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        except OutOfFilesError:
            return  # then nothing is known
        tried.setblocking(False)
        self._socket = tried
        self._reactor.own(tried)
        result = tried.connect_ex((self._address.host, self._address.port))
        if result == errno.EINPROGRESS:
            self._reactor.watch(tried.fileno(), self._done, writable=True)
            self._alarm = self._reactor.later(PROBE_S, self.stop)
        else:
            self._judge(result)

    def stop(self) -> None:
        """Do not tell any more."""
        self._asked = None
        tried, self._socket = self._socket, None
        if tried is not None:
            self._alarm.cancel()
            self._reactor.unwatch(tried.fileno())
            self._reactor.disown(tried)
            tried.close()

    def _done(self) -> None:
        if self._socket is not None:
            self._judge(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _judge(self, result: int) -> None:
        tried = self._socket
        assert tried is not None
        # Systems may connect a port that is free to itself.
        is_self = result == 0 and _is_own(tried)
        self.stop()
        if is_self or result == errno.ECONNREFUSED:
            self._refused()

    def _ask(self, asked: object) -> None:
        """Not in the reactor's thread."""
        places = resolved(self._address)
        is_refused = bool(places) and all(_refuses(place) for place in places)
        self._reactor.call(partial(self._answered, asked, is_refused))

    def _answered(self, asked: object, is_refused: bool) -> None:
        if self._asked is asked:
            self._asked = None
            if is_refused:
                self._refused()


def _is_own(tried: socket.socket) -> bool:
    try:
        return bool(tried.getsockname() == tried.getpeername())
    except OSError:
        return False  # it is not connected, or not any more


def _refuses(place: Address) -> bool:
    try:
        with socket.create_connection((place.host, place.port), PROBE_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
