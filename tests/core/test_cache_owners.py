"""Caching among peers: who is asked, who computes, who waits, and that whatever gets lost only costs time."""

from collections.abc import Iterable
from hashlib import blake2b
from random import Random
from typing import Any

import pytest

from scatterzmq.core import cacheowners
from scatterzmq.core.actions import Tell
from scatterzmq.core.cache import cache_key
from scatterzmq.core.cachemessages import (
    CACHE_KEY_BYTES,
    CacheAbort,
    CacheAnswer,
    CacheAsk,
    CachePut,
    CacheRenew,
    CacheTell,
)
from scatterzmq.core.cacheowners import CacheOwners
from scatterzmq.core.events import TimerFired
from scatterzmq.core.messages import (
    AskNamespaces,
    AskStats,
    Attach,
    CacheCleared,
    ClearCache,
    Moved,
    Namespaces,
    Stats,
    TaskStatus,
)
from scatterzmq.core.outbox import PER_TASK
from scatterzmq.core.peermessages import BetweenPeers
from scatterzmq.core.values import Block
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.graph.plan import Plan
from scatterzmq.ids import BlockId, PeerId, TaskId
from tests.core.conftest import ALICE, ME, Outcome, _digest, chain, graph, node
from tests.core.mesh import Mesh

WORDS = (CacheAsk, CacheTell, CachePut, CacheAbort, CacheRenew)
ALONE = {"replicas": 1}
"""Tasks without copies: those of a dead peer are gone, and nobody takes them over."""


def make_mesh(peers: int = 3, *, static: bool = True, length: int = 1, **sections: Any) -> tuple[Mesh, Plan]:
    """Peers with one namespace whose graph is cached."""
    given: dict[str, Any] = {"cluster": ALONE, "executor": {"max_exec_s": 1000.0}} | sections
    mesh = Mesh(peers, static=static, **given)
    return mesh, mesh.load(chain(length, cache=True))


def key_of(plan: Plan, value: int) -> bytes:
    block = Block(BlockId(ME, 0), Layout(DTYPES["int64"], 1, ()), 8, (_digest(value),))
    key = cache_key(plan.graphs[plan.entry].closure, [(":value", (block, 0))])
    assert key is not None
    return key


def winner(key: bytes, peers: Iterable[PeerId]) -> PeerId:
    return max(peers, key=lambda peer: blake2b(peer.to_bytes() + key, digest_size=8).digest())


def owned_by(mesh: Mesh, plan: Plan, owner: int, among: Iterable[int] | None = None, but: int = -1) -> int:
    """An input whose result this peer owns. among: the peers that are there. but: another input, which it is not."""
    peers = [mesh.peers[number].me for number in (range(len(mesh.peers)) if among is None else among)]
    return next(
        value for value in range(1000) if value != but and winner(key_of(plan, value), peers) == mesh.peers[owner].me
    )


def owners_of(mesh: Mesh, at: int) -> CacheOwners:
    owners = mesh.peers[at].core._travel.owners
    assert owners is not None
    return owners


def ran(mesh: Mesh) -> int:
    """How many rows were executed, by all peers together."""
    return sum(len(peer.ran) for peer in mesh.peers)


def counted(mesh: Mesh, at: int) -> list[int]:
    """What came of the questions of a peer's tasks: hits, misses, deferred, promoted."""
    mesh.peers[at].say(AskStats(mid=1))
    counters = mesh.peers[at].last(Stats).counters
    return [counters[f"cache_{what}"] for what in ("hits", "misses", "deferred", "promoted")]


def statuses(mesh: Mesh, at: int, tasks: Iterable[TaskId]) -> list[TaskStatus]:
    return [mesh.peers[at].status(task) for task in tasks]


def tell(mesh: Mesh, src: int, dst: int, message: BetweenPeers, **columns: int) -> None:
    """Have a peer say something that it would not."""
    peer = mesh.peers[src]
    values = {name: ((peer.put([value]), 0),) for name, value in columns.items()}
    incarnation = mesh.peers[dst].incarnation
    peer.perform(Tell(to=mesh.peers[dst].me, incarnation=incarnation, message=message, values=values))
    for value in values.values():
        del peer.stored[value[0][0].id]
    mesh.deliver()


def settle(mesh: Mesh, s: int = 60) -> None:
    """Run everything, with time for whatever has to be asked again."""
    for _ in range(s):
        mesh.run()
        mesh.wait(1000)
    mesh.run()


# ---- a peer asks


@pytest.mark.parametrize("owner", [0, 1, 2])
def test_what_one_peer_has_computed_is_a_hit_for_another(owner: int) -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, owner)
    first = mesh.submit(0, value)
    mesh.run()
    second = mesh.submit(1, value)
    mesh.deliver()
    assert mesh.results(0, first) == mesh.results(1, second) == [value + 1]
    third = mesh.submit(1, value)
    assert mesh.results(1, third) == [value + 1], "it is here by now"
    assert ran(mesh) == 1
    outcome = mesh.outcome(1, second[0])
    assert outcome is not None
    assert outcome.retries == 0
    assert len(mesh.said(CacheAsk)) == {0: 1, 1: 1, 2: 2}[owner]
    mesh.peers[1].say(AskStats(mid=1))
    assert [counted(mesh, at) for at in range(3)] == [[0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]
    mesh.wait(20_000)
    assert {peer.core.deadline_ms() for peer in mesh.peers} == {3_600_000, None}, "only the results' own time"


def test_equal_tasks_at_all_peers_are_computed_once() -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    tasks = [mesh.submit(at, *[value] * 5) for at in range(3)]
    assert statuses(mesh, 0, tasks[0]) == [TaskStatus.DEFERRED] * 5, "also the one that asks"
    mesh.deliver()
    assert statuses(mesh, 0, tasks[0]) == statuses(mesh, 1, tasks[1]) == [TaskStatus.DEFERRED] * 5
    assert statuses(mesh, 2, tasks[2]) == [TaskStatus.BUSY] + [TaskStatus.DEFERRED] * 4, "the owner's own came first"
    mesh.run()
    assert [mesh.results(at, tasks[at]) for at in range(3)] == [[value + 1] * 5] * 3
    assert ran(mesh) == 1
    assert len(mesh.said(CacheAsk)) == 2, "one task asks for all of a peer"
    assert [outcome.retries for peer in mesh.peers for told in peer.outcomes.values() for outcome in told] == [0] * 15
    assert [counted(mesh, at) for at in range(3)] == [[0, 0, 5, 0], [0, 0, 5, 0], [0, 1, 4, 0]]


def test_what_is_asked_at_once_goes_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cacheowners, "KEYS_PER_MESSAGE", 8)
    mesh, plan = make_mesh(2)
    peers = [peer.me for peer in mesh.peers]
    values = [value for value in range(100) if winner(key_of(plan, value), peers) == peers[1]][:20]
    tasks = mesh.submit(0, *values)
    assert [len(message.keys) for message in mesh.said(CacheAsk)] == [8, 8, 4]
    mesh.peers[0].cancel(*tasks)
    assert [len(message.keys) for message in mesh.said(CacheAbort)] == [8, 8, 4]
    mesh.deliver()
    assert owners_of(mesh, 1)._cache.leaders() == {}


def test_a_lone_peer_asks_nobody() -> None:
    mesh, _ = make_mesh(1)
    tasks = mesh.submit(0, 7, 7, 8)
    assert statuses(mesh, 0, tasks) == [TaskStatus.BUSY, TaskStatus.DEFERRED, TaskStatus.BUSY]
    assert mesh.peers[0].core.deadline_ms() == 1_000_000, "only its batch has one"
    mesh.run()
    assert mesh.results(0, tasks) == [8, 8, 9]
    assert mesh.log == []


def test_without_deferral_only_hits_save_work() -> None:
    mesh, plan = make_mesh(cache={"use_defer": False})
    value = owned_by(mesh, plan, 2)
    tasks = [mesh.submit(at, value, value) for at in range(3)]
    mesh.run()
    assert [mesh.results(at, tasks[at]) for at in range(3)] == [[value + 1] * 2] * 3
    assert ran(mesh) == 6
    late = mesh.submit(1, value)
    mesh.deliver()
    assert mesh.results(1, late) == [value + 1]


def test_values_of_a_namespace_are_forgotten_where_all_of_them_are() -> None:
    """At the key's owner and at those who asked it; those of another graph stay."""
    mesh, plan = make_mesh()
    nodes = [node("s", "add", ":value", "t", by=1, cache=True), node("t", "add", "s:value", None, by=1)]
    mesh.load(graph("main", "t:value", nodes, cache=True), ns="other")
    value = owned_by(mesh, plan, 2)
    for at in range(3):
        mesh.submit(at, value)
        mesh.run()
    mesh.submit(0, value, ns="other")
    mesh.run()
    assert ran(mesh) == 3
    mesh.peers[0].say(AskNamespaces(mid=1))
    infos = {info.ns: info for info in mesh.peers[0].last(Namespaces).infos}
    assert [len(infos[ns].cached) for ns in ("main", "other")] == [1, 2]
    gone = []
    for peer in mesh.peers:
        peer.say(ClearCache(mid=1, origins=infos["main"].cached))
        gone.append(peer.last(CacheCleared).values)
    assert gone == [1, 1, 1]
    mesh.submit(1, value)
    mesh.submit(0, value, ns="other")
    mesh.run()
    assert ran(mesh) == 4
    gone = []
    for peer in mesh.peers:
        peer.say(ClearCache(mid=1))
        gone.append(peer.last(CacheCleared).values)
    assert sum(gone) >= 4
    assert not any(len(owners_of(mesh, at)._cache) for at in range(3))


def test_who_does_not_cache_has_nothing_to_forget() -> None:
    mesh = Mesh(1, cache={"enabled": False})
    mesh.peers[0].say(ClearCache(mid=1))
    assert mesh.peers[0].last(CacheCleared) == CacheCleared(mid=1, values=0)


def test_a_value_that_went_with_its_owner_is_a_miss() -> None:
    """Who has it still finds it at home; for others it is computed anew, and nobody sees an error."""
    mesh, plan = make_mesh(3, static=False)
    mesh.wait(1000)
    value = moving(mesh, plan, before=2, after=1)
    first = mesh.submit(0, value)
    mesh.run()
    mesh.kill(2)
    mesh.deliver()
    again = mesh.submit(0, value)
    assert (mesh.results(0, again), ran(mesh)) == ([value + 1], 1)
    other = mesh.submit(1, value)
    mesh.run()
    assert mesh.results(0, first) == mesh.results(1, other) == [value + 1]
    assert ran(mesh) == 2
    outcome = mesh.outcome(1, other[0])
    assert outcome is not None
    assert (outcome.retries, outcome.error) == (0, None)


def test_a_value_too_large_to_be_kept_reaches_all_who_wait_for_it() -> None:
    """And is computed again for who comes later."""
    mesh, plan = make_mesh(3, cache={"bytes": 4})
    value = owned_by(mesh, plan, 2)
    tasks = [mesh.submit(at, value, value) for at in range(2)]
    mesh.run()
    assert mesh.results(0, tasks[0]) == mesh.results(1, tasks[1]) == [value + 1] * 2
    assert ran(mesh) == 1
    assert [len(owners_of(mesh, at)._cache) for at in range(3)] == [0, 0, 0]
    late = mesh.submit(2, value)
    mesh.run()
    assert (mesh.results(2, late), ran(mesh)) == ([value + 1], 2)


@pytest.mark.parametrize("crashed", [True, False])
def test_a_leader_whose_executor_is_lost_goes_on_leading(crashed: bool) -> None:
    """It is computed once more, by the same task; who waits for it goes on waiting."""
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    tasks = [mesh.submit(0, value), mesh.submit(1, value)]
    mesh.deliver()
    assert statuses(mesh, 0, tasks[0]) + statuses(mesh, 1, tasks[1]) == [TaskStatus.BUSY, TaskStatus.DEFERRED]
    (executor,) = mesh.peers[0].running
    mesh.peers[0].lose(executor, crashed=crashed)
    mesh.peers[0].start()
    mesh.run()
    assert mesh.results(0, tasks[0]) == mesh.results(1, tasks[1]) == [value + 1]
    assert ran(mesh) == 1, "what was lost did not come to an end"
    assert counted(mesh, 1) == [0, 0, 1, 0]


def test_nodes_are_cached_among_peers_too() -> None:
    """Their values say by which output they left; those that only show the way have no fields."""
    mesh = Mesh(3, cluster=ALONE)
    nodes = [
        node("if", "if", ":value", {"then": "up", "else": "up"}, cache=True),
        node("up", "add", ":value", None, by=1, cache=True),
    ]
    mesh.load(graph("main", "up:value", nodes))
    values = range(20)
    tasks = mesh.submit(0, *values)
    mesh.run()
    again = [mesh.submit(at, *values) for at in (1, 2)]
    mesh.run()
    assert mesh.results(0, tasks) == mesh.results(1, again[0]) == mesh.results(2, again[1]) == [v + 1 for v in values]
    assert ran(mesh) == 40


def test_a_task_that_got_a_value_leads_it_no_more() -> None:
    """Or it would not wait for the next one, lest there be a circle."""
    mesh = Mesh(3, executors=[1, 0, 0], gossiping=True, cluster=ALONE)
    nodes = [
        node("one", "add", ":value", "two", by=1, cache=True),
        node("two", "add", "one:value", None, by=2, cache=True),
    ]
    mesh.load(graph("main", "two:value", nodes))
    first = mesh.submit(0, *range(12))
    mesh.deliver()
    mesh.step(0)
    mesh.deliver()
    assert TaskStatus.DEFERRED not in statuses(mesh, 0, first)
    second = mesh.submit(1, *range(12))
    mesh.deliver()
    assert statuses(mesh, 1, second) == [TaskStatus.DEFERRED] * 12
    settle(mesh, 5)
    assert mesh.results(0, first) == mesh.results(1, second) == list(range(3, 15))
    assert ran(mesh) == 24


def test_other_definitions_share_what_they_have_in_common() -> None:
    """Keys follow from what is computed, not from the namespace that asks; and not from its name (row 31)."""
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    mesh.submit(0, value)
    mesh.run()
    mesh.load(chain(1, cache=True), ns="other")
    mesh.load(chain(1, cache=True, description="redefined"))
    tasks = mesh.submit(1, value, ns="other") + mesh.submit(1, value)
    mesh.run()
    assert mesh.results(1, tasks) == [value + 1] * 2
    mesh.load(chain(2, cache=True))
    (task,) = mesh.submit(1, value)
    mesh.run()
    assert mesh.results(1, [task]) == [value + 2], "nothing stale"


# ---- what is told of it


def test_events_say_what_came_of_each_question() -> None:
    """Of whole graphs by their name, of nodes by theirs, too."""
    mesh = Mesh(2)
    mesh.peers[0].core.state.out.tells = frozenset(PER_TASK)
    inner = graph("inner", "n:value", [node("n", "add", ":value", None, by=1, cache=True)])
    main = graph("main", "c:value", [node("c", "call", ":value", None, graph="inner")], cache=True)
    mesh.load(main, inner)
    first, second = mesh.submit(0, 5, 5)
    mesh.deliver()
    mesh.peers[0].cancel(first)
    mesh.run()
    (third,) = mesh.submit(0, 5)
    cached = [report for report in mesh.peers[0].reports if report.name.startswith("cache.")]
    assert [(report.name, *report.context.values()) for report in cached] == [
        ("cache.miss", first, "main:main", ""),
        ("cache.defer", second, "main:main", ""),
        ("cache.promote", second, "main:main", ""),
        ("cache.miss", second, "main:inner", "n"),
        ("cache.hit", third, "main:main", ""),
    ]


def test_events_nobody_listens_to_are_not_made() -> None:
    mesh, plan = make_mesh(2)
    for peer in mesh.peers:
        peer.core.state.out.tells = frozenset(PER_TASK) - {"cache.defer"}
    mesh.submit(0, *[owned_by(mesh, plan, 0)] * 3)
    mesh.run()
    names = [report.name for peer in mesh.peers for report in peer.reports]
    assert [name for name in names if name.startswith("cache.")] == ["cache.miss"]
    assert counted(mesh, 0) == [0, 1, 2, 0]


# ---- leaders that give up


def failing(mesh: Mesh) -> Plan:
    """A cached graph that fails for every input."""
    main = graph("main", "n:value", [node("n", "fail", ":value", None, wrong=list(range(1000)))], cache=True)
    return mesh.load(main | {"max_retries": 0})


@pytest.mark.parametrize("owner", [0, 1, 2])
def test_errors_are_not_passed_on_and_two_leaders_are_enough(owner: int) -> None:
    mesh = Mesh(4, cluster=ALONE)
    plan = failing(mesh)
    value = owned_by(mesh, plan, owner)
    tasks = [mesh.submit(at, value, value) for at in range(4)]
    mesh.run()
    for at in range(4):
        for task in tasks[at]:
            outcome = mesh.outcome(at, task)
            assert outcome is not None
            assert outcome.error is not None
            assert outcome.error.code is ErrorCode.GENERAL_EXCEPTION
    assert ran(mesh) == 8
    totals = [sum(numbers) for numbers in zip(*[counted(mesh, at) for at in range(4)], strict=True)]
    assert totals == [0, 1, 7, 7], "one was first, seven waited, and each of those computed after all"
    mesh.wait(20_000)
    assert {peer.core.deadline_ms() for peer in mesh.peers} == {3_600_000}


@pytest.mark.parametrize("how", ["clear", "cancel"])
@pytest.mark.parametrize("owner", [0, 1, 2])
def test_when_the_leader_is_given_up_the_next_one_leads(owner: int, how: str) -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, owner)
    tasks = []
    for at in range(3):
        tasks.append(mesh.submit(at, value))
        mesh.deliver()
    assert statuses(mesh, 0, tasks[0]) == [TaskStatus.BUSY]
    getattr(mesh.peers[0], how)(*tasks[0])
    mesh.deliver()
    assert statuses(mesh, 1, tasks[1]) + statuses(mesh, 2, tasks[2]) == [TaskStatus.BUSY, TaskStatus.DEFERRED]
    mesh.run()
    assert mesh.results(1, tasks[1]) == mesh.results(2, tasks[2]) == [value + 1]
    assert len(mesh.peers[1].ran) == 1
    assert len(mesh.peers[2].ran) == 0
    assert [counted(mesh, at) for at in range(3)] == [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize("how", ["clear", "cancel"])
def test_when_one_that_asked_is_given_up_the_next_of_its_peer_asks(how: str) -> None:
    """However often: they have not failed at anything."""
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    (leader,) = mesh.submit(2, value)
    tasks = mesh.submit(0, *[value] * 5)
    mesh.deliver()
    for task in tasks[:4]:
        getattr(mesh.peers[0], how)(task)
        mesh.deliver()
    assert statuses(mesh, 0, tasks[4:]) == [TaskStatus.DEFERRED]
    assert owners_of(mesh, 2)._cache._pending[key_of(plan, value)].waiters == {(mesh.peers[0].me, tasks[4]): None}
    mesh.run()
    assert mesh.results(0, tasks[4:]) == [value + 1] == mesh.results(2, [leader])
    assert ran(mesh) == 1


def test_who_waits_at_one_peer_goes_on_when_its_leader_fails_elsewhere() -> None:
    """The next of the same peer stands in line behind those of others."""
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    first = mesh.submit(0, value, value)
    mesh.deliver()
    other = mesh.submit(1, value)
    mesh.deliver()
    mesh.peers[0].cancel(first[0])
    mesh.deliver()
    assert statuses(mesh, 0, first[1:]) + statuses(mesh, 1, other) == [TaskStatus.DEFERRED, TaskStatus.BUSY]
    mesh.run()
    assert mesh.results(0, first[1:]) == mesh.results(1, other) == [value + 1]
    assert [len(peer.ran) for peer in mesh.peers] == [1, 1, 0], "peer 0 ran what was cancelled"
    assert [counted(mesh, at) for at in range(3)] == [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_a_retried_leader_leads_again() -> None:
    mesh, plan = make_mesh(length=2)
    value = owned_by(mesh, plan, 2)
    tasks = mesh.submit(0, value), mesh.submit(1, value)
    mesh.deliver()
    mesh.step(0)
    asked = len(mesh.said(CacheAsk))
    mesh.peers[0].evict()
    mesh.step(0)
    mesh.deliver()
    assert mesh.peers[0].report(tasks[0][0]).retries == 1
    assert len(mesh.said(CacheAsk)) == asked
    mesh.run()
    assert mesh.results(0, tasks[0]) == mesh.results(1, tasks[1]) == [value + 2]
    assert len(mesh.peers[1].ran) == 0


def test_tasks_that_cross_do_not_wait_in_a_circle() -> None:
    """Two cached graphs that call each other's in opposite orders, led by different peers."""
    mesh = Mesh(3, cluster=ALONE)
    cross = graph(
        "cross",
        "end:value",
        [
            node("fork", "branch", ":value", {"even": "up", "odd": "down"}),
            node("up", "call", ":value", "back", graph="up", cache=True),
            node("back", "call", "up:value", "end", graph="down", cache=True),
            node("down", "call", ":value", "forth", graph="down", cache=True),
            node("forth", "call", "down:value", "end", graph="up", cache=True),
            node("end", "add", ":value", None, by=0),
        ],
        cache=True,
    )
    up = graph("up", "n:value", [node("n", "add", ":value", None, by=1, cache=True)], cache=True)
    down = graph("down", "n:value", [node("n", "add", ":value", None, by=-1, cache=True)], cache=True)
    mesh.load(cross, up, down)
    tasks = [mesh.submit(at, *range(10), *range(10), ns="cross") for at in range(3)]
    mesh.run()
    assert [mesh.results(at, tasks[at]) for at in range(3)] == [[*range(10), *range(10)]] * 3


# ---- what gets lost


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("trouble", ["drop", "duplicate"])
def test_nothing_that_is_lost_or_doubled_stops_anybody(word: type[Any], trouble: str) -> None:
    mesh, plan = make_mesh()
    getattr(mesh, trouble)(word)
    values = [owned_by(mesh, plan, owner) for owner in range(3)]
    tasks = [mesh.submit(at, *values, *values) for at in range(3)]
    mesh.deliver()
    for at in range(3):
        mesh.peers[at].cancel(tasks[at][0])
    settle(mesh, 30)
    for at in range(3):
        assert mesh.results(at, tasks[at]) == [None, *[value + 1 for value in [*values, *values][1:]]]
    if trouble == "duplicate":
        assert ran(mesh) == 4, "one was under way when it was cancelled"
    mesh.heal()
    mesh.wait(20_000)
    assert {peer.core.deadline_ms() for peer in mesh.peers} == {3_600_000}
    for at in range(3):
        mesh.peers[at].clear(*tasks[at])
        owners_of(mesh, at)._cache.clear()
        mesh.peers[at].tell(TimerFired())
    mesh.deliver()
    mesh.check_idle()


def test_an_owner_that_does_not_answer_is_asked_twice() -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    mesh.drop(CacheTell)
    tasks = mesh.submit(0, value, value)
    mesh.wait(1999)
    assert statuses(mesh, 0, tasks) == [TaskStatus.DEFERRED] * 2
    mesh.wait(1)
    assert statuses(mesh, 0, tasks) == [TaskStatus.BUSY, TaskStatus.DEFERRED]
    assert len(mesh.said(CacheAsk)) == 2
    mesh.heal()
    tell(mesh, 2, 0, CacheTell(key=key_of(plan, value), id=tasks[0], answer=CacheAnswer.LEAD, ttl_ms=15_000))
    tell(mesh, 2, 0, CacheTell(key=key_of(plan, value), id=tasks[0], answer=CacheAnswer.WAIT, ttl_ms=1))
    tell(mesh, 2, 0, CacheTell(key=key_of(plan, value), id=tasks[0], answer=CacheAnswer.COMPUTE))
    assert statuses(mesh, 0, tasks) == [TaskStatus.BUSY, TaskStatus.DEFERRED]
    mesh.wait(5000)
    assert len(mesh.said(CacheRenew, src=0)) == 1, "the owner has counted on it after all"
    mesh.run()
    assert mesh.results(0, tasks) == [value + 1] * 2
    late = mesh.submit(1, value)
    mesh.deliver()
    assert mesh.results(1, late) == [value + 1]


def test_who_waits_asks_again_after_a_while() -> None:
    """The owner has forgotten it: it is told the value, or leads, the next time it asks."""
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    (first,) = mesh.submit(0, value)
    mesh.deliver()
    (second,) = mesh.submit(1, value)
    mesh.deliver()
    mesh.drop(CacheTell, dst=1)
    mesh.run()
    assert mesh.results(0, [first]) == [value + 1]
    mesh.heal()
    mesh.wait(9_999)
    assert statuses(mesh, 1, [second]) == [TaskStatus.DEFERRED]
    mesh.wait(1)
    assert mesh.results(1, [second]) == [value + 1]
    assert ran(mesh) == 1


def test_leaders_are_renewed_as_long_as_it_takes() -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    first = mesh.submit(0, value)
    mesh.deliver()
    second = mesh.submit(1, value)
    mesh.wait(100_000)
    assert statuses(mesh, 0, first) + statuses(mesh, 1, second) == [TaskStatus.BUSY, TaskStatus.DEFERRED]
    assert len(mesh.said(CacheRenew)) == 20
    mesh.run()
    assert ran(mesh) == 1


def test_a_leader_that_is_not_renewed_is_replaced() -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    first = mesh.submit(0, value)
    mesh.deliver()
    second = mesh.submit(1, value)
    mesh.deliver()
    own = mesh.submit(2, value)
    mesh.drop(CacheRenew)
    mesh.wait(14_999)
    assert statuses(mesh, 1, second) == [TaskStatus.DEFERRED]
    mesh.wait(1)
    assert statuses(mesh, 0, first) + statuses(mesh, 1, second) == [TaskStatus.BUSY] * 2
    mesh.wait(15_000)
    assert statuses(mesh, 2, own) == [TaskStatus.BUSY], "two have failed: everybody computes"
    mesh.run()
    assert mesh.results(0, first) == mesh.results(1, second) == mesh.results(2, own) == [value + 1]


def test_answers_for_tasks_that_do_not_ask_are_turned_down() -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    key, nobody = key_of(plan, value), TaskId("T" + "9" * 32)
    tell(mesh, 2, 0, CacheTell(key=key, id=nobody, answer=CacheAnswer.HIT), value=5)
    tell(mesh, 2, 0, CacheTell(key=key, id=nobody, answer=CacheAnswer.COMPUTE))
    assert mesh.said(CacheAbort) == []
    for answer in (CacheAnswer.LEAD, CacheAnswer.WAIT):
        tell(mesh, 2, 0, CacheTell(key=key, id=nobody, answer=answer, ttl_ms=5))
    (task,) = mesh.submit(0, value)
    tell(mesh, 1, 0, CacheTell(key=key, id=task, answer=CacheAnswer.LEAD, ttl_ms=5))
    assert mesh.said(CacheAbort, src=0, dst=2) == [CacheAbort(keys=(key,), ids=(nobody,))] * 2
    assert mesh.said(CacheAbort, src=0, dst=1) == [CacheAbort(keys=(key,), ids=(task,))], "another was asked"
    mesh.run()
    assert mesh.results(0, [task]) == [value + 1]
    assert mesh.peers[0].stored.keys() == mesh.peers[0].core.state.blocks.uses().keys()


def test_an_owner_whose_waiter_is_gone_goes_on_to_the_next() -> None:
    mesh, plan = make_mesh()
    value = owned_by(mesh, plan, 2)
    tasks = []
    for at in (0, 1, 2):
        tasks.append(mesh.submit(at, value))
        mesh.deliver()
    mesh.drop(CacheAbort)
    mesh.peers[1].cancel(*tasks[1])
    mesh.deliver()
    mesh.heal()
    mesh.peers[0].cancel(*tasks[0])
    mesh.deliver()
    assert statuses(mesh, 2, tasks[2]) == [TaskStatus.BUSY]


def test_values_that_do_not_fit_are_computed_anew() -> None:
    mesh = Mesh(3, cluster=ALONE)
    plan = mesh.load(chain(1, cache=True))
    value = owned_by(mesh, plan, 2)
    key, nobody = key_of(plan, value), TaskId("T" + "9" * 32)
    (task,) = mesh.submit(0, value)
    tell(mesh, 2, 0, CacheTell(key=key, id=task, answer=CacheAnswer.HIT, output="nonsense"), value=5)
    tell(mesh, 1, 2, CachePut(key=key, id=nobody, output="nonsense"), value=5)
    (own,) = mesh.submit(2, value)
    (asking,) = mesh.submit(1, value)
    mesh.run()
    assert mesh.results(0, [task]) == mesh.results(1, [asking]) == mesh.results(2, [own]) == [value + 1]
    for peer in mesh.peers:
        assert "warning.cache.value" in [report.name for report in peer.reports]


def test_who_does_not_cache_says_so_at_once() -> None:
    mesh = Mesh(2, cache={"enabled": False})
    mesh.load(chain(1, cache=True))
    tasks = mesh.submit(0, 1, 1)
    mesh.run()
    assert (mesh.results(0, tasks), ran(mesh)) == ([2, 2], 2)
    mesh.wait(3_600_000)
    assert statuses(mesh, 0, tasks) == [TaskStatus.UNKNOWN] * 2, "time goes on without a cache"
    task = TaskId("T" + "9" * 32)
    tell(mesh, 0, 1, CacheAsk(keys=(b"k" * CACHE_KEY_BYTES,), ids=(task,), may_wait=(True,)))
    assert mesh.said(CacheTell) == [CacheTell(key=b"k" * CACHE_KEY_BYTES, id=task, answer=CacheAnswer.COMPUTE)]


# ---- members come and go


def test_an_owner_that_dies_is_replaced_at_once() -> None:
    """Row 20: waiters ask the new owner, the leader says that it leads."""
    mesh, plan = make_mesh(4, static=False)
    mesh.wait(1000)
    value = moving(mesh, plan, before=3, after=2)
    tasks = []
    for at in (0, 1):
        tasks.append(mesh.submit(at, value, value))
        mesh.deliver()
    mesh.kill(3)
    mesh.deliver()
    assert mesh.said(CacheRenew, src=0, dst=2) == [CacheRenew(keys=(key_of(plan, value),), ids=tasks[0][:1])]
    late = mesh.submit(2, value)
    mesh.wait(1000)
    assert len(mesh.said(CacheAsk, src=1, dst=2)) == 1
    assert statuses(mesh, 1, tasks[1]) + statuses(mesh, 2, late) == [TaskStatus.DEFERRED] * 3
    mesh.run()
    assert mesh.results(0, tasks[0]) == mesh.results(1, tasks[1]) == [value + 1] * 2
    assert mesh.results(2, late) == [value + 1]
    assert ran(mesh) == 1


def moving(mesh: Mesh, plan: Plan, before: int, after: int) -> int:
    """An input whose result the first peer owns, and when it is gone the second."""
    peers = [peer.me for peer in mesh.peers]
    left = [peer for peer in peers if peer != peers[before]]
    return next(
        value
        for value in range(1000)
        if winner(key_of(plan, value), peers) == peers[before] and winner(key_of(plan, value), left) == peers[after]
    )


def test_an_owner_that_dies_before_it_answers_is_replaced_at_once() -> None:
    mesh, plan = make_mesh(3, static=False)
    mesh.wait(1000)
    value = moving(mesh, plan, before=2, after=1)
    mesh.drop(CacheTell, src=2)
    tasks = mesh.submit(0, value)
    mesh.deliver()
    mesh.kill(2)
    mesh.deliver()
    assert statuses(mesh, 0, tasks) == [TaskStatus.BUSY]
    assert len(mesh.said(CacheAsk, dst=1)) == 1


def test_who_computes_for_itself_tells_no_new_owner() -> None:
    mesh, plan = make_mesh(3, static=False)
    mesh.wait(1000)
    value = moving(mesh, plan, before=2, after=1)
    mesh.drop(CacheTell, src=2)
    tasks = mesh.submit(0, value)
    mesh.wait(2000)
    assert statuses(mesh, 0, tasks) == [TaskStatus.BUSY]
    mesh.kill(2)
    mesh.deliver()
    assert mesh.said(CacheRenew) == []
    mesh.run()
    late = mesh.submit(1, value)
    assert mesh.results(1, late) == [value + 1], "its value goes there all the same"


@pytest.mark.parametrize("waiting", [True, False])
def test_who_owns_a_key_after_a_death_knows_its_own_tasks(waiting: bool) -> None:
    mesh, plan = make_mesh(3, static=False)
    mesh.wait(1000)
    value = moving(mesh, plan, before=2, after=0)
    if waiting:
        mesh.drop(CacheTell, dst=0)
    tasks = mesh.submit(0, value, value)
    mesh.deliver()
    mesh.kill(2)
    mesh.deliver()
    assert statuses(mesh, 0, tasks) == [TaskStatus.BUSY, TaskStatus.DEFERRED]
    other = mesh.submit(1, value)
    mesh.deliver()
    assert statuses(mesh, 1, other) == [TaskStatus.DEFERRED]
    mesh.run()
    assert mesh.results(0, tasks) == [value + 1] * 2
    assert mesh.results(1, other) == [value + 1]
    assert ran(mesh) == 1


def test_when_the_peer_of_a_leader_dies_the_next_one_leads() -> None:
    mesh, plan = make_mesh(4, static=False)
    mesh.wait(1000)
    value = owned_by(mesh, plan, 3)
    tasks = []
    for at in (0, 1, 2):
        tasks.append(mesh.submit(at, value))
        mesh.deliver()
    mesh.kill(1)
    mesh.kill(0)
    mesh.deliver()
    assert statuses(mesh, 2, tasks[2]) == [TaskStatus.BUSY]
    mesh.run()
    assert mesh.results(2, tasks[2]) == [value + 1]
    mesh.kill(2)
    mesh.deliver()
    assert owners_of(mesh, 3)._cache.leaders() == {}


def joining(mesh: Mesh, plan: Plan, before: int) -> int:
    """An input whose result this peer owns among the first two, and the third will own when it is started anew."""
    peers = [peer.me for peer in mesh.peers[:2]]
    comes = PeerId(f"P{2 << 32 | 3:032x}")
    return next(
        value
        for value in range(1000)
        if winner(key_of(plan, value), peers) == peers[before] and winner(key_of(plan, value), [*peers, comes]) == comes
    )


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("first", [0, 1])
def test_who_joins_owns_keys_that_are_being_computed(before: int, first: int) -> None:
    mesh, plan = make_mesh(3, static=False)
    mesh.kill(2)
    mesh.wait(1000)
    value = joining(mesh, plan, before)
    tasks = {}
    for at in (first, 1 - first):
        tasks[at] = mesh.submit(at, value, value)
        mesh.deliver()
    mesh.restart(2)
    mesh.deliver()
    assert [owners_of(mesh, at).owner(key_of(plan, value)) for at in range(3)] == [mesh.peers[2].me] * 3
    late = mesh.submit(2, value)
    mesh.wait(1500)
    assert statuses(mesh, 2, late) == [TaskStatus.DEFERRED], "somebody leads already, and has said so"
    mesh.run()
    for at in (0, 1):
        assert mesh.results(at, tasks[at]) == [value + 1] * 2
    assert mesh.results(2, late) == [value + 1]
    assert ran(mesh) == 1
    mesh.wait(30_000)
    for peer in mesh.peers:
        assert peer.core._travel.owners._requests == {}  # type: ignore[union-attr]


def test_keys_that_nobody_here_needs_are_let_go_when_another_owns_them() -> None:
    mesh, plan = make_mesh(3, static=False)
    mesh.kill(2)
    mesh.wait(1000)
    value = joining(mesh, plan, before=1)
    tasks = mesh.submit(0, value)
    mesh.deliver()
    assert owners_of(mesh, 1)._cache.leaders() == {key_of(plan, value): (mesh.peers[0].me, tasks[0])}
    mesh.restart(2)
    mesh.deliver()
    assert owners_of(mesh, 1)._cache.leaders() == {}
    mesh.run()
    late = mesh.submit(1, value)
    mesh.deliver()
    assert mesh.results(1, late) == [value + 1]
    assert ran(mesh) == 1


def test_keys_that_stay_are_left_alone_when_somebody_joins() -> None:
    mesh, plan = make_mesh(3, static=False)
    mesh.kill(2)
    mesh.wait(1000)
    peers = [peer.me for peer in mesh.peers[:2]]
    comes = PeerId(f"P{2 << 32 | 3:032x}")
    value = next(value for value in range(1000) if winner(key_of(plan, value), [*peers, comes]) == peers[0])
    tasks = [mesh.submit(at, value) for at in (0, 1)]
    mesh.deliver()
    mesh.log.clear()
    mesh.restart(2)
    mesh.deliver()
    assert [message for word in WORDS for message in mesh.said(word)] == []
    mesh.run()
    assert [mesh.results(at, tasks[at]) for at in (0, 1)] == [[value + 1]] * 2
    assert ran(mesh) == 1


# ---- anything at any time


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_everybody_ends(seed: int) -> None:
    """Cached graphs in cached graphs; words about the cache get lost, doubled and late; tasks are given up."""
    chance = Random(seed)
    mesh = Mesh(
        3, cluster=ALONE, executor={"batch_size": 2, "max_exec_s": 1000.0}, cache={"bytes": chance.choice([0, 1 << 20])}
    )
    inner = graph("inner", "n:value", [node("n", "add", ":value", None, by=2, cache=True)], cache=True)
    entry = graph(
        "main",
        "last:value",
        [
            node("first", "add", ":value", "call", by=1, cache=True),
            node("call", "call", "first:value", "last", graph="inner"),
            node("last", "add", "call:value", None, by=10),
        ],
        cache=True,
    )
    mesh.load(entry, inner)
    expected: dict[tuple[int, TaskId], int] = {}
    given_up: set[TaskId] = set()
    for _ in range(120):
        at = chance.randrange(3)
        match chance.randrange(8):
            case 0 | 1:
                values = [chance.randrange(3) for _ in range(chance.randint(1, 3))]
                for task, value in zip(mesh.submit(at, *values), values, strict=True):
                    expected[at, task] = value + 13
            case 2 | 3 if mesh.peers[at].running:
                mesh.step(at)
            case 4 if expected:
                where, task = chance.choice(list(expected))
                chance.choice([mesh.peers[where].clear, mesh.peers[where].cancel])(task)
                given_up.add(task)
            case 5:
                mesh.deliver(chance.randint(1, 20))
            case 6:
                mesh.wait(chance.randrange(4000))
            case 7:
                mesh.heal()
                trouble = chance.choice([mesh.drop, mesh.duplicate, mesh.hold])
                trouble(*chance.sample(WORDS, chance.randint(1, 5)), dst=chance.choice([None, 0, 1, 2]))
    mesh.heal()
    settle(mesh, 40)
    for (at, task), result in expected.items():
        outcomes = mesh.peers[at].outcomes[ALICE, task]
        assert outcomes[0].value == result or task in given_up
        mesh.peers[at].clear(task)
    mesh.wait(30_000)
    for peer in mesh.peers:
        owners = owners_of(mesh, peer.number)
        assert (owners._requests, owners._leases) == ({}, {})
        assert owners._cache.leaders() == {}


@pytest.mark.parametrize("seed", range(3))
def test_members_that_come_and_go_stop_nobody(seed: int) -> None:
    """Peers 2 and 3 die and come back, and links between all fail; whoever submitted at 0 and 1 gets the result."""
    chance = Random(seed)
    mesh, _ = make_mesh(4, static=False, length=2, cluster=ALONE | {"replicas": chance.choice([1, 2])})
    expected: dict[tuple[int, TaskId], int] = {}
    for _ in range(80):
        at = chance.randrange(4)
        match chance.randrange(7):
            case 0 | 1 if not mesh.peers[at].dead:
                values = [chance.randrange(6) for _ in range(chance.randint(1, 3))]
                for task, value in zip(mesh.submit(at, *values), values, strict=True):
                    if at < 2:
                        expected[at, task] = value + 2
            case 2 if mesh.peers[at].running:
                mesh.step(at)
            case 3:
                mesh.wait(chance.randrange(3000))
            case 4 if at >= 2:
                if mesh.peers[at].dead:
                    mesh.restart(at)
                else:
                    mesh.kill(at)
            case 5:
                mesh.heal()
                chance.choice([mesh.drop, mesh.duplicate])(*chance.sample(WORDS, 3), dst=chance.randrange(4))
            case 6:
                mesh.heal()
                mesh.drop(src=chance.randrange(4), dst=chance.randrange(4))
    mesh.heal()
    for at in (2, 3):
        if mesh.peers[at].dead:
            mesh.restart(at)
    settle(mesh, 60)
    for (at, task), result in expected.items():
        assert [outcome.value for outcome in outcomes(mesh, at, task)] == [result]


def outcomes(mesh: Mesh, at: int, task: TaskId) -> list[Outcome]:
    """How a task ended for ALICE, who follows it if it has moved to another peer."""
    told = mesh.peers[at].outcomes.get((ALICE, task))
    if told is not None:
        return told
    (mover,) = {owner for send in mesh.peers[at].sent for owner in moves(send.message, task)}
    (peer,) = [peer for peer in mesh.peers if peer.me == mover]
    peer.say(Attach(ids=(task,)))
    return peer.outcomes[ALICE, task]


def moves(message: object, task: TaskId) -> tuple[PeerId, ...]:
    """Where a task has moved, if that is what the message is about."""
    return message.owners if isinstance(message, Moved) and task in message.ids else ()
