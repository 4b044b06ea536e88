"""What leaves a session: in the order in which it was staged, whichever thread carries it."""

import threading
from collections import deque
from collections.abc import Callable
from itertools import count

from ..core.messages import ResultRead, ToPeer
from ..errors import ClusterError
from ..ids import TaskId
from .handles import Batch, Columns
from .link import Link

READS_TOGETHER_MAX = 256


class Outgoing:
    """Messages to send. Staged under the session's lock; carried without it, since sending may deliver.

    staged: what waits to be carried; a batch becomes a message only then. failed: told when the link cannot send.
    """

    def __init__(self, failed: Callable[[ClusterError], None]) -> None:
        self.staged: deque[tuple[ToPeer, Columns] | Batch] = deque()
        self._failed = failed
        self._carrying = threading.Lock()
        self._mids = count(1)
        self._reads: list[TaskId] = []

    def next_mid(self) -> int:
        """A number for a message that nobody else of this session has."""
        return next(self._mids)

    def stage(self, message: ToPeer) -> None:
        """A message without columns. What was read before leaves before it."""
        self.stage_reads()
        self.staged.append((message, {}))

    def stage_batch(self, batch: Batch) -> None:
        self.staged.append(batch)

    def read(self, task: TaskId) -> None:
        """A result has been read: said with the next message, or when many have gathered."""
        self._reads.append(task)
        if len(self._reads) >= READS_TOGETHER_MAX:
            self.stage_reads()

    def stage_reads(self) -> None:
        if self._reads:
            self.staged.append((ResultRead(ids=tuple(self._reads)), {}))
            self._reads = []

    def drop(self) -> None:
        """Nothing of this leaves any more."""
        self.staged.clear()
        self._reads = []

    def carry(self, link: Link) -> None:
        """Send what is staged. One thread carries at a time, so the order stays; the others leave theirs to it, also
        a delivery that happens within `send`. Looks again at the end: something may have been left in that moment.
        """
        while self.staged and self._carrying.acquire(blocking=False):
            try:
                while self.staged:
                    try:
                        staged = self.staged.popleft()
                    except IndexError:  # dropped meanwhile
                        break
                    message, columns = staged.message(self.next_mid()) if isinstance(staged, Batch) else staged
                    link.send(message, columns)
            except ClusterError as error:
                self._failed(error)
            finally:
                self._carrying.release()
