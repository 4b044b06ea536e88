"""Whether the system has killed processes because memory ran out: it does not say so to whoever waits for them."""

from pathlib import Path


def oom_kills() -> int:
    """How many it has killed so far, in our control group if it has one that counts, else on the machine."""
    for path in (_group_events(), Path("/proc/vmstat")):
        count = None if path is None else _counted(path)
        if count is not None:
            return count
    return 0


def _group_events() -> Path | None:
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    unified = [line.removeprefix("0::/") for line in groups if line.startswith("0::/")]
    return Path("/sys/fs/cgroup", unified[0], "memory.events") if unified else None


def _counted(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdigit():
            return int(count)
    return None
