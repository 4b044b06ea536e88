"""The event stream: from where something happens to whoever listens.

Rules   1. An event nobody listens to is not even made: its context may be a function that is called only if needed.
        2. Whoever emits never waits for a listener and never sees it fail: each has a thread and a bounded queue. What
           does not fit is dropped and counted, and the listener is told how many it missed.
        3. A warning is told once per name.
Why     Listeners are other people's code, disks that are full, and terminals that stand still.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import MappingProxyType

from .event import Context, Event, Listener
from .patterns import disabled_by

QUEUE_EVENTS_MAX = 4096
"""Per listener; about a megabyte. A burst, such as a thousand retries, goes through whole."""

NAMES_MAX = 1024
"""Names whose listeners are remembered; there are a few dozens, unless somebody makes them up."""

CLOSE_TIMEOUT_S = 2.0
NO_CONTEXT: Context = MappingProxyType({})


class EventStream:
    """Tells listeners. Its methods may be called from any thread.

    disable: patterns of names that no listener gets that has none of its own (see patterns.py). Raises ConfigError.
    source: which peer it is, if an event does not say. complain: told in one line of a listener that is switched off.
    """

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        disable: Sequence[str] = (),
        *,
        source: str = "",
        complain: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._complain = complain
        self._clock = clock
        self._wall_clock = wall_clock
        self._guard = threading.Lock()
        self._warned: set[str] = set()
        self._lanes = tuple(
            _Lane(listener, disabled_by(disable if listener.disable is None else listener.disable), self._failed)
            for listener in listeners
        )
        self._all = self._lanes
        # By name, who gets it. Changed as a whole when a listener is switched off.
        self._wanted: dict[str, tuple[_Lane, ...]] = {}
        for lane in self._lanes:
            lane.start()

    def wants(self, name: str) -> bool:
        """Whether anybody listens to events of this name."""
        if not self._lanes:
            return False
        lanes = self._wanted.get(name)
        return bool(self._lanes_of(name) if lanes is None else lanes)

    def emit(self, name: str, context: Context | Callable[[], Context] = NO_CONTEXT, *, source: str = "") -> None:
        """Something happened."""
        if not self._lanes:
            return
        lanes = self._wanted.get(name)
        if lanes is None:
            lanes = self._lanes_of(name)
        if not lanes or (name.startswith("warning.") and not self._is_first(name)):
            return
        event = Event(
            name=name,
            time_ms=int(self._wall_clock() * 1000),
            clock_ms=int(self._clock() * 1000),
            source=source or self._source,
            context=context() if callable(context) else context,
        )
        for lane in lanes:
            lane.put(event)

    def dropped(self) -> int:
        """How many events listeners missed because they were too slow."""
        return sum(lane.dropped for lane in self._all)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Let the listeners have what waits for them, for so long, and close them. A second call changes nothing."""
        until_s = time.monotonic() + timeout_s
        lanes, self._lanes = self._lanes, ()
        for lane in lanes:
            lane.stop()
        for lane in lanes:
            lane.join(max(0.0, until_s - time.monotonic()))

    def _lanes_of(self, name: str) -> tuple["_Lane", ...]:
        lanes = tuple(lane for lane in self._lanes if lane.wants(name))
        with self._guard:
            if len(self._wanted) >= NAMES_MAX:
                self._wanted = {}
            self._wanted[name] = lanes
        return lanes

    def _is_first(self, name: str) -> bool:
        with self._guard:
            # Names are ours, but a set that only grows needs a bound all the same.
            is_first = name not in self._warned and len(self._warned) < NAMES_MAX
            if is_first:
                self._warned.add(name)
        return is_first

    def _failed(self, lane: "_Lane", error: BaseException) -> None:
        """In the thread of a listener that raised."""
        with self._guard:
            self._wanted = {}
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        self.emit("error.listener", {"listener": lane.name, "message": reason})
        if self._complain is not None:
            self._complain(f"event listener {lane.name} failed and gets no more events: {reason}")


class _Lane:
    """The way to one listener."""

    def __init__(
        self,
        listener: Listener,
        is_disabled: Callable[[str], bool],
        failed: Callable[["_Lane", BaseException], None],
    ) -> None:
        self.name = listener.name or type(listener).__name__
        self.dropped = 0
        self._listener = listener
        self._is_disabled = is_disabled
        self._failed = failed
        self._is_on = True
        self._told_dropped = 0
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"scatterzmq-events-{self.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wants(self, name: str) -> bool:
        return self._is_on and not self._is_disabled(name)

    def put(self, event: Event) -> None:
        if not self._is_on:
            return
        # Several threads may look at once; then there are as many more in the queue as there are threads.
        if self._queue.qsize() < QUEUE_EVENTS_MAX:
            self._queue.put(event)
        else:
            with self._guard:
                self.dropped += 1

    def stop(self) -> None:
        self._queue.put(None)

    def join(self, timeout_s: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._safely(self._take_all)
        finally:
            self._safely(self._listener.close)

    def _take_all(self) -> None:
        while (event := self._queue.get()) is not None:
            self._listener.take(event)
            if self.dropped > self._told_dropped:
                self._tell_dropped(event)

    def _safely(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- it is other people's code
            self._switch_off(error)

    def _tell_dropped(self, last: Event) -> None:
        missed, self._told_dropped = self.dropped - self._told_dropped, self.dropped
        self._listener.take(
            Event(
                name="warning.events.dropped",
                time_ms=last.time_ms,
                clock_ms=last.clock_ms,
                source=last.source,
                context={"listener": self.name, "events": missed},
            )
        )

    def _switch_off(self, error: BaseException) -> None:
        if self._is_on:
            self._is_on = False
            self._failed(self, error)
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
