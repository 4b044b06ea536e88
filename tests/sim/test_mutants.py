"""Rules taken away one at a time: the simulator must notice each. The seeds are the first found that do.

Whoever changes a rule so that its mutant lives looks for another seed (`killer` tells how), or for a missing check.
"""

from collections.abc import Callable
from typing import Any

import pytest

from scatterzmq.core.batches import Batches
from scatterzmq.core.copies import Copies
from scatterzmq.core.desk import Desk
from scatterzmq.core.leases import Leases
from scatterzmq.core.ledger import Phase
from scatterzmq.core.members import Members
from scatterzmq.core.replicas import Replicas
from scatterzmq.core.takeover import Takeover
from scatterzmq.core.travel import Travel
from scatterzmq.sim.options import draw
from scatterzmq.sim.runs import run


def _nothing(*_: Any, **__: Any) -> None:
    """A rule that is not there."""


def _committer(self: Any, _lease: Any, task: Any) -> Any:
    record = self._ledger.record(task)
    if record is None or record.phase is not Phase.BUSY or record.token is None:
        return None
    record.token = None
    return record


def _write_without_waiting(self: Any, kind: Any, records: Any, now_ms: int, then: Callable[[], None]) -> None:
    write(self, kind, records, now_ms, _nothing)
    then()


def _received_by_anybody(self: Any, sender: Any, incarnation: int, _to: int, message: Any, now_ms: int) -> bool:
    return received(self, sender, incarnation, 0, message, now_ms)


def _take_back_uncounted(self: Any, lease: Any, reason: str, *, crashed: bool, counted: bool) -> None:
    take_back(self, lease, reason, crashed=False, counted=counted)


write, received, take_back = Replicas.write, Members.received, Batches.take_back

MUTANTS: dict[str, tuple[type, str, Any, int]] = {
    # rule taken away: where it is, what is there instead, and the seed that notices
    "a commit needs the token of the lease": (Batches, "_committer", _committer, None),
    "a lease ends": (Leases, "expire", lambda *_: [], None),
    "a deleted task leaves a tombstone": (Copies, "is_dead", lambda *_: False, None),
    "a write is over when it is answered": (Replicas, "write", _write_without_waiting, None),
    "a write is repeated": (Replicas, "_repeat", _nothing, None),
    "too few copies are repaired": (Replicas, "_repair", _nothing, None),
    "tasks of a dead owner are adopted": (Takeover, "reconsider", _nothing, None),
    "a message for another life has no effect": (Members, "received", _received_by_anybody, None),
    "who kills executors is poison": (Batches, "take_back", _take_back_uncounted, None),
    "who leads a key says when it gives up": (Travel, "_abort_leads", _nothing, None),
    "a client that comes back is there again": (Desk, "heard", _nothing, None),
    "an heir says what it has no copy of": (Takeover, "_lacks", lambda *_: False, None),
}


def killer(name: str, seeds: range) -> int | None:
    """The first seed that notices that a rule is not there."""
    where, attribute, instead, _ = MUTANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, attribute, instead)
        return next((seed for seed in seeds if run(draw(seed)).wrong), None)


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_rule_taken_away_is_noticed(name: str) -> None:
    seed = MUTANTS[name][3]
    assert not run(draw(seed)).wrong, "with the rule there is nothing to notice"
    assert killer(name, range(seed, seed + 1)) == seed
