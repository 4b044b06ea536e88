"""Rules taken away one at a time: the simulator must notice each, in a scenario or in the run of a pinned seed.

Rules on which safety stands break something that is checked. Those that only save work are found by counting it.
Whoever changes a rule so that its mutant lives looks for another scenario or seed, or for a check that is missing.

    rule, and what is taken away                                   what notices it
     1  Nothing is shown before copies and disks have it
         a write is over when it is answered                       sim.test_scenarios:test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies
         an end is shown when the copies have it                   sim.test_rows:test_row_05_an_owner_dies_before_the_client_knows_the_end
         an end is told to who asks when the copies have it        sim.test_scenarios:test_an_end_is_not_shown_to_who_asks_before_the_copies_have_it
         nothing is said before it is on disk                      sim.test_disks:test_the_power_fails_in_the_moment_of_acceptance
         a peer that is alone waits for its disk                   sim.test_disks:test_the_power_fails_in_the_moment_of_acceptance
         a holder answers when it is on its disk                   sim.test_disks:test_the_power_fails_in_the_moment_of_acceptance
         an end is shown when it is on disk                        sim.test_disks:test_the_power_fails_in_the_moment_of_the_end
         a disk that has failed is not relied on                   sim.test_disks:test_a_disk_that_was_full_is_not_relied_on
         what is deleted is deleted on the disk                    the run of its options, seed 1
     2  There are as many copies as are said
         a silent holder is replaced                               sim.test_rows:test_row_10_a_third_peer_hears_both
         too few copies are repaired                               sim.test_scenarios:test_a_holder_of_copies_dies_and_another_one_gets_them
     3  What is not answered is said again, and its second coming changes nothing
         a write is repeated                                       sim.test_scenarios:test_an_answer_to_an_earlier_life_counts_for_nothing
         what is meant for another life is dropped                 sim.test_scenarios:test_an_answer_to_an_earlier_life_counts_for_nothing
         a claim that comes again gets the same batch              core.test_borrowing:test_a_lost_grant_is_given_again
         a commit is repeated                                      core.test_borrowing:test_a_lost_commit_is_said_again_and_the_executor_does_not_wait_for_it
         a client that comes back is there again                   sim.test_scenarios:test_a_client_that_lost_its_link_is_told
     4  Leases end
         a lease ends                                              the run of its options, seed 0
         what a dead peer has is lent again                        sim.test_rows:test_row_19_the_tensors_of_half_the_tasks_die_with_a_peer
     5  Only the current lease commits
         only the current lease commits                            sim.test_scenarios:test_an_executor_that_slept_through_its_lease_changes_nothing
     6  Who is overtaken gives up
         a later epoch is given way to                             sim.test_rows:test_row_12_an_owner_wakes_up_that_was_taken_for_dead
         who gives way lends no more                               sim.test_scenarios:test_two_owners_that_meet_do_not_go_on_both
     7  Who has a copy takes over, in the order of the stored set, and asks first
         tasks of a dead owner are adopted                         sim.test_scenarios:test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies
         who adopts does so in the next epoch                      sim.test_scenarios:test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies
         who starts again owns again what it owned                 the run of its options, seed 1
         who adopts is next in the stored set                      test_without_their_order_every_holder_takes_over
         who adopts has asked everybody                            test_without_asking_first_what_is_deleted_is_taken_over
     8  The better account holds
         what has ended beats what has not                         sim.test_scenarios:test_what_is_deleted_on_one_side_of_a_split_stays_deleted
         what is waited for is not called unknown                  sim.test_scenarios:test_who_asks_is_not_told_that_a_task_is_unknown_whose_owner_is_halted
         deleted tasks are remembered                              sim.test_scenarios:test_what_is_deleted_on_one_side_of_a_split_stays_deleted
         who deletes a task remembers that                         the run of its options, seed 3
         no epoch is used again by who has forgotten it            core.test_restoring:test_two_lives_that_come_to_one_epoch_are_not_taken_for_one
         what a peer has forgotten is owned by who remembers it    core.test_restoring:test_an_epoch_of_an_earlier_life_may_be_above_all_of_this_one_and_is_told_from_it
         who gives way keeps what it has                           sim.test_scenarios:test_who_gives_way_after_a_split_still_has_the_task_when_the_better_owner_dies
     9  No wait for a cached value needs somebody else's word to end
         who leads a key says when it gives up                     the run of its options, seed 2
         who waits for a key asks again                            the run of its options, seed 0
         a peer that does not have a cached value says so          sim.test_payloads:test_a_cached_value_that_its_holder_has_lost_is_a_miss
         who has lost a cached value is not named again            sim.test_payloads:test_a_cached_value_that_its_holder_has_lost_is_a_miss
         nobody waits for ever for a cached value                  sim.test_payloads:test_a_cached_value_that_its_holder_has_lost_is_a_miss
         who leads a key waits only for those below it             core.test_leading:test_who_leads_a_key_does_not_wait_for_one_beside_it
    10  What is missing is found out, and its task starts over
         who keeps something does not free it                      sim.test_payloads:test_what_is_large_stays_where_it_was_made
         an owner frees what it does not need                      sim.test_payloads:test_what_is_large_stays_where_it_was_made
         what a dead peer kept is lost                             sim.test_payloads:test_row_19_half_of_what_is_under_way_dies_with_a_peer
         what is fetched is compared with what its owner was told  sim.test_payloads:test_row_29_what_is_fetched_comes_with_wrong_bits
         the owner is asked where the maker does not help          sim.test_payloads:test_a_maker_that_only_its_owner_reaches_stops_nobody
         what was evicted is known to be gone                      the run of its options, seed 4
    11  A task that kills executors ends
         who kills executors is poison                             sim.test_scenarios:test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not
         the copies know of crashes                                sim.test_scenarios:test_whom_a_task_has_killed_is_known_to_the_next_owner
         an owner counts the executors that a task has killed      test_an_owner_that_does_not_count_is_found_out
         a machine that kills executors claims no tasks            sim.test_scenarios:test_good_tasks_survive_a_machine_that_kills_all_executors
         a machine is not suspected where all have that trouble    sim.test_scenarios:test_tasks_that_kill_executors_everywhere_are_not_held_up
    12  Nodes run in processes of their own
        Told by tests/e2e/test_hangs.py and tests/processes/test_kills.py, with real processes.
    13  What a peer slept through is nobody's silence
         what a peer slept through is nobody's silence             sim.test_rows:test_row_15_clocks_jump
     0  Besides: work that is saved
         who comes and goes is on probation                        sim.test_rows:test_row_30_a_peer_comes_and_goes
"""
# ruff: noqa: E501 -- the table

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, TypeAlias

import pytest

from scatterzmq.core import copies, lending, member, takeover, travel
from scatterzmq.core.batches import Batches
from scatterzmq.core.blocks import Blocks
from scatterzmq.core.borrowing import Borrowing
from scatterzmq.core.cacheowners import CacheOwners
from scatterzmq.core.cacheplaces import CachePlaces
from scatterzmq.core.clienttasks import Tasks
from scatterzmq.core.copies import Copies, Copy, version_in
from scatterzmq.core.deaths import Deaths
from scatterzmq.core.desk import Desk
from scatterzmq.core.fetches import Fetches
from scatterzmq.core.gossip import Gossip
from scatterzmq.core.journal import Journal
from scatterzmq.core.journaled import JournaledReplicas
from scatterzmq.core.leases import Lease, Leases
from scatterzmq.core.ledger import _STATUS, Record
from scatterzmq.core.lending import Lending
from scatterzmq.core.members import Members
from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.payloads import Payloads
from scatterzmq.core.peermessages import Replicated
from scatterzmq.core.punctual import Punctual
from scatterzmq.core.replicas import Replicas
from scatterzmq.core.state import State
from scatterzmq.core.takeover import Takeover
from scatterzmq.core.travel import Travel
from scatterzmq.core.versions import Version
from scatterzmq.ids import BlockId, PeerId, TaskId
from scatterzmq.sim.checkers import Violation
from scatterzmq.sim.options import Options
from scatterzmq.sim.runs import run
from tests.core import test_borrowing as borrowing
from tests.core import test_leading as leading
from tests.core import test_restoring as restoring
from tests.core import test_takeover as takeovers_of
from tests.sim import test_disks as disks
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


def _show_at_once(self: Any, records: Any) -> None:
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


def _hear_of_no_other_owner(made: pytest.MonkeyPatch) -> None:
    """Who owns a task goes on with it, whoever says that it has another owner."""

    def heard(self: Takeover, sender: PeerId, message: Any, blocks: Any) -> None:
        if not any(self._ledger.record(task) for task in message.ids):
            replicated(self, sender, message, blocks)

    replicated = Takeover.replicated
    made.setattr(Takeover, "replicated", heard)
    made.setattr(Takeover, "hand_off", nothing)


def _for_whom_it_may_concern(self: Members, member_: Any, message: Any, now_ms: int, *, is_ours: bool) -> bool:
    assert isinstance(is_ours, bool)
    return from_member(self, member_, message, now_ms, is_ours=True)


def _answer_at_once(self: Takeover, sender: PeerId, answer: Replicated) -> None:
    self._members.tell(sender, replace(answer, durable=True))


def _say_commits_once(made: pytest.MonkeyPatch) -> None:
    made.setattr(Borrowing, "expire", nothing)
    made.setattr(Borrowing, "deadline_ms", nothing)


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


def _adopt_in_the_same_epoch(self: Takeover, copy: Copy, rset: Any) -> Any:
    record = record_of(self, copy, rset)
    record.epoch_n = copy.version.n
    return record


def _keep_silent_without(self: CacheOwners, sender: Any, message: Any) -> None:
    if self._cache.find(message.key) is not None:
        fetch(self, sender, message)


fetch = CacheOwners.fetch
adopt, record_of = Takeover._adopt, Takeover._record
write, take_back, from_member = Replicas.write, Batches.take_back, Members._from_member

BY_SCENARIO: dict[str, tuple[Patch, Scenario]] = {
    "a write is over when it is answered": (
        instead(Replicas, "write", _write_without_waiting),
        scenarios.test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies,
    ),
    "an end is shown when the copies have it": (
        instead(Desk, "ended", _show_at_once),
        rows.test_row_05_an_owner_dies_before_the_client_knows_the_end,
    ),
    "an end is told to who asks when the copies have it": (
        instead(Record, "status", property(lambda self: _STATUS[self.phase])),
        scenarios.test_an_end_is_not_shown_to_who_asks_before_the_copies_have_it,
    ),
    "nothing is said before it is on disk": (
        instead(Journal, "when_kept", lambda self, then: then(self._is_sync)),
        partial(disks.test_the_power_fails_in_the_moment_of_acceptance, 2),
    ),
    "a peer that is alone waits for its disk": (
        instead(JournaledReplicas, "write", write),
        partial(disks.test_the_power_fails_in_the_moment_of_acceptance, 1),
    ),
    "a holder answers when it is on its disk": (
        instead(Takeover, "_answer", _answer_at_once),
        partial(disks.test_the_power_fails_in_the_moment_of_acceptance, 2),
    ),
    "an end is shown when it is on disk": (
        instead(Desk, "ended", _show_at_once),
        disks.test_the_power_fails_in_the_moment_of_the_end,
    ),
    "a disk that has failed is not relied on": (
        instead(Desk, "_are_durable", lambda *_: True),
        disks.test_a_disk_that_was_full_is_not_relied_on,
    ),
    "a silent holder is replaced": (instead(Replicas, "_replace"), rows.test_row_10_a_third_peer_hears_both),
    "too few copies are repaired": (
        instead(Replicas, "_repair"),
        scenarios.test_a_holder_of_copies_dies_and_another_one_gets_them,
    ),
    "a write is repeated": (
        instead(Replicas, "_repeat", _never_again),
        scenarios.test_an_answer_to_an_earlier_life_counts_for_nothing,
    ),
    "what is meant for another life is dropped": (
        instead(Members, "_from_member", _for_whom_it_may_concern),
        scenarios.test_an_answer_to_an_earlier_life_counts_for_nothing,
    ),
    "a claim that comes again gets the same batch": (
        instead(Lending, "_borrower", lambda *_: lending._Borrower()),
        borrowing.test_a_lost_grant_is_given_again,
    ),
    "a commit is repeated": (
        _say_commits_once,
        borrowing.test_a_lost_commit_is_said_again_and_the_executor_does_not_wait_for_it,
    ),
    "only the current lease commits": (
        _any_lease_commits,
        scenarios.test_an_executor_that_slept_through_its_lease_changes_nothing,
    ),
    "what a dead peer has is lent again": (
        instead(Lending, "gone"),
        rows.test_row_19_the_tensors_of_half_the_tasks_die_with_a_peer,
    ),
    "a later epoch is given way to": (
        instead(Takeover, "hand_off"),
        rows.test_row_12_an_owner_wakes_up_that_was_taken_for_dead,
    ),
    "who gives way lends no more": (
        _hear_of_no_other_owner,
        scenarios.test_two_owners_that_meet_do_not_go_on_both,
    ),
    "tasks of a dead owner are adopted": (
        instead(Takeover, "reconsider"),
        scenarios.test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies,
    ),
    "who adopts does so in the next epoch": (
        instead(Takeover, "_record", _adopt_in_the_same_epoch),
        scenarios.test_a_dead_owner_s_tasks_are_run_by_who_has_the_copies,
    ),
    "what has ended beats what has not": (
        _last_owner_wins,
        scenarios.test_what_is_deleted_on_one_side_of_a_split_stays_deleted,
    ),
    "what is waited for is not called unknown": (
        instead(Tasks, "status", lambda *_: TaskStatus.UNKNOWN),
        scenarios.test_who_asks_is_not_told_that_a_task_is_unknown_whose_owner_is_halted,
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
    "a peer that does not have a cached value says so": (
        instead(CacheOwners, "fetch", _keep_silent_without),
        partial(payloads.test_a_cached_value_that_its_holder_has_lost_is_a_miss, "it has forgotten it"),
    ),
    "who has lost a cached value is not named again": (
        instead(CachePlaces, "lost"),
        partial(payloads.test_a_cached_value_that_its_holder_has_lost_is_a_miss, "it has forgotten it"),
    ),
    "nobody waits for ever for a cached value": (
        instead(CacheOwners, "_not_fetched"),
        partial(payloads.test_a_cached_value_that_its_holder_has_lost_is_a_miss, "it is out of reach"),
    ),
    "who leads a key waits only for those below it": (
        instead(travel, "_may_wait", lambda *_: True),
        leading.test_who_leads_a_key_does_not_wait_for_one_beside_it,
    ),
    "who kills executors is poison": (
        instead(Batches, "take_back", _take_back_as_if_innocent),
        scenarios.test_a_task_that_kills_executors_is_poison_and_its_neighbours_are_not,
    ),
    "the copies know of crashes": (
        instead(State, "crash_marked", _mark_nobody),
        scenarios.test_whom_a_task_has_killed_is_known_to_the_next_owner,
    ),
    "a machine that kills executors claims no tasks": (
        instead(Deaths, "died"),
        scenarios.test_good_tasks_survive_a_machine_that_kills_all_executors,
    ),
    "a machine is not suspected where all have that trouble": (
        instead(Gossip, "others_work", lambda _: True),
        scenarios.test_tasks_that_kill_executors_everywhere_are_not_held_up,
    ),
    "what a peer slept through is nobody's silence": (
        instead(Punctual, "slept_ms", lambda *_: 0),
        rows.test_row_15_clocks_jump,
    ),
    "a client that comes back is there again": (
        instead(Desk, "heard"),
        scenarios.test_a_client_that_lost_its_link_is_told,
    ),
    "who comes and goes is on probation": (
        instead(member, "TURNS", 10**6),
        partial(rows.test_row_30_a_peer_comes_and_goes, 1),
    ),
}


def _do_not_ask_again(made: pytest.MonkeyPatch) -> None:
    made.setattr(CacheOwners, "expire", nothing)
    made.setattr(CacheOwners, "deadline_ms", nothing)


SMALL = Options(seed=0, peers=3, tasks=30, load_s=5.0, safety_s=15.0)
POWER = disks.options(1, "sync", power=5.0)
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
    "what is deleted is deleted on the disk": (instead(JournaledReplicas, "dismiss", Replicas.dismiss), POWER),
    "who starts again owns again what it owned": (instead(Takeover, "reclaim"), POWER),
    "who deletes a task remembers that": (
        instead(Copies, "bury", lambda self, task, *_: self._remove(task)),
        replace(SMALL, seed=3, clears=0.6, faults={"client_reset": 3.0, "loss": 0.1}),
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


def test_an_owner_that_does_not_count_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_without_their_order_every_holder_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = takeovers()
    assert with_it == 8
    instead(Takeover, "_is_next", lambda *_: True)(monkeypatch)
    assert takeovers() >= 2 * with_it


def adopted(made: pytest.MonkeyPatch) -> int:
    """How many tasks are taken over when an owner dies that had two, of which somebody knows that one is deleted."""
    tasks: list[TaskId] = []

    def noted(self: Takeover, found: Sequence[Copy], **how: Any) -> None:
        tasks.extend([copy.id for copy in found])
        adopt(self, found, **how)

    made.setattr(Takeover, "_adopt", noted)
    takeovers_of.test_a_deletion_that_somebody_knows_of_stops_the_takeover()
    return len(tasks)


def test_without_asking_first_what_is_deleted_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = adopted(monkeypatch)
    assert with_it == 1
    monkeypatch.setattr(takeover, "INQUIRY_MS", 0)
    assert adopted(monkeypatch) >= 2 * with_it


BY_COUNTING: dict[str, Callable[..., None]] = {
    "who adopts is next in the stored set": test_without_their_order_every_holder_takes_over,
    "who adopts has asked everybody": test_without_asking_first_what_is_deleted_is_taken_over,
    "an owner counts the executors that a task has killed": test_an_owner_that_does_not_count_is_found_out,
}

# ---- the table


def killers() -> dict[str, str]:
    """What is taken away -> what notices it."""
    found = {name: getattr(scenario, "func", scenario) for name, (_, scenario) in BY_SCENARIO.items()}
    tests = {name: f"{test.__module__.removeprefix('tests.')}:{test.__name__}" for name, test in found.items()}
    seeds = {name: f"the run of its options, seed {options.seed}" for name, (_, options) in BY_SEED.items()}
    return tests | seeds | {name: test.__name__ for name, test in BY_COUNTING.items()}


def test_each_rule_has_mutants_and_each_mutant_is_told_of() -> None:
    rules: dict[str, list[str]] = {}
    told = {}
    for line in (__doc__ or "").splitlines():
        if rule := re.fullmatch(r" {4,5}(\d+)  \S.*", line):
            rules[rule[1]] = []
        elif mutant := re.fullmatch(r" {9}(\S.*?) {2,}(\S.*)", line):
            rules[next(reversed(rules))].append(mutant[1])
            told[mutant[1]] = mutant[2]
    assert told == killers()
    assert [rule for rule in map(str, range(1, 14)) if not rules[rule]] == ["12"], "which only real processes can show"
