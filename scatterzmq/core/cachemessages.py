"""The words about the cache (core/cacheowners.py), which peers say beside those of core/peermessages.py."""

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

from ..frozen import frozen
from ..ids import PeerId, TaskId
from .messages import ORIGIN_BYTES

CACHE_KEY_BYTES = ORIGIN_BYTES + 32
"""The origin, and a digest over closure and inputs."""


@frozen()
class CacheAsk:
    """To the owner of these keys, by position: task ids[i] of the sender needs keys[i]. may_wait: by position."""

    keys: tuple[bytes, ...]
    ids: tuple[TaskId, ...]
    may_wait: tuple[bool, ...]


class CacheAnswer(StrEnum):
    HIT = "hit"
    LEAD = "lead"
    WAIT = "wait"
    COMPUTE = "compute"
    HELD = "held"

    __hash__ = str.__hash__


@frozen()
class CacheTell:
    """From a key's owner: what a task is to do about a key (or what its value is). May come unasked (promotion).

    ttl_ms: of a lead, or how long to wait before asking again. output: the node's, for a node's value.
    Beside it, for a hit: field -> column of one row. digests: field -> its content digest.
    holders: who has the value, to be asked in this order. copy: say so if you keep it, to be one of them.
    """

    key: bytes
    id: TaskId
    answer: CacheAnswer
    ttl_ms: int = 0
    output: str = ""
    digests: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    holders: tuple[PeerId, ...] = ()
    copy: bool = False


@frozen()
class CachePut:
    """The value of a key, got by task `id`. Beside it: field -> column of one row; nothing if the sender holds it."""

    key: bytes
    id: TaskId
    output: str
    digests: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    held: bool = False


@frozen()
class CacheAbort:
    """Tasks that will not lead these keys (any more), by position; waiters that wait no more say it this way, too."""

    keys: tuple[bytes, ...]
    ids: tuple[TaskId, ...]


@frozen()
class CacheRenew:
    """Tasks still lead (or wait for) these keys, by position."""

    keys: tuple[bytes, ...]
    ids: tuple[TaskId, ...]


@frozen()
class CacheFetch:
    """To a holder: task `id` of the sender needs the value of this key. Answered by CacheTell or CacheLost."""

    key: bytes
    id: TaskId


@frozen()
class CacheLost:
    """holders[i] does not have the value of keys[i] (any more)."""

    keys: tuple[bytes, ...]
    holders: tuple[PeerId, ...]
