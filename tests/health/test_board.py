"""The board, and what a peer says it is."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import scatterzmq
from scatterzmq.errors import ConfigError
from scatterzmq.health import Health, HealthBoard, Info, info_of


def test_what_is_written_replaces_what_stood_there() -> None:
    board = HealthBoard()
    before = board.health
    board.update(Health(executors=1, is_leaving=True))
    board.update(Health(executors=2, is_restored=True))
    assert before == Health()
    assert board.health == Health(executors=2, is_restored=True)


@pytest.mark.parametrize(
    ("health", "missing"),
    [
        (Health(executors=1, is_restored=True), ()),
        (Health(executors=1), ("its journal is not read yet",)),
        (Health(is_restored=True), ("no executor is ready",)),
        (Health(executors=3, is_restored=True, is_leaving=True), ("it is leaving",)),
        (Health(is_leaving=True), ("its journal is not read yet", "no executor is ready", "it is leaving")),
    ],
)
def test_what_is_missing_for_work(health: Health, missing: tuple[str, ...]) -> None:
    assert health.missing() == missing


def test_it_knows_how_long_nobody_wrote() -> None:
    now_s = 5.0
    board = HealthBoard(clock=lambda: now_s)
    now_s = 70.0
    assert board.silence_s() == 0, "it has not begun"
    board.update(Health())
    now_s = 72.0
    assert board.silence_s() == 2
    board.update(Health())
    assert board.silence_s() == 0
    now_s = 80.0
    board.update(Health(executors=1))
    assert board.silence_s() == 0


def test_a_peer_says_what_it_is(tmp_path: Path) -> None:
    info = info_of()
    assert info == Info(version=f"scatterzmq/{scatterzmq.__version__}", start_date=info.start_date)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", info.start_date)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(info.start_date)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("content", "versions"),
    [
        (b"v1.2\nabc123\n2026-01-31\n", ("v1.2", "abc123", "2026-01-31")),
        (b" v1.2 \r\n\r\n2026\r\nmore\r\n", ("v1.2", None, "2026")),
        (b"v1.2", ("v1.2", None, None)),
        (b"", (None, None, None)),
        (b"\xff\n", ("\N{REPLACEMENT CHARACTER}", None, None)),
    ],
)
def test_the_file_of_versions_has_three_lines(
    tmp_path: Path, content: bytes, versions: tuple[str | None, str | None, str | None]
) -> None:
    path = tmp_path / "version.txt"
    path.write_bytes(content)
    info = info_of(str(path))
    assert (info.app_version, info.app_commit, info.deploy_date) == versions


def test_a_file_of_versions_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"^none: the file of versions cannot be read: No such file or directory$"):
        info_of("none")
