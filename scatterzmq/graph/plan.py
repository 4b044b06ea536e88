"""The plan: a checked definition in the form in which it runs. Immutable, no torch; made by graph/check.py."""

from collections.abc import Mapping
from dataclasses import field

from ..frozen import frozen
from ..ids import GraphId, NodeId, QueueId
from .formats import Format


@frozen(eq=False)
class OutputPlan:
    """One way out of a node.

    next: the queue where tasks go that leave this way; None at the end of the graph.
    format: fields that leave this way. `keys` are their names in the frame ("node:field").
    drop: names in the frame that nobody downstream reads any more, to be freed when a task leaves this way.
    """

    name: str
    next: QueueId | None
    format: Format
    drop: tuple[str, ...]


@frozen(eq=False)
class NodePlan:
    """One node with its input queue.

    inputs: field of the node -> name in the frame (":field" for the graph's input, else "node:field").
    padded_field / padded_dim: the first input field with an open dimension and the index of that dimension,
        by which batches of similar length are formed; None if all inputs are uniform.
    batch_size / batch_tokens / max_exec_ms: None where the peer's setting holds.
    thread_safe: whether one process may run several batches of it at once; for the first node of a block that holds for
        all nodes that the block runs.
    cache: whether this node's results are cached (key: closure and inputs).
    closure: 32 bytes that change when anything changes that its result depends on.
    """

    id: NodeId
    name: str
    graph: GraphId
    queue: QueueId
    kind: str
    args: Mapping[str, object]
    inputs: Mapping[str, str]
    input_format: Format
    outputs: Mapping[str, OutputPlan]
    weight: float
    load_cost: float
    pure: bool
    cache: bool
    closure: bytes
    calls: tuple[GraphId, ...] = ()
    thread_safe: bool = False
    batch_size: int | None = None
    batch_tokens: int | None = None
    max_exec_ms: int | None = None
    padded_field: str | None = None
    padded_dim: int = 0


@frozen(eq=False)
class GraphPlan:
    """One graph of a namespace.

    outputs: field of the graph's result -> name in the frame.
    below: graphs that can run while this one does (through calls, at any depth); contains itself if it recurses.
    """

    id: GraphId
    name: str
    description: str
    first: NodeId
    first_queue: QueueId
    input_format: Format
    output_format: Format
    outputs: Mapping[str, str]
    nodes: Mapping[NodeId, NodePlan]
    pure: bool
    cache: bool
    is_block: bool
    closure: bytes
    below: frozenset[GraphId]
    max_retries: int | None = None
    payload_copies: int | None = None


@frozen(eq=False)
class Plan:
    """One namespace: a set of graphs with one entry.

    digest: 32 bytes over the whole definition; the identity of this plan.
    definition: the canonical JSON text it was made from (`graph/definition.py` reads it back).
    digests: whether blocks need content digests because something in here caches.
    blobs: what nodes read -> digest of its bytes, or b"" where that is not settled.
    """

    ns: str
    entry: GraphId
    digest: bytes
    definition: str
    graphs: Mapping[GraphId, GraphPlan]
    queues: Mapping[QueueId, NodePlan]
    digests: bool
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    def qualified(self, graph: GraphId) -> str:
        """ "ns:graph", as users see it."""
        return f"{self.ns}:{self.graphs[graph].name}"

    def place(self, node: NodePlan) -> str:
        """ "ns:graph:node", as users see it."""
        return f"{self.ns}:{self.graphs[node.graph].name}:{node.name}"
