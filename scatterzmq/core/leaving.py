"""Leaving: a peer goes on purpose, and nothing goes with it.

Purpose   Drains: no new tasks, no new batches; then every record goes to a peer that has its copy.
Rules     1. Batches that run may end, for `drain_s`; what is not through by then is done again elsewhere, uncounted.
          2. A record is handed to the first holder of its copies, which owns it from then on, and is let go when that
             peer has said so. A record without a copy gets one first, even where one is enough, as far as there is
             somebody; and so does one whose holder leaves, too.
          3. It is handed over as its copies have it: when all that was written of it has come to them, and once more
             if it has changed since. Else an end that comes late makes the new owner give way to this peer, which has
             let go by then.
          4. When nothing is left, or nobody is there to take it, or it has taken too long, the peer says goodbye; how
             many unfinished tasks went down with it is told. What is in its journal is not lost.
"""

from itertools import count
from typing import TypeAlias

from ..ids import PeerId, TaskId
from .actions import Left
from .borrowing import Borrowing
from .claims import Claims
from .desk import Desk
from .ledger import Record
from .peermessages import HandedOver, Handover
from .state import State

_Account: TypeAlias = tuple[int, int]
"""What a record was when it was handed over: its epoch, and the changes within it."""

TASKS_PER_MESSAGE = 512

HANDOVER_MS = 10_000
"""How long handing over may take when the batches are through: longer than to notice that a holder is dead."""


class Leaving:
    """What one peer does to leave. over: it has left."""

    def __init__(self, state: State, claims: Claims, borrowing: Borrowing, desk: Desk) -> None:
        self._state = state
        self._claims = claims
        self._borrowing = borrowing
        self._desk = desk
        self._mids = count(1)
        self._handing: dict[int, tuple[PeerId, dict[TaskId, _Account]]] = {}
        self._given: dict[TaskId, int] = {}
        self._drained_ms = 0
        self._repeat_ms: int | None = None
        self.over = False

    def begin(self) -> None:
        """Start to leave; nothing happens the second time."""
        if not self._state.leaving:
            self._state.leaving = True
            self._drained_ms = self._state.now_ms + int(self._state.settings.timing.drain_s * 1000)
            self._desk.turn_away()
            self._state.replicas.want_heirs()

    def go_on(self) -> None:
        """Whatever can be done now; after every event."""
        if not self._state.leaving or self.over:
            return
        now_ms = self._state.now_ms
        if now_ms < self._drained_ms and (len(self._state.leases) or self._borrowing.busy):
            return
        is_late = now_ms >= self._drained_ms + HANDOVER_MS
        if not is_late and len(self._state.ledger) and self._state.members.partners():
            self._hand_over()
            return
        self._end()

    def _hand_over(self) -> None:
        """Hand to each holder what it is to take."""
        by_holder: dict[PeerId, list[Record]] = {}
        alone = []
        for record in self._state.ledger:
            if len(record.rset) == 1:
                alone.append(record)
            elif not (record.barriers or record.id in self._given) and self._state.members.is_alive(record.rset[1]):
                by_holder.setdefault(record.rset[1], []).append(record)
        for peer, records in by_holder.items():
            for start in range(0, len(records), TASKS_PER_MESSAGE):
                given = {record.id: _account(record) for record in records[start : start + TASKS_PER_MESSAGE]}
                mid = self._give(peer, given)
                self._state.members.tell(peer, Handover(mid=mid, ids=tuple(given)))
        self._state.replicas.share(alone, self._state.now_ms)
        if self._repeat_ms is None:
            self._repeat_ms = self._state.now_ms + int(self._state.settings.timing.ask_s * 1000)

    def _give(self, peer: PeerId, given: dict[TaskId, _Account]) -> int:
        """These are to be a holder's, when it is told so under the number that is returned, and has answered."""
        mid = next(self._mids)
        self._handing[mid] = (peer, given)
        self._given.update((task, mid) for task in given)
        return mid

    def handed_over(self, sender: PeerId, message: HandedOver) -> None:
        """A holder owns what it was handed."""
        peer, given = self._handing.get(message.mid, ("", {}))
        if peer != sender:
            return
        del self._handing[message.mid]
        for task in given:
            del self._given[task]
        if message.leaving:
            self._state.members.leaves(sender)
            self._state.replicas.gone(sender, self._state.now_ms)
            return
        lacking = frozenset(message.lacking)
        again: dict[TaskId, _Account] = {}
        for task, account in given.items():
            record = self._state.ledger.record(task)
            if record is None:
                continue
            if task in lacking:
                again[task] = account
            elif _account(record) == account:  # else it is handed over again
                clients = record.clients
                self._claims.revoke((record,))
                self._desk.release(record)
                self._desk.moved(clients, task, sender)
        if again:  # the holder cannot take them yet: they are asked for when `expire` repeats
            self._give(sender, again)

    def gone(self, peer: PeerId) -> None:
        """A member that may have been handed something is gone: its records get other holders, who are asked next."""
        for mid, (holder, given) in list(self._handing.items()):
            if holder == peer:
                del self._handing[mid]
                for task in given:
                    del self._given[task]

    def _end(self) -> None:
        self.over = True
        journal = self._state.journal
        is_kept = journal is not None and not journal.failed
        lost = 0 if is_kept else sum(not record.phase.ended for record in self._state.ledger)
        self._state.members.leave()
        self._state.out.work(Left(lost=lost))

    def expire(self) -> None:
        """Repeat what was not answered."""
        now_ms = self._state.now_ms
        if self._repeat_ms is not None and self._repeat_ms <= now_ms:
            self._repeat_ms = now_ms + int(self._state.settings.timing.ask_s * 1000) if self._handing else None
            for mid, (peer, given) in self._handing.items():
                self._state.members.tell(peer, Handover(mid=mid, ids=tuple(given)))

    def deadline_ms(self) -> int | None:
        if not self._state.leaving or self.over:
            return None
        now_ms = self._state.now_ms
        times = [self._drained_ms, self._drained_ms + HANDOVER_MS, self._repeat_ms]
        return min([time for time in times if time is not None and time > now_ms], default=None)

    def check_invariants(self) -> None:
        assert self._given == {task: mid for mid, (_, given) in self._handing.items() for task in given}


def _account(record: Record) -> _Account:
    return record.epoch_n, record.change
