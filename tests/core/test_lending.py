"""The owner's side of claims between peers: grants, commits, renewals, and batches whose holder is gone.

Peer 0 owns the tasks and has no executors; peer 1 says what the tests say in its name, and hears nothing.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from scatterzmq.core.events import BlocksEvicted
from scatterzmq.core.lending import BORROWERS_MAX, LOANS_MAX
from scatterzmq.core.messages import TaskStatus
from scatterzmq.core.peermessages import (
    Claim,
    Commit,
    Committed,
    FailedPart,
    Grant,
    Part,
    Renew,
    Renewed,
    RowsRevoked,
    Surrender,
)
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import ExecutorId, QueueId, TaskId
from tests.core.conftest import chain, graph, node
from tests.core.mesh import Mesh, number_column

E1, E2 = (ExecutorId(f"E{number:032x}") for number in (101, 102))


class Owner:
    """A mesh whose first peer is to be claimed from, with a definition and tasks."""

    def __init__(self, *values: int, length: int = 2, **sections: Any) -> None:
        self.mesh = Mesh(2, executors=0, cluster={"replicas": 1}, **sections)
        self.plan = self.mesh.load(chain(length))
        self.tasks = self.mesh.submit(0, *values)
        self.mesh.drop(dst=1)
        self.numbers = 0

    @property
    def core(self) -> Any:
        return self.mesh.peers[0].core

    def queue(self, name: str = "n0", plan: Plan | None = None) -> QueueId:
        return next(queue for queue, node in (plan or self.plan).queues.items() if node.name == name)

    def claim(self, executor: ExecutorId = E1, *, name: str = "n0", most: int = 8, number: int | None = None) -> Grant:
        self.numbers += 1
        claim = self.claim_of(executor, name=name, most=most, number=number)
        self.mesh.speak(1, 0, claim)
        grant: Grant = self.heard(Grant)
        return grant

    def claim_of(
        self, executor: ExecutorId = E1, *, name: str = "n0", most: int = 8, number: int | None = None
    ) -> Claim:
        number = self.numbers if number is None else number
        return Claim(claim=number, executor=executor, digest=self.plan.digest, queue=self.queue(name), tasks_max=most)

    def commit(
        self,
        grant: Grant,
        *parts: Part,
        executor: ExecutorId = E1,
        columns: Mapping[str, list[int]] | None = None,
        **how: Any,
    ) -> Committed:
        self.mesh.speak(1, 0, Commit(executor=executor, order=grant.order, parts=parts, **how), **(columns or {}))
        committed: Committed = self.heard(Committed)
        return committed

    def add_one(self, grant: Grant, executor: ExecutorId = E1, **how: Any) -> Committed:
        """Commit a batch as node kind "add" would."""
        values = [value + 1 for value in self.given(grant)]
        part = Part(output="out", rows=tuple(range(len(values))), fields=("value",))
        return self.commit(grant, part, executor=executor, columns={"0:value": values}, **how)

    def given(self, grant: Grant) -> list[int]:
        """The inputs that lay beside a grant."""
        owner = self.mesh.peers[0]
        tell = next(tell for tell in reversed(owner.told) if tell.message == grant)
        return [owner.read(value) for value in tell.values.get("value", ())]

    def heard(self, kind: type[Any]) -> Any:
        return self.mesh.said(kind, src=0)[-1]

    def status(self, place: int = 0) -> TaskStatus:
        return self.mesh.peers[0].status(self.tasks[place])

    def report(self, place: int = 0) -> Any:
        return self.mesh.peers[0].report(self.tasks[place])

    def counted(self, name: str) -> int:
        count: int = self.core._lending.counters[name]
        return count


def all_out(count: int) -> Part:
    return Part(output="out", rows=tuple(range(count)), fields=("value",))


# ---- grants


def test_a_claim_gets_a_batch_with_its_inputs() -> None:
    owner = Owner(1, 2, 3)
    grant = owner.claim(most=2)
    assert grant.ids == owner.tasks[:2]
    assert owner.given(grant) == [1, 2]
    assert (grant.executor, grant.digest, grant.queue) == (E1, owner.plan.digest, owner.queue())
    assert (grant.ttl_ms, grant.max_exec_ms, grant.solo, grant.digests) == (15_000, 600_000, False, {})
    assert [owner.status(place) for place in range(3)] == [TaskStatus.BUSY, TaskStatus.BUSY, TaskStatus.WAIT]


def test_content_digests_go_with_what_is_cached() -> None:
    owner = Owner()
    plan = owner.mesh.load(chain(2, cache=True), ns="cached")
    owner.mesh.submit(0, 10, ns="cached")  # whose cache owner is the same peer, so it is computed at once
    queue = owner.queue(plan=plan)
    owner.mesh.speak(1, 0, Claim(claim=1, executor=E1, digest=plan.digest, queue=queue, tasks_max=1))
    assert [len(digest) for digest in owner.heard(Grant).digests["value"]] == [32]
    owner.mesh.peers[0].digesting = False
    owner.mesh.submit(0, 5, ns="cached", cache=False)
    owner.mesh.speak(1, 0, Claim(claim=2, executor=E1, digest=plan.digest, queue=queue, tasks_max=1))
    assert owner.heard(Grant).ids
    assert owner.heard(Grant).digests == {}


def test_the_node_bounds_the_batch() -> None:
    owner = Owner()
    plan = owner.mesh.load(graph("main", "n:value", [node("n", "add", ":value", None, batch_size=2)]), ns="two")
    owner.mesh.submit(0, 1, 2, 3, ns="two")
    for most, expected in ((5, 2), (1, 1)):
        claim = Claim(claim=5 - most, executor=E1, digest=plan.digest, queue=owner.queue("n", plan), tasks_max=most)
        owner.mesh.speak(1, 0, claim)
        assert len(owner.heard(Grant).ids) == expected


def test_there_may_be_nothing() -> None:
    owner = Owner(1)
    assert owner.claim(name="n1").ids == ()
    assert owner.claim(most=0).ids == ()
    empty = Claim(claim=9, executor=E1, digest=bytes(32), queue=owner.queue(), tasks_max=1)
    owner.mesh.speak(1, 0, empty)
    grant = owner.heard(Grant)
    assert (grant.claim, grant.digest, grant.ids, grant.order) == (9, bytes(32), (), 0)
    assert owner.status() is TaskStatus.WAIT


def test_the_same_claim_gets_the_same_batch() -> None:
    owner = Owner(1, 2, 3)
    first = owner.claim(most=2)
    assert owner.claim(most=2, number=1) == first
    assert owner.given(owner.heard(Grant)) == [1, 2]
    assert owner.status(2) is TaskStatus.WAIT
    assert owner.counted("granted") == 1


def test_the_same_claim_gets_nothing_once_the_batch_is_done() -> None:
    owner = Owner(1, 2)
    owner.add_one(owner.claim(most=1))
    assert owner.claim(most=1, number=1).ids == ()
    assert owner.status(1) is TaskStatus.WAIT


def test_an_old_claim_is_an_echo() -> None:
    owner = Owner(1, 2)
    owner.claim(most=1, number=5)
    before = len(owner.mesh.said(Grant))
    owner.claim(most=1, number=4)
    assert len(owner.mesh.said(Grant)) == before
    assert owner.status(1) is TaskStatus.WAIT


def test_claims_of_two_executors_have_nothing_to_do_with_each_other() -> None:
    owner = Owner(1, 2)
    first, second = owner.claim(E1, most=1), owner.claim(E2, most=1, number=1)
    assert {first.ids, second.ids} == {(owner.tasks[0],), (owner.tasks[1],)}


def test_a_repeated_claim_after_one_of_its_tasks_was_cleared() -> None:
    """It may be on its way for the first time: what it gave is not what it would give now."""
    owner = Owner(1, 2)
    owner.claim()
    owner.mesh.peers[0].clear(owner.tasks[0])
    assert owner.claim(number=1).ids == ()
    assert owner.status(1) is TaskStatus.WAIT
    assert owner.report(1).retries == 0
    assert owner.claim().ids == owner.tasks[1:]


def test_inputs_that_were_evicted_are_not_granted() -> None:
    owner = Owner(1, 2)
    owner.add_one(owner.claim())
    owner.mesh.peers[0].evict()
    assert owner.claim(name="n1").ids == ()
    report = owner.report()
    assert (report.status, report.retries, report.error.code) == (TaskStatus.WAIT, 1, ErrorCode.MEMORY_PURGE)
    owner.mesh.wait(100)
    assert owner.report().place == "main:main:n0"


def test_inputs_that_are_evicted_before_the_grant_is_said_again() -> None:
    owner = Owner(1)
    owner.add_one(owner.claim())
    assert owner.claim(name="n1").ids
    owner.mesh.peers[0].evict()
    assert owner.claim(name="n1", number=2).ids == ()
    assert owner.status() is TaskStatus.WAIT
    assert owner.claim(name="n1").ids == ()
    assert owner.report().error.code is ErrorCode.MEMORY_PURGE


def test_one_executor_does_not_get_everything() -> None:
    owner = Owner(*range(9))
    given = [len(owner.claim(most=1).ids) for _ in range(LOANS_MAX + 1)]
    assert given == [1] * LOANS_MAX + [0]
    assert len(owner.claim(E2, most=1).ids) == 1


def test_executors_that_were_made_up_are_forgotten() -> None:
    owner = Owner(1)
    owner.mesh.peers[0].checking = False
    for number in range(BORROWERS_MAX + 5):
        owner.claim(ExecutorId(f"E{number:032x}"), most=0)
    (known,) = owner.core._lending._borrowers.values()
    assert len(known) == BORROWERS_MAX
    owner.core.check_invariants()


def test_tasks_without_an_input_fail_instead_of_being_granted() -> None:
    owner = Owner()
    nodes = [
        node("fork", "branch", ":value", {"even": "left", "odd": "sum"}),
        node("left", "add", "fork:value", "sum", by=1),
        node("sum", "sum", {"left": "fork:value", "right": "left:value"}, None),
    ]
    plan = owner.mesh.load(graph("main", "sum:value", nodes), ns="sum")
    (task,) = owner.mesh.submit(0, 1, ns="sum")
    digest = plan.digest
    owner.mesh.speak(1, 0, Claim(claim=1, executor=E1, digest=digest, queue=owner.queue("fork", plan), tasks_max=1))
    part = Part(output="odd", rows=(0,), fields=("value",))
    owner.commit(owner.heard(Grant), part, columns={"0:value": [1]})
    owner.mesh.speak(1, 0, Claim(claim=2, executor=E1, digest=digest, queue=owner.queue("sum", plan), tasks_max=1))
    assert owner.heard(Grant).ids == ()
    report = owner.mesh.peers[0].report(task)
    assert report.error is not None
    assert report.error.code is ErrorCode.GENERAL_EXCEPTION
    owner.mesh.rest()
    assert owner.mesh.peers[0].report(task).place == "sum:main:fork"


# ---- commits


def test_a_commit_moves_its_tasks_on() -> None:
    owner = Owner(1, 2)
    assert owner.add_one(owner.claim()).fenced is False
    assert owner.report().place == "main:main:n1"
    assert owner.add_one(owner.claim(name="n1")) == Committed(executor=E1, order=2, fenced=False)
    assert owner.mesh.results(0, owner.tasks) == [3, 4]
    assert owner.counted("committed") == 2
    owner.mesh.peers[0].clear(*owner.tasks)
    assert not owner.mesh.peers[0].stored


def test_a_commit_counts_once() -> None:
    owner = Owner(1, 2)
    grant = owner.claim()
    owner.add_one(grant)
    assert owner.add_one(grant).fenced is False
    assert owner.report().place == "main:main:n1"
    assert (owner.counted("committed"), owner.counted("commits_fenced")) == (1, 0)


def test_the_next_claim_is_answered_with_what_the_commit_has_brought() -> None:
    owner = Owner(1, 2, 3)
    grant = owner.claim()
    claim = owner.claim_of(name="n1", number=2)
    owner.add_one(grant, claim=claim)
    following = owner.heard(Grant)
    assert (following.claim, following.ids) == (2, owner.tasks)
    assert owner.given(following) == [2, 3, 4]
    owner.add_one(grant, claim=claim)
    assert owner.heard(Grant) == following


def test_whoever_has_no_lease_is_fenced() -> None:
    owner = Owner(1)
    grant = owner.claim()
    assert owner.add_one(grant, executor=E2).fenced
    assert owner.commit(Grant(claim=1, executor=E1, digest=b"", queue=owner.queue(), order=77)).fenced
    assert owner.status() is TaskStatus.BUSY
    assert owner.counted("commits_fenced") == 2
    assert owner.add_one(grant).fenced is False


def test_another_peer_cannot_commit_for_this_one() -> None:
    """Executor ids are no secret, and may be equal."""
    mesh = Mesh(3, executors=0, cluster={"replicas": 1})
    plan = mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.drop(src=0)
    (queue,) = plan.queues
    mesh.speak(1, 0, Claim(claim=1, executor=E1, digest=plan.digest, queue=queue, tasks_max=1))
    order = mesh.said(Grant, src=0, dst=1)[0].order
    commit = Commit(executor=E1, order=order, parts=(all_out(1),))
    mesh.speak(2, 0, commit, **{"0:value": [666]})
    assert mesh.said(Committed, src=0, dst=2)[-1].fenced
    mesh.speak(2, 0, Surrender(executor=E1, order=order, reason="", crashed=True))
    mesh.speak(2, 0, Renew(orders=(order,), executors=(E1,)))
    assert mesh.said(Renewed, src=0, dst=2)[-1].fenced == (order,)
    assert mesh.peers[0].status(task) is TaskStatus.BUSY
    mesh.speak(1, 0, commit, **{"0:value": [2]})
    assert mesh.results(0, [task]) == [2]


def test_a_task_that_was_cleared_meanwhile_is_a_ghost() -> None:
    owner = Owner(1, 2)
    grant = owner.claim()
    owner.mesh.peers[0].clear(owner.tasks[0])
    assert owner.heard(RowsRevoked) == RowsRevoked(order=grant.order, executor=E1, rows=(0,))
    assert owner.add_one(grant).fenced is False
    assert owner.status(0) is TaskStatus.UNKNOWN
    assert owner.report(1).place == "main:main:n1"


def test_rows_that_are_cancelled_are_revoked() -> None:
    owner = Owner(1, 2, 3)
    grant = owner.claim()
    owner.mesh.peers[0].cancel(owner.tasks[0], owner.tasks[2])
    assert owner.heard(RowsRevoked).rows == (0, 2)
    owner.add_one(grant)
    assert [owner.status(place) for place in range(3)] == [TaskStatus.ERROR, TaskStatus.WAIT, TaskStatus.ERROR]


def test_only_the_batch_of_a_cleared_task_hears_of_it() -> None:
    owner = Owner(1, 2)
    owner.claim(E1, most=1)
    second = owner.claim(E2, most=1)
    owner.mesh.peers[0].clear(owner.tasks[1])
    assert owner.mesh.said(RowsRevoked) == [RowsRevoked(order=second.order, executor=E2, rows=(0,))]


def test_failures_count_as_if_they_had_happened_here() -> None:
    owner = Owner(1, 2)
    failed = FailedPart(
        rows=(1,), code=ErrorCode.GENERAL_EXCEPTION, message="no", traceback="where", final=False, node="n0"
    )
    owner.commit(
        owner.claim(), Part(output="out", rows=(0,), fields=("value",)), columns={"0:value": [2]}, failed=(failed,)
    )
    assert owner.report(0).place == "main:main:n1"
    report = owner.report(1)
    assert (report.place, report.retries, report.error.message) == ("main:main:n0", 1, "no")
    assert (report.error.traceback, report.error.context.executor) == ("where", E1)


def test_inputs_that_got_lost_elsewhere_are_granted_again() -> None:
    """They are still here, so nothing starts over."""
    owner = Owner(1)
    owner.add_one(owner.claim())
    owner.commit(owner.claim(name="n1"), missing=(0,))
    report = owner.report()
    assert (report.place, report.retries, report.error.code) == ("main:main:n1", 1, ErrorCode.MEMORY_PURGE)
    assert owner.given(owner.claim(name="n1")) == [2]


def test_rows_that_are_not_answered_for_fail() -> None:
    owner = Owner(1, 2)
    owner.commit(owner.claim(), Part(output="out", rows=(0,), fields=("value",)), columns={"0:value": [2]})
    report = owner.report(1)
    assert (report.place, report.error.code) == ("main:main:n0", ErrorCode.UNKNOWN)


def test_many_commits_on_their_way_are_all_remembered() -> None:
    owner = Owner(*range(LOANS_MAX))
    grants = [owner.claim(most=1) for _ in range(LOANS_MAX)]
    for grant in grants:
        owner.add_one(grant)
    assert not any(owner.add_one(grant).fenced for grant in grants)


# ---- renewing, running out


def test_a_lease_runs_out_unless_it_is_renewed() -> None:
    owner = Owner(1, timing={"lease_s": 3.0})
    grant = owner.claim()
    for _ in range(5):
        owner.mesh.wait(2_000)
        owner.mesh.speak(1, 0, Renew(orders=(grant.order,), executors=(E1,)))
        assert owner.heard(Renewed).fenced == ()
    owner.mesh.wait(2_999)
    assert owner.status() is TaskStatus.BUSY
    owner.mesh.wait(1)
    report = owner.report()
    assert (report.status, report.retries, report.error.code) == (TaskStatus.WAIT, 1, ErrorCode.DEFUNCT_EXECUTOR)
    assert owner.counted("lapsed") == 1
    owner.mesh.speak(1, 0, Renew(orders=(grant.order,), executors=(E1,)))
    assert owner.heard(Renewed).fenced == (grant.order,)
    assert owner.add_one(grant).fenced


def test_renewing_does_not_help_for_ever() -> None:
    owner = Owner(1, timing={"lease_s": 3.0}, executor={"max_exec_s": 10.0})
    grant = owner.claim()
    for _ in range(15):
        owner.mesh.wait(1_000)
        owner.mesh.speak(1, 0, Renew(orders=(grant.order,), executors=(E1,)))
        assert owner.heard(Renewed).fenced == ()
    owner.mesh.wait(1_000)
    assert owner.status() is TaskStatus.WAIT


def test_a_claim_whose_lease_has_run_out_gets_nothing() -> None:
    owner = Owner(1, 2, timing={"lease_s": 3.0})
    owner.claim(most=1)
    owner.mesh.wait(3_000)
    assert owner.claim(most=1, number=1).ids == ()
    assert len(owner.claim().ids) == 2


def test_nobody_is_blamed_for_a_lease_that_ran_out() -> None:
    owner = Owner(1, 2, timing={"lease_s": 3.0}, tasks={"poison_limit": 1})
    for _ in range(5):
        assert owner.claim().solo is False
        owner.mesh.wait(4_000)
    assert len(owner.claim().ids) == 2
    assert owner.report().retries == 5


def test_restarts_for_holders_that_vanish_are_bounded() -> None:
    owner = Owner(1, timing={"lease_s": 0.1}, tasks={"max_retries": 0})
    for _ in range(100):
        assert owner.claim().ids
        owner.mesh.wait(100)
        owner.mesh.rest()
    assert owner.status() is TaskStatus.WAIT
    owner.claim()
    owner.mesh.wait(100)
    outcome = owner.mesh.outcome(0, owner.tasks[0])
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.DEFUNCT_EXECUTOR
    assert outcome.retries == 100


# ---- coming back undone


def test_a_batch_that_was_not_wanted_comes_back_as_it_was() -> None:
    owner = Owner(1)
    grant = owner.claim()
    surrender = Surrender(executor=E1, order=grant.order, reason="", crashed=False)
    owner.mesh.speak(1, 0, surrender)
    assert owner.heard(Committed).fenced is False
    report = owner.report()
    assert (report.status, report.retries, report.error) == (TaskStatus.WAIT, 0, None)
    owner.mesh.speak(1, 0, surrender)
    assert owner.heard(Committed).fenced
    assert owner.add_one(grant).fenced


def test_tasks_whose_executor_crashed_elsewhere_are_poison_in_the_end() -> None:
    owner = Owner(1, 2, tasks={"poison_limit": 2})
    grant = owner.claim()
    assert len(grant.ids) == 2
    for alone in (False, True, True):
        assert grant.solo is alone
        owner.mesh.speak(1, 0, Surrender(executor=E1, order=grant.order, reason="SIGSEGV", crashed=True))
        owner.mesh.rest()
        grant = owner.claim()
    assert grant.ids == (owner.tasks[1],), "the other one is next"
    outcome = owner.mesh.outcome(0, owner.tasks[0])
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.POISON
    assert "2 times in a row" in outcome.error.message
    assert outcome.error.message.endswith("last: SIGSEGV")


def test_a_crash_is_on_the_account_before_the_task_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(1)
    grant = owner.claim()
    seen = []
    state = owner.core._state
    monkeypatch.setattr(
        type(state), "crash_marked", lambda _, record, go_on: seen.append((record.solo, record.crashes, go_on))
    )
    owner.mesh.peers[0].checking = False
    owner.mesh.speak(1, 0, Surrender(executor=E1, order=grant.order, reason="", crashed=True))
    ((solo, crashes, go_on),) = seen
    assert (solo, crashes) == (True, 0)
    assert owner.claim().ids == ()
    go_on()
    assert owner.claim().ids == owner.tasks


# ---- hostile


@pytest.mark.parametrize(
    ("part", "numbers", "problem"),
    [
        (Part(output="nowhere", rows=(0, 1), fields=("value",)), [1, 2], "no output 'nowhere'"),
        (Part(output="out", rows=(0, 1), fields=()), [], "expected ['value']"),
        (Part(output="out", rows=(0, 1), fields=("other",)), [1, 2], "expected ['value']"),
        (Part(output="out", rows=(0, 1), fields=("value",), call="self"), [1, 2], "no call of"),  # type: ignore[arg-type]
    ],
)
def test_what_a_node_cannot_answer_fails(part: Part, numbers: list[int], problem: str) -> None:
    owner = Owner(1, 2)
    if part.call is not None:
        part = Part(output="out", rows=part.rows, fields=part.fields, call=owner.plan.entry)
    grant = owner.claim()
    columns = {f"0:{name}": numbers for name in part.fields}
    assert owner.commit(grant, part, columns=columns).fenced is False
    for place in range(2):
        report = owner.report(place)
        assert report.error.code is ErrorCode.GENERAL_EXCEPTION
        assert problem in report.error.message
        assert report.retries == 1
    assert owner.counted("commits_wrong") == 1


def test_rows_out_of_turn_spoil_nothing_else() -> None:
    owner = Owner(1, 2, 3)
    grant = owner.claim()
    parts = (
        Part(output="out", rows=(2, 7, 0, 2), fields=("value",)),
        Part(output="out", rows=(0,), fields=("value",)),
    )
    failed = FailedPart(
        rows=(0, 99, 1), code=ErrorCode.GENERAL_EXCEPTION, message="no", traceback="", final=True, node=""
    )
    message = Commit(executor=E1, order=grant.order, parts=parts, failed=(failed,), missing=(1, 5))
    columns = {"0:value": number_column([4, 0, 2, 66]), "1:value": number_column([666])}
    owner.mesh.speak_past_the_wire(1, 0, message, **columns)
    assert owner.counted("commits_wrong") == 4
    following = owner.claim(name="n1")
    assert dict(zip(following.ids, owner.given(following), strict=True)) == {owner.tasks[0]: 2, owner.tasks[2]: 4}
    assert owner.status(1) is TaskStatus.ERROR


@pytest.mark.parametrize("code", [ErrorCode.POISON, ErrorCode.CANCELLED, ErrorCode.CONFLICT, ErrorCode.REFUSED])
def test_what_only_an_owner_may_say_is_not_taken(code: ErrorCode) -> None:
    owner = Owner(1)
    failed = FailedPart(rows=(0,), code=code, message="so there", traceback="", final=False, node="")
    owner.commit(owner.claim(), failed=(failed,))
    assert owner.report().error.code is ErrorCode.UNKNOWN
    assert owner.status() is TaskStatus.WAIT


def test_a_commit_for_tasks_that_have_moved_on_changes_nothing() -> None:
    """A zombie: its lease ran out, the task was lent again, and it comes back with the old order."""
    owner = Owner(1, timing={"lease_s": 3.0})
    old = owner.claim()
    owner.mesh.wait(3_000)
    new = owner.claim()
    assert owner.commit(old, all_out(1), columns={"0:value": [666]}).fenced
    owner.add_one(new)
    assert owner.given(owner.claim(name="n1")) == [2]


def test_who_is_not_alive_gets_nothing_but_may_commit() -> None:
    owner = Owner(1, 2)
    grant = owner.claim(most=1)
    members = owner.core._state.members
    members.is_heard = lambda _: False  # as while it is suspect
    assert owner.claim(most=1).ids == ()
    assert owner.add_one(grant).fenced is False


def test_a_member_that_is_gone_gives_everything_back() -> None:
    owner = Owner(1, 2, 3)
    owner.claim(E1, most=1)
    owner.claim(E2, most=1, number=1)
    owner.core._lending.gone(owner.mesh.peers[1].me, on_purpose=False)
    owner.core.check_invariants()
    assert [owner.status(place) for place in range(3)] == [TaskStatus.WAIT] * 3
    report = owner.report()
    assert (report.retries, report.error.code) == (1, ErrorCode.DEFUNCT_EXECUTOR)
    assert owner.core._lending._borrowers == {}
    grant = owner.claim(number=1)
    assert (len(grant.ids), grant.solo) == (3, False), "and nobody is to blame"


def test_own_executors_come_first() -> None:
    mesh = Mesh(2, executors=(1, 0), cluster={"replicas": 1}, executor={"batch_size": 1})
    plan = mesh.load(chain(2))
    mesh.drop(dst=1)
    mesh.submit(0, 1, 2)
    (busy,) = mesh.peers[0].running.values()
    queue = next(queue for queue, node in plan.queues.items() if node.name == "n0")
    mesh.speak(1, 0, Claim(claim=1, executor=E1, digest=plan.digest, queue=queue, tasks_max=8))
    assert len(mesh.said(Grant)[-1].ids) == 1
    assert mesh.said(Grant)[-1].ids != busy.tasks


def test_values_that_are_gone_only_there_do_not_stay_used() -> None:
    """Whatever came beside a message that changed nothing is freed at once."""
    owner = Owner(1)
    grant = owner.claim()
    before = set(owner.mesh.peers[0].stored)
    owner.add_one(grant, executor=E2)
    assert set(owner.mesh.peers[0].stored) == before
    owner.mesh.peers[0].tell(BlocksEvicted(ids=()))
    owner.mesh.check_idle()


def test_task_ids_in_the_grant_are_those_of_the_batch() -> None:
    owner = Owner(5)
    assert owner.claim().ids == (TaskId("T" + "0" * 32),)
