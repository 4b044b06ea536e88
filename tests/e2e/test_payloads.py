"""Large intermediate results stay with the peer that made them: real drivers, stores and executors, in one process."""

from collections import Counter
from typing import Any

import pytest

from scatterzmq.core.peer import PeerCore


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[PeerCore]:
    """All that are made from now on."""
    made: list[PeerCore] = []
    begin = PeerCore.__init__

    def noted(self: PeerCore, *args: Any, **how: Any) -> None:
        made.append(self)
        begin(self, *args, **how)

    monkeypatch.setattr(PeerCore, "__init__", noted)
    return made


@pytest.mark.parametrize("peers", [1, 3])
def test_results_are_right_wherever_their_inputs_lie(
    start: Any, build: Any, finish: Any, until: Any, cores: list[PeerCore], peers: int
) -> None:
    client = start(peers=peers, inline_bytes=0, batch_size=4)
    ns = client.load_graph(build.graphs(build.line([3], ("mul", 2), ("add", 1), ("mul", 3), ("add", 5))))
    tasks = [client.enqueue_task(ns, {"value": [number, 0, -number]}) for number in range(400)]
    responses = finish(client, tasks)
    for number, response in enumerate(responses.values()):
        response.ok()
        expected = [(2 * value + 1) * 3 + 5 for value in (number, 0, -number)]
        assert response.result["value"].tolist() == expected
        assert response.retries == 0
    counted: Counter[str] = Counter()
    for core in cores:
        counted.update(core.counters())
    assert (counted["payloads_kept"] > 0) == (peers > 1)
    assert (counted["rows_granted_by_name"] > 0) == (peers > 1)
    assert counted["payloads_wrong"] == counted["payloads_lost"] == 0
    until(lambda: not any(core.payloads.blocks_held() for core in cores))
