"""Cache places: which peers hold the large values of the keys that this peer owns.

Purpose   What is larger than `store.inline_bytes` stays in the cache of the peer whose task has computed it. The key's
          owner knows only who holds it, and names that peer to those that ask; they fetch the value from there and keep
          it, too (core/cacheowners.py).
Rules     1. When others have asked for a value HOT_HITS times, the next that fetches it becomes a second holder. Both
             are named, in turns, so that they share the work and the value outlives one of them.
          2. Nobody says that a value has gone: who finds a holder without it tells the key's owner. Without a holder a
             key is a miss.
          3. Bounded, least recently used out first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..ids import PeerId
from .ledger import CacheKey
from .messages import ORIGIN_BYTES

HOT_HITS = 3
"""Two questions for a value may be chance; more are a habit, and worth a second copy."""

HOLDERS_MAX = 2


@dataclass(slots=True, eq=False)
class _Place:
    """holders: besides this peer; the next to be named comes first. hits: so often have others got the value."""

    holders: tuple[PeerId, ...] = ()
    hits: int = 0


@dataclass(slots=True, eq=False)
class CachePlaces:
    """is_heard: whether a peer is there."""

    _entries_max: int
    _is_heard: Callable[[PeerId], bool]
    _places: OrderedDict[CacheKey, _Place] = field(default_factory=OrderedDict)

    def add(self, key: CacheKey, holder: PeerId) -> None:
        """Somebody has the value."""
        place = self._used(key)
        others = [other for other in place.holders if other != holder]
        place.holders = (holder, *others)[:HOLDERS_MAX]

    def holders(self, key: CacheKey) -> tuple[PeerId, ...]:
        """Whom to ask for the value, in this order; () for a miss."""
        if key not in self._places:
            return ()
        place = self._used(key)
        named = place.holders
        place.holders = (*named[1:], *named[:1])
        return named

    def is_held(self, key: CacheKey) -> bool:
        """Whether there is somebody to ask for the value; nobody is named by this."""
        place = self._places.get(key)
        return place is not None and any(map(self._is_heard, place.holders))

    def hit(self, key: CacheKey, *, is_here: bool) -> bool:
        """Somebody gets the value. Whether it is to become the second holder. is_here: this peer is one."""
        place = self._used(key)
        place.hits += 1
        return place.hits >= HOT_HITS and len(place.holders) + is_here < HOLDERS_MAX

    def lost(self, key: CacheKey, holder: PeerId) -> None:
        """Somebody does not have the value (any more)."""
        place = self._places.get(key)
        if place is not None:
            place.holders = tuple([other for other in place.holders if other != holder])

    def clear(self, origins: Iterable[bytes] | None) -> None:
        """Forget who holds the values of these origins (None: all)."""
        wanted = None if origins is None else frozenset(origins)
        for key in [key for key in self._places if wanted is None or key[:ORIGIN_BYTES] in wanted]:
            del self._places[key]

    def check_invariants(self) -> None:
        assert len(self._places) <= self._entries_max
        for place in self._places.values():
            assert len(set(place.holders)) == len(place.holders) <= HOLDERS_MAX

    def _used(self, key: CacheKey) -> _Place:
        """What is known of a key, without holders that are gone. It has just been used."""
        place = self._places.setdefault(key, _Place())
        place.holders = tuple([holder for holder in place.holders if self._is_heard(holder)])
        self._places.move_to_end(key)
        if len(self._places) > self._entries_max:
            self._places.popitem(last=False)
        return place
