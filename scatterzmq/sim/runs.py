"""Runs: one seed from beginning to end, or very many; what came of it; and how to make a failing one small."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

from ..core.ledger import TRANSITIONS
from ..ids import TaskId
from ..wire.refusal import Reject
from .checkers import Violation
from .options import FAULTS, Options
from .world import World


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of a run. wrong: "" if nothing is. texts: the story, if it was asked for."""

    options: Options
    wrong: str
    tasks: tuple[str, ...]
    steps: int
    now_us: int
    digest: str
    events: int
    fired: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)


def run(options: Options, *, is_told: bool = False) -> Result:
    """A whole run."""
    world = World(options, is_told=is_told)
    wrong = ""
    tasks: tuple[TaskId, ...] = ()
    try:
        world.whole()
    except Violation as violation:
        wrong, tasks = violation.what, violation.tasks
    except Exception as error:  # noqa: BLE001 -- whatever a core raises is what we are looking for
        wrong = where(error)
    names = tuple([world.trace.name(task) for task in tasks])
    return Result(
        options=options,
        wrong=wrong,
        tasks=names,
        steps=world.steps,
        now_us=world.now_us,
        digest=world.trace.digest(),
        events=world.trace.events,
        fired=world.fired,
        rejected=world.rejected,
        rows=Counter({f"{phase}/{cause}": count for (phase, cause), count in world.checkers.rows.items()}),
        said=world.said,
        counters=world.counters + world.network.counters + world.checkers.counters,
        texts=world.trace.texts or [],
    )


def where(error: Exception) -> str:
    """An exception and the last places it came through."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('scatterzmq/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}\n  at " + "\n  at ".join(places[-6:])


def sweep(many: Iterable[Options], *, jobs: int = 1) -> Iterator[Result]:
    """Many runs, in so many processes; in whatever order they end."""
    if jobs == 1:
        yield from map(run, many)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run, many, chunksize=4)
        pool.close()
        pool.join()


class Coverage:
    """What many runs have come through. Each: how often, by name."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.transitions: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.said: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()

    def add(self, result: Result) -> None:
        self.faults += result.fired
        self.transitions += result.rows
        self.refused += result.rejected
        self.said += result.said
        self.counted += result.counters

    def missing(self) -> list[str]:
        """Faults that never struck, transitions that were never taken, reasons for which nothing was refused."""
        wanted: list[tuple[Counter[str], Iterable[str]]] = [
            (self.faults, FAULTS),
            (self.transitions, [f"{phase}/{cause}" for phase, cause in TRANSITIONS]),
            (self.refused, Reject),
        ]
        return [str(name) for counts, names in wanted for name in names if not counts[name]]

    def lines(self) -> list[str]:
        """For people."""
        parts = {
            "faults": self.faults,
            "transitions": self.transitions,
            "refused frames": self.refused,
            "said": self.said,
            "counted": self.counted,
        }
        lines = [
            f"{title}: " + " ".join(f"{name}={count}" for name, count in sorted(counts.items()))
            for title, counts in parts.items()
        ]
        return [*lines, f"never: {' '.join(self.missing()) or 'nothing'}"]


def minimise(options: Options, wrong: str) -> Options:
    """Options with which it still fails in the same way, with fewer faults and steps."""
    kind = _kind(wrong)

    def fails(candidate: Options) -> bool:
        result = run(candidate)
        return bool(result.wrong) and _kind(result.wrong) == kind

    options = _fewer_steps(options, fails)
    for fault in sorted(options.faults):
        candidate = options.without(fault)
        if fails(candidate):
            options = candidate
    return _fewer_steps(options, fails)


def _fewer_steps(options: Options, fails: Callable[[Options], bool]) -> Options:
    """The smallest number of steps with faults, by bisection (which need not find the very smallest)."""
    low, high = 0, min(options.steps, run(options).steps)
    while low < high:
        middle = (low + high) // 2
        if fails(replace(options, steps=middle)):
            high = middle
        else:
            low = middle + 1
    found = replace(options, steps=high)
    return found if fails(found) else options


def _kind(wrong: str) -> str:
    """What went wrong without the names in it."""
    return " ".join(word for word in wrong.split() if not any(letter.isdigit() for letter in word))
