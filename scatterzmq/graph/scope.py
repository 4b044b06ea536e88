"""A definition together with what its nodes are: the look-ups that all checks and the plan share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from .callgraph import circles
from .definition import GraphDef, GraphSetDef, NodeDef
from .formats import FieldFormat
from .names import QualifiedField
from .nodeinfo import NodeInfo


@dataclass(frozen=True)
class Scope:
    """What is known of a definition.

    infos: (graph, node) -> what the node is; those that could not be described are not in it.
    unread: as in reading.Parsed.
    """

    definition: GraphSetDef
    infos: Mapping[tuple[str, str], NodeInfo]
    unread: frozenset[tuple[str, str, str]]

    @cached_property
    def graphs(self) -> dict[str, GraphDef]:
        return {graph.name: graph for graph in self.definition.graphs}

    @cached_property
    def nodes(self) -> dict[str, dict[str, NodeDef]]:
        """graph -> name -> node."""
        return {graph.name: {node.name: node for node in graph.nodes} for graph in self.definition.graphs}

    @cached_property
    def reachable(self) -> dict[str, tuple[str, ...]]:
        """graph -> the nodes that a task of it can come to, in an order in which it may."""
        return {name: self._reachable(graph) for name, graph in self.graphs.items()}

    @cached_property
    def calls(self) -> dict[str, tuple[str, ...]]:
        """graph -> the graphs it can call (of those that exist), each once, in order."""
        return {
            name: tuple(
                dict.fromkeys(
                    call.graph
                    for node in nodes
                    if (name, node) in self.infos
                    for call in self.infos[name, node].calls
                    if call.graph in self.graphs
                )
            )
            for name, nodes in self.reachable.items()
        }

    @cached_property
    def live_graphs(self) -> frozenset[str]:
        """The graphs a task can come to. All of them, if the entry is not known."""
        if self.definition.entry not in self.graphs:
            return frozenset(self.graphs)
        found = {self.definition.entry}
        todo = [self.definition.entry]
        while todo:
            new = [callee for callee in self.calls[todo.pop()] if callee not in found]
            found.update(new)
            todo.extend(new)
        return frozenset(found)

    @cached_property
    def _live_nodes(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(nodes) for name, nodes in self.reachable.items()}

    def is_reachable(self, graph: str, node: str) -> bool:
        """Whether a task of the graph can come to the node."""
        return node in self._live_nodes[graph]

    def is_live(self, graph: str, node: str) -> bool:
        """Whether any task can come to the node."""
        return graph in self.live_graphs and node in self._live_nodes[graph]

    @cached_property
    def _given(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(graph.vmap) for name, graph in self.graphs.items() if self.knows(name, "vmap")}

    def place(self, graph: str, node: str | None = None) -> str:
        """ "ns:graph" or "ns:graph:node", as users see it."""
        return f"{self.definition.ns}:{graph}" + ("" if node is None else f":{node}")

    def knows(self, graph: str, key: str, node: str = "") -> bool:
        """Whether a key of a graph (of a node) could be read, with all that it holds."""
        return (graph, node, key) not in self.unread

    def knows_ways(self, graph: str) -> bool:
        """Whether all that says how tasks go through a graph could be read."""
        nodes = self.nodes[graph]
        return self.knows(graph, "input") and all(self.knows(graph, "outs", node) for node in nodes)

    def gives(self, graph: str) -> frozenset[str] | None:
        """The fields that a graph gives to its caller; None if that cannot be told."""
        return self._given.get(graph)

    def exit_fields(self, graph: str, node: str, output: str) -> tuple[frozenset[str], frozenset[str]]:
        """Fields that tasks may have, and surely have, new from a node that they leave by this output."""
        info = self.infos[graph, node]
        declared = frozenset(info.outputs[output])
        # A call brings what the called graph gives, whatever the caller expects of it.
        brought = [self.gives(call.graph) for call in info.calls if call.output == output]
        sets = [declared if fields is None else fields for fields in brought] or [declared]
        return frozenset.union(*sets), frozenset.intersection(*sets)

    def fields_of(self, graph: str, node: str) -> frozenset[str]:
        """All fields that a node can put into the frame."""
        return frozenset().union(*(self.exit_fields(graph, node, name)[0] for name in self.infos[graph, node].outputs))

    def formats_of(self, graph: str, source: str) -> tuple[FieldFormat, ...]:
        """The formats that a field may have, where it is read as `source`. Empty if that cannot be told."""
        direct, passed_on = self._formats_at(graph, source)
        made = dict.fromkeys(direct)
        for pair in passed_on:
            made.update(dict.fromkeys(self._given_formats[pair]))
        return tuple(made)

    @cached_property
    def _given_formats(self) -> dict[tuple[str, str], tuple[FieldFormat, ...]]:
        """The same for all that graphs give to callers: a field may come through calls of any depth, and circles."""
        pairs = [(name, source) for name in self._given for source in self.graphs[name].vmap.values()]
        looked_up = {pair: self._formats_at(*pair) for pair in pairs}
        made: dict[tuple[str, str], tuple[FieldFormat, ...]] = {}
        for group in circles({pair: passed_on for pair, (_, passed_on) in looked_up.items()}):
            found: dict[FieldFormat, None] = {}
            for pair in group:
                direct, passed_on = looked_up[pair]
                found.update(dict.fromkeys(direct))
                for other in passed_on:
                    found.update(dict.fromkeys(made.get(other, ())))
            made.update(dict.fromkeys(group, tuple(found)))
        return made

    def _formats_at(self, graph: str, source: str) -> tuple[list[FieldFormat], list[tuple[str, str]]]:
        """Formats that stand there, and (graph, source) of what it passes on."""
        node, field = QualifiedField.parse(source)
        if node is None:
            given = self.graphs[graph].input_format.get(field)
            return [] if given is None else [given], []
        info = self.infos.get((graph, node))
        if info is None:
            return [], []
        direct: list[FieldFormat] = []
        passed_on: list[tuple[str, str]] = []
        for output, fields in info.outputs.items():
            if field in fields:
                direct.append(fields[field])
                continue
            callees = [call.graph for call in info.calls if call.output == output]
            giving = [callee for callee in callees if field in (self.gives(callee) or ())]
            passed_on.extend((callee, self.graphs[callee].vmap[field]) for callee in giving)
        return direct, passed_on

    def _reachable(self, graph: GraphDef) -> tuple[str, ...]:
        """Reverse postorder of a depth-first walk from the input node."""
        nodes = self.nodes[graph.name]
        if graph.input not in nodes:
            return ()
        postorder: list[str] = []
        seen = {graph.input}
        work = [(graph.input, iter(self._next_of(graph.name, nodes[graph.input])))]
        while work:
            name, rest = work[-1]
            following = next(rest, None)
            if following is None:
                postorder.append(name)
                work.pop()
            elif following not in seen:
                seen.add(following)
                work.append((following, iter(self._next_of(graph.name, nodes[following]))))
        return tuple(reversed(postorder))

    def _next_of(self, graph: str, node: NodeDef) -> list[str]:
        info = self.infos.get((graph, node.name))
        outs = node.outs.items()
        return [
            target
            for output, target in outs
            if target is not None and target in self.nodes[graph] and (info is None or output in info.outputs)
        ]
