"""Lookups: nobody is told that a definition is not loaded before all members have been asked.

Rules   1. A question waits for a round that begins after it came, and all questions that wait share one.
        2. A round is over when every member that was there when it began has answered, or is gone; at the latest after
           `timing.ask_s`.
Why     Who has loaded a graph is told so as soon as some peers have it, and may ask another one next.
"""

from ..ids import PeerId
from .peermessages import AskPointers
from .state import State


class Lookups:
    """The rounds of one peer, in which it asks all members what they have loaded; one at a time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._number = 0
        self._wanted = 0
        self._until_ms = 0
        self._waiting: dict[PeerId, None] = {}

    def begin(self) -> int:
        """Ask all members, now or after the round that is under way. Returns the number of the round."""
        self._wanted = self._number + 1
        if not self._waiting:
            self._start()
        return self._wanted

    def is_over(self, number: int) -> bool:
        return number < self._number or (number == self._number and not self._waiting)

    def _start(self) -> None:
        members = self._state.members
        self._number += 1
        self._until_ms = self._state.now_ms + self._ask_ms
        self._waiting = dict.fromkeys(members.alive())
        for peer in self._waiting:
            members.tell(peer, AskPointers(mid=self._number))

    def answered(self, peer: PeerId, number: int) -> None:
        """A member has said what it has loaded."""
        if number == self._number:
            self.gone(peer)

    def gone(self, peer: PeerId) -> None:
        """Nobody is to wait for this member (any more)."""
        if peer in self._waiting:
            del self._waiting[peer]
            self._go_on()

    def expire(self) -> None:
        if self._waiting and self._until_ms <= self._state.now_ms:
            self._waiting = {}
            self._go_on()

    def _go_on(self) -> None:
        if not self._waiting and self._number < self._wanted:
            self._start()

    def deadline_ms(self) -> int | None:
        return self._until_ms if self._waiting else None
