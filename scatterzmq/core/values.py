"""Values: what the core knows of tensors. It never holds their bytes, only where the rows lie.

A `Block` is one field of a batch, stored once, immutable; a `Value` is one row of it. Bytes are attached
where they leave the core (to an executor, to a client, to another peer).
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from ..frozen import frozen
from ..graph.formats import Layout
from ..ids import BlockId, PeerId


@frozen(eq=False, kw_only=False)
class Block:
    """Rows of one field, stored under `id`.

    nbytes: of all rows.
    digests: per row blake2b-256 over dtype, shape and bytes, where something caches by content; else empty.
    checksum: 16 bytes over all bytes, where others may come to fetch them; else empty.
    """

    id: BlockId
    layout: Layout
    nbytes: int
    digests: tuple[bytes, ...] = ()
    checksum: bytes = b""

    def row_nbytes(self, row: int) -> int:
        layout = self.layout
        return self.nbytes // layout.rows if layout.shape is not None else layout.row_nbytes(row)


Value: TypeAlias = tuple[Block, int]
"""(block, row): a plain tuple, because there are several per task and step."""


def maker_of(block: Block) -> PeerId:
    """The peer that made a block of which others know."""
    maker = block.id.maker
    assert isinstance(maker, PeerId)
    return maker


def digests_of(values: Iterable[Value]) -> tuple[bytes, ...]:
    """Content digest per value; () if one of them is not known."""
    digests = []
    for block, row in values:
        if not block.digests:
            return ()
        digests.append(block.digests[row])
    return tuple(digests)


def known_digests(columns: Mapping[str, Iterable[Value]]) -> dict[str, tuple[bytes, ...]]:
    """Of the columns all of whose rows have one."""
    return {name: known for name, values in columns.items() if (known := digests_of(values))}
