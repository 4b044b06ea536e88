"""Whether memory has run out: what counts is our own group of processes, else the machine."""

from pathlib import Path

import pytest

from scatterzmq.execute import oom


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the system says of our group."""
    path = tmp_path / "memory.events"
    monkeypatch.setattr(oom, "_group_events", lambda: path)
    return path


def test_the_kills_in_our_group_count(group: Path) -> None:
    group.write_text("low 0\nhigh 0\nmax 2\noom 5\noom_kill 3\noom_group_kill 7\n")
    assert oom.oom_kills() == 3


@pytest.mark.parametrize("said", [None, "", "low 0\n", "oom_kill many\n"])
def test_a_group_that_does_not_count_leaves_it_to_the_machine(group: Path, said: str | None) -> None:
    if said is not None:
        group.write_text(said)
    lines = [line.split() for line in Path("/proc/vmstat").read_text().splitlines()]
    assert oom.oom_kills() == next(int(count) for name, count in lines if name == "oom_kill")


def test_where_nobody_counts_there_are_none(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "_counted", lambda path: None)
    assert oom.oom_kills() == 0


def test_our_group_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/self/cgroup": "4:memory:/old\n0::/services/peer\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: texts[str(path)])
    assert oom._group_events() == Path("/sys/fs/cgroup/services/peer/memory.events")
    texts["/proc/self/cgroup"] = "4:memory:/old\n"
    assert oom._group_events() is None
