"""Frames that are read: by the real codec, and those that go to many only once."""

from collections.abc import Mapping
from typing import TypeAlias

from ..core.peermessages import AnyMessage
from ..wire.columns import Column
from ..wire.frames import Envelope, decode_opened, open_envelope
from .network import LIMITS, Frames

KEPT_MAX = 64
"""So many published messages are under way at once, about; those that are forgotten too early are read again."""

Opened: TypeAlias = tuple[Envelope, AnyMessage, Mapping[str, Column]]


class Reader:
    """Reads frames, and remembers what was published last: its receivers may share what no core ever changes."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Frames, Opened]] = {}

    def read(self, frames: Frames) -> Opened:
        """Raises WireError."""
        kept = self._kept.get(id(frames))
        if kept is not None:
            return kept[1]
        envelope = open_envelope(frames, LIMITS)
        message, columns = decode_opened(envelope, frames, LIMITS)
        opened = envelope, message, columns
        if envelope.dst is None and not columns:
            if len(self._kept) >= KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[id(frames)] = frames, opened  # as long as it is kept nothing else has its id
        return opened
