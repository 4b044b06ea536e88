"""Clients of a simulation: the real core of a client, a driver for it, and a user who counts on what it is told.

Rules   1. Each handle is told one end. Whatever else is told of it is a violation, not a matter of taste.
        2. A link is up when whoever is at an address has said who it is; an address alone says nothing.
        3. A user does what a library would do for him: submits again what was refused because a namespace was not
           known yet, and connects again when the cluster was out of reach.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, assert_never, cast

from ..core.client import ClientCore
from ..core.clientevents import (
    ClientAction,
    ClientEvent,
    Connect,
    Deliver,
    Disconnect,
    GiveUp,
    Heard,
    LetGo,
    PeerDown,
    PeerUp,
    Said,
    SayTo,
)
from ..core.events import TimerFired
from ..core.messages import (
    Accepted,
    AskMembers,
    AskTasks,
    Attach,
    Cancel,
    Cancelled,
    Clear,
    Cleared,
    Final,
    MemberList,
    Refused,
    Submit,
    TaskReport,
    TaskReports,
    TaskStatus,
    ToClient,
    ToPeer,
)
from ..errors import ErrorCode
from ..ids import ClientId, PeerId, TaskId
from ..wire.columns import Column, fingerprint, gather, row_digests
from ..wire.frames import Envelope, encode
from ..wire.refusal import WireError
from .network import Frames, Link
from .payload import column_of, values_of

if TYPE_CHECKING:
    from .world import World

LOOK_US = 1_000_000
"""Between two questions who is at an address."""
AGAIN_US = 1_000_000
"""Before a user tries again."""
CHECK_EVERY = 20
"""Events of a client between looks at everything that it holds."""


@dataclass(slots=True, eq=False)
class Outcome:
    """How a task ended, as one client was told. status UNKNOWN: nobody knows it."""

    status: TaskStatus
    code: ErrorCode | None = None
    value: int | None = None


@dataclass(slots=True, eq=False)
class Handle:
    """One task of one client."""

    id: TaskId
    is_accepted: bool = False
    outcome: Outcome | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """One submission under way. open: tasks neither accepted nor refused."""

    message: Submit
    columns: dict[str, Column]
    open: dict[TaskId, None]

    def rest(self, mid: int, nonce: bytes) -> "Batch":
        """What is open, as a submission of its own: some of it may be cleared where it was accepted late."""
        message = self.message
        rows = [row for row, task in enumerate(message.ids) if task in self.open]
        part = replace(
            message,
            mid=mid,
            nonce=nonce,
            ids=tuple([message.ids[row] for row in rows]),
            submit_digests=tuple([message.submit_digests[row] for row in rows]),
            digests={name: tuple([known[row] for row in rows]) for name, known in message.digests.items()},
        )
        columns = {name: gather([(column, row) for row in rows]) for name, column in self.columns.items()}
        return Batch(part, columns, dict.fromkeys(part.ids))


@dataclass(slots=True, eq=False)
class _Place:
    """One address. who: the peer that has answered there; None if nobody has since its link broke.

    is_wanted: whoever is there is asked for until there is an answer.
    """

    link: Link
    who: PeerId | None = None
    is_wanted: bool = False


class SimClient:
    """One client. first: where it looks for a peer at first; later anywhere."""

    def __init__(
        self, world: "World", number: int, handles: dict[TaskId, Handle] | None = None, first: str = ""
    ) -> None:
        self.world = world
        self.name = f"c{number}"
        self.number = number
        self._connections = 0
        self.first = first or world.addresses[(number - 1) % len(world.addresses)]
        self.handles = handles or {}
        self.is_dead = False
        self.core = ClientCore(world.settings.timing)
        self._events: deque[ClientEvent] = deque()
        self._count = 0
        self._timer_us: int | None = None
        self._connect()
        self._parcels: dict[int, Mapping[str, Column]] = {}
        self._batches: dict[int, Batch] = {}
        self._asked: dict[int, Clear | Cancel] = {}
        # By task that this core waits for, or has waited for: the end that was shown since. And what was asked then.
        self._shown: dict[TaskId, TaskStatus | None] = {}
        self._questions: dict[int, tuple[TaskId, TaskStatus | None]] = {}
        self._curiosity = Random(f"{world.options.seed}:asks:{self.name}")
        self._postponed: list[tuple[tuple[TaskId, ...], Callable[[tuple[TaskId, ...]], None]]] = []
        self._mids = 0
        self._seq = 0

    def _connect(self) -> None:
        """Be somebody whom nobody knows, with no link to anybody."""
        self._connections += 1
        self.id = ClientId(f"C{self._connections:016x}{self.number:016x}")
        self.address: str = self.id
        self.world.trace.names[self.id] = self.name
        self._places: dict[str, _Place] = {}
        self._links: dict[PeerId, str] = {}
        self.world.network.settle(self)

    # ---- what its user does

    def submit(self, ns: str, tasks: dict[TaskId, int], *, cache: bool = True) -> None:
        """Give tasks away; every one of them comes to an end, or else this run fails."""
        plan = self.world.plan(ns)
        columns = {"value": column_of(list(tasks.values()))}
        message = Submit(
            mid=self._mid(),
            ns=ns,
            digest=plan.digest,
            nonce=self.world.nonce(),
            ids=tuple(tasks),
            submit_digests=tuple([fingerprint(ns, columns, row) for row in range(len(tasks))]),
            digests={name: row_digests(column) for name, column in columns.items()} if plan.digests else {},
            cache=cache,
        )
        self.handles |= {task: Handle(task) for task in tasks}
        self._submit(Batch(message, columns, dict.fromkeys(tasks)))

    def clear(self, tasks: tuple[TaskId, ...]) -> None:
        """Ask for it as soon as their submission is over."""
        self._when_settled(tasks, lambda ids: self._ask(Clear(mid=self._mid(), ids=ids)))

    def cancel(self, tasks: tuple[TaskId, ...]) -> None:
        self._when_settled(tasks, lambda ids: self._ask(Cancel(mid=self._mid(), ids=ids)))

    def watch(self) -> None:
        """Want to know how all open tasks end."""
        ids = tuple([handle.id for handle in self.handles.values() if handle.is_accepted and handle.outcome is None])
        if ids:
            self._shown |= dict.fromkeys(ids)
            self._tell(Said(message=Attach(ids=ids)))

    def unfinished(self) -> list[Handle]:
        return [handle for handle in self.handles.values() if handle.outcome is None]

    def is_quiet(self) -> bool:
        """Whether it waits for nothing."""
        return not (self._batches or self._asked or self._questions or self._postponed or self.unfinished())

    def ask(self, task: TaskId) -> None:
        """Want to know where a task is. What has been shown of it by now must not be taken back by the answer."""
        message = AskTasks(mid=self._mid(), ids=(task,))
        self._questions[message.mid] = task, self._shown.get(task)
        self._tell(Said(message=message))

    def _wonder(self) -> None:
        """Ask now and then where a task is, until nothing goes wrong any more."""
        rate = self.world.options.asks
        if self.is_dead or not rate or self.world.now_us >= self.world.options.safety_s * 1e6:
            return
        accepted = [task for task, handle in self.handles.items() if handle.is_accepted]
        if accepted:
            self.ask(self._curiosity.choice(accepted))
        self.world.at(self.world.now_us + int(self._curiosity.expovariate(rate) * 1e6), self._wonder)

    def _submit(self, batch: Batch) -> None:
        mid = batch.message.mid
        self._batches[mid] = batch
        self._parcels[mid] = batch.columns
        self._tell(Said(message=batch.message, parcel=mid))

    def _submit_again(self, batch: Batch) -> None:
        if not self.is_dead:
            self._submit(batch.rest(self._mid(), self.world.nonce()))

    def _when_settled(self, tasks: tuple[TaskId, ...], then: Callable[[tuple[TaskId, ...]], None]) -> None:
        if any(task in batch.open for task in tasks for batch in self._batches.values()):
            self._postponed.append((tasks, then))
        else:
            then(tasks)

    def _ask(self, message: Clear | Cancel) -> None:
        self._asked[message.mid] = message
        self._tell(Said(message=message))

    def _mid(self) -> int:
        self._mids += 1
        return self._mids

    # ---- what its user is told

    def _deliver(self, message: ToClient, columns: Mapping[str, Column], rows: tuple[int, ...] | None) -> None:
        match message:
            case Accepted(mid=mid, ids=ids):
                for task in ids:
                    self.handles[task].is_accepted = True
                    self._shown.setdefault(task, None)
                    self.world.checkers.accepted(task, message.copies, durable=message.durable)
                self._settled(mid, ids)
            case Refused():
                self._refused(message)
            case Final():
                values = values_of(columns["value"]) if "value" in columns else []
                self._final(message, values if rows is None else [values[row] for row in rows])
            case TaskReports(mid=mid, reports=reports):
                self._reported(mid, reports)
            case Cleared(mid=mid) | Cancelled(mid=mid):
                asked = self._asked.pop(mid, None)
                if asked is not None:
                    self.world.checkers.applied(self, asked)
            case _:
                pass

    def _reported(self, mid: int, reports: Sequence[TaskReport]) -> None:
        """What was shown before the question must not be taken back, nor an end that has come since."""
        task, shown = self._questions.pop(mid)
        assert [report.id for report in reports] == [task]
        if task in self._shown:
            outcome = self.handles[task].outcome
            self.world.checkers.reported(self, reports[0], shown if outcome is None else self._shown[task])
            if reports[0].status.complete and reports[0].status is not TaskStatus.UNKNOWN:
                self._shown[task] = reports[0].status

    def _refused(self, message: Refused) -> None:
        batch = self._batches.get(message.mid)
        if batch is not None and message.message.startswith("stale:"):
            rest = replace(batch, open=dict.fromkeys(message.ids))
            again = self._batches[-message.mid] = rest  # so that it counts as open meanwhile
            self._settled(message.mid, message.ids)
            self.world.at(self.world.now_us + AGAIN_US, self._try_again, -message.mid, again)
            return
        for task in message.ids:
            self._latch(task, Outcome(TaskStatus.ERROR, message.code))
        self._settled(message.mid, message.ids)

    def _try_again(self, mid: int, batch: Batch) -> None:
        if self._batches.get(mid) is batch:
            del self._batches[mid]
            self._submit_again(batch)

    def _final(self, message: Final, values: Iterable[object]) -> None:
        rows = iter(values)
        again: list[TaskId] = []
        for task, status, error in zip(message.ids, message.statuses, message.errors, strict=True):
            has_value = status in (TaskStatus.READY, TaskStatus.DONE)
            value = next(rows) if has_value else None
            handle = self.handles.get(task)
            if handle is None:
                continue
            if status is TaskStatus.UNKNOWN and self._may_come_back(handle):
                again.append(task)
                continue
            assert value is None or isinstance(value, int)
            if not handle.is_accepted and status is not TaskStatus.UNKNOWN:
                # An end says it as well, and how many have it: whatever says so later is no news to a client.
                self.world.checkers.accepted(task, message.copies, durable=message.durable)
            handle.is_accepted = True
            self._no_longer_open(task)
            if not (status is TaskStatus.UNKNOWN and handle.outcome is not None):  # cleared after it had ended
                self._latch(task, Outcome(status, None if error is None or has_value else error.code, value))
        if again:
            self.world.counters["asked again for the unknown"] += len(again)
            self.world.at(self.world.now_us + AGAIN_US, self._attach_again, tuple(again))

    def _may_come_back(self, handle: Handle) -> bool:
        """Whether somebody may remember the task who is not there now."""
        is_open = handle.is_accepted and handle.outcome is None and not self.world.checkers.facts[handle.id].is_cleared
        return is_open and self.world.may_come_back(handle.id)

    def _attach_again(self, tasks: tuple[TaskId, ...]) -> None:
        if not self.is_dead:
            self._tell(Said(message=Attach(ids=tasks)))

    def _settled(self, mid: int, ids: Iterable[TaskId]) -> None:
        batch = self._batches.get(mid)
        if batch is None:
            return
        for task in ids:
            batch.open.pop(task, None)
        if not batch.open:
            del self._batches[mid]
            postponed, self._postponed = self._postponed, []
            for tasks, then in postponed:
                self._when_settled(tasks, then)

    def _no_longer_open(self, task: TaskId) -> None:
        for mid, batch in list(self._batches.items()):
            if task in batch.open:
                self._settled(mid, (task,))

    def _latch(self, task: TaskId, outcome: Outcome) -> None:
        handle = self.handles[task]
        if handle.outcome is not None:
            self.world.checkers.told_twice(self, handle, outcome)
        handle.outcome = outcome
        self._shown[task] = outcome.status
        self.world.checkers.latched(self, handle)

    # ---- the core

    def start(self) -> None:
        self._look(self.first)
        self.world.at(self.world.now_us + LOOK_US, self._look_around)
        self.watch()
        self._wonder()

    def _tell(self, event: ClientEvent) -> None:
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events and not self.is_dead:
            event = self._events[0]
            actions = self.core.handle(event, self.world.now_us // 1000)
            self.world.trace.event(self.world.now_us, self.name, event, actions)
            for action in actions:
                self._perform(action)
            self._count += 1
            if self._count % CHECK_EVERY == 0:
                self.core.check_invariants()
            self._events.popleft()
        self._arm()

    def _arm(self) -> None:
        deadline_ms = self.core.deadline_ms()
        if deadline_ms is None or self.is_dead:
            return
        at_us = max(deadline_ms * 1000, self.world.now_us)
        if self._timer_us is None or at_us < self._timer_us:
            self._timer_us = at_us
            self.world.at(at_us, self._timer_due, at_us)

    def _timer_due(self, at_us: int) -> None:
        if self._timer_us == at_us and not self.is_dead:
            self._timer_us = None
            deadline_ms = self.core.deadline_ms()
            if deadline_ms is not None and deadline_ms * 1000 <= self.world.now_us:
                self._tell(TimerFired())
            else:
                self._arm()

    def _perform(self, action: ClientAction) -> None:
        match action:
            case SayTo(peer=peer, message=message, parcel=parcel):
                address = self._links.get(peer)
                if address is not None:
                    self._say(address, message, self._parcels.get(parcel, {}))
            case Deliver(message=message, parcel=parcel, rows=rows):
                self._deliver(message, self._parcels.get(parcel, {}), rows)
            case LetGo(parcel=parcel):
                self._parcels.pop(parcel, None)
            case Connect(contact=contact):
                self._place(contact.address).is_wanted = True
                self._look(contact.address)
            case Disconnect(peer=peer):
                address = self._links.pop(peer, None)
                if address is not None:
                    self._places[address].who = None
            case GiveUp():
                self._begin_again()
            case _:
                assert_never(action)

    def _begin_again(self) -> None:
        """The cluster was out of reach: a user connects again, as somebody new, and goes on with what is open."""
        self.world.counters["clients that gave up"] += 1
        self.world.network.vanish(self)
        self._connect()
        self.core = ClientCore(self.world.settings.timing)
        self._timer_us = None
        self._parcels.clear()
        self._questions.clear()
        self._shown.clear()
        batches, self._batches = self._batches, {}
        for batch in batches.values():
            self.world.at(self.world.now_us, self._submit_again, batch)
        for message in self._asked.values():
            self._events.append(Said(message=message))
        ids = tuple([handle.id for handle in self.unfinished() if handle.is_accepted])
        if ids:
            self._shown |= dict.fromkeys(ids)
            self._events.append(Said(message=Attach(ids=ids)))

    # ---- links

    def _place(self, address: str) -> _Place:
        place = self._places.get(address)
        if place is None:
            place = self._places[address] = _Place(self.world.network.link(self.address, address))
        return place

    def _look(self, address: str) -> None:
        """Ask who is there, unless that is known."""
        if self._place(address).who is None:
            self._say(address, AskMembers(mid=0), {})

    def _look_around(self) -> None:
        if self.is_dead:
            return
        for address in self.world.addresses:
            place = self._places.get(address)
            if not self._links or (place is not None and place.is_wanted):
                self._look(address)
        self.world.at(self.world.now_us + LOOK_US, self._look_around)

    def _say(self, address: str, message: ToPeer, columns: Mapping[str, Column]) -> None:
        self._seq += 1
        frames = encode(message, columns, Envelope(src=self.id, seq=self._seq))
        self.world.network.send(self._place(address).link, frames)

    def broken(self, address: str, *, refused: bool) -> None:
        """A peer is gone, or only the link to it is."""
        place = self._places.get(address)
        if place is not None and place.who is not None:
            self._down(place)
            if not refused:
                self._look(address)

    def _down(self, place: _Place) -> None:
        assert place.who is not None
        who, place.who = place.who, None
        del self._links[who]
        self._tell(PeerDown(peer=who))

    def arrive(self, frames: Frames) -> None:
        try:
            envelope, message, columns = self.world.reader.read(frames)
        except WireError as error:
            self.world.rejected[error.reason] += 1
            return
        source = envelope.src
        place = self._places.get(self.world.address(source))
        if place is None or not isinstance(source, PeerId):
            return
        if place.who != source:
            if not isinstance(message, MemberList):
                return
            if place.who is not None:
                self._down(place)
            place.who, place.is_wanted = source, True
            self._links[source] = place.link.way[1]
            self._tell(PeerUp(peer=source))
        self._hear(source, cast(ToClient, message), columns)

    def _hear(self, peer: PeerId, message: ToClient, columns: Mapping[str, Column]) -> None:
        parcel = 0
        if columns:
            parcel = -self._mid()
            self._parcels[parcel] = columns
        self._tell(Heard(peer=peer, message=message, parcel=parcel))
        self._parcels.pop(parcel, None)
