"""Blobs between peers: serves those that are here, fetches those that somebody here needs, has others keep copies.

Purpose   A machine without sockets, files or clock: what it needs of the world is in outside.py and files.py.
Rules     1. Every word may be lost, late, or come twice; whoever waits repeats its question, and every wait ends.
          2. What is served, and what is on its way, is bounded per peer and per blob.
          3. Nothing of a blob can be seen before all of it is there and its digest is what the sender said at first.
             Who sends something else is not asked again for that blob; what came of it is forgotten.
          4. Nobody remembers that a blob is nowhere: who needs it again asks again.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from ..core.blobmessages import PIECE_BYTES, AskBlob, BlobBetweenPeers, BlobKept, BlobPiece, KeepBlob, NoBlob
from ..execute.blobfiles import BlobError
from ..ids import PeerId
from ..wire.columns import Column
from .files import Arriving, BlobFiles, Piece
from .outside import Alarm, Failed, Outside, beside, bytes_beside

Then: TypeAlias = Callable[[str], None]
"""Gets "" when the blob is there, else why it is not."""

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
FIND_S = 2.0
KEEP_S = 600.0
"""How long is waited for copies at most."""


@dataclass(slots=True, eq=False)
class _Fetch:
    """One blob on its way.

    no: who does not have it, or has lied. source: from whom it comes; None while one is looked for.
    what: (bytes, digest) of the blob. senders: from whom its pieces came. under_way: offsets that were asked for.
    next, again: offsets to ask for, the first time and once more. writing: pieces that have come and are not in the
    file yet. sign_s: when there was any progress, or hope of it.
    """

    name: str
    waiting: list[Then]
    began_s: float
    sign_s: float
    no: set[PeerId] = field(default_factory=set)
    asked: set[PeerId] = field(default_factory=set)
    source: PeerId | None = None
    what: tuple[int, bytes] | None = None
    arriving: Arriving | None = None
    senders: set[PeerId] = field(default_factory=set)
    next: int = 0
    again: deque[int] = field(default_factory=deque)
    under_way: dict[int, None] = field(default_factory=dict)
    writing: int = 0
    is_sealing: bool = False
    stalls: int = 0
    alarm: Alarm | None = None


@dataclass(slots=True, eq=False)
class _Search:
    """Whether anybody has a blob. open: who has not answered."""

    name: str
    then: Callable[[bool], None]
    open: set[PeerId]


@dataclass(slots=True, eq=False)
class _Spread:
    """Copies of a blob. asked: peer -> when it last gave a sign. tried: all who were asked."""

    name: str
    copies: int
    then: Callable[[int], None]
    until_s: float
    asked: dict[PeerId, float] = field(default_factory=dict)
    tried: set[PeerId] = field(default_factory=set)
    kept: set[PeerId] = field(default_factory=set)
    alarm: Alarm | None = None


class Exchange:
    """Blobs of one peer. Everything is called, and calls back, in one thread. counters: of what was dropped."""

    def __init__(self, files: BlobFiles, outside: Outside) -> None:
        self.counters: Counter[str] = Counter()
        self._files = files
        self._outside = outside
        self._serving: Counter[PeerId] = Counter()
        self._reading: set[str] = set()
        self._fetches: dict[str, _Fetch] = {}
        self._searches: list[_Search] = []
        self._spreads: dict[str, _Spread] = {}

    # ---- what is wanted here

    def want(self, name: str, then: Then) -> None:
        """See to it that the blob is here."""
        fetch = self._fetches.get(name)
        if fetch is not None:
            fetch.waiting.append(then)
        elif len(self._fetches) >= FETCHES_MAX:
            then(f"blob {name!r}: {FETCHES_MAX} others are being fetched; ask again later")
        else:
            now_s = self._outside.clock()
            fetch = self._fetches[name] = _Fetch(name, [then], now_s, now_s)
            self._outside.work(partial(self._files.has, name), partial(self._looked, fetch))

    def find(self, name: str, then: Callable[[bool], None]) -> None:
        """Whether any other peer has it, as far as they answer soon."""
        search = _Search(name, then, set(self._outside.peers()))
        self._searches.append(search)
        for peer in sorted(search.open):
            self._say(peer, AskBlob(name=name, offset=0, bytes_max=0))
        if search.open:
            self._outside.later(FIND_S, partial(self._found, search, is_there=False))
        else:
            self._found(search, is_there=False)

    def spread(self, name: str, copies: int, then: Callable[[int], None]) -> None:
        """Have so many others keep it. then: gets how many do, when no more can be had."""
        spread = self._spreads[name] = _Spread(name, copies, then, self._outside.clock() + KEEP_S)
        self._ask_to_keep(spread)

    def close(self) -> None:
        """Whoever waits is told; nothing is left behind."""
        for fetch in [*self._fetches.values()]:
            self._end(fetch, f"blob {fetch.name!r} could not be fetched: the peer stops")

    # ---- what others say

    def heard(self, peer: PeerId, word: BlobBetweenPeers, columns: Mapping[str, Column]) -> None:
        match word:
            case AskBlob():
                self._asked(peer, word)
            case BlobPiece():
                self._piece(peer, word, bytes_beside(columns))
            case NoBlob(name=name):
                self._denied(peer, name)
            case KeepBlob(name=name):
                self._keep(peer, name)
            case BlobKept():
                self._kept(peer, word)

    # ---- serving

    def _asked(self, peer: PeerId, word: AskBlob) -> None:
        name = word.name
        if name in self._reading:
            self._say(peer, BlobPiece(name=name, offset=0, blob_bytes=0, digest=b""), b"")
            return
        if self._serving[peer] >= SERVED_MAX:
            self.counters["busy"] += 1
            return
        self._serving[peer] += 1
        is_new = not self._files.knows_digest(name)
        if is_new:
            self._reading.add(name)  # making its digest may take a while
        self._outside.work(
            partial(self._files.piece, name, word.offset, min(word.bytes_max, PIECE_BYTES)),
            partial(self._serve, peer, word, is_new=is_new),
        )

    def _serve(self, peer: PeerId, word: AskBlob, piece: Piece | Failed, *, is_new: bool) -> None:
        self._serving[peer] -= 1
        if is_new:
            self._reading.discard(word.name)
        if isinstance(piece, Piece):
            answer = BlobPiece(name=word.name, offset=word.offset, blob_bytes=piece.blob_bytes, digest=piece.digest)
            self._say(peer, answer, piece.data)
        else:
            self._say(peer, NoBlob(name=word.name))

    # ---- fetching: looking for somebody who has it

    def _looked(self, fetch: _Fetch, is_here: bool | Failed) -> None:
        if self._fetches.get(fetch.name) is not fetch:
            return
        if is_here is True:
            self._end(fetch, "")
        elif isinstance(is_here, BlobError | OSError):
            self._end(fetch, f"{is_here}")
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
            where = f"nor at any of {len(self._outside.peers())} other peers"
            self._end(
                fetch,
                f"blob {fetch.name!r} is not here, {where}; write it with open_blob(), or put the file "
                "below blobs.dir of one peer",
            )
            return
        for peer in sorted(fetch.asked):
            self._say(peer, AskBlob(name=fetch.name, offset=0, bytes_max=0))
        self._wake(fetch, ASK_AGAIN_S, self._seek)

    def _denied(self, peer: PeerId, name: str) -> None:
        for search in [search for search in self._searches if search.name == name]:
            search.open.discard(peer)
            if not search.open:
                self._found(search, is_there=False)
        fetch = self._fetches.get(name)
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

    def _found(self, search: _Search, *, is_there: bool) -> None:
        if search in self._searches:
            self._searches.remove(search)
            search.then(is_there)

    # ---- fetching: its pieces

    def _piece(self, peer: PeerId, word: BlobPiece, data: memoryview) -> None:
        for search in [search for search in self._searches if search.name == word.name and peer in search.open]:
            self._found(search, is_there=True)
        fetch = self._fetches.get(word.name)
        if fetch is None or peer in fetch.no or fetch.is_sealing:
            self.counters["unasked"] += 1
        elif not word.digest:
            fetch.sign_s = self._outside.clock()
        elif fetch.source is None:
            if peer in fetch.asked:
                self._begin(fetch, peer, (word.blob_bytes, word.digest))
        elif fetch.source != peer:
            self.counters["unasked"] += 1  # it has it, too; it is asked again if it is needed
        elif (word.blob_bytes, word.digest) != fetch.what:
            self._distrust(fetch, peer)
        elif word.offset in fetch.under_way and data:  # without any it answers an earlier question
            self._take(fetch, peer, word.offset, data)

    def _begin(self, fetch: _Fetch, peer: PeerId, what: tuple[int, bytes]) -> None:
        """From here on it comes from this peer; with what is there already, if it is the same."""
        fetch.source, fetch.stalls, fetch.sign_s = peer, 0, self._outside.clock()
        self._wake(fetch, STALL_S, self._stalled)
        if fetch.what == what and fetch.arriving is not None:
            self._pull(fetch)
            return
        self._forget(fetch)
        fetch.what = what
        self._outside.work(self._files.begin, partial(self._begun, fetch, what))

    def _begun(self, fetch: _Fetch, what: tuple[int, bytes], arriving: Arriving | Failed) -> None:
        is_wanted = self._fetches.get(fetch.name) is fetch and fetch.what == what and fetch.arriving is None
        if not isinstance(arriving, Arriving):
            if is_wanted:
                self._end(fetch, f"blob {fetch.name!r} cannot be stored: {arriving}")
        elif not is_wanted:
            arriving.close()
        else:
            fetch.arriving = arriving
            self._pull(fetch)

    def _pull(self, fetch: _Fetch) -> None:
        """Ask for as much as may be on its way; with nothing left, look whether it is right."""
        assert fetch.what is not None, "said by a source"
        blob_bytes, digest = fetch.what
        while fetch.source is not None and len(fetch.under_way) + fetch.writing < WINDOW:
            if fetch.again:
                offset = fetch.again.popleft()
            elif fetch.next < blob_bytes:
                offset = fetch.next
                fetch.next += PIECE_BYTES
            else:
                break
            fetch.under_way[offset] = None
            self._say(fetch.source, AskBlob(name=fetch.name, offset=offset, bytes_max=PIECE_BYTES))
        is_open = fetch.next < blob_bytes or fetch.again or fetch.under_way or fetch.writing
        if fetch.arriving is not None and not is_open and not fetch.is_sealing:
            fetch.is_sealing = True
            seal = partial(self._files.seal, fetch.arriving, fetch.name, blob_bytes, digest)
            self._outside.work(seal, partial(self._sealed, fetch))

    def _take(self, fetch: _Fetch, peer: PeerId, offset: int, data: memoryview) -> None:
        assert fetch.what is not None, "said by the source"
        assert fetch.arriving is not None, "nothing is asked for before"
        if len(data) != min(PIECE_BYTES, fetch.what[0] - offset):
            self._distrust(fetch, peer)
            return
        del fetch.under_way[offset]
        fetch.writing += 1
        fetch.stalls, fetch.sign_s = 0, self._outside.clock()
        fetch.senders.add(peer)
        write = partial(fetch.arriving.write, offset, data)
        self._outside.work(write, partial(self._wrote, fetch, fetch.arriving))

    def _wrote(self, fetch: _Fetch, arriving: Arriving, outcome: Failed | None) -> None:
        if self._fetches.get(fetch.name) is not fetch or fetch.arriving is not arriving:
            return  # it was given up meanwhile
        fetch.writing -= 1
        if outcome is not None:
            self._end(fetch, f"blob {fetch.name!r} cannot be stored: {outcome}")
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
                self._say(fetch.source, AskBlob(name=fetch.name, offset=offset, bytes_max=PIECE_BYTES))
        self._wake(fetch, STALL_S, self._stalled)

    def _sealed(self, fetch: _Fetch, outcome: bool | Failed) -> None:
        if self._fetches.get(fetch.name) is not fetch:
            return
        fetch.is_sealing = False
        if outcome is True:
            self._end(fetch, "")
        elif outcome is False:
            self.counters["digest"] += 1
            senders = set(fetch.senders)
            self._forget(fetch)
            if len(senders) == 1:  # of several nobody knows which one was wrong: each is tried by itself
                fetch.no |= senders
            self._change(fetch)
        else:
            # It may have been written here meanwhile: then that is the blob.
            self._outside.work(partial(self._files.has, fetch.name), partial(self._looked_again, fetch, outcome))

    def _looked_again(self, fetch: _Fetch, failed: Failed, is_here: bool | Failed) -> None:
        if self._fetches.get(fetch.name) is fetch:
            self._end(fetch, "" if is_here is True else f"blob {fetch.name!r} cannot be stored: {failed}")

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
        fetch.arriving, fetch.what, fetch.writing = None, None, 0
        fetch.next = 0
        fetch.again.clear()
        fetch.under_way.clear()
        fetch.senders.clear()

    def _end(self, fetch: _Fetch, problem: str) -> None:
        del self._fetches[fetch.name]
        if fetch.alarm is not None:
            fetch.alarm.cancel()
        self._forget(fetch)
        for then in fetch.waiting:
            then(problem)

    def _wake(self, fetch: _Fetch, delay_s: float, what: Callable[[_Fetch], None]) -> None:
        if fetch.alarm is not None:
            fetch.alarm.cancel()
        fetch.alarm = self._outside.later(delay_s, partial(what, fetch))

    # ---- copies

    def _ask_to_keep(self, spread: _Spread) -> None:
        """Have as many at it as are needed, and ask again after a while."""
        if spread.alarm is not None:
            spread.alarm.cancel()
        now_s, peers = self._outside.clock(), self._outside.peers()
        spread.asked = {
            peer: sign_s for peer, sign_s in spread.asked.items() if peer in peers and now_s - sign_s < SEEK_S
        }
        for peer in peers:
            if len(spread.kept) + len(spread.asked) < spread.copies and peer not in spread.tried:
                spread.asked[peer] = now_s
                spread.tried.add(peer)
        if not spread.asked or len(spread.kept) >= spread.copies or now_s >= spread.until_s:
            del self._spreads[spread.name]
            spread.then(len(spread.kept))
            return
        for peer in spread.asked:
            self._say(peer, KeepBlob(name=spread.name))
        spread.alarm = self._outside.later(ASK_AGAIN_S, partial(self._ask_to_keep, spread))

    def _keep(self, peer: PeerId, name: str) -> None:
        if name in self._fetches:
            self._say(peer, BlobKept(name=name, is_kept=False))
        else:
            self.want(
                name,
                lambda problem: self._say(peer, BlobKept(name=name, is_kept=not problem, problem=problem)),
            )

    def _kept(self, peer: PeerId, word: BlobKept) -> None:
        spread = self._spreads.get(word.name)
        if spread is None or peer not in spread.asked:
            return
        spread.asked[peer] = self._outside.clock()
        if word.is_kept:
            spread.kept.add(peer)
        if word.is_kept or word.problem:
            del spread.asked[peer]
            self._ask_to_keep(spread)

    def _say(self, peer: PeerId, word: BlobBetweenPeers, data: bytes | None = None) -> None:
        self._outside.say(peer, word, {} if data is None else beside(data))
