"""The blobs of one peer put together: whoever waits for work of its threads hears how it ended, whatever happened."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue

import pytest

from scatterzmq.blobs.service import BlobService
from scatterzmq.core.blobmessages import BlobWord
from scatterzmq.errors import BlobError
from scatterzmq.ids import ClientId, PeerId
from scatterzmq.wire.columns import Column
from tests.blobs.blobworld import Alarm

LONG_S = 60.0
"""Only matters when something is wrong."""


class Alone:
    """Links of a peer that has none, and its loop, whose turns a test takes."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.clock: Callable[[], float] = lambda: 0.0

    def peers(self) -> tuple[PeerId, ...]:
        return ()

    def hear_of_links(self, _changed: Callable[[PeerId, bool], None], /) -> None: ...

    def say_of_blob(self, _to: PeerId | ClientId, _word: BlobWord, _columns: Mapping[str, Column], /) -> None: ...

    def call(self, what: Callable[[], None]) -> None:
        self.calls.put(what)

    def later(self, _delay_s: float, _what: Callable[[], None]) -> Alarm:
        return Alarm()


@pytest.fixture
def alone() -> Alone:
    return Alone()


@pytest.fixture
def service(tmp_path: Path, alone: Alone) -> Iterator[BlobService]:
    made = BlobService(PeerId("P" + "1" * 32), lambda: tmp_path, (), alone, alone, 2)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BlobError("so it is"), "so it is"),
        (OSError(28, "no space"), "[Errno 28] no space"),
        (ValueError("a bug"), "the peer failed with ValueError: a bug; please report this"),
    ],
)
def test_work_that_fails_is_answered(service: BlobService, alone: Alone, error: Exception, said: str) -> None:
    outcomes: list[object] = []

    def fail() -> None:
        raise error

    service.work(fail, outcomes.append)
    alone.calls.get(timeout=LONG_S)()
    (outcome,) = outcomes
    assert isinstance(outcome, BlobError | OSError)
    assert f"{outcome}" == said


def test_work_that_is_done_is_answered_unless_the_peer_has_stopped(service: BlobService, alone: Alone) -> None:
    outcomes: list[object] = []
    service.work(lambda: 3, outcomes.append)
    service.work(lambda: 4, outcomes.append)
    alone.calls.get(timeout=LONG_S)()
    last = alone.calls.get(timeout=LONG_S)
    service.close()
    last()
    service.work(lambda: 5, outcomes.append)
    assert outcomes in ([3], [4])
