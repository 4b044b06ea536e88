"""Settings: what is given is checked, and whatever is wrong is one line with source, key, expected and got."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.settings import SECONDS_MAX, Settings

INF = float("inf")


def test_without_anything_everything_has_its_default() -> None:
    assert Settings.of({}) == Settings()
    assert Settings.of({section.name: {} for section in fields(Settings)}) == Settings()


def test_what_is_given_is_taken_and_the_rest_stays() -> None:
    settings = Settings.of({"store": {"bytes": 10, "mode": "both"}, "tasks": {"max_retries": 0}})
    assert (settings.store.bytes, settings.store.mode, settings.tasks.max_retries) == (10, "both", 0)
    assert settings.store.record_bytes == Settings().store.record_bytes


def test_numbers_and_lists_come_in_the_type_they_are_meant_to_be() -> None:
    """As JSON and TOML have them: 10 for 10.0, and lists."""
    settings = Settings.of({"store": {"ttl_s": 10}, "plugins": {"allow": ["one", "two"]}, "blobs": {"dir": None}})
    assert type(settings.store.ttl_s) is float
    assert settings.plugins.allow == ("one", "two")
    assert settings.blobs.dir is None
    assert Settings.of({"blobs": {"dir": "there"}}).blobs.dir == "there"


@pytest.mark.parametrize("bound", ["low", "high"])
def test_bounds_are_part_of_what_is_allowed(bound: str) -> None:
    checked = 0
    for section in fields(Settings):
        for entry in fields(getattr(Settings(), section.name)):
            value = entry.metadata.get(bound)
            if value is not None:
                assert (
                    getattr(getattr(Settings.of({section.name: {entry.name: value}}), section.name), entry.name)
                    == value
                )
                checked += 1
    assert checked > 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "f.toml: expected a section of settings, got None"),
        ({"store": 1}, "f.toml: store: expected a section of settings, got 1"),
        ({"store": [("bytes", 1)]}, "f.toml: store: expected a section of settings, got [('bytes', 1)]"),
        (
            {"stores": {}},
            (
                "f.toml: unknown key stores; known here are "
                "blobs, cache, cluster, executor, journal, plugins, store, strategy, tasks, timing"
            ),
        ),
        ({"cache": {"size": 1}}, "f.toml: unknown key cache.size; known here are bytes, enabled, use_defer"),
        ({"cache": {1: 1}}, "f.toml: unknown key cache.1; known here are bytes, enabled, use_defer"),
        ({"store": {"bytes": "1"}}, "f.toml: store.bytes: expected a whole number, got '1'"),
        ({"store": {"bytes": 1.0}}, "f.toml: store.bytes: expected a whole number, got 1.0"),
        ({"store": {"bytes": True}}, "f.toml: store.bytes: expected a whole number, got True"),
        ({"store": {"bytes": None}}, "f.toml: store.bytes: expected a whole number, got None"),
        ({"store": {"bytes": -1}}, "f.toml: store.bytes: expected at least 0, got -1"),
        ({"store": {"ttl_s": "long"}}, "f.toml: store.ttl_s: expected a number, got 'long'"),
        ({"store": {"ttl_s": False}}, "f.toml: store.ttl_s: expected a number, got False"),
        ({"store": {"ttl_s": 0}}, "f.toml: store.ttl_s: expected at least 0.001, got 0"),
        ({"store": {"ttl_s": float("nan")}}, "f.toml: store.ttl_s: expected at least 0.001, got nan"),
        ({"store": {"ttl_s": INF}}, f"f.toml: store.ttl_s: expected at most {SECONDS_MAX}, got inf"),
        ({"store": {"mode": "large"}}, "f.toml: store.mode: expected one of size, time, both, got 'large'"),
        ({"store": {"mode": 3}}, "f.toml: store.mode: expected a text, got 3"),
        ({"executor": {"count": 1025}}, "f.toml: executor.count: expected at most 1024, got 1025"),
        ({"cache": {"enabled": 1}}, "f.toml: cache.enabled: expected true or false, got 1"),
        ({"blobs": {"dir": 7}}, "f.toml: blobs.dir: expected a text or nothing, got 7"),
        ({"plugins": {"allow": "mine"}}, "f.toml: plugins.allow: expected a list of texts, got 'mine'"),
        ({"plugins": {"allow": ["mine", 1]}}, "f.toml: plugins.allow: expected a list of texts, got ['mine', 1]"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.of(given, "f.toml")
    assert str(caught.value) == message


def test_a_number_of_any_size_is_only_a_wrong_number() -> None:
    with pytest.raises(ConfigError, match=r"^settings: tasks.result_ttl_s: expected at most 1000000000.0, got 1000"):
        Settings.of({"tasks": {"result_ttl_s": 10**400}})


def test_every_time_is_bounded() -> None:
    """Infinity is no number of milliseconds."""
    for section in fields(Settings):
        for entry in fields(getattr(Settings(), section.name)):
            if entry.name.endswith("_s"):
                with pytest.raises(ConfigError, match=f"{section.name}.{entry.name}: expected at most"):
                    Settings.of({section.name: {entry.name: INF}})


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().store.bytes = 1  # type: ignore[misc]
