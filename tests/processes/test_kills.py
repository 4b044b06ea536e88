"""Two thousand tasks, and in the middle of them a peer is killed, halted, or asked to leave."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

import scatterzmq
from scatterzmq.core.messages import AskStats, Stats
from scatterzmq.questions import Questions
from tests.processes.cluster import NAP, TIMEOUT_S, RealCluster, RealPeer, begun_in, chain
from tests.processes.conftest import Connect

pytestmark = pytest.mark.alone
TASKS = 2000
NAP_MS = 8.0
"""Of a third of all tasks more than two seconds are left when something happens to their peer."""
RERUN_S = 3.0
LEAVES_WITHIN_S = 20.0
"""It takes a few, and the rest of the job; half a minute if it waits for somebody to take something in vain."""
HALT_S = 20.0
HALT_RERUN_S = 8.0
"""Silence alone says that the peer is gone: nobody hears its sockets close."""


def tasks_of(cluster: RealCluster) -> dict[str, int]:
    """How many tasks each running peer owns, by its id."""
    with Questions(cluster.addresses, "default") as questions:
        members = questions.find(TIMEOUT_S)
        answers = questions.ask([member.id for member in members], AskStats, TIMEOUT_S)
    return {str(peer): sum(said.tasks.values()) for peer, said in answers.items() if isinstance(said, Stats)}


def by_tasks(cluster: RealCluster) -> list[RealPeer]:
    """The owner of the tasks, then those of which one has the copies."""
    owned = tasks_of(cluster)
    peers = sorted((peer for peer in cluster.peers if peer.running), key=lambda peer: -owned[peer.id])
    assert owned[peers[0].id] >= TASKS // 3, f"nobody has many of the tasks: {owned}"
    return peers


def nothing() -> None:
    """No accident."""


def run_through(
    client: "scatterzmq.Client",
    diary: Path,
    accident: Callable[[], None] = nothing,
    submitted: Callable[[], None] = nothing,
) -> tuple[float, int]:
    """All tasks, with an accident when a third is through; checks every result. Returns when the accident was over, and
    how many tries of tasks were counted as failed. submitted: called as soon as all tasks are there.
    """
    ns = client.load_graph(chain(NAP, {"nap_ms": NAP_MS, "diary": str(diary)}), replace=True)
    tasks = {client.enqueue_task(ns, {"value": number}): number for number in range(TASKS)}
    client.flush(timeout=60.0)
    submitted()
    happened_s, retries = 0.0, 0
    ended: dict[str, int] = {}
    for task, response in client.wait_for(list(tasks), timeout=60.0):
        response.ok()
        assert response.result is not None, f"{task} is {response.status} after {len(ended)} others"
        assert task not in ended
        ended[task] = int(response.result["value"])
        retries += response.retries
        if len(ended) == TASKS // 3:
            accident()
            happened_s = time.monotonic()
    assert ended == {task: number + 1 for task, number in tasks.items()}
    return happened_s, retries


def until_ready(cluster: RealCluster) -> None:
    """All peers can work, and this process has what results are made of: else the job is over before it looks."""
    import_module("torch")
    cluster.until_joined()


def until_begun(diary: Path, pids: Sequence[int]) -> None:
    """One of these processes has just begun a batch: then it is in the middle of it."""
    known = len(begun_in(diary))
    until_s = time.monotonic() + TIMEOUT_S
    while not any(pid in pids for _, _, pid in begun_in(diary)[known:]):
        assert time.monotonic() < until_s, f"none of {pids} begins anything after {begun_in(diary)[-3:]}"
        time.sleep(0.001)


def rerun_after_s(diary: Path, happened_s: float, pids: Sequence[int]) -> float:
    """How long after the accident the first task was begun again that one of these processes had begun before."""
    theirs = {number for at_s, number, pid in begun_in(diary) if pid in pids}
    again = [
        at_s for at_s, number, pid in begun_in(diary) if number in theirs and pid not in pids and at_s > happened_s
    ]
    assert again, "nothing was begun again of what was under way"
    return min(again) - happened_s


@pytest.mark.parametrize("place", [0, 1, 2], ids=["the owner", "another", "the third"])
def test_a_peer_is_killed(cluster: RealCluster, connect: Connect, diary: Path, place: int) -> None:
    """In the middle of a batch. The owner has all tasks, the client talks to it, one of the others has the copies."""
    client = connect(cluster.addresses)
    victims: list[RealPeer] = []
    pids: list[int] = []

    until_ready(cluster)

    def submitted() -> None:
        victims.append(by_tasks(cluster)[place])
        pids.extend(victims[0].children())

    def accident() -> None:
        until_begun(diary, pids)
        victims[0].kill()

    happened_s, _ = run_through(client, diary, accident, submitted)
    cluster.add()
    noticed = [event for peer in cluster.peers for event in peer.log if event["event"].startswith("peer.")]
    assert rerun_after_s(diary, happened_s, pids) <= RERUN_S, noticed


@pytest.mark.parametrize("place", [0, 1], ids=["the owner", "another"])
def test_a_peer_is_halted_for_twenty_seconds_and_goes_on(
    cluster: RealCluster, connect: Connect, diary: Path, place: int
) -> None:
    """Others do its work, and more, meanwhile; what it says when it goes on does no harm."""
    client = connect(cluster.addresses)
    until_ready(cluster)
    halted: list[RealPeer] = []

    pids: list[int] = []

    def submitted() -> None:
        halted.append(by_tasks(cluster)[place])
        pids.extend(halted[0].children())

    def accident() -> None:
        until_begun(diary, pids)
        halted[0].halt()

    happened_s, _ = run_through(client, diary, accident, submitted)
    assert rerun_after_s(diary, happened_s, pids) <= HALT_RERUN_S
    while time.monotonic() < happened_s + HALT_S:
        run_through(client, diary)
    run_through(client, diary, halted[0].go_on)
    run_through(client, diary)
    assert halted[0].running


@pytest.mark.parametrize("place", [0, 1], ids=["the owner", "another"])
def test_a_peer_leaves(cluster: RealCluster, connect: Connect, diary: Path, place: int) -> None:
    """What it had begun is finished or begun elsewhere, and counts as no failure. It hands over all that it has, also
    results of definitions that were replaced before the others had come.
    """
    client = connect(cluster.addresses)
    until_ready(cluster)
    left: list[RealPeer] = []

    def submitted() -> None:
        left.append(by_tasks(cluster)[place])

    asked_s, retries = run_through(client, diary, lambda: left[0].terminate(), submitted)
    assert left[0].wait() == 0
    assert time.monotonic() - asked_s <= LEAVES_WITHIN_S
    assert retries == 0
    cluster.add()


@pytest.mark.parametrize("place", [0, 1], ids=["of the owner", "of another"])
def test_a_child_is_killed(cluster: RealCluster, connect: Connect, diary: Path, place: int) -> None:
    """In the middle of a batch: it is replaced, and others, or its successor, begin again what it had begun."""
    client = connect(cluster.addresses)
    until_ready(cluster)
    victims: list[int] = []
    killed: list[int] = []

    def accident() -> None:
        until_begun(diary, victims)
        killed.append(next(pid for _, _, pid in reversed(begun_in(diary)) if pid in victims))
        os.kill(killed[0], signal.SIGKILL)

    running = [peer for peer in cluster.peers if peer.running]
    happened_s, _ = run_through(client, diary, accident, lambda: victims.extend(by_tasks(cluster)[place].children()))
    assert rerun_after_s(diary, happened_s, killed) <= RERUN_S
    assert all(peer.running for peer in running)
