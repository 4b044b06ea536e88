"""Disks of the mesh's peers: what a journal's entries come to, and how much of it is left after an accident."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from scatterzmq.core.actions import Persist
from scatterzmq.core.entries import (
    DefinitionGone,
    DefinitionText,
    Deleted,
    Entry,
    Forgotten,
    Identity,
    Kept,
    Lapsed,
    Neighbour,
    NeighbourGone,
    Pointed,
)
from scatterzmq.core.events import Restored
from scatterzmq.core.peermessages import Contact
from scatterzmq.core.values import Block, Value


@dataclass
class Disk:
    """One peer's. unsynced: written, and not safe from a loss of power. held: to be written once nobody holds it.

    full: writes fail. tables: key -> entry; the values of a Kept entry are pairs (block, number) here.
    """

    tables: dict[object, Any] = field(default_factory=dict)
    unsynced: list[Entry] = field(default_factory=list)
    held: deque[Persist] = field(default_factory=deque)
    holding: bool = False
    full: bool = False
    writes: int = 0

    def write(self, action: Persist, read: Callable[[Value], int]) -> None:
        """Values are read now, as a driver does that writes what it is told at once."""
        self.writes += 1
        assert action.write == self.writes, "writes come in order"
        entries = []
        for entry in action.entries:
            if isinstance(entry, Kept) and entry.values is not None:
                rows = {name: (value[0], read(value)) for name, value in entry.values.items()}
                entry = replace(entry, values=rows)
            entries.append(entry)
        self.unsynced += entries
        if action.sync:
            self.sync()

    def sync(self) -> None:
        for entry in self.unsynced:
            self._apply(entry)
        self.unsynced = []

    def lose_tail(self) -> None:
        """Power fails."""
        self.unsynced = []

    def _apply(self, entry: Entry) -> None:
        tables = self.tables
        match entry:
            case Kept(id=task, values=values):
                if values is None:
                    entry = replace(entry, values=tables["task", task].values)
                tables["task", task] = entry
            case Forgotten(id=task):
                tables.pop(("task", task), None)
            case Deleted(id=task):
                tables["tombstone", task] = entry
            case Lapsed(id=task):
                del tables["tombstone", task]
            case DefinitionText(digest=digest):
                tables["definition", digest] = entry
            case DefinitionGone(digest=digest):
                del tables["definition", digest]
            case Pointed(pointer=pointer):
                tables["pointer", pointer.ns] = entry
            case Identity():
                tables["identity"] = entry
            case Neighbour(contact=contact):
                tables["neighbour", contact.id] = entry
            case NeighbourGone(peer=peer):
                tables.pop(("neighbour", peer), None)

    def incarnation(self) -> int:
        """Of the next life."""
        identity = self.tables.get("identity")
        return 1 if identity is None else int(identity.incarnation) + 1

    def tasks(self) -> dict[str, Kept]:
        return {entry.id: entry for entry in self.tables.values() if isinstance(entry, Kept)}

    def restored(self, store: Callable[[Block, int], Block]) -> Restored:
        """What is there, with its values stored again."""
        entries: list[Entry] = []
        contacts: list[Contact] = []
        for entry in self.tables.values():
            match entry:
                case Kept(values=values):
                    assert values is not None
                    rows = {name: (store(block, number), 0) for name, (block, number) in values.items()}
                    entries.append(replace(entry, values=rows))
                case Neighbour(contact=contact):
                    contacts.append(contact)
                case Identity():
                    pass
                case _:
                    entries.append(entry)
        return Restored(entries=tuple(entries), contacts=tuple(contacts))
