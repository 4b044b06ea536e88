"""What a checker must know of a node besides its definition. Asking for it may import torch; the answer needs none."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from ..errors import GraphError
from ..frozen import frozen
from .formats import Format


@frozen()
class CallInfo:
    """A node may run another graph: its name, the fields it passes, and the output by which tasks come back."""

    graph: str
    args: Format
    output: str


@frozen()
class BlobUse:
    """A node reads a blob. end_bytes: how long it must be at least; 0 if that is not known."""

    name: str
    end_bytes: int = 0


@frozen()
class NodeInfo:
    """A node kind with its arguments applied.

    pure: whether results depend on nothing but inputs and arguments, what it calls left aside.
    weight: added to a task that passes. load_cost: bytes of weights, or any comparable cost.
    thread_safe: whether one loaded copy may run several batches at once.
    doc: first line of its documentation. blobs: those that its arguments name.
    arguments: the names it looks for. unused: those that were given besides.
    """

    input_format: Format
    outputs: Mapping[str, Format]
    pure: bool
    weight: float
    load_cost: float
    calls: tuple[CallInfo, ...] = ()
    thread_safe: bool = False
    doc: str = ""
    blobs: tuple[BlobUse, ...] = ()
    arguments: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


Describe: TypeAlias = Callable[[str, Mapping[str, object], str, str], NodeInfo]
"""(kind, args, ns, place "ns:graph:node") -> what the node is. Raises ValueError with the reason, or with several, each
in a line that begins with the place."""


class LackingHere(GraphError):  # noqa: N818 -- it says what is wrong, as the others do
    """Something that the node needs is not installed here, or not allowed. Another machine may have it."""


class UnknownKind(LackingHere):
    """There is no such kind of node, or it may not be imported. Refused even where no task can come by."""


@frozen()
class Described:
    """One node, told to who cannot ask for it. error: why it is none (then without info).

    lacking: for want of something that is not here. unknown: that is its kind.
    """

    place: str
    info: NodeInfo | None
    error: str = ""
    lacking: bool = False
    unknown: bool = False
