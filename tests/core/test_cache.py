"""Caching, as scripts: hits, single flight, who leads, who waits, and that nobody waits for ever."""

from collections.abc import Callable
from typing import Any

import pytest

from scatterzmq.core.blocks import Blocks
from scatterzmq.core.cache import ENTRIES_MIN, ENTRY_NBYTES, Aborted, Ask, Cache, Cached, cache_key
from scatterzmq.core.cachemessages import CACHE_KEY_BYTES
from scatterzmq.core.messages import ORIGIN_BYTES, AskStats, Stats, TaskStatus
from scatterzmq.core.outbox import Outbox
from scatterzmq.core.values import Block
from scatterzmq.errors import ErrorCode
from scatterzmq.graph.formats import DTYPES, Layout
from scatterzmq.ids import BlockId, PeerId, TaskId

MakeWorld = Callable[..., Any]
T1, T2, T3, T4 = (TaskId("T" + digit * 32) for digit in "1234")
KEY = b"k" * 32


def cached_chain(build: Any, length: int = 1) -> Any:
    return build.chain(length, cache=True)


# ---- the machine alone


@pytest.fixture
def blocks() -> Blocks:
    return Blocks(Outbox())


def a_block(blocks: Blocks, number: int, rows: int = 1, digests: tuple[bytes, ...] = ()) -> Block:
    block = Block(BlockId(PeerId("P" + "0" * 32), number), Layout(DTYPES["int64"], rows, ()), 8 * rows, digests)
    blocks.admit([block], kept=False)
    return block


def test_the_key_depends_on_closure_names_and_content(blocks: Blocks) -> None:
    one, two = a_block(blocks, 1, digests=(b"1" * 32,)), a_block(blocks, 2, digests=(b"2" * 32,))
    keys = {
        cache_key(b"closure", [("a", (one, 0)), ("b", (two, 0))]),
        cache_key(b"closure", [("a", (two, 0)), ("b", (one, 0))]),
        cache_key(b"closure", [("a", (one, 0))]),
        cache_key(b"closure", [("b", (one, 0))]),
        cache_key(b"another", [("a", (one, 0))]),
        cache_key(b"closure", []),
    }
    assert len(keys) == 6
    assert None not in keys
    assert cache_key(b"c", [("a", (one, 0)), ("b", (two, 0))]) == cache_key(b"c", [("b", (two, 0)), ("a", (one, 0))])
    assert cache_key(b"c", [("a", (a_block(blocks, 3), 0))]) is None, "no content digest, no key"


def test_a_leader_that_asks_again_leads_again(blocks: Blocks) -> None:
    cache = Cache(blocks, bytes_max=100, use_defer=True)
    assert cache.ask(KEY, T1, may_wait=True) is Ask.LEAD
    assert cache.ask(KEY, T1, may_wait=True) is Ask.LEAD
    assert cache.ask(KEY, T2, may_wait=True) is Ask.WAIT
    assert cache.ask(KEY, T3, may_wait=False) is Ask.COMPUTE
    cache.check_invariants()


def test_after_two_failed_leaders_the_rest_compute_for_themselves(blocks: Blocks) -> None:
    cache = Cache(blocks, bytes_max=100, use_defer=True)
    for task in (T1, T2, T3, T4):
        cache.ask(KEY, task, may_wait=True)
    assert cache.abort(KEY, T2) == Aborted(None, ()), "not the leader"
    assert cache.abort(KEY, T1) == Aborted(T2, ())
    assert cache.abort(KEY, T2) == Aborted(None, (T3, T4))
    assert cache.ask(KEY, T3, may_wait=True) is Ask.LEAD
    assert cache.abort(KEY, T3) == Aborted(None, ())
    assert cache.leaders() == {}
    cache.check_invariants()


def test_who_leaves_is_not_promoted(blocks: Blocks) -> None:
    cache = Cache(blocks, bytes_max=100, use_defer=True)
    for task in (T1, T2, T3):
        cache.ask(KEY, task, may_wait=True)
    cache.leave(KEY, T2)
    cache.leave(b"nobody knows", T2)
    assert cache.abort(KEY, T1) == Aborted(T3, ())


def test_who_is_not_asked_any_more_keeps_its_own_tasks_only(blocks: Blocks) -> None:
    """Tasks of other peers ask elsewhere from now on; one of ours leads, if there is any."""
    cache = Cache(blocks, bytes_max=100, use_defer=True)
    other = PeerId("P" + "1" * 32)
    own, led, foreign = (bytes([number]) * 32 for number in range(3))
    for task in (T1, (other, T2), T3):
        cache.ask(own, task, may_wait=True)
    for task in ((other, T1), (other, T2), T3, T4):
        cache.ask(led, task, may_wait=True)
    for task in ((other, T1), (other, T2)):
        cache.ask(foreign, task, may_wait=True)
    assert [cache.disown(key) for key in (own, led, foreign)] == [
        (T1, [(other, T2)]),
        (T3, [(other, T2)]),
        (None, [(other, T2)]),
    ]
    assert cache.leaders() == {own: T1, led: T3}
    assert cache.waiters() == {T3: own, T4: led}
    assert cache.abort(own, T1) == Aborted(T3, ())
    assert cache.abort(own, T3) == Aborted(None, ())
    cache.check_invariants()


def test_values_are_bounded_least_recently_used_out_first(blocks: Blocks) -> None:
    cache = Cache(blocks, bytes_max=16, use_defer=True)
    keys = [bytes([number]) * 32 for number in range(3)]
    for number, key in enumerate(keys):
        block = a_block(blocks, number)
        if number == 2:
            assert isinstance(cache.ask(keys[0], T1, may_wait=True), Cached), "used again"
        cache.put(key, "", {"value": (block, 0)})
        blocks.settle([block])
    assert cache.ask(keys[1], T1, may_wait=True) is Ask.LEAD
    assert isinstance(cache.ask(keys[0], T1, may_wait=True), Cached)
    assert len(blocks.uses()) == len(cache) == 2
    too_large = a_block(blocks, 9, rows=1)
    cache.put(b"l" * 32, "", {str(number): (too_large, 0) for number in range(3)})
    assert len(cache) == 2
    cache.put(keys[0], "", {"value": (too_large, 0)})
    assert len(cache) == 2, "the first value of a key stays"
    assert not cache.lead(keys[0], T1), "whoever computes it now does so for itself"
    cache.check_invariants()
    assert cache.clear() == 2
    assert (len(cache), cache.nbytes) == (0, 0)


def test_values_are_forgotten_by_where_they_come_from(blocks: Blocks) -> None:
    """What is being computed goes on."""
    cache = Cache(blocks, bytes_max=100, use_defer=True)
    block = a_block(blocks, 1, digests=(b"1" * 32,))
    keys = [cache_key(closure * 32, [(name, (block, 0))]) for closure, name in ((b"a", "x"), (b"a", "y"), (b"b", "x"))]
    for key in keys:
        assert key is not None
        assert len(key) == CACHE_KEY_BYTES
        cache.put(key, "", {"value": (block, 0)})
    pending = cache_key(b"a" * 32, [("z", (block, 0))])
    assert pending is not None
    assert cache.ask(pending, T1, may_wait=True) is Ask.LEAD
    assert cache.ask(pending, T2, may_wait=True) is Ask.WAIT
    assert cache.clear([b"a" * ORIGIN_BYTES, b"c" * ORIGIN_BYTES]) == 2
    assert [key for key in keys if key in cache._values] == keys[2:]
    assert cache.nbytes == 8
    assert cache.put(pending, "", {"value": (block, 0)}) == (T2,)
    assert cache.clear([]) == 0
    assert len(cache) == 2
    cache.check_invariants()


def test_values_without_bytes_are_bounded_too(blocks: Blocks) -> None:
    """A node that only shows the way has no fields: what it takes to know that is counted."""
    cache = Cache(blocks, bytes_max=200 * ENTRY_NBYTES, use_defer=True)
    for number in range(300):
        cache.put(number.to_bytes(32, "little"), "out", {})
    assert (len(cache), cache.nbytes) == (200, 0)
    cache.check_invariants()
    small = Cache(blocks, bytes_max=0, use_defer=True)
    for number in range(300):
        small.put(number.to_bytes(32, "little"), "out", {})
    assert len(small) == ENTRIES_MIN


# ---- in the peer


def test_equal_tasks_at_once_are_computed_once(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(cached_chain(build, 2))
    tasks = world.submit(*[7] * 50, *[8] * 50)
    assert world.status(tasks[1]) is TaskStatus.DEFERRED
    world.drain()
    assert world.results(tasks) == [9] * 50 + [10] * 50
    assert sorted(world.ran) == [("n0", 7), ("n0", 8), ("n1", 8), ("n1", 9)]
    assert {world.outcome(task).retries for task in tasks} == {0}


def test_a_later_task_is_a_hit_and_never_waits_in_a_queue(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(cached_chain(build))
    first = world.submit(7)
    world.drain()
    second = world.submit(7)
    assert not world.running
    assert world.results(first + second) == [8, 8]
    world.clear(*first, *second)
    world.submit(7)
    assert not world.running, "the value outlives its tasks"
    world.say(AskStats(mid=1))
    stats = world.last(Stats)
    assert (stats.counters["cache_hits"], stats.counters["cache_misses"]) == (2, 1)
    assert (stats.cache_entries, stats.cache_bytes) == (1, 8)


def test_a_submission_may_keep_out_of_the_cache(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(cached_chain(build))
    world.submit(7, 7, cache=False)
    world.drain()
    world.submit(7, cache=False)
    world.drain()
    assert len(world.ran) == 3


def test_the_cache_may_be_switched_off(make_world: MakeWorld, build: Any) -> None:
    world = make_world(cache={"enabled": False})
    world.load(cached_chain(build))
    world.submit(7, 7)
    world.drain()
    assert len(world.ran) == 2
    world.say(AskStats(mid=1))
    assert world.last(Stats).cache_entries == 0


def test_without_deferral_only_hits_save_work(make_world: MakeWorld, build: Any) -> None:
    world = make_world(cache={"use_defer": False})
    world.load(cached_chain(build))
    world.submit(7, 7)
    world.drain()
    assert len(world.ran) == 2
    world.submit(7)
    assert len(world.ran) == 2


def test_when_the_leader_fails_waiters_compute(make_world: MakeWorld, build: Any) -> None:
    world = make_world(tasks={"max_retries": 0})
    nodes = [build.node("f", "fail", ":value", None, wrong=[2])]
    world.load(build.graph("main", "f:value", nodes, cache=True))
    tasks = world.submit(2, 2, 2, 2)
    world.drain()
    assert {world.outcome(task).error.code for task in tasks} == {ErrorCode.GENERAL_EXCEPTION}
    assert len(world.ran) == 4, "errors are never passed on"


def test_a_retried_leader_meets_its_own_key(make_world: MakeWorld, build: Any) -> None:
    """It must not wait for itself."""
    world = make_world()
    world.load(cached_chain(build, 2))
    tasks = world.submit(5, 5)
    world.step()
    world.evict()
    world.drain()
    assert world.results(tasks) == [7, 7]
    assert [world.outcome(task).retries for task in tasks] == [1, 0]


@pytest.mark.parametrize("how", ["clear", "cancel"])
def test_when_the_leader_goes_a_waiter_leads(make_world: MakeWorld, build: Any, how: str) -> None:
    world = make_world()
    world.load(cached_chain(build))
    tasks = world.submit(5, 5, 5)
    getattr(world, how)(tasks[0])
    world.drain()
    assert world.results(tasks[1:]) == [6, 6]
    assert world.ran == [("n0", 5), ("n0", 5)], "the leader's run and the promoted waiter's"


@pytest.mark.parametrize("how", ["clear", "cancel"])
def test_a_waiter_may_go_while_it_waits(make_world: MakeWorld, build: Any, how: str) -> None:
    world = make_world()
    world.load(cached_chain(build))
    tasks = world.submit(5, 5, 5)
    getattr(world, how)(tasks[1])
    world.drain()
    assert world.results([tasks[0], tasks[2]]) == [6, 6]
    assert world.outcome(tasks[1]).value is None


def test_a_called_graph_is_cached_too(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    main = build.graph(
        "main",
        "last:value",
        [build.node("go", "call", ":value", "last", graph="inner"), build.node("last", "add", "go:value", None, by=1)],
    )
    world.load(main, build.chain(1, name="inner", cache=True))
    first = world.submit(5, 5)
    world.drain()
    second = world.submit(5)
    world.drain()
    assert world.results(first + second) == [7, 7, 7]
    assert world.ran.count(("n0", 5)) == 1
    assert world.ran.count(("go", 5)) == 3


def test_a_single_node_is_cached_with_the_way_it_left(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [
        build.node("fork", "branch", ":value", {"even": "plus", "odd": None}, cache=True),
        build.node("plus", "add", "fork:value", None, by=100),
    ]
    world.load(build.graph("main", "fork:value", nodes))
    tasks = world.submit(2, 2, 3, 3)
    world.drain()
    again = world.submit(2, 3)
    world.drain()
    assert world.results(tasks + again) == [2, 2, 3, 3, 2, 3]
    assert [world.ran.count(entry) for entry in (("fork", 2), ("fork", 3), ("plus", 2))] == [1, 1, 3]


def test_when_the_leader_of_a_node_goes_a_waiter_leads(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(build.graph("main", "n:value", [build.node("n", "add", ":value", None, by=1, cache=True)]))
    tasks = world.submit(5, 5, 5)
    world.clear(tasks[0])
    world.drain()
    assert world.results(tasks[1:]) == [6, 6]
    assert world.ran.count(("n", 5)) == 2


def test_a_node_that_calls_is_cached_with_what_came_back(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    main = build.graph("main", "go:value", [build.node("go", "call", ":value", None, graph="inner", cache=True)])
    world.load(main, build.chain(2, name="inner"))
    first = world.submit(5, 5)
    world.drain()
    second = world.submit(5)
    assert world.results(first + second) == [7, 7, 7]
    assert len(world.ran) == 3


def test_caching_at_every_level_of_a_recursion_never_waits_in_a_circle(make_world: MakeWorld, build: Any) -> None:
    """Each task leads the key of its own value and meets those of smaller ones, which others lead."""
    world = make_world(executors=3, executor={"batch_size": 2})
    down = build.node("down", "down", ":value", {"back": None, "out": None}, graph="main")
    world.load(build.graph("main", "down:value", [down], cache=True))
    tasks = world.submit(3, 5, 4, 5, 1, 3)
    world.drain()
    assert world.results(tasks) == [0] * 6


def test_two_graphs_that_call_each_other_never_wait_in_a_circle(make_world: MakeWorld, build: Any) -> None:
    world = make_world(executors=2, executor={"batch_size": 1})
    ways = {"back": None, "out": None}
    ping = build.graph("main", "down:value", [build.node("down", "down", ":value", ways, graph="pong")], cache=True)
    pong = build.graph("pong", "down:value", [build.node("down", "down", ":value", ways, graph="main")], cache=True)
    start = build.graph(
        "start",
        "b:value",
        [
            build.node("a", "call", ":value", "b", graph="main"),
            build.node("b", "call", "a:value", None, graph="pong"),
        ],
    )
    world.load(start, ping, pong)
    tasks = world.submit(4, 3, 4, 2, ns="start")
    world.drain()
    assert world.results(tasks) == [0] * 4


def test_a_cached_graph_that_calls_a_cached_graph_waits_below(make_world: MakeWorld, build: Any) -> None:
    """The inner graph is strictly below the outer one, so waiting there is safe and saves the work."""
    world = make_world(executors=2, executor={"batch_size": 1})
    nodes = [
        build.node("half", "branch", ":value", {"even": "go", "odd": "go"}),
        build.node("go", "call", "half:value", None, graph="inner"),
    ]
    outer = build.graph("main", "go:value", nodes, cache=True)
    other = build.graph("other", "go:value", [build.node("go", "call", ":value", None, graph="inner")], cache=True)
    start = build.graph(
        "start",
        "y:value",
        [
            build.node("x", "call", ":value", "y", graph="main"),
            build.node("y", "call", ":value", None, graph="other"),
        ],
    )
    world.load(start, outer, other, build.chain(1, name="inner", cache=True))
    tasks = world.submit(4, 4, 4, ns="start")
    world.drain()
    assert world.results(tasks) == [5] * 3
    assert world.ran.count(("n0", 4)) == 1


def test_a_chain_of_hits_needs_no_stack(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    nodes = [
        build.node(
            f"n{at}",
            "add",
            f"n{at - 1}:value" if at else ":value",
            f"n{at + 1}" if at < 599 else None,
            by=1,
            cache=True,
        )
        for at in range(600)
    ]
    world.load(build.graph("main", "n599:value", nodes))
    world.checking = False
    first = world.submit(0)
    world.drain()
    second = world.submit(0)
    assert not world.running
    world.core.check_invariants()
    assert world.results(first + second) == [600, 600]


def test_a_loop_of_hits_does_not_hang_the_peer(make_world: MakeWorld, build: Any) -> None:
    """A node that leads to itself with its own input: endless for the task, but the peer goes on."""
    world = make_world()
    nodes = [build.node("round", "branch", ":value", {"even": "round", "odd": None}, cache=True)]
    world.load(build.graph("main", "round:value", nodes))
    (endless,) = world.submit(2)
    world.step()
    assert world.running, "after enough hits in a row it is computed again"
    world.clear(endless)
    other = world.submit(3)
    world.drain()
    assert world.results(other) == [3]


def test_a_redefined_graph_never_gets_an_old_value_and_equal_text_shares(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.load(cached_chain(build))
    world.submit(5)
    world.drain()
    world.load(cached_chain(build), ns="twin")
    (twin,) = world.submit(5, ns="twin")
    assert world.outcome(twin).value == 6
    world.load(cached_chain(build, 2), replace=True)
    (task,) = world.submit(5)
    world.drain()
    assert world.outcome(task).value == 7


def test_inputs_without_content_digests_are_not_cached(make_world: MakeWorld, build: Any) -> None:
    world = make_world()
    world.digesting = False
    nodes = [build.node("n", "add", ":value", None, by=1, cache=True)]
    world.load(build.graph("main", "n:value", nodes, cache=True))
    world.submit(5, 5)
    world.drain()
    assert len(world.ran) == 2


def test_deferred_results_survive_the_leaders_clear(make_world: MakeWorld, build: Any) -> None:
    world = make_world(cache={"bytes": 0})
    world.load(cached_chain(build))
    tasks = world.submit(5, 5)
    world.drain()
    world.clear(tasks[0])
    assert world.outcome(tasks[1]).value == 6, "a value too large to be kept still reaches those who waited"
    world.clear(tasks[1])
    assert world.stored == {}


@pytest.mark.parametrize("how", ["clear", "cancel"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_leader_and_waiters_may_go_at_once(make_world: MakeWorld, build: Any, how: str, count: int) -> None:
    """Each is promoted when the one before goes, and then goes itself before it could begin."""
    world = make_world()
    world.load(cached_chain(build))
    tasks = world.submit(1, 1, 1, 1)
    getattr(world, how)(*tasks[:count])
    world.drain()
    assert world.results(tasks)[count:] == [2] * (4 - count)
    (later,) = world.submit(1)
    world.drain()
    assert world.outcome(later).value == 2


def test_leaders_that_start_over_never_wait_in_a_circle(make_world: MakeWorld, build: Any) -> None:
    """Neither graph calls the other. But one task goes from the first to the second and one the other way, and both
    start over while they lead the second one of theirs.
    """
    world = make_world(executors=2, cache={"bytes": 0}, executor={"batch_size": 1})
    nodes = [
        build.node("fork", "branch", ":value", {"even": "up", "odd": "down"}),
        build.node("up", "call", ":value", "back", graph="up"),
        build.node("back", "call", "up:value", "end", graph="down"),
        build.node("down", "call", ":value", "forth", graph="down"),
        build.node("forth", "call", "down:value", "end", graph="up"),
        build.node("end", "add", ":value", None, by=0),
    ]
    up = build.graph("up", "n:value", [build.node("n", "add", ":value", None, by=1)], cache=True)
    down = build.graph("down", "n:value", [build.node("n", "add", ":value", None, by=-1)], cache=True)
    world.load(build.graph("main", "end:value", nodes), up, down)
    even, odd = world.submit(2, 3)
    places = {even: "main:down:n", odd: "main:up:n"}
    while behind := [task for task in places if world.report(task).place != places[task]]:
        for executor in [executor for executor, order in world.running.items() if order.tasks[0] in behind]:
            world.step(executor)
    world.evict()
    world.drain()
    assert world.results([even, odd]) == [2, 3]
    assert [world.outcome(task).retries for task in (even, odd)] == [1, 1]


def test_a_waiter_of_another_namespace_leads_there(make_world: MakeWorld, build: Any) -> None:
    """Equal graphs share their keys, but what lies below them is each namespace's own."""
    world = make_world(executor={"batch_size": 1})
    outer = build.graph("outer", "go:value", [build.node("go", "call", ":value", None, graph="main")], cache=True)
    for ns in ("one", "two"):
        world.load(outer, cached_chain(build), ns=ns)
    (one,) = world.submit(1, ns="one")
    (two, other) = world.submit(1, 1, ns="two")
    world.clear(one)
    assert [world.status(task) for task in (two, other)] == [TaskStatus.WAIT, TaskStatus.DEFERRED]
    world.drain()
    assert world.results([two, other]) == [2, 2]


def test_a_task_that_lacks_an_input_may_come_to_wait_for_a_key(make_world: MakeWorld, build: Any) -> None:
    """It starts over before an executor ever got it, and another one computes now what it had before."""
    world = make_world(cache={"bytes": 0}, executor={"batch_size": 1}, tasks={"max_retries": 1})
    nodes = [
        build.node("first", "add", ":value", "fork", by=0, cache=True),
        build.node("fork", "branch", "first:value", {"even": "plus", "odd": "last"}),
        build.node("plus", "add", "fork:value", "last", by=100),
        build.node("last", "add", "plus:value", None, by=1),
    ]
    world.load(build.graph("main", "last:value", nodes))
    (one,) = world.submit(3)
    world.step()
    (two,) = world.submit(3)
    world.drain()
    for task in (one, two):
        assert "needs plus:value" in world.outcome(task).error.message


def test_a_task_that_lacks_an_input_may_find_a_result(make_world: MakeWorld, build: Any) -> None:
    """A kind that is not as pure as it says took others of its batch another way."""
    world = make_world(cache={"use_defer": False})
    nodes = [
        build.node("gate", "branch", ":value", {"even": "plus", "odd": "fork"}),
        build.node("fork", "maybe", ":value", {"made": None, "none": "last"}),
        build.node("plus", "add", "gate:value", "last", by=100),
        build.node("last", "add", "plus:value", None, by=1),
    ]
    world.load(build.graph("main", "gate:value", nodes, cache=True))
    tasks = world.submit(3, 3, 3)
    world.drain()
    first = world.outcome(tasks[0]).value
    assert [world.outcome(task).retries for task in tasks] == [0, 0, 1]
    assert world.outcome(tasks[2]).value == first
