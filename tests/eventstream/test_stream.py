"""The event stream: who gets what, and that listeners can neither hold up nor hurt whoever emits."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.eventstream import Context, Event, EventStream, Listener
from scatterzmq.eventstream.stream import NAMES_MAX, QUEUE_EVENTS_MAX

WAIT_S = 20.0


class Recorder(Listener):
    """Keeps what it gets. gate: what it waits for before it takes anything."""

    def __init__(self, name: str = "recorder", gate: threading.Event | None = None) -> None:
        self.name = name
        self.events: list[Event] = []
        self.closed = 0
        self.entered = threading.Event()
        self._gate = gate

    def take(self, event: Event, /) -> None:
        self.entered.set()
        if self._gate is not None:
            assert self._gate.wait(WAIT_S)
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


class Failing(Recorder):
    """Raises at its second event."""

    error: BaseException = ZeroDivisionError("by\nzero")

    def take(self, event: Event, /) -> None:
        super().take(event)
        if len(self.events) == 2:
            raise self.error


Make = Callable[..., EventStream]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a stream that is closed in the end."""
    made: list[EventStream] = []

    def make(listeners: Sequence[Listener], disable: Sequence[str] = (), **options: object) -> EventStream:
        made.append(EventStream(listeners, disable, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for stream in made:
        stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scatterzmq-events")]


def test_listeners_get_events_in_order_with_times_and_context(make: Make) -> None:
    one, other = Recorder(), Recorder()
    stream = make([one, other], source="alpha", clock=lambda: 12.3456, wall_clock=lambda: 1_700_000_000.5)
    stream.emit("tally.executor.start", {"executor": "X1"})
    stream.emit("peer.join", source="beta")
    stream.close()
    first = Event(
        name="tally.executor.start",
        time_ms=1_700_000_000_500,
        clock_ms=12_345,
        source="alpha",
        context={"executor": "X1"},
    )
    assert one.events[0] == first
    assert [(event.name, event.source, dict(event.context)) for event in one.events[1:]] == [("peer.join", "beta", {})]
    assert other.events == one.events
    assert (one.closed, other.closed) == (1, 1)


def test_what_is_disabled_is_not_made(make: Make) -> None:
    recorder = Recorder()
    stream = make([recorder], ["measure", "!measure.queue"])

    def context() -> Context:
        made.append(1)
        return {"length": 7}

    made: list[int] = []
    stream.emit("measure.node", context)
    assert (made, stream.wants("measure.node"), stream.wants("measure.queue.length")) == ([], False, True)
    stream.emit("measure.queue.length", context)
    stream.close()
    assert (len(made), recorder.names) == (1, ["measure.queue.length"])
    assert dict(recorder.events[0].context) == {"length": 7}


def test_without_listeners_nothing_is_made(make: Make) -> None:
    stream = make([])

    def context() -> Context:
        raise AssertionError

    stream.emit("peer.join", context)
    assert not stream.wants("peer.join")


def test_a_listener_may_have_patterns_of_its_own(make: Make) -> None:
    class Everything(Recorder):
        disable: ClassVar[tuple[str, ...] | None] = ("peer",)

    other, usual = Everything(), Recorder()
    stream = make([other, usual], ["debug"])
    for name in ("debug.task", "peer.join", "error.task"):
        stream.emit(name)
    stream.close()
    assert (other.names, usual.names) == (["debug.task", "error.task"], ["peer.join", "error.task"])


def test_a_warning_is_told_once_per_name(make: Make) -> None:
    recorder = Recorder()
    stream = make([recorder], ["warning.quiet"])
    for name in ("warning.a", "warning.b", "warning.a", "warning.quiet", "warnings", "warnings", "warning.b"):
        stream.emit(name)
    stream.close()
    assert recorder.names == ["warning.a", "warning.b", "warnings", "warnings"]


def test_made_up_names_cost_bounded_memory(make: Make) -> None:
    stream = make([Recorder()], ["x"])
    for number in range(3 * NAMES_MAX):
        stream.emit(f"x.{number}")
        stream.emit(f"warning.{number}")
    assert len(stream._wanted) <= NAMES_MAX
    assert len(stream._warned) <= NAMES_MAX


def test_a_wrong_pattern_is_refused_before_anything_starts(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"events\.disable: expected a pattern"):
        make([Recorder()], ["a..b"])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scatterzmq-events")]


@pytest.mark.parametrize("error", [ZeroDivisionError("by\nzero"), SystemExit(3)])
def test_a_listener_that_raises_is_said_once_and_gets_no_more(make: Make, error: BaseException) -> None:
    said: list[str] = []
    told = threading.Event()

    def complain(line: str) -> None:
        said.append(line)
        told.set()

    bad, good = Failing("bad"), Recorder()
    bad.error = error
    stream = make([bad, good], ["none"], complain=complain)
    for name in ("a", "b", "c"):
        stream.emit(name)
    assert told.wait(WAIT_S)
    stream.emit("d")
    stream.close()
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    assert said == [f"event listener bad failed and gets no more events: {reason}"]
    assert (bad.names, bad.closed, good.closed) == (["a", "b"], 1, 1)
    assert sorted(good.names) == ["a", "b", "c", "d", "error.listener"]
    (failure,) = [event for event in good.events if event.name == "error.listener"]
    assert dict(failure.context) == {"listener": "bad", "message": reason}


def test_nobody_listens_after_the_only_listener_failed(make: Make) -> None:
    told = threading.Event()
    stream = make([Failing()], complain=lambda _: told.set())
    stream.emit("a")
    stream.emit("b")
    assert told.wait(WAIT_S)
    assert not stream.wants("a")


def test_a_listener_that_cannot_be_closed_is_said(make: Make) -> None:
    class Stuck(Recorder):
        def close(self) -> None:
            raise OSError(28, "No space left")

    said: list[str] = []
    make([Stuck("full")], complain=said.append).close()
    assert said == ["event listener full failed and gets no more events: OSError: [Errno 28] No space left"]


def test_a_slow_listener_holds_up_nobody_and_learns_what_it_missed(make: Make) -> None:
    gate = threading.Event()
    slow, quick = Recorder("slow", gate), Recorder()
    stream = make([slow, quick])
    stream.emit("first")
    assert slow.entered.wait(WAIT_S)
    for _ in range(QUEUE_EVENTS_MAX + 10):
        stream.emit("more", {"n": 1})
    assert stream.dropped() >= 10  # with what the other one missed, which may have been quick enough
    missed = stream._lanes[0].dropped
    assert missed == 10
    gate.set()
    stream.close(WAIT_S)
    assert len(slow.events) == 1 + QUEUE_EVENTS_MAX + 1
    (notice,) = [event for event in slow.events if event.name == "warning.events.dropped"]
    assert dict(notice.context) == {"listener": "slow", "events": 10}


def test_closing_does_not_wait_for_ever(make: Make) -> None:
    gate = threading.Event()
    slow = Recorder("slow", gate)
    stream = make([slow])
    stream.emit("a")
    assert slow.entered.wait(WAIT_S)
    stream.close(0.01)
    stream.emit("b")
    assert slow.events == []
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "scatterzmq-events-slow":
            thread.join(WAIT_S)
    assert (slow.names, slow.closed) == (["a"], 1)


def test_many_threads_may_emit(make: Make) -> None:
    recorder = Recorder()
    stream = make([recorder])

    def emit(n: int) -> None:
        for i in range(300):
            stream.emit("x", {"thread": n, "i": i})

    threads = [threading.Thread(target=emit, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    stream.close(WAIT_S)
    for n in range(4):
        assert [event.context["i"] for event in recorder.events if event.context["thread"] == n] == list(range(300))
