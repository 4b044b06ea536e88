"""Copies of blobs: as many members have each as there should be, whoever dies.

Rules   1. Who has a blob sees to it that `copies` members, itself among them, are known to have it too; or all, where
           there are fewer. Known is who has said so in this life, or has asked for a copy here.
        2. Who is asked first follows from the blob and the members' ids, so all who find that a copy is missing ask the
           same one.
        3. It is quiet: nothing is said while there are enough copies. A repair waits until nobody has come or gone for
           a while, many blobs are asked for in one message, and each member has one question at a time. Who refuses,
           or says nothing for long, is passed over for a while.
        4. Who is asked fetches one blob after another, and says when it has it.
        5. Nobody is asked to let go of a copy. Who is about to leave sees to it that somebody else has one.
Why     Weights outlive the machine that they were written at, and a restart of one does not move gigabytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

from ..ids import PeerId
from .blobmessages import BlobId, BlobsKept, KeepBlobs

SETTLE_MS = 2_000
"""After somebody has come or gone, before anything is repaired."""
BATCH = 64
"""Blobs in one message."""
SCAN_MAX = 256
"""Blobs looked at in one go; the rest have their turn at once after."""
AGAIN_MS = 2_000
SILENT_MS = 10_000
"""Without any answer somebody is passed over."""
PASS_MS = 60_000
WANTED_MAX = 4096


@dataclass(slots=True, eq=False)
class _Question:
    """What one member was asked to keep and has not settled."""

    digests: dict[bytes, None]
    again_ms: int
    silent_ms: int


@dataclass(slots=True, eq=False)
class _Member:
    """has: what it is known to have. passed: what it is not asked for, until when."""

    has: set[bytes] = field(default_factory=set)
    passed: dict[bytes, int] = field(default_factory=dict)
    question: _Question | None = None


class BlobKeepers:
    """What one peer knows of copies. copies: of each blob, this peer's among them."""

    def __init__(self, me: PeerId, copies: int) -> None:
        self._me = me
        self._copies = copies
        self._members: dict[PeerId, _Member] = {}
        self._held: dict[bytes, BlobId] = {}
        # Too few are known to have these: when to look at each again. Of `_stuck` nobody is left who could be asked.
        self._short: dict[bytes, int] = {}
        self._stuck: set[bytes] = set()
        # To be fetched, in this order, and who has asked for it.
        self._wanted: dict[bytes, tuple[BlobId, set[PeerId]]] = {}
        self._fetching: bytes | None = None

    # ---- members

    def joined(self, peer: PeerId, now_ms: int) -> None:
        """It is a member, in a new life: nothing is known of what it has."""
        self.gone(peer, now_ms)
        self._members[peer] = _Member()

    def gone(self, peer: PeerId, now_ms: int) -> None:
        """Also for one that is to be forgotten because another life of it begins."""
        member = self._members.pop(peer, None)
        for digest in () if member is None else member.has & self._held.keys():
            if self.copies_of(digest) < self._copies:
                self._short[digest] = 0
        for digest, (_, asked_by) in list(self._wanted.items()):
            asked_by.discard(peer)
            if not asked_by and digest != self._fetching:
                del self._wanted[digest]
        self._stuck.clear()
        self._short = dict.fromkeys(self._short, now_ms + SETTLE_MS)

    # ---- what is here

    def holds(self, blob: BlobId, now_ms: int) -> None:
        """It is here."""
        self._wanted.pop(blob.digest, None)
        if blob.digest not in self._held:
            self._held[blob.digest] = blob
            if self.copies_of(blob.digest) < self._copies:
                self._short[blob.digest] = now_ms

    def leave(self, now_ms: int) -> None:
        """This peer is about to leave: what would be gone with it goes to somebody else, too."""
        self._copies = max(self._copies, 2)
        for digest in self._held:
            if digest not in self._short and self.copies_of(digest) < self._copies:
                self._short[digest] = now_ms

    @property
    def short_count(self) -> int:
        """Of how many blobs there are too few copies, and somebody to be asked."""
        return len(self._short) - len(self._stuck)

    def copies_of(self, digest: bytes) -> int:
        """How many are known to have it. O(members)."""
        return (digest in self._held) + sum([digest in member.has for member in self._members.values()])

    def is_settled(self, digest: bytes) -> bool:
        """Whether there are enough copies, or nobody is left to be asked."""
        return digest not in self._short or digest in self._stuck

    # ---- asking others

    def asks(self, now_ms: int) -> list[tuple[PeerId, KeepBlobs]]:
        """What is to be said now."""
        said: dict[PeerId, None] = {}
        for peer, member in self._members.items():
            question = member.question
            if question is None or question.again_ms > now_ms:
                continue
            if question.silent_ms <= now_ms:
                self._pass_over(member, list(question.digests), now_ms)
            else:
                question.again_ms = now_ms + AGAIN_MS
                said[peer] = None
        due = (digest for digest, due_ms in self._short.items() if due_ms <= now_ms)
        for digest in list(islice(due, SCAN_MAX)):
            said |= dict.fromkeys(self._find_keepers(digest, said, now_ms))
        return [(peer, self._question(peer)) for peer in said]

    def _question(self, peer: PeerId) -> KeepBlobs:
        question = self._members[peer].question
        assert question is not None, "about to be asked"
        return KeepBlobs(blobs=tuple([self._held[digest] for digest in question.digests]))

    def _find_keepers(self, digest: bytes, said: Iterable[PeerId], now_ms: int) -> list[PeerId]:
        """Put a blob into the questions to whoever is to keep it; who is asked anew for that."""
        missing = self._copies - self.copies_of(digest)
        if missing <= 0:
            self._enough(digest)
            return []
        asked: list[PeerId] = []
        is_waiting = False
        for peer in self._order(digest):
            member = self._members[peer]
            if missing == 0:
                break
            if digest in member.has or member.passed.get(digest, 0) > now_ms:
                continue
            missing -= 1
            question = member.question
            if question is None:
                member.question = _Question({digest: None}, now_ms + AGAIN_MS, now_ms + SILENT_MS)
                asked.append(peer)
            elif digest not in question.digests and peer in said and len(question.digests) < BATCH:
                question.digests[digest] = None
                asked.append(peer)
            else:
                is_waiting = True  # it has been asked that, or has to answer something else first
        self._stuck.discard(digest)
        if asked or is_waiting:
            self._short[digest] = now_ms + AGAIN_MS
        else:
            self._stuck.add(digest)
            self._short[digest] = now_ms + PASS_MS
        return asked

    def _order(self, digest: bytes) -> list[PeerId]:
        """All others, the best keeper first. O(members log members)."""
        return sorted(self._members, key=lambda peer: blake2b(peer.encode(), digest_size=8, key=digest).digest())

    def told(self, peer: PeerId, word: BlobsKept, now_ms: int) -> None:
        """A member says what it has."""
        member = self._members.get(peer)
        if member is None:
            return
        kept = [digest for digest in word.kept if digest in self._held]
        member.has.update(kept)
        question = member.question
        if question is not None:
            question.silent_ms = now_ms + SILENT_MS
            self._pass_over(member, [digest for digest in word.refused if digest in question.digests], now_ms)
        for digest in kept:
            self._answered(member, digest)
            if self.copies_of(digest) >= self._copies:
                self._enough(digest)
        if member.question is None:
            # Others that wait for their turn with it have it now.
            waiting = [digest for digest in self._short if digest not in self._stuck]
            self._short |= {digest: min(self._short[digest], now_ms) for digest in waiting}

    def _enough(self, digest: bytes) -> None:
        self._short.pop(digest, None)
        self._stuck.discard(digest)

    def _pass_over(self, member: _Member, digests: list[bytes], now_ms: int) -> None:
        member.passed = {digest: until_ms for digest, until_ms in member.passed.items() if until_ms > now_ms}
        for digest in digests:
            member.passed[digest] = now_ms + PASS_MS
            self._short[digest] = now_ms
            self._answered(member, digest)

    def _answered(self, member: _Member, digest: bytes) -> None:
        if member.question is not None:
            member.question.digests.pop(digest, None)
            if not member.question.digests:
                member.question = None

    # ---- being asked

    def asked(self, peer: PeerId, word: KeepBlobs) -> BlobsKept:
        """A member asks for copies here; what to answer at once."""
        member = self._members.get(peer)
        if member is None:
            return BlobsKept(kept=())
        kept, coming = [], []
        for blob in word.blobs:
            member.has.add(blob.digest)
            if blob.digest in self._held:
                kept.append(blob.digest)
                if self.copies_of(blob.digest) >= self._copies:
                    self._enough(blob.digest)
            elif blob.digest in self._wanted or len(self._wanted) < WANTED_MAX:
                coming.append(blob.digest)
                self._wanted.setdefault(blob.digest, (blob, set()))[1].add(peer)
        return BlobsKept(kept=tuple(kept), coming=tuple(coming))

    def next_fetch(self) -> BlobId | None:
        """What is to be fetched now; None while something is, or if there is nothing. Ends with `fetched`."""
        if self._fetching is not None or not self._wanted:
            return None
        self._fetching, (blob, _) = next(iter(self._wanted.items()))
        return blob

    def fetched(self, blob: BlobId, *, is_here: bool, now_ms: int) -> list[tuple[PeerId, BlobsKept]]:
        """How that ended, and whom to tell."""
        assert self._fetching == blob.digest, "one at a time"
        self._fetching = None
        _, asked_by = self._wanted.pop(blob.digest, (blob, set()))
        if is_here:
            self.holds(blob, now_ms)
        one = (blob.digest,)
        answer = BlobsKept(kept=one) if is_here else BlobsKept(kept=(), refused=one)
        return [(peer, answer) for peer in sorted(asked_by)]

    # ---- time

    def deadline_ms(self) -> int | None:
        """When `asks` has something to say. O(members + blobs without enough copies)."""
        times = [member.question.again_ms for member in self._members.values() if member.question is not None]
        return min([*times, *self._short.values()], default=None)

    def check_invariants(self) -> None:
        for digest in self._short:
            assert digest in self._held
        assert self._stuck <= self._short.keys()
        for digest in self._held:
            assert digest in self._short or self.copies_of(digest) >= self._copies
        for member in self._members.values():
            assert member.question is None or 0 < len(member.question.digests) <= BATCH
            assert member.question is None or self._held.keys() >= member.question.digests.keys()
        assert self._fetching is None or self._fetching in self._wanted or self._fetching in self._held
