"""Plans: the definitions this peer knows, and the queues of the tasks that run on them.

Rules     1. A namespace names one current plan; tasks run on the plan they were submitted to, to the end.
          2. A plan that is not current any more goes with the last task that runs on it; results do not need it.
          3. `waiting` has exactly the queues with tasks in them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..graph.plan import NodePlan, Plan
from ..ids import QueueId
from .actions import RetirePlan
from .messages import NamespaceInfo
from .outbox import Outbox
from .queues import Queue, QueueKey


@dataclass(slots=True)
class _Loaded:
    plan: Plan
    queues: dict[QueueId, Queue]
    tasks: int = 0


class Plans:
    """All plans of one peer by digest, and the current one per namespace."""

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._loaded: dict[bytes, _Loaded] = {}
        self._current: dict[str, bytes] = {}
        self._waiting: dict[QueueKey, Queue] = {}

    def current(self, ns: str) -> Plan | None:
        """The plan that new tasks of a namespace run on; None if it is not loaded."""
        digest = self._current.get(ns)
        return None if digest is None else self._loaded[digest].plan

    def plan(self, digest: bytes) -> Plan | None:
        """A plan by its digest, current or not; None if it is not here."""
        loaded = self._loaded.get(digest)
        return None if loaded is None else loaded.plan

    def namespaces(self) -> Iterator[Plan]:
        """The current plans, by name."""
        for ns in sorted(self._current):
            yield self._loaded[self._current[ns]].plan

    def install(self, plan: Plan) -> None:
        """Make a plan the current one of its namespace."""
        before = self._current.get(plan.ns)
        if plan.digest not in self._loaded:
            queues = {queue: Queue(plan, node) for queue, node in plan.queues.items()}
            self._loaded[plan.digest] = _Loaded(plan, queues)
        self._current[plan.ns] = plan.digest
        if before is not None and before != plan.digest:
            self._retire(before)

    def enter(self, plan: Plan) -> None:
        """A task begins to run on a plan."""
        self._loaded[plan.digest].tasks += 1

    def leave(self, plan: Plan) -> None:
        """A task has ended."""
        loaded = self._loaded[plan.digest]
        loaded.tasks -= 1
        self._retire(plan.digest)

    def queue(self, plan: Plan, node: NodePlan) -> Queue:
        return self._loaded[plan.digest].queues[node.queue]

    def find(self, key: QueueKey) -> Queue | None:
        """The queue of a key; None if its plan has gone."""
        loaded = self._loaded.get(key[0])
        return None if loaded is None else loaded.queues.get(key[1])

    def queues(self) -> Iterator[Queue]:
        """All queues, those of older plans too."""
        for loaded in self._loaded.values():
            yield from loaded.queues.values()

    def waiting(self) -> list[Queue]:
        """The queues that have tasks."""
        return list(self._waiting.values())

    def filled(self, queue: Queue) -> None:
        """A task has been put into a queue."""
        self._waiting[queue.key] = queue

    def emptied(self, queue: Queue) -> None:
        """Tasks have been taken out of a queue."""
        if not queue.length:
            self._waiting.pop(queue.key, None)

    def check_invariants(self) -> None:
        assert self._waiting.keys() == {queue.key for queue in self.queues() if queue.length}
        current = set(self._current.values())
        assert all(loaded.tasks > 0 or digest in current for digest, loaded in self._loaded.items())
        for queue in self.queues():
            queue.check_invariants()

    def _retire(self, digest: bytes) -> None:
        loaded = self._loaded[digest]
        if not loaded.tasks and self._current.get(loaded.plan.ns) != digest:
            del self._loaded[digest]
            self._out.work(RetirePlan(digest=digest))


def describe(plan: Plan) -> NamespaceInfo:
    """What a client must know to submit to a plan."""
    entry = plan.graphs[plan.entry]
    return NamespaceInfo(
        ns=plan.ns,
        digest=plan.digest,
        entry=plan.qualified(plan.entry),
        inputs=entry.input_format,
        outputs=entry.output_format,
        digests=plan.digests,
        description=entry.description,
    )
