"""What is written comes back, as the simulated disk (scatterzmq/sim/disk.py) has it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from scatterzmq.core.peermessages import Contact, Pointer
from scatterzmq.core.values import Block, Value
from scatterzmq.core.versions import Version
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, PeerId, TaskId
from scatterzmq.journal import packed, tables
from scatterzmq.sim.disk import Disk
from scatterzmq.sim.payload import Store
from scatterzmq.wire.columns import Column
from tests.journal.conftest import ME, MODES, OTHER, Mode, Open, Rows, Writer, kept, task_id

SMALL, LARGE = b"abc", bytes(range(256)) * 40
PEER = Contact(id=OTHER, incarnation=7, address="tcp://[::1]:7411")
KINDS: list[Entry] = [
    Deleted(id=task_id(1), nonce=b"nonce", version=Version(5, 9, ME, 1, 0)),
    DefinitionText(digest=b"d" * 32, definition='{"ns": "é"}' + " " * 100_000),
    Pointed(pointer=Pointer(ns="näme", counter=4, by=OTHER, digest=b"d" * 32)),
]


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_entry_comes_back(open_: Open, mode: Mode) -> None:
    writer = open_(mode)
    values = {"a": writer.rows.of(SMALL, digest=b"x" * 32), "b": writer.rows.of(LARGE), "c": writer.rows.of(b"")}
    tasks = [kept(1, values), kept(2, {}, last_error=None, status=None, rset=())]
    writer.write(Identity(peer=writer.journal.peer, incarnation=1), Neighbour(contact=PEER), *tasks, *KINDS)
    expected = [(kept(1, None), [(name, writer.rows.shown(value)) for name, value in values.items()])]
    restored = open_(mode).plain()
    assert restored == [*expected, (kept(2, None, last_error=None, status=None, rset=()), []), *KINDS, PEER]


def test_what_is_taken_back_is_gone(open_: Open) -> None:
    writer = open_()
    writer.write(*KINDS, Neighbour(contact=PEER), kept(1, {"a": writer.rows.of(LARGE)}))
    writer.write(
        Lapsed(id=task_id(1)), DefinitionGone(digest=b"d" * 32), NeighbourGone(peer=OTHER), Forgotten(id=task_id(1))
    )
    writer = open_()
    assert writer.plain() == [KINDS[2]]
    assert count(writer, "parts") == 0


def only_task(writer: Writer) -> tuple[Kept, dict[str, Any]]:
    """The one task that was restored, and its values: (layout, digests, bytes)."""
    ((entry, values),) = cast(list[tuple[Kept, list[tuple[str, Any]]]], writer.plain())
    return entry, dict(values)


def count(writer: Writer, table: str) -> int:
    (number,) = writer.journal._tables._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(number)


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_a_task_and_its_tombstone_are_apart(open_: Open, data: bytes) -> None:
    writer = open_()
    writer.write(KINDS[0], kept(1, {"a": writer.rows.of(data)}))
    writer.write(Lapsed(id=task_id(1)))
    writer = open_()
    assert only_task(writer)[0] == kept(1, None)
    writer.write(KINDS[0], Forgotten(id=task_id(1)))
    assert open_().plain() == [KINDS[0]]


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_values_stay_where_a_task_is_as_it_was(open_: Open, data: bytes) -> None:
    writer = open_()
    writer.write(kept(1, {"a": writer.rows.of(data, digest=b"x" * 32)}))
    writer.write(kept(1, None, crashes=9))
    entry, values = only_task(open_())
    assert (entry, values["a"][1:]) == (kept(1, None, crashes=9), ((b"x" * 32,), data))


def test_new_values_replace_all_old_ones(open_: Open) -> None:
    writer = open_()
    writer.write(kept(1, {"a": writer.rows.of(LARGE), "b": writer.rows.of(LARGE)}))
    writer.write(kept(1, {"c": writer.rows.of(LARGE[::-1])}))
    _, values = only_task(open_())
    assert {name: value[2] for name, value in values.items()} == {"c": LARGE[::-1]}


@pytest.mark.parametrize("nbytes", [4097, 9_999, 10_000, 10_001, 20_000, 34_567])
def test_large_values_are_cut_into_parts(open_: Open, monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    monkeypatch.setattr(packed, "PART_BYTES", 10_000)
    data = (LARGE * 4)[:nbytes]
    writer = open_()
    writer.write(kept(1, {"a": writer.rows.of(SMALL), "b": writer.rows.of(data)}))
    assert count(writer, "parts") == -(-nbytes // 10_000)
    _, values = only_task(open_())
    assert {name: value[2] for name, value in values.items()} == {"a": SMALL, "b": data}


def test_a_row_of_several_keeps_its_own_digest(open_: Open) -> None:
    writer = open_()
    block = Block(BlockId(ME, 77), Layout(DTYPES["uint8"], 3, (2,)), 6, (b"0" * 32, b"1" * 32, b"2" * 32))
    writer.rows.columns[block.id] = Column(Layout(DTYPES["uint8"], 1, (2,)), memoryview(b"cd"))
    writer.write(kept(1, {"a": (block, 1)}))
    assert only_task(open_())[1] == {"a": (Layout(DTYPES["uint8"], 1, (2,)), (b"1" * 32,), b"cd")}


def test_half_a_character_in_an_error_costs_the_character(open_: Open) -> None:
    writer = open_()
    error = kept(1, None).last_error
    assert error is not None
    writer.write(kept(1, {}, last_error=type(error)(code=error.code, message="x\ud800y")))
    entry, _ = only_task(open_())
    assert entry.last_error is not None
    assert entry.last_error.message == "x?y"


def test_the_log_is_bounded_and_moved_to_the_tables(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LOG_BYTES_MAX", 1 << 20)
    writer = open_()
    log = writer.journal._folder / "journal.sqlite3-wal"
    for number in range(64):
        writer.write(kept(number, {"a": writer.rows.of(bytes(100_000))}))
    assert log.stat().st_size < 2 << 20
    writer.journal.close()
    assert not log.exists()
    assert len(open_().plain()) == 64


def test_what_nothing_uses_any_more_is_given_back_at_the_next_start(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "FREE_BYTES_MAX", 1 << 20)
    writer = open_()
    writer.write(*[kept(number, {"a": writer.rows.of(bytes(100_000))}) for number in range(64)])
    writer.write(*[Forgotten(id=task_id(number)) for number in range(63)])
    file = writer.journal._folder / "journal.sqlite3"
    writer.journal.close()
    assert file.stat().st_size > 6 << 20
    assert len(open_().plain()) == 1
    assert file.stat().st_size < 2 << 20


# ---- as the simulated disk

FEW = st.integers(0, 3)
VALUES = st.dictionaries(
    st.sampled_from("abc"),
    st.tuples(
        st.sampled_from(["uint8", "int64", "bool", "bfloat16"]),
        st.lists(st.integers(0, 3), max_size=3).map(tuple),
        st.sampled_from([1, 1, 7]),  # of which the middle row is the value
        st.booleans(),
        st.sampled_from([0, 0, 700]),
    ),
    max_size=3,
)
CHANGES = st.fixed_dictionaries({"crashes": FEW, "solo": st.booleans(), "rset": st.sampled_from([(), (ME, OTHER)])})
STEPS = st.one_of(
    st.tuples(st.just("kept"), FEW, VALUES, CHANGES),
    st.tuples(st.just("mark"), FEW, CHANGES),
    st.tuples(st.sampled_from(["forgotten", "deleted", "lapsed"]), FEW),
    st.tuples(st.sampled_from(["text", "gone", "pointed", "neighbour", "left", "identity"]), FEW, FEW),
)
LIVES = st.lists(st.lists(st.lists(STEPS, max_size=6), max_size=5), min_size=1, max_size=3)


def peer(number: int) -> PeerId:
    return PeerId(f"P{number:032x}")


def entry_of(step: Sequence[Any], known: set[TaskId], value: Any) -> Entry:
    """known: the tasks that the journal has."""
    match step:
        case ("kept", number, values, changes):
            known.add(task_id(number))
            return kept(number, {name: value(*shape) for name, shape in values.items()}, **changes)
        case ("mark", number, changes):
            values = None if task_id(number) in known else {}
            known.add(task_id(number))
            return kept(number, values, **changes)
        case ("forgotten", number):
            known.discard(task_id(number))
            return Forgotten(id=task_id(number))
        case ("deleted", number):
            return Deleted(id=task_id(number), nonce=b"n", version=Version(5, number, ME, 1, 0))
        case ("lapsed", number):
            return Lapsed(id=task_id(number))
        case ("text", number, other):
            return DefinitionText(digest=bytes([number]) * 32, definition="x" * other)
        case ("gone", number, _):
            return DefinitionGone(digest=bytes([number]) * 32)
        case ("pointed", number, other):
            return Pointed(pointer=Pointer(ns=str(number), counter=other, by=ME, digest=b"d"))
        case ("neighbour", number, other):
            return Neighbour(contact=Contact(id=peer(number), incarnation=other, address="tcp://a:1"))
        case ("left", number, _):
            return NeighbourGone(peer=peer(number))
    return Identity(peer=peer(step[1]), incarnation=1)


def value_in(store: Store, dtype: str, shape: tuple[int, ...], rows: int, has_digest: bool, extra: int) -> Value:
    """One of several rows, as values are."""
    shape = (*shape, extra) if extra else shape
    layout = Layout(DTYPES[dtype], rows, shape)
    column = Column(layout, memoryview(bytes(at % 2 for at in range(layout.nbytes))))
    return store.put(column, kept=True, digests=None if has_digest else ()), rows // 2


@settings(max_examples=30, deadline=None)
@given(lives=LIVES, mode=st.sampled_from(MODES))
def test_it_holds_what_the_simulated_disk_holds(lives: list[list[list[Any]]], mode: Mode) -> None:
    disk, known = Disk(), set[TaskId]()
    with tempfile.TemporaryDirectory() as folder:
        for number, life in enumerate([*lives, []]):
            writer, store, rows = Writer(Path(folder), mode), Store(ME, number), Rows()
            try:
                expected = disk.restored(store)
                rows.columns = {
                    value[0].id: store.collect([value])
                    for entry in expected.entries
                    if isinstance(entry, Kept)
                    for value in (entry.values or {}).values()
                }
                assert writer.plain() == rows.plain(expected)
                for number, steps in enumerate(life, 1):
                    entries = tuple(
                        [entry_of(step, known, lambda *shape: value_in(store, *shape)) for step in steps]  # noqa: B023
                    )
                    persist = Persist(write=number, entries=entries, sync=mode == "sync")
                    disk.write(persist, store)
                    beside = [
                        {name: store.collect([value]) for name, value in (entry.values or {}).items()}
                        if isinstance(entry, Kept)
                        else {}
                        for entry in entries
                    ]
                    writer.journal.write(persist, beside)
            finally:
                writer.journal.close()
            if life:
                writer.answers.wait(len(life))
            disk.sync()
