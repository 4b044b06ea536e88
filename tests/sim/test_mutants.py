"""Rules taken away one at a time: the simulator must notice each, in a scenario or in the run of a pinned seed.

Whoever changes a rule so that its mutant lives looks for another seed, or for a check that is missing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scatterzmq.core.batches import Batches
from scatterzmq.core.desk import Desk
from scatterzmq.core.leases import Leases
from scatterzmq.core.replicas import Replicas
from scatterzmq.core.takeover import Takeover
from scatterzmq.core.travel import Travel
from scatterzmq.sim.checkers import Violation
from scatterzmq.sim.options import draw
from scatterzmq.sim.runs import run
from tests.sim import test_scenarios as scenarios


def _nothing(*_: Any, **__: Any) -> None:
    """A rule that is not there."""


def _write_without_waiting(self: Any, kind: Any, records: Any, now_ms: int, then: Callable[[], None]) -> None:
    write(self, kind, records, now_ms, _nothing)
    then()


def _take_back_as_if_innocent(self: Any, lease: Any, reason: str, *, crashed: bool, counted: bool) -> None:
    assert isinstance(crashed, bool)
    take_back(self, lease, reason, crashed=False, counted=counted)


def _no_leases(*_: Any) -> list[Any]:
    return []


write, take_back = Replicas.write, Batches.take_back

BY_SCENARIO: dict[str, tuple[type, str, Any, Callable[[Any], None]]] = {
    "a write is over when it is answered": (
        *(Replicas, "write", _write_without_waiting),
        scenarios.test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies,
    ),
    "too few copies are repaired": (
        *(Replicas, "_repair", _nothing),
        scenarios.test_a_holder_of_copies_dies_and_another_one_gets_them,
    ),
    "tasks of a dead owner are adopted": (
        *(Takeover, "reconsider", _nothing),
        scenarios.test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies,
    ),
    "who kills executors is poison": (
        *(Batches, "take_back", _take_back_as_if_innocent),
        scenarios.test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not,
    ),
    "a client that comes back is there again": (
        *(Desk, "heard", _nothing),
        scenarios.test_a_client_that_lost_its_link_is_told,
    ),
}
BY_SEED: dict[str, tuple[type, str, Any, int]] = {
    "a lease ends": (Leases, "expire", _no_leases, 3),
    "who leads a key says when it gives up": (Travel, "_abort_leads", _nothing, 3),
}


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.mark.parametrize("name", list(BY_SCENARIO))
def test_a_rule_taken_away_breaks_its_scenario(name: str, patch: pytest.MonkeyPatch) -> None:
    where, attribute, instead, scenario = BY_SCENARIO[name]
    patch.setattr(where, attribute, instead)
    with pytest.raises((AssertionError, ValueError)):
        scenario(scenarios.new_world)


@pytest.mark.parametrize("name", list(BY_SEED))
def test_a_rule_taken_away_breaks_its_seed(name: str, patch: pytest.MonkeyPatch) -> None:
    where, attribute, instead, seed = BY_SEED[name]
    assert not run(draw(seed)).wrong, "with the rule there is nothing to notice"
    patch.setattr(where, attribute, instead)
    assert run(draw(seed)).wrong


def test_an_owner_that_does_not_stop_a_task_that_kills_executors_is_found_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batches, "_crashed", lambda self, record, failure: self._travel.reclaimed(record, failure))
    with pytest.raises(Violation, match="killed 5 executors, allowed are 4"):
        scenarios.test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not(scenarios.new_world)
