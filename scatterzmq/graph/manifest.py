"""What the nodes of a definition are, told by a process that can import them to one that must not."""

from collections.abc import Mapping, Sequence

from ..errors import GraphError
from .check import check
from .nodeinfo import Describe, Described, LackingHere, NodeInfo, UnknownKind


def described(definition: str, describe: Describe) -> tuple[Described, ...]:
    """All nodes that a check of this definition asks for. Raises what `describe` raises, unless it is a ValueError."""
    nodes: list[Described] = []

    def noted(kind: str, args: Mapping[str, object], ns: str, place: str) -> NodeInfo:
        try:
            info = describe(kind, args, ns, place)
        except ValueError as error:
            lacking, unknown = isinstance(error, LackingHere), isinstance(error, UnknownKind)
            nodes.append(Described(place=place, info=None, error=str(error), lacking=lacking, unknown=unknown))
            raise
        nodes.append(Described(place=place, info=info))
        return info

    check(definition, noted)
    return tuple(nodes)


def describe_from(nodes: Sequence[Described]) -> Describe:
    """Says what was told: a check with it comes to the same plan, the same problems and the same warnings."""
    by_place = {node.place: node for node in nodes}

    def describe(_kind: str, _args: Mapping[str, object], _ns: str, place: str) -> NodeInfo:
        node = by_place.get(place)
        if node is None:
            raise GraphError(f"{place}: the executor that was asked for it has left it out; try again")
        if node.info is None:
            raise (UnknownKind if node.unknown else LackingHere if node.lacking else GraphError)(node.error)
        return node.info

    return describe
