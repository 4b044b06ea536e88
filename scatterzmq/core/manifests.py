"""Manifests: what the nodes of a graph are, told to peers that lack some of their kinds.

Purpose   Asks members about definitions that cannot run here, and answers those who ask.
Rules     1. Every definition is checked here first. What is refused only for want of something that may be installed
             elsewhere (or came from others, who can run it) is asked of one member after another, until one says what
             its nodes are, or all have said that they cannot.
          2. Who is asked has it checked by an executor of its own; nobody hands on what it was told.
          3. A plan that is made of what was told is good for all that an owner does. Nothing of it runs here.
          4. When nobody can run what is used here, each member that comes later is asked.
Why       Else a graph could be loaded, and its tasks be kept, only where all that it needs is installed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..frozen import frozen
from ..graph.blobs import pinned
from ..graph.plan import Plan
from ..ids import ClientId, PeerId
from .events import GraphChecked
from .messages import LoadGraph
from .peermessages import AskManifest, Manifest
from .sizes import DEFINITION_BYTES_MAX, listed
from .state import State

BRIEF_CHARS = 500
"""Of why a namespace cannot run at a peer: that is told of each, in one message."""


@dataclass(slots=True)
class Load:
    """A client that is to be told how its definition fared; the same one however often it is said."""

    client: ClientId
    mid: int
    message: LoadGraph = field(compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)


About: TypeAlias = bytes | Load
"""What is asked for: a definition that is used here, by its digest, or one that is to be loaded."""
Done: TypeAlias = Callable[[About, GraphChecked, str], None]
"""Gets what is known of it, and why it cannot run here."""


@frozen()
class Favour:
    """A member has asked. incarnation: its life that did."""

    peer: PeerId
    incarnation: int
    mid: int


@dataclass(slots=True, eq=False)
class _Inquiry:
    """own: what came of the check here. waiting: who has not answered, the next one first.

    ask_ms: when to ask the next one; None: all have answered. lacking: kind -> how many peers lack it, of `peers`.
    problems: what else somebody has found who has all kinds.
    """

    about: About
    definition: str
    own: GraphChecked
    waiting: dict[PeerId, None]
    ask_ms: int | None = None
    lacking: Counter[str] = field(default_factory=Counter)
    peers: int = 1
    problems: tuple[str, ...] = ()


class Manifests:
    """The questions of one peer. done: called with what is known when there is nobody left to ask; of a definition that
    is used here, again when there is more.
    """

    def __init__(self, state: State, done: Done) -> None:
        self._state = state
        self._members = state.members
        self._done = done
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._mids = 0
        self._inquiries: dict[int, _Inquiry] = {}

    # ---- asking

    def ask(self, about: About, definition: str, own: GraphChecked) -> None:
        """Ask the members, unless that is being done. own: what came of the check here."""
        if self.is_asking(about):
            return
        self._inquiries = {mid: inquiry for mid, inquiry in self._inquiries.items() if inquiry.about != about}
        self._mids += 1
        waiting = dict.fromkeys(self._members.alive())
        inquiry = _Inquiry(about, definition, own, waiting, lacking=Counter(own.lacking))
        self._inquiries[self._mids] = inquiry
        self._go_on(self._mids, inquiry)

    def is_asking(self, about: About) -> bool:
        """Whether it may still turn out that somebody can run this."""
        return any(inquiry.waiting and inquiry.about == about for inquiry in self._inquiries.values())

    def _go_on(self, mid: int, inquiry: _Inquiry) -> None:
        """Ask the next one, or conclude that nobody can run it."""
        peer = next(iter(inquiry.waiting), None)
        if peer is None:
            inquiry.ask_ms = None
            if isinstance(inquiry.about, Load):
                del self._inquiries[mid]
            refused = _refused(inquiry)
            self._done(inquiry.about, refused, _brief(refused.problems))
            return
        del inquiry.waiting[peer]
        inquiry.waiting[peer] = None
        inquiry.ask_ms = self._state.now_ms + self._ask_ms
        settles = isinstance(inquiry.about, Load)
        self._members.tell(peer, AskManifest(mid=mid, definition=inquiry.definition, settles=settles))

    def answered(self, sender: PeerId, message: Manifest) -> None:
        """A member knows what the nodes are, or cannot run it either."""
        inquiry = self._inquiries.get(message.mid)
        if inquiry is None or sender not in inquiry.waiting:
            return
        del inquiry.waiting[sender]
        found = _read(inquiry, message)
        if _is_plan_of(inquiry.about, found.plan):
            del self._inquiries[message.mid]
            self._done(inquiry.about, found, _brief(inquiry.own.problems))
            return
        inquiry.peers += 1
        inquiry.lacking.update(found.lacking)
        if not found.lacking:
            inquiry.problems = found.problems
        self._go_on(message.mid, inquiry)

    # ---- answering

    def tell(self, favour: Favour, event: GraphChecked) -> None:
        """What was asked has been checked."""
        if self._members.incarnation(favour.peer) != favour.incarnation:
            return
        problems, nodes = event.problems, event.manifest
        if len(ascii(nodes)) > DEFINITION_BYTES_MAX:  # more than it takes in a message
            problems, nodes = (_TOO_MANY,), ()
        answer = Manifest(
            mid=favour.mid,
            nodes=nodes,
            blobs={} if event.plan is None else {name: digest for name, digest in event.plan.blobs.items() if digest},
            problems=listed(problems),
            warnings=listed(event.warnings),
            lacking=event.lacking,
        )
        self._members.tell(favour.peer, answer)

    # ---- members and time

    def alive(self, peer: PeerId) -> None:
        """Somebody became a member, or can be relied on again."""
        for mid, inquiry in [*self._inquiries.items()]:
            inquiry.waiting[peer] = None
            if inquiry.ask_ms is None:
                self._go_on(mid, inquiry)

    def gone(self, peer: PeerId) -> None:
        """A member cannot be relied on (any more)."""
        for mid, inquiry in [*self._inquiries.items()]:
            if peer in inquiry.waiting:
                del inquiry.waiting[peer]
                if not inquiry.waiting:
                    self._go_on(mid, inquiry)

    def expire(self) -> None:
        """Ask the next ones, and let go of what is not used any more."""
        for mid, inquiry in [*self._inquiries.items()]:
            if isinstance(inquiry.about, bytes) and not self._state.plans.is_used(inquiry.about):
                del self._inquiries[mid]
            elif inquiry.ask_ms is not None and inquiry.ask_ms <= self._state.now_ms:
                self._go_on(mid, inquiry)

    def deadline_ms(self) -> int | None:
        return min([one.ask_ms for one in self._inquiries.values() if one.ask_ms is not None], default=None)

    def check_invariants(self) -> None:
        for inquiry in self._inquiries.values():
            assert (inquiry.ask_ms is None) == (not inquiry.waiting)
            assert inquiry.waiting or isinstance(inquiry.about, bytes)


def _read(inquiry: _Inquiry, message: Manifest) -> GraphChecked:
    """What follows from an answer."""
    # Hardly any peer needs these, and each would start later for them.
    from ..graph.check import check
    from ..graph.manifest import describe_from

    if message.problems:
        return GraphChecked(request=0, plan=None, problems=message.problems, lacking=message.lacking)
    checked = check(pinned(inquiry.definition, message.blobs), describe_from(message.nodes))
    return GraphChecked(request=0, plan=checked.plan, problems=checked.problems, warnings=message.warnings)


def _brief(problems: tuple[str, ...]) -> str:
    text = "; ".join(problems)
    return text if len(text) <= BRIEF_CHARS else f"{text[:BRIEF_CHARS]}..."


def _is_plan_of(about: About, plan: Plan | None) -> bool:
    return plan is not None and (isinstance(about, Load) or plan.digest == about)


def _refused(inquiry: _Inquiry) -> GraphChecked:
    """Nobody can run it: what somebody has found who has all kinds, or else which kinds are missing."""
    own, lacking = inquiry.own, inquiry.lacking
    problems = inquiry.problems or own.problems
    if lacking and inquiry.peers > 1 and not inquiry.problems:
        kinds = ", ".join([f"{kind!r} at {lacking[kind]}" for kind in sorted(lacking)])
        problems = (_NOWHERE.format(peers=inquiry.peers, kinds=kinds), *problems)
    return replace(own, plan=None, problems=problems, lacking=tuple(sorted(lacking)))


_NOWHERE = (
    "none of the {peers} peers has all kinds of nodes of this graph; missing are {kinds}: install and allow "
    "(plugins.allow) what is missing at one of them at least, and start that one again. This one says:"
)

_TOO_MANY = (
    "it has more nodes than a message between peers can tell of: load it through a peer that has all of its kinds"
)
