"""What a peer is: its version, since when it runs, and which application it belongs to."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .. import __version__
from ..errors import ConfigError

FILE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The names are those of /api/info. start_date: with the time, in UTC. app_*, deploy_date: None if nobody said."""

    version: str
    start_date: str
    app_version: str | None = None
    app_commit: str | None = None
    deploy_date: str | None = None


def info_of(version_file: str | None = None) -> Info:
    """Of a process that starts now. Raises ConfigError.

    version_file: three lines, the application's version, its commit, and when it was deployed; whoever deploys it
    writes it.
    """
    lines = [] if version_file is None else _lines(version_file)
    app_version, app_commit, deploy_date = ([line.strip() or None for line in lines] + [None] * 3)[:3]
    return Info(
        version=f"scatterzmq/{__version__}",
        start_date=datetime.now(UTC).isoformat(timespec="seconds"),
        app_version=app_version,
        app_commit=app_commit,
        deploy_date=deploy_date,
    )


def _lines(file: str) -> list[str]:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(FILE_BYTES_MAX).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise ConfigError(f"{file}: the file of versions cannot be read: {error.strerror or error}") from error
