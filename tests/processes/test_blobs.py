"""A blob written through one peer is there for nodes at all of them, also when peers die one after another."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from tests.processes.cluster import TIMEOUT_S, RealPeer, real_cluster
from tests.processes.conftest import Connect

SIZE = 1 << 20


def constant(place: str) -> dict[str, Any]:
    ret = {"value": ["float", [SIZE]]}
    node = {"name": "n", "kind": "load_constant", "args": {"data": place, "ret": ret["value"]}, "vmap": {}}
    graph = {
        "name": "main",
        "input": "n",
        "input_format": {"value": ["long", []]},
        "output_format": ret,
        "vmap": {"value": "n:value"},
        "nodes": [{**node, "outs": {"out": None}}],
    }
    return {"ns": "main", "entry": "main", "graphs": [graph]}


def test_a_blob_outlives_the_peer_that_it_was_written_through(connect: Connect) -> None:
    with real_cluster(3, "--executors", "1") as cluster:
        home = cluster.peers[0]
        client = connect(home.address)
        tensor = torch.arange(SIZE, dtype=torch.float32)
        with client.open_blob("model/weights") as blob:
            place = blob.write_tensor(tensor)
        home.kill()
        for peer in [peer for peer in cluster.peers if peer.running]:
            other = connect(peer.address)
            ns = other.load_graph(constant(place))
            assert torch.equal(other.submit(ns, value=1).result(60.0)["value"], tensor)


def test_copies_are_made_again_and_who_comes_last_runs_the_graph(connect: Connect, tmp_path: Path) -> None:
    """Written at one, kept by a second; the first dies, a third gets the copy; the second dies, too."""
    tensor = torch.arange(SIZE, dtype=torch.float32)
    with real_cluster(0, "--executors", "1") as cluster:
        folders: dict[RealPeer, Path] = {}

        def start() -> RealPeer:
            """One with a folder that can be looked into."""
            folder = tmp_path / f"{len(folders)}"
            settings = tmp_path / f"{len(folders)}.json"
            settings.write_text(json.dumps({"blobs": {"dir": str(folder)}}))
            peer = cluster.add("--config", str(settings))
            folders[peer] = folder
            return peer

        def has(peer: RealPeer) -> bool:
            return (folders[peer] / "model" / "weights").exists()

        first, second = start(), start()
        cluster.until_joined()
        client = connect(first.address)
        with client.open_blob("model/weights") as blob:
            place = blob.write_tensor(tensor)
        ns = client.load_graph(constant(place))
        assert has(first)
        assert has(second)
        third = start()
        assert not has(third)  # two copies are enough
        first.kill()
        second.wait_for_event("peer.dead")
        other = connect(third.address)
        until_s = time.monotonic() + TIMEOUT_S
        while not has(third):
            assert time.monotonic() < until_s, "no copy was made again"
            other.namespaces()
        second.kill()
        while ns not in other.namespaces():
            assert time.monotonic() < until_s, "its executors have not begun"
        assert torch.equal(other.submit(ns, value=1).result(60.0)["value"], tensor)
        assert other.graph_to_json(ns)["blobs"].keys() == {"model/weights"}
