"""Partners: which members hold copies for a peer, by rendezvous hashing of peers.

Rules     1. Every peer ranks all others differently, and always the same; who comes or goes moves nobody else's rank.
          2. Those on other machines come first, so that both copies do not end with one. Peers that have been told
             other names of one machine count as on two.
          3. Copies go to a small group at the top: 2 of fewer than 10 peers, 4 of fewer than 100, 8 of more.
Why       The fewer different groups hold tasks, the fewer simultaneous failures lose any; a group of two or more shares
          the load of one peer.
"""

from collections.abc import Iterable
from hashlib import blake2b

from ..ids import PeerId
from .messages import Contact


class Partners:
    """The partners of one peer. What was found is kept while nobody comes or goes: it takes a hash per member."""

    def __init__(self, me: Contact) -> None:
        self._me = me
        self._members: tuple[Contact, ...] = ()
        self._elsewhere: tuple[PeerId, ...] = ()
        self._beside: tuple[PeerId, ...] = ()

    def ranked(self, members: tuple[Contact, ...], turn: int) -> tuple[PeerId, ...]:
        """Members by preference. turn: changes from batch to batch, and turns the group at the top."""
        if members != self._members:
            self._members = members
            machine = _machine(self._me)
            self._elsewhere = self._rank([member.id for member in members if _machine(member) != machine])
            self._beside = self._rank([member.id for member in members if _machine(member) == machine])
        first, others = (self._elsewhere, self._beside) if self._elsewhere else (self._beside, ())
        peers = 1 + len(members)
        width = min(2 if peers < 10 else 4 if peers < 100 else 8, len(first))
        at = turn % max(width, 1)
        return (*first[at:width], *first[:at], *first[width:], *others)

    def _rank(self, peers: Iterable[PeerId]) -> tuple[PeerId, ...]:
        return tuple(sorted(peers, key=self._score, reverse=True))

    def _score(self, peer: PeerId) -> bytes:
        return blake2b(self._me.id.to_bytes() + peer.to_bytes(), digest_size=8).digest()


def _machine(contact: Contact) -> str:
    """Its address without the port."""
    return contact.address.rpartition(":")[0]
