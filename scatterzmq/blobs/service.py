"""The blobs of one peer, put together: files, worker threads, what is said to other peers and heard of clients.

Rules   1. All of it runs in the reactor's thread, but for what waits for the disk, and for `fetch`, which other threads
           call.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from ..core.blobkeepers import BlobKeepers
from ..core.blobmessages import (
    AskBlob,
    AskBlobName,
    BlobBetweenPeers,
    BlobId,
    BlobNamed,
    BlobPiece,
    BlobsKept,
    BlobWord,
    KeepBlobs,
    NoBlob,
    WriteBlob,
)
from ..errors import BlobError, MissingBlob
from ..execute.blobfiles import PACKAGE_PREFIX
from ..graph.blobs import BlobFound
from ..ids import ClientId, PeerId
from ..wire.columns import Column
from .arrivals import Arrivals
from .exchange import Exchange, Then
from .files import BlobFiles
from .keeping import Keeping
from .names import Meaning, Names
from .outside import Alarm, Failed, bytes_beside

T = TypeVar("T")

LOOK_S = 1.0
WORKERS = 4
"""Threads that read, write and check files."""
LOOKS_MAX = 16
"""Names of one definition that are looked for at once."""


class Links(Protocol):
    """Who can be spoken to."""

    def peers(self) -> tuple[PeerId, ...]: ...

    def hear_of_links(self, changed: Callable[[PeerId, bool], None], /) -> None: ...

    def say_of_blob(self, to: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column], /) -> None: ...


class Loop(Protocol):
    """The reactor."""

    clock: Callable[[], float]

    def call(self, what: Callable[[], None]) -> None: ...

    def later(self, delay_s: float, what: Callable[[], None]) -> Alarm: ...


def hand_on(
    names: Names,
    exchange: Exchange,
    keeping: Keeping,
    peer: PeerId,
    word: BlobBetweenPeers,
    columns: Mapping[str, Column],
) -> None:
    """Who hears what another peer says."""
    match word:
        case AskBlobName():
            names.asked(peer, word)
        case BlobNamed():
            names.heard(peer, word)
        case AskBlob():
            exchange.asked(peer, word)
        case BlobPiece():
            exchange.piece(peer, word, bytes_beside(columns))
        case NoBlob():
            exchange.denied(peer, word)
        case KeepBlobs():
            keeping.asked(peer, word)
        case BlobsKept():
            keeping.told(peer, word)


class BlobService:
    """See the module.

    folder: of the blobs, made if it is not there. packages: see BlobStore. copies: how many peers are to have each.
    """

    def __init__(
        self, me: PeerId, folder: Callable[[], Path], packages: Sequence[str], links: Links, loop: Loop, copies: int
    ) -> None:
        self._links = links
        self._loop = loop
        self._files = BlobFiles(folder, packages)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="scatterzmq-blobs")
        self._is_closed = False
        self._exchange = Exchange(self._files, self)
        self._names = Names(self._files, self)
        self._keeping = Keeping(BlobKeepers(me, copies), self._exchange, self)
        self._arrivals = Arrivals(self._files, self._names, self._keeping, self)
        links.hear_of_links(lambda peer, up: self._keeping.linked(peer, up=up))

    @property
    def counters(self) -> Counter[str]:
        """Of what was fetched, and of what was wrong."""
        return self._exchange.counters + self._files.counters

    def heard(self, sender: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column]) -> None:
        """Of linked peers, and of clients."""
        if isinstance(sender, ClientId):
            if isinstance(word, WriteBlob):
                self._arrivals.heard(sender, word, columns)
        elif isinstance(word, BlobBetweenPeers):
            hand_on(self._names, self._exchange, self._keeping, sender, word, columns)

    def want(self, name: str, digest: bytes, then: Then) -> None:
        """Have the blob here; then: gets "" and where it lies, or why it is not there.

        digest: b"" if the definition says nothing: then it is what the name means now.
        """
        if self._is_closed:
            then(f"blob {name!r} could not be fetched: the peer stops", "")
        elif digest:
            self._want(BlobId(name=name, digest=digest), then)
        else:
            self._names.look(name, partial(self._found, then))

    def _found(self, then: Then, meaning: Meaning) -> None:
        if meaning.named is None:
            then(meaning.problem, "")
        else:
            self._want(BlobId(name=meaning.name, digest=meaning.named.digest), then)

    def _want(self, blob: BlobId, then: Then) -> None:
        def is_here(problem: str, place: str) -> None:
            if not problem:
                self._keeping.holds(blob)
            then(problem, place)

        self._exchange.want(blob, is_here)

    def find(self, names: Sequence[str], then: Callable[[Sequence[BlobFound]], None]) -> None:
        """Find out what these names mean in the whole cluster."""
        found: list[BlobFound] = []
        left = [*names]

        def one_more(meaning: Meaning) -> None:
            found.append(_as_found(meaning))
            if left and not self._is_closed:
                self._names.look(left.pop(), one_more)
            elif len(found) == len(names):
                then(found)

        for _ in range(min(LOOKS_MAX, len(names))):
            self._names.look(left.pop(), one_more)

    def keep(self, blobs: Mapping[str, bytes]) -> None:
        """A definition names these (digests by name): see to copies of those that are here."""
        for name, digest in blobs.items():
            if digest and not self._is_closed and not name.startswith(f"{PACKAGE_PREFIX}/"):
                blob = BlobId(name=name, digest=digest)
                self.work(partial(self._files.find, blob), partial(self._keep, blob))

    def leave(self, then: Callable[[int], None]) -> None:
        """See `Keeping.leave`."""
        self._keeping.leave(then)

    def _keep(self, blob: BlobId, place: str | Failed | None) -> None:
        if isinstance(place, str):
            self._keeping.holds(blob)

    # ---- from any thread but the reactor's

    def fetch(self, name: str, digest: bytes) -> str:
        """As `want`, waiting for it. Raises MissingBlob."""

        def begin(done: Callable[[tuple[str, str]], None]) -> None:
            self.want(name, digest, lambda problem, place: done((problem, place)))

        problem, place = self._wait(begin, (f"blob {name!r} could not be fetched: the peer stops", ""))
        if problem:
            raise MissingBlob(problem)
        return place

    def look_up(self, names: Sequence[str]) -> Sequence[BlobFound]:
        """As `find`, waiting for it."""
        return self._wait(partial(self.find, names), ())

    def _wait(self, begin: Callable[[Callable[[T], None]], None], stopped: T) -> T:
        """What `begin` calls back with; `stopped` if the peer stops before."""
        done = threading.Event()
        answers: list[T] = []

        def then(answer: T) -> None:
            answers.append(answer)
            done.set()

        self._loop.call(partial(begin, then))
        while not done.wait(LOOK_S):  # every wait in here ends, and so does this
            if self._is_closed:
                then(stopped)
        return answers[0]

    def counted(self) -> dict[str, int]:
        """What was fetched, and what was wrong, as "blobs_..."."""
        return {f"blobs_{name}": number for name, number in self.counters.items()}

    def close(self) -> None:
        """Whoever waits is told; nothing is left behind."""
        if self._is_closed:
            return
        self._is_closed = True
        self._files.close()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._keeping.close()
        self._names.close()
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

        def worked(future: Future[T]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            self._loop.call(partial(done, future.result() if error is None else _as_failed(error)))

        with suppress(RuntimeError):  # closed meanwhile: nobody wants it any more
            self._workers.submit(what).add_done_callback(worked)


def _as_failed(error: BaseException) -> Failed:
    """Whatever it was: somebody waits for an answer."""
    if isinstance(error, BlobError | OSError):
        return error
    return BlobError(f"the peer failed with {type(error).__name__}: {error}; please report this")


def _as_found(meaning: Meaning) -> BlobFound:
    if meaning.named is None:
        return BlobFound(name=meaning.name, problem=meaning.problem, fatal=meaning.is_known)
    return BlobFound(name=meaning.name, blob_bytes=meaning.named.blob_bytes, digest=meaning.named.digest)
