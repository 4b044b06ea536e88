"""Credits: what may be asked of whom, and in which order."""

import pytest

from scatterzmq.core.credits import Credits
from scatterzmq.core.values import Block
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, PeerId

A, B = PeerId("P" + "a" * 32), PeerId("P" + "b" * 32)


def block(counter: int, nbytes: int) -> Block:
    return Block(BlockId(A, counter), Layout(DTYPES["uint8"], 1, (nbytes,)), nbytes)


@pytest.fixture
def credits_() -> Credits:
    return Credits(10)


def take(credits_: Credits, asked: dict[BlockId, PeerId], member: PeerId, counter: int, nbytes: int) -> bool:
    one = block(counter, nbytes)
    asked[one.id] = member
    begun = credits_.take(member, one)
    credits_.check_invariants(asked)
    return begun


def end(credits_: Credits, asked: dict[BlockId, PeerId], counter: int) -> list[int]:
    id_ = BlockId(A, counter)
    begun = [other.counter for other in credits_.end(id_)]
    del asked[id_]
    credits_.check_invariants(asked)
    return begun


def test_what_does_not_fit_waits_until_something_has_come(credits_: Credits) -> None:
    asked: dict[BlockId, PeerId] = {}
    assert [take(credits_, asked, A, counter, nbytes) for counter, nbytes in enumerate((4, 6, 1, 7))] == [1, 1, 0, 0]
    assert end(credits_, asked, 0) == [2]
    assert end(credits_, asked, 1) == [3]
    assert end(credits_, asked, 2) == []
    assert end(credits_, asked, 3) == []
    assert take(credits_, asked, A, 4, 10)


def test_one_may_always_come_and_is_alone_then(credits_: Credits) -> None:
    asked: dict[BlockId, PeerId] = {}
    assert take(credits_, asked, A, 0, 99)
    assert not take(credits_, asked, A, 1, 0)
    assert not take(credits_, asked, A, 2, 99)
    assert not take(credits_, asked, A, 3, 1)
    assert end(credits_, asked, 0) == [1]
    assert end(credits_, asked, 1) == [2]
    assert end(credits_, asked, 2) == [3]


def test_nothing_overtakes(credits_: Credits) -> None:
    asked: dict[BlockId, PeerId] = {}
    assert take(credits_, asked, A, 0, 9)
    assert not take(credits_, asked, A, 1, 9)
    assert not take(credits_, asked, A, 2, 1)
    assert end(credits_, asked, 0) == [1, 2]


def test_each_member_has_its_own(credits_: Credits) -> None:
    asked: dict[BlockId, PeerId] = {}
    assert take(credits_, asked, A, 0, 9)
    assert take(credits_, asked, B, 1, 9)
    assert not take(credits_, asked, A, 2, 9)
    assert end(credits_, asked, 1) == []
    assert end(credits_, asked, 0) == [2]


def test_what_waits_may_be_given_up(credits_: Credits) -> None:
    asked: dict[BlockId, PeerId] = {}
    assert take(credits_, asked, A, 0, 9)
    assert not take(credits_, asked, A, 1, 9)
    assert not take(credits_, asked, A, 2, 1)
    assert end(credits_, asked, 1) == [2], "nothing larger is before it any more"
