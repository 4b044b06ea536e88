"""What only a machine with a CUDA device can show; run with `pytest -m cuda`."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Not among the ordinary tests: most machines have no such device."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker("cuda")
