"""Definitions: which namespaces there are, and how their definitions come to every peer.

Purpose   Loads definitions for clients, tells all members, keeps what they tell, and fetches what is missing here.
Rules     1. A namespace points at a definition. Of two pointers the one with the higher (counter, peer, digest) holds,
             everywhere; whose pointer was overtaken says so. Who is told an older pointer answers with the newer one.
          2. A definition is known by its digest. Whoever needs one that is not here asks one member after another.
          3. A loaded definition is told to every member until it has answered; the client is told as soon as as many
             peers have it as are to have copies of a task (all, if there are fewer).
          4. A definition is kept before it is checked, and also if it cannot run here: copies of its tasks need it,
             and others may ask for it. Who can run it says what its nodes are (core/manifests.py).
          5. Whoever asks for a namespace is answered when it has come and been checked, or when no member has it
             (core/lookups.py); at the latest after `timing.wait_s`, with what is known then.
          6. Which bytes its blobs have is part of a definition (graph/blobs.py). Loaded again when more is known of
             them it takes its own place; loaded when less is known it is what is there already.
Why       Tasks are kept by several peers, and none of them could go on with a task whose graph went with its loader.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import takewhile

from ..graph.blobs import contradicts, same_graphs
from ..graph.definition import definition_digest
from ..graph.plan import Plan
from ..ids import ClientId, PeerId
from .actions import CheckGraph
from .entries import DefinitionText
from .events import GraphChecked
from .lookups import Lookups
from .manifests import About, Favour, Load, Manifests
from .messages import (
    AskDefinition,
    AskNamespaces,
    Definition,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    Namespaces,
)
from .peermessages import AskManifest, AskPlans, AskPointers, Manifest, PlanKept, PlanText, Pointer, Pointers
from .plans import describe
from .sizes import listed, too_long
from .state import State


@dataclass(slots=True, eq=False)
class _Spread:
    """A definition on its way to all members.

    waiting: who has not answered. kept: who has. load: None once the client has been told.
    """

    plan: Plan
    load: Load | None
    repeat_ms: int
    waiting: dict[PeerId, None] = field(default_factory=dict)
    kept: dict[PeerId, None] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Offer:
    """A definition that came before anything points at it. mids: peer -> what to answer when something does."""

    until_ms: int
    mids: dict[PeerId, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Sought:
    """A definition that is missing here. holders: who is said to have it. tries: how often somebody was asked.

    ask_ms: when to ask the next one; None while there is nobody.
    """

    ask_ms: int | None
    holders: dict[PeerId, None] = field(default_factory=dict)
    tries: int = 0


@dataclass(slots=True, eq=False)
class _Question:
    """A client asks what there is, and it is not known yet. lookup: that is waited for, if nothing is on its way."""

    client: ClientId
    message: AskNamespaces | AskDefinition
    lookup: int
    until_ms: int


QUESTIONS_MAX = 1_000
"""So many wait; what is beyond is answered at once with what is known."""


class Definitions:
    """All namespaces, as one peer knows them.

    here / ready: called with a digest when its text has come / when it has been checked (`Plans.plan` says with which
    result). pointed_at: called with what a namespace names from now on.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._plans = state.plans
        self._members = state.members
        self._out = state.out
        self._ask_ms = int(state.settings.timing.ask_s * 1000)
        self._want_ms = int(state.settings.timing.wait_s * 1000)
        self._pointers: dict[str, Pointer] = {}
        self._requests = 0
        self._checks: dict[int, About | Favour] = {}
        self._manifests = Manifests(state, self._found)
        self._mids = 0
        self._spreads: dict[int, _Spread] = {}
        self._sought: dict[bytes, _Sought] = {}
        # What was wanted is used until then; in this order. What was offered is used until something points at it.
        self._wanted: dict[bytes, int] = {}
        self._offers: dict[bytes, _Offer] = {}
        self._digest: bytes | None = b""
        self._lookups = Lookups(state)
        self._questions: list[_Question] = []
        self.here: list[Callable[[bytes], None]] = []
        self.ready: list[Callable[[bytes], None]] = []
        self.pointed_at: list[Callable[[Pointer], None]] = []

    # ---- for the other machines

    @property
    def digest(self) -> bytes:
        """8 bytes over all pointers, for heartbeats; nothing without any."""
        if self._digest is None:
            digest = blake2b(digest_size=8)
            for _, pointer in sorted(self._pointers.items()):
                digest.update(f"{pointer.ns} {pointer.counter} {pointer.by} {pointer.digest.hex()}\n".encode())
            self._digest = digest.digest()
        return self._digest

    def has(self, digest: bytes) -> bool:
        """Whether the definition is here. (Whether it can run here says `Plans.plan`.)"""
        return self._plans.text(digest) is not None

    def want(self, digest: bytes, holder: PeerId) -> None:
        """Get a definition that `holder` has, unless it is here, and keep it for `timing.wait_s`: then somebody uses it
        (`Plans.keep`), or asks again.
        """
        if self._wanted.pop(digest, None) is None:
            self._plans.keep(digest)
        self._wanted[digest] = self._state.now_ms + self._want_ms
        self._seek(digest, holder)
        self._ask()

    def is_coming(self, ns: str, digest: bytes) -> bool:
        """Whether this namespace will have this definition here as soon as it has come and been checked."""
        pointer = self._pointers.get(ns)
        return pointer is not None and pointer.digest == digest and not self._plans.is_checked(digest)

    def look_up(self) -> int:
        """Ask all members what they have loaded. Returns what to ask `is_looking` with."""
        return self._lookups.begin()

    def is_looking(self, lookup: int) -> bool:
        """Whether not all have answered yet."""
        return not self._lookups.is_over(lookup)

    # ---- clients

    def load_graph(self, sender: ClientId, message: LoadGraph) -> None:
        """Have a definition checked; the answer comes with `checked`."""
        load = Load(sender, message.mid, message)
        problem = "" if self._state.row_bytes_max is None else too_long(message.definition)
        if problem:
            self._refuse(load, (problem,))
        else:
            self._check(message.definition, load, settles=True)

    def ask(self, sender: ClientId, message: AskNamespaces | AskDefinition) -> None:
        """Answer at once, or as soon as it is known."""
        is_unheard_of = message.ns is not None and message.ns not in self._pointers
        lookup = self.look_up() if is_unheard_of else 0
        question = _Question(sender, message, lookup, self._state.now_ms + self._want_ms)
        if len(self._questions) < QUESTIONS_MAX and self._is_open(question):
            self._questions.append(question)
        else:
            self._answer(question)

    def _is_open(self, question: _Question) -> bool:
        """Whether the answer will be known only in a while."""
        message = question.message
        is_there = self.has if isinstance(message, AskDefinition) else self._plans.is_checked
        digests = [pointer.digest for pointer in self._pointers.values() if message.ns in (None, pointer.ns)]
        return self.is_looking(question.lookup) if not digests else not all(map(is_there, digests))

    def _answer(self, question: _Question) -> None:
        message = question.message
        if isinstance(message, AskDefinition):
            pointer = self._pointers.get(message.ns)
            text = None if pointer is None else self._plans.text(pointer.digest)
            self._out.send(question.client, Definition(mid=message.mid, definition=text))
        else:
            infos = [describe(plan) for plan in self._plans.namespaces() if message.ns in (None, plan.ns)]
            unusable = {ns: why for ns, why in self._plans.unusable().items() if message.ns in (None, ns)}
            self._out.send(question.client, Namespaces(mid=message.mid, infos=tuple(infos), unusable=unusable))

    def _answer_questions(self) -> None:
        """Those that can be answered now, or must be."""
        questions, self._questions = self._questions, []
        for question in questions:
            if question.until_ms > self._state.now_ms and self._is_open(question):
                self._questions.append(question)
            else:
                self._answer(question)

    # ---- checking

    def _check(self, definition: str, about: About | Favour, *, settles: bool = False) -> None:
        self._requests += 1
        self._checks[self._requests] = about
        self._out.work(CheckGraph(request=self._requests, definition=definition, settles=settles))

    def checked(self, event: GraphChecked) -> None:
        """A definition has been checked, for a client, because it came from another peer, or because that asks."""
        about = self._checks.pop(event.request)
        if isinstance(about, Favour):
            self._manifests.tell(about, event)
        elif isinstance(about, Load) and event.lacking:
            self._manifests.ask(about, about.message.definition, event)
        elif isinstance(about, Load):
            self._load(about, event)
        elif event.plan is not None and event.plan.digest == about:
            self._known(about, event.plan)
        elif self._plans.is_used(about):
            self._out.report("warning.graph.unusable", digest=about.hex(), problems="\n".join(event.problems))
            text = self._plans.text(about)
            assert text is not None, "it has been checked"
            self._manifests.ask(about, text, event)

    def _found(self, about: About, event: GraphChecked, why_not: str) -> None:
        """What other members know of a definition that cannot run here."""
        if isinstance(about, Load):
            self._load(about, event, why_not)
        else:
            self._known(about, event.plan, why_not)

    def _known(self, digest: bytes, plan: Plan | None, why_not: str = "") -> None:
        """It is known what becomes of a definition that was used here."""
        if self._plans.is_used(digest):
            if plan is None:
                self._plans.add_unusable(digest, why_not)
            else:
                self._plans.add(plan, why_not)
            self._settle(digest)

    def _load(self, load: Load, event: GraphChecked, why_not: str = "") -> None:
        """Install a client's definition and spread it, or say what is wrong."""
        load.warnings = event.warnings
        plan, problems = event.plan, event.problems
        before = None if plan is None else self._pointers.get(plan.ns)
        if plan is not None and before is not None and before.digest != plan.digest and not load.message.replace:
            plan, problem = self._again(plan, self._plans.plan(before.digest))
            problems = (problem,) if problem else problems
        if plan is None or problems:
            self._refuse(load, problems)
            return
        if before is None or before.digest != plan.digest:
            counter = 1 if before is None else before.counter + 1
            self._point(Pointer(ns=plan.ns, counter=counter, by=self._state.me, digest=plan.digest))
        is_new = not self.has(plan.digest)
        self._plans.add(plan, why_not)
        if is_new:
            self._arrived(plan.digest)
        self._settle(plan.digest)
        self._mids += 1
        spread = _Spread(plan, load, self._state.now_ms + self._ask_ms)
        self._spreads[self._mids] = spread
        for peer in self._members.alive():
            spread.waiting[peer] = None
            self._offer(peer, self._mids, spread)
        self._progress(self._mids, spread)

    def _again(self, plan: Plan, before: Plan | None) -> tuple[Plan, str]:
        """What a namespace is to have that has a plan already; and why it must not."""
        if before is None or not same_graphs(plan, before):
            return plan, _REDEFINED.format(ns=plan.ns)
        blob = contradicts(plan.blobs, before.blobs)
        if blob:
            return plan, _OTHER_BYTES.format(ns=plan.ns, blob=blob)
        is_more = all(plan.blobs.get(name) == digest for name, digest in before.blobs.items() if digest)
        return plan if is_more else before, ""

    def _refuse(self, load: Load, problems: tuple[str, ...]) -> None:
        told = GraphRefused(mid=load.message.mid, problems=listed(problems), warnings=listed(load.warnings))
        self._out.send(load.client, told)

    def _arrived(self, digest: bytes) -> None:
        """The text is here."""
        self._sought.pop(digest, None)
        for listener in self.here:
            listener(digest)

    def _settle(self, digest: bytes) -> None:
        """It is known whether a definition can run here: it becomes current where it is pointed at."""
        for pointer in self._pointers.values():
            if pointer.digest == digest:
                self._plans.make_current(pointer.ns, digest)
        for listener in self.ready:
            listener(digest)
        self._answer_questions()

    # ---- spreading what was loaded here

    def _offer(self, peer: PeerId, mid: int, spread: _Spread) -> None:
        # The text first, so that nobody who hears of the pointer asks for it.
        text = spread.plan.definition
        self._members.tell(peer, PlanText(mid=mid, digest=spread.plan.digest, definition=text))
        self._members.tell(peer, Pointers(pointers=(self._pointers[spread.plan.ns],)))

    def kept(self, sender: PeerId, message: PlanKept) -> None:
        """A member has a definition that was loaded here."""
        spread = self._spreads.get(message.mid)
        if spread is not None and sender in spread.waiting:
            del spread.waiting[sender]
            spread.kept[sender] = None
            self._progress(message.mid, spread)

    def _progress(self, mid: int, spread: _Spread) -> None:
        """Tell the client when enough peers have its definition, and forget the matter when all have."""
        wanted = min(self._state.settings.cluster.replicas, 1 + len(spread.waiting) + len(spread.kept))
        if spread.load is not None and 1 + len(spread.kept) >= wanted:
            load, spread.load = spread.load, None
            answer = GraphLoaded(mid=load.message.mid, info=describe(spread.plan), warnings=listed(load.warnings))
            if self._state.journal is None:
                self._out.send(load.client, answer)
            else:
                self._state.journal.when_kept(lambda _: self._out.send(load.client, answer))
        if not spread.waiting:
            del self._spreads[mid]

    # ---- pointers

    def pointed(self, sender: PeerId, message: Pointers) -> None:
        """A member says what it takes for the definitions of some namespaces."""
        newer = []
        for pointer in message.pointers:
            mine = self._pointers.get(pointer.ns)
            if mine is None or _rank(mine) < _rank(pointer):
                self._point(pointer)
            elif mine != pointer:
                newer.append(mine)
                continue
            self._seek(pointer.digest, sender)
        if newer:
            self._members.tell(sender, Pointers(pointers=tuple(newer)))
        self._ask()
        self._lookups.answered(sender, message.mid)
        self._answer_questions()

    def _point(self, pointer: Pointer) -> None:
        """A namespace has another definition, or the same for a better reason."""
        before = self._pointers.get(pointer.ns)
        self._pointers[pointer.ns] = pointer
        self._plans.keep(pointer.digest)
        self._digest = None
        for listener in self.pointed_at:
            listener(pointer)
        offer = self._offers.pop(pointer.digest, None)
        if offer is not None:
            self._plans.release(pointer.digest)
            for peer, mid in offer.mids.items():
                self._members.tell(peer, PlanKept(mid=mid))
        if before is not None:
            if before.digest != pointer.digest:
                self._overtaken(before, pointer)
            self._plans.release(before.digest)
        if self._plans.is_checked(pointer.digest):
            self._plans.make_current(pointer.ns, pointer.digest)

    def _overtaken(self, before: Pointer, pointer: Pointer) -> None:
        """A namespace was redefined. If another peer did it, it may not have known of what was loaded here."""
        for mid, spread in list(self._spreads.items()):
            if spread.plan.digest == before.digest:
                del self._spreads[mid]  # whoever still needs it for tasks asks for it
                if spread.load is not None:
                    self._refuse(spread.load, (_OVERTAKEN.format(ns=pointer.ns),))
        if before.by == self._state.me != pointer.by:
            self._out.report("warning.namespace.redefined", ns=pointer.ns, by=pointer.by, digest=pointer.digest.hex())

    def heard(self, sender: PeerId, digest: bytes) -> None:
        """A heartbeat of a member came with the digest over its pointers."""
        if digest and digest != self.digest:
            self._members.tell(sender, AskPointers())

    def tell_pointers(self, peer: PeerId, mid: int = 0) -> None:
        """Tell a member all that is known of namespaces; it answers where it knows better. mid: of its question."""
        if self._pointers or mid:
            self._members.tell(peer, Pointers(pointers=tuple(self._pointers.values()), mid=mid))

    # ---- fetching what is missing here

    def _seek(self, digest: bytes, holder: PeerId) -> None:
        if not self.has(digest):
            sought = self._sought.setdefault(digest, _Sought(self._state.now_ms))
            sought.holders[holder] = None

    def _ask(self) -> None:
        """Ask for what is missing and was not asked for lately."""
        now_ms = self._state.now_ms
        asks: dict[PeerId, list[bytes]] = {}
        alive = self._members.alive() if self._sought else ()
        for digest, sought in list(self._sought.items()):
            if not self._plans.is_used(digest):
                del self._sought[digest]
            elif not alive:
                sought.ask_ms = None
            elif sought.ask_ms is None or sought.ask_ms <= now_ms:
                holders = [peer for peer in sought.holders if peer in alive]
                holders += [peer for peer in alive if peer not in sought.holders]
                asks.setdefault(holders[sought.tries % len(holders)], []).append(digest)
                sought.tries += 1
                sought.ask_ms = now_ms + self._ask_ms
        for peer, digests in asks.items():
            self._members.tell(peer, AskPlans(digests=tuple(digests)))

    def asked(self, sender: PeerId, message: AskPlans) -> None:
        """A member lacks definitions."""
        for digest in message.digests:
            text = self._plans.text(digest)
            if text is not None:
                self._members.tell(sender, PlanText(mid=0, digest=digest, definition=text))

    def came(self, sender: PeerId, message: PlanText) -> None:
        """A member sends a definition, because it was asked to or because it was loaded there."""
        digest, text = message.digest, message.definition
        if not text.isascii() or definition_digest(text) != digest:
            self._out.report("warning.peer.definition", peer=sender, digest=digest.hex())
            return
        is_offer = message.mid > 0
        if is_offer and not any(pointer.digest == digest for pointer in self._pointers.values()):
            offer = self._offers.get(digest)
            if offer is None:
                offer = self._offers[digest] = _Offer(self._state.now_ms + self._want_ms)
                self._plans.keep(digest)
            offer.mids[sender] = message.mid
        elif is_offer:
            self._members.tell(sender, PlanKept(mid=message.mid))
        if self._plans.is_used(digest) and not self.has(digest):
            self._plans.add_text(digest, text)
            self._check(text, digest)
            self._arrived(digest)
            self._answer_questions()

    def asked_what(self, sender: PeerId, message: AskManifest) -> None:
        """A member lacks kinds of a definition."""
        favour = Favour(peer=sender, incarnation=self._members.incarnation(sender), mid=message.mid)
        if favour not in self._checks.values():
            self._check(message.definition, favour, settles=message.settles)

    def told_what(self, sender: PeerId, message: Manifest) -> None:
        """A member says what the nodes of a definition are, or that it cannot run it either."""
        self._manifests.answered(sender, message)

    # ---- after a start

    def restore(self, texts: Iterable[DefinitionText], pointers: Iterable[Pointer]) -> list[bytes]:
        """What was here before this peer started, and is used. Returns what nobody uses."""
        for pointer in pointers:
            self._point(pointer)
        unused = []
        for text in texts:
            if self._plans.is_used(text.digest):
                self._plans.add_text(text.digest, text.definition)
                self._check(text.definition, text.digest)
            else:
                unused.append(text.digest)
        for pointer in self._pointers.values():
            self._seek(pointer.digest, pointer.by)
        return unused

    # ---- members and time

    def alive(self, peer: PeerId) -> None:
        """Somebody became a member, or can be relied on again."""
        self.tell_pointers(peer)
        for mid, spread in self._spreads.items():
            spread.waiting[peer] = None
            self._offer(peer, mid, spread)
        self._manifests.alive(peer)
        self._ask()

    def gone(self, peer: PeerId) -> None:
        """A member cannot be relied on (any more)."""
        for mid, spread in list(self._spreads.items()):
            spread.waiting.pop(peer, None)
            spread.kept.pop(peer, None)
            self._progress(mid, spread)
        self._manifests.gone(peer)
        self._lookups.gone(peer)
        self._answer_questions()

    def expire(self) -> None:
        """Repeat what was not answered, and let go of what nobody wants any more."""
        now_ms = self._state.now_ms
        for mid, spread in self._spreads.items():
            if spread.repeat_ms <= now_ms:
                spread.repeat_ms = now_ms + self._ask_ms
                for peer in spread.waiting:
                    self._offer(peer, mid, spread)
        for digest in list(takewhile(lambda digest: self._wanted[digest] <= now_ms, self._wanted)):
            del self._wanted[digest]
            self._plans.release(digest)
        for digest in list(takewhile(lambda digest: self._offers[digest].until_ms <= now_ms, self._offers)):
            del self._offers[digest]
            self._plans.release(digest)
        self._ask()
        self._manifests.expire()
        self._lookups.expire()
        self._answer_questions()

    def deadline_ms(self) -> int | None:
        """When `expire` has something to do."""
        lookup_ms, manifest_ms = self._lookups.deadline_ms(), self._manifests.deadline_ms()
        if not (self._spreads or self._sought or self._wanted or self._offers or self._questions or manifest_ms):
            return lookup_ms  # most of the time, and this is asked after every event
        times: list[int | None] = [lookup_ms, manifest_ms, *[spread.repeat_ms for spread in self._spreads.values()]]
        times += [sought.ask_ms for sought in self._sought.values()]
        times += [*self._wanted.values()][:1]
        times += [offer.until_ms for offer in self._offers.values()][:1]
        times += [question.until_ms for question in self._questions[:1]]
        return min([time for time in times if time is not None], default=None)

    def check_invariants(self) -> None:
        plans = self._plans
        for pointer in self._pointers.values():
            current = plans.current(pointer.ns)
            assert plans.is_used(pointer.digest)
            assert not plans.is_checked(pointer.digest) or current is plans.plan(pointer.digest)
            assert self.has(pointer.digest) or pointer.digest in self._sought
        self._manifests.check_invariants()
        checking = {about for about in self._checks.values() if isinstance(about, bytes)}
        checking |= {digest for digest in self._wanted if self._manifests.is_asking(digest)}
        for digest, sought in self._sought.items():
            assert not self.has(digest)
            assert sought.holders
        assert all(plans.is_used(digest) for digest in self._offers)
        assert all(map(self._is_open, self._questions))
        for digest in self._wanted:
            assert plans.is_checked(digest) or digest in checking or digest in self._sought
        assert list(self._wanted.values()) == sorted(self._wanted.values())
        for spread in self._spreads.values():
            assert spread.waiting
            assert self._pointers[spread.plan.ns].digest == spread.plan.digest


def _rank(pointer: Pointer) -> tuple[int, PeerId, bytes]:
    return pointer.counter, pointer.by, pointer.digest


_REDEFINED = (
    "{ns}: this namespace is loaded with another definition; give the new one another 'ns', or load it with "
    "replace=True (tasks under way finish on the old one)"
)

_OTHER_BYTES = (
    "{ns}: this namespace is loaded, and its blob {blob!r} had other bytes then; give the graph another 'ns', or load "
    "it with replace=True (tasks under way finish on the old bytes)"
)

_OVERTAKEN = (
    "{ns}: this namespace was loaded with another definition at the same time, which holds; give this one another "
    "'ns', or load it again with replace=True"
)
