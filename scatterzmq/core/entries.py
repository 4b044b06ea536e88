"""Entries: what a journal keeps, so that a peer that starts again knows what it knew.

Rules     1. An entry replaces what the journal has under its key; entries take effect in the order in which they come.
          2. The number of a kind never changes and is never used again: it is on disks.
          3. Tasks and tombstones are kept apart: a task id may be used again while its old tombstone stands.
          4. Values lie in blocks: whoever writes an entry writes their rows beside it, and stores them again before it
             hands the entry back.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeAlias, assert_never

from ..errors import ErrorInfo
from ..frozen import frozen
from ..ids import PeerId, TaskId
from .messages import TaskStatus
from .peermessages import Contact, Pointer
from .values import Value
from .versions import Version


@frozen()
class Kept:
    """A task that this peer owns, or of which it has a copy (`version` says whose it is); whole.

    values: input fields of a live task, result fields of a ready one; None: as they are in the journal already.
    status: None while it lives.
    """

    id: TaskId
    ns: str
    digest: bytes
    nonce: bytes
    submit_digest: bytes
    version: Version
    rset: tuple[PeerId, ...]
    caching: bool
    errors: int
    restarts: int
    crashes: int
    solo: bool
    last_error: ErrorInfo | None
    status: TaskStatus | None
    duration_ms: int
    values: Mapping[str, Value] | None


@frozen()
class Forgotten:
    """A task is not here any more; somebody else may have it. Its tombstone, if there is one, stays."""

    id: TaskId


@frozen()
class Deleted:
    """A tombstone: this very task is not to come back."""

    id: TaskId
    nonce: bytes
    version: Version


@frozen()
class Lapsed:
    """A tombstone has stood long enough."""

    id: TaskId


@frozen()
class DefinitionText:
    """A graph definition (JSON text)."""

    digest: bytes
    definition: str


@frozen()
class DefinitionGone:
    """Nobody needs this definition any more."""

    digest: bytes


@frozen()
class Pointed:
    """Which definition a namespace names."""

    pointer: Pointer


@frozen()
class Identity:
    """Who writes this journal, and in which of its lives."""

    peer: PeerId
    incarnation: int


@frozen()
class Neighbour:
    """Somebody is a member: to be waited for after the next start."""

    contact: Contact


@frozen()
class NeighbourGone:
    """Nobody is to wait for this peer any more."""

    peer: PeerId


Entry: TypeAlias = (
    Kept
    | Forgotten
    | Deleted
    | Lapsed
    | DefinitionText
    | DefinitionGone
    | Pointed
    | Identity
    | Neighbour
    | NeighbourGone
)

REMOVALS = (Forgotten, Lapsed, DefinitionGone, NeighbourGone)
"""Entries after which there is nothing any more under their key."""


class Kind(IntEnum):
    """What an entry is about."""

    TASK = 1
    TOMBSTONE = 2
    DEFINITION = 3
    POINTER = 4
    IDENTITY = 5
    NEIGHBOUR = 6


def key(entry: Entry) -> tuple[Kind, bytes]:
    """Where an entry has its effect."""
    match entry:
        case Kept(id=task) | Forgotten(id=task):
            return Kind.TASK, task.to_bytes()
        case Deleted(id=task) | Lapsed(id=task):
            return Kind.TOMBSTONE, task.to_bytes()
        case DefinitionText(digest=digest) | DefinitionGone(digest=digest):
            return Kind.DEFINITION, digest
        case Pointed(pointer=pointer):
            return Kind.POINTER, pointer.ns.encode(errors="surrogatepass")
        case Identity():
            return Kind.IDENTITY, b""
        case Neighbour(contact=contact):
            return Kind.NEIGHBOUR, contact.id.to_bytes()
        case NeighbourGone(peer=peer):
            return Kind.NEIGHBOUR, peer.to_bytes()
        case _:
            assert_never(entry)
