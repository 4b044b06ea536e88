"""Executors: what is submitted is run in order, nothing ends the thread, and a hung one can be left behind."""

import threading
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from scatterzmq.execute.threads import InlineExecutor, ThreadExecutor
from scatterzmq.ids import ExecutorId

WAIT_S = 5.0


def double(node: Any, batch: Any) -> Any:
    batch.emit("out", value=batch.uniform("value") * 2)


@pytest.fixture
def posted() -> Any:
    return SimpleQueue()


@pytest.fixture
def executor(bench: Any, posted: Any) -> Any:
    worker = bench.worker()
    made = ThreadExecutor(worker.executor, worker, posted.put, number=3)
    yield made
    assert made.stop(WAIT_S)


def test_batches_run_in_order_in_a_thread_of_its_own(bench: Any, executor: Any, posted: Any) -> None:
    threads = []

    def act(node: Any, batch: Any) -> Any:
        threads.append(threading.current_thread())
        double(node, batch)

    plan = bench.one(bench.kind("act", act))
    works = [bench.work(plan, rows) for rows in (1, 2, 3)]
    for work in works:
        executor.submit(work)
    assert [posted.get(timeout=WAIT_S).order for _ in works] == [work.order.order for work in works]
    assert {(thread.name, thread.daemon) for thread in threads} == {("scatterzmq-executor-3", True)}
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit])
def test_whatever_a_node_raises_the_executor_goes_on(
    bench: Any, executor: Any, posted: Any, answers: Any, error: Any
) -> None:
    def act(node: Any, batch: Any) -> Any:
        raise error

    executor.submit(bench.work(bench.one(bench.kind("act", act)), 1))
    assert posted.get(timeout=WAIT_S).failed
    executor.submit(bench.work(bench.one(bench.kind("double", double), ns="good"), 1))
    assert answers(posted.get(timeout=WAIT_S)) == {0: ("out", [0.0, 0.0])}


def test_no_node_has_gradients_whatever_the_one_before_it_left(bench: Any, executor: Any, posted: Any) -> None:
    grads = []

    def act(node: Any, batch: Any) -> Any:
        grads.append(torch.is_grad_enabled())
        torch.set_grad_enabled(True)
        double(node, batch)

    plan = bench.one(bench.kind("act", act))
    for _ in range(3):
        executor.submit(bench.work(plan, 1))
        assert posted.get(timeout=WAIT_S).failed == ()
    assert grads == [False] * 3
    assert torch.is_grad_enabled()  # in this thread


class Hanging:
    """A node that is in `execute` from `entered` until `leave`."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.alive: list[bool] = []
        self.kind = ""

    def act(self, node: Any, batch: Any) -> Any:
        self.entered.set()
        assert self.leave.wait(WAIT_S)
        self.alive.append(batch.alive(0))
        double(node, batch)


@pytest.fixture
def hanging(bench: Any) -> Any:
    made = Hanging()
    made.kind = bench.kind("hanging", lambda node, batch: made.act(node, batch))
    yield made
    made.leave.set()


def test_stop_waits_for_the_batch_that_runs_and_drops_the_others(
    bench: Any, executor: Any, posted: Any, hanging: Any
) -> None:
    works = [bench.work(bench.one(hanging.kind), 1) for _ in range(2)]
    for work in works:
        executor.submit(work)
    assert hanging.entered.wait(WAIT_S)
    assert not executor.stop(0)
    hanging.leave.set()
    assert executor.stop(WAIT_S)
    assert posted.get(timeout=WAIT_S).order == works[0].order.order
    assert posted.empty()


def test_an_abandoned_executor_holds_nobody_up_and_posts_nothing(
    bench: Any, executor: Any, posted: Any, hanging: Any
) -> None:
    nodes = bench.nodes()
    hung = ThreadExecutor(ExecutorId("E" + "8" * 32), bench.worker(nodes, ExecutorId("E" + "8" * 32)), posted.put)
    plan = bench.one(hanging.kind)
    hung.submit(bench.work(plan, 1))
    assert hanging.entered.wait(WAIT_S)
    hung.abandon()
    assert nodes.loaded() == ()
    # Another executor gets a copy of its own of the very node that hangs.
    hanging.act, act = lambda node, batch: double(node, batch), hanging.act
    assert bench.worker(nodes).run(bench.work(plan, 1)).failed == ()
    hanging.act = act
    hanging.leave.set()
    assert hung.stop(WAIT_S)
    assert hanging.alive == [False]
    assert posted.empty()
    # The thread that came back has unloaded its own copy and not the other.
    assert bench.log.count("unload ns:main:n") == 1
    assert len(nodes.loaded()) == 1


# ---- errands


@pytest.fixture
def errands() -> Any:
    """(executor, thread) of each errand."""
    return SimpleQueue()


@pytest.fixture
def errand_boy(bench: Any, posted: Any, errands: Any) -> Any:
    def errand(executor: Any) -> None:
        errands.put((executor, threading.current_thread().name))

    worker = bench.worker()
    made = ThreadExecutor(worker.executor, worker, posted.put, errand, number=4)
    yield made
    assert made.stop(WAIT_S)


def test_an_idle_thread_runs_errands(errand_boy: Any, errands: Any) -> None:
    for _ in range(3):
        assert errand_boy.rouse()
        assert errands.get(timeout=WAIT_S) == (errand_boy, "scatterzmq-executor-4")


def test_a_thread_with_work_runs_no_errands(
    bench: Any, errand_boy: Any, errands: Any, posted: Any, hanging: Any
) -> None:
    assert not errand_boy.busy
    errand_boy.submit(bench.work(bench.one(hanging.kind), 1))
    assert errand_boy.busy
    assert not errand_boy.rouse()
    assert hanging.entered.wait(WAIT_S)
    assert not errand_boy.rouse()
    hanging.leave.set()
    posted.get(timeout=WAIT_S)
    assert not errand_boy.busy
    assert errand_boy.rouse()
    assert errands.get(timeout=WAIT_S) == (errand_boy, "scatterzmq-executor-4")
    assert errands.empty()


def test_an_executor_that_hangs_is_never_idle(bench: Any, errand_boy: Any, errands: Any, hanging: Any) -> None:
    errand_boy.submit(bench.work(bench.one(hanging.kind), 1))
    assert hanging.entered.wait(WAIT_S)
    errand_boy.abandon()
    hanging.leave.set()
    assert errand_boy.stop(WAIT_S)
    assert not errand_boy.rouse()
    assert errands.empty()


def test_roused_twice_it_runs_once_but_never_misses_one(bench: Any, posted: Any) -> None:
    begun, go_on = SimpleQueue[None](), SimpleQueue[None]()

    def errand(_: Any) -> None:
        begun.put(None)
        go_on.get(timeout=WAIT_S)

    worker = bench.worker()
    executor = ThreadExecutor(worker.executor, worker, posted.put, errand)
    assert executor.rouse()
    begun.get(timeout=WAIT_S)
    # While it is at it, what comes may be too late for this one; for another one, once is enough.
    for _ in range(3):
        assert executor.rouse()
    go_on.put(None)
    begun.get(timeout=WAIT_S)
    go_on.put(None)
    assert executor.stop(WAIT_S)
    assert begun.empty()


# ---- inline


@pytest.fixture
def inline(bench: Any, posted: Any) -> Any:
    worker = bench.worker()
    return InlineExecutor(worker.executor, worker, posted.put)


def test_inline_runs_in_the_thread_that_asks(bench: Any, inline: Any, posted: Any) -> None:
    threads = []

    def act(node: Any, batch: Any) -> Any:
        threads.append(threading.current_thread())
        double(node, batch)

    plan = bench.one(bench.kind("act", act))
    assert not inline.run_pending()
    works = [bench.work(plan, 1), bench.work(plan, 2)]
    for work in works:
        inline.submit(work)
    assert posted.empty()
    assert inline.run_pending()
    assert [posted.get_nowait().order for _ in works] == [work.order.order for work in works]
    assert threads == [threading.current_thread()] * 2


def test_inline_passes_an_interrupt_on_after_posting_the_batch(bench: Any, inline: Any, posted: Any) -> None:
    def act(node: Any, batch: Any) -> Any:
        raise KeyboardInterrupt

    inline.submit(bench.work(bench.one(bench.kind("act", act)), 2))
    with pytest.raises(KeyboardInterrupt):
        inline.run_pending()
    assert {row for part in posted.get_nowait().failed for row in part.rows} == {0, 1}


@pytest.mark.parametrize("end", ["stop", "abandon"])
def test_inline_drops_what_waits(bench: Any, inline: Any, posted: Any, end: Any) -> None:
    inline.submit(bench.work(bench.one(bench.kind("double", double)), 1))
    getattr(inline, end)()
    assert not inline.run_pending()
    assert posted.empty()
