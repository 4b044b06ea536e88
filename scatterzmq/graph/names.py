"""Names of namespaces, graphs, nodes, outputs and fields, and how they are qualified with a colon."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple, Self

SEPARATOR = ":"
FORBIDDEN = frozenset(SEPARATOR + " \n\r\t\0\\'\"\a\b\f\v")
"""Characters no name may have. The set is scattermind's, so that its files keep working."""

_SHOWN_MAX = 12
_SUGGEST_MAX = 2000


def check_name(text: object, what: str) -> str:
    """The text, if it can name something. Raises ValueError, which shows it, otherwise.

    what: of which thing it is the name, for the message ("node", "field", ...).
    """
    if not isinstance(text, str):
        raise ValueError(f"{what} name must be text, got {text!r:.80}")
    if not text:
        raise ValueError(f"{what} name is empty; give it at least one character")
    bad = FORBIDDEN.intersection(text)
    if bad:
        shown = " ".join(sorted(repr(char) for char in bad))
        raise ValueError(f"{what} name {text!r:.200} must not contain {shown}; use letters, digits, '_' or '-' instead")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"{what} name {text!r:.200} has half of a surrogate pair, which is no character; remove it")
    return text


class QualifiedField(NamedTuple):
    """ "node:field", or ":field" (node is None) for the input of the graph itself."""

    node: str | None
    field: str

    @classmethod
    def parse(cls, text: object) -> Self:
        """Check and split. Raises ValueError, which shows the text."""
        if not isinstance(text, str) or SEPARATOR not in text:
            raise ValueError(f"{text!r:.200} is not 'node:field' or ':field' (for an input of the graph)")
        node, field = text.split(SEPARATOR, 1)
        return cls(check_name(node, "node") if node else None, check_name(field, "field"))

    def __str__(self) -> str:
        return f"{self.node or ''}{SEPARATOR}{self.field}"


class QualifiedGraph(NamedTuple):
    """ "ns:graph"."""

    ns: str
    graph: str

    @classmethod
    def parse(cls, text: object) -> Self:
        """Check and split. Raises ValueError, which shows the text."""
        if not isinstance(text, str) or SEPARATOR not in text:
            raise ValueError(f"{text!r:.200} is not 'namespace:graph'")
        ns, graph = text.split(SEPARATOR, 1)
        return cls(check_name(ns, "namespace"), check_name(graph, "graph"))

    def __str__(self) -> str:
        return f"{self.ns}{SEPARATOR}{self.graph}"


def hint(wrong: str, known: Iterable[str], what: str) -> str:
    """What the user may have meant: "did you mean 'node_1'?", or else what there is."""
    names = sorted(known)
    if not names:
        return f"there are no {what}"
    if len(names) <= _SUGGEST_MAX:
        close = get_close_matches(wrong[:200], names, n=1)
        if close:
            return f"did you mean {close[0]!r}?"
    shown = ", ".join(repr(name) for name in names[:_SHOWN_MAX])
    return f"the {what} are {shown}" + (f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else "")
