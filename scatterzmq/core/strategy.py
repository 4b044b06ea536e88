"""Strategies: which node an executor works for next, and which of its tasks go first. Plug-in points.

Rules     1. An executor that has nothing to do takes any node with waiting tasks: strategies only rank them.
          2. An executor whose node has tasks leaves it only if the strategy wants to switch.
          3. Whatever a strategy does wrong comes out as StrategyFailed; the caller reports it and falls back.
Why       A strategy may be foreign code: it sees frozen numbers, decides between two nodes, and cannot break the peer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType

from ..frozen import frozen
from .queues import QueueKey

_LOAD_COST_MIN = 1e-9
"""A node that costs nothing to load still needs something to divide by."""


@frozen()
class NodeView:
    """The numbers of one node and its queue, over all peers that are known.

    length: waiting tasks. weight: sum of theirs. pressure: sum of weight * bytes.
    expected_pressure: total weight * total bytes that running batches have announced.
    load_cost: of loading the node (bytes of weights, or any comparable cost).
    claimants: executors that have tasks of this queue claimed. loaded: executors that have the node loaded.
    """

    key: QueueKey
    length: int
    weight: float
    pressure: float
    expected_pressure: float
    load_cost: float
    claimants: int
    loaded: int


class NodeStrategy(ABC):
    """Ranks nodes. One object per peer; both methods answer from the two views alone."""

    @abstractmethod
    def prefer(self, left: NodeView, right: NodeView) -> bool:
        """Whether an executor should rather work for `left`."""

    @abstractmethod
    def want_to_switch(self, own: NodeView, other: NodeView) -> bool:
        """Whether an executor should leave `own`, which has waiting tasks, for `other`."""


class QueueStrategy(ABC):
    """Orders the tasks of one queue."""

    @abstractmethod
    def priority(self, weight: float, retries: int) -> float:
        """Rank of a task when it joins a queue; higher goes first, the older task among equals."""


class SimpleNodeStrategy(NodeStrategy):
    """The most work, waiting and announced, per cost of loading."""

    def prefer(self, left: NodeView, right: NodeView) -> bool:
        return _score(left) > _score(right)

    def want_to_switch(self, own: NodeView, other: NodeView) -> bool:
        return _score(other) > _score(own)


class DedicatedNodeStrategy(NodeStrategy):
    """For as many executors as nodes: spread over the nodes, then stay."""

    def prefer(self, left: NodeView, right: NodeView) -> bool:
        left_deserted = left.length > 0 and left.loaded == 0
        right_deserted = right.length > 0 and right.loaded == 0
        if left_deserted != right_deserted:
            return left_deserted
        if abs(left.loaded - right.loaded) > 1:
            return left.loaded < right.loaded
        return left.length > right.length

    def want_to_switch(self, own: NodeView, other: NodeView) -> bool:
        deserted = other.length > 0 and other.loaded == 0
        return (own.length == 0 and deserted) or own.loaded > other.loaded + 1


class SimpleQueueStrategy(QueueStrategy):
    """Tasks that have come far first, and all the more the more often they were started again."""

    def priority(self, weight: float, retries: int) -> float:
        return weight * (retries + 1)


NODE_STRATEGIES: Mapping[str, type[NodeStrategy]] = MappingProxyType(
    {"simple": SimpleNodeStrategy, "dedicated": DedicatedNodeStrategy}
)
QUEUE_STRATEGIES: Mapping[str, type[QueueStrategy]] = MappingProxyType({"simple": SimpleQueueStrategy})


class StrategyFailed(Exception):  # noqa: N818 -- says what happened; the peer turns it into a report
    """A strategy raised, or answered something that is no answer.

    Attributes:
        name: class of the strategy, with its module.
        message: what happened.
    """

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        self.message = message
        super().__init__(f"strategy {name}: {message}")


def choose(strategy: NodeStrategy, views: Sequence[NodeView], own: NodeView | None) -> NodeView | None:
    """The node that a free executor works for next; None if no other node has tasks and its own has none.

    views: nodes with waiting tasks, in an order that does not change between runs (the first of equals wins).
    own: the node that the executor worked for last, whether it has tasks or not.
    Raises StrategyFailed.
    """
    others = [view for view in views if own is None or view.key != own.key]
    keep = own if own is not None and own.length > 0 else None
    if not others:
        return keep

    best = others[0]
    try:
        for view in others[1:]:
            if strategy.prefer(view, best):
                best = view
        return best if keep is None or strategy.want_to_switch(keep, best) else keep
    except Exception as error:  # foreign code may raise anything
        raise _failed(strategy, error) from error


def priority_of(strategy: QueueStrategy, weight: float, retries: int) -> float:
    """The strategy's priority for a task. Raises StrategyFailed, also for a priority that is not a finite number."""
    try:
        answer = float(strategy.priority(weight, retries))
    except Exception as error:  # foreign code may raise anything
        raise _failed(strategy, error) from error
    if not isfinite(answer):
        raise _failed(strategy, ValueError(f"priority({weight}, {retries}) is {answer}, expected a finite number"))
    return answer


def _failed(strategy: NodeStrategy | QueueStrategy, error: Exception) -> StrategyFailed:
    kind = type(strategy)
    return StrategyFailed(f"{kind.__module__}.{kind.__qualname__}", f"{type(error).__name__}: {error}")


def _score(view: NodeView) -> float:
    return (view.length + view.expected_pressure + view.pressure) / max(view.load_cost, _LOAD_COST_MIN)
