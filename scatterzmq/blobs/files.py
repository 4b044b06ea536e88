"""The files behind blobs that are sent and fetched. Everything in here may take its time: it runs in worker threads.

Rules   1. Names are those of execute/blobfiles.py: refused before any file is touched if they could lead elsewhere.
        2. What arrives is a temporary file that nobody can name, until all of it is there and its digest is right; then
           it becomes the blob at once. A blob that is there is never replaced: if its name is taken here by other
           bytes, a fetched one lies where its digest says.
        3. A file is what its bytes are: its digest is made before it is used or served, again when it has changed, and
           whatever turns out to have other bytes is not the blob that was asked for.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from ..core.blobmessages import BlobId
from ..errors import BlobError, MissingBlob
from ..execute.blobfiles import (
    SCRATCH,
    SEALED,
    FileDigests,
    open_file,
    open_place,
    place_file,
    place_sealed,
)

ARRIVING = f"{SCRATCH}/arriving"
OLD_S = 86400.0
"""What has not been written to for so long was left by a process that died."""


class Named(NamedTuple):
    """What a name means here."""

    blob_bytes: int
    digest: bytes


class Piece(NamedTuple):
    """Some bytes of a blob. blob_bytes: of all of it."""

    blob_bytes: int
    data: bytes


class BlobFiles:
    """All blobs of one folder. folder: makes it if it is not there. packages: see BlobStore. From any thread.

    counters: "other" (files whose bytes were not those that were asked for).
    """

    def __init__(self, folder: Callable[[], Path], packages: Sequence[str] = ()) -> None:
        self.counters: Counter[str] = Counter()
        self._folder = folder
        self._packages = tuple(packages)
        self._is_closed = False
        self._digests = FileDigests(lambda: not self._is_closed)

    def close(self) -> None:
        """Whatever takes long is given up."""
        self._is_closed = True

    def knows(self, blob: BlobId) -> bool:
        """Whether it is here and can be had at once, as far as is known."""
        return blob.digest in map(self._digests.known, _places(blob))

    def is_free(self, name: str) -> bool:
        """Whether a blob of this name may be written. Raises BlobError if it must not, whether it is there or not."""
        try:
            os.close(open_file(name, self._folder(), ()))
        except MissingBlob:
            return True
        return False

    def named(self, name: str) -> Named | None:
        """What this name means here; None if it means nothing. Raises BlobError for a name that may not be read."""
        try:
            handle = open_file(name, self._folder(), self._packages)
        except MissingBlob:
            return None
        try:
            known = self._digests.of(name, handle)
            if os.fstat(handle).st_size != known.size:
                raise BlobError(f"blob {name!r} is still being written; load the graph when it is closed")
            return Named(known.size, known.digest)
        finally:
            os.close(handle)

    def find(self, blob: BlobId) -> str | None:
        """Where it lies below the folder; None if it is not here. Raises BlobError for a name that may not be read."""
        found = self._open(blob)
        if found is None:
            return None
        os.close(found[0])
        return found[1]

    def piece(self, blob: BlobId, offset: int, bytes_max: int) -> Piece | None:
        """None if it is not here. Raises BlobError, or OSError."""
        found = self._open(blob)
        if found is None:
            return None
        handle, _ = found
        try:
            return Piece(os.fstat(handle).st_size, os.pread(handle, bytes_max, offset))
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

    def seal(self, arriving: "Arriving", blob: BlobId, blob_bytes: int, *, is_new: bool) -> str:
        """Make it the blob, and say where it lies; "" if it is not what it should be. Raises BlobError, OSError.

        is_new: its name must not be taken. Whoever wrote it must have been answered: nothing is written any more.
        """
        if os.fstat(arriving.handle).st_size != blob_bytes or self._digests.made(arriving.handle) != blob.digest:
            return ""
        os.fchmod(arriving.handle, 0o444)
        os.fsync(arriving.handle)
        place, sealed = _places(blob)
        try:
            place_file(blob.name, self._folder(), arriving.path)
        except BlobError:
            if is_new:
                raise
            place = sealed
            place_sealed(blob.name, blob.digest, self._folder(), arriving.path)
        self._digests.note(place, arriving.handle, blob.digest)
        return place

    def withdraw(self, blob: BlobId) -> None:
        """What was sealed under this name was one too many."""
        if self.find(blob) == blob.name:
            (self._folder() / blob.name).unlink()

    # ---- inside

    def _open(self, blob: BlobId) -> tuple[int, str] | None:
        """A descriptor of this blob, and where it lies."""
        for place in _places(blob):
            try:
                handle = open_place(blob.name, place, self._folder())
            except MissingBlob:
                continue
            try:
                if self._digests.of(place, handle).digest == blob.digest:
                    return handle, place
            except (BlobError, OSError):
                os.close(handle)
                raise
            os.close(handle)
            self.counters["other"] += 1
            if place != blob.name:  # it was right when it was put there, and is of no use to anybody now
                (self._folder() / place).unlink(missing_ok=True)
        return None


def _places(blob: BlobId) -> tuple[str, str]:
    return blob.name, f"{SEALED}/{blob.digest.hex()}"


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
