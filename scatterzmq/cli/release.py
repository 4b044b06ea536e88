"""`scatterzmq release`: ask peers to hand over what they have, and leave."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError
from .args import add_cluster, add_command, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..client.link import Member

_FIND_S = 10.0
_ANSWER_S = 10.0
"""A peer that has blobs that nobody else has answers when others have them, or after 5 s."""
_SUMMARY = "Ask a peer to finish, hand its tasks to others, and leave."
_EXAMPLE = """\
  scatterzmq release host-b --join tcp://host-a:7411
  scatterzmq release all --join tcp://host-a:7411

With all, there is nobody left to hand tasks to: what has not ended is lost,
unless it is in a journal. Exit: 0 when it is gone, else 1."""


def add_to(commands: Any) -> None:
    parser = add_command(commands, "release", summary=_SUMMARY, usage="PEER|all [options]", example=_EXAMPLE)
    parser.add_argument("peer", metavar="PEER", help="its id or how that begins, or its name; all for everybody")
    add_cluster(parser)
    parser.add_argument("--timeout", metavar="S", type=number(1), default=60, help="for it to be gone (default: 60)")
    parser.set_defaults(call=release)


def release(options: argparse.Namespace) -> int:
    """Ask, and wait until they are gone. Raises ScatterError if nobody fits, or one does not go."""
    from ..core.messages import Release
    from ..questions import Questions

    with Questions(options.join or (), options.cluster) as questions:
        names = {member.id: shown(member) for member in chosen(options.peer, questions.find(_FIND_S))}
        asked = [peer for peer in names if questions.can_reach(peer)]
        answered = questions.ask(asked, Release, min(_ANSWER_S, options.timeout))
        questions.wait_until_gone(list(answered), options.timeout)
        staying = [peer for peer in asked if questions.can_reach(peer)]
    for peer in asked:
        if peer not in staying:
            sys.stdout.write(f"{names[peer]} has left\n")
    for peer, name in names.items():
        if peer not in asked:
            raise ClusterError(f"{name}: cannot be reached from here, though it belongs to the cluster")
        if peer in staying and peer not in answered:
            raise ClusterError(f"{name}: has not answered")
        if peer in staying:
            raise ClusterError(f"{name}: will leave, but is still at work after {options.timeout} s")
    return 0


def chosen(text: str, members: "Sequence[Member]") -> "Sequence[Member]":
    """The members that are meant. Raises ClusterError if that is none, or not clear."""
    if text == "all":
        return members
    found = [member for member in members if text in (member.id, member.name)]
    found = found or [member for member in members if member.id.startswith(text)]
    if len(found) == 1:
        return found
    there = ", ".join(map(shown, found or members))
    raise ClusterError(f"{text!r}: {'more than one fits' if found else 'there is no such peer'}; there are: {there}")


def shown(member: "Member") -> str:
    return f"{member.name} ({member.id})" if member.name else str(member.id)
