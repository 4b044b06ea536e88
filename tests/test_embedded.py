"""The embedded peer's own life: who may close it and when, what happens when it breaks, and who waits for what."""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from queue import SimpleQueue
from textwrap import dedent
from types import FrameType
from typing import Any

import pytest

import scatterzmq
from scatterzmq import embedded
from scatterzmq.core.messages import AskStats, ResultRead
from scatterzmq.driver import Driver, Incoming
from scatterzmq.errors import ClusterError, GraphError
from scatterzmq.graph import check
from scatterzmq.ids import TaskId
from tests.forks import told_in_a_fork

INFO = ["float", [1]]
TIMEOUT_S = 30.0
"""Only matters when something is wrong."""

GATE = """
    from queue import SimpleQueue
    from threading import Event

    import torch
    from scatterzmq.nodes import FieldFormat, Node

    entered = SimpleQueue()
    gate = Event()
    hook = []

    class Gate(Node):
        pure = True
        thread_safe = True

        def inputs(self):
            return {"value": FieldFormat("float", (1,))}

        def outputs(self):
            return {"out": {"value": FieldFormat("float", (1,))}}

        def execute(self, batch):
            entered.put(None)
            for call in hook:
                call()
            assert gate.wait(timeout=60)
            batch.emit("out", value=batch.uniform("value"))
"""


def definition(kind: str = "constant_op", ns: str = "main") -> dict[str, Any]:
    """One node: value -> value + 1, or what the kind makes of it."""
    args = {"op": "add", "const": 1, "input": INFO} if kind == "constant_op" else {}
    node = {"name": "n", "kind": kind, "args": args, "vmap": {"value": ":value"}, "outs": {"out": None}}
    graph = {
        "name": "main", "input": "n", "input_format": {"value": INFO}, "output_format": {"value": INFO},
        "vmap": {"value": "n:value"}, "nodes": [node],
    }  # fmt: skip
    return {"ns": ns, "entry": "main", "graphs": [graph]}


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package with a node that tells `entered`, calls what is in `hook`, and waits for `gate`."""
    package = f"gated_{abs(hash(tmp_path))}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "gate.py").write_text(dedent(GATE), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    module = import_module(f"{package}.gate")
    yield module
    module.gate.set()
    for name in (package, f"{package}.gate"):
        del sys.modules[name]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ended threads, which is not printed."""
    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    return seen


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("scatterzmq")]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def peer_of(client: scatterzmq.Client) -> Any:
    return client._session.link._peer  # type: ignore[attr-defined]


# ---- the end


def test_a_peer_that_broke_leaves_nothing_when_it_is_closed(quiet: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    client = scatterzmq.local()
    client.load_graph(definition())
    peer = peer_of(client)
    monkeypatch.setattr(peer._driver, "take", lambda posted: 1 // 0)
    with pytest.raises(ClusterError, match="the embedded peer failed: ZeroDivisionError"):
        client.namespaces()
    with pytest.raises(ClusterError, match="the embedded peer failed"):
        client.namespaces()
    client.close()
    assert ours() == []
    assert [type(entry.exc_value) for entry in quiet] == [ZeroDivisionError]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_nobody_waits_for_a_peer_that_was_made_to_exit(quiet: list[Any], error: type[BaseException]) -> None:
    client = scatterzmq.local()
    ns = client.load_graph(definition())

    def leave(_: object) -> None:
        raise error

    future = client.submit(ns, value=[1])
    future.add_done_callback(leave)
    until(lambda: client._session.fault is not None)
    with pytest.raises(ClusterError, match=f"the embedded peer failed: {error.__name__}"):
        client.namespaces()
    client.close()
    assert ours() == []


def test_an_inline_peer_that_broke_says_so_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    client = scatterzmq.local(executor_kind="inline")
    client.load_graph(definition())
    peer = peer_of(client)
    with monkeypatch.context() as patch:
        patch.setattr(peer._driver._core, "handle", lambda event, now_ms: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            client.namespaces()
    with pytest.raises(ClusterError, match="the embedded peer failed: ZeroDivisionError"):
        client.namespaces()
    client.close()


def test_an_interrupt_while_waiting_harms_nobody(gated: Any) -> None:
    """Control-C in a node of an inline peer reaches the caller, and the peer goes on."""
    with scatterzmq.local(executor_kind="inline", plugins=[gated.__name__]) as client:
        ns = client.load_graph(definition(gated.__name__))

        def interrupt() -> None:
            gated.hook.clear()
            raise KeyboardInterrupt

        gated.hook.append(interrupt)
        gated.gate.set()
        task = client.enqueue_task(ns, {"value": [1]})
        with pytest.raises(KeyboardInterrupt):
            list(client.wait_for([task]))
        assert [response.status for _, response in client.wait_for([task])] == ["ready"]


def test_closing_from_a_callback(quiet: list[Any]) -> None:
    """It runs in the peer's own thread, which cannot wait for itself."""
    client = scatterzmq.local()
    ns = client.load_graph(definition())
    closed = threading.Event()

    def close(_: object) -> None:
        client.close()
        closed.set()

    client.submit(ns, value=[1]).add_done_callback(close)
    assert closed.wait(TIMEOUT_S)
    until(lambda: not ours())
    assert quiet == []


def test_closing_from_a_node(gated: Any, monkeypatch: pytest.MonkeyPatch, quiet: list[Any]) -> None:
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_S", 0.05)
    client = scatterzmq.local(plugins=[gated.__name__])
    ns = client.load_graph(definition(gated.__name__))
    gated.hook.append(client.close)
    gated.gate.set()
    client.enqueue_task(ns, {"value": [1]})
    until(lambda: not ours())
    with pytest.raises(ClusterError, match="closed"):
        client.namespaces()
    assert quiet == []


def test_closing_twice_and_at_once(gated: Any) -> None:
    client = scatterzmq.local()
    threads = [threading.Thread(target=client.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    client.close()
    assert ours() == []


def test_closing_waits_once_for_all_that_hang(gated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_S", 0.2)
    client = scatterzmq.local(executors=5, batch_size=1, plugins=[gated.__name__])
    ns = client.load_graph(definition(gated.__name__))
    for _ in range(5):
        client.enqueue_task(ns, {"value": [1]})
    client.flush()
    for _ in range(5):
        gated.entered.get(timeout=TIMEOUT_S)
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 0.8
    gated.gate.set()
    until(lambda: not ours())


def test_a_forgotten_client_takes_its_peer_along() -> None:
    client = scatterzmq.local()
    ns = client.load_graph(definition())
    list(client.wait_for([client.enqueue_task(ns, {"value": [1]})]))
    with client.open_blob("one") as blob:
        blob.write(b"1")
    folder = peer_of(client).blobs._root
    assert folder.exists()
    del client, blob
    gc.collect()
    until(lambda: not ours())
    assert not folder.exists()


def test_a_forgotten_inline_client_leaves_nothing() -> None:
    client = scatterzmq.local(executor_kind="inline")
    client.load_graph(definition())
    with client.open_blob("one") as blob:
        blob.write(b"1")
    folder = peer_of(client).blobs._root
    del client, blob
    gc.collect()
    assert not folder.exists()


def test_a_forked_process_is_told_that_the_peer_is_not_its_own() -> None:
    with scatterzmq.local() as client:
        client.load_graph(definition())
        with client.open_blob("one") as blob:
            blob.write(b"1")
        folder = peer_of(client).blobs._root
        told = told_in_a_fork(client.namespaces, client.close)
        assert "fork" in told
        assert folder.exists()
        assert client.namespaces() == {"main"}


# ---- who drives


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that took something in."""
    names: list[str] = []
    take = Driver.take

    def noted(driver: Driver, posted: Any) -> None:
        names.append(threading.current_thread().name)
        take(driver, posted)

    monkeypatch.setattr(Driver, "take", noted)
    return names


@pytest.mark.parametrize("executors", [1, 3])
def test_a_lone_task_meets_no_thread_but_that_of_its_executor(drivers: list[str], executors: int) -> None:
    with scatterzmq.local(executors=executors) as client:
        ns = client.load_graph(definition())
        alone = []
        for number in range(20):
            until(lambda: peer_of(client)._inbox.empty() and not peer_of(client)._driving.locked())
            drivers.clear()
            assert client.submit(ns, value=[number]).result(timeout=TIMEOUT_S)["value"].tolist() == [number + 1]
            names = set(drivers)
            alone.append(len(names) == 1 and names.pop().startswith("scatterzmq-executor"))
        # Another thread that was awake for another reason may be quicker now and then.
        assert alone.count(True) > 10


def test_a_lone_task_takes_few_calls() -> None:
    """While it is alone, how much is done for it is how long it takes. Calls, because times differ."""
    tasks_count, calls, package = 20, 0, str(Path(scatterzmq.__file__).parent)
    counting = threading.Event()

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        code = frame.f_code
        if event == "call" and counting.is_set() and code.co_filename.startswith((package, "<string>")):
            calls += 1  # "<string>": what dataclasses and named tuples are made with

    threading.setprofile(count)
    try:
        with scatterzmq.local() as client:
            ns = client.load_graph(definition())

            def run() -> None:
                for number in range(tasks_count):
                    until(lambda: not peer_of(client)._driving.locked())
                    ((_, response),) = client.wait_for([client.enqueue_task(ns, {"value": [number]})])
                    assert response.result is not None
                    assert response.result["value"].tolist() == [number + 1]

            run()
            counting.set()
            sys.setprofile(count)
            run()
            sys.setprofile(None)
            counting.clear()
    finally:
        threading.setprofile(None)
    assert 100 < calls / tasks_count <= 340


def test_what_was_read_is_told_before_somebody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[TaskId, ...]] = []
    take = Driver.take

    def noted(driver: Driver, posted: Any) -> None:
        if isinstance(posted, Incoming) and isinstance(posted.message, ResultRead):
            told.append(posted.message.ids)
        take(driver, posted)

    monkeypatch.setattr(Driver, "take", noted)
    with scatterzmq.local() as client, scatterzmq.Client(peer_of(client).connect) as other:
        ns = client.load_graph(definition())

        def run(count: int) -> list[TaskId]:
            tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(count)]
            assert all(response.status == "ready" for _, response in client.wait_for(tasks))
            return tasks

        tasks = [*run(1), *run(1), *run(1)]
        assert told == []
        assert [other.get_status(task) for task in tasks] == ["done"] * 3
        assert told == [tuple(tasks)]
        run(embedded._READS_MAX)
        run(1)
        assert sum(map(len, told)) >= 3 + embedded._READS_MAX


def test_the_peer_answers_while_all_executors_are_busy(gated: Any, drivers: list[str]) -> None:
    with scatterzmq.local(executors=2, plugins=[gated.__package__], batch_size=1) as client:
        ns = client.load_graph(definition(gated.__name__, ns="gated"))
        futures = [client.submit(ns, value=[number]) for number in range(2)]
        for _ in futures:
            gated.entered.get(timeout=TIMEOUT_S)
        drivers.clear()
        assert client.get_queue_stats() is not None
        assert set(drivers) == {"scatterzmq-peer"}
        gated.gate.set()
        assert [future.result(timeout=TIMEOUT_S)["value"].tolist() for future in futures] == [[0], [1]]


def test_an_executor_that_takes_in_much_runs_its_batch_first(gated: Any, drivers: list[str]) -> None:
    """What was posted meanwhile is for the peer's own thread: a batch must not wait for it, nor it for the batch."""
    with scatterzmq.local(plugins=[gated.__package__], batch_size=1) as client:
        ns = client.load_graph(definition(gated.__name__, ns="gated"))
        peer = peer_of(client)
        until(lambda: peer._inbox.empty() and peer._bell._silence.locked())
        drivers.clear()
        asked = SimpleQueue[Any]()
        with peer._driving:  # so that both wait when the executor comes
            future = client.submit(ns, value=[1])
            client._session.request(AskStats, asked)
        peer._pool.rouse()
        gated.entered.get(timeout=TIMEOUT_S)
        assert asked.get(timeout=TIMEOUT_S)
        assert drivers[0].startswith("scatterzmq-executor")
        assert drivers[1] == "scatterzmq-peer"
        gated.gate.set()
        assert future.result(timeout=TIMEOUT_S)["value"].tolist() == [1]


def test_starting_a_peer_imports_neither_nodes_nor_checks() -> None:
    """It is a good part of the time that `local` takes; they come in the peer's own thread, or when they are needed."""
    late = ["graph.check", "nodes", "execute.worker", "execute.loaded", "client.aio", "neighbours", "wire.frames"]
    found = told("import sys, scatterzmq.embedded; print(*sys.modules)").split()
    assert "scatterzmq.embedded" in found
    assert not {f"scatterzmq.{name}" for name in late} & set(found)


def test_starting_a_peer_compiles_little() -> None:
    """Each method that is made from text takes as long as a small module; values have one each (frozen.py)."""
    texts = "lambda name, args: name == 'exec' and args[0].co_filename == '<string>' and made.append(args)"
    code = f"import sys, torch; made = []; sys.addaudithook({texts}); import scatterzmq.embedded"
    assert 200 < int(told(f"{code}; print(len(made))")) <= 450


def told(code: str) -> str:
    """What the code prints in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_finished_task_leaves_little_to_the_garbage_collector() -> None:
    """Its collections walk through all that is kept, and take a good part of the time of many small tasks."""
    tasks_count = 400
    with scatterzmq.local(executor_kind="inline") as client:
        ns = client.load_graph(definition())

        def run() -> list[Any]:
            tasks = [client.enqueue_task(ns, {"value": [number]}) for number in range(tasks_count)]
            return [response.result["value"] for _, response in client.wait_for(tasks)]  # type: ignore[index]

        results = run()
        gc.collect()
        before = len(gc.get_objects())
        results += run()
        gc.collect()
        # The id, the peer's record, its stack, its result with one value; the client's handle with the outcome and the
        # tensor. The rest is for what batches have.
        assert len(gc.get_objects()) - before <= 9.2 * tasks_count


# ---- checks of definitions


@pytest.mark.parametrize("kind", ["thread", "inline"])
def test_a_check_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It is ours or a plug-in's mistake; the client must not wait for an answer that never comes."""
    with scatterzmq.local(executor_kind=kind) as client:
        with monkeypatch.context() as patch:
            patch.setattr(check, "check", lambda text, describe: 1 // 0)
            with pytest.raises(GraphError, match="the check of this definition failed: ZeroDivisionError"):
                client.load_graph(definition())
        assert client.load_graph(definition()) == "main"


def test_an_interrupt_during_an_inline_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(text: str, describe: object) -> None:
        raise KeyboardInterrupt

    with scatterzmq.local(executor_kind="inline") as client:
        with monkeypatch.context() as patch:
            patch.setattr(check, "check", interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.load_graph(definition())
        assert client.load_graph(definition()) == "main"


# ---- inline


def test_threads_that_share_an_inline_peer_each_get_their_own() -> None:
    """One thread waits for ever for a task that has no room yet; the other is not held up by that."""
    client = scatterzmq.local(executor_kind="inline", store_record_bytes=4, tasks_refuse_after_s=3600.0)
    ns = client.load_graph(definition())
    first = client.enqueue_task(ns, {"value": [1]}, wait=True)
    second = client.enqueue_task(ns, {"value": [2]})
    seen: list[str] = []

    def wait() -> None:
        seen.extend(response.status for _, response in client.wait_for([second], timeout=None))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    until(client._pumping.locked)
    began = time.monotonic()
    for _ in range(10):
        assert client.namespaces() == {"main"}
    client.clear_task(first)
    thread.join(TIMEOUT_S)
    assert seen == ["ready"]
    assert time.monotonic() - began < 5
    client.close()
