"""What the frames of one graph's tasks hold, node by node: liveness.py's answers in terms of names."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .liveness import Flow, Way
from .names import QualifiedField
from .scope import Scope


class _Exit(NamedTuple):
    """One output of a node that leads somewhere (None: to the graph's end), and the names it puts into the frame.

    declared: those of `must` that the output itself has, whichever way tasks leave by it.
    """

    node: str
    output: str
    target: str | None
    may: tuple[str, ...]
    must: tuple[str, ...]
    declared: tuple[str, ...]


@dataclass(frozen=True)
class Frames:
    """Only for reachable nodes; the graph's end is None."""

    scope: Scope
    graph: str

    @property
    def has_end(self) -> bool:
        """Whether any edge leads to the graph's end."""
        return any(way.target is None for way in self._exits)

    def may_have(self, node: str | None, source: str) -> bool:
        """Whether some task that comes to the node has this name in its frame."""
        return bool(self._flow.may_have[self._position[node]] >> self._names[source] & 1)

    def must_have(self, node: str | None, source: str) -> bool:
        """Whether every task that comes to the node has this name in its frame."""
        return bool(self._flow.must_have[self._position[node]] >> self._names[source] & 1)

    @cached_property
    def drops(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """(node, output) -> names that nobody reads any more once a task has left this way."""
        names = list(self._names)
        made = {}
        for way, bits in zip(self._exits, self._flow.drops, strict=True):
            dropped = []
            while bits:
                lowest = bits & -bits
                dropped.append(names[lowest.bit_length() - 1])
                bits ^= lowest
            made[way.node, way.output] = tuple(sorted(dropped))
        return made

    @cached_property
    def _sources(self) -> dict[str, QualifiedField]:
        """Everything that is read."""
        nodes = self.scope.nodes[self.graph]
        read = [source for name in self.scope.reachable[self.graph] for source in nodes[name].vmap.values()]
        read.extend(self.scope.graphs[self.graph].vmap.values())
        return {source: QualifiedField.parse(source) for source in read}

    @cached_property
    def _exits(self) -> list[_Exit]:
        wanted: dict[str, list[str]] = {}
        for text, source in self._sources.items():
            if source.node is not None:
                wanted.setdefault(source.node, []).append(text)
        made = []
        nodes = self.scope.nodes[self.graph]
        for name in self.scope.reachable[self.graph]:
            info = self.scope.infos.get((self.graph, name))
            for output, target in nodes[name].outs.items():
                if target is not None and target not in nodes:
                    continue
                if info is None:  # It may have whatever somebody wants of it: what is wrong with it is told elsewhere.
                    every = tuple(wanted.get(name, ()))
                    made.append(_Exit(name, output, target, every, every, ()))
                elif output in info.outputs:
                    may, must = self.scope.exit_fields(self.graph, name, output)
                    declared = must & info.outputs[output].keys()
                    made.append(_Exit(name, output, target, *(_named(name, part) for part in (may, must, declared))))
        return made

    @cached_property
    def _position(self) -> dict[str | None, int]:
        order: tuple[str | None, ...] = (*self.scope.reachable[self.graph], None)
        return {name: number for number, name in enumerate(order)}

    @cached_property
    def _names(self) -> dict[str, int]:
        """Name in the frame -> its number."""
        names = dict.fromkeys(f":{field}" for field in self.scope.graphs[self.graph].input_format)
        for way in self._exits:
            names.update(dict.fromkeys(way.may))
        names.update(dict.fromkeys(self._sources))
        return {name: number for number, name in enumerate(names)}

    @cached_property
    def _flow(self) -> Flow:
        graph = self.scope.graphs[self.graph]
        nodes = self.scope.nodes[self.graph]
        reads = [self._bits(nodes[name].vmap.values()) for name in self.scope.reachable[self.graph]]
        ways = [
            Way(
                source=self._position[way.node],
                target=self._position[way.target],
                may=self._bits(way.may),
                must=self._bits(way.must),
                kills=self._bits(way.declared),
            )
            for way in self._exits
        ]
        start = self._bits(f":{field}" for field in graph.input_format)
        return Flow(start=start, reads=[*reads, self._bits(graph.vmap.values())], ways=ways)

    def _bits(self, names: Iterable[str]) -> int:
        bits = 0
        for name in names:
            bits |= 1 << self._names[name]
        return bits


def _named(node: str, fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{node}:{field}" for field in sorted(fields))
