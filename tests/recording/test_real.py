"""Real peers that are recorded, with sockets, executors and a client, in threads of this process; and their replay."""

from contextlib import ExitStack, closing
from pathlib import Path
from struct import pack

import pytest

import scatterzmq
from scatterzmq.recording import RecordingFile, name_of
from scatterzmq.sim.__main__ import main
from tests.test_remote import Peer, definition

TASKS = 50
ODD = 1.2345e-21
"""Its four bytes are nowhere by chance."""


def kinds_in(file: Path) -> set[str]:
    """Of events and actions."""
    kinds = set()
    with closing(RecordingFile(str(file))) as recording:
        for recorded in recording:
            kinds |= {type(recorded.event).__name__, *map(name_of, recorded.marks or ())}
    return kinds


def test_two_peers_and_a_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each comes to the same actions again, and no tensor is in what was written."""
    files = [tmp_path / name for name in ("a.rec", "b.rec")]
    with ExitStack() as started:
        one = Peer(name="a", events={"record": str(files[0])})
        started.callback(one.stop)
        other = Peer(one.address, name="b", events={"record": str(files[1])})
        started.callback(other.stop)
        client = started.enter_context(scatterzmq.connect(one.address, timeout_s=30.0))
        ns = client.load_graph(definition())
        values = [ODD, *map(float, range(TASKS))]
        results = client.map(ns, ({"value": [value]} for value in values))
        assert [float(result["value"][0]) for result in results] == [value + 1 for value in values]
        client.load_graph(definition(2.0), replace=True)
        assert float(client.submit(ns, value=[1.0]).result(30.0)["value"][0]) == 3.0
    for file in files:
        assert main(["replay", str(file)]) == 0, capsys.readouterr().out
        assert pack("<f", ODD) not in file.read_bytes()
    assert {"MessageReceived", "PeerReceived", "BatchFinished", "RunBatch"} <= kinds_in(files[0]) | kinds_in(files[1])
