"""Checks between graphs: calls and their formats, purity and caching, and what a block may do."""

from collections.abc import Iterable

from .callgraph import spread
from .definition import GraphDef, NodeDef
from .findings import Findings
from .names import hint
from .nodeinfo import CallInfo, NodeInfo
from .scope import Scope


def check_calls(scope: Scope, findings: Findings) -> None:
    """Every call of every node: the graph must be there and fields must fit both ways."""
    for (graph, node), info in scope.infos.items():
        for call in info.calls:
            _check_call(scope, graph, node, call, findings)


def check_caching(scope: Scope, findings: Findings) -> None:
    """Only what is pure may be cached."""
    causes = impure(scope)
    for graph in scope.definition.graphs:
        if graph.cache and graph.name in causes:
            text = f'cannot be cached: {causes[graph.name]}; remove "cache" or use pure nodes only'
            findings.problem(scope.place(graph.name), text)
        for node in graph.nodes:
            info = scope.infos.get((graph.name, node.name))
            reason = None if info is None or not node.cache else _node_cause(node, info, causes)
            if reason is not None:
                text = f'cannot be cached: {reason}; remove "cache" from the node'
                live = scope.is_reachable(graph.name, node.name)
                findings.fault(scope.place(graph.name, node.name), text, live=live)


def check_blocks(scope: Scope, findings: Findings) -> None:
    """A block runs in one go, so it can call nothing but blocks, and settings of its inner nodes have no effect."""
    for graph in scope.definition.graphs:
        if not graph.is_block:
            continue
        for node in graph.nodes:
            _check_block_node(scope, graph, node, findings)


def impure(scope: Scope) -> dict[str, str]:
    """Graphs that are not pure -> a node that is not, or the called graph that is not. Recursion is held to be pure."""
    roots: dict[str, str] = {}
    for name, nodes in scope.reachable.items():
        for node in nodes:
            info = scope.infos.get((name, node))
            if info is not None and not info.pure:
                roots.setdefault(name, f"node {node!r} is not pure")
    found = spread(scope.calls, roots)
    return {
        name: cause if name in roots else f"it calls graph {cause!r}, which is not pure"
        for name, cause in found.items()
    }


def _node_cause(node: NodeDef, info: NodeInfo, causes: dict[str, str]) -> str | None:
    if not info.pure:
        return f"kind {node.kind!r} is not pure"
    return next(
        (f"it calls graph {call.graph!r}, which is not pure" for call in info.calls if call.graph in causes), None
    )


def _check_call(scope: Scope, graph: str, node: str, call: CallInfo, findings: Findings) -> None:
    place = scope.place(graph, node)
    live = scope.is_live(graph, node)
    callee = scope.graphs.get(call.graph)
    if callee is None:
        text = f"calls graph {call.graph!r:.200}, which is not there"
        findings.fault(place, f"{text}; {hint(call.graph, scope.graphs, 'graphs')}", live=live)
        return
    for field, wanted in callee.input_format.items():
        given = call.args.get(field)
        if given is None:
            text = f"calls graph {call.graph!r} without its input {field!r}"
            findings.fault(place, f"{text}; it passes {_listed(call.args)}", live=live)
        elif not given.compatible(wanted):
            text = f"calls graph {call.graph!r} with {field!r} as {given}, but that takes {wanted}"
            findings.fault(place, f"{text}; make them agree", live=live)
    for field in call.args if scope.knows(callee.name, "input_format") else ():
        if field not in callee.input_format:
            findings.warn(place, f"passes {field!r} to graph {call.graph!r}, which has no such input")
    for field, expected in scope.infos[graph, node].outputs[call.output].items():
        if field not in callee.vmap:
            if scope.knows(callee.name, "vmap"):  # Whoever reads it has a problem of its own.
                findings.warn(place, f"expects {field!r} of graph {call.graph!r}, which gives {_listed(callee.vmap)}")
            continue
        given_back = scope.formats_of(callee.name, callee.vmap[field])
        if given_back and not any(expected.compatible(info) for info in given_back):
            shown = " or ".join(str(info) for info in given_back)
            text = f"expects {field!r} of graph {call.graph!r} as {expected}, but that gives {shown}"
            findings.fault(place, f"{text}; make them agree", live=live)


def _listed(fields: Iterable[str]) -> str:
    return ", ".join(repr(field) for field in fields) or "nothing"


def _check_block_node(scope: Scope, graph: GraphDef, node: NodeDef, findings: Findings) -> None:
    place = scope.place(graph.name, node.name)
    live = scope.is_live(graph.name, node.name)
    if node.cache:
        findings.warn(place, '"cache" has no effect inside a block; cache the block itself')
    inner = {"batch_size": node.batch_size, "batch_tokens": node.batch_tokens, "max_exec_s": node.max_exec_s}
    if node.name != graph.input:
        for key, value in inner.items():
            if value is not None:
                findings.warn(place, f"{key!r} has no effect inside a block; set it at its input node {graph.input!r}")
    info = scope.infos.get((graph.name, node.name))
    for call in info.calls if info is not None else ():
        callee = scope.graphs.get(call.graph)
        if callee is None:
            continue
        if not callee.is_block:
            text = f"calls graph {call.graph!r} from inside a block, but that is no block"
            findings.fault(place, f'{text}; set "is_block" there, or take it off {graph.name!r}', live=live)
        elif callee.cache:
            findings.warn(place, f"graph {call.graph!r} is cached, but not where a block calls it")
