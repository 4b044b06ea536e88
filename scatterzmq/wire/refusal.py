"""What is refused on receipt, and why: the limits of a message and the closed list of reasons."""

from enum import StrEnum

from ..frozen import frozen

MIB = 1 << 20


class Reject(StrEnum):
    """Why a message was dropped. Counted per reason; sent back at most now and then."""

    FRAME_COUNT = "frame_count"
    TOTAL_BYTES = "total_bytes"
    ENVELOPE = "envelope"
    MAGIC = "magic"
    VERSION = "version"
    KIND = "kind"
    BODY_BYTES = "body_bytes"
    BODY = "body"
    DEPTH = "depth"
    MISSING = "missing"
    FIELD = "field"
    COLUMN = "column"
    NAME = "name"
    DTYPE = "dtype"
    RANK = "rank"
    ROWS = "rows"
    SHAPE = "shape"
    FRAME_INDEX = "frame_index"
    NBYTES = "nbytes"
    BOOL = "bool"
    MISMATCH = "mismatch"


class WireError(ValueError):
    """Bytes that are no message of ours. `detail` says where, for logs; nothing depends on it."""

    def __init__(self, reason: Reject, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


@frozen()
class Limits:
    """What one message may hold; more is refused before anything is made of it.

    frames: envelope and body included; the rest are columns, one per field, and graphs have few fields.
    total_bytes: of all frames together.
    body_bytes: of the body, where no tensors are: ids and digests of 10,000 tasks fit.
    items: of any list in the body. rows: of any column, as many as a batch may have tasks.
    rank: dimensions of a tensor. name_chars: of a field or key. depth: of lists in lists in unknown new fields.
    """

    frames: int = 258
    total_bytes: int = 256 * MIB
    body_bytes: int = MIB
    items: int = 65536
    rows: int = 65536
    rank: int = 8
    name_chars: int = 255
    depth: int = 32
