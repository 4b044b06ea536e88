"""The settings of a peer of its own, from a file, the environment and flags.

Rules   1. Defaults < file < environment (SCATTERZMQ_SECTION_KEY) < flags, key by key.
        2. Everything that is given is checked, also what something stronger replaces.
        3. What is wrong is one line with its place (file, variable or flag), the key, what was expected and what came.
Why     A setting that is misspelt and silently ignored is found out when it is needed.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .errors import ConfigError
from .settings import Settings, checked, known_keys, likely

PREFIX = "SCATTERZMQ_"
FILE_BYTES_MAX = 1 << 20
"""Far more than all settings; whoever names a data file by mistake gets an answer at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Where settings come from. place: says where a key of it was given ("" for all of them)."""

    values: Mapping[str, Mapping[str, Any]]
    place: Callable[[str], str]

    def holds(self, key: str) -> bool:
        section, _, name = key.partition(".")
        return name in self.values.get(section, {})

    def where(self, key: str, *_: str) -> str:
        return f"{self.place(key)}: {key}" if key else self.place(key)


def load(
    file: str | None,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    flag_names: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """All settings. Raises ConfigError.

    file: TOML, or JSON if it is called so. environment: of the process; only variables with our prefix are looked at.
    flags: values by key ("health.port"); None was not given. flag_names: by key, what whoever gave the value calls it
    ("--health-port").
    """
    layers = [
        _layer({} if file is None else _sections_of(file), lambda _: str(file)),
        _layer(_of_environment(environment), lambda key: _variable(key) if key else "environment"),
        _layer(_of_flags(flags), lambda key: flag_names.get(key, "flags")),
    ]
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.values.items():
            merged.setdefault(section, {}).update(values)

    def where(key: str, *others: str) -> str:
        """The strongest place that has a say in it."""
        for layer in reversed(layers):
            for candidate in (key, *others):
                if layer.holds(candidate):
                    return f"{layer.place(candidate)}: {key}"
        return f"settings: {key}"

    settings = Settings.made(merged, where)
    if settings.journal.mode != "off" and settings.journal.dir is None:
        place = where("journal.dir", "journal.mode")
        raise ConfigError(f"{place}: expected a folder, because journal.mode is {settings.journal.mode!r}; got none")
    if settings.executor.kind == "inline":
        place = where("executor.kind")
        raise ConfigError(f"{place}: expected thread or process, got 'inline', which is for scatterzmq.local()")
    return settings


def _layer(sections: object, place: Callable[[str], str]) -> _Layer:
    unchecked = _Layer(values={}, place=place)
    return _Layer(values=checked(sections, unchecked.where), place=place)


# ---- file


def _sections_of(file: str) -> object:
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{file}: expected a file of settings, got more than {FILE_BYTES_MAX} bytes")
    kind = "JSON" if Path(file).suffix == ".json" else "TOML"
    try:
        text = content.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_no_doubles) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of which all errors of these readers are
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: expected {kind}: {reason}") from error


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


# ---- environment and flags


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", "_").upper()


def _of_environment(environment: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    kinds = known_keys()
    keys = {_variable(key): key for key in kinds}
    given = {}
    for variable, text in sorted(environment.items()):
        if variable in keys:
            given[keys[variable]] = _of_text(text, kinds[keys[variable]])
        elif variable.startswith(PREFIX):
            close = get_close_matches(variable.removeprefix(PREFIX), [key.removeprefix(PREFIX) for key in keys], n=1)
            meant = f"did you mean {PREFIX}{close[0]}? " if close else ""
            raise ConfigError(
                f"environment: unknown variable {variable}; {meant}known is {PREFIX}SECTION_KEY for each setting"
            )
    return _nested(given)


def _of_flags(flags: Mapping[str, object]) -> Mapping[str, Mapping[str, Any]]:
    kinds = known_keys()
    given = {}
    for key, value in flags.items():
        if key not in kinds:
            raise ConfigError(f"flags: unknown key {key}{likely(key, list(kinds))}")
        if value is not None:
            given[key] = _of_text(value, kinds[key]) if isinstance(value, str) else value
    return _nested(given)


def _nested(given: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return sections


_WHOLE = re.compile(r"[+-]?\d{1,30}", re.ASCII)


def _of_text(text: str, kind: Any) -> Any:
    """The value that a text stands for; the text itself if it is none, for whoever checks it."""
    bare = text.strip()
    if kind is bool:
        return {"true": True, "false": False}.get(bare.lower(), text)
    if kind is int:
        return int(bare) if _WHOLE.fullmatch(bare) else text
    if kind is float:
        try:
            return float(bare)
        except ValueError:
            return text
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
