"""Hints: what is believed of the queues and executors of other peers.

Rules   1. Nothing is safe because of a hint: it may be old, wrong, or missing. It only says whom to ask first.
        2. Everything comes in an order that does not change between runs.
"""

from typing import Protocol

from ..ids import PeerId
from .queues import QueueKey


class Hints(Protocol):
    """Beliefs about the members that are alive, without this peer."""

    def queues(self) -> tuple[QueueKey, ...]:
        """Queues in which others have tasks waiting."""

    def owners(self, key: QueueKey) -> tuple[tuple[PeerId, int], ...]:
        """Who has tasks in a queue, and how many."""

    def view(self, key: QueueKey) -> tuple[int, float, float, float, int, int]:
        """Length, weight, pressure, expected pressure, claimants, loaded: summed over the others; all 0 if unknown."""

    def waiting(self, key: QueueKey) -> int:
        """How many tasks others have in a queue."""

    def rate(self, key: QueueKey) -> float:
        """How many tasks of a queue the executors of the others that know its node do per second."""

    def idle_peers(self) -> tuple[tuple[PeerId, int], ...]:
        """Peers with executors that have nothing to do, and how many of them."""

    def can_run(self, peer: PeerId, key: QueueKey) -> bool:
        """False if a peer has said that it lacks what a queue's tasks need."""
