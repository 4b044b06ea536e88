"""Questions to the peers of a cluster, each by itself: for commands that look at peers rather than use them.

Purpose   A client asks whichever peer is best, and adds up what all of them say. Here each peer is asked, and answers
          for itself.
Rules     1. Everything happens in the thread that calls; there is none besides discovery's.
          2. Nothing waits without a limit, and an interrupt leaves nothing behind.
          3. What is not answered is asked again: a question may get lost, and none does harm twice.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from .client.link import Member
from .core.messages import MemberList, ToClient, ToPeer
from .errors import ClusterError
from .ids import PeerId
from .net.clientlinks import ClientLinks
from .net.discovery import Discovery
from .net.reactor import Reactor
from .remote import name_of, nobody_answers, refused_by_all, turned_away
from .settings import NetworkSettings
from .wire.columns import Column

ASK_AGAIN_S = 1.0
REACH_S = 3.0
"""How long to wait for links to all members once there is one: suspects may not be there at all."""


class Question(Protocol):
    """Makes the message that is sent under this number."""

    def __call__(self, *, mid: int) -> ToPeer: ...


class Questions:
    """A way to all peers of a cluster. A context manager.

    addresses, cluster: as `connect` takes them.
    Raises ConfigError for what is no address.
    """

    def __init__(self, addresses: Sequence[str], cluster: str | None) -> None:
        self._addresses = addresses
        self._cluster = cluster
        network = NetworkSettings(join=tuple(addresses), zeroconf=not addresses)
        self._warning = ""
        self._discovery = Discovery(network, self._warn, where="--join")
        self._reactor = Reactor()
        self._links = ClientLinks(self._reactor, _nothing, outbox_bytes=network.outbox_bytes, cluster=cluster)
        self._links.start(self)
        self._linked: set[PeerId] = set()
        self._wanted: set[PeerId] = set()
        self._numbers = count(1)
        self._open: dict[int, PeerId] = {}
        self._answers: dict[PeerId, ToClient] = {}

    @property
    def members(self) -> tuple[Member, ...]:
        """All that belong to the cluster, as the peer said that was heard last."""
        return self._links.members

    def find(self, timeout_s: float) -> tuple[Member, ...]:
        """All members, with a link to each that can be reached soon. Raises ClusterError if nobody answers."""
        self._discovery.start(None, name_of(self._cluster), self._seen)
        self._wait(lambda: self._links.is_connected or bool(self._turned_away()), timeout_s)
        if not self._links.is_connected:
            if self._turned_away():
                raise ClusterError(turned_away(self._turned_away(), self._cluster))
            problems = self._links.problems()
            raise ClusterError(nobody_answers(self._addresses, self._cluster, timeout_s, problems, self._warning))
        self._discovery.stop()
        self._wait(lambda: self._linked.issuperset(self._wanted), REACH_S)
        return self.members

    def ask(self, peers: Collection[PeerId], question: Question, timeout_s: float) -> dict[PeerId, ToClient]:
        """The answers of these peers; without those that have not answered in that time."""
        self._open = {next(self._numbers): peer for peer in peers}
        self._answers = {}
        until_s = monotonic() + timeout_s
        while self._open and (left_s := until_s - monotonic()) > 0:
            for mid, peer in self._open.items():
                self._links.send(peer, question(mid=mid), {})
            self._wait(lambda: not self._open, min(left_s, ASK_AGAIN_S))
        return self._answers

    def wait_until_gone(self, peers: Collection[PeerId], timeout_s: float) -> set[PeerId]:
        """Wait until none of these can be reached. Returns those that still can."""
        self._wait(lambda: self._linked.isdisjoint(peers), timeout_s)
        return self._linked.intersection(peers)

    def can_reach(self, peer: PeerId) -> bool:
        """Whether there is a link to it now."""
        return peer in self._linked

    def close(self) -> None:
        self._discovery.close()
        self._links.close()
        self._reactor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _turned_away(self) -> Sequence[tuple[str, str]]:
        return refused_by_all(self._links.refusals(), self._addresses)

    # ---- as the links know their driver

    def heard(self, peer: PeerId, message: ToClient, columns: Mapping[str, Column]) -> None:
        if isinstance(message, MemberList):
            for contact in message.members:
                if contact.id not in self._wanted:
                    self._wanted.add(contact.id)
                    self._links.connect(contact)
            return
        mid = getattr(message, "mid", None)
        if mid is not None and self._open.get(mid) == peer:
            del self._open[mid]
            self._answers[peer] = message

    def link(self, peer: PeerId, *, up: bool) -> None:
        (self._linked.add if up else self._linked.discard)(peer)

    # ---- inside

    def _wait(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Whether something holds, waiting for it so long."""
        until_s = monotonic() + timeout_s
        while not is_so():
            left_s = until_s - monotonic()
            if left_s <= 0:
                return False
            self._reactor.step(left_s)
        return True

    # ---- from discovery's threads

    def _seen(self, address: str) -> None:
        self._reactor.call(partial(self._links.seed, address))

    def _warn(self, line: str) -> None:
        self._warning = line


def _nothing() -> None:
    """Who is linked is looked at by whoever waits."""
