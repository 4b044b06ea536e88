"""What must fit together in a message, and numbers and byte strings that no kind may have."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.core.cachemessages import CacheAnswer
from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.peermessages import CopyKind, Grant, Part
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.formats import DTYPES, FieldFormat, Layout
from scatterzmq.ids import PeerId, TaskId
from scatterzmq.wire import layouts
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import decode, encode
from scatterzmq.wire.refusal import Limits, Reject, WireError

LIMITS = Limits()
READY, DONE, ERROR, WAIT = TaskStatus.READY, TaskStatus.DONE, TaskStatus.ERROR, TaskStatus.WAIT
HERE, THERE = PeerId("P" + "04" * 16), PeerId("P" + "05" * 16)


def column(rows: int) -> Column:
    return Column(Layout(DTYPES["uint8"], rows, ()), memoryview(bytes(rows)))


def refused(message: Any, columns: Mapping[str, Column]) -> WireError:
    with pytest.raises(WireError) as caught:
        decode(encode(message, columns), LIMITS)
    return caught.value


def accepted(message: Any, columns: Mapping[str, Column]) -> bool:
    back, beside = decode(encode(message, columns), LIMITS)
    return back == message and beside.keys() == columns.keys()


# ---- lists by position

BY_POSITION = {
    "Submit": ("submit_digests",),
    "Final": ("statuses", "errors", "retries", "durations_ms"),
    "Moved": ("owners",),
    "Heartbeat": ("dead_incarnations",),
    "Replicate": (
        *("nonces", "submit_digests", "seqs", "caching", "errors", "restarts", "crashes", "solo", "last_errors"),
    ),
    "Replicate mark": ("nonces", "last_errors"),
    "Replicate final": ("nonces", "last_errors", "statuses", "durations_ms"),
    "Replicate delete": ("nonces", "last_errors"),
    "Renew": ("executors",),
    "CacheAsk": ("keys", "may_wait"),
    "CacheAbort": ("keys",),
    "CacheRenew": ("keys",),
    "CacheLost": ("keys",),
}


@pytest.mark.parametrize(("label", "name"), [(label, name) for label, names in BY_POSITION.items() for name in names])
def test_lists_by_position_have_one_length(label: str, name: str, examples: Any) -> None:
    message, columns = examples[label]
    whole = getattr(message, name)
    for other in (whole[:-1], (*whole, whole[-1]), ()):
        error = refused(replace(message, **{name: other}), columns)
        assert error.reason is Reject.MISMATCH
        assert f"{len(other)} {name}, expected {len(whole)}" in error.detail


@pytest.mark.parametrize("label", ["Submit", "Replicate", "Replicate final", "Grant", "CacheTell", "CachePut"])
def test_content_digests_are_one_per_row(label: str, examples: Any) -> None:
    message, columns = examples[label]
    ((name, whole),) = message.digests.items()
    for other in (whole[:-1], (*whole, whole[-1])):
        error = refused(replace(message, digests={name: other}), columns)
        assert f"{len(other)} digests of {name}, expected {len(whole)}" in error.detail


@pytest.mark.parametrize(
    "label",
    [
        *("Submit", "Replicate", "Replicate mark", "Replicate final", "Replicate delete", "Grant"),
        *("CacheTell", "CacheTell lead", "CachePut"),
    ],
)
def test_content_digests_are_of_columns(label: str, examples: Any) -> None:
    """Who trusts them would look up bytes that never came."""
    message, columns = examples[label]
    count = {"Submit": 2, "Replicate": 2, "Grant": 2, "Replicate mark": 0, "Replicate delete": 0}.get(label, 1)
    error = refused(replace(message, digests={"z": (b"z" * 32,) * count}), columns)
    assert "digests of 'z', which is not there" in error.detail


# ---- columns

WITH_COLUMNS = {"Submit", "Final", "Replicate", "Replicate final", "Grant", "Grant of nothing", "Grant by name"}
WITH_COLUMNS |= {"CacheTell", "CachePut"}


def test_only_some_kinds_have_columns(label: str, examples: Any) -> None:
    message, columns = examples[label]
    if label in WITH_COLUMNS:
        rows = next(iter(columns.values())).layout.rows if columns else 0
        rows = len(message.ids) if isinstance(message, Grant) else rows
        assert accepted(message, {**columns, "z": column(rows)})
        for other in {rows + 1, abs(rows - 1)}:
            error = refused(message, {**columns, "z": column(other)})
            assert f"{other} rows of 'z', expected {rows}" in error.detail
        return
    for rows in (0, 1, 2):
        error = refused(message, {**columns, "z": column(rows)})
        assert error.reason is Reject.MISMATCH
        assert re.search(r"columns .*'z'.*, expected (none|\{)", error.detail)


@pytest.mark.parametrize("statuses", [(READY, DONE), (READY, ERROR), (ERROR, DONE), (ERROR, ERROR)])
def test_final_copies_have_a_row_per_result(statuses: tuple[TaskStatus, ...], examples: Any) -> None:
    ready = 2 - statuses.count(ERROR)
    message = replace(examples["Replicate final"][0], statuses=statuses, digests={})
    for rows in range(4):
        if rows == ready:
            assert accepted(message, {"y": column(rows)})
        else:
            assert f"{rows} rows of 'y', expected {ready}" in refused(message, {"y": column(rows)}).detail


# ---- copies

COPIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "statuses of live tasks": ("Replicate", {"statuses": (READY, READY)}, "2 statuses, expected 0"),
    "statuses beside a mark": ("Replicate mark", {"statuses": (READY, READY)}, "2 statuses, expected 0"),
    "statuses beside a delete": ("Replicate delete", {"statuses": (ERROR,)}, "1 statuses, expected 0"),
    "durations of live tasks": ("Replicate", {"durations_ms": (1, 1)}, "2 durations_ms, expected 0"),
    "a task that waits": ("Replicate final", {"statuses": (READY, WAIT)}, "has not ended"),
    "an unknown task": ("Replicate final", {"statuses": (READY, TaskStatus.UNKNOWN)}, "has not ended"),
    "no owner": ("Replicate", {"rset": ()}, "0 holders"),
    "a holder twice": ("Replicate mark", {"rset": (HERE, THERE, HERE)}, "3 holders"),
    "a mark with an input": ("Replicate", {"kind": CopyKind.MARK, "digests": {}}, "columns .*, expected none"),
    "a delete with an input": ("Replicate", {"kind": CopyKind.DELETE, "digests": {}}, "columns .*, expected none"),
    "a mark with digests": ("Replicate mark", {"digests": {"x": ()}}, "digests of 'x', which is not there"),
}


@pytest.mark.parametrize("what", COPIES)
def test_copies_that_do_not_fit(what: str, examples: Any) -> None:
    label, changes, detail = COPIES[what]
    message, columns = examples[label]
    error = refused(replace(message, **changes), columns)
    assert error.reason is Reject.MISMATCH
    assert re.search(detail, error.detail)


def test_one_holder_is_enough(examples: Any) -> None:
    message, columns = examples["Replicate"]
    assert accepted(replace(message, rset=(HERE,)), columns)


def test_copies_of_no_task(examples: Any) -> None:
    message, _ = examples["Replicate"]
    lists: dict[str, Any] = dict.fromkeys(("ids", *BY_POSITION["Replicate"]), ())
    assert accepted(replace(message, digests={}, **lists), {})
    assert accepted(replace(message, digests={"x": ()}, **lists), {"x": column(0)})


# ---- results of a batch


def part_of(message: Any, place: int, **changes: Any) -> Any:
    parts = list(message.parts)
    parts[place] = replace(parts[place], **changes)
    return replace(message, parts=tuple(parts))


def test_rows_are_for_the_owner_to_judge(examples: Any) -> None:
    """It knows the batch, and fails what does not fit; refused here, the batch would be repeated for ever."""
    commit, columns = examples["Commit"]
    for message in (
        part_of(commit, 0, rows=(2, 2)),
        part_of(commit, 0, rows=(1 << 62, 5)),
        replace(commit, failed=(commit.failed[0], commit.failed[0])),
        replace(commit, missing=(4, 3)),
    ):
        assert accepted(message, columns)


def test_parts_have_exactly_their_columns(examples: Any) -> None:
    commit, columns = examples["Commit"]
    assert list(columns) == ["0:x", "0:text", "1:y"]
    for beside in (
        {name: columns[name] for name in ("0:x", "1:y")},
        {**columns, "1:x": column(1)},
        {**columns, "2:x": column(2)},
        {**columns, "3:x": column(1)},
        {**columns, "1:y": column(2)},
        {**columns, "0:x": column(1)},
        {},
    ):
        assert "columns {" in refused(commit, beside).detail
    for message in (
        part_of(commit, 0, rows=(2,), digests={}),
        part_of(commit, 1, rows=(5, 9)),
        part_of(commit, 1, fields=()),
        part_of(commit, 2, fields=("y",)),
        replace(commit, parts=commit.parts[:1]),
    ):
        assert "columns {" in refused(message, columns).detail


def test_digests_of_parts(examples: Any) -> None:
    commit, columns = examples["Commit"]
    digest = b"x" * 32
    assert accepted(part_of(commit, 1, digests={"y": (digest,)}), columns)
    for place, digests, detail in (
        (0, {"x": (digest,)}, "1 digests of 0:x, expected 2"),
        (1, {"y": (digest, digest)}, "2 digests of 1:y, expected 1"),
        (1, {"x": (digest,)}, "digests of '1:x', which is not there"),
        (2, {"y": (digest, digest)}, "digests of '2:y', which is not there"),
    ):
        assert detail in refused(part_of(commit, place, digests=digests), columns).detail


def test_a_commit_may_claim_nothing(examples: Any) -> None:
    commit, columns = examples["Commit"]
    assert accepted(replace(commit, claim=None), columns)


def test_only_hits_have_a_value(examples: Any) -> None:
    tell, columns = examples["CacheTell"]
    for answer in CacheAnswer:
        told = replace(tell, answer=answer, digests={})
        if answer is CacheAnswer.HIT:
            assert accepted(told, columns)
            assert accepted(told, {})  # the value of an output without fields
        else:
            assert "expected none" in refused(told, columns).detail


def test_a_heartbeat_may_say_nothing_of_definitions(examples: Any) -> None:
    assert accepted(replace(examples["Heartbeat"][0], pointers=b""), {})


def test_blobs_may_have_no_digest_yet(examples: Any) -> None:
    """While they are written, or read; but whoever asks for one, or sends it, knows which."""
    for label in ("WriteBlob", "BlobNamed"):
        message, columns = examples[label]
        assert accepted(replace(message, digest=b""), columns)
        assert refused(replace(message, digest=b"short"), columns)
    for label in ("AskBlob", "BlobPiece", "NoBlob"):
        message, columns = examples[label]
        assert refused(replace(message, digest=b""), columns)


# ---- blocks that do not come along


def test_places_have_an_entry_per_task(examples: Any) -> None:
    grant, columns = examples["Grant by name"]
    x, y = grant.places
    assert accepted(replace(grant, places=(replace(x, rows=(0, 0)), y)), columns)
    for places, detail in (
        ((replace(x, payloads=(0,)), y), "1 payloads of x, expected 2"),
        ((replace(x, rows=(0, 0, 0)), y), "3 rows of x, expected 2"),
        ((replace(x, rows=(2, 0)), y), "a row of 'x' that is nowhere"),
        ((replace(x, payloads=(0, 3)), y), "a row of 'x' that is nowhere"),
        ((x, replace(y, rows=(1, 0))), "a row of 'y' that is nowhere"),
        ((x, replace(y, payloads=(2, 2))), "1 rows of 'y', expected 2"),
        ((x, replace(y, payloads=(0, 1))), "1 rows of 'y', expected 0"),
        ((x, x, y), "the places of a field twice"),
    ):
        assert detail in refused(replace(grant, digests={}, places=places), columns).detail
    assert "0 rows of 'y', expected 1" in refused(replace(grant, digests={}), {}).detail
    assert "2 rows of 'x', expected 0" in refused(grant, {**columns, "x": column(2)}).detail


def test_digests_of_what_is_named(examples: Any) -> None:
    grant, columns = examples["Grant by name"]
    one, two = grant.payloads
    digest = b"x" * 32
    assert accepted(replace(grant, payloads=(replace(one, digests=()), two)), columns)
    for payloads in ((replace(one, digests=(digest,)), two), (one, replace(two, digests=(digest,) * 3))):
        assert "digests of block" in refused(replace(grant, payloads=payloads), columns).detail
    assert "2 digests of y" in refused(replace(grant, digests={"y": (digest, digest)}), columns).detail


def test_what_stays_has_a_row_for_each(examples: Any) -> None:
    commit, columns = examples["Commit"]
    (payload,) = commit.parts[3].stays["z"]
    assert accepted(part_of(commit, 3, stays={}), columns)
    for rows, stays in (((9,), (payload,)), ((9, 10), ()), ((9, 10), (payload, payload))):
        assert "rows of 3:z" in refused(part_of(commit, 3, rows=rows, stays={"z": stays}), columns).detail
    both = part_of(commit, 3, fields=("z",))
    assert accepted(both, {**columns, "3:z": column(2)})
    assert "columns {" in refused(both, columns).detail


def test_a_block_comes_alone(examples: Any) -> None:
    fetched, columns = examples["Fetched"]
    for beside in ({}, {"z": columns["rows"]}, {"rows": column(3)}):
        assert "expected {'rows': 2}" in refused(fetched, beside).detail


@pytest.mark.parametrize("layout", [3, (), (6, 2), (6, 2, (1,), (7,)), (99, 2, ()), (6, -1, ()), (6, 2, None, 1)])
def test_layouts_are_checked(layout: Any, forged: Any) -> None:
    def edit(body: Any) -> None:
        body[0][10][0][2] = layout

    frames = forged("Grant by name", body=edit)
    if layout == (6, 2, (1,), (7,)):
        message, _ = decode(frames, Limits())
        assert message.payloads[0].layout == Layout(DTYPES["int64"], 2, (1,))  # type: ignore[union-attr]
    else:
        with pytest.raises(WireError):
            decode(frames, Limits())


def test_a_few_bytes_do_not_become_a_list_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "alike", lambda *_: pytest.fail("it was spelled out"))
    limits = Limits()
    code = DTYPES["int64"].code
    said = layouts.read_layout((code, limits.rows, None, 0, ()), limits, "x")
    assert said == (Layout(DTYPES["int64"], limits.rows, ()), limits.rows * 8, 5)


# ---- what holds for every field of every kind


def changed(value: Any, kind: type, new: Any) -> Iterator[Any]:
    """Copies of a value, each with one entry of exactly that kind changed by `new`."""
    if type(value) is kind:
        yield new(value)
    elif isinstance(value, tuple):
        for place, entry in enumerate(value):
            for other in changed(entry, kind, new):
                yield (*value[:place], other, *value[place + 1 :])
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            for other in changed(entry, kind, new):
                yield {**value, key: other}
    elif is_dataclass(value) and not isinstance(value, FieldFormat | Layout):
        for entry in fields(value):
            for other in changed(getattr(value, entry.name), kind, new):
                yield replace(value, **{entry.name: other})  # type: ignore[type-var]


def test_byte_strings_have_one_length(label: str, examples: Any) -> None:
    """Each identifies something: what has another length is nothing of ours, and would be kept as a key."""
    message, columns = examples[label]
    for other in (*changed(message, bytes, lambda value: value + b"x"), *changed(message, bytes, lambda _: b"x")):
        error = refused(other, columns)
        assert error.reason is Reject.MISMATCH
        assert "bytes long" in error.detail


def test_no_number_is_negative(label: str, examples: Any) -> None:
    message, columns = examples[label]
    for other in changed(message, int, lambda _: -1):
        error = refused(other, columns)
        assert error.reason is Reject.FIELD
        assert "expected a whole number of 0" in error.detail
    for other in changed(message, int, lambda _: 1 << 63):
        assert refused(other, columns).reason is Reject.FIELD


def test_no_number_is_infinite(label: str, examples: Any) -> None:
    message, columns = examples[label]
    for number in (float("inf"), float("-inf"), float("nan")):
        for other in changed(message, float, lambda _, number=number: number):
            assert "expected a finite number" in refused(other, columns).detail


def test_these_look_at_something(examples: Any) -> None:
    commit = examples["Commit"][0]
    # four content digests, a checksum, and the claim's definition
    assert len(list(changed(commit, bytes, lambda _: b""))) == 6
    assert (
        len(list(changed(commit, int, lambda _: 0))) == 18
    )  # order, eleven rows, claim, its three numbers, a counter, piece
    assert len(list(changed(examples["QueueStates"][0], float, lambda _: 0.0))) == 3
    assert next(changed(commit, int, lambda _: 77)).order == 77


# ---- made up


digest = st.binary(min_size=32, max_size=32)
count = st.integers(0, (1 << 63) - 1)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(CopyKind), st.integers(0, 5), st.data())
def test_any_copies_travel(examples: Any, kind: CopyKind, tasks: int, data: Any) -> None:
    def lists(entry: st.SearchStrategy[Any]) -> Any:
        return tuple(data.draw(st.lists(entry, min_size=tasks, max_size=tasks)))

    error = examples["Final"][0].errors[1]
    ended = kind is CopyKind.FINAL
    statuses = lists(st.sampled_from((READY, DONE, ERROR))) if ended else ()
    rows = {CopyKind.ACCEPT: tasks, CopyKind.FINAL: len(statuses) - statuses.count(ERROR)}.get(kind)
    message = replace(
        examples["Replicate"][0],
        kind=kind,
        n=data.draw(count),
        ids=lists(st.binary(min_size=16, max_size=16).map(TaskId.from_bytes)),
        nonces=lists(st.binary(min_size=8, max_size=8)),
        submit_digests=lists(st.binary(min_size=16, max_size=16)),
        seqs=lists(count),
        caching=lists(st.booleans()),
        errors=lists(count),
        restarts=lists(count),
        crashes=lists(count),
        solo=lists(st.booleans()),
        last_errors=lists(st.sampled_from((None, error, replace(error, code=ErrorCode.POISON)))),
        statuses=statuses,
        durations_ms=lists(count) if ended else (),
        digests={} if rows is None else {"x": tuple(data.draw(st.lists(digest, min_size=rows, max_size=rows)))},
    )
    assert accepted(message, {} if rows is None else {"x": column(rows), "y": column(rows)})


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sets(st.sampled_from("abc"))), max_size=6), st.data())
def test_any_commit_travels(examples: Any, sizes: list[tuple[int, set[str]]], data: Any) -> None:
    commit = examples["Commit"][0]
    rows = data.draw(st.permutations(range(sum(size for size, _ in sizes) + 4)))
    parts: list[Part] = []
    columns: dict[str, Column] = {}
    for place, (size, names) in enumerate(sizes):
        digests = {name: (bytes(32),) * size for name in sorted(names)[:1]}
        mine, rows = rows[:size], rows[size:]
        parts.append(replace(commit.parts[1], rows=tuple(mine), fields=tuple(sorted(names)), digests=digests))
        columns |= {f"{place}:{name}": column(size) for name in names}
    failed = replace(commit.failed[0], rows=tuple(rows[:2]))
    message = replace(commit, parts=tuple(parts), failed=(failed,), missing=tuple(rows[2:3]))
    assert accepted(message, columns)
