"""Peers on hosts of their own, and jobs that they do for clients on these hosts."""

import time
from collections.abc import Callable
from importlib import import_module

import scatterzmq
from scatterzmq.core.messages import TaskStatus
from tests.processes.bare import stats, view
from tests.processes.cluster import NAP, TIMEOUT_S, RealPeer, chain
from tests.processes.lan import Lan

TASKS = 400
BEGUN = 20
"""So many ends, and a job is under way. Of two jobs one may have all executors but one."""
NAP_MS = 20.0
LONG_NAP_MS = 50.0
"""For what is to be under way when something happens: four executors need five seconds for it."""
ONE_VIEW_S = 10.0
FOUND_S = TIMEOUT_S
"""Executors start at the same time, and all hosts are one machine."""
NOTICED_S = 30.0


class Hosts:
    """A peer on each host."""

    def __init__(self, network: Lan) -> None:
        self.lan = network
        self.peers: dict[int, RealPeer] = {}

    def start(self, number: int, *args: str) -> RealPeer:
        bind = ["--bind", self.lan.addresses[number], "--insecure-lan", "--allow", NAP]
        return RealPeer([*bind, *args], at=self.lan.at(number))

    def connect(self, number: int, home: int) -> "scatterzmq.Client":
        """A client on a host, of the peer at home."""
        return self.lan.inside(number, lambda: scatterzmq.connect(self.peers[home].address, timeout_s=TIMEOUT_S))

    def view(self, number: int) -> dict[str, str]:
        """Who a peer holds to be there, asked on its own host: name -> status."""
        return self.lan.inside(number, lambda: view(self.peers[number].address))

    def under_way(self, number: int) -> int:
        """How many tasks a peer owns that have not ended, as it says on its own host."""
        said = self.lan.inside(number, lambda: stats(self.peers[number].address))
        return sum(tasks for status, tasks in said.tasks.items() if not TaskStatus(status).complete)

    def close(self) -> None:
        for peer in self.peers.values():
            peer.terminate()
        for peer in self.peers.values():
            peer.close()


def wait_until(holds: Callable[[], bool], limit_s: float, what: str) -> None:
    until_s = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > until_s:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.05)  # between two looks at something that nobody tells of


def are_alone(hosts: Hosts, *numbers: int) -> bool:
    """Whether each of these peers holds just these to be there, and all of them to be alive."""
    wanted = {hosts.lan.names[number]: "alive" for number in numbers}
    return all(hosts.view(number) == wanted for number in numbers)


class Job:
    """Tasks of one client, all accepted. Each has to end once, with the right result."""

    def __init__(self, client: "scatterzmq.Client", *, first: int = 0, tasks: int = TASKS, nap_ms: float = NAP_MS):
        import_module("torch")  # else the first result that is read takes as long as the whole job
        self._client = client
        ns = client.load_graph(chain(NAP, {"nap_ms": nap_ms}, ns=f"nap{nap_ms:.0f}"))
        self._tasks = {client.enqueue_task(ns, {"value": first + at}): first + at for at in range(tasks)}
        self._ended: dict[str, int] = {}
        client.flush(timeout=TIMEOUT_S)

    @property
    def unread(self) -> list[str]:
        return [task for task in self._tasks if task not in self._ended]

    def read(self, count: int) -> None:
        """The ends of so many more."""
        for task, response in self._client.wait_for(self.unread, timeout=TIMEOUT_S):
            response.ok()
            assert response.result is not None, response.status
            assert task not in self._ended
            self._ended[task] = int(response.result["value"])
            count -= 1
            if not count:
                return

    def finish(self) -> None:
        if self.unread:
            self.read(len(self.unread))
        assert self._ended == {task: number + 1 for task, number in self._tasks.items()}
