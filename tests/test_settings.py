"""Settings: what is given is checked, and whatever is wrong is one line with source, key, expected and got."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from scatterzmq.errors import ConfigError
from scatterzmq.settings import SECONDS_MAX, Settings, checked, size_of

INF = float("inf")
UNKNOWN = "f.toml: unknown key"
IN_CACHE = "bytes, enabled, use_defer"
EXPECTED_SIZE = "expected a number of bytes, or a text such as '512MiB'"


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
    checked_count = 0
    for section in fields(Settings):
        for entry in fields(getattr(Settings(), section.name)):
            value = entry.metadata.get(bound)
            if value is not None:
                found = checked({section.name: {entry.name: value}}, str)
                assert found[section.name][entry.name] == value
                checked_count += 1
    assert checked_count > 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "f.toml: expected a section of settings, got None"),
        ({"store": 1}, "f.toml: store: expected a section of settings, got 1"),
        ({"store": [("bytes", 1)]}, "f.toml: store: expected a section of settings, got [('bytes', 1)]"),
        (
            {"stores": {}},
            (
                "f.toml: unknown key stores; did you mean store? known here are blobs, cache, cluster, events, "
                "executor, health, journal, network, plugins, store, strategy, tasks, timing"
            ),
        ),
        ({"cache": {"size": 1}}, f"{UNKNOWN} cache.size; known here are {IN_CACHE}"),
        ({"cache": {1: 1}}, f"{UNKNOWN} cache.1; known here are {IN_CACHE}"),
        (
            {"cache": {"use_defers": 1}},
            f"{UNKNOWN} cache.use_defers; did you mean use_defer? known here are {IN_CACHE}",
        ),
        ({"tasks": {"window": "1"}}, "f.toml: tasks.window: expected a whole number, got '1'"),
        ({"tasks": {"window": 1.0}}, "f.toml: tasks.window: expected a whole number, got 1.0"),
        ({"tasks": {"window": True}}, "f.toml: tasks.window: expected a whole number, got True"),
        ({"tasks": {"window": None}}, "f.toml: tasks.window: expected a whole number, got None"),
        ({"store": {"bytes": "4G"}}, f"f.toml: store.bytes: {EXPECTED_SIZE}, got '4G'"),
        ({"store": {"bytes": "much"}}, f"f.toml: store.bytes: {EXPECTED_SIZE}, got 'much'"),
        ({"store": {"bytes": 1.0}}, f"f.toml: store.bytes: {EXPECTED_SIZE}, got 1.0"),
        ({"network": {"outbox_bytes": "1B"}}, "f.toml: network.outbox_bytes: expected at least 1048576, got 1"),
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


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("512MiB", 512 << 20),
        (" 512 mib ", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("0.001 kB", 1),
        ("16KiB", 1 << 14),
        ("2TB", 2 * 10**12),
        ("1TiB", 1 << 40),
        ("3MB", 3_000_000),
        ("100gb", 10**11),
    ],
)
def test_sizes_may_have_units(text: str, size: int) -> None:
    assert size_of(text) == size
    assert Settings.of({"store": {"record_bytes": text}}).store.record_bytes == size


@pytest.mark.parametrize(
    "text", ["", "B", "4G", "4Gi", "-1", "1e3", "1.MiB", ".5MiB", "1 2", "1PiB", "1iB", "1KiB\n1", "9" * 19]
)
def test_what_is_no_size_stays_a_text(text: str) -> None:
    assert size_of(text) == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"timing": {"dead_s": 2}},
            (
                "f.toml: timing.suspect_s: expected less than timing.dead_s (2.0), got 2.5: "
                "a silent peer is doubted before it is given up"
            ),
        ),
        (
            {"timing": {"pause_s": 2.5}},
            (
                "f.toml: timing.pause_s: expected less than timing.suspect_s (2.5), got 2.5: "
                "a short halt of one machine must not look like the end of another"
            ),
        ),
        (
            {"timing": {"heartbeat_s": 3, "pause_s": 1}},
            (
                "f.toml: timing.heartbeat_s: expected less than timing.suspect_s (2.5), got 3.0: "
                "a peer that is well must not look silent"
            ),
        ),
        (
            {"timing": {"copy_s": 6}},
            (
                "f.toml: timing.copy_s: expected less than timing.dead_s (5.0), got 6.0: "
                "one dead peer must not stop the acceptance of tasks"
            ),
        ),
        (
            {"cluster": {"min_replicas": 3}},
            "f.toml: cluster.min_replicas: expected at most cluster.replicas (2), got 3",
        ),
        (
            {"network": {"partial_bytes": "200MiB"}},
            (
                "f.toml: network.partial_bytes: expected at least network.message_bytes (268435456), got 209715200: "
                "one message has to find room"
            ),
        ),
        (
            {"network": {"port_range": "8000-7000"}},
            "f.toml: network.port_range: expected 'low-high' within 1-65535, got '8000-7000'",
        ),
        (
            {"network": {"port_range": "0-7000"}},
            "f.toml: network.port_range: expected 'low-high' within 1-65535, got '0-7000'",
        ),
        (
            {"network": {"port_range": "7000"}},
            "f.toml: network.port_range: expected 'low-high' within 1-65535, got '7000'",
        ),
        (
            {"health": {"port": 7411}},
            "f.toml: health.port: expected another port than network.port, got 7411 for both",
        ),
        (
            {"network": {"bind": "0.0.0.0"}},
            (
                "f.toml: network.bind: '0.0.0.0' is open to everybody who can reach it, and nothing is encrypted; "
                "set network.insecure_lan if that is meant"
            ),
        ),
        (
            {"health": {"bind": "somewhere"}},
            (
                "f.toml: health.bind: 'somewhere' is open to everybody who can reach it, and nothing is encrypted; "
                "set network.insecure_lan if that is meant"
            ),
        ),
    ],
)
def test_what_does_not_fit_the_rest_is_said_in_one_line(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.of(given, "f.toml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "given",
    [
        {"timing": {"heartbeat_s": 0.05, "pause_s": 0.1, "copy_s": 0.15, "suspect_s": 0.15, "dead_s": 0.2}},
        {"cluster": {"replicas": 1}},
        {"network": {"port": 0, "port_range": "7500-7500"}},
        {"network": {"bind": "0.0.0.0", "insecure_lan": True}, "health": {"bind": "::", "port": 7412}},
        {"network": {"bind": "::1"}, "health": {"bind": "localhost"}},
        {"network": {"bind": "[::1]"}, "health": {"bind": "127.1.2.3"}},
    ],
)
def test_what_fits_is_taken(given: Mapping[str, Any]) -> None:
    settings = Settings.of(given)
    for section, values in given.items():
        for key, value in values.items():
            assert getattr(getattr(settings, section), key) == value


def test_an_empty_text_is_none_where_that_is_allowed() -> None:
    """As TOML has it, which knows no null."""
    assert Settings.of({"blobs": {"dir": ""}}).blobs.dir is None
    assert Settings.of({"network": {"advertise": ""}}).network.advertise == ""


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
