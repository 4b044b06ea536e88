"""Blobs that clients write over the network, and nodes that load them at other peers: real peers and sockets."""

import hashlib
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import scatterzmq
from scatterzmq.blobs import names, sender
from scatterzmq.core import blobkeepers
from scatterzmq.core.messages import Release
from scatterzmq.errors import BlobError, ClusterError, ErrorCode, GraphError
from scatterzmq.questions import Questions
from tests.test_remote import LONG_S, Peer, until

ANY = {"value": ["float", [1]]}


def constant(data: str, size: int) -> dict[str, Any]:
    """A graph whose result is what lies there."""
    ret = ["float", [size]]
    node = {"name": "n", "kind": "load_constant", "args": {"data": data, "ret": ret}, "vmap": {}, "outs": {"out": None}}
    graph = {
        "name": "main",
        "input": "n",
        "input_format": ANY,
        "output_format": {"value": ret},
        "vmap": {"value": "n:value"},
        "nodes": [node],
    }
    return {"ns": "main", "entry": "main", "graphs": [graph]}


class BlobPeer(Peer):
    """With a folder of its own. blob: what is there, once it is all there."""

    def __init__(self, folder: Path, *join: str, **sections: Any) -> None:
        self.folder = folder
        super().__init__(*join, blobs={"dir": str(folder)} | sections.pop("blobs", {}), **sections)

    def blob(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.exists() else None


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Callable[..., BlobPeer]]:
    """Starts a peer; the second one and those after it know the first."""
    with ExitStack() as started:
        made: list[BlobPeer] = []

        def start(**sections: Any) -> BlobPeer:
            join = [made[0].address] if made else []
            peer = BlobPeer(tmp_path / f"{len(made)}", *join, **sections)
            started.callback(peer.stop)
            made.append(peer)
            until(lambda: len(made) == 1 or len(peer.peer.links.peers()) == len(made) - 1)
            until(lambda: all(len(one.peer.links.peers()) == len(made) - 1 for one in made))
            return peer

        yield start
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scatterzmq-blobs")]


def test_a_blob_written_through_one_peer_is_loaded_at_another(peers: Callable[..., BlobPeer]) -> None:
    first, second = peers(cluster={"replicas": 1}), peers(cluster={"replicas": 1})
    tensor = torch.arange(1 << 20, dtype=torch.float32)
    with scatterzmq.connect(first.address) as client, client.open_blob("model/weights") as blob:
        assert blob.write(b"head") == "0:4:model/weights"
        place = blob.write_tensor(tensor)
        assert place == f"64:{64 + 4 * (1 << 20)}:model/weights"
        assert first.blob("model/weights") is None
    assert first.blob("model/weights") is not None
    assert second.blob("model/weights") is None
    with scatterzmq.connect(second.address) as client:
        ns = client.load_graph(constant(place, 1 << 20))
        first_home = client.submit(ns, value=[1]).result(LONG_S)
        assert torch.equal(first_home["value"], tensor)
        until(lambda: client.submit(ns, value=[1]).result(LONG_S) and second.blob("model/weights"))
        assert first.blob("model/weights") == second.blob("model/weights")


def test_a_new_blob_is_at_as_many_peers_as_there_should_be(peers: Callable[..., BlobPeer]) -> None:
    three = [peers(cluster={"replicas": 2}) for _ in range(3)]
    with scatterzmq.connect(three[0].address) as client:
        with client.open_blob("a") as blob:
            place = blob.write_tensor(torch.ones(5))
        assert sum(peer.blob("a") is not None for peer in three) == 2
        # One dead peer loses nothing.
        three[0].stop()
        ns = client.load_graph(constant(place, 5))
        assert client.submit(ns, value=[1]).result(LONG_S)["value"].tolist() == [1.0] * 5


def test_what_nobody_has_ends_the_task(peers: Callable[..., BlobPeer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "GRACE_S", 0.2)
    peer, other = peers(), peers()
    with scatterzmq.connect(peer.address) as client:
        ns = client.load_graph(constant("0:4:nowhere", 1))
        task = client.enqueue_task(ns, {"value": [1]})
        ((_, response),) = client.wait_for([task], timeout=LONG_S)
        assert response.error is not None
        assert response.error.code is ErrorCode.MISSING_BLOB
        assert "blob 'nowhere' is not here, nor at any of 1 other peers" in response.error.message
        # It is not remembered.
        other.folder.mkdir(exist_ok=True)
        (other.folder / "nowhere").write_bytes(b"\0\0\x80\x3f")
        assert client.submit(ns, value=[1]).result(LONG_S)["value"].tolist() == [1.0]


def test_names_that_may_not_be_written(peers: Callable[..., BlobPeer]) -> None:
    first, second = peers(cluster={"replicas": 1}), peers()
    with scatterzmq.connect(first.address) as client:
        with client.open_blob("a") as blob:
            blob.write(b"one")
        with pytest.raises(BlobError, match="blob 'a' is there already and blobs are written once"):
            client.open_blob("a")
        with pytest.raises(BlobError, match="is not a plain relative name"):
            client.open_blob("../a")
        with pytest.raises(BlobError, match="is sealed"):
            blob.write(b"more")
    with scatterzmq.connect(second.address) as client:
        with pytest.raises(BlobError, match="blob 'a' is there already"):
            client.open_blob("a")
        with client.open_blob("b"), pytest.raises(BlobError, match="blob 'b' is being written by somebody"):
            client.open_blob("b")
    assert second.blob("b") == b""


def test_what_an_error_has_left_is_nowhere(peers: Callable[..., BlobPeer]) -> None:
    peer = peers()
    with scatterzmq.connect(peer.address) as client:
        with suppress(ZeroDivisionError), client.open_blob("a") as blob:
            blob.write(bytes(3 << 20))
            _ = 1 / 0

        def again() -> bool:
            try:
                with client.open_blob("a") as blob:
                    blob.write(b"again")
            except BlobError:
                return False  # it may not have heard yet
            return True

        until(again)
        assert peer.blob("a") == b"again"
        assert not list((peer.folder / ".scratch" / "arriving").iterdir())


def test_the_peer_goes_while_a_blob_is_written(peers: Callable[..., BlobPeer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "SILENT_S", 0.5)
    peer = peers()
    with scatterzmq.connect(peer.address) as client:
        blob = client.open_blob("a")
        peer.stop()
        blob.write(b"data")
        with pytest.raises(ClusterError, match=r"blob 'a': the peer has not answered for 0.5 s"):
            blob.close()
        assert peer.blob("a") is None
        assert not list((peer.folder / ".scratch" / "arriving").iterdir())


def test_the_client_is_closed_while_a_blob_is_written(peers: Callable[..., BlobPeer]) -> None:
    peer = peers()
    client = scatterzmq.connect(peer.address)
    blob = client.open_blob("a")
    client.close()
    with pytest.raises(ClusterError, match="closed"):
        blob.close()


def test_the_client_is_closed_while_somebody_waits_for_a_blob(
    peers: Callable[..., BlobPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AGAIN_S", "SILENT_S"):
        monkeypatch.setattr(sender, name, 2 * LONG_S)
    peer = peers()
    client = scatterzmq.connect(peer.address)
    blob = client.open_blob("a")
    peer.stop()
    told: list[ClusterError] = []
    waits = threading.Event()

    def write() -> None:
        try:
            blob.write(b"data")
            waits.set()
            blob.close()
        except ClusterError as error:
            told.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert waits.wait(LONG_S)
    client.close()
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert "closed" in str(told[0])


def test_callbacks_may_not_wait(peers: Callable[..., BlobPeer]) -> None:
    peer = peers()
    with scatterzmq.connect(peer.address) as client:
        told: list[BaseException] = []
        done = threading.Event()

        def callback(_: object) -> None:
            try:
                client.open_blob("a")
            except ClusterError as error:
                told.append(error)
            done.set()

        with client.open_blob("b") as blob:
            place = blob.write_tensor(torch.ones(1))
        client.submit(client.load_graph(constant(place, 1)), value=[1]).add_done_callback(callback)
        assert done.wait(LONG_S)
        assert "in a thread of your own" in str(told[0])


# ---- which bytes a name means


def put(peer: BlobPeer, name: str, *values: float) -> str:
    """A file that somebody has put there by hand."""
    peer.folder.mkdir(exist_ok=True)
    (peer.folder / name).write_bytes(struct.pack(f"<{len(values)}f", *values))
    return f"0:{4 * len(values)}:{name}"


def result(client: scatterzmq.Client, ns: str) -> list[float]:
    values: list[float] = client.submit(ns, value=[1]).result(LONG_S)["value"].tolist()
    return values


def test_files_that_differ_are_refused_when_a_graph_is_loaded(peers: Callable[..., BlobPeer]) -> None:
    first, second, third = peers(), peers(), peers()
    put(first, "w", 1.0)
    place = put(second, "w", 2.0)
    with scatterzmq.connect(third.address) as client:
        with pytest.raises(GraphError, match="main:main:n: blob 'w' is not the same everywhere: 4 bytes") as refused:
            client.load_graph(constant(place, 1))
        assert first.peer.contact.id in str(refused.value)
        assert second.peer.contact.id in str(refused.value)
        (second.folder / "w").unlink()
        assert result(client, client.load_graph(constant(place, 1))) == [1.0]


def test_a_graph_means_the_bytes_that_it_was_loaded_with(peers: Callable[..., BlobPeer], tmp_path: Path) -> None:
    """Whatever lies under that name elsewhere."""
    first, second = peers(), peers()
    place = put(first, "w", 1.0)
    with scatterzmq.connect(first.address) as client:
        ns = client.load_graph(constant(place, 1))
    until(lambda: second.blob("w") is not None)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "w").write_bytes(struct.pack("<f", 2.0))
    third = peers()
    with scatterzmq.connect(third.address) as client:
        until(lambda: ns in client.namespaces())
        first.stop()  # it has that node loaded, and would run all of it
        until(lambda: result(client, ns) == [1.0] and list((third.folder / ".scratch").glob("sealed/*")))
        assert [result(client, ns) for _ in range(10)] == [[1.0]] * 10
        assert third.blob("w") == struct.pack("<f", 2.0)
        with pytest.raises(GraphError, match="blob 'w' is not the same everywhere"):
            client.load_graph(constant(place, 1) | {"ns": "other"})


def test_a_graph_that_is_loaded_before_its_blob_is_there(
    peers: Callable[..., BlobPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be loaded once more when it is there: then it means those bytes."""
    monkeypatch.setattr(names, "GRACE_S", 0.2)
    first, second = peers(), peers()
    graph = constant("0:4:late", 1)
    with scatterzmq.connect(first.address) as client:
        ns = client.load_graph(graph)
        assert "blobs" not in client.graph_to_json(ns)
        with client.open_blob("late") as blob:
            blob.write(struct.pack("<f", 3.0))
        assert result(client, ns) == [3.0]
        assert client.load_graph(graph) == ns
        known = client.graph_to_json(ns)["blobs"]
        assert known == {"late": hashlib.blake2b(struct.pack("<f", 3.0), digest_size=32).hexdigest()}
        assert result(client, ns) == [3.0]
    with scatterzmq.connect(second.address) as client:
        until(lambda: client.graph_to_json(ns).get("blobs") == known)
        assert result(client, ns) == [3.0]


def test_a_place_beyond_the_end_is_refused_when_a_graph_is_loaded(peers: Callable[..., BlobPeer]) -> None:
    first, second = peers(), peers()
    put(first, "w", 1.0, 2.0)
    with scatterzmq.connect(second.address) as client:
        with pytest.raises(GraphError, match="main:main:n: blob 'w' has 8 bytes, and the node reads 12"):
            client.load_graph(constant("4:8:w", 2))
        assert result(client, client.load_graph(constant("4:4:w", 1))) == [2.0]


# ---- who comes and goes


def test_the_blobs_of_a_graph_have_copies(peers: Callable[..., BlobPeer]) -> None:
    """Also those that somebody has put there by hand, once a graph names them."""
    first, *others = [peers() for _ in range(3)]
    place = put(first, "w", 1.0)
    with scatterzmq.connect(others[0].address) as client:
        client.load_graph(constant(place, 1))
    until(lambda: any(peer.blob("w") for peer in others))


def test_who_comes_late_runs_a_graph_whose_first_holder_is_gone(
    peers: Callable[..., BlobPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobkeepers, "SETTLE_MS", 0)
    first, second = peers(), peers()
    with scatterzmq.connect(first.address) as client:
        with client.open_blob("w") as blob:
            place = blob.write_tensor(torch.ones(3))
        ns = client.load_graph(constant(place, 3))
    assert second.blob("w") is not None
    first.stop()
    until(lambda: not second.peer.links.peers())
    third = BlobPeer(second.folder.parent / "third", second.address)
    try:
        until(lambda: third.blob("w") is not None)  # it is the second of two again
        second.stop()
        with scatterzmq.connect(third.address) as client:
            until(lambda: ns in client.namespaces())
            assert result(client, ns) == [1.0] * 3
    finally:
        third.stop()


@pytest.mark.parametrize("way", ["signal", "release"])
def test_a_blob_outlives_the_only_one_that_has_it_if_it_leaves(peers: Callable[..., BlobPeer], way: str) -> None:
    first, second = peers(cluster={"replicas": 1}), peers(cluster={"replicas": 1})
    with scatterzmq.connect(first.address) as client:
        with client.open_blob("w") as blob:
            blob.write(b"data")
        assert second.blob("w") is None
        if way == "signal":
            first.peer.leave()
        else:
            with Questions([first.address], "default") as questions:
                questions.find(LONG_S)
                questions.ask([first.peer.contact.id], Release, LONG_S)
    until(lambda: "tally.peer.stop" in first.events)
    assert second.blob("w") == b"data"
    assert "warning.blobs.lost" not in first.events


# ---- files of packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an installed package has its files."""
    folder = tmp_path / "packages" / "blob_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "w.bin").write_bytes(struct.pack("<f", 5.0))
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_files_of_packages_are_settled_and_not_fetched(peers: Callable[..., BlobPeer], package: Path) -> None:
    allowed = {"packages": ("blob_package",)}
    first, second = peers(blobs=allowed), peers(blobs=allowed)
    with scatterzmq.connect(first.address) as client:
        ns = client.load_graph(constant("0:4:pkg/blob_package/w.bin", 1))
        digest = hashlib.blake2b(struct.pack("<f", 5.0), digest_size=32).hexdigest()
        assert client.graph_to_json(ns)["blobs"] == {"pkg/blob_package/w.bin": digest}
        assert result(client, ns) == [5.0]
    # On a machine with another version of the package its tasks fail, and say why.
    (package / "w.bin").write_bytes(struct.pack("<f", 6.0))
    first.stop()
    with scatterzmq.connect(second.address) as client:
        until(lambda: ns in client.namespaces())
        ((_, response),) = client.wait_for([client.enqueue_task(ns, {"value": [1]})], timeout=LONG_S)
        assert response.error is not None
        assert response.error.code is ErrorCode.MISSING_BLOB
        assert "has other bytes here than where its graph was loaded" in response.error.message


def test_a_package_that_may_not_be_read(
    peers: Callable[..., BlobPeer], package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "GRACE_S", 0.0)
    first, _ = peers(), peers()
    with scatterzmq.connect(first.address) as client:
        ns = client.load_graph(constant("0:4:pkg/blob_package/w.bin", 1))
        ((_, response),) = client.wait_for([client.enqueue_task(ns, {"value": [1]})], timeout=LONG_S)
        assert response.error is not None
        assert "package 'blob_package' may not be read; add it to blobs.packages" in response.error.message
