"""`scatterzmq status`: what peers have to do, as text and as JSON, and what is known of one task."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import scatterzmq
from scatterzmq.cli import status, statusview
from scatterzmq.client.link import Member
from scatterzmq.core.messages import (
    ExecutorStats,
    QueueStats,
    Stats,
    TaskReport,
    TaskStatus,
)
from scatterzmq.errors import ErrorCode, ErrorContext, ErrorInfo
from scatterzmq.ids import ExecutorId, PeerId, TaskId
from tests.test_remote import LONG_S, Peer, Served, definition, until

A, B = PeerId("P" + "a" * 32), PeerId("P" + "b" * 32)
TASK = TaskId("T" + "1" * 32)
PLACE = "main:main:add"
MEMBERS = [
    Member(id=B, name="host-b", status="suspect", address="tcp://10.0.0.2:7411"),
    Member(id=A, name="host-a", status="alive", address="tcp://10.0.0.1:7411"),
]


def stats(*, length: int = 0, busy: int = 0, idle: int = 0, listeners: int = 0) -> Stats:
    executors = [
        ExecutorStats(id=ExecutorId(f"E{number:032x}"), place=PLACE if number < busy else "", loaded=(PLACE,))
        for number in range(busy + idle)
    ]
    queue = QueueStats(id="Q1", name=PLACE, queue_length=length, listeners=listeners, pressure=length / 2)
    return Stats(
        mid=1,
        queues=(queue,),
        executors=tuple(executors),
        tasks={"wait": length, "done": 1},
        counters={"batches": 2, "failed": 0},
        record_bytes=2048,
        cache_entries=1,
        cache_bytes=100,
    )


def two() -> Any:
    return statusview.view_of(MEMBERS, {A: stats(length=3, busy=1, listeners=1), B: stats(length=2, idle=2)})


def why(report: TaskReport, view: Any) -> str:
    return str(statusview.task_view(TASK, {A: report}, view)["why"])


# ---- what is shown


def test_the_numbers_of_all_peers_and_their_sums() -> None:
    view = two()
    assert [(peer["name"], peer["status"], peer["executors_idle"], peer["queued"]) for peer in view["peers"]] == [
        ("host-a", "alive", 0, 3),
        ("host-b", "suspect", 2, 2),
    ]
    assert view["queues"] == [{"id": "Q1", "name": PLACE, "length": 5, "listeners": 1, "pressure": 2.5}]
    assert (view["tasks"], view["counters"]) == ({"wait": 5, "done": 2}, {"batches": 4, "failed": 0})
    assert (view["record_bytes"], view["cache_entries"], view["cache_bytes"]) == (4096, 2, 200)
    assert json.loads(json.dumps(view)) == view


def test_the_tables() -> None:
    assert [line.rstrip() for line in statusview.lines_of(two())] == [
        "PEER       NAME    ADDRESS              STATUS   IDLE    QUEUED  TASKS",
        "Paaaaaaaa  host-a  tcp://10.0.0.1:7411  alive    0 of 1  3       4",
        "Pbbbbbbbb  host-b  tcp://10.0.0.2:7411  suspect  2 of 2  2       3",
        "",
        "QUEUE          WAITING  LISTENERS  PRESSURE",
        "main:main:add  5        1          2.5",
        "",
        "tasks     wait 5, done 2",
        "cache     2 entries, 200 B",
        "records   4 KiB",
        "store     0 B",
        "counters  batches 4",
    ]


def test_intermediate_tensors_are_shown_by_themselves() -> None:
    counted = {"store_bytes": 3 << 20, "batches": 9}
    view = statusview.view_of(MEMBERS, {A: replace(stats(), counters=counted), B: stats()})
    lines = list(statusview.lines_of(view))
    assert lines[-2:] == ["store     3 MiB", "counters  batches 11"]


def test_what_came_of_caches_is_shown_per_peer() -> None:
    """The four counters together with what is there, and not among others again."""
    counted = {"cache_hits": 5, "cache_misses": 2, "cache_deferred": 3, "cache_promoted": 1, "batches": 9}
    view = statusview.view_of(MEMBERS, {A: replace(stats(), counters=counted), B: stats()})
    lines = [line.rstrip() for line in statusview.lines_of(view)]
    assert "cache     2 entries, 200 B; hits 5, misses 2, deferred 3, promoted 1" in lines
    assert lines[-4:] == [
        "counters  batches 11",
        "",
        "CACHE AT  ENTRIES  BYTES  HITS  MISSES  DEFERRED  PROMOTED",
        "host-a    1        100    5     2       3         1",
    ]


def test_what_a_peer_cannot_run_is_shown_and_why() -> None:
    unable = replace(stats(length=1, idle=1), unusable={"main": "no such\nkind here"})
    view = statusview.view_of(MEMBERS, {A: unable, B: replace(stats(), executors=())})
    lines = [line.rstrip() for line in statusview.lines_of(view)]
    assert lines[-3:] == ["", "UNABLE  NAMESPACE  WHY", "host-a  main       no such kind here"]
    waiting = TaskReport(id=TASK, status=TaskStatus.WAIT, ns="main", place=PLACE, story=("accepted",))
    assert why(waiting, view) == "no peer has an executor that is ready, of those that can run namespace main"
    assert "unusable" not in {key for key, value in view["peers"][1].items() if value}


def test_what_was_rejected_is_shown_however_little_it_is() -> None:
    counters = {f"many{number}": 1000 for number in range(50)}
    counters |= {"rejected_magic": 1, "network_sent": 2, "network_cut": 0, "blobs_lies": 3, "events_dropped": 0}
    lines = list(statusview.lines_of(statusview.view_of(MEMBERS, {A: replace(stats(), counters=counters)})))
    assert lines[-3:] == ["network   sent 2", "rejected  magic 1", "blobs     lies 3"]
    assert lines[-4].startswith("counters  many")


def test_a_peer_that_does_not_answer_is_shown_without_numbers() -> None:
    view = statusview.view_of(MEMBERS, {A: stats(length=3)})
    assert [peer["status"] for peer in view["peers"]] == ["alive", "no answer"]
    assert "executors" not in view["peers"][1]
    lines = [line.rstrip() for line in statusview.lines_of(view)]
    assert lines[2] == "Pbbbbbbbb  host-b  tcp://10.0.0.2:7411  no answer"


def test_names_cannot_write_on_the_terminal() -> None:
    rude = Member(id=A, name="a\x1b[2Jb\nc", status="alive", address="")
    lines = list(statusview.lines_of(statusview.view_of([rude], {A: stats()})))
    assert "a [2Jb c" in lines[1]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"status": TaskStatus.INIT}, "it is being accepted: copies are made at other peers"),
        ({"status": TaskStatus.DEFERRED}, "another task computes the same, and this one gets what comes of it"),
        ({"status": TaskStatus.BUSY, "place": PLACE}, "an executor works at it"),
        (
            {"status": TaskStatus.WAIT, "place": PLACE},
            "it waits for an executor: 5 tasks there; 1 of 3 executors at work, 1 with its node loaded",
        ),
        ({"status": TaskStatus.DONE}, ""),
    ],
)
def test_why_a_task_is_where_it_is(report: dict[str, Any], said: str) -> None:
    assert why(TaskReport(id=TASK, ns="main", story=("+0 ms queue add",), **report), two()) == said


def test_it_may_wait_for_executors_that_there_are_none_of() -> None:
    waiting = TaskReport(id=TASK, status=TaskStatus.WAIT, ns="main", place=PLACE, story=("+0 ms queue add",))
    view = statusview.view_of(MEMBERS, {A: stats(length=1), B: stats()})
    assert why(waiting, view) == "no peer has an executor that is ready"


def test_it_may_be_known_by_a_copy_alone() -> None:
    view = statusview.view_of(MEMBERS, {B: stats()})
    copy = TaskReport(id=TASK, status=TaskStatus.WAIT, ns="main")
    found = statusview.task_view(TASK, {B: copy}, view)
    assert (found["owner"], found["copies"]) == (None, [B])
    assert found["why"] == "its owner has not answered; a copy is there, and will be taken over if the owner is gone"


def test_its_owner_knows_best() -> None:
    error = ErrorInfo(
        code=ErrorCode.GENERAL_EXCEPTION,
        message="no\x1b",
        traceback="Traceback\n  here",
        context=ErrorContext(node=PLACE),
    )
    reports = {
        A: TaskReport(id=TASK, status=TaskStatus.UNKNOWN),
        B: TaskReport(
            id=TASK,
            status=TaskStatus.ERROR,
            ns="main",
            retries=2,
            error=error,
            duration_ms=1500,
            story=("+0 ms queue add", "+9 ms fail"),
        ),
    }
    found = statusview.task_view(TASK, reports, two())
    assert list(statusview.lines_of_task(found)) == [
        f"id        {TASK}",
        "status    error",
        "ns        main",
        f"owner     {B}",
        "retries   2",
        "time      1.500 s",
        f"error     general_exception at {PLACE}: no ",
        "          Traceback",
        "            here",
        "story     +0 ms queue add",
        "          +9 ms fail",
    ]
    assert found["error"]["traceback"] == ["Traceback", "  here"]


def test_nobody_may_know_it() -> None:
    unknown = TaskReport(id=TASK, status=TaskStatus.UNKNOWN)
    found = statusview.task_view(TASK, {A: unknown}, two())
    assert (found["status"], found["why"]) == ("unknown", "nobody knows it; no answer of 1 peer")
    found = statusview.task_view(TASK, {A: unknown, B: unknown}, two())
    assert found["why"] == "nobody knows it"


@pytest.mark.parametrize(("nbytes", "said"), [(0, "0 B"), (1536, "1.5 KiB"), (3 << 20, "3 MiB"), (5 << 40, "5120 GiB")])
def test_sizes(nbytes: int, said: str) -> None:
    assert statusview._size(nbytes) == said


# ---- asked of peers


def test_all_peers_are_asked_whichever_is_named(cli: Any, running: Callable[..., Peer]) -> None:
    first = running(name="first")
    second = running(first.address, name="second")
    until(lambda: "peer.join" in first.events and "peer.join" in second.events)
    with scatterzmq.connect(first.address) as client:
        ns = client.load_graph(definition())
        task = client.enqueue_task(ns, {"value": [1]})
        assert [response.status for _, response in client.wait_for([task], timeout=LONG_S)] == ["ready"]
    ran = cli("status", "--json", "--join", second.address)
    view = json.loads(ran.out)
    assert (ran.code, ran.err) == (0, "")
    assert [(peer["name"], peer["address"], peer["status"]) for peer in view["peers"]] == [
        ("first", first.address, "alive"),
        ("second", second.address, "alive"),
    ]
    assert sum(peer["executors_idle"] for peer in view["peers"]) == 2
    assert view["counters"]["finished"] == 1
    assert view["counters"]["network_received"] > 0
    assert view["counters"]["events_dropped"] == 0
    assert [queue["name"] for queue in view["queues"]] == [PLACE]
    ran = cli("status", "--join", first.address)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0].split() == ["PEER", "NAME", "ADDRESS", "STATUS", "IDLE", "QUEUED", "TASKS"]
    ran = cli("status", "--task", task, "--json", "--join", first.address)
    found = json.loads(ran.out)
    assert (ran.code, found["status"], found["ns"], found["retries"]) == (0, "done", "main", 0)
    assert {found["owner"], *found["copies"]} == {first.peer.contact.id, second.peer.contact.id}
    assert found["story"][0] == "+0 ms queue add"
    ran = cli("status", "--task", task, "--join", first.address)
    assert (ran.code, ran.out.splitlines()[1]) == (0, "status    done")


def test_a_task_that_nobody_knows_is_exit_1(cli: Any, running: Callable[..., Peer]) -> None:
    ran = cli("status", "--task", TASK, "--join", running().address)
    assert ran == (1, f"id        {TASK}\nstatus    unknown\nwhy       nobody knows it\n", "")


def test_what_gets_lost_is_asked_again(
    cli: Any, served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scatterzmq import questions

    monkeypatch.setattr(questions, "ASK_AGAIN_S", 0.05)
    asked: list[int] = []

    def answer(_peer: object, _envelope: object, message: Any) -> Any:
        asked.append(message.mid)
        return Stats(mid=message.mid, queues=(), executors=(), tasks={}) if len(asked) >= 3 else None

    ran = cli("status", "--join", served(answer=answer).peer.address)
    assert (ran.code, ran.err) == (0, "")
    assert len(asked) == 3
    assert len(set(asked)) == 1
    assert "alive" in ran.out


def test_answers_to_other_questions_are_not_taken(
    cli: Any, served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_ANSWER_S", 0.2)

    def answer(_peer: object, _envelope: object, message: Any) -> Any:
        return Stats(mid=message.mid + 1, queues=(), executors=(), tasks={})

    ran = cli("status", "--join", served(answer=answer).peer.address)
    assert (ran.code, ran.err) == (0, "")
    assert "no answer" in ran.out


def test_nobody_is_there(cli: Any, running: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_FIND_S", 0.2)
    peer = running()
    peer.stop()
    ran = cli("status", "--join", peer.address)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"scatterzmq: no peer has answered in 0.2 s: {peer.address} (nobody listens there); see")
    assert ran.err.count("\n") == 1
    ran = cli("status", "--cluster", "nobody-is-called-so")
    assert (ran.code, ran.out) == (1, "")
    assert "nobody of cluster 'nobody-is-called-so' was found" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--task", "T1"], 2, "--task: invalid TaskId 'T1'"),
        (["--join", "host:7411"], 1, "--join: expected tcp://host or tcp://host:port, got 'host:7411'"),
    ],
)
def test_wrong_words(cli: Any, arguments: list[str], code: int, said: str) -> None:
    ran = cli("status", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(f"scatterzmq: {said}")
    assert ran.err.count("\n") == 1


def test_an_interrupt_leaves_nothing(
    cli: Any, served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from scatterzmq.net.reactor import Reactor
    from scatterzmq.questions import Questions

    closed: list[Reactor] = []
    close = Reactor.close

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def noted(reactor: Reactor, linger_s: float = 0.0) -> None:
        closed.append(reactor)
        close(reactor, linger_s)

    monkeypatch.setattr(Questions, "ask", interrupted)
    monkeypatch.setattr(Reactor, "close", noted)
    assert cli("status", "--join", served().peer.address) == (130, "", "scatterzmq: interrupted\n")
    assert len(closed) == 1
