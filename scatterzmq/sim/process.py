"""A simulated process: the real core, and a driver that does what driver.py does, with stubs for what is heavy."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, assert_never, cast

from ..core.actions import (
    AbandonExecutor,
    Action,
    BatchOrder,
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
from ..core.cachemessages import CachePut, CacheTell
from ..core.events import (
    BatchExpected,
    BatchFinished,
    BlocksEvicted,
    ClientLost,
    Emitted,
    Event,
    ExecutorLost,
    ExecutorStarted,
    LeaveRequested,
    LinkDown,
    MessageReceived,
    PeerReceived,
    PeerSeen,
    Persisted,
    PersistFailed,
    RowsFailed,
    TimerFired,
)
from ..core.ledger import Cause, Ledger, Phase, Record
from ..core.messages import Submit, ToPeer
from ..core.payloadmessages import Fetched
from ..core.peer import PeerCore
from ..core.peermessages import KEPT_BESIDE, BetweenPeers, Commit, Contact, Grant, Replicate
from ..core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from ..core.values import Block, Value
from ..errors import ErrorCode
from ..ids import ClientId, ExecutorId, PeerId, QueueId
from ..wire.columns import Column
from ..wire.frames import Envelope, encode
from ..wire.refusal import WireError
from .clock import PeerClock
from .corpus import Data
from .disk import Disk
from .histories import History
from .network import Frames, Link
from .oracle import NodeFailed, Step, called, run_graph, run_node
from .payload import Store, column_of, damaged, values_of

if TYPE_CHECKING:
    from .world import World

SYNC_US = 50_000
"""What was written is safe after so long, unless it is synced at once."""
NOBODY = -1
"""Stands for "meant for another process" in PeerReceived.to_incarnation."""


@dataclass(slots=True, eq=False)
class Running:
    """A batch at an executor. rows: positions that take part. fate: what will become of it."""

    order: BatchOrder
    rows: tuple[int, ...]
    inputs: Mapping[str, list[Data]]
    pinned: tuple[Block, ...]
    fate: str


class WatchedLedger(Ledger):
    """A ledger whose records are seen to come, to move and to go."""

    watch: Callable[[Record, Cause, Phase], None]
    begun: Callable[[Record], None]
    removed: Callable[[Record], None]
    touched: dict[Record, None]

    def add(self, record: Record) -> None:
        super().add(record)
        self.touched[record] = None
        self.begun(record)

    def move(self, record: Record, cause: Cause, now_ms: int, detail: str = "") -> None:
        before = record.phase
        super().move(record, cause, now_ms, detail)
        self.touched[record] = None
        self.watch(record, cause, before)

    def remove(self, record: Record) -> None:
        super().remove(record)
        self.removed(record)


class Process:
    """One life at one address.

    events: handled by the core. touched: records that the event under way has moved.
    executors: what runs on each; None if it is idle. reports: what the core had to say, by name. buried: peers that
    it has held to be gone.
    disk: None without a journal. has_failed: a write to it has.
    """

    def __init__(
        self, world: "World", place: int, me: Contact, clock: PeerClock, executors: int, disk: Disk | None = None
    ) -> None:
        self.world = world
        self.place = place
        self.id: PeerId = me.id
        self.me = me
        self.address = me.address
        self.name = me.name
        self.clock = clock
        self.is_dead = False
        self.is_paused = False
        self.has_left = False
        self.disk = disk
        self.has_failed = False
        self.executors: dict[ExecutorId, Running | None] = {}
        self.links: dict[PeerId, Link] = {}
        self.clients: dict[ClientId, Link] = {}
        self.reports: Counter[str] = Counter()
        self.buried: set[str] = set()
        self.store = Store(me.id, me.incarnation)
        self.core = PeerCore(
            me,
            world.settings,
            node_strategy=SimpleNodeStrategy(),
            queue_strategy=SimpleQueueStrategy(),
            nonce=me.id.to_bytes() if me.incarnation == 1 else me.incarnation.to_bytes(16),
        )
        self.state = self.core.state
        ledger = cast(WatchedLedger, self.state.ledger)
        ledger.__class__ = WatchedLedger
        ledger.watch = partial(world.checkers.moved, self)
        ledger.begun = partial(world.checkers.begun, self)
        ledger.removed = partial(world.checkers.removed, self)
        self.touched = ledger.touched = {}
        self.history = History(self.core, me.incarnation, watching=world.checkers.watches_all)
        self.events = 0
        self._events: deque[Event] = deque()
        self._backlog: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._written_us = 0
        self._timer_us: int | None = None
        self._deadline_ms: int | None = None
        self._quick_timers = 0
        self._seq = 0
        self._started = 0
        self._executors = executors
        self._work = Random(f"{world.options.seed}:work:{me.name}")

    def boot(self) -> None:
        """Remember, and start the executors."""
        if self.disk is not None:
            self.tell(self.disk.restored(self.store))
        for _ in range(self._executors):
            self._start_executor()

    # ---- from the world

    def post(self, delay_us: int, what: Callable[..., None], *args: object) -> None:
        """Something will happen to this process, unless it is dead by then."""
        self.world.at(self.world.now_us + delay_us, self._due, what, args)

    def arrive(self, frames: Frames) -> None:
        self._due(self._received, (frames,))

    def broken(self, address: str, *, refused: bool) -> None:
        self._due(self._broken, (address, refused))

    def seen(self, address: str) -> None:
        self._due(self.tell, (PeerSeen(address=address),))

    def leave(self) -> None:
        self._due(self.tell, (LeaveRequested(),))

    def evict(self, fraction: float, chance: Random) -> None:
        """Lose some of what may be lost."""
        gone = tuple([block for block in self.store.volatile() if chance.random() < fraction])
        if gone:
            self.store.evict(gone)
            self.tell(BlocksEvicted(ids=gone))

    def lose_executor(self, executor: ExecutorId, *, crashed: bool) -> None:
        """An executor is gone; another one comes soon."""
        running = self.executors.pop(executor)
        if running is not None:
            self.store.unpin([block.id for block in running.pinned])
            if crashed:
                self.world.checkers.executor_died(self, running.order)
        self.tell(ExecutorLost(executor=executor, reason="gone", crashed=crashed))
        self.post(self._work.randint(1_000, 500_000), self._start_executor)

    def die(self) -> None:
        self.is_dead = True

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        if not self.is_dead and self.is_paused:
            self.is_paused = False
            backlog, self._backlog = self._backlog, []
            for what, args in backlog:
                self._due(what, args)
            self._timer()

    def _due(self, what: Callable[..., None], args: tuple[object, ...]) -> None:
        if self.is_paused:
            self._backlog.append((what, args))
        elif not self.is_dead:
            what(*args)

    # ---- into the core

    def tell(self, event: Event) -> None:
        """Let the core handle an event, and what comes of it."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events and not self.is_dead:
            event = self._events[0]
            actions = self.core.handle(event, self.clock.now_ms(self.world.now_us))
            self.events += 1
            self.world.trace.event(self.world.now_us, self.name, event, actions)
            for action in actions:
                self._perform(action)
            self._events.popleft()
            self.world.checkers.handled(self)
        self._arm()

    def _received(self, frames: Frames) -> None:
        try:
            envelope, message, columns = self.world.reader.read(frames)
        except WireError as error:
            self.world.rejected[error.reason] += 1
            return
        source = envelope.src
        if isinstance(source, ClientId):
            self._from_client(source, cast(ToPeer, message), columns)
        elif source is not None:
            self._from_peer(source, envelope, cast(BetweenPeers, message), columns)

    def _from_client(self, client: ClientId, message: ToPeer, columns: Mapping[str, Column]) -> None:
        if client not in self.clients:
            self.clients[client] = self.world.network.link(self.address, client)
        blocks = {}
        if isinstance(message, Submit):
            blocks = {
                name: self.store.put(column, kept=True, digests=message.digests.get(name, ()))
                for name, column in columns.items()
            }
        self.tell(MessageReceived(sender=client, message=message, blocks=blocks))

    def _from_peer(
        self, peer: PeerId, envelope: Envelope, message: BetweenPeers, columns: Mapping[str, Column]
    ) -> None:
        is_fetched = isinstance(message, Fetched)
        kept = isinstance(message, KEPT_BESIDE)
        blocks = {
            name: self.store.put(
                damaged(column, self._work) if is_fetched and self.world.faults.happens("damage") else column,
                kept=kept,
                digests=_digests_beside(message, name),
                shared=is_fetched,
            )
            for name, column in columns.items()
        }
        is_me = envelope.dst is None or envelope.dst == self.id
        self.tell(
            PeerReceived(
                sender=peer,
                incarnation=envelope.src_incarnation,
                to_incarnation=envelope.dst_incarnation if is_me else NOBODY,
                message=message,
                blocks=blocks,
            )
        )

    def _broken(self, address: str, refused: bool) -> None:
        for peer, link in list(self.links.items()):
            if link.way[1] == address:
                self.tell(LinkDown(peer=peer, refused=refused))
        for client in [client for client in self.clients if client == address]:
            self.world.network.close(self.clients.pop(client))
            self.tell(ClientLost(client=client))

    # ---- time

    def _arm(self) -> None:
        """After whatever the core has handled: its deadline changes only then."""
        deadline_ms = self.core.deadline_ms()
        if deadline_ms != self._deadline_ms or self._timer_us is None:
            self._deadline_ms = deadline_ms
            self._schedule()

    def _schedule(self) -> None:
        if self._deadline_ms is None or self.is_dead:
            return
        at_us = max(self.clock.world_us(self._deadline_ms), self.world.now_us)
        if self._timer_us is None or at_us < self._timer_us:
            self._timer_us = at_us
            self.world.at(at_us, self._timer_due, at_us)

    def _is_due(self) -> bool:
        return self._deadline_ms is not None and self._deadline_ms <= self.clock.now_ms(self.world.now_us)

    def _timer_due(self, at_us: int) -> None:
        if self._timer_us == at_us:
            self._timer_us = None
            if not self.is_paused:
                self._timer()

    def _timer(self) -> None:
        """Do what is due; the world makes sure that this leads somewhere."""
        if self.is_dead:
            return
        if self._is_due():
            self.tell(TimerFired())
            self._quick_timers = self._quick_timers + 1 if self._is_due() else 0
            assert self._quick_timers < 100, f"{self.name}: a timer that changes nothing"
        self._schedule()

    def jumped(self) -> None:
        """The clock has jumped: deadlines come earlier."""
        self._timer_us = None
        if not self.is_paused:
            self._schedule()

    # ---- out of the core

    def _perform(self, action: Action) -> None:
        match action:
            case RunBatch(executor=executor, order=order):
                self._run(executor, order)
            case FreeBlocks(ids=ids):
                self.store.free(ids)
            case KeepBlocks(ids=ids):
                self.store.keep(ids)
            case RowsCancelled() | RetirePlan():
                pass  # nodes of the corpus neither ask whether a task is alive nor hold anything
            case AbandonExecutor(executor=executor):
                self._abandon(executor)
            case CheckGraph(request=request, definition=definition):
                self.tell(self.world.checked(request, definition, self.place))
            case Persist():
                self._persist(action)
            case Report(name=name, context=context):
                self.reports[name] += 1
                if name in ("peer.dead", "peer.leave"):
                    self.buried.add(str(context["peer"]))
            case Left(lost=lost):
                self.has_left = True
                self.world.left(self, lost)
            case _:
                self._say(action)

    def _say(self, action: Send | Tell | Publish | Dial | OpenLink | CloseLink) -> None:
        match action:
            case Send():
                self._send(action)
            case Tell(to=to, incarnation=incarnation, message=message, values=values):
                self._tell_peer(to, incarnation, message, values)
            case Publish(message=message):
                self._publish(message)
            case Dial(address=address, message=hello):
                self.world.network.dial(self.address, address, self._frames(hello, {}, None, 0))
            case OpenLink(contact=contact):
                self._close(contact.id)
                self.links[contact.id] = self.world.network.link(self.address, contact.address)
            case CloseLink(peer=peer):
                self._close(peer)
            case _:
                assert_never(action)

    def _frames(
        self, message: object, columns: Mapping[str, Column], to: PeerId | ClientId | None, incarnation: int
    ) -> Frames:
        self._seq += 1
        envelope = Envelope(
            src=self.id, src_incarnation=self.me.incarnation, dst=to, dst_incarnation=incarnation, seq=self._seq
        )
        return encode(cast(BetweenPeers, message), columns, envelope)

    def _send(self, action: Send) -> None:
        columns = {name: self.store.collect(values) for name, values in action.values.items() if values}
        self.world.checkers.sent_to_client(self, action.to, action.message, columns)
        link = self.clients.get(action.to)
        if link is not None:
            self.world.network.send(link, self._frames(action.message, columns, action.to, 0))

    def _tell_peer(
        self, to: PeerId, incarnation: int, message: BetweenPeers, values: Mapping[str, tuple[Value, ...]]
    ) -> None:
        columns = {name: self.store.collect(rows) for name, rows in values.items() if rows}
        link = self.links.get(to)
        if link is None:
            self.world.counters["no link"] += 1
            return
        self.world.said[type(message).__name__] += 1
        self.world.network.send(link, self._frames(message, columns, to, incarnation))

    def _publish(self, message: BetweenPeers) -> None:
        self.world.said[type(message).__name__] += 1
        frames = self._frames(message, {}, None, 0)
        for peer in sorted(self.links):
            if not self.world.faults.happens("gap"):
                self.world.network.send(self.links[peer], frames)

    def _close(self, peer: PeerId) -> None:
        link = self.links.pop(peer, None)
        if link is not None:
            self.world.network.close(link)

    # ---- disk

    def _persist(self, action: Persist) -> None:
        """It is written now, and safe a little later; the first one, which nothing may overtake, at once."""
        assert self.disk is not None
        if self.disk.is_full:
            self.has_failed = True
            self.tell(PersistFailed(write=action.write, reason="no space left on device"))
            return
        assert not self.has_failed, "written after a failure"
        self.disk.write(action, self.store)
        if action.write == 1:
            self.disk.sync()
            self.tell(Persisted(write=1))
            return
        self._written_us = max(self.world.now_us + self._work.randint(100, 20_000), self._written_us)
        self.world.at(self._written_us, self._written, action, self.disk)

    def _written(self, action: Persist, disk: Disk) -> None:
        if self.is_dead:
            return
        if action.sync:
            disk.sync()
        else:
            self.world.at(self.world.now_us + SYNC_US, self._synced, disk)
        self._due(self.tell, (Persisted(write=action.write),))

    def _synced(self, disk: Disk) -> None:
        if not self.is_dead:
            disk.sync()

    # ---- executors

    def _start_executor(self) -> None:
        self._started += 1
        executor = ExecutorId(f"E{self.id[1:17]}{self._started:016x}")
        self.executors[executor] = None
        self.tell(ExecutorStarted(executor=executor))

    def _abandon(self, executor: ExecutorId) -> None:
        running = self.executors.pop(executor)
        if running is not None:
            self.store.unpin([block.id for block in running.pinned])
            self.world.checkers.executor_died(self, running.order)
        self._start_executor()

    def _run(self, executor: ExecutorId, order: BatchOrder) -> None:
        """Hand a batch over, without the rows that lost an input."""
        assert self.executors.get(executor, order) is None, f"{executor} gets work that it cannot take"
        self.world.checkers.lent(self, order)
        columns = tuple(order.inputs.values())
        rows = tuple(
            [row for row in range(len(order.tasks)) if all(self.store.holds(values[row][0].id) for values in columns)]
        )
        pinned = tuple({values[row][0].id: values[row][0] for values in columns for row in rows}.values())
        self.store.pin([block.id for block in pinned])
        inputs = {
            name: values_of(self.store.collect([values[row] for row in rows])) if rows else []
            for name, values in order.inputs.items()
        }
        fate, duration_us = self.world.faults.fate(self, order, self._work)
        self.executors[executor] = Running(order, rows, inputs, pinned, fate)
        if self._work.random() < 0.2 and rows:
            self.post(0, self._expected, executor, order)
        if fate != "hang":
            self.post(duration_us if rows else 0, self._done, executor, order)

    def _expected(self, executor: ExecutorId, order: BatchOrder) -> None:
        if self._holds(executor, order):
            outputs = {name: (self._work.random() * 10, self._work.randrange(1000)) for name in order.node.outputs}
            self.tell(BatchExpected(executor=executor, order=order.order, outputs=outputs))

    def _holds(self, executor: ExecutorId, order: BatchOrder) -> bool:
        running = self.executors.get(executor)
        return running is not None and running.order is order

    def _done(self, executor: ExecutorId, order: BatchOrder) -> None:
        if not self._holds(executor, order):
            return
        running = self.executors[executor]
        assert running is not None
        if running.fate == "crash":
            self.lose_executor(executor, crashed=True)
            return
        try:
            emitted, failed = self._compute(running)
        except NodeFailed:
            self.lose_executor(executor, crashed=True)
            return
        self.executors[executor] = None
        self.store.unpin([block.id for block in running.pinned])
        taken = frozenset(running.rows)
        missing = tuple([row for row in range(len(order.tasks)) if row not in taken])
        loaded: tuple[tuple[bytes, QueueId], ...] = ((order.plan.digest, order.node.queue),)
        self.tell(
            BatchFinished(
                executor=executor,
                order=order.order,
                emitted=emitted,
                failed=failed,
                missing=missing,
                loaded=loaded if self._work.random() < 0.5 else None,
            )
        )

    def _compute(self, running: Running) -> tuple[tuple[Emitted, ...], tuple[RowsFailed, ...]]:
        """What the nodes answer. Raises NodeFailed if one takes the process with it."""
        order = running.order
        groups: dict[tuple[str, str], list[tuple[int, Mapping[str, Data]]]] = {}
        failed: list[int] = []
        raised: list[int] = []
        for place, row in enumerate(running.rows):
            if running.fate == "raise" and self._work.random() < 0.5:
                raised.append(row)
                continue
            try:
                step = self._step(order, {name: values[place] for name, values in running.inputs.items()})
            except NodeFailed as reason:
                if reason.deadly:
                    raise
                failed.append(row)
                continue
            groups.setdefault((step.output, step.call), []).append((row, step.fields))
        emitted = tuple([self._emitted(order, *key, rows) for key, rows in groups.items()])
        wrong = [
            RowsFailed(rows=tuple(rows), code=ErrorCode.GENERAL_EXCEPTION, message=message, node=order.node.name)
            for rows, message in ((failed, "refused"), (raised, "an accident"))
            if rows
        ]
        return emitted, tuple(wrong)

    def _step(self, order: BatchOrder, inputs: Mapping[str, Data]) -> Step:
        graph = order.plan.graphs[order.node.graph]
        if graph.is_block:
            return Step("", run_graph(order.plan, graph, inputs, self._work))
        return run_node(order.node, inputs, self._work)

    def _emitted(
        self, order: BatchOrder, output: str, call: str, rows: list[tuple[int, Mapping[str, Data]]]
    ) -> Emitted:
        fields: dict[str, tuple[Value, ...]] = {}
        for name in rows[0][1]:
            column = column_of([values[name] for _, values in rows])
            is_borrowed = order.token.owner != self.id
            block = self.store.put(column, digests=None if order.plan.digests else (), shared=is_borrowed)
            fields[name] = tuple([(block, row) for row in range(len(rows))])
        return Emitted(
            output=output,
            rows=tuple([row for row, _ in rows]),
            fields=fields,
            call=called(order.plan, call).id if call else None,
        )


def _digests_beside(message: BetweenPeers, name: str) -> tuple[bytes, ...]:
    """Content digests of the rows of a column, where the message has them."""
    if isinstance(message, Commit):
        place, _, name = name.partition(":")
        return message.parts[int(place)].digests.get(name, ())
    if isinstance(message, Replicate | Grant | CachePut | CacheTell):
        return message.digests.get(name, ())
    return ()
