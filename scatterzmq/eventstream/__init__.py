"""What happens in a peer, told to whoever listens: people, log files, plug-ins.

A plug-in is a module, allowed by `plugins.allow`, with one subclass of `Listener`, named in `events.listeners`.
"""

from .event import Context, Event, Listener
from .make import event_stream
from .stream import EventStream

__all__ = ["Context", "Event", "EventStream", "Listener", "event_stream"]
