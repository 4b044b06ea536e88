"""Blocks: who in the core still needs which stored rows.

Purpose   Counts the uses of every block (by records, frames, results, cached values) and says when it may go.
Rules     1. A block lives while at least one use is counted; the last `release` frees it.
          2. What came with an event is held by the event until it has been handled (`admit` ... `settle`).
          3. What was evicted is no value any more: whoever finds that out has the task start over.
          4. Kept is one-way: a block that became part of a record or a cached value is kept until it is freed.
          5. A block may be away: another peer has made it and keeps it (core/payloads.py). It is counted like any
             other; with its last use its maker is told. There may be a copy here, which then counts as a use of that.
          6. What is away never becomes part of a record or a cached value (core/needed.py says why it need not).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from ..ids import BlockId, ClientId, PeerId
from .outbox import Outbox
from .values import Block, Value


class Loss(Enum):
    """Why a block is gone. EVICTED: its store was too small. DIED, LEFT: what became of the peer that kept it."""

    EVICTED = "evicted"
    DIED = "died"
    LEFT = "left"


@dataclass(slots=True, eq=False)
class _Away:
    """A block of another peer. copy: a block here that has the same rows, from `start` on.

    is_held: its maker keeps it for us. twice: it is to be at both places, and not only where it is needed.
    """

    block: Block
    is_held: bool = True
    copy: Block | None = None
    start: int = 0
    twice: bool = False


@dataclass(slots=True)
class Blocks:
    """Use counts per block. unneeded: maker -> counters of blocks that it keeps for nothing, until it is told.

    any_away: whether any block is away. A lone peer has nothing of it to do.
    """

    _out: Outbox
    _uses: dict[BlockId, int] = field(default_factory=dict)
    _kept: set[BlockId] = field(default_factory=set)
    _gone: dict[BlockId, Loss] = field(default_factory=dict)
    _away: dict[BlockId, _Away] = field(default_factory=dict)
    _by_maker: dict[PeerId | ClientId, dict[BlockId, None]] = field(default_factory=dict)
    _copies: dict[BlockId, list[BlockId]] = field(default_factory=dict)
    unneeded: dict[PeerId | ClientId, list[int]] = field(default_factory=dict)
    any_away: bool = False

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
        uses = self._uses
        for block in blocks:
            left = uses[block.id] - 1
            if left:
                uses[block.id] = left
            else:
                self._end(block.id)

    def hold(self, value: Value) -> None:
        """One more use of the value's block."""
        self._uses[value[0].id] += 1

    def release(self, values: Iterable[Value]) -> None:
        """One use less for each."""
        uses = self._uses
        for block, _ in values:
            left = uses[block.id] - 1
            if left:
                uses[block.id] = left
            else:
                self._end(block.id)

    def keep(self, value: Value) -> None:
        """The value became part of a record or a cached value: its block may not be evicted any more."""
        block = value[0]
        if block.id not in self._kept:
            assert block.id in self._uses
            assert block.id not in self._gone
            assert block.id not in self._away, "rule 6"
            self._kept.add(block.id)
            self._out.keep(block.id)

    def evicted(self, ids: Iterable[BlockId]) -> None:
        """The store has lost these blocks; remembered as long as somebody uses them."""
        for block in ids:
            if block in self._uses:
                self._gone[block] = Loss.EVICTED
                for copied in self._copies.pop(block, ()):
                    self._drop_copy(copied)

    @property
    def any_lost(self) -> bool:
        """Whether anything is gone that somebody may need."""
        return bool(self._gone)

    def any_gone(self, values: Iterable[Value]) -> bool:
        """Whether one of these rows is gone."""
        return bool(self._gone) and any(block.id in self._gone for block, _ in values)

    def loss(self, values: Iterable[Value]) -> Loss | None:
        """Why one of these rows is gone; None if none is."""
        if not self._gone:
            return None
        return next((self._gone[block.id] for block, _ in values if block.id in self._gone), None)

    # ---- what is away

    def admit_away(self, block: Block, copy: Block | None = None, start: int = 0) -> None:
        """Count one use for a block that its maker keeps for us from now on. copy: a block here with the same rows."""
        assert block.id not in self._uses
        self._uses[block.id] = 1
        away = self._away[block.id] = _Away(block)
        self.any_away = True
        self._by_maker.setdefault(block.id.maker, {})[block.id] = None
        if copy is not None:
            away.twice = True
            self._copy(away, copy, start)

    def is_used(self, block: BlockId) -> bool:
        return block in self._uses

    def away(self, block: BlockId) -> Block | None:
        """A block that another peer keeps for us; None if it does not, or has lost it."""
        away = self._away.get(block)
        return away.block if away is not None and away.is_held else None

    def here(self, value: Value) -> Value:
        """The same row where it lies here; as it is, if it does not."""
        away = self._away.get(value[0].id)
        return value if away is None or away.copy is None else (away.copy, away.start + value[1])

    def copy(self, block: BlockId) -> tuple[Value, ...]:
        """All rows of a block that is away, where there is a copy here; else ()."""
        away = self._away.get(block)
        if away is None or away.copy is None:
            return ()
        return tuple([(away.copy, away.start + row) for row in range(away.block.layout.rows)])

    def inputs(self, inputs: Mapping[str, tuple[Value, ...]]) -> Mapping[str, tuple[Value, ...]]:
        """Columns of values, with the rows that lie here."""
        return {name: tuple([self.here(value) for value in values]) for name, values in inputs.items()}

    def lacking(self, inputs: Mapping[str, tuple[Value, ...]]) -> dict[Block, None]:
        """The blocks of these columns that have to be fetched."""
        found: dict[Block, None] = {}
        for values in inputs.values():
            for block, _ in values:
                away = self._away.get(block.id)
                if away is not None and away.copy is None and away.is_held:
                    found[away.block] = None
        return found

    def lies_at(self, values: Iterable[Value]) -> PeerId | None:
        """The peer that keeps the largest of these rows; None if they are here."""
        sizes = [
            (block.row_nbytes(row), away.block.id.maker)
            for block, row in values
            if (away := self._away.get(block.id)) is not None and away.is_held
        ]
        maker = max(sizes, default=(0, None))[1]
        return maker if isinstance(maker, PeerId) else None

    def came(self, block: BlockId, copy: Block) -> None:
        """There is a copy here now. Its maker need not keep it, unless it was to be at both places."""
        away = self._away.get(block)
        if away is None or away.copy is not None:
            return
        self._gone.pop(block, None)
        self._copy(away, copy, 0)
        if away.is_held and not away.twice:
            self._let_go(away)

    def lost(self, block: BlockId, loss: Loss) -> None:
        """Its maker does not keep it any more."""
        away = self._away.get(block)
        if away is not None:
            away.is_held = False
            if away.copy is None:
                self._gone.setdefault(block, loss)

    def maker_gone(self, maker: PeerId, loss: Loss) -> None:
        """A peer is gone, with all that it kept. O(that)."""
        for block in self._by_maker.get(maker, ()):
            self.lost(block, loss)

    def _copy(self, away: _Away, copy: Block, start: int) -> None:
        away.copy, away.start = copy, start
        self._uses[copy.id] += 1
        self._copies.setdefault(copy.id, []).append(away.block.id)

    def _drop_copy(self, block: BlockId) -> None:
        away = self._away[block]
        assert away.copy is not None
        copy, away.copy = away.copy, None
        if not away.is_held:
            self._gone[block] = Loss.EVICTED
        self._release(copy.id)

    def _let_go(self, away: _Away) -> None:
        away.is_held = False
        self.unneeded.setdefault(away.block.id.maker, []).append(away.block.id.counter)

    # ---- looking

    def uses(self) -> dict[BlockId, int]:
        """A copy of all counts, for checks."""
        return dict(self._uses)

    def gone(self) -> frozenset[BlockId]:
        """A copy of what was lost while it was used, for checks."""
        return frozenset(self._gone)

    def all_away(self) -> frozenset[BlockId]:
        """A copy of what is away, for checks."""
        return frozenset(self._away)

    def copies(self) -> Iterator[Block]:
        """Every use of a block as a copy of what is away, for checks."""
        for away in self._away.values():
            if away.copy is not None:
                yield away.copy

    def check_invariants(self) -> None:
        assert all(count > 0 for count in self._uses.values())
        assert self._kept <= self._uses.keys()
        assert self._gone.keys() <= self._uses.keys()
        assert not self._gone.keys() & self._kept
        assert self._away.keys() <= self._uses.keys()
        assert self.any_away == bool(self._away)
        assert not self._away.keys() & self._kept
        assert {block for blocks in self._by_maker.values() for block in blocks} == self._away.keys()
        for block, away in self._away.items():
            assert (block in self._gone) == (away.copy is None and not away.is_held)
            assert away.copy is None or block in self._copies[away.copy.id]

    def _release(self, block: BlockId) -> None:
        left = self._uses[block] - 1
        if left:
            self._uses[block] = left
        else:
            self._end(block)

    def _end(self, block: BlockId) -> None:
        """The last use of a block has ended."""
        del self._uses[block]
        self._kept.discard(block)
        self._gone.pop(block, None)
        if self.any_away and block in self._away:
            away = self._away.pop(block)
            self.any_away = bool(self._away)
            self._release_away(away)
        else:
            self._out.free(block)

    def _release_away(self, away: _Away) -> None:
        id_ = away.block.id
        del self._by_maker[id_.maker][id_]
        if not self._by_maker[id_.maker]:
            del self._by_maker[id_.maker]
        if away.is_held:
            self._let_go(away)
        if away.copy is not None:
            copied = self._copies[away.copy.id]
            copied.remove(id_)
            if not copied:
                del self._copies[away.copy.id]
            self._release(away.copy.id)
