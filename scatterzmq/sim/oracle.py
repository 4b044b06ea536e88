"""The oracle: what every node of the corpus makes of its inputs, and what must come of a whole task."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from ..errors import ErrorCode
from ..graph.plan import GraphPlan, NodePlan, Plan
from .corpus import Data

_MASK = (1 << 62) - 1
DICE_BITS = 3


class NodeFailed(Exception):  # noqa: N818 -- an answer, no error
    """A node refuses its input, or (deadly) takes its process with it."""

    def __init__(self, *, deadly: bool) -> None:
        self.deadly = deadly
        super().__init__("deadly" if deadly else "refused")


@dataclass(frozen=True, slots=True)
class Step:
    """What a node answers: by which output, with what fields; call: the graph to run on them first."""

    output: str
    fields: Mapping[str, Data]
    call: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """How a task must end: with `value` (but for the last `loose` bits), or in an error of this code."""

    value: int = 0
    loose: int = 0
    error: ErrorCode | None = None

    def fits(self, value: int) -> bool:
        return self.error is None and value >> self.loose == self.value >> self.loose


def run_node(node: NodePlan, inputs: Mapping[str, Data], chance: Random | None = None) -> Step:
    """What a node makes of one task. chance: for nodes that are no functions; None takes the straight way."""
    by = node.args.get("by", 0)
    assert isinstance(by, int)
    value = inputs.get("value", 0)
    if node.kind == "sum":
        return _out(mix(_number(inputs["left"]), _number(inputs["right"])))
    if node.kind in {"grow", "fold"}:
        assert isinstance(value, tuple)
        folded = 0
        for number in value:
            folded = mix(folded, number)
        return _out((*value, folded) if node.kind == "grow" else folded)
    number = _number(value)
    match node.kind:
        case "mix" | "alone":
            return _out(mix(number, by))
        case "branch":
            return Step("odd" if number >> (by or 7) & 1 else "even", {"value": mix(number, 17)})
        case "loop":
            again = chance is not None and chance.random() < 0.25
            return Step("again" if again else "done", {"value": number})
        case "down":
            # The lowest bits count the depth.
            return Step("back", {"value": number - 1}, str(node.args["graph"])) if number & 3 else _out(number)
        case "call":
            return Step("out", {"value": number}, str(node.args["graph"]))
        case "spread":
            return _out(tuple(mix(number, place) for place in range(number % 5)))
        case "wrong" | "bomb":
            if number & 3 == 3:
                raise NodeFailed(deadly=node.kind == "bomb")
            return _out(mix(number, 23))
        case "dice":
            low = 0 if chance is None else chance.getrandbits(DICE_BITS)
            return _out(number >> DICE_BITS << DICE_BITS | low)
    raise AssertionError(node.kind)


def run_graph(
    plan: Plan, graph: GraphPlan, inputs: Mapping[str, Data], chance: Random | None = None
) -> dict[str, Data]:
    """What a graph makes of one task. Raises NodeFailed."""
    values = {f":{name}": value for name, value in inputs.items()}
    node: NodePlan | None = graph.nodes[graph.first]
    while node is not None:
        step = run_node(node, _found(values, node.inputs), chance)
        fields = step.fields
        if step.call:
            fields = run_graph(plan, called(plan, step.call), fields, chance)
        values |= {f"{node.name}:{name}": value for name, value in fields.items()}
        following = node.outputs[step.output].next
        node = None if following is None else next(one for one in graph.nodes.values() if one.queue == following)
    return _found(values, graph.outputs)


def _found(values: Mapping[str, Data], sources: Mapping[str, str]) -> dict[str, Data]:
    """Raises NodeFailed if one of them was not made on the way through the graph."""
    if not values.keys() >= set(sources.values()):
        raise NodeFailed(deadly=False)
    return {name: values[source] for name, source in sources.items()}


def called(plan: Plan, name: str) -> GraphPlan:
    return next(graph for graph in plan.graphs.values() if graph.name == name)


def expected(plan: Plan, value: int) -> Expected:
    """How a task of this plan with this input must end."""
    try:
        made = run_graph(plan, plan.graphs[plan.entry], {"value": value})
    except NodeFailed as failed:
        return Expected(error=ErrorCode.POISON if failed.deadly else ErrorCode.GENERAL_EXCEPTION)
    loose = DICE_BITS if any(node.kind == "dice" for node in plan.queues.values()) else 0
    return Expected(value=_number(made["value"]), loose=loose)


def mix(left: int, right: int) -> int:
    """A function of two numbers that no two pairs are likely to share."""
    mixed = (left ^ (right + 0x9E3779B97F4A7C15 + (left << 6) + (left >> 2))) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    return (mixed ^ mixed >> 29) & _MASK


def _out(value: Data) -> Step:
    return Step("out", {"value": value})


def _number(value: Data) -> int:
    assert isinstance(value, int)
    return value
