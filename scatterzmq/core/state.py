"""What the machines of one core share: who it is, what time it is, and what it holds."""

from dataclasses import dataclass

from ..ids import PeerId
from ..settings import Settings
from .blocks import Blocks
from .cache import Cache
from .leases import Leases
from .ledger import Ledger
from .outbox import Outbox
from .plans import Plans


@dataclass(slots=True, eq=False)
class State:
    """now_ms: time of the event that is being handled. cache: None when caching is switched off."""

    me: PeerId
    epoch_n: int
    settings: Settings
    out: Outbox
    blocks: Blocks
    ledger: Ledger
    plans: Plans
    leases: Leases
    cache: Cache | None
    now_ms: int = 0

    @classmethod
    def new(cls, me: PeerId, settings: Settings, epoch_n: int) -> "State":
        out = Outbox()
        blocks = Blocks(out)
        cache = Cache(blocks, bytes_max=settings.cache.bytes, use_defer=settings.cache.use_defer)
        return cls(
            me=me,
            epoch_n=epoch_n,
            settings=settings,
            out=out,
            blocks=blocks,
            ledger=Ledger(),
            plans=Plans(out),
            leases=Leases(me, epoch_n),
            cache=cache if settings.cache.enabled else None,
        )
