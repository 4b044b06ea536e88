"""The nodes that are loaded in this process, shared by its executors, within a budget of memory.

Rules   1. A node is loaded at most once, however many executors want it; its lock is held while it is loaded,
           runs (unless its class says `thread_safe`) or is unloaded.
        2. The load costs of all loaded nodes stay within the budget. What has not been used for longest goes first;
           a node in use never goes. A node larger than the budget is loaded when no other is.
        3. Who has to wait for room keeps newcomers out until there is room, so that it is not starved.
        4. Every wait ends: whoever waits behind a node that hangs must not use up its own batch's time there.
Why     Nobody holds one node while asking for another, so a wait for room ends when the nodes in use are done.
        An executor that hangs in a node is given up: the node is then forgotten, and loaded anew for others.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from threading import TIMEOUT_MAX, Condition, Lock, RLock
from typing import TYPE_CHECKING, TypeAlias

from ..errors import ErrorCode, ScatterError
from ..frozen import frozen
from ..graph.formats import Format
from ..graph.plan import NodePlan, Plan
from ..ids import ExecutorId, NodeId, QueueId
from ..settings import ExecutorSettings
from .device import release_all_memory, release_memory
from .failure import Failure, attempt

if TYPE_CHECKING:
    import torch

    from ..nodes.base import CallSite, Node
    from ..nodes.registry import Registry
    from .blobs import BlobStore

Reporter: TypeAlias = Callable[[str, Mapping[str, str | int | float]], None]
"""Called with the dotted name of an event and its context, from the thread where it happened."""


class LoadFailed(ScatterError):  # noqa: N818 -- says what happened
    """A node could not be made or loaded; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@frozen(eq=False)
class Loaded:
    """A loaded node with what it stated, asked once: a node may take its time to say it.

    place: "ns:graph:node". announces: whether its class has an `expected` of its own.
    """

    node: "Node"
    inputs: Format
    outputs: Mapping[str, Format]
    calls: "tuple[CallSite, ...]"
    place: str
    announces: bool


@dataclass(slots=True, eq=False)
class _Entry:
    """A node that is loaded, or about to be.

    running: who is between `use` and its end, or unloads it. used_at: by the counter of uses.
    counted: whether its cost is part of the sum. forgotten: no longer in the table; whoever is last unloads it.
    """

    plan: Plan
    node: NodePlan
    guard: Lock = field(default_factory=Lock)
    running: set[ExecutorId] = field(default_factory=set)
    copy: Loaded | None = None
    used_at: int = 0
    counted: bool = False
    forgotten: bool = False


class LoadedNodes:
    """All loaded nodes of a process. Its methods may be called from any thread.

    budget: the sum of load costs (bytes) to stay within. version: grows whenever `loaded` changes.
    """

    def __init__(
        self,
        registry: "Registry",
        blobs: "BlobStore",
        settings: ExecutorSettings,
        device: "torch.device",
        report: Reporter | None = None,
    ) -> None:
        self.device = device
        self.version = 0
        self._registry = registry
        self._blobs = blobs
        self._budget = settings.node_memory_bytes
        self._report = report
        self._lock = RLock()
        self._changed = Condition(self._lock)  # the same lock, which is quicker to take by itself
        self._entries: dict[tuple[bytes, NodeId], _Entry] = {}
        self._memories: dict[NodeId, dict[str, object]] = {}
        self._cost = 0.0
        self._uses = 0
        self._waiting: set[_Entry] = set()
        self._retired: list[_Entry] = []

    def use(self, plan: Plan, node: NodePlan, user: ExecutorId, wait_s: float = inf) -> "_Use":
        """The loaded node, from now to the end of the context; nobody else runs it then unless it is thread-safe.

        Waits for room and for its turn, `wait_s` at most. Raises LoadFailed. A user uses one node at a time.
        """
        until_s = time.monotonic() + wait_s
        entry = self._enter(plan, node, user, until_s)
        use = _Use(entry, user, self._leave)
        try:
            if not entry.guard.acquire(blocking=False) and not entry.guard.acquire(timeout=_left_s(until_s)):
                raise _waited_in_vain(plan, node, "for its turn at")
            use.holds_guard = True
            copy = entry.copy or self._load(entry, user, until_s)
            if copy.node.thread_safe:
                use.holds_guard = False
                entry.guard.release()
            use.copy = copy
        finally:
            if use.copy is None:
                use.__exit__()
        return use

    def loaded(self) -> tuple[tuple[bytes, QueueId], ...]:
        """(plan digest, queue) of the nodes that are loaded now, sorted; nodes inside of blocks have no queue."""
        with self._changed:
            return tuple(
                sorted(
                    (entry.plan.digest, entry.node.queue)
                    for entry in self._entries.values()
                    if entry.copy is not None and entry.node.queue in entry.plan.queues
                )
            )

    def abandon(self, user: ExecutorId) -> None:
        """This user hangs: forget the node that it is in, so that nobody waits for it. Should the user come back,
        it unloads that node.
        """
        with self._changed:
            for entry in list(self._entries.values()):
                if user in entry.running:
                    self._forget(entry)
            self._changed.notify_all()

    def unload_idle(self, user: ExecutorId) -> bool:
        """Unload all nodes that nobody uses, because memory is short; whether there were any."""
        unloaded = False
        while self._evict(user):
            unloaded = True
        return unloaded

    def retire(self, digest: bytes) -> None:
        """No task needs this plan any more: forget its nodes. The next executor that uses a node unloads them,
        because the caller's thread must not wait for that.
        """
        with self._changed:
            for entry in list(self._entries.values()):
                if entry.plan.digest == digest:
                    self._forget(entry)
                    if not entry.running:
                        self._retired.append(entry)

    def close(self) -> None:
        """Unload all nodes; one that is in use is unloaded when its last user is done with it."""
        with self._changed:
            entries = list(self._entries.values())
            for entry in entries:
                self._forget(entry)
            self._changed.notify_all()
            self._retired += [entry for entry in entries if not entry.running]
        self._unload_retired()

    # ---- coming and going

    def _enter(self, plan: Plan, node: NodePlan, user: ExecutorId, until_s: float) -> _Entry:
        if self._retired:
            self._unload_retired()
        with self._lock:
            while self._waiting:
                if not self._changed.wait(_left_s(until_s)):
                    raise _waited_in_vain(plan, node, "behind another that needs memory for")
            key = (plan.digest, node.id)
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry(plan, node)
            self._uses += 1
            entry.used_at = self._uses
            entry.running.add(user)
            return entry

    def _leave(self, entry: _Entry, user: ExecutorId) -> None:
        with self._lock:
            entry.running.discard(user)
            is_last = not entry.running
            if is_last and entry.copy is None and not entry.forgotten:
                self._forget(entry)
            if self._waiting:
                self._changed.notify_all()
        if is_last and entry.forgotten:
            self._unload(entry)

    def _forget(self, entry: _Entry) -> None:
        if self._entries.get((entry.plan.digest, entry.node.id)) is entry:
            del self._entries[entry.plan.digest, entry.node.id]
        entry.forgotten = True
        self._discount(entry)

    def _discount(self, entry: _Entry) -> None:
        if entry.counted:
            entry.counted = False
            self._cost -= entry.node.load_cost
            self.version += 1

    # ---- loading, by a user who holds the entry's guard

    def _load(self, entry: _Entry, user: ExecutorId, until_s: float) -> Loaded:
        while not self._has_room(entry, until_s):
            self._evict(user)
        copy, failure = self._try_load(entry)
        if failure is not None and failure.code == ErrorCode.OUT_OF_MEMORY:
            # Load costs are estimates: when memory is short after all, everything that is not in use goes.
            self.unload_idle(user)
            release_all_memory(self.device, thorough=True)
            copy, failure = self._try_load(entry)
        with self._changed:
            if failure is not None:
                self._discount(entry)
            entry.copy = copy
            self.version += 1
        if copy is None:
            assert failure is not None
            raise LoadFailed(failure)
        self._tell("tally.node.load", entry, {"load_cost": entry.node.load_cost})
        return copy

    def _has_room(self, entry: _Entry, until_s: float) -> bool:
        """Whether the node may be loaded now; then its cost is counted. False: something is there to be evicted.
        Waits while all that is loaded is in use.
        """
        with self._changed:
            while not entry.forgotten:
                others = [other for other in self._entries.values() if other.counted]
                if not others or self._cost + entry.node.load_cost <= self._budget:
                    entry.counted = True
                    self._cost += entry.node.load_cost
                    break
                if self._victim() is not None:
                    return False
                self._waiting.add(entry)
                if not self._changed.wait(_left_s(until_s)):
                    break
            self._waiting.discard(entry)
            self._changed.notify_all()
            if not entry.counted:
                raise _waited_in_vain(entry.plan, entry.node, "for memory for")
        return True

    def _victim(self) -> _Entry | None:
        """The loaded node that nobody uses and that has not been used for longest."""
        idle = [entry for entry in self._entries.values() if entry.copy is not None and not entry.running]
        return min(idle, key=lambda entry: entry.used_at, default=None)

    def _evict(self, user: ExecutorId) -> bool:
        """Unload the least useful node; False if all are in use."""
        with self._changed:
            victim = self._victim()
            if victim is None:
                return False
            # Now it is in use by us: newcomers wait for its guard and load it again.
            victim.running.add(user)
            free = victim.guard.acquire(blocking=False)
            assert free, "a node without users has its guard taken"
        try:
            self._unload(victim)
            with self._changed:
                self._discount(victim)
        finally:
            victim.guard.release()
            self._leave(victim, user)
        return True

    def _try_load(self, entry: _Entry) -> tuple[Loaded | None, Failure | None]:
        made: list[Node] = []
        stated: list[Loaded] = []
        failure = attempt(partial(self._create, entry, made, stated))
        if failure is None:
            return stated[0], None
        if made:
            # What was loaded halfway is let go of; a second error would only hide the first.
            attempt(made[0].unload)
        place = entry.plan.place(entry.node)
        return None, replace(failure, message=f"{place} cannot be loaded: {failure.message}", whole=True)

    def _create(self, entry: _Entry, made: "list[Node]", stated: list[Loaded]) -> None:
        from ..nodes.base import Node, Resources

        node, plan = entry.node, entry.plan
        copy = self._registry.create(node.kind, node.args, ns=plan.ns, place=plan.place(node))
        made.append(copy)
        copy.load(
            Resources(
                blobs=self._blobs.settled(plan.blobs),
                make_scratch=partial(self._blobs.scratch, node.id),
                device=self.device,
                memory=self._memories.setdefault(node.id, {}),
            )
        )
        stated.append(
            Loaded(
                node=copy,
                inputs=copy.inputs(),
                outputs=copy.outputs(),
                calls=tuple(copy.calls()),
                place=plan.place(node),
                announces=type(copy).expected is not Node.expected,
            )
        )

    def _unload_retired(self) -> None:
        with self._changed:
            retired, self._retired = self._retired, []
        for entry in retired:
            self._unload(entry)

    def _unload(self, entry: _Entry) -> None:
        copy, entry.copy = entry.copy, None
        if copy is None:
            return
        failure = attempt(copy.node.unload)
        del copy
        release_memory(self.device)
        self._tell("tally.node.unload", entry, {})
        if failure is not None:
            self._tell("warning.node.unload", entry, {"message": failure.message, "traceback": failure.traceback})

    def _tell(self, name: str, entry: _Entry, context: Mapping[str, str | int | float]) -> None:
        if self._report is not None:
            self._report(name, {"node": entry.plan.place(entry.node), **context})


class _Use:
    """The context that `LoadedNodes.use` returns. One is made per batch; a generator would cost twice as much."""

    __slots__ = ("_entry", "_leave", "_user", "copy", "holds_guard")

    def __init__(self, entry: _Entry, user: ExecutorId, leave: Callable[[_Entry, ExecutorId], None]) -> None:
        self.copy: Loaded | None = None
        self.holds_guard = False
        self._entry = entry
        self._user = user
        self._leave = leave

    def __enter__(self) -> Loaded:
        assert self.copy is not None, "loaded when the context is made"
        return self.copy

    def __exit__(self, *_: object) -> None:
        try:
            if self.holds_guard:
                self._entry.guard.release()
        finally:
            self._leave(self._entry, self._user)


def _left_s(until_s: float) -> float:
    """As a timeout of a lock."""
    return min(max(until_s - time.monotonic(), 0.0), TIMEOUT_MAX)


def _waited_in_vain(plan: Plan, node: NodePlan, what: str) -> LoadFailed:
    message = f"waited too long {what} {plan.place(node)}: other executors use it, or what is loaded instead of it"
    return LoadFailed(Failure(code=ErrorCode.DEFUNCT_EXECUTOR, message=message, whole=True))
