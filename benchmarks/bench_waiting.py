"""One peer with very many waiting tasks: what one more costs, what a claim costs, and how much memory they take.

    python benchmarks/bench_waiting.py [--sizes 1000,10000,100000] [--json FILE]

The real core, given decoded messages as a driver would give them; a partner acknowledges copies at once. Times are
those of this process (CPU) in `PeerCore.handle`, garbage collection included: means, medians in brackets. Memory is
what tracemalloc counts of all that stays when a decoded message has been handled, per task, without the tensors' bytes.

enqueue        per task, in submissions of 100 to a lone peer (copies=1) or to one with a partner (copies=2)
claim, local   per batch of 32: an executor of this peer begins
claim, remote  per batch of 32: an executor of the partner asks, and is granted a batch
"""

import argparse
import gc
import json
import platform
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

from scatterzmq.core.actions import Action, CheckGraph, Dial, RunBatch, Tell
from scatterzmq.core.events import Event, ExecutorStarted, GraphChecked, MessageReceived, PeerReceived, PeerSeen
from scatterzmq.core.messages import LoadGraph, Submit
from scatterzmq.core.peer import PeerCore
from scatterzmq.core.peermessages import BetweenPeers, Claim, Contact, Grant, Replicate, Replicated
from scatterzmq.core.strategy import SimpleNodeStrategy, SimpleQueueStrategy
from scatterzmq.core.values import Block
from scatterzmq.ids import BlockId, ClientId, ExecutorId, PeerId, TaskId
from scatterzmq.settings import Settings
from scatterzmq.sim.corpus import checked, plan_of
from scatterzmq.sim.payload import column_of
from scatterzmq.wire.columns import Column, fingerprint
from scatterzmq.wire.frames import Frame, decode, encode
from scatterzmq.wire.refusal import Limits

PLAN = plan_of("chain")
CLIENT = ClientId("C" + "1" * 32)
SUBMITTED = 100
SAMPLES = 30
BATCH = 32
BYTES_MAX = 1500
GROWTH_MAX = 3.0
"""From 1,000 to 100,000 waiting tasks log2 grows from 10 to 17, and caches of the machine miss more often."""
LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation, in microseconds of this process."""

    mean_us: float
    median_us: float

    @classmethod
    def of(cls, seconds: Sequence[float], per: int = 1) -> "Cost":
        return cls(mean(seconds) * 1e6 / per, median(seconds) * 1e6 / per)

    def __str__(self) -> str:
        return f"{self.mean_us:.0f} ({self.median_us:.0f})"


@dataclass(frozen=True, slots=True)
class Costs:
    """With so many tasks waiting at the owner. remote: None for a lone peer."""

    copies: int
    waiting: int
    enqueue: Cost
    local: Cost
    remote: Cost | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes per waiting task: at a lone owner, at an owner with a partner, and of the copy there."""

    waiting: int
    alone: float
    owner: float
    copy: float


class Peer:
    """A core, and just enough of a driver. seconds: that the last event took, with what it led to at once.

    keeps, replicates: whether to keep what the partner is told, and that.
    """

    def __init__(self, number: int, copies: int) -> None:
        self.id = PeerId(f"P{number:032x}")
        self.contact = Contact(id=self.id, incarnation=1, address=f"peer{number}", name=f"p{number}")
        self.seconds = 0.0
        self.keeps = False
        self.replicates: list[list[bytes]] = []
        self._blocks = 0
        self.core = PeerCore(
            self.contact,
            Settings.of({"cluster": {"replicas": copies}, "executor": {"batch_size": BATCH}}),
            node_strategy=SimpleNodeStrategy(),
            queue_strategy=SimpleQueueStrategy(),
            nonce=self.id.to_bytes(),
        )
        self.tell(MessageReceived(sender=CLIENT, message=LoadGraph(mid=1, definition=PLAN.definition)))

    def tell(self, event: Event) -> list[Action]:
        """Let the core handle it. What is to be answered at once is."""
        begun = time.process_time()
        actions = list(self.core.handle(event, 1_000))
        self.seconds = time.process_time() - begun
        for action in list(actions):
            match action:
                case CheckGraph(request=request, definition=definition):
                    plan = checked(definition).plan
                    self.tell(GraphChecked(request=request, plan=plan, problems=(), warnings=()))
                case Tell(to=partner, message=Replicate() as message):
                    if self.keeps:
                        columns = {"value": column_of([0] * len(message.ids))}
                        self.replicates.append([bytes(frame) for frame in encode(message, columns)])
                    seconds = self.seconds
                    self.hear(partner, Replicated(mid=message.mid))
                    self.seconds += seconds
                case _:
                    pass
        return actions

    def hear(self, sender: PeerId, message: BetweenPeers, blocks: dict[str, Block] | None = None) -> list[Action]:
        return self.tell(
            PeerReceived(sender=sender, incarnation=1, to_incarnation=0, message=message, blocks=blocks or {})
        )

    def meet(self, other: "Peer") -> None:
        """Become members of each other."""
        actions = self.tell(PeerSeen(address=other.contact.address))
        hello = next(action for action in actions if isinstance(action, Dial))
        answers = other.hear(self.id, hello.message)
        self.hear(other.id, next(answer.message for answer in answers if isinstance(answer, Tell)))
        assert self.core.state.members.is_alive(other.id)

    def block(self, column: Column) -> Block:
        """What a store makes of a column."""
        self._blocks += 1
        return Block(BlockId(self.id, self._blocks), column.layout, len(column.data), ())


class Owner(Peer):
    """The peer in which tasks wait. copies: 2 gives it a partner."""

    def __init__(self, copies: int) -> None:
        super().__init__(1, copies)
        self.partner: Peer | None = None
        if copies > 1:
            self.partner = Peer(2, copies)
            self.meet(self.partner)
        self._tasks = 0
        self._started = 0

    def submission(self, count: int) -> list[Frame]:
        """The frames of the next submission."""
        tasks = [TaskId(f"T{self._tasks + at:032x}") for at in range(count)]
        self._tasks += count
        columns = {"value": column_of(list(range(count)))}
        message = Submit(
            mid=self._tasks,
            ns=PLAN.ns,
            digest=PLAN.digest,
            nonce=self._tasks.to_bytes(8, "big"),
            ids=tuple(tasks),
            submit_digests=tuple([fingerprint(PLAN.ns, columns, row) for row in range(count)]),
            cache=True,
        )
        return list(encode(message, columns))

    def enqueue(self, count: int = SUBMITTED) -> float:
        """One submission: seconds."""
        message, columns = decode(self.submission(count), LIMITS)
        assert isinstance(message, Submit)
        blocks = {name: self.block(column) for name, column in columns.items()}
        self.tell(MessageReceived(sender=CLIENT, message=message, blocks=blocks))
        return self.seconds

    def fill(self, waiting: int) -> None:
        while (missing := waiting - self.waiting) > 0:
            self.enqueue(min(SUBMITTED, missing))

    @property
    def waiting(self) -> int:
        return sum(queue.length for queue in self.core.state.plans.queues())

    def claim_here(self) -> float:
        """Another executor of this peer gets a batch: seconds."""
        actions = self.tell(ExecutorStarted(executor=self._executor()))
        runs = [action for action in actions if isinstance(action, RunBatch)]
        assert len(runs[0].order.tasks) == BATCH
        return self.seconds

    def claim_there(self) -> float:
        """Another executor of the partner gets a batch: seconds."""
        assert self.partner is not None
        queue = next(queue for queue in self.core.state.plans.queues() if queue.length)
        claim = Claim(claim=1, executor=self._executor(), digest=queue.key[0], queue=queue.key[1], tasks_max=BATCH)
        actions = self.hear(self.partner.id, claim)
        grants = [action.message for action in actions if isinstance(action, Tell)]
        assert any(isinstance(grant, Grant) and len(grant.ids) == BATCH for grant in grants)
        return self.seconds

    def _executor(self) -> ExecutorId:
        self._started += 1
        return ExecutorId(f"E{self._started:032x}")


# -- measuring --------------------------------------------------------------------------------------------------------


def measure(copies: int, waiting: int, samples: int = SAMPLES) -> Costs:
    owner = Owner(copies)
    owner.fill(waiting)
    enqueue = [owner.enqueue() for _ in range(samples)]
    local = [owner.claim_here() for _ in range(samples)]
    remote = [owner.claim_there() for _ in range(samples)] if copies > 1 else None
    return Costs(
        copies=copies,
        waiting=waiting,
        enqueue=Cost.of(enqueue, SUBMITTED),
        local=Cost.of(local),
        remote=None if remote is None else Cost.of(remote),
    )


def memory(waiting: int) -> Memory:
    alone = _taken(1, waiting)[0]
    owner, replicates = _taken(2, waiting)
    return Memory(waiting, alone / waiting, owner / waiting, _taken_by_copies(replicates) / waiting)


def _taken(copies: int, waiting: int) -> tuple[int, list[list[bytes]]]:
    """Bytes of so many waiting tasks. What the partner is told is kept, and not counted."""
    owner = Owner(copies)
    owner.fill(SUBMITTED)
    gc.collect()
    tracemalloc.start()
    owner.fill(SUBMITTED + waiting)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    if copies == 1:
        return taken, []
    teller = Owner(copies)
    teller.keeps = True
    teller.fill(waiting)
    return taken, teller.replicates


def _taken_by_copies(replicates: Sequence[Sequence[Frame]]) -> int:
    owner, partner = Owner(2), Peer(2, 2)
    tasks = 0
    partner.meet(owner)
    gc.collect()
    tracemalloc.start()
    for frames in replicates:
        message, columns = decode(frames, LIMITS)
        assert isinstance(message, Replicate)
        tasks += len(message.ids)
        partner.hear(owner.id, message, {name: partner.block(column) for name, column in columns.items()})
    del message, columns
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(partner.core.state.copies) == tasks
    return taken


# -- telling ----------------------------------------------------------------------------------------------------------


def table(costs: Sequence[Costs]) -> str:
    lines = [f"{'copies':>6}{'waiting':>10}{'enqueue us/task':>20}{'claim, local us':>20}{'claim, remote us':>20}"]
    for one in costs:
        remote = "-" if one.remote is None else str(one.remote)
        lines.append(f"{one.copies:>6}{one.waiting:>10,}{one.enqueue!s:>20}{one.local!s:>20}{remote:>20}")
    return "\n".join(lines)


def targets(costs: Sequence[Costs], bytes_: Memory) -> list[tuple[str, float, float]]:
    """What must hold: what, the figure, the limit. Medians: collections of garbage do not fall on every sample."""
    found: list[tuple[str, float, float]] = [
        ("bytes per waiting task, lone owner", bytes_.alone, BYTES_MAX),
        ("bytes per waiting task, owner with a partner", bytes_.owner, BYTES_MAX),
        ("bytes per copy", bytes_.copy, BYTES_MAX),
    ]
    for copies in (1, 2):
        of_it = [one for one in costs if one.copies == copies]
        few, many = of_it[0], of_it[-1]
        for name in ("enqueue", "local", "remote"):
            low, high = getattr(few, name), getattr(many, name)
            if low is not None and few is not many:
                what = f"copies={copies}, {name}: median with {many.waiting:,} waiting / with {few.waiting:,}"
                found.append((what, high.median_us / low.median_us, GROWTH_MAX))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Measure one core in which very many tasks wait.")
    parser.add_argument("--sizes", default="1000,10000,100000", help="waiting tasks (default: 1000,10000,100000)")
    parser.add_argument("--json", type=Path, help="write all figures there")
    given = parser.parse_args(arguments)
    sizes = [int(size) for size in given.sizes.split(",")]
    costs = [measure(copies, waiting) for copies in (1, 2) for waiting in sizes]
    bytes_ = memory(sizes[-1])
    print(f"Python {platform.python_version()}\n\n{table(costs)}")
    print(
        f"\nbytes per task with {bytes_.waiting:,} waiting: {bytes_.alone:.0f} at a lone owner, "
        f"{bytes_.owner:.0f} at an owner with a partner, {bytes_.copy:.0f} of the copy there\n"
    )
    missed = False
    for what, figure, limit in targets(costs, bytes_):
        missed |= figure > limit
        print(f"{'MISSED' if figure > limit else 'ok':8}{what}: {figure:.2f}, at most {limit:g}")
    if given.json:
        given.json.write_text(json.dumps({"costs": [asdict(one) for one in costs], "memory": asdict(bytes_)}, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
