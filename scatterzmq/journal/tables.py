"""The tables of a journal in SQLite: opened, changed, and read again.

Rules     1. A transaction that is committed survives the end of the process. Mode "sync": it is on disk. Mode "batch":
             it is there at most SYNC_S later, see `settle`.
          2. Whatever fails here raises sqlite3.Error or OSError, and then nothing here may be called but `abandon`.
          3. Format n is made of format n-1 by FORMATS[n-1]. A newer one is not touched.
          4. The rows of `entries` are in the order in which their keys came first.
Why       sync: with synchronous=FULL SQLite syncs its log (WAL) before COMMIT returns, and a commit counts from the
             moment at which its last frame is in the log, with a checksum over all before it. So it is on disk for good
             as far as the disk itself does not lie.
          batch: with synchronous=NORMAL nothing syncs the log before a checkpoint, maybe minutes later; so we do.
          Checkpoints are ours: SQLite's automatic ones keep their errors to themselves and try again, but after a sync
             that failed the next one says that all is well though it is not.
          locking_mode=EXCLUSIVE: nobody who looks into the file can hold up a write or a checkpoint, and no shared
             memory is needed.
"""

import ctypes
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from ..core.entries import DefinitionGone, Entry, Forgotten, Identity, Kept, Kind, Lapsed, NeighbourGone, key
from ..core.values import Value
from ..ids import PeerId
from ..wire.columns import Column
from .folder import unusable
from .packed import DamagedError, Head, cut, joined, pack_body, pack_fields, unpack_body, unpack_fields

Columns: TypeAlias = Mapping[str, Column]
Put: TypeAlias = Callable[[Column, tuple[bytes, ...]], Value]

FILE = "journal.sqlite3"
APPLICATION = 0x737A6D71
"""Marks a file of SQLite as ours ("szmq")."""
FORMATS: tuple[tuple[str, ...], ...] = (
    (
        # fields: of a task only. Bytes of large fields are in `parts`: field is the position in `fields`.
        """CREATE TABLE entries (position INTEGER PRIMARY KEY, kind INTEGER NOT NULL, key BLOB NOT NULL,
                                 body BLOB NOT NULL, fields BLOB, UNIQUE (kind, key))""",
        """CREATE TABLE parts (task BLOB NOT NULL, field INTEGER NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL,
                               UNIQUE (task, field, part))""",
    ),
)
SYNC_S = 0.05
"""Mode "batch": so much is lost with the power at most, and whatever a sync takes."""
LOG_BYTES_MAX = 32 << 20
"""Of the log before a checkpoint; one transaction may be larger."""
FREE_BYTES_MAX = 64 << 20
"""Of pages that nothing uses: kept for what comes, the rest is given back at the next start."""

_PRAGMAS = (
    "auto_vacuum = INCREMENTAL",  # has to come before the first table
    "journal_mode = WAL",
    "synchronous = FULL",
    "fullfsync = ON",  # means something on macOS only, where fsync alone does not reach the disk
    "checkpoint_fullfsync = ON",
    "wal_autocheckpoint = 0",
    f"journal_size_limit = {2 * LOG_BYTES_MAX}",
    "secure_delete = FAST",  # zeros over freed pages would be written to disk, too
    "cell_size_check = ON",
)

_PUT = """INSERT INTO entries (kind, key, body, fields) VALUES (?, ?, ?, ?)
          ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body, fields = excluded.fields"""
_PUT_BODY = "UPDATE entries SET body = ? WHERE kind = ? AND key = ?"
_REMOVE = "DELETE FROM entries WHERE kind = ? AND key = ?"
_PUT_PART = "INSERT INTO parts (task, field, part, data) VALUES (?, ?, ?, ?)"
_REMOVE_PARTS = "DELETE FROM parts WHERE task = ?"
_ALL = "SELECT kind, key, body, fields FROM entries WHERE kind <> ? ORDER BY position"
_PARTS = "SELECT data FROM parts WHERE task = ? AND field = ? ORDER BY part"
_IDENTITY = "SELECT body FROM entries WHERE kind = ?"

_PAGE_BYTES = 4096
_COMMIT_BYTES = 4 * _PAGE_BYTES


def open_tables(folder: Path, draw: Callable[[], PeerId], *, is_sync: bool) -> "Tables":
    """Open the file, or make it, and begin the next life. Raises ConfigError."""
    path = folder / FILE
    with ExitStack() as undo:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite would let others read it
            # Used by one thread at a time: by the one that opens and reads it, then by the writer.
            connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
            undo.callback(connection.close)
            # Before anything is read, or SQLite makes shared memory.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            found = _format(connection, folder)
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").fetchall()
            if found:
                _check(connection)
            identity = _begin_life(connection, found, draw)
            _shrink(connection)
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_sync else 'NORMAL'}")
            tables = Tables(connection, path, identity, is_sync=is_sync)
        except (sqlite3.Error, OSError, DamagedError) as error:
            raise reading_failed(folder, error) from None
        undo.pop_all()
    return tables


def _format(connection: sqlite3.Connection, folder: Path) -> int:
    """The format of the file; 0 if it is new."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not application and not found and not tables:
        return 0
    if application != APPLICATION:
        raise unusable(folder, f"{FILE} is a database, but no journal", "choose another folder")
    if found > len(FORMATS):
        why = f"it has format {found} of a newer scatterzmq, this one reads up to {len(FORMATS)}"
        raise unusable(folder, why, "install the newer one, or choose another folder")
    return int(found)


def _check(connection: sqlite3.Connection) -> None:
    """Of the rows of all entries; large tensors are read soon enough."""
    problems = [problem for (problem,) in connection.execute("PRAGMA quick_check('entries')")]
    if problems != ["ok"]:
        raise DamagedError(str(problems[0]).replace("\n", " "))


def _begin_life(connection: sqlite3.Connection, found: int, draw: Callable[[], PeerId]) -> Identity:
    """Count this life, on disk (synchronous is FULL here), whatever becomes of it.

    What the core writes first says the same, but in mode "batch" it may be lost with the power, and on a failing disk
    altogether, after others have heard of this life.
    """
    connection.execute("BEGIN IMMEDIATE")
    for step in FORMATS[found:]:
        for statement in step:
            connection.execute(statement)
    if found != len(FORMATS):
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {len(FORMATS)}")
    row = connection.execute(_IDENTITY, (Kind.IDENTITY,)).fetchone()
    if row is None and found:
        raise DamagedError("it does not say whose it is")
    last = unpack_body(Kind.IDENTITY, row[0]) if row is not None else Identity(peer=draw(), incarnation=0)
    assert isinstance(last, Identity)
    identity = replace(last, incarnation=last.incarnation + 1)
    connection.execute(_PUT, (*key(identity), pack_body(Kind.IDENTITY, identity), None))
    connection.execute("COMMIT")
    return identity


def _shrink(connection: sqlite3.Connection) -> None:
    """Give back pages that nothing uses, if they are many, and begin with an empty log."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    excess = free - FREE_BYTES_MAX // _PAGE_BYTES
    if excess > 0:
        connection.executescript(f"PRAGMA incremental_vacuum({excess})")  # execute() stops after one page
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def reading_failed(folder: Path, error: Exception) -> Exception:
    """What went wrong while a journal was opened or read, in one line."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, DamagedError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        kept = "keep the folder for whoever can mend it, and start with an empty one: other peers may have copies"
        return unusable(folder, f"{FILE} is damaged ({error})", kept)
    if code == sqlite3.SQLITE_FULL:
        return unusable(folder, "the disk is full", "make room, or choose another folder")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return unusable(folder, f"another program has {FILE} open", "close it")
    if isinstance(error, PermissionError) or code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return unusable(folder, f"{FILE} may not be written to", "change its permissions, or choose another folder")
    return unusable(folder, reason(error), "mend the disk, or choose another folder")


def reason(error: Exception) -> str:
    """For people, in one line."""
    name = getattr(error, "sqlite_errorname", "")
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return f"{text} ({name})" if name else text


class Tables:
    """One open journal. identity: of this life."""

    def __init__(self, connection: sqlite3.Connection, path: Path, identity: Identity, *, is_sync: bool) -> None:
        self.identity = identity
        self._connection = connection
        self._is_sync = is_sync
        self._log = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._log_bytes = 0
        self._unsynced_since_s: float | None = None

    # ---- writing

    def write(self, entries: Sequence[tuple[Entry, Columns]]) -> None:
        """All of it in one transaction."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for entry, columns in entries:
            self._apply(entry, columns)
        execute("COMMIT")
        # More than it is, mostly: each entry changes a page of the table and one of its index.
        self._log_bytes += _COMMIT_BYTES + _PAGE_BYTES * len(entries)
        if self._unsynced_since_s is None and not self._is_sync:
            self._unsynced_since_s = time.monotonic()

    def _apply(self, entry: Entry, columns: Columns) -> None:
        execute = self._connection.execute
        kind, name = key(entry)
        match entry:
            case Kept(values=None):
                found = execute(_PUT_BODY, (pack_body(kind, entry), kind, name)).rowcount
                assert found == 1, f"{entry.id} is as it was, but it never was in the journal"
            case Kept(values=values):
                assert values is not None
                fields, apart = pack_fields(values, columns)
                execute(_PUT, (kind, name, pack_body(kind, entry), fields))
                execute(_REMOVE_PARTS, (name,))
                for field, column in apart:
                    for part, data in enumerate(cut(column.data)):
                        execute(_PUT_PART, (name, field, part, data))
                        self._log_bytes += len(data)
            case Forgotten():
                execute(_REMOVE, (kind, name))
                execute(_REMOVE_PARTS, (name,))
            case Lapsed() | DefinitionGone() | NeighbourGone():
                execute(_REMOVE, (kind, name))
            case _:
                execute(_PUT, (kind, name, pack_body(kind, entry), None))

    def due_s(self) -> float | None:
        """How long until `settle` has something to do; None for never."""
        if self._unsynced_since_s is None:
            return None
        return max(0.0, self._unsynced_since_s + SYNC_S - time.monotonic())

    def settle(self) -> None:
        """Sync what has waited long enough for it, and bound the log."""
        if self._log_bytes >= LOG_BYTES_MAX:
            self.checkpoint()
        elif self.due_s() == 0:
            os.fsync(self._log)
            self._unsynced_since_s = None

    def checkpoint(self) -> None:
        """Move everything from the log to the tables; SQLite syncs both. The log is then written from its start."""
        # Not TRUNCATE: a sync takes half the time where the file need not grow again.
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._log_bytes = 0
        self._unsynced_since_s = None

    # ---- reading

    def entries(self, put: Put) -> Iterator[Entry]:
        """Everything but the identity, in the order in which it came; each value is stored on its way."""
        for kind, name, body, fields in self._connection.execute(_ALL, (Kind.IDENTITY,)):
            entry = unpack_body(kind, body)
            if isinstance(entry, Kept):
                values = {}
                for field, head in enumerate(unpack_fields(fields)):
                    column = Column(head.layout, self._data(name, field, head))
                    values[head.name] = put(column, (head.digest,) if head.digest else ())
                entry = replace(entry, values=values)
            yield entry

    def _data(self, task: bytes, field: int, head: Head) -> memoryview:
        if head.data is not None:
            return memoryview(head.data)
        return joined(head, (data for (data,) in self._connection.execute(_PARTS, (task, field))))

    # ---- the end

    def close(self) -> None:
        """Leave one file without a log."""
        self.checkpoint()
        self._connection.close()
        os.close(self._log)

    def abandon(self) -> bool:
        """Leave everything as it is on disk; the next start finds out what is good. Returns whether the file is closed.

        To close it would be a checkpoint of a log of which nobody knows what is on disk: it would be copied unchecked.
        """
        os.close(self._log)
        if sys.version_info >= (3, 12):
            self._connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)
            self._connection.close()
            return True
        # Nobody can tell SQLite, and forgotten connections are closed, too. So the file is open until the process ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        return False
