"""Clients of a simulation: submit, repeat, attach, and take the first end they hear of.

`SimClient` is what a client must do at least; core/client.py will do it here when it can.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from ..core.messages import (
    Accepted,
    Attach,
    Cancel,
    Cancelled,
    Clear,
    Cleared,
    Final,
    Goodbye,
    Moved,
    Refused,
    Submit,
    TaskStatus,
    ToClient,
    ToPeer,
)
from ..errors import ErrorCode
from ..ids import ClientId, TaskId
from ..wire.columns import Column, fingerprint, row_digests
from ..wire.frames import Envelope, decode, encode
from ..wire.refusal import WireError
from .network import LIMITS, Frames, Link
from .payload import column_of, values_of

if TYPE_CHECKING:
    from .world import World

REPEAT_US = 1_000_000
ATTACH_US = 5_000_000
MOVE_ON = 4
"""Unanswered repetitions before a client tries the next peer."""
DENIALS = 3
"""Rounds in which no peer knows a task before a client believes that it is gone."""


@dataclass(slots=True, eq=False)
class Outcome:
    """How a task ended, as one client saw it first. status UNKNOWN: nobody knows it."""

    status: TaskStatus
    code: ErrorCode | None = None
    value: int | None = None


@dataclass(slots=True, eq=False)
class Handle:
    """One task of one client. at: the address where it was accepted. denied: addresses that do not know it, in this
    round of asking; denials: rounds in a row in which nobody knew it.
    """

    id: TaskId
    at: str = ""
    is_accepted: bool = False
    outcome: Outcome | None = None
    denied: set[str] = field(default_factory=set)
    denials: int = 0


@dataclass(slots=True, eq=False)
class Batch:
    """One submission under way. open: tasks neither accepted nor refused. tries: since it came to this address."""

    ns: str
    message: Submit
    columns: dict[str, Column]
    open: dict[TaskId, None]
    at: str
    tries: int = 0


@dataclass(slots=True, eq=False)
class Asked:
    """Clear or cancel, to be repeated until everybody asked has answered."""

    message: Clear | Cancel
    open: set[str]


class SimClient:
    """One client."""

    def __init__(self, world: "World", number: int, handles: dict[TaskId, Handle] | None = None) -> None:
        self.world = world
        self.id = ClientId(f"C{number:032x}")
        self.name = f"c{number}"
        self.address: str = self.id
        self.handles = handles or {}
        self.is_dead = False
        self._links: dict[str, Link] = {}
        self._batches: dict[int, Batch] = {}
        self._asked: dict[int, Asked] = {}
        self._postponed: list[tuple[tuple[TaskId, ...], Callable[[tuple[TaskId, ...]], None]]] = []
        self._mids = 0
        self._seq = 0

    # ---- what its user does

    def submit(self, ns: str, tasks: dict[TaskId, int], *, cache: bool = True, at: str | None = None) -> None:
        """Give tasks away; every one of them comes to an end, or else this run fails."""
        plan = self.world.plan(ns)
        columns = {"value": column_of(list(tasks.values()))}
        mid = self._mid()
        message = Submit(
            mid=mid,
            ns=ns,
            digest=plan.digest,
            nonce=self.world.nonce(),
            ids=tuple(tasks),
            submit_digests=tuple([fingerprint(ns, columns, row) for row in range(len(tasks))]),
            digests={name: row_digests(column) for name, column in columns.items()} if plan.digests else {},
            cache=cache,
        )
        self.handles |= {task: Handle(task) for task in tasks}
        batch = Batch(ns, message, columns, dict.fromkeys(tasks), at or self.world.some_address())
        self._batches[mid] = batch
        self._try(batch)

    def clear(self, tasks: tuple[TaskId, ...]) -> None:
        """Ask for it as soon as their submission is over: what is still being repeated cannot be taken back."""
        self._when_settled(tasks, self._clear)

    def cancel(self, tasks: tuple[TaskId, ...]) -> None:
        self._when_settled(tasks, self._cancel)

    def _when_settled(self, tasks: tuple[TaskId, ...], then: Callable[[tuple[TaskId, ...]], None]) -> None:
        if any(task in batch.open for task in tasks for batch in self._batches.values()):
            self._postponed.append((tasks, then))
        else:
            then(tasks)

    def _clear(self, tasks: tuple[TaskId, ...]) -> None:
        self._ask(Clear(mid=self._mid(), ids=tasks))

    def _cancel(self, tasks: tuple[TaskId, ...]) -> None:
        self._ask(Cancel(mid=self._mid(), ids=tasks))

    def watch(self) -> None:
        """Ask again where all open tasks are."""
        by_address: dict[str, list[TaskId]] = {}
        for handle in self.handles.values():
            if handle.is_accepted and handle.outcome is None:
                handle.denied.clear()
                for address in self._holders(handle):
                    by_address.setdefault(address, []).append(handle.id)
        for address, tasks in by_address.items():
            self._say(address, Attach(ids=tuple(tasks)))

    def unfinished(self) -> list[Handle]:
        return [handle for handle in self.handles.values() if handle.outcome is None]

    def is_quiet(self) -> bool:
        """Whether it waits for nothing."""
        return not (self._batches or self._asked or self._postponed or self.unfinished())

    # ---- time

    def start(self) -> None:
        self.world.network.settle(self)
        self.world.at(self.world.now_us + REPEAT_US, self._repeat)
        self.world.at(self.world.now_us + ATTACH_US, self._attach)
        self.watch()

    def _repeat(self) -> None:
        if self.is_dead:
            return
        for batch in list(self._batches.values()):
            batch.tries += 1
            if batch.tries > MOVE_ON:
                self._move_on(batch)
            self._try(batch)
        for asked in self._asked.values():
            for address in sorted(asked.open):
                self._say(address, asked.message)
        self.world.at(self.world.now_us + REPEAT_US, self._repeat)

    def _attach(self) -> None:
        if not self.is_dead:
            self.watch()
            self.world.at(self.world.now_us + ATTACH_US, self._attach)

    # ---- talking

    def _say(self, address: str, message: ToPeer, columns: dict[str, Column] | None = None) -> None:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = self.world.network.link(self.address, address)
        self._seq += 1
        frames = encode(message, columns or {}, Envelope(src=self.id, seq=self._seq))
        self.world.network.send(link, frames)

    def _try(self, batch: Batch) -> None:
        self.world.checkers.submitted(batch.message.ids, batch.at)
        self._say(batch.at, batch.message, batch.columns)

    def _move_on(self, batch: Batch) -> None:
        addresses = self.world.addresses
        batch.at = addresses[(addresses.index(batch.at) + 1) % len(addresses)]
        batch.tries = 0

    def _ask(self, message: Clear | Cancel) -> None:
        self._asked[message.mid] = asked = Asked(message, set(self.world.addresses))
        for address in sorted(asked.open):
            self._say(address, message)

    def _holders(self, handle: Handle) -> list[str]:
        """Where to ask for a task: everywhere, as far as anybody is there."""
        return [address for address in self.world.addresses if address in self.world.network.stations]

    def _mid(self) -> int:
        self._mids += 1
        return self._mids

    # ---- hearing

    def broken(self, address: str, *, refused: bool) -> None:
        """A peer is gone, or only the link to it is."""
        if refused:
            self._gone(address)
        self.watch()

    def _gone(self, address: str) -> None:
        """Nothing more is to be had there."""
        for batch in self._batches.values():
            if batch.at == address:
                self._move_on(batch)

    def arrive(self, frames: Frames) -> None:
        try:
            message, columns = decode(frames, LIMITS)
        except WireError as error:
            self.world.rejected[error.reason] += 1
            return
        source = self.world.address_of(frames)
        self._heard(source, cast(ToClient, message), columns)

    def _heard(self, source: str, message: ToClient, columns: dict[str, Column]) -> None:
        match message:
            case Accepted(mid=mid, ids=ids):
                self._accepted(source, mid, message, ids)
            case Refused():
                self._refused(source, message)
            case Goodbye():
                self._gone(source)
            case Moved():
                self._moved(message)
            case Final():
                self._final(source, message, columns)
            case Cleared(mid=mid) | Cancelled(mid=mid):
                asked = self._asked.get(mid)
                if asked is not None:
                    asked.open.discard(source)
                    if not asked.open:
                        del self._asked[mid]
                        self.world.checkers.applied(self, asked.message)
            case _:
                pass

    def _accepted(self, source: str, mid: int, message: Accepted, ids: tuple[TaskId, ...]) -> None:
        for task in ids:
            handle = self.handles.get(task)
            if handle is not None:
                handle.is_accepted = True
                handle.at = source
                handle.denied.clear()
                handle.denials = 0
                self.world.checkers.accepted(task, message.copies, durable=message.durable)
        self._settled(mid, ids)

    def _refused(self, source: str, message: Refused) -> None:
        """Of what was accepted elsewhere meanwhile a refusal says nothing; from the same peer it must not come."""
        batch = self._batches.get(message.mid)
        if message.message.startswith("stale:"):
            if batch is not None:
                self._move_on(batch)
            return
        for task in message.ids:
            handle = self.handles.get(task)
            is_open = batch is not None and task in batch.open
            if is_open or (handle is not None and handle.is_accepted and handle.at == source):
                self._latch(task, Outcome(TaskStatus.ERROR, message.code))
        self._settled(message.mid, message.ids)

    def _settled(self, mid: int, ids: tuple[TaskId, ...]) -> None:
        batch = self._batches.get(mid)
        if batch is not None:
            batch.tries = 0
            for task in ids:
                batch.open.pop(task, None)
            if not batch.open:
                del self._batches[mid]
                postponed, self._postponed = self._postponed, []
                for tasks, then in postponed:
                    self._when_settled(tasks, then)

    def _moved(self, message: Moved) -> None:
        by_address: dict[str, list[TaskId]] = {}
        for task, owner in zip(message.ids, message.owners, strict=True):
            handle = self.handles.get(task)
            address = self.world.address(owner)
            if handle is not None and handle.outcome is None and address:
                handle.denials = 0
                by_address.setdefault(address, []).append(task)
        for address, tasks in by_address.items():
            self._say(address, Attach(ids=tuple(tasks)))

    def _final(self, source: str, message: Final, columns: dict[str, Column]) -> None:
        rows = iter(values_of(columns["value"]) if "value" in columns else ())
        for task, status, error in zip(message.ids, message.statuses, message.errors, strict=True):
            has_value = status in (TaskStatus.READY, TaskStatus.DONE)
            value = next(rows) if has_value else None
            handle = self.handles.get(task)
            if handle is None:
                continue
            if status is TaskStatus.UNKNOWN:
                self._unknown(handle, source)
                continue
            assert value is None or isinstance(value, int)
            self._latch(task, Outcome(status, None if error is None or has_value else error.code, value))

    def _unknown(self, handle: Handle, source: str) -> None:
        """One peer does not know the task. It is gone when all say so, again and again; with journals also those that
        are down now: they come back, and remember.
        """
        handle.denied.add(source)
        remember = self.world.settings.journal.mode != "off"
        holders = self.world.addresses if remember else self._holders(handle)
        if handle.is_accepted and handle.denied.issuperset(holders):
            handle.denied.clear()
            handle.denials += 1
            if handle.denials >= DENIALS:
                self._latch(handle.id, Outcome(TaskStatus.UNKNOWN))

    def _latch(self, task: TaskId, outcome: Outcome) -> None:
        handle = self.handles.get(task)
        if handle is not None and handle.outcome is None:
            handle.outcome = outcome
            self.world.checkers.latched(self, handle)
