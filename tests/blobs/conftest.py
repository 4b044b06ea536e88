"""A world of blobs for each test."""

from pathlib import Path

import pytest

from tests.blobs.blobworld import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
