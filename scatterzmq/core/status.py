"""Status: a peer's numbers, as it tells them to whoever asks."""

from collections.abc import Mapping

from .claims import Claims
from .messages import ExecutorStats, QueueStats, Stats
from .queues import Queue, QueueKey
from .state import State


def stats(mid: int, state: State, claims: Claims, counters: Mapping[str, int]) -> Stats:
    """Everything `AskStats` is answered with. O(queues + executors)."""
    names = {queue.key: queue.plan.place(queue.node) for queue in state.plans.queues()}
    cache = state.cache
    return Stats(
        mid=mid,
        queues=queue_stats(state, claims),
        executors=_executors(claims, names),
        tasks=state.ledger.counts(),
        counters=counters,
        record_bytes=state.ledger.kept_nbytes,
        cache_entries=0 if cache is None else len(cache),
        cache_bytes=0 if cache is None else cache.nbytes,
        unusable=state.plans.unusable(),
    )


def queue_stats(state: State, claims: Claims) -> tuple[QueueStats, ...]:
    """Those of older plans, too. O(queues)."""
    return tuple([_queue(queue, claims) for queue in state.plans.queues()])


def _queue(queue: Queue, claims: Claims) -> QueueStats:
    return QueueStats(
        id=queue.node.queue,
        name=queue.plan.place(queue.node),
        queue_length=queue.length,
        listeners=claims.loaded(queue),
        weight=queue.weight,
        pressure=queue.pressure,
        expected_pressure=queue.expected_pressure,
        claimants=claims.claimants(queue),
    )


def _executors(claims: Claims, names: Mapping[QueueKey, str]) -> tuple[ExecutorStats, ...]:
    return tuple(
        ExecutorStats(
            id=executor,
            place="" if own is None else names.get(own, ""),
            loaded=tuple(sorted(names[key] for key in loaded if key in names)),
        )
        for executor, (own, loaded) in claims.executors().items()
    )
