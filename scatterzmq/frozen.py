"""Frozen: dataclasses with slots that the type checker keeps from being changed, at no cost when the program runs.

Rules     1. Whoever assigns to a field of one fails the check of types, as for `dataclass(frozen=True)`.
          2. Like those they have a hash if they are compared by value.
Why       `frozen=True` sets each field through a function call. Making one takes two to three times as long, and a task
          makes about thirty. And `dataclass` compiles each method from text: most of the time that a first `local()`
          takes. Here it is only `__init__`, which has to be quick; the others are made of what is compiled already.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(*, eq: bool = True, kw_only: bool = True) -> Callable[[type[T]], type[T]]:
    """Decorates the class of a value. eq: compared by its fields, else by identity."""

    def make(cls: type[T]) -> type[T]:
        made: Any = dataclass(slots=True, kw_only=kw_only, eq=False, repr=False)(cls)
        names = [entry.name for entry in fields(made)]
        made.__repr__ = _shown
        if eq:
            made.__eq__, made.__hash__ = _by_value(attrgetter(*names) if names else type)
        return made  # type: ignore[no-any-return]

    return make


def _by_value(values: Callable[[object], object]) -> tuple[Callable[[object, object], bool], Callable[[object], int]]:
    """How two of a class are compared, and the hash of one. values: all fields of one (its class if it has none)."""

    def equal(one: object, other: object) -> bool:
        return values(one) == values(other) if one.__class__ is other.__class__ else NotImplemented

    def hash_of(one: object) -> int:
        return hash(values(one))

    return equal, hash_of


def _shown(value: Any) -> str:
    parts = [f"{entry.name}={getattr(value, entry.name)!r}" for entry in fields(value)]
    return f"{value.__class__.__qualname__}({', '.join(parts)})"
