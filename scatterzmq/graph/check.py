"""Checks a whole definition before any task runs, and makes the plan of a sound one.

All problems are found at once, each with its place "ns:graph:node" and what to do; only of the arguments of one node
no more than the first, as a node may need the one to know about the other. What scattermind would run is at most a
warning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

from .build import make_plan
from .definition import GraphSetDef
from .findings import Findings, refusal
from .names import check_name, hint
from .nodeinfo import CallInfo, Describe, Described, LackingHere, NodeInfo, UnknownKind
from .plan import Plan
from .reading import parse
from .rules import check_blocks, check_caching, check_calls
from .scope import Scope
from .wiring import check_graph

__all__ = ["CallInfo", "Checked", "Describe", "NodeInfo", "UnknownKind", "check", "plan_from_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What came out of a check.

    plan: None if there are problems.
    definition: None if the source was not even readable. infos: (graph, node) -> what the node is, where it is known.
    lacking: kinds of nodes that need what is not installed or allowed here, if nothing else is wrong.
    """

    plan: Plan | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    definition: GraphSetDef | None = None
    infos: Mapping[tuple[str, str], NodeInfo]
    lacking: tuple[str, ...] = ()

    def require(self) -> Plan:
        """The plan. Raises GraphError with all problems, one per line, if there is none."""
        if self.plan is None:
            raise refusal(self.problems)
        return self.plan

    def manifest(self) -> tuple[Described, ...]:
        """What a machine must be told of the nodes that cannot find it out itself, to make the same plan."""
        if self.plan is None or self.definition is None:
            return ()
        ns = self.definition.ns
        return tuple(
            [
                Described(place=f"{ns}:{graph}:{node}", info=replace(info, doc="", arguments=(), unused=()))
                for (graph, node), info in self.infos.items()
            ]
        )


def check(source: Mapping[str, object] | str, describe: Describe) -> Checked:
    """Check a dict or a JSON text. Never raises for what is in it."""
    parsed = parse(source)
    if parsed.definition is None:
        return Checked(plan=None, problems=parsed.problems, warnings=parsed.warnings, infos={})
    definition = parsed.definition
    findings = Findings(problems=list(parsed.problems), warnings=list(parsed.warnings))
    infos: dict[tuple[str, str], NodeInfo] = {}
    failed: dict[tuple[str, str], ValueError] = {}
    for graph, node in definition.nodes():
        if not {(graph.name, node.name, key) for key in ("kind", "args")}.isdisjoint(parsed.unread):
            continue
        place = f"{definition.ns}:{graph.name}:{node.name}"
        try:
            info = describe(node.kind, node.args, definition.ns, place)
        except ValueError as reason:
            failed[graph.name, node.name] = reason
        else:
            if _holds_together(place, info, findings):
                infos[graph.name, node.name] = info
                _warn_unused(place, info, findings)
    scope = Scope(definition, infos, parsed.unread)
    missing = _find_fault(scope, failed, findings)
    for graph in definition.graphs:
        check_graph(scope, graph, findings)
        if graph.name not in scope.live_graphs:
            findings.warn(scope.place(graph.name), "no graph that runs calls it; it is left out")
    check_calls(scope, findings)
    check_caching(scope, findings)
    check_blocks(scope, findings)
    problems, warnings = findings.settled()
    plan = None if problems else make_plan(scope)
    is_all = missing.keys() >= set(problems)
    lacking = tuple(sorted({missing[problem] for problem in problems})) if is_all else ()
    return Checked(plan=plan, problems=problems, warnings=warnings, definition=definition, infos=infos, lacking=lacking)


def _find_fault(scope: Scope, failed: Mapping[tuple[str, str], ValueError], findings: Findings) -> dict[str, str]:
    """Say why nodes are none. Returns problem -> kind of what may be wrong only here."""
    missing: dict[str, str] = {}
    for (graph, node), error in failed.items():
        place = scope.place(graph, node)
        live = isinstance(error, UnknownKind) or scope.is_live(graph, node)
        for problem in str(error).split(f"\n{place}: "):  # several arguments may be wrong
            text = " ".join(problem.split()).removeprefix(f"{place}: ")
            findings.fault(place, text, live=live)
            if isinstance(error, LackingHere):
                missing[f"{place}: {text}"] = scope.nodes[graph][node].kind
    return missing


def plan_from_text(text: str, describe: Describe) -> Plan:
    """The plan of a definition (its canonical text, or any other). Raises GraphError with all problems."""
    return check(text, describe).require()


def _holds_together(place: str, info: NodeInfo, findings: Findings) -> bool:
    """Whether what a node says of itself can be worked with; plug-ins may say anything."""
    before = len(findings.problems)
    try:
        for field in info.input_format:
            check_name(field, "input")
        for output, fields in info.outputs.items():
            check_name(output, "output")
            for field in fields:
                check_name(field, "field")
    except ValueError as error:
        findings.problem(place, f"{error} (this is how its kind is made)")
    if not (isfinite(info.weight) and isfinite(info.load_cost) and info.load_cost >= 0):
        text = f"weight {info.weight} and load cost {info.load_cost} must be finite, and the cost not below 0"
        findings.problem(place, f"{text} (this is how its kind is made)")
    for call in info.calls:
        if call.output not in info.outputs:
            text = f"calls graph {call.graph!r} to return by output {call.output!r}, which it does not have"
            findings.problem(place, f"{text} (this is how its kind is made)")
    return len(findings.problems) == before


def _warn_unused(place: str, info: NodeInfo, findings: Findings) -> None:
    for name in info.unused:
        text = f"argument {name!r:.80} is ignored, this kind of node has none of that name"
        findings.warn(place, f"{text}; {hint(name, info.arguments, 'arguments')}")
