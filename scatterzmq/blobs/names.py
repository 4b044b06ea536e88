"""Which bytes the name of a blob means: asked of all peers, so that a graph means the same bytes everywhere.

Rules   1. A name means the bytes that whoever has a file of this name has, if they all have the same. If they have not,
           it means nothing, and whoever asks is told who has what.
        2. Nobody has the last word for peers that cannot be reached. Whoever has asked goes by the digest from then on,
           and whatever those peers have of this name is not taken for it.
        3. Every question ends: with the answers of all, or without those that keep silent.
        4. Files of packages are not asked for elsewhere if they are here: each machine has its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from ..core.blobmessages import AskBlobName, BlobNamed
from ..errors import BlobError
from ..execute.blobfiles import PACKAGE_PREFIX
from ..ids import PeerId
from .files import BlobFiles, Named
from .outside import Alarm, Failed, Outside

ASK_AGAIN_S = 1.0
GRACE_S = 3.0
"""So long after the first question it is not yet certain that nobody has it: peers may be about to come."""
FIND_S = 2.0
"""How long those who keep silent are waited for, once somebody has it."""
SEEK_S = 10.0
"""The same while nobody is known to have it; and for who is reading it."""
SERVED_MAX = 64
"""Files that are read for others at once."""
SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name was found to mean. named: None if nothing, or not one thing; then `problem` says why.

    is_known: somebody has a blob of this name, whatever it is.
    """

    name: str
    named: Named | None
    problem: str = ""
    is_known: bool = False


@dataclass(slots=True, eq=False)
class _Look:
    """is_new: whether anybody has it is all that matters. here: what it means at this peer; None while that is open.

    refusal: why it must not be read here. answers: of others. reading: who has it and is still reading it.
    """

    name: str
    then: Callable[[Meaning], None]
    is_new: bool
    began_s: float
    sign_s: float
    is_looked: bool = False
    here: Named | None = None
    refusal: str = ""
    answers: dict[PeerId, Named | None] = field(default_factory=dict)
    reading: set[PeerId] = field(default_factory=set)
    alarm: Alarm | None = None


class Names:
    """The names of one peer. Everything is called, and calls back, in one thread."""

    def __init__(self, files: BlobFiles, outside: Outside) -> None:
        self._files = files
        self._outside = outside
        self._looks: list[_Look] = []
        self._reading: dict[str, set[PeerId]] = {}

    def look(self, name: str, then: Callable[[Meaning], None], *, is_new: bool = False) -> None:
        """Find out what it means. is_new: only whether it is taken, by anybody else."""
        now_s = self._outside.clock()
        look = _Look(name, then, is_new, now_s, now_s)
        self._looks.append(look)
        if is_new:
            look.is_looked = True
            self._ask(look)
        else:
            self._outside.work(partial(self._files.named, name), partial(self._looked, look))

    def close(self) -> None:
        for look in [*self._looks]:
            self._end(look, Meaning(look.name, None, f"blob {look.name!r} could not be looked for: the peer stops"))

    # ---- what others say

    def asked(self, peer: PeerId, word: AskBlobName) -> None:
        name = word.name
        waiting = self._reading.get(name)
        if waiting is None:
            if len(self._reading) < SERVED_MAX:
                self._reading[name] = {peer}
                self._outside.work(partial(self._files.named, name), partial(self._answer, name))
        elif peer in waiting:  # it asks again: what takes so long is there
            self._outside.say(peer, BlobNamed(name=name, is_here=True), {})
        else:
            waiting.add(peer)

    def _answer(self, name: str, named: Named | Failed | None) -> None:
        if isinstance(named, Named):
            answer = BlobNamed(name=name, is_here=True, blob_bytes=named.blob_bytes, digest=named.digest)
        else:
            answer = BlobNamed(name=name, is_here=False)
        for peer in sorted(self._reading.pop(name)):
            self._outside.say(peer, answer, {})

    def heard(self, peer: PeerId, word: BlobNamed) -> None:
        for look in [look for look in self._looks if look.name == word.name]:
            look.reading.discard(peer)
            if word.is_here and not word.digest:
                look.reading.add(peer)
                look.sign_s = self._outside.clock()
            else:
                look.answers[peer] = Named(word.blob_bytes, word.digest) if word.is_here else None
            self._judge(look)

    # ---- looking

    def _looked(self, look: _Look, here: Named | Failed | None) -> None:
        if look not in self._looks:
            return
        look.is_looked = True
        is_package = look.name.startswith(f"{PACKAGE_PREFIX}/")
        if isinstance(here, BlobError | OSError) and not is_package:
            self._end(look, Meaning(look.name, None, f"{here}", is_known=True))
            return
        if isinstance(here, BlobError | OSError):
            look.refusal = f"{here}"
        elif here is not None:
            look.here = here
        if is_package and look.here is not None:
            self._end(look, Meaning(look.name, look.here, is_known=True))
        else:
            self._ask(look)

    def _ask(self, look: _Look) -> None:
        """Ask all who have not answered, and again after a while."""
        if look not in self._looks:
            return
        for peer in sorted(set(self._outside.peers()) - look.answers.keys()):
            self._outside.say(peer, AskBlobName(name=look.name), {})
        look.alarm = self._outside.later(ASK_AGAIN_S, partial(self._ask, look))
        self._judge(look)

    def _judge(self, look: _Look) -> None:
        if not look.is_looked or look not in self._looks:
            return
        now_s = self._outside.clock()
        silent_s, looking_s = now_s - look.sign_s, now_s - look.began_s
        waiting = set(self._outside.peers()) - look.answers.keys()
        is_here = look.here is not None or any(look.answers.values())
        is_known = is_here or bool(look.reading)  # most who take so long have it, but on a busy machine not all
        if look.is_new:
            is_over = is_here or not waiting or silent_s >= FIND_S or looking_s >= SEEK_S
        elif waiting:
            is_over = silent_s >= (FIND_S if is_known and not look.reading else SEEK_S)
        else:
            is_over = is_known or looking_s >= GRACE_S
        if is_over:
            self._end(look, self._meaning(look, is_known=is_known))

    def _meaning(self, look: _Look, *, is_known: bool) -> Meaning:
        having: dict[Named, list[str]] = {}
        if look.here is not None:
            having[look.here] = ["this peer"]
        for peer, named in sorted(look.answers.items()):
            if named is not None:
                having.setdefault(named, []).append(peer)
        if len(having) == 1:
            return Meaning(look.name, next(iter(having)), is_known=True)
        if having:
            return Meaning(look.name, None, _differs(look.name, having), is_known=True)
        problem = look.refusal or (
            f"blob {look.name!r} is not here, nor at any of {len(self._outside.peers())} other peers; write it with "
            "open_blob(), or put the file below blobs.dir of one peer"
        )
        return Meaning(look.name, None, problem, is_known=is_known)

    def _end(self, look: _Look, meaning: Meaning) -> None:
        self._looks.remove(look)
        if look.alarm is not None:
            look.alarm.cancel()
        look.then(meaning)


def _differs(name: str, having: Mapping[Named, list[str]]) -> str:
    sides = []
    for named, peers in having.items():
        more = f" and {len(peers) - SHOWN_MAX} more" if len(peers) > SHOWN_MAX else ""
        sides.append(f"{named.blob_bytes} bytes ({named.digest.hex()[:8]}…) at {', '.join(peers[:SHOWN_MAX])}{more}")
    return f"blob {name!r} is not the same everywhere: {'; '.join(sides)}; use another name, or remove the wrong files"
