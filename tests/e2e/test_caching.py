"""The cache, seen through nodes that tell whether they ran: against a model that remembers level by level."""

import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import scatterzmq
from scatterzmq import GraphError

TEXT = ["uint8", [None]]
LINES = [
    tuple(line)
    for line in ("uvw", "xyz", "uvw", "uvw", "xgh", "xgh", "iyk", "iyk", "vik", "vik", "uyh", "ixk", "iik", "uvw")
]


def text(tensor: torch.Tensor) -> str:
    return bytes(tensor.numpy()).decode()


class Model:
    """What three levels of graphs answer one after another: main calls top and mid, mid calls top.

    A node gives a text as it is the first time and with its name behind it after that; a cached level, and a cached
    node, remembers answers by inputs.
    """

    def __init__(self, cached: set[str]) -> None:
        self._cached = cached
        self._answers: dict[tuple[str, ...], str] = {}
        self._seen: set[tuple[str, str]] = set()

    def _remembered(self, name: str, inputs: tuple[str, ...], compute: Callable[..., str]) -> str:
        if name not in self._cached:
            return compute(*inputs)
        key = (name, *inputs)
        if key not in self._answers:
            self._answers[key] = compute(*inputs)
        return self._answers[key]

    def _node(self, name: str, value: str) -> str:
        def compute(value: str) -> str:
            known = (name, value) in self._seen
            self._seen.add((name, value))
            return f"{value}+{name}" if known else value

        return self._remembered(name, (value,), compute)

    def main(self, *inputs: str) -> str:
        def compute(a: str, b: str, c: str) -> str:
            a, b, c = self._node("a", a), self._node("b", b), self._node("c", c)
            return f"{self.top(a)}|{self.mid(b, c)}"

        return self._remembered("main", inputs, compute)

    def mid(self, *inputs: str) -> str:
        def compute(d: str, e: str) -> str:
            d, e = self._node("d", d), self._node("e", e)
            return f"{self.top(d)}/{e}"

        return self._remembered("mid", inputs, compute)

    def top(self, value: str) -> str:
        return self._remembered("top", (value,), lambda value: self._node("t", value))


@pytest.fixture
def levels(build: Any) -> Callable[..., Any]:
    """The graphs of `Model`, or the same of nodes of another kind, which tells others that it ran for `run`."""

    def make(cached: set[str], ns: str = "main", kind: str = "test_cache", run: int = 0) -> Any:
        def echo(name: str, source: str, outs: str | None) -> Any:
            args = {"postfix": f"+{name}", "seed": "s"} if kind == "test_cache" else {"name": name, "run": run}
            return build.node(name, kind, {"text": source}, outs, args, cache=name in cached)

        def join(delimiter: str, left: str, right: str) -> Any:
            return build.node("join", "str_concat", {"left": left, "right": right}, None, {"delimiter": delimiter})

        def graph(name: str, inputs: str, nodes: list[Any], result: str) -> Any:
            formats = dict.fromkeys(inputs.split(), TEXT)
            return build.graph(name, formats, {"text": TEXT}, {"text": result}, nodes, cache=name in cached)

        ret = {"text": TEXT}
        mid_args = {"one": TEXT, "two": TEXT}
        main = [
            echo("a", ":one", "b"),
            echo("b", ":two", "c"),
            echo("c", ":three", "top"),
            build.call("top", "top", {"one": "a:text"}, "mid", {"one": TEXT}, ret),
            build.call("mid", "mid", {"one": "b:text", "two": "c:text"}, "join", mid_args, ret),
            join("|", "top:text", "mid:text"),
        ]
        mid = [
            echo("d", ":one", "e"),
            echo("e", ":two", "top"),
            build.call("top", "top", {"one": "d:text"}, "join", {"one": TEXT}, ret),
            join("/", "top:text", "e:text"),
        ]
        return build.graphs(
            graph("main", "one two three", main, "join:value"),
            graph("mid", "one two", mid, "join:value"),
            graph("top", "one", [echo("t", ":one", None)], "t:text"),
            ns=ns,
        )

    return make


class Counted:
    """How often each node of those graphs computes which text, if the texts go through it as they are."""

    def __init__(self, cached: set[str]) -> None:
        self._cached = cached
        self._known: set[tuple[str, ...]] = set()
        self.computed: Counter[tuple[str, str]] = Counter()

    def _is_known(self, name: str, *inputs: str) -> bool:
        known = (name, *inputs) in self._known
        if name in self._cached:
            self._known.add((name, *inputs))
        return known

    def _nodes(self, names: str, *inputs: str) -> None:
        for name, value in zip(names, inputs, strict=True):
            if not self._is_known(name, value):
                self.computed[name, value] += 1

    def main(self, one: str, two: str, three: str) -> None:
        if not self._is_known("main", one, two, three):
            self._nodes("abc", one, two, three)
            self._top(one)
            self._mid(two, three)

    def _mid(self, one: str, two: str) -> None:
        if not self._is_known("mid", one, two):
            self._nodes("de", one, two)
            self._top(one)

    def _top(self, one: str) -> None:
        if not self._is_known("top", one):
            self._nodes("t", one)


CHOICES = [set(chosen) for count in range(4) for chosen in itertools.combinations(("main", "mid", "top"), count)]


@pytest.mark.parametrize("executors", [1, 3])
@pytest.mark.parametrize(
    "cached", [*CHOICES, {"a", "t"}, {"b", "e", "mid"}], ids=lambda cached: "-".join(sorted(cached))
)
@pytest.mark.parametrize("enabled", [True, False])
def test_each_level_is_remembered_if_it_says_so(
    start: Any, levels: Any, enabled: bool, cached: set[str], executors: int
) -> None:
    client = start(cache=enabled, executors=executors)
    ns = client.load_graph(levels(cached))
    model = Model(cached if enabled else set())
    for one, two, three in LINES:
        task = client.enqueue_task(ns, {"one": one, "two": two, "three": three})
        ((_, response),) = client.wait_for([task], timeout=60)
        assert (response.status, response.retries, response.error) == ("ready", 0, None)
        assert text(response.result["text"]) == model.main(one, two, three)
        client.clear_task(task)


def at_another_peer(client: "scatterzmq.Client") -> "scatterzmq.Client":
    """A client of the same embedded peers, whose tasks are owned by the next one. The first one ends it."""
    return scatterzmq.Client(client._session.link._peer.connect)  # type: ignore[attr-defined]


COUNTING = """
    computed = []

    class Through(Node):
        pure = True

        def __init__(self, args):
            self.name, self.run = args.str("name"), args.int("run")

        def inputs(self):
            return {"text": FieldFormat("uint8", (None,))}

        def outputs(self):
            return {"out": {"text": FieldFormat("uint8", (None,))}}

        def execute(self, batch):
            texts = batch.raw("text")
            computed.extend((self.run, self.name, text.decode()) for text in texts)
            batch.emit("out", text=texts)
"""


SIZES = [
    (batch_size, peers)
    for batch_size in range(1, 21)
    for peers in (1, 2, 3)
    if batch_size in (1, 2, 3, 5, 8, 13, 20) or batch_size % 3 == peers - 1
]
"""Batch sizes and peers: not all combinations, because each takes a second."""


BY_REFERENCE = [(batch_size, 2 + batch_size % 2, 0) for batch_size in range(1, 21)]
"""The same where every value stays with the peer that has computed it: with `store.inline_bytes` of 0 all are large."""


@pytest.mark.parametrize(("batch_size", "peers", "inline_bytes"), [*[(*sizes, None) for sizes in SIZES], *BY_REFERENCE])
def test_each_level_computes_as_often_as_it_must(
    start: Any,
    levels: Any,
    finish: Any,
    plugin: Any,
    until: Any,
    batch_size: int,
    peers: int,
    inline_bytes: int | None,
) -> None:
    """Whatever comes together, in whatever batches, at whichever peer: each has a client whose tasks it owns."""
    module = plugin(COUNTING)
    client = start(
        peers=peers,
        batch_size=batch_size,
        inline_bytes=inline_bytes,
        cluster_replicas=1,
        plugins=[module.__name__],
    )
    clients = [client, *(at_another_peer(client) for _ in range(peers - 1))]
    choices = [*CHOICES, {"a", "t", "mid"}]
    for run, cached in enumerate(choices):
        client.load_graph(levels(cached, f"ns{run}", module.__name__, run))
    for each in clients:
        until(lambda each=each: len(each.namespaces()) == len(choices))
    models = [Counted(cached) for cached in choices]
    # Some more than fit into a batch come at once; when they are through, others do that know some of it.
    for lines in (LINES + LINES)[: batch_size + 4], [LINES[1], LINES[6], ("uvw", "xyz", "new"), ("new", "vik", "new")]:
        tasks: dict[scatterzmq.Client, dict[str, tuple[str, ...]]] = {each: {} for each in clients}
        for (run, line), each in zip(itertools.product(range(len(choices)), lines), itertools.cycle(clients)):
            task = each.enqueue_task(f"ns{run}", dict(zip(("one", "two", "three"), line, strict=True)))
            tasks[each][task] = line
        for each, asked in tasks.items():
            for response, line in zip(finish(each, asked).values(), asked.values(), strict=True):
                assert (response.retries, response.error) == (0, None)
                assert text(response.result["text"]) == f"{line[0]}|{line[1]}/{line[2]}"
        for run, model in enumerate(models):
            for line in lines:
                model.main(*line)
            computed = Counter((name, value) for number, name, value in module.computed if number == run)
            assert computed == model.computed, sorted(choices[run])
    fetched = sum(each._run(each._calls.stats()).counters.get("cache_fetched", 0) for each in clients)
    assert (fetched > 0) == (inline_bytes == 0), "values that came from where they were computed"


def test_what_comes_together_is_computed_once(start: Any, levels: Any, finish: Any) -> None:
    """Of tasks with the same inputs one computes; the others wait for it and are not counted as tried again."""
    client = start(batch_size=3, executors=3)
    ns = client.load_graph(levels({"main"}))
    lines = [line for _ in range(5) for line in (("p", "q", "r"), ("s", "t", "u"))]
    tasks = [client.enqueue_task(ns, dict(zip(("one", "two", "three"), line, strict=True))) for line in lines]
    for response, line in zip(finish(client, tasks).values(), lines, strict=True):
        assert text(response.result["text"]) == f"{line[0]}|{line[1]}/{line[2]}"
        assert response.retries == 0


@pytest.fixture
def deferring(start: Any, build: Any, gated: Any) -> Any:
    """A cached graph with the gate in it: (client, namespace)."""

    def make(**config: Any) -> Any:
        client = start(batch_size=1, plugins=[gated.__name__], **config)
        return client, client.load_graph(build.graphs(build.line([1], gated.__name__, ("add", 1), cache=True)))

    return make


def test_waiting_for_somebody_elses_value_is_a_status(deferring: Any, gated: Any, finish: Any) -> None:
    client, ns = deferring(executors=2)
    tasks = [client.enqueue_task(ns, {"value": [4]}, wait=True) for _ in range(5)]
    assert gated.entered.get(timeout=60) == tasks[:1]
    assert [client.get_status(task) for task in tasks] == ["busy"] + ["deferred"] * 4
    assert client.has_any_tasks()
    gated.open()
    for response in finish(client, tasks).values():
        assert (response.result["value"].item(), response.retries, response.error) == (9, 0, None)
    assert gated.ran == tasks[:1]
    later = client.enqueue_task(ns, {"value": [4]})
    assert finish(client, [later])[later].result["value"].item() == 9
    assert gated.ran == tasks[:1]


def test_without_deferral_everybody_computes(deferring: Any, gated: Any, finish: Any) -> None:
    client, ns = deferring(executors=2, cache_use_defer=False)
    tasks = [client.enqueue_task(ns, {"value": [4]}, wait=True) for _ in range(3)]
    gated.entered.get(timeout=60)
    gated.entered.get(timeout=60)
    assert sorted(client.get_status(task) for task in tasks) == ["busy", "busy", "wait"]
    gated.open()
    assert [response.result["value"].item() for response in finish(client, tasks).values()] == [9, 9, 9]
    assert sorted(gated.ran) == sorted(tasks)


@pytest.mark.parametrize("how", ["clear_task", "cancel"])
def test_when_the_leader_goes_the_next_one_computes(deferring: Any, gated: Any, finish: Any, how: str) -> None:
    client, ns = deferring()
    leader, *others = (client.enqueue_task(ns, {"value": [4]}, wait=True) for _ in range(4))
    assert gated.entered.get(timeout=60) == [leader]
    getattr(client, how)(others[0])
    getattr(client, how)(leader)
    gated.open()
    responses = finish(client, others)
    assert responses[others[0]].status == ("unknown" if how == "clear_task" else "error")
    for task in others[1:]:
        assert (responses[task].result["value"].item(), responses[task].retries) == (9, 0)
    assert gated.ran == [others[1]]


def test_errors_are_not_remembered_and_not_handed_on(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    """The leader fails for good: the next one computes. Two have failed: the rest computes for itself."""
    module = plugin("""
        failing = set()

        class Moody(Node):
            pure = True

            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                for row, task in enumerate(batch.task_ids):
                    if len(failing) < 3:
                        failing.add(task)
                    if task in failing:
                        batch.reject(row, "in a mood", final=True)
                    else:
                        batch.emit("out", [row], value=batch.rows("value")[row][None] + 1)
    """)
    client = start(executors=2, batch_size=4, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__, cache=True)))
    tasks = [client.enqueue_task(ns, {"value": [1]}) for _ in range(20)]
    responses = finish(client, tasks)
    assert {task for task, response in responses.items() if response.status == "error"} == module.failing
    for task, response in responses.items():
        if task not in module.failing:
            assert (response.result["value"].item(), response.retries) == (2, 0)


def test_a_recursion_of_cached_graphs_does_not_wait_for_itself(start: Any, build: Any, finish: Any) -> None:
    """Every level is a key of the cache; many tasks want each other's levels at the same time, in any order."""
    stack = ["int", [None]]
    form = {"stack": stack}
    nodes = [
        build.loop("loop", "levels", ":stack", init=3, inner="plus", out="plus"),
        build.node("plus", "constant_op", {"value": "loop:stack"}, None, {"op": "add", "const": 1, "input": stack}),
    ]
    client = start(executors=3, batch_size=2)
    graph = build.graph("levels", form, form, {"stack": "plus:value"}, nodes, cache=True)
    ns = client.load_graph(build.graphs(graph))
    depths = [(7 * index) % 12 + 1 for index in range(40)]
    tasks = [client.enqueue_task(ns, {"stack": [depth]}) for depth in depths]
    for response, depth in zip(finish(client, tasks).values(), depths, strict=True):
        assert (response.result["stack"].tolist(), response.retries) == ([depth], 0)


def test_a_cached_cycle_of_two_graphs(start: Any, build: Any, finish: Any) -> None:
    """Even and odd call each other; tasks enter at both ends of the same chain of keys."""
    stack = ["int", [None]]
    form = {"stack": stack}

    def half(name: str, other: str) -> Any:
        args = {"op": "add", "const": 1, "input": stack}
        nodes = [
            build.loop("loop", other, ":stack", init=2, inner="plus", out="plus"),
            build.node("plus", "constant_op", {"value": "loop:stack"}, None, args),
        ]
        return build.graph(name, form, form, {"stack": "plus:value"}, nodes, cache=True)

    client = start(executors=3, batch_size=1)
    ns = client.load_graph(build.graphs(half("even", "odd"), half("odd", "even")))
    depths = [*range(12, 0, -1), *range(1, 13), 6, 6, 12]
    with ThreadPoolExecutor(4) as pool:
        tasks = list(pool.map(lambda depth: client.enqueue_task(ns, {"stack": [depth]}), depths))
    for response, depth in zip(finish(client, tasks).values(), depths, strict=True):
        assert response.result["stack"].tolist() == [depth]


def test_inputs_that_only_look_alike_are_different_keys(start: Any, levels: Any, build: Any, finish: Any) -> None:
    """Field names, order of fields and where one text ends are part of the key."""
    client = start()
    ns = client.load_graph(levels({"mid", "main"}))
    lines = [("ab", "c", ""), ("a", "bc", ""), ("", "ab", "c"), ("c", "ab", ""), ("", "", "abc")]
    for one, two, three in lines:
        task = client.enqueue_task(ns, {"three": three, "two": two, "one": one})
        (response,) = finish(client, [task]).values()
        assert text(response.result["text"]).replace("+top", "").split("|")[0].startswith(one)
        assert text(response.result["text"]).endswith(three)


def test_a_small_cache_forgets_what_was_used_least_lately(start: Any, build: Any, finish: Any, gated: Any) -> None:
    """Room for two values of four bytes."""
    client = start(cache_bytes=8, plugins=[gated.__name__])
    ns = client.load_graph(build.graphs(build.line([1], gated.__name__, cache=True)))
    gated.open()
    ran = []
    for value in (1, 2, 1, 3, 1, 2):
        before = len(gated.ran)
        (response,) = finish(client, [client.enqueue_task(ns, {"value": [value]})]).values()
        assert response.result["value"].item() == 2 * value
        ran.append(len(gated.ran) - before)
    assert ran == [1, 1, 0, 1, 0, 1]


def test_another_definition_has_other_keys(start: Any, build: Any, finish: Any) -> None:
    client = start()
    for constant in (1, 2, 1):
        graph = build.line([1], ("add", constant), cache=True)
        ns = client.load_graph(build.graphs(graph), replace=True)
        (response,) = finish(client, [client.enqueue_task(ns, {"value": [5]})]).values()
        assert response.result["value"].item() == 5 + constant


@pytest.mark.parametrize("peers", [1, 3])
def test_a_namespace_s_values_are_cleared_at_all_peers(
    start: Any, build: Any, gated: Any, finish: Any, peers: int
) -> None:
    """Whoever has them; other graphs keep theirs, and an equal graph elsewhere has lost the same ones."""
    client = start(peers=peers, plugins=[gated.__name__])
    gated.open()
    line = build.line([1], gated.__name__, cache=True)
    one = client.load_graph(build.graphs(line, ns="one"))
    same = client.load_graph(build.graphs(line, ns="same"))
    other = client.load_graph(build.graphs(build.line([1], gated.__name__, ("add", 1), cache=True), ns="other"))

    def computed(ns: str) -> int:
        before = len(gated.ran)
        tasks = [client.enqueue_task(ns, {"value": [value]}) for value in range(6)]
        plus = 1 if ns == other else 0
        responses = finish(client, tasks).values()
        assert [response.result["value"].item() for response in responses] == [2 * value + plus for value in range(6)]
        return len(gated.ran) - before

    assert [computed(ns) for ns in (one, same, other, one)] == [6, 0, 6, 0]
    assert client.clear_cache(one) >= 6
    assert client.clear_cache(one) == 0
    assert [computed(ns) for ns in (other, same, one)] == [0, 6, 0]
    assert client.clear_cache() >= 12
    assert [computed(ns) for ns in (other, one)] == [6, 6]
    with pytest.raises(GraphError, match="'nothing' is not loaded"):
        client.clear_cache("nothing")


def test_events_tell_what_came_of_it(start: Any, build: Any, gated: Any, finish: Any, plugin: Any) -> None:
    """For whoever asks for them: usually they are too many to be told."""
    module = plugin(
        """
        told = []

        class Recorder(Listener):
            def take(self, event):
                told.append((event.name, event.context.get("task"), event.context.get("graph")))
        """,
        header="from scatterzmq.eventstream import Listener",
    )
    for disable, is_told in (("debug", True), ("cache", False)):
        module.told.clear()
        client = start(
            plugins=[gated.__name__, module.__name__], events={"listeners": [module.__name__], "disable": [disable]}
        )
        ns = client.load_graph(build.graphs(build.line([1], gated.__name__, cache=True)))
        leader, waiter = (client.enqueue_task(ns, {"value": [4]}, wait=True) for _ in range(2))
        gated.entered.get(timeout=60)
        client.cancel(leader)
        gated.open()
        (response,) = finish(client, [waiter]).values()
        assert response.result["value"].item() == 8
        later = client.enqueue_task(ns, {"value": [4]}, wait=True)
        client.close()
        expected = [("miss", leader), ("defer", waiter), ("promote", waiter), ("hit", later)]
        told = [entry for entry in module.told if entry[0].startswith("cache.")]
        assert told == ([(f"cache.{what}", task, "main:main") for what, task in expected] if is_told else [])


def test_what_is_not_pure_cannot_be_cached(start: Any, build: Any, plugin: Any) -> None:
    """Neither the node, nor its graph, nor who calls that."""
    module = plugin("""
        class Dice(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                batch.emit("out", value=batch.uniform("value"))
    """)
    client = start(plugins=[module.__name__])
    info = ["float", [1]]
    call = build.call("call", "inner", {"value": ":value"}, None, {"value": info}, {"value": info})
    main = build.graph("main", {"value": info}, {"value": info}, {"value": "call:value"}, [call], cache=True)
    inner = build.line([1], module.__name__, name="inner", cache=True)
    inner["nodes"][0]["cache"] = True
    with pytest.raises(GraphError) as raised:
        client.load_graph(build.graphs(main, inner))
    problems = str(raised.value).splitlines()
    for place in ("main:main: ", "main:inner: ", "main:inner:s0: "):
        assert sum(place in line and "cannot be cached" in line for line in problems) == 1, problems
    for graph in (main, inner, inner["nodes"][0]):
        graph["cache"] = False
    assert client.load_graph(build.graphs(main, inner)) == "main"
