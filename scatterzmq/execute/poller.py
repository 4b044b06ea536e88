"""What the control process of a peer waits for on behalf of its children, behind one descriptor of its own."""

import select
from collections.abc import Callable
from typing import Protocol, TypeAlias

from .linux import Alarm

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT

Happened: TypeAlias = Callable[[int], None]
"""Called with what has happened, as bits of READABLE and WRITABLE (and others when an end is closed)."""


class Watcher(Protocol):
    """Whoever waits for descriptors in this thread."""

    def watch(self, fd: int, ready: Callable[[], None], /) -> None:
        """Call `ready` whenever the descriptor can be read."""
        ...

    def unwatch(self, fd: int, /) -> None: ...


class Poller:
    """Descriptors and one alarm. It can be read (`fileno`) when `run` has something to do.

    alarm: called when `plan` says.
    """

    def __init__(self, alarm: Callable[[], None]) -> None:
        self._epoll = select.epoll()
        self._happened: dict[int, Happened] = {}
        self._alarm = Alarm()
        self._rung = alarm
        self.add(self._alarm.fileno(), self._ring)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, handle: int, happened: Happened) -> None:
        """From now on. What is called must not wait, and may be called though nothing has happened."""
        self._happened[handle] = happened
        self._epoll.register(handle, READABLE)

    def expect(self, handle: int, bits: int) -> None:
        """Wait for something else at a descriptor."""
        self._epoll.modify(handle, bits)

    def remove(self, handle: int) -> None:
        """No more. To be called before the descriptor is closed."""
        if self._happened.pop(handle, None) is not None:
            self._epoll.unregister(handle)

    def plan(self, due_s: float | None) -> None:
        """Call the alarm then (by the monotonic clock), or never."""
        self._alarm.plan(due_s)

    def run(self, timeout_s: float = 0.0) -> None:
        """See to everything that has happened; wait for something, so long at most."""
        # Whoever is called may close others, and open new ones under their numbers.
        ready = [(bits, handle, self._happened.get(handle)) for handle, bits in self._epoll.poll(timeout_s)]
        for bits, handle, happened in ready:
            if happened is not None and self._happened.get(handle) is happened:
                happened(bits)

    def close(self) -> None:
        self._happened.clear()
        self._alarm.close()
        self._epoll.close()

    def _ring(self, _bits: int) -> None:
        self._alarm.heard()
        self._rung()
