"""What one message may carry: batches are lent and committed in pieces, and what no message can carry fails, saying so.

Every value of these worlds is one whole number of 8 bytes. Peer 0 owns the tasks.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from scatterzmq.core.commits import Told, commit_of
from scatterzmq.core.events import BatchFinished, BlocksEvicted, Emitted, RowsFailed
from scatterzmq.core.messages import AskTasks, GraphRefused, LoadGraph, Refused, TaskReport, TaskReports, TaskStatus
from scatterzmq.core.peermessages import Claim, Commit, Committed, Grant, Surrender
from scatterzmq.core.sizes import (
    DEFINITION_BYTES_MAX,
    TEXT_CHARS_MAX,
    fitting,
    is_short,
    listed,
    pieces,
    row_sizes,
    shortened,
    too_long,
)
from scatterzmq.core.values import Block
from scatterzmq.errors import ErrorCode, ErrorInfo
from scatterzmq.ids import BlockId, ExecutorId, TaskId
from scatterzmq.settings import Settings, row_bytes
from scatterzmq.wire.frames import decode, encode
from scatterzmq.wire.refusal import Limits
from tests.core.conftest import ALICE, chain, graph, node
from tests.core.mesh import Mesh, Packet
from tests.core.test_commits import EXECUTOR, HOLDER, block, plan_of
from tests.core.test_lending import Owner

FIRST = ExecutorId("E" + "0" * 32)


# ---- grants


@pytest.mark.parametrize(("batch_bytes", "tasks"), [(0, 1), (8, 1), (23, 2), (24, 3), (1000, 5)])
def test_a_grant_carries_no_more_than_a_message_may(batch_bytes: int, tasks: int) -> None:
    owner = Owner(1, 2, 3, 4, 5, network={"batch_bytes": batch_bytes})
    grant = owner.claim()
    assert owner.given(grant) == [1, 2, 3, 4, 5][:tasks]
    statuses = [owner.status(place) for place in range(5)]
    assert statuses == [TaskStatus.BUSY] * tasks + [TaskStatus.WAIT] * (5 - tasks)
    assert owner.add_one(grant).fenced is False


def test_what_did_not_fit_is_lent_next() -> None:
    owner = Owner(1, 2, 3, 4, 5, length=1, network={"batch_bytes": 16})
    taken = []
    while (grant := owner.claim()).ids:
        taken.append(owner.given(grant))
        owner.add_one(grant)
    assert taken == [[1, 2], [3, 4], [5]]
    assert [owner.status(place) for place in range(5)] == [TaskStatus.READY] * 5


def test_what_no_message_can_carry_is_for_executors_of_its_owner() -> None:
    owner = Owner(1, 2, length=1)
    owner.core._state.row_bytes_max = 7
    owner.core._lending._batch_bytes = 7
    assert owner.claim().ids == ()
    assert owner.claim().ids == ()
    assert [owner.status(place) for place in range(2)] == [TaskStatus.WAIT] * 2
    owner.core._state.row_bytes_max = None
    owner.mesh.peers[0].start()
    owner.mesh.run()
    assert owner.mesh.results(0, owner.tasks) == [2, 3]


def test_a_claim_for_any_number_of_tasks_gets_what_a_body_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scatterzmq.core.lending.GRANT_TASKS_MAX", 3)
    owner = Owner(1, 2, 3, 4, 5)
    assert len(owner.claim(most=60_000).ids) == 3


def test_rows_that_travel_by_name_need_no_room() -> None:
    mesh = Mesh(
        2,
        executors=(0, 1),
        cluster={"replicas": 1},
        store={"inline_bytes": 0},
        executor={"batch_size": 4},
        network={"batch_bytes": 32},
    )
    mesh.load(chain(3))
    tasks = mesh.submit(0, 1, 2, 3, 4)
    mesh.peers[0].core._lending._batch_bytes = 32
    mesh.gossip()
    mesh.deliver()
    mesh.peers[0].core._lending._batch_bytes = 8
    mesh.run(gossip=True)
    assert mesh.results(0, tasks) == [4, 5, 6, 7]
    assert [len(grant.ids) for grant in mesh.said(Grant) if grant.ids] == [4, 4, 4]


# ---- commits


def far(*values: int, length: int = 1, batch_bytes: int = 16, **sections: Any) -> Mesh:
    """A mesh whose second peer is at work on all of these, and may say so much of it at once."""
    sections = {"cluster": {"replicas": 1}, "executor": {"batch_size": 8}} | sections
    mesh = Mesh(2, executors=(0, 1), **sections)
    mesh.load(chain(length))
    mesh.peers[1].core._borrowing._batch_bytes = batch_bytes
    mesh.submit(0, *values)
    mesh.gossip()
    mesh.deliver()
    assert len(mesh.peers[1].running[FIRST].tasks) == len(values)
    return mesh


def tasks_of(mesh: Mesh) -> tuple[Any, ...]:
    return tuple(task for grant in mesh.said(Grant)[:1] for task in grant.ids)


def told(mesh: Mesh) -> list[tuple[int, bool, tuple[int, ...]]]:
    """(piece, whether more comes, its rows) of each commit."""
    return [
        (commit.piece, commit.more, tuple(row for part in commit.parts for row in part.rows))
        for commit in mesh.said(Commit)
    ]


def test_results_go_in_pieces_each_when_the_one_before_is_known() -> None:
    mesh = far(1, 2, 3, 4, 5)
    mesh.peers[1].step()
    assert told(mesh) == [(0, True, (0, 1))]
    mesh.deliver(1)
    assert mesh.peers[0].status(tasks_of(mesh)[0]) is TaskStatus.READY, "a piece counts as soon as it is there"
    assert mesh.peers[0].status(tasks_of(mesh)[4]) is TaskStatus.BUSY
    mesh.deliver()
    assert told(mesh) == [(0, True, (0, 1)), (1, True, (2, 3)), (2, False, (4,))]
    assert mesh.results(0, tasks_of(mesh)) == [2, 3, 4, 5, 6]
    assert [(it.piece, it.fenced) for it in mesh.said(Committed)] == [(0, False), (1, False), (2, False)]
    assert mesh.peers[0].core._lending.counters["committed"] == 1
    assert mesh.peers[1].core._borrowing.counters["returned"] == 1
    mesh.peers[0].clear(*tasks_of(mesh))
    mesh.deliver()
    mesh.check_idle()


def test_a_row_by_itself_goes_however_large_it_is() -> None:
    mesh = far(1, 2, batch_bytes=0)
    mesh.run()
    assert told(mesh) == [(0, True, (0,)), (1, False, (1,))]
    assert mesh.results(0, tasks_of(mesh)) == [2, 3]


@pytest.mark.parametrize("kind", [Commit, Committed])
def test_pieces_that_get_lost_are_said_again_and_count_once(kind: type[Any]) -> None:
    mesh = far(1, 2, 3)
    mesh.drop(kind)
    mesh.peers[1].step()
    mesh.wait(1500)
    mesh.heal()
    mesh.wait(1500)
    assert [piece for piece, _, _ in told(mesh)][-1] == 1
    assert mesh.results(0, tasks_of(mesh)) == [2, 3, 4]
    assert mesh.peers[0].core._lending.counters["commits_fenced"] == 0
    assert mesh.peers[0].core._lending.counters["commits_wrong"] == 0


def test_pieces_and_answers_may_come_twice() -> None:
    mesh = far(1, 2, 3, 4, 5)
    mesh.duplicate(Commit)
    mesh.duplicate(Committed)
    mesh.run()
    assert mesh.results(0, tasks_of(mesh)) == [2, 3, 4, 5, 6]
    assert mesh.peers[0].core._lending.counters["commits_wrong"] == 0
    mesh.peers[0].clear(*tasks_of(mesh))
    mesh.deliver()
    mesh.check_idle()


def test_an_answer_that_comes_twice_is_about_one_piece() -> None:
    mesh = far(1, 2, 3, 4, 5)
    mesh.duplicate(Committed)
    by_rules = mesh.on_send
    lost: list[Packet] = []

    def losing(packet: Packet) -> Iterable[Packet]:
        if not lost and isinstance(packet.message, Commit) and packet.message.piece == 1:
            lost.append(packet)
            return []
        return by_rules(packet)

    mesh.on_send = losing
    mesh.run()
    assert [piece for piece, _, _ in told(mesh)] == [0, 1]
    mesh.wait(3000)
    assert [piece for piece, _, _ in told(mesh)] == [0, 1, 1, 2]
    assert mesh.results(0, tasks_of(mesh)) == [2, 3, 4, 5, 6]


def test_a_batch_that_is_fenced_midway_is_dropped() -> None:
    mesh = far(1, 2, 3, 4, 5)
    mesh.peers[1].step()
    mesh.hold(Commit)
    mesh.deliver()
    assert told(mesh)[-1][0] == 1
    lease = next(iter(mesh.peers[0].core._state.leases))
    mesh.peers[0].core._lending._settle(lease)
    mesh.peers[0].core._batches.take_back(lease, "", crashed=False, counted=False)
    mesh.heal()
    mesh.deliver()
    assert not mesh.peers[1].core._borrowing._answers
    assert mesh.peers[1].core._borrowing.counters["borrowed_in_vain"] == 1
    mesh.gossip()
    mesh.run(gossip=True)
    assert mesh.results(0, tasks_of(mesh)) == [2, 3, 4, 5, 6]


def test_what_is_evicted_before_it_was_said_goes_back() -> None:
    mesh = far(1, 2, 3, 4, 5)
    mesh.hold(Committed)
    mesh.peers[1].step()
    mesh.deliver()
    peer = mesh.peers[1]
    lost = tuple(sorted(peer.stored.keys() - peer.kept))
    for gone in lost:
        del peer.stored[gone]
    peer.tell(BlocksEvicted(ids=lost))
    mesh.heal()
    mesh.deliver()
    assert [surrender.order for surrender in mesh.said(Surrender)] == [mesh.said(Commit)[0].order]
    mesh.gossip()
    mesh.run(gossip=True)
    assert mesh.results(0, tasks_of(mesh)) == [2, 3, 4, 5, 6]
    assert [report.context for report in mesh.peers[0].reports if report.name == "error.task.retry"] == []


def test_the_next_claim_goes_with_a_piece() -> None:
    mesh = far(1, 2, 3, length=2)
    mesh.run()
    assert len(mesh.said(Claim)) == 1
    assert mesh.said(Commit)[0].claim is not None
    mesh.run(gossip=True)
    assert mesh.results(0, tasks_of(mesh)) == [3, 4, 5]


def test_of_what_is_cut_nothing_stays_with_its_maker() -> None:
    sections: dict[str, Any] = {"store": {"inline_bytes": 0}, "cluster": {"replicas": 1}}
    mesh = far(1, 2, 3, 4, 5, length=2, **sections)
    mesh.peers[1].step()
    (commit,) = mesh.said(Commit)
    assert commit.parts[0].stays, "what is only named needs no room"
    plan = chain(2, payload_copies=2)
    mesh = Mesh(2, executors=(0, 1), executor={"batch_size": 8}, **sections)
    mesh.load(plan)
    mesh.peers[1].core._borrowing._batch_bytes = 16
    tasks = mesh.submit(0, 1, 2, 3, 4, 5)
    mesh.gossip()
    mesh.deliver()
    mesh.run(gossip=True)
    assert [commit.parts[0].stays for commit in mesh.said(Commit)] == [{}] * 6
    assert mesh.results(0, tasks) == [3, 4, 5, 6, 7]


# ---- what is too large for any message


def test_a_row_that_no_message_can_carry_fails_where_it_was_made() -> None:
    mesh = far(1, 2, network={"message_bytes": "4MiB"})
    mesh.peers[1].core._state.row_bytes_max = 7
    mesh.run()
    outcome = mesh.outcome(0, tasks_of(mesh)[0])
    assert outcome is not None
    assert outcome.error is not None
    assert (outcome.status, outcome.retries) == (TaskStatus.ERROR, 0), "once: it would be as large the next time"
    assert outcome.error.message == (
        "what node n0 returned (8 bytes of it in field 'value') has 8 bytes for one task, and a message between peers "
        "may carry 7: return less for each task, or raise network.message_bytes at all peers"
    )
    assert outcome.error.context.node == "n0"
    mesh.peers[0].clear(*tasks_of(mesh))
    mesh.deliver()
    mesh.check_idle()


def test_also_where_its_owner_made_it(make_world: Any, build: Any) -> None:
    world = make_world()
    world.load(build.chain(2))
    (task,) = world.submit(1)
    world.core._state.row_bytes_max = 7
    world.drain()
    outcome = world.outcome(task)
    assert outcome.status is TaskStatus.ERROR
    assert "n0 returned" in outcome.error.message
    assert outcome.retries == 0


def test_a_peer_has_the_limit_of_its_settings_and_embedded_ones_have_none() -> None:
    assert row_bytes(Settings().network.message_bytes) == 254 << 20
    alone = Mesh(1, static=False, network={"message_bytes": "4MiB"})
    assert alone.peers[0].core._state.row_bytes_max == 2 << 20
    assert Mesh(1).peers[0].core._state.row_bytes_max is None


def two_results(**extra: Any) -> dict[str, Any]:
    nodes = [node("a", "add", ":value", "b"), node("b", "add", "a:value", None)]
    made = graph("main", "b:value", nodes, **extra)
    formats = {"value": ["long", []], "other": ["long", []]}
    return made | {"output_format": formats, "vmap": {"value": "b:value", "other": "a:value"}}


@pytest.mark.parametrize(("limit", "status"), [(15, TaskStatus.ERROR), (16, TaskStatus.READY)])
def test_a_result_of_several_fields_has_to_fit_in_one_message(make_world: Any, limit: int, status: TaskStatus) -> None:
    world = make_world()
    world.core._state.row_bytes_max = limit
    world.load(two_results())
    (task,) = world.submit(1)
    world.drain()
    assert world.status(task) is status
    if status is TaskStatus.ERROR:
        assert "the result of the graph has 16 bytes" in world.report(task).error.message
    world.clear(task)
    assert not world.stored


def test_a_value_that_no_message_can_carry_is_not_cached(make_world: Any) -> None:
    world = make_world()
    world.core._state.row_bytes_max = 15
    inner = two_results(cache=True) | {"name": "inner"}
    outer = graph("main", "c:value", [node("c", "call", ":value", None, graph="inner")])
    world.load(outer, inner)
    tasks = [*world.submit(1), *world.submit(1)]
    world.drain()
    assert [world.outcome(task, ALICE).value for task in tasks] == [1, 1]
    assert [name for name, _ in world.ran].count("a") == 2, "each has computed it"


# ---- by themselves


def event_of(rows: int, *shapes: tuple[int, ...], failed: tuple[RowsFailed, ...] = ()) -> BatchFinished:
    """What a batch came to: a part with one field of each shape."""
    columns = [replace(block(rows, shape), id=BlockId(HOLDER, 1 + at)) for at, shape in enumerate(shapes)]
    fields = {name: tuple((column, row) for row in range(rows)) for name, column in zip("xyz", columns, strict=False)}
    part = Emitted(output="out", rows=tuple(range(rows)), fields=fields)
    return BatchFinished(executor=EXECUTOR, order=1, emitted=(part,), failed=failed, missing=(), loaded=None)


def blocks_in(event: BatchFinished) -> list[Block]:
    return list(
        dict.fromkeys([value[0] for part in event.emitted for values in part.fields.values() for value in values])
    )


def test_only_the_rows_that_are_too_large_fail() -> None:
    ragged = Block(BlockId(HOLDER, 9), block(3, None, shapes=((1,), (9,), (2,))).layout, 96)
    small = block(3)
    fields = {"big": tuple((ragged, row) for row in range(3)), "small": tuple((small, row) for row in range(3))}
    before = RowsFailed(rows=(7,), code=ErrorCode.UNKNOWN, message="")
    parts = (Emitted(output="out", rows=(4, 5, 6), fields=fields), Emitted(output="none", rows=(8,), fields={}))
    event = BatchFinished(executor=EXECUTOR, order=1, emitted=parts, failed=(before,), missing=(1,), loaded=None)
    assert row_sizes(fields, 3) == [16, 80, 24]
    cut = fitting(event, [ragged, small], "n", 40)
    assert [(part.output, part.rows) for part in cut.emitted] == [("out", (4, 6)), ("none", (8,))]
    assert cut.emitted[0].fields == {"big": ((ragged, 0), (ragged, 2)), "small": ((small, 0), (small, 2))}
    assert cut.failed[0] == before
    assert (cut.failed[1].rows, cut.failed[1].final) == ((5,), True)
    assert "(72 bytes of it in field 'big') has 80 bytes" in cut.failed[1].message
    assert fitting(event, [ragged, small], "n", 80) == event
    assert fitting(event, [ragged, small], "n", None) is event
    assert fitting(event, [ragged, small], "n", 15).emitted == (parts[1],)


def told_of(event: BatchFinished) -> Told:
    plan = plan_of(chain(2))
    return commit_of(event, 1, plan, next(node for node in plan.queues.values() if node.name == "n0"), ())


def test_pieces_are_cut_between_rows_of_any_part() -> None:
    first, second, third = (replace(block(rows), id=BlockId(HOLDER, rows)) for rows in (3, 1, 4))
    parts = tuple(
        Emitted(output=str(at), rows=rows, fields={"value": tuple((column, row) for row in range(column.layout.rows))})
        for at, (column, rows) in enumerate([(first, (0, 1, 2)), (second, (3,)), (third, (4, 5, 6, 7))])
    )
    event = BatchFinished(executor=EXECUTOR, order=1, emitted=parts, failed=(), missing=(8,), loaded=None)
    whole = told_of(event)
    assert is_short(whole, 64)
    assert pieces(whole, 64) == [whole]
    cut = pieces(whole, 24)
    assert [[(part.output, part.rows) for part in one.message.parts] for one in cut] == [
        [("0", (0, 1, 2))],
        [("1", (3,)), ("2", (4, 5))],
        [("2", (6, 7))],
    ]
    assert cut[1].values == {"0:value": ((second, 0),), "1:value": ((third, 0), (third, 1))}
    assert [(one.message.piece, one.message.more, one.message.missing) for one in cut] == [
        (0, True, ()),
        (1, True, ()),
        (2, False, (8,)),
    ]


def test_content_digests_are_cut_with_their_rows() -> None:
    column = replace(block(3), digests=(b"a", b"b", b"c"))
    part = Emitted(output="out", rows=(0, 1, 2), fields={"value": tuple((column, row) for row in range(3))})
    event = BatchFinished(executor=EXECUTOR, order=1, emitted=(part,), failed=(), missing=(), loaded=None)
    cut = pieces(told_of(event), 16)
    assert [one.message.parts[0].digests for one in cut] == [{"value": (b"a", b"b")}, {"value": (b"c",)}]


def test_long_tracebacks_go_in_pieces_too() -> None:
    """32 rows that fail differently, in a language of long characters, were once more than a body may have."""
    text = "\N{SNOWMAN}" * (TEXT_CHARS_MAX // 2 - 10)
    failed = tuple(
        RowsFailed(rows=(row,), code=ErrorCode.GENERAL_EXCEPTION, message="0123456789", traceback=text)
        for row in range(2, 7)
    )
    cut = pieces(told_of(event_of(2, (), failed=failed)), 64)
    assert [[part.rows for part in one.message.parts] for one in cut] == [[(0, 1)], [], [], []]
    assert [[one.rows for one in told.message.failed] for told in cut] == [[], [(2,), (3,)], [(4,), (5,)], [(6,)]]
    only = told_of(replace(event_of(2, (), failed=failed), emitted=()))
    assert [len(told.message.failed) for told in pieces(only, 64)] == [2, 2, 1]
    assert [one.message.more for one in pieces(only, 64)] == [True, True, False]


def test_several_fields_count_together() -> None:
    event = event_of(4, (), (2,))
    assert len(pieces(told_of(event), 95)) == 2
    assert len(pieces(told_of(event), 96)) == 1
    assert blocks_in(fitting(event, blocks_in(event), "n", 24)) == blocks_in(event)


# ---- other words that were too long


def report_of(error: ErrorInfo | None = None, story: tuple[str, ...] = ()) -> TaskReport:
    return TaskReport(id=TaskId(f"T{7:032x}"), status=TaskStatus.WAIT, ns="n", error=error, story=story)


def test_reports_of_many_failed_tasks_fit_into_one_message() -> None:
    """A thousand tracebacks in one answer were once more than a body may have, and the answer never came."""
    error = ErrorInfo(code=ErrorCode.GENERAL_EXCEPTION, message="m" * 2000, traceback="\N{SNOWMAN}" * 16_000)
    reports = [report_of(error, ("+1 ms queue",) * 20)] * 1024
    short = shortened(reports)
    assert len(short) == 1024
    assert short[:3] == tuple(reports[:3]), "the first ones are whole"
    assert short[-1] == report_of(replace(error, message="m" * 64, traceback=""))
    frames = encode(TaskReports(mid=1, reports=short))
    assert len(frames[1]) < Limits().body_bytes
    assert decode(frames, Limits())[0] == TaskReports(mid=1, reports=short)
    stories = shortened([report_of(story=("x" * 1000,))] * 100)
    assert [bool(report.story) for report in stories] == [True] * 65 + [False] * 35


def test_a_task_report_of_the_core_is_short(make_world: Any, build: Any) -> None:
    world = make_world()
    world.load(build.chain(1))
    tasks = world.submit(1, 2)
    world.say(AskTasks(mid=1, ids=tasks * 5000))
    stories = [bool(report.story) for report in world.last(TaskReports).reports]
    assert stories[0]
    assert not stories[-1]


def test_lines_are_listed_as_far_as_they_go() -> None:
    lines = tuple(f"problem {number:092d}" for number in range(1000))
    told = listed(lines)
    assert told[:-1] == lines[: len(told) - 1]
    assert told[-1].endswith(f"... and {1000 - len(told)} more")
    assert sum(map(len, told)) < 70_000
    assert listed(lines[:600]) == lines[:600]
    assert listed(("x" * 100_000,)) == ("x" * 64 + "... and 0 more",)


def test_problems_of_a_definition_are_told_as_far_as_they_go(make_world: Any) -> None:
    world = make_world()
    world.say(LoadGraph(mid=1, definition=json.dumps({"graphs": [{"name": "g" * 100}] * 2000, "entry": "x"})))
    assert sum(map(len, world.last(GraphRefused).problems)) < 70_000


def test_a_definition_that_no_message_can_carry_is_refused() -> None:
    assert Limits().body_bytes > DEFINITION_BYTES_MAX
    assert too_long("x" * DEFINITION_BYTES_MAX) == ""
    mesh = Mesh(2)
    definition = json.dumps({"text": "\N{SNOWMAN}" * 400_000}, ensure_ascii=False)
    peer = mesh.peers[0]
    peer.core._state.row_bytes_max = 1 << 30
    peer.say(LoadGraph(mid=3, definition=definition))
    (problem,) = peer.last(GraphRefused).problems
    assert problem == (
        "the definition has 1200012 bytes, and may have 1000000 to be sent over a network: put data into blobs, or "
        "graphs into several namespaces"
    )


@pytest.mark.parametrize(("limit", "refused"), [(7, True), (8, False), (None, False)])
def test_an_input_that_could_not_be_copied_is_refused(make_world: Any, limit: int | None, refused: bool) -> None:
    """Our clients know better; whatever software others have, nothing may hang."""
    world = make_world()
    world.load(chain(1))
    world.core._state.row_bytes_max = limit
    tasks = world.submit(1, 2, 3)
    told = [send.message for send in world.sent if isinstance(send.message, Refused)]
    assert bool(told) is refused
    for message in told:
        assert message.ids == tasks
        assert message.message == (
            "the input has 8 bytes for one task, and a message between peers may carry 7: send it in parts, or raise "
            "network.message_bytes at all peers"
        )
        assert not world.stored
