"""Three peers, a job, and `kill -9` of the peer that has the tasks in the middle of it: a timeline of what happens.

    python benchmarks/kill_demo.py [--quick]

Every peer is a process of its own, as is its executor. The job is many tasks that sleep for a moment and add one; each
result is checked. What is shown are seconds since the job began; who noticed is what peers say in their events.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scatterzmq
from scatterzmq.core.messages import AskStats, Stats
from scatterzmq.eventstream import Event
from scatterzmq.ids import PeerId
from scatterzmq.processes import LocalPeers, StartedPeer
from scatterzmq.questions import Questions
from scatterzmq.settings import Settings

ROOT = str(Path(__file__).resolve().parent.parent)
KIND = "benchmarks.demo_nap"
PEERS = 3
WARM_UP = 64 * PEERS
TIMEOUT_S = 120.0
"""For a task to end; only matters when something is wrong."""
NOTICED = {
    "peer.suspect": "suspects it",
    "peer.dead": "holds it to be dead",
    "peer.leave": "says that it left",
    "tally.task.takeover": "takes over its tasks",
}
Entry = tuple[float, str]
"""Time by the monotonic clock, what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """timeline: seconds since the job began, what happened. noticed_s, rerun_s: after the kill; None: never.

    lost, wrong: tasks without a result, and with another one than they should have.
    """

    timeline: list[Entry]
    tasks: int
    lost: int
    wrong: int
    took_s: float
    noticed_s: float | None
    rerun_s: float | None


class Log:
    """What happens, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entries: list[Entry] = []
        self.noticed: list[float] = []

    def add(self, what: str, at_s: float | None = None) -> float:
        at_s = time.monotonic() if at_s is None else at_s
        with self._lock:
            self.entries.append((at_s, what))
        return at_s

    def told(self, event: Event) -> None:
        if event.name in NOTICED:
            about = dict(event.context)
            more = f" ({about['reason']})" if "reason" in about else f" ({about['tasks']})" if "tasks" in about else ""
            at_s = event.clock_ms / 1000
            self.noticed.append(at_s)
            self.add(f"{event.source} {NOTICED[event.name]}{more}", at_s)


def demonstrate(tasks: int, nap_ms: float) -> Outcome:
    """Start, run, kill, check."""
    log = Log()
    settings = Settings.of({"executor": {"batch_size": 8}, "plugins": {"allow": [KIND]}})
    peers = LocalPeers(settings, PEERS, log.told)
    with tempfile.TemporaryDirectory() as folder:
        diary = Path(folder) / "diary"
        try:
            peers.start()
            with scatterzmq.connect(peers.addresses) as client:
                ns = client.load_graph(definition(nap_ms, diary))
                list(client.map(ns, ({"value": -number} for number in range(1, WARM_UP + 1))))
                return job(client, ns, peers, tasks, log, diary)
        finally:
            peers.close()


def job(client: "scatterzmq.Client", ns: str, peers: LocalPeers, tasks: int, log: Log, diary: Path) -> Outcome:
    began_s = log.add(f"the job begins: {tasks} tasks on {PEERS} peers")
    numbers = {client.enqueue_task(ns, {"value": number}): number for number in range(tasks)}
    killed_s = 0.0
    done = wrong = 0
    for task, response in client.wait_for(list(numbers), timeout=TIMEOUT_S):
        if response.result is None:
            continue
        done += 1
        wrong += int(response.result["value"]) != numbers[task] + 1
        if done % max(1, tasks // 10) == 0:
            log.add(f"{done} tasks done")
        if done == tasks // 3:
            victim = owner(peers)
            killed_s = log.add(f"kill -9 of {victim.name}, which has the tasks (pid {victim.pid})")
            victim.kill()
    ended_s = log.add(f"all done: {tasks - done} tasks lost, {wrong} wrong results")
    again_s = rerun_s(diary.read_text().splitlines(), killed_s)
    if again_s is not None:
        log.add("the first task that had been begun before is begun again", again_s)
    noticed = [at_s for at_s in log.noticed if at_s >= killed_s - 0.001]
    return Outcome(
        timeline=[(at_s - began_s, what) for at_s, what in sorted(log.entries) if at_s >= began_s],
        tasks=tasks,
        lost=tasks - done,
        wrong=wrong,
        took_s=ended_s - began_s,
        noticed_s=min(noticed) - killed_s if noticed else None,
        rerun_s=None if again_s is None else again_s - killed_s,
    )


def owner(peers: LocalPeers) -> StartedPeer:
    """The peer that has most of the tasks."""
    with Questions(peers.addresses, "default") as questions:
        members = questions.find(TIMEOUT_S)
        answers = questions.ask([member.id for member in members], AskStats, TIMEOUT_S)
    held = {peer: sum(said.tasks.values()) for peer, said in answers.items() if isinstance(said, Stats)}
    return max(peers.peers, key=lambda peer: held.get(PeerId(peer.id), 0))


def rerun_s(diary: Iterable[str], killed_s: float) -> float | None:
    """When the first task was begun that had been begun before the kill. None if there was none."""
    begun: set[str] = set()
    for at_s, number in sorted((float(line.split()[0]), line.split()[1]) for line in diary):
        if at_s > killed_s and number in begun:
            return at_s
        begun.add(number)
    return None


def definition(nap_ms: float, diary: Path) -> dict[str, Any]:
    value = {"value": ["long", []]}
    node = {
        "name": "nap",
        "kind": KIND,
        "args": {"nap_ms": nap_ms, "diary": str(diary)},
        "vmap": {"value": ":value"},
        "outs": {"out": None},
    }
    graph = {"name": "main", "input": "nap", "input_format": value, "output_format": value, "nodes": [node]}
    return {"ns": "demo", "entry": "main", "graphs": [graph | {"vmap": {"value": "nap:value"}}]}


def report(outcome: Outcome) -> str:
    lines = [f"{at_s:8.3f} s  {what}" for at_s, what in outcome.timeline]
    noticed, again = (
        "never" if at_s is None else f"after {at_s:.3f} s" for at_s in (outcome.noticed_s, outcome.rerun_s)
    )
    lines.append(f"noticed {noticed}, first task run again {again}; nothing is lost: {not outcome.lost}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller job")
    options = parser.parse_args()
    if ROOT not in sys.path:
        sys.path.append(ROOT)  # where the peers find the node
    outcome = demonstrate(300, 4.0) if options.quick else demonstrate(3000, 8.0)
    print(report(outcome))
    return 1 if outcome.lost or outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
