"""BERT's parts against plain arithmetic, with small random weights."""

import math

import pytest
import torch
from torch import Tensor

from scatterzmq.models.bert import BertEmbeddings, BertLayers, MeanPool

HIDDEN, HEADS, WIDE = 8, 2, 12


def embeddings() -> BertEmbeddings:
    return BertEmbeddings(vocab_size=11, hidden_size=HIDDEN, positions_max=6)


def layers(first: int, last: int) -> BertLayers:
    return BertLayers(first=first, last=last, hidden_size=HIDDEN, heads=HEADS, intermediate_size=WIDE)


def randomised(module: torch.nn.Module) -> dict[str, Tensor]:
    """Random weights, also where torch begins with 0 or 1, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(5)
    weights = {name: torch.randn(value.shape, generator=generator) for name, value in module.state_dict().items()}
    module.load_state_dict(weights)
    module.eval()
    return weights


def norm(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() * scale + shift


def by_hand(weights: dict[str, Tensor], index: int, hidden: Tensor) -> Tensor:
    """One layer for one text [length, HIDDEN], head by head."""

    def linear(name: str, rows: Tensor) -> Tensor:
        return rows @ weights[f"{index}.{name}.weight"].T + weights[f"{index}.{name}.bias"]

    def normed(name: str, rows: Tensor) -> Tensor:
        return norm(rows, weights[f"{index}.{name}.LayerNorm.weight"], weights[f"{index}.{name}.LayerNorm.bias"])

    query, key, value = (linear(f"attention.self.{name}", hidden) for name in ("query", "key", "value"))
    size = HIDDEN // HEADS
    mixed = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        shares = (query[:, part] @ key[:, part].T / math.sqrt(size)).exp()
        mixed.append(shares / shares.sum(1, keepdim=True) @ value[:, part])
    attended = normed("attention.output", linear("attention.output.dense", torch.cat(mixed, 1)) + hidden)
    wide = linear("intermediate.dense", attended)
    wide = wide * (1 + torch.erf(wide / math.sqrt(2))) / 2
    return normed("output", linear("output.dense", wide) + attended)


def test_embeddings_add_word_position_and_first_segment() -> None:
    module = embeddings()
    weights = randomised(module)
    ids = torch.tensor([[3, 1, 4, 0], [10, 0, 0, 0]])
    got = module(ids=ids, mask=ids != 0)
    summed = torch.stack(
        [
            torch.stack(
                [
                    weights["word_embeddings.weight"][token]
                    + weights["position_embeddings.weight"][place]
                    + weights["token_type_embeddings.weight"][0]
                    for place, token in enumerate(row)
                ]
            )
            for row in ids.tolist()
        ]
    )
    torch.testing.assert_close(got, norm(summed, weights["LayerNorm.weight"], weights["LayerNorm.bias"]))


def test_a_text_longer_than_the_positions_is_an_error() -> None:
    with pytest.raises(ValueError, match="7 tokens is too long for 6 positions"):
        embeddings()(ids=torch.zeros(1, 7, dtype=torch.int64), mask=torch.ones(1, 7, dtype=torch.bool))


def test_a_layer_is_what_the_formulas_say_and_padding_changes_nothing() -> None:
    module = layers(3, 4)
    weights = randomised(module)
    texts = [torch.randn(length, HIDDEN) for length in (5, 2)]
    padded = torch.full((2, 5, HIDDEN), 7.0)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
        mask[row, : len(text)] = True
    got = module(hidden=padded, mask=mask)
    for row, text in enumerate(texts):
        expected = by_hand(weights, 4, by_hand(weights, 3, text))
        torch.testing.assert_close(got[row, : len(text)], expected, atol=1e-5, rtol=1e-5)


def test_ranges_of_layers_one_after_another_are_the_whole() -> None:
    whole = layers(0, 2)
    weights = randomised(whole)
    hidden, mask = torch.randn(1, 4, HIDDEN), torch.ones(1, 4, dtype=torch.bool)
    result = hidden
    for first, last in ((0, 1), (2, 2)):
        part = layers(first, last).eval()
        part.load_state_dict({name: weights[name] for name in part.state_dict()})
        result = part(hidden=result, mask=mask)
    assert torch.equal(result, whole(hidden=hidden, mask=mask))


def test_layers_keep_their_numbers() -> None:
    assert {name.split(".")[0] for name in layers(2, 3).state_dict()} == {"2", "3"}
    with pytest.raises(ValueError, match="layers 3 to 2 are no range"):
        layers(3, 2)


def test_heads_must_divide_the_dimensions() -> None:
    with pytest.raises(ValueError, match="8 dimensions cannot be shared among 3 heads"):
        BertLayers(first=0, last=0, hidden_size=8, heads=3)


def test_pooling_is_the_mean_of_the_tokens_at_length_one() -> None:
    hidden = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [99.0, 99.0]], [[0.0, 2.0], [99.0, 99.0], [99.0, 99.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(MeanPool()(hidden=hidden, mask=mask), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
