"""What is answered is there, whoever dies; and a disk that fails is heard of, once for each write."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scatterzmq.core.actions import Persist
from scatterzmq.core.entries import Kept
from scatterzmq.core.events import Persisted, PersistFailed
from scatterzmq.journal import sqlite, tables
from tests.journal.conftest import MODES, WAIT_S, Mode, Open, Writer, kept
from tests.journal.writer import AFTERWARDS, data_of

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def process(folder: Path, mode: Mode, writes: int, nbytes: int, trouble: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.journal.writer", str(folder), mode, str(writes), str(nbytes), trouble]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "open\n", started.communicate()[1]
            yield started
        finally:
            started.kill()


def tasks(writer: Writer, nbytes: int) -> list[int]:
    """The numbers of all tasks that are there, whole."""
    found = []
    for entry in writer.restored().entries:
        assert isinstance(entry, Kept)
        assert entry.values is not None
        number = int(entry.id[1:], 16)
        assert bytes(writer.rows.columns[entry.values["value"][0].id].data) == data_of(number, nbytes)
        found.append(number)
    return found


def done(lines: list[str]) -> int:
    """The last write that was done."""
    return max(int(line.split()[1]) for line in lines if line.startswith("done "))


# ---- processes that die


@pytest.mark.parametrize("nbytes", [64, 100_000])
@pytest.mark.parametrize("mode", MODES)
def test_what_was_answered_is_there_after_a_kill(open_: Open, tmp_path: Path, mode: Mode, nbytes: int) -> None:
    folder = tmp_path / "journal"
    with process(folder, mode, 1_000_000, nbytes) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(40)]
        child.send_signal(signal.SIGKILL)
        lines += [line for line in child.stdout if line.endswith("\n")]
    writer = open_(mode, folder)
    there = tasks(writer, nbytes)
    assert there == list(range(1, len(there) + 1))
    assert len(there) >= done(lines) >= 40
    assert writer.journal.incarnation == 2


def test_a_process_that_died_has_used_up_its_life(open_: Open, tmp_path: Path) -> None:
    for _ in range(3):
        with process(tmp_path, "batch", 0, 0) as child:
            child.kill()
    assert open_("batch", tmp_path).journal.incarnation == 4


def test_the_lock_tells_who_has_it(tmp_path: Path, open_: Open) -> None:
    with process(tmp_path, "batch", 1_000_000, 64) as child:
        with pytest.raises(ValueError, match=f"process {child.pid} uses it; stop that one"):
            open_("batch", tmp_path)
        child.kill()
        child.wait(WAIT_S)
        assert open_("batch", tmp_path).journal.incarnation == 2


# ---- disks that fail


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_that_is_full_fails_that_write_and_all_after_it(open_: Open, tmp_path: Path, mode: Mode) -> None:
    with process(tmp_path, mode, 60, 40_000, "limit") as child:
        out, errors = child.communicate(timeout=WAIT_S)
        assert (child.returncode, errors) == (0, "")
    lines = out.splitlines()
    last = done(lines)
    assert 5 < last < 40
    failed = [line.split(maxsplit=2) for line in lines if line.startswith("failed ")]
    assert [int(number) for _, number, _ in failed] == list(range(last + 1, 61))
    assert {text for _, _, text in failed} == {"disk I/O error (SQLITE_IOERR_WRITE)"}
    assert tasks(open_(mode, tmp_path), 40_000) == list(range(1, last + 1))


def test_a_sync_that_fails_is_not_tried_again(open_: Open, tmp_path: Path) -> None:
    """In mode "batch", where it comes after the answer: the next write is told."""
    with process(tmp_path, "batch", 100_000, 64, "sync") as child:
        out, errors = child.communicate(timeout=WAIT_S)
        assert (child.returncode, errors) == (0, "")
    lines = out.splitlines()
    failed = [line.split(maxsplit=2) for line in lines if line.startswith("failed ")]
    first = done(lines) + 1
    assert [int(number) for _, number, _ in failed] == list(range(first, first + len(failed)))
    assert len(failed) >= AFTERWARDS
    assert {text for _, _, text in failed} == {"Input/output error"}
    assert (tmp_path / "journal.sqlite3-wal").stat().st_size > 0, "it was left as it was"
    assert tasks(open_("batch", tmp_path), 64) == list(range(1, done(lines) + 1))


def test_whatever_ends_the_thread_every_write_is_answered(open_: Open, tmp_path: Path) -> None:
    with process(tmp_path, "sync", 100, 64, "odd") as child:
        out, errors = child.communicate(timeout=WAIT_S)
        assert child.returncode == 0
        assert "AssertionError: T00000000000000000000000000000064 is as it was" in errors
    failed = [line for line in out.splitlines() if line.startswith("failed ")]
    assert failed[-1] == "failed 100 its thread has ended"
    assert len(failed) + done(out.splitlines()) == 100
    assert len(tasks(open_("sync", tmp_path), 64)) == 100 - len(failed)


# ---- answers


@pytest.mark.parametrize("mode", MODES)
def test_answers_come_in_order_and_cover_what_came_before(open_: Open, mode: Mode) -> None:
    writer = open_(mode)
    for number in range(500):
        writer.send(kept(number, {"a": writer.rows.of(b"abc")}))
    writer.answers.wait(500)
    numbers = [answer.write for answer in writer.answers.all]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 500, "they were written together"


def test_what_waits_is_written_in_one_transaction(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more at a time than is good for those that wait for the first of it."""
    monkeypatch.setattr(sqlite, "GROUP_BYTES", 1000)
    writer = open_()
    seen: list[int] = []
    busy, free = threading.Event(), threading.Event()
    write = writer.journal._tables.write

    def slowly(entries: list[object]) -> None:
        seen.append(len(entries))
        busy.set()
        assert free.wait(WAIT_S)
        write(entries)  # type: ignore[arg-type]

    writer.journal._tables.write = slowly  # type: ignore[method-assign, assignment]
    writer.send(kept(0, {}))
    assert busy.wait(WAIT_S)
    for number in range(1, 7):
        writer.send(kept(number, {"a": writer.rows.of(bytes(400))}))
    free.set()
    writer.answers.wait(7)
    assert seen == [1, 3, 3]
    assert writer.answers.all == [Persisted(write=1), Persisted(write=4), Persisted(write=7)]


@pytest.mark.parametrize(("mode", "expected"), [("batch", 1), ("sync", 2)])
def test_in_mode_sync_each_commit_is_synced(open_: Open, mode: Mode, expected: int) -> None:
    """By SQLite, before it returns: FULL is 2, NORMAL is 1. What comes of it only a loss of power could show."""
    connection = open_(mode).journal._tables._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (expected,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_in_mode_batch_what_was_answered_is_synced_soon(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    files: list[str] = []
    sync = os.fsync

    def seen(file: int) -> None:
        files.append(Path(f"/proc/self/fd/{file}").readlink().name)
        sync(file)
        synced.set()

    monkeypatch.setattr(os, "fsync", seen)
    writer = open_("batch")
    synced.clear()
    files.clear()
    writer.write(kept(1, {}))
    assert synced.wait(WAIT_S)
    assert files == ["journal.sqlite3-wal"]
    assert writer.journal._tables.due_s() is None


def test_close_writes_what_waits(open_: Open) -> None:
    writer = open_()
    for number in range(200):
        writer.send(kept(number, {"a": writer.rows.of(b"abc")}))
    writer.journal.close()
    writer.journal.close()
    writer.send(kept(200, {}))
    assert writer.answers.all[-2:] == [Persisted(write=200), PersistFailed(write=201, reason="the journal is closed")]
    assert len(open_().restored().entries) == 200


def test_close_does_not_wait_for_ever(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CLOSE_S", 0.01)
    writer = open_()
    free = threading.Event()
    monkeypatch.setattr(writer.journal._tables, "write", lambda _: free.wait(WAIT_S))
    writer.send(kept(1, {}))
    writer.journal.close()
    assert not writer.answers.all
    with pytest.raises(ValueError, match=f"process {os.getpid()} uses it"):
        Writer(writer.journal._folder, "batch")
    free.set()
    writer.journal._thread.join(WAIT_S)
    assert writer.answers.all == [Persisted(write=1)]


def test_a_write_is_for_the_mode_of_the_journal(open_: Open) -> None:
    writer = open_("batch")
    with pytest.raises(AssertionError, match="write 1 is for a journal of the other mode"):
        writer.journal.write(Persist(write=1, entries=(kept(1, {}),), sync=True), [{}])


def test_tensors_are_not_copied_on_their_way(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_()
    value = writer.rows.of(bytes(100_000))
    column = writer.rows.columns[value[0].id]
    seen: list[memoryview] = []

    def cut(data: memoryview) -> list[memoryview]:
        seen.append(data)
        return [data]

    monkeypatch.setattr(tables, "cut", cut)
    writer.write(kept(1, {"a": value}))
    assert seen[0] is column.data
