"""Closures: digests over everything that a result depends on besides its inputs. They are part of a cache key.

Not in them: namespace, ids, descriptions, and settings that only say how to run. So the same graph shares its cached
results wherever it is loaded, and a changed one never finds old results; neither does one with other bytes in a blob.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b

from .callgraph import circles
from .formats import Format
from .scope import Scope

_BYTES = 32


def graph_closures(scope: Scope) -> dict[str, bytes]:
    """Live graph -> closure, over its nodes, edges and maps and the closures of the graphs it calls."""
    found: dict[str, bytes] = {}
    for group in circles({name: scope.calls[name] for name in sorted(scope.live_graphs)}):  # Callees come first.
        texts = {name: _graph_text(scope, name, group, found) for name in group}
        if len(group) == 1:
            found[group[0]] = _digest(b"graph", [texts[group[0]]])
            continue
        # Each depends on each: all share one digest, told apart by their own text.
        circle = _digest(b"circle", [[name, texts[name]] for name in group])
        found.update({name: _digest(b"member", [texts[name], circle.hex()]) for name in group})
    return found


def node_closure(scope: Scope, graph: str, node: str, graphs: Mapping[str, bytes]) -> bytes:
    """Closure of a single node."""
    callees = [[call.graph, call.output, graphs[call.graph].hex()] for call in scope.infos[graph, node].calls]
    return _digest(b"node", [_node_text(scope, graph, node), callees])


def _graph_text(scope: Scope, name: str, group: tuple[str, ...], found: Mapping[str, bytes]) -> list[object]:
    graph = scope.graphs[name]
    nodes = []
    for node_name in sorted(scope.reachable[name]):
        node = scope.nodes[name][node_name]
        calls = [
            [call.graph, call.output, "" if call.graph in group else found[call.graph].hex()]
            for call in scope.infos[name, node_name].calls
        ]
        nodes.append([node_name, _node_text(scope, name, node_name), dict(node.vmap), dict(node.outs), calls])
    return [graph.input, _formats(graph.input_format), dict(graph.vmap), nodes]


def _node_text(scope: Scope, graph: str, name: str) -> list[object]:
    node = scope.nodes[graph][name]
    info = scope.infos[graph, name]
    outputs = {output: _formats(fields) for output, fields in info.outputs.items()}
    text: list[object] = [node.kind, node.args, _formats(info.input_format), outputs]
    blobs = {use.name: scope.definition.blobs.get(use.name, b"").hex() for use in info.blobs}
    return [*text, blobs] if blobs else text


def _formats(fields: Format) -> dict[str, object]:
    return {name: [info.dtype.name, list(info.shape)] for name, info in fields.items()}


def _digest(what: bytes, value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(text.encode("ascii"), digest_size=_BYTES, person=b"szmq." + what).digest()
