"""Tensors of a simulation: columns of whole numbers, and a store that loses what it may lose when it is told to."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

from ..core.values import Block, Value
from ..graph.formats import DTYPES, Layout
from ..ids import BlockId, PeerId
from ..wire.columns import Column, gather, row_digests
from .corpus import Data

_LONG = DTYPES["int64"]
LIFE_BITS = 32
"""So many blocks are stored in one life of a process."""


def column_of(values: Sequence[Data]) -> Column:
    """One column, a row per value."""
    if isinstance(values[0], int):
        return Column(Layout(_LONG, len(values), ()), memoryview(struct.pack(f"<{len(values)}q", *values)))
    rows = [value for value in values if isinstance(value, tuple)]
    assert len(rows) == len(values)
    shapes = tuple((len(row),) for row in rows)
    flat = [number for row in rows for number in row]
    alike = shapes[0] if len(set(shapes)) == 1 else None
    layout = Layout(_LONG, len(rows), alike, () if alike is not None else shapes)
    return Column(layout, memoryview(struct.pack(f"<{len(flat)}q", *flat)))


def values_of(column: Column) -> list[Data]:
    """The rows of a column."""
    layout = column.layout
    if layout.shape == ():
        return list(struct.unpack(f"<{layout.rows}q", column.data))
    return [struct.unpack(f"<{len(row) // 8}q", row) for row in map(column.row, range(layout.rows))]


def damaged(column: Column, chance: Random) -> Column:
    """The same with one wrong bit."""
    data = bytearray(column.data)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return Column(column.layout, memoryview(data))


@dataclass(slots=True, eq=False)
class _Stored:
    column: Column
    kept: bool
    pins: int = 0
    freed: bool = False


class Store:
    """The blocks of one process. As execute/store.py, but what goes is chosen from outside (`volatile`, `evict`)."""

    def __init__(self, maker: PeerId, life: int) -> None:
        self._maker = maker
        self._counter = life << LIFE_BITS
        self._blocks: dict[BlockId, _Stored] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def put(
        self,
        column: Column,
        *,
        kept: bool = False,
        digests: tuple[bytes, ...] | None = None,
        shared: bool = False,
    ) -> Block:
        """digests: None computes them. shared: with a checksum."""
        self._counter += 1
        if digests is None:
            digests = row_digests(column)
        checksum = blake2b(column.data, digest_size=16).digest() if shared else b""
        block = Block(BlockId(self._maker, self._counter), column.layout, len(column.data), digests, checksum)
        self._blocks[block.id] = _Stored(column, kept)
        return block

    def collect(self, values: Sequence[Value]) -> Column:
        return gather([(self._blocks[block.id].column, row) for block, row in values])

    def holds(self, block: BlockId) -> bool:
        return block in self._blocks

    def keep(self, ids: Iterable[BlockId]) -> None:
        for block in ids:
            if block in self._blocks:
                self._blocks[block].kept = True

    def free(self, ids: Iterable[BlockId]) -> None:
        for block in ids:
            stored = self._blocks.get(block)
            if stored is not None:
                assert not stored.freed, "freed twice"
                stored.freed = True
                self._drop_if_free(block, stored)

    def pin(self, ids: Iterable[BlockId]) -> None:
        for block in ids:
            self._blocks[block].pins += 1

    def unpin(self, ids: Iterable[BlockId]) -> None:
        for block in ids:
            stored = self._blocks[block]
            stored.pins -= 1
            self._drop_if_free(block, stored)

    def volatile(self) -> list[BlockId]:
        """What may be evicted, oldest first."""
        return [block for block, stored in self._blocks.items() if not stored.kept and not stored.pins]

    def evict(self, ids: Iterable[BlockId]) -> None:
        for block in ids:
            del self._blocks[block]

    def held(self) -> frozenset[BlockId]:
        return frozenset(self._blocks)

    def _drop_if_free(self, block: BlockId, stored: _Stored) -> None:
        if stored.freed and not stored.pins:
            del self._blocks[block]
