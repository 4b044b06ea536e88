"""What each strategy prefers, who chooses, and what happens when a strategy goes wrong."""

from dataclasses import replace

import pytest

from scatterzmq.core.strategy import (
    NODE_STRATEGIES,
    QUEUE_STRATEGIES,
    DedicatedNodeStrategy,
    NodeStrategy,
    NodeView,
    QueueStrategy,
    SimpleNodeStrategy,
    SimpleQueueStrategy,
    StrategyFailed,
    choose,
    priority_of,
)
from scatterzmq.ids import QueueId


def view(name: str, length: int = 1, *, loaded: int = 0, load_cost: float = 1.0, pressure: float = 0.0) -> NodeView:
    return NodeView(
        key=(b"digest", QueueId.of("ns", "main", name)),
        length=length,
        weight=float(length),
        pressure=pressure,
        expected_pressure=0.0,
        load_cost=load_cost,
        claimants=0,
        loaded=loaded,
    )


A, B, C = view("a"), view("b"), view("c")


class Stubborn(NodeStrategy):
    """Prefers by length, never switches."""

    def prefer(self, left: NodeView, right: NodeView) -> bool:
        return left.length > right.length

    def want_to_switch(self, own: NodeView, other: NodeView) -> bool:
        return False


class Broken(NodeStrategy):
    def prefer(self, left: NodeView, right: NodeView) -> bool:
        return bool(left.length / 0)

    def want_to_switch(self, own: NodeView, other: NodeView) -> bool:
        raise RuntimeError("no idea")


class Answers(QueueStrategy):
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def priority(self, weight: float, retries: int) -> float:
        return self.answer  # type: ignore[return-value]


def test_names() -> None:
    assert dict(NODE_STRATEGIES) == {"simple": SimpleNodeStrategy, "dedicated": DedicatedNodeStrategy}
    assert dict(QUEUE_STRATEGIES) == {"simple": SimpleQueueStrategy}


# ---- simple


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (replace(A, length=3), replace(B, length=2)),
        (replace(A, pressure=1.5), B),
        (replace(A, expected_pressure=1.5), B),
        (replace(A, length=2, load_cost=1.0), replace(B, length=20, load_cost=100.0)),
        (replace(A, load_cost=0.0), replace(B, length=1000)),
        (replace(A, length=2, load_cost=0.0), replace(B, load_cost=0.0)),
    ],
    ids=["length", "pressure", "expected pressure", "load cost", "free to load", "both free to load"],
)
def test_simple_goes_by_work_per_load_cost(left: NodeView, right: NodeView) -> None:
    simple = SimpleNodeStrategy()
    assert simple.prefer(left, right)
    assert not simple.prefer(right, left)
    assert simple.want_to_switch(right, left)
    assert not simple.want_to_switch(left, right)


def test_simple_adds_up_length_and_both_pressures() -> None:
    simple = SimpleNodeStrategy()
    left = replace(A, length=4, pressure=2.0, expected_pressure=6.0, load_cost=4.0)
    assert simple.prefer(left, replace(B, length=2, load_cost=0.67))
    assert not simple.prefer(left, replace(B, length=3))
    assert not simple.want_to_switch(replace(B, length=3), left)


# ---- dedicated


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (view("a", 1, loaded=0), view("b", 9, loaded=1)),
        (view("a", 1, loaded=1), view("b", 9, loaded=3)),
        (view("a", 3, loaded=2), view("b", 2, loaded=1)),
        (view("a", 3, loaded=0), view("b", 2, loaded=0)),
        (view("a", 1, loaded=1), view("b", 0, loaded=0)),
    ],
    ids=["nobody has it", "spread", "longer, about as many", "longer, nobody has either", "no tasks, no need"],
)
def test_dedicated_spreads_and_then_goes_by_length(left: NodeView, right: NodeView) -> None:
    dedicated = DedicatedNodeStrategy()
    assert dedicated.prefer(left, right)
    assert not dedicated.prefer(right, left)


@pytest.mark.parametrize(
    ("own", "other", "switches"),
    [
        (view("a", 0, loaded=1), view("b", 1, loaded=0), True),
        (view("a", 0, loaded=1), view("b", 1, loaded=1), False),
        (view("a", 0, loaded=1), view("b", 0, loaded=0), False),
        (view("a", 1, loaded=1), view("b", 9, loaded=0), False),
        (view("a", 1, loaded=2), view("b", 1, loaded=0), True),
        (view("a", 1, loaded=3), view("b", 1, loaded=2), False),
    ],
)
def test_dedicated_stays_unless_somebody_is_needed_elsewhere(own: NodeView, other: NodeView, switches: bool) -> None:
    assert DedicatedNodeStrategy().want_to_switch(own, other) is switches


# ---- choose


def test_nothing_to_choose_from() -> None:
    assert choose(SimpleNodeStrategy(), [], None) is None
    assert choose(SimpleNodeStrategy(), [], replace(A, length=0)) is None


def test_an_executor_keeps_its_node_when_nobody_else_has_tasks() -> None:
    assert choose(SimpleNodeStrategy(), [A], A) is A


def test_a_new_executor_takes_the_best() -> None:
    best = replace(B, length=5)
    assert choose(SimpleNodeStrategy(), [A, best, C], None) is best
    assert choose(SimpleNodeStrategy(), [best, A, C], None) is best


def test_the_first_of_equals_wins() -> None:
    assert choose(SimpleNodeStrategy(), [C, A, B], None) is C


def test_an_executor_switches_only_if_the_strategy_wants_to() -> None:
    own, other = replace(A, length=2), replace(B, length=5)
    assert choose(SimpleNodeStrategy(), [own, other], own) is other
    assert choose(SimpleNodeStrategy(), [own, replace(B, length=1)], own) is own
    assert choose(Stubborn(), [own, other], own) is own


@pytest.mark.parametrize("strategy", [SimpleNodeStrategy(), DedicatedNodeStrategy(), Stubborn()])
def test_an_idle_executor_takes_any_task_there_is(strategy: NodeStrategy) -> None:
    """Its own node has none, and the only other one is loaded by many already."""
    other = view("b", 1, loaded=7)
    assert choose(strategy, [other], view("a", 0, loaded=1)) is other


def test_the_same_queue_of_another_plan_is_another_node() -> None:
    newer = replace(A, key=(b"newer", A.key[1]), length=9)
    assert choose(SimpleNodeStrategy(), [A, newer], A) is newer


# ---- strategies that go wrong


def test_what_a_strategy_raises_says_who_and_what() -> None:
    with pytest.raises(StrategyFailed, match="Broken: ZeroDivisionError: division by zero") as failed:
        choose(Broken(), [A, B], None)
    assert failed.value.name.endswith(".Broken")
    assert failed.value.message == "ZeroDivisionError: division by zero"
    with pytest.raises(StrategyFailed, match="RuntimeError: no idea"):
        choose(Broken(), [A, B], A)


def test_a_broken_strategy_is_not_asked_needlessly() -> None:
    assert choose(Broken(), [A], None) is A


# ---- which task first


def test_tasks_that_have_come_far_or_were_started_again_go_first() -> None:
    simple = SimpleQueueStrategy()
    assert priority_of(simple, 2.0, 0) == 2.0
    assert priority_of(simple, 2.0, 2) == 6.0


def test_a_priority_may_be_any_finite_number() -> None:
    assert priority_of(Answers(3), 1.0, 0) == 3.0


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), None, "high"])
def test_other_priorities_are_failures(answer: object) -> None:
    with pytest.raises(StrategyFailed, match=r"Answers: (ValueError|TypeError): "):
        priority_of(Answers(answer), 1.0, 0)
