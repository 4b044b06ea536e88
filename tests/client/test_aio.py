"""The same calls for coroutines."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from threading import active_count
from typing import Any

import pytest

from scatterzmq.client import AsyncClient, Client, TaskStatus
from scatterzmq.client.aio import LoopBox
from scatterzmq.core.messages import AskTasks, Cancel
from scatterzmq.errors import ClusterError, ErrorCode, ErrorInfo, FormatError, GraphError, TaskError, Timeout

Scenario = Callable[[AsyncClient], Coroutine[Any, Any, None]]


def play(peer: Any, scenario: Scenario, **options: Any) -> None:
    async def run() -> None:
        async with AsyncClient(Client(peer.connect, **options)) as client:
            await scenario(client)

    asyncio.run(run())
    assert peer.closed == 1


@pytest.mark.parametrize("kind", ["peer", "threaded", "pumped"])
def test_the_calls(kind: str, request: Any, x: Any, y: Any) -> None:
    peer = request.getfixturevalue(kind)

    async def scenario(client: AsyncClient) -> None:
        task = await client.enqueue_task("double", x(1, 2), wait=True)
        assert [found async for found, _ in client.wait_for([task])] == [task]
        assert y(await client.get_result(task)) == [2, 4]
        assert await client.get_namespace(task) == "double"
        assert await client.get_status(task) is TaskStatus.DONE
        await client.cancel(task)
        await client.clear_task(task)
        assert (await client.get_response(task)).status is TaskStatus.UNKNOWN
        await client.enqueue("double", x())
        await client.flush()
        assert await client.namespaces() == {"double"}
        assert await client.entry_graph_name("double") == "double:main"
        assert await client.main_inputs("double") == {"x"}
        assert await client.main_outputs("double") == {"y"}
        assert await client.output_format("double", "y") == ("float32", (2,))
        assert await client.graph_to_json("double") == {"ns": "double"}
        assert (await client.get_queue_stats())[0].queue_length == 3
        assert not await client.has_any_tasks()
        assert (await client.clear_cache("double"), await client.clear_cache()) == (0, -1)
        assert (await client.get_healthcheck(), len(await client.peers())) != (None, 0)
        assert client.open_blob("b") == "blob b"  # type: ignore[comparison-overlap]

    play(peer, scenario)


def test_map_on_an_unknown_namespace_raises_even_without_items(peer: Any) -> None:
    """As the client for threads does (test_futures.py); here it just ended."""

    async def scenario(client: AsyncClient) -> None:
        with pytest.raises(GraphError, match="'half' is not loaded"):
            _ = [result async for result in client.map("half", [])]

    play(peer, scenario)


@pytest.mark.parametrize("kind", ["peer", "threaded", "pumped"])
def test_submit_and_map(kind: str, request: Any, x: Any, y: Any) -> None:
    peer = request.getfixturevalue(kind)

    async def items() -> AsyncIterator[dict[str, Any]]:
        for number in range(50):
            yield x(number, number)

    async def scenario(client: AsyncClient) -> None:
        results = await asyncio.gather(*(client.submit("double", **x(i, i)) for i in range(50)))
        assert [y(result) for result in results] == [[2 * i, 2 * i] for i in range(50)]
        assert [y(result) async for result in client.map("double", items(), window=7)] == [y(r) for r in results]
        sync_items = [x(i, i) for i in range(50)]
        assert [y(result) async for result in client.map("double", sync_items)] == [y(r) for r in results]
        await client.namespaces()
        assert not peer.tasks

    play(peer, scenario)


def test_no_threads_but_the_peers(threaded: Any, x: Any) -> None:
    async def scenario(client: AsyncClient) -> None:
        before = active_count()
        await asyncio.gather(*(client.submit("double", **x()) for _ in range(20)))
        assert active_count() == before

    play(threaded, scenario)


def test_errors(peer: Any, x: Any) -> None:
    error = ErrorInfo(code=ErrorCode.GENERAL_EXCEPTION, message="boom")

    async def scenario(client: AsyncClient) -> None:
        with pytest.raises(GraphError):
            await client.enqueue_task("half", x())
        with pytest.raises(FormatError):
            await client.submit("double", x=[1])
        with pytest.raises(GraphError):
            await client.load_graph({})
        peer.fail = lambda _: error
        with pytest.raises(TaskError, match="boom"):
            await client.submit("double", **x())
        with pytest.raises(TaskError, match="boom"):
            async for _ in client.map("double", [x()]):
                pass
        peer.silent = (AskTasks,)
        with pytest.raises(Timeout):
            await client.get_status("T" + "1" * 32)

    peer.problems = ("nothing in it",)
    play(peer, scenario, request_timeout=0.01)


def test_a_full_window(threaded: Any, x: Any) -> None:
    threaded.hold_accept = True

    async def scenario(client: AsyncClient) -> None:
        for _ in range(2):
            await client.enqueue_task("double", x())
        third = asyncio.create_task(client.enqueue_task("double", x()))
        threaded.posted.put(threaded.accept)
        await third

    play(threaded, scenario, window=2)


def test_the_rest_is_handed_out_as_it_stands(threaded: Any, x: Any) -> None:
    threaded.hold_results = True

    async def scenario(client: AsyncClient) -> None:
        task = await client.enqueue_task("double", x())
        assert [response.status async for _, response in client.wait_for([task], timeout=0.0)] == [TaskStatus.WAIT]

    play(threaded, scenario)


@pytest.mark.parametrize("kind", ["threaded", "pumped"])
def test_cancelling_a_coroutine_ends_its_task(kind: str, request: Any, x: Any) -> None:
    peer = request.getfixturevalue(kind)
    peer.hold_results = True

    async def scenario(client: AsyncClient) -> None:
        running = asyncio.create_task(client.submit("double", **x()))
        while not peer.tasks:
            await client.namespaces()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await client.namespaces()
        assert len(peer.of(Cancel)) == 1
        assert not peer.tasks

    play(peer, scenario)


def test_a_future_in_the_loop(threaded: Any, x: Any, y: Any) -> None:
    """What `submit` of the plain client returns can be awaited the usual way."""

    async def run() -> None:
        with Client(threaded.connect) as client:
            assert y(await asyncio.wrap_future(client.submit("double", **x(1, 2)))) == [2, 4]

    asyncio.run(run())


def test_closing(peer: Any, x: Any) -> None:
    peer.refuse = lambda _: (ErrorCode.REFUSED, "full")

    async def scenario(client: AsyncClient) -> None:
        await client.enqueue_task("double", x())

    with pytest.raises(TaskError, match="full"):
        play(peer, scenario)
    assert peer.closed == 1

    async def after() -> None:
        with pytest.raises(ClusterError, match="closed"):
            await AsyncClient(closed).namespaces()

    closed = Client(peer.connect)
    peer.closed = 0
    closed.close()
    asyncio.run(after())


def test_a_wake_up_for_an_item_that_was_taken_since_ends_no_wait() -> None:
    """Or a wait would end before its time, and tasks would be handed out before they have ended."""

    async def main() -> None:
        box = LoopBox()
        box.put(True)
        assert box.get_nowait() is True
        asyncio.get_running_loop().call_later(0.01, box.put, False)
        assert await box.take(5.0) is False

    asyncio.run(main())
