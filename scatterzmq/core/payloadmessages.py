"""The words of the payload directory (core/payloads.py), which peers say beside those of core/peermessages.py."""

from ..frozen import frozen
from ..graph.formats import Layout
from ..ids import PeerId


@frozen()
class Payload:
    """A block that stays with the peer that made it. checksum: 16 bytes over all its bytes.

    digests: content digest per row; none if nothing caches.
    """

    maker: PeerId
    counter: int
    layout: Layout
    checksum: bytes
    digests: tuple[bytes, ...] = ()


@frozen()
class Places:
    """Where the rows of one field of a Grant are, by position of its tasks: row rows[i] of the payload at payloads[i],
    or, where that is one beyond the last payload, of the column beside the message."""

    field: str
    payloads: tuple[int, ...]
    rows: tuple[int, ...]


@frozen()
class Fetch:
    """Send me these blocks: to their maker, or to the owner for whom it keeps them."""

    maker: PeerId
    counters: tuple[int, ...]


@frozen()
class Fetched:
    """One block. Beside it: "rows" -> its rows, so many."""

    maker: PeerId
    counter: int
    rows: int


@frozen()
class Gone:
    """The sender has not got these blocks (any more). Said by the owner, it is final."""

    maker: PeerId
    counters: tuple[int, ...]


@frozen()
class FreePayloads:
    """From an owner: it does not need these blocks of the receiver any more."""

    counters: tuple[int, ...]


@frozen()
class HeldPayloads:
    """The sender still keeps these blocks for the receiver, which says FreePayloads of those it does not need."""

    counters: tuple[int, ...]
