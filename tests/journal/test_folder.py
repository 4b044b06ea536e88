"""What is wrong with a folder is said in one line, and nothing in it is touched."""

import errno
import fcntl
import os
import sqlite3
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from scatterzmq.core.entries import DefinitionText, Kind
from scatterzmq.errors import ConfigError
from scatterzmq.journal import tables
from tests.journal.conftest import Open, Writer, kept

FILE = "journal.sqlite3"


def read(folder: Path) -> int:
    """How many entries there are."""
    writer = Writer(folder, "batch")
    try:
        return len(writer.restored().entries)
    finally:
        writer.journal.close()


def refusal(folder: Path) -> str:
    """What is said when it is opened, or read."""
    with pytest.raises(ConfigError) as caught:
        read(folder)
    text = str(caught.value)
    assert text.startswith(f"journal in {folder}: ")
    assert "\n" not in text
    return text.removeprefix(f"journal in {folder}: ")


def test_nobody_else_may_look_into_it(tmp_path: Path, open_: Open) -> None:
    folder = tmp_path / "a" / "b"
    writer = open_("batch", folder)
    writer.write(DefinitionText(digest=b"d", definition="{}"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == [FILE, f"{FILE}-wal", "lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_each_start_is_a_new_life_of_the_same_peer(open_: Open, tmp_path: Path) -> None:
    first = open_().journal
    lives = [open_().journal for _ in range(3)]
    assert first.incarnation == 1
    assert [journal.incarnation for journal in lives] == [2, 3, 4]
    assert {journal.peer for journal in lives} == {first.peer}
    assert open_("batch", tmp_path / "other").journal.peer != first.peer


def test_two_at_once_are_one_too_many(open_: Open, tmp_path: Path) -> None:
    writer = open_()
    text = refusal(tmp_path / "journal")
    assert text == f"process {os.getpid()} uses it; stop that one, or give each peer a folder of its own"
    writer.write(DefinitionText(digest=b"d", definition="{}"))
    assert open_().journal.incarnation == 2


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    assert refusal(place) == "there is a file where a folder is expected; choose another one"
    assert refusal(place / "below") == "there is a file where a folder is expected; choose another one"
    assert place.read_text() == "mine"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, "it may not be written to; change its permissions, or choose another one"),
        (errno.EROFS, "read-only file system; mend that, or choose another one"),
        (errno.ENOSPC, "no space left on device; mend that, or choose another one"),
    ],
)
def test_a_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert refusal(tmp_path / "journal") == expected


def test_a_lock_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert refusal(tmp_path / "journal") == "no locks available; mend that, or choose another one"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, f"{FILE} may not be written to; change its permissions, or choose another folder"),
        (errno.EIO, "Input/output error; mend the disk, or choose another folder"),
    ],
)
def test_a_file_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: str) -> None:
    make = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == FILE:
            raise OSError(code, os.strerror(code))
        return make(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    assert refusal(tmp_path / "journal") == expected


def changed(folder: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    connection = sqlite3.connect(folder / FILE)
    change(connection)
    connection.commit()
    connection.close()


def test_what_a_newer_version_wrote_is_left_alone(open_: Open, tmp_path: Path) -> None:
    open_().journal.close()
    folder = tmp_path / "journal"
    changed(folder, lambda connection: connection.execute("PRAGMA user_version = 99"))
    before = (folder / FILE).read_bytes()
    why = f"it has format 99 of a newer scatterzmq, this one reads up to {len(tables.FORMATS)}"
    assert refusal(folder) == f"{why}; install the newer one, or choose another folder"
    assert (folder / FILE).read_bytes() == before


def test_what_an_older_version_wrote_is_brought_up_to_date(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_()
    writer.write(kept(1, {"a": writer.rows.of(b"abc")}))
    before = writer.rows.plain(open_().restored())
    more = ("CREATE TABLE more (name TEXT)", "INSERT INTO more VALUES ('new')")
    monkeypatch.setattr(tables, "FORMATS", (*tables.FORMATS, more))
    for _ in range(2):
        writer = open_()
        assert writer.plain() == before
        assert writer.journal._tables._connection.execute("SELECT name FROM more").fetchall() == [("new",)]


def test_a_format_that_cannot_be_made_changes_nothing(
    open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_().journal.close()
    with monkeypatch.context() as patch:
        patch.setattr(tables, "FORMATS", (*tables.FORMATS, ("CREATE TABLE more (name TEXT)", "nonsense")))
        assert "syntax error" in refusal(tmp_path / "journal")
    assert open_().journal.incarnation == 2


def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    changed(tmp_path, lambda connection: connection.execute("CREATE TABLE mine (name TEXT)"))
    before = (tmp_path / FILE).read_bytes()
    assert refusal(tmp_path) == f"{FILE} is a database, but no journal; choose another folder"
    assert (tmp_path / FILE).read_bytes() == before


def test_somebody_has_it_open(open_: Open, tmp_path: Path) -> None:
    open_().journal.close()
    other = sqlite3.connect(tmp_path / "journal" / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert refusal(tmp_path / "journal") == f"another program has {FILE} open; close it"
    other.close()
    assert open_().journal.incarnation == 2


# ---- damage

DAMAGED = "keep the folder for whoever can mend it, and start with an empty one: other peers may have copies"


def filled(open_: Open) -> Path:
    writer = open_()
    for number in range(200):
        writer.send(kept(number, {"a": writer.rows.of(bytes(300)), "b": writer.rows.of(bytes(20_000))}))
    writer.answers.wait(200)
    writer.journal.close()
    return writer.journal._folder


def test_a_file_that_is_no_database(open_: Open) -> None:
    folder = filled(open_)
    (folder / FILE).write_bytes(b"some text" * 1000)
    assert refusal(folder) == f"{FILE} is damaged (file is not a database); {DAMAGED}"
    assert (folder / FILE).read_bytes() == b"some text" * 1000


@pytest.mark.parametrize("kept_bytes", [100, 4096, 100_000])
def test_a_file_that_is_cut_off(open_: Open, kept_bytes: int) -> None:
    folder = filled(open_)
    os.truncate(folder / FILE, kept_bytes)
    text = refusal(folder)
    assert text.startswith(f"{FILE} is damaged (")
    assert text.endswith(DAMAGED)


def test_pages_full_of_rubbish_are_found_wherever_they_are(open_: Open) -> None:
    """What is not found is never wrong: the bytes of a tensor have no sum of their own."""
    folder = filled(open_)
    whole = (folder / FILE).read_bytes()
    said = []
    for page in range(1, len(whole) // 4096, 37):
        (folder / FILE).write_bytes(whole[: page * 4096] + b"\xa5" * 4096 + whole[(page + 1) * 4096 :])
        try:
            assert read(folder) == 200
        except ConfigError as error:
            said.append(str(error))
    assert len(said) > 3
    assert all(text.endswith(DAMAGED) for text in said)


def test_damage_where_nothing_is_read_is_found_too(open_: Open) -> None:
    """Keys of tasks lie in an index, which only writes use: in the middle of a life is too late."""
    writer = open_()
    writer.write(*[kept(number, {}) for number in range(1000)])
    index = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_entries_1'"
    (root,) = writer.journal._tables._connection.execute(index).fetchone()
    writer.journal.close()
    file = writer.journal._folder / FILE
    whole = bytearray(file.read_bytes())
    page = whole[(root - 1) * 4096 : root * 4096]
    assert page[0] == 2, "it has leaves"
    (cell,) = struct.unpack_from(">H", page, 12 + 2 * 3)
    (leaf,) = struct.unpack_from(">I", page, cell)
    whole[(leaf - 1) * 4096 : leaf * 4096] = b"\xa5" * 4096
    file.write_bytes(whole)
    assert refusal(file.parent).endswith(DAMAGED)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = x'c1' WHERE kind = 1",
        "UPDATE entries SET body = x'91c0' WHERE kind = 1",
        "UPDATE entries SET body = 7 WHERE kind = 1",
        "UPDATE entries SET body = x'07' WHERE kind = 1",
        "UPDATE entries SET body = zeroblob(0) WHERE kind = 1",
        "UPDATE entries SET kind = 77 WHERE kind = 1",
        "UPDATE entries SET fields = NULL WHERE kind = 1",
        "UPDATE entries SET fields = x'9101' WHERE kind = 1",
        "UPDATE entries SET fields = x'9195a161020190c400c400' WHERE kind = 1",
        "UPDATE entries SET fields = x'9195a1617f90c400c400' WHERE kind = 1",
        "UPDATE entries SET fields = x'9195a1610291ffc400c400' WHERE kind = 1",
        "UPDATE entries SET fields = x'9195a1610290c400c400' WHERE kind = 1",
        "UPDATE parts SET data = x'00'",
        "UPDATE parts SET data = 'text'",
        "UPDATE parts SET part = 7; INSERT INTO parts SELECT task, field, 0, data FROM parts",
        "DELETE FROM parts",
        "DELETE FROM entries WHERE kind = 5",
        "UPDATE entries SET body = x'90' WHERE kind = 5",
    ],
)
def test_rows_that_nobody_of_us_wrote(open_: Open, statement: str) -> None:
    writer = open_()
    writer.write(kept(1, {"a": writer.rows.of(bytes(300)), "b": writer.rows.of(bytes(20_000))}))
    writer.journal.close()
    folder = writer.journal._folder
    changed(folder, lambda connection: connection.executescript(statement))
    text = refusal(folder)
    assert text.startswith(f"{FILE} is damaged (")
    assert text.endswith(DAMAGED)


def test_kinds_of_rows_keep_their_numbers() -> None:
    assert [(kind.name, kind.value) for kind in Kind] == [
        ("TASK", 1), ("TOMBSTONE", 2), ("DEFINITION", 3), ("POINTER", 4), ("IDENTITY", 5), ("NEIGHBOUR", 6),
    ]  # fmt: skip
