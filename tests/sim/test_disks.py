"""Peers with journals lose power, all at once, and their disks get full."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from scatterzmq.core.actions import Persist
from scatterzmq.core.entries import DefinitionText, Deleted, Lapsed
from scatterzmq.core.ledger import Cause, Phase
from scatterzmq.core.versions import Rank, Version
from scatterzmq.ids import PeerId, TaskId
from scatterzmq.sim.disk import Disk
from scatterzmq.sim.options import Options
from scatterzmq.sim.payload import Store
from scatterzmq.sim.process import Process
from scatterzmq.sim.runs import run
from scatterzmq.sim.world import World

ME = PeerId("P" + "1" * 32)
TASK = TaskId("T" + "2" * 32)


def options(seed: int, mode: str, **faults: float) -> Options:
    return Options(
        seed=seed,
        peers=2 + seed % 2,
        executors=(1,),
        tasks=20,
        clears=0.2,
        load_s=10.0,
        safety_s=20.0,
        faults=faults,
        sections={"journal": {"mode": mode}, "timing": {"grace_s": 10.0}},
    )


def test_an_entry_takes_away_what_was_there() -> None:
    """Under its own key, and nothing else."""
    disk, store = Disk(), Store(ME, 1)
    deleted = Deleted(id=TASK, nonce=bytes(16), version=Version(Rank.DELETED, 1, ME, 1, 1))
    text = DefinitionText(digest=b"d" * 32, definition="{}")
    disk.write(Persist(write=1, entries=(deleted, text), sync=True), store)
    disk.sync()
    assert disk.restored(store).entries == (deleted, text)
    disk.write(Persist(write=2, entries=(Lapsed(id=TASK),), sync=True), store)
    assert disk.restored(store).entries == (deleted, text)
    disk.sync()
    assert disk.restored(store).entries == (text,)


def test_the_power_fails_between_two_writes() -> None:
    """What is left of those that were not synced is what was written first."""
    left = set()
    for seed in range(20):
        disk = Disk()
        for write in range(1, 4):
            text = DefinitionText(digest=bytes([write]) * 32, definition="{}")
            pointed = DefinitionText(digest=bytes([write + 100]) * 32, definition="{}")
            disk.write(Persist(write=write, entries=(text, pointed), sync=False), Store(ME, 1))
        lost = disk.lose_tail(Random(seed))
        disk.sync()
        found = [entry.digest[0] for entry in disk.restored(Store(ME, 1)).entries if isinstance(entry, DefinitionText)]
        assert found == [1, 101, 2, 102, 3, 103][: 6 - lost]
        left.add(lost)
    assert left == {0, 2, 4, 6}


@pytest.mark.parametrize("mode", ["sync", "batch"])
def test_the_power_fails_everywhere(mode: str) -> None:
    fired = 0
    for seed in range(3):
        result = run(options(seed, mode, power=8.0, disk_tail=0.5, crash=2.0))
        assert not result.wrong, f"seed {seed}: {result.wrong}"
        fired += result.fired["power"]
    assert fired


def test_a_disk_that_never_syncs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "_synced", lambda *_: None)
    told = [run(options(seed, "batch", power=8.0)).wrong for seed in range(3)]
    assert any("had the last copy" in wrong for wrong in told)


def test_disks_get_full() -> None:
    fired = 0
    for seed in range(3):
        result = run(options(seed, "sync", disk_full=10.0, bounce=2.0))
        assert not result.wrong, f"seed {seed}: {result.wrong}"
        fired += result.fired["disk_full"]
    assert fired


def test_everything_comes_back_after_a_power_failure() -> None:
    """No seed, no luck: all accepted, all dark, all back in the other order."""
    world = World(options(1, "sync"))
    world.begin()
    world.run(3_000)
    tasks = world.submit("chain", 1, 2, 3, 4)
    world.run(2_000)
    assert all(world.checkers.facts[task].durable for task in tasks)
    for process in world.alive():
        world.crash(process, power=True)
    world.run(1_000)
    for place in reversed(range(world.options.peers)):
        world.start(place)
        world.run(1_500)
    world.run(5_000)
    assert not world.checkers.settled()
    assert not any(world.checkers.facts[task].lost for task in tasks)
    assert {process.me.incarnation for process in world.alive()} == {2}


def until(world: World, is_so: Callable[[], bool]) -> None:
    """Until it is so, to the millisecond."""
    for _ in range(20_000):
        if is_so():
            return
        world.run(1)
    raise AssertionError("it never comes to that")


def dark(world: World) -> None:
    """The power fails, everywhere at once, and comes back."""
    for process in world.alive():
        world.crash(process, power=True)
    world.run(1_000)
    for place in range(world.options.peers):
        world.start(place)
    world.run(30_000)


def begun(peers: int = 2) -> World:
    """Peers that sync, and know each other."""
    world = World(replace(options(1, "sync"), peers=peers))
    world.begin()
    world.run(3_000)
    return world


@pytest.mark.parametrize("peers", [1, 2])
def test_the_power_fails_in_the_moment_of_acceptance(peers: int) -> None:
    world = begun(peers)
    (task,) = world.submit("chain", 1)
    facts, handle = world.checkers.facts[task], world.handle(task)
    until(world, lambda: facts.copies > 0)
    assert (facts.copies, facts.durable) == (peers, True)
    dark(world)
    assert handle.outcome is not None
    assert not facts.lost


def test_the_power_fails_in_the_moment_of_the_end() -> None:
    """It has ended, and nothing of it is done again."""
    world = begun()
    (task,) = world.submit("chain", 1)
    handle = world.handle(task)
    until(world, lambda: handle.outcome is not None)
    claims = world.checkers.rows[Phase.WAIT, Cause.CLAIM]
    dark(world)
    (record,) = [record for process in world.alive() if (record := process.state.ledger.record(task)) is not None]
    assert record.phase is Phase.READY
    assert world.checkers.rows[Phase.WAIT, Cause.CLAIM] == claims


def test_a_disk_that_was_full_is_not_relied_on() -> None:
    world = begun()
    for process in world.alive():
        assert process.disk is not None
        process.disk.is_full = True
    (task,) = world.submit("chain", 1)
    world.run(5_000)
    facts = world.checkers.facts[task]
    assert (facts.copies, facts.durable) == (2, False)
