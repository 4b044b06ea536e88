"""The recorder: writes what a peer's core handles into a file while the peer works.

Purpose   A peer that misbehaves where nobody can look can be run again, event by event, where everybody can
          (`python -m scatterzmq.sim replay FILE`).
Rules     1. The peer never waits for the disk, and lives on whatever becomes of the recording: at its bound in bytes,
             or when the disk fails, it ends with one warning.
          2. A thread writes what has come, at the latest WRITE_S after it came. Nobody wakes up while nothing comes.
          3. A recording that is there already is set aside as FILE.1, in place of the one before; another file is left
             alone, and the peer does not start.
"""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ..core.actions import Action
from ..core.events import Event
from ..core.peer import PeerCore
from ..errors import ConfigError
from ..settings import EventSettings
from .files import Beginning, is_recording, packed_beginning, packed_record
from .packed import marks_of

WRITE_S = 0.5

Record: TypeAlias = Callable[[Event, int, tuple[Action, ...] | None], None]
"""Gets an event, when it came, and what the core wants done about it; None if it raised."""


class Report(Protocol):
    def __call__(self, name: str, context: Mapping[str, str | int | float], /) -> None: ...


class RecordedCore(PeerCore):
    """A core whose events are recorded."""

    def __init__(self, *args: Any, record: Record, **options: Any) -> None:
        super().__init__(*args, **options)
        self._record = record

    def handle(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        actions = None
        try:
            actions = super().handle(event, now_ms)
            return actions
        finally:
            self._record(event, now_ms, actions)


class Recorder:
    """Opened; `add` is for the core's thread. report: told why it ends before the peer, from any thread.

    Raises ConfigError.
    """

    def __init__(self, settings: EventSettings, beginning: Beginning, report: Report) -> None:
        assert settings.record is not None
        self._path = settings.record
        self._report = report
        self._left = settings.record_bytes
        self._events = 0
        self._news = threading.Condition()
        self._pending: list[bytes] = []
        self._is_over = False
        self._file = _opened(Path(self._path))
        self._thread = threading.Thread(target=self._write_all, name="scatterzmq-recorder", daemon=True)
        self._thread.start()
        self._put(packed_beginning(beginning))

    def add(self, event: Event, now_ms: int, actions: tuple[Action, ...] | None) -> None:
        """Another event was handled."""
        if self._is_over:
            return
        try:
            data = packed_record(now_ms, event, None if actions is None else marks_of(actions))
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            self._fail(f"an event of {type(event).__name__} cannot be packed: {error}")
            return
        if self._put(data):
            self._events += 1

    def close(self) -> None:
        """Write what there is, and end. A second call changes nothing."""
        with self._news:
            self._is_over = True
            self._news.notify()
        self._thread.join()

    # ---- inside

    def _put(self, data: bytes) -> bool:
        """False if that would be too much, which ends it."""
        self._left -= len(data)
        if self._left < 0:
            self._end("warning.record.full", {"file": self._path, "events": self._events})
            return False
        with self._news:
            if not self._pending:  # else the thread knows, and waits for more
                self._news.notify()
            self._pending.append(data)
        return True

    def _fail(self, reason: str) -> None:
        self._end("warning.record.failed", {"file": self._path, "events": self._events, "message": reason})

    def _end(self, name: str, context: Mapping[str, str | int | float]) -> None:
        with self._news:
            is_first, self._is_over = not self._is_over, True
            self._news.notify()
        if is_first:
            self._report(name, context)

    def _write_all(self) -> None:
        """In the recorder's thread."""
        try:
            while self._write_some():
                pass
        except OSError as error:
            self._fail(error.strerror or str(error))
        finally:
            os.close(self._file)

    def _write_some(self) -> bool:
        """What has come in a while. False when nothing comes any more."""
        with self._news:
            self._news.wait_for(lambda: self._pending or self._is_over)
            self._news.wait_for(lambda: self._is_over, WRITE_S)
            pending, self._pending = self._pending, []
            goes_on = not self._is_over
        data = memoryview(b"".join(pending))
        while data:
            data = data[os.write(self._file, data) :]
        return goes_on


def _opened(path: Path) -> int:
    """A new file that only this user can read: it holds definitions, names and error messages."""
    where = f"events.record: {path}"
    try:
        for name in (path, Path(f"{path}.1")):
            if name.exists() and not is_recording(name):
                raise ConfigError(f"{where}: {name} is there and is no recording; give another name")
        if path.exists():
            os.replace(path, f"{path}.1")
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be opened: {error.strerror}") from error
