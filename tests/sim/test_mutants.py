"""Rules taken away one at a time: the simulator must notice each, in a scenario or in the run of a pinned seed.

Rules on which safety stands break something that is checked. Those that only save work are found by counting it.
Whoever changes a rule so that its mutant lives looks for another scenario or seed, or for a check that is missing.
"""

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from typing import Any, TypeAlias

import pytest

from scatterzmq.core import copies, member
from scatterzmq.core.batches import Batches
from scatterzmq.core.blocks import Blocks
from scatterzmq.core.cacheowners import CacheOwners
from scatterzmq.core.copies import Copies, version_in
from scatterzmq.core.desk import Desk
from scatterzmq.core.fetches import Fetches
from scatterzmq.core.leases import Lease, Leases
from scatterzmq.core.lending import Lending
from scatterzmq.core.members import Members
from scatterzmq.core.payloads import Payloads
from scatterzmq.core.punctual import Punctual
from scatterzmq.core.replicas import Replicas
from scatterzmq.core.state import State
from scatterzmq.core.takeover import Takeover
from scatterzmq.core.travel import Travel
from scatterzmq.core.versions import Version
from scatterzmq.ids import BlockId
from scatterzmq.sim.checkers import Violation
from scatterzmq.sim.options import Options
from scatterzmq.sim.runs import run
from tests.core import test_restoring as restoring
from tests.sim import test_payloads as payloads
from tests.sim import test_rows as rows
from tests.sim import test_scenarios as scenarios

Patch: TypeAlias = Callable[[pytest.MonkeyPatch], None]
Scenario: TypeAlias = Callable[..., None]


def nothing(*_: Any, **__: Any) -> None:
    """A rule that is not there."""


def instead(where: Any, attribute: str, other: Any = nothing) -> Patch:
    """One attribute is something else."""

    def patch(made: pytest.MonkeyPatch) -> None:
        made.setattr(where, attribute, other)

    return patch


# ---- what is broken


def _write_without_waiting(self: Any, kind: Any, records: Any, now_ms: int, then: Callable[[], None]) -> None:
    write(self, kind, records, now_ms, nothing)
    then()


def _take_back_as_if_innocent(self: Any, lease: Any, reason: str, *, crashed: bool, counted: bool) -> None:
    assert isinstance(crashed, bool)
    take_back(self, lease, reason, crashed=False, counted=counted)


def _mark_nobody(_: State, record: Any, go_on: Callable[[], None]) -> None:
    assert record is not None
    go_on()


def show_at_once(self: Any, records: Any) -> None:
    for record in records:
        self._expiring[record.id] = self._state.now_ms + 10**7
    self._show(records)


def _any_lease_commits(made: pytest.MonkeyPatch) -> None:
    """Whoever ever had a task may commit it."""
    lend, drop = Leases.lend, Leases._drop
    ever: dict[object, Lease] = {}

    def lend_and_note(self: Leases, lease: Lease) -> None:
        lend(self, lease)
        ever[self.owner, lease.order] = lease

    def held(self: Leases, order: int, executor: object, holder: object = None) -> Lease | None:
        lease = ever.get((self.owner, order))
        return lease if lease is not None and (lease.executor, lease.holder) == (executor, holder) else None

    def drop_once(self: Leases, lease: Lease) -> None:
        if lease.order in self._held:
            drop(self, lease)

    def committer(self: Batches, _: Lease, task: Any) -> Any:
        record = self._ledger.record(task)
        if record is None or record.token is None:
            return None
        record.token = None
        return record

    made.setattr(Leases, "lend", lend_and_note)
    made.setattr(Leases, "held", held)
    made.setattr(Leases, "_drop", drop_once)
    made.setattr(Batches, "_committer", committer)


def _last_owner_wins(made: pytest.MonkeyPatch) -> None:
    """Of two accounts the one of the later epoch holds, whatever it says."""
    made.setattr(Version, "__gt__", lambda left, right: left[1:] > right[1:])
    made.setattr(Version, "__lt__", lambda left, right: left[1:] < right[1:])


def _epochs_of_no_life(made: pytest.MonkeyPatch) -> None:
    made.setattr(copies, "version_in", lambda *given: version_in(*given)._replace(life=0))


def _for_whom_it_may_concern(self: Members, member_: Any, message: Any, now_ms: int, *, is_ours: bool) -> bool:
    assert isinstance(is_ours, bool)
    return from_member(self, member_, message, now_ms, is_ours=True)


def _never_again(self: Any, _: int, write: Any, __: int) -> None:
    self._due(write.since_ms + self._copy_ms)


def _free_when_answered(self: Payloads, blocks: Any, *, fenced: bool) -> None:
    assert isinstance(fenced, bool)
    for block in blocks:
        if self.held(block.id.counter) is not None:
            self._drop(block.id.counter)


def _never_free(made: pytest.MonkeyPatch) -> None:
    made.setattr(Blocks, "_let_go", lambda _, away: setattr(away, "is_held", False))
    made.setattr(Payloads, "still_held", nothing)


def _take_anything(self: Fetches, _: Any, message: Any, block: Any) -> None:
    fetch = self._fetches.get(BlockId(message.maker, message.counter))
    if fetch is not None and block is not None:
        self._end(fetch, block)


write, take_back, from_member = Replicas.write, Batches.take_back, Members._from_member

BY_SCENARIO: dict[str, tuple[Patch, Scenario]] = {
    # 1, 2: copies
    "a write is over when it is answered": (
        instead(Replicas, "write", _write_without_waiting),
        scenarios.test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies,
    ),
    "an end is shown when the copies have it": (
        instead(Desk, "ended", show_at_once),
        rows.test_row_05_an_owner_dies_before_the_client_knows_the_end,
    ),
    "a silent holder is replaced": (instead(Replicas, "_replace"), rows.test_row_10_a_third_peer_hears_both),
    "too few copies are repaired": (
        instead(Replicas, "_repair"),
        scenarios.test_a_holder_of_copies_dies_and_another_one_gets_them,
    ),
    # 3: what is said is said again, and an answer is to what was asked
    "a write is repeated": (
        instead(Replicas, "_repeat", _never_again),
        scenarios.test_an_answer_to_an_earlier_life_counts_for_nothing,
    ),
    "what is meant for another life is dropped": (
        instead(Members, "_from_member", _for_whom_it_may_concern),
        scenarios.test_an_answer_to_an_earlier_life_counts_for_nothing,
    ),
    # 4, 5: leases and tokens
    "only the current lease commits": (
        _any_lease_commits,
        scenarios.test_an_executor_that_slept_through_its_lease_changes_nothing,
    ),
    "what a dead peer has is lent again": (
        instead(Lending, "gone"),
        rows.test_row_19_the_tensors_of_half_the_tasks_die_with_a_peer,
    ),
    # 6: who is overtaken gives up
    "a later epoch is given way to": (
        instead(Takeover, "hand_off"),
        rows.test_row_12_an_owner_wakes_up_that_was_taken_for_dead,
    ),
    # 7: takeover
    "tasks of a dead owner are adopted": (
        instead(Takeover, "reconsider"),
        scenarios.test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies,
    ),
    # 8: merge
    "what has ended beats what has not": (
        _last_owner_wins,
        scenarios.test_what_is_deleted_on_one_side_of_a_split_stays_deleted,
    ),
    "deleted tasks are remembered": (
        instead(Copies, "bury", lambda self, task, *_: self._remove(task)),
        scenarios.test_what_is_deleted_on_one_side_of_a_split_stays_deleted,
    ),
    "no epoch is used again by who has forgotten it": (
        _epochs_of_no_life,
        restoring.test_two_lives_that_come_to_one_epoch_are_not_taken_for_one,
    ),
    "what a peer has forgotten is owned by who remembers it": (
        instead(Takeover, "_is_forgotten", lambda *_: False),
        restoring.test_an_epoch_of_an_earlier_life_may_be_above_all_of_this_one_and_is_told_from_it,
    ),
    "who gives way keeps what it has": (
        instead(Takeover, "_stand_in", lambda self, copy, *_: self._copies.drop(copy.id)),
        scenarios.test_who_gives_way_after_a_split_still_has_the_task_when_the_better_owner_dies,
    ),
    # 10: payloads
    "who keeps something does not free it": (
        instead(Payloads, "answered", _free_when_answered),
        payloads.test_what_is_large_stays_where_it_was_made,
    ),
    "an owner frees what it does not need": (_never_free, payloads.test_what_is_large_stays_where_it_was_made),
    "what a dead peer kept is lost": (
        instead(Blocks, "maker_gone"),
        payloads.test_row_19_half_of_what_is_under_way_dies_with_a_peer,
    ),
    "what is fetched is compared with what its owner was told": (
        instead(Fetches, "fetched", _take_anything),
        payloads.test_row_29_what_is_fetched_comes_with_wrong_bits,
    ),
    "the owner is asked where the maker does not help": (
        instead(Fetches, "_whom", lambda _, fetch: fetch.block.id.maker),
        payloads.test_a_maker_that_only_its_owner_reaches_stops_nobody,
    ),
    # 11: crashes
    "who kills executors is poison": (
        instead(Batches, "take_back", _take_back_as_if_innocent),
        scenarios.test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not,
    ),
    "the copies know of crashes": (
        instead(State, "crash_marked", _mark_nobody),
        scenarios.test_whom_a_task_has_killed_is_known_to_the_next_owner,
    ),
    # 13: pauses
    "what a peer slept through is nobody's silence": (
        instead(Punctual, "slept_ms", lambda *_: 0),
        rows.test_row_15_clocks_jump,
    ),
    # clients
    "a client that comes back is there again": (
        instead(Desk, "heard"),
        scenarios.test_a_client_that_lost_its_link_is_told,
    ),
    # saved work
    "who comes and goes is on probation": (
        instead(member, "TURNS", 10**6),
        lambda: rows.test_row_30_a_peer_comes_and_goes(1),
    ),
}


def _do_not_ask_again(made: pytest.MonkeyPatch) -> None:
    made.setattr(CacheOwners, "expire", nothing)
    made.setattr(CacheOwners, "deadline_ms", nothing)


SMALL = Options(seed=0, peers=3, tasks=30, load_s=5.0, safety_s=15.0)
BY_SEED: dict[str, tuple[Patch, Options]] = {
    "a lease ends": (
        instead(Leases, "expire", lambda *_: []),
        replace(SMALL, faults={"exec_hang": 0.2}, sections={"executor": {"max_exec_s": 5.0}}),
    ),
    "who leads a key says when it gives up": (
        instead(Travel, "_abort_leads"),
        replace(SMALL, seed=2, namespaces=("cached",), domain=3, cancels=0.5, exec_ms=200.0, faults={"loss": 0.01}),
    ),
    "who waits for a key asks again": (
        _do_not_ask_again,
        replace(SMALL, namespaces=("cached",), domain=4, faults={"loss": 0.3}),
    ),
    "what was evicted is known to be gone": (
        instead(Blocks, "evicted"),
        replace(
            SMALL,
            seed=4,
            check_every=5,
            executors=(0, 1, 1),
            faults={"evict": 300.0},
            sections={"executor": {"batch_size": 1}, "tasks": {"max_retries": 1000}},
        ),
    ),
}


@pytest.mark.parametrize("name", list(BY_SCENARIO))
def test_a_rule_taken_away_breaks_its_scenario(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, scenario = BY_SCENARIO[name]
    broken(monkeypatch)
    with pytest.raises((AssertionError, LookupError, ValueError)):
        scenario(scenarios.new_world) if signature(scenario).parameters else scenario()


@pytest.mark.parametrize("name", list(BY_SEED))
def test_a_rule_taken_away_breaks_its_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, options = BY_SEED[name]
    assert not run(options).wrong, "with the rule there is nothing to notice"
    broken(monkeypatch)
    assert run(options).wrong


def test_an_owner_that_does_not_stop_a_task_that_kills_executors_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batches, "_crashed", lambda self, record, failure: self._travel.reclaimed(record, failure))
    with pytest.raises(Violation, match="killed 5 executors, allowed are 4"):
        scenarios.test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not(scenarios.new_world)


# ---- rules that only save work


def takeovers() -> int:
    """How many tasks are taken over when the owner of some dies, and the holders of copies do not hear of each other
    for a moment.
    """
    world = scenarios.new_world(3, executors=(0, 1, 1), sections={"cluster": {"replicas": 3}}, exec_ms=2_000.0)
    tasks = world.submit("chain", *range(8), at=0)
    world.run(100)
    for way in (("peer1", "peer2"), ("peer2", "peer1")):
        world.network.clog(*way)
    world.crash(world.peer(0))
    world.run(2_000)
    world.network.heal_all()
    world.run(60_000)
    assert not world.checkers.settled()
    assert not any(world.checkers.facts[task].lost for task in tasks)
    return sum(process.core._takeover.counters["takeovers"] for process in world.alive())


def test_without_its_place_in_the_stored_set_every_holder_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = takeovers()
    assert with_it == 8
    instead(Takeover, "_is_next", lambda *_: True)(monkeypatch)
    assert takeovers() >= 2 * with_it
