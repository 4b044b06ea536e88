"""The journal: what must be on disk before what may be said.

Purpose   Collects what is to be kept, hands it to whoever writes it, and lets go on what waits for it.
Rules     1. All entries of one event make one write. Writes are answered in their order: an answer covers all before.
          2. Who waits, waits for everything noted so far, in this event or earlier.
          3. Only what is on disk for good (mode "sync") is called durable. In mode "batch" a write is answered when it
             is in the file; a loss of power may still take it.
          4. The first write that fails is the last one: nobody knows what a disk has kept after an error, so nothing is
             repeated. What waits goes on, undurable; so does all work, without a journal.
          5. The values of an entry stay stored until it is written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from .actions import Persist
from .blocks import Blocks
from .entries import Entry, Kept
from .outbox import Outbox
from .values import Value

Waiter: TypeAlias = Callable[[bool], None]
"""Called with whether it is durable."""


@dataclass(slots=True, eq=False)
class _Write:
    entries: list[Entry]
    waiters: list[Waiter]

    def values(self) -> Iterator[Value]:
        for entry in self.entries:
            if isinstance(entry, Kept) and entry.values is not None:
                yield from entry.values.values()


class Journal:
    """One peer's journal. failed: why nothing is written any more; "" as long as all is well."""

    def __init__(self, out: Outbox, blocks: Blocks, *, is_sync: bool) -> None:
        self._out = out
        self._blocks = blocks
        self._is_sync = is_sync
        self._next = _Write([], [])
        self._under_way: dict[int, _Write] = {}
        self._number = 0
        self.failed = ""

    def note(self, entry: Entry) -> None:
        """This is to be kept."""
        if self.failed:
            return
        self._next.entries.append(entry)
        if isinstance(entry, Kept) and entry.values is not None:
            for value in entry.values.values():
                self._blocks.hold(value)

    def when_kept(self, then: Waiter) -> None:
        """`then` is called when everything noted so far is kept, maybe at once."""
        if self._next.entries:
            self._next.waiters.append(then)
        elif self._under_way:
            self._under_way[self._number].waiters.append(then)
        else:
            then(self._is_sync and not self.failed)

    def flush(self) -> None:
        """Have written what this event has brought."""
        if self._next.entries:
            write, self._next = self._next, _Write([], [])
            self._number += 1
            self._under_way[self._number] = write
            self._out.persist(Persist(write=self._number, entries=tuple(write.entries), sync=self._is_sync))

    def persisted(self, number: int) -> None:
        """A write is over, and so are those before it."""
        done = [earlier for earlier in self._under_way if earlier <= number]
        writes = [self._under_way.pop(earlier) for earlier in done]
        self._go_on(writes, durable=self._is_sync)

    def fail(self, reason: str) -> None:
        """A write has failed."""
        if self.failed:
            return
        self.failed = reason or "it cannot be written"
        writes = [*self._under_way.values(), self._next]
        self._under_way, self._next = {}, _Write([], [])
        self._out.report("error.journal.failed", reason=self.failed)
        self._go_on(writes, durable=False)

    def _go_on(self, writes: list[_Write], *, durable: bool) -> None:
        for write in writes:
            self._blocks.release(write.values())
        for write in writes:
            for then in write.waiters:
                then(durable)

    def values_held(self) -> Iterator[Value]:
        """Everything that counts as a use of a block, for checks."""
        for write in self._under_way.values():
            yield from write.values()

    def check_invariants(self) -> None:
        assert not self._next.entries, "noted, and never written"
        assert not (self.failed and self._under_way)
