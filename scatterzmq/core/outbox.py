"""The outbox: actions of one `handle` call, grouped so that everything leaves in batches.

Rules   1. Within one call, ends of tasks are sent once per client and namespace, blocks are kept and freed once.
        2. Order: what is to be written to disk first, because it takes longest; then batches, which run while messages
           are written; links open before messages and close after them; messages before other work, blocks last, so
           that nothing is freed that a message or a batch still needs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..ids import BlockId, ClientId, PeerId
from .actions import Action, CloseLink, FreeBlocks, KeepBlocks, OpenLink, Persist, Publish, Report, RunBatch, Send, Tell
from .messages import ToClient
from .peermessages import BetweenPeers
from .values import Value

PER_TASK = ("debug.task", "cache.hit", "cache.miss", "cache.defer", "cache.promote")
"""Reports that come with every task: made only if somebody listens."""


def told_per_task(wants: Callable[[str], bool]) -> frozenset[str]:
    """What somebody listens to. A value, not a function: what a core does follows from what it was given."""
    return frozenset(filter(wants, PER_TASK))


@dataclass(slots=True)
class Outbox:
    """Collects actions; `take` hands them over and starts anew.

    tells: of PER_TASK, what somebody listens to.
    """

    tells: frozenset[str] = frozenset()
    _batches: list[Action] = field(default_factory=list)
    _messages: list[Action] = field(default_factory=list)
    _work: list[Action] = field(default_factory=list)
    _reports: list[Action] = field(default_factory=list)
    _keep: dict[BlockId, None] = field(default_factory=dict)
    _free: list[BlockId] = field(default_factory=list)
    _persist: Persist | None = None
    _links: dict[PeerId, OpenLink | CloseLink] = field(default_factory=dict)

    def send(self, to: ClientId, message: ToClient, values: Mapping[str, tuple[Value, ...]] | None = None) -> None:
        self._messages.append(Send(to=to, message=message, values=values or {}))

    def tell(
        self,
        to: PeerId,
        incarnation: int,
        message: BetweenPeers,
        values: Mapping[str, tuple[Value, ...]] | None = None,
    ) -> None:
        self._messages.append(Tell(to=to, incarnation=incarnation, message=message, values=values or {}))

    def publish(self, message: BetweenPeers) -> None:
        self._messages.append(Publish(message=message))

    def link(self, change: OpenLink | CloseLink) -> None:
        """Open or close a link; the last word about a peer counts."""
        self._links[change.peer] = change

    def persist(self, action: Persist) -> None:
        """At most one per call."""
        self._persist = action

    def work(self, action: Action) -> None:
        (self._batches if isinstance(action, RunBatch) else self._work).append(action)

    def report(self, name: str, **context: str | float) -> None:
        self._reports.append(Report(name=name, context=context))

    def keep(self, block: BlockId) -> None:
        self._keep[block] = None

    def free(self, block: BlockId) -> None:
        self._keep.pop(block, None)
        self._free.append(block)

    def take(self) -> tuple[Action, ...]:
        actions = self._batches + self._messages + self._work + self._reports
        if self._links:
            links = self._links.values()
            opened: list[Action] = [link for link in links if isinstance(link, OpenLink)]
            closed: list[Action] = [link for link in links if isinstance(link, CloseLink)]
            actions = self._batches + opened + self._messages + closed + self._work + self._reports
            self._links = {}
        if self._persist is not None:
            actions.insert(0, self._persist)
            self._persist = None
        if self._keep:
            actions.insert(0, KeepBlocks(ids=tuple(self._keep)))
            self._keep = {}
        if self._free:
            actions.append(FreeBlocks(ids=tuple(self._free)))
            self._free = []
        if not actions:
            return ()
        self._batches, self._messages, self._work, self._reports = [], [], [], []
        return tuple(actions)
