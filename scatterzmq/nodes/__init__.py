"""What a node kind is written with; the kinds that come with scatterzmq are in the modules beside this one."""

from ..graph.formats import FieldFormat as FieldFormat
from ..graph.formats import Format as Format
from .args import DataPlace as DataPlace
from .args import NodeArgs as NodeArgs
from .base import CallSite as CallSite
from .base import Node as Node
from .base import Resources as Resources
from .batch import Batch as Batch
from .batch import BatchError as BatchError
from .batch import InputsChanged as InputsChanged
from .padded import Flat as Flat
from .padded import Padded as Padded

__all__ = [
    "Batch",
    "BatchError",
    "CallSite",
    "DataPlace",
    "FieldFormat",
    "Flat",
    "Format",
    "InputsChanged",
    "Node",
    "NodeArgs",
    "Padded",
    "Resources",
]
