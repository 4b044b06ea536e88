"""A small life of a core, and what is recorded of it."""

from scatterzmq import __version__
from scatterzmq.core.actions import Action
from scatterzmq.core.events import Event, ExecutorStarted, MessageReceived, TimerFired
from scatterzmq.core.messages import AskStats, Contact, LoadGraph
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.ids import ClientId, ExecutorId, PeerId
from scatterzmq.recording import Beginning, RecordedCore, marks_of
from scatterzmq.recording.files import packed_beginning, packed_record
from scatterzmq.recording.recorder import Record
from scatterzmq.settings import Settings

ME = Contact(id=PeerId("P" + "1" * 32), incarnation=7, address="tcp://host:7411", name="me")
NONCE = bytes(range(16))
TELLS = frozenset(("debug.task", "cache.hit"))
CLIENT = ClientId("C" + "2" * 32)
LIFE: tuple[tuple[Event, int], ...] = (
    (ExecutorStarted(executor=ExecutorId("E" + "3" * 32)), 1000),
    (MessageReceived(sender=CLIENT, message=LoadGraph(mid=1, definition="{}")), 1100),
    (MessageReceived(sender=CLIENT, message=AskStats(mid=2)), 1500),
    (TimerFired(), 2500),
)
"""(event, now_ms)"""


def beginning(program: str = __version__, **sections: dict[str, object]) -> Beginning:
    settings = Settings.of(sections)
    return Beginning(program=program, time_s=1_700_000_000.5, settings=settings, me=ME, nonce=NONCE, tells=TELLS)


def recorded_core(record: Record) -> PeerCore:
    strategies = {"node_strategy": SimpleNodeStrategy(), "queue_strategy": SimpleQueueStrategy()}
    return RecordedCore(ME, Settings(), **strategies, nonce=NONCE, tells=TELLS, record=record)


class Tape:
    """A recording in memory: its beginning, and a record for each event."""

    def __init__(self, begun: Beginning) -> None:
        self.parts = [packed_beginning(begun)]

    def add(self, event: Event, now_ms: int, actions: tuple[Action, ...] | None) -> None:
        self.parts.append(packed_record(now_ms, event, None if actions is None else marks_of(actions)))

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)


def tape() -> Tape:
    """Of that small life."""
    made = Tape(beginning())
    core = recorded_core(made.add)
    for event, now_ms in LIFE:
        core.handle(event, now_ms)
    return made
