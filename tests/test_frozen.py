"""Values: what `frozen` makes is a dataclass in all that our code and the type checker rely on."""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from scatterzmq.frozen import frozen


@frozen()
class Point:
    x: int
    y: int = 0
    names: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordinary:
    x: int
    y: int = 0


@frozen()
class Pair:
    x: int
    y: int = 0


@frozen(kw_only=False)
class Single:
    key: str


@frozen()
class Nothing:
    pass


@frozen(eq=False)
class Thing:
    x: int


def test_it_is_a_dataclass_with_slots() -> None:
    kind: Any = Point
    assert is_dataclass(kind)
    assert [entry.name for entry in fields(Point)] == ["x", "y", "names"]
    assert replace(Point(x=1), y=2) == Point(x=1, y=2)
    assert Point(x=1).names is not Point(x=1).names
    assert not hasattr(Point(x=1), "__dict__")
    match Single("a"):
        case Single(key):
            assert key == "a"
    with pytest.raises(TypeError, match="positional"):
        Point(1)  # type: ignore[call-arg]


def test_it_is_compared_and_shown_as_one() -> None:
    one: Any = Pair(x=2, y=3)
    other: Any = Ordinary(x=2, y=3)
    nothing: Any = Nothing()
    assert repr(one) == repr(other).replace("Ordinary", "Pair")
    assert hash(one) == hash(other)
    assert one not in (other, nothing, (2, 3), 2)
    assert nothing != other
    assert Pair(x=1) == Pair(x=1, y=0) != Pair(x=1, y=1)
    assert {Pair(x=1): "found"}[Pair(x=1)] == "found"
    assert Single("a") == Single("a") != Single("b")
    assert hash(Single("a")) == hash(Single("a")) != hash(Single("b"))
    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())
    assert repr(Nothing()) == "Nothing()"


def test_what_holds_what_cannot_be_hashed_says_so() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(x=1))


def test_by_identity() -> None:
    thing = Thing(x=1)
    assert thing == thing != Thing(x=1)
    assert len({thing, Thing(x=1)}) == 2
    assert repr(thing) == "Thing(x=1)"
