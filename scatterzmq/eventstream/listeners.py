"""The listeners that come with it: lines for people, JSON lines, a file.

A line of JSON: {"time": "2026-01-31T12:00:00.123Z", "clock_ms": 123, "event": "peer.join", "source": "...",
"context": {...}}.
"""

import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from ..errors import ConfigError
from .event import Event, Listener

FILE_BYTES_MAX = 64 << 20
"""Then a file is kept as FILE.1, in place of the one before, and begun anew: at most twice as much in all."""

VALUE_CHARS_MAX = 300
"""What people are shown of one value; machines get all of it."""


def line_for_people(event: Event) -> str:
    """ "12:00:00.123 peer.join peer=P12 reason="it left" """
    time = datetime.fromtimestamp(event.time_ms / 1000, UTC).astimezone()
    parts = [
        f"{time:%H:%M:%S}.{event.time_ms % 1000:03d}",
        *([f"[{event.source}]"] if event.source else []),
        event.name,
    ]
    parts += [f"{key}={_shown(value)}" for key, value in event.context.items()]
    return " ".join(parts)


def _shown(value: str | float) -> str:
    """One word. What others say may hold anything, also what terminals obey."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if len(text) > VALUE_CHARS_MAX:
        text = text[: VALUE_CHARS_MAX - 3] + "..."
    if text.isprintable() and text and not set(text) & set(' "='):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def line_of_json(event: Event) -> str:
    time = datetime.fromtimestamp(event.time_ms / 1000, UTC)
    return json.dumps(
        {
            "time": f"{time:%Y-%m-%dT%H:%M:%S}.{event.time_ms % 1000:03d}Z",
            "clock_ms": event.clock_ms,
            "event": event.name,
            "source": event.source,
            "context": dict(event.context),
        }
    )


class StreamListener(Listener):
    """Lines on a stream. stream: None for whatever sys.stdout is at the time."""

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        self.name = "stdout-json" if as_json else "stdout"
        self._stream = stream
        self._line = line_of_json if as_json else line_for_people

    def take(self, event: Event, /) -> None:
        stream = sys.stdout if self._stream is None else self._stream
        stream.write(self._line(event) + "\n")
        stream.flush()


class FileListener(Listener):
    """JSON lines at the end of a file. Raises ConfigError if it cannot be opened.

    When it has grown too large, it is set aside. When somebody else has moved it away, a new one is begun: that is all
    that programs which look after logs ask for.
    """

    def __init__(self, path: str, *, bytes_max: int = FILE_BYTES_MAX) -> None:
        self.name = f"file:{path}"
        self._path = Path(path)
        self._bytes_max = bytes_max
        self._file = -1
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"events.listeners: {self.name}: cannot be opened: {error.strerror}") from error

    def take(self, event: Event, /) -> None:
        line = line_of_json(event).encode() + b"\n"
        if not self._is_in_place(len(line)):
            self.close()
            self._open()
        while line:
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _is_in_place(self, more_bytes: int) -> bool:
        """Whether the open file is the one at the path, with room for more."""
        opened = os.fstat(self._file)
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        if (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino):
            return False
        if opened.st_size + more_bytes <= self._bytes_max or not opened.st_size:
            return True
        with suppress(FileNotFoundError):  # another peer with the same file was quicker
            os.replace(self._path, f"{self._path}.1")
        return False
