"""A client's core as scripts: what is said and heard, and what is done about it."""

from typing import Any

import pytest

from scatterzmq.core import clientpeers, clienttasks
from scatterzmq.core.clientevents import Connect, Deliver, Disconnect, GiveUp, LetGo, SayTo
from scatterzmq.core.messages import (
    Accepted,
    AskDefinition,
    AskMembers,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    CacheCleared,
    Cancel,
    Cancelled,
    Clear,
    ClearCache,
    Cleared,
    Definition,
    ExecutorStats,
    Final,
    Goodbye,
    GraphRefused,
    LoadGraph,
    MemberList,
    Moved,
    Namespaces,
    QueueStats,
    Refused,
    Released,
    ResultRead,
    Stats,
    Submit,
    TaskReport,
    TaskReports,
    TaskStatus,
)
from scatterzmq.ids import ExecutorId, PeerId, TaskId
from tests.core.clientworld import (
    ERROR,
    PARCEL,
    READY,
    UNKNOWN,
    A,
    B,
    C,
    ClientWorld,
    contact,
    final,
    of,
    submit,
    tasks,
)

D = PeerId("P" + "d" * 32)


def report(world: ClientWorld, peer: PeerId, ask: Any, doubtful: bool = False, /, **statuses: TaskStatus) -> None:
    """Answer a question for tasks: t7=READY says that task 7 is ready; the others are unknown."""
    known = {tasks(int(name[1:]))[0]: status for name, status in statuses.items()}
    reports = tuple([TaskReport(id=task, status=known.get(task, UNKNOWN)) for task in ask.message.ids])
    world.hear(peer, TaskReports(mid=ask.message.mid, reports=reports, doubtful=doubtful))


def answer_all(world: ClientWorld, asks: list[Any], **statuses: TaskStatus) -> None:
    for ask in asks:
        report(world, ask.peer, ask, **statuses)


# ---- submissions


def test_a_submission_goes_home_and_is_answered_once() -> None:
    world = ClientWorld(A, B)
    world.say(submit(5, 1, 2), PARCEL)
    (said,) = world.said(Submit)
    assert (said.peer, said.parcel, said.message.ids, said.message.nonce) == (A, PARCEL, tasks(1, 2), b"nonce..5")
    world.accept(A, said.message.mid, *tasks(1, 2), rset=(A, B))
    told, gone = world.take()
    assert told == Deliver(message=Accepted(mid=5, ids=tasks(1, 2), copies=2, durable=False, rset=(A, B)))
    assert gone == LetGo(parcel=PARCEL)
    world.accept(A, said.message.mid, *tasks(1, 2), rset=(A, B))
    assert not world.take()


def test_a_submission_is_repeated_until_every_task_has_its_answer() -> None:
    world = ClientWorld(A)
    world.say(submit(5, 1, 2, 3), PARCEL)
    (said,) = world.take()
    world.wait(1000)
    assert world.take() == [said], "the same number, nonce and columns"
    world.accept(A, said.message.mid, *tasks(2))
    assert [message.ids for message in of(Accepted, world.told())] == [tasks(2)]
    world.wait(2000)
    assert of(Submit, [action.message for action in world.take() if isinstance(action, SayTo)]) == [said.message]
    world.refuse(A, said.message.mid, *tasks(1, 2))
    assert [(message.ids, message.mid) for message in of(Refused, world.told())] == [(tasks(1), 5)]
    world.accept(A, said.message.mid, *tasks(2, 3))
    assert [message.ids for message in of(Accepted, world.told())] == [tasks(3)]
    world.wait(4000)
    assert not world.said(Submit)


def test_answers_may_come_twice() -> None:
    world = ClientWorld(A)
    world.say(submit(5, 1, 2, 3), PARCEL)
    (said,) = world.take()
    world.refuse(A, said.message.mid, *tasks(1))
    world.accept(A, said.message.mid, *tasks(2))
    world.take()
    world.refuse(A, said.message.mid, *tasks(1))
    world.accept(A, said.message.mid, *tasks(2))
    assert not world.take()


def test_repeats_become_rarer() -> None:
    world = ClientWorld(A, ask_s=1.0)
    world.say(submit(5, 1))
    world.take()
    times = []
    for _ in range(20_000):
        world.wait(1)
        times += [world.now_ms - 1000] * len(world.said(Submit))
    assert times == [1000, 3000, 7000, 12_000, 17_000]


def test_another_peer_gets_what_the_first_may_not_have_got() -> None:
    """Row 1: the owner dies before ACCEPTED."""
    world = ClientWorld(A, B)
    world.say(submit(5, 1, 2), PARCEL)
    (first,) = world.take()
    world.accept(A, first.message.mid, *tasks(1))
    world.take()
    world.down(A)
    said = world.said(Submit)
    assert said == [SayTo(peer=B, message=first.message, parcel=PARCEL)]
    world.accept(B, first.message.mid, *tasks(1))
    assert not world.told()
    world.accept(B, first.message.mid, *tasks(2))
    assert [message.ids for message in of(Accepted, world.told())] == [tasks(2)]
    # Task 1 was accepted by a peer that is gone: what the new one says of it counts, and both hear of its end.
    world.up(A)
    world.take()
    world.hear(B, final((tasks(1)[0], READY), (tasks(2)[0], READY)), PARCEL)
    assert world.ends() == {tasks(1)[0]: READY, tasks(2)[0]: READY}
    world.say(Clear(mid=6, ids=tasks(1, 2)))
    assert sorted(world.targets(Clear)) == [(A, tasks(1, 2)), (B, tasks(1, 2))]


def test_submissions_wait_for_a_peer() -> None:
    world = ClientWorld()
    world.say(submit(1, 1), 71)
    world.say(submit(2, 2), 72)
    assert not world.take()
    world.up(B)
    assert [(said.peer, said.parcel) for said in world.said(Submit)] == [(B, 71), (B, 72)], "in order"


def test_an_end_says_that_a_task_was_accepted() -> None:
    world = ClientWorld(A)
    world.say(submit(5, 1, 2), PARCEL)
    (said,) = world.take()
    world.hear(A, final((tasks(1)[0], READY)))
    world.accept(A, said.message.mid, *tasks(1, 2))
    assert [type(message) for message in world.told()] == [Final, Accepted]
    world.wait(10_000)
    assert not world.said(Submit)


def test_who_was_refused_is_not_kept_by_a_repetition() -> None:
    """The refusal has come through, and the whole is repeated for another task."""
    world = ClientWorld(A)
    world.say(submit(5, 1, 2), PARCEL)
    (said,) = world.take()
    world.refuse(A, said.message.mid, *tasks(1))
    world.wait(1000)
    world.take()
    world.accept(A, said.message.mid, *tasks(1, 2))
    clear = world.said(Clear)
    assert [(ask.peer, ask.message.ids) for ask in clear] == [(A, tasks(1))]
    world.hear(A, Cleared(mid=clear[0].message.mid))
    assert not world.take(), "the user's side knows nothing of it"


def test_a_peer_that_goes_takes_what_nobody_wants_along() -> None:
    world = ClientWorld(A, B)
    world.say(submit(5, 1, 2), PARCEL)
    (said,) = world.take()
    world.refuse(A, said.message.mid, *tasks(1))
    world.accept(A, said.message.mid, *tasks(1, 2))
    world.down(A)
    assert not world.said(Clear, B)


def test_what_was_refused_may_be_submitted_again() -> None:
    """Also while the first submission still goes on: then the second one decides."""
    world = ClientWorld(A)
    world.say(submit(5, 1, 2), 71)
    (first,) = world.take()
    world.refuse(A, first.message.mid, *tasks(1), message="stale: look again")
    assert [message.message for message in of(Refused, world.told())] == ["stale: look again"]
    world.say(submit(6, 1), 72)
    (second,) = world.take()
    world.accept(A, second.message.mid, *tasks(1))
    world.accept(A, first.message.mid, *tasks(1, 2))
    assert not world.said(Clear), "it is the second submission's task"


def test_a_task_belongs_to_its_latest_submission() -> None:
    world = ClientWorld(A)
    world.say(submit(5, 1), 71)
    world.say(submit(6, 1), 72)
    assert world.let_go() == [71]


# ---- ends


def test_the_first_end_stays() -> None:
    """I2: what is said later is counted and dropped, whoever says it."""
    world = ClientWorld(A, B)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.hear(B, final((task, READY)), 88)
    assert world.take() == [Deliver(message=final((task, READY)), parcel=88)]
    world.hear(A, final((task, ERROR)))
    world.hear(A, final((task, READY)))
    world.hear(A, final((task, TaskStatus.DONE)))
    world.hear(A, final((tasks(99)[0], READY)))
    assert not world.take()
    assert world.core.counters == {"contradicted": 1, "repeated": 2, "unwanted": 1}


def test_of_a_message_only_the_news_are_handed_on() -> None:
    world = ClientWorld(A)
    one, two, three, four = world.accepted(A, 1, 2, 3, 4)
    world.hear(A, final((one, READY)))
    world.hear(A, final((three, ERROR)))
    world.take()
    world.hear(A, final((one, READY), (two, READY), (three, ERROR), (four, TaskStatus.DONE)), 88)
    (told,) = world.take()
    assert isinstance(told, Deliver)
    assert isinstance(told.message, Final)
    assert (told.message.ids, told.message.retries, told.message.durations_ms) == ((two, four), (1, 3), (11, 13))
    assert (told.parcel, told.rows) == (88, (1, 2))


def test_ends_that_got_lost_are_asked_for() -> None:
    world = ClientWorld(A, B)
    ids = world.accepted(A, 1, 2, rset=(A, B))
    world.wait(4999)
    assert not world.take()
    world.wait(1)
    assert world.targets(Attach) == [(A, ids)]
    world.hear(A, final((ids[0], READY)))
    world.wait(5000)
    assert world.targets(Attach) == [(A, ids[1:])]
    world.hear(A, final((ids[1], READY)))
    world.take()
    world.wait(300_000)
    assert not world.take()


def test_they_are_asked_for_ever_more_rarely_but_not_too_rarely() -> None:
    world = ClientWorld(A)
    world.accepted(A, 1)
    times = []
    for _ in range(2000):
        world.wait(100)
        times += [world.now_ms - 1000] * len(world.said(Attach))
    assert times == [5000, 10_000, 20_000, 40_000, 80_000, 120_000, 160_000, 200_000]


def test_when_the_owner_goes_those_with_copies_are_asked_and_then_everybody() -> None:
    """Row 5, and amendment 6."""
    world = ClientWorld(A, B, C, D)
    ids = world.accepted(B, 1, 2, rset=(B, D, C))
    world.down(B)
    assert world.targets(Attach) == [(D, ids)]
    world.wait(5000)
    assert world.targets(Attach) == [(C, ids)]
    for _ in range(2):
        world.wait(5000)
        assert world.targets(Attach) == [(A, ids), (C, ids), (D, ids)]
    world.hear(D, final((ids[0], READY)))
    assert world.ends() == {ids[0]: READY}
    world.up(B)
    assert world.targets(Attach) == [(B, ids[1:])], "what it sent over the old link may be lost"


def test_nothing_new_goes_to_a_peer_that_leaves() -> None:
    """What it still says counts."""
    world = ClientWorld(A, B)
    one, two = world.accepted(A, 1, 2, rset=(A, B))
    world.hear(A, Goodbye())
    assert world.targets(Attach) == [(B, (one, two))]
    world.say(submit(2, 3))
    assert [said.peer for said in world.said(Submit)] == [B]
    world.hear(A, final((one, READY)))
    assert world.ends() == {one: READY}


def test_a_new_link_means_that_something_may_be_lost() -> None:
    world = ClientWorld(A)
    ids = world.accepted(A, 1)
    world.say(LoadGraph(mid=7, definition="{}"))
    (said,) = world.said(LoadGraph)
    world.up(A)
    again = world.take()
    assert said in again
    assert [action.message for action in again[1:]] == [Attach(ids=ids)]


def test_a_peer_sends_on_to_the_owner() -> None:
    world = ClientWorld(A, B, C)
    one, two = world.accepted(A, 1, 2, rset=(A, B))
    world.hear(B, Moved(ids=(one, two, tasks(9)[0]), owners=(C, A, C)))
    assert world.targets(Attach) == [(C, (one,))]
    world.say(Clear(mid=3, ids=(one,)))
    assert sorted(world.targets(Clear)) == [(A, (one,)), (B, (one,)), (C, (one,))]


def test_an_owner_that_is_not_there_is_no_news() -> None:
    world = ClientWorld(A, B)
    ids = world.accepted(A, 1, rset=(A, B))
    world.down(A)
    world.take()
    world.hear(B, Moved(ids=ids, owners=(A,)))
    world.hear(B, Moved(ids=ids, owners=(C,)))
    assert not world.take()


def test_two_peers_that_send_on_to_each_other_do_not_keep_everybody_busy() -> None:
    world = ClientWorld(A, B)
    ids = world.accepted(A, 1)
    asked = []
    for _ in range(10):
        world.hear(A, Moved(ids=ids, owners=(B,)))
        world.hear(B, Moved(ids=ids, owners=(A,)))
        asked += world.targets(Attach)
    assert len(asked) == clienttasks.HOPS_MAX
    world.wait(5000)
    assert world.targets(Attach) == [(A, ids)], "the clock goes on asking"
    world.hear(A, Moved(ids=ids, owners=(B,)))
    assert world.targets(Attach) == [(B, ids)]


# ---- unknown tasks


def test_unknown_is_what_everybody_says() -> None:
    world = ClientWorld(A, B, C)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.hear(A, final((task, UNKNOWN)))
    asks = world.said(AskTasks)
    assert [(ask.peer, ask.message.ids) for ask in asks] == [(A, (task,)), (B, (task,)), (C, (task,))]
    world.hear(B, final((task, UNKNOWN)))
    assert not world.take(), "it is being asked already"
    answer_all(world, asks[:2])
    assert not world.take()
    answer_all(world, asks[2:])
    assert world.ends() == {task: UNKNOWN}
    world.hear(A, final((task, UNKNOWN)))
    assert not world.take()


def everybody_says_unknown(world: ClientWorld) -> dict[TaskId, TaskStatus]:
    """Whoever is asked for a task, or what is known of it, knows nothing. Returns the ends that the user is told."""
    for ask in world.said(Attach):
        world.hear(ask.peer, final(*[(task, UNKNOWN) for task in ask.message.ids]))
    answer_all(world, world.said(AskTasks))
    return world.ends()


def test_a_task_that_is_on_a_disk_is_waited_for_while_its_peer_is_down() -> None:
    world = ClientWorld(A, B, C, grace_s=60.0)
    (task,) = world.accepted(A, 1, rset=(A, B), durable=True)
    world.down(A)
    world.down(B)
    for _ in range(10):
        assert not everybody_says_unknown(world)
        world.wait(5_000)
    world.take()
    world.up(B)
    assert world.targets(Attach) == [(B, (task,))]
    world.hear(B, final((task, READY)))
    assert world.ends() == {task: READY}


@pytest.mark.parametrize(("durable", "waits"), [(False, False), (True, True)])
def test_it_is_not_waited_for_for_ever(durable: bool, waits: bool) -> None:
    world = ClientWorld(A, B, C, grace_s=60.0)
    (task,) = world.accepted(A, 1, rset=(A, B), durable=durable)
    world.down(A)
    world.down(B)
    began_ms = world.now_ms
    while not (ends := everybody_says_unknown(world)):
        world.wait(1_000)
        assert world.now_ms < began_ms + 80_000
    assert ends == {task: UNKNOWN}
    assert (world.now_ms >= began_ms + 60_000) == waits


def others_know_nothing(
    world: ClientWorld, but: PeerId | None, members: tuple[PeerId, ...] = (A, B), doubter: PeerId | None = None
) -> dict[TaskId, TaskStatus]:
    """Everybody else answers, and knows no task; doubter: and says that others may be there. Returns the ends that the
    user is told.
    """
    ends: dict[TaskId, TaskStatus] = {}
    while actions := world.take():
        for action in actions:
            match action:
                case SayTo(peer=peer) if peer == but:
                    pass
                case SayTo(peer=peer, message=AskMembers()):
                    world.members(peer, *members)
                case SayTo(peer=peer, message=Attach(ids=ids)):
                    world.hear(peer, final(*[(task, UNKNOWN) for task in ids]))
                case SayTo(peer=peer, message=AskTasks()):
                    report(world, peer, action, peer == doubter)
                case Deliver(message=Final(ids=ids, statuses=statuses)):
                    ends |= dict(zip(ids, statuses, strict=True))
    return ends


def unknown_after_ms(
    world: ClientWorld,
    task: TaskId,
    members: tuple[PeerId, ...] = (A, B),
    but: PeerId | None = B,
    doubter: PeerId | None = None,
) -> int:
    """How long the user waits for that end while B says nothing."""
    began_ms = world.now_ms
    while not (ends := others_know_nothing(world, but, members, doubter)):
        world.wait(1_000)
        assert world.now_ms < began_ms + 80_000
    assert ends == {task: UNKNOWN}
    return world.now_ms - began_ms


def test_an_owner_that_only_does_not_answer_may_still_have_it() -> None:
    """Found by simulation: of one copy, at a peer that was halted, everybody else said that there was no such task."""
    world = ClientWorld(A, B, static=False, grace_s=60.0)
    (task,) = world.accepted(B, 1, rset=(B,))
    while not world.core._state.peers.may_know((B,)):
        assert not others_know_nothing(world, but=B)
        world.wait(1_000)
    assert unknown_after_ms(world, task) >= 60_000


def test_who_has_said_goodbye_may_still_hand_it_over() -> None:
    """Found by simulation: while a peer drained, all others said that there was no such task."""
    world = ClientWorld(A, B, static=False, grace_s=60.0)
    one, two = world.accepted(B, 1, 2, rset=(B,))
    for _ in range(2):
        world.hear(B, Goodbye())
    for _ in range(20):
        assert not others_know_nothing(world, but=B)
        world.wait(1_000)
    world.hear(B, Moved(ids=(one,), owners=(A,)))
    world.hear(A, final((one, READY)))
    assert world.ends() == {one: READY}
    world.down(B)
    assert unknown_after_ms(world, two, members=(A,)) < 20_000


def test_a_holder_that_nobody_has_told_of_may_still_have_it() -> None:
    """Found by simulation: home started again at once, and had not met anybody yet when it was asked."""
    world = ClientWorld(A, static=False, grace_s=60.0)
    world.members(A, A)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.down(A)
    world.up(C)
    assert unknown_after_ms(world, task, members=(C,)) >= 60_000


@pytest.mark.parametrize("remembered", [1000, 0])
def test_a_holder_that_is_known_to_be_gone_is_not_waited_for(remembered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clientpeers, "GONE_MAX", remembered)
    world = ClientWorld(A, B, static=False, grace_s=60.0)
    world.members(A, A, B)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.down(A)
    world.down(B)
    world.up(C)
    assert (unknown_after_ms(world, task, members=(C,)) < 20_000) == bool(remembered)


def test_an_owner_whose_link_broke_is_asked_when_there_is_another_one() -> None:
    """Found by simulation: all links broke, and the owner's was the last to come again."""
    world = ClientWorld(A, B, static=False)
    (task,) = world.accepted(B, 1, rset=(B,))
    world.down(B)
    assert not others_know_nothing(world, but=B)
    world.wait(1_000)
    assert not others_know_nothing(world, but=B)
    world.up(B)
    asks = world.said(AskTasks, to=B)
    assert asks
    answer_all(world, asks, t1=TaskStatus.BUSY)
    assert not others_know_nothing(world, but=B)
    world.down(B)
    assert not others_know_nothing(world, but=B)
    world.wait(6_000)
    assert not others_know_nothing(world, but=B), "A still says that it is there"
    assert unknown_after_ms(world, task, members=(A,)) < 20_000


@pytest.mark.parametrize("doubter", [None, A, B])
def test_a_task_of_somebody_else_may_be_at_a_member_that_one_of_those_asked_misses(doubter: PeerId | None) -> None:
    """Found by simulation: who attached knew only the id, and home held both who had the task to be dead, which were
    only cut off (seed 45248); or home had just started, and only another one missed the owner (3007927).
    """
    world = ClientWorld(A, B, static=False, grace_s=60.0)
    (task,) = tasks(1)
    world.say(Attach(ids=(task,)))
    waited_ms = unknown_after_ms(world, task, but=None, doubter=doubter)
    assert (waited_ms >= 60_000) == (doubter is not None)


def test_a_task_of_somebody_else_may_be_at_a_member_that_cannot_be_reached() -> None:
    world = ClientWorld(A, B, static=False, grace_s=60.0)
    world.down(B)
    (task,) = tasks(1)
    world.say(Attach(ids=(task,)))
    assert unknown_after_ms(world, task) >= 60_000


def test_who_is_back_without_it_is_believed() -> None:
    world = ClientWorld(A, B, C)
    (task,) = world.accepted(A, 1, rset=(A, B), durable=True)
    world.down(A)
    assert not everybody_says_unknown(world)
    world.up(A)
    assert everybody_says_unknown(world) == {task: UNKNOWN}


def test_unknown_to_one_means_to_ask_where_it_is() -> None:
    world = ClientWorld(A, B, C)
    one, two = world.accepted(A, 1, 2, rset=(A, B))
    world.hear(A, final((one, UNKNOWN), (two, UNKNOWN)))
    asks = world.said(AskTasks)
    answer_all(world, asks[:1])
    report(world, B, asks[1], t1=TaskStatus.BUSY, t2=TaskStatus.WAIT)
    report(world, C, asks[2], t2=READY)
    assert sorted(world.targets(Attach)) == [(B, (one,)), (C, (two,))]
    assert not world.ends()


def test_a_peer_that_goes_meanwhile_is_not_waited_for() -> None:
    world = ClientWorld(A, B)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.hear(A, final((task, UNKNOWN)))
    (first, _) = world.said(AskTasks)
    report(world, A, first)
    world.down(B)
    assert world.ends() == {task: UNKNOWN}


def test_a_peer_that_comes_meanwhile_is_asked_too() -> None:
    world = ClientWorld(A)
    (task,) = world.accepted(A, 1)
    world.hear(A, final((task, UNKNOWN)))
    asks = world.said(AskTasks)
    world.up(B)
    answer_all(world, asks)
    (late,) = world.said(AskTasks)
    assert late.peer == B
    report(world, B, late, t1=READY)
    assert world.targets(Attach) == [(B, (task,))]


def test_who_came_back_is_asked_again() -> None:
    """All who were asked went before they answered."""
    world = ClientWorld(A)
    (task,) = world.accepted(A, 1)
    world.hear(A, final((task, UNKNOWN)))
    world.down(A)
    world.take()
    world.up(A)
    (again,) = world.said(AskTasks)
    report(world, A, again)
    assert world.ends() == {task: UNKNOWN}


def test_a_task_that_was_accepted_meanwhile_is_not_unknown() -> None:
    """The question was older than the answer to the submission."""
    world = ClientWorld(A, B)
    world.say(submit(1, 1))
    (said,) = world.said(Submit)
    world.say(AskTasks(mid=2, ids=tasks(1)))
    (near,) = world.said(AskTasks)
    report(world, A, near)
    (far,) = world.said(AskTasks)
    assert far.peer == B
    world.accept(A, said.message.mid, *tasks(1))
    world.take()
    report(world, B, far)
    assert [type(message) for message in world.told()] == [TaskReports]


def test_while_a_task_is_submitted_nobody_may_call_it_unknown() -> None:
    world = ClientWorld(A)
    world.say(submit(1, 1))
    world.say(Attach(ids=tasks(1)))
    world.take()
    world.hear(A, final((tasks(1)[0], UNKNOWN)))
    world.say(AskTasks(mid=2, ids=tasks(1)))
    (ask,) = world.said(AskTasks)
    report(world, A, ask)
    assert [type(message) for message in world.told()] == [TaskReports]


def test_a_result_that_somebody_cleared_is_unknown_from_then_on() -> None:
    world = ClientWorld(A, B)
    one, two = world.accepted(A, 1, 2, rset=(A, B))
    world.hear(A, final((one, READY), (two, READY)))
    world.take()
    world.hear(A, final((one, UNKNOWN), (two, UNKNOWN)))
    asks = world.said(AskTasks)
    report(world, A, asks[0])
    report(world, B, asks[1], t2=READY)
    assert world.ends() == {one: UNKNOWN}


def test_a_result_that_came_while_the_poll_went_on_is_not_unknown() -> None:
    world = ClientWorld(A, B)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.hear(A, final((task, UNKNOWN)))
    asks = world.said(AskTasks)
    answer_all(world, asks[:1])
    world.hear(B, final((task, READY)))
    answer_all(world, asks[1:])
    assert world.ends() == {task: READY}


def statuses(world: ClientWorld, *ids: TaskId) -> tuple[list[TaskStatus], dict[TaskId, TaskStatus]]:
    """What the user is told of tasks of which nobody who can be asked knows: where they are, and how they ended."""
    world.say(AskTasks(mid=9, ids=ids))
    reports: list[TaskStatus] = []
    ends: dict[TaskId, TaskStatus] = {}
    while actions := world.take():
        answer_all(world, [action for action in of(SayTo, actions) if isinstance(action.message, AskTasks)])
        for message in [action.message for action in of(Deliver, actions)]:
            if isinstance(message, TaskReports):
                reports = [entry.status for entry in message.reports]
            if isinstance(message, Final):
                ends |= dict(zip(message.ids, message.statuses, strict=True))
    return reports, ends


def test_who_asks_where_a_task_is_waits_for_who_may_know_it_as_well() -> None:
    """Found by simulation: it was said to be unknown while its owner was halted, though it was waited for, or though
    its end had been shown; and that end was taken back.
    """
    world = ClientWorld(A, B, C, grace_s=60.0)
    one, two = world.accepted(A, 1, 2, rset=(A, B), durable=True)
    world.hear(A, final((two, READY)))
    world.down(A)
    world.down(B)
    world.take()
    assert statuses(world, one, two) == ([TaskStatus.WAIT, READY], {})
    world.wait(70_000)
    world.take()
    assert statuses(world, one, two) == ([UNKNOWN, READY], {one: UNKNOWN})
    world.up(A)
    world.up(B)
    world.take()
    assert statuses(world, one, two) == ([UNKNOWN, UNKNOWN], {two: UNKNOWN})


def asks_until_listed(world: ClientWorld, task: TaskId, *members: PeerId) -> list[Any]:
    """The user asks for a task that A does not know. What is asked when A has then said who there is."""
    world.say(AskTasks(mid=9, ids=(task,)))
    for ask in world.said(AskTasks):
        report(world, ask.peer, ask)
    world.wait(0)
    assert [said.peer for said in world.said(AskMembers)] == [A]
    world.members(A, *members)
    if B in members:
        world.up(B)
    return world.said(AskTasks)


@pytest.mark.parametrize("is_new", [False, True])
def test_unknown_is_believed_only_when_home_has_said_once_more_who_there_is(is_new: bool) -> None:
    """Found by simulation (seed 1005969): home had just started when it said so, and had met the others since."""
    world = ClientWorld(A, static=False)
    (task,) = world.accepted(A, 1)
    world.hear(A, final((task, READY)))
    world.members(A, A)
    world.take()
    asks = asks_until_listed(world, task, *((A, B) if is_new else (A,)))
    assert [ask.peer for ask in asks] == ([A, B] if is_new else [A])
    for ask in asks:
        report(world, ask.peer, ask, **({"t1": READY} if ask.peer == B else {}))
    told = world.told()
    assert [message.reports[0].status for message in of(TaskReports, told)] == [READY if is_new else UNKNOWN]
    assert bool(of(Final, told)) != is_new


def test_unknown_is_not_believed_when_home_has_given_somebody_up_since_it_was_asked() -> None:
    """Found by simulation (seed 1004848): its answer was older than the list without that peer."""
    world = ClientWorld(A, B, static=False)
    (task,) = world.accepted(B, 1)
    world.hear(B, final((task, READY)))
    world.members(A, A, B)
    world.down(B)
    world.wait(0)
    world.take()
    world.members(A, A)
    (ask,) = asks_until_listed(world, task, A)
    report(world, A, ask, True)
    told = world.told()
    assert [message.reports[0].status for message in of(TaskReports, told)] == [READY]
    assert not of(Final, told)


# ---- tasks of others


def test_tasks_of_others_are_looked_for_at_home_first() -> None:
    world = ClientWorld(A, B, C)
    one, two, three = tasks(1, 2, 3)
    world.say(Attach(ids=(one, two, three)))
    assert world.targets(Attach) == [(A, (one, two, three))]
    world.hear(A, final((one, READY), (two, UNKNOWN)), 88)
    assert [(ask.peer, ask.message.ids) for ask in world.said(AskTasks)] == [(A, (two,)), (B, (two,)), (C, (two,))]
    world.wait(5000)
    assert world.targets(Attach) == [(A, (two, three)), (B, (two, three)), (C, (two, three))]


def test_tasks_of_others_wait_for_a_peer() -> None:
    world = ClientWorld()
    world.say(Attach(ids=tasks(1)))
    assert not world.take()
    world.up(A)
    assert world.targets(Attach) == [(A, tasks(1))]


def test_asking_again_gets_the_end_again() -> None:
    world = ClientWorld(A, B)
    (task,) = world.accepted(B, 1)
    world.hear(B, final((task, READY)))
    world.take()
    world.say(Attach(ids=(task,)))
    assert world.targets(Attach) == [(B, (task,))]
    world.hear(B, final((task, TaskStatus.DONE)), 88)
    assert world.ends() == {task: TaskStatus.DONE}


def test_many_tasks_are_many_messages() -> None:
    world = ClientWorld(A)
    many = tasks(*range(2500))
    world.say(Attach(ids=many))
    assert [len(ids) for _, ids in world.targets(Attach)] == [1024, 1024, 452]
    world.say(AskTasks(mid=4, ids=many))
    asks = world.said(AskTasks)
    assert [len(ask.message.ids) for ask in asks] == [1024, 1024, 452]
    answer_all(world, asks)
    told = world.told()
    assert [type(message) for message in told] == [Final, TaskReports]
    assert isinstance(told[1], TaskReports)
    assert [entry.id for entry in told[1].reports] == list(many)


def test_of_many_ends_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clienttasks, "ENDED_MAX", 2)
    world = ClientWorld(A, B)
    ids = world.accepted(A, 1, 2, 3)
    world.hear(A, final(*[(task, READY) for task in ids]))
    world.take()
    world.say(Clear(mid=3, ids=ids))
    assert sorted(world.targets(Clear)) == [(A, ids), (B, ids[:1])]


# ---- clearing and cancelling


@pytest.mark.parametrize(("ask", "answer"), [(Clear, Cleared), (Cancel, Cancelled)])
def test_clearing_goes_to_the_owner_until_it_is_answered(ask: Any, answer: Any) -> None:
    world = ClientWorld(A, B)
    ids = world.accepted(B, 1, 2, rset=(B, A))
    world.say(ask(mid=9, ids=ids))
    (said,) = world.said(ask)
    assert (said.peer, said.message.ids) == (B, ids)
    world.wait(1000)
    assert world.said(ask) == [said]
    world.hear(B, answer(mid=said.message.mid))
    assert world.told()[0] == answer(mid=9)
    world.wait(3000)
    assert not world.said(ask)


def test_what_was_cleared_is_unknown_to_who_waits() -> None:
    """Peers may say so, too; the end that came before the clearing counts."""
    world = ClientWorld(A)
    one, two, three = world.accepted(A, 1, 2, 3)
    world.hear(A, final((three, READY)))
    world.take()
    world.say(Clear(mid=9, ids=(one, two, three)))
    (said,) = world.said(Clear)
    world.hear(A, final((one, UNKNOWN), (two, READY)))
    assert world.ends() == {two: READY}
    world.hear(A, Cleared(mid=said.message.mid))
    told = world.told()
    assert told[0] == Cleared(mid=9)
    assert [message.ids for message in of(Final, told)] == [(one,)]
    world.hear(A, final((one, READY), (two, UNKNOWN), (three, READY)))
    assert not world.told()


def test_without_the_owner_the_next_copy_is_told() -> None:
    world = ClientWorld(A, B, C)
    ids = world.accepted(A, 1, rset=(A, C))
    world.say(Cancel(mid=9, ids=ids))
    world.take()
    world.down(A)
    (said,) = world.said(Cancel)
    assert said.peer == C
    world.down(C)
    (said,) = world.said(Cancel)
    assert said.peer == B
    world.down(B)
    assert not world.said(Cancel)
    world.up(C)
    (said,) = world.said(Cancel)
    world.hear(C, Cancelled(mid=said.message.mid))
    assert world.told() == [Cancelled(mid=9)]


def test_a_task_of_others_is_cleared_everywhere() -> None:
    world = ClientWorld(A, B)
    world.say(Clear(mid=9, ids=tasks(1)))
    first, second = world.said(Clear)
    assert {first.peer, second.peer} == {A, B}
    world.hear(first.peer, Cleared(mid=first.message.mid))
    assert not world.told()
    world.hear(second.peer, Cleared(mid=second.message.mid))
    assert world.told() == [Cleared(mid=9)]


def clears(world: ClientWorld) -> dict[PeerId, Any]:
    """Who is asked to clear what; the rest is forgotten."""
    return {ask.peer: ask.message for ask in world.said(Clear)}


def test_what_is_not_where_it_should_be_is_cleared_everywhere() -> None:
    """The word that it has moved may get lost: who had it before said that it was cleared."""
    world = ClientWorld(A, B, C)
    here, there, gone = world.accepted(A, 1, 2, 3)
    world.say(Clear(mid=9, ids=(here, there, gone)))
    asked = clears(world)
    assert asked.keys() == {A}
    world.hear(A, Cleared(mid=asked[A].mid, unknown=(there, gone)))
    asked = clears(world)
    assert {peer: message.ids for peer, message in asked.items()} == {B: (there, gone), C: (there, gone)}
    world.hear(B, Cleared(mid=asked[B].mid, unknown=(there, gone)))
    assert not world.told()
    world.hear(C, Cleared(mid=asked[C].mid, unknown=(gone,)))
    assert [message for message in world.told() if isinstance(message, Cleared)] == [Cleared(mid=9)]
    assert not clears(world), "nobody has it"


def moved_on(world: ClientWorld, *numbers: int) -> int:
    """Tasks are accepted by B, as A did not answer, and A is there again. Returns the number of the submission."""
    world.say(submit(5, *numbers))
    (said,) = world.said(Submit, A)
    world.down(A)
    world.accept(B, said.message.mid, *tasks(*numbers))
    world.take()
    return int(said.message.mid)


def test_what_a_peer_accepts_after_it_was_cleared_elsewhere_is_cleared_there() -> None:
    """Found by simulation: the peer had been halted, and its client had gone elsewhere. Nobody told it to clear it."""
    world = ClientWorld(A, B)
    mid = moved_on(world, 1, 2, 3)
    world.say(Clear(mid=9, ids=tasks(1)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    world.say(Clear(mid=10, ids=tasks(2)))
    assert clears(world).keys() == {B}
    world.up(A)
    world.take()
    world.accept(A, mid, *tasks(1, 2, 3))
    (late,) = world.said(Clear)
    assert (late.peer, late.message.ids) == (A, tasks(1, 2))
    world.hear(A, Cleared(mid=late.message.mid))
    assert not world.take(), "the user's side knows nothing of it"


def test_who_may_have_it_and_was_out_of_reach_is_told_to_clear_it_when_it_can_be() -> None:
    """Found by simulation: it had accepted and finished the task, and only a link was broken, and came back at once."""
    world = ClientWorld(A, B, C)
    moved_on(world, 1, 2)
    world.say(Clear(mid=9, ids=tasks(1)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    assert Cleared(mid=9) in world.told(), "the user's side does not wait for it"
    world.up(C)
    assert not world.said(Clear)
    world.up(A)
    assert clears(world)[A].ids == tasks(1)
    world.down(A)
    world.up(A)
    asked = clears(world)
    assert asked.keys() == {A}, "it has not answered"
    world.hear(A, Cleared(mid=asked[A].mid))
    world.down(A)
    world.up(A)
    assert not world.said(Clear)
    assert not world.told()


def test_who_does_not_know_any_more_what_it_is_told_late_has_left_it_to_somebody() -> None:
    """Found by simulation: it was leaving, and the word to whom it had handed its tasks over got lost."""
    world = ClientWorld(A, B, C)
    moved_on(world, 1, 2)
    world.say(Clear(mid=9, ids=tasks(1, 2)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    world.up(A)
    world.hear(A, Cleared(mid=clears(world)[A].mid, unknown=tasks(1, 2)))
    asked = clears(world)
    assert {peer: message.ids for peer, message in asked.items()} == {B: tasks(1, 2), C: tasks(1, 2)}
    world.say(submit(6, 2))
    world.hear(B, Cleared(mid=asked[B].mid, unknown=tasks(1, 2)))
    world.up(D)
    world.hear(C, Cleared(mid=asked[C].mid, unknown=tasks(1, 2)))
    assert world.targets(Clear) == [(D, tasks(1))], "what is submitted again is another task"


def test_if_who_was_to_be_told_is_gone_others_are() -> None:
    world = ClientWorld(A, B, C, static=False)
    moved_on(world, 1)
    world.say(Clear(mid=9, ids=tasks(1)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    for _ in range(2):
        world.members(B, B, C)
        world.members(C, C)  # not home
    asked = clears(world)
    assert {peer: message.ids for peer, message in asked.items()} == {B: tasks(1)}
    world.hear(B, Cleared(mid=asked[B].mid, unknown=tasks(1)))
    assert world.targets(Clear) == [(C, tasks(1))]


def test_of_several_who_are_out_of_reach_each_is_told() -> None:
    world = ClientWorld(A, B, C)
    world.say(submit(5, 1))
    (said,) = world.said(Submit)
    world.down(A)
    world.down(B)
    world.accept(C, said.message.mid, *tasks(1))
    world.take()
    world.say(Clear(mid=9, ids=tasks(1)))
    world.down(C)  # before it has answered
    world.up(B)
    late = clears(world)[B]
    world.hear(B, Cleared(mid=late.mid))
    world.up(C)
    assert clears(world)[C].ids == tasks(1)
    world.up(A)
    assert clears(world)[A].ids == tasks(1)


def test_who_was_out_of_reach_is_not_told_of_what_was_submitted_again() -> None:
    world = ClientWorld(A, B)
    moved_on(world, 1, 2)
    world.say(Clear(mid=9, ids=tasks(1, 2)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    world.say(submit(6, 1))
    world.up(A)
    assert world.targets(Clear) == [(A, tasks(2))]


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_second_peer_that_has_accepted_a_task_is_told_to_clear_it(has_ended: bool) -> None:
    """Its submission was repeated whole for the sake of others; the first peer is there again when it is cleared."""
    world = ClientWorld(A, B)
    world.say(submit(5, 1, 2))
    (said,) = world.said(Submit)
    world.accept(A, said.message.mid, *tasks(1))
    if has_ended:
        world.hear(A, final((tasks(1)[0], READY)), PARCEL)
    world.down(A)
    world.up(A)
    world.accept(B, said.message.mid, *tasks(1, 2))
    world.take()
    world.say(Clear(mid=9, ids=tasks(1)))
    assert clears(world).keys() == {A, B}


def test_a_second_peer_that_tells_of_the_end_of_a_task_is_told_to_clear_it() -> None:
    world = ClientWorld(A, B)
    (task,) = world.accepted(A, 1)
    world.hear(A, final((task, READY)), PARCEL)
    world.hear(B, final((task, READY)), PARCEL)
    world.hear(B, final((task, READY)), PARCEL)
    world.take()
    world.say(Clear(mid=9, ids=(task,)))
    assert sorted(world.targets(Clear)) == [(A, (task,)), (B, (task,))]


def test_of_many_of_which_somebody_is_to_be_told_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clienttasks, "UNWANTED_MAX", 2)
    world = ClientWorld(A, B)
    moved_on(world, 1, 2, 3)
    world.say(Clear(mid=9, ids=tasks(1, 2, 3)))
    world.take()
    world.up(A)
    assert world.targets(Clear) == [(A, tasks(2, 3))]


def test_its_end_shows_that_a_peer_has_accepted_what_was_cleared() -> None:
    """Found by simulation: the word that it was accepted had got lost."""
    world = ClientWorld(A, B)
    moved_on(world, 1, 2)
    world.say(Clear(mid=9, ids=tasks(1)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    world.up(A)
    world.take()
    world.hear(A, final((tasks(1)[0], UNKNOWN)))
    assert not world.said(Clear)
    world.hear(A, final(*[(task, READY) for task in tasks(1, 2)]), PARCEL)
    assert world.targets(Clear) == [(A, tasks(1))]


def test_so_it_is_while_others_of_its_submission_are_not_accepted() -> None:
    world = ClientWorld(A, B)
    world.say(submit(5, 1, 2))
    (said,) = world.said(Submit)
    world.accept(A, said.message.mid, *tasks(1))
    world.say(Clear(mid=9, ids=tasks(1)))
    world.hear(A, Cleared(mid=clears(world)[A].mid))
    world.down(A)
    world.take()
    world.accept(B, said.message.mid, *tasks(1, 2))
    assert world.targets(Clear) == [(B, tasks(1))]


def test_what_was_cleared_and_is_submitted_or_asked_for_again_is_not_cleared_late() -> None:
    world = ClientWorld(A, B)
    mid = moved_on(world, 1, 2, 3)
    world.say(Clear(mid=9, ids=tasks(1, 2, 3)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    world.say(submit(6, 1))
    (again,) = world.said(Submit)
    world.say(submit(7, 2))
    world.accept(B, again.message.mid, *tasks(1))
    world.say(Attach(ids=tasks(3)))
    world.up(A)
    world.take()
    world.accept(A, mid, *tasks(1, 2, 3))
    assert not world.said(Clear)


def test_what_was_submitted_again_is_not_cleared_late_with_its_end_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clienttasks, "ENDED_MAX", 1)
    world = ClientWorld(A, B)
    mid = moved_on(world, 1)
    world.say(Clear(mid=9, ids=tasks(1)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    world.say(submit(6, 1, 2))
    (again,) = world.said(Submit)
    world.accept(B, again.message.mid, *tasks(1, 2))
    world.hear(B, final(*[(task, READY) for task in tasks(1, 2)]))
    world.up(A)
    world.take()
    world.accept(A, mid, *tasks(1))
    assert not world.said(Clear)


def test_who_leaves_is_not_told_to_clear_what_it_accepts_late() -> None:
    world = ClientWorld(A, B)
    mid = moved_on(world, 1)
    world.say(Clear(mid=9, ids=tasks(1)))
    world.up(A)
    world.hear(A, Goodbye())
    world.take()
    world.accept(A, mid, *tasks(1))
    assert not world.said(Clear)


def test_of_many_that_were_cleared_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clienttasks, "UNWANTED_MAX", 2)
    world = ClientWorld(A, B)
    mid = moved_on(world, 1, 2, 3)
    world.say(Clear(mid=9, ids=tasks(1, 2, 3)))
    world.hear(B, Cleared(mid=clears(world)[B].mid))
    world.up(A)
    world.take()
    world.accept(A, mid, *tasks(1, 2, 3))
    assert world.targets(Clear) == [(A, tasks(2, 3))]


def test_of_several_who_may_have_it_one_is_enough() -> None:
    world = ClientWorld(A, B, C)
    world.say(Clear(mid=9, ids=tasks(1, 2)))
    asked = clears(world)
    world.hear(A, Cleared(mid=asked[A].mid, unknown=tasks(1, 2)))
    world.hear(B, Cleared(mid=asked[B].mid, unknown=tasks(2)))
    world.hear(C, Cleared(mid=asked[C].mid, unknown=tasks(1)))
    assert world.told() == [Cleared(mid=9)]


def test_what_is_submitted_again_meanwhile_is_not_looked_for() -> None:
    world = ClientWorld(A, B)
    (task,) = world.accepted(A, 1)
    world.say(Clear(mid=9, ids=(task,)))
    (clear,) = world.said(Clear)
    world.say(submit(2, 1))
    world.hear(A, Cleared(mid=clear.message.mid, unknown=(task,)))
    assert not clears(world)


def test_a_task_may_be_submitted_again_while_it_is_cleared() -> None:
    world = ClientWorld(A)
    (task,) = world.accepted(A, 1)
    world.hear(A, final((task, READY)))
    world.say(Clear(mid=9, ids=(task,)))
    (clear,) = world.said(Clear)
    world.say(submit(2, 1))
    (said,) = world.said(Submit)
    world.accept(A, said.message.mid, task)
    world.take()
    world.hear(A, Cleared(mid=clear.message.mid))
    assert world.told() == [Cleared(mid=9)], "the new task goes on"
    world.hear(A, final((task, READY)))
    assert world.ends() == {task: READY}


def test_results_that_were_read_are_told_to_the_owner() -> None:
    world = ClientWorld(A, B)
    (one,) = world.accepted(B, 1)
    world.hear(B, final((one, READY)))
    world.take()
    world.say(ResultRead(ids=(one, *tasks(7))))
    assert sorted(world.targets(ResultRead)) == [(A, tasks(7)), (B, (one,))]
    world.down(B)
    world.down(A)
    world.take()
    world.say(ResultRead(ids=(one,)))
    assert not world.take(), "it is only a hint"


# ---- questions


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (LoadGraph(mid=9, definition="{}"), GraphRefused(mid=9, problems=("p",))),
        (AskNamespaces(mid=9), Namespaces(mid=9, infos=())),
        (AskDefinition(mid=9, ns="n"), Definition(mid=9, definition=None)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_questions_go_home_and_move_with_it(ask: Any, answer: Any) -> None:
    world = ClientWorld(A, B)
    world.say(ask)
    (said,) = world.said(type(ask))
    assert said.peer == A
    world.wait(1000)
    assert world.said(type(ask)) == [said]
    world.down(A)
    assert world.said(type(ask)) == [SayTo(peer=B, message=said.message)]
    world.hear(B, Cleared(mid=said.message.mid))
    assert not world.take(), "that is no answer to this"
    number = said.message.mid
    world.hear(A, type(answer)(**{name: getattr(answer, name) for name in answer.__slots__} | {"mid": number}))
    assert world.told() == [answer], "whoever answers"
    world.wait(60_000)
    assert not world.take()


def test_questions_without_a_peer_wait_for_one() -> None:
    world = ClientWorld()
    world.say(AskNamespaces(mid=9))
    world.say(AskTasks(mid=10, ids=tasks(1)))
    world.say(AskStats(mid=11))
    assert not world.take()
    world.up(C)
    kinds = {type(action.message) for action in world.take() if isinstance(action, SayTo)}
    assert kinds == {AskNamespaces, AskTasks, AskStats}


def test_where_a_task_is_the_owner_says() -> None:
    world = ClientWorld(A, B)
    (one,) = world.accepted(B, 1)
    world.say(AskTasks(mid=9, ids=(one, *tasks(7))))
    asks = world.said(AskTasks)
    assert sorted((ask.peer, ask.message.ids) for ask in asks) == [(A, tasks(7)), (B, (one,))]
    answer_all(world, asks, t1=TaskStatus.BUSY, t7=READY)
    (told,) = world.told()
    assert isinstance(told, TaskReports)
    assert (told.mid, [entry.status for entry in told.reports]) == (9, [TaskStatus.BUSY, READY])


def test_a_known_task_beats_an_unknown_one_and_an_ended_one_all() -> None:
    world = ClientWorld(A, B, C)
    world.say(AskTasks(mid=9, ids=tasks(1, 2, 3)))
    (near,) = world.said(AskTasks)
    report(world, A, near)
    far = world.said(AskTasks)
    assert [ask.peer for ask in far] == [B, C]
    report(world, B, far[0], t1=TaskStatus.WAIT, t2=ERROR)
    report(world, C, far[1], t1=READY, t2=TaskStatus.BUSY)
    (told,) = world.told()
    assert isinstance(told, TaskReports)
    assert [entry.status for entry in told.reports] == [READY, ERROR, UNKNOWN]


def test_a_task_whose_end_was_shown_has_ended_whoever_has_not_heard_of_it() -> None:
    world = ClientWorld(A, B)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.hear(A, final((task, READY)))
    world.down(A)
    world.take()
    world.say(AskTasks(mid=9, ids=(task,)))
    (ask,) = world.said(AskTasks)
    report(world, B, ask, t1=TaskStatus.WAIT)
    (told,) = world.told()
    assert isinstance(told, TaskReports)
    assert [entry.status for entry in told.reports] == [READY]


def test_an_end_that_was_shown_is_not_another_one_for_who_asks() -> None:
    """Found by simulation: a task was accepted on both sides of a split, and cancelled on one. Who had been shown that
    was told by the other side that it is ready.
    """
    world = ClientWorld(A, B)
    (task,) = world.accepted(A, 1, rset=(A, B))
    world.hear(A, final((task, ERROR)))
    world.hear(A, Moved(ids=(task,), owners=(B,)))
    world.take()
    for status, retries in ((READY, 0), (TaskStatus.WAIT, 0), (ERROR, 3)):
        world.say(AskTasks(mid=9, ids=(task,)))
        (ask,) = world.said(AskTasks)
        entry = TaskReport(id=task, status=status, ns="n", retries=3)
        world.hear(B, TaskReports(mid=ask.message.mid, reports=(entry,)))
        (told,) = world.told()
        assert isinstance(told, TaskReports)
        assert [(entry.status, entry.retries) for entry in told.reports] == [(ERROR, retries)]


def test_reports_on_other_tasks_are_ignored() -> None:
    world = ClientWorld(A)
    world.say(AskTasks(mid=9, ids=tasks(1)))
    (ask,) = world.said(AskTasks)
    strange = TaskReport(id=tasks(5)[0], status=READY)
    world.hear(A, TaskReports(mid=ask.message.mid, reports=(strange,)))
    (told,) = world.told()
    assert isinstance(told, TaskReports)
    assert [(entry.id, entry.status) for entry in told.reports] == [(tasks(1)[0], UNKNOWN)]


def test_no_tasks_are_asked_for_nothing() -> None:
    world = ClientWorld(A)
    world.say(AskTasks(mid=9, ids=()))
    assert world.told() == [TaskReports(mid=9, reports=())]


def test_an_ended_task_that_is_asked_for_is_fetched() -> None:
    """Its end may have been lost."""
    world = ClientWorld(A)
    (task,) = world.accepted(A, 1)
    world.say(AskTasks(mid=9, ids=(task,)))
    (ask,) = world.said(AskTasks)
    report(world, A, ask, t1=READY)
    assert world.targets(Attach) == [(A, (task,))]


def test_all_peers_forget_what_they_have_cached() -> None:
    """Also one that comes while others are asked; what went is added up."""
    world = ClientWorld(A, B)
    world.say(ClearCache(mid=9, origins=(b"12345678",)))
    asks = world.said(ClearCache)
    assert [(ask.peer, ask.message.origins) for ask in asks] == [(A, (b"12345678",)), (B, (b"12345678",))]
    world.hear(A, CacheCleared(mid=asks[0].message.mid, values=2))
    assert not world.told()
    world.up(C)
    (late,) = world.said(ClearCache)
    assert late.peer == C
    world.hear(B, CacheCleared(mid=asks[1].message.mid, values=0))
    world.hear(C, CacheCleared(mid=late.message.mid, values=1))
    assert world.told() == [CacheCleared(mid=9, values=3)]


def test_numbers_of_all_peers_are_added_up() -> None:
    world = ClientWorld(A, B, C)
    world.say(AskStats(mid=9))
    asks = world.said(AskStats)
    assert [ask.peer for ask in asks] == [A, B, C]
    queue = QueueStats(
        id="Q", name="n", queue_length=1, listeners=2, weight=3.0, pressure=4.0, expected_pressure=5.0, claimants=6
    )
    other = QueueStats(id="R", name="m", queue_length=1, listeners=1)
    executor = ExecutorStats(id=ExecutorId("E" + "0" * 32), place="", loaded=())
    for ask, queues in zip(asks[:2], [(queue,), (other, queue)], strict=True):
        stats = Stats(
            mid=ask.message.mid,
            queues=queues,
            executors=(executor,),
            tasks={"wait": 1},
            counters={"c": 2},
            record_bytes=3,
            cache_entries=4,
            cache_bytes=5,
        )
        world.hear(ask.peer, stats)
    world.down(C)
    assert world.told() == [
        Stats(
            mid=9,
            queues=(
                QueueStats(
                    id="Q",
                    name="n",
                    queue_length=2,
                    listeners=4,
                    weight=3.0,
                    pressure=8.0,
                    expected_pressure=10.0,
                    claimants=12,
                ),
                other,
            ),
            executors=(executor, executor),
            tasks={"wait": 2},
            counters={"c": 4},
            record_bytes=6,
            cache_entries=8,
            cache_bytes=10,
        )
    ]


def test_answers_that_nobody_waits_for_are_dropped() -> None:
    world = ClientWorld(A)
    world.hear(A, Cleared(mid=12345))
    world.hear(D, Cleared(mid=12345))
    world.say(AskMembers(mid=3))
    assert not world.take()


# ---- who is there


def test_home_says_who_there_is() -> None:
    world = ClientWorld(static=False)
    world.up(A)
    world.wait(0)
    assert [said.peer for said in world.said(AskMembers)] == [A]
    world.wait(1000)
    assert [said.peer for said in world.said(AskMembers)] == [A], "again, as nothing was said"
    world.members(A, A, B)
    assert world.take() == [Connect(contact=contact(B))]
    world.members(B, A, B, C)
    assert not world.take(), "it is not home"
    world.wait(5000)
    assert [said.peer for said in world.said(AskMembers)] == [A]
    world.hear(A, MemberList(mid=0, members=(contact(A), contact(B, 2))))
    assert world.take() == [Connect(contact=contact(B, 2))]
    world.members(A, A)
    assert world.take() == [Disconnect(peer=B)]
    world.down(B)
    assert not world.take()


def test_everybody_is_known_before_anything_is_called_unknown() -> None:
    world = ClientWorld(static=False)
    world.up(A)
    world.say(AskTasks(mid=9, ids=tasks(1)))
    (near,) = world.said(AskTasks)
    report(world, A, near)
    assert not world.told(), "home has not said yet who else there is"
    world.members(A, A, B, C)
    world.take()
    world.up(B)
    assert not world.said(AskTasks), "there is one more link to come"
    world.down(C)
    (far,) = world.said(AskTasks)
    assert far.peer == B
    report(world, B, far, t1=READY)
    (told,) = world.told()
    assert isinstance(told, TaskReports)
    assert told.reports[0].status is READY


def test_a_link_that_does_not_come_is_not_waited_for_for_ever() -> None:
    world = ClientWorld(static=False)
    world.up(A)
    world.say(AskStats(mid=9))
    world.say(LoadGraph(mid=10, definition="{}"))
    world.members(A, A, B)
    world.wait(4999)
    assert not world.said(AskStats)
    world.wait(1)
    assert [said.peer for said in world.said(AskStats)] == [A]


def test_a_peer_that_does_not_answer_is_as_good_as_gone() -> None:
    """Five pings, one second each; then its tasks are asked for elsewhere, until something comes from it."""
    world = ClientWorld(A, B, static=False)
    ids = world.accepted(B, 1, rset=(B, A))
    world.say(LoadGraph(mid=3, definition="{}"))
    for _ in range(5):
        world.wait(1000)
        world.hear(A, Cleared(mid=0))
    assert world.targets(Attach) == [(B, ids)]
    world.wait(1000)
    assert world.targets(Attach) == [(A, ids)]
    world.say(Cancel(mid=4, ids=ids))
    assert world.targets(Cancel) == [(A, ids)]
    world.hear(B, Cleared(mid=0))
    assert world.targets(Attach) == [(B, ids)]
    world.say(Cancel(mid=5, ids=ids))
    assert world.targets(Cancel) == [(B, ids)]


def test_questions_leave_a_peer_that_does_not_answer() -> None:
    world = ClientWorld(A, B, static=False)
    world.say(LoadGraph(mid=3, definition="{}"))
    world.wait(5000)
    world.take()
    world.wait(1000)
    assert [said.peer for said in world.said(LoadGraph)] == [B]


def test_silent_peers_are_still_asked_whether_they_are_there() -> None:
    world = ClientWorld(A, static=False)
    world.say(LoadGraph(mid=3, definition="{}"))
    world.wait(20_000)
    world.take()
    world.wait(5000)
    assert [said.peer for said in world.said(AskMembers)] == [A]
    world.down(A)
    world.up(A)
    assert [said.peer for said in world.said(LoadGraph)] == [A]


def test_a_halt_of_this_process_is_no_silence_of_others() -> None:
    world = ClientWorld(A, B, static=False)
    world.say(LoadGraph(mid=3, definition="{}"))
    world.now_ms += 60_000
    world.wait(0)
    assert {said.peer for said in world.said(LoadGraph)} == {A}
    world.members(A, A, B)
    world.wait(4000)
    assert {said.peer for said in world.said(LoadGraph)} == {A}


def test_without_any_peer_the_user_is_told() -> None:
    world = ClientWorld(A, static=False)
    world.say(submit(1, 1), PARCEL)
    world.down(A)
    world.take()
    world.wait(29_999)
    assert not world.take()
    world.wait(1)
    gone, over = world.take()
    assert gone == LetGo(parcel=PARCEL)
    assert isinstance(over, GiveUp)
    assert "no peer of the cluster" in over.reason
    world.say(submit(2, 2), 78)
    world.say(AskStats(mid=3))
    world.up(A)
    assert world.take() == [LetGo(parcel=78)]
    assert world.core.deadline_ms() is None


def test_so_it_is_when_there_never_was_one() -> None:
    world = ClientWorld(static=False)
    world.down(A)
    world.wait(30_000)
    assert [type(action) for action in world.take()] == [GiveUp]


def test_a_peer_in_time_is_in_time() -> None:
    world = ClientWorld(A)
    world.down(A)
    world.wait(29_000)
    world.up(A)
    world.wait(100_000)
    assert not world.take()


def test_a_word_to_who_asked_a_peer_to_go_is_none_for_the_user() -> None:
    world = ClientWorld(A)
    world.take()
    world.hear(A, Released(mid=1))
    assert not world.take()


def test_a_task_that_has_ended_is_cleared_where_it_went() -> None:
    """Found by simulation: its owner had handed it over, and answered that it had cleared what it did not have."""
    world = ClientWorld(A, B, C)
    (task,) = world.accepted(A, 1, rset=(A, C))
    world.hear(A, final((task, READY)))
    world.hear(A, Moved(ids=(task,), owners=(B,)))
    world.take()
    world.say(Clear(mid=9, ids=(task,)))
    assert (B, (task,)) in world.targets(Clear)
