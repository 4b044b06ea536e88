"""Kinds that decide where tasks go: if_op, call, for_loop, assertion_error."""

from collections.abc import Sequence

import torch

from ..graph.formats import FieldFormat, Format
from .args import NodeArgs
from .base import CallSite, Node
from .batch import Batch
from .padded import Padded

STACK = FieldFormat("int", (None,))


class IfOp(Node):
    """Branch on a condition: tasks leave by `then` or by `else`."""

    pure = True
    thread_safe = True

    def inputs(self) -> Format:
        return {"condition": FieldFormat("bool", (1,))}

    def outputs(self) -> dict[str, Format]:
        return {"then": {}, "else": {}}

    def execute(self, batch: Batch) -> None:
        condition = batch.uniform("condition")[:, 0]
        batch.emit("then", condition)
        batch.emit("else", ~condition)


class Call(Node):
    """Run another graph of the namespace: its input are the node's inputs, its result is the node's output."""

    pure = True  # as pure as the graph it calls, which the checker adds
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._site = CallSite(graph=args.graph("graph"), args=args.format("args"), output="out")
        self._ret = args.format("ret")

    def inputs(self) -> Format:
        return self._site.args

    def outputs(self) -> dict[str, Format]:
        return {"out": self._ret}

    def calls(self) -> Sequence[CallSite]:
        return (self._site,)

    def execute(self, batch: Batch) -> None:
        batch.answer("out", {field: batch.column(field) for field in self._site.args}, call=self._site.graph)


class ForLoop(Node):
    """Count down the top of a stack; while it is above 0, run a graph and leave by `inner`, then leave by `out`."""

    pure = True  # as pure as the graph it calls, which the checker adds
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._graph = args.graph("graph")
        self._init = args.int("init")
        limits = torch.iinfo(torch.int32)
        if not limits.min <= self._init <= limits.max:
            raise args.error("init", f"a whole number from {limits.min} to {limits.max}")

    def inputs(self) -> Format:
        return {"stack": STACK}

    def outputs(self) -> dict[str, Format]:
        return {"inner": {"stack": STACK}, "out": {"stack": STACK}}

    def calls(self) -> Sequence[CallSite]:
        return (CallSite(graph=self._graph, args={"stack": STACK}, output="inner"),)

    def execute(self, batch: Batch) -> None:
        stacks, _ = batch.padded("stack")
        # One row per task, with room for at least one number: an empty stack is started.
        stacks = torch.nn.functional.pad(stacks, (0, max(0, 1 - stacks.shape[1]))).clone()
        lengths = torch.tensor([length for (length,) in batch.shapes("stack")], device=stacks.device)
        every = torch.arange(len(batch), device=stacks.device)
        top = (lengths - 1).clamp(min=0)
        values = torch.where(lengths > 0, stacks[every, top] - 1, self._init)
        stacks[every, top] = values
        sizes = lengths.clamp(min=1).unsqueeze(1)
        again = values > 0
        batch.call("inner", self._graph, again, stack=Padded(stacks[again], shapes=sizes[again]))
        batch.emit("out", ~again, stack=Padded(stacks[~again], shapes=sizes[~again]))


class AssertionError(Node):  # noqa: A001 -- named as the kind
    """Fail every task that comes here: put it behind an `if_op`."""

    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._message = args.str("msg")

    def inputs(self) -> Format:
        return {}

    def outputs(self) -> dict[str, Format]:
        return {}

    def execute(self, batch: Batch) -> None:
        try:
            raise ValueError(self._message)
        except ValueError as error:
            batch.reject(range(len(batch)), error)
