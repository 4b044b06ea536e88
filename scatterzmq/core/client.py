"""A client's core: stands between the user's side, which sees one reliable cluster, and the peers, which come and go.

Purpose   The one entrance; routes what is said and heard to the machines beside it.
Rules     1. `handle` never blocks and never raises on what came from a peer.
          2. Whatever the user's side asks is answered once, however often it has to be asked, and wherever.
          3. Nothing waits for ever: without any peer for a while the user's side is told that nothing will come.
Why       What a user holds must not know of peers, and what knows of peers must run in tests without any.

Who does what: who is there (clientpeers), questions (clientasks), submissions and clearing (clientsubmit), where tasks
are and how they end (clienttasks), what only all peers together know (clientpolls).
"""

from collections import Counter
from collections.abc import Iterable
from typing import assert_never

from ..ids import PeerId
from ..settings import TimingSettings
from .clientasks import Asks, ClientState, Question
from .clientevents import ClientAction, ClientEvent, Disconnect, GiveUp, Heard, LetGo, PeerDown, PeerUp, Said
from .clientpeers import LOST_MS, Peers
from .clientpolls import Polls, added, cleared
from .clientsubmit import Ending, Submission, clear_ghosts
from .clienttasks import Tasks
from .events import TimerFired
from .messages import (
    Accepted,
    AskDefinition,
    AskMembers,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    Cancel,
    Clear,
    ClearCache,
    Final,
    Goodbye,
    LoadGraph,
    MemberList,
    Moved,
    Release,
    Released,
    ResultRead,
    Submit,
)


class ClientCore:
    """The core of one client.

    static: the peers that PeerUp names are all there ever are, and they always answer (they live in this process).
    """

    def __init__(self, timing: TimingSettings, *, static: bool = False) -> None:
        self._state = ClientState(timing, Peers(timing, static=static))
        self._asks = Asks(self._state)
        self._tasks = Tasks(self._state)
        self._polls = Polls(self._state, self._asks, self._tasks)
        self._began = False
        self._over = False

    @property
    def counters(self) -> dict[str, int]:
        """What came of tasks that was not handed on."""
        return dict(self._tasks.counters)

    def handle(self, event: ClientEvent, now_ms: int) -> tuple[ClientAction, ...]:
        """Take an event in. Returns what is to be done about it, in order."""
        state = self._state
        assert now_ms >= state.now_ms, "time went back"
        state.now_ms = now_ms
        if not self._began:
            self._began = True
            state.peers.began(now_ms)
        if self._over:
            return (LetGo(parcel=event.parcel),) if isinstance(event, Said) and event.parcel else ()
        match event:
            case Said():
                self._said(event)
            case Heard():
                state.peers.heard(event.peer, now_ms)
                self._heard(event)
            case PeerUp(peer=peer):
                state.peers.link_up(peer, now_ms)
            case PeerDown(peer=peer):
                state.peers.link_down(peer, now_ms)
            case TimerFired():
                self._expire()
            case _:
                assert_never(event)
        self._work_off()
        actions, state.out = tuple(state.out), []
        return actions

    def deadline_ms(self) -> int | None:
        """The earliest moment at which TimerFired changes something; None if only other events can."""
        if self._over:
            return None
        times = (self._state.peers.deadline_ms(), self._state.alarms.deadline_ms())
        return min((time for time in times if time is not None), default=None)

    def check_invariants(self) -> None:
        """Assert everything that must hold between events. O(everything): for tests."""
        if not self._began:
            return
        for machine in (self._state.peers, self._asks, self._tasks):
            machine.check_invariants()
        expected = Counter(self._tasks.owners())
        expected.update(ask.peer for ask in self._asks.open() if ask.peer is not None)
        assert self._state.peers.needs() == expected
        assert not self._state.out

    def _said(self, event: Said) -> None:
        state, asks, tasks = self._state, self._asks, self._tasks
        match event.message:
            case Submit() as message:
                Submission(state, asks, tasks, message, event.parcel)
            case Attach(ids=ids):
                tasks.attach(ids)
            case ResultRead(ids=ids):
                tasks.read(ids)
            case Clear() | Cancel() as message:
                Ending(state, asks, tasks, message)
            case AskTasks() as message:
                self._polls.tasks(message)
            case AskStats() as message:
                self._polls.ask_all(message, added)
            case ClearCache() as message:
                self._polls.ask_all(message, cleared)
            case LoadGraph() | AskNamespaces() | AskDefinition() as message:
                Question(state, asks, message)
            case AskMembers() | Release():
                pass  # peers are this side's own business
            case _:
                assert_never(event.message)

    def _heard(self, event: Heard) -> None:
        match event.message:
            case Final() as message:
                others = self._tasks.final(event.peer, message, event.parcel, self._polls)
                clear_ghosts(self._state, self._asks, self._tasks, event.peer, others)
            case Goodbye():
                self._state.peers.leaves(event.peer, self._state.now_ms)
            case Released():
                pass  # a word to whoever said Release, which this side never does
            case Moved() as message:
                self._tasks.moved(message)
            case MemberList() as message:
                actions = self._state.peers.listed(event.peer, message, self._state.now_ms)
                self._state.out += actions
                self._gone([action.peer for action in actions if isinstance(action, Disconnect)], event.peer)
            case Accepted(mid=mid, ids=ids) if not self._asks.is_open(mid):
                clear_ghosts(self._state, self._asks, self._tasks, event.peer, ids)
            case message:
                self._asks.answered(event.peer, message)

    def _gone(self, peers: Iterable[PeerId], home: PeerId) -> None:
        """Somebody else has what they had: of what was cleared, and they were to be told of, home is told first."""
        for peer in peers:
            ids = self._tasks.unreached(peer)
            self._tasks.reached(peer, ids)
            clear_ghosts(self._state, self._asks, self._tasks, home, ids)

    def _expire(self) -> None:
        state = self._state
        if state.peers.is_lost(state.now_ms):
            self._over = True
            state.out += [LetGo(parcel=parcel) for parcel in self._asks.parcels()]
            state.out.append(GiveUp(reason=_LOST))
            return
        state.out += state.peers.expire(state.now_ms, next(state.numbers))
        for number in state.alarms.take_due(state.now_ms):
            self._asks.expire(number)
            self._tasks.expire(number)

    def _work_off(self) -> None:
        changed = self._state.peers.changed
        while changed:
            peer, usable = changed.pop(0)
            self._asks.peer_changed(peer, usable)
            self._tasks.peer_changed(peer, usable)
            clear_ghosts(self._state, self._asks, self._tasks, peer, self._tasks.unreached(peer))
        self._polls.advance()


_LOST = (
    f"no peer of the cluster can be reached, or none has answered, for {LOST_MS // 1000} s; "
    "see that one runs and can be reached from here, then connect again"
)
