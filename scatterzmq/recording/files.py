"""A recording as a file: what a peer began as, then every event of its core with the time and the marks of its actions.

    the line "scatterzmq recording", then records: length, its complement, CRC-32 (each 4 bytes, little-endian), msgpack
    first   [format, version of the program, time, settings (JSON), contact, nonce, reports per task]
    others  [now_ms, event, marks of the actions (nil: the core raised)]

Rules     1. It is only ever added to. What a killed process has not written to its end is seen to be cut, and is no
             damage; anything else that does not fit is.
          2. A reader of another format says so, and which program wrote it.
"""

import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from ..core.events import Event
from ..core.peermessages import Contact
from ..errors import ConfigError
from ..settings import Settings
from ..wire.frames import packed, unpacked
from ..wire.refusal import Reject, WireError
from ..wire.schema import record
from .packed import LIMITS, MARK_BYTES, packed_event, unpacked_event

MAGIC = b"scatterzmq recording\n"
FORMAT = 1
"""Changes whenever an older program could not read it, or would read it as something else."""
_HEAD = struct.Struct("<III")
_CONTACT = record(Contact)
_U32 = (1 << 32) - 1


class BadRecording(ValueError):  # noqa: N818 -- it says what is wrong
    """A file is no recording that can be read: in one line, where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a core was made of.

    program: the version that wrote it. time: wall clock, since 1970. The rest as for core/peer.py PeerCore; strategies
    are those that the settings name.
    """

    program: str
    time_s: float
    settings: Settings
    me: Contact
    nonce: bytes
    tells: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event. number: from 1. marks: of the actions it led to (recording/packed.py); None if the core raised."""

    number: int
    now_ms: int
    event: Event
    marks: tuple[bytes, ...] | None


def framed(payload: bytes) -> bytes:
    """A record. Raises OverflowError for one of 4 GiB."""
    size = len(payload)
    if size > _U32:
        raise OverflowError(f"an event of {size} bytes")
    return _HEAD.pack(size, size ^ _U32, crc32(payload)) + payload


def packed_beginning(beginning: Beginning) -> bytes:
    """How a recording begins."""
    settings = json.dumps(asdict(beginning.settings))
    contact = _CONTACT.pack(beginning.me)
    fields = (FORMAT, beginning.program, beginning.time_s, settings, contact, beginning.nonce, sorted(beginning.tells))
    return MAGIC + framed(packed(fields))


def packed_record(now_ms: int, event: Event, marks: tuple[bytes, ...] | None) -> bytes:
    return framed(packed((now_ms, packed_event(event), None if marks is None else b"".join(marks))))


def is_recording(path: Path) -> bool:
    """Whether a file begins as one does. Raises OSError."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class RecordingFile:
    """A recording to be read, once through. beginning: what the core was made of.

    cut: after the last event, whether the file ends in the middle of another one. Raises BadRecording.
    """

    def __init__(self, path: str) -> None:
        self.cut = False
        self._path = path
        self._at = 0
        with ExitStack() as opened:
            try:
                self._file: BinaryIO = opened.enter_context(open(path, "rb"))
                magic = self._file.read(len(MAGIC))
            except OSError as error:
                raise BadRecording(f"{path}: cannot be read: {error.strerror or error}") from error
            if magic != MAGIC:
                raise BadRecording(f"{path}: is no recording of a peer (see events.record)")
            self.beginning = self._beginning()
            self._closing = opened.pop_all()

    def close(self) -> None:
        self._closing.close()

    def __iter__(self) -> Iterator[Recorded]:
        number = 1
        while (payload := self._record(f"event {number}")) is not None:
            try:
                yield _recorded(number, unpacked(payload, LIMITS, Reject.BODY))
            except WireError as error:
                raise self._damaged(f"event {number}", error.detail) from None
            number += 1

    # ---- inside

    def _beginning(self) -> Beginning:
        payload = self._record("what it begins with")
        if payload is None:
            raise BadRecording(f"{self._path}: ends before its first event: nothing was recorded")
        try:
            return self._begun(unpacked(payload, LIMITS, Reject.BODY))
        except (WireError, json.JSONDecodeError) as error:
            raise self._damaged("what it begins with", str(error)) from None
        except ConfigError as error:
            raise BadRecording(f"{self._path}: was recorded with settings that do not hold here: {error}") from None

    def _begun(self, fields: tuple[Any, ...]) -> Beginning:
        match fields:
            case (int() as format_, str() as program, *_) if format_ != FORMAT:
                text = f"was recorded by scatterzmq {program} in format {format_}, this one reads format {FORMAT}"
                raise BadRecording(f"{self._path}: {text}: replay it with that version")
            case (int(), str() as program, float() as time_s, str() as settings, me, bytes() as nonce, tuple() as told):
                return Beginning(
                    program=program,
                    time_s=time_s,
                    settings=Settings.of(json.loads(settings)),
                    me=_CONTACT.unpack(me, LIMITS),
                    nonce=nonce,
                    tells=frozenset(told),
                )
        raise WireError(Reject.BODY, "expected seven fields")

    def _record(self, what: str) -> bytes | None:
        """The next one; None at the end. Raises BadRecording."""
        self._at = self._file.tell()
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            self.cut = bool(head)
            return None
        size, complement, checksum = _HEAD.unpack(head)
        if size ^ complement != _U32:
            raise self._damaged(what, "its length is none")
        payload = self._file.read(size)
        if len(payload) < size:
            self.cut = True
            return None
        if crc32(payload) != checksum:
            raise self._damaged(what, "its checksum does not match")
        return payload

    def _damaged(self, what: str, why: str) -> BadRecording:
        return BadRecording(f"{self._path}: {what} (at byte {self._at}) is damaged: {why}")


def _recorded(number: int, fields: tuple[Any, ...]) -> Recorded:
    match fields:
        case (int() as now_ms, event, (bytes() | None) as marks):
            return Recorded(number=number, now_ms=now_ms, event=unpacked_event(event), marks=_marks(marks))
    raise WireError(Reject.BODY, "expected [time, event, marks]")


def _marks(raw: bytes | None) -> tuple[bytes, ...] | None:
    if raw is None:
        return None
    if len(raw) % MARK_BYTES:
        raise WireError(Reject.BODY, f"expected marks of {MARK_BYTES} bytes each")
    return tuple([raw[start : start + MARK_BYTES] for start in range(0, len(raw), MARK_BYTES)])
