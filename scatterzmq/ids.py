"""Ids: one-letter prefix and 32 hex digits, as text; 16 bytes on the wire.

Graph, node and queue ids follow from names, so that saved definitions match; all others are random or counted.
"""

from typing import ClassVar, NamedTuple, Self
from uuid import UUID, uuid5

from .errors import FormatError

_GRAPHS = UUID("15f12337-4f9f-4a93-85a5-f31b6ed3f630")
_NODES = UUID("34467181-3551-4d6c-9ea3-6b5377ea0a19")
_QUEUES = UUID("55fbaa95-65fa-4bf3-ba80-6ade03c1e395")
_HEX = frozenset("0123456789abcdef")


class Id(str):
    """Base of all ids. `Kind.parse(text)` checks; calling the class trusts its caller."""

    __slots__ = ()
    PREFIX: ClassVar[str] = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check and convert. Raises FormatError, which shows the text, for a wrong prefix, length or digit."""
        if not isinstance(text, str) or len(text) != 33 or text[0] != cls.PREFIX or not _HEX.issuperset(text[1:]):
            raise FormatError(
                f"invalid {cls.__name__} {text!r:.80}: expected {cls.PREFIX!r} and 32 hex digits (0-9, a-f)"
            )
        return cls(text)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The id of 16 raw bytes. Raises ValueError for another length."""
        if len(raw) != 16:
            raise ValueError(f"invalid {cls.__name__}: {len(raw)} bytes, expected 16")
        return cls(cls.PREFIX + raw.hex())

    def to_bytes(self) -> bytes:
        """The 16 bytes behind the prefix."""
        return bytes.fromhex(self[1:])


class GraphId(Id):
    __slots__ = ()
    PREFIX = "G"

    @classmethod
    def of(cls, ns: str, graph: str) -> "GraphId":
        """The id that follows from the names."""
        return cls(cls.PREFIX + uuid5(_GRAPHS, f"{ns}:{graph}").hex)


class NodeId(Id):
    __slots__ = ()
    PREFIX = "N"

    @classmethod
    def of(cls, ns: str, graph: str, node: str) -> "NodeId":
        """The id that follows from the names."""
        return cls(cls.PREFIX + uuid5(_NODES, f"{ns}:{graph}:{node}").hex)


class QueueId(Id):
    __slots__ = ()
    PREFIX = "Q"

    @classmethod
    def of(cls, ns: str, graph: str, node: str) -> "QueueId":
        """The id that follows from the names."""
        return cls(cls.PREFIX + uuid5(_QUEUES, f"{ns}:{graph}:{node}").hex)


class TaskId(Id):
    __slots__ = ()
    PREFIX = "T"


class ExecutorId(Id):
    __slots__ = ()
    PREFIX = "E"


class PayloadId(Id):
    __slots__ = ()
    PREFIX = "D"


class PeerId(Id):
    __slots__ = ()
    PREFIX = "P"


class ClientId(Id):
    __slots__ = ()
    PREFIX = "C"


OUTPUT_QUEUE = QueueId("Q8a82aef7da2c4b49bf7ba25d42e99391")
"""Stands for 'the graph's output' where a definition names a queue."""


class Token(NamedTuple):
    """Authority to commit one step of one task once. Compares by (n, owner, seq): see core/leases.py."""

    n: int
    owner: PeerId
    seq: int


class BlockId(NamedTuple):
    """Names a stored block of rows for ever: its maker (a peer or a client) and that maker's counter."""

    maker: PeerId | ClientId
    counter: int
