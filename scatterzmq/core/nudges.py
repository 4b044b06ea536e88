"""Nudges: who is told that tasks wait here which nobody takes.

Rules   1. No more peers are told than can have a batch each; the same ones that would ask by themselves (`precedence`),
           so that few ask.
        2. A peer is told once, until it has claimed or something else is believed of it. A nudge may get lost: after
           `ask_s` another peer is told, and after a lease's time this one again.
        3. Who got a batch is believed to be that much less idle, and more when it comes back, until it says how idle it
           is.
"""

from dataclasses import dataclass
from hashlib import blake2b

from ..ids import PeerId
from .batches import Batches
from .peermessages import Nudge
from .queues import Queue, QueueKey
from .state import State


@dataclass(slots=True, eq=False)
class _Belief:
    """idle: executors of a peer, by its own account. more: how many are idle besides since then (or busy, if negative).

    told: the queue it was nudged for, if it was. lapses_ms: when that does not count any more (fresh), or is forgotten.
    """

    idle: int
    more: int = 0
    told: QueueKey | None = None
    fresh: bool = False
    lapses_ms: int = 0

    @property
    def room(self) -> int:
        """Batches for which it has executors."""
        return self.idle + self.more


class Nudges:
    """What is believed of other peers' executors."""

    def __init__(self, state: State, batches: Batches) -> None:
        self._state = state
        self._batches = batches
        self._beliefs: dict[PeerId, _Belief] = {}
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._lease_ms = int(state.settings.timing.lease_s * 1000)

    def claimed(self, peer: PeerId, *, granted: bool) -> None:
        """A peer has asked for tasks."""
        belief = self._belief(peer)
        belief.told = None
        belief.more -= granted

    def returned(self, peer: PeerId) -> None:
        """A peer is through with a batch."""
        self._belief(peer).more += 1

    def gone(self, peer: PeerId) -> None:
        """A member is dead or has left."""
        self._beliefs.pop(peer, None)

    def _belief(self, peer: PeerId) -> _Belief:
        belief = self._beliefs.get(peer)
        if belief is None:
            idle = next((idle for other, idle in self._state.gossip.idle_peers() if other == peer), 0)
            belief = self._beliefs[peer] = _Belief(idle)
        return belief

    def send(self) -> None:
        """Tell idle peers of the tasks that wait now."""
        waiting = self._state.plans.waiting
        if not waiting:
            return
        said = dict(self._state.gossip.idle_peers())
        if not (said or self._beliefs):
            return
        self._beliefs = {peer: belief for peer, belief in self._beliefs.items() if belief.idle == said.get(peer, 0)}
        room = {peer: idle for peer, idle in said.items() if peer not in self._beliefs}
        room |= {peer: belief.room for peer, belief in self._beliefs.items() if belief.told is None and belief.room > 0}
        room = {peer: batches for peer, batches in room.items() if self._state.members.is_alive(peer)}
        for queue in waiting.values():
            if not room:
                return
            self._send(queue, room)

    def _send(self, queue: Queue, room: dict[PeerId, int]) -> None:
        """Tell as many as are needed for one queue. room: peers that may be told -> batches they have room for."""
        size = self._batches.own_size(queue)
        fresh = [belief.room for belief in self._beliefs.values() if belief.fresh and belief.told == queue.key]
        wanted = -(-queue.length // size) - sum(fresh)
        message = Nudge(digest=queue.key[0], queue=queue.key[1])
        for peer in by_precedence(self._state.me, queue.key, room):
            if wanted <= 0:
                return
            if not self._state.gossip.can_run(peer, queue.key):
                continue
            belief = self._belief(peer)
            belief.told, belief.fresh = queue.key, True
            belief.lapses_ms = self._state.now_ms + self._ask_ms
            self._state.members.tell(peer, message)
            wanted -= room.pop(peer)

    def expire(self) -> None:
        """Nudges that nobody followed count no more."""
        for belief in self._beliefs.values():
            if belief.told is not None and belief.lapses_ms <= self._state.now_ms:
                if belief.fresh:
                    belief.fresh = False
                    belief.lapses_ms = self._state.now_ms + self._lease_ms
                else:
                    belief.told = None

    def deadline_ms(self) -> int | None:
        if not self._beliefs:
            return None
        return min([belief.lapses_ms for belief in self._beliefs.values() if belief.told is not None], default=None)


def by_precedence(owner: PeerId, key: QueueKey, peers: dict[PeerId, int]) -> list[PeerId]:
    """Who comes first to an owner's queue: every owner and every peer says the same, and always the same, so that a
    queue stays with those that have its node loaded."""
    return sorted(peers, key=lambda peer: precedence(owner, key, peer))


def precedence(owner: PeerId, key: QueueKey, peer: PeerId) -> bytes:
    return blake2b(owner.to_bytes() + key[0] + key[1].to_bytes() + peer.to_bytes(), digest_size=8).digest()
