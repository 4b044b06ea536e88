"""Who calls whom: what runs below a graph, which graphs call each other in a circle, what spreads to callers."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

_Name = TypeVar("_Name", str, tuple[str, str])


def circles(calls: Mapping[_Name, Sequence[_Name]]) -> list[tuple[_Name, ...]]:
    """The names in groups that can reach each other (one without recursion is a group of its own), callees first.

    Tarjan's algorithm, without recursion: a definition may nest calls deeper than Python's stack.
    """
    order: dict[_Name, int] = {}
    low: dict[_Name, int] = {}
    path: list[_Name] = []
    on_path: set[_Name] = set()
    groups: list[tuple[_Name, ...]] = []
    for root in calls:
        if root in order:
            continue
        work = [(root, iter(calls[root]))]
        order[root] = low[root] = len(order)
        path.append(root)
        on_path.add(root)
        while work:
            name, rest = work[-1]
            callee = next(rest, None)
            if callee is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[name])
                if low[name] == order[name]:
                    groups.append(_cut(path, on_path, name))
            elif callee not in order:
                order[callee] = low[callee] = len(order)
                path.append(callee)
                on_path.add(callee)
                work.append((callee, iter(calls[callee])))
            elif callee in on_path:
                low[name] = min(low[name], order[callee])
    return groups


def _cut(path: list[_Name], on_path: set[_Name], name: _Name) -> tuple[_Name, ...]:
    """Take the end of the path off, from `name` on."""
    group: list[_Name] = []
    while not group or group[-1] != name:
        group.append(path.pop())
    on_path.difference_update(group)
    return tuple(sorted(group))


def below(calls: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Per graph, what can run while it does; itself only if it recurses."""
    found: dict[str, frozenset[str]] = {}
    for group in circles(calls):
        under = {callee for name in group for callee in calls[name]}
        reached = frozenset(under.union(*(found[callee] for callee in under if callee in found)))
        found.update(dict.fromkeys(group, reached))
    return found


def spread(calls: Mapping[str, Sequence[str]], roots: Mapping[str, str]) -> dict[str, str]:
    """Everything that calls a root, at any depth, with the graph through which it does; a root keeps its own entry."""
    callers: dict[str, list[str]] = {name: [] for name in calls}
    for name, callees in calls.items():
        for callee in callees:
            callers[callee].append(name)
    found = dict(roots)
    todo = list(roots)
    while todo:
        callee = todo.pop()
        for caller in callers[callee]:
            if caller not in found:
                found[caller] = callee
                todo.append(caller)
    return found
