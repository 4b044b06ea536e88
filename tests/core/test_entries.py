"""Where entries of a journal have their effect, and reports that are made only if somebody listens."""

from typing import Any

import pytest

from scatterzmq.core.entries import (
    REMOVALS,
    DefinitionGone,
    DefinitionText,
    Deleted,
    Forgotten,
    Identity,
    Kept,
    Kind,
    Lapsed,
    Neighbour,
    NeighbourGone,
    Pointed,
    key,
)
from scatterzmq.core.messages import Contact
from scatterzmq.core.outbox import PER_TASK, told_per_task
from scatterzmq.ids import PeerId, TaskId

TASK, PEER = TaskId("T" + "01" * 16), PeerId("P" + "02" * 16)
DIGEST = b"d" * 32


def entry(kind: type[Any], **fields: Any) -> Any:
    """With the fields that say what it is about, and nothing in the others."""
    blank = dict.fromkeys(kind.__dataclass_fields__)
    return kind(**blank | fields)


@pytest.mark.parametrize(
    ("writes", "removes", "where"),
    [
        (entry(Kept, id=TASK), entry(Forgotten, id=TASK), (Kind.TASK, TASK.to_bytes())),
        (entry(Deleted, id=TASK), entry(Lapsed, id=TASK), (Kind.TOMBSTONE, TASK.to_bytes())),
        (entry(DefinitionText, digest=DIGEST), entry(DefinitionGone, digest=DIGEST), (Kind.DEFINITION, DIGEST)),
        (
            Neighbour(contact=Contact(id=PEER, incarnation=1, address="tcp://a:1")),
            entry(NeighbourGone, peer=PEER),
            (Kind.NEIGHBOUR, PEER.to_bytes()),
        ),
    ],
)
def test_what_removes_has_the_key_of_what_writes(writes: Any, removes: Any, where: tuple[Kind, bytes]) -> None:
    assert key(writes) == key(removes) == where
    assert (isinstance(writes, REMOVALS), isinstance(removes, REMOVALS)) == (False, True)


def test_some_entries_are_only_replaced() -> None:
    pointer = type("Pointer", (), {"ns": "n\udc80"})()
    assert key(entry(Pointed, pointer=pointer)) == (Kind.POINTER, b"n\xed\xb2\x80")
    assert key(Identity(peer=PEER, incarnation=3)) == (Kind.IDENTITY, b"")


def test_reports_of_each_task_are_made_for_listeners_only() -> None:
    assert told_per_task(lambda name: name.startswith("cache.")) == frozenset(PER_TASK) - {"debug.task"}
