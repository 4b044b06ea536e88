"""A peer's core: events in, actions out.

Purpose   The one entrance; routes events to the machines beside it and works off what follows.
Rules     1. `handle` never blocks and never raises on what came from outside; it costs O(work in the event).
          2. `now_ms` may repeat but never goes back.
          3. After `handle` no executor is idle while a task waits that could run, and nothing is left on an agenda.
Why       Sockets, threads, files and clocks are drivers around this; the same core runs in tests and simulations.
"""

from typing import assert_never

from ..ids import PeerId
from ..settings import Settings
from .actions import Action
from .batches import Batches
from .borrowing import Borrowing
from .claims import Claims
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
    TimerFired,
)
from .executors import Executors
from .invariants import check_cache, check_uses
from .lending import Lending
from .members import Status
from .messages import (
    AskDefinition,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    Cancel,
    Cancelled,
    Clear,
    Cleared,
    LoadGraph,
    ResultRead,
    Submit,
)
from .nudges import Nudges
from .peermessages import (
    Claim,
    Commit,
    Committed,
    Contact,
    Grant,
    Nudge,
    Renew,
    Renewed,
    RowsRevoked,
    Surrender,
)
from .state import State
from .status import stats
from .strategy import NodeStrategy, QueueStrategy
from .travel import Travel


class PeerCore:
    """The core of one peer.

    me: its id, or how others know and reach it (then with an incarnation above that of all its lives before).
    node_strategy, queue_strategy: which node an executor works for, which task goes first.
    nonce: 16 bytes drawn at boot. static: other peers never fail (they live in this process).
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
    ) -> None:
        if isinstance(me, PeerId):
            me = Contact(id=me, incarnation=1, address="")
        self._state = State.new(me, nonce, settings, static=static)
        self._travel = Travel(self._state, queue_strategy)
        self._executors = Executors(self._state.out, node_strategy)
        self._batches = Batches(self._state, self._travel)
        self._claims = Claims(self._state, self._executors, self._batches)
        self._nudges = Nudges(self._state)
        self._lending = Lending(self._state, self._travel, self._batches, self._nudges)
        self._borrowing = Borrowing(self._state, self._executors, self._claims)
        self._desk = Desk(self._state, self._travel, self._claims)

    def handle(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        """Take an event in. Returns what is to be done about it, in order."""
        assert now_ms >= self._state.now_ms, "time went back"
        self._state.now_ms = now_ms
        match event:
            case MessageReceived():
                self._message(event)
            case PeerReceived():
                self._peer_message(event)
            case PeerSeen(address=address):
                self._state.members.seen(address, now_ms)
            case LinkDown(peer=peer, refused=refused):
                self._state.members.link_down(peer, now_ms, refused=refused)
            case LeaveRequested():
                pass
            case BatchExpected():
                self._claims.expected(event)
            case BatchFinished():
                self._finished(event)
            case GraphChecked():
                self._desk.checked(event)
            case ExecutorStarted():
                self._executors.started(event.executor)
            case ExecutorLost():
                self._borrowing.lost(event.executor, event.reason, crashed=event.crashed)
                self._claims.lost(event.executor, event.reason, crashed=event.crashed)
            case ClientLost():
                self._desk.lost(event.client)
            case BlocksEvicted(ids=ids):
                self._state.blocks.evicted(ids)
            case TimerFired():
                self._expire()
            case _:
                assert_never(event)
        self._membership_changed()
        self._work_off()
        # What clients say tells nothing new of others.
        self._borrowing.dispatch(look=not isinstance(event, MessageReceived))
        self._nudges.send()
        return self._state.out.take()

    def deadline_ms(self) -> int | None:
        """The earliest moment at which TimerFired changes something; None if only other events can."""
        machines = (
            self._state.leases,
            self._desk,
            self._state.members,
            self._borrowing,
            self._nudges,
        )
        times = [machine.deadline_ms() for machine in machines]
        return min([time for time in times if time is not None], default=None)

    def check_invariants(self) -> None:
        """Assert everything that must hold between events. O(everything): for tests."""
        state = self._state
        for machine in (state.members, state.ledger, state.plans, state.leases, state.blocks, self._executors):
            machine.check_invariants()
        for other in (self._batches, self._claims, self._lending, self._borrowing, self._desk):
            other.check_invariants()
        check_uses(state, [*self._desk.waiting_blocks(), *self._borrowing.blocks_held()])
        if state.cache is not None:
            state.cache.check_invariants()
            check_cache(state.cache, state.ledger)

    def _work_off(self) -> None:
        while True:
            ended = self._travel.run()
            if ended:
                self._desk.ended(ended)
            self._desk.admit_waiting()
            self._claims.dispatch()
            self._lending.answer()
            if not self._travel.busy:
                return

    def _finished(self, event: BatchFinished) -> None:
        if not self._borrowing.finished(event):
            self._claims.finished(event)

    def _expire(self) -> None:
        now_ms = self._state.now_ms
        self._state.members.expire(now_ms)
        for lease in self._state.leases.expire(now_ms):
            if lease.holder is None:
                self._claims.expired(lease)
            else:
                self._lending.expired(lease)
        self._borrowing.expire()
        self._nudges.expire()
        self._desk.expire()

    def _membership_changed(self) -> None:
        """Tell the other machines who came and who is gone."""
        for change in self._state.members.take_changes():
            match change.status:
                case Status.ALIVE:
                    pass
                case Status.SUSPECT:
                    pass
                case Status.DEAD | Status.LEFT:
                    self._lending.gone(change.peer)
                    self._borrowing.gone(change.peer)
                    self._nudges.gone(change.peer)

    def _peer_message(self, event: PeerReceived) -> None:
        """Words of other peers, by the machine they are for."""
        state = self._state
        blocks = state.blocks.admit(event.blocks.values(), kept=False)
        message = event.message
        if state.members.received(event.sender, event.incarnation, event.to_incarnation, message, state.now_ms):
            self._claim_message(event)
        state.blocks.settle(blocks)

    def _claim_message(self, event: PeerReceived) -> None:
        """Words about tasks that one peer has and another works on."""
        sender = event.sender
        match event.message:
            case Claim() as message:
                self._lending.claim(sender, message)
            case Commit() as message:
                self._lending.commit(sender, message, event.blocks)
            case Renew() as message:
                self._lending.renew(sender, message)
            case Surrender() as message:
                self._lending.surrender(sender, message)
            case Grant() as message:
                self._borrowing.granted(sender, event.incarnation, message, event.blocks)
            case Committed() as message:
                self._borrowing.committed(sender, message)
            case Renewed() as message:
                self._borrowing.renewed(sender, message)
            case RowsRevoked() as message:
                self._borrowing.revoked(sender, message)
            case Nudge() as message:
                self._borrowing.nudge(sender, message)
            case _:
                pass

    def _message(self, event: MessageReceived) -> None:
        sender = event.sender
        match event.message:
            case Submit() as message:
                self._desk.submit(sender, message, event.blocks)
            case Attach(ids=ids):
                self._desk.attach(sender, ids)
            case ResultRead(ids=ids):
                self._desk.read(ids)
            case Clear(mid=mid, ids=ids):
                self._desk.clear(ids)
                self._state.out.send(sender, Cleared(mid=mid))
            case Cancel(mid=mid, ids=ids):
                self._desk.cancel(ids)
                self._state.out.send(sender, Cancelled(mid=mid))
            case LoadGraph() as message:
                self._desk.load_graph(sender, message)
            case AskTasks() as message:
                self._desk.tasks(sender, message)
            case AskNamespaces() as message:
                self._desk.namespaces(sender, message)
            case AskDefinition() as message:
                self._desk.definition(sender, message)
            case AskStats(mid=mid):
                counters = self._travel.counters | self._claims.counters | self._desk.counters
                counters |= self._lending.counters | self._borrowing.counters
                self._state.out.send(sender, stats(mid, self._state, self._claims, counters))
            case _:
                assert_never(event.message)
