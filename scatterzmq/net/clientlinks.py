"""Links of one client: lanes to peers, and who is at the other end of them.

Purpose   What the driver of a client gets as its `PeerLinks`.
Rules     1. An address says nothing about who is there: another process may have taken the port. After every connection
             that is made, whoever is there is asked for the members, and says by answering who it is. Only then the
             link is up.
          2. A peer has one link. Of two addresses that lead to the same life of it one is given up; of two lives the
             later one counts.
          3. Where a client may begin ("seeds") is tried only as long as no link is up: peers tell of each other.
          4. A peer of another cluster than is meant says so. Nothing else is said to it.
          5. What comes in is for this client, from whom it has verified, or it is counted and dropped.
          6. The driver is only called from the reactor's loop, never from within what it asks for.
Why       Towards each address the client has an id of its own, so that two addresses of one peer do not take the
          answers away from each other.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Protocol

from ..client.link import Member
from ..core.blobmessages import BlobWritten, WriteBlob
from ..core.greetings import cluster_tag
from ..core.messages import AskMembers, Contact, MemberList, ToClient, ToPeer
from ..ids import ClientId, PeerId
from ..wire.columns import Column
from ..wire.frames import Envelope, Frame, decode_opened, encode, open_envelope
from ..wire.refusal import Limits, WireError
from .addresses import Address
from .lanes import Lanes
from .monitor import Change
from .options import OutOfFilesError
from .reactor import Alarm, Reactor
from .routing import of_client

ASK_AGAIN_S = 1.0
"""Between two questions who is there, as long as there is no answer."""
SEEDS_MAX = 256
"""Addresses that are tried at once; the network may name any number."""

HEARD_BYTES_MAX = 1 << 40
"""Of one message from a peer. This client has asked for it."""
REFUSAL_CHARS_MAX = 500

UNTRIED = "there is no connection yet"
REFUSED = "nobody listens there"
BROKEN = "the connection was lost"
SILENT = "it can be reached, but no peer answers there"


class Told(Protocol):
    """What is called of a client's driver."""

    def heard(self, peer: PeerId, message: ToClient, columns: Mapping[str, Column]) -> None: ...

    def link(self, peer: PeerId, *, up: bool) -> None: ...


class _Place:
    """One address. client: what this client is called there. lanes: the connection.

    wanted: peers that are to be linked here. who: the life of a peer that has answered since the connection was made.
    asked: number of the open question who is there; 0 for none. problem: why there is no answer. refusal: what whoever
    is there has said instead of one.
    """

    def __init__(self, address: str, *, is_seed: bool) -> None:
        self.address = address
        self.client = ClientId("C" + os.urandom(16).hex())
        self.lanes: Lanes | None = None
        self.is_seed = is_seed
        self.wanted: dict[PeerId, None] = {}
        self.who: tuple[PeerId, int] | None = None
        self.asked = 0
        self.alarm = Alarm()
        self.problem = UNTRIED
        self.refusal = ""


class ClientLinks:
    """See the module. Everything is called, and calls back, in the reactor's thread; `members` may be read from any.

    changed: called when a link has come up or gone down, or somebody has turned this client away.
    cluster: which one is meant; None for whichever is at the addresses that are tried.
    message_bytes: of one message at most, as a peer has said.
    counters: of lanes (net/lanes.py), and what came in and was dropped, by reason.
    """

    def __init__(
        self, reactor: Reactor, changed: Callable[[], None], *, outbox_bytes: int, cluster: str | None = None
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.members: tuple[Member, ...] = ()
        self._suspects: frozenset[PeerId] = frozenset()
        self._reactor = reactor
        self._tell_changed = changed
        self._outbox_bytes = outbox_bytes
        self._limits = Limits(total_bytes=HEARD_BYTES_MAX)
        self._cluster = b"" if cluster is None else cluster_tag(cluster)
        self.message_bytes = Limits().total_bytes
        self._driver: Told | None = None
        self._places: dict[str, _Place] = {}
        self._links: dict[PeerId, _Place] = {}
        self._contacts: dict[PeerId, Contact] = {}
        self._told_down: set[PeerId] = set()
        self._numbers = count(1)
        self._open_questions: dict[int, _Place] = {}
        self._when_through: Callable[[], None] | None = None
        self._hear_of_blob: Callable[[BlobWritten], None] | None = None

    def start(self, driver: Told) -> None:
        """Nothing comes up before there is somebody to tell."""
        self._driver = driver

    @property
    def is_connected(self) -> bool:
        """Whether any peer can be reached."""
        return bool(self._links)

    def problems(self) -> tuple[tuple[str, str], ...]:
        """(address, what is wrong there) of all that are tried in vain."""
        return tuple([(place.address, place.problem) for place in self._places.values() if place.who is None])

    def refusals(self) -> tuple[tuple[str, str], ...]:
        """(address, reason) if everybody who is tried has turned this client away; else nothing."""
        places = self._places.values()
        return tuple([(it.address, it.refusal) for it in places]) if all(it.refusal for it in places) else ()

    def seed(self, address: str) -> None:
        """Somebody may be there."""
        place = self._places.get(address)
        if place is not None:
            place.is_seed = True
        elif not self.is_connected and len(self._places) < SEEDS_MAX:
            self._open(address, is_seed=True)

    # ---- blobs, of which the client's core knows nothing

    def home(self) -> PeerId | None:
        """A peer that can be reached. From any thread."""
        return next(iter(self._links.copy()), None)

    def hear_of_blobs(self, heard: Callable[[BlobWritten], None]) -> None:
        self._hear_of_blob = heard

    # ---- as the driver wants them

    def connect(self, contact: Contact, /) -> None:
        self._contacts[contact.id] = contact
        self._told_down.discard(contact.id)
        self._go_to(contact)
        self._note_members()

    def disconnect(self, peer: PeerId, /) -> None:
        self._contacts.pop(peer, None)
        self._told_down.discard(peer)
        for place in list(self._places.values()):
            if peer in place.wanted:
                del place.wanted[peer]
                self._close_unwanted(place)
        self._note_members()

    def send(self, peer: PeerId, message: ToPeer | WriteBlob, columns: Mapping[str, Column], /) -> None:
        place = self._links.get(peer)
        if place is None:
            self.counters["unlinked"] += 1
        else:
            self._say(place, message, columns)

    def when_through(self, call: Callable[[], None]) -> None:
        """Call when every peer has answered a question more, and so has taken in whatever was sent before."""
        self._when_through = call
        self._open_questions = {}
        for place in self._links.values():
            number = next(self._numbers)
            self._open_questions[number] = place
            self._say(place, AskMembers(mid=number), {})
        self._look_whether_through()

    def close(self) -> None:
        for place in list(self._places.values()):
            self._close(place)
        self._links.clear()

    # ---- places

    def _open(self, address: str, *, is_seed: bool = False) -> _Place | None:
        """Begin to try an address. None if it is not one."""
        parsed = Address.parse(address)
        if parsed is None:
            self.counters["address"] += 1
            return None
        place = _Place(address, is_seed=is_seed)
        try:
            place.lanes = Lanes(
                self._reactor,
                parsed,
                of_client(place.client),
                outbox_bytes=self._outbox_bytes,
                counters=self.counters,
                limits=self._limits,
                heard=partial(self._heard, place),
                changed=partial(self._changed, place),
                both=True,
            )
        except OutOfFilesError:
            self.counters["files"] += 1  # seeds come again by themselves
            self._reactor.later(ASK_AGAIN_S, self._go_where_nobody_is)
            return None
        self._places[address] = place
        return place

    def _go_where_nobody_is(self) -> None:
        """Try the addresses of members again that could not even be tried."""
        for contact in list(self._contacts.values()):
            if contact.id not in self._links and contact.address not in self._places:
                self._go_to(contact)

    def _go_to(self, contact: Contact) -> None:
        place = self._places.get(contact.address) or self._open(contact.address)
        if place is None:
            return
        place.wanted[contact.id] = None
        assert place.lanes is not None
        if place.lanes.is_up and place.who is None and not place.asked:
            self._ask(place)  # it was left alone, as there was another way to whoever is there

    def _close_unwanted(self, place: _Place) -> None:
        is_used = place.who is not None and self._links.get(place.who[0]) is place
        if not (place.wanted or place.is_seed or is_used):
            self._close(place)

    def _close(self, place: _Place) -> None:
        if self._places.get(place.address) is place:
            del self._places[place.address]
        place.alarm.cancel()
        if place.lanes is not None:
            place.lanes.close()

    def _is_open(self, place: _Place) -> bool:
        return self._places.get(place.address) is place

    # ---- connections

    def _changed(self, place: _Place, change: Change) -> None:
        """Taken up a little later: this may be in the middle of sending something for the driver."""
        self._reactor.call(partial(self._take_change, place, change))

    def _take_change(self, place: _Place, change: Change) -> None:
        if not self._is_open(place):
            return
        place.refusal = ""
        if change is Change.UP:
            place.problem = SILENT
            self._ask(place)
            return
        place.problem = REFUSED if change is Change.REFUSED else BROKEN
        place.alarm.cancel()
        place.asked = 0
        self._lose(place)
        if change is Change.REFUSED:
            self._tell_unreachable(place)
        self._drop_seed(place)

    def _ask(self, place: _Place) -> None:
        """Ask who is there, until there is an answer."""
        place.asked = next(self._numbers)
        place.alarm.cancel()
        place.alarm = self._reactor.later(ASK_AGAIN_S, partial(self._ask_again, place))
        self._say(place, AskMembers(mid=place.asked, cluster=self._cluster), {})

    def _ask_again(self, place: _Place) -> None:
        self._drop_seed(place)
        if self._is_open(place):
            self._ask(place)

    def _say(self, place: _Place, message: ToPeer | WriteBlob, columns: Mapping[str, Column]) -> None:
        to, life = place.who or (None, 0)
        envelope = Envelope(src=place.client, dst=to, dst_incarnation=life, seq=next(self._numbers))
        assert place.lanes is not None
        place.lanes.send(encode(message, columns, envelope))

    def _lose(self, place: _Place) -> None:
        """Whoever was linked here is not any more, and is looked for at its own address, too."""
        if place.who is None:
            return
        peer, _ = place.who
        place.who = None
        self._open_questions = {number: one for number, one in self._open_questions.items() if one is not place}
        if self._links.get(peer) is place:
            del self._links[peer]
            if peer in self._contacts:
                self._go_to(self._contacts[peer])
            self._tell(peer, up=False)
        self._look_whether_through()

    def _tell_unreachable(self, place: _Place) -> None:
        """Those who are looked for here are not here."""
        for peer in list(place.wanted):
            if peer not in self._links and peer not in self._told_down:
                self._tell(peer, up=False)

    # ---- what comes in

    def _heard(self, place: _Place, frames: Sequence[Frame]) -> None:
        if not self._is_open(place):
            return
        try:
            envelope = open_envelope(frames, self._limits)
            message, columns = decode_opened(envelope, frames, self._limits)
        except WireError as error:
            self.counters[error.reason] += 1
            return
        if envelope.dst != place.client or not isinstance(envelope.src, PeerId):
            self.counters["receiver"] += 1
        elif isinstance(message, BlobWritten) and self._hear_of_blob is not None:
            self._hear_of_blob(message)  # it names the blob that it is about by a number that nobody can guess
        elif not isinstance(message, ToClient):
            self.counters["role"] += 1
        else:
            self._take_in(place, (envelope.src, envelope.src_incarnation), message, columns)

    def _take_in(
        self, place: _Place, sender: tuple[PeerId, int], message: ToClient, columns: Mapping[str, Column]
    ) -> None:
        if isinstance(message, MemberList) and place.asked and message.mid == place.asked:
            place.asked = 0
            place.alarm.cancel()
            if message.refusal:
                place.problem = place.refusal = message.refusal[:REFUSAL_CHARS_MAX]
                self._tell_unreachable(place)
                self._tell_changed()
                return
            if not self._verified(place, *sender):
                return
        if place.who != sender:
            self.counters["sender"] += 1  # it came before the connection was made anew
            return
        if isinstance(message, MemberList):
            self._learn(message)
            if self._open_questions.pop(message.mid, None) is not None:
                self._look_whether_through()
        assert self._driver is not None, "a client that was never started hears nothing"
        self._driver.heard(sender[0], message, columns)

    def _verified(self, place: _Place, peer: PeerId, incarnation: int) -> bool:
        """This peer is here. False if there is a way to it already."""
        before = self._links.get(peer)
        if before is not None and before is not place:
            assert before.who is not None, "that is what makes it a link"
            if before.who[1] >= incarnation:
                place.wanted.pop(peer, None)
                place.is_seed = False
                self._close_unwanted(place)
                return False
            self._lose(before)  # that life is over
        for other in list(self._places.values()):
            if other is not place and other.wanted.pop(peer, other) is None:
                self._close_unwanted(other)
        place.who = (peer, incarnation)
        place.wanted[peer] = None
        place.is_seed = False
        self._links[peer] = place
        for other in list(self._places.values()):
            if other.lanes is not None and not other.lanes.is_up:
                self._drop_seed(other)
        self._tell(peer, up=True)
        self._tell_unreachable(place)
        return True

    def _drop_seed(self, place: _Place) -> None:
        """Once there is a link, members are told by members."""
        if self.is_connected and place.is_seed:
            place.is_seed = False
            self._close_unwanted(place)

    def _tell(self, peer: PeerId, *, up: bool) -> None:
        self._note_members()
        (self._told_down.discard if up else self._told_down.add)(peer)
        assert self._driver is not None, "a client that was never started has no links"
        self._driver.link(peer, up=up)
        self._tell_changed()

    def _learn(self, message: MemberList) -> None:
        self._contacts = {contact.id: contact for contact in message.members}
        self._suspects = frozenset(message.suspects)
        self.message_bytes = message.message_bytes or self.message_bytes
        self._note_members()

    def _note_members(self) -> None:
        known = {peer: self._contacts.get(peer) for peer in (*self._contacts, *self._links)}
        self.members = tuple(
            [
                Member(
                    id=peer,
                    name="" if contact is None else contact.name,
                    status="suspect" if peer in self._suspects else "alive",
                    address=self._links[peer].address if contact is None else contact.address,
                )
                for peer, contact in known.items()
            ]
        )

    def _look_whether_through(self) -> None:
        if not self._open_questions and self._when_through is not None:
            call, self._when_through = self._when_through, None
            call()
