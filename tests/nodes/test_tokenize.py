"""Kind `tokenize`, with a small tokenizer of its own that cuts at spaces."""

from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from scatterzmq.errors import GraphError, MissingBlob
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.graph.formats import FieldFormat
from scatterzmq.graph.nodeinfo import LackingHere
from scatterzmq.ids import TaskId
from scatterzmq.nodes import Batch, NodeArgs, Resources
from scatterzmq.nodes.tokenize import Tokenize
from scatterzmq.wire.tensors import from_tensors, to_tensors

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "one": 4, "two": 5, "three": 6, "zwölf": 7}


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    """Holds a tokenizer that, as the one of all-MiniLM-L6-v2, was saved with fixed padding and its own truncation."""
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with BlobStore(tmp_path) as store:
        yield store


@pytest.fixture
def loaded(blobs: BlobStore) -> Callable[..., Tokenize]:
    def make(**args: object) -> Tokenize:
        node = Tokenize(NodeArgs({"tokenizer": "tokenizer.json", **args}, "ns", "ns:main:tokenize"))
        node.load(
            Resources(blobs=blobs, make_scratch=Path, device=torch.device("cpu"), memory={}),
        )
        return node

    return make


def batch_of(node: Tokenize, texts: Sequence[bytes]) -> Batch:
    rows = [torch.tensor(list(text), dtype=torch.uint8) for text in texts]
    return Batch(
        place="ns:main:tokenize",
        task_ids=[TaskId(f"T{row:032x}") for row in range(len(texts))],
        inputs=node.inputs(),
        outputs=node.outputs(),
        columns={"text": from_tensors(rows)},
    )


def ids_of(node: Tokenize, *texts: str) -> list[list[int]]:
    batch = batch_of(node, [text.encode() for text in texts])
    node.execute(batch)
    (answer,), rejections = batch.finish()
    assert not rejections
    assert answer.rows == tuple(range(len(texts)))
    return [tensor.tolist() for tensor in to_tensors(answer.columns["ids"])]


def test_texts_become_ids_with_special_tokens(loaded: Callable[..., Tokenize]) -> None:
    assert ids_of(loaded(), "one two", "zwölf", "what") == [[2, 4, 5, 3], [2, 7, 3], [2, 1, 3]]


def test_padding_of_the_file_is_ignored_and_so_is_its_truncation(loaded: Callable[..., Tokenize]) -> None:
    assert ids_of(loaded(), "one", " ".join(["one"] * 300)) == [[2, 4, 3], [2] + [4] * 254 + [3]]


def test_longer_texts_are_cut_at_max_length(loaded: Callable[..., Tokenize]) -> None:
    assert ids_of(loaded(max_length=4), "one two three", "one") == [[2, 4, 5, 3], [2, 4, 3]]


def test_an_empty_text_has_its_special_tokens(loaded: Callable[..., Tokenize]) -> None:
    assert ids_of(loaded(), "", "one", "\0") == [[2, 3], [2, 4, 3], [2, 1, 3]]


def test_invalid_utf8_fails_its_own_task_only(loaded: Callable[..., Tokenize]) -> None:
    node = loaded()
    batch = batch_of(node, [b"one", b"two \xff", b"three"])
    node.execute(batch)
    (answer,), (rejection,) = batch.finish()
    assert answer.rows == (0, 2)
    assert [tensor.tolist() for tensor in to_tensors(answer.columns["ids"])] == [[2, 4, 3], [2, 6, 3]]
    assert rejection.rows == (1,)
    assert rejection.final
    assert rejection.message == "the text is not valid UTF-8: invalid start byte at byte 4"


def test_a_batch_of_invalid_texts_is_rejected_in_whole(loaded: Callable[..., Tokenize]) -> None:
    node = loaded()
    batch = batch_of(node, [b"\xff", b"\xfe"])
    node.execute(batch)
    answers, rejections = batch.finish()
    assert not answers
    assert [rejection.rows for rejection in rejections] == [(0,), (1,)]


def test_formats_and_purity() -> None:
    node = Tokenize(NodeArgs({"tokenizer": "tokenizer.json"}, "ns", "ns:main:tokenize"))
    assert node.inputs() == {"text": FieldFormat("uint8", (None,))}
    assert node.outputs() == {"out": {"ids": FieldFormat("int64", (None,))}}
    assert node.pure
    assert node.thread_safe


def test_arguments_are_checked(loaded: Callable[..., Tokenize]) -> None:
    with pytest.raises(GraphError, match="'tokenizer' is missing"):
        Tokenize(NodeArgs({}, "ns", "ns:main:tokenize"))
    with pytest.raises(GraphError, match="'max_length': expected at least 1"):
        loaded(max_length=0)
    with pytest.raises(ValueError, match="max_length 2 leaves no room for text beside 2 special tokens"):
        loaded(max_length=2)
    with pytest.raises(MissingBlob, match=r"none\.json"):
        loaded(tokenizer="none.json")


def test_without_the_library_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> ModuleSpec | None:
        return None if name == "tokenizers" else ModuleSpec(name, None)

    monkeypatch.setattr("scatterzmq.nodes.tokenize.find_spec", found)
    with pytest.raises(GraphError) as caught:
        Tokenize(NodeArgs({"tokenizer": "tokenizer.json"}, "ns", "ns:main:tokenize"))
    assert isinstance(caught.value, LackingHere)
    assert str(caught.value) == "ns:main:tokenize: kind tokenize needs tokenizers: pip install 'scatterzmq[text]'"


def test_unloaded_it_can_be_loaded_again(loaded: Callable[..., Tokenize], blobs: BlobStore) -> None:
    node = loaded()
    node.unload()
    node.load(Resources(blobs=blobs, make_scratch=Path, device=torch.device("cpu"), memory={}))
    assert ids_of(node, "one") == [[2, 4, 3]]
