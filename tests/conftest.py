"""What tests of different parts of the package share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.processes import lan, memorygroup

PLUGINS = "plugins_of_a_test"
NOT_RUN = "not_run"
NOTES = pytest.StashKey[list[str]]()
NEEDS = {
    "network": ("peers on hosts of their own", lan.available),
    "memory_limit": ("peers with little memory", memorygroup.available),
}
"""What of the kernel's not every machine has: fixture -> (what is tested with it, why it is not there)."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the tests that were selected some need what may not be there."""
    notes: list[str] = []
    for fixture, (what, reason_why_not) in NEEDS.items():
        needy = [item for item in items if fixture in getattr(item, "fixturenames", ())]
        if needy and (reason := reason_why_not()):
            notes.append(f"{len(needy)} tests of {what} were not run: {reason}")
            config.hook.pytest_deselected(items=needy)
            items[:] = [item for item in items if item not in needy]
    config.stash[NOTES] = notes
    getattr(config, "workeroutput", {})[NOT_RUN] = notes  # a worker of several; what it writes nobody sees


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended."""
    node.config.stash[NOTES] = getattr(node, "workeroutput", {}).get(NOT_RUN, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for note in config.stash.get(NOTES, []):
        terminalreporter.write_line(note, yellow=True)


@pytest.fixture
def write_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module of the package PLUGINS; returns its name."""
    folder = tmp_path / PLUGINS
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(text: str) -> str:
        (folder / "mine.py").write_text(dedent(text), encoding="utf-8")
        return f"{PLUGINS}.mine"

    yield written
    for name in [name for name in sys.modules if name.partition(".")[0] == PLUGINS]:
        del sys.modules[name]
