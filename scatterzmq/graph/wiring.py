"""Checks within one graph: where edges lead, where inputs come from, and whether formats fit."""

from ..ids import QueueId
from .definition import GraphDef, NodeDef, is_id
from .findings import Findings
from .formats import FieldFormat
from .frames import Frames
from .names import QualifiedField, hint
from .scope import Scope


def check_graph(scope: Scope, graph: GraphDef, findings: Findings) -> None:
    """Everything about one graph but its calls, and nothing that follows only from a key that could not be read."""
    if not scope.knows(graph.name, "nodes"):
        return
    place = scope.place(graph.name)
    if graph.max_retries is not None and graph.name != scope.definition.entry:
        findings.warn(place, "'max_retries' has no effect on a called graph; that of the entry graph counts")
    if scope.knows(graph.name, "input") and graph.input not in scope.nodes[graph.name]:
        known = scope.nodes[graph.name]
        findings.problem(place, f"input node {graph.input!r:.200} is not there; {hint(graph.input, known, 'nodes')}")
    for node in graph.nodes:
        _check_edges(scope, graph, node, findings)
    frames = Frames(scope, graph.name)
    for node in graph.nodes:
        _check_inputs(scope, graph, node, frames, findings)
    _check_results(scope, graph, frames, findings)


def _check_edges(scope: Scope, graph: GraphDef, node: NodeDef, findings: Findings) -> None:
    place = scope.place(graph.name, node.name)
    live = scope.is_live(graph.name, node.name)
    nodes = scope.nodes[graph.name]
    for output, target in node.outs.items():
        if target is None or target in nodes:
            continue
        if is_id(QueueId, target):
            text = f"output {output!r} leads to queue {target}, which belongs to no node of this graph"
            findings.fault(place, f"{text}; name a node of it, or null for the graph's end", live=live)
        else:
            text = f"output {output!r} leads to {target!r:.200}, which is no node of this graph"
            findings.problem(place, f"{text}; {hint(target, nodes, 'nodes')} (null leads to the graph's end)")
    info = scope.infos.get((graph.name, node.name))
    if info is not None:
        for output in sorted(node.outs.keys() - info.outputs.keys()):
            text = f"outs has {output!r}, which this kind of node does not have"
            findings.warn(place, f"{text}; {hint(output, info.outputs, 'outputs')}")
        for output in info.outputs if scope.knows(graph.name, "outs", node.name) else ():
            if output not in node.outs:
                text = f"output {output!r} is left unconnected"
                findings.fault(place, f"{text}; name the next node in 'outs', or null for the graph's end", live=live)
    ways = scope.reachable[graph.name] and scope.knows_ways(graph.name)
    if ways and not scope.is_reachable(graph.name, node.name):
        findings.warn(place, f"no way leads here from input node {graph.input!r}; it will never run")


def _check_inputs(scope: Scope, graph: GraphDef, node: NodeDef, frames: Frames, findings: Findings) -> None:
    place = scope.place(graph.name, node.name)
    live = scope.is_live(graph.name, node.name)
    info = scope.infos.get((graph.name, node.name))
    if info is not None and scope.knows(graph.name, "vmap", node.name):
        for field in info.input_format:
            if field not in node.vmap:
                text = f"input {field!r} is not connected"
                findings.fault(place, f"{text}; say in 'vmap' where it comes from", live=live)
    uniform = info is not None and all(form.is_uniform for form in info.input_format.values())
    is_inner = graph.is_block and node.name != graph.input  # where no setting has an effect, which is told elsewhere
    if node.batch_tokens is not None and uniform and not is_inner:
        findings.warn(place, "'batch_tokens' has no effect, as no input has a null dimension; use 'batch_size'")
    is_ordered = scope.is_reachable(graph.name, node.name) and scope.knows_ways(graph.name)
    for field, source in node.vmap.items():
        if info is not None and field not in info.input_format:
            text = f"vmap has {field!r}, which is no input of this kind of node"
            findings.fault(place, f"{text}; {hint(field, info.input_format, 'inputs')}", live=live)
            continue
        what = f"input {field!r}"
        if not _check_source(scope, graph, source, (place, what), findings, live=live):
            continue
        if is_ordered:
            _check_order(frames, node.name, source, (place, what), findings, live=live)
        if info is not None:
            _check_format(scope, graph, source, info.input_format[field], (place, what), findings, live=live)


def _check_results(scope: Scope, graph: GraphDef, frames: Frames, findings: Findings) -> None:
    """The graph's own vmap. Only the entry's output_format counts: a caller gets what vmap has."""
    place = scope.place(graph.name)
    live = graph.name in scope.live_graphs
    is_entry = graph.name == scope.definition.entry
    ends = frames.has_end
    ways = scope.reachable[graph.name] and scope.knows_ways(graph.name)
    if ways and not ends:
        findings.warn(place, "no way leads to the end of the graph; no task will ever leave it")
    for field, source in graph.vmap.items():
        what = f"result {field!r}"
        if not _check_source(scope, graph, source, (place, what), findings, live=live and ends):
            continue
        if ways and ends:
            _check_order(frames, None, source, (place, what), findings, live=live)
        if field in graph.output_format and is_entry:
            wanted = graph.output_format[field]
            _check_format(scope, graph, source, wanted, (place, what), findings, live=live)
        elif field in graph.output_format:
            _warn_format(scope, graph, field, source, findings)
    differing = sorted(graph.vmap.keys() ^ graph.output_format.keys())
    if not differing or not (scope.knows(graph.name, "vmap") and scope.knows(graph.name, "output_format")):
        return
    names = ", ".join(repr(field) for field in differing)
    if is_entry:
        text = f"vmap and output_format differ in {names}; the results of the entry graph need both"
        findings.fault(place, text, live=live and ends)
    else:
        findings.warn(place, f"vmap and output_format differ in {names}; callers get the fields of vmap")


def _check_source(
    scope: Scope, graph: GraphDef, source: str, where: tuple[str, str], findings: Findings, *, live: bool
) -> bool:
    """Whether the field is there at all; a fault is noted if not. False too if that cannot be told."""
    place, what = where
    name = QualifiedField.parse(source)
    if name.node is None:
        if name.field in graph.input_format:
            return True
        if not scope.knows(graph.name, "input_format"):
            return False
        text = f"{what} comes from {source!r}, which is no input of the graph"
        findings.fault(place, f"{text}; {hint(name.field, graph.input_format, 'inputs')}", live=live)
        return False
    if name.node not in scope.nodes[graph.name]:
        text = f"{what} comes from {source!r}, but there is no such node in this graph"
        findings.fault(place, f"{text}; {hint(name.node, scope.nodes[graph.name], 'nodes')}", live=live)
        return False
    info = scope.infos.get((graph.name, name.node))
    if info is None:
        return False
    fields = scope.fields_of(graph.name, name.node)
    if name.field in fields:
        if not any(name.field in declared for declared in info.outputs.values()):
            findings.warn(place, f"{what} comes from {source!r}, which the called graph gives but {name.node!r} omits")
        return True
    text = f"{what} comes from {source!r}, a field that node {name.node!r} does not give"
    for output, declared in info.outputs.items():
        callees = sorted(call.graph for call in info.calls if call.output == output)
        if name.field in declared and callees:
            text += f" (it expects it of graph {callees[0]!r}, whose vmap does not have it)"
    findings.fault(place, f"{text}; {hint(name.field, fields, 'fields')}", live=live)
    return False


def _check_order(
    frames: Frames, reader: str | None, source: str, where: tuple[str, str], findings: Findings, *, live: bool
) -> None:
    place, what = where
    node = QualifiedField.parse(source).node
    if not frames.may_have(reader, source):
        text = f"{what} comes from {source!r}, but no way leads here that brings it"
        findings.fault(place, f"{text}; connect node {node!r} before this, or take another source", live=live)
    elif not frames.must_have(reader, source):
        findings.warn(place, f"{what} comes from {source!r}, which tasks on some ways here do not have; they will fail")


def _check_format(
    scope: Scope,
    graph: GraphDef,
    source: str,
    wanted: FieldFormat,
    where: tuple[str, str],
    findings: Findings,
    *,
    live: bool,
) -> None:
    place, what = where
    given = scope.formats_of(graph.name, source)
    if not given or all(wanted.compatible(info) for info in given):
        return
    shown = " or ".join(str(info) for info in given)
    text = f"{what} is {wanted}, but {source!r} gives {shown}"
    if any(wanted.compatible(info) for info in given):
        findings.warn(place, f"{text}; tasks with another format will fail")
    else:
        findings.fault(place, f"{text}; dtype, number of dimensions and fixed sizes must agree", live=live)


def _warn_format(scope: Scope, graph: GraphDef, field: str, source: str, findings: Findings) -> None:
    wanted = graph.output_format[field]
    given = scope.formats_of(graph.name, source)
    if given and not any(wanted.compatible(info) for info in given):
        shown = " or ".join(str(info) for info in given)
        text = f"result {field!r} is {wanted} by output_format, but {source!r} gives {shown}"
        findings.warn(scope.place(graph.name), f"{text}; callers get the latter")
