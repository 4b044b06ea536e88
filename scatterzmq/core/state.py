"""What the machines of one core share: who it is, what time it is, and what it holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ..ids import PeerId
from ..settings import Settings, row_bytes
from .blocks import Blocks
from .cache import Cache
from .copies import Copies
from .hints import Hints
from .journal import Journal
from .journaled import JournaledCopies, JournaledReplicas
from .leases import Leases
from .ledger import Ledger, Record
from .members import Members
from .outbox import Outbox
from .peermessages import Contact, CopyKind
from .plans import Plans
from .replicas import Replicas

LIFE_BITS = 20
"""So many epochs of a task may follow each other in one life of a peer with a journal before they are not below those
in which the next one's tasks begin.
"""


@dataclass(slots=True, eq=False)
class State:
    """now_ms: time of the event that is being handled. cache: None when caching is switched off.

    life: this peer's incarnation. first_n: the epoch in which a task begins here; above those of all that was given up
    here and may come back, and, with a journal, above those that began in earlier lives, so that what is left behind
    elsewhere gives way.
    row_bytes_max: of the tensors of one task at one step; None where messages may be as long as they like.
    gossip: what is believed of other peers' queues. leaving: nothing new is begun.
    restoring: what was here before this peer started is not compared with others yet, so clients have to wait.
    """

    me: PeerId
    life: int
    first_n: int
    settings: Settings
    out: Outbox
    members: Members
    blocks: Blocks
    ledger: Ledger
    copies: Copies
    replicas: Replicas
    plans: Plans
    leases: Leases
    cache: Cache | None
    journal: Journal | None
    row_bytes_max: int | None
    gossip: Hints = field(init=False)
    now_ms: int = 0
    leaving: bool = False
    restoring: bool = False

    @property
    def may_repeat(self) -> bool:
        """Whether clients may say again what was answered long ago: between processes an answer may get lost."""
        return self.row_bytes_max is not None

    def begin_above(self, epoch_n: int) -> None:
        """A task that is given up here in this epoch may come back, and is not taken for the same then."""
        self.first_n = max(self.first_n, epoch_n + 1)

    def crash_marked(self, record: Record, go_on: Callable[[], None]) -> None:
        """The account of a task's crashes has changed (and its token is gone): tell its copies. `go_on` puts the task
        into its queue again, or ends it.

        It need not wait: the executors that die are not the peer that counts. Should that one die in this moment, too,
        or be out of reach, the next owner begins with an older account: so the limit is one for each owner.
        """
        self.replicas.write(CopyKind.MARK, (record,), self.now_ms, _nothing)
        go_on()

    @classmethod
    def new(cls, me: Contact, nonce: bytes, settings: Settings, *, static: bool, tells: frozenset[str]) -> "State":
        out = Outbox(tells)
        blocks = Blocks(out)
        members = Members(me, nonce, settings, out, static=static)
        ledger = Ledger(out if "debug.task" in tells else None)
        plans = Plans(out)
        timing = settings.timing
        mode = settings.journal.mode
        journal = None if mode == "off" else Journal(out, blocks, is_sync=mode == "sync")
        replicas = (Replicas if journal is None else partial(JournaledReplicas, journal))(
            me.id,
            members,
            ledger,
            blocks,
            out,
            wanted=settings.cluster.replicas,
            ask_ms=int(timing.ask_s * 1000),
            copy_ms=int(timing.copy_s * 1000),
        )
        copies = (Copies if journal is None else partial(JournaledCopies, journal))(
            blocks, plans, int(timing.tombstone_s * 1000)
        )
        cache = Cache(blocks, bytes_max=settings.cache.bytes, use_defer=settings.cache.use_defer)
        return cls(
            me=me.id,
            life=me.incarnation,
            first_n=1 if journal is None else me.incarnation << LIFE_BITS,
            settings=settings,
            out=out,
            members=members,
            blocks=blocks,
            ledger=ledger,
            copies=copies,
            replicas=replicas,
            plans=plans,
            leases=Leases(me.id, me.incarnation),
            cache=cache if settings.cache.enabled else None,
            journal=journal,
            row_bytes_max=None if static else row_bytes(settings.network.message_bytes),
            restoring=journal is not None,
        )


def _nothing() -> None:
    """Nobody waits for this write."""
