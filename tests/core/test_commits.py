"""What another peer says came of a batch: whatever it is, each row is used once or fails, and nothing raises."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.core.blocks import Blocks
from scatterzmq.core.commits import Checked, commit_of, fits
from scatterzmq.core.commits import check as check_commit
from scatterzmq.core.events import BatchFinished, Emitted, RowsFailed
from scatterzmq.core.leases import Lease
from scatterzmq.core.needed import needed
from scatterzmq.core.outbox import Outbox
from scatterzmq.core.payloadmessages import Payload
from scatterzmq.core.peermessages import Commit, FailedPart, Part
from scatterzmq.core.queues import Queue
from scatterzmq.core.values import Block, digests_of
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.check import check as checked_plan
from scatterzmq.graph.formats import DTYPES, FieldFormat, Layout
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import BlockId, ExecutorId, PeerId, TaskId, Token
from tests.core.conftest import chain, describe, graph, node

HOLDER = PeerId(f"P{7:032x}")
EXECUTOR = ExecutorId(f"E{7:032x}")


def check(
    lease: Lease, message: Commit, blocks: Mapping[str, Block], needed: Any = (), uses: Blocks | None = None
) -> Checked:
    """uses: None: nobody has told of any block before."""
    return check_commit(lease, message, blocks, needed=needed, uses=uses or Blocks(Outbox()))


def plan_of(*graphs: dict[str, Any]) -> Plan:
    return checked_plan({"graphs": list(graphs), "entry": graphs[0]["name"]}, describe).require()


def lease_of(plan: Plan, name: str, tasks: int = 3) -> Lease:
    queue = next(Queue(plan, node) for node in plan.queues.values() if node.name == name)
    return Lease(
        order=1,
        token=Token(1, HOLDER, 1),
        executor=EXECUTOR,
        queue=queue,
        tasks=tuple(TaskId(f"T{at:032x}") for at in range(tasks)),
        expires_ms=1,
        expects=(),
        holder=HOLDER,
        until_ms=1,
    )


def block(rows: int, shape: tuple[int, ...] | None = (), dtype: str = "int64", **how: Any) -> Block:
    layout = Layout(DTYPES[dtype], rows, shape, **how)
    return Block(BlockId(HOLDER, 1), layout, layout.nbytes)


def commit(*parts: Part, **how: Any) -> Commit:
    return Commit(executor=EXECUTOR, order=1, parts=parts, **how)


def refusal(lease: Lease, part: Part, blocks: Mapping[str, Block]) -> str:
    """Why a part of a commit is refused; "" if it is not."""
    found = check(lease, commit(part), blocks)
    assert len(found.emitted) + len(found.failed) == 1
    assert found.wrong == len(found.failed)
    for failed in found.failed:
        assert failed.rows == part.rows
        assert failed.code is ErrorCode.GENERAL_EXCEPTION
        assert not failed.final
        assert HOLDER in failed.message
    return "".join(failed.message for failed in found.failed)


VALUE = ("value",)
ROWS = (0, 1, 2)


def test_what_fits_goes_on_as_it_is() -> None:
    column = block(3)
    found = check(
        lease_of(plan_of(chain(1)), "n0"), commit(Part(output="out", rows=ROWS, fields=VALUE)), {"0:value": column}
    )
    assert found.emitted == [Emitted(output="out", rows=ROWS, fields={"value": tuple((column, row) for row in ROWS)})]
    assert (found.failed, found.missing, found.wrong) == ([], [], 0)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (None, "without a row for each"),
        (block(2), "without a row for each"),
        (block(3, dtype="int32"), "is no long[]"),
        (block(3, (1,)), "is no long[]"),
        (block(3, None, shapes=((), (1,), ())), "is no long[]"),
        (block(3, None, shapes=((), (), ())), ""),
    ],
)
def test_columns_must_be_what_the_node_gives(column: Block | None, problem: str) -> None:
    blocks = {} if column is None else {"0:value": column}
    told = refusal(lease_of(plan_of(chain(1)), "n0"), Part(output="out", rows=ROWS, fields=VALUE), blocks)
    assert problem in told
    assert bool(problem) == bool(told)


def test_outputs_without_fields() -> None:
    nodes = [
        node("which", "if", ":value", {"then": "end", "else": "end"}),
        node("end", "add", ":value", None),
    ]
    lease = lease_of(plan_of(graph("main", "end:value", nodes)), "which")
    assert refusal(lease, Part(output="then", rows=ROWS, fields=()), {}) == ""
    assert "expected []" in refusal(lease, Part(output="then", rows=ROWS, fields=VALUE), {"0:value": block(3)})


def test_whole_blocks() -> None:
    plan = plan_of(chain(2, is_block=True))
    lease = lease_of(plan, "n0")
    blocks = {"0:value": block(3)}
    assert refusal(lease, Part(output="", rows=ROWS, fields=VALUE), blocks) == ""
    assert "of a block" in refusal(lease, Part(output="out", rows=ROWS, fields=VALUE), blocks)
    assert "of a block" in refusal(lease, Part(output="", rows=ROWS, fields=VALUE, call=plan.entry), blocks)
    assert "expected ['value']" in refusal(lease, Part(output="", rows=ROWS, fields=()), {})
    assert "is no long[]" in refusal(lease, Part(output="", rows=ROWS, fields=VALUE), {"0:value": block(3, (5,))})


def test_calls() -> None:
    main = graph("main", "n:value", [node("n", "call", ":value", None, graph="down")])
    down = graph("down", "end:value", [node("end", "add", ":value", None)])
    plan = plan_of(main, down)
    lease = lease_of(plan, "n")
    called = next(graph.id for graph in plan.graphs.values() if graph.name == "down")
    blocks = {"0:value": block(3), "0:more": block(3, (9,))}
    part = Part(output="out", rows=ROWS, fields=VALUE, call=called)
    assert refusal(lease, part, blocks) == ""
    assert refusal(lease, replace(part, fields=("value", "more")), blocks) == "", "a call may pass more"
    assert "no output 'then'" in refusal(lease, replace(part, output="then"), blocks)
    assert "no call of" in refusal(lease, replace(part, call=plan.entry), blocks)
    assert "for graph down" in refusal(lease, replace(part, fields=("more",)), blocks)
    assert "is no long[]" in refusal(lease, part, {"0:value": block(3, (1,))})


def test_sizes_that_a_called_graph_leaves_open_are_not_looked_at() -> None:
    loose = FieldFormat("long", (None,))
    assert fits(loose, Layout(DTYPES["int64"], 2, None, ((3,), (4,))))
    assert not fits(loose, Layout(DTYPES["int64"], 2, None, ((3,), ())))
    assert not fits(FieldFormat("long", (3,)), Layout(DTYPES["int64"], 2, None, ((3,), (4,))))
    assert fits(FieldFormat("long", (3,)), Layout(DTYPES["int64"], 0, None))


rows = st.lists(st.integers(-2, 5), max_size=5).map(tuple)
parts = st.builds(
    Part, output=st.sampled_from(["out", "", "no"]), rows=rows, fields=st.sampled_from([(), VALUE, ("other",)])
)
failures = st.builds(
    FailedPart,
    rows=rows,
    code=st.sampled_from(list(ErrorCode)),
    message=st.just("m"),
    traceback=st.just(""),
    final=st.booleans(),
    node=st.just("n"),
)


@settings(deadline=None)
@given(
    parts=st.lists(parts, max_size=4).map(tuple),
    failed=st.lists(failures, max_size=3).map(tuple),
    missing=rows,
    columns=st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=4),
)
def test_whatever_comes_each_row_is_named_once_at_most(
    parts: tuple[Part, ...], failed: tuple[FailedPart, ...], missing: tuple[int, ...], columns: list[int | None]
) -> None:
    lease = lease_of(plan_of(chain(1)), "n0", tasks=4)
    blocks = {f"{place}:value": block(size) for place, size in enumerate(columns) if size is not None}
    found = check(lease, commit(*parts, failed=failed, missing=missing), blocks)
    used = [part.rows for part in found.emitted] + [part.rows for part in found.failed]
    named = [row for rows in used for row in rows] + found.missing
    assert len(set(named)) == len(named)
    assert set(named) <= set(range(4))
    said = {row for part in parts for row in part.rows} | {row for part in failed for row in part.rows} | set(missing)
    assert set(named) == said & set(range(4)), "and what was said is not passed over"
    for part in found.emitted:
        assert all(len(values) == len(part.rows) for values in part.fields.values())


def test_there_and_back() -> None:
    """What an executor answers arrives at the owner as it was."""
    column = replace(block(2), digests=(b"a" * 32, b"b" * 32))
    event = BatchFinished(
        executor=EXECUTOR,
        order=55,
        emitted=(
            Emitted(output="out", rows=(2, 0), fields={"value": ((column, 1), (column, 0))}),
            Emitted(output="out", rows=(), fields={}),
        ),
        failed=(RowsFailed(rows=(1,), code=ErrorCode.OUT_OF_MEMORY, message="m", traceback="t", final=True, node="n"),),
        missing=(3,),
    )
    lease = lease_of(plan_of(chain(1)), "n0", tasks=4)
    told = commit_of(event, 9, lease.queue.plan, lease.queue.node, ())
    message, values = told.message, told.values
    assert (message.order, message.executor, message.missing, message.claim) == (9, EXECUTOR, (3,), None)
    assert message.parts[0].digests == {"value": (b"b" * 32, b"a" * 32)}
    assert values == {"0:value": ((column, 1), (column, 0))}
    found = check(lease, replace(message, parts=message.parts[:1]), {"0:value": column})
    assert found.emitted[0].rows == (2, 0)
    assert found.failed == list(event.failed)
    assert found.missing == [3]


def test_content_is_known_for_all_rows_or_for_none() -> None:
    known = replace(block(1), digests=(b"a" * 32,))
    assert digests_of([(known, 0), (known, 0)]) == (b"a" * 32, b"a" * 32)
    assert digests_of([(known, 0), (block(1), 0)]) == ()


# ---- columns that stay with who made them


def payload(counter: int, rows: int = 3, maker: PeerId = HOLDER, dtype: str = "int64") -> Payload:
    return Payload(maker=maker, counter=counter, layout=Layout(DTYPES[dtype], rows, ()), checksum=b"c" * 16)


def named(lease: Lease, *stays: Payload, fields: tuple[str, ...] = (), **how: Any) -> Any:
    part = Part(output="out", rows=ROWS, fields=fields, stays={"value": stays})
    return check(lease, commit(part), {f"0:{name}": block(3) for name in fields}, **how)


def test_a_column_may_stay_in_several_blocks() -> None:
    lease = lease_of(plan_of(chain(2)), "n0")
    found = named(lease, payload(1, 2), payload(2, 1))
    one, two = found.away
    assert found.emitted[0].fields == {"value": ((one, 0), (one, 1), (two, 0))}
    assert (one.id, two.id) == (BlockId(HOLDER, 1), BlockId(HOLDER, 2))
    assert (one.nbytes, one.checksum) == (16, b"c" * 16)
    assert list(found.away.values()) == [(None, 0), (None, 2)]


def test_a_second_copy_of_it_may_come_along() -> None:
    lease = lease_of(plan_of(chain(2)), "n0")
    found = named(lease, payload(1, 2), payload(2, 1), fields=VALUE)
    copies = list(found.away.values())
    assert [start for _, start in copies] == [0, 2]
    assert all(copy is not None and copy.layout.rows == 3 for copy, _ in copies)


@pytest.mark.parametrize(
    "stays",
    [
        (payload(1, 2),),
        (payload(1, maker=PeerId("P" + "9" * 32)),),
        (payload(1, 2), payload(1, 1)),
        (payload(1, dtype="float32"),),
        (),
    ],
)
def test_what_cannot_be_kept_elsewhere_fails(stays: tuple[Payload, ...]) -> None:
    lease = lease_of(plan_of(chain(2)), "n0")
    found = named(lease, *stays)
    assert (len(found.failed), found.wrong, found.away) == (1, 1, {})


def test_a_block_that_is_known_already_is_no_new_one() -> None:
    lease = lease_of(plan_of(chain(2)), "n0")
    uses = Blocks(Outbox())
    uses.admit_away(Block(BlockId(HOLDER, 1), Layout(DTYPES["int64"], 3, ()), 24))
    assert named(lease, payload(1), uses=uses).failed
    assert not named(lease, payload(2), uses=uses).failed


def test_a_copy_without_a_row_for_each_is_none() -> None:
    lease = lease_of(plan_of(chain(2)), "n0")
    part = Part(output="out", rows=ROWS, fields=VALUE, stays={"value": (payload(1),)})
    assert check(lease, commit(part), {"0:value": block(2)}).failed


def test_what_its_owner_needs_itself_must_come_along() -> None:
    plan = plan_of(chain(1))
    lease = lease_of(plan, "n0")
    part = Part(output="out", rows=ROWS, fields=VALUE, stays={"value": (payload(1),)})
    assert check(lease, commit(part), {}, needed=needed(plan)).failed, "it says so, and does not"
    assert named(lease, payload(1), needed=needed(plan)).failed
    assert not named(lease, payload(1), fields=VALUE, needed=needed(plan)).failed


def large(rows: int, counter: int = 1) -> Block:
    made = block(rows)
    return replace(made, id=BlockId(HOLDER, counter), checksum=b"c" * 16)


@pytest.mark.parametrize(
    ("values", "stay"),
    [
        ([(1, 0), (1, 1), (1, 2)], [1]),
        ([(2, 0), (2, 1), (1, 0), (1, 1), (1, 2)], [2, 1]),
        ([(1, 0), (1, 1)], []),
        ([(1, 1), (1, 0), (1, 2)], []),
        ([(3, 0)], []),
        ([(1, 0), (1, 1), (1, 2), (3, 0)], []),
    ],
)
def test_whole_blocks_stay(values: list[tuple[int, int]], stay: list[int]) -> None:
    """The third one has no checksum: it cannot be fetched, and what is stored with it cannot stay either."""
    blocks = {1: large(3), 2: large(2, 2), 3: replace(block(1), id=BlockId(HOLDER, 3))}
    column = tuple((blocks[number], row) for number, row in values)
    event = BatchFinished(
        executor=EXECUTOR, order=1, emitted=(Emitted(output="out", rows=ROWS, fields={"value": column}),)
    )
    plan = plan_of(chain(2))
    lease = lease_of(plan, "n0")
    told = commit_of(event, 9, plan, lease.queue.node, needed(plan), 0)
    assert [made.id.counter for made in told.stays] == stay
    assert (told.values == {}) == bool(stay)
    assert commit_of(event, 9, plan, lease.queue.node, needed(plan), 8).stays == []


def test_a_block_stays_once() -> None:
    column = tuple((large(3), row) for row in range(3))
    column = tuple((column[0][0], row) for row in range(3))
    event = BatchFinished(
        executor=EXECUTOR,
        order=1,
        emitted=(Emitted(output="out", rows=ROWS, fields={"value": column, "other": column}),),
    )
    plan = plan_of(chain(2))
    told = commit_of(event, 9, plan, lease_of(plan, "n0").queue.node, needed(plan), 0)
    assert (list(told.message.parts[0].stays), list(told.values)) == (["value"], ["0:other"])
