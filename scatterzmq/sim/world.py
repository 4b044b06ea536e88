"""The world: a clock, everything that will happen in order, and everybody to whom it happens.

    world = World(Options(seed=1, peers=3))
    world.begin()
    task = world.submit("chain", 5)
    world.run(2_000)
    world.peer(0).crash() ...

Rules   1. One heap of (time, number, what): the same seed gives the same run.
        2. Nothing here decides anything about tasks.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random

from ..core.events import GraphChecked, MessageReceived
from ..core.messages import Clear, LoadGraph
from ..core.peermessages import Contact
from ..graph.plan import Plan
from ..ids import ClientId, PeerId, TaskId
from .checkers import Checkers, Facts, Violation
from .clients import Handle, SimClient
from .clock import RATE_ONE, PeerClock
from .corpus import checked, plan_of
from .disk import Disk
from .faults import Faults
from .network import Network
from .opened import Reader
from .options import Options
from .oracle import expected
from .process import Process
from .trace import Trace

OPERATOR = ClientId("C" + "f" * 32)
"""Loads the graphs; nobody listens to what it is told."""
SEEN_US = 10_000_000
"""Discovery repeats itself this often."""


class World:
    """Peers, clients, network, faults.

    fired: faults that struck, by kind. said: messages between peers, by kind. rejected: broken frames, by reason.
    """

    def __init__(self, options: Options, *, is_told: bool = False) -> None:
        self.options = options
        self.settings = options.settings()
        self.now_us = 0
        self.steps = 0
        self.fired: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self.trace = Trace(is_told=is_told)
        self.reader = Reader()
        rates = dict(options.faults)
        self.network = Network(self, options.seed, rates)
        self.faults = Faults(self, rates)
        self.checkers = Checkers(self)
        self.addresses = [f"peer{place}" for place in range(options.peers)]
        self.processes: list[Process | None] = [None] * options.peers
        self.clients: list[SimClient] = []
        self.joined_us = 0
        self._calm_us = self._look_us = 0
        self.network_broken_us = -(10**12)
        self._heap: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = 0
        self._lives: Counter[int] = Counter()
        self.disks = [Disk() for _ in range(options.peers)]
        self._swarm = Random(f"{options.seed}:swarm")
        self._torn = Random(f"{options.seed}:torn")
        self._tasks = 0
        self._client_count = 0
        self._nonces = 0

    # ---- time

    def at(self, when_us: int, what: Callable[..., None], *args: object) -> None:
        """Let something happen; never in the past."""
        self._numbers += 1
        heappush(self._heap, (max(when_us, self.now_us), self._numbers, what, args))

    def run(self, ms: int) -> None:
        """Let so much time go by."""
        self.run_until(self.now_us + ms * 1000)

    def run_until(self, until_us: int, *, steps: int | None = None, is_over: Callable[[], bool] | None = None) -> bool:
        """Up to a time, so many steps, or until `is_over` (asked now and then) says so. True: it said so."""
        heap = self._heap
        asked = 0
        while heap and heap[0][0] <= until_us:
            if steps is not None and self.steps >= steps:
                return False
            self.now_us, _, what, args = heappop(heap)
            self.steps += 1
            what(*args)
            asked += 1
            if is_over is not None and asked % 20 == 0 and is_over():
                return True
        if steps is None or self.steps < steps:
            self.now_us = max(self.now_us, until_us)
        return is_over is not None and is_over()

    # ---- peers

    def begin(self) -> None:
        """Start everybody."""
        for place in range(self.options.peers):
            self.start(place)
        for _ in range(self.options.clients):
            self.add_client()

    def start(self, place: int) -> None:
        """A process with nothing but its address, unless there is one."""
        if self.processes[place] is not None:
            return
        self._vanish(self.addresses[place])  # whoever has just left
        life = self._lives[place] = self._lives[place] + 1
        raw = blake2b(f"{self.options.seed} {place} {life}".encode(), digest_size=16).digest()
        disk = None if self.settings.journal.mode == "off" else self.disks[place]
        known = None if disk is None else disk.identity()
        me = Contact(
            id=PeerId.from_bytes(raw) if known is None else known.peer,
            incarnation=1 if known is None else known.incarnation + 1,
            address=self.addresses[place],
            name=f"p{place}.{life}",
        )
        if disk is not None:
            disk.is_full = False  # whoever starts it has made room
        self.trace.names[me.id] = me.name
        self.trace.note(self.now_us, me.name, "starts")
        offset_ms = self._swarm.randrange(10**9)
        clock = PeerClock(self.now_us, offset_ms, self.faults.rate("rate") or RATE_ONE)
        count = self.options.executors[place % len(self.options.executors)]
        process = Process(self, place, me, clock, count, disk)
        self.processes[place] = process
        if len(self.alive()) == 2:
            self.joined_us = self.now_us
        self.network.settle(process)
        process.boot()
        for ns in self.options.namespaces:
            text = self.plan(ns).definition
            process.post(0, process.tell, MessageReceived(sender=OPERATOR, message=LoadGraph(mid=1, definition=text)))
        self._discover(process)

    def _discover(self, process: Process) -> None:
        """Discovery tells everybody of everybody, sooner or later, again and again."""
        if process.is_dead:
            return
        for other in self.alive():
            if other is not process:
                other.post(self._swarm.randint(1_000, 500_000), other.seen, process.address)
        if len(self.addresses) > 1:
            self.at(self.now_us + SEEN_US, self._discover, process)

    def crash(self, process: Process, *, power: bool = False) -> None:
        """A process is gone, with all it knew but what is on its disk; power: and safe there."""
        if process.is_dead:
            return
        if process.disk is not None:
            if power or self.faults.happens("disk_tail"):
                self.counters["entries lost"] += process.disk.lose_tail(self._torn)
            process.disk.sync()
        self.checkers.failed(process)
        self._gone(process)

    def left(self, process: Process, lost: int) -> None:
        """A process has left in good order."""
        self.trace.note(self.now_us, process.name, f"left, {lost} tasks lost")
        if process.disk is not None:
            process.disk.sync()  # what was written outlives its process; the next one must not find it later
        self.checkers.failed(process)
        self._gone(process, LINGER_US)
        self.at(self.now_us + LINGER_US + self._swarm.randint(1_000, 10_000_000), self.start, process.place)

    def _gone(self, process: Process, linger_us: int = 0) -> None:
        """linger_us: what it has said last is still sent."""
        process.die()
        self._add_up(process)
        self.trace.note(self.now_us, process.name, "is gone")
        self.processes[process.place] = None
        if linger_us:
            self.at(self.now_us + linger_us, self._vanish, process.address, process)
        else:
            self._vanish(process.address, process)

    def _vanish(self, address: str, process: Process | None = None) -> None:
        """Nobody is at an address any more (if it still was this process)."""
        station = self.network.stations.get(address)
        if station is not None and process in (None, station):
            self.network.vanish(station)

    def _add_up(self, process: Process) -> None:
        """What a core has counted, of what is worth knowing of a run."""
        counters = process.core.counters()
        self.counters.update({name: counters[name] for name in COUNTED})

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process is not None]

    def peer(self, place: int) -> Process:
        """Whoever runs at a place now."""
        process = self.processes[place]
        assert process is not None, f"nobody is at place {place}"
        return process

    def holds(self, process: Process, task: TaskId) -> bool:
        """Whether a process would know of a task if all others were gone."""
        return process.state.ledger.record(task) is not None or process.state.copies.copy(task) is not None

    def is_on_disk(self, task: TaskId) -> bool:
        """Whether somebody will remember a task who starts again."""
        return any(disk.task(task) is not None for disk in self.disks)

    def may_come_back(self, task: TaskId) -> bool:
        """Whether somebody may still start who remembers a task."""
        return self.settings.journal.mode != "off" and self.is_on_disk(task)

    def knows(self, process: Process, task: TaskId, *, is_final: bool) -> bool:
        """Whether a process holds a task, and if asked for, its end."""
        record, copy = process.state.ledger.record(task), process.state.copies.copy(task)
        if record is not None:
            return record.phase.ended or not is_final
        return copy is not None and (copy.status is not None or not is_final)

    def address(self, id_: PeerId | ClientId | None) -> str:
        """Where a process is; "" if it is gone."""
        return next((process.address for process in self.alive() if process.id == id_), "")

    # ---- graphs

    def plan(self, ns: str) -> Plan:
        return plan_of(ns)

    def checked(self, request: int, definition: str, place: int) -> GraphChecked:
        """What an executor of a peer says of a definition."""
        found = checked(definition, self.options.lacking.get(place, ""))
        return GraphChecked(
            request=request,
            plan=found.plan,
            problems=found.problems,
            warnings=found.warnings,
            lacking=found.lacking,
            manifest=found.manifest(),
        )

    def can_run(self, process: Process, definition: str) -> bool:
        """Whether its executors have all kinds."""
        return checked(definition, self.options.lacking.get(process.place, "")).plan is not None

    # ---- clients and tasks

    def add_client(self, first: str = "") -> SimClient:
        self._client_count += 1
        client = SimClient(self, self._client_count, first=first)
        self.clients.append(client)
        client.start()
        return client

    def _client_at(self, place: int) -> SimClient:
        """One that begins there."""
        address = self.addresses[place]
        found = next((client for client in self.clients if client.first == address), None)
        return found or self.add_client(address)

    def handle(self, task: TaskId) -> Handle:
        """That of whichever client has it."""
        return next(client.handles[task] for client in self.clients if task in client.handles)

    def replace_client(self, client: SimClient) -> None:
        """A client dies; another one goes on with what has been accepted for it."""
        client.is_dead = True
        self.network.vanish(client)
        for handle in client.handles.values():
            if not handle.is_accepted:
                self.counters["orphans"] += 1
        self._client_count += 1
        handles = {task: handle for task, handle in client.handles.items() if handle.is_accepted}
        heir = SimClient(self, self._client_count, handles, client.first)
        self.clients[self.clients.index(client)] = heir
        heir.start()

    def submit(self, ns: str, *values: int, client: int = 0, cache: bool = True, at: int | None = None) -> list[TaskId]:
        """Have a client submit tasks, at a place or anywhere."""
        tasks = {}
        submitter = self.clients[client] if at is None else self._client_at(at)
        plan = self.plan(ns)
        may_fail = any(graph.max_retries is not None for graph in plan.graphs.values())
        for value in values:
            self._tasks += 1
            task = TaskId(f"T{self._tasks:032x}")
            self.trace.names[task] = f"t{self._tasks}"
            tasks[task] = value
            self.checkers.facts[task] = Facts(ns, value, expected(plan, value), may_fail, submitter)
        submitter.submit(ns, tasks, cache=cache)
        return list(tasks)

    def clear(self, *tasks: TaskId, client: int = 0) -> None:
        for task in tasks:
            self.checkers.facts[task].is_cleared = True
        self.clients[client].clear(tasks)

    def cancel(self, *tasks: TaskId, client: int = 0) -> None:
        for task in tasks:
            self.checkers.facts[task].is_cancelled = True
        self.clients[client].cancel(tasks)

    def nonce(self) -> bytes:
        self._nonces += 1
        return self._nonces.to_bytes(8, "big")

    # ---- the whole run

    def plan_load(self) -> None:
        """Decide who submits what when, and what becomes unwanted."""
        options, chance = self.options, self._swarm
        left = options.tasks
        while left:
            count = min(left, chance.randint(1, options.batch_max))
            left -= count
            at_us = int(chance.random() * options.load_s * 1e6)
            values = [chance.randrange(options.domain) for _ in range(count)]
            ns, client = chance.choice(options.namespaces), chance.randrange(options.clients)
            unwanted = ["", ""]
            for at, (kind, rate) in enumerate((("clear", options.clears), ("cancel", options.cancels))):
                unwanted[at] = kind if chance.random() < rate else ""
            self.at(
                at_us, self._submit, ns, tuple(values), client, chance.random() < 0.9, tuple(filter(None, unwanted))
            )

    def _submit(self, ns: str, values: tuple[int, ...], client: int, cache: bool, unwanted: tuple[str, ...]) -> None:
        tasks = self.submit(ns, *values, client=client, cache=cache)
        for kind in unwanted:
            some = [task for task in tasks if self._swarm.random() < 0.5]
            if some:
                at_us = self.now_us + int(self._swarm.expovariate(1.0) * 1e6)
                self.at(at_us, self._unwant, kind, some, client)

    def _unwant(self, kind: str, tasks: list[TaskId], client: int) -> None:
        (self.clear if kind == "clear" else self.cancel)(*tasks, client=client)

    def heal(self) -> None:
        """Nothing goes wrong from now on, and everybody is there."""
        self.trace.note(self.now_us, "world", "heals")
        self.faults.end()
        self.network.rates.clear()
        self.network.heal_all()
        for process in self.alive():
            process.resume()
        for place in range(self.options.peers):
            self.start(place)

    def whole(self) -> None:
        """Safety, liveness, draining. Raises Violation, or whatever a core raises."""
        options = self.options
        self.begin()
        self.plan_load()
        self.faults.start()
        safety_us = int(options.safety_s * 1e6)
        self.run_until(safety_us, steps=options.steps)
        self.heal()
        # What was planned but not done yet is still to come.
        self._calm_us = max(self.now_us, int(options.load_s * 1e6))
        patience_s = LIVENESS_S + options.work_s()
        if not self.run_until(self._calm_us + int(patience_s * 1e6), is_over=self._is_quiet):
            waiting = self.checkers.settled()
            raise Violation(f"after {patience_s:g} s without faults {len(waiting)} tasks have no end", *waiting)
        self._settle(self.checkers.agreed)
        self._sweep()
        self._settle(self.checkers.drained)
        self._idle()
        for process in self.alive():
            self._add_up(process)

    def _sweep(self) -> None:
        """Everything is cleared, wherever it is. (Where a client looks for it is another question.)"""
        tasks = tuple(self.checkers.facts)
        for task in tasks:
            self.checkers.facts[task].is_cleared = True
        for process in self.alive():
            message = Clear(mid=1, ids=tasks)
            process.post(0, process.tell, MessageReceived(sender=OPERATOR, message=message))

    def _settle(self, holds: Callable[[], None]) -> None:
        """After `settle_s`, or soon after that, something must hold that is not decided by messages to clients."""
        self.run(int(self.options.settle_s * 1000))
        until_us = self.now_us + SETTLE_US
        while self.now_us < until_us:
            with suppress(Violation):
                holds()
                return
            self.run(LOOK_MS)
        holds()

    def _is_quiet(self) -> bool:
        if self.now_us < self._calm_us:
            return False
        if all(client.is_quiet() for client in self.clients):
            return True
        if self.now_us >= self._look_us:
            self._look_us = self.now_us + LOOK_US
            self.checkers.advancing(self._calm_us)
            self.checkers.lent_once(self._calm_us)
        return False

    def _idle(self) -> None:
        """Peers that have nothing to do say little."""
        before = self.said.copy()
        self.run(IDLE_MS)
        said = self.said - before
        if "rate" in self.options.faults:
            del said["Welcome"]  # to a clock four times as fast, a heartbeat each second is a silence now and then
        quiet = sum(count for kind, count in said.items() if kind not in ALWAYS_SAID)
        limit = len(self.alive()) ** 2 * 4
        if quiet > limit:
            raise Violation(f"idle, and {quiet} messages in {IDLE_MS / 1000:g} s: {dict(said)}")


LIVENESS_S = 120
"""All have an end so long after faults and load have, and after the time that executors need for them. That each of
them gets on is looked at apart (`advancing`).
"""
LOOK_US = 1_000_000
LINGER_US = 2_000
SETTLE_US = 40_000_000
LOOK_MS = 2_000
IDLE_MS = 15_000
COUNTED = (
    "rows_granted",
    "rows_granted_by_name",
    "payloads_kept",
    "payloads_freed",
    "payloads_fetched",
    "payloads_wrong",
    "payloads_lost",
    "inputs_waited_ms",
)
ALWAYS_SAID = ("Heartbeat",)
"""Words that never stop, beside a few comparisons of what is held."""
