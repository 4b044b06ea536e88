"""What tests of different parts of the package share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

PLUGINS = "plugins_of_a_test"


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
