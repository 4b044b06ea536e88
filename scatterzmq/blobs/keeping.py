"""Copies of blobs, kept: does what core/blobkeepers.py decides, and tells it what happens.

Rules   1. What is here to be kept: what clients have written, what was fetched, and what the definitions of this peer
           name. Nothing is read or sent for it unless a copy is missing.
        2. Links say who is a member: whoever is gone, or has begun another life, has no copies as far as is known.
"""

from collections.abc import Callable
from functools import partial

from ..core.blobkeepers import BlobKeepers
from ..core.blobmessages import BlobId, BlobsKept, KeepBlobs
from ..ids import PeerId
from .exchange import Exchange
from .outside import Alarm, Outside

KEEP_S = 600.0
"""How long whoever writes a blob waits for its copies at most."""
LEAVE_S = 5.0
"""How long whoever leaves does: tasks are handed over, too, and supervisors kill what takes longer than 30 s."""


class Keeping:
    """The copies that one peer knows of. Everything is called, and calls back, in one thread."""

    def __init__(self, keepers: BlobKeepers, exchange: Exchange, outside: Outside) -> None:
        self._keepers = keepers
        self._exchange = exchange
        self._outside = outside
        self._waiting: dict[BlobId, list[tuple[Callable[[int], None], float]]] = {}
        self._leaving: list[tuple[Callable[[int], None], float]] = []
        self._alarm: Alarm | None = None
        self._is_closed = False

    def linked(self, peer: PeerId, *, up: bool) -> None:
        """Somebody is a member from now on (in a life of its own), or is not any more."""
        if up:
            self._keepers.joined(peer, self._now_ms())
        else:
            self._keepers.gone(peer, self._now_ms())
        self._go_on()

    def holds(self, blob: BlobId, then: Callable[[int], None] | None = None) -> None:
        """It is here. then: gets how many have it, when that is as many as there should be, or as can be had."""
        self._keepers.holds(blob, self._now_ms())
        if then is not None:
            self._waiting.setdefault(blob, []).append((then, self._outside.clock() + KEEP_S))
        self._go_on()

    def leave(self, then: Callable[[int], None]) -> None:
        """Before this peer leaves: nothing is to be lost with it. then: gets how many blobs may be all the same."""
        self._keepers.leave(self._now_ms())
        self._leaving.append((then, self._outside.clock() + LEAVE_S))
        self._go_on()

    def asked(self, peer: PeerId, word: KeepBlobs) -> None:
        self._outside.say(peer, self._keepers.asked(peer, word), {})
        self._go_on()

    def told(self, peer: PeerId, word: BlobsKept) -> None:
        self._keepers.told(peer, word, self._now_ms())
        self._go_on()

    def close(self) -> None:
        self._is_closed = True
        if self._alarm is not None:
            self._alarm.cancel()

    def _go_on(self) -> None:
        """Say what is to be said, and see when the next time comes."""
        if self._is_closed:
            return
        for peer, word in self._keepers.asks(self._now_ms()):
            self._outside.say(peer, word, {})
        now_s = self._outside.clock()
        for waiting, thens in list(self._waiting.items()):
            for then, until_s in list(thens):
                if self._keepers.is_settled(waiting.digest) or until_s <= now_s:
                    thens.remove((then, until_s))
                    then(self._keepers.copies_of(waiting.digest))
            if not thens:
                self._waiting.pop(waiting, None)
        if self._leaving and (self._leaving[0][1] <= now_s or not self._keepers.short_count):
            leaving, self._leaving = self._leaving, []
            for then, _ in leaving:
                then(self._keepers.short_count)
        due_ms = self._keepers.deadline_ms()
        if due_ms is not None:
            self._plan(max(0.0, due_ms / 1000 - now_s))
        blob = self._keepers.next_fetch()
        if blob is not None:  # last: it may fail at once, and then this is to go on at once
            self._exchange.want(blob, partial(self._fetched, blob))

    def _fetched(self, blob: BlobId, problem: str, _place: str) -> None:
        for peer, word in self._keepers.fetched(blob, is_here=not problem, now_ms=self._now_ms()):
            self._outside.say(peer, word, {})
        self._plan(0.0)  # not at once: it may have ended before it began, and so may the next one

    def _plan(self, delay_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._is_closed:
            self._alarm = self._outside.later(delay_s, self._go_on)

    def _now_ms(self) -> int:
        return round(self._outside.clock() * 1000)  # rounded down it might be due and not yet due, again and again
