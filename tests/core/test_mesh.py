"""The mesh itself: peers that know each other, and links that lose, double and hold back what is sent."""

from typing import Any

import pytest

from scatterzmq.core.greetings import cluster_tag
from scatterzmq.core.members import Status
from scatterzmq.core.messages import AskMembers, MemberList, TaskStatus
from scatterzmq.core.peermessages import AskPointers, Nudge
from scatterzmq.errors import ErrorCode
from tests.core.conftest import chain
from tests.core.mesh import Mesh


def heard(mesh: Mesh, kind: type[Any]) -> list[int]:
    """Numbers of the peers that get a message of this kind, as they get it."""
    numbers = [packet.dst for packet in mesh.links if isinstance(packet.message, kind)]
    mesh.deliver()
    return numbers


def ask(mesh: Mesh, src: int, dst: int) -> None:
    mesh.peers[src].core._state.members.tell(mesh.peers[dst].me, AskPointers())
    for action in mesh.peers[src].core._state.out.take():
        mesh.peers[src].perform(action)


def test_everybody_knows_everybody() -> None:
    mesh = Mesh(3)
    for peer in mesh.peers:
        assert set(peer.status_of.values()) == {Status.ALIVE}
        assert len(peer.links) == 2


def test_tasks_run_and_end() -> None:
    mesh = Mesh(2, executor={"batch_size": 2})
    mesh.load(chain(3))
    tasks = mesh.submit(0, 1, 2, 3)
    others = mesh.submit(1, 10)
    assert mesh.peers[0].status(tasks[0]) is TaskStatus.BUSY
    mesh.run()
    assert mesh.results(0, tasks) == [4, 5, 6]
    assert mesh.results(1, others) == [13]
    for number, ids in enumerate((tasks, others)):
        mesh.peers[number].clear(*ids)
    mesh.deliver()
    mesh.check_idle()


def test_links_lose_double_and_hold_back() -> None:
    mesh = Mesh(3)
    mesh.drop(AskPointers, dst=1)
    mesh.duplicate(AskPointers, dst=2)
    ask(mesh, 0, 1)
    ask(mesh, 0, 2)
    assert heard(mesh, AskPointers) == [2, 2]
    assert mesh.dropped == 1
    assert len(mesh.said(AskPointers, src=0)) == 2
    assert mesh.said(AskPointers, src=1) == mesh.said(Nudge) == []
    mesh.heal()
    mesh.hold(src=0)
    ask(mesh, 0, 1)
    assert heard(mesh, AskPointers) == []
    mesh.heal()
    assert heard(mesh, AskPointers) == [1]


def test_what_is_sent_comes_from_the_store() -> None:
    """Evicted rows cannot be sent: such a message is not sent at all."""
    mesh = Mesh(2)
    peer = mesh.peers[0]
    block = peer.put([1, 2])
    columns = peer.columns({"value": ((block, 1),)})
    assert columns is not None
    assert bytes(columns["value"].data) == (2).to_bytes(8, "little")
    del peer.stored[block.id]
    assert peer.columns({"value": ((block, 1),)}) is None


def test_the_dead_hear_nothing() -> None:
    mesh = Mesh(2)
    ask(mesh, 1, 0)
    mesh.kill(0)
    assert mesh.deliver() == 0
    with pytest.raises(AssertionError):
        mesh.restart(1)
    mesh.restart(0)
    assert mesh.peers[0].status_of == {1: Status.ALIVE}
    assert mesh.peers[1].status_of == {0: Status.ALIVE}


def test_the_client_is_told_of_errors() -> None:
    mesh = Mesh(2, tasks={"max_retries": 0})
    mesh.load({**chain(1), "nodes": [{**chain(1)["nodes"][0], "kind": "fail", "args": {"wrong": [5]}}]})
    (task,) = mesh.submit(1, 5)
    mesh.run()
    outcome = mesh.outcome(1, task)
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.GENERAL_EXCEPTION


# ---- clients that look for their cluster


def test_whoever_means_another_cluster_is_turned_away() -> None:
    mesh = Mesh(2, cluster={"name": "blue"}, network={"message_bytes": "4MiB"})
    peer = mesh.peers[0]
    for mid, cluster in enumerate([b"", cluster_tag("blue")]):
        peer.say(AskMembers(mid=mid, cluster=cluster))
        answer = peer.last(MemberList)
        assert (answer.mid, len(answer.members), answer.message_bytes, answer.refusal) == (mid, 2, 4 << 20, "")
    peer.say(AskMembers(mid=7, cluster=cluster_tag("red")))
    assert peer.last(MemberList) == MemberList(
        mid=7, members=(), refusal="this is cluster 'blue', another one than yours"
    )
    assert peer.core.counters()["clients_refused"] == 1
