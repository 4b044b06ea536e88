"""What a node is: the base class of all kinds, and what a node gets to work with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch

from ..graph.formats import FieldFormat, Format
from .args import NodeArgs

if TYPE_CHECKING:
    from .batch import Batch


class BlobFile(Protocol):
    """A blob opened for reading."""

    def read(self, offset: int = 0, length: int | None = None) -> bytes: ...


class Blobs(Protocol):
    """Read-only data of nodes."""

    def tensor(self, data: str, format: FieldFormat | None = None) -> torch.Tensor:  # noqa: A002
        """The tensor at "offset:length:name", on the CPU, sharing mapped memory."""
        ...

    def open(self, name: str) -> BlobFile: ...

    def safetensors(self, name: str) -> Mapping[str, torch.Tensor]:
        """The tensors of a safetensors file by name, mapped when asked for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a node may use from `load` to `unload`.

    make_scratch: makes (once) and names the folder behind `scratch`.
    device: where its tensors belong.
    memory: survives unloading, for as long as this process lives; belongs to this node alone.
    """

    blobs: Blobs
    make_scratch: Callable[[], Path]
    device: torch.device
    memory: MutableMapping[str, object]

    @property
    def scratch(self) -> Path:
        """A folder of this node, kept; made when it is first asked for."""
        return self.make_scratch()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSite:
    """A graph that a node may run for its tasks: with `args` as input, coming back on `output`."""

    graph: str
    args: Format
    output: str


class Node(ABC):
    """A kind of node. A subclass reads its arguments in `__init__`, where errors are found when the graph is loaded.

    pure: the result depends on nothing but inputs and arguments (and the graphs it calls), so it may be cached.
    weight: added to a task that passes; any comparable cost, 0 or more.
    thread_safe: `execute` may run in several threads at once on one loaded copy.
    pure and weight may be properties.
    """

    pure: bool = False
    weight: float = 1.0
    thread_safe: ClassVar[bool] = False

    def __init__(self, args: NodeArgs) -> None:  # noqa: B027 -- a kind without arguments needs no __init__
        pass

    @abstractmethod
    def inputs(self) -> Format:
        """Fields the node reads."""

    @abstractmethod
    def outputs(self) -> Mapping[str, Format]:
        """Ways out of the node, each with the fields that leave there."""

    def calls(self) -> Sequence[CallSite]:
        """Graphs that `execute` may hand tasks to with `batch.call`."""
        return ()

    def load_cost(self) -> float:
        """Bytes of weights, or any comparable cost."""
        return 1.0

    def expected(self, batch: "Batch") -> Mapping[str, tuple[float, int]]:
        """What will go to each output, as (weight, bytes), guessed before the batch runs.

        Here: all tasks with the bytes of their inputs to the first output.
        """
        return {output: (float(len(batch)), batch.nbytes) for output in list(self.outputs())[:1]}

    def load(self, resources: Resources) -> None:  # noqa: B027 -- most kinds have nothing to load
        """Get ready to execute. Anything raised here fails the tasks that wait for this node."""

    def unload(self) -> None:  # noqa: B027
        """Let go of what `load` made; the node may be loaded again."""

    @abstractmethod
    def execute(self, batch: "Batch") -> None:
        """Answer every row of the batch exactly once."""
