"""A blob written through one peer is there for nodes at all of them, also when that peer is dead."""

import torch

from tests.processes.cluster import real_cluster
from tests.processes.conftest import Connect
from tests.processes.test_kills import home_of

SIZE = 1 << 20


def test_a_blob_outlives_the_peer_that_it_was_written_through(connect: Connect) -> None:
    ret = {"value": ["float", [SIZE]]}
    with real_cluster(3, "--executors", "1") as cluster:
        client = connect(cluster.addresses)
        home = home_of(client, cluster)
        tensor = torch.arange(SIZE, dtype=torch.float32)
        with client.open_blob("model/weights") as blob:
            place = blob.write_tensor(tensor)
        node = {"name": "n", "kind": "load_constant", "args": {"data": place, "ret": ret["value"]}, "vmap": {}}
        graph = {
            "name": "main",
            "input": "n",
            "input_format": {"value": ["long", []]},
            "output_format": ret,
            "vmap": {"value": "n:value"},
            "nodes": [{**node, "outs": {"out": None}}],
        }
        home.kill()
        for peer in [peer for peer in cluster.peers if peer.running]:
            other = connect(peer.address)
            ns = other.load_graph({"ns": "main", "entry": "main", "graphs": [graph]})
            assert torch.equal(other.submit(ns, value=1).result(60.0)["value"], tensor)
