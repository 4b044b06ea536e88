"""Blobs that clients write over the network: taken in piece by piece, sealed, and given to others to keep.

Rules   1. Pieces are taken in order. Whatever comes twice is answered again; what comes too early is asked for again by
           whoever said it.
        2. The client hears that its blob is sealed when as many peers as there should be have it, as far as there are
           so many.
        3. A name is taken once. It is looked for before anything is written, and once more when the blob is sealed
           here: of two that were written at the same time whoever finds other bytes at somebody else gives up, so at
           most one of them is left, and maybe none.
        4. Who says nothing for a while is forgotten, with what it had written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ..core.blobmessages import PIECE_BYTES, BlobId, BlobWritten, WriteBlob
from ..execute.blobfiles import NAME_BYTES_MAX
from ..ids import ClientId
from ..wire.columns import Column
from .files import Arriving, BlobFiles, Named
from .keeping import Keeping
from .names import Meaning, Names
from .outside import Failed, Outside, bytes_beside

WRITERS_MAX = 64
HELD_BYTES_MAX = 16 * PIECE_BYTES
"""Of one blob, that are not in the file yet."""
FORGET_S = 600.0
"""After so long without a word from its writer a blob is given up."""


@dataclass(slots=True, eq=False)
class _Writing:
    """One new blob. taken: bytes that have come in order. written: of those in the file. digest: when all has come.

    heard_s: when its writer said something last. is_over: sealed, or there is a problem.
    """

    writer: bytes
    name: str
    client: ClientId
    heard_s: float
    arriving: Arriving | None = None
    taken: int = 0
    written: int = 0
    digest: bytes = b""
    is_sealing: bool = False
    copies: int = 0
    problem: str = ""

    @property
    def blob(self) -> BlobId:
        return BlobId(name=self.name, digest=self.digest)

    @property
    def is_over(self) -> bool:
        return bool(self.copies or self.problem)


class Arrivals:
    """What clients of one peer write. Called in one thread."""

    def __init__(self, files: BlobFiles, names: Names, keeping: Keeping, outside: Outside) -> None:
        self._files = files
        self._names = names
        self._keeping = keeping
        self._outside = outside
        self._writings: dict[bytes, _Writing] = {}

    def heard(self, client: ClientId, word: WriteBlob, columns: Mapping[str, Column]) -> None:
        data = bytes_beside(columns)
        writing = self._writings.get(word.writer)
        if writing is None:
            self._begin(client, word)
            return
        writing.client = client
        writing.heard_s = self._outside.clock()
        is_next = word.offset == writing.taken and word.name == writing.name and len(data) <= PIECE_BYTES
        if writing.arriving is None:
            if writing.is_over:  # else the answer will come
                self._answer(writing)
        elif writing.is_over or writing.digest:
            self._answer(writing)
        elif word.last and not word.digest:
            self._end(writing, "was given up")
        elif not is_next or writing.taken - writing.written > HELD_BYTES_MAX:
            self._answer(writing)
        else:
            writing.taken += len(data)
            writing.digest = word.digest if word.last else b""
            write = partial(writing.arriving.write, word.offset, data)
            self._outside.work(write, partial(self._wrote, writing, len(data)))

    def close(self) -> None:
        for writing in [*self._writings.values()]:
            self._end(writing, "cannot be stored: the peer stops")

    # ---- its beginning

    def _begin(self, client: ClientId, word: WriteBlob) -> None:
        """The first word has no bytes, so that whoever must not write finds out at once."""
        writing = _Writing(word.writer, word.name, client, self._outside.clock())
        problem = ""
        others = [other for other in self._writings.values() if not other.is_over]
        if word.offset or word.last:
            problem = "has no beginning at this peer; write it anew"
        elif any(other.name == word.name for other in others):
            problem = "is being written by somebody; choose another name"
        elif len(others) >= WRITERS_MAX:
            problem = f"has to wait: {WRITERS_MAX} others are being written; try again later"
        if problem:
            self._end(writing, problem)  # and it is not kept: it may be anybody's
            return
        self._writings[word.writer] = writing
        self._outside.later(FORGET_S, partial(self._forget, writing))
        self._outside.work(partial(self._files.is_free, word.name), partial(self._looked, writing))

    def _looked(self, writing: _Writing, is_free: bool | Failed) -> None:
        if is_free is True:
            self._names.look(writing.name, partial(self._looked_around, writing), is_new=True)
        elif is_free is False:
            self._end(writing, "is there already and blobs are written once; choose another name")
        else:
            writing.problem = f"{is_free}"
            self._answer(writing)

    def _looked_around(self, writing: _Writing, meaning: Meaning) -> None:
        if meaning.is_known:
            self._end(writing, "is there already and blobs are written once; choose another name")
        else:
            self._outside.work(self._files.begin, partial(self._begun, writing))

    def _begun(self, writing: _Writing, arriving: Arriving | Failed) -> None:
        if not isinstance(arriving, Arriving):
            self._end(writing, f"cannot be stored: {arriving}")
        elif writing.is_over:
            arriving.close()
        else:
            writing.arriving = arriving
            self._answer(writing)

    # ---- its end

    def _wrote(self, writing: _Writing, count: int, outcome: Failed | None) -> None:
        if outcome is not None:
            self._end(writing, f"cannot be stored: {outcome}")
            return
        writing.written += count
        if writing.digest and writing.written == writing.taken and not writing.is_sealing and not writing.is_over:
            writing.is_sealing = True
            assert writing.arriving is not None, "written to"
            seal = partial(self._files.seal, writing.arriving, writing.blob, writing.taken, is_new=True)
            self._outside.work(seal, partial(self._sealed, writing))
        self._answer(writing)

    def _sealed(self, writing: _Writing, outcome: str | Failed) -> None:
        writing.is_sealing = False
        if writing.arriving is not None:
            writing.arriving.close()
        if isinstance(outcome, str) and outcome:
            self._names.look(writing.name, partial(self._looked_once_more, writing))
        elif isinstance(outcome, str):
            self._end(writing, "has not come as it was sent; write it anew")
        else:
            self._end(writing, f"cannot be stored: {outcome}")

    def _looked_once_more(self, writing: _Writing, meaning: Meaning) -> None:
        """Whether it is the only blob of its name."""
        if meaning.named == Named(writing.taken, writing.digest):
            self._keeping.holds(writing.blob, partial(self._kept, writing))
        else:
            problem = "was written by somebody else at the same time, with other bytes; choose another name"
            withdraw = partial(self._files.withdraw, writing.blob)
            self._outside.work(withdraw, lambda _: self._end(writing, problem))

    def _kept(self, writing: _Writing, copies: int) -> None:
        writing.copies = copies
        self._end(writing, "")

    def _end(self, writing: _Writing, problem: str) -> None:
        """What it says from now on is the same, until it is forgotten."""
        if not writing.is_over:
            writing.problem = problem and f"blob {writing.name[:NAME_BYTES_MAX]!r} {problem}"
        if writing.arriving is not None and not writing.is_sealing:
            writing.arriving.close()
        self._answer(writing)

    def _forget(self, writing: _Writing) -> None:
        left_s = writing.heard_s + FORGET_S - self._outside.clock()
        if left_s > 0:
            self._outside.later(left_s, partial(self._forget, writing))
            return
        del self._writings[writing.writer]
        self._end(writing, "was given up: its writer said nothing for too long")

    def _answer(self, writing: _Writing) -> None:
        answer = BlobWritten(
            writer=writing.writer,
            blob_bytes=writing.written,
            is_sealed=bool(writing.copies),
            copies=writing.copies,
            problem=writing.problem,
        )
        self._outside.say(writing.client, answer, {})
