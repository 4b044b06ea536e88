"""The folder of a journal: made, and locked against a second process.

Rules   1. Nobody but its owner may read what is made here: tasks' inputs and results lie in it.
        2. Nothing is ever deleted. What cannot be used is left as it is, with one line on what to do about it.
        3. The lock ends with the process that holds it, however that ends; the file stays.
"""

import fcntl
import os
from pathlib import Path

from ..errors import ConfigError

LOCK = "lock"


def unusable(folder: Path, why: str, advice: str) -> ConfigError:
    """One line: where, what, what to do."""
    return ConfigError(f"journal in {folder}: {why}; {advice}")


def lock_folder(folder: Path) -> int:
    """Make the folder if it is not there, and lock it until the descriptor that is returned is closed."""
    try:
        _make(folder)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileExistsError, NotADirectoryError):
        raise unusable(folder, "there is a file where a folder is expected", "choose another one") from None
    except PermissionError:
        raise unusable(folder, "it may not be written to", "change its permissions, or choose another one") from None
    except OSError as error:
        why = (error.strerror or "it cannot be opened").lower()
        raise unusable(folder, why, "mend that, or choose another one") from None
    try:
        # Not lockf(): its locks do not hold against a second journal of this process, and end when anybody here
        # closes the file.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        why = f"process {holder or '(just started)'} uses it"
        raise unusable(folder, why, "stop that one, or give each peer a folder of its own") from None
    except OSError as error:
        os.close(lock)
        raise unusable(
            folder, (error.strerror or "it cannot be locked").lower(), "mend that, or choose another one"
        ) from None
    return lock


def _make(folder: Path) -> None:
    """A folder that is to survive a loss of power has to be on disk itself, and so have those that it lies in."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in made:
        parent = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
