"""The tables of core/README.md are those of the code. `python tests/core/test_readme.py` puts them in."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scatterzmq.core.ledger import TRANSITIONS
from scatterzmq.wire.schema import NUMBERS

README = Path(__file__).parents[2] / "scatterzmq" / "core" / "README.md"
TWO_PAGES_WORDS = 1_250
"""As the page says of itself; tables follow."""


def transitions() -> Iterator[str]:
    yield "| in phase | what happens | then in |"
    yield "|---|---|---|"
    for (phase, cause), target in TRANSITIONS.items():
        yield f"| {phase} | {cause} | {target} |"


def words() -> Iterator[str]:
    yield "| number | word | says |"
    yield "|---|---|---|"
    for kind, number in NUMBERS.items():
        text = " ".join((kind.__doc__ or "").split())
        sentence = "" if text.startswith(f"{kind.__name__}(") else re.split(r"(?<=[.?])\s", text)[0]
        yield f"| {number} | `{kind.__name__}` | {sentence} |"


TABLES = {"transitions": transitions, "words": words}


def filled(text: str) -> str:
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = before + begin + "\n" + "\n".join(table()) + "\n" + end + after
    return text


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_those_of_the_code(name: str) -> None:
    text = README.read_text()
    for line in TABLES[name]():
        assert line in text, f"run python {Path(__file__).name}: {line}"
    assert filled(text) == text


def test_the_protocol_takes_two_pages() -> None:
    text, tables = README.read_text().split("## A task's way\n")
    assert "in two pages" in text
    assert len(text.split()) <= TWO_PAGES_WORDS
    assert all(f"<!-- {name}: begin -->" in tables for name in TABLES)


def test_every_module_is_named() -> None:
    _, text = README.read_text().split("## Where to read on")
    modules = {path.name for path in README.parent.glob("*.py")} - {"__init__.py"}
    named = set(re.findall(r"`(\w+\.py)`", text))
    assert named <= modules
    assert {name for name in modules - named if not name.startswith("client")} == set()


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
