"""Leaving: a peer goes on purpose, and nothing goes with it.

Purpose   Drains: no new tasks, no new batches; then every record goes to a peer that has its copy.
Rules     1. Batches that run may end, until `drain_s` is over; then their tasks go back to their queues. No retry counts.
          2. A record is handed to the first holder of its copies, which owns it from then on, and is let go when that
             peer has said so. A record without a copy gets one first.
          3. When nothing is left, or nobody is there to take it, or the time is over, the peer says goodbye; how many
             unfinished tasks went down with it is told.
"""

from itertools import count

from ..ids import PeerId, TaskId
from .actions import Left
from .claims import Claims
from .desk import Desk
from .ledger import Record
from .peermessages import HandedOver, Handover
from .state import State

TASKS_PER_MESSAGE = 512


class Leaving:
    """What one peer does to leave."""

    def __init__(self, state: State, claims: Claims, desk: Desk) -> None:
        self._state = state
        self._claims = claims
        self._desk = desk
        self._mids = count(1)
        self._handing: dict[int, tuple[PeerId, tuple[TaskId, ...]]] = {}
        self._given: dict[TaskId, int] = {}
        self._until_ms: int | None = None
        self._repeat_ms: int | None = None
        self.over = False

    @property
    def begun(self) -> bool:
        return self._until_ms is not None

    def begin(self) -> None:
        """Start to leave; nothing happens the second time."""
        if self._until_ms is None:
            timing = self._state.settings.timing
            self._until_ms = self._state.now_ms + int(timing.drain_s * 1000)
            self._state.leaving = True
            self._desk.turn_away()

    def go_on(self) -> None:
        """Whatever can be done now; after every event."""
        if self._until_ms is None or self.over:
            return
        late = self._state.now_ms >= self._until_ms
        if late:
            self._claims.give_back()
        if self._claims.working:
            return
        if not late and self._state.replicas.busy:
            return
        if not late and self._state.members.alive():
            self._hand_over()
            if len(self._state.ledger):
                return
        self._end()

    def _hand_over(self) -> None:
        """Hand to each holder what it is to take."""
        by_holder: dict[PeerId, list[Record]] = {}
        for record in self._state.ledger:
            if record.id not in self._given and len(record.rset) > 1:
                by_holder.setdefault(record.rset[1], []).append(record)
        for peer, records in by_holder.items():
            for start in range(0, len(records), TASKS_PER_MESSAGE):
                ids = tuple([record.id for record in records[start : start + TASKS_PER_MESSAGE]])
                mid = next(self._mids)
                self._handing[mid] = (peer, ids)
                self._given.update((task, mid) for task in ids)
                self._state.members.tell(peer, Handover(mid=mid, ids=ids))
        if self._handing and self._repeat_ms is None:
            self._repeat_ms = self._state.now_ms + int(self._state.settings.timing.ask_s * 1000)

    def handed_over(self, sender: PeerId, message: HandedOver) -> None:
        """A holder owns what it was handed."""
        if self._handing.get(message.mid, ("", ()))[0] != sender:
            return
        _, ids = self._handing.pop(message.mid)
        for task in ids:
            del self._given[task]
            record = self._state.ledger.record(task)
            if record is not None and record.rset[1:2] == (sender,):
                clients = record.clients
                self._claims.revoke((record,))
                self._desk.release(record)
                self._desk.moved(clients, task, sender)

    def gone(self, peer: PeerId) -> None:
        """A member that may have been handed something is gone: its records get another holder, then it begins anew."""
        for mid, (holder, ids) in list(self._handing.items()):
            if holder == peer:
                del self._handing[mid]
                for task in ids:
                    del self._given[task]

    def _end(self) -> None:
        self.over = True
        lost = sum(not record.phase.ended for record in self._state.ledger)
        self._state.members.leave()
        self._state.out.work(Left(lost=lost))

    def expire(self) -> None:
        """Repeat what was not answered."""
        now_ms = self._state.now_ms
        if self._repeat_ms is not None and self._repeat_ms <= now_ms:
            self._repeat_ms = None
            for mid, (peer, ids) in self._handing.items():
                self._state.members.tell(peer, Handover(mid=mid, ids=ids))
            if self._handing:
                self._repeat_ms = now_ms + int(self._state.settings.timing.ask_s * 1000)

    def deadline_ms(self) -> int | None:
        if self.over:
            return None
        return min([time for time in (self._until_ms, self._repeat_ms) if time is not None], default=None)

    def check_invariants(self) -> None:
        assert self._given == {task: mid for mid, (_, ids) in self._handing.items() for task in ids}
