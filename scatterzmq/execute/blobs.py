"""Read-only data of nodes: one folder of blobs, mapped into memory, plus the data files of installed packages.

A place in a blob is the text "offset:length:name". A blob is written once, front to back, and sealed when its writer
is closed; what is written can be read at once. Any file put into the folder by other means is a sealed blob too.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from shutil import rmtree
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from ..errors import BlobError, MissingBlob
from ..graph.formats import FieldFormat
from ..ids import NodeId
from .blobfiles import (
    PACKAGE_PREFIX,
    SCRATCH,
    FileDigests,
    create_file,
    open_file,
    open_place,
)
from .blobplaces import Appender, Place
from .blobtensors import decode_tensor

if TYPE_CHECKING:
    import torch

__all__ = ["BlobReader", "BlobStore", "BlobWriter", "SafeTensors"]

Fetch: TypeAlias = Callable[[str, bytes], str]


class BlobWriter(Appender):
    """Made by `BlobStore.open_blob`. What is written can be read at once."""

    def __init__(self, name: str, handle: int, sealed: Callable[[], None] = lambda: None) -> None:
        super().__init__(name)
        self._handle: int | None = handle
        self._sealed = sealed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Seal the blob: nobody can write to it any more."""
        if self._handle is not None:
            os.fchmod(self._handle, 0o444)
            os.close(self._handle)
            self._handle = None
            self._sealed()

    def _append(self, data: memoryview) -> None:
        if self._handle is None:
            raise BlobError(f"blob {self.name!r} is sealed; write to a new one")
        while data:
            count = os.write(self._handle, data)
            self._length += count
            data = data[count:]


class BlobReader:
    """A blob opened for reading; made by `BlobStore.open`."""

    def __init__(self, store: "BlobStore", name: str, digest: bytes = b"") -> None:
        self._store = store
        self._digest = digest
        self.name = name

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` on, by default all the rest. Raises MissingBlob beyond the end."""
        return bytes(self._store.piece(self.name, offset, length, self._digest))


class SafeTensors(Mapping[str, "torch.Tensor"]):
    """Tensors of a .safetensors file by name. Each is mapped when asked for; nothing else of the file is read."""

    def __init__(self, name: str, handle: int) -> None:
        from safetensors import SafetensorError, safe_open

        self.name = name
        try:
            # By descriptor, so that it is the very file that was checked.
            self._file = cast(Any, safe_open(f"/dev/fd/{handle}", framework="pt"))
        except SafetensorError as error:
            raise BlobError(f"blob {name!r} is no valid safetensors file: {error}") from None
        self._names = frozenset(self._file.keys())

    def __getitem__(self, key: str) -> "torch.Tensor":
        if key not in self._names:
            raise KeyError(key)
        tensor: torch.Tensor = self._file.get_tensor(key)
        return tensor

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


class BlobStore:
    """All blobs a process can read. May be used from any thread.

    root: folder of the blobs, made when something is written; None makes one for this run.
    packages: installed packages whose data files may be read as "pkg/<package>/<path>"; "*" allows all.
    fetch: gets the name of a blob and the digest of its bytes (b"" if that is not settled); returns when it is there,
    below which path of the folder; or raises MissingBlob. Called in whichever thread needs it.
    """

    def __init__(self, root: Path | None, packages: Sequence[str] = (), *, fetch: Fetch | None = None) -> None:
        self._root = root
        self._is_temporary = root is None
        self._packages = tuple(packages)
        self._fetch = fetch
        self._maps: dict[tuple[str, bytes], mmap] = {}
        self._places: dict[tuple[str, bytes], str] = {}
        self._digests = FileDigests()
        self._open: set[str] = set()
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all maps (memory that is still in use lives on) and remove a temporary folder."""
        with self._lock:
            self._maps.clear()
            if self._is_temporary and self._root is not None:
                rmtree(self._root, ignore_errors=True)
                self._root = None

    def open_blob(self, name: str) -> BlobWriter:
        """A writer for a new blob, to be used in a `with` block. Raises BlobError if there is one of that name."""
        handle = create_file(name, self.folder())
        self._open.add(name)
        return BlobWriter(name, handle, partial(self._open.discard, name))

    def found(self, name: str) -> tuple[int, bytes]:
        """Length and digest of a blob that is here. Reads it, if that was not done before.

        Raises MissingBlob if it is not here, BlobError if it must not be read or is still being written.
        """
        if name in self._open:
            raise BlobError(f"blob {name!r} is still being written; load the graph when it is closed")
        handle = open_file(name, self._root, self._packages)
        try:
            known = self._digests.of(name, handle)
            return known.size, known.digest
        finally:
            os.close(handle)

    def settled(self, digests: Mapping[str, bytes]) -> "SettledBlobs":
        """The blobs, for nodes of a definition that says which bytes these names mean."""
        return SettledBlobs(self, digests)

    def open(self, name: str, digest: bytes = b"") -> BlobReader:
        """A reader. digest: of the bytes that it must have; b"" if that is not settled. Raises MissingBlob."""
        self._map(name, digest, 0)
        return BlobReader(self, name, digest)

    def piece(self, name: str, offset: int = 0, length: int | None = None, digest: bytes = b"") -> memoryview:
        """These bytes, read-only and without a copy; by default all from `offset` on. Raises MissingBlob."""
        return self._view(name, digest, offset, length).toreadonly()

    def tensor(
        self,
        data: str,
        format: FieldFormat | None = None,  # noqa: A002
        digests: Mapping[str, bytes] = MappingProxyType({}),
    ) -> "torch.Tensor":
        """The tensor at "offset:length:name", as write_tensor() returned it, on the CPU, sharing mapped memory.

        format: what it must match; if it is fixed, plain bytes (little-endian) will do as well. digests: as for `open`.
        Raises MissingBlob if the place is not there, BlobError if it holds something else.
        """
        place = Place.parse(data)
        view = self._view(place.name, digests.get(place.name, b""), place.offset, place.length)
        return decode_tensor(view, format, f"blob {data!r}")

    def safetensors(self, name: str, digest: bytes = b"") -> SafeTensors:
        """The tensors of a safetensors file by name. Raises MissingBlob, or BlobError if it is none."""
        handle = self._handle(name, digest)
        try:
            return SafeTensors(name, handle)
        finally:
            os.close(handle)

    def scratch(self, node: NodeId) -> Path:
        """A folder for this node alone. It is kept as long as the store's root; nothing in it can be read as a blob."""
        folder = self.folder() / SCRATCH / NodeId.parse(node)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def folder(self) -> Path:
        """The folder of the blobs, made if it is not there."""
        with self._lock:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="scatterzmq-"))
            elif not self._is_temporary:
                self._root.mkdir(parents=True, exist_ok=True)
            return self._root

    def _view(self, name: str, digest: bytes, offset: int, length: int | None) -> memoryview:
        """Writable, because torch warns otherwise; what is written stays in this process (copy on write)."""
        view = self._map(name, digest, None if length is None else offset + length)
        end = len(view) if length is None else offset + length
        if offset < 0 or end < offset or end > len(view):
            raise MissingBlob(f"blob {name!r} has {len(view)} bytes; {offset} to {end} are not there")
        return view[offset:end]

    def _handle(self, name: str, digest: bytes) -> int:
        """A descriptor of the blob, which is the right one. What is not here is fetched, and nobody else who needs a
        blob waits for that.
        """
        is_ours = name.startswith(f"{PACKAGE_PREFIX}/") or self._fetch is None
        if not is_ours and name not in self._open:
            place = self._places.get((name, digest))
            if place is None:
                assert self._fetch is not None, "looked at"
                place = self._places[name, digest] = self._fetch(name, digest)
            with suppress(MissingBlob):  # it may have been removed, as nobody should
                return open_place(name, place, self.folder())
            self._places.pop((name, digest), None)  # another thread may have found out as well
        handle = open_file(name, self._root, self._packages)
        try:
            if digest and self._digests.of(name, handle).digest != digest:
                raise MissingBlob(
                    f"blob {name!r} has other bytes here than where its graph was loaded; put the same file here, or "
                    "load the graph again with replace=True"
                )
        except (BlobError, OSError):
            os.close(handle)
            raise
        return handle

    def _map(self, name: str, digest: bytes, end: int | None) -> memoryview:
        """The blob up to `end` at least, else all there is by now: it may have grown since it was mapped."""
        known = self._maps.get((name, digest))
        if known is not None and (digest or (end is not None and len(known) >= end)):
            return memoryview(known)
        handle = self._handle(name, digest)
        try:
            with self._lock:
                size = os.fstat(handle).st_size
                known = self._maps.get((name, digest))
                if known is not None and len(known) == size:
                    return memoryview(known)
                if size == 0:  # cannot be mapped
                    return memoryview(bytearray())
                known = self._maps[name, digest] = mmap(handle, 0, access=ACCESS_COPY)
        finally:
            os.close(handle)
        return memoryview(known)


class SettledBlobs:
    """Blobs as the nodes of one definition read them; made by `BlobStore.settled`."""

    def __init__(self, store: BlobStore, digests: Mapping[str, bytes]) -> None:
        self._store = store
        self._digests = digests

    def tensor(self, data: str, format: FieldFormat | None = None) -> "torch.Tensor":  # noqa: A002
        """See `BlobStore.tensor`."""
        return self._store.tensor(data, format, self._digests)

    def open(self, name: str) -> BlobReader:
        """See `BlobStore.open`."""
        return self._store.open(name, self._digests.get(name, b""))

    def safetensors(self, name: str) -> SafeTensors:
        """See `BlobStore.safetensors`."""
        return self._store.safetensors(name, self._digests.get(name, b""))
