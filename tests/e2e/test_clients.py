"""The other ways to use a client: futures, maps, asyncio, the caller's own thread, and closing at any moment."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ALL_COMPLETED, ThreadPoolExecutor, as_completed, wait
from typing import Any

import numpy as np
import pytest
import torch

import scatterzmq
from scatterzmq import AsyncClient, ClusterError, ConfigError, TaskError, Timeout

TASKS = 20
FLAG = ["bool", [1]]
KINDS = pytest.mark.parametrize("kind", ["thread", "inline"])


@pytest.fixture
def steps(build: Any) -> Any:
    return build.graphs(build.line([1], ("mul", 2), ("add", 1)))


@pytest.fixture
def picky(build: Any) -> Any:
    nodes = [
        build.node("check", "if_op", {"condition": ":value"}, {"then": None, "else": "refuse"}),
        build.node("refuse", "assertion_error", {}, {}, {"msg": "not this one"}),
    ]
    return build.graphs(build.graph("picky", {"value": FLAG}, {"value": FLAG}, {"value": ":value"}, nodes))


@KINDS
def test_futures(start: Any, steps: Any, picky: Any, kind: str) -> None:
    client = start(executor_kind=kind, max_retries=1)
    ns, strict = client.load_graph(steps), client.load_graph(picky)
    futures = {client.submit(ns, value=[index]): 2 * index + 1 for index in range(TASKS)}
    for future in as_completed(futures, timeout=60):
        assert future.result()["value"].item() == futures[future]
    more = [client.submit(strict, value=[index % 2 == 0]) for index in range(6)]
    over = wait(more, timeout=60, return_when=ALL_COMPLETED)
    assert not over.not_done
    for index, future in enumerate(more):
        error = future.exception(timeout=60)
        if index % 2:
            assert isinstance(error, TaskError)
            assert "not this one" in str(error)
        else:
            assert error is None
            assert future.result()["value"].item() is True
    assert not client.has_any_tasks()
    assert client.get_status(more[0].task) == "unknown", "nobody else knows the id, so it is cleared"


def test_futures_are_cancelled_wherever_the_task_is(start: Any, build: Any, gated: Any, until: Any) -> None:
    client = start(batch_size=1, plugins=[gated.__name__])
    ns = client.load_graph(build.graphs(build.line([1], gated.__name__)))
    runs, waits, last = (client.submit(ns, value=[index]) for index in range(3))
    assert gated.entered.get(timeout=60) == [runs.task]
    assert runs.cancel()
    assert waits.cancel()
    assert runs.cancelled()
    assert not last.done()
    with pytest.raises(Timeout, match=last.task):
        last.result(timeout=0.01)
    gated.open()
    assert last.result(timeout=60)["value"].item() == 4
    assert not last.cancel()
    assert gated.ran == [last.task]
    assert not client.has_any_tasks()


@KINDS
def test_callbacks_may_submit_more(start: Any, steps: Any, kind: str) -> None:
    """Each result starts the next task, from within the callback."""
    client = start(executor_kind=kind)
    ns = client.load_graph(steps)
    chain: list[Any] = []

    def following(future: Any) -> None:
        value = future.result()["value"].item()
        if len(chain) < 10:
            chain.append(client.submit(ns, value=[value]))
            chain[-1].add_done_callback(following)

    first = client.submit(ns, value=[0])
    first.add_done_callback(following)
    value = first.result(timeout=60)["value"].item()
    assert value == 1
    for index in range(10):
        while len(chain) <= index:
            client.has_any_tasks()
        value = 2 * value + 1
        assert chain[index].result(timeout=60)["value"].item() == value


@KINDS
@pytest.mark.parametrize("window", [1, 3, 1000])
def test_maps(start: Any, steps: Any, picky: Any, window: int, kind: str) -> None:
    client = start(executor_kind=kind, executors=2, batch_size=4, max_retries=0)
    ns, strict = client.load_graph(steps), client.load_graph(picky)
    items = [{"value": [index]} for index in range(TASKS)]
    results = [result["value"].item() for result in client.map(ns, items, window=window)]
    assert results == [2 * index + 1 for index in range(TASKS)]
    results = [result["value"].item() for result in client.map(ns, iter(items), window=window, ordered=False)]
    assert sorted(results) == [2 * index + 1 for index in range(TASKS)]
    flags = [{"value": [index != 3]} for index in range(6)] + [{"wrong": 1}]
    answers = list(client.map(strict, flags, window=window, return_exceptions=True))
    assert [type(answer).__name__ for answer in answers] == ["dict"] * 3 + ["TaskError"] + ["dict"] * 2 + [
        "FormatError"
    ]
    seen = []
    with pytest.raises(TaskError, match="not this one"):
        seen.extend(client.map(strict, flags, window=window))
    assert not client.has_any_tasks()
    assert list(client.map(ns, [])) == []


def test_a_map_takes_no_more_than_its_window(start: Any, build: Any, gated: Any) -> None:
    """Items are taken when there is room, also from a source without end; leaving early ends what is under way."""
    client = start(plugins=[gated.__name__])
    ns = client.load_graph(build.graphs(build.line([1], gated.__name__)))
    taken: list[int] = []

    def source() -> Iterator[dict[str, Any]]:
        while True:
            taken.append(len(taken))
            yield {"value": [taken[-1]]}

    gated.open()
    results = client.map(ns, source(), window=5)
    for index in range(12):
        assert next(results)["value"].item() == 2 * index
        assert len(taken) <= index + 6
    results.close()
    assert not client.has_any_tasks()


@KINDS
def test_everything_works_in_asyncio(steps: Any, picky: Any, kind: str) -> None:
    async def go() -> None:
        async with AsyncClient(scatterzmq.local(executor_kind=kind, max_retries=0)) as client:
            ns, strict = await client.load_graph(steps), await client.load_graph(picky)
            assert await client.namespaces() == {ns, strict}
            assert await client.main_inputs(ns) == await client.main_outputs(ns) == {"value"}
            assert await client.entry_graph_name(ns) == "main:main"
            assert await client.output_format(ns, "value") == ("float", (1,))
            assert await client.load_graph(await client.graph_to_json(ns)) == ns
            tasks = [await client.enqueue_task(ns, {"value": [index]}) for index in range(TASKS)]
            await client.flush()
            seen = {task: response async for task, response in client.wait_for(tasks, timeout=60)}
            values = [(seen[task].result or {})["value"].item() for task in tasks]
            assert values == [2 * index + 1 for index in range(TASKS)]
            assert await client.get_status(tasks[0]) == "done"
            assert await client.get_namespace(tasks[0]) == ns
            assert ((await client.get_result(tasks[0])) or {})["value"].item() == 1
            await client.clear_task(tasks[0])
            assert await client.get_status(tasks[0]) == "unknown"
            answers = await asyncio.gather(*[client.submit(ns, value=[index]) for index in range(TASKS)])
            assert [answer["value"].item() for answer in answers] == [2 * index + 1 for index in range(TASKS)]
            with pytest.raises(TaskError, match="not this one"):
                await client.submit(strict, value=[False])
            with pytest.raises(ValueError, match="expected float"):
                await client.submit(ns, value=[1, 2])

            async def items() -> AsyncIterator[dict[str, Any]]:
                for index in range(TASKS):
                    yield {"value": [index]}

            values = [result["value"].item() async for result in client.map(ns, items(), window=3)]
            assert values == [2 * index + 1 for index in range(TASKS)]
            assert not await client.has_any_tasks()
            assert {stats.name for stats in await client.get_queue_stats()} >= {"main:main:s0", "picky:picky:check"}
            assert len(await client.peers()) == 1

    asyncio.run(go())


def test_cancelling_a_coroutine_ends_its_task(build: Any, plugin: Any, gated: Any) -> None:
    async def go() -> None:
        async with AsyncClient(scatterzmq.local(batch_size=1, plugins=[gated.__name__])) as client:
            ns = await client.load_graph(build.graphs(build.line([1], gated.__name__)))
            first = asyncio.create_task(client.submit(ns, value=[1]))
            second = asyncio.create_task(client.submit(ns, value=[2]))
            await asyncio.to_thread(gated.entered.get, timeout=60)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            gated.open()
            assert (await first)["value"].item() == 2
            assert not await client.has_any_tasks()
            assert len(gated.ran) == 1

    asyncio.run(go())


def test_inline_nodes_run_in_the_thread_that_waits(start: Any, build: Any, plugin: Any, finish: Any) -> None:
    module = plugin("""
        from threading import current_thread
        threads = set()

        class Where(Node):
            def inputs(self):
                return {"value": FieldFormat("float", (1,))}

            def outputs(self):
                return {"out": {"value": FieldFormat("float", (1,))}}

            def execute(self, batch):
                threads.add(current_thread())
                batch.emit("out", value=batch.uniform("value"))
    """)
    before = threading.active_count()
    client = start(executor_kind="inline", executors=3, batch_size=2, plugins=[module.__name__])
    ns = client.load_graph(build.graphs(build.line([1], module.__name__, ("add", 1), module.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(TASKS)]
    client.flush()
    assert [response.result["value"].item() for response in finish(client, tasks).values()] == list(range(1, TASKS + 1))
    assert module.threads == {threading.current_thread()}
    assert threading.active_count() == before


@KINDS
def test_many_threads_share_a_client(start: Any, steps: Any, kind: str) -> None:
    client = start(executor_kind=kind, executors=2)
    ns = client.load_graph(steps)

    def work(base: int) -> list[float]:
        tasks = [client.enqueue_task(ns, {"value": [base + index]}) for index in range(TASKS)]
        found = dict(client.wait_for(tasks, timeout=60))
        values = [found[task].result["value"].item() for task in tasks]
        for task in tasks:
            client.clear_task(task)
        return values

    began = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        for base, values in zip(range(0, 600, 100), pool.map(work, range(0, 600, 100)), strict=True):
            assert values == [2 * (base + index) + 1 for index in range(TASKS)]
    assert time.monotonic() - began < 9.0, "a question ran into its time-out"
    assert not client.has_any_tasks()


def test_statistics(start: Any, build: Any, gated: Any, finish: Any) -> None:
    client = start(batch_size=1, plugins=[gated.__name__])
    ns = client.load_graph(build.graphs(build.line([1], gated.__name__, ("add", 1))))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(5)]
    gated.entered.get(timeout=60)
    client.flush()
    stats = {one.name: one for one in client.get_queue_stats()}
    first, second = stats["main:main:s0"], stats["main:main:s1"]
    assert (first.queue_length, first.claimants, first.weight) == (4, 1, 4.0)
    assert first.pressure == 4 * 4, "weight times bytes"
    assert (second.queue_length, second.claimants) == (0, 0)
    assert second.expected_pressure > 0
    assert first.id.startswith("Q")
    assert len(first.id) == 33
    gated.open()
    finish(client, tasks)
    stats = {one.name: one for one in client.get_queue_stats()}
    assert {one.queue_length for one in stats.values()} == {0}
    assert {one.listeners for one in stats.values()} == {1}, "both nodes stay loaded"
    (peer,) = client.peers()
    assert (peer.status, peer.id[0]) == ("alive", "P")
    assert client.get_healthcheck() is None


WRONG: tuple[dict[str, Any], ...] = (
    {"batch_size": 0},
    {"batch_size": "5"},
    {"executors": -1},
    {"no_such": 1},
    {"store_mode": "never"},
    {"journal_mode": "sync"},
    {"plugins": "x"},
    {"executor_kind": "process"},
    {"strategy": "random"},
    {"strategy": "os.path"},
    {"device": "abacus"},
    {"peers": 0},
    {"peers": -1},
    {"peers": 129},
    {"peers": 2.0},
    {"peers": True},
    {"peers": "2"},
    {"store": 5},
    {"store": {"byts": 5}},
    {"tasks_max_retries": True},
    {"store_ttl_s": float("nan")},
    {"executor_max_exec_s": float("inf")},
    {"tasks_result_ttl_s": float("inf")},
)


@pytest.mark.parametrize("config", WRONG, ids=str)
def test_wrong_settings_are_refused_by_name(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        scatterzmq.local(**config).close()
    assert isinstance(raised.value, ValueError)
    (name,) = config
    assert name.rpartition("_")[2].rstrip("s") in str(raised.value)


@KINDS
def test_the_longest_times_there_are(start: Any, steps: Any, finish: Any, kind: str) -> None:
    client = start(
        executor_kind=kind,
        executor_max_exec_s=1e9,
        tasks_result_ttl_s=1e9,
        tasks_refuse_after_s=1e9,
        store={"mode": "both", "ttl_s": 1e9},
    )
    ns = client.load_graph(steps)
    for index in range(3):
        (response,) = finish(client, [client.enqueue_task(ns, {"value": [index]})]).values()
        assert response.result["value"].item() == 2 * index + 1


def test_closing_while_work_is_under_way(build: Any, plugin: Any, gated: Any) -> None:
    """Everybody who waits is told at once, in every way of waiting."""
    client = scatterzmq.local(batch_size=1, plugins=[gated.__name__])
    ns = client.load_graph(build.graphs(build.line([1], gated.__name__)))
    tasks = [client.enqueue_task(ns, {"value": [index]}) for index in range(3)]
    future = client.submit(ns, value=[1])
    gated.entered.get(timeout=60)
    with ThreadPoolExecutor(4) as pool:
        started: Any = [
            pool.submit(lambda: list(client.wait_for(tasks, timeout=60))),
            pool.submit(lambda: list(client.map(ns, [{"value": [1]}] * 3))),
            pool.submit(lambda: next(client.wait_for(tasks, timeout=None))),
        ]
        closed = pool.submit(client.close)
        for one in started:
            assert isinstance(one.exception(timeout=60), ClusterError)
        assert isinstance(future.exception(timeout=60), ClusterError)
        gated.open()
        closed.result(timeout=60)
    with pytest.raises(ClusterError, match="closed"):
        client.get_status(tasks[0])


def test_closing_right_after_enqueueing(steps: Any) -> None:
    """With anything from nothing to a lot on its way."""
    for count in (0, 1, 2, 50, 600):
        with scatterzmq.local(executors=2) as client:
            ns = client.load_graph(steps)
            for index in range(count):
                client.enqueue(ns, {"value": torch.tensor([float(index)])})


def test_a_thousand_tasks_at_once(start: Any, steps: Any, finish: Any) -> None:
    """More than the window and than one message holds, and nobody reads until the end."""
    client = start(executors=2, tasks_window=100)
    ns = client.load_graph(steps)
    tasks = [client.enqueue_task(ns, {"value": np.full(1, index, np.float32)}) for index in range(1000)]
    values = [response.result["value"].item() for response in finish(client, tasks).values()]
    assert values == [2 * index + 1 for index in range(1000)]
