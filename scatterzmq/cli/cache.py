"""`scatterzmq cache clear`: have all peers of a cluster forget what they have cached."""

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError, GraphError
from .args import UsageError, add_cluster, add_command, help_formatter
from .release import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.messages import ToClient
    from ..ids import PeerId

_FIND_S = 10.0
_ANSWER_S = 5.0
_SUMMARY = "Forget the cached results of a namespace at all peers."
_EXAMPLE = """\
  scatterzmq cache clear pipeline --join tcp://host-a:7411

Results of equal graphs in other namespaces are the same and go as well; those
of definitions that it had before stay (--all forgets them, too). What is being
computed meanwhile is kept. Exit: 0, or 1 if a peer has not answered."""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "cache",
        help="Forget cached results.",
        description="What the peers of a cluster have cached.",
        epilog="example:\n  scatterzmq cache clear pipeline --join tcp://host-a:7411",
        formatter_class=help_formatter,
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    clear = add_command(actions, "clear", summary=_SUMMARY, usage="NS|--all [options]", example=_EXAMPLE)
    clear.add_argument("ns", metavar="NS", nargs="?", help="namespace that is loaded there")
    clear.add_argument("--all", action="store_true", help="the results of all namespaces, and of those gone")
    add_cluster(clear)
    clear.set_defaults(call=_clear)


def _clear(options: argparse.Namespace) -> int:
    """Ask all peers. Raises ScatterError if nobody answers, one does not, or nobody knows the namespace."""
    from ..core.messages import AskNamespaces, CacheCleared, ClearCache
    from ..questions import Questions

    if options.all == (options.ns is not None):
        raise UsageError("cache clear: expected a namespace, or --all for all of them")
    with Questions(options.join or (), options.cluster) as questions:
        members = questions.find(_FIND_S)
        ids = [member.id for member in members]
        origins = None
        if not options.all:
            origins = _origins(options.ns, questions.ask(ids, AskNamespaces, _ANSWER_S))
        told = questions.ask(ids, partial(ClearCache, origins=origins), _ANSWER_S)
    cleared = {peer: said.values for peer, said in told.items() if isinstance(said, CacheCleared)}
    values, peers = sum(cleared.values()), len(cleared)
    sys.stdout.write(
        f"forgot {values} {'result' if values == 1 else 'results'} at {peers} {'peer' if peers == 1 else 'peers'}\n"
    )
    silent = [shown(member) for member in members if member.id not in cleared]
    if silent:
        raise ClusterError(f"{', '.join(silent)}: not reached, so what is cached there is still there; try again")
    return 0


def _origins(ns: str, told: "Mapping[PeerId, ToClient]") -> tuple[bytes, ...]:
    """Of the keys of a namespace, as all peers know it. Raises GraphError if none does."""
    from ..core.messages import Namespaces

    infos = [info for said in told.values() if isinstance(said, Namespaces) for info in said.infos]
    if all(info.ns != ns for info in infos):
        loaded = ", ".join(sorted({info.ns for info in infos})) or "none"
        raise GraphError(f"namespace {ns!r} is not loaded; loaded are: {loaded}")
    return tuple(sorted({origin for info in infos if info.ns == ns for origin in info.cached}))
