"""Events as bytes and back, and what tells two actions apart.

Rules     1. Events are packed as records are on the wire (wire/schema.py). Of tensors only what the core knows of them:
             where rows lie, their layout and digests, never their bytes.
          2. A kind's number never changes and is never used again.
          3. An action is told by its kind and a digest of all that is in it: enough to see that another one came.
Why       A core that gets the same events asks for the same actions, so the events are the whole story of a peer.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from ..core.actions import (
    AbandonExecutor,
    Action,
    BatchOrder,
    CheckGraph,
    CloseLink,
    Dial,
    FreeBlocks,
    KeepBlocks,
    Left,
    OpenLink,
    Persist,
    Publish,
    Report,
    RetirePlan,
    RowsCancelled,
    RunBatch,
    Send,
    Tell,
)
from ..core.entries import (
    DefinitionGone,
    DefinitionText,
    Deleted,
    Forgotten,
    Identity,
    Kept,
    Lapsed,
    Neighbour,
    NeighbourGone,
    Pointed,
)
from ..core.events import (
    BatchExpected,
    BatchFinished,
    BlocksEvicted,
    ClientLost,
    Emitted,
    Event,
    ExecutorLost,
    ExecutorStarted,
    GraphChecked,
    LeaveRequested,
    LinkDown,
    MessageReceived,
    PeerReceived,
    PeerSeen,
    Persisted,
    PersistFailed,
    Restored,
    TimerFired,
)
from ..core.peermessages import AnyMessage
from ..core.values import Block, Value
from ..graph.plan import GraphPlan, NodePlan, OutputPlan, Plan
from ..ids import BlockId, ClientId, GraphId, PeerId, QueueId
from ..wire.frames import packed
from ..wire.refusal import Limits, Reject, WireError
from ..wire.schema import Codec, knows, pack, record, unpack

LIMITS = Limits(items=1 << 26, rows=1 << 26, rank=64, name_chars=1 << 16, depth=64)
"""A recording is our own; these only keep nonsense from taking all memory."""
MARK_BYTES = 8
"""Of what tells an action: its kind, and a digest."""

_Raw: TypeAlias = Any


def _refused(expected: str, raw: object) -> WireError:
    return WireError(Reject.FIELD, f"expected {expected}, got {type(raw).__name__}")


def _guarded(unpack: Callable[[_Raw, Limits], Any], expected: str) -> Callable[[object, Limits], Any]:
    """`unpack`, which may stumble over anything that was not written by us."""

    def guarded(raw: object, limits: Limits) -> Any:
        try:
            return unpack(raw, limits)
        except WireError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError):
            raise _refused(expected, raw) from None

    return guarded


def _codec(pack: Callable[[Any], object], unpack: Callable[[_Raw, Limits], Any], expected: str) -> Codec:
    return Codec(pack, _guarded(unpack, expected))


def _optional(codec: Codec) -> Codec:
    return Codec(
        lambda value: None if value is None else codec.pack(value),
        lambda raw, limits: None if raw is None else codec.unpack(raw, limits),
    )


def _many(codec: Codec) -> Codec:
    return _codec(
        lambda values: [codec.pack(value) for value in values],
        lambda raw, limits: tuple([codec.unpack(entry, limits) for entry in raw]),
        "a list",
    )


def _named(codec: Codec) -> Codec:
    """A mapping of names, in its order."""
    return _codec(
        lambda mapping: [[name, codec.pack(value)] for name, value in mapping.items()],
        lambda raw, limits: {name: codec.unpack(value, limits) for name, value in raw},
        "pairs of a name and a value",
    )


def _one_of(kinds: Mapping[int, tuple[type, Codec]]) -> Codec:
    """Of several types, each with a number."""
    numbers = {kind: (number, codec) for number, (kind, codec) in kinds.items()}

    def packed_one(value: object) -> object:
        number, codec = numbers[type(value)]
        return (number, codec.pack(value))

    return _codec(packed_one, lambda raw, limits: kinds[raw[0]][1].unpack(raw[1], limits), "[kind, fields]")


# ---- what the core knows of tensors


def _pack_block_id(block: BlockId) -> object:
    return (block.maker, block.counter)


def _unpack_block_id(raw: _Raw, _: Limits) -> BlockId:
    maker, counter = raw
    return BlockId((PeerId if maker[0] == PeerId.PREFIX else ClientId).parse(maker), int(counter))


_BLOCK_ID = _codec(_pack_block_id, _unpack_block_id, "[maker, counter]")
_BLOCK = record(Block, {"id": _BLOCK_ID})


def _pack_rows(values: Iterable[Value]) -> object:
    """By block, because there are many rows of few blocks, and each of them is one and the same for all its rows."""
    return [
        (_BLOCK.pack(block), [row for _, row in rows]) for block, rows in groupby(values, key=lambda value: value[0])
    ]


def _unpack_rows(raw: _Raw, limits: Limits) -> tuple[Value, ...]:
    blocks: dict[BlockId, Block] = {}
    values: list[Value] = []
    for fields, rows in raw:
        block = _BLOCK.unpack(fields, limits)
        block = blocks.setdefault(block.id, block)
        values += [(block, int(row)) for row in rows]
    return tuple(values)


_ROWS = _codec(_pack_rows, _unpack_rows, "[block, rows] each")
_VALUE = _codec(lambda value: _pack_rows((value,)), lambda raw, limits: _unpack_rows(raw, limits)[0], "[block, row]")


# ---- plans


_PLAIN = _codec(lambda value: value, lambda raw, _: raw, "anything")
_INT = _codec(lambda value: value, lambda raw, _: int(raw), "a whole number")
_JSON = _codec(lambda value: json.dumps(value), lambda raw, _: json.loads(raw), "JSON")
_OUTPUT = record(OutputPlan)
_NODE = record(NodePlan, {"args": _JSON, "outputs": _named(_OUTPUT)})


def _keyed(codec: Codec) -> Codec:
    """By their own ids."""
    return _codec(
        lambda mapping: [codec.pack(value) for value in mapping.values()],
        lambda raw, limits: {value.id: value for value in [codec.unpack(entry, limits) for entry in raw]},
        "a list",
    )


_BELOW = _codec(
    lambda graphs: sorted(graphs), lambda raw, _: frozenset([GraphId.parse(graph) for graph in raw]), "ids of graphs"
)
_GRAPH = record(GraphPlan, {"nodes": _keyed(_NODE), "below": _BELOW})
_QUEUES = _codec(list, lambda raw, _: [QueueId.parse(queue) for queue in raw], "ids of queues")
_BARE_PLAN = record(Plan, {"graphs": _keyed(_GRAPH), "queues": _QUEUES})


def _unpack_plan(raw: _Raw, limits: Limits) -> Plan:
    plan: Plan = _BARE_PLAN.unpack(raw, limits)
    nodes = {node.queue: node for graph in plan.graphs.values() for node in graph.nodes.values()}
    return replace(plan, queues={queue: nodes[queue] for queue in plan.queues})


_PLAN = _codec(_BARE_PLAN.pack, _unpack_plan, "a plan")


# ---- messages and entries


def _unpack_message(raw: _Raw, limits: Limits) -> AnyMessage:
    number, fields = raw
    if type(number) is not int or not knows(number):
        raise WireError(Reject.KIND, f"unknown kind {number}")
    return unpack(number, fields, limits)


_MESSAGE = _codec(pack, _unpack_message, "[kind, fields]")
_KEPT = record(Kept, {"values": _optional(_named(_VALUE))})
_ENTRY = _one_of(
    {
        1: (Kept, _KEPT),
        2: (Forgotten, record(Forgotten)),
        3: (Deleted, record(Deleted)),
        4: (Lapsed, record(Lapsed)),
        5: (DefinitionText, record(DefinitionText)),
        6: (DefinitionGone, record(DefinitionGone)),
        7: (Pointed, record(Pointed)),
        8: (Identity, record(Identity)),
        9: (Neighbour, record(Neighbour)),
        10: (NeighbourGone, record(NeighbourGone)),
    }
)
_ENTRIES = _many(_ENTRY)


# ---- events


def _unpack_guess(raw: _Raw, _: Limits) -> tuple[float, int]:
    weight, nbytes = raw
    return float(weight), int(nbytes)


def _unpack_loaded(raw: _Raw, _: Limits) -> tuple[bytes, QueueId]:
    digest, queue = raw
    return digest, QueueId.parse(queue)


_GUESS = _codec(list, _unpack_guess, "[weight, bytes]")
_LOADED = _codec(list, _unpack_loaded, "[digest, queue]")
_EMITTED = record(Emitted, {"fields": _named(_ROWS)})
_BLOCKS = _named(_BLOCK)
_EVENTS: Mapping[int, tuple[type, Codec]] = MappingProxyType(
    {
        1: (MessageReceived, record(MessageReceived, {"message": _MESSAGE, "blocks": _BLOCKS})),
        2: (PeerReceived, record(PeerReceived, {"to_incarnation": _INT, "message": _MESSAGE, "blocks": _BLOCKS})),
        3: (PeerSeen, record(PeerSeen)),
        4: (LinkDown, record(LinkDown)),
        5: (LeaveRequested, record(LeaveRequested)),
        6: (ClientLost, record(ClientLost)),
        7: (ExecutorStarted, record(ExecutorStarted)),
        8: (ExecutorLost, record(ExecutorLost)),
        9: (GraphChecked, record(GraphChecked, {"plan": _optional(_PLAN)})),
        10: (BatchExpected, record(BatchExpected, {"outputs": _named(_GUESS)})),
        11: (BatchFinished, record(BatchFinished, {"emitted": _many(_EMITTED), "loaded": _optional(_many(_LOADED))})),
        12: (BlocksEvicted, record(BlocksEvicted, {"ids": _many(_BLOCK_ID)})),
        13: (Restored, record(Restored, {"entries": _ENTRIES})),
        14: (Persisted, record(Persisted)),
        15: (PersistFailed, record(PersistFailed)),
        16: (TimerFired, record(TimerFired)),
    }
)
_EVENT = _one_of(_EVENTS)


def packed_event(event: Event) -> object:
    """As msgpack takes it."""
    return _EVENT.pack(event)


def unpacked_event(raw: object) -> Event:
    """The event. Raises WireError."""
    return cast(Event, _EVENT.unpack(raw, LIMITS))


# ---- actions


def _told_order(order: BatchOrder) -> object:
    """Its plan and node by what identifies them."""
    inputs = [[name, _told_rows(values)] for name, values in order.inputs.items()]
    tokens = (order.token, order.joined)
    return (order.order, order.plan.digest, order.node.queue, order.tasks, tokens, inputs, order.max_exec_ms)


def _told_rows(values: Iterable[Value]) -> object:
    return [(*block.id, [row for _, row in rows]) for block, rows in groupby(values, key=lambda value: value[0])]


def _pack_only(pack: Callable[[Any], object]) -> Codec:
    return _codec(pack, lambda raw, _: raw, "anything")


_VALUES = _pack_only(lambda values: [[name, _told_rows(rows)] for name, rows in values.items()])
_IDS = _pack_only(lambda ids: [list(block) for block in ids])
_ORDER = _pack_only(lambda order: (_told_order(order), order.solo))
_CONTEXT = _pack_only(lambda context: [list(pair) for pair in context.items()])
_ACTIONS: Mapping[int, tuple[type, Codec]] = MappingProxyType(
    {
        1: (Send, record(Send, {"message": _MESSAGE, "values": _VALUES})),
        2: (Tell, record(Tell, {"message": _MESSAGE, "values": _VALUES})),
        3: (Publish, record(Publish, {"message": _MESSAGE})),
        4: (Dial, record(Dial, {"message": _MESSAGE})),
        5: (OpenLink, record(OpenLink)),
        6: (CloseLink, record(CloseLink)),
        7: (Left, record(Left)),
        8: (RunBatch, record(RunBatch, {"order": _ORDER})),
        9: (AbandonExecutor, record(AbandonExecutor)),
        10: (CheckGraph, record(CheckGraph)),
        11: (KeepBlocks, record(KeepBlocks, {"ids": _IDS})),
        12: (FreeBlocks, record(FreeBlocks, {"ids": _IDS})),
        13: (RowsCancelled, record(RowsCancelled)),
        14: (RetirePlan, record(RetirePlan)),
        15: (Persist, record(Persist, {"entries": _ENTRIES})),
        16: (Report, record(Report, {"context": _CONTEXT})),
    }
)
_ACTION = _one_of(_ACTIONS)
_ACTION_NAMES = MappingProxyType({number: kind.__name__ for number, (kind, _) in _ACTIONS.items()})


def marks_of(actions: Iterable[Action]) -> tuple[bytes, ...]:
    """What tells each of them from others."""
    marks = []
    for action in actions:
        number, fields = cast(tuple[int, object], _ACTION.pack(action))
        marks.append(bytes((number,)) + blake2b(packed(fields), digest_size=MARK_BYTES - 1).digest())
    return tuple(marks)


def name_of(mark: bytes) -> str:
    """The kind of the action that has this mark."""
    return _ACTION_NAMES.get(mark[0], f"an unknown action ({mark[0]})")
