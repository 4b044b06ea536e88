"""Random lives of a client among three peers that come and go, over links that lose, double and reorder: everything
that the user's side says is answered once, and every task ends once, as an owner decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from scatterzmq.core.client import ClientCore
from scatterzmq.core.clientevents import (
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
from scatterzmq.core.events import TimerFired
from scatterzmq.core.messages import (
    Accepted,
    AskMembers,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    Cancel,
    Cancelled,
    Clear,
    Cleared,
    Final,
    Goodbye,
    MemberList,
    Moved,
    Namespaces,
    Refused,
    ResultRead,
    Stats,
    Submit,
    TaskReport,
    TaskReports,
    TaskStatus,
    ToClient,
    ToPeer,
)
from scatterzmq.errors import ErrorCode
from scatterzmq.ids import PeerId, TaskId
from scatterzmq.settings import TimingSettings
from tests.core.clientworld import A, B, C, contact, submit

PEERS = (A, B, C)
READY, ERROR, UNKNOWN, WAIT = TaskStatus.READY, TaskStatus.ERROR, TaskStatus.UNKNOWN, TaskStatus.WAIT


@dataclass(eq=False)
class Record:
    """A task at one peer, its own or a copy. value: of its end; None while it lives."""

    nonce: bytes
    owner: PeerId
    value: int | None = None
    status: TaskStatus = WAIT
    attached: bool = True


@dataclass(eq=False)
class FakePeer:
    id: PeerId
    cluster: "Cluster"
    up: bool = True
    full: bool = False
    tasks: dict[TaskId, Record] = field(default_factory=dict)

    def answer(self, message: ToPeer) -> None:
        say = self.cluster.to_client
        match message:
            case Submit():
                self.submit(message)
            case Attach(ids=ids):
                self.attach(ids)
            case AskTasks(mid=mid, ids=ids):
                say(self, TaskReports(mid=mid, reports=tuple([self.report(task) for task in ids])))
            case Clear(mid=mid, ids=ids):
                self.cluster.clear(ids)
                say(self, Cleared(mid=mid))
            case Cancel(mid=mid, ids=ids):
                for task in ids:
                    self.decide(task, ERROR)
                say(self, Cancelled(mid=mid))
            case AskNamespaces(mid=mid):
                say(self, Namespaces(mid=mid, infos=()))
            case AskStats(mid=mid):
                say(self, Stats(mid=mid, queues=(), executors=(), tasks={"wait": len(self.tasks)}))
            case AskMembers(mid=mid):
                here = tuple([contact(peer.id) for peer in self.cluster.peers.values() if peer.up])
                say(self, MemberList(mid=mid, members=here))
            case ResultRead():
                pass

    def submit(self, message: Submit) -> None:
        new = [task for task in message.ids if task not in self.tasks]
        old = [task for task in message.ids if task in self.tasks]
        dead = [task for task in new if (task, message.nonce) in self.cluster.dead]
        new = [task for task in new if task not in dead]
        if self.full and new:
            refused = Refused(mid=message.mid, ids=tuple(new), code=ErrorCode.REFUSED, message="full")
            self.cluster.to_client(self, refused)
            new = []
        partner = self.cluster.partner(self)
        for task in new:
            self.tasks[task] = Record(message.nonce, self.id)
            if partner is not None:
                partner.tasks.setdefault(task, Record(message.nonce, self.id, attached=False))
        rset = (self.id,) if partner is None else (self.id, partner.id)
        for ids, kept in ((new, rset), (old + dead, (self.id,))):
            if ids:
                accepted = Accepted(mid=message.mid, ids=tuple(ids), copies=len(kept), durable=False, rset=kept)
                self.cluster.to_client(self, accepted)
        self.attach(old + dead)

    def attach(self, ids: Sequence[TaskId]) -> None:
        told, moved = [], []
        for task in ids:
            record = self.tasks.get(task)
            if record is None or record.value is not None:
                told.append(task)
                continue
            record.attached = True
            if record.owner != self.id:
                moved.append(task)
        self.tell(told)
        if moved:
            owners = tuple([self.tasks[task].owner for task in moved])
            self.cluster.to_client(self, Moved(ids=tuple(moved), owners=owners))

    def decide(self, task: TaskId, status: TaskStatus) -> None:
        record = self.tasks.get(task)
        if record is None or record.value is not None or record.owner != self.id:
            return
        record.value, record.status = self.cluster.decided(task), status
        for peer in self.cluster.peers.values():
            copy = peer.tasks.get(task)
            if peer.up and copy is not None and copy.owner == self.id and copy.value is None:
                copy.value, copy.status = record.value, record.status
        if record.attached:
            self.tell([task])

    def take_over(self, task: TaskId) -> None:
        """Its owner is gone: now it is this peer's."""
        record = self.tasks[task]
        record.owner = self.id
        if record.attached:
            self.cluster.to_client(self, Moved(ids=(task,), owners=(self.id,)))

    def report(self, task: TaskId) -> TaskReport:
        record = self.tasks.get(task)
        return TaskReport(id=task, status=UNKNOWN if record is None else record.status)

    def tell(self, ids: Sequence[TaskId]) -> None:
        if not ids:
            return
        records = [self.tasks.get(task) for task in ids]
        message = Final(
            ids=tuple(ids),
            ns="n",
            statuses=tuple([UNKNOWN if record is None else record.status for record in records]),
            errors=(None,) * len(ids),
            retries=(0,) * len(ids),
            durations_ms=tuple([0 if record is None else record.value or 0 for record in records]),
        )
        rows = [record.value or 0 for record in records if record is not None and record.status is READY]
        self.cluster.to_client(self, message, rows)


class Cluster:
    """Three peers, what is on its way, and what owners decided."""

    def __init__(self) -> None:
        self.peers = {id_: FakePeer(id_, self) for id_ in PEERS}
        self.to_peers: list[tuple[PeerId, ToPeer]] = []
        self.to_clients: list[tuple[PeerId, ToClient, Sequence[int]]] = []
        self.values: dict[TaskId, list[int]] = {}
        self.counter = 0
        self.dead: set[tuple[TaskId, bytes]] = set()

    def to_client(self, peer: FakePeer, message: ToClient, rows: Sequence[int] = ()) -> None:
        self.to_clients.append((peer.id, message, rows))

    def partner(self, owner: FakePeer) -> FakePeer | None:
        return next((peer for peer in self.peers.values() if peer.up and peer is not owner), None)

    def decided(self, task: TaskId) -> int:
        self.counter += 1
        self.values.setdefault(task, []).append(self.counter)
        return self.counter

    def clear(self, ids: Sequence[TaskId]) -> None:
        """Everywhere, and for good, as far as this very task goes."""
        for peer in self.peers.values():
            gone = [task for task in ids if task in peer.tasks]
            attached = [task for task in gone if peer.tasks[task].attached]
            for task in gone:
                self.dead.add((task, peer.tasks.pop(task).nonce))
            if peer.up:
                peer.tell(attached)


ENDING = {Clear: Cleared, Cancel: Cancelled, AskTasks: TaskReports, AskNamespaces: Namespaces, AskStats: Stats}


class ClientMachine(RuleBasedStateMachine):
    """pending: submitted, and neither accepted nor refused. open: accepted, or asked for, and without an end.
    asked: number -> kind of the answer that is due. linked: peers that the client has a link to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.core = ClientCore(TimingSettings())
        self.cluster = Cluster()
        self.now_ms = 0
        self.mids = 0
        self.numbers = 0
        self.parcels: dict[int, tuple[int, ...]] = {0: ()}
        self.submitted: list[TaskId] = []
        self.pending: set[TaskId] = set()
        self.open: set[TaskId] = set()
        self.cleared: set[TaskId] = set()
        self.asked: dict[int, type] = {}
        self.linked: set[PeerId] = set()
        self.trying: list[PeerId] = []
        self.healed = self.over = False

    # ---- the core

    def tell(self, event: ClientEvent) -> None:
        for action in self.core.handle(event, self.now_ms):
            assert not self.over or isinstance(action, LetGo), "something after the end"
            self.perform(action)

    def perform(self, action: ClientAction) -> None:
        match action:
            case SayTo(peer=peer, message=message, parcel=parcel):
                assert parcel in self.parcels, "sent after it was let go"
                assert (parcel != 0) == isinstance(message, Submit)
                self.cluster.to_peers.append((peer, message))
            case Deliver(message=Final() as message, parcel=parcel, rows=rows):
                values = self.parcels[parcel]
                self.finished(message, values if rows is None else tuple([values[row] for row in rows]))
            case Deliver(message=Accepted(ids=ids)):
                assert set(ids) <= self.pending, "accepted twice"
                self.open |= set(ids)
                self.pending -= set(ids)
            case Deliver(message=Refused(ids=ids)):
                assert set(ids) <= self.pending, "refused twice, or after it was accepted"
                self.pending -= set(ids)
            case Deliver(message=answer):
                assert not isinstance(answer, Final | Moved | Goodbye)
                assert self.asked.pop(answer.mid) is type(answer), "not what was asked"
            case LetGo(parcel=parcel):
                del self.parcels[parcel]
            case Connect(contact=known):
                self.trying.append(known.id)
            case Disconnect(peer=peer):
                assert peer not in self.linked
            case GiveUp():
                self.over = True
                assert self.parcels == {0: ()}

    def finished(self, message: Final, values: Sequence[int]) -> None:
        rows = iter(values)
        for task, status, value in zip(message.ids, message.statuses, message.durations_ms, strict=True):
            if status is UNKNOWN:
                held = any(task in peer.tasks for peer in self.cluster.peers.values())
                assert task in self.cleared or not (held and self.healed), "somebody has it"
                self.open.discard(task)
                continue
            assert task in self.open | self.pending, "ended twice"
            assert value in self.cluster.values[task], "no owner decided this"
            if status is READY:
                assert next(rows) == value, "the row of another task"
            self.open.discard(task)
            self.pending.discard(task)
        assert next(rows, None) is None

    def say(self, message: ToPeer, parcel: int = 0) -> None:
        if type(message) in ENDING:
            self.asked[self.mids] = ENDING[type(message)]
        if self.over:
            self.asked.clear()
        self.tell(Said(message=message, parcel=parcel))

    def mid(self) -> int:
        self.mids += 1
        return self.mids

    # ---- the user's side

    @rule(count=st.integers(1, 4))
    def submit(self, count: int) -> None:
        mid = self.mid()
        message = submit(mid, *range(100 * mid, 100 * mid + count))
        self.parcels[mid] = ()
        self.submitted += message.ids
        self.pending |= set(message.ids)
        self.say(message, mid)

    @precondition(lambda self: self.cleared - self.pending - self.open)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.cleared - self.pending - self.open)))
        mid = self.mid()
        self.parcels[mid] = ()
        self.pending.add(task)
        self.say(replace(submit(mid, 0), ids=(task,)), mid)

    @precondition(lambda self: self.settled_tasks())
    @rule(data=st.data(), kind=st.sampled_from([Clear, Clear, Cancel]))
    def end(self, data: st.DataObject, kind: type[Clear | Cancel]) -> None:
        ids = data.draw(st.lists(st.sampled_from(self.settled_tasks()), min_size=1, max_size=4, unique=True))
        if kind is Clear:
            self.cleared |= set(ids)
        self.say(kind(mid=self.mid(), ids=tuple(ids)))

    def settled_tasks(self) -> list[TaskId]:
        """The user's side clears only what was accepted or refused."""
        return [task for task in self.submitted if task not in self.pending]

    @rule(data=st.data(), stranger=st.booleans())
    def ask_for(self, data: st.DataObject, stranger: bool) -> None:
        tasks = self.settled_tasks() + [TaskId(f"T{self.mid():032x}")] * stranger
        if not tasks:
            return
        ids = data.draw(st.lists(st.sampled_from(tasks), min_size=1, max_size=4, unique=True))
        if not self.over:
            self.open |= set(ids)
        self.say(Attach(ids=tuple(ids)))

    @precondition(lambda self: self.submitted)
    @rule(data=st.data(), kind=st.sampled_from([AskTasks, ResultRead, AskNamespaces, AskStats]))
    def ask(self, data: st.DataObject, kind: type) -> None:
        ids = tuple(data.draw(st.lists(st.sampled_from(self.submitted), max_size=4, unique=True)))
        if kind is ResultRead:
            self.say(ResultRead(ids=ids))
        elif kind is AskTasks:
            self.say(AskTasks(mid=self.mid(), ids=ids))
        else:
            self.say(kind(mid=self.mid()))

    # ---- links

    @precondition(lambda self: self.cluster.to_peers)
    @rule(data=st.data(), fate=st.sampled_from(["once", "once", "twice", "lost"]))
    def to_peer(self, data: st.DataObject, fate: str) -> None:
        flying = self.cluster.to_peers
        place = data.draw(st.integers(0, min(len(flying) - 1, 5)))
        self.reach(*(flying[place] if fate == "twice" else flying.pop(place)), lost=fate == "lost")

    @precondition(lambda self: self.cluster.to_clients)
    @rule(data=st.data(), fate=st.sampled_from(["once", "once", "twice", "lost"]))
    def to_client(self, data: st.DataObject, fate: str) -> None:
        flying = self.cluster.to_clients
        place = data.draw(st.integers(0, min(len(flying) - 1, 5)))
        self.come(*(flying[place] if fate == "twice" else flying.pop(place)), lost=fate == "lost")

    @rule()
    def all_arrives(self) -> None:
        while self.cluster.to_peers or self.cluster.to_clients:
            for message in self.cluster.to_peers[:1]:
                self.cluster.to_peers.pop(0)
                self.reach(*message)
            for answer in self.cluster.to_clients[:1]:
                self.cluster.to_clients.pop(0)
                self.come(*answer)

    def reach(self, to: PeerId, message: ToPeer, lost: bool = False) -> None:
        peer = self.cluster.peers[to]
        if peer.up and to in self.linked and not lost:
            peer.answer(message)

    def come(self, sender: PeerId, message: ToClient, rows: Sequence[int], lost: bool = False) -> None:
        if sender not in self.linked or lost:
            return
        parcel = 0
        if rows:
            self.numbers -= 1
            parcel = self.numbers
            self.parcels[parcel] = tuple(rows)
        self.tell(Heard(peer=sender, message=message, parcel=parcel))
        if rows:
            del self.parcels[parcel]

    @precondition(lambda self: self.trying)
    @rule()
    def try_link(self) -> None:
        self.link(self.trying.pop(0))

    @rule(peer=st.sampled_from(PEERS))
    def link(self, peer: PeerId) -> None:
        """A link is made, maybe again; or it cannot be."""
        self.reset(peer)
        if self.cluster.peers[peer].up:
            self.linked.add(peer)
            self.tell(PeerUp(peer=peer))
        else:
            self.linked.discard(peer)
            self.tell(PeerDown(peer=peer))

    @rule(peer=st.sampled_from(PEERS), dies=st.booleans())
    def lose(self, peer: PeerId, dies: bool) -> None:
        self.reset(peer)
        self.cluster.peers[peer].up = not dies
        self.linked.discard(peer)
        self.tell(PeerDown(peer=peer))

    def reset(self, peer: PeerId) -> None:
        """What was on its way over the old link is lost."""
        cluster = self.cluster
        cluster.to_peers = [entry for entry in cluster.to_peers if entry[0] != peer]
        cluster.to_clients = [entry for entry in cluster.to_clients if entry[0] != peer]

    # ---- peers

    @precondition(lambda self: self.linked)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A peer says that it goes; nothing new goes there until there is another link."""
        peer = data.draw(st.sampled_from(sorted(self.linked)))
        self.cluster.to_client(self.cluster.peers[peer], Goodbye())

    @rule(peer=st.sampled_from(PEERS))
    def revive(self, peer: PeerId) -> None:
        self.cluster.peers[peer].up = True

    @rule(peer=st.sampled_from(PEERS), full=st.booleans())
    def fill(self, peer: PeerId, full: bool) -> None:
        self.cluster.peers[peer].full = full

    @rule(data=st.data(), peer=st.sampled_from(PEERS), status=st.sampled_from([READY, ERROR]))
    def decide(self, data: st.DataObject, peer: PeerId, status: TaskStatus) -> None:
        here = self.cluster.peers[peer]
        if here.tasks and here.up:
            here.decide(data.draw(st.sampled_from(sorted(here.tasks))), status)

    @rule(peer=st.sampled_from(PEERS))
    def take_over(self, peer: PeerId) -> None:
        here = self.cluster.peers[peer]
        for task, record in here.tasks.items():
            if here.up and record.value is None and not self.cluster.peers[record.owner].up:
                here.take_over(task)

    # ---- time

    @rule(ms=st.integers(0, 6000), quick=st.booleans())
    def wait(self, ms: int, quick: bool) -> None:
        """quick: whatever is sent meanwhile arrives."""
        until_ms = self.now_ms + ms
        while (deadline_ms := self.core.deadline_ms()) is not None and deadline_ms <= until_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            self.tell(TimerFired())
            if quick:
                self.all_arrives()
        self.now_ms = until_ms

    @invariant()
    def all_is_well_inside(self) -> None:
        self.core.check_invariants()

    def teardown(self) -> None:
        """All comes back, and within a minute everything has its end."""
        for peer in PEERS:
            self.cluster.peers[peer].up = True
            self.cluster.peers[peer].full = False
            self.link(peer)
        self.healed = True
        for _ in range(60):
            self.wait(1000, quick=True)
            for record_at in self.cluster.peers.values():
                for task in list(record_at.tasks):
                    record_at.decide(task, READY)
            self.all_arrives()
            self.core.check_invariants()
        if not self.over:
            assert not self.pending, "never accepted nor refused"
            assert not self.open, "never ended"
            assert not self.asked, "never answered"
            assert self.parcels == {0: ()}, "columns that nobody lets go"


def test_random_lives() -> None:
    run_state_machine_as_test(ClientMachine, settings=settings(max_examples=120, stateful_step_count=60, deadline=None))
