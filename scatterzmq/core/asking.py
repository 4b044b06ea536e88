"""Asking: whom this peer's idle executors ask for tasks.

Purpose   Believes something of the queues of others, and claims batches where nothing waits here.
Rules     1. An owner that had nothing is not asked again for that queue before it says something new of it, or asks for
             help. Where many are idle, few ask (core/nudges.py).
          2. A claim is said again until it is answered, the owner is gone, or whatever it was granted has run out.
          3. Where no owner has enough for a batch, up to OWNERS_MAX are asked at once, each for a part of it.
"""

from bisect import bisect
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import accumulate

from ..ids import ExecutorId, PeerId
from .batches import Batches
from .claims import Claims
from .executors import Executors
from .nudges import precedence
from .peermessages import Claim, Grant, Nudge, QueueStates
from .queues import Queue, QueueKey
from .state import State

OWNERS_MAX = 3
"""A batch is filled from so many owners."""


@dataclass(slots=True, eq=False)
class Ask:
    """A claim under way. tasks: how many are believed to come of it. sent: false until it has left.

    until_ms: it is not waited for any longer.
    """

    message: Claim
    owner: PeerId
    key: QueueKey
    tasks: int
    until_ms: int
    again_ms: int = 0
    sent: bool = False


class Asking:
    """The claims of this peer's executors. asks: those under way, by executor."""

    def __init__(self, state: State, executors: Executors, batches: Batches, claims: Claims) -> None:
        self._state = state
        self._members = state.members
        self._plans = state.plans
        self._executors = executors
        self._batches = batches
        self._claims = claims
        self.asks: dict[ExecutorId, list[Ask]] = {}
        # (owner, queue) -> by how much it is longer than its owner said last, and when that is forgotten: no word of
        # others is sure to come
        self._since: dict[tuple[PeerId, QueueKey], tuple[int, int]] = {}
        # (owner, queue) for which it is our turn to ask, whoever else is idle; counts for one event
        self._sure: dict[tuple[PeerId, QueueKey], None] = {}
        self._number = 0
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._lease_ms = int(state.settings.timing.lease_s * 1000)
        self.counters = {"claims": 0}

    # ---- claims

    def dispatch(
        self,
        returning: Callable[[ExecutorId], frozenset[PeerId]],
        filling: Container[ExecutorId],
        *,
        look: bool,
    ) -> None:
        """Find owners for idle executors. returning: owners that are told something of an executor now anyway.

        filling: executors with a part of a batch, that wait for the rest. look: something may have changed.
        """
        idle = self._executors.idle
        leaving = self._state.leaving
        for executor in list(self.asks):
            if leaving or not (executor in idle or executor in filling):
                del self.asks[executor]
            else:
                self._keep(executor, lambda ask: self._members.is_heard(ask.owner))
        if look and not leaving and (self._since or self._state.gossip.queues()):
            for executor in [executor for executor in idle if executor not in self.asks]:
                if not self._ask(executor, returning(executor)):
                    break
        if self._sure:
            self._sure = {}

    def _ask(self, executor: ExecutorId, returning: frozenset[PeerId]) -> bool:
        """Claim something for an executor. False if there is nothing for anybody."""
        found = self._found(returning)
        if not found:
            return False
        views = []
        for key, owners in found.items():
            queue = self._plans.find(key)
            assert queue is not None
            view = self._claims.view(queue)
            views.append(view if view.length else replace(view, length=sum(length for _, length in owners)))
        key = self._executors.choose(executor, views)
        queue = self._plans.find(key)
        assert queue is not None
        wanted = self._batches.own_size(queue)
        owner = self._owner(executor, key, found[key], returning)
        others = _filling_up(owner, found[key], wanted) if _may_fill(queue) else []
        size = queue.node.batch_size or self._state.settings.executor.batch_size
        if others:
            size = wanted - sum([tasks for _, tasks in others])
        self.asks[executor] = [
            self._claim(executor, queue, *part)
            for part in ((owner, size, min(size, wanted)), *[(*other, other[1]) for other in others])
        ]
        return True

    def _claim(self, executor: ExecutorId, queue: Queue, owner: PeerId, tasks_max: int, tasks: int) -> Ask:
        self._number += 1
        self.counters["claims"] += 1
        message = Claim(
            claim=self._number,
            executor=executor,
            digest=queue.key[0],
            queue=queue.key[1],
            tasks_max=tasks_max,
            tasks_min=queue.pace.tasks_min(tasks_max),
            task_us=queue.pace.task_us,
        )
        return Ask(message, owner, queue.key, tasks, self._state.now_ms + self._lease_ms)

    def _keep(self, executor: ExecutorId, holds: Callable[[Ask], bool]) -> None:
        """Forget an executor's other claims."""
        left = [ask for ask in self.asks[executor] if holds(ask)]
        if left:
            self.asks[executor] = left
        else:
            del self.asks[executor]

    def _all(self) -> list[Ask]:
        return [ask for asks in self.asks.values() for ask in asks]

    def flush(self) -> None:
        """Send what was not said yet."""
        for ask in self._all():
            if not ask.sent:
                self._say(ask)

    def claim(self, executor: ExecutorId, owner: PeerId) -> Claim | None:
        """What an executor asks an owner for, who is told it now, beside something else."""
        ask = next((ask for ask in self.asks.get(executor, ()) if ask.owner == owner), None)
        if ask is None:
            return None
        self._said(ask)
        return ask.message

    def _say(self, ask: Ask) -> None:
        self._said(ask)
        self._members.tell(ask.owner, ask.message)

    def _said(self, ask: Ask) -> None:
        ask.sent = True
        ask.again_ms = self._state.now_ms + self._ask_ms

    def answered(self, owner: PeerId, message: Grant) -> bool:
        """A grant has come. False if this was not asked for (any more)."""
        key = (message.digest, message.queue)
        asked = (owner, key, message.claim)
        asks = self.asks.get(message.executor, ())
        ask = next((ask for ask in asks if (ask.owner, ask.key, ask.message.claim) == asked), None)
        if ask is None:
            return False
        self._keep(message.executor, lambda other: other is not ask)
        self.correct(owner, key, self.believed(owner, key) - len(message.ids) if message.ids else 0)
        return True

    def gone(self, owner: PeerId) -> None:
        """A member is dead or has left."""
        for executor in list(self.asks):
            self._keep(executor, lambda ask: ask.owner != owner)
        self._since = {key: news for key, news in self._since.items() if key[0] != owner}

    # ---- beliefs

    def _found(self, returning: frozenset[PeerId]) -> dict[QueueKey, list[tuple[PeerId, int]]]:
        """Queues for which a batch could run here -> owners to ask, and how many tasks each is believed to have left.

        returning: owners that are told something now anyway.
        """
        gossip = self._state.gossip
        keys = dict.fromkeys(gossip.queues())
        for (_, key), (more, _) in self._since.items():
            if more > 0:
                keys[key] = None
        found = {}
        for key in keys:
            queue = self._plans.find(key)
            if queue is None or not self._may_run(queue):
                continue
            said = [owner for owner, _ in gossip.owners(key)]
            longer = [owner for (owner, other), (more, _) in self._since.items() if other == key and more > 0]
            owners = [
                (owner, left)
                for owner in dict.fromkeys((*said, *longer))
                if (left := self._left(owner, key)) > 0
                and (owner in returning or (owner, key) in self._sure or self._is_our_turn(owner, queue))
            ]
            if owners:
                found[key] = owners
        return found

    def _may_run(self, queue: Queue) -> bool:
        """Whether a batch of this node may run here, also when all that was asked for has come."""
        if not (queue.runs and self._executors.may_run(queue.key, queue.node)):
            return False
        return queue.node.thread_safe or all(ask.key != queue.key for ask in self._all())

    def _left(self, owner: PeerId, key: QueueKey) -> int:
        """How many tasks an owner is believed to have beyond those that are asked for; 0 if it is not to be asked."""
        if not self._members.is_heard(owner):
            return 0
        asked = [ask.tasks for ask in self._all() if (ask.owner, ask.key) == (owner, key)]
        return self.believed(owner, key) - sum(asked)

    def believed(self, owner: PeerId, key: QueueKey) -> int:
        """How long a queue of an owner is believed to be."""
        said = next((length for other, length in self._state.gossip.owners(key) if other == owner), 0)
        return said + self._since.get((owner, key), (0, 0))[0]

    def correct(self, owner: PeerId, key: QueueKey, length: int) -> None:
        """Something has happened to a queue, of which its owner has not spoken yet."""
        more = self._since.get((owner, key), (0, 0))[0] + max(length, 0) - self.believed(owner, key)
        self._since[owner, key] = (more, self._state.now_ms + self._lease_ms)

    def _is_our_turn(self, owner: PeerId, queue: Queue) -> bool:
        """Whether this peer is among the few that should ask, of all that have nothing to do."""
        size = self._batches.own_size(queue)
        few = 2 * -(-self.believed(owner, queue.key) // size)
        gossip = self._state.gossip
        others = [peer for peer, _ in gossip.idle_peers() if peer != owner and gossip.can_run(peer, queue.key)]
        if len(others) < few:
            return True
        mine = precedence(owner, queue.key, self._state.me)
        return sum(precedence(owner, queue.key, peer) < mine for peer in others) < few

    def _owner(
        self, executor: ExecutorId, key: QueueKey, owners: list[tuple[PeerId, int]], returning: frozenset[PeerId]
    ) -> PeerId:
        """Whom to ask: who hears from us anyway, else the better one of two drawn by length."""
        for owner, _ in owners:
            if owner in returning:
                return owner
        seed = self._state.me.to_bytes() + executor.to_bytes() + key[1].to_bytes() + self._number.to_bytes(8, "big")
        digest = blake2b(seed, digest_size=16).digest()
        return max(_drawn(owners, digest[:8]), _drawn(owners, digest[8:]))[1]

    def nudge(self, owner: PeerId, message: Nudge) -> None:
        """Tasks wait there which nobody takes. Of no use to who has no time now: its owner will say so again."""
        if self.idle_count():
            key = (message.digest, message.queue)
            self._sure[owner, key] = None
            self.correct(owner, key, max(self.believed(owner, key), 1))

    def told(self, owner: PeerId, message: QueueStates) -> None:
        """What an owner says of its queues is all that is believed of them."""
        if message.full:
            self._since = {known: news for known, news in self._since.items() if known[0] != owner}
        for state in message.states:
            self._since.pop((owner, (state.digest, state.queue)), None)

    # ---- time

    def expire(self) -> None:
        """Say again what was not answered, and forget what is too old."""
        now_ms = self._state.now_ms
        for ask in self._all():
            if ask.until_ms <= now_ms:
                self.correct(ask.owner, ask.key, 0)
            elif ask.again_ms <= now_ms:
                self._say(ask)
        for executor in list(self.asks):  # what was granted, if it was, has run out by now
            self._keep(executor, lambda ask: ask.until_ms > now_ms)
        self._since = {key: news for key, news in self._since.items() if news[1] > now_ms}

    @property
    def any_times(self) -> bool:
        """Whether anything will be due."""
        return bool(self.asks or self._since)

    def times(self) -> Iterator[int]:
        """When something is due."""
        for ask in self._all():
            yield min(ask.again_ms, ask.until_ms)
        for _, forget_ms in self._since.values():
            yield forget_ms

    # ---- looking

    def idle_count(self) -> int:
        """Executors that have nothing to do and nothing coming."""
        return len(self._executors.idle.keys() - self.asks.keys())

    def check_invariants(self) -> None:
        assert all(self.asks.values())
        assert all(ask.sent for ask in self._all())
        assert not self._sure


def _may_fill(queue: Queue) -> bool:
    """Whether batches may be filled from several owners. Not while nothing is known of the node: executors beside this
    one may do it sooner. Not within a budget of elements, and not where results stay here: they are whole blocks, and
    each is one owner's.
    """
    return bool(queue.pace.task_us) and queue.node.batch_tokens is None and not queue.results_stay


def _filling_up(first: PeerId, owners: list[tuple[PeerId, int]], wanted: int) -> list[tuple[PeerId, int]]:
    """Whom else to ask, and for how many tasks each, if the first owner does not have enough."""
    lacking = wanted - next(left for owner, left in owners if owner == first)
    others: list[tuple[PeerId, int]] = []
    for owner, left in sorted(owners, key=lambda known: (-known[1], known[0])):
        if lacking > 0 and owner != first and len(others) < OWNERS_MAX - 1:
            others.append((owner, min(left, lacking)))
            lacking -= left
    return others


def _drawn(owners: list[tuple[PeerId, int]], lot: bytes) -> tuple[int, PeerId]:
    """(length, owner) of one of them, the longer queue the more likely."""
    ends = list(accumulate(length for _, length in owners))
    owner, length = owners[bisect(ends, int.from_bytes(lot, "big") % ends[-1])]
    return length, owner
