"""Inputs of a batch by name: whatever a grant says, there is a row for each task, or it goes back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scatterzmq.core.blocks import Blocks, Loss
from scatterzmq.core.grants import Read, read, sent
from scatterzmq.core.outbox import Outbox
from scatterzmq.core.payloadmessages import Payload, Places
from scatterzmq.core.peermessages import Grant
from scatterzmq.core.queues import Queue
from scatterzmq.core.values import Block, Value
from scatterzmq.graph.check import check
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, ExecutorId, PeerId, TaskId
from tests.core.conftest import describe, graph, node

ME, MAKER, THIRD = (PeerId(f"P{number:032x}") for number in range(3))
LONG = DTYPES["int64"]


def block(maker: PeerId, counter: int, rows: int = 2) -> Block:
    return Block(BlockId(maker, counter), Layout(LONG, rows, ()), 8 * rows, (b"d" * 32,) * rows, b"c" * 16)


def queue() -> Queue:
    nodes = [
        node("n0", "add", ":value", "n1"),
        node("n1", "sum", {"left": ":value", "right": "n0:value"}, None),
    ]
    plan = check({"graphs": [graph("main", "n1:value", nodes)], "entry": "main"}, describe).require()
    return next(Queue(plan, one) for one in plan.queues.values() if one.name == "n1")


def grant(tasks: int = 2, **how: Any) -> Grant:
    ids = tuple(TaskId(f"T{at:032x}") for at in range(tasks))
    made = queue()
    return Grant(
        claim=1, executor=ExecutorId("E" + "0" * 32), digest=made.key[0], queue=made.key[1], order=1, ids=ids, **how
    )


class Kept:
    """What a peer keeps for others."""

    def __init__(self, *blocks: Block) -> None:
        self.blocks = {made.id: made for made in blocks}

    def mine(self, payload: Payload) -> Block | None:
        return self.blocks.get(BlockId(payload.maker, payload.counter))


def received(message: Grant, beside: dict[str, Block], *kept: Block) -> Read | None:
    kept_here: Any = Kept(*kept)
    return read(queue(), message, beside, kept_here)


def test_rows_go_by_name_where_the_borrower_or_nobody_has_them() -> None:
    blocks = Blocks(Outbox())
    at_maker, at_third, here, home = block(MAKER, 1), block(THIRD, 2), block(ME, 3), block(MAKER, 4)
    blocks.admit([here], kept=False)
    blocks.admit_away(at_maker)
    blocks.admit_away(at_third)
    blocks.admit_away(home)
    blocks.came(home.id, here)
    inputs: dict[str, tuple[Value, ...]] = {
        "left": ((at_maker, 1), (here, 0), (at_third, 0), (home, 1)),
        "right": ((here, 0), (here, 1), (here, 0), (here, 1)),
    }
    made = sent(blocks, MAKER, inputs, digests=True)
    assert [(payload.maker, payload.counter) for payload in made.payloads] == [(MAKER, 1), (THIRD, 2)]
    assert made.places == [Places(field="left", payloads=(0, 2, 1, 2), rows=(1, 0, 0, 1))]
    assert made.beside == {"left": ((here, 0), (here, 1)), "right": inputs["right"]}
    assert {name: len(digests) for name, digests in made.digests.items()} == {"left": 2, "right": 4}
    assert made.named == 2
    message = grant(4, payloads=tuple(made.payloads), places=tuple(made.places))
    left, right = block(THIRD, 8, rows=2), block(THIRD, 9, rows=4)
    found = received(message, {"left": left, "right": right}, at_maker)
    assert found is not None
    (other,) = found.lacking
    assert other.id == at_third.id
    assert found.inputs["left"] == ((at_maker, 1), (left, 0), (other, 0), (left, 1))
    assert list(found.here) == [left, right, at_maker]


def test_without_anything_away_all_rows_travel() -> None:
    blocks = Blocks(Outbox())
    here = block(ME, 1)
    made = sent(blocks, MAKER, {"left": ((here, 0),)}, digests=False)
    assert (made.beside, made.digests, made.places) == ({"left": ((here, 0),)}, {}, [])


def test_a_field_all_by_name_has_no_column() -> None:
    blocks = Blocks(Outbox())
    away, lost = block(MAKER, 1), block(THIRD, 1)
    blocks.admit_away(away)
    blocks.admit_away(lost)
    blocks.maker_gone(THIRD, Loss.DIED)
    made = sent(blocks, MAKER, {"left": ((away, 0), (away, 1))}, digests=True)
    assert (made.beside, made.digests) == ({}, {})


PAYLOAD = Payload(maker=MAKER, counter=1, layout=Layout(LONG, 2, ()), checksum=b"c" * 16)
BOTH = (Places(field="left", payloads=(0, 0), rows=(0, 1)), Places(field="right", payloads=(0, 0), rows=(1, 1)))


def test_all_by_name() -> None:
    assert received(grant(payloads=(PAYLOAD,), places=BOTH), {}) is not None


@pytest.mark.parametrize(
    ("places", "beside"),
    [
        (BOTH[:1], {}),
        (BOTH, {"more": 2}),
        (BOTH[:1], {"right": 1}),
        (BOTH[:1], {"right": 3}),
        ((BOTH[0], Places(field="right", payloads=(0,), rows=(0, 1))), {}),
        ((BOTH[0], Places(field="right", payloads=(0, 0), rows=(0,))), {}),
        ((BOTH[0], Places(field="right", payloads=(0, 1), rows=(0, 0))), {}),
        ((BOTH[0], Places(field="right", payloads=(0, 1), rows=(0, 1))), {"right": 1}),
        ((BOTH[0], Places(field="right", payloads=(0, 0), rows=(0, 2))), {}),
    ],
)
def test_what_is_not_there_for_each_task(places: tuple[Places, ...], beside: dict[str, int]) -> None:
    columns = {name: block(ME, at, rows) for at, (name, rows) in enumerate(beside.items())}
    assert received(grant(payloads=(PAYLOAD,), places=places), columns) is None


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_there_and_back(data: Any) -> None:
    """Each task gets its own row, wherever that is."""
    blocks = Blocks(Outbox())
    here = block(ME, 1, rows=4)
    blocks.admit([here], kept=False)
    stock = [here, *(block(maker, counter, rows=4) for maker in (MAKER, THIRD) for counter in (1, 2))]
    for away in stock[1:]:
        blocks.admit_away(away)
        if data.draw(st.booleans()):
            blocks.came(away.id, here)
    count = data.draw(st.integers(1, 5))
    value = st.tuples(st.sampled_from(stock), st.integers(0, 3))
    inputs = {name: tuple(data.draw(st.lists(value, min_size=count, max_size=count))) for name in ("left", "right")}
    made = sent(blocks, MAKER, inputs, digests=False)
    message = grant(count, payloads=tuple(made.payloads), places=tuple(made.places))
    beside = {name: block(THIRD, 100 + at, rows=len(values)) for at, (name, values) in enumerate(made.beside.items())}
    found = received(message, beside, *stock[1:3])
    assert found is not None
    for name, values in inputs.items():
        for (source, row), (got, at) in zip(values, found.inputs[name], strict=True):
            if got.id.counter >= 100:
                assert made.beside[name][at] == blocks.here((source, row))
            else:
                assert (got.id, at) == (source.id, row)


# ---- blocks that are away


def test_a_copy_that_is_lost_as_well() -> None:
    blocks = Blocks(Outbox())
    away, copy = block(MAKER, 1), block(ME, 2, rows=5)
    blocks.admit([copy], kept=False)
    blocks.admit_away(away, copy, 3)
    blocks.settle([copy])
    assert blocks.here((away, 1)) == (copy, 4)
    assert blocks.copy(away.id) == ((copy, 3), (copy, 4))
    blocks.came(away.id, block(ME, 3))
    assert blocks.here((away, 1)) == (copy, 4), "one copy is enough"
    blocks.lost(away.id, Loss.LEFT)
    assert blocks.loss([(away, 0)]) is None
    blocks.evicted([copy.id, BlockId(ME, 99)])
    assert blocks.loss([(away, 0)]) is Loss.EVICTED
    assert blocks.gone() == blocks.all_away() == {away.id}
    blocks.check_invariants()
    again = block(ME, 4)
    blocks.admit([again], kept=False)
    blocks.came(away.id, again)
    assert blocks.loss([(away, 0)]) is None
    blocks.check_invariants()
    blocks.settle([again, away])
    assert blocks.uses() == {}
    assert blocks.unneeded == {}, "nobody keeps it"
    blocks.lost(away.id, Loss.DIED)
    blocks.came(away.id, again)
    blocks.check_invariants()


def test_several_blocks_may_have_one_copy() -> None:
    blocks = Blocks(Outbox())
    copy = block(ME, 9, rows=4)
    blocks.admit([copy], kept=False)
    one, two = block(MAKER, 1), block(MAKER, 2)
    blocks.admit_away(one, copy, 0)
    blocks.admit_away(two, copy, 2)
    blocks.settle([copy])
    assert list(blocks.copies()) == [copy, copy]
    blocks.settle([one])
    blocks.check_invariants()
    blocks.settle([two])
    assert blocks.uses() == {}
    assert blocks.unneeded == {MAKER: [1, 2]}


def test_the_largest_row_says_where_a_task_s_inputs_lie() -> None:
    blocks = Blocks(Outbox())
    small, large, here = block(MAKER, 1), block(THIRD, 1), block(ME, 1)
    large = Block(large.id, Layout(LONG, 2, (5,)), 80)
    blocks.admit([here], kept=False)
    blocks.admit_away(small)
    blocks.admit_away(large)
    assert blocks.lies_at([(small, 0), (large, 0), (here, 0)]) == THIRD
    assert blocks.lies_at([(here, 0)]) is None
