"""Patterns of event names.

"measure" matches all names that begin with that segment; ".task" and ".task.retry" those with that segment, or these in
a row, anywhere; "!debug.task" takes back whatever else the others disable. Segments match as a whole.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..errors import ConfigError

Segments: TypeAlias = tuple[str, ...]


def disabled_by(patterns: Sequence[str], key: str = "events.disable") -> Callable[[str], bool]:
    """Says of a name whether it is disabled. Raises ConfigError for what is no pattern. key: the setting."""
    disabling = [_segments(pattern, key) for pattern in patterns if not pattern.startswith("!")]
    taking_back = [_segments(pattern, key) for pattern in patterns if pattern.startswith("!")]

    def is_disabled(name: str) -> bool:
        segments = tuple(name.split("."))
        if any(_matches(segments, *pattern) for pattern in taking_back):
            return False
        return any(_matches(segments, *pattern) for pattern in disabling)

    return is_disabled


def _segments(pattern: str, key: str) -> tuple[Segments, bool]:
    """The segments, and whether they may be anywhere."""
    bare = pattern.removeprefix("!")
    segments = tuple(bare.removeprefix(".").split("."))
    if not all(segment and segment.isprintable() and not set(segment) & set("!* ") for segment in segments):
        raise ConfigError(f"{key}: expected a pattern such as 'measure', '.task' or '!debug.task', got {pattern!r}")
    return segments, bare.startswith(".")


def _matches(name: Segments, pattern: Segments, anywhere: bool) -> bool:
    size = len(pattern)
    starts = range(len(name) - size + 1) if anywhere else (0,)
    return any(name[start : start + size] == pattern for start in starts)
