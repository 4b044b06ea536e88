"""Restoring: a peer starts again with what its journal has.

Purpose   Rebuilds what was here, and lets nobody rely on it before it has been compared with what others have.
Rules     1. Who this peer is in this life is on disk before anybody hears of it.
          2. Whatever was here comes back as a copy, its own tasks too. They are owned again, in an epoch above all of
             earlier lives, when everybody who was a member has been asked, is gone, or `grace_s` is over.
          3. Everybody is asked what it holds of this peer's: the disk may have forgotten the last of it. What is known
             only there is owned there from then on.
          4. Until then clients wait: nothing is accepted, and nothing is said of any task.
Why       While this peer was away others may have taken its tasks over, ended or deleted them.
"""

from ..ids import PeerId
from .definitions import Definitions
from .entries import DefinitionGone, DefinitionText, Deleted, Identity, Kept, Neighbour, NeighbourGone, Pointed
from .events import MessageReceived, Restored
from .journal import Journal
from .journaled import JournaledCopies
from .members import Status
from .messages import AskTasks, Attach, Cancel, Clear, ResultRead
from .peermessages import Contact, Inquire, Known
from .state import State
from .takeover import Takeover

DEFERRED_MAX = 10_000
"""Requests of clients that wait; what is beyond they repeat."""

ABOUT_TASKS = (Attach, AskTasks, Cancel, Clear, ResultRead)


class Restoring:
    """What a peer with a journal does when it starts."""

    def __init__(self, state: State, journal: Journal, definitions: Definitions, takeover: Takeover) -> None:
        self._state = state
        self._journal = journal
        self._definitions = definitions
        self._takeover = takeover
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._until_ms: int | None = None
        self._expected: tuple[Contact, ...] = ()
        self._waiting: dict[PeerId, None] = {}
        self._repeat_ms: int | None = None
        self._is_met = False
        self._reclaims = False
        self._deferred: list[MessageReceived] = []

    # ---- the beginning

    def begin(self, event: Restored) -> None:
        """Take in what the journal has."""
        state, copies = self._state, self._state.copies
        assert isinstance(copies, JournaledCopies)
        self._until_ms = state.now_ms + int(state.settings.timing.grace_s * 1000)
        kept = [entry for entry in event.entries if isinstance(entry, Kept)]
        blocks = {block.id: block for entry in kept for block, _ in (entry.values or {}).values()}
        state.blocks.admit(blocks.values(), kept=True)
        for entry in event.entries:
            if isinstance(entry, Kept | Deleted):
                copies.restore(entry, state.now_ms)
        state.blocks.settle(blocks.values())
        unused = self._definitions.restore(
            [entry for entry in event.entries if isinstance(entry, DefinitionText)],
            [entry.pointer for entry in event.entries if isinstance(entry, Pointed)],
        )
        for entry in kept:
            if not self._definitions.has(entry.digest):
                self._definitions.want(entry.digest, entry.version.owner)
        self._journal.note(Identity(peer=state.me, incarnation=state.members.me.incarnation))
        for digest in unused:
            self._journal.note(DefinitionGone(digest=digest))
        self._definitions.here.append(self._text_came)
        self._definitions.pointed_at.append(lambda pointer: self._journal.note(Pointed(pointer=pointer)))
        self._expected = event.contacts
        self._waiting = {contact.id: None for contact in event.contacts if contact.id != state.me}
        self._journal.when_kept(lambda _: self._meet())

    def _text_came(self, digest: bytes) -> None:
        text = self._state.plans.text(digest)
        assert text is not None
        self._journal.note(DefinitionText(digest=digest, definition=text))

    def _meet(self) -> None:
        """Look for everybody who was there."""
        self._is_met = True
        for contact in self._expected:
            self._state.members.expect(contact)
        self._expected = ()

    # ---- others

    def changed(self, peer: PeerId, status: Status) -> None:
        """A member is something else."""
        if status is Status.ALIVE:
            contact = self._state.members.contact(peer)
            assert contact is not None
            self._journal.note(Neighbour(contact=contact))
            if self._state.restoring:
                self._waiting[peer] = None
                self._ask(peer)
        elif status in _GONE:
            self._journal.note(NeighbourGone(peer=peer))
            self._waiting.pop(peer, None)

    def _ask(self, peer: PeerId) -> None:
        self._state.members.tell(peer, Inquire(mid=0, owner=self._state.me, ids=()))
        if self._repeat_ms is None:
            self._repeat_ms = self._state.now_ms + self._ask_ms

    def known(self, sender: PeerId, message: Known) -> None:
        """A member has said what it holds."""
        if not message.mid:
            self._waiting.pop(sender, None)

    # ---- clients

    def defers(self, event: MessageReceived) -> bool:
        """Whether a client has to wait."""
        if not self._state.restoring or not isinstance(event.message, ABOUT_TASKS):
            return False
        if len(self._deferred) < DEFERRED_MAX:
            self._deferred.append(event)
        return True

    # ---- the end

    def go_on(self) -> list[MessageReceived]:
        """Whatever can be done now; after every event. Returns what clients have waited for, once it is over."""
        if not self._state.restoring or self._until_ms is None:
            return []
        is_late = self._state.now_ms >= self._until_ms
        if not self._reclaims and self._is_met and (is_late or not self._waiting):
            self._reclaims = True
            self._takeover.reclaim()
        if not self._reclaims or (self._takeover.is_reclaiming and not is_late):
            return []
        self._state.restoring = False
        self._waiting, self._repeat_ms = {}, None
        deferred, self._deferred = self._deferred, []
        return deferred

    def expire(self) -> None:
        """Ask again."""
        if self._repeat_ms is not None and self._repeat_ms <= self._state.now_ms:
            self._repeat_ms = None
            for peer in self._waiting:
                if self._state.members.is_alive(peer):
                    self._ask(peer)

    def deadline_ms(self) -> int | None:
        if not self._state.restoring or self._until_ms is None:
            return None
        until_ms = self._until_ms if self._is_met and self._until_ms > self._state.now_ms else None
        return min([time for time in (until_ms, self._repeat_ms) if time is not None], default=None)


_GONE = frozenset((Status.DEAD, Status.LEFT))
