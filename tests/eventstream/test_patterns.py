"""Patterns of event names."""

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.eventstream.patterns import disabled_by


@pytest.mark.parametrize(
    ("patterns", "disabled", "enabled"),
    [
        ((), (), ("measure.queue", "a")),
        (("measure",), ("measure", "measure.queue.length"), ("measures", "a.measure", "measur")),
        (
            ("measure.queue",),
            ("measure.queue", "measure.queue.length"),
            ("measure", "measure.queues", "measure.x.queue"),
        ),
        ((".task",), ("task", "error.task", "error.task.retry", "debug.task"), ("error.tasks", "error")),
        ((".task.retry",), ("error.task.retry", "task.retry.x"), ("error.task", "error.task.x.retry", "retry")),
        (("debug", "!debug.task"), ("debug", "debug.node"), ("debug.task", "debug.task.x")),
        (("!.retry", ".task"), ("error.task", "error.task.ghost"), ("error.task.retry",)),
        (("!debug",), (), ("debug", "anything")),
        (("debug", "cache"), ("debug.x", "cache.hit"), ("peer.join",)),
    ],
)
def test_what_patterns_disable(patterns: tuple[str, ...], disabled: tuple[str, ...], enabled: tuple[str, ...]) -> None:
    is_disabled = disabled_by(patterns)
    assert [name for name in (*disabled, *enabled) if is_disabled(name)] == list(disabled)


@pytest.mark.parametrize("pattern", ["", ".", "!", "!.", "a..b", "a.", "..a", "a.*", "!!a", "a b", "a\n"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^events\.disable: expected a pattern such as 'measure', "):
        disabled_by(("fine", pattern))
