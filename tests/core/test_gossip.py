"""What peers believe of each other's queues and executors: told on change, not too often, made good when it is lost."""

from typing import Any

import pytest

from scatterzmq.core.actions import Publish, Tell
from scatterzmq.core.gossip import Gossip
from scatterzmq.core.members import Members
from scatterzmq.core.outbox import Outbox
from scatterzmq.core.peermessages import AskQueues, Contact, Heartbeat, Hello, QueueState, QueueStates, Welcome
from scatterzmq.core.plans import Plans
from scatterzmq.core.queues import Queue, QueueKey
from scatterzmq.graph.check import check
from scatterzmq.ids import PeerId, TaskId
from scatterzmq.settings import Settings
from tests.core.conftest import chain, describe
from tests.core.mesh import Mesh

A, B, C = (PeerId(f"P{number:032x}") for number in (1, 2, 3))


def contact(peer: PeerId, incarnation: int = 1) -> Contact:
    return Contact(id=peer, incarnation=incarnation, address=f"mesh://{peer}")


class Counted:
    """The executors of a peer, as gossip sees them."""

    def __init__(self) -> None:
        self.idle = 0
        self.at_work: dict[QueueKey, int] = {}

    def idle_count(self) -> int:
        return self.idle

    def claimants(self, queue: Queue) -> int:
        return self.at_work.get(queue.key, 0)

    def loaded(self, queue: Queue) -> int:
        return 2 * self.at_work.get(queue.key, 0)


class Teller:
    """One peer's gossip with everything around it, and a clock."""

    def __init__(self, *others: PeerId, static: bool = False, nodes: int = 3) -> None:
        self.now_ms = 0
        self.out = Outbox()
        self.members = Members(contact(A), bytes(16), Settings(), self.out, static=static)
        self.plans = Plans(self.out)
        self.counts = Counted()
        self.gossip = Gossip(self.members, self.plans, self.out, self.counts, ask_ms=1000, static=static)
        self.plan = check({"graphs": [chain(nodes)], "entry": "main"}, describe).require()
        self.plans.keep(self.plan.digest)
        self.plans.add(self.plan)
        self.queues = list(self.plans.queues())
        self.tasks = 0
        self.members.awake(0)
        for other in others:
            self.greet(other)

    def greet(self, peer: PeerId, incarnation: int = 1) -> None:
        theirs = Members(contact(peer, incarnation), peer.to_bytes(), Settings(), Outbox())
        self.members.received(peer, incarnation, 0, theirs._greetings.hello(), self.now_ms)
        self.settle()

    def settle(self) -> None:
        """What a core does at the end of an event."""
        for change in self.members.take_changes():
            if change.status == "alive":
                self.gossip.alive(change.peer)
            else:
                self.gossip.gone(change.peer)
        self.gossip.flush(self.now_ms)
        self.gossip.check_invariants()

    def push(self, at: int = 0, count: int = 1, weight: float = 1.0) -> None:
        for _ in range(count):
            self.tasks += 1
            task = TaskId(f"T{self.tasks:032x}")
            self.queues[at].push(task, priority=1.0, weight=weight, nbytes=8, padded_length=0, solo=False, seq=1)

    def said(self) -> list[QueueStates]:
        """What it has published since the last call."""
        self.settle()
        actions = self.out.take()
        return [a.message for a in actions if isinstance(a, Publish) and isinstance(a.message, QueueStates)]

    def told(self) -> list[tuple[PeerId, Any]]:
        """What it has told single peers since the last call, but for greetings."""
        self.settle()
        messages = [(action.to, action.message) for action in self.out.take() if isinstance(action, Tell)]
        return [(to, message) for to, message in messages if not isinstance(message, Hello | Welcome)]

    def hear(self, peer: PeerId, message: Any) -> None:
        assert self.members.received(peer, 1, 1, message, self.now_ms)
        if isinstance(message, Heartbeat):
            self.gossip.heard(peer, message, self.now_ms)
        else:
            self.gossip.came(peer, message, self.now_ms)
        self.gossip.check_invariants()


def state(at: int = 0, length: int = 1, **extra: Any) -> QueueState:
    numbers = {"weight": 1.0, "pressure": 8.0, "expected_pressure": 0.5, "claimants": 1, "loaded": 2} | extra
    queue = QUEUES[at]
    return QueueState(digest=queue.key[0], queue=queue.key[1], length=length, **numbers)


def states(version: int, *changed: QueueState, full: bool = False, idle: int = 0) -> QueueStates:
    return QueueStates(version=version, full=full, idle=idle, states=changed)


QUEUES = Teller().queues
KEYS = [queue.key for queue in QUEUES]


# ---- telling


def test_a_change_is_told_at_once_then_five_times_a_second() -> None:
    teller = Teller(B)
    teller.said()
    teller.push(0, 2)
    teller.push(1)
    (message,) = teller.said()
    assert not message.full
    assert [(s.queue, s.length, s.weight, s.pressure) for s in message.states] == [
        (KEYS[0][1], 2, 2.0, 16.0),
        (KEYS[1][1], 1, 1.0, 8.0),
    ]
    teller.now_ms = 1
    teller.push(0)
    assert not teller.said()
    assert teller.gossip.deadline_ms() == 200
    teller.now_ms = 199
    teller.push(0)
    assert not teller.said()
    teller.now_ms = 200
    (second,) = teller.said()
    assert second.version == message.version + 1
    assert [s.length for s in second.states] == [4]
    assert teller.gossip.deadline_ms() is None
    teller.now_ms = 5000
    assert not teller.said()
    teller.push(2)
    assert len(teller.said()) == 1


def test_what_is_as_it_was_is_not_told() -> None:
    teller = Teller(B)
    teller.push()
    teller.said()
    teller.now_ms = 10
    teller.push()
    teller.said()
    teller.queues[0].remove(TaskId(f"T{teller.tasks:032x}"))
    assert teller.gossip.deadline_ms() == 200
    teller.now_ms = 300
    version = teller.gossip.version
    assert not teller.said()
    assert teller.gossip.version == version
    teller.now_ms = 301
    teller.push()
    assert len(teller.said()) == 1, "nothing was said, so nothing need wait"


@pytest.mark.parametrize("number", ["expected", "claimants", "idle", "taken"])
def test_every_number_counts(number: str) -> None:
    teller = Teller(B)
    teller.push(0, 2)
    teller.said()
    teller.now_ms = 1000
    match number:
        case "expected":
            teller.queues[0].expect(2.0, 16)
        case "claimants":
            teller.counts.at_work[KEYS[0]] = 1
            teller.plans.touched[KEYS[0]] = None
        case "idle":
            teller.counts.idle = 1
        case "taken":
            teller.queues[0].pop_batch(1, None)
    (message,) = teller.said()
    told = [(s.length, s.expected_pressure, s.claimants, s.loaded) for s in message.states]
    assert (message.idle, told) == {
        "expected": (0, [(2, 32.0, 0, 0)]),
        "claimants": (0, [(2, 0.0, 1, 2)]),
        "idle": (1, []),
        "taken": (0, [(1, 0.0, 0, 0)]),
    }[number]
    assert not teller.said()


def test_idle_executors_are_told_as_seldom() -> None:
    teller = Teller(B)
    teller.said()
    teller.counts.idle = 1
    assert [message.idle for message in teller.said()] == [1]
    teller.now_ms = 50
    teller.counts.idle = 0
    assert not teller.said()
    assert teller.gossip.deadline_ms() == 200
    teller.counts.idle = 1
    assert teller.gossip.deadline_ms() is None


def test_an_emptied_queue_is_told_once_and_forgotten() -> None:
    teller = Teller(B)
    teller.push(1)
    teller.said()
    teller.now_ms = 1000
    teller.queues[1].pop_batch(5, None)
    (message,) = teller.said()
    assert [(s.length, s.weight, s.pressure) for s in message.states] == [(0, 0.0, 0.0)]
    assert not teller.gossip._told
    teller.push(1)
    teller.now_ms = 2000
    teller.said()
    teller.plans.release(teller.plan.digest)
    teller.now_ms = 3000
    (message,) = teller.said()
    assert [(s.queue, s.length) for s in message.states] == [(KEYS[1][1], 0)], "its definition has gone"


def test_a_peer_alone_tells_nothing_and_keeps_nothing() -> None:
    teller = Teller()
    teller.push(0, 3)
    assert not teller.said()
    assert not teller.plans.touched
    assert teller.gossip.deadline_ms() is None
    assert teller.gossip.version == 0


def test_whoever_comes_is_told_everything() -> None:
    teller = Teller()
    teller.push(0, 3)
    teller.push(2)
    teller.counts.idle = 2
    teller.settle()
    teller.greet(B)
    ((to, message),) = teller.told()
    assert (to, message.full, message.idle, message.version) == (B, True, 2, 1)
    assert [(s.queue, s.length) for s in message.states] == [(KEYS[0][1], 3), (KEYS[2][1], 1)]
    teller.push(2)
    teller.greet(C)
    told = teller.told()
    assert [(to, message.version) for to, message in told] == [(C, 1)]
    assert [s.length for s in told[0][1].states] == [3, 1], "as of that version; what comes after it comes next"
    assert teller.gossip.version == 2


def test_whoever_was_alone_meanwhile_says_that_something_is_missing() -> None:
    """Others may still believe what this peer said before it lost them."""
    teller = Teller(B)
    teller.push()
    version = teller.said()[-1].version
    teller.members.link_down(B, 0, refused=True)
    teller.settle()
    teller.push()
    teller.settle()
    teller.greet(B)
    assert teller.gossip.version > version
    assert [s.length for s in teller.told()[-1][1].states] == [2]


def test_with_many_peers_each_speaks_less_often() -> None:
    teller = Teller(*[PeerId(f"P{number:032x}") for number in range(10, 60)])
    teller.said()
    teller.push()
    assert len(teller.said()) == 1
    teller.push()
    assert teller.gossip.deadline_ms() == 500
    for number in range(60, 130):
        teller.greet(PeerId(f"P{number:032x}"))
    teller.now_ms = 500
    assert len(teller.said()) == 1
    teller.push()
    assert teller.gossip.deadline_ms() == 1500


def test_peers_in_one_process_tell_at_once() -> None:
    teller = Teller(B, static=True)
    teller.said()
    for _ in range(3):
        teller.push()
        assert len(teller.said()) == 1
    assert teller.gossip.deadline_ms() is None


# ---- believing


def test_what_is_believed_can_be_asked() -> None:
    teller = Teller(B, C)
    gossip = teller.gossip
    assert (gossip.queues(), gossip.owners(KEYS[0]), gossip.idle_peers()) == ((), (), ())
    assert gossip.view(KEYS[0]) == (0, 0.0, 0.0, 0.0, 0, 0)
    teller.hear(C, states(1, state(0, 2), state(1, 0), idle=3))
    teller.hear(B, states(1, state(0, 5, weight=2.5, pressure=1.0, expected_pressure=2.0, claimants=3, loaded=4)))
    assert gossip.queues() == (KEYS[0],)
    assert gossip.owners(KEYS[0]) == ((B, 5), (C, 2))
    assert gossip.owners(KEYS[1]) == ()
    assert gossip.view(KEYS[0]) == (7, 3.5, 9.0, 2.5, 4, 6)
    assert gossip.view(KEYS[1]) == (0, 1.0, 8.0, 0.5, 1, 2)
    assert gossip.idle_peers() == ((C, 3),)
    teller.hear(C, states(2, state(0, 0, weight=0.0, pressure=0.0, expected_pressure=0.0, claimants=0, loaded=0)))
    assert gossip.owners(KEYS[0]) == ((B, 5),)
    assert gossip.view(KEYS[0]) == (5, 2.5, 1.0, 2.0, 3, 4)
    assert gossip.idle_peers() == ()
    assert (B in gossip._by_key[KEYS[0]], C in gossip._by_key[KEYS[0]]) == (True, False)
    teller.hear(B, states(2, state(0, 7)))
    assert gossip.owners(KEYS[0]) == ((B, 7),)
    teller.hear(B, states(3, state(0, 0, weight=0.0, pressure=0.0, expected_pressure=0.0, claimants=0, loaded=0)))
    assert KEYS[0] not in gossip._by_key


def test_what_is_old_or_doubled_changes_nothing() -> None:
    teller = Teller(B)
    teller.hear(B, states(1, state(0, 1)))
    teller.hear(B, states(2, state(0, 2)))
    for old in (states(1, state(0, 1)), states(2, state(0, 9)), states(1, state(0, 9), full=True)):
        teller.hear(B, old)
        assert teller.gossip.owners(KEYS[0]) == ((B, 2),)
    assert not [message for _, message in teller.told() if isinstance(message, AskQueues)]


@pytest.mark.parametrize("how", ["states", "heartbeat"])
def test_a_gap_is_asked_for_until_it_is_filled(how: str) -> None:
    teller = Teller(B)
    teller.hear(B, states(1, state(0, 1), state(1, 1)))
    teller.told()
    if how == "states":
        teller.hear(B, states(3, state(0, 3)))
        assert teller.gossip.owners(KEYS[0]) == ((B, 3),), "what came is believed"
    else:
        teller.hear(B, Heartbeat(seq=1, idle=4, queues=3))
        assert teller.gossip.idle_peers() == ((B, 4),)
    assert teller.told() == [(B, AskQueues())]
    assert teller.gossip.deadline_ms() == 1000
    teller.now_ms = 500
    teller.hear(B, Heartbeat(seq=2, idle=0, queues=3))
    teller.gossip.expire(500)
    assert not teller.told(), "once a second"
    teller.now_ms = 1000
    teller.gossip.expire(1000)
    assert teller.told() == [(B, AskQueues())]
    assert teller.gossip.deadline_ms() == 2000
    teller.hear(B, states(3, state(0, 3), state(2, 7), full=True, idle=1))
    assert teller.gossip.deadline_ms() is None
    assert teller.gossip.queues() == (KEYS[0], KEYS[2]), "what is not in it is empty"
    assert teller.gossip.idle_peers() == ((B, 1),)
    teller.hear(B, Heartbeat(seq=3, idle=1, queues=3))
    teller.hear(B, states(4, state(1, 1)))
    assert not teller.told()


def test_a_full_answer_that_is_older_than_what_came_does_not_fill_a_gap() -> None:
    teller = Teller(B)
    teller.hear(B, states(1))
    teller.hear(B, states(4, state(0, 4)))
    teller.hear(B, states(3, state(0, 3), full=True))
    assert teller.gossip.owners(KEYS[0]) == ((B, 4),)
    assert teller.gossip.deadline_ms() == 1000


def test_whom_one_does_not_trust_one_does_not_believe() -> None:
    teller = Teller(B, C)
    teller.hear(B, states(1, state(0, 1), idle=1))
    teller.hear(B, states(3, state(0, 1), idle=1))
    teller.hear(C, states(1, state(0, 2)))
    teller.members.received(B, 1, 0, Heartbeat(seq=1, idle=0, missing=(A,)), 0)
    teller.settle()
    assert teller.gossip.owners(KEYS[0]) == ((C, 2),)
    assert teller.gossip.idle_peers() == ()
    assert teller.gossip.deadline_ms() is None
    teller.hear(B, states(4, state(0, 1), idle=1))
    teller.hear(B, Heartbeat(seq=2, idle=1, queues=4, missing=(A,)))
    assert teller.gossip.owners(KEYS[0]) == ((C, 2),)
    teller.gossip.gone(B)
    teller.told()
    teller.members.received(B, 1, 0, Heartbeat(seq=3, idle=1, queues=4), 0)
    teller.settle()
    teller.gossip.heard(B, Heartbeat(seq=3, idle=1, queues=4), 0)
    assert [type(message) for _, message in teller.told()] == [QueueStates, AskQueues]


def test_peers_in_one_process_ask_but_once() -> None:
    teller = Teller(B, static=True)
    teller.told()
    teller.hear(B, states(7, state(0, 3)))
    assert teller.told() == [(B, AskQueues())]
    assert teller.gossip.deadline_ms() is None
    teller.now_ms = 99_999
    teller.gossip.expire(99_999)
    assert not teller.told()


def test_how_fast_the_executors_of_others_are() -> None:
    teller = Teller(B, C)
    assert (teller.gossip.waiting(KEYS[0]), teller.gossip.rate(KEYS[0])) == (0, 0.0)
    teller.hear(B, states(1, state(0, 5, loaded=2, task_us=1000), state(1, 3, task_us=0)))
    assert (teller.gossip.waiting(KEYS[0]), teller.gossip.rate(KEYS[0])) == (5, 2000.0)
    teller.hear(C, states(1, state(0, 2, loaded=0, task_us=500)))  # it has not said yet that it is loaded
    assert (teller.gossip.waiting(KEYS[0]), teller.gossip.rate(KEYS[0])) == (7, 4000.0)
    assert (teller.gossip.waiting(KEYS[1]), teller.gossip.rate(KEYS[1])) == (3, 0.0)
    teller.hear(B, states(2, state(0, 5, loaded=1, task_us=1000)))
    assert teller.gossip.rate(KEYS[0]) == 3000.0
    teller.members.link_down(B, 0, refused=True)
    teller.settle()
    assert (teller.gossip.waiting(KEYS[0]), teller.gossip.rate(KEYS[0])) == (2, 2000.0)


def test_a_pace_is_told_when_it_has_changed() -> None:
    teller = Teller(B)
    teller.said()
    teller.queues[0].pace.note(4, 40)
    teller.plans.touched[KEYS[0]] = None
    (message,) = teller.said()
    assert [(s.queue, s.length, s.task_us) for s in message.states] == [(KEYS[0][1], 0, 10_000)]
    teller.now_ms = 1000
    teller.queues[0].pace.note(4, 44)
    teller.plans.touched[KEYS[0]] = None
    assert not teller.said()


# ---- among peers


def beliefs(mesh: Mesh, at: int) -> dict[QueueKey, tuple[Any, ...]]:
    gossip = mesh.peers[at].core._gossip
    return {key: (gossip.owners(key), gossip.view(key), gossip.rate(key)) for key in gossip._by_key}


def truth(mesh: Mesh, at: int) -> dict[QueueKey, tuple[Any, ...]]:
    """What is to be believed of the queues of one other peer."""
    core, me = mesh.peers[at].core, mesh.peers[at].me
    found = {}
    for queue in core._state.plans.queues():
        view = (
            queue.length,
            queue.weight,
            queue.pressure,
            queue.expected_pressure,
            core._claims.claimants(queue),
            core._claims.loaded(queue),
        )
        rate = max(core._claims.loaded(queue), 1) * 1e6 / queue.pace.task_us if queue.pace.task_us else 0.0
        if any(view) or rate:
            found[queue.key] = (((me, queue.length),) if queue.length else (), view, rate)
    return found


@pytest.mark.parametrize("static", [True, False])
def test_peers_know_each_others_queues(static: bool) -> None:
    """After every batch all beliefs are true, at once in one process and soon between machines."""
    mesh = Mesh(2, executors=(1, 0), gossiping=True, static=static, executor={"batch_size": 2}, cluster={"replicas": 1})
    mesh.load(chain(3))
    mesh.submit(0, *range(9))
    mesh.deliver()
    steps = 0
    while mesh.peers[0].running:
        mesh.step(0)
        mesh.deliver()
        if not static:
            mesh.wait(300)
        assert beliefs(mesh, 1) == truth(mesh, 0)
        steps += 1
    assert steps >= 15
    assert beliefs(mesh, 1) == truth(mesh, 0)
    assert mesh.peers[1].core._gossip.idle_peers() == ((mesh.peers[0].me, 1),)
    assert mesh.peers[1].core._gossip.queues() == ()


def test_losses_are_made_good_within_a_heartbeat() -> None:
    mesh = Mesh(3, executors=0, static=False, cluster={"replicas": 1}, gossiping=True)
    mesh.load(chain(2))
    mesh.wait(2000)
    mesh.drop(QueueStates)
    mesh.submit(0, 1, 2, 3)
    mesh.wait(50)
    mesh.heal()
    assert not beliefs(mesh, 1)
    mesh.wait(1100)
    assert beliefs(mesh, 1) == beliefs(mesh, 2) == truth(mesh, 0) != {}
    assert len(mesh.said(AskQueues)) == 2


def test_a_dead_peer_has_no_queues() -> None:
    mesh = Mesh(3, executors=0, static=False, cluster={"replicas": 1}, gossiping=True)
    mesh.load(chain(2))
    mesh.submit(0, 1, 2, 3)
    mesh.wait(10)
    assert beliefs(mesh, 1) == truth(mesh, 0) != {}
    mesh.kill(0)
    assert not beliefs(mesh, 1)


def test_quiet_peers_only_send_heartbeats() -> None:
    mesh = Mesh(3, static=False, gossiping=True)
    mesh.load(chain(2))
    mesh.submit(0, 1, 2)
    mesh.run()
    mesh.wait(10_000)
    mesh.log.clear()
    mesh.wait(9000)
    kinds = {type(packet.message) for packet in mesh.log}
    assert Heartbeat in kinds
    assert QueueStates not in kinds
    assert AskQueues not in kinds
    beats = [packet for packet in mesh.log if isinstance(packet.message, Heartbeat)]
    assert len(beats) == 9 * 3 * 2
