"""Partial: messages of all senders of which only some pieces have come (net/fragments.py).

Rules     1. All of them together hold no more than `network.partial_bytes`. Where a piece is too much, a message is
             dropped, and its sender has to say it again.
          2. Members are never dropped for anybody else.
          3. Of the others those that dawdle go first, then the one that was begun last: so the first comes through.
          4. Nobody is waited for that sends nothing more.
Why       One message may be long, and anybody can begin any number of them: without a bound in common a few senders
          that never finish could take all memory. Dropping the largest, or whom nobody has heard for longest, would let
          many senders keep each other from ever getting through.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ids import ClientId, PeerId
from ..wire.frames import Frame
from ..wire.refusal import Limits
from .fragments import Assembler, is_piece
from .reactor import Alarm, Reactor
from .routing import Origin

PIECES_S = 30.0
"""After so long without another piece nothing more comes of a message."""
PACE_BYTES_PER_S = 1 << 20
PATIENCE_S = 5.0
"""Whoever has sent less on average, after that time, dawdles. That is no harm while there is room."""
LOOK_EVERY_S = 5.0


@dataclass(slots=True, eq=False)
class _Run:
    """A message of which some pieces have come. number: counts them, in the order in which they were begun."""

    assembler: Assembler
    sender: PeerId | ClientId
    number: int
    began_s: float
    heard_s: float

    def dawdles(self, now_s: float) -> bool:
        took_s = now_s - self.began_s
        return took_s > PATIENCE_S and self.assembler.nbytes < took_s * PACE_BYTES_PER_S


class Partial:
    """See the module. is_member: whether somebody belongs to the cluster.

    nbytes: of all together. counters: as for Assembler, and messages that were dropped: "crowded"
    for want of room, "stalled" as nothing more came.
    """

    def __init__(
        self,
        reactor: Reactor,
        limits: Limits,
        bytes_max: int,
        is_member: Callable[[PeerId | ClientId], bool],
        counters: Counter[str],
    ) -> None:
        self.nbytes = 0
        self._reactor = reactor
        self._limits = limits
        self._bytes_max = bytes_max
        self._is_member = is_member
        self._counters = counters
        self._runs: dict[bytes, _Run] = {}
        self._number = 0
        self._look = Alarm()

    def __len__(self) -> int:
        return len(self._runs)

    def take(self, routing_id: bytes, origin: Origin, parts: Sequence[Frame]) -> Sequence[Frame] | None:
        """The frames of a whole message, if this is one, or the last piece of one. Raises WireError."""
        run = self._runs.pop(routing_id, None)
        if run is None:
            if not parts or not is_piece(parts[0]):
                return parts  # nearly always
            run = self._begin(origin)
        self.nbytes -= run.assembler.nbytes
        frames = run.assembler.take(parts)
        if run.assembler.is_open:
            run.heard_s = self._reactor.clock()
            self._runs[routing_id] = run
            self.nbytes += run.assembler.nbytes
            while self.nbytes > self._bytes_max:
                self._drop(self._victim(), "crowded")
        return frames

    def close(self) -> None:
        self._look.cancel()

    def _begin(self, origin: Origin) -> _Run:
        if not self._look.is_set:
            self._look = self._reactor.later(LOOK_EVERY_S, self._look_around)
        self._number += 1
        now_s = self._reactor.clock()
        return _Run(Assembler(self._limits, self._counters), origin.id, self._number, now_s, now_s)

    def _victim(self) -> bytes:
        """Whose message goes."""
        now_s = self._reactor.clock()
        runs = [(name, run) for name, run in self._runs.items() if not self._is_member(run.sender)]
        runs = runs or list(self._runs.items())
        slow = [(name, run) for name, run in runs if run.dawdles(now_s)]
        return max(slow or runs, key=lambda it: it[1].number)[0]

    def _drop(self, routing_id: bytes, why: str) -> None:
        run = self._runs.pop(routing_id)
        self.nbytes -= run.assembler.nbytes
        run.assembler.interrupt()
        self._counters[why] += 1

    def _look_around(self) -> None:
        """Give up what comes of nothing."""
        now_s = self._reactor.clock()
        for name, run in list(self._runs.items()):
            if now_s - run.heard_s >= PIECES_S:
                self._drop(name, "stalled")
        if self._runs:
            self._look = self._reactor.later(LOOK_EVERY_S, self._look_around)
