"""A client's polls: questions that only all peers together can answer.

Rules   1. Reports on tasks are asked for where the tasks are, or at home; what is unknown there, at everybody who can
           be asked, and then at those that home has met since, and at home once more. A known task beats an unknown
           one, an ended one beats one that goes on, and the end that the user's side has seen beats any other. Any of
           them may know of others that cannot be asked; then unknown is no answer. What nobody knows who can be asked
           is as it was known here, as long as it is not given up (clienttasks).
        2. A poll is over when everybody who can be asked has answered; not before it is clear who there is.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from ..ids import PeerId, TaskId
from .clientasks import Answer, Ask, Asks, ClientState
from .clienttasks import Tasks, alike, chunks
from .messages import (
    AskStats,
    AskTasks,
    CacheCleared,
    ClearCache,
    QueueStats,
    Stats,
    TaskReport,
    TaskReports,
    TaskStatus,
)


class _Round(Protocol):
    def advance(self) -> bool:
        """Ask whoever is to be asked now; False: it is over."""
        ...


class Polls:
    """All polls of one client that are not over."""

    def __init__(self, state: ClientState, asks: Asks, tasks: Tasks) -> None:
        self._state = state
        self._asks = asks
        self._tasks = tasks
        self._rounds: list[_Round] = []
        self._doubted: dict[TaskId, None] = {}

    def tasks(self, message: AskTasks) -> None:
        self._rounds.append(_TaskPoll(self._state, self._asks, self._tasks, message))

    def ask_all(self, message: AskStats | ClearCache, joined: "Joined") -> None:
        self._rounds.append(_Poll(self._state, self._asks, message, joined))

    def doubt(self, ids: Iterable[TaskId]) -> None:
        """One peer says that these tasks are unknown: ask the others, once at a time."""
        doubted = [task for task in ids if task not in self._doubted]
        self._doubted |= dict.fromkeys(doubted)
        if doubted:
            self._rounds.append(_Census(self._state, self._asks, self._tasks, doubted, self._doubted))

    def advance(self) -> None:
        """After each event: go on with all that can go on."""
        rounds, self._rounds = self._rounds, []
        self._rounds = [one for one in rounds if one.advance()] + self._rounds


class _TaskPoll:
    """Reports on tasks. mid: under which the user's side asked."""

    def __init__(self, state: ClientState, asks: Asks, tasks: Tasks, message: AskTasks) -> None:
        self._state = state
        self._asks = asks
        self._tasks = tasks
        self._mid = message.mid
        self._number = next(state.numbers)
        self._reports: dict[TaskId, dict[PeerId, TaskReport]] = {task: {} for task in message.ids}
        self._asked: dict[tuple[PeerId, TaskId], None] = {}
        self._open: dict[int, Ask] = {}
        self._doubtful = False
        self._is_list_new = False
        self._ask_near()

    def answered(self, ask: Ask, peer: PeerId, message: Answer) -> None:
        assert isinstance(message, TaskReports)
        self._doubtful |= message.doubtful
        for report in message.reports:
            if report.status is not TaskStatus.UNKNOWN and report.id in self._reports:
                self._reports[report.id][peer] = report
        self._close(ask)

    def stranded(self, ask: Ask) -> None:
        assert isinstance(ask.message, AskTasks)
        assert ask.peer is not None
        for task in ask.message.ids:
            del self._asked[ask.peer, task]
        self._close(ask)

    def _close(self, ask: Ask) -> None:
        del self._open[ask.number]
        self._asks.close(ask)

    def advance(self) -> bool:
        if not self._open:
            self._ask_for([task for task, known in self._reports.items() if not known])
        if self._open or not (all(self._reports.values()) or self._state.peers.settled(self._state.now_ms)):
            return True
        self._conclude()
        return False

    def _ask_near(self) -> None:
        peers = self._state.peers
        by_peer: dict[PeerId, list[TaskId]] = {}
        for task in self._reports:
            owner = self._tasks.place(task).owner
            peer = owner if peers.usable(owner) else peers.home
            if peer is not None:
                by_peer.setdefault(peer, []).append(task)
        for peer, tasks in by_peer.items():
            self._ask(peer, tasks)

    def _ask_for(self, tasks: list[TaskId]) -> None:
        """Nobody knows these yet who was asked."""
        self._ask_everybody(tasks)
        peers = self._state.peers
        if tasks and not self._open and not self._is_list_new and peers.settled(self._state.now_ms):
            # Home may have found others since it said who there is, or have given some up since it said what it knows.
            assert peers.home is not None, "settled without a home"
            self._is_list_new = True
            peers.list_anew(self._state.now_ms)
            for task in tasks:
                self._asked.pop((peers.home, task), None)

    def _ask_everybody(self, tasks: list[TaskId]) -> None:
        if tasks and self._state.peers.settled(self._state.now_ms):
            for peer in self._state.peers.everybody():
                self._ask(peer, [task for task in tasks if (peer, task) not in self._asked])

    def _ask(self, peer: PeerId, tasks: list[TaskId]) -> None:
        for chunk in chunks(tasks):
            self._asked |= dict.fromkeys([(peer, task) for task in chunk])
            ask = self._asks.send(self, AskTasks(mid=0, ids=chunk), peer)
            self._open[ask.number] = ask

    def _conclude(self) -> None:
        self._tasks.polled(self._number, self._reports, doubtful=self._doubtful)
        reports = tuple([self._best(task, known.values()) for task, known in self._reports.items()])
        self._asks.deliver(TaskReports(mid=0, reports=reports), self._mid)

    def _best(self, task: TaskId, reports: Iterable[TaskReport]) -> TaskReport:
        known = [*reports]
        status = self._tasks.status(task)
        if status in (TaskStatus.READY, TaskStatus.DONE, TaskStatus.ERROR):
            # A peer may have another end: of the other side of a split. The user's side sees one only.
            known = [report for report in known if report.status.complete and alike(report.status, status)]
        return max(known, key=lambda report: report.status.complete, default=TaskReport(id=task, status=status))


class _Census(_TaskPoll):
    """Whether tasks are unknown everywhere. doubted: the tasks of all censuses that are not over."""

    def __init__(
        self, state: ClientState, asks: Asks, tasks: Tasks, ids: list[TaskId], doubted: dict[TaskId, None]
    ) -> None:
        self._doubted = doubted
        super().__init__(state, asks, tasks, AskTasks(mid=0, ids=tuple(ids)))

    def _ask_near(self) -> None:
        """Ask all of them at once."""

    def _conclude(self) -> None:
        for task in self._reports:
            del self._doubted[task]
        self._tasks.polled(self._number, self._reports, doubtful=self._doubtful)


Joined: TypeAlias = Callable[[Iterable[Any]], Answer]
"""Makes one answer of the answers of several peers."""


class _Poll:
    """A question to all peers that has one answer."""

    def __init__(self, state: ClientState, asks: Asks, message: AskStats | ClearCache, joined: Joined) -> None:
        self._state = state
        self._asks = asks
        self._message = message
        self._joined = joined
        self._asked: list[PeerId] = []
        self._open: dict[int, Ask] = {}
        self._answers: list[Answer] = []

    def answered(self, ask: Ask, peer: PeerId, message: Answer) -> None:
        self._answers.append(message)
        self._close(ask)

    def stranded(self, ask: Ask) -> None:
        assert ask.peer is not None
        self._asked.remove(ask.peer)
        self._close(ask)

    def _close(self, ask: Ask) -> None:
        del self._open[ask.number]
        self._asks.close(ask)

    def advance(self) -> bool:
        settled = self._state.peers.settled(self._state.now_ms)
        for peer in self._state.peers.everybody() if settled else ():
            if peer not in self._asked:
                self._asked.append(peer)
                ask = self._asks.send(self, self._message, peer)
                self._open[ask.number] = ask
        if self._open or not settled:
            return True
        self._asks.deliver(self._joined(self._answers), self._message.mid)
        return False


def cleared(answers: Iterable[CacheCleared]) -> CacheCleared:
    """What several peers have forgotten."""
    return CacheCleared(mid=0, values=sum(answer.values for answer in answers))


def added(all_stats: Iterable[Stats]) -> Stats:
    """The numbers of several peers as those of one. A queue of one node is one queue, whoever keeps it."""
    queues: dict[str, QueueStats] = {}
    total = Stats(mid=0, queues=(), executors=(), tasks={})
    for stats in all_stats:
        for queue in stats.queues:
            known = queues.get(queue.id)
            queues[queue.id] = queue if known is None else _joined(known, queue)
        total = Stats(
            mid=0,
            queues=(),
            executors=total.executors + stats.executors,
            tasks=Counter(total.tasks) + Counter(stats.tasks),
            counters=Counter(total.counters) + Counter(stats.counters),
            record_bytes=total.record_bytes + stats.record_bytes,
            cache_entries=total.cache_entries + stats.cache_entries,
            cache_bytes=total.cache_bytes + stats.cache_bytes,
        )
    return replace(total, queues=tuple(queues.values()), tasks=dict(total.tasks), counters=dict(total.counters))


def _joined(one: QueueStats, other: QueueStats) -> QueueStats:
    return replace(
        one,
        queue_length=one.queue_length + other.queue_length,
        listeners=one.listeners + other.listeners,
        weight=max(one.weight, other.weight),
        pressure=one.pressure + other.pressure,
        expected_pressure=one.expected_pressure + other.expected_pressure,
        claimants=one.claimants + other.claimants,
    )
