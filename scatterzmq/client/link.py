"""The link: what a client needs of its way to the peers. The embedded peer implements it; a network one can too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, runtime_checkable

from ..core.messages import ToClient, ToPeer
from ..ids import PeerId
from ..wire.columns import Column

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A peer as its neighbours see it. `status` is "alive" or "suspect"; address: "" where it is in this process."""

    id: PeerId
    name: str
    status: str
    address: str = ""


class BlobWriter(Protocol):
    """An append-only blob; each piece is named "offset:length:name". Sealed when closed, as at the end of a `with`
    block.

    Over the network it may be that closing it raises ClusterError, and that an error in the block leaves nothing of it.
    """

    def write(self, data: bytes, /) -> str: ...

    def write_tensor(self, tensor: "torch.Tensor", /) -> str: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Link(Protocol):
    """A way to the peers for one client.

    `send` is called from any thread, never from two at once, also from within a delivery. It keeps the order, does not
    wait for the peer, and raises ClusterError when nothing can be sent any more.
    """

    def send(self, message: ToPeer, columns: Mapping[str, Column], /) -> None: ...

    def close(self) -> None:
        """Nothing is sent or delivered any more. Called once."""
        ...

    def open_blob(self, name: str, /) -> BlobWriter: ...

    def peers(self) -> Sequence[Member]: ...

    def healthcheck(self) -> tuple[str, str, int] | None:
        """(address to bind, host name to ask, port); None without a health endpoint."""
        ...


@runtime_checkable
class Pumped(Protocol):
    """A link without a thread of its own: whoever waits runs the peer itself (`executor.kind` "inline")."""

    def pump(self, timeout_s: float | None, /) -> bool:
        """Do one piece of work, waiting for one at most so long (None: for ever). False if there was none.

        Only one thread of a client is in here at a time.
        """
        ...


class Inbox(Protocol):
    """Where a link delivers, one message at a time and in order, in whichever thread."""

    def __call__(self, message: ToClient, columns: Mapping[str, Column], /) -> None: ...

    def lost(self, reason: str, /) -> None:
        """The link is gone for good: everything that waits fails with ClusterError. Says what to do, too."""
        ...


Connect: TypeAlias = Callable[[Inbox], Link]
"""Makes the link of one client, which delivers into the given inbox."""
