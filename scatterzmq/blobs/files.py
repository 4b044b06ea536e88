"""The files behind blobs that are sent and fetched. Everything in here may take its time: it runs in worker threads.

Rules   1. Names are those of execute/blobfiles.py: refused before any file is touched if they could lead elsewhere.
        2. What arrives is a temporary file that nobody can name, until all of it is there and its digest is right; then
           it becomes the blob at once. A blob that is there is never replaced.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from ..core.blobmessages import DIGEST_BYTES
from ..execute.blobfiles import SCRATCH, BlobError, MissingBlob, open_file, place_file

ARRIVING = f"{SCRATCH}/arriving"
OLD_S = 86400.0
"""What has not been written to for so long was left by a process that died."""
READ_BYTES = 4 << 20
KNOWN_MAX = 4096


class Piece(NamedTuple):
    """Some bytes of a blob. blob_bytes, digest: of all of it."""

    blob_bytes: int
    digest: bytes
    data: bytes


class _Known(NamedTuple):
    """A file as it was when its digest was made."""

    size: int
    changed_ns: int
    inode: int
    digest: bytes


class BlobFiles:
    """All blobs of one folder. folder: makes it if it is not there. From any thread."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._known: dict[str, _Known] = {}
        self._is_closed = False

    def close(self) -> None:
        """Whatever takes long is given up."""
        self._is_closed = True

    def knows_digest(self, name: str) -> bool:
        """Whether a piece of it can be had at once, as far as is known."""
        return name in self._known

    def has(self, name: str) -> bool:
        """Raises BlobError for a name that may not be read."""
        try:
            os.close(open_file(name, self._folder(), ()))
        except MissingBlob:
            return False
        return True

    def piece(self, name: str, offset: int, bytes_max: int) -> Piece:
        """Raises BlobError (MissingBlob if it is not there), or OSError."""
        handle = open_file(name, self._folder(), ())
        try:
            state = os.fstat(handle)
            known = self._known.get(name)
            if known is None or known[:3] != (state.st_size, state.st_mtime_ns, state.st_ino):
                digest = self._digest(handle)
                known = _Known(state.st_size, state.st_mtime_ns, state.st_ino, digest)
                self._known.pop(name, None)
                self._known[name] = known
                while len(self._known) > KNOWN_MAX:
                    self._known.pop(next(iter(self._known)), None)
            return Piece(known.size, known.digest, os.pread(handle, bytes_max, offset))
        finally:
            os.close(handle)

    def begin(self) -> "Arriving":
        """Room for a blob to come. Raises OSError."""
        folder = self._folder() / ARRIVING
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            with suppress(FileNotFoundError):  # somebody else does the same
                if left.stat().st_mtime < time.time() - OLD_S:
                    left.unlink()
        return Arriving(folder / os.urandom(16).hex())

    def seal(self, arriving: "Arriving", name: str, blob_bytes: int, digest: bytes) -> bool:
        """Make it the blob of this name; False, and nothing, if it is not what it should be. Raises BlobError, OSError.

        Whoever wrote it must have been answered: nothing is written any more.
        """
        if os.fstat(arriving.handle).st_size != blob_bytes or self._digest(arriving.handle) != digest:
            return False
        os.fchmod(arriving.handle, 0o444)
        os.fsync(arriving.handle)
        place_file(name, self._folder(), arriving.path)
        return True

    def _digest(self, handle: int) -> bytes:
        made = blake2b(digest_size=DIGEST_BYTES)
        offset = 0
        while data := os.pread(handle, READ_BYTES, offset):
            if self._is_closed:
                raise BlobError("the peer stops")
            made.update(data)
            offset += len(data)
        return made.digest()


class Arriving:
    """A blob that is not all there yet; made by `BlobFiles.begin`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._lock = Lock()

    def write(self, offset: int, data: memoryview) -> None:
        """Raises OSError, also when it is closed."""
        with self._lock:  # so that no other file can have got its number meanwhile
            while data:
                count = os.pwrite(self.handle, data, offset)
                offset, data = offset + count, data[count:]

    def close(self) -> None:
        """Nothing is left of it but what it has become. Raises nothing."""
        with self._lock, suppress(OSError):
            handle, self.handle = self.handle, -1
            if handle >= 0:
                self.path.unlink(missing_ok=True)
                os.close(handle)
