"""What the machines in here have around them, and what of it is asked of the file system."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, TypeVar

from ..core.blobmessages import BlobWord
from ..errors import BlobError
from ..graph.formats import DTYPES, Layout
from ..ids import ClientId, PeerId
from ..wire.columns import Column

T = TypeVar("T")
Failed: TypeAlias = BlobError | OSError


class Alarm(Protocol):
    def cancel(self) -> None: ...


class Outside(Protocol):
    """A peer's surroundings. Nothing here waits; what is said may get lost, late or doubled."""

    def peers(self) -> tuple[PeerId, ...]:
        """With whom there is a link."""
        ...

    def say(self, to: PeerId | ClientId, word: BlobWord, columns: Mapping[str, Column], /) -> None: ...

    def clock(self) -> float: ...

    def later(self, delay_s: float, what: Callable[[], None], /) -> Alarm: ...

    def work(self, what: Callable[[], T], then: Callable[[T | Failed], None], /) -> None:
        """Do something that takes time, and say here what came of it. BlobErrors and OSErrors are results, too."""
        ...


def beside(data: bytes | memoryview = b"") -> Mapping[str, Column]:
    """The column of a word's bytes."""
    return {"data": Column(Layout(DTYPES["uint8"], 1, (len(data),)), memoryview(data))}


def bytes_beside(columns: Mapping[str, Column]) -> memoryview:
    return columns["data"].data
