"""Checks across machines: what no single one of them can see. For tests; each costs O(everything)."""

from collections import Counter
from collections.abc import Iterable, Iterator

from ..ids import BlockId
from .cache import Cache
from .ledger import Ledger, Record
from .state import State
from .values import Block, Value


def check_uses(state: State, waiting: Iterable[Block]) -> None:
    """Count every use of a block anew: what is counted is exactly what somebody has.

    waiting: blocks of submissions that are not accepted yet, one use each.
    """
    found: Counter[BlockId] = Counter(block.id for block in waiting)
    for record in state.ledger:
        found.update(block.id for block, _ in _values(record))
    found.update(block.id for block, _ in state.copies.values_held())
    found.update(block.id for block, _ in state.replicas.values_held())
    if state.cache is not None:
        found.update(block.id for block, _ in state.cache.values_held())
    assert dict(found) == state.blocks.uses()


def check_cache(cache: Cache, ledger: Ledger) -> None:
    """Whoever waits for a key or leads one says so in its record, and nobody else does."""
    waiting = {record.id: record.waits_for for record in ledger if record.waits_for is not None}
    assert waiting == cache.waiters()
    leads = {(key, record.id) for record in ledger for key in record.leads or ()}
    assert leads >= cache.leaders().items()
    for record in ledger:
        for lead in (record.leads or {}).values():
            assert not record.phase.ended, record.told()
            assert lead.graph is record.plan.graphs[lead.graph.id], "what a task leads lies in its own plan"


def _values(record: Record) -> Iterator[Value]:
    yield from record.input.values()
    for frame in record.stack:
        yield from frame.values.values()
    yield from (record.result or {}).values()
