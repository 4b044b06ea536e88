"""A world to measure in: real cores on a network without faults, which counts what is said and how long things take.

    cluster = Cluster(peers=10)
    cluster.form()                              # ms until everybody knows everybody
    traffic = cluster.traffic(10_000)           # what peers say in so much time
    times = cluster.until(lambda process: ...)  # ms until it holds, for each peer

Rules   1. Whoever starts is told of one address, that of the first peer; whatever else it knows, peers have told it.
        2. Results are compared with the oracle's; what the cores hold is not looked at, which takes time.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean

from ..core.actions import BatchOrder
from ..wire.frames import open_envelope
from ..wire.schema import NUMBERS
from .checkers import Checkers
from .clients import Handle, SimClient
from .faults import Faults
from .network import LIMITS, Frames, Link, Network
from .options import Options
from .process import Process
from .world import World

NS = "block"
"""A graph that an executor runs as a whole."""
STEP_MS = 5
"""How often is looked: so exact are all times."""
SEGMENT_BYTES = 1448
SUBMITTED_MAX = 256
_NAMES = {number: kind.__name__ for kind, number in NUMBERS.items()}


def on_the_wire(frames: Frames) -> int:
    """Bytes of one message with what goes around it: per frame ZMTP's head (2 or 9) and CURVE (33), and per segment
    Ethernet, IP and TCP (66).
    """
    sealed = [33 + len(frame) for frame in frames]
    nbytes = sum([size + (2 if size < 256 else 9) for size in sealed])
    return nbytes + 66 * -(-nbytes // SEGMENT_BYTES)


class Meter(Network):
    """Counts what peers send to each other, by address: what goes to many counts for each. kinds: bytes by message."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed, {})
        self.nbytes: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._last: tuple[Frames, int, str] = ((), 0, "")

    def begin(self) -> None:
        """Count anew."""
        self.nbytes.clear()
        self.messages.clear()
        self.kinds.clear()

    def send(self, link: Link, frames: Frames) -> None:
        super().send(link, frames)
        source, target = link.way
        if source.startswith("peer") and target.startswith("peer"):
            if self._last[0] is not frames:
                self._last = (frames, on_the_wire(frames), _NAMES[open_envelope(frames, LIMITS).kind])
            _, nbytes, kind = self._last
            self.nbytes[source] += nbytes
            self.messages[source] += 1
            self.kinds[kind] += nbytes


class Pace(Faults):
    """Nothing goes wrong; how long a batch takes depends on its tasks and the speed of the peer.

    task_ms: of a task's input, at speed 1. speeds: by place, 1 for others.
    """

    def __init__(self, world: World, task_ms: Callable[[int], float], speeds: Mapping[int, float]) -> None:
        super().__init__(world, {})
        self.task_ms = task_ms
        self.speeds = speeds
        self._facts = world.checkers.facts

    def fate(self, process: Process, order: BatchOrder, work: Random) -> tuple[str, int]:
        ms = sum([self.task_ms(self._facts[task].value) for task in order.tasks])
        return "", int(1000 * ms / self.speeds.get(process.place, 1.0))


class Watch(Checkers):
    """Looks at results only. done: tasks that ended. work: tasks that executors were given, by peer."""

    watches_all = False

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.done = 0
        self.done_us = 0
        self.work: Counter[str] = Counter()

    def handled(self, process: Process) -> None:
        pass

    def lent(self, process: Process, order: BatchOrder) -> None:
        self.work[process.name] += len(order.tasks)

    def latched(self, client: SimClient, handle: Handle) -> None:
        super().latched(client, handle)
        self.done += 1
        self.done_us = self.world.now_us


@dataclass(frozen=True, slots=True)
class Traffic:
    """Out of each peer, per second. kinds: share of the bytes by message, the largest first."""

    bytes_mean: float
    bytes_max: float
    messages_mean: float
    messages_max: float
    kinds: dict[str, float]


class Cluster(World):
    """peers: how many `form` starts. spare: places besides, for more of them."""

    def __init__(
        self,
        peers: int,
        *,
        spare: int = 0,
        batch_size: int = 32,
        task_ms: Callable[[int], float] = lambda _: 10.0,
        speeds: Sequence[float] = (),
        seed: int = 1,
    ) -> None:
        sections = {"executor": {"batch_size": batch_size}}
        super().__init__(Options(seed=seed, peers=peers + spare, namespaces=(NS,), sections=sections))
        self.first = peers
        self.checkers = self.watched = Watch(self)
        self.network = self.meter = Meter(self, seed)
        self.faults = self.pace = Pace(self, task_ms, dict(enumerate(speeds)))
        self.chance = Random(f"{seed}:measured")

    def form(self) -> float:
        """Start everybody, and wait until all know all. How long that took, in ms."""
        for place in range(self.first):
            self.start(place)
        self.add_client()
        return max(self.until(self.knows_all, limit_ms=60_000))

    def _discover(self, process: Process) -> None:
        seed = next((other for other in self.alive() if other is not process), None)
        if seed is not None:
            process.post(1_000, process.seen, seed.address)

    # ---- looking

    def knows_all(self, process: Process) -> bool:
        return len(process.state.members.alive()) == len(self.alive()) - 1

    def until(self, holds: Callable[[Process], bool], *, limit_ms: int, at: Iterable[Process] = ()) -> list[float]:
        """Run until something holds at all peers (or at some): how long each of them took, in ms."""
        begun_us = self.now_us
        open_ = list(at) or self.alive()
        times: list[float] = []
        while open_:
            if self.now_us - begun_us > limit_ms * 1000:
                raise TimeoutError(f"after {limit_ms} ms it does not hold at {[process.name for process in open_]}")
            self.run(STEP_MS)
            still = [process for process in open_ if not holds(process)]
            times += [(self.now_us - begun_us) / 1000] * (len(open_) - len(still))
            open_ = still
        return times

    def drain(self, limit_ms: int = 600_000) -> float:
        """Run until every task has ended. How long that took, in ms."""
        begun_us = self.now_us
        while self.watched.done < len(self.watched.facts):
            if self.now_us - begun_us > limit_ms * 1000:
                raise TimeoutError(f"after {limit_ms} ms only {self.watched.done} tasks have ended")
            self.run(STEP_MS)
        return (self.watched.done_us - begun_us) / 1000

    def traffic(self, ms: int) -> Traffic:
        """Run so long: what was said meanwhile."""
        self.meter.begin()
        peers = [process.address for process in self.alive()]
        self.run(ms)
        per_s = 1000 / ms
        nbytes = [self.meter.nbytes[peer] * per_s for peer in peers]
        messages = [self.meter.messages[peer] * per_s for peer in peers]
        total = sum(self.meter.kinds.values()) or 1
        kinds = {kind: count / total for kind, count in self.meter.kinds.most_common(6)}
        return Traffic(mean(nbytes), max(nbytes), mean(messages), max(messages), kinds)

    def links(self) -> int:
        """Of the peer that has most."""
        return max(len(process.links) for process in self.alive())

    # ---- doing

    def give(self, values: Sequence[int], place: int) -> None:
        """Submit tasks at a place, a few hundred at once."""
        for start in range(0, len(values), SUBMITTED_MAX):
            self.submit(NS, *values[start : start + SUBMITTED_MAX], cache=False, at=place)

    def cut_off(self, process: Process) -> None:
        """Nothing comes from a peer any more, nor to it, and nobody is told: a cable, or a machine without power."""
        for other in self.addresses:
            self.network.cut(process.address, other)
            self.network.cut(other, process.address)
