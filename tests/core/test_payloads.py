"""Large results that stay with the peer that made them: who is told what, who fetches, and what a loss means.

Peer 0 owns the tasks. What one number takes is large here.
"""

from typing import Any

import pytest

from scatterzmq.core.events import BatchFinished, ExecutorStarted, TimerFired
from scatterzmq.core.messages import AskStats, Stats, TaskReport, TaskStatus
from scatterzmq.core.payloadmessages import Fetch, Fetched, FreePayloads, Gone, HeldPayloads
from scatterzmq.core.peermessages import Commit, Committed, Grant, Renewed, Surrender
from scatterzmq.core.queues import QueueKey
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import ExecutorId
from tests.core.conftest import chain, graph, node
from tests.core.mesh import Mesh, Peer

CHAIN = chain(2)["nodes"]
FIRST = ExecutorId("E" + "0" * 32)
SECOND = ExecutorId("E" + "0" * 31 + "7")


def made(*executors: int, static: bool = True, **sections: Any) -> Mesh:
    usual: dict[str, Any] = {"cluster": {"replicas": 1}, "store": {"inline_bytes": 0}, "executor": {"batch_size": 4}}
    return Mesh(len(executors), executors=executors, static=static, **(usual | sections))


def key_of(plan: Plan, name: str) -> QueueKey:
    return plan.digest, next(queue for queue, node in plan.queues.items() if node.name == name)


class Trio:
    """An owner without executors, and two others; of these peer 1 has run the first of three steps, and its executor
    has gone. The results lie with it."""

    def __init__(self, *values: int, length: int = 3, static: bool = True, graph: Any = None, **sections: Any) -> None:
        self.mesh = made(0, 1, 0, static=static, **sections)
        self.owner, self.maker, self.other = self.mesh.peers
        self.plan = self.mesh.load(graph or chain(length))
        self.tasks = self.mesh.submit(0, *values)
        self.mesh.gossip()
        self.mesh.deliver()
        self.mesh.step(1)
        self.maker.lose(FIRST, crashed=False)
        self.mesh.deliver()

    def start(self, number: int, name: str = "n1", executor: ExecutorId = SECOND) -> None:
        """A peer gets an executor, and takes what waits for a step."""
        peer = self.mesh.peers[number]
        if number:
            peer.believe(self.owner, key_of(self.plan, name), len(self.tasks))
        peer.tell(ExecutorStarted(executor=executor))
        self.mesh.deliver()

    def finish(self) -> None:
        """Run everything that is left, wherever."""
        self.mesh.run()
        self.mesh.gossip()
        self.mesh.run(gossip=True)

    def report(self, place: int = 0) -> TaskReport:
        return self.owner.report(self.tasks[place])

    def restarts(self, place: int = 0) -> tuple[int, int]:
        """(retries, restarts) of a task."""
        record = self.owner.core.state.ledger.record(self.tasks[place])
        assert record is not None
        return record.errors, record.restarts

    def clear(self) -> None:
        self.owner.clear(*self.tasks)
        self.mesh.deliver()
        self.mesh.check_idle()
        for peer in self.mesh.peers:
            assert not peer.dead
            assert not peer.core.payloads.blocks_held()


def counted(peer: Peer, name: str) -> int:
    return peer.core.counters()[name]


def beside(mesh: Mesh, kind: type[Any]) -> list[int]:
    """How many columns went with each message of a kind."""
    return [len(packet.frames) - 2 for packet in mesh.log if isinstance(packet.message, kind)]


# ---- what stays, and what travels


def test_only_the_first_input_and_the_result_travel() -> None:
    mesh = made(0, 1)
    mesh.load(chain(4))
    tasks = mesh.submit(0, 1, 2, 3)
    mesh.gossip()
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [5, 6, 7]
    assert beside(mesh, Grant)[:4] == [1, 0, 0, 0]
    assert beside(mesh, Commit) == [0, 0, 0, 1]
    assert mesh.said(Fetch) == []
    assert counted(mesh.peers[0], "rows_granted_by_name") == 9
    freed = [message.counters for message in mesh.said(FreePayloads)]
    assert len(freed) == 3, "each as soon as the next step is committed"
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    mesh.check_idle()


def test_what_is_small_travels() -> None:
    mesh = made(0, 1, store={"inline_bytes": 8})
    mesh.load(chain(3))
    tasks = mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.run()
    assert mesh.results(0, tasks) == [4, 5]
    assert beside(mesh, Commit) == [1, 1, 1]
    assert counted(mesh.peers[1], "payloads_kept") == 0


def test_what_becomes_part_of_the_result_or_of_a_cached_value_travels() -> None:
    """Also where it does so much later."""
    mesh = made(0, 1)
    nodes = [
        node("first", "add", ":value", "second", by=1),
        node("second", "call", "first:value", "third", graph="kept"),
        node("third", "add", "second:value", None, by=1),
    ]
    mesh.load(graph("main", "first:value", nodes), chain(2, name="kept", cache=True))
    tasks = mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [2, 3]
    stays = [list(part.stays) for commit in mesh.said(Commit) for part in commit.parts]
    assert stays[0] == stays[-2] == [], "first, and the last node of the cached graph"
    assert all(stay == ["value"] for stay in [*stays[1:-2], stays[-1]])
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    assert not mesh.peers[1].core.payloads.blocks_held()


def test_a_lone_peer_has_nothing_of_it() -> None:
    mesh = made(1)
    mesh.load(chain(3))
    tasks = mesh.submit(0, 1)
    mesh.run()
    assert mesh.results(0, tasks) == [4]
    assert not mesh.peers[0].core.state.blocks.any_away
    assert mesh.log == []


def test_content_is_known_by_name_too() -> None:
    """A cached node finds its value by the digests of inputs that lie elsewhere."""
    mesh = made(0, 1)
    nodes = [node("first", "add", ":value", "second", by=1), node("second", "add", "first:value", None, cache=True)]
    mesh.load(graph("main", "second:value", nodes))
    for _ in range(2):
        tasks = mesh.submit(0, 1)
        mesh.gossip()
        mesh.run(gossip=True)
        assert mesh.results(0, tasks) == [2]
        mesh.peers[0].clear(*tasks)
    assert [name for name, _ in mesh.peers[1].ran] == ["first", "second", "first"]


def test_a_column_that_shares_a_block_travels() -> None:
    """Two fields of one block: it can be named once."""
    mesh = made(0, 1)
    mesh.load(chain(3))
    mesh.submit(0, 1, 2)
    mesh.gossip()
    mesh.deliver()
    peer = mesh.peers[1]

    def backwards(order: Any) -> Any:
        done = peer.execute(FIRST, order)
        (part,) = done.emitted
        values = {"value": part.fields["value"][::-1]}
        return type(done)(
            executor=done.executor,
            order=done.order,
            emitted=(type(part)(output="out", rows=part.rows[::-1], fields=values),),
        )

    mesh.step(1, act=backwards)
    mesh.deliver()
    assert beside(mesh, Commit) == [1], "not the rows of a block as they lie there"


# ---- fetching


def test_whoever_else_runs_a_step_fetches_its_inputs_first() -> None:
    trio = Trio(1, 2)
    trio.start(2)
    assert [(fetch.maker, len(fetch.counters)) for fetch in trio.mesh.said(Fetch)] == [(trio.maker.me, 1)]
    assert beside(trio.mesh, Fetched) == [1]
    assert trio.other.running[SECOND].tasks == trio.tasks
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    assert trio.mesh.said(Gone) == []
    trio.clear()


def test_the_owner_fetches_what_it_runs_itself() -> None:
    trio = Trio(1, 2)
    trio.start(0)
    assert trio.owner.running[SECOND].tasks == trio.tasks
    assert len(trio.mesh.said(FreePayloads)) == 1, "it has it now"
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    trio.clear()


def test_what_has_come_home_travels_from_there() -> None:
    nodes = [
        node("n0", "add", ":value", "n1", by=1),
        node("n1", "add", "n0:value", "n2", by=1),
        node("n2", "sum", {"left": "n0:value", "right": "n1:value"}, None),
    ]
    trio = Trio(1, 2, graph=graph("main", "n2:value", nodes))
    trio.start(0)
    trio.mesh.step(0)
    trio.mesh.deliver()
    assert trio.owner.running[SECOND].node.name == "n2"
    trio.owner.lose(SECOND, crashed=False)
    trio.start(2, "n2")
    assert len(trio.mesh.said(Fetch)) == 1
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [5, 7]
    trio.clear()


def test_a_request_is_repeated_ever_more_rarely() -> None:
    trio = Trio(1)
    trio.mesh.drop(Fetch)
    trio.start(0)
    trio.mesh.wait(64_000)
    assert len(trio.mesh.said(Fetch)) == 1 + 7, "after 1, 2, 4, 8, 16, 16 and 16 s"
    trio.mesh.heal()
    trio.mesh.wait(16_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4]
    assert counted(trio.owner, "inputs_waited_ms") == 79_000
    assert trio.restarts() == (0, 0)


def test_answers_may_get_lost_or_come_twice() -> None:
    trio = Trio(1, 2)
    trio.mesh.drop(Fetched)
    trio.start(2)
    trio.mesh.heal()
    trio.mesh.duplicate(Fetched, Fetch)
    trio.mesh.wait(3_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    trio.clear()


def test_where_the_maker_is_silent_the_owner_is_asked() -> None:
    trio = Trio(1, 2)
    trio.mesh.drop(src=2, dst=1)
    trio.start(2)
    trio.mesh.wait(1_000)
    said = [(packet.src, packet.dst) for packet in trio.mesh.log if isinstance(packet.message, Fetch)]
    assert said == [(2, 1), (2, 0), (0, 1)]
    assert [(packet.src, packet.dst) for packet in trio.mesh.log if isinstance(packet.message, Fetched)] == [
        (1, 0),
        (0, 2),
    ]
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    trio.clear()


def test_both_are_asked_in_turns() -> None:
    trio = Trio(1)
    trio.mesh.drop(Fetch)
    trio.start(2)
    trio.mesh.wait(8_000)
    asked = [packet.dst for packet in trio.mesh.log if isinstance(packet.message, Fetch)]
    assert asked == [1, 0, 1, 0]
    trio.mesh.heal()
    trio.mesh.wait(20_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4]


def test_a_block_is_asked_for_once_however_many_wait_for_it() -> None:
    """Its tasks are lent to two executors."""
    mesh = made(0, 1, 2)
    plan = mesh.load(graph("main", "n1:value", [CHAIN[0], CHAIN[1] | {"batch_size": 1}]))
    tasks = mesh.submit(0, 1, 2)
    mesh.peers[1].believe(mesh.peers[0], key_of(plan, "n0"), 2)
    mesh.peers[1].tell(TimerFired())
    mesh.deliver()
    mesh.step(1)
    mesh.peers[1].lose(FIRST, crashed=False)
    mesh.deliver()
    mesh.hold(Fetched)
    mesh.peers[2].believe(mesh.peers[0], key_of(plan, "n1"), 2)
    mesh.peers[2].tell(TimerFired())
    mesh.deliver()
    assert len([grant for grant in mesh.said(Grant, dst=2) if grant.ids]) == 2
    assert len(mesh.said(Fetch)) == 1
    mesh.peers[2].lose(FIRST, crashed=False)
    mesh.heal()
    mesh.deliver()
    assert len(mesh.peers[2].running) == 1
    mesh.run()
    mesh.gossip()
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [3, 4]


# ---- losses


def test_what_was_evicted_costs_a_retry_wherever_it_is_found() -> None:
    trio = Trio(1, 2)
    trio.maker.evict()
    trio.start(2)
    said = [(packet.src, packet.dst) for packet in trio.mesh.log if isinstance(packet.message, Gone)]
    assert said == [(1, 2), (1, 0), (0, 2)]
    assert trio.other.running[SECOND].tasks == trio.tasks
    trio.mesh.step(2)
    trio.mesh.deliver()
    assert [trio.restarts(place) for place in (0, 1)] == [(1, 0)] * 2
    assert trio.report().error is not None
    assert trio.report().error.code is ErrorCode.MEMORY_PURGE  # type: ignore[union-attr]
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    trio.mesh.wait(60_000)
    trio.clear()


def test_the_owner_finds_out_for_itself() -> None:
    trio = Trio(1)
    trio.maker.evict()
    trio.start(0)
    trio.mesh.step(0)
    assert trio.restarts() == (1, 0)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4]


def test_what_is_known_to_be_lost_is_not_lent() -> None:
    trio = Trio(1, 2)
    trio.maker.evict()
    trio.mesh.speak(1, 0, Fetch(maker=trio.maker.me, counters=(block(trio),)))
    assert len(trio.mesh.said(Gone)) == 1, "its maker asks for it, so it is lost"
    trio.start(2)
    assert trio.restarts() == (1, 0)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]


def test_what_others_have_lost_keeps_no_task_back() -> None:
    trio = Trio(1)
    trio.maker.evict()
    trio.mesh.speak(1, 0, Fetch(maker=trio.maker.me, counters=(block(trio),)))
    (whole,) = trio.mesh.submit(0, 5)
    trio.start(2, "n0")
    assert trio.owner.status(whole) is TaskStatus.BUSY
    assert trio.restarts() == (0, 0), "nobody has asked for it yet"
    trio.finish()
    assert trio.mesh.results(0, [*trio.tasks, whole]) == [4, 8]


def block(trio: Trio, at: int = -1) -> int:
    """The number of what peer 1 keeps (the newest)."""
    return sorted(trio.maker.core.payloads.kept_for(trio.owner.me))[at]


def test_the_end_of_its_maker_is_counted_apart() -> None:
    trio = Trio(1, 2)
    trio.mesh.drop(Fetched)
    trio.start(0)
    trio.mesh.kill(1)
    trio.mesh.step(0)
    assert [trio.restarts(place) for place in (0, 1)] == [(0, 1)] * 2
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]


def test_a_maker_that_leaves_costs_nothing_but_time() -> None:
    trio = Trio(1, 2)
    trio.mesh.leave(1)
    trio.mesh.deliver()
    assert trio.maker.has_left
    trio.maker.dead = True
    trio.start(2)
    assert trio.restarts() == (0, 0)
    assert "restart memory_purge" in " ".join(trio.report().story)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]


def test_an_executor_may_miss_something_before_it_is_known_to_be_lost() -> None:
    mesh = made(1)
    mesh.load(chain(2))
    (task,) = mesh.submit(0, 1)
    mesh.step(0, act=lambda order: BatchFinished(executor=FIRST, order=order.order, emitted=(), missing=(0,)))
    report = mesh.peers[0].report(task)
    assert (report.retries, report.error.code) == (1, ErrorCode.MEMORY_PURGE)  # type: ignore[union-attr]
    mesh.run()
    assert mesh.results(0, [task]) == [3]


def test_restarts_have_a_limit() -> None:
    trio = Trio(1)
    record = trio.owner.core.state.ledger.record(trio.tasks[0])
    assert record is not None
    record.restarts = 100
    trio.mesh.kill(1)
    trio.start(2)
    assert trio.mesh.outcome(0, trio.tasks[0]).error.code is ErrorCode.MEMORY_PURGE  # type: ignore[union-attr]


def test_a_borrower_that_waits_for_a_dead_maker_asks_the_owner() -> None:
    trio = Trio(1, 2)
    trio.mesh.drop(Fetched)
    trio.start(2)
    trio.mesh.kill(1)
    trio.mesh.deliver()
    assert trio.other.running[SECOND].tasks == trio.tasks
    trio.mesh.step(2)
    trio.mesh.deliver()
    assert trio.restarts() == (0, 1)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]


def test_a_maker_with_nothing_to_do_with_a_fetch_may_go() -> None:
    """The owner fetches for somebody who is gone when it comes."""
    trio = Trio(1)
    trio.mesh.drop(src=2, dst=1)
    trio.mesh.drop(Fetch, src=0)
    trio.start(2)
    trio.mesh.wait(1_000)
    trio.mesh.kill(2)
    trio.mesh.heal()
    trio.mesh.wait(10_000)
    trio.start(0)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4]


@pytest.mark.parametrize("at", [0, 2])
def test_what_is_damaged_counts_as_gone(at: int) -> None:
    trio = Trio(1, 2)
    trio.mesh.drop(Fetched)
    trio.start(at)
    counter = block(trio)
    trio.mesh.speak(1, at, Fetched(maker=trio.maker.me, counter=counter, rows=2), rows=(7, 8))
    assert counted(trio.mesh.peers[at], "payloads_wrong") == 0, "it is dropped on its way"
    trio.mesh.heal()
    trio.mesh.speak(1, at, Fetched(maker=trio.maker.me, counter=counter, rows=2), rows=(7, 8))
    assert counted(trio.mesh.peers[at], "payloads_wrong") == 1
    trio.mesh.run()
    trio.mesh.wait(4_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    assert trio.restarts() == ((1, 0) if at == 0 else (0, 0)), "a borrower gets it from its owner"


def test_words_about_what_nobody_waits_for_change_nothing() -> None:
    trio = Trio(1)
    trio.start(2)
    counter = block(trio)
    trio.mesh.speak(1, 2, Fetched(maker=trio.maker.me, counter=counter + 99, rows=1), rows=(7,))
    trio.mesh.speak(0, 2, Gone(maker=trio.maker.me, counters=(counter + 99,)))
    trio.mesh.speak(2, 0, FreePayloads(counters=(counter, 1)))
    trio.mesh.speak(2, 1, FreePayloads(counters=(counter,)))
    trio.mesh.speak(2, 0, Fetch(maker=trio.other.me, counters=(5,)))
    assert block(trio) == counter
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4]


def test_gone_from_who_has_no_say_changes_nothing() -> None:
    trio = Trio(1)
    trio.mesh.drop(Fetch)
    trio.start(0)
    trio.mesh.speak(2, 0, Gone(maker=trio.maker.me, counters=(block(trio),)))
    assert trio.owner.running == {}
    trio.start(2)
    trio.mesh.heal()
    trio.mesh.wait(2_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4]


def test_gone_said_late_by_the_maker_changes_nothing() -> None:
    """The owner has been asked meanwhile."""
    trio = Trio(1)
    trio.mesh.drop(Fetch)
    trio.start(2)
    trio.mesh.wait(1_000)
    trio.mesh.speak(1, 2, Gone(maker=trio.maker.me, counters=(block(trio),)))
    assert len(trio.mesh.said(Fetch)) == 2
    trio.mesh.heal()
    trio.mesh.wait(10_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4]


# ---- two copies


def twice(*values: int) -> Trio:
    return Trio(*values, graph=chain(3, payload_copies=2))


def test_with_two_copies_a_result_stays_and_travels() -> None:
    trio = twice(1, 2)
    assert beside(trio.mesh, Commit) == [1]
    assert block(trio)
    trio.start(1)
    assert trio.mesh.said(Grant)[-1].payloads, "its maker needs the name only"
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    assert trio.mesh.said(Fetch) == []
    trio.clear()


def test_with_two_copies_the_end_of_a_maker_costs_nothing() -> None:
    trio = twice(1, 2)
    trio.mesh.kill(1)
    trio.start(2)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    assert trio.restarts() == (0, 0)


def test_with_two_copies_either_may_be_evicted() -> None:
    trio = twice(1, 2)
    trio.owner.evict()
    trio.start(0)
    assert len(trio.mesh.said(Fetched)) == 1
    assert trio.mesh.said(FreePayloads) == [], "it is to be at both places"
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    assert trio.restarts() == (0, 0)
    trio.clear()
    trio = twice(1, 2)
    trio.maker.evict()
    trio.start(1)
    assert trio.maker.running[SECOND].tasks == trio.tasks, "its owner has it"
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    assert trio.restarts() == (0, 0)


def test_what_both_have_lost_is_lost() -> None:
    trio = twice(1, 2)
    trio.mesh.kill(1)
    trio.owner.evict()
    trio.start(2)
    assert trio.restarts() == (1, 0)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]


# ---- freeing


def test_a_lost_word_keeps_nothing_for_ever() -> None:
    mesh = made(0, 1, timing={"sync_s": 30.0})
    mesh.load(chain(3))
    tasks = mesh.submit(0, 1, 2)
    mesh.drop(FreePayloads)
    mesh.gossip()
    mesh.run()
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    maker = mesh.peers[1].core.payloads
    assert len(maker.kept_for(mesh.peers[0].me)) == 2
    mesh.wait(59_000)
    assert len(mesh.said(HeldPayloads)) == 1, "that answer was lost as well"
    mesh.heal()
    mesh.wait(1_000)
    assert len(mesh.said(HeldPayloads)) == 2
    assert maker.kept_for(mesh.peers[0].me) == frozenset()
    mesh.check_idle()
    mesh.wait(120_000)
    assert len(mesh.said(HeldPayloads)) == 2


def test_a_batch_that_may_wait_for_its_inputs_has_as_much_longer() -> None:
    trio = Trio(1)
    trio.start(2)
    (lease,) = trio.owner.core.state.leases
    settings = trio.owner.core.state.settings
    least_ms = int(2000 * settings.executor.max_exec_s)
    assert least_ms <= lease.until_ms - trio.mesh.now_ms <= least_ms + int(3000 * settings.timing.lease_s)
    trio.finish()
    trio.clear()


def test_what_is_needed_is_not_freed_by_asking() -> None:
    trio = Trio(1)
    trio.mesh.wait(100_000)
    assert len(trio.mesh.said(HeldPayloads)) == 3
    assert block(trio)
    trio.start(1)
    trio.finish()
    trio.mesh.wait(60_000)
    assert len(trio.mesh.said(HeldPayloads)) == 3
    trio.clear()


def test_of_what_its_owner_cannot_know_yet_nothing_is_asked() -> None:
    mesh = made(0, 1)
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(Commit)
    mesh.step(1)
    mesh.peers[1].lose(FIRST, crashed=False)
    mesh.wait(14_000)
    assert mesh.said(HeldPayloads) == []
    mesh.heal()
    mesh.wait(1_000)
    mesh.peers[1].start(1)
    mesh.gossip()
    mesh.run()
    assert mesh.results(0, tasks) == [3]


def test_only_of_what_its_owner_knows_it_is_asked() -> None:
    trio = Trio(1)
    trio.mesh.drop(Commit)
    more = trio.mesh.submit(0, 5)
    trio.start(1, "n0")
    trio.mesh.step(1)
    assert len(trio.maker.core.payloads.kept_for(trio.owner.me)) == 2
    known = block(trio, 0)
    trio.mesh.wait(10_000)
    trio.maker.core.payloads._ask_ms = trio.mesh.now_ms
    trio.maker.core._is_seldom_known = False
    trio.mesh.wait(1)
    assert [message.counters for message in trio.mesh.said(HeldPayloads)] == [(known,)]
    trio.mesh.heal()
    trio.mesh.wait(1_000)
    trio.finish()
    assert trio.mesh.results(0, [*trio.tasks, *more]) == [4, 8]


def test_of_what_its_owner_refuses_it_is_asked_at_once() -> None:
    mesh = made(0, 1, 0)
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(src=1)
    mesh.step(1)
    mesh.wait(15_000)
    assert mesh.peers[0].report(tasks[0]).retries == 1, "its lease has run out"
    mesh.heal()
    mesh.wait(1_000)
    assert mesh.said(Committed)[-1].fenced
    assert len(mesh.said(HeldPayloads)) == 1
    mesh.run()
    assert mesh.results(0, tasks) == [3]
    mesh.peers[0].clear(*tasks)
    mesh.deliver()
    mesh.check_idle()


def test_of_what_was_to_stay_with_results_that_did_not_come_it_is_asked_at_once() -> None:
    """What was to travel was evicted before its owner had it, and the batch was given back instead."""
    mesh = made(0, 1)
    mesh.load(chain(3, payload_copies=2))
    tasks = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(Commit)
    mesh.step(1)
    mesh.peers[1].evict()
    mesh.heal()
    assert mesh.peers[1].core.payloads.kept_for(mesh.peers[0].me)
    mesh.wait(2_000)
    assert mesh.said(Surrender)
    assert len(mesh.said(HeldPayloads)) == 1
    assert not mesh.peers[1].core.payloads.kept_for(mesh.peers[0].me)
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [4]


def test_a_commit_that_its_owner_had_all_the_same_loses_nothing() -> None:
    """Its confirmation was lost, and it says that the lease is over: which it is."""
    mesh = made(0, 1)
    mesh.load(chain(2))
    tasks = mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(Committed)
    mesh.step(1)
    mesh.peers[1].lose(FIRST, crashed=False)
    mesh.deliver()
    mesh.speak(0, 1, Renewed(fenced=(mesh.said(Commit)[0].order,)))
    mesh.wait(60_000)
    (counter,) = mesh.peers[1].core.payloads.kept_for(mesh.peers[0].me)
    assert counter
    mesh.heal()
    mesh.peers[1].start(1)
    mesh.gossip()
    mesh.run()
    assert mesh.results(0, tasks) == [3]
    assert mesh.outcome(0, tasks[0]).retries == 0  # type: ignore[union-attr]


def test_nothing_is_kept_for_an_owner_that_is_gone() -> None:
    trio = Trio(1, 2)
    trio.mesh.kill(0)
    assert not trio.maker.core.payloads.blocks_held()
    trio.maker.core.check_invariants()
    assert trio.maker.stored == {}


def test_several_owners_are_asked_of_their_own() -> None:
    """One of them knows of nothing yet."""
    mesh = made(0, 2, 0)
    plan = mesh.load(chain(2))
    mesh.submit(0, 1)
    mesh.submit(2, 5)
    for owner in (0, 2):
        mesh.peers[1].believe(mesh.peers[owner], key_of(plan, "n0"), 1)
    mesh.peers[1].tell(TimerFired())
    mesh.deliver()
    mesh.drop(Commit, dst=2)
    executors = list(mesh.peers[1].running)
    for executor in executors:
        mesh.step(1, executor)
    for executor in executors:
        mesh.peers[1].lose(executor, crashed=False)
    mesh.deliver()
    mesh.peers[1].core.payloads._ask_ms = 10_000
    mesh.wait(10_000)
    assert [packet.dst for packet in mesh.log if isinstance(packet.message, HeldPayloads)] == [0]


def test_words_of_a_commit_that_is_dropped_with_its_owner() -> None:
    mesh = made(0, 1)
    mesh.load(chain(2))
    mesh.submit(0, 1)
    mesh.gossip()
    mesh.deliver()
    mesh.drop(Commit)
    mesh.step(1)
    mesh.kill(0)
    assert not mesh.peers[1].core.payloads.blocks_held()
    mesh.peers[1].core.check_invariants()
    assert mesh.peers[1].stored == {}


# ---- batches that wait for their inputs


def waiting(at: int, **sections: Any) -> Trio:
    """Somebody waits for inputs that do not come."""
    trio = Trio(1, 2, **sections)
    trio.mesh.drop(Fetch)
    trio.start(at)
    assert trio.report().status is TaskStatus.BUSY
    return trio


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("crashed", [False, True])
def test_an_executor_that_goes_while_it_waits_is_nobodys_fault(at: int, crashed: bool) -> None:
    trio = waiting(at)
    trio.mesh.peers[at].lose(SECOND, crashed=crashed)
    trio.mesh.deliver()
    assert trio.report().status is TaskStatus.WAIT
    assert trio.restarts() == (0, 0)
    trio.mesh.heal()
    trio.start(1)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]
    trio.clear()


@pytest.mark.parametrize("at", [0, 2])
def test_inputs_that_are_late_cost_a_restart_and_no_executor(at: int) -> None:
    trio = waiting(at, executor={"batch_size": 4, "max_exec_s": 5.0})
    trio.mesh.wait(5_000)
    assert trio.mesh.peers[at].abandoned == []
    assert trio.restarts() == ((0, 1) if at == 0 else (0, 0))
    trio.mesh.heal()
    trio.mesh.wait(5_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [4, 5]


@pytest.mark.parametrize("at", [0, 2])
def test_the_time_of_a_batch_begins_when_it_runs(at: int) -> None:
    trio = waiting(at, executor={"batch_size": 4, "max_exec_s": 5.0})
    trio.mesh.wait(2_500)
    trio.mesh.heal()
    trio.mesh.wait(1_500)
    assert trio.mesh.peers[at].running
    trio.mesh.wait(1_900)
    assert trio.mesh.peers[at].running
    trio.mesh.wait(5_000)
    assert trio.mesh.peers[at].abandoned == [SECOND]


@pytest.mark.parametrize("at", [0, 2])
def test_tasks_that_are_cleared_meanwhile_do_no_harm(at: int) -> None:
    trio = waiting(at)
    trio.owner.clear(trio.tasks[0])
    trio.mesh.heal()
    trio.mesh.wait(2_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks[1:]) == [5]
    trio = waiting(at)
    trio.owner.clear(*trio.tasks)
    trio.mesh.heal()
    trio.mesh.wait(2_000)
    trio.finish()
    trio.mesh.check_idle()


def test_a_batch_that_is_over_while_it_waits_frees_its_executor() -> None:
    trio = waiting(2)
    trio.mesh.drop(Renewed)
    (grant,) = [grant for grant in trio.mesh.said(Grant, dst=2) if grant.ids]
    trio.mesh.heal()
    trio.mesh.speak(0, 2, Renewed(fenced=(grant.order,)))
    assert list(trio.other.core._executors.idle) == [SECOND]
    trio = waiting(2)
    trio.mesh.kill(0)
    assert list(trio.other.core._executors.idle) == [SECOND]
    trio.other.core.check_invariants()


def test_of_two_inputs_one_may_have_come() -> None:
    """What has come is let go when the batch does not run after all."""
    nodes = [
        node("n0", "add", ":value", "n1", by=1),
        node("n1", "add", "n0:value", "n2", by=1),
        node("n2", "sum", {"left": "n0:value", "right": "n1:value"}, None),
    ]
    trio = Trio(1, 2, graph=graph("main", "n2:value", nodes))
    trio.start(1)
    trio.mesh.step(1)
    trio.maker.lose(SECOND, crashed=False)
    trio.mesh.deliver()
    first = trio.mesh.on_send
    came: list[Fetched] = []

    def only_one(packet: Any) -> Any:
        if isinstance(packet.message, Fetched):
            came.append(packet.message)
            if len(came) > 1:
                return []
        return first(packet)

    trio.mesh.on_send = only_one
    trio.start(2, "n2")
    assert len(came) == 2
    trio.other.lose(SECOND, crashed=False)
    trio.mesh.deliver()
    assert trio.other.stored == {}
    trio.mesh.on_send = first
    trio.start(0, "n2")
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [5, 7]
    trio.clear()


# ---- how much at a time


def two_inputs(**store: Any) -> Trio:
    """Two results of the maker are inputs of a third step."""
    nodes = [
        node("n0", "add", ":value", "n1", by=1),
        node("n1", "add", "n0:value", "n2", by=1),
        node("n2", "sum", {"left": "n0:value", "right": "n1:value"}, None),
    ]
    trio = Trio(1, 2, graph=graph("main", "n2:value", nodes), store={"inline_bytes": 0} | store)
    trio.start(1)
    trio.mesh.step(1)
    trio.maker.lose(SECOND, crashed=False)
    trio.mesh.deliver()
    return trio


def fetches_and_answers(trio: Trio) -> list[tuple[int, int, int]]:
    """(from, to, columns beside it) of each, as they were said."""
    kinds = Fetch | Fetched
    return [(it.src, it.dst, len(it.frames) - 2) for it in trio.mesh.log if isinstance(it.message, kinds)]


def test_no_more_is_asked_of_one_peer_than_it_may_have_on_its_way() -> None:
    together, apart = two_inputs(), two_inputs(fetch_bytes=16)
    for trio in (together, apart):
        trio.start(2, "n2")
        trio.finish()
        assert trio.mesh.results(0, trio.tasks) == [5, 7]
        trio.clear()
    assert fetches_and_answers(together) == [(2, 1, 0), (1, 2, 1), (1, 2, 1)]
    assert fetches_and_answers(apart) == [(2, 1, 0), (1, 2, 1), (2, 1, 0), (1, 2, 1)]


def test_what_waits_for_its_turn_is_not_asked_for_again() -> None:
    trio = two_inputs(fetch_bytes=16)
    trio.mesh.drop(Fetch)
    trio.start(0, "n2")
    trio.mesh.wait(4_000)
    assert {fetch.counters for fetch in trio.mesh.said(Fetch)} == {trio.mesh.said(Fetch)[0].counters}
    trio.mesh.heal()
    trio.mesh.wait(20_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [5, 7]
    trio.clear()


def test_the_turn_goes_on_when_the_owner_is_asked_instead() -> None:
    trio = two_inputs(fetch_bytes=16)
    trio.mesh.drop(Fetch, dst=1)
    trio.start(2, "n2")
    trio.mesh.wait(3_000)
    assert len({fetch.counters for fetch in trio.mesh.said(Fetch)}) == 2
    trio.mesh.heal()
    trio.mesh.wait(20_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [5, 7]
    trio.clear()


def test_a_batch_that_is_given_up_leaves_the_turn_to_others() -> None:
    trio = two_inputs(fetch_bytes=16)
    trio.mesh.drop(Fetched)
    trio.start(2, "n2")
    trio.other.lose(SECOND, crashed=False)
    trio.mesh.heal()
    trio.mesh.deliver()
    trio.start(0, "n2")
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [5, 7]
    trio.clear()


def test_with_the_maker_all_that_waits_for_its_turn_is_gone() -> None:
    trio = two_inputs(fetch_bytes=16)
    trio.mesh.drop(Fetched)
    trio.start(2, "n2")
    trio.mesh.heal()
    trio.mesh.kill(1)
    trio.mesh.wait(30_000)
    trio.finish()
    assert trio.mesh.results(0, trio.tasks) == [5, 7]


# ---- numbers


def test_a_peer_tells_its_numbers() -> None:
    trio = Trio(1)
    trio.owner.say(AskStats(mid=1))
    stats: Stats = trio.owner.last(Stats)
    assert {"payloads_kept", "payloads_fetched", "rows_granted_by_name"} <= stats.counters.keys()
