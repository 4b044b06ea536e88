"""Cache requests: how far a task that leads a key is with the owner of the key (core/cacheowners.py)."""

from dataclasses import dataclass, field
from enum import Enum

from ..ids import PeerId


class Stage(Enum):
    ASKED = "asked"
    WAITS = "waits"
    FETCHES = "fetches"
    COMPUTES = "computes"


@dataclass(slots=True, eq=False)
class Request:
    """What a task that leads a key at this peer has to do with the key's owner.

    tries: how often it was asked without an answer. due_ms: when to ask again. leads: whether the owner counts on it,
    as long as it is renewed within ttl_ms. deferred: it has been counted as a task that waits.

    While it fetches the value: holders: who may have it, the one that is asked first. copy: the owner wants to know
    that we have it. missed: how often nobody had it. The owner may be this peer itself then, and only then.
    """

    owner: PeerId
    may_wait: bool
    deferred: bool = False
    stage: Stage = Stage.ASKED
    tries: int = 0
    due_ms: int = 0
    leads: bool = False
    ttl_ms: int = 0
    holders: list[PeerId] = field(default_factory=list)
    copy: bool = False
    missed: int = 0

    @property
    def is_waiting(self) -> bool:
        """Whether the task does nothing until this is settled."""
        return self.stage is not Stage.COMPUTES

    @property
    def is_asking(self) -> bool:
        """Whether the owner has still to say what becomes of it."""
        return self.stage is Stage.ASKED or self.stage is Stage.WAITS
