"""Each check of the decoder taken away, one at a time: something forged must then be taken for a message, or fall over.

A mutant is the text of one module without one `raise`, compiled anew with the modules that read it. It is killed by a
case of the tables in test_frames.py that is not refused any more for the reason that stands there.
"""

import ast
import re
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import pytest

from scatterzmq import wire
from scatterzmq.wire.refusal import Reject, WireError
from tests.wire.test_frames import OTHERS, REFUSED, small

HERE = Path(wire.__path__[0])
ORDER = ("layouts", "rows", "schema", "frames")
"""What is compiled anew, the later ones after those they import."""


def raises(module: str) -> list[ast.Raise]:
    """Where a module refuses something, in order."""
    tree = ast.parse((HERE / f"{module}.py").read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]


SPOTS = [(module, node.lineno) for module in ORDER for node in sorted(raises(module), key=lambda node: node.lineno)]


class _Without(ast.NodeTransformer):
    """Takes one `raise` away."""

    def __init__(self, line: int) -> None:
        self.line = line

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node) if node.lineno == self.line else node


def mutant(spot: tuple[str, int] | None, made: pytest.MonkeyPatch) -> ModuleType:
    """wire/frames.py over modules of which one lacks a check."""
    modules = {}
    for name in ORDER:
        full = f"scatterzmq.wire.{name}"
        path = HERE / f"{name}.py"
        tree = ast.parse(path.read_text())
        if spot is not None and spot[0] == name:
            tree = ast.fix_missing_locations(_Without(spot[1]).visit(tree))
        spec = util.spec_from_file_location(full, path)
        assert spec is not None
        module = modules[name] = util.module_from_spec(spec)
        made.setitem(sys.modules, full, module)
        exec(compile(tree, str(path), "exec"), module.__dict__)
    return modules["frames"]


Case: TypeAlias = tuple[str, Reject, str, list[bytes]]


@pytest.fixture(scope="module")
def cases(forged: Callable[..., list[bytes]]) -> list[Case]:
    """Everything forged in the tables: what it is, why it is refused, and its frames."""
    told = {what: ("Submit", *case) for what, case in REFUSED.items()} | OTHERS
    return [(what, reason, detail, forged(kind, **change)) for what, (kind, reason, detail, change) in told.items()]


def taken(frames: ModuleType, cases: list[Case]) -> list[str]:
    """The cases that are not refused for their reason."""
    wrong = []
    for what, reason, detail, forged in cases:
        try:
            frames.decode(forged, small())
        except WireError as error:
            if error.reason is not reason or not re.search(detail, error.detail):
                wrong.append(what)
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            MemoryError,
            NameError,
            TypeError,
            ValueError,
        ):
            wrong.append(what)  # it fell over
        else:
            wrong.append(what)
    return wrong


def test_what_is_compiled_anew_is_the_same(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(mutant(None, monkeypatch), cases) == []


@pytest.mark.parametrize("spot", SPOTS, ids=lambda spot: f"{spot[0]}:{spot[1]}")
def test_a_check_taken_away_is_missed(
    spot: tuple[str, int], cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taken(mutant(spot, monkeypatch), cases), "no forged message of the tables needs this check"
