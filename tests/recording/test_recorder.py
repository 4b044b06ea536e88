"""The recorder: what it writes and when, and how it ends before the peer does."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from scatterzmq.core.actions import Report
from scatterzmq.core.events import TimerFired
from scatterzmq.errors import ConfigError
from scatterzmq.recording import Recorder, RecordingFile, recorder
from scatterzmq.settings import EventSettings
from tests.recording.life import LIFE, beginning, recorded_core

LONG_S = 30.0
"""Only matters when something is wrong."""


class Heard:
    """What a recorder reports."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.news = threading.Event()

    def __call__(self, name: str, context: Any, /) -> None:
        self.events.append((name, dict(context)))
        self.news.set()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def started(tmp_path: Path, heard: Heard) -> Iterator[Callable[..., Recorder]]:
    with ExitStack() as stack:

        def start(**settings: Any) -> Recorder:
            settings = {"record": str(tmp_path / "peer.rec")} | settings
            made = Recorder(EventSettings(**settings), beginning(), heard)
            stack.callback(made.close)
            return made

        yield start


def events_in(path: Path) -> list[object]:
    with closing(RecordingFile(str(path))) as recording:
        assert recording.beginning == beginning()
        return [recorded.event for recorded in recording]


def test_what_came_is_what_is_read(started: Callable[..., Recorder], heard: Heard, tmp_path: Path) -> None:
    made = started()
    core = recorded_core(made.add)
    for event, now_ms in LIFE:
        core.handle(event, now_ms)
    made.close()
    made.close()
    made.add(*LIFE[0], ())  # too late
    assert events_in(tmp_path / "peer.rec") == [event for event, _ in LIFE]
    assert heard.events == []
    assert (tmp_path / "peer.rec").stat().st_mode & 0o777 == 0o600


def test_it_is_on_disk_before_long(started: Callable[..., Recorder], tmp_path: Path) -> None:
    """A peer that is killed has written all but its last moment."""
    made = started()
    recorded_core(made.add).handle(*LIFE[0])
    file = tmp_path / "peer.rec"
    pause = threading.Event()
    for _ in range(int(LONG_S / 0.05)):
        if file.stat().st_size and events_in(file):
            break
        pause.wait(0.05)
    assert events_in(file) == [LIFE[0][0]]


def test_it_wakes_up_once_for_many_events(
    started: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "WRITE_S", LONG_S)
    written: list[int] = []
    write = os.write

    def noted(file: int, data: bytes) -> int:
        written.append(len(data))
        return write(file, data)

    monkeypatch.setattr(os, "write", noted)
    made = started()
    for _ in range(1000):
        made.add(TimerFired(), 5, ())
    made.close()
    assert len(written) == 1
    assert len(events_in(tmp_path / "peer.rec")) == 1000


def test_it_ends_when_it_is_full(started: Callable[..., Recorder], heard: Heard, tmp_path: Path) -> None:
    """And the peer lives on."""
    file = tmp_path / "peer.rec"
    made = started(record_bytes=8192)
    report = Report(name="x", context={"text": "y" * 100})
    for _ in range(1000):
        made.add(TimerFired(), 5, (report,))
    made.close()
    events = len(events_in(file))
    assert heard.events == [("warning.record.full", {"file": str(file), "events": events})]
    assert events > 10
    assert 8192 - 100 < file.stat().st_size <= 8192


def test_a_disk_that_fails(started: Callable[..., Recorder], heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    made = started()
    made.add(*LIFE[0], ())
    assert heard.news.wait(LONG_S)
    ((name, context),) = heard.events
    assert (name, context["message"]) == ("warning.record.failed", "No space left on device")
    made.add(*LIFE[0], ())


def test_what_cannot_be_packed(started: Callable[..., Recorder], heard: Heard) -> None:
    """Not even then the peer ends."""
    made = started()
    made.add(TimerFired(), 1 << 70, ())
    ((name, context),) = heard.events
    assert name == "warning.record.failed"
    assert context["message"].startswith("an event of TimerFired cannot be packed: ")


def test_the_one_before_is_set_aside(started: Callable[..., Recorder], tmp_path: Path) -> None:
    """A peer that died and is started again must not wipe out what it died of."""
    file, before = tmp_path / "peer.rec", tmp_path / "peer.rec.1"
    for event, now_ms in LIFE[:3]:
        made = started()
        made.add(event, now_ms, ())
        made.close()
    assert events_in(file) == [LIFE[2][0]]
    assert events_in(before) == [LIFE[1][0]]
    assert sorted(tmp_path.iterdir()) == [file, before]


def test_other_files_are_left_alone(started: Callable[..., Recorder], tmp_path: Path) -> None:
    file, before = tmp_path / "peer.rec", tmp_path / "peer.rec.1"
    for other in (file, before):
        other.write_text("a letter")
        with pytest.raises(ConfigError, match=f"events.record: {file}: {other} is there and is no recording; give"):
            started()
        assert other.read_text() == "a letter"
        other.unlink()
    with pytest.raises(ConfigError, match=f"events.record: {tmp_path}: {tmp_path} is there and is no recording"):
        started(record=str(tmp_path))
    missing = tmp_path / "missing" / "peer.rec"
    with pytest.raises(ConfigError, match=f"events.record: {missing}: cannot be opened: No such file or directory"):
        started(record=str(missing))
