"""Blobs between peers: serves those that are here, and fetches those that somebody here needs, by their digests.

Purpose   A machine without sockets, files or clock: what it needs of the world is in outside.py and files.py.
Rules     1. Every word may be lost, late, or come twice; whoever waits repeats its question, and every wait ends.
          2. What is served, and what is on its way, is bounded per peer and per blob.
          3. Nothing of a blob can be seen before all of it is there and has its digest. Who sends something else is not
             asked again for that blob; what came of it is forgotten.
          4. Nobody remembers that a blob is nowhere: who needs it again asks again.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from ..core.blobmessages import PIECE_BYTES, AskBlob, BlobId, BlobPiece, NoBlob
from ..ids import PeerId
from .files import Arriving, BlobFiles, Piece
from .outside import Alarm, Failed, Outside, beside

Then: TypeAlias = Callable[[str, str], None]
"""Gets "" and where it lies below the folder when the blob is there, else why it is not."""

SERVED_MAX = 16
"""Pieces that are read for one peer at once. What it asks for beyond that, it asks for again."""
WINDOW = 4
"""Pieces of one blob that are on their way."""
FETCHES_MAX = 64
ASK_AGAIN_S = 1.0
GRACE_S = 3.0
"""So long after the first question it is not yet certain that nobody has it: peers may be about to come."""
SEEK_S = 10.0
"""How long somebody is waited for who does not say whether it has the blob."""
STALL_S = 3.0
STALLS_MAX = 3
"""After so many times so long without a new piece another one is asked."""


@dataclass(slots=True, eq=False)
class _Fetch:
    """One blob on its way.

    no: who does not have it, or has lied. source: from whom it comes; None while one is looked for.
    blob_bytes: as the source says. senders: from whom its pieces came. under_way: offsets that were asked for.
    next, again: offsets to ask for, the first time and once more. writing: pieces that have come and are not in the
    file yet. sign_s: when there was any progress, or hope of it.
    """

    blob: BlobId
    waiting: list[Then]
    began_s: float
    sign_s: float
    no: set[PeerId] = field(default_factory=set)
    asked: set[PeerId] = field(default_factory=set)
    source: PeerId | None = None
    blob_bytes: int | None = None
    arriving: Arriving | None = None
    senders: set[PeerId] = field(default_factory=set)
    next: int = 0
    again: deque[int] = field(default_factory=deque)
    under_way: dict[int, None] = field(default_factory=dict)
    writing: int = 0
    is_sealing: bool = False
    stalls: int = 0
    alarm: Alarm | None = None


class Exchange:
    """Blobs of one peer. Everything is called, and calls back, in one thread.

    counters: "fetched", and of what was dropped: "busy", "unasked", "lies", "digest" (what came had another one).
    """

    def __init__(self, files: BlobFiles, outside: Outside) -> None:
        self.counters: Counter[str] = Counter()
        self._files = files
        self._outside = outside
        self._serving: Counter[PeerId] = Counter()
        self._reading: set[BlobId] = set()
        self._fetches: dict[bytes, _Fetch] = {}

    # ---- what is wanted here

    def want(self, blob: BlobId, then: Then) -> None:
        """See to it that the blob is here."""
        fetch = self._fetches.get(blob.digest)
        if fetch is not None:
            fetch.waiting.append(then)
        elif len(self._fetches) >= FETCHES_MAX:
            then(f"blob {blob.name!r}: {FETCHES_MAX} others are being fetched; ask again later", "")
        else:
            now_s = self._outside.clock()
            fetch = self._fetches[blob.digest] = _Fetch(blob, [then], now_s, now_s)
            self._outside.work(partial(self._files.find, blob), partial(self._looked, fetch))

    def close(self) -> None:
        """Whoever waits is told; nothing is left behind."""
        for fetch in [*self._fetches.values()]:
            self._end(fetch, f"blob {fetch.blob.name!r} could not be fetched: the peer stops")

    # ---- serving

    def asked(self, peer: PeerId, word: AskBlob) -> None:
        blob = BlobId(name=word.name, digest=word.digest)
        if blob in self._reading:
            answer = BlobPiece(name=word.name, digest=word.digest, offset=0, blob_bytes=0, is_reading=True)
            self._say(peer, answer, b"")
            return
        if self._serving[peer] >= SERVED_MAX:
            self.counters["busy"] += 1
            return
        self._serving[peer] += 1
        is_new = not self._files.knows(blob)
        if is_new:
            self._reading.add(blob)  # making its digest may take a while
        self._outside.work(
            partial(self._files.piece, blob, word.offset, min(word.bytes_max, PIECE_BYTES)),
            partial(self._serve, peer, blob, word.offset, is_new=is_new),
        )

    def _serve(self, peer: PeerId, blob: BlobId, offset: int, piece: Piece | Failed | None, *, is_new: bool) -> None:
        self._serving[peer] -= 1
        if not self._serving[peer]:
            del self._serving[peer]
        if is_new:
            self._reading.discard(blob)
        if isinstance(piece, Piece):
            answer = BlobPiece(name=blob.name, digest=blob.digest, offset=offset, blob_bytes=piece.blob_bytes)
            self._say(peer, answer, piece.data)
        else:
            self._say(peer, NoBlob(name=blob.name, digest=blob.digest))

    # ---- fetching: looking for somebody who has it

    def _looked(self, fetch: _Fetch, place: str | Failed | None) -> None:
        if self._fetches.get(fetch.blob.digest) is not fetch:
            return
        if isinstance(place, str):
            self._end(fetch, "", place)
        elif place is not None:
            self._end(fetch, f"{place}")
        else:
            self._seek(fetch)

    def _seek(self, fetch: _Fetch) -> None:
        """Ask all who may have it, and again after a while."""
        if fetch.is_sealing:
            return
        now_s = self._outside.clock()
        fetch.source = None
        fetch.under_way.clear()
        fetch.asked = set(self._outside.peers()) - fetch.no
        may_come = now_s - fetch.began_s < GRACE_S
        if not (fetch.asked or may_come) or now_s - fetch.sign_s >= SEEK_S:
            blob, others = fetch.blob, len(self._outside.peers())
            self._end(
                fetch,
                f"blob {blob.name!r} with the bytes that its graph was loaded with ({blob.digest.hex()[:8]}…) is not "
                f"here, nor at any of {others} other peers; put that file below blobs.dir of one peer",
            )
            return
        for peer in sorted(fetch.asked):
            self._ask(fetch, peer, 0, 0)
        self._wake(fetch, ASK_AGAIN_S, self._seek)

    def denied(self, peer: PeerId, word: NoBlob) -> None:
        fetch = self._fetches.get(word.digest)
        if fetch is None or peer in fetch.no:
            return
        if fetch.source == peer:
            fetch.no.add(peer)
            self._change(fetch)
        elif fetch.source is None and peer in fetch.asked:
            fetch.no.add(peer)
            if not fetch.asked - fetch.no:
                may_come_s = fetch.began_s + GRACE_S - self._outside.clock()
                self._wake(fetch, min(ASK_AGAIN_S, max(0.0, may_come_s)), self._seek)

    # ---- fetching: its pieces

    def piece(self, peer: PeerId, word: BlobPiece, data: memoryview) -> None:
        fetch = self._fetches.get(word.digest)
        if fetch is None or peer in fetch.no or fetch.is_sealing:
            self.counters["unasked"] += 1
        elif word.is_reading:
            fetch.sign_s = self._outside.clock()
        elif fetch.source is None:
            if peer in fetch.asked:
                self._begin(fetch, peer, word.blob_bytes)
        elif fetch.source != peer:
            self.counters["unasked"] += 1  # it has it, too; it is asked again if it is needed
        elif word.blob_bytes != fetch.blob_bytes:
            self._distrust(fetch, peer)
        elif word.offset in fetch.under_way and data:  # without any it answers an earlier question
            self._take(fetch, peer, word.offset, data)

    def _begin(self, fetch: _Fetch, peer: PeerId, blob_bytes: int) -> None:
        """From here on it comes from this peer; with what is there already, if it is the same."""
        fetch.source, fetch.stalls, fetch.sign_s = peer, 0, self._outside.clock()
        self._wake(fetch, STALL_S, self._stalled)
        if fetch.blob_bytes == blob_bytes and fetch.arriving is not None:
            self._pull(fetch)
            return
        self._forget(fetch)
        fetch.blob_bytes = blob_bytes
        self._outside.work(self._files.begin, partial(self._begun, fetch, blob_bytes))

    def _begun(self, fetch: _Fetch, blob_bytes: int, arriving: Arriving | Failed) -> None:
        is_open = self._fetches.get(fetch.blob.digest) is fetch and fetch.arriving is None
        is_wanted = is_open and fetch.blob_bytes == blob_bytes
        if not isinstance(arriving, Arriving):
            if is_wanted:
                self._end(fetch, f"blob {fetch.blob.name!r} cannot be stored: {arriving}")
        elif not is_wanted:
            arriving.close()
        else:
            fetch.arriving = arriving
            self._pull(fetch)

    def _pull(self, fetch: _Fetch) -> None:
        """Ask for as much as may be on its way; with nothing left, look whether it is right."""
        assert fetch.blob_bytes is not None, "said by a source"
        while fetch.source is not None and len(fetch.under_way) + fetch.writing < WINDOW:
            if fetch.again:
                offset = fetch.again.popleft()
            elif fetch.next < fetch.blob_bytes:
                offset = fetch.next
                fetch.next += PIECE_BYTES
            else:
                break
            fetch.under_way[offset] = None
            self._ask(fetch, fetch.source, offset, PIECE_BYTES)
        is_open = fetch.next < fetch.blob_bytes or fetch.again or fetch.under_way or fetch.writing
        if fetch.arriving is not None and not is_open and not fetch.is_sealing:
            fetch.is_sealing = True
            seal = partial(self._files.seal, fetch.arriving, fetch.blob, fetch.blob_bytes, is_new=False)
            self._outside.work(seal, partial(self._sealed, fetch))

    def _take(self, fetch: _Fetch, peer: PeerId, offset: int, data: memoryview) -> None:
        assert fetch.blob_bytes is not None, "said by the source"
        assert fetch.arriving is not None, "nothing is asked for before"
        if len(data) != min(PIECE_BYTES, fetch.blob_bytes - offset):
            self._distrust(fetch, peer)
            return
        del fetch.under_way[offset]
        fetch.writing += 1
        fetch.stalls, fetch.sign_s = 0, self._outside.clock()
        fetch.senders.add(peer)
        write = partial(fetch.arriving.write, offset, data)
        self._outside.work(write, partial(self._wrote, fetch, fetch.arriving))

    def _wrote(self, fetch: _Fetch, arriving: Arriving, outcome: Failed | None) -> None:
        if self._fetches.get(fetch.blob.digest) is not fetch or fetch.arriving is not arriving:
            return  # it was given up meanwhile
        fetch.writing -= 1
        if outcome is not None:
            self._end(fetch, f"blob {fetch.blob.name!r} cannot be stored: {outcome}")
        else:
            self._pull(fetch)

    def _stalled(self, fetch: _Fetch) -> None:
        """Look now and then whether anything comes."""
        assert fetch.source is not None, "somebody was asked"
        if fetch.is_sealing:
            return
        if fetch.stalls >= STALLS_MAX:
            fetch.no.add(fetch.source)
        if fetch.stalls >= STALLS_MAX or fetch.source not in self._outside.peers():
            self._change(fetch)
            return
        if self._outside.clock() - fetch.sign_s >= STALL_S:
            fetch.stalls += 1
            for offset in fetch.under_way:
                self._ask(fetch, fetch.source, offset, PIECE_BYTES)
        self._wake(fetch, STALL_S, self._stalled)

    def _sealed(self, fetch: _Fetch, outcome: str | Failed) -> None:
        if self._fetches.get(fetch.blob.digest) is not fetch:
            return
        fetch.is_sealing = False
        if isinstance(outcome, str) and outcome:
            self.counters["fetched"] += 1
            self._end(fetch, "", outcome)
        elif isinstance(outcome, str):
            self.counters["digest"] += 1
            senders = set(fetch.senders)
            self._forget(fetch)
            if len(senders) == 1:  # of several nobody knows which one was wrong: each is tried by itself
                fetch.no |= senders
            self._change(fetch)
        else:
            # It may have been written here meanwhile: then that is the blob.
            self._outside.work(partial(self._files.find, fetch.blob), partial(self._looked_again, fetch, outcome))

    def _looked_again(self, fetch: _Fetch, failed: Failed, place: str | Failed | None) -> None:
        if self._fetches.get(fetch.blob.digest) is not fetch:
            return
        if isinstance(place, str):
            self._end(fetch, "", place)
        else:
            self._end(fetch, f"blob {fetch.blob.name!r} cannot be stored: {failed}")

    def _distrust(self, fetch: _Fetch, peer: PeerId) -> None:
        self.counters["lies"] += 1
        fetch.no.add(peer)
        self._change(fetch)

    def _change(self, fetch: _Fetch) -> None:
        """Look for another one who has it."""
        fetch.again.extend(fetch.under_way)
        fetch.sign_s = self._outside.clock()
        self._seek(fetch)

    def _forget(self, fetch: _Fetch) -> None:
        """All that has come of it."""
        if fetch.arriving is not None:
            fetch.arriving.close()
        fetch.arriving, fetch.blob_bytes, fetch.writing = None, None, 0
        fetch.next = 0
        fetch.again.clear()
        fetch.under_way.clear()
        fetch.senders.clear()

    def _end(self, fetch: _Fetch, problem: str, place: str = "") -> None:
        del self._fetches[fetch.blob.digest]
        if fetch.alarm is not None:
            fetch.alarm.cancel()
        self._forget(fetch)
        for then in fetch.waiting:
            then(problem, place)

    def _wake(self, fetch: _Fetch, delay_s: float, what: Callable[[_Fetch], None]) -> None:
        if fetch.alarm is not None:
            fetch.alarm.cancel()
        fetch.alarm = self._outside.later(delay_s, partial(what, fetch))

    def _ask(self, fetch: _Fetch, peer: PeerId, offset: int, bytes_max: int) -> None:
        blob = fetch.blob
        self._say(peer, AskBlob(name=blob.name, digest=blob.digest, offset=offset, bytes_max=bytes_max))

    def _say(self, peer: PeerId, word: AskBlob | BlobPiece | NoBlob, data: bytes | None = None) -> None:
        self._outside.say(peer, word, {} if data is None else beside(data))
