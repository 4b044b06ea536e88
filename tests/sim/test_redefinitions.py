"""Namespaces are redefined again and again while tasks come, and while other things go wrong: no task mixes two
definitions, and no value of one is taken for a value of another.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

import pytest

from scatterzmq.core.cache import cache_key
from scatterzmq.core.events import MessageReceived
from scatterzmq.core.ledger import CacheKey
from scatterzmq.core.messages import LoadGraph
from scatterzmq.core.values import Value
from scatterzmq.graph.check import check
from scatterzmq.graph.plan import Plan
from scatterzmq.sim.checkers import Violation
from scatterzmq.sim.clients import Batch, SimClient
from scatterzmq.sim.corpus import CORPUS, describe
from scatterzmq.sim.options import Options
from scatterzmq.sim.oracle import Expected, expected
from scatterzmq.sim.world import OPERATOR, World

NAMESPACES = ("cached", "chain", "recursion")
EVERY_US = 1_000_000
VERSIONS = 12


@lru_cache(maxsize=64)
def version(ns: str, number: int) -> Plan:
    """A namespace of the corpus, with other numbers in its nodes each time."""
    graphs = json.loads(json.dumps(CORPUS[ns]()))
    for graph in graphs:
        for node in graph["nodes"]:
            if "by" in node["args"]:
                node["args"]["by"] += 16 * number
    return check({"ns": ns, "entry": graphs[0]["name"], "graphs": graphs}, describe).require()


@dataclass(frozen=True, slots=True)
class OneOf(Expected):
    """How a task may end that was submitted to one definition, and then, as that was out of date, to another."""

    others: tuple[Expected, ...] = ()

    def fits(self, value: int) -> bool:
        return any(other.fits(value) for other in self.others)


class Redefining(World):
    """A world in which namespaces get other definitions. numbers: of those that hold."""

    def __init__(self, options: Options) -> None:
        self.numbers = dict.fromkeys(NAMESPACES, 0)
        self.definitions: Counter[bytes] = Counter()
        self._whom = Random(f"{options.seed}:redefine")
        super().__init__(options)

    def plan(self, ns: str) -> Plan:
        return version(ns, self.numbers[ns])

    def plan_load(self) -> None:
        super().plan_load()
        for turn in range(1, VERSIONS + 1):
            self.at(turn * EVERY_US, self._redefine, turn)

    def heal(self) -> None:
        super().heal()
        self.at(self.now_us + EVERY_US, self._tell)

    def _redefine(self, turn: int) -> None:
        self.numbers = dict.fromkeys(NAMESPACES, turn)
        self._tell()

    def _tell(self) -> None:
        """Somebody loads what holds now; again, as whoever was told before may be gone."""
        for ns in NAMESPACES if self.alive() else ():
            process = self._whom.choice(self.alive())
            message = LoadGraph(mid=2, definition=self.plan(ns).definition, replace=True)
            process.post(0, process.tell, MessageReceived(sender=OPERATOR, message=message))
        if self.now_us < int(self.options.safety_s * 1e6):
            self.at(self.now_us + EVERY_US // 2, self._tell)

    def again(self, client: SimClient, batch: Batch) -> Batch:
        """What was refused as out of date, for the definition that holds now."""
        plan = self.plan(batch.message.ns)
        if batch.message.digest != plan.digest:
            for task in batch.open:
                facts = self.checkers.facts[task]
                known = facts.expected.others if isinstance(facts.expected, OneOf) else (facts.expected,)
                facts.expected = OneOf(others=(*known, expected(plan, facts.value)))
            batch.message = replace(batch.message, digest=plan.digest)
            self.definitions[plan.digest] += 1
        batch.message = replace(batch.message, nonce=self.nonce())
        return batch


def resubmit(self: SimClient, batch: Batch) -> None:
    """As a library does that looks the namespace up again."""
    assert isinstance(self.world, Redefining)
    if not self.is_dead:
        self._submit(self.world.again(self, batch.rest(self._mid(), self.world.nonce())))


def world_of(seed: int, monkeypatch: pytest.MonkeyPatch, **faults: float) -> Redefining:
    monkeypatch.setattr(SimClient, "_submit_again", resubmit)
    options = Options(
        seed=seed,
        peers=4,
        executors=(1, 1, 0, 1),
        clients=2,
        tasks=160,
        batch_max=4,
        load_s=13.0,
        safety_s=15.0,
        domain=6,
        namespaces=NAMESPACES,
        exec_ms=100.0,
        faults=faults,
        sections={"tasks": {"max_retries": 1000}},
    )
    return Redefining(options)


@pytest.mark.parametrize("seed", range(3))
def test_tasks_end_by_the_definition_that_they_came_to(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"loss": 0.05, "dup": 0.1, "reorder": 0.2, "cut": 6.0, "bounce": 8.0, "crash": 4.0, "evict": 60.0}
    world = world_of(seed, monkeypatch, **rates)
    world.whole()
    assert len(world.fired) >= len(rates) - 2
    assert len(world.definitions) > 1, "hardly a submission met another definition"


def test_a_key_without_its_definition_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(_: bytes, inputs: Iterable[tuple[str, Value]]) -> CacheKey | None:
        return cache_key(bytes(32), inputs)

    monkeypatch.setattr("scatterzmq.core.travel.cache_key", blind)
    with pytest.raises(Violation, match="expected"):
        world_of(1, monkeypatch).whole()
