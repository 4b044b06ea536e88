"""Gossip: what peers tell each other about their queues and idle executors, and what they believe of it.

Purpose   Strategies and claims see the queues of all peers, and nobody asks around for them.
Rules     1. Only what has changed is published, at once the first time, then a few times per second at most; every
             publication has the next version.
          2. Whoever finds a version missing asks the owner, who answers with everything as of his last publication.
          3. Of a member that is not ALIVE nothing is believed.
          4. All of this is hints: nothing is wrong, only slower, when they are.
Why       A publication may get lost without anybody noticing. Heartbeats name the version, so a loss is found within
          a second, and made good by one message.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from ..ids import PeerId
from .members import Members
from .outbox import Outbox
from .peermessages import AskQueues, Heartbeat, QueueState, QueueStates
from .plans import Plans
from .queues import Queue, QueueKey
from .shares import US_PER_S

PUBLISH_MS, PUBLISH_PER_PEER_MS, PUBLISH_MAX_MS = 200, 10, 1000
"""Between publications. What a peer sends grows with the number of peers, so with more than 20 it speaks less often."""


class Counts(Protocol):
    """The executors of this peer."""

    def idle_count(self) -> int: ...

    def claimants(self, queue: Queue) -> int: ...

    def loaded(self, queue: Queue) -> int: ...


@dataclass(slots=True, eq=False)
class _Owner:
    """What is believed of one member."""

    version: int = 0
    idle: int = 0
    usable: bool = False
    states: dict[QueueKey, QueueState] = field(default_factory=dict)


class Gossip:
    """Both sides of it. counts: this peer's executors. static: what is published arrives, and costs nothing."""

    def __init__(
        self, members: Members, plans: Plans, out: Outbox, counts: Counts, *, ask_ms: int, static: bool
    ) -> None:
        self._members = members
        self._plans = plans
        self._out = out
        self._counts = counts
        self._ask_ms = ask_ms
        self._static = static
        self.version = 0
        self._told: dict[QueueKey, QueueState] = {}
        self._told_idle = 0
        self._is_blind = True
        self._next_ms = 0
        self._owners: dict[PeerId, _Owner] = {}
        self._ask_again_ms: dict[PeerId, int] = {}
        self._by_key: dict[QueueKey, dict[PeerId, QueueState]] = {}
        self._lengths: dict[QueueKey, int] = {}
        self._rates: dict[QueueKey, float] = {}

    # ---- what others are told

    def flush(self, now_ms: int) -> None:
        """Publish what has changed, unless that was done just now. At the end of every event."""
        touched = self._plans.touched
        if not self._members.linked_count:
            touched.clear()
            self._is_blind = True  # nobody has been told of what happens now
            return
        self._look()
        idle = self._counts.idle_count()
        if not (touched or idle != self._told_idle) or now_ms < self._next_ms:
            return
        changed = [state for key in touched if (state := self._state(key)) != self._told.get(key, _nothing(key))]
        touched.clear()
        if not changed and idle == self._told_idle:
            return
        for state in changed:
            self._note(state)
        self._told_idle = idle
        self.version += 1
        self._out.publish(QueueStates(version=self.version, full=False, idle=idle, states=tuple(changed)))
        self._next_ms = now_ms + self._interval_ms()

    def tell_all(self, peer: PeerId) -> None:
        """Everything, as it was last published."""
        self._look()
        states = tuple(self._told.values())
        self._members.tell(peer, QueueStates(version=self.version, full=True, idle=self._told_idle, states=states))

    def _look(self) -> None:
        """Whoever becomes a member now starts with everything as it is now."""
        if self._is_blind:
            self._is_blind = False
            self._told = {}
            for queue in self._plans.queues():
                self._note(self._state(queue.key))
            self._plans.touched.clear()
            self._told_idle = self._counts.idle_count()
            self.version += 1  # members that this peer has lost, but not they it, are told that something is missing

    def _note(self, state: QueueState) -> None:
        key = (state.digest, state.queue)
        if state == _nothing(key):
            self._told.pop(key, None)
        else:
            self._told[key] = state

    def _state(self, key: QueueKey) -> QueueState:
        queue = self._plans.find(key)
        if queue is None:
            return _nothing(key)
        return QueueState(
            digest=key[0],
            queue=key[1],
            length=queue.length,
            weight=queue.weight,
            pressure=queue.pressure,
            expected_pressure=queue.expected_pressure,
            claimants=self._counts.claimants(queue),
            loaded=self._counts.loaded(queue),
            task_us=queue.pace.task_us,
            lacking=not queue.runs,
        )

    def _interval_ms(self) -> int:
        if self._static:
            return 0
        return min(max(PUBLISH_MS, PUBLISH_PER_PEER_MS * self._members.linked_count), PUBLISH_MAX_MS)

    # ---- what is believed of others

    def alive(self, peer: PeerId) -> None:
        """A member is ALIVE now: it knows nothing of this peer's queues."""
        self._owners[peer] = _Owner()
        self.tell_all(peer)

    def gone(self, peer: PeerId) -> None:
        """A member is not ALIVE any more."""
        self._ask_again_ms.pop(peer, None)
        owner = self._owners.pop(peer, None)
        if owner is not None:
            for key in owner.states:
                self._forget(peer, key)

    def came(self, sender: PeerId, message: QueueStates, now_ms: int) -> None:
        """A member tells of its queues."""
        owner = self._owners.get(sender)
        if owner is None or message.version < owner.version or (message.version == owner.version and not message.full):
            return
        if message.full:
            for key in owner.states:
                self._forget(sender, key)
            owner.states = {}
            self._ask_again_ms.pop(sender, None)
        elif message.version > owner.version + 1:
            self._miss(sender, now_ms)
        owner.version, owner.idle = message.version, message.idle
        for state in message.states:
            self._believe(sender, owner, state)

    def heard(self, sender: PeerId, message: Heartbeat, now_ms: int) -> None:
        """A heartbeat says how far its sender's publications are."""
        owner = self._owners.get(sender)
        if owner is not None:
            owner.idle, owner.usable = message.idle, message.usable
            if message.queues > owner.version:
                self._miss(sender, now_ms)

    def expire(self, now_ms: int) -> None:
        """Ask again whoever has not answered."""
        if not self._static:
            for peer, again_ms in self._ask_again_ms.items():
                if again_ms <= now_ms:
                    self._ask(peer, now_ms)

    def deadline_ms(self) -> int | None:
        if self._static:
            return None
        is_news = self._plans.touched or self._counts.idle_count() != self._told_idle
        next_ms = self._next_ms if is_news and self._members.linked_count else None
        if not self._ask_again_ms:
            return next_ms  # most of the time, and this is asked after every event
        again_ms = min(self._ask_again_ms.values())
        return again_ms if next_ms is None else min(again_ms, next_ms)

    def _miss(self, peer: PeerId, now_ms: int) -> None:
        if peer not in self._ask_again_ms:
            self._ask(peer, now_ms)

    def _ask(self, peer: PeerId, now_ms: int) -> None:
        self._ask_again_ms[peer] = now_ms + self._ask_ms
        self._members.tell(peer, AskQueues())

    def _believe(self, peer: PeerId, owner: _Owner, state: QueueState) -> None:
        key = (state.digest, state.queue)
        if key in owner.states:
            self._forget(peer, key)
            del owner.states[key]
        if state != _nothing(key):
            owner.states[key] = state
            self._by_key.setdefault(key, {})[peer] = state
            self._lengths[key] = self._lengths.get(key, 0) + state.length
            self._rates.pop(key, None)

    def _forget(self, peer: PeerId, key: QueueKey) -> None:
        states = self._by_key[key]
        self._lengths[key] -= states.pop(peer).length
        self._rates.pop(key, None)
        if not states:
            del self._by_key[key], self._lengths[key]

    # ---- questions (core/hints.py)

    def queues(self) -> tuple[QueueKey, ...]:
        """Queues in which others have tasks waiting."""
        return tuple([key for key, length in self._lengths.items() if length])

    def owners(self, key: QueueKey) -> tuple[tuple[PeerId, int], ...]:
        """Who has tasks in a queue, and how many."""
        states = self._by_key.get(key, NOBODY)
        return tuple([(peer, state.length) for peer, state in sorted(states.items()) if state.length])

    def view(self, key: QueueKey) -> tuple[int, float, float, float, int, int]:
        """Length, weight, pressure, expected pressure, claimants, loaded: summed over the others; all 0 if unknown.

        O(members that have anything to say of that queue).
        """
        states = self._by_key.get(key, NOBODY).values()
        return (
            sum([state.length for state in states]),
            sum([state.weight for state in states], 0.0),
            sum([state.pressure for state in states], 0.0),
            sum([state.expected_pressure for state in states], 0.0),
            sum([state.claimants for state in states]),
            sum([state.loaded for state in states]),
        )

    def waiting(self, key: QueueKey) -> int:
        """How many tasks others have in a queue."""
        return self._lengths.get(key, 0)

    def rate(self, key: QueueKey) -> float:
        """How many tasks of a queue the executors of the others that know its node do per second.

        Each claim asks, and it is a sum over all members: so it is kept until somebody says something new.
        """
        rate = self._rates.get(key)
        if rate is None:
            states = self._by_key.get(key, NOBODY).values()
            rate = sum([max(state.loaded, 1) * US_PER_S / state.task_us for state in states if state.task_us], 0.0)
            if states:
                self._rates[key] = rate
        return rate

    def idle_peers(self) -> tuple[tuple[PeerId, int], ...]:
        """Peers with executors that have nothing to do, and how many of them."""
        return tuple([(peer, owner.idle) for peer, owner in sorted(self._owners.items()) if owner.idle])

    def can_run(self, peer: PeerId, key: QueueKey) -> bool:
        """False if a peer has said that it lacks what a queue's tasks need."""
        state = self._by_key.get(key, NOBODY).get(peer)
        return state is None or not state.lacking

    def others_work(self) -> bool:
        """Whether another peer has executors that work, for each queue with tasks that those of this peer could run."""
        usable = [peer for peer, owner in self._owners.items() if owner.usable]
        waiting = [self._plans.find(key) for key in {**self._plans.waiting, **dict.fromkeys(self.queues())}]
        keys = [queue.key for queue in waiting if queue is not None and queue.runs]
        return bool(usable) and all(any(self.can_run(peer, key) for peer in usable) for key in keys)

    def check_invariants(self) -> None:
        """Index everything anew."""
        assert sorted(self._owners) == list(self._members.alive()), "of whom is not ALIVE nothing is believed"
        assert self._ask_again_ms.keys() <= self._owners.keys()
        by_key: dict[QueueKey, dict[PeerId, QueueState]] = {}
        for peer, owner in self._owners.items():
            for key, state in owner.states.items():
                by_key.setdefault(key, {})[peer] = state
        assert by_key == self._by_key
        assert self._rates.keys() <= by_key.keys()
        assert self._lengths == {key: sum(state.length for state in states.values()) for key, states in by_key.items()}
        if not self._is_blind:
            for queue in self._plans.queues():
                if queue.key not in self._plans.touched:
                    told = self._told.get(queue.key, _nothing(queue.key))
                    assert told == self._state(queue.key), f"{queue.node.name} has changed, and nobody is told"


NOBODY: Mapping[PeerId, QueueState] = MappingProxyType({})


def _nothing(key: QueueKey) -> QueueState:
    return QueueState(
        digest=key[0], queue=key[1], length=0, weight=0.0, pressure=0.0, expected_pressure=0.0, claimants=0, loaded=0
    )
