"""The commands that README.md shows for several machines, as they are written there, on hosts with these names."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.bare import namespaces
from tests.processes.cluster import ROOT, TIMEOUT_S, RealPeer, chain
from tests.processes.hosts import wait_until
from tests.processes.lan import Lan

ITEMS = 200
ELSEWHERE = 2
"""The host where commands are given."""


def commands() -> list[str]:
    """All that README.md shows below "On several machines"."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## On several machines\n")[2].partition("\n## ")[0]
    return "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()


FIRST, SECOND, SUBMIT, STATUS, RELEASE = commands()


class Machines:
    """Peers on hosts of a network, each in the folder; what is written is run there, but by this Python."""

    def __init__(self, network: Lan, folder: Path) -> None:
        self._network = network
        self._folder = folder
        self.peers: list[RealPeer] = []

    def peer(self, written: str, number: int) -> RealPeer:
        program, command, *args = shlex.split(written)
        assert (program, command) == ("scatterzmq", "peer")
        made = RealPeer(args, at=self._network.at(number), folder=self._folder)
        self.peers.append(made)
        return made

    def until_loaded(self, ns: str, *numbers: int) -> None:
        """Wait until the peers of these hosts can run a graph: who has just joined gets and checks it first."""
        for number in numbers:
            address = f"tcp://{self._network.addresses[number]}:7411"
            what = f"{address} has {ns}"
            wait_until(lambda at=address, on=number: ns in self._inside(on, at), TIMEOUT_S, what)  # type: ignore[misc]

    def _inside(self, number: int, address: str) -> set[str]:
        return self._network.inside(number, lambda: namespaces(address))

    def command(self, written: str) -> str:
        """What it writes; > and all."""
        words = [*self._network.at(ELSEWHERE), "sh", "-c", written.replace("scatterzmq", '"$0" -m scatterzmq', 1)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        ran = subprocess.run(
            [*words, sys.executable],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=env,
            cwd=self._folder,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), ran
        return ran.stdout

    def results(self) -> list[int]:
        return [json.loads(line)["value"] for line in (self._folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def machines(network: Lan, tmp_path: Path) -> Iterator[Machines]:
    args = {"op": "add", "const": 1, "input": ["long", []]}
    (tmp_path / "pipeline.json").write_text(json.dumps(chain("constant_op", args, ns="example")))
    (tmp_path / "items.jsonl").write_text("".join(f'{{"value": {number}}}\n' for number in range(ITEMS)))
    machines = Machines(network, tmp_path)
    try:
        yield machines
    finally:
        for peer in machines.peers:
            peer.close()


def test_two_machines_in_two_commands_as_written_and_without_being_told_where(machines: Machines) -> None:
    """`--join` can be left out in one network, README.md says: so the second one comes again in that way."""
    first = machines.peer(FIRST, 0)
    second = machines.peer(SECOND, 1)
    for peer in (first, second):
        peer.wait_for_event("peer.join")
    machines.until_loaded("example", 0, 1)
    machines.command(SUBMIT)
    assert machines.results() == [number + 1 for number in range(ITEMS)]
    assert re.findall(r"host-\w", machines.command(STATUS)) == ["host-a", "host-b"]
    assert machines.command(RELEASE) == f"host-b ({second.id}) has left\n"
    assert second.wait() == 0

    machines.peer(without_join(SECOND), 1).wait_for_event("peer.join")
    machines.until_loaded("example", 0, 1)
    machines.command(without_join(SUBMIT))
    assert machines.results() == [number + 1 for number in range(ITEMS)]
    view = json.loads(machines.command(without_join(STATUS) + " --json"))
    assert [(peer["name"], peer["status"]) for peer in view["peers"]] == [("host-a", "alive"), ("host-b", "alive")]
    assert [queue["name"] for queue in view["queues"]] == ["example:main:n0"]
    assert view["counters"]["finished"] == 2 * ITEMS
    assert machines.command(without_join(RELEASE).replace("host-b", "host-a")) == f"host-a ({first.id}) has left\n"
    assert first.wait() == 0
    machines.command(without_join(SUBMIT))
    assert machines.results() == [number + 1 for number in range(ITEMS)]


def without_join(written: str) -> str:
    left = written.replace(" --join tcp://host-a:7411", "")
    assert left != written
    return left
