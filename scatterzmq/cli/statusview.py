"""What `scatterzmq status` shows: all that peers have said as one object for JSON, and that as text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..core.messages import Stats, TaskReport, TaskStatus

if TYPE_CHECKING:
    from ..client.link import Member
    from ..ids import PeerId, TaskId

_COUNTERS_MAX = 12
_CACHE = ("hits", "misses", "deferred", "promoted")
_APART = ("cache", "store")
"""Beginnings of the names of what has a line of its own."""
_GROUPS = ("network", "rejected", "blobs", "events")
"""Beginnings of the names of what others than its core count: what came and went, what was no message for it, blobs
that were not what they should be, events that listeners were too slow for.
"""

Json: TypeAlias = dict[str, Any]
Row: TypeAlias = Sequence[str]


# ---- what is known


@dataclass(slots=True, kw_only=True)
class _Queue:
    """One node's tasks at all peers together."""

    name: str
    length: int = 0
    listeners: int = 0
    pressure: float = 0.0


def view_of(members: Sequence["Member"], stats: Mapping["PeerId", Stats]) -> Json:
    """All peers, and their sums. A peer that has not answered has no numbers."""
    queues: dict[str, _Queue] = {}
    sums: dict[str, dict[str, int]] = {"tasks": {}, "counters": {}}
    for said in stats.values():
        for queue in said.queues:
            known = queues.setdefault(queue.id, _Queue(name=queue.name))
            known.length += queue.queue_length
            known.listeners += queue.listeners
            known.pressure += queue.pressure
        for what, numbers in (("tasks", said.tasks), ("counters", said.counters)):
            for name, number in numbers.items():
                sums[what][name] = sums[what].get(name, 0) + number
    return {
        "peers": [_peer_view(member, stats.get(member.id)) for member in sorted(members, key=lambda one: one.name)],
        "queues": [{"id": id_, **asdict(queue)} for id_, queue in sorted(queues.items(), key=lambda one: one[1].name)],
        **sums,
        "record_bytes": sum(said.record_bytes for said in stats.values()),
        "cache_entries": sum(said.cache_entries for said in stats.values()),
        "cache_bytes": sum(said.cache_bytes for said in stats.values()),
    }


def _peer_view(member: "Member", said: Stats | None) -> Json:
    view: Json = {"id": member.id, "name": member.name, "address": member.address}
    view["status"] = member.status if said is not None else "no answer"
    if said is None:
        return view
    return view | {
        "executors": [
            {"id": executor.id, "place": executor.place, "loaded": list(executor.loaded)} for executor in said.executors
        ],
        "executors_idle": sum(not executor.place for executor in said.executors),
        "queued": sum(queue.queue_length for queue in said.queues),
        "tasks": dict(said.tasks),
        "counters": dict(said.counters),
        "record_bytes": said.record_bytes,
        "cache_entries": said.cache_entries,
        "cache_bytes": said.cache_bytes,
        "unusable": dict(said.unusable),
    }


def task_view(task: "TaskId", reports: Mapping["PeerId", TaskReport], view: Json) -> Json:
    """What is known of a task. Its owner tells where it is; of others that have a copy it is known that they have."""
    known = {peer: report for peer, report in reports.items() if report.status is not TaskStatus.UNKNOWN}
    owner = next((peer for peer, report in known.items() if report.story), None)
    silent = [peer["id"] for peer in view["peers"] if peer["id"] not in reports]
    if not known:
        unsure = f"; no answer of {_count(len(silent), 'peer')}" if silent else ""
        why = f"nobody knows it{unsure}"
        return {"id": task, "status": str(TaskStatus.UNKNOWN), "why": why}
    report = known[owner] if owner is not None else max(known.values(), key=lambda one: one.status.complete)
    error = report.error
    return {
        "id": task,
        "status": str(report.status),
        "ns": report.ns,
        "owner": owner,
        "copies": sorted(peer for peer in known if peer != owner),
        "place": report.place,
        "why": _why(report, owner, view),
        "retries": report.retries,
        "duration_ms": report.duration_ms,
        "error": None
        if error is None
        else {
            "code": str(error.code),
            "message": error.message,
            "traceback": error.traceback.splitlines(),
            "node": error.context.node,
        },
        "story": list(report.story),
    }


def _why(report: TaskReport, owner: "PeerId | None", view: Json) -> str:
    """Why a task is where it is."""
    if report.status.complete:
        return ""
    if owner is None:
        return "its owner has not answered; a copy is there, and will be taken over if the owner is gone"
    if report.status is TaskStatus.INIT:
        return "it is being accepted: copies are made at other peers"
    if report.status is TaskStatus.DEFERRED:
        return "another task computes the same, and this one gets what comes of it"
    if report.status is TaskStatus.BUSY:
        return "an executor works at it"
    return _why_waiting(report.place, view)


def _why_waiting(place: str, view: Json) -> str:
    ns = place.partition(":")[0]
    able = [peer for peer in view["peers"] if ns not in peer.get("unusable", ())]
    executors = [executor for peer in able for executor in peer.get("executors", ())]
    if not executors:
        able_to = "" if len(able) == len(view["peers"]) else f", of those that can run namespace {ns}"
        return f"no peer has an executor that is ready{able_to}"
    queue = next((queue for queue in view["queues"] if queue["name"] == place), None)
    busy = sum(bool(executor["place"]) for executor in executors)
    waiting = "" if queue is None else f"{_count(queue['length'], 'task')} there; "
    loaded = "" if queue is None else f", {queue['listeners']} with its node loaded"
    return f"it waits for an executor: {waiting}{busy} of {_count(len(executors), 'executor')} at work{loaded}"


# ---- for people


def lines_of(view: Json) -> Iterator[str]:
    """The cluster as tables of text."""
    yield from _table(("PEER", "NAME", "ADDRESS", "STATUS", "IDLE", "QUEUED", "TASKS"), map(_peer_row, view["peers"]))
    yield ""
    queues = [
        (queue["name"], str(queue["length"]), str(queue["listeners"]), f"{queue['pressure']:.4g}")
        for queue in view["queues"]
    ]
    yield from _table(("QUEUE", "WAITING", "LISTENERS", "PRESSURE"), queues)
    yield ""
    yield f"tasks     {_numbers(view['tasks']) or 'none'}"
    yield f"cache     {_cache(view)}"
    yield f"records   {_size(view['record_bytes'])}"
    yield f"store     {_size(view['counters'].get('store_bytes', 0))}"
    yield from _counter_lines(view["counters"])
    caching = [peer for peer in view["peers"] if any(_cache_counters(peer.get("counters", {})).values())]
    if caching:
        yield ""
        rows = [(_plain(peer["name"]), *map(str, _cache_row(peer))) for peer in caching]
        yield from _table(("CACHE AT", "ENTRIES", "BYTES", *map(str.upper, _CACHE)), rows)
    unusable = [(peer["name"], *pair) for peer in view["peers"] for pair in peer.get("unusable", {}).items()]
    if unusable:
        yield ""
        yield from _table(("UNABLE", "NAMESPACE", "WHY"), [tuple(map(_plain, row)) for row in unusable])


def lines_of_task(view: Json) -> Iterator[str]:
    """The task as lines of text."""
    for key in ("id", "status", "why", "ns", "owner", "place"):
        if view.get(key):
            yield f"{key:9} {_plain(view[key])}"
    if view.get("copies"):
        yield f"{'copies':9} {', '.join(view['copies'])}"
    if "retries" in view:
        yield f"{'retries':9} {view['retries']}"
        yield f"{'time':9} {view['duration_ms'] / 1000:.3f} s"
    error = view.get("error")
    if error is not None:
        where = f" at {error['node']}" if error["node"] else ""
        yield f"{'error':9} {error['code']}{where}: {_plain(error['message'])}"
        yield from (f"{'':9} {_plain(line)}" for line in error["traceback"])
    for number, line in enumerate(view.get("story", ())):
        yield f"{'' if number else 'story':9} {_plain(line)}"


def _cache(view: Json) -> str:
    counted = _numbers(_cache_counters(view["counters"]))
    entries = f"{_count(view['cache_entries'], 'entry', 'entries')}, {_size(view['cache_bytes'])}"
    return f"{entries}; {counted}" if counted else entries


def _cache_row(peer: Json) -> Iterator[int]:
    yield from (peer["cache_entries"], peer["cache_bytes"])
    yield from _cache_counters(peer["counters"]).values()


def _cache_counters(counters: Mapping[str, int]) -> dict[str, int]:
    return {what: counters.get(f"cache_{what}", 0) for what in _CACHE}


def _counter_lines(counters: Mapping[str, int]) -> Iterator[str]:
    """The largest ones; and what was counted of the network by itself, so that nothing small of it is left out."""
    groups: dict[str, dict[str, int]] = {name: {} for name in ("counters", *_GROUPS)}
    for name, number in counters.items():
        group, _, rest = name.partition("_")
        if group in _GROUPS:
            groups[group][rest] = number
        elif group not in _APART:
            groups["counters"][name] = number
    largest = sorted(groups["counters"].items(), key=lambda one: -one[1])[:_COUNTERS_MAX]
    yield f"counters  {_numbers(dict(sorted(largest))) or 'none'}"
    for group in _GROUPS:
        if any(groups[group].values()):
            yield f"{group:9} {_numbers(dict(sorted(groups[group].items())))}"


def _peer_row(peer: Json) -> Row:
    row = [peer["id"][:9], _plain(peer["name"]), _plain(peer["address"]), peer["status"]]
    if "executors" not in peer:
        return [*row, "", "", ""]
    idle = f"{peer['executors_idle']} of {len(peer['executors'])}"
    return [*row, idle, str(peer["queued"]), str(sum(peer["tasks"].values()))]


def _table(head: Row, rows: Iterable[Row]) -> Iterator[str]:
    """Columns as wide as they need to be."""
    all_rows = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*all_rows, strict=True)]
    for row in all_rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))


def _plain(text: str) -> str:
    """What others say may hold anything, also what terminals obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def _numbers(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items() if number)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} GiB"
