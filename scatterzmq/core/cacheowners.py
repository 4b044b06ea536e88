"""Cache owners: who computes a key for all peers, and where its value is to be found.

Purpose   Each key belongs to one of the living members (rendezvous hashing). It is asked before a task computes.
Rules     1. Every peer has a cache of its own (core/cache.py), in which its tasks find values and wait for each other.
             The task that leads a key there asks the key's owner for all of them: it gets the value, or is to compute,
             or waits for a task of another peer.
          2. No wait needs somebody else's message to end: what was not answered is asked again, what has to wait asks
             again after `wait_s`; whoever gets no answer twice computes. Leases of tasks of other peers run out.
          3. A large value stays with the peer whose task has computed it; the owner names that peer to those that ask
             (core/cacheplaces.py). They fetch the value while their tasks still wait for it: so one that has gone is a
             miss, told to the owner with the next question, and never an input that is missing later.
          4. Nothing is kept anywhere but here: with another member (or one less) keys change their owner. Values stay
             behind and are lost; who leads says so to the new owner, who waits asks it.
          5. All of that is soft: whatever is lost, doubled, late, or seen differently by somebody costs time only.
Why       Views differ for moments. As whoever asks is in its own view, each further question goes to a peer that
          scores higher for that key: they never go in a circle. A peer that has not met the others yet owns all keys
          for itself, and nobody asks it.
"""

import heapq
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import takewhile
from types import MappingProxyType
from typing import Protocol, TypeAlias

from ..ids import PeerId, TaskId
from .cache import Answer, Ask, Asker, Cache, Cached
from .cachemessages import (
    CacheAbort,
    CacheAnswer,
    CacheAsk,
    CacheFetch,
    CacheLost,
    CachePut,
    CacheRenew,
    CacheTell,
)
from .cacheplaces import CachePlaces
from .cacherequests import Request, Stage
from .ledger import CacheKey, Ledger
from .members import Members
from .state import State
from .values import Block, Value

ASKS_MAX = 2
"""So often is an owner asked that does not answer."""

FETCHES_MAX = 4
"""So often is a holder asked that does not answer, each time after twice as long: its value may be under way."""

MISSED_MAX = 2
"""A task that so often found nobody with the value that was promised to it computes it."""

KEYS_PER_MESSAGE = 1024


class Deferred(Protocol):
    """What becomes of tasks of this peer that wait for a key."""

    def lead(self, task: TaskId, key: CacheKey) -> None:
        """It computes this key for the others from now on, or asks its owner for them."""

    def compute(self, task: TaskId, key: CacheKey) -> None:
        """It waits no more and computes what it waited for."""

    def resolve(self, task: TaskId, key: CacheKey, output: str, fields: Mapping[str, Value]) -> None:
        """It gets the value."""


_Errand: TypeAlias = tuple[CacheKey, TaskId]

_HIT, _MISS, _DEFER, _PROMOTE = "hit", "miss", "defer", "promote"
"""A task that comes to a cached graph or node finds its value, is to compute it, or waits: one of the first three. Who
has waited and computes after all is promoted. So what is computed is what was missed and what was promoted.
"""
_COUNTERS: Mapping[str, str] = MappingProxyType(
    {_HIT: "cache_hits", _MISS: "cache_misses", _DEFER: "cache_deferred", _PROMOTE: "cache_promoted"}
)


class CacheOwners:
    """One peer's part in it: as one that asks, and as one that owns."""

    def __init__(self, state: State, cache: Cache, deferred: Deferred) -> None:
        self._state = state
        self._members = state.members
        self._cache = cache
        self._places = CachePlaces(cache.entries_max, state.members.is_heard)
        self._inline_bytes = state.settings.store.inline_bytes
        self._deferred = deferred
        timing = state.settings.timing
        self._ask_ms = int(timing.ask_s * 1000)
        self._wait_ms = int(timing.wait_s * 1000)
        self._lease_ms = int(timing.lease_s * 1000)
        self._ring: dict[PeerId, bytes] = {state.me: state.me.to_bytes()}
        self._requests: dict[_Errand, Request] = {}
        self._due: list[tuple[int, CacheKey, TaskId]] = []
        self._renew_ms: int | None = None
        self._leases: dict[CacheKey, int] = {}  # of tasks of other peers, in order
        self._asks: dict[PeerId, list[tuple[CacheKey, TaskId, bool]]] = {}
        self._renews: dict[PeerId, list[_Errand]] = {}
        self._aborts: dict[PeerId, list[_Errand]] = {}
        self._losses: dict[PeerId, list[tuple[CacheKey, PeerId]]] = {}
        self.counters = dict.fromkeys((*_COUNTERS.values(), "cache_fetched", "cache_lost"), 0)

    # ---- for tasks of this peer

    def ask(self, key: CacheKey, task: TaskId, *, may_wait: bool) -> Answer:
        """The value, or what the task should do. On WAIT and ASKED it is told later."""
        answer = self._cache.ask(key, task, may_wait=may_wait)
        if answer is Ask.LEAD and self._must_ask(key, task, may_wait=may_wait):
            return Ask.ASKED
        self._count(_HIT if isinstance(answer, Cached) else _DEFER if answer is Ask.WAIT else _MISS, task)
        return answer

    def put(self, key: CacheKey, task: TaskId, output: str, fields: Mapping[str, Value]) -> None:
        """A task has computed a key."""
        self._requests.pop((key, task), None)
        self._store(key, output, fields)
        owner = self.owner(key)
        if owner == self._state.me:
            return
        if self._is_large(key):
            self._members.tell(owner, CachePut(key=key, id=task, output=output, held=True))
        else:
            message = CachePut(key=key, id=task, output=output, digests=_digests(fields))
            self._members.tell(owner, message, {name: (value,) for name, value in fields.items()})

    def abort(self, key: CacheKey, task: TaskId) -> None:
        """A task that leads a key will not compute it."""
        request = self._requests.pop((key, task), None)
        if request is not None and request.owner != self._state.me:
            self._aborts.setdefault(request.owner, []).append((key, task))
        self._give_up(key, task, failed=request is None or not request.is_waiting)

    def leave(self, key: CacheKey, task: TaskId) -> None:
        """A task does not wait for a key any more."""
        self._cache.leave(key, task)

    def _must_ask(self, key: CacheKey, task: TaskId, *, may_wait: bool, deferred: bool = False) -> bool:
        """Whether a task that leads a key here has to hear what the key's owner says, or to fetch the value."""
        if len(self._ring) == 1 or (key, task) in self._requests:
            return False  # it meets its own key again
        owner = self.owner(key)
        holders = self._places.holders(key) if owner == self._state.me else ()
        if owner == self._state.me and not holders:
            return False
        request = self._requests[key, task] = Request(owner, may_wait, deferred)
        if holders:
            self._fetch(key, task, request, holders)
        else:
            self._ask(key, task, request)
        return True

    def _ask(self, key: CacheKey, task: TaskId, request: Request) -> None:
        request.stage = Stage.ASKED
        request.tries += 1
        self._asks.setdefault(request.owner, []).append((key, task, request.may_wait))
        self._ask_at(key, task, request, self._state.now_ms + self._ask_ms)

    def _ask_at(self, key: CacheKey, task: TaskId, request: Request, due_ms: int) -> None:
        request.due_ms = due_ms
        heapq.heappush(self._due, (due_ms, key, task))

    def _compute(self, key: CacheKey, task: TaskId, request: Request) -> None:
        request.stage, request.holders = Stage.COMPUTES, []
        self._count(_PROMOTE if request.deferred else _MISS, task)
        self._deferred.compute(task, key)

    def _promote(self, key: CacheKey, task: TaskId) -> None:
        """A task of this peer that waited for another one computes."""
        self._count(_PROMOTE, task)
        self._deferred.compute(task, key)

    def _count(self, what: str, task: TaskId) -> None:
        """Something came of a task's question."""
        self.counters[_COUNTERS[what]] += 1
        tells = self._state.out.tells
        if tells and (name := f"cache.{what}") in tells:
            record = self._state.ledger.record(task)
            assert record is not None, f"{task} asks for a key but is not in the ledger"
            graph = record.plan.qualified(record.stack[-1].graph.id)
            node = "" if record.node is None else record.node.name
            self._state.out.report(name, task=task, graph=graph, node=node)

    def told(self, sender: PeerId, message: CacheTell, blocks: Mapping[str, Block]) -> None:
        """The owner of a key says what a task is to do, or has the value."""
        key, task, answer = message.key, message.id, message.answer
        request = self._requests.get((key, task))
        if answer is CacheAnswer.HIT:
            if request is not None and request.is_waiting:
                self._came(request, message, blocks)
        elif request is None or request.owner != sender:
            if answer is CacheAnswer.LEAD or answer is CacheAnswer.WAIT:
                self._aborts.setdefault(sender, []).append((key, task))
        elif answer is CacheAnswer.HELD:
            if request.is_asking:
                request.copy = message.copy
                self._fetch(key, task, request, message.holders)
        elif answer is CacheAnswer.WAIT:
            if request.is_asking:
                request.stage, request.tries = Stage.WAITS, 0
                if not request.deferred:
                    request.deferred = True
                    self._count(_DEFER, task)
                self._ask_at(key, task, request, self._state.now_ms + max(message.ttl_ms, self._ask_ms))
        else:
            if answer is CacheAnswer.LEAD:
                self._renew_within(request, message.ttl_ms)
            if request.is_waiting:
                self._compute(key, task, request)

    def _renew_within(self, request: Request, ttl_ms: int) -> None:
        request.leads, request.ttl_ms = True, ttl_ms
        renew_ms = self._state.now_ms + max(ttl_ms // 3, 1)
        self._renew_ms = renew_ms if self._renew_ms is None else min(renew_ms, self._renew_ms)

    def _came(self, request: Request, message: CacheTell, blocks: Mapping[str, Block]) -> None:
        """The value of a key is here."""
        key = message.key
        self.counters["cache_fetched"] += request.stage is Stage.FETCHES
        self._store(key, message.output, {name: (block, 0) for name, block in blocks.items()})
        if (request.copy or message.copy) and request.owner != self._state.me and self._is_large(key):
            self._members.tell(request.owner, CachePut(key=key, id=message.id, output=message.output, held=True))

    # ---- values that others hold

    def _fetch(self, key: CacheKey, task: TaskId, request: Request, holders: Iterable[PeerId]) -> None:
        request.stage, request.holders = Stage.FETCHES, list(holders)
        self._fetch_next(key, task, request)

    def _fetch_next(self, key: CacheKey, task: TaskId, request: Request) -> None:
        """Ask the first holder that is there for the value. If nobody has it, it is a miss."""
        while request.holders and not self._members.is_heard(request.holders[0]):
            self._miss(key, request)
        request.tries = 0
        if request.holders:
            self._fetch_again(key, task, request)
            return
        request.missed += 1
        if request.owner != self._state.me and request.missed < MISSED_MAX:
            self._ask(key, task, request)
            return
        if request.owner == self._state.me:
            del self._requests[key, task]
        self._compute(key, task, request)

    def _fetch_again(self, key: CacheKey, task: TaskId, request: Request) -> None:
        self._members.tell(request.holders[0], CacheFetch(key=key, id=task))
        self._ask_at(key, task, request, self._state.now_ms + (self._ask_ms << request.tries))
        request.tries += 1

    def _miss(self, key: CacheKey, request: Request) -> None:
        """The first holder turns out not to have the value."""
        holder = request.holders.pop(0)
        self.counters["cache_lost"] += 1
        if request.owner == self._state.me:
            self._places.lost(key, holder)
        else:
            self._losses.setdefault(request.owner, []).append((key, holder))

    def lost(self, sender: PeerId, message: CacheLost) -> None:
        """Holders of values turn out to have none: says one of them, or somebody to the key's owner."""
        for key, holder in zip(message.keys, message.holders, strict=True):
            self._places.lost(key, holder)
            task = self._cache.leader(key)
            request = None if task is None or isinstance(task, tuple) else self._requests.get((key, task))
            if request is not None and request.holders[:1] == [sender] == [holder]:
                assert isinstance(task, TaskId)
                self._miss(key, request)
                self._fetch_next(key, task, request)

    def fetch(self, sender: PeerId, message: CacheFetch) -> None:
        """Another peer has been told that this one has a value."""
        value = self._cache.find(message.key)
        if value is None:
            self._members.tell(sender, CacheLost(keys=(message.key,), holders=(self._state.me,)))
        else:
            self._tell_value((sender, message.id), message.key, value.output, value.fields, copy=False)

    def _is_large(self, key: CacheKey) -> bool:
        """Whether a value is here, and so large that it stays here."""
        value = self._cache.find(key)
        return value is not None and value.nbytes > self._inline_bytes

    # ---- for both

    def _store(self, key: CacheKey, output: str, fields: Mapping[str, Value]) -> None:
        """A value is there: keep it, and tell all who wait for it here."""
        leader = self._cache.leader(key)
        waiters = self._cache.put(key, output, fields)
        self._leases.pop(key, None)
        if leader is not None and not isinstance(leader, tuple):
            request = self._requests.get((key, leader))
            if request is not None and request.is_waiting:
                del self._requests[key, leader]
                if not request.deferred:
                    self._count(_HIT, leader)
                waiters = (leader, *waiters)
        for waiter in waiters:
            if isinstance(waiter, tuple):
                self._tell_value(waiter, key, output, fields, copy=self._wants_copy(key))
            else:
                self._deferred.resolve(waiter, key, output, fields)

    def _give_up(self, key: CacheKey, task: Asker, *, failed: bool = True) -> None:
        """A task will not compute a key that it leads, if it does: tell those who waited."""
        if self._cache.leader(key) != task:
            return
        self._leases.pop(key, None)
        aborted = self._cache.abort(key, task, failed=failed)
        promoted = aborted.promoted
        if isinstance(promoted, tuple):
            self._lend(promoted, key)
        elif promoted is not None:
            self._lead(key, promoted)
        for released in aborted.released:
            if isinstance(released, tuple):
                self._tell(released, key, CacheAnswer.COMPUTE)
            else:
                self._promote(key, released)

    def _lead(self, key: CacheKey, task: TaskId) -> None:
        """A task of this peer that waited leads the key now."""
        self._deferred.lead(task, key)
        if not self._must_ask(key, task, may_wait=True, deferred=True):
            self._promote(key, task)

    # ---- for tasks of other peers

    def asked(self, sender: PeerId, message: CacheAsk) -> None:
        """Tasks of another peer need values."""
        for key, task, may_wait in zip(message.keys, message.ids, message.may_wait, strict=True):
            asker = (sender, task)
            self._places.lost(key, sender)  # or it would not ask
            if self._cache.find(key) is None and (holders := self._places.holders(key)):
                self._tell_holders(asker, key, holders)
                continue
            answer = self._cache.ask(key, asker, may_wait=may_wait)
            if isinstance(answer, Cached):
                self._tell_value(asker, key, answer.output, answer.fields, copy=self._wants_copy(key))
            elif answer is Ask.LEAD:
                self._lend(asker, key)
            elif answer is Ask.WAIT:
                self._tell(asker, key, CacheAnswer.WAIT, self._wait_ms)
            else:
                self._tell(asker, key, CacheAnswer.COMPUTE)

    def came(self, sender: PeerId, message: CachePut, blocks: Mapping[str, Block]) -> None:
        """A task of another peer has computed a key, or has got its value."""
        if message.held:
            self._held(sender, message.key)
        else:
            self._store(message.key, message.output, {name: (block, 0) for name, block in blocks.items()})

    def _held(self, holder: PeerId, key: CacheKey) -> None:
        """Another peer has the value of a key: tell all who wait for it here."""
        self._places.add(key, holder)
        leader = self._cache.leader(key)
        if leader is None:
            return
        self._leases.pop(key, None)
        task, others = self._cache.disown(key)
        for waiter in others:
            self._tell_holders(waiter, key, self._places.holders(key))
        if task is not None and task != leader:
            self._lead(key, task)

    def aborted(self, sender: PeerId, message: CacheAbort) -> None:
        """Tasks of another peer do not lead (or wait for) keys any more."""
        for key, task in zip(message.keys, message.ids, strict=True):
            self._cache.leave(key, (sender, task))
            self._give_up(key, (sender, task))

    def renewed(self, sender: PeerId, message: CacheRenew) -> None:
        """Tasks of another peer are still at it, or have been told so by another owner."""
        for key, task in zip(message.keys, message.ids, strict=True):
            if not self._places.is_held(key) and self._cache.lead(key, (sender, task)):
                self._lease(key)

    def _lend(self, asker: tuple[PeerId, TaskId], key: CacheKey) -> None:
        self._lease(key)
        self._tell(asker, key, CacheAnswer.LEAD, self._lease_ms)

    def _lease(self, key: CacheKey) -> None:
        self._leases.pop(key, None)
        self._leases[key] = self._state.now_ms + self._lease_ms

    def _tell(self, asker: tuple[PeerId, TaskId], key: CacheKey, answer: CacheAnswer, ttl_ms: int = 0) -> None:
        self._members.tell(asker[0], CacheTell(key=key, id=asker[1], answer=answer, ttl_ms=ttl_ms))

    def _tell_value(
        self, asker: tuple[PeerId, TaskId], key: CacheKey, output: str, fields: Mapping[str, Value], *, copy: bool
    ) -> None:
        digests = _digests(fields)
        message = CacheTell(key=key, id=asker[1], answer=CacheAnswer.HIT, output=output, digests=digests, copy=copy)
        self._members.tell(asker[0], message, {name: (value,) for name, value in fields.items()})

    def _tell_holders(self, asker: tuple[PeerId, TaskId], key: CacheKey, holders: tuple[PeerId, ...]) -> None:
        copy = self._places.hit(key, is_here=False)
        message = CacheTell(key=key, id=asker[1], answer=CacheAnswer.HELD, holders=holders, copy=copy)
        self._members.tell(asker[0], message)

    def _wants_copy(self, key: CacheKey) -> bool:
        """Whether the next that gets a value of this peer is to be its second holder."""
        return self._is_large(key) and self.owner(key) == self._state.me and self._places.hit(key, is_here=True)

    def clear(self, origins: Iterable[bytes] | None) -> int:
        """Forget the values of these origins (None: all), and who has them. Returns how many went."""
        self._places.clear(origins)
        return self._cache.clear(origins)

    # ---- members

    def owner(self, key: CacheKey) -> PeerId:
        """The living member that owns a key."""
        if len(self._ring) == 1:
            return self._state.me
        return self._best(key, self._ring)

    def _best(self, key: CacheKey, peers: Iterable[PeerId]) -> PeerId:
        ring = self._ring
        return max(peers, key=lambda peer: (blake2b(ring[peer] + key, digest_size=8).digest(), peer))

    def members_changed(self) -> None:
        """Others are alive than before: some keys have another owner."""
        me, before = self._state.me, self._ring
        self._ring = {peer: peer.to_bytes() for peer in (me, *self._members.alive())}
        joined = [peer for peer in self._ring if peer not in before]
        for (key, task), request in list(self._requests.items()):
            is_there = request.owner in self._ring
            owner = self._best(key, (request.owner, *joined)) if is_there else self.owner(key)
            if owner != request.owner:
                self._move(key, task, request, owner)
        for key in self._cache.pending() if joined else ():
            leader = self._cache.leader(key)
            is_mine = isinstance(leader, tuple) or (key, leader) not in self._requests
            if is_mine and (owner := self._best(key, (me, *joined))) != me:
                self._hand_over(key, leader, owner)

    def _move(self, key: CacheKey, task: TaskId, request: Request, owner: PeerId) -> None:
        """A key that was asked for has another owner."""
        request.owner = owner
        if request.stage is Stage.FETCHES:
            return
        request.tries = 0
        if owner == self._state.me:
            del self._requests[key, task]
            if request.is_waiting:
                self._compute(key, task, request)
        elif request.stage is Stage.ASKED:
            self._ask(key, task, request)
        elif request.is_waiting:
            self._ask_soon(key, task, request)
        elif request.leads:
            self._renews.setdefault(owner, []).append((key, task))

    def _ask_soon(self, key: CacheKey, task: TaskId, request: Request) -> None:
        """Somebody leads this key: let it say so to the new owner first."""
        self._ask_at(key, task, request, self._state.now_ms + self._ask_ms)

    def _hand_over(self, key: CacheKey, leader: Asker | None, owner: PeerId) -> None:
        """A key that this peer owned has another owner. Tasks of other peers find their own way there."""
        self._leases.pop(key, None)
        task, _ = self._cache.disown(key)
        if task is None:
            return
        if task == leader:
            request = self._requests[key, task] = Request(owner, may_wait=True, stage=Stage.COMPUTES)
            self._renew_within(request, self._lease_ms)
            self._renews.setdefault(owner, []).append((key, task))
        else:
            self._deferred.lead(task, key)
            request = self._requests[key, task] = Request(owner, may_wait=True, deferred=True, stage=Stage.WAITS)
            self._ask_soon(key, task, request)

    def gone(self, peer: PeerId) -> None:
        """A member is gone: its tasks lead and wait no more. (`members_changed` comes first.)"""
        for key in self._cache.led_by(peer):
            leader = self._cache.leader(key)
            assert leader is not None
            self._give_up(key, leader)
        for (key, task), request in list(self._requests.items()):
            if request.holders[:1] == [peer]:
                self._fetch_next(key, task, request)

    # ---- time

    def flush(self) -> None:
        """Send what one event has brought up, together."""
        if not (self._losses or self._asks or self._renews or self._aborts):
            return
        for peer, losses in self._losses.items():
            for start in range(0, len(losses), KEYS_PER_MESSAGE):
                keys, holders = zip(*losses[start : start + KEYS_PER_MESSAGE], strict=True)
                self._members.tell(peer, CacheLost(keys=keys, holders=holders))
        for peer, asks in self._asks.items():
            for start in range(0, len(asks), KEYS_PER_MESSAGE):
                keys, ids, may_wait = zip(*asks[start : start + KEYS_PER_MESSAGE], strict=True)
                self._members.tell(peer, CacheAsk(keys=keys, ids=ids, may_wait=may_wait))
        # After the questions: a task that is to lead next waits in line already when the one before it gives up.
        for kind, errands in ((CacheRenew, self._renews), (CacheAbort, self._aborts)):
            for peer, pairs in errands.items():
                for start in range(0, len(pairs), KEYS_PER_MESSAGE):
                    keys, ids = zip(*pairs[start : start + KEYS_PER_MESSAGE], strict=True)
                    self._members.tell(peer, kind(keys=keys, ids=ids))
        self._asks, self._renews, self._aborts, self._losses = {}, {}, {}, {}

    def expire(self) -> None:
        """Take back what was not renewed; renew, and ask again."""
        now_ms = self._state.now_ms
        for key in list(takewhile(lambda key: self._leases[key] <= now_ms, self._leases)):
            leader = self._cache.leader(key)
            assert leader is not None
            self._give_up(key, leader)
        while self._due and self._due[0][0] <= now_ms:
            due_ms, key, task = heapq.heappop(self._due)
            request = self._requests.get((key, task))
            if request is None or request.due_ms != due_ms or not request.is_waiting:
                continue
            if request.stage is Stage.FETCHES:
                self._not_fetched(key, task, request)
            elif request.tries < ASKS_MAX:
                self._ask(key, task, request)
            else:
                self._compute(key, task, request)
        if self._renew_ms is not None and self._renew_ms <= now_ms:
            self._renew_ms = None
            for (key, task), request in self._requests.items():
                if request.leads:
                    self._renews.setdefault(request.owner, []).append((key, task))
                    self._renew_within(request, request.ttl_ms)

    def _not_fetched(self, key: CacheKey, task: TaskId, request: Request) -> None:
        """A holder has not answered in time."""
        if request.tries < FETCHES_MAX:
            self._fetch_again(key, task, request)
        else:
            self._miss(key, request)
            self._fetch_next(key, task, request)

    def deadline_ms(self) -> int | None:
        """When `expire` has something to do."""
        while self._due and not self._is_due(*self._due[0]):
            heapq.heappop(self._due)
        if not (self._due or self._leases) and self._renew_ms is None:
            return None
        times = [due[0] for due in self._due[:1]]
        times += list(self._leases.values())[:1]
        times += [] if self._renew_ms is None else [self._renew_ms]
        return min(times, default=None)

    def _is_due(self, due_ms: int, key: CacheKey, task: TaskId) -> bool:
        request = self._requests.get((key, task))
        return request is not None and request.is_waiting and request.due_ms == due_ms

    def check_invariants(self, ledger: Ledger) -> None:
        """Whoever waits for a key or leads one says so in its record, and nobody else does."""
        assert not self._asks
        assert not self._renews
        assert not self._aborts
        assert not self._losses
        self._places.check_invariants()
        cache = self._cache
        waiting = {record.id: record.waits_for for record in ledger if record.waits_for is not None}
        asking = {task: key for (key, task), request in self._requests.items() if request.is_waiting}
        assert waiting == cache.waiters() | asking
        leads = {(key, record.id) for record in ledger for key in record.leads or ()}
        leaders = cache.leaders()
        assert leads >= {(key, leader) for key, leader in leaders.items() if not isinstance(leader, tuple)}
        assert leads >= self._requests.keys()
        for (key, task), request in self._requests.items():
            assert (request.stage is Stage.FETCHES) == bool(request.holders)
            assert request.owner != self._state.me or request.holders
            assert request.owner in self._ring
            assert not request.is_waiting or (leaders[key] == task and (request.due_ms, key, task) in self._due)
            assert not request.leads or self._renew_ms is not None
        assert self._leases.keys() == {key for key, leader in leaders.items() if isinstance(leader, tuple)}
        assert list(self._leases.values()) == sorted(self._leases.values())
        for record in ledger:
            for lead in (record.leads or {}).values():
                assert not record.phase.ended, record.told()
                assert lead.graph is record.plan.graphs[lead.graph.id], "what a task leads lies in its own plan"


def decline(members: Members, sender: PeerId, message: CacheAsk) -> None:
    """Answer of a peer that does not cache."""
    for key, task in zip(message.keys, message.ids, strict=True):
        members.tell(sender, CacheTell(key=key, id=task, answer=CacheAnswer.COMPUTE))


def _digests(fields: Mapping[str, Value]) -> dict[str, tuple[bytes, ...]]:
    return {name: (block.digests[row],) for name, (block, row) in fields.items() if block.digests}
