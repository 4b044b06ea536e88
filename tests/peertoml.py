"""Writes config/peer.toml from scatterzmq/settings.py: `python -m tests.peertoml > config/peer.toml`.

In the docstring of a section, "key: text" begins what is said about a key.
"""

import re
import sys
import textwrap
from dataclasses import Field, fields
from typing import Any

from scatterzmq.settings import KIB, MIB, Settings, is_size

_HEAD = """\
# Every setting of a peer, with its default. What is left out has the value that stands here.
#
# scatterzmq peer --config FILE reads such a file; JSON with the same keys works, too. Stronger than the file is the
# environment (SCATTERZMQ_SECTION_KEY, as SCATTERZMQ_STORE_BYTES=512MiB; lists with commas), and stronger than that are
# flags. Sizes are numbers of bytes, or texts with a unit (kB, MB, GB: 1000; KiB, MiB, GiB: 1024).
"""


def written() -> str:
    """The text of the file."""
    parts = [_HEAD]
    for section in fields(Settings):
        values = getattr(Settings(), section.name)
        parts.append(f"\n[{section.name}]\n")
        said = said_of(type(values))
        for entry in fields(values):
            value = getattr(values, entry.name)
            about = said[entry.name][0].upper() + said[entry.name][1:]
            parts += [f"# {line}\n" for line in textwrap.wrap(about, 118, break_on_hyphens=False)]
            allowed = f"  # {_allowed(entry)}" if _allowed(entry) else ""
            parts.append(f"{entry.name} = {_toml(value, is_size(entry.name))}{allowed}\n")
    return "".join(parts)


def said_of(cls: type) -> dict[str, str]:
    """What the docstring of a section says about each of its keys. Raises KeyError if it forgets one."""
    names = "|".join(entry.name for entry in fields(cls))
    parts = re.split(rf"(?<![\w.])({names}): ", " ".join((cls.__doc__ or "").split()))
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {entry.name: said[entry.name].strip() for entry in fields(cls)}


def _allowed(entry: Field[Any]) -> str:
    """The unit and the bounds."""
    unit = "seconds" if entry.name.endswith("_s") else "bytes" if is_size(entry.name) else ""
    low, high, choices = (entry.metadata.get(name) for name in ("low", "high", "choices"))
    if choices:
        return "one of " + ", ".join(f'"{choice}"' for choice in choices)
    bounds = "" if low is None else f"{low:g} or more" if high is None or high >= 1e9 else f"{low:g} to {high:g}"
    if is_size(entry.name) and low:
        bounds = f"{_size(low)} or more"
    return ", ".join(part for part in (unit, bounds) if part)


def _size(size: int) -> str:
    for unit, name in ((KIB * MIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def _toml(value: Any, is_size: bool) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(entry, False) for entry in value) + "]"
    if isinstance(value, str):
        assert value.isprintable(), value
        assert not set(value) & {'"', "\\"}, value
        return f'"{value}"'
    return f'"{_size(value)}"' if is_size else str(value)


if __name__ == "__main__":
    sys.stdout.write(written())
