"""A peer that is recorded and killed: what it did up to its last moment can be looked at again."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from scatterzmq.recording import RecordingFile
from tests.processes.cluster import TIMEOUT_S, chain, real_cluster
from tests.processes.conftest import Connect

TASKS = 200
LAST_MS = 5000
"""What may be missing is a second, on a machine that has nothing else to do."""


def test_a_killed_peer_is_replayed_up_to_its_end(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "killed.rec"
    with real_cluster(1) as cluster:
        killed = cluster.add("--record", str(file))
        client = connect(killed.address)  # so that it owns the tasks
        ns = client.load_graph(chain("benchmarks.demo_nap", {"nap_ms": 1.0}))
        tasks = [client.enqueue_task(ns, {"value": number}) for number in range(TASKS)]
        for _, response in client.wait_for(tasks, timeout=TIMEOUT_S):
            response.ok()
        killed_ms = time.monotonic() * 1000
        killed.kill()
    done = subprocess.run(
        [sys.executable, "-m", "scatterzmq.sim", "replay", str(file)], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(", as they were\n")
    with closing(RecordingFile(str(file))) as recording:
        *_, last = recording
    assert killed_ms - last.now_ms < LAST_MS  # peers of one machine have one clock, and say something every second
    assert last.number > TASKS / 32
