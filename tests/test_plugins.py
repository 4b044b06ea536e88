"""Strategies by name: the built-in ones, and those in modules that the configuration allows."""

import sys
from collections.abc import Callable

import pytest

from scatterzmq.core.strategy import (
    NODE_STRATEGIES,
    QUEUE_STRATEGIES,
    DedicatedNodeStrategy,
    NodeStrategy,
    QueueStrategy,
    SimpleNodeStrategy,
    SimpleQueueStrategy,
)
from scatterzmq.errors import ConfigError
from scatterzmq.plugins import is_allowed, node_strategy, queue_strategy
from scatterzmq.settings import Settings
from tests.conftest import PLUGINS

QUEUE = """
    from scatterzmq.core.strategy import QueueStrategy, SimpleQueueStrategy

    class Late(QueueStrategy):
        def priority(self, weight, retries):
            return -weight
"""
NODE = """
    from scatterzmq.core.strategy import NodeStrategy

    class Last(NodeStrategy):
        def prefer(self, left, right):
            return False

        def want_to_switch(self, own, other):
            return False
"""

Make = Callable[[], NodeStrategy | QueueStrategy]


def settings(kind: str, name: str, *allow: str) -> Settings:
    return Settings.of({"strategy": {kind: name}, "plugins": {"allow": allow}})


def test_the_built_in_ones() -> None:
    assert isinstance(node_strategy(Settings()), SimpleNodeStrategy)
    assert isinstance(queue_strategy(Settings()), SimpleQueueStrategy)
    assert isinstance(node_strategy(settings("node", "dedicated")), DedicatedNodeStrategy)
    for name in NODE_STRATEGIES:
        node_strategy(settings("node", name))
    for name in QUEUE_STRATEGIES:
        queue_strategy(settings("queue", name))


def test_a_strategy_of_ones_own(write_plugin: Callable[[str], str]) -> None:
    queue = queue_strategy(settings("queue", write_plugin(QUEUE), PLUGINS))
    assert (type(queue).__name__, queue.priority(2.0, 0)) == ("Late", -2.0)


def test_another_name_for_it_makes_no_second_one(write_plugin: Callable[[str], str]) -> None:
    strategy = node_strategy(settings("node", write_plugin(NODE + "\n    Alias = Last\n"), PLUGINS))
    assert type(strategy).__name__ == "Last"


@pytest.mark.parametrize(
    ("module", "allow", "is_covered"),
    [
        ("a.b", ["a"], True),
        ("a.b", ["a.b"], True),
        ("a.b", ["x", "a.b"], True),
        ("ab.c", ["a"], False),
        ("a", ["a.b"], False),
        ("a.b", [], False),
        ("a.b", [""], False),
    ],
)
def test_prefixes_are_compared_part_by_part(module: str, allow: list[str], is_covered: bool) -> None:
    assert is_allowed(module, allow) is is_covered


@pytest.mark.parametrize("name", ["fast", "", "a.", ".a", "a.b c", "a.b\n", "os;system", "\u00e4.b"])
def test_what_is_no_name_of_a_module_is_not_looked_for(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        node_strategy(settings("node", name, "a"))
    known = "known are simple, dedicated, and modules such as 'my_package.my_strategy'"
    assert str(caught.value) == f"strategy.node: unknown {name!r}; {known}"


def test_what_is_not_allowed_is_not_imported(write_plugin: Callable[[str], str]) -> None:
    name = write_plugin("raise SystemExit")
    with pytest.raises(ConfigError, match=r"^strategy.queue: module '.*' may not be imported; allow it with plugins"):
        queue_strategy(settings("queue", name, "another"))
    assert name not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothing_of_this_name",
            "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        ("def", "cannot be imported: SyntaxError: invalid syntax (mine.py, line 1)"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo')", "cannot be imported: ValueError: one two"),
        ("raise SystemExit('no')", "cannot be imported: SystemExit: no"),
        ("", "must hold exactly one subclass of QueueStrategy, found none"),
        ("from scatterzmq.core.strategy import *", "must hold exactly one subclass of QueueStrategy, found none"),
        (QUEUE + "\n    class Two(Late): pass\n", "must hold exactly one subclass of QueueStrategy, found Late, Two"),
        (NODE, "must hold exactly one subclass of QueueStrategy, found none"),
    ],
)
def test_what_a_module_does_wrong_is_said_in_one_line(
    write_plugin: Callable[[str], str], text: str, message: str
) -> None:
    name = write_plugin(text)
    with pytest.raises(ConfigError) as caught:
        queue_strategy(settings("queue", name, PLUGINS))
    assert str(caught.value) == f"strategy.queue: module {name!r} {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (QUEUE.replace("def priority", "def rank"), "TypeError: Can't instantiate abstract class Late"),
        (QUEUE + "\n        def __init__(self):\n            raise OSError('no')\n", "OSError: no"),
    ],
)
def test_a_class_that_cannot_be_made(write_plugin: Callable[[str], str], text: str, message: str) -> None:
    name = write_plugin(text)
    with pytest.raises(ConfigError) as caught:
        queue_strategy(settings("queue", name, PLUGINS))
    assert str(caught.value).startswith(f"strategy.queue: Late of module {name!r} cannot be made: {message}")


def test_an_interrupt_is_nobodys_mistake(write_plugin: Callable[[str], str]) -> None:
    name = write_plugin("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        queue_strategy(settings("queue", name, PLUGINS))
