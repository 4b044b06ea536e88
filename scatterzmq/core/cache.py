"""The cache: results by key, and who computes a key for whom.

Purpose   Each key is a hit, or is led by one task while others wait, or is free.
Rules     1. One leader per key; asking again as the leader leads again (a retried task meets its own key).
          2. A leader ends its key by `put` or by `abort`; every waiter is then told: value, lead, or compute yourself.
          3. After LEADERS_FAILED_MAX failed leaders the rest compute for themselves: errors are never passed on.
          4. A task that leads may wait only where nobody it waits for could wait for it (`may_wait`, decided by
             the caller from the call graph).
          5. Values are bounded, least recently used out first; a lost value is a miss. Their bytes and what it takes to
             know them are bounded apart, as many a value has next to no bytes.
          6. Tasks of other peers may ask here, too (core/cacheowners.py says which and why).
Source    single flight as in groupcache, with promotion of waiters on failure.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TypeAlias

from ..graph.plan import Plan
from ..ids import PeerId, TaskId
from .blocks import Blocks
from .ledger import CacheKey
from .messages import ORIGIN_BYTES
from .values import Value

LEADERS_FAILED_MAX = 2

ENTRY_NBYTES = 1024
"""Memory that an entry takes besides its value, roughly."""

ENTRIES_MIN = 64
"""So many entries fit into the smallest cache, as far as their values do."""


class Ask(Enum):
    """Answers to `Cache.ask` besides a value."""

    LEAD = "lead"  # compute it for everybody
    WAIT = "wait"  # it is being computed; you will be told
    COMPUTE = "compute"  # compute it for yourself
    ASKED = "asked"  # as LEAD, but the peer that owns the key has to be asked first


@dataclass(frozen=True, slots=True, eq=False)
class Cached:
    """What a graph (`output` is "") or a node (with the output it left by) answered."""

    output: str
    fields: Mapping[str, Value]
    nbytes: int


Answer: TypeAlias = Ask | Cached

Asker: TypeAlias = TaskId | tuple[PeerId, TaskId]
"""A task of this peer, or one of another peer."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """What an abort means for those who waited: one leads now, or all compute for themselves."""

    promoted: Asker | None
    released: tuple[Asker, ...]


@dataclass(slots=True)
class _Pending:
    leader: Asker
    waiters: dict[Asker, None] = field(default_factory=dict)
    leaders_failed: int = 0


def origins_of(plan: Plan) -> tuple[bytes, ...]:
    """With what the keys of a plan begin."""
    closures = []
    for graph in plan.graphs.values():
        closures += [graph.closure] if graph.cache else []
        closures += [node.closure for node in graph.nodes.values() if node.cache]
    return tuple(sorted({closure[:ORIGIN_BYTES] for closure in closures}))


def cache_key(closure: bytes, inputs: Iterable[tuple[str, Value]]) -> CacheKey | None:
    """The origin, and blake2b-256 over a closure and the content of all inputs; None if a content digest is missing."""
    known: list[tuple[str, bytes]] = []
    for name, (block, row) in inputs:
        if not block.digests:
            return None
        known.append((name, block.digests[row]))
    known.sort()
    return _key(closure, *known)


@lru_cache(maxsize=1024)  # who asks for a key mostly asks for it more than once
def _key(closure: bytes, *inputs: tuple[str, bytes]) -> CacheKey:
    key = hashlib.blake2b(closure, digest_size=32)
    for name, digest in inputs:
        text = name.encode()
        key.update(len(text).to_bytes(4, "little"))
        key.update(text)
        key.update(digest)
    return closure[:ORIGIN_BYTES] + key.digest()


class Cache:
    """All keys that one peer knows. Values it holds count as uses of their blocks."""

    def __init__(self, blocks: Blocks, *, bytes_max: int, use_defer: bool) -> None:
        self._blocks = blocks
        self._bytes_max = bytes_max
        self.entries_max = max(bytes_max // ENTRY_NBYTES, ENTRIES_MIN)
        self._use_defer = use_defer
        self._values: OrderedDict[CacheKey, Cached] = OrderedDict()
        self._pending: dict[CacheKey, _Pending] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def find(self, key: CacheKey) -> Cached | None:
        """The value, if it is here."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def ask(self, key: CacheKey, task: Asker, *, may_wait: bool) -> Answer:
        """The value, or what the task should do. On WAIT it is told later, by `put` or `abort` of the leader."""
        value = self.find(key)
        if value is not None:
            return value
        pending = self._pending.get(key)
        if pending is None:
            self._pending[key] = _Pending(task)
            return Ask.LEAD
        if pending.leader == task:
            return Ask.LEAD
        if not (may_wait and self._use_defer):
            return Ask.COMPUTE
        pending.waiters[task] = None
        return Ask.WAIT

    def put(self, key: CacheKey, output: str, fields: Mapping[str, Value]) -> tuple[Asker, ...]:
        """Keep a result. Returns those who waited for it; it stays theirs even if it is too large to be kept."""
        pending = self._pending.pop(key, None)
        nbytes = sum(block.row_nbytes(row) for block, row in fields.values())
        if key not in self._values and nbytes <= self._bytes_max:
            for value in fields.values():
                self._blocks.hold(value)
                self._blocks.keep(value)
            self._values[key] = Cached(output, dict(fields), nbytes)
            self.nbytes += nbytes
            while self.nbytes > self._bytes_max or len(self._values) > self.entries_max:
                self._drop(next(iter(self._values)))
        return tuple(pending.waiters) if pending else ()

    def abort(self, key: CacheKey, task: Asker, *, failed: bool = True) -> Aborted:
        """The leader of a key gives up. Nothing happens if `task` does not lead it (any more).

        failed: False if it had not begun to compute.
        """
        pending = self._pending.get(key)
        if pending is None or pending.leader != task:
            return Aborted(None, ())
        pending.leaders_failed += failed
        if not pending.waiters:
            del self._pending[key]
            return Aborted(None, ())
        if pending.leaders_failed >= LEADERS_FAILED_MAX:
            del self._pending[key]
            return Aborted(None, tuple(pending.waiters))
        return Aborted(self._promote(pending), ())

    def _promote(self, pending: _Pending) -> Asker:
        pending.leader = next(iter(pending.waiters))
        del pending.waiters[pending.leader]
        return pending.leader

    def leave(self, key: CacheKey, task: Asker) -> None:
        """A waiter does not wait any more (it was cleared or cancelled)."""
        pending = self._pending.get(key)
        if pending is not None:
            pending.waiters.pop(task, None)

    def leader(self, key: CacheKey) -> Asker | None:
        """Who computes a key, if somebody does."""
        pending = self._pending.get(key)
        return None if pending is None else pending.leader

    def lead(self, key: CacheKey, task: Asker) -> bool:
        """A task computes a key, whoever told it to. False if that does not count, as somebody else does or did."""
        if key in self._values:
            return False
        pending = self._pending.get(key)
        if pending is None:
            self._pending[key] = _Pending(task)
            return True
        return pending.leader == task

    def led_by(self, peer: PeerId) -> list[CacheKey]:
        """What the tasks of another peer lead. None of its tasks waits for anything any more."""
        found = []
        for key, pending in self._pending.items():
            if isinstance(pending.leader, tuple) and pending.leader[0] == peer:
                found.append(key)
            for waiter in [waiter for waiter in pending.waiters if isinstance(waiter, tuple) and waiter[0] == peer]:
                del pending.waiters[waiter]
        return found

    def disown(self, key: CacheKey) -> tuple[TaskId | None, list[tuple[PeerId, TaskId]]]:
        """Tasks of other peers have nothing to do with this key any more. Returns the task of this peer that leads it
        now, and those of others that waited.
        """
        pending = self._pending[key]
        others = [waiter for waiter in pending.waiters if isinstance(waiter, tuple)]
        for waiter in others:
            del pending.waiters[waiter]
        if isinstance(pending.leader, tuple):
            if not pending.waiters:
                del self._pending[key]
                return None, others
            self._promote(pending)
        assert not isinstance(pending.leader, tuple)
        return pending.leader, others

    def clear(self, origins: Iterable[bytes] | None = None) -> int:
        """Forget the values of these origins (None: all); what is being computed goes on. Returns how many went."""
        wanted = None if origins is None else frozenset(origins)
        found = [key for key in self._values if wanted is None or key[:ORIGIN_BYTES] in wanted]
        for key in found:
            self._drop(key)
        return len(found)

    def values_held(self) -> Iterator[Value]:
        """Everything that counts as a use of a block, for checks."""
        for value in self._values.values():
            yield from value.fields.values()

    def pending(self) -> list[CacheKey]:
        """All keys that somebody computes."""
        return list(self._pending)

    def waiters(self) -> dict[TaskId, CacheKey]:
        """Which tasks of this peer wait for what, for checks."""
        return {
            task: key
            for key, pending in self._pending.items()
            for task in pending.waiters
            if not isinstance(task, tuple)
        }

    def leaders(self) -> dict[CacheKey, Asker]:
        """Who leads what, for checks."""
        return {key: pending.leader for key, pending in self._pending.items()}

    def check_invariants(self) -> None:
        assert self.nbytes == sum(value.nbytes for value in self._values.values())
        assert self.nbytes <= self._bytes_max
        assert len(self._values) <= self.entries_max
        assert not self._pending.keys() & self._values.keys()
        for pending in self._pending.values():
            assert pending.leader not in pending.waiters
            assert pending.leaders_failed < LEADERS_FAILED_MAX

    def _drop(self, key: CacheKey) -> None:
        value = self._values.pop(key)
        self.nbytes -= value.nbytes
        self._blocks.release(value.fields.values())
