"""Kinds that decide where tasks go: if_op, call, for_loop, assertion_error."""

from collections.abc import Sequence
from itertools import chain

import torch

from ..graph.formats import FieldFormat, Format
from .args import NodeArgs
from .base import CallSite, Node
from .batch import Batch
from .padded import Flat

STACK = FieldFormat("int", (None,))
LOWEST = -(2**31)
"""of the numbers on a stack"""


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
        if not LOWEST <= self._init <= -LOWEST - 1:
            raise args.error("init", f"a whole number from {LOWEST} to {-LOWEST - 1}")

    def inputs(self) -> Format:
        return {"stack": STACK}

    def outputs(self) -> dict[str, Format]:
        return {"inner": {"stack": STACK}, "out": {"stack": STACK}}

    def calls(self) -> Sequence[CallSite]:
        return (CallSite(graph=self._graph, args={"stack": STACK}, output="inner"),)

    def execute(self, batch: Batch) -> None:
        column = batch.column("stack")
        ways: dict[bool, tuple[list[int], list[list[int]]]] = {True: ([], []), False: ([], [])}
        for row in range(len(batch)):
            stack = column.row(row).cast("i").tolist()
            if stack:
                stack[-1] = max(stack[-1] - 1, LOWEST)
            else:
                stack.append(self._init)
            rows, stacks = ways[stack[-1] > 0]
            rows.append(row)
            stacks.append(stack)
        batch.call("inner", self._graph, ways[True][0], stack=_flat(ways[True][1]))
        batch.emit("out", ways[False][0], stack=_flat(ways[False][1]))


def _flat(stacks: list[list[int]]) -> Flat:
    values = torch.tensor(list(chain.from_iterable(stacks)), dtype=torch.int32)
    return Flat(values, [(len(stack),) for stack in stacks])


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
