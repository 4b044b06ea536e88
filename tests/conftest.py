"""What tests of different parts of the package share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.processes import lan

PLUGINS = "plugins_of_a_test"
NO_HOSTS = "no_hosts"
NOTE = pytest.StashKey[str]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the tests that were selected those on hosts of their own need namespaces of the kernel."""
    hosts = [item for item in items if "network" in getattr(item, "fixturenames", ())]
    if hosts and (reason := lan.available()):
        note = f"{len(hosts)} tests of peers on hosts of their own were not run: {reason}"
        config.stash[NOTE] = note
        getattr(config, "workeroutput", {})[NO_HOSTS] = note  # a worker of several; what it writes nobody sees
        config.hook.pytest_deselected(items=hosts)
        items[:] = [item for item in items if item not in hosts]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended."""
    node.config.stash[NOTE] = getattr(node, "workeroutput", {}).get(NO_HOSTS, "")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    note = config.stash.get(NOTE, "")
    if note:
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
