"""Hosts whose cable is pulled."""

import pytest

from tests.processes.conftest import HOSTS
from tests.processes.hosts import BEGUN, LONG_NAP_MS, NOTICED_S, ONE_VIEW_S, Hosts, Job, are_alone, wait_until


@pytest.mark.parametrize("home", [0, 1], ids=["another", "the owner"])
def test_a_host_whose_cable_is_pulled_loses_nothing_and_comes_back(hosts: Hosts, home: int) -> None:
    """All tasks end while it is away, those too of which it is the owner, and to which the client talks."""
    with hosts.connect(0, home) as client:
        job = Job(client, nap_ms=LONG_NAP_MS)
        job.read(BEGUN)
        hosts.lan.cut(1)
        assert hosts.under_way(home), "nothing was under way"
        job.finish()
        wait_until(lambda: are_alone(hosts, 0, 2, 3) and are_alone(hosts, 1), NOTICED_S, "all know that it is gone")
        hosts.lan.mend()
        wait_until(lambda: are_alone(hosts, *range(HOSTS)), ONE_VIEW_S, "it is back")
        Job(client).finish()
