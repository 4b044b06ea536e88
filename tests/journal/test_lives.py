"""A real core and driver on a real journal: stopped, started again, and with a disk that fails."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from scatterzmq.core.events import GraphChecked, Persisted, PersistFailed
from scatterzmq.core.messages import Accepted, Attach, Clear, Final, Refused, ToClient
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.peermessages import Contact
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.driver import ClientJoined, Driver
from scatterzmq.execute.store import PayloadStore
from scatterzmq.graph.check import check
from scatterzmq.ids import TaskId
from scatterzmq.journal import open_journal
from scatterzmq.settings import Settings
from scatterzmq.wire.columns import Column
from tests.journal.conftest import MODES, WAIT_S, Mode
from tests.test_driver import ALICE, Executors, World, describe


class Life(World):
    """One life of a peer with a journal. Every answer of the journal is taken before anything else happens."""

    def __init__(self, folder: Path, mode: Mode, executors: int = 1) -> None:
        self.answers: SimpleQueue[Persisted | PersistFailed] = SimpleQueue()
        self.journal = open_journal(folder, mode, self.answers.put)
        settings = Settings.of({"journal": {"mode": mode, "dir": str(folder)}})
        strategies: Any = {"node_strategy": SimpleNodeStrategy(), "queue_strategy": SimpleQueueStrategy()}
        me = Contact(id=self.journal.peer, incarnation=self.journal.incarnation, address="")
        self.now_s = 1.0
        self.core = PeerCore(me, settings, **strategies)
        self.store = PayloadStore(settings.store, me.id)
        self.executors = Executors(executors)
        self.reports: list[tuple[str, Mapping[str, Any]]] = []
        self.heard: list[tuple[ToClient, Mapping[str, Column]]] = []
        self.driver = Driver(
            self.core,
            self.store,
            self.executors,
            report=lambda name, context: self.reports.append((name, context)),
            journal=self.journal,
            clock=lambda: self.now_s,
        )
        self.plans: dict[str, bytes] = {}
        self.count = 100 * me.incarnation
        self.driver.take(ClientJoined(client=ALICE, deliver=lambda *told: self.heard.append(told)))
        self.driver.start()
        self.check()
        for request, text in self.executors.checks:
            plan = check(text, describe).require()
            self.plans[plan.ns] = plan.digest
            self.take(GraphChecked(request=request, plan=plan))

    def check(self) -> None:
        journal = self.core.state.journal
        assert journal is not None
        while journal._under_way:
            self.driver.take(self.answers.get(timeout=WAIT_S))
        super().check()

    def outcomes(self, *tasks: TaskId) -> list[str]:
        """What a client is told that asks how they ended."""
        self.heard.clear()
        self.say(Attach(ids=tasks))
        told = {
            task: str(status)
            for final in self.told(Final)
            for task, status in zip(final.ids, final.statuses, strict=True)
        }
        return [told.get(task, "") for task in tasks]


Start = Callable[..., Life]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the peer, again and again; the life before has ended."""
    lives: list[Life] = []

    def start_one(mode: Mode = "sync", executors: int = 1) -> Life:
        for life in lives:
            life.journal.close()
        lives.append(Life(tmp_path / "journal", mode, executors))
        return lives[-1]

    yield start_one
    for life in lives:
        life.journal.close()


@pytest.mark.parametrize("width", [1, 2000])
@pytest.mark.parametrize("mode", MODES)
def test_what_was_accepted_comes_back_and_ends(start: Start, mode: Mode, width: int) -> None:
    life = start(mode, executors=0)
    life.load("main", 2, 2)
    tasks = life.submit(1, 2, 3, width=width)
    assert [(told.ids, told.durable) for told in life.told(Accepted)] == [(tuple(tasks), mode == "sync")]
    life = start(mode)
    assert life.journal.incarnation == 2
    assert life.outcomes(*tasks) == ["", "", ""]
    life.drain()
    assert life.results() == dict(zip(tasks, [3, 4, 5], strict=True))
    assert {final.durable for final in life.told(Final)} == {mode == "sync"}


@pytest.mark.parametrize("mode", MODES)
def test_results_are_kept_and_what_was_cleared_stays_away(start: Start, mode: Mode) -> None:
    life = start(mode)
    life.load("main", 4)
    first, second = life.submit(1, 2)
    life.drain()
    life.say(Clear(mid=3, ids=(first,)))
    for _ in range(2):
        life = start(mode)
        assert life.outcomes(first, second) == ["unknown", "ready"]
        assert life.results() == {second: 3}
        assert not life.executors.running
    (third,) = life.submit(7)
    life.drain()
    assert life.results()[third] == 8, "the definition is there, too"
    life.say(Clear(mid=3, ids=(second, third)))
    assert len(life.store) == 0
    assert start(mode).outcomes(first, second, third) == ["unknown"] * 3


def test_a_disk_that_fails_stops_nothing_that_was_accepted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    life = start()
    life.load("main", 4)
    before = life.submit(1, 2)
    tables = life.journal._tables

    def write(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def abandon() -> bool:
        tables.close()  # the test's process goes on
        return True

    monkeypatch.setattr(tables, "write", write)
    monkeypatch.setattr(tables, "abandon", abandon)
    life.drain()
    assert life.results() == dict(zip(before, [2, 3], strict=True))
    assert not any(final.durable for final in life.told(Final))
    assert ("error.journal.failed", {"reason": "database or disk is full"}) in life.reports
    after = life.submit(3)
    assert [told.ids for told in life.told(Refused)] == [tuple(after)], "it would be here alone, and not on disk"
    life.say(Clear(mid=3, ids=tuple(before)))
    assert len(life.store) == 0
