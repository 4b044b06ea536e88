"""Three peers with real cores, drivers and sockets, and one client: they find each other and share the work."""

import time
from collections.abc import Mapping
from typing import Any

from scatterzmq.core.events import GraphChecked, PeerSeen
from scatterzmq.core.messages import Accepted, Contact, Final, GraphLoaded, LoadGraph, Submit
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.driver import Driver
from scatterzmq.execute.store import PayloadStore
from scatterzmq.execute.work import Done, EmittedColumns, Work
from scatterzmq.graph.check import check
from scatterzmq.ids import ExecutorId, TaskId
from scatterzmq.net.links import PeerLinks, listen
from scatterzmq.settings import Settings
from tests.net.conftest import ALICE, Caller, World, peer_id
from tests.test_driver import column, definition, describe, numbers

SETTINGS = {"executor": {"batch_size": 4}, "timing": {"heartbeat_s": 0.1, "suspect_s": 2.5, "pause_s": 2.0}}


class Adders:
    """One executor, at work when its peer runs next: every value grows by one."""

    copies_inputs = True

    def __init__(self, number: int) -> None:
        self.name = ExecutorId(f"E{number:032x}")
        self.work: Work | None = None
        self.checks: list[tuple[int, str]] = []
        self.rows = 0

    def start(self) -> tuple[ExecutorId, ...]:
        return (self.name,)

    def run(self, executor: ExecutorId, work: Work) -> None:
        assert self.work is None
        self.work = work

    def cancel(self, executor: ExecutorId, order: int, rows: tuple[int, ...]) -> None:
        pass

    def replace(self, executor: ExecutorId) -> ExecutorId | None:
        raise AssertionError("nothing hangs here")

    def check(self, request: int, text: str, *, settles: bool) -> None:
        self.checks.append((request, text))

    def retire(self, digest: bytes) -> None:
        pass

    def answers(self) -> list[Any]:
        """What has been done since the last call."""
        checks, self.checks = self.checks, []
        done: list[Any] = [
            GraphChecked(request=number, plan=check(text, describe).require()) for number, text in checks
        ]
        work, self.work = self.work, None
        if work is not None:
            self.rows += len(work.rows)
            values = work.columns["value"]
            made = column(*[number + 1 for number in numbers(values)], width=values.layout.row_shape(0)[0])
            part = EmittedColumns(output="out", rows=work.rows, columns={"value": made}, digests={})
            done.append(Done(executor=self.name, order=work.order.order, emitted=(part,), failed=()))
        return done


class Peer:
    def __init__(self, world: World, number: int) -> None:
        settings = Settings.of(SETTINGS | {"network": {"port": 0}})
        self.reactor = world.reactor()
        listening = listen(self.reactor, settings.network)
        self.port = listening.port
        address = f"tcp://127.0.0.1:{self.port}"
        self.me = Contact(id=peer_id(number), incarnation=1, address=address, gossip_port=listening.gossip_port)
        self.core = PeerCore(
            self.me,
            settings,
            node_strategy=SimpleNodeStrategy(),
            queue_strategy=SimpleQueueStrategy(),
            nonce=number.to_bytes(16, "big"),
        )
        self.links = PeerLinks(self.reactor, listening, self.me, settings, self.take, self.left)
        self.adders = Adders(number)
        self.driver = Driver(
            self.core,
            PayloadStore(settings.store, self.me.id),
            self.adders,
            network=self.links,
        )
        world.ticks.append(self.tick)
        self.driver.start()

    def take(self, posted: Any) -> None:
        self.driver.take(posted)

    def left(self, lost: int) -> None:
        raise AssertionError("nobody leaves")

    def tick(self) -> None:
        for answer in self.adders.answers():
            self.driver.take(answer)
        self.driver.tick()

    def alive(self) -> int:
        return len(self.core._state.members.alive())


def submit(plan: bytes, ids: list[TaskId]) -> Submit:
    digests = tuple([id_.encode()[:16] for id_ in ids])
    return Submit(mid=2, ns="main", digest=plan, nonce=b"nonce...", ids=tuple(ids), submit_digests=digests)


def of_kind(caller: Caller, kind: type) -> list[tuple[Any, Mapping[str, Any]]]:
    return [(message, columns) for message, columns in caller.heard if isinstance(message, kind)]


def test_three_peers_find_each_other_and_share_the_work_of_a_client(world: World) -> None:
    peers = [Peer(world, number) for number in range(3)]
    for peer in peers[1:]:
        peer.driver.take(PeerSeen(address=peers[0].me.address))
    started = time.monotonic()
    world.until(lambda: all(peer.alive() == 2 for peer in peers))
    assert time.monotonic() - started < 5
    client: Any = Caller(world, ALICE, peers[0])  # type: ignore[arg-type]
    text = definition("main", 1, 1, 1)
    client.say(LoadGraph(mid=1, definition=text))
    world.until(lambda: of_kind(client, GraphLoaded))
    plan = check(text, describe).require().digest
    ids = [TaskId(f"T{number:032x}") for number in range(200)]
    client.say(submit(plan, ids), {"value": column(*range(200))})
    results: dict[TaskId, int] = {}

    def collected() -> bool:
        for final, columns in of_kind(client, Final):
            results.update(zip(final.ids, numbers(columns["value"]), strict=True))
        client.heard = [told for told in client.heard if not isinstance(told[0], Final)]
        return len(results) == 200

    world.until(collected)
    assert results == {task: number + 3 for number, task in enumerate(ids)}
    (accepted,) = [message for message, _ in of_kind(client, Accepted)]
    assert accepted.copies == 2
    assert all(peer.adders.rows > 0 for peer in peers), [peer.adders.rows for peer in peers]
    for peer in peers:
        peer.core.check_invariants()
        assert not peer.links.rejected
        assert not {"full", "long", "interrupted", "wire"} & peer.links.counters.keys()


def test_a_killed_peer_is_dead_at_once_and_its_work_is_done_by_the_others(world: World) -> None:
    peers = [Peer(world, number) for number in range(3)]
    for peer in peers[1:]:
        peer.driver.take(PeerSeen(address=peers[0].me.address))
    world.until(lambda: all(peer.alive() == 2 for peer in peers))
    victim = peers.pop()
    world.ticks.remove(victim.tick)
    world.kill(victim.reactor)
    started = time.monotonic()
    world.until(lambda: all(peer.alive() == 1 for peer in peers))
    assert time.monotonic() - started < 1.5, "sooner than its silence could tell"
