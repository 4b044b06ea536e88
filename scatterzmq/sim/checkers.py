"""Checkers: what must hold in every run, whatever goes wrong in it.

Rules   1. A core never raises. The tasks that an event was about are consistent after it, and everything that a core
           holds (`check_invariants`) at least every so many of its events.
        2. Every task that was accepted ends, exactly once for each client, and as the oracle says.
        3. What is accepted is lost only if more copies fail within one repair interval than the promise allows.
        4. Ended is ended; what was deleted stays deleted.
        5. The store holds what the core uses, no more and no less.
        6. When nothing goes wrong any more, everything drains.
        7. What is called durable is on disk, and survives a loss of power everywhere. In mode "batch" all does that was
           accepted before the last moment.
        8. Who gives a task up leaves at least two behind that know of it: itself, if need be.
        9. A maker keeps what its owner counts on, unless it takes the owner for gone; it may have lost it, and knows.
       10. Who asks where a task is that was accepted is never told that it is unknown, as long as it is not lost or
           only on a disk, nor anything else than its end once that has been shown.
       11. A task is lent by one owner at a time, as soon as all have had time to agree. (In a split each side may: that
           only the last lease of an owner commits, and once, is looked at in sim/histories.py.)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.actions import BatchOrder
from ..core.cache import Asker
from ..core.ledger import Cause, Phase, Record, check_record
from ..core.messages import Accepted, Cancel, Clear, Final, TaskReport, TaskStatus, ToClient
from ..errors import ErrorCode
from ..ids import BlockId, ClientId, PeerId, TaskId
from ..wire.columns import Column
from .oracle import Expected
from .payload import LIFE_BITS, values_of

if TYPE_CHECKING:
    from .clients import Handle, Outcome, SimClient
    from .process import Process
    from .world import World

REPAIR_US = 45_000_000
"""So long after a failure there may be fewer copies than promised: detection, repair, and a margin."""
UNNOTICED_US = 60_000_000
"""So long a failure may go unnoticed, with a pause or a slow clock on top."""
WRITTEN_US = 70_000
"""What was accepted so long ago, or has changed hands, is on disk in mode "batch": written within 20 ms at most, and
synced 50 ms later (sim/process.py).
"""
ADVANCE_US = 60_000_000
"""The longest that a task may be at one place when nothing goes wrong."""
AGREED_US = 30_000_000
"""So long after the last fault all know again who owns what: a view takes ten seconds, and comparing some more."""
ALL_EVERY = 100
"""Events of a core between looks at all it holds: such a look takes longer than ten events."""


def _task(asker: Asker) -> TaskId:
    """The task that asks for a key, of whichever peer."""
    return asker[1] if isinstance(asker, tuple) else asker


class Violation(AssertionError):  # noqa: N818 -- it is what was looked for
    """Something that must hold does not. tasks: the ones concerned."""

    def __init__(self, what: str, *tasks: TaskId) -> None:
        self.what = what
        self.tasks = tasks
        super().__init__(what)


@dataclass(slots=True, eq=False)
class Facts:
    """What the world knows of a task.

    copies, durable: as told to a client; 0 before it is accepted. is_refused: as told to its client, which has it
    cleared wherever it was accepted, too. lost: excused, because too much failed at once. is_given_up: so is that a
    client has taken it for unknown, and it may be told anything of it from now on.
    ends: processes -> the phase in which it ended there. deleters: lives of processes that have deleted it.
    settled_us: when it was accepted, or last changed hands. advanced_us: when it last changed its phase, or
    was seen to wait for what got on.
    submitter: to whom a peer that accepts it says so.
    """

    ns: str
    value: int
    expected: Expected
    may_fail: bool
    submitter: "SimClient"
    copies: int = 0
    durable: bool = False
    is_cleared: bool = False
    is_cancelled: bool = False
    is_deleted: bool = False
    is_refused: bool = False
    is_given_up: bool = False
    lost: str = ""
    ends: dict[str, Phase] = field(default_factory=dict)
    deleters: set[str] = field(default_factory=set)
    settled_us: int = 0
    advanced_us: int = 0


class Checkers:
    """Everything that is checked, and what is counted on the way.

    deaths: of executors, by the tasks they were running. killed: at whose executors those were, by (owner, task).
    lives: how often that peer began to own that task. rows: transitions that were taken.
    watches_all: False for those that look at results only.
    """

    watches_all = True

    def __init__(self, world: "World") -> None:
        self.world = world
        self.facts: dict[TaskId, Facts] = {}
        self.deaths: Counter[TaskId] = Counter()
        self.killed: dict[tuple[PeerId, TaskId], list[PeerId]] = {}
        self.lives: Counter[tuple[PeerId, TaskId]] = Counter()
        self.rows: Counter[tuple[Phase, Cause]] = Counter()
        self.counters: Counter[str] = Counter()
        self.left_over: dict[TaskId, None] = {}
        self._given_up: dict[TaskId, None] = {}
        self.failures: list[tuple[int, PeerId]] = []
        self._advanced_us = 0

    # ---- cores

    def handled(self, process: "Process") -> None:
        """A core has handled an event."""
        if process.touched:
            for record in process.touched:
                self._touched(process, record)
            process.touched.clear()
        process.history.handled()
        if self._given_up:
            for task in self._given_up:
                self._still_known(process, task)
            self._given_up.clear()
        if process.events % (self.world.options.check_every or ALL_EVERY) == 0:
            self._look(process)

    def _touched(self, process: "Process", record: Record) -> None:
        """One task, as far as it can be seen without looking at others."""
        if process.state.ledger.record(record.id) is not record:
            return
        check_record(record)
        process.history.touched(record)
        node = record.node
        if node is not None and not record.phase.ended:
            waits = record.id in process.state.plans.queue(record.plan, node)
            if waits != (record.phase is Phase.WAIT):
                raise Violation(f"{process.name}: in phase {record.phase}, and in a queue: {waits}", record.id)
        if record.token is not None and not process.state.leases.is_lent(record.token.seq, record.id):
            raise Violation(f"{process.name}: at work, and nobody has it", record.id)
        if process.state.copies.copy(record.id) is not None:
            raise Violation(f"{process.name}: owns it, and has a copy of another owner", record.id)

    def _still_known(self, process: "Process", task: TaskId) -> None:
        """Rule 8, of a task that a process has given up in this event. Who leaves hands its tasks to who has copies."""
        facts = self.facts.get(task)
        if facts is None or process.state.leaving:
            return
        facts.settled_us = self.world.now_us
        if facts.is_cleared and not self.world.holds(process, task):
            facts.deleters.add(process.name)
        if facts.copies < 2 or facts.is_cleared or facts.lost:
            return
        known = [other.name for other in self.world.alive() if self.world.holds(other, task)]
        if len(known) < 2 and process.state.copies.version(task) is None:
            raise Violation(f"{process.name} has given {task} up, and only {known} know of it", task)

    def _look(self, process: "Process") -> None:
        process.core.check_invariants()
        self._store(process)

    def _store(self, process: "Process") -> None:
        """Rule 5."""
        held = process.store.held()
        away = process.state.blocks.all_away()
        used = process.state.blocks.uses().keys() - away
        gone = process.state.blocks.gone()
        if used - gone != used & held:
            raise Violation(f"{process.name}: freed too early: {sorted(used - gone - held)[:5]}")
        pinned = {block.id for running in process.executors.values() if running is not None for block in running.pinned}
        if held - used - pinned:
            raise Violation(f"{process.name}: not freed: {sorted(held - used - pinned)[:5]}")
        for block in away:
            if process.state.blocks.away(block) is not None:
                self._kept(process, block)

    def _kept(self, owner: "Process", block: BlockId) -> None:
        """Rule 9."""
        maker = next((other for other in self.world.alive() if other.id == block.maker), None)
        if maker is None or block.counter >> LIFE_BITS != maker.me.incarnation or owner.id in maker.buried:
            return
        if block.counter not in maker.core.payloads.kept_for(owner.id):
            raise Violation(f"{maker.name} does not keep {block.counter} for {owner.name}, and has not said so")

    def moved(self, process: "Process", record: Record, cause: Cause, before: Phase) -> None:
        """A record has changed its phase."""
        self.rows[before, cause] += 1
        facts = self.facts.get(record.id)
        if facts is None:
            raise Violation(f"{process.name} has {record.id}, which nobody submitted", record.id)
        facts.advanced_us = self._advanced_us = self.world.now_us
        ended = facts.ends.get(process.name)
        if ended is not None:
            raise Violation(f"{process.name}: ended as {ended}, and now {record.phase}", record.id)
        if record.phase.ended:
            facts.ends[process.name] = record.phase

    def begun(self, process: "Process", record: Record) -> None:
        """A process owns a task from now on."""
        self.lives[process.id, record.id] += 1
        process.history.begun(record)

    def removed(self, process: "Process", record: Record) -> None:
        """A process lets go of a record. What it has handed off may come back to it, as if it had never been there:
        with a submission that is repeated, or with a takeover. What was deleted may not.
        """
        facts = self.facts.get(record.id)
        process.history.removed(record)
        self._given_up[record.id] = None
        if facts is not None and not facts.is_cleared:
            facts.ends.pop(process.name, None)

    def lent(self, process: "Process", order: BatchOrder) -> None:
        for task in order.tasks:
            if task not in self.facts:
                raise Violation(f"{process.name} runs {task}, which nobody submitted", task)
        if not self.world.can_run(process, order.plan.definition):
            raise Violation(f"{process.name} runs {order.plan.ns}, of which it lacks a kind", *order.tasks)

    def executor_died(self, process: "Process", order: BatchOrder) -> None:
        owner = order.token.owner
        for task in order.tasks:
            self.deaths[task] += 1
            if process.id == owner or self.world.network.is_through(process.address, self.world.address(owner)):
                self.killed.setdefault((owner, task), []).append(process.id)
        if len(order.tasks) == 1 and order.solo:
            self._poison(owner, order.tasks[0])

    def _poison(self, owner: PeerId, task: TaskId) -> None:
        """A task that kills executors does so 1 + 3 times at most each time that a peer owns it, as far as it hears."""
        there = next((process for process in self.world.alive() if process.id == owner), None)
        if there is None:
            return  # an owner that is gone lends to nobody, and what it had heard is not known
        # Of those that it has buried it may not have heard the last words.
        killed = sum(peer not in there.buried for peer in self.killed.get((owner, task), ()))
        limit = (1 + self.world.settings.tasks.poison_limit) * self.lives[owner, task]
        if killed > limit and "jump" not in self.world.options.faults:
            name = self.world.trace.name(owner)
            raise Violation(f"{task} of {name} has killed {killed} executors, allowed are {limit}", task)

    # ---- what clients are told

    def sent_to_client(
        self, process: "Process", client: ClientId, message: ToClient, columns: dict[str, Column]
    ) -> None:
        if isinstance(message, Accepted | Final) and message.durable:
            self._durable(process, message)
        if isinstance(message, Accepted):
            self._copied(process, message.ids, message.copies, is_final=False)
        if isinstance(message, Final):
            shown = zip(message.ids, message.statuses, strict=True)
            ended = [task for task, status in shown if status is not TaskStatus.UNKNOWN]
            self._copied(process, ended, message.copies, is_final=True)
            rows = iter(values_of(columns["value"]) if "value" in columns else ())
            for task, status, error in zip(message.ids, message.statuses, message.errors, strict=True):
                value = next(rows) if status in (TaskStatus.READY, TaskStatus.DONE) else None
                if status is not TaskStatus.UNKNOWN:
                    self._true(task, status, None if error is None else error.code, value, process.name)

    def _copied(self, process: "Process", tasks: Sequence[TaskId], copies: int, *, is_final: bool) -> None:
        """What is shown has its copies, unless one of those who have them has just gone."""
        if copies < 2:
            return
        gone = {peer for at, peer in self.failures if self.world.now_us - at < UNNOTICED_US}
        for task in tasks:
            facts = self.facts[task]
            if facts.is_cleared or facts.is_refused or (gone and not gone.isdisjoint(self._kept_by(process, task))):
                continue
            found = sum(self.world.knows(other, task, is_final=is_final) for other in self.world.alive())
            if found < copies:
                what = "an end" if is_final else "acceptance"
                raise Violation(f"{process.name} shows {what} with {copies} copies, and there are {found}", task)

    def _kept_by(self, process: "Process", task: TaskId) -> tuple[PeerId, ...]:
        """Who has a task, as a process believes."""
        record, copy = process.state.ledger.record(task), process.state.copies.copy(task)
        if record is not None:
            return record.rset
        return () if copy is None else (copy.owner, *copy.rset)

    def _true(self, task: TaskId, status: TaskStatus, code: ErrorCode | None, value: object, who: str) -> None:
        """Rule 2: an end that may be."""
        facts = self.facts.get(task)
        if facts is None:
            raise Violation(f"{who} tells of {task}, which nobody submitted", task)
        expected = facts.expected
        if value is not None:
            if not isinstance(value, int) or not expected.fits(value):
                raise Violation(f"{who}: {facts.ns}({facts.value}) is {value}, expected {expected}", task)
            return
        if status is not TaskStatus.ERROR:
            raise Violation(f"{who}: told {status} as an end", task)
        if code is ErrorCode.CANCELLED and facts.is_cancelled:
            return
        if code == expected.error or (facts.may_fail and code is not ErrorCode.CANCELLED):
            return
        if code is ErrorCode.POISON and self.deaths[task] >= 3 and self.world.options.faults.keys() & {"jump", "pause"}:
            return  # its executors were given up because time went by without them
        raise Violation(f"{who}: {facts.ns}({facts.value}) ended in {code}, expected {expected}", task)

    def _durable(self, process: "Process", message: Accepted | Final) -> None:
        """Rule 7: what is said to be on disk is there, and safe, even if there has been no room for anything since.
        And it has been on as many disks as peers are said to have it: on theirs.
        """
        if process.disk is None or self.world.settings.journal.mode != "sync":
            raise Violation(f"{process.name}: durable, without a disk", *message.ids)
        is_final = isinstance(message, Final)
        for task in message.ids:
            kept = process.disk.task(task)
            if kept is None or (is_final and kept.status is None):
                raise Violation(f"{process.name}: said to be durable, and is not: {task}", task)
            counted = frozenset(self._kept_by(process, task))
            disks = sum(
                disk.was_safe.get(task, False) or (not is_final and task in disk.was_safe)
                for disk in self.world.disks
                if (known := disk.identity()) is not None and known.peer in counted
            )
            if disks < message.copies:
                raise Violation(
                    f"{process.name}: said to be durable at {message.copies} peers, and is on {disks} disks", task
                )

    def accepted(self, task: TaskId, copies: int, *, durable: bool) -> None:
        facts = self.facts[task]
        facts.copies = max(facts.copies, copies)
        facts.settled_us = self.world.now_us
        facts.durable |= durable

    def applied(self, client: "SimClient", message: Clear | Cancel) -> None:
        """All peers have said that they did it."""
        if isinstance(message, Clear):
            for task in message.ids:
                self.facts[task].is_deleted = True

    def reported(self, client: "SimClient", report: TaskReport, shown: TaskStatus | None) -> None:
        """Rule 10: a client is told where a task is. shown: the end that it has been shown."""
        facts = self.facts[report.id]
        self.counters[f"status {report.status}"] += 1
        if facts.is_cleared or facts.is_refused or facts.is_given_up:
            return
        if report.status is TaskStatus.UNKNOWN:
            if facts.lost or self.world.may_come_back(report.id):
                return
            raise Violation(f"{client.name}: {report.id} is said to be unknown, and was accepted", report.id)
        if shown not in (None, report.status):
            raise Violation(f"{client.name}: {report.id} is {report.status} after it was {shown}", report.id)

    def told_twice(self, client: "SimClient", handle: "Handle", outcome: "Outcome") -> None:
        """A client is told an end of a task of which it was told one before, and has not asked for it since."""
        before = handle.outcome
        assert before is not None
        raise Violation(f"{client.name}: {handle.id} ended as {before.status}, and now as {outcome.status}", handle.id)

    def latched(self, client: "SimClient", handle: "Handle") -> None:
        """A client takes an outcome for good."""
        outcome = handle.outcome
        assert outcome is not None
        facts = self.facts[handle.id]
        self.counters[f"outcome {outcome.status}"] += 1
        self.world.trace.note(self.world.now_us, client.name, f"{handle.id} ends: {outcome.status} {outcome.value}")
        if outcome.status is TaskStatus.UNKNOWN:
            if not (facts.is_cleared or facts.lost):
                facts.is_given_up = self._is_out_of_reach(client, handle.id)
                if not facts.is_given_up:
                    raise Violation(
                        f"{client.name}: {handle.id} was accepted ({facts.copies} copies) and is gone", handle.id
                    )
            return
        if outcome.code is ErrorCode.REFUSED:
            if facts.copies:
                raise Violation(f"{client.name}: accepted, then refused", handle.id)
            facts.is_refused = True
            return
        self._true(handle.id, outcome.status, outcome.code, outcome.value, client.name)

    def _is_out_of_reach(self, client: "SimClient", task: TaskId) -> bool:
        """Whether a client may take a task for unknown that is there: all who have it are halted, or cut off from the
        client, and with those who died within one repair interval as many peers have failed as there were copies. That
        is more at once than the promise allows. At least one has died: as long as nobody has, there is always somebody
        who misses those that are out of reach, and clients wait. Who starts again has forgotten them.
        """
        holders = [process for process in self.world.alive() if self.world.holds(process, task)]
        if not holders or any(self._answers(process, client) for process in holders):
            return False
        dead = sum(self.world.now_us - at < REPAIR_US for at, _ in self.failures)
        return dead > 0 and dead + len(holders) >= self.facts[task].copies

    def _answers(self, process: "Process", client: "SimClient") -> bool:
        network, here, there = self.world.network, client.address, process.address
        return not process.is_paused and network.is_through(here, there) and network.is_through(there, here)

    # ---- losses

    def failed(self, process: "Process") -> None:
        """A process is about to go: which tasks go with it, and may they?"""
        now_us = self.world.now_us
        recent = [at for at, _ in self.failures if now_us - at < REPAIR_US]
        self.failures.append((now_us, process.id))
        others = [other for other in self.world.alive() if other is not process]
        for task, facts in self.facts.items():
            if not facts.copies or facts.lost or facts.is_cleared or not self.world.holds(process, task):
                continue
            if any(self.world.holds(other, task) for other in others) or self.world.is_on_disk(task):
                continue
            facts.lost = self._excuse(facts, len(recent), bool(others))
            self.world.trace.note(now_us, process.name, f"{task} is lost: {facts.lost}")
            if not facts.lost:
                raise Violation(f"{process.name} had the last copy of {task}, accepted with {facts.copies}", task)

    def _excuse(self, facts: Facts, recent: int, others: bool) -> str:
        """Why a task may be lost now; "" if it may not."""
        mode = self.world.settings.journal.mode
        is_written = mode == "batch" and self.world.now_us - facts.settled_us > WRITTEN_US
        if (facts.durable or is_written) and "disk_full" not in self.world.options.faults:
            return ""
        if facts.copies == 1:
            return "there never was more than one copy"
        if recent >= facts.copies - 1:
            return f"{recent} other failures in one repair interval"
        if not others or self.world.now_us - self.world.joined_us < REPAIR_US:
            return "there was nobody to keep another copy"
        if self.world.now_us - self.world.network_broken_us < REPAIR_US:
            return "others could not be reached"
        return ""

    # ---- the end

    def settled(self) -> list[TaskId]:
        """Tasks that some client still waits for."""
        return [handle.id for client in self.world.clients for handle in client.unfinished()]

    def advancing(self, calm_us: int) -> None:
        """What has no end gets on within a minute from when nothing went wrong any more and everything was submitted.
        A peer that has started again may wait for `grace_s` first; so may a client for what is lost, until it believes
        that. In its queue a task waits for others: it is enough that some of them get on. Who waits for a cached value
        may wait as long as that is being computed: it gets on with who computes it, who may stand in a queue.
        """
        settings = self.world.settings
        for task in self.settled():
            may_wait = settings.journal.mode != "off" or self.facts[task].lost
            # Kept, as word of a value takes a moment to come, and who computed it is no more waited for then.
            last_us = self.facts[task].advanced_us = self._last_us(task)
            since_us = max(last_us, calm_us + (int(settings.timing.grace_s * 1e6) if may_wait else 0))
            if self.world.now_us - since_us > ADVANCE_US:
                raise Violation(
                    f"{task} has neither ended nor advanced for {ADVANCE_US / 1e6:g} s without faults", task
                )

    def _last_us(self, task: TaskId) -> int:
        """When a task, or who computes what it waits for, last got on."""
        chain = [task]
        for one in chain:
            if self._is_in(Phase.DEFER, one):
                chain += [leader for leader in self._leaders(one) if leader not in chain]
        return max(self._advanced_us if self._is_in(Phase.WAIT, one) else self.facts[one].advanced_us for one in chain)

    def _is_in(self, phase: Phase, task: TaskId) -> bool:
        records = [process.state.ledger.record(task) for process in self.world.alive()]
        return any(record is not None and record.phase is phase for record in records)

    def _leaders(self, task: TaskId) -> list[TaskId]:
        """Who computes what a task waits for, as its own peer and those that it has asked know it."""
        caches = [process.state.cache for process in self.world.alive()]
        pending = [one for cache in caches if cache is not None for one in cache._pending.values()]  # noqa: SLF001
        return [_task(one.leader) for one in pending if task in map(_task, one.waiters)]

    def lent_once(self, calm_us: int) -> None:
        """Rule 11, when nothing has gone wrong since then."""
        if self.world.now_us < calm_us + AGREED_US:
            return
        for task in self.settled():
            lenders = [process for process in self.world.alive() if self._lends(process, task)]
            self.counters["leases in one view"] += len(lenders)
            if len(lenders) > 1 and not self._are_apart(task, lenders):
                raise Violation(f"{task} is lent by {[lender.name for lender in lenders]} at the same time", task)

    def _lends(self, process: "Process", task: TaskId) -> bool:
        record = process.state.ledger.record(task)
        return record is not None and record.token is not None

    def agreed(self) -> None:
        """Views have converged, and every task has one owner with all its copies."""
        alive = self.world.alive()
        ids = {process.id for process in alive}
        for process in alive:
            members = process.state.members
            # Who came and went too often is watched for some minutes, and known nevertheless.
            there = {contact.id for contact in members.contacts()}
            seen = there & ids | set(members.alive()) | {process.id}
            if seen != ids:
                names = [sorted(map(self.world.trace.name, some)) for some in (seen - ids, ids - seen)]
                raise Violation(f"{process.name}: sees {names[0]}, which are gone, and does not see {names[1]}")
        self.left_over.clear()
        for task, facts in self.facts.items():
            if facts.copies and not facts.is_cleared and not facts.lost:
                self._has_owner(task)
            elif facts.is_deleted:
                self._stays_deleted(task, facts)

    def _stays_deleted(self, task: TaskId, facts: Facts) -> None:
        """Rule 4, as long as who has deleted it is there to tell of it, and may know whom."""
        there = [process.name for process in self.world.alive() if process.name in facts.deleters]
        holders = [process for process in self.world.alive() if self.world.holds(process, task)]
        if there and holders and not (facts.submitter.is_dead and self._are_strangers(task, holders)):
            names = [holder.name for holder in holders]
            raise Violation(f"{there} have deleted {task}, their client knows, and {names} have it", task)
        if holders:  # whoever was asked had handed it to somebody else, or is gone with what it knew
            self.left_over[task] = None

    def _are_strangers(self, task: TaskId, holders: Sequence["Process"]) -> bool:
        """Whether no holder names anybody who knows that the task is deleted. Then its submission came late to another
        peer than the one that had deleted it; only the client that had sent it to both could bring them together.
        """
        held = [holder.state.ledger.record(task) or holder.state.copies.copy(task) for holder in holders]
        named = {peer for account in held if account is not None for peer in account.rset}
        others = [process for process in self.world.alive() if process not in holders]
        return not any(process.id in named and process.state.copies.version(task) is not None for process in others)

    def _has_owner(self, task: TaskId) -> None:
        alive = self.world.alive()
        owners = [process for process in alive if process.state.ledger.record(task) is not None]
        if len(owners) > 1 and self._are_apart(task, owners):
            # Nobody brings owners together of which none knows a holder of the other's copies.
            self.counters["tasks with two owners"] += 1
            return
        if len(owners) != 1:
            raise Violation(f"{task} has the owners {[owner.name for owner in owners]}", task)
        holders = [process for process in alive if process.state.copies.copy(task) is not None]
        record = owners[0].state.ledger.record(task)
        assert record is not None
        wanted = min(self.world.settings.cluster.replicas, 1 + len(owners[0].state.members.alive()))
        if record.rset != (owners[0].id, *record.rset[1:]) or len(record.rset) < wanted:
            named = [self.world.trace.name(peer) for peer in record.rset]
            raise Violation(f"{owners[0].name}: the copies of {task} are at {named}, wanted are {wanted}", task)
        lacking = set(record.rset[1:]) - {holder.id for holder in holders}
        if lacking:
            raise Violation(f"{sorted(map(self.world.trace.name, lacking))} should have copies of {task}", task)

    def _are_apart(self, task: TaskId, owners: Sequence["Process"]) -> bool:
        sets = [record.rset for owner in owners if (record := owner.state.ledger.record(task)) is not None]
        return len({peer for rset in sets for peer in rset}) == sum(map(len, sets))

    def drained(self) -> None:
        """Rule 6, after all tasks have been cleared."""
        self.counters["cleared for a client, and still somewhere"] = len(self.left_over)
        for process in self.world.alive():
            self._look(process)
            state = process.state
            if len(state.ledger):
                left = [record.id for record in state.ledger]
                raise Violation(f"{process.name}: {len(left)} records that were cleared", *left)
            if len(state.copies):
                left = [copy.id for copy in state.copies]
                raise Violation(f"{process.name}: {len(left)} copies of tasks that were cleared", *left)
            if process.disk is not None and not process.has_failed and process.disk.tasks():
                raise Violation(f"{process.name}: tasks on disk that were cleared", *process.disk.tasks())
            if list(state.leases):
                raise Violation(f"{process.name}: batches on loan of no task")
            self._idles(process)
            cached = set() if state.cache is None else {block.id for block, _ in state.cache.values_held()}
            if state.blocks.uses().keys() != cached:
                raise Violation(f"{process.name}: blocks that nobody can need")
            if state.cache is not None and (state.cache.leaders() or state.cache.waiters()):
                raise Violation(f"{process.name}: keys are led, and nothing runs")

    def _idles(self, process: "Process") -> None:
        """Nothing is under way between peers."""
        core = process.core
        busy = {
            "writes to copies": process.state.replicas.busy,
            "payloads kept for others": core.payloads.blocks_held(),
            "tasks of others, or answers": core._borrowing.busy,  # noqa: SLF001
            "inquiries": core._takeover._inquiries,  # noqa: SLF001
        }
        left = [what for what, some in busy.items() if some]
        if left:
            raise Violation(f"{process.name}: nothing is left to do, and there are {', '.join(left)}")
