"""BERT in three parts that can run on different machines: embeddings, a range of encoder layers, a pooled sentence.

Parameters are called as in the usual checkpoints: `embeddings.` and `encoder.layer.` are prefixes of them.
`mask` [texts, length] is true where a token is, false where a shorter text was padded.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BertEmbeddings(nn.Module):
    """Tokens to vectors: word, position and segment (always the first) are added and normalised."""

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        hidden_size: int = 384,
        positions_max: int = 512,
        segments: int = 2,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(positions_max, hidden_size)
        self.token_type_embeddings = nn.Embedding(segments, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 [texts, length] -> [texts, length, hidden_size]. Raises ValueError for more tokens than positions."""
        positions = self.position_embeddings.weight
        if ids.shape[1] > len(positions):
            raise ValueError(
                f"a text of {ids.shape[1]} tokens is too long for {len(positions)} positions; cut it earlier"
            )
        summed = self.word_embeddings(ids) + positions[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        normed: Tensor = self.LayerNorm(summed)
        return normed


class BertLayers(nn.Module):
    """The encoder layers `first` to `last`, both included, under their numbers in the whole model."""

    def __init__(
        self,
        *,
        first: int,
        last: int,
        hidden_size: int = 384,
        heads: int = 12,
        intermediate_size: int = 1536,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if not 0 <= first <= last:
            raise ValueError(f"layers {first} to {last} are no range; first must not be above last")
        for index in range(first, last + 1):
            self.add_module(str(index), _Layer(hidden_size, heads, intermediate_size, eps))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[texts, length, hidden_size] -> the same shape."""
        attend = mask[:, None, None, :]
        for layer in self.children():
            hidden = layer(hidden, attend)
        return hidden


class MeanPool(nn.Module):
    """The mean over a text's tokens, scaled to length 1. Has no weights."""

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[texts, length, hidden_size] -> [texts, hidden_size]."""
        summed = torch.einsum("tlh,tl->th", hidden, mask.to(hidden.dtype))
        return functional.normalize(summed / mask.sum(dim=1, keepdim=True).clamp(min=1), dim=1)


class _Layer(nn.Module):
    def __init__(self, hidden_size: int, heads: int, intermediate_size: int, eps: float) -> None:
        super().__init__()
        self.attention = _Attention(hidden_size, heads, eps)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden_size, intermediate_size)})
        self.output = _AddAndNorm(intermediate_size, hidden_size, eps)

    def forward(self, hidden: Tensor, attend: Tensor) -> Tensor:
        attended = self.attention(hidden, attend)
        widened = functional.gelu(self.intermediate["dense"](attended))
        result: Tensor = self.output(widened, attended)
        return result


class _Attention(nn.Module):
    def __init__(self, hidden_size: int, heads: int, eps: float) -> None:
        super().__init__()
        if hidden_size % heads:
            raise ValueError(f"{hidden_size} dimensions cannot be shared among {heads} heads; give a divisor")
        self.heads = heads
        self.self = nn.ModuleDict({name: nn.Linear(hidden_size, hidden_size) for name in ("query", "key", "value")})
        self.output = _AddAndNorm(hidden_size, hidden_size, eps)

    def forward(self, hidden: Tensor, attend: Tensor) -> Tensor:
        # [texts, length, hidden] -> [texts, heads, length, hidden / heads]
        query, key, value = (
            self.self[name](hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2), hidden)
        return result


class _AddAndNorm(nn.Module):
    def __init__(self, from_size: int, to_size: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(from_size, to_size)
        self.LayerNorm = nn.LayerNorm(to_size, eps=eps)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(inner) + residual)
        return normed
