"""Backoff: tasks that are tried again in a while, and not at once.

Purpose   Says how long a task rests before it is tried again, and keeps it until then.
Rules     1. What starts over because others are gone (its owner, or who kept a tensor) does so within 0.1 s the first
             time; the span doubles each time, up to half a minute. A step whose executor is gone goes back into its
             queue at once the first time, and from then on after spans that begin with 0.1 s, too.
          2. What lacks an input for another reason (it was evicted, or its keeper has left in good order, or it was
             never made) is tried again within 0.1 s, each time: that is counted and limited already, and more time
             would not make the store any larger.
          3. The moment within the span follows from the task's id and its retries.
          4. Who rests is in no queue, so nobody can claim it; users are told that it waits. It may be cancelled,
             cleared, handed over or given up as if it were in one. A copy knows nothing of it: whoever takes a task
             over counts one restart more, and goes by that.
Why       The tasks of a dead peer must not all start over in one instant; and tasks that peers die of, or that meet
          a cluster that falls apart, must not make it worse. Spans begin at zero, so that some of many go on at once:
          nobody has to idle for it. A batch that comes back has lost nothing but time, and would come apart.
"""

from zlib import crc32

from .alarms import Alarms
from .ledger import Ledger, Phase, Record

LACKING_MS = 100
FIRST_MS = 100
LONGEST_MS = 30_000


def span_ms(restarts: int) -> int:
    """Within which time a task is tried again that others have failed so many times."""
    return min(FIRST_MS << (restarts - 1), LONGEST_MS)


class Resting:
    """The tasks that rest, by their age."""

    def __init__(self) -> None:
        self._alarms = Alarms()
        self._records: dict[int, Record] = {}

    def add(self, record: Record, now_ms: int, within_ms: int) -> None:
        """Let a task rest until some moment of a span, for a millisecond at least."""
        assert record.seq not in self._records
        self._records[record.seq] = record
        moment = crc32(f"{record.id} {record.retries}".encode())
        self._alarms.set(record.seq, now_ms + 1 + moment % within_ms)

    def drop(self, record: Record) -> None:
        """It is not to be tried again."""
        del self._records[record.seq]
        self._alarms.drop(record.seq)

    def take_due(self, now_ms: int) -> list[Record]:
        """Those whose time has come; they rest no more."""
        return [self._records.pop(seq) for seq in self._alarms.take_due(now_ms)]

    def deadline_ms(self) -> int | None:
        return self._alarms.deadline_ms()

    def check_invariants(self, ledger: Ledger) -> None:
        """Whoever rests is in here, and nobody else."""
        assert self._records == {record.seq: record for record in ledger if record.phase is Phase.REST}
        assert all(seq in self._alarms for seq in self._records)
