"""Versions: which of two accounts of one task is right. The order in which copies that went apart are merged.

Rules     1. What has ended beats what has not, whatever the epochs say; only an end for which nobody is to blame but
             the infrastructure gives way to a task that still runs. Deleted beats everything.
          2. Then the higher epoch (n, owner, life of the owner), then the higher count of changes within it.
          3. So the merge is the greater of two comparable values: the same in whichever order and however often.
          4. Within one epoch there is nothing to merge: what its owner said last holds, whatever it said before.
Why       Finished work is never thrown away for a newer owner's unfinished one: "the last failover wins" revives
          deleted tasks and contradicts results that somebody has seen.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from ..errors import ErrorCode
from ..ids import PeerId, TaskId


class Rank(IntEnum):
    """How much an account of a task weighs before epochs are looked at."""

    LOST = 0  # an error that the infrastructure caused
    LIVE = 1
    FAILED = 2
    CANCELLED = 3
    READY = 4
    DELETED = 5


class Version(NamedTuple):
    """What somebody knows of a task: rank, epoch (n, owner, life), and changes within the epoch.

    life: the incarnation in which the owner began the epoch. One that starts again may have forgotten its last epochs,
    and adopts tasks of whatever n: so two of its lives may come to the same n, and are told apart by this.
    """

    rank: int
    n: int
    owner: PeerId
    life: int
    change: int

    def beats(self, other: "Version") -> bool:
        """Whether this is what holds, and the other is not the same."""
        if self[1:4] == other[1:4] and Rank.DELETED not in (self.rank, other.rank):
            return self.change > other.change
        return self > other


def fingerprint(task: TaskId, n: int, life: int, change: int) -> int:
    """A number that stands for one version of a task in sums over many; cheap, because it is made for every change."""
    return growth(task) * ((n * _STRIDE + life) * _STRIDE + change + 1) & _MASK


def growth(task: TaskId) -> int:
    """What each further change within an epoch adds to a task's fingerprint."""
    return int(task[1:], 16) + 1


def total(numbers: Iterable[int]) -> int:
    """The sum of fingerprints, in whichever order."""
    return sum(numbers) & _MASK


_MASK = (1 << 63) - 1
_STRIDE = 0x5851_F42D_4C95_7F2D  # odd and of many bits, so that no two of three small numbers make up for each other

_BLAMELESS = frozenset((ErrorCode.DEFUNCT_EXECUTOR, ErrorCode.CONNECTION, ErrorCode.MEMORY_PURGE))


def rank_of_error(code: ErrorCode) -> Rank:
    """The rank of a task that ended with an error."""
    if code is ErrorCode.CANCELLED:
        return Rank.CANCELLED
    return Rank.LOST if code in _BLAMELESS else Rank.FAILED
