"""Dials: addresses where a member may be, and when to say hello there next.

Purpose   Tries again, ever less often, where nobody has answered yet.
Rules     1. An address is tried at once, then after `ask_ms`, and each wait is twice the one before, to half a minute.
          2. Whoever has answered is taken out; whoever has a reason to try puts the address in again.
          3. What discovery has named is remembered, so that it is tried again when a member has left it.
Why       A peer that was cut off, or was started before its seeds, is found again without anybody's help.
"""

from dataclasses import dataclass

WAIT_MAX_MS = 30_000
FAILED_ENOUGH = 2
"""So many dials without an answer stand for a witness where there is nobody to ask."""


@dataclass(slots=True, eq=False)
class _Dial:
    """sent: dials without an answer. wait_ms: until the one after the next. named_ms: when discovery first named it."""

    due_ms: int
    wait_ms: int
    sent: int = 0
    sent_ms: int = 0
    failed_ms: int | None = None
    named_ms: int | None = None


class Dials:
    """The addresses to try. places_max: bounds them; of too many the least promising goes."""

    def __init__(self, ask_ms: int, places_max: int) -> None:
        self._ask_ms = ask_ms
        self._places_max = places_max
        self._dials: dict[str, _Dial] = {}
        self._named: dict[str, None] = {}

    def __contains__(self, address: str) -> bool:
        return address in self._dials

    def name(self, address: str, now_ms: int) -> None:
        """Discovery has named this address, which is tried if nobody is known there."""
        dial = self._dials.get(address)
        if dial is not None and dial.named_ms is None:
            dial.named_ms = now_ms
        self._named.pop(address, None)
        self._named[address] = None
        if len(self._named) > self._places_max:
            del self._named[next(iter(self._named))]

    def is_named(self, address: str) -> bool:
        return address in self._named

    def any_named(self, since_ms: int) -> bool:
        """Whether discovery has named an address since then that has not answered yet. O(addresses)."""
        return any(dial.named_ms is not None and dial.named_ms > since_ms for dial in self._dials.values())

    def want(self, address: str, now_ms: int) -> None:
        """There is a reason to try this address now. Not more often than once per `ask_ms`, though."""
        dial = self._dials.get(address)
        if dial is None:
            if len(self._dials) >= self._places_max:
                del self._dials[self._least_promising()]
            self._dials[address] = _Dial(due_ms=now_ms, wait_ms=self._ask_ms)
        else:
            dial.wait_ms = self._ask_ms
            dial.due_ms = min(dial.due_ms, max(now_ms, dial.sent_ms + self._ask_ms))

    def drop(self, address: str) -> None:
        """Somebody has answered there, or never will."""
        self._dials.pop(address, None)

    def take_due(self, now_ms: int) -> list[str]:
        """The addresses to say hello to now."""
        due = [address for address, dial in self._dials.items() if dial.due_ms <= now_ms]
        for address in due:
            dial = self._dials[address]
            dial.sent += 1
            dial.sent_ms = now_ms
            if dial.sent == FAILED_ENOUGH:
                dial.failed_ms = now_ms + self._ask_ms
            dial.due_ms = now_ms + dial.wait_ms
            dial.wait_ms = max(self._ask_ms, min(2 * dial.wait_ms, WAIT_MAX_MS))
        return due

    def failed_ms(self, address: str) -> int | None:
        """When enough dials will have had no answer; None before so many have been sent."""
        dial = self._dials.get(address)
        return None if dial is None else dial.failed_ms

    def deadline_ms(self) -> int | None:
        return min([dial.due_ms for dial in self._dials.values()], default=None)

    def check_invariants(self) -> None:
        assert len(self._dials) <= self._places_max
        assert len(self._named) <= self._places_max
        for dial in self._dials.values():
            assert (dial.failed_ms is None) == (dial.sent < FAILED_ENOUGH)
            assert self._ask_ms <= dial.wait_ms <= max(self._ask_ms, WAIT_MAX_MS)

    def _least_promising(self) -> str:
        return max(self._dials, key=lambda address: (address not in self._named, self._dials[address].sent))
