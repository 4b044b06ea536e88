"""The disk of a simulated peer: what its journal has come to, and what is left of that when the power fails.

Rules   1. What is written is in `tables` once it is synced; before that it survives the end of a process, and of
           power only in part.
        2. Rows are written with their bytes, as a driver would; blocks are of one life only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from ..core.actions import Persist
from ..core.entries import REMOVALS, Entry, Identity, Kept, Kind, Neighbour, key
from ..core.events import Restored
from ..ids import TaskId
from ..wire.columns import Column
from .payload import Store


@dataclass(frozen=True, slots=True)
class _Row:
    column: Column
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    entry: Entry
    rows: Mapping[str, _Row] = field(default_factory=dict)


class Disk:
    """is_full: writes fail. was_safe: tasks that have been on it for good, and whether with their end."""

    def __init__(self) -> None:
        self.tables: dict[tuple[Kind, bytes], _Written] = {}
        self.is_full = False
        self.was_safe: dict[TaskId, bool] = {}
        self._tail: list[list[_Written]] = []

    def write(self, action: Persist, store: Store) -> None:
        write: list[_Written] = []
        self._tail.append(write)
        for entry in action.entries:
            rows = {}
            if isinstance(entry, Kept):
                for name, (block, row) in (entry.values or {}).items():
                    digests = block.digests[row : row + 1]
                    rows[name] = _Row(store.collect([(block, row)]), digests)
            write.append(_Written(entry, rows))

    def sync(self) -> None:
        tail, self._tail = self._tail, []
        for write in tail:
            for written in write:
                self._apply(written)

    def lose_tail(self, chance: Random) -> int:
        """The power fails: of what has not been synced the first writes may have come to the disk, each as a whole.
        Returns how much is lost.
        """
        left = chance.randint(0, len(self._tail))
        lost = sum(map(len, self._tail[left:]))
        del self._tail[left:]
        return lost

    def _apply(self, written: _Written) -> None:
        entry, place = written.entry, key(written.entry)
        if isinstance(entry, REMOVALS):
            self.tables.pop(place, None)
            return
        if isinstance(entry, Kept) and entry.values is None:
            written = replace(written, rows=self.tables[place].rows)
        self.tables[place] = written
        if isinstance(entry, Kept):
            self.was_safe[entry.id] = entry.status is not None or self.was_safe.get(entry.id, False)

    # ---- reading

    def identity(self) -> Identity | None:
        written = self.tables.get((Kind.IDENTITY, b""))
        return written.entry if written is not None and isinstance(written.entry, Identity) else None

    def task(self, task: TaskId) -> Kept | None:
        """What is safe of a task."""
        written = self.tables.get((Kind.TASK, task.to_bytes()))
        return written.entry if written is not None and isinstance(written.entry, Kept) else None

    def tasks(self) -> list[TaskId]:
        return [written.entry.id for written in self.tables.values() if isinstance(written.entry, Kept)]

    def restored(self, store: Store) -> Restored:
        """Everything, its rows stored again."""
        entries: list[Entry] = []
        contacts = []
        for written in self.tables.values():
            entry = written.entry
            if isinstance(entry, Neighbour):
                contacts.append(entry.contact)
            elif isinstance(entry, Kept):
                values = {
                    name: (store.put(row.column, kept=True, digests=row.digests), 0)
                    for name, row in written.rows.items()
                }
                entries.append(replace(entry, values=values))
            elif not isinstance(entry, Identity):
                entries.append(entry)
        return Restored(entries=tuple(entries), contacts=tuple(contacts))
