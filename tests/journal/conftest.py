"""Journals on disk, entries to write to them, and what they say."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from scatterzmq.core.actions import Persist
from scatterzmq.core.entries import Entry, Kept
from scatterzmq.core.events import Persisted, PersistFailed, Restored
from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.values import Block, Value
from scatterzmq.core.versions import Version
from scatterzmq.errors import ErrorCode, ErrorContext, ErrorInfo
from scatterzmq.graph.formats import DTYPES, Layout, Shape
from scatterzmq.ids import BlockId, PeerId, TaskId
from scatterzmq.journal import SqliteJournal, open_journal
from scatterzmq.wire.columns import Column

Mode = Literal["batch", "sync"]
MODES: tuple[Mode, ...] = ("batch", "sync")
WAIT_S = 30.0
ME = PeerId("P" + "1" * 32)
OTHER = PeerId("P" + "2" * 32)


def task_id(number: int) -> TaskId:
    return TaskId(f"T{number:032x}")


def kept(number: int, values: Mapping[str, Value] | None, **changes: Any) -> Kept:
    """A task; with every field set to something that can be told from its default."""
    entry = Kept(
        id=task_id(number),
        ns="näme",
        digest=b"d" * 32,
        nonce=b"nonce678",
        submit_digest=b"s" * 16,
        version=Version(1, (3 << 20) + 7, OTHER, 3, 9),
        rset=(ME, OTHER),
        caching=True,
        errors=2,
        restarts=3,
        crashes=1,
        solo=True,
        last_error=ErrorInfo(
            code=ErrorCode.POISON, message="no", traceback="Traceback ...\n  é", context=ErrorContext(node="n0")
        ),
        status=TaskStatus.READY,
        duration_ms=17,
        values=values,
    )
    return replace(entry, **changes)


class Rows:
    """A store for values of single rows."""

    def __init__(self) -> None:
        self.columns: dict[BlockId, Column] = {}

    def put(self, column: Column, digests: tuple[bytes, ...] = ()) -> Value:
        block = Block(BlockId(ME, len(self.columns)), column.layout, len(column.data), digests)
        self.columns[block.id] = column
        return block, 0

    def of(self, data: bytes, shape: Shape | None = None, dtype: str = "uint8", digest: bytes = b"") -> Value:
        column = Column(Layout(DTYPES[dtype], 1, (len(data),) if shape is None else shape), memoryview(data))
        return self.put(column, (digest,) if digest else ())

    def beside(self, entries: Sequence[Entry]) -> list[dict[str, Column]]:
        """What a driver hands over with the entries."""
        return [
            {name: self.columns[block.id] for name, (block, _) in (entry.values or {}).items()}
            if isinstance(entry, Kept)
            else {}
            for entry in entries
        ]

    def shown(self, value: Value) -> tuple[Layout, tuple[bytes, ...], bytes]:
        """Layout, digests, and bytes of one row."""
        column = self.columns[value[0].id]
        return column.layout, value[0].digests, bytes(column.data)

    def plain(self, restored: Restored) -> list[object]:
        """What was restored, comparable: blocks are of one life only."""
        found: list[object] = []
        for entry in restored.entries:
            if isinstance(entry, Kept):
                assert entry.values is not None
                values = [(name, self.shown(value)) for name, value in entry.values.items()]
                found.append((replace(entry, values=None), values))
            else:
                found.append(entry)
        return [*found, *restored.contacts]


@dataclass
class Answers:
    """What a journal has said, in order."""

    all: list[Persisted | PersistFailed] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def post(self, answer: Persisted | PersistFailed) -> None:
        with self.changed:
            self.all.append(answer)
            self.changed.notify_all()

    def wait(self, write: int) -> None:
        """Until this write is done."""
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.all) and self.all[-1].write >= write, WAIT_S)
            assert all(isinstance(answer, Persisted) for answer in self.all), self.all


class Writer:
    """A journal, and somebody who writes to it."""

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.answers = Answers()
        self.rows = Rows()
        self.mode = mode
        self.writes = 0
        self.journal: SqliteJournal = open_journal(folder, mode, self.answers.post)

    def send(self, *entries: Entry) -> None:
        self.writes += 1
        persist = Persist(write=self.writes, entries=entries, sync=self.mode == "sync")
        self.journal.write(persist, self.rows.beside(entries))

    def write(self, *entries: Entry) -> None:
        self.send(*entries)
        self.answers.wait(self.writes)

    def restored(self) -> Restored:
        return self.journal.restored(self.rows.put)

    def plain(self) -> list[object]:
        return self.rows.plain(self.restored())


Open = Callable[..., Writer]


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    """Opens the journal in one folder, again and again; the one before is closed."""
    opened: list[Writer] = []

    def open_one(mode: Mode = "batch", folder: Path = tmp_path / "journal") -> Writer:
        for writer in opened:
            writer.journal.close()
        opened.append(Writer(folder, mode))
        return opened[-1]

    yield open_one
    for writer in opened:
        writer.journal.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "scatterzmq-journal"]
