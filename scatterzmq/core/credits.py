"""Credits: how much may be on its way from each member at a time.

Purpose   Whoever needs more than that of one member asks for the rest when something has come: what a sender has to
          keep for a slow link is bounded by who asks, and nothing is dropped there that had to be asked for again.
Rules     1. Blocks are asked for in the order in which they were needed. One may always be, however large.
          2. Each member has a credit of its own, so one that is silent keeps nobody else back.
"""

from dataclasses import dataclass, field

from ..ids import BlockId, PeerId
from .values import Block


@dataclass(slots=True, eq=False)
class _Line:
    """Of one member: bytes of blocks that are on their way, and of those that wait."""

    coming: dict[BlockId, int] = field(default_factory=dict)
    waiting: dict[BlockId, int] = field(default_factory=dict)
    nbytes: int = 0


class Credits:
    """bytes_max: of all blocks that are on their way from one member."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lines: dict[PeerId, _Line] = {}
        self._members: dict[BlockId, PeerId] = {}

    def take(self, member: PeerId, block: Block) -> bool:
        """Whether to ask a member for a block now; else it waits for its turn."""
        assert block.id not in self._members
        line = self._lines.setdefault(member, _Line())
        self._members[block.id] = member
        line.waiting[block.id] = block.nbytes
        return block.id in self._next(line)

    def end(self, id_: BlockId) -> list[BlockId]:
        """A block has come, or is not to be asked for there any more. Returns those whose turn it is now."""
        member = self._members.pop(id_)
        line = self._lines[member]
        line.waiting.pop(id_, None)
        line.nbytes -= line.coming.pop(id_, 0)
        if not line.coming and not line.waiting:
            del self._lines[member]
        return self._next(line)

    def _next(self, line: _Line) -> list[BlockId]:
        """Those that may be asked for now."""
        begun = []
        for id_, nbytes in line.waiting.items():
            if line.coming and line.nbytes + nbytes > self._bytes_max:
                break
            line.coming[id_] = nbytes
            line.nbytes += nbytes
            begun.append(id_)
        for id_ in begun:
            del line.waiting[id_]
        return begun

    def check_invariants(self, asked: dict[BlockId, PeerId]) -> None:
        """asked: whom each block is to come from."""
        assert asked == self._members
        assert asked == {id_: member for member, line in self._lines.items() for id_ in (*line.coming, *line.waiting)}
        for line in self._lines.values():
            assert line.coming, "nothing will come"
            assert line.nbytes == sum(line.coming.values())
            assert line.nbytes <= self._bytes_max or len(line.coming) == 1
