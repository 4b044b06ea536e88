"""Needed: which fields the owner of a task needs itself, as they become part of its result or of a cached value.

Why     Such a field travels with the commit that makes it, however large it is, and however much later the task ends:
        so no task has to fetch anything when it ends, and no cached value can be lost with another peer. All others
        are needed only where the next node runs.
"""

from ..graph.plan import Plan
from ..ids import GraphId

ALL = ""
"""Stands for all outputs of a graph that runs as a block."""


def needed(plan: Plan) -> frozenset[tuple[GraphId, str]]:
    """(graph, name in its frame) of all these fields. Rather one too many: a called graph is looked at as a whole."""
    graphs = plan.graphs
    answers = {graph.id for graph in graphs.values() if graph.id == plan.entry or graph.cache}
    fields = {
        (graph.id, f"{node.name}:{field}")
        for graph in graphs.values()
        for node in graph.nodes.values()
        if node.cache
        for output in node.outputs.values()
        for field in output.format
    }
    calls = [
        (called, graph, node)
        for graph in graphs.values()
        for node in graph.nodes.values()
        for called in node.calls
        if called in graphs
    ]
    found = -1
    while found < len(answers):  # what a graph gives is needed if what its caller makes of it is
        found = len(answers)
        for called, graph, node in calls:
            read = any(source.startswith(f"{node.name}:") for source in graph.outputs.values())
            if node.cache or (read and graph.id in answers):
                answers.add(called)
    for graph_id in sorted(answers):
        fields.add((graph_id, ALL))
        fields.update((graph_id, source) for source in graphs[graph_id].outputs.values())
    return frozenset(fields)
