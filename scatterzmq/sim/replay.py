"""`python -m scatterzmq.sim replay FILE`: the life of a recorded peer once more, in front of everybody's eyes.

Rules   1. The real core, made as it was made then, gets the events that came then, at the times when they came. What
           must hold is checked after each.
        2. What it asks for is compared with what it asked for then; where it first differs, the replay ends.
        3. Whatever is wrong is one line that names the file and the event; the exit code says whether something is.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import zip_longest

from .. import __version__
from ..core.actions import Action
from ..core.peer import PeerCore
from ..errors import ConfigError
from ..plugins import node_strategy, queue_strategy
from ..recording import BadRecording, Beginning, Recorded, RecordingFile, marks_of, name_of
from .runs import where
from .trace import Trace

Say = Callable[[str], None]


def main(arguments: Sequence[str], say: Say) -> int:
    """The exit code: 1 if it went another way than then, or something that must hold does not."""
    parser = argparse.ArgumentParser(prog="python -m scatterzmq.sim replay", description=__doc__)
    parser.add_argument("file", help="what a peer wrote that was started with --record FILE")
    parser.add_argument("--trace", action="store_true", help="print the whole story")
    parser.add_argument("--check-every", type=int, default=1, help="events between looks at all it holds; 0: no looks")
    given = parser.parse_args(arguments)
    try:
        with closing(RecordingFile(given.file)) as recording:
            return _replay(recording, given, say)
    except BadRecording as error:
        say(str(error))
    except ConfigError as error:
        say(f"{given.file}: cannot be replayed here: {error}")
    return 1


def _replay(recording: RecordingFile, given: argparse.Namespace, say: Say) -> int:
    beginning = recording.beginning
    say(f"{given.file}: {_told(beginning)}")
    if beginning.program != __version__:
        say(f"recorded by scatterzmq {beginning.program}, this is {__version__}: it may go another way")
    player = Player(beginning, check_every=given.check_every)
    trace = Trace(is_told=given.trace)
    trace.names[beginning.me.id] = beginning.me.name or "me"
    begun_ms: int | None = None
    number, now_ms = 0, 0
    for recorded in recording:
        begun_ms = recorded.now_ms if begun_ms is None else begun_ms
        number, now_ms = recorded.number, recorded.now_ms - begun_ms
        wrong, actions = player.play(recorded)
        if trace.texts is not None:
            trace.event(now_ms * 1000, f"#{number}", recorded.event, actions)
            say("\n".join(trace.texts))
            trace.texts.clear()
        if wrong:
            what = type(recorded.event).__name__
            say(f"{given.file}: event {number} ({what}, {now_ms / 1000:.3f} s after the first): {wrong}")
            if trace.texts is None:
                say("\n".join(_story(trace, recorded, actions)))
            return 1
    if recording.cut:
        say(f"{given.file}: ends in the middle of event {number + 1}: the peer was killed, or its disk was full")
    say(f"{number} events in {now_ms / 1000:.3f} s, as they were")
    return 0


def _told(beginning: Beginning) -> str:
    me = beginning.me
    time = datetime.fromtimestamp(beginning.time_s, UTC).astimezone()
    return f"peer {me.name or me.id} ({me.id}) at {me.address}, since {time:%Y-%m-%d %H:%M:%S}"


def _story(trace: Trace, recorded: Recorded, actions: tuple[Action, ...]) -> Iterator[str]:
    yield f"    {trace.told(recorded.event)}"
    yield from [f"    -> {trace.told(action)}" for action in actions]


class Player:
    """A core that goes through recorded events. check_every: events between looks at everything it holds; 0: never.

    Raises ConfigError if a strategy of the recorded peer is not here.
    """

    def __init__(self, beginning: Beginning, *, check_every: int = 1) -> None:
        settings = beginning.settings
        self.core = PeerCore(
            beginning.me,
            settings,
            node_strategy=node_strategy(settings),
            queue_strategy=queue_strategy(settings),
            nonce=beginning.nonce,
            tells=beginning.tells,
        )
        self._check_every = check_every

    def play(self, recorded: Recorded) -> tuple[str, tuple[Action, ...]]:
        """Let the core handle it. Returns what is wrong ("": nothing), and what the core asks for."""
        actions: tuple[Action, ...] = ()
        try:
            actions = self.core.handle(recorded.event, recorded.now_ms)
            if self._check_every and recorded.number % self._check_every == 0:
                self.core.check_invariants()
        except Exception as error:  # noqa: BLE001 -- whatever a core raises is what we are looking for
            return _raised(error, recorded), actions
        if recorded.marks is None:
            return "the core raised then, and does not now", actions
        return _difference(recorded.marks, marks_of(actions)), actions


def _raised(error: Exception, recorded: Recorded) -> str:
    then = "as it did then" if recorded.marks is None else "and did not then, or was not looked at"
    return f"the core raises, {then}: {where(error)}"


def _difference(then: tuple[bytes, ...], now: tuple[bytes, ...]) -> str:
    """The first action that is another one; "" if there is none."""
    for number, (was, is_) in enumerate(zip_longest(then, now), 1):
        if was != is_:
            if was is None or is_ is None or was[0] != is_[0]:
                names = [name_of(mark) if mark else "nothing" for mark in (was, is_)]
                return f"action {number} was {names[0]}, and is {names[1]} now"
            return f"action {number}, {name_of(was)}, is not what it was"
    return ""
