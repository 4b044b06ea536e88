"""The trace of a run: a digest that tells two runs apart, and on demand the lines of the story."""

import re
from collections.abc import Iterable
from hashlib import blake2b

from ..wire.frames import Frame

_LONG_ID = re.compile(r"'?([A-Z])([0-9a-f]{32})'?")
_BYTES = re.compile(r"(?<!\w)b'(?:[^'\\]|\\.)*'|(?<!\w)b\"(?:[^\"\\]|\\.)*\"")
LINES_MAX = 200_000
CHUNK_BYTES = 1 << 16
"""The digest is fed with so much at once: most of what happens is a few bytes."""
WIDTH = 400


class Trace:
    """events: of all cores. texts: None unless lines are wanted. names: id -> how it is called in the lines."""

    def __init__(self, *, is_told: bool = False) -> None:
        self.texts: list[str] | None = [] if is_told else None
        self.names: dict[str, str] = {}
        self.events = 0
        self._digest = blake2b(digest_size=16)
        self._undigested = bytearray()

    def digest(self) -> str:
        self._feed()
        return self._digest.hexdigest()

    def frames(self, way: tuple[str, str], frames: Iterable[Frame]) -> None:
        """A message was sent."""
        self._undigested += f"{way[0]}>{way[1]}".encode()
        for frame in frames:
            self._undigested += frame
        if len(self._undigested) > CHUNK_BYTES:
            self._feed()

    def event(self, now_us: int, who: str, event: object, actions: tuple[object, ...]) -> None:
        """A core handled an event."""
        self.events += 1
        names = [type(action).__name__ for action in actions]
        self._undigested += f"{now_us} {who} {type(event).__name__} {names}".encode()
        if self.texts is not None:
            self._line(now_us, who, f"{self.told(event)}")
            for action in actions:
                self._line(now_us, who, f"    -> {self.told(action)}")

    def note(self, now_us: int, who: str, text: str) -> None:
        """Something happened to the world."""
        self._undigested += f"{now_us} {who} {text}".encode()
        if self.texts is not None:
            self._line(now_us, who, text)

    def told(self, thing: object) -> str:
        """One line about anything."""
        text = _BYTES.sub("b..", repr(thing))
        return _LONG_ID.sub(self._short, text)[:WIDTH]

    def name(self, id_: str) -> str:
        return self.names.get(id_, id_[:1] + id_[-5:])

    def _short(self, match: re.Match[str]) -> str:
        return self.name(match[1] + match[2])

    def _feed(self) -> None:
        self._digest.update(self._undigested)
        self._undigested.clear()

    def _line(self, now_us: int, who: str, text: str) -> None:
        assert self.texts is not None
        if len(self.texts) < LINES_MAX:
            self.texts.append(f"{now_us / 1000:12.3f} {who:6} {text}")
