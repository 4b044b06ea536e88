"""Whole runs: the same seed is the same run, everything drains, and what is wrong is told."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from scatterzmq.core.cachemessages import CACHE_KEY_BYTES, CachePut
from scatterzmq.core.cacheowners import CacheOwners
from scatterzmq.core.leases import Leases
from scatterzmq.core.messages import Attach
from scatterzmq.core.peermessages import AnyMessage, Heartbeat
from scatterzmq.ids import TaskId
from scatterzmq.sim.checkers import ALL_EVERY, Checkers, Violation
from scatterzmq.sim.forge import forge
from scatterzmq.sim.network import LIMITS
from scatterzmq.sim.options import Options, draw
from scatterzmq.sim.payload import column_of
from scatterzmq.sim.runs import Coverage, run, sweep
from scatterzmq.sim.world import World
from scatterzmq.wire.columns import Column
from scatterzmq.wire.frames import decode, encode
from scatterzmq.wire.refusal import Reject, WireError
from tests.sim.test_scenarios import new_world

SEEDS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line[:1].isdigit()
]


def test_one_seed_is_one_run_whatever_the_hash_seed() -> None:
    digest = run(draw(4)).digest
    assert run(draw(4)).digest == digest
    assert run(draw(5)).digest != digest
    program = "from scatterzmq.sim.runs import run; from scatterzmq.sim.options import draw; print(run(draw(4)).digest)"
    for hash_seed in ("1", "77"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == digest


def test_a_told_run_is_the_same_run() -> None:
    told = run(draw(6), is_told=True)
    assert told.digest == run(draw(6)).digest
    assert told.texts


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_that_failed_once(seed: int) -> None:
    assert not run(draw(seed)).wrong


def test_who_has_no_copy_any_more_may_hear_of_a_deletion_only_when_it_compares() -> None:
    """Found by simulation: one holder was silent for too long, the other a suspect just then. A third peer got the copy
    instead of both, and the task was deleted at once. Its owner had just compared with the suspect.
    """
    faults = {"dup": 0.2, "delay": 0.1, "pause": 30.0, "cut": 40.0, "one_way": 20.0, "client_crash": 5.0, "loss": 0.05}
    options = Options(
        seed=32,
        peers=4,
        tasks=30,
        load_s=5.0,
        safety_s=15.0,
        executors=(1, 1, 0, 1),
        clears=0.9,
        faults=faults,
        sections={"cluster": {"replicas": 3}},
    )
    assert not run(options).wrong


def test_random_lives() -> None:
    """The ordinary seeds: of one peer, and of many. Together they come through everything there is."""
    many = [*(draw(seed, peers=1) for seed in range(50)), *(draw(seed) for seed in range(1000, 1450))]
    coverage = Coverage()
    wrong = {}
    for result in sweep(many, jobs=2):
        coverage.add(result)
        if result.wrong:
            wrong[result.options.seed, result.options.peers] = result.wrong
    sys.stdout.write("\n".join(coverage.lines()) + "\n")
    assert not wrong
    assert not coverage.missing()


def test_what_was_not_covered_is_named() -> None:
    coverage = Coverage()
    assert {"stale_queue", "defer/rest", "frame_index"} <= set(coverage.missing())
    coverage.add(run(draw(4)))
    assert "init/queue" not in coverage.missing()
    assert coverage.lines()[-1].startswith("never: ")


# ---- what is wrong is found in time


def test_a_task_that_is_wrong_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = new_world(1, check_every=ALL_EVERY)
    monkeypatch.setattr(Leases, "lend", lambda self, lease: self._own.update({lease.executor: lease}))
    begun = world.peer(0).events
    world.submit("chain", 1, at=0)
    with pytest.raises(Violation, match="at work, and nobody has it"):
        world.run(1_000)
    assert world.peer(0).events - begun == 1


def test_whatever_else_is_wrong_is_found_soon() -> None:
    world = new_world(2, check_every=0)
    process = world.peer(1)
    world.run(1_000)
    begun = process.events
    process.state.ledger._read += 1
    with pytest.raises(AssertionError):
        world.run(60_000)
    assert process.events - begun <= ALL_EVERY


def test_a_task_that_stops_is_found_within_the_time_that_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: an executor hangs, and its lease does not end."""
    monkeypatch.setattr(Leases, "expire", lambda *_: [])
    monkeypatch.setattr(Leases, "deadline_ms", lambda *_: None)
    result = run(Options(seed=0, tasks=5, load_s=5.0, safety_s=15.0, faults={"exec_hang": 1.0}))
    assert "has neither ended nor advanced for 60 s" in result.wrong
    assert 75_000_000 < result.now_us < 77_000_000


def test_much_work_for_one_executor_is_nothing_wrong() -> None:
    """Its tasks, one at a time, take longer than anything else may take."""
    sections = {"executor": {"batch_size": 1}}
    result = run(Options(seed=0, tasks=40, load_s=1.0, safety_s=2.0, exec_ms=2000.0, sections=sections))
    assert not result.wrong
    assert result.now_us > 200_000_000


EQUAL_TASKS = Options(
    seed=1,
    tasks=30,
    batch_max=1,
    load_s=1.0,
    domain=5,
    namespaces=("cached", "chain"),
    safety_s=2.0,
    check_every=10**9,
    exec_ms=2000.0,
    sections={"executor": {"batch_size": 1}},
)
"""A long line, in which many wait for what others compute."""


@pytest.mark.parametrize("executors", [(1,), (1, 0)])
def test_who_waits_for_a_value_that_is_made_late_is_nothing_wrong(executors: tuple[int, ...]) -> None:
    """Who computes it stands in the line, which moves, at this peer or at another one."""
    result = run(replace(EQUAL_TASKS, peers=len(executors), executors=executors, clients=len(executors)))
    assert not result.wrong
    assert result.now_us > 120_000_000


def test_who_waits_for_a_value_that_was_made_is_found_while_others_get_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: nobody is told of a value that is there."""
    monkeypatch.setattr(CacheOwners, "put", lambda *_: None)
    world = World(EQUAL_TASKS)
    with pytest.raises(Violation, match="has neither ended nor advanced for 60 s") as caught:
        world.whole()
    (task,) = caught.value.tasks
    (leader,) = world.checkers._leaders(task)
    ended_us = world.checkers.facts[leader].advanced_us
    assert 60_000_000 < world.now_us - ended_us < 62_000_000
    assert world.now_us - world.checkers._advanced_us < 3_000_000


def test_work_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: something always gets on, and no client is ever told."""
    monkeypatch.setattr(Checkers, "advancing", lambda *_: None)
    monkeypatch.setattr(Leases, "expire", lambda *_: [])
    monkeypatch.setattr(Leases, "deadline_ms", lambda *_: None)
    result = run(Options(seed=0, tasks=5, load_s=5.0, safety_s=15.0, faults={"exec_hang": 1.0}))
    assert result.wrong == "after 121 s without faults 5 tasks have no end"
    assert result.now_us == 136_000_000


def test_what_is_forged_is_no_message() -> None:
    """And it is forged in every way there is to refuse one."""
    messages: list[tuple[AnyMessage, dict[str, Column]]] = [
        (Heartbeat(seq=1, idle=0, missing=(), dead=(), dead_incarnations=(), queues=0, pointers=b""), {}),
        (
            CachePut(key=bytes(CACHE_KEY_BYTES), id=TaskId("T" + "0" * 32), output="", digests={}),
            {"value": column_of([7])},
        ),
        (Attach(ids=(TaskId("T" + "0" * 32),)), {}),
    ]
    chance, reasons = Random(1), set()
    for at in range(1_500):
        message, columns = messages[at % len(messages)]
        forged = forge(chance, encode(message, columns), LIMITS)
        if forged is not None:
            with pytest.raises(WireError) as caught:
                decode(forged, LIMITS)
            reasons.add(caught.value.reason)
    assert reasons == set(Reject)
