"""The blobs of one peer, put together: files, worker threads, what is said to other peers and heard of clients.

Rules   1. All of it runs in the reactor's thread, but for what waits for the disk, and for `fetch`, which other threads
           call.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from ..core.blobmessages import BlobBetweenPeers, BlobWord, WriteBlob
from ..execute.blobfiles import BlobError, MissingBlob
from ..ids import ClientId, PeerId
from ..wire.columns import Column
from .arrivals import Arrivals
from .exchange import Exchange, Then
from .files import BlobFiles
from .outside import Alarm, Failed

T = TypeVar("T")

LOOK_S = 1.0
WORKERS = 4
"""Threads that read, write and check files."""


class Links(Protocol):
    """Who can be spoken to."""

    def peers(self) -> tuple[PeerId, ...]: ...

    def say_of_blob(self, to: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column], /) -> None: ...


class Loop(Protocol):
    """The reactor."""

    clock: Callable[[], float]

    def call(self, what: Callable[[], None]) -> None: ...

    def later(self, delay_s: float, what: Callable[[], None]) -> Alarm: ...


class BlobService:
    """See the module. folder: of the blobs, made if it is not there. copies: on how many peers a new one is to be."""

    def __init__(self, folder: Callable[[], Path], links: Links, loop: Loop, copies: int) -> None:
        self._links = links
        self._loop = loop
        self._files = BlobFiles(folder)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="scatterzmq-blobs")
        self._is_closed = False
        self._exchange = Exchange(self._files, self)
        self._arrivals = Arrivals(self._files, self._exchange, self, copies)

    def heard(self, sender: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column]) -> None:
        """Of linked peers, and of clients."""
        if isinstance(sender, ClientId):
            if isinstance(word, WriteBlob):
                self._arrivals.heard(sender, word, columns)
        elif isinstance(word, BlobBetweenPeers):
            self._exchange.heard(sender, word, columns)

    def want(self, name: str, then: Then) -> None:
        """Have the blob here; then: gets "" or why it is not."""
        if self._is_closed:
            then(f"blob {name!r} could not be fetched: the peer stops")
        else:
            self._exchange.want(name, then)

    def fetch(self, name: str) -> None:
        """As `want`, waiting for it. From any thread but the reactor's. Raises MissingBlob."""
        done = threading.Event()
        problems: list[str] = []

        def then(problem: str) -> None:
            problems.append(problem)
            done.set()

        self._loop.call(partial(self.want, name, then))
        while not done.wait(LOOK_S):  # every wait of the exchange ends, and so does this
            if self._is_closed:
                then(f"blob {name!r} could not be fetched: the peer stops")
        if problems[0]:
            raise MissingBlob(problems[0])

    def counted(self) -> dict[str, int]:
        """What was dropped, by reason, as "blobs_..."."""
        return {f"blobs_{name}": number for name, number in self._exchange.counters.items()}

    def close(self) -> None:
        """Whoever waits is told; nothing is left behind."""
        if self._is_closed:
            return
        self._is_closed = True
        self._files.close()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._arrivals.close()
        self._exchange.close()

    # ---- as the machines see it (outside.py)

    def peers(self) -> tuple[PeerId, ...]:
        return self._links.peers()

    def say(self, to: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column], /) -> None:
        if not self._is_closed:
            self._links.say_of_blob(to, word, columns)

    def clock(self) -> float:
        return self._loop.clock()

    def later(self, delay_s: float, what: Callable[[], None], /) -> Alarm:
        return self._loop.later(delay_s, what)

    def work(self, what: Callable[[], T], then: Callable[[T | Failed], None], /) -> None:
        def done(outcome: T | Failed) -> None:
            if not self._is_closed:
                then(outcome)

        def run() -> None:
            outcome: T | Failed
            try:
                outcome = what()
            except (BlobError, OSError) as error:
                outcome = error
            self._loop.call(partial(done, outcome))

        with suppress(RuntimeError):  # closed meanwhile: nobody wants it any more
            self._workers.submit(run)
