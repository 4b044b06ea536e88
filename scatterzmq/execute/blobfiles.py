"""Names of blobs and the files behind them: what may be opened, and where it lies.

Rules:
  1. A name is relative and normalised; it is refused before any file is touched if it could lead elsewhere.
  2. Every part of a path is opened below its parent's descriptor and never through a symbolic link, so that nothing
     that changes between check and opening can lead out of the root.
  3. A name "pkg/<package>/<path>" means a data file of an installed package that the settings allow. The package is
     located, never imported.
"""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from ..errors import BlobError, MissingBlob

PACKAGE_PREFIX = "pkg"
SCRATCH = ".scratch"
SEALED = f"{SCRATCH}/sealed"
"""Where blobs lie by their digests, if their names mean something else here."""
DIGEST_BYTES = 32
PACKAGE_SUFFIXES = (".safetensors", ".json", ".txt", ".bin")
NAME_BYTES_MAX = 255
READ_BYTES = 4 << 20
KNOWN_MAX = 4096
"""Files whose digests are remembered."""
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC


def name_parts(name: str) -> tuple[str, ...]:
    """The parts of a contained name. Raises BlobError for one that could lead out of the root."""
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        raise BlobError(f"blob name {name!r} is not valid Unicode; use a relative name such as 'model/a.bin'") from None
    parts = tuple(name.split("/"))
    if len(raw) > NAME_BYTES_MAX:
        why = f"has {len(raw)} bytes, at most {NAME_BYTES_MAX} are allowed"
    elif not all(character.isprintable() for character in name) or "\\" in name:
        why = "holds a backslash or a control character"
    elif len(parts[0]) > 1 and parts[0][1] == ":":
        why = "begins with a drive letter"
    elif any(part in ("", ".", "..") for part in parts):
        why = "is not a plain relative name"
    elif parts[0] == SCRATCH:
        why = f"lies in {SCRATCH}, which is kept for nodes"
    else:
        return parts
    raise BlobError(f"blob name {name[:NAME_BYTES_MAX]!r} {why}; use a relative name such as 'model/a.bin'")


def open_file(name: str, root: Path | None, packages: Sequence[str]) -> int:
    """A descriptor for reading the blob.

    root: folder of blobs; None where there is none yet.
    Raises BlobError for a name that may not be read, MissingBlob if it is not there.
    """
    parts = name_parts(name)
    if parts[0] == PACKAGE_PREFIX:
        root, parts = _package_file(name, parts, packages)
    if root is None:
        raise _missing(name)
    return _open_below(name, root, parts, os.O_RDONLY)


def open_place(name: str, place: str, root: Path) -> int:
    """As `open_file`, where it is known to lie below the root: under its name, or as `place_sealed` has put it."""
    if place == name:
        return open_file(name, root, ())
    folder, _, last = place.rpartition("/")
    assert folder == SEALED, "a blob lies nowhere else"
    return _open_below(name, root, (*SEALED.split("/"), last), os.O_RDONLY)


def create_file(name: str, root: Path) -> int:
    """A descriptor for writing a new blob; folders are made as needed. Raises BlobError if it is there already."""
    return _open_below(name, root, _own_parts(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def _package_file(name: str, parts: tuple[str, ...], packages: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    if len(parts) < 3 or not parts[1].isidentifier():
        raise BlobError(f"blob name {name!r} names no file of a package; expected 'pkg/<package>/<path>'")
    package = parts[1]
    if package not in packages and "*" not in packages:
        raise BlobError(f"blob {name!r}: package {package!r} may not be read; add it to blobs.packages")
    if not parts[-1].endswith(PACKAGE_SUFFIXES):
        raise BlobError(f"blob {name!r} is no data file; of packages only {', '.join(PACKAGE_SUFFIXES)} may be read")
    try:
        spec = find_spec(package)
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MissingBlob(f"blob {name!r}: package {package!r} is not installed here")
    return Path(next(iter(spec.submodule_search_locations))), parts[2:]


def place_file(name: str, root: Path, source: Path) -> None:
    """Make a whole file of the same disk the blob of this name, at once. Raises BlobError as `create_file` does."""
    _place(name, root, _own_parts(name), source)


def place_sealed(name: str, digest: bytes, root: Path, source: Path) -> None:
    """As `place_file`, where its digest says, whatever has its name."""
    _place(name, root, (*SEALED.split("/"), digest.hex()), source)


def _place(name: str, root: Path, parts: tuple[str, ...], source: Path) -> None:
    try:
        folder = _open_folder(root, parts[:-1], make=True)
        try:
            os.link(source, parts[-1], dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)
    except OSError as error:
        raise _explained(name, error) from None


def file_digest(handle: int, go_on: Callable[[], bool] = lambda: True) -> bytes:
    """Of all bytes of an open file. Raises BlobError if it need not go on, or OSError."""
    made = blake2b(digest_size=DIGEST_BYTES)
    offset = 0
    while data := os.pread(handle, READ_BYTES, offset):
        if not go_on():
            raise BlobError("the peer stops")
        made.update(data)
        offset += len(data)
    return made.digest()


class KnownFile(NamedTuple):
    """A file as it was when its digest was made."""

    size: int
    changed_ns: int
    inode: int
    digest: bytes


class FileDigests:
    """Digests of files: each is made once, and again when its file has changed. From any thread.

    go_on: whether it is worth going on with a long file.
    """

    def __init__(self, go_on: Callable[[], bool] = lambda: True) -> None:
        self._go_on = go_on
        self._known: dict[str, KnownFile] = {}
        self._lock = Lock()

    def known(self, place: str) -> bytes | None:
        """What the file at that place had when it was looked at last; None if it never was."""
        known = self._known.get(place)
        return None if known is None else known.digest

    def of(self, place: str, handle: int) -> KnownFile:
        """Of an open file. Raises as `file_digest`."""
        found = os.fstat(handle)
        known = self._known.get(place)
        if known is None or known[:3] != (found.st_size, found.st_mtime_ns, found.st_ino):
            known = self._note(place, found, self.made(handle))
        return known

    def made(self, handle: int) -> bytes:
        """As `file_digest`."""
        return file_digest(handle, self._go_on)

    def note(self, place: str, handle: int, digest: bytes) -> None:
        """It was made already."""
        self._note(place, os.fstat(handle), digest)

    def _note(self, place: str, found: os.stat_result, digest: bytes) -> KnownFile:
        known = KnownFile(found.st_size, found.st_mtime_ns, found.st_ino, digest)
        with self._lock:
            self._known.pop(place, None)
            self._known[place] = known
            while len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]
        return known


def _own_parts(name: str) -> tuple[str, ...]:
    """Of a blob that may be written."""
    parts = name_parts(name)
    if parts[0] == PACKAGE_PREFIX:
        raise BlobError(f"blob name {name!r} means a file of an installed package, which is only read")
    return parts


def _open_below(name: str, root: Path, parts: tuple[str, ...], flags: int) -> int:
    try:
        folder = _open_folder(root, parts[:-1], make=bool(flags & os.O_CREAT))
        try:
            # Without O_NONBLOCK a named pipe would block here for ever.
            handle = os.open(parts[-1], flags | os.O_NONBLOCK | _SAFE, 0o644, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _explained(name, error) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BlobError(f"blob {name!r} is not a file")
    return handle


def _open_folder(root: Path, parts: tuple[str, ...], *, make: bool) -> int:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            if make:
                _make_folder(part, folder)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _SAFE, dir_fd=folder)
            os.close(folder)
            folder = below
    except OSError:
        os.close(folder)
        raise
    return folder


def _make_folder(part: str, parent: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(part, dir_fd=parent)


def _explained(name: str, error: OSError) -> BlobError:
    """The error for a name, without paths of this machine: it may go to a client."""
    if error.errno == errno.EEXIST:
        return BlobError(f"blob {name!r} is there already and blobs are written once; choose another name")
    if error.errno == errno.ELOOP:
        return BlobError(f"blob {name!r} is a symbolic link, which is never followed; put the file itself there")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return _missing(name)
    return BlobError(f"blob {name!r} cannot be opened: {os.strerror(error.errno or 0)}")


def _missing(name: str) -> MissingBlob:
    return MissingBlob(f"blob {name!r} is not there; put the file below blobs.dir or write it with open_blob()")
