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
    MessageReceived,
    TimerFired,
)
from .invariants import check_cache, check_uses
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
from .state import State
from .status import stats
from .strategy import NodeStrategy, QueueStrategy
from .travel import Travel


class PeerCore:
    """The core of one peer.

    node_strategy, queue_strategy: which node an executor works for, which task goes first.
    epoch_n: number of this owner's epoch; tokens carry it.
    """

    def __init__(
        self,
        me: PeerId,
        settings: Settings,
        *,
        node_strategy: NodeStrategy,
        queue_strategy: QueueStrategy,
        epoch_n: int = 1,
    ) -> None:
        self._state = State.new(me, settings, epoch_n)
        self._travel = Travel(self._state, queue_strategy)
        self._claims = Claims(self._state, self._travel, node_strategy)
        self._desk = Desk(self._state, self._travel, self._claims)

    def handle(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        """Take an event in. Returns what is to be done about it, in order."""
        assert now_ms >= self._state.now_ms, "time went back"
        self._state.now_ms = now_ms
        match event:
            case MessageReceived():
                self._message(event)
            case BatchExpected():
                self._claims.expected(event)
            case BatchFinished():
                self._claims.finished(event)
            case GraphChecked():
                self._desk.checked(event)
            case ExecutorStarted():
                self._claims.started(event.executor)
            case ExecutorLost():
                self._claims.lost(event.executor, event.reason, crashed=event.crashed)
            case ClientLost():
                self._desk.lost(event.client)
            case BlocksEvicted(ids=ids):
                self._state.blocks.evicted(ids)
            case TimerFired():
                self._claims.expire()
                self._desk.expire()
            case _:
                assert_never(event)
        self._work_off()
        return self._state.out.take()

    def deadline_ms(self) -> int | None:
        """The earliest moment at which TimerFired changes something; None if only other events can."""
        times = [time for time in (self._state.leases.deadline_ms(), self._desk.deadline_ms()) if time is not None]
        return min(times, default=None)

    def check_invariants(self) -> None:
        """Assert everything that must hold between events. O(everything): for tests."""
        state = self._state
        for machine in (state.ledger, state.plans, state.leases, state.blocks, self._claims, self._desk):
            machine.check_invariants()
        check_uses(state, self._desk.waiting_blocks())
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
            if not self._travel.busy:
                return

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
                self._state.out.send(sender, stats(mid, self._state, self._claims, counters))
            case _:
                assert_never(event.message)
