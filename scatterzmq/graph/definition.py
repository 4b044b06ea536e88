"""The definition: what a user wrote, in normal form: ids filled in, edges by node name, defaults explicit.

So definitions that mean the same are equal and have the same digest. `graph/reading.py` makes one from JSON and checks
its form; `graph/check.py` checks whether it can run.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from hashlib import blake2b
from os import PathLike
from pathlib import Path

from ..errors import GraphError
from ..frozen import frozen
from ..ids import OUTPUT_QUEUE, GraphId, NodeId, QueueId
from .formats import Format


@frozen()
class NodeDef:
    """One node.

    args: plain JSON values; an argument that is null is left out, as it means the same.
    vmap: field of the node -> "node:field", or ":field" of the graph's input.
    outs: name of an output -> name of the next node, or None for the graph's end. A queue id that belongs to no node of
        the graph is left as it is.
    """

    name: str
    kind: str
    id: NodeId
    queue: QueueId
    args: Mapping[str, object]
    vmap: Mapping[str, str]
    outs: Mapping[str, str | None]
    cache: bool = False
    max_exec_s: float | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None


@frozen()
class GraphDef:
    """One graph.

    input: name of the node where tasks start.
    vmap: field of the result -> "node:field" or ":field". These fields are what the graph gives to whoever calls it.
    """

    name: str
    id: GraphId
    description: str
    input: str
    input_format: Format
    output_format: Format
    vmap: Mapping[str, str]
    nodes: tuple[NodeDef, ...]
    cache: bool = False
    is_block: bool = False
    max_retries: int | None = None
    payload_copies: int | None = None

    def node(self, name: str) -> NodeDef | None:
        """O(nodes)."""
        return next((node for node in self.nodes if node.name == name), None)


@frozen()
class GraphSetDef:
    """A namespace. entry: name of the graph that gets the tasks.

    blobs: name -> digest of its bytes (32 bytes), of those for which it is settled.
    """

    ns: str
    entry: str
    graphs: tuple[GraphDef, ...]
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    def graph(self, name: str) -> GraphDef | None:
        """O(graphs)."""
        return next((graph for graph in self.graphs if graph.name == name), None)

    def nodes(self) -> Iterator[tuple[GraphDef, NodeDef]]:
        for graph in self.graphs:
            for node in graph.nodes:
                yield graph, node


def file_text(path: str | PathLike[str]) -> str:
    """The text of a definition file. Raises GraphError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise GraphError(f"cannot read graph file {str(path)!r}: {error.strerror or error}; check the path") from error
    except ValueError as error:  # Bytes that are no UTF-8, or a path with a NUL in it.
        raise GraphError(f"cannot read graph file {str(path)!r}: {error}; it must be JSON in UTF-8") from error


def to_json(definition: GraphSetDef, *, with_ids: bool = False) -> dict[str, object]:
    """The definition as a new JSON object; reading it gives the same definition again.

    with_ids: all ids, and edges by queue id, so that graphs and nodes can be renamed and keep their ids. Otherwise only
        ids that do not follow from the names.
    """
    ns = definition.ns
    graphs = [_graph_json(ns, graph, with_ids=with_ids) for graph in definition.graphs]
    entry = definition.entry
    named = definition.graph(entry)
    if named is not None and is_id(GraphId, entry):
        entry = named.id  # A name that looks like an id would be taken for one.
    made: dict[str, object] = {"ns": ns, "entry": entry, "graphs": graphs}
    if definition.blobs:
        made["blobs"] = {name: digest.hex() for name, digest in definition.blobs.items()}
    return made


def canonical_text(definition: GraphSetDef) -> str:
    """The one JSON text of a definition, ASCII only: equal definitions have equal texts."""
    return json.dumps(to_json(definition), sort_keys=True, separators=(",", ":"), allow_nan=False)


def definition_digest(text: str) -> bytes:
    """32 bytes that identify a canonical text."""
    return blake2b(text.encode("ascii"), digest_size=32, person=b"scatterzmq.graph").digest()


def is_id(kind: type[GraphId | QueueId], text: str) -> bool:
    """Whether the text would be taken for an id of this kind."""
    try:
        kind.parse(text[:1] + text[1:].lower())
    except ValueError:
        return False
    return True


def _graph_json(ns: str, graph: GraphDef, *, with_ids: bool) -> dict[str, object]:
    queues = {node.name: node.queue for node in graph.nodes}
    made: dict[str, object] = {"name": graph.name, "description": graph.description, "input": graph.input}
    if with_ids or graph.id != GraphId.of(ns, graph.name):
        made["graph_id"] = str(graph.id)
    made["input_format"] = _format_json(graph.input_format)
    made["output_format"] = _format_json(graph.output_format)
    made["vmap"] = dict(graph.vmap)
    made |= {"cache": graph.cache, "is_block": graph.is_block}
    made |= _given({"max_retries": graph.max_retries, "payload_copies": graph.payload_copies})
    made["nodes"] = [_node_json(ns, graph.name, node, queues, with_ids=with_ids) for node in graph.nodes]
    return made


def _node_json(
    ns: str, graph: str, node: NodeDef, queues: Mapping[str, QueueId], *, with_ids: bool
) -> dict[str, object]:
    made: dict[str, object] = {"name": node.name, "kind": node.kind}
    if with_ids or node.id != NodeId.of(ns, graph, node.name):
        made["node_id"] = str(node.id)
    if with_ids or node.queue != QueueId.of(ns, graph, node.name):
        made["qin"] = str(node.queue)
    made["args"] = _copied(node.args)
    made["vmap"] = dict(node.vmap)
    made["outs"] = {output: _edge_json(target, queues, with_ids=with_ids) for output, target in node.outs.items()}
    made["cache"] = node.cache
    return made | _given(
        {"max_exec_s": node.max_exec_s, "batch_size": node.batch_size, "batch_tokens": node.batch_tokens}
    )


def _edge_json(target: str | None, queues: Mapping[str, QueueId], *, with_ids: bool) -> str | None:
    if target is None:
        return str(OUTPUT_QUEUE) if with_ids else None
    if with_ids or is_id(QueueId, target):  # As for the entry: such a name would be taken for a queue.
        return str(queues.get(target, target))
    return target


def _format_json(fields: Format) -> dict[str, object]:
    return {name: info.to_json() for name, info in fields.items()}


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _copied(value: object) -> object:
    """A deep copy, so that nobody changes the definition through what it was written to."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
