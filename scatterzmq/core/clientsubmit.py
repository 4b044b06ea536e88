"""A client's submissions and ends: what must reach a peer for sure, and what must reach all who have a task.

Rules   1. A submission is repeated, whole and under its nonce, until each of its tasks is accepted or refused. It goes
           to one peer; when that is not usable any more to another one, and that the first may have accepted it, too,
           is remembered with its tasks.
        2. Its columns are let go when nothing of it is open.
        3. Clearing and cancelling goes to the owner and whoever else may have got the task; when the owner is not
           usable, to the next one with a copy; when there is none, to everybody. What none of those knows that were to
           clear it is somewhere else: the word that it has moved may have been lost. Then it goes to everybody else.
           Who may have it, too, and cannot be reached is told when it can be; if it does not know it then, or is gone,
           it has left it to somebody: so everybody is told.
        4. What is accepted and not wanted any more is cleared there: repeating the whole brings in what was refused
           before, and a peer that did not answer may come to what was accepted elsewhere and cleared since.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ..ids import PeerId, TaskId
from .clientasks import Answer, Ask, Asks, ClientState
from .clientevents import Deliver, LetGo
from .clienttasks import Place, Tasks, chunks
from .messages import Accepted, Cancel, Cancelled, Clear, Cleared, Refused, Submit


class Submission:
    """One Submit. Lives as an open question until nothing of it is open."""

    def __init__(self, state: ClientState, asks: Asks, tasks: Tasks, message: Submit, parcel: int) -> None:
        assert message.ids, "nothing would end it"
        self._state = state
        self._asks = asks
        self._tasks = tasks
        self._mid = message.mid
        self._parcel = parcel
        self._open = dict.fromkeys(message.ids)
        self._tried: tuple[PeerId, ...] = ()
        tasks.submitted(message.ids, self)
        self._ask = asks.send(self, message, self._next(), parcel)

    @property
    def place(self) -> Place:
        return Place(None, (), self._tried)

    def answered(self, ask: Ask, peer: PeerId, message: Answer) -> None:
        assert isinstance(message, Accepted | Refused)
        ids = tuple([task for task in message.ids if task in self._open])
        if isinstance(message, Accepted):
            self._accepted(peer, message, ids)
        elif ids:
            self._tasks.unwant(ids)
            self._state.out.append(Deliver(message=replace(message, mid=self._mid, ids=ids)))
        self._settle(ids)

    def _accepted(self, peer: PeerId, message: Accepted, ids: tuple[TaskId, ...]) -> None:
        owner, *copies = message.rset or (peer,)
        others = tuple(other for other in self._tried if other != owner)
        place = Place(owner, tuple(copies), others, message.durable)
        moved = [task for task in message.ids if task not in ids and self._is_orphan(task)]
        if ids or moved:
            self._tasks.accepted([*ids, *moved], place)
        self._tasks.found([task for task in message.ids if task not in ids and task not in moved], owner)
        if ids:
            self._state.out.append(Deliver(message=replace(message, mid=self._mid, ids=ids)))
        clear_ghosts(self._state, self._asks, self._tasks, peer, message.ids)

    def _is_orphan(self, task: TaskId) -> bool:
        """Accepted elsewhere before, by a peer that is gone."""
        return self._tasks.is_waited_for(task) and not self._state.peers.usable(self._tasks.place(task).owner)

    def ended(self, task: TaskId) -> None:
        self._settle((task,))

    def stranded(self, ask: Ask) -> None:
        self._asks.move(ask, self._next())

    def _next(self) -> PeerId | None:
        home = self._state.peers.home
        if home is not None and home not in self._tried:
            self._tried = (*self._tried, home)
        return home

    def _settle(self, ids: Iterable[TaskId]) -> None:
        for task in ids:
            del self._open[task]
            del self._tasks.submitting[task]
        if not self._open:
            self._asks.close(self._ask)
            if self._parcel:
                self._state.out.append(LetGo(parcel=self._parcel))


def clear_ghosts(state: ClientState, asks: Asks, tasks: Tasks, peer: PeerId, ids: Iterable[TaskId]) -> None:
    """Rule 4, when a peer has these tasks: it has accepted them, or, where that word got lost, says how they ended.
    Also the end of rule 3: it may have them, and can be reached.
    """
    ghosts = tuple(filter(tasks.is_ghost, ids))
    if ghosts and state.peers.usable(peer):
        Ending(state, asks, tasks, Clear(mid=0, ids=ghosts), where=peer)


class Ending:
    """One Clear or Cancel. mid 0: the user's side knows nothing of it. where: to this peer first, while it is there."""

    def __init__(
        self, state: ClientState, asks: Asks, tasks: Tasks, message: Clear | Cancel, where: PeerId | None = None
    ) -> None:
        assert message.ids, "nothing would end it"
        self._state = state
        self._asks = asks
        self._tasks = tasks
        self._message = message
        self._where = where
        self._open: dict[int, Ask] = {}
        # Of tasks that are cleared: those that somebody knew, and who did not know the others.
        self._found: set[TaskId] = set()
        self._lacking: dict[TaskId, dict[PeerId | None, None]] = {}
        if isinstance(message, Clear) and where is None:
            tasks.clearing |= dict.fromkeys(message.ids, self)
        self._send(message.ids)

    def answered(self, ask: Ask, peer: PeerId, message: Answer) -> None:
        self._close(ask)
        if isinstance(message, Cleared):
            self._tasks.reached(peer, ask.message.ids)  # type: ignore[union-attr]
            for task in message.unknown:
                self._lacking.setdefault(task, {})[peer] = None
            self._found |= frozenset(ask.message.ids) - frozenset(message.unknown)  # type: ignore[union-attr]
            if not self._open:
                self._look_elsewhere()
        self._settle()

    def _look_elsewhere(self) -> None:
        """Everybody who was to clear it has answered: what nobody has known goes to those who were not asked."""
        missing = [task for task in self._lacking if task not in self._found and self._is_unwanted(task)]
        everybody = self._state.peers.everybody()
        self._say({peer: [task for task in missing if peer not in self._lacking[task]] for peer in everybody})

    def _is_unwanted(self, task: TaskId) -> bool:
        """Whether it is still to go: what is submitted again meanwhile is another task."""
        return self._tasks.clearing.get(task) is self if self._where is None else self._tasks.is_ghost(task)

    def stranded(self, ask: Ask) -> None:
        self._close(ask)
        if self._where is None:
            self._send(ask.message.ids)  # type: ignore[union-attr]
        self._settle()

    def _close(self, ask: Ask) -> None:
        del self._open[ask.number]
        self._asks.close(ask)

    def _send(self, ids: Iterable[TaskId]) -> None:
        if isinstance(self._message, Clear) and self._where is None:
            self._tasks.unreach(ids)
        by_peer: dict[PeerId | None, list[TaskId]] = {}
        for task in ids:
            for peer in self._targets(task) if self._where is None else (self._where,):
                by_peer.setdefault(peer, []).append(task)
        self._say(by_peer)

    def _say(self, by_peer: Mapping[PeerId | None, list[TaskId]]) -> None:
        for to, listed in by_peer.items():
            for chunk in chunks(listed):
                ask = self._asks.send(self, replace(self._message, ids=chunk), to)
                self._open[ask.number] = ask

    def _targets(self, task: TaskId) -> Iterator[PeerId | None]:
        peers = self._state.peers
        place = self._tasks.place(task)
        others = [peer for peer in place.others if peers.usable(peer)]
        near = [peer for peer in (place.owner, *place.copies) if peers.usable(peer)][:1]
        if near:
            yield from dict.fromkeys([*near, *others])
        else:
            yield from peers.everybody() or (None,)

    def _settle(self) -> None:
        if self._open:
            return
        if isinstance(self._message, Cancel):
            self._asks.deliver(Cancelled(mid=0), self._message.mid)
        elif self._message.mid:
            self._asks.deliver(Cleared(mid=0), self._message.mid)
            cleared = [task for task in self._message.ids if self._tasks.clearing.pop(task, None) is not None]
            self._tasks.forget(cleared)
