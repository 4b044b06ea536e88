"""Reads a definition from a dict or a JSON text. Anything may come in; each fault becomes one line with its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ..ids import OUTPUT_QUEUE, GraphId, NodeId, QueueId
from .definition import GraphDef, GraphSetDef, NodeDef, is_id
from .findings import Findings, Record, refusal, shown
from .formats import DTYPES, FieldFormat, Format
from .jsonvalues import parse_json, plain
from .names import QualifiedField, check_name, hint

_SET_KEYS = frozenset({"ns", "entry", "graphs", "blobs"})
_GRAPH_KEYS = frozenset(
    {"graph_id", "name", "description", "input", "input_format", "output_format", "vmap", "nodes", "is_block", "cache"}
    | {"max_retries", "payload_copies"}
)
_NODE_KEYS = frozenset(
    {"node_id", "name", "kind", "args", "qin", "outs", "vmap", "max_exec_s", "batch_size", "batch_tokens", "cache"}
)

_GRAPHS_MAX = 1024
_NODES_MAX = 1 << 14  # Of all graphs together. Checking needs time and memory per node and field it can hold.
_RETRIES_MAX = 1000
_COPIES_MAX = 128  # A cluster has no more peers.
_BATCH_MAX = 1 << 16
_TOKENS_MAX = 1 << 40
_EXEC_S_MAX = 30 * 24 * 3600.0
_RANK_MAX = 16
_DIM_MAX = (1 << 48) - 1
_BLOB_DIGEST = re.compile("[0-9a-f]{64}")

_Id = TypeVar("_Id", GraphId, NodeId, QueueId)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What could be read.

    definition: None if there is nothing to go on with. Otherwise it has everything that could be named.
    unread: (graph, node, key) of which something could not be read, (graph, "", key) for the graph's own; what is wrong
        with them is among the problems already. "nodes" is among them if a node has no name.
    """

    definition: GraphSetDef | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    unread: frozenset[tuple[str, str, str]]


def parse(source: Mapping[str, object] | str) -> Parsed:
    """Read a definition. Never raises; `source` is copied."""
    findings = Findings()
    raw: object = parse_json(source, findings) if isinstance(source, str) else source
    value = None if findings.problems else plain(raw, findings)
    if not findings.problems and not isinstance(value, dict):
        findings.problem("definition", f"expected an object with 'entry' and 'graphs', got {shown(value)}")
    if findings.problems or not isinstance(value, dict):
        return Parsed(
            definition=None, problems=tuple(findings.problems), warnings=tuple(findings.warnings), unread=frozenset()
        )
    reader = _Reader(findings)
    definition = reader.graph_set(value)
    problems, warnings = findings.settled()
    return Parsed(definition=definition, problems=problems, warnings=warnings, unread=frozenset(reader.unread))


def read(source: Mapping[str, object] | str) -> GraphSetDef:
    """The definition of a dict or a JSON text. Raises GraphError with all problems of its form, one per line."""
    parsed = parse(source)
    if parsed.problems or parsed.definition is None:
        raise refusal(parsed.problems)
    return parsed.definition


class _Reader:
    """Walks a definition that is plain JSON. Ids must be unique over the whole of it."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._ns = "?"
        self._graph_ids: dict[GraphId, str] = {}
        self._node_ids: dict[NodeId, str] = {}
        self._queues: dict[QueueId, str] = {OUTPUT_QUEUE: "the graph's output (reserved)"}
        self.unread: set[tuple[str, str, str]] = set()

    def graph_set(self, value: Mapping[str, object]) -> GraphSetDef | None:
        record = Record(value, "definition", self._findings)
        record.warn_unknown(_SET_KEYS)
        entry = record.text("entry")
        ns = entry if record.optional("ns") is None else record.text("ns")
        if ns is not None and (entry is not None or record.optional("ns") is not None):
            self._ns = self._name(record, ns, "namespace", "ns") or "?"
        items = record.sequence("graphs")
        if items is None:
            return None
        if not items:
            record.problem("key 'graphs': the list is empty; a definition needs at least its entry graph")
        if self._too_many(record, items):
            return None
        graphs: dict[str, GraphDef] = {}
        for index, item in enumerate(items):
            graph = self._graph(item, index, graphs)
            if graph is not None:
                graphs[graph.name] = graph
        if entry is None:
            return None
        named = self._entry(record, entry, graphs)
        return GraphSetDef(ns=self._ns, entry=named, graphs=tuple(graphs.values()), blobs=self._blobs(record))

    def _blobs(self, record: Record) -> dict[str, bytes]:
        made: dict[str, bytes] = {}
        for name, digest in record.mapping("blobs", required=False).items():
            if isinstance(digest, str) and _BLOB_DIGEST.fullmatch(digest):
                made[name] = bytes.fromhex(digest)
            else:
                record.wrong(f"blobs.{name:.80}", "a digest, 64 digits of 0-9a-f (or leave it out)", digest)
        return made

    def _too_many(self, record: Record, items: list[object]) -> bool:
        lists = (item.get("nodes") for item in items if isinstance(item, dict))
        nodes = sum(len(inner) for inner in lists if isinstance(inner, list))
        if len(items) > _GRAPHS_MAX:
            record.problem(f"{len(items)} graphs are too many for one namespace; at most {_GRAPHS_MAX} are allowed")
        if nodes > _NODES_MAX:
            record.problem(f"{nodes} nodes are too many for one namespace; at most {_NODES_MAX} are allowed")
        return len(items) > _GRAPHS_MAX or nodes > _NODES_MAX

    def _entry(self, record: Record, entry: str, graphs: Mapping[str, GraphDef]) -> str:
        if is_id(GraphId, entry):
            wanted = entry[:1] + entry[1:].lower()
            named = next((name for name, graph in graphs.items() if graph.id == wanted), None)
            if named is not None:
                return named
        if entry not in graphs:
            record.problem(f"entry graph {entry!r:.200} is not there; {hint(entry, graphs, 'graphs')}")
        return entry

    def _graph(self, item: object, index: int, others: Mapping[str, GraphDef]) -> GraphDef | None:
        record = self._record(item, f"{self._ns}:graphs[{index}]")
        name = self._own_name(record, "graph") if record is not None else None
        if record is None or name is None:
            return None
        record.place = f"{self._ns}:{name}"
        record.warn_unknown(_GRAPH_KEYS)
        if name in others:
            record.problem("there are two graphs of this name; rename one")
            return None
        graph_id = self._id(record, "graph_id", GraphId, GraphId.of(self._ns, name), self._graph_ids)
        first = record.text("input")
        input_format = self._format(record, "input_format")
        output_format = self._format(record, "output_format")
        vmap = self._vmap(record, required=True)
        cache, is_block = record.flag("cache"), record.flag("is_block")
        max_retries = record.count("max_retries", 0, _RETRIES_MAX)
        payload_copies = record.count("payload_copies", 1, _COPIES_MAX)
        nodes = self._nodes(record, name)
        self.unread.update((name, "", key) for key in record.unread)
        return GraphDef(
            name=name, id=graph_id, description=self._description(record), input=first or "",
            input_format=input_format, output_format=output_format, vmap=vmap, nodes=nodes,
            cache=cache, is_block=is_block, max_retries=max_retries, payload_copies=payload_copies,
        )  # fmt: skip

    def _nodes(self, record: Record, graph: str) -> tuple[NodeDef, ...]:
        found: dict[str, tuple[NodeDef, Record]] = {}
        for index, item in enumerate(record.sequence("nodes") or ()):
            inner = self._record(item, f"{record.place}:nodes[{index}]")
            name = self._own_name(inner, "node") if inner is not None else None
            if inner is None or name is None:
                record.unread.add("nodes")  # What the node was for, nobody knows: its graph cannot be judged any more.
                continue
            inner.place = f"{record.place}:{name}"
            inner.warn_unknown(_NODE_KEYS)
            if name in found:
                inner.problem("there are two nodes of this name in the graph; rename one")
                continue
            found[name] = (self._node(inner, graph, name), inner)
        queues = {node.queue: name for name, (node, _) in found.items()}
        made = []
        for name, (node, inner) in found.items():
            outs = self._outs(inner, queues)
            self.unread.update((graph, name, key) for key in inner.unread)
            made.append(replace(node, outs=outs))
        return tuple(made)

    def _node(self, record: Record, graph: str, name: str) -> NodeDef:
        kind = record.text("kind")
        if kind == "":
            record.problem("key 'kind' is empty; name a kind of node, for instance 'constant_op'", "kind")
        args = record.mapping("args", required=False)
        return NodeDef(
            name=name,
            kind=kind or "",
            id=self._id(record, "node_id", NodeId, NodeId.of(self._ns, graph, name), self._node_ids),
            queue=self._id(record, "qin", QueueId, QueueId.of(self._ns, graph, name), self._queues),
            args={key: value for key, value in args.items() if value is not None},
            vmap=self._vmap(record, required=False),
            outs={},
            cache=record.flag("cache"),
            max_exec_s=record.seconds("max_exec_s", _EXEC_S_MAX),
            batch_size=record.count("batch_size", 1, _BATCH_MAX),
            batch_tokens=record.count("batch_tokens", 1, _TOKENS_MAX),
        )

    def _outs(self, record: Record, queues: Mapping[QueueId, str]) -> dict[str, str | None]:
        made: dict[str, str | None] = {}
        for output, target in record.mapping("outs", required=False).items():
            if self._name(record, output, "output", "outs") is None:
                continue
            if target is None:
                made[output] = None
            elif not isinstance(target, str):
                record.wrong(f"outs.{output}", "the name of a node, a queue id, or null", target)
            elif is_id(QueueId, target):
                queue = QueueId(target[:1] + target[1:].lower())
                made[output] = None if queue == OUTPUT_QUEUE else queues.get(queue, queue)
            else:
                made[output] = target
        return made

    def _vmap(self, record: Record, *, required: bool) -> dict[str, str]:
        made: dict[str, str] = {}
        for field, source in record.mapping("vmap", required=required).items():
            try:
                made[check_name(field, "field")] = str(QualifiedField.parse(source))
            except ValueError as error:
                record.problem(f"vmap of {field!r:.80}: {error}", "vmap")
        return made

    def _format(self, record: Record, key: str) -> Format:
        made: dict[str, FieldFormat] = {}
        for field, info in record.mapping(key, required=True).items():
            try:
                made[check_name(field, "field")] = field_format(info)
            except ValueError as error:
                record.problem(f"{key} of {field!r:.80}: {error}", key)
        return made

    def _description(self, record: Record) -> str:
        value = record.optional("description")
        return "" if value is None else value if isinstance(value, str) else shown(value)

    def _record(self, item: object, place: str) -> Record | None:
        if not isinstance(item, dict):
            self._findings.problem(place, f"expected an object, got {shown(item)}")
            return None
        return Record(item, place, self._findings)

    def _own_name(self, record: Record, what: str) -> str | None:
        text = record.text("name")
        return None if text is None else self._name(record, text, what, "name")

    def _name(self, record: Record, text: str, what: str, key: str) -> str | None:
        try:
            return check_name(text, what)
        except ValueError as error:
            record.problem(str(error), key)
            return None

    def _id(self, record: Record, key: str, kind: type[_Id], derived: _Id, taken: dict[_Id, str]) -> _Id:
        """The id that is given, else the one that follows from the names; noted as taken."""
        made = self._given_id(record, key, kind, derived)
        if made in taken:
            record.problem(f"{key} {made} is that of {taken[made]} already; each needs its own", key)
        taken.setdefault(made, record.place)
        return made

    def _given_id(self, record: Record, key: str, kind: type[_Id], derived: _Id) -> _Id:
        text = record.optional(key)
        if text is None:
            return derived
        if not isinstance(text, str):
            record.wrong(key, f"an id like {derived}", text)
            return derived
        try:
            return kind.parse(text[:1] + text[1:].lower())
        except ValueError as error:
            record.problem(f"key {key!r}: {error}", key)
            return derived


def field_format(value: object) -> FieldFormat:
    """[dtype, shape] of one field, from JSON. Raises ValueError with the reason."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f'expected [dtype, shape] like ["float", [2, null]], got {shown(value)}')
    dtype, shape = value
    if not isinstance(dtype, str):
        raise ValueError(f"expected the name of a dtype, got {shown(dtype)}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r:.80}; {hint(dtype, DTYPES, 'dtypes')}")
    if not isinstance(shape, list | tuple):
        raise ValueError(f"expected a shape like [2, null], got {shown(shape)}")
    if len(shape) > _RANK_MAX:
        raise ValueError(f"the shape has {len(shape)} dimensions; at most {_RANK_MAX} are allowed")
    return FieldFormat(dtype, tuple(None if size is None else _dimension(size) for size in shape))


def _dimension(size: object) -> int:
    """A fixed dimension. 2.0 and "2" are taken as 2, since scattermind does."""
    made: object = size
    is_text = isinstance(size, str) and size.isascii() and size.isdigit() and len(size) < 20
    if is_text or (isinstance(size, float) and size.is_integer()):
        assert isinstance(size, str | float)
        made = int(size)
    if isinstance(made, bool) or not isinstance(made, int) or not 0 <= made <= _DIM_MAX:
        raise ValueError(f"expected a dimension of at least 0, or null, got {shown(size)}")
    return made
