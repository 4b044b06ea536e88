"""Nodes that do not come back: their executors are given up, their tasks tried again, and everybody else goes on."""

from typing import Any

import pytest

ONE = ["float", [1]]

STUCK = """
    from threading import Event
    released = Event()
    attempts = []
    stuck_at = {"thread_safe": %s}

    class Stuck(Node):
        pure = True
        thread_safe = stuck_at["thread_safe"]

        def inputs(self):
            return {"value": FieldFormat("float", (1,))}

        def outputs(self):
            return {"out": {"value": FieldFormat("float", (1,))}}

        def execute(self, batch):
            values = batch.uniform("value")
            attempts.append([int(value) for value in values[:, 0]])
            if self.sticks(values):
                assert released.wait(60)
            batch.emit("out", value=values * 2)
"""

ALWAYS = """
        def sticks(self, values):
            return bool((values < 0).any())
"""

ONCE = """
        def sticks(self, values):
            return bool((values < 0).any()) and sum(-1 in attempt for attempt in attempts) == 1
"""


@pytest.fixture
def stuck(start: Any, plugin: Any) -> Any:
    """Makes a kind that waits for `released` with negative numbers; let go before clusters are closed."""
    made = []

    def make(when: str, *, thread_safe: bool = True) -> Any:
        made.append(plugin(STUCK % thread_safe + when))
        return made[-1]

    yield make
    for module in made:
        module.released.set()


@pytest.mark.parametrize("executors", [1, 2, 3])
def test_a_task_that_hangs_every_executor_is_poison(
    start: Any, build: Any, finish: Any, stuck: Any, executors: int
) -> None:
    """Those that were in its batch, or ran beside it, get their results."""
    module = stuck(ALWAYS)
    client = start(executors=executors, executor_max_exec_s=0.05, tasks_poison_limit=2, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__, ("add", 1))))
    values = [1, 2, -1, 3, 4, 5]
    tasks = [client.enqueue_task(ns, {"value": [value]}) for value in values]
    for response, value in zip(finish(client, tasks).values(), values, strict=True):
        if value < 0:
            assert (response.status, response.error.code) == ("error", "poison")
            assert response.error.context.node == "s0"
        else:
            assert (response.status, response.result["value"].item()) == ("ready", 2 * value + 1)
            assert response.error is None or response.error.code == "defunct_executor"
    assert [-1] in module.attempts, "it never ran alone"
    more = [client.enqueue_task(ns, {"value": [value]}) for value in range(20)]
    assert [response.result["value"].item() for response in finish(client, more).values()] == list(range(1, 41, 2))


def test_a_task_that_hung_once_is_tried_again(start: Any, build: Any, finish: Any, stuck: Any) -> None:
    """Retries for other reasons are counted apart. The answer that comes too late is nobody's."""
    module = stuck(ONCE)
    client = start(max_retries=0, executor_max_exec_s=0.05, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    task = client.enqueue_task(ns, {"value": [-1]})
    (response,) = finish(client, [task]).values()
    assert (response.status, response.retries, response.error.code) == ("ready", 1, "defunct_executor")
    assert "max_exec_s" in response.error.message
    module.released.set()
    again = client.enqueue_task(ns, {"value": [7]})
    assert finish(client, [again])[again].result["value"].item() == 14
    assert client.get_result(task)["value"].item() == -2


def test_a_node_has_its_own_time(start: Any, build: Any, finish: Any, stuck: Any) -> None:
    module = stuck(ALWAYS)
    client = start(tasks_poison_limit=1, plugins=[module.__name__])
    graph = build.line([1], module.__name__)
    graph["nodes"][0]["max_exec_s"] = 0.03
    ns = client.load_graph(build.graphs(graph))
    (response,) = finish(client, [client.enqueue_task(ns, {"value": [-1]})]).values()
    assert (response.status, response.error.code) == ("error", "poison")


def test_who_only_waits_for_a_stuck_node_is_not_to_blame(start: Any, build: Any, finish: Any, stuck: Any) -> None:
    """A node that is not thread-safe lets one executor in at a time; the others' time must not run out at its door."""
    module = stuck(ALWAYS, thread_safe=False)
    client = start(executors=3, batch_size=1, executor_max_exec_s=0.08, tasks_poison_limit=2, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    values = [-1, 1, 2, 3, -1, 4, 5, 6]
    tasks = [client.enqueue_task(ns, {"value": [value]}) for value in values]
    found = [response.error and response.error.code for response in finish(client, tasks).values()]
    assert [code == "poison" for code in found] == [value < 0 for value in values], found


def test_a_slow_node_that_lets_one_in_at_a_time_costs_nobody_a_retry(
    start: Any, build: Any, finish: Any, plugin: Any
) -> None:
    """Each batch stays within its time, but several would not, one after the other."""
    module = plugin("""
        from threading import Event

        class Slow(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                Event().wait(0.25)
                batch.emit("out", value=batch.uniform("value"))
    """)
    client = start(executors=4, batch_size=1, executor_max_exec_s=0.45, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(5)]
    assert [(one.status, one.retries) for one in finish(client, tasks).values()] == [("ready", 0)] * 5


def test_a_hanging_task_can_be_cleared(start: Any, build: Any, finish: Any, stuck: Any, until: Any) -> None:
    module = stuck(ALWAYS)
    client = start(executor_max_exec_s=0.1, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    bad = client.enqueue_task(ns, {"value": [-1]}, wait=True)
    until(lambda: module.attempts != [])
    client.clear_task(bad)
    good = client.enqueue_task(ns, {"value": [3]})
    responses = finish(client, [good, bad])
    assert responses[bad].status == "unknown"
    assert (responses[good].result["value"].item(), responses[good].retries) == (6, 0)


def test_closing_does_not_wait_for_those_who_hang(start: Any, build: Any, finish: Any, stuck: Any) -> None:
    """Their threads were given up before."""
    module = stuck(ALWAYS)
    client = start(executor_max_exec_s=0.03, tasks_poison_limit=1, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__)))
    finish(client, [client.enqueue_task(ns, {"value": [-1]})])
    client.close()
    assert not module.released.is_set()
