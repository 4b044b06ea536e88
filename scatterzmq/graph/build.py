"""Makes the plan of a definition that has been found sound. Parts that no task can reach are left out."""

from collections.abc import Iterable
from math import ceil

from .callgraph import below
from .closure import graph_closures, node_closure
from .definition import GraphDef, NodeDef, canonical_text, definition_digest
from .formats import FieldFormat, Format
from .frames import Frames
from .nodeinfo import NodeInfo
from .plan import GraphPlan, NodePlan, OutputPlan, Plan
from .rules import impure
from .scope import Scope


def make_plan(scope: Scope) -> Plan:
    """The plan. The definition must have no problems."""
    return _Builder(scope).plan()


class _Builder:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._closures = graph_closures(scope)
        self._impure = impure(scope)
        self._below = below(scope.calls)

    def plan(self) -> Plan:
        scope = self._scope
        text = canonical_text(scope.definition)
        live = [graph for graph in scope.definition.graphs if graph.name in scope.live_graphs]
        graphs = {graph.id: self._graph(graph) for graph in live}
        # The inner nodes of a block have no queues of their own: the executor goes through them.
        queues = {
            node.queue: node
            for graph in graphs.values()
            for node in graph.nodes.values()
            if not graph.is_block or node.id == graph.first
        }
        return Plan(
            ns=scope.definition.ns,
            entry=scope.graphs[scope.definition.entry].id,
            digest=definition_digest(text),
            definition=text,
            graphs=graphs,
            queues=queues,
            digests=any(graph.cache or any(node.cache for node in graph.nodes.values()) for graph in graphs.values()),
            blobs=self._blobs(live),
        )

    def _blobs(self, live: Iterable[GraphDef]) -> dict[str, bytes]:
        scope = self._scope
        names = [
            use.name
            for graph in live
            for node in scope.reachable[graph.name]
            for use in scope.infos[graph.name, node].blobs
        ]
        return {name: scope.definition.blobs.get(name, b"") for name in sorted(set(names))}

    def _graph(self, graph: GraphDef) -> GraphPlan:
        scope = self._scope
        nodes = scope.nodes[graph.name]
        exits = self._exits(graph)
        return GraphPlan(
            id=graph.id,
            name=graph.name,
            description=graph.description,
            first=nodes[graph.input].id,
            first_queue=nodes[graph.input].queue,
            input_format=graph.input_format,
            output_format=self._given(graph),
            outputs=graph.vmap,
            nodes={node.id: self._node(graph, node, exits[node.name]) for node in graph.nodes if node.name in exits},
            pure=graph.name not in self._impure,
            cache=graph.cache,
            is_block=graph.is_block,
            closure=self._closures[graph.name],
            below=frozenset(scope.graphs[name].id for name in self._below[graph.name]),
            max_retries=graph.max_retries,
            payload_copies=graph.payload_copies,
        )

    def _given(self, graph: GraphDef) -> Format:
        """What the graph gives: the fields of its vmap, by output_format where that can be true, else as they come."""
        made: dict[str, FieldFormat] = {}
        for field, source in graph.vmap.items():
            given = self._scope.formats_of(graph.name, source)
            wanted = graph.output_format.get(field)
            fits = wanted is not None and (not given or any(wanted.compatible(info) for info in given))
            if wanted is not None and fits:
                made[field] = wanted
            elif given:  # Nothing is known of what never comes, in a graph that never ends.
                made[field] = given[0]
        return made

    def _exits(self, graph: GraphDef) -> dict[str, dict[str, OutputPlan]]:
        """Reachable node -> output -> where it leads."""
        scope = self._scope
        queues = {node.name: node.queue for node in graph.nodes}
        drops = Frames(scope, graph.name).drops
        made: dict[str, dict[str, OutputPlan]] = {name: {} for name in scope.reachable[graph.name]}
        for (name, output), drop in drops.items():
            target = scope.nodes[graph.name][name].outs[output]
            fields = scope.infos[graph.name, name].outputs[output]
            following = None if target is None else queues[target]
            made[name][output] = OutputPlan(name=output, next=following, format=fields, drop=drop)
        return made

    def _node(self, graph: GraphDef, node: NodeDef, outputs: dict[str, OutputPlan]) -> NodePlan:
        info = self._scope.infos[graph.name, node.name]
        padded_field, padded_dim = _padded(info)
        return NodePlan(
            id=node.id,
            name=node.name,
            graph=graph.id,
            queue=node.queue,
            kind=node.kind,
            args=node.args,
            inputs=node.vmap,
            input_format=info.input_format,
            outputs=outputs,
            weight=info.weight,
            load_cost=info.load_cost,
            pure=info.pure and not any(call.graph in self._impure for call in info.calls),
            cache=node.cache and not graph.is_block,
            closure=node_closure(self._scope, graph.name, node.name, self._closures),
            calls=tuple(dict.fromkeys(self._scope.graphs[call.graph].id for call in info.calls)),
            thread_safe=self._thread_safe(graph, node),
            batch_size=node.batch_size,
            batch_tokens=node.batch_tokens,
            max_exec_ms=None if node.max_exec_s is None else max(1, ceil(node.max_exec_s * 1000)),
            padded_field=padded_field,
            padded_dim=padded_dim,
        )

    def _thread_safe(self, graph: GraphDef, node: NodeDef) -> bool:
        scope = self._scope
        if not graph.is_block:
            return scope.infos[graph.name, node.name].thread_safe
        graphs = {graph.name} | self._below[graph.name]
        return all(scope.infos[name, inner].thread_safe for name in graphs for inner in scope.reachable[name])


def _padded(info: NodeInfo) -> tuple[str | None, int]:
    """The first input with an open dimension, and which one that is."""
    for field, wanted in info.input_format.items():
        if None in wanted.shape:
            return field, wanted.shape.index(None)
    return None, 0
