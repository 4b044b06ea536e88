"""Places in blobs, and what whoever appends to a blob has in common.

A place is the text "offset:length:name". (nodes/args.py checks its form when a graph is loaded.)
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Self

from ..errors import BlobError, FormatError
from .blobtensors import ALIGNMENT, encode_tensor

if TYPE_CHECKING:
    import numpy as np
    import torch


class Place(NamedTuple):
    """A piece of a blob, in bytes."""

    offset: int
    length: int
    name: str

    @classmethod
    def parse(cls, data: str) -> Self:
        """Of "offset:length:name". Raises BlobError, which shows the text."""
        offset, _, rest = data.partition(":")
        length, _, name = rest.partition(":")
        if not (offset.isascii() and offset.isdigit() and length.isascii() and length.isdigit() and name):
            raise BlobError(f"expected 'offset:length:name of a blob' such as '0:128:model/a.bin', got {data!r}")
        if len(offset) > 18 or len(length) > 18:
            raise BlobError(f"offset or length of {data[:80]!r} is beyond any file")
        return cls(int(offset), int(length), name)

    def __str__(self) -> str:
        return f"{self.offset}:{self.length}:{self.name}"


class Appender(ABC):
    """Appends to a new blob and says where each piece lies. One thread at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._length = 0

    def write(self, data: bytes | bytearray | memoryview) -> str:
        """Append bytes; returns "offset:length:name". Raises FormatError for anything else."""
        try:
            view = memoryview(data).cast("B")
        except TypeError:
            raise FormatError(
                f"blob {self.name!r}: write: expected bytes, got {type(data).__name__}; "
                "a text has .encode(), and a tensor is written with write_tensor"
            ) from None
        offset = self._length
        self._append(view)
        return self._place(offset)

    def write_tensor(self, tensor: "torch.Tensor | np.ndarray") -> str:
        """Append a tensor of any shape with its dtype and shape; returns "offset:length:name".

        Raises FormatError for what is no tensor, or has a dtype or more dimensions than can be written.
        """
        head, elements = encode_tensor(tensor, f"blob {self.name!r}: write_tensor")
        self._append(memoryview(bytes(-self._length % ALIGNMENT)))
        offset = self._length
        self._append(memoryview(head))
        self._append(elements)
        return self._place(offset)

    @abstractmethod
    def _append(self, data: memoryview) -> None:
        """Append, and add to `_length` what was. Raises BlobError if the blob is sealed."""

    def _place(self, offset: int) -> str:
        """Of all that was appended from there on."""
        return str(Place(offset, self._length - offset, self.name))
