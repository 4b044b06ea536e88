"""Blobs: what is written comes back, bit for bit, and nothing outside the root can be reached."""

import os
import re
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scatterzmq.errors import BlobError, FormatError, MissingBlob, ScatterError
from scatterzmq.execute.blobfiles import SEALED, place_sealed
from scatterzmq.execute.blobplaces import Place
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.ids import NodeId

NODE = NodeId.of("ns", "main", "node")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "blobs"
    folder.mkdir()
    return folder


@pytest.fixture
def store(root: Path) -> Iterator[BlobStore]:
    with BlobStore(root) as blobs:
        yield blobs


def read(store: BlobStore, data: str) -> memoryview:
    """The bytes at "offset:length:name"."""
    place = Place.parse(data)
    return store.piece(place.name, place.offset, place.length)


# ---- bytes


def test_written_bytes_can_be_read_at_their_places(store: BlobStore) -> None:
    with store.open_blob("data/a.bin") as blob:
        first = blob.write(b"one")
        second = blob.write(memoryview(b"second"))
    assert (first, second) == ("0:3:data/a.bin", "3:6:data/a.bin")
    assert bytes(read(store, second)) == b"second"
    assert store.open("data/a.bin").read(1, 4) == b"nese"
    assert store.open("data/a.bin").read() == b"onesecond"


def test_a_blob_can_be_read_while_it_is_written(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"one")
        assert store.open("a").read() == b"one"
        second = blob.write(b"second")
        assert bytes(read(store, second)) == b"second"
        blob.write(b"third")
        assert store.open("a").read(3) == b"secondthird"


def test_reading_neither_copies_nor_lets_anybody_write(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        place = blob.write(b"one")
    view = read(store, place)
    assert view.readonly
    assert np.shares_memory(np.asarray(view), np.asarray(read(store, place)))


def test_views_outlive_the_store(root: Path) -> None:
    store = BlobStore(root)
    with store.open_blob("a") as blob:
        place = blob.write(b"one")
    view = read(store, place)
    store.close()
    assert bytes(view) == b"one"


def test_a_closed_blob_is_sealed(store: BlobStore, root: Path) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"one")
    with pytest.raises(BlobError, match="blob 'a' is sealed"):
        blob.write(b"more")
    with pytest.raises(BlobError, match="blob 'a' is there already and blobs are written once"):
        store.open_blob("a")
    assert store.open("a").read() == b"one"
    assert not (root / "a").stat().st_mode & 0o222
    blob.close()


def test_an_empty_blob_has_nothing_to_read(store: BlobStore) -> None:
    store.open_blob("empty").close()
    assert store.open("empty").read() == b""
    assert bytes(store.piece("empty", 0, 0)) == b""
    with pytest.raises(MissingBlob, match="blob 'empty' has 0 bytes"):
        store.piece("empty", 0, 1)


@pytest.mark.parametrize("place", ["1:3:a", "4:0:a", "0:999999999999:a"])
def test_nothing_is_beyond_the_end(store: BlobStore, place: str) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"one")
    with pytest.raises(MissingBlob, match="blob 'a' has 3 bytes"):
        read(store, place)


def test_negative_places_are_not_there(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"one")
    for offset, length in ((-1, 1), (2, -1)):
        with pytest.raises(MissingBlob):
            store.open("a").read(offset, length)


@pytest.mark.parametrize(
    "text", ["", "a", "0:1", "0:1:", ":1:a", "-1:1:a", "0:x:a", "0x1:1:a", "\u0661:1:a", "9" * 30 + ":1:a"]
)
def test_a_place_is_written_as_offset_length_name(store: BlobStore, text: str) -> None:
    with pytest.raises(BlobError, match=r"expected 'offset:length:name|beyond any file"):
        read(store, text)


def test_a_name_may_hold_colons(store: BlobStore) -> None:
    with store.open_blob("run:2:b") as blob:
        place = blob.write(b"x")
    assert place == "0:1:run:2:b"
    assert bytes(read(store, place)) == b"x"


# ---- names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../secret",
        "a/../../secret",
        "a/..",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "..\\secret",
        "a\0b",
        "a\nb",
        "C:/secret",
        "C:secret",
        "\ud800",
        "x" * 256,
        "\u00e4" * 128,
        ".scratch/a",
    ],
)
def test_names_that_could_lead_out_are_refused(store: BlobStore, root: Path, name: str) -> None:
    (root.parent / "secret").write_bytes(b"secret")
    (root / "a").mkdir()
    for use in (store.open, store.open_blob, store.safetensors, lambda text: read(store, f"0:1:{text or '/'}")):
        with pytest.raises(BlobError, match=r"blob name .*use a relative name"):
            use(name)
    assert not isinstance(BlobError("x"), MissingBlob)


def test_255_bytes_are_enough_for_a_name(store: BlobStore) -> None:
    with store.open_blob("x" * 255) as blob:
        blob.write(b"one")
    assert store.open("x" * 255).read() == b"one"


def test_a_link_is_not_followed(store: BlobStore, root: Path) -> None:
    (root.parent / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(root.parent / "secret")
    with pytest.raises(BlobError, match="blob 'link' is a symbolic link, which is never followed"):
        store.open("link")
    with pytest.raises(BlobError):
        store.open_blob("link")


def test_a_link_to_a_folder_is_not_followed(store: BlobStore, root: Path) -> None:
    (root.parent / "secret").write_bytes(b"secret")
    (root / "folder").symlink_to(root.parent)
    with pytest.raises(BlobError):
        store.open("folder/secret")
    with pytest.raises(BlobError):
        store.open_blob("folder/new")
    assert not (root.parent / "new").exists()


def test_only_files_are_blobs(store: BlobStore, root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(BlobError, match=f"blob '{name}' is not a file"):
            store.open(name)


def test_a_missing_blob_is_named_without_the_path(store: BlobStore, root: Path) -> None:
    (root / "file").write_bytes(b"x")
    for name in ("nothing", "no/thing", "file/below"):
        with pytest.raises(MissingBlob, match=f"blob '{name}' is not there") as caught:
            store.open(name)
        assert str(root) not in str(caught.value)
    assert issubclass(MissingBlob, ScatterError)


def test_a_root_that_is_not_there_is_made_by_the_first_write(tmp_path: Path) -> None:
    with BlobStore(tmp_path / "new" / "blobs") as store:
        with pytest.raises(MissingBlob):
            store.open("a")
        store.open_blob("a").close()
    assert (tmp_path / "new" / "blobs" / "a").is_file()


# ---- tensors


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([[1.5, -2.0, float("nan")]]),
        torch.tensor(3, dtype=torch.int64),
        torch.zeros(0, 3),
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16),
        torch.tensor([1.0, 2.0], dtype=torch.float8_e4m3fn),
        torch.tensor([True, False, True]),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.arange(12).reshape(3, 4).t(),
        torch.zeros(1, 1, 1, 1, 1, 1, 1, 2),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_tensors_come_back_bit_for_bit(store: BlobStore, tensor: torch.Tensor) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"before")
        place = blob.write_tensor(tensor)
        blob.write_tensor(torch.ones(3))
    back = store.tensor(place)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    raw = tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8)
    assert torch.equal(back.reshape(-1).view(torch.uint8), raw)


def test_arrays_are_written_as_tensors(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        place = blob.write_tensor(np.array([[1, 2], [3, 4]], dtype=np.int16))
    assert torch.equal(store.tensor(place), torch.tensor([[1, 2], [3, 4]], dtype=torch.int16))


@pytest.mark.parametrize(
    ("method", "value", "problem"),
    [
        ("write", "text", "write: expected bytes, got str; a text has .encode(), and a tensor is written with"),
        ("write", None, "write: expected bytes, got NoneType"),
        ("write", [1], "write: expected bytes, got list"),
        ("write", torch.ones(2), "write: expected bytes, got Tensor"),
        ("write_tensor", [1], "write_tensor: expected a tensor or an ndarray, got list; see torch.tensor()"),
        ("write_tensor", None, "write_tensor: expected a tensor or an ndarray, got NoneType"),
        ("write_tensor", torch.zeros([1] * 9), "write_tensor: 9 dimensions are too many; at most 8 can be written"),
        ("write_tensor", torch.ones(2).to_sparse(), "write_tensor: a sparse_coo tensor has no plain rows of numbers"),
        ("write_tensor", torch.ones(2).view(torch.bits8), "write_tensor: no field can hold torch.bits8"),
        ("write_tensor", np.array(["a"]), "write_tensor: no field can hold an array of str"),
    ],
)
def test_what_cannot_be_written_is_told_in_one_line(store: BlobStore, method: str, value: object, problem: str) -> None:
    with store.open_blob("b") as blob:
        with pytest.raises(FormatError, match="^" + re.escape(f"blob 'b': {problem}")) as caught:
            getattr(blob, method)(value)
        assert "\n" not in str(caught.value)
        assert blob.write(b"abc") == "0:3:b"


def test_tensors_share_aligned_memory_of_the_map(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"x")
        place = blob.write_tensor(torch.arange(5.0))
    one, other = store.tensor(place), store.tensor(place)
    assert one.data_ptr() == other.data_ptr()
    assert one.data_ptr() % 64 == 0


def test_writing_to_a_tensor_does_not_change_the_blob(store: BlobStore, root: Path) -> None:
    with store.open_blob("a") as blob:
        place = blob.write_tensor(torch.zeros(5))
    before = (root / "a").read_bytes()
    store.tensor(place).add_(1)
    assert (root / "a").read_bytes() == before


def test_a_tensor_is_checked_against_its_format(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        place = blob.write_tensor(torch.zeros(2, 3))
    assert store.tensor(place, FieldFormat("float", (None, 3))).shape == (2, 3)
    for wrong in (FieldFormat("double", (2, 3)), FieldFormat("float", (2, 4)), FieldFormat("float", (6,))):
        with pytest.raises(BlobError, match=r"expected .*, it holds float32\[2, 3\]"):
            store.tensor(place, wrong)


def test_plain_bytes_are_a_tensor_of_a_fixed_format(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"x")
        place = blob.write(np.arange(3, dtype=np.int32).tobytes())
    assert store.tensor(place, FieldFormat("int", (3,))).tolist() == [0, 1, 2]
    with pytest.raises(BlobError, match=r"expected int\[4\], it holds 12 bytes"):
        store.tensor(place, FieldFormat("int", (4,)))
    with pytest.raises(BlobError, match="without a header"):
        store.tensor(place, FieldFormat("int", (None,)))
    with pytest.raises(BlobError, match="no tensor was written there"):
        store.tensor(place)


def test_a_damaged_record_is_refused(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        place = blob.write_tensor(torch.zeros(4))
    record = bytes(read(store, place))
    huge = record[:16] + (1 << 62).to_bytes(8, "little") + record[24:]
    damaged = [record[:-1], record + b"x", record[:8], record[:20], huge, record[:8] + b"\xff" + record[9:]]
    damaged.append(record[:9] + b"\x09" + record[10:])
    with store.open_blob("b") as blob:
        places = [blob.write(data) for data in damaged]
    for place in places:
        with pytest.raises(BlobError, match="damaged or cut"):
            store.tensor(place, FieldFormat("float", (4,)))


def test_a_stored_bool_is_0_or_1(store: BlobStore) -> None:
    with store.open_blob("a") as blob:
        place = blob.write(b"\0\1\2")
    with pytest.raises(ValueError, match="a bool"):
        store.tensor(place, FieldFormat("bool", (3,)))


# ---- safetensors


def test_tensors_of_a_safetensors_file_are_found_by_name(store: BlobStore, root: Path) -> None:
    save_file({"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.bfloat16)}, root / "model.safetensors")
    tensors = store.safetensors("model.safetensors")
    assert list(tensors) == ["a", "b"]
    assert len(tensors) == 2
    assert "c" not in tensors
    assert torch.equal(tensors["b"], torch.arange(3.0))
    assert tensors["a"].dtype == torch.bfloat16
    with pytest.raises(KeyError):
        tensors["c"]


def test_a_damaged_safetensors_file_is_refused(store: BlobStore, root: Path) -> None:
    (root / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BlobError, match=r"blob 'model.safetensors' is no valid safetensors file"):
        store.safetensors("model.safetensors")


# ---- packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package with data that raises when it is imported."""
    folder = tmp_path / "site" / "some_weights"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "model" / "words.txt").write_bytes(b"words")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return "some_weights"


@pytest.mark.parametrize("allowed", ["some_weights", "*"])
def test_data_of_an_allowed_package_is_read_without_importing_it(package: str, allowed: str) -> None:
    with BlobStore(None, [allowed]) as store:
        assert store.open("pkg/some_weights/model/words.txt").read() == b"words"
        assert bytes(store.piece("pkg/some_weights/model/words.txt", 1, 2)) == b"or"
    assert package not in sys.modules


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pkg/some_weights/__init__.py", "no data file"),
        ("pkg/some_weights/out.txt", "symbolic link"),
        ("pkg/some_weights/../secret.txt", "not a plain relative name"),
        ("pkg/some_weights/model/none.txt", "is not there"),
        ("pkg/some_weights", "names no file of a package"),
        ("pkg/some-weights/a.txt", "names no file of a package"),
        ("pkg/json/a.txt", "package 'json' may not be read"),
        ("pkg/not_installed/a.txt", "'not_installed' is not installed"),
        ("pkg/__main__/a.txt", "'__main__' is not installed"),
        ("pkg/this/a.txt", "'this' is not installed"),
    ],
)
def test_nothing_else_of_packages_can_be_read(package: str, name: str, why: str) -> None:
    with BlobStore(None, [package, "not_installed", "__main__", "this"]) as store, pytest.raises(BlobError, match=why):
        store.open(name)


def test_packages_are_not_written(package: str) -> None:
    with BlobStore(None, [package]) as store, pytest.raises(BlobError, match="only read"):
        store.open_blob("pkg/some_weights/new.txt")


# ---- folders


def test_scratch_is_one_kept_folder_per_node(store: BlobStore, root: Path) -> None:
    folder = store.scratch(NODE)
    (folder / "file").write_bytes(b"x")
    assert folder.is_relative_to(root)
    assert store.scratch(NODE) == folder
    assert store.scratch(NodeId.of("ns", "main", "other")) != folder
    store.close()
    assert (folder / "file").is_file()


def test_scratch_takes_ids_only(store: BlobStore) -> None:
    with pytest.raises(ValueError, match="invalid NodeId"):
        store.scratch(NodeId("../../x"))


def test_a_store_without_a_folder_makes_one_and_removes_it() -> None:
    store = BlobStore(None)
    with pytest.raises(MissingBlob):
        store.open("a")
    with store.open_blob("a") as blob:
        place = blob.write_tensor(torch.ones(3))
    folder = store.scratch(NODE)
    tensor = store.tensor(place)
    store.close()
    store.close()
    assert not folder.exists()
    assert tensor.tolist() == [1, 1, 1]


# ---- which bytes a name means


def test_what_is_found_under_a_name(store: BlobStore, root: Path) -> None:
    with store.open_blob("a") as blob:
        blob.write(b"one")
        with pytest.raises(BlobError, match="blob 'a' is still being written; load the graph when it is closed"):
            store.found("a")
    assert store.found("a") == (3, blake2b(b"one", digest_size=32).digest())
    (root / "a").unlink()
    (root / "a").write_bytes(b"other")
    assert store.found("a") == (5, blake2b(b"other", digest_size=32).digest())
    with pytest.raises(MissingBlob):
        store.found("b")


def test_settled_blobs_have_the_bytes_that_they_should_have(store: BlobStore, root: Path) -> None:
    with store.open_blob("a") as blob:
        place = blob.write_tensor(torch.ones(2))
    save_file({"t": torch.ones(3)}, root / "s")
    right = store.settled({name: store.found(name)[1] for name in ("a", "s")})
    for _ in range(2):
        assert right.tensor(place).tolist() == [1.0, 1.0]
        assert len(right.open("a").read()) == store.found("a")[0]
        assert right.safetensors("s")["t"].tolist() == [1.0] * 3
    wrong = store.settled({"a": b"w" * 32, "s": b"w" * 32})
    for read in (lambda: wrong.tensor(place), lambda: wrong.open("a"), lambda: wrong.safetensors("s")):
        with pytest.raises(MissingBlob, match="has other bytes here than where its graph was loaded"):
            read()
    assert store.settled({}).tensor(place).tolist() == [1.0, 1.0]


def test_a_file_that_is_changed_is_read_anew(store: BlobStore, root: Path) -> None:
    """What is loaded already stays as it is."""
    with store.open_blob("a") as blob:
        place = blob.write(b"one")
    settled = store.settled({"a": store.found("a")[1]})
    before = settled.open("a").read()
    (root / "a").unlink()
    (root / "a").write_bytes(b"two")
    assert (before, settled.open("a").read()) == (b"one", b"one")
    other = store.settled({"a": store.found("a")[1]})
    assert other.open("a").read() == b"two"
    with BlobStore(root) as fresh, pytest.raises(MissingBlob, match="other bytes"):
        fresh.settled({"a": blake2b(b"one", digest_size=32).digest()}).open("a")
    assert bytes(read(store, place)) == b"two"


def test_whoever_fetches_says_where_it_lies(root: Path) -> None:
    asked: list[tuple[str, bytes]] = []
    digest = blake2b(b"one", digest_size=32).digest()

    def fetch(name: str, wanted: bytes) -> str:
        asked.append((name, wanted))
        if wanted:
            place_sealed(name, wanted, root, source)
            return f"{SEALED}/{wanted.hex()}"
        return name

    source = root / "source"
    source.write_bytes(b"one")
    (root / "a").write_bytes(b"other")
    with BlobStore(root, fetch=fetch) as store:
        for _ in range(2):
            assert store.settled({"a": digest}).open("a").read() == b"one"
            assert store.open("a").read() == b"other"
        assert asked == [("a", digest), ("a", b"")]
        # Whatever was removed is asked for again.
        store._maps.clear()
        (root / SEALED / digest.hex()).unlink()
        with pytest.raises(MissingBlob, match="other bytes"):
            store.settled({"a": digest}).open("a")
        assert store.settled({"a": digest}).open("a").read() == b"one"
        assert len(asked) == 3
