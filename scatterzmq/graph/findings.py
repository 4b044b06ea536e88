"""What is wrong with a definition: all of it is gathered, nothing raises at the first fault."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from ..errors import GraphError
from .names import hint

_SHOWN_MAX = 50


@dataclass(slots=True)
class Findings:
    """Problems refuse a definition; warnings do not.

    latent: faults in parts that no task can reach. They are warnings if the definition is sound otherwise; if not,
        they are problems too, since a fault elsewhere may be just what hides the way to that part.
    """

    problems: list[str] = field(default_factory=list)
    latent: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, place: str, text: str) -> None:
        self.problems.append(f"{place}: {text}")

    def fault(self, place: str, text: str, *, live: bool) -> None:
        """A problem where tasks can come by, else latent."""
        (self.problems if live else self.latent).append(f"{place}: {text}")

    def warn(self, place: str, text: str) -> None:
        self.warnings.append(f"{place}: {text}")

    def settled(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(problems, warnings) when everything has been looked at; each line once."""
        problems, warnings = list(self.problems), list(self.warnings)
        (problems or warnings).extend(self.latent)
        return tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(warnings))


def refusal(problems: tuple[str, ...]) -> GraphError:
    """One error that lists the problems, one per line."""
    if len(problems) == 1:
        return GraphError(problems[0])
    shown = list(problems[:_SHOWN_MAX])
    if len(problems) > _SHOWN_MAX:
        shown.append(f"... and {len(problems) - _SHOWN_MAX} more")
    return GraphError("\n".join([f"the graph definition has {len(problems)} problems:", *shown]))


class Record:
    """A JSON object that is being read: look-ups that note what is wrong, and where, instead of raising.

    unread: the keys of which something is wrong, "" for what is wrong with the whole. An optional key that is null is
        the same as one that is not there.
    """

    __slots__ = ("_findings", "_values", "place", "unread")

    def __init__(self, values: Mapping[str, object], place: str, findings: Findings) -> None:
        self._values = values
        self._findings = findings
        self.place = place
        self.unread: set[str] = set()

    def problem(self, text: str, key: str = "") -> None:
        self.unread.add(key)
        self._findings.problem(self.place, text)

    def warn_unknown(self, known: frozenset[str]) -> None:
        for key in self._values:
            if key not in known:
                advice = hint(key, known, "keys")
                advice = f"; {advice}" if advice.startswith("did") else ""
                self._findings.warn(self.place, f"unknown key {key!r:.80} is ignored{advice}")

    def required(self, key: str) -> object:
        """The value, or None with a problem noted."""
        value = self._values.get(key)
        if value is None:
            text = f"key {key!r} is missing" if key not in self._values else f"key {key!r} must not be null"
            self.problem(text, key)
        return value

    def optional(self, key: str) -> object:
        return self._values.get(key)

    def wrong(self, key: str, expected: str, value: object) -> None:
        """key: also with a part of what it holds, such as "outs.out"."""
        self.problem(f"key {key!r}: expected {expected}, got {shown(value)}", key.partition(".")[0])

    def text(self, key: str) -> str | None:
        """A required text."""
        value = self.required(key)
        if value is None or isinstance(value, str):
            return value
        self.wrong(key, "text", value)
        return None

    def mapping(self, key: str, *, required: bool) -> Mapping[str, object]:
        """An object; empty if it is not there or wrong."""
        value = self.required(key) if required else self.optional(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            self.wrong(key, "an object", value)
        return {}

    def sequence(self, key: str) -> list[object] | None:
        """A required list."""
        value = self.required(key)
        if value is None or isinstance(value, list):
            return value
        self.wrong(key, "a list", value)
        return None

    def flag(self, key: str) -> bool:
        """True or false; 0 and 1 too, since scattermind takes them."""
        value = self.optional(key)
        if value is None:
            return False
        if value is True or value is False or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        self.wrong(key, "true or false", value)
        return False

    def count(self, key: str, low: int, high: int) -> int | None:
        """A whole number with low <= number <= high."""
        value = self.optional(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.wrong(key, f"a whole number from {low} to {high}", value)
        return None

    def seconds(self, key: str, high: float) -> float | None:
        """A time above 0."""
        value = self.optional(key)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and 0 < value <= high:
            return float(value)
        self.wrong(key, f"seconds, more than 0 and at most {high:g}", value)
        return None


def shown(value: object) -> str:
    """A JSON value as it may stand in a message: short, and in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"  # Its digits may be too many to be written at all.
    return f"{value!r:.80}"
