"""The driver: performs what a core asks for, in one thread, and tells the core what happened.

Purpose   Owns the core, the payload store, the executors and the clients of one peer. Everybody else posts to it.
Rules     1. Only the thread that runs `step` touches the core and the store; all other threads call `post`.
          2. Actions are performed at once and in order, so that a block is collected before it is freed.
          3. Nothing here decides anything about tasks: that is the core's.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol, TypeAlias, assert_never

from .core.actions import (
    AbandonExecutor,
    Action,
    CheckGraph,
    CloseLink,
    Dial,
    FreeBlocks,
    KeepBlocks,
    Left,
    OpenLink,
    Persist,
    Publish,
    Report,
    RetirePlan,
    RowsCancelled,
    RunBatch,
    Send,
    Tell,
)
from .core.entries import Kept
from .core.events import (
    BatchExpected,
    BatchFinished,
    BlocksEvicted,
    ClientLost,
    Emitted,
    Event,
    ExecutorLost,
    ExecutorStarted,
    GraphChecked,
    LeaveRequested,
    LinkDown,
    MessageReceived,
    PeerSeen,
    Persisted,
    PersistFailed,
    Restored,
    TimerFired,
)
from .core.messages import Stats, Submit, ToClient, ToPeer
from .core.peer import PeerCore
from .core.values import Block, Value
from .execute.store import PayloadStore
from .execute.work import Done, Work
from .frozen import frozen
from .ids import BlockId, ClientId, ExecutorId
from .measures import NUMBERS, Measures, Reporter, Wants
from .network import FromPeer, Network, perform, stored
from .wire.columns import Apart, Column

WAIT_MAX_S = 3600.0
"""Operating systems refuse to wait for a hundred years, which a setting may well ask for."""

Deliver: TypeAlias = Callable[[ToClient, Mapping[str, Column]], None]
DeliverApart: TypeAlias = Callable[[ToClient, Mapping[str, Column | Apart]], None]


@frozen(eq=False)
class Incoming:
    """A client's message with its columns."""

    sender: ClientId
    message: ToPeer
    columns: Mapping[str, Column]


@frozen(eq=False)
class ClientJoined:
    """A client that wants its messages delivered; `deliver` is called from the driver's thread.

    deliver_apart: is called instead where results may be handed over as they lie.
    """

    client: ClientId
    deliver: Deliver
    deliver_apart: DeliverApart | None = None


@frozen(eq=False)
class ClientLeft:
    client: ClientId


FromExecutor: TypeAlias = BatchExpected | Done | GraphChecked


@frozen(eq=False, kw_only=False)
class At:
    """What an executor posts to one of several peers that are driven by one thread."""

    place: int
    posted: FromExecutor


Posted: TypeAlias = (
    Incoming
    | ClientJoined
    | ClientLeft
    | FromExecutor
    | FromPeer
    | PeerSeen
    | LinkDown
    | LeaveRequested
    | ExecutorStarted
    | ExecutorLost
    | Persisted
    | PersistFailed
)


class Executors(Protocol):
    """Runs batches elsewhere: threads, the caller's own thread, processes. Answers with `Done`, posted."""

    @property
    def copies_inputs(self) -> bool:
        """Whether nodes get a copy of what they are given, so that it may be what tasks keep."""
        ...

    def start(self) -> tuple[ExecutorId, ...]:
        """Start all of them. Returns those that are ready; others are posted as ExecutorStarted when they are."""
        ...

    def run(self, executor: ExecutorId, work: Work) -> None: ...

    def cancel(self, executor: ExecutorId, order: int, rows: tuple[int, ...]) -> None:
        """Nobody wants these positions of a batch any more (its `Work.dead` has them already)."""
        ...

    def replace(self, executor: ExecutorId) -> ExecutorId | None:
        """Let go of one that hangs and start another; None if that is posted as ExecutorStarted when it is ready.

        One that goes by itself is posted as ExecutorLost, and replaced the same way.
        """
        ...

    def check(self, request: int, definition: str, *, settles: bool) -> None:
        """Check a definition; answers with GraphChecked, posted. settles: see CheckGraph."""
        ...

    def retire(self, digest: bytes) -> None:
        """A plan is not used any more."""
        ...


class JournalFile(Protocol):
    """Where a peer writes what must not be lost with its process."""

    def restored(self, put: Callable[[Column, tuple[bytes, ...]], Value], /) -> Restored:
        """Everything that is in it. `put` stores a column of one row with its content digest (or none)."""
        ...

    def write(self, persist: Persist, columns: Sequence[Mapping[str, Column]], /) -> None:
        """Write, without waiting for it. columns: per entry, the rows of its values.

        Answers with Persisted or PersistFailed, posted.
        """
        ...


@dataclass(slots=True, eq=False)
class _Running:
    executor: ExecutorId
    work: Work
    pinned: frozenset[BlockId]


class Driver:
    """One peer's driver.

    report: gets every report of the core; None if nobody listens. wants: which events are asked for, when it starts.
    counted: what others than the core count, for whoever asks how the peer is.
    network: None for a peer that is alone for good.
    journal: None for a peer that keeps nothing on disk; its core must know that, too.
    """

    def __init__(
        self,
        core: PeerCore,
        store: PayloadStore,
        executors: Executors,
        *,
        report: Reporter | None = None,
        wants: Wants = lambda _: False,
        counted: Callable[[], Mapping[str, int]] = dict,
        network: Network | None = None,
        journal: JournalFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._state = core.state
        self._store = store
        self._executors = executors
        self._report = report
        self._wants = wants
        self._measures: Measures | None = None
        self._counted = counted
        self._network = network
        self._journal = journal
        self._clock = clock
        self._clients: dict[ClientId, ClientJoined] = {}
        self._running: dict[int, _Running] = {}
        self._alive: set[ExecutorId] = set()
        self._events: deque[Event] = deque()
        self._performs = self._action_table()

    def start(self) -> None:
        """Remember what the journal has, and start the executors."""
        if self._journal is not None:
            self._tell(self._journal.restored(self._put_kept))
        if self._report is not None and any(map(self._wants, NUMBERS)):
            every_s = self._core.state.settings.events.measure_s
            self._measures = Measures(self._core, self._report, self._wants, every_s)
        for executor in self._executors.start():
            self._started(executor)

    def stopped(self) -> None:
        """The executors have been ended, with the peer."""
        if self._report is not None:
            for executor in sorted(self._alive):
                self._report("tally.executor.stop", {"executor": executor, "reason": "the peer ends"})
        self._alive.clear()

    @property
    def executors_count(self) -> int:
        """Of those that are ready, or at work."""
        return len(self._alive)

    @property
    def is_leaving(self) -> bool:
        """Whether nothing new is begun here."""
        return self._state.leaving

    @property
    def is_restoring(self) -> bool:
        """Whether what the journal has is still being compared with what others have."""
        return self._state.restoring

    def due_s(self) -> float:
        """When something happens by itself, by the clock; inf for never."""
        core_ms, store_ms = self._core.deadline_ms(), self._store.deadline_ms()
        if core_ms is None or (store_ms is not None and store_ms < core_ms):
            core_ms = store_ms
        due_s = inf if core_ms is None else core_ms / 1000
        return due_s if self._measures is None else min(due_s, self._measures.due_s())

    def wait_s(self) -> float | None:
        """How long nothing will happen by itself, as far as it is worth waiting at once; None for ever."""
        due_s = self.due_s()
        return None if due_s == inf else min(max(0.0, due_s - self._clock()), WAIT_MAX_S)

    def take(self, posted: Posted) -> None:
        """Take in one thing that was posted."""
        match posted:
            case Incoming():
                self._incoming(posted)
            case Done():
                self._done(posted)
            case ClientJoined(client=client):
                self._clients[client] = posted
            case ClientLeft(client=client):
                if self._clients.pop(client, None) is not None:
                    self._tell(ClientLost(client=client))
            case FromPeer():
                self._tell(stored(posted, self._store, self._now_ms()))
                self._evicted(self._store.trim())
            case ExecutorStarted(executor=executor):
                self._started(executor)
            case ExecutorLost():
                self._lost(posted)
            case GraphChecked() | BatchExpected() | PeerSeen() | LinkDown() | LeaveRequested():
                self._tell(posted)
            case Persisted() | PersistFailed():
                self._tell(posted)
            case _:
                assert_never(posted)

    def tick(self) -> None:
        """Do what is due by the clock."""
        now_ms = self._now_ms()
        self._evicted(self._store.expire(now_ms))
        deadline_ms = self._core.deadline_ms()
        if deadline_ms is not None and deadline_ms <= now_ms:
            self._tell(TimerFired())
        if self._measures is not None:
            self._measures.tick(self._clock())

    # ---- into the core

    def _incoming(self, posted: Incoming) -> None:
        blocks: dict[str, Block] = {}
        message = posted.message
        if isinstance(message, Submit):
            for name, column in posted.columns.items():
                digests = message.digests.get(name, ())
                if len(digests) != column.layout.rows:
                    digests = ()  # the core refuses it
                for block, _ in self._store.put(column, self._now_ms(), kept=True, digests=digests)[:1]:
                    blocks[name] = block
        self._tell(MessageReceived(sender=posted.sender, message=message, blocks=blocks))

    def _done(self, done: Done) -> None:
        if done.executor not in self._alive:
            return
        running = self._running.pop(done.order)
        self._store.unpin(running.pinned)
        now_ms = int(self._clock() * 1000)
        # Large results of other peers' tasks stay here, for whoever needs them.
        is_borrowed = running.work.order.token.owner != self._state.me
        inline_bytes = self._state.settings.store.inline_bytes
        emitted = []
        for part in done.emitted:
            fields = {}
            for name, column in part.columns.items():
                shared = is_borrowed and column.layout.nbytes > inline_bytes * len(part.rows)
                fields[name] = self._store.put(column, now_ms, digests=part.digests.get(name, ()), shared=shared)
            emitted.append(Emitted(output=part.output, rows=part.rows, fields=fields, call=part.call))
        rows, rows_count = running.work.rows, len(running.work.order.tasks)
        missing: tuple[int, ...] = ()
        if len(rows) < rows_count:
            taken = frozenset(rows)
            missing = tuple([row for row in range(rows_count) if row not in taken])
        self._tell(
            BatchFinished(
                executor=done.executor,
                order=done.order,
                emitted=tuple(emitted),
                failed=done.failed,
                missing=missing,
                loaded=done.loaded,
            )
        )
        # Only now is it clear what of the new blocks is kept.
        evicted = self._store.trim()
        if evicted:
            self._evicted(evicted)

    def _evicted(self, ids: tuple[BlockId, ...]) -> None:
        if ids:
            self._tell(BlocksEvicted(ids=ids))

    def _started(self, executor: ExecutorId) -> None:
        self._alive.add(executor)
        self._tell(ExecutorStarted(executor=executor))

    def _lost(self, event: ExecutorLost) -> None:
        """An executor is gone by itself; one that was given up is gone already."""
        if event.executor in self._alive:
            self._let_go(event.executor)
            self._tell(event)

    def _let_go(self, executor: ExecutorId) -> None:
        self._alive.discard(executor)
        for number in [number for number, running in self._running.items() if running.executor == executor]:
            self._store.unpin(self._running.pop(number).pinned)

    def _put_kept(self, column: Column, digests: tuple[bytes, ...]) -> Value:
        (value,) = self._store.put(column, self._now_ms(), kept=True, digests=digests)
        return value

    def _tell(self, event: Event) -> None:
        """Let the core handle an event, and what comes of it; one after another, however one leads to the next."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        performs = self._performs
        while self._events:
            for action in self._core.handle(self._events[0], int(self._clock() * 1000)):
                performs[type(action)](action)
            self._events.popleft()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    # ---- out of the core

    def _action_table(self) -> Mapping[type[Action], Callable[[Any], None]]:
        """How each action is performed."""
        store, executors = self._store, self._executors
        return {
            Send: self._send,
            RunBatch: self._run,
            FreeBlocks: lambda action: store.free(action.ids),
            KeepBlocks: lambda action: store.keep(action.ids),
            RowsCancelled: self._cancel,
            AbandonExecutor: lambda action: self._abandon(action.executor),
            CheckGraph: lambda action: executors.check(action.request, action.definition, settles=action.settles),
            RetirePlan: lambda action: executors.retire(action.digest),
            **dict.fromkeys((Tell, Publish, Dial, OpenLink, CloseLink, Left), self._say),
            Report: self._tell_listeners,
            Persist: self._persist,
        }

    def _say(self, action: Tell | Publish | Dial | OpenLink | CloseLink | Left) -> None:
        if self._network is not None:
            perform(self._network, action, self._store)

    def _tell_listeners(self, action: Report) -> None:
        if self._report is not None:
            self._report(action.name, action.context)

    def _cancel(self, action: RowsCancelled) -> None:
        if action.order in self._running:
            self._running[action.order].work.dead.update(action.rows)
            self._executors.cancel(action.executor, action.order, action.rows)

    def _send(self, action: Send) -> None:
        client = self._clients.get(action.to)
        if client is not None:
            message = action.message
            if isinstance(message, Stats):
                held = {"store_bytes": self._store.volatile_bytes}
                message = replace(message, counters={**message.counters, **held, **self._counted()})
            if client.deliver_apart is not None:
                values_of = action.values.items()
                apart = {name: self._store.collect_apart(values) for name, values in values_of if values}
                client.deliver_apart(message, apart)
                return
            columns = {}
            for name, values in action.values.items():
                if values:
                    columns[name] = self._store.collect(values)
            client.deliver(message, columns)

    def _run(self, action: RunBatch) -> None:
        """Hand a batch over, without the rows that lost an input."""
        executor, order = action.executor, action.order
        ids = _block_ids(order.inputs.values())
        gone = frozenset(self._store.pin(ids))
        rows = tuple(range(len(order.tasks)))
        if gone:
            inputs = order.inputs.values()
            rows = tuple([row for row in rows if not any(values[row][0].id in gone for values in inputs)])
        columns: dict[str, Column] = {}
        apart: dict[str, Apart] = {}
        if rows:
            copies = self._executors.copies_inputs
            for name, all_values in order.inputs.items():
                values = tuple([all_values[row] for row in rows]) if gone else all_values
                found = self._store.collect_apart(values) if copies else self._store.collect_private(values)
                if isinstance(found, Apart):
                    apart[name] = found
                else:
                    columns[name] = found
        work = Work(order=order, rows=rows, columns=columns, apart=apart)
        self._running[order.order] = _Running(executor, work, ids - gone)
        if rows:
            self._executors.run(executor, work)
        else:
            self._done(Done(executor=executor, order=order.order, emitted=(), failed=()))

    def _persist(self, persist: Persist) -> None:
        assert self._journal is not None, f"write {persist.write} is for a journal, and this driver has none"
        columns = [
            {name: self._store.collect((value,)) for name, value in (entry.values or {}).items()}
            if isinstance(entry, Kept)
            else {}
            for entry in persist.entries
        ]
        self._journal.write(persist, columns)

    def _abandon(self, executor: ExecutorId) -> None:
        self._let_go(executor)
        other = self._executors.replace(executor)
        if other is not None:
            self._started(other)


def _block_ids(columns: Iterable[tuple[Value, ...]]) -> frozenset[BlockId]:
    ids = []
    for values in columns:
        last = None
        for block, _ in values:
            if block is not last:
                last = block
                ids.append(block.id)
    return frozenset(ids)
