"""Payload store: the rows of tensors that tasks work on, as immutable blocks within a bound.

Rules     1. A kept block stays until it is freed. A volatile one may also be evicted: oldest first, until the volatile
             ones fit into `bytes` (modes "size" and "both"), or at the age of `ttl_s` (modes "time" and "both").
             Only `trim` and `expire` evict, and they say what: between a `put` and them, new blocks can be kept.
          2. A pinned block does not go; if it is freed meanwhile, it goes with the last `unpin`.
          3. An id is never used twice, not even by another life of the same maker, so whoever asks for a block that has
             gone learns just that.
          4. Time comes in as `now_ms` and never goes back; one deadline comes out.
Why       Too small a store costs tasks another try, never memory. Volatile columns that are large for the store become
          several blocks, so that it loses some rows of a batch and not all of them at once.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

from xxhash import xxh3_128_digest

from ..core.values import Block, Value
from ..ids import BlockId, ClientId, PeerId
from ..settings import StoreSettings
from ..wire.columns import Apart, Column, gather, gather_apart, split

_PIECES_PER_STORE = 16
"""A volatile block of several rows takes at most this fraction of the store."""

_FETCHED_BYTES_MAX = 4 << 20
"""So large is a block of several rows that others may fetch: it goes in one message."""

_LIFE_BITS = 40
"""A maker stores so many blocks in one life."""


@dataclass(slots=True, eq=False)
class _Stored:
    column: Column
    nbytes: int
    kept: bool
    stored_ms: int
    pins: int = 0
    freed: bool = False


class PayloadStore:
    """All blocks of one maker. Driven by one thread. life: of the maker, where one may start again under its old id.

    volatile_bytes / kept_bytes: what the blocks of either sort hold.
    """

    def __init__(self, settings: StoreSettings, maker: PeerId | ClientId, life: int = 0) -> None:
        self.volatile_bytes = 0
        self.kept_bytes = 0
        self._maker = maker
        self._bytes_max = None if settings.mode == "time" else settings.bytes
        self._ttl_ms = None if settings.mode == "size" else max(int(settings.ttl_s * 1000), 1)
        self._counter = life << _LIFE_BITS
        self._oversized: list[BlockId] = []
        self._blocks: dict[BlockId, _Stored] = {}
        # By age. Unlike a dict, it stays quick to ask for the oldest when the older ones have been taken out.
        self._volatile: OrderedDict[BlockId, _Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def put(
        self,
        column: Column | Apart,
        now_ms: int,
        *,
        kept: bool = False,
        whole: bool = False,
        digests: tuple[bytes, ...] = (),
        shared: bool = False,
    ) -> tuple[Value, ...]:
        """Store a column and return one Value per row, in order. Nobody may write to its memory any more.

        column: what lies apart is stored row by row.
        whole: as one block, however large. digests: content digest per row, or none at all.
        shared: others may come to fetch it, or it was fetched: with a checksum.
        Call `trim` when it is clear what of it is to be kept.
        """
        assert len(digests) in (0, column.layout.rows), f"{len(digests)} digests for {column.layout.rows} rows"
        values: list[Value] = []
        for piece in self._pieces(column, kept or whole, shared):
            rows, start = piece.layout.rows, len(values)
            self._counter += 1
            block = Block(
                BlockId(self._maker, self._counter),
                piece.layout,
                len(piece.data),
                digests[start : start + rows],
                xxh3_128_digest(piece.data) if shared else b"",
            )
            values.extend(zip(repeat(block), range(rows)))
            stored = self._blocks[block.id] = _Stored(piece, block.nbytes, kept, now_ms)
            if kept:
                self.kept_bytes += block.nbytes
                continue
            self._volatile[block.id] = stored
            self.volatile_bytes += block.nbytes
            if self._bytes_max is not None and block.nbytes > self._bytes_max:
                self._oversized.append(block.id)
        return tuple(values)

    def trim(self) -> tuple[BlockId, ...]:
        """Evict until the volatile blocks fit; returns what has gone.

        A block that alone is larger than the store goes without pushing others out.
        """
        bytes_max = self._bytes_max
        if bytes_max is None or self.volatile_bytes <= bytes_max:
            self._oversized.clear()
            return ()
        large = [block_id for block_id in self._oversized if block_id in self._volatile]
        self._oversized.clear()
        due = [block_id for block_id in large if not self._volatile[block_id].pins]
        excess = self.volatile_bytes - bytes_max - sum([self._volatile[block_id].nbytes for block_id in due])
        for block_id, stored in self._volatile.items():
            if excess <= 0:
                break
            if not stored.pins and block_id not in due:
                due.append(block_id)
                excess -= stored.nbytes
        for block_id in due:
            self._drop(block_id)
        return tuple(due)

    def keep(self, ids: Iterable[BlockId]) -> None:
        """Never evict these blocks. Those that have gone already are passed over."""
        for block_id in ids:
            stored = self._volatile.pop(block_id, None)
            if stored is not None:
                stored.kept = True
                self.volatile_bytes -= stored.nbytes
                self.kept_bytes += stored.nbytes

    def free(self, ids: Iterable[BlockId]) -> None:
        """Nobody needs these blocks any more. Those that have gone already are passed over."""
        for block_id in ids:
            stored = self._blocks.get(block_id)
            if stored is not None:
                stored.freed = True
                if not stored.pins:
                    self._drop(block_id)

    def holds(self, block_id: BlockId) -> bool:
        return block_id in self._blocks

    def collect(self, values: Sequence[Value]) -> Column:
        """The rows in one column, which may share memory with the store. Raises KeyError(id) if a block has gone."""
        if len(values) == 1:  # a task on its own
            column = self._blocks[values[0][0].id].column
            if column.layout.rows == 1:
                return column
        return gather(self._parts(values))

    def collect_apart(self, values: Sequence[Value]) -> Column | Apart:
        """As `collect`, but nothing is copied."""
        return gather_apart(self._parts(values))

    def _parts(self, values: Sequence[Value]) -> list[tuple[Column, int]]:
        blocks = self._blocks
        parts = []
        last: Block | None = None
        for block, row in values:
            if block is not last:
                column = blocks[block.id].column
                last = block
            parts.append((column, row))
        return parts

    def collect_private(self, values: Sequence[Value]) -> Column:
        """As `collect`, but never sharing memory with a kept block: for nodes, which could write to it."""
        column = self.collect(values)
        # Memory is shared only where all rows come from one block, so the first value's block tells.
        stored = self._blocks[values[0][0].id]
        if stored.kept and column.data.obj is stored.column.data.obj:
            return Column(column.layout, memoryview(bytearray(column.data)))
        return column

    def pin(self, ids: Iterable[BlockId]) -> tuple[BlockId, ...]:
        """Do not let these blocks go before as many `unpin`. Returns those that have gone already."""
        gone = []
        for block_id in ids:
            stored = self._blocks.get(block_id)
            if stored is None:
                gone.append(block_id)
            else:
                stored.pins += 1
        return tuple(gone)

    def unpin(self, ids: Iterable[BlockId]) -> None:
        """Take back one `pin` each."""
        for block_id in ids:
            stored = self._blocks.get(block_id)
            if stored is not None:
                assert stored.pins > 0, f"block {block_id.counter} is not pinned"
                stored.pins -= 1
                if stored.freed and not stored.pins:
                    self._drop(block_id)

    def expire(self, now_ms: int) -> tuple[BlockId, ...]:
        """Evict the volatile blocks that are too old; returns them."""
        if self._ttl_ms is None:
            return ()
        due = []
        for block_id, stored in self._volatile.items():
            if stored.stored_ms + self._ttl_ms > now_ms:
                break
            if not stored.pins:
                due.append(block_id)
        for block_id in due:
            self._drop(block_id)
        return tuple(due)

    def deadline_ms(self) -> int | None:
        """Earliest moment at which `expire` does something; None if there is none (now)."""
        if self._ttl_ms is None:
            return None
        oldest = next((stored for stored in self._volatile.values() if not stored.pins), None)
        return None if oldest is None else oldest.stored_ms + self._ttl_ms

    def check_invariants(self) -> None:
        """Recount everything. O(blocks)."""
        volatile = [(block_id, stored) for block_id, stored in self._blocks.items() if not stored.kept]
        assert list(self._volatile.items()) == volatile, "the volatile blocks, by age"
        assert self.volatile_bytes == sum(stored.nbytes for _, stored in volatile)
        assert self.kept_bytes == sum(stored.nbytes for stored in self._blocks.values() if stored.kept)
        for stored in self._blocks.values():
            assert stored.nbytes == len(stored.column.data) == stored.column.layout.nbytes
            assert stored.pins >= 0
            assert stored.pins or not stored.freed

    def _pieces(self, column: Column | Apart, whole: bool, shared: bool) -> Sequence[Column]:
        if isinstance(column, Apart):
            return [column.joined()] if whole else column.rows()
        if column.layout.rows == 1:
            return (column,)
        if not column.layout.rows:
            return []
        piece_nbytes = len(column.data) if self._bytes_max is None else self._bytes_max // _PIECES_PER_STORE
        if whole:
            return [column]
        if shared:
            piece_nbytes = min(piece_nbytes, _FETCHED_BYTES_MAX)
        return [column] if len(column.data) <= piece_nbytes else split(column, piece_nbytes)

    def _drop(self, block_id: BlockId) -> None:
        stored = self._blocks.pop(block_id)
        if stored.kept:
            self.kept_bytes -= stored.nbytes
        else:
            del self._volatile[block_id]
            self.volatile_bytes -= stored.nbytes
