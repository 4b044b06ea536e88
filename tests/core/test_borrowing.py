"""The claimer's side of claims between peers: idle executors that work for others, whatever gets lost on the way.

Peer 0 owns the tasks; peer 1 has the executors. What they believe of each other is set by `mesh.gossip()` or by hand.
"""

from typing import Any

import pytest

from scatterzmq.core.actions import AbandonExecutor, BatchOrder, RowsCancelled, RunBatch
from scatterzmq.core.events import BatchExpected, BatchFinished, BlocksEvicted, Emitted, ExecutorStarted, TimerFired
from scatterzmq.core.messages import AskStats, Stats, TaskStatus
from scatterzmq.core.peermessages import (
    Claim,
    Commit,
    Committed,
    Grant,
    Nudge,
    QueueStates,
    Renew,
    Renewed,
    RowsRevoked,
    Surrender,
)
from scatterzmq.core.queues import QueueKey
from scatterzmq.errors import ErrorCode, ErrorInfo
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import ExecutorId, PeerId, TaskId, Token
from tests.core.conftest import chain, graph, node
from tests.core.mesh import Mesh, Peer

FIRST = ExecutorId("E" + "0" * 32)


def made(*executors: int, **sections: Any) -> Mesh:
    """Peers with so many executors each. No copies, so that all that is said is about claims."""
    sections = {"cluster": {"replicas": 1}, "executor": {"batch_size": 2}} | sections
    return Mesh(len(executors), executors=executors, **sections)


def key_of(plan: Plan, name: str = "n0") -> QueueKey:
    return plan.digest, next(queue for queue, node in plan.queues.items() if node.name == name)


def believe(peer: Peer, plan: Plan, *owners: tuple[Peer, int], name: str = "n0") -> None:
    """Let a peer believe that owners have tasks of a queue, and look for work."""
    for owner, length in owners:
        peer.believe(owner, key_of(plan, name), length)
    peer.tell(TimerFired())


def asked(mesh: Mesh) -> list[int]:
    """How many claims each peer got."""
    dst = [packet.dst for packet in mesh.log if isinstance(packet.message, Claim)]
    return [dst.count(number) for number in range(len(mesh.peers))]


def error_at(mesh: Mesh, task: TaskId) -> ErrorInfo:
    """What is known at peer 0 to have gone wrong last."""
    error = mesh.peers[0].report(task).error
    assert error is not None
    return error


def borrowing(peer: Peer) -> dict[str, int]:
    counters: dict[str, int] = peer.core._asking.counters | peer.core._borrowing.counters
    return counters


def actions_of(peer: Peer, kind: type[Any]) -> list[Any]:
    """Actions of a kind that the core asks for from now on (the list grows)."""
    seen: list[Any] = []
    perform = peer.perform

    def watching(action: Any) -> None:
        if isinstance(action, kind):
            seen.append(action)
        perform(action)

    peer.perform = watching  # type: ignore[method-assign]
    return seen


# ---- the way there and back


def test_an_idle_executor_works_for_another_peer() -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(3))
    tasks = mesh.submit(0, 1, 2, 3)
    mesh.gossip()
    mesh.deliver()
    order = mesh.peers[1].running[FIRST]
    assert order.tasks == tasks[:2]
    assert order.token == Token(1, mesh.peers[0].me, 1)
    assert order.plan is plan_at(mesh, 1, plan)
    assert (order.node.name, order.solo, order.max_exec_ms) == ("n0", False, 600_000)
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [4, 5, 6]
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    mesh.check_idle()


def plan_at(mesh: Mesh, number: int, plan: Plan) -> Plan:
    here = mesh.peers[number].core._state.plans.plan(plan.digest)
    assert here is not None
    return here


def test_results_and_the_next_claim_go_in_one_message() -> None:
    mesh = made(0, 1)
    mesh.load(chain(3))
    mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.peers[1].beliefs.lengths.clear()
    assert mesh.run() == 3
    assert len(mesh.said(Claim)) == 1
    claimed = [commit.claim is not None for commit in mesh.said(Commit)]
    assert claimed == [True, True, False], "it knows where they land, and that nothing comes after the last step"
    assert len(mesh.said(Grant)) == 3


def test_everything_that_nodes_do_works_from_afar() -> None:
    """Branches, calls, recursion, blocks, failures, conditions."""
    mesh = made(0, 2, tasks={"max_retries": 1})
    nodes = [
        node("fork", "branch", ":value", {"even": "call", "odd": "gate"}),
        node("gate", "fail", ":value", "call", wrong=[5]),
        node("call", "call", ":value", "block", graph="count"),
        node("block", "call", ":value", "end", graph="block"),
        node("end", "add", "block:value", None, by=100),
    ]
    count = graph("count", "down:value", [node("down", "down", ":value", {"out": None, "back": None}, graph="count")])
    mesh.load(graph("main", "end:value", nodes), count, chain(3, name="block", is_block=True))
    tasks = mesh.submit(0, 2, 3, 5)
    mesh.gossip()
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [105, 106, None]
    outcome = mesh.outcome(0, tasks[2])
    assert outcome is not None
    assert (outcome.status, outcome.retries) == (TaskStatus.ERROR, 1)
    assert len(mesh.peers[0].ran) == 0


def test_own_tasks_come_first_and_what_is_granted_then_goes_back() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.gossip()
    own = mesh.submit(1, 10)
    assert mesh.peers[1].running[FIRST].tasks == own
    mesh.deliver()
    (surrender,) = mesh.said(Surrender)
    assert surrender.crashed is False
    assert mesh.peers[0].report(tasks[0]).retries == 0
    assert mesh.peers[0].status(tasks[0]) is TaskStatus.WAIT
    mesh.run()
    mesh.gossip()
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]
    assert mesh.results(1, own) == [11]


def test_a_lost_refusal_only_costs_time() -> None:
    mesh = made(0, 1, timing={"lease_s": 2.0})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.drop(Surrender)
    mesh.gossip()
    mesh.submit(1, 10)
    mesh.deliver()
    assert mesh.peers[0].status(task) is TaskStatus.BUSY
    mesh.wait(2_000)
    assert mesh.peers[0].status(task) is TaskStatus.WAIT


def test_a_plan_is_needed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    plans = mesh.peers[1].core._state.plans
    with monkeypatch.context() as patch:
        patch.setattr(plans, "find", lambda _: None)
        believe(mesh.peers[1], plan, (mesh.peers[0], 5))
        mesh.speak(0, 1, Nudge(digest=plan.digest, queue=key_of(plan)[1]))
        assert mesh.said(Claim) == []
    mesh.submit(0, 1)
    believe(mesh.peers[1], plan, (mesh.peers[0], 1))
    with monkeypatch.context() as patch:
        patch.setattr(plans, "find", lambda _: None)
        mesh.peers[1].checking = False
        mesh.deliver()
    assert len(mesh.said(Surrender)) == 1, "it went while the claim was under way"
    assert not mesh.peers[1].running


def test_a_plan_stays_while_a_batch_runs_on_it() -> None:
    mesh = made(0, 1)
    old = mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.load(chain(2))
    assert plan_at(mesh, 1, old)
    mesh.run()
    assert mesh.results(0, [task]) == [2]
    assert mesh.peers[1].core._state.plans.plan(old.digest) is None


# ---- whom to ask


def test_who_had_nothing_is_not_asked_again_before_something_changes() -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    owner, peer = mesh.peers
    believe(peer, plan, (owner, 5))
    mesh.deliver()
    for _ in range(3):
        peer.tell(TimerFired())
        mesh.deliver()
    assert len(mesh.said(Claim)) == 1
    believe(peer, plan, (owner, 6))
    mesh.deliver()
    assert len(mesh.said(Claim)) == 2
    mesh.wait(14_999)
    assert len(mesh.said(Claim)) == 2
    mesh.wait(1)
    assert len(mesh.said(Claim)) == 3, "a hint is not lost for ever"


def test_an_owner_that_says_everything_anew_is_asked_again() -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    owner, peer = mesh.peers
    believe(peer, plan, (owner, 5))
    mesh.deliver()
    peer.core._asking.told(peer.me, QueueStates(version=1, full=True, idle=0, states=()))
    peer.tell(TimerFired())
    assert len(mesh.said(Claim)) == 1
    peer.core._asking.told(owner.me, QueueStates(version=1, full=True, idle=0, states=()))
    peer.tell(TimerFired())
    assert len(mesh.said(Claim)) == 2


def test_a_nudge_is_a_reason_to_ask() -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    owner, peer = mesh.peers
    believe(peer, plan, (owner, 5))
    mesh.deliver()
    for expected in (2, 3):
        mesh.speak(0, 1, Nudge(digest=plan.digest, queue=key_of(plan)[1]))
        assert len(mesh.said(Claim)) == expected
    peer.beliefs.lengths.clear()
    mesh.speak(0, 1, Nudge(digest=plan.digest, queue=key_of(plan)[1]))
    assert len(mesh.said(Claim)) == 4, "whatever else it believes"


def test_who_has_no_time_forgets_what_it_was_nudged_for() -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    mesh.submit(1, 5)
    mesh.speak(0, 1, Nudge(digest=plan.digest, queue=key_of(plan)[1]))
    mesh.run()
    assert mesh.said(Claim) == []


def test_several_executors_do_not_ask_for_the_same_tasks() -> None:
    mesh = made(0, 3)
    plan = mesh.load(chain(1))
    believe(mesh.peers[1], plan, (mesh.peers[0], 3))
    assert len(mesh.said(Claim)) == 2, "a batch is two tasks"


def test_a_node_that_is_not_thread_safe_is_claimed_once() -> None:
    mesh = made(0, 3)
    plan = mesh.load(graph("main", "n:value", [node("n", "alone", ":value", None)]))
    tasks = mesh.submit(0, *range(6))
    believe(mesh.peers[1], plan, (mesh.peers[0], 6), name="n")
    assert len(mesh.said(Claim)) == 1
    mesh.deliver()
    believe(mesh.peers[1], plan, (mesh.peers[0], 4), name="n")
    mesh.deliver()
    assert len(mesh.peers[1].running) == 1
    own = mesh.submit(1, 100)
    assert mesh.peers[1].status(own[0]) is TaskStatus.WAIT
    mesh.run()
    assert mesh.results(1, own) == [100]
    assert mesh.results(0, tasks[:2]) == [0, 1]


def test_a_grant_for_a_node_that_is_taken_goes_back() -> None:
    """Own tasks have come in between, for another executor."""
    mesh = made(0, 2)
    plan = mesh.load(graph("main", "n:value", [node("n", "alone", ":value", None)]))
    mesh.submit(0, 1)
    believe(mesh.peers[1], plan, (mesh.peers[0], 1), name="n")
    (claim,) = mesh.said(Claim)
    other = next(executor for executor in mesh.peers[1].core._executors.idle if executor != claim.executor)
    idle = mesh.peers[1].core._executors.idle
    idle[claim.executor] = idle.pop(claim.executor)  # the other one is the next
    mesh.submit(1, 10)
    assert list(mesh.peers[1].running) == [other]
    mesh.deliver()
    assert len(mesh.said(Surrender)) == 1
    assert list(mesh.peers[1].running) == [other]


def test_longer_queues_are_asked_more_often() -> None:
    mesh = made(0, 0, 0, 40)
    plan = mesh.load(chain(1))
    owners = mesh.peers[:3]
    believe(mesh.peers[3], plan, (owners[0], 10_000), (owners[1], 1_000), (owners[2], 1_000))
    assert sum(asked(mesh)) == 40
    assert asked(mesh)[0] > 30


def test_of_equal_queues_all_are_asked() -> None:
    mesh = made(0, 0, 0, 30)
    plan = mesh.load(chain(1))
    believe(mesh.peers[3], plan, *((owner, 1_000) for owner in mesh.peers[:3]))
    assert min(asked(mesh)[:3]) >= 5


def test_the_strategy_sees_the_queues_of_all_peers() -> None:
    """Also for own tasks: the node that is worth more in the cluster goes first."""
    mesh = made(0, 1, executor={"batch_size": 1})
    one, two = mesh.load(chain(1), ns="one"), mesh.load(chain(1), ns="two")
    owner, peer = mesh.peers
    (running,) = mesh.submit(1, 1, ns="one")
    first = mesh.submit(1, 2, ns="one")
    second = mesh.submit(1, 3, ns="two")
    peer.beliefs.numbers[key_of(two)] = (0.0, 1e9, 0.0, 0, 0)
    peer.step()
    assert peer.running[FIRST].tasks == second
    assert peer.status(first[0]) is TaskStatus.WAIT
    assert peer.status(running) is TaskStatus.READY
    mesh.run()
    peer.beliefs.numbers = {}
    peer.believe(owner, key_of(one), 1)
    believe(peer, two, (owner, 7))
    assert [claim.digest for claim in mesh.said(Claim)] == [two.digest]


def test_few_of_many_idle_peers_ask() -> None:
    """Each of them would get nothing but for the first."""
    mesh = made(0, *[1] * 12)
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.gossip()
    claimed = len(mesh.said(Claim))
    assert 1 <= claimed <= 3
    mesh.deliver()
    assert len(mesh.said(Claim)) == claimed
    mesh.gossip()
    mesh.deliver()
    assert len(mesh.said(Claim)) <= claimed + 3


# ---- what gets lost


def test_a_claim_is_repeated_until_it_is_answered() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.drop(Claim)
    mesh.gossip()
    mesh.wait(3_000)
    assert {claim.claim for claim in mesh.said(Claim)} == {1}
    assert len(mesh.said(Claim)) == 4
    mesh.heal()
    mesh.wait(1_000)
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]


def test_an_owner_that_never_answers_is_not_waited_for_for_ever() -> None:
    mesh = made(0, 1, 0, timing={"lease_s": 5.0})
    plan = mesh.load(chain(1))
    (task,) = mesh.submit(2, 5)
    mesh.drop(Grant, src=0)
    peer = mesh.peers[1]
    believe(peer, plan, (mesh.peers[0], 3))
    peer.believe(mesh.peers[2], key_of(plan), 1)
    mesh.wait(4_999)
    assert asked(mesh) == [5, 0, 0]
    mesh.wait(1)
    mesh.run()
    assert asked(mesh) == [5, 0, 1]
    assert mesh.results(2, [task]) == [6]


def test_a_lost_grant_is_given_again() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.drop(Grant)
    mesh.gossip()
    mesh.wait(500)
    mesh.heal()
    mesh.wait(500)
    first, second = mesh.said(Grant)
    assert first == second
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]
    assert len(mesh.peers[1].ran) == 2


def test_a_lost_commit_is_said_again_and_the_executor_does_not_wait_for_it() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.drop(Commit)
    mesh.gossip()
    mesh.run()
    own = mesh.submit(1, 10)
    mesh.run()
    assert mesh.results(1, own) == [11]
    mesh.wait(2_500)
    assert len(mesh.said(Commit)) == 3
    mesh.heal()
    mesh.wait(1_000)
    assert mesh.results(0, tasks) == [2, 3]
    assert borrowing(mesh.peers[1])["returned"] == 1
    mesh.wait(60_000)
    assert len(mesh.said(Commit)) == 4


def test_a_lost_confirmation_does_not_apply_a_commit_twice() -> None:
    mesh = made(0, 1)
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1, 2)
    mesh.drop(Committed)
    mesh.gossip()
    mesh.run()
    mesh.wait(2_000)
    mesh.heal()
    mesh.wait(1_000)
    assert mesh.results(0, tasks) == [3, 4]
    assert mesh.peers[0].core._lending.counters["committed"] == 2
    assert not mesh.said(Committed)[-1].fenced
    assert borrowing(mesh.peers[1])["returned"] == 2


def test_everything_may_come_twice() -> None:
    mesh = made(0, 2)
    mesh.load(chain(3))
    tasks = mesh.submit(0, *range(8))
    mesh.duplicate()
    mesh.gossip()
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [value + 3 for value in range(8)]
    assert len(mesh.peers[1].ran) == 24
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    mesh.check_idle()


def test_a_claim_that_was_lost_with_its_commit() -> None:
    """Said again, the commit carries it if it is still wanted."""
    mesh = made(0, 1)
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(Commit)
    mesh.step(1)
    mesh.deliver()
    mesh.heal()
    mesh.wait(1_000)
    again = mesh.said(Commit)[1]
    assert again.claim == mesh.said(Commit)[0].claim
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [3, 4]


def test_a_repeated_commit_does_not_claim_for_an_executor_that_has_something() -> None:
    mesh = made(0, 1)
    mesh.load(chain(2))
    mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(Commit)
    mesh.step(1)
    mesh.deliver()
    assert mesh.said(Commit)[-1].claim is not None
    mesh.submit(1, 10)
    mesh.wait(1_000)
    assert len(mesh.said(Commit)) == 2
    assert mesh.said(Commit)[-1].claim is None


def test_results_that_are_evicted_before_their_owner_has_them() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.drop(Commit)
    mesh.gossip()
    mesh.run()
    mesh.gossip()
    mesh.heal()
    mesh.peers[1].evict()
    mesh.wait(1_000)
    (surrender,) = mesh.said(Surrender)
    assert surrender.crashed is False
    assert mesh.peers[0].report(tasks[0]).retries == 0
    mesh.wait(10_000)
    assert len(mesh.said(Surrender)) == 1
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]
    assert len(mesh.peers[1].ran) == 4


def test_inputs_that_are_evicted_here_are_sent_again() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.peers[1].evict()
    mesh.step(1)
    mesh.deliver()
    report = mesh.peers[0].report(task)
    assert (report.retries, error_at(mesh, task).code) == (1, ErrorCode.MEMORY_PURGE)
    mesh.gossip()
    mesh.run()
    assert mesh.results(0, [task]) == [2]


def test_a_grant_that_comes_again_is_not_given_back() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    (grant,) = mesh.said(Grant)
    mesh.speak(0, 1, grant, value=[1])
    assert mesh.said(Surrender) == []
    mesh.drop(Commit)
    mesh.run()
    mesh.speak(0, 1, grant, value=[1])
    assert mesh.said(Surrender) == [], "nor while its results are on their way"
    mesh.check_idle()


# ---- renewing


def test_batches_that_run_are_renewed() -> None:
    mesh = made(0, 2, timing={"lease_s": 3.0})
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2, 3, 4)
    mesh.gossip()
    mesh.wait(20_000)
    renewals = mesh.said(Renew)
    assert len(renewals) == 20
    assert all(len(renew.orders) == len(renew.executors) == 2 for renew in renewals)
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3, 4, 5]
    mesh.wait(10_000)
    assert len(mesh.said(Renew)) == 20
    assert mesh.peers[0].core._lending.counters["lapsed"] == 0


def test_results_on_their_way_keep_their_lease() -> None:
    mesh = made(0, 1, timing={"lease_s": 3.0})
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1)
    mesh.drop(Commit)
    mesh.gossip()
    mesh.run()
    mesh.wait(30_000)
    assert mesh.peers[0].status(tasks[0]) is TaskStatus.BUSY
    mesh.heal()
    mesh.wait(1_000)
    assert mesh.results(0, tasks) == [2]


def test_who_is_cut_off_loses_its_lease_and_is_fenced() -> None:
    mesh = made(1, 1, executor={"batch_size": 1}, timing={"lease_s": 3.0})
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    cancelled = actions_of(mesh.peers[1], RowsCancelled)
    (order,) = mesh.peers[1].running.values()
    mesh.drop(src=1)
    mesh.step(0)
    mesh.wait(3_000)
    assert mesh.peers[0].running[FIRST].tasks == (tasks[1],)
    mesh.heal()
    mesh.wait(1_000)
    assert cancelled == [RowsCancelled(executor=FIRST, order=order.order, rows=(0,))], "the next renewal says so"
    mesh.step(1)
    mesh.deliver()
    assert mesh.said(Commit) == []
    assert borrowing(mesh.peers[1])["borrowed_in_vain"] == 1
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]


def test_a_commit_that_comes_too_late_is_let_go() -> None:
    mesh = made(0, 1, timing={"lease_s": 3.0})
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(src=1)
    mesh.run()
    mesh.wait(3_500)
    mesh.heal()
    mesh.drop(Renew)
    mesh.wait(1_000)
    assert mesh.said(Committed)[-1].fenced
    assert borrowing(mesh.peers[1])["borrowed_in_vain"] == 1
    mesh.check_idle()


def test_a_renewal_may_tell_that_a_commit_is_not_wanted() -> None:
    mesh = made(0, 1, timing={"lease_s": 3.0})
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.gossip()
    mesh.drop(Commit)
    mesh.run()
    assert len(mesh.said(Commit)) == 1
    mesh.speak(0, 1, Renewed(fenced=(mesh.said(Commit)[0].order, 77)))
    assert mesh.peers[1].stored == {}
    mesh.wait(2_500)
    assert len(mesh.said(Commit)) == 1
    assert borrowing(mesh.peers[1])["borrowed_in_vain"] == 1


# ---- executors that are lost


@pytest.mark.parametrize("crashed", [True, False])
def test_an_executor_that_is_lost_gives_its_batch_back(*, crashed: bool) -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(Surrender)
    mesh.peers[1].lose(FIRST, crashed=crashed)
    mesh.wait(2_000)
    assert [surrender.crashed for surrender in mesh.said(Surrender)] == [crashed] * 3, "said until it is heard"
    mesh.heal()
    mesh.wait(1_000)
    report = mesh.peers[0].report(tasks[0])
    assert (report.status, report.retries) == (TaskStatus.WAIT, int(crashed))
    assert (report.error is not None) == crashed
    mesh.wait(5_000)
    assert len(mesh.said(Surrender)) == 4
    mesh.gossip()
    mesh.peers[1].tell(ExecutorStarted(executor=FIRST))
    mesh.gossip()
    mesh.deliver()
    assert mesh.peers[1].running[FIRST].solo is crashed
    mesh.run()
    mesh.gossip()
    mesh.run()
    assert mesh.results(0, tasks) == [2, 3]


def test_an_executor_that_is_lost_with_its_claim_under_way() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.gossip()
    mesh.peers[1].lose(FIRST)
    mesh.deliver()
    assert len(mesh.said(Surrender)) == 1
    assert mesh.peers[0].report(task).error is None


def test_an_executor_that_hangs_is_given_up_and_the_owner_told() -> None:
    mesh = made(0, 1, executor={"max_exec_s": 5.0}, timing={"lease_s": 3.0})
    mesh.load(chain(1))
    (task,) = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    abandoned = actions_of(mesh.peers[1], AbandonExecutor)
    mesh.wait(5_000)
    assert abandoned == [AbandonExecutor(executor=FIRST)]
    told = [report for report in mesh.peers[1].reports if report.context.get("executor") == FIRST][-2:]
    assert [report.name for report in told] == ["tally.executor.reclaim", "error.executor"]
    assert {report.context["node"] for report in told} == {"main:main:n0"}
    (surrender,) = mesh.said(Surrender)
    assert surrender.crashed
    report = mesh.peers[0].report(task)
    assert (report.retries, error_at(mesh, task).code) == (1, ErrorCode.DEFUNCT_EXECUTOR)
    assert "max_exec_s" in error_at(mesh, task).message
    assert mesh.peers[0].core._lending.counters["lapsed"] == 0


def test_rows_that_are_not_wanted_any_more_are_cancelled_here() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    tasks = mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    (order,) = mesh.peers[1].running.values()
    mesh.peers[0].cancel(tasks[1])
    mesh.deliver()
    assert mesh.peers[1].cancelled_rows == {order.order: {1}}
    mesh.speak(0, 1, RowsRevoked(order=1, executor=FIRST, rows=(7,)))
    mesh.speak(0, 1, RowsRevoked(order=55, executor=FIRST, rows=(0,)))
    assert mesh.peers[1].cancelled_rows == {order.order: {1}}
    mesh.run()
    assert mesh.results(0, tasks) == [2, None]


# ---- owners that go


def suspect(peer: Peer, whom: PeerId) -> None:
    """A peer does not rely on another one any more."""
    members: Any = peer.core._state.members
    is_heard = members.is_heard
    members.is_heard = lambda other: other != whom and is_heard(other)


def gone(mesh: Mesh, number: int) -> None:
    """A peer is gone for all the others."""
    mesh.peers[number].dead = True
    for peer in mesh.peers:
        if not peer.dead:
            whom = mesh.peers[number].me
            suspect(peer, whom)
            peer.core._lending.gone(whom, on_purpose=False)
            peer.core._borrowing.gone(whom)
            peer.tell(TimerFired())


def test_an_owner_that_is_gone_while_its_batch_runs() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    peer = mesh.peers[1]
    gone(mesh, 0)
    assert list(peer.cancelled_rows.values()) == [{0, 1}]
    mesh.wait(60_000)
    assert mesh.said(Renew) == []
    mesh.run()
    assert mesh.said(Commit) == []
    assert borrowing(peer)["borrowed_in_vain"] == 1
    assert peer.stored == {}
    assert peer.core.deadline_ms() is None


def test_only_the_batches_of_an_owner_that_is_gone_are_cancelled() -> None:
    mesh = made(0, 2, 0)
    mesh.load(chain(1))
    mesh.submit(0, 1, 2)
    tasks = mesh.submit(2, 3, 4)
    mesh.gossip()
    mesh.deliver()
    assert len(mesh.peers[1].running) == 2
    gone(mesh, 0)
    gone(mesh, 0)
    assert list(mesh.peers[1].cancelled_rows.values()) == [{0, 1}]
    mesh.run()
    assert mesh.results(2, tasks) == [4, 5]


def test_an_executor_that_is_lost_after_its_owner() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    gone(mesh, 0)
    mesh.peers[1].lose(FIRST)
    assert mesh.said(Surrender) == []
    assert mesh.peers[1].stored == {}


def test_an_owner_that_is_gone_before_it_has_the_results() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    mesh.submit(0, 1, 2)
    mesh.drop(Commit)
    mesh.gossip()
    mesh.run()
    peer = mesh.peers[1]
    gone(mesh, 0)
    assert peer.stored == {}
    assert borrowing(peer)["borrowed_in_vain"] == 1


def test_an_owner_that_is_gone_with_a_claim_under_way() -> None:
    mesh = made(0, 1, 0)
    plan = mesh.load(chain(1))
    (task,) = mesh.submit(2, 5)
    peer = mesh.peers[1]
    mesh.drop(Claim)
    believe(peer, plan, (mesh.peers[0], 3))
    assert len(mesh.said(Claim, dst=0)) == 1
    mesh.heal()
    peer.beliefs.lengths = {key_of(plan): {mesh.peers[2].me: 1}}
    gone(mesh, 0)
    mesh.run()
    assert mesh.results(2, [task]) == [6], "the executor looks elsewhere"


def test_an_owner_that_is_suspect_is_not_waited_for() -> None:
    mesh = made(0, 1, 0)
    plan = mesh.load(chain(1))
    (task,) = mesh.submit(2, 5)
    peer = mesh.peers[1]
    mesh.drop(Claim, dst=0)
    believe(peer, plan, (mesh.peers[0], 3))
    peer.beliefs.lengths = {key_of(plan): {mesh.peers[2].me: 1}}
    suspect(peer, mesh.peers[0].me)
    peer.tell(TimerFired())
    mesh.run()
    assert mesh.results(2, [task]) == [6]


def test_what_was_held_against_an_owner_goes_with_it() -> None:
    mesh = made(0, 1, 0)
    plan = mesh.load(chain(1))
    peer = mesh.peers[1]
    believe(peer, plan, (mesh.peers[0], 3))
    mesh.deliver()
    believe(peer, plan, (mesh.peers[2], 3))
    mesh.deliver()
    assert {owner for owner, _ in peer.core._asking._since} == {mesh.peers[0].me, mesh.peers[2].me}
    gone(mesh, 0)
    assert {owner for owner, _ in peer.core._asking._since} == {mesh.peers[2].me}


# ---- hostile


def test_grants_that_nobody_asked_for() -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    digest, queue = key_of(plan)
    grant = Grant(claim=1, executor=FIRST, digest=digest, queue=queue, order=5, ids=(mesh.submit(0, 1)[0],))
    mesh.speak(0, 1, grant, value=[1])
    assert not mesh.peers[1].running
    assert mesh.said(Surrender)[-1].order == 5
    mesh.speak(0, 1, Grant(claim=1, executor=FIRST, digest=digest, queue=queue))
    assert len(mesh.said(Surrender)) == 1
    mesh.speak(0, 1, Committed(executor=FIRST, order=5, fenced=False))
    assert borrowing(mesh.peers[1])["returned"] == 0


@pytest.mark.parametrize("columns", [{}, {"value": [1], "more": [1]}, {"other": [1]}])
def test_grants_without_what_the_node_needs(columns: dict[str, list[int]]) -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    digest, queue = key_of(plan)
    (task,) = mesh.submit(0, 1)
    mesh.drop(Claim)
    believe(mesh.peers[1], plan, (mesh.peers[0], 1))
    (claim,) = mesh.said(Claim)
    grant = Grant(claim=claim.claim, executor=FIRST, digest=digest, queue=queue, order=5, ids=(task,))
    mesh.speak(0, 1, grant, **columns)
    assert not mesh.peers[1].running
    assert mesh.said(Surrender)[-1].order == 5
    assert not mesh.peers[1].stored


def test_times_in_a_grant_are_bounded() -> None:
    mesh = made(0, 1)
    plan = mesh.load(chain(1))
    digest, queue = key_of(plan)
    (task,) = mesh.submit(0, 1)
    mesh.drop(Claim)
    believe(mesh.peers[1], plan, (mesh.peers[0], 1))
    (claim,) = mesh.said(Claim)
    grant = Grant(claim=claim.claim, executor=FIRST, digest=digest, queue=queue, order=5, ids=(task,), max_exec_ms=9)
    mesh.speak(0, 1, grant, value=[1])
    assert mesh.peers[1].running
    mesh.wait(9)
    assert mesh.peers[1].abandoned == [FIRST]


def test_a_node_that_answers_on_an_output_it_does_not_have() -> None:
    """The owner refuses it; nobody stumbles over it before."""
    mesh = made(0, 1)
    mesh.load(chain(2))
    (task,) = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()

    def nonsense(order: BatchOrder) -> BatchFinished:
        return BatchFinished(
            executor=FIRST, order=order.order, emitted=(Emitted(output="nowhere", rows=(0,), fields={}),)
        )

    mesh.step(1, act=nonsense)
    mesh.deliver()
    assert "no output 'nowhere'" in error_at(mesh, task).message


# ---- looking


def test_what_is_borrowed_is_counted_and_shown() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    peer = mesh.peers[1]
    (order,) = peer.running.values()
    peer.tell(BatchExpected(executor=FIRST, order=order.order, outputs={"out": (1.0, 8)}))
    assert peer.core._asking.idle_count() == 0
    mesh.gossip()
    mesh.run()
    assert peer.core._asking.idle_count() == 1
    peer.say(AskStats(mid=1))
    counters = peer.last(Stats).counters
    assert (counters["claims"], counters["borrowed"], counters["returned"]) == (1, 1, 1)
    mesh.peers[0].say(AskStats(mid=1))
    counters = mesh.peers[0].last(Stats).counters
    assert (counters["granted"], counters["committed"], counters["commits_fenced"]) == (1, 1, 0)


def test_batches_of_others_are_numbered_with_ours() -> None:
    mesh = made(0, 1)
    mesh.load(chain(1))
    started = actions_of(mesh.peers[1], RunBatch)
    mesh.submit(0, 1)
    mesh.submit(1, 2)
    mesh.run()
    mesh.gossip()
    mesh.run()
    assert [run.order.order for run in started] == [1, 2]
    assert [run.order.token.owner for run in started] == [mesh.peers[1].me, mesh.peers[0].me]
    mesh.peers[1].tell(BlocksEvicted(ids=()))
    assert PeerId(mesh.peers[1].me)
