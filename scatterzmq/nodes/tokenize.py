"""`tokenize`: texts to token ids, by the `tokenizers` library (the extra "text")."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from ..graph.formats import FieldFormat, Format
from ..graph.nodeinfo import LackingHere
from .args import NodeArgs
from .base import Node, Resources
from .batch import Batch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LOAD_COST_BYTES = 10e6
"""What a vocabulary of 30,000 words was seen to take."""


class Tokenize(Node):
    """Text to token ids, special tokens included.

    Arguments: `tokenizer` (blob with the library's tokenizer.json), `max_length` (tokens; a longer text is cut).
    The ids are not padded: whoever reads them in batches pads them as it needs. A text that is not valid UTF-8 fails
    its own task only.
    """

    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._blob = args.blob("tokenizer")
        self._max_length = args.int("max_length", default=256)
        if self._max_length < 1:
            raise args.error("max_length", "at least 1")
        if find_spec("tokenizers") is None:
            raise LackingHere(f"{args.place}: kind tokenize needs tokenizers: pip install 'scatterzmq[text]'")
        self._tokenizer: Tokenizer | None = None

    def inputs(self) -> Format:
        return {"text": FieldFormat("uint8", (None,))}

    def outputs(self) -> Mapping[str, Format]:
        return {"out": {"ids": FieldFormat("int64", (None,))}}

    def load_cost(self) -> float:
        return _LOAD_COST_BYTES

    def load(self, resources: Resources) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_buffer(resources.blobs.open(self._blob).read())
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if self._max_length <= special:
            raise ValueError(f"max_length {self._max_length} leaves no room for text beside {special} special tokens")
        # The file may say otherwise: the one of all-MiniLM-L6-v2 pads every text to 128 tokens.
        tokenizer.no_padding()
        tokenizer.enable_truncation(self._max_length)
        self._tokenizer = tokenizer

    def unload(self) -> None:
        self._tokenizer = None

    def execute(self, batch: Batch) -> None:
        assert self._tokenizer is not None, "executed without being loaded"
        rows: list[int] = []
        texts: list[str] = []
        for row, raw in enumerate(batch.raw("text")):
            try:
                texts.append(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                batch.reject(row, f"the text is not valid UTF-8: {error.reason} at byte {error.start}", final=True)
            else:
                rows.append(row)
        if rows:
            encoded = self._tokenizer.encode_batch_fast(texts)
            batch.emit("out", rows=rows, ids=[torch.tensor(one.ids, dtype=torch.int64) for one in encoded])
