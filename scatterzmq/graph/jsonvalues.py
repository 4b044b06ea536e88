"""From what a user hands over (JSON text, or Python objects like it) to plain JSON values of our own."""

import json
from collections import Counter
from collections.abc import Mapping
from math import isfinite

from .findings import Findings, shown

_DEPTH_MAX = 64
"""Levels of nesting. The definition itself needs 7; the rest is for arguments of nodes."""
_BITS_MAX = 256
"""Of a whole number: far beyond any use, and far below where Python refuses to write one down."""


class _Object(dict[str, object]):
    """An object as it stands in the text. `repeated` has the keys that were given more than once."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.repeated = [key for key, count in counts.items() if count > 1]


def parse_json(text: str, findings: Findings) -> object:
    """The value of a JSON text; None with a problem noted if it is none."""
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        findings.problem("definition", f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except RecursionError:
        findings.problem("definition", f"nested too deeply; at most {_DEPTH_MAX} levels are allowed")
    except ValueError as error:
        findings.problem("definition", f"not JSON that can be read: {error}")
    return None


def plain(value: object, findings: Findings, path: str = "definition", depth: int = 0) -> object:
    """A deep copy made of dict, list, str, int, float, bool and None. What JSON cannot carry is noted as a problem."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _BITS_MAX:
            findings.problem(path, f"{shown(value)} is too large; at most {_BITS_MAX} bits are allowed")
            return None
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            findings.problem(path, f"{value} is not a number that JSON can carry; use a finite one")
        return float(value)
    if isinstance(value, str):
        return _text(value, findings, path)
    if depth >= _DEPTH_MAX:
        findings.problem(path, f"nested too deeply; at most {_DEPTH_MAX} levels are allowed")
        return None
    if isinstance(value, Mapping):
        for key in value.repeated if isinstance(value, _Object) else ():
            findings.warn(path, f"key {key!r:.80} is given more than once; the last one counts")
        return _object(value, findings, path, depth)
    if isinstance(value, list | tuple):
        return [plain(item, findings, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    findings.problem(path, f"a {type(value).__name__} cannot be part of a definition; use plain JSON values")
    return None


def _text(value: str, findings: Findings, path: str) -> str:
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        findings.problem(path, f"text {value!r:.80} has half of a surrogate pair, which is no character; remove it")
    return str.__str__(value)  # Not str(): a member of an enum would give its own name.


def _object(value: Mapping[object, object], findings: Findings, path: str, depth: int) -> dict[str, object]:
    made: dict[str, object] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            findings.problem(path, f"key {shown(key)} is not text; keys of a definition are text")
            continue
        inner = key if path == "definition" else f"{path}.{key}"
        made[_text(key, findings, path)] = plain(item, findings, inner[:500], depth + 1)
    return made
