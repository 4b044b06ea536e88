"""A mesh: several peers' cores joined by in-memory links through the real codec, deterministic, checked after every
event.

    mesh = Mesh(3, executors=1, executor={"batch_size": 4})   # keyword arguments: sections of settings
    mesh.load(chain(3))                                       # a definition, at all peers (on=... for some)
    tasks = mesh.submit(0, 1, 2, 3)                           # as the client ALICE of peer 0
    mesh.run()                                                # batches and messages until nothing runs or is under way
    assert mesh.results(0, tasks) == [4, 5, 6]

`mesh.peers[i]` is a World (tests/core/conftest.py) with links: its core, stored, running, sent, step(), clear() ...
Messages lie in `mesh.links` until `deliver()`; `mesh.on_send` and drop / duplicate / hold decide what becomes of them,
`mesh.log` has them all. Executor ids are the same at every peer: whoever takes one for unique finds out.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scatterzmq.core.actions import Action, BatchOrder, CloseLink, Dial, Left, OpenLink, Persist, Publish, Tell
from scatterzmq.core.events import (
    BatchFinished,
    Event,
    ExecutorStarted,
    LeaveRequested,
    LinkDown,
    PeerReceived,
    PeerSeen,
    Persisted,
    PersistFailed,
    TimerFired,
)
from scatterzmq.core.members import Status
from scatterzmq.core.messages import LoadGraph
from scatterzmq.core.payloadmessages import Fetched
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.peermessages import KEPT_BESIDE, AskQueues, BetweenPeers, Commit, Contact, QueueState, QueueStates
from scatterzmq.core.queues import QueueKey
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.core.values import Block, Value
from scatterzmq.graph.check import check
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import BlockId, ExecutorId, PeerId, TaskId
from scatterzmq.settings import Settings
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import Envelope, Frame, decode, encode, open_envelope
from scatterzmq.wire.refusal import Limits
from tests.core.conftest import ALICE, Outcome, World, checksum_of, describe
from tests.core.disks import Disk

LIMITS = Limits()
BATCHES_MAX = 10_000
MESSAGES_MAX = 100_000


@dataclass(frozen=True)
class Packet:
    """One message under way. `message` is for looking at; what arrives is decoded from `frames`."""

    src: int
    dst: int
    message: BetweenPeers
    frames: tuple[Frame, ...]


Rule = Callable[[Packet], bool]


@dataclass
class Beliefs:
    """What one peer believes of the others (core/hints.py). lengths: queue -> owner -> tasks; idle: peer -> executors.

    numbers: queue -> what `view` says besides the length. rates: queue -> tasks per second.
    lacking: peers that cannot run a queue's tasks.
    """

    lengths: dict[QueueKey, dict[PeerId, int]] = field(default_factory=dict)
    idle: dict[PeerId, int] = field(default_factory=dict)
    numbers: dict[QueueKey, tuple[float, float, float, int, int]] = field(default_factory=dict)
    rates: dict[QueueKey, float] = field(default_factory=dict)
    lacking: set[tuple[PeerId, QueueKey]] = field(default_factory=set)

    def queues(self) -> tuple[QueueKey, ...]:
        return tuple(self.lengths)

    def owners(self, key: QueueKey) -> tuple[tuple[PeerId, int], ...]:
        return tuple(self.lengths.get(key, {}).items())

    def view(self, key: QueueKey) -> tuple[int, float, float, float, int, int]:
        return (self.waiting(key), *self.numbers.get(key, (0.0, 0.0, 0.0, 0, 0)))

    def waiting(self, key: QueueKey) -> int:
        return sum(self.lengths.get(key, {}).values())

    def rate(self, key: QueueKey) -> float:
        return self.rates.get(key, 0.0)

    def idle_peers(self) -> tuple[tuple[PeerId, int], ...]:
        return tuple(self.idle.items())

    def can_run(self, peer: PeerId, key: QueueKey) -> bool:
        return (peer, key) not in self.lacking


@dataclass
class Peer(World):
    """One peer of a mesh.

    links: whom it reaches (OpenLink without CloseLink). told: what it sent to peers, with columns, before the wire.
    """

    number: int = 0
    incarnation: int = 1
    static: bool = True
    mesh: "Mesh" = field(default=None, repr=False)  # type: ignore[assignment]
    links: dict[PeerId, str] = field(default_factory=dict)
    told: list[Tell] = field(default_factory=list)
    dead: bool = False
    left: Left | None = None
    beliefs: Beliefs = field(default_factory=Beliefs)
    disk: Disk = field(default_factory=Disk)

    def __post_init__(self) -> None:
        self.core = PeerCore(
            self.contact,
            self.settings,
            node_strategy=SimpleNodeStrategy(),
            queue_strategy=SimpleQueueStrategy(),
            nonce=self.number.to_bytes(8, "big") + self.incarnation.to_bytes(8, "big"),
            static=self.static,
        )
        if not self.mesh.gossiping:
            self.core._state.gossip = self.beliefs

    @property
    def has_left(self) -> bool:
        return self.left is not None

    @property
    def contact(self) -> Contact:
        return Contact(id=self.me, incarnation=self.incarnation, address=f"mesh://{self.number}")

    def tell(self, event: Event) -> tuple[Action, ...]:
        self.now_ms = self.mesh.now_ms
        return super().tell(event)

    def believe(self, owner: "Peer", key: QueueKey, length: int) -> None:
        """From now on this is believed of a queue of another peer."""
        owners = self.beliefs.lengths.setdefault(key, {})
        if owners.get(owner.me, 0) != length:
            owners[owner.me] = length
            state = QueueState(
                digest=key[0],
                queue=key[1],
                length=length,
                weight=0.0,
                pressure=0.0,
                expected_pressure=0.0,
                claimants=0,
                loaded=0,
            )
            self.core._asking.told(owner.me, QueueStates(version=1, full=False, idle=0, states=(state,)))
        if not length:
            owners.pop(owner.me, None)
        if not owners:
            del self.beliefs.lengths[key]

    def perform(self, action: Action) -> None:
        match action:
            case Tell(to=to, incarnation=incarnation, message=message, values=values):
                self.told.append(action)
                columns = self.columns(values)
                if columns is not None:
                    self.mesh.send(self, to, incarnation, message, columns)
            case Publish(message=message):
                for peer in self.links:
                    self.mesh.send(self, peer, 0, message, {})
            case Dial(address=address, message=message):
                for other in self.mesh.peers:
                    if other.contact.address == address:
                        self.mesh.send(self, other.me, 0, message, {})
            case OpenLink(contact=contact):
                self.links[contact.id] = contact.address
            case CloseLink(peer=peer):
                self.links.pop(peer, None)
            case Left():
                self.left = action
            case Persist():
                if self.disk.holding:
                    self.disk.held.append(action)
                else:
                    self.persist(action)
            case _:
                super().perform(action)

    def boot(self) -> None:
        """With a journal, what it has comes first."""
        if self.settings.journal.mode != "off":
            self.tell(self.disk.restored(self._store_again))

    def _store_again(self, like: Block, number: int) -> Block:
        block = self.put([number], kept=True)
        return block if like.digests else replace(block, digests=())

    def persist(self, action: Persist) -> None:
        if self.disk.full:
            self.tell(PersistFailed(write=action.write, reason="no space left on device"))
            return
        self.disk.write(action, self.read)
        self.tell(Persisted(write=action.write))

    def write_all(self) -> None:
        """The disk gets on with what was held back, and is as quick as ever from now on."""
        self.disk.holding = False
        while self.disk.held:
            self.persist(self.disk.held.popleft())

    def columns(self, values: Mapping[str, tuple[Value, ...]]) -> dict[str, Column] | None:
        """What a driver collects from its store for a message; None if a row of it has been evicted."""
        if any(value[0].id not in self.stored for rows in values.values() for value in rows):
            return None
        return {name: _column(rows[0][0].layout, [self.read(value) for value in rows]) for name, rows in values.items()}

    def receive(self, packet: Packet) -> None:
        envelope = open_envelope(packet.frames, LIMITS)
        assert isinstance(envelope.src, PeerId)
        message, columns = decode(packet.frames, LIMITS)
        kept = isinstance(message, KEPT_BESIDE)
        blocks = {name: self.store(message, name, column, kept=kept) for name, column in columns.items()}
        self.tell(
            PeerReceived(
                sender=envelope.src,
                incarnation=envelope.src_incarnation,
                to_incarnation=envelope.dst_incarnation,
                message=message,  # type: ignore[arg-type]
                blocks=blocks,
            )
        )

    def store(self, message: Any, name: str, column: Column, *, kept: bool) -> Block:
        """As a driver does: content digests come with the message."""
        digests = _part_digests(message) if isinstance(message, Commit) else getattr(message, "digests", {})
        self.counter += 1
        numbers = _numbers(column)
        checksum = checksum_of(numbers) if isinstance(message, Fetched) else b""
        layout = column.layout
        block = Block(BlockId(self.me, self.counter), layout, len(column.data), tuple(digests.get(name, ())), checksum)
        self.stored[block.id] = numbers
        if kept:
            self.kept.add(block.id)
        return block

    @property
    def status_of(self) -> dict[int, Status | None]:
        """What it thinks of the others, by number."""
        members = self.core._state.members
        return {other.number: members.status(other.me) for other in self.mesh.peers if other is not self}


class Mesh:
    """n peers that know each other. executors: per peer, or one number for each.

    gossiping: peers tell each other of their queues as they do in reality; else they believe nothing of each other but
    what `gossip` (or a test, in `Peer.beliefs`) lets them believe, so that only those claim who shall.
    """

    def __init__(
        self,
        n: int,
        *,
        executors: int | Sequence[int] = 1,
        static: bool = True,
        gossiping: bool = False,
        **sections: Mapping[str, object],
    ) -> None:
        self.gossiping = gossiping
        self.now_ms = 0
        self.settings = Settings.of(sections)
        self.links: deque[Packet] = deque()
        self.held: list[Packet] = []
        self.log: list[Packet] = []
        self.dropped = 0
        self.on_send: Callable[[Packet], Iterable[Packet]] = self._by_rules
        self._rules: list[tuple[str, Rule]] = []
        self._tasks = 0
        self.peers: list[Peer] = []
        for number in range(n):
            self.peers.append(
                Peer(self.settings, me=PeerId(f"P{number + 1:032x}"), number=number, static=static, mesh=self)
            )
        for peer in self.peers:
            peer.boot()
            self.greet(peer)
        self.deliver()
        counts = [executors] * n if isinstance(executors, int) else executors
        for peer, count in zip(self.peers, counts, strict=True):
            peer.start(count)
        self.deliver()

    def greet(self, peer: Peer) -> None:
        """Show a peer the addresses of all the others."""
        for other in self.peers:
            if other is not peer:
                peer.tell(PeerSeen(address=other.contact.address))

    # ---- hints

    def gossip(self) -> None:
        """Everybody believes what is true now of everybody else's queues and executors (and looks for work)."""
        alive = [peer for peer in self.peers if not peer.dead]
        for peer in alive:
            peer.beliefs.idle = {}
            for other in alive:
                if other is not peer:
                    lengths = {queue.key: queue.length for queue in other.core._state.plans.waiting.values()}
                    for key in dict.fromkeys((*peer.beliefs.lengths, *lengths)):
                        peer.believe(other, key, lengths.get(key, 0))
                    if idle := other.core._asking.idle_count():
                        peer.beliefs.idle[other.me] = idle
        for peer in alive:
            peer.tell(TimerFired())

    # ---- work

    def load(self, *graphs: dict[str, Any], on: Iterable[int] | None = None, **extra: Any) -> Plan:
        """A definition (the first graph is its entry) at some peers, else at all."""
        text = check({"graphs": list(graphs), "entry": graphs[0]["name"]} | extra, describe).require().definition
        plan = check(text, describe).require()
        for peer in self.peers:
            peer.plans[plan.ns] = plan
        for number in range(len(self.peers)) if on is None else on:
            peer = self.peers[number]
            if not peer.dead:
                peer.say(LoadGraph(mid=peer.mid(), definition=text, replace=True))
        self.deliver()
        return plan

    def submit(self, to: int, *values: int, **how: Any) -> tuple[TaskId, ...]:
        """Tasks of ALICE at a peer, not delivered further yet. how: as for World.submit."""
        ids = tuple(TaskId(f"T{self._tasks + at:032x}") for at in range(len(values)))
        self._tasks += len(values)
        return self.peers[to].submit(*values, ids=ids, **how)

    def step(
        self,
        number: int,
        executor: ExecutorId | None = None,
        *,
        act: Callable[[BatchOrder], BatchFinished] | None = None,
    ) -> BatchOrder:
        """Run one batch of a peer; its messages are not delivered yet."""
        return self.peers[number].step(executor, act=act)

    def run(self, *, gossip: bool = False) -> int:
        """Deliver and execute until nothing runs, rests, or is under way. Returns how many batches there were.

        gossip: everybody is told how it stands after each round.
        """
        batches = 0
        self.deliver()
        while (busy := [peer for peer in self.peers if peer.running and not peer.dead]) or self.rest():
            for peer in busy:
                if peer.running:
                    peer.step()
                    batches += 1
                self.deliver()
            if gossip:
                self.gossip()
                self.deliver()
            assert batches <= BATCHES_MAX, "it does not end"
        return batches

    def outcome(self, at: int, task: TaskId) -> Outcome | None:
        """How a task ended for ALICE at a peer; None if it was not told yet."""
        return self.peers[at].outcome(task, ALICE)

    def results(self, at: int, tasks: Iterable[TaskId]) -> list[int | None]:
        return self.peers[at].results(tuple(tasks))

    # ---- messages

    def send(
        self, src: Peer, to: PeerId, incarnation: int, message: BetweenPeers, columns: Mapping[str, Column]
    ) -> None:
        if isinstance(message, QueueStates | AskQueues) and not self.gossiping:
            return
        envelope = Envelope(
            src=src.me, src_incarnation=src.incarnation, dst=to, dst_incarnation=incarnation, seq=len(self.log)
        )
        dst = self._at(src, to)
        # A copy, because the store may free its rows before they are delivered.
        frames = tuple(bytes(frame) for frame in encode(message, columns, envelope))
        packet = Packet(src.number, dst, message, frames)
        self.log.append(packet)
        self.links.extend(self.on_send(packet))

    def speak(self, src: int, dst: int, message: BetweenPeers, **columns: Sequence[int]) -> None:
        """Say something in a peer's name (as broken or hostile software would), and deliver it."""
        receiver = self.peers[dst]
        made = {name: number_column(numbers) for name, numbers in columns.items()}
        self.send(self.peers[src], receiver.me, receiver.incarnation, message, made)
        self.deliver()

    def speak_past_the_wire(self, src: int, dst: int, message: BetweenPeers, **columns: Column) -> None:
        """The same for what the wire refuses already: the core has to bear it all the same."""
        sender, receiver = self.peers[src], self.peers[dst]
        blocks = {name: receiver.store(message, name, column, kept=False) for name, column in columns.items()}
        receiver.tell(
            PeerReceived(
                sender=sender.me,
                incarnation=sender.incarnation,
                to_incarnation=receiver.incarnation,
                message=message,
                blocks=blocks,
            )
        )
        self.deliver()

    def _at(self, src: Peer, to: PeerId) -> int:
        """Where a message for a peer comes out: a link leads to an address, whoever lives there by now."""
        address = src.links.get(to)
        for peer in self.peers:
            if peer.me == to if address is None else peer.contact.address == address:
                return peer.number
        raise AssertionError(f"{to} is no peer of this mesh")

    def deliver(self, most: int = MESSAGES_MAX) -> int:
        """Hand messages over, in order, until none is under way (or `most` have been). Returns how many."""
        count = 0
        while self.links and count < most:
            packet = self.links.popleft()
            if not self.peers[packet.dst].dead:
                self.peers[packet.dst].receive(packet)
            count += 1
        assert not self.links or count < MESSAGES_MAX, "it does not end"
        return count

    def drop(self, *kinds: type[Any], src: int | None = None, dst: int | None = None) -> None:
        """From now on such messages get lost (no kinds: all); until `heal`."""
        self._rules.append(("drop", _matching(kinds, src, dst)))

    def duplicate(self, *kinds: type[Any], src: int | None = None, dst: int | None = None) -> None:
        """From now on such messages arrive twice; until `heal`."""
        self._rules.append(("duplicate", _matching(kinds, src, dst)))

    def hold(self, *kinds: type[Any], src: int | None = None, dst: int | None = None) -> None:
        """From now on such messages wait in `held`; until `heal`, which lets them go."""
        self._rules.append(("hold", _matching(kinds, src, dst)))

    def heal(self) -> None:
        """No more trouble; what was held back is under way again, in order."""
        self._rules = []
        self.links.extend(self.held)
        self.held = []

    def _by_rules(self, packet: Packet) -> list[Packet]:
        copies = [packet]
        for what, matches in self._rules:
            if matches(packet):
                match what:
                    case "drop":
                        self.dropped += 1
                        return []
                    case "hold":
                        self.held.append(packet)
                        return []
                    case "duplicate":
                        copies.append(packet)
        return copies

    def said(self, kind: type[Any], src: int | None = None, dst: int | None = None) -> list[Any]:
        """All messages of a kind so far, lost ones too."""
        matches = _matching((kind,), src, dst)
        return [packet.message for packet in self.log if matches(packet)]

    # ---- time and trouble

    def wait(self, ms: int) -> None:
        """Let time pass for everybody, with every timer and every message on the way. Batches do not get on."""
        until = self.now_ms + ms
        self.deliver()
        while True:
            times = {peer.number: peer.core.deadline_ms() for peer in self.peers if not peer.dead}
            due = {number: time for number, time in times.items() if time is not None and time <= until}
            if not due:
                break
            number = min(due, key=lambda number: (due[number], number))
            self.now_ms = max(self.now_ms, due[number])
            peer = self.peers[number]
            peer.tell(TimerFired())
            assert peer.core.deadline_ms() != due[number], f"peer {number}: a timer that changes nothing"
            self.deliver()
        self.now_ms = until

    def rest(self) -> bool:
        """Let time pass until the next task that rests is tried again. False: none rests."""
        times = [peer.core._travel.resting.deadline_ms() for peer in self.peers if not peer.dead]
        deadline_ms = min([time for time in times if time is not None], default=None)
        if deadline_ms is not None:
            self.wait(deadline_ms - self.now_ms)
        return deadline_ms is not None

    def kill(self, number: int) -> None:
        """A peer vanishes with all it knew; the others find that nobody listens at its address any more."""
        peer = self.peers[number]
        peer.dead = True
        peer.running.clear()
        self.links = deque(packet for packet in self.links if packet.dst != number)
        for other in self.peers:
            if not other.dead and peer.me in other.links:
                other.tell(LinkDown(peer=peer.me, refused=True))

    def restart(self, number: int, executors: int = 1) -> Peer:
        """The process of a killed peer is started anew at the same address: it knows nothing, and has another id."""
        before = self.peers[number]
        assert before.dead
        lives = before.incarnation + 1
        me = PeerId(f"P{lives << 32 | number + 1:032x}")
        peer = Peer(self.settings, me=me, number=number, incarnation=lives, static=before.static, mesh=self)
        peer.plans = dict(before.plans)
        self.peers[number] = peer
        self.greet(peer)
        self.deliver()
        for at in range(executors):
            peer.tell(ExecutorStarted(executor=ExecutorId(f"E{at:032x}")))
        self.deliver()
        return peer

    def crash(self, *numbers: int) -> None:
        """Peers vanish at the same moment, and nobody notices at once. What they had not synced is lost."""
        for number in numbers:
            peer = self.peers[number]
            peer.dead = True
            peer.running.clear()
            peer.disk.lose_tail()
            peer.disk.held.clear()
            self.links = deque(packet for packet in self.links if number not in (packet.src, packet.dst))

    def reboot(self, number: int, executors: int = 1) -> Peer:
        """A dead peer starts again, with its disk, so as the same."""
        before = self.peers[number]
        assert before.dead
        peer = Peer(
            self.settings,
            me=before.me,
            number=number,
            incarnation=before.disk.incarnation(),
            static=before.static,
            mesh=self,
            disk=replace(before.disk, writes=0, held=deque(), holding=False),
        )
        peer.plans = dict(before.plans)
        self.peers[number] = peer
        peer.boot()
        self.wait(1)  # it dials whom it knew
        for at in range(executors):
            peer.tell(ExecutorStarted(executor=ExecutorId(f"E{at:032x}")))
        self.deliver()
        return peer

    def leave(self, number: int) -> None:
        """A peer is asked to hand over and go."""
        self.peers[number].tell(LeaveRequested())

    def check_idle(self) -> None:
        """Nothing is stored anywhere that its core does not use."""
        for peer in self.peers:
            if not peer.dead:
                assert peer.stored.keys() == peer.core._state.blocks.uses().keys(), f"peer {peer.number}"


def _matching(kinds: Sequence[type[Any]], src: int | None, dst: int | None) -> Rule:
    def matches(packet: Packet) -> bool:
        return (
            (not kinds or isinstance(packet.message, tuple(kinds)))
            and src in (None, packet.src)
            and dst in (None, packet.dst)
        )

    return matches


def _part_digests(message: Commit) -> dict[str, tuple[bytes, ...]]:
    return {
        f"{place}:{name}": digests for place, part in enumerate(message.parts) for name, digests in part.digests.items()
    }


def number_column(numbers: Sequence[int], *, shape: tuple[int, ...] = (), dtype: str = "int64") -> Column:
    """Whole numbers as a column of int64: one number per row, of a shape that holds one."""
    layout = Layout(DTYPES[dtype], len(numbers), shape)
    return Column(layout, memoryview(bytearray(struct.pack(f"<{len(numbers)}q", *numbers))))


def _column(like: Layout, numbers: Sequence[int]) -> Column:
    column = number_column(numbers)
    if like.shape is None:
        return replace(column, layout=replace(column.layout, shape=None, shapes=((1,),) * len(numbers)))
    return column


def _numbers(column: Column) -> list[int]:
    return list(struct.unpack(f"<{column.layout.rows}q", column.data))
