"""Loaded nodes: one copy for all, within the budget, never one in use taken away, nobody waiting for ever."""

import threading
from contextlib import ExitStack
from typing import Any

import pytest

from scatterzmq.execute.failure import Failure
from scatterzmq.execute.loaded import LoadFailed
from scatterzmq.ids import ExecutorId

WAIT_S = 5.0
ONE, TWO, THREE = (ExecutorId("E" + digit * 32) for digit in "123")


def double(node: Any, batch: Any) -> Any:
    batch.emit("out", value=batch.uniform("value") * 2)


@pytest.fixture
def plan_of(bench: Any) -> Any:
    """plan_of("a", cost): a plan of one node "n" in namespace "a"."""
    bench.kind("node", double)
    return lambda ns, cost=1.0: bench.one("test.node", {"cost": cost}, ns=ns)


def only(plan: Any) -> Any:
    return next(iter(plan.queues.values()))


def used(nodes: Any, plan: Any, user: Any = ONE) -> Any:
    with nodes.use(plan, only(plan), user) as loaded:
        return loaded.node


def names(nodes: Any, *plans: Any) -> Any:
    """Which of these are loaded."""
    return {plan.ns for plan in plans if (plan.digest, only(plan).queue) in nodes.loaded()}


class Together:
    """Threads that use a node until told to leave."""

    def __init__(self, nodes: Any) -> None:
        self._nodes = nodes
        self._threads: list[threading.Thread] = []
        self._leave: dict[ExecutorId, threading.Event] = {}
        self.inside: dict[ExecutorId, threading.Event] = {}

    def enter(self, user: Any, plan: Any) -> Any:
        leave, inside = self._leave.setdefault(user, threading.Event()), threading.Event()
        self.inside[user] = inside

        def run() -> Any:
            try:
                with self._nodes.use(plan, only(plan), user):
                    inside.set()
                    assert leave.wait(WAIT_S)
            except LoadFailed:
                pass

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return inside

    def leave(self, user: Any) -> Any:
        self._leave[user].set()

    def end(self) -> Any:
        for leave in self._leave.values():
            leave.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


@pytest.fixture
def together(request: Any) -> Any:
    made: list[Together] = []

    def of(nodes: Any) -> Any:
        if not made:
            made.append(Together(nodes))
        return made[0]

    yield of
    for one in made:
        one.end()


class Watched(threading.Condition):
    """Counts who begins to wait."""

    def __init__(self, lock: Any) -> None:
        super().__init__(lock)
        self.begun = threading.Semaphore(0)

    def wait(self, timeout: Any = None) -> Any:
        self.begun.release()
        return super().wait(timeout)


def watched(nodes: Any) -> Any:
    nodes._changed = Watched(nodes._lock)
    return nodes


def until_waiting(nodes: Any) -> Any:
    """Returns when one more user waits for room, or at the door because somebody else does."""
    assert nodes._changed.begun.acquire(timeout=WAIT_S)


def test_a_node_is_loaded_once_and_kept(bench: Any, plan_of: Any) -> None:
    nodes, plan = bench.nodes(), plan_of("a")
    assert used(nodes, plan) is used(nodes, plan, TWO)
    assert bench.log == ["load a:main:n"]
    assert nodes.loaded() == ((plan.digest, only(plan).queue),)


def test_the_same_node_of_another_definition_is_another(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes()
    first, second = plan_of("a", 1.0), plan_of("a", 2.0)
    assert used(nodes, first) is not used(nodes, second)
    assert len(nodes.loaded()) == 2


def test_the_least_recently_used_goes_first(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes(budget=3)
    a, b, c, d = (plan_of(ns) for ns in "abcd")
    for plan in (a, b, c, a):
        used(nodes, plan)
    assert names(nodes, a, b, c) == {"a", "b", "c"}
    used(nodes, d)
    assert names(nodes, a, b, c, d) == {"a", "c", "d"}
    assert bench.log[-2:] == ["unload b:main:n", "load d:main:n"]  # there is room before it is loaded


def test_as_many_go_as_it_takes(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes(budget=4)
    a, b, c = plan_of("a"), plan_of("b", 2), plan_of("c", 3)
    for plan in (a, b, c):
        used(nodes, plan)
    assert names(nodes, a, b, c) == {"c"}
    used(nodes, a)
    assert names(nodes, a, b, c) == {"a", "c"}


def test_a_node_larger_than_the_budget_is_loaded_alone(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes(budget=2)
    a, b, large = plan_of("a"), plan_of("b"), plan_of("large", 100)
    for plan in (a, b, large):
        used(nodes, plan)
    assert names(nodes, a, b, large) == {"large"}
    used(nodes, a)
    assert names(nodes, a, b, large) == {"a"}


def test_a_node_in_use_never_goes(bench: Any, plan_of: Any, together: Any) -> None:
    nodes = bench.nodes(budget=2)
    a, b, c = (plan_of(ns) for ns in "abc")
    with nodes.use(a, only(a), ONE):
        used(nodes, b, TWO)
        used(nodes, c, TWO)  # `a` is the older one, but in use
        assert names(nodes, a, b, c) == {"a", "c"}


def test_who_finds_no_room_waits_for_it(bench: Any, plan_of: Any, together: Any) -> None:
    nodes = watched(bench.nodes(budget=1))
    a, b = plan_of("a"), plan_of("b")
    threads = together(nodes)
    assert threads.enter(ONE, a).wait(WAIT_S)
    inside = threads.enter(TWO, b)
    until_waiting(nodes)
    assert not inside.is_set()
    assert bench.log == ["load a:main:n"]
    threads.leave(ONE)
    assert inside.wait(WAIT_S)
    assert bench.log == ["load a:main:n", "unload a:main:n", "load b:main:n"]


def test_who_waits_for_room_is_not_overtaken(bench: Any, plan_of: Any, together: Any) -> None:
    nodes = watched(bench.nodes(budget=1))
    a, b = plan_of("a"), plan_of("b")
    threads = together(nodes)
    assert threads.enter(ONE, a).wait(WAIT_S)
    waiting = threads.enter(TWO, b)
    until_waiting(nodes)
    late = threads.enter(THREE, a)  # loaded, and still it has to wait
    until_waiting(nodes)
    threads.leave(ONE)
    assert waiting.wait(WAIT_S)
    assert not late.is_set()
    threads.leave(TWO)
    assert late.wait(WAIT_S)


def test_nobody_else_runs_a_node_in_use(bench: Any, plan_of: Any) -> None:
    nodes, plan = bench.nodes(), plan_of("a")
    with nodes.use(plan, only(plan), ONE):
        guard = nodes._entries[plan.digest, only(plan).id].guard
        assert guard.locked()
    assert not guard.locked()


def test_unless_its_class_is_thread_safe(bench: Any) -> None:
    nodes, plan = bench.nodes(), bench.one(bench.kind("safe", double, thread_safe=True))
    with ExitStack() as stack:
        copies = {id(stack.enter_context(nodes.use(plan, only(plan), user)).node) for user in (ONE, TWO, THREE)}
    assert len(copies) == 1
    assert len(bench.log) == 1


def test_many_threads_and_little_room(bench: Any) -> None:
    """Each node is used by one at a time, loaded once at a time, and never with more than there is room for."""
    lock, loaded, busy, problems, counts = threading.Lock(), {}, set(), [], [0, 0]

    def load(self: Any, resources: Any) -> Any:
        with lock:
            counts[0] += 1
            if self.args.ns in loaded:
                problems.append("loaded twice")
            loaded[self.args.ns] = self.load_cost()
            if sum(loaded.values()) > 3 and len(loaded) > 1:
                problems.append(f"too much: {loaded}")

    def unload(self: Any) -> Any:
        with lock:
            counts[1] += 1
            del loaded[self.args.ns]
            if self in busy:
                problems.append("unloaded while in use")

    kind = bench.kind("counted", double, load=load, unload=unload)
    plans = [bench.one(kind, {"cost": cost}, ns=ns) for ns, cost in zip("abcdef", (1, 2, 1, 3, 7, 1), strict=True)]
    nodes = bench.nodes(budget=3)

    def run(user: Any, start: Any) -> Any:
        for step in range(30):
            plan = plans[(start + step * (start + 1)) % len(plans)]
            with nodes.use(plan, only(plan), user) as found:
                with lock:
                    if found.node in busy:
                        problems.append("used by two")
                    busy.add(found.node)
                with lock:
                    busy.remove(found.node)

    threads = [
        threading.Thread(target=run, args=(user, start), daemon=True) for start, user in enumerate((ONE, TWO, THREE))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert problems == []
    nodes.close()
    assert (nodes.loaded(), nodes._cost, loaded) == ((), 0, {})
    assert counts[0] == counts[1] > len(plans)


def test_close_unloads_all(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes()
    for ns in "ab":
        used(nodes, plan_of(ns))
    version = nodes.version
    nodes.close()
    assert nodes.loaded() == ()
    assert nodes.version > version
    assert sorted(bench.log) == ["load a:main:n", "load b:main:n", "unload a:main:n", "unload b:main:n"]


def test_close_leaves_a_node_in_use_to_its_user(bench: Any, plan_of: Any) -> None:
    nodes, plan = bench.nodes(), plan_of("a")
    with nodes.use(plan, only(plan), ONE):
        nodes.close()
        assert bench.log == ["load a:main:n"]
        assert nodes.loaded() == ()
    assert bench.log == ["load a:main:n", "unload a:main:n"]


def test_nodes_of_a_retired_plan_are_unloaded_by_the_next_user(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes()
    a, b = plan_of("a"), plan_of("b")
    used(nodes, a)
    used(nodes, b)
    nodes.retire(a.digest)
    assert names(nodes, a, b) == {"b"}
    assert "unload a:main:n" not in bench.log
    used(nodes, b)
    assert bench.log[-1] == "unload a:main:n"


def test_who_is_given_up_leaves_its_room_to_others(bench: Any, plan_of: Any, together: Any) -> None:
    nodes = watched(bench.nodes(budget=1))
    a, b = plan_of("a"), plan_of("b")
    threads = together(nodes)
    assert threads.enter(ONE, a).wait(WAIT_S)
    inside = threads.enter(TWO, b)
    until_waiting(nodes)
    nodes.abandon(ONE)
    assert inside.wait(WAIT_S)
    assert names(nodes, a, b) == {"b"}
    threads.end()
    assert bench.log.count("unload a:main:n") == 1
    assert names(nodes, a, b) == {"b"}


def test_who_is_given_up_while_it_waits_lets_others_in(bench: Any, plan_of: Any, together: Any) -> None:
    nodes = watched(bench.nodes(budget=1))
    a, b = plan_of("a"), plan_of("b")
    threads = together(nodes)
    assert threads.enter(ONE, a).wait(WAIT_S)
    threads.enter(TWO, b)
    until_waiting(nodes)
    nodes.abandon(TWO)
    threads.leave(ONE)
    assert used(nodes, a, THREE)
    threads.end()
    assert "load b:main:n" not in bench.log


def test_nobody_waits_longer_than_told(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes(budget=1)
    a, b = plan_of("a"), plan_of("b")

    def in_vain(plan: Any, user: Any = TWO) -> str:
        with pytest.raises(LoadFailed) as caught, nodes.use(plan, only(plan), user, 0.001):
            pass
        assert caught.value.failure.code == "defunct_executor"
        return str(caught.value)

    with nodes.use(a, only(a), ONE):
        assert "waited too long for its turn at a:main:n" in in_vain(a)
        assert "waited too long for memory for b:main:n" in in_vain(b)
        nodes._waiting.add(nodes._entries[a.digest, only(a).id])
        assert "waited too long behind another that needs memory for b:main:n" in in_vain(b)
        nodes._waiting.clear()
    # Nothing of it is left behind.
    used(nodes, b)
    assert (names(nodes, a, b), nodes._cost) == ({"b"}, 1)


# ---- somebody else comes just then


@pytest.fixture
def meanwhile(bench: Any, together: Any) -> Any:
    """meanwhile(nodes, plan): TWO asks for that plan's node, and now waits for it."""

    def come(nodes: Any, plan: Any) -> None:
        entered, enter = threading.Event(), nodes._enter

        def enter_and_tell(*args: Any) -> Any:
            entry = enter(*args)
            entered.set()
            return entry

        nodes._enter = enter_and_tell
        together(nodes).enter(TWO, plan)
        assert entered.wait(WAIT_S)

    return come


def test_somebody_comes_for_a_node_that_is_being_unloaded(
    bench: Any, plan_of: Any, together: Any, meanwhile: Any
) -> None:
    nodes = bench.nodes(budget=1)
    plan: Any = bench.one(bench.kind("slow", double, unload=lambda self: meanwhile(nodes, plan)), ns="slow")
    used(nodes, plan)
    with nodes.use(plan_of("a"), only(plan_of("a")), ONE):
        assert names(nodes, plan, plan_of("a")) == {"a"}
    assert together(nodes).inside[TWO].wait(WAIT_S)
    assert names(nodes, plan, plan_of("a")) == {"slow"}
    assert nodes._cost == 1


def test_somebody_waits_for_a_node_whose_load_fails(bench: Any, together: Any, meanwhile: Any) -> None:
    nodes, attempts = bench.nodes(budget=1), []

    def load(self: Any, resources: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            meanwhile(nodes, plan)
            raise ValueError("the first one")

    plan = bench.one(bench.kind("slow", double, load=load))
    assert "the first one" in load_failure(nodes, plan).message
    assert together(nodes).inside[TWO].wait(WAIT_S)
    assert nodes._cost == 1


# ---- what nodes may do


def load_failure(nodes: Any, plan: Any) -> Any:
    with pytest.raises(LoadFailed) as caught, nodes.use(plan, only(plan), ONE):
        pass
    assert isinstance(caught.value.failure, Failure)
    return caught.value.failure


def test_a_failed_load_is_let_go_of_and_tried_anew(bench: Any) -> None:
    fails = [True]

    def load(self: Any, resources: Any) -> Any:
        bench.log.append("load")
        if fails[0]:
            raise SystemExit("no weights")

    def unload(self: Any) -> Any:
        bench.log.append("unload")
        raise ValueError("nothing to unload")

    plan = bench.one(bench.kind("fragile", double, load=load, unload=unload))
    nodes = bench.nodes(budget=1)
    failure = load_failure(nodes, plan)
    assert failure.message == "ns:main:n cannot be loaded: SystemExit: no weights"
    assert failure.whole
    assert bench.log == ["load", "unload"]
    assert (nodes.loaded(), nodes._cost) == ((), 0)
    fails[0] = False
    used(nodes, plan)
    assert len(nodes.loaded()) == 1


def test_a_load_without_memory_is_tried_again_when_all_others_are_gone(bench: Any, plan_of: Any) -> None:
    nodes = bench.nodes()
    other = plan_of("other")
    used(nodes, other)

    def load(self: Any, resources: Any) -> Any:
        if nodes.loaded():
            raise MemoryError

    plan = bench.one(bench.kind("hungry", double, load=load))
    used(nodes, plan)
    assert len(nodes.loaded()) == 1
    assert "unload other:main:n" in bench.log


def test_a_load_without_memory_at_all(bench: Any) -> None:
    def load(self: Any, resources: Any) -> Any:
        raise MemoryError

    failure = load_failure(bench.nodes(), bench.one(bench.kind("hungry", double, load=load)))
    assert failure.code == "out_of_memory"


def test_a_failing_unload_is_reported_and_nothing_else(bench: Any, plan_of: Any) -> None:
    def unload(self: Any) -> Any:
        raise KeyboardInterrupt("stuck")

    nodes = bench.nodes(budget=1)
    used(nodes, bench.one(bench.kind("stuck", double, unload=unload)))
    used(nodes, plan_of("a"))
    assert [name for name, _ in bench.reports] == [
        "tally.node.load",
        "tally.node.unload",
        "warning.node.unload",
        "tally.node.load",
    ]
    assert bench.reports[0][1] == {"node": "ns:main:n", "load_cost": 1.0}
    assert bench.reports[2][1]["message"] == "KeyboardInterrupt: stuck"


def test_memory_and_scratch_of_a_node_survive_unloading(bench: Any) -> None:
    def load(self: Any, resources: Any) -> Any:
        resources.memory.setdefault("seen", []).append(str(resources.device))
        (resources.scratch / "file").touch()
        bench.log.append(len(resources.memory["seen"]))

    plan = bench.one(bench.kind("remembers", double, load=load))
    nodes = bench.nodes()
    used(nodes, plan)
    nodes.close()
    used(nodes, plan)
    assert bench.log == [1, "unload ns:main:n", 2]
