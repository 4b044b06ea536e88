"""Kinds that compute with numbers: constant_op, bin_op, mat_square."""

import operator
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from ..graph.formats import FieldFormat, Format
from .args import NodeArgs
from .base import Node
from .batch import Batch
from .padded import Flat

OPERATIONS: Final[dict[str, Callable[[Tensor, Tensor | float], Tensor]]] = {"add": operator.add, "mul": operator.mul}


_OWN_PRECISION: Final = frozenset({torch.float32, torch.float64})
"""Floats that torch computes in: a number is rounded to these first. Smaller ones it computes in float32."""


def _keeps_dtype(compute: Callable[[Tensor], Tensor], info: FieldFormat) -> bool:
    """Whether torch can compute this in the dtype of the field, and stays in it."""
    sample = torch.zeros(1, dtype=getattr(torch, info.dtype.name))
    try:
        return compute(sample).dtype is sample.dtype
    except (RuntimeError, TypeError):
        return False


class ConstantOp(Node):
    """Add a constant to every number, or multiply every number by it."""

    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._info = args.info("input")
        self._compute = OPERATIONS[args.choice("op", tuple(OPERATIONS))]
        constant = args.float("const")
        kind = getattr(torch, self._info.dtype.name)
        # A float would turn whole numbers into floats.
        whole = not kind.is_floating_point and not kind.is_complex
        if whole and (not constant.is_integer() or (kind is not torch.bool and abs(constant) > torch.iinfo(kind).max)):
            raise args.error(
                "const", f"a whole number that {self._info.dtype.name} can hold, as the input is {self._info}"
            )
        self._constant: Tensor | float = int(constant) if whole else constant
        if kind in _OWN_PRECISION:
            # torch makes a tensor of a number anew in each batch, which takes longer than a small batch itself.
            self._constant = torch.tensor(constant, dtype=torch.float64).to(kind)
        if not _keeps_dtype(lambda sample: self._compute(sample, self._constant), self._info):
            raise args.error("input", f"a dtype that torch can {args.str('op')} numbers in")

    def inputs(self) -> Format:
        return {"value": self._info}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"value": self._info}}

    def execute(self, batch: Batch) -> None:
        if self._info.is_uniform:
            batch.emit("out", value=self._compute(batch.uniform("value"), self._constant))
        else:
            value = self._compute(batch.flat("value"), self._constant)
            batch.emit("out", value=Flat(value, batch.shapes("value")))


class BinOp(Node):
    """Add or multiply two tensors of the same shape, element by element."""

    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._info = args.info("input")
        self._compute = OPERATIONS[args.choice("op", tuple(OPERATIONS))]
        if not _keeps_dtype(lambda sample: self._compute(sample, sample), self._info):
            raise args.error("input", f"a dtype that torch can {args.str('op')} numbers in")

    def inputs(self) -> Format:
        return {"left": self._info, "right": self._info}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"value": self._info}}

    def execute(self, batch: Batch) -> None:
        if self._info.is_uniform:
            batch.emit("out", value=self._compute(batch.uniform("left"), batch.uniform("right")))
            return
        lefts, rights = batch.shapes("left"), batch.shapes("right")
        if lefts == rights:
            batch.emit("out", value=Flat(self._compute(batch.flat("left"), batch.flat("right")), lefts))
            return
        rows, values = [], []
        pairs = zip(batch.rows("left"), batch.rows("right"), strict=True)
        for row, (left, right) in enumerate(pairs):
            if left.shape == right.shape:
                rows.append(row)
                values.append(self._compute(left, right))
            else:
                shapes = f"{list(left.shape)} and {list(right.shape)}"
                batch.reject(row, f"left and right must have the same shape, got {shapes}")
        batch.emit("out", rows, value=values)


class MatSquare(Node):
    """Multiply a square matrix by itself."""

    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        size = args.int("size")
        if size < 0:
            raise args.error("size", "a size of at least 0")
        self._info = FieldFormat("float", (size, size))

    def inputs(self) -> Format:
        return {"value": self._info}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"value": self._info}}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        batch.emit("out", value=torch.bmm(value, value))
