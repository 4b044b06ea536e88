"""A peer's core: events in, actions out.

Purpose   The one entrance; routes events to the machines beside it and works off what follows.
Rules     1. `handle` never blocks and never raises on what came from outside; it costs O(work in the event).
          2. `now_ms` may repeat but never goes back.
          3. After `handle` no executor is idle while a task waits that could run, and nothing is left on an agenda.
Why       Sockets, threads, files and clocks are drivers around this; the same core runs in tests and simulations.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol, assert_never

from ..ids import ClientId, PeerId
from ..settings import Settings
from .actions import Action
from .asking import Asking
from .batches import Batches
from .borrowing import Borrowing
from .cachemessages import CacheAbort, CacheAsk, CacheFetch, CacheLost, CachePut, CacheRenew, CacheTell
from .cacheowners import decline
from .claims import Claims
from .definitions import Definitions
from .desk import Desk
from .events import (
    BatchExpected,
    BatchFinished,
    BlocksEvicted,
    ClientLost,
    Event,
    ExecutorLost,
    ExecutorStarted,
    GraphChecked,
    LeaveRequested,
    LinkDown,
    MessageReceived,
    PeerReceived,
    PeerSeen,
    Persisted,
    PersistFailed,
    Restored,
    TimerFired,
)
from .executors import Executors
from .fetches import Fetches
from .gossip import Gossip
from .greetings import stranger
from .invariants import check_uses
from .leaving import Leaving
from .lending import Lending
from .members import Pulse, Status
from .messages import (
    AskDefinition,
    AskMembers,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    CacheCleared,
    Cancel,
    Cancelled,
    Clear,
    ClearCache,
    Cleared,
    LoadGraph,
    MemberList,
    QueueStats,
    Release,
    Released,
    ResultRead,
    Submit,
)
from .nudges import Nudges
from .payloadmessages import Fetch, Fetched, FreePayloads, Gone, HeldPayloads
from .payloads import Payloads
from .peermessages import (
    KEPT_BESIDE,
    AskManifest,
    AskPlans,
    AskPointers,
    AskQueues,
    AskSync,
    BetweenPeers,
    Claim,
    Commit,
    Committed,
    Contact,
    Drop,
    Grant,
    HandedOver,
    Handover,
    Heartbeat,
    Inquire,
    Known,
    Manifest,
    Nudge,
    PlanKept,
    PlanText,
    Pointers,
    QueueStates,
    Renew,
    Renewed,
    Replicate,
    Replicated,
    RowsRevoked,
    Surrender,
    Sync,
    SyncBetter,
    SyncDigest,
)
from .restoring import Restoring
from .state import State
from .status import queue_stats, stats
from .strategy import NodeStrategy, QueueStrategy
from .takeover import Takeover
from .travel import Travel
from .values import Block


class PeerCore:
    """The core of one peer.

    me: its id, or how others know and reach it (then with an incarnation above that of all its lives before).
    node_strategy, queue_strategy: which node an executor works for, which task goes first.
    nonce: 16 bytes drawn at boot. static: other peers never fail (they live in this process).
    tells: of outbox.PER_TASK, what somebody listens to.
    """

    def __init__(
        self,
        me: PeerId | Contact,
        settings: Settings,
        *,
        node_strategy: NodeStrategy,
        queue_strategy: QueueStrategy,
        nonce: bytes = bytes(16),
        static: bool = False,
        tells: frozenset[str] = frozenset(),
    ) -> None:
        if isinstance(me, PeerId):
            me = Contact(id=me, incarnation=1, address="")
        self._state = State.new(me, nonce, settings, static=static, tells=tells)
        self._travel = Travel(self._state, queue_strategy)
        self._executors = Executors(self._state.out, node_strategy, self._state.plans.touched)
        self._batches = Batches(self._state, self._travel, self._executors)
        self._payloads = Payloads(self._state)
        self._fetches = Fetches(self._state, self._payloads)
        self._claims = Claims(self._state, self._executors, self._batches, self._fetches)
        self._nudges = Nudges(self._state, self._batches)
        self._lending = Lending(self._state, self._travel, self._batches, self._nudges)
        self._asking = Asking(self._state, self._executors, self._batches, self._claims)
        self._borrowing = Borrowing(self._state, self._executors, self._asking, self._payloads, self._fetches)
        self._definitions = Definitions(self._state)
        self._desk = Desk(self._state, self._definitions, self._travel, self._claims)
        self._takeover = Takeover(self._state, self._travel, self._claims, self._desk, self._definitions)
        self._leaving = Leaving(self._state, self._claims, self._borrowing, self._desk)
        ask_ms = int(settings.timing.ask_s * 1000)
        self._gossip = Gossip(
            self._state.members, self._state.plans, self._state.out, self._claims, ask_ms=ask_ms, static=static
        )
        self._state.gossip = self._gossip
        self._journal = self._state.journal
        self._restoring = None
        if self._journal is not None:
            self._restoring = Restoring(self._state, self._journal, self._definitions, self._takeover)
        state, owners = self._state, self._travel.owners
        self._timed: tuple[_Timed, ...] = (
            state.leases,
            self._executors.deaths,
            state.replicas,
            self._desk,
            self._travel.resting,
            *([] if owners is None else [owners]),
        )
        self._timed_seldom = (
            state.members,
            state.copies,
            self._borrowing,
            self._payloads,
            self._fetches,
            self._nudges,
            self._takeover,
            self._leaving,
            self._definitions,
            self._gossip,
            *(() if self._restoring is None else (self._restoring,)),
        )
        self._seldom_ms: int | None = None
        self._is_seldom_known = False
        self._takes = self._event_table()
        self._words = self._table()

    def handle(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        """Take an event in. Returns what is to be done about it, in order."""
        state, members = self._state, self._state.members
        assert now_ms >= state.now_ms, "time went back"
        state.now_ms = now_ms
        members.awake(now_ms)
        self._takes[type(event)](event)
        what = type(event.message if isinstance(event, MessageReceived) else event)
        if what not in _ROUTINE or members.linked_count or state.blocks.any_away or state.leaving or state.restoring:
            self._is_seldom_known = False
        changed = bool(members.changes or members.clock.paused_ms) and self._membership_changed()
        if self._restoring is not None:
            self._restore(self._restoring)
        if self._executors.deaths.suspects or self._executors.resting:
            self._executors.limit(others_work=self._gossip.others_work())
        if what is not ResultRead or self._restoring is not None:  # else nothing follows
            self._work_off()
        if changed or members.linked_count:
            # What clients say tells nothing new of others.
            self._among_others(look=not isinstance(event, MessageReceived))
        if state.leaving:
            self._leaving.go_on()
        if self._journal is not None:
            self._journal.flush()
        return state.out.take()

    def _among_others(self, *, look: bool) -> None:
        """What a peer does for others, and has of them, after every event. A lone peer has nothing of it to do."""
        self._is_seldom_known = False
        self._takeover.plan_comparison()
        self._travel.flush()
        self._borrowing.dispatch(look=look)
        self._fetches.flush()
        self._payloads.flush()
        self._nudges.send()
        self._gossip.flush(self._state.now_ms)

    @property
    def payloads(self) -> Payloads:
        """What is kept for others: for simulations to look at."""
        return self._payloads

    @property
    def state(self) -> State:
        """What the machines share: for tests and simulations to look at."""
        return self._state

    def deadline_ms(self) -> int | None:
        """The earliest moment at which TimerFired changes something; None if only other events can."""
        if not self._is_seldom_known:
            self._is_seldom_known = True
            self._seldom_ms = _earliest(None, self._timed_seldom)
        return _earliest(self._seldom_ms, self._timed)

    def queues(self) -> tuple[QueueStats, ...]:
        """The numbers of all queues here: for drivers that measure. O(queues)."""
        return queue_stats(self._state, self._claims)

    def counters(self) -> dict[str, int]:
        """What has been counted since it started."""
        counters = self._travel.all_counters() | self._claims.counters | self._desk.counters
        counters |= self._lending.counters | self._asking.counters | self._borrowing.counters
        counters |= {f"peers_{name}": number for name, number in self._state.members.counters.items()}
        return counters | self._payloads.counters | self._fetches.counters

    def check_invariants(self) -> None:
        """Assert everything that must hold between events. O(everything): for tests."""
        state = self._state
        shared = (state.members, state.copies, state.replicas, state.ledger, state.plans, state.leases, state.blocks)
        for machine in (*shared, self._executors, self._definitions, self._takeover, self._leaving, self._gossip):
            machine.check_invariants()
        assert not self._is_seldom_known or self._seldom_ms == _earliest(None, self._timed_seldom)
        for other in (self._batches, self._claims, self._lending, self._borrowing, self._desk):
            other.check_invariants()
        self._payloads.check_invariants()
        self._fetches.check_invariants()
        held = [*self._borrowing.blocks_held(), *self._payloads.blocks_held(), *self._fetches.blocks_held()]
        check_uses(state, [*self._desk.waiting_blocks(), *held])
        if state.journal is not None:
            state.journal.check_invariants()
        if state.cache is not None:
            state.cache.check_invariants()
        self._travel.resting.check_invariants(state.ledger)
        if self._travel.owners is not None:
            self._travel.owners.check_invariants(state.ledger)

    def _work_off(self) -> None:
        replicas, plans, travel, desk = self._state.replicas, self._state.plans, self._travel, self._desk
        if replicas.repairs:
            replicas.repair(self._state.now_ms)
        while True:
            if replicas.lost:
                self._takeover.take_lost()
            if travel.agenda or travel.ended:
                self._move_on()
            if desk.waiting:
                desk.admit_waiting()
            if self._executors.idle and plans.waiting:
                self._claims.dispatch()
            if not self._lending.answer() and not (travel.agenda or travel.ended):
                return

    def _move_on(self) -> None:
        """Let tasks take the steps that are due, and tell of those that have ended."""
        ended = self._travel.run()
        if ended:
            self._desk.ended(ended)

    def _network(self, event: PeerSeen | LinkDown) -> None:
        members, now_ms = self._state.members, self._state.now_ms
        if isinstance(event, PeerSeen):
            members.seen(event.address, now_ms)
        else:
            members.link_down(event.peer, now_ms, refused=event.refused)

    def _executor(self, event: ExecutorStarted | ExecutorLost) -> None:
        if isinstance(event, ExecutorStarted):
            self._executors.started(event.executor)
        else:
            self._borrowing.lost(event.executor, event.reason, crashed=event.crashed)
            self._claims.lost(event.executor, event.reason, crashed=event.crashed)

    def _restore(self, restoring: Restoring) -> None:
        """Go on with it, and answer clients who had to wait for it: each finds what came before it worked off. What
        they have submitted waits until then: they may have cleared the same tasks before.
        """
        for deferred in restoring.go_on():
            self._move_on()
            self._message(deferred)

    def _from_disk(self, event: Restored | Persisted | PersistFailed) -> None:
        assert self._journal is not None
        assert self._restoring is not None
        if isinstance(event, Restored):
            self._restoring.begin(event)
        elif isinstance(event, Persisted):
            self._journal.persisted(event.write)
        else:
            self._journal.fail(event.reason)

    def _batch(self, event: BatchExpected | BatchFinished) -> None:
        if isinstance(event, BatchExpected):
            self._claims.expected(event)
        elif self._borrowing.finished(event):
            self._is_seldom_known = False
        else:
            self._claims.finished(event)

    def _expire(self) -> None:
        now_ms = self._state.now_ms
        self._state.members.expire(now_ms, self._pulse())
        self._gossip.expire(now_ms)
        self._executors.deaths.expire(now_ms)
        for lease in self._state.leases.expire(now_ms):
            if lease.holder is None:
                self._claims.expired(lease)
            else:
                self._lending.expired(lease)
        self._borrowing.expire()
        self._payloads.expire()
        self._fetches.expire()
        self._nudges.expire()
        self._travel.expire()
        self._definitions.expire()
        self._desk.expire()
        self._state.replicas.tick(now_ms)
        self._takeover.expire()
        self._leaving.expire()
        self._state.copies.expire(now_ms)
        if self._restoring is not None:
            self._restoring.expire()

    def _membership_changed(self) -> bool:
        """Tell the other machines who came and who is gone. False if this peer was only halted."""
        if self._state.members.take_pause_ms():
            self._takeover.compare()  # whoever held us to be dead has taken over
        dead: list[PeerId] = []
        changes = self._state.members.take_changes()
        if not changes:
            return False
        for change in changes:
            if self._restoring is not None:
                self._restoring.changed(change.peer, change.status)
            match change.status:
                case Status.ALIVE:
                    self._definitions.alive(change.peer)
                    self._gossip.alive(change.peer)
                    self._state.replicas.joined(self._state.now_ms)
                    if change.heal:
                        self._takeover.healed(change.peer)
                case Status.SUSPECT:
                    self._definitions.gone(change.peer)
                    self._gossip.gone(change.peer)
                case Status.DEAD | Status.LEFT:
                    dead.append(change.peer)
                    self._definitions.gone(change.peer)
                    self._gossip.gone(change.peer)
                    self._state.replicas.gone(change.peer, self._state.now_ms)
                    self._takeover.gone(change.peer)
                    self._leaving.gone(change.peer)
                    self._lending.gone(change.peer, on_purpose=change.status is Status.LEFT)
                    self._fetches.gone(change.peer, on_purpose=change.status is Status.LEFT)
                    self._payloads.gone(change.peer)
                    self._borrowing.gone(change.peer)
                case _:
                    raise AssertionError("nobody becomes unknown")
        owners = self._travel.owners
        if owners is not None:
            owners.members_changed()
            for peer in dead:
                owners.gone(peer)
        return True

    def _peer_message(self, event: PeerReceived) -> None:
        """Words of other peers, by the machine they are for."""
        state = self._state
        blocks = state.blocks.admit(event.blocks.values(), kept=isinstance(event.message, KEPT_BESIDE))
        message = event.message
        if state.members.received(event.sender, event.incarnation, event.to_incarnation, message, state.now_ms):
            word = self._words.get(type(message))
            if word is not None:
                word(event.sender, message, event.blocks)
        state.blocks.settle(blocks)

    def _pulse(self) -> Pulse:
        """What this peer's heartbeats say of it."""
        usable = self._executors.usable and not self._state.leaving
        return Pulse(self._claims.idle_count(), self._gossip.version, self._definitions.digest, usable)

    def _heartbeat(self, sender: PeerId, message: Heartbeat) -> None:
        self._gossip.heard(sender, message, self._state.now_ms)
        self._definitions.heard(sender, message.pointers)

    def _queue_states(self, sender: PeerId, message: QueueStates) -> None:
        self._gossip.came(sender, message, self._state.now_ms)
        self._asking.told(sender, message)

    def _known(self, sender: PeerId, message: Known) -> None:
        self._takeover.known(sender, message)
        if self._restoring is not None:
            self._restoring.known(sender, message)

    def _event_table(self) -> Mapping[type[Event], Callable[[Any], None]]:
        """Which of these methods (or which machine) takes an event."""
        return {
            MessageReceived: self._message,
            BatchFinished: self._batch,
            BatchExpected: self._batch,
            PeerReceived: self._peer_message,
            PeerSeen: self._network,
            LinkDown: self._network,
            LeaveRequested: lambda _: self._leaving.begin(),
            GraphChecked: self._definitions.checked,
            ExecutorStarted: self._executor,
            ExecutorLost: self._executor,
            ClientLost: lambda event: self._desk.lost(event.client),
            BlocksEvicted: lambda event: self._state.blocks.evicted(event.ids),
            Restored: self._from_disk,
            Persisted: self._from_disk,
            PersistFailed: self._from_disk,
            TimerFired: lambda _: self._expire(),
        }

    def _table(self) -> Mapping[type[BetweenPeers], Callable[[PeerId, Any, Mapping[str, Block]], None]]:
        """Which machine each word of a member is for. Greetings and signs of life are for the members' own."""
        state, definitions, takeover, owners = self._state, self._definitions, self._takeover, self._travel.owners
        lending, asking, borrowing, gossip = self._lending, self._asking, self._borrowing, self._gossip
        payloads, fetches = self._payloads, self._fetches
        cache: Mapping[type[BetweenPeers], Callable[[PeerId, Any, Mapping[str, Block]], None]]
        if owners is None:
            cache = {CacheAsk: lambda sender, message, _: decline(state.members, sender, message)}
        else:
            cache = {
                CacheAsk: lambda sender, message, _: owners.asked(sender, message),
                CacheTell: owners.told,
                CachePut: owners.came,
                CacheAbort: lambda sender, message, _: owners.aborted(sender, message),
                CacheRenew: lambda sender, message, _: owners.renewed(sender, message),
                CacheFetch: lambda sender, message, _: owners.fetch(sender, message),
                CacheLost: lambda sender, message, _: owners.lost(sender, message),
            }
        return {
            **cache,
            Heartbeat: lambda sender, message, _: self._heartbeat(sender, message),
            QueueStates: lambda sender, message, _: self._queue_states(sender, message),
            AskQueues: lambda sender, message, _: gossip.tell_all(sender),
            Pointers: lambda sender, message, _: definitions.pointed(sender, message),
            AskPointers: lambda sender, message, _: definitions.tell_pointers(sender, message.mid),
            AskPlans: lambda sender, message, _: definitions.asked(sender, message),
            PlanText: lambda sender, message, _: definitions.came(sender, message),
            PlanKept: lambda sender, message, _: definitions.kept(sender, message),
            AskManifest: lambda sender, message, _: definitions.asked_what(sender, message),
            Manifest: lambda sender, message, _: definitions.told_what(sender, message),
            Replicate: takeover.replicated,
            Replicated: lambda sender, message, _: state.replicas.answered(sender, message, state.now_ms),
            Inquire: lambda sender, message, _: takeover.inquired(sender, message),
            Known: lambda sender, message, _: self._known(sender, message),
            Sync: lambda sender, message, _: takeover.synced(sender, message),
            SyncBetter: lambda sender, message, _: takeover.bettered(sender, message),
            SyncDigest: lambda sender, message, _: takeover.compared(sender, message),
            AskSync: lambda sender, message, _: takeover.asked(sender),
            Drop: lambda sender, message, _: takeover.dropped(sender, message),
            HandedOver: lambda sender, message, _: self._leaving.handed_over(sender, message),
            Handover: lambda sender, message, _: takeover.handed_over(sender, message),
            Claim: lambda sender, message, _: lending.claim(sender, message),
            Commit: lending.commit,
            Renew: lambda sender, message, _: lending.renew(sender, message),
            Surrender: lambda sender, message, _: lending.surrender(sender, message),
            Grant: borrowing.granted,
            Committed: lambda sender, message, _: borrowing.committed(sender, message),
            Renewed: lambda sender, message, _: borrowing.renewed(sender, message),
            RowsRevoked: lambda sender, message, _: borrowing.revoked(sender, message),
            Nudge: lambda sender, message, _: asking.nudge(sender, message),
            Fetch: lambda sender, message, _: fetches.asked(sender, message),
            Fetched: lambda sender, message, blocks: fetches.fetched(sender, message, blocks.get("rows")),
            Gone: lambda sender, message, _: fetches.not_there(sender, message),
            FreePayloads: lambda sender, message, _: payloads.freed(sender, message),
            HeldPayloads: lambda sender, message, _: payloads.still_held(sender, message),
        }

    def _about_peer(self, sender: ClientId, message: AskStats | AskMembers | ClearCache) -> None:
        match message:
            case AskStats(mid=mid):
                self._state.out.send(sender, stats(mid, self._state, self._claims, self.counters()))
            case AskMembers() as asked:
                self._state.out.send(sender, self._member_list(asked))
            case ClearCache(mid=mid, origins=origins):
                owners = self._travel.owners
                values = 0 if owners is None else owners.clear(origins)
                self._state.out.send(sender, CacheCleared(mid=mid, values=values))
            case _:
                assert_never(message)

    def _member_list(self, message: AskMembers) -> MemberList:
        members, settings = self._state.members, self._state.settings
        refusal = stranger(message.cluster, settings.cluster) if message.cluster else ""
        if refusal:
            self._desk.counters["clients_refused"] += 1
            return MemberList(mid=message.mid, members=(), refusal=refusal)
        return MemberList(
            mid=message.mid,
            members=members.contacts(),
            suspects=members.suspects(),
            message_bytes=settings.network.message_bytes,
        )

    def _message(self, event: MessageReceived) -> None:
        sender = event.sender
        if self._desk.left:
            self._desk.heard(sender)
        if self._restoring is not None and self._restoring.defers(event):
            return
        match event.message:
            case Submit() as message:
                self._desk.submit(sender, message, event.blocks)
            case Attach(ids=ids):
                self._desk.attach(sender, ids)
            case ResultRead(ids=ids):
                self._desk.read(ids)
            case Clear(mid=mid, ids=ids):
                cleared = Cleared(mid=mid, unknown=self._desk.unknown_of(ids))
                self._desk.clear(ids, partial(self._state.out.send, sender, cleared))
            case Cancel(mid=mid, ids=ids):
                self._desk.cancel(ids)
                self._state.out.send(sender, Cancelled(mid=mid))
            case LoadGraph() as message:
                self._definitions.load_graph(sender, message)
            case AskTasks() as message:
                self._desk.tasks(sender, message)
            case AskNamespaces() | AskDefinition() as message:
                self._definitions.ask(sender, message)
            case AskStats() | AskMembers() | ClearCache() as message:
                self._about_peer(sender, message)
            case Release(mid=mid):
                self._state.out.send(sender, Released(mid=mid))
                self._leaving.begin()
            case _:
                assert_never(event.message)


class _Timed(Protocol):
    def deadline_ms(self) -> int | None: ...


def _earliest(earliest_ms: int | None, machines: Iterable[_Timed]) -> int | None:
    for machine in machines:
        time_ms = machine.deadline_ms()
        if time_ms is not None and (earliest_ms is None or time_ms < earliest_ms):
            earliest_ms = time_ms
    return earliest_ms


_ROUTINE: Final = frozenset((Submit, ResultRead, BatchFinished, BatchExpected))
"""Words of clients, and events, that change no deadline of the machines that are timed seldom, in a peer that is alone:
most of all that a lone peer hears of. To ask all machines takes longer than to handle one of these.
"""
