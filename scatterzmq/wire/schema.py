"""Words to numbers: each kind of core/messages.py, its number, and how its fields are packed and checked.

Rules   1. A kind's number never changes and is never used again.
        2. A record is a list of its fields by position. A newer peer may send more: they are ignored. An older one may
           send fewer: the rest takes its defaults.
        3. Nothing is converted on the way in: a bool is no int, an int is no float.
        4. Whole numbers are counts, versions, places or durations: none is negative.
Why     The checks are made once from the annotations of our own classes. Text from outside never names a class.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from math import isfinite
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from ..core.blobmessages import (
    AskBlob,
    AskBlobName,
    BlobNamed,
    BlobPiece,
    BlobsKept,
    BlobWritten,
    KeepBlobs,
    NoBlob,
    WriteBlob,
)
from ..core.cachemessages import (
    CacheAbort,
    CacheAsk,
    CacheFetch,
    CacheLost,
    CachePut,
    CacheRenew,
    CacheTell,
)
from ..core.messages import (
    Accepted,
    AskDefinition,
    AskMembers,
    AskNamespaces,
    AskStats,
    AskTasks,
    Attach,
    CacheCleared,
    Cancel,
    Cancelled,
    Clear,
    ClearCache,
    Cleared,
    Definition,
    Final,
    Goodbye,
    GraphLoaded,
    GraphRefused,
    LoadGraph,
    MemberList,
    Moved,
    Namespaces,
    Refused,
    Release,
    Released,
    ResultRead,
    Stats,
    Submit,
    TaskReports,
)
from ..core.payloadmessages import Fetch, Fetched, FreePayloads, Gone, HeldPayloads
from ..core.peermessages import (
    AnyMessage,
    AskManifest,
    AskPlans,
    AskPointers,
    AskQueues,
    AskSync,
    Bye,
    Claim,
    Commit,
    Committed,
    Drop,
    Grant,
    HandedOver,
    Handover,
    Heartbeat,
    Hello,
    Inquire,
    Known,
    Manifest,
    Nudge,
    PlanKept,
    PlanText,
    Pointers,
    QueueStates,
    Renew,
    Renewed,
    Replicate,
    Replicated,
    RowsRevoked,
    Surrender,
    Sync,
    SyncBetter,
    SyncDigest,
    Unwelcome,
    Welcome,
    WrongIncarnation,
)
from ..frozen import frozen
from ..graph.formats import FieldFormat, Layout
from ..ids import Id
from .layouts import pack_layout, read_layout
from .refusal import Limits, Reject, WireError

INT_MAX = (1 << 63) - 1
_KINDS: Mapping[int, type[AnyMessage]] = {
    # client -> peer
    1: LoadGraph,
    2: Submit,
    3: Attach,
    4: ResultRead,
    5: Clear,
    6: Cancel,
    7: AskTasks,
    8: AskNamespaces,
    9: AskDefinition,
    10: AskStats,
    11: AskMembers,
    12: Release,
    13: WriteBlob,
    15: ClearCache,
    # peer -> client
    33: GraphLoaded,
    34: GraphRefused,
    35: Accepted,
    36: Refused,
    37: Final,
    38: Cleared,
    39: Cancelled,
    40: TaskReports,
    41: Namespaces,
    42: Definition,
    43: Stats,
    44: MemberList,
    45: Goodbye,
    46: Moved,
    47: Released,
    48: BlobWritten,
    50: CacheCleared,
    # peer -> peer
    65: Hello,
    66: Welcome,
    67: Unwelcome,
    68: Heartbeat,
    69: Bye,
    70: WrongIncarnation,
    71: QueueStates,
    72: AskQueues,
    73: Nudge,
    74: Pointers,
    75: AskPointers,
    76: AskPlans,
    77: PlanText,
    78: PlanKept,
    79: Replicate,
    80: Replicated,
    81: Inquire,
    82: Known,
    83: Sync,
    84: SyncBetter,
    85: SyncDigest,
    86: AskSync,
    87: Drop,
    88: Handover,
    89: HandedOver,
    90: Claim,
    91: Grant,
    92: Commit,
    93: Committed,
    94: Renew,
    95: Renewed,
    96: RowsRevoked,
    97: Surrender,
    98: CacheAsk,
    99: CacheTell,
    100: CachePut,
    101: CacheAbort,
    102: CacheRenew,
    103: Fetch,
    104: Fetched,
    105: Gone,
    106: FreePayloads,
    107: HeldPayloads,
    108: AskBlob,
    109: BlobPiece,
    110: NoBlob,
    111: KeepBlobs,
    112: BlobsKept,
    113: AskBlobName,
    114: BlobNamed,
    115: CacheFetch,
    116: CacheLost,
    117: AskManifest,
    118: Manifest,
}

Pack: TypeAlias = Callable[[Any], object]
Unpack: TypeAlias = Callable[[object, Limits], Any]


@frozen(kw_only=False)
class Codec:
    """pack: value -> what msgpack takes. unpack: what msgpack gives -> checked value; raises WireError."""

    pack: Pack
    unpack: Unpack


def _bad(expected: str, raw: object) -> WireError:
    return WireError(Reject.FIELD, f"expected {expected}, got {type(raw).__name__}")


# ---- single values


def _same(value: Any) -> object:
    return value


def _unpack_int(raw: object, _: Limits) -> int:
    if type(raw) is not int or not 0 <= raw <= INT_MAX:
        raise _bad("a whole number of 0 to 2**63 - 1", raw)
    return raw


def _unpack_float(raw: object, _: Limits) -> float:
    if type(raw) is not float or not isfinite(raw):  # NaN would break every order, and infinities make NaN
        raise _bad("a finite number with a fraction", raw)
    return raw


def _unpack_bool(raw: object, _: Limits) -> bool:
    if type(raw) is not bool:
        raise _bad("true or false", raw)
    return raw


def _unpack_str(raw: object, _: Limits) -> str:
    if type(raw) is not str:
        raise _bad("a text", raw)
    return raw


def _unpack_bytes(raw: object, _: Limits) -> bytes:
    if type(raw) is not bytes:
        raise _bad("bytes", raw)
    return raw


def _id(kind: type[Id]) -> Codec:
    def unpack(raw: object, _: Limits) -> Id:
        if type(raw) is not bytes or len(raw) != 16:
            raise _bad("16 bytes of an id", raw)
        return kind.from_bytes(raw)

    return Codec(kind.to_bytes, unpack)


def _enum(kind: type[StrEnum]) -> Codec:
    members = {member.value: member for member in kind}

    def unpack(raw: object, _: Limits) -> StrEnum:
        if type(raw) is not str or raw not in members:
            raise _bad(f"a {kind.__name__}", raw)
        return members[raw]

    return Codec(_same, unpack)


def _optional(codec: Codec) -> Codec:
    return Codec(
        lambda value: None if value is None else codec.pack(value),
        lambda raw, limits: None if raw is None else codec.unpack(raw, limits),
    )


def _unpack_format(raw: object, limits: Limits) -> FieldFormat:
    match raw:
        case (str() as name, tuple() as shape, *_) if len(shape) <= limits.rank:
            dims = tuple(None if size is None else _unpack_int(size, limits) for size in shape)
        case _:
            raise _bad("[dtype, shape]", raw)
    try:
        return FieldFormat(name, dims)
    except ValueError:
        raise WireError(Reject.FIELD, "a format with an unknown dtype") from None


def _unpack_layout(raw: object, limits: Limits) -> Layout:
    if type(raw) is not tuple or len(raw) < 3:
        raise _bad("[dtype, rows, shape, ...]", raw)
    layout, _, known = read_layout(raw, limits, "a layout")
    check_depth(raw[known:], limits)
    return layout


_SINGLE: Mapping[object, Codec] = {
    int: Codec(_same, _unpack_int),
    float: Codec(float, _unpack_float),
    bool: Codec(_same, _unpack_bool),
    str: Codec(_same, _unpack_str),
    bytes: Codec(_same, _unpack_bytes),
    FieldFormat: Codec(FieldFormat.to_json, _unpack_format),
    Layout: Codec(pack_layout, _unpack_layout),
}


# ---- many values


def _list(raw: object) -> tuple[Any, ...]:
    if type(raw) is not tuple:
        raise _bad("a list", raw)
    return raw


def _many(codec: Codec) -> Codec:
    if codec.pack is _same:
        pack: Pack = _same
    else:

        def pack(values: Any) -> object:
            return [codec.pack(value) for value in values]

    def unpack(raw: object, limits: Limits) -> tuple[Any, ...]:
        check = codec.unpack
        return tuple([check(entry, limits) for entry in _list(raw)])

    return Codec(pack, unpack)


def _many_plain(kind: type) -> Codec:
    """Lists of simple values, checked all at once: they come by the thousand."""
    codec = _SINGLE[kind]

    def unpack(raw: object, limits: Limits) -> tuple[Any, ...]:
        entries = _list(raw)
        if set(map(type, entries)) - {kind} or (
            kind is int and entries and (min(entries) < 0 or max(entries) > INT_MAX)
        ):
            return tuple([codec.unpack(entry, limits) for entry in entries])  # raises at the culprit
        return entries

    return Codec(_same, unpack)


def _many_ids(kind: type[Id]) -> Codec:
    """Ids of a batch are one string of 16 bytes each."""

    def pack(ids: Any) -> object:
        return bytes.fromhex("".join([id_[1:] for id_ in ids]))

    def unpack(raw: object, limits: Limits) -> tuple[Id, ...]:
        if type(raw) is not bytes or len(raw) % 16 or len(raw) > 16 * limits.items:
            raise _bad("ids of 16 bytes each", raw)
        text, prefix = raw.hex(), kind.PREFIX
        return tuple([kind(prefix + text[start : start + 32]) for start in range(0, len(text), 32)])

    return Codec(pack, unpack)


def _mapping(value: Codec) -> Codec:
    """[keys, values]: there are no maps on the wire, so no double keys to argue about."""
    values = _many(value)

    def pack(mapping: Any) -> object:
        return [list(mapping), values.pack(tuple(mapping.values()))]

    def unpack(raw: object, limits: Limits) -> Mapping[str, Any]:
        match raw:
            case (tuple() as keys, tuple() as entries, *_) if len(keys) == len(entries):
                pass
            case _:
                raise _bad("[keys, values]", raw)
        for key in keys:
            if type(key) is not str or len(key) > limits.name_chars:
                raise _bad(f"a key of at most {limits.name_chars} characters", key)
        mapping = dict(zip(keys, values.unpack(entries, limits), strict=True))
        if len(mapping) != len(keys):
            raise WireError(Reject.FIELD, "the same key twice")
        return mapping

    return Codec(pack, unpack)


# ---- records


def record(kind: type, given: Mapping[str, Codec] = types.MappingProxyType({})) -> Codec:
    """How a dataclass or a named tuple is packed. given: the codecs of fields whose annotations do not say enough."""
    hints = get_type_hints(kind)
    parts = [(name, given.get(name) or _codec(hints[name]), required) for name, required in _fields(kind)]

    def pack(record: Any) -> object:
        return [codec.pack(getattr(record, name)) for name, codec, _ in parts]

    def unpack(raw: object, limits: Limits) -> Any:
        entries = _list(raw)
        values = {}
        for index, (name, codec, required) in enumerate(parts):
            if index >= len(entries):
                if required:
                    raise WireError(Reject.MISSING, f"{kind.__name__}.{name}")
                break
            try:
                values[name] = codec.unpack(entries[index], limits)
            except WireError as error:
                raise WireError(error.reason, f"{kind.__name__}.{name}: {error.detail}") from None
        check_depth(entries[len(parts) :], limits)
        return kind(**values)

    return Codec(pack, unpack)


def _fields(kind: Any) -> list[tuple[str, bool]]:
    """The names in their order, and whether each has to be there."""
    if not is_dataclass(kind):
        return [(name, name not in kind._field_defaults) for name in kind._fields]
    return [(entry.name, entry.default is MISSING and entry.default_factory is MISSING) for entry in fields(kind)]


def check_depth(unknown: tuple[object, ...], limits: Limits) -> None:
    """What we know has the depth of its annotation; what a newer peer added may not be deeper than the limit."""
    level = [entry for entry in unknown if type(entry) is tuple]
    for _ in range(limits.depth):
        if not level:
            return
        level = [entry for inner in level for entry in inner if type(entry) is tuple]
    if level:
        raise WireError(Reject.DEPTH, f"lists in lists, more than {limits.depth} deep")


def _codec(hint: Any) -> Codec:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        return _optional(_codec(inner))
    if origin is tuple:
        assert args[1:] == (...,), f"no way to send {hint}"
        return _many_ids(args[0]) if _is_a(args[0], Id) else _list_of(args[0])
    if origin is Mapping:
        return _mapping(_codec(args[1]))
    if hint in _SINGLE:
        return _SINGLE[hint]
    if _is_a(hint, Id):
        return _id(hint)
    if _is_a(hint, StrEnum):
        return _enum(hint)
    assert isinstance(hint, type), f"no way to send {hint}"
    assert is_dataclass(hint) or _is_a(hint, tuple), f"no way to send {hint}"
    return record(hint)


def _list_of(kind: Any) -> Codec:
    return _many_plain(kind) if kind in (int, bool, str, bytes) else _many(_codec(kind))


def _is_a(hint: Any, base: type) -> bool:
    return isinstance(hint, type) and issubclass(hint, base)


# ---- messages

NUMBERS: Mapping[type[AnyMessage], int] = {kind: number for number, kind in _KINDS.items()}
_CODECS: Mapping[int, Codec] = {number: record(kind) for number, kind in _KINDS.items()}


def knows(kind: int) -> bool:
    """Whether this number is a kind of ours."""
    return kind in _CODECS


def pack(message: AnyMessage) -> tuple[int, object]:
    """The kind's number, and the fields as msgpack takes them."""
    number = NUMBERS[type(message)]
    return number, _CODECS[number].pack(message)


def unpack(kind: int, raw: object, limits: Limits) -> AnyMessage:
    """Check the fields of a known kind. Raises WireError."""
    message: AnyMessage = _CODECS[kind].unpack(raw, limits)
    return message
