"""Nudges: who is told that tasks wait here which nobody takes.

Rules   1. No more peers are told than can have a batch each; the same ones that would ask by themselves (`precedence`),
           so that few ask.
        2. A peer is told once, until it has claimed or something else is believed of it. A nudge may get lost: after
           `ask_s` another peer is told, and after a lease's time this one again.
        3. Who got a batch is believed to be that much less idle, until it says how idle it is.
"""

from dataclasses import dataclass
from hashlib import blake2b

from ..ids import PeerId
from .peermessages import Nudge
from .queues import Queue, QueueKey
from .state import State


@dataclass(slots=True, eq=False)
class _Belief:
    """idle: executors of a peer, by its own account. taken: batches it got since then.

    told: the queue it was nudged for, if it was. lapses_ms: when that does not count any more (fresh), or is forgotten.
    """

    idle: int
    taken: int = 0
    told: QueueKey | None = None
    fresh: bool = False
    lapses_ms: int = 0


class Nudges:
    """The peers that were told, or have taken something."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._beliefs: dict[PeerId, _Belief] = {}
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._lease_ms = int(state.settings.timing.lease_s * 1000)

    def claimed(self, peer: PeerId, *, granted: bool) -> None:
        """A peer has asked for tasks."""
        belief = self._beliefs.get(peer)
        if belief is not None:
            belief.told = None
        if granted:
            for other, idle in self._state.gossip.idle_peers():
                if other == peer:
                    self._beliefs.setdefault(peer, _Belief(idle)).taken += 1

    def gone(self, peer: PeerId) -> None:
        """A member is dead or has left."""
        self._beliefs.pop(peer, None)

    def send(self) -> None:
        """Tell idle peers of the tasks that wait now."""
        waiting = self._state.plans.waiting()
        if not waiting or not (idle_peers := self._state.gossip.idle_peers()):
            return
        room: dict[PeerId, int] = {}
        for peer, idle in idle_peers:
            belief = self._beliefs.get(peer)
            if belief is not None and belief.idle != idle:
                del self._beliefs[peer]
                belief = None
            if self._state.members.is_alive(peer) and (belief is None or (belief.told is None and belief.taken < idle)):
                room[peer] = idle if belief is None else idle - belief.taken
        for queue in waiting:
            if not room:
                return
            self._send(queue, room)

    def _send(self, queue: Queue, room: dict[PeerId, int]) -> None:
        """Tell as many as are needed for one queue. room: peers that may be told -> batches they have room for."""
        size = queue.node.batch_size or self._state.settings.executor.batch_size
        told = sum(
            belief.idle - belief.taken for belief in self._beliefs.values() if belief.fresh and belief.told == queue.key
        )
        wanted = -(-queue.length // size) - told
        message = Nudge(digest=queue.key[0], queue=queue.key[1])
        for peer in by_precedence(self._state.me, queue.key, room):
            if wanted <= 0:
                return
            belief = self._beliefs.setdefault(peer, _Belief(room[peer]))
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
        return min([belief.lapses_ms for belief in self._beliefs.values() if belief.told is not None], default=None)


def by_precedence(owner: PeerId, key: QueueKey, peers: dict[PeerId, int]) -> list[PeerId]:
    """Who comes first to an owner's queue: every owner and every peer says the same, and always the same, so that a
    queue stays with those that have its node loaded."""
    return sorted(peers, key=lambda peer: precedence(owner, key, peer))


def precedence(owner: PeerId, key: QueueKey, peer: PeerId) -> bytes:
    return blake2b(owner.to_bytes() + key[0] + key[1].to_bytes() + peer.to_bytes(), digest_size=8).digest()
