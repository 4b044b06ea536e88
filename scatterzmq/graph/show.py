"""A checked definition as a text tree: graphs, their nodes, where edges lead and what flows along them."""

import json
from collections.abc import Iterable, Iterator, Mapping

from .check import Checked
from .definition import GraphDef, GraphSetDef, NodeDef
from .formats import Format
from .nodeinfo import NodeInfo
from .rules import impure
from .scope import Scope

_VALUE_LENGTH_MAX = 60


def show(checked: Checked) -> str:
    """The tree, one item per line, then problems and warnings. Ends with a newline."""
    lines: list[str] = []
    if checked.definition is not None:
        lines.extend(_namespace_lines(checked.definition, checked.infos))
    lines.extend(f"error: {problem}" for problem in checked.problems)
    lines.extend(f"warning: {warning}" for warning in checked.warnings)
    return "".join(f"{line}\n" for line in lines)


def _namespace_lines(definition: GraphSetDef, infos: Mapping[tuple[str, str], NodeInfo]) -> Iterator[str]:
    scope = Scope(definition, infos, frozenset())
    not_pure = impure(scope)
    yield f"namespace {definition.ns}, entry graph {definition.entry}"
    for position, graph in enumerate(definition.graphs):
        last = position == len(definition.graphs) - 1
        yield from _branch(_graph_lines(scope, graph, pure=graph.name not in not_pure), last=last)


def _graph_lines(scope: Scope, graph: GraphDef, *, pure: bool) -> Iterator[str]:
    flags = [
        *(["entry"] if graph.name == scope.definition.entry else []),
        *(["pure"] if pure else []),
        *(["cached"] if graph.cache else []),
        *(["block"] if graph.is_block else []),
        *(["never called"] if graph.name not in scope.live_graphs else []),
        *_settings({"max_retries": graph.max_retries, "payload_copies": graph.payload_copies}),
    ]
    yield f"graph {graph.name}" + (f" [{', '.join(flags)}]" if flags else "")
    if graph.description:
        yield f"  {' '.join(graph.description.split())}"
    yield f"  input: {_fields(graph.input_format)}"
    for field, source in graph.vmap.items():
        given = scope.formats_of(graph.name, source)
        yield f"  output: {field}{''.join(f' {info}' for info in given)} <- {source}"
    for position, node in enumerate(graph.nodes):
        yield from _branch(_node_lines(scope, graph, node), last=position == len(graph.nodes) - 1)


def _node_lines(scope: Scope, graph: GraphDef, node: NodeDef) -> Iterator[str]:
    info = scope.infos.get((graph.name, node.name))
    flags = [
        *(["start"] if node.name == graph.input else []),
        *(["not pure"] if info is not None and not info.pure else []),
        *(["cached"] if node.cache else []),
        *(["never run"] if not scope.is_reachable(graph.name, node.name) else []),
        *_settings({"batch_size": node.batch_size, "batch_tokens": node.batch_tokens, "max_exec_s": node.max_exec_s}),
    ]
    yield f"node {node.name} ({node.kind})" + (f" [{', '.join(flags)}]" if flags else "")
    if info is not None and info.doc:
        yield f"  {' '.join(info.doc.split())}"
    if node.args:
        yield "  args: " + ", ".join(f"{name}={_value(value)}" for name, value in node.args.items())
    for field, source in node.vmap.items():
        wanted = info.input_format.get(field) if info is not None else None
        yield f"  in: {field}{'' if wanted is None else f' {wanted}'} <- {source}"
    for call in info.calls if info is not None else ():
        yield f"  calls: {call.graph}({_fields(call.args)}), back by {call.output}"
    for output, target in node.outs.items():
        fields = info.outputs.get(output) if info is not None else None
        given = f" ({_fields(fields)})" if fields else ""
        yield f"  {output}{given} -> {'end of the graph' if target is None else target}"


def _branch(lines: Iterable[str], *, last: bool) -> Iterator[str]:
    """Hang these lines below what came before."""
    for number, line in enumerate(lines):
        lead = "+- " if number == 0 else "   " if last else "|  "
        yield lead + line


def _settings(values: Mapping[str, float | None]) -> list[str]:
    return [f"{name} {value:g}" for name, value in values.items() if value is not None]


def _fields(fields: Format) -> str:
    return ", ".join(f"{name} {info}" for name, info in fields.items()) or "nothing"


def _value(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _VALUE_LENGTH_MAX else f"{text[: _VALUE_LENGTH_MAX - 3]}..."
