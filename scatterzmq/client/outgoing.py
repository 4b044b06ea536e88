"""What leaves a session: in the order in which it was staged, whichever thread carries it."""

import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from os import urandom

from ..core.messages import ResultRead, ToPeer
from ..errors import ClusterError
from ..ids import TaskId
from .handles import Batch, Columns
from .link import Link

READS_TOGETHER_MAX = 256
NONCE_NBYTES = 8
NONCES_TOGETHER = 256
"""So many are drawn at once, as asking the system takes longer than all the rest of making a message."""


class Outgoing:
    """Messages to send. Staged under the session's lock; carried without it, since sending may deliver.

    staged: what waits to be carried; a batch becomes a message only then. reads: what has been read and not been said.
    failed: told when the link cannot send.
    """

    def __init__(self, failed: Callable[[ClusterError], None]) -> None:
        self.staged: deque[tuple[ToPeer, Columns] | Batch] = deque()
        self._failed = failed
        self._carrying = threading.Lock()
        self._mids = count(1)
        self.reads: list[TaskId] = []
        self._nonces = b""

    def next_mid(self) -> int:
        """A number for a message that nobody else of this session has."""
        return next(self._mids)

    def stage(self, message: ToPeer) -> None:
        """A message without columns. What was read before leaves before it."""
        if self.reads:
            self.stage_reads()
        self.staged.append((message, {}))

    def read(self, task: TaskId) -> None:
        """A result has been read: said with the next message, or when many have gathered."""
        self.reads.append(task)
        if len(self.reads) >= READS_TOGETHER_MAX:
            self.stage_reads()

    def stage_reads(self) -> None:
        if self.reads:
            self.staged.append((ResultRead(ids=tuple(self.reads)), {}))
            self.reads = []

    def drop(self) -> None:
        """Nothing of this leaves any more."""
        self.staged.clear()
        self.reads = []

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
                    if isinstance(staged, Batch):
                        message, columns = staged.message(next(self._mids), self._nonce())
                        link.send(message, columns)
                    else:
                        link.send(*staged)
            except ClusterError as error:
                self._failed(error)
            finally:
                self._carrying.release()

    def _nonce(self) -> bytes:
        if not self._nonces:
            self._nonces = urandom(NONCE_NBYTES * NONCES_TOGETHER)
        nonce, self._nonces = self._nonces[:NONCE_NBYTES], self._nonces[NONCE_NBYTES:]
        return nonce
