"""Plans: the definitions this peer has, and the queues of the tasks that run on them.

Rules     1. A namespace names one current plan; tasks run on the plan they were submitted to, to the end.
          2. A definition is here as long as somebody uses it: a namespace, a task (also one that has ended: whoever is
             to get a copy of it next may ask for its definition), a copy of a task, or whoever asked for it. It is used
             first and comes later.
          3. A definition may be here as text only: before it has been checked, and as long as nobody can run it who is
             there. If others can, its plan is here, too, and nothing of it runs here (`Queue.runs`).
          4. `waiting` has exactly the queues with tasks in them; they see to it themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..graph.plan import NodePlan, Plan
from ..ids import GraphId, QueueId
from .actions import RetirePlan
from .cache import origins_of
from .messages import NamespaceInfo
from .needed import needed
from .outbox import Outbox
from .queues import Queue, QueueKey


@dataclass(slots=True)
class _Known:
    """text: None until it has come. checked: it is known if `plan` is there. why_not: why nothing of it runs here."""

    text: str | None = None
    plan: Plan | None = None
    checked: bool = False
    why_not: str = ""
    needed: frozenset[tuple[GraphId, str]] = frozenset()
    queues: dict[QueueId, Queue] = field(default_factory=dict)
    uses: int = 0


class Plans:
    """All definitions of one peer by digest, and the current one per namespace.

    waiting: the queues that have tasks.
    touched: queues whose numbers (or those of their executors) may have changed since somebody cleared it.
    """

    def __init__(self, out: Outbox) -> None:
        self._out = out
        self._known: dict[bytes, _Known] = {}
        self._current: dict[str, bytes] = {}
        self.waiting: dict[QueueKey, Queue] = {}
        self.touched: dict[QueueKey, None] = {}

    # ---- what is here

    def current(self, ns: str) -> Plan | None:
        """The plan that new tasks of a namespace run on; None if it is not loaded, or nobody can run it."""
        digest = self._current.get(ns)
        return None if digest is None else self._known[digest].plan

    def namespaces(self) -> Iterator[Plan]:
        """The current plans, by name."""
        for ns in sorted(self._current):
            plan = self.current(ns)
            if plan is not None:
                yield plan

    def unusable(self) -> dict[str, str]:
        """Namespaces of which nothing can run here -> why."""
        whys = {ns: self._known[digest].why_not for ns, digest in sorted(self._current.items())}
        return {ns: why for ns, why in whys.items() if why}

    def why_none(self, ns: str) -> str:
        """What is the matter with a namespace that has no plan here."""
        digest = self._current.get(ns)
        return "is not loaded" if digest is None else f"cannot run: {self._known[digest].why_not}"

    def plan(self, digest: bytes) -> Plan | None:
        """The plan, if it is here and somebody can run it."""
        known = self._known.get(digest)
        return None if known is None else known.plan

    def text(self, digest: bytes) -> str | None:
        """The definition (JSON text), if it is here."""
        known = self._known.get(digest)
        return None if known is None else known.text

    def is_checked(self, digest: bytes) -> bool:
        """Whether it is here, and known whether it can run here."""
        known = self._known.get(digest)
        return known is not None and known.checked

    def is_used(self, digest: bytes) -> bool:
        """Whether somebody uses (or waits for) it."""
        return digest in self._known

    # ---- coming and going

    def add_text(self, digest: bytes, text: str) -> None:
        """A definition that somebody uses has come."""
        self._known[digest].text = text

    def add(self, plan: Plan, why_not: str = "") -> None:
        """A definition that somebody uses has been checked. why_not: why nothing of it can run here, if so."""
        known = self._known[plan.digest]
        known.checked = True
        if known.plan is None:
            known.text, known.plan = plan.definition, plan
            known.needed = needed(plan)
            known.queues = {queue: Queue(plan, node, self.touched, self.waiting) for queue, node in plan.queues.items()}
        # One that was here before may be loaded still, and others are told what cannot run here.
        self.touched |= dict.fromkeys([queue.key for queue in known.queues.values()])
        known.why_not = why_not
        for queue in known.queues.values():
            queue.runs = not why_not

    def add_unusable(self, digest: bytes, why_not: str) -> None:
        """A definition that somebody uses has been checked, and nobody who is there can run it."""
        known = self._known[digest]
        known.checked, known.why_not = True, why_not

    def make_current(self, ns: str, digest: bytes) -> None:
        """New tasks of this namespace run on this definition."""
        before = self._current.get(ns)
        self._current[ns] = digest
        self.keep(digest)
        if before is not None:
            self.release(before)

    def keep(self, digest: bytes) -> None:
        """One more use of a definition, which need not be here yet."""
        known = self._known.get(digest)
        if known is None:
            known = self._known[digest] = _Known()
        known.uses += 1

    def release(self, digest: bytes) -> None:
        """One use less (a task is forgotten, for example); without any it goes."""
        known = self._known[digest]
        known.uses -= 1
        if not known.uses:
            del self._known[digest]
            self.touched |= dict.fromkeys([queue.key for queue in known.queues.values()])
            if known.plan is not None:
                self._out.work(RetirePlan(digest=digest))

    def enter(self, plan: Plan, tasks: int = 1) -> None:
        """Tasks have come that run on a plan, which is here; `release` when they are forgotten."""
        self._known[plan.digest].uses += tasks

    # ---- queues

    def needed(self, plan: Plan) -> frozenset[tuple[GraphId, str]]:
        """What owners of its tasks need themselves (core/needed.py)."""
        return self._known[plan.digest].needed

    def queue(self, plan: Plan, node: NodePlan) -> Queue:
        return self._known[plan.digest].queues[node.queue]

    def find(self, key: QueueKey) -> Queue | None:
        """The queue of a key; None if its plan has gone."""
        known = self._known.get(key[0])
        return None if known is None else known.queues.get(key[1])

    def queues(self) -> Iterator[Queue]:
        """All queues, those of older plans too."""
        for known in self._known.values():
            yield from known.queues.values()

    def check_invariants(self) -> None:
        assert self.waiting == {queue.key: queue for queue in self.queues() if queue.length}
        assert all(digest in self._known for digest in self._current.values())
        for digest, known in self._known.items():
            assert known.uses > 0
            assert known.checked or known.plan is None
            assert known.plan is None or (known.plan.digest, known.plan.definition) == (digest, known.text)
        for queue in self.queues():
            queue.check_invariants()


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
        cached=origins_of(plan),
    )
