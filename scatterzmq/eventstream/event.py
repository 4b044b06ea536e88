"""Events as listeners get them, and what a listener is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

Context: TypeAlias = Mapping[str, str | int | float]
"""What an event is about: executor, task, graph, node, peer, ... and figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """name: dotted, from the general to the special: "tally.executor.start".
    time_ms: wall clock, since 1970. clock_ms: the monotonic clock of this machine, which is for differences.
    source: the peer where it happened, by its name; "" if there is only one.
    """

    name: str
    time_ms: int
    clock_ms: int
    source: str
    context: Context


class Listener(ABC):
    """Gets events, one at a time, in a thread of its own. One that raises gets no more.

    name: for complaints about it. disable: patterns of its own instead of those of `events.disable`.
    """

    name: str = ""
    disable: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def take(self, event: Event, /) -> None: ...

    def close(self) -> None:  # noqa: B027 -- most have nothing to close
        """Nothing comes any more. Called once, in its thread, also after it raised."""
