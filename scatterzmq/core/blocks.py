"""Blocks: who in the core still needs which stored rows.

Purpose   Counts the uses of every block (by records, frames, results, cached values) and says when it may go.
Rules     1. A block lives while at least one use is counted; the last `release` frees it.
          2. What came with an event is held by the event until it has been handled (`admit` ... `settle`).
          3. What was evicted is no value any more: whoever finds that out has the task start over.
          4. Kept is one-way: a block that became part of a record or a cached value is kept until it is freed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..ids import BlockId
from .outbox import Outbox
from .values import Block, Value


@dataclass(slots=True)
class Blocks:
    """Use counts per block."""

    _out: Outbox
    _uses: dict[BlockId, int] = field(default_factory=dict)
    _kept: set[BlockId] = field(default_factory=set)
    _gone: set[BlockId] = field(default_factory=set)

    def admit(self, blocks: Iterable[Block], *, kept: bool) -> list[Block]:
        """Count one use each for blocks that have just been stored; give it back with `settle`."""
        admitted = list(blocks)
        for block in admitted:
            assert block.id not in self._uses
            self._uses[block.id] = 1
            if kept:
                self._kept.add(block.id)
        return admitted

    def settle(self, blocks: Iterable[Block]) -> None:
        """End the use that `admit` counted."""
        for block in blocks:
            self._release(block)

    def hold(self, value: Value) -> None:
        """One more use of the value's block."""
        self._uses[value[0].id] += 1

    def release(self, values: Iterable[Value]) -> None:
        """One use less for each."""
        for value in values:
            self._release(value[0])

    def keep(self, value: Value) -> None:
        """The value became part of a record or a cached value: its block may not be evicted any more."""
        block = value[0]
        if block.id not in self._kept:
            assert block.id in self._uses
            assert block.id not in self._gone
            self._kept.add(block.id)
            self._out.keep(block.id)

    def evicted(self, ids: Iterable[BlockId]) -> None:
        """The store has lost these blocks; remembered as long as somebody uses them."""
        self._gone.update(block for block in ids if block in self._uses)

    def any_gone(self, values: Iterable[Value]) -> bool:
        """Whether one of these rows has been evicted."""
        return bool(self._gone) and any(block.id in self._gone for block, _ in values)

    def uses(self) -> dict[BlockId, int]:
        """A copy of all counts, for checks."""
        return dict(self._uses)

    def gone(self) -> frozenset[BlockId]:
        """A copy of what was evicted while it was used, for checks."""
        return frozenset(self._gone)

    def check_invariants(self) -> None:
        assert all(count > 0 for count in self._uses.values())
        assert self._kept <= self._uses.keys()
        assert self._gone <= self._uses.keys()
        assert not self._gone & self._kept

    def _release(self, block: Block) -> None:
        left = self._uses[block.id] - 1
        if left:
            self._uses[block.id] = left
            return
        del self._uses[block.id]
        self._kept.discard(block.id)
        self._gone.discard(block.id)
        self._out.free(block.id)
