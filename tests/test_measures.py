"""Measures: what is told of queues, to whom, and how often."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from scatterzmq.core.messages import QueueStats
from scatterzmq.core.peer import PeerCore
from scatterzmq.measures import NUMBERS, Measures


class Core:
    """Of which only the queues are asked for. looks: how often."""

    def __init__(self) -> None:
        self.there: tuple[QueueStats, ...] = ()
        self.looks = 0

    def queues(self) -> tuple[QueueStats, ...]:
        self.looks += 1
        return self.there


def queue(name: str = "a:main:n", **numbers: Any) -> QueueStats:
    given: dict[str, Any] = {"id": "Q1", "name": name, "queue_length": 0, "listeners": 0}
    return QueueStats(**given | numbers)


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def told() -> list[tuple[str, Mapping[str, Any]]]:
    return []


@pytest.fixture
def make(core: Core, told: list[tuple[str, Mapping[str, Any]]]) -> Callable[..., Measures]:
    def measures(wants: Callable[[str], bool] = lambda _: True) -> Measures:
        return Measures(cast(PeerCore, core), lambda *event: told.append(event), wants, 5.0)

    return measures


def test_every_number_has_an_event(make: Callable[..., Measures], core: Core, told: list[Any]) -> None:
    core.there = (queue(queue_length=1, listeners=2, weight=3.0, pressure=4.0, expected_pressure=5.0, claimants=6),)
    make().tick(100.0)
    assert [name for name, _ in told] == list(NUMBERS)
    values = {name: context["value"] for name, context in told}
    assert values["measure.queue.length"] == 1
    assert sorted(values.values()) == [1, 2, 3, 4, 5, 6]
    assert {context["node"] for _, context in told} == {"a:main:n"}


def test_only_what_has_changed_and_not_too_often(make: Callable[..., Measures], core: Core, told: list[Any]) -> None:
    measures = make(lambda name: name == "measure.queue.length")
    for now_s, length in ((100.0, 3), (104.9, 4), (105.0, 3), (110.0, 5), (115.0, 0), (120.0, 0)):
        core.there = (queue(queue_length=length),)
        measures.tick(now_s)
    assert [context["value"] for _, context in told] == [3, 5, 0]
    assert core.looks == 5
    assert measures.due_s() == 125.0


def test_a_queue_that_is_gone_is_empty(make: Callable[..., Measures], core: Core, told: list[Any]) -> None:
    measures = make()
    core.there = (queue(queue_length=3), queue("b:main:n"))
    measures.tick(1.0)
    core.there = ()
    measures.tick(6.0)
    measures.tick(11.0)
    assert told == [("measure.queue.length", {"node": "a:main:n", "value": value}) for value in (3, 0)]


def test_definitions_of_one_name_are_one(make: Callable[..., Measures], core: Core, told: list[Any]) -> None:
    """An old one is emptied while the new one fills up."""
    core.there = (queue(queue_length=3), queue(queue_length=4))
    make().tick(1.0)
    assert [context["value"] for _, context in told] == [7]
