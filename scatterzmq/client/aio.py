"""The client, for asyncio: the same calls on the same session. No threads: answers come in by call_soon_threadsafe."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import closing
from os import PathLike
from time import monotonic
from types import TracebackType
from typing import Any, Self

from ..core.messages import QueueStats, TaskStatus
from ..errors import ClusterError, ScatterError
from ..graph.formats import OpenShape
from ..ids import TaskId
from .calls import Calls, Steps, T, Waiting, task_id
from .client import GRACE_ROUNDS, Client, any_open, field_format
from .futures import Flow, check_items, progress_bar
from .handles import Item
from .link import BlobWriter, Member
from .response import Response, Result

SLICE_S = 0.02
"""Where the peer runs in the loop's thread, other coroutines get their turn this often while it has nothing to do."""


class LoopBox:
    """A box whose items are awaited in one event loop. Many items that come together wake the loop once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._waking = False

    def put(self, item: Item, /) -> None:
        self._items.append(item)
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                self._waking = False  # the loop is closed, so nobody waits here any more

    def empty(self) -> bool:
        return not self._items

    def get_nowait(self) -> Item:
        return self._items.popleft()

    async def take(self, timeout_s: float | None) -> Item | None:
        """The next item; None when the time has run out."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._items:  # a wake-up may come for an item that has been taken since
                    self._waiter = self._loop.create_future()
                    await self._waiter
        except TimeoutError:
            pass
        finally:
            self._waiter = None
        return self._items.popleft() if self._items else None

    def _wake(self) -> None:
        self._waking = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncClient:
    """The calls of a `Client` for coroutines: `async with AsyncClient(local()) as client: …`.

    It shares the client it is made of, which may be used beside it, and closes it at its end.
    Where nodes run in the caller's thread (`executor.kind` "inline") the loop stands still meanwhile.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: Calls[LoopBox] = client.calls_with(LoopBox)

    # ---- graphs

    async def load_graph(self, definition: Mapping[str, Any] | str | PathLike[str], *, replace: bool = False) -> str:
        return await self._run(self._calls.load(definition, replace))

    async def namespaces(self) -> set[str]:
        return set(await self._run(self._calls.infos()))

    async def entry_graph_name(self, ns: str) -> str:
        entry = (await self._run(self._calls.info(ns))).entry
        return entry if ":" in entry else f"{ns}:{entry}"

    async def main_inputs(self, ns: str) -> set[str]:
        return set((await self._run(self._calls.info(ns))).inputs)

    async def main_outputs(self, ns: str) -> set[str]:
        return set((await self._run(self._calls.info(ns))).outputs)

    async def output_format(self, ns: str, field: str) -> tuple[str, OpenShape]:
        return field_format((await self._run(self._calls.info(ns))).outputs, ns, field)

    async def graph_to_json(self, ns: str) -> dict[str, Any]:
        return await self._run(self._calls.definition(ns))

    # ---- tasks

    async def enqueue_task(
        self, ns: str, fields: Mapping[str, object], *, task_id: str | None = None, wait: bool = False
    ) -> TaskId:
        own = None if task_id is None else TaskId.parse(task_id)
        handle = await self._run(self._calls.enqueue(ns, fields, own))
        if wait:
            await self._run(self._calls.confirm(handle))
        return handle.id

    async def enqueue(self, ns: str, fields: Mapping[str, object]) -> TaskId:
        return await self.enqueue_task(ns, fields)

    async def flush(self, timeout: float | None = 10.0) -> None:  # noqa: ASYNC109 -- the same calls as the client's
        await self._run(self._calls.flush(timeout))

    async def get_namespace(self, task: str) -> str | None:
        return await self._run(self._calls.namespace(task_id(task)))

    async def get_status(self, task: str) -> TaskStatus:
        return await self._run(self._calls.status(task_id(task)))

    async def get_result(self, task: str) -> "Result | None":
        return (await self.get_response(task)).result

    async def get_response(self, task: str) -> Response:
        return await self._run(self._calls.response(task_id(task)))

    async def wait_for(
        self,
        tasks: Iterable[str],
        *,
        timeout: float | None = 10.0,  # noqa: ASYNC109
    ) -> AsyncIterator[tuple[TaskId, Response]]:
        waiting = Waiting(self._calls, tasks, timeout)
        try:
            waiting.start()
            while True:
                while (item := waiting.ready()) is not None:
                    yield item
                if not waiting.left:
                    return
                box, timeout_s = waiting.wait()
                came = await self._receive(box, timeout_s)
                if came is None:
                    await self._run(waiting.give_up())
                else:
                    waiting.arrived(came)
        finally:
            waiting.close()

    async def clear_task(self, task: str) -> None:
        await self._run(self._calls.clear(task_id(task)))

    async def cancel(self, task: str) -> None:
        await self._run(self._calls.cancel(task_id(task)))

    async def submit(self, ns: str, /, **fields: object) -> Result:
        """Enqueue a task and await its result. Cancelling the coroutine ends the task wherever it is."""
        box = LoopBox()
        handle = await self._run(self._calls.enqueue(ns, fields, watcher=box))
        try:
            await self._receive(box, None)
        finally:
            self._calls.session.abandon(handle)  # nothing happens if it has ended
        assert handle.outcome is not None, "that is what the box is told"
        failure, rows = handle.outcome.failure, handle.outcome.rows
        if rows is None:
            assert failure is not None
            raise failure
        return rows.result(handle.outcome.row)

    async def map(
        self,
        ns: str,
        items: Iterable[Mapping[str, object]] | AsyncIterable[Mapping[str, object]],
        *,
        window: int = 1024,
        progress: bool = False,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> AsyncIterator[Any]:
        """As the client's `map`; the items may come from an asynchronous iterator."""
        check_items(items, (Iterable, AsyncIterable))
        await self._run(self._calls.info(ns))
        flow = Flow(self._calls, ns, window=window, ordered=ordered, return_exceptions=return_exceptions)
        source = aiter(items if isinstance(items, AsyncIterable) else _stepwise(items))
        more = True
        with closing(flow), progress_bar(ns, items if progress else None) as advance:
            while more or not flow.is_empty:
                while not flow.box.empty():
                    flow.arrived(await self._receive(flow.box, 0.0))
                if flow.is_ready:
                    advance()
                    yield flow.take()
                elif more and flow.has_room:
                    try:
                        item = await anext(source)
                    except StopAsyncIteration:
                        more = False
                    else:
                        await self._run(flow.offer(item))
                else:
                    flow.arrived(await self._receive(flow.box, None))

    # ---- the cluster

    def open_blob(self, name: str) -> BlobWriter:
        """The client's own: writing to a file does not wait for anybody."""
        return self._client.open_blob(name)

    async def clear_cache(self, ns: str | None = None) -> int:
        return await self._run(self._calls.clear_cache(ns))

    async def get_queue_stats(self) -> tuple[QueueStats, ...]:
        return (await self._run(self._calls.stats())).queues

    async def has_any_tasks(self) -> bool:
        await self._run(self._calls.accepted(None, 10.0))
        return any_open((await self._run(self._calls.stats())).tasks)

    async def get_healthcheck(self) -> tuple[str, str, int] | None:
        return self._client.get_healthcheck()

    async def peers(self) -> tuple[Member, ...]:
        return self._client.peers()

    async def close(self) -> None:
        """Close the client, after sending off what was enqueued."""
        failure: ScatterError | None = None
        if self._calls.session.fault is None:
            try:
                await self.flush()
            except ScatterError as error:
                failure = error
        # What is left takes a moment of joining threads, which the loop need not wait for.
        await asyncio.to_thread(self._client.close)
        if failure is not None:
            raise failure

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except ScatterError:
            if error is None:
                raise

    # ---- waiting

    async def _run(self, steps: Steps[T]) -> T:
        """Carry out a call, awaiting where it waits."""
        try:
            wait = next(steps)
            while True:
                wait = steps.send(await self._receive(wait.box, wait.timeout_s))
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            steps.close()

    async def _receive(self, box: LoopBox, timeout_s: float | None) -> Item | None:
        if box.empty():
            await self._drive(box.empty, timeout_s)
        item = await box.take(timeout_s)
        if isinstance(item, ClusterError):
            raise ClusterError(*item.args)
        return item

    async def _drive(self, waits: Callable[[], bool], timeout_s: float | None) -> None:
        """For a peer that runs in the caller's thread: run it as long as it has work, other coroutines in between."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        grace = GRACE_ROUNDS
        while waits() and self._calls.session.fault is None:
            left_s = SLICE_S if deadline is None else min(SLICE_S, max(0.0, deadline - monotonic()))
            worked = self._client.pump_once(left_s, lambda: not waits())
            if worked is None:
                return
            if left_s == 0.0:
                grace -= 1
                if not worked or not grace:
                    return
            await asyncio.sleep(0)  # only lets the others run


async def _stepwise(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item
