"""Executors in real children: what they answer, and how they die. One pool for all, as a start takes long."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import scatterzmq.execute.children
from scatterzmq.core.events import BatchExpected, ExecutorLost, ExecutorStarted
from scatterzmq.errors import ErrorCode
from scatterzmq.execute import childprocess
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.execute.childwire import DropPlan
from scatterzmq.execute.pool import Pool
from scatterzmq.execute.work import Done, Work
from scatterzmq.ids import ExecutorId
from scatterzmq.settings import Settings
from scatterzmq.wire.columns import Apart
from tests.execute.childworld import (
    KINDS,
    NEGATE,
    World,
    acting,
    column,
    floats,
    is_running,
    numbers,
    one,
    texts,
    whole,
    world,
    write_kinds,
)

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with kinds that only children import."""
    folder = tmp_path_factory.mktemp("children")
    write_kinds(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    assert not [name for name in sys.modules if name.startswith(KINDS)]


@pytest.fixture(scope="module")
def everything(folder: Path) -> Iterator[World]:
    with world(folder / "blobs") as made:
        yield made


@pytest.fixture
def children(everything: World) -> World:
    """Nothing is left of the last test."""
    everything.executor()
    everything.posted.clear()
    everything.reports.clear()
    everything.lines.clear()
    return everything


# ---- what they answer


def branching() -> Any:
    """Two ways out of a node, a node that fails all, a call, and a cached node."""
    flag, value, text = ["bool", [1]], ["float", [1]], ["uint8", [None]]
    nodes = [
        {
            "name": "which",
            "kind": "if_op",
            "vmap": {"condition": ":flag"},
            "outs": {"then": "call", "else": "fail"},
        },
        {"name": "fail", "kind": "assertion_error", "args": {"msg": "on purpose"}, "outs": {}},
        {
            "name": "call",
            "kind": "call",
            "args": {"graph": "inner", "args": {"value": value}, "ret": {"value": value}},
            "vmap": {"value": ":value"},
            "outs": {"out": "join"},
        },
        {
            "name": "join",
            "kind": "str_concat",
            "args": {"delimiter": "-"},
            "vmap": {"left": ":text", "right": ":text"},
            "outs": {"out": None},
            "cache": True,
        },
    ]
    main = {
        "name": "main",
        "input": "which",
        "input_format": {"flag": flag, "value": value, "text": text},
        "output_format": {"value": value, "text": text},
        "vmap": {"value": "call:value", "text": "join:value"},
        "nodes": nodes,
    }
    (inner,) = one(
        {
            "kind": "constant_op",
            "args": {"op": "add", "const": 1, "input": value},
            "vmap": {"value": ":value"},
            "outs": {"out": None},
        },
        1,
    )["graphs"]
    return {"ns": "ns", "entry": "main", "graphs": [main, {**inner, "name": "inner", "is_block": True}]}


@pytest.fixture
def in_a_thread(tmp_path: Path) -> Iterator[Any]:
    """Runs works as they are run without children; their answers."""
    blobs = BlobStore(tmp_path)
    answers: list[Any] = []
    pool = Pool(Settings.of({"executor": {"kind": "inline"}}), blobs, answers.append, None)
    (executor,) = pool.start()

    def run(work: Work) -> Done:
        pool.run(executor, work)
        pool.run_pending()
        done = answers.pop()
        assert isinstance(done, Done)
        return done

    yield run
    pool.stop(1.0)


def plain(done: Done) -> Any:
    """An answer in comparable form, without what differs from process to process."""
    emitted = [
        (
            part.output,
            part.rows,
            part.call,
            dict(part.digests),
            {n: (c.layout, bytes(whole(c).data)) for n, c in part.columns.items()},
        )
        for part in done.emitted
    ]
    return emitted, done.failed, None if done.loaded is None else set(done.loaded)


def test_answers_are_those_of_threads(children: World, in_a_thread: Any) -> None:
    plan = children.plan(branching())
    works = [
        ("which", {"condition": column("bool", 3, (1,), b"\1\0\1")}),
        ("fail", {}),
        ("call", {"value": floats([[1.0], [2.0]])}),
        ("join", {"left": texts("a", "", "ccc"), "right": texts("x", "yy", "z")}),
        ("n", {"value": floats([[1.0], [-2.0]])}),  # begins the block
        ("which", {"condition": column("bool", 1, (2,), b"\1\0")}),  # not what it takes
    ]
    for node, columns in works:
        work = children.work(plan, node, columns)
        assert plain(children.run(work)) == plain(in_a_thread(work)), node


def test_the_answers_are_not_all_alike(children: World, in_a_thread: Any) -> None:
    """What the comparison above is worth."""
    plan = children.plan(branching())
    then, otherwise = children.run(
        children.work(plan, "which", {"condition": column("bool", 3, (1,), b"\1\0\1")})
    ).emitted
    assert (then.output, then.rows, otherwise.output, otherwise.rows) == ("then", (0, 2), "else", (1,))
    (failed,) = children.run(children.work(plan, "fail", {})).failed
    assert (failed.rows, failed.message) == ((0,), "on purpose")
    assert "ValueError: on purpose" in failed.traceback
    (called,) = children.run(children.work(plan, "call", {"value": floats([[1.0]])})).emitted
    assert called.call is not None
    (joined,) = children.run(children.work(plan, "join", {"left": texts("a"), "right": texts("b")})).emitted
    assert bytes(whole(joined.columns["value"]).data) == b"a-b"
    assert [len(digest) for digest in joined.digests["value"]] == [32]


def test_only_some_positions_of_a_batch(children: World) -> None:
    work = children.work(children.plan(NEGATE), "n", {"value": floats([[1.0], [2.0, 3.0]])}, rows=(1, 4))
    (part,) = children.run(work).emitted
    assert part.rows == (1, 4)
    assert numbers(part.columns["value"]) == [-1.0, -2.0, -3.0]


def test_an_expectation_comes_before_the_answer(children: World) -> None:
    work = children.act("double", rows=3)
    executor = children.executor()
    children.pool.run(executor, work)
    expected = BatchExpected(executor=executor, order=work.order.order, outputs={"out": (3.0, 7)})
    children.loop.until(lambda: any(isinstance(event, Done) for event in children.posted))
    assert children.posted[0] == expected
    assert isinstance(children.posted[1], Done)


def maps() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:scatterzmq")


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("size", [1, 1024, 20_000, MIB], ids="floats={}".format)
def test_columns_of_any_size(children: World, size: int) -> None:
    """In line, and through memory that is kept, with its descriptor; nothing is mapped, and rows that are large can be
    let go of one by one.
    """
    before = maps(), handles()
    work = children.work(children.plan(NEGATE), "n", {"value": floats([[1.5] * size, [], [2.5]])})
    done = children.run(work)
    assert maps() == before[0]
    assert handles() - before[1] in ((0, 1) if size >= 20_000 else (0,))
    (part,) = done.emitted
    came = part.columns["value"]
    assert isinstance(came, Apart) == (size == MIB)
    assert came.layout == work.columns["value"].layout
    assert not any(data.readonly for data in (came.datas if isinstance(came, Apart) else (came.data,)))
    assert numbers(came) == [-1.5] * size + [-2.5]


def test_answers_go_through_one_memory(children: World) -> None:
    """Each batch has its own results, though they came through the same memory."""
    plan = children.plan(NEGATE)
    given = [floats([[number] * 100_000]) for number in (1.0, 2.0)]
    first, second = [children.run(children.work(plan, "n", {"value": value})).emitted[0] for value in given]
    for part, wanted in ((first, -1.0), (second, -2.0)):
        value = part.columns["value"]
        assert numbers(value) == [wanted] * 100_000


def test_what_exits_or_interrupts_fails_only_its_batch(children: World) -> None:
    executor = children.executor()
    for do, message in (("interrupt", "KeyboardInterrupt"), ("quit", "SystemExit: 5")):
        (failed,) = children.run(children.act(do), executor).failed
        assert (failed.code, failed.message) == (ErrorCode.GENERAL_EXCEPTION, message)
    assert children.executor() == executor


def test_a_plan_that_was_retired_can_come_again(children: World) -> None:
    plan = children.plan(NEGATE)
    executor = children.executor()
    value = {"value": floats([[1.0]])}
    children.run(children.work(plan, "n", value))
    children.pool.retire(plan.digest)
    assert plan.digest not in children.child(executor).plans
    assert children.run(children.work(plan, "n", value), executor).emitted
    assert plan.digest in children.child(executor).plans


def test_cancelled_rows_are_not_alive(children: World) -> None:
    work, executor = children.act("wait", rows=3), children.executor()
    children.pool.run(executor, work)
    children.loop.until(lambda: children.lines == [("ns:main:n", "entered")])
    children.pool.cancel(executor, work.order.order - 1, (0,))  # another batch
    children.pool.cancel(executor, work.order.order, (0,))
    children.pool.cancel(executor, work.order.order, (2,))
    (part,) = children.take(Done).emitted
    assert numbers(part.columns["value"]) == [1.0, 1.0, 1.0]  # one was alive


def test_rows_can_be_cancelled_before_the_batch_begins(children: World) -> None:
    work, executor = children.act("double", rows=2), children.executor()
    child = children.child(executor)
    os.kill(child.pid, signal.SIGSTOP)
    children.pool.run(executor, work)
    children.pool.cancel(executor, work.order.order, (0, 1))
    os.kill(child.pid, signal.SIGCONT)
    done = children.take(Done)
    # Which of the two it reads first is open, but nobody may be left out.
    rows = [row for part in done.emitted for row in part.rows] + [row for failed in done.failed for row in failed.rows]
    assert sorted(rows) == [0, 1]


# ---- what they print


def test_what_is_printed_comes_as_lines(children: World, capfd: pytest.CaptureFixture[str]) -> None:
    children.run(children.act("say"))
    children.loop.until(lambda: len(children.lines) == 3)
    assert sorted(children.lines) == [("", "raw"), ("ns:main:n", "one"), ("ns:main:n", "two")]
    assert capfd.readouterr() == ("", "")


def test_a_flood_of_lines_is_cut(children: World) -> None:
    children.run(children.act("flood"))
    children.loop.until(lambda: any(not place for place, _ in children.lines))
    assert 1_000 <= len([line for place, line in children.lines if place]) < 10_000
    assert len([line for place, line in children.lines if not place]) < 3_000
    assert children.run(children.act("double")).emitted


# ---- checks


def test_a_sound_definition_gives_the_plan_without_an_import(children: World) -> None:
    answer = children.check(acting("double"))
    assert answer.problems == ()
    assert answer.plan is not None
    (node,) = answer.plan.queues.values()
    assert (node.kind, node.pure, node.weight) == (f"{KINDS}.act", True, 1.0)
    assert f"{KINDS}.act" not in sys.modules


def test_what_happens_in_a_child_is_told_here(children: World) -> None:
    """As in threads, and which executor it was."""
    args = {"op": "mul", "const": -17, "input": ["float", [None]]}  # which no other test has loaded
    node = {"kind": "constant_op", "args": args, "vmap": {"value": ":value"}, "outs": {"out": None}}
    plan = children.plan(one(node, None))
    executor = children.executor()
    children.run(children.work(plan, "n", {"value": floats([[1.0]])}), executor)
    (loaded,) = [context for name, context in children.reports if name == "tally.node.load"]
    assert loaded == {"executor": executor, "node": "ns:main:n", "load_cost": 1.0}
    children.pool.retire(plan.digest)
    children.run(children.act("double"), executor)  # whoever runs next unloads what is not needed any more
    (unloaded,) = [context for name, context in children.reports if name == "tally.node.unload"]
    assert unloaded == {"executor": executor, "node": "ns:main:n"}


def test_problems_are_those_of_a_check_here(children: World) -> None:
    unknown = one({"kind": "nothing", "vmap": {"value": ":value"}, "outs": {"out": None}}, 1)
    wrong = one({"kind": "constant_op", "args": {}, "vmap": {"value": ":value"}, "outs": {"out": None}}, 1)
    forbidden = one({"kind": "os.path", "vmap": {"value": ":value"}, "outs": {"out": None}}, 1)
    for definition, words in ((unknown, "unknown node kind"), (wrong, "missing"), (forbidden, "may not be imported")):
        answer = children.check(definition)
        assert answer.plan is None
        assert any(words in problem and "ns:main:n" in problem for problem in answer.problems), answer.problems
    for text in ("", "{", "[]", "[" * 100_000, json.dumps({"entry": "x", "graphs": [{}]}), "\ud800"):
        answer = children.check(text)
        assert answer.plan is None
        assert answer.problems


def test_a_check_that_kills_its_child_is_answered(children: World) -> None:
    children.reserve()
    executor = children.executor()
    answer = children.check(one({"kind": f"{KINDS}.dies", "vmap": {"value": ":value"}, "outs": {"out": None}}, 1))
    assert answer.problems == (
        "the check of this definition failed: the executor that checked it died of it: exit code 4",
    )
    assert children.executor() == executor  # it was the one in reserve
    (report,) = children.reports
    assert report == ("warning.executor.reserve", {"reason": "exit code 4"})


def test_a_check_that_hangs_is_answered(children: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = children.reserve()
    monkeypatch.setattr(scatterzmq.execute.children, "_CHECK_S", 0.3)
    answer = children.check(one({"kind": f"{KINDS}.hangs", "vmap": {"value": ":value"}, "outs": {"out": None}}, 1))
    (problem,) = answer.problems
    assert "has not answered within 0.3 s" in problem
    children.loop.until(lambda: not is_running(reserve.pid))


# ---- how they die


def lost(children: World, executor: ExecutorId, *, crashed: bool) -> str:
    """The reason of the only loss; another executor has come in its place, the one that was in reserve."""
    event = children.take(ExecutorLost)
    assert (event.executor, event.crashed) == (executor, crashed)
    started = children.take(ExecutorStarted)
    assert started.executor == children.executor() != executor
    assert not [event for event in children.posted if isinstance(event, ExecutorLost | ExecutorStarted)]
    return event.reason


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("exit", "exit code 3"),
        ("segfault", "killed by signal 11 (SIGSEGV)"),
        ("close", "it has closed its connection"),
        ("junk", "it sent what makes no sense: "),
    ],
)
def test_a_batch_that_kills_its_child_costs_the_child(children: World, do: str, reason: str) -> None:
    work, executor, reserve = children.act(do), children.executor(), children.reserve()
    pid = children.child(executor).pid
    children.pool.run(executor, work)
    assert lost(children, executor, crashed=True).startswith(reason)
    assert children.executor() == reserve.executor
    children.pool.run(executor, work)  # by somebody who has not heard of it yet
    assert not Path(f"/proc/{pid}").exists()
    assert children.run(children.act("double")).emitted
    if do == "segfault":
        assert any("Segmentation fault" in line for _, line in children.lines)


@pytest.mark.parametrize(("oom_kills", "why"), [(0, ""), (1, "out of memory: ")])
def test_a_busy_child_that_is_killed_takes_with_it_what_its_node_has_started(
    children: World, monkeypatch: pytest.MonkeyPatch, oom_kills: int, why: str
) -> None:
    """By the system or by somebody: only the system counts when it does so because memory has run out."""
    before = children.pool._oom_kills
    monkeypatch.setattr(scatterzmq.execute.children, "oom_kills", lambda: before + oom_kills)
    work, executor = children.act("start_another"), children.executor()
    children.reserve()
    children.pool.run(executor, work)
    children.loop.until(lambda: children.lines)
    os.kill(children.child(executor).pid, signal.SIGKILL)
    assert lost(children, executor, crashed=True) == f"{why}killed by signal 9 (SIGKILL)"
    ((_, pid),) = children.lines
    children.loop.until(lambda: not is_running(int(pid)))


def test_an_idle_child_that_is_killed_and_a_check_in_a_busy_one(children: World) -> None:
    work, executor = children.act("wait"), children.executor()
    children.reserve()
    os.kill(children.child(executor).pid, signal.SIGKILL)
    assert lost(children, executor, crashed=False) == "killed by signal 9 (SIGKILL)"
    executor = children.executor()
    children.pool.run(executor, work)
    children.loop.until(lambda: children.lines)
    # There is none in reserve yet, so the one with a batch does it.
    assert children.check(NEGATE).plan is not None
    assert children.child(executor).work is work
    children.pool.cancel(executor, work.order.order, (0,))
    children.take(Done)


def test_nothing_is_copied_for_a_child_that_hears_nothing(children: World, monkeypatch: pytest.MonkeyPatch) -> None:
    child = children.child(children.executor())
    child.kill("for a test")
    with monkeypatch.context() as patch:
        patch.setattr(childprocess, "wrapped", lambda *_: pytest.fail("copied"))
        assert not child.tell(DropPlan(digest=b""))
    children.take(ExecutorLost)


def test_a_polite_signal_is_for_the_peer(children: World) -> None:
    executor = children.executor()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(children.child(executor).pid, number)
    assert children.run(children.act("double"), executor).emitted


def test_a_child_that_hangs_is_replaced(children: World) -> None:
    work, executor, reserve = children.act("hang"), children.executor(), children.reserve()
    pid = children.child(executor).pid
    children.pool.run(executor, work)
    children.loop.until(lambda: children.lines)
    children.pool.replace(executor)
    assert children.take(ExecutorStarted).executor == reserve.executor
    children.loop.until(lambda: not Path(f"/proc/{pid}").exists())
    assert not [event for event in children.posted if isinstance(event, ExecutorLost)]
    children.pool.replace(executor)  # it is not there any more
    assert children.run(children.act("double")).emitted


def test_nothing_is_left_behind_and_stop_ends_all(children: World) -> None:
    """The last test of this pool."""
    children.reserve()
    big = {"value": floats([[1.0] * (MIB // 4)])}
    children.run(children.work(children.plan(NEGATE), "n", big))  # which makes the memory that is kept for the next
    before = handles(), maps()
    for number in range(200):
        assert children.run(children.act("double", rows=1 + number % 3)).emitted
    for _ in range(5):
        children.run(children.work(children.plan(NEGATE), "n", big))
    assert (handles(), maps()) == before
    assert len(children.pool._children) == 2
    assert not children.pool._leaving
    assert not children.pool._checks
    assert all(isinstance(event, BatchExpected) for event in children.posted)
    pids = [child.pid for child in children.pool._children.values()]
    work = children.act("double")
    children.pool.run(children.executor(), work)
    children.pool.stop(60.0)
    assert children.take(Done).order == work.order.order  # what was under way
    assert all(isinstance(event, BatchExpected) for event in children.posted)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    # Two sockets, a pidfd and a pipe of each child; epoll and alarm of the pool.
    assert handles() == before[0] - 2 * 4 - 2 - 1
