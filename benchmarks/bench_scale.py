"""Many peers in the simulator: what they say, how soon they know, and how well they share the work.

    python benchmarks/bench_scale.py [--peers 3,10,30,100] [--rounds N] [--json FILE] [--plot FILE.svg]

The cores, the codec and the client's words are the real ones; time, network and executors are simulated. Messages take
0.1 to 1.5 ms and nothing gets lost. Every result is checked. Times are virtual, except for "wall", and exact to 5 ms.
Bytes are those of the frames, per frame 2 or 9 (ZMTP) and 33 (CURVE) more, per segment 66 (Ethernet, IP, TCP);
handshakes of connections, acknowledgements and whatever finds the first address are not in them.

idle      nobody does anything, for 10 s
load      one executor per peer, 70 % at work on tasks of 50 ms that come in fours to peers by chance, copies=2; for 4 s
join      a new process is told one address; until it knows all and all know it
killed    a process is killed, connections to it break and are refused; until all hold it to be dead
silent    a peer is cut off from all others; until all hold it to be dead
queue     all are idle, and one peer that has just said something gets work for all; until each peer has begun with some
fairness  40 tasks of 50 ms per peer, all peers alike: most tasks of one executor / mean
makespan  unequal tasks (60 to 140 ms at speed 1) at 30 peers of speeds 1 to 10, against a bound that no scheduler can
          beat: all work at all speeds together, or the longest task at the fastest peer. A batch takes as long as its
          tasks one after another; a full one of 32 is nearly as long at the slowest peer as all the work at all
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import quantiles

from scatterzmq.sim.metered import Cluster, Traffic
from scatterzmq.sim.process import Process

TASK_MS = 50.0
LOAD, LOAD_MS, BURST = 0.7, 4_000, 4
SETTLE_MS = 2_000
TASKS_PER_PEER = 40
UNEQUAL_PEERS, UNEQUAL_TASKS = 30, 6_000
BATCH_SIZES = (4, 16, 32)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some times in ms."""

    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, times: Sequence[float]) -> "Spread":
        cuts = quantiles(times, n=100, method="inclusive") if len(times) > 1 else [times[0]] * 99
        return cls(cuts[49], cuts[98], max(times))

    def __str__(self) -> str:
        return f"{self.p50 / 1000:.2f} / {self.p99 / 1000:.2f}"


@dataclass(slots=True)
class Figures:
    """Of one size. fairness: work at one owner, work spread over all. loaded_tasks_s: how many tasks that was."""

    peers: int
    links: int
    form_ms: float
    idle: Traffic
    loaded: Traffic
    loaded_tasks_s: float
    join: Spread
    killed: Spread
    silent: Spread
    queue: Spread
    fairness: tuple[float, float]
    wall_s: float

    @property
    def sockets(self) -> int:
        """One DEALER per link, and the ROUTER that others connect to."""
        return self.links + 1

    @property
    def descriptors(self) -> int:
        """A connection in each direction per link, and one for the signals of each socket."""
        return 2 * self.links + self.sockets


@dataclass(slots=True)
class Makespan:
    """Of unequal peers. spread: tasks were given to all of them, not to one."""

    batch_size: int
    spread: bool
    made_ms: float
    bound_ms: float

    @property
    def ratio(self) -> float:
        return self.made_ms / self.bound_ms


@dataclass(slots=True)
class Report:
    figures: list[Figures] = field(default_factory=list)
    makespans: list[Makespan] = field(default_factory=list)


# -- one size ---------------------------------------------------------------------------------------------------------


def measure(peers: int, rounds: int, seed: int = 1) -> Figures:
    begun = time.perf_counter()
    cluster = Cluster(peers, spare=1, batch_size=BURST, task_ms=lambda _: TASK_MS, seed=seed)
    form_ms = cluster.form()
    cluster.run(SETTLE_MS)
    idle = cluster.traffic(10_000)
    links = cluster.links()
    loaded, tasks_s = load(cluster)
    queue = queue_changes(cluster, rounds)
    fairness = (share(cluster, one=True), share(cluster, one=False))
    join, killed, silent = lives(cluster, rounds)
    wall_s = time.perf_counter() - begun
    return Figures(
        peers=peers,
        links=links,
        form_ms=form_ms,
        idle=idle,
        loaded=loaded,
        loaded_tasks_s=tasks_s,
        join=Spread.of(join),
        killed=Spread.of(killed),
        silent=Spread.of(silent),
        queue=Spread.of(queue),
        fairness=fairness,
        wall_s=wall_s,
    )


def load(cluster: Cluster) -> tuple[Traffic, float]:
    """Traffic while tasks come in, at a rate at which the executors are mostly at work; how many ended per second."""
    chance = cluster.chance
    warm_ms = 1_000
    per_ms = LOAD * cluster.first / TASK_MS / BURST
    at_ms = 0.0
    while (at_ms := at_ms + chance.expovariate(per_ms)) < warm_ms + LOAD_MS:
        values = [chance.randrange(1 << 40) for _ in range(BURST)]
        place = chance.randrange(cluster.first)
        cluster.at(cluster.now_us + int(at_ms * 1000), cluster.give, values, place)
    cluster.run(warm_ms)
    done = cluster.watched.done
    traffic = cluster.traffic(LOAD_MS)
    tasks_s = (cluster.watched.done - done) * 1000 / LOAD_MS
    cluster.drain()
    return traffic, tasks_s


def queue_changes(cluster: Cluster, rounds: int) -> list[float]:
    """How long each peer sits idle after work for all has come to one of them, which had just spoken of its queue."""
    chance, times = cluster.chance, []
    ordinary = cluster.pace.task_ms
    for _ in range(rounds):
        cluster.run(SETTLE_MS)
        owner = cluster.peer(chance.randrange(cluster.first))
        cluster.pace.task_ms = lambda _: 2_000.0 / BURST
        cluster.give([chance.randrange(1 << 40) for _ in range(2 * BURST)], owner.place)
        cluster.run(chance.randint(5, 1_000))
        cluster.give([chance.randrange(1 << 40) for _ in range(2 * BURST * cluster.first)], owner.place)
        times += cluster.until(is_at_work, limit_ms=60_000)
        cluster.pace.task_ms = lambda _: 1.0
        cluster.drain()
    cluster.pace.task_ms = ordinary
    return times


def is_at_work(process: Process) -> bool:
    return any(process.executors.values())


def share(cluster: Cluster, *, one: bool) -> float:
    """Most tasks of one executor, against the mean, when all come at once to one peer, or a few at a time to all."""
    cluster.run(SETTLE_MS)
    chance = cluster.chance
    cluster.watched.work.clear()
    total = TASKS_PER_PEER * cluster.first
    values = [chance.randrange(1 << 40) for _ in range(total)]
    if one:
        cluster.give(values, 0)
    else:
        for start in range(0, total, BURST):
            cluster.give(values[start : start + BURST], chance.randrange(cluster.first))
    cluster.drain()
    return max(cluster.watched.work.values()) * cluster.first / total


def lives(cluster: Cluster, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Times of joins, kills and cuts, of everybody who had to hear of them."""
    join, killed, silent = [], [], []
    chance = cluster.chance
    place = cluster.first  # free at first; then whoever dies leaves its place to the next one
    for at in range(2 * rounds):
        cluster.start(place)
        join += cluster.until(cluster.knows_all, limit_ms=60_000)
        cluster.run(SETTLE_MS + chance.randint(0, 1_000))
        victim = chance.choice(cluster.alive())
        others = [process for process in cluster.alive() if process is not victim]
        holds_dead = dead(victim)
        if at % 2:
            cluster.cut_off(victim)
            silent += cluster.until(holds_dead, limit_ms=60_000, at=others)
            cluster.crash(victim)
            cluster.network.heal_all()
        else:
            cluster.crash(victim)
            killed += cluster.until(holds_dead, limit_ms=60_000, at=others)
        place = victim.place
    return join, killed, silent


def dead(victim: Process) -> Callable[[Process], bool]:
    """Whether a peer knows that another one is no more."""
    return lambda process: victim.id not in {contact.id for contact in process.state.members.contacts()}


# -- unequal peers ----------------------------------------------------------------------------------------------------


def unequal_ms(value: int) -> float:
    """How long a task takes at speed 1."""
    return 60.0 + value % 81


def makespan(
    batch_size: int, *, spread: bool, peers: int = UNEQUAL_PEERS, tasks: int = UNEQUAL_TASKS, seed: int = 1
) -> Makespan:
    """All tasks given at once, to one peer or spread over all."""
    chance = Random(f"{seed}:unequal")
    speeds = [1.0 + 9.0 * at / (peers - 1) for at in range(peers)]
    chance.shuffle(speeds)
    cluster = Cluster(peers, batch_size=batch_size, task_ms=unequal_ms, speeds=speeds, seed=seed)
    cluster.form()
    cluster.run(SETTLE_MS)
    values = [chance.randrange(1 << 40) for _ in range(tasks)]
    begun_us = cluster.now_us
    if spread:
        for start in range(0, tasks, batch_size):
            cluster.give(values[start : start + batch_size], chance.randrange(peers))
    else:
        cluster.give(values, 0)
    cluster.drain()
    works = [unequal_ms(value) for value in values]
    bound_ms = max(sum(works) / sum(speeds), max(works) / max(speeds))
    return Makespan(batch_size, spread, (cluster.watched.done_us - begun_us) / 1000, bound_ms)


# -- telling ----------------------------------------------------------------------------------------------------------


def table(figures: Sequence[Figures]) -> str:
    """A line per figure, a column per size."""
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        ("links per peer", lambda one: f"{one.links}"),
        ("  zmq sockets / descriptors", lambda one: f"{one.sockets} / {one.descriptors}"),
        ("idle: kB/s out per peer, mean / max", lambda one: _kilo(one.idle)),
        ("idle: messages/s out, mean / max", lambda one: _messages(one.idle)),
        ("load: tasks/s", lambda one: f"{one.loaded_tasks_s:.0f}"),
        ("load: kB/s out per peer, mean / max", lambda one: _kilo(one.loaded)),
        ("load: messages/s out, mean / max", lambda one: _messages(one.loaded)),
        ("join known to all, p50 / p99 s", lambda one: str(one.join)),
        ("killed known to all, p50 / p99 s", lambda one: str(one.killed)),
        ("silent known to all, p50 / p99 s", lambda one: str(one.silent)),
        ("queue change acted on, p50 / p99 s", lambda one: str(one.queue)),
        ("fairness, one owner / spread", lambda one: f"{one.fairness[0]:.2f} / {one.fairness[1]:.2f}"),
        ("wall s of the simulation", lambda one: f"{one.wall_s:.0f}"),
    ]
    lines = [f"{'peers':40}" + "".join(f"{one.peers:>16}" for one in figures)]
    lines += [f"{title:40}" + "".join(f"{cell(one):>16}" for one in figures) for title, cell in rows]
    lines += ["", "Most of the bytes:"]
    for one in figures:
        for what, traffic in (("idle", one.idle), ("load", one.loaded)):
            kinds = ", ".join(f"{kind} {100 * part:.0f} %" for kind, part in traffic.kinds.items() if part >= 0.01)
            lines.append(f"{one.peers:>5} {what}: {kinds}")
    return "\n".join(lines)


def _kilo(traffic: Traffic) -> str:
    return f"{traffic.bytes_mean / 1000:.1f} / {traffic.bytes_max / 1000:.1f}"


def _messages(traffic: Traffic) -> str:
    return f"{traffic.messages_mean:.0f} / {traffic.messages_max:.0f}"


def table_of_makespans(makespans: Sequence[Makespan]) -> str:
    lines = [f"{'unequal peers, batches of':26}{'given to':>12}{'makespan s':>12}{'bound s':>10}{'ratio':>8}"]
    for one in makespans:
        to = "all" if one.spread else "one"
        cells = f"{one.made_ms / 1000:>12.2f}{one.bound_ms / 1000:>10.2f}{one.ratio:>8.2f}"
        lines.append(f"{one.batch_size:>26}{to:>12}{cells}")
    return "\n".join(lines)


def targets(report: Report) -> list[tuple[str, float, float]]:
    """What must hold: what, the figure, the limit."""
    found = []
    for one in report.figures:
        if one.peers >= 100:
            found += [
                (f"{one.peers} peers, idle: kB/s out of the busiest", one.idle.bytes_max / 1000, 100.0),
                (f"{one.peers} peers, load: kB/s out of the busiest", one.loaded.bytes_max / 1000, 100.0),
                (f"{one.peers} peers: s until the last knows of a killed process", one.killed.most / 1000, 2.0),
                (f"{one.peers} peers: s until a silent host is known, p99", one.silent.p99 / 1000, 7.0),
                (f"{one.peers} peers: s until a queue change is acted on, the last", one.queue.most / 1000, 1.0),
            ]
    for made in report.makespans:
        to = "all" if made.spread else "one"
        found.append((f"unequal, batches of {made.batch_size}, given to {to}: makespan / bound", made.ratio, 1.25))
    return found


def plot(figures: Sequence[Figures], path: Path) -> None:
    """Traffic and times by size."""
    pyplot = import_module("matplotlib.pyplot")
    pyplot.switch_backend("svg")
    sizes = [one.peers for one in figures]
    drawn, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    left.plot(sizes, [one.idle.bytes_mean / 1000 for one in figures], marker="o", label="idle")
    left.plot(sizes, [one.loaded.bytes_mean / 1000 for one in figures], marker="o", label="load")
    left.set(xlabel="peers", ylabel="kB/s out per peer", xscale="log", yscale="log")
    for name in ("join", "killed", "silent", "queue"):
        right.plot(sizes, [getattr(one, name).p99 / 1000 for one in figures], marker="o", label=name)
    right.set(xlabel="peers", ylabel="s, p99", xscale="log")
    left.legend()
    right.legend()
    drawn.savefig(path)
    print(f"plot: {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Measure clusters of many peers in the simulator.")
    parser.add_argument("--peers", default="3,10,30,100", help="sizes (default: 3,10,30,100)")
    parser.add_argument("--rounds", type=int, default=3, help="joins, deaths and changes of each kind (default: 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-makespan", action="store_true", help="leave the unequal peers out")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="draw them (needs matplotlib: the extra `plot`)")
    given = parser.parse_args(arguments)
    if given.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is not here: pip install -c config/constraints.txt -e '.[plot]'")
    report = Report()
    for peers in map(int, given.peers.split(",")):
        report.figures.append(measure(peers, given.rounds, given.seed))
        print(f"{peers} peers: {report.figures[-1].wall_s:.0f} s", file=sys.stderr, flush=True)
    if not given.no_makespan:
        for batch_size in BATCH_SIZES:
            report.makespans += [makespan(batch_size, spread=spread, seed=given.seed) for spread in (False, True)]
    print(f"Python {platform.python_version()}, rounds: {given.rounds}, seed: {given.seed}\n")
    print(table(report.figures))
    if report.makespans:
        print("\n" + table_of_makespans(report.makespans))
    missed = False
    print()
    for what, figure, limit in targets(report):
        missed |= figure > limit
        print(f"{'MISSED' if figure > limit else 'ok':8}{what}: {figure:.2f}, at most {limit:g}")
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    if given.plot:
        plot(report.figures, given.plot)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
