"""A client's tasks: who has them, and how they end.

Rules   1. The first end of a task is handed on, once; whatever else is said of it later is counted and dropped. Only
           who asks for it anew gets it anew.
        2. A task that is waited for is asked for at its owner now and then, as an end may get lost; when the owner is
           not usable, at those who have copies, one after the other, and then at everybody.
        3. That a task is unknown is believed only when everybody who can be asked has said so (polls), and not while it
           is being submitted. While anybody may be there who cannot be asked, or a peer is down that has it on disk, it
           is waited for, up to `grace_s` from then on.
Why     A client that believed the first peer that answers would forget tasks that others still finish.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ..frozen import frozen
from ..ids import PeerId, TaskId
from .clientasks import ClientState
from .clientevents import Deliver, SayTo
from .messages import Attach, Final, Moved, ResultRead, TaskReport, TaskStatus

ATTACH_MS = 5_000
ATTACH_MS_MAX = 40_000
"""How often to ask for tasks that are waited for: ever less while their owner is there."""
IDS_MAX = 1024
"""In one message."""
HOPS_MAX = 3
ENDED_MAX = 1 << 16
"""Of so many tasks that ended it is remembered where they were; others are looked for."""
UNWANTED_MAX = 1 << 16
"""Of so many tasks it is remembered that they were cleared or refused, in case another peer accepts them only then."""


@frozen(kw_only=False)
class Place:
    """Who has a task: its owner (None: nobody knows), those with copies, and others that may have got it, too.

    durable: it was on the disks of its owner and all copies.
    """

    owner: PeerId | None = None
    copies: tuple[PeerId, ...] = ()
    others: tuple[PeerId, ...] = ()
    durable: bool = False

    def moved(self, owner: PeerId) -> "Place":
        """The same task has another owner now."""
        if owner == self.owner:
            return self
        before = (*self.others, *self.copies) if self.owner is None else (self.owner, *self.others, *self.copies)
        return Place(owner, (), tuple(dict.fromkeys(peer for peer in before if peer != owner)), self.durable)

    def also(self, peer: PeerId) -> "Place":
        """Somebody else has the task, too."""
        return self if peer in self.peers() else replace(self, others=(*self.others, peer))

    def peers(self) -> tuple[PeerId, ...]:
        """All of them."""
        return (*(() if self.owner is None else (self.owner,)), *self.copies, *self.others)


@dataclass(slots=True, eq=False)
class Watch:
    """Tasks that are waited for at one place. stage: how many of those there have been asked in place of the owner.
    hops: how often they were sent on to another owner since they were last asked for by the clock.
    until_ms: nobody who can be asked knows them, and until then somebody may come back who does.
    """

    number: int
    place: Place
    ids: dict[TaskId, None]
    interval_ms: int = ATTACH_MS
    stage: int = 0
    hops: int = 0
    until_ms: int | None = None


@frozen(kw_only=False)
class _End:
    """How a task ended for the user's side. number: counted with the watches."""

    number: int
    place: Place
    status: TaskStatus


class Doubter(Protocol):
    def doubt(self, ids: Iterable[TaskId], /) -> None:
        """Find out whether these tasks are unknown everywhere."""
        ...


class Submitting(Protocol):
    """A submission of which not all tasks are accepted. place: where these may be."""

    @property
    def place(self) -> Place: ...

    def ended(self, task: TaskId, /) -> None:
        """One of them has ended: so it was accepted."""
        ...


class Tasks:
    """See the module. submitting: tasks that are not accepted yet. clearing: tasks that the user clears just now."""

    def __init__(self, state: ClientState) -> None:
        self._state = state
        self._peers = state.peers
        self._watches: dict[int, Watch] = {}
        self._watched: dict[TaskId, Watch] = {}
        self._ended: OrderedDict[TaskId, _End] = OrderedDict()
        self._unwanted: OrderedDict[TaskId, None] = OrderedDict()
        # Tasks that are cleared -> who may have them, and could not be reached then.
        self._unreached: OrderedDict[TaskId, tuple[PeerId, ...]] = OrderedDict()
        self.submitting: dict[TaskId, Submitting] = {}
        self.clearing: dict[TaskId, object] = {}
        self.counters = {"contradicted": 0, "repeated": 0, "unwanted": 0}

    # ---- where they are

    def place(self, task: TaskId) -> Place:
        watch = self._watched.get(task)
        if watch is not None:
            return watch.place
        if task in self.submitting:
            return self.submitting[task].place
        ended = self._ended.get(task)
        return Place() if ended is None else ended.place

    def is_waited_for(self, task: TaskId) -> bool:
        return task in self._watched

    def is_known(self, task: TaskId) -> bool:
        """Whether the user's side has this task: accepted, and not cleared since."""
        return task in self._watched or task in self._ended

    def status(self, task: TaskId) -> TaskStatus:
        """Of a task of which nobody has told who can be asked: what is waited for is not unknown yet, nor an end that
        the user's side has seen.
        """
        if task in self._watched:
            return TaskStatus.WAIT
        ended = self._ended.get(task)
        return TaskStatus.UNKNOWN if ended is None else ended.status

    def is_ghost(self, task: TaskId) -> bool:
        """Whether the user's side has cleared this task, or it was refused, and it was not submitted since."""
        if task in self.submitting:
            return False
        return task in self.clearing or (task in self._unwanted and not self.is_known(task))

    def submitted(self, ids: Iterable[TaskId], submission: Submitting) -> None:
        """The user's side submits these tasks, maybe once more."""
        for task in ids:
            if task in self.submitting:
                self.submitting[task].ended(task)
            self.submitting[task] = submission
            self.clearing.pop(task, None)
            self._ended.pop(task, None)
            self._unwanted.pop(task, None)
            self._unreached.pop(task, None)

    def unwant(self, ids: Iterable[TaskId]) -> None:
        """These tasks were cleared or refused."""
        self._unwanted |= dict.fromkeys(ids)
        while len(self._unwanted) > UNWANTED_MAX:
            self._unwanted.popitem(last=False)

    def unreach(self, ids: Iterable[TaskId]) -> None:
        """These tasks are being cleared: members that may have them and are out of reach are to be told later."""
        for task in ids:
            peers = [peer for peer in self.place(task).peers() if self._peers.is_missing(peer)]
            if peers:
                self._unreached[task] = tuple(dict.fromkeys((*self._unreached.get(task, ()), *peers)))
        while len(self._unreached) > UNWANTED_MAX:
            self._unreached.popitem(last=False)

    def unreached(self, peer: PeerId) -> list[TaskId]:
        """Of which of them this peer has not been told."""
        return [task for task, peers in self._unreached.items() if peer in peers]

    def reached(self, peer: PeerId, ids: Iterable[TaskId]) -> None:
        """It has been told of these."""
        for task in ids:
            left = tuple([other for other in self._unreached.pop(task, ()) if other != peer])
            if left:
                self._unreached[task] = left

    def found(self, ids: Iterable[TaskId], peer: PeerId) -> None:
        """This peer has these tasks, too, whoever else was known to: to be told when they are cleared."""
        for task in ids:
            watch, ended = self._watched.get(task), self._ended.get(task)
            if watch is not None:
                watch.place = watch.place.also(peer)
            elif ended is not None:
                self._ended[task] = replace(ended, place=ended.place.also(peer))

    def accepted(self, ids: Iterable[TaskId], place: Place) -> Watch:
        """Wait for the ends of these tasks there."""
        wanted = dict.fromkeys(ids)
        assert wanted, "nothing would end it"
        for task in wanted:
            self._unwatch(task)
        watch = Watch(next(self._state.numbers), place, wanted)
        self._watches[watch.number] = watch
        self._watched |= dict.fromkeys(wanted, watch)
        if place.owner is not None:
            self._peers.need(place.owner, 1)
        self._state.alarms.set(watch.number, self._state.now_ms + watch.interval_ms)
        return watch

    def attach(self, ids: Iterable[TaskId]) -> None:
        """The user's side wants to know how these tasks end, whoever submitted them; also if it knew before."""
        by_place: dict[Place, list[TaskId]] = {}
        for task in ids:
            if task not in self.submitting:
                by_place.setdefault(self.place(task), []).append(task)
        for place, tasks in by_place.items():
            for chunk in chunks(tasks):
                for task in chunk:
                    self._ended.pop(task, None)
                self._look(self.accepted(chunk, place))

    def read(self, ids: Iterable[TaskId]) -> None:
        """The user has seen these results."""
        by_peer: dict[PeerId, list[TaskId]] = {}
        for task in ids:
            owner = self.place(task).owner
            peer = owner if self._peers.usable(owner) else self._peers.home
            if peer is not None:
                by_peer.setdefault(peer, []).append(task)
        for peer, tasks in by_peer.items():
            for chunk in chunks(tasks):
                self._state.out.append(SayTo(peer=peer, message=ResultRead(ids=chunk)))

    def forget(self, ids: Iterable[TaskId]) -> None:
        """These tasks were cleared: whoever waits for them is told."""
        waiting = [task for task in ids if self._unwatch(task)]
        for task in ids:
            self._ended.pop(task, None)
        self.unwant(ids)
        self._tell_unknown(waiting)

    # ---- how they end

    def final(self, peer: PeerId, message: Final, parcel: int, doubter: Doubter) -> list[TaskId]:
        """A peer says how tasks ended. Returns those of which nobody waits for that."""
        keep: list[int] = []
        doubted: list[TaskId] = []
        others: list[TaskId] = []
        for index, (task, status) in enumerate(zip(message.ids, message.statuses, strict=True)):
            if status is TaskStatus.UNKNOWN:
                if self.is_known(task) and task not in self.clearing and task not in self.submitting:
                    doubted.append(task)
            elif self._ends(peer, task, status):
                keep.append(index)
            else:
                others.append(task)
        if len(keep) == len(message.ids):
            self._state.out.append(Deliver(message=message, parcel=parcel))
        elif keep:
            part, rows = _cut(message, keep)
            self._state.out.append(Deliver(message=part, parcel=parcel, rows=rows))
        doubter.doubt(doubted)
        return others

    def _ends(self, peer: PeerId, task: TaskId, status: TaskStatus) -> bool:
        """Whether this is news."""
        submission = self.submitting.get(task)
        if submission is None and task not in self._watched:
            known = self._ended.get(task)
            if known is None:
                self.counters["unwanted"] += 1
            else:
                self.counters["repeated" if alike(known.status, status) else "contradicted"] += 1
                self.found((task,), peer)
            return False
        place = self.place(task).moved(peer)
        if submission is not None:
            submission.ended(task)
        self._unwatch(task)
        self._ended[task] = _End(next(self._state.numbers), place, status)
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
        return True

    def moved(self, message: Moved) -> None:
        """A peer says who owns tasks. One that is not usable is no news: whoever takes over will say so."""
        found: dict[tuple[Place, int], list[TaskId]] = {}
        for task, owner in zip(message.ids, message.owners, strict=True):
            watch = self._watched.get(task)
            ended = self._ended.get(task)
            if ended is not None:  # whoever clears it has to know
                self._ended[task] = replace(ended, place=ended.place.moved(owner))
            elif watch is not None and watch.place.owner != owner and self._peers.usable(owner):
                found.setdefault((watch.place.moved(owner), watch.hops + 1), []).append(task)
        for (place, hops), tasks in found.items():
            watch = self.accepted(tasks, place)
            watch.hops = hops
            if hops <= HOPS_MAX:  # two that send on to each other must not keep everybody busy
                self._look(watch)

    def polled(self, number: int, reports: Mapping[TaskId, Mapping[PeerId, TaskReport]], *, doubtful: bool) -> None:
        """What peers know of tasks, by the poll of this number. Nobody: then a task is unknown. doubtful: one of those
        who were asked says that others may be there.
        """
        unknown: list[TaskId] = []
        found: dict[Place, list[TaskId]] = {}
        for task, known in reports.items():
            watch = self._watched.get(task)
            entry = watch or self._ended.get(task)
            if entry is None or task in self.submitting or task in self.clearing:
                continue
            if not known:
                may_come_back = (
                    self._may_be_known(entry.place, doubtful) if watch is None else self._may_come_back(watch, doubtful)
                )
                # Else it was accepted, found, or ended after some had been asked.
                if entry.number < number and not may_come_back:
                    unknown.append(task)
                continue
            ended = [peer for peer, report in known.items() if report.status.complete]
            if watch is not None and (ended or watch.place.owner not in known):
                found.setdefault(watch.place.moved((ended or list(known))[0]), []).append(task)
        self._tell_unknown(unknown)
        for place, tasks in found.items():
            self._look(self.accepted(tasks, place))

    def _may_come_back(self, watch: Watch, doubtful: bool) -> bool:
        """Whether somebody may have these tasks who is down, but has a disk, or who only cannot be asked now. They are
        asked for again and again meanwhile. doubtful: a peer says that somebody may be there.
        """
        if not self._may_be_known(watch.place, doubtful):
            return False
        if watch.until_ms is None:
            watch.until_ms = self._state.now_ms + int(self._state.timing.grace_s * 1000)
        return self._state.now_ms < watch.until_ms

    def _may_be_known(self, place: Place, doubtful: bool) -> bool:
        """Whether somebody may know the tasks of a place who cannot be asked."""
        peers = place.peers()
        is_on_disk = place.durable and not all(self._peers.usable(peer) for peer in peers)
        return is_on_disk or doubtful or self._peers.may_know(peers)

    def _tell_unknown(self, ids: list[TaskId]) -> None:
        for task in ids:
            self._unwatch(task)
            self._ended.pop(task, None)
        if ids:
            self._state.out.append(Deliver(message=Final.unknown(ids)))

    # ---- asking for them

    def expire(self, number: int) -> None:
        watch = self._watches.get(number)
        if watch is not None:
            watch.hops = 0
            self._look(watch)

    def peer_changed(self, peer: PeerId, usable: bool) -> None:
        for watch in list(self._watches.values()):
            owner = watch.place.owner
            if owner == peer or (usable and not self._peers.usable(owner)):
                watch.stage = 0
                watch.interval_ms = ATTACH_MS
                self._look(watch)

    def _look(self, watch: Watch) -> None:
        """Ask whoever should know by now how these tasks ended."""
        place, usable = watch.place, self._peers.usable
        targets: tuple[PeerId, ...]
        if place.owner is not None and usable(place.owner):
            targets = (place.owner,)
            interval_ms, watch.interval_ms = watch.interval_ms, min(2 * watch.interval_ms, ATTACH_MS_MAX)
        else:
            near = [peer for peer in (*place.copies, *place.others) if usable(peer)]
            if place.owner is None and self._peers.home is not None:
                near.insert(0, self._peers.home)
            targets = (near[watch.stage],) if watch.stage < len(near) else self._peers.everybody()
            watch.stage += 1
            interval_ms = watch.interval_ms = ATTACH_MS
        for peer in targets:
            for chunk in chunks(watch.ids):
                self._state.out.append(SayTo(peer=peer, message=Attach(ids=chunk)))
        self._state.alarms.set(watch.number, self._state.now_ms + interval_ms)

    def _unwatch(self, task: TaskId) -> bool:
        """Not waited for any more; False if it was not."""
        watch = self._watched.pop(task, None)
        if watch is None:
            return False
        del watch.ids[task]
        if not watch.ids:
            del self._watches[watch.number]
            self._state.alarms.drop(watch.number)
            if watch.place.owner is not None:
                self._peers.need(watch.place.owner, -1)
        return True

    def owners(self) -> list[PeerId]:
        """From whom ends are expected, for checks."""
        return [watch.place.owner for watch in self._watches.values() if watch.place.owner is not None]

    def check_invariants(self) -> None:
        assert {task: watch for watch in self._watches.values() for task in watch.ids} == self._watched
        assert not self._watched.keys() & self._ended.keys()
        assert not self.submitting.keys() & self._ended.keys()
        assert len(self._ended) <= ENDED_MAX
        assert len(self._unwanted) <= UNWANTED_MAX
        assert len(self._unreached) <= UNWANTED_MAX
        assert all(self._unreached.values())
        for number, watch in self._watches.items():
            assert watch.number == number
            assert watch.ids
            assert number in self._state.alarms, "tasks that nobody asks for"


def chunks(ids: Iterable[TaskId]) -> list[tuple[TaskId, ...]]:
    """As many as go into one message each."""
    listed = tuple(ids)
    return [listed[start : start + IDS_MAX] for start in range(0, len(listed), IDS_MAX)]


def alike(one: TaskStatus, other: TaskStatus) -> bool:
    """Ready and done are the same end."""
    return (one is TaskStatus.ERROR) == (other is TaskStatus.ERROR)


def _cut(message: Final, keep: list[int]) -> tuple[Final, tuple[int, ...]]:
    """These entries of a message, and which rows of its columns are theirs."""
    row, rows = 0, {}
    for index, status in enumerate(message.statuses):
        if status in (TaskStatus.READY, TaskStatus.DONE):
            rows[index] = row
            row += 1
    part = replace(
        message,
        ids=tuple([message.ids[index] for index in keep]),
        statuses=tuple([message.statuses[index] for index in keep]),
        errors=tuple([message.errors[index] for index in keep]),
        retries=tuple([message.retries[index] for index in keep]),
        durations_ms=tuple([message.durations_ms[index] for index in keep]),
    )
    return part, tuple([rows[index] for index in keep if index in rows])
