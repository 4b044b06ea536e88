"""Frozen: dataclasses with slots that the type checker keeps from being changed, at no cost when the program runs.

Rules     1. Whoever assigns to a field of one fails the check of types, as for `dataclass(frozen=True)`.
          2. Like those they have a hash if they are compared by value.
Why       `frozen=True` sets each field through a function call. Making one takes two to three times as long, and a task
          makes about thirty.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def frozen(*, eq: bool = True, kw_only: bool = True) -> Callable[[type[T]], type[T]]:
    """Decorates the class of a value. eq: compared by its fields, else by identity."""

    def make(cls: type[T]) -> type[T]:
        return dataclass(slots=True, kw_only=kw_only, eq=eq, unsafe_hash=eq)(cls)

    return make
