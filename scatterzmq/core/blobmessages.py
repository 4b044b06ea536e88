"""The words about blobs, between peers and from clients. The rules of core/messages.py hold; the core hears none of it.

Bytes travel beside a word as the one row of a column "data", at most `PIECE_BYTES`. Digests are blake2b of the whole
blob, 32 bytes, or empty where there is none (yet).
"""

from typing import TypeAlias

from ..frozen import frozen

PIECE_BYTES = 1 << 20
DIGEST_BYTES = 32


@frozen()
class BlobId:
    """One blob: its bytes by their digest, and the name by which graphs call it."""

    name: str
    digest: bytes


# ---- peer -> peer


@frozen()
class AskBlobName:
    """Which bytes has this name at the receiver?"""

    name: str


@frozen()
class BlobNamed:
    """Answer to AskBlobName. is_here without a digest: it is being read, ask again in a while."""

    name: str
    is_here: bool
    blob_bytes: int = 0
    digest: bytes = b""


@frozen()
class AskBlob:
    """Send so many bytes of this blob, from an offset on; 0 asks only whether it is there.

    What the receiver has under this name does not count if its bytes are others.
    """

    name: str
    digest: bytes
    offset: int
    bytes_max: int


@frozen()
class BlobPiece:
    """Answer to AskBlob. blob_bytes: of the whole. is_reading: it is being looked at, ask again in a while."""

    name: str
    digest: bytes
    offset: int
    blob_bytes: int
    is_reading: bool = False


@frozen()
class NoBlob:
    """Answer to AskBlob: it is not here."""

    name: str
    digest: bytes


@frozen()
class KeepBlobs:
    """The sender has these, and asks the receiver to have them as well. Repeated until it is answered."""

    blobs: tuple[BlobId, ...]


@frozen()
class BlobsKept:
    """Answer to KeepBlobs, by digest: these are here, those are on their way, and those cannot be kept."""

    kept: tuple[bytes, ...]
    coming: tuple[bytes, ...] = ()
    refused: tuple[bytes, ...] = ()


# ---- client -> peer


@frozen()
class WriteBlob:
    """A piece of a new blob, in order. Repeated until it is answered.

    writer: 16 bytes, drawn for each blob that is begun. last: nothing comes after it; digest: of the whole then, or
    empty to give it up.
    """

    writer: bytes
    name: str
    offset: int
    last: bool = False
    digest: bytes = b""


# ---- peer -> client


@frozen()
class BlobWritten:
    """Answer to WriteBlob: how much has been taken, whether it is sealed and on how many peers, or what went wrong."""

    writer: bytes
    blob_bytes: int
    is_sealed: bool = False
    copies: int = 0
    problem: str = ""


BlobBetweenPeers: TypeAlias = AskBlobName | BlobNamed | AskBlob | BlobPiece | NoBlob | KeepBlobs | BlobsKept
BlobWord: TypeAlias = BlobBetweenPeers | WriteBlob | BlobWritten
