"""The event stream that settings ask for."""

from collections.abc import Callable

from ..errors import ConfigError
from ..plugins import plug_in
from ..settings import Settings
from .event import Listener
from .listeners import FileListener, StreamListener
from .stream import EventStream

_KNOWN = ("stdout", "stdout-json", "file:PATH")


def event_stream(settings: Settings, *, source: str = "", complain: Callable[[str], None] | None = None) -> EventStream:
    """Started, with the listeners of `events.listeners`. Raises ConfigError."""
    listeners: list[Listener] = []
    try:
        for name in dict.fromkeys(settings.events.listeners):
            listeners.append(_listener(name, settings))  # noqa: PERF401 -- those before one that fails are closed
        return EventStream(listeners, settings.events.disable, source=source, complain=complain)
    except ConfigError:
        for listener in listeners:
            listener.close()
        raise


def _listener(name: str, settings: Settings) -> Listener:
    if name in ("stdout", "stdout-json"):
        return StreamListener(as_json=name == "stdout-json")
    if name.startswith("file:"):
        return FileListener(name.removeprefix("file:"))
    made = plug_in("events.listeners", name, Listener, settings.plugins.allow, known=_KNOWN)  # type: ignore[type-abstract]
    made.name = made.name or name
    return made
