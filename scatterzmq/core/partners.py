"""Partners: which members hold copies for a peer, by rendezvous hashing of peers.

Rules     1. Every peer ranks all others differently, and always the same; who comes or goes moves nobody else's rank.
          2. Copies go to a small group at the top: 2 of fewer than 10 peers, 4 of fewer than 100, 8 of more.
Why       The fewer different groups hold tasks, the fewer simultaneous failures lose any; a group of two or more shares
          the load of one peer.
"""

from collections.abc import Iterable
from hashlib import blake2b

from ..ids import PeerId


def rank(me: PeerId, alive: Iterable[PeerId]) -> tuple[PeerId, ...]:
    """Members by preference."""
    return tuple(sorted(alive, key=lambda peer: _score(me, peer), reverse=True))


def take_turns(ranked: tuple[PeerId, ...], turn: int) -> tuple[PeerId, ...]:
    """The same, but for the group at the top, which takes turns. turn: changes from batch to batch."""
    peers = 1 + len(ranked)
    width = min(2 if peers < 10 else 4 if peers < 100 else 8, len(ranked))
    at = turn % max(width, 1)
    return (*ranked[at:width], *ranked[:at], *ranked[width:])


def _score(me: PeerId, peer: PeerId) -> bytes:
    return blake2b(me.to_bytes() + peer.to_bytes(), digest_size=8).digest()
