"""Checks across machines: what no single one of them can see. For tests; each costs O(everything)."""

from collections import Counter
from collections.abc import Iterable, Iterator

from ..ids import BlockId
from .ledger import Record
from .state import State
from .values import Block, Value


def check_uses(state: State, waiting: Iterable[Block]) -> None:
    """Count every use of a block anew: what is counted is exactly what somebody has.

    waiting: blocks of submissions that are not accepted yet, of batches, and those kept for others, one use each.
    """
    found: Counter[BlockId] = Counter(block.id for block in waiting)
    for record in state.ledger:
        found.update(block.id for block, _ in _values(record))
    found.update(block.id for block, _ in state.copies.values_held())
    found.update(block.id for block, _ in state.replicas.values_held())
    if state.journal is not None:
        found.update(block.id for block, _ in state.journal.values_held())
    if state.cache is not None:
        found.update(block.id for block, _ in state.cache.values_held())
    found.update(block.id for block in state.blocks.copies())
    assert dict(found) == state.blocks.uses()


def _values(record: Record) -> Iterator[Value]:
    yield from record.input.values()
    for frame in record.stack:
        yield from frame.values.values()
    yield from (record.result or {}).values()
