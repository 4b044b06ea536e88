"""A whole peer whose executors are children: core, driver, store, and real processes that nodes kill."""

import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.core.messages import Final, GraphLoaded, LoadGraph, Submit, ToClient, ToPeer
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.driver import ClientJoined, Driver, Incoming, Posted
from scatterzmq.errors import ErrorCode, ErrorInfo
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.execute.children import ChildPool
from scatterzmq.execute.store import PayloadStore
from scatterzmq.ids import ClientId, PeerId, TaskId
from scatterzmq.settings import Settings
from scatterzmq.wire.columns import Column
from tests.execute.childworld import KINDS, Loop, acting, floats, numbers, write_kinds

ALICE = ClientId("C" + "a" * 32)


class Peer:
    """In one thread. statuses, errors, values: of the tasks that have ended, by number."""

    def __init__(self, folder: Path) -> None:
        settings = Settings.of(
            {
                "executor": {"kind": "process", "max_exec_s": 2.0, "batch_size": 4},
                "plugins": {"allow": [KINDS]},
                "tasks": {"poison_limit": 1},
            }
        )
        strategies: Any = {"node_strategy": SimpleNodeStrategy(), "queue_strategy": SimpleQueueStrategy()}
        me = PeerId("P" + "0" * 32)
        self.core = PeerCore(me, settings, **strategies)
        self.store = PayloadStore(settings.store, me)
        self.loop = Loop()
        self.posted: deque[Posted] = deque()
        self.blobs = BlobStore(folder)
        self.pool = ChildPool(settings, self.loop, self.posted.append, self.blobs)
        self.reports: list[str] = []
        self.driver = Driver(self.core, self.store, self.pool, report=lambda name, _: self.reports.append(name))
        self.loaded: GraphLoaded | None = None
        self.statuses: dict[int, str] = {}
        self.errors: dict[int, ErrorInfo | None] = {}
        self.values: dict[int, float] = {}
        self.driver.start()
        self.driver.take(ClientJoined(client=ALICE, deliver=self._deliver))

    def _deliver(self, message: ToClient, columns: Mapping[str, Column]) -> None:
        if isinstance(message, GraphLoaded):
            self.loaded = message
        if isinstance(message, Final):
            ready = [
                int(id_[1:], 16) for id_, status in zip(message.ids, message.statuses, strict=True) if status == "ready"
            ]
            self.statuses |= {
                int(id_[1:], 16): status for id_, status in zip(message.ids, message.statuses, strict=True)
            }
            self.errors |= {int(id_[1:], 16): error for id_, error in zip(message.ids, message.errors, strict=True)}
            if columns:
                self.values |= dict(zip(ready, numbers(columns["value"]), strict=True))

    def say(self, message: ToPeer, columns: Mapping[str, Column] | None = None) -> None:
        self.posted.append(Incoming(sender=ALICE, message=message, columns=columns or {}))

    def until(self, holds: Any) -> None:
        def step() -> bool:
            while self.posted:
                self.driver.take(self.posted.popleft())
                self.core.check_invariants()
            self.driver.tick()
            self.store.check_invariants()
            return bool(holds())

        self.loop.until(step)

    def close(self) -> None:
        self.pool.stop(10.0)
        self.loop.close()
        self.blobs.close()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    write_kinds(tmp_path)
    sys.path.insert(0, str(tmp_path))
    made = Peer(tmp_path / "blobs")
    yield made
    made.close()
    sys.path.remove(str(tmp_path))


def test_tasks_that_kill_or_hang_executors_are_poison_and_all_others_come_through(peer: Peer) -> None:
    peer.say(LoadGraph(mid=1, definition=json.dumps(acting("by_value"))))
    peer.until(lambda: peer.loaded)
    assert peer.loaded is not None
    values = [float(number) for number in range(10)]
    values[2], values[7] = -1.0, -2.0
    message = Submit(
        mid=2,
        ns="ns",
        digest=peer.loaded.info.digest,
        nonce=os.urandom(8),
        ids=tuple(TaskId(f"T{number:032x}") for number in range(10)),
        submit_digests=tuple(bytes([number] * 16) for number in range(10)),
    )
    peer.say(message, {"value": floats([[value] for value in values])})
    peer.until(lambda: len(peer.statuses) == 10)
    bad = {number: error for number, error in peer.errors.items() if peer.statuses[number] == "error"}
    assert bad.keys() == {2, 7}
    exits, hangs = bad[2], bad[7]
    assert exits is not None
    assert hangs is not None
    assert (exits.code, hangs.code) == (ErrorCode.POISON, ErrorCode.POISON)
    assert "exit code 3" in exits.message
    assert peer.values == {number: 2 * value for number, value in enumerate(values) if number not in bad}
    assert f"{KINDS}.act" not in sys.modules
