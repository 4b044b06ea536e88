"""Every socket is made here, so that all of their options are in one place, each with its reason.

Rules   1. Options are put before bind and connect: most of them act on later connections only.
        2. Nobody else sets an option.
Why     The defaults of ZeroMQ queue without bounds to whoever will listen on a port next, and shut out whoever comes
        back. Each line below is an outage that somebody has had.
"""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import zmq

Socket: TypeAlias = zmq.Socket[bytes]
Context: TypeAlias = zmq.Context[Socket]

PIECE_BYTES = 1 << 20
"""Of one ZeroMQ message at most; what is larger goes in pieces (net/fragments.py). So what libzmq holds for a slow
reader stays bounded, though it counts messages and not bytes."""
FRAME_BYTES_MAX = PIECE_BYTES + (64 << 10)
COPIED_BYTES = 64 << 10
"""Frames from here on are sent and received where they lie. Less is copied faster than handed over and freed: without
copies both ends together need four times the CPU for 1 KiB, a tenth less for 64 KiB, and half of it for 1 MiB
(benchmarks/bench_large.py)."""
SOCKETS_MAX = 8192
"""Of a process: four to every peer and two for each of its monitors; a thousand by default."""

COMMON: Mapping[int, int] = {
    zmq.LINGER: 0,  # nothing may keep a process from ending; a goodbye is waited for by who says it
    zmq.IPV6: 1,  # takes both kinds of addresses
    zmq.MAXMSGSIZE: FRAME_BYTES_MAX,  # of one frame; whoever sends more is disconnected
    zmq.HANDSHAKE_IVL: 5_000,  # ms; half a minute by default
    # The system looks whether a connection is still there, not ZeroMQ (HEARTBEAT_IVL): with that, libzmq 4.3.5 ends the
    # process ("Assertion failed: !_io_error") if a connection breaks while its reader is behind.
    zmq.HEARTBEAT_IVL: 0,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,  # s
    zmq.TCP_KEEPALIVE_INTVL: 5,  # s
    zmq.TCP_KEEPALIVE_CNT: 3,
}
CONNECTING: Mapping[int, int] = {
    zmq.IMMEDIATE: 1,  # queue for a connection that is there, and forget the queue with it, never for the next process
    zmq.CONNECT_TIMEOUT: 5_000,  # ms; the system's own takes minutes
    zmq.RECONNECT_IVL: 100,  # ms
    zmq.RECONNECT_IVL_MAX: 2_000,  # ms; links to the dead are closed, so whoever is tried again may well come back
}
CUT: Mapping[int, int] = {
    zmq.TCP_MAXRT: 10_000,  # ms without an answer: TCP itself waits twice as long each time, even when a cut is healed
}

ROUTER: Mapping[int, int] = {
    **COMMON,
    zmq.ROUTER_HANDOVER: 1,  # who comes back before its old connection is noticed to be gone is let in
    zmq.ROUTER_MANDATORY: 1,  # say so when a client is gone (EHOSTUNREACH) or slow (EAGAIN)
    zmq.SNDHWM: 64,  # messages per client; up to 1 MiB each, and the rest waits where bytes are counted
    zmq.RCVHWM: 64,  # messages per sender: then the sender has to wait
    zmq.BACKLOG: 1_024,  # of connections at once: all peers and their clients after a restart
}
CONTROL: Mapping[int, int] = {**COMMON, **CONNECTING, **CUT, zmq.SNDHWM: 256, zmq.RCVHWM: 256}
BULK: Mapping[int, int] = {**COMMON, **CONNECTING, **CUT, zmq.SNDHWM: 16, zmq.RCVHWM: 16}  # of up to 1 MiB
HEARD: Mapping[int, int] = {
    # libzmq 4.3.5 ends the process ("Assertion failed: !_more") if a connection breaks between two frames that are read
    # from a socket with 1. What waits here for another process is told from what is for it by its envelope.
    zmq.IMMEDIATE: 0,
}
PUBLISHER: Mapping[int, int] = {
    **COMMON,
    **CUT,
    zmq.SNDHWM: 1_000,  # small hints; a reader that is slower misses some, and asks
    zmq.BACKLOG: 1_024,
}
SUBSCRIBER: Mapping[int, int] = {
    **COMMON,
    **CONNECTING,
    **CUT,
    zmq.IMMEDIATE: 0,  # with 1 a goodbye that came just before its connection ended would be forgotten unread
    zmq.RCVHWM: 1_000,
}


class OutOfFilesError(OSError):
    """This process has as many files open as it may."""


@contextmanager
def opening() -> Iterator[None]:
    """For whatever opens files. Raises OutOfFilesError where there is no room for one more, from whichever library."""
    try:
        yield
    except (zmq.ZMQError, OSError) as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise OutOfFilesError(
            error.errno, "this process may not open more files and connections: raise its limit (ulimit -n)"
        ) from None


def context() -> Context:
    """A context of its own for whoever owns sockets."""
    made: Context = zmq.Context()
    made.max_sockets = SOCKETS_MAX
    return made


def router(context: Context) -> Socket:
    """What peers and clients say comes in here; only clients are answered over it."""
    return _made(context, zmq.ROUTER, ROUTER)


def dealer(context: Context, routing_id: bytes, *, bulk: bool, is_heard: bool = False) -> Socket:
    """One lane to one peer. routing_id: what its ROUTER knows us by. is_heard: whether it is read, too."""
    options = BULK if bulk else CONTROL
    socket = _made(context, zmq.DEALER, {**options, **HEARD} if is_heard else options)
    socket.set(zmq.ROUTING_ID, routing_id)
    return socket


def publisher(context: Context) -> Socket:
    """What a peer tells all others."""
    return _made(context, zmq.PUB, PUBLISHER)


def subscriber(context: Context) -> Socket:
    """What all others publish."""
    socket = _made(context, zmq.SUB, SUBSCRIBER)
    socket.set(zmq.SUBSCRIBE, b"")
    return socket


def _made(context: Context, kind: int, options: Mapping[int, int]) -> Socket:
    with opening():
        socket = context.socket(kind)
    for option, value in options.items():
        socket.set(option, value)
    socket.copy_threshold = COPIED_BYTES
    return socket
