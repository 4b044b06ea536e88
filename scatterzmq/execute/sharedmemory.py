"""Bytes from one process to another on the same machine: as memory without a name (memfd), handed over a Unix socket.

Rules   1. What is mapped is sealed: nobody can write to it or cut it short any more, not even who made it. Memory that
           is not sealed is refused: whoever maps a file that is cut short dies of it (SIGBUS).
        2. A handle has one owner at any time: a packet that is sent or opened has none any more.
        3. Maps are private: what is written to one stays in the process.
        4. A `Scratch` is not sealed and never mapped: it is read, once, before its writer puts anything else there.
Why     No names, so nothing is left behind by a process that is killed, and no limit as in /dev/shm. Nearly all goes
        through memory that is used again: the system takes longer to find new pages than to copy twice into those that
        are there. What is too large for that has one memory per column, which is free as soon as that column is.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .linux import map_private, new_memory

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
MAPPED_NBYTES_MIN = 1 << 18
"""What is smaller is copied: that takes as long as a map, of which a process may have about 65,000 only."""
HANDLES_MAX = 250
"""The system passes 253 with one message."""
_BODY_NBYTES_MAX = 1 << 17
"""Of a message itself; sockets take about 200 kB by default. What is larger goes as shared memory, too."""
SCRATCH_NBYTES_MAX = 256 << 20
"""Of a message that goes through memory that is kept for the next one."""
_SMALL_MAX = 16
"""So many messages in a row that needed less than a quarter of a scratch make it smaller."""
_IN_LINE, _SHARED = b"\x00", b"\x01"
_HANDLE_NBYTES = 4


class BadPacket(ValueError):  # noqa: N818 -- says what it is
    """What came is nothing that `share` or `Channel.send` has made."""


def share(data: bytes | bytearray | memoryview) -> int:
    """A handle of a sealed copy of the bytes (at least one). Raises OSError."""
    handle = os.memfd_create("scatterzmq", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(handle, data, 0)
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(handle)
        raise
    return handle


def shared_bytes(handle: int) -> memoryview:
    """What was shared, as writable memory. The handle stays the caller's. Raises BadPacket, or OSError."""
    try:
        seals = fcntl.fcntl(handle, fcntl.F_GET_SEALS)
    except OSError:
        raise BadPacket("expected shared memory, got another kind of file") from None
    if seals & _SEALS != _SEALS:
        raise BadPacket("shared memory that is not sealed")
    nbytes = os.fstat(handle).st_size
    if nbytes < MAPPED_NBYTES_MIN:
        return _copied(handle, nbytes)
    try:
        return map_private(handle, nbytes)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return _copied(handle, nbytes)  # there are too many maps


def _copied(handle: int, nbytes: int, start: int = 0) -> memoryview:
    """These bytes of a file, in memory of our own. Raises BadPacket if it has not as many, or OSError."""
    try:
        data = memoryview(new_memory(nbytes))
    except MemoryError:
        raise OSError(errno.ENOMEM, f"there is no memory for {nbytes} bytes") from None
    offset = 0
    while offset < nbytes:
        count = os.preadv(handle, [data[offset:]], start + offset)
        if not count:
            raise BadPacket("shared memory that ends too early")
        offset += count
    return data


class Scratch:
    """Memory of one writer, all of it for each message again. The reader has read one before it asks for the next."""

    def __init__(self) -> None:
        self._handle: int | None = None
        self._nbytes = 0
        self._small = 0

    def use(self, nbytes: int) -> None:
        """The next message needs so much of it: after many that need little, the rest is given back."""
        self._small = self._small + 1 if 4 * nbytes < self._nbytes else 0
        if self._small >= _SMALL_MAX and self._handle is not None:
            os.ftruncate(self._handle, nbytes)
            self._nbytes, self._small = nbytes, 0

    def put(self, datas: Iterable[memoryview]) -> int:
        """Write what the reader is to find, one after another. Returns a handle for the packet. Raises OSError."""
        if self._handle is None:
            self._handle = os.memfd_create("scatterzmq", os.MFD_CLOEXEC)
        offset = 0
        for data in datas:
            offset += _write(self._handle, data, offset)
        self._nbytes = max(self._nbytes, offset)
        return os.dup(self._handle)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def scratch_bytes(handle: int, offset: int, nbytes: int) -> memoryview:
    """What was put there, as writable memory. The handle stays the caller's. Raises BadPacket, or OSError."""
    if nbytes < 0 or not offset + nbytes <= min(os.fstat(handle).st_size, SCRATCH_NBYTES_MAX):
        raise BadPacket("a column beyond the memory that it should be in")
    return _copied(handle, nbytes, offset)


def _write(handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """Write all of it there; returns how much that is."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(handle, rest, offset)  # half the time of a map, whose pages would be cleared first
        rest, offset = rest[count:], offset + count
    return len(data)


def close_all(handles: Iterable[int]) -> None:
    for handle in handles:
        os.close(handle)


@dataclass(slots=True, eq=False)
class Packet:
    """A message: its own bytes, and handles of shared memory, which are this packet's until it is sent."""

    body: bytes | memoryview
    handles: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Let go of the handles."""
        handles, self.handles = self.handles, []
        close_all(handles)


class Channel:
    """Packets both ways over one end of a pair of Unix sockets that keep messages apart (SOCK_SEQPACKET).

    One thread at a time may send, and one receive.
    """

    def __init__(self, endpoint: socket.socket) -> None:
        self._socket = endpoint
        self._buffer = memoryview(bytearray(_BODY_NBYTES_MAX + 1))
        self._ancillary_nbytes = socket.CMSG_SPACE((HANDLES_MAX + 1) * _HANDLE_NBYTES)

    @classmethod
    def pair(cls) -> "tuple[Channel, socket.socket]":
        """Our end, which never waits, and the other one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return cls(ours), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, packet: Packet) -> None:
        """Send; the packet's handles are closed. Raises BlockingIOError (then it may be sent again), or OSError."""
        if len(packet.body) > _BODY_NBYTES_MAX:
            self._send_shared(packet)
            return
        try:
            self._send(_IN_LINE, packet.body, packet.handles)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._send_shared(packet)  # this system's sockets take less
        packet.close()

    def receive(self) -> Packet | None:
        """The next packet, whose body holds until the next call; None when the other end is closed.

        Raises BlockingIOError if there is none yet, BadPacket, or OSError.
        """
        count, ancillary, flags, _ = self._socket.recvmsg_into(
            [self._buffer], self._ancillary_nbytes, socket.MSG_CMSG_CLOEXEC
        )
        handles = _handles(ancillary)
        if not count and not handles:
            return None
        packet = Packet(self._buffer[1:count], handles)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or not count:
            packet.close()
            raise BadPacket("a message of the wrong size")
        if self._buffer[:1] == _SHARED:
            return self._opened(packet)
        return packet

    def finish(self) -> None:
        """Nothing more will be sent from here; the other end sees that after all that was sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # there is no other end any more

    def close(self) -> None:
        self._socket.close()

    def _send_shared(self, packet: Packet) -> None:
        body = share(packet.body)
        try:
            self._send(_SHARED, b"", [body, *packet.handles])
        finally:
            os.close(body)
        packet.close()

    def _send(self, form: bytes, body: bytes | memoryview, handles: Sequence[int]) -> None:
        if handles:
            socket.send_fds(self._socket, [form, body], list(handles))
        else:
            self._socket.sendmsg([form, body])

    def _opened(self, packet: Packet) -> Packet:
        """With the shared body as its body."""
        if not packet.handles:
            raise BadPacket("a message that is not there")
        body = packet.handles.pop(0)
        try:
            packet.body = shared_bytes(body)
        except (BadPacket, OSError):
            packet.close()
            raise
        finally:
            os.close(body)
        return packet


def _handles(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % _HANDLE_NBYTES
            found += memoryview(data)[:whole].cast("i").tolist()
    return found
