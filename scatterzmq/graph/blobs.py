"""Which bytes the blobs of a definition have: settled once, when it is loaded, and part of it from then on.

Rules   1. A definition says of each blob its nodes name which digest its bytes have, as far as that was known when it
           was loaded. So it is another definition with other bytes, and no cached result of one is one of the other.
        2. Two definitions that differ in what is settled only are the same graphs: where they do not contradict each
           other, the one that has more settled may take the other's place.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..frozen import frozen
from .plan import Plan

if TYPE_CHECKING:
    from .check import Checked


@frozen()
class BlobFound:
    """What is there under a name. digest: of its bytes; b"" if `problem` says why there is nothing to settle.

    fatal: the bytes are there, and must not be used.
    """

    name: str
    blob_bytes: int = 0
    digest: bytes = b""
    problem: str = ""
    fatal: bool = False


@frozen()
class Settled:
    """A definition (JSON text) with all digests that are known; what is wrong with its blobs, and what is missing."""

    definition: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def open_names(checked: "Checked") -> tuple[str, ...]:
    """Blobs of a sound definition for which nothing is settled."""
    return () if checked.plan is None else tuple([name for name, digest in checked.plan.blobs.items() if not digest])


def settle(checked: "Checked", found: Iterable[BlobFound]) -> Settled:
    """Put what was found into a sound definition that has open names."""
    assert checked.plan is not None, "sound"
    by_name = {one.name: one for one in found}
    text = pinned(checked.plan.definition, {one.name: one.digest for one in by_name.values()})
    problems, warnings = [], []
    for place, name, end_bytes in _uses(checked):
        one = by_name.get(name)
        if one is None:
            continue
        if one.fatal:
            problems.append(f"{place}: {one.problem}")
        elif one.problem:
            warnings.append(f"{place}: {one.problem}; until then its tasks end as missing_blob")
        elif one.blob_bytes < end_bytes:
            problems.append(f"{place}: blob {name!r} has {one.blob_bytes} bytes, and the node reads {end_bytes}")
    return Settled(definition=text, problems=tuple(problems), warnings=tuple(warnings))


def pinned(definition: str, digests: Mapping[str, bytes]) -> str:
    """A definition (JSON text that has been read before) that says of these blobs which bytes they have."""
    raw = json.loads(definition)
    pins = {name: digest.hex() for name, digest in digests.items() if digest}
    if pins:
        raw["blobs"] = {**(raw.get("blobs") or {}), **pins}
    return json.dumps(raw, sort_keys=True, separators=(",", ":"))


def same_graphs(one: Plan, other: Plan) -> bool:
    """Whether they differ at most in which bytes their blobs have."""
    return _without_blobs(one) == _without_blobs(other)


def contradicts(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> str:
    """A blob that has other bytes in the other; "" if there is none."""
    differing = [name for name, digest in one.items() if digest and other.get(name) and other[name] != digest]
    return min(differing, default="")


def _uses(checked: "Checked") -> Sequence[tuple[str, str, int]]:
    """(place, name, bytes) of what each node reads."""
    assert checked.definition is not None, "sound"
    ns = checked.definition.ns
    return [
        (f"{ns}:{graph}:{node}", use.name, use.end_bytes)
        for (graph, node), info in checked.infos.items()
        for use in info.blobs
    ]


def _without_blobs(plan: Plan) -> object:
    raw = json.loads(plan.definition)
    raw.pop("blobs", None)
    return raw
