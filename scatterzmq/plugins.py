"""Plug-ins: classes by the name of the module that holds them, imported only if the configuration allows it."""

import importlib
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from .core.strategy import NODE_STRATEGIES, QUEUE_STRATEGIES, NodeStrategy, QueueStrategy
from .errors import ConfigError
from .settings import Settings

_T = TypeVar("_T")

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def is_allowed(module: str, allow: Sequence[str]) -> bool:
    """Whether a module lies below one of the allowed prefixes ("my_package" covers "my_package.nodes", no other)."""
    parts = module.split(".")
    return any(parts[: len(prefix)] == prefix for prefix in (entry.split(".") for entry in allow))


def node_strategy(settings: Settings) -> NodeStrategy:
    """The node strategy that the settings name. Raises ConfigError."""
    allow = settings.plugins.allow
    return _made("strategy.node", settings.strategy.node, NODE_STRATEGIES, NodeStrategy, allow)  # type: ignore[type-abstract]


def queue_strategy(settings: Settings) -> QueueStrategy:
    """The queue strategy that the settings name. Raises ConfigError."""
    allow = settings.plugins.allow
    return _made("strategy.queue", settings.strategy.queue, QUEUE_STRATEGIES, QueueStrategy, allow)  # type: ignore[type-abstract]


def _made(key: str, name: str, built_in: Mapping[str, type[_T]], base: type[_T], allow: Sequence[str]) -> _T:
    return built_in[name]() if name in built_in else plug_in(key, name, base, allow, known=tuple(built_in))


def plug_in(key: str, name: str, base: type[_T], allow: Sequence[str], *, known: Sequence[str]) -> _T:
    """One of the class in module `name` that is a `base`. Raises ConfigError.

    key: the setting that names it. known: what else that setting may say.
    """
    found = _found(key, name, base, allow, known)
    with _Blame(f"{key}: {found.__name__} of module {name!r} cannot be made"):
        return found()


def _found(key: str, name: str, base: type[_T], allow: Sequence[str], known: Sequence[str]) -> type[_T]:
    if not _MODULE.fullmatch(name):
        what = f"{', '.join(known)}, and modules such as 'my_package.my_{key.partition('.')[0]}'"
        raise ConfigError(f"{key}: unknown {name!r}; known are {what}")
    if not is_allowed(name, allow):
        raise ConfigError(f"{key}: module {name!r} may not be imported; allow it with plugins.allow")
    with _Blame(f"{key}: module {name!r} cannot be imported"):
        module = importlib.import_module(name)
    things = dict.fromkeys(thing for thing in vars(module).values() if isinstance(thing, type))
    found = [thing for thing in things if issubclass(thing, base) and thing.__module__ == module.__name__]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise ConfigError(f"{key}: module {name!r} must hold exactly one subclass of {base.__name__}, found {names}")
    return found[0]


class _Blame:
    """Turns whatever other people's code raises into a ConfigError of one line."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # SystemExit is what a module raises that believes to be a program.
        if isinstance(error, (Exception, SystemExit)):
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{self._what}: {reason}") from error
