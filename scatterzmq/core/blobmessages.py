"""The words about blobs, between peers and from clients. The rules of core/messages.py hold; the core hears none of it.

Bytes travel beside a word as the one row of a column "data", at most `PIECE_BYTES`. Digests are blake2b of the whole
blob, 32 bytes, or empty where there is none (yet).
"""

from dataclasses import dataclass
from typing import TypeAlias

PIECE_BYTES = 1 << 20
DIGEST_BYTES = 32


# ---- peer -> peer


@dataclass(frozen=True, slots=True, kw_only=True)
class AskBlob:
    """Send so many bytes of this blob, from an offset on; 0 asks only whether it is there."""

    name: str
    offset: int
    bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobPiece:
    """Answer to AskBlob. blob_bytes, digest: of the whole; without a digest: it is there, ask again in a while."""

    name: str
    offset: int
    blob_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBlob:
    """Answer to AskBlob: it is not here."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBlob:
    """Fetch this blob, to be one of those that have it. Repeated until the answer says how it ended."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobKept:
    """Answer to KeepBlob: it is here, or why it cannot be; neither while it is still on its way."""

    name: str
    is_kept: bool
    problem: str = ""


# ---- client -> peer


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobWritten:
    """Answer to WriteBlob: how much has been taken, whether it is sealed and on how many peers, or what went wrong."""

    writer: bytes
    blob_bytes: int
    is_sealed: bool = False
    copies: int = 0
    problem: str = ""


BlobBetweenPeers: TypeAlias = AskBlob | BlobPiece | NoBlob | KeepBlob | BlobKept
BlobWord: TypeAlias = BlobBetweenPeers | WriteBlob | BlobWritten
